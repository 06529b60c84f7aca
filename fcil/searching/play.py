"""From a file with `search` to its winner, which is then run once on the test samples."""

from __future__ import annotations

import csv
import io
import json
import time
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import Any

import pandas as pd
from rich.console import Console

from fcil.config import dump
from fcil.config.matrix import Source
from fcil.errors import StoreError, TrainingError
from fcil.federation.context import Datasets
from fcil.federation.plan import Plan
from fcil.io.atomic import write_text
from fcil.plots.search import draw_search
from fcil.runs.parallel import jobs_asked_for
from fcil.runs.play import execute
from fcil.runs.preflight import named, preflight
from fcil.searching import samplers
from fcil.searching.live import SearchProgress, chosen
from fcil.searching.plans import Search, described, read
from fcil.searching.record import COLUMNS, LAST, NAME, TABLE, read_record
from fcil.searching.samplers import Result, Trial, Waves, best
from fcil.searching.settings import SearchSettings
from fcil.searching.tpe import tpe
from fcil.searching.trials import Player
from fcil.store import Run, check_writable, files
from fcil.store.checks import is_count

PAUSE = 1.0
"""Seconds between two writes of the record."""
HOPELESS = 20
"""Trials that all failed, after which no other is tried."""


@dataclass(frozen=True, kw_only=True, eq=False)
class SearchResult:
    """Result of a search."""

    overrides: tuple[str, ...]
    """The winner's settings as `key.path=value`, for `fcil.run`."""
    value: float
    """Its metric on held-out training samples, the mean over the trial's seeds."""
    trials: pd.DataFrame
    """A line for each trial, as `search.csv`."""
    runs: tuple[Run, ...]
    """The winner's runs on the test samples, one for each seed of the file."""


def search(
    source: Source,
    *overrides: str,
    out: str | Path = "results",
    jobs: int | None = None,
    console: Console | None = None,
) -> SearchResult:
    """Try settings on held-out training samples, and run the best of them once on the test samples.

    What is finished is not played again, so a search that was killed goes on when it is asked for again.

    Args:
        source: a YAML file with `search`, or a mapping of what one would hold.
        overrides: `key.path=value`, each value read as YAML.
        jobs: as of `fcil.run`.
    Raises:
        UserError: something in the file, the data or the output folder is wrong.
        TrainingError: no trial was finished, or a run of the winner failed.
    """
    wanted, out, console = read(source, overrides), Path(out), console or Console()
    settings, rounds = wanted.settings, wanted.experiment.federation.rounds
    with named(wanted.where):
        asked = waves(settings, rounds)
    check_writable(out)
    home = out / wanted.name
    console.print(described(wanted), markup=False, soft_wrap=True)
    base = wanted.trial(Trial(number=1, values={}, seeds=settings.seeds))
    preflight(base, Datasets(), Console(file=io.StringIO(), quiet=True), wanted.where)
    record = _Record(wanted, home)
    with Player(wanted, out, console, jobs, SearchProgress(console, settings, rounds)) as player:
        results = _tried(player, asked, record)
    ranked = best(results, maximises=settings.maximises)
    if not ranked:
        reason = next((result.reason for result in results if result.reason), "nothing was tried")
        raise TrainingError(f"no trial of {len(results)} was finished; the first: {reason}")
    console.print(chosen(settings, results), markup=False, soft_wrap=True)
    for line in _drawn(home):
        console.print(line, markup=False, soft_wrap=True)
    winner = ranked[0]
    plans = wanted.final(winner.trial.values)
    record.choose(winner, results, plans, out)
    runs = execute(plans, out, console, wanted.where, jobs=jobs_asked_for(plans, jobs))
    return SearchResult(
        overrides=tuple(f"{key}={json.dumps(dump(value))}" for key, value in winner.trial.values.items()),
        value=winner.value or 0.0,
        trials=pd.DataFrame(record.rows(results)),
        runs=tuple(runs),
    )


def waves(search: SearchSettings, rounds: int) -> Waves:
    """Return the trials of a search, wave after wave.

    Args:
        rounds: `federation.rounds` of the file.
    Raises:
        ConfigError: the package of the sampler is not installed.
    """
    if search.sampler == "halving":
        return samplers.halving(search, rounds)
    return {"grid": samplers.grid, "random": samplers.random, "tpe": tpe}[search.sampler](search)


def _tried(player: Player, asked: Waves, record: _Record) -> list[Result]:
    """Return the results of all trials, each written down as soon as it is known."""
    settings, results = player.search.settings, list[Result]()
    limit = None if settings.hours is None else 3600 * settings.hours
    wave = next(asked, [])
    while wave and not (len(results) >= HOPELESS and all(result.status == "failed" for result in results)):
        before = len(results)
        for batch in _batches(wave, len(wave) if limit is None else settings.batch):
            if limit is not None and sum(result.seconds for result in results) >= limit:
                record.write(results, last=True)
                return results
            for result in player.play(batch):
                results.append(result)
                record.write(results)
        wave = _following(asked, results[before:])
    record.write(results, last=True)
    return results


def _following(asked: Waves, answers: Sequence[Result]) -> list[Trial]:
    """Return the next wave of trials, given the results of the one before; an empty one at the end."""
    try:
        return asked.send(answers)
    except StopIteration:
        return []


def _batches(wave: Sequence[Trial], size: int) -> Iterator[Sequence[Trial]]:
    yield from (wave[start : start + size] for start in range(0, len(wave), size))


@dataclass
class _Record:
    """Writes `search.json` and `search.csv`."""

    search: Search
    home: Path
    _wrote: float = -PAUSE

    def write(self, results: Sequence[Result], *, last: bool = False) -> None:
        """Write all trials down, at most once in `PAUSE` seconds, unless they are the last."""
        if not last and time.monotonic() - self._wrote < PAUSE:
            return
        text = io.StringIO()
        lines = csv.DictWriter(text, [*COLUMNS, *self.search.settings.space.dimensions, *LAST], lineterminator="\n")
        lines.writeheader()
        lines.writerows(self.rows(results))
        write_text(self.home / TABLE, text.getvalue())
        files.write_json(self.home / NAME, self._about(results))
        self._wrote = time.monotonic()

    def choose(self, winner: Result, results: Sequence[Result], plans: Sequence[Plan], out: Path) -> None:
        """Write down which trial was chosen, also into the folders of the winner's runs, before they are begun."""
        chosen = {"trial": winner.trial.number, "value": winner.value, "settings": dump(winner.trial.values)}
        about = {**self._about(results), "chosen": chosen, "seeds": [plan.seed for plan in plans]}
        files.write_json(self.home / NAME, about)
        for plan in plans:
            files.write_json(out / plan.folder / NAME, about)

    def rows(self, results: Sequence[Result]) -> list[dict[str, Any]]:
        """Return a line for each trial."""
        rounds = self.search.experiment.federation.rounds
        return [
            {
                "trial": one.trial.number,
                "rung": one.trial.rung,
                "rounds": one.trial.rounds or rounds,
                "seeds": " ".join(map(str, one.trial.seeds)),
                **{key: _cell(value) for key, value in one.trial.values.items()},
                "metric": one.value,
                "seconds": round(one.seconds, 3),
                "status": one.status,
                "reason": one.reason,
                "folders": " ".join(one.folders),
            }
            for one in results
        ]

    def _about(self, results: Sequence[Result]) -> dict[str, Any]:
        """Return what is told of the search beside the winner."""
        settings = self.search.settings
        failed = {one.trial.number for one in results if one.status == "failed"}
        return {
            "experiment": self.search.experiment.name,
            "digest": self.search.digest,
            "sampler": settings.sampler,
            "sampler_seed": settings.seed,
            "space": settings.space.to_yaml(),
            "metric": settings.metric,
            "goal": "maximise" if settings.maximises else "minimise",
            "validation": self.search.validation,
            "trial_seeds": list(settings.seeds),
            "trials": len({one.trial.number for one in results}),
            "failed": len(failed),
            "trial_runs": len({folder for one in results for folder in one.folders}),
            "trial_seconds": round(sum(one.seconds for one in results), 3),
            "other_searches": self._others,
            "earlier_trials": sum(self._others.values()),
        }

    @cached_property
    def _others(self) -> dict[str, int]:
        return _others(self.search, self.home)


def _others(search: Search, home: Path) -> dict[str, int]:
    """Return the trials of other searches of this name before this one, by the digest of each."""
    before = read_record(home)
    others = before.get("other_searches")
    counts = {str(k): v for k, v in others.items() if is_count(v)} if isinstance(others, dict) else {}
    if is_count(before.get("trials")):
        counts[str(before.get("digest"))] = before["trials"]
    counts.pop(search.digest, None)
    return counts


def earlier_trials(search: Search, home: Path) -> int:
    """Return how many trials other searches of this name have had, by the record in a folder of trials."""
    return sum(_others(search, home).values())


def _cell(value: Any) -> Any:
    """Return a value as it stands in the table."""
    return value if isinstance(value, int | float | str) else json.dumps(dump(value))


def _drawn(home: Path) -> list[str]:
    """Return the paths of the figure of a search, or why it cannot be drawn: the trials are finished."""
    try:
        return [str(path) for path in draw_search(home, home / "figures")]
    except StoreError as error:
        return [f"{home}: its figure cannot be drawn ({error})"]
