"""A grid that behaves as Flower's do, in this process and without waiting."""

from __future__ import annotations

import random
from collections.abc import Iterable, Sequence
from typing import cast
from uuid import uuid4

from flwr.app import Context, Message, RecordDict
from flwr.clientapp import ClientApp
from flwr.common.serde import context_from_proto, context_to_proto
from flwr.serverapp import Grid
from flwr.supercore.inflatable.inflatable_object import get_all_nested_objects
from flwr.supercore.inflatable.inflatable_utils import inflate_object_from_contents
from flwr.supercore.run import Run

from fcil.federation.compat import new_context, new_run
from fcil.federation.flower_app import client

RUN = 7


class ForeignGrid(Grid):
    """Nodes have random numbers and join one by one, replies come late and in any order, all of it as bytes.

    Attributes:
        gone: nodes that take no messages any more.
        slow: clients whose replies stay away until `slow` is emptied.
        unasked: replies are handed out whoever asks for whatever.
    """

    def __init__(self, clients: int, seed: int = 0, app: ClientApp = client, extra: Sequence[dict[str, int]] = ()):
        self._random, self._app = random.Random(seed), app
        configs = [{"partition-id": i, "num-partitions": clients} for i in range(clients)] + list(extra)
        nodes = [self._random.getrandbits(63) for _ in configs]
        self.contexts = {n: new_context(RUN, n, dict(c)) for n, c in zip(nodes, configs, strict=True)}
        self._joining = self._random.sample(nodes, len(nodes))
        self._joined: list[int] = []
        self._waiting: dict[str, Message] = {}
        self.gone: set[int] = set()
        self.slow: set[int] = set()
        self.unasked = False
        self.asked: list[int] = []
        self._run = new_run(RUN)

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
        """One more at each call; at first nobody."""
        now = self._random.sample(self._joined, len(self._joined))
        if self._joining:
            self._joined.append(self._joining.pop())
        return now

    def push_messages(self, messages: Iterable[Message]) -> Iterable[str]:
        numbers: list[str | None] = []
        for message in messages:
            self.asked.append(message.metadata.dst_node_id)
            number = None if message.metadata.dst_node_id in self.gone else uuid4().hex
            numbers.append(number)
            if number is not None:
                message.metadata.__dict__["_message_id"] = number
                self._waiting[number] = message
        return cast("list[str]", numbers)

    def pull_messages(self, message_ids: Iterable[str]) -> Iterable[Message]:
        """At most two, as chance will have it; all there is if `unasked`."""
        wanted = set(self._waiting) if self.unasked else set(message_ids) & set(self._waiting)
        ready = sorted(n for n in wanted if self.client_at(self._waiting[n].metadata.dst_node_id) not in self.slow)
        chosen = ready if self.unasked else self._random.sample(ready, self._random.randint(0, min(2, len(ready))))
        return [self._call(self._waiting.pop(number)) for number in chosen]

    def send_and_receive(self, messages: Iterable[Message], *, timeout: float | None = None) -> Iterable[Message]:
        waiting, replies = set(self.push_messages(messages)), list[Message]()
        while waiting:
            for reply in self.pull_messages(waiting):
                waiting.discard(reply.metadata.reply_to_message_id)
                replies.append(reply)
        return replies

    def waiting(self) -> int:
        """How many messages have not been answered."""
        return len(self._waiting)

    def client_at(self, node: int) -> int | None:
        found = self.contexts[node].node_config.get("partition-id")
        return None if found is None else int(found)

    def _call(self, message: Message) -> Message:
        node, number = message.metadata.dst_node_id, message.metadata.message_id
        arrived = travelled(message)
        arrived.metadata.__dict__["_message_id"] = number
        context: Context = context_from_proto(context_to_proto(self.contexts[node]))
        reply = self._app(message=arrived, context=context)
        self.contexts[node] = context
        return travelled(reply)


def travelled(message: Message) -> Message:
    """What arrives of a message: its objects as Flower sends them, put together again."""
    parts = {number: part.deflate() for number, part in get_all_nested_objects(message).items()}
    return cast(Message, inflate_object_from_contents(message.object_id, parts))
