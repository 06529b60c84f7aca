"""A synthesizer of one's own: pixels are moved until a trained net sees the wanted digit in them.

    python docs/examples/own_synthesizer.py

trains a teacher on digits, inverts it, teaches a smaller net from the samples alone, and prints, with numbers that
may differ on another machine:

    teacher: 93.9 % of the test images
    pool: 200 samples of 1 x 8 x 8, of which the teacher gives 73.0 % the wanted label
    student, which has seen no real image: 59.3 %

A synthesizer is used like this from Python. Strategies and `fcil distill` take a file with one by its path:
`fcil new synthesizer my_way` begins it.
"""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass
from typing import ClassVar

import torch
import torch.nn.functional as F
from torch import Tensor

from fcil.data import DataSettings, Scenario, load_dataset
from fcil.losses import record_statistics, statistics_distance
from fcil.nets import Net, NetSettings, build_net
from fcil.rng import generator, sent
from fcil.synthesis import SynthesisProblem, Synthesizer
from fcil.synthesis.common.pool import endless_rows, to_bytes, view
from fcil.types import Count, NonNegative, Positive, Tensors


@dataclass
class Chain:
    """What a chain has made so far."""

    x: Tensor  # (N, channels, H, W) in [0, 1]
    y: Tensor  # (N,)


@dataclass(frozen=True, kw_only=True)
class Pixels(Synthesizer):
    """Cross-entropy to the wanted label, and batch-norm statistics that the teacher remembers."""

    samples: Count = 200
    """Samples kept in the pool."""
    rounds: Count = 10
    """Episodes of a chain."""
    steps: Count = 20
    """Steps of Adam in an episode."""
    lr: Positive = 0.05
    """Of Adam."""
    bn: NonNegative = 0.1
    """Weight of batch-norm matching."""

    needs: ClassVar[frozenset[str]] = frozenset({"batchnorm"})

    @property
    def episodes(self) -> int:
        return self.rounds

    def start(self, problem: SynthesisProblem, chain: int) -> Chain:
        rng = generator(*problem.key, "pixels", chain)
        x = sent(torch.rand(self.share(chain), *problem.shape, generator=rng), problem.device)
        labels = torch.tensor(problem.labels, device=problem.device)
        return Chain(x, labels[torch.arange(len(x), device=problem.device) % len(labels)])

    def episode(self, problem: SynthesisProblem, state: Chain, number: int) -> dict[str, float]:
        x = state.x.clone().requires_grad_(True)
        adam = torch.optim.Adam([x], self.lr)
        mean, std = problem.mean[:, None, None], problem.std[:, None, None]
        for _ in range(self.steps):
            with record_statistics(problem.teacher) as statistics:
                logits = problem.teacher((x - mean) / std).logits
            ce = F.cross_entropy(logits, state.y)
            bn = self.bn * statistics_distance(problem.teacher, statistics)
            adam.zero_grad()
            (ce + bn).backward()
            adam.step()
            x.data.clamp_(0, 1)
        state.x = x.detach()
        return {"ce": ce.item(), "bn": bn.item()}

    def pool(self, problem: SynthesisProblem, state: Chain) -> Tensors:
        return {"x": to_bytes(state.x, "round"), "y": state.y}


def train(net: Net, batches: Iterable[tuple[Tensor, Tensor]]) -> Net:
    optimizer = torch.optim.SGD(net.train().parameters(), lr=0.1, momentum=0.9, weight_decay=5e-4)
    for x, y in batches:
        optimizer.zero_grad()
        F.cross_entropy(net(x).logits, y).backward()
        optimizer.step()
    return net.eval()


def accuracy(net: Net, x: Tensor, y: Tensor) -> float:
    with torch.no_grad():
        return 100 * float((net(x).logits.argmax(1) == y).float().mean())


def main() -> None:
    torch.set_num_threads(1)
    settings = DataSettings(dataset="digits", tasks=1)
    scenario = Scenario(load_dataset(settings), settings, clients=1, seed=0)
    data, train_set, test_set = scenario.dataset, scenario.shard(task=1, client=0), scenario.test(task=1)
    x, y = test_set.x(torch.arange(len(test_set))), test_set.labels
    teacher, student = (
        build_net(NetSettings(name="resnet8", width=w), shape=data.shape, num_classes=10, text_width=None, key=(name,))
        for name, w in (("teacher", 8), ("student", 4))
    )
    epochs = (train_set.batches(64, generator("batches", epoch)) for epoch in range(8))
    train(teacher, ((batch.x, batch.y) for epoch in epochs for batch in epoch))
    print(f"teacher: {accuracy(teacher, x, y):.1f} % of the test images")

    mean, std = torch.tensor(data.mean), torch.tensor(data.std)
    pool = Pixels().run(teacher=teacher, labels=range(10), shape=data.shape, mean=mean, std=std)
    rng, everything = generator("student"), torch.arange(len(pool["y"]))
    agreed = accuracy(teacher, view(pool, everything, data.augment.synthetic, rng, mean, std), pool["y"])
    shape = " x ".join(map(str, pool["x"].shape[1:]))
    print(f"pool: {len(pool['y'])} samples of {shape}, of which the teacher gives {agreed:.1f} % the wanted label")

    rows = endless_rows(len(pool["y"]), 50, rng, torch.device("cpu"))
    drawn = (next(rows) for _ in range(300))
    train(student, ((view(pool, r, data.augment.synthetic, rng, mean, std), pool["y"][r]) for r in drawn))
    print(f"student, which has seen no real image: {accuracy(student, x, y):.1f} %")


if __name__ == "__main__":
    main()
