"""Use of the net that a run has kept: `fcil evaluate` measures it, `fcil export` writes it for other programs."""

from __future__ import annotations

from fcil.evaluation.formats import FORMATS, export
from fcil.evaluation.measure import Evaluation, Group, evaluate

__all__ = ["FORMATS", "Evaluation", "Group", "evaluate", "export"]
