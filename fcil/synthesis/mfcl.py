"""MFCL's synthesis: a generator that learns on the server and then travels to the clients.

Paper: Babakniya et al., "A Data-Free Approach to Mitigate Catastrophic Forgetting in Federated Class
Incremental Learning for Vision Tasks", NeurIPS 2023, arXiv:2311.07784. Code:
github.com/SaraBabakN/MFCL-NeurIPS23 @ 8ab937b, clients/helper.py and models/generator.py.

Noise becomes samples, normalised as the net's input is: x = G(n), n ~ N(0, 1). With T the frozen net,

    L  = ce CE(T(x) / temperature, argmax T(x))       a sample is surely of some class
       + balance [1 + sum_k q_k log q_k / log C]      a batch has as much of every class, q its mean prediction
       + bn 1/L sum_l KL(N(M_l, V_l) || N(m_l, v_l))  T sees statistics that it remembers
       + smooth |x - blur(x)|^2                       neighbouring pixels or steps are alike
       + bound(g(x), e_argmax)                        where the caller asks for one

The generator is given no target class; T's prediction is the label.

Beside usual samples the pool holds the generator's weights, as `generator.<name>`. So there is only one chain.

The paper's samples are images. Time series (ours) come from the same layers along one axis, with a mean and a
deviation for each channel that are learnt, as series have no scale of their own; the blur has one axis too, and the
pool holds floats.

Differs: a generator starts anew at every task; the released code continues with the last task's.

Shapes: B batch, C classes, n latent width, w base width, (c, H, W) an image, (c, L) a series.
"""

from __future__ import annotations

import math
from dataclasses import dataclass, replace
from typing import Annotated, ClassVar, Self

import torch
from pydantic import Field
from torch import Tensor

from fcil.data import normalise
from fcil.losses import record_statistics
from fcil.nets import ImageGenerator
from fcil.nets.backbone import Shape
from fcil.nets.series.generators import SeriesGenerator
from fcil.optimizer import Adam
from fcil.rng import generator, seeded
from fcil.synthesis.common.base import SynthesisProblem
from fcil.synthesis.common.fidelity import WithFidelity
from fcil.synthesis.common.inner_loop import readable, target_classes
from fcil.synthesis.common.losses import balance, batchnorm_divergence, confidence, gaussian, smoothness
from fcil.synthesis.common.pool import to_bytes
from fcil.synthesis.common.preconditions import check_classes_can_be_made, check_series_can_be_made
from fcil.types import Count, Positive, Tensors, Terms, Weight

__all__ = ["MFCL", "SIDES", "TRAVELS", "Generator", "ImageGenerator", "MFCLReplica", "travelling"]

Generator = ImageGenerator | SeriesGenerator
BLUR = 5
"""Pixels or steps of the blur."""

TRAVELS = "generator."
"""Prefix of the names of the generator's weights in a pool."""

SIDES: dict[str, tuple[object, object]] = {
    # field: (the paper's method, or ours where the paper is silent; the released code)
    "temperature": (1.0, 1000.0),
    "sigma": (1.0, math.sqrt(2)),
}


@dataclass
class MFCLReplica:
    """The state of the one generator."""

    generator: Generator
    optimizer: torch.optim.Adam


@dataclass(frozen=True, kw_only=True)
class MFCL(WithFidelity):
    """A generator from noise whose weights are the result."""

    rounds: Count = 100
    """Episodes, after each of which training can be saved; the method itself has none."""
    steps: Count = 50
    """Generator steps per episode: 5000 in all, the code's for SuperImageNet (`pi`; its default is 100)."""
    batch_size: Annotated[int, Field(ge=2)] = 128
    """Samples per generator step."""
    lr: Positive = 1e-3
    """Adam's rate (`generator_lr`)."""
    latent: Count = 1000
    """Width of the noise (`z_dim`)."""
    width: Count = 128
    """Channels of the generator's stages; the last has half of them."""
    doublings: Count | None = None
    """Doublings of an image's side; null: 2 below 64 pixels, 3 below 128, 5 from there on. Series have 3."""
    ce: Weight = 1.0
    """Weight of the cross-entropy with the net's own prediction."""
    temperature: Positive | None = None
    """Divisor of the logits in it: 1 (paper), or 1000, which nearly switches it off (reference)."""
    balance: Weight = 1.0
    """Weight of the class balance (`w_ie`)."""
    bn: Weight = 50.0
    """Weight of batch-norm matching (`w_bn`); a net without batch-norm needs 0."""
    smooth: Weight = 1e-3
    """Weight of the smoothness of samples (`w_noise`)."""
    sigma: Positive | None = None
    """Pixels or steps of the blur, 5 a side: 1 (paper), or the root of 2, by an exponent without its 2 (reference)."""

    needs: ClassVar[frozenset[str]] = frozenset({"batchnorm"})
    makes = frozenset({"images", "series"})
    differences = SIDES

    def __post_init__(self) -> None:
        super().__post_init__()
        if self.chains > 1:
            raise ValueError(f"chains: {self.chains} chains would make as many generators; one can be sent, so 1 it is")

    # Settings ---------------------------------------------------------------------------------

    def smoke(self) -> Self:
        return replace(self, rounds=2, steps=2, batch_size=min(self.batch_size, 32), samples=min(self.samples, 64))

    @property
    def episodes(self) -> int:
        return self.rounds

    @property
    def required(self) -> frozenset[str]:
        return self.needs if self.bn else frozenset()

    # Method -----------------------------------------------------------------------------------

    def checked(self, problem: SynthesisProblem) -> SynthesisProblem:
        super().checked(problem)
        can_be_made = check_series_can_be_made if len(problem.shape) == 2 else check_classes_can_be_made
        can_be_made(self.name, problem, lambda: self.new_generator(problem.shape))
        return problem

    def new_generator(self, shape: Shape) -> Generator:
        """Return an untrained generator for these settings; its weights come from torch's global stream.

        Raises:
            ValueError: series are shorter than the blur's mirrored border, or were to be doubled another time.
        """
        if len(shape) == 2:
            if self.doublings is not None:
                raise ValueError(f"doublings: {self.doublings} is for images; leave it out for series")
            if shape[1] <= BLUR // 2:
                raise ValueError(f"series of {shape[1]} steps are too short for a blur of {BLUR}; 3 at least")
            return SeriesGenerator(shape, self.latent, self.width)
        return ImageGenerator(shape, self.latent, self.width, self.doublings)

    def start(self, problem: SynthesisProblem, chain: int) -> MFCLReplica:
        with seeded(*problem.key, chain, "generator"):
            made = self.new_generator(problem.shape).to(problem.device)
        return MFCLReplica(made, Adam(made.parameters(), self.lr, fused=True))

    def episode(self, problem: SynthesisProblem, chain: MFCLReplica, number: int) -> dict[str, float]:
        chain.generator.train().stream = generator(*problem.key, number, "noise")
        sums: dict[str, Tensor] = {}  # stay on the device: reading a number would stop it each step
        for _ in range(self.steps):
            with problem.autocast():
                samples = chain.generator.sample(self.batch_size)
            terms = self.terms(problem, samples)
            loss = torch.stack(list(terms.values())).sum()
            chain.optimizer.zero_grad(set_to_none=True)
            loss.backward()  # type: ignore[no-untyped-call]
            chain.optimizer.step()
            for name, term in (terms | {"total": loss}).items():
                sums[name] = sums.get(name, 0) + term.detach()
        return readable({name: total / self.steps for name, total in sums.items()}, number)

    def terms(self, problem: SynthesisProblem, samples: Tensor) -> Terms:
        """Return the weighted terms of L for a batch of normalised samples (B, c, H, W) or (B, c, L)."""
        s, classes = self.settled, target_classes(problem)
        with problem.autocast(), record_statistics(problem.teacher) as statistics:
            out = problem.teacher(samples)
        logits = out.logits[:, classes]  # (B, C)
        blur = gaussian(s.sigma or 1.0, BLUR)
        terms = {
            "ce": self.ce * confidence(logits, s.temperature or 1.0),
            "balance": self.balance * balance(logits),
            "smooth": self.smooth * smoothness(samples.to(logits), blur if samples.ndim == 4 else blur.sum(dim=0)),
        }
        if self.bn:
            terms["bn"] = self.bn * batchnorm_divergence(problem.teacher, statistics)
        return terms | problem.bounded(out.embedding, classes[logits.argmax(dim=1)])

    @torch.no_grad()
    def pool(self, problem: SynthesisProblem, chain: MFCLReplica) -> Tensors:
        """Return samples `x`, the net's predictions for them as `y`, and the generator's weights.

        Images are clamped to [0, 1], as bytes; series are floats of the data's scale.
        """
        made, classes = chain.generator.eval(), target_classes(problem)
        made.stream = generator(*problem.key, "pool")
        mean, std = (t.view(-1, *[1] * (len(problem.shape) - 1)) for t in (problem.mean, problem.std))
        stored: list[Tensor] = []
        labels: list[Tensor] = []
        for begin in range(0, self.samples, self.batch_size):
            samples = made.sample(min(self.batch_size, self.samples - begin)) * std + mean
            stored.append(to_bytes(samples, "round") if samples.ndim == 4 else samples.float())
            seen = problem.teacher(normalise(stored[-1], problem.mean, problem.std)).logits
            labels.append(classes[seen[:, classes].argmax(dim=1)])
        weights = {f"{TRAVELS}{name}": t.clone() for name, t in made.state_dict().items()}
        return {"x": torch.cat(stored), "y": torch.cat(labels), **weights}


def travelling(pool: Tensors) -> Tensors:
    """Return the generator's weights in a pool, by the generator's own names."""
    return {name.removeprefix(TRAVELS): t for name, t in pool.items() if name.startswith(TRAVELS)}
