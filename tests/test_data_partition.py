"""Partitions: equal to the reference, disjoint, complete, never empty, never endless."""

from __future__ import annotations

import copy
import time

import numpy as np
import pytest
import torch
from golden_cases import assert_matches, load_case
from numpy.typing import NDArray

from fcil.data import PartitionSettings, partition
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


def labels_of(counts: list[int]) -> NDArray[np.int64]:
    return np.repeat(np.arange(len(counts)), counts)


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
