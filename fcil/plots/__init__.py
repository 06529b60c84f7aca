"""Figures, drawn from run folders and never from live objects. PNG for the screen, PDF for the paper."""

from fcil.plots.comparison import draw_comparison
from fcil.plots.grid import synthetic_grid
from fcil.plots.kinds import KINDS, check_kinds
from fcil.plots.run import draw_run
from fcil.plots.style import styled

__all__ = ["KINDS", "check_kinds", "draw_comparison", "draw_run", "styled", "synthetic_grid"]
