"""Estimated end of one run and of several."""

from __future__ import annotations

import heapq
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass

Clock = Callable[[], float]
"""Seconds since some moment; tests bring their own."""


class TimeLeft:
    """Predicts how long a run still takes, from the mean durations of what it has done so far.

    Rounds of the first task, rounds of later tasks (which replay) and the end of a task (synthesis,
    evaluation) take different times and are averaged apart. The end of the last task is not counted
    ahead: nothing is synthesised for a task that does not come.
    """

    def __init__(self, tasks: int, rounds: int, finished_rounds: int = 0, clock: Clock = time.monotonic) -> None:
        self.tasks, self.rounds, self.done = tasks, rounds, finished_rounds
        self._ended = finished_rounds // rounds
        self._clock = clock
        self._seen: dict[str, list[float]] = {"first": [], "later": [], "end": []}
        self._now: str | None = None
        self._since = clock()
        self._synthesis: tuple[float, float] | None = None  # of this task's synthesis: seconds in all, seconds left

    def round_started(self) -> None:
        self._begin("first" if self.done < self.rounds else "later")

    def round_done(self) -> None:
        self._finish()
        self.done += 1
        if self.done % self.rounds == 0:
            self._begin("end")

    def episode_done(self, done: int, total: int) -> None:
        each = (self._clock() - self._since) / max(done, 1)
        self._synthesis = each * total, each * (total - done)

    def task_done(self) -> None:
        self._finish()
        self._ended += 1

    def _begin(self, kind: str | None) -> None:
        self._now, self._since, self._synthesis = kind, self._clock(), None

    def _finish(self) -> None:
        if self._now is not None:
            self._seen[self._now].append(self._clock() - self._since)
        self._begin(None)

    def seconds(self) -> float | None:
        """Seconds left; None before the first round is over."""
        first, later, end = (sum(seen) / len(seen) if seen else None for seen in self._seen.values())
        some = first if first is not None else later
        if some is None:
            return None
        synthesis = self._synthesis[0] if self._synthesis else 0.0
        mean = {
            "first": first if first is not None else some,
            "later": later if later is not None else some,
            "end": end if end is not None else synthesis,
        }
        first_ahead = max(0, self.rounds - self.done)
        ahead = {
            "first": first_ahead,
            "later": self.tasks * self.rounds - self.done - first_ahead,
            "end": self.tasks - 1 - self._ended,
        }
        left = 0.0
        if self._now is not None:
            ahead[self._now] -= 1
            unspent = max(0.0, mean[self._now] - (self._clock() - self._since))
            left = self._synthesis[1] if self._synthesis else unspent
        return left + sum(max(0, count) * mean[kind] for kind, count in ahead.items())


@dataclass
class Pace:
    """Speed of a run, from its progress at the first look and its progress now."""

    total: int
    """Rounds, of all tasks."""
    clock: Clock = time.monotonic
    _first: tuple[float, int] | None = None
    _last: tuple[float, int] = (0.0, 0)

    def reached(self, done: int) -> None:
        """Tell how many rounds are done."""
        if self._first is None or done < self._first[1]:  # what lies behind its checkpoint is played again
            self._first = self._last = self.clock(), done
        elif done > self._last[1]:
            self._last = self.clock(), done

    def seconds_per_round(self) -> float | None:
        """Return the seconds per round; None before a round was seen to end."""
        if self._first is None or self._last[1] == self._first[1]:
            return None
        return (self._last[0] - self._first[0]) / (self._last[1] - self._first[1])

    def seconds(self) -> float | None:
        """Return the seconds left; None before a round was seen to end."""
        each = self.seconds_per_round()
        if each is None:
            return None
        return max(0.0, each * (self.total - self._last[1]) - (self.clock() - self._last[0]))


def seconds_for_all(playing: Sequence[float], waiting: Sequence[float], at_once: int) -> float:
    """Seconds until the last of some runs is done, each begun as soon as one of `at_once` places is free.

    Args:
        playing: seconds left of the runs that are played.
        waiting: seconds that each of the others takes, in their order.
    """
    free = sorted([*playing, *[0.0] * max(0, at_once - len(playing))])
    for seconds in waiting:
        heapq.heapreplace(free, free[0] + seconds)
    return max(free, default=0.0)
