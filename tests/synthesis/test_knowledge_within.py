"""The Knowledge Within: its three schemes, terms by hand, and the score by which samples are judged."""

from __future__ import annotations

import math
from dataclasses import replace
from typing import Any

import pytest
import torch
import torch.nn.functional as F
from scripted_roles import gradient
from synthesis_problems import (
    bounded_problem,
    digits,
    digits_problem,
    gone_on,
    plain_problem,
    problem_of,
    run_chain,
    synthetic_of_a_run,
)
from tiny_net import normal, tiny_net
from torch import Tensor, nn

from fcil.data import Augment, normalise
from fcil.errors import ConfigError, TrainingError
from fcil.losses import record_statistics
from fcil.rng import generator
from fcil.synthesis import Bound, SynthesisProblem, create
from fcil.synthesis.common.losses import batchnorm_divergence, bns_score, confidence, total_variation
from fcil.synthesis.common.pool import to_bytes
from fcil.synthesis.families.pixel_loop import Shift, noise, stored
from fcil.synthesis.knowledge_within import KnowledgeWithin, among

SMALL: dict[str, Any] = {"rounds": 3, "steps": 2, "batch_size": 10}
SCHEMES = ("gaussian", "inception", "bns")


def small(**settings: Any) -> KnowledgeWithin:
    return KnowledgeWithin(**SMALL | settings)


@pytest.fixture
def problem() -> SynthesisProblem:
    return bounded_problem()


def answers_to(problem: SynthesisProblem, images: Tensor) -> Tensor:
    return problem.teacher(normalise(images, problem.mean, problem.std)).logits


# The score -------------------------------------------------------------------------------------


def layer(mean: list[float], var: list[float]) -> nn.BatchNorm1d:
    made = nn.BatchNorm1d(len(mean)).eval()
    made.running_mean.copy_(torch.tensor(mean))
    made.running_var.copy_(torch.tensor(var))
    return made


@pytest.mark.usefixtures("_double")
def test_the_score_is_a_kl_from_the_net_to_the_samples():
    """KL(N(1, 4) || N(3, 9)) by hand; the other way round it would be another number."""
    x = torch.tensor([[0.0], [6.0]])  # mean 3, variance 9
    there = math.log(3 / 2) - (1 - (4 + 4) / 9) / 2
    back = math.log(2 / 3) - (1 - (9 + 4) / 4) / 2
    assert bns_score(layer([1.0], [4.0]), x).item() == pytest.approx(there)
    assert there != pytest.approx(back, rel=0.1)


@pytest.mark.usefixtures("_double")
def test_the_score_is_that_of_all_samples_whatever_the_batches():
    net, x = tiny_net(5).double().eval(), normal(11, 3, 6, 6).double() * torch.linspace(0.1, 3, 11).view(-1, 1, 1, 1)
    with record_statistics(net) as stats:
        net(x)
    whole = batchnorm_divergence(net, stats)
    for batch_size in (11, 4, 1, 256):
        assert torch.allclose(bns_score(net, x, batch_size), whole, rtol=1e-9)
    assert not bns_score(net, x.requires_grad_()).requires_grad
    assert not any(m._forward_pre_hooks for m in net.modules())


def test_the_score_prefers_training_images_to_noise_and_to_another_set():
    net, x, _, _ = digits()
    score = bns_score(net, x).item()
    assert score < 0.1
    assert score < bns_score(net, x.transpose(2, 3)).item() / 10  # digits that lie on their side
    assert score < bns_score(net, normal(*x.shape)).item() / 10


def test_a_score_leaves_the_net_alone_and_needs_what_it_reads():
    net = tiny_net(5).eval()
    before = net.weights()
    bns_score(net, normal(4, 3, 6, 6))
    assert all(torch.equal(w, before[name]) for name, w in net.weights().items())
    with pytest.raises(ValueError, match="in train mode"):
        bns_score(net.train(), normal(4, 3, 6, 6))
    with pytest.raises(ValueError, match="no BatchNorm statistics"):
        bns_score(nn.Linear(2, 2).eval(), normal(4, 2))


# Terms -----------------------------------------------------------------------------------------


def test_inception_raises_the_wanted_logit(problem):
    x, labels = normal(6, 3, 8, 8).requires_grad_(), torch.tensor([0, 1, 2, 3, 4, 0])
    method, view = small(scheme="inception", logit=3.0, tv=2.0, l2=0.5), Shift(1, 0, True)
    terms = method.terms(problem, x, labels, view)
    out = problem.teacher(torch.roll(x, 1, 2).flip(3))
    expected = {
        "logit": -3 * sum(out.logits[i, label] for i, label in enumerate(labels)) / 6,
        "tv": 2 * total_variation(x),
        "l2": 0.5 * x.square().sum().sqrt(),
        "bound": Bound()(out.embedding, problem.anchors[labels]),
    }
    check_terms(terms, expected, x)


@pytest.mark.parametrize("ce", [0.0, 2.0])
def test_bns_matches_statistics_and_asks_for_a_class_where_it_is_weighted(problem, ce):
    x, labels = normal(6, 3, 8, 8).requires_grad_(), torch.tensor([0, 1, 2, 3, 4, 0])
    method, view = small(bn=3.0, ce=ce, tv=2.0, l2=0.5), Shift(0, 2, False)
    terms = method.terms(problem, x, labels, view)
    seen = torch.roll(x, 2, 3)
    with record_statistics(problem.teacher) as stats:
        out = problem.teacher(seen)
    towards = labels if ce else out.logits.argmax(dim=1)
    expected = {
        "bn": 3 * batchnorm_divergence(problem.teacher, stats),
        "tv": 2 * total_variation(x),
        "l2": 0.5 * x.square().sum().sqrt(),
        "bound": Bound()(out.embedding, problem.anchors[towards]),
    }
    if ce:
        expected["ce"] = 2 * F.cross_entropy(out.logits, labels)
    check_terms(terms, expected, x)


def check_terms(got: dict[str, Tensor], expected: dict[str, Tensor], x: Tensor) -> None:
    assert got.keys() == expected.keys()
    for name, term in expected.items():
        assert torch.allclose(got[name], term), name
        assert torch.allclose(gradient(got[name], x), gradient(term, x)), name
        assert gradient(term, x).abs().sum() > 0, name


def test_terms_without_weight_or_anchors_are_left_out(problem):
    x, labels, view = normal(6, 3, 8, 8), torch.zeros(6).long(), Shift(0, 0, False)
    here = replace(problem, anchors=None)
    assert small(tv=0.0, ce=0.0).terms(here, x, labels, view).keys() == {"bn"}
    assert small(tv=0.0, scheme="inception").terms(here, x, labels, view).keys() == {"logit"}


# Schemes ---------------------------------------------------------------------------------------


def test_gaussian_samples_are_noise_with_the_nets_answers(problem):
    here = replace(problem, labels=(1, 3, 4))
    method = small(scheme="gaussian", batch_size=40, rounds=1)
    chain = method.start(here, 0)
    report = method.episode(here, chain, 1)
    pool = method.pool(here, chain)
    rng = generator(*here.key, 0, 1, "labels and noise")
    torch.randint(3, (1,), generator=rng)  # the rest of sweeps over three classes
    drawn = noise(here, 40, rng)
    assert torch.equal(pool["x"], to_bytes(drawn * 0.25 + 0.5, "round"))
    logits = answers_to(here, pool["x"])
    assert torch.equal(pool["y"], torch.tensor([1, 3, 4])[logits[:, [1, 3, 4]].argmax(dim=1)])
    assert report == {"confidence": pytest.approx(confidence(logits).item(), rel=1e-5)}


@pytest.mark.parametrize(("scheme", "ce"), [("inception", 1.0), ("bns", 1.0), ("bns", 0.0)])
def test_labels_are_those_asked_for_or_the_nets_answers(problem, scheme, ce):
    here = replace(problem, labels=(1, 3, 4))
    method = small(scheme=scheme, ce=ce, rounds=1, batch_size=12)
    chain = method.start(here, 0)
    report = method.episode(here, chain, 1)
    seen = among(here, answers_to(here, chain.x))
    if method.asks:
        assert chain.y.tolist() == [1, 3, 4] * 4
        assert "confidence" not in report
    else:
        assert torch.equal(chain.y, seen)
        assert "confidence" in report
    assert math.isfinite(report["total"])


def test_inception_has_the_highest_logits_and_bns_the_classes_and_the_statistics():
    here, scores, right, wanted = digits_problem(), {}, {}, {}
    for scheme in SCHEMES:
        method = KnowledgeWithin(scheme=scheme, rounds=1, steps=60, batch_size=60)
        pool = method.pool(here, run_chain(method, here))
        x, rows = normalise(pool["x"], here.mean, here.std), torch.arange(60)
        logits = here.teacher(x).logits
        scores[scheme] = bns_score(here.teacher, x).item()
        right[scheme] = (logits.argmax(dim=1) == pool["y"]).float().mean()
        wanted[scheme] = logits[rows, rows % 10].mean()
    assert right["bns"] >= 0.9
    assert right["inception"] >= 0.4  # raising a logit does not lower the others
    assert wanted["inception"] > 2 * wanted["bns"] > 0 > wanted["gaussian"]
    assert scores["bns"] < scores["gaussian"] / 5
    assert scores["bns"] < scores["inception"] / 5


def test_statistics_alone_need_no_class():
    here = digits_problem()
    method = KnowledgeWithin(ce=0.0, rounds=1, steps=60, batch_size=64)
    pool = method.pool(here, run_chain(method, here))
    x = normalise(pool["x"], here.mean, here.std)
    assert bns_score(here.teacher, x) < bns_score(here.teacher, normal(*x.shape)) / 10
    assert torch.equal(pool["y"], here.teacher(x).logits.argmax(dim=1))


def test_the_data_says_whether_images_are_mirrored(problem, monkeypatch):
    seen: list[bool] = []
    inner = KnowledgeWithin.terms

    def terms(self: KnowledgeWithin, problem: SynthesisProblem, x: Tensor, labels: Tensor, view: Shift) -> Any:
        seen.append(view.mirrored)
        return inner(self, problem, x, labels, view)

    monkeypatch.setattr(KnowledgeWithin, "terms", terms)
    for augment, flip, mirrored in (
        (Augment(), None, False),
        (Augment(flip=True), None, True),
        (Augment(), True, True),
    ):
        seen.clear()
        run_chain(small(steps=20, rounds=1, flip=flip), replace(problem, augment=augment))
        assert any(seen) == mirrored


@pytest.mark.parametrize("kept", ["best", "last"])
def test_the_best_or_the_last_iterate_is_kept(problem, monkeypatch, kept):
    walked: list[Tensor] = []
    losses: list[float] = []
    inner = KnowledgeWithin.terms

    def terms(self: KnowledgeWithin, problem: SynthesisProblem, x: Tensor, labels: Tensor, view: Shift) -> Any:
        walked.append(x.detach().clone())
        found = inner(self, problem, x, labels, view)
        losses.append(sum(term.item() for term in found.values()))
        return found

    monkeypatch.setattr(KnowledgeWithin, "terms", terms)
    chain = run_chain(small(kept=kept, steps=6, rounds=1, lr=0.5), problem)
    best = walked[losses.index(min(losses))]
    assert torch.equal(chain.x, stored(problem, best)) == (kept == "best")


# The pool --------------------------------------------------------------------------------------


@pytest.mark.parametrize("scheme", SCHEMES)
def test_the_same_key_gives_the_same_pool_and_chains_share_it(scheme):
    method = small(scheme=scheme, rounds=None, samples=30, chains=2)
    assert method.episodes == 2
    pools = [method.run(teacher=tiny_net(5), labels=range(5), shape=(3, 8, 8), key=(key,)) for key in (0, 0, 1)]
    assert pools[0]["x"].shape == (30, 3, 8, 8)
    assert pools[0]["x"].dtype == torch.uint8
    assert all(torch.equal(pools[0][name], pools[1][name]) for name in ("x", "y"))
    assert not torch.equal(pools[0]["x"], pools[2]["x"])
    assert not torch.equal(pools[0]["x"][:15], pools[0]["x"][15:])


@pytest.mark.parametrize("scheme", SCHEMES)
def test_half_precision_changes_little(problem, scheme):
    method = small(scheme=scheme)
    single, half = (
        method.episode(here, method.start(here, 0), 1) for here in (problem, replace(problem, precision="bf16"))
    )
    assert half == pytest.approx(single, rel=0.05, abs=1e-3)


@pytest.mark.parametrize("scheme", SCHEMES)
def test_a_chain_goes_on_from_what_was_saved_to_the_bit(problem, scheme):
    method = small(scheme=scheme, samples=25)
    straight = run_chain(method, problem)
    went_on = gone_on(method, problem, after=2)
    for name, pooled in method.pool(problem, straight).items():
        assert len(pooled) == 25
        assert torch.equal(pooled, method.pool(problem, went_on)[name])


def test_neither_a_hook_nor_a_gradient_stays_behind(problem):
    run_chain(small(), problem)
    assert not any(m._forward_pre_hooks or m._forward_hooks for m in problem.teacher.modules())
    assert all(p.grad is None for p in problem.teacher.parameters())


@pytest.mark.parametrize(("strategy", "scheme"), [("lander", "bns"), ("lander", "inception"), ("target", "gaussian")])
def test_strategies_run_with_it(tmp_path, strategy, scheme):
    settings = {"scheme": scheme, "rounds": 2, "steps": 2, "batch_size": 10, "samples": 20}
    assert synthetic_of_a_run(tmp_path, strategy, {"knowledge_within": settings})["x"].shape == (20, 1, 8, 8)


# Refusals --------------------------------------------------------------------------------------


def test_batchnorm_is_needed_by_its_own_scheme_alone():
    here = plain_problem()
    with pytest.raises(ConfigError, match=r"needs batch-norm layers"):
        small().checked(here)
    for scheme in ("gaussian", "inception"):
        method = small(scheme=scheme)
        report = method.episode(method.checked(here), method.start(here, 0), 1)
        assert all(math.isfinite(value) for value in report.values())


@pytest.mark.parametrize(
    ("shape", "message"),
    [
        ((3, 8), r"makes images; this data has samples of shape \(3, 8\)"),
        ((3, 8, 1), r"images of 8 x 1 pixels have no neighbours"),
    ],
)
def test_what_cannot_be_made_is_refused_in_a_line(shape, message):
    with pytest.raises(ConfigError, match=message):
        small().checked(problem_of(tiny_net(5), None, shape=shape))


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"scheme": "gausian"}, 'Did you mean "gaussian"'),
        ({"bn": 0}, "knowledge_within.bn: 0 is not allowed"),
        ({"jitter": 1}, "knowledge_within.jitter: 1 is not allowed"),
    ],
)
def test_wrong_settings_are_refused_in_a_line(options, message):
    with pytest.raises(ConfigError, match=message):
        create("knowledge_within", **options)


def test_a_loss_that_is_no_number_is_named(problem):
    broken = replace(problem, anchors=torch.full((5, 16), math.nan))
    method = small()
    with pytest.raises(TrainingError, match=r'synthesis term "\w+" became nan in episode 1'):
        method.episode(broken, method.start(broken, 0), 1)


def test_smoke_is_short():
    method = KnowledgeWithin().smoke()
    assert (method.episodes, method.steps, method.batch_size) == (2, 2, 32)
    assert KnowledgeWithin().episodes == 40
