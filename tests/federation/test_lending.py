"""Answers are read in the memory of the net that was trained, and stay as they are for as long as they are kept."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
import torch
from grid_cases import ask, plan_of, weights
from small_runs import final_weights, play, same, write_experiment, write_strategy
from torch import nn

from fcil.errors import LeakError, TrainingError
from fcil.federation.client import client_app
from fcil.federation.grids import InProcessGrid
from fcil.federation.runtime import lending
from fcil.federation.runtime.lending import Lent
from fcil.federation.runtime.worker import Sites

STRATEGY = """from dataclasses import dataclass
import torch
from fcil import Strategy, Update, weighted_mean

@dataclass(frozen=True, kw_only=True)
class Own(Strategy):
    def local_train(self, client):
        LOCAL

    def aggregate(self, server, updates):
        AGGREGATE
"""
LOCAL, AGGREGATE = "return super().local_train(client)", "return super().aggregate(server, updates)"
LENDS = "return client.train(self.local_loss, self.trainable(client.net), lend=True)"


def run_of(folder: Path, local: str = LOCAL, aggregate: str = AGGREGATE, *overrides: str) -> Any:
    own = write_strategy(folder, STRATEGY.replace("LOCAL", local).replace("AGGREGATE", aggregate), "own")
    federation = {"clients": 4, "stop_after": 1}
    return play(write_experiment(folder, strategy=str(own), federation=federation), *overrides, out=folder / "out")[0]


def pointers(tensors: dict[str, torch.Tensor]) -> set[int]:
    return {t.untyped_storage().data_ptr() for t in tensors.values()}


# The memory of the net ---------------------------------------------------------------------------


def test_an_answer_lies_in_the_net_and_is_not_overwritten_while_it_is_kept(tmp_path: Path) -> None:
    plan, sites = plan_of(tmp_path), Sites()
    grid = InProcessGrid(client_app(sites), plan.federation.clients)

    def answer(client: int) -> dict[str, torch.Tensor]:
        return weights(ask(plan, grid, [client])[client])

    kept = answer(0)
    net = sites.of(ask_text(plan)).net
    assert net is not None
    assert pointers(kept) == pointers(net.state_dict())
    copy = {name: t.clone() for name, t in kept.items()}
    others = [answer(1), answer(2)]
    assert same(kept, copy)
    assert not pointers(kept) & pointers(others[0])
    assert not same(kept, others[0])
    assert not pointers(others[0]) & pointers(others[1])
    used = pointers(kept) | pointers(others[0]) | pointers(others[1])
    last = {name: t.clone() for name, t in others[1].items()}
    del kept, others
    assert pointers(answer(1)) <= used  # no new memory where none is held
    assert same(answer(2), last)


def ask_text(plan: Any) -> str:
    return str(plan.to_json())


@pytest.mark.parametrize("keeper", ["view", "array", "graph"])
def test_whatever_refers_to_a_net_keeps_its_memory(keeper: str) -> None:
    net, lent = nn.Linear(3, 2), Lent()
    before = net.weight.data_ptr()
    lent.part(net)
    assert net.weight.data_ptr() == before
    content = net.weight.detach().clone()
    keepers: dict[str, Any] = {
        "view": lambda: net.weight[1:],
        "array": lambda: net.weight.detach().numpy(),
        "graph": lambda: net.weight.t() @ torch.ones(2, requires_grad=True),
    }
    kept = {keeper: keepers[keeper]()}
    lent.part(net)
    moved = net.weight.data_ptr()
    assert moved != before
    assert net.bias.data_ptr() != moved
    with torch.no_grad():
        net.weight.fill_(7)
    if keeper != "graph":
        assert torch.equal(torch.as_tensor(kept[keeper]), content[1:] if keeper == "view" else content)
    del kept
    other = net.weight.detach()
    lent.part(net)
    assert net.weight.data_ptr() == before  # let go of, and used again
    assert torch.equal(other, torch.full((2, 3), 7.0))


def test_where_pytorch_does_not_tell_who_reads_it_each_client_gets_memory_of_its_own(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (told := tmp_path / "told").mkdir()
    expected = final_weights(run_of(told).path)
    monkeypatch.setattr(lending, "_references", lambda storage: 10**6)
    (untold := tmp_path / "untold").mkdir()
    assert same(final_weights(run_of(untold, LENDS).path), expected)


# Strategies ---------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("local", "aggregate"),
    [
        (LENDS, AGGREGATE),
        ("sent = super().local_train(client); return Update(client.net.state_dict(), sent.num_examples)", AGGREGATE),
        (LENDS, "return super().aggregate(server, [*updates])"),
        (LENDS, "kept = [*updates]; return super().aggregate(server, (u for u in kept))"),
        ("update = super().local_train(client); client.net.classifier.weight.data.zero_(); return update", AGGREGATE),
        ("update = super().local_train(client); super().local_train(client); return update", AGGREGATE),
    ],
)
def test_the_weights_are_those_of_copies(tmp_path: Path, local: str, aggregate: str) -> None:
    (plain := tmp_path / "plain").mkdir()
    assert same(final_weights(run_of(tmp_path, local, aggregate).path), final_weights(run_of(plain).path))


def test_a_net_that_was_lent_may_not_be_changed(tmp_path: Path) -> None:
    changes = LENDS.replace("return", "update =") + "; client.net.classifier.bias.detach().add_(1); return update"
    with pytest.raises(TrainingError, match=r"changes client.net after train\(..., lend=True\)"):
        run_of(tmp_path, changes)


@pytest.mark.parametrize("backend", ["inprocess", "ray"])
def test_a_write_into_what_all_clients_read_ends_the_run(tmp_path: Path, backend: str) -> None:
    writes = f"client.start['classifier.bias'].zero_(); {LOCAL}"
    with pytest.raises(LeakError, match=r"client.start is not as it was; other clients read it too"):
        run_of(tmp_path, writes, AGGREGATE, f"federation.backend={backend}")


@pytest.mark.parametrize("rule", ["median", "mean"])
def test_lent_answers_give_the_same_weights_on_ray(tmp_path: Path, rule: str) -> None:
    found = []
    for backend in ("inprocess", "ray"):
        (folder := tmp_path / backend).mkdir()
        chosen = f"federation.aggregation={rule}", f"federation.backend={backend}"
        found.append(final_weights(run_of(folder, LENDS, AGGREGATE, *chosen).path))
    assert same(*found)
