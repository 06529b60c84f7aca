"""CRD: both nets' features of a sample are to be nearer than those of samples of other classes.

Paper: Tian et al., "Contrastive Representation Distillation", ICLR 2020, arXiv:1910.10699. Code:
github.com/HobbitLong/RepDistiller @ b84f547, crd/criterion.py and crd/memory.py.

Features f of both nets become directions g = W f + b, divided by their length. Memories M_s, M_t hold the latest
of every sample. Sample i, with K samples j of other classes, all among the n seen so far, gives

    u_j = exp(M_t[j] . g_s[i] / tau) / Z                   Z = n c, c the mean of exp in the first step, then fixed
    L   = ce CE(s, y) + kd T^2 KL(t || s; T)
        + contrast 1/B sum_i [ -log u_i / (u_i + K/n + eps) - sum_j log (K/n) / (u_j + K/n + eps) ]
        + the same with M_s and g_t in place of M_t and g_s
    M[i] <- M[i] / 2 + g[i] / 2, made a direction again    after the step's scores

Memories are indexed by the number of a sample in its pool, so fresh samples, which have none, are refused. A pool may
grow up to the size that `start` received; a number beyond it is an error, for two samples in one row would be each
other's positive. Rows that were never seen are not used as negatives, and n counts those that were. A row whose class
has changed holds another sample now, as where a pool drops its oldest: it is reset. Rows that a smaller pool leaves
behind stay as negatives.

Differs: negatives are always drawn with replacement, where the released code does so for a class that has fewer
than K of them; the loss has the same mean. And n counts what was seen, where it is the size of the data set
there; but for eps, n cancels.

Shapes: B batch, n rows of a memory, F feature width of either net, d width of the directions.
"""

from __future__ import annotations

import math
from collections.abc import Iterable
from dataclasses import dataclass
from typing import Annotated

import torch
import torch.nn.functional as F
from pydantic import Field
from torch import Tensor, nn

from fcil.distillers.common.base import Distiller
from fcil.errors import ConfigError
from fcil.losses import kl_divergence
from fcil.nets import Net
from fcil.rng import Key, generator, seeded, sent
from fcil.synthesis.common.base import SynthesisProblem, Views
from fcil.types import Count, Output, Positive, Terms, Weight

EPSILON = 1e-7
UNSEEN = -1
"""Class of a row that has not been written yet."""


@dataclass
class Memories:
    """Both nets' directions of every sample."""

    embed_student: nn.Linear  # F_s -> d
    embed_teacher: nn.Linear  # F_t -> d
    student: Tensor  # (n, d), M_s
    teacher: Tensor  # (n, d), M_t
    classes: Tensor  # (n,)
    means: Tensor  # (2,), c for g_s and g_t; 0 before the first step
    stream: torch.Generator  # of the negatives


@dataclass(frozen=True, kw_only=True)
class CRD(Distiller):
    """Contrast of features over memories of a pool."""

    ce: Weight = 1.0
    """Weight of the cross-entropy to the label (`gamma`): the requested one, or the teacher's prediction."""
    kd: Weight = 0.0
    """Weight of the softened KL beside it (`alpha`; 1 in CRD+KD)."""
    contrast: Weight = 0.8
    """Weight of the contrastive term (`beta`)."""
    negatives: Count = 16_384
    """Samples of other classes that each is contrasted with, drawn with replacement (`K`)."""
    width: Count = 128
    """Width of a direction (`feat_dim`)."""
    temperature: Positive = 0.07
    """Temperature that divides the cosine of two directions (`nce_t`)."""
    momentum: Annotated[float, Field(ge=0, lt=1)] = 0.5
    """Share of the past in a memory (`nce_m`)."""
    kd_temperature: Positive = 4.0
    """Temperature of both nets where `kd` is above 0 (`kd_T`)."""

    def __post_init__(self) -> None:
        if not self.ce + self.kd + self.contrast:
            raise ValueError("contrast: ce, kd and contrast are all 0; nothing is left to learn from")

    @property
    def needs_numbers(self) -> bool:
        return self.contrast > 0

    def start(self, problem: SynthesisProblem, student: Net, samples: int, key: tuple[Key, ...]) -> Memories:
        widths = (student.classifier.in_features, problem.teacher.classifier.in_features)
        with seeded(*key, "directions"):
            embeds = [nn.Linear(width, self.width).to(problem.device) for width in widths]
        rng, reach = generator(*key, "memories"), math.sqrt(3 / self.width)  # rows of about length 1
        rows = [reach * (2 * torch.rand(samples, self.width, generator=rng) - 1).to(problem.device) for _ in widths]
        return Memories(
            embed_student=embeds[0],
            embed_teacher=embeds[1],
            student=rows[0],
            teacher=rows[1],
            classes=torch.full((samples,), UNSEEN, device=problem.device),
            means=torch.zeros(2, device=problem.device),
            stream=generator(*key, "negatives"),
        )

    def parameters(self, state: Memories) -> Iterable[nn.Parameter]:
        return [*state.embed_student.parameters(), *state.embed_teacher.parameters()]

    def loss(self, state: Memories, student: Output, teacher: Output, views: Views) -> Terms:
        terms: Terms = {}
        if self.ce:
            terms["ce"] = self.ce * F.cross_entropy(student.logits, views.y)
        if self.kd:
            terms["kl"] = self.kd * kl_divergence(student.logits, teacher.logits, self.kd_temperature)
        if self.contrast:
            with torch.autocast(views.y.device.type, enabled=False):  # exp of 14 times a cosine needs full precision
                terms["contrast"] = self.contrast * self.contrasted(state, student.features, teacher.features, views)
        return terms

    def contrasted(self, state: Memories, student: Tensor, teacher: Tensor, views: Views) -> Tensor:
        """Return both directions of the contrast of features (B, F), and update the memories."""
        ids = self.numbers(state, views)
        known = state.classes[ids]
        another = (known != UNSEEN) & (known != views.y)  # (B,)
        state.classes = state.classes.index_copy(0, ids, views.y)
        drawn = self.drawn(state, views.y)
        g_s = F.normalize(state.embed_student(student), dim=1)
        g_t = F.normalize(state.embed_teacher(teacher), dim=1)
        size = (state.classes != UNSEEN).sum()
        losses, means = [], []
        for g, memory, mean in ((g_s, state.teacher, state.means[0]), (g_t, state.student, state.means[1])):
            loss, mean = contrast(g, memory, ids, drawn, mean, size, self.negatives, self.temperature)
            losses.append(loss)
            means.append(mean)
        state.means = torch.stack(means)
        state.student = self.remember(state.student, ids, g_s.detach(), another)
        state.teacher = self.remember(state.teacher, ids, g_t.detach(), another)
        return losses[0] + losses[1]

    def numbers(self, state: Memories, views: Views) -> Tensor:
        """Return the row of each view (B,).

        Raises:
            ConfigError: fresh samples.
            ValueError: a number beyond the memories; checked on the CPU only, on a GPU indexing fails.
        """
        if views.id is None:
            raise ConfigError(
                f"distiller {self.name}: needs samples of a pool, which have numbers; these are fresh ones"
            )
        if views.id.device.type == "cpu" and int(views.id.max()) >= len(state.classes):
            raise ValueError(f"sample {int(views.id.max())} of a pool, and memories of {len(state.classes)} samples")
        return views.id

    def drawn(self, state: Memories, y: Tensor) -> Tensor:
        """Return each row's count as a negative of each sample (B, n): K in all, none until another class is seen."""
        ordered, order = state.classes.sort(stable=True)  # rows of a class lie together, the unseen ones first
        unseen = (ordered == UNSEEN).sum()
        begin, end = torch.searchsorted(ordered, y), torch.searchsorted(ordered, y, right=True)
        own = (end - begin)[:, None]
        others = len(ordered) - unseen - own  # (B, 1)
        chance = sent(torch.rand(len(y), self.negatives, generator=state.stream), y.device)
        place = unseen + torch.minimum((chance * others).long(), (others - 1).clamp(min=0))
        place = place + own * (place >= begin[:, None])  # past the own class
        rows = order[place.clamp(max=len(ordered) - 1)]
        once = (others > 0).to(state.student).expand_as(chance)
        return state.student.new_zeros(len(y), len(ordered)).scatter_add(1, rows, once)

    def remember(self, memory: Tensor, ids: Tensor, new: Tensor, another: Tensor) -> Tensor:
        """Return the memory (n, d), its rows `ids` moved towards `new` (B, d), or set to it for `another` sample."""
        mixed = self.momentum * memory[ids] + (1 - self.momentum) * new
        return memory.index_copy(0, ids, F.normalize(torch.where(another[:, None], new, mixed), dim=1))


def contrast(
    anchors: Tensor,
    memory: Tensor,
    ids: Tensor,
    drawn: Tensor,
    mean: Tensor,
    size: Tensor,
    negatives: int,
    temperature: float,
) -> tuple[Tensor, Tensor]:
    """Return one direction of the contrast: the loss, and the mean of exp that it was divided by.

    Every score is computed and then weighted by how often it was drawn. That is the sum over draws, and
    reproducible on a GPU, where sums over repeated rows are not.

    Args:
        anchors: directions (B, d) of one net.
        memory: rows (n, d) of the other, constant.
        ids: the row of each anchor (B,).
        drawn: how often each row is a negative (B, n).
        mean: c; 0 asks for the mean over the positives and the negatives.
        size: n.
        negatives: K.
    """
    scores = (anchors @ memory.T / temperature).exp()  # (B, n)
    own = scores.gather(1, ids[:, None])  # (B, 1)
    first = (own.sum() + (drawn * scores).sum()) / (len(anchors) + drawn.sum())
    mean = torch.where(mean > 0, mean, first.detach())
    noise = negatives / size
    own, scores = own / (mean * size), scores / (mean * size)
    hit = (own / (own + noise + EPSILON)).log().sum()
    missed = (drawn * (noise / (scores + noise + EPSILON)).log()).sum()
    return -(hit + missed) / len(anchors), mean
