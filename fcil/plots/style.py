"""One look for every figure: legible at the width of a column, for every kind of colour vision, and in grey.

Figures are made from `Figure` directly and drawn by Agg: pyplot keeps global state and looks for a
display. The same data give the same bytes, since no date is stored.
"""

from __future__ import annotations

import io
import textwrap
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import matplotlib as mpl
import numpy as np
import numpy.typing as npt
from matplotlib.axes import Axes
from matplotlib.colors import LinearSegmentedColormap
from matplotlib.figure import Figure
from matplotlib.ticker import FuncFormatter, MaxNLocator

from fcil.store.files import replacing

DPI = 200
Array = npt.NDArray[np.float64]
COLUMN = 3.35
"""Inches: 8.5 cm, one column of a two-column page."""
PAGE = 6.9
CYCLE = ("#0072B2", "#D55E00", "#009E73", "#CC79A7", "#E69F00", "#56B4E9", "#000000")
"""Okabe and Ito's colours, without the yellow that white paper swallows."""
SHADES = LinearSegmentedColormap.from_list("shades", ("#E8F1F8", "#7FB3D9", "#0072B2", "#003A5C"))
"""From little to much, in one hue."""
MARKERS = ("o", "s", "^", "D", "v", "P", "X")
INK, FAINT = "#222222", "#D9D9D9"

_LOOK: dict[Any, Any] = {
    "font.family": "DejaVu Sans",
    "font.size": 7.0,
    "axes.labelsize": 7.0,
    "axes.edgecolor": "#888888",
    "axes.linewidth": 0.6,
    "axes.labelcolor": INK,
    "axes.spines.top": False,
    "axes.spines.right": False,
    "axes.grid": True,
    "axes.axisbelow": True,
    "axes.unicode_minus": True,
    "grid.color": "#E6E6E6",
    "grid.linewidth": 0.5,
    "xtick.labelsize": 6.5,
    "ytick.labelsize": 6.5,
    "xtick.color": "#555555",
    "ytick.color": "#555555",
    "xtick.major.width": 0.5,
    "ytick.major.width": 0.5,
    "xtick.major.size": 2.0,
    "ytick.major.size": 2.0,
    "lines.linewidth": 1.4,
    "lines.markersize": 3.4,
    "text.color": INK,
    "text.usetex": False,
    "text.parse_math": False,
    "figure.dpi": DPI,
    "figure.facecolor": "white",
    "savefig.facecolor": "white",
    "pdf.fonttype": 42,
}


@contextmanager
def look() -> Iterator[None]:
    """The settings in force while a figure is made and saved."""
    with mpl.rc_context(_LOOK):
        yield


def new_figure(height: float, width: float = COLUMN) -> Figure:
    """An empty figure, in inches."""
    return Figure(figsize=(width, height), layout="constrained")


def png(figure: Figure) -> bytes:
    """The picture as PNG, 200 dots an inch."""
    return _render(figure, "png")


def save(figure: Figure, path: Path) -> list[Path]:
    """Write `<path>.png` and `<path>.pdf`; each is whole or not there."""
    paths = []
    for kind in ("png", "pdf"):
        target = path.with_name(f"{path.name}.{kind}")
        with replacing(target) as temporary:
            temporary.write_bytes(_render(figure, kind))
        paths.append(target)
    return paths


def _render(figure: Figure, kind: str) -> bytes:
    stream = io.BytesIO()
    date = {"CreationDate": None} if kind == "pdf" else None
    with look():
        figure.savefig(stream, format=kind, dpi=DPI, metadata=date)
    return stream.getvalue()


def head(figure: Figure, text: str, subtitle: str) -> None:
    """A bold title and what was run below it, at the left edge; the axes make room."""
    width, height = figure.get_size_inches()
    lines = textwrap.wrap(subtitle, int(width * 19.5))
    top = 0.06 + 0.15 + 0.125 * len(lines) + 0.03
    for row, line in enumerate([text, *lines]):
        y = 1 - (0.06 + (0 if row == 0 else 0.03 + 0.125 * row)) / height
        style: dict[str, Any] = (
            {"fontsize": 8.0, "fontweight": "bold"} if row == 0 else {"fontsize": 6.5, "color": "#666666"}
        )
        figure.text(0.06 / width, y, line, va="top", **style).set_in_layout(False)
    engine = figure.get_layout_engine()
    assert engine is not None
    engine.set(rect=(0, 0, 1, 1 - top / height))  # type: ignore[call-arg]


def plain_numbers() -> FuncFormatter:
    """0.01 and 100 instead of powers of ten."""
    return FuncFormatter(lambda value, _: f"{value:g}".replace("-", "\N{MINUS SIGN}"))


def percent_axis(axes: Axes, label: str, *, low: float | None = 0.0, high: float | None = None) -> None:
    """Values are percents already; the axis begins at `low` unless the data go below."""
    axes.set_ylabel(label)
    axes.yaxis.set_major_locator(MaxNLocator(nbins=6, steps=[1, 2, 5, 10]))
    axes.yaxis.set_major_formatter(plain_numbers())
    bottom, top = axes.dataLim.intervaly
    if np.isfinite([bottom, top]).all():
        margin = 0.06 * max(top - min(bottom, low or 0.0), 1.0)
        axes.set_ylim(bottom - margin if low is None or bottom < low else low, high if high else top + margin)


def task_axis(axes: Axes, tasks: int) -> None:
    """One tick for each task, or every few where they would touch."""
    step = max(1, round(tasks / 12))
    axes.set_xticks(range(1, tasks + 1, step))
    axes.set_xlim(1 - 0.04 * max(tasks - 1, 1), tasks + 0.04 * max(tasks - 1, 1))
    axes.set_xlabel("tasks learnt")


def label_height(label: str, size: float = 6.5) -> float:
    """Inches that a label needs."""
    return size * 1.25 / 72 * (label.count("\n") + 1)


def label_ends(axes: Axes, ends: Sequence[tuple[float, float, str, Any]], size: float = 6.5) -> None:
    """Name lines at their right end instead of in a legend; labels are moved apart where they would touch.

    Args:
        ends: x, y, text and colour of the end of each line, in the units of the axes.
    """
    figure = axes.get_figure(root=True)
    assert figure is not None
    texts = [
        axes.annotate(text, (x, y), xytext=(5, 0), textcoords="offset points", color=colour, fontsize=size,
                      va="center", ha="left", annotation_clip=False, linespacing=1.05)
        for x, y, text, colour in ends
    ]  # fmt: skip
    figure.draw_without_rendering()
    points = 72.0 / figure.dpi
    box = axes.get_window_extent()
    wanted = np.array([axes.transData.transform((x, y))[1] for x, y, _, _ in ends]) * points
    heights = np.array([72 * label_height(text, size) for _, _, text, _ in ends])
    placed = spread(wanted, heights, box.y0 * points, box.y1 * points)
    for text, shift in zip(texts, placed - wanted, strict=True):
        text.xyann = (5, float(shift))


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
