#!/usr/bin/env bash
# aeon's Nemenyi bars are as long as one more method would make them, and its "holm" bars are too short: at a level of
# 10 %, one diagram in three tells methods apart that are equal.
#
# Critical-difference diagrams join methods by a bar where a test finds no difference. Nemenyi's critical difference for
# k methods on N sets is q(k) sqrt(k (k + 1) / 6N), with q(k) the quantile of the studentized range of k, over the root of
# two (Demsar, JMLR 2006, table 5: 1.960 for two at 5 %, 2.343 for three). `nemenyi_test` looks q up one place too far:
# q(3) for two methods, q(4) for three. The difference that it asks for is 20 % too large for two methods at 5 %, 10 % for
# three, 3 % for six, at each of its levels; a reader sees a bar where the paper's test has none.
# `correction="holm"`, the default of `plot_critical_difference`, divides the level by k - 1, as its documentation says.
# Holm's procedure for all pairs begins with k (k - 1) / 2; k - 1 is for a comparison with one control that is named
# beforehand. The tests are one-sided too, in the direction in which the mean ranks turned out. Below, nine of ten
# methods are equal and one is worse, so that the Friedman test in front holds nothing back.
#
# Seen with aeon 1.6.0, scipy 1.17.1 and numpy 2.4.6 on Linux (2026-11), its file of tests alone, which needs these two
# and nothing else of what the package brings. Fails if a number is another one.
set -euo pipefail
folder=$(mktemp -d)
trap 'rm -rf "$folder"' EXIT
python3 -m venv "$folder/venv"
"$folder/venv/bin/pip" install --quiet "numpy==2.4.6" "scipy==1.17.1"
"$folder/venv/bin/pip" install --quiet --no-deps "aeon==1.6.0"
"$folder/venv/bin/python" - <<'PYTHON'
import importlib.util
import sysconfig
from importlib.metadata import version
from itertools import combinations
from pathlib import Path

import numpy as np
from scipy.stats import rankdata, studentized_range

file = Path(sysconfig.get_path("purelib"), "aeon", "benchmarking", "stats.py")
spec = importlib.util.spec_from_file_location("stats", file)
stats = importlib.util.module_from_spec(spec)
spec.loader.exec_module(stats)
SETS, DIAGRAMS, METHODS, LEVEL = 30, 400, 10, 0.1
print(f"aeon {version('aeon')}")


def root(k):
    return (k * (k + 1) / (6 * SETS)) ** 0.5


def quantile_asked(k, level):
    """The smallest difference of mean ranks that is told apart, over the root of the formula."""
    joined, apart = 0.0, float(k)
    while apart - joined > 1e-9:
        middle = (joined + apart) / 2
        bar = stats.nemenyi_test(np.array([1.0] + [1.0 + middle] * (k - 1)), SETS, level)[0, 1]
        joined, apart = (middle, apart) if bar else (joined, middle)
    return joined / root(k)


def quantile(k, level):
    return studentized_range.ppf(1 - level, k, np.inf) / 2**0.5


for level in (0.1, 0.05, 0.01):
    for k in (2, 3, 6, 10):
        asked, own, next_one = quantile_asked(k, level), quantile(k, level), quantile(k + 1, level)
        print(f"{level:4} {k:2} methods: {asked:.3f} asked, table {own:.3f}, of {k + 1} methods {next_one:.3f}")
        assert abs(asked - next_one) < 0.002 < abs(asked - own), (asked, own, next_one)

draw, wrong, wrong_by_holm = np.random.default_rng(0), 0, 0
pairs = list(combinations(range(METHODS), 2))
for _ in range(DIAGRAMS):
    scores = draw.normal(size=(SETS, METHODS))
    scores[:, -1] -= 10
    ranks = np.stack([rankdata(-row) for row in scores])
    order = np.argsort(ranks.mean(0))
    p = stats.wilcoxon_test(scores[:, order], [str(i) for i in range(METHODS)])
    equal = [pair for pair in pairs if METHODS - 1 not in (order[pair[0]], order[pair[1]])]
    wrong += any(p[pair] <= LEVEL / (METHODS - 1) for pair in equal)
    told = set()
    for left, (both_sides, pair) in enumerate(sorted((2 * min(p[pair], 1 - p[pair]), pair) for pair in pairs)):
        if both_sides > LEVEL / (len(pairs) - left):
            break
        told.add(pair)
    wrong_by_holm += not told.isdisjoint(equal)
print(f"equal methods told apart, level {LEVEL:.0%}: {wrong} of {DIAGRAMS} diagrams; Holm over all pairs {wrong_by_holm}")
assert (wrong, wrong_by_holm) == (139, 27), (wrong, wrong_by_holm)
PYTHON
