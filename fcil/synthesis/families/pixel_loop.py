"""Images optimised directly, without a generator: Adam on pixels, within the range of images.

The shared base of DeepInversion and The Knowledge Within. Images are normalised, as the net's input is, so the box is
[(0 - mean) / std, (1 - mean) / std] in every channel.

Shapes: B batch, N images so far, (c, H, W) an image.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Annotated, Any, ClassVar, Literal, NamedTuple

import torch
from pydantic import Field
from torch import Tensor, nn

from fcil.errors import ConfigError
from fcil.optimizer import Adam
from fcil.rng import Key, generator, sent
from fcil.synthesis.common.base import SynthesisProblem
from fcil.synthesis.common.inner_loop import Batchwise, BestBatch, LossHistory
from fcil.synthesis.common.losses import total_variation
from fcil.synthesis.common.pool import Rounding, to_bytes
from fcil.synthesis.common.preconditions import images_alone
from fcil.types import Positive, Tensors, Terms, Weight

Kept = Literal["best", "last"]
BETAS = (0.5, 0.99)


@dataclass
class LatestSamples:
    """The latest samples of a chain, no more than its share."""

    number: int
    x: Tensor  # uint8 (N, c, H, W)
    y: Tensor  # (N,)

    def add(self, x: Tensor, y: Tensor, most: int) -> None:
        self.x, self.y = torch.cat([self.x, x])[-most:], torch.cat([self.y, y])[-most:]

    @property
    def pool(self) -> Tensors:
        return {"x": self.x, "y": self.y}


def empty_batch(problem: SynthesisProblem) -> tuple[Tensor, Tensor]:
    """Return no images, and no labels."""
    x = torch.empty(0, *problem.shape, dtype=torch.uint8, device=problem.device)
    return x, torch.empty(0, dtype=torch.int64, device=problem.device)


class Shift(NamedTuple):
    """A view of a batch: rolled around its borders, all images alike, and perhaps mirrored."""

    rows: int
    columns: int
    mirrored: bool

    def __call__(self, x: Tensor) -> Tensor:
        rolled = torch.roll(x, (self.rows, self.columns), dims=(-2, -1))
        return rolled.flip(-1) if self.mirrored else rolled


def shifts(steps: int, shape: tuple[int, ...], share: float, mirror: bool, rng: torch.Generator) -> list[Shift]:
    """Return one view for every step: up to `share` of each side either way, half of them mirrored if `mirror`.

    Drawn at once: rolling needs the amounts as numbers of Python.
    """
    drawn = [torch.randint(-reach, reach + 1, (steps,), generator=rng) for reach in (int(n * share) for n in shape[1:])]
    mirrored = torch.rand(steps, generator=rng) < (0.5 if mirror else 0.0)
    return [Shift(*view) for view in zip(*(t.tolist() for t in (*drawn, mirrored)), strict=True)]


def noise(problem: SynthesisProblem, count: int, rng: torch.Generator) -> Tensor:
    """Return initial images: N(0, 1) in every pixel, (count, c, H, W)."""
    return sent(torch.randn(count, *problem.shape, generator=rng), problem.mean)


def stored(problem: SynthesisProblem, x: Tensor, rounding: Rounding = "round") -> Tensor:
    """Return normalised images as uint8."""
    mean, std = (t.view(-1, 1, 1) for t in (problem.mean, problem.std))
    return to_bytes(x * std + mean, rounding)


class Optimised(NamedTuple):
    """Result of an optimisation."""

    x: Tensor  # (B, c, H, W), normalised
    terms: Tensors  # each (steps,), measured before the step


def optimise(
    problem: SynthesisProblem,
    start: Tensor,
    terms: Callable[[Tensor, int], Terms],
    *,
    steps: int,
    lr: float,
    kept: Kept,
) -> Optimised:
    """Run `steps` Adam steps of a batch of images down the sum of the terms, clamped to the box after each.

    Args:
        start: (B, c, H, W), normalised; it is not changed.
        terms: the weighted terms of a batch, and the number of the step from 0.
        kept: `best`, the iterate of the lowest loss among those that were measured, or the result of the last step.
    """
    low, high = ((bound - problem.mean.view(-1, 1, 1)) / problem.std.view(-1, 1, 1) for bound in (0.0, 1.0))
    x = nn.Parameter(start.clone())
    adam = Adam([x], lr, betas=BETAS, fused=True)
    lowest, history = BestBatch(), LossHistory()
    for step in range(steps):
        with problem.autocast():
            found = terms(x, step)
        loss = torch.stack(list(found.values())).sum()
        (x.grad,) = torch.autograd.grad(loss, [x])  # of the images alone, whatever net took part
        if kept == "best":
            lowest.offer(loss, x.detach().clone())  # a copy: Adam changes x in place
        adam.step()
        with torch.no_grad():
            x.clamp_(low, high)
        history.add(found, loss)
    (best,) = lowest.kept if kept == "best" else [x.detach()]
    return Optimised(best, history.terms)


@dataclass(frozen=True, kw_only=True)
class PixelLoop(Batchwise):
    """A method whose images are optimised directly."""

    lr: Positive = 0.1
    """Adam's rate for the pixels."""
    labels: Literal["random", "balanced"] = "random"
    """Labels drawn independently, or whole sweeps over the classes and a random rest."""
    jitter: Annotated[float, Field(ge=0, lt=1)] = 0.125
    """Share of a side by which the images are rolled at most, either way, anew in each step."""
    flip: bool | None = None
    """Mirror the images in half of the steps; null: where the data is mirrored."""
    tv: Weight = 1e-3
    """Weight of the total variation."""
    l2: Weight = 0.0
    """Weight of the Euclidean norm of the whole batch."""

    needs: ClassVar[frozenset[str]] = frozenset({"batchnorm"})

    def checked(self, problem: SynthesisProblem) -> SynthesisProblem:
        super().checked(problem)
        images_alone(self.name, problem)
        rows, columns = problem.shape[1:]
        if min(rows, columns) < 2:
            raise ConfigError(
                f"synthesizer {self.name}: images of {rows} x {columns} pixels have no neighbours; 2 x 2 at least"
            )
        return problem

    def shifts(self, problem: SynthesisProblem, key: tuple[Key, ...]) -> list[Shift]:
        """Return the transformation of the images before the nets see them, for every step."""
        mirror = problem.augment.flip if self.flip is None else self.flip
        return shifts(self.steps, problem.shape, self.jitter, mirror, generator(*key, "shifts"))

    def likely(self, x: Tensor) -> Terms:
        """Return the weighted image priors of a batch (B, c, H, W): total variation and norm."""
        terms: Terms = {}
        if self.tv:
            terms["tv"] = self.tv * total_variation(x)
        if self.l2:
            terms["l2"] = self.l2 * torch.linalg.vector_norm(x)
        return terms

    def pool(self, problem: SynthesisProblem, chain: Any) -> Tensors:
        gathered: Tensors = chain.pool
        return gathered
