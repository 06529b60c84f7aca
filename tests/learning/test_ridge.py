"""Ridge regression from sums: equal for any partition and order, exact unlearning, and what is sent in place of G."""

from __future__ import annotations

import pytest
import torch
from tiny_net import normal

from fcil.nets.ridge import Moments, dealt, estimated, group_sums, sketched, unsketched

N, M, C = 60, 7, 4


@pytest.fixture
def samples() -> tuple[torch.Tensor, torch.Tensor]:
    """Features (N, M) and labels (N,), a class after the other."""
    labels = torch.arange(N) * C // N
    return normal(N, M, key=1).double() + labels[:, None], labels


def solved_by_hand(h, labels, ridge):
    targets = torch.eye(C, dtype=torch.float64)[labels]
    gram = sum(torch.outer(row, row) for row in h)
    penalty = ridge * torch.trace(gram) / M
    return torch.linalg.solve(gram + penalty * torch.eye(M), h.T @ targets)


@pytest.mark.parametrize("ridge", [1e-4, 1.0])
def test_the_classifier_is_that_of_ridge_regression(samples, ridge):
    assert torch.allclose(Moments.of(*samples, C).solve(ridge), solved_by_hand(*samples, ridge), rtol=1e-9)


def test_any_partition_and_order_give_the_same_classifier(samples):
    h, labels = samples
    whole = Moments.of(h, labels, C).solve(1e-3)
    for parts in (2, 5, N):
        order = torch.randperm(N, generator=torch.Generator().manual_seed(parts))
        shares = [Moments.of(h[rows], labels[rows], C) for rows in order.chunk(parts)]
        assert torch.allclose(sum(shares[1:], shares[0]).solve(1e-3), whole, rtol=1e-9, atol=1e-12)


def test_classes_that_come_later_give_the_same_as_all_at_once(samples):
    h, labels = samples
    early = labels < 2
    first = Moments.of(h[early], labels[early], 2)
    both = first + Moments.of(h[~early], labels[~early], C)
    assert first.cross.shape == (M, 2)
    assert torch.allclose(both.solve(1e-3), Moments.of(h, labels, C).solve(1e-3), rtol=1e-9, atol=1e-12)


def test_samples_that_are_taken_out_leave_no_trace(samples):
    h, labels = samples
    rest = slice(20, None)
    without = Moments.of(h, labels, C) - Moments.of(h[:20], labels[:20], C)
    assert torch.allclose(without.solve(1e-3), Moments.of(h[rest], labels[rest], C).solve(1e-3), rtol=1e-9, atol=1e-9)


def test_without_an_active_feature_there_is_nothing_to_fit():
    with pytest.raises(ValueError, match="all features are zero"):
        Moments.of(torch.zeros(3, M), torch.tensor([0, 1, 1]), 2).solve(1e-3)


# Groups (STSA-E) -------------------------------------------------------------------------------


def test_groups_differ_by_one_sample_at_most():
    sizes = torch.bincount(dealt(17, 5, torch.Generator().manual_seed(0)))
    assert sorted(sizes.tolist()) == [3, 3, 3, 4, 4]


def test_groups_of_one_sample_tell_the_moments_exactly(samples):
    h, labels = samples
    sent = group_sums(h, labels, torch.arange(N), C, N)
    told, whole = estimated(**sent), Moments.of(h, labels, C)
    assert torch.allclose(told.gram, whole.gram, rtol=1e-9)
    assert torch.allclose(told.cross, whole.cross, rtol=1e-9)


def test_the_estimate_of_groups_is_right_on_average(samples):
    h, labels = samples
    whole, mean = Moments.of(h, labels, C).gram, torch.zeros(M, M, dtype=torch.float64)
    rng, trials = torch.Generator().manual_seed(0), 400
    for _ in range(trials):
        mean += estimated(**group_sums(h, labels, dealt(N, 5, rng), C, 5)).gram / trials
    spread = (whole - torch.diag(whole.diagonal())).abs().max()
    assert (mean - whole).abs().max() < 0.02 * spread


def test_a_class_of_a_single_group_counts_with_its_mean_alone():
    h = torch.tensor([[1.0, 0.0], [3.0, 2.0]])
    told = estimated(**group_sums(h, torch.tensor([0, 0]), torch.tensor([1, 1]), 1, 2))
    assert torch.allclose(told.gram, torch.tensor([[8.0, 4.0], [4.0, 2.0]]).double())  # (4, 2) (4, 2)^T / 2


# A sketch --------------------------------------------------------------------------------------


def test_a_sketch_of_all_directions_is_the_matrix(samples):
    gram = Moments.of(*samples, C).gram
    assert torch.allclose(unsketched(**sketched(gram, M)), gram, rtol=1e-9, atol=1e-9)
    assert torch.allclose(unsketched(**sketched(gram, 100)), gram, rtol=1e-9, atol=1e-9)


def test_a_sketch_keeps_the_greatest_directions_and_the_trace(samples):
    gram = Moments.of(*samples, C).gram
    values = torch.linalg.eigvalsh(gram)
    told = unsketched(**sketched(gram, 2))
    assert torch.allclose(torch.trace(told), torch.trace(gram))
    assert torch.allclose(torch.linalg.eigvalsh(told)[-2:], values[-2:])
    assert torch.allclose(torch.linalg.eigvalsh(told)[:-2], values[:-2].mean().expand(M - 2))
