"""Figures, drawn from run folders and never from live objects. PNG for the screen, PDF for the paper."""

import fcil.plots.look.quiet  # isort: skip # noqa: F401 (before matplotlib)
from fcil.plots.comparison import draw_comparison, draw_missing_comparison
from fcil.plots.grid import synthetic_grid
from fcil.plots.kinds import KINDS, check_kinds
from fcil.plots.look.style import remarks, styled
from fcil.plots.run import draw_missing, draw_run, undrawn

__all__ = [
    "KINDS",
    "check_kinds",
    "draw_comparison",
    "draw_missing",
    "draw_missing_comparison",
    "draw_run",
    "remarks",
    "styled",
    "synthetic_grid",
    "undrawn",
]
