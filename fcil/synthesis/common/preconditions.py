"""What methods refuse before anything is run, each in one line."""

from __future__ import annotations

from collections.abc import Callable

import torch

from fcil.errors import ConfigError
from fcil.synthesis.common.base import SynthesisProblem


def images_alone(name: str, problem: SynthesisProblem) -> None:
    """Raises ConfigError unless samples have channels, height and width."""
    if len(problem.shape) != 3:
        raise ConfigError(f"synthesizer {name}: makes images; this data has samples of shape {problem.shape}")


def check_classes_can_be_made(name: str, problem: SynthesisProblem, *build: Callable[[], object]) -> None:
    """Raises ConfigError unless samples are images and all of this can be built; no memory is taken for it."""
    images_alone(name, problem)
    try:
        with torch.device("meta"):
            for part in build:
                part()
    except (ValueError, RuntimeError, TypeError) as error:  # torch's words for a size that is no size
        raise ConfigError(f"synthesizer {name}: {error}") from None


def no_judge_of_itself(name: str, problem: SynthesisProblem, adv: float) -> None:
    """Raises ConfigError where an adversarial term would compare the teacher with itself."""
    if adv and problem.student is problem.teacher:
        raise ConfigError(f"synthesizer {name}: the student is the teacher, so they never differ; set adv: 0")
