"""The seam of synthesis: from a name and a teacher to a pool, and what goes wrong on the way."""

from __future__ import annotations

import io
from dataclasses import dataclass, replace
from itertools import islice, pairwise
from typing import Any

import pytest
import torch
from rich.console import Console
from tiny_net import normal, tiny_net
from torch import Tensor, nn

from fcil import synthesis
from fcil.config import Where, dump, parse
from fcil.data import Augment
from fcil.errors import ConfigError
from fcil.losses import bounding
from fcil.nets import Backbone, Net, NetSettings, build_net, frozen
from fcil.rng import generator
from fcil.synthesis import Bound, SynthesisProblem, Synthesizer, create, synthesizer_class, synthesizer_names
from fcil.synthesis.common.base import merge
from fcil.synthesis.common.pool import endless_rows, to_bytes, view, views_ahead
from fcil.synthesis.common.student import distillation, train_student, untrained_copy
from fcil.synthesis.nayer import NAYER
from fcil.types import Output, Tensors, Terms

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


def invert(method: Synthesizer, teacher: Net | None = None, **problem: Any) -> Tensors:
    teacher = teacher or tiny_net(5)
    anchors = normal(5, 16)
    return method.run(teacher=teacher, **{"labels": range(5), "shape": (3, 8, 8), "anchors": anchors} | problem)


def same(a: Tensors, b: Tensors) -> bool:
    return a.keys() == b.keys() and all(torch.equal(a[name], b[name]) for name in a)


# Names and settings ----------------------------------------------------------------------------


def test_a_method_is_made_by_name_with_its_options():
    made = create("nayer", rounds=3, cut="latest")
    assert made == NAYER(rounds=3, cut="latest")
    assert made.name == "nayer"
    assert synthesizer_class("nayer") is NAYER
    assert "nayer" in synthesizer_names()
    assert not {"base", "student", "pool"} & set(synthesizer_names())


@pytest.mark.parametrize(
    ("name", "options", "message"),
    [
        ("nayr", {}, r'unknown synthesizer "nayr" \(have: .*nayer.*\)\. Did you mean "nayer"'),
        ("nayer", {"round": 3}, r'nayer.round: unknown key .*Did you mean "rounds"'),
        ("nayer", {"rounds": 0}, "nayer.rounds: 0 is not allowed"),
        ("nayer", {"cut": "lates"}, r'"latest"'),
        ("nayer", {"fidelity": "papr"}, r'"paper"'),
    ],
)
def test_a_wrong_name_or_option_is_named_with_what_is_allowed(name, options, message):
    with pytest.raises(ConfigError, match=message):
        create(name, **options)


def test_settings_survive_yaml_and_stay_open():
    method = NAYER(rounds=3, stats="discard")
    raw = dump(method)
    assert raw["nayer"]["stats"] == "discard"
    assert raw["nayer"]["cut"] is None
    assert parse(Synthesizer, raw, Where("e.yaml")) == method
    assert parse(Synthesizer, "nayer", Where("e.yaml")) == NAYER()


# Running ---------------------------------------------------------------------------------------


def test_a_pool_holds_labelled_samples_in_bytes():
    pool = invert(create("nayer", **SMALL))
    assert pool["x"].shape == (20, 3, 8, 8)
    assert pool["x"].dtype == torch.uint8
    assert torch.bincount(pool["y"]).tolist() == [4] * 5
    assert pool["mean"].shape == pool["std"].shape == (20, 3)


def test_a_pool_has_no_more_samples_than_asked_for_and_they_are_the_latest():
    whole, few = (invert(create("nayer", samples=n, **SMALL | {"student_steps": 0})) for n in (100, 7))
    assert len(few["x"]) == len(few["y"]) == len(few["mean"]) == 7
    assert torch.equal(few["x"], whole["x"][-7:])
    assert torch.equal(few["y"], whole["y"][-7:])


def test_the_same_key_gives_the_same_pool_and_another_key_another():
    method = create("nayer", **SMALL)
    state = torch.random.get_rng_state()
    augment = Augment(padding=2, flip=True)
    first, again, other = (invert(method, key=key, augment=augment) for key in ((1, "a"), (1, "a"), (1, "b")))
    assert same(first, again)
    assert not torch.equal(first["x"], other["x"])
    assert torch.equal(state, torch.random.get_rng_state())


def test_the_teacher_is_frozen_and_left_as_it_was():
    teacher = tiny_net(5).train()
    before = teacher.weights()
    invert(create("nayer", **SMALL), teacher)
    assert teacher.training
    assert same(before, teacher.weights())
    assert all(p.requires_grad and p.grad is None for p in teacher.parameters())


def test_told_statistics_reach_the_method_and_half_and_a_quarter_stand_for_unknown_ones():
    method = create("nayer", learn_stats=False, **SMALL)
    unknown = invert(method)
    assert same(unknown, invert(method, mean=torch.full((3,), 0.5), std=torch.full((3,), 0.25)))
    assert not torch.equal(unknown["x"], invert(method, mean=torch.zeros(3), std=torch.ones(3))["x"])


@pytest.mark.parametrize("channels", [1, 3])
def test_any_number_of_channels(channels):
    with torch.no_grad():
        teacher = tiny_net(5)
        teacher.backbone.conv = nn.Conv2d(channels, 8, 3, padding=1, bias=False)
    assert invert(create("nayer", **SMALL), teacher, shape=(channels, 12, 8))["x"].shape == (20, channels, 12, 8)


def test_a_bound_pulls_samples_to_their_anchors():
    teacher, anchors = tiny_net(5), normal(5, 16)

    def distance(bound: Bound | None) -> float:
        method = create("nayer", **SMALL | {"steps": 30, "student_steps": 0, "bn": 0.0, "ce": 0.0, "stats": "carry"})
        pool = invert(method, teacher, anchors=anchors, bound=bound)
        x = view(pool, torch.arange(20), Augment(), generator(0), (0.5,) * 3, (0.25,) * 3)
        return bounding(frozen(teacher)(x).embedding, anchors[pool["y"]], 0.0, "sample").item()

    assert distance(Bound(weight=50.0)) < 0.95 * distance(None)


def test_the_bound_of_a_generator_is_the_one_of_clients():
    g, e = normal(4, 16), normal(4, 16, key=1)
    for hinge in ("sample", "batch"):
        got = Bound(weight=3.0, radius=0.5, hinge=hinge)(g, e)
        assert torch.equal(got, 3.0 * bounding(g, e, 0.5, hinge))
    assert Bound()(g, g) == 0


def test_progress_is_told_after_every_episode_of_every_chain():
    told = []
    invert(create("nayer", chains=2, **SMALL), progress=lambda *report: told.append(report))
    assert [report[:2] for report in told] == [(1, 4), (2, 4), (3, 4), (4, 4)]
    assert {"bn", "ce", "total"} <= told[0][2].keys()


def test_a_smoke_run_takes_a_moment_whatever_was_asked_for():
    small = NAYER(rounds=400, steps=500, batch_size=2048, student_steps=900, width=8, latent=16, loops=2).smoke()
    assert small.episodes * small.steps * small.loops <= 12
    assert small.batch_size <= 32
    assert small.student_steps == 1
    pool = invert(small)
    assert 0 < len(pool["x"]) == len(pool["y"])
    assert NAYER(batch_size=8, student_steps=0).smoke() == replace(
        NAYER(batch_size=8, student_steps=0), rounds=3, warmup=0, steps=2
    )


# Needs -----------------------------------------------------------------------------------------


class NoNorm(Backbone):
    """Features without BatchNorm."""

    width = 8

    def __init__(self) -> None:
        super().__init__()
        self.conv = nn.Conv2d(3, 8, 3)

    def forward(self, x: Tensor) -> Tensor:
        return self.conv(x).mean(dim=(2, 3))


@pytest.mark.parametrize(
    ("problem", "message"),
    [
        ({"anchors": None}, "synthesizer nayer: needs label-text embeddings, and there are none"),
        (
            {"teacher": Net(NoNorm(), 5, 16)},
            r"synthesizer nayer: needs batch-norm layers in the net \(net.norm: batch\), and there are none",
        ),
        ({"labels": [0, 5]}, r"labels \[0, 5\] do not lie in the teacher's 5 classes"),
        ({"labels": [-1, 2]}, r"labels \[-1, 2\] do not lie in the teacher's 5 classes"),
        ({"labels": []}, r"labels \[\] do not lie in the teacher's 5 classes"),
    ],
)
def test_what_is_missing_or_out_of_range_is_named_before_anything_is_run(problem, message):
    told: list[Any] = []
    with pytest.raises(ConfigError, match=message):
        invert(create("nayer", **SMALL), progress=told.append, **problem)
    assert told == []


def test_a_method_without_needs_takes_a_net_without_batchnorm_and_text():
    pool = Counting(episodes_each=1).run(teacher=Net(NoNorm(), 5), labels=[1], shape=(3, 8, 8))
    assert pool["y"].tolist() == [1]


# Chains ----------------------------------------------------------------------------------------


@dataclass(frozen=True, kw_only=True)
class Counting(Synthesizer):
    """A sample an episode, the latest kept; its value tells chain and episode."""

    episodes_each: int = 3

    @property
    def episodes(self) -> int:
        return self.episodes_each

    def start(self, problem: SynthesisProblem, chain: int) -> list[int]:
        return [100 * chain]

    def episode(self, problem: SynthesisProblem, state: list[int], number: int) -> dict[str, float]:
        state.append(state[0] + number)
        return {"number": float(number)}

    def pool(self, problem: SynthesisProblem, state: list[int]) -> Tensors:
        x = torch.tensor(state[1:])[-self.share(state[0] // 100) :]
        return {"x": x, "y": torch.full_like(x, problem.labels[0])}


@pytest.mark.parametrize(
    ("chains", "samples", "expected"),
    [
        (1, 3, [1, 2, 3]),
        (2, 4, [2, 3, 102, 103]),
        (2, 3, [2, 3, 103]),
        (3, 4, [2, 3, 103, 203]),
        (2, 100, [1, 2, 3, 101, 102, 103]),
    ],
)
def test_chains_share_the_pool_with_their_latest_samples(chains, samples, expected):
    method = Counting(chains=chains, samples=samples)
    pool = method.run(teacher=tiny_net(5), labels=[4], shape=(3, 8, 8))
    assert pool["x"].tolist() == expected
    assert len(pool["y"]) == len(expected)


def test_merging_keeps_every_samples_own_statistics():
    pools = [{"x": torch.full((4, 1), k), "mean": torch.full((4, 3), float(k))} for k in range(2)]
    merged = merge(pools)
    assert merged["mean"][:, 0].tolist() == [0.0] * 4 + [1.0] * 4
    assert merged["x"][:, 0].tolist() == [0] * 4 + [1] * 4


def test_more_chains_than_samples_are_refused():
    with pytest.raises(ConfigError, match="chains: 3 chains cannot share 2 samples"):
        create("nayer", chains=3, samples=2)


@pytest.mark.parametrize(("chains", "episodes"), [(1, 14), (2, 9), (3, 8), (4, 7), (9, 6)])
def test_every_chain_warms_up_and_the_rounds_are_shared(chains, episodes):
    assert NAYER(rounds=10, warmup=4, chains=chains).episodes == episodes


def test_a_chain_does_not_depend_on_the_others():
    method = create("nayer", chains=2, **SMALL)
    teacher, anchors = tiny_net(5), normal(5, 16)
    problem = SynthesisProblem(
        teacher=frozen(teacher),
        labels=(0, 1, 2, 3, 4),
        shape=(3, 8, 8),
        anchors=anchors,
        bound=None,
        mean=torch.full((3,), 0.5),
        std=torch.full((3,), 0.25),
        augment=Augment(),
        key=(0,),
    )
    alone = []
    for number in (1, 0):  # in the other order
        chain = method.start(problem, number)
        for episode in range(1, method.episodes + 1):
            method.episode(problem, chain, episode)
        alone.insert(0, method.pool(problem, chain))
    assert not torch.equal(alone[0]["x"], alone[1]["x"])
    assert same(merge(alone), method.run(teacher=teacher, labels=range(5), shape=(3, 8, 8), anchors=anchors))


def test_chains_may_take_turns():
    method = create("nayer", chains=2, **SMALL | {"rounds": 4})
    problem = SynthesisProblem(
        teacher=frozen(tiny_net(5)),
        labels=(0, 1, 2, 3, 4),
        shape=(3, 8, 8),
        anchors=normal(5, 16),
        bound=Bound(),
        mean=torch.full((3,), 0.5),
        std=torch.full((3,), 0.25),
        augment=Augment(padding=1, flip=True),
        key=(0,),
    )
    chains = [method.start(problem, number) for number in range(2)]
    for episode in range(1, method.episodes + 1):
        for chain in chains:
            method.episode(problem, chain, episode)
    turns = merge([method.pool(problem, chain) for chain in chains])
    assert same(turns, invert(method, bound=Bound(), augment=problem.augment))


# The pool --------------------------------------------------------------------------------------


def test_samples_are_seen_normalised_by_the_data_or_by_their_own_statistics():
    x = torch.randint(0, 256, (4, 3, 2, 2), dtype=torch.uint8, generator=generator("x"))
    rows, mean, std = torch.tensor([3, 0]), (0.1, 0.2, 0.3), (0.5, 0.4, 0.3)
    plain = view({"x": x}, rows, Augment(), generator(0), mean, std)
    by_hand = (x[rows] / 255 - torch.tensor(mean).view(3, 1, 1)) / torch.tensor(std).view(3, 1, 1)
    assert torch.allclose(plain, by_hand, atol=1e-6)
    own = {"x": x, "mean": normal(4, 3), "std": normal(4, 3, key=1).abs() + 0.1}
    by_hand = (x[rows] / 255 - own["mean"][rows][:, :, None, None]) / own["std"][rows][:, :, None, None]
    assert torch.allclose(view(own, rows, Augment(), generator(0), mean, std), by_hand, atol=1e-6)
    assert torch.allclose(view(own | {"x": x / 255}, rows, Augment(), generator(0), mean, std), by_hand, atol=1e-6)


def test_bytes_and_numbers_are_augmented_alike():
    x = torch.randint(0, 256, (6, 3, 8, 8), dtype=torch.uint8, generator=generator("x"))
    rows, augment = torch.arange(6), Augment(padding=2, flip=True)
    seen = [view({"x": x_}, rows, augment, generator(0), (0.5,) * 3, (0.25,) * 3) for x_ in (x, x / 255)]
    assert torch.allclose(*seen, atol=1e-6)
    assert not torch.allclose(seen[0], view({"x": x}, rows, Augment(), generator(0), (0.5,) * 3, (0.25,) * 3))


@pytest.mark.parametrize(("size", "count"), [(48, 8), (45, 7), (5, 8), (30, 1)])
def test_views_prepared_several_at_once_are_those_of_one_at_a_time(size, count):
    pool = {"x": torch.randint(0, 256, (size, 3, 8, 8), dtype=torch.uint8, generator=generator("x"))}
    augment, place = Augment(padding=2, flip=True, brightness=0.3), ((0.5,) * 3, (0.25,) * 3, torch.device("cpu"))
    seen = {
        coming: list(islice(views_ahead(pool, count, augment, generator(0), *place, lambda n=coming: n), 20))
        for coming in (0, 1, 3, 100)
    }
    rng = generator(0)
    rows = islice(endless_rows(size, count, rng, place[2]), 20)
    plain = [view(pool, part, augment, rng, *place[:2]) for part in rows]
    for views in seen.values():
        assert all(torch.equal(ours, theirs) for ours, theirs in zip(views, plain, strict=True))


def test_views_prepared_at_once_are_bounded_in_memory_and_by_the_steps_to_come():
    pool = {"x": torch.zeros(64, 3, 32, 32, dtype=torch.uint8)}
    place = (Augment(), generator(0), (0.5,) * 3, (0.25,) * 3, torch.device("cpu"))
    large, small, last = (
        next(views_ahead({"x": x}, 4, *place, lambda n=coming: n))
        for x, coming in ((torch.zeros(64, 3, 224, 224), 9), (pool["x"], 9), (pool["x"], 2))
    )
    assert large._base is None
    assert [len(views._base) for views in (small, last) if views._base is not None] == [32, 8]


def test_series_keep_their_own_statistics_too():
    pool = {"x": normal(4, 2, 9), "mean": torch.ones(4, 2), "std": torch.full((4, 2), 2.0)}
    seen = view(pool, torch.tensor([1]), Augment(), generator(0), (0.0,) * 2, (1.0,) * 2)
    assert torch.allclose(seen, (pool["x"][1:2] - 1) / 2)


def test_each_pass_shows_every_sample_once_in_a_new_order():
    drawn = list(islice(endless_rows(12, 4, generator("rows"), torch.device("cpu")), 9))
    passes = [torch.cat(drawn[i : i + 3]).tolist() for i in (0, 3, 6)]
    assert all(sorted(p) == list(range(12)) for p in passes)
    assert all(a != b for a, b in pairwise(passes))


def test_a_short_rest_is_left_out_and_a_small_pool_is_one_batch():
    drawn = list(islice(endless_rows(11, 4, generator("rows"), torch.device("cpu")), 5))
    assert [len(rows) for rows in drawn] == [4] * 5
    drawn = list(islice(endless_rows(3, 128, generator("rows"), torch.device("cpu")), 2))
    assert [sorted(rows.tolist()) for rows in drawn] == [[0, 1, 2]] * 2


def test_levels_survive_the_way_through_bytes():
    levels = torch.arange(256, dtype=torch.uint8)
    assert torch.equal(to_bytes(levels / 255, "round"), levels)


@pytest.mark.parametrize("rounding", ["round", "floor"])
def test_half_precision_is_rounded_once(rounding):
    images = torch.rand(1000, generator=generator("half")).bfloat16()
    assert torch.equal(to_bytes(images, rounding), to_bytes(images.float(), rounding))


# The student -----------------------------------------------------------------------------------


def test_an_untrained_copy_is_named_by_its_key_and_leaves_the_global_stream_alone():
    teacher, state = tiny_net(5), torch.random.get_rng_state()
    a, again, other = (untrained_copy(teacher, "fresh", "key", k) for k in (0, 0, 1))
    assert torch.equal(state, torch.random.get_rng_state())
    assert torch.equal(a.backbone.conv.weight, again.backbone.conv.weight)
    assert not torch.equal(a.backbone.conv.weight, other.backbone.conv.weight)
    assert not a.training
    assert not any(p.requires_grad for p in a.parameters())


def test_a_student_learns_from_its_teacher_on_the_pool():
    teacher = tiny_net(5, key=1)
    pool = {"x": torch.randint(0, 256, (32, 3, 8, 8), dtype=torch.uint8, generator=generator("pool"))}
    problem = SynthesisProblem(
        teacher=frozen(teacher),
        labels=(0,),
        shape=(3, 8, 8),
        anchors=None,
        bound=None,
        mean=torch.full((3,), 0.5),
        std=torch.full((3,), 0.25),
        augment=Augment(),
        key=(0,),
    )
    student = untrained_copy(teacher, "fresh", 0)
    optimizer = torch.optim.SGD(student.parameters(), lr=0.1, momentum=0.9)

    def loss(student: Output, teacher: Output) -> Terms:
        return distillation(student, teacher, 20.0, 5.0)

    before, *_, after = (
        train_student(student, problem, pool, loss, steps=8, batch_size=16, optimizer=optimizer, key=(i,))
        for i in range(6)
    )
    assert after["kl"] < before["kl"] / 2
    assert after["embedding"] < before["embedding"]
    assert not student.training


def test_the_package_offers_what_its_docstring_shows():
    method = synthesis.create("nayer", **SMALL)
    assert method.run(teacher=tiny_net(5), labels=range(5), shape=(3, 8, 8), anchors=normal(5, 16)).keys() >= {"x", "y"}


# Shown to whoever waits ------------------------------------------------------------------------------


@pytest.mark.parametrize("terminal", [True, False])
def test_episodes_are_shown_where_standard_error_is_a_terminal(
    terminal: bool, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    consoles: list[Console] = []

    def console(**options: Any) -> Console:
        consoles.append(Console(file=io.StringIO(), force_terminal=terminal, width=100, **options))
        return consoles[-1]

    monkeypatch.setattr("fcil.synthesis.common.display.Console", console)
    method = create("fast", rounds=3, steps=1, batch_size=4, samples=8, width=4, latent=4, student_steps=1, chains=2)
    teacher = build_net(NetSettings(name="resnet8", width=4), shape=(1, 8, 8), num_classes=2, text_width=None, key=())
    quiet = method.run(teacher=teacher, labels=range(2), shape=(1, 8, 8), progress=lambda done, total, terms: None)
    assert consoles == []  # whoever listens is asked for no bar
    shown = method.run(teacher=teacher, labels=range(2), shape=(1, 8, 8))
    said = consoles[0].file.getvalue()  # type: ignore[attr-defined]
    assert ("fast" in said and "4/4" in said) if terminal else said == ""
    assert capsys.readouterr() == ("", "")
    assert all(torch.equal(quiet[name], shown[name]) for name in quiet)
