"""Manifests of checkpoints, lists of parts: written whole, ordered by rounds, and validated before use."""

from __future__ import annotations

import json
import re
from collections.abc import Mapping
from hashlib import blake2b
from importlib import metadata
from pathlib import Path
from typing import Any

from fcil.errors import StoreError
from fcil.io.atomic import replacing
from fcil.io.blobs import UNTOUCHED, DamagedError

FORMAT = 2
KEPT = 2
"""Checkpoints of a run that stay."""
SIZE_LIMIT = 64 * 2**20
"""Bytes of a manifest, at most; a longer one was not written by us."""
SET_ASIDE = ".damaged"
"""Added to the name of a list that cannot be used."""
_NAME = re.compile(r"task([0-9]{1,18})-round([0-9]{1,18})\.json")


def manifest_path(folder: Path, task: int, round: int) -> Path:
    """Return the path of the list of the checkpoint after `round` rounds of `task`."""
    return folder / f"task{task:03d}-round{round:05d}.json"


def place_of(path: Path) -> tuple[int, int]:
    """The task and the rounds of it that a list's name tells; (0, 0) for any other name."""
    found = _NAME.fullmatch(path.name)
    return (int(found[1]), int(found[2])) if found else (0, 0)


def manifest_paths(folder: Path) -> list[Path]:
    """The lists in a folder in the order of their rounds, which is not that of their names: task999, task1000."""
    return sorted((path for path in folder.glob("task*-round*.json") if place_of(path) > (0, 0)), key=place_of)


def has_saved(folder: Path) -> bool:
    """Return whether a folder of checkpoints, a synthesis under way included, holds anything to go on from."""
    return bool(manifest_paths(folder)) or (folder / "synthesis.json").is_file()


def write_manifest(path: Path, settings: Mapping[str, Any], about: Mapping[str, Any]) -> None:
    """Write a list whole.

    Raises:
        StoreError: the disk is full or read-only.
    """
    about = {"format": FORMAT, "version": version(), "settings": settings, **about}
    text = json.dumps({**about, "digest": digest_of(about)}, indent=1)
    with replacing(path, note=UNTOUCHED) as temporary:
        temporary.write_text(text + "\n", encoding="utf-8")


def read_manifest(path: Path, settings: Mapping[str, Any]) -> dict[str, Any]:
    """The list in a file.

    Raises:
        DamagedError: it is not what was written.
        StoreError: it is sound, but of another version or other settings.
    """
    about = sound_manifest(path)
    for what, ours in (("format", FORMAT), ("version", version())):
        if about.get(what) != ours:
            raise StoreError(
                f"{path}: {what} {about.get(what)}, and this is {what} {ours}; finish the run with the fcil that "
                f"began it, or delete {path.parent} to begin anew"
            )
    if about.get("settings") != settings:
        raise StoreError(f"{path}: made under other settings: {difference(about.get('settings'), settings)}")
    return about


def sound_manifest(path: Path) -> dict[str, Any]:
    """Return the list in a file, whichever run it is of.

    Raises:
        DamagedError: it is not what was written.
    """
    try:
        if path.stat().st_size > SIZE_LIMIT:
            raise ValueError
        about: dict[str, Any] = json.loads(path.read_text(encoding="utf-8"))
        sound = about.pop("digest") == digest_of(about)
    except (OSError, ValueError, KeyError, TypeError, AttributeError, RecursionError):
        sound = False
    if not sound:
        raise DamagedError(f"{path}: damaged")
    return about


def check_manifests(folder: Path, settings: Mapping[str, Any]) -> None:
    """Check that the last sound list in a folder of checkpoints is of this version and these settings.

    Raises:
        StoreError: it is not.
    """
    for path in reversed(manifest_paths(folder)):
        try:
            read_manifest(path, settings)
            return
        except DamagedError:
            continue


def set_aside(path: Path) -> None:
    """Rename a damaged list: it must not stand in the place of a good one.

    Raises:
        StoreError: the folder cannot be written.
    """
    try:
        path.replace(path.with_name(path.name + SET_ASIDE))
    except FileNotFoundError:
        pass
    except OSError as error:
        raise StoreError(f"{path}: damaged, and cannot be set aside ({error.strerror or error})") from None


def last_manifest(folder: Path) -> dict[str, Any]:
    """The list of a run's last checkpoint.

    Args:
        folder: `checkpoints/` of the run.
    Raises:
        DamagedError: there is none, or it cannot be read.
    """
    paths = manifest_paths(folder)
    if not paths:
        raise DamagedError(f"{folder}: no checkpoint is there")
    return sound_manifest(paths[-1])


def last_blobs(folder: Path) -> dict[str, str]:
    """The parts of a run's last checkpoint, by name: the net, the memo, what is shared, what clients remember.

    Args:
        folder: `checkpoints/` of the run.
    Raises:
        DamagedError: there is none, or it cannot be read.
    """
    try:
        return dict(last_manifest(folder)["parts"])
    except (KeyError, TypeError, ValueError):
        raise DamagedError(f"{folder}: the last checkpoint names no parts") from None


def version() -> str:
    """Return the version of this package: numbers may differ between two of them, so no run is made by both."""
    try:
        return metadata.version("fcil")
    except metadata.PackageNotFoundError:
        return "unknown"


def difference(theirs: Any, ours: Any, path: str = "") -> str:
    """The first key path at which two plain values differ, with both values."""
    if isinstance(theirs, dict) and isinstance(ours, dict):
        for key in [*theirs, *(k for k in ours if k not in theirs)]:
            if theirs.get(key) != ours.get(key):
                return difference(theirs.get(key), ours.get(key), f"{path}.{key}" if path else key)
    if isinstance(theirs, list) and isinstance(ours, list) and len(theirs) == len(ours):
        for index, (a, b) in enumerate(zip(theirs, ours, strict=True)):
            if a != b:
                return difference(a, b, f"{path}[{index}]")
    return f"{path} was {_short(theirs)} there and is {_short(ours)} here"


def digest_of(about: Mapping[str, Any]) -> str:
    """Return the digest that shows that a list is as it was written."""
    return blake2b(json.dumps(about, sort_keys=True).encode(), digest_size=16).hexdigest()


def _short(value: Any) -> str:
    text = json.dumps(value)
    return text if len(text) <= 200 else f"{text[:200]}..."
