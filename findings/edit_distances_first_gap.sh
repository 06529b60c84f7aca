#!/usr/bin/env bash
# EDR in aeon, sktime and wildboar lets any number of points at the beginning go for nothing; ERP there charges a whole
# series for the first of them; and sktime's TWE of two series depends on which of them comes first.
#
# All three are edit distances, filled in from the empty beginnings. EDR (Chen, Ozsu and Oria, SIGMOD 2005) of n points
# and none is n: the three libraries begin with zeros. So a series has distance 0 ("elements that must be removed for an
# exact match", in aeon's words, as a share) from twenty outliers with itself behind them, and 0.5, as it should be, if
# the outliers come last; turning both series round changes the distance. On OSULeaf nearly all pairs have another EDR
# than by the paper (over the longer length, as the libraries have it), a seventh too small in the mean, and for many test
# series no nearest neighbour is among those by the paper. ERP (Chen and Ng, VLDB 2004) of n points and none is the sum of
# their distances to g: the libraries put the sum of the whole series in front of every beginning of it (aeon's
# documentation has a sentence that can be read so), and a series that alternates is three times as far from itself a step
# later. traj-dist has both, and open reports (issue 8 and pull request 18); we found none for the three here.
#
# TWE (Marteau, PAMI 2009) charges a deletion by the step within one series. sktime takes the step from a point of one
# series to the next point of the other. It is not symmetric then; the matrix is, since one half is copied from the other,
# and so the same two series are at another distance if the set is sorted otherwise. aeon and wildboar have this one
# right. In sktime a window also makes EDR, ERP and TWE smaller, which fewer paths cannot: what is outside counts as 0
# (open issue 6182, for TWE; aeon has corrected it).
#
# Seen with aeon 1.6.0, sktime 1.2.0, wildboar 1.2.1 and NumPy 2.3.5 on Linux, Python 3.11 (2026-11). Fails if that
# changes.
set -euo pipefail
folder=$(mktemp -d)
trap 'rm -rf "$folder"' EXIT
python3 -m venv "$folder/venv"
"$folder/venv/bin/pip" install --quiet "numpy==2.3.5" "numba==0.63.1" "scipy==1.17.1" "pandas==2.3.3" "scikit-learn==1.5.2" \
  "deprecated==1.3.1" "typing-extensions==4.16.0" "packaging==26.4" "scikit-base==1.2.0"
"$folder/venv/bin/pip" install --quiet --no-deps "aeon==1.6.0" "sktime==1.2.0" "wildboar==1.2.1"
"$folder/venv/bin/python" -W ignore - <<'PYTHON'
from importlib.metadata import version

import aeon.distances
import numba
import numpy as np
from aeon.datasets import load_classification
from sktime.dists_kernels.edit_dist import EditDist
from wildboar.distance import pairwise_distance

print(", ".join(f"{name} {version(name)}" for name in ("aeon", "sktime", "wildboar")))


@numba.njit
def edit(x, y, of_x, of_y, threshold):
    """Edit distance with these prices of points left out; a pair costs its difference or, with a threshold, 0 or 1."""
    cost = np.zeros((len(x) + 1, len(y) + 1))
    cost[1:, 0], cost[0, 1:] = np.cumsum(of_x), np.cumsum(of_y)
    for i in range(len(x)):
        for j in range(len(y)):
            pair = abs(x[i] - y[j])
            if threshold > 0:
                pair = 0.0 if pair < threshold else 1.0
            cost[i + 1, j + 1] = min(cost[i, j] + pair, cost[i, j + 1] + of_x[i], cost[i + 1, j] + of_y[j])
    return cost[-1, -1]


def edr(x, y):
    return edit(x, y, np.ones(len(x)), np.ones(len(y)), 0.25) / max(len(x), len(y))


def erp(x, y):
    return edit(x, y, np.abs(x), np.abs(y), 0.0)


def twe(x, y):
    x, y = np.append(0, x), np.append(0, y)
    cost = np.full((len(x), len(y)), np.inf)
    cost[0, 0] = 0
    for i in range(1, len(x)):
        for j in range(1, len(y)):
            cost[i, j] = min(
                cost[i - 1, j] + abs(x[i] - x[i - 1]) + 1.001,
                cost[i, j - 1] + abs(y[j] - y[j - 1]) + 1.001,
                cost[i - 1, j - 1] + abs(x[i] - y[j]) + abs(x[i - 1] - y[j - 1]) + 0.002 * abs(i - j),
            )
    return cost[-1, -1]


settings = {"edr": {"epsilon": 0.25}, "erp": {"g": 0.0}, "twe": {"nu": 0.001, "lmbda": 1.0}}
wildboar_settings = settings | {"twe": {"stiffness": 0.001, "penalty": 1.0}}


def three(name, x, y):
    return (
        float(getattr(aeon.distances, f"{name}_distance")(x, y, **settings[name])),
        float(EditDist(name, **settings[name])(x[None, None], y[None, None])[0, 0]) if len(x) == len(y) else None,
        float(np.ravel(pairwise_distance(x[None], y[None], metric=name, metric_params=wildboar_settings[name]))[0]),
    )


def shown(name, text, x, y):
    own, theirs = {"edr": edr, "erp": erp, "twe": twe}[name](x, y), three(name, x, y)
    values = ", ".join("-" if value is None else f"{value:.3f}" for value in theirs)
    print(f"{name}, {text}: {own:.3f} by the paper; aeon, sktime, wildboar: {values}")
    return own, [v for v in theirs if v is not None]


random = np.random.default_rng(0)
wave, outliers = np.sin(np.arange(20.0)), 5 + random.normal(size=20)
own, theirs = shown("edr", "20 points and 20 outliers with them behind", wave, np.append(outliers, wave))
assert own == 0.5 and theirs == [0, 0]
own, theirs = shown("edr", "20 points and them with 20 outliers behind", wave, np.append(wave, outliers))
assert own == 0.5 and theirs == [0.5, 0.5]
own, theirs = shown("edr", "the same 20 points, after or before 20 others", np.append(outliers, wave), np.append(wave, -outliers))
assert own == 1 and theirs == [0.5] * 3

up_and_down = np.tile([10.0, -10.0], 10)
own, theirs = shown("erp", "up and down, and a step later", up_and_down, np.append(0, up_and_down[:-1]))
assert own == 10 and theirs == [30] * 3

x, y = random.normal(size=(2, 20))
own, theirs = shown("twe", "noise", x, y)
assert np.allclose([own, own], theirs[::2]) and abs(theirs[1] - own) > 0.1
back = three("twe", y, x)
assert np.allclose([own, own], back[::2]) and abs(back[1] - theirs[1]) > 0.1
some = random.normal(size=(10, 1, 20))
here, there = EditDist("twe")(some), EditDist("twe")(some[::-1].copy())[::-1, ::-1]
other = (np.abs(here - there) > 1e-6)[np.triu_indices(10, 1)].mean()
print(f"twe, sktime: a matrix of ten series is symmetric ({np.allclose(here, here.T)});")
print(f"  sorted the other way round, {other:.0%} of its pairs differ")
assert np.allclose(here, here.T) and other > 0.9

for name in ("edr", "erp", "twe"):
    narrow, free = (EditDist(name, window=w)(x[None, None], y[None, None] + 3)[0, 0] for w in (0.1, None))
    print(f"{name}, sktime: {free:.2f}, and {narrow:.2f} within a window of a tenth")
    assert narrow < free

train, test = (load_classification("OSULeaf", split=split)[0][:60, 0] for split in ("train", "test"))
own = np.array([[edr(t, r) for r in train] for t in test])
theirs = aeon.distances.edr_pairwise_distance(test[:, None], train[:, None], epsilon=0.25)
differ = (np.abs(own - theirs) > 1e-9).mean()
nearest = [np.isclose(d, d.min(1, keepdims=True)) for d in (own, theirs)]
other = 1 - (nearest[0] & nearest[1]).any(1).mean()
print(
    f"edr, OSULeaf, 60 test by 60 training series: {differ:.0%} of aeon's differ, {1 - (theirs / own).mean():.0%} too small in the "
    f"mean, another nearest neighbour for {other:.0%}"
)
assert differ > 0.9 and (theirs <= own + 1e-9).all() and other > 0.1
PYTHON
