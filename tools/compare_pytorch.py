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
import json
import math
import os
import platform
import shutil
import statistics
import subprocess
import sys
import tempfile
from pathlib import Path

sys.dont_write_bytecode = True
try:
    import h5py
    import numpy as np
    if importlib.util.find_spec("torch") is None:
        raise ImportError("no torch")
except ImportError:
    # Debian's modules belong to Debian's python, which need not be the first on the PATH.
    if os.path.realpath(sys.executable) != os.path.realpath("/usr/bin/python3") and os.path.exists("/usr/bin/python3"):
        os.execv("/usr/bin/python3", ["/usr/bin/python3", *sys.argv])
    print("SKIPPED: needs torch and h5py (Debian: python3-torch python3-h5py)", file=sys.stderr)
    sys.exit(77)

VARIANTS = ("plain", "checkpointing", "reversible")
# What single precision may move the whole gradient by, relative to its norm: ReLUs flip under rounding. A wrong formula
# moves it by its norm.
TOLERANCE = 1e-2
MOMENTUM, RATE, WEIGHT_DECAY, SMOOTHNESS = 0.9, 0.1, 2e-4, 2e-4


class CompareError(Exception):
    """One sentence for the user."""


class Worker:
    """A variant in a process of its own."""

    def __init__(self, variant, folder, threads, precision="single"):
        self.variant = variant
        self.process = subprocess.Popen(
            [sys.executable, Path(__file__).with_name("pytorch_training.py"), variant, folder, str(threads), precision],
            stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True,
            env={**os.environ, "OMP_NUM_THREADS": str(threads), "MKL_NUM_THREADS": str(threads)})

    def ask(self, **command):
        try:
            self.process.stdin.write(json.dumps(command) + "\n")
            self.process.stdin.flush()
        except BrokenPipeError:
            pass
        line = self.process.stdout.readline()
        if not line:
            raise CompareError(f"PyTorch ({self.variant}) ended with exit status {self.process.wait()}; "
                               "what it said is above")
        return json.loads(line)

    def close(self):
        self.process.stdin.close()
        self.process.wait()


def run_revode(options, command, *arguments):
    words = [options.revode, command, *map(str, arguments)]
    try:
        result = subprocess.run(words, stdout=subprocess.PIPE, text=True, check=False)
    except OSError as error:
        raise CompareError(f"{options.revode} can't be started: {error.strerror}; give the program with --revode") from None
    if result.returncode:
        raise CompareError(f"'{' '.join(words)}' ended with exit status {result.returncode}; what it said is above")
    return result.stdout


def write_images(folder, count):
    """Random images in CIFAR-10's files, the first `count` of the training split among them."""
    random = np.random.default_rng(1)
    folder.mkdir()
    for name in (*(f"data_batch_{k}.bin" for k in range(1, 6)), "test_batch.bin"):
        records = random.integers(0, 256, (count if name == "data_batch_1.bin" else 1, 3073), dtype=np.uint8)
        records[:, 0] = np.arange(len(records)) % 10
        records.tofile(folder / name)
    records = np.fromfile(folder / "data_batch_1.bin", np.uint8).reshape(-1, 3073)
    return records[:, 1:].reshape(-1, 3, 32, 32), records[:, 0].astype(np.int64)


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
    run_revode(options, "train", *network, "--dataset", "cifar10", "--data-dir", folder / "data", "--steps", 4,
               "--batch-size", options.batch, "--micro-batches", 1, "--output", folder / "run", "--threads",
               options.threads, "--progress", "off")
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
    if config["image"] != [3, 32, 32] or config["classes"] != 10:
        raise CompareError(f"{path} is for images {config['image']} of {config['classes']} classes; expected a model "
                           "for [3, 32, 32] and 10, which the images made here are")
    return config, weights


def write_model(path, config, weights):
    """A checkpoint that holds a model alone."""
    with h5py.File(path, "w") as file:
        file.attrs["format"], file.attrs["version"], file.attrs["config"] = "revode", 1, json.dumps(config)
        for name, array in weights.items():
            file[f"model/{name}"] = array


def prepare(options, folder):
    """Images, weights and the files from which revode and the workers read them."""
    pixels, labels = write_images(folder / "data", options.batch)
    path = make_checkpoint(options, folder)
    config, weights = read_checkpoint(path)
    (folder / "model.json").write_text(json.dumps({"arch": config["arch"], "h": config["step-size"],
                                                   "blocks": config["blocks"], "rate": RATE, "momentum": MOMENTUM,
                                                   "weight_decay": WEIGHT_DECAY, "smoothness": SMOOTHNESS}))
    np.savez(folder / "model.npz", **weights, **{"data/pixels": pixels, "data/labels": labels})
    # PyTorch knows no grid, and rounding to it flips ReLUs: gradients are compared without, steps are timed with it.
    write_model(folder / "no-grid.h5", {**config, "grid-bits": 0}, weights)
    write_model(folder / "model.h5", config, weights)
    return config


def relative_error(found, expected):
    difference = sum(float(np.sum((np.float64(f) - e) ** 2)) for f, e in zip(found, expected))
    return math.sqrt(difference / sum(float(np.sum(np.float64(e) ** 2)) for e in expected))


def gradient_of_pytorch(worker, folder):
    """Loss, and gradients by (array, row)."""
    loss = worker.ask(do="gradient")["loss"]
    with np.load(folder / f"{worker.variant}.npz") as file:
        return loss, {key: file[key] for key in file.files}


def gradient_of_revode(options, folder):
    output = folder / "gradient.h5"
    run_revode(options, "gradient", "--checkpoint", folder / "no-grid.h5", "--dataset", "cifar10", "--data-dir",
               folder / "data", "--split", "train", "--samples", f"0:{options.batch}", "--micro-batches", 1,
               "--weight-decay", WEIGHT_DECAY, "--smoothness", SMOOTHNESS, "--threads", options.threads,
               "--output", output)
    arrays = {}

    def keep(name, item):
        if isinstance(item, h5py.Dataset):
            rows = item[()] if name.startswith("stage_") else [item[()]]
            arrays.update({f"{name}:{j}": row for j, row in enumerate(rows)})

    with h5py.File(output, "r") as file:
        file["model"].visititems(keep)
        return float(file.attrs["loss"]), arrays


def check_gradients(options, folder, workers):
    """Loss and gradient of the same samples against PyTorch's in double precision; relative errors by name."""
    oracle = Worker("plain", folder, options.threads, "double")
    try:
        expected_loss, expected = gradient_of_pytorch(oracle, folder)
    finally:
        oracle.close()
    print(f"  {'double':<15} loss {expected_loss:.7f}", flush=True)
    errors = {}
    for name in ("revode", *workers):
        loss, found = (gradient_of_revode(options, folder) if name == "revode" else
                       gradient_of_pytorch(name, folder))
        name = getattr(name, "variant", name)
        errors[name] = {"loss": abs(loss - expected_loss) / abs(expected_loss),
                        "gradient": relative_error([found[key] for key in expected], expected.values())}
        print(f"  {name:<15} loss {loss:.7f}, gradient differs by {errors[name]['gradient']:.1e} of its norm", flush=True)
        # Written so that NaN fails too.
        if not max(errors[name].values()) < TOLERANCE:
            raise CompareError(f"{name} differs from double precision by more than {TOLERANCE:g}: timing a network that "
                               "computes something else would mean nothing")
    return errors


def bench_revode(options, folder):
    text = run_revode(options, "bench", "--checkpoint", folder / "model.h5", "--dataset", "cifar10", "--data-dir",
                      folder / "data", "--batch-size", options.batch, "--micro-batches", 1, "--augment", "off",
                      "--threads", options.threads, "--activations", options.activations, "--steps", options.steps,
                      "--learning-rate", RATE, "--momentum", MOMENTUM, "--weight-decay", WEIGHT_DECAY,
                      "--smoothness", SMOOTHNESS, "--json", "-")
    return json.loads(text)


def note_lowest(result, seconds):
    result["step_seconds_lowest"] = min(result["step_seconds_lowest"], seconds)


def time_rounds(options, folder, workers):
    """Results by name: median seconds of each round, peak memory."""
    results = {name: {"round_seconds": [], "step_seconds_lowest": math.inf} for name in ("revode", *(each.variant for each in workers))}
    for each in workers:
        each.ask(do="steps", count=2)  # warm up, as `revode bench` does by itself
    for number in range(1, options.rounds + 1):
        bench = bench_revode(options, folder)
        results["revode"]["round_seconds"].append(bench["step_seconds"])
        note_lowest(results["revode"], bench["step_seconds_lowest"])
        results["revode"]["peak_memory_bytes"] = max(bench["peak_memory_bytes"])
        results["revode"].setdefault("bench", []).append(bench)
        for each in workers:
            answer = each.ask(do="steps", count=options.steps)
            results[each.variant]["round_seconds"].append(statistics.median(answer["seconds"]))
            note_lowest(results[each.variant], min(answer["seconds"]))
            results[each.variant].update(peak_memory_bytes=answer["peak_memory_bytes"],
                                         base_memory_bytes=answer["base_memory_bytes"], torch=answer["torch"])
        print(f"  round {number}: " + ", ".join(f"{name} {1e3 * result['round_seconds'][-1]:.0f} ms"
                                                 for name, result in results.items()), flush=True)
    for result in results.values():
        result["step_seconds"] = statistics.median(result["round_seconds"])
        result["images_per_second"] = options.batch / result["step_seconds"]
        # Of one round each: what else the machine does then slows both.
        ratios = [theirs / ours for theirs, ours in zip(result["round_seconds"], results["revode"]["round_seconds"])]
        result["revode_is_faster_by"] = statistics.median(ratios)
        result["ratio_lowest"], result["ratio_highest"] = min(ratios), max(ratios)
        result["memory_of_revode"] = results["revode"]["peak_memory_bytes"] / result["peak_memory_bytes"]
    return results


def print_table(options, config, results):
    bench = results["revode"]["bench"][-1]
    torch = results[options.variants[0]]["torch"]
    print(f"\n{config['arch']}, blocks {config['blocks']}, widths {config['widths']}, batch {options.batch}, fp32, "
          f"{options.threads} threads; medians of {options.rounds} rounds of {options.steps} steps")
    print(f"{bench['processor']}; {bench['version']}, revision {bench['revision']}, {bench['backend']}; "
          f"PyTorch {torch}")
    print(f"{'':<15} {'step ms':>9} {'least ms':>9} {'images/s':>9} {'revode is faster by':>27} {'peak memory':>12} {'revode takes':>13}")
    for name, result in results.items():
        ratio = f"{result['revode_is_faster_by']:.2f} ({result['ratio_lowest']:.2f} .. {result['ratio_highest']:.2f})"
        print(f"{name:<15} {1e3 * result['step_seconds']:>9.1f} "
              f"{1e3 * result['step_seconds_lowest']:>9.1f} {result['images_per_second']:>9.1f} "
              f"{ratio if name != 'revode' else '':>27} {result['peak_memory_bytes'] / 2**20:>8.0f} MiB "
              f"{format(result['memory_of_revode'], '.0%') if name != 'revode' else '':>13}")
    base = max(result["base_memory_bytes"] for name, result in results.items() if name != "revode")
    print(f"PyTorch's processes take {base / 2**20:.0f} MiB before they hold a network.")
    print(f"revode: {bench['effective_gflops']:.0f} effective GFLOP/s, {bench['peak_share']:.0%} of the FMA peak of "
          f"{bench['peak_gflops']:.0f}; stages alone {bench['body_share']:.0%}")


def compare(options):
    folder = Path(tempfile.mkdtemp(prefix="revode-compare-"))
    workers = []
    try:
        config = prepare(options, folder)
        workers = [Worker(variant, folder, options.threads) for variant in options.variants]
        print(f"loss and gradient of {options.batch} samples", flush=True)
        errors = check_gradients(options, folder, workers)
        print("training steps", flush=True)
        busy = os.getloadavg()[0] - options.threads  # what was just computed here counts too
        if busy > 0.5:
            print(f"  note: about {busy:.0f} other processes are at work here; threads that wait for each other suffer "
                  "from that more than others, so ratios mean little", flush=True)
        results = time_rounds(options, folder, workers)
        print_table(options, config, results)
        if options.json:
            result = {"arch": config["arch"], "blocks": config["blocks"], "widths": config["widths"],
                      "batch_size": options.batch, "threads": options.threads, "rounds": options.rounds,
                      "steps_a_round": options.steps, "python": platform.python_version(),
                      "relative_errors": errors, "results": results}
            Path(options.json).write_text(json.dumps(result, indent=2) + "\n")
    finally:
        for each in workers:
            each.close()
        shutil.rmtree(folder)
    return 0


def variants(text):
    names = text.split(",")
    for name in names:
        if name not in VARIANTS:
            raise argparse.ArgumentTypeError(f"found '{name}', expected some of {','.join(VARIANTS)}")
    return names


def positive(text):
    number = int(text)
    if number < 1:
        raise argparse.ArgumentTypeError(f"found {number}, expected at least 1")
    return number


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
    try:
        return compare(options)
    except (CompareError, OSError) as error:
        print(f"compare_pytorch: error: {error}", file=sys.stderr)
        return 1


if __name__ == "__main__":
    sys.exit(main())
