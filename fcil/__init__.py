"""Federated class-incremental learning, simulated: a YAML in, numbers, curves and tables out.

    import fcil
    runs = fcil.run("experiments/quickstart.yaml")
    runs[0].accuracy            # a pandas frame: trained_task, tested_task, correct, examples, accuracy
    fcil.load("results")        # one frame of every run below a folder

What a strategy of one's own needs is here too: `Strategy`, `Client`, `Server`, `Batch`, `Terms`, `Update`. And so
are the parts that are used on their own: `fcil.check.check("mine.py")`, `fcil.synthesis.create("nayer")`.
"""

from __future__ import annotations

TYPE_CHECKING = False  # `typing` takes longer to import than all the rest, and Ctrl-C has to wait for it
if TYPE_CHECKING:
    from typing import Any

    from fcil.averaging import weighted_mean
    from fcil.distillation import distill
    from fcil.doctor.show import show
    from fcil.experiment import resume, run
    from fcil.roles import Client, Server
    from fcil.searching import search
    from fcil.store import Run, load
    from fcil.strategy import Strategy
    from fcil.synthesis import Synthesizer
    from fcil.training import train
    from fcil.types import (
        Batch,
        Count,
        Fraction,
        Index,
        NonNegative,
        Output,
        Positive,
        State,
        Task,
        Terms,
        Update,
        Weight,
    )

__version__ = "0.1.0"

_HOMES = {
    "fcil.experiment": ["resume", "run"],
    "fcil.doctor.show": ["show"],
    "fcil.distillation": ["distill"],
    "fcil.training": ["train"],
    "fcil.searching": ["search"],
    "fcil.store": ["Run", "load"],
    "fcil.roles": ["Client", "Server"],
    "fcil.strategy": ["Strategy"],
    "fcil.averaging": ["weighted_mean"],
    "fcil.synthesis": ["Synthesizer"],
    "fcil.types": [
        *["Batch", "Count", "Fraction", "Index", "NonNegative", "Output", "Positive", "State", "Task", "Terms"],
        *["Update", "Weight"],
    ],
}
_MODULES = ["anchors", "check", "compare", "data", "errors", "evaluation", "losses", "metrics", "nets", "plots"]
_MODULES += ["report", "searching", "store", "synthesis"]

__all__ = [
    "Batch",
    "Client",
    "Count",
    "Fraction",
    "Index",
    "NonNegative",
    "Output",
    "Positive",
    "Run",
    "Server",
    "State",
    "Strategy",
    "Synthesizer",
    "Task",
    "Terms",
    "Update",
    "Weight",
    "distill",
    "load",
    "resume",
    "run",
    "search",
    "show",
    "train",
    "weighted_mean",
]


def __getattr__(name: str) -> Any:
    """Load a part when it is first asked for: `fcil --help` need not wait for torch."""
    import importlib

    for home, names in _HOMES.items():
        if name in names:
            return getattr(importlib.import_module(home), name)
    if name == "verify":
        return importlib.import_module("fcil.runs.verify")
    if name in _MODULES:
        return importlib.import_module(f"fcil.{name}")
    raise AttributeError(f"module 'fcil' has no attribute {name!r}")


def __dir__() -> list[str]:
    """What there is, loaded or not: for `dir(fcil)` and for completion in a notebook."""
    return sorted([*__all__, *_MODULES, "verify", "__doc__", "__version__"])
