#!/usr/bin/env python3
"""--image-size: built-in images of another size, from the first step to what reads the checkpoint."""
import program
from program import NETWORK

SIZE = ["--image-size", "24"]


class ImageSize(program.ProgramTest):
    def test_what_has_no_such_images_is_refused(self):
        for size in ["15", "1025", "48.5", "x"]:
            with self.subTest(size):
                self.expect_error(["--image-size", f"'{size}'", "from 16 to 1024"], "--image-size", size)
        for command in [["train"], ["bench"], ["plan", "--ranks", "2", "--machine", "m.json"]]:
            with self.subTest(command):
                self.expect_error(["--image-size 24", "--dataset stl10", "96 x 96"], *command, "--dataset", "stl10", *SIZE)
        self.expect_error(["50 x 50", "--image-size", "4 divides"], *NETWORK, "--image-size", "50", ranks=2)
        self.assertEqual(list(self.folder.iterdir()), [])

    def test_larger_images_are_fewer(self):
        done = self.run_program(*NETWORK, "--image-size", "256", "--batch-size", "10", "--train-fraction", "0.01", "--steps",
                                "1", "--eval-every", "0", "--output", "run")
        self.assertIn("synthetic: 20 training samples (2 steps of 10 an epoch), 250 test samples", done.stdout)

    def test_printed_config_holds_it(self):
        self.assertIn("image-size = 32\n", self.run_program("--print-config").stdout)
        printed = self.run_program(*SIZE, "--print-config").stdout
        self.assertIn("image-size = 24\n", printed)
        (self.folder / "run.ini").write_text(printed)
        self.assertEqual(self.run_program("--config", "run.ini", "--print-config").stdout, printed)
        other = self.run_program("--config", "run.ini", "--dataset", "cifar10", "--print-config").stdout
        self.assertNotIn("image-size", other)

    def test_bits_are_the_same_on_any_ranks_and_after_a_resume(self):
        self.train("one", *SIZE, "--steps", "4", "--checkpoint-every", "2")
        self.train("two", *SIZE, "--steps", "4", "--checkpoint-every", "2", ranks=2)
        self.train("replicas", *SIZE, "--steps", "2", "--checkpoint-every", "2", "--data-ranks", "2", ranks=2)
        # The checkpoint knows its size.
        self.run_program("--resume", "replicas/checkpoint-2.h5", "--steps", "4", "--checkpoint-every", "2", "--log-every", "1")
        for run in ["two", "replicas"]:
            self.assertEqual(self.metrics(run), self.metrics("one"))
            self.expect_same_files(run, "one", ["checkpoint-4.h5"])
        self.train("small", "--steps", "4")
        self.assertNotEqual(self.metrics("small"), self.metrics("one"))

    def test_a_checkpoint_knows_its_size(self):
        self.train("run", *SIZE, "--steps", "1")
        model = "run/latest.h5"
        self.assertEqual(self.json_of("info", model)["config"]["image"], [3, 24, 24])
        self.assertIn("image-size = 24\n", (self.folder / "run/config.ini").read_text())
        losses = {self.json_of("eval", "--checkpoint", model, *size)["loss"] for size in ([], SIZE)}
        self.assertEqual(len(losses), 1)
        self.run_program("gradient", "--checkpoint", model, "--samples", "0:4", "--output", "gradient.h5", ranks=2)
        self.assertEqual(len(self.floats("gradient.h5", "/images")), 4 * 3 * 24 * 24)
        self.json_of("bench", "--checkpoint", model, "--batch-size", "4", "--steps", "1")
        for command in [["eval", "--checkpoint"], ["gradient", "--checkpoint"], ["bench", "--checkpoint"], ["--resume"]]:
            with self.subTest(command):
                self.expect_error(["--image-size 32", "[3,24,24]", model], *command, model, "--image-size", "32")
        self.expect_error(["--image-size 32", "[3,24,24]", model], "--resume", model, "--image-size", "32", ranks=2)
        program.write_cifar10(self.folder / "cifar", 4)
        self.expect_error(["--dataset cifar10", "[3,32,32]", "[3,24,24]"], "eval", "--checkpoint", model, "--dataset",
                          "cifar10", "--data-dir", "cifar")

    def test_a_network_is_planned_and_verified_at_any_size(self):
        self.run_program("bench", *NETWORK, *SIZE, "--batch-size", "8", "--steps", "1", "--train-fraction", "0.01",
                         "--machine-file", "m.json")
        plan = ["plan", *NETWORK[:-2], "--batch-size", "8", "--ranks", "2", "--machine", "m.json"]
        small = self.json_of(*plan, *SIZE)
        self.assertGreater(small["images_per_second"], 0)
        self.expect_error(["m.json", "96 x 96", "--image-size"], *plan, "--image-size", "96")
        result = self.json_of("verify", *NETWORK, *SIZE, "--batch-size", "4", ranks=2)
        self.assertTrue(result["passed"])


if __name__ == "__main__":
    program.main()
