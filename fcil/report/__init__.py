"""`fcil report`: everything that run folders tell, in one page that needs no network.

Figures are SVG that this package writes, with a script of its own for zooming and hovering. The page
has two kinds of figure, lines and heat maps; plotly would draw them too, for 4.8 MB of script in
every page, nothing at all where scripts are off, and untrusted names read as its own mark-up.
"""

from fcil.report.page import report, write_report
from fcil.report.watch import serve

__all__ = ["report", "serve", "write_report"]
