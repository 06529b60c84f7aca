"""A small MUSE, and what it is tried on."""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor

from fcil.nets import Net, NetSettings, build_net, frozen
from fcil.rng import generator
from fcil.synthesis import SynthesisProblem
from fcil.synthesis.muse import MUSE
from fcil.types import Terms

SMALL: dict[str, Any] = {
    "rounds": 3,
    "warmup": 1,
    "steps": 2,
    "batch_size": 10,
    "loops": 1,
    "warmup_loops": 2,
    "latent": 8,
    "width": 4,
    "student_steps": 1,
    "student_batch": 4,
}


def small(**settings: Any) -> MUSE:
    return MUSE(**SMALL | settings)


def resnet(key: int = 0, classes: int = 5) -> Net:
    net = build_net(
        NetSettings(name="resnet8", width=4), shape=(3, 8, 8), num_classes=classes, text_width=16, key=(key,)
    )
    return net.eval()


def unsure(teacher: Net) -> Net:
    """A net that answers as the teacher does, with half of its confidence."""
    net = frozen(teacher)
    with torch.no_grad():
        net.classifier.weight.mul_(0.5)
    return net


def terms_of(
    method: MUSE, problem: SynthesisProblem, images: Tensor, labels: Tensor, told: float | None = 0.5
) -> Terms:
    """The terms of one batch, against a student that knows the same less surely, after P has learnt."""
    chain = method.start(problem, 0)
    chain.student = unsure(problem.teacher)
    chain.beyond.told = None if told is None else torch.tensor(told)
    return method.terms(problem, chain, images, labels, adversarial=True, rng=generator(1))[0]


def batch(side: int = 8) -> tuple[Tensor, Tensor]:
    return torch.rand(5, 3, side, side, generator=generator(0)).requires_grad_(), torch.tensor([0, 1, 2, 3, 1])
