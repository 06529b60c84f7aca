"""Commands about parts of one's own: strategies, nets, data sets, synthesizers, partitions."""

from __future__ import annotations

import json
import sys
from pathlib import Path
from typing import Annotated

import typer
from rich.console import Console

from fcil.terminal.help import complete_strategy
from fcil.terminal.streams import say


def check(
    strategy: Annotated[
        str,
        typer.Argument(
            help="A file of any part, or a name of `fcil list strategies`.", autocompletion=complete_strategy
        ),
    ],
    overrides: Annotated[
        list[str] | None, typer.Argument(help="Hyper-parameters to change, such as radius=0.01.", show_default=False)
    ] = None,
    ray: Annotated[bool, typer.Option("--ray/--no-ray", help="Play it on Ray too (20 seconds more).")] = True,
    as_json: Annotated[bool, typer.Option("--json", help="Print JSON.")] = False,
) -> None:
    """Hold a strategy, or another part of your own, to its contract: is it sound, repeatable, resumable?"""
    from fcil.check import Result, check
    from fcil.console.tables import listing_table

    progress, done = Console(stderr=True), iter(range(1, 100))

    def tell(result: Result, left: int) -> None:
        number = next(done)
        line = f"{number}/{number + left} {result.name} {result.seconds:.1f} s"
        progress.print(line, markup=False, highlight=False)

    report = check(strategy, *(overrides or []), ray=ray, say=tell)
    if as_json:
        sys.stdout.write(json.dumps(report.to_json(), indent=2) + "\n")
    else:
        Console().print(listing_table([result.row() for result in report.results]))
        say(report.conclusion)
    raise typer.Exit(0 if report.passed else 1)


def new(
    kind: Annotated[
        str, typer.Argument(metavar="KIND", help="What to begin: strategy, net, dataset, synthesizer or partition.")
    ],
    name: Annotated[str, typer.Argument(help="Its name, which becomes that of the file.")],
    out: Annotated[Path, typer.Option("--out", help="Folder of the two files.")] = Path("."),
) -> None:
    """Begin a part of your own: `fcil new strategy NAME` writes NAME.py and test_NAME.py."""
    from fcil.methods.scaffold import begin

    for line in begin(kind, name, out):
        say(line)
