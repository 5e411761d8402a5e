#!/usr/bin/env python3
"""tools/compare_plan.py with a program that is a script: what it starts, and what it makes of the figures."""
import json
import os
import stat
import subprocess
import sys
import tempfile
import unittest
from pathlib import Path

TOOL = Path(__file__).resolve().parents[2] / "tools/compare_plan.py"

# A step is planned to take a second for each micro-batch and rank, and takes a tenth more; in the second round two tenths.
REVODE = f"""#!{sys.executable}
import json, os, sys
words = sys.argv[1:]
option = lambda name: words[words.index(name) + 1] if name in words else None
ranks = int(os.environ.get("RANKS", "1")) if words[0] == "bench" else int(option("--ranks"))
with open(os.environ["LOG"], "a") as log:
    log.write(json.dumps([ranks, *words]) + "\\n")
planned = float(ranks * int(option("--micro-batches")))
if words[0] == "plan":
    machine = json.load(open(option("--machine")))
    assert machine == ranks, (machine, ranks)
    print(json.dumps({{"step_seconds": planned, "ranks": [{{"memory_bytes": 2 ** 20}}, {{"memory_bytes": 3 * 2 ** 20}}]}}))
else:
    if os.environ.get("FAIL"):
        sys.exit("revode: error: no")
    json.dump(ranks, open(option("--machine-file"), "w"))
    with open(os.environ["LOG"] + ".rounds", "a") as log:
        log.write("x" if ranks == 1 else "")
    number = len(open(os.environ["LOG"] + ".rounds").read())
    print(json.dumps({{"step_seconds": (1 + number / 10) * planned, "peak_memory_bytes": [4 * 2 ** 20, 5 * 2 ** 20]}}))
"""
MPIEXEC = '#!/bin/sh\nRANKS=$2; export RANKS; shift 2; exec "$@"\n'


class ComparePlan(unittest.TestCase):
    def setUp(self):
        scratch = tempfile.TemporaryDirectory(prefix="revode-test-")
        self.addCleanup(scratch.cleanup)
        self.folder = Path(scratch.name)
        for name, text in [("revode", REVODE), ("mpiexec", MPIEXEC)]:
            (self.folder / name).write_text(text)
            (self.folder / name).chmod(stat.S_IRWXU)

    def run_tool(self, *arguments, **variables):
        return subprocess.run([sys.executable, TOOL, "--revode", self.folder / "revode", "--mpiexec", self.folder / "mpiexec",
                               "--micro-batches", "4", "--cores", "2", *arguments], capture_output=True, text=True, timeout=60,
                              env=os.environ | {"LOG": str(self.folder / "log"), **variables})

    def test_ratios_are_those_of_the_same_round(self):
        done = self.run_tool("--rounds", "2", "--json", self.folder / "rows.json")
        self.assertEqual(done.returncode, 0, done.stderr)
        rows = json.loads((self.folder / "rows.json").read_text())
        self.assertEqual(len(rows), 6)
        for row in rows:
            ratio = row["measured_over_planned"]
            self.assertAlmostEqual(ratio["least"], 1.1)
            self.assertAlmostEqual(ratio["median"], 1.15)
            self.assertAlmostEqual(ratio["most"], 1.2)
            self.assertEqual(row["memory_bytes_planned"], 3 * 2 ** 20)
            self.assertEqual(row["peak_memory_bytes"], 5 * 2 ** 20)
        self.assertIn("1.15 (1.10 .. 1.20)     3, 5", done.stdout)

    def test_a_plan_is_by_the_layers_of_its_bench_whose_ranks_share_the_cores(self):
        self.run_tool("--rounds", "1")
        calls = [json.loads(line) for line in (self.folder / "log").read_text().splitlines()]
        benches = [call for call in calls if call[1] == "bench"]
        self.assertEqual(len(benches), 6)
        for call in benches:
            self.assertEqual(call[call.index("--threads") + 1], str(2 // call[0]))
        planned = [call for call in calls if call[1] == "plan"]
        self.assertEqual([call[0] for call in planned], [1, 2, 2, 2, 2, 2])
        # What is planned is what was benched.
        for plan, bench in zip(planned, benches):
            self.assertEqual(plan[plan.index("--machine") + 2:], bench[bench.index("--steps") + 2:bench.index("--machine-file")])

    def test_what_goes_wrong_is_one_sentence(self):
        for arguments, variables, words in [([], {"FAIL": "1"}, "revode: error: no"),
                                            (["--micro-batches", "four"], {}, "--micro-batches four"),
                                            (["--rounds", "0"], {}, "at least one round"),
                                            (["--revode", "nowhere"], {}, "nowhere: there is no such program")]:
            with self.subTest(words):
                done = self.run_tool(*arguments, **variables)
                self.assertEqual(done.returncode, 1)
                self.assertIn(words, done.stderr.splitlines()[-1])
                self.assertNotIn("Traceback", done.stderr)


if __name__ == "__main__":
    unittest.main()
