#!/usr/bin/env bash
# FedLab's balanced Dirichlet partition is IID, whatever the concentration.
#
# `client_inner_dirichlet_partition`, behind CIFAR10Partitioner and CIFAR100Partitioner with `partition="dirichlet"` and
# clients of given sizes (`balance` True or False), shuffles the labels first and returns indices into the shuffled ones, without going
# back through the permutation. Used on the data set, as its documentation has it, they point at samples of any
# class: at a concentration of 0.3 the largest class of a client has 13 % of its images of ten classes, as at 100,
# where shares drawn from that Dirichlet have 44 %. `hetero_dir_partition`, of clients of any size, is right. The
# repository dropped the shuffling after the release (issue 326, in Chinese, 2023); PyPI's newest is still from before.
# It also counts the list of sizes that it was given down to zero, so a second call with the same list gives empty clients.
#
# Seen with fedlab 1.3.0 and numpy 2.4.6 on Linux (2026-11), its file of partitions alone, which needs numpy and pandas.
# Fails if that changes.
set -euo pipefail
folder=$(mktemp -d)
trap 'rm -rf "$folder"' EXIT
python3 -m venv "$folder/venv"
"$folder/venv/bin/pip" install --quiet "numpy==2.4.6" "pandas==2.3.3"
"$folder/venv/bin/pip" install --quiet --no-deps "fedlab==1.3.0"
"$folder/venv/bin/python" -W ignore - <<'PYTHON'
import importlib.util
import sysconfig
from importlib.metadata import version
from pathlib import Path

import numpy as np

file = Path(sysconfig.get_path("purelib"), "fedlab", "utils", "dataset", "functional.py")
spec = importlib.util.spec_from_file_location("functional", file)
functional = importlib.util.module_from_spec(spec)
spec.loader.exec_module(functional)
print(f"fedlab {version('fedlab')}")
CLASSES, CLIENTS, IMAGES = 10, 10, 300


def largest(clients, labels):
    """Share of a client's most frequent class, mean over clients."""
    return float(np.mean([np.bincount(labels[i], minlength=CLASSES).max() / len(i) for i in clients.values()]))


shares = []
for concentration in (0.3, 1.0, 100.0):
    np.random.seed(0)
    labels = np.random.permutation(np.repeat(np.arange(CLASSES), 600))
    sizes = np.full(CLIENTS, IMAGES)
    balanced = functional.client_inner_dirichlet_partition(labels, CLIENTS, CLASSES, concentration, sizes, verbose=False)
    drawn = float(np.random.default_rng(0).dirichlet([concentration] * CLASSES, CLIENTS).max(1).mean())
    other = largest(functional.hetero_dir_partition(labels, CLIENTS, CLASSES, concentration), labels)
    shares.append((largest(balanced, labels), drawn, other))
    print(f"concentration {concentration:5}: largest class of a client {shares[-1][0]:.3f}; "
          f"shares so drawn {drawn:.3f}; hetero_dir_partition {other:.3f}")
    assert all(len(i) == IMAGES for i in balanced.values()) and not sizes.any(), sizes
assert all(one < 0.15 for one, _, _ in shares), shares
assert shares[0][1] > 0.4 and shares[0][2] > 0.35, shares
PYTHON
