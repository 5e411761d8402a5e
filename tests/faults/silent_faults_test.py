#!/usr/bin/env python3
"""A bit that flips in memory where a run has something to hold it against is found and named. What can be computed again is,
and the run ends with the bytes of one that nobody disturbed; weights can't be, and the run ends. With REVODE_ALL_CASES in the
environment many bits of each kind flip (minutes), without one.

    silent_faults_test.py REVODE MPIEXEC NUMPROC_FLAG REVODE_WITH_FAULTS [unittest arguments]
"""
import collections
import json
import os
import random
import subprocess
import sys
from pathlib import Path

sys.dont_write_bytecode = True
sys.path.insert(0, str(Path(__file__).resolve().parents[1] / "commands"))
import program  # noqa: E402

STEPS = 6
RUN = ["train", *program.SMALL, "--micro-batches", "4", "--steps", str(STEPS), "--epochs", "2", "--checkpoint-every", "2",
       "--keep-checkpoints", "0", "--progress", "off", "--partition", "flops", "--slices-per-rank", "1", "--output", "run"]
CHECKED = ["--check-reversal", "1"]
TIME = (2, ["--time-ranks", "2"])
DATA = (2, ["--data-ranks", "2"])
# Of each kind: the grid that has it, further options, how the checks name it ("found" in metrics.jsonl).
REPEATED = {
    "message": (TIME, [], {"state", "rebuilt state", "adjoint"}),
    "edge weights": (TIME, [], {"edge weights"}),
    "gradient sums": (DATA, [], {"gradient sums"}),
    "state": (TIME, CHECKED, {"rebuilt"}),
    "kept state": (TIME, CHECKED, {"kept"}),
}
LOST = {"weights": TIME, "momentum": TIME}
FAULTY = ""
CASES = 40 if "REVODE_ALL_CASES" in os.environ else 1
# Which bits flip; another one in each case.
SEED = 5


class SilentFaults(program.ProgramTest):
    def faulty(self, variables, grid, *more):
        ranks, options = grid
        command = [*program.LAUNCHER, str(ranks), FAULTY, *program.last_of_each([*RUN, *options, *more])]
        subprocess.run(["rm", "-rf", str(self.folder / "run")], check=True)
        return subprocess.run(command, cwd=self.folder, capture_output=True, text=True, timeout=program.TIMEOUT_SECONDS,
                              env={**os.environ, **variables})

    def undisturbed(self):
        self.run_program(*RUN, "--output", "undisturbed")
        self.expected = (self.folder / "undisturbed/checkpoint-6.h5").read_bytes()

    def arrays(self, grid, *more):
        """{kind: [(rank, step, number within the step, bits)]} of a run; nothing is found in it."""
        done = self.faulty({"REVODE_ARRAYS": str(self.folder / "arrays")}, grid, *more)
        self.assertEqual((done.returncode, done.stderr), (0, ""))
        self.expect_undisturbed()
        found = collections.defaultdict(list)
        for rank in range(grid[0]):
            file = self.folder / f"arrays.{rank}"
            numbers = collections.Counter()
            for line in file.read_text().splitlines():
                step, bits, what = line.split(" ", 2)
                if int(step) > 0:
                    found[what].append((rank, int(step), numbers[step, what], int(bits)))
                numbers[step, what] += 1
            file.unlink()
        return found

    def expect_undisturbed(self):
        self.assertEqual((self.folder / "run/checkpoint-6.h5").read_bytes(), self.expected)

    def records(self, kind):
        lines = (self.folder / "run/metrics.jsonl").read_text().splitlines()
        return [record for record in map(json.loads, lines) if record["kind"] == kind]

    def cases(self, what, arrays):
        """(rank, step, number, bit) of some flips, the same ones each time."""
        draw = random.Random(f"{SEED} {what}")
        for rank, step, number, bits in draw.choices(arrays[what], k=CASES):
            yield rank, step, number, draw.randrange(bits)

    def test_what_can_be_computed_again_is(self):
        self.undisturbed()
        outcomes = collections.Counter()
        for what, (grid, options, names) in REPEATED.items():
            for rank, step, number, bit in self.cases(what, self.arrays(grid, *options)):
                with self.subTest(what=what, rank=rank, step=step, number=number, bit=bit):
                    done = self.faulty({"REVODE_FLIP": f"{rank} {step} {number} {bit} 1 {what}"}, grid, *options)
                    if what == "state" and done.returncode == 1:
                        # A value so large that the loss is no number.
                        self.assertIn("not finite", self.only_error(done))
                        self.run_program(*RUN, "--resume", "auto")
                        self.expect_undisturbed()
                        outcomes[what, "not finite, resumed to the same bytes"] += 1
                        continue
                    self.assertEqual(done.returncode, 0, done.stderr)
                    self.assertIn("a bit flips", done.stderr)
                    repeats = self.records("repeat")
                    if not repeats and "left the range" in done.stdout:
                        # The flip itself took the value where states are rebuilt approximately.
                        self.assertEqual(what, "state")
                        outcomes[what, "out of range, which is told"] += 1
                        continue
                    self.assertEqual(len(repeats), 1, done.stderr)
                    self.assertIn(repeats[0]["found"], names)
                    self.assertEqual(repeats[0]["step"], step)
                    self.assertEqual(self.records("end")[0]["repeated"], 1)
                    notes = [line for line in done.stderr.splitlines() if line.startswith("revode: note: ")]
                    self.assertEqual(len(notes), 1, done.stderr)
                    self.assertRegex(notes[0], rf"step {step}\b.*slice {repeats[0]['slice']}\b.*rank {repeats[0]['rank']}\b")
                    self.expect_undisturbed()
                    outcomes[what, "computed again, the same bytes"] += 1
        self.tell(outcomes)

    def test_weights_that_change_end_the_run(self):
        self.undisturbed()
        outcomes = collections.Counter()
        for what, grid in LOST.items():
            for rank, step, number, bit in self.cases(what, self.arrays(grid)):
                with self.subTest(what=what, rank=rank, step=step, number=number, bit=bit):
                    done = self.faulty({"REVODE_FLIP": f"{rank} {step} {number} {bit} 1 {what}"}, grid)
                    if what == "momentum" and done.returncode == 0:
                        # Running averages have none: there nobody looks.
                        self.expect_undisturbed()
                        outcomes[what, "harmless"] += 1
                        continue
                    self.assertEqual(done.returncode, 1, done.stderr)
                    error = self.only_error(done)
                    self.assertIn(f"rank {rank}", error)
                    self.assertIn({"weights": "/model/", "momentum": "/optimizer/momentum/"}[what], error)
                    self.run_program(*RUN, "--resume", "auto")
                    self.expect_undisturbed()
                    outcomes[what, "ended at once, resumed to the same bytes"] += 1
        self.tell(outcomes)

    def test_damage_that_comes_back_ends_the_run(self):
        done = self.faulty({"REVODE_FLIP": "0 3 0 77 1000 message"}, TIME)
        self.assertEqual(done.returncode, 1, done.stderr)
        error = self.only_error(done)
        for words in ("step 3", "slice 1", "each of the 3 times", "the last checkpoint is run/checkpoint-2.h5"):
            self.assertIn(words, error)
        self.assertEqual(self.checkpoints("run"), [2])

    def test_states_can_be_looked_at_only_where_they_are_rebuilt_exactly(self):
        for option, value in (("--grid-bits", "0"), ("--activations", "store")):
            self.expect_error(["--check-reversal 1", f"{option} {value}"], *RUN, *CHECKED, option, value)

    @staticmethod
    def tell(outcomes):
        for (what, outcome), count in sorted(outcomes.items()):
            print(f"{count:4} {what}: {outcome}", file=sys.stderr)


if __name__ == "__main__":
    FAULTY = os.path.abspath(sys.argv.pop(4))
    program.main()
