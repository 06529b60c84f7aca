"""A grid in this process that watches clients: what they were sent must be as it was when they answer."""

from __future__ import annotations

import json
from collections.abc import Callable, Iterable
from pathlib import Path
from typing import Any, NamedTuple, cast

from flwr.app import ArrayRecord, ConfigRecord, Message

from fcil.federation.checkpoint import Checkpoints
from fcil.federation.client import AFTER_TASK, client_app, plan_text
from fcil.federation.codec import to_tensors
from fcil.federation.compat import RAISED, error_reply
from fcil.federation.context import RunContext
from fcil.federation.grids import InProcessGrid
from fcil.federation.runtime.worker import Sites
from fcil.io.state import digest, flatten
from fcil.roles import Server


class RecordedRequest(NamedTuple):
    """A question to one client; `after` is the one at the end of a task."""

    task: int
    round: int
    client: int
    after: bool


class RecordingGrid(InProcessGrid):
    """Clients one after the other in this process, under observation.

    Args:
        sites: what clients leave in the process, where it is looked at.
        backwards: the client that was asked last trains and answers first.
        fails: which questions are answered by an error, without the strategy being called.
    """

    def __init__(
        self,
        sites: Sites,
        clients: int,
        *,
        backwards: bool = False,
        fails: Callable[[RecordedRequest], bool] = lambda asked: False,
    ) -> None:
        super().__init__(client_app(sites), clients)
        self.window = clients if backwards else 1
        self.changed: list[str] = []
        """Descriptions of what clients changed of what is not theirs, a line each."""
        self.names: dict[tuple[int, int], dict[int, frozenset[str]]] = {}
        """The tensors in each client's update, by task and round."""
        self.failed = 0
        self._sites, self._backwards, self._fails = sites, backwards, fails

    def pull_messages(self, message_ids: Iterable[str]) -> Iterable[Message]:
        wanted = set(message_ids)
        order = [number for number in self._waiting if number in wanted]
        return super().pull_messages(order[::-1] if self._backwards else order)

    def _call(self, message: Message) -> Message:
        job: dict[str, Any] = json.loads(str(cast(ConfigRecord, message.content["config"])["job"]))
        after = message.metadata.message_type == AFTER_TASK
        asked = RecordedRequest(job["task"], job["round"], message.metadata.dst_node_id - 1, after)
        if self._fails(asked):
            self.failed += 1
            return error_reply(message, RAISED, "RuntimeError: made to fail")
        before = _content(message)
        reply = super()._call(message)
        self._compare(message, asked, before)
        if not reply.has_error() and not asked.after and "weights" in reply.content:
            names = frozenset(cast(ArrayRecord, reply.content["weights"]))
            self.names.setdefault((asked.task, asked.round), {})[asked.client] = names
        return reply

    def _compare(self, message: Message, asked: RecordedRequest, before: str) -> None:
        site, changed = self._sites.of(plan_text(message)), []
        if _content(message) != before:
            changed.append("client.start")
        for name, (content_hash, value, _) in site.shared.items():
            if digest(*flatten({name: value})) != content_hash:
                changed.append(f'client.shared["{name}"]')
        for name, (content_hash, net, *_) in site.frozen_nets.items():
            if digest(*flatten({name: net.weights()})) != content_hash:
                changed.append(f'client.frozen("{name}")')
        place = f"client {asked.client}, task {asked.task}, round {asked.round}"
        self.changed += [f"{place}: changed {what} in place" for what in changed]


def _content(message: Message) -> str:
    """A name for the weights a client is sent."""
    return digest(to_tensors(cast(ArrayRecord, message.content["weights"])), {})


def final_server(context: RunContext, folder: Path) -> Server:
    """The server as the last checkpoint in a run's folder has it; it belongs to no run any more."""
    server, plan = context.first_server(), context.plan
    checkpoints = Checkpoints(folder / "checkpoints", plan.decisive | {"seed": plan.seed})
    checkpoints.restore(server, InProcessGrid(client_app(), plan.federation.clients), context.tasks)
    return server
