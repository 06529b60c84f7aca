"""One look for every figure: legible at the width of a column, for every kind of colour vision, and in grey.

Figures are made from `Figure` directly and drawn by Agg: pyplot keeps global state and looks for a
display. The same data give the same bytes, since no date is stored. A user's own matplotlib style
is laid over ours by `styled`.
"""

from __future__ import annotations

import io
import re
import textwrap
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from contextvars import ContextVar
from pathlib import Path
from typing import Any

import matplotlib as mpl
import numpy as np
import numpy.typing as npt
from matplotlib.axes import Axes
from matplotlib.backends.backend_agg import FigureCanvasAgg
from matplotlib.backends.backend_pdf import FigureCanvasPdf
from matplotlib.collections import LineCollection
from matplotlib.colors import LinearSegmentedColormap
from matplotlib.figure import Figure
from matplotlib.text import Text
from matplotlib.ticker import FuncFormatter, MaxNLocator

from fcil.errors import ConfigError, nearest, printable
from fcil.reading import read_text
from fcil.store.files import write_bytes

DPI = 200
Array = npt.NDArray[np.float64]
GAP = 9.0
"""Points from the end of a line to its name."""
COLUMN = 3.3
"""Inches: 8.4 cm, one column of a two-column page."""
PAGE = 6.9
CYCLE = ("#0072B2", "#D55E00", "#009E73", "#CC79A7", "#E69F00", "#56B4E9", "#000000")
"""Okabe and Ito's colours, without the yellow that white paper swallows."""
SHADES = LinearSegmentedColormap.from_list("shades", ("#E8F1F8", "#7FB3D9", "#0072B2", "#003A5C"))
"""From little to much, in one hue."""
MARKERS = ("o", "s", "^", "D", "v", "P", "X", "*", "<", "h", ">")
"""Not as many as colours, so that it takes long until a pair comes again."""
DASHES: tuple[Any, ...] = ("-", (0, (4, 1.5)), (0, (1, 1.2)), (0, (5, 1.2, 1, 1.2)))
"""Of the first lines of each colour, of the next ones and so on."""
INK, FAINT = "#222222", "#D9D9D9"

_OWN: ContextVar[dict[str, Any]] = ContextVar("_OWN", default={})  # noqa: B039 (never written into)
_LOOK: dict[Any, Any] = {
    "font.family": "DejaVu Sans",
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
        yield


@contextmanager
def styled(path: Path | None) -> Iterator[None]:
    """Lay a matplotlib style file over the look of the house, within a block; nothing without a file.

    Raises:
        ConfigError: it cannot be read, or says what matplotlib does not understand.
    """
    token = _OWN.set({} if path is None else read_style(path))
    try:
        yield
    finally:
        _OWN.reset(token)


def line_style(number: int) -> dict[str, Any]:
    """Colour, dashes and marker of the so manyth line of a figure; no two of the first hundred are alike."""
    own = _OWN.get().get("axes.prop_cycle")
    colours = CYCLE if own is None else [entry.get("color", INK) for entry in own]
    dashes = DASHES[number // len(colours) % len(DASHES)]
    return {"color": colours[number % len(colours)], "linestyle": dashes, "marker": MARKERS[number % len(MARKERS)]}


def new_figure(height: float, width: float = COLUMN) -> Figure:
    """An empty figure, in inches."""
    return Figure(figsize=(width, height), layout="constrained")


def png(figure: Figure) -> bytes:
    """The picture as PNG, 200 dots an inch."""
    return _render(figure, "png")


def save(figure: Figure, path: Path) -> list[Path]:
    """Write `<path>.png` and `<path>.pdf`; each is whole or not there."""
    paths = []
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
    """Without `savefig`, which draws everything once more to find its place."""
    stream = io.BytesIO()
    with look():
        if kind == "png":
            FigureCanvasAgg(figure).print_png(stream)  # type: ignore[no-untyped-call]
        else:
            FigureCanvasPdf(figure).print_pdf(stream, metadata={"CreationDate": None})  # type: ignore[no-untyped-call]
    return stream.getvalue()


def head(figure: Figure, text: str, subtitle: str) -> None:
    """A bold title and what was run below it, at the left edge; the axes make room."""
    width, height = figure.get_size_inches()
    lines = textwrap.wrap(subtitle, int(width * 19))
    top = 0.06 + 0.15 + 0.125 * len(lines) + 0.03
    for row, line in enumerate([text, *lines]):
        y = 1 - (0.06 + (0 if row == 0 else 0.03 + 0.125 * row)) / height
        style: dict[str, Any] = (
            {"fontsize": 8.0, "fontweight": "bold"} if row == 0 else {"fontsize": 7.0, "color": "#555555"}
        )
        figure.text(0.06 / width, y, line, va="top", **style).set_in_layout(False)
    engine = figure.get_layout_engine()
    assert engine is not None
    engine.set(rect=(0, 0, 1, 1 - top / height))  # type: ignore[call-arg]


LARGEST_STYLE = 2**18
"""Bytes of a style file."""
_REFUSED = re.compile(r"backend.*|interactive|toolbar|timezone|webagg\..*|keymap\..*|tk\..*|macosx\..*|pgf\..*")
_OURS = ("text.usetex", "text.parse_math", "pdf.fonttype", "svg.fonttype", "pdf.use14corefonts")
"""Names may hold any character, and journals want fonts that can be read."""


def read_style(path: Path) -> dict[str, Any]:
    """The settings of a matplotlib style file.

    Raises:
        ConfigError: it cannot be read, or says what matplotlib does not understand.
    """
    known: Any = mpl.RcParams()
    found: dict[str, Any] = {}
    for number, line in enumerate(read_text(path, LARGEST_STYLE, ConfigError).split("\n"), start=1):
        bare = re.match(r'(?:[^"#]|"[^"]*")*', line)[0].strip()  # type: ignore[index]
        key, colon, value = (part.strip() for part in bare.partition(":"))
        where, shown = f"{path}: line {number}", printable(key)
        if not bare:
            continue
        if not colon:
            raise ConfigError(f"{where}: {printable(bare)!r} is no setting; expected `key: value`")
        if key not in mpl.rcParams:
            raise ConfigError(f'{where}: unknown setting "{shown}".{nearest(key, mpl.rcParams)}')
        if key in _OURS or _REFUSED.fullmatch(key):
            raise ConfigError(f"{where}: {shown} is not a matter of style here and cannot be set")
        try:
            known[key] = value.removeprefix('"').removesuffix('"')
        except (ValueError, KeyError, TypeError, SyntaxError) as error:
            reason = printable(" ".join(str(error).split()))
            raise ConfigError(f"{where}: {shown}: {printable(value)!r} is not allowed ({reason})") from None
        found[key] = known[key]
    return found


def plain_numbers() -> FuncFormatter:
    """0.01 and 100 instead of powers of ten."""
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
    """Without grid, frame and ticks: what is drawn has edges of its own."""
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


def label_height(label: str, size: float = 7.0) -> float:
    """Inches that a label needs."""
    return size * 1.25 / 72 * (label.count("\n") + 1)


def label_ends(axes: Axes, ends: Sequence[tuple[float, float, str, Any]], size: float = 7.0) -> None:
    """Name lines at their right end instead of in a legend; labels are moved apart where they would touch.

    Args:
        ends: x, y, text and colour of the end of each line, in the units of the axes.
    """
    figure = axes.get_figure(root=True)
    assert figure is not None
    texts = [
        axes.annotate(text, (x, y), xytext=(GAP, 0), textcoords="offset points", color=colour, fontsize=size,
                      va="center", ha="left", annotation_clip=False, linespacing=1.05)
        for x, y, text, colour in ends
    ]  # fmt: skip
    figure.draw_without_rendering()
    points = 72.0 / figure.dpi
    box = axes.get_window_extent()
    wanted = np.array([axes.transData.transform((x, y))[1] for x, y, _, _ in ends]) * points
    heights = np.array([72 * label_height(text, size) for _, _, text, _ in ends])
    placed = spread(wanted, heights, box.y0 * points, box.y1 * points)
    leaders = []
    for text, shift, (x, y, _, colour) in zip(texts, placed - wanted, ends, strict=True):
        text.xyann = (GAP, float(shift))
        if abs(shift) > 2:  # a thin line leads from the end to its name
            start = axes.transData.transform((x, y))
            leaders.append((colour, start + np.array([3.0, 0.0]) / points, start + np.array([GAP - 1, shift]) / points))
    inside = axes.transAxes.inverted()
    lines = [inside.transform([start, end]) for _, start, end in leaders]
    thin = LineCollection(lines, colors=[colour for colour, *_ in leaders], linewidths=0.5, transform=axes.transAxes,
                          clip_on=False)  # fmt: skip
    thin.set_in_layout(False)
    figure.add_artist(thin)


def spread(wanted: Array, heights: Array, low: float, high: float) -> Array:
    """Middles (n,) close to `wanted` for labels of these heights (n,): none overlap, and if they fit all
    are within [low, high].
    """
    order = np.argsort(wanted, kind="stable")
    placed = wanted[order].astype(float)
    gaps = (heights[order][:-1] + heights[order][1:]) / 2
    for _ in range(200):
        push = np.maximum(gaps - np.diff(placed), 0) / 2
        if not push.any():
            break
        placed[:-1] -= push
        placed[1:] += push
    lowest = low + np.cumsum([0.0, *gaps])  # where labels are that are stacked on the floor
    placed = np.maximum.accumulate(np.maximum(placed, lowest) - lowest) + lowest
    highest = high - np.cumsum([0.0, *gaps[::-1]])[::-1]
    placed = np.minimum.accumulate((np.minimum(placed, highest) - highest)[::-1])[::-1] + highest
    result = np.empty_like(placed)
    result[order] = placed
    return result
