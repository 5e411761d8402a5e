#!/usr/bin/env python3
"""tools/baselines.py [REVODE]: its subset is revode's, and small trainings with torch. 77: no numpy; without torch, or
without revode, what needs it is skipped."""
import importlib.util
import json
import os
import subprocess
import sys
import tempfile
import unittest
from pathlib import Path

sys.dont_write_bytecode = True

REPOSITORY = Path(__file__).resolve().parents[2]
sys.path.insert(0, str(REPOSITORY / "tools"))
try:
    import numpy as np
except ImportError:
    # Debian's modules belong to Debian's python, which need not be the first on the PATH.
    if os.path.realpath(sys.executable) != os.path.realpath("/usr/bin/python3") and os.path.exists("/usr/bin/python3"):
        os.execv("/usr/bin/python3", ["/usr/bin/python3", *sys.argv])
    print("SKIPPED: needs numpy (Debian: python3-numpy)", file=sys.stderr)
    sys.exit(77)
import baseline_data as data  # noqa: E402
import baselines  # noqa: E402
import reproduce_results  # noqa: E402

REVODE = sys.argv.pop(1) if len(sys.argv) > 1 and os.access(sys.argv[1], os.X_OK) else None
HAS_TORCH, HAS_H5PY = (importlib.util.find_spec(name) is not None for name in ("torch", "h5py"))
IMAGES = 120  # in all training files, a tenth of them a class


def write_cifar10(folder):
    """Files in CIFAR-10's form; classes differ in brightness, so that there is something to learn."""
    random = np.random.default_rng(1)
    for name, count in [(f"data_batch_{k}.bin", IMAGES // 5) for k in range(1, 6)] + [("test_batch.bin", 20)]:
        labels = random.permutation(np.arange(count) % 10)
        pixels = random.integers(0, 30, (count, 3072)) + 20 * labels[:, None]
        np.hstack([labels[:, None], pixels]).astype(np.uint8).tofile(Path(folder, name))


class Random(unittest.TestCase):
    def test_philox_equals_the_known_answers_of_its_authors(self):
        # Random123's kat_vectors for philox4x32, 10 rounds.
        for counter, key, expected in (
                ([0] * 4, (0, 0), [0x6627E8D5, 0xE169C58D, 0xBC57AC4C, 0x9B00DBD8]),
                ([0xFFFFFFFF] * 4, (0xFFFFFFFF, 0xFFFFFFFF), [0x408F276D, 0x41C83B0E, 0xA20BC7C6, 0x6D5451FD]),
                ([0x243F6A88, 0x85A308D3, 0x13198A2E, 0x03707344], (0xA4093822, 0x299F31D0),
                 [0xD16CFE09, 0x94FDCCEB, 0x5001E420, 0x24126EA1])):
            self.assertEqual(data.philox(np.array([counter], np.uint32), key)[0].tolist(), expected)

    def test_draws_do_not_depend_on_the_size_of_blocks(self):
        few, many = (data.random_bits(3, 5, 2**33 + 1, block) for block in (2, 64))

        self.assertEqual([next(few) for _ in range(50)], [next(many) for _ in range(50)])

    def test_values_that_favour_small_results_are_drawn_again(self):
        bits = iter([1, 2**32 - 1, 7])

        # 2^32 mod (2^31 + 1) = 2^31 - 1, so that 1 is refused.
        self.assertEqual(data.below(bits, 2**31 + 1), (2**32 - 1) % (2**31 + 1))
        self.assertEqual(next(bits), 7)


class Subset(unittest.TestCase):
    labels = np.arange(200) % 10

    def test_each_class_has_its_rounded_share_and_at_least_one(self):
        for fraction, share in ((0.001, 1), (0.025, 1), (0.075, 2), (0.5, 10), (1, 20)):
            subset = data.balanced_subset(self.labels, 10, fraction, 1)

            self.assertEqual(np.bincount(self.labels[subset]).tolist(), [share] * 10)
            self.assertEqual(subset.tolist(), sorted(set(subset.tolist())))

    def test_seed_chooses(self):
        one, other = (data.balanced_subset(self.labels, 10, 0.2, seed).tolist() for seed in (1, 2))

        self.assertNotEqual(one, other)

    @unittest.skipUnless(REVODE and HAS_H5PY, "needs revode and h5py")
    def test_means_and_deviations_are_those_of_revode(self):
        import h5py
        for fraction, seed in ((0.3, 1), (0.17, 2**33 + 7)):
            with tempfile.TemporaryDirectory() as folder:
                write_cifar10(folder)
                subprocess.run([REVODE, "train", "--dataset", "cifar10", "--data-dir", folder, "--train-fraction",
                                str(fraction), "--seed", str(seed), "--blocks", "1,1,1", "--batch-size", "10",
                                "--steps", "1", "--threads", "1", "--output", f"{folder}/run"], check=True, capture_output=True)
                with h5py.File(f"{folder}/run/latest.h5") as file:
                    mean, std = (file[f"model/input/{name}"][:] for name in ("mean", "std"))

                training, _ = data.load("cifar10", folder, fraction, seed)

            np.testing.assert_array_equal(training.mean.ravel(), mean)
            np.testing.assert_array_equal(training.std.ravel(), std)


@unittest.skipUnless(REVODE, "needs revode")
class Records(unittest.TestCase):
    def test_the_end_of_revodes_run_is_told_from_a_stop_in_its_last_epoch(self):
        for options, finished in ((("--epochs", "2"), True), (("--epochs", "2", "--steps", "23"), False)):
            with tempfile.TemporaryDirectory() as folder:
                write_cifar10(folder)
                subprocess.run([REVODE, "train", "--dataset", "cifar10", "--data-dir", folder, "--blocks", "1,1,1",
                                "--batch-size", "10", "--threads", "1", *options, "--output", f"{folder}/run"], check=True,
                               capture_output=True)

                self.assertEqual(reproduce_results.is_finished(f"{folder}/run"), finished)


class Input(unittest.TestCase):
    def setUp(self):
        pixels = np.random.default_rng(2).integers(0, 256, (3, 3, 32, 32)).astype(np.uint8)
        self.images = data.Images(pixels, np.zeros(3, np.int64), *data.channel_statistics(pixels))

    def test_normalised_channels_have_mean_zero_and_deviation_one(self):
        values = self.images.normalised(np.arange(3))

        np.testing.assert_allclose(values.mean(axis=(0, 2, 3)), 0, atol=1e-5)  # sums of 3,072 floats
        np.testing.assert_allclose(values.std(axis=(0, 2, 3)), 1, atol=1e-5)

    def test_a_crop_shifts_and_leaves_zeros(self):
        plain = self.images.normalised(np.arange(3))

        centre, corner, mirrored = self.images.augmented(np.arange(3), [(4, 4, 0), (0, 8, 0), (4, 4, 1)])

        np.testing.assert_array_equal(centre, plain[0])
        np.testing.assert_array_equal(corner[:, 4:, :28], plain[1][:, :28, 4:])
        self.assertFalse(corner[:, :4].any() or corner[:, :, 28:].any())
        np.testing.assert_array_equal(mirrored, plain[2][:, :, ::-1])

    def test_a_constant_channel_has_deviation_one(self):
        mean, std = data.channel_statistics(np.full((2, 3, 32, 32), 51, np.uint8))

        self.assertEqual(std.tolist(), [1, 1, 1])
        np.testing.assert_array_equal(mean, np.full(3, 0.2, np.float32))

    def test_a_missing_or_cut_file_is_named(self):
        with tempfile.TemporaryDirectory() as folder:
            with self.assertRaisesRegex(data.DataError, "data_batch_1.bin.*fetch_data"):
                data.load("cifar10", folder, 1, 1)
            write_cifar10(folder)
            with Path(folder, "data_batch_3.bin").open("ab") as file:
                file.write(b"x")
            with self.assertRaisesRegex(data.DataError, "data_batch_3.bin: found 73753 bytes"):
                data.load("cifar10", folder, 1, 1)


class Options(unittest.TestCase):
    def test_the_rate_decays_from_the_given_epochs_on(self):
        options = baselines.parse("--net resnet-32 --data-dir x --lr-decay-epochs 2,4".split())

        rates = [baselines.rate_of(options, epoch) for epoch in range(5)]

        np.testing.assert_allclose(rates, [0.1, 0.1, 0.01, 0.01, 0.001])

    def test_refusals_say_what_was_found(self):
        for words, expected in (("--train-fraction 0", "found '0', expected a number, above 0 and at most 1"),
                                ("--epochs x", "found 'x', expected a whole number, at least 1"),
                                ("--lr-decay-epochs 4,2", "found '4,2', expected ascending epochs")):
            ended = subprocess.run([sys.executable, REPOSITORY / "tools/baselines.py", "--net", "resnet-32", "--data-dir",
                                    ".", *words.split()], capture_output=True, text=True)

            self.assertEqual(ended.returncode, 2)
            self.assertIn(expected, ended.stderr)


@unittest.skipUnless(HAS_TORCH, "needs torch")
class Training(unittest.TestCase):
    def setUp(self):
        scratch = tempfile.TemporaryDirectory()
        self.addCleanup(scratch.cleanup)
        self.folder = Path(scratch.name)
        write_cifar10(self.folder)

    def train(self, run, *options, net="resnet-32"):
        return subprocess.run([sys.executable, REPOSITORY / "tools/baselines.py", "--net", net, "--data-dir", self.folder,
                               "--batch-size", "20", "--train-fraction", "0.5", "--threads", "1", "--output",
                               self.folder / run, *map(str, options)], capture_output=True, text=True)

    def records(self, run, kind):
        lines = (self.folder / run / "metrics.jsonl").read_text().splitlines()
        found = [record for record in map(json.loads, lines) if record["kind"] == kind]
        return [{k: v for k, v in record.items() if k not in ("seconds", "images_per_second")} for record in found]

    def test_networks_have_the_published_sizes(self):
        import baseline_networks
        sizes = {name: baseline_networks.num_parameters(baseline_networks.make(name, 10)) for name in baselines.NETS}

        self.assertEqual(sizes, {"resnet-32": 464154, "revnet-38": 464922})

    def test_weight_decay_leaves_biases_and_norms_alone(self):
        import baseline_networks
        network = baseline_networks.make("resnet-32", 10)
        decayed, others = network.decayed()

        self.assertEqual(len(decayed), 32)  # 31 convolutions and the fully connected weight
        self.assertEqual(len(others), 2 * 31 + 1)

    def test_a_resumed_run_equals_an_uninterrupted_one(self):
        whole = self.train("whole", "--epochs", 2)
        self.assertEqual(whole.returncode, 0, whole.stderr)
        self.train("parts", "--epochs", 1)
        # What was under way when the run was killed.
        with (self.folder / "parts/metrics.jsonl").open("a") as file:
            file.write('{"kind":"epoch","epoch":1,"step":5}\n{"kind":"st')

        refused = self.train("parts", "--epochs", 2)
        other = self.train("parts", "--epochs", 2, "--resume", "auto", "--seed", 2)
        resumed = self.train("parts", "--epochs", 2, "--resume", "auto")

        self.assertEqual((refused.returncode, other.returncode), (2, 2))
        self.assertIn("--resume auto", refused.stderr)
        self.assertIn("--seed 2: the run in", other.stderr)
        self.assertEqual(resumed.returncode, 0, resumed.stderr)
        self.assertEqual(self.records("parts", "epoch"), self.records("whole", "epoch"))
        self.assertEqual(len(self.records("whole", "epoch")), 2)
        self.assertEqual(self.records("parts", "end")[-1], self.records("whole", "end")[-1])
        self.assertTrue(reproduce_results.is_finished(self.folder / "whole"))

    def test_revnet_trains_and_its_run_can_be_drawn(self):
        ended = self.train("run", "--epochs", 1, "--eval-every", 0, net="revnet-38")

        self.assertEqual(ended.returncode, 0, ended.stderr)
        self.assertIn("test_accuracy", self.records("run", "epoch")[0])
        drawn = subprocess.run([sys.executable, REPOSITORY / "tools/plot_metrics.py", self.folder / "run", "-o",
                                self.folder / "run.png"], capture_output=True, text=True)
        if "needs matplotlib" not in drawn.stderr:
            self.assertEqual(drawn.returncode, 0, drawn.stderr)


if __name__ == "__main__":
    unittest.main()
