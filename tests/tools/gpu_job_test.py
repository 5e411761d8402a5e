#!/usr/bin/env python3
"""jobs/train-gpu.sbatch among stand-ins of SLURM: what starts its ranks, and with how many GPUs. Needs neither SLURM nor a
GPU; tests/tools/slurm_jobs_test.py has the life of a job, which is that of jobs/train.sbatch."""
import os
import subprocess
import tempfile
import unittest
from pathlib import Path

REPOSITORY = Path(__file__).resolve().parents[2]
TIMEOUT_SECONDS = 60

# Launchers note their words and whether they see the variable, and write the result as rank 0 would.
LAUNCHER = """\
echo "$(basename "$0") $*; GPUs a task: ${SLURM_GPUS_PER_TASK:-unset}" >>"$LOG"
while [ "$1" != --json ]; do shift; done
echo '{}' >"$2\""""
STAND_INS = {"srun": LAUNCHER, "mpirun": LAUNCHER, "scontrol": "echo node", "revode": "exit 0"}


class GpuJob(unittest.TestCase):
    def start(self, launcher, script="train-gpu.sbatch", **variables):
        """What the script said, and how it called the launcher."""
        with tempfile.TemporaryDirectory(prefix="revode-gpu-job-") as name:
            folder = Path(name)
            for program, text in STAND_INS.items():
                (folder / program).write_text(f"#!/bin/sh\n{text}\n")
                (folder / program).chmod(0o755)
            environment = {"PATH": f"{folder}:{os.environ['PATH']}", "REVODE": str(folder / "revode"),
                           "REVODE_HOME": str(REPOSITORY), "REVODE_LAUNCHER": launcher, "LOG": str(folder / "log"),
                           "SLURM_JOB_ID": "7", "SLURM_NTASKS": "4", "SLURM_JOB_NUM_NODES": "2", "SLURM_JOB_NODELIST": "n[0-1]",
                           "SLURM_CPUS_PER_TASK": "3", **variables}
            done = subprocess.run(["bash", REPOSITORY / "jobs" / script, "--output", "run"], cwd=folder, env=environment,
                                  stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True, timeout=TIMEOUT_SECONDS)
            self.assertEqual(done.returncode, 0, done.stdout)
            return done.stdout, (folder / "log").read_text()

    def test_srun_is_told_the_gpus_of_a_rank(self):
        said, call = self.start("srun", SLURM_GPUS_PER_TASK="1")

        self.assertRegex(call, r"^srun .*--ntasks=4 .*--cpus-per-task=3 --gpus-per-task=1 \S+/revode train --backend cuda ")
        self.assertIn("4 ranks of 3 CPUs and 1 GPU by srun", said)

    def test_mpirun_does_not_hand_the_gpus_of_one_rank_to_its_daemons(self):
        _, call = self.start("mpirun", SLURM_GPUS_PER_TASK="1")

        self.assertRegex(call, r"^mpirun -n 4 .*/revode train --backend cuda .*; GPUs a task: unset\n$")

    def test_without_gpus_a_rank_nothing_is_said_of_them(self):
        for launcher in ("srun", "mpirun"):
            for script in ("train.sbatch", "train-gpu.sbatch"):
                said, call = self.start(launcher, script)
                self.assertNotIn("--gpus-per-task", call)
                self.assertIn(f"4 ranks of 3 CPUs by {launcher}", said)

    def test_script_asks_for_a_gpu_a_rank_and_else_for_what_a_training_asks(self):
        def lines(name):
            text = (REPOSITORY / "jobs" / name).read_text()
            return {line.split("=")[0] for line in text.splitlines() if line.startswith("#SBATCH")}

        self.assertEqual(lines("train-gpu.sbatch") - lines("train.sbatch"), {"#SBATCH --gpus-per-task"})
        self.assertLessEqual(lines("train.sbatch"), lines("train-gpu.sbatch"))


if __name__ == "__main__":
    unittest.main()
