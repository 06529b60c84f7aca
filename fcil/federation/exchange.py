"""Questions to clients and their answers: in order, a window ahead, with failures dealt with.

The loop above sees valid updates in order of client number; clients that were late, died, raised or
sent invalid answers are in the record of the round.
"""

from __future__ import annotations

import math
import time
from collections import deque
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, field
from typing import Any

from flwr.app import ConfigRecord, Message, MessageType, RecordDict
from flwr.serverapp import Grid

from fcil.errors import LeakError, TrainingError
from fcil.federation.grids import LocalGrid
from fcil.federation.messages.audit import AuditLog, read_audit
from fcil.federation.messages.failures import Failure, Kind, judge, kind_of, reason_of
from fcil.federation.messages.replies import InvalidReplyError
from fcil.federation.observer import Observer
from fcil.federation.protection.client_mods import said
from fcil.federation.runtime.timing import Phases, timed
from fcil.federation.settings import FederationSettings
from fcil.types import Update

Answer = Update | tuple[Kind, str] | None
"""Answer of a client: an update, an error and its reason, or nothing to say."""
PAUSES = (0.01, 0.2)
"""Seconds between two looks for answers on a grid of Flower's: at first, and at most."""
ASKED = 3
"""Times a node is asked which client it plays."""
PATIENCE = 10.0
"""Seconds until it is said which clients a run waits for."""


@dataclass(frozen=True)
class Request:
    """Request to some clients at one moment of a run."""

    place: str  # for messages: "task 2, round 3"
    clients: Sequence[int]
    write: Callable[[int], Message]
    read: Callable[[Message], Update | None]
    ledger: AuditLog = field(default_factory=AuditLog)


@dataclass
class Dispatcher:
    """Asks clients on a grid, under a policy for those that fail."""

    grid: Grid
    nodes: dict[int, int]  # client -> node of the grid
    settings: FederationSettings
    observer: Observer
    phases: Phases = field(default_factory=dict)
    remembering: bool = False  # whether any client has said that it remembers something

    def answers(self, question: Request, failures: list[Failure]) -> Iterator[tuple[int, Update | None]]:
        """Send each client its message and yield what they answer, in order of client number.

        Clients are asked only a window ahead of the one whose turn it is, so that what waits for its
        turn does not grow with the number of clients. What fails is added to `failures`; a client
        that is skipped has no turn.

        Raises:
            TrainingError: a client failed and the policy says stop, or too few are left.
            LeakError: a client used what it may not see, whatever the policy says.
        """
        turns = sorted(question.clients)
        unsent = deque((client, 1) for client in turns)
        waiting: dict[str, tuple[int, int]] = {}  # message id -> client, attempt
        ready: dict[int, Update | None] = {}
        lost: set[int] = set()
        window = self.grid.window if isinstance(self.grid, LocalGrid) else len(turns)

        def settle(client: int, attempt: int, answer: Answer) -> None:
            if not isinstance(answer, tuple):
                ready[client] = answer
            elif self._failed(question, client, attempt, *answer, failures) == "retried":
                unsent.appendleft((client, attempt + 1))
            else:
                lost.add(client)
                self._check_enough(question, lost)

        for turn in turns:
            while turn not in ready and turn not in lost:
                while unsent and len(waiting) + len(ready) < window:
                    client, attempt = unsent.popleft()
                    # A grid of Flower's does not number what it cannot deliver.
                    if number := next(iter(self.grid.push_messages([question.write(client)])), None):
                        waiting[number] = client, attempt
                    else:
                        settle(client, attempt, ("died", "its node has left"))
                for number, answer in self._next(question, waiting) if waiting else ():
                    settle(*waiting.pop(number), answer)
                    del answer
            if turn in ready:
                yield turn, ready.pop(turn)

    def _next(self, question: Request, waiting: dict[str, tuple[int, int]]) -> list[tuple[str, Answer]]:
        """At least one answer, as soon as there is one: an update, nothing, or what went wrong."""
        deadline = time.monotonic() + self.settings.timeout
        late = f"no answer within {self.settings.timeout:g} seconds"
        pause, longest = PAUSES
        with timed(self.phases, "clients"):
            while True:
                found = {r.metadata.reply_to_message_id: r for r in self.grid.pull_messages(list(waiting))}
                replies = [(n, self._read(question, waiting[n][0], r)) for n, r in found.items() if n in waiting]
                if replies:
                    return replies
                # Grids of our own time each call; of Flower's we know only that no client answers.
                if not isinstance(self.grid, LocalGrid) and time.monotonic() > deadline:
                    return [(number, ("timeout", late)) for number in waiting]
                if not isinstance(self.grid, LocalGrid):
                    time.sleep(pause)
                    pause = min(1.5 * pause, longest)

    def _read(self, question: Request, client: int, reply: Message) -> Answer:
        if reply.has_error():
            first, text = reason_of(reply)
            self.observer.note(text)
            if first.startswith(f"{LeakError.__name__}: "):
                raise LeakError(f"client {client}, {question.place}: {first.partition(': ')[2]}")
            return kind_of(reply), first
        for line in said(reply):
            self.observer.note(line)
        try:
            update, told = question.read(reply), read_audit(reply)
            if told is not None:
                question.ledger.note(question.place, client, told)
            self.remembering |= "memory" in reply.content
            return update
        except InvalidReplyError as error:
            return "invalid", str(error)

    def _failed(
        self, question: Request, client: int, attempt: int, kind: Kind, reason: str, failures: list[Failure]
    ) -> str:
        failure = judge(self.settings, client, attempt, kind, reason)
        failures.append(failure)
        said = f"client {client}, {question.place}: {reason}"
        if failure.outcome == "stopped":
            raise TrainingError(said)
        self.observer.note(f"{said}; {failure.outcome}")
        return failure.outcome

    def _check_enough(self, question: Request, lost: set[int]) -> None:
        asked, share = len(question.clients), self.settings.min_success
        if asked - len(lost) < math.ceil(share * asked):
            raise TrainingError(
                f"{question.place}: clients {sorted(lost)} of {asked} failed, and federation.min_success is {share:g}"
            )


def find_nodes(
    grid: Grid, clients: int, plan: ConfigRecord, timeout: float, say: Callable[[str], None] = lambda line: None
) -> dict[int, int]:
    """Return the node of each client, by client number.

    Flower's own grids number nodes at random and let them join when they are ready, so each is asked.
    A node that answers no client's number is left alone after `ASKED` questions; of two nodes that
    play the same client the first to answer does.

    Args:
        say: is told what the run waits for, and which nodes cannot take part.
    Raises:
        TrainingError: not every client showed up in time.
    """
    if isinstance(grid, LocalGrid):
        return {client: client + 1 for client in range(clients)}
    search = _Search(grid, plan, say)
    began = time.monotonic()
    while absent := [client for client in range(clients) if client not in search.found]:
        waited = time.monotonic() - began
        if waited > timeout:
            why = "".join(f"; node {node}: {reason}" for node, reason in sorted(search.refused.items())[:1])
            raise TrainingError(f"clients {absent} did not join within {timeout:g} seconds{why}")
        if waited > PATIENCE:
            search.say_once(f"waiting for clients {absent} to join")
        search.step()
        time.sleep(PAUSES[1])
    return {client: search.found[client] for client in range(clients)}


@dataclass
class _Search:
    """Questions to nodes of a grid: which client do you play?"""

    grid: Grid
    plan: ConfigRecord
    say: Callable[[str], None]
    found: dict[int, int] = field(default_factory=dict)  # client -> node
    refused: dict[int, str] = field(default_factory=dict)  # node -> why it plays none
    _asked: dict[int, int] = field(default_factory=dict)  # node -> how often
    _waiting: dict[str, int] = field(default_factory=dict)  # message id -> node
    _said: set[str] = field(default_factory=set)

    def step(self) -> None:
        """Ask nodes that are new or have failed to answer, and take in what has arrived."""
        for node in self.grid.get_node_ids():
            if node in self._waiting.values() or node in self.found.values() or self._asked.get(node, 0) >= ASKED:
                continue
            self._asked[node] = self._asked.get(node, 0) + 1
            question = Message(RecordDict({"plan": self.plan}), node, MessageType.QUERY, group_id="0")
            self._waiting |= dict.fromkeys(filter(None, self.grid.push_messages([question])), node)
        for reply in self.grid.pull_messages(list(self._waiting)) if self._waiting else ():
            node = self._waiting.pop(reply.metadata.reply_to_message_id, -1)
            if reply.has_error():
                self.refused[node] = reason_of(reply)[0]
                self.say_once(f"node {node} does not say which client it plays: {self.refused[node]}")
            elif node >= 0:
                content: Any = reply.content["node"]
                self.found.setdefault(int(content["client"]), node)
                self._asked[node] = ASKED

    def say_once(self, line: str) -> None:
        if line not in self._said:
            self._said.add(line)
            self.say(line)
