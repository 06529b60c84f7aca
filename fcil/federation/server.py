"""The ServerApp: task by task, round by round, aggregate and evaluate.

The loop owns what Flower leaves open: which client is which, who is drawn, in which order updates
are summed, what is sent again and what is not, and where a run stands.
"""

from __future__ import annotations

import json
import time
from collections import deque
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, field
from typing import Any, cast

import torch
from flwr.app import ArrayRecord, ConfigRecord, Context, Message, MessageType, MetricRecord, RecordDict
from flwr.serverapp import Grid, ServerApp
from torch import Tensor

from fcil.data import Scenario
from fcil.errors import TrainingError
from fcil.federation.checkpoint import Checkpoints, Position
from fcil.federation.client import AFTER_TASK
from fcil.federation.codec import num_bytes, to_arrays, to_tensors
from fcil.federation.evaluate import evaluate
from fcil.federation.executor import Executor, Job, inversion
from fcil.federation.grids import LocalGrid
from fcil.federation.observer import Observer
from fcil.federation.phases import Phases, timed
from fcil.federation.plan import Plan, first_net, tasks_of
from fcil.federation.sharing import Shared
from fcil.optimizer import learning_rate
from fcil.rng import generator
from fcil.roles import Server
from fcil.strategy import Strategy
from fcil.synthesis import Bound, Synthesizer
from fcil.synthesis.base import merge
from fcil.types import Tensors, Update


def server_app(loop: Callable[[Grid], Loop]) -> ServerApp:
    """A ServerApp whose main runs the loop on the grid it is given."""
    app = ServerApp()

    @app.main()
    def main(grid: Grid, context: Context) -> None:
        loop(grid).run()

    return app


@dataclass
class Loop:
    """A run on a grid: everything it needs, and where it stands."""

    grid: Grid
    plan: Plan
    scenario: Scenario
    anchors: Tensor | None
    executor: Executor
    observer: Observer
    checkpoints: Checkpoints
    device: torch.device
    phases: Phases = field(default_factory=dict)
    shared: Shared = field(default_factory=Shared)

    @property
    def strategy(self) -> Strategy:
        return self.plan.strategy.strategy

    # Tasks ------------------------------------------------------------------------------------

    def run(self) -> None:
        """From the beginning or the last checkpoint to the end."""
        began, federation = time.monotonic(), self.plan.federation
        server, position = self._resume_or_start()
        tasks = tasks_of(self.plan)
        self.observer.run_started(
            tasks=len(tasks),
            rounds=federation.rounds,
            clients=federation.clients_per_round,
            finished_rounds=(position.task - 1) * federation.rounds + position.round,
        )
        elapsed = position.seconds
        for task in tasks[position.task - 1 :]:
            if position.round == 0:
                self._begin(server, task.number)
            self.observer.task_started(task)
            for number in range(position.round + 1, federation.rounds + 1):
                server.round = number
                self._play(server)
                if federation.checkpoint_every and number % federation.checkpoint_every == 0:
                    self._save(server, self._position(task.number, number, elapsed + time.monotonic() - began))
            self._end(server)
            position = self._position(task.number + 1, 0, elapsed + time.monotonic() - began)
            self._save(server, position)
        self.observer.run_done(elapsed + time.monotonic() - began, self.phases)

    def _resume_or_start(self) -> tuple[Server, Position]:
        plan, tasks = self.plan, tasks_of(self.plan)
        net = first_net(plan, self.anchors).to(self.device)
        anchors = None if self.anchors is None else self.anchors.to(self.device)
        server = Server(net, tasks[0], 0, plan.seed, plan.federation.clients, anchors, self._synthesize)
        position = self.checkpoints.restore(server, self.grid, tasks)
        self.phases = dict(position.phases)
        self.shared.received = {int(client): hashes for client, hashes in position.received.items()}
        return server, position

    def _begin(self, server: Server, task: int) -> None:
        """Grow the head for the new classes and let the strategy prepare."""
        server.task, server.round = tasks_of(self.plan)[task - 1], 0
        server.memo = {}
        if server.task.num_seen > server.net.num_classes:
            server.net.grow(server.task.num_seen, generator(server.seed, "head", task))
        self.strategy.before_task(server)

    def _end(self, server: Server) -> None:
        """Collect what clients have to say, let the strategy conclude, and measure."""
        updates: list[Update] = []
        if type(self.strategy).after_local_task is not Strategy.after_local_task:
            everyone = range(self.plan.federation.clients)
            messages = self._messages(server, everyone, AFTER_TASK, lr=0.0, record={})
            updates = [update for _, update in self._answers(server, messages, record={"bytes_up": 0})]
        self.strategy.after_task(server, updates)
        with timed(self.phases, "evaluate"):
            rows = evaluate(server, self.strategy, self.scenario)
        self.observer.task_done(server.task, rows)

    # Rounds -----------------------------------------------------------------------------------

    def _play(self, server: Server) -> None:
        """One round."""
        plan, task, number = self.plan, server.task.number, server.round
        lr = learning_rate(plan.optimizer, number, plan.federation.rounds)
        chosen = list(self.strategy.sample(server, plan.federation.clients_per_round))
        self.observer.round_started(task, number, chosen)
        record: dict[str, Any] = {"task": task, "round": number, "lr": lr, "clients": chosen, "failures": []}
        before = dict(self.phases)
        with timed(self.phases, "send"):
            messages = self._messages(server, chosen, MessageType.TRAIN, lr=lr, record=record)
        answers = self._answers(server, messages, record)
        with timed(self.phases, "aggregate", without="clients"):
            self.strategy.aggregate(server, (update for _, update in answers))
            for _ in answers:  # a strategy that stopped early still lets every client finish
                pass
        every = plan.federation.evaluate_every
        if every and number % every == 0:
            with timed(self.phases, "evaluate"):
                rows = evaluate(server, self.strategy, self.scenario)
            record["accuracy"] = sum(r.correct for r in rows) / sum(r.examples for r in rows)
        record["seconds"] = {k: round(v - before.get(k, 0.0), 4) for k, v in self.phases.items()}
        self.observer.round_done(record)

    def _answers(
        self, server: Server, messages: dict[int, Message], record: dict[str, Any]
    ) -> Iterator[tuple[int, Update]]:
        """Send each client its message and yield their updates in order of client number.

        Clients are asked only a window ahead of the one whose turn it is, so that what waits for its
        turn does not grow with the number of clients. `record` gets the bytes received and the mean
        of each loss term.

        Raises:
            TrainingError: a client failed, or none answered in time.
        """
        unsent, ready = deque(sorted(messages)), dict[int, Message]()
        waiting: dict[str, int] = {}  # message id -> client
        terms: dict[str, float] = {}
        window = self.grid.window if isinstance(self.grid, LocalGrid) else len(messages)
        for turn in sorted(messages):
            while turn not in ready:
                while unsent and len(waiting) + len(ready) < window:
                    client = unsent.popleft()
                    (number,) = self.grid.push_messages([messages[client]])
                    waiting[number] = client
                for reply in self._next_replies(waiting):
                    ready[waiting.pop(reply.metadata.reply_to_message_id)] = reply
            update = self._read(server, turn, ready.pop(turn))
            if update is not None:
                _count(update, terms, record)
                yield turn, update
        record["terms"] = {k: v / len(messages) for k, v in terms.items()}

    def _next_replies(self, waiting: dict[str, int]) -> list[Message]:
        """At least one reply, as soon as there is one."""
        timeout = self.plan.federation.timeout
        deadline = time.monotonic() + timeout
        with timed(self.phases, "clients"):
            while True:
                replies = list(self.grid.pull_messages(list(waiting)))
                if replies:
                    return replies
                if time.monotonic() > deadline:
                    late = sorted(waiting.values())
                    raise TrainingError(f"none of the clients {late} answered within {timeout:g} seconds")

    def _messages(
        self, server: Server, clients: Sequence[int], kind: str, *, lr: float, record: dict[str, Any]
    ) -> dict[int, Message]:
        """A message for each client; `record` gets the bytes that they are sent."""
        weights, head = server.net.weights(), server.net.text_head
        self.shared.update(server.shared)
        job = {
            "task": server.task.number,
            "round": server.round,
            "lr": lr,
            "text_width": None if head is None else head.out_features,
            "shared": self.shared.hashes(),
        }
        content: dict[str, ArrayRecord | MetricRecord | ConfigRecord] = {
            "weights": to_arrays(weights),
            "config": ConfigRecord({"job": json.dumps(job)}),
            **self.shared.records(),
        }
        record["bytes_down"] = num_bytes(weights) * len(clients) + self.shared.deliver(clients)
        record["bytes_up"] = 0
        group = f"{server.task.number}/{server.round}"
        return {client: Message(RecordDict(content), client + 1, kind, group_id=group) for client in clients}

    def _read(self, server: Server, client: int, reply: Message) -> Update | None:
        if reply.has_error():
            reason = (reply.error.reason or "no reason given").strip().splitlines()
            self.observer.note("\n".join(reason))
            what = reason[0].removeprefix("TrainingError: ")
            raise TrainingError(f"client {client}, task {server.task.number}, round {server.round}: {what}")
        if "weights" not in reply.content:
            return None
        weights = to_tensors(cast(ArrayRecord, reply.content["weights"]), self.device)
        metrics = {k: float(v) for k, v in cast(MetricRecord, reply.content["metrics"]).items()}  # type: ignore[arg-type]
        examples = int(cast(int, cast(ConfigRecord, reply.content["config"])["num_examples"]))
        self.observer.client_done(server.task.number, server.round, client, metrics)
        return Update(weights, examples, metrics)

    # Synthesis --------------------------------------------------------------------------------

    def _synthesize(
        self, server: Server, synthesizer: Synthesizer, labels: Sequence[int], bound: Bound | None
    ) -> Tensors:
        """Run the chains of a synthesizer on the executor; the pool comes back on the server's device."""
        task = server.task.number
        key = (server.seed, "synthesis", task)
        problem = synthesizer.checked(inversion(self.plan, server.net, labels, server.anchors, bound, key))
        threads = self.plan.resources.threads
        jobs = [Job.of(synthesizer, chain, self.plan.net, problem, threads) for chain in range(synthesizer.chains)]
        done, total = 0, synthesizer.chains * synthesizer.episodes

        def tick(terms: dict[str, float]) -> None:
            nonlocal done
            done += 1
            self.observer.synthesis_progress(task, done, total, terms)

        with timed(self.phases, "synthesis"):
            pools = self.executor.run(jobs, synthesizer.episodes, tick)
        pool = merge(pools)
        self.observer.synthesis_done(task, pool)
        return {name: t.to(self.device) for name, t in pool.items()}

    # Bookkeeping ------------------------------------------------------------------------------

    def _position(self, task: int, round: int, seconds: float) -> Position:
        received = {str(client): hashes for client, hashes in self.shared.received.items()}
        return Position(task, round, seconds, self.phases, received)

    def _save(self, server: Server, position: Position) -> None:
        with timed(self.phases, "checkpoint"):
            self.checkpoints.save(server, self.grid, position)


def _count(update: Update, terms: dict[str, float], record: dict[str, Any]) -> None:
    record["bytes_up"] += num_bytes(update.weights)
    for name, value in update.metrics.items():
        if name.startswith("terms/"):
            terms[name.removeprefix("terms/")] = terms.get(name.removeprefix("terms/"), 0.0) + value
