"""The ClientApp: trains one client for one round.

A process that plays clients keeps one resident net, the data, and what the server shares, each
loaded once and used by every client it plays. What a client itself remembers lives in the
Flower context and goes nowhere else.
"""

from __future__ import annotations

import json
from typing import Any, cast

import torch
from flwr.app import ArrayRecord, ConfigRecord, Context, Message, MessageType, MetricRecord, RecordDict
from flwr.clientapp import ClientApp

from fcil.federation.codec import from_records, to_arrays, to_records, to_tensors
from fcil.federation.messages.audit import RECORD, Audit
from fcil.federation.plan import scenario_of, tasks_of
from fcil.federation.protection.client_mods import CallNext, around, forge
from fcil.federation.protection.malicious import given
from fcil.federation.runtime.user_code import check_update, named_state
from fcil.federation.runtime.worker import Site, site
from fcil.nets import normalises_one
from fcil.roles import Client
from fcil.types import State, Update

AFTER_TASK = "train.after_task"


def chosen_mods(message: Message, context: Context, call_next: CallNext) -> Message:
    """Training with the mods of the message's plan around it, and what a malicious client makes of the reply."""
    if message.metadata.message_type != MessageType.TRAIN:
        return call_next(message, context)
    plan, job = site_of(message).plan, _job(message)
    who = job["task"], job["round"], int(context.node_config["partition-id"])
    reply = around(plan.federation.mods, plan.seed, who, message, context, call_next)
    forge(plan, who, message, reply)
    return reply


app = ClientApp(mods=[chosen_mods])


def site_of(message: Message) -> Site:
    """The site of the plan that a message comes with."""
    return site(str(cast(ConfigRecord, message.content["plan"])["plan"]))


def _job(message: Message) -> dict[str, Any]:
    """Task, round, learning rate and what else the server says beside the arrays."""
    return cast("dict[str, Any]", json.loads(str(cast(ConfigRecord, message.content["config"])["job"])))


def _client(message: Message, context: Context) -> tuple[Site, Client, Audit]:
    here, job = site_of(message), _job(message)
    plan, index = here.plan, int(context.node_config["partition-id"])
    scenario = scenario_of(plan)
    weights = to_tensors(cast(ArrayRecord, message.content["weights"]))
    shard = scenario.shard(job["task"], index, seen=plan.strategy.strategy.data == "seen")
    memory = _memory(context, here.device)
    audit = Audit.of(scenario, job["task"], index, shard, memory)
    client = Client(
        index=index,
        task=tasks_of(plan)[job["task"] - 1],
        round=job["round"],
        net=here.resident_net(weights, job["text_width"]),
        shard=given(plan, index, audit.held, scenario.tasks),
        shared=here.receive(message.content, job["shared"]),
        memory=memory,
        seed=plan.seed,
        lr=job["lr"],
        local_epochs=plan.federation.local_epochs,
        batch_size=plan.federation.batch_size,
        optimizer=plan.optimizer,
        device=here.device,
        frozen_net=here.frozen_net,
        start={name: w.to(here.device) for name, w in weights.items()},
        max_batches=plan.federation.max_batches,
        most_exemplars=plan.federation.exemplars,
    )
    return here, client, audit


def _memory(context: Context, device: torch.device) -> State:
    if "memory" not in context.state:
        return {}
    arrays, values = context.state["memory"], context.state["memory.values"]
    return from_records(cast(ArrayRecord, arrays), cast(ConfigRecord, values), device)


def _reply(message: Message, context: Context, client: Client, audit: Audit, update: Update | None) -> Message:
    resident = {t.untyped_storage().data_ptr() for t in client.net.state_dict().values()}
    if client.memory or "memory" in context.state:
        with named_state("client.memory"):
            context.state["memory"], context.state["memory.values"] = to_records(_own(client.memory, resident))
    content = RecordDict({RECORD: audit.record(client, batches_of_one=_without_variance(message, client))})
    if client.memory:
        content["memory"] = ConfigRecord({"kept": True})  # that there is one, not what it is
    if update is not None:
        content["weights"] = to_arrays(_own(update.weights, resident))
        content["metrics"] = MetricRecord({k: float(v) for k, v in update.metrics.items()})
        content["config"] = ConfigRecord({"num_examples": update.num_examples})
    return Message(content, reply_to=message)


def _without_variance(message: Message, client: Client) -> int:
    """How many of its training batches were one image, at which a BatchNorm layer had no variance."""
    plan = site_of(message).plan
    if not client.single_batches or normalises_one(plan.net, scenario_of(plan).dataset.shape):
        return 0
    return client.single_batches


def _own(value: Any, resident: set[int]) -> Any:
    """The same tree with copies of what lies in the resident net, which the next client overwrites."""
    if isinstance(value, dict):
        return {k: _own(v, resident) for k, v in value.items()}
    shares = isinstance(value, torch.Tensor) and value.untyped_storage().data_ptr() in resident
    return value.detach().clone() if shares else value


@app.train()
def train(message: Message, context: Context) -> Message:
    """One round of local training."""
    here, client, audit = _client(message, context)
    with here.playing(client, "local_train"):
        update = here.plan.strategy.strategy.local_train(client)
        check_update(update, "local_train", optional=False)
        return _reply(message, context, client, audit, update)


@app.query()
def identify(message: Message, context: Context) -> Message:
    """Which client this node plays: Flower numbers nodes anew in every run, and clients keep their number.

    It is asked when a run of ours begins, of which one run of Flower's may hold many: the client begins anew.
    """
    context.state = RecordDict()
    return Message(
        RecordDict({"node": ConfigRecord({"client": int(context.node_config["partition-id"])})}), reply_to=message
    )


@app.train("after_task")
def after_task(message: Message, context: Context) -> Message:
    """What the strategy asks of each client when a task ends."""
    here, client, audit = _client(message, context)
    with here.playing(client, "after_local_task"):
        update = here.plan.strategy.strategy.after_local_task(client)
        check_update(update, "after_local_task", optional=True)
        return _reply(message, context, client, audit, update)
