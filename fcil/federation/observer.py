"""Interface of observers of a running federation: the run folder, the progress view, a test."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from fcil.metrics import AccuracyRow, Predictions

if TYPE_CHECKING:  # tables and figures read accuracies, and need not wait for torch
    from fcil.roles import Server
    from fcil.types import Task, Tensors


@dataclass(frozen=True)
class Restored:
    """Position a run goes on from: after `round` rounds of `task`, with what had been told by then."""

    task: int
    round: int
    rounds: list[dict[str, Any]] | None
    """The lines of `rounds.jsonl`; None if that is not known: an earlier version wrote the checkpoint."""
    rows: list[AccuracyRow]


class Observer:
    """Observer that is called on every event, in order, in the server's process. Every method does nothing here."""

    def restored(self, found: Restored) -> None:
        """Told before `run_started`, also of a run that begins."""

    def run_started(self, *, tasks: int, rounds: int, clients: int, finished_rounds: int) -> None:
        """`clients` take part in each of `rounds` rounds per task; `finished_rounds` came from a checkpoint."""

    def task_started(self, task: Task) -> None: ...

    def round_started(self, task: int, round: int, clients: Sequence[int]) -> None: ...

    def client_done(self, task: int, round: int, client: int, metrics: dict[str, float]) -> None:
        """A client's reply arrived; `metrics` holds its mean loss terms."""

    def round_done(self, record: dict[str, Any]) -> None:
        """The line of `rounds.jsonl`: task, round, terms, accuracy, bytes, seconds, clients, failures."""

    def synthesis_progress(self, task: int, done: int, total: int, terms: dict[str, float]) -> None:
        """`done` of `total` synthesis episodes of this task are finished."""

    def synthesis_done(self, task: int, samples: Tensors) -> None:
        """The pool of a task: `x` uint8 (N, channels, H, W) or float, `y` int64 (N,)."""

    def synthesis_seen(self, task: int, round: int, samples: Tensors) -> None:
        """A few samples of a pool that still changes, as they are in this round; `x` and `y` as above."""

    def task_predicted(self, task: Task, predictions: Predictions) -> None:
        """Take the prediction for each of the test samples whose accuracy `task_done` will tell."""

    def task_done(self, task: Task, rows: Sequence[AccuracyRow]) -> None:
        """Accuracy on the test images of every task seen so far, under one head over all classes seen."""

    def task_trained(self, server: Server) -> None:
        """Take the server as a task has left it; what is kept of it has to be copied."""

    def run_trained(self, server: Server) -> None:
        """Take the server as the last task has left it, also in a run that goes on after its last task."""

    def task_concluded(self, task: int, record: dict[str, Any]) -> None:
        """Take the costs of the end of a task beyond its rounds: bytes_up, bytes_down, failures."""

    def note(self, text: str) -> None:
        """A line for the log."""

    def run_done(self, seconds: float, phases: dict[str, float]) -> None:
        """`phases`: seconds spent on clients, aggregate, evaluate, synthesis, checkpoint and send."""


class Observers(Observer):
    """Passes everything on to several observers, in order."""

    def __init__(self, *observers: Observer) -> None:
        self.observers = observers


def _tell_all(name: str) -> Callable[..., None]:
    def tell(self: Observers, *args: Any, **kwargs: Any) -> None:
        for observer in self.observers:
            getattr(observer, name)(*args, **kwargs)

    return tell


for _event in [name for name in vars(Observer) if not name.startswith("_")]:
    setattr(Observers, _event, _tell_all(_event))
