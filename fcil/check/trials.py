"""Tiny federations that a strategy is tried in: digits or made series, a small net, two batches a round."""

from __future__ import annotations

import json
import random
import re
import sys
import traceback
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from copy import copy
from dataclasses import dataclass, field, replace
from functools import cached_property
from pathlib import Path
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray

from fcil.data import DataSettings, Scenario
from fcil.errors import TrainingError, printable
from fcil.federation.context import Datasets, RunContext
from fcil.federation.engine import Engine
from fcil.federation.messages.recording_grid import RecordedRequest, RecordingGrid, final_server
from fcil.federation.observer import Observer
from fcil.federation.persistence.manifest import last_blobs
from fcil.federation.plan import Plan, from_json
from fcil.federation.runtime.worker import Sites
from fcil.federation.settings import FederationSettings, Resources
from fcil.methods.loading import StrategySpec
from fcil.metrics import AccuracyRow
from fcil.nets import NetSettings
from fcil.rng import numpy_generator
from fcil.roles import Server


def plan_of(
    spec: StrategySpec, data: dict[str, Any] | None = None, *, series: Path | None = None, **federation: Any
) -> Plan:
    """Return a plan of two tasks of two classes, three clients, two rounds, unless changed; syntheses are short.

    Args:
        series: a file of `write_series`, to learn in place of digits.
    """
    settings = {"clients": 3, "rounds": 2, "local_epochs": 1, "batch_size": 16, "max_batches": 2, "stop_after": 2}
    return Plan(
        name="check",
        seed=0,
        data=(
            DataSettings(dataset="digits", **(data or {"tasks": 5}))
            if series is None
            else DataSettings(dataset="ts_folder", root=str(series), **(data or {"tasks": 3}))
        ),
        federation=FederationSettings(**{**settings, "backend": "inprocess", **federation}),
        net=NetSettings(name="resnet8" if series is None else "fcn1d", width=4),
        strategy=replace(spec, strategy=spec.strategy.smoke()),
        resources=Resources(device="cpu", workers=2),
    )


def write_series(path: Path) -> None:
    """Write six classes of series of two channels, sines of another pace each; two in three of them end early.

    There are 30 for training and 6 for tests of each class, of 8 to 16 steps, padded with NaN to the longest.
    """
    rng = numpy_generator("series of a check")
    arrays: dict[str, NDArray[Any]] = {}
    for split, each in (("train", 30), ("test", 6)):
        y = np.repeat(np.arange(6), each)
        angles = (y[:, None, None] + 1) * np.arange(16) / 3 + np.arange(2)[:, None]  # (series, channels, steps)
        x = np.sin(angles) + 0.1 * rng.standard_normal(angles.shape)
        ends = np.where(np.arange(len(y)) % 3, rng.integers(8, 16, len(y)), 16)
        x[np.broadcast_to(np.arange(16) >= ends[:, None, None], x.shape)] = np.nan
        arrays |= {f"x_{split}": x.astype(np.float32), f"y_{split}": y}
    np.savez(path, allow_pickle=False, **arrays)


@dataclass
class TrialRun:
    """Outcome of a run."""

    context: RunContext
    folder: Path
    records: dict[tuple[int, int], dict[str, Any]] = field(default_factory=dict)
    """Records by task and round, without timings; round 0 is the end of a task."""
    rows: dict[int, list[AccuracyRow]] = field(default_factory=dict)
    problem: str | None = None
    """Reason why the run did not end, and the place in the strategy's file."""
    touched: tuple[str, ...] = ()
    """The global random streams that the run drew from or seeded."""
    grid: RecordingGrid | None = None

    @property
    def parts(self) -> dict[str, str]:
        return last_blobs(self.folder / "checkpoints")

    def server(self) -> Server:
        return final_server(self.context, self.folder)

    def outcome(self) -> dict[str, Any]:
        """Return all that two equal runs have in common, as plain values."""
        records = {f"task {t}, round {r}" if r else f"the end of task {t}": v for (t, r), v in self.records.items()}
        rows = {str(task): [tuple(row) for row in rows] for task, rows in self.rows.items()}
        parts = {} if self.problem else self.parts
        plain: dict[str, Any] = json.loads(json.dumps([records, rows, parts, self.problem]))
        return dict(zip(("records", "rows", "parts", "problem"), plain, strict=True))


class Listener(Observer):
    """Collects what a run tells; raises at events that are to interrupt it."""

    def __init__(self, played: TrialRun, stops: set[tuple[str, int, int]] | None = None) -> None:
        self.played, self.stops, self.notes = played, stops, list[str]()

    def round_done(self, record: dict[str, Any]) -> None:
        place = record["task"], record["round"]
        self.played.records[place] = {k: v for k, v in record.items() if k != "seconds"}
        self._stop("round", *place)

    def task_concluded(self, task: int, record: dict[str, Any]) -> None:
        self.played.records[task, 0] = record

    def task_done(self, task: Any, rows: Sequence[AccuracyRow]) -> None:
        self.played.rows[task.number] = list(rows)
        self._stop("task", task.number, 0)

    def note(self, text: str) -> None:
        self.notes.append(text)

    def _stop(self, *event: Any) -> None:
        if self.stops is not None and event not in self.stops:
            self.stops.add(event)
            raise Stopped


class Stopped(Exception):  # noqa: N818 (not an error)
    """Interruption of a run on purpose."""


# Playing ------------------------------------------------------------------------------------------


class Trials:
    """Plays runs of one strategy in a folder, one after another in this process."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        self._datasets = Datasets()
        self._engine = Engine(FederationSettings(backend="inprocess"), Resources(device="cpu"))

    def __enter__(self) -> Trials:
        self._engine.__enter__()
        return self

    def __exit__(self, *reason: Any) -> None:
        self._engine.__exit__(*reason)

    def within(self, name: str) -> Trials:
        """Return the same stage with its runs in a folder of this one."""
        other = copy(self)
        other.folder = self.folder / name
        return other

    @cached_property
    def series(self) -> Path:
        """Return the file of the series that strategies are tried on."""
        self.folder.mkdir(parents=True, exist_ok=True)
        write_series(path := self.folder / "series.npz")
        return path

    def play(
        self,
        name: str,
        plan: Plan,
        *,
        deal: Callable[[Scenario], Scenario] = lambda scenario: scenario,
        seed: int = 1,
        backwards: bool = False,
        fails: Callable[[RecordedRequest], bool] = lambda asked: False,
    ) -> TrialRun:
        """Play a plan in the folder of this name.

        Args:
            deal: makes another scenario, of other holders or other test samples.
            seed: of the global random streams, which nothing should depend on.
            backwards, fails: of the grid, see `RecordingGrid`.
        """
        context = self._datasets.open(plan)
        played = TrialRun(replace(context, scenario=deal(context.scenario)), self.folder / name)
        return self._play_watched(played, Listener(played), seed, backwards=backwards, fails=fails)

    def play_on_ray(self, name: str, plan: Plan) -> TrialRun:
        """Play the same on Ray workers."""
        plan = replace(plan, federation=replace(plan.federation, backend="ray"))
        played = TrialRun(self._datasets.open(plan), self.folder / name)
        with Engine(plan.federation, plan.resources) as engine:
            return self._play(engine, played, Listener(played))

    def _play_watched(self, played: TrialRun, listener: Listener, seed: int = 1, **watch: Any) -> TrialRun:
        sites = Sites(played.context.for_clients)
        played.grid = RecordingGrid(sites, played.context.plan.federation.clients, **watch)
        self._engine.grid = played.grid
        return self._play(self._engine, played, listener, seed)

    def _play(self, engine: Engine, played: TrialRun, listener: Listener, seed: int = 1) -> TrialRun:
        try:
            with global_streams(seed) as touched:
                engine.run(played.context, played.folder, listener)
        except Stopped:
            raise
        except Exception as error:  # whatever a strategy raises is one line of the report
            played.problem = explain(error, str(played.context.plan.strategy.path), listener.notes)
        played.touched = tuple(touched)
        return played

    def play_apart(self, name: str, plan: Plan) -> TrialRun:
        """A run whose clients execute the strategy's file anew, as if they were in a process of their own."""
        with executed_anew(plan):
            return self.play(name, plan)

    def play_resumed(self, name: str, plan: Plan) -> TrialRun:
        """A run that is interrupted at the end of each round and task, and goes on as in a new process."""
        stops: set[tuple[str, int, int]] = set()
        whole = TrialRun(self._datasets.open(plan), self.folder / name)
        while True:
            with executed_anew(plan):
                context = self._datasets.open(from_json(plan.to_json()))
                played = TrialRun(context, whole.folder, whole.records, whole.rows)
                try:
                    return self._play_watched(played, Listener(played, stops))
                except Stopped:
                    continue


@contextmanager
def executed_anew(plan: Plan) -> Iterator[None]:
    """Give callers within the block that ask for the strategy of this plan another copy of its module."""
    name = type(plan.strategy.strategy).__module__
    module = sys.modules.pop(name)
    try:
        yield
    finally:
        sys.modules[name] = module


@contextmanager
def global_streams(seed: int) -> Iterator[list[str]]:
    """Seed the global random streams, tell which of them were touched, and leave them as they were."""
    touched: list[str] = []
    kept = random.getstate(), np.random.get_state(), torch.get_rng_state()
    random.seed(seed)
    np.random.seed(seed)
    torch.default_generator.manual_seed(seed)
    before = _streams()
    try:
        yield touched
    finally:
        after = _streams()
        touched += [name for name in before if before[name] != after[name]]
        random.setstate(kept[0])
        np.random.set_state(kept[1])
        torch.set_rng_state(kept[2])


def _streams() -> dict[str, Any]:
    numbers = np.random.get_state(legacy=False)
    return {"random": random.getstate(), "np.random": str(numbers), "torch": torch.get_rng_state().tolist()}


def explain(error: BaseException, path: str, notes: Sequence[str] = ()) -> str:
    """Describe an error in a line, with the last place in the strategy's own file that led to it."""
    first = (str(error).strip().splitlines() or [""])[0]
    line = printable(first if isinstance(error, TrainingError) else f"{type(error).__name__}: {first}")
    told = [note for note in notes if "Traceback" in note]  # of a client, on whose answer the server only waits
    if told and isinstance(error, TrainingError) and (cause := told[-1].splitlines()[0]).split(": ", 1)[-1] not in line:
        line = printable(f"{line}: {cause}")
    text = told[-1] if told and isinstance(error, TrainingError) else "".join(traceback.format_exception(error))
    places = [m for m in re.finditer(r'File "(.+?)", line (\d+), in (\S+)', text) if m[1] == path]
    if not places:
        return line
    return f"{re.sub(r' [(]in [a-z_]+[)]', '', line)} ({Path(path).name}:{places[-1][2]}, in {places[-1][3]})"
