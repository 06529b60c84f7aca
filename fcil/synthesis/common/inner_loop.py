"""Parts of synthesizers' inner loops: labels for a batch, the best batch, batches so far, loss terms as numbers."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from functools import lru_cache
from typing import Literal

import torch
from torch import Tensor

from fcil.errors import TrainingError
from fcil.rng import sent
from fcil.synthesis.common.base import SynthesisProblem, Synthesizer
from fcil.synthesis.common.pool import string_sorted
from fcil.types import Count, Tensors, Terms

Cut = Literal["latest", "string-sorted"]
"""Samples that stay when there are too many."""

# Labels ----------------------------------------------------------------------------------------


def target_classes(problem: SynthesisProblem) -> Tensor:
    """Return the requested classes, on the device."""
    return _row(problem.labels, problem.device)


@lru_cache(maxsize=8)
def _row(labels: tuple[int, ...], device: torch.device) -> Tensor:
    """Return labels as a tensor, cached: a copy to a GPU at every step would make it wait."""
    with torch.inference_mode(False):  # a tensor made under inference mode could not be used in training later
        return torch.tensor(labels, device=device)


def sample_labels(
    problem: SynthesisProblem, count: int, how: Literal["random", "balanced"], rng: torch.Generator
) -> Tensor:
    """Return labels (count,): each drawn by itself, or whole sweeps over the classes and a random rest."""
    if how == "balanced":
        return balanced_labels(problem.labels, count, rng, problem.device)
    rows = torch.randint(len(problem.labels), (count,), generator=rng)
    return target_classes(problem)[sent(rows, problem.device)]


def balanced_labels(labels: Sequence[int], count: int, rng: torch.Generator, device: torch.device) -> Tensor:
    """Return labels (count,): whole sweeps over the classes, then a random rest."""
    classes = _row(tuple(labels), device)
    whole, rest = divmod(count, len(classes))
    tail = torch.randint(len(classes), (rest,), generator=rng)
    return torch.cat([classes.repeat(whole), classes[sent(tail, device)]])


# A loop ----------------------------------------------------------------------------------------


class BestBatch:
    """Tensors of the step with the lowest loss.

    No number is read on the host: that would make a GPU wait at each step.
    """

    def __init__(self) -> None:
        self.kept: list[Tensor] = []
        self._loss: Tensor | None = None

    @torch.no_grad()
    def offer(self, loss: Tensor, *tensors: Tensor) -> None:
        """Consider the tensors of a step; the first step's are kept whatever its loss."""
        if self._loss is None:
            self.kept, self._loss = [t.detach() for t in tensors], loss.detach()
            return
        better = loss < self._loss
        self.kept = [torch.where(better, new, old) for new, old in zip(tensors, self.kept, strict=True)]
        self._loss = torch.where(better, loss, self._loss)


class LossHistory:
    """The loss terms of all steps of a loop, kept on the device."""

    def __init__(self) -> None:
        self._steps: list[Terms] = []

    def add(self, terms: Terms, total: Tensor) -> None:
        """Add the terms of a step, and their sum."""
        self._steps.append({name: term.detach() for name, term in (terms | {"total": total}).items()})

    @property
    def terms(self) -> Tensors:
        """Return each term (steps,)."""
        return {name: torch.stack([step[name] for step in self._steps]) for name in self._steps[0]}


def readable(means: Mapping[str, Tensor], number: int) -> dict[str, float]:
    """Return the terms of an episode as numbers.

    Raises:
        TrainingError: a term is not finite; names it.
    """
    values = {name: float(value) for name, value in means.items()}
    for name, value in values.items():
        if not math.isfinite(value):
            raise TrainingError(f'synthesis term "{name}" became {value} in episode {number}; try a smaller lr')
    return values


# Batches so far --------------------------------------------------------------------------------


@dataclass(frozen=True, kw_only=True)
class Batchwise(Synthesizer):
    """A method in which each episode adds a batch to the pool."""

    rounds: Count | None = None
    """Episodes, each of which adds its batch to the pool; null: as many as fill `samples`."""
    steps: Count = 1000
    """Steps per episode (`g_steps`)."""
    batch_size: Count = 256
    """Samples of an episode (`synthesis_batch_size`)."""

    @property
    def episodes(self) -> int:
        rounds = self.rounds or -(-self.samples // self.batch_size)
        return -(-rounds // self.chains)


@dataclass
class Batches:
    """The batches that a chain has kept so far."""

    number: int  # of the chain
    images: list[Tensor] = field(default_factory=list, kw_only=True)  # uint8 (B, channels, H, W) each
    labels: list[Tensor] = field(default_factory=list, kw_only=True)  # (B,) each

    def keep(self, images: Tensor, labels: Tensor) -> None:
        """Store a batch of uint8 images, and their requested labels."""
        self.images.append(images)
        self.labels.append(labels)

    def rows(self, share: int, cut: Cut) -> Tensor | slice:
        """Return which of all images the chain contributes, where all batches are of one length."""
        if cut == "latest":
            return slice(-share, None)
        rows = string_sorted(len(self.images), len(self.labels[0]), share)
        return torch.tensor(rows, device=self.labels[0].device)


# Names up to 0.1, for the methods of users.
asked, requested, sweeps, Lowest, History = target_classes, sample_labels, balanced_labels, BestBatch, LossHistory
