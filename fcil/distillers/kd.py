"""Knowledge distillation: the student's softened answers are to be the teacher's.

Paper: Hinton et al., "Distilling the Knowledge in a Neural Network", NIPS workshop 2014, arXiv:1503.02531.

    L = T^2 KL(softmax(t / T) || softmax(s / T))       s, t logits of student and teacher

The factor keeps the size of gradients where T changes. No label is read.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

from fcil.distillers.common.base import Distiller
from fcil.losses import kl_divergence
from fcil.synthesis.common.base import Views
from fcil.types import Output, Positive, Terms


@dataclass(frozen=True, kw_only=True)
class KD(Distiller):
    """KL divergence of softened predictions."""

    temperature: Positive = 20.0
    """Temperature of both nets (`T`; 20 as in CMI, Fast-DFKD and NAYER, 1 in their code for DAFL, ZSKT and DFQ)."""

    def loss(self, state: Any, student: Output, teacher: Output, views: Views) -> Terms:
        return {"kl": kl_divergence(student.logits, teacher.logits, self.temperature)}
