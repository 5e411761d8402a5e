#!/usr/bin/env python3
"""A run whose files can't be written, at each call of the system that it makes for them: it neither hangs nor loses more than
the steps since the last checkpoint, says what is wrong in one sentence, and goes on to the same bytes.

    save_faults_test.py REVODE MPIEXEC NUMPROC_FLAG LIBRARY RANKS [unittest arguments]

LIBRARY makes calls fail, see failing_files.cpp. First the calls of a run are counted, then each is struck; without
REVODE_ALL_CASES a few of each kind. Ends with a table of what came of them.
"""
import collections
import concurrent.futures
import errno
import os
import re
import shutil
import signal
import subprocess
import sys
import time
import unittest
from pathlib import Path

sys.path.insert(0, str(Path(__file__).resolve().parents[1] / "commands"))
import program  # noqa: E402
from program import metrics_of  # noqa: E402

LIBRARY, RANKS = "", 1
ALL_CASES = bool(os.environ.get("REVODE_ALL_CASES"))
# Two saves and best.h5 at the end.
RUN = ["--blocks", "1,1,1", "--widths", "4,6,8", "--image-size", "16", "--threads", "1", "--batch-size", "20",
       "--train-fraction", "0.01", "--epochs", "1000000", "--steps", "6", "--checkpoint-every", "3", "--eval-every", "0", "--log-every", "1",
       "--partition", "uniform", "--schedule", "1f1b", "--progress", "off"]
AFTER_A_RESUME = {"metrics.jsonl.left-behind"}
FILES = {"config.ini", "metrics.jsonl", "checkpoint-3.h5", "checkpoint-6.h5", "latest.h5", "best.h5"}
KINDS = ("open", "write", "sync", "rename", "link", "reserve", "mkdir", "unlink", "close")
# The hidden file by which ranks check that they see one folder.
SIGN = "revode-sign"
# What the system says of each kind on a disk that is full, damaged, over its quota, read-only, or gone.
REASONS = {"open": ("EACCES", "ENOENT", "EROFS", "EIO"), "write": ("ENOSPC", "EIO", "EDQUOT", "short"),
           "sync": ("EIO", "ENOSPC", "EDQUOT"), "rename": ("EIO", "EACCES", "ENOSPC"), "link": ("ENOSPC", "EROFS"),
           "reserve": ("ENOSPC", "EDQUOT", "EIO"), "mkdir": ("ENOSPC", "EROFS"), "unlink": ("EIO", "EACCES"),
           "close": ("EIO", "ENOSPC")}
# What takes longer than this hangs; a run here takes about a second.
LIMIT_SECONDS = 90

Call = collections.namedtuple("Call", "rank kind number file")
Strike = collections.namedtuple("Strike", "kinds at times how rank policy")


def words_of(how):
    return os.strerror(getattr(errno, how))


def in_words(strike):
    times = {0: "on", 1: ""}.get(strike.times, f" x{strike.times}")
    return f"{strike.kinds} {strike.at}{times} {strike.how} rank {strike.rank} --on-save-error {strike.policy}"


class Faults(program.ProgramTest):
    def setUp(self):
        super().setUp()
        self.folder = self.folder.resolve()
        self.table = collections.Counter()
        self.run_program("train", *RUN, "--output", "expected")
        self.expected = {name: (self.folder / "expected" / name).read_bytes() for name in
                         ("checkpoint-3.h5", "checkpoint-6.h5", "best.h5")}
        self.expected_metrics = metrics_of(self.folder / "expected")

    # ----- one run

    def start(self, place, strike, *arguments):
        """The job of a run in place/run; each rank notes its calls in place/calls."""
        variables = {"LD_PRELOAD": LIBRARY, "REVODE_FAULT_FOLDER": place / "run", "REVODE_FAULT_LOG": place / "calls"}
        if strike:
            variables |= {"REVODE_FAULT_KINDS": strike.kinds, "REVODE_FAULT_AT": strike.at,
                          "REVODE_FAULT_TIMES": strike.times, "REVODE_FAULT_HOW": strike.how}
            if strike.rank is not None:
                variables["REVODE_FAULT_RANK"] = strike.rank
            arguments = (*arguments, "--on-save-error", strike.policy)
        launcher = [*program.LAUNCHER, str(RANKS)] if RANKS > 1 else []
        command = [*launcher, "env", *[f"{name}={value}" for name, value in variables.items()], program.REVODE,
                   *program.last_of_each(["train", *RUN, "--output", place / "run", *arguments])]
        return subprocess.Popen(command, cwd=place, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True,
                                start_new_session=True)

    def finish(self, job):
        """(status, standard output, standard error); the status of a job that hangs is None."""
        try:
            output, errors = job.communicate(timeout=LIMIT_SECONDS)
            return job.returncode, output, errors
        except subprocess.TimeoutExpired:
            os.killpg(job.pid, signal.SIGKILL)
            return (None, *job.communicate())

    def calls(self, place):
        file = place / "calls"
        lines = file.read_text().splitlines() if file.exists() else []
        parts = [line.split(" ", 4) for line in lines]
        return [(Call(int(rank), kind, int(number), name), struck == "struck") for rank, kind, number, struck, name in parts]

    def folder_for(self, name):
        place = self.folder / name
        place.mkdir()
        return place

    # ----- what has to hold

    def troubles_of_folder(self, run, struck_kinds=(), allowed=(), other_options=False):
        """Nothing half-written is left, and what is there is whole."""
        if not run.is_dir():
            return []
        found = {file.name for file in run.iterdir()}
        # A run that metrics.jsonl ends saves where it is.
        extra = {name for name in found - FILES - set(allowed) if not re.fullmatch(r"checkpoint-\d\.h5", name)}
        if "unlink" in struck_kinds or "rename" in struck_kinds:
            extra = {name for name in extra if name != ".revode-lock" and not name.startswith(".")}
        troubles = [f"left behind: {', '.join(sorted(extra))}"] if extra else []
        for file in run.glob("*.h5"):
            if not file.exists():
                troubles.append(f"{file.name} points to nothing")
            elif file.read_bytes() != self.expected.get(file.resolve().name):
                done = subprocess.run([program.REVODE, "info", "--check", file], capture_output=True, text=True)
                known = file.resolve().name in self.expected
                if done.returncode != 0 or (known and not other_options):
                    troubles.append(f"{file.name} has other bytes; info --check: {done.stderr.strip() or 'passes'}")
        return troubles

    def troubles_of_end(self, run):
        """The run is complete, and ended as one that nobody disturbed."""
        troubles = [f"{name} is missing or differs" for name, content in self.expected.items()
                    if name != "checkpoint-3.h5" and (not (run / name).exists() or (run / name).read_bytes() != content)]
        if metrics_of(run) != self.expected_metrics:
            troubles.append("the metrics differ")
        return troubles

    def troubles_of_error(self, strike, struck, run, output, errors, newest):
        """One sentence that names the file, or the folder where no file of its own can be made there, the reason, and the last
        checkpoint."""
        lines = [line for line in errors.splitlines() if "revode: error:" in line]
        if len(lines) != 1:
            return [f"{len(lines)} sentences"]
        troubles, line = [], lines[0]
        names = {re.sub(r"^\.(.+)\.\w{6}\.tmp$", r"\1", Path(call.file).name) for call in struck}
        told = {f"--output {run}: can't be written to" if name == SIGN else name for name in names}
        if not any(words in line for words in told) and not names <= {".", ".revode-lock"}:
            troubles.append(f"does not say {' or '.join(sorted(told))}")
        if strike.how != "short" and words_of(strike.how) not in line:
            troubles.append(f"does not say '{words_of(strike.how)}'")
        if "training to step" in output:
            last = re.search(r"the last checkpoint is \S*checkpoint-(\d+)\.h5", line)
            if not last and "no checkpoint had been written yet" not in line:
                troubles.append("does not name the last checkpoint")
            if (int(last[1]) if last else -1) > newest:
                troubles.append(f"names checkpoint-{last[1]}.h5, which is not there")
        return troubles

    def strike(self, number, strike):
        """(what came of it, troubles)"""
        place = self.folder_for(f"case-{number}")
        run = place / "run"
        status, output, errors = self.finish(self.start(place, strike))
        struck = [call for call, hit in self.calls(place) if hit]
        trains, notes = "training to step" in output, "revode: note:" in errors
        if status is None:
            return "hang", [f"hangs: {errors}"]
        if not struck:
            return "not met", ([f"{in_words(strike)}: status {status}: {errors}"] if status != 0 else [])
        outcome = {0: "went on" if notes else "harmless"}.get(status, "stopped" if trains else "refused at the start")
        troubles = self.troubles_of_folder(run, {call.kind for call in struck})
        steps = program.checkpoint_steps(run)
        if status == 0:
            troubles += self.troubles_of_end(run)
        elif status in (1, 2) and (status == 1 or not trains):
            troubles += self.troubles_of_error(strike, struck, run, output, errors, max(steps, default=-1))
            if trains and strike.policy == "continue" and strike.times > 0:
                troubles.append("ends, although these faults are to be outlived")
        else:
            troubles.append(f"status {status}")
        if strike.how == "short" and status != 0:
            troubles.append("a short write is no error")

        # Afterwards the disk is well again.
        again = subprocess.run([program.REVODE, "train", *RUN, "--output", run, "--resume", "auto"], capture_output=True,
                               text=True, timeout=LIMIT_SECONDS)
        if again.returncode != 0:
            troubles.append(f"--resume auto fails: {again.stderr}")
        else:
            troubles += [f"resumed: {trouble}" for trouble in self.troubles_of_end(run)]
            troubles += [f"resumed: {trouble}" for trouble in self.troubles_of_folder(run, allowed=AFTER_A_RESUME)]
            if steps and f"checkpoint-{steps[-1]}.h5 at step {steps[-1]}" not in again.stdout:
                troubles.append(f"--resume auto does not go on from checkpoint-{steps[-1]}.h5")
        if troubles:
            troubles = [f"{in_words(strike)} ({', '.join(call.file for call in struck[:3])}): {outcome}: "
                        f"{'; '.join(troubles)}\n    {errors.strip()}"]
        shutil.rmtree(place)
        return outcome, troubles

    def strike_all(self, strikes):
        troubles = []
        with concurrent.futures.ThreadPoolExecutor(max_workers=4) as pool:
            results = pool.map(self.strike, range(len(strikes)), strikes)
            for strike, (outcome, found) in zip(strikes, results):
                self.table[(strike.kinds if strike.times == 1 else f"{strike.kinds} (lasting)", strike.policy, outcome)] += 1
                troubles += found
        rows = "\n".join(f"{kind:40} {policy:9} {outcome:22} {count:4}"
                         for (kind, policy, outcome), count in sorted(self.table.items()))
        print(f"\n{RANKS} rank(s), {len(strikes)} strikes:\n{rows}", flush=True)
        self.assertFalse(troubles, f"{len(troubles)} of {len(strikes)}:\n" + "\n".join(troubles))
        self.assertEqual([key for key in self.table if key[2] == "not met"], [])

    # ----- tests

    def count_calls(self):
        """Those of a run that nobody disturbs."""
        place = self.folder_for("counted")
        status, _, errors = self.finish(self.start(place, None))
        self.assertEqual(status, 0, errors)
        self.assertEqual(self.troubles_of_end(place / "run") + self.troubles_of_folder(place / "run"), [])
        return [call for call, _ in self.calls(place)]

    def test_each_call(self):
        calls = self.count_calls()
        strikes = []
        for kind in KINDS:
            for rank in range(RANKS):
                of_kind = sorted({call.number for call in calls if call.kind == kind and call.rank == rank})
                self.assertTrue(of_kind or rank > 0, f"the run makes no call of the kind {kind}")
                some = of_kind if ALL_CASES else of_kind[len(of_kind) * 2 // 3::max(1, len(of_kind) // 2)]
                for number in some:
                    reasons = REASONS[kind]
                    both = ALL_CASES and RANKS == 1  # several ranks take too long for that
                    for policy in ("stop", "continue") if both else (("stop", "continue")[(number + rank) % 2],):
                        strikes.append(Strike(kind, number, 1, reasons[(number + rank) % len(reasons)], rank, policy))
        self.strike_all(strikes)

    def test_disks_that_stay_so(self):
        full, gone = "write,reserve,mkdir,link", "open,rename,link,mkdir,unlink"
        shares = [place / 16 for place in range(16)] if ALL_CASES else [0.7]
        calls, strikes = self.count_calls(), []
        for kinds, how in ((full, "ENOSPC"), (full, "EDQUOT"), (gone, "EROFS"), ("sync,write,open", "EIO")):
            number = sum(call.rank == 0 and call.kind in kinds for call in calls)
            strikes += [Strike(kinds, 1 + int(share * number), 0, how, 0, "stop") for share in shares]
            if ALL_CASES or how == "ENOSPC":
                strikes += [Strike(kinds, 1 + int(share * number), 3, how, 0, "continue") for share in shares[-2:]]
        self.strike_all(strikes)

    def test_slow_disk(self):
        self.strike_all([Strike(",".join(KINDS), 1, 0, "5", None, policy) for policy in ("stop", "continue")])

    def test_training_goes_on_while_a_save_is_written(self):
        number = next(call.number for call in self.count_calls()
                      if call.rank == 0 and call.kind == "sync" and call.file.startswith(".checkpoint-3.h5"))
        place = self.folder_for("behind")
        job = self.start(place, Strike("sync", number, 1, "4000", 0, "stop"))
        metrics, lines, seen = place / "run" / "metrics.jsonl", [], False
        while not seen and job.poll() is None:
            time.sleep(0.01)
            lines = metrics.read_text().splitlines() if metrics.exists() else []
            trained = any('"kind":"step"' in line and '"step":6' in line for line in lines)
            seen = trained and list(place.glob("run/.checkpoint-3.h5.*.tmp")) and not (place / "run/checkpoint-3.h5").exists()
        status, _, errors = self.finish(job)
        self.assertTrue(seen, "\n".join(lines) + errors)
        self.assertEqual(status, 0, errors)
        self.assertEqual(self.troubles_of_end(place / "run") + self.troubles_of_folder(place / "run"), [])

    def read_until(self, job, words):
        """Lines of standard error up to one that has the words."""
        lines = []
        for line in job.stderr:
            lines.append(line)
            if words in line:
                return "".join(lines)
        self.fail(f"never said '{words}':\n{''.join(lines)}")

    def test_folder_vanishes_and_comes_back(self):
        for policy in ("stop", "continue"):
            with self.subTest(policy):
                place = self.folder_for(f"vanishes-{policy}")
                run, gone = place / "run", place / "run.gone"
                # The first call of the kind is latest.h5 at the first save.
                job = self.start(place, Strike("link", 1, 1, "vanish", 0, policy))
                said = ""
                if policy == "continue":
                    said = self.read_until(job, "trying again in 1 s")
                    gone.rename(run)
                status, output, errors = self.finish(job)
                errors = said + errors
                self.assertEqual(status, 0 if policy == "continue" else 1, errors)
                if policy == "continue":
                    self.assertIn("training goes on", errors)
                    self.assertIn("saved ", errors)
                else:
                    gone.rename(run)
                    lines = [line for line in errors.splitlines() if "revode: error:" in line]
                    self.assertEqual(len(lines), 1, errors)
                    for words in ("latest.h5", "No such file", "the last checkpoint is", "checkpoint-3.h5"):
                        self.assertIn(words, lines[0])
                # Without a folder, its lock could not be removed either.
                self.assertEqual(self.troubles_of_folder(run, allowed=[".revode-lock"]), [])
                self.run_program("train", *RUN, "--output", run, "--resume", "auto")
                self.assertEqual(self.troubles_of_end(run), [])

    def test_stopped_by_a_signal_while_the_disk_is_full(self):
        place = self.folder_for("stopped")
        job = self.start(place, Strike("reserve", 2, 0, "ENOSPC", None, "continue"), "--steps", "1000000")
        said = self.read_until(job, "training goes on")
        job.send_signal(signal.SIGUSR1)
        status, _, errors = self.finish(job)
        self.assertEqual(status, 1, errors)
        lines = [line for line in (said + errors).splitlines() if "revode: error:" in line]
        self.assertEqual(len(lines), 1, errors)
        for words in ("No space left on device", "the last checkpoint is", "checkpoint-3.h5"):
            self.assertIn(words, lines[0])
        self.assertEqual(self.troubles_of_folder(place / "run", other_options=True), [])
        records = metrics_of(place / "run", also=["save_error"])
        self.assertIn("save_error", [record["kind"] for record in records])
        self.run_program("train", *RUN, "--output", place / "run", "--resume", "auto")
        self.assertEqual(self.troubles_of_end(place / "run"), [])

    @unittest.skipUnless(ALL_CASES, "takes a minute")
    def test_the_end_is_tried_for_a_minute(self):
        last = max(call.number for call in self.count_calls() if call.kind == "reserve" and "checkpoint-6" in call.file)
        place = self.folder_for("end")
        status, _, errors = self.finish(self.start(place, Strike("reserve", last, 0, "ENOSPC", None, "continue")))
        self.assertEqual(status, 1, errors)
        for pause in (1, 2, 4, 8, 16, 32):
            self.assertIn(f"trying again in {pause} s", errors)
        lines = [line for line in errors.splitlines() if "revode: error:" in line]
        self.assertEqual(len(lines), 1, errors)
        for words in ("checkpoint-6.h5", "No space left on device", "the last checkpoint is", "checkpoint-3.h5"):
            self.assertIn(words, lines[0])
        self.assertEqual(self.troubles_of_folder(place / "run"), [])

    def test_resume_passes_over_what_it_cannot_read(self):
        place = self.folder_for("unread")
        shutil.copytree(self.folder / "expected", place / "run", symlinks=True)
        status, _, errors = self.finish(self.start(place, None, "--resume", "auto"))
        self.assertEqual(status, 0, errors)
        number = next(call.number for call, _ in self.calls(place) if call.kind == "open" and call.rank == 0 and
                      call.file == "checkpoint-6.h5")
        status, output, errors = self.finish(
            self.start(place, Strike("open", number, 1, "EIO", 0, "stop"), "--resume", "auto"))
        self.assertEqual(status, 0, errors)
        self.assertRegex(errors, r"passing over a checkpoint: .*checkpoint-6\.h5.*Input/output error")
        self.assertIn("checkpoint-3.h5 at step 3", output)
        self.assertEqual(self.troubles_of_end(place / "run"), [])


def main():
    global LIBRARY, RANKS
    if len(sys.argv) < 6:
        sys.exit(__doc__)
    LIBRARY, RANKS = os.path.abspath(sys.argv[4]), int(sys.argv[5])
    del sys.argv[4:6]
    program.main()


if __name__ == "__main__":
    main()
