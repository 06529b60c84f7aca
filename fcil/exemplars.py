"""Exemplars: the few stored samples of old classes on a client, and their selection.

iCaRL's rules (Rebuffi et al., CVPR 2017, algorithms 4 and 5), which GLFC takes over: a class's
exemplars are herded, so that the mean of the first m is close to the mean of the class for every m;
when the budget of a class shrinks, it keeps the first ones. So the order of exemplars matters.

    kept = renewed(net, client.kept("exemplars"), client.shard, balanced(labels, 2000))

Shapes: n samples, F feature width, C classes seen so far.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence

import torch
import torch.nn.functional as F
from torch import Tensor

from fcil.data import Shard
from fcil.nets import Net

BATCH = 256
"""Samples in a forward without training."""


def herd(features: Tensor, count: int) -> Tensor:
    """Return positions of up to `count` samples, in the order in which their running mean follows the class mean.

        i_k = argmin over those not chosen of |mu - (f_i + sum of chosen)/k|,   mu the mean of f (n, F)

    iCaRL, algorithm 4; iCaRL gives it features of length 1, and mu is not normalised again.
    """
    f = features.double()  # in single precision near ties would depend on the machine
    mean, total = f.mean(dim=0), f.new_zeros(f.shape[1])
    free = torch.ones(len(f), dtype=torch.bool, device=f.device)
    chosen: list[Tensor] = []
    for k in range(1, min(count, len(f)) + 1):
        distance = (mean - (f + total) / k).square().sum(dim=1)  # (n,)
        best = distance.masked_fill(~free, torch.inf).argmin()
        total, free[best] = total + f[best], False
        chosen.append(best)
    return torch.stack(chosen) if chosen else torch.empty(0, dtype=torch.int64, device=f.device)


def balanced(labels: Tensor, budget: int) -> dict[int, int]:
    """Return the number of exemplars of each of the classes in `labels` (n,): equal shares of `budget`.

    The remainder goes to the classes that appeared first, one each, so a share never grows as
    classes are added. A class with fewer samples leaves the rest of its share unused, as in the paper.
    """
    classes = sorted(set(labels.tolist()))  # labels count classes in order of appearance
    return {label: -(-max(0, budget - rank) // len(classes)) for rank, label in enumerate(classes)}


def room_for(met: Sequence[int], budget: int, per_class: int | None) -> int:
    """Return how many exemplars `update_exemplars` stores of `met` images of each class, in order of appearance.

    Args:
        budget: of all classes together, in equal shares.
        per_class: of each class instead; None: `budget` counts.
    """
    shares = balanced(torch.tensor([label for label, count in enumerate(met) if count]), budget)
    return sum(min(met[label], share if per_class is None else per_class) for label, share in shares.items())


def update_exemplars(net: Net, kept: Shard, fresh: Shard, shares: Mapping[int, int]) -> Shard:
    """Return the exemplars after a task: the first of those `kept`, and herded ones of the classes in `fresh`.

    Classes follow one another, each in the order of herding. A class in both is chosen
    anew from `fresh`; a class without a share is dropped.
    """
    f = unit_features(net, fresh)
    parts: list[tuple[Shard, Tensor]] = []
    for label, share in sorted(shares.items()):
        here = torch.nonzero(fresh.labels == label).flatten()
        if len(here):
            parts.append((fresh, here[herd(f[here.to(f.device)], share).to(here.device)]))
        else:
            parts.append((kept, torch.nonzero(kept.labels == label).flatten()[:share]))
    chosen = fresh.select(torch.empty(0, dtype=torch.int64))
    for shard, positions in parts:
        chosen = chosen.joined(shard.select(positions))
    return chosen


def unit_features(net: Net, shard: Shard) -> Tensor:
    """Return the features of every sample, without augmentation, scaled to length 1: (n, F), in eval mode."""
    training = net.training
    net.eval()
    found = [net.classifier.weight.new_empty(0, net.classifier.in_features)]
    with torch.no_grad():
        for batch in shard.batches(BATCH, augment=False, shuffle=False):
            found.append(F.normalize(net(batch.x).features, dim=1))
    net.train(training)
    return torch.cat(found)


def class_sums(features: Tensor, labels: Tensor, num_classes: int) -> tuple[Tensor, Tensor]:
    """Return the sum of every class's features, (C, F), and its number, (C,); sums of clients add up."""
    member = F.one_hot(labels.to(features.device), num_classes).to(features.dtype)  # (n, C)
    return member.T @ features, member.sum(dim=0)


def nearest_mean(features: Tensor, means: Tensor) -> Tensor:
    """Return scores (B, C), the largest for the nearest of the class means (C, F), all of length 1.

    |f - mu|^2 = 2 - 2 f mu, so f mu suffices; the length of features (B, F) does not matter either. A class
    without exemplars has a mean of zeros and is never chosen.
    """
    return (features @ means.T).masked_fill(~means.any(dim=1), -torch.inf)


renewed = update_exemplars  # its name up to 0.1, for the strategies that run folders keep
