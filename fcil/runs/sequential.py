"""One run after the other: whose turn it is, on which engine, and what is said of those that failed."""

from __future__ import annotations

import gc
import time
import traceback
from collections.abc import Callable, Generator, Iterable, Mapping, Sequence
from contextlib import ExitStack
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from rich.console import Console

from fcil.config import Where
from fcil.console.runs_table import labels
from fcil.errors import ConfigError, EngineError, FCILError, TrainingError, printable
from fcil.federation.context import Datasets, RunContext
from fcil.federation.engine import Engine
from fcil.federation.plan import Plan
from fcil.federation.runtime.interrupts import Interrupts
from fcil.federation.runtime.user_code import StrategyError
from fcil.io.lock import claimed
from fcil.runs.preflight import named
from fcil.store import RunFolder, RunRecorder

PAUSE = 1.0
"""Seconds between two looks at whether another process has let go of a run."""


def free_runs(plans: Sequence[Plan], out: Path, console: Console, pause: float = PAUSE) -> Generator[Plan]:
    """Plans that are this process's to play, each claimed until the next one is asked for.

    What another process plays is waited for when nothing else is left, and played here if that process dies.
    """
    waiting, told = list(plans), 0
    while waiting:
        taken = []
        for plan in waiting:
            path = out / plan.folder
            with claimed(path) as ours:
                if not ours:
                    taken.append(plan)
                elif RunFolder(path).finished:
                    console.print(f"{path} was finished by another process", markup=False, soft_wrap=True)
                else:
                    yield plan
        if taken and len(taken) == len(waiting):
            if len(taken) != told:
                told = len(taken)
                runs = f"{told} runs" if told > 1 else str(out / taken[0].folder)
                console.print(f"waiting for {runs}, which another process plays", markup=False, soft_wrap=True)
            time.sleep(pause)
        waiting = taken


PlayOne = Callable[[Engine, RunContext, Path, Console], None]
"""Plays one run, into its folder."""


class Engines:
    """The engine for the run at hand: kept for runs alike, another one for a run of another kind."""

    def __init__(self, open_engine: Callable[..., Engine], interrupts: Interrupts) -> None:
        self._open, self._interrupts = open_engine, interrupts
        self._stack = ExitStack()
        self._key: tuple[Any, ...] | None = None
        self._engine: Engine | None = None

    def __enter__(self) -> Engines:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()

    def of(self, plan: Plan) -> Engine:
        key = plan.federation.backend, plan.federation.clients_per_round, plan.resources
        if self._engine is None or key != self._key:
            self.close()
            self._key = key
            self._engine = self._stack.enter_context(self._open(plan.federation, plan.resources, self._interrupts))
        return self._engine

    def close(self) -> None:
        """Release the engine, and all that a run which failed has left in it."""
        self._engine = None
        self._stack.close()
        gc.collect()


@dataclass(frozen=True)
class SequentialContext:
    """Context of runs that are played one after the other."""

    out: Path
    console: Console
    where: Where
    engines: Engines
    datasets: Datasets
    play_one: PlayOne


def run_sequentially(plans: Iterable[Plan], stage: SequentialContext, *, alone: bool) -> dict[Path, str]:
    """Play plans one after the other; when one fails the others go on.

    Args:
        alone: there is but one, whose failure is raised as it is.
    Returns:
        A line for each run that failed, by its folder below the folder of all results.
    """
    failed = {}
    for plan in plans:
        path = stage.out / plan.folder
        try:
            with named(stage.where):
                stage.play_one(stage.engines.of(plan), stage.datasets.open(plan), path, stage.console)
        except Exception as error:
            if isinstance(error, StrategyError):  # its traceback goes to the log, and not to the terminal
                note_failure(path, error)
            if alone or isinstance(error, ConfigError | EngineError):
                raise
            failed[plan.folder] = str(error) if isinstance(error, StrategyError) else note_failure(path, error)
        if plan.folder in failed:
            stage.console.print(f"{path} failed: {failed[plan.folder]}", markup=False, soft_wrap=True)
            stage.datasets.forget()
            stage.engines.close()
    return failed


def note_failure(path: Path, error: Exception) -> str:
    """One line about a run that failed; what is our mistake, or a strategy's, leaves its traceback in the log."""
    line = str(error) if isinstance(error, FCILError) else printable(f"{type(error).__name__}: {error}")
    told = isinstance(error, FCILError) and error.__cause__ is None
    details = "" if told else f"\n{''.join(traceback.format_exception(error))}"
    RunRecorder(RunFolder(path)).note(f"failed: {line}{details}")
    return line


def report_failures(failed: Mapping[Path, str], plans: Sequence[Plan], out: Path, console: Console) -> None:
    """Say what failed, and how to go on.

    Raises:
        TrainingError: something did.
    """
    if not failed:
        return
    names = labels(plans, out)
    for folder, line in failed.items():
        told = f"failed: {names[folder]}: {line} (log.txt has more; go on with: fcil resume {out / folder})"
        console.print(told, markup=False, soft_wrap=True)
    raise TrainingError(f"{len(failed)} of {len(plans)} runs failed; the others are finished")
