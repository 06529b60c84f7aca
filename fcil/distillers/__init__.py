"""Distillation losses: the student's objective, given samples and the outputs of both nets.

    import fcil.distillers
    crd = fcil.distillers.create("crd", kd=1.0)

A distiller makes no samples; `fcil.synthesis` does.
"""

from fcil.distillers.common.base import Distiller, Stateless, create, distiller_class, distiller_names
from fcil.distillers.common.pairs import contradiction
from fcil.distillers.kd import KD
from fcil.synthesis import Learns

__all__ = [
    "KD",
    "Distiller",
    "Learns",
    "Stateless",
    "contradiction",
    "create",
    "distiller_class",
    "distiller_names",
]
