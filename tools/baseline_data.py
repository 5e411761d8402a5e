"""The images of CIFAR as revode takes them: files, balanced subset, normalisation, crops and flips. Needs NumPy alone.

The subset of a --train-fraction is the one that revode draws for the same seed, so that networks of both are trained on
the same images. Order and crops of an epoch are draws of its own, functions of (seed, epoch).
"""
from pathlib import Path

import numpy as np

IMAGE = (3, 32, 32)
PADDING = 4
# Files of the training and of the test split; bytes in front of an image, of which the last is the class.
DATASETS = {
    "cifar10": {"train": [f"data_batch_{k}.bin" for k in range(1, 6)], "test": ["test_batch.bin"], "label_bytes": 1,
                "classes": 10},
    "cifar100": {"train": ["train.bin"], "test": ["test.bin"], "label_bytes": 2, "classes": 100},
}
PURPOSE_SUBSET = 5  # of include/revode/core/random.hpp
SHUFFLE, AUGMENTATION = 1, 2  # streams of NumPy's generator here


class DataError(Exception):
    """One sentence for the user."""


def philox(counters, key):
    """Philox4x32-10 of Salmon et al. (SC 2011): counters uint32 [n, 4], key of two numbers -> bits uint32 [n, 4]."""
    c0, c1, c2, c3 = (counters[:, i].astype(np.uint64) for i in range(4))
    low, shift = np.uint64(0xFFFFFFFF), np.uint64(32)
    k0, k1 = int(key[0]), int(key[1])
    for _ in range(10):
        product0, product1 = np.uint64(0xD2511F53) * c0, np.uint64(0xCD9E8D57) * c2
        c0, c1, c2, c3 = ((product1 >> shift) ^ c1 ^ np.uint64(k0), product1 & low,
                          (product0 >> shift) ^ c3 ^ np.uint64(k1), product0 & low)
        k0, k1 = (k0 + 0x9E3779B9) & 0xFFFFFFFF, (k1 + 0xBB67AE85) & 0xFFFFFFFF
    return np.stack([c0, c1, c2, c3], axis=1).astype(np.uint32)


def random_bits(seed, purpose, index, block_size=1024):
    """Yields the draws of revode's RandomStream(seed, purpose, index), one after the other."""
    first = 0
    while True:
        counters = np.empty((block_size, 4), np.uint32)
        counters[:, 0] = np.arange(first, first + block_size)
        counters[:, 1:] = purpose, index & 0xFFFFFFFF, index >> 32
        yield from philox(counters, (seed & 0xFFFFFFFF, seed >> 32)).ravel().tolist()
        first += block_size


def below(bits, bound):
    """RandomStream::below: uniform over 0 .. bound - 1, values that would favour small results drawn again."""
    threshold = (1 << 32) % bound
    while True:
        value = next(bits)
        if value >= threshold:
            return value % bound


def balanced_subset(labels, num_classes, fraction, seed):
    """Ascending indices of the training images in use: of each class the front of a shuffle (balanced_subset of
    src/data/input.cpp)."""
    subset = []
    for label in range(num_classes):
        candidates = np.flatnonzero(labels == label).tolist()
        size = len(candidates)
        if size == 0:
            continue
        exact = fraction * size
        count = max(1, int(exact) + (exact - int(exact) >= 0.5))  # llround
        bits = random_bits(seed, PURPOSE_SUBSET, label)
        for i in range(min(count, size - 1)):
            j = i + below(bits, size - i)
            candidates[i], candidates[j] = candidates[j], candidates[i]
        subset += candidates[:count]
    return np.array(sorted(subset))


def read_split(dataset, folder, split):
    """(pixels uint8 [n, 3, 32, 32], labels int64 [n])"""
    layout = DATASETS[dataset]
    label_bytes = layout["label_bytes"]
    record_bytes = label_bytes + int(np.prod(IMAGE))
    records = []
    for name in layout[split]:
        file = Path(folder, name)
        try:
            content = np.fromfile(file, np.uint8)
        except OSError as error:
            raise DataError(f"--data-dir {folder}: cannot read {name}: {error.strerror}; tools/fetch_data {dataset} DIR "
                            "downloads it") from None
        if len(content) == 0 or len(content) % record_bytes:
            raise DataError(f"{file}: found {len(content)} bytes, expected records of {record_bytes} bytes of {dataset}")
        records.append(content.reshape(-1, record_bytes))
    records = np.concatenate(records)
    labels = records[:, label_bytes - 1].astype(np.int64)
    if labels.max() >= layout["classes"]:
        raise DataError(f"{folder}: found class {labels.max()} in the {split} split of {dataset}, "
                        f"expected 0 to {layout['classes'] - 1}")
    return np.ascontiguousarray(records[:, label_bytes:]).reshape(-1, *IMAGE), labels


def channel_statistics(pixels):
    """(mean, std) a channel of pixel / 255, float32, from exact integer sums as in src/data/input.cpp."""
    mean, std = [], []
    for channel in range(pixels.shape[1]):
        counts = np.bincount(pixels[:, channel].ravel(), minlength=256).tolist()
        n = sum(counts)
        total = sum(value * count for value, count in enumerate(counts))
        squares = sum(value * value * count for value, count in enumerate(counts))
        variance = n * squares - total * total  # times (255 n)^2
        mean.append(total / (255.0 * n))
        std.append(float(variance) ** 0.5 / (255.0 * n) if variance else 1.0)
    return np.array(mean, np.float32), np.array(std, np.float32)


class Images:
    """The images of one split, normalised by the statistics of the training images in use."""

    def __init__(self, pixels, labels, mean, std):
        self.pixels, self.labels = pixels, labels
        self.mean, self.std = mean[:, None, None], std[:, None, None]

    def normalised(self, indices):
        """float32 [n, 3, 32, 32]"""
        return (self.pixels[indices].astype(np.float32) / np.float32(255) - self.mean) / self.std

    def augmented(self, indices, draws):
        """The same, padded with zeros, cropped and mirrored; draws: (row, column, flip) a row, see crops()."""
        padded = np.pad(self.normalised(indices), ((0, 0), (0, 0), (PADDING, PADDING), (PADDING, PADDING)))
        result = np.empty((len(indices), *IMAGE), np.float32)
        for image, source, (row, column, flip) in zip(result, padded, draws):
            part = source[:, row:row + IMAGE[1], column:column + IMAGE[2]]
            image[:] = part[:, :, ::-1] if flip else part
        return result


def epoch_order(size, seed, epoch):
    """The images of an epoch in their order."""
    return np.random.default_rng([SHUFFLE, seed, epoch]).permutation(size)


def crops(size, seed, epoch):
    """(row 0..8, column 0..8, flip 0..1) for each image of an epoch, [size, 3]."""
    draws = np.random.default_rng([AUGMENTATION, seed, epoch])
    return np.stack([draws.integers(0, 2 * PADDING + 1, size), draws.integers(0, 2 * PADDING + 1, size),
                     draws.integers(0, 2, size)], axis=1)


def load(dataset, folder, fraction, seed):
    """(training images in use, test images)"""
    pixels, labels = read_split(dataset, folder, "train")
    subset = balanced_subset(labels, DATASETS[dataset]["classes"], fraction, seed)
    pixels, labels = pixels[subset], labels[subset]
    mean, std = channel_statistics(pixels)
    return Images(pixels, labels, mean, std), Images(*read_split(dataset, folder, "test"), mean, std)
