"""Reads and writes what the oracle needs, with h5py and NumPy alone: checkpoints, gradients, the publishers' image files."""
import json
from pathlib import Path

import h5py
import numpy as np


class InputError(Exception):
    """One sentence for the user."""


def read_model(path):
    """(config, {name below /model: float64 array}) of a checkpoint."""
    if not Path(path).is_file():
        raise InputError(f"no such file: {path}")
    with h5py.File(path, "r") as file:
        config = file.attrs["config"]
        config = json.loads(config.decode() if isinstance(config, bytes) else config)
        return config, read_tree(file["model"])


def read_tree(group):
    arrays = {}
    group.visititems(lambda name, item: arrays.__setitem__(name, item[()].astype(np.float64))
                     if isinstance(item, h5py.Dataset) else None)
    return arrays


def read_gradient(path):
    """(loss, regularization, {name: gradient}, logits) as `revode gradient --output` wrote them."""
    if not Path(path).is_file():
        raise InputError(f"no such file: {path}")
    with h5py.File(path, "r") as file:
        return (float(file.attrs["loss"]), float(file.attrs["regularization"]), read_tree(file["model"]),
                file["logits"][()].astype(np.float64))


def records_of(folder, names, record_bytes):
    """The records of several files, one after the other."""
    parts = []
    for name in names:
        path = Path(folder, name)
        if not path.is_file():
            raise InputError(f"no such file: {path}")
        data = np.fromfile(path, np.uint8)
        if data.size == 0 or data.size % record_bytes:
            raise InputError(f"{path} has {data.size} bytes, expected a whole number of records of {record_bytes}")
        parts.append(data.reshape(-1, record_bytes))
    return np.concatenate(parts)


def read_images(dataset, folder, split):
    """(pixels [N, 3, H, W] uint8, labels [N]) of a split."""
    if dataset == "cifar10":
        names = [f"data_batch_{k}.bin" for k in range(1, 6)] if split == "train" else ["test_batch.bin"]
        records = records_of(folder, names, 1 + 3072)
        return records[:, 1:].reshape(-1, 3, 32, 32), records[:, 0].astype(np.int64)
    if dataset == "cifar100":  # coarse label, fine label, pixels
        records = records_of(folder, [f"{split}.bin"], 2 + 3072)
        return records[:, 2:].reshape(-1, 3, 32, 32), records[:, 1].astype(np.int64)
    if dataset == "stl10":  # planes stored column by column, labels from 1
        pixels = records_of(folder, [f"{split}_X.bin"], 3 * 96 * 96).reshape(-1, 3, 96, 96).transpose(0, 1, 3, 2)
        return pixels, records_of(folder, [f"{split}_y.bin"], 1)[:, 0].astype(np.int64) - 1
    raise InputError(f"unknown dataset '{dataset}'; expected cifar10, cifar100 or stl10")


def random_weights(arch, blocks, widths, num_classes, channels, seed):
    """Random values everywhere, also where a fresh network has 0 or 1, so that no term goes unseen."""
    random = np.random.default_rng(seed)
    couplings = 2 if arch == "hamiltonian" else 1

    def kernels(*shape):
        return random.normal(0, np.sqrt(2 / (9 * shape[-4])), shape)

    def norm(name, size):
        return {f"{name}/scale": random.uniform(0.6, 1.4, size), f"{name}/shift": random.normal(0, 0.2, size),
                f"{name}/mean": random.normal(0, 0.2, size), f"{name}/variance": random.uniform(0.5, 1.5, size)}

    weights = {"input/mean": random.uniform(0.4, 0.6, channels), "input/std": random.uniform(0.2, 0.3, channels),
               "opening/kernel": kernels(widths[0], channels, 3, 3), **norm("opening/norm", widths[0])}
    for k, (num_blocks, width) in enumerate(zip(blocks, widths), start=1):
        c = width // 2 if arch == "hamiltonian" else width
        weights[f"stage_{k}/kernel"] = kernels(couplings * num_blocks, c, c, 3, 3)
        weights[f"stage_{k}/bias"] = random.normal(0, 0.1, (couplings * num_blocks, c))
    weights.update(norm("closing/norm", widths[-1]))
    weights["closing/weight"] = random.uniform(-1, 1, (num_classes, widths[-1])) / np.sqrt(widths[-1])
    weights["closing/bias"] = random.normal(0, 0.1, num_classes)
    # What a file holds is float32: the numbers computed with have to be the same.
    return {name: value.astype(np.float32).astype(np.float64) for name, value in weights.items()}


def write_model(path, config, weights):
    """A file with /model alone."""
    with h5py.File(path, "w") as file:
        file.attrs["format"] = "revode"
        file.attrs["version"] = 1
        file.attrs["config"] = json.dumps(config)
        for name, value in weights.items():
            file[f"model/{name}"] = value.astype(np.float32)


def write_cifar10(folder, num_images, seed):
    """Random images in CIFAR-10's files, `num_images` in each of the six: blotches, so that neighbours are alike."""
    random = np.random.default_rng(seed)
    Path(folder).mkdir(parents=True, exist_ok=True)
    for name in [f"data_batch_{k}.bin" for k in range(1, 6)] + ["test_batch.bin"]:
        coarse = random.integers(0, 256, (num_images, 3, 8, 8)).repeat(4, axis=2).repeat(4, axis=3)
        pixels = np.clip(coarse + random.integers(-40, 41, coarse.shape), 0, 255).reshape(num_images, -1)
        labels = random.integers(0, 10, (num_images, 1))
        np.concatenate([labels, pixels], axis=1).astype(np.uint8).tofile(Path(folder, name))
