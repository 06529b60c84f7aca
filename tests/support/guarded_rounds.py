"""Plans, tensors and one exchange of messages, for tests of what protects a federation and of what attacks it."""

from __future__ import annotations

import math
from pathlib import Path
from typing import Any

import torch
from flwr.app import ArrayRecord, ConfigRecord, Message, MetricRecord, RecordDict
from tiny_net import normal

from fcil.federation.compat import RefArray, new_run
from fcil.federation.plan import Plan
from fcil.runs.plans import read
from fcil.types import Tensors

WHO = (1, 2, 3)  # task, round, client


def plans(path: Path, *overrides: str) -> list[Plan]:
    return [plan for experiment in read(path, overrides) for plan in experiment.plans()]


def tensors(key: int, scale: float = 1.0) -> Tensors:
    return {
        "w": normal(4, 3, key=key) * scale,
        "running_var": torch.rand(30, generator=torch.Generator().manual_seed(key)),
        "scale": normal(1, key=key).reshape(()),
        "batches": torch.tensor(7 + key),
    }


def conversation(sent: Tensors, back: Tensors, shared: dict[str, Any] | None = None) -> tuple[Message, Message]:
    """A message to a client and its reply, in memory that may not be written to."""
    new_run(1)

    def locked(weights: Tensors) -> ArrayRecord:
        record = ArrayRecord()
        for name, t in weights.items():
            array = t.numpy().copy()
            array.flags.writeable = False
            record[name] = RefArray(array)
        return record

    content: dict[str, Any] = {"weights": locked(sent), "config": ConfigRecord({"job": "{}"})}
    content |= {"plan": ConfigRecord({"plan": "x" * 1000}), "shared/pool": locked({"x": torch.zeros(50)})}
    content |= shared or {}
    message = Message(RecordDict(content), 4, "train")
    answer = {"weights": locked(back), "metrics": MetricRecord({"terms/ce": 1.0})}
    return message, Message(RecordDict({**answer, "config": ConfigRecord({"num_examples": 5})}), reply_to=message)


def floats(weights: Tensors) -> Tensors:
    return {name: t for name, t in weights.items() if t.is_floating_point()}


def length(a: Tensors, b: Tensors) -> float:
    return math.sqrt(sum(float((a[n] - b[n]).double().square().sum()) for n in floats(a)))
