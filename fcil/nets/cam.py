"""Class-activation maps: the evidence of each position of an image for each class.

A net that pools its last maps A (K, u, v) and has a linear classifier has a map for every class
(Zhou et al., "Learning Deep Features for Discriminative Localization", CVPR 2016, arXiv:1512.04150):

    M_c(i, j) = sum_k w_ck A_k(i, j) + b_c

whose mean over the positions is the logit. Other nets get one of the same kind by Grad-CAM
(Selvaraju et al., ICCV 2017, arXiv:1610.02391): the weights w_ck are the sum over the positions of
dz_c / dA_k, a constant for each image, and b_c is the remainder of the logit. So the mean of every
map is the logit in every net, and for the nets above both forms agree.

Ours: the sum instead of the mean over positions, b_c, and no ReLU: the maps of all classes are compared.

Shapes: B batch, C classes, K maps of u x v positions.
"""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from fcil.nets.net import Net
from fcil.types import Output

EPSILON = 1e-6
POOLING = (nn.AdaptiveAvgPool2d, nn.AdaptiveMaxPool2d)


@dataclass
class Maps:
    """Maps recorded by `record_maps`."""

    last: Tensor | None = None  # (B, K, u, v), with gradients

    def taken(self) -> Tensor:
        """Return the last maps.

        Raises:
            ValueError: there are none: the net was not run while recording, or has no maps.
        """
        if self.last is None:
            raise ValueError("no maps: the net was not run while recording, or has none of B x K x u x v")
        return self.last


@contextmanager
def record_maps(net: Net) -> Iterator[Maps]:
    """Record the last maps before the pooling in the latest forward of `net` within the block.

        with record_maps(teacher) as maps:
            out = teacher(images)
        votes = class_maps(teacher, maps.taken(), out, exact=True)

    They are the backbone's last layer output of four dimensions; outside the block a
    forward costs no more than usual.
    """
    maps, small = Maps(), list[Tensor]()

    def clear(*_: Any) -> None:
        maps.last = None
        small.clear()

    def note(layer: nn.Module, _: Any, answer: Any) -> None:
        if not isinstance(answer, Tensor) or answer.ndim != 4:
            return
        if isinstance(layer, POOLING):
            small.append(answer)
        elif not any(answer is other for other in small):  # a container that ends with the pooling returns the same
            maps.last = answer

    with ExitStack() as hooks:
        hooks.callback(net.register_forward_pre_hook(clear).remove)
        for layer in net.backbone.modules():
            hooks.callback(layer.register_forward_hook(note).remove)
        yield maps


@torch.no_grad()
def pools(net: Net, x: Tensor) -> bool:
    """Return whether the features of a net are the means of its last maps, tried on images x (B, c, H, W)."""
    with record_maps(net) as maps:
        features = net(x).features
    if maps.last is None:
        return False
    means = maps.last.mean(dim=(2, 3)).to(features)
    return means.shape == features.shape and torch.allclose(means, features, rtol=1e-3, atol=1e-5)


def class_maps(net: Net, maps: Tensor, out: Output, *, exact: bool) -> Tensor:
    """Return the maps M (B, C, u, v) of every class.

    Args:
        maps: the net's last maps A (B, K, u, v); without `exact` they must be part of the graph of `out`.
        out: the net's output for them.
        exact: use the classifier's weights, as the net pools these maps; otherwise gradients.
    """
    own = out.logits.dtype
    if exact:
        head = net.classifier
        return F.conv2d(maps, head.weight.to(maps)[:, :, None, None], head.bias.to(maps)).to(own)
    slopes = [torch.autograd.grad(z.sum(), maps, retain_graph=True)[0] for z in out.logits.unbind(dim=1)]
    weights = torch.stack([slope.sum(dim=(2, 3)) for slope in slopes], dim=1)  # (B, C, K), constants
    votes = torch.einsum("bck,bkuv->bcuv", weights, maps).to(own)
    return votes + (out.logits - votes.mean(dim=(2, 3)))[:, :, None, None]


def activation_maps(net: Net, x: Tensor) -> Tensor:
    """Return the maps (B, C, u, v) of every class for normalised images (B, c, H, W); detached, if gradients are off.

    Raises:
        ValueError: the backbone has no maps.
    """
    exact = pools(net, x)
    wanted = torch.is_grad_enabled()
    with torch.enable_grad():
        x = x if x.requires_grad else x.detach().requires_grad_()  # Grad-CAM needs a graph, whatever the caller wants
        with record_maps(net) as maps:
            out = net(x)
        found = class_maps(net, maps.taken(), out, exact=exact)
    return found if wanted else found.detach()


# Losses ----------------------------------------------------------------------------------------


def cells(votes: Tensor, labels: Tensor, temperature: float) -> Tensor:
    """Return -mean_ij log softmax_c(M(i, j) / tau)_y of maps M (B, C, u, v): every position should be of the class."""
    return F.cross_entropy(votes / temperature, labels[:, None, None].expand(-1, *votes.shape[2:]))


def masked(net: Net, x: Tensor, votes: Tensor, labels: Tensor) -> Tensor:
    """Return CE(T(x up(norm M_y)), y): the image masked by the map of its class should still be of the class.

    norm scales every map to [0, 1], and a constant one to 1; masked pixels become the data's mean.
    """
    own = votes.detach()[torch.arange(len(labels), device=labels.device), labels][:, None]  # (B, 1, u, v)
    low, high = own.amin(dim=(2, 3), keepdim=True), own.amax(dim=(2, 3), keepdim=True)
    mask = F.interpolate((own - low + EPSILON) / (high - low + EPSILON), x.shape[2:], mode="bilinear")
    return F.cross_entropy(net(x * mask).logits, labels)
