"""`resources.compile: graphs` where there is no GPU: it is said, and the run is to the bit what it was.

What a GPU would do is done by a stand-in: its replay runs the step again, on the memory that was captured.
"""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import pytest
import torch
from scripted_roles import client_of, shard_of
from small_runs import final_weights, play, same, write_experiment
from tiny_net import tiny_net

import fcil
from fcil import Strategy
from fcil.errors import ConfigError
from fcil.federation import preconditions
from fcil.federation.context import Datasets
from fcil.federation.observer import Observer
from fcil.federation.preconditions import remarks
from fcil.federation.runtime import graphs
from fcil.federation.runtime.graphs import WARM_UP, CapturedSteps, obstacle
from fcil.runs.plans import read
from fcil.types import Batch, Step, Terms, Update
from strategies.fedprox import FedProx
from strategies.finetune import Finetune
from strategies.replay import Replay

GRAPHS = "resources.compile=graphs"
LABELS = [0, 1, 2, 3, 4] * 6
STEPS = [*[4] * 7, 2] * 2
"""Sizes of the batches of two passes over them: 4, and the rest at the end of each."""


class Notes(Observer):
    def __init__(self) -> None:
        self.lines: list[str] = []

    def note(self, line: str) -> None:
        self.lines.append(line)


@pytest.fixture
def replayed(monkeypatch: pytest.MonkeyPatch) -> list[int]:
    """Put the stand-in in place of CUDA, and return the sizes of the batches of the steps that were replayed."""
    sizes: list[int] = []

    def captured(self: CapturedSteps, step: Step, inputs: Batch) -> Callable[[], object]:
        def replay() -> None:
            sizes.append(len(inputs.y))
            self._results = step(inputs)

        return replay

    monkeypatch.setattr(CapturedSteps, "_captured", captured)
    monkeypatch.setattr(graphs, "_beside", lambda step, batch, device: step(batch))
    return sizes


def trained(captured: CapturedSteps | None = None) -> Update:
    client = client_of(tiny_net(), shard_of(LABELS), local_epochs=2)
    client.capture = None if captured is None else captured.of
    return Finetune().local_train(client)


def test_a_value_that_is_not_there_is_one_line() -> None:
    with pytest.raises(ConfigError, match=r"resources\.compile: 'graph' is not allowed; .*graphs"):
        read({"name": "x", "data": {"dataset": "digits"}, "strategy": "finetune", "resources": {"compile": "graph"}})


def test_without_a_gpu_the_run_is_what_it_was(tmp_path: Path) -> None:
    source = write_experiment(tmp_path)
    plain, captured = (play(source, *over, out=tmp_path / str(len(over)))[0] for over in ((), (GRAPHS,)))
    assert same(final_weights(captured), final_weights(plain))
    assert captured.path.relative_to(tmp_path / "1") == plain.path.relative_to(tmp_path / "0")  # the hash of settings


@pytest.mark.parametrize(
    ("strategy", "optimizer", "on_gpu", "reason"),
    [
        (Finetune(), "sgd", False, "clients train on a CPU"),
        (Strategy(), "sgd", False, "clients train on a CPU"),
        (FedProx(), "sgd", True, "the strategy's step reads more of a client than its net, task and batch"),
        (Replay(), "sgd", True, "the strategy's step reads more of a client than its net, task and batch"),
        (Finetune(), "adam", True, "optimizer.name adam counts its steps on the host; sgd does not"),
        (Finetune(), "sgd", True, None),
        (Strategy(), "sgd", True, None),
    ],
)
def test_what_keeps_a_step_from_being_captured(
    strategy: Strategy, optimizer: str, on_gpu: bool, reason: str | None
) -> None:
    assert obstacle(strategy, optimizer, on_gpu) == reason


def test_a_loss_of_its_own_has_to_say_that_it_is_plain() -> None:
    class Heir(Finetune):
        def local_loss(self, client: fcil.Client, batch: Batch) -> Terms:
            return super().local_loss(client, batch)

    class Plain(Heir):
        plain_loss = True
        local_loss = Finetune.local_loss

    assert not Heir.takes_plain_steps()
    assert Plain.takes_plain_steps()


def test_the_reason_is_said_before_the_run(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def said(*overrides: str, strategy: str = "finetune") -> list[str]:
        (plan,) = read(write_experiment(tmp_path, strategy=strategy), overrides)[0].plans()
        lines = remarks(Datasets().open(plan))
        return [line for line in lines if "resources.compile" in line]

    assert said() == []
    line = "resources.compile: graphs is not used, steps run as ever: clients train on a CPU"
    assert said(GRAPHS) == said(GRAPHS, "resources.device=auto") == [line]
    monkeypatch.setattr(preconditions.torch.cuda, "is_available", lambda: True)
    assert said(GRAPHS, "resources.device=auto") == []
    assert "reads more of a client" in said(GRAPHS, "resources.device=auto", strategy="fedprox")[0]


def test_replayed_steps_train_the_same_net(replayed: list[int]) -> None:
    plain, captured = trained(), trained(CapturedSteps(torch.device("cpu")))
    assert same(captured.weights, plain.weights)
    assert captured.metrics == plain.metrics
    assert replayed == [4] * (STEPS.count(4) - WARM_UP)  # the last batch of a pass is smaller, and trained as ever


def test_a_step_that_cannot_be_captured_is_taken_as_ever(replayed: list[int], monkeypatch: pytest.MonkeyPatch) -> None:
    def refused(self: CapturedSteps, step: Step, inputs: Batch) -> Callable[[], object]:
        raise RuntimeError("operation not permitted when stream is capturing\nand a hint")

    plain, captured = trained(), CapturedSteps(torch.device("cpu"))
    monkeypatch.setattr(CapturedSteps, "_captured", refused)
    update = trained(captured)
    assert same(update.weights, plain.weights)
    assert update.metrics == plain.metrics
    assert captured.problem == "operation not permitted when stream is capturing"
    assert replayed == []


def test_a_capture_that_fails_is_in_the_log_of_the_run(
    tmp_path: Path, replayed: list[int], monkeypatch: pytest.MonkeyPatch
) -> None:
    def refused(self: CapturedSteps, step: Step, inputs: Batch) -> Callable[[], object]:
        raise RuntimeError("no such kernel")

    monkeypatch.setattr(CapturedSteps, "_captured", refused)
    monkeypatch.setattr("fcil.federation.client.obstacle", lambda *_: None)
    notes = Notes()
    federation = {"max_batches": WARM_UP + 1, "rounds": 1, "stop_after": 1, "mods": ["arrays_size"]}
    play(write_experiment(tmp_path, federation=federation), GRAPHS, out=tmp_path / "out", observer=notes)
    assert "client 1: resources.compile: no step was captured: no such kernel" in notes.lines
    assert any("Outgoing" in line for line in notes.lines)
