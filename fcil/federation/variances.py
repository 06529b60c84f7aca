"""Batch-norm variances that noise, or a step in the wrong direction, has taken below zero."""

from __future__ import annotations

from fcil.types import Tensors


def settled(weights: Tensors) -> Tensors:
    """The same weights with no variance below zero, whose square root would be NaN in every answer of the net."""
    return {name: t.clamp(min=0) if name.endswith("running_var") else t for name, t in weights.items()}
