"""The trial on time series: a strategy that learns images is played on tiny series too, some of them padded."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

from fcil.check.circumstances import check_predict, check_tested
from fcil.check.contract import (
    NOT_FINITE,
    Case,
    NotApplicable,
    check_ends,
    check_finite,
    check_leaks,
    check_repeat,
    check_resume,
    check_sent,
    check_state,
)
from fcil.strategy import Strategy
from fcil.synthesis import Synthesizer, create

LOOKS = (
    check_state,
    check_finite,
    check_leaks,
    check_ends,
    check_sent,
    check_repeat,
    check_resume,
    check_tested,
    check_predict,
)
"""Checks that are made on series, those that explain others first."""
SHORT = {"rounds": 1}
"""Settings of the federations: what lasts from round to round was checked on images."""
PADDED = (
    "; steps past the end of a series are NaN: split_padding of fcil.nets.series.padding gives the values and a mask"
)


def check_series(case: Case) -> str | None:
    """It learns time series, padded ones too: finite, repeatable, resumable and blind to test series."""
    if case.series:  # all other checks were made on them
        return None
    strategy = on_series(case.spec.strategy)
    if isinstance(strategy, NotApplicable):
        return strategy
    trial = Case(replace(case.spec, strategy=strategy), case.stage.within("on series"), series=True, settings=SHORT)
    problem = next((problem for look in LOOKS if (problem := look(trial))), None)
    if problem is None:
        return None
    shape = ", ".join(map(str, trial.base.context.scenario.dataset.shape))
    return f"with series, of which a batch is (B, {shape}): {problem}{PADDED * bool(NOT_FINITE.search(problem))}"


def on_series(strategy: Strategy) -> Strategy | NotApplicable:
    """Return the strategy for series, with `series` for each synthesizer that makes images, or why there is none."""
    if "series" not in strategy.inputs:
        return NotApplicable(f"it learns {' and '.join(sorted(strategy.inputs))} alone (class variable inputs)")
    others: dict[str, Any] = {
        key: create("series")
        for key, value in vars(strategy).items()
        if isinstance(value, Synthesizer) and "series" not in value.makes
    }
    try:
        return replace(strategy, **others)
    except ValueError as error:
        return NotApplicable(f"it takes no synthesizer of series ({error})")
