"""MUSE at work: its switches, images of several sizes in one pool, chains that go on, what is refused, whole runs."""

from __future__ import annotations

import math
from collections import Counter
from contextlib import nullcontext
from dataclasses import fields, replace
from itertools import islice
from types import SimpleNamespace
from typing import Any

import pytest
import torch
import torch.nn.functional as F
from small_muse import SMALL, batch, resnet, small, terms_of
from synthesis_problems import alike, gone_on, problem_of, run_chain, synthetic_of_a_run
from tiny_net import normal
from torch import Tensor, nn

from fcil.data import Augment, normalise
from fcil.errors import ConfigError
from fcil.losses import record_statistics, statistics_distance
from fcil.nets import Backbone, Net, frozen
from fcil.nets.cam import activation_maps, cells
from fcil.rng import generator, seeded
from fcil.synthesis import Bound, SynthesisProblem, create
from fcil.synthesis.common.resolutions import (
    bucketed,
    by_size,
    enlarged,
    resize,
)
from fcil.synthesis.common.text_embedding import text_distance
from fcil.synthesis.muse import MUSE
from fcil.synthesis.nayer import ALONE, NAYER
from fcil.types import Tensors
from strategies.distill import Distill, Lesson


@pytest.fixture
def problem() -> SynthesisProblem:
    return problem_of(resnet(), normal(5, 16), bound=Bound())


# Switches ---------------------------------------------------------------------------------------


OFF: dict[str, Any] = {"sizes": (8,), "cam": 0.0, "ed": 0.0}


def as_nayer(method: MUSE) -> NAYER:
    return NAYER(**{f.name: getattr(method, f.name) for f in fields(NAYER)})


@pytest.mark.parametrize("schedule", ["lander", "nayer"])
def test_with_all_switched_off_it_is_nayer_to_the_bit(problem, schedule):
    ours = small(**OFF, schedule=schedule, life=2, loops=2, rounds=2, student_steps=2)
    augmented = replace(problem, augment=Augment(padding=2, flip=True))
    found = []
    for method in (ours, as_nayer(ours)):
        chain = method.start(augmented, 0)
        reports = [method.episode(augmented, chain, number) for number in range(1, method.episodes + 1)]
        found.append((reports, method.pool(augmented, chain), chain.student.weights()))
    assert found[0][0] == found[1][0]
    for a, b in zip(found[0][1:], found[1][1:], strict=True):
        assert a.keys() == b.keys()
        assert all(torch.equal(a[name], b[name]) for name in a)


@pytest.mark.parametrize(
    ("switch", "missing"),
    [({"cam": 0.0}, {"cam"}), ({"ed": 0.0}, {"aed", "student_ed"}), ({"aed": 0.0}, {"aed"}), ({"adv": 0.0}, {"adv"})],
)
def test_each_ingredient_has_a_switch(problem, switch, missing):
    whole, method = {"cam", "aed", "adv", "student_ed"}, small(**switch)
    chain = method.start(problem, 0)
    names = set().union(*(method.episode(problem, chain, number) for number in range(1, 5)))
    assert whole & names == whole - missing
    assert (chain.beyond.head is None) == ("student_ed" in missing)


def test_sizes_are_drawn_for_every_inner_loop_or_there_is_one(problem):
    chain = run_chain(small(rounds=12, warmup=0, steps=1, student_steps=0, cam=0.0, ed=0.0), problem)
    assert Counter(images.shape[2] for images in chain.images).keys() == {4, 6, 8}
    chain = run_chain(small(sizes=(6,), steps=1, student_steps=0), problem)
    assert {tuple(images.shape) for images in chain.images} == {(10, 3, 6, 6)}


@pytest.mark.parametrize(("view", "seen"), [("native", (4, 4)), ("up", (8, 8))])
def test_the_teacher_sees_small_images_as_they_are_or_stretched(problem, view, seen):
    images, labels = batch(4)
    shapes: list[tuple[int, ...]] = []
    handle = problem.teacher.register_forward_pre_hook(lambda net, x: shapes.append(tuple(x[0].shape[2:])))
    terms = terms_of(small(view=view, cam=0.0, sizes=(4,)), problem, images, labels)
    handle.remove()
    assert set(shapes) == {seen}
    x = resize(normalise(images, problem.mean, problem.std), seen)
    assert torch.allclose(terms["ce"], 0.5 * F.cross_entropy(problem.teacher(x).logits, labels))


def test_late_batch_norms_may_count_less(problem):
    images, labels = batch()
    x = normalise(images, problem.mean, problem.std)
    with record_statistics(problem.teacher) as statistics:
        problem.teacher(x)
    layers = [name for name in statistics if name.endswith("mean")]
    late = {name for mean in layers[-2:] for name in (mean, mean.replace("mean", "var"))}  # a quarter of seven
    assert len(layers) == 7
    parts = [
        statistics_distance(problem.teacher, {k: v for k, v in statistics.items() if (k in late) == is_late})
        for is_late in (False, True)
    ]
    found = terms_of(small(bn=1.0, bn_late=0.25), problem, images, labels)["bn"]
    assert torch.allclose(found, parts[0] + 0.25 * parts[1])


# The pool ---------------------------------------------------------------------------------------


@pytest.mark.parametrize("cut", ["latest", "string-sorted"])
@pytest.mark.parametrize("carry", [False, True])
def test_buckets_hold_the_pool_as_it_was_made(problem, cut, carry):
    method = small(samples=47, cut=cut, rounds=4, steps=1, student_steps=0, learn_stats=carry, stats="carry")
    chain = run_chain(method, problem)
    pool, buckets = method.pool(problem, chain), method.buckets(problem, chain)
    assert pool["x"].shape == (47, 3, 8, 8)
    assert pool["x"].dtype == torch.uint8
    assert pool.keys() == ({"x", "y", "mean", "std"} if carry else {"x", "y"})
    assert sorted(torch.cat([bucket["id"] for bucket in buckets]).tolist()) == list(range(47))
    for bucket in buckets:
        assert torch.equal(enlarged(bucket["x"], (8, 8)), pool["x"][bucket["id"]])
        for name in pool.keys() - {"x"}:
            assert torch.equal(bucket[name], pool[name][bucket["id"]]), name
    every = torch.cat([enlarged(images, (8, 8)) for images in chain.images])
    expected = every[method.rows(chain)]
    assert torch.equal(pool["x"], expected)
    assert torch.equal(pool["y"], torch.cat(chain.labels)[method.rows(chain)])


def test_smaller_images_are_enlarged_to_the_nearest_of_256_levels():
    images = torch.randint(0, 256, (3, 3, 4, 4), generator=generator(0), dtype=torch.uint8)
    expected = F.interpolate(images / 255, size=(8, 8), mode="bilinear") * 255
    assert (enlarged(images, (8, 8)).float() - expected).abs().max() <= 0.5 + 1e-3
    assert enlarged(images, (4, 4)) is images


def pool_of(counts: dict[int, int]) -> list[Tensors]:
    batches = [torch.full((1, 3, side, side), side, dtype=torch.uint8) for side, n in counts.items() for _ in range(n)]
    return by_size(batches, {"y": torch.arange(len(batches))}, torch.arange(len(batches)))


def test_batches_are_of_one_size_and_a_size_comes_as_often_as_it_has_images(problem):
    buckets = pool_of({4: 30, 6: 10, 8: 60})
    views = bucketed(buckets, problem, 5, generator(1), generator(2), "native")
    sides = Counter(view.x.shape[2] for view in islice(views, 2000))
    assert {side: round(count / 2000, 1) for side, count in sides.items()} == {4: 0.3, 6: 0.1, 8: 0.6}


def test_a_view_is_of_the_sample_it_names(problem):
    method = small(student_view="native", rounds=3, steps=1, student_steps=0)
    chain = run_chain(method, problem)
    known = {int(n): x for b in method.buckets(problem, chain) for n, x in zip(b["id"], b["x"], strict=True)}
    pool = method.pool(problem, chain)
    for x, y, rows in islice(method.views(problem, chain, 4, generator(3)), 20):
        assert torch.equal(y, pool["y"][rows])
        for image, n in zip(x, rows.tolist(), strict=True):
            assert torch.allclose(image, normalise(known[n][None], problem.mean, problem.std)[0])
    first, again = (
        [view.id.tolist() for view in islice(method.views(problem, chain, 4, generator(3)), 9)] for _ in "ab"
    )
    assert first == again


def test_small_images_are_shown_as_they_are_stretched_or_on_a_canvas(problem):
    buckets = pool_of({4: 20})
    small_ones = normalise(buckets[0]["x"], problem.mean, problem.std)

    def shown(how: Any) -> list[Tensor]:
        return [v.x for v in islice(bucketed(buckets, problem, 20, generator(1), generator(2), how), 60)]

    assert {x.shape[2] for x in shown("native")} == {4}
    assert all(torch.allclose(x, resize(small_ones, (8, 8))) for x in shown("up"))
    places = set()
    for x in shown("canvas"):
        assert x.shape == (20, 3, 8, 8)
        top, left = (int(n) for n in x[0, 0].nonzero()[0])
        places.add((top, left))
        assert torch.equal(x[:, :, top : top + 4, left : left + 4], small_ones)
        assert x.count_nonzero() == small_ones.count_nonzero()
    assert len(places) > 15
    assert {n for place in places for n in place} == {0, 1, 2, 3, 4}
    kinds = Counter("native" if x.shape[2] == 4 else "canvas" if (x == 0).any() else "up" for x in shown("mixed"))
    assert kinds.keys() == {"native", "up", "canvas"}


def test_samples_keep_the_label_that_was_asked_for(problem):
    here = replace(problem, labels=(1, 3))
    pool = small(student_steps=0).pool(here, run_chain(small(student_steps=0), here))
    assert torch.bincount(pool["y"], minlength=5).tolist() == [0, 25, 0, 25, 0]  # two loops of 10, then three


# A chain ----------------------------------------------------------------------------------------


def test_a_pool_is_repeatable_and_chains_differ(problem):
    method = small(chains=2, rounds=4, samples=30, steps=1)
    augment = Augment(padding=2, flip=True)
    pools = [
        method.run(teacher=resnet(), labels=range(5), shape=(3, 8, 8), anchors=normal(5, 16), augment=augment)
        for _ in range(2)
    ]
    assert pools[0]["x"].shape == (30, 3, 8, 8)
    assert all(torch.equal(pools[0][name], pools[1][name]) for name in pools[0])
    one, two = (method.start(problem, chain) for chain in range(2))
    assert not torch.equal(one.generator.l1.weight, two.generator.l1.weight)
    assert not torch.equal(one.beyond.head.weight, two.beyond.head.weight)


@pytest.mark.parametrize("theirs", [False, True])
def test_a_chain_goes_on_from_what_was_saved_to_the_bit(problem, theirs):
    method = small(rounds=4, life=2, steps=1)
    here = replace(problem, student=frozen(resnet(key=7))) if theirs else problem
    straight, went_on = run_chain(method, here), gone_on(method, here, after=3)
    assert alike(straight.generator, went_on.generator)
    assert torch.equal(straight.beyond.head.weight, went_on.beyond.head.weight)
    assert torch.equal(straight.beyond.told, went_on.beyond.told)
    a, b = (method.pool(here, chain) for chain in (straight, went_on))
    assert torch.equal(a["x"], b["x"])


def test_somebody_elses_student_is_left_alone_and_its_embedding_is_learnt(problem):
    theirs = frozen(resnet(key=7))
    before, here, method = theirs.weights(), replace(problem, student=theirs), small()
    chain = method.start(method.checked(here), 0)
    head = chain.beyond.head.weight.clone()
    reports = [method.episode(here, chain, number) for number in range(1, 5)]
    assert all(torch.equal(before[name], w) for name, w in theirs.weights().items())
    assert not torch.equal(head, chain.beyond.head.weight)
    assert "student_ed" in reports[1]
    assert not any("student_kl" in report for report in reports)
    assert "aed" in reports[2]
    plain = small(ed=0.0)
    chain = plain.start(here, 0)
    assert chain.teaching is None
    assert not any("student_ed" in plain.episode(here, chain, number) for number in range(1, 4))


def test_another_student_is_looked_at_in_a_few_batches_and_the_teacher_is_not_asked(problem):
    theirs, seen = frozen(resnet(key=7)), Counter[str]()
    here, method = replace(problem, student=theirs), small(student_steps=50, ed_batches=3, ed=2.0)
    chain = run_chain(method, here, episodes=1)
    for name, net in (("teacher", here.teacher), ("student", theirs)):
        net.register_forward_hook(lambda net, x, out, name=name: seen.update([name]))
    first, second = (method.teach(here, chain, (0, number))["student_ed"] for number in (2, 3))
    assert seen == {"student": 6}
    assert second < first  # P learns
    assert torch.allclose(chain.beyond.told, (0.9 * first + 0.1 * second) / 2.0)


def test_whoever_teaches_the_student_draws_it_to_the_texts_too(problem):
    theirs = frozen(resnet(key=7))
    here, method = replace(problem, student=theirs), small(ed=2.0)
    chain = method.start(here, 0)
    run = {"net": theirs, "batch_size": 4, "generator": generator, "autocast": nullcontext}
    strategy = Distill(synthesizer=method, steps=2)
    lesson = Lesson(chain, strategy.distiller.start(here, theirs, 40, ()), torch.optim.SGD(theirs.parameters(), 0.1))
    method.episode(here, chain, 1)
    view = next(method.views(here, chain, 4, generator(1)))
    assert method.beside(here, chain, view, theirs(view.x)) == {}  # P has not learnt
    assert strategy.teach(SimpleNamespace(**run), here, lesson).keys() == {"kl"}
    method.episode(here, chain, 2)
    out = theirs.requires_grad_(True)(view.x)
    terms = method.beside(here, chain, view, out)
    assert terms.keys() == {"text"}
    assert torch.allclose(
        terms["text"], 2 * text_distance(chain.beyond.head, out.features, here.anchors[view.y]).mean()
    )
    assert torch.autograd.grad(terms["text"], theirs.backbone.stem.conv.weight)[0].any()
    before = {name: w.clone() for name, w in chain.beyond.head.named_parameters()}
    assert strategy.teach(SimpleNamespace(**run), here, lesson).keys() == {"kl", "text"}
    assert all(torch.equal(w, before[name]) for name, w in chain.beyond.head.named_parameters())
    assert NAYER().beside(here, chain, view, out) == {}


def test_lessons_of_an_embedding_alone_are_those_beside_a_student_who_stands_still(problem):
    """One batch, all of the pool: the steps are gradient steps on it, as by hand."""
    theirs = frozen(resnet(key=7))
    here = replace(problem, student=theirs)
    method = small(student_steps=2, ed_batches=1, student_batch=20, ed=3.0, sizes=(8,), student_view="native")
    chain = run_chain(method, here, episodes=1)
    pool, before = method.pool(here, chain), {n: w.clone() for n, w in chain.beyond.head.named_parameters()}
    features = theirs(normalise(pool["x"], here.mean, here.std)).features
    w, b = (before[name].requires_grad_() for name in ("weight", "bias"))
    sgd = torch.optim.SGD([w, b], lr=0.2, momentum=0.9, weight_decay=1e-4)
    for _ in range(2):
        loss = 3 * (F.linear(features, w, b) - here.anchors[pool["y"]]).square().sum(dim=1).mean() / 16
        sgd.zero_grad()
        loss.backward()
        sgd.step()
    method.teach(here, chain, (0, 2))
    assert torch.allclose(chain.beyond.head.weight, w, atol=1e-5)
    assert torch.allclose(chain.beyond.head.bias, b, atol=1e-5)
    assert not chain.beyond.head.weight.requires_grad


def test_the_teacher_is_as_it_was_without_hooks(problem):
    before = problem.teacher.weights()
    chain = run_chain(small(cam_form="masked"), problem)
    assert all(torch.equal(before[name], w) for name, w in problem.teacher.weights().items())
    for net in (problem.teacher, chain.student):
        assert not any(m._forward_hooks or m._forward_pre_hooks for m in net.modules())


@pytest.mark.parametrize("settings", [{}, {"cam_form": "masked", "view": "up", "learn_stats": True}])
def test_a_run_in_bf16_is_finite(problem, settings):
    here = replace(problem, precision="bf16")
    method = small(**settings, steps=1)
    chain = method.start(here, 0)
    reports = [method.episode(here, chain, number) for number in range(1, 4)]
    assert "aed" in reports[-1]
    assert torch.tensor([value for report in reports for value in report.values()]).isfinite().all()


def test_places_come_to_speak_for_the_class():
    teacher = resnet(key=8)
    with torch.no_grad():
        teacher.classifier.weight.mul_(5)
    here = problem_of(teacher, normal(5, 16))

    def votes(cam: float) -> float:
        method = small(rounds=1, warmup=0, loops=1, steps=40, batch_size=10, ce=0.0, bn=0.0, cam=cam, aed=0.0)
        method = replace(method, student_steps=0, lr=1e-2, sizes=(8,), ed=0.0, adv=0.0)
        pool = method.pool(here, run_chain(method, here))
        x = normalise(pool["x"], here.mean, here.std)
        return cells(activation_maps(here.teacher, x), pool["y"], 1.0).item()

    assert votes(1.0) < 0.8 * votes(0.0)


# Refusals ---------------------------------------------------------------------------------------


class Flat(Backbone):
    def __init__(self) -> None:
        super().__init__()
        self.width, self.bn, self.mix = 6, nn.BatchNorm2d(3), nn.Linear(192, 6)

    def forward(self, x: Tensor) -> Tensor:
        return self.mix(self.bn(x).flatten(1))


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        ({"sizes": [4, 12]}, r"synthesizer muse: sizes: 12 is above the 8 pixels of the data"),
        ({"sizes": []}, r"muse.sizes: \[\] is not allowed"),
        ({"sizes": [0]}, r"muse.sizes: \[0\] is not allowed"),
        ({"bn": 0.0}, r"muse.cam: null is a share of batch-norm matching, and bn is 0"),
        ({"bn": 0.0, "cam": 1.0}, r"muse.aed: null is a share"),
        ({"ed": 0.0, "aed": 1.0}, r"muse.aed: 1.0 is not allowed with ed: 0"),
        ({"student_view": "grey"}, r"canvas"),
    ],
)
def test_what_makes_no_sense_is_refused_in_a_line(problem, settings, message):
    with pytest.raises(ConfigError, match=message):
        create("muse", **settings).checked(problem)


def test_a_teacher_of_one_size_sees_images_stretched():
    with seeded("flat"):
        here = problem_of(Net(Flat(), 5), normal(5, 16))
    with pytest.raises(ConfigError, match=r"sizes: the teacher takes no images of 4 pixels .*; use view: up"):
        small().checked(here)
    method = small(view="up", student_view="up")
    assert math.isfinite(method.episode(here, method.start(method.checked(here), 0), 1)["cam"])


def test_it_needs_anchors_batch_norm_and_a_student_of_its_own(problem):
    with pytest.raises(ConfigError, match="needs label-text embeddings"):
        small().checked(replace(problem, anchors=None))
    with pytest.raises(ConfigError, match="the student is the teacher, so they never differ; set adv: 0"):
        small().checked(replace(problem, student=problem.teacher))
    with pytest.raises(ConfigError, match=r"makes images; this data has samples of shape \(3, 8\)"):
        small().checked(replace(problem, shape=(3, 8)))


def test_defaults_are_nayers_own_where_it_has_them():
    method = MUSE()
    ours = {"steps": 40, "samples": 10_000}  # as for a hundred classes, and as every other pool
    for name, value in (ALONE | ours).items():
        assert getattr(method, name) == value, name


# Whole runs -------------------------------------------------------------------------------------


def test_smoke_is_short_and_reaches_all_terms(problem):
    method = MUSE(latent=8, width=4).smoke()
    assert (method.episodes, method.steps, method.moment(1).loops) == (3, 2, 1)
    chain = method.start(method.checked(problem), 0)
    reports = [method.episode(problem, chain, number) for number in (1, 2, 3)]
    assert reports[2].keys() >= {"bn", "ce", "cam", "aed", "student_kl", "student_ed"}


@pytest.mark.parametrize("strategy", ["lander", "target"])
def test_it_serves_strategies_on_images_of_eight_pixels(tmp_path, strategy):
    muse = {**SMALL, "rounds": 2, "samples": 20, "warmup_loops": 1}
    pool = synthetic_of_a_run(tmp_path, strategy, {"muse": muse})
    assert pool["x"].shape == (20, 1, 8, 8)
    assert set(pool["y"].tolist()) <= {0, 1}
