"""Tree-structured Parzen estimator of Optuna (Bergstra et al., NeurIPS 2011), which models good and other settings."""

from __future__ import annotations

import importlib
from collections.abc import Sequence
from typing import Any

from fcil.errors import ConfigError
from fcil.searching.samplers import Result, Trial, Waves
from fcil.searching.settings import MOST_TRIALS, SearchSettings
from fcil.searching.space import Choices, Dimension

EXTRA = "search.sampler: tpe needs the package optuna; install it with: pip install '.[search]'"


def tpe(search: SearchSettings) -> Waves:
    """Return the trials that the estimator asks for, `search.batch` at a time.

    Nothing is kept on the disk: a search that goes on asks anew, is told the same results, and comes to where it was.

    Raises:
        ConfigError: Optuna is not installed.
    """
    try:
        optuna = importlib.import_module("optuna")
    except ImportError:
        raise ConfigError(EXTRA) from None
    optuna.logging.set_verbosity(optuna.logging.ERROR)
    return _waves(search, optuna)


def _waves(search: SearchSettings, optuna: Any) -> Waves:
    sampler = optuna.samplers.TPESampler(seed=search.seed % 2**32, constant_liar=search.batch > 1)
    direction = "maximize" if search.maximises else "minimize"
    study = optuna.create_study(sampler=sampler, direction=direction)
    space = search.space.dimensions
    asked_for = {key: _distribution(dimension, optuna) for key, dimension in space.items()}
    most = MOST_TRIALS if search.runs is None else search.runs // len(search.seeds)
    done = 0
    while done < most:
        asked = [study.ask(asked_for) for _ in range(min(search.batch, most - done))]
        results: Sequence[Result] = yield [
            Trial(
                number=done + i,
                values={key: _value(space[key], value) for key, value in trial.params.items()},
                seeds=search.seeds,
            )
            for i, trial in enumerate(asked, start=1)
        ]
        done += len(asked)
        for trial, result in zip(asked, results, strict=True):
            if result.value is None:
                study.tell(trial, state=optuna.trial.TrialState.FAIL)
            else:
                study.tell(trial, result.value)


def _distribution(dimension: Dimension, optuna: Any) -> Any:
    kinds = optuna.distributions
    if isinstance(dimension, Choices):  # by position: a value may be a mapping
        return kinds.CategoricalDistribution(range(len(dimension.values)))
    if dimension.kind == "int":
        return kinds.IntDistribution(*dimension.ends)
    return kinds.FloatDistribution(*dimension.ends, log=dimension.kind == "log")


def _value(dimension: Dimension, value: Any) -> Any:
    if isinstance(dimension, Choices):
        return dimension.values[value]
    return value if dimension.kind == "int" else dimension.rounded(value)
