"""Architectures of nets of series, for the registry."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import ClassVar

from fcil.nets.backbone import Backbone, Inputs, Norm, Shape, Stem


@dataclass(frozen=True)
class SeriesRecipe:
    """Architecture of a net of series."""

    description: str
    width: int
    make: Callable[[int, int, Norm], Backbone]
    stems: ClassVar[bool] = False
    inputs: ClassVar[Inputs] = "series"

    def build(self, shape: Shape, stem: Stem = "auto", width: int | None = None, norm: Norm = "batch") -> Backbone:
        """Return a net for series of this shape (channels, steps); its weights come from torch's global stream."""
        return self.make(shape[0], width or self.width, norm)
