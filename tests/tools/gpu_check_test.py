#!/usr/bin/env python3
"""tools/gpu_check in a bundle of stand-ins: goes on after a failed part, keeps its time limits, ends what it started, and
reports in table, JSON and exit status; and what packing refuses. No GPU and no build is needed."""
import json
import os
import shutil
import signal
import subprocess
import sys
import tempfile
import time
import unittest
from pathlib import Path

TOOLS = Path(__file__).resolve().parents[2] / "tools"
TIMEOUT_SECONDS = 60

# $ANSWERS names a folder of files by which a test changes an answer; ranks.log there has a line for each start by mpirun.
STAND_INS = {
    "in_bundle": 'exec "$@"',
    "mpirun": 'echo "$2" >>"$ANSWERS/ranks.log"\nshift 2\nexec "$@"',
    "cuda_device_test": """\
[ ! -e "$ANSWERS/tests-hang" ] || { sleep 60 & echo $! >"$ANSWERS/child"; wait; }
cat "$ANSWERS/tests"
[ ! -e "$ANSWERS/tests-fail" ] || exit 1""",
    # Options become variables: --json FILE is $json, --time-ranks T is $time_ranks.
    "revode": """\
verb=$1
while shift && [ $# -gt 0 ]; do
  case $1 in --*) name=$(echo "${1#--}" | tr - _); eval "$name=\\$2" ;; esac
done
[ ! -e "$ANSWERS/$verb-fails" ] || { echo "revode: error: $verb was told to fail"; exit 1; }
case $verb in
  train)
    [ "$backend" = cpu ] || echo "A GPU (a stand-in) on 1 rank, fp32"
    mkdir -p "$output"
    echo "weights" >"$output/latest.h5"
    [ "$time_ranks$data_ranks" != "$(cat "$ANSWERS/other-bits" 2>/dev/null || echo none)" ] || echo other >"$output/latest.h5"
    accuracy=0.93
    [ "$backend" = cpu ] || accuracy=$(cat "$ANSWERS/accuracy" 2>/dev/null || echo 0.92)
    [ -z "$json" ] || echo "{\\"accuracy\\": $accuracy, \\"loss\\": 0.2, \\"images_per_second\\": 1000.5}" >"$json" ;;
  verify) echo '{"checks": [{"name": "round trip", "found": "equal", "passed": true}]}' >"$json" ;;
  bench) echo '{"images_per_second": 123.4, "step_seconds": 0.25}' >"$json" ;;
  plan) [ -z "$ranks" ] || echo '{"step_seconds": 0.2}' >"$json" ;;
esac""",
    "nvidia-smi": 'echo "A GPU, 580.1, 1000 MiB"',
    "nvcc": 'echo "Cuda compilation tools, release 13.0, V13.0.1"',
    "compute-sanitizer": """\
while [ "$1" != --tool ]; do shift; done
case $2 in
  memcheck) echo "========= ERROR SUMMARY: $(cat "$ANSWERS/memory-errors" 2>/dev/null || echo 0) errors" ;;
  racecheck) echo "========= RACECHECK SUMMARY: 0 hazards displayed (0 errors, 0 warnings)" ;;
esac
echo "[  PASSED  ] 5 tests."
[ ! -e "$ANSWERS/memory-errors" ] || exit 9""",
}
COMPARE = """\
import json, os, sys
status = os.path.join(os.environ["ANSWERS"], "compare-status")
if os.path.exists(status):
    print("compare_pytorch.py: error: as told")
    sys.exit(int(open(status).read()))
json.dump({"results": {"revode": {}, "plain": {"revode_is_faster_by": 1.5}}}, open(sys.argv[-1], "w"))
"""
PARTS = ["device", "tests", "memcheck", "racecheck", "verify", "same-bits", "accuracy", "bench", "plan", "pytorch"]
NO_GPU = """\
[ RUN      ] CudaDevice.IsThere
cuda_device_test.cpp:25: Skipped
this machine has no NVIDIA driver
[  SKIPPED ] CudaDevice.IsThere (0 ms)
[  PASSED  ] 0 tests.
[  SKIPPED ] 1 test, listed below:
"""


def write_program(path, text):
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(f"#!/bin/sh\n{text}\n")
    path.chmod(0o755)


class ScriptTest(unittest.TestCase):
    def setUp(self):
        scratch = tempfile.TemporaryDirectory(prefix="revode-gpu-check-")
        self.addCleanup(scratch.cleanup)
        self.folder = Path(scratch.name).resolve()
        self.script = TOOLS / "gpu_check"

    def start(self, *arguments, **variables):
        return subprocess.Popen([sys.executable, self.script, *map(str, arguments)], cwd=self.folder,
                                stdin=subprocess.DEVNULL, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True,
                                env={**os.environ, **variables})

    def run_script(self, *arguments, status=0, **variables):
        with self.start(*arguments, **variables) as process:
            said = process.communicate(timeout=TIMEOUT_SECONDS)[0]
        self.assertEqual(process.returncode, status, said)
        return said


class Run(ScriptTest):
    def setUp(self):
        super().setUp()
        self.bundle = self.folder / "bundle"
        (self.bundle / "tools").mkdir(parents=True)
        for path in TOOLS.glob("gpu_check*"):
            if path.is_file():
                shutil.copy(path, self.bundle / "tools")
        (self.bundle / "tools/compare_pytorch.py").write_text(COMPARE)
        self.script = self.bundle / "tools/gpu_check"
        self.describe()
        for name, text in STAND_INS.items():
            write_program(self.bundle / "bin" / name, text)
        self.answers = self.folder / "answers"
        self.answers.mkdir()
        self.answer("tests", "[  PASSED  ] 24 tests.\n[  SKIPPED ] 1 test, listed below:\n")

    def describe(self, **changes):
        description = {"revision": "revode 9.9, revision abc", "machine": os.uname().machine, "glibc": "2.0",
                       "cuda_libraries": [], **changes}
        (self.bundle / "bundle.json").write_text(json.dumps(description))

    def answer(self, name, text=""):
        (self.answers / name).write_text(text)

    def start(self, *arguments, **variables):
        path = f"{self.bundle / 'bin'}:{os.environ['PATH']}"
        return super().start("run", *arguments, PATH=path, ANSWERS=str(self.answers), **variables)

    def report(self, number=1):
        return json.loads((self.folder / f"gpu-check-{number}/report.json").read_text())

    def outcomes(self):
        return {name: part["outcome"] for name, part in self.report()["parts"].items()}

    def expect_failure(self, part, text, *arguments):
        """That this part fails for this reason, and no other does."""
        said = self.run_script(*arguments, status=1)
        parts = self.report()["parts"]
        self.assertEqual({name for name in parts if parts[name]["outcome"] == "failed"}, {part}, said)
        self.assertRegex(parts[part]["text"], text)

    def test_all_parts_pass_and_are_reported(self):
        said = self.run_script()

        report = self.report()
        self.assertEqual(self.outcomes(), dict.fromkeys(PARTS, "passed"), said)
        self.assertEqual((report["revision"], report["driver"]), ("revode 9.9, revision abc", "580.1"))
        self.assertEqual(report["device"], {"name": "A GPU", "driver": "580.1", "memory": "1000 MiB",
                                            "toolkit": "release 13.0", "revode": "A GPU (a stand-in) on 1 rank, fp32"})
        self.assertEqual(report["parts"]["tests"]["figures"], {"passed": 24, "failed": 0, "skipped": 1})
        self.assertEqual(report["parts"]["pytorch"]["figures"]["bf16"]["results"]["plain"]["revode_is_faster_by"], 1.5)
        self.assertIn("planned from machine.json 200.0 ms, measured 250.0 ms", report["parts"]["plan"]["text"])
        benches = report["parts"]["bench"]["figures"]
        self.assertEqual(benches["hamiltonian-1202-batch-32-tf32"]["images_per_second"], 123.4)
        for part in report["parts"].values():
            self.assertTrue(Path(part["log"]).exists())
        table = said.split("\npart ")[1]
        self.assertRegex(table, r"(?m)^tests +passed +[\d.]+  24 passed, 0 failed, 1 skipped$")
        self.assertRegex(table, r"(?m)^all +passed +[\d.]+  10 passed, 0 failed, 0 skipped$")
        # verify on 2 and 4 ranks, then the grids.
        self.assertEqual((self.answers / "ranks.log").read_text().split(), ["2", "4", "2", "2", "4"])

    def test_goes_on_after_a_failed_part(self):
        self.answer("verify-fails")

        self.expect_failure("verify", "revode: error: verify was told to fail")

        self.assertEqual([*self.outcomes()], PARTS)

    def test_failed_test_is_named(self):
        self.answer("tests-fail")
        self.answer("tests", "[  FAILED  ] Device/AnyBackend.LossEqualsReference/cuda\n[  PASSED  ] 3 tests.\n"
                             "[  FAILED  ] 1 test, listed below:\n")

        self.expect_failure("tests", "3 passed, 1 failed, 0 skipped; status 1; first failed: Device/AnyBackend.LossEquals",
                            "--only", "tests,bench")

    def test_tests_that_find_no_gpu_have_failed(self):
        self.answer("tests", NO_GPU)

        self.expect_failure("tests", "no GPU was found: this machine has no NVIDIA driver")

    def test_error_under_the_sanitizer_is_a_failure_and_no_sanitizer_a_skip(self):
        self.answer("memory-errors", "3")
        self.expect_failure("memcheck", "ERROR SUMMARY: 3 errors", "--only", "memcheck")

        (self.bundle / "bin/compute-sanitizer").unlink()
        if not shutil.which("compute-sanitizer") and not Path("/usr/local/cuda/bin/compute-sanitizer").exists():
            self.assertRegex(self.run_script("--only", "memcheck,racecheck"), "skipped after .* found no compute-sanitizer")

    def test_other_bits_on_one_grid_are_a_failure(self):
        self.answer("other-bits", "22")

        self.expect_failure("same-bits", "differ from that of grid 1x1: 2x2$")

    def test_accuracy_far_from_that_of_the_cpu_is_a_failure(self):
        self.answer("accuracy", "0.85")

        self.expect_failure("accuracy", "cuda 0.850, cpu 0.930; expected")

    def test_options_that_the_comparison_refuses_are_a_failure_and_no_pytorch_is_a_skip(self):
        self.answer("compare-status", "2")
        self.expect_failure("pytorch", "refused its options: .* as told")

        self.answer("compare-status", "77")
        self.run_script("--only", "pytorch")
        self.assertEqual(self.report(2)["parts"]["pytorch"]["outcome"], "skipped")

    def test_time_limit_ends_what_runs_and_nothing_is_started_after_it(self):
        self.answer("tests-hang")

        self.run_script("--only", "tests,bench", "--time-limit", "1", status=1)

        parts = self.report()["parts"]
        self.assertRegex(parts["tests"]["text"], "the time of this part was up; cuda_device_test.* was ended")
        self.assertRegex(parts["bench"]["text"], "not started: the time limit of 1 s was used up")
        self.expect_no_child()

    def test_signal_ends_the_part_and_the_report_is_written(self):
        for number, sent in enumerate((signal.SIGINT, signal.SIGTERM), 1):
            self.answer("tests-hang")
            (self.answers / "child").unlink(missing_ok=True)
            with self.start("--only", "tests,bench") as process:
                self.wait_until(lambda: (self.answers / "child").exists() and (self.answers / "child").read_text())
                process.send_signal(sent)
                said = process.communicate(timeout=TIMEOUT_SECONDS)[0]

            self.assertEqual(process.returncode, 128 + sent, said)
            parts = self.report(number)["parts"]
            self.assertEqual(parts["tests"]["text"], f"interrupted by {sent.name}")
            self.assertEqual((parts["tests"]["outcome"], parts["bench"]["outcome"]), ("failed", "skipped"))
            self.assertRegex(said, r"(?m)^bench +skipped +0\.0  not started: interrupted$")
            self.expect_no_child()

    def wait_until(self, condition):
        deadline = time.monotonic() + TIMEOUT_SECONDS
        while not condition():
            self.assertLess(time.monotonic(), deadline)
            time.sleep(0.02)

    def expect_no_child(self):
        """The process that the part had started, which may linger for a moment until it is waited for."""
        child = Path("/proc", (self.answers / "child").read_text().strip(), "stat")

        def gone():
            try:
                return child.read_text().rpartition(")")[2].split()[0] == "Z"
            except OSError:
                return True

        self.wait_until(gone)

    def test_rehearsal_skips_what_needs_a_gpu_and_computes_on_the_cpu(self):
        self.answer("tests", NO_GPU)

        said = self.run_script("--backend", "cpu")

        outcomes = self.outcomes()
        self.assertEqual({name for name in outcomes if outcomes[name] == "skipped"},
                         {"device", "tests", "memcheck", "racecheck"}, said)
        self.assertIn("rehearsal with --backend cpu", said)
        self.assertNotIn("cuda", (self.folder / "gpu-check-1/bench.log").read_text())

    def test_json_goes_where_it_is_told(self):
        self.run_script("--only", "bench", "--json", "mine.json")

        self.assertEqual([*json.loads((self.folder / "mine.json").read_text())["parts"]], ["bench"])

    def test_missing_cuda_libraries_are_named(self):
        self.describe(cuda_libraries=["libcudart.so.999"])

        self.expect_failure("device", "found no libcudart.so.999")

    def test_wrong_use_is_refused_in_a_sentence(self):
        (self.folder / "empty").mkdir()
        for arguments, sentence in [
                (["--only", "tests,nonsense"], "argument --only: found 'nonsense', expected some of device,tests"),
                (["--time-limit", "0"], "argument --time-limit: found '0', expected seconds, at least 1"),
                (["--bundle", "empty"], "--bundle empty: found no bundle.json there; expected a folder made by"),
                (["--data-dir", "none"], "--data-dir none: found no such folder"),
                (["--json", "none/x.json"], "--json none/x.json: found no folder"),
                (["--output", "empty"], "--output empty is there already; expected a new folder")]:
            self.assertIn(sentence, self.run_script(*arguments, status=2))
        self.describe(glibc="9.0")
        self.assertRegex(self.run_script(status=2), r"its programs need glibc 9\.0 or later; this machine has glibc")
        self.assertEqual([*self.folder.glob("gpu-check-*")], [])


class Pack(ScriptTest):
    def test_scripts_are_packed_with_the_modules_they_import_and_the_scripts_they_start(self):
        listing = "import gpu_check_bundle; print(*(path.name for path in gpu_check_bundle.scripts()))"
        names = subprocess.run([sys.executable, "-B", "-c", listing], cwd=TOOLS, check=True, capture_output=True, text=True,
                               timeout=TIMEOUT_SECONDS).stdout.split()

        self.assertLessEqual({"gpu_check", "gpu_check_parts.py", "compare_pytorch.py", "compare_one_rank.py",
                              "pytorch_training.py", "pytorch_pipeline.py"}, set(names))
        self.assertNotIn("plot_metrics.py", names)

    def test_incomplete_builds_and_used_folders_are_refused_in_a_sentence(self):
        missing = {"src/revode": "found no program", "src/librevode_cuda.so": "found no plug-in for GPUs at .*REVODE_CUDA=ON",
                   "tests/backend/cuda_device_test": "found no tests at .*REVODE_TESTS=ON"}
        for path, sentence in missing.items():
            said = self.run_script("pack", "--build", "made", "bundle", status=2)
            self.assertRegex(said, f"^gpu_check: error: --build made: {sentence}.*\n$")
            write_program(self.folder / "made" / path, "exit 0")

        (self.folder / "used").mkdir()
        (self.folder / "used/file").write_text("")
        said = self.run_script("pack", "--build", "made", "used", status=2)

        self.assertEqual(said, "gpu_check: error: used is there and not empty; expected a new folder, which pack makes\n")
        self.assertFalse((self.folder / "bundle").exists())


if __name__ == "__main__":
    unittest.main()
