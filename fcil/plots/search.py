"""The trials of a search: the metric trial by trial, and the best so far over the time that was spent."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

import numpy as np
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.ticker import MaxNLocator

from fcil.plots.look.colours import CYCLE, INK
from fcil.plots.look.style import PAGE, head, look, new_figure, plain_numbers
from fcil.plots.many import save_all
from fcil.searching.record import SUFFIX, Row, find_searches, read_record, read_rows

KIND = "search"
UNITS = (("hours", 3600), ("minutes", 60), ("seconds", 1))
SHADES = ("#B8C4CC", "#7FB3D9", "#0072B2", "#003A5C")
"""Colours of the rungs of a halving, the last rung the darkest."""


def draw_searches(dirs: Sequence[Path], out: Path | None = None) -> list[Path]:
    """Draw the figure of each search that some folders hold, into its `figures/` or into `out`.

    Raises:
        StoreError: there is none, or its record is damaged.
    """
    homes = find_searches(dirs)
    return [path for home in homes for path in draw_search(home, out or home / "figures", alone=len(homes) == 1)]


def draw_search(home: Path, out: Path, *, alone: bool = True) -> list[Path]:
    """Draw the figure of the search in a folder of trials.

    Args:
        alone: whether it is called `search`; else by the name of the experiment too.
    Returns:
        The files written, a PNG and a PDF.
    Raises:
        StoreError: its record is damaged.
    """
    rows, about = read_rows(home), read_record(home)
    name = KIND if alone else f"{KIND}-{home.name.removesuffix(SUFFIX)}"
    metric = str(about.get("metric", "metric"))[:60]
    text = f"{home.name.removesuffix(SUFFIX)} · {str(about.get('sampler', 'search'))[:20]} · {_counted(rows)}"
    return save_all([(out / name, lambda: search_figure(rows, metric, text, about.get("goal") != "minimise"))])


def search_figure(rows: Sequence[Row], metric: str, about: str, maximises: bool = True) -> Figure:
    """Return the figure: points are trials, crosses at the bottom failed ones, the line is the best so far."""
    top = max((row.rung for row in rows), default=1)
    with look():
        figure = new_figure(2.4, PAGE)
        left, right = figure.subplots(1, 2, sharey=True)
        spent = np.cumsum([row.seconds for row in rows])
        total = float(spent[-1]) if len(spent) else 0.0
        unit, seconds = next((name, size) for name, size in UNITS if total >= 2 * size or size == 1)
        _points(left, rows, np.array([row.trial for row in rows]), top)
        _points(right, rows, spent / seconds, top)
        last = [(x, row.value) for x, row in zip(spent / seconds, rows, strict=True)
                if row.rung == top and row.value is not None]  # fmt: skip
        if last:
            over = np.maximum if maximises else np.minimum
            x, values = (np.array(column, dtype=float) for column in zip(*last, strict=True))
            right.step(x, over.accumulate(values), where="post", color=INK, linewidth=1.2, zorder=2)
        left.set_ylabel(metric.replace("_", " "))
        left.yaxis.set_major_formatter(plain_numbers())
        left.set_xlabel("trial")
        left.xaxis.set_major_locator(MaxNLocator(nbins=7, integer=True, min_n_ticks=1))
        right.set_xlim(left=0)
        right.set_xlabel(f"{unit} of all runs, added up")
        head(figure, "Trials on held-out training samples", about)
    return figure


def _points(axes: Axes, rows: Sequence[Row], x: np.ndarray, top: int) -> None:
    """Draw finished trials as points, in the colour of their rung, and failed ones as crosses at the bottom."""
    for rung in range(1, top + 1):
        at = [i for i, row in enumerate(rows) if row.value is not None and row.rung == rung]
        shade = CYCLE[0] if top == 1 else SHADES[min(len(SHADES) - 1, len(SHADES) - 1 - min(top - rung, 3))]
        values = [float(rows[i].value or 0.0) for i in at]
        axes.plot(x[at], values, linestyle="", marker="o", color=shade, zorder=3, clip_on=False)
    failed = [i for i, row in enumerate(rows) if row.status == "failed"]
    if failed:
        place = axes.get_xaxis_transform()
        axes.plot(x[failed], [0.02] * len(failed), linestyle="", marker="x", color="#D55E00", transform=place,
                  clip_on=False)  # fmt: skip


def _counted(rows: Sequence[Row]) -> str:
    trials = len({row.trial for row in rows})
    failed = len({row.trial for row in rows if row.status == "failed"})
    told = f"{trials} trial{'s' * (trials != 1)}"
    return f"{told}, {failed} failed (crosses)" if failed else told
