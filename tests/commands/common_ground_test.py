#!/usr/bin/env python3
"""Ranks that were not started alike: told at once, in one line, before anything of theirs is done."""
import program
from program import SMALL

RUN = [*SMALL, "--steps", "1", "--output", "run"]
# What a hanging job takes is the whole of it.
SOON = 60


class CommonGround(program.ProgramTest):
    def expect_disagreement(self, words, *ranks):
        done = self.run_each_rank(list(ranks), status=2, timeout=SOON)
        error = self.only_error(done)
        for word in words:
            self.assertIn(word, error)
        self.assertEqual(done.stdout, "")
        self.assertFalse((self.folder / "run").exists())

    def test_an_option_or_file_that_is_wrong_on_one_rank_alone(self):
        self.expect_disagreement(["--seed", "'x'", "rank 1"], RUN, [*RUN, "--seed", "x"])
        self.expect_disagreement(["absent.ini", "rank 1"], RUN, [*RUN, "--config", "absent.ini"])
        self.expect_disagreement(["--seed", "'x'"], [*RUN, "--seed", "x"], RUN, RUN)

    def test_different_options(self):
        self.expect_disagreement(["--seed", "'1' on rank 0", "'2' on rank 1"], [*RUN, "--seed", "1"], [*RUN, "--seed", "2"])
        self.expect_disagreement(["--steps", "not given", "rank 2"], RUN, RUN, [*SMALL, "--output", "run"])
        (self.folder / "a").mkdir()
        (self.folder / "b").mkdir()
        (self.folder / "a/run.ini").write_text("smoothness = 0\n")
        (self.folder / "b/run.ini").write_text("smoothness = 0.1\n")
        self.expect_disagreement(["--smoothness", "'0' on rank 0", "'0.1' on rank 1"],
                                 ([*RUN, "--config", "run.ini"], "a", {}), ([*RUN, "--config", "run.ini"], "b", {}))

    def test_different_commands(self):
        self.expect_disagreement(["command", "train", "eval"], RUN, ["eval", "--checkpoint", "x.h5"])
        self.expect_disagreement(["command", "train", "info"], RUN, ["info", "x.h5"])
        self.expect_disagreement(["--print-config", "rank 1"], RUN, [*RUN, "--print-config"])
        self.expect_disagreement(["--help", "rank 1"], RUN, [*RUN, "--help"])

    def test_threads_may_differ(self):
        self.run_each_rank([RUN, [*RUN, "--threads", "2"]])

    def test_all_use_the_best_instruction_set_that_all_have(self):
        alone = {}
        for name in ["SCALAR", ""]:
            run = [*SMALL, "--steps", "2", "--output", f"alone-{name}"]
            alone[name] = self.run_each_rank([(run, ".", {"REVODE_INSTRUCTION_SET": name})]).stdout
        if "(SCALAR" in alone[""]:
            self.skipTest("this processor or build has no vectors, so there is nothing to differ in")
        run = [*SMALL, "--steps", "2", "--output", "mixed"]
        done = self.run_each_rank([run, (run, ".", {"REVODE_INSTRUCTION_SET": "SCALAR"})])
        self.assertIn("cpu (SCALAR, 1 lanes)", done.stdout)
        self.assertIn("all ranks use SCALAR", done.stderr)
        self.expect_same_files("mixed", "alone-SCALAR", ["checkpoint-2.h5"])
        wrong = self.run_each_rank([(RUN, ".", {"REVODE_INSTRUCTION_SET": "MMX"}), RUN], status=2)
        self.assertIn("REVODE_INSTRUCTION_SET=MMX", self.only_error(wrong))


if __name__ == "__main__":
    program.main()
