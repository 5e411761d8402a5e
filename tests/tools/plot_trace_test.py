#!/usr/bin/env python3
"""tools/plot_trace.py draws a step of a trace, and says in one sentence what it cannot draw. 77: no matplotlib."""
import json
import os
import re
import subprocess
import sys
import tempfile
import unittest
from contextlib import redirect_stdout
from io import StringIO
from pathlib import Path
from unittest.mock import patch

sys.dont_write_bytecode = True

PLOT = Path(__file__).resolve().parents[2] / "tools" / "plot_trace.py"


def plot(*arguments):
    return subprocess.run([sys.executable, PLOT, *arguments], capture_output=True, text=True, timeout=120)


def import_script():
    """The script as a module: a process for each picture would take a second."""
    sys.path.insert(0, str(PLOT.parent))
    import plot_trace
    return plot_trace


def exit_of(*arguments):
    """What the script in this process leaves with: None, or its error."""
    with patch.object(sys, "argv", ["plot_trace.py", *map(str, arguments)]), redirect_stdout(StringIO()):
        try:
            import_script().main()
        except SystemExit as end:
            return end.code
    return None


def make_events(hosts, steps=(7, 8, 9), saved=(9,), on_device=False):
    """A forward of 10 ms with micro-batch 41, one of 10 us with 42, a wait; a checkpoint in the steps that are saved. On
    devices these begin the first 5 ms later, behind a copy."""
    events = [{"name": "trace of revode", "ph": "M", "pid": 0, "args": {}}]
    for rank, host in enumerate(hosts):
        events.append({"name": "process_name", "ph": "M", "pid": rank, "tid": 0, "args": {"name": f"rank {rank} ({host})"}})
        for step in steps:
            bars = [("forward", 0, 10000, 41), ("forward", 10000, 10, 42), ("wait", 10010, 9990, None)]
            bars += [("checkpoint", 20000, 80000, None)] if step in saved else []
            for name, begin, length, number in bars:
                arguments = {"step": step} | ({} if number is None else {"micro_batch": number, "slice": rank})
                events.append({"name": name, "ph": "X", "pid": rank, "tid": 0, "ts": 1e6 * step + begin, "dur": length,
                               "args": arguments})
            for name, category, begin, length in [("copy_in", "copy", 0, 5000), ("forward", "device", 5000, 10000),
                                                  ("copy_out", "copy", 15000, 100)] if on_device else []:
                events.append({"name": name, "cat": category, "ph": "X", "pid": rank, "tid": 2, "ts": 1e6 * step + begin,
                               "dur": length, "args": {"step": step, "micro_batch": 41}})
            events.append({"name": "send", "ph": "X", "pid": rank, "tid": 1, "ts": 1e6 * step, "dur": 5e5,
                           "args": {"step": step}})
    return events


class PlotTrace(unittest.TestCase):
    def setUp(self):
        scratch = tempfile.TemporaryDirectory()
        self.addCleanup(scratch.cleanup)
        self.folder = Path(scratch.name)

    def trace_of(self, *arguments, **options):
        file = self.folder / "trace.json"
        file.write_text(json.dumps(make_events(*arguments, **options)))
        return file

    def test_usual_step_is_drawn_with_its_time_ranks_and_the_numbers_that_fit(self):
        picture = self.folder / "a.svg"

        result = plot(self.trace_of(["n0", "n0"]), "-o", picture)

        self.assertEqual(result.returncode, 0, result.stderr)
        texts = re.findall(r">\s*([^<>]+?)\s*</text>", picture.read_text())
        for words in ("step 8 of trace.json: 20.0 ms", "rank 0", "rank 1", "time (ms)", "forward", "wait"):
            self.assertIn(words, texts)
        self.assertEqual(texts.count("41"), 2)
        self.assertNotIn("42", texts)
        self.assertNotIn("checkpoint", texts)

    def test_devices_have_rows_of_their_own_below_their_hosts(self):
        plot_trace = import_script()
        figure = plot_trace.draw(plot_trace.Trace(self.trace_of(["n0", "n0"], on_device=True)), 8, None)
        axis, = figure.axes

        self.assertEqual([text.get_text() for text in axis.get_yticklabels()],
                         ["rank 0", "device", "copies", "rank 1", "device", "copies"])
        numbers = sorted((round(text.get_position()[0]), text.get_position()[1]) for text in axis.texts)
        self.assertEqual(numbers, [(5, 0), (5, 3), (10, 1), (10, 4)])  # ms, row
        self.assertEqual({text.get_text() for text in axis.get_legend().get_texts()},
                         {"forward", "wait", "copy_in", "copy_out"})
        plot_trace.plt.close(figure)

    def test_png_of_the_step_that_is_asked_for(self):
        picture = self.folder / "a.png"

        self.assertIsNone(exit_of(self.trace_of(["n0"]), "--step", "9", "--output", picture))

        self.assertEqual(picture.read_bytes()[:8], b"\x89PNG\r\n\x1a\n")

    def test_step_with_a_checkpoint_is_drawn_where_there_is_no_other(self):
        plot_trace = import_script()
        self.assertEqual(plot_trace.Trace(self.trace_of(["n0"], saved=(7, 8, 9))).usual_step(), 9)

    def test_hosts_are_named_where_there_are_several(self):
        plot_trace = import_script()
        self.assertEqual(plot_trace.Trace(self.trace_of(["n0", "n1"])).labels([0, 1]), ["rank 0 (n0)", "rank 1 (n1)"])
        self.assertEqual(plot_trace.Trace(self.trace_of(["n0", "n0"])).labels([0, 1]), ["rank 0", "rank 1"])

    def test_what_cannot_be_drawn_is_one_clear_sentence(self):
        plot_trace = import_script()
        for words, content in (("is no trace", "{"), ("no list of events", "{}"), ("tells of no step", "[]"),
                               ("an event lacks 'args'", '[{"name": "wait", "ph": "X"}]')):
            (self.folder / "bad.json").write_text(content)
            with self.assertRaisesRegex(plot_trace.PlotError, words):
                plot_trace.Trace(self.folder / "bad.json")
        for words, arguments in (("no such file", [self.folder / "absent.json", "-o", self.folder / "x.png"]),
                                 ("--step 5: .* holds the steps 7, 8, 9",
                                  [self.trace_of(["n0"]), "--step", "5", "-o", self.folder / "x.png"])):
            self.assertRegex(exit_of(*arguments), "^plot_trace: error: .*" + words + ".*$")
            self.assertFalse((self.folder / "x.png").exists())


if __name__ == "__main__":
    if "needs matplotlib" in plot("--help").stderr:
        print("SKIPPED: python3-matplotlib is not installed")
        sys.exit(77)
    # As the script does: the first python3 on the PATH need not be Debian's, to which matplotlib belongs.
    try:
        import matplotlib  # noqa: F401
    except ImportError:
        os.execv("/usr/bin/python3", ["/usr/bin/python3", *sys.argv])
    unittest.main()
