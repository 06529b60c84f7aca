"""Layers of the package, from the lowest: a module imports from its own layer or from lower ones.

`tests/laws` hold every module of `fcil/` and `strategies/` to it, `fcil check` every strategy.
"""

from __future__ import annotations

FLOORS: tuple[tuple[str, ...], ...] = (
    ("fcil.types", "fcil.errors", "fcil.rng", "fcil.fidelity"),
    ("fcil.io",),
    ("fcil.config",),
    (
        "fcil.nets",
        "fcil.shapelets",
        "fcil.losses",
        "fcil.averaging",
        "fcil.optimizer",
        "fcil.metrics",
        "fcil.subspace",
    ),
    ("fcil.data",),
    ("fcil.anchors", "fcil.shapelets.banks", "fcil.exemplars", "fcil.synthesis.common"),
    ("fcil.inversion", "fcil.synthesis"),
    ("fcil.roles", "fcil.distillers"),
    ("fcil.strategy",),
    ("strategies",),
    ("fcil.methods",),
    (  # of the federation: what is sent, kept and guarded
        "fcil.federation.compat",
        "fcil.federation.codec",
        "fcil.federation.observer",
        "fcil.federation.deploy",
        "fcil.federation.messages",
        "fcil.federation.optimisation",
        "fcil.federation.persistence",
        "fcil.federation.protection",
        "fcil.federation.ray",
        "fcil.federation.runtime",
        "fcil.federation.synthesis",
    ),
    (  # what is to be run
        "fcil.federation.settings",
        "fcil.federation.plan",
        "fcil.federation.context",
        "fcil.federation.messages.failures",
        "fcil.federation.optimisation.checks",
        "fcil.federation.protection.averager",
        "fcil.federation.protection.client_mods",
        "fcil.federation.protection.malicious",
        "fcil.federation.protection.safeguards",
        "fcil.federation.ray.runs",
    ),
    (  # what a worker does
        "fcil.federation.evaluate",
        "fcil.federation.executor",
        "fcil.federation.grids",
        "fcil.federation.runtime.user_code",
        "fcil.federation.runtime.vectorised",
        "fcil.federation.runtime.worker",
        "fcil.federation.synthesis.jobs",
    ),
    (  # how workers are asked
        "fcil.federation.checkpoint",
        "fcil.federation.client",
        "fcil.federation.exchange",
        "fcil.federation.messages.again",
        "fcil.federation.messages.recording_grid",
        "fcil.federation.preconditions",
        "fcil.federation.ray.grid",
        "fcil.federation.synthesis.service",
    ),
    ("fcil.federation",),  # the server, and the engine that runs it
    ("fcil.store", "fcil.searching.record"),
    ("fcil.console",),
    ("fcil.check", "fcil.compare", "fcil.plots", "fcil.profiling"),
    ("fcil.report", "fcil.runs"),
    ("fcil.experiment",),
    ("fcil.distillation", "fcil.evaluation", "fcil.searching", "fcil.training"),
    ("fcil.doctor",),
    ("fcil.terminal",),
    ("fcil.cli", "fcil.__main__", "fcil.flower", "fcil"),
)
"""Rooms of each floor, the lowest first; what lies in a room is on its floor unless it is listed itself."""

_NUMBERS = {room: number for number, rooms in enumerate(FLOORS) for room in rooms}


def floor(module: str) -> int | None:
    """The floor of a module: that of the longest listed name that it is, or lies in; None if there is none.

    The package `fcil` itself holds only its own `__init__`.
    """
    parts = module.split(".")
    names = [".".join(parts[:n]) for n in range(len(parts), 0, -1)]
    return next((_NUMBERS[name] for name in names if name in _NUMBERS and (name != "fcil" or module == "fcil")), None)
