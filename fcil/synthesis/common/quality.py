"""Quality of a pool of synthetic samples, measured with the net it was made from."""

from __future__ import annotations

from dataclasses import dataclass

import torch
import torch.nn.functional as F
from torch import Tensor

from fcil.data import Augment
from fcil.nets import Net
from fcil.rng import generator
from fcil.synthesis.common.losses import bns_score
from fcil.synthesis.common.pool import view
from fcil.types import Tensors

BATCH = 256


@dataclass(frozen=True)
class Quality:
    """Quality measures of a pool."""

    samples: int
    counts: tuple[int, ...]
    """Samples of each class of the net."""
    agreement: float
    """Share of samples that the net predicts as the class they are labelled with."""
    bns: float | None
    """Mean KL divergence between the net's batch-norm statistics and the pool's; None for a net without."""
    diversity: float | None
    """Mean over classes of 1 - cosine between the features of two samples of a class; None where no class has two."""


def quality(net: Net, pool: Tensors, mean: Tensor, std: Tensor) -> Quality:
    """Measure a pool `x`, `y` with a net in eval mode, without augmentation.

    Args:
        mean, std: of the real data (channels,), for samples without statistics of their own.
    """
    still, stream = Augment(), generator("quality")
    logits, features, seen = [], [], []
    with torch.no_grad():
        for rows in torch.split(torch.arange(len(pool["x"]), device=pool["x"].device), BATCH):
            x = view(pool, rows, still, stream, mean, std)
            out = net(x)
            seen.append(x)
            logits.append(out.logits)
            features.append(out.features)
    x, y = torch.cat(seen), pool["y"]
    return Quality(
        samples=len(y),
        counts=tuple(torch.bincount(y, minlength=net.num_classes).tolist()),
        agreement=float((torch.cat(logits).argmax(dim=1) == y).double().mean()),
        bns=float(bns_score(net, x)) if any(name.endswith("running_var") for name, _ in net.named_buffers()) else None,
        diversity=diversity(torch.cat(features), y),
    )


def diversity(features: Tensor, labels: Tensor) -> float | None:
    """Return 1 - mean cosine between features (N, F) of two samples of a class, averaged over classes with two or more.

    0 where all samples of a class have the same features. The sum over pairs is |sum f|^2 - n for unit features f.
    """
    unit, found = F.normalize(features.double(), dim=1), []
    for label in sorted(set(labels.tolist())):
        own = unit[labels == label]
        count = len(own)
        if count > 1:
            pairs = own.sum(dim=0).square().sum() - own.square().sum()
            found.append(1 - float(pairs) / (count * (count - 1)))
    return sum(found) / len(found) if found else None
