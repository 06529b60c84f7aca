"""The malicious clients of a run: which they are, and what they train on."""

from __future__ import annotations

from collections.abc import Sequence

from fcil.data import Shard
from fcil.federation.plan import Plan
from fcil.federation.protection.attacks import LabelFlip, flipped
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
