"""Fast-DFKD against the reference code of TARGET, in double precision, and its silent traps."""

from __future__ import annotations

import math
from dataclasses import replace
from typing import Any

import pytest
import torch
import torch.nn.functional as F
from golden_vectors import Case, assert_matches, load_case
from synthesis_problems import (
    alike,
    bounded_problem,
    check_batchnorm_is_needed_to_match_it,
    gone_on,
    problem_of,
    run_chain,
    sharp_net,
)
from tiny_net import golden_net, normal, tiny_net
from torch import Tensor, nn

from fcil.data import Augment
from fcil.errors import ConfigError, TrainingError
from fcil.losses import masked_adversarial, statistics_distance
from fcil.nets import PlainGenerator
from fcil.rng import generator, seeded
from fcil.synthesis import Bound, SynthesisProblem, create
from fcil.synthesis.common.inner_loop import BestBatch, balanced_labels, readable
from fcil.synthesis.common.pool import to_bytes
from fcil.synthesis.fast import SIDES, Adapted, Fast, FastReplica, add_gradients, point_at, redraw
from fcil.types import Tensors


class Watched(Fast):
    """Fast whose chance may be given, and which notes what every episode finds."""

    def watch(self, given: list[tuple[Tensor, Tensor]] | None = None) -> Watched:
        object.__setattr__(
            self, "notes", {"given": given or [], "found": [], "adversarial": [], "images": [], "lr": []}
        )
        return self

    def requested(self, problem: SynthesisProblem, rng: torch.Generator) -> tuple[Tensor, Tensor]:
        return self.notes["given"].pop(0) if self.notes["given"] else super().requested(problem, rng)

    def adapt(
        self, problem: SynthesisProblem, chain: FastReplica, labels: Tensor, noise: Tensor, **options: Any
    ) -> Adapted:
        self.notes["adversarial"].append(options["adversarial"])
        self.notes["images"].append([])
        self.notes["started"] = (labels, noise.clone())
        found = super().adapt(problem, chain, labels, noise, **options)
        self.notes["found"].append(found)
        return found

    def terms(
        self, problem: SynthesisProblem, chain: FastReplica, images: Tensor, labels: Tensor, **options: Any
    ) -> Any:
        self.notes["images"][-1].append(images.detach().clone())
        return super().terms(problem, chain, images, labels, **options)

    def teach(self, problem: SynthesisProblem, chain: FastReplica, key: Any, past: float = 0.0) -> dict[str, Tensor]:
        means = super().teach(problem, chain, key, past)
        self.notes["lr"].append(chain.teaching.param_groups[0]["lr"])
        return means


SMALL: dict[str, Any] = {
    "rounds": 3,
    "warmup": 1,
    "steps": 2,
    "batch_size": 10,
    "latent": 8,
    "width": 4,
    "student_steps": 2,
    "student_batch": 4,
}


def small(**settings: Any) -> Watched:
    return Watched(**SMALL | settings).watch()


@pytest.fixture
def problem() -> SynthesisProblem:
    return bounded_problem()


# The reference, step by step -------------------------------------------------------------------


def golden_chain(case: Case, method: Fast) -> FastReplica:
    p = case.parameters
    made = PlainGenerator((3, p["image"], p["image"]), p["nz"], p["ngf"]).double()
    made.load_state_dict(case.under("params.generator"))
    student = golden_net(case.under("params.student")).eval()
    return FastReplica(
        number=0,
        generator=made,
        meta=torch.optim.Adam(made.parameters(), lr=method.lr * method.steps, betas=(0.5, 0.999)),
        student=student,
        teaching=torch.optim.SGD(student.parameters(), lr=0.1),
    )


@pytest.mark.usefixtures("_double")
def test_two_rounds_of_targets_synthesis_match_the_reference():
    case = load_case("50_target_generator_rounds")
    p, t = case.parameters, case.tensors
    method = Watched(
        fidelity="reference",
        warmup=p["warmup"],
        steps=p["steps"],
        batch_size=p["batch"],
        latent=p["nz"],
        width=p["ngf"],
        bn=p["bn"],
        ce=p["oh"],
        adv=p["adv"],
        lr=p["lr_g"],
        latent_lr=p["lr_z"],
        student_steps=0,
    ).watch([(t[f"inputs.round{i}.targets"], t[f"inputs.round{i}.z"]) for i in (1, 2)])
    problem = problem_of(
        golden_net(case.under("params.teacher")),
        None,
        mean=torch.tensor(p["normalise_mean"]),
        std=torch.tensor(p["normalise_std"]),
    )
    chain = golden_chain(case, method)
    for number in (1, 2):
        means = method.episode(problem, chain, number)
        found, expected = method.notes["found"][-1], case.under(f"expected.round{number}")
        for golden, (name, factor) in {
            "bn": ("bn", 10.0),
            "cross_entropy": ("ce", 0.5),
            "adversarial": ("adv", 1.0),
        }.items():
            if name in found.terms:
                assert_matches(found.terms[name], factor * expected[f"steps.{golden}"], case.tolerance, name)
            else:
                assert (number, name) == (1, "adv")
                assert not expected["steps.adversarial"].any()
        assert_matches(found.terms["total"], expected["steps.total"], case.tolerance)
        assert means["total"] == pytest.approx(expected["steps.total"].mean().item(), rel=case.tolerance)
        for whose, net in (("adapted", found.generator), ("meta", chain.generator)):
            golden_state = case.under(f"expected.round{number}.{whose}_generator")
            assert net.state_dict().keys() == golden_state.keys()
            for name, value in golden_state.items():
                assert_matches(net.state_dict()[name], value, case.tolerance, f"round {number} {whose} {name}")
        assert_matches(found.z, expected["z_final"], case.tolerance, "z")
        assert_matches(chain.averages["backbone.bn.running_mean"], expected["ema_mean"], case.tolerance)
        assert_matches(chain.averages["backbone.bn.running_var"], expected["ema_var"], case.tolerance)
        assert_matches(found.kept, expected["kept_images"], case.tolerance)
        assert torch.equal(found.kept, method.notes["images"][-1][expected["kept_step"]])
        assert torch.equal(chain.labels[-1], t[f"inputs.round{number}.targets"])
        assert torch.equal(chain.images[-1], to_bytes(found.kept, "floor"))


def test_the_defaults_are_the_references():
    p, m = load_case("50_target_generator_rounds").parameters, Fast()
    assert (m.bn, m.ce, m.lr, m.latent_lr) == (p["bn"], p["oh"], p["lr_g"], p["lr_z"])
    assert (m.rounds, m.steps, m.batch_size, m.adv, m.latent, m.width) == (220, 10, 256, 1.33, 256, 64)
    assert (m.student_steps, m.student_lr, m.student_decay, m.temperature) == (400, 0.2, 1e-4, 20.0)
    assert (m.bn_momentum, m.reset, m.meta) == (0.9, 140, "maml")


# How the meta generator learns -----------------------------------------------------------------


def weights_of(net: nn.Module) -> Tensors:
    return {name: w.detach().clone() for name, w in net.state_dict().items()}


def test_reptile_goes_from_the_meta_generator_to_the_copy():
    meta, adapted = nn.Linear(1, 1), nn.Linear(1, 1)
    with torch.no_grad():
        meta.weight.fill_(2.0)
        meta.bias.fill_(1.0)
        adapted.weight.fill_(1.5)
        adapted.bias.fill_(1.25)
    point_at(meta, adapted)
    assert meta.weight.grad.item() == 67 * 0.5
    assert meta.bias.grad.item() == 67 * -0.25


def test_first_order_maml_sums_the_gradients_of_the_copy():
    meta, adapted = nn.Linear(1, 1), nn.Linear(1, 1)
    for slope, offset in ((2.0, 0.5), (-3.0, 0.25)):
        adapted.weight.grad, adapted.bias.grad = torch.full((1, 1), slope), torch.full((1,), offset)
        add_gradients(meta, adapted)
    assert (meta.weight.grad.item(), meta.bias.grad.item()) == (-1.0, 0.75)
    assert adapted.weight.grad.item() == -3.0


@pytest.mark.parametrize("meta", ["maml", "reptile"])
def test_an_adams_first_step_follows_the_sign_of_the_gradient(problem, meta):
    """Both take lr * steps = 0.004 at first, MAML against the summed gradients, Reptile towards the copy."""
    method = small(meta=meta)
    chain = method.start(problem, 0)
    before = weights_of(chain.generator)
    method.episode(problem, chain, 1)
    (found,) = method.notes["found"]
    moved = chain.generator.l1.weight.detach() - before["l1.weight"]
    assert moved.abs().median().item() == pytest.approx(0.004, rel=1e-2)
    towards = found.generator.l1.weight.detach() - before["l1.weight"]
    agree = (moved.sign() == towards.sign()).float().mean()
    assert agree > 0.99 if meta == "reptile" else agree > 0.8  # the copy follows nearly the same gradients
    assert all(parameter.grad is None for parameter in chain.generator.parameters())
    buffers = dict(chain.generator.named_buffers())
    assert all(torch.equal(before[name], buffer) for name, buffer in buffers.items())  # only the copy sees data


def test_without_meta_learning_there_is_one_generator_that_goes_on(problem):
    method = small(meta="none")
    chain = method.start(problem, 0)
    before = weights_of(chain.generator)
    method.episode(problem, chain, 1)
    (found,) = method.notes["found"]
    assert found.generator is chain.generator
    assert not torch.equal(before["l1.weight"], chain.generator.l1.weight)
    assert chain.generator.bn0.num_batches_tracked == 2


def test_every_episode_starts_from_the_meta_generator_with_new_noise_of_its_own(problem):
    method = small(steps=1)
    chain = method.start(problem, 0)
    started = []
    for number in (1, 2):
        expected = weights_of(chain.generator)
        method.episode(problem, chain, number)
        labels, z = method.notes["started"]
        started.append((labels, z))
        with seeded("any"):
            alone = PlainGenerator((3, 8, 8), 8, 4)
        alone.load_state_dict(expected)
        assert torch.equal(alone(z), method.notes["images"][-1][0])
        assert not torch.equal(method.notes["found"][-1].z, z)
    assert not torch.equal(started[0][1], started[1][1])
    big = small(batch_size=4000)
    z = big.requested(problem, generator(0))[1]
    assert abs(z.mean()) < 0.02
    assert abs(z.std() - 1) < 0.02


@pytest.mark.parametrize("deep", [False, True])
def test_a_reset_draws_the_first_layers_anew_and_leaves_the_rest(deep):
    with seeded("reset"):
        made = PlainGenerator((3, 32, 32), 64, 8, deep=deep)
    assert made(torch.zeros(2, 64)).shape == (2, 3, 32, 32)
    before = weights_of(made)
    redraw(made, generator("reset"))
    changed = {name for name, w in made.state_dict().items() if not torch.equal(w, before[name])}
    assert changed == {"l1.weight", "l1.bias", "bn0.weight"}
    assert made.l1.weight.std().item() == pytest.approx(0.02, rel=0.05)
    assert not made.l1.bias.any()


def test_it_is_reset_once(problem):
    for reset, expected in ((2, [False, True, False]), (None, [False] * 3)):
        method, resets = small(reset=reset), []
        chain = method.start(problem, 0)
        for number in (1, 2, 3):
            before = chain.generator.bn0.weight.detach().mean().item()  # about 1, but for N(0, 0.02)
            method.episode(problem, chain, number)
            resets.append(before > 0.9 and chain.generator.bn0.weight.detach().mean().item() < 0.5)
        assert resets == expected


# Terms -----------------------------------------------------------------------------------------


def test_terms_are_weighted_and_the_bound_reads_the_text_head(problem):
    images, labels = torch.rand(6, 3, 8, 8, generator=generator(0)).requires_grad_(), torch.tensor([0, 1, 2, 3, 4, 0])
    method = small(bn=3.0, ce=2.0, adv=5.0)
    chain = method.start(problem, 0)
    chain.student = problem.teacher  # it agrees with itself everywhere, and the KL is zero
    method.notes["images"].append([])
    terms, stats = method.terms(problem, chain, images, labels, adversarial=True, rng=generator(0))
    out = problem.teacher((images - 0.5) / 0.25)
    assert terms.keys() == {"ce", "bn", "adv", "bound"}
    assert torch.allclose(terms["ce"], 2 * F.cross_entropy(out.logits, labels))
    assert torch.allclose(terms["bn"], 3 * statistics_distance(problem.teacher, stats))
    assert terms["adv"].item() == pytest.approx(0, abs=1e-6)
    assert torch.allclose(terms["bound"], Bound()(out.embedding, problem.anchors[labels]))
    for name in ("ce", "bn", "bound"):
        (slope,) = torch.autograd.grad(terms[name], images, retain_graph=True)
        assert slope.abs().sum() > 0, name
    chain.student = tiny_net(5, key=3).eval().requires_grad_(False)
    method.notes["images"].append([])
    terms, _ = method.terms(problem, chain, images, labels, adversarial=True, rng=generator(0))
    student = chain.student((images - 0.5) / 0.25)
    assert torch.allclose(terms["adv"], 5 * masked_adversarial(student.logits, out.logits))


def test_without_anchors_or_a_text_head_there_is_no_bound():
    for net, anchors in ((tiny_net(5, None), normal(5, 16)), (tiny_net(5), None)):
        method = small()
        here = problem_of(net, anchors, bound=Bound())
        assert "bound" not in method.episode(here, method.start(method.checked(here), 0), 1)


def test_augmentation_reaches_the_teacher_and_not_what_is_kept(problem):
    method = small(steps=1)
    augmented = replace(problem, augment=Augment(padding=2, flip=True))
    chain = method.start(augmented, 0)
    method.episode(augmented, chain, 1)
    ((images,),) = method.notes["images"]
    assert torch.equal(chain.images[0], to_bytes(images, "round"))
    plain = small(steps=1)
    plain.episode(problem, plain.start(problem, 0), 1)
    assert not torch.equal(plain.notes["found"][0].terms["ce"], method.notes["found"][0].terms["ce"])


# The student -----------------------------------------------------------------------------------


@pytest.mark.parametrize("warmup", [0, 2])
def test_the_adversary_plays_from_the_last_warmup_episode_and_the_student_learns_after_it(problem, warmup):
    method = small(warmup=warmup, rounds=4)
    chain = method.start(problem, 0)
    reports = [method.episode(problem, chain, number) for number in (1, 2, 3, 4)]
    assert method.notes["adversarial"] == [number >= warmup for number in (1, 2, 3, 4)]
    assert ["student_kl" in report for report in reports] == [number > warmup for number in (1, 2, 3, 4)]
    assert len(chain.images) == 4  # those of the warm-up too


def test_the_warmup_keeps_its_share_of_the_episodes_or_is_twenty():
    for rounds, paper in ((220, 20), (10, 1), (32, 3), (3, 0)):
        assert Fast(rounds=rounds).settled.warmup == paper
        assert Fast(rounds=rounds, fidelity="reference").settled.warmup == 20
    assert Fast(rounds=20, chains=2).settled.warmup == 1  # every chain warms up on its own episodes
    assert Fast(rounds=10, warmup=7).settled.warmup == 7


def test_in_the_reference_a_short_synthesis_never_reaches_its_student(problem):
    for fidelity, learns in (("reference", False), ("paper", True)):
        method = small(fidelity=fidelity, warmup=None, rounds=10)
        chain = method.start(problem, 0)
        before = chain.student.weights()
        reports = [method.episode(problem, chain, number) for number in range(1, 11)]
        assert any("adv" in report for report in reports) == learns
        assert any(not torch.equal(w, before[name]) for name, w in chain.student.weights().items()) == learns


def test_the_students_rate_falls_as_a_cosine_and_its_momentum_is_kept(problem):
    method = small(rounds=5, warmup=1, student_lr=0.2, student_lr_end=0.1)
    chain = run_chain(method, problem)
    half = [0.1 + 0.1 * (1 + math.cos(math.pi * k / 4)) / 2 for k in range(4)]
    assert method.notes["lr"] == pytest.approx(half)
    assert all("momentum_buffer" in chain.teaching.state[p] for p in chain.student.parameters() if p.ndim == 4)
    assert not chain.student.training


# The pool --------------------------------------------------------------------------------------


def test_labels_are_drawn_alone_or_in_sweeps(problem):
    here = replace(problem, labels=(1, 3, 4))
    alone, swept = (
        small(labels=kind, batch_size=600).requested(here, generator(0))[0] for kind in ("random", "balanced")
    )
    assert set(alone.tolist()) == {1, 3, 4}
    assert len(set(torch.bincount(alone)[[1, 3, 4]].tolist())) > 1
    assert torch.bincount(swept)[[1, 3, 4]].tolist() == [200] * 3


def test_the_pool_holds_the_latest_samples_as_eight_bits_with_their_labels(problem):
    method = small(rounds=4, samples=25)
    chain = run_chain(method, problem)
    pool = method.pool(problem, chain)
    assert pool.keys() == {"x", "y"}
    assert pool["x"].shape == (25, 3, 8, 8)
    assert pool["x"].dtype == torch.uint8
    assert torch.equal(pool["x"], torch.cat(chain.images)[-25:])
    assert torch.equal(pool["y"], torch.cat(chain.labels)[-25:])
    by_name = replace(method, cut="string-sorted", samples=25).pool(problem, chain)
    assert torch.equal(by_name["x"], torch.cat(chain.images)[:25])


def test_chains_differ_and_share_the_episodes_and_the_samples(problem):
    method = Fast(**SMALL | {"rounds": 4, "chains": 2, "samples": 30})
    assert method.episodes == 2
    pools = [method.pool(problem, run_chain(replace(method), problem)) for _ in range(2)]
    assert torch.equal(pools[0]["x"], pools[1]["x"])
    one, two = (method.start(problem, chain) for chain in range(2))
    assert not torch.equal(one.generator.l1.weight, two.generator.l1.weight)
    assert not torch.equal(one.student.backbone.conv.weight, two.student.backbone.conv.weight)
    whole = method.run(teacher=tiny_net(5), labels=range(5), shape=(3, 8, 8))
    assert len(whole["x"]) == 30


def test_a_chain_goes_on_from_what_was_saved_to_the_bit(problem):
    method = Fast(**SMALL | {"rounds": 5, "warmup": 1, "reset": 4})
    straight = run_chain(method, problem)
    went_on = gone_on(method, problem, after=3)
    for part in ("generator", "student"):
        assert alike(getattr(straight, part), getattr(went_on, part)), part
    assert torch.equal(method.pool(problem, straight)["x"], method.pool(problem, went_on)["x"])


def test_samples_get_closer_to_what_was_asked_for():
    """An episode of many steps makes images that the teacher sees as the wanted classes."""
    here = problem_of(sharp_net())
    method = small(steps=40, lr=1e-2, latent_lr=0.1, bn=0.0, batch_size=30)
    method.episode(here, method.start(here, 0), 1)
    first, last = method.notes["found"][0].terms["ce"][[0, -1]].tolist()
    assert last < 0.8 * first


# Sides and refusals ----------------------------------------------------------------------------


@pytest.mark.parametrize("name", SIDES)
@pytest.mark.parametrize(("fidelity", "column"), [("paper", 0), ("reference", 1)])
def test_an_open_field_takes_the_side_and_a_chosen_one_wins(name, fidelity, column):
    assert getattr(Fast(), name) is None
    side = SIDES[name][column]
    assert getattr(Fast(fidelity=fidelity).settled, name) == (20 if name == "warmup" else side)
    chosen = 7 if name == "warmup" else SIDES[name][1 - column]
    assert getattr(create("fast", **{"fidelity": fidelity, name: chosen}).settled, name) == chosen


def test_it_takes_the_callers_side_where_it_has_none():
    assert Fast().with_fidelity("reference").settled.cut == "string-sorted"
    assert Fast(fidelity="paper").with_fidelity("reference").settled.cut == "latest"


def test_batchnorm_is_needed_where_it_is_matched_alone():
    check_batchnorm_is_needed_to_match_it(small)


@pytest.mark.parametrize(
    ("settings", "shape", "message"),
    [
        ({}, (3, 10, 10), r"multiples of 4, not 10 x 10"),
        ({}, (3, 8), r"makes images; this data has samples of shape \(3, 8\)"),
        ({"width": 10**9, "latent": 10**12}, (3, 8, 8), r"Storage size|[Oo]verflow|invalid"),
    ],
)
def test_what_cannot_be_made_is_refused_in_a_line(settings, shape, message):
    with pytest.raises(ConfigError, match=message):
        small(**settings).checked(problem_of(tiny_net(5), None, shape=shape))


def test_a_loss_that_is_no_number_is_named(problem):
    broken = replace(problem, anchors=torch.full((5, 16), math.nan))
    method = small()
    with pytest.raises(TrainingError, match=r'synthesis term "\w+" became nan in episode 1'):
        method.episode(broken, method.start(broken, 0), 1)


def test_smoke_is_short_and_reaches_the_student(problem):
    method = Fast().smoke()
    assert (method.episodes, method.settled.warmup, method.student_steps, method.batch_size) == (3, 0, 1, 32)


# What inner loops share ------------------------------------------------------------------------


def test_the_lowest_loss_decides_what_is_kept():
    lowest = BestBatch()
    for step, loss in enumerate((3.0, 1.0, 1.0, 2.0)):
        lowest.offer(torch.tensor(loss), torch.full((2,), step), torch.tensor(-step))
    first, second = lowest.kept
    assert first.tolist() == [1, 1]  # a tie does not replace it
    assert second.item() == -1


def test_sweeps_take_all_classes_in_turn_and_then_any():
    labels = balanced_labels((4, 2, 9), 8, generator(0), torch.device("cpu"))
    assert labels[:6].tolist() == [4, 2, 9, 4, 2, 9]
    assert set(labels[6:].tolist()) <= {4, 2, 9}


def test_terms_are_numbers_or_an_error():
    assert readable({"ce": torch.tensor(1.5)}, 1) == {"ce": 1.5}
    with pytest.raises(TrainingError, match=r'"bn" became inf in episode 7'):
        readable({"ce": torch.tensor(1.0), "bn": torch.tensor(math.inf)}, 7)
