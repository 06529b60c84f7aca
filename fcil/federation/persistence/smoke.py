"""Settings of `--smoke`, and the recognition of such a run: its record is no result."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

CUT: dict[str, Any] = {"rounds": 1, "local_epochs": 1, "local_steps": None, "max_batches": 2, "stop_after": 2}
"""Settings of the federation in a smoke run."""
MOST_STEPS = 2
"""Steps of a student in a round of a smoke run, at most."""
SUFFIX = "-smoke"
"""Ends the name of its experiment, before what a teacher's has behind it."""
MEANING = "smoke run: two batches a round; whether it runs, not how well"
"""Note for a reader of its numbers."""


def is_smoke(config: Mapping[str, Any]) -> bool:
    """Return whether a configuration (`config.yaml` of a run, `Plan.to_yaml()`) is that of a smoke run.

    In a distillation the teacher has one task, and the student is cut in its own steps.
    """
    name, federation, strategy = (config.get(key) for key in ("name", "federation", "strategy"))
    if not isinstance(name, str) or not name.removesuffix("-teacher").endswith(SUFFIX):
        return False
    if isinstance(strategy, Mapping) and isinstance(student := strategy.get("distill"), Mapping):
        return student.get("steps") in range(1, MOST_STEPS + 1) and student.get("wait") == 0
    cut = {key: value for key, value in CUT.items() if key != "stop_after" or not name.endswith("-teacher")}
    return isinstance(federation, Mapping) and all(federation.get(key) == value for key, value in cut.items())
