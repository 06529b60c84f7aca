"""Report of a run that died: `failure.json`, and the same to read in `failure.md`.

The card says what was asked for beyond the defaults, how far the run came, what ended it and how to go on. It goes
when the run is finished after all. Runs that a user stopped leave none: nothing is wrong with them.
"""

from __future__ import annotations

import re
import shlex
import traceback
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from dataclasses import MISSING, Field, fields, is_dataclass
from pathlib import Path
from time import strftime
from typing import Any

from rich.console import Console

from fcil.config import dump
from fcil.config.schema import settable
from fcil.data import PartitionSettings
from fcil.errors import StoreError, TrainingError, printable
from fcil.federation.persistence.manifest import manifest_paths
from fcil.federation.plan import Plan, Sections
from fcil.io.atomic import write_text
from fcil.io.bounded import last_lines
from fcil.store import RunFolder, files

_PATH = re.compile(r"""(?<![\w./~…])~?(?:/[^\s/:,;'"()\[\]{}]+){2,}""")
"""An absolute path with a folder in it, or one below the home folder."""


@contextmanager
def failure_card(path: Path, plan: Plan, console: Console | None = None) -> Iterator[None]:
    """If the block raises, leave a card in the run's folder, and print it; if it ends well, take the card away.

    Args:
        console: where the card is printed; None: nowhere.
    """
    folder = RunFolder(path)
    try:
        yield
    except Exception as error:
        with suppress(OSError, StoreError):  # a full disk is no reason to hide what happened
            card = describe(folder, plan, error)
            text = render(card)
            if folder.begun:
                files.write_json(folder.failure, card)
                write_text(folder.failure_text, text)
            if console is not None:
                console.print(text, markup=False, highlight=False, soft_wrap=True)
        raise
    for leftover in (folder.failure, folder.failure_text):
        leftover.unlink(missing_ok=True)


def describe(folder: RunFolder, plan: Plan, error: BaseException) -> dict[str, Any]:
    """The card as plain values; of paths beyond the run's folder only the last part is told."""
    rounds, saved = files.read_last_rounds(folder.rounds), manifest_paths(folder.checkpoints)
    last = {key: rounds[-1].get(key) for key in ("task", "round", "accuracy", "terms")} if rounds else None
    said = printable(str(error)) or "it gave no reason"
    return {
        "run": "/".join(plan.folder.parts),
        "failed": strftime("%Y-%m-%dT%H:%M:%S%z"),
        "error": _masked(said if isinstance(error, TrainingError) else f"{type(error).__name__}: {said}", folder),
        "raised_in": _place(error),
        "last_round": last,
        "checkpoint": saved[-1].name if saved else None,
        "resume": f"fcil resume {shlex.quote(str(folder.path))}",
        "changed": {key: _plain(value, folder) for key, value in changed(plan).items()},
        "log": [_masked(printable(line), folder) for line in last_lines(folder.log)],
    }


def render(card: dict[str, Any]) -> str:
    """The card as Markdown."""
    last, lines = card["last_round"], [f"# {card['run']} failed", "", card["error"], ""]
    where = f"task {last['task']}, round {last['round']}" if last else "none"
    lines += [f"- raised in: {card['raised_in']}"] * bool(card["raised_in"])
    lines += [f"- last good round: {where}", f"- last checkpoint: {card['checkpoint'] or 'none'}"]
    lines += [f"- to go on: `{card['resume']}`", "", "Settings that are not the defaults:", ""]
    lines += [f"- {key}: {value}" for key, value in card["changed"].items()] or ["- none"]
    if card["log"]:
        lines += ["", "The end of the log:", "", *(f"    {line}" for line in card["log"])]
    return "\n".join(lines) + "\n"


def _place(error: BaseException) -> str:
    """File, line and function that raised it, or what it was raised from."""
    while error.__cause__ is not None:
        error = error.__cause__
    frames = traceback.extract_tb(error.__traceback__)
    return f"{Path(frames[-1].filename).name}, line {frames[-1].lineno}, {frames[-1].name}" if frames else ""


def _masked(text: str, folder: RunFolder) -> str:
    own = (str(folder.path), str(folder.path.absolute()))

    def short(found: re.Match[str]) -> str:
        return found[0] if found[0].startswith(own) else f"…/{found[0].rpartition('/')[2]}"

    return _PATH.sub(short, text)


def _plain(value: Any, folder: RunFolder) -> Any:
    return _masked(value, folder) if isinstance(value, str) else files.finite(value)


# What was asked for -------------------------------------------------------------------------------


def changed(plan: Plan) -> dict[str, Any]:
    """The settings of a plan that are not the defaults, by key path."""
    found = {"seed": plan.seed} if plan.seed else {}
    for section in (f for f in fields(Sections) if f.name not in ("name", "strategy")):
        value = getattr(plan, section.name)
        found |= _changed(section.name, value, MISSING if is_dataclass(value) else section.default)
    return found | {"strategy": plan.strategy.name} | _changed("strategy", plan.strategy.strategy, MISSING)


def _changed(path: str, value: Any, default: Any) -> dict[str, Any]:
    alike = default is MISSING or type(default) is type(value)
    if not is_dataclass(value) or isinstance(value, PartitionSettings) or not alike:
        return {} if value == default else {path: dump(value)}
    found: dict[str, Any] = {}
    for field in settable(value):
        usual = _default(field) if default is MISSING else getattr(default, field.name)
        found |= _changed(f"{path}.{field.name}", getattr(value, field.name), usual)
    own = getattr(value, "own", None)
    return found if own is None else found | _changed(path, own, MISSING)


def _default(field: Field[Any]) -> Any:
    return field.default if field.default_factory is MISSING else field.default_factory()
