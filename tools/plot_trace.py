#!/usr/bin/env python3
"""Draws a step of a trace that `revode train --trace FILE` or `revode bench --trace FILE` wrote: what ranks did when.

    tools/plot_trace.py FILE -o PICTURE.png|.svg|.pdf [--step N] [--title TEXT]

A row a rank; numbers in the bars are micro-batches. White is time of which the trace does not tell. Where ranks compute on
devices, the row of a rank is what its host gives the device to do; below are what the device did when, and the copies
between the two (to the device above, to the host below). Messages are not drawn: Perfetto (https://ui.perfetto.dev) shows
them, and every step.
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
    sys.exit("plot_trace: error: needs matplotlib (Debian: python3-matplotlib)")
matplotlib.use("Agg")
import matplotlib.pyplot as plt  # noqa: E402

# Okabe and Ito's colours, which people who see colours differently can tell apart, with the colour of the numbers on
# them; idle time is pale. In the order of the legend.
COLOURS = {"forward": ("#56B4E9", "black"), "backward": ("#0072B2", "white"), "wait": ("#dddddd", "black"),
           "data": ("#009E73", "black"), "allreduce": ("#CC79A7", "black"), "regularization": ("#F0E442", "black"),
           "optimizer": ("#E69F00", "black"), "checkpoint": ("#D55E00", "black"), "copy_in": ("#999999", "black"),
           "copy_out": ("#444444", "white")}
NUMBER_POINTS = 7  # size of the micro-batches' numbers
BAR_HEIGHT = 0.8
COPY_HEIGHT = 0.38  # of those in one direction
# The rows of a rank by the category of their events, and what is written beside them.
LANES = {"work": "", "device": "device", "copy": "copies"}


class PlotError(Exception):
    """One sentence for the user."""


def lane_of(event):
    category = event.get("cat", "work")
    return category if category in LANES else "work"


class Trace:
    """What the ranks and their devices did, without their messages."""

    def __init__(self, path):
        self.path = path
        try:
            events = json.loads(Path(path).read_text(encoding="utf-8"))
            if not isinstance(events, list) or not all(isinstance(event, dict) for event in events):
                raise ValueError("no list of events")
        except FileNotFoundError as error:
            raise PlotError(f"no such file: {path}") from error
        except ValueError as error:
            raise PlotError(f"{path} is no trace: {error}") from error
        try:
            self.names = {event["pid"]: event["args"]["name"] for event in events if event.get("name") == "process_name"}
            self.events = [event for event in events if event.get("ph") == "X" and event["name"] in COLOURS]
            self.steps = sorted({event["args"]["step"] for event in self.events})
        except (KeyError, TypeError) as error:
            raise PlotError(f"{path} is no trace that revode wrote: an event lacks {error}") from error
        if not self.steps:
            raise PlotError(f"{path} tells of no step")

    def of_step(self, step):
        return [event for event in self.events if event["args"]["step"] == step]

    def usual_step(self):
        """The last without a checkpoint, beside which a step can hardly be seen; else the last."""
        saved = {event["args"]["step"] for event in self.events if event["name"] == "checkpoint"}
        return next((step for step in reversed(self.steps) if step not in saved), self.steps[-1])

    def labels(self, ranks):
        """Hosts only where there are several."""
        names = [self.names.get(rank, f"rank {rank}") for rank in ranks]
        hosts = {name.partition(" (")[2] for name in names}
        return names if len(hosts) > 1 else [f"rank {rank}" for rank in ranks]


def draw_numbers(axis, rows, start):
    """Micro-batches in the bars of forward and backward, where they fit. The layout must be final."""
    left, right = axis.get_xlim()
    points_per_ms = axis.bbox.width * 72 / axis.figure.dpi / (right - left)
    for event, row in rows:
        number = event["args"].get("micro_batch")
        if event["name"] not in ("forward", "backward") or number is None:
            continue
        begin, length = (event["ts"] - start) / 1e3, event["dur"] / 1e3
        # A digit is about 0.6 of the size wide; as much again keeps it off the edges.
        if length * points_per_ms >= 0.6 * NUMBER_POINTS * (len(str(number)) + 1):
            axis.text(begin + length / 2, row, str(number), ha="center", va="center", fontsize=NUMBER_POINTS,
                      color=COLOURS[event["name"]][1])


def place_in(row, name):
    """Where a bar begins, and its height."""
    if name in ("copy_in", "copy_out"):
        return (row - BAR_HEIGHT / 2 if name == "copy_in" else row + BAR_HEIGHT / 2 - COPY_HEIGHT), COPY_HEIGHT
    return row - BAR_HEIGHT / 2, BAR_HEIGHT


def labels_of(trace, row_of):
    """A rank's name at its host's row; its device's rows are told apart."""
    ranks = sorted({rank for rank, _ in row_of})
    names = dict(zip(ranks, trace.labels(ranks)))
    return [LANES[lane] or names[rank] for rank, lane in row_of]


def draw(trace, step, title):
    events = trace.of_step(step)
    rows = sorted({(event["pid"], list(LANES).index(lane_of(event))) for event in events})
    row_of = {(rank, list(LANES)[lane]): row for row, (rank, lane) in enumerate(rows)}
    start = min(event["ts"] for event in events)
    end = max(event["ts"] + event["dur"] for event in events)
    plt.rcParams.update({"font.size": 9, "axes.spines.top": False, "axes.spines.right": False, "axes.axisbelow": True,
                         "svg.fonttype": "none", "svg.hashsalt": "revode"})
    figure, axis = plt.subplots(figsize=(10, min(30, 1.7 + 0.34 * len(rows))), constrained_layout=True)
    shown = []
    for name, (colour, _) in COLOURS.items():
        for (rank, lane), row in row_of.items():
            bars = [((event["ts"] - start) / 1e3, event["dur"] / 1e3) for event in events
                    if (event["pid"], lane_of(event)) == (rank, lane) and event["name"] == name]
            if bars:
                # Copies are so short that white edges would hide them.
                edge = {"edgecolors": colour if lane == "copy" else "white", "linewidth": 0.4}
                axis.broken_barh(bars, place_in(row, name), facecolors=colour, **edge)
                shown += [name] if name not in shown else []
    axis.set_yticks(range(len(rows)), labels_of(trace, row_of))
    axis.set_ylim(len(rows) - 0.5, -0.5)
    axis.set_xlim(0, max((end - start) / 1e3, 1e-3))
    axis.set_xlabel("time (ms)")
    axis.grid(axis="x", color="#e4e4e4", linewidth=0.7)
    axis.legend(handles=[matplotlib.patches.Patch(color=COLOURS[name][0], label=name) for name in shown],
                loc="lower center", bbox_to_anchor=(0.5, 1.0), ncol=len(shown), frameon=False, handlelength=1.2,
                columnspacing=1.4)
    figure.suptitle(title or f"step {step} of {Path(trace.path).name}: {(end - start) / 1e3:.1f} ms", fontsize=11)
    figure.draw_without_rendering()
    draw_numbers(axis, [(event, row_of[event["pid"], lane_of(event)]) for event in events], start)
    return figure


def main():
    parser = argparse.ArgumentParser(prog="tools/plot_trace.py", description=__doc__,
                                     formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("trace", metavar="FILE")
    parser.add_argument("-o", "--output", metavar="PICTURE", required=True, help="the ending decides the format")
    parser.add_argument("--step", type=int, metavar="N", help="default: the last one without a checkpoint, else the last")
    parser.add_argument("--title")
    arguments = parser.parse_args()
    try:
        if Path(arguments.output).suffix.lower() not in (".png", ".svg", ".pdf"):
            raise PlotError(f"--output {arguments.output} ends in no known format; expected .png, .svg or .pdf")
        trace = Trace(arguments.trace)
        step = trace.usual_step() if arguments.step is None else arguments.step
        if step not in trace.steps:
            raise PlotError(f"--step {step}: {arguments.trace} holds the steps {', '.join(map(str, trace.steps))}")
        draw(trace, step, arguments.title).savefig(arguments.output, dpi=150)
    except (PlotError, OSError) as error:
        sys.exit(f"plot_trace: error: {error}")
    print(f"wrote {arguments.output}")


if __name__ == "__main__":
    main()
