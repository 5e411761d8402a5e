#!/usr/bin/env python3
"""--trace: a JSON array that tells of every rank, in which no message arrives before it was sent."""
import json
import subprocess
from collections import Counter

import program

TRACED = ["--trace", "trace.json", "--trace-steps", "2", "--steps", "5", "--micro-batches", "4", "--schedule", "1f1b",
          "--slices-per-rank", "1"]


# Puts the clock of a process ahead of the others, as that of another host is, where the system lets us.
AHEAD = ["unshare", "--time", "--monotonic", "1000000"]


def may_shift_clocks():
    try:
        return subprocess.run([*AHEAD, "true"], stderr=subprocess.DEVNULL, timeout=20).returncode == 0
    except OSError:
        return False


class Trace(program.ProgramTest):
    def train_with_shifted_clocks(self, ranks, *arguments):
        """Rank 1 is ahead. (Nothing is sent between replicas, so that messages alone do not tell.)"""
        shift = AHEAD if may_shift_clocks() else []
        command = program.LAUNCHER[:1]
        for rank in range(ranks):
            command += [":"] if rank > 0 else []
            command += [program.LAUNCHER[1], "1", *(shift if rank == 1 else [])]
            command += [program.REVODE, *program.SMALL, "--output", "run", *arguments]
        done = subprocess.run(command, cwd=self.folder, capture_output=True, text=True, timeout=program.TIMEOUT_SECONDS)
        self.assertEqual(done.returncode, 0, done.stderr)

    def events(self, kind="X"):
        return [event for event in json.loads((self.folder / "trace.json").read_text()) if event["ph"] == kind]

    def expect_messages_in_order(self, events):
        def named(name):
            messages = {}
            for event in events:
                if event["name"] == name:
                    ranks = [event["pid"], event["args"]["peer"]]  # from, to
                    what = [event["args"][key] for key in ("step", "micro_batch", "slice", "message")]
                    messages[(*(ranks if name == "send" else ranks[::-1]), *what)] = event
            return messages
        sent, received = named("send"), named("receive")
        self.assertEqual(sent.keys(), received.keys())
        for key, receive in received.items():
            self.assertGreaterEqual(receive["ts"] + receive["dur"], sent[key]["ts"], key)
        return len(sent)

    def test_training_on_four_ranks_of_two_replicas(self):
        self.train_with_shifted_clocks(4, *TRACED, "--time-ranks", "2")

        events = self.events()
        self.assertEqual({e["args"]["step"] for e in events}, {4, 5})
        count = Counter((e["name"], e["pid"]) for e in events)
        for rank in range(4):
            self.assertEqual([count[name, rank] for name in ("forward", "backward")], [4, 4])
            self.assertEqual(count["allreduce", rank], 4)
            self.assertGreaterEqual(count["checkpoint", rank], 1)
            self.assertGreaterEqual(count["optimizer", rank], 4)
            self.assertGreaterEqual(count["wait", rank], 1)
            # The last checkpoint and best.h5, by the ranks of a replica; rank 0 gives them their names.
            self.assertGreaterEqual(count["write", rank], (4, 2, 0, 0)[rank])
            self.assertEqual(count["data", rank], 4 if rank in (0, 2) else 0)
            # What a replica takes, by the numbers of the mini-batch.
            self.assertEqual({e["args"]["micro_batch"] for e in events if e["pid"] == rank and e["name"] == "forward"},
                             {0, 2} if rank < 2 else {1, 3})
        # A step's messages: a state forward; a rebuilt state and an adjoint back.
        self.assertEqual(self.expect_messages_in_order(events), 2 * 4 * 3)
        self.assertLess(max(e["ts"] + e["dur"] for e in events), 1e6 * program.TIMEOUT_SECONDS)
        self.expect_threads_without_overlap(events)
        names = {e["pid"]: e["args"]["name"] for e in self.events("M") if e["name"] == "process_name"}
        self.assertEqual(len(names), 4)
        self.assertRegex(names[3], r"rank 3 \(.+\)")

    def expect_threads_without_overlap(self, events):
        """Else viewers draw them wrongly. Times are to the nanosecond."""
        ends = {}
        for event in sorted(events, key=lambda e: e["ts"]):
            thread = event["pid"], event["tid"]
            self.assertGreaterEqual(event["ts"] + 1e-3, ends.get(thread, 0), event)
            ends[thread] = event["ts"] + event["dur"]

    def test_bench_on_one_rank(self):
        self.run_program("bench", *program.NETWORK, "--batch-size", "4", *TRACED, "--steps", "2")

        events = self.events()
        self.assertEqual({e["args"]["step"] for e in events}, {3, 4})  # behind 2 to warm up
        self.assertEqual(len([e for e in events if e["name"] == "forward"]), 2 * 4)

    def test_what_cannot_be_written_is_told_before_training(self):
        self.expect_error(["--trace no/trace.json", "can't be written"], *program.SMALL, "--output", "run",
                          "--trace", "no/trace.json")
        self.assertFalse((self.folder / "run").exists())


if __name__ == "__main__":
    program.main()
