"""Synthesis service of strategies, run on the executor: saved, resumed and reported."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import Any

from torch import Tensor

from fcil.federation.checkpoint import Checkpoints, SavedChains
from fcil.federation.context import RunContext
from fcil.federation.executor import Executor
from fcil.federation.observer import Observer
from fcil.federation.runtime.interrupts import Interrupts
from fcil.federation.runtime.timing import Phases, timed
from fcil.federation.synthesis.jobs import Job, synthesis_problem
from fcil.nets import net_of
from fcil.rng import Key
from fcil.roles import Server, Teacher
from fcil.synthesis import Bound, Synthesizer
from fcil.synthesis.common.base import merge
from fcil.synthesis.common.pool import inputs_of
from fcil.types import State, Tensors


@dataclass
class Syntheses:
    """Runs the syntheses of a run, one after the other."""

    context: RunContext
    executor: Executor
    observer: Observer
    checkpoints: Checkpoints
    interrupts: Interrupts
    phases: Phases
    _failures: list[dict[str, Any]] = field(default_factory=list)  # workers that died, not yet reported
    _made: list[dict[str, int]] = field(default_factory=list)  # pools not yet reported
    _place: tuple[Key, ...] = ()
    _count: int = 0

    def begin(self, *place: Key) -> None:
        """A round, the beginning of a task, or its end when `place` is empty, is about to begin."""
        self._place, self._count = place, 0

    def told(self) -> list[dict[str, Any]]:
        """The workers that died since this was asked last."""
        failures, self._failures = self._failures, []
        return failures

    def made(self) -> dict[str, list[dict[str, int]]]:
        """Samples, classes and episodes of each pool that was made since this was asked last, for a record."""
        made, self._made = self._made, []
        return {"synthesis": made} if made else {}

    def inputs(self, pool: Tensors) -> Tensor:
        """Samples of a pool as nets take them."""
        dataset = self.context.scenario.dataset
        return inputs_of(pool, dataset.mean, dataset.std)

    def run(
        self,
        server: Server,
        synthesizer: Synthesizer,
        labels: Sequence[int],
        bound: Bound | None,
        teacher: Teacher | None,
    ) -> Tensors:
        """Run the chains of a synthesizer; the pool comes back on the server's device.

        Each call has random streams of its own: by task, and by place and number where there are several.
        """
        task = server.task.number
        several = (*self._place, self._count) if self._place or self._count else ()
        self._count += 1
        key = (server.seed, "synthesis", task, *several)
        plan, device = self.context.plan, self.context.device
        settings, net = plan.net, server.net
        if teacher is not None:
            settings, shape = teacher.settings, self.context.scenario.dataset.shape
            net = net_of(settings, teacher.weights, shape).to(device)
        problem = synthesizer.checked(synthesis_problem(self.context, net, labels, server.anchors, bound, key))
        threads = plan.resources.threads
        jobs = [Job.of(synthesizer, chain, settings, problem, threads) for chain in range(synthesizer.chains)]
        total = synthesizer.chains * synthesizer.episodes

        def tick(done: int, terms: dict[str, float]) -> None:
            self.observer.synthesis_progress(task, done, total, terms)

        keeper = _Keeper(self, self.checkpoints.chains("/".join(map(str, (task, *several)))))
        with timed(self.phases, "synthesis"):
            pools = self.executor.run(jobs, synthesizer.episodes, tick, keeper)
        pool = merge(pools)
        self.observer.synthesis_done(task, pool)
        classes, asked = len(set(pool["y"].tolist())), len(set(labels))
        self._made.append({"samples": len(pool["y"]), "classes": classes, "asked": asked, "episodes": total})
        return {name: t.to(device) for name, t in pool.items()}


class _Keeper:
    """Saves chains now and then, and at once when the run is to stop."""

    def __init__(self, home: Syntheses, saved: SavedChains) -> None:
        self._home, self._saved = home, saved

    @property
    def due(self) -> bool:
        return self._home.interrupts.requested or self._saved.due

    def keep(self, chain: int, episodes: int, state: State) -> None:
        with timed(self._home.phases, "checkpoint"):
            self._saved.keep(chain, episodes, state)
        self._home.interrupts.check()

    def reached(self, chain: int) -> tuple[int, State] | None:
        return self._saved.reached(chain)

    def lost(self, chain: int, reason: str) -> None:
        self._home._failures.append({"chain": chain, "kind": "died", "reason": reason, "outcome": "retried"})
        self._home.observer.note(f"synthesis, chain {chain}: {reason}; retried")
