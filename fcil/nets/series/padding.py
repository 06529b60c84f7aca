"""Time series of unequal lengths in one tensor: padded steps are NaN in every channel.

So padding travels with the samples, through shards, batches, crops and pools, and no list of lengths can be separated
from them. Nets call `split_padding` first and never compute with NaN. Missing values within a series are another
matter: they are refused or interpolated where a series is read.

Shapes: B batch, c channels, L steps.
"""

from __future__ import annotations

import torch
from torch import Tensor


def split_padding(x: Tensor) -> tuple[Tensor, Tensor]:
    """Return the series (B, c, L) with zeros for padding, and the mask of real steps (B, 1, L), 1 or 0 in its type.

    The gradient of a padded step is zero.
    """
    padded = torch.isnan(x).all(1, keepdim=True)
    return x.masked_fill(padded, 0.0), (~padded).to(x.dtype)


def lengths(x: Tensor) -> Tensor:
    """Return the number of real steps of each series (B, c, L): (B,), int64."""
    return (~torch.isnan(x).all(1)).sum(1)
