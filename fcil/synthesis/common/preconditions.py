"""Preconditions of methods, checked before anything is run; each error is one line."""

from __future__ import annotations

from collections.abc import Callable, Iterable

import torch

from fcil.errors import ConfigError
from fcil.synthesis.common.base import SynthesisProblem


def images_alone(name: str, problem: SynthesisProblem) -> None:
    """Check that samples have channels, height and width, else raise ConfigError."""
    if len(problem.shape) != 3:
        raise ConfigError(f"synthesizer {name}: makes images; this data has samples of shape {problem.shape}")


def check_classes_can_be_made(name: str, problem: SynthesisProblem, *build: Callable[[], object]) -> None:
    """Check that samples are images and all of this can be built, else raise ConfigError; no memory is allocated."""
    images_alone(name, problem)
    _check_built(name, build)


def check_series_can_be_made(name: str, problem: SynthesisProblem, *build: Callable[[], object]) -> None:
    """Check that samples are series and all of this can be built, else raise ConfigError; no memory is allocated."""
    if len(problem.shape) != 2:
        raise ConfigError(f"synthesizer {name}: makes series; this data has samples of shape {problem.shape}")
    _check_built(name, build)


def _check_built(name: str, build: Iterable[Callable[[], object]]) -> None:
    try:
        with torch.device("meta"):
            for part in build:
                part()
    except (ValueError, RuntimeError, TypeError) as error:  # torch's messages for an impossible size
        raise ConfigError(f"synthesizer {name}: {error}") from None


def no_judge_of_itself(name: str, problem: SynthesisProblem, adv: float) -> None:
    """Raise ConfigError where an adversarial term would compare the teacher with itself."""
    if adv and problem.student is problem.teacher:
        raise ConfigError(f"synthesizer {name}: the student is the teacher, so they never differ; set adv: 0")
