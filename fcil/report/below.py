"""Figures and tables below the task: accuracy by class and client, which classes are taken for which, calibration."""

from __future__ import annotations

import math
from collections.abc import Callable, Iterator, Mapping, Sequence

import numpy as np
import numpy.typing as npt

from fcil.compare import METRICS, Split
from fcil.compare.comparison import HEADLINE
from fcil.compare.statistics import Spread, spread
from fcil.compare.write import cell
from fcil.console.tables import NONE
from fcil.report.curves import address, key, line_of, seeds_of
from fcil.report.details import CLIENTS, QUALITY, Array, Detail
from fcil.report.figures import MOST_CELLS, Heat, Lines
from fcil.report.tables import Cell, Table, across, names
from fcil.store.groups import Group
from fcil.store.read import Run

MOST_READ = 30
"""Classes of a confusion matrix that is shown class by class."""
MOST_PAIRS = 10
"""Confusions of two classes that are listed where the matrix is reduced."""
MOST_NOTED = 400
"""Cells that tell the number of each seed."""
MOST_TASKS = 50
"""Tasks of a table with a column for each."""
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
        top1, old, new = (_column("quality", QUALITY.index(name)) for name in ("top1", "old", "new"))
        parts: dict[str, Part] = {"all classes seen": top1, "old classes": old, "new classes": new}
        parts["all, task given"] = lambda one: one.task_aware
        about = "On classes of earlier tasks and on those of the task just learnt; and over all where the task of each "
        about += "sample is given, so that it is classified among the classes of its task alone"
        if (found := _curves(group, details, "Old and new classes", about, parts)) is not None:
            yield found
        parts = {name: _column("clients", CLIENTS.index(name)) for name in ("best", "mean", "worst")}
        about = "Of the global net on each client's own mix of classes"
        if (found := _curves(group, details, "Accuracy by client", about, parts)) is not None:
            yield found


def _column(table: str, place: int) -> Part:
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


def _alike(details: Sequence[Detail], part: Part) -> tuple[list[Detail], Array, list[str], str]:
    """Return the runs whose table has the shape of the first's, their tables in percent (runs, ...), names of the
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


def _mean(stack: Array) -> Array:
    """Return the mean over runs of what is known, NaN where nothing is."""
    known = np.isfinite(stack)
    return np.where(known.any(0), np.where(known, stack, 0).sum(0) / np.maximum(known.sum(0), 1), np.nan)


def _notes(stack: Array, runs: Sequence[Detail]) -> list[list[str]]:
    """Return the number of each seed, cell by cell, where there are few cells and more than one seed."""
    _, rows, columns = stack.shape
    if len(runs) == 1 or rows * columns > MOST_NOTED:
        return []
    told = [[zip(runs, stack[:, r, c], strict=True) for c in range(columns)] for r in range(rows)]
    return [["; ".join(f"seed {one.seed}: {v:.1f}" for one, v in cell) for cell in row] for row in told]


def _by_class(group: Group, details: Sequence[Detail]) -> Heat:
    runs, stack, labels, why = _alike(details, lambda one: one.classes)
    stack = 100 * stack
    tasks, count = stack.shape[1:]
    step = math.ceil(tasks / (MOST_CELLS // count))
    drawn = list(range(tasks - 1, -1, -step))[::-1]
    fewer = f" {len(drawn)} of {tasks} rows are drawn." if step > 1 else ""
    caption = f"Accuracy (%) on the test samples of a class (column) after learning so many tasks (row); {_over(runs)}."
    return Heat(key=key("classes", *address(group)), title="Accuracy on each class", caption=caption + why + fewer,
                x_label=PLACES if labels[0] == "0" else "class", y_label="tasks learnt", x_names=labels,
                y_names=[str(t + 1) for t in drawn], values=_mean(stack)[drawn], notes=_notes(stack[:, drawn], runs),
                unit="%")  # fmt: skip


def _over(runs: Sequence[Detail]) -> str:
    return f"mean over seeds (n = {len(runs)})" if len(runs) > 1 else "one seed (n = 1)"


# Confusion ----------------------------------------------------------------------------------------


def _confusion(group: Group, details: Sequence[Detail]) -> Heat:
    runs, stack, labels, why = _alike(details, lambda one: one.confusion)
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
    shares = _shares(stack)
    caption = f"{about}, at the end; {_over(runs)}.{why}"
    return Heat(key=key("confusion", *address(group)), title=title, caption=caption, x_label=columns, y_label=rows,
                x_names=labels, y_names=labels, values=_mean(shares), notes=_notes(shares, runs), unit="%")  # fmt: skip


def _shares(stack: Array) -> Array:
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


def pairs(details: Sequence[Detail]) -> Table | None:
    """The classes most often taken for another, where the matrix is not shown class by class."""
    confused = [one for one in details if one.confusion is not None]
    if not confused:
        return None
    runs, stack, labels, why = _alike(confused, lambda one: one.confusion)
    if len(labels) <= MOST_READ or why:
        return None
    shares = _mean(_shares(stack))
    shares[np.diag_indices_from(shares)] = 0
    order = np.argsort(-np.nan_to_num(shares), axis=None, kind="stable")[:MOST_PAIRS]
    places = [(int(a), int(b)) for a, b in zip(*np.unravel_index(order, shares.shape), strict=True)]
    rows = [[*names(labels[a], labels[b]), Cell(f"{shares[a, b]:.1f}")] for a, b in places if shares[a, b] > 0]
    if not rows:
        return None
    caption = f"The classes most often taken for another, at the end: percent of the true class; {_over(runs)}."
    return Table(key="pairs", caption=caption, columns=["true class", "predicted class", "share"], rows=rows)


# Tables -------------------------------------------------------------------------------------------


BY_TASK: dict[str, Part] = {
    "all classes seen": _column("quality", 0),
    "top-5": _column("quality", 1),
    "calibration error": _column("quality", 2),
    "old classes": _column("quality", 3),
    "new classes": _column("quality", 4),
    "all, task given": lambda one: one.task_aware,
    "mean of clients": _column("clients", 0),
    "worst client": _column("clients", 1),
    "best client": _column("clients", 2),
    "spread of clients": _column("clients", 3),
}
"""Numbers that have a column for each task; the accuracy, and what lies below it."""
ABOUT = (
    "top-5: the class is among the five largest scores; calibration error: expected, 15 bins; task given: classified "
    "among the classes of the sample's task; clients: on each client's own mix of classes, spread is their standard "
    "deviation"
)


def by_task(details: Sequence[Detail]) -> list[Table]:
    """Everything that is counted at the end of a task below it, a column for each task."""
    tasks = min(max((one.tasks for one in details), default=0), MOST_TASKS)
    rows = []
    for name, of in BY_TASK.items():
        told = [v for one in details if (v := of(one)) is not None]
        known = [[100 * v[t] for v in told if t < len(v) and np.isfinite(v[t])] for t in range(tasks)]
        if any(known):
            rows.append([*names(name), *(Cell(f"{np.mean(v):.1f}" if v else NONE) for v in known)])
    if not rows:
        return []
    more = f" The first {MOST_TASKS} tasks." if tasks < max(one.tasks for one in details) else ""
    caption = f"At the end of each task, percent; {_over(details)}. {ABOUT[0].upper()}{ABOUT[1:]}.{more}"
    return across(Table(key="by-task", caption=caption, rows=rows,
                        columns=["accuracy", *(f"task {t + 1}" for t in range(tasks))]))  # fmt: skip


LAST = {
    "top-5": "top5",
    "calibration error": "ece",
    "old classes": "old",
    "new classes": "new",
}
"""Columns of `quality.csv` in the table over all strategies; top-1 is the final accuracy."""
OF_SUMMARY = (
    ("task_aware_final_accuracy", "task_aware_average_incremental_accuracy", "task_aware_forgetting"),
    ("client_accuracy_worst", "client_accuracy_mean", "client_accuracy_std"),
)
MEANINGS = {
    "top-5": "among the five largest scores",
    "calibration error": "expected, 15 bins",
    "old classes": "of earlier tasks",
    "new classes": "of the last task",
    "task-aware final": "the task of a sample given",
    "task-aware average": "mean over tasks",
    "worst client": "least of a run",
    "spread of clients": "standard deviation over them",
}


def of_split(split: Split, details: Sequence[Sequence[Detail]], number: int) -> list[Table]:
    """What lies below the task after the last one, a line for each strategy; nothing where no run tells of it.

    Args:
        details: of each entry of the split.
    """
    at_end: dict[str, Callable[[Run, Detail | None], float | None]] = {
        title: _at_end(QUALITY.index(name)) for title, name in LAST.items()
    }
    told = [{METRICS[name].title: _of_summary(name) for name in part} for part in OF_SUMMARY]
    caption = "Percent after the last task, mean ± sample standard deviation over n seeds, in brackets the 95 % "
    caption += "bootstrap interval of the mean"
    return [
        *_table(split, details, at_end | told[0], f"quality{number}", f"{caption}; task-aware forgetting in points."),
        *_table(split, details, told[1], f"clients{number}",
                f"{caption}. Of the global net on each client's own mix of classes; the spread in points."),
    ]  # fmt: skip


Value = Callable[[Run, Detail | None], float | None]


def _at_end(place: int) -> Value:
    def of(run: Run, one: Detail | None) -> float | None:
        if one is None or one.quality is None or not np.isfinite(one.quality[-1, place]):
            return None
        return float(100 * one.quality[-1, place])

    return of


def _of_summary(name: str) -> Value:
    return lambda run, one: METRICS[name].value(run)


def _table(
    split: Split, details: Sequence[Sequence[Detail]], columns: Mapping[str, Value], name: str, caption: str
) -> list[Table]:
    """One table, without columns of which nothing is known."""
    values = []
    for entry, told in zip(split.entries, details, strict=True):
        by_seed = {one.seed: one for one in told}
        found = [[of(run, by_seed.get(run.seed)) for run in entry.group.runs] for of in columns.values()]
        values.append([spread([v for v in one if v is not None]) for one in found])
    kept = [i for i in range(len(columns)) if any(one[i] is not None for one in values)]
    if not kept:
        return []
    rows = [
        [*names(entry.label), Cell(str(max((s.n for i in kept if (s := one[i])), default=0))),
         *(_cell(one[i]) for i in kept)]
        for entry, one in zip(split.entries, values, strict=True)
    ]  # fmt: skip
    titles = [list(columns)[i] for i in kept]
    return [Table(key=name, caption=caption, columns=["strategy", "n", *titles], rows=rows, meanings=MEANINGS)]


def _cell(found: Spread | None) -> Cell:
    """A mean and its deviation, and the interval below."""
    if found is None:
        return Cell(NONE)
    mean, bracket, interval = cell(found, METRICS[HEADLINE], bounds=True).partition(" [")
    return Cell(mean, note=f"[{interval}" if bracket else "")
