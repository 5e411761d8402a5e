#!/usr/bin/env python3
"""What `revode plan` predicts is complete, adds up, and needs neither the ranks nor MPI."""
import json
import os
import re
import unittest

import program

NETWORK = ["--blocks", "3,2,2", "--widths", "6,10,16"]
STEP = ["--batch-size", "24", "--micro-batches", "4"]


class Plan(program.ProgramTest):
    measured = None  # the text of a machine file of two ranks, once one was written

    def setUp(self):
        super().setUp()
        if Plan.measured is None:
            self.run_program("bench", *NETWORK, *STEP, "--threads", "1", "--steps", "1", "--train-fraction", "0.01",
                             "--machine-file", "machine.json", ranks=2)
            Plan.measured = (self.folder / "machine.json").read_text()
        (self.folder / "machine.json").write_text(Plan.measured)

    def make_all_blocks_cost_the_same(self):
        """Times that were measured would place blocks as the machine's other work happens to fall."""
        machine = json.loads(Plan.measured)
        for rank in machine["ranks"]:
            for layer in rank["layers"]:
                share = 1 if " block " in layer["layer"] else 0.1
                layer.update(forward_seconds=share * 1e-3, back_seconds=share * 3e-3)
        (self.folder / "machine.json").write_text(json.dumps(machine))

    def plan(self, *arguments, ranks=None):
        return self.json_of("plan", *NETWORK, *STEP, "--machine", "machine.json", *arguments, ranks=ranks)

    def test_ranks_and_messages(self):
        result = self.plan("--ranks", "6", "--data-ranks", "2", "--schedule", "1f1b")
        self.assertGreater(result["step_seconds"], 0)
        self.assertAlmostEqual(result["images_per_second"] * result["step_seconds"], 24)
        self.assertAlmostEqual(result["core_hours"], 6 * result["run_seconds"] / 3600)
        self.assertEqual([(rank["replica"], rank["time_rank"]) for rank in result["ranks"]],
                         [(replica, time) for replica in range(2) for time in range(3)])
        self.assertEqual([sum(rank["blocks"] for rank in result["ranks"][at:at + 3]) for at in (0, 3)], [7, 7])
        work = [rank["work_seconds"] for rank in result["ranks"]]
        self.assertAlmostEqual(result["bubble"], 1 - sum(work) / (6 * result["step_seconds"]))
        # The last rank sends the states of its first block, rebuilt, and their adjoints: 12 images a replica, in two
        # micro-batches; each message has a digest of 8 bytes.
        first = result["ranks"][2]["slices"][0][0]
        stage = 0 if first < 3 else 1 if first < 5 else 2
        values = (6, 10, 16)[stage] * (32 >> stage) ** 2
        self.assertEqual(result["ranks"][2]["message_bytes"], 12 * 2 * values * 4 + 2 * 2 * 8)
        for rank in result["ranks"]:
            self.assertAlmostEqual(sum(rank["memory_bytes_by_use"].values()), rank["memory_bytes"], delta=8)
        self.assertAlmostEqual(result["efficiency"], 1 - result["bubble"])

    def test_messages_and_arrays_are_those_of_a_step(self):
        for ranks, grid in [(1, ["--schedule", "1f1b"]), (3, ["--schedule", "1f1b"]), (2, ["--schedule", "gpipe"]),
                            (4, ["--data-ranks", "2", "--schedule", "interleaved", "--slices-per-rank", "2"])]:
            with self.subTest(ranks=ranks, grid=grid):
                options = ["--partition", "uniform", "--slices-per-rank", "1", *grid]
                planned = self.plan("--ranks", str(ranks), *options)["ranks"]
                seen = self.json_of("bench", *NETWORK, *STEP, *options, "--threads", "1", "--steps", "1", "--train-fraction",
                                    "0.01", ranks=ranks)
                self.assertEqual(seen["message_bytes"], [rank["message_bytes"] for rank in planned])
                for use in ("weights", "gradients", "momentum", "state", "stash"):
                    self.assertEqual(seen["peak_bytes_by_use"][use], [rank["memory_bytes_by_use"][use] for rank in planned])

    def test_what_a_run_keeps_busy_is_cores_or_gpus(self):
        machine = json.loads(Plan.measured)
        for says, hours_a_rank, unit in [({"threads": 4}, 4, "core"), ({"threads": 4, "devices": 8}, 1, "GPU")]:
            (self.folder / "machine.json").write_text(json.dumps(machine | says))
            result = self.plan("--ranks", "2")
            self.assertAlmostEqual(result[unit.lower() + "_hours"], 2 * hours_a_rank * result["run_seconds"] / 3600)
            text = self.run_program("plan", *NETWORK, *STEP, "--machine", "machine.json", "--ranks", "2").stdout
            self.assertRegex(text, rf"(?m)^run .*\d {unit}-hours")

    def test_replicas_alone_tell_what_messages_take(self):
        network = ["--blocks", "1,1,1", "--widths", "32,32,32", "--batch-size", "32", "--micro-batches", "2", "--data-ranks", "2"]
        self.run_program("bench", *network, "--threads", "1", "--steps", "1", "--train-fraction", "0.01", "--machine-file",
                         "machine.json", ranks=2)
        machine = json.loads((self.folder / "machine.json").read_text())
        self.assertGreater(machine["ranks"][0]["copied_value_seconds"], 0)
        self.assertGreater(machine["ranks"][0]["message_latency_seconds"], 0)
        result = self.json_of("plan", *network, "--machine", "machine.json", "--ranks", "2")
        sums = sum(rank["gradient_sum_bytes"] for rank in result["ranks"]) / 2 / 8
        self.assertAlmostEqual(result["gradient_sum_seconds"], sums * machine["summed_value_seconds"])

    def test_the_trace_of_a_planned_step(self):
        result = self.plan("--ranks", "4", "--data-ranks", "2", "--schedule", "1f1b", "--trace", "planned.json")
        events = json.loads((self.folder / "planned.json").read_text())
        work = [event for event in events if event["ph"] == "X"]
        # Two slices, and two of four micro-batches, forward and back.
        names = [event["name"] for event in work]
        self.assertEqual({name: names.count(name) for name in names}, {"forward": 4, "backward": 4, "allreduce": 2, "optimizer": 2})
        self.assertEqual({event["args"]["micro_batch"] for event in work if event["name"] == "forward"}, {0, 2})
        self.assertAlmostEqual(max(event["ts"] + event["dur"] for event in work), 1e6 * result["step_seconds"], delta=0.01)
        for event in work:
            self.assertEqual(event["args"]["step"], 1)
        self.assertIn("rank 1 (planned)", [event["args"].get("name") for event in events])

    def test_the_search(self):
        result = self.plan("--ranks", "4", "--search")
        steps = [job["step_seconds"] for job in result["best"]]
        self.assertEqual(steps[0], result["step_seconds"])
        self.assertGreaterEqual(len(steps), 3)  # 4 x 1, 2 x 2, 1 x 4
        self.assertTrue(all(one <= other for one, other in zip(steps, steps[1:])))
        for job in result["best"]:
            self.assertEqual(job["time_ranks"] * job["data_ranks"], 4)
            self.assertEqual(job["micro_batches"], 4)
            self.assertEqual(len(job["ranks"]), 4)

    def test_the_processors_are_the_hosts_whichever_a_rank_is_bound_to(self):
        allowed = os.sched_getaffinity(0)
        os.sched_setaffinity(0, {min(allowed)})
        try:
            self.run_program("bench", *NETWORK, *STEP, "--threads", "1", "--steps", "1", "--train-fraction", "0.01",
                             "--machine-file", "bound.json", ranks=1)
        finally:
            os.sched_setaffinity(0, allowed)
        self.assertEqual(json.loads((self.folder / "bound.json").read_text())["processors"], os.sysconf("SC_NPROCESSORS_ONLN"))

    def test_the_search_says_what_steps_spend(self):
        text = self.run_program("plan", *NETWORK, *STEP, "--machine", "machine.json", "--ranks", "4", "--search").stdout
        listed = re.findall(r"(?m)^ +\d+ +\d+ x \d+ .* (work \d.*)$", text)
        self.assertEqual(len(listed), 3, text)  # 4 x 1, 2 x 2, 1 x 4
        for spent in listed:
            shares = [int(part.split()[1].rstrip("%")) for part in spent.split(", ")]
            self.assertAlmostEqual(sum(shares), 100, delta=3, msg=spent)

    def test_a_run_that_is_only_planned(self):
        run = [*NETWORK, *STEP, "--threads", "1", "--plan-only"]
        text = self.run_program(*run, ranks=2).stdout
        self.assertIn("2 time ranks x 1 replica", text)
        self.assertRegex(text, r"(?m)^step +\d")
        given = self.json_of(*run, "--machine", "machine.json", ranks=2)
        planned = self.plan("--ranks", "2")
        for result in (given, planned):
            del result["command"]
        self.assertEqual(given, planned)
        self.assertFalse((self.folder / "runs").exists())

    def test_the_text_folds_many_ranks_and_is_printed_once(self):
        self.make_all_blocks_cost_the_same()
        arguments = ["plan", "--blocks", "30,30,30", "--widths", "6,10,16", "--machine", "machine.json", "--ranks", "80"]
        text = self.run_program(*arguments).stdout
        self.assertIn("80 time ranks x 1 replica", text)
        # 90 blocks for 80 ranks: ten have two.
        self.assertRegex(text, r"(?m)^ +1\.\.10 +2 ")
        self.assertRegex(text, r"(?m)^ +50\.\.78 +1 ")
        self.assertLess(text.count("\n"), 26)
        self.assertEqual(self.run_program(*arguments, ranks=2).stdout, text)

    def test_refusals(self):
        machine = ["--machine", "machine.json"]
        self.expect_error(["--ranks N"], "plan", *NETWORK, *machine)
        self.expect_error(["--machine FILE", "bench --machine-file"], "plan", *NETWORK, "--ranks", "2")
        self.expect_error(["--machine none.json", "no such file"], "plan", "--ranks", "2", "--machine", "none.json")
        self.expect_error(["machine.json", "hamiltonian opening 3 -> 16 x 32 x 32"], "plan", "--ranks", "2", *machine)
        self.expect_error(["--memory-limit 1M"], "plan", *NETWORK, "--ranks", "2", *machine, "--memory-limit", "1M")
        self.expect_error(["9 time ranks", "7 blocks"], "plan", *NETWORK, *STEP, "--time-ranks", "9", "--ranks", "9", *machine)
        self.expect_error(["--activations store", "machine.json", "timed with reverse"], "plan", *NETWORK, "--ranks", "2",
                          *machine, "--activations", "store")
        self.expect_error(["--ranks 900", "blocks, 7", "micro-batches, 100"], "plan", *NETWORK, "--ranks", "900", *machine,
                          "--search")
        self.expect_error(["does not take --data-dir"], "plan", "--ranks", "2", *machine, "--data-dir", "x")


if __name__ == "__main__":
    program.main()
