"""The base class of the backbones, and the choices of layer that they share.

Shapes: B batch, c channels, F feature width; an image is (c, H, W), a series (c, L) of L steps.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import ClassVar, Literal, Protocol

import torch
from torch import Tensor, nn

from fcil.nets.norms import BatchNorm2d, group_norm
from fcil.types import Tensors

Stem = Literal["auto", "cifar", "imagenet"]
Norm = Literal["batch", "group", "none"]
Shape = tuple[int, ...]
"""Channels, height and width of an image, or channels and steps of a series."""
Inputs = Literal["images", "series"]
"""Kind of samples that a net reads."""
EXAMPLES: dict[Inputs, Shape] = {"images": (3, 32, 32), "series": (1, 128)}
"""Shape of a sample for which the size of a net is told."""
MakeNorm = Callable[[int], nn.Module]
"""Factory of the normalisation layer for a number of channels."""


class Backbone(nn.Module):
    """Map from images (B, c, H, W), or series (B, c, L), to features (B, F)."""

    width: int
    """F, the number of features."""
    apart: ClassVar[bool] = False
    """Whether a sample has the same features to the bit in every batch of two or more, in evaluation mode."""
    used_once: ClassVar[bool] = False
    """Whether each parameter takes part in one operation of a forward: then the gradients of two forwards are two
    addends, whose order does not change the sum."""

    def __call__(self, x: Tensor) -> Tensor:
        return super().__call__(x)  # type: ignore[no-any-return]

    def shapes(self, weights: Tensors) -> dict[str, torch.Size]:
        """Return the tensors that weights must hold, with their shapes; those of a net that grows depend on them."""
        return {name: tensor.shape for name, tensor in self.state_dict().items()}

    def fit(self, weights: Tensors) -> None:
        """Take the shapes of weights that are about to be copied in; parameters that change shape are replaced."""

    def private(self) -> frozenset[str]:
        """Return the names of the tensors that hold pieces of training samples, and so stay with a client."""
        return frozenset()


class Recipe(Protocol):
    """Architecture of a backbone of the registry."""

    @property
    def description(self) -> str: ...

    @property
    def stems(self) -> bool:
        """Whether the net has first layers to choose from."""

    @property
    def inputs(self) -> Inputs:
        """Kind of samples that the net reads."""

    def build(self, shape: Shape, stem: Stem = "auto", width: int | None = None, norm: Norm = "batch") -> Backbone:
        """Return a net for samples of this shape; its weights come from torch's global stream.

        Args:
            width: channels (or units) of the first layer; None takes the architecture's own.
        """


@dataclass(frozen=True, kw_only=True)
class Architecture:
    """Architecture in a file of one's own, `net: {name: ./my_net.py}`: a `Recipe` whose fields are its settings.

    Its settings stand beside the others of `net`, so they have other names than those.
    """

    description: ClassVar[str] = "a net of one's own"
    stems: ClassVar[bool] = False
    """Whether `build` heeds `stem`; if not, no other than `auto` is allowed."""
    inputs: ClassVar[Inputs] = "images"
    """Kind of samples that the net reads."""

    def build(self, shape: Shape, stem: Stem = "auto", width: int | None = None, norm: Norm = "batch") -> Backbone:
        """Return a net for samples of this shape; its weights come from torch's global stream.

        Args:
            width: `net.width`, channels (or units) of the first layer; None takes the architecture's own.
            norm: `net.norm`; `norm_factory` makes the layers.
        """
        raise NotImplementedError


def num_parameters(recipe: Recipe, shape: Shape | None = None) -> int:
    """Return the trainable parameters at the default width for samples of this shape, without classifier.

    Args:
        shape: None: colour images of 32 pixels, or series of one channel.
    """
    with torch.device("meta"):
        return sum(p.numel() for p in recipe.build(shape or EXAMPLES[recipe.inputs]).parameters())


def inputs_of(shape: Shape) -> Inputs:
    """Return the kind of samples that have this shape."""
    return "series" if len(shape) == 2 else "images"


def norm_factory(norm: Norm) -> MakeNorm:
    """Return the factory of the normalisation layers of this name; `none` makes layers that do nothing."""
    factories: dict[Norm, MakeNorm] = {"batch": BatchNorm2d, "group": group_norm, "none": lambda _: nn.Identity()}
    return factories[norm]
