"""What the tests of the program as a whole share: starting it with or without ranks, in a folder of its own, and
reading what it leaves behind.

    some_test.py REVODE MPIEXEC NUMPROC_FLAG [unittest arguments]
"""
import json
import os
import shutil
import subprocess
import sys
import tempfile
import unittest
from array import array
from pathlib import Path

sys.dont_write_bytecode = True
sys.path.insert(0, str(Path(__file__).resolve().parents[2] / "tools"))
from run_files import checkpoint_steps, last_of_each, metrics_of  # noqa: E402

# Set by main(): the program, and what starts it on several ranks (the number follows).
REVODE = ""
LAUNCHER = []

# A network of 4 blocks whose channels fill no vector, and epochs of 4 steps of small images: a step takes some 3 ms. There are
# many more test images, which take longer than an epoch: they are for the end of a run.
NETWORK = ["--blocks", "2,1,1", "--widths", "6,10,16", "--threads", "1"]
SMALL = [*NETWORK, "--image-size", "16", "--batch-size", "20", "--train-fraction", "0.01", "--log-every", "1",
         "--eval-every", "0"]
# How many times as long things take here, where they are built with sanitizers.
TIME_FACTOR = int(os.environ.get("REVODE_TEST_TIME_FACTOR", "1"))
# Far above what any run here takes, so that a loaded machine fails no test.
TIMEOUT_SECONDS = 250 * TIME_FACTOR


class ProgramTest(unittest.TestCase):
    """Each test has its own folder, in which the program runs."""

    def setUp(self):
        scratch = tempfile.TemporaryDirectory(prefix="revode-test-")
        self.addCleanup(scratch.cleanup)
        self.folder = Path(scratch.name)

    def command(self, *arguments, ranks=None):
        launcher = [] if ranks is None else [*LAUNCHER, str(ranks)]
        return [*launcher, REVODE, *last_of_each(arguments)]

    def run_program(self, *arguments, ranks=None, status=0):
        """The finished process; ranks=None: one process without a launcher."""
        command = self.command(*arguments, ranks=ranks)
        done = subprocess.run(command, cwd=self.folder, capture_output=True, text=True, timeout=TIMEOUT_SECONDS,
                              env=environment(status))
        self.assertEqual(done.returncode, status,
                         f"{' '.join(command)}\nstandard output:\n{done.stdout}\nstandard error:\n{done.stderr}")
        return done

    def run_each_rank(self, ranks, status=0, timeout=TIMEOUT_SECONDS):
        """The finished job of ranks that are started differently: for each rank its arguments, and where they are to
        differ its folder and what is set in its environment: [arguments] or ([arguments], folder, {name: value})."""
        command = [LAUNCHER[0]]
        for number, rank in enumerate(ranks):
            arguments, folder, variables = rank if isinstance(rank, tuple) else (rank, ".", {})
            command += [":"] if number > 0 else []
            command += [LAUNCHER[1], "1", "--wdir", str(self.folder / folder)]
            command += ["env", *[f"{name}={value}" for name, value in variables.items()]] if variables else []
            command += [REVODE, *last_of_each(arguments)]
        done = subprocess.run(command, cwd=self.folder, capture_output=True, text=True, timeout=timeout,
                              env=environment(status))
        self.assertEqual(done.returncode, status, f"{' '.join(command)}\n{done.stdout}\n{done.stderr}")
        return done

    def only_error(self, done):
        """The one line of a finished program that is an error of revode's."""
        lines = [line for line in done.stderr.splitlines() if "revode: error:" in line]
        self.assertEqual(len(lines), 1, done.stderr)
        self.assertTrue(lines[0].startswith("revode: error: "), lines[0])
        return lines[0]

    def train(self, output, *arguments, ranks=None, status=0):
        return self.run_program("train", *SMALL, "--output", output, *arguments, ranks=ranks, status=status)

    def expect_error(self, words, *arguments, ranks=None, status=2):
        """The run ends with one message, in which all of `words` occur, and with nothing on standard output."""
        done = self.run_program(*arguments, ranks=ranks, status=status)
        line = self.only_error(done)
        for word in words:
            self.assertIn(word, line)
        self.assertEqual(done.stdout, "")
        return line

    def json_of(self, *arguments, ranks=None, status=0):
        """The object that --json - prints: standard output holds nothing else."""
        return json.loads(self.run_program(*arguments, "--json", "-", ranks=ranks, status=status).stdout)

    def metrics(self, run):
        """Records of a run without what depends on the clock, and without those that say who made it when and where."""
        return metrics_of(self.folder / run)

    def checkpoints(self, run):
        """Steps of a run's checkpoints."""
        return checkpoint_steps(self.folder / run)

    def expect_same_files(self, run, expected, names):
        for name in names:
            self.assertEqual((self.folder / run / name).read_bytes(), (self.folder / expected / name).read_bytes(),
                             f"{run}/{name} differs from {expected}/{name}")

    def floats(self, file, dataset):
        """All values of a float32 array of an HDF5 file, through h5dump."""
        if not shutil.which("h5dump"):
            self.skipTest("needs h5dump (Debian: hdf5-tools)")
        raw = self.folder / "dataset.raw"
        subprocess.run(["h5dump", "-d", dataset, "-b", "LE", "-o", raw, self.folder / file], check=True,
                       stdout=subprocess.DEVNULL, timeout=TIMEOUT_SECONDS)
        values = array("f")
        values.frombytes(raw.read_bytes())
        return values


def environment(status):
    """That of a job which is to end with `status`. Where that is not 0, Open MPI's launcher sleeps for a second or two,
    for ranks that have not ended by themselves; all have."""
    return os.environ if status == 0 else os.environ | {"OMPI_MCA_odls_base_sigkill_timeout": "0"}


def ranks_of(launcher):
    """Processes of the job's ranks: {rank: process}."""
    found = {}
    for process in filter(str.isdigit, os.listdir("/proc")):
        try:
            with open(f"/proc/{process}/stat") as file:
                parent = int(file.read().rsplit(")", 1)[1].split()[1])
            with open(f"/proc/{process}/environ", "rb") as file:
                variables = dict(entry.split(b"=", 1) for entry in file.read().split(b"\0") if b"=" in entry)
        except OSError:
            continue
        if parent == launcher and b"OMPI_COMM_WORLD_RANK" in variables:
            found[int(variables[b"OMPI_COMM_WORLD_RANK"])] = int(process)
    return found


def write_cifar10(folder, records_per_file):
    """CIFAR-10's files: gradients of brightness, the classes in turn."""
    folder.mkdir()
    for name in [f"data_batch_{k}.bin" for k in range(1, 6)] + ["test_batch.bin"]:
        with open(folder / name, "wb") as file:
            for record in range(records_per_file):
                file.write(bytes([record % 10]))
                file.write(bytes((7 * record + 3 * pixel) % 251 for pixel in range(3072)))


def main():
    global REVODE
    if len(sys.argv) < 4:
        sys.exit(f"usage: {sys.argv[0]} REVODE MPIEXEC NUMPROC_FLAG [unittest arguments]")
    REVODE = os.path.abspath(sys.argv[1])
    LAUNCHER[:] = sys.argv[2:4]
    unittest.main(argv=[sys.argv[0], *sys.argv[4:]])
