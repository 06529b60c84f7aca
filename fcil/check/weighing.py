"""Bytes a strategy sends, measured in a tiny run with a net of the usual size."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import replace
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any

from fcil.check.trials import Trials, plan_of
from fcil.check.verdict import find
from fcil.console.tables import size
from fcil.errors import TrainingError
from fcil.methods.loading import StrategySpec
from fcil.nets import NetSettings

NET = "resnet18"
ABOUT = (
    f"Bytes of one client in the second of two tasks with {NET}: in each round, and once a task beside that. "
    "Pools of synthetic images are cut short here."
)
BYTES = ("down_round", "down_task", "up_round", "up_task")


def weighed(rows: Iterable[dict[str, Any]]) -> list[dict[str, Any]]:
    """Rows about strategies, with the bytes that each sends."""
    return [{**row, **measured(find(row["strategy"]))} for row in rows]


def measured(spec: StrategySpec) -> dict[str, Any]:
    """Measure the quantities of `ABOUT`, by name.

    Raises:
        TrainingError: the run did not end.
    """
    plan = replace(plan_of(spec, clients=2, max_batches=1, evaluate_every=0), net=NetSettings(name=NET))
    with TemporaryDirectory(prefix="fcil-bytes-") as folder, Trials(Path(folder)) as stage:
        played = stage.play("run", plan)
    if played.problem:
        raise TrainingError(f"{spec.name}: {played.problem}")
    first, later, end = (played.records[2, number] for number in (1, 2, 0))
    down, up, once = later["bytes_down"], later["bytes_up"], first["bytes_down"] - later["bytes_down"]
    both = (down, once + end["bytes_down"], up, end["bytes_up"])
    return {name: count // 2 for name, count in zip(BYTES, both, strict=True)}


def in_words(rows: list[dict[str, Any]]) -> list[dict[str, Any]]:
    """Return the table rows of what each strategy sends."""
    return [
        {"strategy": r["strategy"], "down": r["down"], "up": r["up"], **{k: size(r[k]) for k in BYTES}} for r in rows
    ]
