"""Time of a training step on this machine: one is made, and timed, where nothing is known from earlier runs."""

from __future__ import annotations

import time
from collections.abc import Callable
from dataclasses import dataclass, field
from typing import NamedTuple

import torch
import torch.nn.functional as F

from fcil.data import Shard
from fcil.federation.plan import Plan
from fcil.federation.settings import settle_arithmetic
from fcil.nets import Net, build_net
from fcil.optimizer import build_optimizer
from fcil.rng import generator
from fcil.types import Batch

BUDGET = 8.0
"""Seconds after which no further net is timed."""
LONG_STEP = 2.0
"""Seconds of a step beyond which a part of a batch is timed, and the rest reckoned."""
FEW = 8
"""Samples of that part."""


class Facts(NamedTuple):
    """Facts on the data of a plan."""

    train: int
    test: int
    tasks: int
    classes: int
    shape: tuple[int, ...]
    shard: Shard | None = None
    """Data of some client, if the data was opened."""


@dataclass
class StepTimer:
    """Times a training step of each net once, as long as there is time."""

    clock: Callable[[], float] = time.perf_counter
    seconds: dict[object, float] = field(default_factory=dict)
    nets: dict[object, Net] = field(default_factory=dict)
    spent: float = 0.0

    def net(self, plan: Plan, facts: Facts) -> Net:
        key = (plan.net, facts.shape, facts.classes)
        if key not in self.nets:
            shape, classes = facts.shape, facts.classes
            self.nets[key] = build_net(plan.net, shape=shape, num_classes=classes, text_width=None, key=("doctor",))
        return self.nets[key]

    def step(self, plan: Plan, facts: Facts) -> float | None:
        """Seconds of one step on a batch: plain cross entropy, forward and back. None if there was no time left."""
        key = (plan.net, facts.shape, plan.federation.batch_size, plan.resources.device, plan.resources.threads)
        if key not in self.seconds and self.spent < BUDGET:
            before, began = torch.get_num_threads(), self.clock()
            settle_arithmetic(plan.resources.threads)
            try:
                self.seconds[key] = self._measure(self.net(plan, facts), plan, facts)
            finally:
                torch.set_num_threads(before)
            self.spent += self.clock() - began
        return self.seconds.get(key)

    def _measure(self, net: Net, plan: Plan, facts: Facts) -> float:
        device, whole = plan.resources.torch_device(), plan.federation.batch_size
        few, trained = min(FEW, whole), net.to(device).train()
        optimizer = build_optimizer(plan.optimizer, trained.parameters(), plan.optimizer.lr)
        first = self._once(trained, optimizer, few, facts, device)
        if first * whole / few > LONG_STEP:
            return self._once(trained, optimizer, few, facts, device) * whole / few
        self._once(trained, optimizer, whole, facts, device)
        return self._once(trained, optimizer, whole, facts, device)

    def _once(self, net: Net, optimizer: torch.optim.Optimizer, size: int, facts: Facts, device: torch.device) -> float:
        """A step on a batch of the data, or of zeros where it was not opened."""
        began = self.clock()
        batch = Batch(
            torch.zeros(size, *facts.shape, device=device), torch.zeros(size, dtype=torch.long, device=device)
        )
        if facts.shard is not None:
            batch = next(facts.shard.batches(size, generator("doctor")))
        optimizer.zero_grad()
        F.cross_entropy(net(batch.x).logits, batch.y).backward()  # type: ignore[no-untyped-call]
        optimizer.step()
        if device.type == "cuda":
            torch.cuda.synchronize(device)
        return (self.clock() - began) * size / len(batch.y)  # a client may hold fewer
