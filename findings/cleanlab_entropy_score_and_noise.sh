#!/usr/bin/env bash
# cleanlab's entropy score calls a label that the model is sure of the worst of all, and its "exact" label noise is none
# where classes are small.
#
# `confidence_weighted_entropy`, one of three scores of the quality of a label, is the normalised entropy of the
# prediction divided by the probability of the label, s, turned into log(1 + s) / s, which goes to 1 as s goes to 0. The
# denominator alone is kept above 1e-6. So at s = 0 the score is 0 / 1e-6: a prediction of exactly 1 for the given label,
# the best there is, has the lowest score there is, the one of exactly 1 for another label; at 1 - 1e-9 it is 0.014.
# Probabilities of exactly 0 and 1 come from forests, from nearest neighbours, and from a softmax in 32 bits once two
# logits are some 17 apart. The documentation says "lower values indicating more likely mislabeled data". Until release 2.5
# the entropy's probabilities were clipped, too. On digits with a tenth of the labels changed and the probabilities of five
# nearest neighbours, the other two scores find the wrong labels (area under the curve 0.99), and so does this one if all
# probabilities are kept above 1e-6; cleanlab's has 0.63, and 12 or 13 of its hundred lowest scores are of wrong labels.
#
# `generate_noisy_labels` makes labels noisy, "exactly" by a matrix. The number that go from one class to another is
# rounded down (the documentation's example rounds to the nearest), for each pair of classes. With K classes and
# symmetric noise of 0.4 a pair's number is 0.4 n / (K - 1) for n examples a class: with a hundred classes of 200 examples,
# as on a client that has two fifths of CIFAR-100, it is 0.8, and not one label is changed; with 400 it is 1.6, and the
# noise is 0.2475, not 0.4. It has no seed of its own but NumPy's global one.
#
# The repository's newest code is the same (January 2026); we found no report.
#
# Seen with cleanlab 2.9.0, the newest release, on Linux, Python 3.11 (2026-11). Fails if that changes.
set -euo pipefail
folder=$(mktemp -d)
trap 'rm -rf "$folder"' EXIT
python3 -m venv "$folder/venv"
"$folder/venv/bin/pip" install --quiet "numpy==2.4.6" "pandas==3.1.1" "scipy==1.17.1" "scikit-learn==1.9.1" "tqdm" "termcolor"
"$folder/venv/bin/pip" install --quiet --no-deps "cleanlab==2.9.0"
cd "$folder"
"$folder/venv/bin/python" -W ignore - <<'PYTHON'
from importlib.metadata import version

import numpy as np
from cleanlab.benchmarking.noise_generation import generate_noisy_labels
from cleanlab.rank import get_label_quality_scores
from sklearn.datasets import load_digits
from sklearn.metrics import roc_auc_score
from sklearn.model_selection import cross_val_predict
from sklearn.neighbors import KNeighborsClassifier

print(f"cleanlab {version('cleanlab')}")


def scores(labels, shares, method):
    return get_label_quality_scores(np.asarray(labels), np.asarray(shares), method=method)


def reference(labels, shares):  # with all probabilities at least 1e-6
    shares = np.maximum(shares, 1e-6)
    entropy = -(shares * np.log(shares)).sum(axis=1) / np.log(shares.shape[1])
    s = entropy / shares[np.arange(len(labels)), labels]
    return np.log1p(s) / s


sure = [1.0, 1 - 1e-9, 1 - 1e-8, 1 - 1e-6, 0.999, 0.9, 0.5]
rows = np.array([[p] + [(1 - p) / 4] * 4 for p in sure])
label = np.zeros(len(sure), dtype=int)
found = scores(label, rows, "confidence_weighted_entropy")
print("probability of the label:", *(f"1 - {1 - p:.0e}" if 0.99 < p < 1 else p for p in sure))
print("score:", found.round(3), "reference:", reference(label, rows).round(3))
assert found[0] == 0 and found[1] < 0.02 < found[-1] and (np.diff(reference(label, rows)) <= 1e-9).all()

x, y = load_digits(return_X_y=True)
numbers = np.random.default_rng(0)
wrong = numbers.random(len(y)) < 0.1
noisy = np.where(wrong, (y + numbers.integers(1, 10, len(y))) % 10, y)
shares = cross_val_predict(KNeighborsClassifier(5), x, noisy, cv=5, method="predict_proba")
by_score = {
    m: scores(noisy, shares, m) for m in ("self_confidence", "normalized_margin", "confidence_weighted_entropy")
}
by_score["reference"] = reference(noisy, shares)
for method, score in by_score.items():
    lowest = wrong[np.argsort(score, kind="stable")[:100]].mean()
    print(f"{method}: area {roc_auc_score(wrong, -score):.3f}, wrong among the hundred lowest {lowest:.0%}")
zero = by_score["confidence_weighted_entropy"] == 0
right = (shares[np.arange(len(y)), noisy] == 1) & zero
print(f"score 0: {zero.sum()}, of which {right.sum()} have a probability of 1 for their label")
area = {method: roc_auc_score(wrong, -score) for method, score in by_score.items()}
assert area["self_confidence"] > 0.9 and area["reference"] > 0.9 > 0.7 > area["confidence_weighted_entropy"]
assert right.sum() > 0.3 * len(y)

for classes, each in ((10, 50), (100, 500), (100, 400), (100, 200)):
    matrix = np.full((classes, classes), 0.4 / (classes - 1))
    np.fill_diagonal(matrix, 0.6)
    y = np.repeat(np.arange(classes), each)
    noise = (generate_noisy_labels(y, matrix) != y).mean()
    print(f"{classes} classes of {each}: asked for 0.4, noise of {noise:.4f}")
    assert np.isclose(noise, int(0.4 * each / (classes - 1)) * (classes - 1) / each)
assert noise == 0
PYTHON
