"""One rank of a network of revode in torch.distributed.pipelining: compare_pytorch's other half on several ranks.

    pytorch_pipeline.py FOLDER eager|compiled MICRO_BATCHES RANK THREADS SECONDS

reads model.json, which holds the cut too, and model.npz in FOLDER, meets the other ranks there, and waits at most SECONDS
for them. Then it answers commands as pytorch_training.py does; every rank must get the same ones.
"""
import datetime
import json
import os
import sys
import time
from pathlib import Path

os.environ.setdefault("GLOO_SOCKET_IFNAME", "lo")

import torch
import torch.distributed as dist
import torch.nn.functional as F
from torch.distributed.pipelining import PipelineStage, Schedule1F1B

from pytorch_device import forget_peak, peak_bytes
from pytorch_training import Network, read_model, write_gradient


class Share(torch.nn.Module):
    """What a rank computes. Slots travel as [N, H, W, C]: that is how channels_last lies in memory, so nothing is copied."""

    def __init__(self, network):
        super().__init__()
        self.network = network
        for (name, j), parameter in network.parameters.items():
            self.register_parameter(f"{name}:{j}", parameter)

    def forward(self, *inputs):
        network = self.network
        state = network.opening(*inputs) if network.opens else tuple(slot.permute(0, 3, 1, 2) for slot in inputs)
        state = network.body(state)
        if network.closes:
            return network.closing(state)
        return tuple(slot.permute(0, 2, 3, 1).contiguous() for slot in state)


class Rank:
    """A share, alone until join() has met the others."""

    def __init__(self, network, pixels, labels, rank, micro_batches):
        self.network, self.rank, self.micro_batches = network, rank, micro_batches
        self.pixels, self.labels = pixels, labels
        self.module = Share(network)

    def compile(self):
        """The first line of what was wrong, or nothing. Alone, so that no other rank waits for one that fails."""
        self.module = torch.compile(self.module)
        try:
            outputs = self.module(*self.sample_inputs())
            outputs = outputs if isinstance(outputs, tuple) else (outputs,)
            torch.autograd.backward(outputs, [torch.zeros_like(each) for each in outputs])
        except Exception as error:  # whatever a compiler may come up with
            return f"{type(error).__name__}: {str(error).strip().splitlines()[0] if str(error).strip() else ''}"
        return None

    def sample_inputs(self):
        images = len(self.labels) // self.micro_batches
        if self.network.opens:
            return [self.pixels[:images]]
        stage = self.network.pieces[0][0]
        size = self.pixels.shape[-1] >> (stage - 1)
        return [torch.zeros(images, size, size, self.network.slots[stage - 1], requires_grad=True) for _ in range(2)]

    def join(self, ranks):
        stage = PipelineStage(self.module, self.rank, ranks, torch.device("cpu"))
        # The parts of the mean over the mini-batch: what is added up needs no scaling.
        self.schedule = Schedule1F1B(
            stage, self.micro_batches, scale_grads=False,
            loss_fn=lambda logits, labels: F.cross_entropy(logits, labels, reduction="sum") / len(self.labels))

    def gradient(self):
        """The loss on the last rank, 0 elsewhere."""
        for parameter in self.network.parameters.values():
            parameter.grad = None
        losses = []
        if self.network.opens:
            self.schedule.step(self.pixels)
        elif self.network.closes:
            self.schedule.step(target=self.labels, losses=losses)
        else:
            self.schedule.step()
        self.network.add_regularization()
        return sum(loss.item() for loss in losses)


def main(folder, mode, micro_batches, number, threads, seconds):
    torch.set_num_threads(int(threads))
    base_bytes = peak_bytes()
    model, arrays = read_model(folder)
    cut = model["cut"]
    network = Network(model, "plain", torch.float32, cut[int(number)])
    del model["weights"]  # all of the network's, which no rank holds
    rank = Rank(network, torch.from_numpy(arrays["data/pixels"]), torch.from_numpy(arrays["data/labels"]), int(number),
                int(micro_batches))
    optimizer = torch.optim.SGD(network.parameters.values(), lr=model["rate"], momentum=model["momentum"])
    name = f"{mode}-{micro_batches}"
    for line in sys.stdin:
        command = json.loads(line)
        answer = {"torch": torch.__version__}
        if command["do"] == "compile":
            answer["failure"] = rank.compile()
        if command["do"] == "join":
            dist.init_process_group("gloo", init_method=f"file://{Path(folder, name).resolve()}", rank=rank.rank,
                                    world_size=len(cut), timeout=datetime.timedelta(seconds=float(seconds)))
            rank.join(len(cut))
        if command["do"] == "gradient":
            answer["loss"] = rank.gradient()
            write_gradient(Path(folder, f"{name}-{number}.npz"), network)
        if command["do"] == "forget_peak":
            forget_peak()
        if command["do"] == "steps":
            answer["spans"] = []
            for _ in range(command["count"]):
                dist.barrier()
                start = time.perf_counter()
                rank.gradient()
                optimizer.step()
                answer["spans"].append([start, time.perf_counter()])
        answer.update(peak_memory_bytes=peak_bytes(), base_memory_bytes=base_bytes)
        print(json.dumps(answer), flush=True)
    if dist.is_initialized():
        dist.destroy_process_group()


if __name__ == "__main__":
    main(*sys.argv[1:])
