"""The server-side student: a net that learns from synthetic samples what the teacher knows.

During synthesis it tells the generator where samples are still informative (the adversarial
term); on its own it is the goal of data-free distillation.
"""

from __future__ import annotations

import copy
import math
from collections.abc import Callable
from typing import Literal

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from fcil.losses import kl_divergence
from fcil.nets import FeaturesAhead, Net
from fcil.nets.series import GenericBranch, ShapeletBank, draw_convolution
from fcil.rng import Key, drawing, generator, seeded
from fcil.synthesis.common.base import SynthesisProblem
from fcil.synthesis.common.pool import views_ahead
from fcil.types import Output, Tensors, Terms

_REDRAWN = (nn.Linear, nn.GroupNorm, nn.LayerNorm, GenericBranch, ShapeletBank)
"""Modules that draw their parameters anew when asked to."""


def distillation(student: Output, teacher: Output, temperature: float, text_weight: float) -> Terms:
    """Return T^2 KL(teacher/T || student/T) + w mean (g_student - g_teacher)^2, g of the label-text heads."""
    terms = {"kl": kl_divergence(student.logits, teacher.logits, temperature)}
    if text_weight and student.embedding is not None and teacher.embedding is not None:
        terms["embedding"] = text_weight * F.mse_loss(student.embedding, teacher.embedding)
    return terms


def student_of(problem: SynthesisProblem, start: Literal["fresh", "reference"], *key: Key) -> Net:
    """Return the student of the problem, or an untrained copy of the teacher."""
    return problem.student if problem.student is not None else untrained_copy(problem.teacher, start, *key)


def untrained_copy(teacher: Net, start: Literal["fresh", "reference"], *key: Key) -> Net:
    """Return a student of the teacher's architecture that is untrained, or nearly.

    `fresh` draws every weight anew. `reference` does what the released code of LANDER does: it
    redraws convolutions, batch-norm gains and the label-text head, but its classifier and the
    batch-norm statistics stay the teacher's.
    """
    device = teacher.classifier.weight.device
    student = copy.deepcopy(teacher).cpu()  # drawn there, so that it is the same on every device
    student.still = False  # it is trained whole, whatever the teacher was
    with seeded(*key, "student"):
        for module in student.modules():
            if start == "fresh":
                _draw_fresh(module)
            elif module is not student.classifier:
                _draw_as_reference(module)
    return student.requires_grad_(False).eval().to(device)


def _draw_fresh(module: nn.Module) -> None:
    if isinstance(module, nn.Conv2d):
        nn.init.kaiming_normal_(module.weight, mode="fan_out", nonlinearity="relu")
    elif isinstance(module, nn.Conv1d):
        draw_convolution(module)
    elif isinstance(module, (*_REDRAWN, nn.modules.batchnorm._BatchNorm)):
        module.reset_parameters()


def _draw_as_reference(module: nn.Module) -> None:
    if isinstance(module, nn.Conv1d | nn.Conv2d):
        nn.init.xavier_normal_(module.weight)
    elif isinstance(module, nn.modules.batchnorm._BatchNorm):
        nn.init.normal_(module.weight, 1.0, 0.02)
        nn.init.zeros_(module.bias)
    elif isinstance(module, nn.Linear):
        nn.init.xavier_normal_(module.weight)
        nn.init.normal_(module.bias)


def cosine(first: float, last: float, past: float) -> float:
    """Return the value on half a cosine from `first` towards `last` after the share `past` in [0, 1)."""
    return last + (first - last) * ((1 + math.cos(math.pi * past)) / 2)


def train_student(
    student: Net,
    problem: SynthesisProblem,
    pool: Tensors,
    loss: Callable[[Output, Output], Terms],
    *,
    steps: int,
    batch_size: int,
    optimizer: torch.optim.Optimizer,
    key: tuple[Key, ...],
) -> dict[str, Tensor]:
    """Run `steps` steps on random views of the pool; return the mean of each term, on the device."""
    rng = generator(*key, "student batches")
    student.train().requires_grad_(True)
    sums: dict[str, Tensor] = {}
    teacher, place = FeaturesAhead(problem.teacher), (problem.mean, problem.std, problem.device)
    views = views_ahead(pool, batch_size, problem.augment, rng, *place, lambda: left)
    for left in range(steps, 0, -1):
        x = next(views)
        with problem.autocast():
            target = teacher.output(x)
            with drawing(*key, "draws of nets", left):
                terms = loss(student(x), target)
        optimizer.zero_grad(set_to_none=True)
        torch.stack(list(terms.values())).sum().backward()  # type: ignore[no-untyped-call]
        optimizer.step()
        for name, term in terms.items():
            sums[name] = sums.get(name, 0) + term.detach()
    student.eval().requires_grad_(False)
    return {name: total / steps for name, total in sums.items()}
