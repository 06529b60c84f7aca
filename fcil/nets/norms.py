"""Normalisation layers of the backbones, and their requirements of a training batch.

Shapes: B batch, C channels, u x v a map.
"""

from __future__ import annotations

import copy
from collections.abc import Iterable
from contextlib import ExitStack
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn.modules.batchnorm import _BatchNorm


class BatchNorm2d(nn.BatchNorm2d):
    """BatchNorm that accepts a training batch of one value a channel, (1, C, 1, 1), at which torch's raises an error.

    One value has no variance. It is normalised by the running statistics, as in evaluation mode, and leaves them
    unchanged. Every other batch is torch's to the bit, without its checks in Python: on small maps they are a tenth of
    a forward.
    """

    def forward(self, x: Tensor) -> Tensor:
        weights, held = self._parameters, self._buffers  # attributes of a module are slow to look up
        mean, variance, training = held["running_mean"], held["running_var"], self.training
        if training and x.numel() == self.num_features:
            training = False
        elif self.momentum is None or mean is None or x.dim() != 4:
            return super().forward(x)
        elif training:
            held["num_batches_tracked"].add_(1)  # type: ignore[union-attr]
        momentum, cudnn = self.momentum or 0.0, x.is_cuda and torch.backends.cudnn.enabled
        return torch.batch_norm(
            x, weights["weight"], weights["bias"], mean, variance, training, momentum, self.eps, cudnn
        )


def group_norm(channels: int) -> nn.Module:
    """Return GroupNorm over groups of 16 channels or slightly more (Wu and He, ECCV 2018, table 3); below 32, one."""
    return nn.GroupNorm(groups_of(channels), channels)


def groups_of(channels: int) -> int:
    """Return the number of groups of GroupNorm for so many channels."""
    return next(g for g in range(max(1, channels // 16), 0, -1) if channels % g == 0)


@torch.no_grad()
def population_statistics(net: nn.Module, batches: Iterable[Tensor]) -> dict[str, Tensor]:
    """Return the running statistics that BatchNorm layers have after a pass over images, each batch counted alike.

    Mean over the batches of their means and of their unbiased variances, as layers without momentum keep them. The
    net is left as it is; the names are those of its state.

    Args:
        batches: (B, c, H, W) each, at least one.
    """
    fresh = copy.deepcopy(net).train()
    layers = {name: layer for name, layer in fresh.named_modules() if isinstance(layer, _BatchNorm)}
    for layer in layers.values():
        layer.reset_running_stats()
        layer.momentum = None
    for x in batches:
        fresh(x)
    buffers = ("running_mean", "running_var")
    return {f"{name}.{buffer}": getattr(layer, buffer) for name, layer in layers.items() for buffer in buffers}


@torch.no_grad()
def has_variance(net: nn.Module, x: Tensor) -> bool:
    """Return whether each BatchNorm layer of a net sees more than one value a channel in a forward of `x`.

    True for a net without such layers. The net runs in evaluation mode, so nothing in it changes.
    """
    fewest = [2]

    def count(layer: nn.Module, inputs: tuple[Any, ...]) -> None:
        fewest.append(inputs[0].numel() // inputs[0].shape[1])

    training = net.training
    with ExitStack() as hooks:
        for layer in (layer for layer in net.modules() if isinstance(layer, _BatchNorm)):
            hooks.callback(layer.register_forward_pre_hook(count).remove)
        net.eval()(x)
    net.train(training)
    return min(fewest) > 1
