"""NAYER: noise moves from the generator's input into a layer that is re-drawn for every batch.

Paper: Tran et al., "NAYER: Noisy Layer Data Generation for Efficient and Effective Data-free
Knowledge Distillation", CVPR 2024, arXiv:2310.00258. Code: github.com/tmtuan1307/nayer @ c6bedcd.
Also the server side of LANDER, CVPR 2024, arXiv:2403.14101, github.com/tmtuan1307/lander @ 44d7acc,
methods/lander.py, whose constants are the defaults here.

The generator reads the text embedding e_y of the wanted class. What varies is a linear noisy
layer between e_y and the convolutions, drawn from N(0, 1) at each episode and trained with the rest:

    x  = G(Z(e_y)),   x' = (augment(x) - mu) / sigma        mu, sigma learnt (LANDER)
    L  = w_bn sum_l ||V_l - v_l|| + ||M_l - m_l||           batch statistics of the teacher's inputs
       + w_ce CE(T(x'), y)
       - w_adv mean_i KL(T(x'_i) || S(x'_i)) [argmax T = argmax S]
       + bound(g(x'), e_y)                                  where the caller asks for one

Each episode keeps the batch of its lowest L. After the warm-up, kept batches enter the pool and
the student S learns from the pool.

The schedule is LANDER's: one optimizer per episode for the student, the adversarial term two
episodes after the warm-up, no batch kept before. NAYER on its own has a longer warm-up whose
batches are kept, and one student optimizer with a cosine; fields name its constants.

Shapes: B batch, C classes, D width of e_y.
"""

from __future__ import annotations

import math
from dataclasses import dataclass, field, replace
from typing import Annotated, ClassVar, Literal, NamedTuple, Self

import torch
import torch.nn.functional as F
from pydantic import Field
from torch import Tensor, nn

from fcil.data import normalise
from fcil.errors import ConfigError
from fcil.fidelity import Fidelity, settle
from fcil.losses import (
    Averages,
    Statistics,
    masked_adversarial,
    record_statistics,
    statistics_distance,
    update_averages,
)
from fcil.nets import Net, NoisyGenerator
from fcil.rng import Key, generator, seeded
from fcil.synthesis.base import Inversion, Synthesizer
from fcil.synthesis.keeper import Lowest, readable, sweeps
from fcil.synthesis.pool import string_sorted, to_bytes
from fcil.synthesis.student import distillation, student_of, train_student
from fcil.types import Count, Index, NonNegative, Positive, Tensors, Terms

Share = Annotated[float, Field(ge=0, lt=1)]

SIDES: dict[str, tuple[object, object]] = {
    # field: (the paper's method, or ours where the paper is silent; the released code)
    "stats": ("carry", "discard"),
    "sigma": ("positive", "free"),
    "student_start": ("fresh", "reference"),
    "student_mode": ("eval", "reference"),
    "first_kept": ("after-warmup", "last-warmup"),
    "cut": ("latest", "string-sorted"),
    "rounding": ("round", "floor"),
}


@dataclass
class Chain:
    """The state of one generator and its student."""

    number: int
    generator: NoisyGenerator
    student: Net
    mean: nn.Parameter  # (channels,)
    spread: nn.Parameter  # (channels,); sigma, or what softplus turns into sigma
    averages: Averages | None = None
    images: list[Tensor] = field(default_factory=list)  # uint8 (B, channels, H, W) each
    labels: list[Tensor] = field(default_factory=list)  # (B,) each
    statistics: list[Tensor] = field(default_factory=list)  # (2, channels) each: what the batch was made under


class Optimised(NamedTuple):
    """What one inner loop found."""

    kept: Tensor  # (B, channels, H, W) in [0, 1], of the step with the lowest loss
    statistics: Tensor  # (2, channels), the mean and deviation of that step
    terms: dict[str, Tensor]  # each (steps,), measured before the step


@dataclass(frozen=True, kw_only=True)
class NAYER(Synthesizer):
    """Noisy-layer generation from label-text embeddings."""

    fidelity: Fidelity | None = None
    """Side taken where paper and code differ, in every field below that is null; null: as the caller, or `paper`."""
    rounds: Count = 40
    """Episodes whose batch enters the pool (`syn_round`)."""
    warmup: Index = 10
    """Episodes before the first batch is kept (`warmup`)."""
    steps: Count = 40
    """Generator steps per inner loop (`g_steps`)."""
    batch_size: Count = 256
    """Samples per generator step (`synthesis_batch_size`)."""
    loops: Count = 1
    """Inner loops per episode, each with a re-drawn noisy layer (`g_loops`; 2 in NAYER alone)."""
    life: Count | None = None
    """Rebuild the whole generator every so many episodes (`g_life`; 10 in NAYER alone, never in LANDER)."""
    lr: Positive = 2e-3
    """Adam's rate for the generator (`lr_g`)."""
    stats_lr: Positive = 1e-2
    """Adam's rate for the learnt mean and deviation."""
    latent: Count = 256
    """Outputs of a noisy layer (`nz`; 1000 in NAYER alone)."""
    width: Count = 64
    """Channels of the generator's last stage (`ngf`)."""
    rows_per_layer: Count | None = 10
    """Rows of a batch that share a noisy layer (`nl`); null: as many as classes, the K-to-1 form of NAYER."""
    bn: NonNegative = 1.0
    """Weight of batch-norm matching (10 in NAYER alone)."""
    bn_momentum: Share = 0.9
    """Share of the past in the matched statistics, the same on both sides; 0 matches every batch by itself."""
    ce: NonNegative = 0.5
    """Weight of the cross-entropy to the wanted class (`oh`)."""
    adv: NonNegative = 1.0
    """Weight of the disagreement with the student (1.33 in NAYER alone)."""
    learn_stats: bool = True
    """Learn the mean and deviation that normalise samples (LANDER), instead of being told the real ones."""
    stats: Literal["carry", "discard"] | None = None
    """Whether samples keep the learnt statistics (paper) or are normalised by the real ones later (reference)."""
    sigma: Literal["positive", "free"] | None = None
    """Learnt deviation kept positive by softplus (ours), or unconstrained (reference)."""
    student_start: Literal["fresh", "reference"] | None = None
    """Student drawn anew (ours; the paper is silent), or with the teacher's classifier and statistics (reference)."""
    student_mode: Literal["eval", "reference"] | None = None
    """Student in eval mode in every loop (ours), or in train mode from an episode's second loop on (reference)."""
    first_kept: Literal["after-warmup", "last-warmup"] | None = None
    """First episode whose batch is kept: after the warm-up (ours), or its last one (reference; 41 instead of 40)."""
    student_steps: Index = 50
    """Student steps per episode after the warm-up (`kd_steps`)."""
    student_lr: Positive = 0.1
    """SGD rate of the student."""
    student_batch: Count = 128
    """Samples per student step."""
    student_decay: NonNegative = 2e-4
    """Weight decay of the student."""
    temperature: Positive = 20.0
    """Softens teacher and student (`T`); the loss carries T^2."""
    student_text: NonNegative = 5.0
    """Weight of matching the label-text heads of teacher and student, where there are any."""
    cut: Literal["latest", "string-sorted"] | None = None
    """Which samples are kept when there are too many: the latest (ours), or by file name (reference)."""
    rounding: Literal["round", "floor"] | None = None
    """How [0, 1] becomes 8 bits: nearest (ours), or truncated as the reference's image files are."""

    needs: ClassVar[frozenset[str]] = frozenset({"anchors", "batchnorm"})

    # Settings ---------------------------------------------------------------------------------

    @property
    def settled(self) -> Self:
        """The same settings with every null that `fidelity` decides filled in."""
        return settle(self, self.fidelity or "paper", SIDES)

    def with_fidelity(self, fidelity: Fidelity) -> Self:
        return self if self.fidelity else replace(self, fidelity=fidelity)

    def smoke(self) -> Self:
        batch, student_steps = min(self.batch_size, 32), min(self.student_steps, 1)
        return replace(self, rounds=3, warmup=0, steps=2, batch_size=batch, student_steps=student_steps)

    @property
    def episodes(self) -> int:
        """Every chain warms up; the rounds that are kept are shared."""
        return self.warmup + -(-self.rounds // self.chains)

    # Method -----------------------------------------------------------------------------------

    def checked(self, problem: Inversion) -> Inversion:
        super().checked(problem)
        if len(problem.shape) != 3:
            raise ConfigError(f"synthesizer {self.name}: makes images; this data has samples of shape {problem.shape}")
        try:
            with torch.device("meta"):
                self._new_generator(problem)
        except (ValueError, RuntimeError, TypeError) as error:  # torch's words for a size that is no size
            raise ConfigError(f"synthesizer {self.name}: {error}") from None
        return problem

    def start(self, problem: Inversion, chain: int) -> Chain:
        s = self.settled
        channels, device = problem.shape[0], problem.device
        spread = 0.2 if s.sigma == "free" else math.log(math.expm1(0.2))  # softplus(spread) = 0.2
        return Chain(
            number=chain,
            generator=self._generator(problem, chain, life=0),
            student=student_of(problem, s.student_start or "fresh", *problem.key, chain),
            mean=nn.Parameter(torch.full((channels,), 0.5, device=device)),
            spread=nn.Parameter(torch.full((channels,), spread, device=device)),
        )

    def episode(self, problem: Inversion, chain: Chain, number: int) -> dict[str, float]:
        s, key = self.settled, (*problem.key, chain.number, number)
        rng = generator(*key, "labels and noise", device=problem.device)
        if self.life and number > 1 and (number - 1) % self.life == 0:
            chain.generator = self._generator(problem, chain.number, life=number)
        keep = number > self.warmup or (number == self.warmup and s.first_kept == "last-warmup")
        found: list[Optimised] = []
        for loop in range(self.loops):
            chain.student.train(loop > 0 and s.student_mode == "reference")
            labels = self.requested(problem, rng)
            chain.generator.redraw(rng)
            found.append(self.optimise(problem, chain, labels, adversarial=number > self.warmup + 2, rng=rng))
            if keep:
                chain.images.append(to_bytes(found[-1].kept, s.rounding or "round"))
                chain.labels.append(labels)
                chain.statistics.append(found[-1].statistics)
        means = {name: torch.cat([f.terms[name] for f in found]).mean() for name in found[0].terms}
        if keep and self.student_steps and problem.student is None:
            means |= self.teach(problem, chain, key)
        chain.student.eval()
        return readable(means, number)

    def requested(self, problem: Inversion, rng: torch.Generator) -> Tensor:
        """Labels of one batch (B,): whole sweeps over the classes, then a random rest."""
        return sweeps(problem.labels, self.batch_size, rng, problem.device)

    def optimise(
        self, problem: Inversion, chain: Chain, labels: Tensor, *, adversarial: bool, rng: torch.Generator
    ) -> Optimised:
        """One inner loop: `steps` Adam steps, with a fresh Adam, on one batch of labels."""
        groups = [{"params": list(chain.generator.parameters()), "lr": self.lr}]
        if self.learn_stats:
            groups.append({"params": [chain.mean, chain.spread], "lr": self.stats_lr})
        adam = torch.optim.Adam(groups, betas=(0.5, 0.999), fused=True)
        lowest, history = Lowest(), list[Terms]()
        statistics: Statistics = {}
        for _ in range(self.steps):
            now = torch.stack(self.statistics(problem, chain)).detach()
            with problem.autocast():
                images = chain.generator(labels)
                terms, statistics = self.terms(problem, chain, images, labels, adversarial=adversarial, rng=rng)
            loss = torch.stack(list(terms.values())).sum()
            adam.zero_grad(set_to_none=True)
            loss.backward()  # type: ignore[no-untyped-call]
            adam.step()
            lowest.offer(loss, images, now)
            history.append({name: term.detach() for name, term in terms.items()} | {"total": loss.detach()})
        chain.averages = update_averages(chain.averages, statistics, self.bn_momentum)
        kept, under = lowest.kept
        return Optimised(kept, under, {name: torch.stack([h[name] for h in history]) for name in history[0]})

    def terms(
        self,
        problem: Inversion,
        chain: Chain,
        images: Tensor,
        labels: Tensor,
        *,
        adversarial: bool,
        rng: torch.Generator,
    ) -> tuple[Terms, Statistics]:
        """The weighted terms of L for a batch of raw images (B, channels, H, W)."""
        mean, std = self.statistics(problem, chain)
        x = normalise(problem.augment(images, rng), mean, std)
        with record_statistics(problem.teacher) as statistics:
            teacher = problem.teacher(x)
        terms = {
            "bn": self.bn * statistics_distance(problem.teacher, statistics, chain.averages, self.bn_momentum),
            "ce": self.ce * F.cross_entropy(teacher.logits, labels),
        }
        if adversarial and self.adv:
            terms["adv"] = self.adv * masked_adversarial(chain.student(x).logits, teacher.logits)
        if problem.bound is not None and problem.anchors is not None and teacher.embedding is not None:
            terms["bound"] = problem.bound(teacher.embedding, problem.anchors[labels])
        return terms, statistics

    def statistics(self, problem: Inversion, chain: Chain) -> tuple[Tensor, Tensor]:
        """The mean and deviation (channels,) that the teacher's input is normalised by."""
        if not self.learn_stats:
            return problem.mean, problem.std
        return chain.mean, chain.spread if self.settled.sigma == "free" else F.softplus(chain.spread)

    def teach(self, problem: Inversion, chain: Chain, key: tuple[Key, ...]) -> dict[str, Tensor]:
        """The student's steps on the pool so far; its loss terms are reported as `student_...`."""
        optimizer = torch.optim.SGD(
            chain.student.parameters(), lr=self.student_lr, momentum=0.9, weight_decay=self.student_decay, fused=True
        )
        means = train_student(
            chain.student,
            problem,
            self.pool(problem, chain),
            lambda student, teacher: distillation(student, teacher, self.temperature, self.student_text),
            steps=self.student_steps,
            batch_size=self.student_batch,
            optimizer=optimizer,
            key=key,
        )
        return {f"student_{name}": value for name, value in means.items()}

    def pool(self, problem: Inversion, chain: Chain) -> Tensors:
        s, share = self.settled, self.share(chain.number)
        pool = {"x": torch.cat(chain.images), "y": torch.cat(chain.labels)}
        if self.learn_stats and s.stats == "carry":
            made_under = torch.stack(chain.statistics).repeat_interleave(self.batch_size, dim=0)  # (N, 2, channels)
            pool |= {"mean": made_under[:, 0], "std": made_under[:, 1]}
        if s.cut == "string-sorted":
            rows = torch.tensor(string_sorted(len(chain.images), self.batch_size, share), device=problem.device)
            return {name: t[rows] for name, t in pool.items()}
        return {name: t[-share:] for name, t in pool.items()}

    def _generator(self, problem: Inversion, chain: int, life: int) -> NoisyGenerator:
        with seeded(*problem.key, chain, "generator", life):
            return self._new_generator(problem).to(problem.device)

    def _new_generator(self, problem: Inversion) -> NoisyGenerator:
        assert problem.anchors is not None
        return NoisyGenerator(
            problem.anchors,
            problem.shape,
            self.batch_size,
            latent=self.latent,
            width=self.width,
            rows_per_layer=self.rows_per_layer or len(problem.labels),
        )
