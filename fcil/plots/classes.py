"""Figures below the task: the accuracy on each class and client, and which classes are taken for which."""

from __future__ import annotations

import numpy as np
import numpy.typing as npt
from matplotlib.axes import Axes
from matplotlib.figure import Figure

from fcil.errors import StoreError
from fcil.plots.grid import class_name
from fcil.plots.look.colours import CYCLE, INK, MARKERS
from fcil.plots.look.labels import label_ends
from fcil.plots.look.style import COLUMN, PAGE, SHADES, bare, head, look, new_figure, percent_axis, task_axis
from fcil.plots.look.words import fit, width_of
from fcil.plots.panels import write_numbers
from fcil.plots.rounds import subtitle
from fcil.store.read import Run

Array = npt.NDArray[np.float64]
NAMED, LONGEST = 20, 0.95
"""Classes whose names fit beside an axis, and inches of a name."""
NUMBERED = 12
"""Classes or tasks of a matrix whose numbers are written out."""
MOST = 2000
"""Classes that are drawn at all."""
NARROW = 12
"""Classes of a matrix that fits a column."""


def confusion_figure(run: Run) -> Figure:
    """Draw which share of each class was taken for which, at the end of the last task, in percent."""
    frame = run.confusion
    last = frame[frame.task == frame.task.max()]
    count = _classes(run, int(last[["true", "predicted"]].to_numpy().max()) + 1)
    counts = np.zeros((count, count))
    counts[last.true, last.predicted] = last.n
    totals = counts.sum(1, keepdims=True)
    shares = np.where(totals > 0, 100 * counts / np.maximum(totals, 1), np.nan)
    names = _names(run, count)
    about = f"{subtitle(run)} · after task {int(last.task.max())}"
    figure, axes = _heat_map(shares, "Confusion of classes", about, "share of the true class (%)", names)
    with look():
        axes.set_xlabel("predicted" if names else "class predicted, in order of appearance")
        axes.set_ylabel("true" if names else "true class, in order of appearance")
        if names:
            axes.set_xticks(range(count), names, rotation=60, ha="right", rotation_mode="anchor")
            axes.set_yticks(range(count), names)
    return figure


def classes_figure(run: Run) -> Figure:
    """Draw the accuracy on each class after each task, in percent; nothing drawn is a class of a later task."""
    frame = run.classes
    tasks, count = int(frame.task.max()), _classes(run, int(frame["class"].max()) + 1)
    shares = np.full((tasks, count), np.nan)
    shares[frame.task - 1, frame["class"]] = 100 * frame.accuracy
    names = _names(run, count)
    figure, axes = _heat_map(shares, "Accuracy on each class", subtitle(run), "accuracy (%)", names)
    with look():
        axes.set_ylabel("tasks learnt")
        step = max(1, round(tasks / 12))
        axes.set_yticks(range(0, tasks, step), [str(t + 1) for t in range(0, tasks, step)])
        axes.set_xlabel("" if names else "class, in order of appearance")
        if names:
            axes.set_xticks(range(count), names, rotation=60, ha="right", rotation_mode="anchor")
    return figure


def clients_figure(run: Run) -> Figure:
    """Draw the accuracy on each client's own mix of classes after each task, a dot each, with their mean and worst."""
    frame = run.clients.dropna()
    if frame.empty:
        raise StoreError(f"{run.folder.details['clients']}: no client has test samples of its classes")
    tasks = int(frame.task.max())
    by_task = 100 * frame.groupby("task").accuracy.agg(["mean", "min"])
    with look():
        figure = new_figure(2.2)
        axes = figure.subplots()
        axes.plot(
            frame.task,
            100 * frame.accuracy,
            linestyle="none",
            marker=".",
            markersize=4,
            color=INK,
            alpha=0.35,
            zorder=1,
        )
        for name, colour, marker in (("mean", CYCLE[0], MARKERS[0]), ("min", CYCLE[1], MARKERS[1])):
            axes.plot(by_task.index, by_task[name], color=colour, marker=marker, linewidth=1.2, clip_on=False)
        percent_axis(axes, "accuracy (%)")
        task_axis(axes, tasks)
        head(figure, "Accuracy on clients' own mixes of classes", subtitle(run))
        ends = [
            (tasks, by_task["mean"].iloc[-1], "mean", CYCLE[0]),
            (tasks, by_task["min"].iloc[-1], "worst", CYCLE[1]),
        ]
        label_ends(axes, ends)
    return figure


def _classes(run: Run, count: int) -> int:
    """Return the number of classes of a figure.

    Raises:
        StoreError: more than can be drawn.
    """
    if count > MOST:
        raise StoreError(f"{run.path}: tells of {count:,} classes; at most {MOST:,} are drawn")
    return count


def _heat_map(shares: Array, title: str, about: str, scale: str, names: list[str]) -> tuple[Figure, Axes]:
    """Draw a matrix of percents with its numbers as long as they can be read."""
    rows, columns = shares.shape
    width = COLUMN if columns <= NARROW else PAGE
    below = max(map(width_of, names)) if names else 0.2
    with look():
        square = (width - 1.1 - (below if rows == columns else 0)) * rows / columns
        figure = new_figure(min(max(square, 0.8), 6.0) + 0.7 + 0.87 * below, width)
        axes = figure.subplots()
        picture = axes.imshow(shares, cmap=SHADES, vmin=0, vmax=100, aspect="auto", interpolation="nearest")
        if columns <= NUMBERED and rows <= NUMBERED:
            write_numbers(axes, shares, 100.0)
        bare(axes)
        bar = figure.colorbar(picture, ax=axes, fraction=0.045, pad=0.03)
        bar.set_label(scale)
        bar.outline.set_visible(False)
        head(figure, title, about)
    return figure, axes


def _names(run: Run, count: int) -> list[str]:
    """Return the names of the classes where they fit; nothing where they do not, or are not known."""
    if count > NAMED or not run.folder.partition.is_file():
        return []
    names = run.partition()[1]
    return [fit(class_name(number, names), LONGEST) for number in range(count)]
