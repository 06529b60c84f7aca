"""A set of series from its files: parts read, several sets stacked as channels, labels numbered, lengths made equal."""

from __future__ import annotations

import os
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import NamedTuple

import numpy as np
from numpy.typing import NDArray

from fcil.data.series.clean import Longer, Missing, filled, length_of, padded, scaled
from fcil.data.series.packages import Pair, find, listed
from fcil.data.series.part import Part
from fcil.data.series.tables import read_npz, read_tsv
from fcil.data.series.ts import read_ts
from fcil.data.series.words import class_words
from fcil.errors import DataError, nearest

Parts = tuple[Part, Part]
"""Training and test part."""


class SeriesSplits(NamedTuple):
    """A set of series as arrays."""

    train: tuple[NDArray[np.float32], NDArray[np.int64]]
    """Series (N, channels, steps), NaN after the end of each, and class numbers (N,)."""
    test: tuple[NDArray[np.float32], NDArray[np.int64]]
    class_names: tuple[str, ...]
    """By class number: labels as written, or words where all are whole numbers."""


def named_parts(names: Sequence[str], root: str | None) -> Parts:
    """Return the parts of a set of an archive, or of several of them stacked as channels.

    Raises:
        DataError: files are missing or damaged, or rows of two sets are not the same recordings.
    """
    return stacked([_read_pair(find(name, root)) for name in names])


def folder_parts(root: str) -> Parts:
    """Return the parts of the one set in a folder, or in an `.npz` file.

    Raises:
        DataError: there is none, there are several, or it is damaged.
    """
    files = folder_files(root)
    return _read_pair(files) if isinstance(files, Pair) else read_npz(files)


def folder_files(root: str) -> Pair | Path:
    """Return the files of the one set in a folder: a pair, or an `.npz` file.

    Raises:
        DataError: there is none, or there are several.
    """
    path = Path(os.path.expanduser(root))
    if path.suffix == ".npz" and path.exists():
        return path
    found: dict[str, Pair | Path] = {**listed(path), **{file.name: file for file in sorted(path.glob("*.npz"))}}
    if not found:
        raise DataError(f"{path}: no <name>_TRAIN.ts and <name>_TEST.ts, no such .tsv, and no .npz file")
    if len(found) > 1:
        several = ", ".join([*found][:10])
        raise DataError(f"{path}: holds several sets ({several}); set data.root to the folder or file of one")
    return next(iter(found.values()))


def _read_pair(pair: Pair) -> Parts:
    reader = read_ts if pair.train.suffix == ".ts" else read_tsv
    return reader(pair.train), reader(pair.test)


def stacked(sets: Sequence[Parts]) -> Parts:
    """Return several sets as the channels of one: row i of each has to be the same recording.

    That is held against labels and lengths. Of series of one length that are sorted by class nothing can show it.

    Raises:
        DataError: labels or lengths of a row differ.
    """
    if len(sets) == 1:
        return sets[0]
    train, test = (_stacked(parts) for parts in zip(*sets, strict=True))
    return train, test


def _stacked(parts: Sequence[Part]) -> Part:
    first = parts[0]
    for other in parts[1:]:
        if len(other.labels) != len(first.labels):
            raise DataError(f"{other.file}: has {len(other.labels)} series, and {first.file} {len(first.labels)}")
        for what, mine, theirs in (
            ("labels", np.array(first.labels), np.array(other.labels)),
            ("lengths", first.lengths, other.lengths),
        ):
            differ = np.flatnonzero(mine != theirs)
            if len(differ):
                row = differ[0]
                raise DataError(
                    f"{other.file}: its rows are other recordings than those of {first.file}, so they cannot be "
                    f"stacked as channels: {what} of {len(differ):,} of {len(mine):,} rows differ, first at "
                    f"{other.rows[row]} ({theirs[row]}, not {mine[row]})"
                )
    return Part(
        file=" + ".join(part.file for part in parts),
        series=tuple(np.concatenate(channels) for channels in zip(*(part.series for part in parts), strict=True)),
        labels=first.labels,
        rows=first.rows,
        declared=first.declared,
    )


def arranged(parts: Parts, *, missing: Missing, longer: Longer, each: bool) -> SeriesSplits:
    """Return the parts as arrays.

    Args:
        missing: what is done about values missing within a series.
        longer: what is done about test series longer than every training series.
        each: whether every series and channel is brought to mean 0 and standard deviation 1 over its own steps.
    Raises:
        DataError: a value is missing, a label has no training series, or channels differ in number.
    """
    train, test = parts
    if train.channels != test.channels:
        raise DataError(f"{test.file}: has {test.channels} channels, and {train.file} {train.channels}")
    class_names = _class_names(train, test)
    length = length_of(train, test, longer)
    number = {name: row for row, name in enumerate(class_names)}
    arrays = []
    for part in parts:
        series = filled(part, missing)
        x = padded([scaled(x) for x in series] if each else series, length, part.file)
        arrays.append((x, np.array([number[label] for label in part.labels], dtype=np.int64)))
    return SeriesSplits(arrays[0], arrays[1], class_words(class_names))


def _class_names(train: Part, test: Part) -> tuple[str, ...]:
    """Return the labels in order: of their numbers if all are numbers, else of their characters.

    Raises:
        DataError: a label lacks training series, or there is a single one.
    """
    trained = set(train.labels)
    for row, label in zip(test.rows, test.labels, strict=True):
        if label not in trained:
            raise DataError(
                f'{test.file}: {row} is of class "{label}", which no series of {train.file} is of.'
                f"{nearest(label, trained)}"
            )
    absent = sorted(trained - set(test.labels))
    if absent:
        raise DataError(f'{test.file}: has no series of class "{absent[0]}", which {train.file} has')
    if len(trained) < 2:
        raise DataError(
            f'{train.file}: all its series ({len(train.labels)}) are of class "{train.labels[0]}"; '
            "two classes are needed"
        )
    return tuple(sorted(trained, key=_order(trained)))


def _order(labels: set[str]) -> Callable[[str], tuple[float, str]]:
    try:
        numbers = {label: float(label) for label in labels}
    except ValueError:
        numbers = dict.fromkeys(labels, 0.0)
    return lambda label: (numbers[label], label)
