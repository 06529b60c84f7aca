"""Plot of the partition: a disc for each client and class, its area in proportion to the examples."""

from __future__ import annotations

from typing import Any

import numpy as np
import numpy.typing as npt
from matplotlib.axes import Axes
from matplotlib.figure import Figure

from fcil.plots.grid import class_name
from fcil.plots.look.colours import CYCLE
from fcil.plots.look.style import COLUMN, FAINT, PAGE, SHADES, bare, head, look, new_figure
from fcil.plots.look.words import fit, width_of
from fcil.store.groups import split_label
from fcil.store.read import Run

Counts = npt.NDArray[np.int64]
SMALLEST = 3.2
"""Points between two discs below which shades are drawn instead."""
NAMED, LONGEST = 20, 0.95
"""Classes whose names fit below the axis, and inches of a name."""


def partition_figure(run: Run) -> Figure:
    """Training examples of each class on each client; classes in the order they are learnt. Nothing drawn is none."""
    counts, names = run.partition()
    clients, classes = counts.shape[1:]
    width = COLUMN if classes <= 40 else PAGE
    height = min(0.85 + 0.19 * clients, 6.5)
    across, down = 72 * (width - 1.2) / classes, 72 * (height - 0.6) / clients
    with look():
        shown = [fit(class_name(k, names), LONGEST) for k in range(classes)] if classes <= NAMED else []
        figure = new_figure(height + (0.2 + 0.87 * max(map(width_of, shown)) if shown else 0.4), width)
        axes = figure.subplots()
        table = counts.sum(axis=0)
        bare(axes)
        axes.set_xlim(-0.5, classes - 0.5)
        axes.set_ylim(clients - 0.5, -0.5)
        discs = min(across, down) >= SMALLEST
        if not discs:
            _shades(figure, axes, table)
        owner = (counts.sum(axis=1) > 0).argmax(axis=0)  # the task of each class
        for border in np.flatnonzero(np.diff(owner)):
            axes.axvline(float(border) + 0.5, color="#888888", linewidth=0.7)
        _name(axes, shown, table, width)
        key = f"area: examples, the largest {table.max():,}" if discs else "white: none"
        head(figure, "Examples by client and class",
             f"{split_label(run.config)} · {clients} clients · seed {run.seed} · {key}")  # fmt: skip
        if discs:
            _discs(figure, axes, table)
    return figure


def _discs(figure: Figure, axes: Axes, table: Counts) -> None:
    """Draw discs on a faint grid, so that a place without a disc is seen to be empty; none touches another."""
    figure.draw_without_rendering()
    box = axes.get_window_extent()
    widest = 0.92 * 72 / figure.dpi * min(box.width / table.shape[1], box.height / table.shape[0])
    for c in range(table.shape[0]):
        axes.axhline(c, color=FAINT, linewidth=0.4, zorder=0)
    for k in range(table.shape[1]):
        axes.axvline(k, color=FAINT, linewidth=0.4, zorder=0)
    client, kind = np.nonzero(table)
    held = table[client, kind]
    area = (widest**2 * held / max(int(table.max()), 1)).clip(0.4)
    axes.scatter(kind, client, s=area, color=CYCLE[0], linewidths=0, zorder=2)


def _shades(figure: Figure, axes: Axes, table: Counts) -> None:
    picture = axes.imshow(np.where(table, table, np.nan), cmap=SHADES, aspect="auto", vmin=0, interpolation="nearest")
    bar = figure.colorbar(picture, ax=axes, fraction=0.04, pad=0.1)
    bar.set_label("training examples")
    bar.outline.set_visible(False)


def _name(axes: Axes, shown: list[str], table: Counts, width: float) -> None:
    clients, classes = table.shape
    if shown:
        axes.set_xticks(range(classes), shown, rotation=60, ha="right", rotation_mode="anchor")
    else:
        axes.set_xlabel("class, in order of appearance")
        axes.set_xticks(range(0, classes, max(1, round(classes / (3 * width)))))
    step = max(1, round(clients / 25))
    axes.set_yticks(range(0, clients, step), [str(c) for c in range(0, clients, step)])
    axes.set_ylabel("client")
    small: dict[str, Any] = {"textcoords": "offset points", "color": "#555555", "fontsize": 7}
    axes.annotate("total", (1.0, 1.0), xycoords="axes fraction", xytext=(3, 2), **small)
    for c, total in list(enumerate(table.sum(axis=1)))[::step]:
        axes.annotate(f"{total:,}", (1.0, c), xycoords=("axes fraction", "data"), xytext=(3, 0), va="center", **small)
