"""Plays real experiments that take a fraction of a second: digits, two tasks, a net of a few thousand weights."""

from __future__ import annotations

import io
import os
from collections.abc import Iterator
from contextlib import contextmanager, nullcontext
from functools import cache
from pathlib import Path
from typing import Any

import pytest
import torch
import yaml
from rich.console import Console

import fcil
from fcil import store
from fcil.federation.observer import Observer
from fcil.federation.persistence.manifest import last_parts
from fcil.io.blobs import Parts
from fcil.io.state import flatten
from fcil.store import Run
from fcil.store.provenance import provenance
from fcil.types import State, Tensors

SETTINGS: dict[str, Any] = {
    "name": "tiny",
    "data": {"dataset": "digits", "tasks": 5},
    "federation": {
        "clients": 2,
        "rounds": 2,
        "local_epochs": 1,
        "batch_size": 16,
        "backend": "inprocess",
        "checkpoint_every": 1,
        "stop_after": 2,
        "max_batches": 2,
    },
    "net": {"name": "resnet8", "width": 4},
    "strategy": "finetune",
    "resources": {"device": "cpu"},
}
NAYER: dict[str, Any] = {
    "rounds": 2,
    "warmup": 1,
    "steps": 2,
    "batch_size": 10,
    "samples": 20,
    "width": 4,
    "latent": 8,
    "rows_per_layer": 5,
    "student_steps": 2,
}
LANDER = {"lander": {"synthesizer": {"nayer": NAYER}}}

REMEMBERS = '''"""Uses all that a resumed run must have again: memory, memo, what is shared, updates after a task."""

from dataclasses import dataclass

import torch
import torch.nn.functional as F

from fcil import Strategy, Update


@dataclass(frozen=True, kw_only=True)
class Remembers(Strategy):
    pull: float = 0.1
    """Weight of the way back to what the client had last."""

    def local_loss(self, client, batch):
        terms = {"ce": F.cross_entropy(client.net(batch.x).logits, batch.y)}
        if "last" in client.memory:
            last = client.memory["last"]["weight"]
            own = client.net.classifier.weight[: len(last)]
            terms["pull"] = self.pull * client.memory["rounds"] * F.mse_loss(own, last)
        return terms

    def local_train(self, client):
        update = super().local_train(client)
        client.memory["rounds"] = client.memory.get("rounds", 0) + 1
        # Not a copy: the engine must not let the next client overwrite it.
        client.memory["last"] = {"weight": client.net.classifier.weight, "empty": {}, "note": "x"}
        return update

    def after_local_task(self, client):
        drawn = torch.rand((), generator=client.generator("after"))
        return Update({"told": torch.stack([torch.tensor(client.memory["rounds"] + client.index), drawn])}, 1)

    def aggregate(self, server, updates):
        mean = super().aggregate(server, updates)
        server.memo["count"] = server.memo.get("count", 0) + 1
        server.shared["centre"] = {"weight": server.net.classifier.weight.detach() * server.memo["count"]}
        return mean

    def after_task(self, server, updates):
        drawn = torch.rand(2, generator=server.generator("after"))
        server.shared["told"] = torch.stack([*(u.weights["told"] for u in updates), drawn])
'''


def write_strategy(folder: Path, source: str = REMEMBERS, name: str = "remembers") -> Path:
    path = folder / f"{name}.py"
    path.write_text(source, encoding="utf-8")
    return path


def write_experiment(folder: Path, **parts: Any) -> Path:
    """The settings above as a file; mappings are merged into them, anything else replaces them."""
    settings = {**SETTINGS}
    for key, value in parts.items():
        alike = isinstance(value, dict) and isinstance(settings.get(key), dict) and key != "strategy"
        settings[key] = {**settings[key], **value} if alike else value
    path = folder / "tiny.yaml"
    path.write_text(yaml.safe_dump(settings, sort_keys=False), encoding="utf-8")
    return path


@cache
def _provenance(folder: str) -> dict[str, Any]:
    """Which code runs, asked of git once for each working directory."""
    return provenance()


@contextmanager
def silently(observer: Observer | None = None) -> Iterator[None]:
    """Runs draw no figures, which take longer than all the rest, and tell `observer` instead of a progress view."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr("fcil.runs.play.draw_run", lambda path: [])
        patch.setattr("fcil.store.environment.provenance", lambda: _provenance(os.getcwd()))
        for name in ("draw_comparison", "draw_missing", "draw_missing_comparison"):
            patch.setattr(f"fcil.runs.completion.{name}", lambda *_: [])
        patch.setattr("fcil.runs.play.choose_progress", lambda console: nullcontext(observer or Observer()))
        yield


def play(source: Path, *overrides: str, out: Path, observer: Observer | None = None, smoke: bool = False) -> list[Run]:
    with silently(observer):
        return fcil.run(source, *overrides, out=out, smoke=smoke, console=Console(file=io.StringIO()))


class Stop(KeyboardInterrupt):
    """What `StopAfter` raises; like an interrupt it is no error, and nothing takes it for one of a strategy."""


class StopAfter(Observer):
    """Ends a run when it tells of an event for so many a time, before what led to it is saved."""

    def __init__(self, count: int, event: str = "round_done", reason: type[BaseException] = Stop) -> None:
        self.left, self.reason = count, reason
        setattr(self, event, self._count)

    def _count(self, *_: Any) -> None:
        self.left -= 1
        if not self.left:
            raise self.reason


def checkpoint(run: Run | Path) -> tuple[Tensors, dict[str, Any]]:
    """Tensors by name of the last checkpoint, and its scalars and the content hashes of its parts."""
    folder = _path(run) / "checkpoints"
    parts = last_parts(folder)
    state: State = {}
    for name, part in parts.items():
        found = Parts(folder / "parts").get(part)
        kind, _, rest = name.partition("/")
        if kind == "shared":
            state.setdefault("shared", {})[rest] = found[rest]
        elif kind == "clients":
            state.setdefault("clients", {})[rest] = found["memory"]
        else:
            state[name] = found[name]
    tensors, scalars = flatten(state)
    return tensors, {"scalars": scalars, "parts": parts}


def final_weights(run: Run | Path) -> Tensors:
    return store.final_weights(_path(run))


def _path(run: Run | Path) -> Path:
    return run if isinstance(run, Path) else run.path


def same(a: Tensors, b: Tensors) -> bool:
    """Equal to the bit, name for name."""
    return a.keys() == b.keys() and all(torch.equal(a[name], b[name]) for name in a)


def without_seconds(run: Run) -> list[dict[str, Any]]:
    """The lines of `rounds.jsonl`, but for what a clock says."""
    return [{k: v for k, v in record.items() if k != "seconds"} for record in run.rounds]
