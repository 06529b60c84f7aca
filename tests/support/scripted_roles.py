"""Clients and servers for tests of strategies: given batches, small shards, and golden client updates."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from itertools import cycle
from pathlib import Path
from typing import Any

import pytest
import torch
from golden_vectors import Case, assert_matches
from small_runs import Stop, StopAfter, checkpoint, play, same, without_seconds, write_experiment
from tiny_net import normal, renamed
from torch import Tensor

from fcil import Batch, Client, Server, Strategy, Terms, Update
from fcil.data import MemoryImages, Shard
from fcil.nets import Net, frozen
from fcil.optimizer import OptimizerSettings
from fcil.roles import ServerServices
from fcil.store import Run
from fcil.types import Task


def shard_of(labels: Sequence[int], key: int = 0, first_of: Sequence[int] = ()) -> Shard:
    """Small random images with these labels; `first_of` gives the task of every class, all 1 by default."""
    y = torch.tensor(labels, dtype=torch.int64)
    pixels = (normal(len(labels), 3, 6, 6, key=key) * 40 + 128).clamp(0, 255).to(torch.uint8)
    tasks = torch.tensor([first_of[label] if first_of else 1 for label in labels], dtype=torch.int64)
    images = MemoryImages(pixels, y)
    return Shard(images, torch.arange(len(y)), y, tasks, (0.5,) * 3, (0.25,) * 3, None, torch.device("cpu"))


class ScriptedClient(Client):
    """A client whose batches are given, the same in every epoch, and whose synthetic batches are taken in turn.

    Where none are given, those of its shard and of what is shared take their place.
    """

    real: list[Batch]
    synthetic: Iterator[Tensor] | None
    asked: list[tuple[str, int]]

    def batches(self, epoch: int) -> Iterator[Batch]:
        yield from self.real[: self.max_batches] or super().batches(epoch)

    def draw(self, name: str, count: int) -> Tensor:
        self.asked.append((name, count))
        return super().draw(name, count) if self.synthetic is None else next(self.synthetic)


def client_of(
    net: Net,
    shard: Any,
    *,
    old: int = 0,
    real: Sequence[Batch] = (),
    synthetic: Sequence[Tensor] | None = None,
    teacher: Net | None = None,
    **settings: Any,
) -> ScriptedClient:
    """A client of task 2 where classes are old, of task 1 else; `teacher` is what the server shares."""
    seen = net.num_classes
    client = ScriptedClient(
        index=0,
        task=Task(2 if old else 1, 3, old, seen - old, tuple(map(str, range(seen)))),
        round=1,
        net=net,
        shard=shard,
        **{"shared": {}, "memory": {}, "seed": 0, "lr": 0.04, "local_epochs": 1, "batch_size": 4} | settings,
        **({} if "optimizer" in settings else {"optimizer": OptimizerSettings()}),
        device=torch.device("cpu"),
        frozen_net={"teacher": frozen(teacher)}.__getitem__ if teacher else {}.__getitem__,
        start=net.weights(),
    )
    client.real, client.asked = list(real), []
    client.synthetic = None if synthetic is None else cycle(synthetic)
    return client


class Synthesising(ServerServices):
    """Of a server whose syntheses are made by a function."""

    def __init__(self, synthesize: Callable[..., Any]) -> None:
        self._synthesize = synthesize

    def synthesize(self, *what: Any) -> Any:
        return self._synthesize(*what)


def server_of(
    net: Any,
    *,
    task: int = 1,
    tasks: int = 3,
    old: int = 0,
    seen: int | None = None,
    anchors: Tensor | None = None,
    synthesize: Callable[..., Any] = lambda *_: {},
) -> Server:
    """A server in the first round of a task; `seen` counts the classes of a net that does not say."""
    seen = net.num_classes if seen is None else seen
    about = Task(task, tasks, old, seen - old, tuple(map(str, range(seen))))
    return Server(net, about, 1, 0, 3, anchors, Synthesising(synthesize))


def gradient(term: Tensor, parameter: Tensor) -> Tensor | None:
    (got,) = torch.autograd.grad(term, parameter, retain_graph=True, allow_unused=True)
    return got


def check_logits_are_moved_apart(client: Client, terms: Terms) -> None:
    """`ce` moves the logits of new classes alone, `kd` those of the two old ones alone."""
    weight = client.net.classifier.weight
    new, old = gradient(terms["ce"], weight), gradient(terms["kd"], weight)
    assert not new[:2].any()
    assert new[2:].any(dim=1).all()
    assert not old[2:].any()
    assert old[:2].any(dim=1).all()


def watched(strategy: Strategy, steps: list[Terms]) -> Strategy:
    """The same strategy, which notes the terms of every step."""
    inner = strategy.local_loss

    def local_loss(client: Client, batch: Batch) -> Terms:
        terms = inner(client, batch)
        steps.append({name: term.detach() for name, term in terms.items()})
        return terms

    object.__setattr__(strategy, "local_loss", local_loss)
    return strategy


def check_final(case: Case, update: Update) -> None:
    """Weights and buffers after a golden client update."""
    expected = renamed(case.under("expected.final"))
    assert update.weights.keys() == expected.keys()
    for name, value in expected.items():
        assert_matches(update.weights[name], value, case.tolerance, name)


# Whole runs ------------------------------------------------------------------------------------


def tiny(folder: Path, strategy: Any, **federation: Any) -> Path:
    folder.mkdir(exist_ok=True)
    few = {"validation": 0.8}  # a fifth of the images is left to train on
    return write_experiment(folder, strategy=strategy, data=few, federation={"stop_after": 3, **federation})


def check_runs(tmp_path: Path, strategy: Any) -> Run:
    """A tiny run of three tasks is finite, repeatable, and goes on from where it was stopped; returns one."""
    source = tiny(tmp_path, strategy, rounds=1)
    (run,), (again,) = (play(source, out=tmp_path / name) for name in ("one", "two"))
    numbers = [number for record in run.rounds for number in record["terms"].values()]
    assert numbers
    assert torch.tensor(numbers).isfinite().all()
    with pytest.raises(Stop):
        play(source, out=tmp_path / "three", observer=StopAfter(2))  # in the second task
    (resumed,) = play(source, out=tmp_path / "three")
    for other in (again, resumed):
        assert same(checkpoint(run)[0], checkpoint(other)[0])
        assert checkpoint(run)[1]["scalars"] == checkpoint(other)[1]["scalars"]
        assert without_seconds(run) == without_seconds(other)
    return run


def memories(run: Run, name: str) -> dict[int, dict[str, Tensor]]:
    """What every client keeps under a name at the end of a run."""
    found: dict[int, dict[str, Tensor]] = {}
    for path, tensor in checkpoint(run)[0].items():
        where = path.split("/")
        if where[0] == "clients" and where[2] == name:
            found.setdefault(int(where[1]), {})[where[3]] = tensor
    return found
