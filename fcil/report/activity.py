"""Activity of the ingredients of a method, and those that did nothing."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np

from fcil.console.tables import NONE
from fcil.errors import StoreError
from fcil.report.tables import Cell, Table, across, names
from fcil.store.activity import explain
from fcil.store.checks import is_number
from fcil.store.groups import Group

MOST_TASKS = 50
MOST_LINES = 100
MEANING = {
    "terms": "share of the loss",
    "drawn": "samples drawn",
    "samples": "synthetic samples",
    "episodes": "episodes of synthesis",
    "exemplars": "exemplars held",
    "skipped": "clients skipped",
    "retried": "clients asked again",
    "empty": "clients without examples",
}


@dataclass(frozen=True)
class Activity:
    """Activity of one group."""

    tables: Sequence[Table]
    inert: tuple[str, ...]
    """A sentence for each ingredient that did nothing, with its seeds."""


def activity(group: Group) -> Activity:
    """A line for each ingredient, a column for each task: means over the seeds that tell of it."""
    lines: dict[str, list[Sequence[Any]]] = {}
    idle: dict[str, list[int]] = {}
    for run in group.runs:
        try:
            found = explain(run)
        except StoreError:  # what is damaged is told elsewhere
            continue
        for name, values in _flat(found["activity"]):
            lines.setdefault(name, []).append(values)
        for sentence in found["inert"]:
            idle.setdefault(sentence, []).append(run.seed)
    inert = tuple(f"{sentence} ({_seeds(numbers)})" for sentence, numbers in idle.items())
    table = _table(lines, len(group.runs))
    return Activity([] if table is None else across(table), inert)


def _flat(found: Mapping[str, Any]) -> Iterator[tuple[str, Sequence[Any]]]:
    for key, value in found.items():
        head = MEANING.get(str(key), str(key))
        for name, values in value.items() if isinstance(value, Mapping) else [("", value)]:
            if isinstance(values, list):
                yield f"{head}: {name}" if name else head, values


def _table(lines: Mapping[str, list[Sequence[Any]]], runs: int) -> Table | None:
    tasks = min(max((len(values) for one in lines.values() for values in one), default=0), MOST_TASKS)
    if not tasks:
        return None
    rows = []
    for name, seeds in list(lines.items())[:MOST_LINES]:
        share = name.startswith(MEANING["terms"])
        cells = [Cell(_mean([v[t] for v in seeds if t < len(v)], share)) for t in range(tasks)]
        rows.append([*names(name), *cells])
    caption = f"How active each ingredient was, by task; means over the seeds that tell of it (of n = {runs})."
    return Table(key="activity", caption=caption, columns=["ingredient", *(f"task {t + 1}" for t in range(tasks))],
                 rows=rows)  # fmt: skip


def _mean(values: Sequence[Any], share: bool) -> str:
    known = [float(v) for v in values if is_number(v)]
    if not known:
        return NONE
    mean = float(np.mean(known))
    return f"{100 * mean:.1f} %" if share else f"{mean:,.6g}"


def _seeds(numbers: Sequence[int]) -> str:
    shown = ", ".join(map(str, numbers[:10]))
    return f"seed{'s' * (len(numbers) > 1)} {shown}{', …' if len(numbers) > 10 else ''}"
