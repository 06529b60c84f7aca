#!/usr/bin/env bash
# pingouin's Wilcoxon test reports a common language effect size of unpaired samples: 0.55 for a method that is better on
# every seed.
#
# The signed-rank test is of pairs, as of two methods on the same seeds, clients or data sets. Its documentation says of
# CLES: "the proportion of pairs where x is higher than y", and that each observation of x is paired to its y counterpart.
# What is computed is the share of all n * n combinations, seed i of one method against seed j of the other, as in the
# Mann-Whitney test, so that what pairing takes out comes back. A method one point better on all of ten seeds, which
# differ by two points each, has 0.55, "a coin's toss", where the proportion of pairs is 1 and the rank-biserial
# correlation beside it (RBC) is 1 too. It may point the other way: better on nine of ten, far worse on one, RBC 0.64 and
# CLES 0.45. The order of the pairs, without which there is no such test, does not change it. `pairwise_tests` with
# `within` and `effsize="CLES"` gives the same. (The docstring of `compute_effsize` does say that each is paired with
# each.)
#
# Seen with pingouin 0.7.0, scipy 1.17.1 and pandas 3.1.1 on Linux (2026-11); in the repository's newest code too (March
# 2026). Fails if that changes.
set -euo pipefail
folder=$(mktemp -d)
trap 'rm -rf "$folder"' EXIT
python3 -m venv "$folder/venv"
"$folder/venv/bin/pip" install --quiet "numpy==2.4.6" "scipy==1.17.1" "pandas==3.1.1" "scikit-learn==1.9.1" \
  "pingouin==0.7.0"
MPLBACKEND=agg "$folder/venv/bin/python" -W ignore - <<'PYTHON'
from importlib.metadata import version

import numpy as np
import pandas as pd
import pingouin

print(f"pingouin {version('pingouin')}")


def of_pairs(x, y):
    return float(np.mean((x > y) + 0.5 * (x == y)))


def of_combinations(x, y):
    return float(np.mean((x[:, None] > y) + 0.5 * (x[:, None] == y)))


rng = np.random.default_rng(0)
base = 60 + 2 * np.arange(10.0)
outlier = base + 1
outlier[-1] = 55
many = rng.normal(70, 10, 30)
cases = {
    "one point better on each of ten seeds": (base + 1, base),
    "better on nine, 23 points worse on one": (outlier, base),
    "30 seeds, better by 1 +- 0.5": (many + rng.normal(1, 0.5, 30), many),
}
seen = {}
for name, (x, y) in cases.items():
    result = pingouin.wilcoxon(x, y).iloc[0]
    shuffled = pingouin.wilcoxon(x, rng.permutation(y)).iloc[0]
    print(
        f"{name}: p {result['p_val']:.2g}, RBC {result['RBC']:.2f}, CLES {result['CLES']:.2f};"
        f" of pairs {of_pairs(x, y):.2f}, of all combinations {of_combinations(x, y):.2f};"
        f" pairs shuffled: p {shuffled['p_val']:.2g}, CLES {shuffled['CLES']:.2f}"
    )
    assert np.isclose(result["CLES"], of_combinations(x, y)) and np.isclose(result["CLES"], shuffled["CLES"])
    assert abs(result["CLES"] - of_pairs(x, y)) > 0.4
    seen[name] = result
first, second, _ = seen.values()
assert first["RBC"] == 1 and np.isclose(first["CLES"], 0.55)
assert second["RBC"] > 0.6 and second["CLES"] < 0.5

x, y = cases["one point better on each of ten seeds"]
table = pd.DataFrame({"accuracy": [*x, *y], "method": ["a"] * 10 + ["b"] * 10, "seed": [*range(10)] * 2})
options = {"dv": "accuracy", "within": "method", "subject": "seed", "parametric": False, "effsize": "CLES"}
value = float(pingouin.pairwise_tests(table, **options)["CLES"].iloc[0])
print(f"pairwise_tests: CLES {value:.2f}")
assert np.isclose(value, 0.55)
PYTHON
