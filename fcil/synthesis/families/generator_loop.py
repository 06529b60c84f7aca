"""Persistent generators: noise becomes images, one generator learns step by step, and samples are drawn at the end.

The shared base of DAFL, ZSKT, DFQ, DFAD and RDSKD. Only the generator persists while it learns: a
student sees fresh samples in each of its steps, and so does the caller of `views`. Samples are drawn with the
generator in eval mode, where its batch norms use their running averages.

    z ~ N(0, 1),   x = (G(z) - mean) / std        mean, std of the real data

G is given no target class: the prediction of the teacher T is the label. Where only some classes are requested,
the terms of G are over those, and of the samples drawn at the end those are kept that T, over all its classes,
assigns to one of them.

Augmentation is not used, as in the code of these methods: a fresh sample is seen only once.

Shapes: B batch, C classes, n width of the noise, (c, H, W) an image.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass, field, replace
from typing import Annotated, ClassVar, Self

import torch
from pydantic import Field
from torch import Tensor, nn

from fcil.data import normalise
from fcil.errors import TrainingError
from fcil.nets import Net, PlainGenerator
from fcil.nets.backbone import Shape
from fcil.optimizer import Adam
from fcil.rng import generator, seeded, sent
from fcil.synthesis.common.base import SynthesisProblem, Synthesizer, Views
from fcil.synthesis.common.inner_loop import readable, target_classes
from fcil.synthesis.common.pool import to_bytes
from fcil.synthesis.common.preconditions import check_classes_can_be_made
from fcil.types import Count, Positive, Tensors, Terms

PATIENCE = 20
"""Most samples drawn, as a multiple of those requested, where only some classes are requested."""


@dataclass
class GeneratorReplica:
    """The state of one generator and, where the method has one, its student."""

    number: int
    generator: nn.Sequential  # noise (B, n) -> images (B, c, H, W)
    optimizer: torch.optim.Adam
    student: Net | None = None
    teaching: torch.optim.SGD | None = None  # None without a student, or where the caller trains it
    memory: Tensors = field(default_factory=dict)  # values that a method carries from step to step


@dataclass(frozen=True, kw_only=True)
class GeneratorLoop(Synthesizer):
    """A generator that is trained in place and sampled on request."""

    rounds: Count = 800
    """Episodes, after each of which training can be saved; the method itself has none."""
    steps: Count = 20
    """Steps of the generator in an episode, each with its student steps."""
    batch_size: Annotated[int, Field(ge=2)] = 256
    """Samples per step of the generator (`synthesis_batch_size`)."""
    lr: Positive = 1e-3
    """Adam's rate (`lr_g`)."""
    latent: Count = 256
    """Width of the noise (`nz`)."""
    width: Count = 64
    """Channels of the generator's last stage (`ngf`); the first maps have four times as many."""

    numbered: ClassVar[bool] = False
    betas: ClassVar[tuple[float, float]] = (0.5, 0.999)
    """Betas of Adam."""

    # A method implements these ------------------------------------------------------------------

    def terms(self, problem: SynthesisProblem, chain: GeneratorReplica, x: Tensor) -> Terms:
        """Return the weighted terms of the generator's loss for a batch of the nets' input (B, c, H, W)."""
        raise NotImplementedError

    def new_generator(self, shape: Shape) -> nn.Sequential:
        """Return an untrained generator; its weights come from torch's global stream."""
        return PlainGenerator(shape, self.latent, self.width, first=4)

    def inputs(self, problem: SynthesisProblem, chain: GeneratorReplica, z: Tensor) -> Tensor:
        """Map noise (B, n) to the nets' input (B, c, H, W), normalised; in the generator's current mode."""
        return normalise(chain.generator(z).to(problem.mean), problem.mean, problem.std)

    # The rest is shared -------------------------------------------------------------------------

    def smoke(self) -> Self:
        samples = max(self.chains, min(self.samples, 64))
        return replace(self, rounds=2, steps=2, batch_size=min(self.batch_size, 32), samples=samples)

    @property
    def episodes(self) -> int:
        return -(-self.rounds // self.chains)

    def checked(self, problem: SynthesisProblem) -> SynthesisProblem:
        super().checked(problem)
        check_classes_can_be_made(self.name, problem, lambda: self.new_generator(problem.shape))
        return problem

    def start(self, problem: SynthesisProblem, chain: int) -> GeneratorReplica:
        with seeded(*problem.key, chain, "generator"):
            made = self.new_generator(problem.shape).to(problem.device)
        return GeneratorReplica(chain, made, Adam(made.parameters(), self.lr, self.betas, fused=True))

    def episode(self, problem: SynthesisProblem, chain: GeneratorReplica, number: int) -> dict[str, float]:
        rng = generator(*problem.key, chain.number, number, "noise")
        sums: dict[str, Tensor] = {}  # stay on the device: reading a number would stop it each step
        for step in range(self.steps):
            for name, term in self.alternate(problem, chain, step, rng).items():
                sums[name] = sums.get(name, 0) + term
        return readable({name: total / self.steps for name, total in sums.items()}, number)

    def alternate(self, problem: SynthesisProblem, chain: GeneratorReplica, step: int, rng: torch.Generator) -> Terms:
        """Run step `step` (from 0) of an episode; return its terms, without gradients."""
        chain.generator.train()
        with problem.autocast():
            terms = self.terms(problem, chain, self.inputs(problem, chain, self.noise(problem, self.batch_size, rng)))
        loss = torch.stack(list(terms.values())).sum()
        chain.optimizer.zero_grad(set_to_none=True)
        loss.backward()  # type: ignore[no-untyped-call]
        chain.optimizer.step()
        return {name: term.detach() for name, term in (terms | {"total": loss}).items()}

    def noise(self, problem: SynthesisProblem, count: int, rng: torch.Generator) -> Tensor:
        """Return noise (count, n), drawn in single precision whatever the statistics have."""
        return sent(torch.randn(count, self.latent, generator=rng), problem.mean)

    @torch.no_grad()
    def fresh(self, problem: SynthesisProblem, chain: GeneratorReplica, count: int, rng: torch.Generator) -> Tensor:
        """Return new input for the nets (count, c, H, W), from the current generator."""
        chain.generator.eval()
        return self.inputs(problem, chain, self.noise(problem, count, rng))

    def views(
        self, problem: SynthesisProblem, chain: GeneratorReplica, count: int, rng: torch.Generator
    ) -> Iterator[Views]:
        """Yield fresh samples of the generator at each batch, unaugmented, with the teacher's predictions.

        A batch is smaller where few samples are of the requested classes.
        """
        while True:
            x, y = self.drawn(problem, chain, count, rng, rounded=False)
            yield Views(x, y, None)

    def pool(self, problem: SynthesisProblem, chain: GeneratorReplica) -> Tensors:
        """Return samples clamped to [0, 1] in 8 bits, `x`, and the teacher's predictions for them, `y`.

        They are fewer than the share where the generator hardly makes the requested classes: `PATIENCE`.
        """
        rng = generator(*problem.key, chain.number, "pool")
        x, y = self.drawn(problem, chain, self.share(chain.number), rng, rounded=True)
        return {"x": x, "y": y}

    @torch.no_grad()
    def drawn(
        self, problem: SynthesisProblem, chain: GeneratorReplica, count: int, rng: torch.Generator, *, rounded: bool
    ) -> tuple[Tensor, Tensor]:
        """Return at most `count` samples with the teacher's predictions (N,), all of requested classes.

        Raises:
            TrainingError: there is none.
        """
        wanted, some = target_classes(problem), len(problem.labels) < problem.num_classes
        mean, std = (t.view(-1, 1, 1) for t in (problem.mean, problem.std))
        samples: list[Tensor] = []
        answers: list[Tensor] = []
        missing, patience = count, PATIENCE * count
        while missing > 0 and patience > 0:
            size = self.batch_size if some else min(self.batch_size, missing)
            x = self.fresh(problem, chain, size, rng)
            seen = x if not rounded else to_bytes(x * std + mean, "round")
            answer = problem.teacher(x if not rounded else normalise(seen, problem.mean, problem.std)).logits.argmax(1)
            if some:
                kept = torch.isin(answer, wanted).nonzero().flatten()[:missing]
                seen, answer = seen[kept], answer[kept]
            samples.append(seen)
            answers.append(answer)
            missing, patience = missing - len(seen), patience - size
        if missing == count:
            raise TrainingError(
                f"synthesizer {self.name}: of {PATIENCE * count} samples the teacher sees none as one of the "
                f"{len(problem.labels)} classes asked for; raise rounds"
            )
        return torch.cat(samples), torch.cat(answers)
