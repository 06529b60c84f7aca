"""Images of several sizes: one generator for all of them, and a pool that groups images by size.

A size is the side l of the longer axis; the other axis keeps the aspect ratio.

Shapes: B batch, c channels, H x W the data's own size, h x w another.
"""

from __future__ import annotations

from bisect import bisect
from collections.abc import Iterator, Sequence
from dataclasses import replace
from functools import lru_cache
from itertools import accumulate
from typing import Literal, cast

import torch
import torch.nn.functional as F
from torch import Tensor

from fcil.data import Augment
from fcil.nets import NoisyGenerator
from fcil.nets.backbone import Shape
from fcil.nets.doubling import DoublingConv2d
from fcil.synthesis.common.base import SynthesisProblem, Views
from fcil.synthesis.common.pool import endless_rows, to_bytes, view
from fcil.types import Tensors

Size = tuple[int, int]
"""Height and width."""
Shown = Literal["native", "up", "canvas", "mixed"]
"""Placement of a small image for a net: as it is, stretched to H x W, at a random place of H x W, or one of them."""
KINDS: tuple[Literal["native", "up", "canvas"], ...] = ("native", "up", "canvas")


def usual_sizes(native: int) -> tuple[int, ...]:
    """Return 96, 112 and 128 for 224 pixels; below 128 pixels a half, three quarters and the whole."""
    shares = (3 / 7, 1 / 2, 4 / 7) if native >= 128 else (1 / 2, 3 / 4, 1)
    return tuple(dict.fromkeys(max(1, round(native * share)) for share in shares))


def native(shape: Shape) -> Size:
    """Return height and width of the data."""
    return shape[1], shape[2]


def scaled(shape: Shape, side: int) -> Size:
    """Return height and width of images of c x H x W whose longer axis has `side` pixels."""
    high, wide = shape[1:]
    return max(1, round(high * side / max(high, wide))), max(1, round(wide * side / max(high, wide)))


def shrunk(augment: Augment, size: Sequence[int], shape: Shape) -> Augment:
    """Return the same augmentation for a smaller image: crops move it by the same share of its side."""
    return replace(augment, padding=round(augment.padding * max(size) / max(shape[1:])))


def resize(x: Tensor, size: Size) -> Tensor:
    """Return x (B, c, h, w) in another size: bilinear interpolation, corners not aligned, as two matrix products.

    The backward pass of torch's own adds in any order on a GPU, so runs would not be reproducible.
    """
    if tuple(x.shape[2:]) == size:
        return x
    high, wide = (_line(own, new, x.device, x.dtype) for own, new in zip(x.shape[2:], size, strict=True))
    return high.T @ x @ wide


@lru_cache(maxsize=64)
def _line(length: int, wanted: int, device: torch.device, dtype: torch.dtype) -> Tensor:
    """Return weights (length, wanted) of linear interpolation, cached: a copy to a GPU for every batch is a wait."""
    with torch.inference_mode(False):
        weights = F.interpolate(torch.eye(length, dtype=torch.float64)[None], size=wanted, mode="linear")
        return weights[0].to(device, dtype)


def enlarged(images: Tensor, size: Size) -> Tensor:
    """Return uint8 images (B, c, h, w) in another size, in chunks: as floats they need four times the memory."""
    if tuple(images.shape[2:]) == size:
        return images
    return torch.cat([to_bytes(resize(part / 255, size), "round") for part in torch.split(images, 256)])


class SizedConv2d(DoublingConv2d):
    """The last upsampling of a generator and its convolution, to any size; an exact doubling is as the others are."""

    size: Size | None = None

    def forward(self, x: Tensor) -> Tensor:
        twice = (2 * x.shape[2], 2 * x.shape[3])
        if self.size in (None, twice):
            return super().forward(x)
        return cast(Tensor, self._conv_forward(resize(x, self.size), self.weight, self.bias))


class SizedGenerator(NoisyGenerator):
    """A `NoisyGenerator` of images of any size: all of its weights serve all sizes.

    Built for the largest of them, in multiples of what its stack can make; the deep stack is taken
    for data of 128 pixels and more. `aim` sets the size of the images to come.

    Args:
        shape: c, H, W of the data.
        sides: the sizes to generate.
    """

    def __init__(
        self,
        anchors: Tensor,
        shape: Shape,
        sides: Sequence[int],
        batch_size: int,
        latent: int,
        width: int,
        rows_per_layer: int,
    ) -> None:
        deep = max(shape[1:]) >= 128
        factor = 16 if deep else 4
        base = [factor * -(-side // factor) for side in scaled(shape, max(sides))]
        super().__init__(anchors, (shape[0], *base), batch_size, latent, width, rows_per_layer, deep)
        self._late, last = [(n, m) for n, m in self.named_children() if isinstance(m, DoublingConv2d)][-1]
        with torch.device("meta"):  # no weights are drawn
            sized = SizedConv2d(last.in_channels, last.out_channels, bias=False)
        sized.weight = last.weight
        setattr(self, self._late, sized)

    def aim(self, size: Size) -> None:
        """Set the height and width of the images of the next forwards."""
        cast(SizedConv2d, self.get_submodule(self._late)).size = size


def by_size(batches: Sequence[Tensor], about: Tensors, held: Tensor) -> list[Tensors]:
    """Return a bucket for every size: its images `x`, their other tensors, and `id`, their places in `held`.

    Args:
        batches: images (B, c, h, w) of one size each, all of one B.
        about: tensors with a row for every image of all batches.
        held: the selected images, (N,), counted over all batches.
    """
    count, sizes = len(batches[0]), [tuple(images.shape[2:]) for images in batches]
    buckets: list[Tensors] = []
    for size in dict.fromkeys(sizes):
        ours = [n for n, other in enumerate(sizes) if other == size]
        place = held.new_full((len(sizes),), -1)
        place[ours] = torch.arange(len(ours), device=held.device)
        at = place[held // count]
        mine = (at >= 0).nonzero().flatten()
        if len(mine):
            x = torch.cat([batches[n] for n in ours])[at[mine] * count + held[mine] % count]
            buckets.append({"x": x, "id": mine} | {name: t[held[mine]] for name, t in about.items()})
    return buckets


def bucketed(
    buckets: Sequence[Tensors],
    problem: SynthesisProblem,
    count: int,
    rng: torch.Generator,
    chance: torch.Generator,
    shown: Shown,
) -> Iterator[Views]:
    """Yield batches without end, each of one bucket, drawn in proportion to its number of images.

    Args:
        buckets: `x` of one size each, `y`, and `id`: which row of the pool each is.
        rng: orders and augments images.
        chance: draws buckets and placements; its numbers are read on the host, many at a time.
    """
    ends = list(accumulate(len(bucket["x"]) for bucket in buckets))
    passes = [endless_rows(len(bucket["x"]), count, rng, problem.device) for bucket in buckets]
    for which, how, down, across in _fractions(chance):
        n = bisect(ends, which * ends[-1])
        bucket, rows = buckets[n], next(passes[n])
        augment = shrunk(problem.augment, bucket["x"].shape[2:], problem.shape)
        x = view(bucket, rows, augment, rng, problem.mean, problem.std)
        kind = KINDS[int(how * len(KINDS))] if shown == "mixed" else shown
        yield Views(_show(x, native(problem.shape), kind, down, across), bucket["y"][rows], bucket["id"][rows])


def _fractions(chance: torch.Generator) -> Iterator[list[float]]:
    """Yield four numbers in [0, 1) at a time, without end."""
    while True:
        yield from torch.rand(256, 4, generator=chance).tolist()


def _show(x: Tensor, whole: Size, kind: Literal["native", "up", "canvas"], down: float, across: float) -> Tensor:
    """Place normalised images x (B, c, h, w); the canvas around them is 0, the mean of the data."""
    high, wide = whole[0] - x.shape[2], whole[1] - x.shape[3]
    if kind == "native" or (high, wide) == (0, 0):
        return x
    if kind == "up":
        return resize(x, whole)
    top, left = int(down * (high + 1)), int(across * (wide + 1))
    return F.pad(x, (left, wide - left, top, high - top))
