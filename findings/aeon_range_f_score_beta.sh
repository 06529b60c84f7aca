#!/usr/bin/env bash
# aeon's range F-beta gives a perfect detector 2.5 at beta 0.5 and 0.625 at beta 2, and beta favours neither precision nor
# recall; if scores and labels are swapped, its anomaly metrics say that they swap them back, and call any detector
# perfect.
#
# F-beta is (1 + b^2) P R / (b^2 P + R). `range_f_score`, which cites Tatbul et al. (NeurIPS 2018) for its precision and
# recall, divides by b^2 (P + R) instead. That is F1 times (1 + b^2) / (2 b^2): one factor for all detectors. So every
# ranking by F0.5 or F2 is that by F1: a detector with P = 1, R = 0.5 and one with P = 0.5, R = 1 have the same F0.5 and
# the same F2, where the definition has 0.83 and 0.56, and 0.56 and 0.83. F0.5 goes up to 2.5, and F2 ends at 0.625. The
# docstring says "reaching its optimal value at 1" and "beta < 1 lends more weight to precision, while beta > 1 favors
# recall". At beta 1, the default, it is right. Papers on anomaly detection often report F0.5 (false alarms) or F2.
#
# The metrics of scores (`roc_auc_score`, `pr_auc_score`, `range_roc_auc_score`, `rp_rr_auc_score` and five more) take
# labels first, as scikit-learn does. Given float scores first and integer labels second they warn "Assuming that y_true
# and y_score where permuted", and the function that warns documents that it "swappes them back". Only the labels are:
# they then stand in both places, and are compared with themselves. Random scores get an AUC of 1.0 instead of about 0.5,
# and every detector gets the same.
#
# Seen with aeon 1.6.0, the newest release, and NumPy 2.3.5 on Linux (2026-11); we found no report. Fails if that changes.
set -euo pipefail
folder=$(mktemp -d)
trap 'rm -rf "$folder"' EXIT
python3 -m venv "$folder/venv"
"$folder/venv/bin/pip" install --quiet "numpy==2.3.5" "pandas==3.0.6" "scikit-learn==1.9.1" "scipy==1.17.1" \
  "numba==0.63.1" "deprecated==1.3.1" "packaging==26.4" "typing-extensions==4.16.0"
"$folder/venv/bin/pip" install --quiet --no-deps "aeon==1.6.0"
"$folder/venv/bin/python" -W ignore - <<'PYTHON'
import warnings
from importlib.metadata import version

import numpy as np
from aeon.benchmarking.metrics import anomaly_detection as metrics

print(f"aeon {version('aeon')}, NumPy {version('numpy')}")

truth = np.zeros(200, dtype=int)
for start in (20, 60, 100, 140):
    truth[start : start + 10] = 1
careful, eager = np.zeros_like(truth), np.zeros_like(truth)
careful[20:30] = careful[60:70] = 1  # two of four anomalies, no false alarm
for start in (20, 40, 60, 80, 100, 120, 140, 160):  # all four, and as many false alarms
    eager[start : start + 10] = 1


def f_beta(precision, recall, beta):
    return (1 + beta**2) * precision * recall / (beta**2 * precision + recall)


values = {}
for name, found in (("perfect", truth), ("careful", careful), ("eager", eager)):
    precision, recall = metrics.range_precision(truth, found), metrics.range_recall(truth, found)
    for beta in (0.5, 1, 2):
        got = metrics.range_f_score(truth, found, beta=beta, r_alpha=0)
        right = f_beta(precision, recall, beta)
        values[name, beta] = got, right
        print(f"{name:8} precision {precision:.2f}, recall {recall:.2f}, F{beta}: aeon {got:.3f}, definition {right:.3f}")
        assert np.isclose(got, f_beta(precision, recall, 1) * (1 + beta**2) / (2 * beta**2))
        if beta == 1:
            assert np.isclose(got, right)
assert np.isclose(values["perfect", 0.5][0], 2.5) and np.isclose(values["perfect", 2][0], 0.625)
for beta, better, worse in ((0.5, "careful", "eager"), (2, "eager", "careful")):
    assert np.isclose(values[better, beta][0], values[worse, beta][0])
    assert values[better, beta][1] > values[worse, beta][1] + 0.25

# random detectors, labels first and scores first
options = {"range_roc_vus_score": {"max_buffer_size": 8}, "range_pr_vus_score": {"max_buffer_size": 8}}
for name in (
    "roc_auc_score",
    "pr_auc_score",
    "f_score_at_k_points",
    "f_score_at_k_ranges",
    "rp_rr_auc_score",
    "range_roc_auc_score",
    "range_pr_auc_score",
    "range_roc_vus_score",
    "range_pr_vus_score",
):
    metric, more = getattr(metrics, name), options.get(name, {})
    first, swapped = [], []
    for seed in range(3):
        scores = np.random.default_rng(seed).random(len(truth))
        first.append(metric(truth, scores, **more))
        with warnings.catch_warnings(record=True) as said:
            warnings.simplefilter("always")
            swapped.append(metric(scores, truth, **more))
        assert any("permuted" in str(warning.message) for warning in said)
    of_labels = metric(truth, truth.astype(float), **more)
    print(f"{name:20} random scores {np.round(first, 2)}, swapped {np.round(swapped, 2)}, labels as scores {of_labels:.2f}")
    assert np.allclose(swapped, of_labels) and max(first) < of_labels - 0.2
    if not name.startswith("range"):
        assert np.isclose(of_labels, 1.0)
PYTHON
