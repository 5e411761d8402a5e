#!/usr/bin/env python3
"""Draws a scaling study from the summary.json that tools/scaling_study.py wrote.

    tools/scaling_figures.py DIR/summary.json -o PICTURE.png|.svg|.pdf [PICTURE...]

Filled markers are medians of what was measured, bars reach from the least to the most; hollow markers on dashed lines are
what `revode plan` predicts, whose memory is that of weights and states alone; the thin grey line is ideal scaling.
Exit status 77: there is no matplotlib.
"""
import argparse
import json
import os
import sys
from pathlib import Path

try:
    import matplotlib
except ImportError:
    # Debian's modules belong to Debian's python, which need not be the first on the PATH.
    if os.path.realpath(sys.executable) != os.path.realpath("/usr/bin/python3") and os.path.exists("/usr/bin/python3"):
        os.execv("/usr/bin/python3", ["/usr/bin/python3", *sys.argv])
    print("scaling_figures: error: needs matplotlib (Debian: python3-matplotlib)", file=sys.stderr)
    sys.exit(77)
matplotlib.use("Agg")
import matplotlib.pyplot as plt  # noqa: E402
from matplotlib.lines import Line2D  # noqa: E402
from matplotlib.ticker import FixedLocator, FuncFormatter, NullLocator  # noqa: E402

# Okabe and Ito's colours, which people who see colours differently can tell apart; markers do so in black and white.
COLOURS = ["#0072B2", "#D55E00", "#009E73", "#CC79A7", "#E69F00", "#56B4E9", "#000000"]
MARKERS = ["o", "s", "^", "D", "v", "P", "X"]
IDEAL = {"color": "#999999", "linewidth": 0.8, "zorder": 1}
NUDGE = 0.06  # of a doubling: curves beside each other, so that their error bars are


def label_of(name):
    """In words, for a reader who does not know the grids' short names."""
    time, _, data = name.partition("x")
    if time == "N":
        return "time slices (N × 1)" if data == "1" else f"N time ranks × {data} replicas"
    return "replicas (1 × N)" if time == "1" else f"{time} time ranks × N replicas"


def panels(summary):
    """(key, axis label, scale)"""
    first = ("step_seconds", "time of a step (s)", 1)
    if summary["study"] == "strong":
        least = min(point["ranks"] for curve in summary["series"] for point in curve["points"])
        first = ("speed_up", f"speed-up over {least} rank{'s' * (least > 1)}", 1)
    return [first, ("efficiency", "efficiency (%)", 100), ("waiting", "waiting, mean of ranks (%)", 100),
            ("memory_bytes", "memory of a rank, most (MiB)", 1 / 2**20)]


def draw_curve(axis, curve, key, scale, index, shift):
    """Measured and predicted values of one series."""
    look = {"color": COLOURS[index % len(COLOURS)], "marker": MARKERS[index % len(MARKERS)]}
    # A ring around a disc where the two agree.
    size = 7.5 if any(p["measured"] for p in curve["points"]) else 5
    planned = [(p["ranks"] * shift, scale * p["planned"][key]) for p in curve["points"]
               if p["planned"] and p["planned"][key] is not None]
    axis.plot(*zip(*planned) if planned else ([], []), **look, markersize=size, markerfacecolor="white",
              linestyle="--", linewidth=1.1, zorder=3, clip_on=False)
    seen = [(p["ranks"] * shift, p["measured"][key]) for p in curve["points"] if key in p["measured"]]
    if seen:
        middle = [scale * value["median"] for _, value in seen]
        bars = [[scale * abs(value["median"] - value[end]) for _, value in seen] for end in ("least", "most")]
        axis.errorbar([ranks for ranks, _ in seen], middle, yerr=bars, **look, markersize=4.5, linewidth=1.4, capsize=3,
                      zorder=4, clip_on=False)


def draw_ideal(axis, summary, key, ranks):
    if key == "speed_up":
        base = min(ranks)
        axis.plot([base, max(ranks)], [1, max(ranks) / base], **IDEAL)
    elif key == "efficiency":
        axis.axhline(100, **IDEAL)
    elif key == "step_seconds":
        for curve in summary["series"]:
            first = next((p for p in curve["points"] if p["grid"] == curve["base"]), None)
            if first:
                seen = first["measured"]
                axis.axhline(seen["step_seconds"]["median"] if seen else first["planned"]["step_seconds"], **IDEAL)


def short(value, _=None):
    return f"{value:,.0f}" if value >= 1 else f"{value:g}"


def set_axes(axis, key, ranks):
    axis.set_xscale("log", base=2)
    axis.set_xlim(min(ranks) / 2**0.25, max(ranks) * 2**0.25)
    axis.xaxis.set_major_locator(FixedLocator(ranks))
    axis.xaxis.set_minor_locator(NullLocator())
    # A tick a count; where they are many, every other has its number.
    axis.xaxis.set_major_formatter(FuncFormatter(lambda value, place: "" if len(ranks) > 8 and place % 2 else short(value)))
    axis.set_xlabel("ranks")
    least, most = axis.dataLim.intervaly
    if key == "speed_up" or key == "memory_bytes" and most > 8 * least:
        axis.set_yscale("log", base=2)
        axis.yaxis.set_major_formatter(FuncFormatter(short))
        axis.yaxis.set_minor_locator(NullLocator())
    else:
        axis.set_ylim(0, max(axis.get_ylim()[1], 110 if key == "efficiency" else 1 if key == "waiting" else 0))
    axis.grid(color="#e4e4e4", linewidth=0.6)


def draw(summary):
    plt.rcParams.update({"font.size": 9, "axes.spines.top": False, "axes.spines.right": False, "axes.axisbelow": True,
                         "svg.fonttype": "none", "svg.hashsalt": "revode"})
    curves = [curve for curve in summary["series"] if curve["points"]]
    if not curves:
        sys.exit("scaling_figures: error: the study holds no measurement and no plan yet")
    points = [point for curve in curves for point in curve["points"]]
    ranks = sorted({point["ranks"] for point in points})
    figure, axes = plt.subplots(2, 2, figsize=(7.2, 5.4), layout="constrained")
    for axis, (key, label, scale) in zip(axes.flat, panels(summary)):
        draw_ideal(axis, summary, key, ranks)
        for index, curve in enumerate(curves):
            shift = 2 ** (NUDGE * (index - (len(curves) - 1) / 2)) if len(ranks) < 8 else 1
            draw_curve(axis, curve, key, scale, index, shift)
        axis.set_ylabel(label)
        set_axes(axis, key, ranks)
    measured, planned = any(p["measured"] for p in points), any(p["planned"] for p in points)
    look = {"markersize": 5, "linestyle": "", **({} if measured else {"markerfacecolor": "white"})}
    handles = [Line2D([], [], color=COLOURS[i % len(COLOURS)], marker=MARKERS[i % len(MARKERS)], **look,
                      label=label_of(curve["name"])) for i, curve in enumerate(curves)]
    handles += [Line2D([], [], color="black", linewidth=1.4, label="measured, least..most")] if measured else []
    handles += [Line2D([], [], color="black", linewidth=1.1, linestyle="--",
                       label="planned (memory: weights and states)")] if planned else []
    handles.append(Line2D([], [], **IDEAL, label="ideal"))
    columns = (len(handles) + 1) // 2
    figure.legend(handles=handles, loc="upper center", ncols=columns, frameon=False, handlelength=2.2, columnspacing=1.4)
    # Room for the legend above the panels.
    figure.get_layout_engine().set(rect=(0, 0, 1, 0.91), h_pad=0.08, w_pad=0.06)
    return figure


def main():
    parser = argparse.ArgumentParser(prog="tools/scaling_figures.py", description=__doc__,
                                     formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("summary", metavar="FILE")
    parser.add_argument("-o", "--output", metavar="PICTURE", nargs="+", required=True, help="the ending decides the format")
    arguments = parser.parse_args()
    try:
        wrong = [name for name in arguments.output if Path(name).suffix.lower() not in (".png", ".svg", ".pdf")]
        if wrong:
            sys.exit(f"scaling_figures: error: --output {wrong[0]} ends in no known format; expected .png, .svg or .pdf")
        figure = draw(json.loads(Path(arguments.summary).read_text(encoding="utf-8")))
        for name in arguments.output:
            # Without the date the same study gives the same file.
            figure.savefig(name, dpi=300, metadata={"Date": None} if name.endswith(".svg") else None)
    except (OSError, ValueError, KeyError) as error:
        sys.exit(f"scaling_figures: error: cannot draw {arguments.summary}: {error!r}")
    print(f"wrote {', '.join(arguments.output)}")


if __name__ == "__main__":
    main()
