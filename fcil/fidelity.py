"""Differences of a paper and its released code: one switch, and a named field for each difference.

A field that is null takes the side of `fidelity`. The sides stand in one table per
method, so that a reader sees every difference at once.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import replace
from typing import Any, Literal, TypeVar

Fidelity = Literal["paper", "reference"]
T = TypeVar("T")


def resolve(settings: T, fidelity: Fidelity, sides: Mapping[str, tuple[Any, Any]]) -> T:
    """Return `settings` with its null fields filled in; `sides` maps a field to (paper, reference)."""
    column = 0 if fidelity == "paper" else 1
    open_fields = {k: v[column] for k, v in sides.items() if getattr(settings, k) is None}
    return replace(settings, **open_fields)  # type: ignore[type-var]


settle = resolve  # its name up to 0.1, for the strategies that run folders keep
