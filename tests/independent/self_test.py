#!/usr/bin/env python3
"""The oracle itself: its gradient against differences of its loss and against autograd, its rounding, its files, and that
it notices a wrong gradient. 77: numpy or h5py is missing."""
import contextlib
import io
import sys
import tempfile
import unittest
from pathlib import Path

sys.dont_write_bytecode = True
import gradient_oracle  # noqa: E402  (changes to a python that has numpy, or skips)
import h5py  # noqa: E402
import numpy as np  # noqa: E402

import files  # noqa: E402
import numpy_network  # noqa: E402

try:
    import torch_network
except ImportError:
    torch_network = None

ARCHITECTURES = gradient_oracle.ARCHITECTURES
NUM_MICRO_BATCHES, WEIGHT_DECAY, SMOOTHNESS = 2, 0.3, 0.2


def tiny(arch, grid_bits=0):
    """A network with every kind of parameter, odd widths where allowed, and 5 images in micro-batches of 3 and 2."""
    widths = [4, 6, 12] if arch == "hamiltonian" else [3, 4, 7]
    blocks = [2, 1, 3]
    network = numpy_network.Network(arch, blocks, 0.2, grid_bits)
    random = np.random.default_rng(3)
    weights = files.random_weights(arch, blocks, widths, 4, 2, seed=5)
    return network, weights, random.normal(size=(5, 2, 8, 8)), random.integers(0, 4, 5)


def evaluate(network, weights, images, labels):
    return numpy_network.loss_and_gradient(network, weights, images, labels, NUM_MICRO_BATCHES, WEIGHT_DECAY, SMOOTHNESS)


class Oracle(unittest.TestCase):
    def test_convolution_equals_its_definition(self):
        random = np.random.default_rng(1)
        kernel, x = random.normal(size=(2, 3, 3, 3)), random.normal(size=(2, 3, 4, 5))

        y = numpy_network.convolve(kernel, x)

        for n, o, i, j in np.ndindex(y.shape):
            expected = sum(kernel[o, c, ky, kx] * x[n, c, i + ky - 1, j + kx - 1]
                           for c, ky, kx in np.ndindex(3, 3, 3) if 0 <= i + ky - 1 < 4 and 0 <= j + kx - 1 < 5)
            self.assertAlmostEqual(y[n, o, i, j], expected, places=12)

    def test_transposed_kernel_is_the_adjoint(self):
        random = np.random.default_rng(2)
        kernel, x, y = random.normal(size=(4, 3, 3, 3)), random.normal(size=(2, 3, 5, 5)), random.normal(size=(2, 4, 5, 5))

        forward = np.sum(y * numpy_network.convolve(kernel, x))
        back = np.sum(x * numpy_network.convolve(numpy_network.transposed(kernel), y))

        self.assertAlmostEqual(forward, back, places=11)

    def test_gradient_matches_finite_differences_for_every_kind_of_parameter(self):
        epsilon = 1e-5
        for arch in ARCHITECTURES:
            network, weights, images, labels = tiny(arch)
            _, _, gradient, _ = evaluate(network, weights, images, labels)
            for name in gradient:
                with self.subTest(arch=arch, name=name):
                    direction = np.random.default_rng(7).normal(size=weights[name].shape)
                    sums = []
                    for sign in (1, -1):
                        moved = {**weights, name: weights[name] + sign * epsilon * direction}
                        loss, regularization, _, _ = evaluate(network, moved, images, labels)
                        sums.append(loss + regularization)
                    difference = (sums[0] - sums[1]) / (2 * epsilon)
                    # Central differences err by epsilon^2 and rounding/epsilon; kinks of ReLU met within 1e-5 add a little.
                    self.assertAlmostEqual(np.sum(gradient[name] * direction), difference, delta=2e-6)

    @unittest.skipIf(torch_network is None, "no PyTorch here (Debian: python3-torch)")
    def test_gradient_equals_autograd(self):
        for arch in ARCHITECTURES:
            with self.subTest(arch=arch):
                problem = tiny(arch)
                ours = evaluate(*problem)
                theirs = torch_network.loss_and_gradient(*problem, NUM_MICRO_BATCHES, WEIGHT_DECAY, SMOOTHNESS)
                self.assertEqual(set(ours[2]), set(theirs[2]))
                for name in ours[2]:
                    self.assertLess(gradient_oracle.relative_error([ours[2][name]], [theirs[2][name]]), 1e-11, name)
                self.assertAlmostEqual(ours[0], theirs[0], places=12)
                self.assertAlmostEqual(ours[1], theirs[1], places=12)
                self.assertLess(np.abs(ours[3] - theirs[3]).max(), 1e-12)

    def test_rounding_is_to_nearest_ties_to_even_without_negative_zero(self):
        rounded = numpy_network.round_to_grid(np.array([0.5, 1.5, -0.5, 2.4, -2.6]) / 256, 8) * 256

        self.assertEqual(rounded.tolist(), [0, 2, 0, 2, -3])
        self.assertFalse(np.signbit(rounded[2]))

    def test_grid_changes_the_state_a_little_and_keeps_it_on_the_grid(self):
        for arch in ARCHITECTURES:
            with self.subTest(arch=arch):
                free, gridded = evaluate(*tiny(arch)), evaluate(*tiny(arch, grid_bits=12))
                self.assertNotEqual(free[0], gridded[0])
                self.assertAlmostEqual(free[0], gridded[0], delta=1e-3)
                network, weights, images, _ = tiny(arch, grid_bits=12)
                _, kept = network.forward(weights, images)
                for states in kept["states"]:
                    for slot in states[-1]:
                        self.assertTrue(np.array_equal(slot * 4096, np.rint(slot * 4096)))

    def test_micro_batches_are_even_and_larger_first(self):
        self.assertEqual(numpy_network.micro_batch_sizes(11, 4), [3, 3, 3, 2])
        self.assertEqual(numpy_network.micro_batch_sizes(8, 4), [2, 2, 2, 2])

    def test_image_files_are_read_as_published(self):
        with tempfile.TemporaryDirectory() as folder:
            pixels = np.random.default_rng(4).integers(0, 256, 3 * 96 * 96).astype(np.uint8)
            Path(folder, "test_batch.bin").write_bytes(bytes([7]) + pixels[:3072].tobytes())
            Path(folder, "test.bin").write_bytes(bytes([3, 42]) + pixels[:3072].tobytes())
            Path(folder, "test_X.bin").write_bytes(pixels.tobytes())
            Path(folder, "test_y.bin").write_bytes(bytes([10]))

            for dataset, label, place in (("cifar10", 7, 1024 + 2 * 32 + 5), ("cifar100", 42, 1024 + 2 * 32 + 5),
                                          ("stl10", 9, 96 * 96 + 5 * 96 + 2)):
                images, labels = files.read_images(dataset, folder, "test")
                self.assertEqual(labels.tolist(), [label])
                self.assertEqual(images[0, 1, 2, 5], pixels[place])  # channel 1, row 2, column 5

    def test_comparison_passes_the_right_gradient_and_fails_a_wrong_one(self):
        with tempfile.TemporaryDirectory() as folder:
            model, data, gradient = Path(folder, "m.h5"), Path(folder, "d"), Path(folder, "g.h5")
            run = gradient_oracle.main
            run(["write-model", str(model), "--arch", "midpoint", "--blocks", "1,2", "--widths", "2,3"])
            run(["write-data", str(data), "--count", "2"])
            where = ["--checkpoint", str(model), "--data-dir", str(data), "--samples", "1:6", "--micro-batches", "2"]
            options = gradient_oracle.parse(["compare", str(gradient), *where])
            loss, regularization, right, logits = gradient_oracle.expected_result(options)

            def status_of(change):
                with h5py.File(gradient, "w") as file:
                    file.attrs.update({"loss": loss, "regularization": regularization})
                    file["logits"] = logits.astype(np.float32)
                    for name, value in right.items():
                        file[f"model/{name}"] = value.astype(np.float32)
                    change(file)
                with contextlib.redirect_stdout(io.StringIO()), contextlib.redirect_stderr(io.StringIO()):
                    return run(["compare", str(gradient), *where])

            def scale_bias(file):
                file["model/closing/bias"][...] *= 1.1

            self.assertEqual(status_of(lambda file: None), 0)
            self.assertEqual(status_of(scale_bias), 1)
            self.assertEqual(status_of(lambda file: file.attrs.modify("loss", 1.01 * loss)), 1)
            self.assertEqual(status_of(lambda file: file["logits"].write_direct(np.full(logits.shape, np.nan))), 1)
            self.assertEqual(status_of(lambda file: file.__delitem__("model/stage_2/bias")), 2)


if __name__ == "__main__":
    unittest.main()
