"""`fcil cite`: how to cite the methods of some runs."""

from __future__ import annotations

import ast
import sys
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from fcil.config import Where
from fcil.errors import ConfigError, StoreError
from fcil.methods.files import read_source

if TYPE_CHECKING:
    from fcil.store import Run


def cite(dirs: Annotated[list[Path], typer.Argument(help="Folders of runs, or folders of such folders.")]) -> None:
    """BibTeX of the methods that some runs have used, of Flower and of fcil."""
    from fcil.methods.bibliography import entries
    from fcil.store import find_runs
    from fcil.store.files import read_json

    runs = find_runs(dirs, unfinished=True)
    if not runs:
        raise StoreError(f"{', '.join(map(str, dirs))}: no run")
    version = (read_json(runs[-1].folder.env).get("versions") or {}).get("fcil", "unknown")
    sys.stdout.write("\n\n".join(entries((_methods(run) for run in runs), version)) + "\n")


def hint(runs: Sequence[Run]) -> str:
    """Return a line that tells how to cite the methods of these runs, which are those of one command."""
    homes = list(dict.fromkeys(run.path.parents[1] for run in runs))
    return f"cite: fcil cite {' '.join(map(str, homes if len(runs) > 1 else [runs[0].path]))}"


def _methods(run: Run) -> tuple[str, dict[str, Any]]:
    """Return the text of the strategy's file and section `strategy` of the settings.

    Raises:
        StoreError: the file is lost or damaged.
    """
    where = Where(str(run.folder.strategy))
    try:
        source = read_source(run.folder.strategy, where)
        ast.parse(source)
    except (ConfigError, SyntaxError, ValueError, RecursionError, MemoryError) as error:
        raise StoreError(f"{run.folder.strategy}: no strategy can be read there ({type(error).__name__})") from None
    return source, run.config.get("strategy", {})
