#!/usr/bin/env python3
"""Draws loss, accuracy and learning rate of one or several runs.

    tools/plot_metrics.py RUN [RUN...] -o FILE.png|.svg|.pdf [--title TEXT]

RUN is an output folder of `revode train` (or the metrics.jsonl in it). Thin lines are training, lines with points are
the evaluation on the test split after each epoch; one colour a run.
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
    sys.exit("plot_metrics: error: needs matplotlib (Debian: python3-matplotlib)")
matplotlib.use("Agg")
import matplotlib.pyplot as plt  # noqa: E402

# Okabe and Ito's colours, which people who see colours differently can tell apart; line styles help beyond eight.
COLOURS = ["#0072B2", "#D55E00", "#009E73", "#CC79A7", "#56B4E9", "#E69F00", "#000000", "#999999"]
STYLES = ["-", "--", ":"]


class PlotError(Exception):
    """One sentence for the user."""


class Run:
    """Columns of one metrics.jsonl; epochs as a continuous axis (1 = the end of the first)."""

    def __init__(self, path):
        path = Path(path)
        file = path / "metrics.jsonl" if path.is_dir() else path
        if not path.exists():
            raise PlotError(f"no such run: {path}")
        if not file.exists():
            raise PlotError(f"{path} holds no metrics.jsonl; expected the --output folder of a training run")
        folder = file.resolve().parent
        self.name = folder.name if file.name == "metrics.jsonl" else file.stem
        self.parent = folder.parent.name
        records = list(self.read(file))
        self.steps = [r for r in records if r.get("kind") == "step"]
        self.epochs = [r for r in records if r.get("kind") == "epoch"]
        if not self.steps and not self.epochs:
            raise PlotError(f"{file} holds no step or epoch records yet")
        # Steps an epoch, from any record of a whole one (epochs count from 0); without any, the axis counts steps.
        self.steps_per_epoch = next((e["step"] / (e["epoch"] + 1) for e in self.epochs if "epoch" in e), None)

    @staticmethod
    def read(file):
        lines = file.read_text(encoding="utf-8").splitlines()
        for number, line in enumerate(lines, start=1):
            if not line.strip():
                continue
            try:
                record = json.loads(line)
                if not isinstance(record, dict):
                    raise ValueError("not an object")
            except ValueError as error:
                if number == len(lines):  # a run that is being written may end within a line
                    return
                raise PlotError(f"{file}, line {number} is no JSON object: {error}") from error
            yield record

    def column(self, records, key, scale=1.0):
        """(x, y) of the records that have `key`."""
        per = self.steps_per_epoch or 1
        points = [(r["step"] / per, scale * r[key]) for r in records if isinstance(r.get(key), (int, float))]
        return [p[0] for p in points], [p[1] for p in points]


def label_runs(runs):
    """Folder names, with the folder above where two are the same."""
    names = [run.name for run in runs]
    return [f"{run.parent}/{run.name}" if names.count(run.name) > 1 else run.name for run in runs]


def smooth(values):
    """Exponential mean over about a fortieth of the run, without bias at the start."""
    weight = 1 - 1 / max(1.0, len(values) / 40)
    result, mean, mass = [], 0.0, 0.0
    for value in values:
        mean = weight * mean + (1 - weight) * value
        mass = weight * mass + (1 - weight)
        result.append(mean / mass)
    return result


def draw_panel(axis, run, style, step_key, test_key, scale):
    """Training: the noisy steps faint, their running mean on top. Test: a point an epoch."""
    x, y = run.column(run.steps, step_key, scale)
    if x:
        axis.plot(x, y, color=style["color"], linewidth=0.6, alpha=0.25)
        axis.plot(x, smooth(y), color=style["color"], linestyle=style["linestyle"], linewidth=1.1)
    x, y = run.column(run.epochs, test_key, scale)
    if x:
        marker_every = max(1, len(x) // 25)
        axis.plot(x, y, linewidth=1.8, marker="o", markersize=4, markevery=marker_every, **style)
        return x[-1], y[-1], f"{y[-1]:.1f} %" if scale == 100 else f"{y[-1]:.2f}", style["color"]
    return None


def label_ends(axis, ends):
    """The last test value of each run beside its point, moved apart where two would overlap."""
    points_per_unit = axis.bbox.height * 72 / axis.figure.dpi / (axis.get_ylim()[1] - axis.get_ylim()[0])
    last = None
    for x, y, text, colour in sorted((end for end in ends if end), key=lambda end: end[1]):
        height = y * points_per_unit
        last = height if last is None else max(height, last + 9)
        axis.annotate(text, (x, y), xytext=(6, last - height), textcoords="offset points", va="center",
                      color=colour, fontsize=8)


def axis_name(runs):
    """Epochs where every run has finished one, else steps for all."""
    if all(run.steps_per_epoch for run in runs):
        return "epoch"
    for run in runs:
        run.steps_per_epoch = None
    return "step"


def draw(runs, title):
    plt.rcParams.update({"font.size": 9, "axes.spines.top": False, "axes.spines.right": False, "axes.grid": True,
                         "grid.color": "#e4e4e4", "grid.linewidth": 0.7, "axes.axisbelow": True,
                         "svg.fonttype": "none", "svg.hashsalt": "revode"})
    figure, (loss, accuracy, rate) = plt.subplots(
        3, 1, sharex=True, figsize=(7.5, 7.5), height_ratios=[3, 3, 1.2], constrained_layout=True)
    rate.set_xlabel(axis_name(runs))
    handles, loss_ends, accuracy_ends = [], [], []
    for index, (run, label) in enumerate(zip(runs, label_runs(runs))):
        style = {"color": COLOURS[index % len(COLOURS)], "linestyle": STYLES[index // len(COLOURS) % len(STYLES)]}
        loss_ends.append(draw_panel(loss, run, style, "loss", "test_loss", 1))
        accuracy_ends.append(draw_panel(accuracy, run, style, "accuracy", "test_accuracy", 100))
        x, y = run.column(run.steps, "learning_rate")
        rate.plot(x, y, linewidth=1.4, drawstyle="steps-pre", **style)
        handles.append(plt.Line2D([], [], linewidth=2.5, label=label, **style))
    handles.append(plt.Line2D([], [], color="#555555", linewidth=1.1, label="training"))
    handles.append(plt.Line2D([], [], color="#555555", linewidth=1.8, marker="o", markersize=4, label="test"))

    loss.set_ylabel("loss")
    accuracy.set_ylabel("accuracy (%)")
    rate.set_ylabel("learning rate")
    rates = [y for run in runs for y in run.column(run.steps, "learning_rate")[1] if y > 0]
    if rates and max(rates) > 5 * min(rates):
        rate.set_yscale("log")
    rate.margins(x=0.02)
    figure.align_ylabels()
    label_ends(loss, loss_ends)
    label_ends(accuracy, accuracy_ends)
    loss.legend(handles=handles, loc="lower center", bbox_to_anchor=(0.5, 1.0), ncol=min(5, len(handles)), frameon=False)
    if title:
        figure.suptitle(title, fontsize=11)
    return figure


def main():
    parser = argparse.ArgumentParser(prog="tools/plot_metrics.py", description=__doc__,
                                     formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("runs", metavar="RUN", nargs="+")
    parser.add_argument("-o", "--output", metavar="FILE", required=True, help="picture; the ending decides the format")
    parser.add_argument("--title")
    arguments = parser.parse_args()
    try:
        if Path(arguments.output).suffix.lower() not in (".png", ".svg", ".pdf"):
            raise PlotError(f"--output {arguments.output} ends in no known format; expected .png, .svg or .pdf")
        figure = draw([Run(path) for path in arguments.runs], arguments.title)
        figure.savefig(arguments.output, dpi=150)
    except (PlotError, OSError) as error:
        sys.exit(f"plot_metrics: error: {error}")
    print(f"wrote {arguments.output}")


if __name__ == "__main__":
    main()
