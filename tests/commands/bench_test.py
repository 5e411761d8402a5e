#!/usr/bin/env python3
"""bench_test.py REVODE MPIEXEC NUMPROC_FLAG RANKS: what `revode bench` reports is complete and adds up. Never how fast it is."""
import functools
import json
import math
import subprocess
import sys
import tempfile
import unittest
from pathlib import Path

REVODE, *LAUNCHER = sys.argv[1:]
RANKS = int(LAUNCHER[-1])
NETWORK = ["--blocks", "2,1,2", "--widths", "4,8,14", "--batch-size", "6", "--micro-batches", "2", "--threads", "1",
           "--train-fraction", "0.02"]
# Operations of one convolution of one image at the three stages: slots of half the width for hamiltonian.
SIZES = (32 * 32, 16 * 16, 8 * 8)


def bench(*arguments):
    return subprocess.run([*LAUNCHER, REVODE, "bench", *NETWORK, "--steps", "2", *arguments], capture_output=True,
                          text=True, timeout=240)


@functools.lru_cache
def result_of(*arguments):
    """Of one run for all tests that ask for the same."""
    ended = bench("--json", "-", *arguments)
    if ended.returncode:
        raise AssertionError(ended.stderr + ended.stdout)
    return json.loads(ended.stdout)


class Bench(unittest.TestCase):
    def expected_gflop(self, channels, couplings, convolutions):
        return sum(2 * 9 * c * c * size * n for c, size, n in zip(channels, SIZES, couplings)) * convolutions * 6 / 1e9

    def check_counts(self, result, gflop):
        self.assertTrue(math.isclose(sum(stage["gflop"] for stage in result["stages"]), gflop, rel_tol=1e-9))
        self.assertTrue(math.isclose(result["effective_gflops"] * result["step_seconds"], gflop, rel_tol=1e-9))
        self.assertTrue(math.isclose(result["peak_share"], result["effective_gflops"] / result["peak_gflops"],
                                     rel_tol=1e-9))
        self.assertTrue(math.isclose(result["images_per_second"] * result["step_seconds"], 6, rel_tol=1e-9))

    def test_names_what_was_measured_and_where(self):
        result = result_of()

        self.assertEqual(result["ranks"], RANKS)
        self.assertEqual(len(result["peak_memory_bytes"]), RANKS)
        self.assertEqual(result["steps"], 2)
        self.assertEqual(result["threads"], 1)
        for key in ("version", "revision", "processor", "backend"):
            self.assertTrue(result[key], key)
        for key in ("images_per_second", "step_seconds", "effective_gflops", "peak_gflops", "peak_share", "body_share",
                    "forward_seconds", "forward_share"):
            self.assertGreater(result[key], 0, key)
        self.assertLessEqual(result["step_seconds_lowest"], result["step_seconds"])
        self.assertLessEqual(result["step_seconds"], result["step_seconds_highest"])
        for use in ("weights", "gradients", "momentum", "packed_weights", "state", "stash", "workspace"):
            self.assertGreater(min(result["peak_bytes_by_use"][use]), 0, use)
        for all_bytes, apart in zip(result["peak_memory_bytes"], result["peak_bytes_apart_from_parameters"]):
            self.assertLess(0, apart)
            self.assertLess(apart, all_bytes)

    def test_phases_fill_the_step_and_no_more(self):
        result = result_of()

        for rank in range(RANKS):
            phases = {p["phase"]: p for p in result["phases"] if p["rank"] == rank}
            total = sum(p["seconds_mean"] for p in phases.values())
            self.assertTrue(math.isclose(total, result["step_seconds_mean"], rel_tol=1e-9), total)
            self.assertGreaterEqual(phases["rest"]["seconds_lowest"], 0)
            self.assertTrue(all(p["seconds_lowest"] >= 0 for p in phases.values()))
        names = {p["phase"] for p in result["phases"]}
        self.assertLessEqual({"data", "opening", "transitions", "closing", "regularization", "optimizer", "waiting",
                              *(f"stage {k} {way}" for k in (1, 2, 3) for way in ("forward", "back"))}, names)

    def test_stages_lie_on_the_ranks_that_own_them(self):
        stages = result_of()["stages"]

        self.assertEqual({stage["rank"] for stage in stages}, set(range(RANKS)))
        for k, couplings in enumerate((4, 2, 4), start=1):
            self.assertEqual(sum(s["couplings"] for s in stages if s["stage"] == k), couplings)
        for stage in stages:
            self.assertTrue(stage["kernel"])
            self.assertGreater(stage["forward_seconds"], 0)
            self.assertGreater(stage["share"], 0)

    def test_counts_direct_convolutions(self):
        self.check_counts(result_of(), self.expected_gflop((2, 4, 7), (4, 2, 4), 8))
        if RANKS > 1:
            return
        self.check_counts(result_of("--activations", "store"), self.expected_gflop((2, 4, 7), (4, 2, 4), 6))
        for activations, convolutions in (("reverse", 4), ("store", 3)):
            self.check_counts(result_of("--arch", "midpoint", "--activations", activations),
                              self.expected_gflop((4, 8, 14), (2, 1, 2), convolutions))

    def test_prints_tables_and_writes_the_file(self):
        with tempfile.TemporaryDirectory() as folder:
            file = Path(folder, "bench.json")

            ended = bench("--json", str(file), "--backend", "reference")

            self.assertEqual(ended.returncode, 0, ended.stderr)
            self.assertGreater(json.loads(file.read_text())["images_per_second"], 0)
            self.assertIn("plain loops", ended.stdout)
            for words in ("training step", "forward only", "FMA peak", "stage 1 back", "peak memory"):
                self.assertIn(words, ended.stdout)
            self.assertEqual(ended.stdout.count("training step"), 1)

    def test_refuses_no_steps_and_too_large_batches(self):
        for arguments, words in ((["--steps", "0"], "--steps 0"), (["--batch-size", "90000"], "--batch-size 90000")):
            ended = subprocess.run([*LAUNCHER, REVODE, "bench", "--blocks", "1,1,1", "--widths", "4,4,4", *arguments],
                                   capture_output=True, text=True, timeout=240)
            self.assertEqual(ended.returncode, 2, ended.stderr)
            self.assertIn(words, ended.stderr)
            self.assertEqual(ended.stderr.count("revode: error:"), 1, ended.stderr)


if __name__ == "__main__":
    unittest.main(argv=sys.argv[:1])
