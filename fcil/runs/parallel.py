"""Several runs of an experiment at once, each in a process of its own on Ray."""

from __future__ import annotations

import os
import time
from collections import deque
from collections.abc import Callable, Hashable, Iterable, Sequence
from contextlib import nullcontext
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Protocol

import psutil
from rich.console import Console

from fcil.console.runs_table import RunsTable
from fcil.errors import ConfigError
from fcil.federation.context import Datasets
from fcil.federation.plan import Plan
from fcil.federation.ray.runs import Machine, Outcome, Runners, check_devices
from fcil.federation.ray.session import RaySession
from fcil.federation.runtime.interrupts import GRACE, Interrupted, Interrupts
from fcil.federation.settings import Resources
from fcil.io.lock import claimed
from fcil.store import RunFolder

PAUSE = 1.0
"""Seconds between two looks at how far runs are."""
AFTERWARDS = 3.0
"""Seconds beyond `GRACE` in which runs that were asked to stop may save what was before the round they dropped."""
TRAINING = 1.5
"""Memory of a process that plays a run, in that of this one, which has loaded the data and rehearsed it."""
Entry = Callable[[str, Path, int], Outcome]
"""Plays a plan, as text, in the process it is called in. It knows the folder of all results by its inode."""


def jobs_asked_for(plans: Sequence[Plan], jobs: int | None) -> int | None:
    """Return `jobs`, given the backends of the runs: `inprocess` asks for this one process."""
    inprocess = any(plan.federation.backend == "inprocess" for plan in plans)
    return 1 if jobs is None and inprocess else jobs


def how_many(plans: Sequence[Plan], jobs: int | None) -> int:
    """Return how many runs to play at once.

    Args:
        jobs: what was asked for; None: as many as fit by cores, GPU shares and memory, unless one run after
            the other, its clients spread over workers, keeps more processes busy.
    Raises:
        ConfigError: runs cannot be played beside each other as they want it.
    """
    if jobs is not None and jobs < 1:
        raise ConfigError(f"--jobs {jobs} is not allowed; expected at least 1")
    if len(plans) < 2 or jobs == 1:
        return 1
    resources = _largest(plans)
    at_once = min(jobs or len(plans), len(plans))
    if jobs is None:
        with RaySession(resources.ray_address) if resources.ray_address else nullcontext():
            machine = Machine.found()
        at_once = min(at_once, machine.room(resources, TRAINING * psutil.Process().memory_info().rss))
        clients = max(plan.federation.clients_per_round for plan in plans)
        if at_once < min(machine.cpus / resources.threads, clients):
            return 1
    if at_once > 1:
        check_devices(plan.resources for plan in plans)
    return at_once


def _largest(plans: Sequence[Plan]) -> Resources:
    """Return the resources of each process, so that every run has what it asks for."""
    every = [plan.resources for plan in plans]
    return replace(
        every[0],
        threads=max(r.threads for r in every),
        client_gpus=max(r.client_gpus for r in every),
        synthesis_gpus=max(r.synthesis_gpus for r in every),
    )


def run_in_parallel(
    plans: Sequence[Plan],
    datasets: Datasets,
    out: Path,
    console: Console,
    interrupts: Interrupts,
    at_once: int,
    entry: Entry,
) -> dict[Path, str]:
    """Play plans beside each other.

    Returns:
        A line for each run that failed, by its folder below `out`.
    """
    resources = _largest(plans)
    board = RunsTable(plans, datasets, out, console, at_once)
    datasets.forget()  # the processes load their own
    with RaySession(resources.ray_address):
        interrupts.insist()
        runners = Runners(at_once, Machine.found().options(resources, at_once))
        with board:
            return ParallelScheduler(plans, out, board, runners, entry).play()


class Pool(Protocol):
    """Interface of `fcil.federation.ray.runs.Runners`."""

    @property
    def busy(self) -> int: ...
    @property
    def free(self) -> bool: ...
    def start(self, name: Hashable, play: Callable[..., Outcome], *arguments: object) -> None: ...
    def wait(self, seconds: float) -> Iterable[tuple[Hashable, Outcome]]: ...
    def stop(self) -> None: ...
    def close(self) -> None: ...


@dataclass
class ParallelScheduler:
    """Hands runs to processes until none is left."""

    plans: Sequence[Plan]
    out: Path
    board: RunsTable
    runners: Pool
    entry: Entry
    pause: float = PAUSE
    failed: dict[Path, str] = field(default_factory=dict)
    _elsewhere: list[Plan] = field(default_factory=list)  # other processes play them

    def play(self) -> dict[Path, str]:
        self._plans: dict[Hashable, Plan] = {plan.folder: plan for plan in self.plans}
        self._waiting = deque(self.plans)
        try:
            while self._waiting or self._elsewhere or self.runners.busy:
                self._start()
                self._collect(self.pause)
                self._look_elsewhere()
                self.board.look()
        except KeyboardInterrupt as error:  # which is what Ray makes of `Interrupted`
            self._stop()
            raise Interrupted from error
        finally:
            self.runners.close()
        return self.failed

    def _start(self) -> None:
        while self._waiting and self.runners.free:
            plan = self._waiting.popleft()
            path = (self.out / plan.folder).absolute()
            with claimed(path) as ours:
                finished = RunFolder(path).finished
            if finished:
                self.board.finish(plan)
            elif not ours:
                self._leave(plan)
            else:
                self.board.begin(plan)
                self.runners.start(plan.folder, self.entry, plan.to_json(), path, os.stat(self.out).st_ino)

    def _collect(self, seconds: float) -> None:
        if not self.runners.busy:
            time.sleep(seconds if self._elsewhere else 0.0)
        for name, outcome in self.runners.wait(seconds):
            plan = self._plans[name]
            match outcome.state:
                case "finished":
                    self.board.finish(plan)
                case "elsewhere":
                    self._leave(plan)
                case "interrupted":
                    self.board.interrupt(plan)
                    self.failed[plan.folder] = "its process was asked to stop"
                case "failed":
                    self.board.fail(plan, outcome.line)
                    self.failed[plan.folder] = outcome.line

    def _leave(self, plan: Plan) -> None:
        self.board.elsewhere(plan)
        self._elsewhere.append(plan)

    def _look_elsewhere(self) -> None:
        """See which runs of other processes have ended, and which are free because their process has."""
        for plan in list(self._elsewhere):
            path = self.out / plan.folder
            with claimed(path) as ours:
                if not ours:
                    continue
            self._elsewhere.remove(plan)
            if RunFolder(path).finished:
                self.board.finish(plan)
            else:
                self.board.again(plan)
                self._waiting.append(plan)

    def _stop(self) -> None:
        """Let the runs save and end."""
        self.board.line("stopping as soon as each run is saved; once more stops at once")
        self.runners.stop()
        deadline = time.monotonic() + GRACE + AFTERWARDS
        while self.runners.busy and time.monotonic() < deadline:
            self._collect(0.5)
