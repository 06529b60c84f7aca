"""Contrastive discrimination of images: a net's features of them, projected directions, and crops.

The parts of CMI (`fcil.synthesis.cmi`), as pure functions.

Shapes: B batch, D channels observed, d width of the directions, R rows, channels x H x W an image.
"""

from __future__ import annotations

from collections import OrderedDict
from collections.abc import Iterable
from contextlib import ExitStack
from functools import partial
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn
from torch.nn.modules.batchnorm import _BatchNorm

from fcil.nets import Net
from fcil.types import Output

WIDE = 4096
"""Most channels of all BatchNorm layers together for which all layers are used where `layers` is null."""
FEW = 4
"""Layers that are used otherwise; the released code takes the four stages of a ResNet-34."""


class Projector(nn.Sequential):
    """Teacher's features (R, D) -> directions (R, d) of length 1, by two layers."""

    def __init__(self, inputs: int, outputs: int) -> None:
        layers = OrderedDict[str, nn.Module](
            fc1=nn.Linear(inputs, inputs), act=nn.ReLU(), fc2=nn.Linear(inputs, outputs)
        )
        super().__init__(layers)

    def forward(self, x: Tensor) -> Tensor:
        return F.normalize(super().forward(x), dim=1)  # type: ignore[no-untyped-call]


# What the teacher sees -------------------------------------------------------------------------


def looked_at(net: nn.Module, count: int | None) -> dict[str, int]:
    """Return name and channels of the BatchNorm layers whose inputs are compared.

    Args:
        count: how many, evenly over their order in the net and with the last; None: all, or `FEW` where all have
            more than `WIDE` channels.

    Raises:
        ValueError: the net has fewer layers.
    """
    every = {name: layer.num_features for name, layer in net.named_modules() if isinstance(layer, _BatchNorm)}
    if count is None:
        count = FEW if sum(every.values()) > WIDE and len(every) > FEW else len(every)
    if count > len(every):
        raise ValueError(f"layers: {count} are to be looked at, and the net has {len(every)} batch-norm layers")
    names = list(every)
    return {name: every[name] for name in (names[k * len(names) // count - 1] for k in range(1, count + 1))}


def look(net: Net, layers: Iterable[str], x: Tensor) -> tuple[Output, Tensor]:
    """Return a net's output for x, and the means over positions of the inputs of these layers, side by side (B, D)."""
    seen: dict[str, Tensor] = {}
    with ExitStack() as hooks:
        for name in layers:
            hook = net.get_submodule(name).register_forward_pre_hook(partial(_note, seen, name))
            hooks.callback(hook.remove)
        said = net(x)
    return said, torch.cat([seen[name] for name in layers], dim=1)


def _note(seen: dict[str, Tensor], name: str, layer: nn.Module, inputs: tuple[Any, ...]) -> None:
    x: Tensor = inputs[0]  # (B, channels) or (B, channels, ...)
    x = x.to(torch.promote_types(x.dtype, torch.float32))  # bf16 would round off the differences between images
    seen[name] = x.flatten(2).mean(dim=2) if x.dim() > 2 else x


def contrastive(locals_: Tensor, globals_: Tensor, fresh: int, temperature: float) -> Tensor:
    """Return mean_{i < fresh} C_i + mean_{i >= fresh} C_i for directions (R, d) of parts and (constant) wholes.

    One mean over all rows would leave little gradient to the fresh ones, as the bank is much larger.
    """
    logits = locals_ @ globals_.detach().T / temperature  # (R, R)
    each = F.cross_entropy(logits, torch.arange(len(logits), device=logits.device), reduction="none")
    if len(each) == fresh:
        return each.mean()
    return each[:fresh].mean() + each[fresh:].mean()


# Parts of images -------------------------------------------------------------------------------


def enlarged(images: Tensor, starts: Tensor, lengths: Tensor, mirror: Tensor) -> Tensor:
    """Return crops of images (B, channels, H, W), enlarged to full size with linear interpolation along each side.

    Two matrix products: unlike torch's own sampling, their gradient is reproducible on a GPU.

    Args:
        starts: where each crop begins, (2, B), as fractions of height and width.
        lengths: its height and width, the same.
        mirror: which are mirrored left to right, (B,) bool.
    """
    down, across = (_weights(side, starts[k], lengths[k]) for k, side in enumerate(images.shape[2:]))
    across = torch.where(mirror[:, None, None], across.flip(1), across)
    return down[:, None] @ images @ across[:, None].transpose(2, 3)


def _weights(side: int, start: Tensor, length: Tensor) -> Tensor:
    """Return interpolation weights (B, side, side) from pixels of the whole to those of the crop; rows add up to 1."""
    places = torch.arange(side, device=start.device, dtype=start.dtype)
    taken = side * start[:, None] + (places + 0.5) * length[:, None] - 0.5  # (B, side)
    return F.relu(1 - (taken.clamp(0, side - 1)[:, :, None] - places).abs())
