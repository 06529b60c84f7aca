"""Class-activation maps against sums by hand, with their gradients, for nets that pool and nets that do not."""

from __future__ import annotations

from contextlib import suppress

import pytest
import torch
import torch.nn.functional as F
from tiny_net import normal, tiny_net
from torch import Tensor, nn

from fcil.nets import Backbone, Net, NetSettings, build_net
from fcil.nets.cam import activation_maps, class_maps, pools, record_maps
from fcil.rng import seeded


class Pooled(Backbone):
    """Convolution, ReLU and the mean over positions, as a layer or as a sum."""

    def __init__(self, layer: bool) -> None:
        super().__init__()
        self.width, self.layer = 4, layer
        self.maps = nn.Sequential(nn.Conv2d(3, 4, 3, padding=1), nn.ReLU())
        self.all = nn.Sequential(self.maps, nn.AdaptiveAvgPool2d(1))

    def forward(self, x: Tensor) -> Tensor:
        return self.all(x).flatten(1) if self.layer else self.maps(x).mean(dim=(2, 3))


class Flat(Backbone):
    """Every position has weights of its own: nothing is pooled."""

    def __init__(self) -> None:
        super().__init__()
        self.width, self.conv, self.mix = 6, nn.Conv2d(3, 4, 3, padding=1), nn.Linear(64, 6)

    def forward(self, x: Tensor) -> Tensor:
        return self.mix(torch.tanh(self.conv(x)).flatten(1)).relu()


def net_of(backbone: type[Backbone], *arguments: bool) -> Net:
    with seeded("cam"):
        net = Net(backbone(*arguments), 3).double().eval().requires_grad_(False)
        nn.init.normal_(net.classifier.bias)
    return net


def images(side: int = 4) -> Tensor:
    return normal(2, 3, side, side).double()


def hooks_of(net: nn.Module) -> int:
    return sum(len(m._forward_hooks) + len(m._forward_pre_hooks) for m in net.modules())


@pytest.mark.parametrize("layer", [False, True])
def test_maps_are_the_classifier_at_every_position(layer):
    net, x = net_of(Pooled, layer), images()
    a = net.backbone.maps(x)
    by_hand = torch.zeros(2, 3, 4, 4, dtype=torch.float64)
    for c in range(3):
        for k in range(4):
            by_hand[:, c] += net.classifier.weight[c, k] * a[:, k]
        by_hand[:, c] += net.classifier.bias[c]
    assert pools(net, x)
    assert torch.allclose(activation_maps(net, x), by_hand)


def test_their_gradient_is_that_of_the_sum_by_hand():
    net, x = net_of(Pooled, False), images().requires_grad_()
    weight = normal(2, 3, 4, 4, key=5).double()
    (ours,) = torch.autograd.grad((activation_maps(net, x) * weight).sum(), x)
    by_hand = torch.einsum("ck,bkij->bcij", net.classifier.weight, net.backbone.maps(x))
    (expected,) = torch.autograd.grad((by_hand * weight).sum(), x)
    assert expected.abs().sum() > 0
    assert torch.allclose(ours, expected)


@pytest.mark.parametrize("kind", ["pooled", "flat"])
def test_the_mean_of_a_map_is_the_logit_and_so_is_its_gradient(kind):
    net = net_of(Pooled, False) if kind == "pooled" else net_of(Flat)
    x = images().requires_grad_()
    means, logits = activation_maps(net, x).mean(dim=(2, 3)), net(x).logits
    assert torch.allclose(means, logits)
    assert kind == "pooled" or not pools(net, x)
    pull = normal(2, 3, key=7).double()
    slopes = [torch.autograd.grad((t * pull).sum(), x, retain_graph=True)[0] for t in (means, logits)]
    assert slopes[1].abs().sum() > 0
    assert torch.allclose(slopes[0], slopes[1])


def test_gradients_give_the_same_maps_where_the_net_pools():
    net, x = net_of(Pooled, False), images().requires_grad_()
    with record_maps(net) as maps:
        out = net(x)
    exact, by_gradient = (class_maps(net, maps.taken(), out, exact=exact) for exact in (True, False))
    assert torch.allclose(exact, by_gradient)
    weight = normal(2, 3, 4, 4, key=5).double()
    slopes = [torch.autograd.grad((m * weight).sum(), x, retain_graph=True)[0] for m in (exact, by_gradient)]
    assert torch.allclose(slopes[0], slopes[1])


def test_grad_cam_weighs_maps_by_the_gradient_of_the_logit():
    net, x = net_of(Flat), images()
    a = net.backbone.conv(x).requires_grad_()
    logits = net.classifier(net.backbone.mix(torch.tanh(a).flatten(1)).relu())
    found = activation_maps(net, x)
    for c in range(3):
        slope = torch.autograd.grad(logits[:, c].sum(), a, retain_graph=True)[0].sum(dim=(2, 3))
        votes = sum(slope[:, k, None, None] * a[:, k] for k in range(4))
        assert torch.allclose(found[:, c], votes + (logits[:, c] - votes.mean(dim=(1, 2)))[:, None, None])


@pytest.mark.parametrize("name", ["resnet8", "resnet18"])
@pytest.mark.parametrize("stem", ["cifar", "imagenet"])
def test_our_backbones_pool_what_their_stages_answer(name, stem):
    settings = NetSettings(name=name, stem=stem, width=4)
    net = build_net(settings, shape=(3, 32, 32), num_classes=3, text_width=None, key=(0,)).eval()
    x = normal(2, 3, 48, 48)
    with record_maps(net) as maps:
        net(x)
    assert torch.equal(maps.taken(), net.backbone.stages(net.backbone.stem(x)))
    assert pools(net, x)
    assert torch.allclose(activation_maps(net, x).mean(dim=(2, 3)), net(x).logits, atol=1e-5)


def test_what_follows_the_last_layer_makes_a_net_one_for_gradients():
    """The small net of other tests has its ReLU outside of any layer, so the maps are those before it."""
    net, x = tiny_net(5).eval(), normal(2, 3, 8, 8)
    assert not pools(net, x)
    with record_maps(net) as maps:
        net(x)
    assert torch.equal(maps.taken(), net.backbone.bn(net.backbone.conv(x)))
    assert torch.allclose(activation_maps(net, x).mean(dim=(2, 3)), net(x).logits, atol=1e-5)


def test_hooks_are_gone_and_only_the_latest_forward_counts():
    net, x = net_of(Pooled, True), images()
    with suppress(KeyError), record_maps(net) as maps:
        net(x)
        net(x[:1])
        assert maps.taken().shape == (1, 4, 4, 4)
        assert hooks_of(net) > 0
        raise KeyError("stop")
    assert hooks_of(net) == 0
    with record_maps(net) as maps, pytest.raises(ValueError, match="no maps"):
        maps.taken()


def test_where_gradients_are_off_maps_have_none_and_the_images_are_left_alone():
    net, x = net_of(Flat), images()
    with torch.no_grad():
        found = activation_maps(net, x)
    assert not found.requires_grad
    assert not x.requires_grad
    assert torch.equal(found, activation_maps(net, x).detach())
    assert F.relu(found).sum() > 0
