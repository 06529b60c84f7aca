"""Tables of a profile, for the terminal and for a file of Markdown."""

from __future__ import annotations

from collections.abc import Sequence
from typing import NamedTuple

from rich.table import Table

from fcil.console.tables import NONE, percent, simple_table
from fcil.profiling.phases import MEANING
from fcil.profiling.profile import Profile

WHAT = "what it holds"
"""Column of the meanings of phases, which stands last."""
MOST_ROWS = 20
"""Rows of a table in a terminal."""


class Sheet(NamedTuple):
    """A table as text."""

    title: str
    columns: tuple[str, ...]
    rows: Sequence[tuple[str, ...]]
    words: frozenset[str]
    """Columns that are words, and stand left; the others are numbers."""


def phases(profile: Profile) -> Sheet:
    """Processor seconds, share and seconds of the clock of each phase, and their sums."""
    total = profile.total
    rows = [
        (phase, f"{spent.processor:.2f}", percent(profile.share(phase)), f"{spent.wall:.2f}", MEANING[phase])
        for phase, spent in profile.by_phase().items()
    ]
    rows.append(("all", f"{total.processor:.2f}", percent(1.0), f"{total.wall:.2f}", ""))
    columns = ("phase", "processor s", "share", "clock s", WHAT)
    return Sheet("Time by phase", columns, rows, frozenset({"phase", WHAT}))


def clients(profile: Profile) -> Sheet:
    """Processor seconds, steps and milliseconds a step of each client, the slowest first."""
    rows = []
    for client, spent in sorted(profile.by_client().items(), key=lambda item: -item[1].processor):
        steps = profile.steps.get(client, 0)
        each = f"{1000 * spent.processor / steps:.1f}" if steps else NONE
        share = percent(spent.processor / (profile.total.processor or 1.0))
        rows.append((str(client), f"{spent.processor:.2f}", share, str(steps) if steps else NONE, each))
    return Sheet("Time by client", ("client", "processor s", "share", "steps", "ms a step"), rows, frozenset())


def tasks(profile: Profile) -> Sheet:
    """Processor seconds of each task, and the phase that took most of them."""
    rows = []
    for task, spent in profile.by_task().items():
        name = "start" if not task else "end" if task > profile.tasks else str(task)
        share = percent(spent.processor / (profile.total.processor or 1.0))
        rows.append((name, f"{spent.processor:.2f}", share, profile.greatest(task)))
    return Sheet("Time by task", ("task", "processor s", "share", "most of it"), rows, frozenset({"most of it"}))


def to_rich(sheet: Sheet) -> Table:
    """The table for a terminal, without what phases mean; of many rows the first ones, and how many there are more."""
    table = simple_table(sheet.title)
    columns = [column for column in sheet.columns if column != WHAT]
    for column in columns:
        table.add_column(column, justify="left" if column in sheet.words else "right", no_wrap=True)
    for row in sheet.rows[:MOST_ROWS]:
        table.add_row(*row[: len(columns)])
    if len(sheet.rows) > MOST_ROWS:
        table.add_row("…", f"{len(sheet.rows) - MOST_ROWS} more")
    return table


def to_markdown(sheet: Sheet) -> str:
    rule = "|".join("---" if column in sheet.words else "--:" for column in sheet.columns)
    rows = [f"| {' | '.join(cells)} |" for cells in (sheet.columns, *sheet.rows)]
    return "\n".join([f"## {sheet.title}", "", rows[0], f"|{rule}|", *rows[1:]])
