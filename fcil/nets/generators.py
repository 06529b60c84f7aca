"""Generators of images for data-free synthesis.

`PlainGenerator` reads noise: the generator of DAFL, CMI and Fast-DFKD (Fang et al., AAAI 2022,
arXiv:2112.06253; code @ 0dcecbc) and of TARGET (code @ 78cb9c0, `methods/target.py`: Generator).
`NoisyGenerator` reads labels: the generator of NAYER (Tran et al., CVPR 2024, arXiv:2310.00258; code
@ c6bedcd) and of LANDER (code @ 44d7acc, `methods/generator.py`: NLGenerator, NLGenerator_IN).
`ImageGenerator` reads noise and normalises its images itself: the generator of MFCL (Babakniya et al.,
NeurIPS 2023, arXiv:2311.07784; code @ 8ab937b, models/generator.py) and of RDSKD (code @ 8512a9d).

Shapes: B batch, C classes, D width of a label-text embedding, n latent width, w base width,
(c, H, W) an image, s x s the first map: H/4 x W/4, or H/16 x W/16 in the deep stack.
"""

from __future__ import annotations

import math
from collections import OrderedDict
from collections.abc import Iterator
from typing import cast

import torch
from torch import Tensor, nn

from fcil.nets.backbone import Shape
from fcil.nets.doubling import DoublingConv2d
from fcil.nets.norms import BatchNorm2d
from fcil.rng import sent


class PlainGenerator(nn.Sequential):
    """Noise unfolded into images in [0, 1]:  x = sigmoid(convs(linear(z))).

    The plain stack doubles the first map twice, the deep one four times; `deep=None` takes the deep
    one from 128 pixels on. Weights start from torch's global stream: build inside `fcil.rng.seeded`.

    Args:
        shape: c, H, W of the images.
        latent: n.
        width: w, channels before the last convolution; the first maps have `first` w.
        first: 2, or 4 in the generator of DAFL, ZSKT, DFQ and DFAD (DataFree @ 9e79fa9: LargeGenerator).

    Raises:
        ValueError: a side is no multiple of 4 (of 16 in the deep stack).
    """

    l1: nn.Linear
    bn0: BatchNorm2d

    def __init__(
        self, shape: Shape, latent: int = 256, width: int = 64, deep: bool | None = None, first: int = 2
    ) -> None:
        unfolded, convs = _unfolding(shape, width, deep, first)
        super().__init__(
            OrderedDict(
                l1=nn.Linear(latent, math.prod(unfolded)),
                unfold=nn.Unflatten(1, unfolded),
                **OrderedDict(convs),
                squash=nn.Sigmoid(),
            )
        )

    def forward(self, z: Tensor) -> Tensor:
        """Map noise (B, n) to images (B, c, H, W)."""
        return cast(Tensor, super().forward(z))  # type: ignore[no-untyped-call]


class NoisyLayers(nn.ModuleList):
    """Parallel linear layers D -> n; layer i serves rows i*k .. i*k + k - 1 of the batch.

    They are the only source of randomness: `redraw` makes them new for every generated batch, then
    they are trained with the rest (NAYER: "noisy layer").
    """

    def __init__(self, batch_size: int, rows: int, inputs: int, outputs: int) -> None:
        super().__init__(nn.Linear(inputs, outputs) for _ in range(math.ceil(batch_size / rows)))
        self.rows = rows

    def forward(self, x: Tensor) -> Tensor:
        """Map (B, D) to (B, n)."""
        parts = torch.split(x, self.rows)
        if len(parts) > len(self):
            raise ValueError(f"a batch of {len(x)} labels; this generator was built for {len(self) * self.rows}")
        return torch.cat([layer(part) for layer, part in zip(self, parts, strict=False)])

    @torch.no_grad()
    def redraw(self, generator: torch.Generator) -> None:
        """Draw weights from N(0, 1), not from Kaiming's distribution; biases zero."""
        for layer in self:
            weight = cast(nn.Linear, layer).weight
            weight.copy_(sent(torch.randn(weight.shape, generator=generator), weight))
            cast(nn.Linear, layer).bias.zero_()


class NoisyGenerator(nn.Sequential):
    """The anchors of the target classes, made noisy and unfolded into images in [0, 1].

        x = sigmoid(convs(linear(noisy(BN(e_y)))))

    The plain stack doubles the first map twice (LANDER: CIFAR, Tiny-ImageNet), the deep one four
    times (ImageNet); `deep=None` takes the deep one from 128 pixels on. BatchNorm of the anchors
    runs over the batch. Weights start from torch's global stream: build inside `fcil.rng.seeded`.

    Args:
        anchors: (C, D), constant; neither trained nor part of the state.
        shape: c, H, W of the images.
        batch_size: the largest batch of labels; with `rows_per_layer` it sets the number of noisy layers.
        latent: n.
        width: w, channels before the last convolution; the first maps have 2 w.
        rows_per_layer: k, rows of the batch that share a noisy layer; 10 in LANDER, the number of classes in NAYER.

    Raises:
        ValueError: a side is no multiple of 4 (of 16 in the deep stack).
    """

    noisy: NoisyLayers
    anchors: Tensor

    def __init__(
        self,
        anchors: Tensor,
        shape: Shape,
        batch_size: int,
        latent: int = 256,
        width: int = 64,
        rows_per_layer: int = 10,
        deep: bool | None = None,
    ) -> None:
        first, convs = _unfolding(shape, width, deep)
        super().__init__(
            OrderedDict(
                bn_label=nn.BatchNorm1d(anchors.shape[1]),
                noisy=NoisyLayers(batch_size, rows_per_layer, anchors.shape[1], latent),
                l1=nn.Linear(latent, math.prod(first)),
                unfold=nn.Unflatten(1, first),
                **OrderedDict(convs),
                squash=nn.Sigmoid(),
            )
        )
        self.register_buffer("anchors", anchors.detach().clone(), persistent=False)

    def forward(self, labels: Tensor) -> Tensor:
        """Map labels (B,) to images (B, c, H, W)."""
        return cast(Tensor, super().forward(self.anchors[labels]))  # type: ignore[no-untyped-call]

    def redraw(self, generator: torch.Generator) -> None:
        """Draw new noisy layers, the rest unchanged: call it before each generated batch."""
        self.noisy.redraw(generator)


def _unfolding(
    shape: Shape, width: int, deep: bool | None, first: int = 2
) -> tuple[tuple[int, int, int], Iterator[tuple[str, nn.Module]]]:
    """Return the first map (channels, s, s) and the layers that turn it into an image."""
    channels, *sides = shape
    deep = max(sides) >= 128 if deep is None else deep
    factor = 16 if deep else 4
    if any(side < 1 or side % factor for side in sides):
        kind = "the deep generator" if deep else "the generator"
        raise ValueError(f"{kind} makes images whose sides are multiples of {factor}, not {sides[0]} x {sides[1]}")
    unfolded = (first * width, sides[0] // factor, sides[1] // factor)
    return unfolded, _deep_convs(channels, width, first) if deep else _convs(channels, width, first)


def _convs(channels: int, w: int, first: int) -> Iterator[tuple[str, nn.Module]]:
    yield "bn0", BatchNorm2d(first * w)
    yield from _step(1, first * w, 2 * w)
    yield from _step(2, 2 * w, w)
    yield "conv3", nn.Conv2d(w, channels, 3, padding=1)


def _deep_convs(channels: int, w: int, first: int) -> Iterator[tuple[str, nn.Module]]:
    yield from _step(0, first * w, 2 * w, grow=False)
    yield from _step(1, 2 * w, 2 * w)
    yield from _step(2, 2 * w, w)
    yield from _step(3, w, w)
    yield from _step(4, w, w)
    yield "conv5", nn.Conv2d(w, channels, 3, padding=1)


def _step(number: int, inputs: int, outputs: int, *, grow: bool = True) -> Iterator[tuple[str, nn.Module]]:
    """Yield doubling of the side, convolution, BatchNorm, leaky ReLU."""
    conv = DoublingConv2d(inputs, outputs, bias=False) if grow else nn.Conv2d(inputs, outputs, 3, padding=1, bias=False)
    yield f"conv{number}", conv
    yield f"bn{number}", BatchNorm2d(outputs)
    yield f"act{number}", nn.LeakyReLU(0.2)


class ImageGenerator(nn.Sequential):
    """Noise (B, n) -> images (B, c, H, W) of about mean 0 and deviation 1 in every channel.

    A linear layer, `doublings` stages that double the side, and at the end tanh and a BatchNorm without gain.
    The last stage has half the width. Weights start from torch's global stream: build inside `fcil.rng.seeded`.

    Raises:
        ValueError: a side is no multiple of 2^doublings.
    """

    stream: torch.Generator
    """Random stream of the noise in `sample`; set by the caller."""

    def __init__(self, shape: Shape, latent: int = 1000, width: int = 128, doublings: int | None = None) -> None:
        channels, *sides = shape
        doublings = doublings or usual_doublings(max(sides))
        if any(side < 1 or side % 2**doublings for side in sides):
            raise ValueError(
                f"a generator of {doublings} doublings makes images whose sides are multiples of {2**doublings}, "
                f"not {sides[0]} x {sides[1]}"
            )
        first = (width, *(side // 2**doublings for side in sides))
        super().__init__(
            OrderedDict(
                l1=nn.Linear(latent, math.prod(first)),
                unfold=nn.Unflatten(1, first),
                bn0=BatchNorm2d(width),
                **OrderedDict(_stages(channels, width, doublings)),
            )
        )
        self.latent = latent

    def noise(self, count: int) -> Tensor:
        """Return noise (count, n), drawn in single precision whatever the weights have."""
        return sent(torch.randn(count, self.latent, generator=self.stream), cast(nn.Linear, self.l1).weight)

    def sample(self, count: int) -> Tensor:
        """Return the next `count` images of the stream."""
        return cast(Tensor, self(self.noise(count)))


def usual_doublings(side: int) -> int:
    """Return the reference code's doublings: 2 for CIFAR, 3 for the 64 pixels of Tiny-ImageNet, 5 for ImageNet."""
    return 2 if side < 64 else 3 if side < 128 else 5


def _stages(channels: int, width: int, doublings: int) -> Iterator[tuple[str, nn.Module]]:
    inputs = width
    for number in range(1, doublings + 1):
        outputs = width if number < doublings else max(1, width // 2)
        yield f"conv{number}", DoublingConv2d(inputs, outputs)
        yield f"bn{number}", BatchNorm2d(outputs, eps=0.8)  # the reference's; probably meant as the momentum
        yield f"act{number}", nn.LeakyReLU(0.2)
        inputs = outputs
    yield f"conv{doublings + 1}", nn.Conv2d(inputs, channels, 3, padding=1)
    yield "squash", nn.Tanh()
    yield f"bn{doublings + 1}", BatchNorm2d(channels, affine=False)
