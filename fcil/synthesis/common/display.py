"""A progress bar of episodes for a caller who runs a synthesizer by hand in a terminal."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import contextmanager

from rich.console import Console
from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeElapsedColumn, TimeRemainingColumn


@contextmanager
def episode_bar(name: str, total: int) -> Iterator[Callable[[int, int, dict[str, float]], None] | None]:
    """Yield the callback of a bar on standard error, erased at the end; None where standard error is no terminal.

    Args:
        name: of the method.
        total: episodes of all chains.
    """
    console = Console(stderr=True)
    if not console.is_terminal:
        yield None
        return
    told = (
        TextColumn("{task.description}"),
        BarColumn(),
        MofNCompleteColumn(),
        TextColumn("episodes {task.fields[loss]}"),
    )
    with Progress(*told, TimeElapsedColumn(), TimeRemainingColumn(), console=console, transient=True) as bars:
        bar = bars.add_task(name, total=total, loss="")

        def show(done: int, total: int, terms: dict[str, float]) -> None:
            loss = sum(value for key, value in terms.items() if key != "total" and not key.startswith("student_"))
            bars.update(bar, completed=done, loss=f"loss {loss:.3g}" if terms else "")

        yield show
