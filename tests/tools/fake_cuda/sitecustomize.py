"""A torch.cuda that computes on the CPU, for every python that has this folder and tools/ on its PYTHONPATH: what
compare_pytorch does on a GPU runs where there is none. It finds misspelt calls, and says nothing of numbers or times.
"""
import types


def install(torch, pytorch_device):
    megabyte = 2**20
    pytorch_device.CudaDevice.place = "cpu"
    torch.cuda.is_available = lambda: True
    torch.cuda.is_bf16_supported = lambda *_: True
    torch.cuda.is_current_stream_capturing = lambda: False
    torch.cuda.synchronize = torch.cuda.empty_cache = torch.cuda.reset_peak_memory_stats = lambda: None
    torch.cuda.max_memory_allocated = lambda: 100 * megabyte
    torch.cuda.max_memory_reserved = lambda: 200 * megabyte
    torch.cuda.get_device_properties = lambda _: types.SimpleNamespace(name="Fake GPU", major=9, minor=0,
                                                                       total_memory=1024 * megabyte)
    torch.backends.cudnn.version = lambda: 90100
    torch.Tensor.pin_memory = lambda self: self
    # A compiler that finds a GPU compiles for it.
    torch.compile = lambda function, mode=None: function


try:
    import torch
except ImportError:
    pass  # not the python that has it
else:
    import pytorch_device
    install(torch, pytorch_device)
