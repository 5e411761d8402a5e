"""The networks of revode in PyTorch, and a process that takes training steps with one: compare_pytorch's other half.

    pytorch_training.py KIND FOLDER THREADS double|fp32|tf32|bf16 cpu|cuda channels_last|contiguous

reads model.json and model.npz in FOLDER, then commands from standard input, one JSON object a line, and answers each in
one line. Knows nothing of revode's files.
"""
import contextlib
import functools
import json
import math
import sys
import time
from pathlib import Path

import numpy as np
import torch
import torch.nn.functional as F
from torch.utils.checkpoint import checkpoint

from comparison_variants import label
from pytorch_device import device_named, graph_skips, peak_bytes

LAYOUTS = {"channels_last": torch.channels_last, "contiguous": torch.contiguous_format}


def flipped(kernel):
    """The kernel of K^T: its convolution is the transposed convolution with `kernel`."""
    return kernel.transpose(0, 1).flip(2, 3)


def transposed_on_cpu(x, kernel):
    """K^T x. oneDNN is several times slower with conv_transpose2d."""
    return F.conv2d(x, flipped(kernel), padding=1)


def transposed_on_cuda(x, kernel):
    """K^T x. cuDNN has kernels for it, which spares the launches that flip."""
    return F.conv_transpose2d(x, kernel, padding=1)


def symmetric(x, kernel, bias, transposed):
    return transposed(torch.relu(F.conv2d(x, kernel, bias, padding=1)), kernel)


def antisymmetric(x, kernel, bias):
    return torch.relu(F.conv2d(x, kernel - flipped(kernel), bias, padding=1))


class Rule:
    """target <- gamma target + beta other + s F(other); targets are slots 0, 1, 0, ... of the state in turn."""

    def __init__(self, arch, h, place, layout):
        self.layout = layout
        transposed = transposed_on_cuda if place == "cuda" else transposed_on_cpu
        self.force = antisymmetric if arch == "midpoint" else functools.partial(symmetric, transposed=transposed)
        self.gamma, self.beta = (-1, 2) if arch == "leapfrog" else (1, 0)
        self.scale = {"hamiltonian": (h, -h), "leapfrog": (-h * h, -h * h), "midpoint": (2 * h, 2 * h)}[arch]
        self.halves = arch == "hamiltonian"
        self.couplings_per_block = 2 if self.halves else 1

    def advance(self, state, first, weights):
        """Couplings `first`, ... out of place, as autograd needs it."""
        state = list(state)
        for i, (kernel, bias) in enumerate(weights, start=first):
            target, other = state[i % 2], state[1 - i % 2]
            new = self.gamma * target if self.gamma != 1 else target
            if self.beta:
                new = new + self.beta * other
            state[i % 2] = new + self.scale[i % 2] * self.force(other, kernel, bias)
        return tuple(state)


class Reversible(torch.autograd.Function):
    """A stage that keeps its end state alone and rebuilds the others on the way back, with the same `autocast`."""

    @staticmethod
    def forward(ctx, rule, autocast, first, slot0, slot1, *weights):
        state = [slot.clone(memory_format=rule.layout) for slot in (slot0, slot1)]
        for i in range(len(weights) // 2):
            n = first + i
            target, other = state[n % 2], state[1 - n % 2]
            force = rule.force(other, weights[2 * i], weights[2 * i + 1])
            if rule.gamma != 1:
                target.mul_(rule.gamma)
            if rule.beta:
                target.add_(other, alpha=rule.beta)
            target.add_(force, alpha=rule.scale[n % 2])
        ctx.rule, ctx.autocast, ctx.first = rule, autocast, first
        ctx.save_for_backward(*state, *weights)
        return tuple(state)

    @staticmethod
    def backward(ctx, *adjoint):
        rule, (slot0, slot1, *weights) = ctx.rule, ctx.saved_tensors
        state = [slot.clone(memory_format=rule.layout) for slot in (slot0, slot1)]
        adjoint = [a.clone(memory_format=rule.layout) for a in adjoint]
        gradients = [None] * len(weights)
        for i in reversed(range(len(weights) // 2)):
            t, o = (ctx.first + i) % 2, 1 - (ctx.first + i) % 2
            with torch.enable_grad(), ctx.autocast():
                inputs = [v.detach().requires_grad_() for v in (state[o], weights[2 * i], weights[2 * i + 1])]
                force = rule.force(*inputs)
            # The same evaluation serves the inversion ...
            state[t].sub_(force.detach(), alpha=rule.scale[t])
            if rule.beta:
                state[t].sub_(state[o], alpha=rule.beta)
            if rule.gamma != 1:
                state[t].mul_(rule.gamma)
            # ... and the linearisation.
            grad_other, gradients[2 * i], gradients[2 * i + 1] = torch.autograd.grad(
                force, inputs, (adjoint[t] * rule.scale[t]).to(force.dtype))
            adjoint[o].add_(grad_other)
            if rule.beta:
                adjoint[o].add_(adjoint[t], alpha=rule.beta)
            if rule.gamma != 1:
                adjoint[t].mul_(rule.gamma)
        return (None, None, None, *adjoint, *gradients)


class Network:
    """The network, or what one rank of several holds of it: `pieces` are [stage, first, last] in turn, couplings first ..
    last - 1 of that stage. Who ends a stage does the transition behind it. `autocast` makes the context of forward passes."""

    def __init__(self, model, kind, dtype, pieces=None, place="cpu", layout=torch.channels_last,
                 autocast=contextlib.nullcontext):
        self.rule = Rule(model["arch"], model["h"], place, layout)
        self.h, self.kind, self.layout, self.autocast = model["h"], kind, layout, autocast
        self.weight_decay, self.smoothness = model["weight_decay"], model["smoothness"]
        self.couplings = [blocks * self.rule.couplings_per_block for blocks in model["blocks"]]
        self.slots = [width // 2 if self.rule.halves else width for width in model["widths"]]
        self.pieces = pieces or [[k, 0, n] for k, n in enumerate(self.couplings, start=1)]
        self.opens = self.pieces[0][:2] == [1, 0]
        self.closes = self.pieces[-1][::2] == [len(self.couplings), self.couplings[-1]]
        held = {stage: range(first, last) for stage, first, last in self.pieces}
        self.parameters = {}
        self.running = {}
        for name, array in model["weights"].items():
            if name.startswith("opening/") and not self.opens or name.startswith("closing/") and not self.closes:
                continue
            tensor = torch.tensor(array, dtype=dtype, device=place)
            if name.startswith("stage_"):
                # One tensor a coupling: autograd fills a whole stack with zeros for each row taken from it.
                for j in held.get(int(name.split("/")[0].removeprefix("stage_")), ()):
                    row = tensor[j]
                    row = row.clone(memory_format=layout) if row.dim() == 4 else row.clone()
                    self.parameters[name, j] = torch.nn.Parameter(row)
            elif name.endswith(("norm/mean", "norm/variance")):
                self.running[name] = tensor
            elif not name.startswith("input/"):
                self.parameters[name, 0] = torch.nn.Parameter(tensor)
        self.stages = [[(self.parameters[f"stage_{stage}/kernel", j], self.parameters[f"stage_{stage}/bias", j])
                        for j in range(first, last)] for stage, first, last in self.pieces]
        self.mean = torch.tensor(model["weights"]["input/mean"], dtype=dtype, device=place)[:, None, None]
        self.std = torch.tensor(model["weights"]["input/std"], dtype=dtype, device=place)[:, None, None]

    def norm_relu(self, name, x):
        return torch.relu(F.batch_norm(x, self.running[f"{name}/norm/mean"], self.running[f"{name}/norm/variance"],
                                       self.parameters[f"{name}/norm/scale", 0],
                                       self.parameters[f"{name}/norm/shift", 0], training=True))

    def stage(self, state, first, weights):
        if self.kind == "reversible":
            # Rebuilt from bf16 a state would be off by a rounding error a coupling, so slots stay in fp32.
            state = tuple(slot.float() if slot.dtype == torch.bfloat16 else slot for slot in state)
            return Reversible.apply(self.rule, self.autocast, first, *state, *(w for pair in weights for w in pair))
        if self.kind in ("plain", "compiled"):
            return self.rule.advance(state, first, weights)
        blocks = len(weights) // self.rule.couplings_per_block
        run = max(1, round(math.sqrt(blocks))) * self.rule.couplings_per_block
        for begin in range(0, len(weights), run):
            part = weights[begin:begin + run]
            # The re-entrant form frees what it recomputed earlier than the other one does in PyTorch 1.13.
            state = checkpoint(lambda p, q, at=first + begin, ws=part: self.rule.advance((p, q), at, ws), *state,
                               use_reentrant=True, preserve_rng_state=False)
        return state

    def opening(self, pixels):
        images = (pixels.to(self.mean.dtype) / 255 - self.mean) / self.std
        images = images.contiguous(memory_format=self.layout)
        y = self.norm_relu("opening", F.conv2d(images, self.parameters["opening/kernel", 0], padding=1))
        if self.rule.halves:
            return tuple(half.contiguous(memory_format=self.layout) for half in y.chunk(2, dim=1))
        return torch.zeros_like(y), y

    def body(self, state):
        for (stage, first, last), weights in zip(self.pieces, self.stages):
            state = self.stage(state, sum(self.couplings[:stage - 1]) + first, weights)
            if last == self.couplings[stage - 1] and stage < len(self.couplings):
                more = self.slots[stage] - self.slots[stage - 1]
                state = tuple(F.pad(F.avg_pool2d(s, 2), (0, 0, 0, 0, more // 2, more - more // 2))
                              .contiguous(memory_format=self.layout) for s in state)
        return state

    def closing(self, state):
        y = torch.cat(state, dim=1) if self.rule.halves else state[1 - sum(self.couplings) % 2]
        y = self.norm_relu("closing", y).mean(dim=(2, 3))
        return F.linear(y, self.parameters["closing/weight", 0], self.parameters["closing/bias", 0])

    def logits(self, pixels):
        return self.closing(self.body(self.opening(pixels)))

    def loss(self, pixels, labels, images):
        """The part that these samples have in the mean cross-entropy of `images`."""
        return F.cross_entropy(self.logits(pixels), labels, reduction="sum") / images

    def compile(self, device):
        """The forward pass with the loss, and the backward pass of it, become compiled functions."""
        self.loss = device.compile(self.loss, self.running.values())

    def gradient(self, pixels, labels, micro_batches=1):
        """Mean cross-entropy as a tensor, which nobody has waited for; the gradient of it and of the regularisation goes to
        the parameters. Batch norm sees a micro-batch at a time."""
        for parameter in self.parameters.values():
            parameter.grad = None
        total = 0
        for part, expected in zip(pixels.chunk(micro_batches), labels.chunk(micro_batches)):
            with self.autocast():
                loss = self.loss(part, expected, len(labels))
            loss.backward()
            total = total + loss.detach()
        self.add_regularization()
        return total

    @torch.no_grad()
    def add_regularization(self):
        kernels = [p for (name, _), p in self.parameters.items() if name.endswith("/kernel") or name == "closing/weight"]
        torch._foreach_add_([p.grad for p in kernels], kernels, alpha=self.weight_decay)
        if self.smoothness == 0:
            return
        apart = self.rule.couplings_per_block
        for weights in self.stages:
            for field in (0, 1):
                values = [pair[field] for pair in weights]
                gradients = [value.grad for value in values]
                if len(values) == apart:
                    continue
                steps = torch._foreach_sub(values[apart:], values[:-apart])
                torch._foreach_add_(gradients[apart:], steps, alpha=self.smoothness / self.h)
                torch._foreach_add_(gradients[:-apart], steps, alpha=-self.smoothness / self.h)


def read_model(folder):
    """The model with its weights, and the file that holds the images."""
    arrays = np.load(Path(folder, "model.npz"))
    model = json.loads(Path(folder, "model.json").read_text())
    model["weights"] = {name: arrays[name] for name in arrays.files if not name.startswith("data/")}
    return model, arrays


def write_gradient(path, network):
    np.savez(path, **{f"{name}:{j}": parameter.grad.cpu().numpy() for (name, j), parameter in network.parameters.items()})


class Trainer:
    """Answers commands with what a process of PyTorch computes, of one kind and arithmetic, on one device."""

    def __init__(self, kind, folder, precision, device, layout):
        self.base_bytes = peak_bytes()
        self.device, self.folder, self.name = device, folder, label(kind, precision)
        device.set_precision(precision)
        model, arrays = read_model(folder)
        self.pixels, self.labels = (device.keep(torch.from_numpy(arrays[f"data/{name}"])) for name in ("pixels", "labels"))
        self.network = Network(model, kind, torch.float64 if precision == "double" else torch.float32, place=device.place,
                               layout=LAYOUTS[layout], autocast=functools.partial(device.autocast, precision))
        self.compiled = kind == "compiled"
        if self.compiled:
            self.network.compile(device)
        self.optimizer = torch.optim.SGD(self.network.parameters.values(), lr=model["rate"], momentum=model["momentum"])

    def gradient(self, micro_batches=1):
        self.device.begin_step()
        return self.network.gradient(self.device.send(self.pixels), self.device.send(self.labels), micro_batches)

    def seconds_of_step(self):
        """Images come from the host, as revode's do."""
        self.device.wait()
        start = time.perf_counter()
        self.gradient()
        self.optimizer.step()
        self.device.wait()
        return time.perf_counter() - start

    def try_compiler(self):
        """The first line of what was wrong, or nothing."""
        try:
            self.gradient()
            self.device.wait()
        except Exception as error:  # whatever a compiler may come up with
            return f"{type(error).__name__}: {(str(error).strip().splitlines() or [''])[0]}"
        return None

    def warm_up(self):
        for _ in range(self.device.warm_up_steps):
            self.seconds_of_step()
        self.device.forget_peak()
        self.seconds_of_step()

    def answer(self, command):
        answer = {"torch": torch.__version__}
        if command["do"] == "compile":
            answer["failure"] = self.try_compiler()
        if command["do"] == "gradient":
            answer["loss"] = self.gradient(command.get("micro_batches", 1)).item()
            write_gradient(Path(self.folder, f"{self.name}.npz"), self.network)
        if command["do"] == "warm_up":
            self.warm_up()
            answer["graph_skips"] = graph_skips() if self.compiled else None
        if command["do"] == "steps":
            answer["seconds"] = [self.seconds_of_step() for _ in range(command["count"])]
        return {**answer, **self.device.memory(), "base_memory_bytes": self.base_bytes}


def main(kind, folder, threads, precision, device, layout):
    torch.set_num_threads(int(threads))
    trainer = Trainer(kind, folder, precision, device_named(device), layout)
    for line in sys.stdin:
        print(json.dumps(trainer.answer(json.loads(line))), flush=True)


if __name__ == "__main__":
    main(*sys.argv[1:])
