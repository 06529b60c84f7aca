"""Pretrained weights of other libraries, under our names."""

from __future__ import annotations

import re

from fcil.errors import ConfigError
from fcil.types import Tensors

PORTED = ("resnet18", "resnet34")
"""Nets that torchvision has too, layer for layer, with the `imagenet` stem."""


def from_torchvision(weights: Tensors) -> Tensors:
    """Return the weights of a torchvision ResNet of basic blocks as those of our `Net`."""
    return {_renamed(name): tensor for name, tensor in weights.items()}


def _renamed(name: str) -> str:
    name = re.sub(r"^(conv|bn)1\.", r"backbone.stem.\1.", name)
    name = re.sub(r"^layer(\d)\.", lambda found: f"backbone.stages.{int(found[1]) - 1}.", name)
    name = name.replace("downsample.0.", "shortcut.conv.").replace("downsample.1.", "shortcut.bn.")
    return re.sub(r"^fc\.", "classifier.", name)


def torchvision_weights(net: str) -> Tensors:
    """Return torchvision's ImageNet weights, downloaded to torch's cache if they are not there.

    Raises:
        ConfigError: torchvision has no such net, or the weights cannot be had.
    """
    if net not in PORTED:
        raise ConfigError(f'torchvision has no "{net}" of ours (have: {", ".join(PORTED)})')
    from torchvision.models import get_model

    try:
        return from_torchvision(get_model(net, weights="DEFAULT").state_dict())
    except Exception as error:  # any error of the download
        raise ConfigError(f"torchvision's weights of {net} cannot be had ({type(error).__name__}: {error})") from None
