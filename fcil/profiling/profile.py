"""Seconds of the samples of a run, summed by task, client and phase."""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Callable, Hashable, Iterator
from dataclasses import dataclass, field
from typing import NamedTuple, TypeVar

from fcil.profiling.phases import MEANING, Frame

K = TypeVar("K", bound=Hashable)


class Key(NamedTuple):
    """What a sample belongs to."""

    task: int
    """From 1; 0 before the first one, and one more than there are after the last."""
    client: int | None
    """None: the server."""
    phase: str


class Spent(NamedTuple):
    """Seconds of the process and of the clock."""

    processor: float = 0.0
    """Of all threads of the process."""
    wall: float = 0.0

    def plus(self, other: Spent) -> Spent:
        return Spent(self.processor + other.processor, self.wall + other.wall)


@dataclass
class Profile:
    """The profile of what one process played of one run."""

    spent: dict[Key, Spent] = field(default_factory=lambda: defaultdict(Spent))
    stacks: dict[tuple[str, tuple[Frame, ...]], float] = field(default_factory=lambda: defaultdict(float))
    """Processor seconds of each phase and the frames below it."""
    steps: dict[int, int] = field(default_factory=lambda: defaultdict(int))
    """Steps that each client has told of."""
    rounds: list[tuple[int, int]] = field(default_factory=list)
    """Task and number of each round that was played."""
    tasks: int = 0
    """Tasks of the run."""
    samples: int = 0

    def add(self, key: Key, spent: Spent, frames: tuple[Frame, ...] = ()) -> None:
        self.spent[key] = self.spent[key].plus(spent)
        self.stacks[key.phase, frames] += spent.processor

    @property
    def total(self) -> Spent:
        return _sum(iter(self.spent.values()))

    def share(self, *phases: str) -> float:
        """Return the share of some phases in the processor seconds; 0 of nothing."""
        return self.seconds(*phases) / (self.total.processor or 1.0)

    def seconds(self, *phases: str) -> float:
        """Return the processor seconds of some phases."""
        return sum(spent.processor for key, spent in self.spent.items() if key.phase in phases)

    def by_phase(self) -> dict[str, Spent]:
        """Seconds of each phase that was seen, in the order of `MEANING`."""
        sums = self._by(lambda key: key.phase)
        return {phase: sums[phase] for phase in MEANING if phase in sums}

    def by_client(self) -> dict[int, Spent]:
        """Seconds of each client, by its number; without those of the server."""
        sums = self._by(lambda key: key.client)
        return {client: sums[client] for client in sorted(c for c in sums if c is not None)}

    def by_task(self) -> dict[int, Spent]:
        return dict(sorted(self._by(lambda key: key.task).items()))

    def greatest(self, task: int) -> str:
        """Return the phase that took most of a task."""
        phases: dict[str, float] = defaultdict(float)
        for key, spent in self.spent.items():
            phases[key.phase] += spent.processor if key.task == task else 0.0
        return max(phases, key=phases.__getitem__)

    def seconds_a_step(self) -> Spent | None:
        """Return the mean of all clients; None if none has told how many steps it took."""
        told = _sum(spent for client, spent in self.by_client().items() if self.steps.get(client))
        count = sum(self.steps.values())
        return Spent(told.processor / count, told.wall / count) if count else None

    def _by(self, kind: Callable[[Key], K]) -> dict[K, Spent]:
        sums: dict[K, Spent] = {}
        for key, spent in self.spent.items():
            sums[kind(key)] = sums.get(kind(key), Spent()).plus(spent)
        return sums


def _sum(parts: Iterator[Spent]) -> Spent:
    total = Spent()
    for part in parts:
        total = total.plus(part)
    return total
