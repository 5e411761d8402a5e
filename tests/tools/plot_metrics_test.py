#!/usr/bin/env python3
"""tools/plot_metrics.py draws runs into PNG and SVG, and says in one sentence what it cannot draw. 77: no matplotlib."""
import json
import os
import re
import subprocess
import sys
import tempfile
import unittest
from contextlib import redirect_stdout
from io import StringIO
from pathlib import Path
from unittest.mock import patch

sys.dont_write_bytecode = True

PLOT = Path(__file__).resolve().parents[2] / "tools" / "plot_metrics.py"
START = {"kind": "start", "version": "0.1.0", "revision": "abc", "host": "n0", "date": "2026-01-01T00:00:00Z", "ranks": 2}
CONFIG = "# Model\narch = hamiltonian\ndepth = 74\n\n# Data\ndataset = cifar10\n"


def start(*arguments):
    return subprocess.run([sys.executable, PLOT, *arguments], capture_output=True, text=True, timeout=120)


def import_script():
    """The script as a module: a process for each picture would take a second."""
    sys.path.insert(0, str(PLOT.parent))
    import plot_metrics
    return plot_metrics


def exit_of(*arguments):
    """What the script in this process leaves with: None, or its error."""
    with patch.object(sys, "argv", ["plot_metrics.py", *map(str, arguments)]), redirect_stdout(StringIO()):
        try:
            import_script().main()
        except SystemExit as end:
            return end.code
        finally:
            import_script().plt.close("all")
    return None


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

    def add(self, run, *records, config=None):
        """Further lines of a run's record, and its configuration."""
        with (run / "metrics.jsonl").open("a") as file:
            file.writelines(json.dumps(record) + "\n" for record in records)
        if config:
            (run / "config.ini").write_text(config)
        return run

    def svg(self, *runs):
        picture = self.folder / "picture.svg"
        self.assertIsNone(exit_of(*runs, "-o", picture))
        return picture.read_text()

    def expect_error(self, words, *arguments):
        error = exit_of(*arguments, "-o", self.folder / "x.png")
        self.assertTrue(error.startswith("plot_metrics: error: "), error)
        self.assertEqual(error.count("\n"), 0, error)
        self.assertIn(words, error)
        self.assertFalse((self.folder / "x.png").exists())

    def test_several_runs_are_drawn_and_named_in_svg_and_png(self):
        runs = [self.make_run("first"), self.make_run("second", tail='{"kind": "st')]

        svg, png = self.folder / "a.svg", self.folder / "a.png"
        for picture in (svg, png):
            result = start(*runs, "-o", picture)
            self.assertEqual(result.returncode, 0, result.stderr)

        for words in ("first", "second", "45.0 %", "learning rate", "epoch"):
            self.assertIn(words, svg.read_text())
        self.assertEqual(png.read_bytes()[:8], b"\x89PNG\r\n\x1a\n")

    def test_axis_ends_at_the_number_of_epochs(self):
        ticks = re.findall(r">\s*(\d+)(?:\.0)?\s*</text>", self.svg(self.make_run("three", epochs=3)))
        self.assertIn("3", ticks)
        self.assertNotIn("4", ticks)

    def test_run_within_its_first_epoch_is_drawn_over_steps(self):
        self.assertIn(">step<", self.svg(self.make_run("young", epochs=0)))

    def test_evaluation_at_the_end_is_the_last_test_point(self):
        end = {"kind": "end", "epoch": 3, "step": 34, "test_loss": 0.9, "test_accuracy": 0.72}
        run = self.add(self.make_run("more"), end)

        svg = self.svg(run)

        self.assertIn("72.0 %", svg)
        self.assertNotIn("45.0 %", svg)

    def test_short_run_shows_its_only_test_point(self):
        run = self.add(self.make_run("young", epochs=0), {"kind": "end", "epoch": 0, "step": 12, "test_loss": 2.1,
                                                          "test_accuracy": 0.313})
        self.assertIn("31.3 %", self.svg(run))

    def test_starts_and_epochs_without_an_evaluation_are_read(self):
        run = self.add(self.make_run("rare", epochs=2), START,
                       {"kind": "epoch", "epoch": 2, "step": 30, "train_loss": 1.2, "train_accuracy": 0.5})
        self.assertIn("35.0 %", self.svg(run))

        only_start = self.folder / "begun"
        only_start.mkdir()
        self.expect_error("no step or epoch records", self.add(only_start, START))

    def test_title_names_run_network_and_dataset_where_the_configuration_is_known(self):
        known, same, unknown = [self.make_run(name) for name in ("known", "same", "unknown")]
        self.add(known, config=CONFIG)
        self.add(same, config=CONFIG)

        self.assertIn(">known: hamiltonian-74 on cifar10<", self.svg(known))
        self.assertIn(">hamiltonian-74 on cifar10<", self.svg(known, same))
        self.assertIn(">known (hamiltonian-74 on cifar10)<", self.svg(known, unknown))
        self.assertIn(">unknown<", self.svg(known, unknown))

    def test_training_and_test_differ_in_colour_for_one_and_for_several_runs(self):
        plot_metrics = import_script()
        for count in (1, 2, 8):
            colours = [plot_metrics.matplotlib.colors.to_hex(style["color"])
                       for pair in plot_metrics.styles(count) for style in pair]
            self.assertEqual(len(set(colours)), 2 * count, colours)

    def test_labels_stand_beside_the_panel_and_apart(self):
        plot_metrics = import_script()
        runs = [self.make_run(name) for name in ("one", "two", "three")]
        figure = plot_metrics.draw([plot_metrics.Run(run) for run in runs], None)
        figure.draw_without_rendering()

        for axis in figure.axes[:2]:
            boxes = sorted((text.get_window_extent() for text in axis.texts), key=lambda box: box.y0)
            self.assertEqual(len(boxes), 3)
            for box in boxes:
                self.assertGreater(box.x0, axis.bbox.x1)
                self.assertLess(box.x1, figure.bbox.x1)
            for lower, upper in zip(boxes, boxes[1:]):
                self.assertGreaterEqual(upper.y0 - lower.y0, 9)

    def test_constant_rate_has_an_axis_from_zero(self):
        plot_metrics = import_script()
        figure = plot_metrics.draw([plot_metrics.Run(self.make_run("constant", epochs=2))], None)

        low, high = figure.axes[2].get_ylim()
        self.assertEqual(low, 0)
        self.assertTrue(0.1 < high < 0.2)

    def test_what_cannot_be_drawn_is_one_clear_sentence(self):
        (self.folder / "empty").mkdir()
        self.expect_error("holds no metrics.jsonl", self.folder / "empty")
        (self.folder / "empty" / "metrics.jsonl").touch()
        self.expect_error("no step or epoch records", self.folder / "empty")
        self.expect_error("no such run", self.folder / "absent")
        damaged = self.make_run("damaged", tail='{"kind":\n{"kind": "step"}\n')
        self.expect_error("line 10 is no JSON object", damaged)


if __name__ == "__main__":
    if "needs matplotlib" in start("--help").stderr:
        print("SKIPPED: python3-matplotlib is not installed")
        sys.exit(77)
    # As the script does: the first python3 on the PATH need not be Debian's, to which matplotlib belongs.
    try:
        import matplotlib  # noqa: F401
    except ImportError:
        os.execv("/usr/bin/python3", ["/usr/bin/python3", *sys.argv])
    unittest.main()
