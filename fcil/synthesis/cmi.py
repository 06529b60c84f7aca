"""CMI: every image is to differ, in the teacher's features, from all earlier ones.

Paper: Fang et al., "Contrastive Model Inversion for Data-Free Knowledge Distillation", IJCAI 2021,
arXiv:2105.08584. Code: github.com/zju-vipa/CMI, also in DataFree @ 9e79fa9, datafree/synthesis/contrastive.py,
whose constants for learning from scratch are the defaults here.

An episode draws labels y and noise z, and trains a new generator G and z itself. An image G(z) is seen as a
whole, x, augmented as the data are, and in part, x', an enlarged crop. The teacher's features f are the
means over positions of the inputs of its BatchNorm layers; h projects them onto directions and persists through all
episodes. A bank keeps (f(x'), f(x)) of past images. With a sample of it behind the B images of the batch,

    L = w_bn sum_l ||V_l - v_l|| + ||M_l - m_l||           batch statistics of the teacher's inputs
      + w_ce CE(T(x), y)
      - w_adv mean_i KL(T(x_i) || S(x_i)) [argmax T = argmax S]
      + bound(g(x), e_y)                                   where the caller asks for one
      + w_contrast [mean_{i <= B} C_i + mean_{i > B} C_i]  the second for h alone: the bank is constant
    C_i = -log softmax_j (h(f(x'_i)) . stop h(f(x_j)) / tau)_i

The batch of the lowest L enters the pool, and its features the bank. Then the student S learns from the pool.

Differs: a part is mirrored only where the data may be; the released code mirrors half of them always. The bank
drops its oldest rows; there it is overwritten in place, and seems empty at the moment it is full.

Shapes: B batch, n width of the noise, D width of f, d width of the directions, R rows with those of the bank.
"""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import ClassVar, NamedTuple

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from fcil.data import normalise
from fcil.losses import masked_adversarial, record_statistics, statistics_distance
from fcil.nets import Net, PlainGenerator
from fcil.optimizer import Adam
from fcil.rng import Key, generator, seeded, sent
from fcil.synthesis.common.base import SynthesisProblem
from fcil.synthesis.common.contrastive import Projector, contrastive, enlarged, look, looked_at
from fcil.synthesis.common.inner_loop import Batches, BestBatch, LossHistory, readable, sample_labels
from fcil.synthesis.common.pool import to_bytes
from fcil.synthesis.common.preconditions import check_classes_can_be_made
from fcil.synthesis.families.with_student import PoolStudentLoop
from fcil.types import Count, Fraction, Positive, Tensors, Terms, Weight

BETAS = (0.5, 0.999)
RATIO = math.log(4 / 3)
"""Logarithm of a crop's largest aspect ratio, where the image is a square."""

SIDES: dict[str, tuple[object, object]] = {
    # field: (ours, as the paper is silent; the released code)
    "rounding": ("round", "floor"),
}


@dataclass
class CMIReplica(Batches):
    """The state of one sequence of generators and its student."""

    projector: Projector  # h
    projecting: torch.optim.Adam  # of h, for all episodes
    bank: Tensor  # (rows, 2 D), f of parts and wholes
    student: Net | None  # where there is an adversarial term
    teaching: torch.optim.SGD | None  # of S, for all episodes, where it is trained here


class Inverted(NamedTuple):
    """Result of one episode."""

    generator: PlainGenerator  # after the last step, as z
    z: Tensor  # (B, n)
    kept: Tensor  # (B, channels, H, W) in [0, 1], of the step with the lowest loss
    features: Tensor  # (B, 2 D), of that step
    terms: dict[str, Tensor]  # each (steps,), measured before the step


@dataclass(frozen=True, kw_only=True)
class CMI(PoolStudentLoop):
    """Noise and a new generator for every batch, contrasted with a bank of earlier images."""

    rounds: Count = 200
    """Episodes; the batch of each enters the pool (`epochs`)."""
    steps: Count = 200
    """Generator steps in an episode (`g_steps`)."""
    lr: Positive = 1e-3
    """Adam's rate for generator, noise and projector (`lr_g`)."""
    latent: Count = 256
    """Width of the noise (`nz`)."""
    width: Count = 64
    """Channels of the generator's last stage (`ngf`)."""
    bn: Weight = 1.0
    """Weight of batch-norm matching."""
    ce: Weight = 1.0
    """Weight of the cross-entropy to the target class (`oh`)."""
    adv: Weight = 0.5
    """Weight of the disagreement with the student; at 0 there is no student."""
    contrast: Positive = 0.8
    """Weight of the contrastive term (`cr`)."""
    sharpness: Positive = 0.1
    """Temperature that divides the cosine of two directions (`cr_T`; 0.2 in another of the code's scripts)."""
    layers: Count | None = None
    """BatchNorm layers whose inputs are f, evenly over the depth; null: all, or 4 if those have over 4096 channels."""
    directions: Count = 256
    """Width of the projector's output (`head_dim`)."""
    bank: Count = 40_960
    """Past images whose features are stored (`bank_size`)."""
    negatives: Count = 4096
    """Stored images that are drawn anew for every step (`n_neg`)."""
    part: Fraction = 0.25
    """Smallest share of an image's area that its crop shows."""
    student_batch: Count = 128

    needs: ClassVar[frozenset[str]] = frozenset({"batchnorm"})
    differences = SIDES

    @property
    def required(self) -> frozenset[str]:
        return self.needs if self.bn else frozenset()

    def checked(self, problem: SynthesisProblem) -> SynthesisProblem:
        super().checked(problem)
        check_classes_can_be_made(
            self.name,
            problem,
            lambda: looked_at(problem.teacher, self.layers),
            lambda: PlainGenerator(problem.shape, self.latent, self.width),
        )
        return problem

    def start(self, problem: SynthesisProblem, chain: int) -> CMIReplica:
        width, own = sum(looked_at(problem.teacher, self.layers).values()), problem.mean
        with seeded(*problem.key, chain, "projector"):
            projector = Projector(width, self.directions).to(own)
        projecting = Adam(projector.parameters(), lr=self.lr, fused=True)
        return CMIReplica(chain, projector, projecting, own.new_empty(0, 2 * width), *self.own_student(problem, chain))

    def episode(self, problem: SynthesisProblem, chain: CMIReplica, number: int) -> dict[str, float]:
        key = (*problem.key, chain.number, number)
        rng = generator(*key, "labels and noise")
        labels, z = self.requested(problem, rng)
        found = self.invert(problem, chain, self.new_generator(problem, *key), labels, z, rng)
        chain.keep(to_bytes(found.kept, self.settled.rounding or "round"), labels)
        over = len(chain.bank) + len(labels) - self.bank
        chain.bank = torch.cat([chain.bank[max(over, 0) :], found.features[-self.bank :]])
        means = {name: term.mean() for name, term in found.terms.items()}
        if chain.teaching is not None and self.student_steps:
            means |= self.teach(problem, chain, key, (number - 1) / self.episodes)
        return readable(means, number)

    def requested(self, problem: SynthesisProblem, rng: torch.Generator) -> tuple[Tensor, Tensor]:
        """Return labels (B,), each drawn by itself, and noise (B, n) of an episode."""
        labels = sample_labels(problem, self.batch_size, "random", rng)
        return labels, sent(torch.randn(self.batch_size, self.latent, generator=rng), problem.device)

    def new_generator(self, problem: SynthesisProblem, *key: Key) -> PlainGenerator:
        """Return a generator with weights drawn from N(0, 0.02), gains from N(1, 0.02), and biases 0."""
        with seeded(*key, "generator"):
            made = PlainGenerator(problem.shape, self.latent, self.width)
            for layer in made:
                if isinstance(layer, nn.Linear | nn.Conv2d | nn.BatchNorm2d):
                    nn.init.normal_(layer.weight, float(isinstance(layer, nn.BatchNorm2d)), 0.02)
                    if layer.bias is not None:
                        nn.init.zeros_(layer.bias)
        return made.to(problem.device)

    def invert(
        self,
        problem: SynthesisProblem,
        chain: CMIReplica,
        made: PlainGenerator,
        labels: Tensor,
        noise: Tensor,
        rng: torch.Generator,
    ) -> Inverted:
        """Run `steps` Adam steps of the generator and of the noise, and as many of the projector with its own Adam."""
        z = nn.Parameter(noise)
        adam = Adam([*made.parameters(), z], lr=self.lr, betas=BETAS, fused=True)
        lowest, history = BestBatch(), LossHistory()
        if chain.student is not None:
            chain.student.eval().requires_grad_(False)
        for _ in range(self.steps):
            with problem.autocast():
                images = made(z)
            terms, features = self.terms(problem, chain, images.to(problem.mean.dtype), labels, rng)
            loss = torch.stack(list(terms.values())).sum()
            for optimizer in (adam, chain.projecting):
                optimizer.zero_grad(set_to_none=True)
            loss.backward()  # type: ignore[no-untyped-call]
            for optimizer in (adam, chain.projecting):
                optimizer.step()
            lowest.offer(loss, images, features)
            history.add(terms, loss)
        kept, features = lowest.kept
        return Inverted(made, z.detach(), kept, features, history.terms)

    def terms(
        self, problem: SynthesisProblem, chain: CMIReplica, images: Tensor, labels: Tensor, rng: torch.Generator
    ) -> tuple[Terms, Tensor]:
        """Return the weighted terms of L for raw images (B, channels, H, W), and the teacher's features (B, 2 D)."""
        layers = looked_at(problem.teacher, self.layers)
        x = normalise(problem.augment(images, rng), problem.mean, problem.std)
        parts = normalise(self.parts(problem, images, rng), problem.mean, problem.std)
        with problem.autocast():
            with record_statistics(problem.teacher) as statistics:
                teacher, wholes_seen = look(problem.teacher, layers, x)
            _, parts_seen = look(problem.teacher, layers, parts)  # after the recording: its statistics are not matched
            student = chain.student(x) if chain.student is not None else None
        terms = {"ce": self.ce * F.cross_entropy(teacher.logits, labels)}
        if self.bn:
            terms["bn"] = self.bn * statistics_distance(problem.teacher, statistics)
        if student is not None:
            terms["adv"] = self.adv * masked_adversarial(student.logits, teacher.logits)
        terms |= problem.bounded(teacher.embedding, labels)
        features = torch.cat([parts_seen, wholes_seen], dim=1)
        drawn = torch.randperm(len(chain.bank), generator=rng)[: self.negatives]
        past = chain.bank[sent(drawn, problem.device)]
        locals_, globals_ = torch.cat([features, past]).chunk(2, dim=1)  # (R, D) each
        terms["contrast"] = self.contrast * contrastive(
            chain.projector(locals_), chain.projector(globals_).detach(), len(images), self.sharpness
        )
        return terms, features

    def parts(self, problem: SynthesisProblem, images: Tensor, rng: torch.Generator) -> Tensor:
        """Return a random crop of every image (B, channels, H, W), enlarged to the size of the whole."""
        draw = sent(torch.rand(5, len(images), generator=rng), images)
        area = self.part + (1 - self.part) * draw[0]
        stretch = (RATIO * (2 * draw[1] - 1)).exp()  # width over height
        lengths = torch.stack([area / stretch, area * stretch]).sqrt().clamp(max=1)  # (2, B), of height and width
        mirror = draw[4] < (0.5 if problem.augment.flip else 0.0)
        return enlarged(images, draw[2:4] * (1 - lengths), lengths, mirror)

    def pool(self, problem: SynthesisProblem, chain: CMIReplica) -> Tensors:
        rows = chain.rows(self.share(chain.number), "latest")
        return {"x": torch.cat(chain.images)[rows], "y": torch.cat(chain.labels)[rows]}
