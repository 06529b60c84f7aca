"""L1: the student's logits are to be the teacher's, difference by difference.

Paper: Fang et al., "Data-Free Adversarial Distillation", 2019, arXiv:1912.11006.
Code: github.com/VainF/Data-Free-Adversarial-Distillation @ c161591.

    L = 1/BC sum_ik |s_ik - t_ik|       s, t logits of student and teacher

Its gradient keeps its size as the student comes near; that of softened answers vanishes. No label
is read.

Shapes: B batch, C classes.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import torch.nn.functional as F

from fcil.distillers.common.base import Distiller
from fcil.synthesis.common.base import Views
from fcil.types import Output, Terms


@dataclass(frozen=True, kw_only=True)
class L1(Distiller):
    """Mean distance of logits."""

    def loss(self, state: Any, student: Output, teacher: Output, views: Views) -> Terms:
        return {"l1": F.l1_loss(student.logits, teacher.logits)}
