#!/usr/bin/env python3
"""Standard output and error that are closed, full, or left by their reader."""
import subprocess

import program
from program import SMALL, TIMEOUT_SECONDS


class Streams(program.ProgramTest):
    def run_shell(self, redirection, *arguments):
        """The program with a redirection of the shell's."""
        return subprocess.run(["bash", "-c", f'set -o pipefail; "$@" {redirection}', "bash", *self.command(*arguments)],
                              cwd=self.folder, capture_output=True, text=True, timeout=TIMEOUT_SECONDS)

    def test_errors_keep_their_status_where_nobody_hears_them(self):
        for redirection in ["2>&-", "2>/dev/full", "2>&1 | true"]:
            for arguments, status in [(["--learning-rate", "x"], 2), (["info", "absent.h5"], 2),
                                      (["eval", "--checkpoint", "absent.h5"], 2)]:
                with self.subTest(redirection=redirection, arguments=arguments):
                    self.assertEqual(self.run_shell(redirection, *arguments).returncode, status)

    def test_results_that_can_not_be_written_are_errors(self):
        self.train("run", "--steps", "1")
        for redirection in [">&-", ">/dev/full"]:
            for arguments in [["--help"], ["--version"], ["--print-config"], ["info", "run/latest.h5"],
                              ["info", "run/latest.h5", "--json", "-"], ["eval", "--checkpoint", "run/latest.h5"],
                              ["eval", "--checkpoint", "run/latest.h5", "--json", "-"],
                              ["gradient", "--checkpoint", "run/latest.h5", "--samples", "0:4"]]:
                with self.subTest(redirection=redirection, arguments=arguments):
                    done = self.run_shell(redirection, *arguments)
                    self.assertEqual(done.returncode, 1)
                    self.assertIn("standard output", self.only_error(done))

    def test_a_closed_stream_is_not_taken_by_a_file(self):
        done = self.run_shell("2>&- >&-", "train", *SMALL, "--steps", "1", "--output", "run")
        self.assertEqual(done.returncode, 0)
        self.run_program("info", "--check", "run/latest.h5")

    def test_a_reader_that_leaves_costs_the_log_and_not_the_training(self):
        run = ["train", *SMALL, "--steps", "40", "--checkpoint-every", "40", "--output", "run"]
        with subprocess.Popen(self.command(*run), cwd=self.folder, stdout=subprocess.PIPE, stderr=subprocess.PIPE,
                              text=True) as process:
            process.stdout.readline()
            process.stdout.close()
            notes = process.stderr.read()
            self.assertEqual(process.wait(TIMEOUT_SECONDS), 0, notes)
        self.assertEqual(notes.count("revode: note:"), 1, notes)
        self.assertIn("standard output", notes)
        self.assertEqual(self.checkpoints("run"), [40])
        self.run_program(*run, "--output", "heard")
        self.expect_same_files("run", "heard", ["checkpoint-40.h5", "best.h5"])


if __name__ == "__main__":
    program.main()
