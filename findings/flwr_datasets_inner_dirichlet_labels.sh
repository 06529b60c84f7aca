#!/usr/bin/env bash
# flwr-datasets' InnerDirichletPartitioner, given the images of some classes, hands out those of labels 0 to K - 1 alone.
#
# It counts the K labels that there are and then looks for images of 0 .. K - 1, whatever the labels are called. Of a set
# that was filtered to classes, as a task of class-incremental learning is, whole classes stay with nobody: of 0, 1, 4 and
# 5 no client has an image of 4 or 5 if the sizes ask for half of them. The one warning, that sizes do not add up to the
# set, is the same if all labels are there. Where sizes add up, or no label is below K, it ends with "Probabilities
# contain NaN", and where labels are words too. DirichletPartitioner asks the set for its labels and is right.
#
# Seen with flwr-datasets 0.6.1, datasets 4.8.5 and numpy 2.4.6 on Linux (2026-11). Fails if that changes.
set -euo pipefail
folder=$(mktemp -d)
trap 'rm -rf "$folder"' EXIT
python3 -m venv "$folder/venv"
"$folder/venv/bin/pip" install --quiet "numpy==2.4.6" "datasets==4.8.5" "flwr-datasets==0.6.1"
HF_HUB_OFFLINE=1 "$folder/venv/bin/python" -W ignore - <<'PYTHON'
from collections import Counter
from importlib.metadata import version

from datasets import Dataset
from flwr_datasets.partitioner import DirichletPartitioner, InnerDirichletPartitioner

print(f"flwr-datasets {version('flwr-datasets')}")


def handed_out(partitioner, labels):
    partitioner.dataset = Dataset.from_dict({"label": [label for label in labels for _ in range(100)]})
    try:
        clients = [partitioner.load_partition(number)["label"] for number in range(2)]
    except ValueError as error:
        return str(error)
    return dict(sorted(sum(map(Counter, clients), Counter()).items()))


def inner(labels, size):
    return handed_out(InnerDirichletPartitioner([size, size], "label", alpha=100.0), labels)


whole, task = inner([0, 1, 2, 3], 100), inner([0, 1, 4, 5], 100)
print("labels 0 1 2 3, half of them:", whole)
print("labels 0 1 4 5, half of them:", task)
print("labels 0 1 4 5, all of them: ", inner([0, 1, 4, 5], 200))
print("labels 2 3:                  ", inner([2, 3], 50))
print("labels cat dog:              ", inner(["cat", "dog"], 50))
print("DirichletPartitioner:        ", handed_out(DirichletPartitioner(2, "label", alpha=100.0), [0, 1, 4, 5]))
assert sorted(whole) == [0, 1, 2, 3] and task == {0: 100, 1: 100}, (whole, task)
for labels, size in (([0, 1, 4, 5], 200), ([2, 3], 50), (["cat", "dog"], 50)):
    assert inner(labels, size) == "Probabilities contain NaN", (labels, size)
assert handed_out(DirichletPartitioner(2, "label", alpha=100.0), [0, 1, 4, 5]) == dict.fromkeys([0, 1, 4, 5], 100)
PYTHON
