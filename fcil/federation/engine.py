"""Runs plans: sets up the grid and the workers once, and plays one plan after another on them."""

from __future__ import annotations

from collections.abc import Callable
from contextlib import AbstractContextManager, nullcontext
from dataclasses import dataclass, field, replace
from pathlib import Path
from types import TracebackType
from typing import Any

import torch
from flwr.serverapp import Grid

from fcil.errors import ConfigError, TrainingError
from fcil.federation.checkpoint import Checkpoints
from fcil.federation.client import client_app
from fcil.federation.context import RunContext
from fcil.federation.executor import ChainWorker, Executor, LocalExecutor, RayExecutor
from fcil.federation.grids import InProcessGrid, LocalGrid
from fcil.federation.messages.failures import shortage
from fcil.federation.observer import Observer, Observers
from fcil.federation.plan import Plan
from fcil.federation.ray.grid import RayGrid, WorkerPool
from fcil.federation.ray.pool import ActorPool, SharedPool
from fcil.federation.ray.session import RaySession
from fcil.federation.runtime.address_space import check_room_for_a_run
from fcil.federation.runtime.interrupts import Interrupts
from fcil.federation.runtime.worker import Sites
from fcil.federation.server import Loop
from fcil.federation.settings import FederationSettings, Resources, settle_arithmetic


@dataclass
class Engine:
    """A context that holds Ray and its workers, if the backend wants them, for several runs."""

    federation: FederationSettings
    resources: Resources
    interrupts: Interrupts = field(default_factory=Interrupts)
    grid: Grid | None = None
    """Grid of the clients, if not the one this engine would create; then it starts no Ray."""
    watch: Callable[[int], AbstractContextManager[object]] = nullcontext
    """Context of a client's turn, given its number, where this process plays the clients."""
    _pool: WorkerPool | None = None
    _executor: Executor = field(default_factory=LocalExecutor)
    _session: RaySession | None = None

    def __enter__(self) -> Engine:
        check_room_for_a_run()
        self._threads = torch.get_num_threads()
        settle_arithmetic(self.resources.threads)
        if self.federation.backend == "ray" and self.grid is None:
            try:
                self._start_ray()
            except BaseException:
                self._stop()
                raise
        return self

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, tb: TracebackType | None) -> None:
        self._stop()

    def _stop(self) -> None:
        torch.set_num_threads(self._threads)
        if self._session is not None:
            self._session.__exit__()

    def _start_ray(self) -> None:
        self._session = RaySession(self.resources.ray_address).__enter__()
        self.interrupts.insist()
        resources, clients = self.resources, self._num_workers()
        chains, pool = resources.synthesis_workers, None
        if self._on_gpu() or chains > clients:
            # No CPU of their own: client workers hold them all, and they rest while the server synthesises. On a GPU
            # they are made at once: what they need is theirs before clients divide up the rest.
            options = self._options(resources.synthesis_gpus, cpus=0.0)
            pool = ActorPool(ChainWorker, chains, options, at_once=self._on_gpu())
        self._pool = WorkerPool(clients, self._options(resources.client_gpus, cpus=resources.threads))
        self._executor = RayExecutor(pool or SharedPool(self._pool, chains))

    def _num_workers(self) -> int:
        import ray

        total: dict[str, float] = ray.cluster_resources()  # type: ignore[no-untyped-call]
        slots = total.get("CPU", 1.0) / self.resources.threads
        if self._on_gpu():
            slots = min(slots, gpu_slots(int(total.get("GPU", 0.0)), self.resources))
        return max(1, min(int(slots), self.federation.clients_per_round, self.resources.workers or 10**6))

    def _on_gpu(self) -> bool:
        return self.resources.torch_device().type == "cuda"

    def _options(self, gpus: float, cpus: float) -> dict[str, Any]:
        return {"num_cpus": cpus, "num_gpus": gpus if self._on_gpu() else 0.0}

    # A run ------------------------------------------------------------------------------------

    def run(self, context: RunContext, folder: Path, observer: Observer) -> None:
        """Play a run to its end, from the last checkpoint in its folder if there is one.

        Raises:
            ConfigError: clients are to be trained together that are not in this process.
            TrainingError: too many clients failed, a term was not finite, or memory ran out.
            StoreError: a file could not be written, or the checkpoints are another run's.
        """
        plan, grid = context.plan, self.grid or self._grid(context)
        if plan.federation.clients_per_call > 1 and not isinstance(grid, InProcessGrid):
            raise ConfigError("federation.clients_per_call: clients play elsewhere, each for itself; expected 1")
        checkpoints = Checkpoints(folder / "checkpoints", plan.decisive | {"seed": plan.seed})
        loop = Loop(
            grid=grid,
            context=context,
            clients_plan=self._as_told(plan, grid),
            executor=self._executor,
            observer=Observers(checkpoints.record, observer),
            checkpoints=checkpoints,
            interrupts=self.interrupts,
        )
        try:
            loop.run()
        except (MemoryError, RuntimeError) as error:
            problem = shortage(error)
            if problem is None:
                raise
            raise TrainingError(f"{problem}; the last checkpoint is good") from error

    def _grid(self, context: RunContext) -> LocalGrid:
        clients, timeout = context.plan.federation.clients, context.plan.federation.timeout
        if self._pool is None:
            sites = Sites(context.for_clients)
            grid = InProcessGrid(client_app(sites), clients, timeout, watch=self.watch)
            if (together := context.plan.federation.clients_per_call) > 1:
                grid.window, sites.companions = together, grid.companions
            return grid
        return RayGrid(self._pool, clients, timeout)

    def _as_told(self, plan: Plan, grid: Grid) -> Plan:
        """The plan for clients. Ray shows a worker only the GPUs it gave it, and counts them from 0."""
        device = plan.resources.torch_device().type if isinstance(grid, RayGrid) else plan.resources.device
        return replace(plan, resources=replace(plan.resources, device=device))


def gpu_slots(gpus: int, resources: Resources) -> int:
    """Return the number of clients that fit beside the synthesis workers, no client across two GPUs.

    Raises:
        ConfigError: not one.
    """
    if not resources.client_gpus:
        return 10**6
    left = [1.0] * gpus
    for _ in range(resources.synthesis_workers):
        room = next((i for i, free in enumerate(left) if free + 1e-9 >= resources.synthesis_gpus), None)
        if room is not None:
            left[room] -= resources.synthesis_gpus
    slots = sum(int((free + 1e-9) / resources.client_gpus) for free in left)
    if slots < 1:
        raise ConfigError(
            f"resources: {gpus} GPUs do not hold synthesis_workers x synthesis_gpus = {resources.synthesis_workers} x "
            f"{resources.synthesis_gpus:g} and one client of {resources.client_gpus:g}; lower one of them"
        )
    return slots
