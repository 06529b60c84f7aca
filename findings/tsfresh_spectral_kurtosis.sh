#!/usr/bin/env bash
# tsfresh's kurtosis of the spectrum is that of no distribution, its autocorrelation depends on the unit, and its largest
# fixed point is often none.
#
# tsfresh (Christ et al., Neurocomputing 2018) computes all of these by default, and its documentation has the formulas.
#
# - `fft_aggregated`, `kurtosis`: "the fourth standardized moment" of the absolute spectrum. About the mean m that is
#   (M4 - 4 m M3 + 6 m^2 M2 - 3 m^4) / v^2. tsfresh takes 3 m away, not 3 m^4. So 3 (m^4 - m) / v^2 is added, which has to
#   do with where the spectrum is, not with its shape: 25 for the flat spectrum of noise, whose kurtosis is 1.7, and
#   a flat spectrum has more than a peaked one. Centroid, variance and skewness are right.
# - `autocorrelation` is nan where the variance is "close" to 0 by NumPy's absolute default of 1e-8, and
#   `agg_autocorrelation` 0 below 1e-10. By the formula neither depends on the unit. A series with a deviation below 1e-4 is
#   such a one: EEG in volts, as MNE holds it, is ten times smaller still; in microvolts all is well. With tsfresh's
#   `impute` the nan of all series becomes 0.
# - `max_langevin_fixed_point`: "argmax {h(x) = 0}", the largest root of a fitted cubic. The largest real part of its
#   complex roots is returned; for three series in ten of those below it is of a pair that is not real, and h is not 0
#   there.
# - `spkt_welch_density` of a short series with coefficients in another order than ascending gives them the wrong names:
#   asked for 8 and 2 of ten points it returns coefficient 2 as 8, and nan as 2. Settings made of the columns that a
#   selection left may be in any order.
#
# The repository's newest code (June 2026) is the same; we found no report.
#
# Seen with tsfresh 0.21.2, the newest release, and NumPy 2.3.5 on Linux, Python 3.11 (2026-11). Fails if that changes.
set -euo pipefail
folder=$(mktemp -d)
trap 'rm -rf "$folder"' EXIT
python3 -m venv "$folder/venv"
"$folder/venv/bin/pip" install --quiet "numpy==2.3.5" "pandas==3.0.6" "scipy==1.17.1" "scikit-learn==1.9.1" \
  "numba==0.63.1" "statsmodels==0.15.0" "patsy==1.0.3" "PyWavelets==1.9.0" "packaging==26.4" "tqdm" "cloudpickle" "requests"
"$folder/venv/bin/pip" install --quiet --no-deps "tsfresh==0.21.2" "stumpy==1.14.1"
cd "$folder"
"$folder/venv/bin/python" -W ignore - <<'PYTHON'
from importlib.metadata import version

import numpy as np
import pandas as pd
from tsfresh.feature_extraction.feature_calculators import (
    agg_autocorrelation,
    autocorrelation,
    fft_aggregated,
    max_langevin_fixed_point,
    spkt_welch_density,
)

print(f"tsfresh {version('tsfresh')}")
numbers = np.random.default_rng(0)
series = {
    "noise": numbers.normal(size=200),
    "sine": np.sin(np.arange(200) * 0.7) + 0.1 * numbers.normal(size=200),
    "random walk": np.cumsum(numbers.normal(size=200)),
}
found = {}
for name, x in series.items():
    names = ("centroid", "variance", "skew", "kurtosis")
    mean, variance, skew, kurtosis = (v for _, v in fft_aggregated(x, [dict(aggtype=n) for n in names]))
    share = np.abs(np.fft.rfft(x))
    share /= share.sum()
    k = np.arange(len(share))
    m = (share * k).sum()
    v, third, fourth = ((share * (k - m) ** n).sum() for n in (2, 3, 4))
    print(f"{name:12}: kurtosis of the spectrum {fourth / v**2:.2f}, by tsfresh {kurtosis:.2f}")
    assert np.allclose([mean, variance, skew], [m, v, third / v**1.5])
    assert np.isclose(kurtosis, fourth / v**2 + 3 * (m**4 - m) / v**2)
    found[name] = fourth / v**2, kurtosis
assert found["noise"][0] < 2 and found["noise"][1] > 20
assert sorted(found, key=lambda n: found[n][0]) == sorted(found, key=lambda n: found[n][1])[::-1]

wave = np.sin(np.arange(300) * 0.1) + 0.1 * numbers.normal(size=300)
centred = wave - wave.mean()
by_formula = (centred[1:] * centred[:-1]).sum() / (299 * wave.var())
for unit in (1, 1e-3, 1e-4, 1e-5):
    one = autocorrelation(unit * wave, 1)
    mean = dict(agg_autocorrelation(unit * wave, [dict(f_agg="mean", maxlag=40)]))['f_agg_"mean"__maxlag_40']
    print(
        f"times {unit:g}: autocorrelation at lag 1 {one:.4f} (formula {by_formula:.4f}), mean over 40 lags {mean:.4f}"
    )
    assert np.isnan(one) if unit <= 1e-4 else np.isclose(one, by_formula)
assert mean == 0


def cubic(x, bins=30):  # mean step against mean value, in thirty bins of equally many points
    bin_of = pd.qcut(x[:-1], bins, labels=False)
    points = pd.DataFrame(dict(x=x[:-1], step=np.diff(x))).groupby(bin_of).mean()
    return np.polyfit(points.x, points.step, 3)


none = 0
for i in range(200):
    x = numbers.normal(size=300)
    x = np.cumsum(x) if i % 2 else x
    h = cubic(x)
    roots = np.roots(h)
    largest = roots[np.abs(roots.imag) < 1e-9].real.max()
    fixed = max_langevin_fixed_point(x, 30, 3)
    assert np.isclose(fixed, roots.real.max(), rtol=1e-4, atol=1e-6)
    none += fixed > largest + 1e-6
print(f"largest fixed point: of 200 series, {none} have one where the cubic is not 0")
assert 30 < none < 100

short = numbers.normal(size=10)
up, down = (dict(spkt_welch_density(short, [dict(coeff=c) for c in order])) for order in ((2, 8), (8, 2)))
print(f"Welch densities of ten points: asked for 2, 8 {up}; for 8, 2 {down}")
assert up["coeff_2"] == down["coeff_8"] and np.isnan(up["coeff_8"]) and np.isnan(down["coeff_2"])
PYTHON
