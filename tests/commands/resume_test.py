#!/usr/bin/env python3
"""A run that goes on from a checkpoint writes what the uninterrupted run would have written, on any number of ranks."""
import json
import shutil

import program

STEPS = ["--steps", "10", "--checkpoint-every", "2", "--keep-checkpoints", "0", "--eval-every", "1"]


class Resume(program.ProgramTest):
    def train_uninterrupted(self):
        """Checkpoints in the middle (2, 6, 10) and at the end (4, 8) of epochs."""
        self.train("whole", *STEPS)

    def expect_same_run(self, run, steps, others=("best.h5",)):
        self.assertEqual(self.metrics(run), self.metrics("whole"))
        self.expect_same_files(run, "whole", [f"checkpoint-{step}.h5" for step in steps] + list(others))
        self.assertEqual((self.folder / run / "latest.h5").resolve().name, "checkpoint-10.h5")

    def copy_until(self, run, step):
        """What the run had left behind when it was killed some steps after `step`."""
        shutil.copytree(self.folder / "whole", self.folder / run, symlinks=True)
        for later in self.checkpoints(run):
            if later > step:
                (self.folder / run / f"checkpoint-{later}.h5").unlink()
        with open(self.folder / run / "metrics.jsonl", "a") as file:
            file.write('{"kind": "step", "st')

    def test_any_checkpoint_on_any_grid_equals_the_uninterrupted_run(self):
        self.train_uninterrupted()
        for step, ranks, grid in [(2, 1, []), (4, 3, []), (6, 4, ["--data-ranks", "2"]),
                                  (8, 2, ["--time-ranks", "1"])]:
            with self.subTest(step=step, ranks=ranks, grid=grid):
                run = f"from-{step}"
                self.copy_until(run, step)
                self.run_program("--resume", f"{run}/checkpoint-{step}.h5", *STEPS, "--log-every", "1", *grid,
                                 ranks=ranks)
                self.expect_same_run(run, [2, 4, 6, 8, 10])

    def test_four_then_three_then_one_rank_equal_the_uninterrupted_run(self):
        self.train_uninterrupted()
        self.train("parts", *STEPS, "--steps", "3", ranks=4)
        self.train("parts", *STEPS, "--steps", "4", "--resume", "auto", ranks=3)
        done = self.train("parts", *STEPS, "--resume", "parts/latest.h5")
        self.assertIn("going on from", done.stdout)
        # A checkpoint holds the --steps of its part: the last part's are the same.
        self.expect_same_run("parts", [6, 8, 10], [])

    def test_more_steps_go_on_where_the_run_had_ended(self):
        self.train_uninterrupted()
        self.train("longer", *STEPS, "--steps", "7")
        done = self.train("longer", *STEPS, "--steps", "7", "--resume", "auto")
        self.assertIn("nothing is left to train", done.stdout)
        self.train("longer", *STEPS, "--resume", "auto")
        self.expect_same_run("longer", [8, 10], [])

    def test_auto_passes_over_damaged_files_and_says_so(self):
        self.train_uninterrupted()
        self.copy_until("damaged", 8)
        whole = (self.folder / "damaged/checkpoint-8.h5").read_bytes()
        for name, content in [("cut short", whole[:len(whole) // 2]), ("last byte missing", whole[:-1]), ("empty", b""),
                              ("overwritten", bytes(2000) + whole[2000:]),
                              ("one bit flipped", whole[:-200] + bytes([whole[-200] ^ 4]) + whole[-199:])]:
            with self.subTest(name):
                (self.folder / "damaged/checkpoint-8.h5").write_bytes(content)
                done = self.train("damaged", *STEPS, "--resume", "auto", ranks=2)
                self.assertIn("passing over", done.stderr)
                self.assertIn("checkpoint-8.h5", done.stderr)
                self.assertIn("checkpoint-6.h5 at step 6", done.stdout)
                self.expect_same_run("damaged", [2, 4, 6, 8, 10])
                (self.folder / "damaged/checkpoint-10.h5").unlink()

    def test_auto_starts_afresh_where_there_is_nothing_to_go_on_from(self):
        self.train_uninterrupted()
        self.train("fresh", *STEPS, "--resume", "auto")
        self.expect_same_run("fresh", [2, 4, 6, 8, 10])
        # A run that was killed before its first checkpoint.
        (self.folder / "killed").mkdir()
        (self.folder / "killed/metrics.jsonl").write_text(json.dumps({"kind": "step", "step": 1}) + "\n")
        self.train("killed", *STEPS, "--resume", "auto")
        self.expect_same_run("killed", [2, 4, 6, 8, 10])

    # Else the next --resume auto would go on from what this run never computed, and --keep-checkpoints would keep it.
    def test_going_back_sets_later_checkpoints_aside(self):
        self.train("run", *STEPS)
        self.train("run", "--resume", "run/checkpoint-4.h5", "--steps", "5", "--keep-checkpoints", "1",
                   "--learning-rate", "0.01")
        self.assertEqual(self.checkpoints("run"), [5])
        self.assertEqual((self.folder / "run/latest.h5").resolve().name, "checkpoint-5.h5")
        self.assertTrue((self.folder / "run/checkpoint-8.h5.left-behind").exists())
        self.assertEqual([r["step"] for r in self.metrics("run") if r["kind"] == "step"], [1, 2, 3, 4, 5])

    def test_weights_alone_start_a_new_run(self):
        self.train("run", "--steps", "4")
        done = self.train("tuned", "--checkpoint", "run/latest.h5", "--steps", "1")
        self.assertIn("starting from the weights of run/latest.h5", done.stdout)
        self.assertEqual([record["step"] for record in self.metrics("tuned")], [1, 1])
        first = self.metrics("run")[0]["loss"]
        self.assertNotEqual(self.metrics("tuned")[0]["loss"], first)  # same images, other weights
        self.expect_error(["--resume", "--checkpoint"], "--resume", "run/latest.h5", "--checkpoint", "run/latest.h5")


class ResumeRefused(program.ProgramTest):
    def test_a_damaged_file_that_is_named_is_refused(self):
        self.train("run", "--steps", "2")
        file = self.folder / "run/checkpoint-2.h5"
        file.write_bytes(file.read_bytes()[:5000])
        self.expect_error(["checkpoint-2.h5", "damaged"], "--resume", "run/checkpoint-2.h5", ranks=2)

    def test_options_that_change_what_is_trained_are_refused(self):
        self.train("run", "--steps", "2")
        program.write_cifar10(self.folder / "cifar", 4)
        for option, *rest in [("--arch", "leapfrog"), ("--batch-size", "10"), ("--seed", "2"), ("--widths", "8,10,16"),
                              ("--micro-batches", "2"), ("--blocks", "2,2,1"), ("--train-fraction", "0.5"),
                              ("--step-size", "0.2"), ("--dataset", "cifar10", "--data-dir", "cifar")]:
            with self.subTest(option):
                self.expect_error([option, "run/latest.h5"], "--resume", "run/latest.h5", option, *rest)
        self.expect_error(["--arch", "latest.h5"], "--resume", "run/latest.h5", "--arch", "midpoint", ranks=3)


if __name__ == "__main__":
    program.main()
