#!/usr/bin/env bash
# continuum's InstanceIncremental gives what does not divide evenly to the first task, and its `random_seed` seeds
# nothing.
#
# The scenario of new instances is to share each class's series among the tasks. It takes the floor of n / T of a class
# for every task and leaves the rest, up to T - 1 of a class, in the first: with 19 of a class and ten tasks that has ten
# times what any other task has (50 and 5 of five classes), with 29 more than five times. Nothing is said unless a class
# has no more than one for a task. Accuracy after the first task, forgetting of it and all that is weighted by images are
# then those of one large task and nine small ones. Large balanced sets (500 of a class of CIFAR-100) divide evenly; small
# ones of medical data or time series do not.
#
# `random_seed`, "to init random processes", is read by nothing: tasks are runs of the file's order, equal for all seeds,
# so that a set sorted by subject, session or day is split by these and a mean over seeds is over one split.
#
# Seen with continuum 1.2.7 and torch 2.14.1 on Linux (2026-11). Fails if that changes.
set -euo pipefail
folder=$(mktemp -d)
trap 'rm -rf "$folder"' EXIT
python3 -m venv "$folder/venv"
"$folder/venv/bin/pip" install --quiet "torch==2.14.1" "torchvision==0.29.1" "numpy==2.4.6" "six==1.17.0" "continuum==1.2.7"
"$folder/venv/bin/python" -W ignore - <<'PYTHON'
import warnings
from importlib.metadata import version

import numpy as np
import torch

from continuum import InstanceIncremental
from continuum.datasets import InMemoryDataset
from continuum.tasks import TaskType

print(f"continuum {version('continuum')}, torch {torch.__version__}")
for of_class, tasks, first, others in (
    (100, 10, 50, 50),
    (19, 10, 50, 5),
    (29, 10, 55, 10),
    (15, 4, 30, 15),
    (50, 7, 40, 35),
):
    x = np.arange(5 * of_class, dtype=np.float32)[:, None]
    y = np.arange(5).repeat(of_class)
    splits = []
    for seed in (1, 2, 3):
        with warnings.catch_warnings(record=True) as said:
            warnings.simplefilter("always")
            data = InMemoryDataset(x, y, data_type=TaskType.TENSOR)
            scenario = InstanceIncremental(data, nb_tasks=tasks, random_seed=seed)
            splits.append([task.get_raw_samples()[0][:, 0].astype(int).tolist() for task in scenario])
        assert not [w for w in said if "task" in str(w.message)]
    sizes = [len(task) for task in splits[0]]
    print(f"5 classes of {of_class}, {tasks} tasks: sizes {sizes}; the same images for three seeds")
    assert sizes == [first] + [others] * (tasks - 1)
    assert splits[0] == splits[1] == splits[2]
    own = [i for i in splits[0][1] if i < of_class]  # of the first class, in the second task
    assert own == list(range(own[0], own[0] + len(own)))
PYTHON
