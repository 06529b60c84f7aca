"""Colour, dash and marker of a strategy, independent of the other strategies in a figure.

Built-in strategies have a fixed place; any other name gets one from its hash, and keeps it unless
another of the same figure has that colour. Settings of one strategy share its colour and differ in dashes and
marker; where one strategy stands alone with several settings, each has a colour of its own. A file may say
otherwise for any name.
"""

from __future__ import annotations

from collections.abc import Collection, Iterable, Mapping, Sequence
from contextvars import ContextVar
from dataclasses import dataclass
from hashlib import sha256
from pathlib import Path
from typing import Any, Literal, NamedTuple

import matplotlib as mpl
from matplotlib.colors import CSS4_COLORS, is_color_like
from matplotlib.markers import MarkerStyle

from fcil.config import Where, load_yaml, parse, parse_fields
from fcil.errors import ConfigError, nearest, printable
from fcil.store.groups import Group, group_runs
from fcil.store.read import Run

CYCLE = ("#0072B2", "#D55E00", "#009E73", "#CC79A7", "#E69F00", "#56B4E9", "#000000", "#707070")
"""Okabe and Ito's colours, without the yellow that white paper swallows, and a gray."""
MARKERS = ("o", "s", "^", "D", "v", "P", "X", "*", "<", "h", ">")
"""Markers, fewer than colours, so that it takes long until a pair comes again."""
DASHES: tuple[Any, ...] = ("-", (0, (4, 1.5)), (0, (1, 1.2)), (0, (5, 1.2, 1, 1.2)))
"""Dashes of the first lines of each colour, of the next ones and so on."""
INK = "#222222"
_NAMES = (
    *("lander", "target", "mfcl", "fedlwf", "fedewc", "icarl", "joint", "finetune"),
    *("glfc", "fot", "fedcil", "fedgen", "fedprox", "replay"),
)
HOUSE = {name: number for number, name in enumerate(_NAMES)}
HOUSE |= {"analytic": 2 * len(CYCLE), "patchwork": 2 * len(CYCLE) + 1, "moored": 2 * len(CYCLE) + 2}
"""Places of the strategies that come with the platform; a colour's second one is dashed. Lower and upper bound are
gray and black, which no other strategy gets as long as there are colours."""
BOUNDS = 2
"""Colours at the end of the cycle that are those of the lower and upper bound."""
Dash = Literal["solid", "dashed", "dotted", "dashdot"]


class Name(NamedTuple):
    """Strategy and setting that a line stands for."""

    method: str
    variant: str
    label: str

    @classmethod
    def of(cls, group: Group) -> Name:
        return cls(group.method, group.variant, group.label)


@dataclass(frozen=True, kw_only=True)
class Style:
    """User's style for a name; what is null stays as it is."""

    colour: str | None = None
    """A name (`crimson`) or hex digits (`"#0072B2"`)."""
    dash: Dash | None = None
    """Dash of the line."""
    marker: str | None = None
    """Marker as matplotlib calls it: `o`, `s`, `^` and so on; an empty text for none."""

    @classmethod
    def from_yaml(cls, raw: Any, where: Where) -> Style:
        """A colour alone, or a mapping."""
        if raw is None:
            raise where.error('null is not allowed; a colour of hex digits stands in quotes: "#0072B2"')
        return parse_fields(cls, {"colour": raw} if isinstance(raw, str) else raw, where)

    def __post_init__(self) -> None:
        if self.colour is not None and (self.colour == "none" or not is_color_like(self.colour)):
            near = nearest(self.colour, CSS4_COLORS)
            raise ValueError(f'colour: "{printable(self.colour)}" is no colour (crimson and "#0072B2" are).{near}')
        known = [m for m in MarkerStyle.markers if isinstance(m, str)]
        if self.marker is not None and self.marker not in known:
            raise ValueError(
                f'marker: "{printable(self.marker)}" is no marker (have: {" ".join(filter(str.strip, known))})'
            )


CHOSEN: ContextVar[Mapping[str, Style]] = ContextVar("CHOSEN", default={})  # noqa: B039 (never written into)
"""Styles that the user has chosen, by label or by strategy."""


def read_colours(path: Path) -> dict[str, Style]:
    """A YAML file with a colour, or a mapping of colour, dash and marker, for each name.

    Raises:
        ConfigError: names the file, the name, the value and what is allowed.
    """
    where, raw = Where(str(path)), load_yaml(path)
    if not isinstance(raw, Mapping) or not raw:
        raise ConfigError(f"{path}: expected a mapping of names to colours, such as lander: crimson")
    return {str(name): parse(Style, value, where.at(printable(str(name)))) for name, value in raw.items()}


def line_style(number: int) -> dict[str, Any]:
    """Colour, dashes and marker of a place; no two of the first hundred are alike.

    A user's `axes.prop_cycle` gives the colours, where there is one.
    """
    colours = mpl.rcParams["axes.prop_cycle"].by_key().get("color", [INK])
    dashes = DASHES[number // len(colours) % len(DASHES)]
    return {"color": colours[number % len(colours)], "linestyle": dashes, "marker": MARKERS[number % len(MARKERS)]}


def line_styles(groups: Sequence[Group]) -> list[dict[str, Any]]:
    """Colour, dashes and marker of each group of a figure."""
    names = [Name.of(group) for group in groups]
    count = len(mpl.rcParams["axes.prop_cycle"].by_key().get("color", [INK]))
    styles = []
    for name, number in zip(names, places(names, count), strict=True):
        wanted = CHOSEN.get().get(name.label) or CHOSEN.get().get(name.method) or Style()
        own = {"color": wanted.colour, "linestyle": wanted.dash, "marker": wanted.marker}
        styles.append(line_style(number) | {key: value for key, value in own.items() if value is not None})
    return styles


def places(names: Sequence[Name], count: int = len(CYCLE)) -> list[int]:
    """A place in the cycle of `count` colours for each name, no two alike; the order of the names does not matter."""
    methods = sorted({name.method for name in names}, key=lambda method: (method not in HOUSE, method))
    found: dict[tuple[str, str], int] = {}
    if len(methods) == 1 < len(names):  # settings of one strategy
        for name in sorted(set(names)):
            found[name.method, name.variant] = _free(f"{name.method} {name.variant}", found.values(), count)
        return [found[name.method, name.variant] for name in names]
    bases: dict[str, int] = {}
    for method in methods:
        bases[method] = HOUSE[method] if method in HOUSE else _free(method, bases.values(), count)
    for name in sorted(set(names), key=lambda name: (methods.index(name.method), name.variant)):
        place = bases[name.method]
        while place in found.values() or (place in bases.values() and place != bases[name.method]):
            place += count  # the same colour with other dashes, or another marker
        found[name.method, name.variant] = place
    return [found[name.method, name.variant] for name in names]


def _free(name: str, taken: Iterable[int], count: int) -> int:
    """The place that the hash of a name gives, or the next one of another colour, or with other dashes."""
    there: Collection[int] = set(taken)
    used, start = {place % count for place in there}, int(sha256(name.encode()).hexdigest()[:8], 16)
    hues = max(1, count - BOUNDS)
    colours = [*((start + i) % hues for i in range(hues)), *range(hues, count)]
    plain = [colour for colour in colours if colour not in used]
    dashed = [dash * count + colour for dash in range(1, len(DASHES)) for colour in colours]
    more = range(len(DASHES) * count + start % hues, 10**9, count)
    return next(place for places in (plain, dashed, more) for place in places if place not in there)


def unused(runs: Sequence[Run]) -> list[str]:
    """A line for each name of the user's file that none of these runs has: it may be misspelt."""
    if len(runs) == 1 and CHOSEN.get():
        return ["colours are for several runs; the figures of a single one are not about its strategy"]
    there = {word for group in group_runs(runs) for word in (group.label, group.method)}
    return [
        f'colours: "{printable(name)}" is not drawn.{nearest(name, there)}'
        for name in CHOSEN.get()
        if name not in there
    ]
