#!/usr/bin/env python3
"""The gradient's file has the same bytes however it was computed: ranks, threads, schedule, stored or rebuilt states."""
import program
from program import NETWORK


class Gradient(program.ProgramTest):
    def compare_gradients(self, arch):
        gradient = ["gradient", *NETWORK, "--arch", arch, "--split", "train", "--samples", "3:14"]
        self.run_program(*gradient, "--output", "expected.h5")
        expected = (self.folder / "expected.h5").read_bytes()
        for variant, ranks in [([], 1), ([], 4), (["--activations", "store"], 1), (["--activations", "store"], 3),
                               (["--schedule", "gpipe", "--threads", "2"], 2), (["--micro-batches", "4"], 2)]:
            with self.subTest(variant=variant, ranks=ranks):
                self.run_program(*gradient, *variant, "--output", "other.h5", ranks=ranks)
                self.assertEqual((self.folder / "other.h5").read_bytes(), expected)

    def test_hamiltonian(self):
        self.compare_gradients("hamiltonian")

    def test_leapfrog(self):
        self.compare_gradients("leapfrog")

    def test_midpoint(self):
        self.compare_gradients("midpoint")


if __name__ == "__main__":
    program.main()
