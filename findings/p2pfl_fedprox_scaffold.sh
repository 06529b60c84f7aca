#!/usr/bin/env bash
# p2pfl's FedProx is FedAvg for every mu, and its SCAFFOLD trains nodes by plain SGD, then starts from one node's model.
#
# FedProx (Li et al., MLSys 2020) adds mu / 2 * |w - w_t|^2 to a node's loss. p2pfl's callback for PyTorch looks for mu
# and w_t in an attribute `p2pfl_model` of the Lightning module, which nothing in p2pfl sets, and does without the term if
# it is not there. Weights after four rounds are equal to the bit for mu 0.01, 1 and 100 and for FedAvg.
#
# SCAFFOLD (Karimireddy et al., ICML 2020, algorithm 1) steps along gradient - c_i + c. p2pfl's callback changes gradients
# in Lightning's `on_before_zero_grad`, right before they are set to zero, and takes the weights out of `state_dict()`,
# detached ones that have no gradient: no step is ever corrected. (What it would add is c_i - c times the rate, the other
# sign.) At the first aggregation the global model, from which the method goes on, is the *trained* model of the first
# node in the list, plus the mean of all changes: at a global rate of 1, where the first round should give the mean of the
# nodes' models, the first node's change counts one and a half times here, for two nodes.
#
# The classes' docstrings name the papers and say nothing of it; the repository's newest code (October 2025) is the same.
#
# Seen with p2pfl 0.4.4, lightning 2.6.6 and torch 2.14.1 on Linux (2026-11). Fails if that changes.
set -euo pipefail
folder=$(mktemp -d)
trap 'rm -rf "$folder"' EXIT
python3 -m venv "$folder/venv"
"$folder/venv/bin/pip" install --quiet "torch==2.14.1" "torchvision==0.29.1" "numpy==2.4.6" "pandas==3.1.1" "lightning==2.6.6" \
  "datasets==5.2.0" "opendp==0.16.0" "deprecated==1.3.1" "psutil==7.2.2" "requests==2.34.2" "pyyaml==6.0.4" "rich==14.3.4"
"$folder/venv/bin/pip" install --quiet --no-deps "p2pfl==0.4.4"
cd "$folder"
"$folder/venv/bin/python" -W ignore - <<'PYTHON' 2> >(grep -v "GPU\|TPU\|HPU\|💡" >&2)
import logging
import warnings
from importlib.metadata import version

from p2pfl.settings import Settings

Settings.general.DISABLE_RAY = True

import lightning
import numpy as np
import torch
from datasets import Dataset, DatasetDict
from p2pfl.learning.aggregators.fedavg import FedAvg
from p2pfl.learning.aggregators.fedprox import FedProx
from p2pfl.learning.aggregators.scaffold import Scaffold
from p2pfl.learning.dataset.p2pfl_dataset import P2PFLDataset
from p2pfl.learning.frameworks.pytorch.lightning_learner import LightningLearner
from p2pfl.learning.frameworks.pytorch.lightning_model import LightningModel

warnings.simplefilter("ignore")
for name in ("lightning", "lightning.pytorch", "lightning.fabric"):
    logging.getLogger(name).setLevel(logging.ERROR)
torch.set_num_threads(1)
print(f"p2pfl {version('p2pfl')}, lightning {version('lightning')}")
RATE, EPOCHS, ROUNDS, NODES = 0.05, 5, 4, 2


class Net(lightning.LightningModule):
    def __init__(self):
        super().__init__()
        self.w = torch.nn.Linear(3, 1, bias=False)
        torch.nn.init.zeros_(self.w.weight)

    def training_step(self, batch, _):
        return ((self.w(batch["x"])[:, 0] - batch["y"]) ** 2).mean() / 2

    def configure_optimizers(self):
        return torch.optim.SGD(self.parameters(), lr=RATE)


def data(node):
    numbers = np.random.default_rng(node)
    x = numbers.normal(size=(20, 3)).astype(np.float32) * numbers.uniform(0.3, 1.5, size=3).astype(np.float32)
    rows = Dataset.from_dict({"x": x, "y": (x @ numbers.normal(size=3).astype(np.float32) * 2)})
    return P2PFLDataset(DatasetDict({"train": rows, "test": rows}), batch_size=20)


def trained(kind, *options):
    """What each node's model is after each local training, and what the nodes agree on after each round."""
    aggregators = [kind(*options) for _ in range(NODES)]
    learners = []
    for node, aggregator in enumerate(aggregators):
        aggregator.set_addr(f"node-{node}")
        learner = LightningLearner()
        learner.set_addr(f"node-{node}")
        learner.logger = False
        learner.indicate_aggregator(aggregator)
        learner.set_model(LightningModel(Net()))
        learner.set_data(data(node))
        learner.set_epochs(EPOCHS)
        learners.append(learner)
    own, agreed = [], []
    for _ in range(ROUNDS):  # as p2pfl's training stage, without the network
        models = [learner.fit() for learner in learners]
        own.append([m.get_parameters()[0].copy() for m in models])
        sent = [m.encode_parameters() for m in models]
        for learner, aggregator in zip(learners, aggregators):
            received = [
                m.build_copy(params=s, contributors=m.get_contributors(), num_samples=m.get_num_samples())
                for m, s in zip(models, sent)
            ]
            learner.set_model(aggregator.aggregate(received))
        agreed.append(learners[0].get_model().get_parameters()[0].copy())
    return np.array(own), np.array(agreed)

def plain(weights, node):
    """What gradient descent without any correction makes of these weights."""
    x, y = (torch.tensor(np.array(data(node)._data["train"][name]), dtype=torch.float32) for name in "xy")
    w = torch.tensor(weights, requires_grad=True)
    for _ in range(EPOCHS):
        (gradient,) = torch.autograd.grad(((x @ w[0] - y) ** 2).mean() / 2, w)
        w.data -= RATE * gradient
    return w.detach().numpy()


_, fedavg = trained(FedAvg)
for mu in (0.01, 1.0, 100.0):
    _, agreed = trained(FedProx, mu)
    print(f"FedProx, mu {mu:6}: largest difference from FedAvg {np.abs(agreed - fedavg).max()}")
    assert np.array_equal(agreed, fedavg) and np.abs(fedavg).max() > 0.1

own, agreed = trained(Scaffold, 1.0)
for number in range(ROUNDS):
    start = agreed[number - 1] if number else np.zeros_like(agreed[0])
    far = max(np.abs(own[number, node] - plain(start, node)).max() for node in range(NODES))
    print(f"SCAFFOLD, round {number + 1}: the nodes' models are {far:.0e} from those of plain SGD")
    assert far < 1e-5
mean = own[0].mean(axis=0)
print("SCAFFOLD, after round 1:", agreed[0].round(3).tolist(), "; mean of the nodes' models:", mean.round(3).tolist())
assert np.allclose(agreed[0], own[0, 0] + mean, atol=1e-6) and np.abs(agreed[0] - mean).max() > 0.1
PYTHON
