"""Progress of several runs at once: a table that is redrawn, or a line for each change of state.

Progress is read from the run folder, so it does not matter which process plays the run.
"""

from __future__ import annotations

import time
from collections.abc import Hashable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Self

from rich.console import Console, Group, RenderableType
from rich.live import Live
from rich.table import Table
from rich.text import Text

from fcil.console.eta import Clock, Pace, seconds_for_all
from fcil.console.progress import redraws
from fcil.console.tables import duration, percent, simple_table
from fcil.errors import StoreError
from fcil.federation.context import Datasets
from fcil.federation.plan import Plan
from fcil.store import Run, RunFolder
from fcil.store.files import read_json, read_last_rounds
from fcil.store.groups import group_runs

MOST_ROWS = 20
"""Runs that are shown at once."""


def labels(plans: Sequence[Plan], out: Path) -> dict[Path, str]:
    """A name for each run, by its folder: what tells it from the others, and its seed."""
    runs = [
        Run(
            path=out / plan.folder, name=plan.name, strategy=plan.strategy.name, variant=plan.variant, seed=plan.seed,
            config=plan.to_yaml(), rows=(), summary={},
        )
        for plan in plans
    ]  # fmt: skip
    groups = group_runs(runs)
    told = len({group.split for group in groups}) > 1
    return {
        run.path.relative_to(out): f"{group.label}{f' · {group.split}' if told else ''} · seed {run.seed}"
        for group in groups
        for run in group.runs
    }


@dataclass
class Row:
    """A run and how far it was seen to be."""

    label: str
    folder: RunFolder
    rounds: int
    """Rounds per task."""
    tasks: int
    pace: Pace
    state: str = "waiting"
    task: int = 1
    round: int = 0
    accuracy: float | None = None
    began: float | None = None
    seconds: float | None = None
    """Seconds it took, once it is finished."""

    def look(self) -> None:
        """Read how far it is."""
        try:
            records = read_last_rounds(self.folder.rounds)
        except StoreError:  # it is being written anew
            return
        if records:
            self.task, self.round = records[-1]["task"], records[-1]["round"]
            self.accuracy = next((a for r in records[::-1] if (a := r.get("accuracy")) is not None), self.accuracy)
        self.pace.reached((self.task - 1) * self.rounds + self.round)


class RunsTable:
    """Follows runs that are played at once; a context, so that a terminal is left in order whatever happens."""

    def __init__(
        self,
        plans: Sequence[Plan],
        datasets: Datasets,
        out: Path,
        console: Console,
        at_once: int,
        clock: Clock = time.monotonic,
    ) -> None:
        self.console, self.clock, self.at_once = console, clock, at_once
        names = labels(plans, out)
        self.rows: dict[Path, Row] = {}
        known: dict[Hashable, int] = {}  # tasks; to open data anew for each run would take long
        for plan in plans:
            key = plan.data, plan.federation.stop_after
            known[key] = tasks = known[key] if key in known else len(datasets.open(plan).tasks)
            rounds = plan.federation.rounds
            folder = RunFolder(out / plan.folder)
            self.rows[plan.folder] = Row(names[plan.folder], folder, rounds, tasks, Pace(tasks * rounds, clock))
        self._live = Live(self, console=console, refresh_per_second=2, transient=True) if redraws(console) else None

    def __enter__(self) -> Self:
        self.line(f"{len(self.rows)} runs, {self.at_once} at once")
        if self._live is not None:
            self._live.start()
        return self

    def __exit__(self, *_: object) -> None:
        if self._live is not None:
            self._live.stop()

    # What happens -----------------------------------------------------------------------------

    def begin(self, plan: Plan) -> None:
        row = self._enter(plan, "playing")
        row.began = self.clock()
        self._say(row, "goes on" if row.folder.begun else "begins")

    def finish(self, plan: Plan) -> None:
        row = self._enter(plan, "finished")
        row.seconds = None if row.began is None else self.clock() - row.began
        spent = f", {duration(row.seconds)}" if row.seconds is not None else " by another process"
        self._say(row, f"done: accuracy {percent(_final(row.folder))}{spent}")

    def fail(self, plan: Plan, line: str) -> None:
        self._say(self._enter(plan, "failed"), f"failed: {line}")

    def interrupt(self, plan: Plan) -> None:
        self._enter(plan, "interrupted")

    def elsewhere(self, plan: Plan) -> None:
        self._say(self._enter(plan, "elsewhere"), "is played by another process")

    def again(self, plan: Plan) -> None:
        self._say(self._enter(plan, "waiting"), "was given up by another process")

    def look(self) -> None:
        """See how far the runs are."""
        for row in self.rows.values():
            if row.state in ("playing", "elsewhere"):
                row.look()

    def line(self, text: str) -> None:
        """Print a line that stays."""
        self.console.print(Text(text), soft_wrap=True, highlight=False)

    def _enter(self, plan: Plan, state: str) -> Row:
        self.rows[plan.folder].state = state
        return self.rows[plan.folder]

    def _say(self, row: Row, what: str) -> None:
        ended = self._count("finished") + self._count("failed")
        self.line(f"[{ended}/{len(self.rows)}] {row.label} {what}{'' if self._live else self._left(' · ')}")

    def _count(self, state: str) -> int:
        return sum(row.state == state for row in self.rows.values())

    # How long ---------------------------------------------------------------------------------

    def seconds_left(self) -> float | None:
        """Return the seconds until all are done; None before anything is known."""
        paces = [row.pace.seconds_per_round() for row in self.rows.values()]
        known = [p for p in paces if p is not None]
        if not known:
            return None
        mean = sum(known) / len(known)
        playing = [row for row in self.rows.values() if row.state in ("playing", "elsewhere")]
        left = [s if (s := row.pace.seconds()) is not None else mean * row.pace.total for row in playing]
        waiting = [mean * row.pace.total for row in self.rows.values() if row.state == "waiting"]
        return seconds_for_all(left, waiting, self.at_once)

    def _left(self, before: str = "") -> str:
        seconds = self.seconds_left()
        return f"{before}about {duration(seconds)} left" if seconds else ""

    def __rich__(self) -> RenderableType:
        table = simple_table()
        table.add_column("run", overflow="ellipsis", no_wrap=True, ratio=1)
        for title in ("task", "round", "accuracy", "left"):
            table.add_column(title, justify="right", no_wrap=True)
        shown = [row for row in self.rows.values() if row.state in ("playing", "elsewhere")]
        for row in shown[:MOST_ROWS]:
            _add(table, row)
        counts = {name: self._count(name) for name in ("finished", "failed", "playing", "elsewhere", "waiting")}
        told = {name: n for name, n in counts.items() if n or name in ("finished", "waiting")}
        facts = [f"{n} {'in other processes' if name == 'elsewhere' else name}" for name, n in told.items()]
        return Group(table, Text(" · ".join([*facts, *filter(None, [self._left()])]), style="bold"))


def _add(table: Table, row: Row) -> None:
    seconds = row.pace.seconds()
    left = "" if seconds is None else duration(seconds)
    name = row.label if row.state == "playing" else f"{row.label} (another process)"
    place = f"{row.task}/{row.tasks}", f"{row.round}/{row.rounds}"
    table.add_row(Text(name), *place, percent(row.accuracy), left)


def _final(folder: RunFolder) -> float | None:
    try:
        summary: Mapping[str, Any] = read_json(folder.summary)
    except StoreError:
        return None
    value = summary.get("final_accuracy")
    return value if isinstance(value, float) else None
