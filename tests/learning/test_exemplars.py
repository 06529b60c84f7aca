"""Which samples a client keeps: herding, shares of a budget, and the nearest mean."""

from __future__ import annotations

from collections.abc import Sequence

import pytest
import torch
import torch.nn.functional as F
from golden_vectors import assert_matches, load_case
from scripted_roles import shard_of
from tiny_net import normal, tiny_net

from fcil.exemplars import balanced, class_sums, herd, nearest_mean, unit_features, update_exemplars


@pytest.mark.parametrize(("order", "unit"), [("order_normalised", True), ("order_raw", False)])
def test_the_order_of_herding_matches_the_published_rule(order, unit):
    case = load_case("82_icarl_herding")
    features = case.tensors["inputs.features"]
    features = F.normalize(features, dim=1) if unit else features
    assert_matches(herd(features, case.parameters["exemplars"]), case.tensors[f"expected.{order}"], case.tolerance)


def test_mean_and_nearest_class_match_the_published_rule():
    case = load_case("82_icarl_herding")
    features = F.normalize(case.tensors["inputs.features"], dim=1)
    chosen = features[case.tensors["expected.order_normalised"]]
    sums, counts = class_sums(chosen, torch.zeros(len(chosen), dtype=torch.int64), 1)
    mean = F.normalize(sums[0] / counts[0], dim=0)
    assert_matches(mean, case.tensors["expected.exemplar_mean_normalised"], case.tolerance)
    assert_matches(F.normalize(sums[0], dim=0), mean, case.tolerance)
    means = torch.cat([F.normalize(case.tensors["inputs.other_class_means"], dim=1), mean[None]])
    queries = F.normalize(case.tensors["inputs.queries"], dim=1)
    assert torch.equal(nearest_mean(queries, means).argmax(1), case.tensors["expected.nearest_mean_class"])
    distances = (queries[:, None] - means).square().sum(dim=2)
    assert_matches(2 - 2 * nearest_mean(queries, means), distances, case.tolerance)


def test_herding_takes_each_sample_once_and_no_more_than_there_are():
    features = normal(7, 3)
    assert sorted(herd(features, 99).tolist()) == list(range(7))
    assert herd(features, 3).tolist() == herd(features, 7)[:3].tolist()
    assert herd(features, 0).tolist() == herd(features[:0], 5).tolist() == []
    assert herd(normal(1, 3), 4).tolist() == [0]
    assert sorted(herd(torch.ones(4, 3), 4).tolist()) == [0, 1, 2, 3]  # all alike


def test_the_herded_mean_is_closer_to_the_class_mean_than_the_first_samples():
    features = normal(200, 6, key=3)
    mean = features.mean(dim=0)
    assert (features[herd(features, 10)].mean(0) - mean).norm() < 0.2 * (features[:10].mean(0) - mean).norm()


@pytest.mark.parametrize(
    ("labels", "budget", "shares"),
    [
        ([0, 0, 1], 10, [5, 5]),
        ([2, 0, 1], 10, [4, 3, 3]),
        ([0, 1, 2, 3], 2, [1, 1, 0, 0]),
        ([5], 7, [7]),
        ([], 7, []),
    ],
)
def test_a_budget_is_shared_equally(labels, budget, shares):
    got = balanced(torch.tensor(labels, dtype=torch.int64), budget)
    assert list(got) == sorted(set(labels))
    assert list(got.values()) == shares
    assert sum(shares) == budget or not labels


def test_no_share_grows_when_classes_are_added():
    for budget in range(1, 30):
        before: dict[int, int] = {}
        for classes in range(1, 40):
            now = balanced(torch.arange(classes), budget)
            assert sum(now.values()) == budget
            assert all(now[label] <= share for label, share in before.items())
            before = now


def renew(kept: Sequence[int], fresh: Sequence[int], shares: dict[int, int]):
    """What is kept of samples with these labels; the images of `fresh` follow those of `kept`."""
    whole = shard_of([*kept, *fresh])
    split = torch.arange(len(whole)).split([len(kept), len(fresh)])
    net = tiny_net()
    return whole, net, update_exemplars(net, whole.select(split[0]), whole.select(split[1]), shares)


def test_old_classes_keep_their_first_exemplars_and_new_ones_are_herded():
    whole, net, chosen = renew([1, 0, 1, 0, 1], [2, 3, 2, 2, 3, 2], {0: 1, 1: 2, 2: 3, 3: 5})
    assert chosen.labels.tolist() == [0, 1, 1, 2, 2, 2, 3, 3]
    assert chosen.indices[:3].tolist() == [1, 0, 2]
    new = torch.tensor([5, 7, 8, 10])
    expected = new[herd(unit_features(net, whole.select(new)), 3)]
    assert chosen.indices[3:6].tolist() == expected.tolist()


def test_a_class_without_a_share_is_dropped_and_one_in_both_is_chosen_anew():
    _, _, chosen = renew([0, 1, 2], [2, 2], {0: 0, 1: 1, 2: 1})
    assert chosen.labels.tolist() == [1, 2]
    assert chosen.indices[1] in (3, 4)


def test_a_client_may_hold_nothing():
    assert len(renew([], [], {})[2]) == 0
    assert renew([0, 0], [], {0: 1})[2].indices.tolist() == [0]


def test_features_are_taken_in_eval_mode_and_leave_the_net_as_it_was():
    net, shard = tiny_net().train(), shard_of([0, 1, 0])
    before = net.weights()
    features = unit_features(net, shard)
    assert net.training
    assert all(torch.equal(before[name], w) for name, w in net.weights().items())
    assert torch.allclose(features.norm(dim=1), torch.ones(3))
    net.eval()
    assert torch.allclose(features, F.normalize(net(shard.x(torch.arange(3))).features, dim=1))
    assert not features.requires_grad


def test_sums_of_clients_add_up_and_a_class_nobody_has_is_never_the_nearest():
    features, labels = normal(6, 4), torch.tensor([0, 2, 2, 0, 2, 0])
    whole = class_sums(features, labels, 4)
    parts = [class_sums(features[s], labels[s], 4) for s in (slice(0, 2), slice(2, 6))]
    assert torch.allclose(whole[0], parts[0][0] + parts[1][0])
    assert whole[1].tolist() == [3, 0, 3, 0]
    scores = nearest_mean(normal(50, 4, key=1), F.normalize(whole[0], dim=1))
    assert set(scores.argmax(1).tolist()) == {0, 2}
