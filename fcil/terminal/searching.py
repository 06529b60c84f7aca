"""Command that searches over settings."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Annotated

import typer

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
) -> None:
    """Try settings on held-out training samples, and run the best once on the test samples.

    Killed at any time, the same command goes on. Trials are in NAME-search, the winner's runs in NAME.
    """
    from fcil.searching import search

    search(experiment, *(overrides or []), out=out, jobs=jobs)


def draw_asked(dirs: Sequence[Path], out: Path | None, say: Callable[[object], None]) -> None:
    """Draw the figures of searches and name the files; they are of trials, and not of finished runs."""
    from fcil.plots.search import draw_searches

    for path in draw_searches(dirs, out):
        say(path)
