"""What a federation asks of every strategy where it is robust or private: checked first, then seen to."""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from typing import TYPE_CHECKING

from fcil.averaging import Weighting
from fcil.errors import ConfigError, TrainingError
from fcil.federation.protection.aggregation import Mean, average
from fcil.federation.protection.attacks import LabelFlip
from fcil.federation.protection.malicious import malicious
from fcil.federation.protection.mods import NORM_BIT, SHARED_NORM, AdaptiveClipping, LocalDp
from fcil.federation.protection.privacy import epsilon, private_mean
from fcil.roles import Server
from fcil.strategy import Strategy
from fcil.types import Update

if TYPE_CHECKING:
    from fcil.federation.plan import Plan


class Sealed(Iterable[Update]):
    """Updates that only `server.average` may read."""

    def __init__(self, updates: Iterable[Update]) -> None:
        self.updates = updates

    def __iter__(self) -> Iterator[Update]:
        raise TrainingError("federation.privacy: the strategy reads single updates; only server.average may")


@dataclass
class Averager:
    """The mean of updates that a run's federation asks for, and a watch on whether the strategy asks for it."""

    plan: Plan
    calls: int = 0  # in this round

    def seal(self, updates: Iterable[Update]) -> Iterable[Update]:
        """Begin a round: what the strategy is given to aggregate."""
        self.calls = 0
        return updates if self.plan.federation.privacy is None else Sealed(updates)

    def average(self, server: Server, updates: Iterable[Update], weighting: Weighting) -> Update:
        """What `server.average` returns."""
        federation = self.plan.federation
        self.calls += 1
        start = server.net.weights()
        if federation.privacy is None:
            mean = average(federation.aggregation, updates, weighting, start)
        else:
            if self.calls > 1:
                raise TrainingError("federation.privacy: the strategy averages twice; epsilon counts once a round")
            key = (server.seed, "privacy", server.task.number, server.round)
            sealed = updates.updates if isinstance(updates, Sealed) else updates
            mean = private_mean(federation.privacy, sealed, start, federation.clients_per_round, key)
        clipping = federation.mods.get(AdaptiveClipping)
        if clipping is not None and self.calls == 1:
            norm = float(server.shared.get(SHARED_NORM, clipping.norm))  # type: ignore[arg-type]
            clipped = min(1.0, max(0.0, mean.metrics.get(NORM_BIT, 1 - clipping.target)))  # clients may say anything
            server.shared[SHARED_NORM] = clipping.followed(norm, clipped)
        return mean

    def check(self) -> None:
        """End a round.

        Raises:
            TrainingError: the federation is robust or private, and the strategy made a mean of its own.
        """
        federation, name = self.plan.federation, self.plan.strategy.name
        asked = {
            f"federation.aggregation {federation.aggregation.name}": not isinstance(federation.aggregation, Mean),
            "federation.privacy": federation.privacy is not None,
            "the mod adaptive_clipping": federation.mods.get(AdaptiveClipping) is not None,
        }
        wanted = [what for what, on in asked.items() if on]
        if wanted and not self.calls:
            raise TrainingError(f'strategy "{name}" does not call server.average, so {wanted[0]} would do nothing')


def spent(plan: Plan, rounds: int) -> float | None:
    """Epsilon after so many rounds of all tasks; None where the federation is not private."""
    federation = plan.federation
    if federation.privacy is None:
        return None
    return epsilon(federation.privacy, federation.clients, federation.clients_per_round, rounds)


def check_safeguards(plan: Plan, class_counts: Iterable[int]) -> None:
    """See before a run whether its rule, privacy, mods and attack can do what they say.

    Args:
        class_counts: the number of new classes of each task.
    Raises:
        ConfigError: one of them cannot; says why.
    """
    federation = plan.federation
    rule = federation.aggregation
    if problem := rule.problem(federation.clients_per_round):
        raise ConfigError(f"federation.aggregation: {rule.name}: {problem}")
    if federation.privacy is not None:
        _check_privacy(plan)
    if federation.mods.get(LocalDp) is not None:
        _check_uploads(plan, "the mod local_dp")
    if federation.attack is not None:
        _check_attack(plan, class_counts)


def _check_privacy(plan: Plan) -> None:
    federation = plan.federation
    if not isinstance(federation.aggregation, Mean):
        raise ConfigError(
            f"federation.privacy: its noise is made for a mean; aggregation is {federation.aggregation.name}"
        )
    if federation.mods.get(AdaptiveClipping) is not None:
        raise ConfigError("federation.privacy: the mod adaptive_clipping tells, unprotected, whose step was long")
    _check_uploads(plan, "federation.privacy")
    spent(plan, 1)


def _check_uploads(plan: Plan, what: str) -> None:
    """Clients send the tensors they train and nothing else."""
    kind = type(plan.strategy.strategy)
    for verb in ("local_train", "after_local_task"):
        if getattr(kind, verb) is not getattr(Strategy, verb):
            raise ConfigError(f'{what}: does not cover what clients of "{plan.strategy.name}" send in {verb}')


def _check_attack(plan: Plan, class_counts: Iterable[int]) -> None:
    attack, clients = plan.federation.attack, plan.federation.clients
    assert attack is not None
    if not malicious(plan):
        raise ConfigError(f"federation.attack: a share of {attack.share:g} of {clients} clients is nobody")
    alone = [number for number, count in enumerate(class_counts, start=1) if count == 1]
    if isinstance(attack, LabelFlip) and alone:
        raise ConfigError(f"federation.attack: label_flip has nothing to turn to in task {alone[0]}, of one class")
