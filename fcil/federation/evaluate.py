"""Accuracy of the global net: one pass over the test images, accuracy by task through a count."""

from __future__ import annotations

import torch

from fcil.data import Scenario
from fcil.federation.messages.audit import asserted_unchanged
from fcil.federation.runtime.user_code import calling
from fcil.metrics import AccuracyRow
from fcil.roles import Server
from fcil.strategy import Strategy

BATCH = 256


def evaluate(server: Server, strategy: Strategy, scenario: Scenario) -> list[AccuracyRow]:
    """A row for each task seen so far, under one head over all classes seen.

    The strategy sees images here, never their labels.

    Raises:
        LeakError: it has kept something of them.
    """
    trained = server.task.number
    test = scenario.test_seen(trained)
    hits: list[torch.Tensor] = []
    server.net.eval()
    with asserted_unchanged(server, scenario.dataset.kind), torch.inference_mode():
        for batch in test.batches(BATCH, augment=False, shuffle=False):
            with calling("predict", f"task {trained}, round {server.round}"):
                scores = strategy.predict(server.net, batch.x, server.shared)
            hits.append(scores.argmax(1) == batch.y)
    hit = torch.cat(hits).cpu().double()
    correct = torch.bincount(test.tasks.cpu(), weights=hit, minlength=trained + 1)
    examples = torch.bincount(test.tasks.cpu(), minlength=trained + 1)
    return [AccuracyRow(trained, t, int(correct[t]), int(examples[t])) for t in range(1, trained + 1)]
