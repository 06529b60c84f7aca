"""Server-side synthesis as jobs: chains of a synthesizer, run here or on Ray workers.

A job is values; a worker rebuilds nets from them. An executor asks its workers for one episode at a
time, so that progress can be shown and several chains advance together.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from typing import Any, Protocol

import torch
from torch import Tensor

from fcil.config import Where, dump, parse
from fcil.data import Augment
from fcil.errors import ConfigError, FCILError, TrainingError
from fcil.federation.plan import Plan, scenario_of
from fcil.federation.settings import settle_arithmetic
from fcil.nets import Net, NetSettings, build_net, frozen
from fcil.rng import Key
from fcil.synthesis import Bound, Inversion, Synthesizer
from fcil.types import Tensors

Tick = Callable[[dict[str, float]], None]
"""Called after each episode of any chain with the mean of each loss term."""


@dataclass(frozen=True)
class Job:
    """One chain of a synthesis, as values. Tensors are NumPy arrays, which Ray shares without a copy."""

    synthesizer: dict[str, Any]
    chain: int
    net: dict[str, Any]
    arrays: dict[str, dict[str, Any]]  # weights of the teacher; anchors, mean and std under "extra"
    num_classes: int
    text_width: int | None
    labels: tuple[int, ...]
    shape: tuple[int, ...]
    bound: dict[str, Any] | None
    augment: dict[str, Any]
    key: tuple[int | str, ...]
    precision: str
    device: str
    threads: int

    @classmethod
    def of(cls, synthesizer: Synthesizer, chain: int, net: NetSettings, problem: Inversion, threads: int) -> Job:
        extra = {"mean": problem.mean, "std": problem.std}
        if problem.anchors is not None:
            extra["anchors"] = problem.anchors
        head = problem.teacher.text_head
        return cls(
            synthesizer=dump(synthesizer),
            chain=chain,
            net=dump(net),
            arrays={"weights": _to_numpy(problem.teacher.weights()), "extra": _to_numpy(extra)},
            num_classes=problem.num_classes,
            text_width=None if head is None else head.out_features,
            labels=problem.labels,
            shape=problem.shape,
            bound=dump(problem.bound) if problem.bound is not None else None,
            augment=dump(problem.augment),
            key=problem.key,
            precision=problem.precision,
            device=str(problem.device),
            threads=threads,
        )

    def problem(self) -> Inversion:
        """The inversion on this worker's device."""
        device = torch.device(self.device)
        tensors = {k: {n: torch.tensor(a, device=device) for n, a in v.items()} for k, v in self.arrays.items()}
        teacher = build_net(
            parse(NetSettings, self.net, Where("job")),
            shape=self.shape,
            num_classes=self.num_classes,
            text_width=self.text_width,
            key=("teacher",),
        ).to(device)
        teacher.load(tensors["weights"])
        return Inversion(
            teacher=frozen(teacher),
            labels=self.labels,
            shape=self.shape,
            anchors=tensors["extra"].get("anchors"),
            bound=None if self.bound is None else parse(Bound, self.bound, Where("job")),
            mean=tensors["extra"]["mean"],
            std=tensors["extra"]["std"],
            augment=parse(Augment, self.augment, Where("job")),
            key=self.key,
            precision=self.precision,  # type: ignore[arg-type]
        )


def _to_numpy(tensors: Tensors) -> dict[str, Any]:
    return {name: t.detach().cpu().numpy() for name, t in tensors.items()}


def inversion(
    plan: Plan, net: Net, labels: Sequence[int], anchors: Tensor | None, bound: Bound | None, key: tuple[Key, ...]
) -> Inversion:
    """The problem of inverting `net` under a plan, on the net's device."""
    dataset, device = scenario_of(plan).dataset, net.classifier.weight.device
    return Inversion(
        teacher=frozen(net),
        labels=tuple(labels),
        shape=dataset.shape,
        anchors=None if anchors is None else anchors[: net.num_classes].to(device),
        bound=bound,
        mean=torch.tensor(dataset.mean, device=device),
        std=torch.tensor(dataset.std, device=device),
        augment=dataset.augment.synthetic,
        key=key,
        precision=plan.optimizer.precision,
    )


class ChainWorker:
    """Runs one chain at a time, an episode at each call."""

    def start(self, job: Job) -> None:
        settle_arithmetic(job.threads)
        self._problem = job.problem()
        self._synthesizer = parse(Synthesizer, job.synthesizer, Where("job"))
        self._state = self._synthesizer.start(self._problem, job.chain)
        self._number = 0

    def step(self) -> dict[str, float]:
        self._number += 1
        return self._synthesizer.episode(self._problem, self._state, self._number)

    def result(self) -> dict[str, Any]:
        pool = _to_numpy(self._synthesizer.pool(self._problem, self._state))
        del self._problem, self._state  # the worker waits for the next task; its nets need not
        return pool


class Executor(Protocol):
    def run(self, jobs: Sequence[Job], episodes: int, tick: Tick) -> list[Tensors]:
        """The pool of each job, in order, on the CPU."""
        ...


class LocalExecutor:
    """One chain after the other in this process."""

    def run(self, jobs: Sequence[Job], episodes: int, tick: Tick) -> list[Tensors]:
        pools = []
        for job in jobs:
            worker = ChainWorker()
            worker.start(job)
            for _ in range(episodes):
                tick(worker.step())
            pools.append(_to_torch(worker.result()))
        return pools


class RayExecutor:
    """Up to `workers` chains at once, each on a Ray actor.

    An actor is made when it is first needed, and outlives a synthesis and a run.
    """

    PATIENCE = 300.0
    """Seconds until the first worker must have started."""

    def __init__(self, workers: int, options: dict[str, Any]) -> None:
        import ray

        self._actor: Any = ray.remote(ChainWorker).options(**options)
        # On a GPU they are made at once: what they need is theirs before clients divide up the rest.
        at_once = workers if options["num_gpus"] else 0
        self._idle: list[Any] = [self._actor.remote() for _ in range(at_once)]
        self._unmade = workers - at_once

    def _take(self) -> Any:
        if self._idle:
            return self._idle.pop(0)
        self._unmade -= 1
        return self._actor.remote()

    def run(self, jobs: Sequence[Job], episodes: int, tick: Tick) -> list[Tensors]:

        # Ray shows a worker only the GPUs it gave it, and counts them from 0.
        waiting = [(n, replace(job, device=torch.device(job.device).type)) for n, job in enumerate(jobs)]
        pools: dict[int, Tensors] = {}
        active: dict[Any, tuple[int, Any, int]] = {}  # reference -> number of the job, its actor, episodes begun
        while waiting or active:
            while waiting and (self._idle or self._unmade):
                (number, job), actor = waiting.pop(0), self._take()
                active[actor.start.remote(job)] = (number, actor, 0)
            done = self._next(active)
            number, actor, begun = active.pop(done)
            terms = _get(done)
            if begun:
                tick(terms)
            if begun < episodes:
                active[actor.step.remote()] = (number, actor, begun + 1)
            else:
                pools[number] = _to_torch(_get(actor.result.remote()))
                self._idle.append(actor)
        return [pools[number] for number in range(len(jobs))]

    def _next(self, active: dict[Any, tuple[int, Any, int]]) -> Any:
        """The next call that has ended.

        Raises:
            ConfigError: a worker could not even start.
        """
        import ray

        while True:
            done, _ = ray.wait(list(active), num_returns=1, timeout=self.PATIENCE)
            if done:
                return done[0]
            if all(begun == 0 for _, _, begun in active.values()):
                raise ConfigError(
                    f"resources: no synthesis worker started within {self.PATIENCE:g} seconds; "
                    "lower synthesis_gpus, synthesis_workers or client_gpus"
                )


def _get(reference: Any) -> Any:
    """What a worker answered; an error it raised on purpose is raised as it was."""
    import ray

    try:
        return ray.get(reference)
    except ray.exceptions.RayTaskError as error:
        if isinstance(error.cause, FCILError):
            raise error.cause from None
        raise
    except ray.exceptions.RayActorError as error:
        why = str(error).strip().splitlines() or [""]
        raise TrainingError(f"a synthesis worker died: {type(error).__name__}: {why[0]}") from None


def _to_torch(arrays: dict[str, Any]) -> Tensors:
    return {name: torch.tensor(a) for name, a in arrays.items()}
