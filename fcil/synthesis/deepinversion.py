"""DeepInversion: pixels are optimised until the net sees its classes and the statistics that it remembers.

Paper: Yin et al., "Dreaming to Distill: Data-free Knowledge Transfer via DeepInversion", CVPR 2020,
arXiv:1912.08795. Code: github.com/zju-vipa/DataFree @ 9e79fa9, datafree/synthesis/deepinversion.py, whose
constants for CIFAR are the defaults here; the authors' own is github.com/NVlabs/DeepInversion.

An episode draws noise x ~ N(0, 1) and labels y, and takes the pixels `steps` steps of Adam down

    L  = w_ce CE(T(x'), y)                                  x' = x rolled by a few pixels, perhaps mirrored
       + w_bn sum_l ||V_l - v_l|| + ||M_l - m_l||           batch statistics of the teacher's inputs
       + w_tv TV(x) + w_l2 ||x||                            neighbouring pixels are alike, none is extreme
       - w_adv JS(T(x') / t, S(x') / t)                     Adaptive DeepInversion; t softens both
       + bound(g(x'), e_y)                                  where the caller asks for one

Images are normalised and kept inside the box of what an image can be. With the adversarial term a student S
learns from the pool between episodes, so that new images are those on which it still differs; without, there
is none, and this is plain DeepInversion.

Rolling takes the place of the data's own augmentation, which is for the student alone. The codes mean to keep
the iterate of the lowest loss; but they note the tensor that is being optimised, not a copy of it, and so
keep the last one. How often a synthesis is done is ours: as often as fills the pool.

Shapes: B batch.
"""

from __future__ import annotations

from dataclasses import dataclass, replace
from typing import Annotated, ClassVar, Literal, Self

import torch
import torch.nn.functional as F
from pydantic import Field
from torch import Tensor

from fcil.errors import ConfigError
from fcil.fidelity import Fidelity, settle
from fcil.losses import record_statistics, statistics_distance
from fcil.nets import Net
from fcil.rng import Key, generator
from fcil.synthesis.base import Inversion, Synthesizer
from fcil.synthesis.keeper import readable
from fcil.synthesis.pixels import (
    Gathered,
    Optimised,
    Shift,
    noise,
    nothing_yet,
    optimise,
    refuse_what_is_no_image,
    requested,
    shifts,
    stored,
)
from fcil.synthesis.student import cosine, lessons, student_of
from fcil.synthesis.terms import clamped_jensen_shannon, jensen_shannon, total_variation
from fcil.types import Count, Index, NonNegative, Positive, Tensors, Terms

SIDES: dict[str, tuple[object, object]] = {
    # field: (the paper's method, or ours where the paper is silent; the released code)
    "kept": ("best", "last"),
    "divergence": ("exact", "clamped"),
    "flip": (None, True),  # null stays: where the data itself is mirrored
    "rounding": ("round", "floor"),
}


@dataclass
class Chain(Gathered):
    """What there is so far, and the student that has learnt from it, where there is one."""

    student: Net | None = None
    teaching: torch.optim.SGD | None = None  # of S, for all episodes


@dataclass(frozen=True, kw_only=True)
class DeepInversion(Synthesizer):
    """Images optimised pixel by pixel, against a net's batch-norm statistics."""

    fidelity: Fidelity | None = None
    """Side taken where paper and code differ, in every field that is null; null: as the caller, or `paper`."""
    rounds: Count | None = None
    """Episodes, the batch of each entering the pool; null: as many as fill `samples` (200 epochs in the code)."""
    steps: Count = 1000
    """Steps per episode (`g_steps`; 2000 in the published tables and in the paper)."""
    batch_size: Count = 256
    """Images of an episode (`synthesis_batch_size`)."""
    lr: Positive = 0.1
    """Adam's rate for the pixels (`lr_g`; 0.05 in the paper)."""
    labels: Literal["random", "balanced"] = "random"
    """Every label by itself, or whole sweeps over the classes and a random rest."""
    jitter: Annotated[float, Field(ge=0, lt=1)] = 0.125
    """Share of a side by which the images are rolled at most, either way, anew in each step."""
    flip: bool | None = None
    """Mirror the images in half of the steps; null: where the data is mirrored (ours), or always (reference)."""
    kept: Literal["best", "last"] | None = None
    """Which iterate is kept: that of the lowest loss (as is meant), or the last (reference)."""
    bn: NonNegative = 10.0
    """Weight of batch-norm matching; without it the net needs no batch norm."""
    ce: NonNegative = 1.0
    """Weight of the cross-entropy to the wanted class (`oh`)."""
    tv: NonNegative = 1e-3
    """Weight of the total variation (2.5e-5 in the paper, of norms instead of means)."""
    l2: NonNegative = 0.0
    """Weight of the Euclidean norm of the whole batch."""
    adv: NonNegative = 1.0
    """Weight of the divergence from the student; 0 is plain DeepInversion, which has none."""
    adv_temperature: Positive = 3.0
    """Softens teacher and student in the divergence."""
    divergence: Literal["exact", "clamped"] | None = None
    """Jensen-Shannon (paper), or with its divergences the other way round and cut probabilities (reference)."""
    student_steps: Index = 400
    """Student steps per episode (`kd_steps`)."""
    student_lr: Positive = 0.1
    """SGD rate with which the student begins; a cosine over the episodes, momentum 0.9 kept all the way."""
    student_lr_end: NonNegative = 2e-4
    """SGD rate towards which the cosine goes."""
    student_batch: Count = 256
    """Samples per student step."""
    student_decay: NonNegative = 1e-4
    """Weight decay of the student."""
    temperature: Positive = 20.0
    """Softens teacher and student where the student learns (`T`); the loss carries T^2."""
    rounding: Literal["round", "floor"] | None = None
    """How [0, 1] becomes 8 bits: nearest (ours), or truncated as the reference's image files are."""

    needs: ClassVar[frozenset[str]] = frozenset({"batchnorm"})

    # Settings ---------------------------------------------------------------------------------

    @property
    def settled(self) -> Self:
        """The same settings with every null that `fidelity` decides filled in."""
        return settle(self, self.fidelity or "paper", SIDES)

    def with_fidelity(self, fidelity: Fidelity) -> Self:
        return self if self.fidelity else replace(self, fidelity=fidelity)

    def smoke(self) -> Self:
        batch, student_steps = min(self.batch_size, 32), min(self.student_steps, 1)
        return replace(self, rounds=3, steps=2, batch_size=batch, student_steps=student_steps)

    @property
    def episodes(self) -> int:
        rounds = self.rounds or -(-self.samples // self.batch_size)
        return -(-rounds // self.chains)

    @property
    def required(self) -> frozenset[str]:
        return self.needs if self.bn else frozenset()

    # Method -----------------------------------------------------------------------------------

    def checked(self, problem: Inversion) -> Inversion:
        super().checked(problem)
        refuse_what_is_no_image(self.name, problem)
        if self.adv and problem.student is problem.teacher:
            raise ConfigError(f"synthesizer {self.name}: the student is the teacher, so they never differ; set adv: 0")
        return problem

    def start(self, problem: Inversion, chain: int) -> Chain:
        begun = Chain(chain, *nothing_yet(problem))
        if self.adv:
            begun.student = student_of(problem, "fresh", *problem.key, chain)
        if begun.student is not None and problem.student is None:
            weights = begun.student.parameters()
            begun.teaching = torch.optim.SGD(
                weights, lr=self.student_lr, momentum=0.9, weight_decay=self.student_decay, fused=True
            )
        return begun

    def episode(self, problem: Inversion, chain: Chain, number: int) -> dict[str, float]:
        s, key = self.settled, (*problem.key, chain.number, number)
        rng = generator(*key, "labels and noise", device=problem.device)
        labels = requested(problem, self.batch_size, self.labels, rng)
        found = self.invert(problem, chain, labels, noise(problem, self.batch_size, rng), self.shifts(problem, key))
        chain.add(stored(problem, found.x, s.rounding or "round"), labels, self.share(chain.number))
        means = {name: term.mean() for name, term in found.terms.items()}
        if self.student_steps and chain.teaching is not None:
            means |= self.teach(problem, chain, number, key)
        return readable(means, number)

    def shifts(self, problem: Inversion, key: tuple[Key, ...]) -> list[Shift]:
        """What is done to the images before the nets see them, for every step."""
        s = self.settled
        mirror = problem.augment.flip if s.flip is None else s.flip
        return shifts(self.steps, problem.shape, self.jitter, mirror, generator(*key, "shifts"))

    def invert(self, problem: Inversion, chain: Chain, labels: Tensor, start: Tensor, views: list[Shift]) -> Optimised:
        """From noise (B, channels, H, W) to images of these labels."""

        def terms(x: Tensor, step: int) -> Terms:
            return self.terms(problem, chain, x, labels, views[step])

        kept = self.settled.kept or "best"
        return optimise(problem, start, terms, steps=self.steps, lr=self.lr, kept=kept)

    def terms(self, problem: Inversion, chain: Chain, x: Tensor, labels: Tensor, view: Shift) -> Terms:
        """The weighted terms of L for a batch of normalised images (B, channels, H, W)."""
        seen = view(x)
        with record_statistics(problem.teacher) as statistics:
            teacher = problem.teacher(seen)
        terms = {"ce": self.ce * F.cross_entropy(teacher.logits, labels)}
        if self.bn:
            terms["bn"] = self.bn * statistics_distance(problem.teacher, statistics)
        if self.tv:
            terms["tv"] = self.tv * total_variation(x)
        if self.l2:
            terms["l2"] = self.l2 * torch.linalg.vector_norm(x)
        if self.adv and chain.student is not None:
            apart = clamped_jensen_shannon if self.settled.divergence == "clamped" else jensen_shannon
            terms["adv"] = -self.adv * apart(chain.student(seen).logits, teacher.logits, self.adv_temperature)
        if problem.bound is not None and problem.anchors is not None and teacher.embedding is not None:
            terms["bound"] = problem.bound(teacher.embedding, problem.anchors[labels])
        return terms

    def teach(self, problem: Inversion, chain: Chain, number: int, key: tuple[Key, ...]) -> dict[str, Tensor]:
        """The student's steps on the pool so far; its loss terms are reported as `student_...`."""
        assert chain.student is not None
        assert chain.teaching is not None
        return lessons(
            chain.student,
            problem,
            chain.pool,
            rate=cosine(self.student_lr, self.student_lr_end, (number - 1) / self.episodes),
            temperature=self.temperature,
            steps=self.student_steps,
            batch_size=self.student_batch,
            optimizer=chain.teaching,
            key=key,
        )

    def pool(self, problem: Inversion, chain: Chain) -> Tensors:
        return chain.pool
