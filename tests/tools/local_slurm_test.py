#!/usr/bin/env python3
"""tools/local_slurm and the test of the job scripts on a host where slurmd does not start: they give its own reason, and skip."""
import os
import subprocess
import sys
import tempfile
import unittest
from pathlib import Path

REPOSITORY = Path(__file__).resolve().parents[2]
CANNOT_WORK_HERE = 77
REASON = "error: No filesystem mounted on /sys/fs/cgroup"
# slurmd says it on standard error or, as 22.05 does, in its log alone. Called as: slurmd -N NAME -f FOLDER/slurm.conf
SAID = f"echo '{REASON}' >&2; exit 1"
LOGGED = f"echo '[2026-01-01T00:00:00.000] {REASON}' >>\"${{4%/*}}/log/slurmd-$2\"; exit 1"


class SlurmdThatDoesNotStart(unittest.TestCase):
    def setUp(self):
        scratch = tempfile.TemporaryDirectory(prefix="revode-slurmd-")
        self.addCleanup(scratch.cleanup)
        self.folder = Path(scratch.name)
        self.programs = self.folder / "bin"
        self.programs.mkdir()
        for name in ["munged", "slurmctld", "sinfo"]:
            self.write_program(name, "exit 0")

    def write_program(self, name, text):
        (self.programs / name).write_text(f"#!/bin/sh\n{text}\n")
        (self.programs / name).chmod(0o755)

    def run_script(self, *command):
        environment = {**os.environ, "PATH": f"{self.programs}:{os.environ['PATH']}"}
        return subprocess.run([*map(str, command)], env=environment, capture_output=True, text=True, timeout=100)

    def start(self, folder):
        return self.run_script(REPOSITORY / "tools/local_slurm", "start", self.folder / folder, "--nodes", "1")

    def test_its_own_reason_is_given_wherever_it_left_that(self):
        for folder, slurmd in [("said", SAID), ("logged", LOGGED)]:
            self.write_program("slurmd", slurmd)
            started = self.start(folder)
            self.assertEqual(started.returncode, CANNOT_WORK_HERE, started.stderr)
            self.assertTrue(started.stderr.strip().endswith(f"failed: {REASON}"), started.stderr)

    def test_without_a_reason_its_status_is_given(self):
        self.write_program("slurmd", "exit 5")
        self.assertIn("failed: status 5", self.start("silent").stderr)

    def test_test_of_the_job_scripts_skips_aloud(self):
        self.write_program("slurmd", LOGGED)

        ended = self.run_script(sys.executable, REPOSITORY / "tests/tools/slurm_jobs_test.py", "revode")

        self.assertEqual(ended.returncode, CANNOT_WORK_HERE, ended.stdout + ended.stderr)
        self.assertIn("SKIPPED", ended.stdout)
        self.assertIn(REASON, ended.stdout)

    def test_what_fails_beside_slurmd_is_no_reason_to_skip(self):
        self.write_program("slurmctld", "echo no such key >&2; exit 1")
        self.write_program("slurmd", "exit 0")

        started = self.start("controller")

        self.assertEqual(started.returncode, 1)
        self.assertIn("no such key", started.stderr)


if __name__ == "__main__":
    unittest.main()
