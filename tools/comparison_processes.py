"""The processes that compare_pytorch starts: revode, and PyTorch's workers, which answer commands. Each is ended with it."""
import json
import os
import select
import shlex
import subprocess
import sys
import time
from pathlib import Path


class CompareError(Exception):
    """One sentence for the user."""


class Worker:
    """A process of PyTorch: a script beside this one, which answers each command in one line."""

    def __init__(self, variant, threads, script, *arguments):
        self.variant = variant
        self.process = subprocess.Popen(
            [sys.executable, Path(__file__).with_name(script), *map(str, arguments)],
            stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True,
            env={**os.environ, "OMP_NUM_THREADS": str(threads), "MKL_NUM_THREADS": str(threads)})

    def tell(self, **command):
        try:
            self.process.stdin.write(json.dumps(command) + "\n")
            self.process.stdin.flush()
        except BrokenPipeError:
            pass  # hear() says so

    def hear(self):
        line = self.process.stdout.readline()
        if not line:
            raise CompareError(f"PyTorch ({self.variant}) ended with exit status {self.process.wait()}; "
                               "what it said is above")
        return json.loads(line)

    def ask(self, **command):
        self.tell(**command)
        return self.hear()

    def close(self):
        try:
            self.process.stdin.close()
        except BrokenPipeError:
            pass
        self.process.wait()


class Ranks:
    """The processes of one pipeline, which work on the same command together. An error leaves none of them."""

    def __init__(self, workers, limit_seconds):
        self.workers, self.limit_seconds = workers, limit_seconds

    def ask(self, **command):
        """Their answers, by rank."""
        for each in self.workers:
            each.tell(**command)
        answers = {}
        deadline = time.monotonic() + self.limit_seconds
        try:
            while len(answers) < len(self.workers):
                waiting = {each.process.stdout: rank for rank, each in enumerate(self.workers) if rank not in answers}
                ready, _, _ = select.select(list(waiting), [], [], max(0, deadline - time.monotonic()))
                if not ready:
                    silent = self.workers[min(waiting.values())].variant
                    raise CompareError(f"PyTorch ({silent}) took longer than {self.limit_seconds} s to {command['do']}; "
                                       "allow more with --time-limit")
                for stream in ready:
                    answers[waiting[stream]] = self.workers[waiting[stream]].hear()
        except BaseException:
            self.kill()
            raise
        return [answers[rank] for rank in range(len(self.workers))]

    def kill(self):
        for each in self.workers:
            each.process.kill()

    def close(self):
        """All are told first: a rank may wait for the others before it ends."""
        for each in self.workers:
            try:
                each.process.stdin.close()
            except BrokenPipeError:
                pass
        for each in self.workers:
            try:
                each.process.wait(timeout=20)
            except subprocess.TimeoutExpired:
                each.process.kill()
                each.process.wait()


def run_revode(options, ranks, command, *arguments):
    launcher = [*shlex.split(options.mpirun), "-n", str(ranks)] if ranks > 1 else []
    words = [*launcher, options.revode, command, *map(str, arguments)]
    try:
        process = subprocess.Popen(words, stdin=subprocess.DEVNULL, stdout=subprocess.PIPE, text=True)
    except OSError as error:
        option = "its launcher with --mpirun" if launcher else "the program with --revode"
        raise CompareError(f"{words[0]} can't be started: {error.strerror}; give {option}") from None
    try:
        output, _ = process.communicate(timeout=options.time_limit)
    except subprocess.TimeoutExpired:
        raise CompareError(f"'{' '.join(words)}' took longer than {options.time_limit} s; allow more with "
                           "--time-limit") from None
    finally:
        end(process)
    if process.returncode:
        raise CompareError(f"'{' '.join(words)}' ended with exit status {process.returncode}; what it said is above")
    return output


def refusal_of_revode(options, option, command, *arguments):
    """The sentence in which revode refuses what `option` asks for, or nothing if it runs."""
    words = [options.revode, command, *map(str, arguments)]
    try:
        ended = subprocess.run(words, stdin=subprocess.DEVNULL, capture_output=True, text=True, timeout=options.time_limit)
    except subprocess.TimeoutExpired:
        raise CompareError(f"'{' '.join(words)}' took longer than {options.time_limit} s; allow more with "
                           "--time-limit") from None
    said = ended.stderr.strip()
    if ended.returncode == 2 and option in said:
        return said.splitlines()[-1].removeprefix("revode: error: ")
    if ended.returncode:
        raise CompareError(f"'{' '.join(words)}' ended with exit status {ended.returncode}: {said}")
    return None


def describe_device(options):
    """PyTorch's device and version; a device that can't be used is an error."""
    worker = Worker("description", options.threads, "pytorch_device.py", options.device)
    try:
        description = worker.hear()
    finally:
        worker.close()
    if "failure" in description:
        raise CompareError(description["failure"])
    return description


def end(process):
    """Asked first, so that mpirun can end its ranks."""
    if process.poll() is None:
        process.terminate()
        try:
            process.wait(timeout=10)
        except subprocess.TimeoutExpired:
            process.kill()
            process.wait()


def note_load(threads):
    busy = os.getloadavg()[0] - threads  # what was just computed here counts too
    if busy > 0.5:
        print(f"  note: about {busy:.0f} other processes are at work here; threads that wait for each other suffer "
              "from that more than others, so ratios mean little", flush=True)
