#!/usr/bin/env python3
"""--on-nonfinite: what a run does about numbers that are not finite, and that it does the same on any grid and after any kill."""
import json
import math
import shutil

import program
from run_files import part, table_of

# Weights of the first run stand where some mini-batches leave the range of exact sums and some do not; the others keep
# them there. All weights stay finite. Epochs have 4 steps.
SIZE = ["--image-size", "32", "--eval-every", "1"]
NEAR_THE_EDGE = [*SIZE, "--steps", "3", "--learning-rate", "26"]
STAYS_THERE = [*SIZE, "--checkpoint", "edge/checkpoint-3.h5", "--steps", "12", "--learning-rate", "0", "--eval-every", "0",
               "--keep-checkpoints", "0", "--on-nonfinite", "skip"]
# Diverges in the middle of an epoch, some rates lower than that it does not.
DIVERGES = [*SIZE, "--learning-rate", "40", "--warmup-epochs", "1", "--lr-decay-epochs", "2", "--lr-decay", "0.01", "--steps", "12",
            "--checkpoint-every", "2", "--keep-checkpoints", "0", "--on-nonfinite", "rewind", "--max-rewinds", "8"]
GRIDS = [(2, []), (2, ["--data-ranks", "2"]), (4, ["--data-ranks", "2"])]


class Records(program.ProgramTest):
    def records(self, run, kind):
        return [record for record in self.metrics(run) if record["kind"] == kind]

    def arrays(self, file):
        content = (self.folder / file).read_bytes()
        return {name: part(content, place) for name, place in table_of(content).items()}

    def notes(self, done):
        return [line for line in done.stderr.splitlines() if line.startswith("revode: note: ")]


class Skip(Records):
    def test_some_steps_are_skipped_and_the_run_goes_on(self):
        self.train("edge", *NEAR_THE_EDGE)
        done = self.train("run", *STAYS_THERE, "--json", "result.json")
        steps = self.records("run", "step")
        self.assertEqual([record["step"] for record in steps], list(range(1, 13)))
        skipped = [record["step"] for record in steps if record.get("skipped")]
        self.assertTrue(0 < len(skipped) < 12, skipped)
        notes = [note for note in self.notes(done) if "is skipped" in note]
        self.assertEqual(len(notes), min(len(skipped), 3))
        self.assertRegex(notes[0], rf"step {skipped[0]} \(epoch \d\), rank 0, micro-batch \d, .*: the gradient left the range "
                                   r"of exact sums; the step is skipped")
        for record in self.records("run", "epoch"):
            of_epoch = [step for step in steps if step["epoch"] == record["epoch"] and not step.get("skipped")]
            self.assertEqual(record.get("skipped_steps", 0), 4 - len(of_epoch))
            if of_epoch:
                mean = sum(step["loss"] for step in of_epoch) / len(of_epoch)
                self.assertAlmostEqual(record["train_loss"] / mean, 1, places=9)
        result = json.loads((self.folder / "result.json").read_text())
        self.assertEqual((result["skipped_steps"], result["rewinds"]), (len(skipped), 0))
        self.assertRegex(done.stdout, rf"skipped steps +{len(skipped)}\n")
        info = self.run_program("info", "run/latest.h5").stdout
        self.assertRegex(info, rf"skipped_steps +{len(skipped)}\n")

        for ranks, grid in GRIDS:
            with self.subTest(ranks=ranks, grid=grid):
                shutil.rmtree(self.folder / "other", ignore_errors=True)
                self.train("other", *STAYS_THERE, *grid, ranks=ranks)
                self.assertEqual(self.metrics("other"), self.metrics("run"))
                self.expect_same_files("other", "run", [f"checkpoint-{step}.h5" for step in (4, 8, 12)])

    def test_a_skipped_step_leaves_weights_momentum_and_averages(self):
        run = ["--steps", "8", "--checkpoint-every", "1", "--keep-checkpoints", "0", "--learning-rate", "100", "--on-nonfinite",
               "skip", "--eval-every", "0"]
        self.train("run", *run)
        skipped = {record["step"] for record in self.records("run", "step") if record.get("skipped")}
        self.assertTrue({4, 5} <= skipped, skipped)
        self.assertEqual(self.arrays("run/checkpoint-5.h5"), self.arrays("run/checkpoint-4.h5"))
        self.assertNotEqual(self.arrays("run/checkpoint-2.h5"), self.arrays("run/checkpoint-1.h5"))
        # An epoch in which nothing was learnt has no means.
        last = self.records("run", "epoch")[-1]
        self.assertEqual((last["train_loss"], last["train_accuracy"], last["regularization"]), (None, None, None))

        # Killed between skipped steps.
        shutil.copytree(self.folder / "run", self.folder / "killed", symlinks=True)
        for step in (6, 7, 8):
            (self.folder / f"killed/checkpoint-{step}.h5").unlink()
        self.train("killed", *run, "--resume", "auto", ranks=2)
        self.assertEqual(self.metrics("killed"), self.metrics("run"))
        self.expect_same_files("killed", "run", [f"checkpoint-{step}.h5" for step in range(1, 9)])

    def test_too_many_in_a_row_end_the_run_also_over_a_resume(self):
        run = ["--steps", "40", "--epochs", "10", "--learning-rate", "100", "--eval-every", "0", "--on-nonfinite", "skip"]
        done = self.train("run", *run, status=1)
        error = self.only_error(done)
        self.assertIn("the gradient left the range of exact sums", error)
        self.assertIn("it is the 20th step in a row without an update", error)
        self.assertRegex(error, r"the last checkpoint is run/checkpoint-\d+\.h5")
        self.assertLessEqual(len(self.notes(done)), 4)
        step = self.records("run", "step")[-1]["step"]
        again = self.train("run", *run, "--resume", "auto", status=1)
        self.assertEqual(self.records("run", "step")[-1]["step"], step)
        self.assertIn(f"step {step + 1} ", self.only_error(again))

    def test_what_skipping_cannot_help_with_ends_the_run(self):
        done = self.train("run", "--steps", "3", "--learning-rate", "1e300", "--on-nonfinite", "skip", "--checkpoint-every", "1",
                          status=1)
        self.assertIn("not finite: the run has diverged", self.only_error(done))


class Rewind(Records):
    def train_whole(self):
        done = self.train("whole", *DIVERGES)
        return done, self.records("whole", "rewind")

    def expect_same_run(self, run, steps):
        self.assertEqual(self.metrics(run), self.metrics("whole"))
        self.expect_same_files(run, "whole", [f"checkpoint-{step}.h5" for step in steps] + ["best.h5"])

    def test_the_run_ends_well_and_says_what_it_did(self):
        done, rewinds = self.train_whole()
        self.assertGreaterEqual(len(rewinds), 2)
        self.assertEqual([record["count"] for record in rewinds], list(range(1, len(rewinds) + 1)))
        for record in rewinds:
            self.assertLess(record["step"], record["from_step"])
            self.assertEqual(record["step"] % 2, 0)
            self.assertEqual(record["rate_factor"], 0.5 ** record["count"])
            self.assertGreaterEqual(record["slow_until"], record["from_step"] + 4)
        self.assertTrue(any(record["step"] % 4 for record in rewinds), "none in the middle of an epoch")
        self.assertEqual(len([note for note in self.notes(done) if "going back to whole/checkpoint-" in note]), len(rewinds))
        self.assertIn("with another order of the images", done.stdout)
        # Each step stands there once; the rate is lower up to the step that was said.
        steps = self.records("whole", "step")
        self.assertEqual([record["step"] for record in steps], list(range(1, 13)))
        for record in steps:
            so_far = [rewind for rewind in rewinds if rewind["step"] < record["step"]]
            slow = so_far and record["step"] <= so_far[-1]["slow_until"]
            policy = 40 * min(1, record["step"] / 4) * (0.01 if record["epoch"] >= 2 else 1)
            self.assertAlmostEqual(record["learning_rate"], policy * (0.5 ** len(so_far) if slow else 1), places=12)
        back = ",".join(str(record["step"]) for record in rewinds)
        self.assertIn(f'rewound_to                "{back}"', self.run_program("info", "whole/latest.h5").stdout)
        self.assertTrue(all(math.isfinite(record["train_loss"]) for record in self.records("whole", "epoch")))

    def test_any_grid_goes_the_same_way(self):
        self.train_whole()
        for ranks, grid in GRIDS:
            with self.subTest(ranks=ranks, grid=grid):
                shutil.rmtree(self.folder / "other", ignore_errors=True)
                self.train("other", *DIVERGES, *grid, ranks=ranks)
                self.expect_same_run("other", range(0, 13, 2))

    # Before any rewind, between two, after all of them.
    def test_a_run_that_is_killed_goes_the_same_way(self):
        _, rewinds = self.train_whole()
        first, last = rewinds[0]["step"], rewinds[-1]["step"]
        self.assertLess(first, last)
        for step, ranks in [(0, 1), (first, 2), (last, 1), (last + 2, 2)]:
            with self.subTest(step=step):
                shutil.rmtree(self.folder / "killed", ignore_errors=True)
                shutil.copytree(self.folder / "whole", self.folder / "killed", symlinks=True)
                for later in self.checkpoints("killed"):
                    if later > step:
                        (self.folder / f"killed/checkpoint-{later}.h5").unlink()
                done = self.train("killed", *DIVERGES, "--resume", "auto", ranks=ranks)
                self.assertIn(f"killed/checkpoint-{step}.h5 at step {step}", done.stdout)
                self.expect_same_run("killed", range(0, 13, 2))

    # A signal saves at any step: what it saves must not be what a rewind goes back to.
    def test_a_run_that_is_stopped_in_between_goes_the_same_way(self):
        _, rewinds = self.train_whole()
        stop = rewinds[0]["step"] + 1
        self.train("stopped", *DIVERGES, "--steps", str(stop), "--keep-checkpoints", "1")
        self.assertEqual(self.checkpoints("stopped"), [stop - 1, stop])  # the one to go back to is kept
        self.train("stopped", *DIVERGES, "--resume", "auto")
        self.assertEqual(self.records("stopped", "rewind"), rewinds)
        self.assertEqual(self.records("stopped", "step"), self.records("whole", "step"))
        self.expect_same_files("stopped", "whole", [f"checkpoint-{step}.h5" for step in (*range(stop + 1, 13, 2),)])

    # One second is less than what the time limit keeps in reserve: the run stops after its first step.
    def test_weights_that_are_not_finite_are_not_saved_by_a_stop(self):
        self.train("run", "--steps", "6")
        done = self.train("run", "--steps", "12", "--learning-rate", "1e300", "--on-nonfinite", "rewind", "--time-limit",
                          "00:00:01", "--resume", "auto", status=75)
        self.assertIn("stopped before the time limit after step 7; its weights are not finite, so the run will go on from "
                      "run/checkpoint-6.h5", done.stdout)
        self.assertEqual(self.checkpoints("run"), [4, 6])

    def test_after_so_many_times_the_run_ends(self):
        done = self.train("run", *DIVERGES, "--max-rewinds", "1", status=1)
        self.assertIn("the run has gone back 1 time (--max-rewinds 1)", self.only_error(done))
        self.assertEqual(len(self.records("run", "rewind")), 1)

    def test_weights_and_evaluations_that_are_not_finite_are_gone_back_from(self):
        done = self.train("run", "--steps", "3", "--learning-rate", "1e300", "--on-nonfinite", "rewind", "--checkpoint-every", "1",
                          status=1)
        self.assertEqual([record["reason"] for record in self.records("run", "rewind")], ["the weights are not finite"] * 3)
        self.assertIn("gone back 3 times", self.only_error(done))
        self.assertEqual(self.checkpoints("run"), [0])
        # One step that leaves the weights finite and the loss not.
        self.train("good", "--steps", "6", "--keep-checkpoints", "1")
        self.train("good", "--steps", "7", "--learning-rate", "1e20", "--resume", "auto", "--on-nonfinite", "rewind", status=1)
        self.assertEqual([record["reason"] for record in self.records("good", "rewind")], ["the test loss is not finite"] * 3)
        self.assertEqual(self.checkpoints("good"), [4, 6] if (self.folder / "good/checkpoint-4.h5").exists() else [6])


class NothingGoesWrong(Records):
    def test_every_policy_trains_the_same_weights(self):
        self.train("stop", "--steps", "6")
        for policy in ("skip", "rewind"):
            self.train(policy, "--steps", "6", "--on-nonfinite", policy)
            self.assertEqual(self.metrics(policy), self.metrics("stop"))
            self.assertEqual(self.arrays(f"{policy}/checkpoint-6.h5").keys(), self.arrays("stop/checkpoint-6.h5").keys())
            for name, content in self.arrays("stop/checkpoint-6.h5").items():
                self.assertEqual(self.arrays(f"{policy}/checkpoint-6.h5")[name], content, name)


if __name__ == "__main__":
    program.main()
