"""Tables below the task: top-5, calibration, old and new classes, task-aware accuracy and clients, in numbers."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence

import numpy as np

from fcil.compare import METRICS, Split
from fcil.compare.statistics import Spread, spread
from fcil.compare.write import cell
from fcil.console.tables import NONE
from fcil.report.below import MOST_READ, Part, alike, column, mean_of, over, shares_of
from fcil.report.details import CLIENTS, QUALITY, Detail
from fcil.report.tables import Cell, Table, across, names
from fcil.store.read import Run

MOST_PAIRS = 10
"""Confusions of two classes that are listed where the matrix is reduced."""
MOST_TASKS = 50
"""Tasks of a table with a column for each."""
BY_TASK: dict[str, Part] = {
    "all classes seen": column("quality", QUALITY.index("top1")),
    "top-5": column("quality", QUALITY.index("top5")),
    "calibration error": column("quality", QUALITY.index("ece")),
    "old classes": column("quality", QUALITY.index("old")),
    "new classes": column("quality", QUALITY.index("new")),
    "all, task given": lambda one: one.task_aware,
    "mean of clients": column("clients", CLIENTS.index("mean")),
    "worst client": column("clients", CLIENTS.index("worst")),
    "best client": column("clients", CLIENTS.index("best")),
    "spread of clients": column("clients", CLIENTS.index("spread")),
}
"""Numbers that have a column for each task; the accuracy, and what lies below it."""
ABOUT = (
    "top-5: the class is among the five largest scores; calibration error: expected, 15 bins; task given: classified "
    "among the classes of the sample's task; clients: on each client's own mix of classes, spread is their standard "
    "deviation"
)
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
Value = Callable[[Run, Detail | None], float | None]
"""What takes a number out of a run, in percent or points."""


def of_group(details: Sequence[Detail]) -> list[Table]:
    """The tables of one group: by task, and the classes taken for another where their matrix is reduced."""
    found = pairs(details)
    return by_task(details) + ([] if found is None else [found])


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
    caption = f"At the end of each task, percent; {over(details)}. {ABOUT[0].upper()}{ABOUT[1:]}.{more}"
    return across(Table(key="by-task", caption=caption, rows=rows,
                        columns=["measure", *(f"task {t + 1}" for t in range(tasks))]))  # fmt: skip


def of_split(split: Split, details: Sequence[Sequence[Detail]], number: int) -> list[Table]:
    """What lies below the task after the last one, a line for each strategy; nothing where no run tells of it.

    Args:
        details: of each entry of the split.
    """
    at_end: dict[str, Value] = {title: _at_end(QUALITY.index(name)) for title, name in LAST.items()}
    told = [{METRICS[name].title: _of_summary(name) for name in part} for part in OF_SUMMARY]
    caption = "Percent after the last task, mean ± sample standard deviation over n seeds, in brackets the 95 % "
    caption += "bootstrap interval of the mean"
    return [
        *_table(split, details, at_end | told[0], f"quality{number}", f"{caption}; task-aware forgetting in points."),
        *_table(split, details, told[1], f"clients{number}",
                f"{caption}. Of the global net on each client's own mix of classes; the spread in points."),
    ]  # fmt: skip


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
         *(_told(one[i]) for i in kept)]
        for entry, one in zip(split.entries, values, strict=True)
    ]  # fmt: skip
    titles = [list(columns)[i] for i in kept]
    return [Table(key=name, caption=caption, columns=["strategy", "n", *titles], rows=rows, meanings=MEANINGS)]


def _told(found: Spread | None) -> Cell:
    """A mean and its deviation, and the interval below."""
    if found is None:
        return Cell(NONE)
    mean, bracket, interval = cell(found, METRICS["final_accuracy"], bounds=True).partition(" [")
    return Cell(mean, note=f"[{interval}" if bracket else "")


def pairs(details: Sequence[Detail]) -> Table | None:
    """The classes most often taken for another, where the matrix is not shown class by class."""
    confused = [one for one in details if one.confusion is not None]
    if not confused:
        return None
    runs, stack, labels, why = alike(confused, lambda one: one.confusion)
    if len(labels) <= MOST_READ or why:
        return None
    shares = mean_of(shares_of(stack))
    shares[np.diag_indices_from(shares)] = 0
    order = np.argsort(-np.nan_to_num(shares), axis=None, kind="stable")[:MOST_PAIRS]
    places = [(int(a), int(b)) for a, b in zip(*np.unravel_index(order, shares.shape), strict=True)]
    rows = [[*names(labels[a], labels[b]), Cell(f"{shares[a, b]:.1f}")] for a, b in places if shares[a, b] > 0]
    if not rows:
        return None
    caption = f"The classes most often taken for another, at the end: percent of the true class; {over(runs)}."
    return Table(key="pairs", caption=caption, columns=["true class", "predicted class", "share"], rows=rows)
