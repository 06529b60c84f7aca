"""The Knowledge Within: samples that agree with the batch-norm statistics of a net, or with less of it.

Paper: Haroush et al., "The Knowledge Within: Methods for Data-Free Model Compression", CVPR 2020,
arXiv:1912.01274. There is no public code.

Three schemes, of which the paper finds the last the best:

    gaussian    x ~ N(0, 1), and nothing is optimised
    inception   L = -w_logit mean_i T(x'_i)_{y_i} + w_tv TV(x) + w_l2 ||x||
    bns         L = w_bn KL(N(M, V) || N(m, v)) + w_ce CE(T(x'), y) + w_tv TV(x) + w_l2 ||x||

each with + bound(g(x'), e_y) where the caller asks for one and something is optimised. M, V are the mean and
variance that a batch-norm layer remembers, m, v those of the batch, and x' is x rolled by a few pixels.

Sources:

    the paper's own words   the three schemes; that they are to calibrate and fine-tune compressed nets; that the
                            third goes by batch-norm statistics, with or without classes (BNS+I and BNS); that the
                            same statistic measures how alike data are (`fcil.synthesis.common.losses.bns_score`)
        from reading notes      the formula of the divergence, in this direction; that inception maximises a logit;
                            that a student of Gaussian samples is to keep its batch-norm statistics as they are
        ours                    the mean of the divergence over layers and channels; cross-entropy as the class term
                                of bns; total variation, norm, rolling, box and Adam, with DeepInversion's
                                numbers; every weight and the number of steps; which iterate is kept

In `inception`, and in `bns` where ce is above 0, labels are the requested classes; a higher logit does not lower the
others, so the net may predict another class. Otherwise no class is requested, and the label is the net's prediction
for the image as it is stored. Gaussian samples are clamped to the range of images. Since statistics are those
of a whole batch, its labels are balanced.

Shapes: B batch.
"""

from __future__ import annotations

from dataclasses import dataclass, replace
from typing import Literal, Self

import torch
import torch.nn.functional as F
from torch import Tensor

from fcil.data import normalise
from fcil.losses import record_statistics
from fcil.rng import generator
from fcil.synthesis.common.base import SynthesisProblem
from fcil.synthesis.common.inner_loop import readable, sample_labels, target_classes
from fcil.synthesis.common.losses import batchnorm_divergence, confidence
from fcil.synthesis.families.pixel_loop import LatestSamples, PixelLoop, Shift, empty_batch, noise, optimise, stored
from fcil.types import Count, Positive, Terms, Weight


@dataclass(frozen=True, kw_only=True)
class KnowledgeWithin(PixelLoop):
    """Noise, images of a high class logit, or images with a net's batch-norm statistics."""

    scheme: Literal["gaussian", "inception", "bns"] = "bns"
    """Noise as it is, images of the highest logit, or images that match the net's running statistics."""
    steps: Count = 1000
    """Steps per episode; `gaussian` has none."""
    batch_size: Count = 256
    """Images of an episode, whose statistics are matched."""
    labels: Literal["random", "balanced"] = "balanced"
    kept: Literal["best", "last"] = "best"
    """Iterate that is kept: that of the lowest loss, or the last."""
    bn: Positive = 10.0
    """Weight of the divergence of batch-norm statistics, in `bns`."""
    ce: Weight = 1.0
    """Weight of the cross-entropy to the target class, in `bns`; 0: no target class, the net gives the labels."""
    logit: Positive = 1.0
    """Weight of the target class's logit, in `inception`."""

    # Settings ---------------------------------------------------------------------------------

    def smoke(self) -> Self:
        return replace(self, rounds=2, steps=2, batch_size=min(self.batch_size, 32))

    @property
    def required(self) -> frozenset[str]:
        return self.needs if self.scheme == "bns" else frozenset()

    @property
    def asks(self) -> bool:
        """Return whether images are made for a target class."""
        return self.scheme == "inception" or (self.scheme == "bns" and self.ce > 0)

    # Method -----------------------------------------------------------------------------------

    def start(self, problem: SynthesisProblem, chain: int) -> LatestSamples:
        return LatestSamples(chain, *empty_batch(problem))

    def episode(self, problem: SynthesisProblem, chain: LatestSamples, number: int) -> dict[str, float]:
        key = (*problem.key, chain.number, number)
        rng = generator(*key, "labels and noise")
        labels = sample_labels(problem, self.batch_size, self.labels, rng)
        x, found = noise(problem, self.batch_size, rng), Terms()
        if self.scheme != "gaussian":
            views = self.shifts(problem, key)

            def terms(x: Tensor, step: int) -> Terms:
                return self.terms(problem, x, labels, views[step])

            x, found = optimise(problem, x, terms, steps=self.steps, lr=self.lr, kept=self.kept)
        images = stored(problem, x)
        if not self.asks:
            labels, found["confidence"] = answers(problem, images)
        chain.add(images, labels, self.share(chain.number))
        return readable({name: term.mean() for name, term in found.items()}, number)

    def terms(self, problem: SynthesisProblem, x: Tensor, labels: Tensor, view: Shift) -> Terms:
        """Return the weighted terms of L for a batch of normalised images (B, channels, H, W)."""
        with record_statistics(problem.teacher) as statistics:
            out = problem.teacher(view(x))
        terms: Terms = {}
        if self.scheme == "inception":
            terms["logit"] = -self.logit * out.logits.gather(1, labels[:, None]).mean()
        else:
            terms["bn"] = self.bn * batchnorm_divergence(problem.teacher, statistics)
            if self.asks:
                terms["ce"] = self.ce * F.cross_entropy(out.logits, labels)
        towards = labels if self.asks else among(problem, out.logits)
        return terms | self.likely(x) | problem.bounded(out.embedding, towards)


def among(problem: SynthesisProblem, logits: Tensor) -> Tensor:
    """Return the net's predictions (B,), restricted to the requested classes, for logits (B, C)."""
    classes = target_classes(problem)
    return classes[logits[:, classes].argmax(dim=1)]


@torch.no_grad()
def answers(problem: SynthesisProblem, images: Tensor) -> tuple[Tensor, Tensor]:
    """Return the net's predictions for uint8 images, and the cross-entropy with them: 0 where it is certain."""
    logits = problem.teacher(normalise(images, problem.mean, problem.std)).logits
    return among(problem, logits), confidence(logits)
