"""A user's matplotlib style file, which is laid over the look of the house."""

from __future__ import annotations

import re
from pathlib import Path
from typing import Any

import matplotlib as mpl

from fcil.errors import ConfigError, nearest, printable
from fcil.io.bounded import read_text

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
