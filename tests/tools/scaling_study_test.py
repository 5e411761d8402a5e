#!/usr/bin/env python3
"""tools/scaling_study.py with a program and launchers that only pretend: what it starts, keeps, refuses and writes."""
import contextlib
import csv
import io
import json
import os
import subprocess
import sys
import tempfile
import unittest
from pathlib import Path
from unittest.mock import patch

sys.dont_write_bytecode = True

REPOSITORY = Path(__file__).resolve().parents[2]
sys.path.insert(0, str(REPOSITORY / "tools"))
import scaling_study  # noqa: E402

# bench and plan: T time ranks and D replicas take 1/(T D) of the work and a tenth of a second for each time rank.
PROGRAM = """#!{python} -IS
import json, os, sys
words = sys.argv[1:]
with open(os.path.join({folder!r}, "calls"), "a") as calls:
    calls.write(json.dumps(words) + chr(10))
revision = open(os.path.join({folder!r}, "revision")).read()
if words == ["--version"]:
    sys.exit(print("revode 0.1.0, revision " + revision))
options = dict(zip(words[1::2], words[2::2]))
T, D = int(options["--time-ranks"]), int(options["--data-ranks"])
if os.path.exists(os.path.join({folder!r}, "broken-%dx%d" % (T, D))):
    sys.exit("revode: error: rank 1 has no luck")
blocks = sum(map(int, options.get("--blocks", "7,6,5").split(",")))
step = blocks * int(options["--batch-size"]) / 100 / T / D + 0.1 * (T - 1)
result = {{"command": words[0], "step_seconds": step, "images_per_second": 1 / step, "schedule": "1f1b",
          "slices_per_rank": 1}}
if words[0] == "plan":
    result.update(bubble=0.1, ranks=[{{"memory_bytes": 2 << 20}}])
else:
    result.update(revision=revision, processor="test", backend="cpu", peak_memory_bytes=[3 << 20] * (T * D),
                  phases=[{{"rank": r, "phase": "waiting", "share": 0.2}} for r in range(T * D)])
if "--machine-file" in options:
    # Of benches that follow each other the first takes longest, and the last is in between.
    seconds = [3, 1, 2][int(options["--machine-file"].split("-")[-1].split(".")[0]) - 1]
    layer = {{"layer": "block", "images": 8, "forward_seconds": seconds, "back_seconds": 0}}
    machine = {{"threads": 1, "micro_batch": 8, "ranks": [{{"layers": [layer]}}]}}
    json.dump(machine, open(options["--machine-file"], "w"))
json.dump(result, open(options["--json"], "w"))
"""
MPIRUN = """#!/bin/sh
while case $1 in */revode) false ;; esac; do shift; done
"$@"
status=$?
[ $status = 0 ] || printf '%s\\n' ----- 'mpirun: a process failed' ----- >&2
exit $status
"""
# Runs a job on the spot, with what SLURM would tell it.
SBATCH = """#!/bin/sh
for word; do
  case $word in
    --ntasks=*) export SLURM_NTASKS=${word#*=} ;;
    --cpus-per-task=*) export SLURM_CPUS_PER_TASK=${word#*=} ;;
    --output=*) log=${word#*=} ;;
  esac
done
SLURM_JOB_NUM_NODES=1 REVODE_LAUNCHER=mpirun bash >"$log" 2>&1
"""
NETWORK = ["--batch-size", "8", "--micro-batches", "4"]


class ScalingStudy(unittest.TestCase):
    def setUp(self):
        scratch = tempfile.TemporaryDirectory()
        self.addCleanup(scratch.cleanup)
        self.folder = Path(scratch.name)
        self.study = self.folder / "study"
        for name, text in (("revode", PROGRAM.format(python=sys.executable, folder=scratch.name)), ("mpirun", MPIRUN),
                           ("sbatch", SBATCH)):
            (self.folder / name).write_text(text)
            (self.folder / name).chmod(0o755)
        (self.folder / "revision").write_text("one")
        (self.folder / "calls").touch()

    def run_study(self, *options, network=NETWORK, machine_benches=1):
        """(exit status, what it said); figures have a test of their own."""
        words = ["scaling_study.py", "--output", self.study, "--revode", self.folder / "revode", "--mpirun",
                 self.folder / "mpirun", "--threads", "1", *options, "--", *network]
        said = io.StringIO()
        with patch.object(sys, "argv", list(map(str, words))), patch.object(scaling_study.Study, "draw", return_value=0), \
                patch.object(scaling_study, "MACHINE_BENCHES", machine_benches), contextlib.redirect_stdout(said), \
                contextlib.redirect_stderr(said), self.assertRaises(SystemExit) as end:
            scaling_study.main()
        return end.exception.code, said.getvalue()

    def calls(self, command="bench"):
        """Options of the program's calls so far, without that for the machine file; forgets them."""
        lines = [json.loads(line) for line in (self.folder / "calls").read_text().splitlines()]
        (self.folder / "calls").write_text("")
        calls = [dict(zip(words[1::2], words[2::2])) for words in lines if words[0] == command]
        return [call for call in calls if "--machine-file" not in call]

    def grids(self, calls):
        return [f"{call['--time-ranks']}x{call['--data-ranks']}" for call in calls]

    def summary(self):
        return json.loads((self.study / "summary.json").read_text())

    def test_repetitions_go_there_and_back_and_a_shared_grid_is_measured_once(self):
        status, said = self.run_study("--ranks", "1,2", "--repetitions", "2")

        self.assertEqual(status, 0, said)
        self.assertEqual(self.grids(self.calls()), ["1x1", "1x2", "2x1", "2x1", "1x2", "1x1"])
        curves = {curve["name"]: [point["grid"] for point in curve["points"]] for curve in self.summary()["series"]}
        self.assertEqual(curves, {"Nx1": ["1x1", "2x1"], "1xN": ["1x1", "1x2"]})

    def test_interrupted_study_goes_on_with_what_is_missing(self):
        self.run_study("--ranks", "1,2", "--repetitions", "1")
        self.calls()
        (self.study / "2x1-r1.json").rename(self.study / "2x1-r1.json.part")

        status, _ = self.run_study("--ranks", "1,2", "--repetitions", "1")

        self.assertEqual(status, 0)
        self.assertEqual(self.grids(self.calls()), ["2x1"])

    def test_other_revision_options_and_threads_are_refused_in_one_sentence(self):
        self.run_study("--ranks", "1", "--repetitions", "1")
        self.calls()

        for words, options in (("options", {"network": ["--batch-size", "9"]}), ("study", {"study": "data"}),
                               ("threads", {"threads": "2"})):
            network = options.pop("network", NETWORK)
            status, said = self.run_study("--ranks", "1", *(w for o in options.items() for w in (f"--{o[0]}", o[1])),
                                          network=network)
            self.assertEqual(status, 2)
            self.assertRegex(said, f"error: .* holds a study with {words} .*; expected the same, or another folder")
        (self.folder / "revision").write_text("two")
        status, said = self.run_study("--ranks", "1")
        self.assertEqual(status, 2)
        self.assertRegex(said, "version 'revode 0.1.0, revision one', now it is 'revode 0.1.0, revision two'")
        self.assertEqual(self.calls(), [])

    def test_measurement_of_another_processor_is_not_kept(self):
        self.run_study("--ranks", "1", "--repetitions", "1")
        facts = json.loads((self.study / "study.json").read_text())
        (self.study / "study.json").write_text(json.dumps({**facts, "processor": "other"}))

        status, said = self.run_study("--ranks", "1", "--repetitions", "2")

        self.assertEqual(status, 2)
        self.assertIn("with processor 'other', on 1x1 it is 'test'", said)
        self.assertFalse((self.study / "1x1-r2.json").exists())

    def test_table_has_a_line_a_measurement_with_speed_up_and_plan(self):
        self.run_study("--ranks", "1,2", "--grids", "time", "--repetitions", "2")

        lines = list(csv.DictReader((self.study / "study.csv").read_text().splitlines()))
        self.assertEqual([line["ranks"] + ":" + line["repetition"] for line in lines], ["1:1", "1:2", "2:1", "2:2"])
        step = 18 * 8 / 100
        gain = step / (step / 2 + 0.1)
        for name, value in (("step_seconds", step / 2 + 0.1), ("step_seconds_median", step / 2 + 0.1), ("speed_up", gain),
                            ("efficiency_percent", 50 * gain), ("waiting_percent", 20), ("waiting_percent_planned", 10),
                            ("memory_mib", 3), ("memory_mib_planned", 2), ("speed_up_planned", gain)):
            self.assertAlmostEqual(float(lines[2][name]), value, 5, name)

    def test_weak_in_depth_multiplies_blocks_by_time_ranks(self):
        self.run_study("--study", "depth", "--ranks", "1,4", "--repetitions", "1",
                       network=[*NETWORK, "--blocks", "3,2,1", "--widths", "4,4,4"])

        lines = (self.folder / "calls").read_text()
        self.assertEqual([(call["--blocks"], call["--batch-size"]) for call in self.calls()],
                         [("3,2,1", "8"), ("12,8,4", "8")])
        planned = [json.loads(line) for line in lines.splitlines() if line.startswith('["plan"')]
        self.assertIn("12,8,4", planned[1])
        step = 6 * 8 / 100
        on_four = self.summary()["series"][0]["points"][1]
        self.assertAlmostEqual(on_four["measured"]["efficiency"]["median"], step / (step + 0.3))

    def test_weak_in_data_multiplies_batch_and_micro_batches_by_replicas(self):
        self.run_study("--study", "data", "--ranks", "1,4", "--repetitions", "1")

        self.assertEqual([(call["--batch-size"], call["--micro-batches"], call["--data-ranks"]) for call in self.calls()],
                         [("8", "4", "1"), ("32", "16", "4")])

    def test_failure_is_named_and_the_rest_goes_on(self):
        (self.folder / "broken-2x1").touch()
        (self.study).mkdir()
        (self.study / "machine.json").write_text('{"threads": 1}')

        status, said = self.run_study("--ranks", "1,2,4", "--grids", "time", "--repetitions", "1")

        self.assertEqual(status, 1)
        self.assertRegex(said, "failed: .*mpirun -n 2 .*revode bench .* status 1: revode: error: rank 1 has no luck\n")
        self.assertEqual(self.grids(self.calls()), ["1x1", "2x1", "4x1"])
        self.assertEqual([point["grid"] for point in self.summary()["series"][0]["points"]], ["1x1", "4x1"])

    def test_plans_are_by_the_layers_that_took_the_median(self):
        self.run_study("--ranks", "1,2", "--repetitions", "1", machine_benches=3)

        [layer] = json.loads((self.study / "machine.json").read_text())["ranks"][0]["layers"]
        self.assertEqual(layer["forward_seconds"], 2)

    def test_planned_only_measures_nothing(self):
        machine = self.folder / "machine.json"
        machine.write_text('{"threads": 1}')

        status, said = self.run_study("--planned-only", "--machine", machine, "--ranks", "8,4096", "--grids", "8xN",
                                      network=[*NETWORK, "--steps", "3"])

        self.assertEqual(status, 0, said)
        plans = self.calls("plan")
        self.assertEqual(self.grids(plans), ["8x1", "8x512"])
        self.assertNotIn("--steps", plans[0])
        points = self.summary()["series"][0]["points"]
        self.assertEqual([point["measured"] for point in points], [{}, {}])
        self.assertIsNotNone(points[1]["planned"]["efficiency"])

    def test_slurm_measures_each_grid_in_a_job(self):
        with patch.dict(os.environ, {"PATH": f"{self.folder}:{os.environ['PATH']}"}):
            status, said = self.run_study("--launcher", "slurm", "--ranks", "1,2", "--grids", "data", "--repetitions", "1")

        self.assertEqual(status, 0, said)
        self.assertEqual([(call["--data-ranks"], call["--threads"]) for call in self.calls()], [("1", "1"), ("2", "1")])
        self.assertEqual(list(self.study.glob("*.log")), [])

    def test_bad_input_is_one_sentence(self):
        for words, options, network in (("--grids 2y2: found '2y2'; expected", ["--grids", "2y2"], NETWORK),
                                        ("--grids 3xN: 3xN is on none of --ranks", ["--grids", "3xN"], NETWORK),
                                        ("--ranks 0: expected some whole numbers", ["--ranks", "0"], NETWORK),
                                        ("Nx1 in a study that is weak", ["--study", "data", "--grids", "time"], NETWORK),
                                        (r"--blocks \(left out\): expected 3 whole numbers", ["--study", "depth"], NETWORK),
                                        (r"--widths \(left out\)", ["--study", "depth"], ["--blocks", "1,1,1"]),
                                        ("found --threads behind --", [], ["--threads", "2"]),
                                        ("--planned-only without --machine", ["--planned-only"], NETWORK),
                                        ("holds no study.json", ["--plot-only"], NETWORK)):
            status, said = self.run_study(*options, network=network)
            self.assertEqual(status, 2)
            self.assertRegex(said, f"^scaling_study: error: .*{words}.*\n$")
        self.assertEqual(self.calls(), [])

    def test_more_ranks_than_cores_are_told_once(self):
        _, said = self.run_study("--ranks", "1,4096", "--grids", "1x1,1x4096", "--repetitions", "1")

        self.assertEqual(said.count("4096 ranks of 1 threads share"), 1)

    def test_figures_name_axes_and_curves(self):
        self.run_study("--ranks", "1,2", "--repetitions", "1")
        picture = self.study / "scaling.svg"

        draw = [sys.executable, REPOSITORY / "tools" / "scaling_figures.py", self.study / "summary.json", "-o", picture]
        done = subprocess.run(draw, capture_output=True, text=True, timeout=120)

        if done.returncode == scaling_study.NO_MATPLOTLIB:
            self.skipTest("python3-matplotlib is not installed")
        self.assertEqual(done.returncode, 0, done.stderr)
        for words in ("speed-up over 1 rank", "efficiency (%)", "replicas (1 × N)", "planned", "ideal"):
            self.assertIn(words, picture.read_text(encoding="utf-8"))


if __name__ == "__main__":
    unittest.main()
