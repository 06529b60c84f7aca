"""The malicious clients of a run: which they are, what they train on, and what they send."""

from __future__ import annotations

from collections.abc import Sequence
from typing import cast

from flwr.app import ArrayRecord, Message

from fcil.data import Shard
from fcil.federation.codec import to_arrays, to_tensors
from fcil.federation.plan import Plan
from fcil.federation.protection.attacks import LabelFlip, flipped
from fcil.federation.protection.bn_variance import settled
from fcil.rng import generator
from fcil.types import Task


def malicious(plan: Plan) -> list[int]:
    """The malicious clients of a run, by number; none without an attack."""
    attack = plan.federation.attack
    return [] if attack is None else attack.clients(plan.seed, plan.federation.clients)


def given(plan: Plan, client: int, shard: Shard, tasks: Sequence[Task]) -> Shard:
    """The samples as this client trains on them: its own, or with flipped labels."""
    attack = plan.federation.attack
    flips = isinstance(attack, LabelFlip) and client in malicious(plan)
    return flipped(shard, tasks) if flips else shard


def forge(plan: Plan, who: tuple[int, int, int], message: Message, reply: Message) -> None:
    """Put what a malicious client sends in place of what its training has made.

    Args:
        who: task, round and client.
    """
    attack = plan.federation.attack
    if attack is None or not attack.forges or who[-1] not in malicious(plan) or "weights" not in reply.content:
        return
    start, honest = (to_tensors(cast(ArrayRecord, m.content["weights"])) for m in (message, reply))
    stream = generator(plan.seed, "attack", *who)
    lies = {
        name: attack.forged(t, start[name], stream) if t.is_floating_point() and name in start else t
        for name, t in honest.items()
    }
    reply.content["weights"] = to_arrays(settled(lies, start))
