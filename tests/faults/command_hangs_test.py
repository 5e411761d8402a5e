#!/usr/bin/env python3
"""A rank that stops answering ends a command that has no run, and the error names it. With REVODE_ALL_CASES in the
environment that is tried on each of them, without on two.

    command_hangs_test.py REVODE MPIEXEC NUMPROC_FLAG REVODE_WITH_FAULTS [unittest arguments]
"""
import os
import re
import subprocess
import sys
import time
import unittest
from pathlib import Path

sys.dont_write_bytecode = True
sys.path.insert(0, str(Path(__file__).resolve().parents[1] / "commands"))
import program  # noqa: E402

RANKS = 3
NETWORK = [*program.NETWORK, "--image-size", "16"]
COMMANDS = {
    "eval": ["--checkpoint", "model.h5", "--threads", "1"],
    "gradient": [*NETWORK, "--batch-size", "8"],
    "verify": [*NETWORK],
    "bench": [*NETWORK, "--batch-size", "8", "--steps", "3", "--partition", "measured"],
    "analyze": [*NETWORK],
}
DOING = {"eval": "evaluates", "gradient": "computes a gradient", "verify": "verifies", "bench": "measures",
         "analyze": "analyzes"}
FAULTY = ""
HANG_SECONDS = 3 * program.TIME_FACTOR
all_cases = unittest.skipUnless("REVODE_ALL_CASES" in os.environ, "one of several commands that are watched alike")


class CommandHangs(program.ProgramTest):
    def start(self, command, fault="", folder=None, temporary=None):
        """The finished job of the program with faults; ranks work in `folder` and have `temporary` for temporary files."""
        self.activities = self.folder / "activities"
        variables = {"REVODE_FAULT": fault, "REVODE_ACTIVITIES": self.activities, "TMPDIR": temporary or self.folder / "tmp"}
        (self.folder / "tmp").mkdir(exist_ok=True)
        words = [*program.LAUNCHER, str(RANKS), "--wdir", folder or self.folder, "env",
                 *[f"{name}={value}" for name, value in variables.items()], FAULTY, command,
                 *program.last_of_each([*COMMANDS[command], "--hang-timeout", str(HANG_SECONDS)])]
        return subprocess.run(words, cwd=self.folder, capture_output=True, text=True, timeout=program.TIMEOUT_SECONDS)

    def middle(self, command, rank=1):
        """The number of an activity in the middle of what the rank does in a job that nothing disturbs."""
        if command == "eval":
            self.run_program("train", *NETWORK, "--batch-size", "20", "--train-fraction", "0.01", "--steps", "0", "--output", "run")
            (self.folder / "run/checkpoint-0.h5").rename(self.folder / "model.h5")
        done = self.start(command)
        self.assertEqual(done.returncode, 0, done.stderr)
        self.assertEqual(list((self.folder / "tmp").iterdir()), [])
        lines = Path(f"{self.activities}.{rank}").read_text().splitlines()
        # Before that the ranks find out what they have in common, which no watch is for.
        first = lines.index(DOING[command])
        return first + (len(lines) - first) * 2 // 3

    def check(self, command):
        number = self.middle(command)
        begun = time.monotonic()
        done = self.start(command, f"1 stop {number}")
        self.assertIn("a fault strikes", done.stderr)
        self.assertEqual(done.returncode, 1, done.stderr)
        # The time-out, 6 s for reports and launcher, and a slow machine.
        self.assertLess(time.monotonic() - begun, 20 * HANG_SECONDS)
        line = self.only_error(done)
        self.assertIn("ranks 0 and 2 wait for rank 1 (process ", line)
        self.assertIn("no sign of life", line)
        file = re.search(r"--hang-timeout; (\S+/tmp/revode-hang-\w{8})/hang-<rank>.txt has more", line)
        self.assertTrue(file, line)
        for rank in (0, 2):
            report = Path(file[1], f"hang-{rank}.txt").read_text()
            self.assertRegex(report, r"waits for: (rank \d|all ranks)\n")
            self.assertIn(f"  {DOING[command]}\n", report)

    def test_eval(self):
        self.check("eval")

    @all_cases
    def test_gradient(self):
        self.check("gradient")

    @all_cases
    def test_verify(self):
        self.check("verify")

    def test_bench(self):
        self.check("bench")

    @all_cases
    def test_analyze(self):
        self.check("analyze")

    def test_where_there_is_no_folder_for_reports(self):
        """In /proc nobody can make a file."""
        number = self.middle("bench")
        done = self.start("bench", f"1 stop {number}", folder="/proc", temporary="/proc")
        self.assertEqual(done.returncode, 1, done.stderr)
        line = self.only_error(done)
        self.assertRegex(line, r"nothing has moved for \d+ s on rank 0 \(process \d+ on .*\), which waits .*\(for (rank \d|all ranks)\)")
        self.assertIn("there is no folder for reports that all ranks see", line)

    def test_reports_go_to_the_working_folder_where_there_is_no_other(self):
        number = self.middle("bench")
        done = self.start("bench", f"1 stop {number}", temporary="/proc")
        self.assertEqual(done.returncode, 1, done.stderr)
        self.assertIn(f"{self.folder.resolve()}/revode-hang-", self.only_error(done))


if __name__ == "__main__":
    FAULTY = os.path.abspath(sys.argv.pop(4))
    program.main()
