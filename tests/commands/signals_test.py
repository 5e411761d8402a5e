#!/usr/bin/env python3
"""A signal stops a run after saving, with exit status 75; resumed, it ends like the run that nobody disturbed."""
import json
import signal
import subprocess
import time

import program

# 20 steps an epoch; long enough for the signal to arrive in the middle.
RUN = [*program.NETWORK, "--batch-size", "20", "--train-fraction", "0.05", "--steps", "60", "--log-every", "1",
       "--keep-checkpoints", "0", "--progress", "off"]


class Signals(program.ProgramTest):
    def start_and_signal(self, number, ranks=None):
        """Sends the signal once the first steps are on record; returns the step that was saved."""
        command = self.command(*RUN, "--output", "stopped", "--trace", "trace.json", ranks=ranks)
        with open(self.folder / "stdout", "w") as output:
            process = subprocess.Popen(command, cwd=self.folder, stdout=output, stderr=subprocess.STDOUT)
        self.addCleanup(process.kill)
        metrics = self.folder / "stopped/metrics.jsonl"
        deadline = time.monotonic() + program.TIMEOUT_SECONDS
        while not metrics.exists() or metrics.read_text().count("\n") < 3:
            self.assertLess(time.monotonic(), deadline)
            self.assertIsNone(process.poll(), (self.folder / "stdout").read_text())
            time.sleep(0.005)
        process.send_signal(number)
        status = process.wait(program.TIMEOUT_SECONDS)
        self.assertEqual(status, 75, (self.folder / "stdout").read_text())
        last = json.loads(metrics.read_text().splitlines()[-1])
        self.assertLess(last["step"], 60)
        self.assertIn(last["step"], self.checkpoints("stopped"))
        text = (self.folder / "stdout").read_text()
        self.assertIn("stopped by a signal", text)
        events = json.loads((self.folder / "trace.json").read_text())
        self.assertEqual(max(event["args"].get("step", 0) for event in events), last["step"])
        self.assertRegex(text, r"go on with: .*revode --output stopped --resume auto")

    def expect_resumed_equals_undisturbed(self, ranks=None):
        self.run_program(*RUN, "--output", "stopped", "--resume", "auto", ranks=ranks)
        self.run_program(*RUN, "--output", "undisturbed")
        self.assertEqual(self.metrics("stopped"), self.metrics("undisturbed"))
        self.expect_same_files("stopped", "undisturbed",
                               ["checkpoint-20.h5", "checkpoint-40.h5", "checkpoint-60.h5", "best.h5"])

    def test_sigusr1(self):
        self.start_and_signal(signal.SIGUSR1)
        self.expect_resumed_equals_undisturbed()

    def test_sigterm(self):
        self.start_and_signal(signal.SIGTERM)
        self.expect_resumed_equals_undisturbed(ranks=2)

    def test_sigusr1_through_the_launcher_to_two_ranks(self):
        self.start_and_signal(signal.SIGUSR1, ranks=2)
        self.expect_resumed_equals_undisturbed()

    def test_the_time_limit_saves_in_time_and_the_run_goes_on(self):
        begun = time.monotonic()
        seconds = 4 * program.TIME_FACTOR
        done = self.run_program(*RUN, "--steps", "1000000", "--epochs", "50000", "--time-limit", f"00:00:{seconds:02}",
                                "--output", "stopped", ranks=2, status=75)
        # The limit, what the launcher takes, and a slow machine.
        self.assertLess(time.monotonic() - begun, 30 * program.TIME_FACTOR)
        self.assertIn("stopped before the time limit", done.stdout)
        step = max(self.checkpoints("stopped"))
        self.assertGreater(step, 1)
        again = self.run_program(*RUN, "--output", "stopped", "--resume", "auto", "--steps", str(step + 1),
                                 "--epochs", "50000")
        self.assertIn(f"checkpoint-{step}.h5 at step {step}", again.stdout)
        self.expect_error(["--time-limit", "'4'", "12:30"], *RUN, "--time-limit", "4")


if __name__ == "__main__":
    program.main()
