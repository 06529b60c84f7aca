"""Failures of a client, and the reaction to each.

| kind      | what happened                                                         |
|-----------|-----------------------------------------------------------------------|
| `raised`  | its code raised an error                                              |
| `died`    | the process it ran in ended: killed, out of memory, a node that left  |
| `timeout` | it did not answer within `federation.timeout` seconds                 |
| `invalid` | it answered, and the answer cannot be aggregated                      |

A process that died is replaced and its client asked again, whatever the policy, because nothing
speaks against the client: its state and random streams are as they were, so the round ends as if
nothing had happened. For the other kinds `federation.on_failure` decides.
"""

from __future__ import annotations

from dataclasses import asdict, dataclass
from typing import Any, Literal

import torch
from flwr.app import Message

from fcil.federation.compat import RAISED, TIMED_OUT
from fcil.federation.settings import FederationSettings

Kind = Literal["raised", "died", "timeout", "invalid"]
Outcome = Literal["retried", "skipped", "stopped"]


@dataclass(frozen=True)
class Failure:
    """Failed answer of a client, as it stands in `rounds.jsonl`."""

    client: int
    attempt: int
    kind: Kind
    reason: str
    outcome: Outcome

    def record(self) -> dict[str, Any]:
        return asdict(self)


def judge(settings: FederationSettings, client: int, attempt: int, kind: Kind, reason: str) -> Failure:
    """Decide what to do about a client that failed at its `attempt`-th try (from 1)."""
    again = attempt <= settings.retries and (kind == "died" or settings.on_failure == "retry")
    last: Outcome = "stopped" if settings.on_failure == "stop" else "skipped"
    return Failure(client, attempt, kind, reason, "retried" if again else last)


def kind_of(reply: Message) -> Kind:
    """The kind of an error reply, of our grids and of Flower's."""
    if reply.error.code == RAISED:
        return "raised"
    return "timeout" if reply.error.code == TIMED_OUT else "died"


def reason_of(reply: Message) -> tuple[str, str]:
    """Return the text of an error reply: its first line, and all of it."""
    text = (reply.error.reason or "no reason given").strip()
    return text.splitlines()[0].removeprefix("TrainingError: "), text


def shortage(error: BaseException) -> str | None:
    """A line that says what to lower, if an error means that memory ran out."""
    text = str(error)
    if isinstance(error, MemoryError | torch.OutOfMemoryError) or "can't allocate memory" in text:
        first = text.strip().splitlines()[0] if text.strip() else type(error).__name__
        return f"out of memory ({first}); lower batch sizes, net.width, resources.workers or a pool's samples"
    return None
