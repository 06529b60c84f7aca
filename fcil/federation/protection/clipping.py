"""Clip a client's step to an L2 norm, and add Gaussian noise to it.

With g the net that a client was sent and w what it made of it, clipping to the norm c gives

    g + (w - g) min(1, c / |w - g|)

where the L2 norm goes over every real tensor that was sent and came back. Batch counters, and what a strategy adds of
its own, are left as they are.
"""

from __future__ import annotations

from math import log, sqrt

import numpy as np
import torch

from fcil.errors import TrainingError
from fcil.rng import Key, derive
from fcil.types import Tensors


def clip(weights: Tensors, start: Tensors, norm: float) -> tuple[Tensors, bool]:
    """The weights after a step of at most `norm`, and whether the step was shortened.

    Raises:
        TrainingError: a tensor came back in another shape.
    """
    steps = {name: weights[name] - start[name] for name in _shared(weights, start)}
    factor = clip_factor(steps, norm)
    shortened = {name: start[name] + step * factor for name, step in steps.items()}
    return {**weights, **shortened}, factor < 1


def clip_factor(steps: Tensors, norm: float) -> float:
    """min(1, norm / |steps|), with the L2 norm over all tensors summed in double precision; 1 for no step at all."""
    length = sqrt(sum(float(step.double().square().sum()) for step in steps.values()))
    return min(1.0, norm / length) if length else 1.0


def add_noise(weights: Tensors, start: Tensors, std: float, key: tuple[Key, ...]) -> Tensors:
    """The weights with N(0, std^2) added to each number that is clipped.

    Args:
        key: names the stream of the noise.
    """
    number = derive(*key)
    # NumPy's oldest generator, whose numbers are fixed for good: what a run drew under earlier versions it draws again.
    stream = np.random.RandomState([number & 0xFFFFFFFF, number >> 32])
    noisy = dict(weights)
    for name in _shared(weights, start):
        noise = np.asarray(stream.normal(0, std, tuple(weights[name].shape)))
        noisy[name] = weights[name] + torch.from_numpy(noise).to(weights[name].dtype)
    return noisy


def gaussian_std(sensitivity: float, epsilon: float, delta: float) -> float:
    """Standard deviation of the Gaussian mechanism (Dwork and Roth 2014, theorem A.1)."""
    return sensitivity * sqrt(2 * log(1.25 / delta)) / epsilon


def _shared(weights: Tensors, start: Tensors) -> list[str]:
    """Names of the real tensors that were sent and came back."""
    names = [name for name, tensor in weights.items() if name in start and tensor.is_floating_point()]
    for name in names:
        if weights[name].shape != start[name].shape:
            shapes = f"{list(weights[name].shape)}; the net's has {list(start[name].shape)}"
            raise TrainingError(f'federation.mods: tensor "{name}" has the shape {shapes}')
    return names
