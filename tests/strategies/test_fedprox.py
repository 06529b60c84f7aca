"""FedProx: the way back has the paper's value and gradient, and reaches parameters alone."""

from __future__ import annotations

import pytest
import torch
import torch.nn.functional as F
from scripted_roles import check_runs, client_of, gradient, shard_of
from small_runs import play, write_experiment
from tiny_net import normal, tiny_net

from fcil import Batch
from fcil.config import Where
from fcil.errors import ConfigError
from fcil.losses import proximal
from strategies.fedprox import FedProx


def moved_client(step: float = 0.5, old: int = 0):
    """A client of five classes whose every parameter has gone `step` from where the round began."""
    net = tiny_net(5, text_width=None)
    client = client_of(net, shard_of([0, 1]), old=old)
    with torch.no_grad():
        for p in net.parameters():
            p += step
    net.backbone.bn.running_mean += 7  # a statistic, which is not held
    return client, Batch(normal(4, 3, 6, 6), torch.tensor([3, 4, 3, 4]))


def test_the_term_is_half_mu_times_the_square_of_the_way():
    client, batch = moved_client()
    count = sum(p.numel() for p in client.net.parameters())
    terms = FedProx(mu=0.1).local_loss(client, batch)
    assert terms["prox"].item() == pytest.approx(0.1 / 2 * count * 0.25)
    for p in client.net.parameters():
        assert torch.allclose(gradient(terms["prox"], p), torch.full_like(p, 0.1 * 0.5))  # mu (theta - theta_start)
    client.net.eval()
    terms = FedProx(mu=0.1).local_loss(client, batch)
    assert torch.allclose(terms["ce"], F.cross_entropy(client.net(batch.x).logits, batch.y))


def test_the_norms_of_the_code_pull_alike_at_any_distance():
    terms = {step: FedProx(mu=2.0, distance="norms").local_loss(*moved_client(step))["prox"] for step in (0.5, 1.0)}
    net = moved_client()[0].net
    norms = sum(0.5 * p.numel() ** 0.5 for p in net.parameters())
    assert terms[0.5].item() == pytest.approx(norms)
    assert terms[1.0].item() == pytest.approx(2 * norms)


@pytest.mark.parametrize("distance", ["square", "norms"])
def test_nothing_pulls_at_the_start_and_the_gradient_is_finite(distance):
    client, batch = moved_client(0.0)
    prox = FedProx(distance=distance).local_loss(client, batch)["prox"]
    assert prox.item() == 0
    assert all(torch.equal(gradient(prox, p), torch.zeros_like(p)) for p in client.net.parameters())


def test_the_start_is_constant():
    start = {"w": torch.zeros(3)}
    w = torch.tensor([1.0, 2.0, 2.0], requires_grad=True)
    assert proximal({"w": w}, start).item() == 4.5


def test_a_heavy_pull_keeps_the_client_where_it_began():
    def way(mu: float) -> float:
        net = tiny_net(5, text_width=None)
        client = client_of(net, shard_of([0, 1, 2, 3, 4, 0, 1, 2]), local_epochs=3, lr=0.02)
        FedProx(mu=mu).local_train(client)
        return proximal({k: p.detach() for k, p in net.named_parameters()}, client.start).item()

    assert way(10.0) < 0.5 * way(0.0)
    assert way(0.0) > 0


def test_the_cross_entropy_is_over_all_classes_or_the_new_ones():
    client, batch = moved_client(0.0, old=3)
    client.net.eval()
    logits = client.net(batch.x).logits
    assert torch.allclose(FedProx().local_loss(client, batch)["ce"], F.cross_entropy(logits, batch.y))
    new = FedProx(classes="new").local_loss(client, batch)["ce"]
    assert torch.allclose(new, F.cross_entropy(logits[:, 3:], batch.y - 3))


def test_defaults_and_a_weight_below_zero():
    assert (FedProx().mu, FedProx().distance, FedProx().classes) == (0.01, "square", "seen")
    with pytest.raises(ConfigError, match=r"mu: -1 is not allowed"):
        FedProx.parse({"mu": -1}, Where("e.yaml"))


def test_whole_runs_are_finite_repeatable_and_resumable(tmp_path):
    run = check_runs(tmp_path, "fedprox")
    assert {"ce", "prox"} == set(run.rounds[-1]["terms"])
    assert run.rounds[-1]["terms"]["prox"] > 0


def test_without_a_weight_it_is_finetune(tmp_path):
    source = write_experiment(tmp_path)
    runs = [play(source, f"strategy={s}", out=tmp_path)[0] for s in ("finetune", "{fedprox: {mu: 0}}")]
    assert [r["terms"]["ce"] for r in runs[0].rounds] == [r["terms"]["ce"] for r in runs[1].rounds]
