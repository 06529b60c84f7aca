"""Perceptually important points of series, and the pieces between them that may become shapelets.

Chung et al., "Flexible time series pattern matching based on perceptually important points" (2001); as candidates of
shapelets: Le et al., "Learning perceptual position-aware shapelets for time series classification" (ECML-PKDD 2022).

All series are worked on at once. Shapes: R rows (a series in one channel each), L steps, P candidates.
"""

from __future__ import annotations

from typing import NamedTuple

import numpy as np
from numpy.typing import NDArray

Floats = NDArray[np.float64]
Ints = NDArray[np.int64]

FEWEST = 5
"""Important points of a series, if it has as many steps."""


class Candidates(NamedTuple):
    """Pieces of rows, in order of rows and, within a row, as they were found."""

    row: Ints
    """(P,)"""
    start: Ints
    """First step (P,)."""
    end: Ints
    """Step after the last (P,)."""


def candidates(rows: Floats, lengths: Ints, share: float) -> Candidates:
    """Return the pieces between important points: up to three for each point that is added.

    The two ends come first. Then comes, again and again, the point farthest from the chord of its two neighbours
    among the points so far, where time is scaled to unit variance. With it come the piece between those neighbours
    and the two that end and begin at the new point and reach over one neighbour. A piece holds its first point and
    not its last, as in the public code.

    Args:
        rows: (R, L); what lies behind a row's own end is not looked at.
        lengths: steps of each row (R,). A row of fewer than three has no candidates.
        share: important points per step.
    """
    count, steps = rows.shape
    every, step = np.arange(count), np.arange(steps)
    last = lengths - 1
    wanted = np.minimum(np.maximum(FEWEST, (share * lengths).astype(np.int64)), lengths) - 2
    spread = np.sqrt((lengths.astype(np.float64) ** 2 - 1) / 12)  # standard deviation of 0, 1, ..., length - 1
    time = (step - (last / 2)[:, None]) / np.where(spread > 0, spread, 1.0)[:, None]
    left = np.zeros((count, steps), np.int64)  # important point before each step; -1 before the first
    right = np.broadcast_to(last[:, None], (count, steps)).copy()  # and behind; -1 behind the last
    left[:, 0], right[every, last] = -1, -1
    is_open = (step > 0) & (step < last[:, None])
    pieces: list[tuple[Ints, Ints, Ints]] = []
    for turn in range(int(wanted.max(initial=0))):
        active = np.flatnonzero(wanted > turn)
        before, behind, inside = left[active], right[active], is_open[active]
        distance = np.where(inside, _from_chord(rows[active], time[active], before, behind), -1.0)
        new = distance.argmax(1)
        rank = np.arange(len(active))
        low, high = before[rank, new], behind[rank, new]
        lower, higher = before[rank, low], behind[rank, high]
        pieces.append((active, low, high))
        pieces.append((active[lower >= 0], lower[lower >= 0], new[lower >= 0]))
        pieces.append((active[higher >= 0], new[higher >= 0], higher[higher >= 0]))
        at, low, high = new[:, None], low[:, None], high[:, None]
        right[active] = np.where((step >= low) & (step < at), at, behind)
        left[active] = np.where((step > at) & (step <= high), at, before)
        is_open[active, new] = False
    if not pieces:
        return Candidates(*(np.empty(0, np.int64) for _ in range(3)))
    row, start, end = (np.concatenate(part) for part in zip(*pieces, strict=True))
    order = np.argsort(row, kind="stable")
    return Candidates(row[order], start[order], end[order])


def _from_chord(rows: Floats, time: Floats, before: Ints, behind: Ints) -> Floats:
    """Return the distance (R, L) of each step from the line through its neighbours, where it has both."""
    before, behind = np.maximum(before, 0), np.maximum(behind, 0)
    y0, y1 = np.take_along_axis(rows, before, 1), np.take_along_axis(rows, behind, 1)
    t0, t1 = np.take_along_axis(time, before, 1), np.take_along_axis(time, behind, 1)
    run = np.where(t1 > t0, t1 - t0, 1.0)
    slope = (y1 - y0) / run
    return np.abs(slope * (time - t0) + y0 - rows) / np.sqrt(slope**2 + 1)
