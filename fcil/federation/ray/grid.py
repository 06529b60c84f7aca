"""Clients on Ray workers, of one machine or a cluster.

Any worker can serve any client: a client's state lives in Ray's object store between its messages,
so it outlives a worker, and a worker that dies is replaced.
"""

from __future__ import annotations

import math
import time
from collections import deque
from collections.abc import Callable, Hashable, Iterable
from typing import Any, NamedTuple

from flwr.app import Context, Message, RecordDict

from fcil.federation.compat import CRASHED, RAISED, error_reply, give_id, new_run
from fcil.federation.executor import ChainWorker
from fcil.federation.grids import LocalGrid, reason
from fcil.federation.ray.pool import StartedPool, death


class Worker(ChainWorker):
    """The body of a Ray actor: imports the ClientApp and calls it; between rounds it is there for the server's chains.

    A process of their own would hold torch once more, half a gigabyte, and be idle whenever this one is not.
    """

    def __init__(self) -> None:
        from fcil.federation.client import client_app

        self._app = client_app()

    def ready(self) -> bool:
        return True

    def call(
        self, context: Context, state: RecordDict, metadata: dict[str, Any], names: list[str], *records: Any
    ) -> tuple[tuple[RecordDict | str, bool], RecordDict]:
        """Returns the reply's content, or what went wrong, with whether the client has a state now; and that state."""
        new_run(context.run_id)
        content = RecordDict(dict(zip(names, records, strict=True)))
        message = Message(content, metadata["node"], metadata["type"], group_id=metadata["group"])
        give_id(message)
        context.state = RecordDict(dict(state))
        try:
            reply = self._app(message=message, context=context)
            return (reply.content, bool(context.state)), context.state
        except Exception as error:
            return (reason(error), bool(state)), state


class WorkerPool(StartedPool):
    """The workers that clients are trained on."""

    def __init__(self, size: int, options: dict[str, Any]) -> None:
        super().__init__(Worker, size, options)


class _Call(NamedTuple):
    """Message that a worker is processing."""

    message: Message
    state: Any  # reference to the client's state after it
    worker: Any
    deadline: float


class RayGrid(LocalGrid):
    """Hands messages to whichever worker is free. A record that many messages share is stored once."""

    stores = True

    def __init__(self, pool: WorkerPool, num_clients: int, timeout: float = math.inf, run_id: int = 1) -> None:
        super().__init__(num_clients, timeout, run_id)
        self._pool = pool
        self._states: dict[int, Any] = {}  # node -> reference to its RecordDict
        self._queue: deque[Message] = deque()
        self._running: dict[Any, _Call] = {}  # reference to the reply's content -> the call
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
            self._running[reply] = _Call(message, state, worker, time.monotonic() + self._timeout)

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
        running = [r for r, call in self._running.items() if call.message.metadata.message_id in wanted]
        done, _ = ray.wait(running, num_returns=1, timeout=0.5) if running else ([], [])
        if done:
            return [self._collect(reference) for reference in done]
        now = time.monotonic()
        return [self._give_up(reference) for reference in running if now > self._running[reference].deadline]

    def _collect(self, reference: Any) -> Message:
        import ray

        call = self._running.pop(reference)
        try:
            content, remembers = ray.get(reference)
        except ray.exceptions.RayError as error:
            self._pool.replace()
            self._dispatch()
            return error_reply(call.message, CRASHED, f"the worker died: {death(error)}")
        self._pool.give_back(call.worker)
        self._dispatch()
        if isinstance(content, str):
            return error_reply(call.message, RAISED, content)
        node = call.message.metadata.dst_node_id
        self._states.pop(node, None)
        if remembers:
            self._states[node] = call.state
        reply = Message(content, reply_to=call.message)
        give_id(reply)
        return reply

    def _give_up(self, reference: Any) -> Message:
        """End the worker, which cannot be asked to leave a client alone; its answer is lost."""
        call = self._running.pop(reference)
        self._pool.drop(call.worker)
        self._dispatch()
        return self._late(call.message)

    def versions(self) -> dict[int, Hashable]:
        return {node - 1: reference for node, reference in self._states.items()}

    def state(self, client: int) -> RecordDict:
        import ray

        reference = self._states.get(client + 1)
        return RecordDict() if reference is None else ray.get(reference)

    def restore(self, states: dict[int, RecordDict]) -> None:
        import ray

        self._states = {client + 1: ray.put(state) for client, state in states.items()}

    def snapshot(self) -> Callable[[], None]:
        states = dict(self._states)

        def roll_back() -> None:
            self._queue.clear()
            for call in self._running.values():
                self._pool.drop(call.worker)
            self._running.clear()
            self._states = states

        return roll_back
