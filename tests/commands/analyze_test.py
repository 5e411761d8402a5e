#!/usr/bin/env python3
"""What analyze says of a network: the same on any number of ranks, and right, by whole matrices in numpy."""
import json
import os
import sys
import unittest

import program

try:
    import h5py
    import numpy as np
    import dense_network
except ImportError:
    # Debian's modules belong to Debian's python, which need not be the first on the PATH.
    if os.path.realpath(sys.executable) != os.path.realpath("/usr/bin/python3") and os.path.exists("/usr/bin/python3"):
        os.execv("/usr/bin/python3", ["/usr/bin/python3", *sys.argv])
    np = None

BLOCKS = [2, 1, 2]
TINY = ["--blocks", "2,1,2", "--widths", "2,2,4", "--threads", "1", "--dataset", "cifar10", "--data-dir", "cifar"]
IMAGES = 2


class Analyze(program.ProgramTest):
    def setUp(self):
        super().setUp()
        program.write_cifar10(self.folder / "cifar", 10)

    def analyze(self, *arguments, ranks=None):
        self.run_program("analyze", *TINY, "--samples", f"0:{IMAGES}", "--json", "analysis.json", *arguments, ranks=ranks)
        return json.loads((self.folder / "analysis.json").read_text())

    def test_ranks_share_the_blocks_and_find_the_same(self):
        alone = self.analyze()
        self.assertEqual(self.analyze(ranks=3), alone)
        self.assertEqual(self.analyze("--threads", "2"), alone)

    def test_report_and_json(self):
        found = self.analyze()
        self.assertEqual([(b["block"], b["stage"], b["block_in_stage"]) for b in found["blocks"]],
                         [(0, 1, 0), (1, 1, 1), (2, 2, 0), (3, 3, 0), (4, 3, 1)])
        for block in found["blocks"]:
            self.assertEqual((block["reversal_error"], block["values_differing"]), (0, 0))
            # A force of one channel may be at rest, and the Jacobian nilpotent.
            self.assertTrue(all(0 <= radius < found["stability_bound"] for radius in block["h_spectral_radius"]), block)
            for key in ("eigenvalues", "adjoint_growth", "perturbation_growth", "state_rms", "h_numerical_abscissa"):
                self.assertEqual(len(block[key]), IMAGES, key)
        self.assertGreater(max(b["h_spectral_radius"][0] for b in found["blocks"]), 0.05)
        self.assertGreater(max(b["reversal_error_without_grid"] for b in found["blocks"]), 0)
        self.assertEqual([(r["stage"], r["first_block"], r["last_block"]) for r in found["growth"]],
                         [(1, 0, 0), (1, 0, 1), (2, 2, 2), (3, 3, 3), (3, 3, 4)])
        text = self.run_program("analyze", *TINY, "--samples", "0:1").stdout
        self.assertIn("hamiltonian-22, h = 0.1, samples 0:1 of the test split of cifar10, initial weights", text)
        self.assertIn("within the bound of 2", text)
        self.assertIn("states rebuilt bit for bit; without the grid to ", text)

    # The most that a run of blocks magnifies is no less than what a random direction or an adjoint meets.
    def test_norms_bound_what_grows(self):
        found = self.analyze("--arch", "leapfrog")
        for run in found["growth"]:
            block = found["blocks"][run["last_block"]]
            for most, random in zip(run["largest_singular_value"], block["perturbation_growth"]):
                self.assertLessEqual(random, 1.01 * most)
        whole = [run for run in found["growth"] if run["last_block"] in (1, 2, 4)]
        for run in whole:
            for most, adjoint in zip(run["largest_singular_value"], found["blocks"][run["first_block"]]["adjoint_growth"]):
                self.assertLessEqual(adjoint, 1.01 * most)

    def test_refusals(self):
        self.expect_error(["--eigenvalues 0", "stage 1", "8192 rows", "at most 4096"], "analyze", *TINY, "--widths", "8,8,8",
                          "--eigenvalues", "0")
        self.expect_error(["--eigenvalues 2047", "stage 1", "at most 2046"], "analyze", *TINY, "--eigenvalues", "2047")
        self.expect_error(["--samples 0:100", "10 samples"], "analyze", *TINY, "--samples", "0:100", ranks=2)
        self.expect_error(["does not take --batch-size"], "analyze", "--batch-size", "4")


@unittest.skipIf(np is None, "needs numpy and h5py (Debian: python3-numpy, python3-h5py)")
class AgainstNumpy(program.ProgramTest):
    """Every eigenvalue of every block, and the largest ones by the iteration."""
    NETWORK = ["--blocks", "2,1,2", "--widths", "2,4,4", "--image-size", "16", "--threads", "1", "--grid-bits", "0"]

    def analyze(self, *arguments):
        self.run_program("analyze", "--checkpoint", "run/latest.h5", "--samples", "0:1", "--threads", "1", "--json",
                         "analysis.json", *arguments)
        return json.loads((self.folder / "analysis.json").read_text())["blocks"]

    def read(self, file, group=""):
        found = {}
        with h5py.File(self.folder / file) as content:
            content[group or "/"].visititems(lambda name, item: found.update({name: item[()].astype(float)})
                                             if isinstance(item, h5py.Dataset) else None)
        return found

    # After a few steps of training, so that biases are not 0; without the grid, which numpy has not.
    def expect_spectra(self, arch):
        self.run_program(*self.NETWORK, "--arch", arch, "--steps", "3", "--batch-size", "20", "--output", "run")
        self.run_program("gradient", "--checkpoint", "run/latest.h5", "--split", "test", "--samples", "0:1",
                         "--threads", "1", "--output", "samples.h5")
        model = self.read("run/latest.h5", "model")
        images = (self.read("samples.h5")["images"] / 255 - model["input/mean"][:, None, None]) / model["input/std"][:, None, None]
        expected = dense_network.jacobians(arch, model, BLOCKS, 0.1, images)
        whole, largest = self.analyze("--eigenvalues", "0"), self.analyze()
        for block, iterated, matrices in zip(whole, largest, expected, strict=True):
            for image, matrix in enumerate(matrices):
                values = np.linalg.eigvals(matrix).astype(complex)
                if arch == "leapfrog":
                    values = np.concatenate([np.sqrt(-values), -np.sqrt(-values)])
                sizes = np.sort(np.abs(values))[::-1]
                found = [abs(complex(*value)) for value in block["eigenvalues"][image]]
                self.assertEqual(len(found), len(sizes))
                # Zeros are defective here: float's rounding, 1e-7, scatters them by its root.
                np.testing.assert_allclose(found, sizes, rtol=1e-4, atol=2e-3 * sizes[0] + 1e-6)
                np.testing.assert_allclose(found[:6], sizes[:6], rtol=1e-4, atol=1e-6)
                of_iteration = [abs(complex(*value)) for value in iterated["eigenvalues"][image]]
                self.assertEqual(len(of_iteration), 6)
                np.testing.assert_allclose(of_iteration, sizes[:6], rtol=1e-4, atol=1e-6)
                self.assertAlmostEqual(block["h_spectral_radius"][image], 0.1 * sizes[0], delta=1e-4 * sizes[0] + 1e-7)

    def test_hamiltonian(self):
        self.expect_spectra("hamiltonian")

    def test_leapfrog(self):
        self.expect_spectra("leapfrog")

    def test_midpoint(self):
        self.expect_spectra("midpoint")


if __name__ == "__main__":
    program.main()
