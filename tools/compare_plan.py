#!/usr/bin/env python3
"""Holds `revode plan` against what it predicts: steps of one and of two ranks, in the same rounds.

    tools/compare_plan.py --revode build/src/revode --depth 74 --batch 128 --micro-batches 4,16 --rounds 5

In each round every configuration is benched; the bench also times the layers, on all of its ranks at once, and writes them as
a machine file. From that the same step is planned, and the ratio of the step measured to the step planned is taken, so that
what else the machine does meets both. Prints the median of the rounds and the extremes, and the memory planned (weights and
states) beside that of the process.

Measured / replayed tells what comes from the schedule and its messages alone: the sweeps of the step against the same work
in the same order, each piece as long as its trace says. Where that is near 1 and measured / planned is not, pieces of work
took other times than when the layers were timed.
"""
import argparse
import json
import os
import statistics
import subprocess
import sys
import tempfile
from pathlib import Path

sys.dont_write_bytecode = True
from trace_replay import TraceError, replay  # noqa: E402

# Name, ranks, and what the options say of grid and schedule.
CONFIGURATIONS = [
    ("1 x 1", 1, []),
    ("1 x 2", 2, ["--data-ranks", "2"]),
    ("2 x 1 gpipe", 2, ["--schedule", "gpipe", "--slices-per-rank", "1"]),
    ("2 x 1 1f1b", 2, ["--schedule", "1f1b", "--slices-per-rank", "1"]),
    ("2 x 1 interleaved, 2 slices", 2, ["--schedule", "interleaved", "--slices-per-rank", "2"]),
    ("2 x 1 interleaved, 3 slices", 2, ["--schedule", "interleaved", "--slices-per-rank", "3"]),
]


def fail(text):
    sys.exit(f"compare_plan: error: {text}")


class Programs:
    def __init__(self, arguments, folder):
        self.arguments, self.folder = arguments, Path(folder)
        self.network = ["--arch", arguments.arch, "--depth", str(arguments.depth), "--batch-size", str(arguments.batch)]

    def run(self, ranks, command, *options):
        launcher = [] if ranks is None else [self.arguments.mpiexec, "-n", str(ranks)]
        words = [*launcher, self.arguments.revode, command, *self.network, "--json", "-", *map(str, options)]
        done = subprocess.run(words, cwd=self.folder, capture_output=True, text=True)
        if done.returncode:
            fail(f"{' '.join(words)}: {done.stderr.strip() or done.stdout.strip()}")
        return json.loads(done.stdout)

    def bench(self, ranks, micro_batches, options, steps):
        threads = max(1, self.arguments.cores // ranks)
        return self.run(ranks, "bench", "--micro-batches", micro_batches, "--threads", threads, "--steps", steps, *options)

    def plan_and_bench(self, ranks, micro_batches, options, steps):
        """The step as it was planned from the layers of the bench that measured it, that bench, and what its sweeps took of
        the time that they take when their trace is replayed."""
        machine, trace = self.folder / "machine.json", self.folder / "trace.json"
        seen = self.bench(ranks, micro_batches, [*options, "--machine-file", machine, "--trace", trace], steps)
        planned = self.run(None, "plan", "--ranks", ranks, "--micro-batches", micro_batches, "--machine", machine, *options)
        try:
            sweeps = replay(json.loads(trace.read_text()))
        except TraceError as error:
            fail(f"{trace}: {error}")
        return planned, seen, statistics.median(measured / replayed for measured, replayed in sweeps)


def spread(values):
    return {"median": statistics.median(values), "least": min(values), "most": max(values)}


def measure(programs, numbers, rounds, steps):
    ratios, replays, last = {}, {}, {}
    for number in range(rounds):
        for micro_batches in numbers:
            for name, ranks, options in CONFIGURATIONS:
                planned, seen, of_replay = programs.plan_and_bench(ranks, micro_batches, options, steps)
                key = (name, micro_batches)
                replays.setdefault(key, []).append(of_replay)
                ratios.setdefault(key, []).append(seen["step_seconds"] / planned["step_seconds"])
                last[key] = planned, seen
            print(f"round {number + 1} of {rounds}, {micro_batches} micro-batches", file=sys.stderr)
    rows = []
    for (name, micro_batches), values in ratios.items():
        planned, seen = last[name, micro_batches]
        rows.append({"configuration": name, "micro_batches": micro_batches, "measured_over_planned": spread(values),
                     "measured_over_replayed": spread(replays[name, micro_batches]),
                     "step_seconds": seen["step_seconds"], "step_seconds_planned": planned["step_seconds"],
                     "memory_bytes_planned": max(rank["memory_bytes"] for rank in planned["ranks"]),
                     "peak_memory_bytes": max(seen["peak_memory_bytes"])})
    return rows


def table(rows):
    lines = [f"{'grid and schedule':<28} {'M':>4} {'planned ms':>11} {'measured ms':>12}  {'measured / planned':<22} "
             f"{'measured / replayed':<22} {'memory planned, process (MiB)'}"]
    for row in rows:
        planned, replayed = (f"{row[key]['median']:.2f} ({row[key]['least']:.2f} .. {row[key]['most']:.2f})"
                             for key in ("measured_over_planned", "measured_over_replayed"))
        lines.append(f"{row['configuration']:<28} {row['micro_batches']:>4} {1e3 * row['step_seconds_planned']:>11.1f} "
                     f"{1e3 * row['step_seconds']:>12.1f}  "
                     f"{planned:<22} {replayed:<22} "
                     f"{row['memory_bytes_planned'] / 2**20:.0f}, {row['peak_memory_bytes'] / 2**20:.0f}")
    return "\n".join(lines)


def main():
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--revode", default="build/src/revode", help="the program (default %(default)s)")
    parser.add_argument("--mpiexec", default="mpirun", help="what starts ranks (default %(default)s)")
    parser.add_argument("--arch", default="hamiltonian")
    parser.add_argument("--depth", type=int, default=74)
    parser.add_argument("--batch", type=int, default=128, help="images of a step (default %(default)s)")
    parser.add_argument("--micro-batches", default="4,16", help="numbers of them (default %(default)s)")
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument("--steps", type=int, default=5, help="that a bench times (default %(default)s)")
    parser.add_argument("--cores", type=int, default=len(os.sched_getaffinity(0)), help="to be shared by the ranks")
    parser.add_argument("--json", help="write the figures there")
    arguments = parser.parse_args()
    if not os.access(arguments.revode, os.X_OK):
        fail(f"--revode {arguments.revode}: there is no such program; tools/quickstart builds it")
    arguments.revode = os.path.abspath(arguments.revode)
    try:
        numbers = [int(word) for word in arguments.micro_batches.split(",")]
    except ValueError:
        fail(f"--micro-batches {arguments.micro_batches}: expected whole numbers separated by commas")
    if arguments.rounds < 1 or arguments.steps < 1 or min(numbers) < 2:
        fail("expected at least one round, one step, and two micro-batches, one for each replica")
    with tempfile.TemporaryDirectory(prefix="revode-compare-plan-") as folder:
        rows = measure(Programs(arguments, folder), numbers, arguments.rounds, arguments.steps)
    print(table(rows))
    if arguments.json:
        Path(arguments.json).write_text(json.dumps(rows, indent=1) + "\n")


if __name__ == "__main__":
    main()
