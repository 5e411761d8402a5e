#!/usr/bin/env python3
"""Draws what `revode analyze --json` and tools/analyze_baseline.py found of one or several networks.

    tools/plot_analysis.py FILE [FILE...] -o FILE.png|.svg|.pdf [--labels A,B,..] [--title TEXT]

Eight panels. Eigenvalues times the step size, of all blocks and images, in the plane of complex numbers, with the imaginary
axis and the largest bound of stability; then by depth, as median and range over the images: step size times the largest
eigenvalue and the bound, the numerical abscissa, how much perturbations grow (a random one, and the one that grows most,
from where a stage begins), the adjoint of the loss (from where a stage ends), the reversal error (filled: on the grid;
0 is not on the axis and is said in the legend), the states and the weights' change from block to block.
"""
import argparse
import json
import math
import os
import sys
from pathlib import Path

try:
    import matplotlib
except ImportError:
    # Debian's modules belong to Debian's python, which need not be the first on the PATH.
    if os.path.realpath(sys.executable) != os.path.realpath("/usr/bin/python3") and os.path.exists("/usr/bin/python3"):
        os.execv("/usr/bin/python3", ["/usr/bin/python3", *sys.argv])
    sys.exit("plot_analysis: error: needs matplotlib (Debian: python3-matplotlib)")
matplotlib.use("Agg")
import matplotlib.pyplot as plt  # noqa: E402

# Okabe and Ito's colours, which people who see colours differently can tell apart.
COLOURS = ["#0072B2", "#D55E00", "#009E73", "#CC79A7", "#56B4E9", "#E69F00", "#000000", "#999999"]
MARKERS = "os^DvPX*"
MOST_MARKERS = 200  # of one network, as shapes of their own in a vector file


class PlotError(Exception):
    """One sentence for the user."""


class Analysis:
    def __init__(self, path):
        try:
            self.found = json.loads(Path(path).read_text(encoding="utf-8"))
        except OSError as error:
            raise PlotError(f"cannot read {path}: {error.strerror}") from None
        except ValueError as error:
            raise PlotError(f"{path} is no JSON: {error}") from None
        if not isinstance(self.found, dict) or not self.found.get("blocks") or "growth" not in self.found:
            raise PlotError(f"{path} holds no blocks; expected a file of revode analyze --json")
        self.name = Path(path).stem
        self.blocks = self.found["blocks"]
        self.step_size = self.found["step_size"]
        self.bound = self.found["stability_bound"]

    def eigenvalues(self):
        """All that were found, times the step size."""
        values = [value for block in self.blocks for image in block["eigenvalues"] for value in image]
        return [self.step_size * re for re, _ in values], [self.step_size * im for _, im in values]

    def stages(self):
        """(first, last) block of each stage."""
        numbers = [block["stage"] for block in self.blocks]
        return [(numbers.index(s), len(numbers) - 1 - numbers[::-1].index(s)) for s in sorted(set(numbers))]

    def by_depth(self, key):
        """Blocks, and median, lowest and highest over the images; NaN where there is nothing, and between stages."""
        columns = [[], [], [], []]
        for first, last in self.stages():
            for block in range(first, last + 1):
                values = self.blocks[block].get(key)
                values = values if isinstance(values, list) else [values]
                append(columns, self.blocks[block]["block"], values)
            append(columns, math.nan, [])
        return columns

    def growth(self):
        columns = [[], [], [], []]
        stage = None
        for run in self.found["growth"]:
            if stage not in (None, run["stage"]):
                append(columns, math.nan, [])
            stage = run["stage"]
            append(columns, run["last_block"], run["largest_singular_value"])
        return columns


def append(columns, x, values):
    values = sorted(value for value in values if isinstance(value, (int, float)))
    middle = len(values) // 2
    median = values[middle] if len(values) % 2 else (values[middle - 1] + values[middle]) / 2 if values else math.nan
    for column, value in zip(columns, (x, median, *((values[0], values[-1]) if values else (math.nan, math.nan)))):
        column.append(value)


def draw_line(axis, columns, style, label=None, filled=True):
    x, median, low, high = columns
    if all(math.isnan(value) for value in median):
        return
    face = style["color"] if filled else "white"
    axis.plot(x, median, linewidth=1.1, markersize=3.2, markerfacecolor=face, markeredgewidth=0.8, label=label, **style)
    axis.fill_between(x, low, high, color=style["color"], alpha=0.15, linewidth=0)


def draw_plane(axis, analyses, styles):
    bound = max(analysis.bound for analysis in analyses if analysis.bound) if any(a.bound for a in analyses) else None
    axis.axvline(0, color="#555555", linewidth=0.8)
    largest = 0
    for analysis, style in zip(analyses, styles):
        re, im = analysis.eigenvalues()
        largest = max([largest, *map(abs, im)])
        # Thousands of points would make a file of half a megabyte.
        axis.plot(re, im, linestyle="none", marker=style["marker"], color=style["color"], markersize=2.6, alpha=0.6,
                  markeredgewidth=0, rasterized=len(re) > MOST_MARKERS)
    if bound and bound < 3 * largest:
        for sign in (-1, 1):
            axis.axhline(sign * bound, color="#555555", linewidth=0.8, linestyle=":")
    low, high = axis.get_xlim()
    # Rounding errors are not to fill the width.
    width = max(abs(low), abs(high), 0.1 * largest)
    axis.set_xlim(-width, width)
    axis.set_xlabel("Re h λ")
    axis.set_ylabel("Im h λ")


def draw_reversal(axis, analyses, styles, labels):
    for analysis, style, label in zip(analyses, styles, labels):
        x, median, *_ = on_grid = analysis.by_depth("reversal_error")
        known = [value for value in median if not math.isnan(value)]
        if known and not any(known):
            axis.plot([], [], linestyle="none", label=f"{label}: 0 on the grid", marker=style["marker"], markersize=3.2,
                      color=style["color"])
        else:
            draw_line(axis, on_grid, style)
        draw_line(axis, analysis.by_depth("reversal_error_without_grid"), style, filled=False)
    if axis.lines:
        axis.set_yscale("log")
    if any(not line.get_label().startswith("_") for line in axis.lines):
        axis.legend(frameon=False, fontsize=6.5, loc="best", handletextpad=0.2)
    axis.set_ylabel("reversal error")


def draw(analyses, labels, title):
    plt.rcParams.update({"font.size": 8, "axes.spines.top": False, "axes.spines.right": False, "axes.grid": True,
                         "grid.color": "#e4e4e4", "grid.linewidth": 0.6, "axes.axisbelow": True,
                         "svg.fonttype": "none", "svg.hashsalt": "revode"})
    figure, axes = plt.subplots(2, 4, figsize=(13, 5.6), constrained_layout=True)
    styles = [{"color": COLOURS[k % len(COLOURS)], "marker": MARKERS[k % len(MARKERS)]} for k in range(len(analyses))]
    (plane, radius, abscissa, perturbation), (adjoint, reversal, state, change) = axes
    draw_plane(plane, analyses, styles)
    draw_reversal(reversal, analyses, styles, labels)
    by_key = [(radius, "h_spectral_radius", "h |λ| at most"), (abscissa, "h_numerical_abscissa", "h × numerical abscissa"),
              (perturbation, "perturbation_growth", "growth: random (hollow), most (filled)"),
              (adjoint, "adjoint_growth", "adjoint / that at the stage's end"), (state, "state_rms", "state (rms)"),
              (change, "weight_change", "|change of weights| / |weights|")]
    for axis, key, name in by_key:
        for analysis, style in zip(analyses, styles):
            draw_line(axis, analysis.by_depth(key), style, filled=axis is not perturbation)
        axis.set_ylabel(name)
    for analysis, style in zip(analyses, styles):
        draw_line(perturbation, analysis.growth(), style)
        if analysis.bound:
            x = [block["block"] for block in analysis.blocks]
            radius.plot([x[0], x[-1]], [analysis.bound] * 2, color=style["color"], linewidth=0.9, linestyle=":")
    for axis in (perturbation, adjoint, state):
        values = [v for line in axis.lines for v in line.get_ydata() if v > 0]
        if values and max(values) > 20 * min(values):
            axis.set_yscale("log")
    for axis in (abscissa, radius, change):
        if not axis.lines:
            axis.text(0.5, 0.5, "none", transform=axis.transAxes, ha="center", color="#777777")
    for axis in (radius, abscissa, perturbation, adjoint, reversal, state, change):
        axis.set_xlabel("block")
    handles = [plt.Line2D([], [], linewidth=1.4, markersize=4, label=label, **style) for label, style in zip(labels, styles)]
    figure.get_layout_engine().set(rect=(0, 0, 1, 0.9 if title else 0.94))
    figure.legend(handles=handles, loc="upper center", ncol=min(5, len(handles)), frameon=False,
                  bbox_to_anchor=(0.5, 0.96 if title else 1.0))
    if title:
        figure.suptitle(title, fontsize=10, y=0.99)
    return figure


def main():
    parser = argparse.ArgumentParser(prog="tools/plot_analysis.py", description=__doc__, allow_abbrev=False,
                                     formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("files", metavar="FILE", nargs="+")
    parser.add_argument("-o", "--output", metavar="FILE", required=True, help="picture; the ending decides the format")
    parser.add_argument("--labels", metavar="A,B,..", help="a name a file (default: the files' own)")
    parser.add_argument("--title")
    arguments = parser.parse_args()
    try:
        if Path(arguments.output).suffix.lower() not in (".png", ".svg", ".pdf"):
            raise PlotError(f"--output {arguments.output} ends in no known format; expected .png, .svg or .pdf")
        analyses = [Analysis(path) for path in arguments.files]
        labels = arguments.labels.split(",") if arguments.labels else [analysis.name for analysis in analyses]
        if len(labels) != len(analyses):
            raise PlotError(f"--labels names {len(labels)}, expected one for each of the {len(analyses)} files")
        figure = draw(analyses, labels, arguments.title)
        figure.savefig(arguments.output, dpi=150)
    except (PlotError, OSError) as error:
        sys.exit(f"plot_analysis: error: {error}")
    print(f"wrote {arguments.output}")


if __name__ == "__main__":
    main()
