"""The server: task by task, round by round, aggregate and evaluate.

The loop owns what Flower leaves open: which client is which, who is drawn, in which order updates
are summed, what is sent again and what is not, and where a run stands.
"""

from __future__ import annotations

import itertools
import json
import time
from collections.abc import Iterable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field, replace
from typing import Any

from flwr.app import ArrayRecord, ConfigRecord, Message, MessageType, MetricRecord, RecordDict
from flwr.serverapp import Grid
from torch import Tensor

from fcil.averaging import Weighting
from fcil.federation.checkpoint import Checkpoints, Position
from fcil.federation.client import AFTER_TASK, SHAPELETS
from fcil.federation.codec import to_arrays
from fcil.federation.context import RunContext
from fcil.federation.evaluate import evaluate, evaluate_closely
from fcil.federation.exchange import Dispatcher, Request, find_nodes
from fcil.federation.executor import Executor
from fcil.federation.grids import LocalGrid
from fcil.federation.messages.audit import AuditLog
from fcil.federation.messages.failures import Failure
from fcil.federation.messages.replies import Expected, InvalidReplyError, read_update
from fcil.federation.messages.sharing import Shared, sizes
from fcil.federation.observer import Observer
from fcil.federation.optimisation.settings import Scaffold
from fcil.federation.optimisation.steps import CHANGE, begin_task
from fcil.federation.plan import Plan
from fcil.federation.protection.averager import Averager, spent
from fcil.federation.protection.malicious import malicious
from fcil.federation.runtime.interrupts import Interrupted, Interrupts
from fcil.federation.runtime.timing import Phases, timed
from fcil.federation.runtime.user_code import calling, named_state
from fcil.federation.synthesis.service import Syntheses
from fcil.io.state import digest, flatten, num_bytes
from fcil.optimizer import learning_rate
from fcil.rng import drawing, generator
from fcil.roles import Server, ServerServices, Teacher
from fcil.shapelets import Shapelets
from fcil.shapelets.banks import gather, received, shares
from fcil.strategy import Strategy
from fcil.synthesis import Bound, Synthesizer
from fcil.types import Task, Tensors, Update


@dataclass(frozen=True)
class Services(ServerServices):
    """Services that strategies use in a run."""

    averager: Averager
    syntheses: Syntheses
    observer: Observer

    def average(self, server: Server, updates: Iterable[Update], weighting: Weighting) -> Update:
        return self.averager.average(server, updates, weighting)

    def synthesize(
        self,
        server: Server,
        synthesizer: Synthesizer,
        labels: Sequence[int],
        bound: Bound | None,
        teacher: Teacher | None,
    ) -> Tensors:
        return self.syntheses.run(server, synthesizer, labels, bound, teacher)

    def inputs(self, server: Server, pool: Tensors) -> Tensor:
        return self.syntheses.inputs(pool)

    def show(self, server: Server, pool: Tensors) -> None:
        self.observer.synthesis_done(server.task.number, pool)

    def show_some(self, server: Server, samples: Tensors) -> None:
        self.observer.synthesis_seen(server.task.number, server.round, samples)


@dataclass
class Loop:
    """A run on a grid: everything it needs, and where it stands."""

    grid: Grid
    context: RunContext
    clients_plan: Plan  # as clients are told, who may have other devices
    executor: Executor
    observer: Observer
    checkpoints: Checkpoints
    interrupts: Interrupts
    phases: Phases = field(default_factory=dict)
    shared: Shared = field(default_factory=Shared)
    ledger: AuditLog = field(default_factory=AuditLog)  # of what clients have seen in this task
    _saved: tuple[int, int] = (0, 0)  # task and round of the last checkpoint
    _digest: str = ""  # of the net that the last round has led to
    _began: float = 0.0  # when the run would have begun if it had never been interrupted

    def __post_init__(self) -> None:
        federation = self.plan.federation
        self._told = ConfigRecord({"plan": self.clients_plan.to_json()})
        nodes = find_nodes(self.grid, federation.clients, self._told, federation.timeout, self.observer.note)
        self._exchange = Dispatcher(self.grid, nodes, federation, self.observer, self.phases)
        self._averager = Averager(self.plan)
        self._syntheses = Syntheses(
            self.context, self.executor, self.observer, self.checkpoints, self.interrupts, self.phases
        )

    @property
    def plan(self) -> Plan:
        return self.context.plan

    @property
    def strategy(self) -> Strategy:
        return self.plan.strategy.strategy

    # Tasks ------------------------------------------------------------------------------------

    def run(self) -> None:
        """Run from the beginning or the last checkpoint to the end."""
        with self.interrupts.patience():
            server, position = self._resume_or_start()
            for task in self.context.tasks[position.task - 1 :]:
                self._learn(server, task, position.round if task.number == position.task else 0)
            with timed(self.phases, "checkpoint"):
                self.observer.run_trained(server)
            self.observer.run_done(self._seconds(), self.phases)

    def _resume_or_start(self) -> tuple[Server, Position]:
        plan, tasks = self.plan, self.context.tasks
        server = self.context.first_server(Services(self._averager, self._syntheses, self.observer))
        position, damaged = self.checkpoints.restore(server, self.grid, tasks)
        self.phases.update(position.phases)
        self.shared.received = {int(client): hashes for client, hashes in position.received.items()}
        self._exchange.remembering, self.ledger = position.elsewhere, AuditLog.restored(position.touched)
        self._saved, self._began = (position.task, position.round), time.monotonic() - position.seconds
        self.observer.restored(self.checkpoints.restored)
        self.observer.run_started(
            tasks=len(tasks),
            rounds=plan.federation.rounds,
            clients=plan.federation.clients_per_round,
            finished_rounds=(position.task - 1) * plan.federation.rounds + position.round,
        )
        for line in damaged:
            self.observer.note(line)
        return server, position

    def _learn(self, server: Server, task: Task, finished: int) -> None:
        """A task, of which some rounds may be finished."""
        if not finished:
            self._begin(server, task)
        self.observer.task_started(task)
        rounds, every = self.plan.federation.rounds, self.plan.federation.checkpoint_every
        for number in range(finished + 1, rounds + 1):
            server.round = number
            self._play_or_undo(server)
            if number == rounds or self.interrupts.requested or (every and number % every == 0):
                self._save(server, task.number, number, self._digest)
            self.interrupts.check()
        self._end(server)
        self._save(server, task.number + 1, 0)
        self.interrupts.check()

    def _begin(self, server: Server, task: Task) -> None:
        """Grow the head for the new classes and let the strategy prepare."""
        server.task, server.round = task, 0
        if self.strategy.memo_lasts == "task":
            server.memo = {}
        begin_task(self.plan.federation.server, server)
        if task.num_seen > server.net.num_classes:
            server.net.grow(task.num_seen, generator(server.seed, "head", task.number))
        if shares(server.net):
            self._gather_shapelets(server)
        self._syntheses.begin("before")
        with self._calling("before_task", server):
            self.strategy.before_task(server)

    def _gather_shapelets(self, server: Server) -> None:
        """Ask every client for shapelets of the new classes, and append the best of them to the global net."""
        shape, task, failures = self.context.scenario.dataset.shape, server.task, list[Failure]()
        everyone = range(self.plan.federation.clients)
        question = self._question(server, everyone, SHAPELETS, lr=0.0, record={})

        def read(reply: Message) -> Update | None:
            update = question.read(reply)
            try:
                return update and replace(update, weights=received(update.weights, shape, task.num_seen).tensors())
            except ValueError as error:
                raise InvalidReplyError(f"it sent {error}") from None

        answers = self._exchange.answers(replace(question, read=read), failures)
        sent = [Shapelets(**update.weights) for _, update in answers if update is not None]
        gather(server.net, sent, generator(server.seed, "tokens", task.number))
        found = f"{sum(map(len, sent))} shapelets"
        said = f"{found} found" if len(everyone) == 1 else f"clients sent {found}, raw pieces of their series"
        self.observer.note(f"task {task.number}: {said}")

    def _end(self, server: Server) -> None:
        """Collect what clients have to say, let the strategy conclude, and measure."""
        failures: list[Failure] = []
        record: dict[str, Any] = {"bytes_up": 0, "bytes_down": 0}
        self._syntheses.begin()
        updates = self._conclusions(server, failures, record)
        first = next(updates, None)
        with self._calling("after_task", server):
            self.strategy.after_task(server, () if first is None else itertools.chain([first], updates))
        for _ in updates:  # a strategy that stopped early still lets every client finish
            pass
        record["failures"] = [f.record() for f in failures] + self._syntheses.told()
        with named_state(f"after task {server.task.number}: server.shared"):
            record["shared"] = sizes(server.shared)
        record |= self.ledger.line() | self.ledger.end() | self._syntheses.made()
        self.observer.task_concluded(server.task.number, record)
        with timed(self.phases, "evaluate"):
            rows, predictions = evaluate_closely(server, self.strategy, self.context.scenario)
        self.observer.task_predicted(server.task, predictions)
        self.observer.task_done(server.task, rows)
        with timed(self.phases, "checkpoint"):
            self.observer.task_trained(server)

    def _conclusions(self, server: Server, failures: list[Failure], record: dict[str, Any]) -> Iterator[Update]:
        """Collect what `after_local_task` returns on each client that has something to say, in order of clients."""
        if type(self.strategy).after_local_task is Strategy.after_local_task:
            return
        everyone = range(self.plan.federation.clients)
        question = self._question(server, everyone, AFTER_TASK, lr=0.0, record=record)
        for _, update in self._exchange.answers(question, failures):
            if update is not None:
                record["bytes_up"] += num_bytes(update.weights)
                yield update

    # Rounds -----------------------------------------------------------------------------------

    def _play_or_undo(self, server: Server) -> None:
        """One round. If the run is stopped within it, what the round found is saved, unless it was before."""
        task, number = server.task.number, server.round
        with named_state(f"task {task}: the server's state"):
            found = _Standing(server)
        received, seen = dict(self.shared.received), self.ledger.values()
        roll_back = self.grid.snapshot() if isinstance(self.grid, LocalGrid) else None
        try:
            self._play(server)
        except Interrupted:
            if roll_back is not None and self._saved != (task, number - 1) and found.still(server):
                self.shared.received, self.ledger = received, AuditLog.restored(seen)
                roll_back()
                self._save(server, task, number - 1)
            raise

    def _play(self, server: Server) -> None:
        plan, task, number = self.plan, server.task.number, server.round
        lr = learning_rate(plan.optimizer, number, plan.federation.rounds)
        with self._calling("sample", server):
            chosen = list(self.strategy.sample(server, plan.federation.clients_per_round))
        self.observer.round_started(task, number, chosen)
        record: dict[str, Any] = {"task": task, "round": number, "lr": lr, "clients": chosen}
        before, failures = dict(self.phases), list[Failure]()
        self._syntheses.begin(number)
        with timed(self.phases, "send"):
            question = self._question(server, chosen, MessageType.TRAIN, lr=lr, record=record)
        with timed(self.phases, "aggregate", without="clients"):
            self._aggregate(server, self._updates(server, question, failures, record))
        record["failures"] = [f.record() for f in failures] + self._syntheses.told()
        record |= self.ledger.line() | self._syntheses.made()
        record["weights"] = digest(*flatten({"net": server.net.state_dict()}))  # the name of the checkpoint's part, too
        if plan.federation.privacy is not None:
            record["epsilon"] = spent(plan, (task - 1) * plan.federation.rounds + number)
        if plan.federation.attack is not None:
            record["malicious"] = malicious(plan)
        every = plan.federation.evaluate_every
        if every and number % every == 0:
            with timed(self.phases, "evaluate"):
                rows = evaluate(server, self.strategy, self.context.scenario)
            record["accuracy"] = sum(r.correct for r in rows) / sum(r.examples for r in rows)
        record["seconds"] = {k: round(v - before.get(k, 0.0), 4) for k, v in self.phases.items()}
        self._digest = record["weights"]
        self.observer.round_done(record)

    def _aggregate(self, server: Server, updates: Iterator[Update]) -> None:
        first = next(updates, None)
        if first is None:
            self.observer.note(f"task {server.task.number}, round {server.round}: nothing to aggregate; the net stays")
            return
        with self._calling("aggregate", server):
            received = itertools.chain([first], updates)
            del first  # a client's update is let go of before the next client is asked
            self.strategy.aggregate(server, self._averager.seal(received))
        self._averager.check()
        for _ in updates:  # a strategy that stopped early still lets every client finish
            pass

    def _updates(
        self, server: Server, question: Request, failures: list[Failure], record: dict[str, Any]
    ) -> Iterator[Update]:
        """Updates in order of clients; `record` gets the bytes received, and the mean of each loss term.

        A client without examples has trained nothing. It would have no weight in an average, so it is
        noted and left out, of uniform averages too.
        """
        terms: dict[str, float] = {}
        empty: list[int] = []
        told = 0
        for client, update in self._exchange.answers(question, failures):
            if update is None:
                continue
            self.observer.client_done(server.task.number, server.round, client, update.metrics)
            record["bytes_up"] += num_bytes(update.weights)
            if not update.num_examples:
                empty.append(client)
                continue
            told += 1
            for name, value in update.metrics.items():
                if name.startswith("terms/"):
                    terms[name.removeprefix("terms/")] = terms.get(name.removeprefix("terms/"), 0.0) + value
            yield update
            del update
        record["terms"] = {name: value / told for name, value in terms.items()}
        record["empty"] = empty

    def _question(
        self, server: Server, clients: Sequence[int], kind: str, *, lr: float, record: dict[str, Any]
    ) -> Request:
        """Return the question to the clients; `record` gets the bytes that they are sent."""
        stored = isinstance(self.grid, LocalGrid) and self.grid.stores
        fixed = server.net.fixed()
        weights = server.net.state_dict() if stored else server.net.weights()
        weights = {name: tensor for name, tensor in weights.items() if name not in fixed}
        head, task = server.net.text_head, server.task.number
        with named_state(f"task {task}, round {server.round}: server.shared"):
            self.shared.update(server.shared)
        job = {
            "task": task,
            "round": server.round,
            "lr": lr,
            "text_width": None if head is None else head.out_features,
            "shared": self.shared.hashes(),
        }
        content: dict[str, ArrayRecord | MetricRecord | ConfigRecord] = {
            "weights": to_arrays(weights),
            "config": ConfigRecord({"job": json.dumps(job)}),
            "plan": self._told,
            **self.shared.records(),
        }
        record["bytes_down"] = num_bytes(weights) * len(clients) + self.shared.deliver(clients)
        record["bytes_up"] = 0
        with self._calling("trainable", server):
            beside = CHANGE if isinstance(self.plan.federation.server, Scaffold) else None
            training = kind == MessageType.TRAIN
            expected = Expected.of(server.net, self.strategy, self.context.scenario, training=training, beside=beside)
        nodes = self._exchange.nodes
        return Request(
            place=f"task {task}, round {server.round}",
            clients=clients,
            write=lambda client: Message(RecordDict(content), nodes[client], kind, group_id=f"{task}/{server.round}"),
            read=lambda reply: read_update(reply, expected),
            ledger=self.ledger,
        )

    # Bookkeeping ------------------------------------------------------------------------------

    @contextmanager
    def _calling(self, verb: str, server: Server) -> Iterator[None]:
        key = server.seed, "draws of nets", verb, server.task.number, server.round, "server"
        with drawing(*key), calling(verb, f"task {server.task.number}, round {server.round}"):
            yield

    def _seconds(self) -> float:
        return time.monotonic() - self._began

    def _save(self, server: Server, task: int, round: int, net_hash: str | None = None) -> None:
        received = {str(client): hashes for client, hashes in self.shared.received.items()}
        elsewhere = self._exchange.remembering and not isinstance(self.grid, LocalGrid)
        with timed(self.phases, "checkpoint"):
            position = Position(task, round, self._seconds(), self.phases, received, elsewhere, self.ledger.values())
            with named_state(f"after task {server.task.number}, round {server.round}: server.shared or server.memo"):
                self.checkpoints.save(server, self.grid, self.shared, position, net_hash)
        self._saved = task, round


class _Standing:
    """Snapshot of the server's state, to see later whether anything was replaced or changed in place."""

    def __init__(self, server: Server) -> None:
        state = {"net": server.net.state_dict(), "shared": server.shared, "memo": server.memo}
        state["moments"] = server.moments
        self._tensors, self._scalars = flatten(state)  # kept, so that no new tensor lies where an old one was
        self._versions = {name: (t.data_ptr(), t._version) for name, t in self._tensors.items()}

    def still(self, server: Server) -> bool:
        now = _Standing(server)
        return (self._versions, self._scalars) == (now._versions, now._scalars)
