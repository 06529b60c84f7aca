"""One line of what the doctor found."""

from __future__ import annotations

from typing import Literal, NamedTuple

State = Literal["ok", "warn", "fail"]


class Finding(NamedTuple):
    """How something stands, and what to do about it."""

    state: State
    what: str
    found: str
    todo: str = ""
