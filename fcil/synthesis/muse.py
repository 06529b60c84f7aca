"""MUSE: small images of several sizes, in which every position shows the class.

Paper: Tran et al., "Large-Scale Data-Free Knowledge Distillation for ImageNet via Multi-Resolution Data
Generation", arXiv:2411.17046 (2024). No code could be read.

The paper's own words, from its abstract and captions: images are made at a lower resolution than the net's
own, and at several; a quality loss made of class-activation maps keeps what is specific to a class; an
embedding diversity loss has two sides: the student's embedding of earlier samples is drawn towards
the text embedding e_y of its label, and the generator makes new images whose embedding in the student lies far
from it. A review quotes x = G_l(Z(e_y)), l the side. Its other equations were not at hand: all forms and weights
below are ours, on top of NAYER's released code (nayer.py), whose constants are the defaults.

        one generator         the last upsampling goes to the chosen side, another one in every inner loop
    L_G = NAYER's L, the adversarial term included
        + cam L_cam       cells:  -mean_ij log softmax_c(M(i, j) / tau)_y,  M the maps of fcil/nets/cam.py
                          masked: CE(T(x' up(norm M_y)), y), the mask without a gradient
        - aed mean_i min(d_i, m)      d_i = |P(h(x'_i)) - e_y|^2 / D, h the student's features, P a linear layer
    L_S = T^2 KL(teacher || student) + ed mean_i d_i,  P learns with the student

The mean of M_y over the positions is the logit, so one small patch can satisfy a cross-entropy on logits;
`cells` asks every position. The margin m bounds the gain from distance. L_aed waits until P has learnt once.
If the caller trains the student (`fcil distill`), only P is trained here, on student features of a few batches;
`beside` returns its loss term for the caller to add.
Each ingredient has a switch: `sizes: [native]`, `sizes` of one, `cam: 0`, `ed: 0`. With all of them off this is
NAYER to the bit. Where null, `cam` and `aed` are set once so that the gradient norm of their term on an image is 0.3
and 0.1 of that of batch-norm matching at the first step.

The pool holds images of every size, resized to the data's own. A student outside a federation gets
batches of one size instead, each size in proportion to its number of images, shown as `student_view` says.

Shapes: B batch, C classes, D width of e_y, l side of an image: that of its longer axis.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass, field, replace
from itertools import islice
from typing import Annotated, Literal, Self

import torch
from pydantic import Field
from torch import Tensor, nn, optim

from fcil.losses import Statistics, record_statistics
from fcil.nets.cam import cells, class_maps, masked, pools, record_maps
from fcil.rng import Key, generator
from fcil.synthesis.common.base import Learns, SynthesisProblem, Views
from fcil.synthesis.common.resolutions import scaled
from fcil.synthesis.common.text_embedding import classes_apart, learn_alone, new_head, remembered, text_distance
from fcil.synthesis.families.multi_resolution import MultiResolution
from fcil.synthesis.families.noisy_layer import NoisyLayerReplica
from fcil.types import Count, Index, NonNegative, Output, Positive, Tensors, Terms, Weight

PULLS = {"cam": 0.3, "aed": 0.1}
"""Target gradient norm on an image of a term whose weight is null, relative to that of batch-norm matching."""


@dataclass
class StudentTermState:
    """State of a chain beyond NAYER's."""

    pools: bool  # whether the teacher pools its last maps, so that its classifier gives the maps of classes
    apart: Tensor  # mean over pairs of classes of d between their texts
    head: nn.Linear | None = None  # P
    told: Tensor | None = None  # running mean of d over episodes of the student; none before it has learnt
    weights: Tensors = field(default_factory=dict)  # of terms that were null, and the gradient norm of `bn`


@dataclass(frozen=True, kw_only=True)
class MUSE(MultiResolution):
    """Small images of several sizes, in which every position shows the class."""

    # NAYER's own constants, documented in its class.
    schedule: Literal["lander", "nayer"] = "nayer"
    rounds: Count = 100
    warmup: Index = 20
    batch_size: Annotated[int, Field(ge=2)] = 400
    loops: Count = 2
    warmup_loops: Count | None = 10
    life: Count | None = 10
    lr: Positive = 4e-3
    latent: Count = 1000
    rows_per_layer: Count | Literal["auto"] | None = None
    bn: NonNegative = 10.0
    adv: NonNegative = 1.33
    learn_stats: bool = False
    student_steps: Index = 400
    student_lr: Positive = 0.2
    student_batch: Count = 512
    student_decay: NonNegative = 1e-4
    student_text: NonNegative = 0.0

    cam: Weight | None = None
    """Weight of the quality loss by class-activation maps; null: 0.3 times the gradient norm of `bn` at first."""
    cam_form: Literal["cells", "masked"] = "cells"
    """Quality loss: each position votes for the class, or the image masked by its class map is classified."""
    cam_temperature: Positive = 1.0
    """Divisor of the votes of positions (`tau`)."""
    ed: NonNegative = 1.0
    """Weight of drawing the student's embedding of old samples to their class text; 0: no embedding diversity."""
    aed: NonNegative | None = None
    """Weight of the repulsion of new samples from their class text; null: 0.1 times `bn`'s gradient norm at first."""
    margin: Positive | None = None
    """Squared distance, mean over D, of no further gain; null: the student's own plus that between classes."""
    ed_batches: Count = 8
    """Batches per episode on which an externally trained student is evaluated, for `student_steps` steps of P."""
    bn_late: Annotated[float, Field(ge=0, le=1)] = 1.0
    """Weight of the last quarter of batch norms, where small images differ most from large ones (0.5 halves it)."""

    def __post_init__(self) -> None:
        super().__post_init__()
        for name in PULLS:
            if getattr(self, name) is None and not self.bn and (name != "aed" or self.ed):
                raise ValueError(f"{name}: null is a share of batch-norm matching, and bn is 0; expected a number")
        if self.aed and not self.ed:
            raise ValueError(f"aed: {self.aed} is not allowed with ed: 0, as then nobody learns the embedding")

    # Settings ---------------------------------------------------------------------------------

    def smoke(self) -> Self:
        return replace(super().smoke(), loops=1, warmup_loops=1, ed_batches=1)

    @property
    def flees(self) -> bool:
        """Return whether the generator is repelled from the student's class texts."""
        return bool(self.ed) and self.aed != 0

    # Method -----------------------------------------------------------------------------------

    def beyond(self, problem: SynthesisProblem, chain: NoisyLayerReplica) -> StudentTermState:
        assert problem.anchors is not None
        key, anchors = (*problem.key, chain.number), problem.anchors[list(problem.labels)]
        own = StudentTermState(pools=False, apart=classes_apart(anchors))
        if self.cam != 0:
            side = max(self.sides(problem)) if self.view == "native" else max(problem.shape[1:])
            size = (2, problem.shape[0], *scaled(problem.shape, side))
            own.pools = pools(problem.teacher, torch.randn(size, generator=generator(*key, "probe")).to(problem.mean))
        if self.ed:
            own.head = new_head(chain.student, anchors, *key)
        return own

    def terms(
        self,
        problem: SynthesisProblem,
        chain: NoisyLayerReplica,
        images: Tensor,
        labels: Tensor,
        *,
        adversarial: bool,
        rng: torch.Generator,
    ) -> tuple[Terms, Statistics]:
        """Return the weighted terms of L_G for a batch of raw images (B, channels, h, w) of one size."""
        own, x = chain.beyond, self.seen(problem, chain, images, rng)
        with record_statistics(problem.teacher) as statistics, record_maps(problem.teacher) as maps:
            teacher = problem.teacher(x)
        flees = adversarial and self.flees and own.told is not None
        student = chain.student(x) if flees or (adversarial and self.adv) else None
        terms = self.weighted(problem, chain, labels, statistics, teacher, student)
        if self.cam != 0:
            votes = class_maps(problem.teacher, maps.taken(), teacher, exact=own.pools)
            by_cells = self.cam_form == "cells"
            terms["cam"] = (
                cells(votes, labels, self.cam_temperature) if by_cells else masked(problem.teacher, x, votes, labels)
            )
        if flees and student is not None and problem.anchors is not None:
            away = text_distance(own.head, student.features, problem.anchors[labels])
            terms["aed"] = -torch.minimum(away, self.reach(chain)).mean()
        return self._balanced(chain, terms, images), statistics

    def distance(self, problem: SynthesisProblem, chain: NoisyLayerReplica, statistics: Statistics) -> Tensor:
        if self.bn_late == 1:
            return super().distance(problem, chain, statistics)
        layers, late = list(statistics), 2 * max(1, round(len(statistics) / 8))  # a mean and a variance each
        first, last = ({name: statistics[name] for name in part} for part in (layers[:-late], layers[-late:]))
        rest = super().distance(problem, chain, first) if first else 0.0
        return self.bn_late * super().distance(problem, chain, last) + rest

    def reach(self, chain: NoisyLayerReplica) -> Tensor:
        """Return the margin m."""
        apart: Tensor = chain.beyond.apart
        return apart.new_tensor(self.margin) if self.margin is not None else chain.beyond.told + apart

    def _balanced(self, chain: NoisyLayerReplica, terms: Terms, images: Tensor) -> Terms:
        """Return MUSE's terms with their weights; a null weight is set when its term first occurs."""
        weights: Tensors = chain.beyond.weights
        by_bn = self.cam is None or (self.flees and self.aed is None)
        if by_bn and "bn" not in weights:
            weights["bn"] = gradient_norm(terms["bn"], images)
        for name, share in PULLS.items():
            chosen = getattr(self, name)
            if name in terms and chosen is None and name not in weights:
                weights[name] = (share * weights["bn"] / gradient_norm(terms[name], images)).nan_to_num(0, 0, 0)
            if name in terms:
                terms[name] = (weights[name] if chosen is None else chosen) * terms[name]
        return terms

    # Student ----------------------------------------------------------------------------------

    def unread(self, learns: Learns | None) -> dict[str, str]:
        return {} if self.ed else super().unread(learns)  # P is taught by them, whoever teaches the student

    def teaches(self, problem: SynthesisProblem) -> bool:
        """Return whether anything is trained: the student, or P alone where the caller trains the student."""
        return problem.teaches or bool(self.ed)

    def beside(self, problem: SynthesisProblem, state: NoisyLayerReplica, view: Views, student: Output) -> Terms:
        """Return the part of L_S that draws a student to the texts of old samples, with the latest P."""
        own = state.beyond
        if own.told is None or problem.anchors is None:
            return {}
        return {"text": self.ed * text_distance(own.head, student.features, problem.anchors[view.y]).mean()}

    def learners(self, problem: SynthesisProblem, chain: NoisyLayerReplica) -> list[nn.Parameter]:
        student = super().learners(problem, chain) if problem.teaches else []
        return student + ([] if chain.beyond.head is None else list(chain.beyond.head.parameters()))

    def teach(
        self, problem: SynthesisProblem, chain: NoisyLayerReplica, key: tuple[Key, ...], past: float = 0.0
    ) -> dict[str, Tensor]:
        """Minimise L_S: train the student together with P, or P alone where the caller trains the student."""
        own, optimizer = chain.beyond, self.optimizer(problem, chain, past)
        rng, chance = generator(*key, "student batches"), generator(*key, "sizes")
        views = self.views(problem, chain, self.student_batch, rng, chance)
        if problem.teaches:
            means = self._teach_both(problem, chain, views, optimizer)
        else:
            means = {"student_ed": self._teach_head(problem, chain, views, optimizer, rng)}
        if own.head is not None:
            own.told = remembered(own.told, means["student_ed"] / self.ed)
        return means

    def _teach_both(
        self, problem: SynthesisProblem, chain: NoisyLayerReplica, views: Iterator[Views], optimizer: optim.SGD
    ) -> dict[str, Tensor]:
        """Train on batches of one size each; return the means of the terms."""
        learners, head, sums = self.learners(problem, chain), chain.beyond.head, dict[str, Tensor]()
        chain.student.train()
        for parameter in learners:
            parameter.requires_grad_(True)
        for x, y, _ in islice(views, self.student_steps):
            with problem.autocast():
                with torch.no_grad():
                    target = problem.teacher(x)
                out = chain.student(x)
                terms = self.lesson(out, target)
                if head is not None and problem.anchors is not None:
                    terms["ed"] = self.ed * text_distance(head, out.features, problem.anchors[y]).mean()
            optimizer.zero_grad(set_to_none=True)
            torch.stack(list(terms.values())).sum().backward()  # type: ignore[no-untyped-call]
            optimizer.step()
            for name, term in terms.items():
                sums[name] = sums.get(name, 0) + term.detach()
        chain.student.eval()
        for parameter in learners:
            parameter.requires_grad_(False)
        return {f"student_{name}": total / self.student_steps for name, total in sums.items()}

    def _teach_head(
        self,
        problem: SynthesisProblem,
        chain: NoisyLayerReplica,
        views: Iterator[Views],
        optimizer: optim.SGD,
        rng: torch.Generator,
    ) -> Tensor:
        """Train P on features of the fixed student in a few batches; return the mean of its term."""
        chain.student.eval()
        with torch.no_grad(), problem.autocast():
            looked = [(chain.student(x).features, y) for x, y, _ in islice(views, self.ed_batches)]
        return learn_alone(
            chain.beyond.head,
            problem,
            looked,
            optimizer,
            rng,
            weight=self.ed,
            steps=self.student_steps,
            batch_size=self.student_batch,
        )


def gradient_norm(term: Tensor, images: Tensor) -> Tensor:
    """Return the norm of a term's gradient with respect to a batch."""
    (slope,) = torch.autograd.grad(term, images, retain_graph=True)
    strength: Tensor = torch.linalg.vector_norm(slope.float())
    return strength
