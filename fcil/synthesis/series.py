"""Series: labelled time series from label-text embeddings through a noisy layer, one axis of NAYER's images.

A composition of published parts, without a paper of its own. The noisy layer between the embedding e_y and the
convolutions, drawn anew for every batch, the student and the rhythm are NAYER's in the form of LANDER (Tran et al.,
CVPR 2024, arXiv:2310.00258 and 2403.14101; `fcil/synthesis/nayer.py`). The generator has one axis, and a mean and a
deviation for each channel that are learnt, as LANDER's for images; priors of series stand in for those of images:

    x  = G(Z(e_y)),   x' = augment(x)                    normalised as the nets' input is
    L  = bn sum_l ||V_l - v_l|| + ||M_l - m_l||          batch statistics of the teacher's inputs, over batch and steps
       + ce CE(T(x'), y)
       - adv mean_i KL(T(x'_i) || S(x'_i)) [argmax T = argmax S]
       + spectral sum_f (f / F)^2 |X_f|^2 / sum_f |X_f|^2    power lies at low frequencies
       + smooth mean |x_{t+1} - x_t|                     total variation in time
       + correlation mean (r_i - r_y)^2                  channels of a class go together in the same way
       + bound(g(x'), e_y)                               where the caller asks for one

Each episode keeps the batch of its lowest L, as floats; the student S learns from what was kept. All series have the
full length: nothing is padded. No statistic of real data is used but the teacher's.

Shapes: B batch, C classes, D width of e_y, (c, L) a series.
"""

from __future__ import annotations

from dataclasses import dataclass, replace
from typing import Annotated, ClassVar, Self

import torch
import torch.nn.functional as F
from pydantic import Field
from torch import Tensor, optim

from fcil.data import normalise
from fcil.losses import (
    Averages,
    Statistics,
    masked_adversarial,
    record_statistics,
    statistics_distance,
    update_averages,
)
from fcil.nets import Net
from fcil.nets.series.generators import NoisySeriesGenerator
from fcil.optimizer import Adam
from fcil.rng import generator, seeded
from fcil.synthesis.common.base import SynthesisProblem
from fcil.synthesis.common.inner_loop import Batches, BestBatch, LossHistory, readable, sample_labels
from fcil.synthesis.common.preconditions import check_series_can_be_made
from fcil.synthesis.common.series_losses import correlations_apart, roughness, total_variation
from fcil.synthesis.common.student import distillation, student_of, train_student
from fcil.synthesis.families.noisy_layer import Share, rows_of_a_layer
from fcil.synthesis.families.with_student import WithStudent
from fcil.types import Count, Index, Positive, Tensors, Terms, Weight


@dataclass
class SeriesReplica(Batches):
    """The state of one generator and its student."""

    generator: NoisySeriesGenerator
    student: Net
    averages: Averages | None = None


@dataclass(frozen=True, kw_only=True)
class Series(WithStudent):
    """Noisy-layer generation of time series."""

    samples: Count = 1_280
    rounds: Count = 20
    """Episodes after the warm-up, whose batches enter the pool."""
    warmup: Index = 5
    """Episodes before them, in which the student does not learn."""
    steps: Count = 40
    """Generator steps per episode."""
    batch_size: Annotated[int, Field(ge=2)] = 64
    """Samples per generator step."""
    lr: Positive = 2e-3
    """Adam's rate for the generator."""
    scale_lr: Positive = 1e-2
    """Adam's rate for the learnt mean and deviation of each channel."""
    latent: Count = 64
    """Outputs of a noisy layer."""
    width: Count = 32
    """Channels of the generator's last stage."""
    bn: Weight = 1.0
    """Weight of batch-norm matching; a net without batch-norm needs 0."""
    bn_momentum: Share = 0.9
    """Share of the past in the matched statistics; 0 matches every batch by itself."""
    ce: Weight = 0.5
    """Weight of the cross-entropy to the target class."""
    spectral: Weight = 0.1
    """Weight of the share of power at high frequencies."""
    smooth: Weight = 0.01
    """Weight of the total variation in time."""
    correlation: Weight = 0.1
    """Weight of the spread of a class's correlations between channels; without effect on one channel."""
    student_steps: Index = 50
    """Student steps per episode after the warm-up."""
    student_batch: Count = 64
    student_text: Weight = 5.0
    """Weight of matching the label-text heads of teacher and student, where there are any."""

    needs: ClassVar[frozenset[str]] = frozenset({"anchors", "batchnorm"})
    makes = frozenset({"series"})

    # Settings ---------------------------------------------------------------------------------

    def smoke(self) -> Self:
        batch, taught = min(self.batch_size, 32), min(self.student_steps, 1)
        return replace(self, rounds=3, warmup=0, steps=2, batch_size=batch, student_steps=taught)

    @property
    def required(self) -> frozenset[str]:
        return self.needs if self.bn else self.needs - {"batchnorm"}

    @property
    def episodes(self) -> int:
        """Return the episodes of a chain: every chain warms up; the rounds that are kept are shared."""
        return self.warmup + -(-self.rounds // self.chains)

    def checked(self, problem: SynthesisProblem) -> SynthesisProblem:
        super().checked(problem)
        check_series_can_be_made(self.name, problem, lambda: self._new_generator(problem))
        return problem

    # Method -----------------------------------------------------------------------------------

    def start(self, problem: SynthesisProblem, chain: int) -> SeriesReplica:
        with seeded(*problem.key, chain, "generator"):
            made = self._new_generator(problem).to(problem.device)
        return SeriesReplica(chain, made, student_of(problem, "fresh", *problem.key, chain))

    def _new_generator(self, problem: SynthesisProblem) -> NoisySeriesGenerator:
        assert problem.anchors is not None
        rows = rows_of_a_layer(len(problem.labels))
        return NoisySeriesGenerator(problem.anchors, problem.shape, self.batch_size, self.latent, self.width, rows)

    def episode(self, problem: SynthesisProblem, chain: SeriesReplica, number: int) -> dict[str, float]:
        key, warm = (*problem.key, chain.number, number), number <= self.warmup
        rng = generator(*key, "labels and noise")
        labels = sample_labels(problem, self.batch_size, "balanced", rng)
        chain.generator.redraw(rng)
        kept, terms = self.optimise(problem, chain, labels, adversarial=number > self.warmup + 2, rng=rng)
        means = {name: values.mean() for name, values in terms.items()}
        if not warm:
            chain.keep(kept, labels)
            if self.student_steps and problem.teaches:
                means |= self.teach(problem, chain, (number - self.warmup - 1) / (self.episodes - self.warmup), number)
        return readable(means, number)

    def optimise(
        self,
        problem: SynthesisProblem,
        chain: SeriesReplica,
        labels: Tensor,
        *,
        adversarial: bool,
        rng: torch.Generator,
    ) -> tuple[Tensor, Terms]:
        """Run `steps` Adam steps, with a fresh Adam, on one batch of labels.

        Returns:
            The series (B, c, L) of the step with the lowest loss, of the scale of the data, and each term (steps,),
            measured before the step.
        """
        scale = list(chain.generator.scale.parameters())
        others = [p for name, p in chain.generator.named_parameters() if not name.startswith("scale.")]
        adam = Adam([{"params": others, "lr": self.lr}, {"params": scale, "lr": self.scale_lr}], betas=(0.5, 0.999),
                    fused=True)  # fmt: skip
        lowest, history = BestBatch(), LossHistory()
        statistics: Statistics = {}
        for _ in range(self.steps):
            with problem.autocast():
                series = chain.generator(labels).to(problem.mean)
                terms, statistics = self.terms(problem, chain, series, labels, adversarial=adversarial, rng=rng)
            loss = torch.stack(list(terms.values())).sum()
            adam.zero_grad(set_to_none=True)
            loss.backward()  # type: ignore[no-untyped-call]
            adam.step()
            lowest.offer(loss, series)
            history.add(terms, loss)
        if statistics:
            chain.averages = update_averages(chain.averages, statistics, self.bn_momentum)
        mean, std = (t[:, None] for t in (problem.mean, problem.std))
        return lowest.kept[0] * std + mean, history.terms

    def terms(
        self,
        problem: SynthesisProblem,
        chain: SeriesReplica,
        series: Tensor,
        labels: Tensor,
        *,
        adversarial: bool,
        rng: torch.Generator,
    ) -> tuple[Terms, Statistics]:
        """Return the weighted terms of L for a batch of series (B, c, L), normalised, and the statistics they gave."""
        mean, std = (t[:, None] for t in (problem.mean, problem.std))
        x = normalise(problem.augment(series * std + mean, rng), problem.mean, problem.std)
        with record_statistics(problem.teacher) as statistics:
            teacher = problem.teacher(x)
        terms = {"ce": self.ce * F.cross_entropy(teacher.logits, labels)}
        if self.bn:
            distance = statistics_distance(problem.teacher, statistics, chain.averages, self.bn_momentum)
            terms["bn"] = self.bn * distance
        if adversarial and self.adv:
            terms["adv"] = self.adv * masked_adversarial(chain.student(x).logits, teacher.logits)
        if self.spectral:
            terms["spectral"] = self.spectral * roughness(series)
        if self.smooth:
            terms["smooth"] = self.smooth * total_variation(series)
        if self.correlation and series.shape[1] > 1:
            terms["correlation"] = self.correlation * correlations_apart(series, labels)
        return terms | problem.bounded(teacher.embedding, labels), dict(statistics)

    def teach(self, problem: SynthesisProblem, chain: SeriesReplica, past: float, number: int) -> Tensors:
        """Train the student on the pool so far, with a new optimizer; its terms are reported as `student_...`."""
        teaching: optim.SGD = self.sgd(chain.student.parameters())
        teaching.param_groups[0]["lr"] = self.rate(past)
        means = train_student(
            chain.student,
            problem,
            self.pool(problem, chain),
            lambda student, teacher: distillation(student, teacher, self.temperature, self.student_text),
            steps=self.student_steps,
            batch_size=self.student_batch,
            optimizer=teaching,
            key=(*problem.key, chain.number, number),
        )
        return {f"student_{name}": value for name, value in means.items()}

    def pool(self, problem: SynthesisProblem, chain: SeriesReplica) -> Tensors:
        """Return the latest series, `x` float32 (N, c, L) of the scale of the data, and their requested labels."""
        share = self.share(chain.number)
        return {"x": torch.cat(chain.images)[-share:].float(), "y": torch.cat(chain.labels)[-share:]}
