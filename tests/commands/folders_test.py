#!/usr/bin/env python3
"""What a run and the other commands may write over: nothing that is not theirs, and nothing in silence."""
import json
import os
import signal
import subprocess
import time

import program
from program import SMALL

SOON = 60


class Folders(program.ProgramTest):
    def contents(self, folder="."):
        """Every file below a folder with its content; links and other things by what they are."""
        found = {}
        for place, folders, files in os.walk(self.folder / folder):
            for name in folders + files:
                path = os.path.join(place, name)
                found[os.path.relpath(path, self.folder)] = (
                    os.readlink(path) if os.path.islink(path) else
                    open(path, "rb").read() if os.path.isfile(path) else os.stat(path).st_mode)
        return found

    def expect_refused_without_a_trace(self, words, *arguments, **keywords):
        before = self.contents()
        self.expect_error(words, *arguments, **keywords)
        self.assertEqual(self.contents(), before)

    def test_results_never_replace_inputs_or_other_files(self):
        self.train("run", "--steps", "1")
        (self.folder / "b").mkdir()
        (self.folder / "b/best.h5").write_bytes((self.folder / "run/latest.h5").read_bytes())
        (self.folder / "notes.txt").write_text("of mine\n")
        (self.folder / "link.h5").symlink_to("b/best.h5")
        evaluate = ["eval", "--checkpoint", "b/best.h5"]
        for arguments in [[*evaluate, "--output", "b/best.h5"], [*evaluate, "--output", "link.h5"],
                          [*evaluate, "--json", "b/best.h5"], [*evaluate, "--output", "notes.txt"],
                          [*evaluate, "--json", "notes.txt"], [*evaluate, "--output", "run/latest.h5"],
                          [*evaluate, "--json", "run/eval.json"], [*evaluate, "--output", "same", "--json", "same"],
                          ["gradient", *program.NETWORK, "--samples", "0:4", "--output", "b/best.h5"],
                          ["info", "b/best.h5", "--json", "b/best.h5"],
                          ["bench", *program.NETWORK, "--json", "run/bench.json"],
                          ["verify", *program.NETWORK, "--json", "notes.txt"],
                          [*SMALL, "--output", "new", "--json", "new/metrics.jsonl"],
                          [*SMALL, "--output", "new", "--json", "absent/result.json"]]:
            with self.subTest(arguments):
                self.expect_refused_without_a_trace([arguments[-1]], *arguments)
        for _ in range(2):  # an earlier result of the same command may be replaced
            self.run_program(*evaluate, "--output", "eval.h5", "--json", "eval.json", ranks=2)
        self.expect_refused_without_a_trace(["eval.json"], "info", "b/best.h5", "--json", "eval.json")

    def test_files_of_others_in_the_output_folder_stay(self):
        self.train("run", "--steps", "1")
        (self.folder / "mine").mkdir()
        (self.folder / "mine/config.ini").write_text("# of mine\noutput = mine\nsteps = 1\n")
        self.expect_refused_without_a_trace(["mine", "config.ini"], *SMALL, "--config", "mine/config.ini")
        (self.folder / "best").mkdir()
        (self.folder / "best/best.h5").write_bytes((self.folder / "run/best.h5" if (self.folder / "run/best.h5").exists()
                                                    else self.folder / "run/latest.h5").read_bytes())
        self.expect_refused_without_a_trace(["best.h5"], *SMALL, "--steps", "1", "--output", "best")
        for resume in [[], ["--resume", "auto"]]:
            (self.folder / "log").mkdir(exist_ok=True)
            (self.folder / "log/metrics.jsonl").write_text("lines of mine\n")
            self.expect_refused_without_a_trace(["metrics.jsonl"], *SMALL, "--steps", "1", "--output", "log", *resume)
        # Other names are no hindrance, and stay.
        (self.folder / "notes").mkdir()
        (self.folder / "notes/README").write_text("of mine\n")
        self.train("notes", "--steps", "1")
        self.assertEqual((self.folder / "notes/README").read_text(), "of mine\n")

    def test_what_a_run_meets_in_its_own_folder_is_set_aside_and_said(self):
        self.train("run", "--steps", "4")
        (self.folder / "run/config.ini").write_text("# of mine\n")
        (self.folder / "run/latest.h5").unlink()
        (self.folder / "run/latest.h5").write_text("of mine\n")
        text = self.train("run", "--steps", "5", "--resume", "auto").stdout
        self.assertIn("set aside: latest.h5.left-behind, config.ini.left-behind", text)
        self.assertEqual((self.folder / "run/config.ini.left-behind").read_text(), "# of mine\n")
        self.assertEqual((self.folder / "run/latest.h5.left-behind").read_text(), "of mine\n")
        # A second time nothing that was set aside is lost.
        (self.folder / "run/config.ini").write_text("# again\n")
        self.train("run", "--steps", "6", "--resume", "auto")
        self.assertEqual((self.folder / "run/config.ini.left-behind").read_text(), "# of mine\n")
        self.assertEqual((self.folder / "run/config.ini.left-behind-2").read_text(), "# again\n")

    def test_the_next_start_removes_what_a_killed_one_left_half_written(self):
        self.train("run", "--steps", "1")
        for name in ["config.ini", "metrics.jsonl", "revode-sign", "checkpoint-9.h5", "notes"]:
            (self.folder / f"run/.{name}.a1B2c3.tmp").write_text("half")
        self.train("run", "--steps", "2", "--resume", "auto")
        hidden = [file.name for file in (self.folder / "run").iterdir() if file.name.startswith(".")]
        self.assertEqual(hidden, [".notes.a1B2c3.tmp"])

    def test_without_checkpoints_a_run_goes_on_from_the_best_one(self):
        self.train("run", "--steps", "12", "--keep-checkpoints", "1", "--eval-every", "1")
        best = self.json_of("info", "run/best.h5")["progress"]
        for file in [*(self.folder / "run").glob("checkpoint-*"), self.folder / "run/latest.h5"]:
            file.unlink()
        content = (self.folder / "run/best.h5").read_bytes()
        done = self.train("run", "--steps", "12", "--eval-every", "1", "--resume", "auto")
        self.assertIn("taking best.h5", done.stderr)
        self.assertIn(f"going on from run/best.h5 at step {best['step']}", done.stdout)
        self.assertEqual((self.folder / "run/best.h5").read_bytes(), content)

    def test_a_run_that_begins_anew_says_so_and_loses_nothing(self):
        self.train("run", "--steps", "8")
        records = (self.folder / "run/metrics.jsonl").read_text()
        best = (self.folder / "run/best.h5").read_bytes()[:3000]
        for file in (self.folder / "run").glob("*.h5"):
            if not file.is_symlink():
                file.write_bytes(file.read_bytes()[:3000])
        done = self.train("run", "--steps", "4", "--resume", "auto", ranks=2)
        self.assertEqual(done.stderr.count("passing over a checkpoint"), 3)
        self.assertIn("starting from the beginning", done.stdout)
        self.assertEqual((self.folder / "run/metrics.jsonl.left-behind").read_text(), records)
        self.assertEqual((self.folder / "run/best.h5.left-behind").read_bytes(), best)
        self.assertEqual(self.checkpoints("run"), [4])

    def test_one_run_a_folder(self):
        run = [*SMALL, "--epochs", "100000", "--output", "run"]
        first = subprocess.Popen(self.command(*run), cwd=self.folder, stdout=subprocess.DEVNULL)
        self.addCleanup(first.wait)
        self.addCleanup(first.kill)  # before that
        deadline = time.monotonic() + SOON
        while not self.checkpoints("run"):
            self.assertLess(time.monotonic(), deadline)
            time.sleep(0.05)
        for arguments in [run, [*run, "--resume", "auto"], ["--resume", f"run/checkpoint-{self.checkpoints('run')[-1]}.h5"]]:
            self.expect_error(["run", f"process {first.pid}"], *arguments, ranks=2)
        self.assertIsNone(first.poll())
        # What dies with its process is no hindrance.
        first.send_signal(signal.SIGKILL)
        first.wait()
        self.assertTrue((self.folder / "run/.revode-lock").exists())
        done = self.train("run", "--epochs", "0", "--resume", "auto")
        self.assertIn("going on from run/checkpoint-", done.stdout)
        self.assertFalse((self.folder / "run/.revode-lock").exists())

    def test_runs_that_start_together_do_not_mix(self):
        commands = [self.command(*SMALL, "--steps", "40", "--seed", seed, "--output", "run") for seed in [1, 2, 3]]
        runs = [subprocess.Popen(command, cwd=self.folder, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL)
                for command in commands]
        statuses = [run.wait(program.TIMEOUT_SECONDS) for run in runs]
        self.assertEqual(sorted(statuses), [0, 2, 2])
        seed = str(1 + statuses.index(0))
        self.assertIn(f"seed = {seed}\n", (self.folder / "run/config.ini").read_text())
        self.assertEqual(self.json_of("info", "run/latest.h5")["config"]["seed"], int(seed))

    def test_ranks_that_see_other_folders(self):
        for folder in ["a", "b"]:
            (self.folder / folder).mkdir()
        run = [*SMALL, "--steps", "1", "--output", "run"]
        done = self.run_each_rank([(run, "a", {}), (run, "b", {})], status=2, timeout=SOON)
        error = self.only_error(done)
        for word in ["--output run", str(self.folder / "a"), str(self.folder / "b"), "rank 1"]:
            self.assertIn(word, error)
        self.assertEqual(sorted(self.contents()), ["a", "b"])
        gradient = ["gradient", *program.NETWORK, "--samples", "0:4", "--output", "g.h5"]
        done = self.run_each_rank([(gradient, "a", {}), (gradient, "b", {})], status=2, timeout=SOON)
        self.assertIn(str(self.folder / "b"), self.only_error(done))
        self.assertEqual(sorted(self.contents()), ["a", "b"])

    def test_a_start_that_fails_leaves_no_folder(self):
        self.expect_refused_without_a_trace(["cifar"], *SMALL, "--dataset", "cifar10", "--data-dir", "absent/cifar",
                                            "--output", "deep/new/run")
        self.expect_refused_without_a_trace(["name"], *SMALL, "--output", "x" * 300)
        self.expect_refused_without_a_trace(["x" * 300], "info", "x" * 300)

    def test_devices_and_fifos_stay_what_they_are(self):
        self.train("run", "--steps", "1")
        os.mkfifo(self.folder / "fifo")
        (self.folder / "null").symlink_to("/dev/null")
        with subprocess.Popen(["cat", "fifo"], cwd=self.folder, stdout=subprocess.PIPE, text=True) as reader:
            self.run_program("info", "run/latest.h5", "--json", "fifo")
            self.assertEqual(json.loads(reader.stdout.read())["command"], "info")
        self.run_program("info", "run/latest.h5", "--json", "null")
        self.assertTrue((self.folder / "fifo").is_fifo())
        self.assertTrue((self.folder / "null").is_char_device())


if __name__ == "__main__":
    program.main()
