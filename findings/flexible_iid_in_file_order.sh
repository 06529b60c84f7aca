#!/usr/bin/env bash
# FLEXible's `iid_distribution` cuts the file in order, its "replacement" gives all nodes the same data, and weights with
# labels per node use up a tenth of it.
#
# `FedDataDistribution.iid_distribution` is "for an IID experiment". It takes runs of the file, as `shuffle` is off by
# default and the method has no such option. A set that is sorted by class (iris, folders of images, many tables) gives one
# class per node: the most heterogeneous split there is, called IID.
#
# `replacement=True` is "whether the sampling procedure is with replacement". Without `shuffle` nothing is drawn: each node
# gets the first n / nodes of the file, all nodes the same ones. Also with `labels_per_node` and `weights`: nodes with a
# class in common have the same images of it. (With `shuffle` each node is a draw without replacement of its own.)
#
# `weights` is "the proportion of data to give to each node". With `labels_per_node`, which the table of options allows, a
# node with k labels gets weight / k of each of its classes: weight / classes of the data, instead of weight. With ten
# classes and weights that sum to 1, nine of ten images are at no node.
#
# `shuffle` is documented as off; what it means for the above is not. The repository's newest code (March 2026) is the
# same in these lines.
#
# Seen with flexible-fl 0.7.0 and numpy 2.4.6 on Linux (2026-11). Fails if that changes.
set -euo pipefail
folder=$(mktemp -d)
trap 'rm -rf "$folder"' EXIT
python3 -m venv "$folder/venv"
"$folder/venv/bin/pip" install --quiet "numpy==2.4.6" "scipy==1.17.1" "scikit-learn==1.9.1" "tensorly==0.10.0" \
  "cardinality==0.1.1" "multiprocess==0.70.19" "gdown==6.5.1" "flexible-fl==0.7.0"
cd "$folder"
"$folder/venv/bin/python" -W ignore - <<'PYTHON'
from importlib.metadata import version

import numpy as np
from flex.data import Dataset, FedDataDistribution, FedDatasetConfig
from sklearn.datasets import load_iris

print(f"flexible-fl {version('flexible-fl')}, numpy {np.__version__}")
CLASSES, NODES = 10, 10


def nodes(federated):
    """Images (numbers) and labels of each node."""
    return [(federated[i].X_data.to_numpy()[:, 0], federated[i].y_data.to_numpy()) for i in sorted(federated)]


def most_common(federated, classes):
    """Share of the most common class of a node, mean of the nodes."""
    return np.mean([np.bincount(y, minlength=classes).max() / len(y) for _, y in nodes(federated)])


x, y = load_iris(return_X_y=True)
found = most_common(FedDataDistribution.iid_distribution(Dataset.from_array(x, y), n_nodes=3), 3)
drawn = np.random.default_rng(0).permutation(y).reshape(3, -1)
by_chance = np.mean([np.bincount(part).max() / len(part) for part in drawn])
print(f"iid_distribution, iris, 3 nodes: most common class {found:.0%} of a node; drawn by chance {by_chance:.0%}")
assert found == 1 and by_chance < 0.5

y = np.arange(1000) // 100
data = Dataset.from_array(np.arange(1000)[:, None], y)
found = most_common(FedDataDistribution.iid_distribution(data, n_nodes=NODES), CLASSES)
print(f"iid_distribution, 10 sorted classes, 10 nodes: most common class {found:.0%} of a node")
assert found == 1

order = np.random.default_rng(0).permutation(1000)
data = Dataset.from_array(order[:, None], y[order])  # not sorted from here on
for shuffle in (False, True):
    config = FedDatasetConfig(seed=1, n_nodes=NODES, replacement=True, shuffle=shuffle)
    images = [x for x, _ in nodes(FedDataDistribution.from_config(data, config))]
    at = len(np.unique(np.concatenate(images)))
    print(f"replacement, shuffle {shuffle}: 10 nodes of {len(images[0])} hold {at} different images of 1000")
    assert at == 100 if not shuffle else 600 < at < 700

for weights in (np.full(NODES, 0.1), np.arange(1, NODES + 1) / 55):
    config = FedDatasetConfig(seed=1, n_nodes=NODES, labels_per_node=2, weights=weights)
    sizes = [len(y) for _, y in nodes(FedDataDistribution.from_config(data, config))]
    print(f"two labels per node, weights {np.round(weights, 2).tolist()}: sizes {sizes}, {sum(sizes)} images of 1000")
    assert max(abs(np.array(sizes) - weights * 1000 / CLASSES)) <= 2 and sum(sizes) <= 100

config = FedDatasetConfig(seed=1, n_nodes=NODES, labels_per_node=2, weights=np.full(NODES, 0.3), replacement=True)
parts = nodes(FedDataDistribution.from_config(data, config))
shared = [
    len(np.intersect1d(a[y == label], b[z == label])) / (y == label).sum()
    for i, (a, y) in enumerate(parts)
    for b, z in parts[:i]
    for label in np.intersect1d(y, z)
]
print(
    f"two labels per node, with replacement: {len(shared)} pairs share a class, and {min(shared):.0%} or more of its images"
)
assert len(shared) >= 10 and min(shared) == 1
PYTHON
