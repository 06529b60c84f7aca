"""What `--smoke` makes of a run, and how such a run is known again: its record is no result."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

CUT: dict[str, Any] = {"rounds": 1, "local_epochs": 1, "max_batches": 2, "stop_after": 2}
"""Settings of the federation in a smoke run."""
SUFFIX = "-smoke"
"""Ends the name of its experiment, before what a teacher's has behind it."""
MEANING = "smoke run: one round of two batches a task; whether it runs, not how well"
"""For a reader of its numbers."""


def is_smoke(config: Mapping[str, Any]) -> bool:
    """Whether a configuration (`config.yaml` of a run, `Plan.to_yaml()`) is that of a smoke run."""
    name, federation = config.get("name"), config.get("federation")
    named = isinstance(name, str) and name.removesuffix("-teacher").endswith(SUFFIX)
    return named and isinstance(federation, Mapping) and all(federation.get(k) == v for k, v in CUT.items())
