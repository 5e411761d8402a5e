#!/usr/bin/env python3
"""eval, gradient and info: what they write."""
import json
import math

import program
from program import NETWORK


class Results(program.ProgramTest):
    def train_model(self, *arguments):
        self.train("run", "--steps", "4", *arguments)
        return "run/latest.h5"

    def test_eval_equals_its_logits(self):
        model = self.train_model()
        for samples in [[], ["--split", "train", "--batch-size", "300"]]:
            with self.subTest(samples):
                result = self.json_of("eval", "--checkpoint", model, "--output", "eval.h5", *samples, ranks=2)
                logits, labels = self.floats("eval.h5", "/logits"), self.floats("eval.h5", "/labels")
                count = result["samples"]
                self.assertEqual(count, 8000 if samples else 1000)
                self.assertEqual((len(logits), len(labels)), (10 * count, count))
                self.assertEqual(set(labels), set(range(10)))
                hits, loss = 0, 0.0
                for n in range(count):
                    row = logits[10 * n:10 * n + 10]
                    hits += row.index(max(row)) == labels[n]
                    loss += math.log(sum(math.exp(value - max(row)) for value in row)) + max(row) - row[int(labels[n])]
                self.assertEqual(result["accuracy"], hits / count)
                # The program sums in double what float32 logits give.
                self.assertAlmostEqual(result["loss"], loss / count, delta=1e-6)

    def test_eval_does_not_depend_on_ranks(self):
        model = self.train_model()
        numbers = {}
        for ranks in [1, 3]:
            result = self.json_of("eval", "--checkpoint", model, ranks=ranks)
            numbers[ranks] = {key: result[key] for key in ["loss", "accuracy", "samples"]}
        self.assertEqual(numbers[1], numbers[3])
        printed = self.run_program("eval", "--checkpoint", model).stdout
        self.assertIn(f"accuracy {numbers[1]['accuracy']:.4f}", printed)
        end = self.metrics("run")[-1]
        self.assertEqual((end["test_loss"], end["test_accuracy"]), (numbers[1]["loss"], numbers[1]["accuracy"]))

    def test_micro_batches_change_batch_norm_and_nothing_else(self):
        losses = {}
        for micro_batches in [1, 2, 11]:
            result = self.json_of("gradient", *NETWORK, "--samples", "0:11", "--micro-batches", micro_batches)
            self.assertEqual(result["samples"], 11)
            losses[micro_batches] = (result["loss"], result["regularization"])
        self.assertEqual(len({regularization for _, regularization in losses.values()}), 1)
        self.assertEqual(len({loss for loss, _ in losses.values()}), 3)

    def test_gradient_leaves_the_checkpoint_alone(self):
        model = self.train_model()
        before = (self.folder / model).read_bytes()
        self.run_program("gradient", "--checkpoint", model, "--samples", "0:8", "--output", "gradient.h5", ranks=2)
        self.assertEqual((self.folder / model).read_bytes(), before)
        self.assertEqual(len(self.floats("gradient.h5", "/model/stage_1/kernel")), 4 * 3 * 3 * 9)
        self.assertEqual(len(self.floats("gradient.h5", "/logits")), 8 * 10)

    # What another program is given to compute the same gradient.
    def test_a_gradient_holds_its_samples(self):
        program.write_cifar10(self.folder / "cifar", 10)
        self.run_program("gradient", *NETWORK, "--dataset", "cifar10", "--data-dir", "cifar", "--samples", "3:8",
                         "--output", "gradient.h5", ranks=2)
        record = (self.folder / "cifar/test_batch.bin").read_bytes()[3 * 3073:8 * 3073]
        pixels = [float(byte) for place, byte in enumerate(record) if place % 3073 > 0]
        self.assertEqual(list(self.floats("gradient.h5", "/images")), pixels)
        self.assertEqual(list(self.floats("gradient.h5", "/labels")), [3, 4, 5, 6, 7])

    def test_info_describes_a_checkpoint(self):
        model = self.train_model("--arch", "leapfrog")
        result = self.json_of("info", "--checkpoint", model)
        self.assertEqual(result["config"]["arch"], "leapfrog")
        self.assertEqual(result["config"]["blocks"], [2, 1, 1])
        self.assertEqual(result["progress"]["step"], 4)
        self.assertEqual(result["progress"]["epoch"], 1)
        # Opening 6 * 27 + 12; couplings c * c * 9 + c; closing 32 + 10 * 16 + 10.
        couplings = 2 * (6 * 6 * 9 + 6) + (10 * 10 * 9 + 10) + (16 * 16 * 9 + 16)
        self.assertEqual(result["parameters"], 174 + couplings + 202)
        shapes = {entry["path"]: entry["shape"] for entry in result["arrays"]}
        self.assertEqual(shapes["/model/stage_1/kernel"], [2, 6, 6, 3, 3])
        self.assertEqual(shapes["/optimizer/momentum/closing/weight"], [10, 16])
        text = self.run_program("info", "--checkpoint", model).stdout
        self.assertIn("/model/stage_3/bias", text)
        self.run_program("info", "--checkpoint", model, "--json", "info.json")
        self.assertEqual(json.loads((self.folder / "info.json").read_text()), result)

    def test_info_checks_every_byte(self):
        file = self.folder / self.train_model()
        self.assertIn("every byte is as it was written", self.run_program("info", "--check", file).stdout)
        self.assertTrue(self.json_of("info", "--check", file)["checked"])
        self.assertFalse(self.json_of("info", file)["checked"])
        contents = bytearray(file.read_bytes())
        # The block of checksums says where an array begins.
        line = next(line for line in bytes(contents).split(b"\0")[0].decode().splitlines()
                    if line.endswith(" /model/stage_2/kernel"))
        contents[int(line.split()[1]) + 5] ^= 0x10
        damaged = self.folder / "damaged.h5"
        damaged.write_bytes(contents)
        self.expect_error(["damaged.h5", "is damaged", "/model/stage_2/kernel is not"], "info", "--check", damaged)
        self.expect_error(["damaged.h5", "/model/stage_2/kernel is not"], "eval", "--checkpoint", damaged)
        self.run_program("info", damaged)


if __name__ == "__main__":
    program.main()
