"""The mean of clients' updates, and what a strategy does unless it is told otherwise."""

from __future__ import annotations

from dataclasses import dataclass
from types import SimpleNamespace

import pytest
import torch
from golden_vectors import assert_matches, load_case
from scripted_roles import client_of, shard_of
from tiny_net import normal, tiny_net
from torch import nn

from fcil import Server, Strategy, Update, weighted_mean
from fcil.averaging import set_aside
from fcil.errors import TrainingError
from fcil.rng import generator, seeded
from fcil.synthesis.common.base import Synthesizer
from fcil.synthesis.nayer import NAYER
from fcil.types import Task, Tensors


@pytest.mark.parametrize(("weighting", "golden"), [("uniform", "average"), ("examples", "sample_weighted")])
def test_the_mean_matches_the_reference(weighting, golden):
    case = load_case("10_fedavg_average")
    counts = case.tensors["inputs.sample_counts"].tolist()
    updates = [Update(case.under(f"inputs.client{k}"), n) for k, n in enumerate(counts)]
    mean = weighted_mean(iter(updates), weighting)
    expected = case.under(f"expected.{golden}")
    assert mean.weights.keys() == expected.keys()
    for name, value in expected.items():
        assert_matches(mean.weights[name], value, case.tolerance, name)
    assert mean.num_examples == sum(counts)


def test_the_updates_are_read_once_and_left_as_they_were():
    weights = [torch.full((3,), float(k)) for k in range(4)]
    mean = weighted_mean((Update({"w": w}, 1, {"loss": float(k)}) for k, w in enumerate(weights)), "examples")
    assert torch.equal(mean.weights["w"], torch.full((3,), 1.5))
    assert [w[0].item() for w in weights] == [0, 1, 2, 3]


def test_a_metric_is_the_plain_mean_over_the_updates_that_hold_it():
    updates = [Update({"w": torch.zeros(1)}, n, m) for n, m in [(1, {"a": 1.0}), (9, {"a": 2.0, "b": 5.0})]]
    assert weighted_mean(updates, "examples").metrics == {"a": 1.5, "b": 5.0}


def test_a_client_without_examples_has_no_say_unless_all_have_the_same():
    updates = [Update({"w": torch.tensor([1.0])}, 0), Update({"w": torch.tensor([3.0])}, 4)]
    assert weighted_mean(updates, "examples").weights["w"].item() == 3
    assert weighted_mean(updates, "uniform").weights["w"].item() == 2


def test_what_is_sent_beside_the_net_is_set_aside_and_not_averaged():
    sent = [Update({"w": torch.tensor([float(k)]), "beside/g": torch.tensor([10.0 + k])}, 1 + k) for k in range(3)]
    aside: list[Tensors] = []
    mean = weighted_mean(set_aside(sent, "beside/", aside))
    assert mean.weights.keys() == {"w"}
    assert mean.num_examples == 6
    assert [a["g"].item() for a in aside] == [10, 11, 12]
    assert all(a.keys() == {"g"} for a in aside)


def test_a_client_builds_what_the_server_shares_and_leaves_the_global_stream_alone():
    with seeded("server"):
        shared = nn.Linear(2, 2)
    client = client_of(tiny_net(), shard_of([0]), shared={"generator": shared.state_dict()})
    before = torch.get_rng_state()
    built = client.built("generator", lambda: nn.Sequential(nn.Linear(2, 2))[0])
    assert torch.equal(before, torch.get_rng_state())
    assert torch.equal(built.weight, shared.weight)
    assert not built.training
    assert not built.weight.requires_grad
    assert client.built("generator", lambda: nn.Linear(2, 2)) is built
    with torch.no_grad():
        built.weight.zero_()
    assert shared.weight.any()  # its own copy


def test_a_client_keeps_no_more_images_than_the_federation_allows():
    client = client_of(tiny_net(), shard_of([0, 1, 2, 0, 1]), most_exemplars=3)
    client.memory["notes"] = {"a": 1}
    client.keep("few", client.shard.select(torch.tensor([0, 1])))
    client.keep("few", client.shard.select(torch.tensor([2, 3, 4])))  # replaces them
    with pytest.raises(TrainingError, match=r"keeps 4 samples of a client; federation.exemplars allows 3"):
        client.keep("more", client.shard.select(torch.tensor([0])))
    assert set(client.memory) == {"notes", "few"}


@pytest.mark.parametrize("updates", [[], [Update({"w": torch.ones(1)}, 0)]])
def test_nothing_to_average_is_an_error(updates):
    with pytest.raises(ValueError, match="no update to average"):
        weighted_mean(updates, "examples")


def test_single_precision_stays_single_precision():
    mean = weighted_mean([Update({"w": torch.ones(2), "n": torch.tensor(3)}, 1)], "uniform")
    assert mean.weights["w"].dtype == torch.float32
    assert mean.weights["n"].is_floating_point()


# Defaults --------------------------------------------------------------------------------------


def server(net=None, clients: int = 5, round: int = 1) -> Server:
    task = Task(1, 1, 0, 5, tuple("abcde"))
    return Server(net or tiny_net(), task, round, 0, clients, None)


def test_by_default_the_mean_becomes_the_net_and_tensors_nobody_sent_stay():
    here = server()
    before = here.net.weights()
    sent = {"classifier.weight": normal(5, 8, key=1)}
    Strategy().aggregate(here, [Update(sent, 3), Update({k: v * 3 for k, v in sent.items()}, 1)])
    after = here.net.weights()
    assert torch.allclose(after["classifier.weight"], sent["classifier.weight"] * 1.5)
    assert all(torch.equal(after[name], before[name]) for name in before if name not in sent)


def test_by_default_all_tensors_are_trained_and_the_loss_is_cross_entropy():
    net, x, y = tiny_net(), normal(4, 3, 8, 8), torch.tensor([0, 1, 2, 3])
    assert set(Strategy().trainable(net)) == net.state_dict().keys()
    net.eval()
    terms = Strategy().local_loss(SimpleNamespace(net=net), SimpleNamespace(x=x, y=y))
    assert terms.keys() == {"ce"}
    assert torch.allclose(terms["ce"], torch.nn.functional.cross_entropy(net(x).logits, y))
    assert torch.equal(Strategy().predict(net, x, {}), net(x).logits)


def test_clients_are_drawn_without_repetition_and_anew_each_round():
    drawn = [Strategy().sample(server(clients=20, round=r), 6) for r in (1, 1, 2)]
    assert drawn[0] == drawn[1] != drawn[2]
    assert all(len(set(d)) == 6 and d == sorted(d) and set(d) <= set(range(20)) for d in drawn)
    assert Strategy().sample(server(clients=4), 4) == [0, 1, 2, 3]


def test_a_smoke_run_cuts_the_synthesis_and_nothing_else():
    @dataclass(frozen=True, kw_only=True)
    class WithSynthesis(Strategy):
        factor: float = 2.0
        synthesizer: Synthesizer = NAYER(ce=0.25)

    small = WithSynthesis(factor=3.0).smoke()
    assert small.factor == 3.0
    assert small.synthesizer == NAYER(ce=0.25).smoke() != NAYER(ce=0.25)
    assert small.synthesizer.ce == 0.25


def test_streams_of_a_server_are_named_by_task_round_and_purpose():
    def first(here: Server, purpose: str = "sample") -> int:
        return int(torch.randint(1 << 62, (1,), generator=here.generator(purpose)))

    assert first(server()) == first(server())
    assert len({first(server()), first(server(round=2)), first(server(), "other")}) == 3
    assert first(server()) == int(torch.randint(1 << 62, (1,), generator=generator(0, "sample", 1, 1, "server")))
