"""The floor of such a round on Ray: arrays into the store once, into each client's net, out of it, and into the sum."""

from __future__ import annotations

import logging
from typing import Any

import numpy as np
import ray
import torch
from idle_flower import net_of
from numpy.typing import NDArray
from turns import round_begins

Arrays = dict[str, NDArray[np.float32]]


def arrays_of(net: torch.nn.Module) -> Arrays:
    """Return the weights and running statistics of a net as arrays that share its memory."""
    return {name: t.numpy() for name, t in net.state_dict().items() if t.is_floating_point()}


@ray.remote(num_cpus=1)
class Worker:
    """A process for each core, with a net of its own."""

    def __init__(self, name: str) -> None:
        torch.set_num_threads(1)
        self._arrays = arrays_of(net_of(name))

    def answer(self, sent: Arrays) -> Arrays:
        """Copy what was sent into the net, and return what the net holds."""
        for name, array in self._arrays.items():
            np.copyto(array, sent[name])
        return self._arrays


def play(name: str, clients: int, rounds: int, workers: int = 2) -> None:
    """Play so many rounds."""
    torch.set_num_threads(1)
    ray.init(num_cpus=workers, include_dashboard=False, log_to_driver=False, logging_level=logging.ERROR)
    actors: list[Any] = [Worker.remote(name) for _ in range(workers)]  # type: ignore[attr-defined]
    held = arrays_of(net_of(name))
    for _ in range(rounds):
        round_begins()
        sent = ray.put(held)
        total = {key: np.zeros_like(array) for key, array in held.items()}
        waiting = [actors[k % workers].answer.remote(sent) for k in range(clients)]
        for place, answer in enumerate(waiting):
            for key, array in ray.get(answer).items():
                total[key] += array / clients
            waiting[place] = None  # its room in the store is free again
        held = total
