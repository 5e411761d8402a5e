"""The networks of other papers that revode's are compared with, in PyTorch. Knows nothing of data and training.

resnet-32   He, Zhang, Ren, Sun, "Deep Residual Learning for Image Recognition" (CVPR 2016, arXiv 1512.03385), section 4.2
revnet-38   Gomez, Ren, Urtasun, Grosse, "The Reversible Residual Network" (NeurIPS 2017, arXiv 1707.04585);
            its couplings, but activations are stored: it is here for its accuracy
"""
import math

import torch
import torch.nn.functional as F
from torch import nn


def convolution(inputs, outputs, stride=1):
    return nn.Conv2d(inputs, outputs, 3, stride=stride, padding=1, bias=False)


class BasicBlock(nn.Module):
    """relu(x + norm(conv(relu(norm(conv(x)))))); the shortcut is option A: strided, and padded with zero channels."""

    def __init__(self, inputs, outputs, stride):
        super().__init__()
        self.conv1, self.norm1 = convolution(inputs, outputs, stride), nn.BatchNorm2d(outputs)
        self.conv2, self.norm2 = convolution(outputs, outputs), nn.BatchNorm2d(outputs)
        self.stride, self.more = stride, outputs - inputs

    def forward(self, x):
        y = self.norm2(self.conv2(F.relu(self.norm1(self.conv1(x)))))
        if self.stride > 1:
            x = x[:, :, ::self.stride, ::self.stride]
        if self.more:
            x = F.pad(x, (0, 0, 0, 0, self.more // 2, self.more - self.more // 2))
        return F.relu(x + y)


class Residual(nn.Module):
    """conv(relu(norm(conv(relu(norm(x)))))): the function of a coupling, with the norm in front."""

    def __init__(self, inputs, outputs, stride):
        super().__init__()
        self.norm1, self.conv1 = nn.BatchNorm2d(inputs), convolution(inputs, outputs, stride)
        self.norm2, self.conv2 = nn.BatchNorm2d(outputs), convolution(outputs, outputs)

    def forward(self, x):
        return self.conv2(F.relu(self.norm2(self.conv1(F.relu(self.norm1(x))))))


class Coupling(nn.Module):
    """y1 = x1 + F(x2), y2 = x2 + G(y1) on halves of the channels; where the size changes, x1 and x2 become means over
    2x2 pixels, padded with zero channels."""

    def __init__(self, inputs, outputs, stride):
        super().__init__()
        self.f, self.g = Residual(inputs // 2, outputs // 2, stride), Residual(outputs // 2, outputs // 2, 1)
        self.stride, self.more = stride, (outputs - inputs) // 2

    def shortcut(self, x):
        if self.stride > 1:
            x = F.avg_pool2d(x, self.stride)
        return F.pad(x, (0, 0, 0, 0, self.more // 2, self.more - self.more // 2)) if self.more else x

    def forward(self, x):
        x1, x2 = x.chunk(2, dim=1)
        y1 = self.shortcut(x1) + self.f(x2)
        return torch.cat([y1, self.shortcut(x2) + self.g(y1)], dim=1)


class Network(nn.Module):
    """conv, norm, relu; stages of `units`, halving the size from the second on; `last`; mean over pixels; classes."""

    def __init__(self, unit, widths, units, last, classes):
        super().__init__()
        self.opening = nn.Sequential(convolution(3, widths[0]), nn.BatchNorm2d(widths[0]), nn.ReLU())
        blocks = []
        for stage, (inputs, outputs, count) in enumerate(zip(widths, widths[1:], units)):
            for number in range(count):
                first = number == 0
                blocks.append(unit(inputs if first else outputs, outputs, 2 if first and stage > 0 else 1))
        self.blocks, self.last = nn.Sequential(*blocks), last
        self.closing = nn.Linear(widths[-1], classes)
        self.initialise()

    @torch.no_grad()
    def initialise(self):
        """As revode does: docs/model.md, section 3. The norms' scale 1 and shift 0 are PyTorch's default."""
        for module in self.modules():
            if isinstance(module, nn.Conv2d):
                sigma = math.sqrt(2 / (9 * module.out_channels))
                nn.init.trunc_normal_(module.weight, std=sigma, a=-2 * sigma, b=2 * sigma)
        bound = 1 / math.sqrt(self.closing.in_features)
        nn.init.uniform_(self.closing.weight, -bound, bound)
        nn.init.zeros_(self.closing.bias)

    def forward(self, images):
        return self.closing(self.last(self.blocks(self.opening(images))).mean(dim=(2, 3)))

    def decayed(self):
        """Parameters with weight decay, and those without: biases and norms have none, as in revode."""
        matrices = [p for p in self.parameters() if p.dim() > 1]
        return matrices, [p for p in self.parameters() if p.dim() == 1]


NETWORKS = {
    "resnet-32": lambda classes: Network(BasicBlock, (16, 16, 32, 64), (5, 5, 5), nn.Identity(), classes),
    "revnet-38": lambda classes: Network(Coupling, (32, 32, 64, 112), (3, 3, 3),
                                         nn.Sequential(nn.BatchNorm2d(112), nn.ReLU()), classes),
}


def make(name, classes):
    return NETWORKS[name](classes)


def num_parameters(network):
    return sum(p.numel() for p in network.parameters())
