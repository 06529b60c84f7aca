"""ShapeFormer in a federation: shapelets stay with the clients, or are sent where that is asked for."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest
import torch
import yaml
from series_files import waves, write_ts
from small_runs import final_weights

import fcil
from fcil.errors import FCILError
from fcil.federation import client as clients
from fcil.federation import server as servers
from fcil.nets.series import ShapeFormer
from fcil.training import train

BANK = "backbone.bank."


@pytest.fixture(autouse=True)
def _cache(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("FCIL_CACHE", str(tmp_path / "cache"))


def experiment(folder: Path, strategy: Any = "finetune", shapelets: dict[str, Any] | None = None, **more: Any) -> Path:
    names = ["jump", "lie", "run", "walk"]
    write_ts(folder, waves(9, names), waves(3, names, seed=1))
    written = {
        "name": "shapes",
        "seeds": [0],
        "data": {"dataset": "ts_folder", "root": str(folder), "tasks": 2, "partition": "iid"},
        "federation": {"clients": 2, "rounds": 2, "local_epochs": 1, "batch_size": 4, "backend": "inprocess"} | more,
        "net": {"name": "shapeformer", "width": 8, "shapelets": {"window": 3, "per_class": 2} | (shapelets or {})},
        "strategy": strategy,
        "resources": {"device": "cpu"},
    }
    path = folder / "shapes.yaml"
    path.write_text(yaml.safe_dump(written))
    return path


def run_folder(out: Path) -> Path:
    (folder,) = out.glob("*/*/seed0")
    return folder


def rounds(out: Path) -> list[dict[str, Any]]:
    return [json.loads(line) for line in (run_folder(out) / "rounds.jsonl").read_text().splitlines()]


def told(capsys: pytest.CaptureFixture[str]) -> str:
    """What was shown, without the breaks of its lines."""
    shown = capsys.readouterr()
    return " ".join((shown.out + shown.err).split())


@pytest.fixture
def seen(monkeypatch: pytest.MonkeyPatch) -> dict[str, list[Any]]:
    """The banks that clients trained with, and the names that came to the server and of its net."""
    noted: dict[str, list[Any]] = {"banks": [], "sent": [], "server": []}
    keep, evaluate, read = clients.keep_bank, servers.evaluate, servers.read_update

    def keep_bank(net: Any, memory: Any) -> None:
        bank = net.backbone.bank
        noted["banks"].append([] if bank.place is None else bank.place[:, 3].tolist())
        keep(net, memory)

    def reading(reply: Any, expected: Any) -> Any:
        update = read(reply, expected)
        noted["sent"].append(set() if update is None else set(update.weights))
        return update

    def evaluating(server: Any, *rest: Any) -> Any:
        noted["server"].append(server.net)
        return evaluate(server, *rest)

    monkeypatch.setattr(clients, "keep_bank", keep_bank)
    monkeypatch.setattr(servers, "read_update", reading)
    monkeypatch.setattr(servers, "evaluate", evaluating)
    return noted


def test_shapelets_stay_with_the_clients_that_found_them(
    tmp_path: Path, seen: dict[str, list[Any]], capsys: pytest.CaptureFixture[str]
) -> None:
    fcil.run(experiment(tmp_path), out=tmp_path / "out")
    first, second = [0, 0, 1, 1], [0, 0, 1, 1, 2, 2, 3, 3]
    assert seen["banks"] == [first] * 4 + [second] * 4  # two clients, two rounds
    assert not any(name.startswith(BANK) and "." not in name[len(BANK) :] for names in seen["sent"] for name in names)
    assert seen["sent"]
    assert "backbone.encoder.first.weight" in seen["sent"][0]
    assert all(net.backbone.bank.place is None for net in seen["server"])
    assert "the server evaluates the generic branch alone" in told(capsys)
    assert not any("shapelets_sent" in line for line in rounds(tmp_path / "out"))


def test_a_client_trains_its_own_tokens_from_round_to_round(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    kept: list[tuple[int, torch.Tensor, torch.Tensor]] = []
    bring = clients.bring_bank

    def bring_bank(net: Any, memory: Any, shard: Any, generator: torch.Generator) -> Any:
        before = memory.get("shapelets", {}).get("values")
        private = bring(net, memory, shard, generator)
        kept.append((len(shard), before, private[f"{BANK}values"]))
        return private

    monkeypatch.setattr(clients, "bring_bank", bring_bank)
    fcil.run(experiment(tmp_path, stop_after=1), out=tmp_path / "out")
    (_, none, a1), (_, _, b1), (_, a2, again), (_, b2, _) = kept
    assert none is None
    assert torch.equal(a2, again)
    assert a1.shape == a2.shape
    assert not torch.equal(a1, a2)
    assert not torch.equal(a2, b2), "each client has its own"
    assert not torch.equal(a1, b1)


def test_shapelets_are_sent_where_it_is_asked_for_and_counted(
    tmp_path: Path, seen: dict[str, list[Any]], capsys: pytest.CaptureFixture[str]
) -> None:
    fcil.run(experiment(tmp_path, shapelets={"share_shapelets": True}), out=tmp_path / "out")
    backbone = seen["server"][-1].backbone
    assert isinstance(backbone, ShapeFormer)
    assert backbone.bank.place[:, 3].tolist() == [0, 0, 1, 1, 2, 2, 3, 3]
    assert f"{BANK}values" in seen["sent"][-1]
    sent = [line.get("shapelets_sent") for line in rounds(tmp_path / "out") if "round" in line]
    assert sent == [8, None, 8, None]  # two clients, two classes, two of each
    log = (run_folder(tmp_path / "out") / "log.txt").read_text()
    assert "raw pieces of the clients' series" in told(capsys)
    assert "task 2: clients sent 8 shapelets" in log


LEAK = '''"""Sends what stays with a client."""
from dataclasses import dataclass
from fcil.strategy import Strategy


@dataclass(frozen=True, kw_only=True)
class Leak(Strategy):
    """Sends all there is."""

    def trainable(self, net):
        return list(net.state_dict())

    def local_train(self, client):
        return client.train(self.local_loss, self.trainable(client.net))
'''


def test_a_strategy_that_sends_them_ends_the_run(tmp_path: Path) -> None:
    (tmp_path / "leak.py").write_text(LEAK)
    path = experiment(tmp_path, str(tmp_path / "leak.py"))
    with pytest.raises(FCILError, match=r'sends "backbone\.bank\.bias", which holds pieces of its samples'):
        fcil.run(path, out=tmp_path / "out")


@pytest.mark.parametrize("strategy", ["fedprox", "fedewc", "replay", "joint"])
def test_methods_play_with_banks_of_their_clients(tmp_path: Path, strategy: str) -> None:
    (run,) = fcil.run(experiment(tmp_path, strategy), out=tmp_path / "out")
    assert len(run.accuracy) == 3


def test_a_run_cut_short_goes_on_as_one_that_was_not(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    path = experiment(tmp_path, shapelets={"silent": 0.5})
    fcil.run(path, out=tmp_path / "whole")
    played = []
    trained = clients._trained

    def breaks(call: Any) -> Any:
        played.append(call)
        if len(played) == 6:  # in the second task
            raise KeyboardInterrupt
        return trained(call)

    with monkeypatch.context() as patch:
        patch.setattr(clients, "_trained", breaks)
        with pytest.raises((KeyboardInterrupt, FCILError)):
            fcil.run(path, out=tmp_path / "cut")
    assert len(played) == 6
    fcil.run(path, out=tmp_path / "cut")
    digests = [[line["weights"] for line in rounds(tmp_path / part) if "round" in line] for part in ("whole", "cut")]
    assert digests[0] == digests[1]
    assert (run_folder(tmp_path / "whole") / "accuracy.csv").read_text() == (
        run_folder(tmp_path / "cut") / "accuracy.csv"
    ).read_text()


def test_a_central_training_has_the_shapelets_in_its_net(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    names = ["lie", "walk"]
    write_ts(tmp_path, waves(9, names), waves(3, names, seed=1))
    source = {
        "name": "whole",
        "data": {"dataset": "ts_folder", "root": str(tmp_path)},
        "train": {"epochs": 2, "batch_size": 4},
        "net": {"name": "shapeformer", "width": 8, "shapelets": {"window": 3, "per_class": 2}},
        "resources": {"device": "cpu"},
    }
    (run,) = train(source, out=tmp_path / "out")
    assert final_weights(run)[f"{BANK}place"].shape == (4, 4)
    assert "pieces" not in told(capsys)
    assert "4 shapelets found" in (run.path / "log.txt").read_text()
