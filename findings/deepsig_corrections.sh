#!/usr/bin/env bash
# deep-significance (deepsig): its corrections for many comparisons, and a paired test that is not paired.
#
# 1. `bonferroni_correction(p)` hands results back to the wrong tests. It sorts the p values, corrects them, and then
# takes the results by the order of sorting once more, where the inverse of that order is needed. Unless the p values
# came sorted, or in an order that is its own inverse, a method is told significant by another's p value; a "corrected"
# p may be far below its own raw p. Of ten tests, every other one without effect, one without effect is told significant
# in 96 % of tables (Holm: 4 %); where those without effect stand at the end of the list it is less. The factors are
# those of Holm's procedure (N for the smallest, 1 for the largest), without its running maximum, and not Bonferroni's N,
# so that the larger of two p values may get the smaller result.
#
# 2. `multi_aso` and `aso(num_comparisons=...)`: Bonferroni's correction of a level of confidence c over n comparisons is
# 1 - (1 - c) / n. Here it is c + (1 - c) / n. At 95 % and three comparisons that is 96.7 %, not 98.3 %; at 45 comparisons
# (ten models) 95.1 %, not 99.9 %: the more comparisons, the less is corrected. For one comparison it is 100 %: of two
# models with any overlap `multi_aso` says 1, no order at all, in both directions, whatever `aso` says.
#
# 3. `bootstrap_test`, by its docstring and its README the paired bootstrap test (Efron and Tibshirani), draws the two
# methods' scores apart from each other. Ten common seeds, one better by 1 on each, seeds 5 apart: p is about 0.3, for
# the paired bootstrap it is 0.
#
# The documentation says "Bonferroni" and "paired" and nothing of this; its tests give sorted p values only. Newest code
# (July 2024) has the same lines.
#
# Seen with deepsig 1.2.8 on Linux (2026-11). Fails if that changes.
set -euo pipefail
folder=$(mktemp -d)
trap 'rm -rf "$folder"' EXIT
python3 -m venv "$folder/venv"
"$folder/venv/bin/pip" install --quiet "numpy==2.4.6" "scipy==1.17.1" "pandas==3.1.1" "joblib==1.6.0" "psutil==7.2.2" \
  "tqdm==4.70.1" "dill==0.4.1"
"$folder/venv/bin/pip" install --quiet --no-deps "deepsig==1.2.8"
cd "$folder"
"$folder/venv/bin/python" -W ignore - <<'PYTHON'
from importlib.metadata import version

import numpy as np
from scipy.stats import norm

from deepsig import aso, bonferroni_correction, bootstrap_test, multi_aso

print(f"deepsig {version('deepsig')}")


def holm(p):
    order = np.argsort(p)
    result = np.empty(len(p))
    result[order] = np.minimum(1, np.maximum.accumulate(p[order] * np.arange(len(p), 0, -1)))
    return result


print("1. corrected p values")
p = np.array([0.6, 0.001, 0.03, 0.2])
ours, theirs = holm(p), bonferroni_correction(p)
print(f"  raw {p}; Bonferroni {np.minimum(1, len(p) * p)}; Holm {ours}; deepsig {theirs.round(3)}")
assert np.allclose(theirs, [0.09, 0.4, 0.6, 0.004]) and theirs[3] < p[3]

numbers = np.random.default_rng(0)
tables, effect = 1000, np.arange(10) % 2 == 0  # every other test has a true effect
wrong, below, by_holm = 0, 0, 0
for _ in range(tables):
    p = norm.sf(numbers.normal(3.5 * effect, 1))
    theirs = bonferroni_correction(p)
    wrong += (theirs[~effect] <= 0.05).any()
    by_holm += (holm(p)[~effect] <= 0.05).any()
    below += (theirs < p * (1 - 1e-9)).any()
    assert np.allclose(theirs, np.minimum(1, np.sort(p) * np.arange(10, 0, -1))[np.argsort(p)])
print(
    f"  ten tests, every other without effect, {tables} tables: some of those told significant in {wrong / tables:.1%}",
    end="",
)
print(f" (Holm {by_holm / tables:.1%}); some p below its raw p in {below / tables:.1%}")
assert wrong > 0.8 * tables and by_holm < 0.06 * tables and below > 0.8 * tables

print("2. ASO over many comparisons")
few = dict(num_bootstrap_iterations=100, show_progress=False, seed=1)
a, b = numbers.normal(1.2, 1, 10), numbers.normal(0, 1, 10)
plain, both = aso(a, b, **few), multi_aso(np.array([a, b]), **few)
uncorrected = multi_aso(np.array([a, b]), use_bonferroni=False, **few)
print(f"  two models: aso {plain:.3f}, {aso(b, a, **few):.3f}; multi_aso {both[0, 1]:.3f}, {both[1, 0]:.3f};", end="")
print(f" use_bonferroni=False {uncorrected[0, 1]:.3f}, {uncorrected[1, 0]:.3f}")
assert plain < 1 and both[0, 1] == both[1, 0] == 1 and np.isclose(uncorrected[0, 1], plain)
for n in (2, 3, 10, 45):
    right, theirs = aso(a, b, confidence_level=1 - 0.05 / n, **few), aso(a, b, num_comparisons=n, **few)
    print(f"  {n} comparisons: bound by Bonferroni {right:.3f}, num_comparisons={n} {theirs:.3f}")
    assert np.isclose(theirs, aso(a, b, confidence_level=0.95 + 0.05 / n, **few))
    assert n == 2 or theirs < right
assert aso(a, b, num_comparisons=45, **few) < aso(a, b, num_comparisons=3, **few)

print("3. a paired bootstrap")
seeds = numbers.normal(0, 5, 10)
a, b = seeds + 1 + numbers.normal(0, 0.1, 10), seeds
draws = numbers.integers(10, size=(10000, 10))
paired = np.mean((a - b)[draws].mean(axis=1) >= 2 * (a - b).mean())
apart = np.mean(
    a[draws].mean(axis=1) - b[numbers.integers(10, size=(10000, 10))].mean(axis=1) >= 2 * (a.mean() - b.mean())
)
theirs = bootstrap_test(a, b, num_samples=2000, seed=0)
shuffled = bootstrap_test(a, numbers.permutation(b), num_samples=2000, seed=0)
print(
    f"  p: paired {paired:.4f}; each drawn apart {apart:.3f}; deepsig {theirs:.3f}, with pairs shuffled {shuffled:.3f}"
)
assert paired == 0 and abs(theirs - apart) < 0.05 and abs(theirs - shuffled) < 0.05
PYTHON
