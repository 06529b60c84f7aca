"""`fcil distill`: a teacher, trained or given, and the students that learn from it without data.

The keys of its experiment files are read here and turned into plans of the engine: the teacher is a
federation of one client in one task, and so is a student, whose client synthesises (`strategies/distill.py`).
So a distillation is resumed, monitored, plotted and compared like any run.
"""

from fcil.distillation.plans import expected_plans, forecast, survey
from fcil.distillation.play import distill
from fcil.distillation.quality import QUALITY, measure, quality_table
from fcil.distillation.settings import Distillation, StudentSettings, TeacherSettings, distils, read
from fcil.distillation.teachers import check_teacher, exported, given_teacher

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
