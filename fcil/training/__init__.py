"""`fcil train`: one net on the whole of a data set, centrally.

The keys of its files are read here and turned into plans of the engine: one client who holds everything, one task, the
strategy finetune, a round for each epoch. So it is resumed, verified, plotted and compared like any run.
"""

from __future__ import annotations

import importlib
from typing import TYPE_CHECKING, Any

from fcil.training.plans import forecast, survey, training_plans
from fcil.training.settings import Training, is_for_training, read

if TYPE_CHECKING:
    from fcil.training.play import train

__all__ = ["Training", "forecast", "is_for_training", "read", "survey", "train", "training_plans"]


def __getattr__(name: str) -> Any:
    """Load what plays runs when it is first asked for: `fcil show` need not wait for Flower and the figures."""
    if name == "train":
        return importlib.import_module("fcil.training.play").train
    raise AttributeError(f"module 'fcil.training' has no attribute {name!r}")
