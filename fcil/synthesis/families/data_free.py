"""The shared loss of DAFL, ZSKT, DFQ and DFAD: five terms, weighted differently by each method.

After GenerativeSynthesizer of github.com/zju-vipa/DataFree @ 9e79fa9. T is the teacher, S the student, G the generator
of images x, f the features that T's classifier reads, q the mean prediction of T over a batch:

    L  = bn sum_l ||V_l - v_l|| + ||M_l - m_l||      T sees statistics that it remembers
       + ce CE(T(x), argmax T(x))                    an image is surely of some class
       + balance sum_k q_k log q_k                   a batch has as much of every class
       - act mean |f|                                T is excited
       - adv D(T(x), S(x))                           T and S disagree
       + bound(g(x), e_argmax)                       where the caller asks for one

    L_S = D(T(x), S(x))                              on fresh x, for several steps to one of G

D is the KL of the predictions, T's in front, or the mean absolute difference of logits. Where only some classes are
requested, the argmax and q are over those.

In the driver of the reference its temperature does not reach L_S, whose T is 1; here 1 is the default, and
other values take effect. In that of Fast-Datafree S is T itself, and they never disagree: such a pair is refused.

Shapes: B batch, C classes, n width of the noise, (c, H, W) an image.
"""

from __future__ import annotations

from contextlib import nullcontext
from dataclasses import dataclass, replace
from typing import Annotated, ClassVar, Literal, Self, cast

import torch
import torch.nn.functional as F
from pydantic import Field
from torch import Tensor

from fcil.losses import Statistics, record_statistics, statistics_distance
from fcil.nets import Net
from fcil.synthesis.common.base import Learns, Recipe, SynthesisProblem
from fcil.synthesis.common.inner_loop import target_classes
from fcil.synthesis.common.losses import activation, disagreement, negative_entropy
from fcil.synthesis.families.generator_loop import GeneratorLoop, GeneratorReplica
from fcil.synthesis.families.with_student import TEACHING, WithStudent
from fcil.types import Count, NonNegative, Positive, Terms, Weight


@dataclass(frozen=True, kw_only=True)
class AdversarialLoop(GeneratorLoop, WithStudent):
    """A generator with any of five terms, and a student for their disagreement."""

    bn: Weight = 0.0
    """Weight of batch-norm matching."""
    ce: Weight = 0.0
    """Weight of the cross-entropy with the teacher's own prediction (`oh`)."""
    balance: Weight = 0.0
    """Weight of the class balance, the negative entropy of the mean prediction."""
    act: Weight = 0.0
    """Weight of the mean absolute feature."""
    adv: NonNegative = 0.0
    distance: Literal["kl", "l1"] = "kl"
    """Measure of the disagreement: KL of the predictions, or mean absolute difference of logits."""
    student_steps: Count = 5
    """Student steps to one of the generator, each on a new batch (`kd_steps`)."""
    student_batch: Annotated[int, Field(ge=2)] = 256
    temperature: Positive = 1.0
    """Temperature of both nets in the student's KL, which then carries T^2; the generator's has none (`T`)."""

    student_first: ClassVar[bool] = False
    """Whether an alternation begins with the student."""

    def __post_init__(self) -> None:
        super().__post_init__()
        if not (self.bn or self.ce or self.balance or self.act or self.adv):
            raise ValueError("bn, ce, balance, act and adv are all 0, and so there is nothing to learn")
        if self.distance == "l1" and self.temperature != 1:
            raise ValueError(f"temperature: {self.temperature} softens a KL, and distance is l1; leave it out")

    recipe: ClassVar[Recipe] = Recipe(learns="within")

    def unread(self, learns: Learns | None) -> dict[str, str]:
        if not self.adv and learns != "within":
            return dict.fromkeys((*TEACHING, "distance"), "adv is 0, so there is no student to learn by it")
        return super().unread(learns)

    def smoke(self) -> Self:
        return replace(super().smoke(), student_steps=1, student_batch=min(self.student_batch, 32))

    @property
    def required(self) -> frozenset[str]:
        return frozenset({"batchnorm"}) if self.bn else frozenset()

    def start(self, problem: SynthesisProblem, chain: int) -> GeneratorReplica:
        state = super().start(problem, chain)
        state.student, state.teaching = self.own_student(problem, chain)
        return state

    def episode(self, problem: SynthesisProblem, chain: GeneratorReplica, number: int) -> dict[str, float]:
        if chain.teaching is not None:
            chain.teaching.param_groups[0]["lr"] = self.rate((number - 1) / self.episodes)
        return super().episode(problem, chain, number)

    def alternate(self, problem: SynthesisProblem, chain: GeneratorReplica, step: int, rng: torch.Generator) -> Terms:
        if chain.student is not None:
            chain.student.eval()
        taught = self.teach(problem, chain, rng) if self.student_first else {}
        found = super().alternate(problem, chain, step, rng)
        return found | (taught if self.student_first else self.teach(problem, chain, rng))

    def terms(self, problem: SynthesisProblem, chain: GeneratorReplica, x: Tensor) -> Terms:
        with record_statistics(problem.teacher) if self.bn else nullcontext(Statistics()) as statistics:
            out = problem.teacher(x)
        wanted = target_classes(problem)
        among = out.logits[:, wanted]  # (B, classes asked for)
        answers, terms = wanted[among.argmax(dim=1)], Terms()
        if self.bn:
            terms["bn"] = self.bn * statistics_distance(problem.teacher, statistics)
        if self.ce:
            terms["ce"] = self.ce * F.cross_entropy(out.logits, answers)
        if self.balance:
            terms["balance"] = self.balance * negative_entropy(among)
        if self.act:
            terms["act"] = self.act * activation(out.features)
        if self.adv:
            student = cast(Net, chain.student)(x)
            terms["adv"] = -self.adv * disagreement(student.logits, out.logits, self.distance)
        return terms | problem.bounded(out.embedding, answers)

    def teach(self, problem: SynthesisProblem, chain: GeneratorReplica, rng: torch.Generator) -> Terms:
        """Run the student's steps, where it is trained here; return the mean of its loss."""
        if chain.student is None or chain.teaching is None:
            return {}
        student, total = chain.student.train().requires_grad_(True), torch.zeros((), device=problem.device)
        for _ in range(self.student_steps):
            with problem.autocast():
                x = self.fresh(problem, chain, self.student_batch, rng)
                with torch.no_grad():
                    teacher = problem.teacher(x).logits
                loss = disagreement(student(x).logits, teacher, self.distance, self.temperature)
            chain.teaching.zero_grad(set_to_none=True)
            loss.backward()  # type: ignore[no-untyped-call]
            chain.teaching.step()
            total += loss.detach()
        student.eval().requires_grad_(False)
        return {f"student_{self.distance}": total / self.student_steps}
