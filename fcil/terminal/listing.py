"""Output of `fcil list` on a terminal: a line for each name, and a block for one of them."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

from rich.console import Console, Group, RenderableType
from rich.table import Table
from rich.text import Text

from fcil.errors import ConfigError, nearest

KINDS = {
    "strategies": "methods: what clients and server do against forgetting",
    "synthesizers": "how samples are made from a net alone",
    "datasets": "images and time series to learn, part of a package, downloaded or in a folder",
    "nets": "backbones",
    "encoders": "text encoders, whose vectors of class names are the anchors",
}
"""Kinds that `fcil list` knows, in a few words."""


def rows_of(kind: str | None, name: str | None = None, measure: bool = False) -> list[dict[str, Any]]:
    """The rows of a kind, or the one of a name; without a kind what kinds there are.

    Args:
        measure: add what each strategy sends.
    Raises:
        ConfigError: there is no such kind or name, or it sends nothing.
    """
    if kind is not None and kind not in KINDS:
        raise ConfigError(f'list: unknown kind "{kind}" (have: {", ".join(KINDS)}).{nearest(kind, KINDS)}')
    if measure and kind != "strategies":
        raise ConfigError(f"list: --bytes is for strategies, not for {kind or 'kinds'}")
    if kind is None:
        return [{"kind": kind, "what": what} for kind, what in KINDS.items()]
    from fcil.methods import catalogue

    rows = catalogue.rows(kind) if name is None else [catalogue.one(kind, name)]
    if measure:
        from fcil.check.weighing import weighed

        return weighed(rows)
    return rows


def picture(
    rows: list[dict[str, Any]], kind: str | None, name: str | None, measure: bool, console: Console
) -> RenderableType:
    """The rows that were asked for in this way, with how to be told more."""
    if kind is None:
        return Group(lines(rows, console), "\nfcil list KIND has the names of a kind")
    from fcil.console.tables import listing_table

    if measure:
        from fcil.check.weighing import ABOUT, in_words

        return Group(Text(ABOUT), listing_table(in_words(rows)))
    if name is not None:
        return block(rows[0])
    table = lines(rows, console) if kind == "strategies" else listing_table(rows)
    return Group(table, f"\nfcil list {kind} NAME has all about one")


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
