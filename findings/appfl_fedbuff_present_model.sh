#!/usr/bin/env bash
# appfl's FedBuff, with clients that send models (the default), takes the difference from the present global model.
#
# FedBuff (Nguyen et al., AISTATS 2022, algorithm 1) sums up what each client changed: its model less the model that it
# was given, however old that is, and adds the mean of K such differences. `FedBuffAggregator` sums up the client's model
# less the global model of now. That is the mixing of FedAsync (Xie et al., 2019), K at a time: a client that comes late
# pulls the model back to where it was when the client left, and takes away what others did since. Below, one client goes
# from 0 to 10, and another, given 0 as well, has nothing to change: the global model is 10, and then 0 again. FedBuff's
# is 10. With 40 uploads and a buffer of two, the two paths come about half as far apart as FedBuff's goes, or more.
#
# With `send_gradient: True` clients send differences, and the same class is FedBuff. So the option, which is there to
# choose what is sent, chooses the method. The docstring names the paper and says nothing of this; the repository has the
# same lines (commit 100d7f2).
#
# The step is alpha / num_clients for each upload, not 1 / K; below alpha is such that they are equal.
#
# Seen with appfl 1.12.0 and torch 2.14.1 on Linux (2026-11). Fails if that changes.
set -euo pipefail
folder=$(mktemp -d)
trap 'rm -rf "$folder"' EXIT
python3 -m venv "$folder/venv"
"$folder/venv/bin/pip" install --quiet "torch==2.14.1" "numpy==2.4.6" "scipy==1.17.1" "opt_einsum==3.4.0" \
  "omegaconf==2.4.0" "packaging==25.0"
"$folder/venv/bin/pip" install --quiet --no-deps "appfl==1.12.0" "opacus==1.6.0"
cd "$folder"
"$folder/venv/bin/python" -W ignore - <<'PYTHON'
from importlib.metadata import version

import numpy as np
import torch
from appfl.algorithm.aggregator import FedBuffAggregator
from omegaconf import DictConfig

torch.set_num_threads(1)
print(f"appfl {version('appfl')}, torch {torch.__version__}")
CLIENTS, BUFFER, UPLOADS = 4, 2, 40  # the fast two of four send nine of ten


def server(size, **options):
    model = torch.nn.Linear(size, 1, bias=False)
    model.weight.data.zero_()
    return FedBuffAggregator(model, DictConfig(dict(staleness_fn="constant", optimize_memory=False) | options))


# two clients, both given 0: one goes to 10, the other has nothing to change
for difference in (False, True):
    aggregator = server(1, K=1, num_clients=1, alpha=1.0, gradient_based=difference)
    for name in "ab":
        aggregator.get_parameters(client_id=name)
    after_a, after_b = (
        aggregator.aggregate(name, {"weight": torch.tensor([[sent]])})["weight"].item()
        for name, sent in (("a", -10.0 if difference else 10.0), ("b", 0.0))
    )
    what = "differences" if difference else "models"
    print(
        f"clients send {what}: after the one that goes from 0 to 10, {after_a}; after the one that stays at 0, {after_b}"
    )
    assert after_a == 10 and after_b == (10 if difference else 0)


def reference(w, upload, of_given):
    """FedBuff's sum of a full buffer, of differences from the model given to the client, or from the present one."""
    given, waiting, path = [w.copy() for _ in range(CLIENTS)], [], []
    for i, step in upload:
        now = given[i] + step
        waiting.append(now - (given[i] if of_given else w))
        if len(waiting) == BUFFER:
            w, waiting = w + np.mean(waiting, axis=0), []
        given[i] = w.copy()
        path.append(w.copy())
    return np.array(path)


def by_appfl(size, upload, difference):
    aggregator = server(size, K=BUFFER, num_clients=CLIENTS, alpha=CLIENTS / BUFFER, gradient_based=difference)
    given, path = [np.zeros(size) for _ in range(CLIENTS)], []
    for i in range(CLIENTS):
        aggregator.get_parameters(client_id=i)
    for i, step in upload:
        sent = torch.tensor((-step if difference else given[i] + step)[None], dtype=torch.float32)
        given[i] = aggregator.aggregate(i, {"weight": sent})["weight"].numpy()[0].astype(float)
        path.append(given[i])
    return np.array(path)


for seed in range(3):
    numbers = np.random.default_rng(seed)
    upload = [
        (int(numbers.choice(CLIENTS, p=[0.45, 0.45, 0.05, 0.05])), numbers.normal(size=3)) for _ in range(UPLOADS)
    ]
    paper, present = (reference(np.zeros(3), upload, of_given) for of_given in (True, False))
    models, differences = (by_appfl(3, upload, difference) for difference in (False, True))
    apart = np.linalg.norm(models - paper, axis=1).max()
    print(
        f"seed {seed}: furthest from FedBuff's path {apart:.2f}, which ends {np.linalg.norm(paper[-1]):.2f} from its start"
    )
    assert np.allclose(models, present, atol=1e-4) and np.allclose(differences, paper, atol=1e-4)
    assert apart > 0.3
PYTHON
