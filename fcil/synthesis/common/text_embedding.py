"""A student's text embedding: a linear layer P maps its features to the text embeddings of classes.

The parts of MUSE's embedding diversity (`fcil.synthesis.muse`), as pure functions, and the training of P on its
own.

    d_i = |P(h_i) - e_i|^2 / D        h the student's features, e the text embedding of the label

Shapes: B batch, N samples observed, F width of features, D width of texts.
"""

from __future__ import annotations

from itertools import islice

import torch
from torch import Tensor, nn

from fcil.nets import Net
from fcil.rng import Key, seeded
from fcil.synthesis.common.base import SynthesisProblem
from fcil.synthesis.common.pool import endless_rows

MEMORY = 0.9
"""Share of the past in the running mean of d."""


def new_head(student: Net, anchors: Tensor, *key: Key) -> nn.Linear:
    """Return the initial P for the features of a student and anchors (classes, D)."""
    with seeded(*key, "embedding"):
        head = nn.Linear(student.classifier.in_features, anchors.shape[1])
    return head.to(anchors).requires_grad_(False)


def text_distance(head: nn.Linear, features: Tensor, anchors: Tensor) -> Tensor:
    """Return d (B,) for features h (B, F) and anchors e (B, D), one a sample, constant."""
    embedding: Tensor = head(features).to(anchors)
    return (embedding - anchors.detach()).square().mean(dim=1)


def classes_apart(anchors: Tensor) -> Tensor:
    """Return the mean over pairs of classes of |e_c - e_c'|^2 / D for anchors (classes, D); 0 for a single class."""
    return 2 * anchors.var(dim=0).mean() if len(anchors) > 1 else anchors.new_zeros(())


def remembered(before: Tensor | None, now: Tensor) -> Tensor:
    """Return the running mean of d, updated from its earlier value."""
    return now if before is None else MEMORY * before + (1 - MEMORY) * now


def learn_alone(
    head: nn.Linear,
    problem: SynthesisProblem,
    looked: list[tuple[Tensor, Tensor]],
    optimizer: torch.optim.Optimizer,
    rng: torch.Generator,
    *,
    weight: float,
    steps: int,
    batch_size: int,
) -> Tensor:
    """Train P on weight * mean d; return the mean of that.

    Args:
        looked: features (B, F) and labels (B,) of batches. The features of a fixed student do not change, so they
            are computed once for all steps.
    """
    assert problem.anchors is not None
    features, labels = (torch.cat(parts) for parts in zip(*looked, strict=True))  # (N, F), (N,)
    total = torch.zeros((), device=problem.device)
    head.requires_grad_(True)
    for rows in islice(endless_rows(len(labels), batch_size, rng, problem.device), steps):
        with problem.autocast():
            loss = weight * text_distance(head, features[rows], problem.anchors[labels[rows]]).mean()
        optimizer.zero_grad(set_to_none=True)
        loss.backward()  # type: ignore[no-untyped-call]
        optimizer.step()
        total += loss.detach()
    head.requires_grad_(False)
    return total / steps
