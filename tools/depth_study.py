#!/usr/bin/env python3
"""Plans what time slices are worth: the fastest grid of replicas alone, of time slices alone, and of both, for networks of
several depths on growing numbers of ranks that need not be there, as `revode plan --search` finds them.

    tools/depth_study.py --revode build/src/revode --machine FILE --output DIR [options] [-- options of revode plan]

DIR takes depth.csv (a line a plan), depth.json (the same, with what did not fit and why), depth.svg and depth.png: for each
network the efficiency over the ranks, which is images/s against as many times those of one rank with memory without limit;
numbers at the markers are the grids of the best, time x data. What needs more than --memory-limit has no marker, nor what
would take too long to simulate.

Exit status: 0 done, 1 something failed, 2 bad usage.
"""
import argparse
import csv
import json
import os
import subprocess
import sys
import tempfile
from pathlib import Path

try:
    import matplotlib
except ImportError:
    # Debian's modules belong to Debian's python, which need not be the first on the PATH.
    if os.path.realpath(sys.executable) != os.path.realpath("/usr/bin/python3") and os.path.exists("/usr/bin/python3"):
        os.execv("/usr/bin/python3", ["/usr/bin/python3", *sys.argv])
    sys.exit("depth_study: error: needs matplotlib (Debian: python3-matplotlib)")
matplotlib.use("Agg")
import matplotlib.pyplot as plt  # noqa: E402

# Of a search: what it may choose of, by name.
KINDS = {"replicas alone": ["--time-ranks", "1"], "time slices alone": ["--data-ranks", "1"], "both": []}
# Ranks x micro-batches that --search still simulates of itself, and that are simulated here (a minute).
MOST_TO_SEARCH, MOST_TO_PLAY = 2 ** 17, 2 ** 20
# What an error says where such a grid can't be: too little memory, too few blocks, too few images.
NO_ROOM = ("--memory-limit", "time ranks are too many", "--data-ranks", "--ranks ")
FIELDS = ["depth", "ranks", "kind", "time_ranks", "data_ranks", "micro_batches", "schedule", "slices_per_rank",
          "images_per_second", "efficiency", "bubble", "memory_bytes", "gradient_sum_seconds", "update_seconds",
          "step_seconds"]
# Okabe and Ito's colours; markers and lines tell the curves apart in black and white, and where they lie on each other.
LOOKS = {"replicas alone": ("#0072B2", "o", "--", 9), "time slices alone": ("#D55E00", "s", ":", 4.5),
         "both": ("#009E73", "D", "-", 4)}


class StudyError(Exception):
    pass


def search(arguments, depth, ranks, more):
    """(best plan, None) or (None, why there is none)."""
    with tempfile.TemporaryDirectory() as folder:
        file = Path(folder, "plan.json")
        command = [arguments.revode, "plan", "--ranks", str(ranks), "--depth", str(depth), "--machine", arguments.machine,
                   "--batch-size", str(arguments.batch_size), "--search", "--json", str(file), *more, *arguments.options]
        try:
            done = subprocess.run(command, stdout=subprocess.DEVNULL, stderr=subprocess.PIPE, text=True)
        except OSError as error:
            raise StudyError(f"--revode {arguments.revode} does not start: {error.strerror}") from error
        if done.returncode == 0:
            return json.loads(file.read_text())["best"][0], None
        reason = done.stderr.strip().splitlines()[-1] if done.stderr.strip() else f"status {done.returncode}"
        if any(words in reason for words in NO_ROOM):
            return None, reason
        raise StudyError(f"{' '.join(command)}: {reason}")


def micro_batches_of(kind, ranks, batch_size):
    """([further options], None), or (None, why it is not tried). A search takes few micro-batches where time slices are many,
    to be quick: here there are as many as ranks, or the pipeline would never fill."""
    number = min(ranks, batch_size)
    if kind != "time slices alone" or ranks * number <= MOST_TO_SEARCH:
        return [], None
    if ranks * number > MOST_TO_PLAY:
        return None, f"{ranks} time ranks with {number} micro-batches take too long to simulate"
    return ["--micro-batches", str(number)], None


def record(plan, depth, ranks, kind, of_one_rank):
    """A line of depth.csv."""
    line = {name: plan[name] for name in FIELDS if name in plan}
    return line | {"depth": depth, "ranks": ranks, "kind": kind, "memory_bytes": max(r["memory_bytes"] for r in plan["ranks"]),
                   "efficiency": plan["images_per_second"] / (ranks * of_one_rank)}


def study(arguments):
    limit = ["--memory-limit", arguments.memory_limit] if arguments.memory_limit else []
    lines, left_out = [], []
    for depth in arguments.depths:
        one, reason = search(arguments, depth, 1, [])
        if one is None:
            raise StudyError(f"one rank for depth {depth}: {reason}")
        for ranks in arguments.ranks:
            for kind, grid in KINDS.items():
                more, reason = micro_batches_of(kind, ranks, arguments.batch_size)
                plan, reason = (None, reason) if more is None else search(arguments, depth, ranks, [*limit, *grid, *more])
                if plan is None:
                    left_out.append({"depth": depth, "ranks": ranks, "kind": kind, "reason": reason})
                else:
                    lines.append(record(plan, depth, ranks, kind, one["images_per_second"]))
                print(f"depth_study: depth {depth}, {ranks} ranks, {kind}: "
                      + (f"{lines[-1]['images_per_second']:.4g} images/s" if plan else reason), file=sys.stderr, flush=True)
    return {"machine": Path(arguments.machine).name, "batch_size": arguments.batch_size, "memory_limit": arguments.memory_limit,
            "options": arguments.options, "plans": lines, "left_out": left_out}


def write(result, folder):
    folder.mkdir(parents=True, exist_ok=True)
    (folder / "depth.json").write_text(json.dumps(result, indent=1) + "\n")
    with (folder / "depth.csv").open("w", newline="") as file:
        table = csv.DictWriter(file, FIELDS, lineterminator="\n")
        table.writeheader()
        table.writerows(result["plans"])


def draw(result, pictures):
    plt.rcParams.update({"font.size": 8, "axes.spines.top": False, "axes.spines.right": False, "svg.hashsalt": "revode",
                         "svg.fonttype": "none"})
    depths = sorted({line["depth"] for line in result["plans"]})
    figure, axes = plt.subplots(1, len(depths), figsize=(3.4 * len(depths), 3.1), sharey=True, constrained_layout=True,
                                squeeze=False)
    all_ranks = sorted({line["ranks"] for line in result["plans"]})
    for axis, depth in zip(axes[0], depths):
        for kind, (colour, marker, dashes, size) in LOOKS.items():
            of_kind = [line for line in result["plans"] if (line["depth"], line["kind"]) == (depth, kind)]
            axis.plot([line["ranks"] for line in of_kind], [100 * line["efficiency"] for line in of_kind], color=colour,
                      marker=marker, linestyle=dashes, markersize=size, linewidth=1.3, label=kind,
                      markerfacecolor="white" if kind != "both" else colour, zorder=4 if kind == "both" else 3)
            if kind == "both":
                for line in of_kind:
                    axis.annotate(f"{line['time_ranks']} × {line['data_ranks']}", (line["ranks"], 100 * line["efficiency"]),
                                  textcoords="offset points", xytext=(0, 6), ha="center", fontsize=6.5)
        axis.set_xscale("log", base=2)
        axis.set_xticks(all_ranks, [f"{ranks:,}" for ranks in all_ranks], rotation=45)
        axis.set_xticks([], minor=True)
        axis.set_ylim(0, 112)
        axis.grid(True, axis="y", linewidth=0.4, color="#dddddd")
        axis.set_title(f"depth {depth:,}", fontsize=9)
        axis.set_xlabel("ranks")
    axes[0][0].set_ylabel("efficiency (%)")
    axes[0][0].legend(frameon=False, loc="lower left")
    for picture in pictures:
        figure.savefig(picture, dpi=150, metadata={"Date": None} if picture.suffix == ".svg" else None)


def whole_numbers(text):
    numbers = [int(part) for part in text.split(",")]
    if min(numbers) < 1:
        raise ValueError
    return numbers


def main():
    parser = argparse.ArgumentParser(prog="tools/depth_study.py", description=__doc__,
                                     formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--revode", metavar="PROGRAM", required=True)
    parser.add_argument("--machine", metavar="FILE", required=True, help="costs, as bench --machine-file writes them")
    parser.add_argument("--output", metavar="DIR", required=True, type=Path)
    parser.add_argument("--depths", metavar="D,..", type=whole_numbers, default=[1202, 10002, 100002],
                        help="layers (default 1202,10002,100002)")
    parser.add_argument("--ranks", metavar="N,..", type=whole_numbers, default=[8, 64, 256, 1024, 4096],
                        help="default 8,64,256,1024,4096")
    parser.add_argument("--batch-size", metavar="N", type=int, default=4096, help="images a step (default 4096)")
    parser.add_argument("--memory-limit", metavar="SIZE", help="most memory of a rank for weights and states")
    words = sys.argv[1:]
    split = words.index("--") if "--" in words else len(words)
    arguments = parser.parse_args(words[:split])
    arguments.options = words[split + 1:]
    arguments.revode = os.path.abspath(arguments.revode)
    try:
        result = study(arguments)
        if not result["plans"]:
            raise StudyError("no plan was found; the reasons are above")
        write(result, arguments.output)
        draw(result, [arguments.output / "depth.svg", arguments.output / "depth.png"])
    except (StudyError, OSError) as error:
        sys.exit(f"depth_study: error: {error}")
    print(f"wrote {arguments.output}/depth.csv, .json, .svg and .png")


if __name__ == "__main__":
    main()
