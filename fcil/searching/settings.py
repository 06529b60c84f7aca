"""The section `search` of an experiment file."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any, Literal

from fcil.compare.comparison import METRICS
from fcil.errors import nearest
from fcil.searching.space import Range, Space
from fcil.types import Count, Index, Positive

Goal = Literal["maximise", "minimise"]
MOST_TRIALS = 10_000


def _of(key: str) -> Callable[[Mapping[str, Any]], Any]:
    return lambda summary: summary.get(key)


OBJECTIVES: dict[str, tuple[Callable[[dict[str, Any]], Any], Goal]] = {
    name: (metric.of, "maximise" if metric.better == "more" else "minimise") for name, metric in METRICS.items()
}
OBJECTIVES |= {name: (_of(name), "maximise") for name in ("old_accuracy", "new_accuracy")}
"""Metrics of `summary.json` that trials may be judged by, and which way each is better."""


@dataclass(frozen=True, kw_only=True)
class HalvingSettings:
    """Successive halving (Jamieson and Talwalkar, AISTATS 2016): many trials on a small budget, the best on more."""

    factor: Count = 3
    """One of so many trials goes on to the next rung, and has so many times the rounds and seeds there."""
    rounds: Count | None = None
    """Rounds per task on the first rung; null: `federation.rounds` divided twice by `factor`."""
    seeds: Count | None = None
    """Seeds on the first rung; null: all of `search.seeds`."""

    def __post_init__(self) -> None:
        if self.factor < 2:
            raise ValueError(f"factor: {self.factor} is not allowed; expected at least 2")


@dataclass(frozen=True, kw_only=True)
class SearchSettings:
    """What `fcil search` tries, and by what it chooses. Trials are judged on the share `data.validation` of the
    training samples, never on test samples."""

    space: Space
    """Key paths, each with a list of values, `{uniform: [a, b]}`, `{log: [a, b]}` or `{int: [a, b]}`."""
    sampler: Literal["grid", "random", "halving", "tpe"] = "random"
    """`grid`: all combinations; `random`: independent draws; `halving`: draws, of which the better ones get more rounds
    or seeds; `tpe`: Optuna's tree of Parzen estimators (extra `search`)."""
    metric: str = "final_accuracy"
    """Metric of `summary.json` that trials are judged by, the mean over `seeds`."""
    goal: Goal | None = None
    """Which way the metric is better; null: as the metric is, `maximise` for an accuracy."""
    runs: Count | None = None
    """Most runs of all trials; a trial has one for each of `seeds`. `grid` needs none."""
    hours: Positive | None = None
    """Hours of all trials' runs added up, after which no trial is begun; null: no limit."""
    seeds: tuple[Index, ...] = (1000,)
    """Seeds of the trials; none of them is among `seeds` of the file, which are those of the winner's runs."""
    seed: Index = 0
    """Seed of the sampler."""
    batch: Count = 1
    """Trials that are chosen before the results of any of them are known, with `tpe` or `hours`; with `--jobs N`
    set it to N."""
    halving: HalvingSettings = HalvingSettings()
    """Budgets of `halving`."""

    def __post_init__(self) -> None:
        if self.metric not in OBJECTIVES:
            raise ValueError(
                f'metric: unknown metric "{self.metric}" (have: {", ".join(OBJECTIVES)}).'
                f"{nearest(self.metric, OBJECTIVES)}"
            )
        if not self.seeds or len(set(self.seeds)) != len(self.seeds) or max(self.seeds) >= 10**18:
            raise ValueError(f"seeds: {list(self.seeds)} is not allowed; expected at least one, and none twice")
        if self.sampler == "grid":
            self._check_grid()
        elif self.runs is None and (self.hours is None or self.sampler == "halving"):
            wish = "set it" if self.sampler == "halving" else "set it, or search.hours"
            raise ValueError(f"runs: missing, and {self.sampler} does not end of itself; {wish}")
        if self.runs is not None and not len(self.seeds) <= self.runs <= MOST_TRIALS:
            raise ValueError(
                f"runs: {self.runs} is not allowed; expected from {len(self.seeds)}, the seeds of one trial, "
                f"to {MOST_TRIALS:,}"
            )
        if (self.halving.seeds or 1) > len(self.seeds):
            raise ValueError(f"halving: seeds is {self.halving.seeds}; search.seeds has {len(self.seeds)}")

    def _check_grid(self) -> None:
        ranges = [k for k, d in self.space.dimensions.items() if isinstance(d, Range) and d.kind != "int"]
        if ranges:
            raise ValueError(f"space: {', '.join(ranges)} is a range, and grid needs lists of values")
        size = (self.space.size or 0) * len(self.seeds)
        if size > (self.runs or MOST_TRIALS):
            raise ValueError(f"runs: the grid makes {size:,} runs, more than {self.runs or MOST_TRIALS:,}")

    @property
    def maximises(self) -> bool:
        """Return whether greater values are better."""
        return (self.goal or OBJECTIVES[self.metric][1]) == "maximise"

    def value(self, summary: dict[str, Any]) -> float | None:
        """Return the metric of a finished run, or None if so few tasks do not define it."""
        found = OBJECTIVES[self.metric][0](summary)
        return float(found) if isinstance(found, int | float) else None
