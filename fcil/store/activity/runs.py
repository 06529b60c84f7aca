"""Activity of a run folder, finished just now or long ago."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
from safetensors import SafetensorError, safe_open

from fcil.config import MAX_BYTES, parse_yaml
from fcil.errors import ConfigError, StoreError, printable
from fcil.store import files
from fcil.store.activity.counted import Records, activity
from fcil.store.activity.idle import unused_components
from fcil.store.declared import read_declared
from fcil.store.folder import RunFolder

if TYPE_CHECKING:
    from fcil.store.read import Run

MOST_LINES = 50
"""Sentences of one run that are believed to be its own."""


def explain(run: Run) -> dict[str, Any]:
    """`activity` and `unused_components` of a run, from its summary, or from its records where the summary has none."""
    told, lines = run.summary.get("activity"), run.summary.get("inert")
    if isinstance(told, Mapping) and isinstance(lines, list):
        return {"activity": told, "inert": [printable(line) for line in lines[:MOST_LINES] if isinstance(line, str)]}
    return of_folder(run.folder, run.rounds, run.config)


def unused_components_of(run: Run) -> list[str]:
    """Return the components that did nothing in a run, a sentence each; none for a run whose records cannot be read."""
    try:
        return list(explain(run)["inert"])
    except StoreError:
        return []


def of_folder(folder: RunFolder, records: Records, config: Mapping[str, Any] | None = None) -> dict[str, Any]:
    """The same from the files of a run folder.

    Args:
        records: the lines of its `rounds.jsonl`.
        config: what its `config.yaml` says; read if it is not given.
    """
    counted = activity(records, _counts(folder), _pool_sizes(folder.synthetic))
    return {
        "activity": counted,
        "inert": unused_components(records, counted, _options(folder, config), read_declared(folder)),
    }


def _options(folder: RunFolder, config: Mapping[str, Any] | None) -> dict[str, Any]:
    if config is None and folder.begun:
        try:
            config = parse_yaml(files.read_text(folder.config, MAX_BYTES), str(folder.config))
        except ConfigError:
            config = None
    named = config.get("strategy") if isinstance(config, Mapping) else None
    options = next(iter(named.values()), None) if isinstance(named, Mapping) else None
    return dict(options) if isinstance(options, Mapping) else {}


def _counts(folder: RunFolder) -> np.ndarray[Any, np.dtype[np.int64]] | None:
    try:
        counts = np.array(files.read_json(folder.partition)["counts"])
    except (StoreError, KeyError, ValueError, TypeError, OverflowError, RecursionError):
        return None
    return counts if counts.ndim == 3 and counts.dtype == np.int64 else None


def _pool_sizes(folder: Path) -> dict[int, int]:
    """Samples of the pools `task<k>.safetensors`, from their headers."""
    sizes = {}
    for path in folder.glob("task*.safetensors"):
        number = path.stem.removeprefix("task")
        if number.isdecimal() and len(number) < 6:
            try:
                with safe_open(path, framework="np") as file:
                    sizes[int(number)] = int(file.get_slice("y").get_shape()[0])
            except (SafetensorError, OSError, ValueError, IndexError):
                continue
    return dict(sorted(sizes.items()))
