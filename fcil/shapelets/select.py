"""The best candidates of a class that do not overlap."""

from __future__ import annotations

import numpy as np

from fcil.shapelets.points import Floats, Ints


def best(gain: Floats, channel: Ints, start: Ints, end: Ints, count: int) -> Ints:
    """Return which pieces (P,) are chosen: `count` of them, or all if there are fewer, in order of their start.

    Taken in order of gain, and where gains are equal in the order given. Pieces of one channel do not overlap, of
    whatever series they are; if too few are left so, the best of the others make up the number.
    """
    order = np.argsort(-gain, kind="stable")
    chosen: list[int] = []
    for piece in order.tolist():
        if len(chosen) == count:
            break
        rows = np.array(chosen, np.int64)
        overlap = (channel[rows] == channel[piece]) & (start[rows] < end[piece]) & (end[rows] > start[piece])
        if not overlap.any():
            chosen.append(piece)
    taken = set(chosen)
    chosen += [piece for piece in order.tolist() if piece not in taken][: count - len(chosen)]
    picked = np.array(chosen, np.int64)
    return picked[np.lexsort((picked, start[picked]))]
