"""What every synthesizer of images is accepted by; a method that is added to the package is checked without an edit.

One that makes series is accepted by the same in `test_series.py`.

 1. A net trained a moment ago is far closer, in the statistics of its batch norms, to its training data than to noise:
    `test_training_images_are_far_closer_to_what_a_net_remembers_than_noise`.
 2. Of a loop the batch of the lowest loss is kept, as it was then and not as it became: `test_the_best_batch_is_kept`.
 3. The adversarial term drives the nets apart: `test_the_generator_goes_where_the_nets_disagree`.
 4. A student that is the teacher itself is refused where it is to disagree: `test_a_judge_of_itself_is_refused`.
 5. The temperature reaches what the student learns from: `test_the_temperature_reaches_the_student`.
 6. Samples are of the class that they are labelled with, to the teacher: `test_the_teacher_agrees_with_the_labels`.
 7. Only classes that were asked for are made, and in a federation only old ones are:
    `test_nothing_else_is_made_than_was_asked_for`, `test_clients_are_given_old_classes_alone`.
 8. Nothing stays hooked to a net, also after a failure: `test_no_hook_stays_behind`.
 9. Series of numbers pass through a pool to the bit: `test_series_pass_through_a_pool_to_the_bit`.
10. Each runs for a few steps on a CPU, on images as large as MNIST's: `test_a_smoke_run_on_images_of_28_pixels`.
11. A chain gives the same pool again, also if it goes on from what was saved, and another chain another:
    `test_a_chain_is_repeatable_and_goes_on_from_what_was_saved`.

What each term is, stands in the tests of each method.
"""

from __future__ import annotations

from collections import Counter
from dataclasses import dataclass, fields, replace
from itertools import islice
from typing import Any

import pytest
import torch
import torch.nn.functional as F
from safetensors.torch import load_file, save_file
from small_plays import SMALL_SYNTHESIS
from synthesis_problems import (
    TwoConvs,
    bounded_problem,
    colour_net,
    digits,
    problem_of,
    run_chain,
    sharp_net,
    synthetic_of_a_run,
)
from tiny_net import normal, tiny_net
from torch import Tensor

from fcil.data import normalise
from fcil.errors import ConfigError, TrainingError
from fcil.losses import kl_divergence, record_statistics, statistics_distance
from fcil.nets import Net, frozen
from fcil.rng import generator, seeded
from fcil.synthesis import SynthesisProblem, Synthesizer, create, synthesizer_class, synthesizer_names
from fcil.synthesis.common.base import merge, views_of
from fcil.synthesis.common.inner_loop import Batchwise, BestBatch, LossHistory
from fcil.synthesis.common.losses import bns_score
from fcil.synthesis.common.pool import to_bytes
from fcil.synthesis.common.state_codec import restore, values
from fcil.synthesis.families.data_free import AdversarialLoop
from fcil.synthesis.families.pixel_loop import PixelLoop, stored
from fcil.synthesis.families.with_student import PoolStudentLoop, WithStudent
from fcil.types import Output, Tensors, Terms

NAMES = [name for name in synthesizer_names() if "images" in synthesizer_class(name).makes]
CLASSES = {name: synthesizer_class(name) for name in NAMES}
WEIGHTS = ("ce", "adv", "balance", "act", "tv", "l2", "smooth", "cam", "ed")
"""Of terms, in so far as a method can do without."""


def small(name: str, **settings: Any) -> Synthesizer:
    """The method with few steps, and with these settings in so far as it has them."""
    known = {field.name for field in fields(CLASSES[name])}
    return create(name, **{key: value for key, value in (SMALL_SYNTHESIS | settings).items() if key in known})


def those(kind: type) -> list[str]:
    return [name for name in NAMES if issubclass(CLASSES[name], kind)]


def alone(name: str, term: str, **settings: Any) -> Synthesizer:
    """The method with one term, or as nearly so as it can be."""
    off = dict.fromkeys(WEIGHTS, 0.0) | dict.fromkeys(("bn", "contrast"), 1e-4)  # what may not be 0 in some method
    return small(name, **off | {term: 1.0} | settings)


def hooks_on(nets: list[Net | None]) -> Counter[str]:
    """The hooks on nets, of any kind."""
    kinds = ("_forward_hooks", "_forward_pre_hooks", "_backward_hooks", "_backward_pre_hooks")
    return Counter(kind for net in nets if net for m in net.modules() for kind in kinds for _ in getattr(m, kind))


# 1, 2: what is matched, and what is kept -------------------------------------------------------


@pytest.mark.parametrize("measure", ["norms", "divergence"])
def test_training_images_are_far_closer_to_what_a_net_remembers_than_noise(measure):
    net, x, _, _ = digits()
    fake = normal(*x.shape)

    def distance(images: Tensor) -> float:
        if measure == "divergence":
            return bns_score(net, images).item()
        with record_statistics(net) as stats:
            net(images)
        return statistics_distance(net, stats).item()

    assert distance(x) < distance(fake) / 10
    assert distance(x[:256]) < distance(fake[:256]) / 10


@pytest.mark.parametrize("steps", [1, 8])
@pytest.mark.parametrize("name", those(Batchwise))
def test_the_best_batch_is_kept(name, steps, monkeypatch):
    offered: list[tuple[BestBatch, float, Tensor]] = []
    offer = BestBatch.offer

    def noted(self: BestBatch, loss: Tensor, *tensors: Tensor) -> None:
        offer(self, loss, *tensors)
        offered.append((self, loss.item(), tensors[0].detach().clone()))

    monkeypatch.setattr(BestBatch, "offer", noted)
    problem, method = bounded_problem(), small(name, steps=steps, lr=0.5, rounds=1)
    chain = run_chain(method, problem)
    own = [(loss, images) for lowest, loss, images in offered if lowest is offered[-1][0]]
    assert len(own) == steps
    best = min(own, key=lambda step: step[0])[1]
    kept = stored(problem, best) if isinstance(method, PixelLoop) else to_bytes(best, "round")
    assert torch.equal(method.pool(problem, chain)["x"][-10:], kept)


# 3, 4, 5: the student --------------------------------------------------------------------------


@pytest.mark.parametrize("name", those(WithStudent))
def test_the_generator_goes_where_the_nets_disagree(name, monkeypatch):
    found: list[float] = []
    add, alternate = LossHistory.add, AdversarialLoop.alternate

    def of_a_loop(self: LossHistory, terms: Terms, total: Tensor) -> None:
        found.extend([terms["adv"].item()] if "adv" in terms else [])
        add(self, terms, total)

    def of_an_alternation(self: AdversarialLoop, *given: Any) -> Terms:
        terms = alternate(self, *given)
        found.append(terms["adv"].item())
        return terms

    monkeypatch.setattr(LossHistory, "add", of_a_loop)
    monkeypatch.setattr(AdversarialLoop, "alternate", of_an_alternation)
    judge = frozen(sharp_net(5, 16))
    judge.classifier.weight.mul_(0.5)  # it says the same, less surely
    problem = problem_of(sharp_net(5, 16), normal(5, 16), student=judge)
    rounds = 3 if hasattr(CLASSES[name], "warmup") else 1  # NAYER has no such term in its first two episodes
    method = alone(name, "adv", rounds=rounds, steps=30, lr=2e-2, batch_size=40, samples=40)
    run_chain(method, method.checked(problem))
    last = found[-30:]
    assert max(last) <= 0
    assert sum(last[-10:]) < sum(last[:10])  # minus the disagreement


@pytest.mark.parametrize("name", NAMES)
def test_a_judge_of_itself_is_refused(name):
    problem = bounded_problem()
    itself = replace(problem, student=problem.teacher)
    if name in those(WithStudent):
        with pytest.raises(ConfigError, match=f"synthesizer {name}: the student is the teacher, so they never differ"):
            small(name, adv=1.0).checked(itself)
    calm = small(name, adv=0.0, ce=1.0)
    assert calm.checked(itself) is itself


@pytest.mark.parametrize("name", those(WithStudent))
def test_the_temperature_reaches_the_student(name):
    problem, losses, weights = problem_of(sharp_net(5, 16), normal(5, 16)), [], []
    if getattr(small(name), "distance", "kl") == "l1":
        with pytest.raises(ConfigError, match=r"temperature: 20.0 softens a KL, and distance is l1"):
            small(name, temperature=20.0)
        return
    for temperature in (1.0, 20.0):
        method = small(name, adv=1.0, temperature=temperature)
        chain = method.start(problem, 0)
        losses.append(method.episode(problem, chain, 1)["student_kl"])
        weights.append(chain.student.classifier.weight.clone())
        if isinstance(method, PoolStudentLoop):
            ours, theirs = (Output(normal(4, 5, key=key), normal(4, 8), None) for key in (1, 2))
            expected = kl_divergence(ours.logits, theirs.logits, temperature)
            assert torch.equal(method.lesson(ours, theirs)["kl"], expected)
    assert losses[0] != pytest.approx(losses[1], rel=1e-2)
    assert not torch.equal(*weights)


# 6, 7: labels ----------------------------------------------------------------------------------


@pytest.mark.parametrize("name", NAMES)
def test_the_teacher_agrees_with_the_labels(name):
    problem = problem_of(colour_net(16), normal(3, 16))
    steps = 80 if name in those(Batchwise) else 2  # who is not asked for a class labels samples by the teacher
    lr = 0.1 if name in those(PixelLoop) else 1e-2
    method = alone(
        name, "ce", rounds=1, steps=steps, lr=lr, latent_lr=0.3, batch_size=30, samples=30, learn_stats=False
    )
    pool = method.pool(problem, run_chain(method, method.checked(problem)))
    seen = problem.teacher(normalise(pool["x"], problem.mean, problem.std)).logits.argmax(dim=1)
    assert len(seen) == 30
    assert (seen == pool["y"]).float().mean() >= 0.9


@pytest.mark.parametrize("name", NAMES)
def test_nothing_else_is_made_than_was_asked_for(name):
    problem, method = bounded_problem(), small(name)
    x = normalise(method.pool(problem, run_chain(method, problem))["x"], problem.mean, problem.std)
    problem.teacher.classifier.bias.sub_(problem.teacher(x).logits.mean(dim=0))  # so that it sees several classes
    seen = Counter(problem.teacher(x).logits.argmax(dim=1).tolist())
    rare = min(seen, key=lambda label: seen[label])
    asked = {rare, (rare + 1) % 5}
    some = replace(problem, labels=tuple(sorted(asked)))
    chain = run_chain(method, method.checked(some))
    pool = method.pool(some, chain)
    assert 0 < len(pool["x"]) == len(pool["y"]) <= 40
    assert set(pool["y"].tolist()) <= asked
    for view in islice(method.views(some, chain, 6, generator("views")), 3):
        assert set(view.y.tolist()) <= asked


def test_clients_are_given_old_classes_alone(tmp_path):
    fast = {
        key: SMALL_SYNTHESIS[key]
        for key in ("rounds", "steps", "batch_size", "samples", "latent", "width", "student_steps")
    }
    assert set(synthetic_of_a_run(tmp_path, "target", {"fast": fast})["y"].tolist()) == {0, 1}


# 8, 9: what stays and what comes back ----------------------------------------------------------


@pytest.mark.parametrize("name", NAMES)
def test_no_hook_stays_behind(name, monkeypatch):
    problem = bounded_problem(student=frozen(tiny_net(5, key=3)))
    nets, before = [problem.teacher, problem.student], problem.teacher.weights()
    method = small(name)
    chain = run_chain(method, method.checked(problem))
    method.pool(problem, chain)
    next(method.views(problem, chain, 6, generator("views")))
    assert not hooks_on(nets)
    assert all(torch.equal(t, before[key]) for key, t in problem.teacher.weights().items())

    def broken(x: Tensor) -> Tensor:
        raise RuntimeError("broken")

    with monkeypatch.context() as patch:
        patch.setattr(problem.teacher.classifier, "forward", broken)
        with pytest.raises(RuntimeError, match="broken"):
            method.episode(problem, chain, method.episodes)
    assert not hooks_on(nets)
    problem.teacher.classifier.weight.fill_(torch.nan)
    with pytest.raises(TrainingError, match=r'synthesis term "\w+" became nan'):
        method.episode(problem, method.start(problem, 0), 1)
    assert not hooks_on(nets)


@dataclass
class Drawn:
    """Series so far."""

    x: Tensor
    y: Tensor


@dataclass(frozen=True, kw_only=True)
class Series(Synthesizer):
    """Noise for each class in turn: a method whose samples are no images."""

    @property
    def episodes(self) -> int:
        return 2

    def start(self, problem: SynthesisProblem, chain: int) -> Drawn:
        return Drawn(torch.empty(0, *problem.shape), torch.empty(0, dtype=torch.int64))

    def episode(self, problem: SynthesisProblem, state: Drawn, number: int) -> dict[str, float]:
        state.x = torch.cat([state.x, 1e-3 * normal(5, *problem.shape, key=number)])
        state.y = torch.cat([state.y, torch.tensor(problem.labels)])
        return {"number": float(number)}

    def pool(self, problem: SynthesisProblem, state: Drawn) -> Tensors:
        return {"x": state.x, "y": state.y}


def test_series_pass_through_a_pool_to_the_bit(tmp_path):
    problem = problem_of(tiny_net(5), shape=(2, 9), mean=torch.zeros(2), std=torch.ones(2))
    method = Series()
    chain, again = run_chain(method, problem), method.start(problem, 0)
    restore(again, values(chain))
    pool = merge([method.pool(problem, again)])
    save_file(pool, tmp_path / "task1.safetensors")
    back = load_file(tmp_path / "task1.safetensors")
    assert back["x"].dtype == torch.float32
    assert torch.equal(back["x"], chain.x)
    assert torch.equal(merge([back, back])["x"][10:], chain.x)
    for view in islice(views_of(back, problem, 4, generator("views")), 5):
        assert torch.equal(view.x, chain.x[view.id])
        assert torch.equal(view.y, chain.y[view.id])
    whole = method.run(teacher=tiny_net(5), labels=range(5), shape=(2, 9))
    assert torch.equal(whole["x"], chain.x)


# 10: a run -------------------------------------------------------------------------------------


@pytest.mark.parametrize("name", NAMES)
def test_a_smoke_run_on_images_of_28_pixels(name):
    with seeded("mnist"):
        net = Net(TwoConvs(1, 4, 6), 10, 16)
    method = create(name).smoke()
    method = replace(method, **{key: 8 for key in ("latent", "width") if hasattr(method, key)})
    done: list[int] = []
    pool = method.run(
        teacher=net,
        labels=range(10),
        shape=(1, 28, 28),
        anchors=F.normalize(normal(10, 16), dim=1),
        progress=lambda number, *_: done.append(number),
    )
    assert len(done) == method.episodes >= 2
    assert pool["x"].shape[1:] == (1, 28, 28)
    assert pool["x"].dtype == torch.uint8
    assert len(pool["x"]) == len(pool["y"]) > 0
    assert pool["x"].float().std() > 1  # no plain canvas


# 11: a chain -----------------------------------------------------------------------------------


@pytest.mark.parametrize("name", NAMES)
def test_a_chain_is_repeatable_and_goes_on_from_what_was_saved(name):
    problem, method = bounded_problem(), small(name)
    whole = method.pool(problem, run_chain(method, problem))
    half, resumed, other = (method.start(problem, chain) for chain in (0, 0, 1))
    method.episode(problem, half, 1)
    restore(resumed, values(half))
    for number in range(1, method.episodes + 1):
        method.episode(problem, other, number)
        if number > 1:
            method.episode(problem, resumed, number)
    again = method.pool(problem, resumed)
    assert method.episodes > 1
    assert whole.keys() == again.keys()
    assert all(torch.equal(value, again[key]) for key, value in whole.items())
    assert not torch.equal(whole["x"], method.pool(problem, other)["x"])
