"""What is written in a figure."""

from __future__ import annotations

from matplotlib.figure import Figure


def texts(figure: Figure) -> list[str]:
    inside = [t.get_text() for axes in figure.axes for t in axes.texts]
    return [t.get_text() for t in figure.texts] + inside
