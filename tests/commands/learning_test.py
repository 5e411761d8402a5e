#!/usr/bin/env python3
"""A small network learns the built-in images well above chance (0.1), and the same again."""
import program


class Learning(program.ProgramTest):
    def test_small_network_learns_the_synthetic_set(self):
        result = self.json_of("--blocks", "2,1,1", "--widths", "16,16,32", "--batch-size", "50", "--steps", "240",
                              "--image-size", "16", "--augment", "off", "--train-fraction", "0.5", "--epochs", "3", "--output",
                              "run", ranks=2)
        self.assertGreater(result["accuracy"], 0.5)
        self.assertEqual(result["accuracy"], self.metrics("run")[-1]["test_accuracy"])


if __name__ == "__main__":
    program.main()
