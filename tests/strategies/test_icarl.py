"""iCaRL: budget, herding, the two forms of its loss, and classification by the nearest mean."""

from __future__ import annotations

import pytest
import torch
import torch.nn.functional as F
from scripted_roles import check_runs, client_of, gradient, memories, server_of, shard_of, tiny
from small_runs import play
from tiny_net import normal, tiny_net

from fcil import Batch, Update
from fcil.config import Where
from fcil.errors import ConfigError
from fcil.exemplars import herd, unit_features
from fcil.losses import sigmoid_cross_entropy, soft_cross_entropy
from strategies.icarl import ICaRL

LABELS = [0, 1] * 10 + [2, 3, 3] * 4  # twenty samples of the first task, twelve of the second


def finished(number: int, strategy: ICaRL, memory: dict | None = None, labels: list[int] = LABELS):
    """A client at the end of a task, and what it sends up."""
    whole = shard_of(labels, first_of=[1, 1, 2, 2])
    here = whole.select(torch.nonzero(whole.tasks == number).flatten())
    client = client_of(tiny_net(2 * number), here, old=2 * (number - 1), memory=memory or {})
    return client, strategy.after_local_task(client)


def counts(client) -> list[int]:
    return torch.bincount(client.kept("exemplars").labels, minlength=client.net.num_classes).tolist()


# What is kept ----------------------------------------------------------------------------------


def test_the_budget_is_shared_by_more_classes_as_they_come():
    strategy = ICaRL(exemplars=10)
    first, _ = finished(1, strategy)
    assert counts(first) == [5, 5]
    before = first.kept("exemplars").indices
    second, _ = finished(2, strategy, first.memory)
    assert counts(second) == [3, 3, 2, 2]
    after = second.kept("exemplars").indices
    assert after[:3].tolist() == before[:3].tolist()  # the first ones of each class stay
    assert after[3:6].tolist() == before[5:8].tolist()


def test_so_many_of_every_class_instead():
    strategy = ICaRL(exemplars=1, per_class=4)
    first, _ = finished(1, strategy)
    second, _ = finished(2, strategy, first.memory)
    assert counts(second) == [4, 4, 4, 4]


def test_exemplars_are_herded_class_by_class():
    client, _ = finished(1, ICaRL(exemplars=6))
    ones = client.shard.select(torch.nonzero(client.shard.labels == 1).flatten())
    expected = ones.indices[herd(unit_features(client.net, ones), 3)]
    assert client.kept("exemplars").indices[3:].tolist() == expected.tolist()


@pytest.mark.parametrize("budget", [1, 2, 3, 7, 100])
def test_the_budget_is_never_exceeded(budget):
    strategy, memory = ICaRL(exemplars=budget), {}
    for number in (1, 2):
        client, _ = finished(number, strategy, memory)
        memory = client.memory
        assert sum(counts(client)) == min(budget, len(LABELS) if number == 2 else 20)


def test_a_client_that_lacks_a_class_shares_among_those_it_met():
    client, update = finished(1, ICaRL(exemplars=6), labels=[1] * 9)
    assert counts(client) == [0, 6]
    assert update.weights["counts"].tolist() == [0, 6]
    assert not update.weights["sums"][0].any()


def test_a_client_with_one_sample_or_none():
    client, update = finished(1, ICaRL(), labels=[1])
    assert counts(client) == [0, 1]
    assert update.num_examples == 1
    none, update = finished(1, ICaRL(), labels=[3])  # nothing of this task
    assert len(none.kept("exemplars")) == 0
    assert update is None


def test_the_mode_that_the_net_was_left_in_does_not_matter():
    sent = []
    for training in (True, False):
        client = client_of(tiny_net(2).train(training), shard_of([0, 1, 0, 1]))
        sent.append(ICaRL().after_local_task(client).weights["sums"])
    assert torch.equal(*sent)


def test_a_round_trains_on_the_new_samples_and_all_exemplars():
    first, _ = finished(1, ICaRL(exemplars=6))
    whole = shard_of(LABELS)
    client = client_of(tiny_net(4), whole.select(torch.arange(20, 32)), old=2, teacher=tiny_net(2), memory=first.memory)
    update = ICaRL(exemplars=6).local_train(client)
    assert update.num_examples == 12 + 6
    assert client.shard.labels[12:].tolist() == [0, 0, 0, 1, 1, 1]
    assert all(w.isfinite().all() for w in update.weights.values())


# The loss --------------------------------------------------------------------------------------


def later_terms(strategy: ICaRL):
    """A client of a second task, one batch of old and new samples, and the terms of its loss."""
    client = client_of(tiny_net(5).eval(), shard_of([2]), old=2, teacher=tiny_net(2, key=1))
    batch = Batch(normal(4, 3, 6, 6), torch.tensor([0, 2, 4, 1]))
    return client, batch, strategy.local_loss(client, batch)


def test_the_papers_loss_asks_a_question_for_each_class():
    client, batch, terms = later_terms(ICaRL())
    g = client.net(batch.x).logits.sigmoid()
    q = client.frozen("teacher")(batch.x).logits.sigmoid()
    by_hand = torch.zeros(())
    for i, label in enumerate(batch.y.tolist()):
        for y in range(5):
            target = q[i, y] if y < 2 else torch.tensor(float(y == label))
            by_hand = by_hand - target * g[i, y].log() - (1 - target) * (1 - g[i, y]).log()
    assert (terms["ce"] + terms["kd"]).item() == pytest.approx(by_hand.item() / 4, rel=1e-5)


def test_an_exemplar_teaches_what_the_teacher_says_and_not_its_label():
    _, _, terms = later_terms(ICaRL())
    client, batch, _ = later_terms(ICaRL())
    swapped = ICaRL().local_loss(client, Batch(batch.x, torch.tensor([1, 2, 4, 0])))
    assert torch.equal(terms["ce"], swapped["ce"])
    assert torch.equal(terms["kd"], swapped["kd"])


def test_the_teacher_alone_may_be_softened():
    client = client_of(tiny_net(4), shard_of([2, 3]), old=2, teacher=tiny_net(2, key=1))
    batch = Batch(normal(4, 3, 6, 6), torch.tensor([2, 3, 2, 3]))
    with torch.no_grad():
        teacher = client.frozen("teacher")(batch.x).logits
    logits = client.net(batch.x).logits
    soft = ICaRL(soften=2.0).local_loss(client, batch)
    assert torch.allclose(soft["kd"], sigmoid_cross_entropy(logits[:, :2], torch.sigmoid(teacher / 2)))
    assert torch.equal(soft["ce"], ICaRL().local_loss(client, batch)["ce"])


def test_in_the_papers_loss_labels_move_new_logits_alone_and_the_teacher_old_ones_alone():
    client, _, terms = later_terms(ICaRL())
    new, old = (gradient(terms[name], client.net.classifier.weight) for name in ("ce", "kd"))
    assert not new[:2].any()
    assert new[2:].any(dim=1).all()
    assert not old[2:].any()
    assert old[:2].any(dim=1).all()


def test_the_gradient_of_the_sigmoid_form_is_the_error():
    logits = normal(3, 4).requires_grad_()
    target = normal(3, 4, key=1).sigmoid()
    got = gradient(sigmoid_cross_entropy(logits, target), logits)
    assert torch.allclose(got, (logits.sigmoid() - target) / 3)


def test_the_softmax_form_is_a_cross_entropy_and_a_distillation():
    client, batch, terms = later_terms(ICaRL(loss="softmax", temperature=3.0))
    logits, teacher = client.net(batch.x).logits, client.frozen("teacher")(batch.x).logits
    assert torch.allclose(terms["ce"], F.cross_entropy(logits, batch.y))
    assert torch.allclose(terms["kd"], soft_cross_entropy(logits[:, :2], teacher, 3.0))


@pytest.mark.parametrize("loss", ["sigmoid", "softmax"])
def test_the_first_task_has_nothing_to_distil(loss):
    client = client_of(tiny_net(2), shard_of([0, 1]))
    assert set(ICaRL(loss=loss).local_loss(client, Batch(normal(2, 3, 6, 6), torch.tensor([0, 1])))) == {"ce"}


# The nearest mean ------------------------------------------------------------------------------


def test_means_are_over_the_exemplars_of_all_clients():
    strategy, net = ICaRL(), tiny_net(2)
    clients = [client_of(net, shard_of(labels, key)) for key, labels in enumerate(([0, 0, 1], [1], [0, 1, 1, 1]))]
    server = server_of(net)
    strategy.after_task(server, [strategy.after_local_task(client) for client in clients])
    f = torch.cat([unit_features(net, c.kept("exemplars")) for c in clients])
    y = torch.cat([c.kept("exemplars").labels for c in clients])
    for label in (0, 1):
        mean = f[y == label].mean(dim=0)
        assert torch.allclose(server.shared["means"][label], mean / mean.norm(), atol=1e-6)


def test_the_nearest_mean_decides_and_a_class_nobody_has_is_not_chosen():
    net, x = tiny_net(3).eval(), normal(20, 3, 6, 6)
    sums = F.normalize(normal(3, 8, key=2), dim=1)
    sums[1] = 0
    server = server_of(net)
    ICaRL().after_task(server, [Update({"sums": sums * 5, "counts": torch.tensor([9.0, 0, 9])}, 18)])
    got = ICaRL().predict(net, x, server.shared).argmax(1)
    f = F.normalize(net(x).features, dim=1)
    distance = (f[:, None] - sums).square().sum(2)
    distance[:, 1] = torch.inf
    assert torch.equal(got, distance.argmin(1))


def test_until_the_means_of_a_task_exist_the_largest_logit_decides():
    net, x = tiny_net(4).eval(), normal(5, 3, 6, 6)
    logits = net(x).logits
    assert torch.equal(ICaRL().predict(net, x, {}), logits)
    assert torch.equal(ICaRL().predict(net, x, {"means": torch.ones(2, 8)}), logits)  # of the task before
    means = F.normalize(normal(4, 8), dim=1)
    assert not torch.equal(ICaRL().predict(net, x, {"means": means}), logits)
    assert torch.equal(ICaRL(classify="logits").predict(net, x, {"means": means}), logits)


def test_who_goes_by_logits_sends_no_features():
    client, update = finished(1, ICaRL(classify="logits"))
    assert update is None
    assert len(client.kept("exemplars")) == 20


@pytest.mark.parametrize("field", ["exemplars", "per_class"])
def test_no_exemplars_at_all_is_refused(field):
    with pytest.raises(ConfigError, match=rf"{field}: 0 is not allowed; it should be greater than or equal to 1"):
        ICaRL.parse({field: 0}, Where("e.yaml"))


# Whole runs ------------------------------------------------------------------------------------


@pytest.mark.parametrize("loss", ["sigmoid", "softmax"])
def test_whole_runs_are_finite_repeatable_and_resumable(tmp_path, loss):
    run = check_runs(tmp_path, {"icarl": {"exemplars": 15, "loss": loss}})
    assert [set(record["terms"]) for record in run.rounds] == [{"ce"}, {"ce", "kd"}, {"ce", "kd"}]
    kept = memories(run, "exemplars")
    assert set(kept) == {0, 1}
    for samples in kept.values():
        assert len(samples["labels"]) == 15
        assert len(samples["labels"].unique()) == 6
        assert len(samples["indices"].unique()) == 15


def test_clients_that_are_seldom_drawn_have_exemplars_within_their_budget(tmp_path):
    source = tiny(tmp_path, {"icarl": {"exemplars": 8}}, clients=10, fraction=0.3, rounds=1, evaluate_every=1)
    (run,) = play(source, out=tmp_path)
    assert set(memories(run, "exemplars")) == set(range(10))  # all are asked when a task ends
    assert all(len(m["labels"]) <= 8 for m in memories(run, "exemplars").values())
    assert "accuracy" in run.rounds[-1]
