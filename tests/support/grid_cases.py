"""What clients do on every grid, ours and Flower's: cases that tests run on whichever grid they have."""

from __future__ import annotations

import json
from collections.abc import Mapping
from dataclasses import replace
from pathlib import Path
from typing import Any, cast

from flwr.app import ArrayRecord, ConfigRecord, Message, MessageType, RecordDict
from flwr.serverapp import Grid
from small_runs import same, write_experiment, write_strategy

from fcil.federation.client import client_app
from fcil.federation.codec import to_arrays, to_tensors
from fcil.federation.compat import RAISED
from fcil.federation.context import Datasets
from fcil.federation.exchange import Exchange, Question, find_nodes
from fcil.federation.grids import InProcessGrid
from fcil.federation.messages.failures import Failure
from fcil.federation.observer import Observer
from fcil.federation.plan import Plan
from fcil.runs.plans import read
from fcil.types import Tensors, Update

CLIENTS = 3
FAULTY = """
import os
import signal
import time
from dataclasses import dataclass

import torch

from fcil import Strategy, Update


@dataclass(frozen=True, kw_only=True)
class Faulty(Strategy):
    fault: str = "none"
    seconds: float = 60.0

    def local_train(self, client):
        client.memory["calls"] = client.memory.get("calls", 0) + 1
        if client.round == 2 and client.index == 1:
            client.memory["spoiled"] = torch.ones(3)
            if self.fault == "raise":
                raise ValueError("on purpose")
            if self.fault == "kill":
                os.kill(os.getpid(), signal.SIGKILL)
            if self.fault == "hang":
                time.sleep(self.seconds)
        told = {"calls": client.memory["calls"], "spoiled": "spoiled" in client.memory, "round": client.round}
        return Update({name: torch.tensor(value) for name, value in told.items()}, 1 + client.index)

    def aggregate(self, server, updates):
        return [*updates][0]
"""
Answers = dict[int, Message]
"""Replies by client."""
Nodes = Mapping[int, int]
"""Client -> node."""


def plan_of(folder: Path, strategy: Any = "finetune", **federation: Any) -> Plan:
    source = write_experiment(folder, strategy=strategy, federation={"clients": CLIENTS, **federation})
    (plan,) = read(source)[0].plans()
    return plan


def faulty(folder: Path, fault: str = "none", seconds: float = 60.0, **federation: Any) -> Plan:
    options = {"fault": fault, "seconds": seconds}
    return plan_of(folder, {str(write_strategy(folder, FAULTY, "faulty")): options}, **federation)


def begin(plan: Plan, grid: Grid) -> Nodes:
    """The node of each client, which remembers nothing of earlier cases."""
    return find_nodes(grid, plan.federation.clients, ConfigRecord({"plan": plan.to_json()}), 120.0)


def content(plan: Plan, round: int) -> dict[str, Any]:
    """What a message that asks for a round of training holds."""
    job = {"task": 1, "round": round, "lr": 0.1, "text_width": None, "shared": {}}
    return {
        "weights": to_arrays(Datasets().open(plan).first_net(text_head=False).weights()),
        "config": ConfigRecord({"job": json.dumps(job)}),
        "plan": ConfigRecord({"plan": plan.to_json()}),
    }


def message(content: dict[str, Any], node: int) -> Message:
    return Message(RecordDict(dict(content)), node, MessageType.TRAIN, group_id="1")


def ask(plan: Plan, grid: Grid, clients: list[int], round: int = 1, nodes: Nodes | None = None) -> Answers:
    """The replies of some clients to a round of training."""
    nodes = nodes or dict(enumerate(grid.get_node_ids()))
    said = content(plan, round)
    messages = [message(said, nodes[c]) for c in clients]
    replies = list(grid.send_and_receive(messages, timeout=120.0))
    sent = {m.metadata.message_id: c for m, c in zip(messages, clients, strict=True)}
    assert all(r.metadata.src_node_id == nodes[sent[r.metadata.reply_to_message_id]] for r in replies)
    return {sent[r.metadata.reply_to_message_id]: r for r in replies}


def weights(reply: Message) -> Tensors:
    return to_tensors(cast(ArrayRecord, reply.content["weights"]))


def calls(replies: Answers) -> dict[int, int]:
    return {client: int(weights(reply)["calls"]) for client, reply in sorted(replies.items())}


# Cases -----------------------------------------------------------------------------------------


def trained_in_this_process(plan: Plan) -> Answers:
    return ask(plan, InProcessGrid(client_app(), plan.federation.clients), [2, 0, 1])


def clients_train(plan: Plan, grid: Grid, expected: Answers) -> None:
    """Clients give the same weights and metrics as in this process."""
    got = ask(plan, grid, [0, 1, 2], nodes=begin(plan, grid))
    assert sorted(got) == [0, 1, 2]
    assert all(same(weights(got[c]), weights(expected[c])) for c in range(CLIENTS))
    assert not same(weights(got[0]), weights(got[1]))
    assert all(dict(got[c].content["metrics"]) == dict(expected[c].content["metrics"]) for c in range(CLIENTS))


def clients_remember(plan: Plan, grid: Grid) -> None:
    """From message to message, each for itself, until another run begins."""
    nodes = begin(plan, grid)
    assert calls(ask(plan, grid, [0, 1], nodes=nodes)) == {0: 1, 1: 1}
    assert calls(ask(plan, grid, [1, 2], nodes=nodes)) == {1: 2, 2: 1}
    assert calls(ask(plan, grid, [0, 1, 2], nodes=nodes)) == {0: 2, 1: 3, 2: 2}


def clients_begin_anew(plan: Plan, grid: Grid) -> None:
    """When the next run of the same grid begins."""
    assert calls(ask(plan, grid, [0, 1], nodes=begin(plan, grid))) == {0: 1, 1: 1}
    assert calls(ask(plan, grid, [0, 1], nodes=begin(plan, grid))) == {0: 1, 1: 1}


def one_raises(plan: Plan, grid: Grid) -> None:
    """A client that raises is answered for and keeps its state; the others go on."""
    nodes = begin(plan, grid)
    ask(plan, grid, [0, 1, 2], nodes=nodes)
    replies = ask(plan, grid, [0, 1, 2], round=2, nodes=nodes)
    assert [replies[c].has_error() for c in range(3)] == [False, True, False]
    assert replies[1].error.code == RAISED
    reason = str(replies[1].error.reason).splitlines()
    assert reason[0] == "ValueError: on purpose (in local_train)"
    assert any("in local_train" in line for line in reason)
    later = ask(plan, grid, [0, 1, 2], round=3, nodes=nodes)
    assert calls(later) == {0: 3, 1: 2, 2: 3}
    assert not weights(later[1])["spoiled"]


def one_hangs(plan: Plan, grid: Grid) -> None:
    """An exchange gives up a client that does not answer in time, and takes no late answer for a timely one."""
    nodes = begin(plan, grid)
    exchange = Exchange(grid, dict(nodes), replace(plan.federation, on_failure="skip", min_success=0.0), Observer())
    failures: list[Failure] = []

    def rounds(reply: Message) -> Update:
        return Update(weights(reply), 1)

    def answered(round: int) -> dict[int, int]:
        said = content(plan, round)
        question = Question(f"round {round}", range(3), lambda c: message(said, nodes[c]), rounds)
        found = dict(exchange.answers(question, failures))
        return {client: int(update.weights["round"]) for client, update in found.items() if update is not None}

    assert answered(1) == {0: 1, 1: 1, 2: 1}
    assert answered(2) == {0: 2, 2: 2}
    assert [(f.client, f.kind, f.outcome) for f in failures] == [(1, "timeout", "skipped")]
    later = answered(3)
    assert later.items() >= {0: 3, 2: 3}.items()
    assert later.get(1, 3) == 3
