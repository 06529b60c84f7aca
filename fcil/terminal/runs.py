"""Runs that a verb is asked about, made or yet to be made."""

from __future__ import annotations

import json
import sys
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from importlib import import_module
from pathlib import Path
from typing import TYPE_CHECKING, Any

from rich.console import Console

from fcil.errors import ConfigError, StoreError

if TYPE_CHECKING:
    from fcil.federation.context import Datasets
    from fcil.profiling import Profiler
    from fcil.runs.estimate import Estimate
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
        ConfigError: it is a distillation or a central training, or there is no single split.
    """
    from fcil.distillation import distils
    from fcil.runs.export_split import export
    from fcil.runs.plans import survey
    from fcil.training import is_for_training

    if distils(experiment, overrides):
        raise ConfigError(f"{experiment}: a distillation has one holder of its data; --split is for experiments")
    if is_for_training(experiment, overrides):
        raise ConfigError(f"{experiment}: a central training has one holder of its data; --split is for experiments")
    return export(list(survey(experiment, overrides, datasets)), split)


def check_asked(verb: str, *, dry_run: bool, as_json: bool, profile: bool) -> None:
    """Check that options of a verb which plays runs go together.

    Raises:
        ConfigError: one of them is for playing runs, or for listing them, and the other is asked for.
    """
    if as_json and not dry_run:
        raise ConfigError(f"{verb}: --json is for --dry-run")
    if profile and dry_run:
        raise ConfigError(f"{verb}: --profile is for runs that are played, and --dry-run plays none")


PLAYERS = {
    "run": ("fcil.experiment", "fcil.runs.estimate", "estimate"),
    "train": ("fcil.training", "fcil.training", "forecast"),
    "distill": ("fcil.distillation", "fcil.distillation", "forecast"),
}
"""For a verb that plays runs the home of its function, and home and name of the one that lists them beforehand."""


def play(
    verb: str,
    experiment: Path,
    overrides: Sequence[str] | None,
    *,
    dry_run: bool,
    as_json: bool,
    profile: bool,
    **asked: Any,
) -> None:
    """Play the runs of a file, or list them beforehand.

    Args:
        asked: `out`, `smoke` and `jobs`, and of `run` `shard`.
    """
    check_asked(verb, dry_run=dry_run, as_json=as_json, profile=profile)
    home, forecasts, forecast = PLAYERS[verb]
    if dry_run:
        tell_estimate(getattr(import_module(forecasts), forecast)(experiment, *(overrides or []), **asked), as_json)
        return
    with profiling(profile) as profiler:
        getattr(import_module(home), verb)(experiment, *(overrides or []), profiler=profiler, **asked)


@contextmanager
def profiling(wanted: bool) -> Iterator[Profiler | None]:
    """The profiler of a verb that plays runs, if one is wanted.

    Raises:
        ConfigError: its package is not installed.
    """
    if not wanted:
        yield None
        return
    from fcil.profiling import Profiler

    profiler = Profiler(whole_process=True)
    yield profiler
    if not profiler.played:
        Console().print("--profile: no run was left to play, so there is no profile", markup=False, soft_wrap=True)


def tell_estimate(found: Estimate, as_json: bool) -> None:
    """Print what runs will take, as a table or as JSON."""
    from fcil.runs.estimate import estimate_table

    if as_json:
        sys.stdout.write(json.dumps(found.to_json(), indent=2) + "\n")
    else:
        Console().print(estimate_table(found))
