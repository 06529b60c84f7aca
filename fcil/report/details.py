"""Tables below the task as arrays: what runs have written of classes, clients and calibration, checked and bounded."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any, TypeVar

import numpy as np
import numpy.typing as npt

from fcil import metrics
from fcil.errors import StoreError
from fcil.store import files
from fcil.store.groups import Group
from fcil.store.read import Run

Array = npt.NDArray[np.float64]
T = TypeVar("T")
MOST_CLASSES = 2000
"""Classes that are shown at all, as in a figure of one run."""
QUALITY = files.DETAILS["quality"][1:]
"""Columns of `quality.csv` but for the task."""
CLIENTS = ("mean", "worst", "best", "spread")
"""Numbers on the accuracies of clients; the spread is their population standard deviation."""


@dataclass(frozen=True, kw_only=True)
class Detail:
    """Numbers of one run below the task, as shares; None where the run has no such file, NaN where it has no value."""

    seed: int
    tasks: int
    names: tuple[str, ...]
    """Classes in order of appearance; empty if they are not known."""
    classes: Array | None = None
    """Accuracy on each class after each task (T, C)."""
    confusion: Array | None = None
    """Samples of a class (row) taken for each class (column) at the end of the last task (C, C)."""
    quality: Array | None = None
    """Columns of `QUALITY` after each task (T, 5)."""
    task_aware: Array | None = None
    """Accuracy over the classes seen where the task of each sample is given, after each task (T,)."""
    clients: Array | None = None
    """Columns of `CLIENTS` after each task (T, 4)."""


def details_of(group: Group, problems: list[str]) -> list[Detail]:
    """Return what each run of a group tells below the task, without runs that tell nothing.

    Args:
        problems: collects a line for each file that is damaged.
    """
    found = [_detail(run, problems) for run in group.runs if run.rows]
    return [one for one in found if any(v is not None for v in _tables(one))]


def _tables(one: Detail) -> tuple[Array | None, ...]:
    return one.classes, one.confusion, one.quality, one.task_aware, one.clients


def _detail(run: Run, problems: list[str]) -> Detail:
    tasks = run.rows[-1].trained_task

    def heard(read: Callable[[Run, int], T]) -> T | None:
        try:
            return read(run, tasks)
        except StoreError as error:
            problems.append(str(error))
            return None

    classes, confusion = heard(_classes), heard(_confusion)
    names = _names(run) if classes is not None or confusion is not None else ()
    return Detail(seed=run.seed, tasks=tasks, names=names, classes=classes, confusion=confusion,
                  quality=heard(_quality), task_aware=heard(_task_aware), clients=heard(_clients))  # fmt: skip


def _names(run: Run) -> tuple[str, ...]:
    """Return the names of the classes, nothing of a damaged file, which is told with the partitions."""
    try:
        return tuple(run.partition()[1]) if run.folder.partition.is_file() else ()
    except StoreError:
        return ()


def _lines(run: Run, name: str, tasks: int) -> Sequence[Any]:
    """Return the lines of a table on tasks that the run has learnt.

    Raises:
        StoreError: it is damaged, or tells of more classes than are shown.
    """
    path = run.folder.details[name]
    lines = [line for line in files.read_details(path, name) if line[0] <= tasks]
    labels = {"classes": slice(1, 2), "confusion": slice(1, 3)}.get(name, slice(0))
    most = max((label for line in lines for label in line[labels]), default=0) + 1
    if most > MOST_CLASSES:
        raise StoreError(f"{path}: tells of {most:,} classes; at most {MOST_CLASSES:,} are shown")
    return lines


def _classes(run: Run, tasks: int) -> Array | None:
    lines = _lines(run, "classes", tasks)
    if not lines:
        return None
    found = np.full((tasks, max(label for _, label, *_ in lines) + 1), np.nan)
    for task, label, n, correct in lines:
        found[task - 1, label] = correct / n if n else np.nan
    return found


def _confusion(run: Run, tasks: int) -> Array | None:
    lines = [line for line in _lines(run, "confusion", tasks) if line[0] == tasks]
    if not lines:
        return None
    count = max(max(true, predicted) for _, true, predicted, _ in lines) + 1
    found = np.zeros((count, count))
    for _, true, predicted, n in lines:
        found[true, predicted] += n
    return found


def _quality(run: Run, tasks: int) -> Array | None:
    lines = _lines(run, "quality", tasks)
    found = np.full((tasks, len(QUALITY)), np.nan)
    for task, *values in lines:
        found[task - 1] = [np.nan if v is None else v for v in values]
    return found if lines else None


def _task_aware(run: Run, tasks: int) -> Array | None:
    rows = run.task_aware_rows
    if not rows or rows[-1].trained_task != tasks:
        return None
    return metrics.accuracy_after_each_task(*metrics.accuracy_matrix(rows))


def _clients(run: Run, tasks: int) -> Array | None:
    lines = _lines(run, "clients", tasks)
    by_task: dict[int, list[float]] = {}
    for task, _, _, accuracy in lines:
        if accuracy is not None:
            by_task.setdefault(task, []).append(accuracy)
    found = np.full((tasks, len(CLIENTS)), np.nan)
    for task, values in by_task.items():
        found[task - 1] = np.mean(values), min(values), max(values), np.std(values)
    return found if by_task else None
