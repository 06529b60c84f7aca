"""Server-side synthesis: chains of a synthesizer, run here or on Ray workers.

An executor asks its workers for one episode at a
time, so that progress can be shown, several chains advance together, and a chain can be saved, or
go on elsewhere if its worker dies.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import replace
from typing import Any, Literal, Protocol, cast

import torch
from torch import Tensor

from fcil.config import parse
from fcil.errors import ConfigError, FCILError, TrainingError
from fcil.federation.ray.pool import ActorPool, SharedPool, death
from fcil.federation.settings import settle_arithmetic
from fcil.federation.synthesis.jobs import Job, to_numpy
from fcil.synthesis import Synthesizer
from fcil.synthesis.common.state_codec import restore, values
from fcil.types import State, Tensors, Value

Tick = Callable[[int, dict[str, float]], None]
"""Called after each episode with the episodes that all chains have done, and the mean of each loss term."""


class Keeper(Protocol):
    """Saver of chains; `reached` returns the last state given to `keep`."""

    @property
    def due(self) -> bool:
        """Return whether now is a good time to save."""
        ...

    def keep(self, chain: int, episodes: int, state: State) -> None: ...

    def reached(self, chain: int) -> tuple[int, State] | None:
        """Episodes done and the state after them, if the chain was saved."""
        ...

    def lost(self, chain: int, reason: str) -> None:
        """The worker of a chain died; it goes on from where it was saved last."""


class ChainWorker:
    """Runs one chain at a time, an episode at each call."""

    def start(self, job: Job, reached: tuple[int, State] | None = None) -> int:
        """Begin a chain, or go on with one. Returns the episodes it has behind it."""
        settle_arithmetic(job.threads)
        self._problem = job.problem()
        self._synthesizer = parse(Synthesizer, job.synthesizer, job.where)
        self._state = self._synthesizer.start(self._problem, job.chain)
        self._number = 0
        if reached is not None:
            self._number, state = reached
            restore(self._state, state)
        return self._number

    def step(self) -> dict[str, float]:
        self._number += 1
        return self._synthesizer.episode(self._problem, self._state, self._number)

    def state(self) -> State:
        return cast(State, _on_cpu(values(self._state)))

    def result(self) -> dict[str, Any]:
        pool = to_numpy(self._synthesizer.pool(self._problem, self._state))
        del self._problem, self._state  # the worker waits for the next task; its nets need not
        return pool


class Executor(Protocol):
    def run(self, jobs: Sequence[Job], episodes: int, tick: Tick, keeper: Keeper) -> list[Tensors]:
        """The pool of each job, in order, on the CPU."""
        ...


class LocalExecutor:
    """One chain after the other in this process."""

    def run(self, jobs: Sequence[Job], episodes: int, tick: Tick, keeper: Keeper) -> list[Tensors]:
        pools = []
        for number, job in enumerate(jobs):
            worker = ChainWorker()
            for done in range(worker.start(job, keeper.reached(number)) + 1, episodes + 1):
                terms = worker.step()
                if keeper.due or done == episodes:
                    keeper.keep(number, done, worker.state())
                tick(number * episodes + done, terms)
            pools.append(_to_torch(worker.result()))
        return pools


class RayExecutor:
    """As many chains at once as there are actors in a pool, each on one of them.

    An actor outlives a synthesis and a run. One that dies is replaced, and its chain goes on from where it was
    saved last: the samples are the same.
    """

    PATIENCE = 300.0
    """Seconds until the first worker must have started."""
    DEATHS = 3
    """Workers that a chain may lose without getting further."""

    def __init__(self, pool: ActorPool | SharedPool) -> None:
        """`pool`: of actors whose class is `ChainWorker`, or a further one of it."""
        self._pool = pool

    def run(self, jobs: Sequence[Job], episodes: int, tick: Tick, keeper: Keeper) -> list[Tensors]:
        # Ray shows a worker only the GPUs it gave it, and counts them from 0.
        chains = [
            _RayChain(number, replace(job, device=torch.device(job.device).type), episodes, keeper)
            for number, job in enumerate(jobs)
        ]
        waiting, active = list(chains), dict[Any, _RayChain]()
        try:
            self._play(waiting, active, chains, tick, keeper)
        except BaseException:
            for chain in chains:
                if chain.actor is not None:
                    self._pool.drop(chain.actor)  # its result is no longer needed
            raise
        return [chain.pool or {} for chain in chains]

    def _play(
        self,
        waiting: list[_RayChain],
        active: dict[Any, _RayChain],
        chains: list[_RayChain],
        tick: Tick,
        keeper: Keeper,
    ) -> None:
        while waiting or active:
            while waiting and (actor := self._pool.take()) is not None:
                chain = waiting.pop(0)
                active[chain.begin(actor)] = chain
            reference = self._next(active)
            chain = active.pop(reference)
            try:
                terms = chain.collect(reference)
            except WorkerDied as error:
                chain.actor = None
                self._pool.replace()
                keeper.lost(chain.number, str(error))
                chain.bereaved(self.DEATHS, error)
                waiting.insert(0, chain)
                continue
            if chain.pool is None:
                active[chain.next()] = chain
            else:
                self._pool.give_back(chain.actor)
                chain.actor = None
            if terms is not None:
                tick(sum(c.done for c in chains), terms)

    def _next(self, active: dict[Any, _RayChain]) -> Any:
        """Return the next call that has ended.

        Raises:
            ConfigError: a worker could not even start.
        """
        import ray

        began = time.monotonic()
        while True:
            # Half a second: longer waits in Ray would keep signals waiting.
            done, _ = ray.wait(list(active), num_returns=1, timeout=0.5)
            if done:
                return done[0]
            if time.monotonic() > began + self.PATIENCE and all(c.doing == "start" for c in active.values()):
                raise ConfigError(
                    f"resources: no synthesis worker started within {self.PATIENCE:g} seconds; "
                    "lower synthesis_gpus, synthesis_workers or client_gpus"
                )


class WorkerDied(Exception):  # noqa: N818 (told of, not raised to users)
    """End of a synthesis worker during a call."""


class _RayChain:
    """A chain and the worker it is on: start, then episodes with a state saved now and then, then the pool."""

    def __init__(self, number: int, job: Job, episodes: int, keeper: Keeper) -> None:
        self.number, self.episodes, self.done = number, episodes, 0
        self.actor: Any = None
        self.pool: Tensors | None = None
        self.doing: Literal["start", "step", "state", "result"] = "start"
        self._job, self._keeper = job, keeper
        self._furthest, self._deaths = 0, 0

    def begin(self, actor: Any) -> Any:
        self.actor, self.doing = actor, "start"
        return actor.start.remote(self._job, self._keeper.reached(self.number))

    def next(self) -> Any:
        """Return the next task of the worker."""
        last = self.done == self.episodes
        if self.doing == "step" and (last or self._keeper.due):
            self.doing = "state"
        else:
            self.doing = "result" if last else "step"
        return getattr(self.actor, self.doing).remote()

    def collect(self, reference: Any) -> dict[str, float] | None:
        """Take in what the worker answered; the loss terms if it was an episode."""
        answer = _get(reference)
        match self.doing:
            case "start":
                self.done = answer
            case "step":
                self.done += 1
                if self.done > self._furthest:
                    self._furthest, self._deaths = self.done, 0
                return cast(dict[str, float], answer)
            case "state":
                self._keeper.keep(self.number, self.done, answer)
            case "result":
                self.pool = _to_torch(answer)
        return None

    def bereaved(self, most: int, error: WorkerDied) -> None:
        self._deaths += 1
        if self._deaths > most:
            raise TrainingError(f"synthesis: {error}, {self._deaths} times over")


def _get(reference: Any) -> Any:
    """Return the answer of a worker; an error it raised on purpose is raised as it was."""
    import ray

    try:
        return ray.get(reference)
    except ray.exceptions.RayTaskError as error:
        if isinstance(error.cause, FCILError):
            raise error.cause from None
        raise
    except ray.exceptions.RayError as error:
        raise WorkerDied(f"a synthesis worker died ({death(error)})") from None


def _on_cpu(value: Value) -> Value:
    if isinstance(value, Tensor):
        return value.cpu()
    return {k: _on_cpu(v) for k, v in value.items()} if isinstance(value, Mapping) else value


def _to_torch(arrays: dict[str, Any]) -> Tensors:
    return {name: torch.tensor(a) for name, a in arrays.items()}
