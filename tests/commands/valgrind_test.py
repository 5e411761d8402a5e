#!/usr/bin/env python3
"""memcheck of valgrind finds no wrong access and no lost memory in a run of two ranks that saves, evaluates and goes on
on four. Takes minutes: only with REVODE_ALL_CASES.

    valgrind_test.py REVODE MPIEXEC NUMPROC_FLAG VALGRIND OPTIONS-BY-COMMAS [unittest arguments]
"""
import os
import subprocess
import sys
import unittest

import program

VALGRIND = []
# Layers are not timed, which would take most of the time; what is slow is no hang.
RUN = [*program.NETWORK, "--threads", "1", "--image-size", "16", "--batch-size", "8", "--micro-batches", "4", "--train-fraction", "0.01",
       "--checkpoint-every", "1", "--log-every", "1", "--progress", "off", "--eval-every", "0", "--partition", "uniform",
       "--schedule", "1f1b", "--hang-timeout", "0", "--output", "run"]


class Memcheck(program.ProgramTest):
    def run_checked(self, ranks, *arguments):
        command = [*program.LAUNCHER, str(ranks), *VALGRIND, program.REVODE, *program.last_of_each(["train", *RUN, *arguments])]
        done = subprocess.run(command, cwd=self.folder, capture_output=True, text=True, timeout=1000)
        self.assertEqual(done.returncode, 0, f"{' '.join(map(str, command))}\n{done.stderr}")

    @unittest.skipUnless(os.environ.get("REVODE_ALL_CASES"), "takes minutes")
    def test_a_run_that_goes_on(self):
        self.run_checked(2, "--steps", "1")
        self.run_checked(4, "--steps", "2", "--resume", "auto", "--data-ranks", "2")
        self.assertEqual(self.checkpoints("run"), [1, 2])


if __name__ == "__main__":
    VALGRIND[:] = [sys.argv.pop(4), *sys.argv.pop(4).split(",")]
    program.main()
