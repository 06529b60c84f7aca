"""Statistics over seeds: means with intervals, paired tests, and when there are too few seeds for a conclusion."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from functools import lru_cache
from itertools import combinations

import numpy as np
import numpy.typing as npt

from fcil import rng

DRAWS = 10_000
"""Resamples of a bootstrap."""
LEVEL = 0.95
FEWEST = 5
"""Seeds below which an interval or a test is not taken for evidence."""


@dataclass(frozen=True)
class Spread:
    """Mean, deviation and interval of one number over seeds."""

    mean: float
    std: float | None
    """Sample standard deviation; None for one value."""
    low: float | None
    """Lower end of the bootstrap interval; None for one value."""
    high: float | None
    n: int


@dataclass(frozen=True)
class Pair:
    """Two strategies over their common seeds."""

    a: str
    b: str
    n: int
    difference: float
    """Mean of a less b."""
    p: float
    """p-value of Wilcoxon's signed-rank test, two-sided."""
    adjusted: float
    """p-value after Holm's correction for all pairs of the table."""


@dataclass(frozen=True)
class Ranks:
    """Friedman's test over blocks: mean ranks (1 is best), and the chance of such ranks if all were alike."""

    ranks: dict[str, float]
    blocks: int
    p: float


def spread(values: Sequence[float]) -> Spread | None:
    """Mean, sample standard deviation and 95 % interval; None without values."""
    if not values:
        return None
    if len(values) == 1:
        return Spread(float(values[0]), None, None, None, 1)
    low, high = interval(values)
    return Spread(float(np.mean(values)), float(np.std(values, ddof=1)), low, high, len(values))


def interval(values: Sequence[float]) -> tuple[float, float]:
    """Percentile bootstrap of the mean (Efron and Tibshirani, 1993, section 13.3), the same at each call."""
    means = _shares(len(values)) @ np.asarray(values, dtype=np.float64)
    low, high = np.quantile(means, [(1 - LEVEL) / 2, (1 + LEVEL) / 2])
    return float(low), float(high)


@lru_cache(4)
def _shares(n: int) -> npt.NDArray[np.float64]:
    """Return the share of each of n values in each resample: (DRAWS, n). The same for every n values."""
    drawn = rng.numpy_generator("bootstrap", n).integers(n, size=(DRAWS, n))
    counts = np.bincount((drawn + n * np.arange(DRAWS)[:, None]).ravel(), minlength=DRAWS * n)
    return counts.reshape(DRAWS, n) / n


def surely_better(best: Mapping[int, float], other: Mapping[int, float]) -> bool:
    """Return whether the interval of the differences over common seeds lies above zero, with at least FEWEST seeds."""
    common = sorted(best.keys() & other.keys())
    return len(common) >= FEWEST and interval([best[s] - other[s] for s in common])[0] > 0


def pairs(values: Mapping[str, Mapping[int, float]]) -> list[Pair]:
    """Every two strategies over their common seeds; those that share fewer than two seeds are left out.

    Args:
        values: by strategy, by seed.
    """
    from scipy.stats import wilcoxon

    found: list[tuple[str, str, int, float, float]] = []
    for a, b in combinations(values, 2):
        common = sorted(values[a].keys() & values[b].keys())
        differences = np.array([values[a][s] - values[b][s] for s in common])
        if len(common) < 2:
            continue
        p = float(wilcoxon(differences).pvalue) if differences.any() else 1.0
        found.append((a, b, len(common), float(differences.mean()), p))
    adjusted = holm([p for *_, p in found])
    return [Pair(*one, adjusted=q) for one, q in zip(found, adjusted, strict=True)]


def holm(p: Sequence[float]) -> list[float]:
    """p-values that hold for all tests together (Holm, Scandinavian Journal of Statistics 1979)."""
    adjusted, most = [0.0] * len(p), 0.0
    for rank, index in enumerate(sorted(range(len(p)), key=lambda i: p[i])):
        most = max(most, min(1.0, (len(p) - rank) * p[index]))
        adjusted[index] = most
    return adjusted


def least_p(n: int) -> float:
    """The smallest p that the signed-rank test can give with n pairs: all signs alike."""
    return min(1.0, 2 * 0.5**n)


def friedman(blocks: Sequence[Mapping[str, float]]) -> Ranks | None:
    """Ranks of the strategies that are in every block, larger being better; None for fewer than three, or one block."""
    from scipy.stats import friedmanchisquare, rankdata

    names = [name for name in (blocks[0] if blocks else {}) if all(name in block for block in blocks)]
    if len(names) < 3 or len(blocks) < 2:
        return None
    table = np.array([[block[name] for name in names] for block in blocks])
    ranks = rankdata(-table, axis=1).mean(axis=0)
    p = 1.0 if (table == table[:, :1]).all() else float(friedmanchisquare(*table.T).pvalue)
    return Ranks(dict(zip(names, map(float, ranks), strict=True)), len(blocks), p)
