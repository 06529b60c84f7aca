"""A part of one's own under check, and the checks of its file that all kinds have in common."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, field
from typing import Any, TypeVar

from fcil.check.contract import options_problem
from fcil.check.laws import offences
from fcil.check.trials import global_streams
from fcil.config.parts import PartFile
from fcil.data import DataSource

T = TypeVar("T")
FOR_CLIENTS = ("DataLoader", "client.shard")
"""Parts of messages about what only a strategy may not do."""


@dataclass
class PartCase:
    """A part under check."""

    part: PartFile
    settings: Any
    """An object of its class."""
    root: str | None = None
    """Of a data set, `data.root`."""
    made: dict[str, Any] = field(default_factory=dict)
    """What one check has made and others look at, by name."""

    def once(self, name: str, make: Callable[[], T]) -> T:
        """Return what `make` returns, made for the first check that asks for it."""
        if name not in self.made:
            self.made[name] = make()
        found: T = self.made[name]
        return found


def check_options(case: PartCase) -> str | None:
    """Its fields are settings: frozen, documented, and the same after a journey through YAML."""
    return options_problem(case.settings, case.part.source, "tells what it is")


def check_source(case: PartCase) -> str | None:
    """Its file prints, logs and pickles nothing, and names no device or engine."""
    reads = isinstance(case.settings, DataSource)
    for line, deed in offences(case.part.source):
        if not (reads and any(word in deed for word in FOR_CLIENTS)):
            return f"line {line}: {deed}"
    return None


def touched(act: Callable[[int], T]) -> tuple[list[T], str | None]:
    """Return what something makes under two global seeds, and which global stream it has touched.

    Args:
        act: is given the seed, which it need not read.
    """
    found, streams = [], list[str]()
    for seed in (1, 2):
        with global_streams(seed) as names:
            found.append(act(seed))
        streams += names
    return found, f"the global stream of {streams[0]} is not as it was before" if streams else None
