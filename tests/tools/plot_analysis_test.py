#!/usr/bin/env python3
"""tools/plot_analysis.py draws what revode analyze and tools/analyze_baseline.py write, and says in one sentence what it
cannot draw. 77: no matplotlib.

    plot_analysis_test.py [REVODE]    with the program: what it writes is drawn
"""
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

PLOT = Path(__file__).resolve().parents[2] / "tools" / "plot_analysis.py"
REVODE = sys.argv[1] if len(sys.argv) > 1 else None


def start(*arguments):
    return subprocess.run([sys.executable, PLOT, *map(str, arguments)], capture_output=True, text=True, timeout=120)


def exit_of(*arguments):
    """What the script leaves with: None, or its error. In this process: one for each picture would take a second."""
    sys.path.insert(0, str(PLOT.parent))
    import plot_analysis
    with patch.object(sys, "argv", ["plot_analysis.py", *map(str, arguments)]), redirect_stdout(StringIO()):
        try:
            plot_analysis.main()
        except SystemExit as end:
            return end.code
        finally:
            plot_analysis.plt.close("all")
    return None


def block(number, stage, **changes):
    return {"block": number, "stage": stage, "block_in_stage": 0, "eigenvalues": [[[0, 2.5], [0, -2.5]], [[1e-8, 2]]],
            "h_spectral_radius": [0.25, 0.2], "real_share": [0, 1e-8], "h_numerical_abscissa": [0.1, 0.2],
            "perturbation_growth": [1.1, 1.2], "state_rms": [0.5, 0.6], "state_largest": [3, 4], "adjoint_growth": [1, 2],
            "reversal_error": 0, "values_differing": 0, "reversal_error_without_grid": 1e-7, "kernel_rms": [0.1, 0.1],
            "bias_rms": [0, 0], "weight_change": [None, None] if number == 0 else [0.5, 0.6], **changes}


def analysis(*blocks, **changes):
    growth = [{"stage": b["stage"], "first_block": b["block"], "last_block": b["block"],
               "largest_singular_value": [1.5, 1.6]} for b in blocks]
    return {"arch": "hamiltonian", "step_size": 0.1, "stability_bound": 2, "blocks": list(blocks), "growth": growth, **changes}


class PlotAnalysis(unittest.TestCase):
    def setUp(self):
        scratch = tempfile.TemporaryDirectory()
        self.addCleanup(scratch.cleanup)
        self.folder = Path(scratch.name)

    def write(self, name, content):
        file = self.folder / name
        file.write_text(json.dumps(content))
        return file

    def svg(self, *arguments):
        self.assertIsNone(exit_of(*arguments, "-o", self.folder / "picture.svg"))
        return (self.folder / "picture.svg").read_text()

    def expect_error(self, parts, *arguments):
        error = exit_of(*arguments)
        self.assertTrue(error.startswith("plot_analysis: error: ") and error.count("\n") == 0, error)
        for part in parts:
            self.assertIn(part, error)

    def test_two_networks(self):
        ours = self.write("ours.json", analysis(block(0, 1), block(1, 1), block(2, 2)))
        # As a ResNet's: no bound, nothing rebuilt, no second image converged.
        theirs = self.write("theirs.json", analysis(
            block(0, 1, reversal_error=None, reversal_error_without_grid=None, h_spectral_radius=[1.5, None],
                  eigenvalues=[[[1.2, 0.1]], []]), stability_bound=None, step_size=1))
        picture = self.folder / "two.svg"
        done = start(ours, theirs, "--labels", "revode,ResNet", "--title", "two", "-o", picture)
        self.assertEqual((done.returncode, done.stderr), (0, ""))
        svg = picture.read_text()
        for text in ("revode", "ResNet", "two", "reversal error", "revode: 0 on the grid"):
            self.assertIn(f">{text}<", svg)
        self.assertNotIn("ResNet: 0 on the grid", svg)

    def test_eigenvalues_are_drawn_once_each_in_their_place(self):
        svg = self.svg(self.write("one.json", analysis(block(0, 1))))
        plane = svg[svg.index('id="axes_1"'):svg.index('id="axes_2"')]
        markers = re.findall(r'<use xlink:href="#\w+" x="([\d.]+)" y="([\d.]+)" style="fill: #0072b2', plane)
        self.assertEqual(len(markers), 3)
        (left, top), (middle, bottom), (right, inner) = [(float(x), float(y)) for x, y in markers]
        self.assertTrue(top < inner < bottom, markers)
        # Rounding errors do not fill the width.
        self.assertTrue(max(left, middle, right) - min(left, middle, right) < 0.1, markers)

    @unittest.skipIf(REVODE is None, "the program was not named")
    def test_what_the_program_writes(self):
        file = self.folder / "analysis.json"
        subprocess.run([REVODE, "analyze", "--blocks", "2,1,1", "--widths", "4,4,6", "--samples", "0:1", "--threads", "1",
                        "--json", file], check=True, stdout=subprocess.DEVNULL, timeout=250)
        self.assertIn("analysis: 0 on the grid", self.svg(file))

    def test_refusals(self):
        picture = self.folder / "picture.png"
        self.expect_error(["absent.json"], self.folder / "absent.json", "-o", picture)
        text = self.folder / "text.json"
        text.write_text("no JSON")
        self.expect_error(["text.json", "no JSON"], text, "-o", picture)
        self.expect_error(["holds no blocks", "revode analyze --json"], self.write("other.json", {"loss": 1}), "-o", picture)
        good = self.write("good.json", analysis(block(0, 1)))
        self.expect_error(["picture.bmp", ".png, .svg or .pdf"], good, "-o", self.folder / "picture.bmp")
        self.expect_error(["--labels names 2", "1 files"], good, "-o", picture, "--labels", "a,b")
        self.assertFalse(picture.exists())


if __name__ == "__main__":
    if "needs matplotlib" in start("--help").stderr:
        print("SKIPPED: python3-matplotlib is not installed")
        sys.exit(77)
    # As the script does: the first python3 on the PATH need not be Debian's, to which matplotlib belongs.
    try:
        import matplotlib  # noqa: F401
    except ImportError:
        os.execv("/usr/bin/python3", ["/usr/bin/python3", *sys.argv])
    unittest.main(argv=sys.argv[:1])
