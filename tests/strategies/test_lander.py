"""LANDER against the reference code, in double precision, and the traps that would not crash."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import replace
from typing import Any

import pytest
import torch
import torch.nn.functional as F
from golden_vectors import Case, assert_matches, load_case
from scripted_roles import ScriptedClient, check_logits_are_moved_apart, client_of, gradient, server_of
from tiny_net import golden_net, normal, renamed, tiny_net
from torch import Tensor

from fcil import Batch, Client, Server, Terms, Update
from fcil.config import Where, parse
from fcil.losses import bounding, soft_cross_entropy
from fcil.nets import Net, frozen
from fcil.optimizer import OptimizerSettings, learning_rate
from fcil.rng import generator
from fcil.synthesis import Bound
from fcil.synthesis.nayer import NAYER
from strategies.lander import LANDER, SIDES


def anchored(
    net: Net,
    anchors: Tensor,
    real: list[Batch],
    synthetic: Sequence[Tensor] = (),
    teacher: Net | None = None,
    **more: Any,
) -> ScriptedClient:
    """A client that is shared these anchors; of its shard the length alone is read."""
    shard, old = [None] * sum(len(batch.y) for batch in real), teacher.num_classes if teacher else 0
    given = {"real": real, "synthetic": synthetic, "teacher": teacher, "shared": {"anchors": anchors}, "batch_size": 7}
    return client_of(net, shard, old=old, **given | more)


class Watched(LANDER):
    """Notes the terms of every step in the client's memory."""

    def local_loss(self, client: Client, batch: Batch) -> Terms:
        terms = super().local_loss(client, batch)
        client.memory.setdefault("steps", []).append({name: term.detach() for name, term in terms.items()})
        return terms


def golden_client(case: Case, net: Net, teacher: Net | None = None) -> ScriptedClient:
    p, t = case.parameters, case.tensors
    real = [Batch(t[f"inputs.batch{i}.x"], t[f"inputs.batch{i}.labels"]) for i in range(3)]
    synthetic = [t[name] for name in sorted(t) if name.startswith("inputs.synthetic")]
    optimizer = OptimizerSettings(momentum=p["momentum"], weight_decay=p["weight_decay"])
    return anchored(
        net,
        t["inputs.anchors"][: net.num_classes],
        real,
        synthetic,
        teacher,
        lr=p["lr"],
        local_epochs=p["local_epochs"],
        optimizer=optimizer,
    )


def check_update(case: Case, client: ScriptedClient, update: Update, weights: dict[str, tuple[str, float]]) -> None:
    """Final weights and buffers, every term of every step, and the loss that is reported.

    `weights` gives for each golden term our name and the factor that ours carries.
    """
    expected = renamed(case.under("expected.final"))
    assert update.weights.keys() == expected.keys()
    for name, value in expected.items():
        assert_matches(update.weights[name], value, case.tolerance, name)
        assert_matches(client.net.state_dict()[name], value, case.tolerance, name)
    steps = client.memory["steps"]
    assert len(steps) == update.metrics["steps"] == 6
    for golden, (name, factor) in weights.items():
        got = torch.stack([step[name] for step in steps])
        unweighted = case.tensors[f"expected.steps.{golden}"]
        assert_matches(got, factor * unweighted, case.tolerance, golden)
        mean = torch.tensor(update.metrics[f"terms/{name}"])
        assert_matches(mean, factor * unweighted.mean(), case.tolerance, golden)
    total = torch.stack([torch.stack(list(step.values())).sum() for step in steps])
    assert_matches(total, case.tensors["expected.steps.total"], case.tolerance, "total")
    reported = torch.tensor(update.metrics["first_epoch_loss"])
    assert_matches(reported, case.tensors["expected.reported_loss_sum"], case.tolerance, "reported")


# The reference, step by step -------------------------------------------------------------------


@pytest.mark.usefixtures("_double")
def test_an_update_in_the_first_task_matches_the_reference():
    case = load_case("20_lander_client_first_task")
    client = golden_client(case, golden_net(case.under("params")))
    p = case.parameters
    update = Watched(fidelity="reference", radius=p["radius"], lam=p["lambda_ltc"]).local_train(client)
    check_update(case, client, update, {"cross_entropy": ("ce", 1.0), "bound": ("bound", p["lambda_ltc"])})
    assert client.asked == []


@pytest.mark.usefixtures("_double")
def test_an_update_in_a_later_task_matches_the_reference():
    case = load_case("21_lander_client_later_task")
    p, teacher = case.parameters, golden_net(case.under("params.teacher"))
    client = golden_client(case, golden_net(case.under("params.student")), teacher)
    strategy = Watched(
        fidelity="reference",
        radius=p["radius"],
        lam=p["lambda_ltc"],
        current=p["cur"],
        previous=p["pre"],
        temperature=p["tau"],
    )
    update = strategy.local_train(client)
    cur, pre = case.tensors["expected.a_cur"].item(), case.tensors["expected.a_pre"].item()
    assert strategy.balance(p["known"], p["total"]) == pytest.approx((cur, pre), rel=case.tolerance)
    factors = {
        "cross_entropy_new": ("ce", cur),
        "bound": ("bound", cur * p["lambda_ltc"]),
        "distillation": ("kd", pre),
        "feature_mse": ("embedding", pre),
    }
    check_update(case, client, update, factors)
    running_mean = case.tensors["expected.teacher_running_mean_after"]
    assert_matches(client.frozen("teacher").backbone.bn.running_mean, running_mean, case.tolerance)
    assert client.asked == [("synthetic", 7)] * 6


@pytest.mark.usefixtures("_double")
def test_the_head_may_learn_old_and_new_classes_together_and_leaves_the_features_alone():
    case = load_case("21_lander_client_later_task")
    teacher = golden_net(case.under("params.teacher"))
    client = golden_client(case, golden_net(case.under("params.student")), teacher)
    client.net.train()
    synthetic, batch = case.tensors["inputs.synthetic0.x"], client.real[0]
    terms = LANDER(head=0.7).local_loss(client, batch)
    features = torch.cat([client.net(batch.x).features, client.net(synthetic).features])
    labels = torch.cat([batch.y, frozen(teacher)(synthetic).logits.argmax(dim=1)])
    logits = features @ client.net.classifier.weight.T + client.net.classifier.bias
    by_hand = -0.7 * logits.log_softmax(dim=1)[torch.arange(len(labels)), labels].mean()
    assert terms["head"].item() == pytest.approx(by_hand.item(), rel=1e-9)
    weight, convolution = client.net.classifier.weight, client.net.backbone.conv.weight
    got, none = torch.autograd.grad(terms["head"], [weight, convolution], allow_unused=True)
    assert none is None
    (expected,) = torch.autograd.grad(by_hand, [weight])
    assert_matches(got, expected, 1e-9)
    assert "head" not in LANDER().local_loss(client, batch)


@pytest.mark.parametrize("row", range(12))
@pytest.mark.parametrize(("suffix", "unit"), [("", False), ("_unit", True)])
def test_the_balance_matches_the_reference(row, suffix, unit):
    case = load_case("03_lander_adaptive_weights")
    p = case.parameters
    strategy = LANDER(current=1, previous=1) if unit else LANDER(current=p["cur"], previous=p["pre"])
    got = strategy.balance(*case.tensors["inputs.known_total"][row].tolist())
    for value, name in zip(got, ("a_cur", "a_pre"), strict=True):
        expected = case.tensors[f"expected.{name}{suffix}"][row]
        assert_matches(torch.tensor(value, dtype=torch.float64), expected, case.tolerance, name)


def test_the_balance_of_the_published_settings():
    """CIFAR-100 and Tiny-ImageNet in five tasks, ImageNet in ten."""
    table = {
        (20, 40): (0.347, 1.242),
        (80, 100): (0.263, 2.029),
        (160, 200): (0.257, 2.382),
        (900, 1000): (0.234, 3.403),
    }
    for classes, weights in table.items():
        assert LANDER().balance(*classes) == pytest.approx(weights, abs=6e-4)


# Which net ends a task -------------------------------------------------------------------------


class Vector:
    """A net that is one tensor."""

    def __init__(self, w: Tensor) -> None:
        self.w = w.clone()

    def weights(self) -> dict[str, Tensor]:
        return {"w": self.w.clone()}

    def load(self, weights: dict[str, Tensor]) -> None:
        self.w = weights["w"].clone()


def serving(
    net: Any, *, task: int = 1, tasks: int = 1, synthesize: Callable[..., Any] = lambda *_: pytest.fail("no synthesis")
) -> Server:
    """A server with anchors, in a task of three new classes."""
    anchors, old = torch.arange(6.0).repeat(2, 1).T, 3 * task - 3
    return server_of(net, task=task, tasks=tasks, old=old, seen=old + 3, anchors=anchors, synthesize=synthesize)


@pytest.mark.parametrize("scenario", ["middle", "first", "last", "tie"])
def test_the_net_that_ends_a_task_is_the_references(scenario):
    case = load_case("23_lander_round_selection")
    p, inputs, expected = case.parameters, case.under(f"inputs.{scenario}"), case.under(f"expected.{scenario}")
    strategy = LANDER(fidelity="reference")
    server = serving(Vector(case.tensors["inputs.initial"]))
    strategy.before_task(server)
    starts = expected["model_at_round_start"]
    for t in range(p["rounds"]):
        server.round = t + 1
        assert_matches(server.net.w, starts[t], case.tolerance, f"start of round {t}")
        updates = [
            Update({"w": inputs["client_weights"][t, k]}, 1 + 5 * k, {"first_epoch_loss": loss})
            for k, loss in enumerate(inputs["client_losses"][t].tolist())
        ]
        mean = strategy.aggregate(server, iter(updates))
        assert_matches(mean.weights["w"], inputs["client_weights"][t].mean(dim=0), case.tolerance)
        rate = torch.tensor(learning_rate(OptimizerSettings(), t + 1, p["rounds"]), dtype=torch.float64)
        assert_matches(rate, expected["lr"][t], case.tolerance, "lr")
    after = server.net.w
    strategy.after_task(server, [])
    assert_matches(server.net.w, expected["restored"], case.tolerance)
    assert torch.equal(server.net.w, starts[p["selected"][scenario]].to(server.net.w))
    assert expected["selected_round"].item() == p["selected"][scenario]
    assert not torch.equal(server.net.w, after)  # the last average is never chosen


def run_rounds(strategy: LANDER, losses: list[float]) -> Server:
    """One task in which round t makes every weight t, with two clients of 1 and 3 examples."""
    server = serving(Vector(torch.zeros(2)))
    strategy.before_task(server)
    for t, loss in enumerate(losses, start=1):
        ones = torch.ones(2)
        updates = [Update({"w": ones * t - 3}, 1, {"first_epoch_loss": loss}), Update({"w": ones * t + 1}, 3)]
        strategy.aggregate(server, updates)
    strategy.after_task(server, [])
    return server


def test_the_paper_ends_with_the_last_net_and_weighs_clients_by_examples():
    assert run_rounds(LANDER(), [1.0, 9.0, 9.0]).net.w[0].item() == 3


def test_selection_starts_anew_in_every_task():
    server = serving(Vector(torch.zeros(2)))
    strategy = LANDER(fidelity="reference")
    for loss in (1.0, 5.0):
        strategy.before_task(server)
        strategy.aggregate(server, [Update({"w": torch.ones(2) * loss}, 1, {"first_epoch_loss": loss})])
    assert server.memo["lowest"] == 5.0
    strategy.after_task(server, [])
    assert server.net.w[0].item() == 1.0


# Between tasks ---------------------------------------------------------------------------------


@pytest.mark.parametrize(("fidelity", "hinge"), [("paper", "sample"), ("reference", "batch")])
def test_after_a_task_the_final_net_is_inverted_and_becomes_the_teacher(fidelity, hinge):
    asked = []

    def synthesize(server: Server, synthesizer: NAYER, labels: range, bound: Bound, _: None) -> dict[str, Tensor]:
        asked.append((server.net.weights(), synthesizer, list(labels), bound))
        return {"x": torch.zeros(1)}

    net = tiny_net(6)
    server = serving(net, task=2, tasks=3, synthesize=synthesize)
    strategy = LANDER(fidelity=fidelity, radius=0.25, lam=2.0, synthesizer=NAYER(cut="latest"))
    strategy.before_task(server)
    best = net.weights()
    sent = {name: w + 1 for name, w in best.items()}
    strategy.aggregate(server, [Update(sent, 1, {"first_epoch_loss": 1.0})])
    strategy.after_task(server, [])
    ((weights, synthesizer, labels, bound),) = asked
    final = sent if fidelity == "paper" else best
    for name, w in final.items():
        assert torch.equal(weights[name], w)
        assert torch.equal(server.shared["teacher"][name], w)
    assert labels == [0, 1, 2, 3, 4, 5]
    assert bound == Bound(weight=2.0, radius=0.25, hinge=hinge)
    assert synthesizer == NAYER(cut="latest", fidelity=fidelity)
    assert server.shared["synthetic"] == {"x": torch.zeros(1)}


def test_a_synthesizer_that_chose_its_side_keeps_it():
    asked = []
    server = serving(Vector(torch.zeros(1)), tasks=2, synthesize=lambda _, s, *__: asked.append(s))
    LANDER(fidelity="reference", select="last", synthesizer=NAYER(fidelity="paper")).after_task(server, [])
    assert asked[0].fidelity == "paper"


def test_nothing_is_synthesized_after_the_last_task():
    server = serving(Vector(torch.zeros(1)), task=2, tasks=2)
    LANDER().after_task(server, [])
    assert server.shared == {}


def test_clients_get_the_anchors_of_the_classes_seen():
    server = serving(Vector(torch.zeros(1)), task=1, tasks=2)
    LANDER().before_task(server)
    assert server.shared["anchors"][:, 0].tolist() == [0, 1, 2]
    assert LANDER.needs == {"anchors"}


# Sides -----------------------------------------------------------------------------------------


@pytest.mark.parametrize("name", SIDES)
@pytest.mark.parametrize(("fidelity", "column"), [("paper", 0), ("reference", 1)])
def test_an_open_field_takes_the_side_and_a_chosen_one_wins(name, fidelity, column):
    assert getattr(LANDER(), name) is None
    assert getattr(LANDER(fidelity=fidelity).settled, name) == SIDES[name][column]
    other = SIDES[name][1 - column]
    chosen = parse(LANDER, {"fidelity": fidelity, name: other}, Where("e.yaml"))
    assert getattr(chosen.settled, name) == other
    rest = SIDES.keys() - {name}
    assert all(getattr(chosen.settled, field) == SIDES[field][column] for field in rest)


def test_the_paper_is_the_default_and_the_saved_settings_stay_open():
    assert LANDER().settled == LANDER(fidelity="paper").settled
    assert LANDER(fidelity="reference").options()["hinge"] is None


def test_the_hinge_is_for_each_sample_or_for_the_batch():
    anchors = torch.zeros(5, 16)
    net = tiny_net().eval()
    with torch.no_grad():
        net.text_head.weight.zero_()
        net.text_head.bias.fill_(1.0)
    batch = Batch(normal(2, 3, 8, 8), torch.tensor([0, 1]))
    anchors[1] = 1.0  # distances 1 and 0
    client = anchored(net, anchors, [batch])
    bound = {
        hinge: LANDER(lam=1.0, radius=0.5, hinge=hinge).local_loss(client, batch)["bound"] for hinge in SIDES["hinge"]
    }
    assert bound["sample"].item() == pytest.approx((0.5 + 0) / 2)
    assert bound["batch"].item() == pytest.approx(0.5 - 0.5)
    assert torch.equal(LANDER(lam=1.0, radius=0.5).local_loss(client, batch)["bound"], bound["sample"])


def test_a_client_counts_by_its_examples_or_as_any_other():
    means = {w: run_rounds(LANDER(weighting=w), [1.0]).net.w[0].item() for w in SIDES["weighting"]}
    assert means == {"examples": (1 * -2 + 3 * 2) / 4, "uniform": (-2 + 2) / 2}


def test_a_task_ends_with_the_last_net_or_with_the_one_easiest_to_start_from():
    ends = {s: run_rounds(LANDER(select=s), [5.0, 1.0, 5.0]).net.w[0].item() for s in SIDES["select"]}
    assert ends == {"last": 3, "lowest-loss": 1}


# Traps -----------------------------------------------------------------------------------------


@pytest.fixture
def later() -> tuple[ScriptedClient, Batch, Tensor]:
    """A client of a second task, two old classes of five; its batch and its synthetic batch."""
    batch = Batch(normal(6, 3, 8, 8, key=1), torch.tensor([2, 3, 4, 2, 3, 4]))
    synthetic = normal(7, 3, 8, 8, key=2)
    client = anchored(tiny_net(5), normal(5, 16), [batch], [synthetic], tiny_net(2, key=1))
    return client, batch, synthetic


def test_new_data_moves_new_logits_alone_and_synthetic_data_old_ones_alone(later):
    client, batch, _ = later
    check_logits_are_moved_apart(client, LANDER().local_loss(client, batch))


def test_the_text_head_stands_beside_the_classifier(later):
    client, batch, _ = later
    terms = LANDER().local_loss(client, batch)
    head, classifier = client.net.text_head.weight, client.net.classifier.weight
    assert gradient(terms["ce"], head) is None
    assert gradient(terms["kd"], head) is None
    for name in ("bound", "embedding"):
        assert gradient(terms[name], classifier) is None
        assert gradient(terms[name], head).any()
        assert gradient(terms[name], client.net.backbone.conv.weight).any()


def test_terms_carry_their_weights_and_no_square_of_the_temperature(later):
    client, batch, synthetic = later
    net = client.net.eval()  # so that the forwards can be repeated
    real, fake, teacher = net(batch.x), net(synthetic), client.frozen("teacher")(synthetic)
    strategy = LANDER(lam=3.0, temperature=4.0, radius=0.25)
    cur, pre = strategy.balance(2, 5)
    expected = {
        "ce": cur * F.cross_entropy(real.logits[:, 2:], batch.y - 2),
        "bound": cur * 3.0 * bounding(real.embedding, client.shared["anchors"][batch.y], 0.25, "sample"),
        "kd": pre * soft_cross_entropy(fake.logits[:, :2], teacher.logits, 4.0),
        "embedding": pre * (fake.embedding - teacher.embedding).square().mean(),
    }
    terms = strategy.local_loss(client, batch)
    assert terms.keys() == expected.keys()
    for name, value in expected.items():
        assert torch.allclose(terms[name], value), name
    p = F.softmax(teacher.logits / 4.0, dim=1)
    by_hand = -(p * F.log_softmax(fake.logits[:, :2] / 4.0, dim=1)).sum() / len(synthetic)
    assert torch.allclose(terms["kd"], pre * by_hand)


def test_the_bound_is_zero_on_the_anchors_and_grows_with_their_scale():
    """Raw text features have a mean square of about 0.2: normalising them would switch the loss off."""
    net, batch = tiny_net().eval(), Batch(normal(6, 3, 8, 8), torch.tensor([0, 1, 2, 3, 4, 0]))
    on_target = net(batch.x[:5]).embedding.detach()
    inside = anchored(net, on_target, [])
    assert LANDER(radius=0.0).local_loss(inside, Batch(batch.x[:5], torch.arange(5)))["bound"] == 0
    with torch.no_grad():
        net.text_head.weight.zero_()
        net.text_head.bias.zero_()
    directions = F.normalize(normal(5, 512)[:, :16], dim=1)
    raw = directions * (0.2 * 16) ** 0.5  # mean square 0.2, as CLIP's 512 numbers of norm ten
    bound = LANDER().local_loss(anchored(net, raw, []), batch)["bound"]
    assert bound.item() == pytest.approx(5 * (0.2 - 0.015), rel=1e-4)
    assert LANDER().local_loss(anchored(net, raw / 93**0.5, []), batch)["bound"] == 0


def test_real_and_synthetic_images_pass_separately_real_ones_first(later):
    client, batch, synthetic = later
    start, alike = client.net.weights(), tiny_net(5)
    alike.load(start)
    LANDER().local_loss(client, batch)
    alike.train()
    alike(batch.x)
    alike(synthetic)
    for name in ("running_mean", "running_var", "num_batches_tracked"):
        assert torch.equal(client.net.get_buffer(f"backbone.bn.{name}"), alike.get_buffer(f"backbone.bn.{name}"))
    assert client.net.backbone.bn.num_batches_tracked == start["backbone.bn.num_batches_tracked"] + 2


def test_the_teacher_has_the_old_classes_and_is_left_alone(later):
    client, _, _ = later
    teacher = client.frozen("teacher")
    before = teacher.weights()
    LANDER().local_train(client)
    assert teacher.num_classes == client.task.num_old
    assert not teacher.training
    assert all(torch.equal(before[name], w) for name, w in teacher.weights().items())


def test_old_rows_of_the_classifier_are_unchanged_after_growth_and_trained_later(later):
    client, _, _ = later
    before = client.net.classifier.weight.detach().clone()
    client.net.grow(7, generator("growth"))
    assert torch.equal(client.net.classifier.weight[:5], before)
    client.task = replace(client.task, num_new=5)
    client.shared["anchors"] = normal(7, 16)
    LANDER().local_train(client)
    assert (client.net.classifier.weight[:2] != before[:2]).any()


@pytest.mark.parametrize(("share", "batch_size", "count"), [(1.0, 128, 128), (0.5, 16, 8), (2.0, 7, 14), (0.01, 16, 1)])
def test_synthetic_images_are_drawn_as_a_multiple_of_the_batch_and_at_least_one(later, share, batch_size, count):
    client, batch, _ = later
    client.batch_size = batch_size
    LANDER(synthetic=share).local_loss(client, batch)
    assert client.asked == [("synthetic", count)]


def test_a_step_of_one_forward_is_that_of_both_kinds_of_images_together():
    net, teacher, anchors = tiny_net(), tiny_net(3, key=1), normal(5, 16, key=2)
    x, y, synthetic = normal(4, 3, 8, 8), torch.tensor([3, 4, 3, 4]), 2 + normal(4, 3, 8, 8, key=3)
    about = {"old": 3, "synthetic": [synthetic], "teacher": teacher, "batch_size": 4, "shared": {"anchors": anchors}}
    client = client_of(net, [None] * 4, **about)
    terms = LANDER(forwards="one").local_loss(client, Batch(x, y))
    both = net(torch.cat([x, synthetic]))
    told = frozen(teacher)(synthetic).logits
    cur, pre = LANDER().balance(3, 5)
    assert torch.allclose(terms["ce"], cur * F.cross_entropy(both.logits[:4, 3:], y - 3))
    assert torch.allclose(terms["kd"], pre * soft_cross_entropy(both.logits[4:, :3], told, 2.0))
    apart = LANDER().local_loss(client_of(net, [None] * 4, **about), Batch(x, y))
    assert abs(float(apart["kd"] - terms["kd"])) > 1e-3
