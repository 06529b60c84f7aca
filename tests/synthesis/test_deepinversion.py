"""DeepInversion against the reference code of DataFree, in double precision; its terms by hand, and its traps."""

from __future__ import annotations

import math
from dataclasses import replace
from typing import Any

import pytest
import torch
import torch.nn.functional as F
from golden_vectors import Case, assert_matches, load_case
from scripted_roles import gradient
from synthesis_problems import (
    bounded_problem,
    check_batchnorm_is_needed_to_match_it,
    digits_problem,
    gone_on,
    problem_of,
    run_chain,
    synthetic_of_a_run,
    two_convs_net,
)
from tiny_net import normal, tiny_net
from torch import Tensor

from fcil.data import Augment, normalise
from fcil.errors import ConfigError, TrainingError
from fcil.losses import record_statistics, statistics_distance
from fcil.nets import Net
from fcil.rng import generator
from fcil.synthesis import Bound, SynthesisProblem, create, synthesizer_names
from fcil.synthesis.common.losses import bns_score, clamped_jensen_shannon, jensen_shannon, total_variation
from fcil.synthesis.common.pool import to_bytes
from fcil.synthesis.deepinversion import SIDES, DeepInversion, DeepInversionReplica
from fcil.synthesis.families.pixel_loop import Optimised, Shift, noise, optimise, shifts, stored
from fcil.types import Tensors, Terms

SMALL: dict[str, Any] = {"rounds": 3, "steps": 2, "batch_size": 10, "student_steps": 2, "student_batch": 4}


class Watched(DeepInversion):
    """DeepInversion that notes what it optimises and where each step was."""

    def watch(self) -> Watched:
        object.__setattr__(self, "notes", {"found": [], "start": [], "views": [], "x": [], "lr": []})
        return self

    def invert(
        self, problem: SynthesisProblem, chain: DeepInversionReplica, labels: Tensor, start: Tensor, views: list[Shift]
    ) -> Optimised:
        self.notes["x"].append([])
        self.notes["start"].append(start.clone())
        self.notes["views"].append(views)
        found = super().invert(problem, chain, labels, start, views)
        self.notes["found"].append(found)
        return found

    def terms(
        self, problem: SynthesisProblem, chain: DeepInversionReplica, x: Tensor, labels: Tensor, view: Shift
    ) -> Terms:
        if self.notes["x"]:
            self.notes["x"][-1].append(x.detach().clone())
        return super().terms(problem, chain, x, labels, view)

    def teach(
        self, problem: SynthesisProblem, chain: DeepInversionReplica, key: Any, past: float = 0.0
    ) -> dict[str, Tensor]:
        means = super().teach(problem, chain, key, past)
        self.notes["lr"].append(chain.teaching.param_groups[0]["lr"])
        return means


def small(**settings: Any) -> Watched:
    return Watched(**SMALL | settings).watch()


@pytest.fixture
def problem() -> SynthesisProblem:
    return bounded_problem()


# The reference, step by step -------------------------------------------------------------------


def golden_net(tensors: Tensors) -> Net:
    return two_convs_net(tensors).eval().requires_grad_(False)


def golden_method(case: Case, **settings: Any) -> Watched:
    p = case.parameters
    weights = {"bn": p["bn"], "ce": p["oh"], "adv": p["adv"], "tv": p["tv"], "l2": p["l2"]}
    numbers = {"batch_size": p["batch"], "steps": p["steps"], "lr": p["lr"], "adv_temperature": p["js_temperature"]}
    return small(**{"fidelity": "reference"} | weights | numbers | settings)


def golden_problem(case: Case) -> SynthesisProblem:
    p = case.parameters
    statistics = {"mean": torch.tensor(p["normalise_mean"]), "std": torch.tensor(p["normalise_std"])}
    return problem_of(golden_net(case.under("params.teacher")), None, shape=(3, p["image"], p["image"]), **statistics)


GOLDEN_TERMS = {"bn": ("bn", "bn"), "cross_entropy": ("ce", "oh"), "tv": ("tv", "tv"), "l2": ("l2", "l2")}


@pytest.mark.usefixtures("_double")
def test_three_steps_match_the_reference():
    case = load_case("64_deepinversion")
    p, t = case.parameters, case.tensors
    method, problem = golden_method(case), golden_problem(case)
    student = golden_net(case.under("params.student"))
    chain = method.start(replace(problem, student=student), 0)
    assert chain.student is student
    views = [Shift(*row) for row in t["inputs.jitter"].tolist()]
    found = method.invert(problem, chain, t["inputs.targets"], t["inputs.x"], views)
    for golden, (name, weight) in GOLDEN_TERMS.items():
        assert_matches(found.terms[name], p[weight] * t[f"expected.steps.{golden}"], case.tolerance, name)
    assert_matches(found.terms["adv"], p["adv"] * t["expected.steps.adversarial_js"], case.tolerance, "adv")
    assert_matches(found.terms["total"], t["expected.steps.total"], case.tolerance, "total")
    mean, std = (value.view(-1, 1, 1) for value in (problem.mean, problem.std))
    assert_matches(found.x * std + mean, t["expected.saved_images"], case.tolerance)
    assert torch.equal(stored(problem, found.x, "floor"), to_bytes(found.x * std + mean, "floor"))


@pytest.mark.usefixtures("_double")
def test_the_gradient_of_the_first_step_matches_the_reference():
    case = load_case("64_deepinversion")
    method, problem = golden_method(case), golden_problem(case)
    chain = method.start(replace(problem, student=golden_net(case.under("params.student"))), 0)
    x = case.tensors["inputs.x"].clone().requires_grad_()
    view = Shift(*case.tensors["inputs.jitter"][0].tolist())
    terms = method.terms(problem, chain, x, case.tensors["inputs.targets"], view)
    got = gradient(torch.stack(list(terms.values())).sum(), x)
    assert_matches(got, case.tensors["expected.step0.grad.x"], case.tolerance)


def test_the_defaults_are_the_references():
    p, m = load_case("64_deepinversion").parameters, DeepInversion()
    assert (m.bn, m.ce, m.adv, m.tv, m.lr) == (p["bn"], p["oh"], p["adv"], p["tv"], p["lr"])
    assert (m.adv_temperature, m.steps, m.batch_size, m.l2) == (p["js_temperature"], 1000, 256, 0.0)
    assert (m.student_steps, m.student_lr, m.student_decay, m.temperature) == (400, 0.1, 1e-4, 20.0)


# Terms -----------------------------------------------------------------------------------------


@pytest.mark.usefixtures("_double")
def test_total_variation_and_clamped_divergence_match_the_reference():
    case = load_case("66_image_prior_and_js")
    t = case.tensors
    image = t["inputs.image"].clone().requires_grad_()
    term = total_variation(image)
    assert_matches(term, t["expected.tv"], case.tolerance)
    assert_matches(gradient(term, image), t["expected.grad.tv.image"], case.tolerance)
    for temperature in (1, 3):
        student, teacher = (t[f"inputs.{whose}_logits"].clone().requires_grad_() for whose in ("student", "teacher"))
        term = clamped_jensen_shannon(student, teacher, temperature)
        assert_matches(term, t[f"expected.js_T{temperature}"], case.tolerance)
        for whose, logits in (("student", student), ("teacher", teacher)):
            golden = t[f"expected.grad.js_T{temperature}.{whose}_logits"]
            assert_matches(gradient(term, logits), golden, case.tolerance, whose)


def test_total_variation_of_a_dot_is_what_its_neighbours_say():
    x = torch.zeros(1, 1, 3, 3)
    x[0, 0, 1, 1] = 1.0
    x.requires_grad_()
    term = total_variation(x)
    assert term.item() == pytest.approx(2 / 6 + 2 / 6 + 2 / 4 + 2 / 4)
    assert gradient(term, x)[0, 0, 1, 1].item() == pytest.approx(term.item())
    assert gradient(term, x)[0, 0, 0, 1].item() == pytest.approx(-1 / 6)
    assert total_variation(torch.full((2, 3, 4, 2), 7.0)) == 0


@pytest.mark.usefixtures("_double")
def test_the_divergence_is_jensens_and_shannons():
    p, q = torch.tensor([[0.5, 0.3, 0.2], [0.9, 0.05, 0.05]]), torch.tensor([[0.1, 0.6, 0.3], [0.9, 0.05, 0.05]])
    one, other = p.log().requires_grad_(), q.log().requires_grad_()
    m = (p + q) / 2
    by_hand = ((p * (p / m).log()).sum(1) + (q * (q / m).log()).sum(1)).mean() / 2
    term = jensen_shannon(one, other)
    assert torch.allclose(term, by_hand)
    assert torch.allclose(term, jensen_shannon(other, one))
    assert torch.allclose(jensen_shannon(3 * one, 3 * other, 3.0), term)
    log_p, log_q = torch.log_softmax(one, 1), torch.log_softmax(other, 1)
    m = (log_p.exp() + log_q.exp()) / 2
    again = ((log_p.exp() * (log_p - m.log())).sum(1) + (log_q.exp() * (log_q - m.log())).sum(1)).mean() / 2
    for logits in (one, other):
        assert torch.allclose(gradient(term, logits), gradient(again, logits))
        assert not gradient(term, logits)[1].abs().gt(1e-12).any()  # they agree there


def test_the_divergence_lies_between_nought_and_log_two_and_stays_finite():
    far = torch.tensor([[4000.0, 0.0]], requires_grad=True)
    term = jensen_shannon(far, far.detach().flip(1))
    assert term.item() == pytest.approx(math.log(2))
    assert gradient(term, far).isfinite().all()
    assert jensen_shannon(far, far).item() == pytest.approx(0, abs=1e-6)
    assert clamped_jensen_shannon(far, far.detach().flip(1)).isfinite()


def test_terms_are_weighted_and_each_reaches_the_images(problem):
    x, labels = normal(6, 3, 8, 8).requires_grad_(), torch.tensor([0, 1, 2, 3, 4, 0])
    method = small(bn=3.0, ce=2.0, adv=5.0, tv=7.0, l2=0.5, adv_temperature=2.0)
    chain, view = method.start(problem, 0), Shift(1, -2, True)
    terms = method.terms(problem, chain, x, labels, view)
    seen = torch.roll(x, (1, -2), (2, 3)).flip(3)
    with record_statistics(problem.teacher) as stats:
        out = problem.teacher(seen)
    expected = {
        "ce": 2 * F.cross_entropy(out.logits, labels),
        "bn": 3 * statistics_distance(problem.teacher, stats),
        "tv": 7 * total_variation(x),
        "l2": 0.5 * x.square().sum().sqrt(),
        "adv": -5 * jensen_shannon(chain.student(seen).logits, out.logits, 2.0),
        "bound": Bound()(out.embedding, problem.anchors[labels]),
    }
    assert terms.keys() == expected.keys()
    for name, term in expected.items():
        assert torch.allclose(terms[name], term), name
        assert torch.allclose(gradient(terms[name], x), gradient(term, x)), name
        assert gradient(term, x).abs().sum() > 0, name


def test_a_term_without_weight_is_not_computed(problem):
    method = small(bn=0.0, tv=0.0, adv=0.0)
    here = replace(problem, bound=None)
    terms = method.terms(here, method.start(here, 0), normal(6, 3, 8, 8), torch.zeros(6).long(), Shift(0, 0, False))
    assert terms.keys() == {"ce"}


def test_without_anchors_or_a_text_head_there_is_no_bound():
    for net, anchors in ((tiny_net(5, None), normal(5, 16)), (tiny_net(5), None)):
        method = small()
        here = problem_of(net, anchors, bound=Bound())
        assert "bound" not in method.episode(here, method.start(method.checked(here), 0), 1)


# Pixels ----------------------------------------------------------------------------------------


def test_a_shift_rolls_and_then_mirrors():
    x = torch.arange(12.0).view(1, 1, 3, 4)
    assert Shift(1, 0, False)(x)[0, 0, :, 0].tolist() == [8, 0, 4]
    assert Shift(0, 1, False)(x)[0, 0, 0].tolist() == [3, 0, 1, 2]
    assert Shift(0, 1, True)(x)[0, 0, 0].tolist() == [2, 1, 0, 3]


def test_shifts_reach_a_share_of_each_side_and_mirror_half_of_the_steps():
    views = shifts(600, (3, 16, 41), 0.125, True, generator(0))
    assert {view.rows for view in views} == set(range(-2, 3))
    assert {view.columns for view in views} == set(range(-5, 6))
    assert 250 < sum(view.mirrored for view in views) < 350
    assert set(shifts(50, (3, 8, 8), 0.0, False, generator(0))) == {Shift(0, 0, False)}


def test_every_step_has_a_view_of_its_own_and_the_data_says_whether_it_is_mirrored(problem):
    for augment, settings, mirrored in (
        (Augment(), {}, False),
        (Augment(flip=True), {}, True),
        (Augment(flip=True), {"flip": False}, False),
        (Augment(), {"fidelity": "reference"}, True),
    ):
        method, here = small(steps=40, rounds=1, adv=0.0, jitter=0.5, **settings), replace(problem, augment=augment)
        run_chain(method, here)
        ((*views,),) = method.notes["views"]
        assert len(set(views)) > 10
        assert any(view.mirrored for view in views) == mirrored


def test_adam_moves_pixels_against_the_gradient_and_back_into_the_box(problem):
    here = replace(problem, mean=torch.tensor([0.5, 0.0, 1.0]), std=torch.tensor([0.25, 1.0, 0.5]))
    start = torch.zeros(2, 3, 2, 2)
    slope = torch.tensor([1.0, -1.0, 2.0]).view(3, 1, 1)

    def terms(x: Tensor, step: int) -> Terms:
        return {"a": (slope * x).sum(), "b": x.sum() * 0 + step}

    found = optimise(here, start, terms, steps=1, lr=0.1, kept="last")
    assert torch.allclose(found.x[0, :, 0, 0], torch.tensor([-0.1, 0.1, -0.1]))
    assert not start.any()
    found = optimise(here, start, terms, steps=100, lr=0.5, kept="last")
    assert torch.allclose(found.x[1, :, 1, 1], torch.tensor([-2.0, 1.0, -2.0]))  # (0 - mean) / std, (1 - mean) / std
    assert found.terms["b"].tolist() == list(range(100))
    assert torch.equal(found.terms["total"], found.terms["a"] + found.terms["b"])


@pytest.mark.parametrize("kept", ["best", "last"])
def test_the_best_is_the_iterate_of_the_lowest_loss_and_no_alias_of_the_last(problem, kept):
    """The loss falls, rises and never falls as low again."""
    walked: list[Tensor] = []

    def terms(x: Tensor, step: int) -> Terms:
        walked.append(x.detach().clone())
        return {"loss": (x.mean() * (1 if step < 3 else -1)) + 0.01 * step}

    found = optimise(problem, torch.zeros(2, 3, 4, 4), terms, steps=8, lr=0.1, kept=kept)
    losses = found.terms["loss"].tolist()
    lowest = losses.index(min(losses))
    assert 0 < lowest < 7
    assert torch.equal(found.x, walked[lowest]) == (kept == "best")
    assert not any(torch.equal(found.x, x) for x in walked[lowest + 1 :])  # the last was never measured


def test_an_episode_keeps_its_best_or_its_last_images(problem):
    for kept in ("best", "last"):
        method = small(kept=kept, steps=5, rounds=1, adv=0.0)
        chain = run_chain(method, problem)
        (found,), (walked,) = method.notes["found"], method.notes["x"]
        best = walked[int(found.terms["total"].argmin())]
        assert torch.equal(chain.x, stored(problem, found.x))
        assert torch.equal(chain.x, stored(problem, best)) == (kept == "best")
        assert torch.equal(walked[0], method.notes["start"][0])


def test_images_begin_as_noise_that_every_episode_draws_anew(problem):
    method = small(steps=1, adv=0.0)
    run_chain(method, problem)
    one, two, _ = method.notes["start"]
    assert not torch.equal(one, two)
    many = noise(problem, 500, generator(0))
    assert abs(many.mean()) < 0.02
    assert abs(many.std() - 1) < 0.02


def test_only_the_images_get_a_gradient(problem):
    student = tiny_net(5, key=3).eval()
    method = small(rounds=1)
    here = replace(problem, student=student)
    run_chain(method, here)
    assert all(p.grad is None for p in (*student.parameters(), *problem.teacher.parameters()))
    assert not any(m._forward_pre_hooks or m._forward_hooks for m in here.teacher.modules())


def test_half_precision_is_for_the_nets_alone(problem):
    method = small(rounds=1)
    run_chain(method, replace(problem, precision="bf16"))
    (found,) = method.notes["found"]
    assert {x.dtype for x in method.notes["x"][0]} == {found.x.dtype} == {torch.float32}
    exact = small(rounds=1)
    run_chain(exact, problem)
    for name, term in exact.notes["found"][0].terms.items():
        assert torch.allclose(found.terms[name], term, rtol=0.05, atol=1e-3), name


# The student -----------------------------------------------------------------------------------


def test_the_student_learns_between_episodes_at_a_falling_rate(problem):
    method = small(rounds=4, student_lr=0.2, student_lr_end=0.1)
    chain = method.start(problem, 0)
    before = chain.student.weights()
    reports = [method.episode(problem, chain, number) for number in (1, 2, 3, 4)]
    assert all({"adv", "student_kl"} <= report.keys() for report in reports)
    half = [0.1 + 0.1 * (1 + math.cos(math.pi * k / 4)) / 2 for k in range(4)]
    assert method.notes["lr"] == pytest.approx(half)
    assert any(not torch.equal(w, before[name]) for name, w in chain.student.weights().items())
    assert not chain.student.training
    assert all("momentum_buffer" in chain.teaching.state[p] for p in chain.student.parameters() if p.ndim == 4)


def test_plain_deepinversion_has_no_student(problem):
    method = small(adv=0.0)
    chain = method.start(replace(problem, student=tiny_net(5, key=3)), 0)
    assert (chain.student, chain.teaching) == (None, None)
    assert method.episode(problem, chain, 1).keys() == {"ce", "bn", "tv", "bound", "total"}


def test_a_student_that_comes_along_is_used_and_left_as_it_is(problem):
    student = tiny_net(5, key=3).eval().requires_grad_(False)
    before, here = student.weights(), replace(problem, student=student)
    method = small()
    chain = method.start(here, 0)
    report = method.episode(here, chain, 1)
    assert chain.student is student
    assert "adv" in report
    assert "student_kl" not in report
    assert all(torch.equal(w, before[name]) for name, w in student.weights().items())


def test_an_adversary_that_is_the_teacher_is_refused(problem):
    here = replace(problem, student=problem.teacher)
    with pytest.raises(ConfigError, match="the student is the teacher, so they never differ; set adv: 0"):
        small().checked(here)
    assert small(adv=0.0).checked(here) is here


# The pool --------------------------------------------------------------------------------------


def test_the_pool_holds_the_latest_samples_as_bytes_with_the_labels_asked_for(problem):
    here, images, labels = replace(problem, labels=(1, 3, 4)), [], []
    method = small(rounds=4, samples=25)
    chain = method.start(here, 0)
    for number in range(1, 5):
        method.episode(here, chain, number)
        images.append(stored(here, method.notes["found"][-1].x))
        labels.append(chain.y[-10:])
    pool = method.pool(here, chain)
    assert pool.keys() == {"x", "y"}
    assert pool["x"].dtype == torch.uint8
    assert torch.equal(pool["x"], torch.cat(images)[-25:])
    assert torch.equal(pool["y"], torch.cat(labels)[-25:])
    assert set(pool["y"].tolist()) <= {1, 3, 4}


def test_rounds_fill_the_pool_unless_they_are_given():
    assert DeepInversion().episodes == 40
    assert DeepInversion(samples=257).episodes == 2
    assert DeepInversion(samples=10, batch_size=4, chains=2).episodes == 2
    assert DeepInversion(rounds=7, chains=2).episodes == 4


def test_the_same_key_gives_the_same_pool_and_chains_share_it(problem):
    method = DeepInversion(**SMALL | {"rounds": None, "samples": 30, "chains": 2})
    pools = [method.run(teacher=tiny_net(5), labels=range(5), shape=(3, 8, 8), key=(key,)) for key in (0, 0, 1)]
    assert len(pools[0]["x"]) == 30
    assert torch.equal(pools[0]["x"], pools[1]["x"])
    assert not torch.equal(pools[0]["x"], pools[2]["x"])
    assert not torch.equal(pools[0]["x"][:15], pools[0]["x"][15:])


@pytest.mark.parametrize("adv", [0.0, 1.0])
def test_a_chain_goes_on_from_what_was_saved_to_the_bit(problem, adv):
    method = DeepInversion(**SMALL | {"adv": adv, "rounds": 4})
    straight = run_chain(method, problem)
    went_on = gone_on(method, problem, after=2)
    for name, pooled in method.pool(problem, straight).items():
        assert torch.equal(pooled, method.pool(problem, went_on)[name])
    if adv:
        again = went_on.student.weights()
        assert all(torch.equal(w, again[name]) for name, w in straight.student.weights().items())
    else:
        assert went_on.student is None


def test_images_of_digits_are_what_they_were_asked_to_be_and_agree_with_the_statistics():
    here = digits_problem()
    method = DeepInversion(rounds=1, steps=80, batch_size=60, adv=0.0, bn=1.0, labels="balanced")
    pool = method.pool(here, run_chain(method, here))
    x = normalise(pool["x"], here.mean, here.std)
    right = (here.teacher(x).logits.argmax(dim=1) == pool["y"]).float().mean()
    assert right >= 0.9
    assert bns_score(here.teacher, x) < bns_score(here.teacher, normal(*x.shape)) / 5


@pytest.mark.parametrize("strategy", ["target", "lander"])
def test_strategies_run_with_it(tmp_path, strategy):
    settings = {"rounds": 2, "steps": 2, "batch_size": 10, "samples": 20, "student_steps": 2}
    assert synthetic_of_a_run(tmp_path, strategy, {"deepinversion": settings})["x"].shape == (20, 1, 8, 8)


# Sides and refusals ----------------------------------------------------------------------------


@pytest.mark.parametrize("name", SIDES)
@pytest.mark.parametrize(("fidelity", "column"), [("paper", 0), ("reference", 1)])
def test_an_open_field_takes_the_side_and_a_chosen_one_wins(name, fidelity, column):
    assert getattr(DeepInversion(), name) is None
    assert getattr(DeepInversion(fidelity=fidelity).settled, name) == SIDES[name][column]
    chosen = False if name == "flip" else SIDES[name][1 - column]
    assert getattr(create("deepinversion", **{"fidelity": fidelity, name: chosen}).settled, name) == chosen


def test_it_takes_the_callers_side_where_it_has_none():
    assert DeepInversion().with_fidelity("reference").settled.kept == "last"
    assert DeepInversion(fidelity="paper").with_fidelity("reference").settled.kept == "best"


def test_batchnorm_is_needed_where_it_is_matched_alone():
    check_batchnorm_is_needed_to_match_it(small)


@pytest.mark.parametrize(
    ("shape", "message"),
    [
        ((3, 8), r"makes images; this data has samples of shape \(3, 8\)"),
        ((3, 1, 8), r"images of 1 x 8 pixels have no neighbours"),
    ],
)
def test_what_cannot_be_made_is_refused_in_a_line(shape, message):
    with pytest.raises(ConfigError, match=message):
        small().checked(problem_of(tiny_net(5), None, shape=shape))


def test_a_loss_that_is_no_number_is_named(problem):
    broken = replace(problem, anchors=torch.full((5, 16), math.nan))
    method = small()
    with pytest.raises(TrainingError, match=r'synthesis term "\w+" became nan in episode 1'):
        method.episode(broken, method.start(broken, 0), 1)


def test_smoke_is_short_and_reaches_the_student():
    method = DeepInversion().smoke()
    assert (method.episodes, method.steps, method.student_steps, method.batch_size) == (3, 2, 1, 32)


def test_shared_machinery_is_no_method():
    assert "deepinversion" in synthesizer_names()
    assert "pixels" not in synthesizer_names()
