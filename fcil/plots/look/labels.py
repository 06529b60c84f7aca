"""Names at the ends of lines instead of a legend, moved apart where they would touch."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np
import numpy.typing as npt
from matplotlib.axes import Axes
from matplotlib.collections import LineCollection

from fcil.plots.look.words import wrap

Array = npt.NDArray[np.float64]
GAP = 9.0
"""Points from the end of a line to its name."""
WIDEST, MOST_LINES = 1.25, 3
"""Inches and lines of a name; the figure needs the rest for itself."""


def end_label(text: str) -> str:
    """A name that fits beside a line: its options begin a line of their own where the two are long."""
    if len(text) > 16:
        text = text.replace(" (", "\n(", 1).replace("), n", ")\nn", 1)
    lines = text.split("\n")
    return "\n".join(wrap(line, WIDEST, max(1, MOST_LINES - len(lines) + 1)) for line in lines[:MOST_LINES])


def label_height(label: str, size: float = 7.0) -> float:
    """Inches that a label needs."""
    return size * 1.25 / 72 * (label.count("\n") + 1)


def label_ends(axes: Axes, ends: Sequence[tuple[float, float, str, Any]], size: float = 7.0) -> None:
    """Name lines at their right end instead of in a legend; labels are moved apart where they would touch.

    Args:
        ends: x, y, text and colour of the end of each line, in the units of the axes.
    """
    figure = axes.get_figure(root=True)
    assert figure is not None
    ends = [(x, y, end_label(text), colour) for x, y, text, colour in ends]
    texts = [
        axes.annotate(text, (x, y), xytext=(GAP, 0), textcoords="offset points", color=colour, fontsize=size,
                      va="center", ha="left", annotation_clip=False, linespacing=1.05)
        for x, y, text, colour in ends
    ]  # fmt: skip
    figure.draw_without_rendering()
    points = 72.0 / figure.dpi
    box = axes.get_window_extent()
    wanted = np.array([axes.transData.transform((x, y))[1] for x, y, _, _ in ends]) * points
    heights = np.array([72 * label_height(text, size) for _, _, text, _ in ends])
    placed = spread(wanted, heights, box.y0 * points, box.y1 * points)
    leaders = []
    for text, shift, (x, y, _, colour) in zip(texts, placed - wanted, ends, strict=True):
        text.xyann = (GAP, float(shift))
        if abs(shift) > 2:  # a thin line leads from the end to its name
            start = axes.transData.transform((x, y))
            leaders.append((colour, start + np.array([3.0, 0.0]) / points, start + np.array([GAP - 1, shift]) / points))
    inside = axes.transAxes.inverted()
    lines = [inside.transform([start, end]) for _, start, end in leaders]
    thin = LineCollection(lines, colors=[colour for colour, *_ in leaders], linewidths=0.5, transform=axes.transAxes,
                          clip_on=False)  # fmt: skip
    thin.set_in_layout(False)
    figure.add_artist(thin)


def spread(wanted: Array, heights: Array, low: float, high: float) -> Array:
    """Middles (n,) close to `wanted` for labels of these heights (n,): none overlap, and if they fit all
    are within [low, high].
    """
    order = np.argsort(wanted, kind="stable")
    placed = wanted[order].astype(float)
    gaps = (heights[order][:-1] + heights[order][1:]) / 2
    for _ in range(200):
        push = np.maximum(gaps - np.diff(placed), 0) / 2
        if not push.any():
            break
        placed[:-1] -= push
        placed[1:] += push
    lowest = low + np.cumsum([0.0, *gaps])  # where labels are that are stacked on the floor
    placed = np.maximum.accumulate(np.maximum(placed, lowest) - lowest) + lowest
    highest = high - np.cumsum([0.0, *gaps[::-1]])[::-1]
    placed = np.minimum.accumulate((np.minimum(placed, highest) - highest)[::-1])[::-1] + highest
    result = np.empty_like(placed)
    result[order] = placed
    return result
