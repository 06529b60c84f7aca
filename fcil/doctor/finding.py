"""One line of what the doctor found."""

from __future__ import annotations

from typing import Literal, NamedTuple

State = Literal["ok", "warn", "fail"]


class Finding(NamedTuple):
    """State of one thing, and the advice on it."""

    state: State
    what: str
    found: str
    todo: str = ""
