"""Several runs beside each other: a line for each strategy, a band over its seeds."""

from __future__ import annotations

import re
from collections.abc import Callable, Sequence
from pathlib import Path

import numpy as np
import numpy.typing as npt
from matplotlib.figure import Figure

from fcil import metrics
from fcil.errors import StoreError
from fcil.groups import Group, group_runs
from fcil.plots.style import (
    CYCLE,
    MARKERS,
    head,
    label_ends,
    label_height,
    look,
    new_figure,
    percent_axis,
    save,
    task_axis,
)
from fcil.store.read import Run

Array = npt.NDArray[np.float64]
Curve = Callable[[Run], Array]


def draw_comparison(runs: Sequence[Run], out: Path | str) -> list[Path]:
    """Draw `accuracy` and `forgetting` after each task into `out`; a pair for each split where there are several.

    Returns:
        The files written, a PNG and a PDF for each figure.
    Raises:
        StoreError: there is no run, or none with a finished task.
    """
    groups = group_runs([run for run in runs if run.rows])
    if not groups:
        raise StoreError("nothing to compare: no run has a finished task")
    splits = list(dict.fromkeys(group.split for group in groups))
    paths = []
    for split in splits:
        alike = [group for group in groups if group.split == split]
        suffix = f"-{re.sub(r'[^a-z0-9.]+', '-', split.lower()).strip('-')}" if len(splits) > 1 else ""
        drawn = curves_figure(alike, accuracy_curve, "Accuracy after each task", "accuracy, all seen (%)")
        paths += save(drawn, Path(out) / f"accuracy{suffix}")
        if any(len(run.rows) > 1 for group in alike for run in group.runs):
            drawn = curves_figure(alike, forgetting_curve, "Forgetting", "forgetting (points)")
            paths += save(drawn, Path(out) / f"forgetting{suffix}")
    return paths


def accuracy_curve(run: Run) -> Array:
    """Percent over all classes seen, after each task."""
    return 100 * metrics.accuracy_after_each_task(*metrics.accuracy_matrix(run.rows))


def forgetting_curve(run: Run) -> Array:
    """Chaudhry's forgetting after each task, in points; undefined after the first."""
    return 100 * metrics.forgetting_after_each_task(metrics.accuracy_matrix(run.rows)[0])


def curves_figure(groups: Sequence[Group], curve: Curve, text: str, label: str) -> Figure:
    """A mean line for each group, and the range from the least to the greatest seed."""
    ends, counts = [], {len(group.runs) for group in groups}
    labels = [_label(group, len(counts) > 1) for group in groups]
    with look():
        figure = new_figure(max(2.4, 0.9 + sum(map(label_height, labels))))
        axes = figure.subplots()
        tasks = 1
        for i, group in enumerate(groups):
            curves = _stack([curve(run) for run in group.runs])
            known = np.flatnonzero(np.isfinite(curves).all(axis=0))
            tasks = max(tasks, curves.shape[1])
            if not len(known):
                continue
            x, values = known + 1, curves[:, known]
            colour, dashed = CYCLE[i % len(CYCLE)], i >= len(CYCLE)
            if len(curves) > 1:
                axes.fill_between(x, values.min(axis=0), values.max(axis=0), color=colour, alpha=0.18, linewidth=0)
            axes.plot(x, values.mean(axis=0), color=colour, marker=MARKERS[i % len(MARKERS)], clip_on=False,
                      linestyle="--" if dashed else "-")  # fmt: skip
            ends.append((x[-1], values.mean(axis=0)[-1], labels[i], colour))
        percent_axis(axes, label)
        task_axis(axes, tasks)
        head(figure, text, f"{groups[0].split} · {_band(counts)}")
        label_ends(axes, ends)
    return figure


def _label(group: Group, with_count: bool) -> str:
    """The strategy, with its options below it where the two are long."""
    label = f"{group.label}, n = {len(group.runs)}" if with_count else group.label
    return label if len(label) <= 16 else label.replace(" (", "\n(", 1).replace("), n", ")\nn", 1)


def _band(counts: set[int]) -> str:
    if counts == {1}:
        return "one seed (n = 1)"
    seeds = f"of {next(iter(counts))} seeds" if len(counts) == 1 else "over seeds, n at each line"
    return f"mean and min\N{EN DASH}max {seeds}"


def _stack(curves: Sequence[Array]) -> Array:
    """Curves (runs, tasks), as far as every run has come."""
    shortest = min(len(c) for c in curves)
    return np.stack([c[:shortest] for c in curves])
