"""Generators of time series for data-free synthesis.

Their stack is the image generators' along one axis: the first map is doubled three times, with wider kernels at each
stage; there is no squashing at the end, as series have no bounds, but a mean and a deviation for each channel, learnt.

Shapes: B batch, C classes, D width of a label-text embedding, n latent width, w base width, (c, L) a series.
"""

from __future__ import annotations

from collections import OrderedDict
from collections.abc import Iterator
from typing import cast

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from fcil.nets.backbone import Shape
from fcil.nets.doubling import merged
from fcil.nets.generators import NoisyLayers
from fcil.nets.series.layers import Conv1d, draw_convolution
from fcil.rng import sent

KERNELS = (5, 7, 9)
"""Steps of the convolution at each stage."""


class NoisySeriesGenerator(nn.Sequential):
    """The anchors of the target classes, made noisy and unfolded into series of any scale.

        x = mean + deviation * standardised(convs(linear(noisy(BN(e_y)))))

    Standardised over the batch, so `mean` and `deviation` (c,), learnt, are those of the channels. A length that is no
    multiple of 8 is cropped from the next one. Weights start from torch's global stream: build inside
    `fcil.rng.seeded`.

    Args:
        anchors: (C, D), constant; neither trained nor part of the state.
        shape: c, L of the series.
        batch_size: the largest batch of labels; with `rows_per_layer` it sets the number of noisy layers.
        latent: n.
        width: w, channels before the last convolution; the first maps have 2 w.
        rows_per_layer: rows of the batch that share a noisy layer.
    """

    noisy: NoisyLayers
    scale: nn.BatchNorm1d
    anchors: Tensor

    def __init__(
        self, anchors: Tensor, shape: Shape, batch_size: int, latent: int, width: int, rows_per_layer: int
    ) -> None:
        super().__init__(
            OrderedDict(
                bn_label=nn.BatchNorm1d(anchors.shape[1]),
                noisy=NoisyLayers(batch_size, rows_per_layer, anchors.shape[1], latent),
                **OrderedDict(_stages(shape, latent, width)),
                scale=nn.BatchNorm1d(shape[0]),
            )
        )
        self.register_buffer("anchors", anchors.detach().clone(), persistent=False)

    def forward(self, labels: Tensor) -> Tensor:
        """Map labels (B,) to series (B, c, L)."""
        return cast(Tensor, super().forward(self.anchors[labels]))  # type: ignore[no-untyped-call]

    def redraw(self, generator: torch.Generator) -> None:
        """Draw new noisy layers, the rest unchanged: call it before each generated batch."""
        self.noisy.redraw(generator)


class SeriesGenerator(nn.Sequential):
    """Noise (B, n) -> series (B, c, L), standardised over the batch and brought to a learnt mean and deviation (c,).

    Weights start from torch's global stream: build inside `fcil.rng.seeded`.
    """

    stream: torch.Generator
    """Random stream of the noise in `sample`; set by the caller."""

    def __init__(self, shape: Shape, latent: int, width: int) -> None:
        super().__init__(OrderedDict(**OrderedDict(_stages(shape, latent, width)), scale=nn.BatchNorm1d(shape[0])))
        self.latent = latent

    def noise(self, count: int) -> Tensor:
        """Return noise (count, n), drawn in single precision whatever the weights have."""
        return sent(torch.randn(count, self.latent, generator=self.stream), cast(nn.Linear, self.l1).weight)

    def sample(self, count: int) -> Tensor:
        """Return the next `count` series of the stream."""
        return cast(Tensor, self(self.noise(count)))


class DoublingConv1d(nn.Conv1d):
    """Series (B, I, L) -> (B, O, 2L): steps repeated, then a convolution with an odd kernel (`fcil.nets.doubling`)."""

    def __init__(self, inputs: int, outputs: int, kernel: int) -> None:
        super().__init__(inputs, outputs, kernel, bias=False)
        draw_convolution(self)

    def forward(self, x: Tensor) -> Tensor:
        return F.conv_transpose1d(x, merged(self.weight), stride=2, padding=self.kernel_size[0] // 2)


class _Crop(nn.Module):
    """The middle of a series."""

    def __init__(self, length: int) -> None:
        super().__init__()
        self.length = length

    def forward(self, x: Tensor) -> Tensor:
        begin = (x.shape[2] - self.length) // 2
        return x[:, :, begin : begin + self.length]


def _stages(shape: Shape, latent: int, width: int) -> Iterator[tuple[str, nn.Module]]:
    """Yield the layers from latent vectors (B, n) to series (B, c, L)."""
    channels, length = shape
    first, sizes = -(-length // 8), (2 * width, 2 * width, width, width)
    yield "l1", nn.Linear(latent, sizes[0] * first)
    yield "unfold", nn.Unflatten(1, (sizes[0], first))
    yield "bn0", nn.BatchNorm1d(sizes[0])
    for number, kernel in enumerate(KERNELS, start=1):
        yield f"conv{number}", DoublingConv1d(sizes[number - 1], sizes[number], kernel)
        yield f"bn{number}", nn.BatchNorm1d(sizes[number])
        yield f"act{number}", nn.LeakyReLU(0.2)
    yield "mix", Conv1d(width, channels, 1)
    yield "crop", _Crop(length)
