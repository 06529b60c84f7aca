"""Where clients run: two Flower Grids that call the same ClientApp.

`InProcessGrid` calls it here, one client at a time. `RayGrid` calls it on Ray workers, and any
worker can serve any client: a client's state lives in Ray's object store between its messages, so
it outlives a worker, and a client that raised keeps the state it had before.
"""

from __future__ import annotations

import time
import traceback
from abc import abstractmethod
from collections import deque
from collections.abc import Callable, Iterable
from typing import Any

from flwr.app import Context, Message, RecordDict
from flwr.clientapp import ClientApp
from flwr.serverapp import Grid
from flwr.supercore.run import Run

from fcil.errors import ConfigError
from fcil.federation.compat import CRASHED, RAISED, error_reply, give_id, new_context, new_run


class LocalGrid(Grid):
    """What both grids share: node ids 1..n that are the clients 0..n-1, in every run alike."""

    window: int = 1
    """How many clients are worth asking before the first has answered."""

    def __init__(self, num_clients: int, run_config: dict[str, Any], run_id: int = 1) -> None:
        self._run = new_run(run_id)
        self._run_config = run_config
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
        """A client's context without state."""
        identity = {"partition-id": node - 1, "num-partitions": len(self._nodes)}
        return new_context(self._run.run_id, node, identity, self._run_config)

    def send_and_receive(self, messages: Iterable[Message], *, timeout: float | None = None) -> Iterable[Message]:
        waiting = set(self.push_messages(messages))
        replies: list[Message] = []
        while waiting:
            for reply in self.pull_messages(waiting):
                waiting.discard(reply.metadata.reply_to_message_id)
                replies.append(reply)
        return replies

    @abstractmethod
    def states(self) -> dict[int, RecordDict]:
        """What each client remembers, by client number; clients that remember nothing are left out."""

    @abstractmethod
    def restore(self, states: dict[int, RecordDict]) -> None:
        """Give clients back what `states` returned."""


class InProcessGrid(LocalGrid):
    """Calls the ClientApp in this process, one message at each pull."""

    def __init__(self, app: ClientApp, num_clients: int, run_config: dict[str, Any], run_id: int = 1) -> None:
        super().__init__(num_clients, run_config, run_id)
        self._app = app
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

    def _call(self, message: Message) -> Message:
        context = self._contexts[message.metadata.dst_node_id]
        before = RecordDict(dict(context.state))
        try:
            reply = self._app(message=message, context=context)
        except Exception as error:
            context.state = before  # as in Flower: a client that raised did not change its state
            return error_reply(message, RAISED, _reason(error))
        give_id(reply)
        return reply

    def states(self) -> dict[int, RecordDict]:
        return {node - 1: c.state for node, c in self._contexts.items() if c.state}

    def restore(self, states: dict[int, RecordDict]) -> None:
        for client, state in states.items():
            self._contexts[client + 1].state = state


def _reason(error: Exception) -> str:
    return f"{type(error).__name__}: {error}\n{traceback.format_exc()}"


class Worker:
    """The body of a Ray actor: imports the ClientApp and calls it."""

    def __init__(self) -> None:
        from fcil.federation.client import app

        self._app = app

    def ready(self) -> bool:
        return True

    def call(
        self, context: Context, state: RecordDict, metadata: dict[str, Any], names: list[str], *records: Any
    ) -> tuple[RecordDict | str, RecordDict]:
        """Returns the reply's content and the client's new state, or what went wrong and the old state."""
        new_run(context.run_id)
        content = RecordDict(dict(zip(names, records, strict=True)))
        message = Message(content, metadata["node"], metadata["type"], group_id=metadata["group"])
        give_id(message)
        context.state = RecordDict(dict(state))
        try:
            return self._app(message=message, context=context).content, context.state
        except Exception as error:
            return _reason(error), state


class WorkerPool:
    """Ray actors that outlive a run, so that the next one finds torch imported and data loaded."""

    PATIENCE = 300.0
    """Seconds until the first worker must have started."""

    def __init__(self, size: int, options: dict[str, Any]) -> None:
        import ray

        actor: Any = ray.remote(Worker)
        self.size = size
        self._make: Callable[[], Any] = lambda: actor.options(**options).remote()
        self._options, self._began = options, time.monotonic()
        self._idle: deque[Any] = deque()
        self._starting: dict[Any, Any] = {}  # reference to its first answer -> worker
        for _ in range(size):
            self.replace()

    def replace(self) -> None:
        """Start a worker, at first or for one that died."""
        worker = self._make()
        self._starting[worker.ready.remote()] = worker

    def give_back(self, worker: Any) -> None:
        self._idle.append(worker)

    def take(self) -> Any | None:
        """A worker that is free, if there is one. A worker Ray has no room for is never handed out."""
        self.wait(0.0)
        return self._idle.popleft() if self._idle else None

    def wait(self, seconds: float) -> None:
        """Let workers finish starting.

        Raises:
            ConfigError: none ever started.
        """
        import ray

        if self._starting:
            done, _ = ray.wait(list(self._starting), num_returns=len(self._starting), timeout=seconds)
            for reference in done:
                worker = self._starting.pop(reference)
                ray.get(reference)
                self._idle.append(worker)
            if len(self._starting) == self.size and time.monotonic() > self._began + self.PATIENCE:
                raise ConfigError(
                    f"resources: no Ray worker of {self._options} started within {self.PATIENCE:g} seconds; "
                    "the machine or cluster has no room for it"
                )


class RayGrid(LocalGrid):
    """Hands messages to whichever worker is free. A record that many messages share is stored once."""

    def __init__(self, pool: WorkerPool, num_clients: int, run_config: dict[str, Any], run_id: int = 1) -> None:
        super().__init__(num_clients, run_config, run_id)
        self._pool = pool
        self._states: dict[int, Any] = {}  # node -> reference to its RecordDict
        self._queue: deque[Message] = deque()
        self._running: dict[Any, tuple[Message, Any, Any]] = {}  # content reference -> message, state reference, worker
        self._stored: dict[int, tuple[Any, Any]] = {}  # id of a record -> the record, its reference
        self.window = 4 * pool.size

    def push_messages(self, messages: Iterable[Message]) -> Iterable[str]:
        messages = list(messages)
        current = {id(record) for m in messages for record in m.content.values()}
        self._stored = {k: v for k, v in self._stored.items() if k in current}
        self._queue.extend(messages)
        numbers = [give_id(m) for m in messages]
        self._dispatch()
        return numbers

    def _dispatch(self) -> None:
        while self._queue and (worker := self._pool.take()) is not None:
            message = self._queue.popleft()
            node, content = message.metadata.dst_node_id, message.content
            metadata = {"node": node, "type": message.metadata.message_type, "group": message.metadata.group_id}
            reply, state = worker.call.options(num_returns=2).remote(
                self.context(node),
                self._states.get(node) or RecordDict(),
                metadata,
                list(content),
                *[self._reference(record) for record in content.values()],
            )
            self._running[reply] = (message, state, worker)

    def _reference(self, record: Any) -> Any:
        import ray

        if id(record) not in self._stored:
            self._stored[id(record)] = (record, ray.put(record))
        return self._stored[id(record)][1]

    def pull_messages(self, message_ids: Iterable[str]) -> Iterable[Message]:
        import ray

        if not self._running:
            self._pool.wait(0.5)
            self._dispatch()
        wanted = set(message_ids)
        running = [r for r, (m, _, _) in self._running.items() if m.metadata.message_id in wanted]
        done, _ = ray.wait(running, num_returns=1, timeout=0.5) if running else ([], [])
        return [self._collect(reference) for reference in done]

    def _collect(self, reference: Any) -> Message:
        import ray

        message, state, worker = self._running.pop(reference)
        try:
            content = ray.get(reference)
        except ray.exceptions.RayError as error:
            self._pool.replace()
            self._dispatch()
            why = str(error).strip().splitlines() or [""]
            return error_reply(message, CRASHED, f"the worker died: {type(error).__name__}: {why[0]}")
        self._pool.give_back(worker)
        self._dispatch()
        if isinstance(content, str):
            return error_reply(message, RAISED, content)
        self._states[message.metadata.dst_node_id] = state
        reply = Message(content, reply_to=message)
        give_id(reply)
        return reply

    def states(self) -> dict[int, RecordDict]:
        import ray

        found = {node - 1: ray.get(reference) for node, reference in self._states.items()}
        return {client: state for client, state in found.items() if state}

    def restore(self, states: dict[int, RecordDict]) -> None:
        import ray

        self._states = {client + 1: ray.put(state) for client, state in states.items()}
