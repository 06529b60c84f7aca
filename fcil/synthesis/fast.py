"""Fast-DFKD: a meta generator as starting point, adapted in a few steps to every batch.

Paper: Fang et al., "Up to 100x Faster Data-free Knowledge Distillation", AAAI 2022, arXiv:2112.06253.
Code: github.com/zju-vipa/Fast-Datafree @ 0dcecbc, datafree/synthesis/fast_meta.py, whose constants for a
ResNet-34 on CIFAR and ten steps are the defaults here. Also the server side of TARGET, ICCV 2023,
arXiv:2303.06937, github.com/zj-jayzhang/Federated-Class-Continual-Learning @ 78cb9c0, methods/target.py.

A meta generator G holds the common features of all samples. An episode draws noise z and labels y, and
takes a copy G' and z itself a few steps of Adam down

    L  = w_bn sum_l ||V_l - v_l|| + ||M_l - m_l||           batch statistics of the teacher's inputs
       + w_ce CE(T(x'), y)                                  x' = (augment(G'(z)) - mean) / std
       - w_adv mean_i KL(T(x'_i) || S(x'_i)) [argmax T = argmax S]
       + bound(g(x'), e_y)                                  where the caller asks for one

The batch of the lowest L enters the pool, and G takes one step of an Adam of its own, `steps` times as
fast, with a gradient that is

    maml:     the sum over the steps of dL/dG', each taken where G' was: first-order MAML
    reptile:  67 (G - G') at the end: Reptile, in the scale of the code

After the warm-up the student S learns from the pool. Statistics mean and std are the real data's.

The warm-up is 20 of 220 episodes. With few episodes S would never learn, as in TARGET's released code, which
stops after 10: there neither S nor the adversarial term has any effect. On the paper's side the warm-up keeps its
share of the episodes instead, one in eleven.

Shapes: B batch, C classes, n width of the noise.
"""

from __future__ import annotations

import copy
from dataclasses import dataclass, replace
from typing import Annotated, ClassVar, Literal, NamedTuple, Self, cast

import torch
import torch.nn.functional as F
from pydantic import Field
from torch import Tensor, nn

from fcil.data import normalise
from fcil.losses import (
    Averages,
    Statistics,
    masked_adversarial,
    record_statistics,
    statistics_distance,
    update_averages,
)
from fcil.nets import Net, PlainGenerator
from fcil.optimizer import Adam
from fcil.rng import generator, seeded, sent
from fcil.synthesis.common.base import SynthesisProblem
from fcil.synthesis.common.inner_loop import Batches, BestBatch, Cut, LossHistory, readable, sample_labels
from fcil.synthesis.common.pool import to_bytes
from fcil.synthesis.common.preconditions import check_classes_can_be_made
from fcil.synthesis.common.student import student_of
from fcil.synthesis.families.with_student import PoolStudentLoop
from fcil.types import Count, Index, Positive, Tensors, Terms, Weight

Share = Annotated[float, Field(ge=0, lt=1)]

REPTILE = 67.0
"""Factor of the code before G - G'; Adam divides by the size of a gradient, so it hardly matters."""
BETAS = (0.5, 0.999)

SIDES: dict[str, tuple[object, object]] = {
    # field: (the paper's method, or ours where the paper is silent; the released code)
    "warmup": (None, 20),  # null stays: an eleventh of the episodes, which is 20 of the 220
    "student_start": ("fresh", "reference"),
    "cut": ("latest", "string-sorted"),
    "rounding": ("round", "floor"),
}


@dataclass
class FastReplica(Batches):
    """The state of one meta generator and its student."""

    generator: PlainGenerator  # G; where it is not adapted, the generator itself
    meta: torch.optim.Adam  # of G, for all episodes
    student: Net
    teaching: torch.optim.SGD  # of S, for all episodes
    averages: Averages | None = None


class Adapted(NamedTuple):
    """Result of one episode."""

    generator: PlainGenerator  # G'
    z: Tensor  # (B, n), after the last step
    kept: Tensor  # (B, channels, H, W) in [0, 1], of the step with the lowest loss
    terms: dict[str, Tensor]  # each (steps,), measured before the step


@dataclass(frozen=True, kw_only=True)
class Fast(PoolStudentLoop):
    """Noise and a copy of a meta-learnt generator, adapted together for a few steps."""

    rounds: Count = 220
    """Episodes; the batch of each enters the pool (`epochs`; `syn_round`, 10, in TARGET)."""
    warmup: Index | None = None
    """First episodes in which the student does not learn: one in eleven (paper), or 20 of however many (reference)."""
    steps: Count = 10
    """Steps of adaptation in an episode (`g_steps`; 2 and 5 are the faster variants)."""
    meta: Literal["maml", "reptile", "none"] = "maml"
    """Update of G from G' (`is_maml`); `none`: there is one generator, which episodes go on training (`fast`)."""
    lr: Positive = 2e-3
    """Adam's rate for the copy (`lr_g`; 3e-3 for 5 steps, 5e-3 for 2); G's is `steps` times that."""
    latent_lr: Positive = 1e-2
    """Adam's rate for the noise (`lr_z`; 0.015 for 2 steps)."""
    latent: Count = 256
    """Width of the noise (`nz`)."""
    width: Count = 64
    """Channels of the generator's last stage (`ngf`)."""
    reset: Count | None = 140
    """Episode before which the first layers of G are drawn anew from N(0, 0.02) (`reset_l0`); null: never."""
    labels: Literal["random", "balanced"] = "random"
    """Labels drawn independently, or whole sweeps over the classes and a random rest."""
    bn: Weight = 10.0
    """Weight of batch-norm matching; without it the net needs no batch norm."""
    bn_momentum: Share = 0.9
    """Share of the past in the matched statistics; 0 matches every batch by itself (`bn_mmt`)."""
    ce: Weight = 0.5
    """Weight of the cross-entropy to the target class (`oh`; 0.4 for Wide-ResNets)."""
    adv: Weight = 1.33
    """Weight of the disagreement with the student, from the last episode of the warm-up on (1 in TARGET)."""
    student_start: Literal["fresh", "reference"] | None = None
    """Student drawn anew (ours), or with the teacher's classifier and statistics (reference: TARGET)."""
    student_lr: Positive = 0.2
    cut: Cut | None = None
    """Samples that are kept when there are too many: the latest (ours), or by file name (reference: TARGET)."""

    needs: ClassVar[frozenset[str]] = frozenset({"batchnorm"})
    differences = SIDES

    # Settings ---------------------------------------------------------------------------------

    @property
    def settled(self) -> Self:
        s = super().settled
        return s if s.warmup is not None else replace(s, warmup=round(self.episodes / 11))

    def smoke(self) -> Self:
        return replace(super().smoke(), warmup=0)

    @property
    def required(self) -> frozenset[str]:
        return self.needs if self.bn else frozenset()

    # Method -----------------------------------------------------------------------------------

    def checked(self, problem: SynthesisProblem) -> SynthesisProblem:
        super().checked(problem)
        check_classes_can_be_made(self.name, problem, lambda: PlainGenerator(problem.shape, self.latent, self.width))
        return problem

    def start(self, problem: SynthesisProblem, chain: int) -> FastReplica:
        with seeded(*problem.key, chain, "generator"):
            made = PlainGenerator(problem.shape, self.latent, self.width).to(problem.device)
        student = student_of(problem, self.settled.student_start or "fresh", *problem.key, chain)
        return FastReplica(
            number=chain,
            generator=made,
            meta=Adam(made.parameters(), lr=self.lr * self.steps, betas=BETAS, fused=True),
            student=student,
            teaching=self.sgd(student.parameters()),
        )

    def episode(self, problem: SynthesisProblem, chain: FastReplica, number: int) -> dict[str, float]:
        s, key = self.settled, (*problem.key, chain.number, number)
        rng, warmup = generator(*key, "labels and noise"), cast(int, s.warmup)
        if number == self.reset:
            redraw(chain.generator, rng)
        labels, z = self.requested(problem, rng)
        found = self.adapt(problem, chain, labels, z, adversarial=number >= warmup, rng=rng)
        chain.keep(to_bytes(found.kept, s.rounding or "round"), labels)
        means = {name: term.mean() for name, term in found.terms.items()}
        if number > warmup and self.student_steps and problem.teaches:
            past = (number - warmup - 1) / (self.episodes - warmup)  # of the student's episodes
            means |= self.teach(problem, chain, key, past)
        return readable(means, number)

    def requested(self, problem: SynthesisProblem, rng: torch.Generator) -> tuple[Tensor, Tensor]:
        """Return labels (B,) and noise (B, n) of an episode."""
        labels = sample_labels(problem, self.batch_size, self.labels, rng)
        return labels, sent(torch.randn(self.batch_size, self.latent, generator=rng), problem.device)

    def adapt(
        self,
        problem: SynthesisProblem,
        chain: FastReplica,
        labels: Tensor,
        noise: Tensor,
        *,
        adversarial: bool,
        rng: torch.Generator,
    ) -> Adapted:
        """Run `steps` Adam steps of a copy of G and of the noise, with a fresh Adam; then one step of G."""
        adapted, z = chain.generator, nn.Parameter(noise)
        if self.meta != "none":
            adapted = copy.deepcopy(chain.generator)
        groups = [{"params": list(adapted.parameters()), "lr": self.lr}, {"params": [z], "lr": self.latent_lr}]
        adam = Adam(groups, betas=BETAS, fused=True)
        lowest, history = BestBatch(), LossHistory()
        statistics: Statistics = {}
        for _ in range(self.steps):
            with problem.autocast():
                images = adapted(z)
                terms, statistics = self.terms(problem, chain, images, labels, adversarial=adversarial, rng=rng)
            loss = torch.stack(list(terms.values())).sum()
            adam.zero_grad(set_to_none=True)
            loss.backward()  # type: ignore[no-untyped-call]
            if self.meta == "maml":
                add_gradients(chain.generator, adapted)
            adam.step()
            lowest.offer(loss, images)
            history.add(terms, loss)
        if self.meta == "reptile":
            point_at(chain.generator, adapted)
        if self.meta != "none":
            chain.meta.step()
            chain.meta.zero_grad(set_to_none=True)
        chain.averages = update_averages(chain.averages, statistics, self.bn_momentum)
        (kept,) = lowest.kept
        return Adapted(adapted, z.detach(), kept, history.terms)

    def terms(
        self,
        problem: SynthesisProblem,
        chain: FastReplica,
        images: Tensor,
        labels: Tensor,
        *,
        adversarial: bool,
        rng: torch.Generator,
    ) -> tuple[Terms, Statistics]:
        """Return the weighted terms of L for a batch of raw images (B, channels, H, W)."""
        x = normalise(problem.augment(images, rng), problem.mean, problem.std)
        with record_statistics(problem.teacher) as statistics:
            teacher = problem.teacher(x)
        terms = {"ce": self.ce * F.cross_entropy(teacher.logits, labels)}
        if self.bn:
            distance = statistics_distance(problem.teacher, statistics, chain.averages, self.bn_momentum)
            terms["bn"] = self.bn * distance
        if adversarial and self.adv:
            terms["adv"] = self.adv * masked_adversarial(chain.student(x).logits, teacher.logits)
        return terms | problem.bounded(teacher.embedding, labels), statistics

    def pool(self, problem: SynthesisProblem, chain: FastReplica) -> Tensors:
        rows = chain.rows(self.share(chain.number), self.settled.cut or "latest")
        return {"x": torch.cat(chain.images)[rows], "y": torch.cat(chain.labels)[rows]}


@torch.no_grad()
def redraw(made: PlainGenerator, rng: torch.Generator) -> None:
    """Re-initialise the linear layer and the batch norm after it: weights from N(0, 0.02), biases zero."""
    for layer in (made.l1, made.bn0):
        layer.weight.copy_(sent(0.02 * torch.randn(layer.weight.shape, generator=rng), layer.weight))
        layer.bias.zero_()


def add_gradients(meta: nn.Module, adapted: nn.Module) -> None:
    """Add dL/dG' to the gradients of G."""
    for own, other in zip(meta.parameters(), adapted.parameters(), strict=True):
        if other.grad is not None:
            own.grad = other.grad.clone() if own.grad is None else own.grad + other.grad


@torch.no_grad()
def point_at(meta: nn.Module, adapted: nn.Module) -> None:
    """Set the gradient of G so that it leads to G'."""
    for own, other in zip(meta.parameters(), adapted.parameters(), strict=True):
        own.grad = REPTILE * (own - other)
