"""The client's side of SCAFFOLD: gradients corrected by control variates (Karimireddy et al., 2020, Algorithm 1).

    y  <- y - lr (g(y) + c - c_k)                       each step, from the global net x
    c_k' = c_k - c + (x - y) / (lr |a|)                 option II

|a| is the number of steps, or with momentum in the client's SGD what `covered` says: then c_k' is still the mean of
the gradients on the way. Control variates are as large as the parameters; c comes from the server, where it is not
zero, c_k stays with the client, and its change goes to the server.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Literal, cast

import torch
from torch import nn

from fcil.federation.optimisation.steps import CHANGE, CONTROL, covered, grown
from fcil.roles import Client
from fcil.types import Tensors


@dataclass
class ControlVariate:
    """Control variate of a client in one round."""

    client: Client
    lasts: Literal["task", "run"]
    changes: Tensors = field(default_factory=dict)  # what the server is told, by name
    _trained: Mapping[str, nn.Parameter] = field(default_factory=dict)
    _corrections: Tensors = field(default_factory=dict)  # c - c_k
    _before: Tensors = field(default_factory=dict)  # c_k

    def begin(self, parameters: Mapping[str, nn.Parameter]) -> None:
        """Read the control variates of the parameters that are trained, before the first step."""
        known = cast(Tensors, self.client.memory.get(CONTROL, {}))
        if self.lasts == "task" and self.client.memory.get(f"{CONTROL} task") != self.client.task.number:
            known = {}
        server = cast(Tensors, self.client.shared.get(CONTROL, {}))
        self._trained = parameters
        self._before = {name: grown(known.get(name), p.detach()) for name, p in parameters.items()}
        self._corrections = {n: grown(server.get(n), old) - old for n, old in self._before.items()}

    def correct(self) -> None:
        """Add c - c_k to the gradients of a step."""
        held = [(p.grad, self._corrections[name]) for name, p in self._trained.items() if p.grad is not None]
        torch._foreach_add_([grad for grad, _ in held], [correction for _, correction in held])

    def end(self, steps: int) -> None:
        """Remember c_k', and keep its change for the server."""
        if not steps:
            self.changes = {f"{CHANGE}{name}": torch.zeros_like(old) for name, old in self._before.items()}
            return
        scale, start = 1 / (self.client.lr * covered(steps, self.client.optimizer.momentum)), self.client.start
        after = {
            name: (start[name] - p.detach()).mul_(scale).sub_(self._corrections[name])
            for name, p in self._trained.items()
        }
        self.changes = {f"{CHANGE}{name}": after[name] - self._before[name] for name in after}
        self.client.memory[CONTROL] = after
        self.client.memory[f"{CONTROL} task"] = self.client.task.number
