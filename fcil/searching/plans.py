"""From a file with `search` to the plans of its trials and of the winner's runs."""

from __future__ import annotations

import copy
import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from hashlib import sha256
from typing import Any

from fcil.config import Where, dump, parse, parse_fields, parse_yaml
from fcil.config.matrix import DISTILLS, SEARCHES, Source, cells, place, place_of
from fcil.errors import ConfigError, all_of, collect
from fcil.federation.plan import Plan
from fcil.runs.plans import Experiment
from fcil.runs.preflight import named
from fcil.searching.record import SUFFIX
from fcil.searching.samplers import Trial, expected_runs
from fcil.searching.settings import SearchSettings

SPACE = f"{SEARCHES}.space."
"""Begins an override of the space, `search.space.optimizer.lr=[0.1, 0.2]`."""
BUDGET = ("runs", "hours", "batch")
"""Settings of a search that a user may change to go on with the same search."""


@dataclass(frozen=True)
class Search:
    """A search as its file describes it."""

    where: Where
    settings: SearchSettings
    base: dict[str, Any]
    """Values of the file with overrides in place, `search` aside."""
    experiment: Experiment
    """The same as settings."""

    @property
    def name(self) -> str:
        """Return the name under which the trials lie."""
        return f"{self.experiment.name}{SUFFIX}"

    @property
    def validation(self) -> float:
        """Return the share of the training samples that trials are judged on."""
        return self.experiment.data.validation

    @property
    def digest(self) -> str:
        """Return the digest of what is searched and how, the budget aside."""
        asked = {key: value for key, value in dump(self.settings).items() if key not in BUDGET}
        return sha256(json.dumps([asked, self.base], sort_keys=True).encode()).hexdigest()[:16]

    def trial(self, trial: Trial) -> list[Plan]:
        """Return the runs of a trial, one for each of its seeds; their test samples are held-out training samples.

        Raises:
            ConfigError: its values do not go together.
        """
        fixed: dict[str, Any] = {"name": self.name, "seeds": list(trial.seeds), "logger": None}
        found = self._experiment(trial.values, fixed, self.where)
        if trial.rounds is None:
            return found.plans()
        return [replace(p, federation=replace(p.federation, rounds=trial.rounds)) for p in found.plans()]

    def final(self, values: Mapping[str, Any]) -> list[Plan]:
        """Return the winner's runs, which learn from all training samples and are tested on the test samples."""
        plans = self._experiment(values, {}, self.where).plans()
        return [replace(plan, data=replace(plan.data, validation=0.0)) for plan in plans]

    def _experiment(self, values: Mapping[str, Any], fixed: Mapping[str, Any], where: Where) -> Experiment:
        cell = copy.deepcopy(self.base)
        for key in sorted(values, key=lambda key: key.count(".")):  # a strategy before its options
            place(cell, key, copy.deepcopy(values[key]), where.at(key))
        return parse_fields(Experiment, {**cell, **fixed}, where)

    def check(self) -> None:
        """Check the space value by value, so that a mistake is told before anything is run.

        Raises:
            ConfigError: a key that does not exist, a value that is not allowed, or one that changes no result.
        """
        here, errors = self.where.at(SEARCHES).at("space"), list[ConfigError]()
        for key, dimension in self.settings.space.dimensions.items():
            given = [{key: value} for value in dimension.ends]
            read, wrong = collect(lambda values: self._experiment(values, {}, here), given)
            errors += wrong
            if not wrong and len(read) > 1 and len({one.plans()[0].variant for one in read}) == 1:
                errors.append(here.at(key).error("its values change no result"))
        if errors:
            raise all_of(errors)


def read(source: Source, overrides: Sequence[str] = ()) -> Search:
    """Read the search of a file or mapping, and check it.

    Args:
        overrides: `key.path=value`, each value read as YAML; one for a key of the space takes it out of the space.
    Raises:
        ConfigError: names the file, the key path, the value and what is allowed.
    """
    where = place_of(source)
    found = cells(source, [text for text in overrides if not text.startswith(SPACE)])
    if strange := [key for cell in found for key in cell if key in DISTILLS]:
        raise where.error(f'has "{strange[0]}"; a search is of an experiment, and not of a distillation')
    if found[0].get(SEARCHES) is None:
        raise where.error(f'has no "{SEARCHES}", which says what to try (see docs/experiments.md)')
    if len(found) > 1:
        raise where.at("matrix").error(
            f"makes {len(found)} experiments, and a search is of one; choose by an override, such as strategy=finetune"
        )
    (cell,) = found
    asked = cell.pop(SEARCHES)
    if not isinstance(asked, Mapping):
        raise where.at(SEARCHES).error(f"{asked!r} is not allowed; expected a mapping such as {{space: ..., runs: 20}}")
    settings = parse(SearchSettings, _with_overrides(asked, overrides, where), where.at(SEARCHES))
    search = Search(where, settings, cell, parse_fields(Experiment, cell, where))
    _check(search)
    return search


def _with_overrides(asked: Mapping[str, Any], overrides: Sequence[str], where: Where) -> dict[str, Any]:
    """Return the section with overrides of its space in place, and without the keys that an override fixes."""
    space = asked.get("space")
    if not isinstance(space, Mapping):
        return dict(asked)
    given = {text.partition("=")[0]: text.partition("=")[2] for text in overrides}
    changed = {k.removeprefix(SPACE): parse_yaml(v, f'override "{k}"') for k, v in given.items() if k.startswith(SPACE)}
    left = {key: value for key, value in space.items() if key not in given} | changed
    if space and not left:
        raise where.at(SEARCHES).at("space").error("overrides leave nothing to search")
    return {**asked, "space": left}


def _check(search: Search) -> None:
    where, settings, experiment = search.where, search.settings, search.experiment
    if not search.validation:
        raise where.at("data.validation").error(
            "0 is not allowed in a search; trials are judged on this share of the training samples, say 0.2"
        )
    if experiment.data.split is not None:
        raise where.at("data.split").error(
            "is not allowed in a search; its positions are those of one validation share"
        )
    if twice := sorted(set(settings.seeds) & set(experiment.seeds)):
        raise (
            where.at(SEARCHES)
            .at("seeds")
            .error(f"{twice[0]} is not allowed; it is among seeds, which are those of the winner's runs")
        )
    if settings.sampler == "halving" and "federation.rounds" in settings.space.dimensions:
        raise (
            where.at(SEARCHES).at("space").at("federation.rounds").error("cannot be searched by halving, which sets it")
        )
    search.check()
    trial = Trial(number=1, values={}, seeds=settings.seeds)
    search.trial(trial), search.final({})  # the name has room for its suffix
    with named(where):
        expected_runs(settings, experiment.federation.rounds)


def introduction(source: Source, overrides: Sequence[str] = ()) -> str:
    """Return a line about what the search of a file would try.

    Raises:
        ConfigError: as `read`.
    """
    return described(read(source, overrides))


def described(search: Search) -> str:
    """Return a line about what is tried, and on what it is judged."""
    settings = search.settings
    runs = expected_runs(settings, search.experiment.federation.rounds)
    budget = [f"{runs:,} run{'s' * (runs != 1)}"] if runs is not None else []
    budget += [f"{settings.hours:g} h of runs"] if settings.hours is not None else []
    return (
        f"search: {settings.sampler} over {', '.join(settings.space.dimensions)}; at most {' or '.join(budget)}, "
        f"seeds {', '.join(map(str, settings.seeds))}; judged by {settings.metric} on {100 * search.validation:g} % of "
        "the training samples, test samples are for the winner alone"
    )
