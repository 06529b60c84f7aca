"""DeepInversion: pixels are optimised until the net sees its classes and its running statistics.

Paper: Yin et al., "Dreaming to Distill: Data-free Knowledge Transfer via DeepInversion", CVPR 2020,
arXiv:1912.08795. Code: github.com/zju-vipa/DataFree @ 9e79fa9, datafree/synthesis/deepinversion.py, whose
constants for CIFAR are the defaults here; the authors' own is github.com/NVlabs/DeepInversion.

An episode draws noise x ~ N(0, 1) and labels y, and takes the pixels `steps` steps of Adam down

    L  = w_ce CE(T(x'), y)                                  x' = x rolled by a few pixels, perhaps mirrored
       + w_bn sum_l ||V_l - v_l|| + ||M_l - m_l||           batch statistics of the teacher's inputs
       + w_tv TV(x) + w_l2 ||x||                            neighbouring pixels are alike, none is extreme
       - w_adv JS(T(x') / t, S(x') / t)                     Adaptive DeepInversion; t softens both
       + bound(g(x'), e_y)                                  where the caller asks for one

Images are normalised and kept within the range of images. With the adversarial term a student S
learns from the pool between episodes, so that new images are those on which it still differs; without it there
is no student, and this is plain DeepInversion.

Rolling replaces the data's own augmentation, which is for the student alone. The codes mean to keep
the iterate of the lowest loss; but they store the tensor that is being optimised, not a copy of it, and so
keep the last one. The number of syntheses is ours: as many as fill the pool.

Shapes: B batch.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal

import torch
import torch.nn.functional as F
from torch import Tensor

from fcil.losses import record_statistics, statistics_distance
from fcil.nets import Net
from fcil.rng import generator
from fcil.synthesis.common.base import SynthesisProblem
from fcil.synthesis.common.inner_loop import readable, sample_labels
from fcil.synthesis.common.losses import clamped_jensen_shannon, jensen_shannon
from fcil.synthesis.families.pixel_loop import (
    LatestSamples,
    Optimised,
    PixelLoop,
    Shift,
    empty_batch,
    noise,
    optimise,
    stored,
)
from fcil.synthesis.families.with_student import PoolStudentLoop
from fcil.types import Count, Positive, Terms, Weight

SIDES: dict[str, tuple[object, object]] = {
    # field: (the paper's method, or ours where the paper is silent; the released code)
    "kept": ("best", "last"),
    "divergence": ("exact", "clamped"),
    "flip": (None, True),  # null stays: where the data itself is mirrored
    "rounding": ("round", "floor"),
}


@dataclass
class DeepInversionReplica(LatestSamples):
    """The samples so far, and the student that has learnt from them, where there is one."""

    student: Net | None = None
    teaching: torch.optim.SGD | None = None  # of S, for all episodes


@dataclass(frozen=True, kw_only=True)
class DeepInversion(PixelLoop, PoolStudentLoop):
    """Images optimised pixel by pixel, against a net's batch-norm statistics."""

    rounds: Count | None = None
    """Episodes, the batch of each entering the pool; null: as many as fill `samples` (200 epochs in the code)."""
    steps: Count = 1000
    """Steps per episode (`g_steps`; 2000 in the published tables and in the paper)."""
    lr: Positive = 0.1
    """Adam's rate for the pixels (`lr_g`; 0.05 in the paper)."""
    flip: bool | None = None
    """Mirror the images in half of the steps; null: where the data is mirrored (ours), or always (reference)."""
    kept: Literal["best", "last"] | None = None
    """Iterate that is kept: that of the lowest loss (as intended), or the last (reference)."""
    bn: Weight = 10.0
    """Weight of batch-norm matching; without it the net needs no batch norm."""
    ce: Weight = 1.0
    """Weight of the cross-entropy to the target class (`oh`)."""
    tv: Weight = 1e-3
    """Weight of the total variation (2.5e-5 in the paper, of norms instead of means)."""
    adv: Weight = 1.0
    """Weight of the divergence from the student; 0 is plain DeepInversion, which has none."""
    adv_temperature: Positive = 3.0
    """Softens teacher and student in the divergence."""
    divergence: Literal["exact", "clamped"] | None = None
    """Jensen-Shannon (paper), or with its divergences the other way round and cut probabilities (reference)."""

    differences = SIDES

    @property
    def required(self) -> frozenset[str]:
        return self.needs if self.bn else frozenset()

    # Method -----------------------------------------------------------------------------------

    def start(self, problem: SynthesisProblem, chain: int) -> DeepInversionReplica:
        return DeepInversionReplica(chain, *empty_batch(problem), *self.own_student(problem, chain))

    def episode(self, problem: SynthesisProblem, chain: DeepInversionReplica, number: int) -> dict[str, float]:
        s, key = self.settled, (*problem.key, chain.number, number)
        rng = generator(*key, "labels and noise")
        labels = sample_labels(problem, self.batch_size, self.labels, rng)
        found = self.invert(problem, chain, labels, noise(problem, self.batch_size, rng), s.shifts(problem, key))
        chain.add(stored(problem, found.x, s.rounding or "round"), labels, self.share(chain.number))
        means = {name: term.mean() for name, term in found.terms.items()}
        if self.student_steps and chain.teaching is not None:
            means |= self.teach(problem, chain, key, (number - 1) / self.episodes)
        return readable(means, number)

    def invert(
        self, problem: SynthesisProblem, chain: DeepInversionReplica, labels: Tensor, start: Tensor, views: list[Shift]
    ) -> Optimised:
        """Optimise noise (B, channels, H, W) into images of these labels."""

        def terms(x: Tensor, step: int) -> Terms:
            return self.terms(problem, chain, x, labels, views[step])

        kept = self.settled.kept or "best"
        return optimise(problem, start, terms, steps=self.steps, lr=self.lr, kept=kept)

    def terms(
        self, problem: SynthesisProblem, chain: DeepInversionReplica, x: Tensor, labels: Tensor, view: Shift
    ) -> Terms:
        """Return the weighted terms of L for a batch of normalised images (B, channels, H, W)."""
        seen = view(x)
        with record_statistics(problem.teacher) as statistics:
            teacher = problem.teacher(seen)
        terms = {"ce": self.ce * F.cross_entropy(teacher.logits, labels)}
        if self.bn:
            terms["bn"] = self.bn * statistics_distance(problem.teacher, statistics)
        terms |= self.likely(x)
        if self.adv and chain.student is not None:
            apart = clamped_jensen_shannon if self.settled.divergence == "clamped" else jensen_shannon
            terms["adv"] = -self.adv * apart(chain.student(seen).logits, teacher.logits, self.adv_temperature)
        return terms | problem.bounded(teacher.embedding, labels)
