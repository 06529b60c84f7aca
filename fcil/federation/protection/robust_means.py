"""The rules by which updates become one, over tensors: a mean, a trimmed mean, and Flower's Krum and Bulyan."""

from __future__ import annotations

from collections.abc import Iterable, Sequence

import numpy as np
import torch
from flwr.app import RecordDict
from flwr.serverapp.strategy.bulyan import aggregate_n_closest_weights
from flwr.serverapp.strategy.multikrum import select_multikrum

from fcil.averaging import Weighting, mean_metrics, weighted_mean
from fcil.errors import TrainingError
from fcil.federation.codec import to_arrays
from fcil.federation.protection.aggregation import Aggregation, Bulyan, Krum, Mean, Median, TrimmedMean
from fcil.types import Tensors, Update


def average(aggregation: Aggregation, updates: Iterable[Update], weighting: Weighting, start: Tensors) -> Update:
    """One update out of many, by a rule; all rules but the mean read every update first.

    Raises:
        TrainingError: too few clients answered for the rule, or they sent different tensors.
    """
    if isinstance(aggregation, Mean):
        return weighted_mean(updates, weighting)
    received = list(updates)
    if problem := aggregation.problem(len(received)):
        raise TrainingError(f"federation.aggregation: {aggregation.name}: {problem}")
    shapes = [{name: t.shape for name, t in update.weights.items()} for update in received]
    if any(shape != shapes[0] for shape in shapes):
        raise TrainingError(f"federation.aggregation: {aggregation.name} needs the same tensors from every client")
    weights = _combined(aggregation, received, weighting, start)
    return Update(weights, sum(u.num_examples for u in received), mean_metrics(u.metrics for u in received))


def _combined(rule: Aggregation, updates: Sequence[Update], weighting: Weighting, start: Tensors) -> Tensors:
    match rule:
        case Median():
            return _trimmed_mean(updates, cut=(len(updates) - 1) // 2)
        case TrimmedMean():
            return _trimmed_mean(updates, cut=int(rule.share * len(updates)))
        case Krum():
            near = _closest(updates, start, rule.malicious, rule.kept)
            return weighted_mean(near, weighting).weights
        case Bulyan():
            near = _closest(updates, start, rule.malicious, len(updates) - 2 * rule.malicious)
            return _near_the_median(near, len(near) - 2 * rule.malicious)
        case _:
            raise NotImplementedError(rule.name)


def _trimmed_mean(updates: Sequence[Update], cut: int) -> Tensors:
    """The mean, number by number, without the `cut` smallest and the `cut` largest."""
    means = {}
    for name, first in updates[0].weights.items():
        stacked = torch.stack([update.weights[name] for update in updates])
        stacked = stacked if stacked.is_floating_point() else stacked.double()
        # NumPy's sort is several times as fast as torch's along this axis, and makes no indices.
        ranked = torch.from_numpy(np.sort(stacked.cpu().numpy(), axis=0))
        means[name] = ranked[cut : len(updates) - cut].mean(0).to(first.device)
    return means


def _near_the_median(updates: Sequence[Update], count: int) -> Tensors:
    """The mean, number by number, of the `count` values that lie nearest to the median."""
    medians = _trimmed_mean(updates, cut=(len(updates) - 1) // 2)
    layers = [[update.weights[name].cpu().numpy() for name in medians] for update in updates]
    means = aggregate_n_closest_weights([t.cpu().numpy() for t in medians.values()], layers, count)
    return {name: torch.as_tensor(mean).to(medians[name].device) for name, mean in zip(medians, means, strict=True)}


def _closest(updates: Sequence[Update], start: Tensors, malicious: int, keep: int) -> list[Update]:
    """The `keep` updates that lie closest to their neighbours, as Krum counts."""
    # Differs: steps from `start` are compared, and real numbers alone. Of whole nets, |a|^2 + |b|^2 - 2ab
    # can be off by more than two clients differ; and batch counters would count, which grow with the data.
    contents = []
    for update in updates:
        reals = {name: t for name, t in update.weights.items() if start.get(name, t).is_floating_point()}
        moved = {name: t - start[name] if name in start else t for name, t in reals.items()}
        contents.append(RecordDict({"arrays": to_arrays(moved)}))
    chosen = [id(content) for content in select_multikrum(contents, malicious, keep)]
    return [update for update, content in zip(updates, contents, strict=True) if id(content) in chosen]
