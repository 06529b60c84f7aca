"""What `fcil list` shows on a terminal: a line for each name, and a block for one of them."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

from rich.console import Console, Group, RenderableType
from rich.table import Table
from rich.text import Text


def lines(rows: Sequence[Mapping[str, Any]], console: Console) -> Table:
    """A name and what it is on each line: cut where a terminal ends, whole where something else reads it."""
    name, what, *_ = rows[0]
    table = Table(box=None, pad_edge=False, header_style="bold", expand=console.is_terminal)
    table.add_column(name, no_wrap=True, min_width=max(len(str(row[name])) for row in rows))
    table.add_column(what, no_wrap=True, overflow="ellipsis", ratio=1)
    for row in rows:
        table.add_row(Text(str(row[name])), Text(str(row[what])))
    if not console.is_terminal:
        console.width = max(len(str(row[name])) for row in rows) + max(len(str(row[what])) for row in rows) + 4
    return table


def block(row: Mapping[str, Any]) -> RenderableType:
    """All there is to one row: a line for each fact, and its options below each other."""
    facts = Table.grid(padding=(0, 2))
    facts.add_column(style="bold", no_wrap=True)
    facts.add_column(overflow="fold")
    for key, value in row.items():
        if key != "options" and value not in (None, ""):
            facts.add_row(key, Text(str(value)))
    if not row.get("options"):
        return facts
    options = Table.grid(padding=(0, 2))
    options.add_column(style="bold", no_wrap=True)
    options.add_column(overflow="fold", max_width=24)
    options.add_column(overflow="fold")
    for option in row["options"]:
        options.add_row(option["option"], Text(option["default"]), Text(option["what"]))
    return Group(facts, Text("\noptions", style="bold"), options)
