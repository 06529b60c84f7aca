"""Cost against accuracy: what was sent, and the accuracy reached with it."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np
import numpy.typing as npt
from matplotlib.axis import Axis
from matplotlib.figure import Figure
from matplotlib.ticker import FixedLocator, FuncFormatter, MaxNLocator, NullLocator

from fcil import metrics
from fcil.console.tables import size
from fcil.plots.look.colours import CYCLE, MARKERS, line_styles
from fcil.plots.look.labels import label_ends
from fcil.plots.look.style import head, legend_height, look, new_figure, percent_axis
from fcil.plots.look.words import fit
from fcil.store.groups import Group, split_label
from fcil.store.read import Run

Array = npt.NDArray[np.float64]
WIDEST = 1.15
"""Inches of a name in a legend."""
NARROWEST = 1.35
"""Ratio of the ends of an axis of bytes."""
APART = 0.44
"""Inches between two numbers on it."""


def sent(run: Run) -> tuple[Array, Array]:
    """Bytes up and down until the end of each round, what comes after a task included: (rounds,) each."""

    def part(record: dict[str, Any], key: str) -> float:
        after = record.get("after_task")
        return float((record.get(key) or 0) + ((after.get(key) or 0) if isinstance(after, dict) else 0))

    up, down = (np.cumsum([part(record, key) for record in run.rounds]) for key in ("bytes_up", "bytes_down"))
    return up, down


def bytes_figure(run: Run) -> Figure:
    """Above, what was sent until each round; below, the accuracy after each task by what had been sent for it."""
    up, down = sent(run)
    x = np.arange(1, len(up) + 1)
    with look():
        figure = new_figure(3.3)
        above, below = figure.subplots(2, 1)
        for values, name, k in ((up, "up", 0), (down, "down", 1)):
            above.plot(x, values, color=CYCLE[k], linestyle="-" if k == 0 else (0, (4, 1.5)), label=name)
        above.set_ylim(bottom=0)
        above.set_xlabel("round")
        above.set_ylabel("bytes so far")
        above.xaxis.set_major_locator(MaxNLocator(nbins=7, integer=True, min_n_ticks=1))
        tasks = np.array([record["task"] for record in run.rounds])
        ends = [int(np.flatnonzero(tasks == task)[-1]) for task in np.unique(tasks)]
        seen = 100 * metrics.accuracy_after_each_task(*metrics.accuracy_matrix(run.rows)) if run.rows else np.array([])
        count = min(len(ends), len(seen))
        total = (up + down)[ends[:count]]
        below.plot(total, seen[:count], color=CYCLE[2], marker=MARKERS[2], clip_on=False)
        for task in range(count):
            below.annotate(str(task + 1), (total[task], seen[task]), xytext=(0, 4), textcoords="offset points",
                           ha="center", va="bottom", fontsize=7, color="#555555")  # fmt: skip
        percent_axis(below, "accuracy,\nall seen (%)")
        below.set_ylim(top=below.get_ylim()[1] * 1.12)
        below.set_xlim(left=0)
        below.set_xlabel("bytes up and down until the end of a task")
        below.xaxis.set_major_locator(MaxNLocator(nbins=5, steps=[1, 2, 2.5, 5, 10]))
        for axis in (above.yaxis, below.xaxis):
            _in_bytes(axis)
        head(figure, "Bytes and accuracy", f"{run.strategy} · {split_label(run.config)} · seed {run.seed} (n = 1)")
        label_ends(above, [(x[-1], up[-1], "up", CYCLE[0]), (x[-1], down[-1], "down", CYCLE[1])])
    return figure


def bytes_accuracy_figure(groups: Sequence[Group]) -> Figure:
    """Final accuracy by all bytes of a run: a mark for each group, and the range over its seeds."""
    found = [(g, *_point(g)) for g in groups]
    found = sorted((one for one in found if len(one[1])), key=lambda one: -one[2].mean())
    with look():
        figure = new_figure(max(2.5, 1.0 + legend_height(len(found))))
        axes = figure.subplots()
        styles = {id(group): style for group, style in zip(groups, line_styles(groups), strict=True)}
        for group, sizes, values in found:
            style = styles[id(group)] | {"linestyle": ""}
            low, high = values.mean() - values.min(), values.max() - values.mean()
            axes.errorbar(sizes.mean(), values.mean(), yerr=[[low], [high]], elinewidth=0.8, markersize=4.5,
                          label=f"{fit(group.label, WIDEST)}  {values.mean():.1f}", **style)  # fmt: skip
        sizes = np.array([one[1].mean() for one in found])
        if sizes.min() > 0:
            axes.set_xscale("log")
            axes.set_xlim(_room(sizes))
            axes.xaxis.set_minor_locator(NullLocator())
        _in_bytes(axes.xaxis)
        percent_axis(axes, "final accuracy (%)")
        axes.set_xlabel("bytes of a run, up and down")
        axes.legend(loc="center left", bbox_to_anchor=(1.0, 0.5), frameon=False, fontsize=7, handletextpad=0.3,
                    labelspacing=0.35, borderaxespad=0.2)  # fmt: skip
        head(figure, "Accuracy by bytes sent", f"{groups[0].split} · mean and range over seeds")
        if sizes.min() > 0:
            figure.draw_without_rendering()
            share = APART * figure.dpi / axes.get_window_extent().width
            axes.xaxis.set_major_locator(FixedLocator(byte_ticks(*axes.get_xlim(), share)))
    return figure


def _room(sizes: Array) -> tuple[float, float]:
    """Return the limits of a log axis: a little beyond the sizes, and never so narrow that numbers are alike."""
    low, high = float(sizes.min()), float(sizes.max())
    beyond = max(1.06, (high / low) ** 0.07)
    wider = max(1.0, (NARROWEST / (beyond**2 * high / low)) ** 0.5)
    return low / (beyond * wider), high * beyond * wider


def byte_ticks(left: float, right: float, apart: float) -> list[float]:
    """Round numbers between the ends of a log axis: as many as stand `apart`, a share of the axis, and at least two."""
    powers = [10.0**e for e in range(-1, 20)]
    ladders = [powers[::2], powers, [m * p for p in powers for m in (1, 3)], [m * p for p in powers for m in (1, 2, 5)]]
    ladders += [list(MaxNLocator(nbins=n, steps=[1, 2, 2.5, 5, 10]).tick_values(left, right)) for n in (2, 3, 4)]
    inside = [[float(v) for v in ladder if left <= v <= right] for ladder in ladders]
    enough = [ticks for ticks in inside if len(ticks) > 1]
    least = apart * np.log(right / left)
    return max((ticks for ticks in enough if np.diff(np.log(ticks)).min() >= least), key=len, default=enough[-1][::2])


def _point(group: Group) -> tuple[Array, Array]:
    """Bytes and final accuracies in percent of the finished runs of a group that tell of both."""
    told = [r.summary for r in group.runs if isinstance(r.summary.get("bytes_up"), int)]
    both = [float(s["bytes_up"] + (s.get("bytes_down") or 0)) for s in told]
    return np.array(both), np.array([100 * s["final_accuracy"] for s in told])


def _in_bytes(axis: Axis) -> None:
    axis.set_major_formatter(FuncFormatter(lambda value, _: size(value) if value > 0 else "0"))
