"""The `federation:` and `resources:` parts of an experiment."""

from __future__ import annotations

import math
import re
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Annotated, Any, Literal

import torch
from pydantic import Field

from fcil.errors import ConfigError
from fcil.federation.optimisation.settings import FedAvg, ServerOptimizer
from fcil.federation.protection.aggregation import Aggregation, Mean
from fcil.federation.protection.attacks import Attack
from fcil.federation.protection.mods import Mods
from fcil.federation.protection.privacy import Privacy
from fcil.types import Count, Fraction, Index, Positive

_DEVICES = "auto|cpu|cuda(:[0-9]{1,2})?"


def settle_arithmetic(threads: int) -> None:
    """Make this process compute what every other process of the run would, whatever precision was set before."""
    torch.set_num_threads(threads)
    torch.set_float32_matmul_precision("highest")  # else a matrix product may be one of bf16, on a CPU too
    torch.backends.cudnn.benchmark = False
    torch.backends.cudnn.deterministic = True
    torch.backends.cudnn.allow_tf32 = False  # fp32 is to mean fp32 on a GPU too
    torch.backends.cuda.matmul.allow_tf32 = False
    for backend in (torch.backends.mkldnn, torch.backends.cudnn):  # to which `torch.backends.fp32_precision` extends
        for name in ("conv", "rnn"):
            part: Any = getattr(backend, name, None)
            if getattr(part, "fp32_precision", "none") not in ("none", "ieee"):
                part.fp32_precision = "ieee"


@contextmanager
def settled(threads: int) -> Iterator[None]:
    """Compute within the block what a run of so many threads would; afterwards the threads are those of before."""
    before = torch.get_num_threads()
    settle_arithmetic(threads)
    try:
        yield
    finally:
        torch.set_num_threads(before)


@dataclass(frozen=True, kw_only=True)
class FederationSettings:
    """Clients, rounds and epochs, and the place where the clients run."""

    clients: Count = 5
    """Clients of the federation."""
    fraction: Fraction = 1.0
    """Share of the clients that takes part in a round, drawn anew each round; at least one does."""
    rounds: Count = 10
    """Communication rounds per task."""
    local_epochs: Count = 2
    """Passes over its data that a client makes in a round."""
    local_steps: Count | None = None
    """Steps that a client takes in a round, over as many passes as they need, the last one broken off; null: whole
    passes, `local_epochs` of them."""
    batch_size: Count = 64
    """Real images per step on a client."""
    clients_per_call: Count = 1
    """Most clients trained as one vectorised call with `backend: inprocess`, where the strategy's step allows it:
    faster where nets and images are tiny, slower elsewhere, equal but for rounding; clients whose batches have other
    sizes are trained alone; 1: each is."""
    backend: Literal["ray", "inprocess"] = "ray"
    """Backend that runs the clients: Ray workers, or this process, one after the other; the result is the same."""
    evaluate_every: Index = 1
    """Rounds between evaluations of the global net; 0 evaluates at the end of a task alone."""
    checkpoint_every: Index = 1
    """Rounds between checkpoints within a task; 0 saves when the rounds of a task are over, and when it ends."""
    timeout: Positive = 3600.0
    """Seconds that a client may take for a round."""
    on_failure: Literal["stop", "retry", "skip"] = "stop"
    """Reaction to a client that fails: end the run, ask again and then skip it, or skip it in this round."""
    retries: Index = 2
    """Times a client is asked again: one whose process died always, any other if `on_failure` is retry."""
    min_success: Annotated[float, Field(ge=0, le=1)] = 0.5
    """Share of a round's clients that must succeed; with fewer the run ends."""
    stop_after: Count | None = None
    """End the run after this task, of however many; null: after the last."""
    max_batches: Count | None = None
    """End each local epoch after so many batches, for trying things out; null: never."""
    exemplars: Index | None = None
    """Most own images that a client may keep of earlier tasks, whatever the strategy asks; null: as many as it asks."""
    mods: Mods = Mods()
    """Mods around each client, the outermost first: `arrays_size`, `message_size`, `local_dp`,
    `fixed_clipping`, `adaptive_clipping`."""
    aggregation: Aggregation = Mean()
    """Aggregation of updates: `mean`, `median`, `trimmed_mean`, `krum`, `multi_krum` or `bulyan`."""
    server: ServerOptimizer = FedAvg()
    """Server optimiser, which makes the next net of the mean: `fedavg` takes it as it is; `fedavgm`, `fedadagrad`,
    `fedadam`, `fedyogi`, `fednova` or `scaffold`."""
    privacy: Privacy | None = None
    """Client-level central differential privacy: updates clipped, plain mean, Gaussian noise; null: none."""
    attack: Attack | None = None
    """Attack of malicious clients on the net: `label_flip`, `sign_flip`, `noise` or `scale`; null: none."""

    def __post_init__(self) -> None:
        if self.local_steps is not None and self.local_epochs != FederationSettings.local_epochs:
            raise ValueError(
                f"local_epochs: {self.local_epochs} is not read where local_steps is {self.local_steps}; leave one out"
            )

    def local_batches(self, images: float) -> float:
        """Return the steps of a client in a round that holds so many images."""
        if self.local_steps is not None:
            return self.local_steps if images else 0
        return self.local_epochs * min(math.ceil(images / self.batch_size), self.max_batches or math.inf)

    @property
    def clients_per_round(self) -> int:
        return max(1, round(self.fraction * self.clients))


@dataclass(frozen=True, kw_only=True)
class Resources:
    """Resources a run may use. On a CPU and at an equal number of threads, nothing here changes the result."""

    device: Annotated[str, Field(json_schema_extra={"pattern": f"^({_DEVICES})$"})] = "auto"
    """`auto` (a GPU if there is one), `cpu`, `cuda` or `cuda:k`."""
    threads: Annotated[int, Field(ge=1, le=1024)] = 1
    """Torch threads of each process; more threads round differently, so results compare at equal counts."""
    workers: Annotated[int, Field(ge=1, le=100_000)] | None = None
    """Clients trained at once on Ray; null: as many as CPUs or GPU shares allow."""
    client_gpus: Annotated[float, Field(ge=0)] = 0.2
    """Share of a GPU that Ray sets aside for each client being trained."""
    synthesis_workers: Annotated[int, Field(ge=1, le=10_000)] = 1
    """Synthesis chains run at once; a synthesizer has one chain unless `chains` says more."""
    synthesis_gpus: Annotated[float, Field(ge=0)] = 0.3
    """Share of a GPU that Ray sets aside for each synthesis worker."""
    compile: Literal["graphs"] | None = None
    """`graphs` captures the step of a client on a GPU in a CUDA graph where the strategy's step allows it, and says so
    where not (never run on a GPU yet); null: off."""
    ray_address: str | None = None
    """A running Ray cluster to join (`auto` finds one on this machine); null: start one for this run alone."""
    keep: Literal["last", "tasks", "none"] = "last"
    """Nets that stay in the run folder: the one at the end (`last`), that of every task too (`tasks`), or `none`."""

    def __post_init__(self) -> None:
        if not re.fullmatch(_DEVICES, self.device):
            raise ValueError(f'device: "{self.device}" is not allowed; expected auto, cpu, cuda or cuda:k')

    def torch_device(self) -> torch.device:
        """The device in this process.

        Raises:
            ConfigError: a GPU is asked for that is not there.
        """
        available = torch.cuda.device_count() if torch.cuda.is_available() else 0
        if self.device == "auto":
            return torch.device("cuda:0" if available else "cpu")
        device = torch.device(self.device)
        if device.type == "cuda" and (device.index or 0) >= available:
            raise ConfigError(f"resources.device: {self.device} is not there; this machine shows {available} GPUs")
        return device
