"""Words in figures: drawn with a font that has them, and as long as their place is wide.

Names come from folders and may hold anything. A character that the font of the house lacks is drawn with another
installed font that has it; where there is none, with an empty square. matplotlib would draw boxes of its own,
and warn of each letter every time it is looked at.
"""

from __future__ import annotations

import re
import unicodedata
from collections.abc import Sequence
from functools import lru_cache

import matplotlib as mpl
from matplotlib import font_manager

from fcil.errors import printable

HOUSE = "DejaVu Sans"
"""Font that comes with matplotlib."""
OTHERS = (
    *(f"Noto Sans CJK {region}" for region in ("SC", "TC", "HK", "JP", "KR")),
    *("Source Han Sans", "Source Han Sans SC", "WenQuanYi Zen Hei", "WenQuanYi Micro Hei", "Droid Sans Fallback"),
    *("PingFang SC", "Hiragino Sans", "Hiragino Sans GB", "Apple SD Gothic Neo", "Arial Unicode MS"),
    *("Microsoft YaHei", "SimHei", "SimSun", "Yu Gothic", "MS Gothic", "Malgun Gothic"),
    *("IPAexGothic", "TakaoPGothic", "NanumGothic", "UnBatang"),
    *("Noto Emoji", "Segoe UI Symbol", "Symbola", "FreeSans", "Unifont"),
)
"""Fonts with letters that the default font lacks, the likeliest first; after them every Noto Sans."""
SQUARE = "\N{WHITE SQUARE}"
"""Placeholder for a character that no font here has."""
FEW = 9
"""Letters of which both ends would say less than the beginning."""
ELLIPSIS = "\N{HORIZONTAL ELLIPSIS}"
_extra: list[str] = []  # fonts that were needed so far


def families() -> list[str]:
    """The fonts of a figure in the order in which they are asked: the user's, the house's, those that were needed.

    One that is not installed is left out, or matplotlib would say so for each word.
    """
    own = mpl.rcParams["font.family"]
    wanted = [own] if isinstance(own, str) else list(own)
    return list(dict.fromkeys([*(family for family in wanted if _points(family)), HOUSE, *_extra]))


def unsupported_characters(wanted: str | Sequence[str]) -> list[str]:
    """The fonts among these that are not installed."""
    return [family for family in ([wanted] if isinstance(wanted, str) else wanted) if not _points(family)]


def drawable(text: str) -> str:
    """The text in one line, each line feed aside, with a square for every character that no font here has."""
    text = "\n".join(printable(line) for line in text.split("\n"))
    if text.isascii():
        return text
    return "".join(c if c == "\n" or _has(c) else _instead(c) for c in text)


def _has(character: str) -> bool:
    """Return whether a font has the character; one that is found for it is used from now on."""
    point = ord(character)
    if any(point in _points(family) for family in families()):
        return True
    found = next((name for name in _others() if point in _points(name)), None)
    if found is None:
        return False
    _extra.append(found)
    mpl.rcParams["font.family"] = families()  # of the figure that is being made; those to come ask for them too
    return True


def _instead(character: str) -> str:
    """Return nothing for what only changes the character before it, else a square."""
    return "" if unicodedata.category(character) in ("Mn", "Me", "Cf") else SQUARE


@lru_cache(1)
def _others() -> tuple[str, ...]:
    """Installed fonts with further letters; fonts of coloured pictures cannot be drawn."""
    there = {font.name for font in font_manager.fontManager.ttflist}
    noto = sorted(name for name in there if name.startswith("Noto Sans") and "Color" not in name)
    return tuple(name for name in dict.fromkeys([*OTHERS, *noto]) if name in there)


@lru_cache(64)
def _points(family: str) -> frozenset[int]:
    """The characters that a font has."""
    try:
        path = font_manager.findfont(family, fallback_to_default=False)
        return frozenset(font_manager.get_font(path).get_charmap())
    except (ValueError, OSError, RuntimeError):  # no such font, or none that can be read
        return frozenset()


# Length -------------------------------------------------------------------------------------------


def width_of(text: str, size: float = 7.0, bold: bool = False) -> float:
    """Inches that the longest line of a drawable text takes."""
    return max((_width(line, size, bold, tuple(families())) for line in text.split("\n")), default=0.0)


@lru_cache(4096)
def _width(line: str, size: float, bold: bool, fonts: tuple[str, ...]) -> float:
    paths = []
    for family in fonts:
        wanted = font_manager.FontProperties(family=family, weight="bold" if bold else "normal")
        try:
            paths.append(font_manager.findfont(wanted, fallback_to_default=False))
        except ValueError:
            continue
    font = font_manager.get_font(paths or [font_manager.findfont(HOUSE)])
    font.set_size(size, 72.0)
    font.set_text(line)
    return float(font.get_width_height()[0]) / 64 / 72


def fit(text: str, inches: float, size: float = 7.0, bold: bool = False) -> str:
    """The text in one line that is no longer than its place: what is too long loses its middle.

    Names that begin alike often end differently, so both ends are kept, unless there is room for a few letters only.
    """
    text = drawable(text.replace("\n", " "))
    if width_of(text, size, bold) <= inches:
        return text
    low, high = 0, len(text) - 1  # as many characters fit
    while low < high:
        middle = (low + high + 1) // 2
        low, high = (middle, high) if width_of(_shortened(text, middle), size, bold) <= inches else (low, middle - 1)
    return _shortened(text, low)


def _shortened(text: str, count: int) -> str:
    begin = (count + 1) * 3 // 5 if count >= FEW else count
    return f"{text[:begin].rstrip()}{ELLIPSIS}{text[len(text) - (count - begin) :].lstrip() if count > begin else ''}"


def wrap(text: str, inches: float, most: int, size: float = 7.0) -> str:
    """The text in at most so many lines, broken at spaces; what is left over loses its middle.

    A line feed is one of the places to break.
    """
    words = [word for word in re.split(r"[ \n]+", drawable(text)) if word]
    lines: list[str] = []
    while words:
        line = words.pop(0)
        if len(lines) == most - 1:
            lines.append(fit(" ".join([line, *words]), inches, size))
            break
        while words and width_of(f"{line} {words[0]}", size) <= inches:
            line = f"{line} {words.pop(0)}"
        lines.append(fit(line, inches, size))
    return "\n".join(lines)
