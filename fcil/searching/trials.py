"""Playing of trials: quietly, one run after the other or several at once; what fails is a result too."""

from __future__ import annotations

import io
from collections.abc import Iterator, Sequence
from contextlib import ExitStack, closing
from dataclasses import dataclass, field
from pathlib import Path
from types import TracebackType
from typing import Self

from rich.console import Console

from fcil.errors import ConfigError, EngineError, StoreError, TrainingError, printable
from fcil.federation.context import Datasets, RunContext
from fcil.federation.engine import Engine
from fcil.federation.plan import Plan
from fcil.federation.runtime.interrupts import Interrupts
from fcil.runs.parallel import how_many, jobs_asked_for, run_in_parallel
from fcil.runs.play import execute_in_worker, execute_run
from fcil.runs.preflight import named, preflight
from fcil.runs.sequential import Engines, SequentialContext, free_runs, run_sequentially
from fcil.searching.live import SearchProgress
from fcil.searching.plans import Search
from fcil.searching.samplers import Result, Trial
from fcil.store import RunFolder, files, load_run


@dataclass
class Player:
    """Plays trials of a search; a context, which holds engines and data for all of them."""

    search: Search
    out: Path
    console: Console
    jobs: int | None
    progress: SearchProgress
    failed: dict[Path, str] = field(default_factory=dict)
    """Reason of each failure that left no card in a folder of its run, by that folder below `out`."""

    def __post_init__(self) -> None:
        self._stack, self._datasets = ExitStack(), Datasets()
        self._quiet = Console(file=io.StringIO(), quiet=True)

    def __enter__(self) -> Self:
        self._interrupts = self._stack.enter_context(Interrupts(self.progress.line))
        self._engines = self._stack.enter_context(Engines(Engine, self._interrupts))
        self._stack.enter_context(self.progress)
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._datasets.forget()
        self._stack.__exit__(kind, error, trace)

    def play(self, trials: Sequence[Trial]) -> Iterator[Result]:
        """Yield the result of each trial; runs that are finished, or have failed before, are not played again.

        Raises:
            UserError: the data cannot be read.
            EngineError: nothing can be written, or Ray does not start.
        """
        plans = {trial.number: self._plans(trial) for trial in trials}
        ahead = {plan.folder: plan for found in plans.values() if isinstance(found, list) for plan in found}
        left = [plan for plan in ahead.values() if not self._known(plan)]
        with named(self.search.where):
            at_once = self.progress.at_once = how_many(left, jobs_asked_for(left, self.jobs))
        if at_once > 1:
            left = [plan for plan in left if self._playable(plan)]
            self.failed |= run_in_parallel(
                left, self._datasets, self.out, self.console, self._interrupts, at_once, execute_in_worker
            )
        for trial in trials:
            found = plans[trial.number]
            if isinstance(found, list):
                self._in_turn([plan for plan in found if not self._known(plan) and self._playable(plan)])
            result = self._result(trial, found)
            self.progress.told(result)
            yield result

    def standing(self, trial: Trial) -> tuple[list[Plan], Result | None]:
        """Return the runs of a trial, and its result if they are all over; nothing is played."""
        found = self._plans(trial)
        over = isinstance(found, str) or all(map(self._known, found))
        return [] if isinstance(found, str) else found, self._result(trial, found) if over else None

    def _plans(self, trial: Trial) -> list[Plan] | str:
        """Return the runs of a trial, or why there can be none."""
        try:
            return self.search.trial(trial)
        except ConfigError as error:
            return error.lines[0]

    def _known(self, plan: Plan) -> bool:
        """Return whether a run is over, one way or the other."""
        return RunFolder(self.out / plan.folder).finished or self._reason(plan) is not None

    def _reason(self, plan: Plan) -> str | None:
        """Return why a run failed, or None; it is tried again when its folder is deleted."""
        folder = RunFolder(self.out / plan.folder)
        if folder.finished:
            return None
        if folder.failure.is_file():
            try:
                return printable(str(files.read_json(folder.failure).get("error")))
            except StoreError as error:
                return str(error)
        return self.failed.get(plan.folder)

    def _playable(self, plan: Plan) -> bool:
        """Check the settings of a run against its data; what does not go together has failed."""
        try:
            saved = RunFolder(self.out / plan.folder).saved
            preflight([plan], self._datasets, self._quiet, self.search.where, lambda _: saved)
        except ConfigError as error:
            self.failed[plan.folder] = error.lines[0]
            return False
        return True

    def _in_turn(self, plans: Sequence[Plan]) -> None:
        if not plans:
            return
        with closing(free_runs(plans, self.out, self.console)) as turns:
            stage = SequentialContext(
                self.out, self._quiet, self.search.where, self._engines, self._datasets, self._play_one
            )
            self.failed |= run_sequentially(turns, stage, alone=False)

    def _play_one(self, engine: Engine, context: RunContext, path: Path, console: Console) -> None:
        """Play one run; settings that do not go together fail it, and a disk that is full ends the search."""
        try:
            execute_run(engine, context, path, console, self.progress)
        except ConfigError as error:
            raise TrainingError(error.lines[0]) from error
        except StoreError as error:
            raise EngineError(str(error)) from error

    def _result(self, trial: Trial, found: list[Plan] | str) -> Result:
        """Return what the runs of a trial have come to."""
        if isinstance(found, str):
            return Result(trial=trial, status="failed", reason=found)
        folders = tuple(str(plan.folder) for plan in found)
        reasons = [reason for plan in found if (reason := self._reason(plan)) is not None]
        runs = [load_run(self.out / f) for f in folders if RunFolder(self.out / f).finished]
        seconds = float(sum(run.summary.get("seconds") or 0.0 for run in runs))
        told = [self.search.settings.value(run.summary) for run in runs]
        values = [value for value in told if value is not None]
        if not reasons and len(values) < len(runs):
            reasons = [f"{self.search.settings.metric} is not defined by so few tasks"]
        if reasons:
            return Result(trial=trial, status="failed", seconds=seconds, reason=reasons[0], folders=folders)
        mean = sum(values) / len(values)
        return Result(trial=trial, status="finished", value=mean, seconds=seconds, folders=folders)
