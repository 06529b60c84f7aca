"""Progress display: live bars on a terminal, plain lines elsewhere.

The tables printed before and after a run are in `fcil.console.tables`, and are given here too.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from typing import Any, Self

from rich.console import Console, Group, RenderableType
from rich.live import Live
from rich.progress import BarColumn, DownloadColumn, MofNCompleteColumn, TextColumn, TimeRemainingColumn
from rich.progress import Progress as Bars
from rich.progress_bar import ProgressBar
from rich.table import Table
from rich.text import Text

from fcil.console.eta import Clock, TimeLeft
from fcil.console.tables import accuracy_table, duration, metrics_table, partition_table, percent, settings_tree, size
from fcil.federation.observer import Observer
from fcil.metrics import AccuracyRow
from fcil.types import Task

__all__ = [
    "LiveProgress",
    "PlainProgress",
    "Progress",
    "accuracy_table",
    "choose_progress",
    "loading_bar",
    "metrics_table",
    "partition_table",
    "settings_tree",
]

PAUSE = 2.0
"""Least seconds between two plain lines that tell of the same task."""


class Progress(Observer):
    """Follows a run; a context, so that a terminal is left in order whatever happens.

    Attributes say where the run stands: `task`, `round` and `answered` clients of `clients`, the mean
    loss `terms` last heard of, the last `accuracy`, and `episodes` (done, total) while it synthesises.
    """

    def __init__(self, console: Console, clock: Clock = time.monotonic) -> None:
        self.console, self.clock = console, clock
        self.tasks = self.rounds = self.clients = 0
        self.task = self.round = self.answered = 0
        self.terms: dict[str, float] = {}
        self.accuracy: float | None = None
        self.episodes: tuple[int, int] | None = None
        self.left = TimeLeft(1, 1, clock=clock)
        self._task_began = clock()

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()

    def close(self) -> None:
        """Restore the terminal."""

    def run_started(self, *, tasks: int, rounds: int, clients: int, finished_rounds: int) -> None:
        self.tasks, self.rounds, self.clients = tasks, rounds, clients
        self.left = TimeLeft(tasks, rounds, finished_rounds, self.clock)
        if finished_rounds:
            self.line(f"resumed after {finished_rounds} of {tasks * rounds} rounds")

    def task_started(self, task: Task) -> None:
        self.task, self.round, self.episodes, self._task_began = task.number, 0, None, self.clock()

    def round_started(self, task: int, round: int, clients: Sequence[int]) -> None:
        self.task, self.round, self.clients, self.answered, self.episodes = task, round, len(clients), 0, None
        self.left.round_started()

    def client_done(self, task: int, round: int, client: int, metrics: dict[str, float]) -> None:
        self.answered += 1
        terms = {k.removeprefix("terms/"): v for k, v in metrics.items() if k.startswith("terms/")}
        self.terms = terms or self.terms

    def round_done(self, record: dict[str, Any]) -> None:
        self.left.round_done()
        self.terms = record.get("terms") or self.terms
        if record.get("accuracy") is not None:
            self.accuracy = record["accuracy"]

    def synthesis_progress(self, task: int, done: int, total: int, terms: dict[str, float]) -> None:
        self.episodes = done, total
        self.left.episode_done(done, total)

    def task_done(self, task: Task, rows: Sequence[AccuracyRow]) -> None:
        self.left.task_done()
        self.episodes = None
        self.accuracy = sum(r.correct for r in rows) / max(sum(r.examples for r in rows), 1)
        each = ", ".join(f"{100 * r.accuracy:.1f}" for r in rows)
        spent = duration(self.clock() - self._task_began)
        self.line(
            f"[TASK {task.number}/{task.total}] done: accuracy {percent(self.accuracy)} (by task: {each}), {spent}"
        )

    def note(self, text: str) -> None:
        self.line(text.partition("\n")[0])  # the rest, a traceback say, is in the log

    def run_done(self, seconds: float, phases: dict[str, float]) -> None:
        self.close()
        self.line(f"done in {duration(seconds)}")

    def line(self, text: str) -> None:
        """Print a line that stays."""
        self.console.print(Text(text), soft_wrap=True, highlight=False)

    def loss(self) -> str:
        """`loss 0.42 (ce 0.3, kd 0.12)`."""
        parts = ", ".join(f"{name} {value:.3g}" for name, value in self.terms.items())
        total = f"loss {sum(self.terms.values()):.3g}" if self.terms else ""
        return f"{total} ({parts})" if len(self.terms) > 1 else total

    def forecast(self) -> str:
        seconds = self.left.seconds()
        return "" if seconds is None else f"{duration(seconds)} left"


class PlainProgress(Progress):
    """Lines that a log file can hold; at most one in two seconds, the ends of tasks aside."""

    def __init__(self, console: Console, clock: Clock = time.monotonic) -> None:
        super().__init__(console, clock)
        self._spoke = -PAUSE

    def round_done(self, record: dict[str, Any]) -> None:
        super().round_done(record)
        tested = f"accuracy {record['accuracy']:.3g}" if record.get("accuracy") is not None else ""
        self._say(f"[ROUND {self.round}/{self.rounds}]", self.loss(), tested)

    def synthesis_progress(self, task: int, done: int, total: int, terms: dict[str, float]) -> None:
        super().synthesis_progress(task, done, total, terms)
        self._say(f"[SYNTHESIS {done}/{total}]", ", ".join(f"{k} {v:.3g}" for k, v in terms.items()))

    def _say(self, place: str, *facts: str) -> None:
        if self.clock() - self._spoke < PAUSE:
            return
        self._spoke = self.clock()
        told = " · ".join(fact for fact in (*facts, self.forecast()) if fact)
        self.line(f"[TASK {self.task}/{self.tasks}] {place} {told}")


class LiveProgress(Progress):
    """Two bars that move: the run, and the round or synthesis under way. A line stays for each task."""

    def __init__(self, console: Console, clock: Clock = time.monotonic) -> None:
        super().__init__(console, clock)
        self._live = Live(self, console=console, refresh_per_second=8, transient=True)

    def run_started(self, *, tasks: int, rounds: int, clients: int, finished_rounds: int) -> None:
        super().run_started(tasks=tasks, rounds=rounds, clients=clients, finished_rounds=finished_rounds)
        self._live.start()

    def close(self) -> None:
        self._live.stop()

    def __rich__(self) -> RenderableType:
        place = [f"task {self.task}/{self.tasks}", f"round {self.round}/{self.rounds}"]
        bars = Table.grid(padding=(0, 1), expand=True)
        bars.add_column(min_width=len("synthesis"))
        bars.add_column(ratio=1)
        bars.add_column(no_wrap=True)
        rounds = self.tasks * self.rounds
        bars.add_row("run", _bar(self.left.done, rounds), f"{self.left.done}/{rounds} rounds  {self.forecast()}")
        if self.episodes:
            done, total = self.episodes
            place[1] = "synthesis"
            bars.add_row("synthesis", _bar(done, total), f"{done}/{total} episodes")
        else:
            place.append(f"client {self.answered}/{self.clients}")
            bars.add_row("round", _bar(self.answered, self.clients), f"{self.answered}/{self.clients} clients")
        known = "" if self.accuracy is None else f"accuracy {percent(self.accuracy)}"
        facts = "  ·  ".join(fact for fact in (known, self.loss()) if fact)
        head = Text.assemble((" · ".join(place), "bold"), "   ", (facts, "cyan"), overflow="ellipsis", no_wrap=True)
        return Group(head, bars)


def _bar(done: int, total: int) -> ProgressBar:
    return ProgressBar(total=max(total, 1), completed=done, complete_style="blue", finished_style="blue")


def redraws(console: Console) -> bool:
    """Return whether there is a terminal to redraw; a pipe, a log file or a notebook gets lines."""
    return console.is_interactive and not console.is_jupyter and console.file.isatty()


def choose_progress(console: Console) -> Progress:
    """Bars where there is a terminal to redraw, lines elsewhere."""
    return LiveProgress(console) if redraws(console) else PlainProgress(console)


@contextmanager
def loading_bar(console: Console, *, of_bytes: bool = False) -> Iterator[Callable[[str, int, int], None]]:
    """Shows how far loading is: the value is to be called with what is loaded, how much is done, and of how much."""
    if not (console.is_interactive and console.file.isatty()):
        yield _plain_loading(console, size if of_bytes else str)
        return
    amount = DownloadColumn() if of_bytes else MofNCompleteColumn()
    columns = TextColumn("{task.description}", markup=False), BarColumn(), amount, TimeRemainingColumn()
    with Bars(*columns, console=console, transient=True) as bars:
        known: dict[str, Any] = {}

        def show(description: str, done: int, total: int) -> None:
            if description not in known:
                known[description] = bars.add_task(description, total=total)
            bars.update(known[description], completed=done, total=total)

        yield show


def _plain_loading(
    console: Console, words: Callable[[int], str] = str, clock: Clock = time.monotonic
) -> Callable[[str, int, int], None]:
    spoke = clock()
    began: dict[str, tuple[float, int]] = {}

    def show(description: str, done: int, total: int) -> None:
        nonlocal spoke
        now = clock()
        since, first = began.setdefault(description, (now, done))
        if now - spoke >= PAUSE:
            spoke = now
            left = (now - since) / (done - first) * (total - done) if done > first else None
            forecast = "" if left is None else f", {duration(left)} left"
            text = f"{description}: {words(done)}/{words(total)}{forecast}"
            console.print(Text(text), soft_wrap=True, highlight=False)

    return show
