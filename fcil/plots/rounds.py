"""Round after round: accuracy and the terms of the loss."""

from __future__ import annotations

from collections.abc import Sequence
from itertools import pairwise
from typing import Any

import numpy as np
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.ticker import MaxNLocator

from fcil.plots.look.colours import CYCLE
from fcil.plots.look.labels import label_ends
from fcil.plots.look.style import head, look, new_figure, percent_axis, plain_numbers
from fcil.plots.look.words import fit
from fcil.plots.panels import LONGEST
from fcil.store.groups import split_label
from fcil.store.read import Run

MOST_TERMS = 50
"""Terms of the loss that are drawn: the first ones."""
MOST_BORDERS = 200
"""Tasks whose first rounds are marked."""


def subtitle(run: Run) -> str:
    return f"{run.strategy} · {split_label(run.config)} · seed {run.seed} (n = 1)"


def rounds_figure(run: Run) -> Figure:
    """Accuracy and the terms of the loss, round after round, with the beginnings of the tasks."""
    records = run.rounds
    x = np.arange(1, len(records) + 1)
    accuracy = np.array([_number(r.get("accuracy")) for r in records])
    names = list(dict.fromkeys(name for r in records for name in r.get("terms") or {}))[:MOST_TERMS]
    starts = [1, *(i + 1 for i, (a, b) in enumerate(pairwise(records), start=1) if a["task"] != b["task"])]
    tested, trained = bool(np.isfinite(accuracy).any()), bool(names)
    with look():
        figure = new_figure(0.9 + 1.15 * (tested + trained))
        panels = list(np.atleast_1d(figure.subplots(tested + trained, 1, sharex=True)))
        head(figure, "Round after round", subtitle(run))
        panels[0].set_xlim(0.5, len(records) + 0.5)  # shared; before the ends of lines are named
        panels[-1].xaxis.set_major_locator(MaxNLocator(nbins=7, integer=True, min_n_ticks=1))
        if tested:
            axes = panels[0]
            seen = np.isfinite(accuracy)
            axes.plot(x[seen], 100 * accuracy[seen], color=CYCLE[0], marker="." if seen.sum() <= 60 else None)
            percent_axis(axes, "accuracy,\nall seen (%)")
        if trained:
            draw_terms(panels[-1], records, names)
        for axes in panels:
            axes.grid(False, axis="x")
            for start in starts[1:MOST_BORDERS]:
                axes.axvline(start - 0.5, color="#AAAAAA", linewidth=0.6, linestyle=(0, (4, 3)), zorder=1)
        _name_tasks(panels[0], starts, records, run.domains)
        panels[-1].set_xlabel("round")
    return figure


def _name_tasks(axes: Axes, starts: list[int], records: list[dict[str, Any]], domains: Sequence[str]) -> None:
    long = len(starts) <= 6
    for start, end in list(pairwise([*starts, len(records) + 1]))[:: max(1, len(starts) // 16)]:
        number = records[start - 1]["task"]
        text = f"task {number}" if long else str(number)
        if long and number <= len(domains):
            text = fit(domains[number - 1], LONGEST)
        axes.annotate(text, ((start + end - 1) / 2, 1.0), xycoords=("data", "axes fraction"), xytext=(0, 1),
                      textcoords="offset points", ha="center", va="bottom", fontsize=7, color="#666666")  # fmt: skip


def draw_terms(axes: Axes, records: list[dict[str, Any]], names: list[str]) -> None:
    x = np.arange(1, len(records) + 1)
    tasks = np.array([r["task"] for r in records])
    terms = {n: np.array([_number((r.get("terms") or {}).get(n)) for r in records]) for n in names}
    ends = []
    for i, (name, values) in enumerate(terms.items()):
        colour, style = CYCLE[i % len(CYCLE)], "-" if i < len(CYCLE) else "--"
        for task in np.unique(tasks):
            part = (tasks == task) & np.isfinite(values)
            axes.plot(x[part], values[part], color=colour, linestyle=style, linewidth=1.1,
                      marker="." if part.sum() == 1 else None)  # fmt: skip
        known = np.flatnonzero(np.isfinite(values))
        if len(known):
            ends.append((len(records) + 0.5, values[known[-1]], name, colour))
    values = np.concatenate([v[np.isfinite(v)] for v in terms.values()])
    wide = len(values) > 0 and values.min() > 0 and values.max() > 100 * values.min()
    if wide:
        axes.set_yscale("log")
        axes.yaxis.set_major_formatter(plain_numbers())
    else:
        axes.set_ylim(bottom=min(0.0, float(values.min())) if len(values) else 0.0)
    axes.set_ylabel("loss terms\n(log scale)" if wide else "loss terms")
    label_ends(axes, ends)


def _number(value: Any) -> float:
    return float(value) if isinstance(value, int | float) else np.nan
