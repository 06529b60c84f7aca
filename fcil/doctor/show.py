"""Display of an experiment or a distillation before anything is played: every setting, and each client's data."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from fcil import distillation, searching, training
from fcil.config import dump
from fcil.config.matrix import Source, is_searched
from fcil.data import Scenario
from fcil.data.oddities import oddities
from fcil.federation.context import Datasets
from fcil.federation.preconditions import introduction
from fcil.runs.plans import survey

Surveyed = tuple[dict[str, Any], Scenario, list[str]]
"""The settings of a run, its data, and what is odd about them."""


def surveyed(source: Source, overrides: Sequence[str] = (), datasets: Datasets | None = None) -> list[Surveyed]:
    """The settings of every run, defaults filled in, its data, and what is odd; of a distillation every student's."""
    if distillation.distils(source, overrides):
        students = distillation.survey(source, overrides, datasets)
        return [
            (dump(one.filled()), data, [f"data: {line}" for line in oddities(data.dataset)]) for one, data in students
        ]
    surveys = training.survey if training.is_for_training(source, overrides) else survey
    runs = surveys(source, overrides, datasets)
    about = [searching.introduction(source, overrides)] if is_searched(source, overrides) else []
    return [(context.plan.to_yaml(), context.scenario, [*about, *introduction(context)]) for context in runs]


def show(source: Source, *overrides: str) -> list[dict[str, Any]]:
    """Every run of an experiment or a distillation with its defaults filled in; nothing is played.

    Args:
        source: a YAML file, or a mapping of what one would hold.
        overrides: `key.path=value`, each value read as YAML.
    Returns:
        The settings of each run, under `counts` the training examples (tasks, clients, classes), and under
        `remarks` a line for each thing about it that is odd, or that the run would say before it begins.
    Raises:
        UserError: something in the experiment or the data is wrong.
    """
    return as_values(surveyed(source, overrides))


def as_values(found: Sequence[Surveyed]) -> list[dict[str, Any]]:
    """Return these findings as the value of `show`."""
    return [
        {**settings, "counts": scenario.counts.tolist(), "remarks": list(remarks)}
        for settings, scenario, remarks in found
    ]
