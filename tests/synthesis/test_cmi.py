"""CMI against the reference code, in double precision, its bank, its views of images, and whole runs."""

from __future__ import annotations

import math
from dataclasses import replace
from itertools import pairwise
from typing import Any

import pytest
import torch
import torch.nn.functional as F
from golden_vectors import Case, assert_matches, load_case
from synthesis_problems import (
    alike,
    bounded_problem,
    gone_on,
    plain_problem,
    problem_of,
    run_chain,
    sharp_net,
    synthetic_of_a_run,
    two_convs_net,
)
from tiny_net import normal, tiny_net
from torch import Tensor

from fcil.data import Augment
from fcil.errors import ConfigError
from fcil.losses import masked_adversarial, statistics_distance
from fcil.nets import NetSettings, PlainGenerator, build_net
from fcil.rng import Key, generator, seeded
from fcil.synthesis import Bound, SynthesisProblem, create
from fcil.synthesis.cmi import CMI, CMIReplica, Inverted
from fcil.synthesis.common.contrastive import Projector, contrastive, enlarged, look, looked_at
from fcil.synthesis.common.pool import to_bytes


class Watched(CMI):
    """CMI whose chance may be given, and which notes what every episode finds."""

    def watch(self, given: list[tuple[Tensor, Tensor]] | None = None, made: list[PlainGenerator] | None = None) -> Any:
        notes = {"given": given or [], "made": made or [], "found": [], "images": [], "features": [], "lr": []}
        object.__setattr__(self, "notes", notes)
        return self

    def requested(self, problem: SynthesisProblem, rng: torch.Generator) -> tuple[Tensor, Tensor]:
        return self.notes["given"].pop(0) if self.notes["given"] else super().requested(problem, rng)

    def new_generator(self, problem: SynthesisProblem, *key: Key) -> PlainGenerator:
        return self.notes["made"].pop(0) if self.notes["made"] else super().new_generator(problem, *key)

    def invert(self, problem: SynthesisProblem, chain: CMIReplica, *given: Any) -> Inverted:
        for name in ("images", "features"):
            self.notes[name].append([])
        self.notes["found"].append(super().invert(problem, chain, *given))
        return self.notes["found"][-1]

    def terms(self, problem: SynthesisProblem, chain: CMIReplica, images: Tensor, *given: Any) -> Any:
        terms, features = super().terms(problem, chain, images, *given)
        for name, tensor in (("images", images), ("features", features)):
            self.notes[name][-1].append(tensor.detach().clone())
        return terms, features

    def teach(self, problem: SynthesisProblem, chain: CMIReplica, key: Any, past: float = 0.0) -> dict[str, Tensor]:
        means = super().teach(problem, chain, key, past)
        self.notes["lr"].append(chain.teaching.param_groups[0]["lr"])
        return means


SMALL: dict[str, Any] = {
    "rounds": 3,
    "steps": 2,
    "batch_size": 10,
    "latent": 8,
    "width": 4,
    "directions": 6,
    "student_steps": 2,
    "student_batch": 4,
}


def small(**settings: Any) -> Any:
    return Watched(**SMALL | settings).watch()


@pytest.fixture
def problem() -> SynthesisProblem:
    return bounded_problem()


# The reference, step by step -------------------------------------------------------------------


class Deterministic(Watched):
    """The views of the golden case: the whole as it is, and the whole mirrored and a little paler for the part."""

    def parts(self, problem: SynthesisProblem, images: Tensor, rng: torch.Generator) -> Tensor:
        return 0.9 * images.flip(-1) + 0.05


def golden_method(case: Case) -> Any:
    p, t, made = case.parameters, case.tensors, []
    for number in (1, 2):
        made.append(PlainGenerator((3, p["image"], p["image"]), p["nz"], p["ngf"]).double())
        made[-1].load_state_dict(case.under(f"params.generator.round{number}"), strict=False)
    method = Deterministic(
        steps=p["steps"],
        batch_size=p["batch"],
        latent=p["nz"],
        width=p["ngf"],
        bn=p["bn"],
        ce=p["oh"],
        adv=p["adv"],
        contrast=p["cr"],
        sharpness=p["cr_temperature"],
        directions=p["head_dim"],
        student_steps=0,
    )
    return method.watch([(t[f"inputs.round{i}.targets"], t[f"inputs.round{i}.z"]) for i in (1, 2)], made)


@pytest.mark.usefixtures("_double")
def test_two_rounds_of_synthesis_match_the_reference():
    case = load_case("65_cmi_generator_rounds")
    p, method = case.parameters, golden_method(case)
    problem = problem_of(
        two_convs_net(case.under("params.teacher")),
        None,
        mean=torch.tensor(p["normalise_mean"]),
        std=torch.tensor(p["normalise_std"]),
        student=two_convs_net(case.under("params.student")).eval(),
    )
    chain = method.start(method.checked(problem), 0)
    chain.projector.load_state_dict(case.under("params.head"))
    names = {
        "bn": ("bn", 1.0),
        "cross_entropy": ("ce", 1.0),
        "adversarial": ("adv", 0.5),
        "contrastive": ("contrast", 0.8),
    }
    for number in (1, 2):
        method.episode(problem, chain, number)
        found, expected = method.notes["found"][-1], case.under(f"expected.round{number}")
        for golden, (name, weight) in names.items():
            assert_matches(found.terms[name], weight * expected[f"steps.{golden}"], case.tolerance, name)
        assert_matches(found.terms["total"], expected["steps.total"], case.tolerance)
        first_part, first_whole = method.notes["features"][-1][0].chunk(2, dim=1)
        assert_matches(first_part, expected["step0.local_feature"], case.tolerance)
        assert_matches(first_whole, expected["step0.global_feature"], case.tolerance)
        for whose, net in (("generator", found.generator), ("head", chain.projector)):
            for name, value in case.under(f"expected.round{number}.{whose}").items():
                assert_matches(net.state_dict()[name], value, case.tolerance, f"round {number} {whose} {name}")
        assert_matches(found.z, expected["z_final"], case.tolerance, "z")
        assert_matches(chain.bank, expected["bank_rows"], case.tolerance, "bank")
        assert torch.equal(found.kept, method.notes["images"][-1][expected["kept_step"]])
        assert torch.equal(found.features, method.notes["features"][-1][expected["kept_step"]])


def test_the_defaults_are_the_references():
    p, m = load_case("65_cmi_generator_rounds").parameters, CMI()
    assert (m.bn, m.ce, m.adv, m.contrast) == (p["bn"], p["oh"], p["adv"], p["cr"])
    assert (m.rounds, m.steps, m.batch_size, m.lr, m.latent, m.width) == (200, 200, 256, 1e-3, 256, 64)
    assert (m.sharpness, m.directions, m.bank, m.negatives, m.part) == (0.1, 256, 40960, 4096, 0.25)
    assert (m.student_steps, m.student_lr, m.student_decay, m.temperature) == (400, 0.1, 1e-4, 20.0)


# The contrast ----------------------------------------------------------------------------------


@pytest.mark.usefixtures("_double")
@pytest.mark.parametrize("fresh", [2, 5])
def test_the_contrast_is_that_of_its_rows_and_its_gradient_leaves_wholes_alone(fresh):
    parts, wholes = (F.normalize(normal(5, 3, key=k), dim=1).requires_grad_() for k in (0, 1))
    got = contrastive(parts, wholes, fresh, 0.2)
    each = [
        -math.log(math.exp(parts[i] @ wholes[i] / 0.2) / sum(math.exp(parts[i] @ w / 0.2) for w in wholes))
        for i in range(5)
    ]
    groups = [g for g in (each[:fresh], each[fresh:]) if g]
    assert got.item() == pytest.approx(sum(sum(g) / len(g) for g in groups))
    slope, nothing = torch.autograd.grad(got, [parts, wholes], allow_unused=True)
    assert nothing is None
    chances = (parts @ wholes.T / 0.2).softmax(dim=1).detach()
    sizes = torch.tensor([float(fresh if i < fresh else 5 - fresh) for i in range(5)])
    by_hand = (chances - torch.eye(5)) @ wholes.detach() / 0.2 / sizes[:, None]
    assert torch.allclose(slope, by_hand)


def test_directions_have_length_one():
    with seeded("projector"):
        assert torch.allclose(Projector(7, 3)(normal(4, 7)).norm(dim=1), torch.ones(4))


def test_what_is_seen_is_the_mean_over_positions_of_what_enters_a_layer():
    net, x = tiny_net(5).eval(), normal(4, 3, 8, 8)
    before = sum(len(m._forward_pre_hooks) for m in net.modules())
    said, seen = look(net, looked_at(net, None), x)
    assert torch.allclose(seen, net.backbone.conv(x).mean(dim=(2, 3)), atol=1e-6)
    assert torch.equal(said.logits, net(x).logits)
    assert sum(len(m._forward_pre_hooks) for m in net.modules()) == before == 0


def test_all_layers_are_looked_at_or_four_of_a_wide_net():
    def widths(name: str, count: int | None, width: int | None = None) -> list[int]:
        with torch.device("meta"):
            settings = NetSettings(name=name, width=width)
            net = build_net(settings, shape=(3, 32, 32), num_classes=5, text_width=None, key=("n",))
        return list(looked_at(net, count).values())

    assert widths("resnet18", None) == [64, 128, 256, 512]
    assert len(widths("resnet32", None)) == 31
    assert len(widths("resnet18", None, 32)) == 20
    assert len(widths("resnet18", 20)) == 20
    assert widths("resnet18", 1) == [512]
    with pytest.raises(ValueError, match="layers: 21 are to be looked at, and the net has 20 batch-norm layers"):
        widths("resnet18", 21)


def test_the_bank_grows_and_then_drops_its_oldest_rows(problem):
    method = small(rounds=5, bank=25, student_steps=0)
    chain = method.start(problem, 0)
    sizes = []
    for number in range(1, 6):
        method.episode(problem, chain, number)
        sizes.append(len(chain.bank))
    assert sizes == [10, 20, 25, 25, 25]
    kept = torch.cat([found.features for found in method.notes["found"]])
    assert torch.equal(chain.bank, kept[-25:])
    assert not chain.bank.requires_grad
    tiny_bank = small(bank=4, student_steps=0)
    assert torch.equal(run_chain(tiny_bank, problem).bank, tiny_bank.notes["found"][-1].features[-4:])


def test_a_sample_of_the_bank_stands_behind_the_batch(problem, monkeypatch):
    asked = []

    def noting(parts: Tensor, wholes: Tensor, fresh: int, temperature: float) -> Tensor:
        asked.append((len(parts), fresh, wholes.requires_grad, temperature))
        return contrastive(parts, wholes, fresh, temperature)

    monkeypatch.setattr("fcil.synthesis.cmi.contrastive", noting)
    run_chain(small(negatives=13, steps=1, student_steps=0), problem)
    assert asked == [(10, 10, False, 0.1), (20, 10, False, 0.1), (23, 10, False, 0.1)]


def test_the_projector_learns_through_all_episodes_and_every_generator_is_new(problem):
    method = small(student_steps=0)
    chain = method.start(problem, 0)
    heads, made = [chain.projector.fc1.weight.detach().clone()], []
    for number in (1, 2):
        with torch.no_grad():
            made.append(method.new_generator(problem, 0, 0, number).state_dict())
        method.episode(problem, chain, number)
        heads.append(chain.projector.fc1.weight.detach().clone())
    assert all(not torch.equal(a, b) for a, b in pairwise(heads))
    assert all(int(state["step"]) == 4 for state in chain.projecting.state.values())
    assert not torch.equal(made[0]["l1.weight"], made[1]["l1.weight"])
    assert made[0]["conv1.weight"].std().item() == pytest.approx(0.02, rel=0.1)
    assert made[0]["bn1.weight"].mean().item() == pytest.approx(1, abs=0.03)
    assert not made[0]["conv3.bias"].any()


# Views of images -------------------------------------------------------------------------------


@pytest.mark.usefixtures("_double")
def test_a_piece_is_brought_to_the_whole_size_as_torch_does_it():
    images = torch.rand(3, 2, 6, 8, generator=generator("x"))
    starts, lengths = (
        torch.tensor([[0.0, 0.5, 0.1], [0.0, 0.25, 0.3]]),
        torch.tensor([[1.0, 0.5, 0.6], [1.0, 0.5, 0.7]]),
    )
    got = enlarged(images, starts, lengths, torch.tensor([False, True, False]))
    assert torch.allclose(got[0], images[0])
    theta = torch.zeros(3, 2, 3)
    theta[:, 0, 0], theta[:, 1, 1] = lengths[1], lengths[0]
    theta[:, 0, 2], theta[:, 1, 2] = 2 * starts[1] + lengths[1] - 1, 2 * starts[0] + lengths[0] - 1
    grid = F.affine_grid(theta, [3, 2, 6, 8], align_corners=False)
    theirs = F.grid_sample(images, grid, padding_mode="border", align_corners=False)
    theirs[1] = theirs[1].flip(-1)
    assert torch.allclose(got, theirs)


def test_parts_show_between_a_quarter_and_all_of_an_image_and_are_mirrored_where_the_data_are(problem, monkeypatch):
    asked = []
    monkeypatch.setattr("fcil.synthesis.cmi.enlarged", lambda *given: asked.append(given) or given[0])
    images = torch.zeros(4000, 1, 8, 8)
    for flip in (False, True):
        small().parts(replace(problem, augment=Augment(flip=flip)), images, generator("parts"))
    for (_, starts, lengths, mirror), share in zip(asked, (0.0, 0.5), strict=True):
        area, stretch = lengths.prod(dim=0), lengths[1] / lengths[0]
        assert 0.25 <= area.min() < 0.27
        assert 0.9 < area.max() <= 1
        assert 0.74 < stretch.min() < 0.8
        assert 1.25 < stretch.max() < 1.34
        assert (starts >= 0).all()
        assert (starts + lengths <= 1 + 1e-6).all()
        assert mirror.float().mean().item() == pytest.approx(share, abs=0.05)


def test_the_gradient_of_the_contrast_reaches_images_through_their_parts(problem):
    images = torch.rand(6, 3, 8, 8, generator=generator(0)).requires_grad_()
    method = small()
    method.notes["images"].append([])
    method.notes["features"].append([])
    terms, features = method.terms(problem, method.start(problem, 0), images, torch.arange(6) % 5, generator(0))
    (slope,) = torch.autograd.grad(terms["contrast"], images)
    assert (slope.flatten(1).abs().sum(dim=1) > 0).all()
    assert features.shape == (6, 16)


# Terms -----------------------------------------------------------------------------------------


def test_terms_are_weighted_and_statistics_are_those_of_the_whole(problem):
    images, labels = torch.rand(6, 3, 8, 8, generator=generator(0)).requires_grad_(), torch.arange(6) % 5
    method = small(bn=3.0, ce=2.0, adv=5.0, contrast=7.0)
    for name in ("images", "features"):
        method.notes[name].append([])
    chain = method.start(problem, 0)
    terms, features = method.terms(problem, chain, images, labels, generator(0))
    x = (images - 0.5) / 0.25
    out, entering = problem.teacher(x), problem.teacher.backbone.conv(x)
    stats = {
        "backbone.bn.running_mean": entering.mean(dim=(0, 2, 3)),
        "backbone.bn.running_var": entering.var(dim=(0, 2, 3), correction=0),
    }
    assert terms.keys() == {"ce", "bn", "adv", "bound", "contrast"}
    assert torch.allclose(terms["ce"], 2 * F.cross_entropy(out.logits, labels))
    assert torch.allclose(terms["bn"], 3 * statistics_distance(problem.teacher, stats))
    assert torch.allclose(terms["adv"], 5 * masked_adversarial(chain.student(x).logits, out.logits))
    assert torch.allclose(terms["bound"], Bound()(out.embedding, problem.anchors[labels]))
    parts, wholes = (chain.projector(f) for f in features.chunk(2, dim=1))
    assert torch.allclose(terms["contrast"], 7 * contrastive(parts, wholes, 6, 0.1))
    for name in ("ce", "bn", "bound", "contrast"):
        (slope,) = torch.autograd.grad(terms[name], images, retain_graph=True)
        assert slope.abs().sum() > 0, name


def test_half_precision_is_for_the_nets_alone(problem):
    half = replace(problem, precision="bf16")
    method = small()
    report = method.episode(half, method.start(half, 0), 1)
    assert all(math.isfinite(value) for value in report.values())
    assert method.notes["features"][-1][0].dtype == torch.float32


# The student -----------------------------------------------------------------------------------


def test_the_students_rate_falls_as_a_cosine_over_the_episodes(problem):
    method = small(rounds=4, student_lr=0.2, student_lr_end=0.1)
    chain = run_chain(method, problem)
    assert method.notes["lr"] == pytest.approx([0.1 + 0.1 * (1 + math.cos(math.pi * k / 4)) / 2 for k in range(4)])
    assert not chain.student.training


def test_somebody_elses_student_is_asked_and_not_taught(problem):
    theirs = tiny_net(5, key=3)
    here, before = replace(problem, student=theirs), theirs.weights()
    method = small()
    report = method.episode(here, method.start(method.checked(here), 0), 1)
    assert "adv" in report
    assert "student_kl" not in report
    assert all(torch.equal(w, before[name]) for name, w in theirs.weights().items())


def test_without_an_adversary_there_is_no_student(problem):
    chain = run_chain(small(adv=0.0), problem)
    assert chain.student is None
    assert chain.teaching is None


def test_a_student_who_is_the_teacher_is_refused(problem):
    with pytest.raises(ConfigError, match="synthesizer cmi: the student is the teacher"):
        CMI().checked(replace(problem, student=problem.teacher))
    assert CMI(adv=0.0).checked(replace(problem, student=problem.teacher)) is not None


# The pool --------------------------------------------------------------------------------------


def test_the_pool_holds_the_latest_samples_with_labels_that_were_asked_for(problem):
    method = small(samples=25)
    here = replace(problem, labels=(1, 3))
    chain = run_chain(method, here)
    pool = method.pool(here, chain)
    assert pool["x"].shape == (25, 3, 8, 8)
    assert pool["x"].dtype == torch.uint8
    assert set(pool["y"].tolist()) == {1, 3}
    kept = torch.cat([to_bytes(found.kept, "round") for found in method.notes["found"]])
    assert torch.equal(pool["x"], kept[-25:])
    assert torch.equal(pool["y"], torch.cat(chain.labels)[-25:])


def test_a_chain_is_repeatable_and_goes_on_from_what_was_saved_to_the_bit(problem):
    method = CMI(**SMALL | {"rounds": 4, "bank": 25})
    here = replace(problem, augment=Augment(padding=1, flip=True))
    straight, again = (run_chain(method, here) for _ in range(2))
    for other in (again, gone_on(method, here, after=2)):
        for part in ("projector", "student"):
            assert alike(getattr(straight, part), getattr(other, part)), part
        assert torch.equal(straight.bank, other.bank)
        assert torch.equal(method.pool(here, straight)["x"], method.pool(here, other)["x"])


def test_a_chain_without_a_student_is_saved_too(problem):
    method = CMI(**SMALL | {"adv": 0.0})
    assert torch.equal(run_chain(method, problem).bank, gone_on(method, problem, after=2).bank)


def test_chains_differ_and_share_the_episodes_and_the_samples(problem):
    method = CMI(**SMALL | {"rounds": 4, "chains": 2, "samples": 30})
    assert method.episodes == 2
    one, two = (method.start(problem, chain) for chain in range(2))
    assert not torch.equal(one.projector.fc1.weight, two.projector.fc1.weight)
    assert len(method.run(teacher=tiny_net(5), labels=range(5), shape=(3, 8, 8))["x"]) == 30


def test_samples_get_closer_to_what_was_asked_for():
    here = problem_of(sharp_net())
    method = small(steps=40, lr=1e-2, bn=0.0, adv=0.0, contrast=0.01, batch_size=30)
    method.episode(here, method.start(here, 0), 1)
    first, last = method.notes["found"][0].terms["ce"][[0, -1]].tolist()
    assert last < 0.8 * first


def test_the_contrast_makes_images_differ_in_what_the_teacher_sees():
    here = problem_of(tiny_net(5), None)

    def spread(contrast: float) -> float:
        method = small(steps=50, lr=1e-2, bn=0.0, ce=0.0, adv=0.0, contrast=contrast, batch_size=16)
        method.episode(here, method.start(here, 0), 1)
        first, last = (method.notes["features"][0][k][:, 8:].std(dim=0).mean().item() for k in (0, -1))
        return last / first

    assert spread(1.0) > 1.5


# Sides and refusals ----------------------------------------------------------------------------


def test_an_open_field_takes_the_side_and_a_chosen_one_wins():
    assert CMI().settled.rounding == "round"
    assert CMI().with_fidelity("reference").settled.rounding == "floor"
    assert create("cmi", fidelity="reference", rounding="round").with_fidelity("paper").settled.rounding == "round"
    assert CMI(fidelity="paper").with_fidelity("reference").settled.rounding == "round"


def test_a_net_without_batchnorm_is_refused():
    with pytest.raises(ConfigError, match="synthesizer cmi: needs batch-norm layers"):
        CMI(bn=0.0).checked(plain_problem())


@pytest.mark.parametrize(
    ("settings", "shape", "message"),
    [
        ({}, (3, 10, 10), r"multiples of 4, not 10 x 10"),
        ({}, (3, 8), r"makes images; this data has samples of shape \(3, 8\)"),
        ({"layers": 2}, (3, 8, 8), "layers: 2 are to be looked at, and the net has 1"),
        ({"width": 10**9, "latent": 10**12}, (3, 8, 8), r"Storage size|[Oo]verflow|invalid"),
    ],
)
def test_what_cannot_be_made_is_refused_in_a_line(settings, shape, message):
    with pytest.raises(ConfigError, match=message):
        small(**settings).checked(problem_of(tiny_net(5), None, shape=shape))


# Whole runs ------------------------------------------------------------------------------------

RUN: dict[str, Any] = {"rounds": 2, "steps": 2, "batch_size": 10, "samples": 20, "width": 4, "latent": 8}


def test_a_smoke_run_takes_a_moment(problem):
    method = CMI().smoke()
    assert (method.episodes, method.steps, method.student_steps, method.batch_size) == (3, 2, 1, 32)
    assert len(method.run(teacher=tiny_net(5), labels=range(5), shape=(3, 8, 8))["x"]) == 96


@pytest.mark.parametrize("strategy", ["target", "lander"])
def test_strategies_run_with_it(tmp_path, strategy):
    settings = RUN | {"student_steps": 1}
    assert len(synthetic_of_a_run(tmp_path, strategy, {"cmi": settings})["x"]) == 20
