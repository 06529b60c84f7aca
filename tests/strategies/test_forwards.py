"""Real and synthetic images in one forward or in two: what BatchNorm sees of a step, and what tells runs apart."""

from __future__ import annotations

import dataclasses
from typing import Any

import pytest
import torch
from tiny_net import tiny_net

from fcil import Strategy
from fcil.nets import outputs_of
from strategies.lander import LANDER
from strategies.mfcl import MFCL
from strategies.target import TARGET


def batches() -> tuple[torch.Tensor, torch.Tensor]:
    rng = torch.Generator().manual_seed(0)
    return torch.randn(5, 3, 8, 8, generator=rng), 3 + torch.randn(4, 3, 8, 8, generator=rng)


def test_one_forward_normalises_both_by_the_statistics_of_all() -> None:
    net, parts = tiny_net(), batches()
    net.train()
    whole = net(torch.cat(parts))
    real, synthetic = outputs_of(net, parts, "one")
    for got, part in ((real, slice(0, 5)), (synthetic, slice(5, 9))):
        assert torch.equal(got.logits, whole.logits[part])
        assert torch.equal(got.features, whole.features[part])
    apart = outputs_of(net, parts, "two")
    assert torch.equal(apart[1].logits, net(parts[1]).logits)
    assert not torch.allclose(apart[1].logits, synthetic.logits, atol=1e-3)


def test_without_batch_statistics_both_are_the_same() -> None:
    net = tiny_net()
    net.eval()
    for one, two in zip(outputs_of(net, batches(), "one"), outputs_of(net, batches(), "two"), strict=True):
        torch.testing.assert_close(one.logits, two.logits)


def test_the_label_text_head_is_split_as_the_rest_is() -> None:
    net, parts = tiny_net(text_width=6), batches()
    one = outputs_of(net, parts, "one")
    assert [tuple(out.embedding.shape) for out in one if out.embedding is not None] == [(5, 6), (4, 6)]


@pytest.mark.parametrize(("kind", "other"), [(LANDER, "one"), (TARGET, "one"), (MFCL, "two")])
def test_the_default_is_the_codes_and_leaves_runs_where_they_are(kind: type[Strategy], other: Any) -> None:
    """Folders are named by these settings: a run that began before there was the choice is still the same run."""
    usual = kind()
    assert "forwards" not in usual.decisive()
    assert "forwards" in usual.options()
    changed = dataclasses.replace(usual, forwards=other)
    assert changed.decisive()["forwards"] == other
