"""Random crops, flips and brightness of whole batches of images, changes of series, and the normalisation.

Every sample of a batch gets its own draw. The arithmetic is that of PIL, pixel for pixel, on uint8
images; on floats in [0, 1] the same operations are differentiable, so a generator can be trained
through them.

Source of the default settings: utils/data.py of github.com/tmtuan1307/lander @ 44d7acc.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace
from functools import lru_cache
from math import prod

import torch
import torch.nn.functional as F
from torch import Tensor

from fcil.data.series.augmentation import SeriesChange
from fcil.rng import sent


@dataclass(frozen=True)
class Augment:
    """Augmentation of training samples before they are normalised.

    Differs: a batch draws from the generator it is given, where torchvision draws sample by sample
    from the global stream; the distributions are the same.
    """

    padding: int = 0
    """Zeros added on every side before a crop of the original size is taken at a random place, in pixels."""
    flip: bool = False
    """Whether half of the samples, drawn at random, are mirrored left to right."""
    brightness: float = 0.0
    """Samples are multiplied by a factor drawn uniformly from [1 - brightness, 1 + brightness]."""
    synthetic_brightness: float = 0.0
    """The same for synthetic samples; the reference brightens them for ImageNet only."""
    shift: float = 0.0
    """Time series: most steps by which a series is moved in time, as a share of its own steps."""
    scaling: float = 0.0
    """Time series: standard deviation of the factor of each series and channel."""
    masking: float = 0.0
    """Time series: longest stretch that is set to 0, as a share of a series' own steps."""
    jitter: float = 0.0
    """Time series: standard deviation of the noise added to each value."""

    @property
    def synthetic(self) -> Augment:
        """Return the augmentation of synthetic samples: the same crops and flips, another brightness."""
        return replace(self, brightness=self.synthetic_brightness)

    def __call__(self, x: Tensor, generator: torch.Generator, sizes: Sequence[int] = ()) -> Tensor:
        """Return a randomly changed copy of images `x` (B, channels, ...), uint8 or float in [0, 1], or of series.

        Series (B, channels, steps) are floats of any scale.

        Args:
            sizes: of the batches that `x` consists of, which are changed as they would be one after the other.
        """
        moved, mirrored, factors = [], [], []
        for size in sizes or (len(x),):
            if self.padding or self.flip:
                moved.append(torch.randint(0, 2 * self.padding + 1, (x.ndim - 2, size), generator=generator))
                mirrored.append(torch.rand(size, generator=generator))
            if self.brightness:
                factors.append(torch.rand(size, generator=generator))
        if moved:
            x = crop(x, self.padding, torch.cat(moved, 1), torch.cat(mirrored) < (0.5 if self.flip else 0.0))
        if factors:
            # Differs: the reference's synthesis for ImageNet draws one factor for a whole batch.
            low = max(0.0, 1 - self.brightness)
            span = 1 + self.brightness - low
            x = brighten(x, low + span * torch.cat(factors))
        change = SeriesChange(self.shift, self.scaling, self.masking, self.jitter)
        return change(x, generator, sizes) if any(change) else x


def crop(x: Tensor, padding: int, spots: Tensor, mirror: Tensor) -> Tensor:
    """Pad `x` (B, channels, *size) with zeros, crop it back to its size at `spots`, mirror some.

    Args:
        spots: where each crop begins in the padded sample, (axes, B), in [0, 2 * padding].
        mirror: which samples have their last axis reversed, (B,) bool.
    """
    size = x.shape[2:]
    spots, mirror = sent(spots, x.device), sent(mirror, x.device)
    index = spots.new_zeros(len(x), 1)
    for axis, length in enumerate(size):
        along = torch.arange(length, device=x.device).expand(len(x), length)
        if axis == len(size) - 1:
            along = torch.where(mirror[:, None], length - 1 - along, along)
        along = along + spots[axis][:, None]
        index = (index[:, :, None] * (length + 2 * padding) + along[:, None, :]).flatten(1)  # (B, pixels so far)
    padded = F.pad(x, (padding, padding) * len(size)).flatten(2)
    return padded.gather(2, index[:, None].expand(-1, x.shape[1], -1)).view(x.shape)


def brighten(x: Tensor, factor: Tensor) -> Tensor:
    """Multiply every sample by its factor (B,); uint8 levels are truncated, not rounded, as PIL does."""
    scale = factor.to(torch.float32 if x.dtype == torch.uint8 else x.dtype)
    scale = sent(scale, x.device).view(-1, *[1] * (x.ndim - 1))
    if x.dtype == torch.uint8:
        return (x * scale).clamp_(max=255).to(torch.uint8)
    return (x * scale).clamp(0, 1)


def normalise(x: Tensor, mean: Sequence[float] | Tensor, std: Sequence[float] | Tensor) -> Tensor:
    """Return (x - mean) / std for every channel of `x` (B, channels, ...).

    uint8 levels are divided by 255 first; floats are taken as they are. `mean` and `std` (channels,)
    may be tensors that require a gradient.
    """
    if isinstance(mean, Tensor) or isinstance(std, Tensor):
        shape = (-1,) + (1,) * (x.ndim - 2)
        values = x / 255 if x.dtype == torch.uint8 else x
        centre, spread = (torch.as_tensor(v).to(values).view(shape) for v in (mean, std))
        return (values - centre) / spread
    if x.dtype == torch.uint8:
        scale, shift = _affine(tuple(mean), tuple(std), 255.0, x.ndim, x.device, torch.get_default_dtype())
        return x.to(scale.dtype).mul_(scale).sub_(shift)
    scale, shift = _affine(tuple(mean), tuple(std), 1.0, x.ndim, x.device, x.dtype)
    return x * scale - shift


def batches_ahead(count: int, shape: Sequence[int]) -> int:
    """Return how many batches of `count` samples of `shape` to prepare at once: small ones cost less together."""
    return max(1, min(8, 2**17 // max(1, count * prod(shape))))


def parted(x: Tensor, sizes: Sequence[int]) -> Sequence[Tensor]:
    """Return the batches that `x` consists of: views, or copies where a view would begin in the midst of a cache line.

    There the sums of a matrix product may be of another order.
    """
    if len(sizes) == 1:
        return (x,)
    begin, size = x.storage_offset(), x.element_size()
    parts = torch.split(x, list(sizes))
    return [part if (part.storage_offset() - begin) * size % 64 == 0 else part.clone() for part in parts]


@lru_cache(maxsize=64)
def _affine(
    mean: tuple[float, ...], std: tuple[float, ...], top: float, ndim: int, device: torch.device, dtype: torch.dtype
) -> tuple[Tensor, Tensor]:
    """Return scale and shift on the device, cached: a copy to a GPU for every batch is a wait."""
    with torch.inference_mode(False):  # a tensor made under inference mode could not be used in training later
        centre, spread = (torch.tensor(v, dtype=torch.float64).view(-1, *[1] * (ndim - 2)) for v in (mean, std))
        return (1 / (top * spread)).to(device, dtype), (centre / spread).to(device, dtype)
