"""A second opinion on numpy_network: the same loss with PyTorch's layers in float64, differentiated by autograd.

Written for grid 0 only: autograd would differentiate the rounding to zero.
"""
import numpy as np
import torch
import torch.nn.functional as F

from numpy_network import micro_batch_sizes, trainable


def force(arch, kernel, bias, x):
    if arch == "midpoint":
        return torch.relu(F.conv2d(x, kernel, padding=1) - F.conv_transpose2d(x, kernel, padding=1)
                          + bias[None, :, None, None])
    return F.conv_transpose2d(torch.relu(F.conv2d(x, kernel, bias, padding=1)), kernel, padding=1)


def logits_of(arch, blocks, h, w, images):
    y = F.conv2d(images, w["opening/kernel"], padding=1)
    y = torch.relu(F.batch_norm(y, None, None, w["opening/norm/scale"], w["opening/norm/shift"], training=True))
    p, q = y.chunk(2, dim=1) if arch == "hamiltonian" else (torch.zeros_like(y), y)
    for k, num_blocks in enumerate(blocks, start=1):
        kernel, bias = w[f"stage_{k}/kernel"], w[f"stage_{k}/bias"]
        if k > 1:
            more = kernel.shape[1] - p.shape[1]
            padding = (0, 0, 0, 0, more // 2, more - more // 2)
            p, q = F.pad(F.avg_pool2d(p, 2), padding), F.pad(F.avg_pool2d(q, 2), padding)
        for j in range(num_blocks):
            if arch == "hamiltonian":
                p = p + h * force(arch, kernel[2 * j], bias[2 * j], q)
                q = q - h * force(arch, kernel[2 * j + 1], bias[2 * j + 1], p)
            elif arch == "leapfrog":
                p, q = q, 2 * q - p - h ** 2 * force(arch, kernel[j], bias[j], q)
            else:
                p, q = q, p + 2 * h * force(arch, kernel[j], bias[j], q)
    y = torch.cat([p, q], dim=1) if arch == "hamiltonian" else q
    y = torch.relu(F.batch_norm(y, None, None, w["closing/norm/scale"], w["closing/norm/shift"], training=True))
    return F.linear(y.mean(dim=(2, 3)), w["closing/weight"], w["closing/bias"])


def loss_and_gradient(network, weights, images, labels, num_micro_batches, weight_decay, smoothness):
    """As numpy_network.loss_and_gradient."""
    if network.grid_bits != 0:
        raise ValueError("the PyTorch network has no grid rounding; use grid bits 0")
    w = {name: torch.tensor(weights[name], dtype=torch.float64, requires_grad=True) for name in trainable(weights)}
    images = torch.tensor(images, dtype=torch.float64)
    targets = torch.tensor(np.asarray(labels, dtype=np.int64))
    parts = images.split(micro_batch_sizes(len(labels), num_micro_batches))
    logits = torch.cat([logits_of(network.arch, network.blocks, network.h, w, part) for part in parts])
    loss = F.cross_entropy(logits, targets)
    penalty = weight_decay / 2 * sum((w[n] ** 2).sum() for n in w if n.endswith("/kernel") or n == "closing/weight")
    pair = 2 if network.arch == "hamiltonian" else 1
    for k in range(1, len(network.blocks) + 1):
        for name in (f"stage_{k}/kernel", f"stage_{k}/bias"):
            blocks = w[name].reshape(-1, pair, *w[name].shape[1:])
            penalty = penalty + smoothness / (2 * network.h) * (blocks[1:] - blocks[:-1]).pow(2).sum()
    (loss + penalty).backward()
    return loss.item(), penalty.item(), {name: w[name].grad.numpy() for name in w}, logits.detach().numpy()
