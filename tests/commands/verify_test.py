#!/usr/bin/env python3
"""verify passes on one rank and on two, for networks of a few channels too."""
import program
from program import NETWORK


class Verify(program.ProgramTest):
    def expect_passes(self, arch):
        result = self.json_of("verify", *NETWORK, "--arch", arch)
        self.assertIs(result["passed"], True, result)
        self.assertGreaterEqual(len(result["checks"]), 4)
        for check in result["checks"]:
            self.assertEqual(sorted(check), ["expected", "found", "name", "passed"])
            self.assertIs(check["passed"], True, check)
        table = self.run_program("verify", *NETWORK, "--arch", arch, ranks=2).stdout
        self.assertIn(f"{arch}-", table)
        self.assertIn(", 2 ranks, 16 samples of synthetic", table)
        self.assertEqual(table.count(" passed "), len(result["checks"]), table)

    # Too few images for a Taylor test: it takes more of them.
    def test_one_image(self):
        self.run_program("verify", *NETWORK, "--batch-size", "1")

    def test_hamiltonian(self):
        self.expect_passes("hamiltonian")

    def test_leapfrog(self):
        self.expect_passes("leapfrog")

    def test_midpoint(self):
        self.expect_passes("midpoint")


if __name__ == "__main__":
    program.main()
