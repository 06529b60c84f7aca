#!/usr/bin/env bash
# Avalanche's online stream never has a last piece of an experience if the pieces come out even, and what waits for it,
# such as `FeatureDistillationPlugin`, then does nothing at all.
#
# `split_online_stream` cuts experiences into little ones and marks the last of each: `is_last_subexp`, "True if this is
# the last experience before a drift". By default (`drop_last=False`) it is set only where the last piece is shorter than
# the others. A CIFAR-10 task of 10,000 images in pieces of 10, the usual setting of online continual learning, has none;
# in pieces of 32 it has. With `drop_last=True` it is always there.
#
# `FeatureDistillationPlugin` takes its old net after that piece. In an even stream with known boundaries
# (`access_task_boundaries=True`) it never has one: the weights are equal to the bit to those of plain training for every
# alpha. So one and the same comparison has distillation or none by whether a batch size divides the number of images.
#
# Seen with avalanche-lib 0.6.0 and torch 2.14.1 on Linux (2026-11); we found no report. Fails if that changes.
set -euo pipefail
folder=$(mktemp -d)
trap 'rm -rf "$folder"' EXIT
python3 -m venv "$folder/venv"
"$folder/venv/bin/pip" install --quiet "torch==2.14.1" "torchvision==0.29.1" "numpy==2.4.6" "torchmetrics==1.9.0" \
  "scikit-learn==1.9.1" "dill==0.4.1" "avalanche-lib==0.6.0"
"$folder/venv/bin/python" -W ignore - <<'PYTHON'
import contextlib
import io
from importlib.metadata import version

import torch
from avalanche.benchmarks import nc_benchmark
from avalanche.benchmarks.scenarios.online import split_online_stream
from avalanche.training.plugins import EvaluationPlugin
from avalanche.training.plugins.feature_distillation import FeatureDistillationPlugin
from avalanche.training.supervised import Naive
from torch.utils.data import TensorDataset

print(f"avalanche-lib {version('avalanche-lib')}, torch {torch.__version__}")
generator = torch.Generator().manual_seed(0)
y = torch.arange(4).repeat(60)
data = TensorDataset(2 * torch.eye(4)[y] + torch.randn(len(y), 4, generator=generator), y)
data.targets = y
benchmark = nc_benchmark(data, data, n_experiences=2, task_labels=False, seed=0)  # two tasks of 120 images


class Net(torch.nn.Module):
    def __init__(self):
        super().__init__()
        self.body, self.head = torch.nn.Linear(4, 16), torch.nn.Linear(16, 4)

    def forward(self, x):
        self.features = torch.relu(self.body(x))
        return self.head(self.features)


def pieces(size, **more):
    return split_online_stream(benchmark.train_stream, size, seed=0, access_task_boundaries=True, **more)


def weights(size, alpha):
    torch.manual_seed(0)
    net = Net()
    plugins = [] if alpha is None else [FeatureDistillationPlugin(alpha=alpha)]
    optimizer = torch.optim.SGD(net.parameters(), lr=0.1)
    strategy = Naive(
        model=net, optimizer=optimizer, train_mb_size=size, plugins=plugins, evaluator=EvaluationPlugin(loggers=[])
    )
    with contextlib.redirect_stdout(io.StringIO()), contextlib.redirect_stderr(io.StringIO()):
        strategy.train(pieces(size))
    return torch.cat([weight.detach().flatten() for weight in net.parameters()])


for size in (10, 12, 11, 32):
    marks = [(piece.is_first_subexp, piece.is_last_subexp) for piece in pieces(size)]
    first, last = (sum(column) for column in zip(*marks))
    dropped = sum(piece.is_last_subexp for piece in pieces(size, drop_last=True))
    print(f"pieces of {size}: {len(marks)}, first ones {first}, last ones {last}; with drop_last {dropped}")
    even = 120 % size == 0
    assert first == 2 and last == (0 if even else 2) and dropped == 2
    plain = weights(size, None)
    for alpha in (1.0, 100.0):
        difference = float((weights(size, alpha) - plain).abs().max())
        print(f"    feature distillation, alpha {alpha}: largest difference from plain training {difference:.4f}")
        assert difference == 0 if even else difference > 1e-3
PYTHON
