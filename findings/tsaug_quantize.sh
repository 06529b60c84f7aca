#!/usr/bin/env bash
# tsaug's Quantize by quantiles makes a constant of a series, at its minimum; by default, uniformly, it moves a series up by
# half a level.
#
# By quantiles, the levels are the middle ones of n equally filled bins: a series of 1000 values at ten levels is to have
# 100 at each. The quantiles are taken by a function of percent, but divided by 100 once more instead of multiplied: all
# bins lie in the lowest 0.01 % of the series, and all values but the least get the last one's level, the minimum to six
# digits. An augmented series is a constant, whatever the number of levels.
#
# Uniformly (how="uniform", the default), the range is cut into n parts and a value is to have the middle of its part. It
# is rounded to the nearest bound of parts, not down to the lower one, so that values are moved up (all but those of the
# last part): by 0.45 / n of the range on average for ten levels, with an error of nearly twice that of a quantiser.
#
# The documentation says nothing of either; the repository's newest code (April 2020) is the same.
#
# Seen with tsaug 0.2.1, its newest release, and numpy 2.4.6 on Linux (2026-11). Fails if that changes.
set -euo pipefail
folder=$(mktemp -d)
trap 'rm -rf "$folder"' EXIT
python3 -m venv "$folder/venv"
"$folder/venv/bin/pip" install --quiet "numpy==2.4.6" "scipy==1.17.1" "tsaug==0.2.1"
"$folder/venv/bin/python" -W ignore - <<'PYTHON'
from importlib.metadata import version

import numpy as np
import tsaug

print(f"tsaug {version('tsaug')}, numpy {np.__version__}")


def by_quantiles(x, n):
    bins = np.clip(np.searchsorted(np.quantile(x, np.arange(1, n) / n), x, side="right"), 0, n - 1)
    return np.quantile(x, (np.arange(n) + 0.5) / n)[bins]


def uniformly(x, n):
    part = np.clip(np.floor((x - x.min()) / np.ptp(x) * n), 0, n - 1)
    return x.min() + (part + 0.5) / n * np.ptp(x)


numbers = np.random.default_rng(0)
series = {
    "sine": np.sin(np.linspace(0, 20, 1000)),
    "noise": numbers.uniform(size=1000),
    "random walk": numbers.normal(size=1000).cumsum(),
}
for name, x in series.items():
    for n in (5, 10, 20):
        told = tsaug.Quantize(n_levels=n, how="quantile").augment(x)
        right = by_quantiles(x, n)
        most = np.unique(told.round(6), return_counts=True)[1].max()
        spread = np.ptp(told) / np.ptp(x)
        print(f"{name}, quantiles, {n} levels: {most} of 1000 values on one level, ", end="")
        print(f"range {spread:.6f} of the series' (reference {np.ptp(right) / np.ptp(x):.2f})")
        assert most >= 999 and spread < 1e-3 and np.allclose(told, x.min(), atol=1e-3 * np.ptp(x))
        assert np.unique(right, return_counts=True)[1].max() < 1.1 * 1000 / n

        told, right = tsaug.Quantize(n_levels=n).augment(x), uniformly(x, n)
        shift, none = ((q - x).mean() / np.ptp(x) * n for q in (told, right))
        error, least = (np.sqrt(((q - x) ** 2).mean()) / np.ptp(x) * n for q in (told, right))
        print(f"{name}, uniform, {n} levels: moved up by {shift:.2f} of a level (reference {none:.2f}), ", end="")
        print(f"error {error:.2f} ({least:.2f})")
        assert shift > 0.25 and abs(none) < 0.1 and error > 1.5 * least
PYTHON
