"""Grids, which run the clients: the common part, and the one that calls the ClientApp in this process.

On any of them a client that raised, died or took too long keeps the state it had before.
"""

from __future__ import annotations

import math
import traceback
from abc import abstractmethod
from collections.abc import Callable, Hashable, Iterable
from contextlib import AbstractContextManager, nullcontext
from typing import Any, NamedTuple

from flwr.app import Context, Message, RecordDict
from flwr.clientapp import ClientApp
from flwr.serverapp import Grid
from flwr.supercore.run import Run

from fcil.federation.compat import RAISED, TIMED_OUT, error_reply, give_id, new_context, new_run
from fcil.federation.messages.failures import shortage
from fcil.federation.runtime.interrupts import OutOfTime, time_limit
from fcil.federation.runtime.user_code import StrategyError


class LocalGrid(Grid):
    """Common base of both grids: node ids 1..n that are the clients 0..n-1, in every run alike."""

    window: int = 1
    """Number of clients worth asking before the first has answered."""
    stores: bool = False
    """Whether what is sent is copied before the first client answers, so that the sender may change it then."""

    def __init__(self, num_clients: int, timeout: float = math.inf, run_id: int = 1) -> None:
        """`timeout`: seconds that a client may take for a message; then it is given up, and answered for."""
        self._run = new_run(run_id)
        self._timeout = timeout
        self._nodes = range(1, num_clients + 1)

    def set_run(self, run: Run) -> None:
        self._run = run

    @property
    def run(self) -> Run:
        return self._run

    def create_message(
        self, content: RecordDict, message_type: str, dst_node_id: int, group_id: str, ttl: float | None = None
    ) -> Message:
        return Message(content, dst_node_id, message_type, ttl=ttl, group_id=group_id)

    def get_node_ids(self) -> Iterable[int]:
        return list(self._nodes)

    def context(self, node: int) -> Context:
        """Return a client's context without state."""
        identity = {"partition-id": node - 1, "num-partitions": len(self._nodes)}
        return new_context(self._run.run_id, node, identity)

    def send_and_receive(self, messages: Iterable[Message], *, timeout: float | None = None) -> Iterable[Message]:
        waiting = set(self.push_messages(messages))
        replies: list[Message] = []
        while waiting:
            for reply in self.pull_messages(waiting):
                waiting.discard(reply.metadata.reply_to_message_id)
                replies.append(reply)
        return replies

    @abstractmethod
    def versions(self) -> dict[int, Hashable]:
        """A token for each client that has a state, by client number; it is another when the state is replaced."""

    @abstractmethod
    def state(self, client: int) -> RecordDict:
        """Return the state of a client; empty if it has none."""

    @abstractmethod
    def restore(self, states: dict[int, RecordDict]) -> None:
        """Make clients remember this; those left out remember nothing."""

    @abstractmethod
    def snapshot(self) -> Callable[[], None]:
        """Return a function that makes clients remember what they do now, and forget messages under way."""

    def _late(self, message: Message) -> Message:
        return error_reply(message, TIMED_OUT, f"no answer within {self._timeout:g} seconds")


class InProcessGrid(LocalGrid):
    """Calls the ClientApp in this process, one message at each pull."""

    def __init__(
        self,
        app: ClientApp,
        num_clients: int,
        timeout: float = math.inf,
        run_id: int = 1,
        watch: Callable[[int], AbstractContextManager[object]] = nullcontext,
    ) -> None:
        """`watch`: the context in which a client, given by its number, is called."""
        super().__init__(num_clients, timeout, run_id)
        self._app, self._watch = app, watch
        self._contexts = {node: self.context(node) for node in self._nodes}
        self._waiting: dict[str, Message] = {}

    def push_messages(self, messages: Iterable[Message]) -> Iterable[str]:
        sent = {give_id(m): m for m in messages}
        self._waiting |= sent
        return list(sent)

    def pull_messages(self, message_ids: Iterable[str]) -> Iterable[Message]:
        for number in message_ids:
            if number in self._waiting:
                return [self._call(self._waiting.pop(number))]
        return []

    def companions(self) -> list[tuple[Message, Context]]:
        """Return the messages that wait to be answered, each with the context of its client."""
        return [(message, self._contexts[message.metadata.dst_node_id]) for message in self._waiting.values()]

    def _call(self, message: Message) -> Message:
        context = self._contexts[message.metadata.dst_node_id]
        before = RecordDict(dict(context.state))
        try:
            with self._watch(message.metadata.dst_node_id - 1), time_limit(self._timeout * self.window):  # as one
                reply = self._app(message=message, context=context)
        except OutOfTime:
            context.state = before
            return self._late(message)
        except Exception as error:
            context.state = before  # as in Flower: a client that raised did not change its state
            return error_reply(message, RAISED, reason(error))
        give_id(reply)
        return reply

    def versions(self) -> dict[int, Hashable]:
        records = {node - 1: tuple(c.state.values()) for node, c in self._contexts.items() if c.state}
        return {client: _Identity(record) for client, record in records.items()}

    def state(self, client: int) -> RecordDict:
        return RecordDict(dict(self._contexts[client + 1].state))

    def restore(self, states: dict[int, RecordDict]) -> None:
        for node, context in self._contexts.items():
            context.state = RecordDict(dict(states.get(node - 1) or {}))

    def snapshot(self) -> Callable[[], None]:
        states = {client: self.state(client) for client in self.versions()}

        def roll_back() -> None:
            self._waiting.clear()
            self.restore(states)

        return roll_back


class _Identity(NamedTuple):
    """Key that is equal only where it holds the very same objects, which it keeps alive."""

    records: tuple[Any, ...]

    def __eq__(self, other: object) -> bool:
        return isinstance(other, _Identity) and [*map(id, self.records)] == [*map(id, other.records)]

    def __hash__(self) -> int:
        return hash(tuple(map(id, self.records)))


def reason(error: Exception) -> str:
    """Return the content of an error reply: a line, and the traceback."""
    line = str(error) if isinstance(error, StrategyError) else shortage(error) or f"{type(error).__name__}: {error}"
    return f"{line}\n{traceback.format_exc()}"
