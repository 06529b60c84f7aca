"""One network of InceptionTime: convolutions of three lengths side by side.

Paper: Ismail Fawaz et al., "InceptionTime: Finding AlexNet for Time Series Classification", DMKD 2020,
arXiv:1909.04939; code hfawaz/InceptionTime. The published classifier is the mean of the predictions of five such
networks; here an ensemble is a matter of seeds (`fcil train` with `seeds: [0, 1, 2, 3, 4]` trains the five), and the
accuracy of a run is that of one.

Differs: BatchNorm has PyTorch's momentum and epsilon, not Keras'.

Shapes: B batch, c channels, L steps, F feature width.
"""

from __future__ import annotations

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from fcil.nets.backbone import Backbone, Norm
from fcil.nets.series.layers import Conv1d, ConvNorm, Mask, normalisation, padding_of, pooled, real

DEPTH = 6
KERNELS = (40, 20, 10)


class InceptionTime(Backbone):
    """Six inception modules of four branches of w channels (w = 32), a shortcut every three, and a mean over time."""

    def __init__(self, channels: int, width: int, norm: Norm) -> None:
        super().__init__()
        self.width = 4 * width
        self.blocks = nn.ModuleList(_Inception(self.width if n else channels, width, norm) for n in range(DEPTH))
        self.shortcuts = nn.ModuleList(
            ConvNorm(narrow, self.width, 1, norm, relu=False, bias=False) for narrow in (channels, self.width)
        )

    def forward(self, x: Tensor) -> Tensor:
        x, mask = padding_of(x)
        begun = x
        for number, block in enumerate(self.blocks):
            x = block(x, mask)
            if number % 3 == 2:
                x = begun = F.relu(x + self.shortcuts[number // 3](begun, mask))
        return pooled(x, mask)


class _Inception(nn.Module):
    """Convolutions of 40, 20 and 10 steps on a bottleneck, and one of 1 step on the largest of three neighbours."""

    def __init__(self, inputs: int, width: int, norm: Norm) -> None:
        super().__init__()
        narrow = inputs if inputs == 1 else width
        self.bottleneck = None if inputs == 1 else Conv1d(inputs, width, 1, bias=False)
        self.branches = nn.ModuleList(Conv1d(narrow, width, kernel, bias=False) for kernel in KERNELS)
        self.beside = Conv1d(inputs, width, 1, bias=False)
        self.norm = normalisation(norm, 4 * width)

    def forward(self, x: Tensor, mask: Mask) -> Tensor:
        whole = x if mask is None else x.masked_fill(mask == 0, -torch.inf)  # no padded step is the largest
        largest = F.max_pool1d(whole, 3, stride=1, padding=1)
        if mask is not None:
            largest = largest.masked_fill(mask == 0, 0.0)
        short = real(x, mask) if self.bottleneck is None else self.bottleneck(x, mask)
        maps = [*(branch(short) for branch in self.branches), self.beside(largest)]
        return F.relu(self.norm(torch.cat(maps, dim=1), mask), inplace=True)
