"""Runs as one table for a notebook."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import pandas as pd

from fcil.federation.smoke import is_smoke
from fcil.groups import UNTOLD, flat, group_runs
from fcil.store import files
from fcil.store.read import Run


def frame_of(runs: Sequence[Run]) -> pd.DataFrame:
    """A line for each run, trained task and tested task, with the settings in which the runs differ."""
    told = {run.path: _settings(run) for run in runs}
    keys = _differing(runs, told)
    frames = []
    for group in group_runs(runs):
        for run in group.runs:
            about: dict[str, Any] = {"experiment": run.name, "label": group.label, "strategy": run.strategy}
            about |= {"variant": run.variant, "seed": run.seed, "split": group.split, "smoke": is_smoke(run.config)}
            about |= {key: told[run.path].get(key) for key in keys}
            frames.append(run.accuracy.assign(**about)[[*about, *files.COLUMNS]])
    return pd.concat(frames, ignore_index=True)


def _settings(run: Run) -> dict[str, Any]:
    """Values by key path, as an override names them: `strategy.radius`, whichever the strategy."""
    config = {key: value for key, value in run.config.items() if key not in ("name", "strategy")}
    chosen = run.config.get("strategy")
    options = next(iter(chosen.values())) if isinstance(chosen, Mapping) and len(chosen) == 1 else {}
    own = flat(options) if isinstance(options, Mapping) else {}
    untold = {key.removeprefix(f"strategy.{run.strategy}.") for key in UNTOLD}
    found = flat(config) | {f"strategy.{key}": value for key, value in own.items() if key not in untold}
    return {key: str(value) if isinstance(value, list) else value for key, value in found.items()}


def _differing(runs: Sequence[Run], told: Mapping[Any, Mapping[str, Any]]) -> list[str]:
    """Key paths with more than one value among the runs that have them; options, among those of one strategy."""
    values: dict[tuple[str, str], set[str]] = {}
    for run in runs:
        for key, value in told[run.path].items():
            rivals = run.strategy if key.startswith("strategy.") else ""
            values.setdefault((key, rivals), set()).add(repr(value))
    return list(dict.fromkeys(key for (key, _), found in values.items() if len(found) > 1))
