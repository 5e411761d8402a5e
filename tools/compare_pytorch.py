#!/usr/bin/env python3
"""Times whole training steps of revode and of PyTorch, side by side, on the same network, weights and images.

    tools/compare_pytorch.py --revode build/src/revode --arch hamiltonian --depth 74 --batch 100 --threads 2

1. All compute loss and gradient of the same samples, which must agree with those of PyTorch in double precision.
2. In each round, revode (`revode bench`) and every PyTorch variant take some training steps, in turn: forward,
   backward, weight decay, smoothness, SGD with momentum.
3. Prints medians, ratios and the peak memory of each process.

PyTorch comes in three variants, all in channels_last, with K^T as a convolution with flipped weights (which oneDNN does
several times faster than conv_transpose2d) and, for midpoint, K - K^T merged into one kernel:

    plain           autograd keeps every activation
    checkpointing   torch.utils.checkpoint over runs of about sqrt(n) of the n blocks of a stage
    reversible      an autograd function a stage that inverts and linearises each coupling in one evaluation

Each runs in a process of its own. Works with any PyTorch from 1.13 on (Debian: python3-torch, python3-h5py).
"""
import argparse
import importlib.util
import os
import sys

sys.dont_write_bytecode = True
from comparison_processes import CompareError

VARIANTS = ("plain", "checkpointing", "reversible")


def need_torch():
    if importlib.util.find_spec("torch") and importlib.util.find_spec("h5py"):
        return
    # Debian's modules belong to Debian's python, which need not be the first on the PATH.
    if os.path.realpath(sys.executable) != os.path.realpath("/usr/bin/python3") and os.path.exists("/usr/bin/python3"):
        os.execv("/usr/bin/python3", ["/usr/bin/python3", *sys.argv])
    print("SKIPPED: needs torch and h5py (Debian: python3-torch python3-h5py)", file=sys.stderr)
    sys.exit(77)


def positive(text):
    number = int(text)
    if number < 1:
        raise argparse.ArgumentTypeError(f"found {number}, expected at least 1")
    return number


def variants(text):
    names = text.split(",")
    for name in names:
        if name not in VARIANTS:
            raise argparse.ArgumentTypeError(f"found '{name}', expected some of {','.join(VARIANTS)}")
    return names


def parse(arguments):
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--revode", default="revode", metavar="PATH", help="the program (default: on the PATH)")
    parser.add_argument("--checkpoint", metavar="FILE", help="take network and weights from it (default: initial weights)")
    parser.add_argument("--arch", default="hamiltonian", choices=("hamiltonian", "leapfrog", "midpoint"))
    parser.add_argument("--depth", metavar="D", help="as revode's (default 74)")
    parser.add_argument("--blocks", metavar="A,B,C", help="as revode's")
    parser.add_argument("--widths", metavar="A,B,C", help="as revode's")
    parser.add_argument("--batch", type=positive, default=100, metavar="N", help="images a step (default 100)")
    parser.add_argument("--rounds", type=positive, default=5, metavar="N", help="default 5")
    parser.add_argument("--steps", type=positive, default=3, metavar="N", help="training steps a round (default 3)")
    parser.add_argument("--threads", type=positive, default=len(os.sched_getaffinity(0)), metavar="N",
                        help="of each program (default: the processors it may use)")
    parser.add_argument("--activations", default="reverse", choices=("reverse", "store"), help="revode's")
    parser.add_argument("--variants", type=variants, default=list(VARIANTS), metavar="A,B",
                        help=f"of PyTorch (default {','.join(VARIANTS)})")
    parser.add_argument("--json", metavar="FILE", help="write the result there as one JSON object")
    return parser.parse_args(arguments)


def main():
    options = parse(sys.argv[1:])
    need_torch()
    try:
        import compare_one_rank
        return compare_one_rank.compare(options)
    except (CompareError, OSError) as error:
        print(f"compare_pytorch: error: {error}", file=sys.stderr)
        return 1


if __name__ == "__main__":
    sys.exit(main())
