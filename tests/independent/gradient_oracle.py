#!/usr/bin/env python3
"""An independent computation of loss and gradient, in float64 with NumPy, against what `revode gradient` wrote.

    revode gradient --checkpoint M.h5 --dataset cifar10 --data-dir D --split train --samples 0:20 \\
        --micro-batches 2 --grid-bits 0 --output G.h5
    gradient_oracle.py compare G.h5 --checkpoint M.h5 --dataset cifar10 --data-dir D --split train --samples 0:20 \\
        --micro-batches 2 --grid-bits 0

prints the relative L2 error of the whole gradient, of each array, of the logits and the losses; exit status 1 above
--tolerance, 2 when it cannot compare. Further:

    gradient_oracle.py write-model M.h5 --arch midpoint --blocks 2,1,1 --widths 6,8,12   a random model
    gradient_oracle.py write-data DIR --count 10                                         random images, as CIFAR-10's files
    gradient_oracle.py end-to-end REVODE [LAUNCHER...]                                    all of the above with the program
"""
import argparse
import os
import subprocess
import sys
import tempfile
from pathlib import Path

sys.dont_write_bytecode = True
try:
    import h5py  # noqa: F401
    import numpy as np
except ImportError:
    # Debian's modules belong to Debian's python, which need not be the first on the PATH.
    if os.path.realpath(sys.executable) != os.path.realpath("/usr/bin/python3") and os.path.exists("/usr/bin/python3"):
        os.execv("/usr/bin/python3", ["/usr/bin/python3", *sys.argv])
    print("SKIPPED: needs numpy and h5py (Debian: python3-numpy python3-h5py)", file=sys.stderr)
    sys.exit(77)

import files  # noqa: E402
import numpy_network  # noqa: E402

# A ReLU that flips under float32 rounding moves single entries by about this much (relative to the whole gradient).
TOLERANCE = 1e-3
ARCHITECTURES = ("hamiltonian", "leapfrog", "midpoint")


def relative_error(found, expected):
    """|found - expected| / |expected| over lists of arrays."""
    difference = sum(np.sum((f - e) ** 2) for f, e in zip(found, expected))
    return float(np.sqrt(difference / max(sum(np.sum(e ** 2) for e in expected), 1e-300)))


def expected_result(options):
    """What the network of the checkpoint gives for the samples."""
    config, weights = files.read_model(options.checkpoint)

    def setting(name, default):
        given = getattr(options, name.replace("-", "_"))
        return config.get(name, default) if given is None else given

    pixels, labels = files.read_images(options.dataset, options.data_dir, options.split)
    first, last = options.samples
    if not 0 <= first < last <= len(labels):
        raise files.InputError(f"--samples {first}:{last} does not lie in the {len(labels)} images of the split")
    mean, std = weights["input/mean"][:, None, None], weights["input/std"][:, None, None]
    images = (pixels[first:last] / 255.0 - mean) / std
    network = numpy_network.Network(config["arch"], config["blocks"], config["step-size"], setting("grid-bits", 16))
    backend = numpy_network
    if options.torch:
        import torch_network as backend
    return backend.loss_and_gradient(network, weights, images, labels[first:last],
                                     setting("micro-batches", min(4, last - first)),
                                     setting("weight-decay", 2e-4), setting("smoothness", 2e-4))


def compare(options):
    loss, regularization, gradient, logits = expected_result(options)
    found_loss, found_regularization, found, found_logits = files.read_gradient(options.gradient)
    if set(found) != set(gradient):
        raise files.InputError(f"{options.gradient} holds other arrays: missing {sorted(set(gradient) - set(found))}, "
                               f"unexpected {sorted(set(found) - set(gradient))}")
    for name, expected in {**gradient, "logits": logits}.items():
        shape = found_logits.shape if name == "logits" else found[name].shape
        if shape != expected.shape:
            raise files.InputError(f"{name} has the shape {shape}, expected {expected.shape}")

    names = sorted(gradient)
    errors = {
        "loss": abs(found_loss - loss) / abs(loss),
        "regularization": abs(found_regularization - regularization) / max(abs(regularization), 1e-300),
        "logits": relative_error([found_logits], [logits]),
        "whole gradient": relative_error([found[n] for n in names], [gradient[n] for n in names]),
    }
    print(f"loss {found_loss:.9g}, expected {loss:.9g}; "
          f"regularization {found_regularization:.9g}, expected {regularization:.9g}")
    print("relative errors")
    for name in names:
        print(f"  {name:<24} {relative_error([found[name]], [gradient[name]]):9.2e}   of {gradient[name].size} entries")
    failed = False
    for name, error in errors.items():
        # Written so that NaN fails too.
        good = error <= options.tolerance
        failed |= not good
        print(f"  {name:<24} {error:9.2e}   {'ok' if good else f'ABOVE {options.tolerance:g}'}")
    return 1 if failed else 0


def write_model(options):
    config = {"arch": options.arch, "blocks": options.blocks, "widths": options.widths, "step-size": options.step_size,
              "grid-bits": options.grid_bits, "classes": options.classes, "image": options.image}
    weights = files.random_weights(options.arch, options.blocks, options.widths, options.classes, options.image[0],
                                   options.seed)
    files.write_model(options.file, config, weights)
    return 0


def write_data(options):
    files.write_cifar10(options.folder, options.count, options.seed)
    return 0


def end_to_end(options):
    """For each architecture, with and without a grid: random model and images, the program's gradient, the comparison."""
    failed = []
    with tempfile.TemporaryDirectory() as scratch:
        data, model, gradient = (str(Path(scratch, name)) for name in ("data", "model.h5", "gradient.h5"))
        main(["write-data", data, "--count", "6"])
        for arch in ARCHITECTURES:
            # Odd numbers of new channels where the architecture allows them.
            widths = "4,6,10" if arch == "hamiltonian" else "3,6,7"
            for grid_bits in ("0", "16"):
                main(["write-model", model, "--arch", arch, "--blocks", "2,1,2", "--widths", widths,
                      "--grid-bits", grid_bits])
                # Samples from two files; micro-batches of 6, 5 and 5.
                samples = ["--checkpoint", model, "--dataset", "cifar10", "--data-dir", data, "--split", "train",
                           "--samples", "3:19", "--micro-batches", "3", "--grid-bits", grid_bits,
                           "--weight-decay", "0.01", "--smoothness", "0.003"]
                print(f"\n{arch}, grid bits {grid_bits}", flush=True)
                command = [*options.launcher, options.revode, "gradient", *samples, "--output", gradient]
                status = subprocess.run(command, stdout=subprocess.DEVNULL).returncode
                if status:
                    print(f"'{' '.join(command)}' ended with exit status {status}")
                if status or main(["compare", gradient, *samples]):
                    failed.append(f"{arch} with grid bits {grid_bits}")
                Path(gradient).unlink(missing_ok=True)
    print(f"\n{'FAILED: ' + ', '.join(failed) if failed else 'all agree'}")
    return 1 if failed else 0


def numbers(text):
    return [int(part) for part in text.split(",")]


def sample_range(text):
    first, last = text.split(":")
    return int(first), int(last)


def parse(arguments):
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    commands = parser.add_subparsers(required=True, metavar="COMMAND")

    command = commands.add_parser("compare", help="a file of `revode gradient` with the independent computation")
    command.set_defaults(run=compare)
    command.add_argument("gradient", metavar="G.h5")
    command.add_argument("--checkpoint", required=True)
    command.add_argument("--dataset", default="cifar10")
    command.add_argument("--data-dir", required=True)
    command.add_argument("--split", default="train", choices=("train", "test"))
    command.add_argument("--samples", type=sample_range, required=True, metavar="FIRST:LAST")
    command.add_argument("--micro-batches", type=int)
    command.add_argument("--grid-bits", type=int)
    command.add_argument("--weight-decay", type=float)
    command.add_argument("--smoothness", type=float)
    command.add_argument("--tolerance", type=float, default=TOLERANCE)
    command.add_argument("--torch", action="store_true", help="PyTorch's autograd instead of NumPy (grid 0 only)")

    command = commands.add_parser("write-model", help="a random model in a file of its own")
    command.set_defaults(run=write_model)
    command.add_argument("file", metavar="M.h5")
    command.add_argument("--arch", choices=ARCHITECTURES, required=True)
    command.add_argument("--blocks", type=numbers, required=True)
    command.add_argument("--widths", type=numbers, required=True)
    command.add_argument("--step-size", type=float, default=0.1)
    command.add_argument("--grid-bits", type=int, default=16)
    command.add_argument("--classes", type=int, default=10)
    command.add_argument("--image", type=numbers, default=[3, 32, 32])
    command.add_argument("--seed", type=int, default=1)

    command = commands.add_parser("write-data", help="random images in CIFAR-10's files")
    command.set_defaults(run=write_data)
    command.add_argument("folder", metavar="DIR")
    command.add_argument("--count", type=int, default=20, help="images in each of the six files")
    command.add_argument("--seed", type=int, default=2)

    command = commands.add_parser("end-to-end", help="all of this with the program")
    command.set_defaults(run=end_to_end)
    command.add_argument("revode", metavar="REVODE")
    command.add_argument("launcher", nargs=argparse.REMAINDER, metavar="LAUNCHER", help="e.g. mpirun -n 3")
    return parser.parse_args(arguments)


def main(arguments=None):
    options = parse(arguments)
    try:
        return options.run(options)
    except (files.InputError, OSError, KeyError, ValueError) as error:
        print(f"gradient_oracle: error: {error}", file=sys.stderr)
        return 2


if __name__ == "__main__":
    sys.exit(main())
