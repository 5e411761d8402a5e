#!/usr/bin/env python3
"""tools/soak.py REVODE: a run that is struck a few times ends like one that is not, and programs with a fault are found out."""
import json
import os
import signal
import subprocess
import sys
import tempfile
import time
import unittest
from pathlib import Path

REPOSITORY = Path(__file__).resolve().parents[2]
SOAK = REPOSITORY / "tools" / "soak.py"
REVODE = os.path.abspath(sys.argv.pop(1))
sys.dont_write_bytecode = True
sys.path.insert(0, str(SOAK.parent))
from soak_plan import KILLS, KINDS, grids, plan_of  # noqa: E402

# A plan of six with each kind and each moment.
SEED_OF_ALL, SHARE = 133, 0.12
# One kill -9 after the third checkpoint.
ONE_KILL = ["--kills", 1, "--max-ranks", 1, "--seed", 56, "--share-in-saves", 0]
# Before revode goes on with a run, rank 0 of the wrapper does this to its folder; NEWEST is its newest checkpoint.
WRAPPER = """#!/bin/sh
case "$*" in *"--resume auto"*)
  NEWEST=$(ls -t run/checkpoint-*.h5 2>/dev/null | head -n 1)
  if [ "${{OMPI_COMM_WORLD_RANK:-0}}" = 0 ] && [ -n "$NEWEST" ]; then
    {fault}
  fi
esac
exec {revode} "$@"
"""


def processes_in(folder):
    """Numbers of the processes whose working folder is below that one."""
    found = []
    for name in filter(str.isdigit, os.listdir("/proc")):
        try:
            if os.readlink(f"/proc/{name}/cwd").startswith(f"{folder}/"):
                found.append(int(name))
        except OSError:
            pass
    return found


class Plan(unittest.TestCase):
    def test_same_seed_gives_the_same_plan(self):
        self.assertEqual(plan_of(3, 40, 4, 0.2), plan_of(3, 40, 4, 0.2))
        self.assertNotEqual(plan_of(3, 40, 4, 0.2), plan_of(4, 40, 4, 0.2))

    def test_plan_has_all_kinds_all_grids_and_more_saves_than_asked_for(self):
        plan = plan_of(1, 300, 4, 0.2)

        self.assertEqual({strike.kind for strike in plan}, set(KINDS))
        self.assertEqual({strike.grid for strike in plan}, set(grids(4)))
        self.assertEqual(grids(4), [(1, 1), (1, 2), (1, 3), (1, 4), (2, 1), (2, 2), (3, 1), (4, 1)])
        self.assertGreater(sum(strike.moment == "saving" for strike in plan), 60)

    def test_plans_of_these_tests_have_what_they_are_chosen_for(self):
        plan, (one,) = plan_of(SEED_OF_ALL, 6, 2, SHARE), plan_of(56, 1, 1, 0)

        self.assertEqual({strike.kind for strike in plan}, set(KINDS))
        self.assertEqual({strike.moment for strike in plan}, {"starting", "preparing", "running", "saving"})
        self.assertEqual((one.kind, one.moment, one.saves_before), ("kill-all", "running", 3))

    def test_signals_come_to_ranks_that_listen(self):
        for strike in plan_of(1, 300, 4, 0.2):
            if strike.kind not in KILLS:
                self.assertIn(strike.moment, ("running", "saving"))


class Soak(unittest.TestCase):
    def setUp(self):
        scratch = tempfile.TemporaryDirectory(prefix="revode-soak-test-")
        self.addCleanup(scratch.cleanup)
        self.folder = Path(scratch.name)

    def soak(self, *arguments, revode=REVODE, status=0):
        """What it printed, and its result."""
        done = subprocess.run([sys.executable, SOAK, "--revode", revode, "--output", self.folder / "work", "--json",
                               self.folder / "result.json", *map(str, arguments)], capture_output=True, text=True,
                              timeout=250)
        self.assertEqual(done.returncode, status, done.stdout + done.stderr)
        self.assertEqual(done.stderr, "")
        return done.stdout, json.loads((self.folder / "result.json").read_text())

    def wrapper(self, fault):
        file = self.folder / "revode-with-a-fault"
        file.write_text(WRAPPER.format(fault=fault, revode=REVODE))
        file.chmod(0o755)
        return file

    def expect_found_out(self, fault, kind, words, *arguments):
        text, result = self.soak(*ONE_KILL, "--steps", 40, *arguments, revode=self.wrapper(fault), status=1)

        self.assertIn(words, text)
        self.assertTrue(all(sentence.startswith(kind + ":") for sentence in result["wrong"]), result["wrong"])
        self.assertIn("result: failed", text)
        self.assertFalse(result["passed"])

    def test_struck_runs_end_like_undisturbed_ones(self):
        text, result = self.soak("--kills", 6, "--max-ranks", 2, "--seed", SEED_OF_ALL, "--share-in-saves", SHARE,
                                 "--steps", 60)

        self.assertTrue(result["passed"])
        self.assertEqual(len(result["strikes"]), 6)
        self.assertEqual([strike["number"] for strike in result["strikes"]], list(range(6)))
        self.assertIn("kill -9 of one rank", text)
        self.assertIn("result: passed", text)
        self.assertEqual(list((self.folder / "work").iterdir()), [])

    def test_a_damaged_checkpoint_is_found_out(self):
        self.expect_found_out('printf x | dd of="$NEWEST" bs=1 seek=20000 conv=notrunc 2>/dev/null', "loss",
                              "although checkpoint-")

    def test_a_checkpoint_that_is_dropped_is_found_out(self):
        self.expect_found_out('rm "$NEWEST"', "loss", "although checkpoint-")

    def test_another_computation_is_found_out(self):
        self.expect_found_out('set -- "$@" --learning-rate 0.05', "difference", "is not that of the undisturbed run")

    def test_a_hang_is_found_out_and_ended(self):
        self.expect_found_out("exec sleep 1000", "hang", "nothing within 3.0 s", "--limit", "3")

    def test_interrupted_it_leaves_nothing_running(self):
        work = self.folder / "work"
        process = subprocess.Popen([sys.executable, SOAK, "--revode", REVODE, "--output", work, "--kills", "100"],
                                   stdout=subprocess.PIPE, text=True)
        self.addCleanup(process.stdout.close)
        self.addCleanup(process.kill)
        deadline = time.monotonic() + 60
        while not processes_in(work):
            self.assertLess(time.monotonic(), deadline)
            time.sleep(0.02)

        process.send_signal(signal.SIGINT)

        self.assertEqual(process.wait(60), 130)
        self.assertEqual(processes_in(work), [])
        self.assertIn("nothing is left running", process.stdout.read())

    def test_too_few_within_saves_are_said(self):
        text, result = self.soak(*ONE_KILL, "--steps", 40, "--least-in-saves", 2, status=1)

        self.assertIn("of 1 were within a save, --least-in-saves 2 asks for more", text)
        self.assertEqual(len(result["wrong"]), 1)

    def test_bad_usage_is_refused(self):
        for words, expected in ((["--kills", "0"], "--kills"), (["--revode", "absent"], "--revode absent")):
            done = subprocess.run([sys.executable, SOAK, *words], capture_output=True, text=True, timeout=60)
            self.assertEqual(done.returncode, 2)
            self.assertIn(expected, done.stderr)


if __name__ == "__main__":
    unittest.main()
