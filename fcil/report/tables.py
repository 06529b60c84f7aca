"""Tables of the page: what `fcil compare` found, the runs one by one, settings that differ, and where time went."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any

import numpy as np

from fcil import metrics
from fcil.compare import METRICS, Comparison, Entry, Split
from fcil.compare.write import cell, marks, meanings
from fcil.console.tables import MEANING, NONE, UNDEFINED, duration, percent, size
from fcil.errors import StoreError
from fcil.store.groups import Group, flat, settings_of
from fcil.store.read import Run

MAIN = ("final_accuracy", "average_incremental_accuracy", "forgetting")
FORGETTING = tuple(name for name in METRICS if name.startswith("forgetting"))
OTHERS = ("bwt", "plasticity", "stability")
COSTS = tuple(name for name, metric in METRICS.items() if metric.unit in ("bytes", "seconds"))
MOST_TESTS = 300
"""Pairs of strategies that are listed."""
MOST_SETTINGS = 200
"""Lines of a table of settings."""
LONGEST = 300
"""Characters of a cell."""
MOST_ACROSS = 12
"""Columns of numbers beside each other on a page."""
MOST_GROUPS = 6
"""Groups of runs, or settings, beside each other."""


@dataclass(frozen=True)
class Cell:
    """Text, and how it stands there."""

    text: str
    best: bool = False
    number: bool = True
    note: str = ""
    """Below it, smaller: the interval of a mean, which beside it would make a table wider than a screen."""


@dataclass(frozen=True, kw_only=True)
class Table:
    """A table as text; the first column names the lines."""

    key: str
    caption: str
    """Says unit and n."""
    columns: Sequence[str]
    rows: Sequence[Sequence[Cell]]
    meanings: Mapping[str, str] | None = None
    """A few words for a column."""


def across(table: Table, most: int = MOST_ACROSS) -> list[Table]:
    """Tables of at most so many columns beside the first, which each of them has."""
    count = len(table.columns) - 1
    starts = range(1, count + 1, most) if count else [1]
    parts = [(0, *range(start, min(start + most, count + 1))) for start in starts]
    return [
        replace(
            table,
            key=table.key if number == 0 else f"{table.key}-{number + 1}",
            caption=table.caption if number == 0 else f"{table.caption} (goes on)",
            columns=[table.columns[i] for i in part],
            rows=[[row[i] for i in part] for row in table.rows],
        )
        for number, part in enumerate(parts)
    ]


def names(*texts: object) -> list[Cell]:
    """Cells of text."""
    return [Cell(cut(str(text)), number=False) for text in texts]


def cut(text: str) -> str:
    return text if len(text) <= LONGEST else text[: LONGEST - 1] + "…"


# What was found -----------------------------------------------------------------------------------


def of_split(split: Split, number: int) -> list[Table]:
    """The headline, every definition of forgetting, and what it cost."""
    mean = "Mean ± sample standard deviation over n seeds, in brackets the 95 % bootstrap interval of the mean"
    bold = "bold: better than every other beyond doubt"
    marked = "".join(f"; {one} (said above)" for one in meanings(split.entries))
    return [
        _spreads(split, f"main{number}", MAIN, f"Percent; forgetting (Chaudhry's) in points. {mean}; {bold}{marked}."),
        _spreads(split, f"forgetting{number}", (*FORGETTING, *OTHERS),
                 f"Points; plasticity and stability in percent. {mean}; without a suffix forgetting is Chaudhry's."),
        _spreads(split, f"cost{number}", COSTS, "Of a whole run: means over n seeds; bytes are those of all clients."),
        *across(_phases(split, f"phases{number}")),
    ]  # fmt: skip


def headline(entry: Entry) -> str:
    """One line on how well a group did."""
    final, runs = entry.spreads["final_accuracy"], len(entry.group.runs)
    return f"final accuracy {cell(final, METRICS['final_accuracy'])} %, n = {runs}"


def _spreads(split: Split, name: str, columns: Sequence[str], caption: str) -> Table:
    # Of a single task nothing can be forgotten.
    forgets = any(run.summary["tasks"] > 1 for entry in split.entries for run in entry.group.runs)
    columns = [
        c
        for c in columns
        if any(e.spreads[c] for e in split.entries) or (forgets and METRICS[c].unit in ("percent", "points"))
    ]
    best = {column: split.best(column) for column in columns if column in MAIN}
    rows = []
    for entry in split.entries:
        cells = [_told(entry, c, best.get(c) is entry) for c in columns]
        head = names(entry.label + marks(entry))
        rows.append([*head, *names(entry.keeps or NONE), Cell(str(len(entry.group.runs))), *cells])
    titles = ["strategy", "keeps", "n", *(METRICS[c].title for c in columns)]
    told = {METRICS[c].title: _meaning(c) for c in columns}
    return Table(key=name, caption=caption, columns=titles, rows=rows, meanings=told)


def _told(entry: Entry, metric: str, best: bool) -> Cell:
    """A mean and its deviation, and the interval below."""
    mean, bracket, interval = cell(entry.spreads[metric], METRICS[metric], bounds=True).partition(" [")
    return Cell(mean, best, note=f"[{interval}" if bracket else "")


def _meaning(metric: str) -> str:
    name = "chaudhry" if metric == "forgetting" else metric.removeprefix("forgetting_")
    return MEANING.get(name, "")


def _phases(split: Split, name: str) -> Table:
    """Seconds by phase."""
    found = [[run.summary.get("seconds_by_phase") or {} for run in e.group.runs] for e in split.entries]
    phases = list(dict.fromkeys(phase for runs in found for one in runs for phase in one))[:20]
    rows = []
    for entry, runs in zip(split.entries, found, strict=True):
        means = [np.mean([float(one.get(phase) or 0) for one in runs]) for phase in phases]
        rows.append([*names(entry.label), Cell(str(len(runs))), *(Cell(f"{mean:,.1f}") for mean in means)])
    return Table(key=name, caption="Where the time went: seconds of a run, means over n seeds.",
                 columns=["strategy", "n", *phases], rows=rows)  # fmt: skip


def tests(split: Split, number: int) -> Table | None:
    """Every two strategies; None where there are no two with common seeds."""
    found = sorted(split.tests, key=lambda pair: pair.adjusted)
    if not found:
        return None
    rows = [
        [*names(f"{p.a} – {p.b}"), Cell(str(p.n)), Cell(f"{p.difference:+.1f}"), Cell(f"{p.p:.2g}"),
         Cell(f"{p.adjusted:.2g}")]
        for p in found[:MOST_TESTS]
    ]  # fmt: skip
    more = f" The first {MOST_TESTS} of {len(found)}." if len(found) > MOST_TESTS else ""
    return Table(key=f"tests{number}", rows=rows, columns=["two strategies", "n", "difference", "p", "p (Holm)"],
                 caption="Final accuracy, points: Wilcoxon's signed-rank test over n common seeds, two-sided, and "
                         f"after Holm's correction for all {len(found)} pairs.{more}")  # fmt: skip


def remarks(comparison: Comparison) -> list[str]:
    """Return the limits of the numbers, and the ranks over splits."""
    lines = [*comparison.warnings, *comparison.hints]
    if ranks := comparison.ranks:
        order = sorted(ranks.ranks.items(), key=lambda one: one[1])
        listed = ", ".join(f"{name} {rank:.2f}" for name, rank in order)
        lines.insert(0, f"Mean ranks over {ranks.blocks} splits (Friedman, p = {ranks.p:.2g}): {listed}")
    return lines


def each_run(groups: Sequence[Group]) -> Table:
    """Every finished run by itself."""
    rows = []
    splits = len({group.split for group in groups}) > 1
    for group in groups:
        for run in group.runs:
            forgetting = METRICS["forgetting"].value(run)
            numbers = [percent(run.summary[k]) for k in ("final_accuracy", "average_incremental_accuracy")]
            numbers.append(UNDEFINED if forgetting is None else f"{forgetting:.1f}")
            known = {k: run.summary.get(k) for k in _COSTS}
            costs = [NONE if known[k] is None else words(known[k]) for k, words in _COSTS.items()]
            head = names(group.label, *[group.split] * splits)
            folder = names("/".join(run.path.parts[-3:]))
            rows.append([*head, *map(Cell, (str(run.seed), *numbers, *costs)), *folder])
    columns = ["strategy", *["split"] * splits, "seed", "final accuracy", "average incremental", "forgetting"]
    columns += ["time", "up", "down", "failures", "folder"]
    caption = "One run a line (n = 1); accuracies in percent, forgetting (Chaudhry's) in points."
    return Table(key="runs", caption=caption, columns=columns, rows=rows)


_COSTS: dict[str, Callable[[Any], str]] = {
    "seconds": duration, "bytes_up": size, "bytes_down": size, "failures": str,
}  # fmt: skip


# Settings -----------------------------------------------------------------------------------------


def settings(groups: Sequence[Group]) -> list[Table]:
    """Settings in which groups differ, in as few tables as a page is wide for; none where they differ in nothing.

    An option that only one strategy has differs from nothing, so the strategies' own options are
    told elsewhere (`own_settings`).
    """
    flats = [settings_of(group.runs[0]) for group in groups]
    found: dict[str, list[str]] = {}
    for path in dict.fromkeys(path for one in flats for path in one):
        values = [_said(one[path]) for one in flats if path in one]
        if len(set(values)) > 1 or (len(values) < len(groups) and not path.startswith("strategy.")):
            found[path] = [_said(one[path]) if path in one else NONE for one in flats]
    if not found:
        return []
    more = f" The first {MOST_SETTINGS} of {len(found)}." if len(found) > MOST_SETTINGS else ""
    caption, shown = f"Settings that are not the same in all groups of runs.{more}", list(found)[:MOST_SETTINGS]
    if len(groups) > MOST_GROUPS and -(-len(shown) // MOST_GROUPS) < -(-len(groups) // MOST_GROUPS):
        rows = [names(group.label, *(found[path][i] for path in shown)) for i, group in enumerate(groups)]
        table = Table(key="settings", columns=["strategy", *shown], rows=rows, caption=caption)
    else:
        rows = [names(path, *found[path]) for path in shown]
        table = Table(key="settings", columns=["setting", *(g.label for g in groups)], rows=rows, caption=caption)
    return across(table, MOST_GROUPS)


def own_settings(group: Group) -> Table | None:
    """The options of a group's strategy."""
    found = flat(group.runs[0].config.get("strategy"), "strategy")
    rows = [names(path.removeprefix("strategy."), _said(value)) for path, value in found.items()]
    if not rows or rows[0][0].text == "strategy":
        return None
    return Table(key="own", caption="The strategy's own settings, defaults included.", columns=["option", "value"],
                 rows=rows[:MOST_SETTINGS])  # fmt: skip


def _said(value: Any) -> str:
    if value is None:
        return "null"
    return (
        str(value).lower() if isinstance(value, bool) else cut(f"{value:g}" if isinstance(value, float) else str(value))
    )


# Running ------------------------------------------------------------------------------------------


@dataclass(frozen=True)
class Progress:
    """Progress of a run that is not finished."""

    name: str
    seed: int
    task: int
    tasks: int | None
    round: int
    rounds: int | None
    accuracy: str
    share: float | None
    """Share of its rounds, from 0 to 1."""
    seen: str
    """Time of its last write."""


def progress(run: Run, label: str, seen: str) -> Progress:
    """Read from the rounds it has written; the accuracy is the last one that was measured."""
    last = run.rounds[-1] if run.rounds else {}
    federation, data = (_mapping(run.config.get(key)) for key in ("federation", "data"))
    rounds, tasks = _count(federation.get("rounds")), _count(data.get("tasks")) or _tasks(run)
    tested = [r["accuracy"] for r in run.rounds if r.get("accuracy") is not None]
    if run.rows and not (tested and last.get("task", 0) > run.rows[-1].trained_task):
        tested = [float(metrics.accuracy_after_each_task(*metrics.accuracy_matrix(run.rows))[-1])]
    share = min(len(run.rounds) / (rounds * tasks), 1.0) if rounds and tasks else None
    accuracy = percent(tested[-1] if tested else None)
    return Progress(label, run.seed, last.get("task", 1), tasks, last.get("round", 0), rounds, accuracy, share, seen)


def _tasks(run: Run) -> int | None:
    """Return the number of tasks: as many as there are shares of the data."""
    try:
        return len(run.partition()[0])
    except StoreError:
        return None


def _mapping(value: Any) -> Mapping[str, Any]:
    return value if isinstance(value, Mapping) else {}


def _count(value: Any) -> int | None:
    return value if type(value) is int and value > 0 else None
