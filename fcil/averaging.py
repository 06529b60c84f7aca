"""The mean of clients' updates, one update at a time."""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from dataclasses import replace
from typing import Literal

from fcil.types import Tensors, Update

Weighting = Literal["examples", "uniform"]
"""The weight of a client in a mean: its number of examples, or the same for all."""


def weighted_mean(updates: Iterable[Update], weighting: Weighting = "examples") -> Update:
    """Return sum_k a_k w_k / sum_k a_k with a_k = n_k or 1, batch-norm statistics included.

    Reads one update at a time into running sums, so that memory does not grow with the number of
    clients. Whole numbers (batch counters) are averaged as floats; the net truncates them.
    A metric becomes its plain mean over the updates that hold it, whatever the weighting, so that
    rounds compare however many clients took part.
    """
    sums: Tensors = {}
    metrics: list[dict[str, float]] = []
    examples, total = 0, 0.0
    for update in updates:
        a = float(update.num_examples) if weighting == "examples" else 1.0
        for name, w in update.weights.items():
            w = w if w.is_floating_point() else w.double()
            if name in sums:
                sums[name].add_(w, alpha=a)
            else:
                sums[name] = w * a
            del w
        metrics.append(update.metrics)
        examples, total = examples + update.num_examples, total + a
        del update  # let go of before the next client is asked, whose net can then have the same memory
    if not total:
        raise ValueError("no update to average: every client failed, or none has examples")
    return Update({name: s.div_(total) for name, s in sums.items()}, examples, mean_metrics(metrics))


def set_aside(updates: Iterable[Update], prefix: str, aside: list[Tensors]) -> Iterator[Update]:
    """Yield the updates without the tensors beside the net: those whose names begin with `prefix`.

    They are added to `aside`, one mapping for each update, without the prefix.
    """
    for update in updates:
        aside.append({k.removeprefix(prefix): w for k, w in update.weights.items() if k.startswith(prefix)})
        yield replace(update, weights={k: w for k, w in update.weights.items() if not k.startswith(prefix)})


def mean_metrics(metrics: Iterable[dict[str, float]]) -> dict[str, float]:
    """Return the mean of every metric over those that hold it."""
    held: dict[str, list[float]] = {}
    for one in metrics:
        for name, number in one.items():
            held.setdefault(name, []).append(number)
    return {name: sum(numbers) / len(numbers) for name, numbers in held.items()}
