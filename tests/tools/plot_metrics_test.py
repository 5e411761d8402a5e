#!/usr/bin/env python3
"""tools/plot_metrics.py draws runs into PNG and SVG, and says in one sentence what it cannot draw. 77: no matplotlib."""
import json
import re
import subprocess
import sys
import tempfile
import unittest
from pathlib import Path

PLOT = Path(__file__).resolve().parents[2] / "tools" / "plot_metrics.py"


def plot(*arguments):
    return subprocess.run([sys.executable, PLOT, *arguments], capture_output=True, text=True, timeout=120)


class PlotMetrics(unittest.TestCase):
    def setUp(self):
        scratch = tempfile.TemporaryDirectory()
        self.addCleanup(scratch.cleanup)
        self.folder = Path(scratch.name)

    def make_run(self, name, epochs=3, tail=""):
        folder = self.folder / name
        folder.mkdir()
        lines = []
        for epoch in range(max(epochs, 1)):
            for step in range(10 * epoch + 5, 10 * epoch + 11, 5):
                lines.append({"kind": "step", "epoch": epoch, "step": step, "loss": 2 - 0.01 * step,
                              "accuracy": 0.01 * step, "learning_rate": 0.1 if epoch < 2 else 0.01})
            if epochs:
                lines.append({"kind": "epoch", "epoch": epoch, "step": 10 * (epoch + 1), "train_loss": 1.5,
                              "train_accuracy": 0.3, "test_loss": 1.6 - 0.1 * epoch, "test_accuracy": 0.25 + 0.1 * epoch})
        (folder / "metrics.jsonl").write_text("".join(json.dumps(line) + "\n" for line in lines) + tail)
        return folder

    def expect_error(self, words, *arguments):
        result = plot(*arguments, "-o", self.folder / "x.png")
        self.assertEqual(result.returncode, 1)
        self.assertEqual(len(result.stderr.strip().splitlines()), 1, result.stderr)
        self.assertIn(words, result.stderr)
        self.assertFalse((self.folder / "x.png").exists())

    def test_several_runs_are_drawn_and_named_in_svg_and_png(self):
        runs = [self.make_run("first"), self.make_run("second", tail='{"kind": "st')]

        svg, png = self.folder / "a.svg", self.folder / "a.png"
        for picture in (svg, png):
            result = plot(*runs, "-o", picture)
            self.assertEqual(result.returncode, 0, result.stderr)

        for words in ("first", "second", "45.0 %", "learning rate", "epoch"):
            self.assertIn(words, svg.read_text())
        self.assertEqual(png.read_bytes()[:8], b"\x89PNG\r\n\x1a\n")

    def test_axis_ends_at_the_number_of_epochs(self):
        svg = self.folder / "axis.svg"
        plot(self.make_run("three", epochs=3), "-o", svg)
        ticks = re.findall(r">\s*(\d+)(?:\.0)?\s*</text>", svg.read_text())
        self.assertIn("3", ticks)
        self.assertNotIn("4", ticks)

    def test_run_within_its_first_epoch_is_drawn_over_steps(self):
        svg = self.folder / "a.svg"

        result = plot(self.make_run("young", epochs=0), "-o", svg)

        self.assertEqual(result.returncode, 0, result.stderr)
        self.assertIn(">step<", svg.read_text())

    def test_what_cannot_be_drawn_is_one_clear_sentence(self):
        (self.folder / "empty").mkdir()
        self.expect_error("holds no metrics.jsonl", self.folder / "empty")
        (self.folder / "empty" / "metrics.jsonl").touch()
        self.expect_error("no step or epoch records", self.folder / "empty")
        self.expect_error("no such run", self.folder / "absent")
        damaged = self.make_run("damaged", tail='{"kind":\n{"kind": "step"}\n')
        self.expect_error("line 10 is no JSON object", damaged)


if __name__ == "__main__":
    if "needs matplotlib" in plot("--help").stderr:
        print("SKIPPED: python3-matplotlib is not installed")
        sys.exit(77)
    unittest.main()
