"""`fcil unlearn`: a client taken out of a finished run exactly, as if it had never taken part.

The client is asked for its sums again, from its own samples under the run's own settings, and the strategy's `forget`
takes them out of what the server knows. The folder of the run stays as it is, and still holds the client's sums in its
checkpoints; what is written is a net of its own beside it.
"""

from __future__ import annotations

import os
from collections.abc import Iterable, Iterator, Sequence
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from fcil.config import Where
from fcil.errors import ConfigError, StoreError, TrainingError
from fcil.evaluation.measure import Group, groups_of
from fcil.federation.context import Datasets, RunContext
from fcil.federation.evaluate import evaluate_closely
from fcil.federation.messages.again import FinishedRun
from fcil.federation.plan import Plan
from fcil.federation.runtime.user_code import calling
from fcil.federation.settings import settled
from fcil.methods.files import built_in_files, read_source
from fcil.methods.loading import strategy_class
from fcil.runs.preflight import named
from fcil.runs.recorded_plan import load_plan
from fcil.store import Run, RunFolder, files, load_run
from fcil.store.nets import keep_net, net_facts
from fcil.strategy import Strategy
from fcil.types import Task, Update

FOLDER = "unlearned"
"""Folder of the results, in that of the run."""
ABOUT = "unlearned.json"


@dataclass(frozen=True)
class Unlearned:
    """A run without some of its clients: accuracy before and after, on the test samples of the run."""

    clients: tuple[int, ...]
    tasks: tuple[int, ...]
    """Tasks whose samples were taken out."""
    samples: int
    """Training samples that were taken out."""
    gone: tuple[str, ...]
    """Names of the classes that nobody else holds; none of them is predicted any more."""
    before: tuple[Group, ...]
    after: tuple[Group, ...]
    folder: Path
    """Folder of the new net; `fcil.store.nets.kept_net` reads it."""

    def rows(self) -> list[dict[str, Any]]:
        """Return a row for all samples, each task and each class: examples, correct predictions before and after."""
        return [
            {"group": a.group, "name": a.name, "examples": a.examples, "before": a.correct, "after": b.correct}
            for a, b in zip(self.before, self.after, strict=True)
        ]

    def to_json(self) -> dict[str, Any]:
        told = {key: list(getattr(self, key)) for key in ("clients", "tasks", "gone")}
        return {**told, "samples": self.samples, "accuracy": self.rows()}


def unlearn(
    run_dir: Path | str,
    clients: int | Sequence[int],
    tasks: Sequence[int] | None = None,
    *,
    out: Path | str | None = None,
    trust: bool = False,
) -> Unlearned:
    """Take clients out of a finished run, exactly, and write the net without them.

    Args:
        clients: their numbers, from 0.
        tasks: only their samples of these tasks; None: of all.
        out: folder of what is written (default: `unlearned/client<k>` in the folder of the run).
        trust: run the strategy.py and parts of the folder even if a file they were copied from is another now, or gone.
    Raises:
        StoreError: the run is not finished, its last checkpoint is gone, or the data are not those it learnt from.
        ConfigError: the strategy cannot do so, with these settings or for this client, or there is no such client.
    """
    run = load_run(run_dir)
    if not run.finished:
        raise StoreError(f"{run.path}: not finished, so nothing can be taken out yet (fcil resume {run.path})")
    plan = load_plan(run.folder, trust=trust)
    _check_strategy(plan)
    chosen = _checked((clients,) if isinstance(clients, int) else clients, range(plan.federation.clients), "client")
    where = Where(str(run.folder.config))
    with named(where):
        context = Datasets().open(plan)
    _check_data(run, context)
    wanted = _checked([t.number for t in context.tasks] if tasks is None else tasks, _numbers(context), "tasks")
    home = _home(run, chosen, () if tasks is None else wanted, out)
    taken = {(task, client) for task in wanted for client in chosen} - _missing(run)  # these sums the server has
    gone = _gone(context, run, taken)
    with settled(plan.resources.threads):
        finished = FinishedRun(context, run.path)
        before = _measured(finished, gone=())
        with calling("forget"):
            for client in chosen:
                _forget(finished, client, [context.tasks[t - 1] for t in wanted if (t, client) in taken])
        after = _measured(finished, gone)
    found = Unlearned(
        clients=chosen,
        tasks=wanted,
        samples=sum(len(context.scenario.held[task - 1][client]) for task, client in taken),
        gone=tuple(context.tasks[-1].names[label] for label in gone),
        before=before,
        after=after,
        folder=home,
    )
    os.makedirs(home, exist_ok=True)
    files.write_json(home / ABOUT, found.to_json())
    keep_net(RunFolder(home).net, finished.server, net_facts(context, context.tasks[-1]), memo=True)
    return found


def forgets(kind: type[Strategy]) -> bool:
    """Return whether a strategy can take a client out again."""
    return kind.forget is not Strategy.forget


# Before -------------------------------------------------------------------------------------------


def _check_strategy(plan: Plan) -> None:
    if not forgets(type(plan.strategy.strategy)):
        have = ", ".join(_able())
        raise ConfigError(
            f"{plan.strategy.name}: a client cannot be taken out of it exactly; it has no forget (have: {have})"
        )


def _able() -> Iterator[str]:
    """Yield the names of the built-in strategies that can."""
    for name, path in sorted(built_in_files().items()):
        with suppress(ConfigError):
            where = Where(str(path))
            if forgets(strategy_class(name, None, read_source(path, where), where)):
                yield name


def _checked(given: Sequence[int], there: range, key: str) -> tuple[int, ...]:
    """Return numbers in order.

    Raises:
        ConfigError: one is not there, or is there twice.
    """
    for number in given:
        if number not in there:
            raise ConfigError(f"{key}: {number} is not allowed; the run has {there[0]} to {there[-1]}")
    if len(set(given)) != len(given) or not given:
        raise ConfigError(f"{key}: {', '.join(map(str, given))} is not allowed; expected at least one, and none twice")
    return tuple(sorted(given))


def _numbers(context: RunContext) -> range:
    return range(1, len(context.tasks) + 1)


def _check_data(run: Run, context: RunContext) -> None:
    """Check that images and partition are those of the run; from others a client would send other sums."""
    env = files.read_json(run.folder.env) if files.is_there(run.folder.env) else {}
    inputs = env.get("inputs")
    images = inputs.get("images") if isinstance(inputs, dict) else None
    if images is not None and images != context.loaded.digest:
        raise StoreError(f"{run.path}: the data are not those that the run learnt from, by the digest in env.json")
    held = files.read_json(run.folder.partition).get("indices")
    if held != context.scenario.partition_record()["indices"]:
        raise StoreError(f"{run.folder.partition}: not the partition that these settings make now")


def _home(run: Run, clients: Sequence[int], tasks: Sequence[int], out: Path | str | None) -> Path:
    if out is not None:
        if RunFolder(out).begun:
            raise ConfigError(f"out: {out} is the folder of a run; what is written has a folder of its own")
        return Path(out)
    parts = [f"client{'s' * (len(clients) > 1)}{'-'.join(map(str, clients))}"]
    parts += [f"tasks{'-'.join(map(str, tasks))}"] if tasks else []
    return run.path / FOLDER / "-".join(parts)


# Taking out ---------------------------------------------------------------------------------------


def _missing(run: Run) -> set[tuple[int, int]]:
    """Return which clients failed at the end of which tasks, (task, client): their sums are not there."""
    ends = ((record["task"], failure) for record in run.rounds for failure in _failures(record))
    return {(task, failure["client"]) for task, failure in ends if failure.get("outcome") == "skipped"}


def _failures(record: dict[str, Any]) -> Iterable[dict[str, Any]]:
    end = record.get("after_task")
    return [f for f in end.get("failures") or [] if "client" in f] if isinstance(end, dict) else []


def _gone(context: RunContext, run: Run, taken: set[tuple[int, int]]) -> tuple[int, ...]:
    """Return the classes of which the server has no samples any more, by number in order of appearance.

    Raises:
        ConfigError: they are all of them.
    """
    counts = context.scenario.counts[: len(context.tasks)].copy()  # (tasks, clients, classes)
    for task, client in _missing(run):
        counts[task - 1, client] = 0
    had: NDArray[np.int64] = counts.sum((0, 1))
    for task, client in taken:
        counts[task - 1, client] = 0
    left: NDArray[np.int64] = counts.sum((0, 1))
    if not left.any():
        raise ConfigError("client: no sample would be left; no other client has any")
    return tuple(int(label) for label in np.flatnonzero((had > 0) & (left == 0)))


def _forget(finished: FinishedRun, client: int, tasks: Sequence[Task]) -> None:
    def sent() -> Iterator[tuple[Task, Update]]:
        yield from finished.sent_again(client, tasks)

    try:
        finished.context.plan.strategy.strategy.forget(finished.server, sent())
    except (ConfigError, ValueError) as error:
        raise ConfigError(f"client {client} cannot be taken out: {error}") from None


def _measured(finished: FinishedRun, gone: Sequence[int]) -> tuple[Group, ...]:
    """Return the accuracy on the test samples.

    Raises:
        TrainingError: one of these classes is still predicted.
    """
    context = finished.context
    _, found = evaluate_closely(finished.server, context.plan.strategy.strategy, context.scenario)
    if still := set(gone) & set(found.predicted.tolist()):
        name = context.tasks[-1].names[min(still)]
        raise TrainingError(f'{context.plan.strategy.name} still predicts "{name}", of which no sample is left')
    return groups_of(found.labels, found.predicted, net_facts(context, context.tasks[-1]), found.tasks)
