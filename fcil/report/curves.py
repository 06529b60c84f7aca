"""Figures of runs: accuracy after each task, round after round, and the data of each client."""

from __future__ import annotations

import hashlib
from collections.abc import Callable, Iterator, Sequence

import numpy as np
import numpy.typing as npt

from fcil import metrics
from fcil.errors import StoreError
from fcil.plots.comparison import accuracy_curve, forgetting_curve
from fcil.plots.look.colours import Name, places
from fcil.report.figures import MOST_CELLS, MOST_POINTS, Heat, Line, Lines, starts_of, thinned
from fcil.store.groups import Group, split_label
from fcil.store.read import Run, task_labels

Array = npt.NDArray[np.float64]
Curve = Callable[[Run], Array]
MOST_TERMS = 24
"""Terms of a loss that are drawn."""
MOST_TASKS = 60
"""Tasks that get a line of their own."""


def key(*parts: object) -> str:
    """A name for the address of a figure, whatever the folders are called."""
    return "x" + hashlib.sha256("\0".join(map(str, parts)).encode("utf-8", "replace")).hexdigest()[:10]


def address(group: Group) -> tuple[str, ...]:
    """Return the address that tells a group from every other, in other folders too."""
    return group.split, group.strategy, group.variant, group.runs[0].name


def seeds(groups: Sequence[Group]) -> str:
    """Return the number of runs a line stands for."""
    return seeds_of(sorted({len(group.runs) for group in groups}))


def seeds_of(counts: Sequence[int]) -> str:
    """Return numbers of runs in words, given from the least to the greatest."""
    if counts == [1]:
        return "one seed (n = 1)"
    n = f"n = {counts[0]}" if len(counts) == 1 else f"n from {counts[0]} to {counts[-1]}"
    return f"mean over seeds ({n}), with the range from the least to the greatest"


# Groups beside each other -------------------------------------------------------------------------


def beside(groups: Sequence[Group]) -> list[Lines]:
    """The figures of one split, a line for each group."""
    found = []
    if any(run.rows and run.rows[-1].trained_task > 1 for group in groups for run in group.runs):
        found.append(_after_tasks(groups, accuracy_curve, "Accuracy after each task", "accuracy, all seen (%)"))
        found.append(_after_tasks(groups, forgetting_curve, "Forgetting", "Chaudhry's forgetting (points)"))
    rounds = _over_rounds(groups, _tested, "Accuracy by round", "accuracy, all seen (%)", joined=True)
    sent = _over_rounds(groups, _sent, "Bytes sent so far", "up and down, since the first round", "bytes", joined=True)
    return found + [figure for figure in (rounds, sent) if figure is not None]


def _after_tasks(groups: Sequence[Group], curve: Curve, title: str, y_label: str) -> Lines:
    lines = []
    for style, group in zip(places([Name.of(group) for group in groups]), groups, strict=True):
        if measured := [curve(run) for run in group.runs if run.rows]:
            lines.append(line_of(group.label, measured, style))
    x = range(1, max(len(line.y) for line in lines) + 1)
    caption = f"{groups[0].split}; {seeds(groups)}."
    return Lines(key=key(title, groups[0].split), title=title, caption=caption, x_label="tasks learnt",
                 y_label=y_label, x=x, lines=lines)  # fmt: skip


def line_of(name: str, curves: Sequence[Array], style: int) -> Line:
    """Return the mean and range of curves, as far as the shortest goes; a place that one of them lacks is empty.

    Args:
        style: place of its colour and dash.
    """
    shortest = min(map(len, curves))
    stack = np.stack([c[:shortest] for c in curves])
    if len(stack) == 1:
        return Line(name=name, y=_plain(stack[0]), style=style)
    mean, low, high = stack.mean(axis=0), np.min(stack, axis=0), np.max(stack, axis=0)
    return Line(name=name, y=_plain(mean), low=_plain(low), high=_plain(high), style=style)


def _plain(values: Array) -> list[float | None]:
    return [float(v) if np.isfinite(v) else None for v in values]


def _over_rounds(
    groups: Sequence[Group], curve: Curve, title: str, y_label: str, unit: str = "", joined: bool = False
) -> Lines | None:
    """A line for each group by round; None where none has anything."""
    styles = places([Name.of(group) for group in groups])
    curves = [(group, [curve(run) for run in group.runs if run.rounds]) for group in groups]
    lines = [line_of(g.label, c, style) for style, (g, c) in zip(styles, curves, strict=True) if c]
    lines = [line for line in lines if any(v is not None for v in line.y)]
    if not lines:
        return None
    longest = max((run for group in groups for run in group.runs), key=lambda run: len(run.rounds))
    name = key(title, groups[0].split)
    return _by_round(name, title, f"{groups[0].split}; {seeds(groups)}.", y_label, longest, lines, unit, joined)


def _by_round(
    name: str, title: str, caption: str, y_label: str, run: Run, lines: Sequence[Line], unit: str, joined: bool
) -> Lines:
    """Lines over the rounds of `run`, thinned where there are too many."""
    count = max(len(line.y) for line in lines)
    starts = [s for s in starts_of([r["task"] for r in run.rounds]) if s <= count]
    known = [p for p in range(count) if any(p < len(line.y) and line.y[p] is not None for line in lines)]
    places = [known[i] for i in thinned(len(known), [])] if joined else thinned(count, starts)
    if len(places) < len(known):
        caption += f" {len(places)} of {len(known)} rounds are drawn."
    sparse = [_sparse(line, places) for line in lines]
    marked = starts if len(starts) <= MOST_POINTS else []
    return Lines(key=name, title=title, caption=caption, x_label="round", y_label=y_label, unit=unit, joined=joined,
                 x=[p + 1 for p in places], lines=sparse, starts=marked)  # fmt: skip


def _sparse(line: Line, places: Sequence[int]) -> Line:
    y, low, high = ([v[p] for p in places if p < len(v)] for v in (line.y, line.low, line.high))
    return Line(name=line.name, y=y, low=low, high=high, style=line.style)


def _tested(run: Run) -> Array:
    """Percent by round, and at the end of a task what its test says; nothing where a round was not tested."""
    told = [record.get("accuracy") for record in run.rounds]
    values = np.array([np.nan if v is None else 100 * float(v) for v in told])
    if not np.isfinite(values).any():
        return values
    last = {record["task"]: place for place, record in enumerate(run.rounds)}
    for task, accuracy in enumerate(accuracy_curve(run) if run.rows else [], start=1):
        if task in last and np.isnan(values[last[task]]):
            values[last[task]] = accuracy
    return values


def _sent(run: Run) -> Array:
    """Bytes up and down since the first round, with what the ends of tasks cost."""
    each = [
        sum(part.get(k) or 0 for part in (r, r.get("after_task") or {}) for k in ("bytes_up", "bytes_down"))
        for r in run.rounds
    ]
    return np.cumsum(np.array(each, dtype=np.float64))


# One group ----------------------------------------------------------------------------------------


def alone(group: Group) -> Iterator[Lines | Heat]:
    """The figures of one group: every task by itself, the accuracy matrix, the terms of the loss."""
    runs = [run for run in group.runs if run.rows]
    if runs and max(run.rows[-1].trained_task for run in runs) > 1:
        matrices = [metrics.accuracy_matrix(run.rows)[0] for run in runs]
        shortest = min(map(len, matrices))
        stack = 100 * np.stack([m[:shortest, :shortest] for m in matrices])
        yield _each_task(group, stack)
        if shortest**2 <= MOST_CELLS:
            yield _matrix(group, stack, [run.seed for run in runs])
    found = terms(group)
    if found is not None:
        yield found


def _each_task(group: Group, stack: Array) -> Lines:
    """Accuracy (runs, after, on): a line for each task."""
    count = stack.shape[1]
    labels = task_labels(group.runs, count)
    lines = [line_of(labels[j], list(stack[:, :, j]), j) for j in range(min(count, MOST_TASKS))]
    more = f" The first {MOST_TASKS} of {count} tasks." if count > MOST_TASKS else ""
    return Lines(key=key("each", *address(group)), title="Accuracy on each task",
                 caption=f"On the test examples of one task; {seeds([group])}.{more}", x_label="tasks learnt",
                 y_label="accuracy (%)", x=range(1, count + 1), lines=lines)  # fmt: skip


def _matrix(group: Group, stack: Array, numbers: Sequence[int]) -> Heat:
    count = stack.shape[1]
    names = [str(t + 1) for t in range(count)]
    tested = [label.removeprefix("task ") for label in task_labels(group.runs, count)]
    notes = [
        ["; ".join(f"seed {s}: {v:.1f}" for s, v in zip(numbers, stack[:, t, j], strict=True)) for j in range(count)]
        for t in range(count)
    ]
    return Heat(key=key("matrix", *address(group)), title="Accuracy matrix",
                caption=f"Accuracy (%) on the test examples of a task (column) after learning so many (row); "
                        f"mean over seeds (n = {len(stack)}).",
                x_label="task tested", y_label="tasks learnt", x_names=tested, y_names=names,
                values=stack.mean(axis=0), notes=notes if len(stack) > 1 and count <= 20 else (),
                unit="%")  # fmt: skip


def terms(group: Group) -> Lines | None:
    """The terms of the loss by round, means over the seeds."""
    runs = [run for run in group.runs if run.rounds]
    names = list(dict.fromkeys(n for run in runs for r in run.rounds for n in r.get("terms") or {}))
    if not names:
        return None
    lines = [line_of(n, [_term(run, n) for run in runs], i) for i, n in enumerate(names[:MOST_TERMS])]
    more = f" The first {MOST_TERMS} of {len(names)} terms." if len(names) > MOST_TERMS else ""
    longest = max(runs, key=lambda run: len(run.rounds))
    caption = f"As weighted in the loss, means over clients; {seeds([group])}.{more}"
    name = key("terms", *address(group))
    return _by_round(name, "Terms of the loss", caption, "loss", longest, lines, "", False)


def _term(run: Run, name: str) -> Array:
    values = ((record.get("terms") or {}).get(name) for record in run.rounds)
    return np.array([np.nan if v is None else float(v) for v in values])


# Data ---------------------------------------------------------------------------------------------


def partitions(runs: Sequence[Run], most: int, problems: list[str]) -> list[Heat]:
    """Training examples by client and class: a figure for each partition that differs from the others."""
    found: dict[str, tuple[Heat, list[Run]]] = {}
    for run in runs:
        if not run.folder.partition.is_file():
            continue
        try:
            counts, names = run.partition()
        except StoreError as error:
            problems.append(str(error))
            continue
        name = key("partition", counts.shape, hashlib.sha256(counts.tobytes()).hexdigest(), names)
        if name in found:
            found[name][1].append(run)
        elif len(found) < most:
            found[name] = (_partition(name, run, counts.sum(axis=0), names), [run])
    return [heat for heat, _ in found.values()]


def _partition(name: str, run: Run, table: npt.NDArray[np.int64], names: Sequence[str]) -> Heat:
    clients, classes = table.shape
    names, table = names[:MOST_CELLS], table[:, :MOST_CELLS]
    shown = table[: max(1, MOST_CELLS // classes)].astype(np.float64)
    more = f" The first {len(shown)} of {clients} clients." if len(shown) < clients else ""
    totals = table.sum(axis=1)
    caption = (
        f"{split_label(run.config)}; {run.name}, seed {run.seed}. Classes in the order they are learnt; empty where a "
        f"client has no example. Examples of a client: {totals.min():,} to {totals.max():,}.{more}"
    )
    return Heat(key=name, title=f"Examples by client and class, seed {run.seed}", caption=caption, x_label="class",
                y_label="client", x_names=names, y_names=[str(c) for c in range(len(shown))],
                values=np.where(shown > 0, shown, np.nan), unit="examples")  # fmt: skip
