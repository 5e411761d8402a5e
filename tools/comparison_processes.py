"""The processes that compare_pytorch starts: revode, and PyTorch's workers, which answer commands. Each is ended with it."""
import json
import os
import subprocess
import sys
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


def run_revode(options, command, *arguments):
    words = [options.revode, command, *map(str, arguments)]
    try:
        result = subprocess.run(words, stdout=subprocess.PIPE, text=True, check=False)
    except OSError as error:
        raise CompareError(f"{options.revode} can't be started: {error.strerror}; give the program with --revode") from None
    if result.returncode:
        raise CompareError(f"'{' '.join(words)}' ended with exit status {result.returncode}; what it said is above")
    return result.stdout


def note_load(threads):
    busy = os.getloadavg()[0] - threads  # what was just computed here counts too
    if busy > 0.5:
        print(f"  note: about {busy:.0f} other processes are at work here; threads that wait for each other suffer "
              "from that more than others, so ratios mean little", flush=True)
