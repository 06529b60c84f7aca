"""Small nets without shortcuts, of the papers on MNIST: LeNet-5, a multilayer perceptron and FedGen's net.

- LeNet-5 (LeCun et al., Proc. IEEE 1998, figure 2) with ReLU and max pooling, as the code of DAFL and DFAD trains it
  (VainF/Data-Free-Adversarial-Distillation @ c161591, `network/lenet.py`); at width 3 it is their LeNet5Half.
- Two hidden layers of 400 units (van de Ven and Tolias, arXiv:1904.07734, for Split-MNIST).
- FedGen's net for MNIST (zhuangdizhu/FedGen @ dd5807c, `utils/model_config.py`, `mnist`).

Weights start as torch's layers do. `norm: none` is what the papers of the first two have; FedGen's has batch norm.

Shapes: B batch, c image channels, H and W sides in pixels, F feature width.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from math import prod
from typing import ClassVar, cast

import torch.nn.functional as F
from torch import Tensor, nn

from fcil.nets.backbone import Backbone, Inputs, MakeNorm, Norm, Shape, Stem, norm_factory

LENET_SIDE = 32
"""Least side of an image in LeNet-5; smaller ones are padded with zeros, the data's mean, to it."""


@dataclass(frozen=True)
class PlainRecipe:
    """Architecture of a net without shortcuts, of one size for one size of images."""

    description: str
    width: int
    make: Callable[[Shape, int, MakeNorm], Backbone]
    stems: ClassVar[bool] = False
    inputs: ClassVar[Inputs] = "images"

    def build(self, shape: Shape, stem: Stem = "auto", width: int | None = None, norm: Norm = "batch") -> Backbone:
        """Return a net for images of this shape; its weights come from torch's global stream."""
        return self.make(shape, width or self.width, norm_factory(norm))


class LeNet5(Backbone):
    """Convolutions of 5x5 with 6, 16 and 120 channels, pooling after the first two, and a layer of 84 units.

    The third convolution spans all of the map, 5x5 for images of 32 pixels. Channels and units are in proportion to
    the width, rounded: 3, 8, 60 and 42 at half.
    """

    def __init__(self, shape: Shape, width: int, norm: MakeNorm) -> None:
        super().__init__()
        sides = [max(side, LENET_SIDE) for side in shape[1:]]
        self.padding = [part for side in reversed(shape[1:]) for part in _halves(max(0, LENET_SIDE - side))]
        second, third, self.width = round(width * 16 / 6), width * 20, width * 14
        self.convs = nn.Sequential(
            _convolution(shape[0], width, 5, norm),
            nn.MaxPool2d(2),
            _convolution(width, second, 5, norm),
            nn.MaxPool2d(2),
            _convolution(second, third, tuple(((side - 4) // 2 - 4) // 2 for side in sides), norm),
            nn.Flatten(),
        )
        self.units = nn.Sequential(nn.Linear(third, self.width), nn.ReLU(inplace=True))

    def forward(self, x: Tensor) -> Tensor:
        return cast(Tensor, self.units(self.convs(F.pad(x, self.padding))))


class Mlp(Backbone):
    """Two hidden layers of equal width over all pixels."""

    def __init__(self, shape: Shape, width: int, norm: MakeNorm) -> None:
        super().__init__()
        self.width = width
        self.hidden = nn.Sequential(nn.Flatten(), *_units(prod(shape), width, norm), *_units(width, width, norm))

    def forward(self, x: Tensor) -> Tensor:
        return cast(Tensor, self.hidden(x))


class StridedCnn(Backbone):
    """Two 3x3 convolutions of stride 2 with 6 and 16 channels, and a linear layer of 32 units without activation."""

    def __init__(self, shape: Shape, width: int, norm: MakeNorm) -> None:
        super().__init__()
        second, self.width = round(width * 16 / 6), round(width * 32 / 6)
        pixels = prod(-(-side // 4) for side in shape[1:])
        self.layers = nn.Sequential(
            _convolution(shape[0], width, 3, norm, stride=2, padding=1),
            _convolution(width, second, 3, norm, stride=2, padding=1),
            nn.Flatten(),
            nn.Linear(second * pixels, self.width),
        )

    def forward(self, x: Tensor) -> Tensor:
        return cast(Tensor, self.layers(x))


class _OnVectors(nn.Module):
    """A normalisation layer of maps (B, F, 1, 1) on vectors (B, F)."""

    def __init__(self, norm: nn.Module) -> None:
        super().__init__()
        self.norm = norm

    def forward(self, x: Tensor) -> Tensor:
        return cast(Tensor, self.norm(x[:, :, None, None])).flatten(1)


def _convolution(
    narrow: int, wide: int, side: int | tuple[int, ...], norm: MakeNorm, stride: int = 1, padding: int = 0
) -> nn.Sequential:
    kernel = cast(tuple[int, int], side) if isinstance(side, tuple) else side
    return nn.Sequential(nn.Conv2d(narrow, wide, kernel, stride, padding), norm(wide), nn.ReLU(inplace=True))


def _units(narrow: int, wide: int, norm: MakeNorm) -> tuple[nn.Module, ...]:
    return nn.Linear(narrow, wide), _OnVectors(norm(wide)), nn.ReLU(inplace=True)


def _halves(pixels: int) -> tuple[int, int]:
    return pixels // 2, pixels - pixels // 2
