"""Runs that a verb is asked about, made or yet to be made."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING

from rich.console import Console

from fcil.errors import ConfigError, StoreError

if TYPE_CHECKING:
    from fcil.federation.context import Datasets
    from fcil.store import Run


def finished(dirs: list[Path]) -> list[Run]:
    """The finished runs in or below some folders; what is left out is said.

    Raises:
        StoreError: there is none.
    """
    from fcil.store import find_runs

    skipped: list[str] = []
    runs = find_runs(dirs, skipped=skipped)
    for reason in skipped:
        Console(stderr=True).print(f"left out: {reason}", markup=False, soft_wrap=True)
    if not runs:
        raise StoreError(f"{', '.join(map(str, dirs))}: no finished run")
    return runs


def export_split(experiment: Path, overrides: Sequence[str], datasets: Datasets, split: Path) -> str:
    """Write who holds what in the runs of an experiment to a file; return a line about it.

    Raises:
        ConfigError: it is a distillation, or there is no single split.
    """
    from fcil.distillation import distils
    from fcil.runs.export_split import export
    from fcil.runs.plans import survey

    if distils(experiment, overrides):
        raise ConfigError(f"{experiment}: a distillation has one holder of its data; --split is for experiments")
    return export(list(survey(experiment, overrides, datasets)), split)
