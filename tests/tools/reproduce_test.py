#!/usr/bin/env python3
"""tools/reproduce with programs that only pretend to train: what it runs, in which order, keeps, refuses and draws."""
import fcntl
import hashlib
import json
import signal
import subprocess
import sys
import tempfile
import time
import unittest
from pathlib import Path

sys.dont_write_bytecode = True

REPOSITORY = Path(__file__).resolve().parents[2]
sys.path.insert(0, str(REPOSITORY / "tools"))
import reproduce_results as results  # noqa: E402
from reproduce_units import figure3_units, table1_units  # noqa: E402

# Trains two epochs a second where `slow` is there; dies after the first new epoch where `broken` is there.
PROGRAM = """#!{python} -IS
import json, os, sys, time
scratch = {folder!r}
words = [w for w in sys.argv[1:] if w != "train"]
options = dict(zip([w[2:] for w in words[::2]], words[1::2]))
run = options["output"]
with open(os.path.join(scratch, "calls"), "a") as calls:
    calls.write(json.dumps(words) + chr(10))
path = os.path.join(run, "metrics.jsonl")
done = sum('"epoch"' in line.split(",")[0] for line in open(path)) if os.path.exists(path) else 0
def record(**values):
    with open(path, "a") as file:
        file.write(json.dumps(values) + chr(10))
record(kind="start", epoch=done, step=10 * done, version="fake 1", revision="abc", backend="cpu", threads=1,
       date="2026-01-01", parameters=7, options=options)
accuracy = 0.5 + float(options["train-fraction"]) + 0.01 * int(options["seed"])
for epoch in range(done, int(options["epochs"])):
    if os.path.exists(os.path.join(scratch, "slow")):
        time.sleep(0.5)
    record(kind="step", epoch=epoch, step=10 * epoch + 10, images_per_second=100.0 + epoch)
    record(kind="epoch", epoch=epoch, step=10 * epoch + 10, train_loss=1 / 3, train_accuracy=0.25, test_loss=1.0,
           test_accuracy=accuracy, seconds=1.0)
    open(os.path.join(run, "latest.h5"), "w").write(str(epoch))
    for name, status in (("broken", 1), ("stopped", 75), ("torchless", 77)):
        if os.path.exists(os.path.join(scratch, name)):
            sys.exit(status)
record(kind="end", epoch=int(options["epochs"]), step=0, test_loss=1.0, test_accuracy=accuracy)
"""


class Reproduce(unittest.TestCase):
    def setUp(self):
        scratch = tempfile.TemporaryDirectory()
        self.addCleanup(scratch.cleanup)
        self.folder = Path(scratch.name)
        self.results, self.runs = self.folder / "results", self.folder / "runs"
        (self.folder / "calls").touch()
        for name in ("revode", "baselines"):
            (self.folder / name).write_text(PROGRAM.format(python=sys.executable, folder=scratch.name))
            (self.folder / name).chmod(0o755)

    def words(self, *options, experiment="figure3"):
        return [sys.executable, REPOSITORY / "tools" / "reproduce", experiment, "--revode", self.folder / "revode",
                "--python", sys.executable, "--baselines", self.folder / "baselines", "--results", self.results, "--runs",
                self.runs, *options]

    def reproduce(self, *options, experiment="figure3"):
        return subprocess.run(self.words(*options, experiment=experiment), capture_output=True, text=True, timeout=60)

    def train(self, *options):
        return self.reproduce("--data-dir", self.folder, "--epochs", "2", *options)

    def calls(self):
        """Folder of the run of each start, in order."""
        lines = (self.folder / "calls").read_text().splitlines()
        return [Path(json.loads(line)[json.loads(line).index("--output") + 1]).name for line in lines]

    def test_all_units_run_once_in_their_order(self):
        first = self.train()
        again = self.train()

        self.assertEqual((first.returncode, again.returncode), (0, 0), first.stderr)
        self.assertEqual(self.calls(), [unit.name for unit in figure3_units(2)])
        listed = self.reproduce("--epochs", "2", "--list").stdout.splitlines()
        self.assertEqual({line.split()[0] for line in listed}, {"done"})
        self.assertEqual(len(listed), 12)

    def test_a_result_tells_what_ran_and_what_it_gave(self):
        self.train("--only", "hamiltonian-74-2-percent-seed-3")

        name = "hamiltonian-74-2-percent-seed-3"
        result = json.loads((self.results / f"{name}.json").read_text())
        self.assertEqual(result["options"]["train-fraction"], "0.02")
        self.assertEqual(result["options"]["lr-decay-epochs"], "1,2")
        self.assertAlmostEqual(result["test_accuracy"], 0.55)
        self.assertEqual(result["tests"]["epoch"], [0, 1])
        self.assertEqual(result["training"]["train_loss"], [0.33333, 0.33333])
        self.assertEqual((result["images_per_second"], result["revisions"], result["parameters"]), (100.5, ["abc"], 7))
        self.assertEqual(result["epochs"], 2)
        checkpoint = (self.runs / name / "latest.h5").read_bytes()
        self.assertEqual(result["checkpoint_sha256"], hashlib.sha256(checkpoint).hexdigest())
        self.assertNotIn(str(self.folder), json.dumps(result))
        self.assertEqual([path.name for path in self.results.iterdir()], [f"{name}.json"])

    def test_a_failed_unit_is_reported_and_goes_on_the_next_time(self):
        (self.folder / "broken").touch()
        only = ("--only", "*-5-percent-*")
        failed = self.train(*only)
        listed = self.reproduce("--epochs", "2", "--list", *only).stdout
        (self.folder / "broken").unlink()
        resumed = self.train(*only)

        self.assertEqual((failed.returncode, resumed.returncode), (1, 0))
        self.assertIn("ended with status 1", failed.stderr)
        self.assertEqual(len(self.calls()), 4)  # the second unit was tried too
        self.assertEqual(listed.count("begun"), 2)
        result = json.loads((self.results / "resnet-32-5-percent-seed-1.json").read_text())
        self.assertEqual(result["tests"]["epoch"], [0, 1])
        lines = (self.runs / "resnet-32-5-percent-seed-1" / "metrics.jsonl").read_text().splitlines()
        self.assertEqual(sum('"start"' in line for line in lines), 2)

    def test_a_stop_ends_it_and_a_missing_pytorch_does_not(self):
        only = ("--only", "*-10-percent-*")
        (self.folder / "stopped").touch()
        stopped = self.train(*only)
        (self.folder / "stopped").unlink()
        (self.folder / "torchless").touch()
        skipped = self.train(*only)

        self.assertEqual((stopped.returncode, skipped.returncode), (75, 77))
        self.assertEqual(self.calls(), ["hamiltonian-74-10-percent-seed-1"] * 2 + ["resnet-32-10-percent-seed-1"])

    def test_an_interruption_ends_the_run_and_the_same_command_goes_on(self):
        (self.folder / "slow").touch()
        only = ("--only", "leapfrog-62-*")
        process = subprocess.Popen(self.words("--data-dir", self.folder, "--epochs", "2", *only), stderr=subprocess.PIPE,
                                   text=True)
        metrics = self.runs / "leapfrog-62-2-percent-seed-1" / "metrics.jsonl"
        limit = time.monotonic() + 30
        while time.monotonic() < limit and not (metrics.exists() and '"kind": "epoch"' in metrics.read_text()):
            time.sleep(0.05)
        process.send_signal(signal.SIGTERM)
        _, said = process.communicate(timeout=30)
        (self.folder / "slow").unlink()
        resumed = self.train(*only)

        self.assertEqual((process.returncode, resumed.returncode), (130, 0), said)
        self.assertIn("interrupted; the same command goes on", said)
        # The program was ended too: the lock was free.
        self.assertEqual(len(self.calls()), 2)

    def test_a_unit_that_another_process_runs_is_left_to_it(self):
        folder = self.runs / "hamiltonian-74-5-percent-seed-1"
        folder.mkdir(parents=True)
        with (folder / "lock").open("w") as lock:
            fcntl.flock(lock, fcntl.LOCK_EX)
            ended = self.train("--only", "*-5-percent-*")

        self.assertEqual(ended.returncode, 75)
        self.assertEqual(self.calls(), ["resnet-32-5-percent-seed-1"])

    def test_other_options_are_not_mixed(self):
        only = ("--data-dir", self.folder, "--only", "resnet-32-5-*")
        self.reproduce(*only, "--epochs", "2")
        other_result = self.reproduce(*only, "--epochs", "3")
        (self.results / "resnet-32-5-percent-seed-1.json").unlink()
        other_run = self.reproduce(*only, "--epochs", "3")

        self.assertEqual((other_result.returncode, other_run.returncode), (2, 2))
        self.assertIn("has --epochs 2, expected 3", other_result.stderr)
        self.assertIn("other options (epochs", other_run.stderr)

    def test_wrong_use_is_explained(self):
        for options, expected in ((["--data-dir", ".", "--only", "x"], "--only x: no unit has such a name"),
                                  ([], "--data-dir is missing"), (["--figure"], "holds no result yet"),
                                  (["--data-dir", ".", "--revode", "nothing"], "--revode"),
                                  (["--epochs", "0"], "expected a whole number"),
                                  (["--seeds", "1,2"], "expected 3 numbers")):
            ended = self.reproduce(*options)

            self.assertEqual(ended.returncode, 2, options)
            self.assertIn(expected, ended.stderr)
            self.assertNotIn("Traceback", ended.stderr)

    def test_figure_and_table_come_from_the_results(self):
        self.train("--only", "*-74-*")
        self.train("--only", "resnet-32-2-*")
        picture = self.folder / "figure.svg"
        drawn = self.reproduce("--epochs", "2", "--figure", "--picture", picture)
        if drawn.returncode == 77:
            self.skipTest("needs matplotlib")

        self.assertEqual(drawn.returncode, 0, drawn.stderr)
        rows = drawn.stdout.splitlines()
        three, one = "54.00 (53.00 to 55.00, 3 seeds)", "{}.00 (1 seed)"
        self.assertEqual(rows[2], f"| hamiltonian-74 | 7 | {three} | {one.format(56)} | {one.format(61)} |")
        self.assertEqual(rows[3], f"| resnet-32 | 7 | {three} |  |  |")
        text = picture.read_text()
        for word in ("hamiltonian-74", "resnet-32", "test accuracy (%)", ">10 %<"):
            self.assertIn(word, text)


class Units(unittest.TestCase):
    def test_smallest_fraction_first_and_networks_in_turn(self):
        names = [unit.name for unit in figure3_units(100)]

        self.assertEqual(names[:3], ["hamiltonian-74-2-percent-seed-1", "resnet-32-2-percent-seed-1",
                                     "hamiltonian-74-2-percent-seed-2"])
        self.assertEqual(names[6:9], ["leapfrog-62-2-percent-seed-1", "midpoint-62-2-percent-seed-1",
                                      "hamiltonian-74-5-percent-seed-1"])
        self.assertEqual(len(set(names)), 12)

    def test_decays_are_at_the_papers_shares(self):
        for epochs, decays in ((200, "80,120,160"), (100, "40,60,80"), (7, "3,4,6")):
            self.assertEqual({unit.options["lr-decay-epochs"] for unit in figure3_units(epochs)}, {decays})

    def test_baselines_have_the_options_of_the_configuration_files(self):
        text = (REPOSITORY / "configs" / "hamiltonian-74-cifar10.ini").read_text()
        config = dict(line.split(" = ") for line in text.splitlines() if " = " in line and line[0] != "#")
        baseline = next(unit for unit in table1_units(REPOSITORY) if unit.network == "resnet-32")

        for name in config.keys() & baseline.options.keys():
            self.assertEqual(baseline.options[name], config[name], name)
        self.assertEqual(baseline.options["epochs"], "200")

    def test_a_run_with_an_older_shorter_end_is_not_finished(self):
        with tempfile.TemporaryDirectory() as folder:
            Path(folder, "latest.h5").touch()
            lines = [{"kind": "start", "options": {"epochs": "4"}}, {"kind": "end", "epoch": 3}]
            Path(folder, "metrics.jsonl").write_text("".join(json.dumps(line) + "\n" for line in lines) + '{"ki')

            self.assertFalse(results.is_finished(folder))


if __name__ == "__main__":
    unittest.main()
