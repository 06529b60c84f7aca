"""MFCL against the reference code, in double precision: its generator, its clients, and the way between them."""

from __future__ import annotations

import math
from dataclasses import replace
from typing import Any

import pytest
import torch
import torch.nn.functional as F
from golden_vectors import Case, assert_matches, load_case
from safetensors.torch import load_file
from scripted_roles import Synthesising, check_runs, client_of, gradient, server_of, shard_of, tiny, watched
from small_runs import play
from synthesis_problems import problem_of, two_convs_named, two_convs_net
from tiny_net import normal, tiny_net
from torch import Tensor, nn

from fcil import Batch, Client, Update
from fcil.config import Where, parse
from fcil.errors import ConfigError, TrainingError
from fcil.nets import frozen
from fcil.nets.doubling import DoublingConv2d
from fcil.optimizer import OptimizerSettings
from fcil.rng import generator, seeded
from fcil.synthesis import Bound, SynthesisProblem, create, mfcl
from fcil.synthesis.common.base import merge
from fcil.synthesis.common.state_codec import restore, values
from fcil.synthesis.mfcl import ImageGenerator, travelling
from fcil.synthesis.nayer import NAYER
from fcil.types import Tensors, Terms
from strategies.mfcl import MFCL, SIDES

SMALL = {"rounds": 2, "steps": 2, "batch_size": 8, "samples": 20, "latent": 6, "width": 4}


# The generator of the reference ----------------------------------------------------------------


def golden_synthesis(case: Case) -> tuple[mfcl.MFCL, SynthesisProblem, mfcl.MFCLReplica]:
    p = case.parameters
    method = mfcl.MFCL(
        fidelity="reference",
        rounds=1,
        steps=p["steps"],
        batch_size=p["batch"],
        latent=p["nz"],
        width=32,
        lr=p["lr"],
        bn=p["w_bn"],
        balance=p["w_ie"],
        smooth=p["w_noise"],
    )
    problem = problem_of(two_convs_net(case.under("params.teacher")))
    chain = method.start(problem, 0)
    chain.generator.load_state_dict(case.under("params.generator"))
    return method, problem, chain


def scripted(made: ImageGenerator, noise: list[Tensor]) -> None:
    left = iter(noise)
    made.noise = lambda count: next(left)


@pytest.mark.usefixtures("_double")
def test_the_generators_first_gradient_matches_the_reference():
    case = load_case("52_mfcl_generator")
    method, problem, chain = golden_synthesis(case)
    scripted(chain.generator, [case.tensors["inputs.step0.z"]])
    terms = method.terms(problem, chain.generator.train().sample(12))
    torch.stack(list(terms.values())).sum().backward()
    expected = case.under("expected.step0.grad")
    assert expected.keys() == dict(chain.generator.named_parameters()).keys()
    for name, value in expected.items():
        assert_matches(chain.generator.get_parameter(name).grad, value, case.tolerance, name)


@pytest.mark.usefixtures("_double")
def test_three_steps_of_the_generator_match_the_reference():
    case = load_case("52_mfcl_generator")
    method, problem, chain = golden_synthesis(case)
    steps: list[Terms] = []

    class Watched(mfcl.MFCL):
        def terms(self, problem: SynthesisProblem, images: Tensor) -> Terms:
            found = super().terms(problem, images)
            steps.append({name: term.detach() for name, term in found.items()})
            return found

    scripted(chain.generator, [case.tensors[f"inputs.step{i}.z"] for i in range(3)])
    report = Watched(**vars(method)).episode(problem, chain, 1)
    p, expected = case.parameters, case.under("expected.steps")
    names = {"ce": "cross_entropy", "balance": "information_entropy", "bn": "bn", "smooth": "smoothness"}
    weights = {"ce": 1.0, "balance": p["w_ie"], "bn": 1.0, "smooth": 1.0}
    for name, golden in names.items():
        got = torch.stack([step[name] for step in steps])
        assert_matches(got, weights[name] * expected[golden], case.tolerance, name)
        assert report[name] == pytest.approx(got.mean().item())
    total = torch.stack([torch.stack(list(step.values())).sum() for step in steps])
    assert_matches(total, expected["total"], case.tolerance, "total")
    for name, value in case.under("expected.generator").items():
        assert_matches(chain.generator.state_dict()[name], value, case.tolerance, name)
    scripted(chain.generator, [case.tensors["inputs.sample.z"]])
    with torch.no_grad():
        images = chain.generator.eval().sample(12)
        logits = problem.teacher(images).logits
    assert_matches(images, case.tensors["expected.sample.x"], case.tolerance)
    assert_matches(logits, case.tensors["expected.sample.logits"], case.tolerance)
    assert torch.equal(logits.argmax(dim=1), case.tensors["expected.sample.labels"])


def test_the_defaults_of_the_generator_are_the_references():
    p, m = load_case("52_mfcl_generator").parameters, mfcl.MFCL()
    assert (m.bn, m.balance, m.smooth, m.lr, m.ce) == (p["w_bn"], p["w_ie"], p["w_noise"], p["lr"], 1.0)
    assert mfcl.SIDES["temperature"] == (1.0, p["content_temperature"])
    assert (m.latent, m.width, m.rounds * m.steps) == (1000, 128, 5000)


@pytest.mark.parametrize(("side", "doublings"), [(8, 2), (32, 2), (64, 3), (224, 5)])
def test_the_generator_doubles_as_often_as_the_references(side, doublings):
    with torch.device("meta"):
        made = ImageGenerator((3, side, side), latent=5, width=6)
    assert sum(isinstance(part, DoublingConv2d) for part in made) == doublings
    widths = [part.out_channels for part in made if isinstance(part, nn.Conv2d)]
    assert widths == [6] * (doublings - 1) + [3, 3]
    assert made.l1.out_features == 6 * (side // 2**doublings) ** 2


# Synthesis -------------------------------------------------------------------------------------


@pytest.fixture
def problem() -> SynthesisProblem:
    return problem_of(tiny_net(5))


def played(method: mfcl.MFCL, problem: SynthesisProblem) -> tuple[mfcl.MFCLReplica, Tensors]:
    chain = method.start(problem, 0)
    for number in range(1, method.episodes + 1):
        method.episode(problem, chain, number)
    return chain, method.pool(problem, chain)


def test_a_pool_holds_labelled_images_and_the_generator(problem):
    method = mfcl.MFCL(**SMALL)
    chain, pool = played(method, problem)
    assert pool["x"].shape == (20, 3, 8, 8)
    assert pool["x"].dtype == torch.uint8
    x = (pool["x"] / 255 - 0.5) / 0.25
    assert torch.equal(problem.teacher(x).logits.argmax(dim=1), pool["y"])
    again = method.new_generator((3, 8, 8))
    again.load_state_dict(travelling(pool))
    again.eval().stream = generator(*problem.key, "pool")
    with torch.no_grad():
        images = torch.cat([again.sample(count) for count in (8, 8, 4)])
    assert torch.allclose(((images * 0.25 + 0.5).clamp(0, 1) * 255).round(), pool["x"].float(), atol=1)
    assert travelling(pool).keys() == chain.generator.state_dict().keys()
    assert merge([pool]).keys() == pool.keys()


def test_a_pool_is_drawn_from_as_any_other(problem):
    _, pool = played(mfcl.MFCL(**SMALL), problem)
    client = client_of(tiny_net(5), shard_of([0, 1]), shared={"synthetic": pool})
    drawn = client.draw("synthetic", 7)
    assert drawn.shape == (7, 3, 8, 8)
    assert drawn.isfinite().all()


@pytest.mark.parametrize("name", ["ce", "balance", "bn", "smooth"])
def test_every_term_is_learnt(problem, name):
    alone = dict.fromkeys(("ce", "balance", "bn", "smooth"), 0.0) | {name: 1.0}
    method = mfcl.MFCL(**SMALL | {"steps": 20, "batch_size": 16, "lr": 1e-2, **alone})
    chain = method.start(problem, 0)
    first, *_, last = (method.episode(problem, chain, number) for number in range(1, 4))
    assert last[name] < first[name] - 1e-4
    assert first["total"] == pytest.approx(first[name])


def test_what_a_picture_cannot_hold_is_cut_off(problem):
    method = mfcl.MFCL(**SMALL)
    chain = method.start(problem, 0)
    chain.generator.bn3.running_mean.fill_(-5.0)  # every image is 5 or more deviations too bright
    assert (method.pool(problem, chain)["x"] == 255).all()


def test_a_chain_goes_on_from_where_it_was_saved(problem):
    method = mfcl.MFCL(**SMALL)
    _, whole = played(method, problem)
    first, second = method.start(problem, 0), method.start(problem, 0)
    method.episode(problem, first, 1)
    restore(second, values(first))
    method.episode(problem, second, 2)
    rest = method.pool(problem, second)
    assert all(torch.equal(whole[name], t) for name, t in rest.items())


def test_a_pool_depends_on_its_key_and_on_nothing_else(problem):
    method = mfcl.MFCL(**SMALL)
    torch.manual_seed(1)
    _, one = played(method, problem)
    torch.manual_seed(2)
    _, two = played(method, problem)
    _, other = played(method, replace(problem, key=(1,)))
    assert all(torch.equal(t, two[name]) for name, t in one.items())
    assert not torch.equal(one["x"], other["x"])
    assert not torch.equal(one["generator.l1.weight"], other["generator.l1.weight"])


def test_only_the_classes_that_are_asked_for_count(problem):
    some = replace(problem, labels=(1, 4))
    _, pool = played(mfcl.MFCL(**SMALL), some)
    assert set(pool["y"].tolist()) <= {1, 4}
    images = normal(6, 3, 8, 8)
    terms = mfcl.MFCL(smooth=0.0).terms(some, images)
    logits = problem.teacher(images).logits[:, [1, 4]]
    assert torch.allclose(terms["ce"], F.cross_entropy(logits, logits.argmax(dim=1)))


def test_the_bounding_loss_holds_images_to_the_anchor_of_the_nets_answer():
    teacher = tiny_net(5)
    anchors, images = normal(5, 16), normal(6, 3, 8, 8)
    bound = Bound(weight=2.0, radius=0.0)
    problem = problem_of(teacher, anchors=anchors, bound=bound)
    out = problem.teacher(images)
    expected = 2.0 * (out.embedding - anchors[out.logits.argmax(dim=1)]).square().mean()
    assert torch.allclose(mfcl.MFCL().terms(problem, images)["bound"], expected)


def test_the_temperature_and_the_blur_take_the_side_of_fidelity():
    for name, sides in mfcl.SIDES.items():
        assert getattr(mfcl.MFCL(), name) is None
        for fidelity, side in zip(("paper", "reference"), sides, strict=True):
            assert getattr(mfcl.MFCL().with_fidelity(fidelity).settled, name) == side
            assert getattr(create("mfcl", fidelity=fidelity, **{name: 3.0}).settled, name) == 3.0
    assert mfcl.MFCL().settled == mfcl.MFCL(temperature=1.0, sigma=1.0)
    assert mfcl.MFCL(fidelity="paper").with_fidelity("reference").fidelity == "paper"


def test_the_reference_side_is_nearly_deaf_to_confidence(problem):
    images = normal(6, 3, 8, 8)
    ce = {side: mfcl.MFCL(fidelity=side).terms(problem, images)["ce"].item() for side in ("paper", "reference")}
    assert ce["reference"] == pytest.approx(math.log(5), abs=2e-3)
    assert abs(ce["paper"] - math.log(5)) > 2e-2


def test_one_generator_can_be_sent():
    with pytest.raises(ConfigError, match="chains: 2 chains would make as many generators"):
        create("mfcl", chains=2)


def test_what_cannot_be_made_is_refused(problem):
    with pytest.raises(ConfigError, match="sides are multiples of 4, not 6 x 6"):
        mfcl.MFCL().checked(replace(problem, shape=(3, 6, 6)))
    with pytest.raises(ConfigError, match="samples of shape"):
        mfcl.MFCL().checked(replace(problem, shape=(12,)))
    with pytest.raises(ConfigError, match="batch_size"):
        create("mfcl", batch_size=1)
    problem.teacher.backbone.bn = nn.Identity()
    with pytest.raises(ConfigError, match="needs batch-norm layers"):
        mfcl.MFCL().checked(problem)
    without = mfcl.MFCL(**SMALL, bn=0.0)
    assert without.episode(without.checked(problem), without.start(problem, 0), 1).keys() == {
        "ce",
        "balance",
        "smooth",
        "total",
    }


def test_a_loss_that_is_no_number_is_named(problem):
    problem.teacher.classifier.weight.fill_(math.nan)
    method = mfcl.MFCL(**SMALL)
    with pytest.raises(TrainingError, match=r'synthesis term "\w+" became nan in episode 1'):
        method.episode(problem, method.start(problem, 0), 1)


def test_the_smallest_images_and_one_class_are_made():
    problem = problem_of(tiny_net(1), shape=(3, 4, 4))
    _, pool = played(mfcl.MFCL(**SMALL), problem)
    assert pool["x"].shape == (20, 3, 4, 4)
    assert all(t.isfinite().all() for t in travelling(pool).values())


# A client of the reference ---------------------------------------------------------------------


class Imagining(MFCL):
    """With given synthetic images, taken in turn."""

    def imagined(self, client: Client, shape: torch.Size) -> Tensor:
        return next(client.memory["imagined"])


@pytest.mark.usefixtures("_double")
def test_an_update_in_a_later_task_matches_the_reference():
    case = load_case("53_mfcl_client_update")
    p, t = case.parameters, case.tensors
    teacher = two_convs_net(case.under("params.teacher"))
    replay = [t[f"inputs.replay{i}.x"] for i in range(2)]
    for i, images in enumerate(replay):
        assert torch.equal(frozen(teacher)(images).logits.argmax(dim=1), t[f"inputs.replay{i}.labels"])
    client = client_of(
        two_convs_net(case.under("params.student")),
        [None] * 10,
        old=p["known"],
        real=[Batch(t[f"inputs.batch{i}.x"], t[f"inputs.batch{i}.labels"]) for i in range(2)],
        teacher=teacher,
        lr=p["lr"],
        optimizer=OptimizerSettings(momentum=0.0, weight_decay=p["weight_decay"]),
        memory={"imagined": iter(replay)},
    )
    steps: list[Terms] = []
    strategy = watched(Imagining(fidelity="reference", head=p["w_ft"], distil=p["mu"]), steps)
    update = strategy.local_train(client)
    expected = two_convs_named(case.under("expected.final"))
    assert update.weights.keys() == expected.keys()
    for name, value in expected.items():
        assert_matches(update.weights[name], value, case.tolerance, name)
    assert len(steps) == 2
    for ours_, golden in (("ce", "cross_entropy_new"), ("head", "cross_entropy_head"), ("kd", "distillation")):
        got = torch.stack([step[ours_] for step in steps])
        assert_matches(got, case.tensors[f"expected.steps.{golden}"], case.tolerance, golden)
    total = torch.stack([torch.stack(list(step.values())).sum() for step in steps])
    assert_matches(total, case.tensors["expected.steps.total"], case.tolerance)


# Clients ---------------------------------------------------------------------------------------


def later(strategy: MFCL, **settings: Any) -> tuple[Client, Batch]:
    """A client of a second task, two old classes of five, with a generator; and a batch of it."""
    with seeded("generator"):
        made = strategy.synthesizer.new_generator((3, 8, 8))
    batch = Batch(normal(6, 3, 8, 8, key=1), torch.tensor([2, 3, 4, 2, 3, 4]))
    net, teacher = tiny_net(5, text_width=None), tiny_net(2, text_width=None, key=1)
    shared = {"generator": made.state_dict()}
    client = client_of(net, [None] * 6, old=2, real=[batch], teacher=teacher, shared=shared, **settings)
    return client, batch


def small(**settings: Any) -> MFCL:
    return MFCL(**{"synthesizer": mfcl.MFCL(**SMALL), "synthetic": 7} | settings)


def test_the_first_task_is_plain_cross_entropy():
    client = client_of(tiny_net(3).eval(), [None] * 4)
    batch = Batch(normal(4, 3, 8, 8), torch.tensor([0, 1, 2, 0]))
    terms = MFCL().local_loss(client, batch)
    assert terms.keys() == {"ce"}
    assert torch.equal(terms["ce"], F.cross_entropy(client.net(batch.x).logits, batch.y))


def test_features_learn_new_classes_and_the_classifier_alone_tells_them_apart():
    strategy = small()
    client, batch = later(strategy)
    terms = strategy.local_loss(client, batch)
    weight, conv = client.net.classifier.weight, client.net.backbone.conv.weight
    new, head = gradient(terms["ce"], weight), gradient(terms["head"], weight)
    assert not new[:2].any()
    assert new[2:].any(dim=1).all()
    assert head.any(dim=1).all()
    assert gradient(terms["kd"], weight) is None
    assert gradient(terms["head"], conv) is None
    assert gradient(terms["ce"], conv).any()
    assert gradient(terms["kd"], conv).any()


def test_terms_by_hand():
    strategy = small(head=0.5, distil=3.0)
    client, batch = later(strategy)
    imagined = strategy.imagined(client, batch.x.shape[1:])
    again, _ = later(strategy)
    again.net.eval()
    terms = strategy.local_loss(again, batch)
    x = torch.cat([batch.x, imagined])
    teacher, out = client.frozen("teacher"), again.net(x)
    y = torch.cat([batch.y, teacher(imagined).logits.argmax(dim=1)])
    assert torch.allclose(terms["ce"], F.cross_entropy(out.logits[:6, 2:], batch.y - 2))
    assert torch.allclose(terms["head"], 0.5 * F.cross_entropy(out.logits, y))
    apart = (out.features - teacher(x).features) @ teacher.classifier.weight.T  # (B + N, K)
    expected = 3.0 * (apart.square().sum(dim=1) / 2).mean()
    assert torch.allclose(terms["kd"], expected, atol=1e-6)
    ours_, by_hand = (gradient(term, again.net.backbone.conv.weight) for term in (terms["kd"], expected))
    assert torch.allclose(ours_, by_hand, atol=1e-5)


def test_every_step_imagines_other_images_and_every_round_too():
    strategy = small()
    client, batch = later(strategy)
    first, second = (strategy.imagined(client, batch.x.shape[1:]) for _ in range(2))
    assert first.shape == (7, 3, 8, 8)
    assert not torch.equal(first, second)
    again, _ = later(strategy)
    assert torch.equal(strategy.imagined(again, batch.x.shape[1:]), first)
    other, _ = later(strategy)
    other.round = 2
    assert not torch.equal(strategy.imagined(other, batch.x.shape[1:]), first)


def test_the_generator_and_the_teacher_are_left_alone():
    strategy = small()
    client, _ = later(strategy)
    before = {name: t.clone() for name, t in client.shared["generator"].items()}
    teacher = client.frozen("teacher").weights()
    strategy.local_train(client)
    made = client.built("generator", lambda: None)
    assert not made.training
    assert all(torch.equal(made.state_dict()[name], t) for name, t in before.items())
    assert all(torch.equal(client.frozen("teacher").state_dict()[name], t) for name, t in teacher.items())


@pytest.mark.parametrize("passes", SIDES["passes"])
def test_a_second_pass_moves_batch_statistics_and_nothing_else(passes):
    strategy = small(passes=passes)
    client, batch = later(strategy)
    terms = strategy.local_loss(client, batch)
    plain, _ = later(strategy)
    expected = small().local_loss(plain, batch)
    assert client.net.backbone.bn.num_batches_tracked == passes
    for name, term in terms.items():
        assert torch.allclose(term, expected[name]), name
        weight = [here.net.classifier.weight for here in (client, plain)]
        if name != "kd":
            assert torch.allclose(gradient(term, weight[0]), gradient(expected[name], weight[1]))


def test_a_client_of_one_image_can_learn():
    strategy = small(synthetic=1)
    client, batch = later(strategy)
    client.real = [Batch(batch.x[:1], batch.y[:1])]
    update = strategy.local_train(client)
    assert all(w.isfinite().all() for w in update.weights.values())


# The server ------------------------------------------------------------------------------------


@pytest.mark.parametrize("fidelity", ["paper", "reference"])
def test_after_a_task_the_generator_and_the_net_are_shared_and_no_images(fidelity):
    asked: list[Any] = []
    net = tiny_net(4)
    server = server_of(net, task=2, old=2)
    pool = {"x": torch.zeros(1), "y": torch.zeros(1), "generator.l1.bias": torch.ones(2)}
    server.services = Synthesising(lambda server, *what: asked.append(what) or pool)
    small(fidelity=fidelity).after_task(server, [])
    ((synthesizer, labels, bound, _),) = asked
    assert synthesizer == mfcl.MFCL(**SMALL, fidelity=fidelity)
    assert list(labels) == [0, 1, 2, 3]
    assert bound is None
    assert server.shared.keys() == {"generator", "teacher"}
    assert server.shared["generator"].keys() == {"l1.bias"}
    assert torch.equal(server.shared["teacher"]["classifier.weight"], net.classifier.weight)


def test_nothing_is_synthesized_after_the_last_task():
    server = server_of(tiny_net(4), task=3, old=2)
    server.services = Synthesising(lambda *_: pytest.fail("no synthesis"))
    MFCL().after_task(server, [])
    assert server.shared == {}


def test_a_client_counts_by_its_examples_or_as_any_other():
    means = {}
    for side in SIDES["weighting"]:
        server = server_of(tiny_net(2))
        rows = [{"classifier.bias": torch.full((2,), value)} for value in (0.0, 4.0)]
        MFCL(weighting=side).aggregate(server, [Update(w, n) for w, n in zip(rows, (1, 3), strict=True)])
        means[side] = server.net.classifier.bias[0].item()
    assert means == {"examples": 3.0, "uniform": 2.0}


@pytest.mark.parametrize("name", SIDES)
@pytest.mark.parametrize(("fidelity", "column"), [("paper", 0), ("reference", 1)])
def test_an_open_field_takes_the_side_and_a_chosen_one_wins(name, fidelity, column):
    assert getattr(MFCL(), name) is None
    assert getattr(MFCL(fidelity=fidelity).settled, name) == SIDES[name][column]
    other = SIDES[name][1 - column]
    chosen = parse(MFCL, {"fidelity": fidelity, name: other}, Where("e.yaml"))
    assert getattr(chosen.settled, name) == other


def test_the_defaults_are_the_references():
    p, m = load_case("53_mfcl_client_update").parameters, MFCL()
    assert (m.head, m.distil, m.synthetic) == (p["w_ft"], p["mu"], 128)
    assert isinstance(m.synthesizer, mfcl.MFCL)


def test_a_synthesizer_without_a_generator_to_send_is_refused():
    with pytest.raises(ConfigError, match=r'synthesizer: "nayer" makes samples; clients need a generator'):
        parse(MFCL, {"synthesizer": "nayer"}, Where("e.yaml"))
    with pytest.raises(ValueError, match="nayer"):
        MFCL(synthesizer=NAYER())


# Whole runs ------------------------------------------------------------------------------------

TINY = {"synthesizer": {"mfcl": SMALL}, "synthetic": 8}


def test_a_run_is_finite_repeatable_and_goes_on_where_it_stopped(tmp_path):
    run = check_runs(tmp_path, {"mfcl": TINY})
    terms = [record["terms"].keys() for record in run.rounds]
    assert terms == [{"ce"}, {"ce", "head", "kd"}, {"ce", "head", "kd"}]
    stored = load_file(run.folder.synthetic / "task2.safetensors")
    assert stored["x"].shape[0] == len(stored["y"]) == 20
    assert "generator.l1.weight" in stored
    assert (run.folder.synthetic / "task2.png").is_file()


def test_its_synthesizer_serves_lander(tmp_path):
    lander = {"lander": {"synthesizer": {"mfcl": SMALL}}}
    (run,) = play(tiny(tmp_path, lander, rounds=1, stop_after=2), out=tmp_path / "run")
    assert {"kd", "embedding"} <= run.rounds[-1]["terms"].keys()
    assert run.rounds[0]["after_task"]["failures"] == []
