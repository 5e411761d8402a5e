"""What compare_pytorch asks of the device on which PyTorch computes: arithmetic, waiting, memory, a description. Knows no
network.

    pytorch_device.py cpu|cuda

prints the description as one JSON object; its "failure" is a sentence where the device can't be used.
"""
import contextlib
import json
import subprocess
import sys
import warnings
from pathlib import Path

import torch


def peak_bytes():
    """Of this program alone: what getrusage counts includes the process that started it."""
    for line in Path("/proc/self/status").read_text().splitlines():
        if line.startswith("VmHWM:"):
            return 1024 * int(line.split()[1])
    sys.exit("pytorch_device: error: /proc/self/status names no VmHWM: peak memory can't be measured here")


def forget_peak():
    """Compilers take memory that training does not. Not every system lets a process reset its peak."""
    try:
        Path("/proc/self/clear_refs").write_text("5")
    except OSError:
        pass


class CpuDevice:
    name = place = "cpu"
    compile_mode = "default"
    warm_up_steps = 2  # as `revode bench` takes

    def failure(self):
        """Why PyTorch can't compute here: a sentence, or nothing."""
        return None

    def set_precision(self, precision):
        """Of products outside autocast: always that of their operands."""

    def autocast(self, precision):
        """The context of forward passes; what it leaves in fp32 is PyTorch's choice."""
        return torch.autocast(self.name, torch.bfloat16) if precision == "bf16" else contextlib.nullcontext()

    def compile(self, function, written):
        """`written`: what the function writes besides what it returns."""
        return torch.compile(function)

    def begin_step(self):
        """Before the forward pass of each step."""

    def keep(self, tensor):
        """A tensor of the host from which send() is fast."""
        return tensor

    def send(self, tensor):
        return tensor

    def wait(self):
        """Until all that was asked for is done."""

    def forget_peak(self):
        forget_peak()

    def memory(self):
        return {"peak_memory_bytes": peak_bytes()}

    def describe(self):
        text = Path("/proc/cpuinfo").read_text()
        flags = next((line.split() for line in text.splitlines() if line.startswith("flags")), [])
        return {"device": "cpu", "torch": torch.__version__, "compile_mode": self.compile_mode,
                "bf16_instructions": [flag for flag in ("avx512_bf16", "amx_bf16") if flag in flags]}


class CudaDevice(CpuDevice):
    """The current GPU: the first that CUDA_VISIBLE_DEVICES leaves visible."""
    name = place = "cuda"
    compile_mode = "reduce-overhead"  # CUDA graphs
    warm_up_steps = 5  # compile, record CUDA graphs, replay; cudnn.benchmark tries algorithms in the first

    def failure(self):
        if not torch.cuda.is_available():
            return (f"--device cuda: PyTorch {torch.__version__} finds no GPU here (torch.cuda.is_available() is false); "
                    "expected an NVIDIA GPU and a PyTorch built for CUDA, else choose --device cpu")
        return None

    def set_precision(self, precision):
        """fp32 and what bf16's autocast leaves in fp32: IEEE's products."""
        torch.backends.cuda.matmul.allow_tf32 = precision == "tf32"
        torch.backends.cudnn.allow_tf32 = precision == "tf32"
        torch.backends.cudnn.benchmark = True
        # inductor recommends tf32 wherever it is off; it is off on purpose.
        warnings.filterwarnings("ignore", message=".*TensorFloat32 tensor cores.*")

    def compile(self, function, written):
        # Else CUDA graphs are given up. PyTorch 2.0 has no such call.
        mark = getattr(torch._dynamo, "mark_static_address", lambda tensor: None)
        for tensor in written:
            mark(tensor)
        return torch.compile(function, mode=self.compile_mode)

    def begin_step(self):
        # What the last replay of a CUDA graph returned may now be overwritten.
        if hasattr(torch, "compiler") and hasattr(torch.compiler, "cudagraph_mark_step_begin"):
            torch.compiler.cudagraph_mark_step_begin()

    def keep(self, tensor):
        return tensor.pin_memory()

    def send(self, tensor):
        return tensor.to(self.place, non_blocking=True)

    def wait(self):
        torch.cuda.synchronize()

    def forget_peak(self):
        """cudnn.benchmark tries algorithms with large workspaces, which training then does without."""
        super().forget_peak()
        torch.cuda.synchronize()
        torch.cuda.empty_cache()
        torch.cuda.reset_peak_memory_stats()

    def memory(self):
        """Reserved is what PyTorch took from the GPU; allocated leaves out what lies idle, and what CUDA graphs hold."""
        return {**super().memory(), "device_allocated_bytes": torch.cuda.max_memory_allocated(),
                "device_reserved_bytes": torch.cuda.max_memory_reserved()}

    def describe(self):
        properties = torch.cuda.get_device_properties(0)
        return {"device": properties.name, "torch": torch.__version__, "compile_mode": self.compile_mode,
                "compute_capability": f"{properties.major}.{properties.minor}",
                "device_bytes": properties.total_memory, "driver": driver_version(), "cuda": torch.version.cuda,
                "cudnn": torch.backends.cudnn.version()}


def driver_version():
    """PyTorch does not say."""
    try:
        words = ["nvidia-smi", "--query-gpu=driver_version", "--format=csv,noheader"]
        lines = subprocess.run(words, capture_output=True, text=True, timeout=60, check=True).stdout.splitlines()
        return lines[0].strip()
    except (OSError, subprocess.SubprocessError, IndexError):
        return "unknown"


def device_named(name):
    return {"cpu": CpuDevice, "cuda": CudaDevice}[name]()


def graph_skips():
    """How often torch.compile did without CUDA graphs that it was asked for; None where PyTorch does not count."""
    dynamo = sys.modules.get("torch._dynamo")
    return dynamo.utils.counters["inductor"].get("cudagraph_skips", 0) if dynamo else None


def main(name):
    device = device_named(name)
    failure = device.failure()
    print(json.dumps({"failure": failure} if failure else device.describe()))


if __name__ == "__main__":
    main(*sys.argv[1:])
