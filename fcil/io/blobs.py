"""Pieces of state on disk, named by their content: what did not change is not written again.

A part is one safetensors file. Its name is the hash of what it holds, so that a damaged part shows
itself, and equal parts of two checkpoints are one file.
"""

from __future__ import annotations

import json
import re
from collections.abc import Collection, Mapping
from pathlib import Path

from safetensors import SafetensorError, safe_open
from safetensors.torch import save_file

from fcil.io.atomic import replacing, sweep
from fcil.io.state import Scalars, digest, flatten, unflatten
from fcil.types import State, Tensors, Value

UNTOUCHED = "; the last checkpoint is good"
"""End of a line about something that could not be written."""


class DamagedError(Exception):
    """File whose content on disk is not what was written."""


class Blobs:
    """The parts in a folder."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        self._sound: set[str] = set()  # parts that this process has written, or has read and found good

    def put(self, state: Mapping[str, Value], known_hash: str | None = None) -> str:
        """Write a part unless it is there and sound, and return its hash; `known_hash` saves computing it.

        Raises:
            StoreError: the disk is full, or the folder cannot be written.
        """
        tensors, scalars = flatten(state)
        name = known_hash or digest(tensors, scalars)
        path = self._path(name)
        if not (path.is_file() and self._is_sound(name)):
            write_tensors(path, tensors, {"scalars": json.dumps(scalars)})
            self._sound.add(name)
        return name

    def _is_sound(self, name: str) -> bool:
        """Return whether a part is what its name says: one that an earlier process left may be damaged."""
        if name not in self._sound:
            try:
                self.get(name)
            except DamagedError:
                return False
        return True

    def get(self, name: str) -> State:
        """The state in a part.

        Raises:
            DamagedError: it is missing or not what its name says.
        """
        self._sound.discard(name)
        tensors, about = read_tensors(self._path(name))
        try:
            scalars: Scalars = json.loads(about["scalars"])
            sound = digest(tensors, scalars) == name
        except (KeyError, TypeError, ValueError):
            sound = False
        if not sound:
            raise DamagedError(f"{self._path(name)}: damaged")
        self._sound.add(name)
        return unflatten(tensors, scalars)

    def keep(self, names: Collection[str]) -> None:
        """Delete every other part, and what a process that died was writing."""
        self._sound &= set(names)
        sweep(self.folder)
        for path in self.folder.glob("*"):
            if path.suffix == ".partial" or (path.suffix == ".safetensors" and path.stem not in names):
                path.unlink(missing_ok=True)

    def drop(self, name: str) -> None:
        self._sound.discard(name)
        self._path(name).unlink(missing_ok=True)

    def _path(self, name: str) -> Path:
        if not isinstance(name, str) or not re.fullmatch("[0-9a-f]{32}", name):
            raise DamagedError(f"{self.folder}: {name!r} is not the name of a part")
        return self.folder / f"{name}.safetensors"


def write_tensors(path: Path, tensors: Tensors, about: dict[str, str]) -> None:
    """A safetensors file, whole and on the disk when this returns, or not there at all."""
    separate = _separate({name: t.detach().cpu().contiguous() for name, t in tensors.items()})
    with replacing(path, note=UNTOUCHED) as temporary:
        try:
            save_file(separate, temporary, metadata=about)
        except SafetensorError as error:  # what it makes of a full disk
            raise OSError(str(error)) from None


def read_tensors(path: Path) -> tuple[Tensors, dict[str, str]]:
    """Tensors and notes of a safetensors file.

    Raises:
        DamagedError: it is missing or no safetensors file.
    """
    try:
        with safe_open(path, framework="pt") as file:
            return {name: file.get_tensor(name) for name in file.keys()}, file.metadata() or {}  # noqa: SIM118 (no dict)
    except (SafetensorError, OSError, ValueError) as error:
        raise DamagedError(f"{path}: damaged ({error})") from None


def _separate(tensors: Tensors) -> Tensors:
    """safetensors refuses tensors that share memory: the teacher and the net may."""
    seen: set[int] = set()
    separate = {}
    for name, t in tensors.items():
        separate[name] = t.clone() if t.data_ptr() in seen else t
        seen.add(t.data_ptr())
    return separate
