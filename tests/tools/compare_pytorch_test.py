#!/usr/bin/env python3
"""tools/compare_pytorch.py REVODE: every variant computes revode's gradient, and all are timed, on one rank and in
pipelines. What it does on a GPU runs on a torch.cuda that computes on the CPU. 77: no torch or no h5py, so that only
arguments and reports were tested."""
import importlib.util
import json
import os
import shutil
import subprocess
import sys
import tempfile
import types
import unittest
from pathlib import Path
from unittest import mock

COMPARE = Path(__file__).resolve().parents[2] / "tools" / "compare_pytorch.py"
REVODE = sys.argv.pop(1)
sys.dont_write_bytecode = True
sys.path.insert(0, str(COMPARE.parent))
from compare_pytorch import choose_kinds
from comparison_processes import CompareError
from comparison_variants import (can_compile, combinations, default_kinds, gradient_bound, label, loss_bound, version_of)
from one_rank_report import describe, notes, summarize as summarize_one_rank, table as one_rank_table
from pipeline_report import cut_of, describe_cut, step_seconds, summarize, table


def compare(*arguments, revode=REVODE, environment=os.environ):
    return subprocess.run([sys.executable, COMPARE, "--revode", revode, *arguments], capture_output=True, text=True,
                          timeout=240, env=environment)


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

    def test_images_have_pixels(self):
        self.expect_refusal("argument --image-size: found 0, expected at least 1", "--image-size", "0")

    def test_no_rank_is_too_few(self):
        self.expect_refusal("found 0, expected at least 1", "--ranks", "0")

    def test_variants_depend_on_ranks(self):
        self.expect_refusal("found 'eager', expected some of plain,compiled,checkpointing,reversible", "--variants", "eager")
        self.expect_refusal("found 'plain', expected some of eager,compiled", "--ranks", "2", "--variants", "plain")


    def test_precisions_depend_on_the_device(self):
        self.expect_refusal("--precision: found 'tf32' with --device cpu, expected some of fp32,bf16", "--precision",
                            "fp32,tf32")
        self.expect_refusal("--precision: found 'fp16' with --device cuda, expected some of fp32,tf32,bf16", "--device",
                            "cuda", "--precision", "fp16")

    def test_devices_are_known(self):
        self.expect_refusal("argument --device: invalid choice: 'rocm'", "--device", "rocm")

    def test_pipelines_are_compared_on_the_cpu_in_fp32(self):
        for words in (["--device", "cuda"], ["--precision", "bf16"]):
            self.expect_refusal("expected --device cpu --precision fp32", "--ranks", "2", *words)


class Variants(unittest.TestCase):
    def test_each_kind_in_each_precision(self):
        found = [label(*each) for each in combinations(["plain", "compiled"], ["fp32", "bf16"])]

        self.assertEqual(found, ["plain", "compiled", "plain-bf16", "compiled-bf16"])

    def test_old_versions_do_not_compile(self):
        self.assertEqual(default_kinds("1.13.1"), ["plain", "checkpointing", "reversible"])
        self.assertEqual(default_kinds("2.0.0+cu117"), ["plain", "compiled", "checkpointing", "reversible"])
        self.assertFalse(can_compile("1.13.0a0+debian"))
        self.assertTrue(can_compile("10.1"))

    def test_compiled_is_refused_by_old_versions(self):
        asked = types.SimpleNamespace(variants=["compiled"])

        self.assertEqual(choose_kinds(asked, "2.1.0"), ["compiled"])
        with self.assertRaisesRegex(CompareError, "--variants compiled: torch.compile came with PyTorch 2.0, and this is 1.13.1"):
            choose_kinds(asked, "1.13.1")

    def test_version_is_read_without_importing(self):
        with tempfile.TemporaryDirectory() as folder:
            Path(folder, "version.py").write_text("from typing import Optional\n__version__ = '2.3.1+cpu'\ndebug = False\n")

            self.assertEqual(version_of(folder), "2.3.1+cpu")

    def test_bounds_grow_with_rounding_and_depth_and_stay_below_half_the_norm(self):
        self.assertEqual(gradient_bound("fp32", 1000), 1e-2)
        self.assertLess(gradient_bound("tf32", 36), gradient_bound("bf16", 36))
        self.assertLess(gradient_bound("bf16", 9), gradient_bound("bf16", 36))
        self.assertEqual(gradient_bound("bf16", 10**6), 0.5)
        self.assertAlmostEqual(loss_bound("bf16", 36), 4 * 6 / 512)


class OneRankReport(unittest.TestCase):
    GPU = {"device": "Some GPU", "torch": "2.3.1", "compile_mode": "reduce-overhead", "compute_capability": "9.0",
           "device_bytes": 2**37, "driver": "550.1", "cuda": "12.4", "cudnn": 90100}

    def results(self):
        common = {"peak_memory_bytes": 2**30, "step_seconds_lowest": 0.5}
        theirs = {**common, "device_allocated_bytes": 2**28, "device_reserved_bytes": 2**29, "base_memory_bytes": 2**20,
                  "graph_skips": 0}
        return {"revode": {**common, "program": "revode", "precision": "fp32", "round_seconds": [1.0, 2.0]},
                "revode-tf32": {**common, "program": "revode", "precision": "tf32", "round_seconds": [0.5, 0.5]},
                "compiled-tf32": {**theirs, "program": "compiled", "precision": "tf32", "round_seconds": [1.0, 1.5]},
                "plain-bf16": {**theirs, "program": "plain", "precision": "bf16", "round_seconds": [3.0, 3.0]}}

    def test_each_stands_beside_revode_in_its_precision_else_in_fp32(self):
        results = self.results()

        summarize_one_rank(results, 10)

        self.assertEqual(results["compiled-tf32"]["beside"], "revode-tf32")
        self.assertEqual(results["compiled-tf32"]["revode_is_faster_by"], 2.5)
        self.assertEqual(results["plain-bf16"]["beside"], "revode")
        self.assertEqual(results["plain-bf16"]["revode_is_faster_by"], 2.25)

    def test_memory_of_the_gpu_is_that_of_revode_where_it_tells(self):
        results = self.results()
        results["revode"]["device_memory_bytes"] = 2**27

        summarize_one_rank(results, 10)
        _, revode, silent, compiled, plain = one_rank_table(results, True)

        self.assertTrue(revode.endswith(" 128"), revode)
        self.assertTrue(silent.endswith("not told"), silent)
        self.assertTrue(compiled.endswith("256 / 512"), compiled)
        self.assertEqual(plain.split()[-4:], "256 / 512 25%".split())

    def test_what_is_left_out_and_how_it_compiled_is_said(self):
        results = self.results()
        results["compiled-tf32"]["graph_skips"] = 2
        summarize_one_rank(results, 10)

        lines = notes(types.SimpleNamespace(device="cuda"), self.GPU, results, {"revode-bf16": "refused: no"})

        self.assertIn("revode-bf16: refused: no", lines)
        self.assertIn("Beside revode's fp32: plain-bf16.", lines)
        self.assertIn("compiled: torch.compile, mode reduce-overhead (CUDA graphs).", lines)
        self.assertTrue(any("without CUDA graphs 2 times" in line for line in lines))
        self.assertIn("driver 550.1, CUDA 12.4, cuDNN 90100", describe(self.GPU, "channels_last"))


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
                        "--steps", "1", "--threads", "1", "--variants", "plain,checkpointing,reversible", "--json",
                        str(file))

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

    def test_images_of_another_size_are_those_of_revode(self):
        file = self.folder / "result.json"

        ended = compare("--blocks", "1,1,1", "--widths", "4,6,10", "--image-size", "48", "--batch", "4", "--rounds", "1",
                        "--steps", "1", "--threads", "1", "--variants", "plain", "--json", str(file))

        self.assertEqual(ended.returncode, 0, ended.stderr + ended.stdout)
        self.assertIn("images 48 x 48, batch 4", ended.stdout)
        result = json.loads(file.read_text())
        self.assertEqual(result["image_size"], 48)
        (stage, *_) = result["results"]["revode"]["bench"][-1]["stages"]
        self.assertEqual((stage["height"], stage["width"]), (48, 48))
        # Both saw the same images.
        for errors in result["relative_errors"].values():
            self.assertLess(errors["loss"], 1e-5)
            self.assertLess(errors["gradient"], 1e-3)

    def test_a_checkpoint_is_for_images_of_its_size(self):
        trained = subprocess.run([REVODE, "--blocks", "1,1,1", "--widths", "4,6,10", "--image-size", "48", "--batch-size",
                                  "4", "--train-fraction", "0.001", "--steps", "1", "--output", str(self.folder / "run")],
                                 capture_output=True, text=True, timeout=240)
        self.assertEqual(trained.returncode, 0, trained.stderr)

        ended = compare("--checkpoint", str(self.folder / "run" / "latest.h5"), "--batch", "4", "--variants", "plain")

        self.assertEqual(ended.returncode, 1)
        self.assertIn("is for images [3, 48, 48] of 10 classes; expected a model for [3, 32, 32]", ended.stderr)

    def test_hamiltonian_agrees_and_is_timed(self):
        self.check_architecture("hamiltonian", "4,6,10")

    def test_leapfrog_agrees_and_is_timed(self):
        self.check_architecture("leapfrog", "3,6,7")

    def test_midpoint_agrees_and_is_timed(self):
        self.check_architecture("midpoint", "3,6,7")

    def test_bf16_is_timed_beside_what_revode_computes(self):
        file = self.folder / "result.json"

        ended = compare("--blocks", "1,1,1", "--widths", "4,6,10", "--batch", "4", "--rounds", "1", "--steps", "1",
                        "--threads", "1", "--variants", "plain,reversible", "--precision", "bf16", "--json", str(file))

        self.assertEqual(ended.returncode, 0, ended.stderr + ended.stdout)
        result = json.loads(file.read_text())
        self.assertLessEqual({"revode", "plain-bf16", "reversible-bf16"}, set(result["results"]))
        if "revode-bf16" not in result["results"]:
            self.assertIn("refused: --precision", result["left_out"]["revode-bf16"])
        for name in ("plain-bf16", "reversible-bf16"):
            # More than fp32's rounding, so bf16 it was.
            self.assertGreater(result["relative_errors"][name]["gradient"], 1e-4)

    def test_compiled_agrees_and_is_timed(self):
        file = self.folder / "result.json"

        ended = compare("--blocks", "1,1,1", "--widths", "2,4,6", "--batch", "4", "--rounds", "1", "--steps", "1",
                        "--threads", "1", "--variants", "compiled", "--json", str(file))
        if "torch.compile came with" in ended.stderr:
            self.skipTest("needs PyTorch 2.0")

        self.assertEqual(ended.returncode, 0, ended.stderr + ended.stdout)
        result = json.loads(file.read_text())
        if "compiled" in result["left_out"]:
            self.skipTest(result["left_out"]["compiled"])
        self.assertLess(result["relative_errors"]["compiled"]["gradient"], 1e-3)
        self.assertIn("compiled: torch.compile, mode default.", ended.stdout)

    def fake_gpu(self):
        """The program with --backend cuda computing on the CPU, and an environment in which PyTorch finds a GPU."""
        revode = self.folder / "revode"
        revode.write_text('#!/bin/sh\nfor word; do shift; [ "$word" = cuda ] && word=cpu; set -- "$@" "$word"; done\n'
                          f'exec "{Path(REVODE).resolve()}" "$@"\n')
        revode.chmod(0o755)
        fake = Path(__file__).resolve().parent / "fake_cuda"
        return {"revode": revode, "environment": {**os.environ, "PYTHONPATH": f"{fake}:{COMPARE.parent}",
                                                  "PYTHONDONTWRITEBYTECODE": "1"}}

    def test_the_way_of_a_gpu_runs_without_one(self):
        file = self.folder / "result.json"

        ended = compare("--device", "cuda", "--precision", "tf32,bf16", "--layout", "contiguous", "--blocks", "1,1,1",
                        "--widths", "2,4,6", "--batch", "4", "--rounds", "1", "--steps", "1", "--threads", "1", "--json",
                        str(file), **self.fake_gpu())

        self.assertEqual(ended.returncode, 0, ended.stderr + ended.stdout)
        result = json.loads(file.read_text())
        self.assertEqual((result["device"]["device"], result["device"]["compute_capability"]), ("Fake GPU", "9.0"))
        kinds = default_kinds(result["device"]["torch"])
        self.assertLessEqual({label(*each) for each in combinations(kinds, ["tf32", "bf16"])},
                             set(result["results"]))
        for name, measured in result["results"].items():
            if not name.startswith("revode"):
                self.assertEqual(measured["device_reserved_bytes"], 200 * 2**20)
        self.assertIn("100 / 200", ended.stdout)
        self.assertIn("Fake GPU", ended.stdout)

    def test_a_gpu_that_is_not_there_is_named(self):
        ended = compare("--device", "cuda", environment={**os.environ, "CUDA_VISIBLE_DEVICES": ""})

        self.assertEqual(ended.returncode, 1)
        self.assertIn("finds no GPU here", ended.stderr)
        self.assertIn("expected an NVIDIA GPU and a PyTorch built for CUDA", ended.stderr)
        self.assertNotIn("Traceback", ended.stderr)

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


@unittest.skipUnless(importlib.util.find_spec("torch") and importlib.util.find_spec("h5py"), "needs torch and h5py")
class CudaDevice(unittest.TestCase):
    def setUp(self):
        import torch
        from pytorch_device import CudaDevice as Device
        self.torch, self.device = torch, Device()
        for module, name in ((torch.backends.cuda.matmul, "allow_tf32"), (torch.backends.cudnn, "allow_tf32"),
                             (torch.backends.cudnn, "benchmark")):
            self.addCleanup(setattr, module, name, getattr(module, name))

    def test_tensor_cores_round_operands_in_tf32_only(self):
        for precision in ("tf32", "fp32", "tf32", "bf16"):
            self.device.set_precision(precision)

            self.assertEqual(self.torch.backends.cuda.matmul.allow_tf32, precision == "tf32")
            self.assertEqual(self.torch.backends.cudnn.allow_tf32, precision == "tf32")
            self.assertTrue(self.torch.backends.cudnn.benchmark)

    def test_compiles_to_cuda_graphs_that_may_write_running_statistics(self):
        dynamo = mock.Mock()
        with mock.patch.object(self.torch, "compile", create=True) as compiler, \
             mock.patch.object(self.torch, "_dynamo", dynamo, create=True):
            self.device.compile("function", ["mean", "variance"])

        compiler.assert_called_once_with("function", mode="reduce-overhead")
        self.assertEqual(dynamo.mark_static_address.call_args_list, [mock.call("mean"), mock.call("variance")])

    def test_both_ways_to_transpose_agree(self):
        from pytorch_training import transposed_on_cpu, transposed_on_cuda
        self.torch.manual_seed(1)
        x, kernel = self.torch.randn(2, 3, 5, 4).double(), self.torch.randn(3, 6, 3, 3).double()

        difference = transposed_on_cpu(x, kernel) - transposed_on_cuda(x, kernel)

        self.assertLess(difference.abs().max().item(), 1e-13)


if __name__ == "__main__":
    # Without torch the program itself says so, once its arguments are right.
    probe = compare("--revode", "/nonexistent/revode")
    if probe.returncode == 77:
        print(probe.stderr, end="", file=sys.stderr)
        del ComparePyTorch
    passed = unittest.main(exit=False).result.wasSuccessful()
    sys.exit(1 if not passed else 77 if probe.returncode == 77 else 0)
