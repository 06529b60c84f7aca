"""Several clients trained as one call, by `torch.func`: weights side by side, and a step of all of them at a time.

Where nets are small a step is dispatch and not arithmetic, and k clients cost hardly more than one. Each has weights,
momentum and batch statistics of its own, so the result is that of training each alone, but for the order of sums.

Shapes: k clients; a stacked tensor is (k, ...).
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from itertools import cycle, islice
from typing import Any, cast

import torch
from torch import Tensor, nn
from torch.func import functional_call, vmap

from fcil.data import Scenario
from fcil.data.scenario import batch_sizes
from fcil.federation.plan import Plan
from fcil.optimizer import build_optimizer, total_loss
from fcil.roles import Client
from fcil.types import Batch, Tensors, Terms, Update

NET = "net."


def obstacle(plan: Plan, kind: str) -> str | None:
    """Return why no clients of a run can be trained together; None: they can.

    Args:
        kind: of the samples, images or series.
    """
    reasons = {
        "it trains them in one process; set federation.backend: inprocess": plan.federation.backend != "inprocess",
        f'strategy "{plan.strategy.name}" does not vectorise, its step reads more of a client than its net, task and '
        "batch": not plan.strategy.strategy.takes_plain_steps(),
        f"a net of {kind} does not vectorise, those of images do": kind != "images",
        "net.memory_format: channels_last does not vectorise": plan.net.memory_format != "contiguous",
        "optimizer.precision: bf16 does not vectorise": plan.optimizer.precision != "fp32",
        "optimizer.state: kept is of each client alone": plan.optimizer.state == "kept",
        "optimizer.max_norm is of each client's gradient alone": plan.optimizer.max_norm is not None,
        "resources.compile: graphs captures the step of one client": plan.resources.compile is not None,
    }
    return next((reason for reason, holds in reasons.items() if holds), None)


def step_sizes(plan: Plan, scenario: Scenario, task: int, client: int) -> tuple[int, ...]:
    """Return the sizes of a client's batches in a round of a task; clients of equal ones can be trained together."""
    federation, first = plan.federation, 0 if plan.strategy.strategy.data == "seen" else task - 1
    images = sum(len(clients[client]) for clients in scenario.held[first:task])
    sizes = batch_sizes(images, federation.batch_size)[: federation.max_batches]
    if federation.local_steps is None:
        return tuple(sizes * federation.local_epochs)
    return tuple(islice(cycle(sizes), federation.local_steps))


class _Step(nn.Module):
    """The loss of one client as a module of its net, whose tensors `functional_call` replaces."""

    def __init__(self, client: Client, loss: Callable[[Client, Batch], Terms]) -> None:
        super().__init__()
        self.net, self._client, self._loss = client.net, client, loss

    def forward(self, x: Tensor, y: Tensor) -> Terms:
        return self._loss(self._client, Batch(x, y))


def train_together(
    clients: Sequence[Client], loss: Callable[[Client, Batch], Terms], trained: Sequence[str]
) -> list[Update | None]:
    """Train clients that have one net and equal `step_sizes`; otherwise as `Client.train`.

    Args:
        loss: reads nothing of a client but its net, which the first one stands for, and its task.
        trained: names of the tensors of the net that are trained and sent.
    Returns:
        Their updates; None where a term of the loss was not finite.
    Raises:
        ValueError: their batches are not equally many.
    """
    first, keep = clients[0], set(trained)
    net = first.net.train()
    stacked = {f"{NET}{name}": torch.stack([t.detach()] * len(clients)) for name, t in net.state_dict().items()}
    names = [f"{NET}{name}" for name, p in net.named_parameters() if name in keep and p.requires_grad]
    leaves = [cast(nn.Parameter, stacked[name].requires_grad_()) for name in names]
    optimizer = build_optimizer(first.optimizer, leaves, first.lr)
    module = _Step(first, loss)

    def terms_of(tensors: Tensors, x: Tensor, y: Tensor) -> Terms:
        return cast(Terms, functional_call(module, tensors, (x, y)))

    sums: dict[str, Tensor] = {}
    start, steps = torch.zeros(len(clients), device=first.device), 0
    for batches in zip(*(client.passes() for client in clients), strict=True):
        x, y = (torch.stack(parts) for parts in zip(*(batch for _, batch in batches), strict=True))
        terms: dict[str, Any] = vmap(terms_of)(stacked, x, y)
        total = total_loss({name: term.sum() for name, term in terms.items()})
        optimizer.zero_grad(set_to_none=True)
        total.backward()  # type: ignore[no-untyped-call]
        optimizer.step()
        steps += 1
        for name, term in terms.items():
            sums[name] = sums.get(name, 0) + term.detach()
        if batches[0][0] == 0:
            start += torch.stack([*terms.values()]).sum(0).detach()
    means = {name: (s / max(1, steps)).tolist() for name, s in sums.items()}
    states = {name.removeprefix(NET): t.detach() for name, t in stacked.items() if name.removeprefix(NET) in keep}
    updates: list[Update | None] = []
    for number, (client, beginning) in enumerate(zip(clients, start.tolist(), strict=True)):
        metrics = {f"terms/{name}": values[number] for name, values in means.items()}
        finite = all(abs(value) < float("inf") for value in metrics.values())
        metrics |= {"first_epoch_loss": beginning, "steps": float(steps)}
        weights = {name: t[number] for name, t in states.items()}
        updates.append(Update(weights, len(client.shard), metrics) if finite else None)
    return updates
