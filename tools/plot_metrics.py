#!/usr/bin/env python3
"""Draws loss, accuracy and learning rate of one or several runs.

    tools/plot_metrics.py RUN [RUN...] -o FILE.png|.svg|.pdf [--title TEXT]

RUN is an output folder of `revode train` (or the metrics.jsonl in it). Thin lines are training, lines with points are
the evaluations on the test split: those after epochs and the one at the end, whose value stands at the right. One run has
a colour for each; of several, each has a hue, pale for training. The title names network and data set where config.ini
lies beside.
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
    sys.exit("plot_metrics: error: needs matplotlib (Debian: python3-matplotlib)")
matplotlib.use("Agg")
import matplotlib.pyplot as plt  # noqa: E402

# Okabe and Ito's colours, which people who see colours differently can tell apart; line styles help beyond eight.
COLOURS = ["#0072B2", "#D55E00", "#009E73", "#CC79A7", "#56B4E9", "#E69F00", "#000000", "#999999"]
STYLES = ["-", "--", ":"]
LABEL_POINTS = 9  # height of a label's line


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
        # At one step there is one evaluation, whether an epoch's or that at an end; a resumed run has several ends.
        evaluations = {r["step"]: r for r in records if r.get("kind") in ("epoch", "end") and "test_loss" in r}
        self.evaluations = [evaluations[step] for step in sorted(evaluations)]
        if not self.steps and not self.epochs and not self.evaluations:
            raise PlotError(f"{file} holds no step or epoch records yet")
        self.config = self.read_config(folder / "config.ini") if file.name == "metrics.jsonl" else {}
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
            # Others (where a run was started, say) tell of no step.
            if isinstance(record.get("step"), (int, float)):
                yield record

    @staticmethod
    def read_config(file):
        """Options by name, as far as there are any."""
        try:
            lines = file.read_text(encoding="utf-8").splitlines()
        except (OSError, UnicodeDecodeError):
            return {}
        pairs = (line.partition("=") for line in lines if "=" in line and line.lstrip()[0] not in "#;[")
        return {name.strip(): value.strip() for name, _, value in pairs}

    def network(self):
        """What was trained on what, or nothing where that is not known."""
        known = self.config
        if not {"arch", "depth", "dataset"} <= known.keys():
            return ""
        return f"{known['arch']}-{known['depth']} on {known['dataset']}"

    def column(self, records, key, scale=1.0):
        """(x, y) of the records that have `key`."""
        per = self.steps_per_epoch or 1
        points = [(r["step"] / per, scale * r[key]) for r in records
                  if isinstance(r.get(key), (int, float)) and math.isfinite(r[key])]
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


def pale(colour):
    """Half way to white."""
    return tuple(0.5 + 0.5 * part for part in matplotlib.colors.to_rgb(colour))


def styles(num_runs):
    """(of training, of test) for each run: two colours where there is one run, a hue a run where there are more."""
    if num_runs == 1:
        return [({"color": COLOURS[0], "linestyle": "-"}, {"color": COLOURS[1], "linestyle": "-"})]
    tests = [{"color": COLOURS[k % len(COLOURS)], "linestyle": STYLES[k // len(COLOURS) % len(STYLES)]}
             for k in range(num_runs)]
    return [({**test, "color": pale(test["color"])}, test) for test in tests]


def draw_panel(axis, run, training, test, step_key, test_key, scale):
    """Training: the noisy steps faint, their running mean on top. Test: a point an evaluation. The last test value."""
    x, y = run.column(run.steps, step_key, scale)
    if x:
        axis.plot(x, y, color=training["color"], linewidth=0.6, alpha=0.35)
        axis.plot(x, smooth(y), linewidth=1.1, **training)
    x, y = run.column(run.evaluations, test_key, scale)
    if x:
        shown = [*range(0, len(x) - 1, max(1, len(x) // 25)), len(x) - 1]
        axis.plot(x, y, linewidth=1.8, marker="o", markersize=4.5, markeredgecolor="white", markeredgewidth=0.6,
                  markevery=shown, zorder=3, **test)
        return y[-1], f"{y[-1]:.1f} %" if scale == 100 else f"{y[-1]:.2f}", test["color"]
    return None


def spread(heights, distance, top):
    """Ascending heights, moved up until they are `distance` apart, and down again from `top` where they went beyond."""
    result = []
    for height in heights:
        result.append(max(height, result[-1] + distance) if result else height)
    limit = max(top, heights[-1]) if heights else top
    for index in reversed(range(len(result))):
        result[index] = min(result[index], limit)
        limit = result[index] - distance
    return result


def label_ends(axis, ends):
    """The last test value of each run at the panel's right edge, outside of it: there are no curves to land on."""
    ends = sorted(end for end in ends if end)
    bottom, top = axis.get_ylim()
    points_per_unit = axis.bbox.height * 72 / axis.figure.dpi / (top - bottom)
    heights = [(y - bottom) * points_per_unit for y, _, _ in ends]
    for (y, text, colour), height, place in zip(ends, heights, spread(heights, LABEL_POINTS, (top - bottom) * points_per_unit)):
        axis.annotate(text, (1, y), xycoords=axis.get_yaxis_transform(), xytext=(5, place - height),
                      textcoords="offset points", va="center", color=colour, fontsize=8, annotation_clip=False)


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
    networks = {run.network() for run in runs}
    of_all = networks.pop() if len(networks) == 1 else ""
    handles, loss_ends, accuracy_ends = [], [], []
    for run, label, (training, test) in zip(runs, label_runs(runs), styles(len(runs))):
        loss_ends.append(draw_panel(loss, run, training, test, "loss", "test_loss", 1))
        accuracy_ends.append(draw_panel(accuracy, run, training, test, "accuracy", "test_accuracy", 100))
        x, y = run.column(run.steps, "learning_rate")
        rate.plot(x, y, linewidth=1.4, drawstyle="steps-pre", **(test if len(runs) > 1 else {"color": "#555555"}))
        if len(runs) > 1:
            of_run = f" ({run.network()})" if run.network() and not of_all else ""
            handles.append(plt.Line2D([], [], linewidth=2.5, label=label + of_run, **test))
    training, test = styles(1)[0] if len(runs) == 1 else ({"color": "#aaaaaa"}, {"color": "#444444"})
    handles.append(plt.Line2D([], [], linewidth=1.1, label="training", **training))
    handles.append(plt.Line2D([], [], linewidth=1.8, marker="o", markersize=4, label="test", **test))

    loss.set_ylabel("loss")
    accuracy.set_ylabel("accuracy (%)")
    rate.set_ylabel("learning rate")
    rates = [y for run in runs for y in run.column(run.steps, "learning_rate")[1] if y > 0]
    if rates and max(rates) > 5 * min(rates):
        rate.set_yscale("log")
    elif rates:
        rate.set_ylim(0, 1.2 * max(rates))
    rate.margins(x=0.02)
    figure.align_ylabels()
    # Columns by the width of the widest label: the legend stays within the picture.
    columns = max(1, min(5, len(handles), 90 // (6 + max(len(handle.get_label()) for handle in handles))))
    loss.legend(handles=handles, loc="lower center", bbox_to_anchor=(0.5, 1.0), ncol=columns, frameon=False)
    title = title or ": ".join(part for part in [runs[0].name if len(runs) == 1 else "", of_all] if part)
    if title:
        figure.suptitle(title, fontsize=11)
    figure.draw_without_rendering()  # labels are placed by the panels' height, which the layout decides
    label_ends(loss, loss_ends)
    label_ends(accuracy, accuracy_ends)
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
