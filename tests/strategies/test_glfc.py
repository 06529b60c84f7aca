"""GLFC: its two losses by hand, the entropy rule, prototypes as gradients and back, and the choice of a teacher."""

from __future__ import annotations

from math import log

import pytest
import torch
import torch.nn.functional as F
from scripted_roles import check_runs, client_of, gradient, server_of, shard_of, tiny
from small_runs import play
from tiny_net import normal, tiny_net

from fcil import Batch, Update
from fcil.config import Where
from fcil.errors import ConfigError
from fcil.exemplars import unit_features
from fcil.inversion import Encoder, fits, gradients, invert, labels_of, nearest_to_means, outputs, perturbed
from strategies.glfc import GLFC, PREFIX, accuracy, compensation, mean_entropy

SHAPE = (3, 6, 6)


def later_client(strategy: GLFC, memory: dict | None = None):
    """A client of a second task with two old and three new classes, a batch of both, and the terms of its loss."""
    client = client_of(tiny_net(5).eval(), shard_of([2]), old=2, teacher=tiny_net(2, key=1), memory=memory or {})
    batch = Batch(normal(4, 3, 6, 6), torch.tensor([0, 2, 4, 1]))
    return client, batch, strategy.local_loss(client, batch)


# The losses ------------------------------------------------------------------------------------


def test_weights_are_relative_to_the_mean_of_their_own_kind():
    logits = torch.tensor([[0.0, 9, 9], [9, log(3), 9], [9, 9, -log(4)], [9, 9, log(1.5)]])
    labels = torch.tensor([0, 1, 2, 2])  # 1 - sigmoid: 0.5, 0.25 of old classes, 0.8, 0.4 of the new one
    got = compensation(logits, labels, num_old=2)
    assert torch.allclose(got, torch.tensor([0.5 / 0.375, 0.25 / 0.375, 0.8 / 0.6, 0.4 / 0.6]))
    assert torch.allclose(compensation(logits, labels, num_old=0).mean(), torch.ones(()))


def test_weights_have_no_gradient_and_survive_certainty():
    logits = torch.full((3, 2), 200.0).requires_grad_()
    got = compensation(logits, torch.tensor([0, 1, 1]), num_old=1)
    assert not got.requires_grad
    assert torch.equal(got, torch.zeros(3))


def test_a_batch_of_one_kind_alone_has_weights_too():
    got = compensation(normal(4, 3), torch.tensor([2, 2, 1, 2]), num_old=1)
    assert got.mean().item() == pytest.approx(1)


def test_the_first_task_learns_labels_alone_with_weights():
    client = client_of(tiny_net(3).eval(), shard_of([0]))
    x, y = normal(4, 3, 6, 6), torch.tensor([0, 2, 1, 1])
    (name, term), *more = GLFC().local_loss(client, Batch(x, y)).items()
    assert (name, more) == ("ce", [])
    z = client.net(x).logits.detach()
    w = 1 - z[range(4), y].sigmoid()
    w = w / w.mean()
    onehot = torch.eye(3)[y]
    p = z.sigmoid()
    by_hand = -(onehot * p.log() + (1 - onehot) * (1 - p).log()).sum(1)
    assert term.item() == pytest.approx((w * by_hand).mean().item(), rel=1e-5)
    # d BCE / d z = p - target, and the classifier's bias adds to every logit.
    assert torch.allclose(gradient(term, client.net.classifier.bias), (w[:, None] * (p - onehot)).mean(0), atol=1e-6)


def test_later_tasks_add_the_relations_that_the_teacher_sees():
    client, (x, y), terms = later_client(GLFC(compensation=0.3, relation=0.7))
    z, q = client.net(x).logits.detach(), client.frozen("teacher")(x).logits.sigmoid()
    onehot, bias = torch.eye(5)[y], client.net.classifier.bias
    g = 1 - z[range(4), y].sigmoid()
    w = g / torch.stack([(g[0] + g[3]) / 2, (g[1] + g[2]) / 2])[[0, 1, 1, 0]]  # samples 0 and 3 are old
    relations = onehot.clone()
    relations[:, :2] = q
    p = z.sigmoid()
    bce = -(relations * p.log() + (1 - relations) * (1 - p).log()).sum(1)
    assert terms["relation"].item() == pytest.approx(0.7 * bce.mean().item(), rel=1e-5)
    assert torch.allclose(gradient(terms["relation"], bias), 0.7 * (p - relations).mean(0), atol=1e-6)
    assert torch.allclose(gradient(terms["ce"], bias), 0.3 * (w[:, None] * (p - onehot)).mean(0), atol=1e-6)


def test_a_label_term_over_new_logits_alone_leaves_old_ones_to_the_teacher():
    client, (x, y), terms = later_client(GLFC(classes="new", compensation=0.3))
    p, bias = client.net(x).logits.detach().sigmoid(), client.net.classifier.bias
    onehot = torch.eye(5)[y]
    g = 1 - p[range(4), y]  # the weights are of the label's own logit, old or new
    w = g / torch.stack([(g[0] + g[3]) / 2, (g[1] + g[2]) / 2])[[0, 1, 1, 0]]
    expected = 0.3 * (w[:, None] * (p - onehot)).mean(0)
    expected[:2] = 0
    assert torch.allclose(gradient(terms["ce"], bias), expected, atol=1e-6)
    _, _, seen = later_client(GLFC())
    assert torch.equal(terms["relation"], seen["relation"])


def test_the_reference_takes_the_mean_over_classes():
    _, _, sums = later_client(GLFC(unaided="plain"))
    _, _, means = later_client(GLFC(fidelity="reference"))
    for name in ("ce", "relation"):
        assert means[name].item() == pytest.approx(sums[name].item() / 5, rel=1e-5)


def test_in_the_reference_a_client_without_exemplars_weighs_all_samples_alike():
    client, (x, y), terms = later_client(GLFC(fidelity="reference"))
    plain = F.binary_cross_entropy_with_logits(client.net(x).logits, torch.eye(5)[y])
    assert torch.allclose(terms["ce"], 0.5 * plain)
    one = shard_of([0])
    kept = {"exemplars": {"indices": one.indices, "labels": one.labels, "tasks": one.tasks}}
    _, _, aided = later_client(GLFC(fidelity="reference"), kept)
    assert not torch.allclose(aided["ce"], terms["ce"])


# Exemplars -------------------------------------------------------------------------------------


def test_exemplars_are_shared_out_among_the_classes_met_and_trained_on():
    strategy = GLFC(exemplars=5, perturbations=1)
    first = client_of(tiny_net(2), shard_of([0, 1] * 6))
    strategy.after_local_task(first)
    assert first.kept("exemplars").labels.tolist() == [0, 0, 0, 1, 1]
    whole = shard_of([0, 1] * 6 + [2, 3] * 2)
    later = client_of(
        tiny_net(4), whole.select(torch.arange(12, 16)), old=2, teacher=tiny_net(2), memory=dict(first.memory)
    )
    assert strategy.local_train(later).num_examples == 4 + 5
    assert later.shard.labels[4:].tolist() == [0, 0, 0, 1, 1]


def test_so_many_of_every_class_instead():
    client = client_of(tiny_net(3), shard_of([0, 1, 2, 2] * 4))
    GLFC(exemplars=1, per_class=3).after_local_task(client)
    assert client.kept("exemplars").labels.bincount().tolist() == [3, 3, 3]


# Noticing a task -------------------------------------------------------------------------------


def test_the_mean_entropy_by_hand():
    assert mean_entropy(torch.zeros(3, 7)) == pytest.approx(log(7))
    half = torch.tensor([[0.0, log(3)], [50.0, -50.0]])  # 1/4 and 3/4, and none
    assert mean_entropy(half) == pytest.approx((log(4) / 4 + 0.75 * log(4 / 3)) / 2)


def entropies(strategy: GLFC, memory: dict, scale: float, classes: int = 10) -> tuple[bool, dict[str, float]]:
    """What a client notices when the net's logits are `scale` times one of the classes."""
    client = client_of(tiny_net(classes), shard_of([0, 1, 2]), memory=memory)
    with torch.no_grad():
        client.net.classifier.weight.zero_()
        client.net.classifier.bias.zero_()
        client.net.classifier.bias[0] = scale
    return strategy.notices(client)


def test_a_rise_of_the_entropy_is_a_new_task():
    strategy, memory = GLFC(detect="entropy"), {}
    noticed, metrics = entropies(strategy, memory, scale=0)
    assert noticed  # from nothing to ln 10
    assert metrics["terms/entropy"] == pytest.approx(log(10))
    assert metrics["terms/noticed"] == 1
    assert not entropies(strategy, memory, scale=0)[0]  # as before
    assert not entropies(strategy, memory, scale=20)[0]  # it fell
    assert memory["entropy"] < 0.01
    assert not entropies(strategy, memory, scale=4)[0]  # it rose by less than the threshold
    assert entropies(GLFC(detect="entropy", threshold=0.5), memory, scale=2)[0]


def test_a_net_of_two_classes_cannot_rise_by_the_papers_threshold():
    assert not entropies(GLFC(detect="entropy"), {}, scale=0, classes=2)[0]


def test_a_client_without_samples_notices_nothing():
    client = client_of(tiny_net(3), shard_of([]))
    assert GLFC(detect="entropy").notices(client) == (False, {})


def test_at_a_boundary_the_first_round_that_a_client_takes_part_counts():
    memory: dict = {}
    first = [GLFC().notices(client_of(tiny_net(2), shard_of([0]), memory=memory))[0] for _ in range(2)]
    later = [GLFC().notices(client_of(tiny_net(4), shard_of([2]), old=2, memory=memory))[0] for _ in range(2)]
    assert first == later == [True, False]


def sends(strategy: GLFC, **settings) -> bool:
    client = client_of(tiny_net(2), shard_of([0, 1, 1]), **settings)
    return any(name.startswith(PREFIX) for name in strategy.local_train(client).weights)


def test_prototypes_are_sent_once_and_only_where_they_serve():
    few, memory = {"perturbations": 1}, {}
    assert sends(GLFC(**few), memory=memory)
    assert not sends(GLFC(**few), memory=memory)
    assert not sends(GLFC(**few, teacher="last"))
    assert not sends(GLFC(**few, detect="entropy"))
    client = client_of(tiny_net(4), shard_of([2, 3]), old=2, teacher=tiny_net(2))
    client.task = type(client.task)(3, 3, 2, 2, client.task.names)  # the last task teaches nobody
    assert not any(name.startswith(PREFIX) for name in GLFC(**few).local_train(client).weights)


# Prototypes ------------------------------------------------------------------------------------


def test_the_prototype_is_the_image_nearest_to_the_mean_of_its_class():
    net, shard = tiny_net(4), shard_of([3, 1, 3, 3, 1, 3])
    x, y, spread = nearest_to_means(net, shard)
    assert y.tolist() == [1, 3]
    f, raw = unit_features(net, shard), outputs(net, shard).features
    for row, here in enumerate(([1, 4], [0, 2, 3, 5])):
        distance = (f[here] - f[here].mean(0)).norm(dim=1)
        assert torch.equal(x[row], shard.x(torch.tensor(here))[distance.argmin()])
        assert torch.allclose(spread[row], raw[here].std(0, correction=0))
    assert net.training


def test_a_class_with_one_sample_is_its_own_prototype_without_spread():
    x, y, spread = nearest_to_means(tiny_net(3), shard_of([2]))
    assert torch.equal(x, shard_of([2]).x(torch.tensor([0])))
    assert y.tolist() == [2]
    assert not spread.any()


def stream(key: int = 0) -> torch.Generator:
    return torch.Generator().manual_seed(key)


def test_a_step_of_perturbation_by_hand():
    net, x, y = tiny_net(3).eval(), normal(2, *SHAPE), torch.tensor([2, 0])
    got = perturbed(net, x, y, torch.zeros(2, 8), 1, 0.2, stream())
    for i in (0, 1):  # an image's step does not depend on the other's
        one = x[i : i + 1].clone().requires_grad_()
        loss = F.binary_cross_entropy_with_logits(net(one).logits, torch.eye(3)[y[i : i + 1]])
        assert torch.allclose(got[i], x[i] - 0.2 * gradient(loss, one)[0], atol=1e-7)
    assert (got - x).abs().max() > 1e-4
    assert torch.equal(perturbed(net, x, y, torch.zeros(2, 8), 0, 0.2, stream()), x)


def test_noise_on_features_is_of_the_given_spread_and_stream():
    net, x, y, spread = tiny_net(3).eval(), normal(1, *SHAPE), torch.tensor([1]), torch.full((1, 8), 0.5)
    drawn = torch.randn(1, 8, generator=stream(3))
    one = x.clone().requires_grad_()
    logits = net.classifier(net(one).features + 0.5 * drawn)
    slope = gradient(F.binary_cross_entropy_with_logits(logits, torch.eye(3)[y]), one)
    assert torch.allclose(perturbed(net, x, y, spread, 1, 2.0, stream(3)), x - 2 * slope, atol=1e-6)


def test_perturbing_leaves_the_net_as_it_was():
    net = tiny_net(3)
    before = net.weights()
    perturbed(net, normal(2, *SHAPE), torch.tensor([0, 1]), torch.ones(2, 8), 3, 0.2, stream())
    assert net.training
    assert all(p.grad is None for p in net.parameters())
    assert all(torch.equal(before[name], w) for name, w in net.weights().items())


# Gradients and back ----------------------------------------------------------------------------


def test_the_encoder_depends_on_its_key_and_sizes_alone():
    torch.manual_seed(1)
    one = Encoder(SHAPE, 4, 7)
    state = torch.get_rng_state()
    two, other = Encoder(SHAPE, 4, 7), Encoder(SHAPE, 4, 8)
    assert torch.equal(torch.get_rng_state(), state)
    assert torch.equal(one.head.weight, two.head.weight)
    assert not torch.equal(one.head.weight, other.head.weight)
    assert one(normal(2, *SHAPE)).shape == (2, 4)


def test_a_gradient_is_of_one_image_each_and_tells_the_label():
    encoder, x, y = Encoder(SHAPE, 4, 0).double(), normal(3, *SHAPE).double(), torch.tensor([3, 0, 3])
    got = gradients(encoder, x, y)
    error = encoder(x).softmax(dim=1) - torch.eye(4)[y]  # d CE / d logits
    assert torch.allclose(got["head.bias"], error)
    assert torch.allclose(got["head.weight"], error[:, :, None] * encoder.body(x).flatten(1)[:, None])
    mean = torch.autograd.grad(F.cross_entropy(encoder(x), y), encoder.body[0].weight)[0]
    assert torch.allclose(got["body.0.weight"].mean(0), mean)
    assert labels_of(got).tolist() == [3, 0, 3]


def sent_by(x: torch.Tensor, y: torch.Tensor, classes: int, seed: int = 0) -> dict[str, torch.Tensor]:
    """What a client sends for these images, without the prefix."""
    return gradients(Encoder(x.shape[1:], classes, seed), x, y) | {"shape": torch.tensor(x.shape[1:])}


def test_an_image_is_rebuilt_from_its_gradient():
    x, encoder = normal(1, *SHAPE), Encoder(SHAPE, 3, 0)
    sent = {name: g[0] for name, g in gradients(encoder, x, torch.tensor([1])).items()}
    errors = [(invert(encoder, sent, SHAPE, steps, stream(9)) - x[0]).square().mean().item() for steps in (1, 10, 80)]
    assert errors[0] > errors[1] > errors[2]
    assert errors[2] < 1e-3
    assert torch.equal(invert(encoder, sent, SHAPE, 5, stream()), invert(encoder, sent, SHAPE, 5, stream()))
    assert all(p.grad is None for p in encoder.parameters())


def test_what_is_no_gradient_of_the_encoder_does_not_fit():
    good = gradients(Encoder(SHAPE, 3), normal(2, *SHAPE), torch.tensor([0, 1]))
    assert fits(good, SHAPE, 3)
    assert not fits(good, SHAPE, 4)
    assert not fits(good, (3, 9, 9), 3)
    assert not fits(good, (3, 10**9, 10**9), 3)
    assert not fits(good, (0, 6, 6), 3)
    assert not fits(good, (3, 6), 3)
    assert not fits({}, SHAPE, 3)
    assert not fits(good | {"extra": torch.ones(2)}, SHAPE, 3)
    assert not fits(good | {"head.bias": good["head.bias"][:1]}, SHAPE, 3)
    assert not fits(good | {"head.bias": torch.tensor(1.0)}, SHAPE, 3)


# The server ------------------------------------------------------------------------------------


def update_of(net, *sent: dict[str, torch.Tensor], examples: int = 1) -> Update:
    beside = {f"{PREFIX}{name}": t for part in sent for name, t in part.items()}
    return Update(net.weights() | beside, examples)


def test_prototypes_are_set_aside_and_rebuilt_with_their_labels():
    net, x, y = tiny_net(3), normal(2, *SHAPE), torch.tensor([2, 0])
    server, other = server_of(tiny_net(3, key=5)), tiny_net(3, key=1)
    mean = GLFC(steps=80).aggregate(server, [update_of(net, sent_by(x, y, 3)), update_of(other, examples=3)])
    assert mean.weights.keys() == net.weights().keys()
    expected = (net.classifier.weight + 3 * other.classifier.weight) / 4
    assert torch.allclose(server.net.classifier.weight, expected)
    assert server.memo["labels"].tolist() == [2, 0]
    assert (server.memo["images"] - x).square().mean() < 1e-3


def test_the_reference_averages_clients_alike():
    nets = [tiny_net(3), tiny_net(3, key=1)]
    server = server_of(tiny_net(3, key=5))
    GLFC(fidelity="reference").aggregate(server, [update_of(n, examples=e) for n, e in zip(nets, (1, 9), strict=True)])
    assert torch.allclose(server.net.classifier.weight, (nets[0].classifier.weight + nets[1].classifier.weight) / 2)


def test_there_is_room_for_so_many_images_of_a_class_and_for_new_classes_alone():
    server, strategy = server_of(tiny_net(4), task=2, old=2), GLFC(images=2, steps=2)
    for key in range(3):
        sent = sent_by(normal(3, *SHAPE, key=key), torch.tensor([2, 3, 1]), 4)
        strategy.aggregate(server, [update_of(tiny_net(4), sent)])
    assert server.memo["labels"].tolist() == [2, 3, 2, 3]
    assert server.memo["images"].shape == (4, *SHAPE)


@pytest.mark.parametrize(
    "spoilt",
    [
        {"shape": torch.tensor([3, 9, 9])},
        {"shape": torch.tensor([10**9] * 3)},
        {"shape": torch.tensor([-1, 6, 6])},
        {"head.bias": torch.zeros(2, 9)},
        {"other": torch.zeros(2)},
    ],
)
def test_what_is_no_gradient_is_left_alone(spoilt):
    server = server_of(tiny_net(3))
    sent = sent_by(normal(2, *SHAPE), torch.tensor([0, 1]), 3) | spoilt
    GLFC(steps=2).aggregate(server, [update_of(tiny_net(3), sent)])
    assert server.memo == {}


def answering(*labels: int):
    """A net that gives every image in turn of preference these labels, the first to all."""
    net = tiny_net(3)
    with torch.no_grad():
        net.classifier.weight.zero_()
        net.classifier.bias.copy_(-torch.tensor([labels.index(c) for c in range(3)], dtype=torch.float32))
    return net


def test_the_net_that_is_best_on_rebuilt_images_becomes_the_teacher():
    server, strategy = server_of(tiny_net(3)), GLFC(steps=2)
    sent = sent_by(normal(3, *SHAPE), torch.tensor([0, 1, 2]), 3)
    more = [sent_by(normal(1, *SHAPE, key=key), torch.tensor([1]), 3) for key in (1, 2)]
    strategy.aggregate(server, [update_of(answering(0, 1, 2), sent)])
    assert server.memo["accuracy"] == pytest.approx(1 / 3)
    strategy.aggregate(server, [update_of(answering(1, 0, 2), more[0])])
    assert server.memo["accuracy"] == pytest.approx(1 / 2)
    strategy.aggregate(server, [update_of(answering(2, 1, 0))])
    assert server.memo["accuracy"] == pytest.approx(1 / 2)
    strategy.aggregate(server, [update_of(answering(0, 2, 1), more[1])])
    assert server.memo["accuracy"] == pytest.approx(3 / 5)  # the best is judged on what was added
    strategy.after_task(server, [])
    assert server.shared["teacher"]["classifier.bias"].argmax() == 1
    assert server.net.classifier.bias.argmax() == 0  # the task goes on from its last net


def test_of_nets_alike_the_later_one_teaches():
    server, strategy = server_of(tiny_net(3)), GLFC(steps=2)
    sent = sent_by(normal(2, *SHAPE), torch.tensor([0, 1]), 3)
    for net in (answering(0, 1, 2), answering(1, 0, 2)):
        strategy.aggregate(server, [update_of(net, sent)])
        sent = {}
    assert server.memo["best"]["classifier.bias"].argmax() == 1


def test_without_rebuilt_images_the_last_net_teaches_and_the_last_task_nobody():
    server = server_of(answering(2, 1, 0))
    GLFC().aggregate(server, [update_of(answering(1, 0, 2))])
    GLFC().after_task(server, [])
    assert server.shared["teacher"]["classifier.bias"].argmax() == 1
    last = server_of(tiny_net(3), task=3)
    GLFC().after_task(last, [])
    assert last.shared == {}


def test_accuracy_on_images_by_hand():
    net = answering(1, 0, 2)
    assert accuracy(net, normal(4, *SHAPE), torch.tensor([1, 1, 0, 1])) == 0.75
    assert net.training


# Settings and whole runs -----------------------------------------------------------------------


@pytest.mark.parametrize(
    ("field", "value", "complaint"),
    [
        ("exemplars", 0, "greater than or equal to 1"),
        ("images", 0, "greater than or equal to 1"),
        ("steps", 0, "greater than or equal to 1"),
        ("rate", 0, "greater than 0"),
        ("threshold", -1, "greater than or equal to 0"),
        ("teacher", "first", "best"),
        ("detect", "loss", "boundary"),
    ],
)
def test_settings_that_make_no_sense_are_refused(field, value, complaint):
    with pytest.raises(ConfigError, match=rf"{field}: .*{complaint}"):
        GLFC.parse({field: value}, Where("e.yaml"))


def test_smoke_cuts_the_search():
    small = GLFC(perturbations=1).smoke()
    assert (small.steps, small.perturbations) == (3, 1)


FEW = {"steps": 5, "perturbations": 2}


def test_whole_runs_are_finite_repeatable_and_resumable(tmp_path):
    run = check_runs(tmp_path, {"glfc": {"exemplars": 15, **FEW}})
    assert [set(record["terms"]) for record in run.rounds] == [{"ce"}, {"ce", "relation"}, {"ce", "relation"}]


def test_the_entropy_that_clients_measure_is_in_the_record_of_a_run(tmp_path):
    strategy = {"glfc": {"detect": "entropy", "threshold": 0.2, **FEW}}
    (run,) = play(tiny(tmp_path, strategy, rounds=1, stop_after=2), out=tmp_path)
    assert all({"entropy", "noticed"} <= set(record["terms"]) for record in run.rounds)
    first = run.rounds[0]["terms"]
    assert first["noticed"] == 1
    assert 0.2 < first["entropy"] <= log(2)


def test_clients_that_are_seldom_drawn_send_prototypes_when_they_are(tmp_path):
    strategy = {"glfc": {"exemplars": 8, "images": 1, **FEW}}
    (run,) = play(tiny(tmp_path, strategy, clients=10, fraction=0.2, rounds=2, stop_after=2), out=tmp_path)
    assert len(run.rounds) == 4
    assert torch.tensor([list(record["terms"].values()) for record in run.rounds[2:]]).isfinite().all()
