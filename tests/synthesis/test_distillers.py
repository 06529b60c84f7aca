"""Distillers: losses by hand and against the reference code, in double precision, and memories that last."""

from __future__ import annotations

import math
import re
from collections.abc import Iterator
from dataclasses import fields, replace
from typing import Any

import pytest
import torch
import torch.nn.functional as F
from golden_vectors import assert_matches, load_case
from synthesis_problems import problem_of
from tiny_net import normal, tiny_net
from torch import Tensor, nn

from fcil.config import Where, dump, field_docs, parse
from fcil.distillers import KD, Distiller, Stateless, create, distiller_class, distiller_names
from fcil.distillers.crd import CRD, UNSEEN, Memories, contrast
from fcil.distillers.l1 import L1
from fcil.errors import ConfigError
from fcil.losses import kl_divergence
from fcil.nets import Net
from fcil.rng import generator
from fcil.synthesis import SynthesisProblem
from fcil.synthesis.common import state_codec as chain_state
from fcil.synthesis.common.base import Views
from fcil.types import Output


@pytest.fixture
def _double() -> Iterator[None]:
    torch.set_default_dtype(torch.float64)
    yield
    torch.set_default_dtype(torch.float32)


def said(logits: Tensor, features: Tensor | None = None) -> Output:
    return Output(logits, normal(len(logits), 8) if features is None else features, None)


def views_of(y: list[int], ids: list[int] | None, x: Tensor | None = None) -> Views:
    return Views(
        normal(len(y), 3, 8, 8) if x is None else x, torch.tensor(y), None if ids is None else torch.tensor(ids)
    )


@pytest.fixture
def problem() -> SynthesisProblem:
    return problem_of(tiny_net(5), None)


# Without memories ------------------------------------------------------------------------------


@pytest.mark.usefixtures("_double")
def test_kd_is_the_divergence_of_softened_answers_times_the_square_of_the_temperature():
    s, t = normal(3, 4).requires_grad_(), normal(3, 4, key=1)
    (term,) = KD(temperature=3.0).loss(Stateless(), said(s), said(t), views_of([0, 0, 0], None)).values()
    p, q = F.softmax(t / 3, dim=1), F.softmax(s / 3, dim=1)
    assert torch.allclose(term, 9 * (p * (p / q).log()).sum(dim=1).mean())
    (slope,) = torch.autograd.grad(term, s)
    assert torch.allclose(slope, 3 * (q - p) / 3)  # T^2 (q - p) / (T B)


@pytest.mark.usefixtures("_double")
def test_l1_is_the_mean_distance_of_logits():
    s, t = normal(3, 4).requires_grad_(), normal(3, 4, key=1)
    (term,) = L1().loss(Stateless(), said(s), said(t), views_of([0, 0, 0], None)).values()
    assert torch.allclose(term, (s - t).abs().sum() / 12)
    (slope,) = torch.autograd.grad(term, s)
    assert torch.allclose(slope, (s - t).sign() / 12)


def test_a_method_without_a_state_trains_nothing_beside_the_student(problem):
    for method in (KD(), L1()):
        state = method.start(problem, tiny_net(5, key=1), 10, ("k",))
        assert (chain_state.values(state), list(method.parameters(state)), method.needs_numbers) == ({}, [], False)


# CRD, against the reference --------------------------------------------------------------------


class Given(CRD):
    """CRD whose negatives are given: rows (B, K)."""

    def give(self, *rows: Tensor) -> Given:
        object.__setattr__(self, "rows", list(rows))
        return self

    def drawn(self, state: Memories, y: Tensor) -> Tensor:
        rows = self.rows.pop(0)
        counts = torch.zeros(len(rows), len(state.classes)).to(state.student)
        return counts.scatter_add(1, rows, torch.ones_like(rows, dtype=counts.dtype))


@pytest.mark.usefixtures("_double")
def test_two_steps_match_the_reference():
    case = load_case("70_crd_loss")
    p, t = case.parameters, case.tensors
    embeds = {}
    for who in ("student", "teacher"):
        weights = case.under(f"params.embed_{who}")
        embeds[who] = nn.Linear(*reversed(weights["weight"].shape))
        embeds[who].load_state_dict(weights)
    calls = [case.under(f"inputs.call{n}") for n in (1, 2)]
    settings = {"negatives": p["negatives"], "temperature": p["tau"], "momentum": p["momentum"], "width": p["dim"]}
    method = Given(ce=0, contrast=1, **settings).give(*(call["contrast_indices"][:, 1:] for call in calls))
    state = Memories(
        embed_student=embeds["student"],
        embed_teacher=embeds["teacher"],
        student=t["inputs.memory_student"],
        teacher=t["inputs.memory_teacher"],
        classes=torch.arange(p["n_data"]),
        means=torch.zeros(2),
        stream=generator(0),
    )
    for number, call in enumerate(calls, 1):
        expected = case.under(f"expected.call{number}")
        ids = call["indices"]
        assert torch.equal(ids, call["contrast_indices"][:, 0])
        features = {who: call[f"{who}_features"].requires_grad_() for who in ("student", "teacher")}
        nets = [said(normal(len(ids), 3), f) for f in features.values()]
        (term,) = method.loss(state, *nets, Views(normal(len(ids), 1), ids, ids)).values()
        assert_matches(term, expected["loss"], case.tolerance, "loss")
        leaves = {f"{who}_features": f for who, f in features.items()}
        leaves |= {f"embed_{who}.weight": embed.weight for who, embed in embeds.items()}
        for (name, _), slope in zip(leaves.items(), torch.autograd.grad(term, list(leaves.values())), strict=True):
            assert_matches(slope, expected[f"grad.{name}"], case.tolerance, name)
        assert_matches(state.student, expected["memory_student"], case.tolerance, "memory_student")
        assert_matches(state.teacher, expected["memory_teacher"], case.tolerance, "memory_teacher")
        for place, who in enumerate(("student", "teacher")):
            assert_matches(state.means[place] * p["n_data"], expected[f"Z_{who}_anchor"], case.tolerance, who)
        assert not state.student.requires_grad


def test_the_defaults_are_the_references():
    p, m = load_case("70_crd_loss").parameters, CRD()
    assert (m.temperature, m.momentum) == (p["tau"], p["momentum"])
    assert (m.ce, m.kd, m.contrast, m.negatives, m.width, m.kd_temperature) == (1.0, 0.0, 0.8, 16384, 128, 4.0)


@pytest.mark.usefixtures("_double")
def test_how_many_samples_there_are_hardly_matters():
    anchors, memory = (F.normalize(normal(n, 4, key=n), dim=1) for n in (2, 6))
    drawn = torch.tensor([[0, 0, 3, 0, 1, 0], [1, 0, 0, 3, 0, 0]]).double()
    ids, none = torch.tensor([1, 5]), torch.tensor(0.0)
    few, many = (contrast(anchors, memory, ids, drawn, none, torch.tensor(n), 4, 0.1)[0] for n in (6, 600))
    assert few.item() == pytest.approx(many.item(), rel=1e-4)


# CRD, its negatives and memories ---------------------------------------------------------------


def started(problem: SynthesisProblem, samples: int = 12, **settings: Any) -> tuple[CRD, Memories]:
    method = CRD(**{"negatives": 40, "width": 4} | settings)
    return method, method.start(problem, tiny_net(5, key=1), samples, (0, "crd"))


def step(method: CRD, state: Memories, views: Views, key: int = 0) -> dict[str, Tensor]:
    count = len(views.y)
    nets = [Output(normal(count, 5, key=key + k), normal(count, 8, key=key + k), None) for k in (1, 2)]
    return method.loss(state, *nets, views)


def test_negatives_are_seen_samples_of_other_classes_each_as_often_as_another(problem):
    method, state = started(problem, negatives=30_000)
    state.classes = torch.tensor([0, UNSEEN, 1, 0, 2, 2, UNSEEN, 1, 1, UNSEEN, 4, UNSEEN])
    y = torch.tensor([1, 0, 4])
    drawn = method.drawn(state, y)
    assert drawn.sum(dim=1).tolist() == [30_000.0] * 3
    for row, label in zip(drawn, y, strict=True):
        allowed = (state.classes != UNSEEN) & (state.classes != label)
        assert not row[~allowed].any()
        assert ((row[allowed] * allowed.sum() / 30_000 - 1).abs() < 0.05).all()


def test_a_sample_that_is_alone_with_its_class_has_no_negatives(problem):
    method, state = started(problem)
    terms = step(method, state, views_of([3, 3], [0, 5]))
    assert terms["contrast"].isfinite()
    assert method.drawn(state, torch.tensor([3, 3])).sum() == 0
    assert method.drawn(state, torch.tensor([2])).sum() == 40


def test_a_memory_moves_halfway_to_what_is_seen_and_stays_a_direction(problem):
    method, state = started(problem)
    before = state.student
    seen = F.normalize(state.embed_student(normal(2, 8, key=1)), dim=1)
    step(method, state, views_of([0, 1], [3, 7]))
    assert torch.allclose(state.student[[3, 7]], F.normalize(before[[3, 7]] / 2 + seen / 2, dim=1), atol=1e-6)
    others = [n for n in range(12) if n not in (3, 7)]
    assert torch.equal(state.student[others], before[others])
    assert state.classes[[3, 7]].tolist() == [0, 1]
    assert (state.classes[others] == UNSEEN).all()


def test_a_row_whose_class_has_changed_begins_anew(problem):
    method, state = started(problem)
    step(method, state, views_of([0, 1], [3, 7]))
    seen = F.normalize(state.embed_teacher(normal(2, 8, key=12)), dim=1)
    halfway = F.normalize(state.teacher[[3, 7]] / 2 + seen / 2, dim=1)
    step(method, state, views_of([0, 2], [3, 7]), key=10)
    assert torch.allclose(state.teacher[3], halfway[0], atol=1e-6)
    assert torch.allclose(state.teacher[7], seen[1], atol=1e-6)


def test_a_pool_grows_into_its_memories_and_no_further(problem):
    method, state = started(problem, samples=12)
    for ids in ([0, 1], [10, 11]):
        step(method, state, views_of([0, 1], ids))
    assert (state.classes != UNSEEN).sum() == 4
    with pytest.raises(ValueError, match="sample 12 of a pool, and memories of 12 samples"):
        step(method, state, views_of([0, 1], [3, 12]))


def test_fresh_samples_are_refused_in_a_line(problem):
    method, state = started(problem)
    assert method.needs_numbers
    with pytest.raises(ConfigError, match="distiller crd: needs samples of a pool, which have numbers"):
        step(method, state, views_of([0, 1], None))


def test_what_exp_is_divided_by_is_that_of_the_first_step(problem):
    method, state = started(problem)
    step(method, state, views_of([0, 1], [3, 7]))
    first = state.means
    assert (first > 0).all()
    step(method, state, views_of([0, 1], [4, 5]), key=5)
    assert torch.equal(state.means, first)


def test_terms_are_weighted_and_those_without_weight_are_left_out(problem):
    views, s, t = views_of([0, 1], [3, 7]), normal(2, 5, key=1), normal(2, 5, key=2)
    method, state = started(problem, ce=2.0, kd=3.0, contrast=0.5)
    terms = step(method, state, views)
    assert terms.keys() == {"ce", "kl", "contrast"}
    assert torch.allclose(terms["ce"], 2 * F.cross_entropy(s, views.y))
    assert torch.allclose(terms["kl"], 3 * kl_divergence(s, t, 4.0))
    method, state = started(problem, ce=0.0, contrast=1.0)
    alone = step(method, state, views)
    assert alone.keys() == {"contrast"}
    assert torch.allclose(terms["contrast"], alone["contrast"] / 2)
    with pytest.raises(ConfigError, match="ce, kd and contrast are all 0"):
        create("crd", ce=0, contrast=0)


def test_half_precision_around_it_costs_the_contrast_nothing(problem):
    got = []
    for half in (False, True):
        method, state = started(problem)
        with torch.autocast("cpu", torch.bfloat16, enabled=half):
            got.append(step(method, state, views_of([0, 1], [3, 7]))["contrast"])
    assert torch.equal(*got)


def lesson(problem: SynthesisProblem, state: Memories, student: Net, method: CRD, steps: range) -> list[float]:
    """The contrast over some steps on twelve samples."""
    x, y = normal(12, 3, 8, 8, key=4), torch.arange(12) % 3
    optimizer = torch.optim.SGD([*student.parameters(), *method.parameters(state)], 0.02)
    told = []
    for number in steps:
        ids = torch.randperm(12, generator=generator("rows", number))[:8]
        views = Views(x[ids], y[ids], ids)
        terms = method.loss(state, student(views.x), problem.teacher(views.x), views)
        optimizer.zero_grad()
        torch.stack(list(terms.values())).sum().backward()
        optimizer.step()
        told.append(terms["contrast"].item())
    return told


def test_a_student_learns_and_what_was_saved_goes_on_to_the_bit(problem):
    method, state = started(problem, ce=0.0)
    student = tiny_net(5, key=1)
    before = [p.detach().clone() for p in method.parameters(state)]
    told = lesson(problem, state, student, method, range(40))
    assert sum(told[-5:]) < 0.8 * sum(told[:5])
    assert all(not torch.equal(p, b) for p, b in zip(method.parameters(state), before, strict=True))
    saved, weights = chain_state.values(state), student.weights()
    saved = {name: v.clone() if isinstance(v, Tensor) else v for name, v in saved.items()}
    other = tiny_net(5, key=1)
    other.load(weights)
    went_on = method.start(problem, other, 12, ("another",))
    chain_state.restore(went_on, saved)
    straight = lesson(problem, state, student, method, range(40, 43))
    assert lesson(problem, went_on, other, method, range(40, 43)) == straight
    assert torch.equal(went_on.student, state.student)


def test_the_same_key_starts_the_same_memories_with_rows_of_about_length_one(problem):
    method = CRD(width=64)
    a, again, other = (method.start(problem, tiny_net(5), 500, ("crd", k)) for k in (0, 0, 1))
    assert torch.equal(a.student, again.student)
    assert torch.equal(a.embed_teacher.weight, again.embed_teacher.weight)
    assert not torch.equal(a.student, other.student)
    assert not torch.equal(a.student, a.teacher)
    assert a.student.norm(dim=1).mean().item() == pytest.approx(1, abs=0.02)
    assert a.student.abs().max().item() == pytest.approx(math.sqrt(3 / 64), rel=1e-3)


def test_nets_of_different_widths_meet_in_one_space(problem):
    wide = tiny_net(5)
    wide.classifier = nn.Linear(20, 5)
    state = CRD(width=4).start(problem, wide, 10, ("k",))
    assert (state.embed_student.in_features, state.embed_teacher.in_features) == (20, 8)


# Names and settings ----------------------------------------------------------------------------


def test_a_method_is_made_by_name_with_its_options():
    assert distiller_names() == ["crd", "kd", "l1"]
    assert create("crd", kd=1.0) == CRD(kd=1.0)
    assert [distiller_class(name)().name for name in distiller_names()] == distiller_names()


@pytest.mark.parametrize(
    ("name", "options", "message"),
    [
        ("kdd", {}, r'unknown distiller "kdd" \(have: crd, kd, l1\)\. Did you mean "kd"'),
        ("kd", {"temprature": 3}, r'kd.temprature: unknown key .*Did you mean "temperature"'),
        ("crd", {"negatives": 0}, "crd.negatives: 0 is not allowed"),
    ],
)
def test_a_wrong_name_or_option_is_named_with_what_is_allowed(name, options, message):
    with pytest.raises(ConfigError, match=message):
        create(name, **options)


@pytest.mark.parametrize("name", ["crd", "kd", "l1"])
def test_settings_survive_yaml_and_are_explained_in_a_sentence(name):
    method = create(name)
    assert parse(Distiller, dump(method), Where("e.yaml")) == method
    assert parse(Distiller, name, Where("e.yaml")) == method
    docs = field_docs(type(method))
    for field in fields(method):
        assert re.fullmatch(r"[A-Z][^.]*(\d\.\d[^.]*)?\.", docs[field.name]), field.name
    assert replace(method) == method
