#!/usr/bin/env bash
# fluke's balanced Dirichlet split gives the same image to several clients, drops as many, and is less skewed.
#
# `label_dirichlet_skew(balanced=True)` promises "a balanced distribution of the examples". A client with too many is cut
# at random. One with too few is filled up at random, over all classes, from all examples that no earlier client has, its
# own and those of later clients among them, which keep theirs. Of ten clients at a concentration of 0.5, one training
# example in eleven is at several clients, some are twice at one, one in ten is at nobody's; the labels of two clients
# differ less than they do without `balanced`, by which each example is at one client, once.
#
# Clients that are said to hold data of their own share them, and a table at "Dirichlet 0.1" is milder than it says. The
# documentation warns of too few examples of a class, of nothing else. The newest code (April 2026) is the same.
#
# Seen with fluke-fl 0.8.1 and torch 2.14.1 on Linux (2026-11). Fails if that changes.
set -euo pipefail
folder=$(mktemp -d)
trap 'rm -rf "$folder"' EXIT
python3 -m venv "$folder/venv"
"$folder/venv/bin/pip" install --quiet "torch==2.14.1" "torchvision==0.29.1" "numpy==2.4.6" "pandas==3.1.1" "scikit-learn==1.9.1" \
  "torchmetrics==1.9.0" "rich==14.3.4" "diskcache==5.6.3" "omegaconf==2.4.0" "psutil==7.2.2" "seaborn==0.13.2" "cerberus==1.3.8"
"$folder/venv/bin/pip" install --quiet --no-deps "fluke_fl==0.8.1"
cd "$folder"
"$folder/venv/bin/python" -W ignore - <<'PYTHON'
from importlib.metadata import version

import numpy as np
import torch
from fluke import DDict
from fluke.data import DataContainer, DataSplitter

print(f"fluke-fl {version('fluke-fl')}")
CLIENTS, CLASSES, OF_A_CLASS = 10, 10, 600
labels = torch.arange(CLASSES).repeat_interleave(OF_A_CLASS)
number = torch.arange(len(labels)).float()[:, None]  # each "image" is its own number
images = DataContainer(number, labels, number[::10], labels[::10], CLASSES)

for concentration in (0.5, 0.1):
    seen = {}
    for balanced in (False, True):
        rows = []
        for seed in range(5):
            np.random.seed(seed)
            split = DataSplitter(images, "dir", dist_args=DDict(beta=concentration, balanced=balanced))
            (training, _), _ = split.assign(CLIENTS, batch_size=32)
            held = [loader.tensors[0][:, 0].int().tolist() for loader in training]
            assert sum(map(len, held)) == len(labels)
            times = np.bincount(np.concatenate([list(set(h)) for h in held]), minlength=len(labels))
            twice = sum(len(h) - len(set(h)) for h in held)
            shares = np.array([np.bincount(labels[h], minlength=CLASSES) / len(h) for h in held])
            apart = np.mean([np.abs(a - b).sum() / 2 for i, a in enumerate(shares) for b in shares[:i]])
            rows.append((np.mean(times > 1), np.mean(times == 0), twice, apart))
        seen[balanced] = rows = np.array(rows)
        several, nowhere, twice, apart = rows.mean(axis=0)
        print(
            f"Dirichlet {concentration}, balanced {balanced}: examples at several clients {several:.1%}, at none {nowhere:.1%}, "
            f"twice at one {twice:.0f} of {len(labels)}; labels of two clients that differ {apart:.0%}"
        )
    assert not seen[False][:, :3].any()
    assert (seen[True][:, :2] > 0.05).all() and (seen[True][:, 2] > 0).all()
    assert (seen[True][:, 3] < seen[False][:, 3] - 0.03).all()
PYTHON
