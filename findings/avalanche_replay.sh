#!/usr/bin/env bash
# Avalanche's replay: GSS steps twice as far once its memory is full, ParametricBuffer keeps next to nothing of older
# experiences, and SCR classifies by class means that are half old.
#
# GSS (Aljundi et al., NeurIPS 2019) chooses what to keep by gradients. The plugin computes them between the forward pass
# and the backward pass of training and leaves the last in `.grad`, to which training adds: while the memory fills, the
# gradient of one image at the weight of a whole batch, and from then on mostly the batch's own a second time. So GSS has
# twice the learning rate of the strategies beside it (SGD with rate r is SGD with 2 r), whatever it keeps.
#
# `ParametricBuffer(max_size)` by default (random selection, no grouping) draws m images from the m it holds and the n new
# ones put together, so that each experience leaves a share of m / (m + n) of what was there: with 200 and 2000, 18 images
# of the first experience after the second, 1 or 2 after the third, none after the fifth, where ReservoirSamplingBuffer
# and ExperienceBalancedBuffer hold about 40 of each. It is Naive under the name of replay. A group that comes again, as a
# class does in domain-incremental learning with `groupby="class"`, loses its old images the same way.
#
# SCR (Mai et al., CVPR workshops 2021) classifies by the means of the memory's features by the net as it is. The strategy
# computes them so, and then calls `update_class_means_dict`, whose default is to average with the means that were there:
# every class but the newest has half of what the net of earlier experiences gave. iCaRL in the same library replaces.
#
# Seen with avalanche-lib 0.6.0 and torch 2.14.1 on Linux (2026-11); the repository's newest code has the same lines.
# Fails if that changes.
set -euo pipefail
folder=$(mktemp -d)
trap 'rm -rf "$folder"' EXIT
python3 -m venv "$folder/venv"
"$folder/venv/bin/pip" install --quiet "torch==2.14.1" "torchvision==0.29.1" "numpy==2.4.6" "torchmetrics==1.9.0" \
  "scikit-learn==1.9.1" "dill==0.4.1" "avalanche-lib==0.6.0"
"$folder/venv/bin/python" -W ignore - <<'PYTHON'
import collections
import contextlib
import io
import random
from importlib.metadata import version

import torch
import torch.nn.functional as F

from avalanche.benchmarks import nc_benchmark
from avalanche.models import SCRModel
from avalanche.training.plugins import GSS_greedyPlugin, SupervisedPlugin
from avalanche.training.storage_policy import ExperienceBalancedBuffer, ParametricBuffer, ReservoirSamplingBuffer
from avalanche.training.supervised import SCR, Naive
from torch.utils.data import TensorDataset

print(f"avalanche-lib {version('avalanche-lib')}, torch {torch.__version__}")


def data(n, seed):
    centres = torch.randn(10, 32, generator=torch.Generator().manual_seed(99))
    y = torch.arange(n) % 10
    dataset = TensorDataset(centres[y] + torch.randn(n, 32, generator=torch.Generator().manual_seed(seed)), y)
    dataset.targets = y.tolist()
    return dataset


def benchmark(n=1000):
    return nc_benchmark(data(n, 0), data(500, 1), 5, task_labels=False, shuffle=False)


def naive(model, plugins, batch=32, epochs=2):
    return Naive(
        model=model,
        optimizer=torch.optim.SGD(model.parameters(), 0.05),
        criterion=torch.nn.CrossEntropyLoss(),
        train_mb_size=batch,
        train_epochs=epochs,
        plugins=plugins,
        evaluator=None,
    )


def train(strategy, experiences):
    with contextlib.redirect_stdout(io.StringIO()), contextlib.redirect_stderr(io.StringIO()):
        for experience in experiences:
            strategy.train(experience)


class Gradients(SupervisedPlugin):
    """The gradient that training uses, beside that of its batch and that of the batch's last image."""

    def __init__(self):
        super().__init__()
        self.used = []

    def after_backward(self, strategy, **_):
        def of(x, y):
            loss = F.cross_entropy(strategy.model(x), y)
            return torch.cat([g.flatten() for g in torch.autograd.grad(loss, list(strategy.model.parameters()))])

        used = torch.cat([p.grad.flatten() for p in strategy.model.parameters()])
        x, y = strategy.mb_x, strategy.mb_y
        self.used.append((used, of(x, y), of(x[-1:], y[-1:])))


def close(a, b):
    return float((a - b).norm() / b.norm()) < 1e-3


for seed in (0, 1):
    torch.manual_seed(seed)
    model = torch.nn.Sequential(torch.nn.Linear(32, 64), torch.nn.ReLU(), torch.nn.Linear(64, 10))
    watch = Gradients()
    gss = GSS_greedyPlugin(mem_size=200, mem_strength=5, input_size=[32])
    train(naive(model, [gss, watch], batch=10, epochs=1), list(benchmark().train_stream)[:3])
    # 200 images fill the memory; the first batch has none to compare with.
    filling, full = watch.used[1:20], watch.used[20:]
    last = sum(close(used, batch + image) for used, batch, image in filling)
    twice = sum(close(used, 2 * batch) for used, batch, _ in full)
    right = sum(close(used, batch) for used, batch, _ in watch.used[1:])
    print(
        f"GSS: batch plus last image in {last} of {len(filling)} iterations of filling, twice the batch in {twice} of"
        f" {len(full)} after, the batch's gradient in {right}"
    )
    assert last == len(filling) and twice > 0.8 * len(full) and right == 0

for seed in (0, 1, 2):
    torch.manual_seed(seed)
    random.seed(seed)
    stream = benchmark(10000).train_stream
    counts = {}
    for kind in (ParametricBuffer, ReservoirSamplingBuffer, ExperienceBalancedBuffer):
        buffer = kind(200)
        for experience in stream:
            buffer.post_adapt(None, experience)
        kept = collections.Counter(int(y) // 2 for y in buffer.buffer.targets)
        counts[kind.__name__] = [kept[i] for i in range(5)]
    print("; ".join(f"{name} keeps {kept}" for name, kept in counts.items()))
    assert sum(counts["ParametricBuffer"]) == 200 and sum(counts["ParametricBuffer"][:3]) < 10
    assert min(counts["ReservoirSamplingBuffer"]) > 20

for seed in (0, 1):
    torch.manual_seed(seed)
    features = torch.nn.Sequential(torch.nn.Linear(32, 64), torch.nn.ReLU(), torch.nn.Linear(64, 16))
    model = SCRModel(feature_extractor=features, projection=torch.nn.Linear(16, 8))
    strategy = SCR(
        model=model,
        optimizer=torch.optim.SGD(model.parameters(), 0.1),
        mem_size=200,
        train_mb_size=32,
        batch_size_mem=32,
        train_epochs=3,
        eval_mb_size=64,
        evaluator=None,
    )
    for experience in benchmark(2000).train_stream:
        old = dict(model.eval_classifier.class_means_dict)
        train(strategy, [experience])
        used = model.eval_classifier.class_means_dict
        now = {}
        with torch.no_grad():
            for images in strategy.replay_plugin.storage_policy.buffer_datasets:
                x = torch.stack([images[i][0] for i in range(len(images))])
                now[int(images[0][1])] = F.normalize(F.normalize(features(x), dim=1).mean(0), dim=0)
        for c, mean in used.items():
            assert torch.allclose(mean, (now[c] + old[c]) / 2 if c in old else now[c], atol=1e-4)
    furthest = max(float((used[c] - now[c]).norm()) for c in used)
    print(f"SCR: every old class's mean is half the former one, at most {furthest:.2f} (of 1) from the net's own")
    assert furthest > 0.15
PYTHON
