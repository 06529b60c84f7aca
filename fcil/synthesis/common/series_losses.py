"""Loss terms of synthetic time series: what is known of a series beforehand, without any data.

Each is a pure function and returns a scalar to be minimised, without a weight.

Shapes: B batch, c channels, L steps.
"""

from __future__ import annotations

import torch
from torch import Tensor

EPSILON = 1e-8
"""Addend to powers before a division."""


def roughness(x: Tensor) -> Tensor:
    """Return the mean over series and channels of sum_f (f / F)^2 |X_f|^2 / sum_f |X_f|^2, from 0 to 1; x (B, c, L).

    X is the Fourier transform of a series less its mean, F the highest frequency. Sensors have most of their power at
    low frequencies; what a net is fooled by lies at high ones. A constant series has 0.
    """
    values = x.float()
    power = torch.fft.rfft(values - values.mean(dim=2, keepdim=True)).abs().square()  # (B, c, frequencies)
    last = max(1, power.shape[2] - 1)
    frequency = torch.arange(power.shape[2], device=x.device, dtype=power.dtype) / last
    share: Tensor = (power * frequency.square()).sum(dim=2) / (power.sum(dim=2) + EPSILON)
    return share.mean()


def total_variation(x: Tensor) -> Tensor:
    """Return the mean of |x_{t+1} - x_t| over series, channels and steps; 0 for series of one step. x (B, c, L)."""
    steps: Tensor = (x[:, :, 1:] - x[:, :, :-1]).abs()
    return steps.sum() / max(1, steps.numel())


def correlations_apart(x: Tensor, labels: Tensor) -> Tensor:
    """Return the mean of (r_i - r_y)^2 over pairs of channels: how far series of a class are apart in these.

    r_i are the correlations of the channels of series i over time, r_y their mean over the batch's series of its label;
    x (B, c, L).
    How channels go together is part of what makes a class of movements. 0 for one channel; labels (B,).
    """
    channels = x.shape[1]
    if channels == 1:
        return 0 * x.sum()
    values = x.float()
    centred = values - values.mean(dim=2, keepdim=True)
    unit = centred / (centred.square().sum(dim=2, keepdim=True) + EPSILON).sqrt()
    rows, columns = torch.triu_indices(channels, channels, offset=1, device=x.device)
    each = (unit[:, rows] * unit[:, columns]).sum(dim=2)  # (B, pairs)
    alike = (labels[:, None] == labels[None]).to(each.dtype)
    of_class = alike @ each / alike.sum(dim=1, keepdim=True)
    return (each - of_class).square().mean()
