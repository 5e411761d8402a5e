#!/usr/bin/env python3
"""Draws test accuracy against the share of training images, from results of tools/reproduce.

    tools/reproduce_figure.py docs/results/figure3/*.json -o docs/figure3.svg

Markers are medians over seeds, bars reach from the least to the most, and small dots are the single runs.
Exit status 77: there is no matplotlib.
"""
import argparse
import os
import statistics
import sys
from pathlib import Path

sys.dont_write_bytecode = True
try:
    import matplotlib
except ImportError:
    # Debian's modules belong to Debian's python, which need not be the first on the PATH.
    if os.path.realpath(sys.executable) != os.path.realpath("/usr/bin/python3") and os.path.exists("/usr/bin/python3"):
        os.execv("/usr/bin/python3", ["/usr/bin/python3", *sys.argv])
    print("reproduce_figure: error: needs matplotlib (Debian: python3-matplotlib)", file=sys.stderr)
    sys.exit(77)
matplotlib.use("Agg")
import matplotlib.pyplot as plt  # noqa: E402
from matplotlib.ticker import FixedLocator, FuncFormatter, NullLocator  # noqa: E402

from reproduce_results import ReproduceError, group, read_result  # noqa: E402

# Okabe and Ito's colours, which people who see colours differently can tell apart; markers and lines do so in print.
LOOKS = {"hamiltonian-74": ("#0072B2", "o", "-"), "resnet-32": ("#D55E00", "s", "--"),
         "leapfrog-62": ("#009E73", "^", "-."), "midpoint-62": ("#CC79A7", "D", ":")}
OTHER = ("#000000", "v", "-")
NUDGE = 0.04  # of the share of images: networks stand beside each other, so that their bars do


def draw(results):
    plt.rcParams.update({"font.size": 9, "axes.spines.top": False, "axes.spines.right": False, "axes.axisbelow": True,
                         "svg.fonttype": "none", "svg.hashsalt": "revode"})
    groups = group(results)
    fractions = sorted({fraction for values in groups.values() for fraction in values})
    figure, axis = plt.subplots(figsize=(5.2, 3.6), layout="constrained")
    for index, (network, values) in enumerate(groups.items()):
        colour, marker, line = LOOKS.get(network, OTHER)
        shift = 1 + NUDGE * (index - 0.5)  # the first two stand around the tick
        at = [100 * fraction * shift for fraction in values]
        middle = [100 * statistics.median(v) for v in values.values()]
        bars = [[m - 100 * v[0] for m, v in zip(middle, values.values())],
                [100 * v[-1] - m for m, v in zip(middle, values.values())]]
        axis.errorbar(at, middle, yerr=bars, color=colour, marker=marker, linestyle=line, markersize=6, linewidth=1.4,
                      capsize=3, label=network, zorder=3)
        for x, runs in zip(at, values.values()):
            if len(runs) > 1:
                axis.plot([x] * len(runs), [100 * v for v in runs], ".", color=colour, markersize=3, zorder=4)
    axis.set_xscale("log")
    axis.set_xlim(100 * fractions[0] / 1.15, 100 * fractions[-1] * 1.15)
    axis.xaxis.set_major_locator(FixedLocator([100 * fraction for fraction in fractions]))
    axis.xaxis.set_minor_locator(NullLocator())
    axis.xaxis.set_major_formatter(FuncFormatter(lambda value, _: f"{value:g} %"))
    axis.set_xlabel("training images in use")
    axis.set_ylabel("test accuracy (%)")
    axis.grid(color="#e4e4e4", linewidth=0.6)
    axis.legend(frameon=False, loc="upper left")
    return figure


def main():
    parser = argparse.ArgumentParser(prog="tools/reproduce_figure.py", description=__doc__,
                                     formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("results", metavar="RESULT", nargs="+")
    parser.add_argument("-o", "--output", metavar="PICTURE", required=True, help="the ending decides the format")
    given = parser.parse_args()
    try:
        if Path(given.output).suffix.lower() not in (".png", ".svg", ".pdf"):
            raise ReproduceError(f"--output {given.output} ends in no known format; expected .png, .svg or .pdf")
        # Without the date the same results give the same file.
        metadata = {"Date": None} if given.output.endswith(".svg") else None
        draw([read_result(path) for path in given.results]).savefig(given.output, dpi=300, metadata=metadata)
    except (ReproduceError, OSError) as error:
        print(f"reproduce_figure: error: {error}", file=sys.stderr)
        sys.exit(2)
    print(f"wrote {given.output}")


if __name__ == "__main__":
    main()
