"""Kinds of files of one's own, and which of them a file is."""

from __future__ import annotations

from typing import Any

from fcil.config import Where
from fcil.config.parts import PartFile, defined, loaded
from fcil.data import DataSource, Partitioner
from fcil.nets import Architecture
from fcil.strategy import Strategy
from fcil.synthesis import Synthesizer

BASES: dict[str, type[Any]] = {
    "strategy": Strategy,
    "net": Architecture,
    "dataset": DataSource,
    "synthesizer": Synthesizer,
    "partition": Partitioner,
}
"""Base class of each kind, by the word for it in commands."""


def kind_of(part: PartFile, where: Where) -> str:
    """Return which kind of part a file defines; a strategy's file may define its own synthesizer besides.

    Raises:
        ConfigError: the file does not load, or defines parts of two kinds, or none.
    """
    module = loaded(part, "part", where)
    found = [kind for kind, base in BASES.items() if defined(module, base)]
    if "strategy" in found:
        return "strategy"
    if len(found) != 1:
        what = " and ".join(BASES[kind].__name__ for kind in found) or "none"
        names = ", ".join(base.__name__ for base in BASES.values())
        raise where.error(f'part file "{part.path}" must define exactly one of {names}; it defines {what}')
    return found[0]
