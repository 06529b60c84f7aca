"""What to change, by stated rules: each looks at one share of the processor seconds, and names a setting."""

from __future__ import annotations

import os
from collections.abc import Callable, Iterator

from fcil.config.kinds import kind_of
from fcil.console.tables import percent
from fcil.federation.plan import Plan
from fcil.profiling.phases import (
    CHECKPOINTS,
    DATA,
    EVALUATION,
    EXCHANGE,
    FIGURES,
    GENERATOR,
    POOL,
    RECORDS,
    START,
    STUDENT,
    SYNTHESIS,
    TRAINING,
)
from fcil.profiling.profile import Profile
from fcil.synthesis import Synthesizer

MOST = 3
"""Lines, of the rules with the greatest shares."""
SHARES = {
    EVALUATION: 0.1,
    CHECKPOINTS: 0.1,
    RECORDS: 0.1,
    DATA: 0.2,
    EXCHANGE: 0.25,
    START: 0.3,
    GENERATOR: 0.4,
    "clients": 0.5,
}
"""Share of all processor seconds from which on the rule of a phase speaks; START with the figures, GENERATOR with
all of synthesis, `clients` for their training."""
SHORT_STEP = 0.02
"""Seconds of the clock of a step below which several threads get in each other's way."""
OFTEN = 5
"""Factor by which something is to be done more seldom."""
SEVERAL = 2
"""Runs or cores from which on there is something to share out."""

Line = tuple[float, str]
"""A share of the processor seconds, and what to change."""


def advice(profile: Profile, plan: Plan, cores: int | None = None) -> list[str]:
    """Return up to `MOST` lines, the greatest share first; one that says so where no rule speaks.

    Args:
        cores: of this machine; None: as many as it has.
    """
    count = cores or os.cpu_count() or 1
    spoken = sorted((line for rule in RULES for line in rule(profile, plan, count)), key=lambda line: -line[0])
    if not spoken:
        share = profile.share(*TRAINING)
        return [f"nothing stands out: the clients' training took {percent(share)}; a smaller net or a GPU would help"]
    return [line for _, line in spoken[:MOST]]


def evaluation(profile: Profile, plan: Plan, cores: int) -> Iterator[Line]:
    share, every, rounds = profile.share(EVALUATION), plan.federation.evaluate_every, plan.federation.rounds
    if share > SHARES[EVALUATION] and 0 < every <= rounds:
        seldom = every * OFTEN if every * OFTEN <= rounds else 0
        kept = f"every {seldom} rounds" if seldom else "at the end of a task alone"
        yield (
            share,
            f"evaluation took {percent(share)}: federation.evaluate_every={seldom} (now {every}) tests {kept}, "
            "and accuracy.csv stays the same",
        )


def checkpoints(profile: Profile, plan: Plan, cores: int) -> Iterator[Line]:
    share, every, rounds = profile.share(CHECKPOINTS), plan.federation.checkpoint_every, plan.federation.rounds
    if share > SHARES[CHECKPOINTS] and 0 < every < rounds:
        seldom = min(every * OFTEN, rounds)
        yield (
            share,
            f"checkpoints took {percent(share)}: federation.checkpoint_every={seldom} (now {every}); a killed run "
            f"loses up to {seldom} rounds, and the result is the same",
        )


def records(profile: Profile, plan: Plan, cores: int) -> Iterator[Line]:
    share = profile.share(RECORDS)
    if share > SHARES[RECORDS] and plan.logger is not None:
        yield (
            share,
            f"records and display took {percent(share)}: logger=null (now {plan.logger}), files are kept anyway",
        )


def augmentation(profile: Profile, plan: Plan, cores: int) -> Iterator[Line]:
    share, augment = profile.share(DATA), plan.data.augment
    if share > SHARES[DATA]:
        size = plan.federation.batch_size
        what = "" if augment is False else f"data.augment=false leaves {kind_of(plan.data.dataset)} as they are, and "
        yield (
            share,
            f"data and augmentation took {percent(share)}: {what}a greater federation.batch_size (now {size}) cuts "
            "fewer batches; either changes the result",
        )


def exchange(profile: Profile, plan: Plan, cores: int) -> Iterator[Line]:
    share, federation = profile.share(EXCHANGE), plan.federation
    if share > SHARES[EXCHANGE]:
        name = "local_epochs" if federation.local_steps is None else "local_steps"
        yield (
            share,
            f"exchange and checks took {percent(share)}, for little training: a greater federation.{name} (now "
            f"{getattr(federation, name)}) with fewer federation.rounds sends less; it changes the result",
        )


def start(profile: Profile, plan: Plan, cores: int) -> Iterator[Line]:
    share = profile.share(START, FIGURES)
    if share > SHARES[START]:
        yield (
            share,
            f"start and figures took {percent(share)} of so short a run: imports and data are paid once a process, "
            "so put more seeds, or a matrix, into one file",
        )


def synthesis(profile: Profile, plan: Plan, cores: int) -> Iterator[Line]:
    """Name the setting of the synthesizer that makes most of its work."""
    share = profile.share(*SYNTHESIS)
    if share <= SHARES[GENERATOR]:
        return
    most = max(SYNTHESIS, key=profile.share)
    part = f"{most.removeprefix('synthesis: ')} {percent(profile.share(most))}"
    keys = {GENERATOR: ("steps", "rounds"), STUDENT: ("student_steps", "rounds"), POOL: ("samples", "rounds")}[most]
    settings = [
        f"strategy.{plan.strategy.name}.{field}.{value.name}.{key} (now {getattr(value, key)})"
        for field, value in vars(plan.strategy.strategy).items()
        if isinstance(value, Synthesizer)
        for key in keys
        if hasattr(value, key)
    ]
    if settings:
        yield share, f"synthesis took {percent(share)}, {part}: a smaller {settings[0]} changes the result, so compare"


def threads(profile: Profile, plan: Plan, cores: int) -> Iterator[Line]:
    each, count = profile.seconds_a_step(), plan.resources.threads
    if each is not None and count >= SEVERAL and each.wall < SHORT_STEP:
        yield (
            profile.share(*TRAINING),
            f"a step takes {1000 * each.wall:.1f} ms, too short for {count} threads: resources.threads=1, and --jobs "
            "plays runs beside each other; results compare at equal threads",
        )


def clients(profile: Profile, plan: Plan, cores: int) -> Iterator[Line]:
    share, federation = profile.share(*TRAINING), plan.federation
    at_once = min(federation.clients_per_round, cores // plan.resources.threads)
    if share > SHARES["clients"] and federation.backend == "inprocess" and at_once >= SEVERAL:
        yield (
            share,
            f"the clients' training took {percent(share)}: federation.backend=ray (now inprocess) trains {at_once} of "
            "them at once, and the result is the same",
        )


RULES: tuple[Callable[[Profile, Plan, int], Iterator[Line]], ...] = (
    evaluation,
    checkpoints,
    records,
    augmentation,
    exchange,
    start,
    synthesis,
    threads,
    clients,
)
