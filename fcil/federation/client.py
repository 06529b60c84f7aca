"""The ClientApp: trains one client for one round.

A process that plays clients keeps one resident net, the data, and what the server shares, each
loaded once and used by every client it plays. What a client itself remembers lives in the
Flower context and goes nowhere else.
"""

from __future__ import annotations

import json
from collections.abc import Mapping
from dataclasses import dataclass
from functools import lru_cache
from types import MappingProxyType
from typing import Any, cast

import torch
from flwr.app import ArrayRecord, ConfigRecord, Context, Message, MetricRecord, RecordDict
from flwr.clientapp import ClientApp

from fcil.federation.codec import from_records, to_arrays, to_records, to_tensors
from fcil.federation.messages.audit import RECORD, Audit
from fcil.federation.optimisation.control import ControlVariate
from fcil.federation.optimisation.settings import Scaffold
from fcil.federation.protection.client_mods import LOG, around, forge
from fcil.federation.protection.malicious import given
from fcil.federation.runtime.graphs import CapturedSteps, obstacle
from fcil.federation.runtime.user_code import check_update, named_state
from fcil.federation.runtime.vectorised import step_sizes, train_together
from fcil.federation.runtime.worker import Site, Sites
from fcil.nets import Net, normalises_one
from fcil.roles import Client
from fcil.shapelets.banks import bring_bank, keep_bank, new_shapelets, put_back
from fcil.types import State, Update

AFTER_TASK = "train.after_task"
SHAPELETS = "train.shapelets"


def client_app(sites: Sites | None = None) -> ClientApp:
    """The ClientApp of a process.

    Args:
        sites: what the process keeps between messages; None: nothing yet, and data sets of its own.
    """
    app, sites = ClientApp(), sites or Sites()

    @app.train()
    def train(message: Message, context: Context) -> Message:
        return _train(_Call.of(sites, message, context))

    @app.train("after_task")
    def after_task(message: Message, context: Context) -> Message:
        return _after_task(_Call.of(sites, message, context))

    @app.train("shapelets")
    def shapelets(message: Message, context: Context) -> Message:
        return _shapelets(_Call.of(sites, message, context))

    app.query()(identify)
    return app


@dataclass(frozen=True)
class _Call:
    """A message to one client, read once, and the site of its run."""

    message: Message
    context: Context
    site: Site
    job: Mapping[str, Any]
    """Task, round, learning rate and what else the server says beside the arrays."""

    @classmethod
    def of(cls, sites: Sites, message: Message, context: Context) -> _Call:
        site = sites.of(plan_text(message))
        return cls(message, context, site, _job_of(message))

    @property
    def who(self) -> tuple[int, int, int]:
        """Task, round and client."""
        return self.job["task"], self.job["round"], int(self.context.node_config["partition-id"])

    @property
    def number(self) -> str:
        """Number of the message, which no other has."""
        return self.message.metadata.message_id

    def sizes(self) -> tuple[int, ...]:
        """Sizes of the client's batches in this round."""
        task, _, client = self.who
        return step_sizes(self.site.plan, self.site.context.scenario, task, client)

    def waiting(self) -> list[_Call]:
        """The same question to other clients in this process that none has answered yet."""
        kind, text, known = self.message.metadata.message_type, plan_text(self.message), self.site.trained
        others = [m for m in self.site.companions() if m[0].metadata.message_type == kind and plan_text(m[0]) == text]
        calls = [_Call(message, context, self.site, _job_of(message)) for message, context in others]
        return [call for call in calls if call.job == self.job and call.number not in known]


def _job_of(message: Message) -> Mapping[str, Any]:
    return _job(str(cast(ConfigRecord, message.content["config"])["job"]))


@lru_cache(maxsize=2)
def _job(text: str) -> Mapping[str, Any]:
    """Return a job that was sent as JSON, the same to all clients of a round."""
    return MappingProxyType(json.loads(text))


def plan_text(message: Message) -> str:
    """The plan that a message comes with, as JSON."""
    return str(cast(ConfigRecord, message.content["plan"])["plan"])


def _train(call: _Call) -> Message:
    """One round of local training, with the mods of the plan around it, and what a malicious client makes of it."""
    plan = call.site.plan
    reply = around(plan.federation.mods, plan.seed, call.who, call.message, call.context, lambda *_: _trained(call))
    forge(plan, call.who, call.message, reply)
    return reply


def _trained(call: _Call) -> Message:
    if call.site.plan.federation.clients_per_call > 1 and call.number not in call.site.trained:
        _train_together(call)
    if ready := call.site.trained.pop(call.number, None):
        return _reply(call, *ready)
    captured = _capture(call.site)
    client, audit = _client(call, captured)
    with call.site.playing(client, "local_train"):
        update = call.site.plan.strategy.strategy.local_train(client)
        check_update(update, "local_train", optional=False)
        client.check_lent()
        if isinstance(client.correction, ControlVariate):
            update.weights |= client.correction.changes
        reply = _reply(call, client, audit, update)
    if captured is not None and captured.problem:
        line = f"client {client.index}: resources.compile: no step was captured: {captured.problem}"
        reply.content[LOG] = ConfigRecord({"lines": [line]})
    return reply


def _train_together(call: _Call) -> None:
    """Train a client and those of the waiting ones that can be trained with it, if any; `site.trained` has the answers.

    One whose loss was not finite is left out: alone it will say so.
    """
    site, strategy = call.site, call.site.plan.strategy.strategy
    group = [call, *(other for other in call.waiting() if other.sizes() == call.sizes())]
    if len(group) < 2 or not call.sizes():
        return
    first, audit = _client(call)
    clients = [(first, audit), *(_client(other, net=first.net) for other in group[1:])]
    with site.playing(first, "local_train"):
        trained = strategy.trainable(first.net)
        updates = train_together([client for client, _ in clients], strategy.local_loss, trained)
    for other, (client, seen), update in zip(group, clients, updates, strict=True):
        if update is not None:
            site.trained[other.number] = client, seen, update


def _after_task(call: _Call) -> Message:
    """Answer with what the strategy's `after_local_task` returns."""
    client, audit = _client(call)
    with call.site.playing(client, "after_local_task"):
        update = call.site.plan.strategy.strategy.after_local_task(client)
        check_update(update, "after_local_task", optional=True)
        return _reply(call, client, audit, update)


def _shapelets(call: _Call) -> Message:
    """Answer with the shapelets of classes of which the global net has none, where they are shared."""
    client, audit = _client(call)
    with call.site.playing(client, "local_train"):
        found = new_shapelets(client.net, client.shard)
    update = None if found is None else Update(found.tensors(), len(client.shard), {})
    return _reply(call, client, audit, update, pieces=0 if found is None else len(found))


def identify(message: Message, context: Context) -> Message:
    """Return the client number of this node: Flower numbers nodes anew in every run, and clients keep their number.

    It is asked when a run of ours begins, of which one run of Flower's may hold many: the client begins anew.
    """
    context.state = RecordDict()
    return Message(
        RecordDict({"node": ConfigRecord({"client": int(context.node_config["partition-id"])})}), reply_to=message
    )


def _capture(site: Site) -> CapturedSteps | None:
    """Return what captures a client's steps in a round; None: they run as ever."""
    plan = site.plan
    if plan.resources.compile is None:
        return None
    why = obstacle(plan.strategy.strategy, plan.optimizer.name, site.device.type == "cuda")
    return None if why else CapturedSteps(site.device)


def _client(call: _Call, captured: CapturedSteps | None = None, net: Net | None = None) -> tuple[Client, Audit]:
    """Return a client and its audit; in a net that holds the weights of its message already, if one is given."""
    site, job = call.site, call.job
    plan, scenario, (task, round, index) = site.plan, site.context.scenario, call.who
    weights = site.whole(to_tensors(cast(ArrayRecord, call.message.content["weights"])))
    shard = scenario.shard(task, index, seen=plan.strategy.strategy.data == "seen")
    memory = _memory(call.context, site.device)
    audit = Audit.of(scenario, task, index, shard, memory)
    client = Client(
        index=index,
        task=site.context.tasks[task - 1],
        round=round,
        net=net or site.resident_net(weights, job["text_width"]),
        shard=given(plan, index, audit.held, scenario.tasks),
        shared=site.receive(call.message.content, job["shared"]),
        memory=memory,
        seed=plan.seed,
        lr=job["lr"],
        local_epochs=plan.federation.local_epochs,
        local_steps=plan.federation.local_steps,
        batch_size=plan.federation.batch_size,
        optimizer=plan.optimizer,
        device=site.device,
        frozen_net=site.frozen_net,
        start={name: w.to(site.device) for name, w in weights.items()},
        max_batches=plan.federation.max_batches,
        most_exemplars=plan.federation.exemplars,
        capture=None if captured is None else captured.of,
    )
    if isinstance(plan.federation.server, Scaffold):
        client.correction = ControlVariate(client, plan.federation.server.lasts)
    private = bring_bank(client.net, memory, client.shard, client.generator("tokens"))
    client.start.update(private)
    return client, audit


def _memory(context: Context, device: torch.device) -> State:
    if "memory" not in context.state:
        return {}
    arrays, values = context.state["memory"], context.state["memory.values"]
    return from_records(cast(ArrayRecord, arrays), cast(ConfigRecord, values), device)


def _reply(call: _Call, client: Client, audit: Audit, update: Update | None, pieces: int = 0) -> Message:
    state = call.context.state
    private = client.net.private()
    keep_bank(client.net, client.memory)
    put_back(client.net)
    if client.memory or "memory" in state:
        resident = {t.untyped_storage().data_ptr() for t in client.net.state_dict().values()}
        with named_state("client.memory"):
            state["memory"], state["memory.values"] = to_records(_own(client.memory, resident))
    sent = frozenset() if update is None else private & update.weights.keys()
    record = audit.record(client, batches_of_one=_without_variance(call.site, client), private=sent, pieces=pieces)
    content = RecordDict({RECORD: record})
    if client.memory:
        content["memory"] = ConfigRecord({"kept": True})  # that there is one, not what it is
    if update is not None:
        content["weights"] = to_arrays(update.weights)  # read where they lie: the net is given other memory
        content["metrics"] = MetricRecord({k: float(v) for k, v in update.metrics.items()})
        content["config"] = ConfigRecord({"num_examples": update.num_examples})
    return Message(content, reply_to=call.message)


def _without_variance(site: Site, client: Client) -> int:
    """Return the number of training batches of one image, in which a BatchNorm layer had no variance."""
    if not client.single_batches or normalises_one(site.plan.net, site.context.scenario.dataset.shape):
        return 0
    return client.single_batches


def _own(value: Any, resident: set[int]) -> Any:
    """The same tree with copies of what lies in the resident net, which the next client overwrites."""
    if isinstance(value, dict):
        return {k: _own(v, resident) for k, v in value.items()}
    shares = isinstance(value, torch.Tensor) and value.untyped_storage().data_ptr() in resident
    return value.detach().clone() if shares else value
