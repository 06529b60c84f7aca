"""Samplers: what is tried next, given the results so far.

A sampler is a generator of waves of trials, which is sent the results of each wave before it makes the next. It draws
from a stream of its own seed alone, so a search that was killed asks for the same trials again.
"""

from __future__ import annotations

import itertools
import json
import math
from collections.abc import Generator, Iterator, Sequence
from dataclasses import dataclass, field
from typing import Any, Literal

import numpy as np

from fcil.errors import ConfigError
from fcil.searching.settings import MOST_TRIALS, SearchSettings
from fcil.searching.space import Choices, Space

DRAWS = 1000
"""Draws in a row that were all tried before, after which a space counts as used up."""
Status = Literal["finished", "failed"]


@dataclass(frozen=True, kw_only=True)
class Trial:
    """Settings to be tried on one budget."""

    number: int
    """Counts the settings from 1; on each rung of a halving the same settings have the same number."""
    values: dict[str, Any]
    """Value by key path."""
    seeds: tuple[int, ...]
    rounds: int | None = None
    """Rounds per task; None: as in the file."""
    rung: int = 1


@dataclass(frozen=True, kw_only=True)
class Result:
    """Result of a trial."""

    trial: Trial
    status: Status
    value: float | None = None
    """Metric, the mean over the seeds; None unless it is finished."""
    seconds: float = 0.0
    """Seconds of its runs, added up."""
    reason: str = ""
    """Reason of a failure."""
    folders: tuple[str, ...] = field(default=())
    """Folders of its runs, below the output folder."""


Waves = Generator[list[Trial], Sequence[Result], None]


def best(results: Sequence[Result], *, maximises: bool) -> list[Result]:
    """Return the finished results of the highest rung that has any, the best first; of equals the earlier trial."""
    finished = [result for result in results if result.value is not None]
    top = max((result.trial.rung for result in finished), default=0)
    sign = -1 if maximises else 1
    last = [result for result in finished if result.trial.rung == top]
    return sorted(last, key=lambda result: (sign * (result.value or 0.0), result.trial.number))


def expected_runs(search: SearchSettings, rounds: int) -> int | None:
    """Return how many runs the trials have if none fails; None if only the hours limit them."""
    seeds, size = len(search.seeds), search.space.size
    if search.sampler == "halving":
        plan = rungs(search, rounds)
        return sum(count * rung[1] for count, rung in zip(_counts(search, plan), plan, strict=False))
    most = None if search.runs is None else search.runs // seeds
    if search.sampler == "grid" or (search.sampler == "random" and size is not None and size < (most or MOST_TRIALS)):
        most = size
    return None if most is None else most * seeds


def ladder(search: SearchSettings, rounds: int) -> list[tuple[int | None, int, int]]:
    """Return trials, rounds per task and seeds of each rung, of which a halving has several; None: by hours."""
    if search.sampler == "halving":
        plan = rungs(search, rounds)
        return [(count, *rung) for count, rung in zip(_counts(search, plan), plan, strict=False)]
    runs, seeds = expected_runs(search, rounds), len(search.seeds)
    return [(None if runs is None else runs // seeds, rounds, seeds)]


def expected_rounds(search: SearchSettings, rounds: int) -> int | None:
    """Return the rounds per task of all these runs added up."""
    if search.sampler == "halving":
        plan = rungs(search, rounds)
        return sum(count * math.prod(rung) for count, rung in zip(_counts(search, plan), plan, strict=False))
    runs = expected_runs(search, rounds)
    return None if runs is None else runs * rounds


def _combinations(space: Space) -> Iterator[dict[str, Any]]:
    """Yield all combinations, the last key varying fastest."""
    lists = [d.values if isinstance(d, Choices) else range(d.ends[0], d.ends[1] + 1) for d in space.dimensions.values()]
    for values in itertools.product(*lists):
        yield dict(zip(space.dimensions, values, strict=True))


def _draws(search: SearchSettings) -> Iterator[dict[str, Any]]:
    """Yield independent draws, none twice, until a finite space is used up."""
    stream, tried = np.random.default_rng(search.seed), set[str]()
    misses = 0
    while misses < DRAWS and len(tried) < (search.space.size or MOST_TRIALS):
        values = {key: dimension.at(float(stream.random())) for key, dimension in search.space.dimensions.items()}
        key = json.dumps(values, sort_keys=True)
        misses = misses + 1 if key in tried else 0
        if not misses:
            tried.add(key)
            yield values


def grid(search: SearchSettings) -> Waves:
    """Return every combination of the lists."""
    values = _combinations(search.space)
    yield [Trial(number=i, values=one, seeds=search.seeds) for i, one in enumerate(values, start=1)]


def random(search: SearchSettings) -> Waves:
    """Return independent draws, none twice."""
    most = MOST_TRIALS if search.runs is None else search.runs // len(search.seeds)
    trials = (
        Trial(number=i, values=values, seeds=search.seeds)
        for i, values in enumerate(itertools.islice(_draws(search), most), start=1)
    )
    if search.hours is None:
        yield list(trials)
        return
    while wave := list(itertools.islice(trials, search.batch)):
        yield wave


# Successive halving -------------------------------------------------------------------------------


def rungs(search: SearchSettings, rounds: int) -> list[tuple[int, int]]:
    """Return rounds per task and number of seeds of each rung, the last of them whole."""
    factor, seeds = search.halving.factor, len(search.seeds)
    first = search.halving.rounds or max(1, rounds // factor**2)
    if first > rounds:
        raise ConfigError(f"search.halving.rounds: {first} is not allowed; federation.rounds is {rounds}")
    steps = _steps(first, rounds, factor), _steps(search.halving.seeds or seeds, seeds, factor)
    length = max(map(len, steps))
    of_rounds, of_seeds = ([*found, *[found[-1]] * (length - len(found))] for found in steps)
    return list(zip(of_rounds, of_seeds, strict=True))


def _steps(first: int, last: int, factor: int) -> list[int]:
    """Return budgets from the first to the last, each about so many times the one before."""
    found = [first]
    while found[-1] * factor <= last:
        found.append(found[-1] * factor)
    return [*found[:-1], last] if len(found) > 1 or first == last else [first, last]


def _counts(search: SearchSettings, plan: Sequence[tuple[int, int]]) -> list[int]:
    """Return the trials of each rung that has several: as many as the budget allows.

    Raises:
        ConfigError: it does not allow two on the first rung.
    """

    def counts(first: int) -> list[int]:
        return [count for k in range(len(plan)) if (count := first // search.halving.factor**k) > 1]

    def cost(first: int) -> int:
        return sum(count * seeds for count, (_, seeds) in zip(counts(first), plan, strict=False))

    first, runs = 1, search.runs or 0
    while cost(first + 1) <= runs:
        first += 1
    if first < 2:
        raise ConfigError(f"search.runs: {search.runs} is not allowed; halving needs {cost(2)} for two trials")
    return counts(min(first, search.space.size or first))


def halving(search: SearchSettings, rounds: int) -> Waves:
    """Return draws on the budget of the first rung, the better of them on that of the next, and so on."""
    plan = rungs(search, rounds)
    counts = _counts(search, plan)
    drawn = itertools.islice(_draws(search), counts[0])
    alive = list(enumerate(drawn, start=1))
    for rung, ((some, seeds), count) in enumerate(zip(plan, counts, strict=False), start=1):
        results = yield [
            Trial(number=i, values=values, seeds=search.seeds[:seeds], rounds=some, rung=rung)
            for i, values in alive[:count]
        ]
        ranked = best(results, maximises=search.maximises)
        alive = [(result.trial.number, result.trial.values) for result in ranked]
        if not alive:
            return
