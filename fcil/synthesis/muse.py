"""MUSE: small images of several sizes, all of whose places speak for their class.

Paper: Tran et al., "Large-Scale Data-Free Knowledge Distillation for ImageNet via Multi-Resolution Data
Generation", arXiv:2411.17046 (2024). No code could be read.

The paper's own words, from its abstract and captions: images are made at a lower resolution than the net's
own, and at several; a quality loss made of class-activation maps keeps what is specific to a class; an
embedding diversity loss has two sides: the student's embedding of what was made before is taught to lie near
the text embedding e_y of its label, and the generator makes new images whose embedding in the student lies far
from it. A review quotes x = G_l(Z(e_y)), l the side. Its other equations were not at hand: all forms and weights
below are ours, on the ground of NAYER's released code (nayer.py), whose constants are the defaults.

    one generator         the last doubling goes to the wanted side, in every inner loop another one
    L_G = NAYER's L, the adversarial term included
        + cam L_cam       cells:  -mean_ij log softmax_c(M(i, j) / tau)_y,  M the maps of fcil/nets/cam.py
                          masked: CE(T(x' up(norm M_y)), y), the mask without a gradient
        - aed mean_i min(d_i, m)      d_i = |P(h(x'_i)) - e_y|^2 / D, h the student's features, P a linear layer
    L_S = T^2 KL(teacher || student) + ed mean_i d_i,  P learns with the student

The mean of M_y over the places is the logit, so a cross-entropy on logits is content with one small patch;
`cells` asks every place. The margin m bounds what can be won by going far. L_aed waits until P has learnt once.
Each ingredient has a switch: `sizes: [native]`, `sizes` of one, `cam: 0`, `ed: 0`. With all of them off this is
NAYER to the bit. Where null, `cam` and `aed` are set once so that the pull of their term on an image is 0.3
and 0.1 of that of batch-norm matching at the first step.

The pool holds images of every size, made as large as the data's own. A student outside a federation gets
batches of one size instead, each size as often as there are images of it, shown as `student_view` says.

Shapes: B batch, C classes, D width of e_y, l side of an image: that of its longer axis.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass, field, replace
from itertools import islice
from typing import Annotated, Any, Literal, Self, cast

import torch
from pydantic import Field
from torch import Tensor, nn

from fcil.data import normalise
from fcil.errors import ConfigError
from fcil.losses import Statistics, record_statistics
from fcil.nets import NoisyGenerator
from fcil.nets.cam import cells, class_maps, masked, pools, record_maps
from fcil.rng import Key, generator, seeded
from fcil.synthesis.base import Inversion, Views
from fcil.synthesis.nayer import NAYER, Optimised
from fcil.synthesis.noisy import Chain
from fcil.synthesis.sizes import (
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
from fcil.synthesis.student import distillation
from fcil.types import Count, Index, NonNegative, Positive, Tensors, Terms

MEMORY = 0.9
"""Share of the past in the running mean of d."""
PULLS = {"cam": 0.3, "aed": 0.1}
"""Where the weight of a term is null: its pull on an image, in parts of that of batch-norm matching at first."""


@dataclass
class Beyond:
    """What a chain keeps besides NAYER's."""

    pools: bool  # whether the teacher pools its last maps, so that its classifier gives the maps of classes
    apart: Tensor  # mean over pairs of classes of |e_c - e_c'|^2 / D
    head: nn.Linear | None = None  # P
    told: Tensor | None = None  # running mean of d over episodes of the student; none before it has learnt
    weights: Tensors = field(default_factory=dict)  # of terms that were null, and the pull of `bn` they go by


@dataclass(frozen=True, kw_only=True)
class MUSE(NAYER):
    """Small images of several sizes, whose every place speaks for the class."""

    # NAYER's own constants; what each is says its class.
    schedule: Literal["lander", "nayer"] = "nayer"
    rounds: Count = 100
    warmup: Index = 20
    batch_size: Count = 400
    loops: Count = 2
    warmup_loops: Count | None = 10
    life: Count | None = 10
    lr: Positive = 4e-3
    latent: Count = 1000
    rows_per_layer: Count | None = None
    bn: NonNegative = 10.0
    adv: NonNegative = 1.33
    learn_stats: bool = False
    student_steps: Index = 400
    student_lr: Positive = 0.2
    student_batch: Count = 512
    student_decay: NonNegative = 1e-4
    student_text: NonNegative = 0.0

    sizes: Annotated[tuple[Count, ...], Field(min_length=1)] | None = None
    """Sides of the images, one drawn for every inner loop; null: 96, 112, 128 for 224 pixels, 16, 24, 32 for 32."""
    view: Literal["native", "up"] = "native"
    """How the teacher sees them in synthesis: as they are, or stretched to the data's own size."""
    student_view: Shown = "mixed"
    """How a student does: as they are, stretched, at a random place of a plain canvas, or any of these at random."""
    cam: NonNegative | None = None
    """Weight of the quality loss by class-activation maps; null: it pulls 0.3 as strongly as `bn` at first."""
    cam_form: Literal["cells", "masked"] = "cells"
    """Every place votes for the class, or the image masked by its map is still of the class."""
    cam_temperature: Positive = 1.0
    """Divides the votes of places (`tau`)."""
    ed: NonNegative = 1.0
    """Weight with which the student's embedding of old samples is drawn to their text; 0: no embedding diversity."""
    aed: NonNegative | None = None
    """Weight with which new samples flee from it; null: they are pulled 0.1 as strongly as by `bn` at first."""
    margin: Positive | None = None
    """Squared distance, mean over D, beyond which they gain no more; null: the student's own plus that of classes."""
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
        return replace(super().smoke(), loops=1, warmup_loops=1)

    @property
    def flees(self) -> bool:
        """Whether the generator keeps away from what the student was taught."""
        return bool(self.ed) and self.aed != 0

    def sides(self, problem: Inversion) -> tuple[int, ...]:
        """The sizes of images."""
        return self.sizes or usual_sizes(max(problem.shape[1:]))

    def checked(self, problem: Inversion) -> Inversion:
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

    # Method -----------------------------------------------------------------------------------

    def beyond(self, problem: Inversion, chain: Chain) -> Beyond:
        assert problem.anchors is not None
        key, anchors = (*problem.key, chain.number), problem.anchors[list(problem.labels)]
        apart = 2 * anchors.var(dim=0).mean() if len(anchors) > 1 else anchors.new_zeros(())
        own = Beyond(pools=False, apart=apart)
        if self.cam != 0:
            side = max(self.sides(problem)) if self.view == "native" else max(problem.shape[1:])
            size = (2, problem.shape[0], *scaled(problem.shape, side))
            own.pools = pools(problem.teacher, torch.randn(size, generator=generator(*key, "probe")).to(problem.mean))
        if self.ed:
            with seeded(*key, "embedding"):
                head = nn.Linear(chain.student.classifier.in_features, anchors.shape[1])
            own.head = head.to(anchors).requires_grad_(False)
        return own

    def optimise(
        self, problem: Inversion, chain: Chain, labels: Tensor, *, adversarial: bool, rng: torch.Generator
    ) -> Optimised:
        sides, which = self.sides(problem), 0
        if len(sides) > 1:
            which = int(torch.randint(len(sides), (1,), generator=rng, device=rng.device))
        cast(SizedGenerator, chain.generator).aim(scaled(problem.shape, sides[which]))
        return super().optimise(problem, chain, labels, adversarial=adversarial, rng=rng)

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
        """The weighted terms of L_G for a batch of raw images (B, channels, h, w) of one size."""
        own, (mean, std) = chain.beyond, self.statistics(problem, chain)
        x = normalise(shrunk(problem.augment, images.shape[2:], problem.shape)(images, rng), mean, std)
        if self.view == "up":
            x = resize(x, native(problem.shape))
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

    def distance(self, problem: Inversion, chain: Chain, statistics: Statistics) -> Tensor:
        if self.bn_late == 1:
            return super().distance(problem, chain, statistics)
        layers, late = list(statistics), 2 * max(1, round(len(statistics) / 8))  # a mean and a variance each
        first, last = ({name: statistics[name] for name in part} for part in (layers[:-late], layers[-late:]))
        rest = super().distance(problem, chain, first) if first else 0.0
        return self.bn_late * super().distance(problem, chain, last) + rest

    def reach(self, chain: Chain) -> Tensor:
        """The margin m."""
        apart: Tensor = chain.beyond.apart
        return apart.new_tensor(self.margin) if self.margin is not None else chain.beyond.told + apart

    def _balanced(self, chain: Chain, terms: Terms, images: Tensor) -> Terms:
        """Weights of the terms that are MUSE's; a null one is set when its term is there for the first time."""
        weights: Tensors = chain.beyond.weights
        by_bn = self.cam is None or (self.flees and self.aed is None)
        if by_bn and "bn" not in weights:
            weights["bn"] = pull(terms["bn"], images)
        for name, share in PULLS.items():
            chosen = getattr(self, name)
            if name in terms and chosen is None and name not in weights:
                weights[name] = (share * weights["bn"] / pull(terms[name], images)).nan_to_num(0, 0, 0)
            if name in terms:
                terms[name] = (weights[name] if chosen is None else chosen) * terms[name]
        return terms

    # Student ----------------------------------------------------------------------------------

    def teaches(self, problem: Inversion) -> bool:
        """Somebody else's student is left alone; P then learns from it as it stands."""
        return problem.student is None or self.flees

    def learners(self, problem: Inversion, chain: Chain) -> list[nn.Parameter]:
        student = super().learners(problem, chain) if problem.student is None else []
        return student + ([] if chain.beyond.head is None else list(chain.beyond.head.parameters()))

    def teach(self, problem: Inversion, chain: Chain, key: tuple[Key, ...], past: float = 0.0) -> dict[str, Tensor]:
        """Steps of the student, and of P beside it, on batches of one size each: L_S."""
        alone, own, student = problem.student is None, chain.beyond, chain.student
        rng, chance = generator(*key, "student batches", device=problem.device), generator(*key, "sizes")
        learners, optimizer = self.learners(problem, chain), self.optimizer(problem, chain, past)
        student.train(alone)
        for parameter in learners:
            parameter.requires_grad_(True)
        sums: dict[str, Tensor] = {}
        views = self.views(problem, chain, self.student_batch, rng, chance)
        for x, y, _ in islice(views, self.student_steps):
            with problem.autocast():
                with torch.no_grad():
                    target = problem.teacher(x)
                with torch.set_grad_enabled(alone):
                    out = student(x)
                terms = distillation(out, target, self.temperature, self.student_text) if alone else {}
                if own.head is not None and problem.anchors is not None:
                    told = text_distance(own.head, out.features, problem.anchors[y]).mean()
                    terms["ed"] = self.ed * told
            optimizer.zero_grad(set_to_none=True)
            torch.stack(list(terms.values())).sum().backward()  # type: ignore[no-untyped-call]
            optimizer.step()
            for name, term in terms.items():
                sums[name] = sums.get(name, 0) + term.detach()
        student.eval()
        for parameter in learners:
            parameter.requires_grad_(False)
        means = {f"student_{name}": total / self.student_steps for name, total in sums.items()}
        if own.head is not None:
            now = means["student_ed"] / self.ed
            own.told = now if own.told is None else MEMORY * own.told + (1 - MEMORY) * now
        return means

    # Pool -------------------------------------------------------------------------------------

    def views(
        self, problem: Inversion, state: Any, count: int, rng: torch.Generator, chance: torch.Generator | None = None
    ) -> Iterator[Views]:
        """Batches of one size each, a size as often as the pool has images of it; `chance` draws sizes."""
        yield from bucketed(self.buckets(problem, state), problem, count, rng, chance or rng, self.student_view)

    def pool(self, problem: Inversion, chain: Chain) -> Tensors:
        """The images made as large as the data's own; `buckets` has them as they were made."""
        size, about, rows = native(problem.shape), self.about(chain), self.rows(chain)
        pool = {name: t[rows] for name, t in about.items()}
        x = torch.empty(len(pool["y"]), problem.shape[0], *size, dtype=torch.uint8, device=problem.device)
        for bucket in self.buckets(problem, chain):
            x[bucket["id"]] = enlarged(bucket["x"], size)
        return {"x": x} | pool

    def buckets(self, problem: Inversion, chain: Chain) -> list[Tensors]:
        """The pool by size: `x` as made, what else is known of it, and `id`, its rows in the pool."""
        about, rows = self.about(chain), self.rows(chain)
        held = torch.arange(len(about["y"]), device=problem.device)[rows]  # of all that were kept, in the pool's order
        return by_size(chain.images, about, held)

    def _new_generator(self, problem: Inversion) -> NoisyGenerator:
        assert problem.anchors is not None
        return SizedGenerator(
            problem.anchors,
            problem.shape,
            self.sides(problem),
            self.batch_size,
            self.latent,
            self.width,
            self.rows_per_layer or len(problem.labels),
        )


def text_distance(head: nn.Linear, features: Tensor, anchors: Tensor) -> Tensor:
    """d_i = |P(h_i) - e_i|^2 / D for features h (B, F) and anchors e (B, D), one a sample, constant: (B,)."""
    embedding: Tensor = head(features).to(anchors)
    return (embedding - anchors.detach()).square().mean(dim=1)


def pull(term: Tensor, images: Tensor) -> Tensor:
    """How strongly a term pulls at a batch: the norm of its gradient."""
    (slope,) = torch.autograd.grad(term, images, retain_graph=True)
    strength: Tensor = torch.linalg.vector_norm(slope.float())
    return strength
