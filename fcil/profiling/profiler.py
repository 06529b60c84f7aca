"""Sampling of the process that plays runs, a profile for each of them.

pyinstrument does the sampling and draws the flame graph: a wheel of 140 kB without dependencies, released since 2014.
Its sampler is asked directly, not through its `Profiler`, which keeps every sample: here they are summed as they come,
so memory does not grow with the length of a run, and each is known to belong to a task and a client.

A sample is due every `INTERVAL` of the clock. What the process spent since the one before, in processor seconds of all
its threads, is ascribed to the functions at work then.
"""

from __future__ import annotations

import sys
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager, suppress
from dataclasses import replace
from pathlib import Path
from typing import Any, Self

import psutil
from rich.console import Console

from fcil.errors import ConfigError, StoreError
from fcil.federation.context import RunContext
from fcil.federation.engine import Engine
from fcil.federation.observer import Observer
from fcil.federation.runtime.interrupts import Interrupts
from fcil.federation.settings import FederationSettings, Resources
from fcil.metrics import AccuracyRow
from fcil.profiling.phases import OTHER, START, frame_of, phase_of
from fcil.profiling.profile import Key, Profile, Spent
from fcil.profiling.write import report, write
from fcil.store import RunFolder
from fcil.types import Task

INTERVAL = 0.002
"""Seconds of the clock between two samples."""
ALONE = "--profile: played in this process, one client after the other; the results are those of any other way"
PlayOne = Callable[[Engine, RunContext, Path, Console, Observer], None]
"""Plays one run, which tells the observer of what happens."""


def check_installed() -> None:
    """Check that pyinstrument is there.

    Raises:
        ConfigError: it is not.
    """
    try:
        import pyinstrument.stack_sampler  # noqa: F401
    except ImportError:
        raise ConfigError("--profile needs a package more; pip install 'fcil[profile]'") from None


def check_alone(profiler: Profiler | None, jobs: int | None) -> None:
    """Check that runs which are profiled are not to be played beside each other.

    Raises:
        ConfigError: they are.
    """
    if profiler is not None and jobs not in (None, 1):
        raise ConfigError(
            f"--jobs {jobs} is not allowed with --profile, which plays all runs in one process; leave it out"
        )


class Profiler:
    """Samples this process while it plays runs, and leaves a profile in the folder of each. A context.

    Args:
        whole_process: whether what the process did before counts as start of the first run: imports, most of all.
    Raises:
        ConfigError: pyinstrument is not installed.
    """

    def __init__(self, *, whole_process: bool = False) -> None:
        check_installed()
        self._last = Spent(time.process_time(), time.perf_counter())
        if whole_process:
            self._last = Spent(0.0, self._last.wall - (time.time() - psutil.Process().create_time()))
        self._profile = Profile()
        self._task = 0
        self._client: int | None = None
        self.played = 0
        """Runs that were profiled so far."""

    # Sampling ---------------------------------------------------------------------------------

    def __enter__(self) -> Self:
        self._add(START)
        self._subscribe()
        return self

    def __exit__(self, *_: object) -> None:
        self._sampler.unsubscribe(self._sample)

    def _subscribe(self) -> None:
        from pyinstrument.stack_sampler import get_stack_sampler

        self._sampler = get_stack_sampler()
        self._sampler.subscribe(
            self._sample, desired_interval=INTERVAL, use_timing_thread=True, use_async_context=False
        )

    def ensure_sampling(self) -> None:
        """Go on if something took the interpreter's hook: a profiler of the strategy, an error within a sample."""
        if sys.getprofile() is None:
            self._sampler.unsubscribe(self._sample)
            self._subscribe()

    def _sample(self, stack: Sequence[str], seconds: float, state: object) -> None:
        frames = tuple(map(frame_of, stack))
        phase, depth = phase_of(frames)
        self._profile.samples += 1
        self._add(phase, frames[depth:])

    def _add(self, phase: str, frames: tuple[Any, ...] = ()) -> None:
        now = Spent(time.process_time(), time.perf_counter())
        spent = Spent(now.processor - self._last.processor, now.wall - self._last.wall)
        self._last = now
        self._profile.add(Key(self._task, self._client, phase), spent, frames)

    # Runs -------------------------------------------------------------------------------------

    def engine(self, federation: FederationSettings, resources: Resources, interrupts: Interrupts) -> Engine:
        """Return an engine that plays the clients in this process, whatever the backend, and says whose turn it is."""
        return Engine(replace(federation, backend="inprocess"), resources, interrupts, watch=self._turn)

    @contextmanager
    def _turn(self, client: int) -> Iterator[None]:
        self._client = client
        try:
            yield
        finally:
            self._client = None

    def around(self, play_one: PlayOne) -> Callable[[Engine, RunContext, Path, Console], None]:
        """Return what plays a run and writes its profile, if it fails or is interrupted too."""

        def play(engine: Engine, context: RunContext, path: Path, console: Console) -> None:
            if not self.played:
                console.print(ALONE, markup=False, soft_wrap=True)
            self.played += 1
            try:
                play_one(engine, context, path, console, _Marks(self, self._profile))
            except BaseException:
                with suppress(OSError, StoreError):  # of a full disk, say: it is no reason to hide what happened
                    self._conclude(context, path)
                raise
            for part in report(self._conclude(context, path), context.plan):
                console.print(part, markup=False, soft_wrap=isinstance(part, str))
            console.print(f"{path}: profile.md, profile.html", markup=False, soft_wrap=True)

        return play

    def _conclude(self, context: RunContext, path: Path) -> Profile:
        self._add(OTHER)  # since the last sample
        profile, self._profile = self._profile, Profile()
        self._task, self._client = 0, None
        if RunFolder(path).begun:
            write(profile, context.plan, RunFolder(path))
        return profile

    def move(self, task: int) -> None:
        """Say which task is played from now on."""
        self._task = task


class _Marks(Observer):
    """Tells the profiler of a run where the run stands."""

    def __init__(self, profiler: Profiler, profile: Profile) -> None:
        self._profiler, self._profile = profiler, profile

    def run_started(self, *, tasks: int, rounds: int, clients: int, finished_rounds: int) -> None:
        self._profile.tasks = tasks
        self._profiler.move(min(finished_rounds // rounds + 1, tasks))

    def task_started(self, task: Task) -> None:
        self._profiler.move(task.number)

    def round_started(self, task: int, round: int, clients: Sequence[int]) -> None:
        self._profiler.ensure_sampling()
        self._profile.rounds.append((task, round))

    def client_done(self, task: int, round: int, client: int, metrics: dict[str, float]) -> None:
        self._profile.steps[client] += int(metrics.get("steps", 0))

    def task_done(self, task: Task, rows: Sequence[AccuracyRow]) -> None:
        self._profiler.move(task.number + 1)
