#!/usr/bin/env python3
"""A rank that stops answering ends the run, which names it; one that does so for a while does not."""
import os
import signal
import subprocess
import time

import program

# Steps of some 20 ms on three ranks of a shared machine.
RUN = [*program.NETWORK, "--batch-size", "20", "--train-fraction", "0.05", "--steps", "100000", "--epochs", "5000",
       "--log-every", "1", "--progress", "off", "--eval-every", "0", "--output", "run"]


class Hang(program.ProgramTest):
    def start(self, *arguments, ranks):
        with open(self.folder / "stdout", "w") as output, open(self.folder / "stderr", "w") as errors:
            job = subprocess.Popen(self.command(*RUN, *arguments, ranks=ranks), cwd=self.folder, stdout=output,
                                   stderr=errors)
        self.addCleanup(job.wait)
        self.addCleanup(job.kill)
        self.job = job
        self.wait_for_steps(3)
        processes = program.ranks_of(job.pid)
        self.assertEqual(sorted(processes), list(range(ranks)))
        for process in processes.values():
            self.addCleanup(self.let_go, process)
        return processes

    def let_go(self, process):
        if self.job.poll() is None:
            os.kill(process, signal.SIGCONT)

    def num_steps(self):
        metrics = self.folder / "run/metrics.jsonl"
        return metrics.read_text().count('"kind":"step"') if metrics.exists() else 0

    def wait_for_steps(self, more):
        enough = self.num_steps() + more
        deadline = time.monotonic() + program.TIMEOUT_SECONDS
        while self.num_steps() < enough:
            self.assertLess(time.monotonic(), deadline)
            self.assertIsNone(self.job.poll(), (self.folder / "stderr").read_text())
            time.sleep(0.01)

    def expect_named(self, stopped, others, status=1):
        """The job ends by itself; its one error names the rank that the others wait for, and these say why."""
        self.assertEqual(self.job.wait(program.TIMEOUT_SECONDS), status)
        text = (self.folder / "stderr").read_text()
        lines = [line for line in text.splitlines() if "revode: error:" in line]
        self.assertEqual(len(lines), 1, text)
        self.assertIn(f"wait for rank {stopped} (process ", lines[0])
        for rank in others:
            report = (self.folder / f"run/hang-{rank}.txt").read_text()
            self.assertRegex(report, rf"^rank {rank}, process \d+ on ")
            self.assertRegex(report, r"waits for: (rank \d|all ranks)\n")
            self.assertIn("  trains\n", report)
        return lines[0]

    def test_a_rank_in_the_middle_that_is_stopped(self):
        processes = self.start("--hang-timeout", str(3 * program.TIME_FACTOR), ranks=3)
        os.kill(processes[1], signal.SIGSTOP)
        begun = time.monotonic()
        line = self.expect_named(1, [0, 2])
        self.assertIn(f"process {processes[1]} on ", line)
        self.assertGreater(time.monotonic() - begun, 2)
        # The time-out, 6 s for reports and launcher, and a slow machine.
        self.assertLess(time.monotonic() - begun, 60 * program.TIME_FACTOR)
        self.check_resumes()

    def test_the_first_rank_that_is_stopped(self):
        processes = self.start("--hang-timeout", str(2 * program.TIME_FACTOR), "--data-ranks", "2", ranks=2)
        os.kill(processes[0], signal.SIGSTOP)
        self.assertEqual(self.job.wait(program.TIMEOUT_SECONDS), 1)
        self.assertIn("rank 1 waits for rank 0 (process ", (self.folder / "stderr").read_text())

    def check_resumes(self):
        steps = self.checkpoints("run")
        done = self.run_program(*RUN, "--steps", str(max(steps, default=0) + 1), "--resume", "auto")
        self.assertIn("at step" if steps else "training to step", done.stdout)

    def test_a_stop_shorter_than_the_timeout_and_one_of_the_whole_job(self):
        processes = self.start("--hang-timeout", str(4 * program.TIME_FACTOR), ranks=2)
        os.kill(processes[1], signal.SIGSTOP)
        time.sleep(2 * program.TIME_FACTOR)
        os.kill(processes[1], signal.SIGCONT)
        self.wait_for_steps(3)
        for process in processes.values():
            os.kill(process, signal.SIGSTOP)
        time.sleep(6 * program.TIME_FACTOR)
        for process in processes.values():
            os.kill(process, signal.SIGCONT)
        self.wait_for_steps(3)
        self.job.send_signal(signal.SIGUSR1)
        self.assertEqual(self.job.wait(program.TIMEOUT_SECONDS), 75)
        self.assertEqual(list((self.folder / "run").glob("hang-*")), [])

    def test_off_and_what_is_refused(self):
        self.expect_error(["--hang-timeout", "'-1'", "0: never"], *RUN, "--hang-timeout", "-1")
        self.run_program(*RUN, "--steps", "1", "--hang-timeout", "0")


if __name__ == "__main__":
    program.main()
