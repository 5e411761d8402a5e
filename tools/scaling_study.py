#!/usr/bin/env python3
"""Measures how training scales over ranks with `revode bench`, predicts it with `revode plan`, and draws both.

    tools/scaling_study.py --output DIR [options] -- [options of revode]
    tools/scaling_study.py --output DIR --planned-only --machine FILE [options] -- [options of revode]
    tools/scaling_study.py --output DIR --plot-only

Studies (T time ranks share the depth, D data ranks are replicas):
  strong  network and mini-batch stay the same
  depth   weak in depth: --blocks A,B,C is for one time rank and is multiplied by T (give --widths as well); mini-batch
          and micro-batches of one replica are multiplied by D
  data    weak in data: --batch-size and --micro-batches are for one replica and are multiplied by D

Grids, several separated by commas, T x D: `Nx1` (or `time`), `1xN` (or `data`), `4xN`, `Nx2`: a curve each, over --ranks;
or grids in numbers, 1x1,2x1,1x2,2x2: a curve for each T (study depth: for each D).

DIR holds study.json (what was measured where), TxD-rR.json (bench number R on that grid), machine.json and plan-TxD.json
(the prediction), study.csv, summary.json, scaling.png and scaling.svg. The same command goes on where it was interrupted;
more --ranks, --grids and --repetitions may be added, while another revision, machine, option or number of threads is
refused. Speed-up and efficiency are those against the fewest ranks (strong: of all curves, else of each curve), measured
ones within a repetition, predicted ones within the plan.

scaling.png shows speed-up (weak studies: the step's time), efficiency, the mean share of a step that ranks wait, and the
memory of the rank that needs most: solid lines with medians and bars from the least to the most are measured, dashed ones
planned, whose memory is that of weights and states alone.

    tools/scaling_study.py --output runs/strong --ranks 1,2,4 -- --depth 74 --batch-size 128 --micro-batches 16
    tools/scaling_study.py --output runs/depth --study depth --launcher slurm --sbatch-options='--exclusive' --threads 2 \\
      -- --blocks 7,6,5 --widths 32,64,112 --batch-size 128 --micro-batches 32

Exit status: 0 done, 1 something failed (the rest was measured), 2 bad usage, 130 interrupted.
"""
import argparse
import datetime
import json
import os
import platform
import shlex
import subprocess
import sys
from pathlib import Path

from scaling_points import Point, StudyError, make_series, program_options, whole_numbers
from scaling_results import report, summarize, table

REPOSITORY = Path(__file__).resolve().parents[1]
# Of the options of bench those that plan knows as well.
PLAN_OPTIONS = {"--" + name for name in ("arch depth blocks widths step-size grid-bits dataset train-fraction batch-size "
                                         "micro-batches schedule slices-per-rank partition memory-limit activations "
                                         "config").split()}
MACHINE_BENCHES = 5
NO_MATPLOTLIB = 77  # status of scaling_figures.py


def say(text):
    print(f"scaling_study: {text}", file=sys.stderr, flush=True)


def write_whole(path, text):
    """Never leaves half a file under this name."""
    part = path.with_name(path.name + ".part")
    part.write_text(text, encoding="utf-8")
    part.rename(path)


def read_json(path):
    try:
        return json.loads(path.read_text(encoding="utf-8"))
    except (OSError, ValueError) as error:
        raise StudyError(f"cannot read {path}: {error}; expected a file of a study") from error


def layer_seconds(machine):
    """Of a layer of each kind at the study's micro-batch, mean of the ranks."""
    return sum(layer["forward_seconds"] + layer["back_seconds"] for rank in machine["ranks"] for layer in rank["layers"]
               if layer["images"] == machine["micro_batch"]) / len(machine["ranks"])


class Launcher:
    """Starts revode on so many ranks."""

    def __init__(self, arguments, threads):
        self.arguments, self.threads = arguments, threads

    def command(self, ranks, words, log):
        """(command line, standard input)"""
        given = self.arguments
        if given.launcher == "mpirun":
            options = shlex.split(given.mpirun_options)
            if self.threads > 1 and not options:
                options = ["--map-by", f"slot:PE={self.threads}", "--bind-to", "core"]
            return [given.mpirun, *options, "-n", str(ranks), given.revode, *words, "--threads", str(self.threads)], None
        # jobs/common.sh has what a site sets: modules, and srun or mpirun. It passes --cpus-per-task on as --threads.
        home = shlex.quote(str(REPOSITORY))
        script = (f"#!/bin/bash\nREVODE_HOME={home}\nREVODE={shlex.quote(given.revode)}\n"
                  f"source {home}/jobs/common.sh || exit 2\nset_launch {ranks} {shlex.join(words)}\n" '"${launch[@]}"\n')
        return ["sbatch", "--wait", "--job-name=revode-study", f"--ntasks={ranks}", f"--cpus-per-task={self.threads}",
                f"--output={log}", *shlex.split(given.sbatch_options)], script

    def run(self, ranks, words, log):
        command, script = self.command(ranks, words, log)
        return run(command, script, log)


def run(command, script=None, log=None):
    """Nothing, or what a user needs to know of the failure."""
    try:
        done = subprocess.run(command, input=script, capture_output=True, text=True)
    except OSError as error:
        return f"{shlex.join(command)}: {error}"
    if done.returncode == 0:
        return None
    text = done.stderr + (log.read_text(errors="replace") if log and log.exists() else "")
    lines = [line.strip() for line in text.splitlines() if line.strip("- *\t")]
    # A launcher has words of its own after those of the program that failed.
    telling = [line for line in lines if "error: " in line] or lines or ["it said nothing"]
    inside = f" <<< {shlex.quote(script.splitlines()[4])}" if script else ""
    return f"{shlex.join(command)}{inside} ended with status {done.returncode}: {telling[-1]}"


class Study:
    def __init__(self, arguments):
        self.arguments = arguments
        self.folder = Path(arguments.output)
        self.failures = 0
        self.facts = read_json(self.folder / "study.json") if (self.folder / "study.json").exists() else {}
        if arguments.plot_only:
            if not self.facts:
                raise StudyError(f"--output {self.folder} holds no study.json; expected a study to draw")
            # What was asked for last.
            arguments.study, arguments.grids = self.facts["study"], self.facts["grids"]
            arguments.ranks, arguments.repetitions = self.facts["ranks"], self.facts["repetitions"]
        options = self.facts["options"] if arguments.plot_only else program_options(arguments.options)
        grids = arguments.grids or {"strong": "time,data", "depth": "time", "data": "data"}[arguments.study]
        self.series = make_series(arguments.study, grids, whole_numbers("--ranks", arguments.ranks))
        all_grids = {grid for _, members in self.series for grid in members}
        self.points = [Point(arguments.study, grid, options)
                       for grid in sorted(all_grids, key=lambda grid: (grid[0] * grid[1], grid))]
        self.most_ranks = max(point.ranks for point in self.points)
        if not arguments.plot_only:
            self.begin(options, grids)
        self.launcher = Launcher(arguments, self.facts["threads"])

    def begin(self, options, grids):
        """Opens the folder, or refuses to mix."""
        given = self.arguments
        if given.repetitions < 1:
            raise StudyError(f"--repetitions {given.repetitions}: expected at least 1")
        if given.threads is not None and given.threads < 1:
            raise StudyError(f"--threads {given.threads}: expected at least 1")
        if given.planned_only and not given.machine:
            raise StudyError("--planned-only without --machine: expected a file that `revode bench --machine-file` wrote")
        if not os.access(given.revode, os.X_OK):
            raise StudyError(f"--revode {given.revode}: there is no such program; tools/quickstart builds it")
        given.revode = os.path.abspath(given.revode)
        machine = read_json(Path(given.machine)) if given.machine else {}
        cores = len(os.sched_getaffinity(0))
        threads = given.threads or self.facts.get("threads") or machine.get("threads") or max(1, cores // self.most_ranks)
        if machine.get("threads", threads) != threads:
            raise StudyError(f"--machine {given.machine} tells of {machine['threads']} threads a rank; expected {threads}")
        version = subprocess.run([given.revode, "--version"], capture_output=True, text=True).stdout.strip()
        here = given.launcher == "mpirun" and not given.planned_only
        facts = {"study": given.study, "planned_only": given.planned_only, "version": version, "options": options,
                 "threads": threads, "launcher": given.launcher,
                 "launcher_options": given.mpirun_options if given.launcher == "mpirun" else given.sbatch_options,
                 "host": f"{platform.machine()}, {cores} cores" if here else ""}
        for name, value in facts.items():
            self.refuse_other(name, value, "now")
        if not given.planned_only:
            why = ("" if given.threads else " (as in the folder)" if "threads" in self.facts else
                   " (as in the machine file)" if machine else
                   f" ({cores} cores here / {self.most_ranks} ranks, at least 1)")
            say(f"threads a rank: {threads}{why}")
        if here and self.most_ranks * threads > cores:
            say(f"warning: {self.most_ranks} ranks of {threads} threads share {cores} cores: times say nothing of scaling")
        self.folder.mkdir(parents=True, exist_ok=True)
        kept = self.folder / "machine.json"
        if machine and kept.exists() and read_json(kept) != machine:
            raise StudyError(f"--machine {given.machine} is not the one that {kept} holds; expected that one, or another "
                             "folder for --output")
        if machine:
            write_whole(kept, json.dumps(machine, indent=1) + "\n")
        # A study begun earlier keeps its host and date.
        now = datetime.datetime.now(datetime.timezone.utc)
        begun = {"host_name": platform.node(), "begun": now.isoformat("T", "seconds")}
        asked = {"grids": grids, "ranks": given.ranks, "repetitions": given.repetitions}
        self.facts = {**begun, **self.facts, **facts, **asked}
        self.keep_facts()

    def keep_facts(self):
        write_whole(self.folder / "study.json", json.dumps(self.facts, indent=1) + "\n")

    def refuse_other(self, name, value, where):
        if name in self.facts and self.facts[name] != value:
            raise StudyError(f"{self.folder} holds a study with {name} {self.facts[name]!r}, {where} it is {value!r}; "
                             "expected the same, or another folder for --output")

    def fail(self, text):
        self.failures += 1
        say(f"failed: {text}")

    def measure(self):
        """A bench for each point and repetition that is not there yet, there and back in turn."""
        rounds = range(1, self.arguments.repetitions + 1)
        missing = [(point, number) for number in rounds for point in (self.points if number % 2 else self.points[::-1])
                   if not self.result_file(point, number).exists()]
        for count, (point, number) in enumerate(missing, start=1):
            say(f"{count} of {len(missing)}: {point.name}, repetition {number}")
            self.bench(point, self.result_file(point, number), point.options)

    def result_file(self, point, number):
        return self.folder / f"{point.name}-r{number}.json"

    def bench(self, point, file, options, machine=None):
        part, log = file.with_name(file.name + ".part"), file.with_suffix(".log")
        grid = {"--time-ranks": str(point.time_ranks), "--data-ranks": str(point.data_ranks)}
        extra = {"--machine-file": f"{machine.resolve()}"} if machine else {}
        pairs = {**options, **grid, **extra, "--json": f"{part.resolve()}"}
        part.unlink(missing_ok=True)
        error = self.launcher.run(point.ranks, ["bench", *(word for pair in pairs.items() for word in pair)], log)
        if error or not part.exists():
            return self.fail(error or f"bench on {point.name} wrote no result")
        result = read_json(part)
        for name in ("revision", "processor", "backend"):
            self.refuse_other(name, result[name], f"on {point.name}")
        if any(name not in self.facts for name in ("revision", "processor", "backend")):
            self.facts.update({name: result[name] for name in ("revision", "processor", "backend")})
            self.keep_facts()
        log.unlink(missing_ok=True)
        return part.rename(file)

    def measure_machine(self):
        """Costs of layers and messages, for the plans: those of the bench whose layers took the median of some, as medians
        are what they are held against."""
        kept = self.folder / "machine.json"
        if kept.exists():
            return
        # Micro-batches have the same size on all grids of a study, and layers cost the same at any depth.
        point = Point("strong", (2, 1) if self.most_ranks > 1 else (1, 1), self.points[0].options)
        say(f"costs of layers and messages on {point.name}")
        files = []
        for number in range(1, MACHINE_BENCHES + 1):
            file = self.folder / f"machine-{number}.json"
            # Without costs there is no prediction, but what is to be measured still is.
            if not self.bench(point, self.folder / "machine-bench.json", {**point.options, "--steps": "1"}, file):
                return
            files.append(file)
        sorted(files, key=lambda file: layer_seconds(read_json(file)))[len(files) // 2].rename(kept)
        for file in files:
            file.unlink(missing_ok=True)

    def plan(self):
        machine = self.folder / "machine.json"
        for point in self.points if machine.exists() else []:
            file = self.folder / f"plan-{point.name}.json"
            part = file.with_name(file.name + ".part")
            if file.exists():
                continue
            known = [word for pair in point.options.items() if pair[0] in PLAN_OPTIONS for word in pair]
            error = run([self.arguments.revode, "plan", "--machine", str(machine), "--ranks", str(point.ranks),
                         "--time-ranks", str(point.time_ranks), "--data-ranks", str(point.data_ranks), *known,
                         "--json", str(part)])
            if error:
                self.fail(error)
            else:
                part.rename(file)

    def summarize(self):
        """Reads what is there, and writes the tables."""
        measured, planned = {}, {}
        for point in self.points:
            files = {number: self.result_file(point, number) for number in range(1, self.arguments.repetitions + 1)}
            measured[point.name] = {number: read_json(file) for number, file in files.items() if file.exists()}
            file = self.folder / f"plan-{point.name}.json"
            if file.exists():
                planned[point.name] = read_json(file)
        summary = summarize(self.facts, self.series, self.points, measured, planned)
        write_whole(self.folder / "summary.json", json.dumps(summary, indent=1) + "\n")
        write_whole(self.folder / "study.csv", table(summary))
        print(report(summary))

    def draw(self):
        """By a process of its own, as matplotlib may belong to another Python."""
        script = Path(__file__).with_name("scaling_figures.py")
        return subprocess.run([sys.executable, script, self.folder / "summary.json", "-o", self.folder / "scaling.png",
                               self.folder / "scaling.svg"]).returncode


def read_arguments():
    parser = argparse.ArgumentParser(prog="tools/scaling_study.py", description=__doc__,
                                     formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--output", metavar="DIR", required=True, help="folder of the study; one that is there goes on")
    parser.add_argument("--study", choices=("strong", "depth", "data"), default="strong", help="default %(default)s")
    parser.add_argument("--ranks", metavar="N,N,...", default="1,2,4,8", help="default %(default)s")
    parser.add_argument("--grids", help="see above (default: strong time,data; depth time; data data)")
    parser.add_argument("--repetitions", type=int, default=3, metavar="R",
                        help="benches of each grid, in alternating order (default %(default)s)")
    parser.add_argument("--threads", type=int, metavar="N",
                        help="a rank, in the whole study (default: cores of this host / most ranks, at least 1)")
    parser.add_argument("--machine", metavar="FILE", help="costs for the prediction (default: measured before the study)")
    parser.add_argument("--planned-only", action="store_true", help="measure nothing: the study comes from --machine")
    parser.add_argument("--plot-only", action="store_true", help="write tables and figures again from what DIR holds")
    parser.add_argument("--revode", default="build/src/revode", metavar="PROGRAM", help="default %(default)s")
    parser.add_argument("--launcher", choices=("mpirun", "slurm"), default="mpirun",
                        help="slurm: each measurement is a job, `sbatch --wait` (default %(default)s)")
    parser.add_argument("--mpirun", default="mpirun", metavar="PROGRAM", help=argparse.SUPPRESS)
    parser.add_argument("--mpirun-options", default="", metavar="'...'",
                        help="as in --mpirun-options='--oversubscribe --bind-to none' (default none; with several threads "
                             "a rank --map-by slot:PE=THREADS --bind-to core)")
    parser.add_argument("--sbatch-options", default="", metavar="'...'",
                        help="as in --sbatch-options='--exclusive --partition=work'; how a job starts its ranks is said in "
                             "jobs/common.sh")
    words = sys.argv[1:]
    split = words.index("--") if "--" in words else len(words)
    arguments = parser.parse_args(words[:split])
    arguments.options = words[split + 1:]
    return arguments


def main():
    arguments = read_arguments()
    try:
        study = Study(arguments)
        try:
            if not arguments.plot_only:
                if not arguments.planned_only:
                    study.measure_machine()
                    study.measure()
                study.plan()
        except KeyboardInterrupt:
            say("interrupted; the same command goes on")
            sys.exit(130)
        study.summarize()
        drawn = study.draw()
    except StudyError as error:
        say(f"error: {error}")
        sys.exit(2)
    sys.exit(1 if study.failures or drawn not in (0, NO_MATPLOTLIB) else 0)


if __name__ == "__main__":
    main()
