#!/usr/bin/env bash
# sktime's windowed F1 of change points is 0 for a perfect detector and 4/3 for one that finds two changes with one alarm;
# its Rand index is negative for a segmentation that finds nothing.
#
# `WindowedF1Score` counts a true point as found if an alarm is no further away than `margin`; by default 0, "only exact
# matches being counted". Before it looks it steps past all alarms up to `margin` before the point, that one included: at
# the default no alarm is ever a match, and the F1 is 0 of every detector, perfect ones too. With a margin, an alarm so
# much late is a match and one so much early is none. One alarm may be the match of several points, so precision, matches
# over alarms, reaches 2. (`padded_f1`, which cites van den Burg and Williams, arXiv:2003.06222, has the open left end as
# well, and charges nothing for further alarms near a point that has one, where that paper counts them as false.)
#
# `RandIndex` gives the definition in its documentation: pairs of times in one segment, or in two, in both segmentations.
# It counts common pairs only where two segments have the same number from the left. One false change near the beginning
# moves all numbers on: 0.35 instead of 0.99, and 0.99 if it is near the end. No change found among three segments: -0.11,
# where the definition has 0.33. The documentation has the range from 0 to 1 and speaks of numbers only for the matching
# of labels. We found no report of either.
#
# Seen with sktime 1.2.0, pandas 2.3.3 and NumPy 2.3.5 on Linux (2026-11). Fails if that changes.
set -euo pipefail
folder=$(mktemp -d)
trap 'rm -rf "$folder"' EXIT
python3 -m venv "$folder/venv"
"$folder/venv/bin/pip" install --quiet "numpy==2.3.5" "pandas==2.3.3" "scikit-learn==1.9.1" "scikit-base==1.2.0" "packaging==26.4"
"$folder/venv/bin/pip" install --quiet --no-deps "sktime==1.2.0"
"$folder/venv/bin/python" -W ignore - <<'PYTHON'
from importlib.metadata import version

import numpy as np
import pandas as pd
from sklearn.metrics import rand_score
from sktime.performance_metrics._annotation.metrics import padded_f1
from sktime.performance_metrics.detection import RandIndex, WindowedF1Score

print(f"sktime {version('sktime')}")


def f1(true, alarms, margin=None):
    metric = WindowedF1Score() if margin is None else WindowedF1Score(margin=margin)
    return metric(pd.DataFrame({"ilocs": true}), pd.DataFrame({"ilocs": alarms}))


true = [100, 200, 300]
table = {
    "the true points, by default": (f1(true, true), 0),
    "the true points, margin 5": (f1(true, true, 5), 1),
    "each 5 late, margin 5": (f1(true, [t + 5 for t in true], 5), 1),
    "each 5 early, margin 5": (f1(true, [t - 5 for t in true], 5), 0),
    "102 for 100 and 104, margin 5": (f1([100, 104], [102], 5), 4 / 3),
    "padded_f1: the true points, pad 0": (padded_f1(true, true, 0), 0),
    "padded_f1: each 5 early, pad 5": (padded_f1(true, [t - 5 for t in true], 5), 0),
    "padded_f1: nine alarms at each, pad 5": (padded_f1(true, [t + d for t in true for d in range(-4, 5)], 5), 1),
}
for what, (value, seen) in table.items():
    print(f"F1, {what}: {value:.2f}")
    assert abs(value - seen) < 1e-9


def rand_index(*ends):
    frames = [pd.DataFrame({"ilocs": pd.IntervalIndex.from_breaks([0, *e], closed="left")}) for e in ends]
    return RandIndex()(*frames)


def defined(*ends):
    return rand_score(*(np.searchsorted(e[:-1], np.arange(e[-1]), side="right") for e in ends))


for found, low, high in (
    ([100, 200, 300], 1, 1),
    ([5, 100, 200, 300], 0.34, 0.36),
    ([100, 200, 295, 300], 0.98, 1),
    ([300], -0.12, -0.1),
):
    value, right = rand_index([*true], found), defined(true, found)
    print(f"Rand index, segments end at {true} and at {found}: {value:.2f}, by its definition {right:.2f}")
    assert low <= value <= high and right > 0.3
PYTHON
