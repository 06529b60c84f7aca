"""Use of the net of a finished run: `fcil evaluate` measures it, `fcil export` writes it, `fcil unlearn` takes clients
out of it.
"""

from __future__ import annotations

from fcil.evaluation.formats import FORMATS, export
from fcil.evaluation.measure import Evaluation, Group, evaluate
from fcil.evaluation.unlearning import Unlearned, unlearn

__all__ = ["FORMATS", "Evaluation", "Group", "Unlearned", "evaluate", "export", "unlearn"]
