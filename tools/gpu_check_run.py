"""Runs the parts of gpu_check one after the other, each with a log and a time limit, and reports. Does not know what a part
checks."""
import json
import os
import signal
import subprocess
import time
from pathlib import Path

# Between the polite signal and the other one: mpirun ends its ranks first.
GRACE_SECONDS = 5
POLL_SECONDS = 0.02


class PartFailed(Exception):
    """Why, in a few words, and what was found until then."""

    def __init__(self, text, figures=None):
        super().__init__(text)
        self.figures = figures or {}


class PartSkipped(Exception):
    """Why, in a few words."""


class Interrupted(Exception):
    pass


class Signals:
    """Remembers the first Ctrl-C or SIGTERM, for whoever waits to look at."""

    def __init__(self):
        self.number = None
        for number in (signal.SIGINT, signal.SIGTERM):
            signal.signal(number, self.note)

    def note(self, number, _):
        self.number = self.number or number


class Processes:
    """Starts the processes of one part, one at a time: their output goes to its log, and none outlives its time."""

    def __init__(self, log, deadline, signals):
        self.log, self.deadline, self.signals = log, deadline, signals
        log.write_text("")

    def run(self, *words, environment=None):
        """Exit status and output of the command."""
        words = [*map(str, words)]
        with self.log.open("a") as log:
            log.write(f"$ {' '.join(words)}\n")
        begin = self.log.stat().st_size
        with self.log.open("a") as log:
            try:
                process = subprocess.Popen(words, stdin=subprocess.DEVNULL, stdout=log, stderr=subprocess.STDOUT,
                                           env=environment, start_new_session=True)
            except OSError as error:
                raise PartFailed(f"{words[0]} can't be started: {error.strerror}") from None
            try:
                status = self.wait(process)
            finally:
                end_group(process)
        with self.log.open(errors="replace") as log:
            log.seek(begin)
            return status, log.read()

    def expect(self, *words, environment=None):
        """Output of a command that must succeed."""
        status, output = self.run(*words, environment=environment)
        if status != 0:
            raise PartFailed(f"{Path(words[0]).name} ended with status {status}: {reason(output)}")
        return output

    def wait(self, process):
        begin = time.monotonic()
        while (status := process.poll()) is None:
            if self.signals.number:
                raise Interrupted
            if time.monotonic() >= self.deadline:
                raise PartFailed(f"the time of this part was up; {Path(process.args[0]).name}, at work for "
                                 f"{time.monotonic() - begin:.0f} s, was ended")
            time.sleep(POLL_SECONDS)
        return status


def end_group(process):
    """Asked first, then not."""
    if process.poll() is not None:
        return
    for number in (signal.SIGTERM, signal.SIGKILL):
        try:
            os.killpg(process.pid, number)
            process.wait(timeout=GRACE_SECONDS)
        except ProcessLookupError:
            break
        except subprocess.TimeoutExpired:
            continue
    process.wait()


def reason(output):
    """What matters of a failed command's output: its first error, else its last line."""
    lines = [line.strip() for line in output.splitlines() if line.strip()]
    return next((line for line in lines if "error:" in line), lines[-1] if lines else "it said nothing")


def run_parts(parts, make_processes, folder, time_limit, signals):
    """Results by name, in order. A part is (name, limit in seconds, function); the function takes the processes and returns
    figures and what matters of them in a few words."""
    results = {}
    end = time.monotonic() + time_limit
    for name, limit, function in parts:
        log = folder / f"{name}.log"
        begin = time.monotonic()
        result = {"outcome": "passed", "seconds": 0.0, "figures": {}, "log": None}
        results[name] = result
        if signals.number:
            result.update(outcome="skipped", text="not started: interrupted")
            continue
        if begin >= end:
            result.update(outcome="failed", text=f"not started: the time limit of {time_limit} s was used up")
            continue
        print(f"{name} ...", flush=True)
        result["log"] = str(log)
        try:
            result["figures"], result["text"] = function(make_processes(log, min(begin + limit, end), signals))
        except PartFailed as failure:
            result.update(outcome="failed", text=str(failure), figures=failure.figures)
        except PartSkipped as skip:
            result.update(outcome="skipped", text=str(skip))
        except Interrupted:
            result.update(outcome="failed", text=f"interrupted by {signal.Signals(signals.number).name}")
        except (OSError, ValueError, LookupError) as error:
            result.update(outcome="failed", text=f"its output was not as expected: {type(error).__name__}: {error}")
        result["seconds"] = round(time.monotonic() - begin, 1)
        print(f"  {result['outcome']} after {result['seconds']:.1f} s: {result['text']}", flush=True)
    return results


def print_table(results):
    print(f"\n{'part':<12} {'outcome':<8} {'seconds':>7}  what was found")
    for name, result in results.items():
        print(f"{name:<12} {result['outcome'] if result['outcome'] != 'failed' else 'FAILED':<8} "
              f"{result['seconds']:>7.1f}  {result['text']}")
    counts = {outcome: sum(result["outcome"] == outcome for result in results.values())
              for outcome in ("passed", "failed", "skipped")}
    print(f"{'all':<12} {'FAILED' if counts['failed'] else 'passed':<8} {sum(r['seconds'] for r in results.values()):>7.1f}  "
          + ", ".join(f"{count} {outcome}" for outcome, count in counts.items()), flush=True)


def write_json(path, report):
    """Whole or not at all."""
    temporary = path.with_name(path.name + ".part")
    temporary.write_text(json.dumps(report, indent=2) + "\n")
    temporary.replace(path)
