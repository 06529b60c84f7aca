"""What inner loops of synthesizers share: the best batch so far, labels for a batch, terms that can be read."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence

import torch
from torch import Tensor

from fcil.errors import TrainingError


class Lowest:
    """Keeps what came with the lowest loss, whichever step that was.

    No number is read on the host: that would stop a GPU each step.
    """

    def __init__(self) -> None:
        self.kept: list[Tensor] = []
        self._loss: Tensor | None = None

    @torch.no_grad()
    def offer(self, loss: Tensor, *tensors: Tensor) -> None:
        """The tensors of a step; the first step's are kept whatever its loss."""
        if self._loss is None:
            self.kept, self._loss = [t.detach() for t in tensors], loss.detach()
            return
        better = loss < self._loss
        self.kept = [torch.where(better, new, old) for new, old in zip(tensors, self.kept, strict=True)]
        self._loss = torch.where(better, loss, self._loss)


def sweeps(labels: Sequence[int], count: int, rng: torch.Generator, device: torch.device) -> Tensor:
    """Labels (count,): whole sweeps over the classes, then a random rest."""
    classes = torch.tensor(labels, device=device)
    whole, rest = divmod(count, len(classes))
    tail = torch.randint(len(classes), (rest,), generator=rng, device=rng.device).to(device)
    return torch.cat([classes.repeat(whole), classes[tail]])


def readable(means: Mapping[str, Tensor], number: int) -> dict[str, float]:
    """The terms of an episode as numbers.

    Raises:
        TrainingError: a term is not finite; names it.
    """
    values = {name: float(value) for name, value in means.items()}
    for name, value in values.items():
        if not math.isfinite(value):
            raise TrainingError(f'synthesis term "{name}" became {value} in episode {number}; try a smaller lr')
    return values
