#!/usr/bin/env bash
# tslearn's LearningShapelets: with two channels or more, what it calls the distance to a shapelet is none, and may be
# below zero.
#
# The features of Grabocka et al. (KDD 2014) and of the class's docstring are the least squared distances of a series to
# each shapelet. Since 0.7.0 they come as |x|^2 + |s|^2 - 2 x s, and for the last product the shapelets, an array of
# (number, length, channels), are laid out by swapping the first two axes and reshaping. That is right for one channel and
# for one shapelet; otherwise a series is multiplied with a mixture of values of all shapelets of that length. A series
# that holds a shapelet, value by value, is not at distance 0 from it (here at 158 or -75), one "squared distance" in
# seven is negative, and `locate` finds the copies nowhere near. There is no warning.
#
# The classifier is trained through the same product, so it can still learn (on an easy problem with two channels it was
# as accurate as with the right one); it is not the published model, and `shapelets_`, `transform` and `locate`, for which
# one takes a shapelet model at all, do not belong together on any of the multivariate sets. 0.6.4, with a layer for each
# channel, was right. We found no report of it.
#
# Seen with tslearn 0.10.0, keras 3.15.1 and torch 2.14.1 on Linux (2026-11), on a CPU. Fails if that changes. Downloads
# PyTorch.
set -euo pipefail
folder=$(mktemp -d)
trap 'rm -rf "$folder"' EXIT
python3 -m venv "$folder/venv"
"$folder/venv/bin/pip" install --quiet "tslearn==0.10.0" "keras==3.15.1" "torch==2.14.1" "numpy==2.3.5" "scikit-learn==1.9.1" \
  "scipy==1.17.1" "numba==0.63.1"
KERAS_BACKEND=torch "$folder/venv/bin/python" -W ignore - <<'PYTHON'
from importlib.metadata import version

import numpy as np
from tslearn.shapelets import LearningShapelets

print(f"tslearn {version('tslearn')}, keras {version('keras')}")


def distances(series, shapelets):
    """Mean squared distance over time at every position, summed over channels."""
    length = shapelets[0].shape[0]
    windows = np.stack([series[:, t : t + length] for t in range(series.shape[1] - length + 1)], 1)
    return np.stack([((windows - s) ** 2).sum((-1, -2)) / length for s in shapelets], -1)


results = {}
for channels in (1, 2, 3):
    for number in (1, 6):
        random = np.random.default_rng(0)
        series = np.cumsum(random.normal(size=(60, 50, channels)), 1)
        model = LearningShapelets(n_shapelets_per_size={10: number}, max_iter=3, random_state=0)
        model.fit(series, np.arange(60) % 2)
        every = distances(series, model.shapelets_)
        own = model.transform(series)
        right = np.abs(own - every.min(1)).max() < 1e-3
        places = (model.locate(series) == every.argmin(1)).mean()
        print(
            f"{channels} channels, {number} shapelets: {'as defined' if right else 'something else'}, least {own.min():6.2f}, "
            f"negative {(own < 0).mean():4.0%}, `locate` right {places:4.0%}"
        )
        results[channels, number] = right, own.min(), places

        if number > 1:  # shapelets that are cut out of the series themselves
            begin = random.integers(0, 41, number)
            cut = np.stack([series[i, b : b + 10] for i, b in enumerate(begin)])
            model.set_weights([cut], "shapelets_0")
            same = np.diag(model.transform(series[:number]))
            found = np.diag(model.locate(series[:number]))
            print(f"  cut from series: own distance {np.round(same, 1).tolist()}, at {begin.tolist()}, found at {found.tolist()}")
            assert np.abs(distances(series, cut).min(1)[range(number), range(number)]).max() < 1e-9
            if channels == 1:
                assert np.abs(same).max() < 1e-3 and (found == begin).all()
            else:
                assert np.abs(same).max() > 5 and (found != begin).sum() >= number - 1

for (channels, number), (right, least, places) in results.items():
    if channels == 1 or number == 1:
        assert right and least > -1e-3 and places > 0.99
    else:
        assert not right and least < -1 and places < 0.5
PYTHON
