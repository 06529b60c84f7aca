"""Figures, drawn from run folders and never from live objects. PNG for the screen, PDF for the paper."""

from fcil.plots.comparison import draw_comparison
from fcil.plots.grid import synthetic_grid
from fcil.plots.run import draw_run

__all__ = ["draw_comparison", "draw_run", "synthetic_grid"]
