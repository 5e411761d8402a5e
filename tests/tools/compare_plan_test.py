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

sys.dont_write_bytecode = True
TOOLS = Path(__file__).resolve().parents[2] / "tools"
TOOL = TOOLS / "compare_plan.py"
sys.path.insert(0, str(TOOLS))
from trace_replay import TraceError, replay  # noqa: E402

# A step is planned to take a second for each micro-batch and rank, and takes a tenth more; in the second round two tenths.
REVODE = f"""#!{sys.executable}
import json, os, sys
words = sys.argv[1:]
option = lambda name: words[words.index(name) + 1] if name in words else None
ranks = int(os.environ.get("RANKS", "1")) if words[0] == "bench" else int(option("--ranks"))
with open(os.environ["LOG"], "a") as log:
    log.write(json.dumps([ranks, *words]) + "\\n")
planned = float(ranks * int(option("--micro-batches")))
MB = 2 ** 20
uses = dict(weights=MB, gradients=2 * MB, momentum=MB, packed_weights=8 * MB, snapshot=0, state=3 * MB, stash=MB)
if words[0] == "plan":
    machine = json.load(open(option("--machine")))
    assert machine == (1 if "--partition" in words else ranks), (machine, ranks)
    uses["snapshot"] = 2 * MB
    rank = {{"memory_bytes": sum(uses.values()), "memory_bytes_by_use": uses, "message_bytes": 1000}}
    print(json.dumps({{"step_seconds": planned, "ranks": [rank] * ranks}}))
else:
    if os.environ.get("FAIL"):
        sys.exit("revode: error: no")
    if option("--machine-file"):
        json.dump(ranks, open(option("--machine-file"), "w"))
    if not option("--trace"):
        off = int(os.environ.get("OFF", "0"))
        of_ranks = {{use: [size] * ranks for use, size in (uses | {{"data": 5 * MB}}).items()}}
        of_ranks["stash"][-1] -= off
        print(json.dumps({{"peak_bytes_by_use": of_ranks, "message_bytes": [1000] * (ranks - 1) + [1000 + 2 * off],
                           "peak_memory_bytes": [(16 + 5 + 30 + rank) * MB for rank in range(ranks)]}}))
        sys.exit(0)
    work = {{"ph": "X", "pid": 0, "dur": 1e6, "args": {{"step": 2, "slice": 0, "micro_batch": 0}}}}
    json.dump([work | {{"name": "forward", "ts": 0}}, work | {{"name": "backward", "ts": 1.5e6}}], open(option("--trace"), "w"))
    with open(os.environ["LOG"] + ".rounds", "a") as log:
        log.write("x" if ranks == 1 else "")
    number = len(open(os.environ["LOG"] + ".rounds").read())
    print(json.dumps({{"step_seconds": (1 + number / 10) * planned}}))
"""
MPIEXEC = '#!/bin/sh\nRANKS=$2; export RANKS; shift 2; exec "$@"\n'


def traced(rank, name, at, micro_batch, begin, end):
    """A piece of work on a slice, from one second to another."""
    return {"ph": "X", "pid": rank, "name": name, "ts": 1e6 * begin, "dur": 1e6 * (end - begin),
            "args": {"step": 3, "slice": at, "micro_batch": micro_batch}}


class TraceReplay(unittest.TestCase):
    def test_work_waits_for_its_rank_and_for_what_it_follows(self):
        # Two slices on two ranks; messages that take a second keep the second rank waiting, and the first.
        events = [traced(0, "forward", 0, 0, 0, 1), traced(0, "forward", 0, 1, 1, 2), traced(1, "forward", 1, 0, 2, 4),
                  traced(1, "forward", 1, 1, 4, 6), traced(1, "backward", 1, 1, 6, 9), traced(1, "backward", 1, 0, 9, 12),
                  traced(0, "backward", 0, 1, 10, 11), traced(0, "backward", 0, 0, 13, 14),
                  {"ph": "M", "pid": 0, "name": "process_name", "args": {}},
                  traced(0, "optimizer", None, None, 14, 15)]
        [(measured, replayed)] = replay(events)
        self.assertAlmostEqual(measured, 14)
        self.assertAlmostEqual(replayed, 1 + 2 * 2 + 2 * 3 + 1)

    def test_what_can_not_be_is_said(self):
        with self.assertRaises(TraceError):
            replay([traced(0, "forward", 1, 0, 0, 1)])


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
            # Half a second is lost between two pieces of work of a second.
            self.assertAlmostEqual(row["measured_over_replayed"]["median"], 1.25)
        self.assertRegex(done.stdout, r"1\.15 \(1\.10 \.\. 1\.20\) +1\.25 \(1\.25 \.\. 1\.25\)")

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

    def test_memory_and_messages_are_compared_byte_for_byte(self):
        for off in (0, 8):
            done = self.run_tool("--memory", "--json", self.folder / "rows.json", OFF=str(off))
            self.assertEqual(done.returncode, 0, done.stderr)
            rows = json.loads((self.folder / "rows.json").read_text())
            self.assertEqual([len(row["bytes_beyond"]) for row in rows], [1, 2, 2, 2, 2, 4, 4, 8, 8])
            for row in rows:
                others = [0] * (len(row["bytes_beyond"]) - 1)
                self.assertEqual(row["array_bytes_off"], [*others, off])
                self.assertEqual(row["message_bytes_off"], [*others, 2 * off])
                self.assertEqual(row["bytes_beyond"][0], 30 * 2 ** 20)
            self.assertRegex(done.stdout, rf"(?m)^8 x 1 1f1b +4 +{off} +{2 * off} +16 +30 to 37$")

    def test_what_goes_wrong_is_one_sentence(self):
        for arguments, variables, words in [([], {"FAIL": "1"}, "revode: error: no"),
                                            (["--micro-batches", "four"], {}, "--micro-batches four"),
                                            (["--rounds", "0"], {}, "at least one round"),
                                            (["--memory", "--rounds", "2"], {}, "--memory times nothing"),
                                            (["--revode", "nowhere"], {}, "nowhere: there is no such program")]:
            with self.subTest(words):
                done = self.run_tool(*arguments, **variables)
                self.assertEqual(done.returncode, 1)
                self.assertIn(words, done.stderr.splitlines()[-1])
                self.assertNotIn("Traceback", done.stderr)


if __name__ == "__main__":
    unittest.main()
