#!/usr/bin/env python3
"""Holds `revode plan` against what it predicts: steps of one and of two ranks, in the same rounds; or memory and messages.

    tools/compare_plan.py --revode build/src/revode --depth 74 --batch 128 --micro-batches 4,16 --rounds 5
    OMPI_MCA_rmaps_base_oversubscribe=1 tools/compare_plan.py --memory --depth 1202 --batch 64 --micro-batches 8

In each round every configuration is benched; the bench also times the layers, on all of its ranks at once, and writes them as
a machine file. From that the same step is planned, and the ratio of the step measured to the step planned is taken, so that
what else the machine does meets both. Prints the median of the rounds and the extremes.

Measured / replayed tells what comes from the schedule and its messages alone: the sweeps of the step against the same work
in the same order, each piece as long as its trace says. Where that is near 1 and measured / planned is not, pieces of work
took other times than when the layers were timed.

With --memory nothing is timed, so that up to eight ranks may share the cores (Open MPI wants to be told, as above). Each rank's
arrays (weights, gradients, momentum, states, stash) and messages of a step are compared with the plan byte for byte, and the
most that its process held with what is planned: "beyond" is what it held beside that and the images of the dataset, which is
workspace, program and libraries.
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
from run_files import last_of_each  # noqa: E402
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
# The cut is given: none depends on times.
MEMORY_CONFIGURATIONS = [
    ("1 x 1", 1, ["--schedule", "1f1b"]),
    ("1 x 2", 2, ["--data-ranks", "2", "--schedule", "1f1b"]),
    ("2 x 1 gpipe", 2, ["--schedule", "gpipe"]),
    ("2 x 1 1f1b", 2, ["--schedule", "1f1b"]),
    ("2 x 1 interleaved, 2 slices", 2, ["--schedule", "interleaved", "--slices-per-rank", "2"]),
    ("4 x 1 1f1b", 4, ["--schedule", "1f1b"]),
    ("2 x 2 1f1b", 4, ["--data-ranks", "2", "--schedule", "1f1b"]),
    ("4 x 2 interleaved, 2 slices", 8, ["--data-ranks", "2", "--schedule", "interleaved", "--slices-per-rank", "2"]),
    ("8 x 1 1f1b", 8, ["--schedule", "1f1b"]),
]
# What is known from shapes alone; a plan has also a copy for saves, which a bench does not make.
COUNTED = ("weights", "gradients", "momentum", "state", "stash")


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

    def plan(self, ranks, micro_batches, machine, options):
        return self.run(None, "plan", "--ranks", ranks, "--micro-batches", micro_batches, "--machine", machine, *options)

    def plan_and_bench(self, ranks, micro_batches, options, steps):
        """The step as it was planned from the layers of the bench that measured it, that bench, and what its sweeps took of
        the time that they take when their trace is replayed."""
        machine, trace = self.folder / "machine.json", self.folder / "trace.json"
        seen = self.bench(ranks, micro_batches, [*options, "--machine-file", machine, "--trace", trace], steps)
        planned = self.plan(ranks, micro_batches, machine, options)
        try:
            sweeps = replay(json.loads(trace.read_text()))
        except TraceError as error:
            fail(f"{trace}: {error}")
        return planned, seen, statistics.median(measured / replayed for measured, replayed in sweeps)


def spread(values):
    return {"median": statistics.median(values), "least": min(values), "most": max(values)}


def measure_times(programs, numbers, rounds, steps):
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
                     "step_seconds": seen["step_seconds"], "step_seconds_planned": planned["step_seconds"]})
    return rows


def measure_memory(programs, numbers):
    """One row a configuration; every list in it has an item a rank."""
    rows = []
    for micro_batches in numbers:
        machine = programs.folder / "machine.json"
        programs.bench(1, micro_batches, ["--machine-file", machine], 1)
        for name, ranks, options in MEMORY_CONFIGURATIONS:
            options = ["--partition", "flops", "--slices-per-rank", "1", *options]
            planned = programs.plan(ranks, micro_batches, machine, last_of_each(options))["ranks"]
            seen = programs.bench(ranks, micro_batches, last_of_each(options), 1)
            uses = seen["peak_bytes_by_use"]
            arrays = [sum(abs(uses[use][rank] - of_rank["memory_bytes_by_use"][use]) for use in COUNTED)
                      for rank, of_rank in enumerate(planned)]
            messages = [abs(seen["message_bytes"][rank] - of_rank["message_bytes"]) for rank, of_rank in enumerate(planned)]
            kept = [of_rank["memory_bytes"] - of_rank["memory_bytes_by_use"]["snapshot"] for of_rank in planned]
            images = uses.get("data", [0] * ranks)
            rows.append({"configuration": name, "micro_batches": micro_batches, "array_bytes_off": arrays,
                         "message_bytes_off": messages, "message_bytes": seen["message_bytes"],
                         "memory_bytes_planned": kept, "image_bytes": images,
                         "peak_memory_bytes": seen["peak_memory_bytes"],
                         "bytes_beyond": [held - planned_for - of_images for held, planned_for, of_images
                                          in zip(seen["peak_memory_bytes"], kept, images)]})
    return rows


def memory_table(rows):
    def interval(values):
        low, high = (f"{value / 2**20:.0f}" for value in (min(values), max(values)))
        return low if low == high else f"{low} to {high}"

    lines = [f"{'grid and schedule':<28} {'M':>4}  {'arrays off':>10} {'messages off':>12}  {'planned MiB':<12} {'beyond MiB'}"]
    for row in rows:
        lines.append(f"{row['configuration']:<28} {row['micro_batches']:>4}  {max(row['array_bytes_off']):>10} "
                     f"{max(row['message_bytes_off']):>12}  {interval(row['memory_bytes_planned']):<12} "
                     f"{interval(row['bytes_beyond'])}")
    return "\n".join(lines)


def times_table(rows):
    lines = [f"{'grid and schedule':<28} {'M':>4} {'planned ms':>11} {'measured ms':>12}  {'measured / planned':<22} "
             f"{'measured / replayed'}"]
    for row in rows:
        planned, replayed = (f"{row[key]['median']:.2f} ({row[key]['least']:.2f} .. {row[key]['most']:.2f})"
                             for key in ("measured_over_planned", "measured_over_replayed"))
        lines.append(f"{row['configuration']:<28} {row['micro_batches']:>4} {1e3 * row['step_seconds_planned']:>11.1f} "
                     f"{1e3 * row['step_seconds']:>12.1f}  "
                     f"{planned:<22} {replayed}")
    return "\n".join(lines)


def main():
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--revode", default="build/src/revode", help="the program (default %(default)s)")
    parser.add_argument("--mpiexec", default="mpirun", help="what starts ranks (default %(default)s)")
    parser.add_argument("--arch", default="hamiltonian")
    parser.add_argument("--depth", type=int, default=74)
    parser.add_argument("--batch", type=int, default=128, help="images of a step (default %(default)s)")
    parser.add_argument("--micro-batches", default="4,16", help="numbers of them (default %(default)s)")
    parser.add_argument("--memory", action="store_true", help="compare memory and messages, not times")
    parser.add_argument("--rounds", type=int, help="(default 3)")
    parser.add_argument("--steps", type=int, help="that a bench times (default 5)")
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
    if arguments.memory and (arguments.rounds, arguments.steps) != (None, None):
        fail("--memory times nothing: leave out --rounds and --steps")
    rounds, steps = (default if given is None else given for given, default in [(arguments.rounds, 3), (arguments.steps, 5)])
    if rounds < 1 or steps < 1 or min(numbers) < 2:
        fail("expected at least one round, one step, and two micro-batches, one for each replica")
    with tempfile.TemporaryDirectory(prefix="revode-compare-plan-") as folder:
        programs = Programs(arguments, folder)
        if arguments.memory:
            rows = measure_memory(programs, numbers)
            print(memory_table(rows))
        else:
            rows = measure_times(programs, numbers, rounds, steps)
            print(times_table(rows))
    if arguments.json:
        Path(arguments.json).write_text(json.dumps(rows, indent=1) + "\n")


if __name__ == "__main__":
    main()
