#!/usr/bin/env python3
"""tools/depth_study.py with a program that is a script: what it asks, what it makes of the plans, and what it draws."""
import csv
import json
import subprocess
import sys
import tempfile
import unittest
from pathlib import Path

sys.dont_write_bytecode = True

TOOL = Path(__file__).resolve().parents[2] / "tools/depth_study.py"

# Replicas do 10 images a second each, time slices 8; from 1,000 layers on a rank has no room for the whole network.
REVODE = f"""#!{sys.executable}
import json, sys
words = sys.argv[1:]
option = lambda name: words[words.index(name) + 1] if name in words else None
if option("--widths") == "odd":
    sys.exit("revode: error: --widths odd: expected three numbers")
ranks, depth = int(option("--ranks")), int(option("--depth"))
limited = option("--memory-limit") is not None
if limited and depth >= 1000 and option("--time-ranks") == "1":
    sys.exit("revode: error: nothing fits into --memory-limit " + option("--memory-limit"))
time = ranks if option("--data-ranks") == "1" or (limited and depth >= 1000) else 1
speed = (10 if time == 1 else 8) * ranks
plan = {{"images_per_second": speed, "step_seconds": int(option("--batch-size")) / speed, "time_ranks": time,
        "data_ranks": ranks // time, "micro_batches": 4, "schedule": "1f1b", "slices_per_rank": 1, "bubble": 0.1,
        "gradient_sum_seconds": 0, "update_seconds": 0, "ranks": [{{"memory_bytes": n << 20}} for n in range(1, ranks + 1)]}}
json.dump({{"best": [plan, None]}}, open(option("--json"), "w"))
"""


class DepthStudy(unittest.TestCase):
    def setUp(self):
        scratch = tempfile.TemporaryDirectory()
        self.addCleanup(scratch.cleanup)
        self.folder = Path(scratch.name)
        (self.folder / "revode").write_text(REVODE)
        (self.folder / "revode").chmod(0o755)

    def study(self, *arguments):
        command = [sys.executable, TOOL, "--revode", self.folder / "revode", "--machine", "m.json", "--output",
                   self.folder / "study", "--depths", "74,1202", "--ranks", "2,4", *arguments]
        return subprocess.run([*map(str, command)], capture_output=True, text=True, timeout=120)

    def test_plans_are_tabled_and_drawn(self):
        done = self.study("--memory-limit", "1G", "--batch-size", "8")
        self.assertEqual(done.returncode, 0, done.stderr)

        with open(self.folder / "study/depth.csv", newline="") as file:
            lines = list(csv.DictReader(file))
        of = {(line["depth"], line["ranks"], line["kind"]): line for line in lines}
        self.assertEqual(len(of), 2 * 2 * 3 - 2)
        self.assertEqual(float(of["74", "4", "both"]["efficiency"]), 1)
        slices = of["1202", "4", "both"]
        self.assertEqual(float(slices["efficiency"]), 0.8)
        self.assertEqual((slices["time_ranks"], slices["data_ranks"], slices["memory_bytes"]), ("4", "1", str(4 << 20)))
        self.assertEqual(float(slices["step_seconds"]), 8 / 32)
        result = json.loads((self.folder / "study/depth.json").read_text())
        self.assertEqual([(left["depth"], left["ranks"], left["kind"]) for left in result["left_out"]],
                         [(1202, 2, "replicas alone"), (1202, 4, "replicas alone")])
        self.assertIn("--memory-limit 1G", result["left_out"][0]["reason"])
        picture = (self.folder / "study/depth.svg").read_text()
        for words in ("depth 74", "depth 1,202", "replicas alone", "4 × 1", "1 × 4"):
            self.assertIn(f">{words}<", picture)
        self.assertEqual((self.folder / "study/depth.png").read_bytes()[:8], b"\x89PNG\r\n\x1a\n")

    def test_what_is_no_matter_of_room_is_an_error(self):
        done = self.study("--", "--widths", "odd")
        self.assertEqual(done.returncode, 1)
        self.assertEqual(done.stderr.strip().splitlines()[-1].count("depth_study: error: "), 1)
        self.assertIn("--widths odd: expected three numbers", done.stderr)
        self.assertFalse((self.folder / "study").exists())

    def test_a_program_that_is_not_there(self):
        (self.folder / "revode").unlink()
        done = self.study()
        self.assertEqual((done.returncode, done.stderr.count("\n")), (1, 1))
        self.assertIn("No such file", done.stderr)


if __name__ == "__main__":
    if "needs matplotlib" in subprocess.run([sys.executable, TOOL, "--help"], capture_output=True, text=True).stderr:
        print("SKIPPED: python3-matplotlib is not installed")
        sys.exit(77)
    unittest.main()
