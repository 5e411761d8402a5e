"""One round of tools/soak.py: a run in a folder of its own that is struck, looked at, and started again until it is done,
then held against a run that nobody disturbed. What is wrong ends the round with a Trouble."""
import os
import re
import shlex
import signal
import subprocess
import time
from pathlib import Path
from typing import NamedTuple

from run_files import checkpoint_steps, difference_of_checkpoints, last_of_each, metrics_of
from soak_job import LOOK_SECONDS, Job, Trouble, Watch, uninterrupted
from soak_plan import KILLS

DONE, STOPPED = 0, 75
GOES_ON = re.compile(r"going on from (\S+) at step (\d+)")
TRAINS = re.compile(r"^training to step ", re.MULTILINE)
SAVED = re.compile(r"stopped by a signal after step (\d+); saved (\S+)")
FILES_OF_A_RUN = re.compile(r"config\.ini|metrics\.jsonl|latest\.h5|best\.h5|checkpoint-\d+\.h5|.*\.left-behind(-\d+)?")
# mpirun itself ends with 1 after SIGTERM, and kills its ranks a second later: README, "Exit status".
MPIRUN_ON_SIGTERM = 1
USUAL_START_SECONDS = 0.5  # until one was seen


class Hit(NamedTuple):
    """A strike that has hit, and what came of it."""
    strike: object
    grid: tuple  # that it met: the strike's, or after a pause still the one before
    round: int
    within_save: bool
    newest_step: int  # of the checkpoints that were there, -1 where there was none
    status: object  # of the job; None after a pause, which it survives
    down_seconds: object
    saved: bool  # a signal: the ranks said that they saved


class Round:
    def __init__(self, options, number, folder, report):
        self.options, self.number, self.folder, self.report = options, number, Path(folder), report
        self.run = self.folder / "run"
        self.run.mkdir(parents=True)
        self.watch = Watch(self.run)
        self.job = None
        self.starts = 0
        self.resumes = []  # after which kind of strike a start took how many seconds until it trained
        self.last_kind = None
        self.checked = {}  # what a file looked like when its checksums were held against it
        self.expected_step = -1  # of the checkpoint that the next start goes on from

    def command(self, output, grid, *more):
        ranks = grid[0] * grid[1]
        launcher = [*shlex.split(self.options.mpirun), "-n", str(ranks)] if ranks > 1 else []
        shape = ["--time-ranks", grid[0], "--data-ranks", grid[1]] if ranks > 1 else []
        return [*launcher, self.options.revode, *last_of_each(["train", *self.options.network(self.number), *shape,
                                                               "--output", output, *more])]

    # ----- the run that nobody disturbs

    def make_reference(self):
        try:
            with uninterrupted():
                self.job = Job(self.command("reference", (1, 1)), 1, self.folder, self.folder / "reference.out")
            self.job.wait_until_gone(self.options.reference_limit, "the undisturbed run")
            if self.job.process.returncode != DONE:
                raise Trouble("failure", f"the undisturbed run: exit status {self.job.process.returncode}\n"
                              f"{self.job.last_lines()}")
        finally:
            if self.job is not None:
                self.job.end()

    # ----- one start

    def start(self, grid):
        """A job on this grid, from the newest checkpoint that is there."""
        self.watch.start_again()
        self.expected_step = max([-1, *checkpoint_steps(self.run)])
        self.left_over = self.hidden_files()
        self.starts += 1
        self.trained, self.grid = False, grid
        with uninterrupted():
            self.job = Job(self.command("run", grid, "--resume", "auto"), grid[0] * grid[1], self.folder,
                           self.folder / f"start-{self.starts:03}.out")

    def hidden_files(self):
        return {name for name in os.listdir(self.run) if name.startswith(".") and name != ".revode-lock"}

    def soak(self, strikes):
        """Takes strikes from the list as they hit, until the run is done."""
        try:
            while True:
                self.start(strikes[0].grid if strikes else self.options.last_grid(self.number))
                if self.drive(strikes):
                    break
            self.compare()
        finally:
            if self.job is not None:
                self.job.end()
            self.watch.close()

    def drive(self, strikes):
        """Until this start has ended; whether the run is done."""
        while strikes:
            strike = strikes[0]
            if not self.wait_for(strike):
                break
            hit = self.strike(strike)
            strikes.pop(0)
            self.report(hit)
            self.last_kind = strike.kind
            if strike.kind != "pause":
                return hit.status == DONE
        self.follow_to_the_end()
        self.job.wait_until_gone(self.options.limit, "a run that had ended by itself")
        self.look_at_what_is_left("an end by itself", signalled=False)
        return True

    def follow_to_the_end(self):
        saves = self.watch.saves
        while self.wait(lambda: self.watch.saves > saves, self.options.limit, "the run, no longer disturbed: a checkpoint"):
            saves = self.watch.saves

    def wait(self, happened, limit, what):
        """Follows the folder until `happened`, or the job's end: false."""
        begun = time.monotonic()
        while not happened():
            if not self.job.runs():
                return False
            if time.monotonic() - begun > limit:
                raise Trouble("hang", f"{what}: nothing within {limit} s\n{self.job.state()}")
            self.watch.look(LOOK_SECONDS)
            if self.watch.prepared and not self.trained:
                self.trained = True
                self.resumes.append((self.last_kind, self.watch.prepared - self.job.begun))
        return True

    def wait_for(self, strike):
        """The moment of a strike; false where the job ends before."""
        watch, limit, name = self.watch, self.options.limit, f"strike {strike.number}"
        first = watch.saves
        if strike.moment == "starting":
            time.sleep(strike.fraction * watch.usual([seconds for _, seconds in self.resumes] or [USUAL_START_SECONDS]))
            return self.wait(lambda: len(self.job.ranks()) == self.job.num_ranks, limit, f"{name}: ranks to start")
        if strike.moment == "preparing":
            return self.wait(lambda: watch.preparing or watch.prepared, limit, f"{name}: its files to be prepared")
        if not self.wait(lambda: watch.saves >= first + strike.saves_before, limit,
                         f"{name}: {strike.saves_before} checkpoints"):
            return False
        if strike.moment == "running":
            end = time.monotonic() + strike.fraction * watch.usual(watch.gap_seconds)
            return self.wait(lambda: time.monotonic() >= end, limit, name)
        while self.wait(lambda: watch.begun, limit, f"{name}: a save to begin"):
            time.sleep(strike.fraction * watch.usual(watch.save_seconds))
            if watch.temporaries():
                return self.job.runs()
            watch.look(0)  # that one was over already
        return False

    # ----- the strike

    def strike(self, strike):
        job, watch = self.job, self.watch
        ranks = job.ranks()
        one = ranks[int(strike.rank_fraction * len(ranks))] if ranks else job.session
        if strike.kind == "pause":
            return self.pause(strike, one)
        number = signal.SIGKILL if strike.kind in KILLS else signal.Signals[strike.kind]
        target = {"kill-rank": "rank", "kill-mpirun": "mpirun", "kill-all": "all"}.get(strike.kind, strike.target)
        job.send(number, {"rank": [one], "mpirun": [job.session], "ranks": ranks, "all": [job.session, *ranks]}[target])
        within = bool(watch.temporaries())
        watch.look(0)
        newest = watch.newest
        what = f"strike {strike.number}, {strike.kind} to {target} of {len(ranks)} ranks, {strike.moment}"
        down = job.wait_until_gone(self.options.limit, what)
        watch.look(0)
        if number == signal.SIGKILL:
            within = bool(watch.temporaries())  # nobody has removed what was there
        allowed = None
        if number != signal.SIGKILL:
            through_mpirun = target == "mpirun" and job.num_ranks > 1
            allowed = (STOPPED, MPIRUN_ON_SIGTERM) if through_mpirun and number == signal.SIGTERM else (STOPPED,)
        saved = self.look_at_what_is_left(what, allowed=allowed, newest=max(newest, watch.newest))
        return Hit(strike, self.grid, self.number, within, newest, job.process.returncode, down, saved)

    def pause(self, strike, rank):
        self.job.send(signal.SIGSTOP, [rank])
        time.sleep(strike.pause_seconds)
        within = bool(self.watch.temporaries())
        self.job.send(signal.SIGCONT, [rank])
        self.watch.look(0)
        saves = self.watch.saves
        self.wait(lambda: self.watch.saves > saves, self.options.limit,
                  f"strike {strike.number}, one of {self.job.num_ranks} ranks stopped for {strike.pause_seconds:.2f} s: to "
                  "go on")
        return Hit(strike, self.grid, self.number, within, self.watch.newest, None, None, False)

    # ----- what must hold whenever no process is left

    def look_at_what_is_left(self, what, allowed=None, newest=-1, signalled=True):
        """Whether the ranks said that they had saved."""
        status, text = self.job.process.returncode, self.job.text()
        is_done = self.is_done()
        if status == DONE and not is_done:
            raise Trouble("failure", f"{what}: exit status 0, but metrics.jsonl does not end with the end of the run\n"
                          f"{self.job.last_lines()}")
        if (not signalled and status != DONE) or (allowed and status not in (DONE, *allowed)):
            expected = " or ".join(map(str, (DONE, *(allowed or ()))))
            raise Trouble("failure", f"{what}: exit status {status}, expected {expected}\n{self.job.last_lines()}")
        self.check_start(what, text)
        self.check_checkpoints(what)
        steps = checkpoint_steps(self.run)
        if newest > max([-1, *steps]):
            raise Trouble("loss", f"{what}: checkpoint-{newest}.h5 had been written, and the newest that is left is "
                          f"{f'checkpoint-{steps[-1]}.h5' if steps else 'none'}")
        saved = SAVED.search(text)
        if status == STOPPED and not saved:
            raise Trouble("loss", f"{what}: exit status 75 without having saved\n{self.job.last_lines()}")
        if saved and (not steps or steps[-1] != int(saved[1])):
            raise Trouble("loss", f"{what}: '{saved[0]}', but the newest checkpoint is of step {steps[-1:]}")
        return bool(saved)

    def is_done(self):
        file = self.run / "metrics.jsonl"
        lines = file.read_text().splitlines() if file.exists() else []
        return bool(lines) and '"kind":"end"' in lines[-1].replace(" ", "")

    def check_start(self, what, text):
        """It went on from the newest checkpoint that was there, and removed what a killed run had left half written."""
        found, step = GOES_ON.search(text), self.expected_step
        if found and int(found[2]) != step:
            raise Trouble("loss", f"{what}: the run went on from step {found[2]}, although checkpoint-{step}.h5 was there\n"
                          f"{self.job.last_lines()}")
        if not found and step >= 0 and TRAINS.search(text):
            raise Trouble("loss", f"{what}: the run began anew, although checkpoint-{step}.h5 was there\n"
                          f"{self.job.last_lines()}")
        stale = self.left_over & self.hidden_files()
        if TRAINS.search(text) and stale:
            raise Trouble("litter", f"{what}: the start did not remove what the one before had left half written: "
                          f"{', '.join(sorted(stale))}")

    def check_checkpoints(self, what):
        """Every byte of each against its checksums."""
        for file in sorted(self.run.glob("*.h5")):
            if not file.exists():
                raise Trouble("damage", f"{what}: {file.name} points to {os.readlink(file)}, which is not there")
            state = file.stat()
            look = (state.st_ino, state.st_size, state.st_mtime_ns)
            if self.checked.get(file.name) == look:
                continue
            try:
                done = subprocess.run([self.options.revode, "info", "--check", file], stdin=subprocess.DEVNULL,
                                      capture_output=True, text=True, timeout=self.options.limit)
            except subprocess.TimeoutExpired:
                raise Trouble("hang", f"{what}: revode info --check {file.name} takes longer than {self.options.limit} s"
                              ) from None
            if done.returncode != 0:
                raise Trouble("damage", f"{what}: {file.name} fails revode info --check: {done.stderr.strip()}")
            self.checked[file.name] = look

    # ----- the end

    def compare(self):
        reference = self.folder / "reference"
        steps, expected = checkpoint_steps(self.run), checkpoint_steps(reference)
        if steps[-1:] != expected[-1:]:
            raise Trouble("difference", f"the last checkpoint is of step {steps[-1:]}, undisturbed of {expected[-1:]}")
        names = [f"checkpoint-{step}.h5" for step in steps if step in expected]
        names += ["best.h5"] if (reference / "best.h5").exists() else []
        for name in names:
            if not (self.run / name).exists():
                raise Trouble("loss", f"the run has no {name}, the undisturbed one has")
            if difference := difference_of_checkpoints(self.run / name, reference / name):
                raise Trouble("difference", f"{name} is not that of the undisturbed run: {difference}")
        if os.readlink(self.run / "latest.h5") != os.readlink(reference / "latest.h5"):
            raise Trouble("difference", f"latest.h5 points to {os.readlink(self.run / 'latest.h5')}")
        records, expected = metrics_of(self.run), metrics_of(reference)
        if records != expected:
            odd = next((pair for pair in zip(records, expected) if pair[0] != pair[1]), (len(records), len(expected)))
            raise Trouble("difference", f"metrics.jsonl: {odd[0]}, undisturbed {odd[1]}")
        others = [name for name in sorted(os.listdir(self.run)) if not FILES_OF_A_RUN.fullmatch(name)]
        if others:
            raise Trouble("litter", f"the run is done, and its folder still holds {', '.join(others)}")
