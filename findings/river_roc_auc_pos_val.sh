#!/usr/bin/env bash
# river's ROCAUC works for one positive label, True (or 1): for False or 0 it is below zero, for any other label 0. Its
# CrossEntropy scores a class that was not among the predicted ones as perfectly predicted.
#
# `pos_val`, the "value to treat as positive", is used for the labels, but what is counted is then asked for by `pos_val`
# where the table has True and False, and of a predicted dict the entry `True` is taken. With 0 or False positives and
# negatives change places, the curve is walked backwards and the area is minus what it is; with predictions as a dict, as
# all models of river make them, it is minus one plus that. With "spam", or 2, nothing is ever counted: 0.0. No error, no
# warning, and by value 0.0 or -0.1 looks like a bad model. RollingROCAUC is right for a number, and one minus the area for
# a dict with pos_val=0.
#
# CrossEntropy is minus the log of the probability of the true class. If the dict does not have it, its probability is 0
# (so it is in LogLoss: 34.5, by a bound); here the loss is 0, the best there is. A classifier that puts all on one class,
# and that alone into the dict, has 0.0 whatever it says. Models of river do not have a class that they have not seen: on a
# stream where classes come one after another each one's first, the hardest, is free.
#
# GeometricMean, "of class-wise recall", takes a class that was predicted once and never was true to have recall 0, so that
# it is 0 at once and for ever; BalancedAccuracy leaves it out.
#
# The documentation says nothing of the kind. Below: areas against counted pairs.
#
# Seen with river 0.26.1 on Linux (2026-11). Fails if that changes.
set -euo pipefail
folder=$(mktemp -d)
trap 'rm -rf "$folder"' EXIT
python3 -m venv "$folder/venv"
"$folder/venv/bin/pip" install --quiet "numpy==2.4.6" "scipy==1.17.1" "river==0.26.1"
"$folder/venv/bin/python" -W ignore - <<'PYTHON'
import math
import random
from importlib.metadata import version

from river import datasets, metrics, naive_bayes

print(f"river {version('river')}")


def counted_area(positive, scores):
    pos = [s for p, s in zip(positive, scores) if p]
    neg = [s for p, s in zip(positive, scores) if not p]
    return sum((a > b) + (a == b) / 2 for a in pos for b in neg) / (len(pos) * len(neg))


def of(metric, labels, predictions):
    for label, prediction in zip(labels, predictions):
        metric.update(label, prediction)
    return metric.get()


numbers = random.Random(0)
positive = [numbers.random() < 0.5 for _ in range(1000)]
scores = [0.3 * p + 0.7 * numbers.random() for p in positive]
area = counted_area(positive, scores)
print(f"1000 scores: area {area:.3f} by counted pairs; ROCAUC(n_thresholds=100) of scores, and of dicts, by labels:")
for yes, no, plain, in_dict in (
    (True, False, area, area),
    (1, 0, area, area),
    (0, 1, -area, area - 1),
    (False, True, -area, area - 1),
    ("spam", "ham", 0, 0),
    (2, 1, 0, 0),
):
    labels = [yes if p else no for p in positive]
    dicts = [{yes: s, no: 1 - s} for s in scores]
    seen = [of(metrics.ROCAUC(n_thresholds=100, pos_val=yes), labels, p) for p in (scores, dicts)]
    print(f"  {yes!r} and {no!r}: {seen[0]:.3f}, {seen[1]:.3f}")
    assert abs(seen[0] - plain) < 0.01 and abs(seen[1] - in_dict) < 0.01
labels, dicts = [int(not p) for p in positive], [{0: s, 1: 1 - s} for s in scores]
rolling = [of(metrics.RollingROCAUC(pos_val=0, window_size=1000), labels, p) for p in (scores, dicts)]
print(f"RollingROCAUC, 0 and 1: {rolling[0]:.3f}, {rolling[1]:.3f}")
assert abs(rolling[0] - area) < 1e-6 and abs(rolling[1] - (1 - area)) < 1e-6

for yes, no, expected in ((True, False, None), (0, 1, "below"), ("phishing", "none", 0)):
    model, metric, told = naive_bayes.GaussianNB(), metrics.ROCAUC(n_thresholds=100, pos_val=yes), []
    for x, y in datasets.Phishing():
        label = yes if y else no
        prediction = model.predict_proba_one(x)
        metric.update(label, prediction)
        told.append((y, prediction.get(yes, 0.0)))
        model.learn_one(x, label)
    area = counted_area(*zip(*told))
    print(f"naive Bayes on Phishing, {yes!r} and {no!r}: area {area:.3f}, ROCAUC {metric.get():.3f}")
    assert area > 0.9
    assert abs(metric.get() - (area if expected is None else area - 1 if expected else 0)) < 0.02


def surprise(prediction, label):
    return -math.log(min(max(prediction.get(label, 0.0), 1e-15), 1 - 1e-15))


for name, prediction in (("absent", {"a": 1.0}), ("at 0", {"a": 1.0, "b": 0.0})):
    seen = of(metrics.CrossEntropy(), ["b"] * 10, [prediction] * 10)
    print(f"ten times b, told a, b {name}: CrossEntropy {seen:.1f}, reference {surprise(prediction, 'b'):.1f}")
    assert seen == 0 or name == "at 0"
    assert name == "absent" or abs(seen - surprise(prediction, "b")) < 1e-6
model, metric, told, new = naive_bayes.GaussianNB(), metrics.CrossEntropy(), [], 0
stream = [([numbers.gauss(3 * c, 1), numbers.gauss(-2 * c, 1)], c) for c in range(20) for _ in range(20)]
for (a, b), label in stream:  # twenty classes, one after another
    prediction = model.predict_proba_one({"a": a, "b": b})
    metric.update(label, prediction)
    told.append(surprise(prediction, label))
    new += label not in prediction
    model.learn_one({"a": a, "b": b}, label)
reference = sum(told) / len(told)
print(f"20 classes in turn, {new} of {len(stream)} absent: CrossEntropy {metric.get():.2f}, reference {reference:.2f}")
assert new == 20 and reference > metric.get() + 1.5

labels, told = ["a", "b"] * 500, ["a", "b"] * 500
told[0] = "c"
means = of(metrics.GeometricMean(), labels, told), of(metrics.BalancedAccuracy(), labels, told)
print(f"one prediction in 1000 of a class that is none: GeometricMean {means[0]:.3f}, BalancedAccuracy {means[1]:.3f}")
assert means[0] == 0 and means[1] > 0.99
PYTHON
