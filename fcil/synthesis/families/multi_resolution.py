"""NAYER with images of several sizes: one generator makes them all, and the pool groups them by size.

The base of `muse`. A size is drawn for every inner loop. `fcil.synthesis.common.resolutions` has the parts.

Shapes: B batch, h x w an image of any size, H x W one of the data.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from typing import Annotated, Any, Literal, cast

import torch
from pydantic import Field
from torch import Tensor

from fcil.data import normalise
from fcil.errors import ConfigError
from fcil.nets import NoisyGenerator
from fcil.synthesis.common.base import SynthesisProblem, Views
from fcil.synthesis.common.resolutions import (
    Shown,
    SizedGenerator,
    bucketed,
    by_size,
    enlarged,
    native,
    resize,
    scaled,
    shrunk,
    usual_sizes,
)
from fcil.synthesis.families.noisy_layer import NoisyLayerReplica
from fcil.synthesis.nayer import NAYER, Optimised
from fcil.types import Count, Tensors


@dataclass(frozen=True, kw_only=True)
class MultiResolution(NAYER):
    """Noisy-layer generation of images of several sizes."""

    sizes: Annotated[tuple[Count, ...], Field(min_length=1)] | None = None
    """Sides of the images, one drawn for every inner loop; null: 96, 112, 128 for 224 pixels, 16, 24, 32 for 32."""
    view: Literal["native", "up"] = "native"
    """Size at which the teacher sees images in synthesis: as they are, or stretched to the data's own size."""
    student_view: Shown = "mixed"
    """View of a student: as they are, stretched, at a random place of a plain canvas, or any of these at random."""

    def sides(self, problem: SynthesisProblem) -> tuple[int, ...]:
        """Return the sizes of images."""
        return self.sizes or usual_sizes(max(problem.shape[1:]))

    def checked(self, problem: SynthesisProblem) -> SynthesisProblem:
        super().checked(problem)
        whole, sides = max(problem.shape[1:]), self.sides(problem)
        if max(sides) > whole:
            raise ConfigError(f"synthesizer {self.name}: sizes: {max(sides)} is above the {whole} pixels of the data")
        if self.view == "native":
            small = problem.mean.new_zeros(2, problem.shape[0], *scaled(problem.shape, min(sides)))
            try:
                with torch.no_grad():
                    problem.teacher(small)
            except RuntimeError as error:
                raise ConfigError(
                    f"synthesizer {self.name}: sizes: the teacher takes no images of {min(sides)} pixels "
                    f"({str(error).splitlines()[0]}); use view: up"
                ) from None
        return problem

    def optimise(
        self,
        problem: SynthesisProblem,
        chain: NoisyLayerReplica,
        labels: Tensor,
        *,
        adversarial: bool,
        rng: torch.Generator,
    ) -> Optimised:
        sides, which = self.sides(problem), 0
        if len(sides) > 1:
            which = int(torch.randint(len(sides), (1,), generator=rng))
        cast(SizedGenerator, chain.generator).aim(scaled(problem.shape, sides[which]))
        return super().optimise(problem, chain, labels, adversarial=adversarial, rng=rng)

    def seen(self, problem: SynthesisProblem, chain: NoisyLayerReplica, images: Tensor, rng: torch.Generator) -> Tensor:
        """Return the nets' input for raw images (B, channels, h, w) of one size, in synthesis."""
        mean, std = self.statistics(problem, chain)
        x = normalise(shrunk(problem.augment, images.shape[2:], problem.shape)(images, rng), mean, std)
        return resize(x, native(problem.shape)) if self.view == "up" else x

    def views(
        self,
        problem: SynthesisProblem,
        state: Any,
        count: int,
        rng: torch.Generator,
        chance: torch.Generator | None = None,
    ) -> Iterator[Views]:
        """Yield batches of one size each, in proportion to the images of that size; `chance` draws sizes."""
        yield from bucketed(self.buckets(problem, state), problem, count, rng, chance or rng, self.student_view)

    def pool(self, problem: SynthesisProblem, chain: NoisyLayerReplica) -> Tensors:
        """Return the images resized to the data's own size; `buckets` returns them in their original sizes."""
        size, about, rows = native(problem.shape), self.about(chain), self.rows(chain)
        pool = {name: t[rows] for name, t in about.items()}
        x = torch.empty(len(pool["y"]), problem.shape[0], *size, dtype=torch.uint8, device=problem.device)
        for bucket in self.buckets(problem, chain):
            x[bucket["id"]] = enlarged(bucket["x"], size)
        return {"x": x} | pool

    def buckets(self, problem: SynthesisProblem, chain: NoisyLayerReplica) -> list[Tensors]:
        """Return the pool by size: `x` in its original size, its other tensors, and `id`, its rows in the pool."""
        about, rows = self.about(chain), self.rows(chain)
        held = torch.arange(len(about["y"]), device=problem.device)[rows]  # of all that were kept, in the pool's order
        return by_size(chain.images, about, held)

    def _new_generator(self, problem: SynthesisProblem) -> NoisyGenerator:
        assert problem.anchors is not None
        return SizedGenerator(
            problem.anchors,
            problem.shape,
            self.sides(problem),
            self.batch_size,
            self.latent,
            self.width,
            self.rows_of(len(problem.labels)),
        )
