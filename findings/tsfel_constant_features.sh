#!/usr/bin/env bash
# tsfel: thirteen default features know only a series' length, MFCC reads its first 512 points, five of twelve LPCC are
# copies of others, and a series that ends where it began is taken to be constant.
#
# TSFEL (Barandas et al., SoftwareX 2020) computes features of series by a default table, in which all of the following
# are on. Its documentation names each feature as below.
#
# - "ECDF", ten values of the empirical distribution function: the first ten are returned of 1/n, 2/n, ..., 1, which is
#   what such a function is at the sorted points of any series. No value of the series is in them. "ECDF Percentile
#   Count", the number of points below the percentiles 0.2 and 0.8, is 0.2 n and 0.8 n (rounded down). "Entropy" counts
#   equal values: any series of n different numbers has 1. Columns that are the same for all series of one length, and
#   give the length away where there are several.
# - "ECDF Percentile", "... Count" and "... Slope" test for a constant series by a sum of differences of zero. That sum is
#   the last value less the first. So 0, 3, 5, 9, 7, 6, 2, 1, 4, 0 has the percentiles 0 and 0, the counts 0 and 0 (the
#   first value, not a count) and an infinite slope. Of readings in whole numbers many series end as they began.
# - "MFCC" has no frames: one transform of `nfft` = 512 points is taken, which cuts a longer series off. Everything from
#   point 512 on may be exchanged with no effect, to the bit. The mean that is taken away, in the text it cites a mean
#   over frames, is that of the twelve coefficients.
# - "LPCC" transforms the twelve prediction coefficients back and forth with twelve points. Such a cepstrum is symmetric:
#   coefficient k is coefficient 12 - k. What is left is folded, and its sign is dropped: a process with x(t) = 0.9 x(t - 1)
#   and one with -0.9 have the same coefficients, where those of the definition, 0.9^k / k and (-0.9)^k / k, do not.
# - "Power bandwidth", "the band in which 95% of its power is located", leaves 5 % out at either end, and holds 90 %.
# - "Wavelet absolute mean" is the size of the mean of the coefficients, which is near 0, not the mean of their sizes.
#
# Each of these is the same in the repository's newest code (January 2026); we found no report.
#
# Seen with tsfel 0.2.0, the newest release, and NumPy 2.4.6 on Linux, Python 3.11 (2026-11). Fails if that changes.
set -euo pipefail
folder=$(mktemp -d)
trap 'rm -rf "$folder"' EXIT
python3 -m venv "$folder/venv"
"$folder/venv/bin/pip" install --quiet "numpy==2.4.6" "pandas==3.1.1" "scipy==1.17.1" "scikit-learn==1.9.1" \
  "statsmodels==0.15.0" "patsy==1.0.3" "PyWavelets==1.9.0" "packaging==26.4" "ipython" "requests"
"$folder/venv/bin/pip" install --quiet --no-deps "tsfel==0.2.0"
cd "$folder"
"$folder/venv/bin/python" -W ignore - <<'PYTHON'
from importlib.metadata import version

import numpy as np
import pywt
import tsfel
from scipy.signal import lfilter, welch

print(f"tsfel {version('tsfel')}")
numbers = np.random.default_rng(0)
N, RATE = 1000, 100

series = {
    "noise": numbers.normal(size=N),
    "random walk": np.cumsum(numbers.normal(size=N)),
    "exponential": numbers.exponential(size=N),
}
for name, x in series.items():
    ecdf, count, entropy = tsfel.ecdf(x), tsfel.ecdf_percentile_count(x), tsfel.entropy(x)
    print(f"{name:12}: ECDF {ecdf[0]:.3f} to {ecdf[-1]:.3f}, counts {count}, entropy {entropy:.6f}")
    assert np.allclose(ecdf, np.arange(1, 11) / N) and tuple(count) == (200, 800) and abs(entropy - 1) < 1e-12

x = np.array([0, 3, 5, 9, 7, 6, 2, 1, 4, 0])
found = (
    [int(p) for p in tsfel.ecdf_percentile(x)],
    [int(c) for c in tsfel.ecdf_percentile_count(x)],
    tsfel.ecdf_slope(x),
)
print(f"{x.tolist()}: percentiles, counts, slope {found}; by numpy {np.percentile(x, [20, 80])}")
assert found == ([0, 0], [0, 0], np.inf)
ends = np.mean([(z := np.rint(3 * numbers.normal(size=50)))[0] == z[-1] for _ in range(2000)])
print(f"Of rounded noise with a deviation of 3, {ends:.0%} of series are constant in that sense")
assert 0.06 < ends < 0.13

x = series["noise"]
other = x.copy()
other[512:] = 50 * np.sin(np.arange(512, N))
assert np.array_equal(tsfel.mfcc(x, RATE), tsfel.mfcc(other, RATE))
unlifted = np.array(tsfel.mfcc(x, RATE)) / (1 + 11 * np.sin(np.pi * np.arange(12) / 22))
print(f"MFCC: unchanged by what comes after point 512; sum of the coefficients before the lifter {unlifted.sum():.1e}")
assert abs(unlifted.sum()) < 1e-3 and np.abs(unlifted).max() > 1


def cepstrum(a, count):  # of 1 / (1 - sum a_k z^-k), by the usual recursion
    c = np.zeros(count + 1)
    for n in range(1, count + 1):
        c[n] = (a[n] if n < len(a) else 0) + sum(k / n * c[k] * a[n - k] for k in range(1, n) if n - k < len(a))
    return c[1:]


noise = numbers.normal(size=100_000)
found = {}
for phi in (0.9, -0.9):
    z = lfilter([1], [1, -phi], noise)
    c = np.array(tsfel.lpcc(z))
    a = -np.array(tsfel.feature_extraction.features_utils.lpc(z))
    by_definition = cepstrum(a, 4)
    print(f"phi {phi:4}: LPCC 1 to 4 by definition {by_definition.round(2)}, by tsfel {c[1:5].round(2)}")
    assert np.allclose(by_definition, [phi**k / k for k in range(1, 5)], atol=0.03)
    assert np.allclose(c[1:], c[1:][::-1]) and (c >= 0).all()
    found[phi] = c
assert np.allclose(found[0.9], found[-0.9], atol=0.05)

frequency, power = welch(x / x.std(), RATE, nperseg=N)
cumulated = np.cumsum(power) / power.sum()
low, high = (np.argmax(cumulated >= q) for q in (0.05, 0.95))
band, wide = (
    tsfel.power_bandwidth(x, RATE),
    frequency[np.argmax(cumulated >= 0.975)] - frequency[np.argmax(cumulated >= 0.025)],
)
print(
    f"Power bandwidth {band:.1f} Hz, from 5 to 95 %: {frequency[high] - frequency[low]:.1f}, from 2.5 to 97.5 %: {wide:.1f}"
)
assert abs(band - (frequency[high] - frequency[low])) < 0.3 and wide > band + 1

coefficients = pywt.cwt(x, np.arange(1, 10), "mexh")[0]
found, mean = np.array(tsfel.wavelet_abs_mean(x, RATE)["values"]), np.abs(coefficients).mean(axis=1)
print(
    f"Wavelet absolute mean {found.min():.5f} to {found.max():.3f}; mean of the sizes {mean.min():.2f} to {mean.max():.2f}"
)
assert np.allclose(found, np.abs(coefficients.mean(axis=1))) and (found < 0.05 * mean).all()
PYTHON
