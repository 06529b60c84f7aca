"""Files of a profile in a run folder, and what of it is printed."""

from __future__ import annotations

from collections.abc import Iterator

from rich.table import Table

from fcil.federation.plan import Plan
from fcil.io.atomic import write_text
from fcil.profiling.advice import advice
from fcil.profiling.flame import flame_page
from fcil.profiling.profile import Profile
from fcil.profiling.tables import clients, phases, tasks, to_markdown, to_rich
from fcil.store import RunFolder

SHEETS = (phases, clients, tasks)


def write(profile: Profile, plan: Plan, folder: RunFolder) -> None:
    """Write `profile.md` and `profile.html`."""
    name = "/".join(plan.folder.parts)
    sheets = [to_markdown(sheet) for make in SHEETS if (sheet := make(profile)).rows]
    lines = "\n".join(f"- {line}" for line in advice(profile, plan))
    parts = ["# Where the time went", _about(profile, name), *sheets, f"## What to change\n\n{lines}"]
    write_text(folder.profile, "\n\n".join(parts) + "\n")
    write_text(folder.flame, flame_page(profile, name))


def report(profile: Profile, plan: Plan) -> Iterator[Table | str]:
    """Yield the tables and lines for a terminal."""
    yield from (to_rich(sheet) for make in SHEETS if (sheet := make(profile)).rows)
    yield from (f"what to change: {line}" for line in advice(profile, plan))


def _about(profile: Profile, name: str) -> str:
    total, rounds = profile.total, profile.rounds
    played = "no round"
    if rounds:
        first, last = (f"task {task}, round {number}" for task, number in (rounds[0], rounds[-1]))
        played = f"{len(rounds)} rounds, from {first}, to {last}"
    return (
        f"`{name}`: {played}, played in one process, one client after the other. It took {total.processor:.1f} "
        f"processor seconds (all threads) in {total.wall:.1f} seconds of the clock; {profile.samples} samples."
    )
