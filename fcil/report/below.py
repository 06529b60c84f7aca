"""Figures below the task: accuracy by class and client, on old and new classes, and the confusion of classes."""

from __future__ import annotations

import math
from collections.abc import Callable, Iterator, Mapping, Sequence

import numpy as np
import numpy.typing as npt

from fcil.report.curves import address, key, line_of, seeds_of
from fcil.report.details import CLIENTS, QUALITY, Array, Detail
from fcil.report.figures import MOST_CELLS, Heat, Lines
from fcil.store.groups import Group

MOST_READ = 30
"""Classes of a confusion matrix that is shown class by class."""
MOST_NOTED = 400
"""Cells that tell the number of each seed."""
PLACES = "class, in order of appearance"
Part = Callable[[Detail], Array | None]


def figures(group: Group, details: Sequence[Detail]) -> Iterator[Lines | Heat]:
    """The figures of one group: each class, which is taken for which, old and new classes, clients."""
    classes = [one for one in details if one.classes is not None]
    confused = [one for one in details if one.confusion is not None]
    if classes:
        yield _by_class(group, classes)
    if confused:
        yield _confusion(group, confused)
    if max((one.tasks for one in details), default=0) > 1:
        top1, old, new = (column("quality", QUALITY.index(name)) for name in ("top1", "old", "new"))
        parts: dict[str, Part] = {"all classes seen": top1, "old classes": old, "new classes": new}
        parts["all, task given"] = lambda one: one.task_aware
        about = "On classes of earlier tasks and on those of the task just learnt"
        if any(one.task_aware is not None for one in details):
            about += "; and over all where a sample is classified among the classes of its own task alone"
        if (found := _curves(group, details, "Old and new classes", about, parts)) is not None:
            yield found
        parts = {name: column("clients", CLIENTS.index(name)) for name in ("best", "mean", "worst")}
        about = "Of the global net on each client's own mix of classes"
        if (found := _curves(group, details, "Accuracy by client", about, parts)) is not None:
            yield found


def column(table: str, place: int) -> Part:
    """Return what takes a column (T,) out of a table of a run."""

    def of(one: Detail) -> Array | None:
        found = getattr(one, table)
        return None if found is None else found[:, place]

    return of


def _curves(group: Group, details: Sequence[Detail], title: str, about: str, parts: Mapping[str, Part]) -> Lines | None:
    """A line for each part that some run tells of; None where there is none."""
    told = {name: [v for one in details if (v := of(one)) is not None] for name, of in parts.items()}
    lines = [
        line_of(name, [100 * v for v in values], style)
        for style, (name, values) in enumerate(told.items())
        if any(np.isfinite(v).any() for v in values)
    ]
    if not lines:
        return None
    counts = sorted({len(values) for values in told.values() if values})
    return Lines(key=key(title, *address(group)), title=title, caption=f"{about}; {seeds_of(counts)}.",
                 x_label="tasks learnt", y_label="accuracy (%)", x=range(1, max(len(line.y) for line in lines) + 1),
                 lines=lines)  # fmt: skip


# Classes ------------------------------------------------------------------------------------------


def alike(details: Sequence[Detail], part: Part) -> tuple[list[Detail], Array, list[str], str]:
    """Return the runs whose table has the shape of the first's, their tables (runs, ...), names of the
    classes, and a sentence on them where they are numbers.
    """
    tables = [(one, table) for one in details if (table := part(one)) is not None]
    same = [(one, table) for one, table in tables if table.shape == tables[0][1].shape]
    count = tables[0][1].shape[-1]
    orders = {one.names[:count] for one, _ in same}
    stack = np.stack([table for _, table in same])
    if len(orders) == 1 and len(first := orders.pop()) == count:
        return [one for one, _ in same], stack, list(first), ""
    many = len({one.names for one, _ in same}) > 1
    why = " Classes are told by their place in the order, which is not the same in all seeds." if many else ""
    return [one for one, _ in same], stack, [str(c) for c in range(count)], why


def mean_of(stack: Array) -> Array:
    """Return the mean over runs of what is known, NaN where nothing is."""
    known = np.isfinite(stack)
    return np.where(known.any(0), np.where(known, stack, 0).sum(0) / np.maximum(known.sum(0), 1), np.nan)


def _notes(stack: Array, runs: Sequence[Detail]) -> list[list[str]]:
    """Return the number of each seed, cell by cell, where there are few cells and more than one seed."""
    _, rows, columns = stack.shape
    if len(runs) == 1 or rows * columns > MOST_NOTED:
        return []
    told = [[zip(runs, stack[:, r, c], strict=True) for c in range(columns)] for r in range(rows)]
    return [
        ["; ".join(f"seed {one.seed}: {v:.1f}" for one, v in cell if np.isfinite(v)) for cell in row] for row in told
    ]


def _by_class(group: Group, details: Sequence[Detail]) -> Heat:
    runs, stack, labels, why = alike(details, lambda one: one.classes)
    stack = 100 * stack
    tasks, count = stack.shape[1:]
    step = math.ceil(tasks / (MOST_CELLS // count))
    drawn = list(range(tasks - 1, -1, -step))[::-1]
    fewer = f" {len(drawn)} of {tasks} rows are drawn." if step > 1 else ""
    caption = f"Accuracy (%) on the test samples of a class (column) after learning so many tasks (row); {over(runs)}."
    return Heat(key=key("classes", *address(group)), title="Accuracy on each class", caption=caption + why + fewer,
                x_label=PLACES if labels[0] == "0" else "class", y_label="tasks learnt", x_names=labels,
                y_names=[str(t + 1) for t in drawn], values=mean_of(stack)[drawn], notes=_notes(stack[:, drawn], runs),
                unit="%")  # fmt: skip


def over(runs: Sequence[Detail]) -> str:
    return f"mean over seeds (n = {len(runs)})" if len(runs) > 1 else "one seed (n = 1)"


# Confusion ----------------------------------------------------------------------------------------


def _confusion(group: Group, details: Sequence[Detail]) -> Heat:
    runs, stack, labels, why = alike(details, lambda one: one.confusion)
    count = stack.shape[-1]
    about = "Share (%) of the test samples of a class (row) that were taken for each class (column)"
    title, rows, columns = "Confusion of classes", "true class", "predicted class"
    if count > MOST_READ:
        blocks, labels, by = _blocks(runs[0], count)
        member = np.equal.outer(np.arange(len(labels)), blocks).astype(np.float64)
        stack = member @ stack @ member.T
        about = (
            f"{count} classes are too many to be read one by one: they are put together by {by}. Share (%) of the "
            "samples of such a group (row) taken for a class of each group (column); on the diagonal are right and "
            "wrong classes of the sample's own group"
        )
        title, rows, columns = f"Confusion of {count} classes, by {by}", "true group", "predicted group"
    shares = shares_of(stack)
    caption = f"{about}, at the end; {over(runs)}.{why}"
    return Heat(key=key("confusion", *address(group)), title=title, caption=caption, x_label=columns, y_label=rows,
                x_names=labels, y_names=labels, values=mean_of(shares), notes=_notes(shares, runs),
                unit="%")  # fmt: skip


def shares_of(stack: Array) -> Array:
    """Return matrices of counts (runs, C, C) as percent of their rows; NaN of a class without test samples."""
    totals = stack.sum(-1, keepdims=True)
    return np.where(totals > 0, 100 * stack / np.maximum(totals, 1), np.nan)


def _blocks(one: Detail, count: int) -> tuple[npt.NDArray[np.int64], list[str], str]:
    """Return the group of each class (C,), the names of the groups, and what they go by: the task with which a class
    appeared, or where there is only one task or too many, neighbours in that order.
    """
    if one.classes is not None and one.classes.shape[1] == count:
        first = np.maximum.accumulate(np.isfinite(one.classes).argmax(0))  # one without samples is as its neighbour
        found, blocks = np.unique(first, return_inverse=True)
        if 1 < len(found) <= MOST_READ:
            return blocks.astype(np.int64), [f"task {t + 1}" for t in found], "task"
    size = math.ceil(count / MOST_READ)
    starts = range(0, count, size)
    spans = [f"{start}\N{EN DASH}{min(start + size, count) - 1}" for start in starts]
    return np.arange(count) // size, spans, f"{size} neighbours in order of appearance"
