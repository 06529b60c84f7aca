"""Arithmetic of the server optimisers, over tensors.

Delta is the mean of the clients' nets less the global one; p_k are the weights of the clients in that mean, which the
strategy chooses (the papers of SCAFFOLD and of Algorithm 2 weigh clients alike).
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass, replace
from typing import cast

import torch
from torch import Tensor

from fcil.averaging import Weighting
from fcil.errors import TrainingError
from fcil.federation.optimisation.settings import (
    Adaptive,
    FedAdagrad,
    FedAdam,
    FedAvgM,
    FedNova,
    FedYogi,
    Lasting,
    Scaffold,
    ServerOptimizer,
)
from fcil.roles import Server
from fcil.types import Tensors, Update

CONTROL = "scaffold"
"""Name of the control variate: of the server's in what it shares, of a client's in its memory."""
CHANGE = "scaffold/"
"""Beginning of the names of what a client's control variate has changed by, in its update."""
Mean = Callable[[Iterable[Update]], Update]


def begin_task(optimizer: ServerOptimizer, server: Server) -> None:
    """Forget the state of the optimiser where it is that of one task."""
    if isinstance(optimizer, Lasting) and optimizer.lasts == "task":
        server.moments = {}
        if isinstance(optimizer, Scaffold):
            server.shared.pop(CONTROL, None)


def step(
    optimizer: ServerOptimizer,
    server: Server,
    updates: Iterable[Update],
    mean: Mean,
    weighting: Weighting,
    momentum: float,
) -> Update:
    """Return the mean of the updates, with the next parameters of the net in the place of their means.

    What clients send beside the net, and its buffers, are averaged.

    Args:
        mean: averages updates.
        momentum: that of the clients' SGD.
    """
    parameters = {name: p.detach() for name, p in server.net.named_parameters()}
    if isinstance(optimizer, FedNova):
        return _normalised(optimizer, parameters, updates, mean, weighting, momentum)
    if isinstance(optimizer, Scaffold):
        counted = _Counted(updates)
        averaged = mean(counted)
        _move_control(server, averaged.weights, counted.clients / server.num_clients)
    else:
        averaged = mean(updates)
    deltas = {name: averaged.weights[name] - p for name, p in parameters.items() if name in averaged.weights}
    averaged.weights |= _stepped(optimizer, parameters, deltas, server.moments)
    return averaged


@dataclass
class _Counted(Iterable[Update]):
    """Updates, and how many there were."""

    updates: Iterable[Update]
    clients: int = 0

    def __iter__(self) -> Iterator[Update]:
        for update in self.updates:
            self.clients += 1
            yield update
            del update


def grown(old: Tensor | None, like: Tensor) -> Tensor:
    """Return a tensor of state in the shape of a parameter, which may have grown since: its new rows are zero."""
    if old is not None and old.shape == like.shape:
        return old.to(like.device)
    new = torch.zeros_like(like)
    if old is not None and old.shape[1:] == like.shape[1:] and len(old) < len(like):
        new[: len(old)] = old
    return new


def _stepped(optimizer: ServerOptimizer, start: Tensors, deltas: Tensors, state: dict[str, Tensors]) -> Tensors:
    """Return the parameters after a step; `state` gets the new moments."""
    if isinstance(optimizer, Scaffold):
        return {name: start[name].add(delta, alpha=optimizer.eta_g) for name, delta in deltas.items()}
    first, second = (state.setdefault(key, {}) for key in ("m", "v"))
    after: Tensors = {}
    for name, delta in deltas.items():
        m = grown(first.get(name), delta)
        match optimizer:
            case FedAvgM():
                first[name] = m * optimizer.beta + delta
                after[name] = start[name].add(first[name], alpha=optimizer.eta)
            case Adaptive():
                first[name] = m * optimizer.beta_1 + (1 - optimizer.beta_1) * delta
                second[name] = _second_moment(optimizer, grown(second.get(name), delta), delta.square())
                after[name] = start[name] + optimizer.eta * first[name] / (second[name].sqrt() + optimizer.tau)
    return after


def _second_moment(optimizer: Adaptive, v: Tensor, square: Tensor) -> Tensor:
    match optimizer:
        case FedAdagrad():
            return v + square
        case FedAdam():
            return v * optimizer.beta_2 + (1 - optimizer.beta_2) * square
        case FedYogi():
            return v - (1 - optimizer.beta_2) * square * (v - square).sign()
        case _:
            raise NotImplementedError(optimizer.name)


def covered(steps: float, momentum: float) -> float:
    """Return |a|, the sum of what a client's gradients weigh in its way, in units of its learning rate.

    It is the number of steps for SGD without momentum; with momentum rho each gradient weighs in all later steps:
    (tau - rho (1 - rho^tau) / (1 - rho)) / (1 - rho) (Wang et al., section 4.1).
    """
    left: float = momentum**steps
    return (steps - momentum * (1 - left) / (1 - momentum)) / (1 - momentum)


def _normalised(
    optimizer: FedNova,
    start: Tensors,
    updates: Iterable[Update],
    mean: Mean,
    weighting: Weighting,
    momentum: float,
) -> Update:
    """Return x + tau_eff sum_k p_k (x_k - x) / |a_k|."""
    ways, total = 0.0, 0.0

    def directions() -> Iterator[Update]:
        nonlocal ways, total
        for update in updates:
            steps, share = update.metrics.get("steps", 0.0), update.num_examples if weighting == "examples" else 1.0
            if steps < 1:
                raise TrainingError("federation.server: fednova: a client did not say how many steps it has taken")
            way = covered(steps, momentum)
            ways, total = ways + share * way, total + share
            moved = {n: (w - start[n]) / way if n in start else w for n, w in update.weights.items()}
            yield replace(update, weights=moved)
            del update, moved

    averaged = mean(directions())
    tau = ways / total if optimizer.tau_eff is None else optimizer.tau_eff
    averaged.weights |= {n: start[n].add(d, alpha=tau) for n, d in averaged.weights.items() if n in start}
    return averaged


def _move_control(server: Server, weights: Tensors, share: float) -> None:
    """Take the mean of what clients' control variates have changed by out of the weights: c' = c + |S| / N mean.

    The mean is weighted as that of the nets, so that c is the mean gradient of what the nets' mean descends on.
    """
    known = cast(Tensors, server.shared.get(CONTROL, {}))
    changes = {name: weights.pop(name) for name in [*weights] if name.startswith(CHANGE)}
    moved = {name.removeprefix(CHANGE): change for name, change in changes.items()}
    server.shared[CONTROL] = known | {
        name: grown(known.get(name), change).add(change, alpha=share) for name, change in moved.items()
    }
