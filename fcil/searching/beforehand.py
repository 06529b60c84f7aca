"""`fcil search --dry-run`: what a search would try, what of it is there, and about how long the rest takes.

The sampler is asked for its trials and told the results that are there, as far as they go: what it asks for after the
first trial that is still to be played depends on that one, and only its number is known. Nothing is played or written.
"""

from __future__ import annotations

import io
from collections.abc import Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

from rich.console import Console, Group, RenderableType
from rich.text import Text

from fcil.config import dump
from fcil.config.matrix import Source
from fcil.console.tables import NONE, duration, simple_table
from fcil.data.sources import at_hand
from fcil.federation.context import Datasets
from fcil.federation.plan import Plan
from fcil.runs.estimate import BASES, Estimate, ExpectedRun, estimate_plans
from fcil.runs.preflight import named, share_out
from fcil.searching.live import SearchProgress, shown
from fcil.searching.plans import Search, described, read
from fcil.searching.play import earlier_trials, waves
from fcil.searching.samplers import Result, Trial, best, expected_rounds, expected_runs, ladder
from fcil.searching.trials import Player


@dataclass(frozen=True)
class ExpectedTrial:
    """A trial that the sampler asks for, whatever comes of those that are still to be played."""

    trial: int
    rung: int
    rounds: int
    """Rounds per task."""
    seeds: tuple[int, ...]
    values: dict[str, Any]
    state: str
    """`finished`, `failed`, `begun` or `new`."""
    metric: float | None
    reason: str
    """Why it failed."""
    seconds: float | None
    """Still to come; None: unknown."""
    folders: tuple[str, ...]
    """Folders of its runs."""


@dataclass(frozen=True, kw_only=True)
class Forecast:
    """A search that is still to be played, or gone on with."""

    line: str
    """What is tried and on what it is judged, in a sentence."""
    sampler: str
    sampler_seed: int
    space: dict[str, Any]
    metric: str
    goal: str
    validation: float
    """Share of the training samples that trials are judged on."""
    learnt: int | None
    """Training samples that a trial may learn from; None: the data are not at hand."""
    held_out: int | None
    """Training samples that it is tested on."""
    rungs: tuple[dict[str, int | None], ...]
    """Trials, rounds per task and seeds of each rung; only a halving has several."""
    most_runs: int | None
    """Runs of all trials if none fails; None: only the hours limit them."""
    hours: float | None
    trials: tuple[ExpectedTrial, ...]
    later_runs: int | None
    """Runs of trials that depend on results to come; None: only the hours limit them."""
    earlier_trials: int
    """Trials of other searches of this name that are there."""
    winner: tuple[ExpectedRun, ...]
    """The winner's runs on the test samples; before it is known, as the first trial's settings would be."""
    chosen: int | None
    """Number of the trial that has won; None: not known yet."""
    seconds: float | None
    """Until all is played; None: unknown."""
    at_once: int
    basis: tuple[str, ...]
    """Sources of the estimate, keys of `fcil.runs.estimate.BASES`."""
    notes: tuple[str, ...]

    def to_json(self) -> dict[str, Any]:
        found: dict[str, Any] = dump(asdict(self))
        return found


def forecast(source: Source, *overrides: str, out: str | Path = "results", jobs: int | None = None) -> Forecast:
    """Return what `search` would try with the same arguments.

    Raises:
        UserError: something in the file or the data is wrong.
    """
    wanted, out = read(source, overrides), Path(out)
    settings, rounds = wanted.settings, wanted.experiment.federation.rounds
    asked, all_known = _asked(wanted, out, rounds)
    over = all_known and all(result is not None for *_, result in asked)
    plans = {plan.folder: plan for _, found, _ in asked for plan in found}
    ahead = estimate_plans([*plans.values()], out, wanted.where, smoke=False, jobs=jobs)
    ranked = best([r for *_, r in asked if r is not None], maximises=settings.maximises) if over else []
    values = ranked[0].trial.values if ranked else asked[0][0].values if asked else {}
    last = estimate_plans(wanted.final(values), out, wanted.where, smoke=False, jobs=jobs)
    by_folder = {run.folder: run for run in ahead.runs}
    trials = tuple(
        _expected(one, [by_folder[str(out / p.folder)] for p in found], r, rounds) for one, found, r in asked
    )
    most = expected_runs(settings, rounds)
    later = 0 if all_known else None if most is None else max(0, most - sum(len(trial.seeds) for trial in trials))
    learnt, held_out = _samples(wanted)
    return Forecast(
        line=described(wanted),
        sampler=settings.sampler,
        sampler_seed=settings.seed,
        space=settings.space.to_yaml(),
        metric=settings.metric,
        goal="maximise" if settings.maximises else "minimise",
        validation=wanted.validation,
        learnt=learnt,
        held_out=held_out,
        rungs=tuple({"trials": n, "rounds": r, "seeds": s} for n, r, s in ladder(settings, rounds)),
        most_runs=most,
        hours=settings.hours,
        trials=trials,
        later_runs=later,
        earlier_trials=earlier_trials(wanted, out / wanted.name),
        winner=last.runs,
        chosen=ranked[0].trial.number if ranked else None,
        seconds=_seconds(wanted, trials, ahead, last, [r for *_, r in asked if r is not None], all_known),
        at_once=ahead.at_once,
        basis=tuple(dict.fromkeys(run.basis for run in (*ahead.runs, *last.runs) if run.basis)),
        notes=tuple(dict.fromkeys((*ahead.notes, *last.notes))),
    )


Asked = list[tuple[Trial, list[Plan], Result | None]]


def _asked(wanted: Search, out: Path, rounds: int) -> tuple[Asked, bool]:
    """Return the trials that are known to be asked for, their runs and results; and whether these are all there are."""
    settings, quiet = wanted.settings, Console(file=io.StringIO(), quiet=True)
    player = Player(wanted, out, quiet, None, SearchProgress(quiet, settings, rounds))
    limit = float("inf") if settings.hours is None else 3600 * settings.hours
    with named(wanted.where):
        sampler = waves(settings, rounds)
    asked: Asked = []
    wave = next(sampler, [])
    while wave:
        if sum(result.seconds for *_, result in asked if result is not None) >= limit:
            return asked, True
        asked += (now := [(trial, *player.standing(trial)) for trial in wave])
        results = [result for *_, result in now if result is not None]
        if len(results) < len(now):
            return asked, _single(wanted)
        try:
            wave = sampler.send(results)
        except StopIteration:
            break
    return asked, True


def _single(wanted: Search) -> bool:
    """Return whether the first wave has all trials."""
    return wanted.settings.sampler == "grid" or (wanted.settings.sampler == "random" and wanted.settings.hours is None)


def _expected(trial: Trial, runs: Sequence[ExpectedRun], result: Result | None, rounds: int) -> ExpectedTrial:
    ahead = [run.seconds for run in runs if run.state != "finished"]
    seconds = 0.0 if result is not None else None if None in ahead else sum(s for s in ahead if s is not None)
    begun = any(run.state != "new" for run in runs)
    return ExpectedTrial(
        trial=trial.number,
        rung=trial.rung,
        rounds=trial.rounds or rounds,
        seeds=trial.seeds,
        values=trial.values,
        state=result.status if result is not None else "begun" if begun else "new",
        metric=None if result is None else result.value,
        reason="" if result is None else result.reason,
        seconds=seconds,
        folders=tuple(run.folder for run in runs),
    )


def _seconds(
    wanted: Search,
    trials: Sequence[ExpectedTrial],
    ahead: Estimate,
    last: Estimate,
    results: Sequence[Result],
    all_known: bool,
) -> float | None:
    """Return the seconds until all is played; what is not known yet takes as long, round for round, as what is."""
    settings, rounds = wanted.settings, wanted.experiment.federation.rounds
    left = [trial for trial in trials if trial.seconds != 0.0]
    if last.seconds is None or any(trial.seconds is None for trial in left):
        return None
    known, work = sum(trial.seconds or 0.0 for trial in left), sum(t.rounds * len(t.seeds) for t in left)
    whole, listed = expected_rounds(settings, rounds), sum(t.rounds * len(t.seeds) for t in trials)
    budget = None if settings.hours is None else 3600 * settings.hours - sum(result.seconds for result in results)
    if not all_known and whole is not None and work:
        known += max(0, whole - listed) * known / work
    elif not all_known and whole is None and budget is not None:
        known = budget
    return max(0.0, known if budget is None else min(known, budget)) / ahead.at_once + last.seconds


def _samples(wanted: Search) -> tuple[int | None, int | None]:
    """Return how many training samples trials learn from, and on how many they are tested; None: no data at hand."""
    plan = wanted.trial(Trial(number=1, values={}, seeds=wanted.settings.seeds[:1]))[0]
    with named(wanted.where.at("data")):
        if not at_hand(plan.data.info, plan.data.root):
            return None, None
    dataset = share_out(plan, Datasets(look=True), wanted.where).scenario.dataset
    return len(dataset.train), len(dataset.test)


def forecast_table(found: Forecast) -> RenderableType:
    """Return the trials as a table, and around it what is searched and what all of it takes."""
    table = simple_table()
    several = len(found.rungs) > 1
    for title in ("trial", *(["rung"] if several else []), "rounds", "seeds"):
        table.add_column(title, justify="right", no_wrap=True)
    table.add_column("settings", overflow="fold")
    for title in ("state", found.metric, "time"):
        table.add_column(title, justify="right", no_wrap=True)
    for one in found.trials:
        values = ", ".join(f"{key} {shown(value)}" for key, value in one.values.items())
        time = (
            NONE if one.state in ("finished", "failed") else "unknown" if one.seconds is None else duration(one.seconds)
        )
        rung = [str(one.rung)] if several else []
        cells: list[RenderableType] = [
            str(one.trial),
            *rung,
            str(one.rounds),
            " ".join(map(str, one.seeds)),
            Text(values),
            one.state,
        ]
        table.add_row(*cells, NONE if one.metric is None else f"{one.metric:.4g}", time)
    return Group(Text(found.line), table, *(Text(line, style="dim") for line in _remarks(found)), _last(found))


def _remarks(found: Forecast) -> list[str]:
    lines = [f"time: {BASES[basis]}" for basis in found.basis]
    if found.held_out is not None:
        lines.append(f"held out: {found.held_out:,} training samples; trials learn from the other {found.learnt:,}")
    if len(found.rungs) > 1:
        each = (f"{r['trials']} trials of {r['rounds']} rounds and {r['seeds']} seeds" for r in found.rungs)
        lines.append(f"rungs: {'; '.join(each)}")
    if found.later_runs is None:
        lines.append(f"what is tried next depends on results, until runs have taken {found.hours:g} h")
    elif found.later_runs:
        lines.append(f"{found.later_runs:,} runs more, whose settings depend on results")
    if found.earlier_trials:
        lines.append(f"{found.earlier_trials} trials of other searches of this name are there")
    return [*lines, *found.notes]


def _last(found: Forecast) -> Text:
    over = sum(one.state in ("finished", "failed") for one in found.trials)
    there = sum(run.state == "finished" for run in found.winner)
    least = "at least " if "one step" in found.basis else ""
    whole = "time unknown" if found.seconds is None else f"{least}about {duration(found.seconds)}"
    who = "the winner's" if found.chosen is None else f"trial {found.chosen} has won; its"
    runs = f"{there} of {len(found.winner)} runs" if found.chosen is not None else f"{len(found.winner)} runs"
    parts = f"{over} of {len(found.trials)} trials are over", f"{who} {runs} on the test samples", whole
    return Text(f"{parts[0]}; {parts[1]}{' are there' if found.chosen is not None else ''}; {parts[2]}", style="bold")
