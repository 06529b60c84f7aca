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

Each inner loop keeps the batch of its lowest L; the student S learns from what was kept.

`schedule` sets the order of events (a table is in `families/noisy_layer.py`), the other fields the amounts.
The defaults are LANDER's: two episodes of the student before the adversarial term starts.
NAYER on its own has a longer warm-up of ten loops an episode, whose batches are kept, a generator
that is rebuilt every ten episodes, and one student optimizer: `ALONE` holds its constants for
CIFAR-10. As YAML they are

    nayer: {schedule: nayer, rounds: 100, warmup: 20, warmup_loops: 10, loops: 2, life: 10, steps: 30,
            batch_size: 400, samples: 160000, lr: 0.004, latent: 1000, rows_per_layer: null, bn: 10,
            adv: 1.33, learn_stats: false, student_steps: 400, student_lr: 0.2, student_batch: 512,
            student_decay: 0.0001, student_text: 0}

CIFAR-100 takes 40 steps; Tiny-ImageNet 60, in batches of 200 and 4 loops (20 in the warm-up), with 1000
student steps of 256 at 0.1. Images of 128 pixels and more come from a deeper generator, as in the code.

Shapes: B batch, C classes, D width of e_y.
"""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import Any, NamedTuple

import torch
import torch.nn.functional as F
from torch import Tensor, nn, optim

from fcil.data import normalise
from fcil.losses import Statistics, masked_adversarial, record_statistics, statistics_distance, update_averages
from fcil.nets import NoisyGenerator
from fcil.optimizer import Adam
from fcil.rng import generator, seeded
from fcil.synthesis.common.base import SynthesisProblem
from fcil.synthesis.common.inner_loop import BestBatch, LossHistory, readable, sample_labels
from fcil.synthesis.common.pool import to_bytes
from fcil.synthesis.common.preconditions import check_classes_can_be_made
from fcil.synthesis.common.student import distillation, student_of
from fcil.synthesis.families.noisy_layer import SIDES, NoisyLayerLoop, NoisyLayerReplica
from fcil.types import Output, Tensors, Terms

__all__ = ["ALONE", "NAYER", "SIDES", "NoisyLayerReplica", "Optimised"]

ALONE: dict[str, Any] = {
    "schedule": "nayer",
    "rounds": 100,
    "warmup": 20,
    "warmup_loops": 10,
    "loops": 2,
    "life": 10,
    "steps": 30,
    "batch_size": 400,
    "samples": 160_000,
    "lr": 4e-3,
    "latent": 1000,
    "rows_per_layer": None,
    "bn": 10.0,
    "adv": 1.33,
    "learn_stats": False,
    "student_steps": 400,
    "student_lr": 0.2,
    "student_batch": 512,
    "student_decay": 1e-4,
    "student_text": 0.0,
}
"""NAYER as its own code runs it for 100 rounds on CIFAR-10: `create("nayer", **ALONE)`."""


class Optimised(NamedTuple):
    """Result of one inner loop."""

    kept: Tensor  # (B, channels, H, W) in [0, 1], of the step with the lowest loss
    statistics: Tensor  # (2, channels), the mean and deviation of that step
    terms: dict[str, Tensor]  # each (steps,), measured before the step


@dataclass(frozen=True, kw_only=True)
class NAYER(NoisyLayerLoop):
    """Noisy-layer generation from label-text embeddings."""

    def checked(self, problem: SynthesisProblem) -> SynthesisProblem:
        super().checked(problem)
        check_classes_can_be_made(self.name, problem, lambda: self._new_generator(problem))
        return problem

    def start(self, problem: SynthesisProblem, chain: int) -> NoisyLayerReplica:
        s = self.settled
        channels, device = problem.shape[0], problem.device
        spread = 0.2 if s.sigma == "free" else math.log(math.expm1(0.2))  # softplus(spread) = 0.2
        made = NoisyLayerReplica(
            number=chain,
            generator=self._generator(problem, chain, life=0),
            student=student_of(problem, s.student_start or "fresh", *problem.key, chain),
            mean=nn.Parameter(torch.full((channels,), 0.5, device=device)),
            spread=nn.Parameter(torch.full((channels,), spread, device=device)),
        )
        made.beyond = self.beyond(problem, made)
        if self.schedule == "nayer" and self.teaches(problem):
            made.teaching = self.sgd(self.learners(problem, made))
        return made

    def beyond(self, problem: SynthesisProblem, chain: NoisyLayerReplica) -> Any:
        """Return the extra state of a method that builds on this one; none here."""
        return None

    def episode(self, problem: SynthesisProblem, chain: NoisyLayerReplica, number: int) -> dict[str, float]:
        s, key, now = self.settled, (*problem.key, chain.number, number), self.moment(number)
        rng = generator(*key, "labels and noise")
        if now.rebuild:
            chain.generator = self._generator(problem, chain.number, life=number)
        history: list[Terms] = []
        for loop in range(now.loops):
            chain.student.train(loop > 0 and s.student_mode == "reference")
            labels = self.requested(problem, rng)
            chain.generator.redraw(rng)
            found = self.optimise(problem, chain, labels, adversarial=now.adversarial, rng=rng)
            history.append(found.terms)
            if now.keep:
                chain.keep(to_bytes(found.kept, s.rounding or "round"), labels)
                chain.statistics.append(found.statistics)
        means = {name: torch.cat([terms[name] for terms in history]).mean() for name in history[0]}
        if now.teach and self.student_steps and self.teaches(problem):
            means |= self.teach(problem, chain, key, now.past)
        chain.student.eval()
        return readable(means, number)

    def requested(self, problem: SynthesisProblem, rng: torch.Generator) -> Tensor:
        """Return labels of one batch (B,): whole sweeps over the classes, then a random rest."""
        return sample_labels(problem, self.batch_size, "balanced", rng)

    def optimise(
        self,
        problem: SynthesisProblem,
        chain: NoisyLayerReplica,
        labels: Tensor,
        *,
        adversarial: bool,
        rng: torch.Generator,
    ) -> Optimised:
        """Run one inner loop: `steps` Adam steps, with a fresh Adam, on one batch of labels."""
        groups = [{"params": list(chain.generator.parameters()), "lr": self.lr}]
        if self.learn_stats:
            groups.append({"params": [chain.mean, chain.spread], "lr": self.stats_lr})
        adam = Adam(groups, betas=(0.5, 0.999), fused=True)
        lowest, history = BestBatch(), LossHistory()
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
            history.add(terms, loss)
        chain.averages = update_averages(chain.averages, statistics, self.bn_momentum)
        kept, under = lowest.kept
        return Optimised(kept, under, history.terms)

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
        """Return the weighted terms of L for a batch of raw images (B, channels, H, W)."""
        mean, std = self.statistics(problem, chain)
        x = normalise(problem.augment(images, rng), mean, std)
        with record_statistics(problem.teacher) as statistics:
            teacher = problem.teacher(x)
        student = chain.student(x) if adversarial and self.adv else None
        return self.weighted(problem, chain, labels, statistics, teacher, student), statistics

    def weighted(
        self,
        problem: SynthesisProblem,
        chain: NoisyLayerReplica,
        labels: Tensor,
        statistics: Statistics,
        teacher: Output,
        student: Output | None,
    ) -> Terms:
        """Return the terms of L from the outputs of both nets; without a student's there is no adversarial one."""
        terms = {"bn": self.bn * self.distance(problem, chain, statistics)} if self.bn else {}
        terms["ce"] = self.ce * F.cross_entropy(teacher.logits, labels)
        if student is not None and self.adv:
            terms["adv"] = self.adv * masked_adversarial(student.logits, teacher.logits)
        return terms | problem.bounded(teacher.embedding, labels)

    def distance(self, problem: SynthesisProblem, chain: NoisyLayerReplica, statistics: Statistics) -> Tensor:
        """Return the unweighted distance of batch statistics from the teacher's running batch-norm statistics."""
        return statistics_distance(problem.teacher, statistics, chain.averages, self.bn_momentum)

    def statistics(self, problem: SynthesisProblem, chain: NoisyLayerReplica) -> tuple[Tensor, Tensor]:
        """Return the mean and deviation (channels,) that normalise the teacher's input."""
        if not self.learn_stats:
            return problem.mean, problem.std
        return chain.mean, chain.spread if self.settled.sigma == "free" else F.softplus(chain.spread)

    def learners(self, problem: SynthesisProblem, chain: NoisyLayerReplica) -> list[nn.Parameter]:
        """Return the parameters that are trained on the pool."""
        return list(chain.student.parameters())

    def optimizer(self, problem: SynthesisProblem, chain: NoisyLayerReplica, past: float) -> optim.SGD:
        """Return the optimizer of all episodes at its present rate, or a new one where each episode has its own."""
        if chain.teaching is None:
            return self.sgd(self.learners(problem, chain))
        return super().optimizer(problem, chain, past)

    def lesson(self, student: Output, teacher: Output) -> Terms:
        return distillation(student, teacher, self.temperature, self.student_text)

    def teaches(self, problem: SynthesisProblem) -> bool:
        """Whether there is something that learns from the pool here."""
        return problem.teaches

    def pool(self, problem: SynthesisProblem, chain: NoisyLayerReplica) -> Tensors:
        rows = self.rows(chain)
        return {name: t[rows] for name, t in ({"x": torch.cat(chain.images)} | self.about(chain)).items()}

    def about(self, chain: NoisyLayerReplica) -> Tensors:
        """Return the label of every kept image, and the statistics it was made under."""
        about = {"y": torch.cat(chain.labels)}
        if self.learn_stats and self.settled.stats == "carry":
            made_under = torch.stack(chain.statistics).repeat_interleave(self.batch_size, dim=0)  # (N, 2, channels)
            about |= {"mean": made_under[:, 0], "std": made_under[:, 1]}
        return about

    def rows(self, chain: NoisyLayerReplica) -> Tensor | slice:
        """Return which of all kept images are in the pool."""
        return chain.rows(self.share(chain.number), self.settled.cut or "latest")

    def _generator(self, problem: SynthesisProblem, chain: int, life: int) -> NoisyGenerator:
        with seeded(*problem.key, chain, "generator", life):
            return self._new_generator(problem).to(problem.device)

    def _new_generator(self, problem: SynthesisProblem) -> NoisyGenerator:
        assert problem.anchors is not None
        return NoisyGenerator(
            problem.anchors,
            problem.shape,
            self.batch_size,
            latent=self.latent,
            width=self.width,
            rows_per_layer=self.rows_of(len(problem.labels)),
        )
