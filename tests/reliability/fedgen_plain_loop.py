"""FedAvg in FedGen's protocol by a plain loop without fcil, on the partition that the released code writes.

    python tests/reliability/fedgen_plain_loop.py PATH/TO/u20c10-alpha0.1-ratio0.5 MNIST_ROOT [--weights fcil]

The folder comes from `data/Mnist/generate_niid_dirichlet.py` of zhuangdizhu/FedGen @ dd5807c (`--sampling_ratio 0.5
--alpha 0.1 --n_user 20`); MNIST_ROOT is torchvision's. Printed every ten rounds: accuracy on all test images, and on
each user's own classes as that code tests. What it is for: results/reproduction.md, "FedGen's table".
"""

from __future__ import annotations

import argparse
import copy
from pathlib import Path

import numpy as np
import torch
import torch.nn.functional as F
from torch import Tensor, nn
from torchvision.datasets import MNIST

USERS, ACTIVE, STEPS, BATCH, RATE, DECAY = 20, 10, 20, 32, 0.01, 0.99
Samples = tuple[Tensor, Tensor]


def rescaled(x: Tensor, pixels: str) -> Tensor:
    """Return images of [-1, 1] as they are, or with MNIST's mean 0.1307 and deviation 0.3081."""
    x = x.reshape(-1, 1, 28, 28)
    return x if pixels == "released" else (x / 2 + 0.5 - 0.1307) / 0.3081


def read(path: Path, pixels: str) -> list[Samples]:
    data = torch.load(path, weights_only=True)["user_data"].values()
    return [(rescaled(user["x"], pixels), user["y"]) for user in data]


def build(weights: str) -> nn.Module:
    convs = [nn.Conv2d(1, 6, 3, 2, 1), nn.BatchNorm2d(6), nn.ReLU(), nn.Conv2d(6, 16, 3, 2, 1), nn.BatchNorm2d(16)]
    net = nn.Sequential(*convs, nn.ReLU(), nn.Flatten(), nn.Linear(784, 32), last := nn.Linear(32, 10))
    if weights == "fcil":
        nn.init.kaiming_uniform_(last.weight, nonlinearity="linear")
        nn.init.zeros_(last.bias)
    return net


class User:
    """Samples of a user, in shuffled whole batches that go on from round to round."""

    def __init__(self, samples: Samples) -> None:
        self.x, self.y = samples
        self.batches: list[Tensor] = []

    def next(self) -> Samples:
        if not self.batches:
            batches = list(torch.randperm(len(self.y)).split(BATCH))
            self.batches = [b for b in batches if len(b) == BATCH] or batches
        rows = self.batches.pop(0)
        return self.x[rows], self.y[rows]

    def train(self, net: nn.Module, rate: float) -> None:
        net.train()
        for _ in range(STEPS):
            x, y = self.next()
            net.zero_grad()
            F.cross_entropy(net(x), y).backward()
            with torch.no_grad():
                for p in net.parameters():
                    p -= rate * p.grad


def accuracy(net: nn.Module, sets: list[Samples]) -> float:
    net.eval()
    with torch.no_grad():
        hits = sum(int((net(x).argmax(1) == y).sum()) for x, y in sets)
    return 100 * hits / sum(len(y) for _, y in sets)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("folder", type=Path)
    parser.add_argument("mnist", type=Path)
    parser.add_argument("--weights", choices=["released", "fcil"], default="released", help="first ones")
    parser.add_argument("--pixels", choices=["released", "fcil"], default="released")
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--rounds", type=int, default=200)
    told = parser.parse_args()
    torch.set_num_threads(1)
    users = [User(samples) for samples in read(told.folder / "train" / "train.pt", told.pixels)]
    own = read(told.folder / "test" / "test.pt", told.pixels)
    test = MNIST(told.mnist, train=False)
    everything = [(rescaled(test.data.float() / 127.5 - 1, told.pixels), test.targets)]
    torch.manual_seed(told.seed)
    draw, net = np.random.RandomState(told.seed), build(told.weights)
    state = copy.deepcopy(net.state_dict())
    for number in range(1, told.rounds + 1):
        active = [users[i] for i in draw.choice(USERS, ACTIVE, replace=False)]
        examples = sum(len(user.y) for user in active)
        mean = {name: torch.zeros_like(t, dtype=torch.float) for name, t in state.items()}
        for user in active:
            net.load_state_dict(state)
            user.train(net, RATE * DECAY ** (number - 1))
            for name, t in net.state_dict().items():
                mean[name] += t * (len(user.y) / examples)
        state = {name: t.to(state[name].dtype) for name, t in mean.items()}
        if number % 10 == 0:
            net.load_state_dict(state)
            print(
                f"round {number}: all {accuracy(net, everything):.2f}, own classes {accuracy(net, own):.2f}", flush=True
            )


if __name__ == "__main__":
    main()
