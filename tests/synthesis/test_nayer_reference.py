"""NAYER against the reference code of LANDER and of NAYER, in double precision."""

from __future__ import annotations

from typing import Any

import pytest
import torch
import torch.nn.functional as F
from golden_vectors import Case, assert_matches, load_case
from synthesis_problems import problem_of
from tiny_net import golden_net, normal, renamed, tiny_net
from torch import nn
from watched_nayer import Watched

from fcil.data import Augment
from fcil.losses import cross_entropy_with
from fcil.nets import NoisyGenerator
from fcil.rng import generator
from fcil.synthesis import Bound, SynthesisProblem
from fcil.synthesis import nayer as nayer_module
from fcil.synthesis.common.pool import string_sorted, to_bytes, view
from fcil.synthesis.common.student import distillation
from fcil.synthesis.nayer import NAYER, NoisyLayerReplica
from fcil.types import Tensors, Terms

GOLDEN_TERMS = {"bn": "bn", "cross_entropy": "ce", "adversarial": "adv", "bound": "bound"}


def golden_chain(case: Case) -> NoisyLayerReplica:
    p, anchors = case.parameters, case.tensors["inputs.label_emb"]
    made = NoisyGenerator(
        anchors,
        (3, p["image"], p["image"]),
        p["batch"],
        latent=p["nz"],
        width=p["ngf"],
        rows_per_layer=p["nl"],
    ).double()
    made.load_state_dict(case.under("params.generator"))
    student = golden_net(case.under("params.student")).eval()
    return NoisyLayerReplica(0, made, student, nn.Parameter(torch.full((3,), 0.5)), nn.Parameter(torch.full((3,), 0.2)))


def golden_nayer(case: Case, stages: list[str], **settings: Any) -> Watched:
    """With the noise and labels of these stages; the learnt deviation starts at 0.2 as it is."""
    p = case.parameters
    method = Watched(
        fidelity="reference",
        steps=p["steps"],
        batch_size=p["batch"],
        latent=p["nz"],
        width=p["ngf"],
        rows_per_layer=p["nl"],
        bn=p["bn"],
        ce=p["oh"],
        adv=p["adv"],
        student_steps=0,
        **settings,
    )
    tails = [case.tensors[f"inputs.{stage}.tail_labels"] for stage in stages]
    noise = [case.under(f"inputs.{stage}.noisy_redraw") for stage in stages]
    return method.watch(tails, noise)


def check_loop(case: Case, stage: str, method: Watched, loop: int, averages: Tensors) -> None:
    """One inner loop against the reference: terms before each step, then all that it left behind."""
    found, state = method.notes["found"][loop]
    expected, tolerance = case.under(f"expected.{stage}"), case.tolerance
    factors = {"bn": method.bn, "ce": method.ce, "adv": method.adv, "bound": case.parameters.get("ltc")}
    for golden, name in GOLDEN_TERMS.items():
        if name == "adv" and name not in found.terms:
            assert not expected[f"steps.{golden}"].any(), stage
        elif f"steps.{golden}" in expected:
            assert_matches(found.terms[name], factors[name] * expected[f"steps.{golden}"], tolerance, name)
    assert_matches(found.terms["total"], expected["steps.total"], tolerance, f"{stage} total")
    for name, value in case.under(f"expected.{stage}.generator").items():
        assert_matches(state[name], value, tolerance, f"{stage} {name}")
    assert_matches(averages["backbone.bn.running_mean"], expected["ema_mean"], tolerance, stage)
    assert_matches(averages["backbone.bn.running_var"], expected["ema_var"], tolerance, stage)
    kept = expected["kept_step"].item()
    assert found.terms["total"].argmin() == kept
    images = [images for images, *_ in method.notes["steps"][loop]]
    assert torch.equal(found.kept, images[kept])
    assert not any(torch.equal(found.kept, other) for i, other in enumerate(images) if i != kept)
    if "best_cost" in expected:
        assert_matches(found.terms["total"].min(), expected["best_cost"], tolerance)
    if "kept_images" in expected:
        assert_matches(found.kept, expected["kept_images"], tolerance)
    if "first_images" in expected:
        assert_matches(images[0], expected["first_images"], tolerance)
    assert torch.equal(method.notes["labels"], expected["targets"]), stage


# The reference, step by step --------------------------------------------------------------------


@pytest.mark.usefixtures("_double")
def test_five_rounds_of_landers_synthesis_match_the_reference():
    case = load_case("30_lander_generator_rounds")
    p, chain = case.parameters, golden_chain(case)
    problem = problem_of(
        golden_net(case.under("params.teacher")),
        case.tensors["inputs.label_emb"],
        bound=Bound(weight=p["ltc"], radius=p["radius"], hinge="batch"),
    )
    student = chain.student.weights()
    for i, (earlier, lr) in enumerate(zip(p["earlier_calls"], p["lr_g"], strict=True), start=1):
        stage = f"round{i}"
        method = golden_nayer(case, [stage], warmup=p["warmup"], lr=lr, stats_lr=p["lr_stats"])
        means = method.episode(problem, chain, earlier + 1)
        check_loop(case, stage, method, 0, chain.averages)
        assert_matches(chain.mean, case.tensors[f"expected.{stage}.mean"], case.tolerance)
        assert_matches(chain.spread, case.tensors[f"expected.{stage}.std"], case.tolerance)
        assert ("adv" in means) == (i >= 4)
        total = case.tensors[f"expected.{stage}.steps.total"].mean().item()
        assert means["total"] == pytest.approx(total, rel=case.tolerance)
    assert all(torch.equal(student[name], w) for name, w in chain.student.weights().items())
    assert len(chain.images) == 3  # of rounds 12, 13 and 14; the first two are warm-up


@pytest.mark.usefixtures("_double")
def test_two_inner_loops_of_nayer_match_the_reference():
    case = load_case("40_nayer_generator_rounds")
    p, chain = case.parameters, golden_chain(case)
    problem = problem_of(
        golden_net(case.under("params.teacher")),
        case.tensors["inputs.label_emb"],
        mean=torch.tensor(p["normalise_mean"]),
        std=torch.tensor(p["normalise_std"]),
    )
    stages = ["loop1", "loop2"]
    method = golden_nayer(case, stages, loops=p["loops"], lr=p["lr_g"], learn_stats=False, warmup=0)
    averages, update = [], nayer_module.update_averages

    def updated(*arguments: Any) -> Tensors:
        averages.append(update(*arguments))
        return averages[-1]

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(nayer_module, "update_averages", updated)
        labels = []
        requested = Watched.requested
        patch.setattr(Watched, "requested", lambda *a: labels.append(requested(*a)) or labels[-1])
        method.episode(problem, chain, 3)
    for loop, stage in enumerate(stages):
        method.notes["labels"] = labels[loop]
        check_loop(case, stage, method, loop, averages[loop])
        training = torch.tensor([training for _, training, _ in method.notes["steps"][loop]])
        assert torch.equal(training, case.tensors[f"expected.{stage}.student_in_train_mode"].bool())
    buffers = dict(chain.student.named_buffers())
    for part in ("mean", "var"):
        got = buffers[f"backbone.bn.running_{part}"]
        assert_matches(got, case.tensors[f"expected.student_running_{part}_after"], case.tolerance)
    assert chain.averages is averages[-1]
    assert (chain.mean == 0.5).all()
    assert (chain.spread == 0.2).all()
    assert not chain.student.training


@pytest.mark.usefixtures("_double")
def test_the_students_steps_match_the_reference(monkeypatch):
    case = load_case("31_lander_student_steps")
    p, t = case.parameters, case.tensors
    batches = torch.cat([t["inputs.batch0.x"], t["inputs.batch1.x"]])
    rows = torch.arange(14).split(7)
    steps: list[Terms] = []

    class WithBatches(NAYER):
        def pool(self, problem: SynthesisProblem, chain: NoisyLayerReplica) -> Tensors:
            return {"x": batches}

    def noted(*arguments: Any) -> Terms:
        steps.append(distillation(*arguments))
        return steps[-1]

    monkeypatch.setattr("fcil.synthesis.common.pool.endless_rows", lambda *_: (rows[i % 2] for i in range(99)))
    monkeypatch.setattr(nayer_module, "distillation", noted)
    teacher = golden_net(case.under("params.teacher"))
    problem = problem_of(teacher, None, mean=torch.zeros(3), std=torch.ones(3))
    chain = NoisyLayerReplica(
        0, nn.Identity(), golden_net(case.under("params.student")).eval(), nn.Parameter(), nn.Parameter()
    )
    method = WithBatches(
        student_steps=p["steps"],
        student_lr=p["lr"],
        student_decay=p["weight_decay"],
        temperature=p["T"],
        student_text=p["ltc"],
    )
    means = method.teach(problem, chain, (0,))
    for name, value in renamed(case.under("expected.final")).items():
        assert_matches(chain.student.state_dict()[name], value, case.tolerance, name)
    for ours, golden, factor in (("kl", "kl", 1), ("embedding", "feature_mse", p["ltc"])):
        expected = factor * t[f"expected.steps.{golden}"]
        assert_matches(torch.stack([step[ours] for step in steps]).detach(), expected, case.tolerance, golden)
        assert_matches(means[f"student_{ours}"], expected.mean(), case.tolerance, golden)
    total = torch.stack([step["kl"] + step["embedding"] for step in steps]).detach()
    assert_matches(total, t["expected.steps.total"], case.tolerance)
    assert not chain.student.training
    assert not any(parameter.requires_grad for parameter in chain.student.parameters())


def test_the_defaults_of_the_student_are_the_references():
    p = load_case("31_lander_student_steps").parameters
    m = NAYER()
    assert (m.student_lr, m.student_decay, m.temperature, m.student_text) == (
        p["lr"],
        p["weight_decay"],
        p["T"],
        p["ltc"],
    )
    assert (m.student_steps, m.student_batch) == (50, 128)


def test_the_defaults_of_the_generator_are_the_references():
    p, m = load_case("30_lander_generator_rounds").parameters, NAYER()
    assert (m.bn, m.ce, m.adv, m.warmup, m.lr, m.stats_lr) == (
        p["bn"],
        p["oh"],
        p["adv"],
        p["warmup"],
        2e-3,
        p["lr_stats"],
    )
    assert (m.rounds, m.steps, m.batch_size, m.latent, m.width, m.rows_of(20)) == (40, 40, 256, 256, 64, 10)
    assert (m.bn_momentum, m.samples, m.loops, m.life, m.chains) == (0.9, 10_000, 1, None, 1)


@pytest.mark.parametrize("config", range(6))
def test_requested_labels_are_laid_out_as_in_the_reference(config):
    case = load_case("09_lander_generate_targets")
    classes, batch = (case.parameters["configs"][config][k] for k in ("classes", "batch"))
    golden = case.tensors[f"expected.C{classes}_N{batch}.targets"]
    problem = problem_of(tiny_net(classes), None)
    labels = NAYER(batch_size=batch).requested(problem, generator("labels"))
    swept = batch // classes * classes
    assert labels.shape == golden.shape
    assert labels.dtype == golden.dtype
    assert torch.equal(labels[:swept], golden[:swept])
    assert ((labels[swept:] >= 0) & (labels[swept:] < classes)).all()
    logits = normal(batch, classes)
    one_hot = case.tensors[f"expected.C{classes}_N{batch}.onehot"].float()
    assert torch.allclose(F.cross_entropy(logits, golden), cross_entropy_with(logits, one_hot))


def test_images_are_stored_and_cut_as_in_the_reference():
    case = load_case("32_lander_image_pool")
    p, t = case.parameters, case.tensors
    stored = to_bytes(t["inputs.images"].float(), "floor")
    assert torch.equal(stored, t["expected.stored_uint8"])
    rows = string_sorted(p["batches"], p["rows"], p["keep"])
    kept = t["expected.kept_batch_and_row"]
    assert rows == (kept[:, 0] * p["rows"] + kept[:, 1]).tolist()
    pool = {"x": stored.flatten(0, 1)[rows]}
    seen = view(pool, torch.arange(3), Augment(), generator(0), torch.zeros(3), torch.ones(3))
    assert_matches(seen, t["expected.reloaded_as_float"], case.tolerance)


def test_the_reference_drops_the_end_of_the_alphabet():
    """41 batches of 256 cut to 10,000: all of batch 9 is lost, and 240 rows of batch 8."""
    rows = torch.tensor(string_sorted(41, 256, 10_000))
    counts = torch.bincount(rows // 256, minlength=41)
    assert counts[9] == 0
    assert counts[8] == 16
    assert (counts[[i for i in range(41) if i not in (8, 9)]] == 256).all()
