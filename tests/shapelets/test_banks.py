"""Shapelets that clients send: what is refused of them, and which of them the server takes."""

from __future__ import annotations

import pytest
import torch

from fcil.nets import NetSettings, build_net
from fcil.nets.series import ShapeFormer, ShapeFormerSettings
from fcil.rng import generator
from fcil.shapelets import Discovery, Shapelets, discover
from fcil.shapelets.banks import gather, received
from fcil.types import Tensors

SHAPE = (2, 15)


def found(seed: int = 0, per_class: int = 2) -> Shapelets:
    x = torch.randn(8, *SHAPE, generator=torch.Generator().manual_seed(seed)).cumsum(2)
    return discover(x, torch.arange(8) % 2, Discovery(per_class=per_class, window=4))


def test_what_clients_send_arrives() -> None:
    sent = found()
    got = received(sent.tensors(), SHAPE, 2)
    assert all(torch.equal(tensor, got.tensors()[name]) for name, tensor in sent.tensors().items())


@pytest.mark.parametrize(
    ("name", "value", "why"),
    [
        ("gain", None, "the parts"),
        ("gain", torch.ones(3), "unequal numbers"),
        ("values", torch.ones(4), "unequal numbers"),
        ("values", torch.ones(5, 3), "another type or number"),
        ("gain", torch.ones(4, dtype=torch.float64), "another type"),
        ("start", torch.ones(4), "no whole numbers"),
        ("channel", torch.tensor([0, 0, 0, 2]), "outside"),
        ("channel", torch.tensor([0, 0, 0, -1]), "outside"),
        ("start", torch.tensor([0, 0, 0, 14]), "outside"),
        ("length", torch.tensor([2, 2, 2, 1]), "outside"),
        ("length", torch.tensor([2, 2, 2, 2**62]), "outside"),
        ("label", torch.tensor([0, 0, 0, 2]), "no class"),
    ],
)
def test_what_is_no_shapelet_is_refused(name: str, value: torch.Tensor | None, why: str) -> None:
    tensors: Tensors = found().tensors()
    if value is None:
        del tensors[name]
    else:
        tensors[name] = value
    with pytest.raises(ValueError, match=why):
        received(tensors, SHAPE, 2)


def test_the_server_takes_the_best_of_each_class_of_all_clients() -> None:
    settings = ShapeFormerSettings(per_class=2, window=4)
    net = build_net(
        NetSettings(name="shapeformer", shapelets=settings), shape=SHAPE, num_classes=2, text_width=None, key=("net",)
    )
    backbone = net.backbone
    assert isinstance(backbone, ShapeFormer)
    sent = [found(0), found(1), found(2)]
    gather(net, sent, generator("tokens"))
    assert backbone.bank.place is not None
    assert backbone.bank.place[:, 3].tolist() == [0, 0, 1, 1]
    for label in (0, 1):
        best = max(float(one.gain[one.label == label].max()) for one in sent)
        held = {tuple(row) for row in backbone.bank.place[:, :3].tolist()}
        winners = [
            (int(one.channel[k]), int(one.start[k]), int(one.length[k]))
            for one in sent
            for k in range(len(one))
            if int(one.label[k]) == label and float(one.gain[k]) == best
        ]
        assert winners[0] in held


def test_no_clients_or_no_shapelets_leave_the_net_as_it_is() -> None:
    net = build_net(NetSettings(name="shapeformer"), shape=SHAPE, num_classes=2, text_width=None, key=("net",))
    gather(net, [], generator("tokens"))
    assert net.private() == frozenset()
