"""Generators that live on: DAFL, ZSKT, DFQ and DFAD against the reference code, in double precision."""

from __future__ import annotations

import copy
import math
from dataclasses import replace
from itertools import islice, pairwise
from typing import Any

import pytest
import torch
import torch.nn.functional as F
from golden_vectors import Case, assert_matches, load_case
from synthesis_problems import (
    alike,
    bounded_problem,
    gone_on,
    problem_of,
    run_chain,
    synthetic_of_a_run,
    two_convs_net,
)
from tiny_net import normal, tiny_net
from torch import Tensor, nn

from fcil.data import Augment
from fcil.errors import ConfigError, TrainingError
from fcil.losses import record_statistics, statistics_distance
from fcil.nets import PlainGenerator
from fcil.rng import generator, seeded
from fcil.synthesis import Bound, SynthesisProblem, create, synthesizer_names
from fcil.synthesis.common.losses import activation, balance, confidence, disagreement, negative_entropy
from fcil.synthesis.dafl import DAFL
from fcil.synthesis.dfad import DFAD
from fcil.synthesis.dfq import DFQ
from fcil.synthesis.families.data_free import AdversarialLoop
from fcil.synthesis.families.generator_loop import PATIENCE, GeneratorLoop, GeneratorReplica
from fcil.synthesis.zskt import ZSKT

FOUR = {"dafl": DAFL, "zskt": ZSKT, "dfq": DFQ, "dfad": DFAD}
CASES = {name: f"{number}_{name}_generator" for number, name in enumerate(FOUR, 60)}
WEIGHTS = {"bn": "bn", "ce": "oh", "adv": "adv", "balance": "balance", "act": "act"}
"""Our weights, and what the reference calls them."""
TERMS = {
    "bn": "bn",
    "ce": "cross_entropy_argmax",
    "adv": "adversarial",
    "balance": "balance",
    "act": "activation",
}
SMALL: dict[str, Any] = {"rounds": 3, "steps": 2, "batch_size": 10, "samples": 25, "latent": 6, "width": 3}
TAUGHT: dict[str, Any] = {"student_steps": 2, "student_batch": 8}
EVERY = [*((name, SMALL | TAUGHT) for name in FOUR), ("rdskd", SMALL)]


@pytest.fixture
def problem() -> SynthesisProblem:
    return bounded_problem()


def small(name: str, **settings: Any) -> AdversarialLoop:
    return FOUR[name](**SMALL | TAUGHT | settings)


# The reference, step by step -------------------------------------------------------------------


def golden_start(case: Case, name: str) -> tuple[AdversarialLoop, SynthesisProblem, GeneratorReplica]:
    p, double = case.parameters, torch.float64
    method = FOUR[name](rounds=1, steps=p["steps"], batch_size=p["batch"], latent=p["nz"], width=p["ngf"])
    problem = problem_of(
        two_convs_net(case.under("params.teacher")),
        mean=torch.tensor(p["normalise_mean"], dtype=double),
        std=torch.tensor(p["normalise_std"], dtype=double),
        student=two_convs_net(case.under("params.student")).eval().requires_grad_(False),
    )
    chain = method.start(problem, 0)
    chain.generator.load_state_dict(case.under("params.generator"))
    return method, problem, chain


def every_term(
    method: AdversarialLoop, problem: SynthesisProblem, chain: GeneratorReplica, z: Tensor
) -> tuple[dict[str, Tensor], Tensor]:
    """All the terms with weight one, but for an adversary without a student; and the images they are of."""
    probe = replace(method, bn=1.0, ce=1.0, balance=1.0, act=1.0, adv=min(1.0, method.adv))
    aside = replace(chain, generator=copy.deepcopy(chain.generator).train())
    with torch.no_grad():
        x = method.inputs(problem, aside, z)
        return probe.terms(problem, aside, x), x * problem.std.view(3, 1, 1) + problem.mean.view(3, 1, 1)


@pytest.mark.usefixtures("_double")
@pytest.mark.parametrize("name", FOUR)
def test_two_steps_of_the_generator_match_the_reference(name, monkeypatch):
    case = load_case(CASES[name])
    method, problem, chain = golden_start(case, name)
    t, steps = case.tensors, case.under("expected.steps")
    noise = [t["inputs.step0.z"], t["inputs.step1.z"], t["inputs.sample.z"]]
    monkeypatch.setattr(GeneratorLoop, "noise", lambda self, problem, count, rng: noise.pop(0))
    images = torch.empty(0)
    for step in (0, 1):
        terms, images = every_term(method, problem, chain, noise[0])
        for ours, golden in TERMS.items():
            assert_matches(terms.get(ours, torch.tensor(0.0)), steps[golden][step], case.tolerance, ours)
        found = method.alternate(problem, chain, step, generator(0))
        assert found.keys() == {ours for ours in WEIGHTS if getattr(method, ours)} | {"total"}
        assert_matches(found["total"], steps["total"][step], case.tolerance, "total")
        if step == 0:
            gradients = case.under("expected.step0.grad")
            assert gradients.keys() == dict(chain.generator.named_parameters()).keys()
            for key, value in gradients.items():
                assert_matches(chain.generator.get_parameter(key).grad, value, case.tolerance, key)
    assert_matches(images, t["expected.synthetic_last"], case.tolerance)
    for key, value in case.under("expected.generator").items():
        assert_matches(chain.generator.state_dict()[key], value, case.tolerance, key)
    assert_matches(method.fresh(problem, chain, 10, generator(0)), t["expected.sample"], case.tolerance)


@pytest.mark.parametrize("name", FOUR)
def test_the_weights_are_the_references(name):
    p, method = load_case(CASES[name]).parameters, FOUR[name]()
    assert {golden: getattr(method, ours) for ours, golden in WEIGHTS.items()} == p["weights"]
    assert (method.lr, method.betas, method.batch_size, method.width) == (1e-3, (0.5, 0.999), 256, 64)
    assert method.latent == (512 if name == "dafl" else 256)
    assert method.distance == ("l1" if name == "dfad" else "kl")
    assert (method.student_lr, method.temperature) == (0.1, 1.0)
    assert method.student_steps == (10 if name == "dfq" else 5)
    steps = method.rounds * method.steps * (1 if name == "dfad" else method.student_steps)
    assert steps == (500 * 50 if name == "dfad" else 200 * 400)


@pytest.mark.usefixtures("_double")
def test_balance_and_certainty_alone_match_the_reference():
    case = load_case("66_image_prior_and_js")
    for term, name in ((negative_entropy, "balance"), (confidence, "onehot_argmax")):
        logits = case.tensors["inputs.teacher_logits"].clone().requires_grad_()
        got = term(logits)
        assert_matches(got, case.tensors[f"expected.{name}"], case.tolerance)
        (slope,) = torch.autograd.grad(got, logits)
        assert_matches(slope, case.tensors[f"expected.grad.{name}.teacher_logits"], case.tolerance)


# Terms by hand ---------------------------------------------------------------------------------


@pytest.mark.usefixtures("_double")
def test_the_plain_balance_is_from_minus_log_c_to_nothing():
    sure = 40 * torch.eye(4)
    assert negative_entropy(sure).item() == pytest.approx(-math.log(4))
    assert negative_entropy(sure[[2, 2]]).item() == pytest.approx(0, abs=1e-9)
    logits = normal(5, 3).double().requires_grad_()
    q = logits.softmax(dim=1).mean(dim=0)
    by_hand = (q * q.log()).sum()
    assert torch.allclose(negative_entropy(logits), by_hand)
    slopes = (torch.autograd.grad(term, logits)[0] for term in (negative_entropy(logits), by_hand))
    assert torch.allclose(*slopes)
    assert torch.allclose(balance(logits), 1 + by_hand / math.log(3))


@pytest.mark.usefixtures("_double")
def test_activation_is_minus_the_mean_size_of_the_features():
    features = torch.tensor([[1.0, -2.0], [0.5, 4.5]], requires_grad=True)
    term = activation(features)
    assert term.item() == -2
    (slope,) = torch.autograd.grad(term, features)
    assert slope.tolist() == [[-0.25, 0.25], [-0.25, -0.25]]


@pytest.mark.usefixtures("_double")
def test_disagreement_is_a_kl_with_the_teacher_in_front_or_a_difference_of_logits():
    s, t = (normal(4, 3, key=key).double().requires_grad_() for key in (1, 2))
    for temperature in (1.0, 4.0):
        p, q = (logits.div(temperature).softmax(dim=1) for logits in (t, s))
        by_hand = temperature**2 * (p * (p / q).log()).sum(dim=1).mean()
        got = disagreement(s, t, "kl", temperature)
        assert torch.allclose(got, by_hand)
        for mine, theirs in zip(*(torch.autograd.grad(term, [s, t]) for term in (got, by_hand)), strict=True):
            assert torch.allclose(mine, theirs)
    got = disagreement(s, t, "l1")
    assert torch.allclose(got, (s - t).abs().sum() / 12)
    slopes = torch.autograd.grad(got, [s, t])
    assert torch.equal(slopes[0], (s - t).sign() / 12)
    assert torch.equal(slopes[1], -slopes[0])


def test_terms_are_weighted_and_the_bound_reads_the_text_head(problem):
    x = normal(6, 3, 8, 8).requires_grad_()
    method = small("dfq", bn=2.0, ce=3.0, balance=4.0, act=5.0, adv=6.0)
    chain = method.start(problem, 0)
    terms = method.terms(problem, chain, x)
    with record_statistics(problem.teacher) as statistics:
        out = problem.teacher(x)
    answers = out.logits.argmax(dim=1)
    expected = {
        "bn": 2 * statistics_distance(problem.teacher, statistics),
        "ce": 3 * F.cross_entropy(out.logits, answers),
        "balance": 4 * negative_entropy(out.logits),
        "act": -5 * out.features.abs().mean(),
        "adv": -6 * disagreement(chain.student(x).logits, out.logits, "kl"),
        "bound": Bound()(out.embedding, problem.anchors[answers]),
    }
    assert terms.keys() == expected.keys()
    for name, term in expected.items():
        assert torch.allclose(terms[name], term), name
        slopes = [torch.autograd.grad(t, x, retain_graph=True)[0] for t in (terms[name], term)]
        assert torch.allclose(*slopes), name
        assert slopes[0].abs().sum() > 0, name


def test_a_weight_of_zero_leaves_its_term_out(problem):
    here = replace(problem, bound=None)
    for name, expected in (("dafl", {"ce", "balance", "act"}), ("zskt", {"adv"}), ("dfad", {"adv"})):
        method = small(name)
        assert method.terms(here, method.start(here, 0), normal(4, 3, 8, 8)).keys() == expected


def test_terms_speak_of_the_classes_asked_for(problem):
    some, x = replace(problem, labels=(1, 4)), normal(6, 3, 8, 8)
    method = small("dafl")
    terms, out = method.terms(some, method.start(some, 0), x), some.teacher(x)
    answers = torch.tensor([1, 4])[out.logits[:, [1, 4]].argmax(dim=1)]
    assert torch.allclose(terms["ce"], F.cross_entropy(out.logits, answers))  # against all classes
    assert torch.allclose(terms["balance"], 20 * negative_entropy(out.logits[:, [1, 4]]))
    assert torch.allclose(terms["bound"], Bound()(out.embedding, problem.anchors[answers]))


def test_the_generator_is_larger_at_its_beginning():
    with torch.device("meta"):
        for deep, shape in ((False, (3, 8, 8)), (True, (3, 32, 32))):
            made = PlainGenerator(shape, 5, 6, deep=deep, first=4)
            convs = [(part.in_channels, part.out_channels) for part in made if isinstance(part, nn.Conv2d)]
            assert convs[0] == (24, 12)
            assert made.l1.out_features == 24 * 2 * 2
            assert made(torch.empty(2, 5)).shape == (2, *shape)


# Student and generator -------------------------------------------------------------------------


@pytest.mark.parametrize(("name", "distance"), [("zskt", "kl"), ("dfad", "l1")])
def test_a_step_of_the_generator_makes_the_nets_disagree_more(problem, name, distance, monkeypatch):
    method = small(name, batch_size=32, lr=1e-3)
    here = replace(problem, bound=None, student=tiny_net(5, key=3).eval().requires_grad_(False))
    chain, z = method.start(here, 0), normal(32, 6)
    monkeypatch.setattr(GeneratorLoop, "noise", lambda self, problem, count, rng: z)

    def apart() -> float:
        with torch.no_grad():
            x = method.inputs(here, replace(chain, generator=copy.deepcopy(chain.generator).train()), z)
            return disagreement(chain.student(x).logits, here.teacher(x).logits, distance).item()

    before = apart()
    found = method.alternate(here, chain, 0, generator(0))
    assert found["adv"].item() == pytest.approx(-before, rel=1e-4)
    assert apart() > before


@pytest.mark.parametrize("name", ["zskt", "dfq", "dfad"])
def test_a_student_that_is_the_teacher_is_refused(problem, name):
    itself = replace(problem, student=problem.teacher)
    for refused in (lambda: small(name).checked(itself), lambda: small(name).start(itself, 0)):
        with pytest.raises(ConfigError, match=f"synthesizer {name}: the student is the teacher"):
            refused()
    calm = FOUR[name](**SMALL | {"adv": 0.0, "ce": 1.0})
    assert calm.start(calm.checked(itself), 0).student is None
    assert DAFL().checked(itself) is itself


def test_the_temperature_reaches_the_student(problem):
    losses = {}
    for temperature in (1.0, 20.0):
        method = small("zskt", temperature=temperature, student_steps=1)
        chain = method.start(problem, 0)
        x = method.fresh(problem, chain, 8, generator("x"))
        student, teacher = copy.deepcopy(chain.student).train()(x).logits, problem.teacher(x).logits
        p, q = (logits.div(temperature).softmax(dim=1) for logits in (teacher, student))
        by_hand = temperature**2 * (p * (p / q).log()).sum(dim=1).mean()
        got = method.teach(problem, chain, generator("x"))
        assert got["student_kl"].item() == pytest.approx(by_hand.item(), rel=1e-2)
        losses[temperature] = got["student_kl"].item()
    assert losses[1.0] != pytest.approx(losses[20.0], rel=1e-2)


@pytest.mark.parametrize(("name", "loss"), [("zskt", "student_kl"), ("dfad", "student_l1")])
def test_the_student_learns_to_agree_on_samples_that_are_new_in_every_step(problem, name, loss, monkeypatch):
    method = small(name, student_steps=30, student_batch=16, student_lr=0.05)
    chain, seen = method.start(problem, 0), []
    fresh = GeneratorLoop.fresh

    def watched(self: GeneratorLoop, *given: Any) -> Tensor:
        seen.append(fresh(self, *given))
        return seen[-1]

    monkeypatch.setattr(GeneratorLoop, "fresh", watched)
    first = method.teach(problem, chain, generator("first"))[loss]
    second = method.teach(problem, chain, generator("second"))[loss]
    assert second < first
    assert len(seen) == 60
    assert not any(torch.equal(a, b) for a, b in pairwise(seen))
    assert not chain.student.training
    assert not any(p.requires_grad for p in chain.student.parameters())


@pytest.mark.parametrize(("name", "order"), [("zskt", "GS"), ("dfad", "SG")])
def test_who_begins_is_the_methods_choice(problem, name, order, monkeypatch):
    method, turns = small(name), []
    chain = method.start(problem, 0)
    terms, teach = AdversarialLoop.terms, AdversarialLoop.teach
    monkeypatch.setattr(AdversarialLoop, "terms", lambda self, *given: turns.append("G") or terms(self, *given))
    monkeypatch.setattr(AdversarialLoop, "teach", lambda self, *given: turns.append("S") or teach(self, *given))
    report = method.episode(problem, chain, 1)
    assert "".join(turns) == 2 * order
    assert report["total"] == pytest.approx(report["adv"] + report["bound"], rel=1e-5)


def test_nets_are_in_eval_mode_but_for_who_learns(problem, monkeypatch):
    method, modes = small("dfq"), set()
    chain = method.start(problem, 0)
    inputs = GeneratorLoop.inputs

    def watched(self: GeneratorLoop, *given: Any) -> Tensor:
        modes.add((chain.generator.training, chain.student.training, torch.is_grad_enabled()))
        return inputs(self, *given)

    monkeypatch.setattr(GeneratorLoop, "inputs", watched)
    chain.student.train()
    method.episode(problem, chain, 1)
    assert modes == {(True, False, True), (False, True, False)}


def test_a_student_that_others_teach_is_only_asked(problem):
    student = tiny_net(5, key=4).eval().requires_grad_(False)
    here, before = replace(problem, student=student), student.weights()
    method = small("dfq")
    chain = method.start(here, 0)
    report = method.episode(here, chain, 1)
    assert chain.student is student
    assert "adv" in report
    assert not any(name.startswith("student") for name in report)
    assert all(torch.equal(w, before[name]) for name, w in student.weights().items())


def test_without_disagreement_there_is_no_student(problem):
    chain = run_chain(small("dafl"), problem)
    assert chain.student is None
    assert chain.teaching is None


def test_the_students_rate_falls_as_a_cosine(problem):
    method = small("zskt", rounds=4, student_lr=0.2, student_lr_end=0.1)
    chain, rates = method.start(problem, 0), []
    for number in range(1, 5):
        method.episode(problem, chain, number)
        rates.append(chain.teaching.param_groups[0]["lr"])
    assert rates == pytest.approx([0.1 + 0.1 * (1 + math.cos(math.pi * k / 4)) / 2 for k in range(4)])


@pytest.mark.parametrize("name", ["bn", "ce", "balance", "act", "adv"])
def test_every_term_is_learnt(problem, name):
    alone = dict.fromkeys(WEIGHTS, 0.0) | {name: 1.0}
    method = small("dfq", steps=8, batch_size=16, lr=1e-2, **alone)
    here = replace(problem, bound=None, student=tiny_net(5, key=3).eval().requires_grad_(False))
    chain = method.start(here, 0)
    first, *_, last = (method.episode(here, chain, number) for number in range(1, 4))
    assert last[name] < first[name] - 1e-5
    assert first["total"] == pytest.approx(first[name])


# What all of them share ------------------------------------------------------------------------


@pytest.mark.parametrize(("name", "settings"), EVERY)
def test_a_pool_holds_what_the_teacher_says_of_its_bytes_and_is_the_same_again(problem, name, settings):
    method = create(name, **settings)
    chain = run_chain(method, problem)
    hooks = [len(m._forward_hooks) + len(m._forward_pre_hooks) for m in problem.teacher.modules()]
    assert not any(hooks)
    pool, again = method.pool(problem, chain), method.pool(problem, run_chain(method, problem))
    assert pool.keys() == {"x", "y"}
    assert pool["x"].shape == (25, 3, 8, 8)
    assert pool["x"].dtype == torch.uint8
    assert len(torch.unique(pool["x"], dim=0)) == 25
    assert torch.equal(pool["y"], problem.teacher((pool["x"] / 255 - 0.5) / 0.25).logits.argmax(dim=1))
    assert all(torch.equal(t, again[key]) for key, t in pool.items())
    other = method.pool(problem, method.start(replace(problem, key=(1,)), 0))
    assert not torch.equal(pool["x"], other["x"])


@pytest.mark.parametrize(("name", "settings"), EVERY)
def test_a_chain_goes_on_from_what_was_saved_to_the_bit(problem, name, settings):
    method = create(name, **settings)
    straight, went_on = run_chain(method, problem), gone_on(method, problem, after=1)
    assert alike(straight.generator, went_on.generator)
    assert straight.student is None or alike(straight.student, went_on.student)
    assert straight.memory.keys() == went_on.memory.keys()
    assert all(torch.equal(t, went_on.memory[key]) for key, t in straight.memory.items())
    assert torch.equal(method.pool(problem, straight)["x"], method.pool(problem, went_on)["x"])


def drifted(method: GeneratorLoop, problem: SynthesisProblem) -> GeneratorReplica:
    """A chain whose generator's images the teacher sees as several classes."""
    chain = method.start(problem, 0)
    with torch.no_grad():
        chain.generator.l1.weight.mul_(20)
        chain.generator.conv3.weight.mul_(20)
    return chain


def loud_problem(**settings: Any) -> SynthesisProblem:
    net = tiny_net(5, key=8)
    with torch.no_grad():
        net.classifier.weight.mul_(20)
        x = normal(200, 3, 8, 8)
        net.classifier.bias.sub_(net.eval()(x).logits.mean(dim=0))
    return problem_of(net, mean=torch.full((3,), 0.5), std=torch.full((3,), 0.25), **settings)


def test_of_some_classes_alone_the_pool_is_filled_as_far_as_the_generator_makes_them():
    method = small("dafl", samples=30)
    every = loud_problem()
    chain = drifted(method, every)
    found = torch.bincount(method.pool(every, chain)["y"], minlength=5)
    often, never = found.argmax().item(), found.argmin().item()
    assert 0 < found[often] < 30
    some = replace(every, labels=(often,))
    pool = method.pool(some, chain)
    assert pool["y"].tolist() == [often] * 30
    assert torch.equal(every.teacher((pool["x"] / 255 - 0.5) / 0.25).logits.argmax(dim=1), pool["y"])
    view = next(method.views(some, chain, 7, generator("v")))
    assert view.y.tolist() == [often] * 7
    never = next((k for k in range(5) if not found[k]), never)
    with torch.no_grad():
        every.teacher.classifier.bias[never] = -1e4
    with pytest.raises(TrainingError, match=f"dafl: of {30 * PATIENCE} samples the teacher sees none as one of the 1"):
        method.pool(replace(every, labels=(never,)), chain)


def test_a_class_that_is_rare_gives_fewer_samples_than_the_share(monkeypatch):
    method, every = small("dafl", samples=30, batch_size=60), loud_problem()
    chain = drifted(method, every)
    monkeypatch.setattr("fcil.synthesis.families.generator_loop.PATIENCE", 2)
    monkeypatch.setattr(GeneratorLoop, "fresh", lambda self, problem, chain, count, rng: normal(count, 3, 8, 8))
    with torch.no_grad():  # five of the sixty that are tried are of the class
        logits = every.teacher(normal(60, 3, 8, 8)).logits
        lead = logits[:, 2] - logits[:, [0, 1, 3, 4]].amax(dim=1)
        every.teacher.classifier.bias[2] -= lead.topk(6).values[4:].mean()
    x, y = method.drawn(replace(every, labels=(2,)), chain, 30, generator(0), rounded=False)
    assert y.tolist() == [2] * 5
    assert len(x) == 5


@pytest.mark.parametrize(("name", "settings"), EVERY)
def test_views_are_new_samples_of_the_generator_as_it_stands(problem, name, settings):
    method = create(name, **settings)
    chain = method.start(problem, 0)
    views = method.views(problem, chain, 7, generator("views"))
    first, second = islice(views, 2)
    assert first.x.shape == (7, 3, 8, 8)
    assert first.id is None
    assert torch.equal(first.y, problem.teacher(first.x).logits.argmax(dim=1))
    assert not torch.equal(first.x, second.x)
    assert not first.x.requires_grad
    again = next(method.views(problem, chain, 7, generator("views")))
    assert torch.equal(again.x, first.x)
    method.episode(problem, chain, 1)
    assert not torch.equal(next(method.views(problem, chain, 7, generator("views"))).x, first.x)
    before = copy.deepcopy(chain.generator)
    next(views)
    assert alike(before, chain.generator)  # looking changes nothing


def test_chains_differ_and_share_the_episodes_and_the_samples(problem):
    method = small("zskt", rounds=3, chains=2)
    assert method.episodes == 2
    one, two = (method.start(problem, chain) for chain in range(2))
    assert not torch.equal(one.generator.l1.weight, two.generator.l1.weight)
    assert not torch.equal(one.student.backbone.conv.weight, two.student.backbone.conv.weight)
    whole = method.run(teacher=tiny_net(5), labels=range(5), shape=(3, 8, 8))
    assert len(whole["x"]) == 25


def test_every_step_of_every_episode_and_chain_has_noise_of_its_own(problem, monkeypatch):
    method, drawn = small("dafl", rounds=4, chains=2), []
    noise = GeneratorLoop.noise

    def watched(self: GeneratorLoop, *given: Any) -> Tensor:
        drawn.append(noise(self, *given))
        return drawn[-1]

    monkeypatch.setattr(GeneratorLoop, "noise", watched)
    for chain in (method.start(problem, number) for number in range(2)):
        for number in (1, 2):
            method.episode(problem, chain, number)
    assert len(torch.unique(torch.cat(drawn), dim=0)) == 2 * 2 * 2 * 10
    z = noise(replace(method, latent=400), problem, 1000, generator(0))
    assert abs(z.mean()) < 0.01
    assert abs(z.std() - 1) < 0.01


def test_augmentation_and_the_global_stream_play_no_part(problem):
    method = small("dfq")
    plain = run_chain(method, problem)
    torch.manual_seed(7)
    assert alike(plain.generator, run_chain(method, replace(problem, augment=Augment(padding=2, flip=True))).generator)


@pytest.mark.parametrize(("name", "settings"), EVERY)
def test_half_precision_is_near_the_whole(problem, name, settings):
    method = create(name, **settings)
    reports = []
    for precision in ("fp32", "bf16"):
        here = replace(problem, precision=precision)
        chain = method.start(here, 0)
        reports.append(method.episode(here, chain, 1))
        assert method.pool(here, chain)["x"].dtype == torch.uint8
    assert reports[1]["total"] == pytest.approx(reports[0]["total"], rel=0.1, abs=0.02)


@pytest.mark.parametrize(("name", "settings"), EVERY)
def test_a_smoke_run_takes_a_moment_whatever_was_asked_for(name, settings):
    method = create(name).smoke()
    assert method.episodes * method.steps == 4
    assert method.batch_size <= 32
    assert method.samples <= 64
    assert getattr(method, "student_steps", 1) == 1
    assert create(name, chains=100).smoke().samples == 100
    pool = replace(method, latent=6, width=3).run(teacher=tiny_net(5), labels=range(5), shape=(3, 8, 8))
    assert len(pool["x"]) == 64


# Refused ---------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("name", "options", "message"),
    [
        ("dafl", {"ce": 0, "balance": 0, "act": 0}, "bn, ce, balance, act and adv are all 0"),
        ("dfad", {"temperature": 4}, "temperature: 4.0 softens a KL, and distance is l1"),
        ("zskt", {"distance": "js"}, "'kl' or 'l1'"),
        ("dfq", {"batch_size": 1}, "batch_size"),
        ("dfq", {"student_steps": 0}, "student_steps"),
        ("dfq", {"chains": 3, "samples": 2}, "3 chains cannot share 2 samples"),
        ("live", {}, 'unknown synthesizer "live"'),
    ],
)
def test_wrong_settings_are_refused_in_a_line(name, options, message):
    with pytest.raises(ConfigError, match=message):
        create(name, **options)


@pytest.mark.parametrize(("name", "settings"), EVERY)
def test_what_cannot_be_made_is_refused_in_a_line(problem, name, settings):
    method = create(name, **settings)
    with pytest.raises(ConfigError, match="multiples of 4, not 10 x 10"):
        method.checked(replace(problem, shape=(3, 10, 10)))
    with pytest.raises(ConfigError, match=rf"{name}: makes images; this data has samples of shape \(12,\)"):
        method.checked(replace(problem, shape=(12,)))


def test_batchnorm_is_needed_where_it_is_matched_alone(problem):
    problem.teacher.backbone.bn = nn.Identity()
    for name, settings in EVERY:
        if name == "dfq":
            with pytest.raises(ConfigError, match="dfq: needs batch-norm layers"):
                small(name).checked(problem)
        else:
            method = create(name, **settings)
            assert method.episode(method.checked(problem), method.start(problem, 0), 1)
    assert small("dfq", bn=0.0).checked(problem) is problem
    with pytest.raises(ConfigError, match="dafl: needs batch-norm layers"):
        small("dafl", bn=1.0).checked(problem)
    assert FOUR["dfq"].needs == {"batchnorm"}
    assert not any(FOUR[name].needs for name in ("dafl", "zskt", "dfad"))


@pytest.mark.parametrize(("name", "settings"), EVERY)
def test_a_loss_that_is_no_number_is_named(problem, name, settings):
    problem.teacher.classifier.weight.fill_(math.nan)
    method = create(name, **settings)
    with pytest.raises(TrainingError, match=r'synthesis term "\w+" became nan in episode 1'):
        method.episode(problem, method.start(problem, 0), 1)


# Whole runs ------------------------------------------------------------------------------------


@pytest.mark.parametrize(("strategy", "name"), [("lander", "dfq"), ("target", "dfad"), ("lander", "rdskd")])
def test_strategies_run_with_them(tmp_path, strategy, name):
    settings = dict(EVERY)[name]
    assert len(synthetic_of_a_run(tmp_path, strategy, {name: settings})["x"]) == 25


def test_machinery_is_no_method():
    names = synthesizer_names()
    assert {*FOUR, "rdskd"} <= set(names)
    assert not {"live", "mixture"} & set(names)


def test_a_seeded_generator_is_named_by_its_key(problem):
    with seeded(0, 0, "generator"):
        alone = small("dafl").new_generator((3, 8, 8))
    assert alike(alone, small("dafl").start(problem, 0).generator)
    assert isinstance(alone, PlainGenerator)
