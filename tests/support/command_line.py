"""What `fcil ...` says, and what is said of a mistake."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import NamedTuple


class Said(NamedTuple):
    code: int
    out: str
    err: str


Command = Callable[..., Said]


def assert_refused(said: Said, *parts: str) -> None:
    """The user's mistake: code 2, one line that holds `parts`, and nothing written."""
    assert said.code == 2
    assert said.err.count("\n") == 1
    assert said.err.endswith("\n")
    for part in parts:
        assert part in said.err
    assert said.out == ""
    assert not Path("out").exists()
