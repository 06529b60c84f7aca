"""Several runs beside each other: a line for each strategy, a band over its seeds."""

from __future__ import annotations

import os
import re
from collections.abc import Callable, Sequence
from dataclasses import replace
from functools import partial
from pathlib import Path

import numpy as np
import numpy.typing as npt
from matplotlib.axes import Axes
from matplotlib.figure import Figure

from fcil import metrics
from fcil.errors import StoreError
from fcil.io.atomic import sweep
from fcil.plots.cost import bytes_accuracy_figure
from fcil.plots.distillation import is_distillation, learning_curve, round_axis, student_label
from fcil.plots.drawn import digest_of_all, lacking, note
from fcil.plots.look.colours import line_styles
from fcil.plots.look.labels import end_label, label_ends, label_height
from fcil.plots.look.style import head, look, new_figure, percent_axis, task_axis
from fcil.plots.many import save_all
from fcil.plots.panels import lines_figure, matrices_figure, mean_matrix, task_accuracies, task_drops
from fcil.plots.run import heat_map
from fcil.store.groups import Group, group_runs
from fcil.store.read import Run

Array = npt.NDArray[np.float64]
Curve = Callable[[Run], Array]
Figures = dict[str, tuple[Callable[[], Figure], Sequence[Run]]]
"""Figures by name: the function that draws each, and the runs that it shows."""
MOST_MARKERS = 25
"""Points of a line that are marked; more would be a thick line."""
CLEAR = 7
"""Lines whose bands can still be told apart."""
ALWAYS, MOST_GROUPS = ("accuracy", "forgetting"), 24
"""Figures that are drawn of any number of groups, and the number up to which all are drawn unasked."""


def draw_comparison(
    runs: Sequence[Run], out: Path | str, kinds: Sequence[str] = (), home: Path | None = None
) -> list[Path]:
    """Draw into `out`, for each split where there are several: `accuracy` and `forgetting` after each task, the lines
    of each task (`tasks`), the accuracy matrices (`matrix`) and the accuracy by `bytes` sent.

    Args:
        kinds: names of the figures to draw. Without them all, or where there are more than `MOST_GROUPS` settings
            the first two alone.
        home: the folder whose runs they show; there it is noted what was drawn.
    Returns:
        The files written, a PNG and a PDF for each figure.
    Raises:
        StoreError: there is no run, or none with a finished task, or nothing for one of the kinds.
    """
    figures = _figures(runs, kinds)
    if not any(run.rows for run in runs):
        raise StoreError("nothing to compare: no run has a finished task")
    missing = [kind for kind in kinds if not any(kind in (name, name.split("-")[0]) for name in figures)]
    if missing:
        raise StoreError(f"nothing to compare as {', '.join(missing)}: give the folder of one run to see its own")
    paths = save_all([(Path(out) / name, draw) for name, (draw, _) in figures.items()])
    if home is not None:
        note(home, _digests(figures, home))
    return paths


def draw_missing_comparison(runs: Sequence[Run], home: Path) -> list[Path]:
    """Draw into `home/figures` what was not drawn there of these runs; what was, and was deleted, is left alone."""
    sweep(home / "figures")
    names = lacking(home, _digests(_figures(runs), home))
    return draw_comparison(runs, home / "figures", names, home) if names else []


def _digests(figures: Figures, home: Path) -> dict[str, str]:
    """Return the digest of each figure's runs below `home`, by its name; others may be beside them."""
    top = Path(os.path.realpath(home))
    shown = {id(runs): [run for run in runs if run.path.is_relative_to(top)] for _, runs in figures.values()}
    digests = {key: digest_of_all(runs) for key, runs in shown.items()}  # one for all figures of a split
    return {name: digests[id(runs)] for name, (_, runs) in figures.items()}


def _figures(runs: Sequence[Run], kinds: Sequence[str] = ()) -> Figures:
    """Return the function that draws each figure, and the runs it shows, by the name of its file.

    Args:
        kinds: which ones, by kind or by the whole name.
    """
    groups = group_runs([run for run in runs if run.rows])
    splits = list(dict.fromkeys(group.split for group in groups))
    few = len(groups) <= MOST_GROUPS
    figures: Figures = {}
    for split in splits:
        suffix = f"-{re.sub(r'[^a-z0-9.]+', '-', split.lower()).strip('-')}" if len(splits) > 1 else ""
        alike = [group for group in groups if group.split == split]
        shown = [run for group in alike for run in group.runs]
        for kind, draw in _drawers(alike).items():
            name = f"{kind}{suffix}"
            if kind in kinds or name in kinds or (not kinds and (few or kind in ALWAYS)):
                figures[name] = draw, shown
    return figures


def _drawers(groups: list[Group]) -> dict[str, Callable[[], Figure]]:
    """Return the functions that draw the groups of a split, by the name of the figure."""
    if all(is_distillation(run) for group in groups for run in group.runs):
        axis = round_axis(run for group in groups for run in group.runs)
        groups = [replace(group, label=student_label(group.label)) for group in groups]
        return {"accuracy": partial(curves_figure, groups, learning_curve, "Accuracy of the students", "accuracy (%)",
                                    axis)}  # fmt: skip
    best = sorted(groups, key=lambda group: -float(np.mean([accuracy_curve(run)[-1] for run in group.runs])))
    found: dict[str, Callable[[], Figure]] = {
        "accuracy": partial(curves_figure, groups, accuracy_curve, "Accuracy after each task", "accuracy, all seen (%)")
    }
    if any(len(run.rows) > 1 for group in groups for run in group.runs):
        found["forgetting"] = partial(curves_figure, groups, forgetting_curve, "Forgetting", "forgetting (points)")
        found["tasks"] = partial(lines_figure, best, task_accuracies, "Accuracy on each task", "accuracy (%)")
        found["task_forgetting"] = partial(
            lines_figure, best, task_drops, "Forgetting of each task", "points below best"
        )
        found["matrix"] = partial(matrices, best)
    if any(run.summary.get("bytes_up") for group in groups for run in group.runs):
        found["bytes"] = partial(bytes_accuracy_figure, groups)
    return found


def matrices(groups: Sequence[Group]) -> Figure:
    """The mean accuracy matrix of each group; of one group with its numbers."""
    if len(groups) > 1:
        return matrices_figure(groups)
    (group,) = groups
    return heat_map(mean_matrix(group), f"{group.label} · {group.split} · mean over n = {len(group.runs)} seeds")


def accuracy_curve(run: Run) -> Array:
    """Percent over all classes seen, after each task."""
    return 100 * metrics.accuracy_after_each_task(*metrics.accuracy_matrix(run.rows))


def forgetting_curve(run: Run) -> Array:
    """Chaudhry's forgetting after each task, in points; undefined after the first."""
    return 100 * metrics.forgetting_after_each_task(metrics.accuracy_matrix(run.rows)[0])


def curves_figure(
    groups: Sequence[Group], curve: Curve, text: str, label: str, axis: Callable[[Axes, int], None] = task_axis
) -> Figure:
    """A mean line for each group, and the range from the least to the greatest seed.

    Args:
        axis: names what values are counted along; it is told how many there are.
    """
    ends, counts = [], {len(group.runs) for group in groups}
    undefined = []
    with look():
        labels = [_label(group, len(counts) > 1) for group in groups]
        room = 1.0 if len(groups) <= CLEAR else 1.3  # many names are pushed apart less where there is more of it
        figure = new_figure(max(2.4, 0.9 + room * sum(map(label_height, labels))))
        axes = figure.subplots()
        tasks = 1
        for i, (group, style) in enumerate(zip(groups, line_styles(groups), strict=True)):
            curves = _stack([curve(run) for run in group.runs])
            known = np.flatnonzero(np.isfinite(curves).all(axis=0))
            tasks = max(tasks, curves.shape[1])
            if not len(known):
                undefined.append(group.label)
                continue
            x, values = known + 1, curves[:, known]
            colour = style["color"]
            if len(curves) > 1:
                shade = 0.18 if len(groups) <= CLEAR else 0.07
                axes.fill_between(x, values.min(axis=0), values.max(axis=0), color=colour, alpha=shade, linewidth=0)
            if len(x) > MOST_MARKERS:
                style["marker"] = None
            axes.plot(x, values.mean(axis=0), clip_on=False, **style)
            ends.append((x[-1], values.mean(axis=0)[-1], labels[i], colour))
        percent_axis(axes, label)
        axis(axes, tasks)
        lacking = f" · n/a: {', '.join(undefined)}" if undefined else ""
        head(figure, text, f"{groups[0].split} · {_band(counts)}{lacking}")
        label_ends(axes, ends)
        figure.set_layout_engine("none")  # all has its place now
    return figure


def _label(group: Group, with_count: bool) -> str:
    """The strategy, with its options below it where the two are long."""
    return end_label(f"{group.label}, n = {len(group.runs)}" if with_count else group.label)


def _band(counts: set[int]) -> str:
    if counts == {1}:
        return "one seed (n = 1)"
    seeds = f"of {next(iter(counts))} seeds" if len(counts) == 1 else "over seeds, n at each line"
    return f"mean and range {seeds}"  # a dash would bring a second font into each PDF


def _stack(curves: Sequence[Array]) -> Array:
    """Curves (runs, tasks), as far as every run has come."""
    shortest = min(len(c) for c in curves)
    return np.stack([c[:shortest] for c in curves])
