#!/usr/bin/env python3
"""tools/compare_pytorch.py REVODE: every variant computes revode's gradient, and all are timed. 77: no torch or no h5py, so
that only arguments were tested."""
import json
import subprocess
import sys
import tempfile
import unittest
from pathlib import Path

COMPARE = Path(__file__).resolve().parents[2] / "tools" / "compare_pytorch.py"
REVODE = sys.argv.pop(1)


def compare(*arguments):
    return subprocess.run([sys.executable, COMPARE, "--revode", REVODE, *arguments], capture_output=True, text=True,
                          timeout=240)


class Arguments(unittest.TestCase):
    def test_an_unknown_variant_is_refused(self):
        ended = compare("--variants", "plain,fast")

        self.assertEqual(ended.returncode, 2, ended.stderr)
        self.assertIn("found 'fast', expected some of plain,checkpointing,reversible", ended.stderr)


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
