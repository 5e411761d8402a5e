#!/usr/bin/env python3
"""The program with --backend cuda. REVODE_CUDA_PLUGIN names a plug-in whose GPU is a device in host memory, REVODE_IDLE_PLUGIN
one whose GPU does nothing."""
import json
import os
from collections import Counter
from unittest import mock

import program
from program import NETWORK, SMALL


class Cuda(program.ProgramTest):
    def run_json(self, command, *arguments, ranks=None):
        done = self.run_program(command, *NETWORK, "--image-size", "16", "--backend", "cuda", *arguments, "--json",
                                "result.json", ranks=ranks)
        return json.loads((self.folder / "result.json").read_text()), done

    def test_training_has_the_same_bytes_on_any_grid_and_says_what_the_device_holds(self):
        network = ["--batch-size", "8", "--micro-batches", "4", "--steps", "3", "--augment", "on", "--train-fraction", "0.01"]
        files = []
        for name, ranks, grid in [("1", None, []), ("2", 2, ["--time-ranks", "2"]), ("1x2", 2, ["--data-ranks", "2"])]:
            result, done = self.run_json("train", *network, *grid, "--output", name, ranks=ranks)
            files.append((self.folder / name / "latest.h5").read_bytes())
            self.assertEqual(len(result["device_memory_bytes"]), ranks or 1)
            self.assertGreater(min(result["device_memory_bytes"]), 0)
            self.assertIn("on its device", done.stdout)
        self.assertEqual(files[1], files[0])
        self.assertEqual(files[2], files[0])

    def test_auto_takes_the_device_where_every_rank_has_one(self):
        done = self.run_program("train", *SMALL, "--steps", "1", "--output", "run", ranks=2)
        self.assertIn("a device in host memory", done.stdout)
        self.assertIn("messages between ranks: staged through page-locked memory", done.stdout)

    def test_messages_between_memories_of_devices_change_no_bytes(self):
        files = []
        for on in ("0", "1"):
            with mock.patch.dict(os.environ, REVODE_DEVICE_MESSAGES=on):
                done = self.run_program("train", *SMALL, "--backend", "cuda", "--steps", "2", "--time-ranks", "2",
                                        "--output", on, ranks=2)
                self.assertIn("from device memory" if on == "1" else "staged through page-locked memory", done.stdout)
                files.append((self.folder / on / "latest.h5").read_bytes())
        self.assertEqual(files[1], files[0])

    def test_devices_of_different_kinds_are_refused(self):
        with mock.patch.dict(os.environ, REVODE_HOST_DEVICES_DIFFER="1"):
            self.expect_error(["the device", "another device in host memory", "rank 1", "same kind"], *NETWORK,
                              "--backend", "cuda", ranks=2)

    def test_verify_passes_in_each_precision(self):
        for precision, ranks in [("fp32", 2), ("bf16", None)]:
            with self.subTest(precision):
                result, _ = self.run_json("verify", "--blocks", "1,1,1", "--precision", precision, "--batch-size", "4",
                                          ranks=ranks)
                self.assertTrue(result["passed"], result)

    def test_bench_tells_what_the_device_had_to_do(self):
        result, done = self.run_json("bench", "--batch-size", "4", "--steps", "2", "--micro-batches", "2", "--machine-file",
                                     "machine.json", ranks=2)
        self.assertEqual(json.loads((self.folder / "machine.json").read_text())["devices"], 2)
        self.assertEqual(len(result["device_memory_bytes"]), 2)
        self.assertEqual([each["rank"] for each in result["device_work"]], [0, 1])
        for each in result["device_work"]:
            self.assertGreater(each["launches"], 0)
            self.assertEqual(each["host_waits"], 1)
        self.assertEqual(result["device_bytes_by_use"].keys(), result["peak_bytes_by_use"].keys())
        self.assertIn("device of rank", done.stdout)
        for rank in range(2):
            phases = [each for each in result["phases"] if each["rank"] == rank]
            self.assertLessEqual(sum(each["seconds"] for each in phases), 1.05 * result["step_seconds"])
            self.assertGreater(sum(each["seconds"] for each in phases if each["phase"] != "waiting"), 0)

    def work_of_ranks(self, micro_batches, *arguments, ranks=None):
        """What the devices had to do in a step."""
        result, _ = self.run_json("bench", "--batch-size", "4", "--steps", "2", "--micro-batches", str(micro_batches),
                                  "--schedule", "1f1b", *arguments, ranks=ranks)
        return result["device_work"]

    def test_the_host_waits_once_a_step_however_many_micro_batches_there_are(self):
        for micro_batches, arguments in [(1, []), (4, []), (4, ["--schedule", "gpipe"]), (4, ["--precision", "bf16"])]:
            with self.subTest(micro_batches=micro_batches, arguments=arguments):
                work, = self.work_of_ranks(micro_batches, *arguments)
                self.assertEqual(work["host_waits"], 1)
                # What the sweep found, sums out of range, row sums; digests of weights and momentum, noted and seen.
                self.assertEqual(work["copies_to_host"], 3 + 2)

    def test_a_trace_costs_three_short_waits_a_step(self):
        work, = self.work_of_ranks(4, "--trace", "trace.json")
        self.assertEqual(work["host_waits"], 1 + 3)

    def test_the_host_waits_once_more_for_replicas_and_fetches_what_is_sent(self):
        # The first stage is cut: its neighbours exchange a block each.
        cut = ["--blocks", "4,1,1", "--partition", "uniform"]
        for time_ranks, data_ranks in [(2, 1), (1, 2), (2, 2)]:
            work = self.work_of_ranks(4, *cut, "--time-ranks", str(time_ranks), "--data-ranks", str(data_ranks),
                                      ranks=time_ranks * data_ranks)
            for each in work:
                with self.subTest(time_ranks=time_ranks, data_ranks=data_ranks, rank=each["rank"]):
                    self.assertEqual(each["host_waits"], 1 if data_ranks == 1 else 2)
            messages = {1: [0], 2: [4 // data_ranks, 2 * 4 // data_ranks]}[time_ranks]
            edges = time_ranks - 1
            exchanged = [0] * time_ranks if data_ranks == 1 else {1: [1 + 2], 2: [1 + 1, 1 + 1]}[time_ranks]
            fetched = sorted(each["copies_to_host"] for each in work)
            self.assertEqual(fetched, sorted(data_ranks * [3 + 2 + edges + sent + shared
                                                           for sent, shared in zip(messages, exchanged)]))

    def test_a_trace_has_what_the_devices_did_and_when(self):
        self.run_program("train", *NETWORK, "--backend", "cuda", "--batch-size", "8", "--micro-batches", "4", "--steps", "3",
                         "--time-ranks", "2", "--schedule", "1f1b", "--slices-per-rank", "1", "--train-fraction", "0.01",
                         "--output", "run", "--trace", "trace.json",
                         "--trace-steps", "2", ranks=2)

        events = json.loads((self.folder / "trace.json").read_text())
        names = {(e["pid"], e["tid"]): e["args"]["name"] for e in events if e["name"] == "thread_name"}
        for rank in range(2):
            # One thread each: what a stream does does not overlap.
            lanes = [names[thread] for thread in sorted(names) if thread[0] == rank]
            for lane in ("device", "copies to device", "copies to host"):
                self.assertEqual(lanes.count(lane), 1, lanes)
            mine = [e for e in events if e["ph"] == "X" and e["pid"] == rank]
            of_lane = {lane: [e for e in mine if names[rank, e["tid"]] == lane] for lane in lanes}

            def what(event):
                return event["name"], *(event["args"].get(key) for key in ("step", "micro_batch", "slice"))
            asked = [e for e in of_lane["work"]
                     if e["name"] in ("forward", "backward", "data", "regularization", "optimizer")]
            self.assertEqual(Counter(map(what, of_lane["device"])), Counter(map(what, asked)))
            for name in ("forward", "backward"):
                self.assertEqual(sum(e["name"] == name for e in of_lane["device"]), 2 * 4)
            # In the order in which it was asked for, and not before. A second is much more than the clocks are apart.
            self.assertEqual([what(e) for e in sorted(of_lane["device"], key=lambda e: e["ts"])],
                             [what(e) for e in sorted(asked, key=lambda e: e["ts"])])
            for done, begun in zip(sorted(of_lane["device"], key=lambda e: e["ts"]), sorted(asked, key=lambda e: e["ts"])):
                self.assertGreater(done["ts"], begun["ts"] - 1e6)
            # Of each step: messages (4 forward, or 2 a micro-batch back), and what is found.
            sent = (4, 8)[rank]
            self.assertGreaterEqual(len(of_lane["copies to host"]), 2 * (sent + 3))
            self.assertEqual({e["name"] for e in of_lane["copies to host"]}, {"copy_out"})
            self.assertEqual({e["name"] for e in of_lane["copies to device"]}, {"copy_in"})

    def test_a_step_without_whole_segments_is_replayed_from_graphs(self):
        # Rows of 20, 10 and 5 pixels take the general path: couplings by the library.
        result, _ = self.run_json("bench", "--batch-size", "4", "--steps", "2", "--micro-batches", "2", "--precision", "bf16",
                                  "--image-size", "20")
        work = result["device_work"][0]
        self.assertGreater(work["replays"], 0)
        self.assertGreater(work["replayed_launches"], work["launches"])
        self.assertGreater(work["graphs"], 0)

    def test_a_step_in_whole_segments_is_as_few_launches_at_any_depth(self):
        steps = []
        with mock.patch.dict(os.environ, REVODE_CUDA_PLUGIN=os.environ["REVODE_IDLE_PLUGIN"]):
            for depth in ("26", "74"):
                self.run_program("bench", "--depth", depth, "--batch-size", "4", "--micro-batches", "1", "--steps", "2",
                                 "--backend", "cuda", "--json", "result.json")
                work = json.loads((self.folder / "result.json").read_text())["device_work"][0]
                steps.append(work["launches"] + work["replayed_launches"])
        self.assertEqual(steps[1], steps[0])
        self.assertLess(steps[0], 70)


if __name__ == "__main__":
    program.main()
