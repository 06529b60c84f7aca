"""A comparison on a terminal."""

from __future__ import annotations

import re
from collections.abc import Sequence
from dataclasses import replace

from rich.console import Group as Block
from rich.console import RenderableType
from rich.table import Table
from rich.text import Text

from fcil.compare.comparison import METRICS, Comparison, Split, compare
from fcil.compare.write import (
    ALL,
    COLUMNS,
    STUDENT_CAPTION,
    STUDENT_COLUMNS,
    STUDENT_TITLES,
    cell,
    marks,
    meanings,
)
from fcil.console.tables import NONE, simple_table
from fcil.store.read import Run

TITLES = ("final", "average", "forgetting", "up", "down", "time")
"""Short ones, for eighty columns."""
BESIDE, BELOW = 2, 4
"""Metrics beside the main ones, and in each table that goes on below."""
CAPTION = (
    "percent and points, mean ± sample standard deviation over n seeds; average: over tasks; forgetting: Chaudhry's; "
    "† other circumstances; ‡ an ingredient did nothing; § went on in another environment; ≠ settings unlike the "
    "paper's; n/a: not defined by so few tasks"
)


def comparison_table(runs: Sequence[Run]) -> RenderableType:
    """Strategies beside each other, a table for each split."""
    return tables(compare(runs))


def tables(comparison: Comparison, more: Sequence[str] = ()) -> RenderableType:
    """The tables, and below them what the numbers cannot say.

    Args:
        more: metrics shown in place of the costs.
    """
    ranks = comparison.ranks
    lines = [*comparison.warnings, *comparison.hints]
    if ranks is not None:
        listed = ", ".join(f"{name} {rank:.2f}" for name, rank in sorted(ranks.ranks.items(), key=lambda one: one[1]))
        lines.insert(0, f"mean ranks over {ranks.blocks} splits (Friedman, p = {ranks.p:.2g}): {listed}")
    found = [table for split in comparison.splits for table in _of_split(split, more)]
    return Block(*found, *(Text(f"! {line}", style="dim") for line in lines))


def _of_split(split: Split, more: Sequence[str]) -> list[Table]:
    """The table of a split; more metrics than stand beside each other in eighty columns go on in tables below it."""
    if split.students:
        return [_students(split)]
    caption = CAPTION + "".join(_kept(split, what) for what in ("images", "series", "all data"))
    asked = [name for name in dict.fromkeys(more) if name not in COLUMNS[:3]]  # costs give way to them
    parts = [(*COLUMNS[:3], *asked[:BESIDE])] if asked else [COLUMNS]
    parts += [tuple(asked[i : i + BELOW]) for i in range(BESIDE, len(asked), BELOW)]
    return [_table(split, columns, "" if i else caption) for i, columns in enumerate(parts)]


def _broken(title: str) -> str:
    """A title in as many lines as it has words, so that its column is as narrow as its numbers."""
    return re.sub(r" |(?<=_)", "\n", title)


def _table(split: Split, columns: Sequence[str], caption: str) -> Table:
    table = simple_table(split.label, caption)
    table.padding = (0, 1, 0, 0)  # eighty columns are few
    table.add_column("strategy", style="bold", overflow="fold", min_width=8)
    short = dict(zip(COLUMNS, TITLES, strict=True))
    for title in ("n", "≠", *(short.get(name, _broken(METRICS[name].title)) for name in columns)):
        table.add_column(title, justify="right", no_wrap=True)
    best = {name: split.best(name) for name in COLUMNS[:3]}
    for entry in split.entries:
        cells = [cell(entry.spreads[name], METRICS[name]) for name in columns]
        cells = [f"[bold]{c}[/]" if best.get(n) is entry else c for n, c in zip(columns, cells, strict=True)]
        unlike = NONE if entry.unlike_paper is None else str(len(entry.unlike_paper))
        table.add_row(Text(entry.label + marks(entry)), str(len(entry.group.runs)), unlike, *cells)
    return table


def _students(split: Split) -> Table:
    """Students beside each other, with what their teacher is and what it sees in the samples."""
    caption = f"percent, mean ± sample standard deviation over n seeds, or the mean; {STUDENT_CAPTION}"
    table = simple_table(split.label, "; ".join([caption, *meanings(split.entries)]))
    table.padding = (0, 1, 0, 0)
    table.add_column("strategy", style="bold", overflow="fold", min_width=8)
    for title in ("n", *(STUDENT_TITLES.get(name, ALL[name].title) for name in STUDENT_COLUMNS)):
        table.add_column(title, justify="right", no_wrap=True)
    best = split.best(STUDENT_COLUMNS[0])
    for entry in split.entries:
        known = {name: entry.spreads[name] for name in STUDENT_COLUMNS}
        few = {name: s and replace(s, std=None) for name, s in known.items() if name not in STUDENT_COLUMNS[:2]}
        cells = [cell(one, ALL[name]) for name, one in (known | few).items()]  # eighty columns are few
        cells[0] = f"[bold]{cells[0]}[/]" if best is entry else cells[0]
        table.add_row(Text(entry.label + marks(entry)), str(len(entry.group.runs)), *cells)
    return table


def _kept(split: Split, what: str) -> str:
    """`; keep images of earlier tasks: icarl, replay`, or nothing."""
    names = [entry.label for entry in split.entries if entry.keeps == what]
    return f"; keep{'s' * (len(names) == 1)} {what} of earlier tasks: {', '.join(names)}" if names else ""
