"""The fully convolutional net and the residual net of time series of Wang et al.

Paper: Wang, Yan and Oates, "Time Series Classification from Scratch with Deep Neural Networks: A Strong Baseline",
IJCNN 2017, arXiv:1611.06455, as Ismail Fawaz et al. trained them (DMKD 2019, arXiv:1809.04356; code
hfawaz/dl-4-tsc), whose residual net does not normalise its input.

Differs: BatchNorm has PyTorch's momentum and epsilon, not Keras'.

Shapes: B batch, c channels, L steps, F feature width.
"""

from __future__ import annotations

from itertools import pairwise

import torch.nn.functional as F
from torch import Tensor, nn

from fcil.nets.backbone import Backbone, Norm
from fcil.nets.series.layers import ConvNorm, Mask, normalisation, padding_of, pooled

KERNELS = (8, 5, 3)


class Fcn1d(Backbone):
    """Three convolutions of w, 2 w and w channels (w = 128) and kernels of 8, 5 and 3 steps, and a mean over time."""

    def __init__(self, channels: int, width: int, norm: Norm) -> None:
        super().__init__()
        sizes = pairwise((channels, width, 2 * width, width))
        self.layers = nn.ModuleList(
            ConvNorm(narrow, wide, kernel, norm) for (narrow, wide), kernel in zip(sizes, KERNELS, strict=True)
        )
        self.width = width

    def forward(self, x: Tensor) -> Tensor:
        x, mask = padding_of(x)
        for layer in self.layers:
            x = layer(x, mask)
        return pooled(x, mask)


class ResNet1d(Backbone):
    """Three residual blocks of w, 2 w and 2 w channels (w = 64), and a mean over time."""

    def __init__(self, channels: int, width: int, norm: Norm) -> None:
        super().__init__()
        sizes = pairwise((channels, width, 2 * width, 2 * width))
        self.blocks = nn.ModuleList(_Block(narrow, wide, norm) for narrow, wide in sizes)
        self.width = 2 * width

    def forward(self, x: Tensor) -> Tensor:
        x, mask = padding_of(x)
        for block in self.blocks:
            x = block(x, mask)
        return pooled(x, mask)


class _Block(nn.Module):
    """Convolutions of 8, 5 and 3 steps, beside them a normalised shortcut, 1x1 where the channels change."""

    def __init__(self, narrow: int, wide: int, norm: Norm) -> None:
        super().__init__()
        first, second, last = KERNELS
        self.layers = nn.ModuleList(
            [
                ConvNorm(narrow, wide, first, norm),
                ConvNorm(wide, wide, second, norm),
                ConvNorm(wide, wide, last, norm, relu=False),
            ]
        )
        same = narrow == wide
        self.shortcut = normalisation(norm, wide) if same else ConvNorm(narrow, wide, 1, norm, relu=False)

    def forward(self, x: Tensor, mask: Mask) -> Tensor:
        inner = x
        for layer in self.layers:
            inner = layer(inner, mask)
        return F.relu(inner + self.shortcut(x, mask), inplace=True)
