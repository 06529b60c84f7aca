"""Checkpoints of a run on disk: a list of parts for each checkpoint, written whole or not at all.

    checkpoints/task002-round00003.json     the list: which part is the net, the memo, each thing that is shared,
                                            what each client remembers; what was told so far; settings; digest
    checkpoints/parts/<hash>.safetensors    the parts, each written once
    checkpoints/synthesis.json              chains of a synthesis under way, in the same form

All of it is tensors, numbers and strings. Random streams need no saving, since they are derived
from where the run stands. The last two checkpoints are kept, in case the last one is damaged; one that
is found damaged is set aside, as `<name>.damaged`, and counts no more.
"""

from __future__ import annotations

import json
import time
from collections.abc import Hashable, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, cast

import torch
from flwr.app import ArrayRecord, ConfigRecord, RecordDict
from flwr.serverapp import Grid

from fcil.errors import StoreError
from fcil.federation.codec import from_records, to_records
from fcil.federation.grids import LocalGrid
from fcil.federation.messages.sharing import Shared
from fcil.federation.persistence.manifest import (
    KEPT,
    manifest_path,
    manifest_paths,
    place_of,
    read_manifest,
    set_aside,
    write_manifest,
)
from fcil.federation.persistence.progress import Record, pages
from fcil.io.blobs import Blobs, DamagedError
from fcil.roles import Server
from fcil.types import State, Task, Tensors

THROTTLE = 20
"""Chains are saved when that took less than a twentieth of the synthesis so far."""


@dataclass(frozen=True)
class Position:
    """Position in a run: `round` rounds of `task` are finished; round 0 is the start of the task."""

    task: int = 1
    round: int = 0
    seconds: float = 0.0
    phases: dict[str, float] = field(default_factory=dict)
    received: dict[str, dict[str, str]] = field(default_factory=dict)  # client -> what is shared -> content hash
    elsewhere: bool = False  # clients remember things that are kept by nodes of Flower's own engines
    touched: dict[str, list[list[int]]] = field(default_factory=dict)  # client -> classes used and allowed in the task


class Checkpoints:
    """The checkpoints of one run.

    Args:
        settings: all that can change the result; a checkpoint made under others is refused.
    """

    def __init__(self, folder: Path, settings: Mapping[str, Any]) -> None:
        self.folder, self.settings = folder, json.loads(json.dumps(settings))
        self.parts = Blobs(folder / "parts")
        self.record = Record()
        """Record that is told everything the run folder is told."""
        self.restored = self.record.forget()
        """Position that `restore` has led to, and what had been told by then."""
        self._clients: dict[int, tuple[Hashable, str]] = {}  # version of a state, its part

    # Rounds -----------------------------------------------------------------------------------

    def save(self, server: Server, grid: Grid, shared: Shared, position: Position, net_hash: str | None = None) -> None:
        """Write where a run stands; `net_hash`, the digest of the net's part, saves computing it.

        Raises:
            StoreError: the disk is full or read-only; the checkpoint before is untouched.
        """
        shared.update(server.shared)
        net = self.parts.put({"net": server.net.state_dict()}, net_hash)
        parts = {"net": net, "memo": self.parts.put({"memo": server.memo})}
        if server.moments:
            parts["moments"] = self.parts.put({"moments": server.moments})
        for name, content_hash in shared.hashes().items():
            parts[f"shared/{name}"] = self.parts.put({name: server.shared[name]}, content_hash)
        if isinstance(grid, LocalGrid):
            parts |= {f"clients/{client}": part for client, part in self._save_clients(grid).items()}
        place = position.task, position.round
        told = self.record.saved(*place, self.parts)
        self._write(manifest_path(self.folder, *place), {"position": vars(position), "parts": parts, **told})
        before = [path for path in manifest_paths(self.folder) if place_of(path) <= place]
        for path in manifest_paths(self.folder):
            if path not in before[-KEPT:]:
                path.unlink(missing_ok=True)
        self._clean(position)

    def _save_clients(self, grid: LocalGrid) -> dict[int, str]:
        versions = grid.versions()
        for client, version in versions.items():
            if self._clients.get(client, (None, ""))[0] != version:
                self._clients[client] = version, self.parts.put({"memory": _to_state(grid.state(client))})
        return {client: self._clients[client][1] for client in sorted(versions)}

    def restore(self, server: Server, grid: Grid, tasks: Sequence[Task]) -> tuple[Position, list[str]]:
        """Bring server and clients to the last good checkpoint, or leave them at the start if there is none.

        Returns:
            Where that is, and a line for each checkpoint that was damaged, and is set aside.
        Raises:
            StoreError: the last good checkpoint was made under other settings or by another version.
        """
        damaged: dict[Path, str] = {}
        first = server.net.weights() if manifest_paths(self.folder) else {}
        self.restored = self.record.forget()
        position = self._newest(server, grid, tasks, damaged)
        if position is None and damaged:
            server.net.load(first)
        for path in damaged:
            set_aside(path)
        way = "the run begins anew" if position is None else "going on from the checkpoint before it"
        return position or Position(), [f"{line}; {way}" for line in damaged.values()]

    def go_to_end(self, server: Server, grid: Grid, tasks: Sequence[Task]) -> None:
        """Bring server and clients to the end of a finished run; files are left as they are.

        Raises:
            StoreError: the last checkpoint is gone, damaged, not of the run's end, or of another version.
        """
        damaged: dict[Path, str] = {}
        position = self._newest(server, grid, tasks, damaged)
        if damaged:
            raise StoreError(next(iter(damaged.values())))
        if position is None or position.task <= len(tasks):
            there = "none there" if position is None else f"of round {position.round} of task {position.task}"
            raise StoreError(f"{self.folder}: no checkpoint of the end of the run, which holds its sums ({there})")

    def _newest(self, server: Server, grid: Grid, tasks: Sequence[Task], damaged: dict[Path, str]) -> Position | None:
        """Restore the last good checkpoint, if there is one; `damaged` gets those after it, and what is wrong."""
        for path in reversed(manifest_paths(self.folder)):
            try:
                about = self._read(path)
                position, state = self._load(about, path)
                self._apply(state, server, grid, position, path)
            except DamagedError as error:
                damaged[path] = str(error)
                continue
            server.task, server.round = tasks[min(position.task, len(tasks)) - 1], position.round
            self.restored = self.record.restore(about, self.parts, position.task, position.round)
            return position
        return None

    def _load(self, about: dict[str, Any], path: Path) -> tuple[Position, dict[str, State]]:
        try:
            position = Position(**about["position"])
            if not all(type(n) is int and n >= 0 for n in (position.task - 1, position.round)):
                raise TypeError
            return position, {name: self.parts.get(part) for name, part in about["parts"].items()}
        except (KeyError, TypeError, AttributeError):
            raise DamagedError(f"{path}: damaged") from None

    def _apply(self, state: dict[str, State], server: Server, grid: Grid, position: Position, path: Path) -> None:
        device = server.net.classifier.weight.device
        try:
            memo = _to_device(state["memo"]["memo"], device)
            moments = _to_device(state.get("moments", {}).get("moments", {}), device)
            shared = {name: _to_device(part[name], device) for name, part in _below("shared/", state).items()}
            clients = {int(name): part["memory"] for name, part in _below("clients/", state).items()}
            server.net.load(cast(Tensors, state["net"]["net"]))
        except (KeyError, TypeError, ValueError, AttributeError, RuntimeError):
            raise DamagedError(f"{path}: damaged") from None
        server.memo, server.shared, server.moments = memo, shared, moments
        if isinstance(grid, LocalGrid) and not position.elsewhere:
            grid.restore({client: _to_record(cast(State, memory)) for client, memory in clients.items()})
        elif clients or position.elsewhere:
            raise StoreError(
                f"{path}: clients of this run remember things, which cannot be given to, or taken from, nodes of "
                "Flower's own engines; go on where it was begun, or begin anew under another --out"
            )

    # Synthesis --------------------------------------------------------------------------------

    def chains(self, name: str) -> SavedChains:
        """The chains of the synthesis of this name, as they were saved last."""
        return SavedChains(self, name)

    # Files ------------------------------------------------------------------------------------

    def _write(self, path: Path, about: dict[str, Any]) -> None:
        write_manifest(path, self.settings, about)

    def _read(self, path: Path) -> dict[str, Any]:
        return read_manifest(path, self.settings)

    def _clean(self, position: Position) -> None:
        """Let go of parts that no list names, and of a synthesis that is over."""
        names: set[str] = set()
        synthesis = self.folder / "synthesis.json"
        for path in [*manifest_paths(self.folder), synthesis]:
            try:
                about = self._read(path) if path.is_file() else {"parts": {}}
            except DamagedError:
                continue
            if path == synthesis and about.get("task", 0) < position.task:
                path.unlink(missing_ok=True)
            else:
                names |= {*about["parts"].values(), *pages(about)}
        self.parts.keep(names)


class SavedChains:
    """Progress of the chains of one synthesis, so that none starts again after an interruption."""

    def __init__(self, checkpoints: Checkpoints, name: str) -> None:
        self._home, self._name, self._path = checkpoints, name, checkpoints.folder / "synthesis.json"
        self._began, self._spent = time.monotonic(), 0.0
        self._saved: dict[str, dict[str, Any]] = {}  # chain -> episodes, part
        try:
            about = checkpoints._read(self._path) if self._path.is_file() else {}
        except DamagedError:
            about = {}
        if about.get("name") == name:
            self._saved = about["chains"]

    def reached(self, chain: int) -> tuple[int, State] | None:
        """Episodes done and the state after them."""
        found = self._saved.get(str(chain))
        try:
            return None if found is None else (found["episodes"], self._home.parts.get(found["part"]))
        except DamagedError:
            return None

    @property
    def due(self) -> bool:
        """Return whether saving has cost little enough to do it again."""
        return self._spent * THROTTLE <= time.monotonic() - self._began

    def keep(self, chain: int, episodes: int, state: State) -> None:
        began, old = time.monotonic(), self._saved.get(str(chain), {}).get("part")
        part = self._home.parts.put(state)
        self._saved[str(chain)] = {"episodes": episodes, "part": part}
        parts = {name: saved["part"] for name, saved in self._saved.items()}
        task = int(self._name.split("/")[0])
        self._home._write(self._path, {"name": self._name, "task": task, "chains": self._saved, "parts": parts})
        if old not in (None, part):
            self._home.parts.drop(old)
        self._spent += time.monotonic() - began


def _below(prefix: str, state: dict[str, State]) -> dict[str, State]:
    return {name.removeprefix(prefix): part for name, part in state.items() if name.startswith(prefix)}


def _to_device(value: Any, device: torch.device) -> Any:
    if isinstance(value, dict):
        return {k: _to_device(v, device) for k, v in value.items()}
    return value.to(device) if isinstance(value, torch.Tensor) else value


def _to_state(record: RecordDict) -> State:
    return from_records(cast(ArrayRecord, record["memory"]), cast(ConfigRecord, record["memory.values"]))


def _to_record(state: State) -> RecordDict:
    arrays, values = to_records(state)
    return RecordDict({"memory": arrays, "memory.values": values})
