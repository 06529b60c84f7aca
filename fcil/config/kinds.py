"""Kind of the samples of a data set, told by its name alone: for what reads finished runs, without torch."""

from __future__ import annotations

from typing import Literal

ARCHIVES = ("uea", "ucr")
"""Archives of time series, whose sets are named `uea:BasicMotions`."""
SERIES = ("mnist1d", "ts_folder")
"""Other data sets of time series."""


def kind_of(name: str) -> Literal["images", "series"]:
    """Return the kind of the samples of a data set by its name; images, if there is none of this name."""
    return "series" if name in SERIES or name.startswith(tuple(f"{archive}:" for archive in ARCHIVES)) else "images"
