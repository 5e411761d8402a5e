#!/usr/bin/env python3
"""Looks at a network of tools/baselines.py as `revode analyze` looks at one of revode's, block by block.

    tools/analyze_baseline.py --checkpoint runs/resnet-32-cifar10/latest.pt --data-dir data/cifar10 --json resnet.json

A block x -> x + F(x) is read as a step of size 1 of dx/dt = F(x): the eigenvalues are those of F's Jacobian at the states
that images have, in evaluation mode. ResNet's last ReLU is part of the block, not of F: growth is of the whole block. Blocks
that change the size are left out, as revode's transitions are. The keys of the JSON are those of `revode analyze`;
null where a quantity has no meaning here: nothing is rebuilt, and there is no bound. tools/plot_analysis.py draws it beside
revode's. Needs PyTorch, SciPy and NumPy.

Exit status: 0 done, 1 failed while running, 2 bad usage or input, 77 a library is missing.
"""
import argparse
import importlib.util
import json
import math
import os
import sys
from pathlib import Path

sys.dont_write_bytecode = True

MOST_RUNS = 8  # as in src/commands/network_analysis.cpp
MOST_RESTARTS = 300  # as in src/analysis/spectrum.cpp


class AnalysisError(Exception):
    """One sentence for the user."""


def need_libraries():
    missing = [name for name in ("torch", "numpy", "scipy") if not importlib.util.find_spec(name)]
    if not missing:
        return
    # Debian's modules belong to Debian's python, which need not be the first on the PATH.
    if os.path.realpath(sys.executable) != os.path.realpath("/usr/bin/python3") and os.path.exists("/usr/bin/python3"):
        os.execv("/usr/bin/python3", ["/usr/bin/python3", *sys.argv])
    print(f"SKIPPED: needs {' and '.join(missing)} (Debian: python3-torch, python3-numpy, python3-scipy)", file=sys.stderr)
    sys.exit(77)


def sample_range(text):
    first, colon, last = text.partition(":")
    if not (colon and first.isdigit() and last.isdigit() and int(first) < int(last)):
        raise argparse.ArgumentTypeError(f"found '{text}', expected first:last with first < last (last is not included)")
    return int(first), int(last)


def eigenvalue_count(text):
    if not text.isdigit() or int(text) == 0:
        raise argparse.ArgumentTypeError(f"found '{text}', expected a whole number of at least 1")
    return int(text)


def parse(words):
    parser = argparse.ArgumentParser(prog="tools/analyze_baseline.py", description=__doc__, allow_abbrev=False,
                                     formatter_class=argparse.RawDescriptionHelpFormatter)
    add = parser.add_argument
    add("--checkpoint", metavar="FILE", required=True, help="latest.pt of a run of tools/baselines.py")
    add("--data-dir", metavar="DIR", required=True, help="folder that holds the dataset's binary files")
    add("--samples", type=sample_range, default=(0, 4), metavar="A:B", help="of the test split (default 0:4)")
    add("--eigenvalues", type=eigenvalue_count, default=6, metavar="N",
        help="of largest magnitude, of each block and image (default %(default)s)")
    add("--json", metavar="FILE", required=True)
    return parser.parse_args(words)


class Products:
    """A matrix by its products: that of `function`'s derivative at x, both [values] in NumPy's doubles."""

    def __init__(self, torch, function, x):
        self.torch, self.x, self.shape = torch, x, x.shape
        self.output, self.back = torch.func.vjp(function, x)
        self.function = function

    def vector(self, v):
        return self.torch.from_numpy(v.astype("float32")).reshape(self.shape)

    def apply(self, v):
        return self.torch.func.jvp(self.function, (self.x,), (self.vector(v),))[1].detach().numpy().ravel().astype(float)

    def apply_transposed(self, v):
        return self.back(self.vector(v))[0].detach().numpy().ravel().astype(float)


class Spectra:
    def __init__(self):
        import numpy
        from scipy.sparse import linalg
        self.numpy, self.linalg = numpy, linalg

    def operator(self, size, apply):
        return self.linalg.LinearOperator((size, size), matvec=apply, dtype=float)

    def start(self, size):
        return self.numpy.random.default_rng(1).standard_normal(size)

    def of_largest_magnitude(self, products, size, count):
        """As complex numbers, largest first; those that were found where the iteration ended early."""
        try:
            values = self.linalg.eigs(self.operator(size, products.apply), k=count, which="LM", tol=1e-5,
                                      v0=self.start(size), ncv=max(24, 4 * count), maxiter=MOST_RESTARTS, return_eigenvectors=False)
        except self.linalg.ArpackNoConvergence as stopped:
            values = stopped.eigenvalues
        return sorted(values, key=abs, reverse=True)

    def largest_of_symmetric(self, apply, size):
        try:
            return float(self.linalg.eigsh(self.operator(size, apply), k=1, which="LA", tol=1e-3, v0=self.start(size),
                                           ncv=16, maxiter=MOST_RESTARTS, return_eigenvectors=False)[0])
        except self.linalg.ArpackNoConvergence:
            return None


class Chain:
    """The derivative of one block after another."""

    def __init__(self, parts):
        self.parts = parts

    def apply(self, v):
        for part in self.parts:
            v = part.apply(v)
        return v

    def apply_transposed(self, v):
        for part in reversed(self.parts):
            v = part.apply_transposed(v)
        return v


class Block:
    """One that keeps the size: its state, its increment F and its whole."""

    def __init__(self, number, stage, module):
        self.number, self.stage, self.module = number, stage, module

    def increment(self, x):
        import torch.nn.functional as F
        block = self.module
        if hasattr(block, "conv2"):  # ResNet's: without the ReLU that follows the sum
            return block.norm2(block.conv2(F.relu(block.norm1(block.conv1(x)))))
        return block(x) - x

    def kernels(self):
        return [p for p in self.module.parameters() if p.dim() == 4]


def load(options):
    """The network and the images that --checkpoint and --samples name, as an Analysis."""
    import numpy as np
    import torch
    import baseline_data
    import baseline_networks
    try:
        saved = torch.load(options.checkpoint, map_location="cpu")
        trained = saved["options"]
        name, dataset = trained["net"], trained["dataset"]
        network = baseline_networks.make(name, baseline_data.DATASETS[dataset]["classes"])
        network.load_state_dict(saved["network"])
    except FileNotFoundError:
        raise AnalysisError(f"--checkpoint {options.checkpoint}: there is no such file") from None
    except Exception as error:  # whatever a foreign or damaged file may lead to
        raise AnalysisError(f"--checkpoint {options.checkpoint}: no checkpoint of tools/baselines.py: {error}") from None
    _, test = baseline_data.load(dataset, options.data_dir, float(trained["train-fraction"]), int(trained["seed"]))
    first, last = options.samples
    if last > len(test.labels):
        raise AnalysisError(f"--samples {first}:{last}: the test split of {dataset} has {len(test.labels)} samples")
    facts = {"arch": name, "step_size": 1, "stability_bound": None, "checkpoint": options.checkpoint, "dataset": dataset,
             "split": "test", "samples": f"{first}:{last}"}
    return Analysis(network, torch.from_numpy(test.normalised(np.arange(first, last))),
                    torch.from_numpy(test.labels[first:last]), options.eigenvalues, facts)


class Analysis:
    """Of a network in evaluation mode, at the states that these images have in it."""

    def __init__(self, network, images, labels, num_eigenvalues, facts):
        import numpy as np
        import torch
        torch.set_num_threads(1)  # products for one image are too small to share
        self.np, self.torch, self.spectra = np, torch, Spectra()
        self.images, self.labels, self.num_eigenvalues, self.facts = images, labels, num_eigenvalues, facts
        self.network = network.eval()
        for parameter in self.network.parameters():
            parameter.requires_grad_(False)
        self.blocks = self.blocks_that_keep_the_size()

    def blocks_that_keep_the_size(self):
        kept, stage, block_in_stage = [], 0, 0
        x = self.network.opening(self.images[:1])
        for number, module in enumerate(self.network.blocks):
            y = module(x)
            if y.shape != x.shape or stage == 0:
                stage, block_in_stage = stage + 1, 0
            if y.shape == x.shape:
                block = Block(number, stage, module)
                block.in_stage = block_in_stage
                kept.append(block)
                block_in_stage += 1
            x = y
        return kept

    def sweep(self):
        """State in front of every block and behind the last, and the adjoint of the loss there, for all images."""
        states = [self.network.opening(self.images).requires_grad_()]
        for module in self.network.blocks:
            states.append(module(states[-1]))
        for state in states[1:]:
            state.retain_grad()
        logits = self.network.closing(self.network.last(states[-1]).mean(dim=(2, 3)))
        loss = self.torch.nn.functional.cross_entropy(logits, self.labels)
        loss.backward()
        return [state.detach() for state in states], [state.grad for state in states], loss.item()

    def of_image(self, array, image):
        return array[image:image + 1]

    def spectrum(self, block, states, result):
        spectra = self.spectra
        for key in ("eigenvalues", "h_spectral_radius", "real_share", "h_numerical_abscissa"):
            result[key] = []
        for image in range(len(self.images)):
            x = self.of_image(states[block.number], image)
            products = Products(self.torch, block.increment, x)
            values = spectra.of_largest_magnitude(products, x.numel(), self.num_eigenvalues)
            largest = max(map(abs, values), default=None)
            result["eigenvalues"].append([[value.real, value.imag] for value in values])
            result["h_spectral_radius"].append(largest)
            result["real_share"].append(max(abs(value.real) for value in values) / largest if largest else None)
            result["h_numerical_abscissa"].append(spectra.largest_of_symmetric(
                lambda v, p=products: (p.apply(v) + p.apply_transposed(v)) / 2, x.numel()))

    def runs(self):
        """(blocks from the front of a stage)"""
        for stage in sorted({block.stage for block in self.blocks}):
            of_stage = [block for block in self.blocks if block.stage == stage]
            count = min(len(of_stage), MOST_RUNS)
            for i in range(1, count + 1):
                yield of_stage[:len(of_stage) * i // count]

    def chain(self, blocks, states, image):
        return Chain([Products(self.torch, block.module, self.of_image(states[block.number], image)) for block in blocks])

    def growth(self, states):
        found = []
        for run in self.runs():
            values = []
            for image in range(len(self.images)):
                chain, size = self.chain(run, states, image), self.of_image(states[run[0].number], image).numel()
                squared = self.spectra.largest_of_symmetric(lambda v, c=chain: c.apply_transposed(c.apply(v)), size)
                values.append(None if squared is None else math.sqrt(max(squared, 0.0)))
            found.append({"stage": run[0].stage, "first_block": run[0].number, "last_block": run[-1].number,
                          "largest_singular_value": values})
        return found

    def norms(self, array):
        return array.flatten(1).double().norm(dim=1)

    def add_growth_and_states(self, states, adjoints, results):
        np = self.np
        ends = {block.stage: block.number + 1 for block in self.blocks}
        for image in range(len(self.images)):
            vector, stage = None, None
            for block, result in zip(self.blocks, results):
                if block.stage != stage:
                    size = self.of_image(states[block.number], image).numel()
                    vector, stage = np.random.default_rng([2, image]).standard_normal(size), block.stage
                    first = np.linalg.norm(vector)
                vector = self.chain([block], states, image).apply(vector)
                result.setdefault("perturbation_growth", []).append(float(np.linalg.norm(vector) / first))
        for block, result in zip(self.blocks, results):
            state = states[block.number]
            result["state_rms"] = state.flatten(1).double().pow(2).mean(dim=1).sqrt().tolist()
            result["state_largest"] = state.flatten(1).abs().amax(dim=1).tolist()
            result["adjoint_growth"] = (self.norms(adjoints[block.number]) / self.norms(adjoints[ends[block.stage]])).tolist()
            result["kernel_rms"] = [kernel.pow(2).mean().sqrt().item() for kernel in block.kernels()]
        for before, block, result in zip([None, *self.blocks], self.blocks, results):
            pairs = list(zip(block.kernels(), before.kernels())) if before and before.stage == block.stage else []
            result["weight_change"] = [((a - b).norm() / a.norm()).item() for a, b in pairs] or [None] * len(block.kernels())

    def run(self):
        states, adjoints, loss = self.sweep()
        results = []
        for block in self.blocks:
            results.append({"block": block.number, "stage": block.stage, "block_in_stage": block.in_stage})
            self.spectrum(block, states, results[-1])
            results[-1].update(reversal_error=None, values_differing=None, reversal_error_without_grid=None)
        self.add_growth_and_states(states, adjoints, results)
        return {"command": "tools/analyze_baseline.py", **self.facts, "loss": loss, "blocks": results,
                "growth": self.growth(states)}


def main():
    options = parse(sys.argv[1:])
    need_libraries()
    from baseline_data import DataError
    try:
        found = load(options).run()
        file = Path(options.json)
        part = file.with_name(file.name + ".part")
        part.write_text(json.dumps(found, indent=1) + "\n", encoding="utf-8")
        part.replace(file)
    except (AnalysisError, DataError) as error:
        print(f"analyze_baseline: error: {error}", file=sys.stderr)
        sys.exit(2)
    except OSError as error:
        print(f"analyze_baseline: error: {error}", file=sys.stderr)
        sys.exit(1)
    blocks = found["blocks"]
    radius = max(value for block in blocks for value in block["h_spectral_radius"] if value is not None)
    share = max(value for block in blocks for value in block["real_share"] if value is not None)
    print(f"{found['arch']}: {len(blocks)} blocks; largest |eigenvalue| of F {radius:.3g}; real parts up to {share:.3g} of a "
          f"block's largest; wrote {options.json}")


if __name__ == "__main__":
    main()
