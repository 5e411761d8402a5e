#!/usr/bin/env python3
"""Disturbs a training run again and again, and sees that nothing of it is lost: kills, signals and pauses at random moments.

    tools/soak.py --kills 300 [--seed S] [options] [-- options of revode]

Each disturbance strikes a run: kill -9 of one rank, of mpirun, or of all processes; SIGTERM or SIGUSR1, as a scheduler
sends them; SIGSTOP of one rank for a moment. It strikes while the run starts, while it prepares its files, between saves or
within one. The run is started again with `--resume auto` on another grid of ranks, until it is done. Then its checkpoints
have to be, byte for byte, those of a run on one rank that nobody disturbed, and its metrics the same but for times. A run
that is done before all disturbances have hit is followed by another one: rounds.

After each disturbance: no process of the job is left, the newest checkpoint is none that is older than before, `revode info
--check` passes on all of them, the next start goes on from the newest, and removes what was half written. Every wait has a
limit: what takes longer is a hang, told with what the processes wait for and said last.

Network: 4 blocks on the built-in images, a checkpoint each 5 steps; what comes after `--` is added to that. Rounds take
the architectures in turn, unless --arch is given.

Exit status: 0 all is well, 1 something is not (the folder is kept), 2 bad usage, 130 interrupted.
"""
import argparse
import json
import os
import random
import shutil
import signal
import subprocess
import sys
import tempfile
import time
from pathlib import Path

sys.dont_write_bytecode = True
from soak_job import Trouble  # noqa: E402
from soak_plan import KINDS, grids, plan_of  # noqa: E402
from soak_round import Round  # noqa: E402

FAULTS = ("hang", "loss", "damage", "difference", "litter", "failure")
# Rounds with a fault, after which it is clear that there is one.
MOST_BAD_ROUNDS = 3
ARCHITECTURES = ("hamiltonian", "leapfrog", "midpoint")
NETWORK = ["--blocks", "2,1,1", "--widths", "6,10,16", "--threads", "1", "--batch-size", "20", "--train-fraction", "0.05",
           "--epochs", "1000000", "--checkpoint-every", "5", "--keep-checkpoints", "4", "--eval-every", "5",
           "--log-every", "1", "--progress", "off"]
# A run that nobody disturbs takes longer than a start or a step.
REFERENCE_LIMITS = 10


class Options:
    """Those of the command line, as the rounds use them."""

    def __init__(self, given):
        self.revode, self.mpirun, self.limit = given.revode, given.mpirun, given.limit
        self.reference_limit = REFERENCE_LIMITS * given.limit
        self.given = given

    def network(self, number):
        return [*NETWORK, "--arch", ARCHITECTURES[number % len(ARCHITECTURES)], "--seed", self.given.seed + number,
                "--steps", self.given.steps, *self.given.options]

    def last_grid(self, number):
        """Of the start that is not disturbed any more."""
        return random.Random(f"soak {self.given.seed} end {number}").choice(grids(self.given.max_ranks))


class Soak:
    def __init__(self, given):
        self.given, self.options = given, Options(given)
        self.strikes = plan_of(given.seed, given.kills, given.max_ranks, given.share_in_saves)
        self.hits, self.troubles, self.resumes = [], [], []
        self.starts = self.rounds = 0
        self.shown = 0

    def run(self, folder):
        while (self.strikes or self.rounds == 0) and len(self.troubles) < MOST_BAD_ROUNDS:
            self.run_round(folder)
            self.rounds += 1

    def run_round(self, folder):
        place = folder / f"round-{self.rounds + 1}"
        one = Round(self.options, self.rounds, place, self.note)
        try:
            one.make_reference()
            one.soak(self.strikes)
            shutil.rmtree(place)
        except Trouble as trouble:
            self.troubles.append((trouble, self.rounds, self.strikes.pop(0) if self.strikes else None))
            print(f"\nround {self.rounds + 1}, start {one.starts}: {trouble.fault}: {str(trouble).rstrip()}\n"
                  f"  folder: {place}", flush=True)
        self.starts += one.starts
        self.resumes += one.resumes
        if not sys.stdout.isatty():
            print(f"round {self.rounds + 1}: {len(self.hits)} of {self.given.kills} have hit", flush=True)

    def note(self, hit):
        self.hits.append(hit)
        if sys.stdout.isatty() and time.monotonic() - self.shown > 0.5:
            self.shown = time.monotonic()
            print(f"\rround {self.rounds + 1}: {len(self.hits)} of {self.given.kills} have hit, "
                  f"{sum(one.within_save for one in self.hits)} within a save  ", end="", flush=True)

    def faults_of(self, kind, fault):
        return sum(1 for trouble, _, strike in self.troubles
                   if trouble.fault == fault and (strike.kind if strike else None) == kind)

    def rows(self):
        rows = []
        for kind in [*KINDS, None]:
            hits = [hit for hit in self.hits if hit.strike.kind == kind]
            faults = {fault: self.faults_of(kind, fault) for fault in FAULTS}
            if hits or any(faults.values()):
                resumes = [seconds for cause, seconds in self.resumes if cause == kind]
                downs = [hit.down_seconds for hit in hits if hit.down_seconds is not None]
                rows.append({"kind": kind or "none", "count": len(hits),
                             "within_saves": sum(hit.within_save for hit in hits),
                             "restarts": sum(hit.status not in (None, 0) for hit in hits),
                             "longest_down_seconds": max(downs, default=None),
                             "longest_resume_seconds": max(resumes, default=None), **faults})
        return rows

    def print_table(self):
        def seconds(value):
            return "-" if value is None else f"{value:.2f} s"

        def line(name, row):
            other = row["difference"] + row["litter"] + row["failure"]
            bad = row["hang"] + row["loss"] + row["damage"] + other
            print(f"{name:30} {row['count']:6} {row['within_saves']:9} {row['restarts']:9} "
                  f"{seconds(row['longest_down_seconds']):>8} {seconds(row['longest_resume_seconds']):>8} {row['hang']:6} "
                  f"{row['loss'] + row['damage']:7} {other:6} {'FAILED' if bad else 'ok':>7}")

        rows = self.rows()
        total = {name: sum(row[name] for row in rows) for name in ("count", "within_saves", "restarts", *FAULTS)}
        for name in ("longest_down_seconds", "longest_resume_seconds"):
            total[name] = max((row[name] for row in rows if row[name] is not None), default=None)
        print(f"\n{'':30} {'count':>6} {'in saves':>9} {'restarts':>9} {'down':>8} {'resumed':>8} {'hangs':>6} {'losses':>7} "
              f"{'other':>6} {'result':>7}")
        for row in rows:
            line(KINDS.get(row["kind"], "not disturbed"), row)
        line("all", total)
        print(f"{self.rounds} rounds, {self.starts} starts; down: the longest until no process was left; resumed: the "
              "longest from the start after it until it trains")

    def verdict(self):
        """What is wrong, in sentences."""
        wrong = [f"{trouble.fault}: {str(trouble).splitlines()[0]}" for trouble, _, _ in self.troubles]
        within = sum(hit.within_save for hit in self.hits)
        if not wrong and within < self.given.least_in_saves:
            wrong.append(f"only {within} of {self.given.kills} were within a save, --least-in-saves "
                         f"{self.given.least_in_saves} asks for more")
        return wrong

    def record(self, version, seconds):
        hits = [{**hit.strike._asdict(), **{name: getattr(hit, name) for name in hit._fields if name != "strike"}}
                for hit in self.hits]
        return {"command": "soak", "version": version, "seed": self.given.seed, "kills": self.given.kills,
                "max_ranks": self.given.max_ranks, "options": list(map(str, self.options.network(0))),
                "rounds": self.rounds, "starts": self.starts, "seconds": seconds, "passed": not self.verdict(),
                "wrong": self.verdict(), "longest_resume_seconds": max((seconds for _, seconds in self.resumes), default=None),
                "by_kind": self.rows(), "strikes": hits}


def read_arguments():
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--kills", type=int, default=50, metavar="N", help="disturbances (default %(default)s)")
    parser.add_argument("--seed", type=int, help="of the plan of disturbances, and of the networks (default: a new one)")
    parser.add_argument("--max-ranks", type=int, default=4, metavar="N", help="of any grid T x D (default %(default)s)")
    parser.add_argument("--share-in-saves", type=float, default=0.2, metavar="SHARE",
                        help="of the disturbances that are aimed at saves; some come too late (default %(default)s)")
    parser.add_argument("--least-in-saves", type=int, default=0, metavar="N",
                        help="fail where fewer were within a save (default %(default)s)")
    parser.add_argument("--steps", type=int, default=400, help="of a round (default %(default)s)")
    parser.add_argument("--limit", type=float, default=60, metavar="SECONDS",
                        help="what takes longer hangs: a start, an end, a checkpoint; ten times that for a run that nobody "
                             "disturbs (default %(default)s)")
    parser.add_argument("--output", metavar="DIR", help="where the runs are (default: a temporary folder)")
    parser.add_argument("--json", metavar="FILE", help="the result, and each disturbance")
    parser.add_argument("--revode", default="build/src/revode", metavar="PROGRAM", help="default %(default)s")
    parser.add_argument("--mpirun", default="mpirun --oversubscribe --bind-to none", metavar="'...'",
                        help="starts several ranks (default '%(default)s')")
    words = sys.argv[1:]
    split = words.index("--") if "--" in words else len(words)
    given = parser.parse_args(words[:split])
    given.options = words[split + 1:]
    if given.kills < 1 or given.max_ranks < 1 or not 0 <= given.share_in_saves <= 1 or given.limit <= 0:
        parser.error("expected --kills and --max-ranks of at least 1, --share-in-saves from 0 to 1, --limit above 0")
    if not os.access(given.revode, os.X_OK):
        parser.error(f"--revode {given.revode}: there is no such program; tools/quickstart builds it")
    given.revode = os.path.abspath(given.revode)
    if given.seed is None:
        given.seed = random.randrange(1_000_000)
    return given


def interrupt(*_):
    raise KeyboardInterrupt


def main():
    given = read_arguments()
    signal.signal(signal.SIGTERM, interrupt)  # leaves nothing running either
    folder = Path(given.output or tempfile.mkdtemp(prefix="revode-soak-")).absolute()
    folder.mkdir(parents=True, exist_ok=True)
    if any(folder.iterdir()):
        sys.exit(f"soak: error: --output {folder}: is not empty")
    if given.json:
        Path(given.json).absolute().parent.mkdir(parents=True, exist_ok=True)
    version = subprocess.run([given.revode, "--version"], capture_output=True, text=True).stdout.strip()
    print(f"{version}; seed {given.seed}, {given.kills} disturbances, up to {given.max_ranks} ranks, in {folder}", flush=True)
    soak, begun = Soak(given), time.monotonic()
    interrupted = False
    try:
        soak.run(folder)
    except KeyboardInterrupt:
        interrupted = True
    soak.print_table()
    if given.json:
        Path(given.json).write_text(json.dumps(soak.record(version, time.monotonic() - begun), indent=1) + "\n")
    if interrupted:
        print(f"soak: interrupted; nothing is left running; the runs are in {folder}")
        return 130
    wrong = soak.verdict()
    for sentence in wrong:
        print(f"soak: {sentence}")
    print(f"result: {'failed' if wrong else 'passed'}; again with --seed {given.seed}")
    if not soak.troubles and not given.output:
        shutil.rmtree(folder, ignore_errors=True)
    return 1 if wrong else 0


if __name__ == "__main__":
    sys.exit(main())
