"""More of the contract of a strategy: federations that are uneven, growing, interrupted or large.

As in `fcil/check/contract.py`, each check says in a line what is wrong, or nothing.
"""

from __future__ import annotations

import re
from dataclasses import replace

import numpy as np
import torch
from torch import Tensor

from fcil.check.contract import Case, difference
from fcil.data import Scenario
from fcil.data.images import MemoryImages
from fcil.federation.messages.recording_grid import RecordedRequest
from fcil.io.state import flatten, num_bytes
from fcil.types import State

UNEVEN = ("one sample", "no samples", "samples of one class alone", "all other samples")
FEW, MANY, AT_ONCE = 4, 24, 4
"""Clients of two federations, and how many of them take part in a round."""


def check_uneven(case: Case) -> str | None:
    """It copes with a client of one sample, one without samples, and one that lacks a class."""
    plan = case.plan(clients=len(UNEVEN))
    if plan.net.recipe.stems:  # of which this has maps of 1 x 1: one sample has no variance there
        plan = replace(plan, net=replace(plan.net, stem="imagenet"))
    problem = case.stage.play("uneven", plan, deal=_unevenly).problem
    named = re.match(r"client (\d)", problem or "")
    return f"a client with {UNEVEN[int(named[1])]}: {problem}" if named else problem


def _unevenly(scenario: Scenario) -> Scenario:
    """Return another partition of the same samples, more uneven than any of the settings."""
    labels, held = scenario.dataset.train.y.numpy(), []
    for clients in scenario.held:
        first, *others = np.sort(np.concatenate(clients)).tolist()
        alike = [row for row in others if labels[row] == labels[first]][:40]
        rest = sorted(set(others) - set(alike))
        held.append([np.array(rows, dtype=np.int64) for rows in ([first], [], alike, rest)])
    return scenario.replaced(held=held)


def check_growth(case: Case) -> str | None:
    """The head grows over three tasks of four, one and one classes."""
    plan = case.plan({"base": 4, "increment": 1}, clients=2, rounds=1, stop_after=3)
    played = case.stage.play("growth", plan)
    if played.problem:
        return played.problem
    classes = played.server().net.num_classes
    return None if classes == 6 else f"the net ends with {classes} classes; 6 were learnt"


def check_skipped(case: Case) -> str | None:
    """It copes with clients that are not drawn, and with some that fail and are skipped."""
    begun: set[int] = set()

    def fails(asked: RecordedRequest) -> bool:
        """The first client that is asked in a task, and the last client at the end of each."""
        first = asked.task not in begun
        begun.add(asked.task)
        return asked.client == 3 if asked.after else first

    plan = case.plan(clients=4, fraction=0.5, on_failure="skip", rounds=3)
    return case.stage.play("skipped", plan, fails=fails).problem


def check_tested(case: Case) -> str | None:
    """Test images change nothing but accuracies."""
    other, base = case.play("other tests", deal=_other_tests).outcome(), case.base.outcome()
    for outcome in (other, base):
        outcome["rows"] = {}
        for record in outcome["records"].values():
            record.pop("accuracy", None)
    found = difference(other, base)
    kind = case.base.context.scenario.dataset.kind
    return found and f"with other test {kind} {found}; predict may look at the net, not change or keep anything"


def _other_tests(scenario: Scenario) -> Scenario:
    test, series = scenario.dataset.test, scenario.dataset.kind == "series"
    stored = test.take(torch.arange(len(test)))
    others = MemoryImages((0 if series else stored.max()) - stored.flip(0), test.y)
    return scenario.replaced(dataset=replace(scenario.dataset, test=others))


def check_predict(case: Case) -> str | None:
    """predict gives each image a finite score for each class seen, whatever other images are beside it."""
    server, strategy = case.base.server(), case.spec.strategy
    dataset, classes = case.base.context.scenario.dataset, server.net.num_classes
    x = torch.rand(9, *dataset.shape, generator=torch.Generator().manual_seed(0))
    if dataset.kind == "series":
        x = dataset.test.take(torch.arange(9))  # some of which end early
    server.net.eval()
    with torch.inference_mode():
        parts = [strategy.predict(server.net, part, server.shared) for part in (x, x[:2], x[2:])]
    for part, count in zip(parts, (9, 2, 7), strict=True):
        if not isinstance(part, Tensor) or part.shape != (count, classes):
            got = list(part.shape) if isinstance(part, Tensor) else f"a {type(part).__name__}"
            return f"of {count} {dataset.kind} and {classes} classes seen it makes {got}; expected [{count}, {classes}]"
    if not bool(torch.isfinite(parts[0]).all()):
        return "a score is NaN or infinite"
    far = float((parts[0] - torch.cat(parts[1:])).abs().max())
    return f"a score moves by {far:.2g} when other {dataset.kind} are beside its own" if far > 1e-3 else None


def check_scale(case: Case) -> str | None:
    """What the server keeps does not grow with the number of clients."""
    sizes: dict[int, dict[str, int]] = {}
    for clients in (FEW, MANY):
        plan = case.plan(clients=clients, fraction=AT_ONCE / clients, rounds=3, max_batches=1)
        played = case.stage.play(f"{clients} clients", plan)
        if played.problem:
            return f"with {clients} clients, {AT_ONCE} in a round: {played.problem}"
        server = played.server()
        kept: dict[str, State] = {"server.shared": server.shared, "server.memo": server.memo}
        sizes[clients] = {f'{k}["{name}"]': _size({name: v}) for k, part in kept.items() for name, v in part.items()}
        sizes[clients] |= {k: _size(part) for k, part in kept.items()}
    for name, size in sizes[MANY].items():
        if size > 1.2 * sizes[FEW].get(name, size):
            return f"{name} holds {sizes[FEW][name]} bytes with {FEW} clients and {size} with {MANY}"
    return None


def _size(state: State) -> int:
    """Bytes of the tensors and strings in it, and eight for each number."""
    tensors, scalars = flatten(state)
    return num_bytes(tensors) + sum(len(v) if isinstance(v, str) else 8 for v in scalars.values())
