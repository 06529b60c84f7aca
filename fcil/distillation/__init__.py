"""`fcil distill`: a teacher, trained or given, and the students that learn from it without data.

The keys of its experiment files are read here and turned into plans of the engine: the teacher is a
federation of one client in one task, and so is a student, whose client synthesises (`strategies/distill.py`).
So a distillation is resumed, monitored, plotted and compared like any run.
"""

from __future__ import annotations

import importlib
from typing import TYPE_CHECKING, Any

from fcil.distillation.plans import expected_plans, forecast, survey
from fcil.distillation.quality import QUALITY, measure, quality_table
from fcil.distillation.settings import Distillation, StudentSettings, TeacherSettings, distils, read
from fcil.distillation.teachers import check_teacher, exported, given_teacher

if TYPE_CHECKING:
    from fcil.distillation.play import distill

__all__ = [
    "QUALITY",
    "Distillation",
    "StudentSettings",
    "TeacherSettings",
    "check_teacher",
    "distill",
    "distils",
    "expected_plans",
    "exported",
    "forecast",
    "given_teacher",
    "measure",
    "quality_table",
    "read",
    "survey",
]


def __getattr__(name: str) -> Any:
    """Load what plays runs when it is first asked for: `fcil show` need not wait for Flower and the figures."""
    if name == "distill":
        return importlib.import_module("fcil.distillation.play").distill
    raise AttributeError(f"module 'fcil.distillation' has no attribute {name!r}")
