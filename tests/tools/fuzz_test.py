#!/usr/bin/env python3
"""tools/fuzz with targets that are scripts, as clang's would end: what is a finding, what is libhdf5's, what is kept."""
import os
import subprocess
import sys
import tempfile
import unittest
from pathlib import Path

FUZZ = Path(__file__).resolve().parents[2] / "tools" / "fuzz"

STATISTICS = """#9 NEW    cov: 77 ft: 90
stat::number_of_executed_units: 9
stat::slowest_unit_time_sec:    1
stat::peak_rss_mb:              33
"""
OURS = """==1==ERROR: AddressSanitizer: heap-buffer-overflow
    #0 0x55 in __asan_memcpy (/build/fuzz_metrics+0x1)
    #1 0x55 in revode::read(int) /src/metrics.cpp:7:3
    #2 0x7f in H5Ovisit (/usr/lib/libhdf5_openmpi.so.103+0x2)
"""
LIBHDF5 = """==1==ERROR: AddressSanitizer: SEGV on unknown address
    #0 0x7f in __interceptor_strlen (/build/fuzz_metrics+0x1)
    #1 0x7f in H5O_attr_decode (/usr/lib/libhdf5_openmpi.so.103+0x2)
    #2 0x55 in revode::read(int) /src/metrics.cpp:7:3
"""


class Fuzz(unittest.TestCase):
    def setUp(self):
        temporary = tempfile.TemporaryDirectory()
        self.addCleanup(temporary.cleanup)
        self.folder = Path(temporary.name)
        self.build = self.folder / "build"
        (self.build / "tests" / "fuzz").mkdir(parents=True)
        (self.build / "build.ninja").touch()
        (self.folder / "bin").mkdir()
        self.make("bin/cmake", "exit 0")
        self.make("bin/clang++", "exit 0")

    def make(self, name, text):
        file = self.folder / name
        file.write_text(f"#!/bin/sh\n{text}\n")
        file.chmod(0o755)

    def run_fuzz(self, log, *arguments, status=0, second=""):
        """With a target that says `log` and, where its status is not 0, leaves an input."""
        leave = 'for word; do case $word in -artifact_prefix=*) echo bad > "${word#*=}crash-1";; esac; done\n' if status else ""
        (self.folder / "log").write_text(log + STATISTICS)
        self.make("build/tests/fuzz/fuzz_metrics", f"{second}sleep 0.6\n{leave}cat {self.folder / 'log'} >&2\nexit {status}")
        path = f"{self.folder / 'bin'}:{os.environ['PATH']}"
        return subprocess.run([sys.executable, FUZZ, "--build", self.build, "--seconds", "1", *(arguments or ["metrics"])],
                              env={**os.environ, "PATH": path}, capture_output=True, text=True, check=False)

    def row(self, done):
        return done.stdout.splitlines()[-1].split()

    def test_a_run_without_findings_passes(self):
        done = self.run_fuzz("")
        self.assertEqual(done.returncode, 0, done.stdout + done.stderr)
        target, executions, _, edges, findings, in_hdf5, slowest, _, memory, _ = self.row(done)
        self.assertEqual((target, edges, findings, in_hdf5, slowest, memory), ("metrics", "77", "0", "0", "1", "33"))
        self.assertEqual(int(executions) % 9, 0)

    def test_a_finding_fails_and_its_input_is_kept(self):
        done = self.run_fuzz(OURS, status=1)
        self.assertEqual(done.returncode, 1)
        self.assertEqual(self.row(done)[4:6], ["1", "0"])
        self.assertIn("heap-buffer-overflow", done.stdout)
        kept = list((self.build / "findings").iterdir())
        self.assertEqual([file.read_text() for file in kept], ["bad\n"])
        self.assertIn(str(kept[0]), done.stdout)

    def test_a_target_that_dies_without_an_input_fails(self):
        done = self.run_fuzz("", status=1)
        self.assertEqual(done.returncode, 1)

    def test_a_crash_inside_libhdf5_is_counted_apart(self):
        done = self.run_fuzz(LIBHDF5, status=1)
        self.assertEqual(done.returncode, 0, done.stdout)
        self.assertEqual(self.row(done)[4], "0")
        self.assertGreater(int(self.row(done)[5]), 0)
        self.assertIn("inside libhdf5: H5O_attr_decode", done.stdout)

    def test_memory_that_libhdf5_asked_for_is_told_by_a_second_look(self):
        (self.folder / "second").write_text(LIBHDF5)
        done = self.run_fuzz("==1== ERROR: libFuzzer: out-of-memory (used: 561Mb; limit: 512Mb)\n" + OURS, status=1,
                             second=f'case $1 in -malloc_limit_mb=32) cat {self.folder / "second"} >&2; exit 1;; esac\n')
        self.assertEqual(done.returncode, 0, done.stdout)
        self.assertGreater(int(self.row(done)[5]), 0)

    def test_an_unknown_target_is_refused(self):
        done = self.run_fuzz("", "metric")
        self.assertEqual(done.returncode, 2)
        self.assertIn("unknown target 'metric'", done.stderr)

    def test_without_clang_it_says_so(self):
        done = subprocess.run([sys.executable, FUZZ], env={"PATH": ""}, capture_output=True, text=True, check=False)
        self.assertEqual(done.returncode, 77)
        self.assertIn("found no clang++", done.stderr)


if __name__ == "__main__":
    unittest.main()
