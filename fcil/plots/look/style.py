"""One look for every figure: legible at the width of a column, for every kind of colour vision, and in grey.

Figures are made from `Figure` directly and drawn by Agg: pyplot keeps global state and looks for a
display. The same data give the same bytes, since no date is stored. A user's own matplotlib style
is laid over ours by `styled`.
"""

from __future__ import annotations

import io
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from contextvars import ContextVar
from pathlib import Path
from typing import Any

import matplotlib as mpl
import numpy as np
import numpy.typing as npt
from cycler import cycler
from matplotlib.axes import Axes
from matplotlib.backends.backend_agg import FigureCanvasAgg
from matplotlib.backends.backend_pdf import FigureCanvasPdf
from matplotlib.colors import LinearSegmentedColormap
from matplotlib.figure import Figure
from matplotlib.text import Text
from matplotlib.ticker import FuncFormatter, MaxNLocator

from fcil.errors import printable
from fcil.io.atomic import write_bytes
from fcil.plots.look.colours import CHOSEN, CYCLE, INK, Style, read_colours, unused
from fcil.plots.look.user_style import read_style
from fcil.plots.look.words import HOUSE, families, fit, unsupported_characters, wrap
from fcil.store.read import Run

DPI = 200
Array = npt.NDArray[np.float64]
COLUMN = 3.3
"""Inches: 8.4 cm, one column of a two-column page."""
PAGE = 6.9
MOST_LINES = 4
"""Lines of the text below a title, at most."""
SHADES = LinearSegmentedColormap.from_list("shades", ("#E8F1F8", "#7FB3D9", "#0072B2", "#003A5C"))
"""Colour map from little to much, in one hue."""
FAINT = "#D9D9D9"

_TITLES: ContextVar[bool] = ContextVar("_TITLES", default=True)
_OWN: ContextVar[dict[str, Any]] = ContextVar("_OWN", default={})  # noqa: B039 (never written into)
_LOOK: dict[Any, Any] = {
    "font.family": HOUSE,
    "font.size": 7.0,
    "axes.labelsize": 7.0,
    "axes.edgecolor": "#888888",
    "axes.linewidth": 0.6,
    "axes.labelcolor": INK,
    "axes.spines.top": False,
    "axes.spines.right": False,
    "axes.grid": True,
    "axes.axisbelow": True,
    "axes.unicode_minus": True,
    "axes.prop_cycle": cycler(color=CYCLE),
    "grid.color": "#E6E6E6",
    "grid.linewidth": 0.5,
    "xtick.labelsize": 7.0,
    "ytick.labelsize": 7.0,
    "xtick.color": "#555555",
    "ytick.color": "#555555",
    "xtick.major.width": 0.5,
    "ytick.major.width": 0.5,
    "xtick.major.size": 2.0,
    "ytick.major.size": 2.0,
    "lines.linewidth": 1.4,
    "lines.markersize": 3.4,
    "text.color": INK,
    "text.usetex": False,
    "text.parse_math": False,
    "figure.dpi": DPI,
    "figure.facecolor": "white",
    "savefig.facecolor": "white",
    "pdf.fonttype": 42,
}


@contextmanager
def look() -> Iterator[None]:
    """The settings in force while a figure is made and saved."""
    settings: dict[Any, Any] = {**_LOOK, **_OWN.get()}
    with mpl.rc_context(settings):
        mpl.rcParams["font.family"] = families()
        yield


@contextmanager
def styled(path: Path | None = None, *, colours: Path | None = None, titles: bool = True) -> Iterator[None]:
    """Draw in another style than the default, within a block.

    Args:
        path: a matplotlib style file, laid over the look of the house.
        colours: a YAML file that says how names are drawn.
        titles: whether figures have titles; without, they are lower.
    Raises:
        ConfigError: a file cannot be read, or says what is not understood.
    """
    own: dict[str, Any] = {} if path is None else read_style(path)
    chosen: dict[str, Style] = {} if colours is None else read_colours(colours)
    look_, names, heads = _OWN.set(own), CHOSEN.set(chosen), _TITLES.set(titles)
    try:
        yield
    finally:
        _OWN.reset(look_)
        CHOSEN.reset(names)
        _TITLES.reset(heads)


def remarks(runs: Sequence[Run]) -> list[str]:
    """A line for each of the user's wishes that figures of these runs cannot fulfil."""
    fonts = unsupported_characters(_OWN.get().get("font.family", []))
    return [f'font "{printable(font)}" is not installed here; {HOUSE} is in its place' for font in fonts] + unused(runs)


def titled() -> bool:
    """Return whether figures have titles."""
    return _TITLES.get()


def new_figure(height: float, width: float = COLUMN) -> Figure:
    """An empty figure, in inches."""
    return Figure(figsize=(width, height), layout="constrained")


def png(figure: Figure) -> bytes:
    """The picture as PNG, 200 dots an inch."""
    return _render(figure, "png")


def save(figure: Figure, path: Path) -> list[Path]:
    """Write `<path>.png` and `<path>.pdf`; each is whole or not there."""
    paths = []
    with look():
        for text in figure.findobj(Text):
            if hasattr(text, "set_fontfeatures"):  # a joined "fi" would be a font of its own in every PDF
                text.set_fontfeatures(("-liga",))
        if figure.get_layout_engine() is not None:
            figure.draw_without_rendering()
            figure.set_layout_engine("none")  # all has its place now, and need not be placed again for each file
    for kind in ("png", "pdf"):
        target = path.with_name(f"{path.name}.{kind}")
        write_bytes(target, _render(figure, kind))
        paths.append(target)
    return paths


def _render(figure: Figure, kind: str) -> bytes:
    """Return the file's bytes without `savefig`, which draws everything once more to find its place."""
    stream = io.BytesIO()
    with look():
        if kind == "png":
            FigureCanvasAgg(figure).print_png(stream)  # type: ignore[no-untyped-call]
        else:
            FigureCanvasPdf(figure).print_pdf(stream, metadata={"CreationDate": None})  # type: ignore[no-untyped-call]
    return stream.getvalue()


def head(figure: Figure, text: str, subtitle: str) -> None:
    """A bold title and what was run below it, at the left edge; the axes make room.

    A figure without titles is as much lower, so that the axes are as large.
    """
    width, height = figure.get_size_inches()
    lines = wrap(subtitle, width - 0.12, MOST_LINES).split("\n")
    top = 0.06 + 0.15 + 0.125 * len(lines) + 0.03
    if not titled():
        figure.set_size_inches(width, height - top)
        return
    for row, line in enumerate([fit(text, width - 0.12, 8.0, bold=True), *lines]):
        y = 1 - (0.06 + (0 if row == 0 else 0.03 + 0.125 * row)) / height
        style: dict[str, Any] = (
            {"fontsize": 8.0, "fontweight": "bold"} if row == 0 else {"fontsize": 7.0, "color": "#555555"}
        )
        figure.text(0.06 / width, y, line, va="top", **style).set_in_layout(False)
    engine = figure.get_layout_engine()
    assert engine is not None
    engine.set(rect=(0, 0, 1, 1 - top / height))  # type: ignore[call-arg]


def plain_numbers() -> FuncFormatter:
    """Return a formatter that writes 0.01 and 100 instead of powers of ten."""
    return FuncFormatter(lambda value, _: f"{value:g}".replace("-", "\N{MINUS SIGN}"))


def percent_axis(axes: Axes, label: str, *, low: float | None = 0.0, high: float | None = None) -> None:
    """Values are percents already; the axis begins at `low` unless the data go below."""
    axes.set_ylabel(label)
    axes.yaxis.set_major_locator(MaxNLocator(nbins=6, steps=[1, 2, 5, 10]))
    axes.yaxis.set_major_formatter(plain_numbers())
    bottom, top = axes.dataLim.intervaly
    if np.isfinite([bottom, top]).all():
        margin = 0.06 * max(top - min(bottom, low or 0.0), 1.0)
        axes.set_ylim(bottom - margin if low is None or bottom < low else low, high if high else top + margin)


def bare(axes: Axes) -> None:
    """Remove grid, frame and ticks: what is drawn has edges of its own."""
    axes.grid(False)
    axes.spines[:].set_visible(False)
    axes.tick_params(length=0)


def legend_height(lines: int) -> float:
    """Inches of a legend beside the axes."""
    return 0.137 * lines + 0.1


def task_axis(axes: Axes, tasks: int, most: int = 12) -> None:
    """One tick for each task, or every few where they would touch."""
    step = max(1, round(tasks / most))
    axes.set_xticks(range(1, tasks + 1, step))
    axes.set_xlim(1 - 0.04 * max(tasks - 1, 1), tasks + 0.04 * max(tasks - 1, 1))
    axes.set_xlabel("tasks learnt")
