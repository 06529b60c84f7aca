"""Baselines of aeon on the default split of sets of series: 1-NN with dynamic time warping, and MiniRocket.

    AEON/bin/python tests/benchmarks/series_baselines.py GunPoint ItalyPowerDemand [--seeds 3]

Runs in a Python that has aeon and no need of ours, started by `series_ceiling.py --aeon AEON/bin/python`. Printed is a
JSON line for each set: accuracies in percent, of each seed where there is chance in a classifier. Sets come from aeon's
wheel, or from `<name>_TRAIN.tsv` somewhere below `--folder`; shorter series are padded with zeros for MiniRocket.
"""

from __future__ import annotations

import argparse
import json
import warnings
from pathlib import Path

import numpy as np

warnings.filterwarnings("ignore")


def main() -> None:
    from aeon.classification.convolution_based import MiniRocketClassifier
    from aeon.classification.distance_based import KNeighborsTimeSeriesClassifier
    from aeon.datasets import load_classification

    parser = argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0])
    parser.add_argument("sets", nargs="+")
    parser.add_argument("--seeds", type=int, default=3)
    parser.add_argument("--folder", type=Path, help="where the .tsv files of sets lie that aeon has not")
    asked = parser.parse_args()
    for name in asked.sets:
        files = sorted(asked.folder.rglob(f"{name}_T*.tsv")) if asked.folder else []
        (z, truth), (x, y) = map(table, files) if files else (load_classification(name, s) for s in ("test", "train"))
        found = {"1-NN DTW": [score(KNeighborsTimeSeriesClassifier(distance="dtw"), (x, y), (z, truth))]}
        if not isinstance(x, np.ndarray):
            longest = max(series.shape[1] for series in (*x, *z))
            x, z = (padded(series, longest) for series in (x, z))
        found["MiniRocket"] = [
            score(MiniRocketClassifier(random_state=seed), (x, y), (z, truth)) for seed in range(asked.seeds)
        ]
        print(json.dumps({"set": name, "accuracy": found}), flush=True)


def table(path: Path) -> tuple[np.ndarray, np.ndarray]:
    """Return series (N, 1, steps) and labels (N,) of a file whose first column has the labels."""
    rows = np.loadtxt(path, delimiter="\t")
    return rows[:, None, 1:], rows[:, 0]


def padded(series: list[np.ndarray], steps: int) -> np.ndarray:
    """Return series as one array (N, channels, steps), with zeros at their ends."""
    return np.stack([np.pad(s, ((0, 0), (0, steps - s.shape[1]))) for s in series])


def score(classifier: object, train: tuple, test: tuple) -> float:  # type: ignore[type-arg]
    """Return the accuracy on test series in percent."""
    classifier.fit(*train)  # type: ignore[attr-defined]
    return round(100 * float((classifier.predict(test[0]) == test[1]).mean()), 2)  # type: ignore[attr-defined]


if __name__ == "__main__":
    main()
