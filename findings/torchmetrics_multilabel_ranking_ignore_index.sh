#!/usr/bin/env bash
# torchmetrics' multilabel coverage error counts ignored labels as true ones that come last; ranking loss as false ones,
# and scores that are equal as if the label with the higher number had the higher score.
#
# `ignore_index` "is ignored and does not contribute to the metric calculation": labels nobody gave (partial annotation),
# or in class-incremental and federated work the classes a client or task does not know. Coverage error (Tsoumakas et al.
# 2010) is how far down the ranking one goes to meet all true labels. The function moves ignored scores far below all
# others and then takes each label whose target is not 0 for a true one. So an example with one ignored label has the
# worst value there is, the number of labels, whatever the model: with a label in each row left out, a perfect model and
# a random one are equal. In the ranking loss they are false labels ranked last, always in right order: the loss is
# smaller the more is ignored: of scores at random 0.25 with four labels of ten ignored, where it is 0.52 by definition.
# Ranking average precision is right.
#
# Ranking loss, nothing ignored: pairs of equal scores are ordered by label number. Constant scores have a loss of 0, as a
# perfect model, if true labels have the highest numbers, 1 if they have the lowest; scikit-learn counts equal as wrong
# (1 both times). Scores outside 0 to 1 go through a sigmoid first, and those above about 17 are all 1 then: the same
# scores in another order of labels have another loss (0.60, 0.25), and divided by 10 the right one (0.03).
#
# The docstrings say nothing of either. Issues on `ignore_index` of other metrics (1508, 3083) are closed.
#
# Seen with torchmetrics 1.9.0 and torch 2.14.1 on Linux (2026-11); the repository's newest code (August 2026) is the same.
# Fails if that changes. Downloads PyTorch.
set -euo pipefail
folder=$(mktemp -d)
trap 'rm -rf "$folder"' EXIT
python3 -m venv "$folder/venv"
"$folder/venv/bin/pip" install --quiet "torch==2.14.1" "numpy==2.4.6" "torchmetrics==1.9.0" "scikit-learn==1.9.1"
CUDA_VISIBLE_DEVICES="" "$folder/venv/bin/python" -W ignore - <<'PYTHON'
from importlib.metadata import version

import torch
from sklearn.metrics import label_ranking_loss
from torchmetrics.classification import (
    MultilabelCoverageError,
    MultilabelRankingAveragePrecision,
    MultilabelRankingLoss,
)

print(f"torchmetrics {version('torchmetrics')}, torch {torch.__version__}")


def rows(scores, target):
    for row, labels in zip(scores, target, strict=True):
        yield row[labels == 1], row[labels == 0], row[labels >= 0]


def coverage(scores, target):
    return sum(int((known >= true.min()).sum()) for true, _, known in rows(scores, target)) / len(scores)


def loss(scores, target):
    return sum(float((true[:, None] <= false).float().mean()) for true, false, _ in rows(scores, target)) / len(scores)


def precision(scores, target):
    total = 0.0
    for true, _, known in rows(scores, target):
        total += sum(int((true >= s).sum()) / int((known >= s).sum()) for s in true) / len(true)
    return total / len(scores)


generator = torch.Generator().manual_seed(0)
EXAMPLES, LABELS = 1000, 10
target = (torch.rand(EXAMPLES, LABELS, generator=generator) < 0.3).long()
target[:, 0], target[:, 1] = 1, 0  # at least one of each
noise = torch.rand(EXAMPLES, LABELS, generator=generator)
models = {"perfect": 0.5 * target + 0.5 * noise, "random": noise}
seen = {}
for ignored in (0, 1, 4):
    partial = target.clone()
    for row in partial:
        row[2 + torch.randperm(LABELS - 2, generator=generator)[:ignored]] = -1
    for model, scores in models.items():
        line = f"{ignored} of 10 labels ignored, {model}:"
        for metric, reference in (
            (MultilabelCoverageError, coverage),
            (MultilabelRankingLoss, loss),
            (MultilabelRankingAveragePrecision, precision),
        ):
            value = float(metric(num_labels=LABELS, ignore_index=-1)(scores, partial))
            right = reference(scores, partial)
            seen[ignored, model, reference] = value, right
            line += f" {reference.__name__} {value:.3f} (reference {right:.3f})"
        print(line)
for (ignored, _, reference), (value, right) in seen.items():
    if ignored == 0 or reference is precision:
        assert abs(value - right) < 1e-3
    if ignored and reference is coverage:
        assert value == LABELS and right < 8
assert seen[4, "random", loss][0] < 0.3 and abs(seen[4, "random", loss][1] - 0.5) < 0.02

metric = MultilabelRankingLoss(num_labels=LABELS)
for true in (slice(0, 3), slice(7, 10)):
    few = torch.zeros(EXAMPLES, LABELS, dtype=torch.long)
    few[:, true] = 1
    constant = torch.full((EXAMPLES, LABELS), 0.5)
    value, other = float(metric(constant, few)), label_ranking_loss(few, constant)
    print(f"constant scores, true labels {true.start} to {true.stop - 1}: loss {value:.3f}, scikit-learn {other:.3f}")
    assert value == (1 if true.start == 0 else 0) and other == 1

logits = 30 + 3 * torch.randn(EXAMPLES, LABELS, generator=generator) - 8 * (1 - target)
order = target.float().mean(0).argsort()  # label 1 is never true, label 0 always
pairs = (logits, target), (logits[:, order], target[:, order]), (logits / 10, target)
values = [float(metric(scores, labels)) for scores, labels in pairs]
print(f"logits {values[0]:.3f}, in another order of labels {values[1]:.3f}, divided by 10 {values[2]:.3f};", end=" ")
print(f"reference {loss(logits, target):.3f}")
assert abs(values[2] - loss(logits, target)) < 1e-3 and abs(values[0] - values[1]) > 0.1
PYTHON
