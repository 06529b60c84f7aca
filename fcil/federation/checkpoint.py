"""Where a run stands, on disk: one safetensors file per checkpoint, written whole or not at all.

A checkpoint holds the global net, what is shared, the server's memo and what clients remember: all
of it is tensors, numbers and strings. Random streams need no saving, since they are derived from
where the run stands.
"""

from __future__ import annotations

import json
import os
from collections.abc import Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, cast

import torch
from flwr.app import ArrayRecord, ConfigRecord, RecordDict
from flwr.serverapp import Grid
from safetensors import SafetensorError, safe_open
from safetensors.torch import save_file

from fcil.errors import StoreError
from fcil.federation.codec import digest, flatten, from_records, to_records, unflatten
from fcil.federation.grids import LocalGrid
from fcil.roles import Server
from fcil.types import State, Task, Tensors

FORMAT = 1
KEPT = 2


@dataclass(frozen=True)
class Position:
    """What is finished: `round` rounds of `task`; round 0 is the start of the task."""

    task: int = 1
    round: int = 0
    seconds: float = 0.0
    phases: dict[str, float] = field(default_factory=dict)
    received: dict[str, dict[str, str]] = field(default_factory=dict)  # client -> what is shared -> content hash


@dataclass(frozen=True)
class Checkpoints:
    """The checkpoints of one run. The last two are kept, in case the last one is damaged."""

    folder: Path
    variant: str

    def save(self, server: Server, grid: Grid, position: Position) -> None:
        state: State = {"net": server.net.weights(), "shared": server.shared, "memo": server.memo}
        if isinstance(grid, LocalGrid):
            state["clients"] = {str(c): _to_state(s) for c, s in sorted(grid.states().items())}
        tensors, scalars = flatten(state)
        tensors = {name: t.detach().cpu().contiguous() for name, t in tensors.items()}
        about = {"format": FORMAT, "variant": self.variant, "position": vars(position), "scalars": scalars}
        about["digest"] = digest(tensors, scalars)
        self.folder.mkdir(parents=True, exist_ok=True)
        path = self.folder / f"task{position.task:03d}-round{position.round:05d}.safetensors"
        partial = path.with_suffix(".partial")
        save_file(_separate(tensors), partial, metadata={"fcil": json.dumps(about)})
        with partial.open("rb") as file:
            os.fsync(file.fileno())
        partial.replace(path)
        for old in self._paths()[:-KEPT]:
            old.unlink()

    def restore(self, server: Server, grid: Grid, tasks: Sequence[Task]) -> Position:
        """Bring server and clients to the last good checkpoint; the start if there is none."""
        for path in reversed(self._paths()):
            found = self._read(path)
            if found is not None:
                position, state = found
                device = server.net.classifier.weight.device
                server.net.load(cast(Tensors, state["net"]))
                server.shared = _to_device(state.get("shared", {}), device)
                server.memo = _to_device(state.get("memo", {}), device)
                server.task = tasks[min(position.task, len(tasks)) - 1]
                server.round = position.round
                if isinstance(grid, LocalGrid):
                    clients = cast(dict[str, State], state.get("clients", {}))
                    grid.restore({int(c): _to_record(s) for c, s in clients.items()})
                return position
        return Position()

    def _paths(self) -> list[Path]:
        return sorted(self.folder.glob("task*.safetensors"))

    def _read(self, path: Path) -> tuple[Position, State] | None:
        """A checkpoint's content; None if it is damaged.

        Raises:
            StoreError: it is sound, but of another version or configuration.
        """
        try:
            with safe_open(path, framework="pt") as file:
                about: dict[str, Any] = json.loads((file.metadata() or {})["fcil"])
                tensors = {name: file.get_tensor(name) for name in file.keys()}  # noqa: SIM118 (not a dict)
        except (SafetensorError, OSError, KeyError, ValueError):
            return None
        if about["format"] != FORMAT or about["variant"] != self.variant:
            raise StoreError(f"{path}: made by format {about['format']}, variant {about['variant']}; "
                             f"this run is format {FORMAT}, variant {self.variant}")  # fmt: skip
        if digest(tensors, about["scalars"]) != about["digest"]:
            return None
        return Position(**about["position"]), unflatten(tensors, about["scalars"])


def _separate(tensors: Tensors) -> Tensors:
    """safetensors refuses tensors that share memory: the teacher and the net may."""
    seen: set[int] = set()
    separate = {}
    for name, t in tensors.items():
        separate[name] = t.clone() if t.data_ptr() in seen else t
        seen.add(t.data_ptr())
    return separate


def _to_device(value: Any, device: torch.device) -> Any:
    if isinstance(value, dict):
        return {k: _to_device(v, device) for k, v in value.items()}
    return value.to(device) if isinstance(value, torch.Tensor) else value


def _to_state(record: RecordDict) -> State:
    return from_records(cast(ArrayRecord, record["memory"]), cast(ConfigRecord, record["memory.values"]))


def _to_record(state: State) -> RecordDict:
    arrays, values = to_records(state)
    return RecordDict({"memory": arrays, "memory.values": values})
