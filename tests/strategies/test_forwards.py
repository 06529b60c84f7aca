"""Real and synthetic images in one forward or in two: what BatchNorm sees of a step, and what tells runs apart."""

from __future__ import annotations

import dataclasses
from typing import Any

import pytest
import torch
from scripted_roles import ScriptedClient, client_of
from tiny_net import tiny_net

from fcil import Batch, Client, Strategy
from fcil.nets import NetSettings, build_net, outputs_of
from fcil.optimizer import OptimizerSettings
from fcil.types import Terms, Update
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


# Gradients of the real images before the synthetic ones' forward --------------------------------


class WatchedLANDER(LANDER):
    """Changes nothing, but could: no term's gradients may be added before it has seen them."""

    def local_loss(self, client: Client, batch: Batch) -> Terms:
        return super().local_loss(client, batch)


class WatchedTARGET(TARGET):
    """As above."""

    def local_loss(self, client: Client, batch: Batch) -> Terms:
        return super().local_loss(client, batch)


class Parted(ScriptedClient):
    """Counts the parts of steps whose gradients are added early."""

    early: int

    def descend(self, terms: Terms, *more: Any) -> Terms:
        left = super().descend(terms, *more)
        self.early += not any(term.requires_grad for term in left.values())
        return left


def trained(strategy: Strategy, name: str = "resnet8", **optimizer: Any) -> tuple[Update, int]:
    """What three steps of a second task send, and how many of them were in parts."""
    net, old = (
        build_net(NetSettings(name=name, width=4), shape=(3, 8, 8), num_classes=c, text_width=6, key=("net",))
        for c in (5, 3)
    )
    rng = torch.Generator().manual_seed(1)
    real = [Batch(torch.randn(4, 3, 8, 8, generator=rng), torch.tensor([3, 4, 4, 3])) for _ in range(3)]
    client = client_of(
        net,
        [None] * 12,
        old=3,
        real=real,
        synthetic=[torch.randn(4, 3, 8, 8, generator=rng) for _ in range(3)],
        teacher=old,
        shared={"anchors": torch.randn(5, 6, generator=rng), "synthetic": {"x": torch.zeros(12)}},
        optimizer=OptimizerSettings(**optimizer),
    )
    client.__class__, client.early = Parted, 0  # type: ignore[attr-defined]
    return strategy.local_train(client), client.early  # type: ignore[attr-defined]


@pytest.mark.parametrize("max_norm", [None, 0.1])
@pytest.mark.parametrize(("kind", "watched"), [(LANDER, WatchedLANDER), (TARGET, WatchedTARGET)])
def test_a_step_in_parts_is_equal_to_the_bit(kind: Any, watched: Any, max_norm: float | None) -> None:
    (parts, early), (whole, none) = trained(kind(), max_norm=max_norm), trained(watched(), max_norm=max_norm)
    assert (early, none) == (3, 0)
    assert parts.metrics == whole.metrics
    assert parts.weights.keys() == whole.weights.keys()
    for name, tensor in whole.weights.items():
        assert torch.equal(parts.weights[name], tensor), name


@pytest.mark.parametrize(
    ("strategy", "name", "precision"),
    [
        (LANDER(head=0.5), "resnet8", "fp32"),  # the classifier has a third addend
        (LANDER(forwards="one"), "resnet8", "fp32"),
        (LANDER(), "resnet8", "bf16"),  # both forwards share the weights' copies
        (LANDER(), "cnn", "fp32"),  # does not say that it uses its parameters once
    ],
)
def test_where_a_step_in_parts_may_differ_it_is_whole(strategy: LANDER, name: str, precision: str) -> None:
    assert trained(strategy, name, precision=precision)[1] == 0


def test_the_largest_norm_holds_for_the_whole_gradient_of_a_step_in_parts() -> None:
    begin = build_net(NetSettings(name="resnet8", width=4), shape=(3, 8, 8), num_classes=5, text_width=6, key=("net",))
    plain = {"max_norm": 0.01, "lr": 1.0, "momentum": 0.0, "weight_decay": 0.0, "schedule": "constant"}
    update, early = trained(LANDER(), **plain)
    names = [name for name, _ in begin.named_parameters()]
    moved = torch.cat([(update.weights[name] - begin.state_dict()[name]).flatten() for name in names])
    assert early == 3
    assert 0 < moved.norm() <= 3 * 0.01 * 1.001


def test_terms_are_whole_where_a_strategy_changes_them() -> None:
    class Doubled(LANDER):
        def local_loss(self, client: Client, batch: Batch) -> Terms:
            return {term: 2 * value for term, value in super().local_loss(client, batch).items()}

    class Halved(LANDER):
        def local_train(self, client: Client) -> Update:
            def half(client: Client, batch: Batch) -> Terms:
                return {term: value / 2 for term, value in self.local_loss(client, batch).items()}

            return client.train(half, self.trainable(client.net))

    for strategy in (Doubled(), Halved()):
        assert trained(strategy)[1] == 0
