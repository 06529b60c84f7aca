"""An experiment or a distillation before anything is played: every setting, and who would hold what."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from fcil import distillation
from fcil.config import dump
from fcil.data import Scenario
from fcil.experiment import survey
from fcil.matrix import Source


def surveyed(source: Source, overrides: Sequence[str] = ()) -> list[tuple[dict[str, Any], Scenario]]:
    """The settings of every run, defaults filled in, and its data; of a distillation those of every student."""
    if distillation.distils(source, overrides):
        return [(dump(one), scenario) for one, scenario in distillation.survey(source, overrides)]
    return [(plan.to_yaml(), scenario) for plan, scenario in survey(source, overrides)]


def show(source: Source, *overrides: str) -> list[dict[str, Any]]:
    """Every run of an experiment or a distillation with its defaults filled in; nothing is played.

    Args:
        source: a YAML file, or a mapping of what one would hold.
        overrides: `key.path=value`, each value read as YAML.
    Returns:
        The settings of each run, and under `counts` the training examples (tasks, clients, classes).
    Raises:
        UserError: something in the experiment or the data is wrong.
    """
    return [{**settings, "counts": scenario.counts.tolist()} for settings, scenario in surveyed(source, overrides)]
