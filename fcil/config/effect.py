"""Settings that change no result: the one list for the hash of a run, for resuming it, and for tables of runs.

It holds key paths and is separate from the classes of settings because tables read configurations as plain values,
those of earlier versions too, and do not wait for torch, which the classes import.
"""

from __future__ import annotations

from collections.abc import Collection, Mapping
from pathlib import Path
from typing import Any, Literal

NO_EFFECT = (
    *("resources", "logger", "data.split.file", "data.partition.natural.file"),
    *("federation.backend", "federation.timeout", "federation.checkpoint_every"),
    *("federation.on_failure", "federation.retries", "federation.min_success"),
)
"""Settings excluded from the hash. A split counts by its digest; failure-policy settings matter only if a client
fails, and failures are recorded, so a stopped run can be resumed under another policy."""
NAMES = ("name", "dataset", "partition")
"""Keys of `net` and `data` that name a part, which may be a user's own file."""
DETAIL = ("federation.evaluate_every",)
"""Settings that are in the hash, since they decide what is recorded during a run, and change no result."""

UNWRITTEN = tuple(
    f"data.{key}"
    for key in (
        *("split", "remainder", "classes", "test_share", "transparency", "orientation", "missing", "longer"),
        *("normalise", "scenario", "domains", "test_copies"),
    )
)
"""Settings that are not written at their defaults, which are the behaviour before these settings existed."""

LATER: dict[str, Any] = {
    "federation.local_steps": None,
    "federation.clients_per_call": 1,
    "federation.server": "fedavg",
    "net.memory_format": "contiguous",
    "optimizer.state": "fresh",
    "optimizer.max_norm": None,
    "net.head_start": "kaiming",
    "net.shapelets": None,
    "net.pretrained": None,
    "net.frozen": False,
}
"""Settings that came after records had been made, and the value that stands for what every run did before: at it they
are left out of the hash, which stays what it was. A strategy may have a net among its options."""


Track = Literal["scratch", "pretrained"]
"""Where the features of a run come from: drawn weights, or a file that others have trained."""


def track_of(config: Mapping[str, Any]) -> Track:
    """Return the track of a run: `pretrained` where its net, or its strategy, begins from a file that was trained.

    Runs of the two are not compared: one knows things that no client has. A configuration without such settings, of an
    earlier version too, is `scratch`.
    """
    return "pretrained" if any(map(_has_content, (config.get("net"), config.get("strategy")))) else "scratch"


def _has_content(value: Any) -> bool:
    if not isinstance(value, Mapping):
        return False
    return is_content(value) or any(map(_has_content, value.values()))


def effective(config: Mapping[str, Any]) -> dict[str, Any]:
    """Return the settings of a configuration (`config.yaml`, `Plan.to_yaml()`) that can change the result, as a copy.

    The folder of the samples is among them only for a user's own; the path of a strategy or another part of a user's
    own is not: its text counts.
    """
    data = config.get("data")
    own_images = isinstance(data, Mapping) and data.get("dataset") in ("image_folder", "ts_folder")
    own_images = own_images or (isinstance(data, Mapping) and str(data.get("dataset")).endswith(".py"))
    found = without(as_before(config), [*NO_EFFECT, *([] if own_images else ["data.root"])])
    for section in ("net", "data"):
        if isinstance(found.get(section), Mapping):
            names = {key: stemmed(found[section][key]) for key in NAMES if key in found[section]}
            found[section] = {**found[section], **names}
    chosen = found.get("strategy")
    if isinstance(chosen, Mapping):
        found["strategy"] = {Path(str(name)).stem: as_before(stemmed(options)) for name, options in chosen.items()}
    return found


def stemmed(values: Any) -> Any:
    """Return values with the paths of users' own parts, as keys and values, shortened to the names of their files."""
    if isinstance(values, Mapping):
        return {stemmed(key): stemmed(value) for key, value in values.items()}
    return Path(values).stem if isinstance(values, str) and values.endswith(".py") else values


def as_before(values: Any) -> Any:
    """Return settings, or a strategy's options, without those of `LATER` that stand at what every run did before.

    Of a file that counts by its content, the path is left out.
    """
    if not isinstance(values, Mapping):
        return values
    return _contents(without(values, [path for path, default in LATER.items() if _at(values, path) == default]))


def _contents(values: Any) -> Any:
    """Return values with each `{file: path, sha256: hex}` in them shortened to the hash."""
    if not isinstance(values, Mapping):
        return values
    if is_content(values):
        return {"sha256": values["sha256"]}
    return {key: _contents(value) for key, value in values.items()}


def is_content(value: Any) -> bool:
    """Return whether this is a file that counts by its content, as `HashedFile` is among plain values."""
    return isinstance(value, Mapping) and value.keys() == {"file", "sha256"}


def _at(values: Any, path: str) -> Any:
    """Return the value at a key path, or None if there is none."""
    for key in path.split("."):
        values = values.get(key) if isinstance(values, Mapping) else None
    return values


def without(values: Mapping[str, Any], paths: Collection[str], path: str = "") -> dict[str, Any]:
    """Return a copy of nested values without these key paths."""
    found = {}
    for key, value in values.items():
        inner = f"{path}.{key}" if path else str(key)
        if inner not in paths:
            found[key] = without(value, paths, inner) if isinstance(value, Mapping) else value
    return found
