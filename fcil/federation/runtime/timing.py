"""Time of a run: seconds by phase."""

from __future__ import annotations

import time
from collections.abc import Iterator
from contextlib import contextmanager

Phases = dict[str, float]
"""Seconds spent so far on send, clients, aggregate, evaluate, synthesis and checkpoint."""


@contextmanager
def timed(phases: Phases, name: str, without: str = "") -> Iterator[None]:
    """Add the seconds of a block to a phase, less what the phase `without` took meanwhile."""
    began, other = time.monotonic(), phases.get(without, 0.0)
    try:
        yield
    finally:
        spent = time.monotonic() - began - (phases.get(without, 0.0) - other)
        phases[name] = phases.get(name, 0.0) + spent
