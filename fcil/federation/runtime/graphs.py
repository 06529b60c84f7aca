"""Steps of a client captured in a CUDA graph: all kernels of a step are launched at once.

A step of a small net costs the host more than the GPU. The first steps of a client in a round are taken as ever, then
one is captured, with the memory that it reads and writes, and the others replay it. A batch of another size, such as
the last of a pass, is trained as ever. The same kernels run in the same order; no GPU has shown it yet.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, field

import torch
from torch import Tensor

from fcil.strategy import Strategy
from fcil.types import Batch, Step, Terms

WARM_UP = 3
"""Steps before the capture: the optimizer makes its momentum, and libraries choose their kernels."""


def obstacle(strategy: Strategy, optimizer: str, on_gpu: bool) -> str | None:
    """Return why the steps of a run are not captured; None: they are.

    Args:
        optimizer: name of the clients' optimizer.
        on_gpu: whether clients train on a GPU.
    """
    if not on_gpu:
        return "clients train on a CPU"
    if not strategy.takes_plain_steps():
        return "the strategy's step reads more of a client than its net, task and batch"
    if optimizer != "sgd":
        return f"optimizer.name {optimizer} counts its steps on the host; sgd does not"
    return None


@dataclass
class CapturedSteps:
    """Steps of one client in one round; called like the step that `of` is given."""

    device: torch.device
    problem: str = ""
    """Why no step could be captured; empty if one was, or there were too few."""
    _step: Step | None = None
    _taken: int = 0
    _inputs: Batch | None = None
    _replay: Callable[[], object] | None = None
    _results: tuple[Terms, Tensor] = field(default_factory=lambda: ({}, torch.empty(0)))

    def of(self, step: Step) -> Step:
        self._step = step
        return self._take

    def _take(self, batch: Batch) -> tuple[Terms, Tensor]:
        assert self._step is not None
        if self._inputs is None:
            self._inputs = Batch(batch.x.clone(), batch.y.clone())
        if batch.x.shape != self._inputs.x.shape or self.problem:
            return self._step(batch)
        if self._taken < WARM_UP:
            self._taken += 1
            return _beside(self._step, batch, self.device)
        if self._replay is None:
            try:
                self._replay = self._captured(self._step, self._inputs)
            except RuntimeError as error:
                self.problem = str(error).partition("\n")[0]
                return self._step(batch)
        self._inputs.x.copy_(batch.x)
        self._inputs.y.copy_(batch.y)
        self._replay()
        return self._results

    def _captured(self, step: Step, inputs: Batch) -> Callable[[], object]:
        """Return the replay of a step on `inputs`, which writes `_results`; nothing is computed yet."""
        graph = torch.cuda.CUDAGraph()
        with torch.cuda.graph(graph):  # on a stream of its own; gradients lie in the graph's memory
            self._results = step(inputs)
        return graph.replay


def _beside(step: Step, batch: Batch, device: torch.device) -> tuple[Terms, Tensor]:
    """Take a step on a stream of its own, as PyTorch wants it of steps before a capture."""
    stream = torch.cuda.Stream(device)  # type: ignore[no-untyped-call]
    stream.wait_stream(torch.cuda.current_stream(device))
    with torch.cuda.stream(stream):
        results = step(batch)
    torch.cuda.current_stream(device).wait_stream(stream)
    return results
