"""Record of the figures that were drawn: `drawn.json`, beside the folder of the figures and written after them.

A folder of figures says nothing about whether all of them are in it, nor whether they are as new as the run.
What `drawn.json` does not name, or names with the digest of another record, is still to be drawn. What it names
with the digest of the record as it stands was drawn; if it is missing, a user has deleted it, and it
is not drawn again unasked.
"""

from __future__ import annotations

import os
from collections.abc import Iterable, Mapping
from hashlib import sha256
from pathlib import Path

from fcil.errors import StoreError
from fcil.io.bounded import UnreadableError, read_bytes
from fcil.store.files import SIZE_LIMIT, read_json, write_json
from fcil.store.read import Run

NAME = "drawn.json"


def lacking(home: Path, wanted: Mapping[str, str]) -> list[str]:
    """Names of figures that were not drawn of the record as it stands.

    Args:
        home: the folder in which `figures/` lies.
        wanted: the digest of what each figure shows, by its name.
    """
    told = _told(home)
    return [name for name, digest in wanted.items() if told.get(name) != digest]


def note(home: Path, done: Mapping[str, str]) -> None:
    """Remember what was drawn, and of what."""
    write_json(home / NAME, {"figures": {**_told(home), **done}})


def _told(home: Path) -> dict[str, object]:
    """Return the figures noted so far; nothing if there is no file, or if it cannot be read."""
    try:
        figures = read_json(home / NAME).get("figures")
    except StoreError:
        return {}
    return figures if isinstance(figures, dict) else {}


def digest_of(run: Run) -> str:
    """Return the digest of what the figures of a run show: accuracies, rounds, data of each client, and samples."""
    folder = run.folder
    pools = sorted(folder.synthetic.glob("task*.safetensors"))
    return _digest([folder.accuracy, folder.rounds, folder.partition], [f"{p.name} {_size(p)}" for p in pools])


def digest_of_quality(run: Run) -> str:
    """Return the digest of what is known of the teacher of a student."""
    return _digest([run.path / "quality.json"], [])


def digest_of_all(runs: Iterable[Run]) -> str:
    """Return the digest of what figures of several runs show, whatever the order of the runs."""
    own = sorted(
        _digest([r.folder.accuracy, r.folder.summary, r.path / "quality.json"], r.path.parts[-3:]) for r in runs
    )
    return _digest([], own)


def _digest(paths: Iterable[Path], words: Iterable[str]) -> str:
    found = sha256()
    for path in paths:
        try:
            content = read_bytes(path, SIZE_LIMIT)
        except UnreadableError:  # a run need not have every file
            content = b""
        found.update(f"{path.name} {len(content)}\0".encode() + content)
    for word in words:
        found.update(word.encode("utf-8", "surrogateescape") + b"\0")
    return found.hexdigest()[:32]


def _size(path: Path) -> int:
    try:
        return os.stat(path).st_size
    except OSError:
        return 0
