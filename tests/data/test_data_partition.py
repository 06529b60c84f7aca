"""Partitions: equal to the reference, disjoint, complete, never empty, never endless."""

from __future__ import annotations

import copy
import hashlib
import sys
import time
from itertools import pairwise

import numpy as np
import pytest
import torch
from golden_vectors import assert_matches, load_case
from numpy.typing import NDArray

from fcil.data import PartitionSettings, partition
from fcil.data.partition import _proportions
from fcil.errors import ConfigError
from fcil.rng import numpy_generator

GOLDEN = load_case("11_partition")
KINDS = [
    PartitionSettings(),
    PartitionSettings(kind="dirichlet", value=0.5),
    PartitionSettings(kind="dirichlet", value=0.05, capped=False),
    PartitionSettings(kind="dirichlet", value=1e-8),
    PartitionSettings(kind="classes", value=2),
    PartitionSettings(kind="shards", value=2),
]

PINNED = [
    (0.5, True, "task", "2816d86cad75"),
    (0.5, True, "reference", "1cecba6bb0ad"),
    (0.5, False, "task", "84d18286a8bd"),
    (0.5, False, "reference", "2fc94086e304"),
    (0.1, True, "task", "da6d6fee58b2"),
    (0.1, True, "reference", "b7cfd899a925"),
    (0.1, False, "task", "cf05974cb90d"),
    (0.1, False, "reference", "3f6af5d2d3f6"),
    (0.05, True, "task", "4af4a64b0fab"),
    (0.05, True, "reference", "1f72dbfa56c0"),
    (0.05, False, "task", "0637ee23088b"),
    (0.05, False, "reference", "a9911c95c8d4"),
]
"""Digests of what partitions were before small betas had draws of their own."""


def labels_of(counts: list[int]) -> NDArray[np.int64]:
    return np.repeat(np.arange(len(counts)), counts)


def digest_of(beta: float, capped: bool, draw: str) -> str:
    """Of who holds what, in ten draws."""
    settings = PartitionSettings(kind="dirichlet", value=beta, capped=capped, draw=draw)  # type: ignore[arg-type]
    total = hashlib.sha256()
    for seed in range(10):
        rng = np.random.RandomState(seed) if draw == "reference" else numpy_generator(seed, "partition")
        for held in partition(labels_of([60] * 8), 5, settings, rng):
            total.update(held.astype("<i8").tobytes() + b";")
    return total.hexdigest()[:12]


def assert_reference(labels: str, run: str, settings: PartitionSettings, rng: np.random.RandomState) -> None:
    got = partition(GOLDEN.tensors[labels].numpy(), 5, settings, rng)
    for client, held in enumerate(got):
        assert_matches(torch.from_numpy(held), GOLDEN.tensors[f"expected.{run}.client{client}"], 0, run)
    after = copy.deepcopy(rng).random_sample(3)  # how much randomness was used
    assert_matches(torch.from_numpy(after), GOLDEN.tensors[f"expected.{run}.next_uniform"], GOLDEN.tolerance, run)


def test_iid_equals_the_reference() -> None:
    assert_reference("inputs.labels", "beta_0", PartitionSettings(), np.random.RandomState(2023))


@pytest.mark.parametrize("beta", ["1", "0.5"])
def test_dirichlet_equals_the_reference(beta: str) -> None:
    settings = PartitionSettings(kind="dirichlet", value=float(beta))
    assert_reference("inputs.labels", f"beta_{beta}", settings, np.random.RandomState(2023))


def test_dirichlet_equals_the_reference_call_after_call() -> None:
    rng = np.random.RandomState(2023)
    assert_reference("inputs.labels", "beta_0.1", PartitionSettings(kind="dirichlet", value=0.1), rng)
    assert_reference("inputs.labels", "beta_again", PartitionSettings(kind="dirichlet", value=1.0), rng)


def test_dirichlet_repeats_the_draw_like_the_reference() -> None:
    settings = PartitionSettings(kind="dirichlet", value=0.5)
    assert_reference("inputs.small.labels", "small", settings, np.random.RandomState(7))


def test_five_clients_of_cifar100_hold_what_a_logged_reference_run_says() -> None:
    got = partition(
        labels_of([500] * 20), 5, PartitionSettings(kind="dirichlet", value=0.5), np.random.RandomState(2023)
    )
    assert [len(held) for held in got] == [2007, 2051, 2003, 1669, 2270]


@pytest.mark.parametrize("settings", KINDS, ids=lambda s: f"{s.kind}-{s.value}-{s.capped}")
@pytest.mark.parametrize(("counts", "clients"), [([50] * 10, 5), ([3, 40, 1, 7], 2), ([30] * 4, 17), ([9, 9], 18)])
def test_shares_are_disjoint_complete_and_not_empty(
    settings: PartitionSettings, counts: list[int], clients: int
) -> None:
    labels = np.random.RandomState(0).permutation(labels_of(counts))
    got = partition(labels, clients, settings, numpy_generator(0, "partition"))
    assert len(got) == clients
    assert min(len(held) for held in got) >= 1
    assert np.array_equal(np.sort(np.concatenate(got)), np.arange(len(labels)))
    again = partition(labels, clients, settings, numpy_generator(0, "partition"))
    assert all(np.array_equal(a, b) for a, b in zip(got, again, strict=True))
    if clients < len(labels):
        other = partition(labels, clients, settings, numpy_generator(1, "partition"))
        assert any(not np.array_equal(a, b) for a, b in zip(got, other, strict=True))


@pytest.mark.parametrize("beta", [0.01, 0.3])
@pytest.mark.parametrize("capped", [True, False])
def test_many_clients_with_few_samples_terminate(beta: float, capped: bool) -> None:
    settings = PartitionSettings(kind="dirichlet", value=beta, capped=capped)
    started = time.process_time()
    got = partition(labels_of([60] * 10), 500, settings, numpy_generator(0, "partition"))
    assert time.process_time() - started < 10
    assert min(len(held) for held in got) == 1
    assert np.array_equal(np.sort(np.concatenate(got)), np.arange(600))


def test_a_tiny_beta_with_the_legacy_generator_is_no_crash() -> None:
    got = partition(labels_of([20] * 3), 4, PartitionSettings(kind="dirichlet", value=1e-6), np.random.RandomState(0))
    assert sum(len(held) for held in got) == 60


def classes_held(beta: float, capped: bool, draw: str, clients: int = 10, seeds: int = 12) -> float:
    """Mean number of classes that a client holds."""
    labels = labels_of([70] * 10)
    held = []
    for seed in range(seeds):
        rng = np.random.RandomState(seed) if draw == "reference" else numpy_generator(seed, "partition")
        settings = PartitionSettings(kind="dirichlet", value=beta, capped=capped, draw=draw)  # type: ignore[arg-type]
        held += [len(np.unique(labels[part])) for part in partition(labels, clients, settings, rng)]
    return float(np.mean(held))


@pytest.mark.filterwarnings("error")
@pytest.mark.parametrize("capped", [True, False])
@pytest.mark.parametrize("draw", ["task", "reference"])
def test_a_client_never_holds_more_classes_as_beta_falls(
    capped: bool, draw: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(sys.modules["fcil.data.partition"], "MAX_DRAWS", 30)  # the later ones only take time
    held = [classes_held(beta, capped, draw) for beta in (0.1, 0.01, 1e-3, 3e-4, 1e-6, 1e-9, 5e-324)]
    assert all(after <= before + 0.05 for before, after in pairwise(held)), held
    assert held[-2:] == [1.0, 1.0]  # the limit: a class belongs to one client


@pytest.mark.parametrize("draw", ["task", "reference"])
@pytest.mark.parametrize("beta", [3e-3, 1e-3, 1e-5, 1e-9])
def test_in_the_limit_a_class_goes_to_any_of_those_that_take_part(draw: str, beta: float) -> None:
    rng = np.random.RandomState(0) if draw == "reference" else numpy_generator(0)
    taking_part = np.array([True, True, False, True, True])
    shares = np.array([_proportions(rng, beta, 5, taking_part) for _ in range(4000)])
    assert shares.sum(1) == pytest.approx(np.ones(4000))
    wins = np.bincount(shares.argmax(1), minlength=5) / 4000
    assert wins[2] == 0
    assert np.abs(wins[taking_part] - 0.25).max() < 0.025  # 3.6 deviations
    assert shares.max(1).mean() > 0.98


def test_the_legacy_generator_gives_no_number_for_a_tiny_beta() -> None:
    """What all of this is about; should NumPy mend it, partitions of tiny betas would change."""
    with np.errstate(all="ignore"):
        drawn = np.random.RandomState(0).dirichlet(np.full(10, 1e-6), size=200)
    assert np.isnan(drawn).any(1).mean() > 0.9


@pytest.mark.parametrize(("beta", "capped", "draw", "digest"), PINNED)
def test_shares_of_a_usual_beta_are_as_they_always_were(beta: float, capped: bool, draw: str, digest: str) -> None:
    assert digest_of(beta, capped, draw) == digest


def test_more_clients_than_samples_is_refused_with_the_counts() -> None:
    with pytest.raises(ConfigError, match=r"5 clients \(federation.clients\) cannot share 4 samples"):
        partition(labels_of([2, 2]), 5, PartitionSettings(), numpy_generator(0))


@pytest.mark.parametrize(("clients", "each", "classes"), [(5, 2, 10), (5, 6, 10), (3, 4, 4), (7, 3, 10)])
def test_every_client_holds_its_number_of_classes_and_every_class_is_held(
    clients: int, each: int, classes: int
) -> None:
    labels = labels_of([40] * classes)
    got = partition(labels, clients, PartitionSettings(kind="classes", value=each), numpy_generator(3))
    assert [len(set(labels[held].tolist())) for held in got] == [each] * clients
    holders = np.bincount(np.concatenate([np.unique(labels[held]) for held in got]), minlength=classes)
    assert holders.max() - holders.min() <= 1


@pytest.mark.parametrize(
    ("each", "clients", "said"), [(3, 5, "a task has only 2"), (1, 1, "give each client at least 2")]
)
def test_a_number_of_classes_that_cannot_be_met_is_refused(each: int, clients: int, said: str) -> None:
    with pytest.raises(ConfigError, match=said):
        partition(labels_of([20, 20]), clients, PartitionSettings(kind="classes", value=each), numpy_generator(0))


def test_shards_of_equal_size_give_few_classes() -> None:
    labels = labels_of([100] * 10)
    got = partition(labels, 10, PartitionSettings(kind="shards", value=2), numpy_generator(0))
    assert [len(held) for held in got] == [100] * 10
    assert max(len(np.unique(labels[held])) for held in got) <= 4


def test_capped_draw_spreads_the_load_and_plain_draw_does_not() -> None:
    labels = labels_of([500] * 20)
    sizes = {
        capped: [
            max(
                len(held)
                for held in partition(
                    labels, 5, PartitionSettings(kind="dirichlet", value=0.1, capped=capped), numpy_generator(seed)
                )
            )
            for seed in range(5)
        ]
        for capped in (True, False)
    }
    assert np.mean(sizes[True]) < np.mean(sizes[False])


def test_equal_generators_give_equal_proportions_to_tasks_of_different_size() -> None:
    settings = PartitionSettings(kind="dirichlet", value=0.5, capped=False)
    small = partition(labels_of([1000] * 4), 3, settings, numpy_generator(0, "partition"))
    large = partition(labels_of([3000] * 4), 3, settings, numpy_generator(0, "partition"))
    share_small = np.array([len(held) / 4000 for held in small])
    share_large = np.array([len(held) / 12000 for held in large])
    assert np.abs(share_small - share_large).max() < 0.002
