"""Runs as one table for a notebook."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import pandas as pd

from fcil.config.effect import track_of
from fcil.errors import StoreError
from fcil.federation.persistence.smoke import is_smoke
from fcil.store import files
from fcil.store.groups import UNTOLD, flat, group_runs, settings_of
from fcil.store.read import Run, find_runs


def load(path: Path | str, *, unfinished: bool = False) -> pd.DataFrame:
    """The accuracies of every run below a folder, tidy: one line for each run, trained task and tested task.

    Columns: `experiment`; `label`, the strategy with what tells it from others of its name, as in figures; `strategy`,
    `variant` (eight hex digits of the settings), `seed`; `split`, the data in a few words; `smoke`, whether it is a
    smoke run and so no result; `track`, scratch or pretrained, where any is pretrained; a column for each setting in
    which the runs differ, by its key path (`optimizer.lr`, `strategy.radius`); `trained_task`, `tested_task`,
    `correct`, `examples`, `accuracy`. Runs that were left out are in `frame.attrs["left_out"]`, a line each. The curves
    of an experiment, mean over seeds:

        frame = fcil.load("results/strategies-digits")
        sums = frame.groupby(["label", "seed", "trained_task"])[["correct", "examples"]].sum()
        seen = (sums.correct / sums.examples).rename("accuracy").reset_index()  # over all classes seen
        curves = seen.pivot_table(index="trained_task", columns="label", values="accuracy")
        curves.plot(marker="o", xlabel="tasks learnt", ylabel="accuracy", ylim=(0, 1))

    Raises:
        StoreError: there is no such folder, or no run in it.
    """
    skipped: list[str] = []
    runs = find_runs([path], unfinished=unfinished, skipped=skipped)
    if not runs:
        raise StoreError(f"{path}: no {'run' if unfinished else 'finished run'} there{_because(skipped)}")
    frame = frame_of(runs)
    frame.attrs["left_out"] = skipped
    return frame


def frame_of(runs: Sequence[Run]) -> pd.DataFrame:
    """A line for each run, trained task and tested task, with the settings in which the runs differ."""
    told = {run.path: _settings(run) for run in runs}
    keys, tracked = _differing(runs, told), any(track_of(run.config) != "scratch" for run in runs)
    frames = []
    for group in group_runs(runs):
        for run in group.runs:
            about: dict[str, Any] = {"experiment": run.name, "label": group.label, "strategy": run.strategy}
            about |= {"variant": run.variant, "seed": run.seed, "split": group.split, "smoke": is_smoke(run.config)}
            about |= {"track": track_of(run.config)} if tracked else {}
            about |= {key: told[run.path].get(key) for key in keys}
            frames.append(run.accuracy.assign(**about)[[*about, *files.COLUMNS]])
    return pd.concat(frames, ignore_index=True)


def _settings(run: Run) -> dict[str, Any]:
    """Values by key path, as an override names them: `strategy.radius`, whichever the strategy."""
    common = {k: v for k, v in settings_of(run).items() if k.split(".")[0] not in ("name", "strategy")}
    chosen = run.config.get("strategy")
    options = next(iter(chosen.values())) if isinstance(chosen, Mapping) and len(chosen) == 1 else {}
    own = flat(options) if isinstance(options, Mapping) else {}
    untold = {key.removeprefix(f"strategy.{run.strategy}.") for key in UNTOLD}
    found = common | {f"strategy.{key}": value for key, value in own.items() if key not in untold}
    return {key: str(value) if isinstance(value, list) else value for key, value in found.items()}


def _differing(runs: Sequence[Run], told: Mapping[Any, Mapping[str, Any]]) -> list[str]:
    """Key paths with more than one value among the runs that have them; options, among those of one strategy."""
    values: dict[tuple[str, str], set[str]] = {}
    for run in runs:
        for key, value in told[run.path].items():
            rivals = run.strategy if key.startswith("strategy.") else ""
            values.setdefault((key, rivals), set()).add(repr(value))
    return list(dict.fromkeys(key for (key, _), found in values.items() if len(found) > 1))


def _because(skipped: list[str]) -> str:
    if not skipped:
        return ""
    more = f", and {len(skipped) - 1} more" if len(skipped) > 1 else ""
    return f" ({skipped[0]}{more})"
