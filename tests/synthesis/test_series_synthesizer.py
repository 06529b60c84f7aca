"""Synthetic time series: the terms, the generator, what every synthesizer is accepted by, and runs on series."""

from __future__ import annotations

import math
from collections import Counter
from dataclasses import replace
from functools import partial
from itertools import islice
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
import torch.nn.functional as F
from series_files import waves, write_ts
from small_distillations import taught
from small_distillations import write as write_distillation
from small_runs import Stop, StopAfter, checkpoint, play, same, write_experiment
from synthesis_problems import gone_on, run_chain
from tiny_net import normal
from torch import Tensor

from fcil.data import Augment
from fcil.errors import ConfigError, TrainingError
from fcil.losses import record_statistics, statistics_distance
from fcil.nets import Net, NetSettings, build_net, frozen
from fcil.nets.norms import population_statistics
from fcil.nets.series.generators import NoisySeriesGenerator, SeriesGenerator
from fcil.rng import generator, seeded
from fcil.synthesis import Bound, SynthesisProblem, create
from fcil.synthesis.common.inner_loop import BestBatch
from fcil.synthesis.common.losses import batchnorm_divergence, gaussian, smoothness
from fcil.synthesis.common.series_losses import correlations_apart, roughness, total_variation
from fcil.synthesis.common.state_codec import restore, values
from fcil.synthesis.mfcl import MFCL, travelling
from fcil.synthesis.series import Series

SHAPE, CLASSES = (2, 20), 4
SMALL: dict[str, Any] = {
    "rounds": 3,
    "warmup": 1,
    "steps": 3,
    "batch_size": 8,
    "samples": 20,
    "latent": 6,
    "width": 4,
    "student_steps": 2,
    "student_batch": 6,
}


def small(**settings: Any) -> Series:
    method = create("series", **SMALL | settings)
    assert isinstance(method, Series)
    return method


def series_net(classes: int = CLASSES, key: int = 0) -> Net:
    """A net whose BatchNorm remembers series, untrained."""
    settings = NetSettings(name="fcn1d", width=6)
    net = build_net(settings, shape=SHAPE, num_classes=classes, text_width=16, key=("net", key))
    net.backbone.load_state_dict({**net.backbone.state_dict(), **population_statistics(net.backbone, [some(64)])})
    return net.eval()


def some(count: int, key: int = 0) -> Tensor:
    """Smooth series, of which a net may remember the statistics."""
    phase = 3 * normal(count, 2, 1, key=key)
    return torch.sin(torch.arange(SHAPE[1]) / 3 + phase) + 0.1 * normal(count, *SHAPE, key=key + 100)


def problem_of(teacher: Net, **settings: Any) -> SynthesisProblem:
    defaults: dict[str, Any] = {
        "labels": tuple(range(teacher.num_classes)),
        "shape": SHAPE,
        "anchors": normal(teacher.num_classes, 16),
        "bound": Bound(),
        "mean": torch.tensor([0.5, -1.0]),
        "std": torch.tensor([2.0, 0.5]),
        "augment": Augment(),
        "key": (0,),
    }
    return SynthesisProblem(teacher=frozen(teacher), **defaults | settings)


# Terms ---------------------------------------------------------------------------------------


def test_roughness_is_the_square_of_a_sines_frequency() -> None:
    steps = torch.arange(32)
    for k in (1, 4, 16):
        wave = torch.cos(2 * math.pi * k * steps / 32)
        x = torch.stack([5 + 3 * wave, wave])[None]
        assert roughness(x).item() == pytest.approx((k / 16) ** 2, rel=1e-4)
    assert roughness(torch.ones(2, 3, 8)).item() == 0
    assert roughness(torch.ones(2, 3, 1)).item() == 0


def test_total_variation_is_the_mean_step() -> None:
    x = torch.tensor([[[0.0, 1, -1], [2, 2, 2]]])
    assert total_variation(x).item() == pytest.approx(3 / 4)
    assert total_variation(torch.ones(2, 2, 1)).item() == 0


def test_correlations_are_compared_within_a_class() -> None:
    x, labels = normal(6, 3, 9), torch.tensor([0, 1, 0, 0, 1, 2])
    each = np.array([np.corrcoef(one)[np.triu_indices(3, 1)] for one in x.numpy()])
    middle = np.array([each[(labels == label).numpy()].mean(0) for label in labels])
    assert correlations_apart(x, labels).item() == pytest.approx(((each - middle) ** 2).mean(), rel=1e-4)
    assert correlations_apart(x[:, :1], labels).item() == 0
    assert correlations_apart(x, torch.arange(6)).item() == pytest.approx(0, abs=1e-12)
    assert torch.isfinite(correlations_apart(torch.ones(2, 2, 4), torch.zeros(2)))


@pytest.mark.parametrize("term", ["bn", "spectral", "smooth", "correlation"])
def test_each_term_falls_when_it_is_minimised(term: str) -> None:
    off: dict[str, float] = dict.fromkeys(("ce", "adv", "bn", "spectral", "smooth", "correlation"), 0.0)
    method = small(**off | {term: 1.0}, rounds=1, warmup=0, steps=60, lr=1e-2, bn_momentum=0.0)
    problem = problem_of(series_net(), bound=None)
    chain = method.start(problem, 0)
    labels = torch.arange(8) % CLASSES
    _, terms = method.optimise(problem, chain, labels, adversarial=False, rng=generator("x"))
    assert set(terms) == {"ce", term, "total"}
    assert terms[term][-5:].mean() < 0.8 * terms[term][:5].mean()


def test_the_terms_are_those_of_the_formula() -> None:
    problem, method = (
        problem_of(series_net()),
        small(adv=0.3, bn=2.0, ce=0.7, spectral=3.0, smooth=0.2, correlation=5.0),
    )
    chain, labels = method.start(problem, 0), torch.tensor([0, 1, 2, 3])
    x = some(4)
    terms, _ = method.terms(problem, chain, x, labels, adversarial=True, rng=generator("x"))
    with record_statistics(problem.teacher) as stats:
        out = problem.teacher(x)
    assert set(terms) == {"ce", "bn", "adv", "spectral", "smooth", "correlation", "bound"}
    assert torch.allclose(terms["ce"], 0.7 * F.cross_entropy(out.logits, labels), rtol=1e-4)
    assert torch.allclose(terms["bn"], 2 * statistics_distance(problem.teacher, stats), rtol=1e-4)
    assert torch.equal(terms["spectral"], 3 * roughness(x))
    assert torch.equal(terms["smooth"], 0.2 * total_variation(x))
    assert torch.equal(terms["correlation"], 5 * correlations_apart(x, labels))
    calm, _ = method.terms(problem, chain, x, labels, adversarial=False, rng=generator("x"))
    assert "adv" not in calm


# Generators ----------------------------------------------------------------------------------


@pytest.mark.parametrize("shape", [(1, 1), (3, 8), (2, 29), (12, 40)])
def test_generators_make_series_of_any_length(shape: tuple[int, int]) -> None:
    with seeded("generators"):
        noisy = NoisySeriesGenerator(normal(3, 5), shape, 6, 4, 4, rows_per_layer=3)
        plain = SeriesGenerator(shape, 4, 4)
    noisy.redraw(generator("redraw"))
    plain.stream = generator("noise")
    for x in (noisy(torch.tensor([0, 1, 2, 0, 1, 2])), plain.sample(6)):
        assert x.shape == (6, *shape)
        assert torch.isfinite(x).all()


def test_its_mean_and_deviation_are_learnt_for_each_channel() -> None:
    with seeded("generators"):
        made = NoisySeriesGenerator(normal(3, 5), (2, 16), 30, 4, 4, rows_per_layer=3)
    made.redraw(generator("redraw"))
    with torch.no_grad():
        made.scale.bias.copy_(torch.tensor([5.0, -3]))
        made.scale.weight.copy_(torch.tensor([2.0, 0.5]))
    x = made(torch.arange(30) % 3)
    assert torch.allclose(x.mean(dim=(0, 2)), torch.tensor([5.0, -3]), atol=1e-3)
    assert torch.allclose(x.std(dim=(0, 2)), torch.tensor([2.0, 0.5]), rtol=1e-2)
    assert x.min() < 0 < x.max()


# What every synthesizer is accepted by -------------------------------------------------------


@pytest.mark.parametrize("steps", [1, 8])
def test_the_best_batch_is_kept_as_floats_of_the_datas_scale(steps: int, monkeypatch: pytest.MonkeyPatch) -> None:
    offered: list[tuple[BestBatch, float, Tensor]] = []
    offer = BestBatch.offer

    def noted(self: BestBatch, loss: Tensor, *tensors: Tensor) -> None:
        offer(self, loss, *tensors)
        offered.append((self, loss.item(), tensors[0].detach().clone()))

    monkeypatch.setattr(BestBatch, "offer", noted)
    problem, method = problem_of(series_net()), small(steps=steps, lr=0.5, rounds=1)
    pool = method.pool(problem, run_chain(method, problem))
    own = [(loss, x) for lowest, loss, x in offered if lowest is offered[-1][0]]
    assert len(own) == steps
    best = min(own, key=lambda step: step[0])[1]
    assert pool["x"].dtype == torch.float32
    assert torch.equal(pool["x"], best * problem.std[:, None] + problem.mean[:, None])


def test_the_generator_goes_where_the_nets_disagree() -> None:
    teacher = series_net()
    teacher.classifier.weight.data.mul_(8)
    judge = frozen(teacher)
    judge.classifier.weight.mul_(0.5)
    off = dict.fromkeys(("ce", "bn", "spectral", "smooth", "correlation"), 0.0)
    method, problem = small(**off, adv=1.0, steps=40, lr=2e-2), problem_of(teacher, student=judge, bound=None)
    labels = torch.arange(8) % CLASSES
    chain = method.start(problem, 0)
    _, terms = method.optimise(problem, chain, labels, adversarial=True, rng=generator("x"))
    assert float(terms["adv"].max()) <= 0
    assert float(terms["adv"][-10:].sum()) < float(terms["adv"][:10].sum())


def test_the_adversarial_term_begins_when_the_student_has_learnt_twice() -> None:
    problem, method = problem_of(series_net()), small(rounds=3, warmup=1)
    chain = method.start(problem, 0)
    found = [method.episode(problem, chain, number) for number in range(1, method.episodes + 1)]
    assert ["adv" in terms for terms in found] == [False, False, False, True]
    assert ["student_kl" in terms for terms in found] == [False, True, True, True]


def test_a_judge_of_itself_is_refused() -> None:
    problem = problem_of(series_net())
    itself = replace(problem, student=problem.teacher)
    with pytest.raises(ConfigError, match="synthesizer series: the student is the teacher, so they never differ"):
        small().checked(itself)
    assert small(adv=0.0).checked(itself) is itself


def test_the_teacher_agrees_with_the_labels() -> None:
    off = dict.fromkeys(("adv", "bn", "spectral", "smooth", "correlation"), 0.0)
    method = small(**off, ce=1.0, rounds=1, warmup=0, steps=150, lr=2e-2, batch_size=20, samples=20)
    problem = problem_of(series_net(), bound=None)
    pool = method.pool(problem, run_chain(method, method.checked(problem)))
    x = (pool["x"] - problem.mean[:, None]) / problem.std[:, None]
    assert (problem.teacher(x).logits.argmax(dim=1) == pool["y"]).float().mean() >= 0.9


def test_nothing_else_is_made_than_was_asked_for() -> None:
    problem, method = problem_of(series_net(), labels=(1, 3)), small()
    chain = run_chain(method, method.checked(problem))
    pool = method.pool(problem, chain)
    assert len(pool["x"]) == len(pool["y"]) == 20
    assert set(pool["y"].tolist()) == {1, 3}
    for view in islice(method.views(problem, chain, 6, generator("views")), 3):
        assert set(view.y.tolist()) <= {1, 3}
        expected = (pool["x"][view.id] - problem.mean[:, None]) / problem.std[:, None]
        assert torch.allclose(view.x, expected, atol=1e-6)


def test_no_hook_stays_behind_and_a_teacher_of_nan_is_named() -> None:
    problem, method = problem_of(series_net()), small()
    before = problem.teacher.weights()
    run_chain(method, problem)
    kinds = ("_forward_hooks", "_forward_pre_hooks", "_backward_hooks", "_backward_pre_hooks")
    assert not Counter(k for m in problem.teacher.modules() for k in kinds for _ in getattr(m, k))
    assert all(torch.equal(t, before[key]) for key, t in problem.teacher.weights().items())
    problem.teacher.classifier.weight.fill_(torch.nan)
    with pytest.raises(TrainingError, match=r'synthesis term "\w+" became nan'):
        method.episode(problem, method.start(problem, 0), 1)


def test_a_chain_is_repeatable_and_goes_on_from_what_was_saved() -> None:
    problem, method = problem_of(series_net()), small()
    whole = method.pool(problem, run_chain(method, problem))
    half, resumed, other = (method.start(problem, chain) for chain in (0, 0, 1))
    for number in (1, 2):
        method.episode(problem, half, number)
    restore(resumed, values(half))
    for number in range(1, method.episodes + 1):
        method.episode(problem, other, number)
        if number > 2:
            method.episode(problem, resumed, number)
    again = method.pool(problem, resumed)
    assert same(whole, again)
    assert not torch.equal(whole["x"], method.pool(problem, other)["x"])


def test_several_chains_share_the_samples() -> None:
    method = small(chains=2, rounds=4, samples=9)
    pool = method.run(teacher=series_net(), labels=range(CLASSES), shape=SHAPE, anchors=normal(CLASSES, 16))
    assert pool["x"].shape == (9, *SHAPE)
    assert method.episodes == 3


def test_a_smoke_run_takes_a_few_steps() -> None:
    done: list[int] = []
    method = Series(width=8, latent=8).smoke()
    pool = method.run(
        teacher=series_net(),
        labels=range(CLASSES),
        shape=SHAPE,
        anchors=normal(CLASSES, 16),
        progress=lambda number, *_: done.append(number),
    )
    assert done == [1, 2, 3]
    assert pool["x"].std() > 0.1


@pytest.mark.parametrize(
    ("problem", "settings", "said"),
    [
        ({"shape": (3, 8, 8)}, {}, r"makes series; this data has samples of shape \(3, 8, 8\)"),
        ({"anchors": None}, {}, "needs label-text embeddings"),
        ({"labels": (9,)}, {}, r"labels \[9\] do not lie in the teacher's 4 classes"),
    ],
)
def test_what_cannot_be_made_is_one_line(problem: dict[str, Any], settings: dict[str, Any], said: str) -> None:
    with pytest.raises(ConfigError, match=f"synthesizer series: {said}"):
        small(**settings).checked(problem_of(series_net(), **problem))


def test_a_net_without_batch_norm_needs_no_matching() -> None:
    settings = NetSettings(name="fcn1d", width=4, norm="none")
    net = build_net(settings, shape=SHAPE, num_classes=CLASSES, text_width=16, key=("none",))
    problem = problem_of(net)
    with pytest.raises(ConfigError, match="synthesizer series: needs batch-norm layers"):
        small().checked(problem)
    method = small(bn=0.0)
    assert len(method.pool(problem, run_chain(method, method.checked(problem)))["x"]) == 20


# MFCL's generator on series -----------------------------------------------------------------------

OF_MFCL: dict[str, Any] = {"rounds": 3, "steps": 2, "batch_size": 8, "samples": 20, "latent": 6, "width": 4}


def test_the_blur_of_series_has_one_axis() -> None:
    x, line = normal(2, 3, 9), gaussian(1.5).sum(dim=0)
    assert line.sum().item() == pytest.approx(1)
    assert torch.allclose(line[:, None] * line, gaussian(1.5))
    mirrored = np.pad(x.double().numpy(), ((0, 0), (0, 0), (2, 2)), mode="reflect")
    windows = np.lib.stride_tricks.sliding_window_view(mirrored, 5, axis=2)
    expected = ((x.numpy() - windows @ line.numpy()) ** 2).mean()
    assert smoothness(x, line).item() == pytest.approx(expected, rel=1e-5)
    image = x[:, :, None].expand(-1, -1, 9, -1)  # constant downwards: blurred along the rows alone
    assert smoothness(image, gaussian(1.5)).item() == pytest.approx(expected, rel=1e-5)


def test_mfcls_terms_on_series_are_those_of_its_formula() -> None:
    problem, x = problem_of(series_net()), some(8)
    terms = MFCL(**OF_MFCL, smooth=2.0, bn=3.0, ce=0.5, balance=0.7).terms(problem, x)
    with record_statistics(problem.teacher) as statistics:
        out = problem.teacher(x)
    labels = out.logits.argmax(dim=1)
    q = out.logits.softmax(dim=1).mean(dim=0)
    assert set(terms) == {"ce", "balance", "smooth", "bn", "bound"}
    assert torch.allclose(terms["ce"], 0.5 * F.cross_entropy(out.logits, labels), rtol=1e-4)
    assert torch.allclose(terms["balance"], 0.7 * (1 + (q * q.log()).sum() / math.log(CLASSES)), rtol=1e-4, atol=1e-6)
    assert torch.equal(terms["smooth"], 2 * smoothness(x, gaussian(1.0).sum(dim=0)))
    assert torch.allclose(terms["bn"], 3 * batchnorm_divergence(problem.teacher, statistics), rtol=1e-4)


def test_mfcls_series_are_floats_of_the_datas_scale_and_its_generator_makes_them_again() -> None:
    problem, method = problem_of(series_net(), labels=(1, 3)), MFCL(**OF_MFCL)
    pool = method.pool(problem, run_chain(method, method.checked(problem)))
    assert pool["x"].shape == (20, *SHAPE)
    assert pool["x"].dtype == torch.float32
    assert not pool["x"].isnan().any()
    x = (pool["x"] - problem.mean[:, None]) / problem.std[:, None]
    seen = problem.teacher(x).logits[:, [1, 3]].argmax(dim=1)
    assert torch.equal(pool["y"], torch.tensor([1, 3])[seen])
    sent = method.new_generator(SHAPE)
    sent.load_state_dict(travelling(pool))
    sent.eval().stream = generator(*problem.key, "pool")
    assert torch.allclose(torch.cat([sent.sample(count) for count in (8, 8, 4)]), x, atol=1e-5)


def test_mfcls_generator_of_series_learns_their_scale() -> None:
    """Statistics that the net remembers are of series far from mean 0 and deviation 1, which training brings nearer."""
    teacher = series_net()
    far = population_statistics(teacher.backbone, [20 + 9 * some(64)])
    teacher.backbone.load_state_dict({**teacher.backbone.state_dict(), **far})
    problem = problem_of(teacher, bound=None, mean=torch.zeros(2), std=torch.ones(2))
    method = MFCL(**OF_MFCL | {"rounds": 1, "steps": 150, "batch_size": 32}, lr=0.05)
    first, last = (method.pool(problem, chain)["x"] for chain in (method.start(problem, 0), run_chain(method, problem)))
    assert (last.mean(dim=(0, 2)) - 20).abs().max() < (first.mean(dim=(0, 2)) - 20).abs().min() - 1


def test_a_chain_of_mfcl_on_series_goes_on_from_what_was_saved() -> None:
    problem, method = problem_of(series_net()), MFCL(**OF_MFCL)
    whole, resumed = (method.pool(problem, made(method, problem)) for made in (run_chain, partial(gone_on, after=1)))
    assert same(whole, resumed)


@pytest.mark.parametrize(
    ("shape", "settings", "said"),
    [
        ((2, 20), {"doublings": 2}, "doublings: 2 is for images; leave it out for series"),
        ((2, 2), {}, "series of 2 steps are too short for a blur of 5; 3 at least"),
    ],
)
def test_what_mfcl_cannot_make_of_series_is_one_line(
    shape: tuple[int, int], settings: dict[str, Any], said: str
) -> None:
    with pytest.raises(ConfigError, match=f"^synthesizer mfcl: {said}$"):
        MFCL(**OF_MFCL, **settings).checked(problem_of(series_net(), shape=shape))


# Whole runs ------------------------------------------------------------------------------------

RUN: dict[str, Any] = {
    "data": {"dataset": "ts_folder", "tasks": 2},
    "net": {"name": "fcn1d", "width": 4},
    "federation": {"rounds": 1, "batch_size": 8},
}
CHOSEN = {"series": SMALL}


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    names = ("1", "2", "3", "4")
    return write_ts(tmp_path, waves(12, names, steps=20), waves(4, names, steps=20, seed=1), "Waves")


@pytest.mark.parametrize("strategy", ["lander", "target"])
def test_strategies_replay_series(tmp_path: Path, folder: Path, strategy: str) -> None:
    chosen = {strategy: {"synthesizer": CHOSEN}}
    path = write_experiment(tmp_path, **RUN | {"data": {"dataset": "ts_folder", "tasks": 2, "root": str(folder)}},
                            strategy=chosen)  # fmt: skip
    (whole,) = play(path, out=tmp_path / "whole")
    tensors, _ = checkpoint(whole)
    assert tensors["shared/synthetic/x"].dtype == torch.float32
    assert tensors["shared/synthetic/x"].shape == (20, *SHAPE)
    assert set(tensors["shared/synthetic/y"].tolist()) == {0, 1}
    with pytest.raises(Stop):
        play(path, out=tmp_path / "stopped", observer=StopAfter(1, "synthesis_progress"))
    (again,) = play(path, out=tmp_path / "stopped")
    assert same(tensors, checkpoint(again)[0])


def test_mfcl_sends_a_generator_of_series(tmp_path: Path, folder: Path) -> None:
    rows = [
        ([channel[: 12 + k % 9] for channel in channels], label)
        for k, (channels, label) in enumerate(waves(12, ("1", "2", "3", "4"), steps=20))
    ]
    write_ts(folder, rows, rows[::5], "Waves")  # most of them end early
    data = RUN["data"] | {"root": str(folder)}
    chosen = {"mfcl": {"synthetic": 8, "synthesizer": {"mfcl": OF_MFCL}}}
    path = write_experiment(tmp_path, **RUN | {"data": data}, strategy=chosen)
    (whole,) = play(path, out=tmp_path / "whole")
    tensors, _ = checkpoint(whole)
    made = MFCL(**OF_MFCL).new_generator(SHAPE).state_dict()
    sent = {name: t for name, t in tensors.items() if name.startswith("shared/generator/")}
    assert {name.removeprefix("shared/generator/"): t.shape for name, t in sent.items()} == {
        name: t.shape for name, t in made.items()
    }
    assert all(torch.isfinite(t).all() for t in tensors.values())
    (last,) = [record for record in whole.rounds if record["task"] == 2 and record["round"] == 1]
    assert set(last["terms"]) >= {"ce", "head", "kd"}
    with pytest.raises(Stop):
        play(path, out=tmp_path / "stopped", observer=StopAfter(1, "synthesis_progress"))
    (again,) = play(path, out=tmp_path / "stopped")
    assert same(tensors, checkpoint(again)[0])


def test_a_student_is_taught_on_series(tmp_path: Path, folder: Path) -> None:
    path = write_distillation(
        tmp_path / "d",
        data={"dataset": "ts_folder", "root": str(folder)},
        teacher={"net": {"name": "fcn1d", "width": 4}},
        student={"net": {"name": "resnet1d", "width": 4}, "snapshots": 2},
        synthesizer={"series": {**SMALL, "student_steps": 50, "student_batch": 64}},
    )
    (run,), said = taught(path, out=tmp_path / "out")
    assert run.rows[0].examples == 16
    assert "fcn1d" in said or "teacher" in said
