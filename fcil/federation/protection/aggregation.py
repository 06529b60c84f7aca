"""How the updates of a round become one: the mean, or a rule that a few malicious clients cannot bend.

| rule           | paper                          | holds while                               |
|----------------|--------------------------------|-------------------------------------------|
| `mean`         | McMahan et al., AISTATS 2017   | nobody lies                               |
| `median`       | Yin et al., ICML 2018          | fewer than half of a round's clients lie  |
| `trimmed_mean` | Yin et al., ICML 2018          | at most `share` of them lie               |
| `krum`         | Blanchard et al., NeurIPS 2017 | at most `malicious` of 2 malicious + 3 do |
| `multi_krum`   | Blanchard et al., NeurIPS 2017 | the same                                  |
| `bulyan`       | El Mhamdi et al., ICML 2018    | at most `malicious` of 4 malicious + 3 do |

All but the mean hold all updates of a round in memory at once; the Krums and Bulyan are Flower's implementations.
`median`, `trimmed_mean` and `bulyan` weigh clients alike, whatever the strategy's weighting; the Krums
weigh those they keep as the strategy says. Metrics are the plain mean over all, a liar's included.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from typing import Annotated, Any, ClassVar

import numpy as np
import torch
from flwr.app import RecordDict
from flwr.serverapp.strategy.bulyan import aggregate_n_closest_weights
from flwr.serverapp.strategy.multikrum import select_multikrum
from pydantic import Field

from fcil.averaging import Weighting, mean_metrics, weighted_mean
from fcil.config import Where
from fcil.errors import TrainingError
from fcil.federation.codec import to_arrays
from fcil.federation.protection.tagged_choice import read_named, short_form
from fcil.types import Count, Tensors, Update


@dataclass(frozen=True, kw_only=True)
class Aggregation:
    """A rule by name: `mean`, or `{krum: {malicious: 1}}`."""

    name: ClassVar[str] = ""

    def problem(self, clients: int) -> str:
        """Why so many clients in a round do not suffice, or an empty string."""
        return ""

    def combine(self, updates: Sequence[Update], weighting: Weighting, start: Tensors) -> Tensors:
        """The next tensors out of those of all clients, who began from `start`."""
        raise NotImplementedError

    @classmethod
    def from_yaml(cls, raw: Any, where: Where) -> Aggregation:
        return read_named(RULES, "aggregation", raw, where)

    def to_yaml(self) -> Any:
        return short_form(self)


@dataclass(frozen=True, kw_only=True)
class Mean(Aggregation):
    name = "mean"


@dataclass(frozen=True, kw_only=True)
class Median(Aggregation):
    name = "median"

    def problem(self, clients: int) -> str:
        return "" if clients >= 3 else f"the median of {clients} clients is their mean; it needs at least 3 in a round"

    def combine(self, updates: Sequence[Update], weighting: Weighting, start: Tensors) -> Tensors:
        return _trimmed_mean(updates, cut=(len(updates) - 1) // 2)


@dataclass(frozen=True, kw_only=True)
class TrimmedMean(Aggregation):
    name = "trimmed_mean"

    share: Annotated[float, Field(gt=0, lt=0.5)] = 0.2
    """Share of the clients left out at either end, number by number, rounded down to whole clients."""

    def problem(self, clients: int) -> str:
        return "" if int(self.share * clients) else f"a share of {self.share:g} of {clients} clients leaves out nobody"

    def combine(self, updates: Sequence[Update], weighting: Weighting, start: Tensors) -> Tensors:
        return _trimmed_mean(updates, cut=int(self.share * len(updates)))


@dataclass(frozen=True, kw_only=True)
class Krum(Aggregation):
    name = "krum"

    malicious: Count = 1
    """How many clients of a round may lie."""

    @property
    def kept(self) -> int:
        return 1

    def problem(self, clients: int) -> str:
        return _too_few(clients, 2, self.malicious)

    def combine(self, updates: Sequence[Update], weighting: Weighting, start: Tensors) -> Tensors:
        near = _closest(updates, start, self.malicious, self.kept)
        return weighted_mean([updates[k] for k in near], weighting).weights


@dataclass(frozen=True, kw_only=True)
class MultiKrum(Krum):
    name = "multi_krum"

    keep: Count = 2
    """How many clients' updates are kept and averaged."""

    @property
    def kept(self) -> int:
        return self.keep

    def problem(self, clients: int) -> str:
        honest = clients - self.malicious
        wide = f"keep is {self.keep}, and {clients} clients less {self.malicious} malicious are {honest}"
        return super().problem(clients) or ("" if self.keep <= honest else wide)


@dataclass(frozen=True, kw_only=True)
class Bulyan(Aggregation):
    name = "bulyan"

    malicious: Count = 1
    """How many clients of a round may lie."""

    def problem(self, clients: int) -> str:
        return _too_few(clients, 4, self.malicious)

    def combine(self, updates: Sequence[Update], weighting: Weighting, start: Tensors) -> Tensors:
        nearest = _closest(updates, start, self.malicious, len(updates) - 2 * self.malicious)
        kept = [updates[k].weights for k in nearest]
        middle = _trimmed_mean([updates[k] for k in nearest], cut=(len(kept) - 1) // 2)
        layers = [[weights[name].cpu().numpy() for name in middle] for weights in kept]
        reference = [t.cpu().numpy() for t in middle.values()]
        means = aggregate_n_closest_weights(reference, layers, len(kept) - 2 * self.malicious)
        return {name: torch.as_tensor(mean).to(middle[name].device) for name, mean in zip(middle, means, strict=True)}


RULES: dict[str, type[Aggregation]] = {c.name: c for c in (Mean, Median, TrimmedMean, Krum, MultiKrum, Bulyan)}


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
    weights = aggregation.combine(received, weighting, start)
    return Update(weights, sum(u.num_examples for u in received), mean_metrics(u.metrics for u in received))


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


def _closest(updates: Sequence[Update], start: Tensors, malicious: int, keep: int) -> list[int]:
    """Which `keep` updates lie closest to their neighbours, as Krum counts."""
    # Differs: steps from `start` are compared, and real numbers alone. Of whole nets, |a|^2 + |b|^2 - 2ab
    # can be off by more than two clients differ; and batch counters would count, which grow with the data.
    contents = []
    for update in updates:
        reals = {name: t for name, t in update.weights.items() if start.get(name, t).is_floating_point()}
        moved = {name: t - start[name] if name in start else t for name, t in reals.items()}
        contents.append(RecordDict({"arrays": to_arrays(moved)}))
    chosen = [id(content) for content in select_multikrum(contents, malicious, keep)]
    return [k for k, content in enumerate(contents) if id(content) in chosen]


def _too_few(clients: int, factor: int, malicious: int) -> str:
    needed = f"{malicious} malicious of {clients} clients is too many; it needs {factor} x {malicious} + 3 in a round"
    return "" if clients >= factor * malicious + 3 else needed
