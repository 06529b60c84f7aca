"""The mean that a federation asks of every strategy where it is robust or private."""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from typing import TYPE_CHECKING

from fcil.averaging import Weighting, weighted_mean
from fcil.errors import TrainingError
from fcil.federation.optimisation.settings import FedAvg
from fcil.federation.optimisation.steps import step
from fcil.federation.protection.aggregation import Mean
from fcil.federation.protection.mods import NORM_BIT, SHARED_NORM, AdaptiveClipping
from fcil.federation.protection.privacy import epsilon, private_mean
from fcil.federation.protection.robust_means import average
from fcil.roles import Server
from fcil.types import Update

if TYPE_CHECKING:
    from fcil.federation.plan import Plan


class GuardedUpdates(Iterable[Update]):
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
        return updates if self.plan.federation.privacy is None else GuardedUpdates(updates)

    def average(self, server: Server, updates: Iterable[Update], weighting: Weighting) -> Update:
        """Return the value of `server.average`."""
        federation = self.plan.federation
        self.calls += 1
        if isinstance(federation.server, FedAvg):
            return self._mean(server, updates, weighting)
        if self.calls > 1:
            raise TrainingError(f"federation.server: {federation.server.name}: the strategy averages twice in a round")
        momentum = self.plan.optimizer.momentum

        def mean(updates: Iterable[Update]) -> Update:
            return self._mean(server, updates, weighting)

        return step(federation.server, server, updates, mean, weighting, momentum)

    def _mean(self, server: Server, updates: Iterable[Update], weighting: Weighting) -> Update:
        """Return the mean, robust or private."""
        federation = self.plan.federation
        if federation.privacy is None and isinstance(federation.aggregation, Mean):
            mean = weighted_mean(updates, weighting)
        elif federation.privacy is None:
            mean = average(federation.aggregation, updates, weighting, server.net.weights())
        else:
            if self.calls > 1:
                raise TrainingError("federation.privacy: the strategy averages twice; epsilon counts once a round")
            key = (server.seed, "privacy", server.task.number, server.round)
            sealed = updates.updates if isinstance(updates, GuardedUpdates) else updates
            mean = private_mean(federation.privacy, sealed, server.net.weights(), federation.clients_per_round, key)
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
            f"federation.server {federation.server.name}": not isinstance(federation.server, FedAvg),
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
