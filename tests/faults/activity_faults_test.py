#!/usr/bin/env python3
"""A rank that dies, ends or throws at any point of a run brings the whole job down, with one message at most, and costs
nothing but the steps since the last checkpoint; one that is late at every point changes no bit. With REVODE_ALL_CASES in
the environment that is tried at four activities of each kind on each rank (ten minutes), and at each instruction of a step
(a minute); without at one activity of every third kind.

    activity_faults_test.py REVODE MPIEXEC NUMPROC_FLAG REVODE_WITH_FAULTS [unittest arguments]
"""
import collections
import os
import re
import subprocess
import sys
import unittest
from pathlib import Path

sys.dont_write_bytecode = True
sys.path.insert(0, str(Path(__file__).resolve().parents[1] / "commands"))
import program  # noqa: E402

RANKS = 3
STEPS = 6
RUN = ["train", *program.SMALL, "--micro-batches", "2", "--steps", str(STEPS), "--epochs", "2", "--checkpoint-every", "2",
       "--keep-checkpoints", "0", "--progress", "off", "--output", "run"]
KINDS = ("kill", "throw", "exit")
# A job that is still there after that hangs. Far more than the second that it takes.
LIMIT_SECONDS = 60
FAULTY = ""
ALL_CASES = "REVODE_ALL_CASES" in os.environ
# Of each kind on each rank, spread over the run.
CASES_OF_KIND = 4


class ActivityFaults(program.ProgramTest):
    def faulty(self, variables, ranks=RANKS):
        """The finished job of the program with faults."""
        command = [*program.LAUNCHER, str(ranks), FAULTY, *program.last_of_each(RUN)]
        return subprocess.run(command, cwd=self.folder, capture_output=True, text=True, timeout=LIMIT_SECONDS,
                              env={**os.environ, **variables})

    def undisturbed(self):
        """Bytes of the last checkpoint of a run on one rank."""
        self.run_program(*RUN, "--output", "undisturbed")
        return (self.folder / "undisturbed/checkpoint-6.h5").read_bytes()

    def activities(self):
        """For each rank its activities in words, in order."""
        done = self.faulty({"REVODE_ACTIVITIES": str(self.folder / "activities")})
        self.assertEqual(done.returncode, 0, done.stderr)
        self.clear()
        return [(self.folder / f"activities.{rank}").read_text().splitlines() for rank in range(RANKS)]

    def clear(self):
        subprocess.run(["rm", "-rf", str(self.folder / "run")], check=True)

    def strikes(self, activities):
        """(rank, number, text) of the activities at which a rank is to fail: of every third text, numbers apart, one in the
        middle of the run, now of one rank, now of another."""
        activities = [[re.sub(r" \(.*", "", text) for text in of_rank] for of_rank in activities]
        found = []
        texts = sorted(set().union(*activities))
        for place, text in enumerate(texts if ALL_CASES else texts[::3]):
            having = [rank for rank in range(RANKS) if text in activities[rank]]
            for rank in having if ALL_CASES else [having[place % len(having)]]:
                numbers = [number for number, of_number in enumerate(activities[rank], 1) if of_number == text]
                cases = min(CASES_OF_KIND, len(numbers)) if ALL_CASES else 1
                found += [(rank, numbers[(2 * case + 1) * len(numbers) // (2 * cases)], text) for case in range(cases)]
        return found

    def strike(self, rank, kind, at, expected):
        """What came of a rank that fails there: in words."""
        self.clear()
        done = self.faulty({"REVODE_FAULT": f"{rank} {kind} {at}"})
        # How often a rank waits differs: one near the end may not come up.
        struck = "a fault strikes" in done.stderr
        self.assertEqual(done.returncode != 0, struck, done.stderr)
        errors = [line for line in done.stderr.splitlines() if "revode: error:" in line]
        self.assertLessEqual(len(errors), 1, done.stderr)
        if kind == "throw" and struck:
            self.assertEqual(len(errors), 1, done.stderr)
            self.assertIn("a fault was planted here", errors[0])
        if not struck:
            self.assertEqual((self.folder / "run/checkpoint-6.h5").read_bytes(), expected)
            return "not reached"
        saved = max(self.checkpoints("run"), default=0) if (self.folder / "run").is_dir() else 0
        again = self.run_program(*RUN, "--resume", "auto")
        if saved:
            self.assertIn(f"checkpoint-{saved}.h5 at step {saved}", again.stdout)
        self.assertEqual((self.folder / "run/checkpoint-6.h5").read_bytes(), expected)
        when = "after a save" if saved else "before the first save"
        return f"{kind} {when}: ended at once, resumed to the same bytes"

    def print_counts(self, outcomes):
        for outcome, count in sorted(outcomes.items()):
            print(f"{count:4} {outcome}", file=sys.stderr)

    def test_a_rank_that_fails(self):
        expected = self.undisturbed()
        outcomes = collections.Counter()
        for place, (rank, number, text) in enumerate(self.strikes(self.activities())):
            kind = KINDS[place % len(KINDS)]
            with self.subTest(rank=rank, number=number, at=text, kind=kind):
                outcomes[self.strike(rank, kind, number, expected)] += 1
        self.print_counts(outcomes)

    @unittest.skipUnless(ALL_CASES, "takes minutes")
    def test_a_rank_that_dies_at_any_instruction_of_a_step(self):
        expected = self.undisturbed()
        outcomes = collections.Counter()
        for rank, activities in enumerate(self.activities()):
            for instruction, number in sorted(collections.Counter(activities).items()):
                # Evaluations have micro-batches of their own, which come up less often.
                if "micro-batch" not in instruction or number < STEPS:
                    continue
                with self.subTest(rank=rank, at=instruction):
                    outcome = self.strike(rank, "kill", f"{number * 2 // 3} {instruction}", expected)
                    # How often a rank waits differs from run to run; what it does besides does not.
                    if not instruction.startswith("waits"):
                        self.assertNotEqual(outcome, "not reached")
                    outcomes[outcome] += 1
        self.print_counts(outcomes)

    def test_a_rank_that_is_late(self):
        expected = self.undisturbed()
        for rank in range(RANKS):
            done = self.faulty({"REVODE_FAULT": f"{rank} wait 1500"})
            self.assertEqual(done.returncode, 0, done.stderr)
            self.assertEqual((self.folder / "run/checkpoint-6.h5").read_bytes(), expected)
            self.clear()


if __name__ == "__main__":
    FAULTY = os.path.abspath(sys.argv.pop(4))
    program.main()
