"""The measures of a pool: against what they mean, sample by sample."""

from __future__ import annotations

from itertools import combinations

import pytest
import torch
import torch.nn.functional as F
from tiny_net import normal, tiny_net

from fcil.nets import Net, build_net, frozen
from fcil.nets.net import NetSettings
from fcil.synthesis.common.losses import bns_score
from fcil.synthesis.common.quality import diversity, quality

MEAN, STD = torch.full((3,), 0.5), torch.full((3,), 0.25)


def pool_of(net: Net, labels: list[int] | None = None) -> dict[str, torch.Tensor]:
    x = (normal(12, 3, 6, 6) * 60 + 128).clamp(0, 255).to(torch.uint8)
    answers = net((x / 255 - 0.5) / 0.25).logits.argmax(dim=1)
    return {"x": x, "y": answers if labels is None else torch.tensor(labels)}


def test_agreement_and_counts_go_by_the_labels():
    net = frozen(tiny_net(5))
    pool = pool_of(net)
    assert quality(net, pool, MEAN, STD).agreement == 1.0
    wrong = {**pool, "y": (pool["y"] + (torch.arange(12) < 3)) % 5}
    found = quality(net, wrong, MEAN, STD)
    assert found.agreement == pytest.approx(9 / 12)
    assert found.samples == 12
    assert found.counts == tuple(int((wrong["y"] == c).sum()) for c in range(5))


def test_diversity_is_one_less_the_mean_cosine_within_a_class():
    features, labels = normal(9, 4), torch.tensor([0, 0, 0, 0, 1, 1, 1, 2, 0])
    by_hand = []
    for label in (0, 1):  # class 2 has one sample
        pairs = combinations(features[labels == label], 2)
        by_hand.append(1 - torch.stack([F.cosine_similarity(a, b, dim=0) for a, b in pairs]).mean().item())
    assert diversity(features, labels) == pytest.approx(sum(by_hand) / 2, abs=1e-6)
    assert diversity(features[:1].repeat(4, 1), torch.zeros(4)) == pytest.approx(0, abs=1e-9)
    assert diversity(features[:2], torch.tensor([0, 1])) is None


def test_nearness_to_the_nets_statistics_is_that_of_the_normalised_samples():
    net = frozen(tiny_net(5))
    pool = pool_of(net)
    expected = float(bns_score(net, (pool["x"] / 255 - 0.5) / 0.25))
    assert quality(net, pool, MEAN, STD).bns == pytest.approx(expected, rel=1e-4)


def test_a_net_without_batch_norm_has_no_such_number():
    settings = NetSettings(name="resnet8", width=4, norm="group")
    net = frozen(build_net(settings, shape=(3, 6, 6), num_classes=5, text_width=None, key=("quality",)))
    assert quality(net, pool_of(net), MEAN, STD).bns is None
