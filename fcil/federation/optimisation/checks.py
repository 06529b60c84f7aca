"""Check that a server optimiser goes together with the rest of a plan."""

from __future__ import annotations

from fcil.errors import ConfigError
from fcil.federation.optimisation.settings import FedAvg, FedNova, Scaffold
from fcil.federation.plan import Plan
from fcil.federation.protection.aggregation import Mean
from fcil.federation.protection.mods import ArraysSize, MessageSize


def check_server(plan: Plan) -> None:
    """Check that the strategy, the clients' optimizer and what guards the federation fit `federation.server`.

    Raises:
        ConfigError: one of them does not; says why.
    """
    federation, strategy = plan.federation, plan.strategy
    name = federation.server.name
    if isinstance(federation.server, FedAvg):
        return
    if not strategy.strategy.fits_server(name):
        able = [other for other in sorted(strategy.strategy.servers) if strategy.strategy.fits_server(other)]
        raise ConfigError(
            f'federation.server: "{name}" does not fit strategy "{strategy.name}" '
            f"(fits: {', '.join(['fedavg', *able])})"
        )
    if isinstance(federation.server, FedNova | Scaffold) and (problem := _obstacle(plan)):
        raise ConfigError(f"federation.server: {name}: {problem}")


def _obstacle(plan: Plan) -> str | None:
    """Return why the steps of clients cannot be counted, or control variates cannot be relied on; None: they can."""
    federation, attack = plan.federation, plan.federation.attack
    reasons = {
        f"counts steps of SGD; optimizer.name is {plan.optimizer.name}": plan.optimizer.name != "sgd",
        "counts the steps of one round, and with optimizer.state: kept a round goes on with momentum of the last one": (
            plan.optimizer.state == "kept" and plan.optimizer.momentum > 0
        ),
        f"weighs updates itself, and so does federation.aggregation: {federation.aggregation.name}": not isinstance(
            federation.aggregation, Mean
        ),
        "federation.privacy: its noise is made for a plain mean of nets": federation.privacy is not None,
    }
    if isinstance(federation.server, Scaffold):
        guards = [mod.name for mod in federation.mods.chosen if not isinstance(mod, ArraysSize | MessageSize)]
        reasons |= {
            f"the mod {', '.join(guards)} is made for nets, and clients send control variates too": bool(guards),
            f"the attack {attack.name if attack else ''} changes nets, and clients send control variates too": (
                attack is not None and attack.forges
            ),
            "its correction is part of a step's gradient, which optimizer.max_norm would shorten": (
                plan.optimizer.max_norm is not None
            ),
            "federation.clients_per_call above 1 trains clients together, and each has a control variate": (
                federation.clients_per_call > 1
            ),
        }
    return next((reason for reason, holds in reasons.items() if holds), None)
