"""Doubling of a map's sides and the convolution after it, in one.

Generators repeat each pixel in a square of four, or each step twice, and convolve the result with K weights a side,
an odd number. Neighbours in a window are equal then, so that their weights can be added before:

    y = conv(repeat(x), W)  =  transposed conv(x, V), stride 2, padding (K - 1) / 2
    V_t = W_{K-1-t} + W_{K-t}        for t from 0 to K, along each axis; W is zero outside

Of 3 x 3 weights that takes 4 products for an output in place of 9, and no repeated map is written. Sums have another
order, so results are equal but for rounding. `python tests/benchmarks/doubling.py` times both.

Shapes: B batch, I and O channels, u x v a map, L steps.
"""

from __future__ import annotations

import torch.nn.functional as F
from torch import Tensor, nn


class DoublingConv2d(nn.Conv2d):
    """Maps (B, I, u, v) -> (B, O, 2u, 2v): pixels repeated, then convolved with weights (O, I, 3, 3)."""

    def __init__(self, inputs: int, outputs: int, *, bias: bool = True) -> None:
        super().__init__(inputs, outputs, 3, padding=1, bias=bias)

    def forward(self, x: Tensor) -> Tensor:
        return F.conv_transpose2d(x, merged(self.weight), self.bias, stride=2, padding=1)


def merged(weight: Tensor) -> Tensor:
    """Return V (I, O, K + 1, ...) of weights W (O, I, K, ...), as a transposed convolution reads them."""
    for axis in range(2, weight.dim()):
        turned = weight.flip(axis).transpose(axis, -1)
        weight = (F.pad(turned, (0, 1)) + F.pad(turned, (1, 0))).transpose(axis, -1)
    return weight.transpose(0, 1)
