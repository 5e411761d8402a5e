#!/usr/bin/env python3
"""The scripts in jobs/ under a real SLURM of pretended nodes: interrupted runs go on by themselves, to the same bits.

    slurm_jobs_test.py REVODE [unittest arguments]        77: SLURM or munge is not installed, or SLURM can't run here
"""
import json
import os
import re
import signal
import subprocess
import sys
import tempfile
import time
import unittest
from pathlib import Path

REPOSITORY = Path(__file__).resolve().parents[2]
LOCAL_SLURM = REPOSITORY / "tools" / "local_slurm"
CANNOT_WORK_HERE = 77
# Far above what anything here takes, so that a loaded machine fails no test.
TIMEOUT_SECONDS = 200

# 20 steps an epoch; long enough for a signal to arrive in the middle. The learning rate is that of the sweep's last run.
NETWORK = ["--blocks", "2,1,1", "--widths", "6,10,16", "--batch-size", "20"]
LAST_STEP = 50
RUN = [*NETWORK, "--train-fraction", "0.05", "--steps", LAST_STEP, "--checkpoint-every", "10", "--log-every", "1"]
TWO_NODES = ["--nodes=2", "--ntasks=2", "--cpus-per-task=1"]
LAST_OF_SWEEP = "sweep/seed-1-rate-0.1"
ENDED = {"COMPLETED", "FAILED", "CANCELLED", "TIMEOUT", "NODE_FAIL"}

# Nodes of one host share its memory and its name, which Open MPI's shared-memory transport does not expect.
TRANSPORT = {"OMPI_MCA_btl": "self,tcp", "OMPI_MCA_btl_tcp_if_include": "lo", "OMPI_MCA_oob_tcp_if_include": "lo",
             "MPIRUN_OPTIONS": "--bind-to none"}

revode = ""


def processes_on(node, configuration):
    """Numbers of the ranks that run on a pretended node, and of the helper of SLURM's that started them."""
    found = set()
    for entry in Path("/proc").iterdir():
        if not entry.name.isdigit():
            continue
        try:
            variables = (entry / "environ").read_bytes().split(b"\0")
            if f"SLURMD_NODENAME={node}".encode() in variables and f"SLURM_CONF={configuration}".encode() in variables:
                parent = int((entry / "stat").read_text().rpartition(")")[2].split()[1])
                found |= {int(entry.name), parent}
        except OSError:
            continue
    return found - {1}


class Job:
    def __init__(self, number, environment):
        self.number, self.environment = number, environment

    def ask(self, *command):
        return subprocess.run(command, env=self.environment, check=True, capture_output=True, text=True,
                              timeout=TIMEOUT_SECONDS).stdout

    def fact(self, name):
        return re.search(rf"\b{name}=(\S+)", self.ask("scontrol", "show", "job", self.number)).group(1)

    def text(self):
        """Its log so far."""
        log = Path(self.fact("StdOut"))
        return log.read_text() if log.exists() else ""

    def wait_for(self, condition, final=True):
        """Returns once the condition holds; fails when time is up, and, unless not `final`, when the job ends before."""
        deadline = time.monotonic() + TIMEOUT_SECONDS
        while not condition():
            state = self.fact("JobState")
            if time.monotonic() > deadline or (final and state in ENDED and not condition()):
                raise AssertionError(f"job {self.number} is {state}; its log:\n{self.text()}")
            time.sleep(0.05)

    def end(self):
        """The final state, once the job has one."""
        self.wait_for(lambda: self.fact("JobState") in ENDED)
        return self.fact("JobState")

    def time_is_up(self):
        """What SLURM does ahead of the time limit, now."""
        self.ask("scancel", "--batch", "--signal=USR1", self.number)


class SlurmJobs(unittest.TestCase):
    @classmethod
    def setUpClass(cls):
        scratch = tempfile.TemporaryDirectory(prefix="revode-slurm-")
        cls.addClassCleanup(scratch.cleanup)
        cls.folder = Path(scratch.name)
        cls.slurm = cls.folder / "slurm"
        subprocess.run([LOCAL_SLURM, "start", cls.slurm], check=True, timeout=TIMEOUT_SECONDS)
        cls.addClassCleanup(subprocess.run, [LOCAL_SLURM, "stop", cls.slurm], check=True, timeout=TIMEOUT_SECONDS)
        cls.environment = {**os.environ, **TRANSPORT, "REVODE": revode, "REVODE_HOME": str(REPOSITORY),
                           "SLURM_CONF": str(cls.slurm / "slurm.conf")}
        # The yardstick: a run that nobody disturbs.
        job = cls.submit("train.sbatch", TWO_NODES, *RUN, "--output", "whole", RESULT="whole.json")
        if job.end() != "COMPLETED":
            raise AssertionError(job.text())
        cls.whole_log = job.text()
        # The interrupted ones: SLURM waits before it starts a job again, so other tests run meanwhile.
        # The lost node first, while no other job is on it.
        cls.lost = cls.lose_node()
        cls.of_launcher = {launcher: cls.interrupt_at_wall_clock(launcher) for launcher in ["srun", "mpirun"]}
        cls.sweep = cls.interrupt_sweep()
        cls.evaluation = cls.submit("evaluate.sbatch", TWO_NODES, "--checkpoint", "whole/latest.h5", "--json", "evaluation.json")
        cls.refused = cls.submit("train.sbatch", TWO_NODES, "--depth", "75")
        # An earlier result, where the job wants to write its own.
        (cls.folder / "kept.json").write_bytes((cls.folder / "whole.json").read_bytes())
        cls.failed = cls.submit("train.sbatch", TWO_NODES, "--dataset", "cifar10", "--data-dir", "nowhere", RESULT="kept.json")
        idle = cls.folder / "idle-revode"
        idle.write_text("#!/bin/sh\nexit 0\n")
        idle.chmod(0o755)
        cls.idle = cls.submit("train.sbatch", TWO_NODES, REVODE=str(idle), RESULT="kept.json")

    @classmethod
    def submit(cls, script, options, *arguments, **variables):
        command = ["sbatch", "--parsable", *options, REPOSITORY / "jobs" / script, *arguments]
        done = subprocess.run([*map(str, command)], cwd=cls.folder, env={**cls.environment, **variables},
                              capture_output=True, text=True, timeout=TIMEOUT_SECONDS)
        if done.returncode != 0:
            raise AssertionError(done.stderr)
        return Job(done.stdout.strip(), cls.environment)

    @classmethod
    def interrupt_at_wall_clock(cls, launcher):
        job = cls.submit("train.sbatch", TWO_NODES, *RUN, "--output", launcher, REVODE_LAUNCHER=launcher)
        job.wait_for(lambda: cls.steps(launcher) >= 3)
        job.time_is_up()
        return job

    @classmethod
    def lose_node(cls):
        """A node falls silent, as one does that has lost its power: no farewell to SLURM or to the other rank."""
        job = cls.submit("train.sbatch", ["--nodelist=n0,n3", *TWO_NODES], *RUN, "--output", "lost")
        job.wait_for(lambda: cls.steps("lost") >= 25)
        node = processes_on("n3", cls.environment["SLURM_CONF"])
        if not node:
            raise AssertionError("found no rank on n3")
        node.add(int((cls.slurm / "pid/slurmd-n3").read_text()))
        for pid in node:
            os.kill(pid, signal.SIGSTOP)
        job.ask("scontrol", "update", "nodename=n3", "state=down", "reason=test")
        for pid in node:
            os.kill(pid, signal.SIGKILL)
        job.wait_for(lambda: job.fact("Restarts") == "1")
        job.ask("scontrol", "update", f"jobid={job.number}", "ReqNodeList=")
        return job

    @classmethod
    def interrupt_sweep(cls):
        """Its last element is the yardstick's run; SLURM gives that the number of the whole array."""
        job = cls.submit("sweep.sbatch", ["--array=0-3", "--ntasks=1", "--cpus-per-task=1"], *RUN,
                         SEEDS="2 1", RATES="0.05 0.1", SWEEP="sweep")
        elements = [Job(f"{job.number}_{k}", cls.environment) for k in range(4)]
        elements[3].wait_for(lambda: cls.steps(LAST_OF_SWEEP) >= 3)
        elements[3].time_is_up()
        return elements

    @classmethod
    def steps(cls, run):
        """Number of steps on record."""
        file = cls.folder / run / "metrics.jsonl"
        return file.read_text().count('"kind":"step"') if file.exists() else 0

    def expect_same_as_whole(self, run):
        self.assertEqual((self.folder / run / "latest.h5").read_bytes(), (self.folder / "whole/latest.h5").read_bytes(),
                         f"{run}/latest.h5 differs from that of the undisturbed run")

    def expect_resumed_in_the_middle(self, log):
        step = int(re.search(r"going on from \S+ at step (\d+)", log).group(1))
        self.assertTrue(0 < step < LAST_STEP, f"resumed at step {step}")

    def expect_lines(self, log, *lines):
        """In this order."""
        place = 0
        for line in lines:
            self.assertIn(line, log[place:], log)
            place = log.index(line, place)

    def check_wall_clock(self, launcher):
        job = self.of_launcher[launcher]

        self.assertEqual((job.end(), job.fact("Restarts")), ("COMPLETED", "1"), job.text())
        self.expect_lines(job.text(), "restart 0, 2 ranks of 1 CPUs by " + launcher, "SIGUSR1: the time is nearly up",
                          "stopped by a signal", "status 75: to be continued by restart 1", "restart 1, 2 ranks",
                          "going on from", "job: done")
        self.expect_resumed_in_the_middle(job.text())
        self.expect_same_as_whole(launcher)

    def test_log_begins_with_nodes_revision_and_configuration(self):
        self.expect_lines(self.whole_log, "job: nodes n0 n1", ", revision ", "blocks = 2,1,1", "threads = 1",
                          "resume = auto", f"training to step {LAST_STEP}", "job: done")

    def test_wall_clock_under_srun_saves_requeues_and_resumes_to_the_same_bits(self):
        self.check_wall_clock("srun")

    def test_wall_clock_under_mpirun_saves_requeues_and_resumes_to_the_same_bits(self):
        self.check_wall_clock("mpirun")

    def test_run_whose_node_is_lost_goes_on_elsewhere_to_the_same_bits(self):
        job = self.lost

        self.assertEqual((job.end(), job.fact("Restarts")), ("COMPLETED", "1"), job.text())
        self.assertNotIn("n3", job.fact("NodeList"))
        self.assertNotIn("stopped by a signal", job.text())
        self.expect_lines(job.text(), "job: nodes n0 n3", "DUE TO NODE FAILURE", "restart 1", "going on from", "job: done")
        self.expect_resumed_in_the_middle(job.text())
        self.expect_same_as_whole("lost")

    def test_requeue_limit_ends_the_run_and_submitting_again_goes_on(self):
        job = self.submit("train.sbatch", TWO_NODES, *RUN, "--output", "limited", MAX_REQUEUES="0")
        job.wait_for(lambda: self.steps("limited") >= 3)
        job.time_is_up()
        self.assertEqual((job.end(), job.fact("ExitCode"), job.fact("Restarts")), ("FAILED", "75:0", "0"))
        self.assertIn("not done after 0 restarts (MAX_REQUEUES=0)", job.text())

        again = self.submit("train.sbatch", ["--ntasks=1", "--cpus-per-task=2"], *RUN, "--output", "limited")

        self.assertEqual(again.end(), "COMPLETED", again.text())
        self.expect_resumed_in_the_middle(again.text())
        self.expect_same_as_whole("limited")

    def test_failed_and_cancelled_runs_are_not_started_again(self):
        for job, words in [(self.refused, "these options were refused"), (self.failed, "status 2: not requeued")]:
            self.assertEqual((job.end(), job.fact("ExitCode"), job.fact("Restarts")), ("FAILED", "2:0", "0"), job.text())
            self.assertIn("revode: error:", job.text())
            self.assertIn(words, job.text())

        cancelled = self.submit("train.sbatch", TWO_NODES, *RUN, "--output", "cancelled")
        cancelled.wait_for(lambda: self.steps("cancelled") >= 3)
        cancelled.ask("scancel", cancelled.number)
        cancelled.wait_for(lambda: "not requeued" in cancelled.text(), final=False)
        self.assertEqual((cancelled.end(), cancelled.fact("Restarts")), ("CANCELLED", "0"))
        self.expect_lines(cancelled.text(), "SIGTERM: SLURM ends the job", "not requeued")

    def test_earlier_result_stays_and_is_not_taken_for_the_job_s_own(self):
        self.assertEqual((self.idle.end(), self.idle.fact("ExitCode")), ("FAILED", "1:0"), self.idle.text())
        self.assertIn("no rank wrote kept.json", self.idle.text())
        self.failed.end()
        self.assertEqual((self.folder / "kept.json").read_bytes(), (self.folder / "whole.json").read_bytes())

    def test_evaluation_of_the_last_checkpoint_is_that_of_the_run(self):
        self.assertEqual(self.evaluation.end(), "COMPLETED", self.evaluation.text())
        evaluation, run = [json.loads((self.folder / name).read_text()) for name in ["evaluation.json", "whole.json"]]
        for key in ["loss", "accuracy", "samples"]:
            self.assertEqual(evaluation[key], run[key], key)

    def test_sweep_trains_each_pair_and_an_interrupted_element_goes_on_alone(self):
        for element, restarts in zip(self.sweep, "0001"):
            self.assertEqual((element.end(), element.fact("Restarts")), ("COMPLETED", restarts), element.text())

        self.expect_same_as_whole(LAST_OF_SWEEP)
        results = {path.stem: json.loads(path.read_text())["loss"] for path in self.folder.glob("sweep/*.json")}
        # Beside the runs' folders, in which revode keeps to its own files.
        self.assertEqual(set(results), {f"seed-{seed}-rate-{rate}" for seed in (1, 2) for rate in ("0.05", "0.1")})
        self.assertEqual(list(self.folder.glob("sweep/*/*.json")), [])
        self.assertEqual(len(set(results.values())), 4, results)

    def test_scaling_study_times_each_number_of_ranks(self):
        job = self.submit("scaling.sbatch", ["--exclusive", *TWO_NODES], *NETWORK, "--steps", "2", STUDY="scaling")

        self.assertEqual((job.end(), job.fact("OverSubscribe")), ("COMPLETED", "NO"), job.text())
        for ranks in (1, 2):
            result = json.loads((self.folder / f"scaling/ranks-{ranks}.json").read_text())
            self.assertEqual(len(result["peak_memory_bytes"]), ranks)
            self.assertRegex(job.text(), rf"(?m)^ +{ranks} +{1000 * result['step_seconds']:.1f} ")
        self.assertRegex(job.text(), r"(?m)^ +1 .* 1\.00 +100\.0%$")


def main():
    global revode
    if len(sys.argv) < 2:
        sys.exit(f"usage: {sys.argv[0]} REVODE [unittest arguments]")
    revode = os.path.abspath(sys.argv[1])
    with tempfile.TemporaryDirectory(prefix="revode-slurm-") as folder:
        started = subprocess.run([LOCAL_SLURM, "start", f"{folder}/probe", "--nodes", "1"], capture_output=True, text=True)
        if started.returncode == 0:
            subprocess.run([LOCAL_SLURM, "stop", f"{folder}/probe"], check=True)
    if started.returncode == CANNOT_WORK_HERE:
        print(f"SKIPPED: {started.stderr.strip()}")
        sys.exit(CANNOT_WORK_HERE)
    if started.returncode != 0:
        sys.exit(f"no private SLURM: {started.stderr.strip()}")
    unittest.main(argv=[sys.argv[0], *sys.argv[2:]])


if __name__ == "__main__":
    main()
