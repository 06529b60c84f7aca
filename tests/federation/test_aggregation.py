"""Robust means, each against its own arithmetic."""

from __future__ import annotations

import re

import numpy as np
import pytest
import torch
from flwr.app import Message, MetricRecord, RecordDict
from flwr.serverapp.strategy import Bulyan as FlowerBulyan
from flwr.serverapp.strategy import FedAvg, FedMedian, FedTrimmedAvg
from flwr.serverapp.strategy.multikrum import select_multikrum
from guarded_rounds import length, tensors
from small_runs import same
from tiny_net import normal, tiny_net

from fcil import Update, weighted_mean
from fcil.errors import TrainingError
from fcil.federation.codec import to_arrays, to_tensors
from fcil.federation.compat import new_run
from fcil.federation.protection.aggregation import Bulyan, Krum, Mean, Median, MultiKrum, TrimmedMean
from fcil.federation.protection.attacks import Scale
from fcil.federation.protection.robust_means import average
from fcil.types import Tensors


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


def by_flowers_strategy(strategy: FedAvg, updates: list[Update]) -> Tensors:
    """What Flower's strategy makes of the updates, handed to it as replies."""
    new_run(1)
    sent = Message(RecordDict(), 1, "train")
    metrics = MetricRecord({"num-examples": 1})
    contents = [RecordDict({"arrays": to_arrays(u.weights), "metrics": metrics}) for u in updates]
    arrays, _ = strategy.aggregate_train(0, [Message(content, reply_to=sent) for content in contents])
    return to_tensors(arrays)


@pytest.mark.parametrize("clients", range(3, 12))
def test_the_median_is_flowers_to_the_bit(clients):
    updates = [
        Update({**tensors(k), "zero": torch.tensor([-0.0]), "big": normal(9, key=k).double()}, 1)
        for k in range(clients)
    ]
    got = average(Median(), updates, "uniform", {}).weights
    assert same(got, by_flowers_strategy(FedMedian(), updates))
    assert got["batches"] == 7 + (clients - 1) / 2


@pytest.mark.parametrize(("clients", "share"), [(5, 0.2), (6, 0.4), (10, 0.1), (11, 0.3)])
def test_the_trimmed_mean_is_flowers_and_leaves_out_whole_clients(clients, share):
    updates = [Update(tensors(k), 1) for k in range(clients)]
    got = average(TrimmedMean(share=share), updates, "uniform", {}).weights
    expected = by_flowers_strategy(FedTrimmedAvg(beta=share), updates)
    assert got.keys() == expected.keys()
    for name, value in expected.items():
        assert torch.allclose(got[name], value, rtol=1e-6, atol=1e-7), name
        assert got[name].dtype == value.dtype
        assert got[name].shape == value.shape
    ranked = torch.stack([update.weights["w"] for update in updates]).double().sort(0).values
    cut = int(share * clients)
    assert torch.allclose(got["w"].double(), ranked[cut : clients - cut].mean(0), atol=1e-6)


def test_a_trimmed_mean_does_not_depend_on_who_sent_what():
    updates = [Update(tensors(k), 1) for k in range(11)]
    got = [average(TrimmedMean(share=0.2), order, "uniform", {}).weights for order in (updates, updates[::-1])]
    assert same(*got)


@pytest.mark.parametrize("clients", [7, 8, 12])
def test_bulyan_is_flowers_to_the_bit(clients):
    updates = [Update({n: t for n, t in tensors(k).items() if n != "batches"}, 1) for k in range(clients)]
    expected = by_flowers_strategy(FlowerBulyan(num_malicious_nodes=1), updates)
    start = {name: torch.zeros_like(t) for name, t in updates[0].weights.items()}
    assert same(average(Bulyan(malicious=1), updates, "uniform", start).weights, expected)
