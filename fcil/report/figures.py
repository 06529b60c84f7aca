"""Figures as values: what a template writes as SVG, and what a script reads to tell values and to zoom.

A plot is a rectangle that stretches with the page. Its text is HTML that lies at shares of it, so it
stays legible at any width; lines are SVG in units of the rectangle (`SIDE` each way), drawn with strokes that
do not stretch.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass, field
from functools import cached_property
from itertools import pairwise
from typing import Any

import numpy as np
import numpy.typing as npt
from matplotlib.colors import to_hex
from matplotlib.ticker import MaxNLocator

from fcil.console.tables import duration, size
from fcil.plots.look.colours import CYCLE, DASHES
from fcil.plots.look.style import SHADES

Values = Sequence[float | None]
SIDE = 1000
"""Units along a side of a plot with lines."""
STEPS = 12
"""Shades of a heat map."""
MOST_POINTS = 300
"""Points of a line, at most; longer ones are thinned, and the caption says so."""
MOST_DOTS = 40
"""Points that are marked one by one."""
MOST_NUMBERS = 200
"""Cells whose numbers are written out."""
MOST_CELLS = 20_000
"""Cells of a heat map, at most."""
MOST_LABELS = 15
"""Labels along a side of a heat map, at most."""


@dataclass(frozen=True)
class Tick:
    """A label beside a plot."""

    place: float
    """Percent of its width from the left, or of its height from the top."""
    text: str


@dataclass(frozen=True, kw_only=True)
class Line:
    """A mean over seeds, and how far they reach."""

    name: str
    y: Values
    low: Values = ()
    high: Values = ()
    style: int = 0
    """Place in the cycle of colours; each turn has dashes of its own."""

    @property
    def colour(self) -> int:
        return self.style % len(CYCLE)

    @property
    def dash(self) -> int:
        """0 for a solid line, else the number of a class of the style sheet."""
        return self.style // len(CYCLE) % len(DASHES)


@dataclass(frozen=True, kw_only=True)
class Lines:
    """Lines over tasks or rounds."""

    key: str
    """Unique in a page, and the same when it is made again."""
    title: str
    caption: str
    x_label: str
    y_label: str
    x: Sequence[int]
    lines: Sequence[Line]
    unit: str = ""
    starts: Sequence[int] = ()
    """Rounds with which tasks begin, where x counts rounds; a line pauses there."""
    joined: bool = False
    """True if lines run on from task to task, and over rounds without a value."""
    kind: str = field(default="lines", init=False)

    @cached_property
    def log(self) -> bool:
        """Return whether values are positive and more than two decades apart."""
        known = self._known()
        return bool(self.starts) and not self.joined and min(known) > 0 and max(known) > 100 * min(known)

    def _known(self) -> list[float]:
        """Every value there is, and at least one."""
        every = (v for line in self.lines for values in (line.y, line.low, line.high) for v in values)
        return [v for v in every if v is not None] or [0.0]

    @cached_property
    def span(self) -> tuple[float, float, float, float]:
        """Left, right, bottom and top of the plot; on a log scale bottom and top are powers of ten."""
        known = self._known()
        margin = 0.04 * max(self.x[-1] - self.x[0], 1)
        if self.log:
            bottom, top = math.log10(min(known)), math.log10(max(known))
            return self.x[0] - margin, self.x[-1] + margin, bottom - 0.05, top + 0.05
        bottom, top = min(0.0, *known), max(0.0, *known)
        room = 0.05 * ((top - bottom) or 1.0)
        return self.x[0] - margin, self.x[-1] + margin, bottom - room * (bottom < 0), top + room

    @property
    def x_ticks(self) -> list[Tick]:
        left, right, *_ = self.span
        step = max(1, math.ceil((self.x[-1] - self.x[0]) / 10))
        step = next(s for s in (1, 2, 5, 10, 20, 50, 100, 200, 500, 1000, step) if s >= step)
        wanted = [self.x[0], *(x for x in range(0, self.x[-1] + 1, step) if x >= self.x[0] + 0.75 * step)]
        return [Tick(100 * (x - left) / (right - left), str(x)) for x in wanted]

    @property
    def y_ticks(self) -> list[Tick]:
        _, _, bottom, top = self.span
        if self.log:
            powers = range(math.ceil(bottom), math.floor(top) + 1)
            values = [float(p) for p in powers]
            return [Tick(100 * (top - v) / (top - bottom), f"{10**v:g}") for v in values]
        found = MaxNLocator(nbins=6, steps=[1, 2, 5, 10]).tick_values(bottom, top)
        inside = [float(v) for v in found if bottom <= v <= top]
        return [Tick(100 * (top - v) / (top - bottom), self.words(v)) for v in inside]

    def words(self, value: float) -> str:
        """A value of the y axis."""
        if self.unit == "bytes":
            return size(value)
        return duration(value) if self.unit == "s" else f"{value:g}".replace("-", "\N{MINUS SIGN}")

    def marks(self) -> list[float]:
        """Return where tasks begin, in percent."""
        left, right, *_ = self.span
        return [100 * (start - 0.5 - left) / (right - left) for start in self.starts[1:]]

    def path(self, line: Line) -> str:
        """Return the line, interrupted where a value is missing and where a task begins."""
        return "".join(f"M{' '.join(f'{a:g},{b:g}' for a, b in part)}" for part in self._parts(line.y) if len(part) > 1)

    def dots(self, line: Line) -> str:
        """The points one by one: where they are few, or stand alone."""
        parts = self._parts(line.y)
        few = sum(map(len, parts)) <= MOST_DOTS and len(self.x) <= MOST_DOTS
        return "".join(f"M{a:g},{b:g}h.01" for part in parts if few or len(part) == 1 for a, b in part)

    def band(self, line: Line) -> str:
        """The range of the seeds as areas."""
        lows, highs = self._parts(line.low), self._parts(line.high)
        areas = ([*high, *reversed(low)] for low, high in zip(lows, highs, strict=True))
        return "".join(f"M{' '.join(f'{a:g},{b:g}' for a, b in area)}Z" for area in areas)

    def _parts(self, values: Values) -> list[list[tuple[float, float]]]:
        """Points in units of the plot, in pieces that hang together."""
        left, right, bottom, top = self.span
        borders = set() if self.joined else set(self.starts)
        parts: list[list[tuple[float, float]]] = [[]]
        before = None
        for x, value in zip(self.x, values, strict=False):
            begun = before is not None and any(before < start <= x for start in borders)
            if begun or (value is None and not self.joined):
                parts.append([])
            before = x
            if value is not None:
                height = math.log10(value) if self.log else value
                across, down = (x - left) / (right - left), (top - height) / (top - bottom)
                parts[-1].append((round(SIDE * across, 1), round(SIDE * down, 1)))
        return [part for part in parts if part]

    @property
    def about(self) -> str:
        """Return the description for a screen reader."""
        ends = [(line.name, [v for v in line.y if v is not None]) for line in self.lines]
        told = ", ".join(f"{name} {self.words(float(f'{known[-1]:.3g}'))}" for name, known in ends[:20] if known)
        return f"{self.title}; {self.y_label} by {self.x_label}, from {self.x[0]} to {self.x[-1]}. At the end: {told}."

    @property
    def data(self) -> dict[str, Any]:
        """Return the data for the script."""
        lines = [
            {"name": line.name, "style": line.colour, "dash": line.dash, "y": digits(line.y)}
            | ({"low": digits(line.low), "high": digits(line.high)} if line.low else {})
            for line in self.lines
        ]
        about = {"kind": "lines", "unit": self.unit, "log": self.log, "starts": list(self.starts)}
        return about | {"span": self.span, "xLabel": self.x_label, "x": list(self.x), "lines": lines}


@dataclass(frozen=True, kw_only=True)
class Heat:
    """A table of numbers as shades."""

    key: str
    title: str
    caption: str
    x_label: str
    y_label: str
    x_names: Sequence[str]
    y_names: Sequence[str]
    values: npt.NDArray[np.float64]
    """(rows, columns); NaN where there is nothing."""
    unit: str = ""
    notes: Sequence[Sequence[str]] = ()
    """Notes of each cell, shown beside its number."""
    kind: str = field(default="heat", init=False)

    @property
    def slanted(self) -> bool:
        return any(len(name) > 3 for name in self.x_names)

    @property
    def named(self) -> bool:
        """Return whether names of rows need more room than numbers do."""
        return any(len(name) > 7 for name in self.y_names)

    @property
    def x_ticks(self) -> list[Tick]:
        return _labels(self.x_names)

    @property
    def y_ticks(self) -> list[Tick]:
        return _labels(self.y_names)

    @cached_property
    def top(self) -> float:
        return max(float(np.nanmax(self.values, initial=0.0)), 1.0)

    def _shade(self, value: float) -> int:
        return min(int(STEPS * max(value, 0.0) / self.top), STEPS - 1)

    @property
    def shades(self) -> list[tuple[int, str]]:
        """Number of a shade, and the cells that have it."""
        cells: dict[int, list[str]] = {}
        for (row, column), value in np.ndenumerate(self.values):
            if np.isfinite(value):
                cells.setdefault(self._shade(value), []).append(f"M{column},{row}h1v1h-1z")
        return [(shade, "".join(paths)) for shade, paths in sorted(cells.items())]

    @property
    def numbers(self) -> list[dict[str, Any]]:
        """Return the numbers that are written into the cells, if they are few."""
        rows, columns = self.values.shape
        if rows * columns > MOST_NUMBERS or columns > MOST_LABELS:
            return []
        return [
            {"x": 100 * (column + 0.5) / columns, "y": 100 * (row + 0.5) / rows, "text": f"{value:.0f}",
             "deep": self._shade(value) > STEPS // 2 - 1}
            for (row, column), value in np.ndenumerate(self.values)
            if np.isfinite(value)
        ]  # fmt: skip

    @property
    def about(self) -> str:
        rows, columns = self.values.shape
        shape = f"{rows} rows ({self.y_label}) by {columns} columns ({self.x_label})"
        return f"{self.title}: {shape}; values from 0 to {self.top:.3g} {self.unit}."

    @property
    def data(self) -> dict[str, Any]:
        about: dict[str, Any] = {"kind": "heat", "unit": self.unit, "xLabel": self.x_label, "yLabel": self.y_label}
        about |= {"xNames": list(self.x_names), "yNames": list(self.y_names), "notes": [list(n) for n in self.notes]}
        rows = [digits([None if np.isnan(v) else float(v) for v in row]) for row in self.values]
        return about | {"span": (0, self.values.shape[1], 0, self.values.shape[0]), "values": rows}


def _labels(names: Sequence[str]) -> list[Tick]:
    step = math.ceil(len(names) / MOST_LABELS)
    places = range(0, len(names), step)
    return [Tick(100 * (i + 0.5) / len(names), names[i]) for i in places]


def digits(values: Values) -> list[float | int | None]:
    """Four digits: more than a reader of a plot sees."""
    return [None if v is None else int(v) if v == int(v) else float(f"{v:.4g}") for v in values]


def thinned(count: int, starts: Sequence[int]) -> list[int]:
    """Places of at most about `MOST_POINTS` of `count` points, the first and last of every task among them."""
    step = math.ceil(count / MOST_POINTS)
    kept = {*range(0, count, step), count - 1}
    if len(starts) <= MOST_POINTS:
        kept |= {start - 1 for start in starts} | {start - 2 for start in starts[1:]}
    return sorted(kept)


def shades() -> list[str]:
    """The colours of a heat map, from little to much."""
    return [to_hex(SHADES(i / (STEPS - 1))) for i in range(STEPS)]


def starts_of(tasks: Sequence[int]) -> list[int]:
    """Numbers (from 1) of the rounds with which tasks begin, from the task of each round."""
    return [1, *(i + 1 for i, (a, b) in enumerate(pairwise(tasks), start=1) if a != b)]
