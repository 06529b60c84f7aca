"""Batch-norm variances that noise, or a step in the wrong direction, has taken to zero or below."""

from __future__ import annotations

from fcil.types import Tensors

LEAST = 0.1
"""Share of its old value that a variance keeps at least."""


def with_variance_floor(weights: Tensors, start: Tensors) -> Tensors:
    """The same weights with no variance far below that of `start`.

    The net divides by their square root: below zero every answer is NaN, and close to it a few layers
    make numbers that are not finite.
    """
    held = [name for name in weights if name.endswith("running_var") and name in start]
    return {**weights, **{name: weights[name].maximum(LEAST * start[name]) for name in held}}
