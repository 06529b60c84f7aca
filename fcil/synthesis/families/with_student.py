"""Methods with a student: it shows where samples are still informative, and is trained between episodes.

A student that the caller provides is used in the same way, and trained by the caller.
"""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass, replace
from typing import Any, Literal, Self

from torch import Tensor, nn, optim

from fcil.nets import Net
from fcil.optimizer import SGD
from fcil.rng import Key
from fcil.synthesis.common.base import Learns, SynthesisProblem, Synthesizer
from fcil.synthesis.common.fidelity import WithFidelity
from fcil.synthesis.common.inner_loop import Batchwise
from fcil.synthesis.common.preconditions import no_judge_of_itself
from fcil.synthesis.common.student import cosine, distillation, student_of, train_student
from fcil.types import Count, Index, NonNegative, Output, Positive, Terms, Weight

TEACHING = ("student_steps", "student_lr", "student_lr_end", "student_batch", "student_decay", "temperature")
"""Settings of a student that the method teaches."""


@dataclass(frozen=True, kw_only=True)
class WithStudent(Synthesizer):
    """Settings of a student, and its initial state."""

    adv: Weight = 1.0
    """Weight of the disagreement with the student; at 0 there is no student."""
    student_steps: Index = 400
    """Student steps per episode in which it learns (`kd_steps`)."""
    student_lr: Positive = 0.1
    """SGD rate with which the student begins; a cosine over its episodes, with constant momentum 0.9."""
    student_lr_end: NonNegative = 2e-4
    """SGD rate at the end of the cosine."""
    student_batch: Count = 256
    """Samples per student step."""
    student_decay: NonNegative = 1e-4
    """Weight decay of the student."""
    temperature: Positive = 20.0
    """Temperature of teacher and student in the student's loss (`T`), which carries T^2."""

    can_teach = True

    def unread(self, learns: Learns | None) -> dict[str, str]:
        if learns == "between":
            return dict.fromkeys(TEACHING, "the student learns between episodes, by `student` and `distiller`")
        return {}

    def checked(self, problem: SynthesisProblem) -> SynthesisProblem:
        no_judge_of_itself(self.name, super().checked(problem), self.adv)
        return problem

    def sgd(self, parameters: Iterable[nn.Parameter]) -> optim.SGD:
        """Return a new optimizer of a student."""
        return SGD(parameters, lr=self.student_lr, momentum=0.9, weight_decay=self.student_decay, fused=True)

    def own_student(self, problem: SynthesisProblem, chain: int) -> tuple[Net | None, optim.SGD | None]:
        """The student, where anything asks it or it is to be taught; and its optimizer, where it is ours to teach."""
        if not self.adv and problem.student_learns == "caller":
            return None, None
        no_judge_of_itself(self.name, problem, self.adv)
        student = student_of(problem, "fresh", *problem.key, chain)
        return student, self.sgd(student.parameters()) if problem.teaches else None

    def rate(self, past: float) -> float:
        """Return the student's rate after the share `past`, in [0, 1), of its episodes."""
        return cosine(self.student_lr, self.student_lr_end, past)


@dataclass(frozen=True, kw_only=True)
class PoolStudentLoop(WithStudent, WithFidelity, Batchwise):
    """A method that fills a pool batch by batch, from which its student learns."""

    rounding: Literal["round", "floor"] | None = None
    """Conversion of [0, 1] to 8 bits: nearest (ours), or truncated as the reference's image files are."""

    def smoke(self) -> Self:
        batch, student_steps = min(self.batch_size, 32), min(self.student_steps, 1)
        return replace(self, rounds=3, steps=2, batch_size=batch, student_steps=student_steps)

    def lesson(self, student: Output, teacher: Output) -> Terms:
        """Return the weighted terms of the student's loss."""
        return distillation(student, teacher, self.temperature, 0.0)

    def optimizer(self, problem: SynthesisProblem, chain: Any, past: float) -> optim.SGD:
        """Return the optimizer of all episodes of a chain, `chain.teaching`, at its present rate."""
        teaching: optim.SGD = chain.teaching
        teaching.param_groups[0]["lr"] = self.rate(past)
        return teaching

    def teach(
        self, problem: SynthesisProblem, chain: Any, key: tuple[Key, ...], past: float = 0.0
    ) -> dict[str, Tensor]:
        """Train the student, `chain.student`, on the pool so far; its loss terms are reported as `student_...`.

        Args:
            past: the share of the student's episodes that is done, in [0, 1).
        """
        means = train_student(
            chain.student,
            problem,
            self.pool(problem, chain),
            self.lesson,
            steps=self.student_steps,
            batch_size=self.student_batch,
            optimizer=self.optimizer(problem, chain, past),
            key=key,
        )
        return {f"student_{name}": value for name, value in means.items()}
