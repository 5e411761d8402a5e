"""The network, weights and images that both programs of compare_pytorch get, and the gradients that both compute of them.
Knows no timing.
"""
import json
import math
from pathlib import Path

import h5py
import numpy as np

from comparison_processes import CompareError, refusal_of_revode, run_revode
from comparison_variants import TOLERANCE

MOMENTUM, RATE, WEIGHT_DECAY, SMOOTHNESS = 0.9, 0.1, 2e-4, 2e-4
CIFAR_SIZE = 32


def write_images(folder, count):
    """Random images in CIFAR-10's files, the first `count` of the training split among them."""
    random = np.random.default_rng(1)
    folder.mkdir()
    for name in (*(f"data_batch_{k}.bin" for k in range(1, 6)), "test_batch.bin"):
        records = random.integers(0, 256, (count if name == "data_batch_1.bin" else 1, 3073), dtype=np.uint8)
        records[:, 0] = np.arange(len(records)) % 10
        records.tofile(folder / name)
    records = np.fromfile(folder / "data_batch_1.bin", np.uint8).reshape(-1, 3073)
    return records[:, 1:].reshape(-1, 3, CIFAR_SIZE, CIFAR_SIZE), records[:, 0].astype(np.int64)


def images_of(options, folder):
    """Options that name the images: the random ones or, of another size, revode's built-in ones."""
    if options.image_size == CIFAR_SIZE:
        return ["--dataset", "cifar10", "--data-dir", folder / "data"]
    return ["--dataset", "synthetic", "--image-size", options.image_size]


def images_of_bench(options, folder):
    """Those, and of the built-in ones no more than a mini-batch and a few, so that neither program holds more."""
    if options.image_size == CIFAR_SIZE:
        return images_of(options, folder)
    present = 8000 * min(1, (128 / options.image_size) ** 2)  # see `revode --help`, --image-size
    return [*images_of(options, folder), "--train-fraction", min(1, (options.batch + 20) / present)]


def make_checkpoint(options, folder):
    """The checkpoint of a run of a few steps, unless one was given.

    Initial biases are 0, and so are many inputs of ReLUs behind the opening's: a rebuilt state that misses 0 by a rounding
    error flips them by the thousand. After some steps no such point is left.
    """
    if options.checkpoint:
        return Path(options.checkpoint)
    network = ["--arch", options.arch]
    for name in ("depth", "blocks", "widths"):
        if getattr(options, name):
            network += [f"--{name}", getattr(options, name)]
    run_revode(options, 1, "train", *network, "--dataset", "cifar10", "--data-dir", folder / "data", "--steps", 4,
               "--batch-size", options.batch, "--micro-batches", 1, "--output", folder / "run", "--threads",
               options.threads, "--progress", "off", "--backend", options.device)
    return folder / "run" / "latest.h5"


def read_checkpoint(path):
    if not path.is_file():
        raise CompareError(f"no such checkpoint: {path}")
    with h5py.File(path, "r") as file:
        config = file.attrs["config"]
        config = json.loads(config.decode() if isinstance(config, bytes) else config)
        weights = {}
        file["model"].visititems(lambda name, item: weights.__setitem__(name, item[()])
                                 if isinstance(item, h5py.Dataset) else None)
    return config, weights


def set_image_size(options, config, path):
    """Weights know no size: the run of a few steps, which the random images train, serves any."""
    image = [3, options.image_size, options.image_size]
    if not options.checkpoint:
        config["image"] = image
    if config["image"] != image or config["classes"] != 10:
        raise CompareError(f"{path} is for images {config['image']} of {config['classes']} classes; expected a model "
                           f"for {image} and 10, which the images made here are (--image-size)")


def write_model(path, config, weights):
    """A checkpoint that holds a model alone."""
    with h5py.File(path, "w") as file:
        file.attrs["format"], file.attrs["version"], file.attrs["config"] = "revode", 1, json.dumps(config)
        for name, array in weights.items():
            file[f"model/{name}"] = array


def read_samples(options, folder):
    """Pixels and labels of a mini-batch of revode's built-in images."""
    output = folder / "samples.h5"
    run_revode(options, 1, "gradient", "--checkpoint", folder / "model.h5", *images_of(options, folder), "--split",
               "train", "--samples", f"0:{options.batch}", "--micro-batches", options.batch, "--threads",
               options.threads, "--backend", options.device, "--output", output)
    with h5py.File(output, "r") as file:
        return file["images"][()].astype(np.uint8), file["labels"][()].astype(np.int64)


def prepare(options, folder, smoothness=SMOOTHNESS):
    """Images, weights and the files from which revode and the workers read them."""
    pixels, labels = write_images(folder / "data", options.batch)
    path = make_checkpoint(options, folder)
    config, weights = read_checkpoint(path)
    set_image_size(options, config, path)
    (folder / "model.json").write_text(json.dumps({"arch": config["arch"], "h": config["step-size"],
                                                   "blocks": config["blocks"], "widths": config["widths"], "rate": RATE,
                                                   "momentum": MOMENTUM, "weight_decay": WEIGHT_DECAY,
                                                   "smoothness": smoothness}))
    # PyTorch knows no grid, and rounding to it flips ReLUs: gradients are compared without, steps are timed with it.
    write_model(folder / "no-grid.h5", {**config, "grid-bits": 0}, weights)
    write_model(folder / "model.h5", config, weights)
    if options.image_size != CIFAR_SIZE:
        pixels, labels = read_samples(options, folder)
    np.savez(folder / "model.npz", **weights, **{"data/pixels": pixels, "data/labels": labels})
    return config


def relative_error(found, expected):
    difference = sum(float(np.sum((np.float64(f) - e) ** 2)) for f, e in zip(found, expected))
    return math.sqrt(difference / sum(float(np.sum(np.float64(e) ** 2)) for e in expected))


def read_gradient(path):
    """By (array, row)."""
    with np.load(path) as file:
        return {key: file[key] for key in file.files}


def gradient_of_pytorch(worker, folder, micro_batches=1):
    """Loss, and gradients by (array, row)."""
    loss = worker.ask(do="gradient", micro_batches=micro_batches)["loss"]
    return loss, read_gradient(folder / f"{worker.variant}.npz")


def gradient_of_revode(options, folder, micro_batches=1, smoothness=SMOOTHNESS, precision="fp32"):
    output = folder / "gradient.h5"
    run_revode(options, options.ranks, "gradient", "--checkpoint", folder / "no-grid.h5",
               *images_of(options, folder), "--split", "train", "--samples", f"0:{options.batch}", "--micro-batches",
               micro_batches, "--weight-decay", WEIGHT_DECAY, "--smoothness", smoothness, "--threads", options.threads,
               "--backend", options.device, "--precision", precision, "--output", output)
    arrays = {}

    def keep(name, item):
        if isinstance(item, h5py.Dataset):
            rows = item[()] if name.startswith("stage_") else [item[()]]
            arrays.update({f"{name}:{j}": row for j, row in enumerate(rows)})

    with h5py.File(output, "r") as file:
        file["model"].visititems(keep)
        return float(file.attrs["loss"]), arrays


def compare_gradients(name, found, expected, gradient_allowed=TOLERANCE, loss_allowed=TOLERANCE):
    """Relative errors of (loss, gradients), and what was allowed; too large ones are an error."""
    (loss, gradients), (expected_loss, expected_gradients) = found, expected
    errors = {"loss": abs(loss - expected_loss) / abs(expected_loss),
              "gradient": relative_error([gradients[key] for key in expected_gradients], expected_gradients.values())}
    print(f"  {name:<18} loss {loss:.7f}, gradient differs by {errors['gradient']:.1e} of its norm "
          f"(allowed {gradient_allowed:.1e})", flush=True)
    for what, allowed in (("gradient", gradient_allowed), ("loss", loss_allowed)):
        # Written so that NaN fails too.
        if not errors[what] < allowed:
            raise CompareError(f"the {what} of {name} differs from double precision by {errors[what]:.1e}, and at most "
                               f"{allowed:.1e} is expected: timing a network that computes something else would mean "
                               "nothing")
    return {**errors, "gradient_allowed": gradient_allowed, "loss_allowed": loss_allowed}


# One slice a rank, cut in the same place each time: what PyTorch's pipeline has.
FIXED_CUT = ["--schedule", "1f1b", "--partition", "flops"]


def bench_arguments(options, folder, micro_batches, smoothness, steps, precision):
    return ["bench", "--checkpoint", folder / "model.h5", *images_of_bench(options, folder), "--batch-size",
            options.batch, "--micro-batches", micro_batches, "--augment", "off", "--threads", options.threads, "--backend",
            options.device, "--precision", precision, "--activations", options.activations, "--steps",
            steps or options.steps, "--learning-rate", RATE, "--momentum", MOMENTUM, "--weight-decay",
            WEIGHT_DECAY, "--smoothness", smoothness, *FIXED_CUT, "--json", "-"]


def bench_revode(options, folder, micro_batches=1, smoothness=SMOOTHNESS, steps=None, precision="fp32"):
    return json.loads(run_revode(options, options.ranks, *bench_arguments(options, folder, micro_batches, smoothness, steps,
                                                                          precision)))


def refused_precision(options, folder, precision):
    """Why this revode does not compute so: its sentence, or nothing."""
    return refusal_of_revode(options, "--precision", *bench_arguments(options, folder, 1, SMOOTHNESS, 1, precision))
