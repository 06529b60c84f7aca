"""Checks of a run's aggregation, privacy, mods and attack before it begins."""

from __future__ import annotations

from collections.abc import Iterable

from fcil.errors import ConfigError
from fcil.federation.plan import Plan
from fcil.federation.protection.aggregation import Mean
from fcil.federation.protection.attacks import LabelFlip
from fcil.federation.protection.malicious import malicious
from fcil.federation.protection.mods import AdaptiveClipping, LocalDp
from fcil.federation.protection.privacy import epsilon
from fcil.strategy import Strategy


def check_safeguards(plan: Plan, class_counts: Iterable[int]) -> None:
    """Check before a run that its rule, privacy, mods and attack can work as configured.

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
    assert federation.privacy is not None
    if not isinstance(federation.aggregation, Mean):
        raise ConfigError(
            f"federation.privacy: its noise is made for a mean; aggregation is {federation.aggregation.name}"
        )
    if federation.mods.get(AdaptiveClipping) is not None:
        raise ConfigError("federation.privacy: the mod adaptive_clipping tells, unprotected, whose step was long")
    _check_uploads(plan, "federation.privacy")
    epsilon(federation.privacy, federation.clients, federation.clients_per_round, 1)  # is the accountant there?


def _check_uploads(plan: Plan, what: str) -> None:
    """Check that clients send the tensors they train and nothing else."""
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
