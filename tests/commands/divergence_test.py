#!/usr/bin/env python3
"""A run that diverges ends as an error, and leaves nothing that a later one would take for a result."""
import re

import program
from program import SMALL


class Divergence(program.ProgramTest):
    def test_weights_that_are_not_finite_are_never_saved(self):
        for ranks, steps in [(None, "1"), (2, "1"), (None, "3"), (3, "8")]:
            with self.subTest(ranks=ranks, steps=steps):
                run = f"run-{ranks}-{steps}"
                done = self.train(run, "--steps", steps, "--checkpoint-every", "1", "--learning-rate", "1e300",
                                  ranks=ranks, status=1)
                self.assertIn("not finite", self.only_error(done))
                self.assertEqual(list((self.folder / run).glob("*.h5")), [])

    # The rank apart, every number of ranks names the same place.
    def test_a_gradient_out_of_range_ends_the_run_before_the_update(self):
        places = set()
        for ranks in (1, 2):
            done = self.train(f"range{ranks}", "--steps", "6", "--learning-rate", "100", ranks=ranks, status=1)
            error = self.only_error(done)
            self.assertIn("the gradient left the range of exact sums; a smaller --step-size or --learning-rate may help",
                          error)
            places.add(re.search(r"step (\d+) \(epoch 0\), rank \d, (micro-batch \d), ((coupling|the) [^:]*):", error)[3])
        self.assertEqual(len(places), 1)

    # With --keep-checkpoints 1 the good one must outlive the divergence.
    def test_the_last_good_checkpoint_stays_and_can_be_gone_on_from(self):
        self.train("run", "--steps", "6", "--keep-checkpoints", "1")
        done = self.train("run", "--steps", "9", "--keep-checkpoints", "1", "--checkpoint-every", "1",
                          "--learning-rate", "1e300", "--resume", "auto", status=1)
        error = self.only_error(done)
        self.assertIn("the last checkpoint is run/checkpoint-6.h5", error)
        self.assertEqual(self.checkpoints("run"), [6])
        again = self.train("run", "--steps", "8", "--resume", "auto", "--learning-rate", "0.1")
        self.assertIn("going on from run/checkpoint-6.h5", again.stdout)
        self.train("undisturbed", "--steps", "8")
        self.expect_same_files("run", "undisturbed", ["checkpoint-8.h5"])

    def test_evaluation_that_is_not_finite_is_no_success(self):
        # One step that leaves the weights finite and the loss not: the sums of the network overflow.
        self.train("run", "--steps", "6", "--keep-checkpoints", "1")
        done = self.train("run", "--steps", "7", "--keep-checkpoints", "1", "--learning-rate", "1e20", "--resume", "auto",
                          status=1)
        self.assertIn("test loss after step 7 is not finite", self.only_error(done))
        self.assertIn("the last checkpoint is run/checkpoint-6.h5", self.only_error(done))
        self.assertEqual(self.checkpoints("run"), [6])


if __name__ == "__main__":
    program.main()
