#!/usr/bin/env bash
# Avalanche's Synaptic Intelligence on a CPU is no regularisation at all: for every lambda it ends at Naive's weights.
#
# SI (Zenke et al., ICML 2017, equations 3 to 5) sums gradient times step over training and divides by the squared
# distance travelled. The plugin keeps "old" and "new" weights as `param.detach().cpu().flatten()`, which on a CPU is the
# weight itself and no copy: every step is 0, every importance 0, and the distance of the penalty is 0 too. Final weights
# are equal to the bit to those of Naive for lambda 1e-4 to 1e12, with SGD and Adam, and no log tells. The AR1 strategy
# uses the same plugin.
#
# Where the copy is one (`.cpu()` of weights on a GPU; run here on a CPU, with a function that copies), importances are
# cut at 0.001, and they are thousands of times that: all weights get the same, and with SGD the result is equal to the
# bit to an L2 pull towards the last weights of strength lambda / 2 * 0.001. The cap is a number in the code, no option,
# and in no docstring. There is no floor: a weight that on balance moved along its gradient, as with Adam some do, gets an
# importance below zero, down to hundreds of thousands of caps, and the penalty drives it away. So a column "SI" made with
# it is Naive on a CPU, and an L2 pull where weights are copied. The plugin's docstring names both papers and says nothing
# of this. Before 0.3.0 the weights were written into the old tensor, which copies; an issue of 2020 (106) has other
# differences (the gradient is that of the whole loss).
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
import io
from importlib.metadata import version

import torch

from avalanche.benchmarks import nc_benchmark
from avalanche.training.plugins import EWCPlugin, SupervisedPlugin, SynapticIntelligencePlugin
from avalanche.training.supervised import Naive
from torch.utils.data import TensorDataset

print(f"avalanche-lib {version('avalanche-lib')}, torch {torch.__version__}")


def data(n, seed):
    centres = torch.randn(10, 32, generator=torch.Generator().manual_seed(99))
    y = torch.arange(n) % 10
    x = centres[y] + torch.randn(n, 32, generator=torch.Generator().manual_seed(seed))
    dataset = TensorDataset(x, y)
    dataset.targets = y.tolist()
    return dataset


def train(optimizer, *plugins, seed=0):
    """Weights after three experiences of two classes."""
    benchmark = nc_benchmark(data(2000, 0), data(500, 1), n_experiences=5, task_labels=False, seed=0)
    torch.manual_seed(seed)
    model = torch.nn.Sequential(torch.nn.Linear(32, 64), torch.nn.ReLU(), torch.nn.Linear(64, 10))
    strategy = Naive(
        model=model,
        optimizer=optimizer(model.parameters()),
        criterion=torch.nn.CrossEntropyLoss(),
        train_mb_size=32,
        train_epochs=2,
        plugins=list(plugins),
        evaluator=None,
    )
    with contextlib.redirect_stdout(io.StringIO()):
        for experience in list(benchmark.train_stream)[:3]:
            strategy.train(experience)
    return torch.cat([p.detach().flatten() for p in model.parameters()])


def importances(plugin):
    return torch.cat([torch.as_tensor(value.data) for value in plugin.ewc_data[1].values()])


def sgd(parameters):
    return torch.optim.SGD(parameters, 0.05)


def adam(parameters):
    return torch.optim.Adam(parameters, 1e-3)


print("as released, on a CPU")
for optimizer in (sgd, adam):
    for seed in (0, 1):
        naive = train(optimizer, seed=seed)
        for strength in (1e-4, 1.0, 1e12):
            plugin = SynapticIntelligencePlugin(si_lambda=strength)
            weights = train(optimizer, plugin, seed=seed)
            assert torch.equal(weights, naive) and not importances(plugin).any()
        ewc = train(optimizer, EWCPlugin(1000.0), seed=seed)
        assert float((ewc - naive).abs().max()) > 0.01
        print(
            f"  {optimizer.__name__}, seed {seed}: SI of lambda 1e-4, 1 and 1e12 is Naive to the bit, all importances 0;"
            f" EWC differs by {float((ewc - naive).abs().max()):.2f}"
        )


class L2(SupervisedPlugin):
    """Pull towards the weights after the last experience, the same for all."""

    def __init__(self, strength):
        super().__init__()
        self.strength, self.old = strength, None

    def before_backward(self, strategy, **_):
        if self.old is not None:
            pairs = zip(strategy.model.parameters(), self.old, strict=True)
            strategy.loss += self.strength * sum(((new - old) ** 2).sum() for new, old in pairs)

    def after_training_exp(self, strategy, **_):
        self.old = [p.detach().clone() for p in strategy.model.parameters()]


released = SynapticIntelligencePlugin.extract_weights


def copied(model, target, excluded):
    released(model, target, excluded)
    for name, _ in SynapticIntelligencePlugin.allowed_parameters(model, excluded):
        target[name].data = target[name].data.clone()


SynapticIntelligencePlugin.extract_weights = staticmethod(copied)
print("with copies, as weights on a GPU give them")
for optimizer in (sgd, adam):
    plugin = SynapticIntelligencePlugin(si_lambda=100.0)
    weights = train(optimizer, plugin)
    uncut = torch.cat([-torch.as_tensor(value.data) for value in plugin.syn_data["cum_trajectory"].values()])
    same = float((weights - train(optimizer, L2(100.0 / 2 * 0.001))).abs().max())
    cut, least = float((importances(plugin) > 0.00099).float().mean()), float(importances(plugin).min())
    print(
        f"  {optimizer.__name__}: median before the cap of 0.001 {float(uncut.median()):.3g}, {cut:.1%} of weights at the"
        f" cap, least importance {least:.3g}; furthest from L2 {same:.2g}"
    )
    assert float(uncut.median()) > 1 and cut > 0.9
    if optimizer is sgd:
        assert cut == 1 and same < 1e-5
    else:
        assert least < -10
PYTHON
