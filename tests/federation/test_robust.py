"""Mods, robust means, differential privacy and malicious clients, each against its own arithmetic."""

from __future__ import annotations

import json
import math
import re
import sys
from dataclasses import dataclass, fields
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest
import torch
from flwr.app import Array, ArrayRecord, ConfigRecord, Message, MetricRecord, RecordDict
from flwr.clientapp.mod import LocalDpMod, adaptiveclipping_mod, fixedclipping_mod
from flwr.serverapp.strategy.multikrum import select_multikrum
from small_runs import (
    Stop,
    StopAfter,
    checkpoint,
    final_weights,
    play,
    same,
    without_seconds,
    write_experiment,
    write_strategy,
)
from tiny_net import normal, tiny_net
from torch import Tensor

from fcil import Update, weighted_mean
from fcil.config import Where, dump, field_docs, parse
from fcil.errors import ConfigError, TrainingError
from fcil.federation.codec import to_arrays, to_tensors
from fcil.federation.compat import RefArray, new_context, new_run
from fcil.federation.context import Datasets
from fcil.federation.plan import Plan
from fcil.federation.protection.aggregation import RULES, Bulyan, Krum, Mean, Median, MultiKrum, TrimmedMean, average
from fcil.federation.protection.attacks import ATTACKS, LabelFlip, Noise, Scale, SignFlip, flipped
from fcil.federation.protection.averager import Averager, check_safeguards, spent
from fcil.federation.protection.flower_messages import numpy_seeded
from fcil.federation.protection.malicious import forge, given, malicious
from fcil.federation.protection.mods import MODS, NORM_BIT, AdaptiveClipping, Mods, around, said
from fcil.federation.protection.privacy import Privacy, epsilon, private_mean
from fcil.federation.server import Services
from fcil.federation.settings import FederationSettings
from fcil.roles import Server
from fcil.runs.plans import read
from fcil.types import Task, Tensors

WHO = (1, 2, 3)  # task, round, client


def plans(path: Path, *overrides: str) -> list[Plan]:
    return [plan for experiment in read(path, overrides) for plan in experiment.plans()]


# Mods ------------------------------------------------------------------------------------------


def tensors(key: int, scale: float = 1.0) -> Tensors:
    return {
        "w": normal(4, 3, key=key) * scale,
        "running_var": torch.rand(30, generator=torch.Generator().manual_seed(key)),
        "scale": normal(1, key=key).reshape(()),
        "batches": torch.tensor(7 + key),
    }


def conversation(sent: Tensors, back: Tensors, shared: dict[str, Any] | None = None) -> tuple[Message, Message]:
    """A message to a client and its reply, in memory that may not be written to."""
    new_run(1)

    def locked(weights: Tensors) -> ArrayRecord:
        record = ArrayRecord()
        for name, t in weights.items():
            array = t.numpy().copy()
            array.flags.writeable = False
            record[name] = RefArray(array)
        return record

    content: dict[str, Any] = {"weights": locked(sent), "config": ConfigRecord({"job": "{}"})}
    content |= {"plan": ConfigRecord({"plan": "x" * 1000}), "shared/pool": locked({"x": torch.zeros(50)})}
    content |= shared or {}
    message = Message(RecordDict(content), 4, "train")
    answer = {"weights": locked(back), "metrics": MetricRecord({"terms/ce": 1.0})}
    return message, Message(RecordDict({**answer, "config": ConfigRecord({"num_examples": 5})}), reply_to=message)


def through(mods: Mods, sent: Tensors, back: Tensors, seed: int = 0, **shared: Any) -> tuple[Tensors, Message]:
    message, reply = conversation(sent, back, shared or None)
    reply = around(mods, seed, WHO, message, new_context(1, 4, {}), lambda *_: reply)
    return to_tensors(reply.content["weights"]), reply


def chosen(*raw: Any) -> Mods:
    return Mods.from_yaml(list(raw), Where("test"))


def floats(weights: Tensors) -> Tensors:
    return {name: t for name, t in weights.items() if t.is_floating_point()}


def length(a: Tensors, b: Tensors) -> float:
    return math.sqrt(sum(float((a[n] - b[n]).double().square().sum()) for n in floats(a)))


def by_flower(mod: Any, sent: Tensors, back: Tensors, config: dict[str, float]) -> dict[str, np.ndarray]:
    """What Flower's mod makes of plain arrays; a tensor without dimensions is given one."""
    new_run(1)

    def plain(weights: Tensors) -> ArrayRecord:
        return ArrayRecord({n: Array(np.atleast_1d(t.numpy().copy())) for n, t in floats(weights).items()})

    message = Message(RecordDict({"a": plain(sent), "c": ConfigRecord(config)}), 1, "train")
    reply = Message(RecordDict({"a": plain(back), "m": MetricRecord({})}), reply_to=message)
    result = mod(message, new_context(1, 1, {}), lambda *_: reply)
    return {name: array.numpy() for name, array in result.content["a"].items()}


@pytest.mark.parametrize(
    ("ours", "theirs"),
    [
        ({"fixed_clipping": {"norm": 0.5}}, fixedclipping_mod),
        ({"adaptive_clipping": {"norm": 0.5}}, adaptiveclipping_mod),
    ],
)
def test_clipping_is_flowers_and_shortens_the_whole_step(ours, theirs):
    sent, back = tensors(1), tensors(2)
    got, _ = through(chosen(ours), sent, back)
    expected = by_flower(theirs, sent, back, {"clipping_norm": 0.5})
    assert length(back, sent) > 0.5
    assert length(got, sent) == pytest.approx(0.5, rel=1e-5)
    for name, value in expected.items():
        np.testing.assert_allclose(np.atleast_1d(got[name].numpy()), value, rtol=1e-6)
    assert list(got) == list(back)
    assert torch.equal(got["batches"], back["batches"])
    assert got["scale"].shape == ()
    assert got["w"].dtype == torch.float32


def test_a_short_step_is_left_as_it_is_and_says_so():
    sent, back = tensors(1), {n: t + 1e-4 if t.is_floating_point() else t for n, t in tensors(1).items()}
    got, reply = through(chosen({"adaptive_clipping": {"norm": 5.0}}), sent, back)
    assert all(torch.allclose(got[n], back[n], atol=1e-6) for n in back)
    assert reply.content["metrics"][NORM_BIT] == 0
    _, reply = through(chosen({"adaptive_clipping": {"norm": 1e-5}}), sent, back)
    assert reply.content["metrics"][NORM_BIT] == 1
    assert reply.content["metrics"]["terms/ce"] == 1.0


@pytest.mark.parametrize("mod", ["fixed_clipping", "adaptive_clipping", "local_dp"])
def test_a_client_that_did_not_move_is_no_division_by_zero(mod):
    got, _ = through(chosen(mod), tensors(1), tensors(1))
    assert all(torch.isfinite(t).all() for t in floats(got).values())
    assert (length(got, tensors(1)) > 0) == (mod == "local_dp")


def test_local_noise_is_flowers_from_a_stream_of_its_own_and_global_numpy_stays():
    sent, back = tensors(1), tensors(2)
    options = {"clip": 0.5, "sensitivity": 1.0, "epsilon": 0.9, "delta": 1e-3}
    before = np.random.get_state()[1].copy()
    got, _ = through(chosen({"local_dp": options}), sent, back)
    assert np.array_equal(np.random.get_state()[1], before)
    again, _ = through(chosen({"local_dp": options}), sent, back)
    other, _ = through(chosen({"local_dp": options}), sent, back, seed=1)
    assert same(got, again)
    assert not same(got, other)
    with numpy_seeded(0, "local_dp", *WHO):
        expected = by_flower(LocalDpMod(0.5, 1.0, 0.9, 1e-3), sent, back, {})
    for name in ("w", "scale"):
        np.testing.assert_allclose(np.atleast_1d(got[name].numpy()), expected[name], rtol=1e-6)
    assert torch.equal(got["running_var"] <= 0.1 * sent["running_var"], got["running_var"] == 0.1 * sent["running_var"])
    assert (expected["running_var"] < 0).any()


def test_local_noise_has_the_deviation_it_says_on_every_tensor():
    sent = {"w": torch.zeros(20000), "one": torch.zeros(())}
    got, _ = through(chosen({"local_dp": {"sensitivity": 2.0, "epsilon": 1.0, "delta": 1e-5}}), sent, sent)
    std = 2.0 * math.sqrt(2 * math.log(1.25e5))
    assert float(got["w"].std()) == pytest.approx(std, rel=0.03)
    assert float(got["one"]) != 0


def test_nothing_received_or_kept_is_changed_in_place():
    sent, back = tensors(1), tensors(2)
    message, reply = conversation(sent, back)
    kept = reply.content["weights"]
    mods = chosen("arrays_size", "message_size", "local_dp", "fixed_clipping", "adaptive_clipping")
    around(mods, 0, WHO, message, new_context(1, 4, {}), lambda *_: reply)
    assert same(to_tensors(message.content["weights"]), sent)
    assert same(to_tensors(kept), back)
    assert list(message.content) == ["weights", "config", "plan", "shared/pool"]
    assert all(array.__dict__["_blob"] is None for array in message.content["shared/pool"].values())


def test_what_comes_back_beside_the_trained_tensors_passes_by_the_mods():
    back = {"w": tensors(2)["w"], "prototypes": torch.ones(3), "whole": torch.ones(2, dtype=torch.int64)}
    got, _ = through(chosen({"fixed_clipping": {"norm": 1e-3}}), tensors(1), back)
    assert length({"w": got["w"]}, tensors(1)) == pytest.approx(1e-3, rel=1e-2)
    assert torch.equal(got["prototypes"], back["prototypes"])
    assert torch.equal(got["whole"], back["whole"])


def test_size_mods_tell_the_server_and_change_nothing():
    sent, back = tensors(1), tensors(2)
    got, reply = through(chosen("message_size", "arrays_size"), sent, back)
    assert same(got, back)
    lines = said(reply)
    assert all(line.startswith("client 3, task 1, round 2: ") for line in lines)
    assert re.search(r"Incoming message size: \d{4} bytes", lines[0])
    assert any("'shared/pool': {'elements': 50" in line for line in lines)
    assert said(through(chosen("fixed_clipping"), sent, back)[1]) == []


@pytest.mark.parametrize("log", [{"lines": [b"x"]}, {"lines": "x"}, {"other": 1}])
def test_a_log_that_is_none_is_not_read(log):
    _, reply = conversation(tensors(1), tensors(2))
    reply.content["log"] = ConfigRecord(log)
    assert said(reply) == []


def test_a_log_cannot_command_the_terminal_nor_fill_the_disk():
    _, reply = conversation(tensors(1), tensors(2))
    reply.content["log"] = ConfigRecord({"lines": ["\x1b[2Jgone\n", "y" * 10**6, *["z"] * 1000]})
    assert said(reply)[0] == "[2Jgone"
    assert sum(map(len, said(reply))) < 3000


def test_the_first_mod_is_the_outermost():
    both = [{"local_dp": {"clip": 9.0}}, {"fixed_clipping": {"norm": 0.1}}]
    noisy, _ = through(chosen(*both), tensors(1), tensors(2))
    clipped, _ = through(chosen(*reversed(both)), tensors(1), tensors(2))
    assert length(noisy, tensors(1)) > 1
    assert length(clipped, tensors(1)) <= 0.1001


def test_the_norm_follows_until_the_target_share_is_left_alone():
    clipping = AdaptiveClipping(norm=0.01, target=0.5, rate=0.5)
    norm, steps = 0.01, np.linspace(0.5, 1.5, 101)
    for _ in range(60):
        norm = clipping.followed(norm, float((steps > norm).mean()))
    assert norm == pytest.approx(1.0, abs=0.05)
    assert clipping.followed(1.0, 1.0) == pytest.approx(math.exp(0.25))  # all were clipped: it was too short


def test_clients_clip_to_the_norm_the_server_shares():
    shared = {"values/clipping_norm": ConfigRecord({"values": json.dumps({"clipping_norm": 0.25})})}
    got, _ = through(chosen({"adaptive_clipping": {"norm": 9.0}}), tensors(1), tensors(2), **shared)
    assert length(got, tensors(1)) == pytest.approx(0.25, rel=1e-5)


# Robust means ----------------------------------------------------------------------------------


def updates_of(*rows: list[float]) -> list[Update]:
    return [
        Update({"w": torch.tensor(row), "n": torch.tensor(k)}, k + 1, {"loss": float(k)}) for k, row in enumerate(rows)
    ]


FIVE = updates_of([0.0, 1.0], [0.2, 1.2], [0.1, 0.9], [0.3, 1.1], [100.0, -100.0])
START = {"w": torch.zeros(2), "n": torch.tensor(0)}


@pytest.mark.parametrize(
    ("rule", "expected"),
    [
        (Median(), [0.2, 1.0]),
        (TrimmedMean(share=0.2), [0.2, 1.0]),  # of 0.1, 0.2, 0.3 and of 0.9, 1.0, 1.1
        (TrimmedMean(share=0.4), [0.2, 1.0]),
        (Mean(), [20.12, -19.16]),
    ],
)
def test_rules_by_hand(rule, expected):
    got = average(rule, iter(FIVE), "uniform", START)
    assert got.weights["w"].tolist() == pytest.approx(expected, abs=1e-5)
    assert got.num_examples == 15
    assert got.metrics == {"loss": 2.0}


def krum_by_hand(vectors: np.ndarray, malicious: int) -> np.ndarray:
    """Scores of Blanchard et al.: squared distances to the n - f - 2 nearest others, summed."""
    squares = ((vectors[:, None] - vectors[None]) ** 2).sum(-1)
    others = [np.sort(np.delete(row, i)) for i, row in enumerate(squares)]
    return np.array([row[: len(vectors) - malicious - 2].sum() for row in others])


def test_krum_keeps_the_update_nearest_to_its_neighbours():
    scores = krum_by_hand(np.array([u.weights["w"].numpy() for u in FIVE]), 1)
    best = np.argsort(scores)
    got = average(Krum(malicious=1), FIVE, "examples", START)
    assert torch.equal(got.weights["w"], FIVE[best[0]].weights["w"])
    two = average(MultiKrum(malicious=1, keep=3), FIVE, "examples", START)
    expected = weighted_mean([FIVE[k] for k in best[:3]], "examples").weights["w"]
    assert torch.allclose(two.weights["w"], expected)


def test_bulyan_averages_the_values_nearest_to_the_median_of_those_krum_keeps():
    values = [0.0, 0.1, 0.2, 0.3, 0.45, 0.7, 50.0]
    updates = updates_of(*[[v, -v] for v in values])
    near = np.argsort(krum_by_hand(np.array([[v, -v] for v in values]), 1))[:5]  # n - 2f
    kept = np.sort(np.array(values)[near])
    closest = kept[np.argsort(abs(kept - np.median(kept)))[:3]]  # n - 4f
    got = average(Bulyan(malicious=1), updates, "uniform", START)
    assert got.weights["w"].tolist() == pytest.approx([closest.mean(), -closest.mean()], abs=1e-6)


def test_krum_is_not_misled_by_large_nets_that_moved_little_nor_by_batch_counters():
    torch.manual_seed(0)
    base = torch.randn(20000) * 100
    steps = [0.0001 * (k + 1) for k in range(4)]
    updates = [Update({"w": base + s, "n": torch.tensor(1000 * k)}, 1) for k, s in enumerate(steps)]
    updates.append(Update({"w": base + 3.0, "n": torch.tensor(1500)}, 1))
    start = {"w": base, "n": torch.tensor(0)}
    moved = np.array([(u.weights["w"] - base).double().numpy() for u in updates])
    best = int(np.argmin(krum_by_hand(moved, 1)))
    assert torch.equal(average(Krum(malicious=1), updates, "uniform", start).weights["w"], updates[best].weights["w"])
    contents = [RecordDict({"a": to_arrays(u.weights)}) for u in updates]
    (theirs,) = select_multikrum(contents, 1, 1)
    assert theirs is not contents[best]  # Flower's, on whole nets, takes another


@pytest.mark.parametrize(
    "rule", [Median(), TrimmedMean(share=0.2), Krum(malicious=1), MultiKrum(malicious=1, keep=4), Bulyan(malicious=1)]
)
def test_one_client_scaled_a_million_times_moves_the_mean_and_no_robust_rule(rule):
    net = tiny_net()
    start = net.weights()
    honest = [
        Update({n: t + 0.01 * normal(*t.shape, key=k) if t.is_floating_point() else t + 3 for n, t in start.items()}, 5)
        for k in range(8)
    ]
    wild = Update(
        {n: Scale(factor=1e6).forged(t, start[n], torch.Generator()) for n, t in honest[0].weights.items()}, 5
    )
    received = [wild, *honest[1:]]
    near = weighted_mean(honest).weights
    got, mean = (average(r, iter(received), "examples", start).weights for r in (rule, Mean()))
    assert length(got, near) < 0.5 < 100 < length(mean, near)
    assert all(torch.isfinite(t).all() for t in got.values())
    net.load(got)  # counters and all


def test_updates_are_left_as_they_were_by_every_rule():
    for rule in (Median(), TrimmedMean(), Krum(), MultiKrum(), Mean()):
        before = [{n: t.clone() for n, t in u.weights.items()} for u in FIVE]
        average(rule, FIVE, "uniform", START)
        assert all(same(u.weights, b) for u, b in zip(FIVE, before, strict=True))


@pytest.mark.parametrize(
    ("rule", "enough", "said"),
    [
        (Median(), 3, "the median of 2 clients is their mean"),
        (TrimmedMean(share=0.2), 5, "a share of 0.2 of 4 clients leaves out nobody"),
        (Krum(malicious=2), 7, "2 malicious of 6 clients is too many; it needs 2 x 2 + 3 in a round"),
        (MultiKrum(malicious=1, keep=6), 7, "keep is 6, and 6 clients less 1 malicious are 5"),
        (Bulyan(malicious=1), 7, "1 malicious of 6 clients is too many; it needs 4 x 1 + 3 in a round"),
    ],
)
def test_too_few_clients_for_a_rule_is_one_line(rule, enough, said):
    assert rule.problem(enough) == ""
    updates = updates_of(*[[float(k), 0.0] for k in range(enough)])
    average(rule, updates, "uniform", START)
    with pytest.raises(TrainingError, match=f"federation.aggregation: {rule.name}: {re.escape(said)}"):
        average(rule, updates[:-1], "uniform", START)


def test_clients_that_send_different_tensors_have_no_median():
    mixed = [*FIVE, Update({"w": torch.zeros(2)}, 1)]
    with pytest.raises(TrainingError, match="median needs the same tensors from every client"):
        average(Median(), mixed, "uniform", START)


# Privacy ---------------------------------------------------------------------------------------


def quiet(privacy: Privacy, updates: list[Update], start: Tensors, per_round: int) -> Update:
    """The private mean with noise too small to see."""
    return private_mean(Privacy(clip=privacy.clip, noise=1e-12), updates, start, per_round, ("test",))


def test_every_step_is_clipped_as_a_whole_and_weighs_alike():
    start = {"w": torch.ones(2), "running_var": torch.ones(1), "n": torch.tensor(4)}
    long = Update({"w": torch.tensor([31.0, 1.0]), "running_var": torch.tensor([41.0]), "n": torch.tensor(900)}, 99)
    short = Update({"w": torch.tensor([1.0, 1.5]), "running_var": torch.tensor([1.0]), "n": torch.tensor(5)}, 1)
    got = quiet(Privacy(clip=5.0), [long, short], start, 4)
    # The long step (30, 0, 40) has length 50; two of four clients did not answer and add nothing.
    assert got.weights["w"].tolist() == pytest.approx([1 + 3 / 4, 1 + 0.5 / 4])
    assert got.weights["running_var"].tolist() == pytest.approx([1 + 4 / 4])
    assert got.weights["n"] == 4  # nobody's counter
    assert got.num_examples == 0


def test_the_noise_has_the_deviation_it_says_and_the_stream_it_says():
    start = {"w": torch.zeros(40000), "v": torch.zeros(())}
    privacy = Privacy(clip=2.0, noise=3.0)
    sent = [Update({"w": start["w"], "v": start["v"]}, 1)] * 3

    def noise(*key: Any) -> Tensors:
        return private_mean(privacy, sent, start, 4, key).weights

    one = noise(0, "privacy", 1, 1)
    assert float(one["w"].std()) == pytest.approx(3.0 * 2.0 / 4, rel=0.02)
    assert abs(float(one["w"].mean())) < 0.05
    assert same(one, noise(0, "privacy", 1, 1))
    assert not same(one, noise(1, "privacy", 1, 1))
    assert not same(one, noise(0, "privacy", 1, 2))
    singles = [float(noise(k, "privacy", 1, 1)["v"]) for k in range(400)]
    assert np.std(singles) == pytest.approx(1.5, rel=0.15)


def test_noise_takes_no_variance_far_below_what_it_was():
    start = {"bn.running_var": torch.full((500,), 0.01)}
    got = private_mean(Privacy(), [Update(dict(start), 1)], start, 1, ("x",)).weights["bn.running_var"]
    assert got.min() == pytest.approx(0.001)
    assert got.max() > 0.5


def exact_epsilon(noise: float, rounds: int, delta: float) -> float:
    """The least epsilon of a Gaussian mechanism, composed: Balle and Wang, ICML 2018, theorem 8."""
    mu = math.sqrt(rounds) / noise

    def phi(x: float) -> float:
        return 0.5 * math.erfc(-x / math.sqrt(2))

    low, high = 0.0, 1000.0
    for _ in range(200):
        e = (low + high) / 2
        leak = phi(mu / 2 - e / mu) - math.exp(min(e, 700)) * phi(-mu / 2 - e / mu)
        low, high = (e, high) if leak > delta else (low, e)
    return high


def renyi_epsilon(noise: float, rounds: int, delta: float) -> float:
    """Mironov, CSF 2017 (a Gaussian's Renyi divergence) turned into epsilon by Canonne, Kamath and Steinke, 2020."""
    orders = 1 + np.logspace(-3, 3, 20001)
    bounds = orders * rounds / (2 * noise**2) + np.log1p(-1 / orders) - np.log(delta * orders) / (orders - 1)
    return float(bounds.min())


@pytest.mark.parametrize(("noise", "rounds"), [(1.0, 1), (4.0, 10), (10.0, 100), (0.5, 3)])
def test_epsilon_is_that_of_the_literature(noise, rounds):
    got = epsilon(Privacy(noise=noise, delta=1e-5), 10, 4, rounds)
    assert got == pytest.approx(renyi_epsilon(noise, rounds, 1e-5), rel=2e-3)
    exact = exact_epsilon(noise, rounds, 1e-5)
    assert exact <= got <= 1.12 * exact


def test_the_known_value_of_one_gaussian():
    # Balle and Wang's exact epsilon at deviation 1, sensitivity 1, delta 1e-5; Renyi bounds lie above.
    assert exact_epsilon(1.0, 1, 1e-5) == pytest.approx(4.377, abs=1e-3)
    assert epsilon(Privacy(noise=1.0, delta=1e-5), 5, 5, 1) == pytest.approx(4.7285, abs=1e-3)


def test_epsilon_grows_with_rounds_and_shrinks_with_noise_whoever_is_drawn():
    grown = [epsilon(Privacy(noise=2.0), 10, 5, rounds) for rounds in (0, 1, 2, 10, 100)]
    assert grown == sorted(grown)
    assert grown[0] == 0 < grown[1]
    assert epsilon(Privacy(noise=4.0), 10, 5, 10) < grown[3]
    assert epsilon(Privacy(noise=2.0), 10, 10, 10) == grown[3]


def test_without_the_accountant_the_one_line_says_what_to_install(monkeypatch):
    monkeypatch.setitem(sys.modules, "dp_accounting", None)
    with pytest.raises(ConfigError, match=re.escape("pip install 'fcil[privacy]'")):
        epsilon.__wrapped__(Privacy(noise=7.0), 3, 3, 1)


# Malicious clients -----------------------------------------------------------------------------


def test_labels_turn_to_the_next_class_of_their_task(tmp_path):
    plan, *_ = plans(write_experiment(tmp_path), "federation.attack={label_flip: {share: 0.5}}")
    scenario, (bad,) = Datasets().open(plan).scenario, malicious(plan)
    for task, seen in ((1, False), (2, False), (2, True)):
        shard = scenario.shard(task, bad, seen=seen)
        wrong = given(plan, bad, shard, scenario.tasks)
        first = (shard.tasks - 1) * 2  # two classes to a task
        assert torch.equal(wrong.labels, first + 1 - (shard.labels - first))
        assert not (wrong.labels == shard.labels).any()
        x, y = next(iter(wrong.batches(8, shuffle=False, augment=False)))
        assert torch.equal(y, wrong.labels[:8])
        assert torch.equal(x, next(iter(shard.batches(8, shuffle=False, augment=False))).x)
        assert given(plan, 1 - bad, shard, scenario.tasks) is shard


def test_the_next_class_of_the_last_is_the_first():
    @dataclass(frozen=True)
    class Samples:
        labels: Tensor
        tasks: Tensor

    tasks = [Task(1, 2, 0, 3, tuple("abc")), Task(2, 2, 3, 2, tuple("abcde"))]
    samples: Any = Samples(torch.tensor([0, 1, 2, 3, 4]), torch.tensor([1, 1, 1, 2, 2]))
    assert flipped(samples, tasks).labels.tolist() == [1, 2, 0, 4, 3]


def a_plan(attack: Any, clients: int = 10, seed: int = 0) -> Any:
    return SimpleNamespace(seed=seed, federation=FederationSettings(clients=clients, attack=attack))


def test_the_malicious_are_a_share_drawn_for_the_run():
    drawn = [malicious(a_plan(Scale(share=0.3), 20, seed)) for seed in (0, 0, 1)]
    assert drawn[0] == drawn[1] != drawn[2]
    assert len(drawn[0]) == len(set(drawn[0])) == 6
    assert malicious(a_plan(None)) == []
    assert malicious(a_plan(Noise(share=1.0), 3)) == [0, 1, 2]


@pytest.mark.parametrize(
    ("attack", "made"),
    [
        (SignFlip(share=1.0, scale=2.0), lambda g, w: g - 2 * (w - g)),
        (Scale(share=1.0, factor=5.0), lambda g, w: g + 5 * (w - g)),
    ],
)
def test_a_forged_step_is_what_it_says(attack, made):
    sent, back = tensors(1), tensors(2)
    message, reply = conversation(sent, back)
    forge(a_plan(attack), WHO, message, reply)
    got = to_tensors(reply.content["weights"])
    for name in ("w", "scale"):
        assert torch.allclose(got[name], made(sent[name], back[name]), atol=1e-5)
    lied = made(sent["running_var"], back["running_var"])
    assert torch.equal(got["running_var"], lied.maximum(0.1 * sent["running_var"]))
    assert torch.equal(got["batches"], back["batches"])
    assert same(to_tensors(message.content["weights"]), sent)


def test_noise_has_its_deviation_and_its_stream_and_honest_clients_are_left_alone():
    sent = back = {"w": torch.zeros(20000)}

    def lies(plan: Any, who: tuple[int, int, int] = WHO) -> Tensor:
        message, reply = conversation(sent, back)
        forge(plan, who, message, reply)
        return to_tensors(reply.content["weights"])["w"]

    plan = a_plan(Noise(share=1.0, std=0.5))
    assert float(lies(plan).std()) == pytest.approx(0.5, rel=0.03)
    assert torch.equal(lies(plan), lies(plan))
    assert not torch.equal(lies(plan), lies(plan, (1, 3, 3)))
    some = a_plan(Noise(share=0.3))
    told = {client: bool(lies(some, (1, 1, client)).any()) for client in range(10)}
    assert [client for client, lied in told.items() if lied] == malicious(some)
    assert not lies(a_plan(LabelFlip(share=1.0))).any()


# Settings --------------------------------------------------------------------------------------

CHANGES = [
    "mods=[arrays_size, message_size]",
    "mods=[{local_dp: {clip: 1.0, sensitivity: 1.0, epsilon: 10.0, delta: 1.0e-5}}, {fixed_clipping: {norm: 1.0}}]",
    "mods=[{adaptive_clipping: {norm: 0.2, target: 0.4, rate: 0.1}}]",
    "aggregation=median",
    "aggregation={trimmed_mean: {share: 0.3}}",
    "aggregation={krum: {malicious: 1}}",
    "aggregation={multi_krum: {malicious: 1, keep: 3}}",
    "aggregation={bulyan: {malicious: 1}}",
    "privacy={clip: 1.0, noise: 0.5, delta: 1.0e-5}",
    "privacy={noise: 0.6}",
    "attack={label_flip: {share: 0.2}}",
    "attack={sign_flip: {share: 0.2, scale: 2}}",
    "attack={noise: {share: 0.2, std: 0.1}}",
    "attack={scale: {share: 0.2, factor: 3}}",
]


def test_every_choice_comes_back_from_yaml_and_makes_another_variant(tmp_path):
    path = write_experiment(tmp_path)
    found = {plans(path)[0].variant}
    for change in CHANGES:
        (plan,) = plans(path, f"federation.{change}")
        assert parse(FederationSettings, dump(plan.federation), Where("again")) == plan.federation
        found.add(plan.variant)
    assert len(found) == len(CHANGES) + 1


def test_nothing_is_on_unless_it_is_asked_for():
    settings = FederationSettings()
    assert (settings.mods.chosen, settings.aggregation, settings.privacy, settings.attack) == ((), Mean(), None, None)
    assert parse(FederationSettings, {"aggregation": "mean", "mods": [], "privacy": None}, Where("x")) == settings


@pytest.mark.parametrize(
    ("change", "said"),
    [
        ("mods=[array_size]", 'federation.mods.0: unknown mod "array_size" (have: arrays_size, message_size'),
        ("mods=[array_size]", 'Did you mean "arrays_size"?'),
        ("mods=arrays_size", "federation.mods: 'arrays_size' is not allowed; expected a list of mods"),
        ("mods=[arrays_size, arrays_size]", 'federation.mods.1: mod "arrays_size" is given twice'),
        ("mods=[{local_dp: {epsilon: 0}}]", "federation.mods.0.local_dp.epsilon: 0 is not allowed"),
        ("mods=[{fixed_clipping: {norn: 1}}]", 'norn: unknown key (allowed: norm). Did you mean "norm"?'),
        ("aggregation=medain", 'federation.aggregation: unknown aggregation "medain"'),
        ("aggregation=medain", 'Did you mean "median"?'),
        ("aggregation=[krum]", "federation.aggregation: ['krum'] is not allowed; expected a aggregation name"),
        ("aggregation={trimmed_mean: {share: 0.5}}", "share: 0.5 is not allowed; it should be less than 0.5"),
        ("aggregation={krum: {malicious: 0}}", "krum.malicious: 0 is not allowed"),
        ("privacy={clip: 0}", "federation.privacy.clip: 0 is not allowed"),
        ("privacy={delta: 1}", "federation.privacy.delta: 1 is not allowed"),
        ("privacy=yes", "federation.privacy: True is not allowed"),
        ("attack={labelflip: {}}", 'unknown attack "labelflip" (have: label_flip'),
        ("attack={scale: {share: 1.5}}", "federation.attack.scale.share: 1.5 is not allowed"),
    ],
)
def test_a_bad_choice_is_one_line(tmp_path, change, said):
    with pytest.raises(ConfigError, match=re.escape(said)) as caught:
        plans(write_experiment(tmp_path), f"federation.{change}")
    assert "\n" not in str(caught.value)


@pytest.mark.parametrize("cls", [*MODS.values(), *RULES.values(), *ATTACKS.values(), Privacy], ids=lambda c: c.__name__)
def test_every_option_is_explained(cls):
    docs = field_docs(cls)
    assert all(docs.get(f.name, "").endswith(".") for f in fields(cls))


OWN_TRAINING = """from dataclasses import dataclass
from fcil import Strategy

@dataclass(frozen=True, kw_only=True)
class Own(Strategy):
    def local_train(self, client):
        return super().local_train(client)
"""


@pytest.mark.parametrize(
    ("changes", "said"),
    [
        (["aggregation={krum: {malicious: 2}}"], "federation.aggregation: krum: 2 malicious of 5 clients is too many"),
        (["fraction=0.4", "aggregation=median"], "the median of 2 clients is their mean"),
        (
            ["privacy={}", "aggregation=median"],
            "federation.privacy: its noise is made for a mean; aggregation is median",
        ),
        (
            ["privacy={}", "mods=[adaptive_clipping]"],
            "the mod adaptive_clipping tells, unprotected, whose step was long",
        ),
        (["attack={scale: {share: 0.05}}"], "federation.attack: a share of 0.05 of 5 clients is nobody"),
    ],
)
def test_what_cannot_work_is_said_before_a_run(tmp_path, changes, said):
    overrides = ["federation.clients=5", *(f"federation.{c}" for c in changes)]
    with pytest.raises(ConfigError, match=re.escape(said)):
        play(write_experiment(tmp_path), *overrides, out=tmp_path / "out")
    assert not list((tmp_path / "out").rglob("config.yaml"))


@pytest.mark.parametrize("change", ["privacy={}", "mods=[local_dp]"])
def test_uploads_of_a_strategys_own_are_not_called_private(tmp_path, change):
    path = write_experiment(tmp_path, strategy=str(write_strategy(tmp_path, OWN_TRAINING, "own")))
    with pytest.raises(ConfigError, match='does not cover what clients of "own" send in local_train'):
        play(path, f"federation.{change}", out=tmp_path)


def test_a_task_of_one_class_has_no_labels_to_flip(tmp_path):
    (plan,) = plans(write_experiment(tmp_path), "federation.attack={label_flip: {share: 0.5}}")
    with pytest.raises(ConfigError, match="label_flip has nothing to turn to in task 2, of one class"):
        check_safeguards(plan, [2, 1])
    check_safeguards(plan, [2, 2])


# What a strategy is given ----------------------------------------------------------------------


def a_server(plan: Plan) -> Server:
    services = Services(Averager(plan), None, None)  # type: ignore[arg-type] # neither syntheses nor an observer
    return Server(tiny_net(), Task(1, 1, 0, 5, tuple("abcde")), 1, plan.seed, 5, None, services)


def honest(server: Server, count: int = 5) -> list[Update]:
    start = server.net.weights()
    return [
        Update({n: t + k if t.is_floating_point() else t for n, t in start.items()}, k + 1, {NORM_BIT: 1.0})
        for k in range(count)
    ]


def the_plan(folder: Path, *changes: str) -> Plan:
    return plans(write_experiment(folder), "federation.clients=5", *(f"federation.{c}" for c in changes))[0]


def test_a_strategy_is_given_the_rule_of_the_federation(tmp_path):
    server = a_server(the_plan(tmp_path, "aggregation=median"))
    got = server.average(honest(server), "examples").weights
    assert torch.allclose(got["classifier.bias"], server.net.classifier.bias + 2)
    plain = a_server(the_plan(tmp_path))
    assert same(plain.average(honest(plain), "examples").weights, weighted_mean(honest(plain)).weights)


@pytest.mark.parametrize(
    ("change", "what"),
    [
        ("aggregation=median", "federation.aggregation median"),
        ("privacy={}", "federation.privacy"),
        ("mods=[adaptive_clipping]", "the mod adaptive_clipping"),
    ],
)
def test_a_mean_of_a_strategys_own_does_not_pass_for_the_federations(tmp_path, change, what):
    server = a_server(the_plan(tmp_path, change))
    averager: Any = server.services.averager
    averager.seal(honest(server))
    with pytest.raises(TrainingError, match=f'"finetune" does not call server.average, so {what} would do nothing'):
        averager.check()
    server.average(honest(server), "uniform")
    averager.check()


def test_a_private_federation_shows_a_strategy_only_the_mean(tmp_path):
    server = a_server(the_plan(tmp_path, "privacy={}"))
    averager: Any = server.services.averager
    sealed = averager.seal(iter(honest(server)))
    with pytest.raises(TrainingError, match=r"reads single updates; only server\.average may"):
        next(iter(sealed))
    mean = server.average(sealed, "examples")
    assert mean.metrics == {}
    with pytest.raises(TrainingError, match='asks for the metric "first_epoch_loss", which is not private'):
        mean.metrics["first_epoch_loss"]
    with pytest.raises(TrainingError, match="averages twice"):
        server.average(sealed, "examples")


def test_the_norm_of_adaptive_clipping_is_kept_with_what_is_shared(tmp_path):
    server = a_server(the_plan(tmp_path, "mods=[{adaptive_clipping: {norm: 2.0, target: 0.5, rate: 0.2}}]"))
    for expected in (2 * math.exp(0.1), 2 * math.exp(0.2)):  # every client was clipped
        averager: Any = server.services.averager
        averager.seal([])
        server.average(honest(server), "uniform")
        assert server.shared["clipping_norm"] == pytest.approx(expected)


def test_no_client_can_blow_the_norm_up(tmp_path):
    server = a_server(the_plan(tmp_path, "mods=[{adaptive_clipping: {norm: 1.0, rate: 1.0}}]"))
    wild = [Update(u.weights, 1, {NORM_BIT: 1e30}) for u in honest(server)]
    server.average(wild, "uniform")
    assert server.shared["clipping_norm"] == pytest.approx(math.exp(0.5))
    other = a_server(the_plan(tmp_path, "mods=[{adaptive_clipping: {norm: 1.0}}]"))
    other.average([Update(u.weights, 1) for u in honest(other)], "uniform")
    assert other.shared["clipping_norm"] == 1.0


# Whole runs ------------------------------------------------------------------------------------


SHORT = ["federation.clients=5", "federation.stop_after=1"]


@pytest.fixture(scope="module")
def plain(tmp_path_factory: pytest.TempPathFactory) -> Tensors:
    """What five clients make of two rounds when nothing is asked for."""
    folder = tmp_path_factory.mktemp("plain")
    return final_weights(play(write_experiment(folder), *SHORT, out=folder)[0])


@pytest.mark.parametrize(
    "change",
    [
        "mods=[arrays_size, message_size]",
        "aggregation={multi_krum: {malicious: 1}}",
        "privacy={noise: 0.6}",
        "attack={label_flip: {share: 0.2}}",
        "attack={noise: {share: 0.2, std: 0.1}}",
    ],
)
def test_a_run_is_the_same_again_whatever_is_asked_for(tmp_path, change, plain):
    runs = []
    for name in ("a", "b"):
        (tmp_path / name).mkdir()
        runs += play(write_experiment(tmp_path / name), *SHORT, f"federation.{change}", out=tmp_path / name)
    assert same(final_weights(runs[0]), final_weights(runs[1]))
    assert without_seconds(runs[0]) == without_seconds(runs[1])
    assert same(final_weights(runs[0]), plain) == ("size" in change)


def test_a_run_goes_on_with_the_noise_and_the_norm_it_would_have_had(tmp_path):
    change = "federation.mods=[{local_dp: {epsilon: 100}}, {adaptive_clipping: {norm: 0.3, rate: 0.5}}]"
    (tmp_path / "whole").mkdir()
    (whole,) = play(write_experiment(tmp_path / "whole"), change, out=tmp_path / "whole")
    with pytest.raises(Stop):
        play(write_experiment(tmp_path), change, out=tmp_path, observer=StopAfter(3))
    (resumed,) = play(write_experiment(tmp_path), change, out=tmp_path)
    assert same(checkpoint(resumed)[0], checkpoint(whole)[0])
    norms = [checkpoint(run)[1]["scalars"]["shared/clipping_norm"] for run in (whole, resumed)]
    assert norms[0] == norms[1] != 0.3


def test_epsilon_of_all_tasks_is_in_the_record_of_every_round(tmp_path):
    (run,) = play(write_experiment(tmp_path), "federation.privacy={noise: 2.0}", out=tmp_path)
    got = [record["epsilon"] for record in run.rounds]
    assert got == [epsilon(Privacy(noise=2.0), 2, 2, rounds) for rounds in (1, 2, 3, 4)]
    (plan,) = plans(tmp_path / "tiny.yaml", "federation.privacy={noise: 2.0}")
    assert spent(plan, 4) == got[-1]
    assert run.summary["epsilon"] == got[-1]


def test_a_strategy_of_ones_own_that_averages_by_itself_is_told(tmp_path):
    source = OWN_TRAINING.split("    def")[0] + (
        "    def aggregate(self, server, updates):\n"
        "        mean = weighted_mean(updates)\n"
        "        server.net.load(mean.weights)\n"
        "        return mean\n"
    )
    source = source.replace("import Strategy", "import Strategy, weighted_mean")
    path = write_experiment(tmp_path, strategy=str(write_strategy(tmp_path, source, "alone")))
    play(path, "federation.clients=5", out=tmp_path)
    with pytest.raises(TrainingError, match=r'"alone" does not call server\.average, so federation\.aggregation'):
        play(path, "federation.clients=5", "federation.aggregation=median", out=tmp_path)


def test_an_attack_spoils_a_mean_and_not_a_median(tmp_path):
    path, few = write_experiment(tmp_path), [*SHORT, "federation.rounds=1"]
    attack = "federation.attack={scale: {share: 0.2, factor: 1.0e3}}"
    size: dict[str, float] = {}
    for rule in ("mean", "median", "{krum: {malicious: 1}}"):
        (run,) = play(path, *few, attack, f"federation.aggregation={rule}", out=tmp_path)
        size[rule] = max(float(t.abs().max()) for t in floats(final_weights(run)).values())
        assert run.rounds[0]["malicious"] == malicious(plans(path, *few, attack)[0])
    (run,) = play(path, *few, out=tmp_path)
    honest = max(float(t.abs().max()) for t in floats(final_weights(run)).values())
    assert size["mean"] > 20 * honest
    assert max(size["median"], size["{krum: {malicious: 1}}"]) < 3 * honest


def test_size_mods_write_to_the_log_of_the_run(tmp_path):
    (run,) = play(write_experiment(tmp_path), "federation.mods=[message_size]", out=tmp_path)
    log = (run.path / "log.txt").read_text(encoding="utf-8")
    assert log.count("Incoming message size") == 2 * 2 * 2  # clients, rounds, tasks
