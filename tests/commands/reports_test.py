#!/usr/bin/env python3
"""What people and machines read of a run: log, metrics, JSON, the files that are kept, and the end of a run gone wrong."""
import contextlib
import fcntl
import json
import os
import pty
import re
import struct
import subprocess
import termios

import program


class Reports(program.ProgramTest):
    def test_output_into_a_file_holds_no_control_codes(self):
        for progress in ["auto", "on"]:
            for ranks in [None, 2]:
                with self.subTest(progress=progress, ranks=ranks):
                    run = f"{progress}-{ranks}"
                    text = self.train(run, "--steps", "5", "--progress", progress, ranks=ranks).stdout
                    self.assertEqual(re.findall(r"[\x00-\x09\x0b-\x1f\x7f]", text), [])
                    for step in range(1, 6):
                        self.assertEqual(text.count(f"step {step}/5"), 1, text)
        # Off is about progress alone.
        off = self.train("off", "--steps", "5", "--progress", "off").stdout
        self.assertNotIn("step 1/5", off)
        self.assertIn("epoch 0 done", off)

    def test_a_file_shows_the_first_and_the_last_step_whatever_the_interval(self):
        text = self.train("run", "--steps", "7", "--log-every", "4").stdout
        self.assertEqual(re.findall(r"step (\d)/7", text), ["1", "4", "7"])
        self.assertEqual([r["step"] for r in self.metrics("run") if r["kind"] == "step"], [4])

    # A longer one wraps, and each redraw leaves a line behind.
    def test_the_live_line_fits_the_window(self):
        for ranks in [None, 2]:
            with self.subTest(ranks=ranks):
                ours, theirs = pty.openpty()
                fcntl.ioctl(theirs, termios.TIOCSWINSZ, struct.pack("HHHH", 24, 50, 0, 0))
                command = self.command(*program.SMALL, "--steps", "40", "--output", f"run-{ranks}", ranks=ranks)
                with subprocess.Popen(command, cwd=self.folder, stdout=theirs, stderr=subprocess.DEVNULL) as process:
                    os.close(theirs)
                    shown = b""
                    with contextlib.suppress(OSError):  # the end of a terminal
                        while part := os.read(ours, 65536):
                            shown += part
                    os.close(ours)
                self.assertEqual(process.returncode, 0)
                live = re.findall(r"\r(epoch \d+ step [^\r\n\x1b]*)\x1b\[K", shown.decode())
                self.assertGreater(len(live), 1, shown)
                for line in live:
                    self.assertLessEqual(len(line), 49, line)

    def test_the_start_block_fits_eighty_columns_and_its_numbers_agree(self):
        for ranks in [None, 4]:
            text = self.train(f"run-{ranks}", "--steps", "1", ranks=ranks).stdout
            for line in text.splitlines():
                self.assertLessEqual(len(line), 80, line)
            total = int(re.search(r"([\d,]+) parameters", text).group(1).replace(",", ""))
            table = re.findall(r"^ +\d+ +\d+\.\.\d+ +[\d.]+% +([\d,]+)", text, re.MULTILINE)
            self.assertEqual(len(table), ranks or 1)
            self.assertEqual(sum(int(number.replace(",", "")) for number in table), total)

    def test_where_the_numbers_come_from_is_on_record_and_in_no_checkpoint(self):
        begun = self.train("run", "--steps", "2", ranks=2)
        self.train("run", "--steps", "4", "--resume", "auto")
        with open(self.folder / "run/metrics.jsonl") as lines:
            records = [json.loads(line) for line in lines]
        starts = [record for record in records if record["kind"] == "start"]
        self.assertEqual(records[0], starts[0])
        self.assertEqual([(start["step"], start["ranks"]) for start in starts], [(0, 2), (2, 1)])
        version = self.run_program("--version").stdout.strip()
        self.assertEqual(f"{starts[0]['version']}, revision {starts[0]['revision']}", version)
        self.assertIn(version, begun.stdout)
        for key in ["host", "date", "backend", "threads", "mpi", "hdf5"]:
            self.assertTrue(starts[0][key], key)
        self.assertEqual(starts[0]["options"]["widths"], "6,10,16")
        info = self.json_of("info", "run/latest.h5")
        self.assertEqual(info["run"], starts[1])
        self.assertEqual(self.json_of("info", "run/checkpoint-2.h5")["run"], starts[0])
        self.assertIn(starts[1]["host"], self.run_program("info", "run/latest.h5").stdout)
        self.assertNotIn(starts[0]["date"].encode(), (self.folder / "run/checkpoint-4.h5").read_bytes())

    def test_evaluation_every_few_epochs(self):
        self.train("run", "--steps", "20", "--eval-every", "2")
        self.train("each", "--steps", "20", "--eval-every", "1")
        epochs = [record for record in self.metrics("run") if record["kind"] == "epoch"]
        self.assertEqual(["test_accuracy" in record for record in epochs], [False, True, False, True, False])
        each = [record for record in self.metrics("each") if record["kind"] == "epoch"]
        self.assertEqual(epochs[1]["test_loss"], each[1]["test_loss"])
        self.assertEqual(self.metrics("run")[-1], self.metrics("each")[-1])
        never = self.train("never", "--steps", "8", "--eval-every", "0").stdout
        self.assertNotIn("test loss 2", never)
        self.assertIn("test accuracy", never)  # at the end

    def test_the_last_evaluation_counts_for_the_best(self):
        self.train("run", "--steps", "6", "--eval-every", "0")
        end = self.metrics("run")[-1]
        self.assertGreater(end["test_accuracy"], 0)
        self.assertEqual(self.json_of("eval", "--checkpoint", "run/best.h5")["accuracy"], end["test_accuracy"])

    def test_start_block_and_results_are_printed_once(self):
        text = self.train("run", "--steps", "1", ranks=3).stdout
        for words in ["hamiltonian-18", "blocks 2,1,1", "widths 6,10,16", "parameters", "3 ranks", "fp32", "1 thread",
                      "grid 2^-16", "test accuracy", "images/s", "peak memory a rank"]:
            self.assertIn(words, text)
        self.assertEqual(text.count("hamiltonian-18"), 1)
        self.assertEqual(text.count("test accuracy"), 1)

    def test_json_alone_on_standard_output(self):
        for ranks in [None, 2]:
            done = self.train(f"run-{ranks}", "--steps", "5", "--json", "-", ranks=ranks)
            result = json.loads(done.stdout)  # the whole of it
            self.assertEqual(result["steps"], 5)
            self.assertEqual(result["samples"], 1000)
            self.assertEqual(len(result["peak_memory_bytes"]), ranks or 1)
            self.assertGreater(result["images_per_second"], 0)
            self.expect_balance(result, ranks, done.stderr)
            end = self.metrics(f"run-{ranks}")[-1]
            self.assertEqual((result["loss"], result["accuracy"]), (end["test_loss"], end["test_accuracy"]))
            self.assertIn("hamiltonian-18", done.stderr)
        self.train("file", "--steps", "5", "--json", "result.json")
        self.assertEqual(json.loads((self.folder / "result.json").read_text())["loss"], result["loss"])

    def expect_balance(self, result, ranks, text):
        """Measured and predicted, where ranks can wait for each other."""
        keys = {"bubble", "bubble_predicted", "waiting_seconds", "step_seconds", "step_seconds_predicted"}
        if not ranks:
            self.assertFalse(keys & result.keys())
            self.assertNotIn("bubble", text.partition("test accuracy")[2])
            return
        for key in ("bubble", "bubble_predicted"):
            self.assertTrue(0 < result[key] < 1, result)
        for key in ("step_seconds", "step_seconds_predicted"):
            self.assertGreater(result[key], 0)
        self.assertRegex(text, r"(?m)^step +\d+\.\d ms on average; the simulation predicts \d+\.\d ms$")
        self.assertEqual(len(result["waiting_seconds"]), ranks)
        self.assertGreater(max(result["waiting_seconds"]), 0)
        self.assertRegex(text, r"(?m)^bubble +\d+\.\d% of the ranks' time; the simulation predicts \d+\.\d%$")
        self.assertRegex(text, r"(?m)^waiting a rank +\d+\.\d\d, \d+\.\d\d s$")

    def test_newest_checkpoints_and_the_best_are_kept(self):
        self.train("run", "--steps", "9", "--checkpoint-every", "1", "--keep-checkpoints", "2", "--eval-every", "1")
        self.assertEqual(self.checkpoints("run"), [8, 9])
        self.assertEqual(os.readlink(self.folder / "run/latest.h5"), "checkpoint-9.h5")
        best = max((r for r in self.metrics("run") if r["kind"] == "epoch"), key=lambda r: r["test_accuracy"])
        info = self.json_of("info", "--checkpoint", "run/best.h5")
        self.assertEqual(info["progress"]["step"], best["step"])
        self.assertEqual(info["progress"]["best_accuracy"], best["test_accuracy"])
        result = self.json_of("eval", "--checkpoint", "run/best.h5")
        self.assertEqual(result["accuracy"], best["test_accuracy"])
        self.assertEqual([file.name for file in (self.folder / "run").iterdir() if "tmp" in file.name], [])

    def test_config_ini_repeats_the_run(self):
        self.train("run", "--steps", "3", "--arch", "leapfrog", "--learning-rate", "0.05")
        self.run_program("--config", "run/config.ini", "--output", "again")
        self.assertEqual(self.metrics("again"), self.metrics("run"))
        self.expect_same_files("again", "run", ["checkpoint-3.h5"])

    def test_rate_follows_its_policy(self):
        self.train("run", "--steps", "16", "--learning-rate", "0.08", "--warmup-epochs", "1", "--lr-decay-epochs", "2,3",
                   "--lr-decay", "0.5")
        rates = [record["learning_rate"] for record in self.metrics("run") if record["kind"] == "step"]
        expected = [0.02, 0.04, 0.06, 0.08, *[0.08] * 4, *[0.04] * 4, *[0.02] * 4]
        for rate, wanted in zip(rates, expected, strict=True):
            self.assertAlmostEqual(rate, wanted, places=12)

    def test_a_loss_that_is_not_finite_stops_the_run_and_says_where(self):
        arguments = ["--steps", "8", "--checkpoint-every", "1", "--learning-rate", "1e6"]
        for ranks in [None, 3]:
            with self.subTest(ranks=ranks):
                done = self.train(f"run-{ranks}", *arguments, ranks=ranks, status=1)
                errors = [line for line in done.stderr.splitlines() if line.startswith("revode: error:")]
                self.assertEqual(len(errors), 1, done.stderr)
                self.assertRegex(errors[0], r"not finite")
                self.assertRegex(errors[0], r"step \d+")
                self.assertRegex(errors[0], r"(coupling \d+ of stage \d|opening|closing).*rank \d")
                # The last checkpoint from before stays, and is named.
                last = self.checkpoints(f"run-{ranks}")[-1]
                self.assertIn(f"checkpoint-{last}.h5", errors[0])
                self.assertIn(f"step {last + 1}", errors[0])

    def test_values_beyond_the_exact_range_are_reported(self):
        text = self.train("run", "--steps", "1", "--arch", "midpoint", "--grid-bits", "22", "--step-size", "1").stdout
        self.assertIn("left the range", text)
        step = self.metrics("run")[0]
        self.assertGreater(step["out_of_range"], 0)
        self.assertEqual(len(step["largest_state"]), 3)
        self.assertGreaterEqual(max(step["largest_state"]), 4)  # 2^(24 - 22)

    def test_the_largest_states_are_those_of_the_step_on_any_ranks(self):
        arguments = ["--steps", "2", "--log-every", "1"]
        self.train("alone", *arguments)
        self.train("together", *arguments, ranks=3)
        alone, together = ([record["largest_state"] for record in self.metrics(run) if record["kind"] == "step"]
                           for run in ("alone", "together"))
        self.assertEqual(alone, together)
        self.assertTrue(all(0 < value < 256 for values in alone for value in values), alone)


if __name__ == "__main__":
    program.main()
