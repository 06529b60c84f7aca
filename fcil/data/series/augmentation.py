"""Random changes of series: shifted, scaled, masked and noised, each sample by its own draw; padding stays NaN.

Source: Um et al., "Data augmentation of wearable sensor data for Parkinson's disease monitoring using convolutional
neural networks", ICMI 2017, arXiv:1706.00527 (jitter, scaling); Park et al., "SpecAugment", Interspeech 2019,
arXiv:1904.08779 (masking along time).

Shapes: B batch, c channels, L steps.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import NamedTuple

import torch
from torch import Tensor

from fcil.nets.series.padding import lengths
from fcil.rng import sent


class SeriesChange(NamedTuple):
    """How far series are changed; 0: not at all."""

    shift: float
    """Most steps by which a series is moved, as a share of its own; its first or last value fills the gap."""
    scaling: float
    """Standard deviation of the factor (mean 1) of each series and channel."""
    masking: float
    """Most steps of one stretch that is set to 0, as a share of the series' own."""
    jitter: float
    """Standard deviation of the noise that is added to each value."""

    def __call__(self, x: Tensor, generator: torch.Generator, sizes: Sequence[int] = ()) -> Tensor:
        """Return a changed copy of series (B, c, L); draws of one batch of `sizes` follow those of the one before."""
        drawn = [self._draw(size, x.shape, generator) for size in sizes or (len(x),)]
        moves, factors, stretches, noise = (torch.cat(parts) for parts in zip(*drawn, strict=True))
        real = lengths(x)[:, None]  # (B, 1)
        steps = torch.arange(x.shape[2], device=x.device)[None]  # (1, L)
        if self.shift:
            most = (self.shift * real).floor()
            moved = (sent(moves, x.device)[:, None] * (2 * most + 1)).floor().long() - most.long()
            source = torch.minimum((steps - moved).clamp(min=0), (real - 1).clamp(min=0))
            source = torch.where(steps < real, source, steps)
            x = x.gather(2, source[:, None].expand_as(x))
        if self.scaling:
            x = x * (1 + self.scaling * sent(factors, x.device).to(x.dtype))[:, :, None]
        if self.masking:
            share, place = sent(stretches, x.device).unbind(1)
            span = (share[:, None] * ((self.masking * real).floor() + 1)).floor()
            begin = (place[:, None] * (real - span + 1)).floor()
            hidden = (steps >= begin) & (steps < begin + span) & (steps < real)
            x = x.masked_fill(hidden[:, None], 0.0)
        return x + self.jitter * sent(noise, x.device).to(x.dtype) if self.jitter else x

    def _draw(self, size: int, shape: Sequence[int], generator: torch.Generator) -> tuple[Tensor, ...]:
        """Return the draws of one batch, of no element where a change is off."""
        _, channels, length = shape
        return (
            torch.rand(size if self.shift else 0, generator=generator),
            torch.randn(size if self.scaling else 0, channels, generator=generator),
            torch.rand(size if self.masking else 0, 2, generator=generator),
            torch.randn(size if self.jitter else 0, channels, length, generator=generator),
        )
