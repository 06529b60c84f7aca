"""Distance of pieces of one series from all series: complexity-invariant, and near their own place alone.

Batista et al., "CID: an efficient complexity-invariant distance for time series" (2014). The Euclidean distance is
multiplied by the ratio of the complexities of the two pieces, the greater over the smaller, where the complexity of a
piece is the length of its line, sqrt(sum of squared steps + 0.001).

Shapes: N series, L steps, S shifts, P pieces.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from numpy.lib.stride_tricks import sliding_window_view
from numpy.typing import NDArray

from fcil.shapelets.points import Floats, Ints

SMOOTH = 1e-3
"""Added to a squared complexity, so that a flat piece has one."""
BLOCK = 2**23
"""Bytes of the largest array of intermediate values."""


@dataclass(frozen=True)
class Channel:
    """All series in one channel, laid out so that pieces can be compared with them at every shift."""

    values: Floats
    """(N, L), zeros for padding."""
    lengths: Ints
    """(N,)"""
    reach: int
    """Largest shift W."""
    padded: Floats
    """(W + L + W, N)"""
    bends: Floats
    """Sums of the squared steps before each step (W + L + W, N)."""

    @classmethod
    def of(cls, values: Floats, lengths: Ints, window: int) -> Channel:
        """Lay out series (N, L) for shifts of up to `window` steps."""
        reach = min(window, values.shape[1] - 1)
        margin = [(reach, reach), (0, 0)]
        sums = np.cumsum(np.diff(values, axis=1, prepend=values[:, :1]) ** 2, axis=1)
        return cls(values, lengths, reach, np.pad(values.T, margin), np.pad(sums.T, margin, mode="edge"))

    def nearest(self, series: int, start: Ints, end: Ints) -> Floats:
        """Return the distances (P, N) of pieces of one series from each series at the shift where it is least.

        A series that has no whole piece within reach is infinitely far.

        Args:
            start: first step of each piece (P,).
            end: step after its last (P,).
        """
        shifts, steps = 2 * self.reach + 1, self.values.shape[1]
        block = max(1, BLOCK // (8 * shifts * max(steps + 1, len(start))))
        parts = [slice(first, first + block) for first in range(0, len(self.values), block)]
        return np.concatenate([self._nearest(series, start, end, part) for part in parts], axis=1)

    def _nearest(self, series: int, start: Ints, end: Ints, part: slice) -> Floats:
        own, steps = self.values[series], self.values.shape[1]
        shifted = sliding_window_view(self.padded[:, part], steps, axis=0).transpose(0, 2, 1)  # (S, L, n)
        sums = np.zeros((shifted.shape[0], steps + 1, shifted.shape[2]))
        np.subtract(shifted, own[:, None], out=sums[:, 1:])
        np.square(sums, out=sums)
        np.cumsum(sums, axis=1, out=sums)
        squared = sums[:, end] - sums[:, start]  # (S, P, n)
        shift = np.arange(shifted.shape[0])[:, None]
        bends = self.bends[:, part]
        theirs = bends[shift + end - 1] - bends[shift + start] + SMOOTH
        bend = np.cumsum(np.diff(own, prepend=own[0]) ** 2)
        mine = (bend[end - 1] - bend[start] + SMOOTH)[:, None]
        squared *= np.maximum(theirs, mine)
        squared /= np.minimum(theirs, mine)
        squared[~self._whole(start, end, part)] = np.inf
        nearest: Floats = np.sqrt(np.maximum(squared.min(0), 0.0))
        return nearest

    def _whole(self, start: Ints, end: Ints, part: slice) -> NDArray[np.bool_]:
        """Return which shifted pieces (S, P, n) lie within a series."""
        shift = np.arange(-self.reach, self.reach + 1)[:, None]
        inside = (start + shift >= 0)[:, :, None]
        return inside & ((end + shift)[:, :, None] <= self.lengths[part])
