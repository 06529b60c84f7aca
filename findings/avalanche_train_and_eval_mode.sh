#!/usr/bin/env bash
# Avalanche trains with RWalk, and with LFL from the second experience on, in evaluation mode; its LwF and iCaRL take
# their targets from an old net in training mode.
#
# RWalk's plugin calls `model.eval()` for its gradient at the start of each iteration and nothing calls `train()` before
# the step: dropout is off in all of the training, and BatchNorm never sees a batch. Its running mean is 0 and its
# variance 1 at the end, and it normalises by these. LFL's plugin does the same in its penalty, so that from the second
# experience on every iteration but the first is in evaluation mode. Beside Naive, EWC or MAS on the same net two things
# differ, and the method is one of them. Neither paper (Chaudhry et al., ECCV 2018; Jung et al. 2016) has that.
#
# LwF (Li and Hoiem, ECCV 2016) records the old net's answers on the new images; iCaRL's (Rebuffi et al., CVPR 2017,
# algorithm 3) are a function of the image too. Both plugins keep a copy of the net as training leaves it, in training
# mode, and ask that. With dropout the old net contradicts itself from one pass to the next, and an unchanged new net has
# a penalty; with BatchNorm an answer depends on the images beside it, and is normalised by the new task's. The docstrings
# say "a previous version of the model" and no more. BiC in the same library calls `eval()` on its old net, with a comment
# why; iCaRL did until a pull request of 2023 (1428), which removed it because evaluation mode switches the classifier.
#
# Nets without dropout and BatchNorm are not touched by any of it; the library's own SimpleMLP has dropout.
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
import contextlib
import copy
import io
from importlib.metadata import version

import torch
import torch.nn.functional as F

from avalanche.benchmarks import nc_benchmark
from avalanche.models import SimpleMLP
from avalanche.training.losses import ICaRLLossPlugin
from avalanche.training.plugins import EWCPlugin, LFLPlugin, LwFPlugin, MASPlugin, RWalkPlugin, SupervisedPlugin
from avalanche.training.supervised import ICaRL, Naive
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


class Modes(SupervisedPlugin):
    """In which mode the net was when its loss was computed, for each experience."""

    def __init__(self):
        super().__init__()
        self.training = {}

    def after_forward(self, strategy, **_):
        self.training.setdefault(strategy.clock.train_exp_counter, []).append(strategy.model.training)


def net(*between):
    torch.manual_seed(0)
    return torch.nn.Sequential(torch.nn.Linear(32, 64), *between, torch.nn.ReLU(), torch.nn.Linear(64, 10))


def both():
    return net(torch.nn.BatchNorm1d(64), torch.nn.Dropout(0.5))


expected = {"Naive": (14, 14), "EWC": (14, 14), "MAS": (14, 14), "RWalk": (0, 0), "LFL": (14, 1)}
for name, model, plugins in (
    ("Naive", both(), []),
    ("EWC", both(), [EWCPlugin(1.0)]),
    ("MAS", both(), [MASPlugin()]),
    ("RWalk", both(), [RWalkPlugin()]),
    ("LFL", SimpleMLP(num_classes=10, input_size=32, hidden_size=64), [LFLPlugin(1.0)]),  # asks for such a net
):
    modes = Modes()
    train(naive(model, [*plugins, modes]), list(benchmark().train_stream)[:2])
    counts = tuple(sum(modes.training[i]) for i in (0, 1))
    more = ""
    if name != "LFL":
        norm = model[1]
        batches, mean = int(norm.num_batches_tracked), float(norm.running_mean.abs().max())
        more = f"; BatchNorm saw {batches} batches, largest running mean {mean:.2f}"
        assert (int(norm.num_batches_tracked) == 0) == (name == "RWalk")
    print(f"{name:5}: {counts[0]} and {counts[1]} of 14 iterations of two experiences in training mode{more}")
    assert counts == expected[name]

for name, layer in (("dropout", torch.nn.Dropout(0.5)), ("BatchNorm", torch.nn.BatchNorm1d(64))):
    plugin, stream = LwFPlugin(alpha=1.0, temperature=2), benchmark().train_stream
    strategy = naive(net(layer), [plugin], epochs=4)
    train(strategy, stream[:1])
    old = plugin.lwf.prev_model
    new = torch.stack([stream[1].dataset[i][0] for i in range(64)])

    def answers(model, x):
        with torch.no_grad():
            return F.softmax(model(x)[:, :2] / 2, dim=1)

    again = float((answers(old, new) - answers(old, new)).abs().mean())
    beside = float((answers(old, new[:8]) - answers(old, new)[:8]).abs().mean())
    right = answers(copy.deepcopy(old).eval(), new)
    agree = float((answers(old, new).argmax(1) == right.argmax(1)).float().mean())
    with torch.no_grad():
        unchanged = float(plugin.lwf(new, old(new), old))
    print(
        f"LwF with {name}: targets change by {again:.3f} from pass to pass, by {beside:.3f} with the images beside; the same"
        f" class as in evaluation mode for {agree:.0%}; penalty of an unchanged net {unchanged:.4f}"
    )
    assert old.training and agree < 0.97
    assert (again > 0.02 and unchanged > 1e-3) if name == "dropout" else (beside > 0.005 and again < 1e-6)

torch.manual_seed(0)
features = torch.nn.Sequential(torch.nn.Linear(32, 64), torch.nn.Dropout(0.5), torch.nn.ReLU())
classifier = torch.nn.Linear(64, 10)
strategy = ICaRL(
    feature_extractor=features,
    classifier=classifier,
    optimizer=torch.optim.SGD([*features.parameters(), *classifier.parameters()], 0.1),
    memory_size=100,
    buffer_transform=None,
    fixed_memory=True,
    train_mb_size=32,
    train_epochs=2,
    eval_mb_size=64,
    evaluator=None,
)
stream = benchmark().train_stream
train(strategy, stream[:2])
(loss,) = [plugin for plugin in strategy.plugins if isinstance(plugin, ICaRLLossPlugin)]
new = torch.stack([stream[2].dataset[i][0] for i in range(64)])
with torch.no_grad():
    again = float((loss.old_model(new).sigmoid() - loss.old_model(new).sigmoid())[:, :4].abs().mean())
print(f"iCaRL with dropout: targets change by {again:.3f} from pass to pass")
assert loss.old_model.training and again > 0.02
PYTHON
