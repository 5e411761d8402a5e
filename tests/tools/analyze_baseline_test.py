#!/usr/bin/env python3
"""tools/analyze_baseline.py: its products are those of the dense Jacobian, its eigenvalues and norms NumPy's; the file has
revode analyze's keys. 77: no torch, SciPy or NumPy."""
import importlib.util
import json
import os
import subprocess
import sys
import tempfile
import unittest
from pathlib import Path

sys.dont_write_bytecode = True

TOOLS = Path(__file__).resolve().parents[2] / "tools"
sys.path.insert(0, str(TOOLS))

if not all(importlib.util.find_spec(name) for name in ("torch", "numpy", "scipy")):
    if os.path.realpath(sys.executable) != os.path.realpath("/usr/bin/python3") and os.path.exists("/usr/bin/python3"):
        os.execv("/usr/bin/python3", ["/usr/bin/python3", *sys.argv])
    print("SKIPPED: needs torch, numpy and scipy (Debian: python3-torch, python3-scipy)")
    sys.exit(77)

import numpy as np  # noqa: E402
import torch  # noqa: E402

import analyze_baseline  # noqa: E402
import baseline_networks  # noqa: E402

torch.set_num_threads(1)


def dense(function, x):
    return torch.autograd.functional.jacobian(function, x).reshape(x.numel(), x.numel()).double().numpy()


def random_block(unit):
    """With norms and weights as training leaves them: not at their start."""
    torch.manual_seed(3)
    module = unit(8, 8, 1).eval()
    for parameter in module.parameters():
        torch.nn.init.normal_(parameter, std=0.3)
        parameter.requires_grad_(False)
    return analyze_baseline.Block(0, 1, module)


class AnalyzeBaseline(unittest.TestCase):
    def check_block(self, unit):
        block, x = random_block(unit), torch.randn(1, 8, 5, 5)
        products = analyze_baseline.Products(torch, block.increment, x)
        expected, vector = dense(block.increment, x), np.random.default_rng(1).standard_normal(x.numel())

        np.testing.assert_allclose(products.apply(vector), expected @ vector, atol=1e-4 * np.linalg.norm(expected))
        np.testing.assert_allclose(products.apply_transposed(vector), expected.T @ vector,
                                   atol=1e-4 * np.linalg.norm(expected))

        spectra = analyze_baseline.Spectra()
        largest = sorted(abs(np.linalg.eigvals(expected)), reverse=True)
        found = spectra.of_largest_magnitude(products, x.numel(), 4)
        np.testing.assert_allclose(sorted(map(abs, found), reverse=True), largest[:4], rtol=1e-3)
        growth = spectra.largest_of_symmetric(lambda v: (products.apply(v) + products.apply_transposed(v)) / 2, x.numel())
        self.assertAlmostEqual(growth, np.linalg.eigvalsh((expected + expected.T) / 2)[-1], delta=1e-2 * abs(growth))

    def test_residual_blocks(self):
        self.check_block(baseline_networks.BasicBlock)

    def test_couplings(self):
        self.check_block(baseline_networks.Coupling)

    # The ReLU that follows the sum is part of the block, not of its increment.
    def test_growth_is_of_whole_blocks(self):
        block, x = random_block(baseline_networks.BasicBlock), torch.randn(1, 8, 5, 5)
        parts = [analyze_baseline.Products(torch, block.module, x) for _ in range(2)]
        matrix, vector = dense(block.module, x), np.random.default_rng(1).standard_normal(x.numel())
        chain = analyze_baseline.Chain(parts)
        np.testing.assert_allclose(chain.apply(vector), matrix @ matrix @ vector, rtol=1e-3, atol=1e-3)
        np.testing.assert_allclose(chain.apply_transposed(vector), matrix.T @ matrix.T @ vector, rtol=1e-3, atol=1e-3)
        self.assertFalse(np.allclose(matrix, np.eye(len(matrix)) + dense(block.increment, x)))

    def test_refusals(self):
        with tempfile.TemporaryDirectory() as folder:
            text = Path(folder, "text.pt")
            text.write_text("no checkpoint")
            for words, parts in [
                    (["--checkpoint", folder + "/absent.pt"], ["--checkpoint", "absent.pt", "no such file"]),
                    (["--checkpoint", str(text)], ["text.pt", "no checkpoint of tools/baselines.py"])]:
                done = subprocess.run([sys.executable, TOOLS / "analyze_baseline.py", *words, "--data-dir", folder, "--json",
                                       folder + "/out.json"], capture_output=True, text=True, timeout=120)
                self.assertEqual(done.returncode, 2, done.stderr)
                error = [line for line in done.stderr.splitlines() if line.startswith("analyze_baseline: error: ")]
                self.assertEqual(len(error), 1, done.stderr)
                for part in parts:
                    self.assertIn(part, error[0])

    def test_keys_are_those_of_revode_analyze(self):
        torch.manual_seed(1)
        network = baseline_networks.make("resnet-32", 10)
        network.blocks = torch.nn.Sequential(*list(network.blocks)[:6])  # stage 1, and the first of stage 2
        network.closing = torch.nn.Linear(32, 10)
        analysis = analyze_baseline.Analysis(network, torch.randn(1, 3, 16, 16), torch.tensor([3]), 2, {"arch": "resnet"})
        found = json.loads(json.dumps(analysis.run()))
        self.assertEqual([(b["block"], b["stage"], b["block_in_stage"]) for b in found["blocks"]],
                         [(k, 1, k) for k in range(5)])
        for block in found["blocks"]:
            for key in ("eigenvalues", "h_spectral_radius", "real_share", "h_numerical_abscissa", "perturbation_growth",
                        "adjoint_growth", "state_rms", "state_largest"):
                self.assertEqual(len(block[key]), 1, key)
            self.assertEqual(len(block["weight_change"]), 2)
        self.assertEqual([run["last_block"] for run in found["growth"]], [0, 1, 2, 3, 4])
        # What grows most grows no less than what is random.
        for run in found["growth"]:
            self.assertGreaterEqual(1.01 * run["largest_singular_value"][0],
                                    found["blocks"][run["last_block"]]["perturbation_growth"][0])


if __name__ == "__main__":
    unittest.main()
