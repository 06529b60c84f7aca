"""Accuracy of a net that a run has kept, on the run's own test samples or on others of the same classes."""

from __future__ import annotations

import csv
import io
import os
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import NamedTuple, cast

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from fcil.config import Where, is_folder_name
from fcil.errors import ConfigError
from fcil.evaluation.samples import settings_for, tested_samples
from fcil.federation.evaluate import BATCH
from fcil.federation.runtime.user_code import calling
from fcil.federation.settings import settled
from fcil.io.atomic import write_text
from fcil.nets import Net
from fcil.runs.recorded_plan import load_plan
from fcil.store import RunFolder, load_run
from fcil.store.nets import KeptNet, NetFacts, kept_net
from fcil.types import State

COLUMNS = ("group", "name", "examples", "correct", "accuracy")
Rule = Callable[[Net, Tensor], Tensor]
"""Scores (B, C) of a net for inputs (B, ...); the largest wins."""


class Group(NamedTuple):
    """Accuracy on all samples, on those of a task, or its domain, or on those of a class."""

    group: str
    """`all`, `task`, `domain` or `class`."""
    name: str
    """Number of the task, or name of the domain or class."""
    examples: int
    correct: int

    @property
    def accuracy(self) -> float | None:
        """Return the share of correct predictions; None where there is no example."""
        return self.correct / self.examples if self.examples else None


@dataclass(frozen=True)
class Evaluation:
    """Predictions of a net for test samples, and its accuracy on them."""

    labels: NDArray[np.int64]
    """Classes in order of appearance, (N,)."""
    predicted: NDArray[np.int64]
    """The same of the predictions, (N,)."""
    groups: tuple[Group, ...]
    left_out: int
    """Samples of classes that the net has not learnt."""

    @property
    def accuracy(self) -> float:
        """Return the accuracy on all samples."""
        return float((self.labels == self.predicted).mean())

    def to_csv(self) -> str:
        """Return a table with a line for each group."""
        text = io.StringIO()
        writer = csv.writer(text, lineterminator="\n")
        writer.writerow(COLUMNS)
        for group in self.groups:
            writer.writerow((*group, "" if group.accuracy is None else f"{group.accuracy:.6f}"))
        return text.getvalue()


def evaluate(
    run_dir: Path | str,
    *overrides: str,
    data: Path | str | None = None,
    task: int | None = None,
    out: str | None = None,
    trust: bool = False,
) -> Evaluation:
    """Measure the accuracy of the net that a run has kept.

    Args:
        run_dir: folder of the run.
        overrides: `key.path=value` for keys of `data` and `resources`, such as `data.root=corrupted`.
        data: a folder or zip of images, in `test/<class>/`, `val/<class>/` or `<class>/`, instead of the run's own
            test samples: short for `data.dataset=image_folder data.root=FOLDER`.
        task: the net at the end of this task; None: at the end of the run.
        out: write the table to `evaluations/<out>.csv` in the run folder.
        trust: run the folder's own strategy.py, where the strategy has a rule of its own to predict, and its copies of
            a net and a data set of the user's own, even if those files are others now, or gone.
    Raises:
        UserError: the net was not kept, or the samples have another shape or other classes than it knows.
    """
    run = load_run(run_dir)
    if out is not None and not is_folder_name(f"{out}.csv"):
        raise ConfigError(f"out: {out!r} is not allowed; it names a file in the folder evaluations")
    given = [] if data is None else ["data.dataset=image_folder", f"data.root={_quoted(data)}"]
    where = Where(str(run.folder.config), files=run.folder.texts_of_parts(trust=trust))
    chosen, resources, other = settings_for(run.config, [*given, *overrides], where)
    kept = kept_net(run.path, task, trust=trust)
    device = resources.torch_device()
    shard, left_out = tested_samples(kept.facts, chosen, device, where, other=other)
    net, rule = kept.net.to(device), _rule(run.folder, kept, device, trust=trust)
    found: list[Tensor] = []
    with settled(resources.threads), torch.inference_mode():
        for batch in shard.batches(BATCH, augment=False, shuffle=False):
            with calling("predict", f"task {kept.facts.task}"):
                found.append(rule(net, batch.x).argmax(1))
    labels, predicted = shard.labels.cpu().numpy(), torch.cat(found).cpu().numpy()
    groups = groups_of(labels, predicted, kept.facts, shard.tasks.cpu().numpy())
    evaluation = Evaluation(labels, predicted, groups, left_out)
    if out is not None:
        write_text(run.path / "evaluations" / f"{out}.csv", evaluation.to_csv())
    return evaluation


def groups_of(
    labels: NDArray[np.int64], predicted: NDArray[np.int64], facts: NetFacts, tasks: NDArray[np.int64]
) -> tuple[Group, ...]:
    """Return the accuracy on all samples, on each task or domain, and on each class.

    Args:
        tasks: the task of each sample (N,), counted from 1; 0 where it is of no domain that the net has learnt.
    """
    names, domains, count = facts.classes, facts.domains, len(facts.sizes) + 1
    examples = np.bincount(labels, minlength=len(names))
    correct = np.bincount(labels[labels == predicted], minlength=len(names))
    by_task = np.bincount(tasks, minlength=count)[1:], np.bincount(tasks[labels == predicted], minlength=count)[1:]
    kind, of = ("domain", domains) if domains else ("task", tuple(map(str, range(1, count))))
    shown = zip(of, *by_task, strict=True) if not domains or tasks.any() else ()
    return (
        Group("all", "", int(examples.sum()), int(correct.sum())),
        *(Group(kind, name, int(n), int(hits)) for name, n, hits in shown),
        *(Group("class", name, int(n), int(hits)) for name, n, hits in zip(names, examples, correct, strict=True)),
    )


def _rule(folder: RunFolder, kept: KeptNet, device: torch.device, *, trust: bool) -> Rule:
    """Return how the run predicts: by the largest output, or by a rule of its strategy's own."""
    if not kept.facts.own_rule:
        return lambda net, x: cast(Tensor, net(x).logits)
    strategy, shared = load_plan(folder, trust=trust).strategy.strategy, _moved(kept.shared, device)
    return lambda net, x: strategy.predict(net, x, shared)


def _moved(state: State, device: torch.device) -> State:
    """Return a tree of values with its tensors on a device."""
    moved: State = {}
    for name, value in state.items():
        if isinstance(value, Tensor):
            moved[name] = value.to(device)
        else:
            moved[name] = _moved(cast(State, value), device) if isinstance(value, dict) else value
    return moved


def _quoted(path: Path | str) -> str:
    """Return a path as YAML text."""
    return "'" + os.path.abspath(os.path.expanduser(path)).replace("'", "''") + "'"
