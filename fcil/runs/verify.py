"""`fcil verify`: plays the first rounds of a recorded run again, and says whether this machine gives the same.

The verdict is one of three: `bit` (loss terms, accuracies, bytes and the net's weights are those of the record),
`close` (every number is within a tolerance, as under another number of threads or another torch), `different`.
Nothing is written to the folder of the run.
"""

from __future__ import annotations

import math
import os
from collections.abc import Iterator, Mapping, Sequence
from contextlib import suppress
from dataclasses import dataclass, replace
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any, Literal, NamedTuple

from rich.console import Console

from fcil.config import Where
from fcil.console.progress import choose_progress
from fcil.errors import StoreError
from fcil.federation.context import Datasets
from fcil.federation.engine import Engine
from fcil.federation.observer import Observer, Observers
from fcil.federation.persistence.smoke import MEANING, is_smoke
from fcil.federation.plan import Plan
from fcil.federation.runtime.interrupts import Interrupts
from fcil.runs.preflight import named, preflight
from fcil.runs.recorded_plan import load_plan
from fcil.store import RunFolder, files
from fcil.store.environment import environment

TOLERANCE = 1e-3
"""Tolerance of a loss term, as a share of it; of an accuracy, ten times as much in absolute terms."""
GROWN = 100
"""Factor by which later rounds may be further apart: rounding differences grow. Two threads instead of one
changed the loss of finetune on digits by 7e-9 of it in the first round, 0.2 % in the fourth and 5 % in the sixth."""
UNCOMPARED = ("seconds", "after_task", "failures")
"""Keys not compared: timings, what comes after a round, and what happened to processes."""
APART = ("started", "command", "resumed", "cpus", "commit", "modified", "user_repository")
"""Keys of `env.json` on which no number depends, or only through something that is named beside it."""
Verdict = Literal["bit", "close", "different"]
SAYING = {
    "bit": "this machine reproduces the record to the bit",
    "close": "this machine reproduces the record, but not to the bit",
    "different": "this machine does not reproduce the record",
}


class Difference(NamedTuple):
    """Difference between a recorded number and its value here."""

    task: int
    round: int
    key: str
    there: Any
    here: Any
    close: bool

    def line(self) -> str:
        gap = abs(self.there - self.here) if _are_numbers(self.there, self.here) else None
        apart = "" if gap is None else f" (apart by {gap:.2g})"
        return f"task {self.task}, round {self.round}: {self.key} {self.there} there, {self.here} here{apart}"


@dataclass(frozen=True)
class Verification:
    """Result of playing rounds again."""

    rounds: int
    differences: tuple[Difference, ...]
    circumstances: tuple[str, ...]
    """Circumstances that are not as they were when the run began: versions, threads, processor."""
    remarks: tuple[str, ...]
    """Limits of the comparison."""

    @property
    def verdict(self) -> Verdict:
        if not self.differences:
            return "bit"
        return "close" if all(d.close for d in self.differences) else "different"

    @property
    def reproduces(self) -> bool:
        return self.verdict != "different"

    def lines(self) -> Iterator[str]:
        """Return the result as lines for a reader."""
        yield from (d.line() for d in self.differences)
        yield from self.remarks
        if self.differences and self.circumstances:
            yield "what is not as it was: " + "; ".join(self.circumstances)
        elif self.differences:
            yield "versions, threads and processor are as they were"
        first = "round 1" if self.rounds == 1 else f"rounds 1 to {self.rounds}"
        yield f"{first}: {SAYING[self.verdict]}"

    def to_json(self) -> dict[str, Any]:
        return {
            "verdict": self.verdict,
            "reproduces": self.reproduces,
            "rounds": self.rounds,
            "differences": [d._asdict() for d in self.differences],
            "circumstances": list(self.circumstances),
            "remarks": list(self.remarks),
        }


class Enough(Exception):  # noqa: N818 (not an error)
    """End of the replay: as many rounds were played as were asked for."""


class _Rounds(Observer):
    """Collects the first rounds, and ends the run then."""

    def __init__(self, count: int) -> None:
        self.count, self.records = count, list[dict[str, Any]]()

    def round_done(self, record: dict[str, Any]) -> None:
        self.records.append(files.finite(record))
        if len(self.records) == self.count:
            raise Enough


def verify(
    path: Path | str,
    rounds: int = 1,
    *,
    trust: bool = False,
    tolerance: float = TOLERANCE,
    console: Console | None = None,
) -> Verification:
    """Play the first rounds of a run again, in a folder that is thrown away.

    Args:
        path: a run's folder, finished or not.
        trust: run the strategy.py and parts of the folder even if a file they were copied from is another now, or gone.
        tolerance: how far a loss term may be off in the first round that is another, as a share of it.
    Raises:
        StoreError: there is no run, no round in its record, fewer than asked for, or untrusted code.
        TrainingError: the rounds cannot be played here.
    """
    folder, console = RunFolder(os.path.realpath(path)), console or Console()
    plan = load_plan(folder, trust=trust)
    recorded = files.read_rounds(folder.rounds) if files.is_there(folder.rounds) else []
    if not 1 <= rounds <= len(recorded):
        some = f"rounds 1 to {len(recorded)}" if recorded else "no round yet"
        raise StoreError(f"{folder.rounds}: holds {some}; {rounds} cannot be played again and compared")
    _check_places(folder, plan, recorded[:rounds])
    before = files.read_json(folder.env) if files.is_there(folder.env) else {}
    plan = _as_begun(plan, before)
    datasets = Datasets()
    played = _play(plan, datasets, rounds, console, Where(str(folder.config)))
    differences: list[Difference] = []
    for theirs, ours in zip(recorded, played, strict=False):
        differences += list(_differences(theirs, ours, tolerance * (GROWN if differences else 1)))
    context = datasets.open(plan)
    now = environment([str(context.device)], plan.resources.threads, context.inputs())
    return Verification(
        rounds, tuple(differences), tuple(_circumstances(before, now)), tuple(_remarks(folder, plan, recorded[:rounds]))
    )


def _check_places(folder: RunFolder, plan: Plan, recorded: Sequence[Mapping[str, Any]]) -> None:
    """Check that the lines are those of the first rounds, each in its place.

    Raises:
        StoreError: one was lost.
    """
    for index, record in enumerate(recorded):
        task, round = index // plan.federation.rounds + 1, index % plan.federation.rounds + 1
        if (record["task"], record["round"]) != (task, round):
            raise StoreError(
                f"{folder.rounds}: line {index + 1}: round {record['round']} of task {record['task']}, where round "
                f"{round} of task {task} should be; a line was lost"
            )


def _as_begun(plan: Plan, env: Mapping[str, Any]) -> Plan:
    """The plan with the threads that the first round had; a run that was resumed may have had others since."""
    threads = env.get("threads")
    if type(threads) is int and 1 <= threads <= 1024:
        plan = replace(plan, resources=replace(plan.resources, threads=threads))
    return replace(plan, federation=replace(plan.federation, checkpoint_every=0))


def _play(plan: Plan, datasets: Datasets, rounds: int, console: Console, where: Where) -> list[dict[str, Any]]:
    listener = _Rounds(rounds)
    with (
        TemporaryDirectory(prefix="fcil-verify-") as place,
        Interrupts(lambda line: console.print(line, markup=False)) as interrupts,
    ):
        preflight([plan], datasets, console, where)
        with (
            named(where),
            Engine(plan.federation, plan.resources, interrupts) as engine,
            choose_progress(console) as progress,
            suppress(Enough),
        ):
            engine.run(datasets.open(plan), Path(place), Observers(progress, listener))
    return listener.records


# Comparing ----------------------------------------------------------------------------------------


def _differences(theirs: Mapping[str, Any], ours: Mapping[str, Any], tolerance: float) -> Iterator[Difference]:
    """The numbers of a round that are others here; keys that only one side knows are left out."""
    for key in (k for k in theirs if k in ours and k not in UNCOMPARED):
        mine, other = ours[key], theirs[key]
        pairs = [(key, other, mine)]
        if isinstance(other, Mapping) and isinstance(mine, Mapping):
            names = dict.fromkeys([*other, *mine])
            pairs = [(f"{key}.{name}", other.get(name), mine.get(name)) for name in names]
        for name, there, here in pairs:
            if there != here:
                yield Difference(ours["task"], ours["round"], name, there, here, _close(name, there, here, tolerance))


def _close(key: str, there: Any, here: Any, tolerance: float) -> bool:
    """Return whether two unequal values are near: weights, of which only a digest is known, always count as near."""
    if key == "weights":
        return True
    if not _are_numbers(there, here) or not key.startswith(("terms.", "accuracy", "epsilon")):
        return False
    if key == "accuracy":
        return math.isclose(there, here, rel_tol=0.0, abs_tol=10 * tolerance)
    return math.isclose(there, here, rel_tol=tolerance, abs_tol=tolerance * 1e-3)


def _are_numbers(*values: Any) -> bool:
    return all(isinstance(v, int | float) and not isinstance(v, bool) for v in values)


def _circumstances(there: Mapping[str, Any], here: Mapping[str, Any]) -> Iterator[str]:
    """Return the changed circumstances that a result may depend on."""
    for key in (k for k in here if k in there and k not in APART):
        old, new = there[key], here[key]
        if isinstance(old, Mapping) and isinstance(new, Mapping):
            yield from (f"{name} {old[name]} there, {v} here" for name, v in new.items() if old.get(name, v) != v)
        elif old != new:
            yield f"{key} {_plain(old)} there, {_plain(new)} here"


def _plain(value: Any) -> str:
    return ", ".join(map(str, value)) if isinstance(value, list) else str(value)


def _remarks(folder: RunFolder, plan: Plan, recorded: Sequence[Mapping[str, Any]]) -> Iterator[str]:
    if is_smoke(plan.to_yaml()):
        yield MEANING
    if not all("weights" in record for record in recorded):
        yield "the record holds no digest of the weights (an earlier fcil wrote it); its other numbers were compared"
    if any(record.get("failures") for record in recorded):
        yield "clients failed in these rounds of the record, which cannot be played again"
    if folder.path.parent.name != plan.folder.parent.name:
        yield (
            f"config.yaml and strategy.py make {plan.folder.parent.name}, the folder is {folder.path.parent.name}: "
            "they were changed, or come from another fcil"
        )
