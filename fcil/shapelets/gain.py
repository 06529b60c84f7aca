"""Information gain of a threshold on distances: how well being near tells one class from all others.

Shapes: P pieces, N series.
"""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray

from fcil.shapelets.points import Floats, Ints
from fcil.shapelets.settings import Thresholds

SHARES = (1, 2, 3, 4, 5)
"""Fifths of a class below the thresholds of `quantiles`."""


def information_gain(distances: Floats, is_class: NDArray[np.bool_], thresholds: Thresholds) -> Floats:
    """Return the greatest gain (P,) in bits over the thresholds; 0 where all series are of one class.

    A threshold lies at the distance of a series: that series, and all as near, lie below it.

    Args:
        distances: (P, N)
        is_class: whether each series is of the class (N,).
        thresholds: `all`, or `quantiles`: the distances below which 20, 40, 60, 80 and 100 % of the class lie.
    """
    total, members = len(is_class), int(is_class.sum())
    order = np.argsort(distances, axis=1, kind="stable")
    ordered = np.take_along_axis(distances, order, 1)
    inside: Ints = np.cumsum(is_class[order], axis=1, dtype=np.int64)  # of the class, among the nearest 1, 2, ..., N
    border = np.ones(ordered.shape, bool)
    border[:, :-1] = ordered[:, :-1] < ordered[:, 1:]
    nearest = np.arange(1, total + 1)
    gain: Floats = (
        _bits(np.array([total]), np.array([members]), total)
        - _bits(np.broadcast_to(nearest, inside.shape), inside, total)
        - _bits(np.broadcast_to(total - nearest, inside.shape), members - inside, total)
    ) / total
    if thresholds == "quantiles":
        border &= _at_quantiles(inside, border, members)
    best: Floats = np.where(border, gain, 0.0).max(1)
    return best


def _at_quantiles(inside: Ints, border: NDArray[np.bool_], members: int) -> NDArray[np.bool_]:
    chosen = np.zeros(border.shape, bool)
    rank = np.arange(len(inside))
    for share in SHARES:
        reached = border & (inside >= -(-members * share // len(SHARES)))
        chosen[rank, reached.argmax(1)] = True
    return chosen


def _bits(count: Ints, members: Ints, most: int) -> Floats:
    """Return count times the entropy in bits of a set of `count` with `members` of the class."""
    number = np.arange(most + 1, dtype=np.float64)
    table = number * np.log2(np.maximum(number, 1.0))
    return table[count] - table[members] - table[count - members]  # type: ignore[no-any-return]
