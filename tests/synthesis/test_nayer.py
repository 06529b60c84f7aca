"""NAYER on a small problem: its sides, its silent traps, and NAYER on its own."""

from __future__ import annotations

import math
from dataclasses import replace
from itertools import pairwise
from typing import Any

import pytest
import torch
import torch.nn.functional as F
from golden_vectors import load_case
from synthesis_problems import (
    alike,
    bounded_problem,
    check_batchnorm_is_needed_to_match_it,
    gone_on,
    problem_of,
    run_chain,
)
from tiny_net import normal, tiny_net
from torch import Tensor
from watched_nayer import Watched

from fcil.data import Augment
from fcil.errors import ConfigError, TrainingError
from fcil.losses import kl_divergence
from fcil.nets import frozen
from fcil.rng import generator
from fcil.store.pools import distinct_samples
from fcil.synthesis import Bound, SynthesisProblem, create
from fcil.synthesis import nayer as nayer_module
from fcil.synthesis.common.inner_loop import balanced_labels
from fcil.synthesis.common.pool import to_bytes
from fcil.synthesis.common.student import distillation
from fcil.synthesis.families import with_student as taught
from fcil.synthesis.nayer import ALONE, NAYER, SIDES
from fcil.types import Output, Tensors, Terms

# A small problem --------------------------------------------------------------------------------


SMALL: dict[str, Any] = {
    "rounds": 2,
    "warmup": 1,
    "steps": 2,
    "batch_size": 10,
    "latent": 8,
    "width": 4,
    "rows_per_layer": 4,
    "student_steps": 2,
    "student_batch": 4,
}


def small(**settings: Any) -> Watched:
    return Watched(**SMALL | settings).watch()


@pytest.fixture
def problem() -> SynthesisProblem:
    return bounded_problem()


# Sides ------------------------------------------------------------------------------------------


@pytest.mark.parametrize("name", SIDES)
@pytest.mark.parametrize(("fidelity", "column"), [("paper", 0), ("reference", 1)])
def test_an_open_field_takes_the_side_and_a_chosen_one_wins(name, fidelity, column):
    assert getattr(NAYER(), name) is None
    assert getattr(NAYER(fidelity=fidelity).settled, name) == SIDES[name][column]
    other = SIDES[name][1 - column]
    chosen = create("nayer", **{"fidelity": fidelity, name: other})
    assert getattr(chosen.settled, name) == other
    assert all(getattr(chosen.settled, k) == SIDES[k][column] for k in SIDES.keys() - {name})


def test_without_a_side_of_its_own_it_takes_the_callers_and_else_the_papers():
    assert NAYER().settled == replace(NAYER(), **{k: paper for k, (paper, _) in SIDES.items()})
    assert NAYER().with_fidelity("reference").settled.cut == "string-sorted"
    assert NAYER(fidelity="paper").with_fidelity("reference").settled.cut == "latest"


def test_samples_carry_the_learnt_statistics_or_discard_them(problem):
    pools = {side: small(stats=side) for side in SIDES["stats"]}
    chains = {side: run_chain(method, problem) for side, method in pools.items()}
    carried = pools["carry"].pool(problem, chains["carry"])
    assert carried["mean"].shape == carried["std"].shape == (20, 3)
    made_under = [found.statistics for found, _ in pools["carry"].notes["found"]]
    assert torch.equal(carried["mean"][-1], made_under[-1][0])
    assert torch.equal(carried["std"][-1], made_under[-1][1])
    assert not torch.equal(carried["mean"][0], carried["mean"][-1])  # each batch keeps what it was made under
    assert pools["discard"].pool(problem, chains["discard"]).keys() == {"x", "y"}
    told = small(stats="carry", learn_stats=False)
    assert told.pool(problem, run_chain(told, problem)).keys() == {"x", "y"}


def test_the_learnt_deviation_is_kept_positive_or_free(problem):
    for side in SIDES["sigma"]:
        method = small(sigma=side)
        chain = method.start(problem, 0)
        mean, std = method.statistics(problem, chain)
        assert torch.allclose(std, torch.full((3,), 0.2))
        assert (mean == 0.5).all()
        chain.spread.data.fill_(-1.0)
        assert (method.statistics(problem, chain)[1] > 0).all() == (side == "positive")


def test_told_statistics_are_the_real_ones(problem):
    method = small(learn_stats=False)
    chain = method.start(problem, 0)
    mean, std = method.statistics(problem, chain)
    assert mean is problem.mean
    assert std is problem.std
    before = chain.mean.clone()
    method.episode(problem, chain, 1)
    assert torch.equal(chain.mean, before)


@pytest.mark.parametrize("start", SIDES["student_start"])
def test_a_student_starts_fresh_or_with_the_teachers_classifier_and_statistics(problem, start):
    teacher = problem.teacher
    teacher.backbone.bn.running_mean.fill_(3.0)
    teacher.backbone.bn.weight.fill_(2.0)
    student = small(student_start=start).start(problem, 0).student
    kept = start == "reference"
    assert torch.equal(student.classifier.weight, teacher.classifier.weight) == kept
    assert torch.equal(student.backbone.bn.running_mean, teacher.backbone.bn.running_mean) == kept
    for name in ("backbone.conv.weight", "text_head.weight", "text_head.bias", "backbone.bn.weight"):
        assert not torch.equal(student.get_parameter(name), teacher.get_parameter(name)), name
    assert not student.training
    assert torch.equal(teacher.backbone.bn.weight, torch.full((8,), 2.0))


@pytest.mark.parametrize("mode", SIDES["student_mode"])
def test_from_the_second_loop_on_the_student_is_in_eval_or_in_train_mode(problem, mode):
    method = small(student_mode=mode, loops=3, warmup=0, student_steps=0)
    chain = method.start(problem, 0)
    before = chain.student.backbone.bn.running_mean.clone()
    method.episode(problem, chain, 3)
    modes = [{training for _, training, _ in loop} for loop in method.notes["steps"]]
    assert modes == [{False}, {mode == "reference"}, {mode == "reference"}]
    assert torch.equal(before, chain.student.backbone.bn.running_mean) == (mode == "eval")
    assert not chain.student.training


@pytest.mark.parametrize(("first", "batches"), [("after-warmup", 2), ("last-warmup", 3)])
def test_the_first_batch_kept_is_the_one_after_the_warmup_or_its_last(problem, first, batches):
    chain = run_chain(small(first_kept=first, warmup=2), problem)
    assert len(chain.images) == len(chain.labels) == batches


def test_the_student_learns_whenever_a_batch_is_kept(problem):
    for first, learns in (("after-warmup", [False, False, True]), ("last-warmup", [False, True, True])):
        method = small(first_kept=first, warmup=2)
        chain = method.start(problem, 0)
        reports = [method.episode(problem, chain, number) for number in (1, 2, 3)]
        assert ["student_kl" in report for report in reports] == learns


def test_too_many_samples_are_cut_by_age_or_by_name(problem):
    chain = small().start(problem, 0)
    for batch in range(11):
        chain.images.append(torch.full((10, 3, 8, 8), batch, dtype=torch.uint8))
        chain.labels.append(torch.full((10,), batch))
        chain.statistics.append(torch.ones(2, 3))
    pools = {side: small(cut=side, samples=40).pool(problem, chain) for side in SIDES["cut"]}
    assert pools["latest"]["y"].tolist() == [7] * 10 + [8] * 10 + [9] * 10 + [10] * 10
    assert pools["string-sorted"]["y"].tolist() == [0] * 10 + [1] * 10 + [10] * 10 + [2] * 10
    for pool in pools.values():
        assert torch.equal(pool["x"][:, 0, 0, 0], pool["y"].to(torch.uint8))
        assert len(pool["mean"]) == len(pool["x"]) == 40


def test_pixels_are_rounded_or_cut_off(problem):
    images = torch.tensor([0.0, 0.5 / 255, 0.6 / 255, 1.9 / 255, 1.0, 1.5, -0.5])
    assert to_bytes(images, "floor").tolist() == [0, 0, 0, 1, 255, 255, 0]
    assert to_bytes(images, "round").tolist() == [0, 0, 1, 2, 255, 255, 0]
    for side in SIDES["rounding"]:
        method = small(rounding=side)
        chain = run_chain(method, problem, episodes=2)
        found, _ = method.notes["found"][1]
        assert torch.equal(chain.images[0], to_bytes(found.kept, side))


# Traps ------------------------------------------------------------------------------------------


def test_noisy_layers_are_drawn_anew_and_trained_and_the_rest_lives_on(problem):
    method = small(latent=64)
    chain = method.start(problem, 0)
    before = {name: w.clone() for name, w in chain.generator.state_dict().items()}
    for number in (1, 2):
        method.episode(problem, chain, number)
        start, (_, end) = method.notes["at_start"], method.notes["found"][-1]
        noise = torch.cat([start[f"noisy.{i}.weight"] for i in range(3)])  # 10 rows, 4 to a layer
        assert abs(noise.mean()) < 0.05
        assert abs(noise.std() - 1) < 0.05
        assert not any(start[f"noisy.{i}.bias"].any() for i in range(3))
        for name, w in start.items():
            assert torch.equal(w, before[name]) != name.startswith("noisy."), name
            assert not torch.equal(w, end[name]), name
        before = end


def test_chains_differ_in_generator_student_and_noise(problem):
    method = small()
    chains, noise = [method.start(problem, number) for number in range(2)], []
    for chain in chains:
        fresh = chain.generator.l1.weight.clone()
        method.episode(problem, chain, 1)
        noise.append((fresh, chain.student.backbone.conv.weight, method.notes["at_start"]["noisy.0.weight"]))
    assert not any(torch.equal(a, b) for a, b in zip(*noise, strict=True))


def test_the_generator_is_rebuilt_when_its_life_is_over(problem):
    method = small(life=2)
    chain, generators = method.start(problem, 0), []
    for number in range(1, 6):
        method.episode(problem, chain, number)
        generators.append(chain.generator)
    assert [a is b for a, b in pairwise(generators)] == [True, False, True, False]
    assert not torch.equal(generators[0].l1.weight, generators[2].l1.weight)


@pytest.mark.parametrize("warmup", [0, 10])
def test_the_adversarial_term_starts_three_episodes_after_the_warmup(problem, warmup):
    method = small(warmup=warmup, steps=1, student_steps=0)
    chain = method.start(problem, 0)
    for number in range(1, warmup + 5):
        method.episode(problem, chain, number)
    assert method.notes["adversarial"] == [False] * (warmup + 2) + [True] * 2


def test_without_weight_the_adversarial_term_is_left_out(problem):
    method = small(adv=0.0, warmup=0)
    assert "adv" not in method.episode(problem, method.start(problem, 0), 3)


def test_averages_move_once_a_loop_with_the_statistics_of_the_last_step(problem, monkeypatch):
    seen: list[Tensors] = []
    distance = nayer_module.statistics_distance
    monkeypatch.setattr(
        nayer_module, "statistics_distance", lambda net, s, *rest: (seen.append(s), distance(net, s, *rest))[1]
    )
    method = small(steps=3, loops=2)
    chain = method.start(problem, 0)
    method.episode(problem, chain, 1)
    used = [averages for loop in method.notes["steps"] for _, _, averages in loop]
    assert used[:3] == [None] * 3
    assert used[3] is used[4] is used[5]
    for name, value in chain.averages.items():
        assert torch.equal(used[3][name], seen[2][name])
        assert torch.allclose(value, 0.9 * seen[2][name] + 0.1 * seen[5][name])
        assert not value.requires_grad


def test_the_gradient_of_batchnorm_matching_shrinks_once_there_is_a_past(problem):
    method = small()
    chain, images = method.start(problem, 0), torch.rand(10, 3, 8, 8, generator=generator(0)).requires_grad_()
    labels, rng = torch.arange(10) % 5, generator(1)

    def pull(momentum: float) -> Tensor:
        own = replace(method, bn_momentum=momentum).watch()
        own.notes["steps"].append([])
        terms, statistics = own.terms(problem, chain, images, labels, adversarial=False, rng=rng)
        if chain.averages is None:
            chain.averages = {name: value.detach() for name, value in statistics.items()}
        return torch.autograd.grad(terms["bn"], images)[0]

    alone = pull(0.9)  # the first round has no past
    with_past = pull(0.9)
    assert torch.allclose(with_past, 0.1 * alone, atol=1e-7)
    assert torch.allclose(pull(0.0), alone, atol=1e-7)


def test_the_student_is_distilled_with_the_square_of_the_temperature():
    student, teacher = (Output(normal(4, 5, key=k), normal(4, 8), normal(4, 16, key=k + 9)) for k in (1, 2))
    terms = distillation(student, teacher, 20.0, 5.0)
    p, q = (F.log_softmax(o.logits / 20, dim=1) for o in (teacher, student))
    assert torch.allclose(terms["kl"], 400 * (p.exp() * (p - q)).sum() / 4, rtol=1e-3)
    assert torch.equal(terms["kl"], kl_divergence(student.logits, teacher.logits, 20.0))
    assert torch.allclose(terms["embedding"], 5 * (student.embedding - teacher.embedding).square().mean())
    assert distillation(student._replace(embedding=None), teacher, 20.0, 5.0).keys() == {"kl"}
    assert distillation(student, teacher, 20.0, 0.0).keys() == {"kl"}


def test_terms_are_weighted_and_the_bound_reads_the_text_head(problem):
    images, labels = torch.rand(5, 3, 8, 8, generator=generator(0)), torch.arange(5)

    def terms(problem: SynthesisProblem, **weights: float) -> Terms:
        method = small(warmup=0, **weights)
        chain = method.start(problem, 0)
        chain.student = frozen(tiny_net(5, key=4))
        method.notes["steps"].append([])
        return method.terms(problem, chain, images, labels, adversarial=True, rng=generator(1))[0]

    one, many = terms(problem, bn=1.0, ce=1.0, adv=1.0), terms(problem, bn=2.0, ce=3.0, adv=4.0)
    for name, factor in (("bn", 2), ("ce", 3), ("adv", 4), ("bound", 1)):
        assert torch.allclose(many[name], factor * one[name]), name
    x = (images - 0.5) / 0.2
    out = problem.teacher(x)
    assert torch.allclose(one["ce"], F.cross_entropy(out.logits, labels))
    assert torch.allclose(one["bound"], Bound()(out.embedding, problem.anchors[labels]))
    assert "bound" not in terms(replace(problem, bound=None))
    without_head = problem_of(tiny_net(5, text_width=None), problem.anchors, bound=Bound())
    assert "bound" not in terms(without_head)


def test_samples_keep_the_label_that_was_asked_for_and_all_classes_alike():
    problem = problem_of(tiny_net(5), normal(5, 16), labels=(1, 3))
    method = small(batch_size=10, rows_per_layer=None)
    chain = run_chain(method, problem)
    pool = method.pool(problem, chain)
    assert torch.bincount(pool["y"], minlength=5).tolist() == [0, 10, 0, 10, 0]
    assert pool["x"].dtype == torch.uint8
    assert pool["x"].shape == (20, 3, 8, 8)
    assert chain.generator.noisy.rows == 2  # one layer for each sweep over the classes
    assert len(chain.generator.noisy) == 5


def test_images_are_kept_before_they_are_augmented(problem):
    method = small(steps=1)
    chain = method.start(replace(problem, augment=Augment(padding=4, flip=True)), 0)
    method.episode(replace(problem, augment=Augment(padding=4, flip=True)), chain, 2)
    ((images, _, _),) = method.notes["steps"][0]
    assert torch.equal(chain.images[0], to_bytes(images, "round"))


def test_augmentation_reaches_the_teacher(problem):
    reports = []
    for augment in (Augment(), Augment(padding=4, flip=True)):
        varied, method = replace(problem, augment=augment), small()
        reports.append(method.episode(varied, method.start(varied, 0), 1))
    assert reports[0]["ce"] != reports[1]["ce"]


def test_the_teacher_is_not_changed(problem):
    before = problem.teacher.weights()
    run_chain(small(), problem, episodes=5)
    assert all(torch.equal(before[name], w) for name, w in problem.teacher.weights().items())
    assert not problem.teacher.training


def test_a_loss_that_is_no_number_is_named(problem):
    problem.anchors[0] = math.nan
    method = small()
    with pytest.raises(TrainingError, match=r'synthesis term "\w+" became nan in episode 1'):
        method.episode(problem, method.start(problem, 0), 1)


def test_an_episode_reports_the_mean_of_each_term(problem):
    method = small(warmup=0)
    report = method.episode(problem, method.start(problem, 0), 3)
    assert report.keys() == {"bn", "ce", "adv", "bound", "total", "student_kl", "student_embedding"}
    found, _ = method.notes["found"][0]
    assert report["ce"] == pytest.approx(found.terms["ce"].mean().item())
    assert report["total"] == pytest.approx(sum(report[k] for k in ("bn", "ce", "adv", "bound")), rel=1e-5)


def test_a_share_of_one_is_no_average():
    with pytest.raises(ConfigError, match="bn_momentum"):
        create("nayer", bn_momentum=1.0)


# NAYER on its own -------------------------------------------------------------------------------


def test_its_own_constants_are_the_released_codes():
    """Scripts and defaults for CIFAR-10: 80,000 images in the warm-up, 800 in every episode after it."""
    p, method = load_case("40_nayer_generator_rounds").parameters, create("nayer", **ALONE)
    assert (method.bn, method.ce, method.adv, method.lr) == (p["bn"], p["oh"], p["adv"], p["lr_g"])
    assert (method.loops, method.warmup_loops, method.life, method.steps) == (2, 10, 10, 30)
    assert (method.rounds, method.warmup, method.batch_size, method.latent, method.width) == (100, 20, 400, 1000, 64)
    assert (method.student_steps, method.student_lr, method.student_lr_end, method.student_batch) == (
        400,
        0.2,
        2e-4,
        512,
    )
    assert (method.student_decay, method.temperature, method.student_text) == (1e-4, 20.0, 0.0)
    moments = [method.moment(number) for number in range(1, method.episodes + 1)]
    assert len(moments) == 120
    assert sum(m.loops for m in moments[:20]) * 400 == 80_000
    assert {m.loops * 400 for m in moments[20:]} == {800}
    assert sum(m.loops * m.keep for m in moments) * 400 == method.samples == 160_000
    assert sum(m.loops for m in moments) * method.steps == 12_000
    assert sum(m.teach for m in moments) * method.student_steps == 40_000


@pytest.mark.parametrize(
    ("schedule", "rebuilt", "adversarial", "learns"),
    [("lander", [5, 9], range(6, 10), range(4, 10)), ("nayer", [4, 5, 8, 9], range(4, 10), range(4, 10))],
)
def test_a_schedule_says_what_happens_when(problem, schedule, rebuilt, adversarial, learns):
    """Warm-up of 3, life of 4: the released code rebuilds after 4 and 8 episodes, and 0 and 4 after the warm-up."""
    method = small(schedule=schedule, warmup=3, rounds=6, life=4, warmup_loops=2, steps=1, student_steps=1)
    chain, generators, reports = method.start(problem, 0), [], []
    before = chain.generator
    for number in range(1, 10):
        reports.append(method.episode(problem, chain, number))
        if chain.generator is not before:
            generators.append(number)
        before = chain.generator
    assert generators == rebuilt
    loops = [2, 2, 2, *[1] * 6]
    expected = [number in adversarial for number, count in enumerate(loops, 1) for _ in range(count)]
    assert method.notes["adversarial"] == expected
    assert [number for number, report in enumerate(reports, 1) if "student_kl" in report] == list(learns)
    assert len(chain.images) == len(chain.labels) == (sum(loops) if schedule == "nayer" else 6)


def test_a_generator_lives_on_where_it_has_no_end():
    assert not any(small(schedule="nayer").moment(number).rebuild for number in range(1, 50))


def test_one_student_optimizer_serves_all_episodes_and_its_rate_falls_as_a_cosine(problem, monkeypatch):
    rates, optimizers = [], []
    train = taught.train_student

    def noted(*arguments: Any, **options: Any) -> Tensors:
        optimizers.append(options["optimizer"])
        rates.append(options["optimizer"].param_groups[0]["lr"])
        return train(*arguments, **options)

    monkeypatch.setattr(taught, "train_student", noted)
    alone = small(schedule="nayer", rounds=4, student_lr=0.2, student_lr_end=0.1)
    chain = run_chain(alone, problem)
    assert rates == pytest.approx([0.1 + 0.1 * (1 + math.cos(math.pi * k / 4)) / 2 for k in range(4)])
    assert all(optimizer is chain.teaching for optimizer in optimizers)
    assert all("momentum_buffer" in chain.teaching.state[w] for w in chain.student.parameters() if w.ndim == 4)
    optimizers.clear()
    rates.clear()
    chain = run_chain(small(rounds=4, student_lr=0.2), problem)
    assert chain.teaching is None
    assert len(set(map(id, optimizers))) == 4
    assert rates == [0.2] * 4


@pytest.mark.parametrize("schedule", ["lander", "nayer"])
def test_a_chain_goes_on_from_what_was_saved_to_the_bit(problem, schedule):
    method = NAYER(**SMALL | {"rounds": 4, "schedule": schedule, "life": 2, "loops": 2})
    straight, went_on = run_chain(method, problem), gone_on(method, problem, after=3)
    for part in ("generator", "student"):
        assert alike(getattr(straight, part), getattr(went_on, part)), part
    a, b = (method.pool(problem, chain) for chain in (straight, went_on))
    assert all(torch.equal(a[name], b[name]) for name in a)


def test_somebody_elses_student_is_a_judge_and_learns_nothing(problem):
    judge = frozen(tiny_net(5, key=9))
    here, method = replace(problem, student=judge), small(schedule="nayer", warmup=0, ce=2.0)
    before, chain = judge.weights(), method.start(replace(problem, student=judge), 0)
    report = method.episode(here, chain, 1)
    assert chain.student is judge
    assert chain.teaching is None
    assert "adv" in report
    assert "student_kl" not in report
    assert all(torch.equal(before[name], w) for name, w in judge.weights().items())


def test_a_student_that_is_the_teacher_is_refused(problem):
    same = replace(problem, student=problem.teacher)
    with pytest.raises(ConfigError, match=r"the student is the teacher, so they never differ; set adv: 0"):
        small().checked(same)
    assert small(adv=0.0).checked(same) is same


@pytest.mark.parametrize("side", [32, 128, 224])
def test_images_of_any_usual_size(side):
    problem = problem_of(tiny_net(5), normal(5, 16), shape=(3, side, side), labels=(0, 2, 4))
    method = small(schedule="nayer", rows_per_layer=None, batch_size=6, steps=1, width=2, rounds=1, warmup=0)
    chain = run_chain(method, method.checked(problem))
    assert method.pool(problem, chain)["x"].shape == (6, 3, side, side)
    assert len(chain.generator.noisy) == 2  # K-to-1: a layer for each sweep over the three classes
    assert ("conv5" in dict(chain.generator.named_children())) == (side >= 128)


@pytest.mark.parametrize(
    ("classes", "rows"),
    [(1, 1), (2, 2), (4, 4), (7, 7), (10, 10), (11, 11), (12, 6), (15, 5), (20, 10), (22, 22), (100, 10)],
)
def test_a_noisy_layer_meets_no_class_twice_in_a_sweep(classes, rows):
    """An image follows from its label and its layer: the same label under one layer is the same image again."""
    method = NAYER()
    assert method.rows_of(classes) == rows
    labels = balanced_labels(range(classes), 3 * classes, generator(0, "labels"), torch.device("cpu"))
    for layer in labels.split(rows):
        assert len(layer.unique()) == len(layer)
    assert replace(method, fidelity="reference").rows_of(classes) == 10
    assert replace(method, rows_per_layer=10).rows_of(classes) == 10
    assert replace(method, rows_per_layer=None).rows_of(classes) == classes


@pytest.mark.parametrize(("rows", "distinct"), [("auto", 40), (10, 8)])
def test_below_ten_classes_ten_rows_a_layer_make_copies(rows, distinct):
    """Two classes, batches of 20: ten layers of two rows, or two layers each of which meets both classes five times."""
    problem = problem_of(tiny_net(5), normal(5, 16), labels=(1, 3))
    method = small(batch_size=20, rows_per_layer=rows, samples=40)
    assert distinct_samples(method.pool(problem, run_chain(method, problem))["x"].numpy()) == distinct


def test_batchnorm_is_needed_where_it_is_matched_alone():
    check_batchnorm_is_needed_to_match_it(small)
