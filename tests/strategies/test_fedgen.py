"""FedGen against the reference code, in double precision; what it does with classes that come one after another."""

from __future__ import annotations

from collections.abc import Iterator

import pytest
import torch
import torch.nn.functional as F
from golden_vectors import Case, assert_matches, load_case
from scripted_roles import check_runs, client_of, gradient, server_of, shard_of, tiny
from small_runs import Stop, StopAfter, checkpoint, play, same
from tiny_net import normal, tiny_net
from torch import Tensor, nn

from fcil import Batch, Update
from fcil.config import Where, parse
from fcil.errors import ConfigError
from fcil.nets import Backbone, LatentGenerator, Net
from fcil.nets.latent import disagreement, diversity_loss, teacher_loss
from fcil.rng import seeded
from strategies.fedgen import SIDES, FedGen, label_shares

SMALL = FedGen(noise=4, hidden=10, steps=3, batch=8, latent=10.0, classes="seen")
SERVER = "72_fedgen_server"


@pytest.fixture
def _double() -> Iterator[None]:
    torch.set_default_dtype(torch.float64)
    yield
    torch.set_default_dtype(torch.float32)


def generator_named(weights: dict[str, Tensor]) -> LatentGenerator:
    hidden, latent = len(weights["fc1.bias"]), len(weights["fc2.bias"])
    condition = "embedding" if "embedding.weight" in weights else "onehot"
    generator = LatentGenerator(5, latent, hidden, 4, condition)
    generator.load_state_dict(weights)
    return generator


def small_generator(num_classes: int = 2, condition: str = "onehot", key: int = 0) -> LatentGenerator:
    with seeded("small generator", key):
        return LatentGenerator(num_classes, 8, 10, 4, condition)


def head_of(case: Case, name: str) -> tuple[Tensor, Tensor]:
    return case.tensors[f"params.{name}.head.weight"], case.tensors[f"params.{name}.head.bias"]


def stream(key: int = 0) -> torch.Generator:
    return torch.Generator().manual_seed(key)


# The reference ---------------------------------------------------------------------------------


@pytest.mark.usefixtures("_double")
@pytest.mark.parametrize(
    ("name", "params", "student"),
    [
        ("onehot", "generator_onehot", 0.0),
        ("embedding", "generator_embedding", 0.0),
        ("onehot_with_student", "generator_onehot", 0.5),
    ],
)
def test_the_servers_steps_match_the_reference(name, params, student):
    case = load_case(SERVER)
    strategy = FedGen(fidelity="reference", student=student)
    heads = [head_of(case, f"client{k}") for k in range(3)]
    shares = label_shares(case.tensors["inputs.label_counts"].T)
    generator = generator_named(case.under(f"params.{params}")).train()
    server = server_of(tiny_net(5).double())
    adam = strategy.optimizer(generator, server)
    for step in range(3):
        labels, noise = (case.tensors[f"inputs.{name}.step{step}.{what}"] for what in ("labels", "noise"))
        latent = generator(noise, labels)
        terms = strategy.server_terms(latent, noise, labels, heads, shares, head_of(case, "server_model"))
        kl = disagreement(latent, labels, heads, shares, head_of(case, "server_model"))
        total = torch.stack(list(terms.values())).sum()
        adam.zero_grad()
        total.backward()
        got = {"teacher": terms["teacher"], "diversity": terms["diversity"], "student_kl": kl, "total": total}
        for key, value in got.items():
            assert_matches(value, case.tensors[f"expected.{name}.steps.{key}"][step], case.tolerance, key)
        if step == 0:
            intended = teacher_loss(latent, labels, heads, shares, "sample")
            assert_matches(intended, case.tensors[f"expected.{name}.step0.teacher_intended"], case.tolerance)
            assert_matches(latent, case.tensors[f"expected.{name}.step0.output"], case.tolerance)
            for key, p in generator.named_parameters():
                assert_matches(p.grad, case.tensors[f"expected.{name}.step0.grad.{key}"], case.tolerance, key)
        adam.step()
    for key, value in case.under(f"expected.{name}.generator").items():
        assert_matches(generator.state_dict()[key], value, case.tolerance, key)


def test_shares_labels_and_the_next_learning_rate_match_the_reference():
    case = load_case(SERVER)
    held = case.tensors["inputs.label_counts"].T  # (classes, clients)
    assert_matches(label_shares(held).double(), case.tensors["expected.label_weights"], case.tolerance)
    server = server_of(tiny_net(5))
    SMALL.teach(server, [(normal(5, 8), normal(5))] * 3, held)
    assert server.shared["taught"].tolist() == case.tensors["expected.qualified_labels"].tolist()
    server.round = 2
    (group,) = SMALL.optimizer(small_generator(), server_of(tiny_net(5))).param_groups
    assert group["lr"] == 3e-4
    server.memo.clear()
    (group,) = SMALL.optimizer(small_generator(), server).param_groups
    assert group["lr"] == pytest.approx(case.tensors["expected.lr_after"].item())


class Flat(Backbone):
    """The golden client's net up to what its last layer reads."""

    def __init__(self) -> None:
        super().__init__()
        self.width = 6
        self.conv = nn.Conv2d(1, 3, 3, stride=2, padding=1)
        self.bn = nn.BatchNorm2d(3)
        self.fc1 = nn.Linear(588, 6)

    def forward(self, x: Tensor) -> Tensor:
        return self.fc1(F.relu(self.bn(self.conv(x))).flatten(1))


class Scripted(nn.Module):
    """A generator whose noise is given."""

    def __init__(self, generator: LatentGenerator, noises: list[Tensor]) -> None:
        super().__init__()
        self.inner, self.noises = generator.eval(), noises

    def sample(self, labels: Tensor, generator: torch.Generator) -> tuple[Tensor, Tensor]:
        noise = self.noises.pop(0)
        return self.inner(noise, labels), noise


@pytest.mark.usefixtures("_double")
def test_the_clients_loss_and_gradients_match_the_reference():
    case = load_case("73_fedgen_client")
    net = Net(Flat(), 5).double()
    homes = {"fc2": "classifier", "conv": "backbone.conv", "bn": "backbone.bn", "fc1": "backbone.fc1"}
    at_home = {k: f"{homes[k.split('.')[0]]}.{k.split('.')[1]}" for k in case.under("params.model")}
    net.load({at_home[k]: v for k, v in case.under("params.model").items()})
    net.train()
    client = client_of(net, shard_of([0]), batch_size=case.parameters["batch"])
    client.round = case.parameters["round"] + 1  # its rounds count from 0
    client.shared["taught"] = torch.arange(5)
    t = case.tensors
    noises = [t["inputs.noise_same_labels"], t["inputs.noise_sampled_labels"]]
    client._built["generator"] = Scripted(generator_named(case.under("params.generator")), noises)
    logits = net(t["inputs.x"]).logits
    terms = {"ce": F.cross_entropy(logits, t["inputs.labels"])}
    terms |= FedGen(latent=10.0, classes="seen").generated_terms(
        client, logits, t["inputs.labels"], t["inputs.sampled_labels"], stream()
    )
    ratio = case.parameters["generated"] / case.parameters["batch"]
    assert_matches(terms["ce"], t["expected.predictive"], case.tolerance)
    assert_matches(terms["generated"], ratio * t["expected.teacher_weighted"], case.tolerance)
    assert_matches(terms["latent"], t["expected.latent_weighted"], case.tolerance)
    total = torch.stack(list(terms.values())).sum()
    assert_matches(total, t["expected.total"], case.tolerance)
    total.backward()
    parameters = dict(net.named_parameters())
    for name, value in case.under("expected.grad").items():
        if name != "conv.bias":  # in front of a BatchNorm: zero but for rounding
            assert_matches(parameters[at_home[name]].grad, value, case.tolerance, name)


# The generator ---------------------------------------------------------------------------------


@pytest.mark.parametrize("condition", ["onehot", "embedding"])
def test_a_generator_that_grows_keeps_what_it_makes_of_old_labels(condition):
    generator, noise, labels = small_generator(3, condition).eval(), torch.rand(6, 4), torch.tensor([0, 1, 2, 0, 1, 2])
    before = generator(noise, labels)
    generator.grow(5, stream())
    assert torch.allclose(generator(noise, labels), before, atol=1e-6)
    new = generator(noise, labels.clamp(min=1) + 2)
    assert new.shape == (6, 8)
    assert not torch.allclose(new, before)
    fresh = LatentGenerator(5, 8, 10, 4, condition)
    assert {k: v.shape for k, v in fresh.state_dict().items()} == {
        k: v.shape for k, v in generator.state_dict().items()
    }
    with pytest.raises(ValueError, match="for 5 classes cannot grow to 4"):
        generator.grow(4, stream())


def test_noise_is_uniform_and_depends_on_the_stream_alone():
    generator = small_generator()
    labels = torch.zeros(500, dtype=torch.int64)
    _, noise = generator.sample(labels, stream(1))
    assert noise.min() >= 0
    assert noise.max() < 1
    assert noise.mean().item() == pytest.approx(0.5, abs=0.03)
    assert torch.equal(generator.sample(labels, stream(1))[1], noise)


# The server's loss by hand ---------------------------------------------------------------------


def test_diversity_by_hand_with_its_gradient():
    noise, latent = torch.tensor([[0.0, 0.0], [1.0, 0.0]]), torch.tensor([[0.0, 1.0], [2.0, 1.5]]).requires_grad_()
    value = diversity_loss(noise, latent)
    # Of four pairs two are of different samples: mean u-distance 0.5, mean g-distance 1.25.
    assert value.item() == pytest.approx(torch.exp(torch.tensor(-2 * 0.5 * 1.25 / 4)).item())
    expected = value.item() * 2 * 0.5 / 4 * torch.tensor([[0.5, 0.5], [-0.5, -0.5]])
    assert torch.allclose(gradient(value, latent), expected)


def test_each_sample_is_weighted_by_who_holds_its_label():
    latent, labels = normal(4, 3).requires_grad_(), torch.tensor([0, 1, 1, 0])
    heads = [(normal(2, 3, key=k), normal(2, key=k)) for k in (1, 2)]
    shares = torch.tensor([[1.0, 0.0], [0.25, 0.75]])
    loss = teacher_loss(latent, labels, heads, shares, "sample")
    by_hand, expected = torch.zeros(()), torch.zeros(4, 3)
    for i, y in enumerate(labels.tolist()):
        for k, (weight, bias) in enumerate(heads):
            p = (weight @ latent[i] + bias).softmax(0)
            by_hand = by_hand - shares[y, k] * p[y].log() / 4
            expected[i] += shares[y, k] / 4 * ((p - F.one_hot(labels[i], 2)) @ weight).detach()
    assert loss.item() == pytest.approx(by_hand.item(), rel=1e-5)
    assert torch.allclose(gradient(loss, latent), expected, atol=1e-6)
    uneven = teacher_loss(latent, labels, heads, shares, "batch")
    assert abs(uneven.item() - loss.item()) > 0.01


def test_a_head_of_fewer_classes_has_no_say_in_the_others():
    latent, labels = normal(3, 3).requires_grad_(), torch.tensor([0, 2, 1])
    old = (normal(2, 3, key=1), normal(2, key=1))
    new = (normal(3, 3, key=2), normal(3, key=2))
    shares = torch.tensor([[0.0, 1.0], [0.0, 1.0], [1.0, 0.0]])
    for over in ("sample", "batch"):
        alone = teacher_loss(latent, labels, [old], torch.ones(3, 1), over)
        assert not gradient(alone, latent)[1].any()
        assert gradient(alone, latent)[::2].any(dim=1).all()
    both = teacher_loss(latent, labels, [new, old], shares, "sample")
    expected = F.cross_entropy(F.linear(latent[[0, 2]], *old), labels[[0, 2]], reduction="sum")
    expected = (expected + F.cross_entropy(F.linear(latent[1:2], *new), labels[1:2])) / 3
    assert both.item() == pytest.approx(expected.item(), rel=1e-5)
    # What the ensemble says of an old label has no room for the new class.
    student = (torch.zeros(3, 3), torch.tensor([0.0, 0.0, 9.0]))
    apart = disagreement(latent[:1], labels[:1], [new, old], shares, student)
    p = F.linear(latent[:1], *old).softmax(1)
    q = torch.tensor([0.0, 0.0, 9.0]).softmax(0)[:2]
    assert apart.item() == pytest.approx((p * (p / q).log()).sum().item() / 3, rel=1e-4)
    by_hand = p * ((p / q).log() - (p * (p / q).log()).sum()) @ old[0] / 3
    assert torch.allclose(gradient(apart, latent)[0], by_hand[0], atol=1e-5)


def test_a_label_that_nobody_holds_weighs_nothing():
    assert label_shares(torch.tensor([[0, 0], [3, 1]])).tolist() == [[0, 0], [0.75, 0.25]]


# On a client -----------------------------------------------------------------------------------


def taught_client(strategy: FedGen = SMALL, old: int = 0, taught: tuple[int, ...] = (0, 1), classes: int = 3):
    client = client_of(tiny_net(classes).eval(), shard_of([2, 2, 2, 2]), old=old)
    weights = small_generator(classes).state_dict()
    client.shared |= {"generator": weights, "taught": torch.tensor(taught)}
    return client, Batch(normal(4, 3, 6, 6), torch.tensor([2, 1, 2, 0]))


def test_without_a_generator_a_client_learns_from_its_images_alone():
    client, batch = taught_client()
    del client.shared["generator"]
    terms = SMALL.terms(client, batch, stream())
    assert set(terms) == {"ce"}
    assert torch.allclose(terms["ce"], F.cross_entropy(client.net(batch.x).logits, batch.y))


def test_generated_features_train_the_classifier_alone_and_targets_are_constant():
    client, batch = taught_client()
    terms = SMALL.terms(client, batch, stream())
    assert set(terms) == {"ce", "generated", "latent"}
    conv, head = client.net.backbone.conv.weight, client.net.classifier.weight
    assert gradient(terms["generated"], conv) is None
    assert gradient(terms["generated"], head).any()
    assert gradient(terms["latent"], conv).any()
    # Through the images' own logits alone: (softmax z - target) f.
    g = client.built("generator", lambda: SMALL.generator(3, 8))
    draws = stream()
    torch.randint(2, (4,), generator=draws)
    target = client.net.classifier(g.sample(batch.y, draws)[0]).softmax(1)
    out = client.net(batch.x)
    off = (out.logits.softmax(1) - target) * (batch.y < 2)[:, None] * 10 / 4
    assert torch.allclose(gradient(terms["latent"], head), off.T @ out.features, atol=1e-5)


def test_labels_that_the_generator_does_not_know_are_left_alone():
    client, batch = taught_client(taught=(1,))
    client.net.classifier.bias.data[:] = torch.tensor([0.0, 50.0, 0.0])
    assert SMALL.terms(client, batch, stream())["generated"] < 1e-6  # label 1 is all that is drawn
    strange = Batch(batch.x, torch.tensor([2, 2, 0, 2]))
    assert SMALL.terms(client, strange, stream())["latent"] == 0


def test_weights_fade_with_the_rounds_of_a_task_but_not_to_nothing():
    client, batch = taught_client()
    first = SMALL.terms(client, batch, stream())
    client.round = 11
    later = SMALL.terms(client, batch, stream())
    client.round = 10_000
    last = SMALL.terms(client, batch, stream())
    for name in ("generated", "latent"):
        assert later[name].item() == pytest.approx(first[name].item() * 0.98**10, rel=1e-4)
        assert last[name].item() == pytest.approx(first[name].item() * 1e-5, rel=1e-4)


def test_more_generated_features_weigh_more():
    client, batch = taught_client(taught=(1,))
    client.net.classifier.weight.data.zero_()  # every feature costs log 3
    for samples, expected in ((1.0, 10.0), (2.5, 25.0)):
        term = FedGen(noise=4, hidden=10, samples=samples).terms(client, batch, stream())["generated"]
        assert term.item() == pytest.approx(expected * torch.tensor(3.0).log().item(), rel=1e-5)


def test_images_train_all_logits_or_the_new_ones_alone_and_generated_features_all():
    client, _ = taught_client(old=2, taught=(0, 1, 2, 3), classes=4)
    batch = Batch(normal(4, 3, 6, 6), torch.tensor([2, 3, 2, 3]))
    seen, new = (FedGen(noise=4, hidden=10, classes=c).terms(client, batch, stream()) for c in ("seen", "new"))
    logits = client.net(batch.x).logits
    assert torch.allclose(seen["ce"], F.cross_entropy(logits, batch.y))
    assert torch.allclose(new["ce"], F.cross_entropy(logits[:, 2:], batch.y - 2))
    assert torch.equal(seen["generated"], new["generated"])
    assert new["latent"] > 0
    bias = client.net.classifier.bias
    for name in ("ce", "latent"):
        assert not gradient(new[name], bias)[:2].any()
        assert gradient(seen[name], bias)[:2].any()
    assert gradient(new["generated"], bias).any()


def test_a_weight_of_zero_is_nothing():
    client, batch = taught_client()
    terms = FedGen(noise=4, hidden=10, generated=0.0, latent=0.0).terms(client, batch, stream())
    assert terms["generated"] == terms["latent"] == 0


def test_a_client_says_how_many_images_of_each_class_it_holds():
    for labels, held in (([0, 2, 2], [1, 0, 2]), ([1], [0, 1, 0]), ([], [0, 0, 0])):
        update = SMALL.local_train(client_of(tiny_net(3), shard_of(labels)))
        assert update.weights["beside/held"].tolist() == held
        assert all(w.isfinite().all() for w in update.weights.values())


# On the server ---------------------------------------------------------------------------------


def updates_of(net: Net, held: list[list[int]]) -> list[Update]:
    found = []
    for key, counts in enumerate(held):
        weights = net.weights()
        weights["classifier.weight"] += normal(*weights["classifier.weight"].shape, key=key)
        found.append(Update(weights | {"beside/held": torch.tensor(counts)}, sum(counts)))
    return found


def test_a_round_makes_the_mean_and_teaches_the_generator():
    net = tiny_net(2)
    server, updates = server_of(net), updates_of(net, [[3, 1], [0, 5]])
    mean = SMALL.aggregate(server, updates)
    expected = (4 * updates[0].weights["classifier.weight"] + 5 * updates[1].weights["classifier.weight"]) / 9
    assert torch.allclose(net.classifier.weight, expected, atol=1e-6)
    assert "beside/held" not in mean.weights
    assert server.shared["taught"].tolist() == [0, 1]
    assert server.memo["adam"]["0"]["step"] == 3
    assert not any(t.requires_grad for t in server.shared["generator"].values())


def test_what_is_learnt_lowers_the_loss_and_heads_see_the_labels():
    net = tiny_net(2)
    server = server_of(net)
    strategy = FedGen(steps=200, lr=0.01, noise=4, hidden=32, weight_decay=0.0)
    strategy.aggregate(server, updates := updates_of(net, [[9, 0], [0, 9]]))
    generator = strategy.started(server, 2).eval()
    for label in (0, 1):
        labels = torch.full((64,), label)
        latent, _ = generator.sample(labels, stream())
        holder = updates[label].weights
        logits = F.linear(latent, holder["classifier.weight"], holder["classifier.bias"])
        assert (logits.argmax(1) == label).all()
        assert latent.std(dim=0).mean() > 0.01  # not the same one for every noise


def test_adams_moments_go_on_and_the_notes_of_the_round_before_stay_as_they_were():
    net = tiny_net(2)
    server = server_of(net)
    SMALL.aggregate(server, updates_of(net, [[3, 3]]))
    before, server.round = server.memo["adam"], 2
    noted = {k: v.clone() for k, v in before["0"].items() if k != "step"}
    SMALL.aggregate(server, updates_of(net, [[3, 3]]))
    assert server.memo["adam"]["0"]["step"] == 6
    assert all(torch.equal(before["0"][k], v) for k, v in noted.items())
    assert not torch.equal(server.memo["adam"]["0"]["exp_avg"], noted["exp_avg"])


def test_when_nobody_holds_two_images_of_a_class_there_is_nothing_to_teach():
    net = tiny_net(2)
    server = server_of(net)
    SMALL.aggregate(server, updates_of(net, [[1, 0], [1, 1]]))
    assert server.shared == {}
    assert server.memo == {}


def test_a_second_task_grows_the_generator_and_asks_the_old_classifier_of_old_labels():
    first = server_of(tiny_net(2))
    SMALL.aggregate(first, updates_of(first.net, [[3, 3]]))
    net = tiny_net(4, key=1)
    server = server_of(net, task=2, old=2)
    server.shared = first.shared
    SMALL.before_task(server)
    assert torch.equal(server.memo["old"]["weight"], net.classifier.weight[:2])
    assert server.shared["generator"]["fc1.weight"].shape == (10, 4 + 4)
    assert server.shared["taught"].tolist() == [0, 1]
    asked = []

    def noting(latent, noise, labels, heads, shares, student):
        asked.append((labels, heads, shares))
        return FedGen.server_terms(SMALL, latent, noise, labels, heads, shares, student)

    strategy = FedGen(noise=4, hidden=10, steps=20, batch=8)
    object.__setattr__(strategy, "server_terms", noting)
    strategy.aggregate(server, updates_of(net, [[0, 0, 6, 0], [0, 0, 2, 1]]))
    labels = torch.cat([seen for seen, _, _ in asked])
    assert set(labels.tolist()) == {0, 1, 2}  # of class 3 nobody holds two
    _, heads, shares = asked[0]
    assert [len(bias) for _, bias in heads] == [4, 4, 2]
    assert torch.equal(shares, torch.tensor([[0, 0, 1], [0, 0, 1], [0.75, 0.25, 0], [0, 1, 0]]))
    assert server.shared["taught"].tolist() == [0, 1, 2]


def test_a_first_task_in_which_nothing_was_taught_leaves_the_second_to_begin():
    server = server_of(tiny_net(4), task=2, old=2)
    SMALL.before_task(server)
    assert "generator" not in server.shared
    SMALL.aggregate(server, updates_of(server.net, [[0, 0, 1, 1]]))
    assert server.shared["taught"].tolist() == [0, 1]


# Settings --------------------------------------------------------------------------------------


@pytest.mark.parametrize(("fidelity", "column"), [("paper", 0), ("reference", 1)])
def test_an_open_field_takes_the_side_and_a_chosen_one_wins(fidelity, column):
    assert FedGen(fidelity=fidelity).settled.shares == SIDES["shares"][column]
    other = SIDES["shares"][1 - column]
    assert parse(FedGen, {"fidelity": fidelity, "shares": other}, Where("e.yaml")).settled.shares == other


@pytest.mark.parametrize(
    ("field", "value", "limit"), [("batch", 1, "greater than or equal to 2"), ("decay", 1.5, "less than or equal to 1")]
)
def test_settings_that_cannot_be_are_refused(field, value, limit):
    with pytest.raises(ConfigError, match=rf"{field}: {value} is not allowed; it should be {limit}"):
        FedGen.parse({field: value}, Where("e.yaml"))


def test_a_smoke_run_is_short():
    assert FedGen().smoke() == FedGen(steps=2)


# Whole runs ------------------------------------------------------------------------------------


@pytest.mark.parametrize("options", [{}, {"fidelity": "reference", "condition": "embedding", "student": 0.5}])
def test_whole_runs_are_finite_repeatable_and_resumable(tmp_path, options):
    run = check_runs(tmp_path, {"fedgen": {"steps": 2, **options}})
    later = {"ce", "generated", "latent"}
    assert [set(record["terms"]) for record in run.rounds] == [{"ce"}, later, later]
    assert run.rounds[1]["terms"]["latent"] == 0  # the classes of a task's first round are not known yet
    assert checkpoint(run)[0]["shared/taught"].tolist() == [0, 1, 2, 3, 4, 5]


def test_a_run_stopped_within_a_task_goes_on_with_adams_moments_and_few_clients_suffice(tmp_path):
    source = tiny(tmp_path, {"fedgen": {"steps": 2}}, clients=10, fraction=0.2, rounds=3, stop_after=1)
    (whole,) = play(source, out=tmp_path / "whole")
    with pytest.raises(Stop):
        play(source, out=tmp_path / "parts", observer=StopAfter(3))  # before the third round is saved
    (resumed,) = play(source, out=tmp_path / "parts")
    assert same(checkpoint(whole)[0], checkpoint(resumed)[0])
    assert {"shared/generator/fc1.weight", "shared/taught"} <= set(checkpoint(whole)[0])
    assert len(whole.rounds[-1]["clients"]) == 2
