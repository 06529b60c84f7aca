"""Command that searches over settings."""

from __future__ import annotations

import json
import sys
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Annotated

import typer
from rich.console import Console

from fcil.terminal.help import complete_experiment


def search(
    experiment: Annotated[
        Path, typer.Argument(help="Its YAML file, which has search.", autocompletion=complete_experiment)
    ],
    overrides: Annotated[
        list[str] | None, typer.Argument(help="Settings to change, such as search.runs=20.", show_default=False)
    ] = None,
    out: Annotated[Path, typer.Option("--out", help="Folder of the results.")] = Path("results"),
    jobs: Annotated[
        int | None,
        typer.Option("--jobs", min=1, help="Runs played at once (default: as many as fit).", show_default=False),
    ] = None,
    dry_run: Annotated[bool, typer.Option("--dry-run", help="Only list what is tried, and what it will take.")] = False,
    as_json: Annotated[bool, typer.Option("--json", help="With --dry-run: print JSON.")] = False,
) -> None:
    """Try settings on held-out training samples, and run the best once on the test samples.

    Killed at any time, the same command goes on. Trials are in NAME-search, the winner's runs in NAME.
    """
    from fcil.terminal.runs import check_asked

    check_asked("search", dry_run=dry_run, as_json=as_json, profile=False)
    if dry_run:
        from fcil.searching.beforehand import forecast, forecast_table

        found = forecast(experiment, *(overrides or []), out=out, jobs=jobs)
        if as_json:
            sys.stdout.write(json.dumps(found.to_json(), indent=2) + "\n")
        else:
            Console().print(forecast_table(found))
        return
    from fcil.searching import search

    search(experiment, *(overrides or []), out=out, jobs=jobs)


def draw_asked(dirs: Sequence[Path], out: Path | None, say: Callable[[object], None]) -> None:
    """Draw the figures of searches and name the files; they are of trials, and not of finished runs."""
    from fcil.plots.search import draw_searches

    for path in draw_searches(dirs, out):
        say(path)
