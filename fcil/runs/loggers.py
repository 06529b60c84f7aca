"""TensorBoard and Weights & Biases, for those who watch runs there: `logger: tensorboard` in an experiment.

They are shown what is in the run folder, by global round: accuracy, loss terms, bytes, seconds, and pictures of the
pool. Values are buffered until the next round starts. After a resume, the restart round is logged again from
`rounds.jsonl` and replaces its earlier entry, so no step appears twice.
"""

from __future__ import annotations

import math
import secrets
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from functools import partial
from importlib import import_module
from pathlib import Path
from typing import Any, Protocol

import numpy as np
import numpy.typing as npt
from PIL import Image

from fcil.config import dump
from fcil.errors import ConfigError
from fcil.federation.observer import Observer
from fcil.federation.plan import Logger, Plan
from fcil.io.atomic import write_text
from fcil.metrics import AccuracyRow
from fcil.store import RunFolder, files
from fcil.types import Task, Tensors

NEEDS: dict[str, str] = {"tensorboard": "torch.utils.tensorboard", "wandb": "wandb"}
"""Module of each logger."""
Pictures = Mapping[str, npt.NDArray[np.uint8]]  # name -> (H, W, 3)


class Writer(Protocol):
    """Writer behind a logger."""

    def write(self, step: int, scalars: Mapping[str, float], pictures: Pictures) -> None:
        """Write everything about one step, at once."""

    def close(self) -> None:
        """Close the writer."""


def check_logger(name: Logger | None) -> None:
    """Check that the package of a logger is there.

    Raises:
        ConfigError: it is not.
    """
    if name is None:
        return
    try:
        import_module(NEEDS[name])
    except ImportError:
        raise ConfigError(f"{name} needs a package more; pip install 'fcil[{name}]'") from None


@contextmanager
def logged(plan: Plan, folder: RunFolder) -> Iterator[Observer]:
    """The observer that a plan's logger wants; one that does nothing if there is none."""
    if plan.logger is None:
        yield Observer()
        return
    kinds: dict[Logger, Callable[[Plan, RunFolder, int], Writer]] = {"tensorboard": TensorBoard, "wandb": WandB}
    observer = Logged(folder, partial(kinds[plan.logger], plan, folder))
    try:
        yield observer
    finally:
        observer.close()


class Logged(Observer):
    """Tells a writer of a run, a step for each global round.

    Args:
        open_writer: of the first step that will be told; what was told of it and later ones counts no more.
    """

    def __init__(self, folder: RunFolder, open_writer: Callable[[int], Writer]) -> None:
        self._folder, self._open = folder, open_writer
        self._writer: Writer | None = None
        self._rounds = 1
        self._step = 0
        self._scalars: dict[str, float] = {}
        self._pictures: dict[str, Path] = {}

    def run_started(self, *, tasks: int, rounds: int, clients: int, finished_rounds: int) -> None:
        self._rounds, self._step = rounds, finished_rounds
        self._writer = self._open(finished_rounds)
        if finished_rounds:
            self._recall(finished_rounds)

    def _recall(self, step: int) -> None:
        """Read the last finished round from the record, to be logged: a process that died may not have logged it."""
        task, round = (step - 1) // self._rounds + 1, (step - 1) % self._rounds + 1
        for record in files.read_last_rounds(self._folder.rounds)[-1:]:
            self._scalars |= of_round(record)
            self._scalars |= of_end(record.get("after_task") or {})
            self._picture(f"task{task}-round{round}")
        rows = files.read_accuracy(self._folder.accuracy) if files.is_there(self._folder.accuracy) else []
        rows = [row for row in rows if row.trained_task == task]
        if round == self._rounds and rows:
            self._scalars |= of_task(rows)
            self._picture(f"task{task}")

    def round_started(self, task: int, round: int, clients: Sequence[int]) -> None:
        self._commit()
        self._step = (task - 1) * self._rounds + round

    def round_done(self, record: dict[str, Any]) -> None:
        self._scalars |= of_round(record)

    def synthesis_seen(self, task: int, round: int, samples: Tensors) -> None:
        self._picture(f"task{task}-round{round}")

    def synthesis_done(self, task: int, samples: Tensors) -> None:
        self._picture(f"task{task}")

    def _picture(self, name: str) -> None:
        """The picture that the recorder, which is told first, has made of the samples."""
        path = self._folder.synthetic / f"{name}.png"
        if path.is_file():
            self._pictures["synthetic"] = path

    def task_concluded(self, task: int, record: dict[str, Any]) -> None:
        self._scalars |= of_end(record)

    def task_done(self, task: Task, rows: Sequence[AccuracyRow]) -> None:
        self._scalars |= of_task(rows)

    def _commit(self) -> None:
        if self._writer is not None and (self._scalars or self._pictures):
            pictures = {name: np.asarray(Image.open(path).convert("RGB")) for name, path in self._pictures.items()}
            self._writer.write(self._step, self._scalars, pictures)
            self._scalars, self._pictures = {}, {}

    def close(self) -> None:
        """Log what is left, and close."""
        self._commit()
        if self._writer is not None:
            self._writer.close()
            self._writer = None


# What is told -------------------------------------------------------------------------------------


def of_round(record: Mapping[str, Any]) -> dict[str, float]:
    """The numbers of a line of `rounds.jsonl` by name."""
    found: dict[str, Any] = {"lr": record.get("lr"), "accuracy/seen": record.get("accuracy")}
    found |= {f"bytes/{way}": record.get(f"bytes_{way}") for way in ("up", "down")}
    found |= {"epsilon": record.get("epsilon"), "clients": len(record.get("clients") or ())}
    for group in ("terms", "seconds"):
        found |= {f"{group}/{name}": value for name, value in (record.get(group) or {}).items()}
    return _numbers(found)


def of_end(record: Mapping[str, Any]) -> dict[str, float]:
    """Return the costs of the end of a task beyond its rounds."""
    return _numbers({f"bytes/{way} after task": record.get(f"bytes_{way}") or None for way in ("up", "down")})


def of_task(rows: Sequence[AccuracyRow]) -> dict[str, float]:
    """Accuracy on each task, and over all classes seen."""
    seen = sum(r.correct for r in rows) / max(sum(r.examples for r in rows), 1)
    return {"accuracy/seen": seen} | {f"accuracy/task {r.tested_task}": r.accuracy for r in rows}


def _numbers(values: Mapping[str, Any]) -> dict[str, float]:
    return {k: float(v) for k, v in values.items() if isinstance(v, int | float) and math.isfinite(v)}


# Who is told --------------------------------------------------------------------------------------


class TensorBoard:
    """Event files in `tensorboard/` of the run folder; `tensorboard --logdir results` finds them all.

    torch's writer and not tensorboardX: torch is there anyway, and TensorBoard itself is all that must be installed.
    """

    def __init__(self, plan: Plan, folder: RunFolder, step: int) -> None:
        from torch.utils.tensorboard import SummaryWriter

        self._writer = SummaryWriter(str(folder.path / "tensorboard"), purge_step=step)

    def write(self, step: int, scalars: Mapping[str, float], pictures: Pictures) -> None:
        for name, value in scalars.items():
            self._writer.add_scalar(name, value, step)
        for name, picture in pictures.items():
            self._writer.add_image(name, picture, step, dataformats="HWC")
        self._writer.flush()  # before the next checkpoint: what comes after it is told again, what came before is not

    def close(self) -> None:
        self._writer.close()


class WandB:
    """A run in the project of the experiment's name. Its own process resumes it under the id in `wandb/id`."""

    def __init__(self, plan: Plan, folder: RunFolder, step: int) -> None:
        import wandb

        home = folder.path / "wandb"
        if not files.is_there(home / "id"):
            write_text(home / "id", secrets.token_hex(8))  # no result depends on it
        try:
            self._run = wandb.init(
                project=plan.name,
                group=plan.folder.parts[-2],
                name="/".join(plan.folder.parts[-2:]),
                id=files.read_text(home / "id"),
                resume="allow",
                dir=str(folder.path),
                config=dump(plan.to_yaml()),
            )
        except wandb.Error as error:
            raise ConfigError(f"logger: wandb does not start ({error}); WANDB_MODE=offline keeps it local") from None
        self._picture = wandb.Image

    def write(self, step: int, scalars: Mapping[str, float], pictures: Pictures) -> None:
        """W&B leaves out a step that it has; what is told again is the same."""
        shown = {name: self._picture(picture) for name, picture in pictures.items()}
        self._run.log({**scalars, **shown}, step=step)

    def close(self) -> None:
        self._run.finish()
