#!/usr/bin/env python3
"""Times whole training steps of revode and of PyTorch, side by side, on the same network, weights and images.

    tools/compare_pytorch.py --revode build/src/revode --arch hamiltonian --depth 74 --batch 100 --threads 2
    tools/compare_pytorch.py --revode build/src/revode --arch hamiltonian --depth 74 --device cuda --precision fp32,tf32,bf16

1. All compute loss and gradient of the same samples, which must agree with those of PyTorch in double precision.
2. In each round, revode (`revode bench`) and every PyTorch variant take some training steps, in turn: forward,
   backward, weight decay, smoothness, SGD with momentum.
3. Prints medians, ratios and the peak memory of each process.

PyTorch comes in four variants, all in channels_last unless --layout says otherwise, with K^T on the CPU as a convolution
with flipped weights (which oneDNN does several times faster than conv_transpose2d) and, for midpoint, K - K^T merged into
one kernel:

    plain           autograd keeps every activation
    compiled        the same through torch.compile; on a GPU with mode="reduce-overhead", which uses CUDA graphs
    checkpointing   torch.utils.checkpoint over runs of about sqrt(n) of the n blocks of a stage
    reversible      an autograd function a stage that inverts and linearises each coupling in one evaluation

and each of them in every arithmetic that --precision names:

    fp32   IEEE single precision
    tf32   the same, but products of matrices and convolutions round their operands to tf32 (GPU only)
    bf16   torch.autocast to bfloat16 around the forward pass; weights, sums of batch norm, loss and momentum in fp32

revode computes in them too, as far as it can; where it can't, the table says so, and PyTorch stands beside its fp32.

Each runs in a process of its own. Works with any PyTorch from 1.13 on (Debian: python3-torch, python3-h5py); `compiled`
needs 2.0.

    tools/compare_pytorch.py --revode build/src/revode --ranks 2 --micro-batches 4,16

compares pipelines: revode on 2 time ranks, and torch.distributed.pipelining (Schedule1F1B over gloo; PyTorch 2.4 or newer)
with the network cut at the same blocks, one process a rank. Both keep the 1F1B order; PyTorch's autograd keeps activations.
Smoothness, which would couple the ranks' weights, is off on both sides. PyTorch comes eager, and compiled by torch.compile.
"""
import argparse
import importlib.util
import os
import signal
import sys
from pathlib import Path

sys.dont_write_bytecode = True
from comparison_processes import CompareError
from comparison_variants import KINDS, PRECISIONS, can_compile, default_kinds, version_of

MODES = ("eager", "compiled")


def need_torch():
    if importlib.util.find_spec("torch") and importlib.util.find_spec("h5py"):
        return
    # Debian's modules belong to Debian's python, which need not be the first on the PATH.
    if os.path.realpath(sys.executable) != os.path.realpath("/usr/bin/python3") and os.path.exists("/usr/bin/python3"):
        os.execv("/usr/bin/python3", ["/usr/bin/python3", *sys.argv])
    print("SKIPPED: needs torch and h5py (Debian: python3-torch python3-h5py)", file=sys.stderr)
    sys.exit(77)


def torch_folder():
    return Path(importlib.util.find_spec("torch").submodule_search_locations[0])


def choose_kinds(options, version):
    """Those asked for, else those that this PyTorch has."""
    if "compiled" in (options.variants or []) and not can_compile(version):
        raise CompareError("--variants compiled: torch.compile came with PyTorch 2.0, and this is "
                           f"{version}; leave it out, or install a newer one (pip install torch numpy h5py)")
    return options.variants or default_kinds(version)


def need_pipelining():
    folder = torch_folder()
    if not (folder / "distributed" / "pipelining").is_dir():
        raise CompareError(f"the PyTorch in {folder} has no torch.distributed.pipelining; --ranks needs 2.4 or newer "
                           "(pip install torch numpy h5py)")


def positive(text):
    number = int(text)
    if number < 1:
        raise argparse.ArgumentTypeError(f"found {number}, expected at least 1")
    return number


def positives(text):
    return [positive(each) for each in text.split(",")]


def names(text):
    return list(dict.fromkeys(text.split(",")))


def check_names(parser, option, found, known, where):
    for name in found:
        if name not in known:
            parser.error(f"argument {option}: found '{name}'{where}, expected some of {','.join(known)}")


def parse(arguments):
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--revode", default="revode", metavar="PATH", help="the program (default: on the PATH)")
    parser.add_argument("--checkpoint", metavar="FILE", help="take network and weights from it (default: initial weights)")
    parser.add_argument("--arch", default="hamiltonian", choices=("hamiltonian", "leapfrog", "midpoint"))
    parser.add_argument("--depth", metavar="D", help="as revode's (default 74)")
    parser.add_argument("--blocks", metavar="A,B,C", help="as revode's")
    parser.add_argument("--widths", metavar="A,B,C", help="as revode's")
    parser.add_argument("--ranks", type=positive, default=1, metavar="R",
                        help="time ranks of revode, stages of torch.distributed.pipelining (default 1: no pipeline)")
    parser.add_argument("--micro-batches", type=positives, metavar="M,N",
                        help="with --ranks: each is timed (default 4,16)")
    parser.add_argument("--mpirun", default="mpirun", metavar="COMMAND",
                        help="what starts revode's ranks, with options if need be (default mpirun)")
    parser.add_argument("--batch", type=positive, metavar="N", help="images a step (default 100; with --ranks 128)")
    parser.add_argument("--image-size", type=positive, default=32, metavar="N",
                        help="side of the images in pixels (default 32: random ones; else revode's built-in ones)")
    parser.add_argument("--rounds", type=positive, default=5, metavar="N", help="default 5")
    parser.add_argument("--steps", type=positive, default=3, metavar="N", help="training steps a round (default 3)")
    parser.add_argument("--threads", type=positive, metavar="N",
                        help="of each program (default: the processors it may use); with --ranks of each rank (default 1)")
    parser.add_argument("--activations", default="reverse", choices=("reverse", "store"), help="revode's")
    parser.add_argument("--variants", type=names, metavar="A,B",
                        help=f"of PyTorch (default {','.join(KINDS)}; with --ranks {','.join(MODES)})")
    parser.add_argument("--device", default="cpu", choices=tuple(PRECISIONS),
                        help="of PyTorch, and revode's --backend (default cpu)")
    parser.add_argument("--layout", choices=("channels_last", "contiguous"),
                        help="of PyTorch's images and kernels (default channels_last)")
    parser.add_argument("--precision", type=names, default=["fp32"], metavar="A,B",
                        help="arithmetic: each is timed (default fp32; cpu also bf16, cuda also tf32,bf16)")
    parser.add_argument("--time-limit", type=positive, default=900, metavar="SECONDS",
                        help="for each run of revode and, with --ranks, each answer of PyTorch (default 900)")
    parser.add_argument("--json", metavar="FILE", help="write the result there as one JSON object")
    options = parser.parse_args(arguments)

    pipelined = options.ranks > 1
    if options.micro_batches and not pipelined:
        parser.error("--micro-batches needs --ranks 2 or more: on one rank a mini-batch is one micro-batch")
    options.batch = options.batch or (128 if pipelined else 100)
    options.threads = options.threads or (1 if pipelined else len(os.sched_getaffinity(0)))
    options.micro_batches = options.micro_batches or ([4, 16] if pipelined else [1])
    for number in options.micro_batches:
        if options.batch % number:
            parser.error(f"--batch {options.batch} can't be cut into {number} equal micro-batches, which PyTorch's "
                         "pipeline needs; choose a divisor for --micro-batches")
        if pipelined and number < options.ranks:
            parser.error(f"{number} micro-batches are too few for {options.ranks} ranks: Schedule1F1B needs at least as many")
    if pipelined and (options.device, options.precision) != ("cpu", ["fp32"]):
        parser.error(f"found --device {options.device} --precision {','.join(options.precision)} with --ranks "
                     f"{options.ranks}, expected --device cpu --precision fp32: pipelines are compared in no other way")
    if pipelined and options.layout:
        parser.error(f"found --layout {options.layout} with --ranks {options.ranks}: pipelines are compared in "
                     "channels_last alone")
    options.layout = options.layout or "channels_last"
    check_names(parser, "--precision", options.precision, PRECISIONS[options.device], f" with --device {options.device}")
    check_names(parser, "--variants", options.variants or [], MODES if pipelined else KINDS, "")
    if pipelined:
        options.variants = options.variants or list(MODES)
    return options


def main():
    options = parse(sys.argv[1:])
    need_torch()
    # Told to stop, it takes the way of an error: processes are ended and files removed.
    signal.signal(signal.SIGTERM, lambda number, _: sys.exit(128 + number))
    try:
        if options.ranks == 1:
            options.variants = choose_kinds(options, version_of(torch_folder()))
            import compare_one_rank
            return compare_one_rank.compare(options)
        need_pipelining()
        import compare_pipelines
        return compare_pipelines.compare(options)
    except (CompareError, OSError) as error:
        print(f"compare_pytorch: error: {error}", file=sys.stderr)
        return 1


if __name__ == "__main__":
    sys.exit(main())
