#!/usr/bin/env python3
"""tools/compare_pytorch.py REVODE: every variant computes revode's gradient, and all are timed, on one rank and in
pipelines. 77: no torch or no h5py, so that only arguments and reports were tested."""
import json
import shutil
import subprocess
import sys
import tempfile
import unittest
from pathlib import Path

COMPARE = Path(__file__).resolve().parents[2] / "tools" / "compare_pytorch.py"
REVODE = sys.argv.pop(1)
sys.dont_write_bytecode = True
sys.path.insert(0, str(COMPARE.parent))
from comparison_processes import CompareError
from pipeline_report import cut_of, describe_cut, step_seconds, summarize, table


def compare(*arguments):
    return subprocess.run([sys.executable, COMPARE, "--revode", REVODE, *arguments], capture_output=True, text=True,
                          timeout=240)


class Arguments(unittest.TestCase):
    def expect_refusal(self, words, *arguments):
        ended = compare(*arguments)

        self.assertEqual(ended.returncode, 2, ended.stderr)
        self.assertIn(words, ended.stderr)
        self.assertNotIn("Traceback", ended.stderr)

    def test_micro_batches_need_ranks(self):
        self.expect_refusal("--micro-batches needs --ranks 2 or more", "--micro-batches", "4")

    def test_micro_batches_must_be_equal(self):
        self.expect_refusal("--batch 128 can't be cut into 5 equal micro-batches", "--ranks", "2", "--micro-batches", "4,5")

    def test_micro_batches_are_as_many_as_ranks(self):
        self.expect_refusal("2 micro-batches are too few for 4 ranks", "--ranks", "4", "--micro-batches", "2")

    def test_micro_batches_are_numbers(self):
        self.expect_refusal("--micro-batches", "--ranks", "2", "--micro-batches", "4,x")

    def test_no_rank_is_too_few(self):
        self.expect_refusal("found 0, expected at least 1", "--ranks", "0")

    def test_variants_depend_on_ranks(self):
        self.expect_refusal("found 'eager', expected some of plain,checkpointing,reversible", "--variants", "eager")
        self.expect_refusal("found 'plain', expected some of eager,compiled", "--ranks", "2", "--variants", "plain")


class PipelineReport(unittest.TestCase):
    # Of `bench --json`: hamiltonian, blocks 2,1,2, two couplings each, cut behind the first.
    BENCH = {"ranks": 2, "blocks": [2, 1, 2],
             "stages": [{"rank": 0, "stage": 1, "couplings": 2}, {"rank": 1, "stage": 1, "couplings": 2},
                        {"rank": 1, "stage": 2, "couplings": 2}, {"rank": 1, "stage": 3, "couplings": 4}]}

    def test_cut_is_that_of_revode(self):
        cut = cut_of(self.BENCH, 2)

        self.assertEqual(cut, [[[1, 0, 2]], [[1, 2, 4], [2, 0, 2], [3, 0, 4]]])
        self.assertEqual(describe_cut(cut, 2), "rank 0: 1 of stage 1; rank 1: 1 of stage 1, 1 of stage 2, 2 of stage 3")

    def test_a_report_without_all_blocks_is_refused(self):
        for stages in (self.BENCH["stages"][:-1], self.BENCH["stages"][1:]):
            with self.assertRaisesRegex(CompareError, "not all of its blocks"):
                cut_of({**self.BENCH, "stages": stages}, 2)

    def test_a_step_lasts_from_the_first_begin_to_the_last_end(self):
        answers = [{"spans": [[1.0, 3.0], [5.0, 6.0]]}, {"spans": [[1.5, 4.0], [4.5, 5.5]]}]

        self.assertEqual(step_seconds(answers), [3.0, 1.5])

    def test_table_has_medians_spread_ratios_and_memory_of_each_rank(self):
        results = summarize({"revode": [1.0, 2.0, 4.0], "eager": [3.0, 4.0, 4.0]}, 8)
        for result in results.values():
            result["peak_memory_bytes"] = [2**20, 3 * 2**20]

        head, revode, eager = [line.split() for line in table({4: results})]

        self.assertEqual(revode, "4 revode 2000.0 4.0 (2.0 .. 8.0) 1, 3".split())
        self.assertEqual(eager, "4 PyTorch eager 4000.0 2.0 (2.0 .. 2.7) 2.00 (1.00 .. 3.00) 1, 3".split())


class ComparePyTorch(unittest.TestCase):
    def setUp(self):
        scratch = tempfile.TemporaryDirectory()
        self.addCleanup(scratch.cleanup)
        self.folder = Path(scratch.name)

    def check_architecture(self, arch, widths):
        file = self.folder / "result.json"

        ended = compare("--arch", arch, "--blocks", "2,1,2", "--widths", widths, "--batch", "6", "--rounds", "1",
                        "--steps", "1", "--threads", "1", "--json", str(file))

        self.assertEqual(ended.returncode, 0, ended.stderr + ended.stdout)
        result = json.loads(file.read_text())
        self.assertEqual(result["arch"], arch)
        self.assertEqual(set(result["results"]), {"revode", "plain", "checkpointing", "reversible"})
        self.assertEqual(set(result["relative_errors"]), {"revode", "plain", "checkpointing", "reversible"})
        for errors in result["relative_errors"].values():
            self.assertLess(errors["loss"], 1e-5)
            self.assertLess(errors["gradient"], 1e-3)
        for measured in result["results"].values():
            self.assertGreater(measured["images_per_second"], 0)
            self.assertGreater(measured["peak_memory_bytes"], 0)

    def test_hamiltonian_agrees_and_is_timed(self):
        self.check_architecture("hamiltonian", "4,6,10")

    def test_leapfrog_agrees_and_is_timed(self):
        self.check_architecture("leapfrog", "3,6,7")

    def test_midpoint_agrees_and_is_timed(self):
        self.check_architecture("midpoint", "3,6,7")

    def test_pipelines_compute_what_one_process_computes_and_are_timed(self):
        if not shutil.which("mpirun"):
            self.skipTest("needs mpirun")
        file = self.folder / "result.json"

        ended = compare("--arch", "leapfrog", "--ranks", "3", "--blocks", "2,1,2", "--widths", "3,6,7", "--batch", "8",
                        "--micro-batches", "4", "--variants", "eager", "--rounds", "1", "--steps", "1", "--json", str(file))
        if "has no torch.distributed.pipelining" in ended.stderr:
            self.skipTest("needs PyTorch 2.4")

        self.assertEqual(ended.returncode, 0, ended.stderr + ended.stdout)
        result = json.loads(file.read_text())
        self.assertEqual(len(result["cut"]), 3)
        (measured,) = result["micro_batches"]
        self.assertEqual(set(measured["results"]), {"revode", "eager"})
        for errors in measured["relative_errors"].values():
            self.assertLess(errors["loss"], 1e-5)
            self.assertLess(errors["gradient"], 1e-3)
        for of_program in measured["results"].values():
            self.assertGreater(of_program["images_per_second"], 0)
            self.assertEqual(len(of_program["peak_memory_bytes"]), 3)

    def test_a_launcher_that_is_not_there_is_named(self):
        ended = compare("--ranks", "2", "--mpirun", "/nonexistent/mpirun", "--blocks", "1,1,1", "--widths", "2,4,6",
                        "--batch", "4", "--micro-batches", "2")
        if "has no torch.distributed.pipelining" in ended.stderr:
            self.skipTest("needs PyTorch 2.4")

        self.assertEqual(ended.returncode, 1)
        self.assertIn("/nonexistent/mpirun can't be started", ended.stderr)
        self.assertNotIn("Traceback", ended.stderr)

    def test_a_program_that_is_not_there_is_named(self):
        ended = subprocess.run([sys.executable, COMPARE, "--revode", "/nonexistent/revode"], capture_output=True,
                               text=True, timeout=120)

        self.assertEqual(ended.returncode, 1)
        self.assertIn("/nonexistent/revode can't be started", ended.stderr)
        self.assertNotIn("Traceback", ended.stderr)

    def test_a_checkpoint_that_is_not_there_is_named(self):
        ended = compare("--checkpoint", str(self.folder / "none.h5"))

        self.assertEqual(ended.returncode, 1)
        self.assertIn("no such checkpoint", ended.stderr)


if __name__ == "__main__":
    # Without torch the program itself says so, once its arguments are right.
    probe = compare("--revode", "/nonexistent/revode")
    if probe.returncode == 77:
        print(probe.stderr, end="", file=sys.stderr)
        del ComparePyTorch
    passed = unittest.main(exit=False).result.wasSuccessful()
    sys.exit(1 if not passed else 77 if probe.returncode == 77 else 0)
