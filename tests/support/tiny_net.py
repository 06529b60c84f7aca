"""The small net of the golden cases: a convolution, BatchNorm, ReLU, the mean over positions, two linear heads."""

from __future__ import annotations

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from fcil.nets import Backbone, Net
from fcil.rng import seeded

HOMES = {"conv": "backbone.conv", "bn": "backbone.bn", "fc": "classifier", "att": "text_head"}
"""Where the parts of a golden net are in ours."""


class ConvMean(Backbone):
    """Images (B, 3, H, W) -> features (B, 8)."""

    def __init__(self, width: int = 8) -> None:
        super().__init__()
        self.width = width
        self.conv = nn.Conv2d(3, width, 3, padding=1, bias=False)
        self.bn = nn.BatchNorm2d(width)

    def forward(self, x: Tensor) -> Tensor:
        return F.relu(self.bn(self.conv(x))).mean(dim=(2, 3))


def tiny_net(num_classes: int = 5, text_width: int | None = 16, key: int = 0) -> Net:
    with seeded("tiny net", key):
        return Net(ConvMean(), num_classes, text_width)


def renamed(tensors: dict[str, Tensor]) -> dict[str, Tensor]:
    """Tensors of a golden net under our names."""
    return {f"{HOMES[part]}.{leaf}": t for (part, leaf), t in ((name.split("."), t) for name, t in tensors.items())}


def golden_net(tensors: dict[str, Tensor]) -> Net:
    """The net, in double precision, that these golden tensors describe."""
    text_width = len(tensors["att.bias"]) if "att.bias" in tensors else None
    net = Net(ConvMean(len(tensors["bn.bias"])), len(tensors["fc.bias"]), text_width).double()
    net.load(renamed(tensors))
    return net


def normal(*shape: int, key: int = 0) -> Tensor:
    """Standard normal numbers that depend on shape and key alone."""
    return torch.randn(*shape, generator=torch.Generator().manual_seed(key))
