"""RDSKD against the reference code, in double precision: its loss, its references, its generator."""

from __future__ import annotations

import math
from dataclasses import replace
from typing import Any

import pytest
import torch
import torch.nn.functional as F
from golden_vectors import Case, assert_matches, load_case
from synthesis_problems import problem_of
from tiny_net import normal, tiny_net
from torch import Tensor, nn

from fcil.errors import ConfigError
from fcil.rng import generator
from fcil.synthesis import Bound, SynthesisProblem, create
from fcil.synthesis.common.losses import confidence, negative_entropy, sameness
from fcil.synthesis.families.generator_loop import GeneratorReplica
from fcil.synthesis.mfcl import ImageGenerator
from fcil.synthesis.rdskd import RDSKD
from fcil.types import Output, Terms

SMALL: dict[str, Any] = {"rounds": 3, "steps": 3, "batch_size": 10, "samples": 20, "latent": 6, "width": 4}


@pytest.fixture
def problem() -> SynthesisProblem:
    return problem_of(tiny_net(5))


class Affine(nn.Module):
    """The teacher of the golden case: logits = W vec(x) + b."""

    def __init__(self, case: Case) -> None:
        super().__init__()
        self.num_classes = case.parameters["classes"]
        self.classifier = nn.Linear(36, self.num_classes)
        self.load_state_dict(
            {f"classifier.{name}": case.tensors[f"inputs.teacher_{name}"] for name in ("weight", "bias")}
        )

    def forward(self, x: Tensor) -> Output:
        return Output(self.classifier(x.flatten(1)), x.flatten(1), None)


def halves(case: Case) -> list[Tensor]:
    return [case.tensors[f"inputs.images{i}"].clone().requires_grad_() for i in (1, 2)]


def started(method: RDSKD, problem: SynthesisProblem, reference: list[float] | None = None) -> GeneratorReplica:
    with torch.device("meta"):
        made = nn.Sequential(nn.Linear(1, 1))
    chain = GeneratorReplica(0, made, torch.optim.Adam(made.parameters()))
    if reference is not None:
        chain.memory["reference"] = torch.tensor(reference)
    return chain


# The reference, term by term -------------------------------------------------------------------


@pytest.mark.usefixtures("_double")
@pytest.mark.parametrize("which", ["first", "with_reference"])
def test_the_loss_and_its_gradient_match_the_reference(which):
    case = load_case("71_rdskd_generator_loss")
    p, images = case.parameters, halves(case)
    problem = problem_of(Affine(case), shape=(1, 6, 6))
    method = RDSKD(batch_size=10)
    chain = started(method, problem, [p["c_oh"], p["c_ie"]] if which == "with_reference" else None)
    terms = method.terms(problem, chain, torch.cat(images))
    total = torch.stack(list(terms.values())).sum()
    assert terms.keys() == {"ce", "balance", "diversity"}
    assert_matches(total, case.tensors[f"expected.{which}.total"], case.tolerance)
    assert_matches(terms["diversity"], case.tensors[f"expected.{which}.diversity"], case.tolerance)
    measured = [case.tensors[f"expected.{which}.{name}"] for name in ("one_hot", "information_entropy")]
    assert_matches(chain.memory["measured"], torch.stack(measured), case.tolerance)
    for name, term in (("total", total), ("diversity", terms["diversity"])):
        for half, slope in zip((1, 2), torch.autograd.grad(term, images, retain_graph=True), strict=True):
            assert_matches(slope, case.tensors[f"expected.grad.{which}.{name}.images{half}"], case.tolerance, name)


@pytest.mark.usefixtures("_double")
def test_its_raw_terms_match_the_reference():
    case = load_case("71_rdskd_generator_loss")
    images = halves(case)
    logits = Affine(case)(torch.cat(images)).logits
    for name, term in (("one_hot", confidence(logits)), ("information_entropy", negative_entropy(logits))):
        assert_matches(term, case.tensors[f"expected.first.{name}"], case.tolerance, name)
        for half, slope in zip((1, 2), torch.autograd.grad(term, images, retain_graph=True), strict=True):
            assert_matches(slope, case.tensors[f"expected.grad.first.{name}.images{half}"], case.tolerance, name)


# The terms by hand -----------------------------------------------------------------------------


@pytest.mark.usefixtures("_double")
def test_sameness_is_how_little_images_differ_beside_their_answers():
    x = torch.tensor([[0.0, 0.0], [1.0, 1.0], [3.0, 4.0], [1.0, 13.0]], requires_grad=True)  # 5 and 12 apart: 13
    even, sure = [0.0, 0.0], [0.0, 800.0]
    logits = torch.tensor([even, sure, sure, sure], requires_grad=True)  # p: (1/2, 1/2) and (0, 1): root of 1/2 apart
    term = sameness(x, logits)
    assert term.item() == pytest.approx(math.sqrt(1 / 2) / 13)
    slopes = torch.autograd.grad(term, [x, logits])
    outwards = torch.tensor([[3.0, 4.0], [0.0, 12.0]]) / 13
    assert torch.allclose(slopes[0], math.sqrt(1 / 2) / 13**2 * torch.cat([outwards, -outwards]))
    assert slopes[1][0, 1] < 0 < slopes[1][0, 0]  # the answers are to come together


def test_equal_answers_cost_nothing_and_equal_images_break_nothing():
    x = normal(4, 3).requires_grad_()
    logits = (torch.ones(4, 2) + 0 * x.sum()).clone()
    term = sameness(x, logits)
    (slope,) = torch.autograd.grad(term, x)
    assert term.item() == 0
    assert slope.isfinite().all()
    still = torch.ones(4, 3, requires_grad=True)
    term = sameness(still, still[:, :2] * 2)
    (slope,) = torch.autograd.grad(term, still)
    assert term.isfinite()
    assert slope.isfinite().all()


def test_a_rise_above_the_reference_costs_more_than_a_fall_pays(problem):
    method, x = RDSKD(**SMALL), normal(6, 3, 8, 8)
    chain = method.start(problem, 0)
    method.terms(problem, chain, x)
    ce, entropy = chain.memory["measured"].tolist()
    for shift, expected in ((0.0, 1.0), (1.0, math.e), (-1.0, 1 / math.e)):
        chain.memory["reference"] = torch.tensor([ce - shift, entropy - shift])
        terms = method.terms(problem, chain, x)
        assert terms["ce"].item() == pytest.approx(expected, rel=1e-5)
        assert terms["balance"].item() == pytest.approx(expected, rel=1e-5)


# The loop --------------------------------------------------------------------------------------


class Watched(RDSKD):
    """RDSKD that notes what every step measured, and against what."""

    def watch(self) -> Watched:
        object.__setattr__(self, "steps_seen", [])
        return self

    def terms(self, problem: SynthesisProblem, chain: GeneratorReplica, x: Tensor) -> Terms:
        reference = chain.memory.get("reference")
        found = super().terms(problem, chain, x)
        self.steps_seen.append((reference, chain.memory["measured"], len(x)))
        return found


def test_the_references_are_what_the_second_step_of_an_episode_measured(problem):
    method = Watched(**SMALL).watch()
    chain = method.start(problem, 0)
    for number in (1, 2, 3):
        method.episode(problem, chain, number)
    steps = method.steps_seen
    assert len(steps) == 9
    assert steps[0][0] is steps[1][0] is None
    for position, (reference, _, count) in enumerate(steps[2:], 2):
        latest = max(i for i in (1, 4, 7) if i < position)
        assert torch.equal(reference, steps[latest][1])
        assert count == 10
    assert not chain.memory["reference"].requires_grad


def test_the_generator_ends_in_a_norm_of_its_own(problem):
    method = RDSKD(**SMALL)
    chain = method.start(problem, 0)
    made = chain.generator
    assert isinstance(made, ImageGenerator)
    assert (made.bn1.eps, made.bn2.eps) == (0.8, 0.8)
    assert [made.conv1.out_channels, made.conv2.out_channels, made.conv3.out_channels] == [4, 2, 3]
    made.train()
    x = method.inputs(problem, chain, normal(400, 6))
    assert x.mean(dim=(0, 2, 3)).abs().max() < 1e-4
    assert torch.allclose(x.std(dim=(0, 2, 3)), torch.ones(3), atol=1e-2)
    other = replace(problem, mean=torch.zeros(3), std=torch.ones(3))
    assert torch.equal(method.fresh(problem, chain, 5, generator(0)), method.fresh(other, chain, 5, generator(0)))
    pool = method.pool(problem, chain)
    fresh = method.fresh(problem, chain, 10, generator(*problem.key, 0, "pool"))
    assert torch.equal(pool["x"][:10], ((fresh * 0.25 + 0.5).clamp(0, 1) * 255).round().to(torch.uint8))


def test_no_student_is_built_and_the_classes_asked_for_count(problem):
    method, x = RDSKD(**SMALL), normal(6, 3, 8, 8)
    some = replace(problem, labels=(1, 4), anchors=normal(5, 16), bound=Bound())
    chain = method.start(some, 0)
    assert chain.student is None
    terms, out = method.terms(some, chain, x), problem.teacher(x)
    answers = torch.tensor([1, 4])[out.logits[:, [1, 4]].argmax(dim=1)]
    assert torch.allclose(terms["ce"], F.cross_entropy(out.logits, answers).exp())
    assert torch.allclose(terms["balance"], negative_entropy(out.logits[:, [1, 4]]).exp())
    assert torch.allclose(terms["bound"], Bound()(out.embedding, some.anchors[answers]))


def test_training_makes_images_surer_and_more_even():
    net = tiny_net(4, key=8)
    with torch.no_grad():
        net.classifier.weight.mul_(10)
    here = problem_of(net)
    method = RDSKD(**SMALL | {"steps": 25, "batch_size": 32, "lr": 1e-2})
    chain = method.start(here, 0)
    measured = []
    for number in (1, 2, 3):
        method.episode(here, chain, number)
        measured.append(chain.memory["measured"].sum().item())
    assert measured[-1] < measured[0]


def test_the_defaults_are_the_references():
    m = RDSKD()
    assert (m.rounds, m.steps, m.batch_size, m.lr, m.latent, m.width) == (20, 120, 512, 1e-3, 1000, 128)
    assert m.betas == (0.9, 0.999)
    assert m.needs == m.required == frozenset()


def test_a_batch_has_two_halves():
    with pytest.raises(ConfigError, match="batch_size: 9 is not allowed"):
        create("rdskd", batch_size=9)
