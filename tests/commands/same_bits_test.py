#!/usr/bin/env python3
"""Metrics and checkpoints do not depend, in a single bit, on ranks, threads or schedule."""
import program


class SameBits(program.ProgramTest):
    def compare(self, variants, *arguments, micro_batches=3):
        """Several steps with the end of an epoch inside; mini-batches cut unevenly. variants: (ranks, threads,
        schedule) or (ranks, threads, schedule, replicas) or (ranks, threads, schedule, replicas, slices a rank)."""
        arguments = [*arguments, "--steps", "6", "--checkpoint-every", "3", "--eval-every", "1", "--micro-batches",
                     micro_batches]
        self.train("expected", *arguments, "--schedule", "gpipe")
        files = sorted(file.name for file in (self.folder / "expected").glob("*.h5"))
        self.assertEqual(files, ["best.h5", "checkpoint-3.h5", "checkpoint-6.h5", "latest.h5"])
        self.assertEqual([record["kind"] for record in self.metrics("expected")],
                         [*["step"] * 4, "epoch", *["step"] * 2, "end"])
        for ranks, threads, schedule, *grid in variants:
            with self.subTest(ranks=ranks, threads=threads, schedule=schedule, grid=grid):
                run = "-".join(map(str, (ranks, threads, schedule, *grid)))
                shape = [word for option, number in zip(["--data-ranks", "--slices-per-rank"], grid)
                         for word in (option, number)]
                self.train(run, *arguments, "--threads", threads, "--schedule", schedule, *shape, ranks=ranks)
                self.assertEqual(self.metrics(run), self.metrics("expected"))
                self.expect_same_files(run, "expected", files)

    def compare_architecture(self, arch):
        self.compare([(1, 2, "1f1b"), (2, 2, "gpipe"), (3, 1, "1f1b"), (4, 1, "gpipe"), (4, 1, "1f1b")],
                     "--arch", arch)

    def test_hamiltonian(self):
        self.compare_architecture("hamiltonian")

    def test_leapfrog(self):
        self.compare_architecture("leapfrog")

    def test_midpoint(self):
        self.compare_architecture("midpoint")

    def test_replicas(self):
        self.compare([(2, 1, "1f1b", 2), (4, 2, "gpipe", 2)])

    def test_replicas_of_eight_ranks(self):
        self.compare([(8, 1, "1f1b", 2), (8, 1, "gpipe", 4), (8, 1, "1f1b", 8)], "--blocks", "4,2,2", micro_batches=8)

    def test_several_slices_a_rank(self):
        self.compare([(2, 1, "interleaved", 1, 3), (4, 2, "interleaved", 2, 2), (2, 1, "auto")],
                     "--blocks", "4,2,2")

    def test_eight_ranks(self):
        self.compare([(8, 1, "1f1b"), (8, 1, "gpipe")], "--blocks", "4,2,2")


if __name__ == "__main__":
    program.main()
