"""FedLwF against the reference code, in double precision, and the traps that would not crash."""

from __future__ import annotations

from collections.abc import Iterator

import pytest
import torch
from golden_vectors import assert_matches, load_case
from scripted_roles import check_final, check_runs, client_of, gradient, server_of, shard_of, watched
from tiny_net import golden_net, normal, tiny_net

from fcil import Batch, Terms
from fcil.config import Where
from fcil.errors import ConfigError
from fcil.optimizer import OptimizerSettings
from strategies.fedlwf import FedLwF


@pytest.fixture
def _double() -> Iterator[None]:
    torch.set_default_dtype(torch.float64)
    yield
    torch.set_default_dtype(torch.float32)


@pytest.mark.usefixtures("_double")
def test_an_update_matches_the_reference():
    case = load_case("81_lwf_client_update")
    p, t = case.parameters, case.tensors
    real = [Batch(t[f"inputs.batch{i}.x"], t[f"inputs.batch{i}.labels"]) for i in range(2)]
    client = client_of(
        golden_net(case.under("params.student")),
        [None] * 12,
        old=p["known"],
        real=real,
        teacher=golden_net(case.under("params.teacher")),
        lr=p["lr"],
        local_epochs=2,
        optimizer=OptimizerSettings(momentum=p["momentum"], weight_decay=p["weight_decay"]),
    )
    steps: list[Terms] = []
    update = watched(FedLwF(keep=p["lam"], temperature=p["tau"]), steps).local_train(client)
    check_final(case, update)
    for golden, name, factor in (("cross_entropy_new", "ce", 1), ("distillation", "kd", p["lam"])):
        got = torch.stack([step[name] for step in steps])
        assert_matches(got, factor * t[f"expected.steps.{golden}"], case.tolerance, golden)
    total = torch.stack([step["ce"] + step["kd"] for step in steps])
    assert_matches(total, t["expected.steps.total"], case.tolerance, "total")


def test_the_defaults_are_the_codes():
    p = load_case("81_lwf_client_update").parameters
    assert (FedLwF().keep, FedLwF().temperature) == (p["lam"], p["tau"]) == (3, 2)


def test_new_labels_move_new_logits_alone_and_the_teacher_old_ones_alone():
    teacher = tiny_net(2, key=1)
    client = client_of(tiny_net(5), shard_of([2, 3]), old=2, teacher=teacher)
    terms = FedLwF().local_loss(client, Batch(normal(6, 3, 6, 6), torch.tensor([2, 3, 4, 2, 3, 4])))
    new, old = (gradient(terms[name], client.net.classifier.weight) for name in ("ce", "kd"))
    assert not new[:2].any()
    assert new[2:].any(dim=1).all()
    assert not old[2:].any()
    assert old[:2].any(dim=1).all()


def test_a_softmax_over_all_classes_seen_pushes_new_logits_down_and_shares_count_tasks_alike():
    client = client_of(tiny_net(5), shard_of([2, 3]), old=2, teacher=tiny_net(2, key=1))
    batch = Batch(normal(6, 3, 6, 6), torch.tensor([2, 3, 4, 2, 3, 4]))
    whole = FedLwF(softmax="seen", keep=4.0).local_loss(client, batch)
    halves = FedLwF(softmax="seen", keep=4.0, shares="tasks", classes="seen").local_loss(client, batch)
    with torch.no_grad():
        p = torch.softmax(client.frozen("teacher")(batch.x).logits / 2, dim=1)
    logits = client.net(batch.x).logits
    expected = -4 * (p * torch.log_softmax(logits / 2, dim=1)[:, :2]).sum(dim=1).mean()
    assert torch.allclose(whole["kd"], expected)
    assert torch.allclose(halves["kd"], expected / 2)  # task 2
    assert torch.allclose(halves["ce"], torch.nn.functional.cross_entropy(logits, batch.y) / 2)
    assert gradient(whole["kd"], client.net.classifier.bias)[2:].gt(0).all()


def test_the_teacher_is_the_last_global_net_and_the_last_task_leaves_none():
    net = tiny_net(4)
    server = server_of(net, task=2, tasks=3)
    FedLwF().after_task(server, [])
    assert all(torch.equal(w, net.weights()[name]) for name, w in server.shared["teacher"].items())
    last = server_of(net, task=3, tasks=3)
    FedLwF().after_task(last, [])
    assert last.shared == {}


def test_a_client_with_one_sample_or_without_a_class_trains():
    for labels in ([2], [3, 3, 3, 3, 3]):
        client = client_of(tiny_net(5), shard_of(labels), old=2, teacher=tiny_net(2, key=1))
        update = FedLwF().local_train(client)
        assert update.num_examples == len(labels)
        assert all(w.isfinite().all() for w in update.weights.values())


def test_a_temperature_of_zero_is_refused():
    with pytest.raises(ConfigError, match=r"temperature: 0 is not allowed"):
        FedLwF.parse({"temperature": 0}, Where("e.yaml"))


def test_whole_runs_are_finite_repeatable_and_resumable(tmp_path):
    run = check_runs(tmp_path, "fedlwf")
    assert [set(record["terms"]) for record in run.rounds] == [{"ce"}, {"ce", "kd"}, {"ce", "kd"}]
