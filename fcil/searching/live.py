"""Progress of a search: a line for each trial, and on a terminal one that moves, with the time left."""

from __future__ import annotations

import time
from collections.abc import Sequence
from typing import Any, Self

from rich.console import Console
from rich.live import Live
from rich.text import Text

from fcil.console.eta import Clock
from fcil.console.progress import redraws
from fcil.console.tables import duration
from fcil.errors import printable
from fcil.federation.observer import Observer
from fcil.searching.samplers import Result, best, expected_rounds, expected_runs
from fcil.searching.settings import SearchSettings


class SearchProgress(Observer):
    """Follows a search and the run that it plays; a context, so that a terminal is left in order whatever happens."""

    def __init__(self, console: Console, settings: SearchSettings, rounds: int, clock: Clock = time.monotonic) -> None:
        """
        Args:
            rounds: `federation.rounds` of the file.
        """
        self.console, self.settings, self.rounds, self.clock = console, settings, rounds, clock
        self.at_once = 1
        """Runs that are played at once."""
        self.results: list[Result] = []
        self.runs, self.work = expected_runs(settings, rounds), expected_rounds(settings, rounds)
        self._done, self._work = 0, 0.0  # runs of the trials that are over, and their rounds per task
        self._paced, self._seconds = 0.0, 0.0  # rounds of those that took a known time, and that time
        self._ended, self._since = 0.0, 0.0  # the same of runs whose trial is not over
        self._run = (0, 0, 0)  # rounds done of the run at hand, all of them, and rounds per task
        self._began: float | None = None
        self._live = Live(self, console=console, refresh_per_second=2, transient=True) if redraws(console) else None

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        self._stop()

    def line(self, text: str) -> None:
        """Print a line that stays."""
        self.console.print(Text(printable(text)), soft_wrap=True, highlight=False)

    def run_started(self, *, tasks: int, rounds: int, clients: int, finished_rounds: int) -> None:
        self._run, self._began = (finished_rounds, tasks * rounds, rounds), self.clock()
        if self._live is not None:
            self._live.start()

    def round_done(self, record: dict[str, Any]) -> None:
        self._run = self._run[0] + 1, *self._run[1:]

    def run_done(self, seconds: float, phases: dict[str, float]) -> None:
        self._ended, self._since = self._ended + self._run[2], self._since + seconds
        self._stop()

    def told(self, result: Result) -> None:
        """Take the result of a trial, and print it."""
        self._stop()
        self.results.append(result)
        work = len(result.folders) * (result.trial.rounds or self.rounds)
        self._done, self._work = self._done + len(result.folders), self._work + work
        self._ended = self._since = 0.0
        if result.value is not None:
            self._paced, self._seconds = self._paced + work, self._seconds + result.seconds
        rung = f", rung {result.trial.rung}" if self.settings.sampler == "halving" else ""
        values = ", ".join(f"{key} {shown(value)}" for key, value in result.trial.values.items())
        if result.value is None:
            said = f"{result.status}: {result.reason}"
        else:
            said = f"{self.settings.metric} {result.value:.4g} in {duration(result.seconds)}"
        known = " · ".join(part for part in (self._best(), self.forecast()) if part)
        self.line(f"trial {result.trial.number}{rung}: {values}: {said}" + (f" ({known})" if known else ""))

    def forecast(self) -> str:
        """Return the time left, by the pace so far; nothing before anything was seen to end."""
        done, spent = self._ended, self._since
        if self._began is not None and self._run[1]:
            done, spent = done + self._run[2] * self._run[0] / self._run[1], spent + self.clock() - self._began
        paced, seconds, left = self._paced + done, self._seconds + spent, None
        if self.work is not None and paced > 0:
            left = max(0.0, self.work - self._work - done) * seconds / paced
        if self.settings.hours is not None:
            limit = max(0.0, 3600 * self.settings.hours - sum(result.seconds for result in self.results) - spent)
            left = limit if left is None else min(left, limit)
        return f"{duration(left / self.at_once)} left" if left else ""

    def _best(self) -> str:
        ranked = best(self.results, maximises=self.settings.maximises)
        return f"best {ranked[0].value:.4g}, trial {ranked[0].trial.number}" if ranked else ""

    def _stop(self) -> None:
        self._run, self._began = (0, 0, 0), None
        if self._live is not None:
            self._live.stop()

    def __rich__(self) -> Text:
        number = f"run {self._done + 1}" + (f"/{self.runs}" if self.runs is not None else "")
        place = f"round {self._run[0]}/{self._run[1]}"
        return Text(" · ".join(part for part in ("search", number, place, self._best(), self.forecast()) if part))


def shown(value: Any) -> str:
    """Return a value of the space in a few characters."""
    if isinstance(value, float):
        return f"{value:g}"
    text = str(next(iter(value)) if isinstance(value, dict) and value else value)
    return text if len(text) <= 40 else f"{text[:37]}..."


def chosen(settings: SearchSettings, results: Sequence[Result]) -> str:
    """Return a line about the winner."""
    winner, trials = best(results, maximises=settings.maximises)[0], {result.trial.number for result in results}
    values = ", ".join(f"{key}={shown(value)}" for key, value in winner.trial.values.items())
    failed = {result.trial.number for result in results if result.status == "failed"}
    note = f", {len(failed)} of them failed" if failed else ""
    told = f"{values} ({settings.metric} {winner.value:.4g})"
    return f"chosen from {len(trials)} trials{note}: trial {winner.trial.number}, {told}"
