"""Clients trained as one call are clients trained one after the other, but for the order of sums."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
import torch
from scripted_roles import client_of, shard_of
from small_runs import Stop, StopAfter, final_weights, play, same, without_seconds, write_experiment, write_strategy
from tiny_net import tiny_net

from fcil.errors import ConfigError, TrainingError
from fcil.federation import client as clients_side
from fcil.federation.context import Datasets
from fcil.federation.preconditions import remarks
from fcil.federation.runtime.vectorised import train_together
from fcil.federation.runtime.worker import Site
from fcil.nets import Net, NetSettings, build_net
from fcil.optimizer import OptimizerSettings
from fcil.roles import Client
from fcil.runs.plans import read
from fcil.types import Update
from strategies.finetune import Finetune

EVEN: dict[str, Any] = {"clients": 4, "rounds": 2, "stop_after": 2, "max_batches": 3, "batch_size": 8}
TOGETHER = "federation.clients_per_call=3"
NETS = {
    "tiny": lambda: tiny_net(),
    **{
        name: lambda name=name, norm=norm, width=width: build_net(
            NetSettings(name=name, norm=norm, width=width),
            shape=(3, 6, 6),
            num_classes=5,
            text_width=None,
            key=("net",),
        )
        for name, norm, width in (
            ("resnet8", "batch", 4),
            ("mlp", "none", 8),
            ("cnn", "group", 3),
            ("lenet5", "none", 3),
        )
    },
}


@pytest.fixture
def doubles() -> Iterator[None]:
    torch.set_default_dtype(torch.float64)
    yield
    torch.set_default_dtype(torch.float32)


@pytest.fixture
def groups(monkeypatch: pytest.MonkeyPatch) -> list[list[int]]:
    """The clients of each call."""
    calls: list[list[int]] = []

    def noted(clients: list[Client], *rest: Any) -> list[Update | None]:
        calls.append([client.index for client in clients])
        return train_together(clients, *rest)

    monkeypatch.setattr(clients_side, "train_together", noted)
    return calls


def clients_of(net: Net, count: int, images: int, **settings: Any) -> list[Client]:
    made: list[Client] = []
    for index in range(count):
        client = client_of(net, shard_of([i % 5 for i in range(images)], key=index), **settings)
        client.index = index
        made.append(client)
    return made


@pytest.mark.parametrize("name", NETS)
@pytest.mark.parametrize("optimizer", ["sgd", "adam"])
@pytest.mark.parametrize("images", [24, 22])
def test_in_float64_the_result_is_that_of_the_loop(name: str, optimizer: str, images: int, doubles: None) -> None:
    """With whole batches of 4, and with a smaller last batch of 2 that all have."""
    start = NETS[name]().double()
    settings = {"optimizer": OptimizerSettings(name=optimizer), "local_epochs": 2, "lr": 0.01}
    expected = []
    for client in clients_of(start, 3, images, **settings):
        net = NETS[name]().double()
        net.load(start.state_dict())
        client.net = net
        expected.append(Finetune().local_train(client))
    before = {key: t.clone() for key, t in start.state_dict().items()}
    together = clients_of(start, 3, images, **settings)
    got = train_together(together, Finetune().local_loss, Finetune().trainable(start))
    assert same(start.state_dict(), before)
    for ours, theirs in zip(got, expected, strict=True):
        assert ours is not None
        assert ours.num_examples == theirs.num_examples
        assert ours.metrics == pytest.approx(theirs.metrics, abs=1e-12)
        assert ours.weights.keys() == theirs.weights.keys()
        for key, weights in theirs.weights.items():
            assert ours.weights[key].dtype == weights.dtype
            torch.testing.assert_close(ours.weights[key], weights, rtol=0, atol=1e-12)
    assert not same(got[0].weights, got[1].weights)  # type: ignore[union-attr]


def test_tensors_that_are_not_trained_stay_as_they_are(doubles: None) -> None:
    net = tiny_net().double()
    (update, _) = train_together(clients_of(net, 2, 8), Finetune().local_loss, ["classifier.weight"])
    assert update is not None
    assert set(update.weights) == {"classifier.weight"}
    assert not torch.equal(update.weights["classifier.weight"], net.classifier.weight)


def test_a_loss_that_is_not_finite_is_left_to_the_client_alone() -> None:
    good, bad = clients_of(tiny_net(), 2, 8)
    bad.shard.images.x = bad.shard.images.x.float() * float("nan")
    updates = train_together([good, bad], Finetune().local_loss, Finetune().trainable(good.net))
    assert updates[0] is not None
    assert updates[1] is None


def even(folder: Path, **federation: Any) -> Path:
    data = {"dataset": "digits", "tasks": 5, "partition": "iid"}
    return write_experiment(folder, data=data, federation=EVEN | federation)


def test_a_run_is_that_of_clients_alone_within_rounding(tmp_path: Path, groups: list[list[int]]) -> None:
    source = even(tmp_path)
    alone, together = (play(source, *over, out=tmp_path / str(len(over)))[0] for over in ((), (TOGETHER,)))
    assert groups == [[0, 1, 2]] * 4
    one, other = final_weights(alone), final_weights(together)
    assert one.keys() == other.keys()
    for name, weights in one.items():
        torch.testing.assert_close(other[name], weights, rtol=1e-4, atol=1e-5)
    assert alone.path.parent.name != together.path.parent.name  # another hash: it rounds differently
    for ours, theirs in zip(together.rounds, alone.rounds, strict=True):
        assert ours["terms"] == pytest.approx(theirs["terms"], rel=1e-4)
        assert ours.keys() == theirs.keys()


def test_the_net_of_the_process_is_kept(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    made: list[int] = []
    build = Site._new_net
    monkeypatch.setattr(Site, "_new_net", lambda *given: made.append(1) or build(*given))
    play(even(tmp_path), TOGETHER, out=tmp_path / "out")
    assert len(made) == 1


def test_a_run_that_was_stopped_goes_on_to_the_bit(tmp_path: Path, groups: list[list[int]]) -> None:
    source = even(tmp_path)
    (whole,) = play(source, TOGETHER, out=tmp_path / "whole")
    with pytest.raises(Stop):
        play(source, TOGETHER, out=tmp_path / "resumed", observer=StopAfter(3))
    (resumed,) = play(source, TOGETHER, out=tmp_path / "resumed")
    assert groups
    assert same(final_weights(resumed), final_weights(whole))
    assert without_seconds(resumed) == without_seconds(whole)


def test_clients_of_other_numbers_of_images_are_trained_alone(tmp_path: Path, groups: list[list[int]]) -> None:
    data = {"partition": {"dirichlet": 0.5}}
    source = write_experiment(tmp_path, data=data, federation=EVEN | {"max_batches": None, "local_epochs": 1})
    alone, together = (play(source, *over, out=tmp_path / str(len(over)))[0] for over in ((), (TOGETHER,)))
    assert groups == []
    assert same(final_weights(alone), final_weights(together))
    (plan,) = read(source, [TOGETHER])[0].plans()
    (line,) = [line for line in remarks(Datasets().open(plan)) if "clients_per_call" in line]
    assert "8 of 8 clients of all tasks have batches of sizes that no other has, and are trained alone" in line


def test_a_client_whose_loss_is_not_finite_is_named(tmp_path: Path, groups: list[list[int]]) -> None:
    with pytest.raises(TrainingError, match=r'client 0, .*loss term "ce" became nan'):
        play(even(tmp_path), TOGETHER, "optimizer.lr=1e30", out=tmp_path / "out")
    assert groups[0] == [0, 1, 2]


def test_a_strategy_of_ones_own_is_trained_together_where_its_loss_is_plain(
    tmp_path: Path, groups: list[list[int]]
) -> None:
    own = """from dataclasses import dataclass
import torch.nn.functional as F
from fcil import Strategy

@dataclass(frozen=True, kw_only=True)
class Own(Strategy):
    def local_loss(self, client, batch):
        out = client.net(batch.x)
        return {"ce": F.cross_entropy(out.logits, batch.y), "small": out.features.square().mean()}
"""
    path = write_strategy(tmp_path, own, "own")
    line = f'federation.clients_per_call: 3 is not allowed: strategy "{path.stem}" does not vectorise'
    with pytest.raises(ConfigError, match=line):
        play(even(tmp_path), TOGETHER, f"strategy={path}", out=tmp_path / "out")
    write_strategy(tmp_path, own.replace("    def local", "    plain_loss = True\n\n    def local"), "own")
    play(even(tmp_path), TOGETHER, f"strategy={path}", out=tmp_path / "out")
    assert groups == [[0, 1, 2]] * 4


@pytest.mark.parametrize(
    ("override", "reason"),
    [
        ("federation.backend=ray", "it trains them in one process; set federation.backend: inprocess"),
        ("strategy=fedprox", 'strategy "fedprox" does not vectorise'),
        ("strategy=replay", 'strategy "replay" does not vectorise'),
        ("optimizer.precision=bf16", "optimizer.precision: bf16 does not vectorise"),
        ("optimizer.state=kept", "optimizer.state: kept is of each client alone"),
        ("optimizer.max_norm=1", "optimizer.max_norm is of each client's gradient alone"),
        ("net.memory_format=channels_last", "net.memory_format: channels_last does not vectorise"),
        ("resources.compile=graphs", "resources.compile: graphs captures the step of one client"),
    ],
)
def test_what_does_not_go_together_is_said_before_the_run(tmp_path: Path, override: str, reason: str) -> None:
    with pytest.raises(ConfigError, match=f"federation.clients_per_call: 3 is not allowed: {reason}"):
        play(even(tmp_path), TOGETHER, override, out=tmp_path / "out")
    assert not (tmp_path / "out").exists()
