"""Series of unequal lengths, with missing values and of any scale, as one tensor.

Shapes: N series, c channels, L steps.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Literal

import numpy as np
from numpy.typing import NDArray

from fcil.data.series.part import Part, Series
from fcil.errors import DataError

Missing = Literal["refuse", "interpolate"]
Longer = Literal["refuse", "crop", "pad"]
MOST_VALUES = 2**31
"""Most values of a part, padding included: 8 GiB."""
FLAT = 1e-6
"""Standard deviation, as a share of the largest value, below which a channel counts as constant."""


def filled(part: Part, missing: Missing) -> list[Series]:
    """Return the series of a part without a missing value: refused, or interpolated within series and channel.

    Interpolation is linear between the values at either side; before the first and after the last it repeats them.

    Raises:
        DataError: a value is missing and that is refused, or a channel of a series has none.
    """
    return [x if not np.isnan(x).any() else _filled(x, part, row, missing) for row, x in enumerate(part.series)]


def _filled(x: Series, part: Part, row: int, missing: Missing) -> Series:
    where = f"{part.file}: {part.rows[row]}"
    gaps = np.isnan(x)
    if missing == "refuse":
        channel, step = np.argwhere(gaps)[0]
        raise DataError(
            f"{where}: value {step + 1} of channel {channel + 1} is missing "
            f"({gaps.sum():,} of {gaps.size:,} in this series); data.missing=interpolate fills them in"
        )
    empty = np.flatnonzero(gaps.all(1))
    if len(empty):
        raise DataError(f"{where}: channel {empty[0] + 1} has no value at all; leave the series or the channel out")
    steps = np.arange(x.shape[1])
    return np.stack([np.interp(steps, steps[~gap], values[~gap]) for values, gap in zip(x, gaps, strict=True)]).astype(
        np.float32
    )


def scaled(x: Series) -> Series:
    """Return a series with mean 0 and standard deviation 1 in each channel; a constant channel becomes 0.

    The standard deviation is that of the population (divided by the number of steps).
    """
    values = x.astype(np.float64)
    mean, std = values.mean(1, keepdims=True), values.std(1, keepdims=True)
    flat = std <= FLAT * np.abs(values).max(1, keepdims=True)
    return np.where(flat, 0.0, (values - mean) / np.where(flat, 1.0, std)).astype(np.float32)


def channel_scale(x: NDArray[np.float32]) -> tuple[NDArray[np.float32], NDArray[np.float32]]:
    """Return mean and standard deviation of every channel (c, 1) over all real steps of series (N, c, L).

    Each series has the same weight per step. The deviation of a constant channel is 1.
    """
    values = x.astype(np.float64)
    mean, std = np.nanmean(values, axis=(0, 2)), np.nanstd(values, axis=(0, 2))
    std[std <= FLAT * np.nanmax(np.abs(values), axis=(0, 2))] = 1.0
    return mean.astype(np.float32)[:, None], std.astype(np.float32)[:, None]


def padded(series: Sequence[Series], length: int, file: str) -> NDArray[np.float32]:
    """Return series as one array (N, c, L): steps after the end of a series are NaN, those after L are cut off.

    Raises:
        DataError: it would have more than `MOST_VALUES` values.
    """
    size = len(series) * len(series[0]) * length
    if size > MOST_VALUES:
        raise DataError(
            f"{file}: {len(series):,} series of {length:,} steps are {size:,} values; at most {MOST_VALUES:,}"
        )
    out = np.full((len(series), len(series[0]), length), np.nan, dtype=np.float32)
    for row, x in enumerate(series):
        kept = min(length, x.shape[1])
        out[row, :, :kept] = x[:, :kept]
    return out


def length_of(train: Part, test: Part, longer: Longer) -> int:
    """Return the steps of one sample: those of the longest training series, or of the longest of all (`pad`).

    Raises:
        DataError: a test series is longer, and that is refused.
    """
    most, tested = int(train.lengths.max()), int(test.lengths.max())
    if tested <= most or longer == "crop":
        return most
    if longer == "pad":
        return tested
    count, row = int((test.lengths > most).sum()), int(test.lengths.argmax())
    raise DataError(
        f"{test.file}: {test.rows[row]} has {tested} steps, the longest training series {most} ({count} longer "
        "in all); data.longer=crop cuts their ends off, data.longer=pad makes room for them"
    )
