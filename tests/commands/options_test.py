#!/usr/bin/env python3
"""Command line, exit statuses, and errors that are printed once whatever the number of ranks."""
import json
import os
from unittest import mock

import program
from program import NETWORK


class Options(program.ProgramTest):
    def test_help_and_version_need_no_ranks_and_are_printed_once(self):
        for option, word in [("--help", "--depth"), ("--version", "revision ")]:
            alone = self.run_program(option)
            self.assertIn(word, alone.stdout)
            self.assertEqual(alone.stderr, "")
            self.assertEqual(self.run_program(option, ranks=3).stdout, alone.stdout)
        for command in ["train", "eval", "gradient", "verify", "info"]:
            self.assertIn(command, self.run_program("--help").stdout)
            self.assertIn("--json", self.run_program(command, "--help").stdout)

    def test_printed_config_reads_back_to_itself(self):
        arguments = ["--arch", "leapfrog", "--depth", "26", "--learning-rate", "0.05", "--lr-decay-epochs", "3,5"]
        first = self.run_program(*arguments, "--print-config").stdout
        self.assertIn("arch = leapfrog", first)
        self.assertIn("blocks = 5,4,3", first)  # (26 - 2) / 2 = 12 blocks: 4 + 1, 4, 4 - 1
        self.assertIn("widths = 32,64,112", first)
        self.assertIn("lr-decay-epochs = 3,5", first)
        self.assertEqual(self.run_program(*arguments, "--print-config", ranks=2).stdout, first)
        (self.folder / "run.ini").write_text(first)
        self.assertEqual(self.run_program("--config", "run.ini", "--print-config").stdout, first)
        changed = self.run_program("--config", "run.ini", "--learning-rate", "0.2", "--print-config").stdout
        self.assertEqual(changed, first.replace("learning-rate = 0.05", "learning-rate = 0.2"))

    def test_printed_config_holds_that_of_the_checkpoint(self):
        self.train("run", "--arch", "midpoint", "--steps", "1")
        for command in [["eval", "--checkpoint"], ["train", "--resume"]]:
            printed = self.run_program(*command, "run/latest.h5", "--print-config").stdout
            self.assertIn("arch = midpoint", printed)
            self.assertIn("widths = 6,10,16", printed)

    def test_misspelt_words_name_the_nearest(self):
        self.expect_error(["'trian'", "train"], "trian")
        self.expect_error(["--dept", "--depth"], "--dept", "74")
        self.expect_error(["--dept", "--depth"], "--dept", "74", ranks=3)
        self.expect_error(["--arch", "midpiont", "midpoint"], "--arch", "midpiont")
        (self.folder / "run.ini").write_text("widhts = 8,16,16\n")
        self.expect_error(["run.ini", "widhts", "widths"], "--config", "run.ini")

    def test_values_out_of_range_name_the_option(self):
        for option, value in [("--batch-size", "0"), ("--grid-bits", "23"), ("--grid-bits", "7"), ("--seed", "-1"),
                              ("--train-fraction", "0"), ("--learning-rate", "fast"), ("--momentum", "1.5"),
                              ("--schedule", "2f2b"), ("--widths", "8,x"), ("--blocks", "2,0,1"), ("--threads", "0"),
                              ("--lr-decay-epochs", "5,3")]:
            with self.subTest(option=option, value=value):
                self.expect_error([option], option, value)

    def test_more_micro_batches_than_a_sum_may_have_terms_are_refused(self):
        self.expect_error(["--micro-batches 4097", "4096"], "--batch-size", "5000", "--micro-batches", "4097")

    # Known from shapes alone: said before anything is made, in one sentence, whatever the command.
    def test_what_no_machine_could_hold_is_refused(self):
        for arguments, words in [(["--batch-size", "16777217"], ["--batch-size 16777217", "8000"]),
                                 (["--widths", "100000,100000,100000"], ["--widths", "parameters"]),
                                 (["--widths", "20000,20000,20000"], ["GiB", "--widths"]),
                                 (["--blocks", "1000000000,1000000000,1000000000"], ["--blocks", "3000000000"]),
                                 (["gradient", "--samples", "0:1000000000000"], ["--samples 0:1000000000000", "1000"]),
                                 (["verify", *NETWORK, "--batch-size", "16777217"], ["--batch-size 16777217", "8000"]),
                                 (["bench", *NETWORK, "--batch-size", "16777217"], ["--batch-size 16777217", "8000"])]:
            with self.subTest(arguments):
                self.expect_error(words, *arguments)
        self.expect_error(["GiB", "--widths"], "--widths", "20000,20000,20000", ranks=3)
        (self.folder / "run.ini").write_text("step-size = 1e400\n")
        self.expect_error(["run.ini line 1", "step-size", "1e400"], "--config", "run.ini")
        self.assertEqual(list(self.folder.iterdir()), [self.folder / "run.ini"])

    def test_threads_beyond_the_processors(self):
        processors = len(os.sched_getaffinity(0))
        self.expect_error([f"--threads {4 * processors + 1}", f"{processors} processors"], *program.SMALL, "--threads",
                          str(4 * processors + 1))
        done = self.train("run", "--steps", "1", "--threads", str(processors + 1))
        self.assertIn(f"revode: note: --threads {processors + 1}: more than the {processors} processors", done.stderr)

    def test_control_characters_are_spelt_out(self):
        self.expect_error(["--arch", r"'a\nb'"], "--arch", "a\nb")
        (self.folder / "run.ini").write_text("arch = \x1b[2Jx\n")
        self.expect_error([r"'\x1b[2Jx'"], "--config", "run.ini")

    def test_a_precision_that_the_backend_has_not_is_refused_by_name(self):
        for command in ["train", "gradient", "verify"]:
            with self.subTest(command):
                self.expect_error(["--precision bf16", "cpu", "fp32"], command, *NETWORK, "--backend", "cpu",
                                  "--precision", "bf16", ranks=2)
        self.assertEqual(list(self.folder.glob("runs/*/*")), [])

    def test_rounded_operands_give_other_numbers_and_the_same_on_any_grid(self):
        def loss(precision, ranks):
            done = self.run_program("gradient", *NETWORK, "--samples", "0:8", "--backend", "reference", "--precision",
                                    precision, "--json", "-", ranks=ranks)
            return json.loads(done.stdout)["loss"]

        losses = {precision: loss(precision, 1) for precision in ("fp32", "tf32", "bf16")}
        self.assertEqual(len(set(losses.values())), 3, losses)
        self.assertEqual(loss("bf16", 2), losses["bf16"])

    def test_a_backend_that_cannot_be_had_is_refused_with_the_reason(self):
        with mock.patch.dict(os.environ, REVODE_CUDA_PLUGIN="/nowhere/kernels.so"):
            for ranks in [1, 2]:
                self.expect_error(["--backend cuda", "/nowhere/kernels.so", "--backend cpu"], "--backend", "cuda",
                                  ranks=ranks)

    def test_depths_that_do_not_divide_name_their_neighbours(self):
        self.expect_error(["--depth", "75", "74", "78"], "--depth", "75")
        self.expect_error(["--depth", "22", "26"], "--depth", "22")
        self.expect_error(["--depth", "12", "14"], "--arch", "midpoint", "--depth", "12", ranks=2)

    def test_ranks_that_do_not_fit(self):
        for command in ["train", "gradient", "verify"]:
            with self.subTest(command):
                self.expect_error(["6", "at most 4"], command, *NETWORK, ranks=6)
        self.train("run", "--steps", "1")
        self.expect_error(["6", "at most 4"], "eval", "--checkpoint", "run/latest.h5", ranks=6)
        self.expect_error(["--time-ranks 3", "2", "1 x 2, 2 x 1"], *NETWORK, "--time-ranks", "3", ranks=2)
        self.expect_error(["--data-ranks 3", "1 x 2, 2 x 1"], *NETWORK, "--data-ranks", "3", ranks=2)
        self.expect_error(["--data-ranks 4", "--micro-batches 4 would do"], *NETWORK, "--data-ranks", "4",
                          "--micro-batches", "2", ranks=4)
        self.assertEqual(list(self.folder.glob("runs/*/*")), [])

    def test_limits_and_costs_are_heeded_where_nothing_is_chosen_too(self):
        for ranks, options in [(1, []), (2, ["--schedule", "1f1b", "--partition", "flops"]), (2, ["--time-ranks", "1"])]:
            with self.subTest(ranks=ranks, options=options):
                self.expect_error(["--memory-limit 1K", "least"], *NETWORK, *options, "--memory-limit", "1K", ranks=ranks)
                self.expect_error(["--machine no.json", "no such file"], *NETWORK, *options, "--machine", "no.json",
                                  ranks=ranks)

    def test_data_that_can_not_be_read(self):
        cifar = ["--dataset", "cifar10", "--data-dir", "cifar", "--batch-size", "20", *NETWORK]
        self.expect_error(["--data-dir", "cifar"], *cifar)
        self.expect_error(["--data-dir"], "--dataset", "cifar10")
        self.expect_error(["--data-dir"], "--data-dir", "cifar")
        program.write_cifar10(self.folder / "cifar", 10)
        batch = self.folder / "cifar/data_batch_3.bin"
        whole = batch.read_bytes()
        batch.write_bytes(whole[:-1])
        self.expect_error(["data_batch_3.bin", "30729 bytes", "3073"], *cifar, ranks=3)
        batch.write_bytes(b"\x0a" + whole[1:])
        self.expect_error(["data_batch_3.bin", "10"], *cifar, ranks=3)
        batch.unlink()
        self.expect_error(["data_batch_3.bin"], *cifar, ranks=2)
        batch.write_bytes(whole)
        done = self.run_program(*cifar, "--steps", "1", "--output", "run", ranks=2)
        self.assertIn("cifar10: 50 training samples", done.stdout)

    def test_a_mini_batch_larger_than_the_data_is_refused(self):
        self.expect_error(["--batch-size 500", "80"], *NETWORK, "--train-fraction", "0.01", "--batch-size", "500",
                          ranks=2)

    def test_results_of_another_run_are_not_overwritten(self):
        self.train("run", "--steps", "1")
        before = (self.folder / "run/metrics.jsonl").read_bytes()
        self.expect_error(["--output", "run", "--resume"], *program.SMALL, "--output", "run", "--steps", "1", ranks=2)
        self.assertEqual((self.folder / "run/metrics.jsonl").read_bytes(), before)

    def test_checkpoints_that_are_none(self):
        (self.folder / "text.h5").write_text("no checkpoint\n")
        for command in ["eval", "info", "gradient", "train"]:
            with self.subTest(command):
                self.expect_error(["text.h5"], command, "--checkpoint", "text.h5")
                self.expect_error(["absent.h5"], command, "--checkpoint", "absent.h5")
        self.expect_error(["text.h5"], "eval", "--checkpoint", "text.h5", ranks=3)

    def test_samples_beyond_the_split_are_refused(self):
        self.expect_error(["--samples 990:1010", "1000"], "gradient", *NETWORK, "--samples", "990:1010", ranks=2)
        self.expect_error(["--samples"], "gradient", *NETWORK, "--samples", "5:5")

    def test_output_that_can_not_be_made(self):
        (self.folder / "file").write_text("in the way\n")
        self.expect_error(["file/run"], *program.SMALL, "--output", "file/run", ranks=2)


if __name__ == "__main__":
    program.main()
