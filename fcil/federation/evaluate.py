"""Accuracy of the global net: one pass over the test images, accuracy by task through a count."""

from __future__ import annotations

from collections.abc import Iterator

import torch
from torch import Tensor

from fcil.data import Scenario
from fcil.data.scenario import Shard
from fcil.federation.messages.audit import asserted_unchanged
from fcil.federation.runtime.user_code import calling
from fcil.metrics import AccuracyRow, Predictions
from fcil.roles import Server
from fcil.strategy import Strategy

BATCH = 256
TOP = 5
"""Largest scores among which a label counts as told."""


def evaluate(server: Server, strategy: Strategy, scenario: Scenario) -> list[AccuracyRow]:
    """Return a row for each task seen so far, under one head over all classes seen.

    The strategy sees images here, never their labels.

    Raises:
        LeakError: it has kept something of them.
    """
    test = scenario.test_seen(server.task.number)
    with asserted_unchanged(server, scenario.dataset.kind), torch.inference_mode():
        hit = torch.cat([scores.argmax(1) == labels for scores, labels in _scores(server, strategy, test)])
    return _rows(server.task.number, test, hit)


def evaluate_closely(server: Server, strategy: Strategy, scenario: Scenario) -> tuple[list[AccuracyRow], Predictions]:
    """Return the same rows, and the prediction for each sample, from the same single pass.

    Raises:
        LeakError: as `evaluate`.
    """
    test = scenario.test_seen(server.task.number)
    parts: list[tuple[Tensor, ...]] = []
    with asserted_unchanged(server, scenario.dataset.kind), torch.inference_mode():
        task_of = torch.repeat_interleave(torch.tensor(scenario.split.sizes)).to(scenario.device) + 1  # by class
        for scores, labels in _scores(server, strategy, test):
            best = scores.topk(min(TOP, scores.shape[1])).indices
            confidence = scores.double().softmax(1).amax(1)
            tasks = task_of[labels]
            known = scores[:, : len(task_of)]
            among_own = known.masked_fill(task_of[: known.shape[1]] != tasks[:, None], -torch.inf).argmax(1)
            in_top = (best == labels[:, None]).any(1)
            parts.append((labels, scores.argmax(1), in_top, confidence, tasks, among_own == labels))
    found = Predictions(*(torch.cat(part).cpu().numpy() for part in zip(*parts, strict=True)))
    if scenario.domains:  # all classes are those of each task
        found = found._replace(tasks=test.tasks.cpu().numpy(), task_aware=None)
    return _rows(server.task.number, test, torch.from_numpy(found.predicted == found.labels)), found


def _scores(server: Server, strategy: Strategy, test: Shard) -> Iterator[tuple[Tensor, Tensor]]:
    """Yield the scores (B, C) and the labels (B,) of each batch, in order."""
    server.net.eval()
    for batch in test.batches(BATCH, augment=False, shuffle=False):
        with calling("predict", f"task {server.task.number}, round {server.round}"):
            scores = strategy.predict(server.net, batch.x, server.shared)
        yield scores, batch.y


def _rows(trained: int, test: Shard, hit: Tensor) -> list[AccuracyRow]:
    correct = torch.bincount(test.tasks.cpu(), weights=hit.cpu().double(), minlength=trained + 1)
    examples = torch.bincount(test.tasks.cpu(), minlength=trained + 1)
    return [AccuracyRow(trained, t, int(correct[t]), int(examples[t])) for t in range(1, trained + 1)]
