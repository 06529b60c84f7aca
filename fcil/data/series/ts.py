"""Reader of `.ts` files, the format of the UEA archive.

A header of `@key value` lines, `@data`, then a series a line: channels apart by `:`, values by `,`, the class label
last. Differs: the readers of aeon and sktime write class labels in lower case, so that `A` and `a` become one class;
here labels are kept as they are written. What the header says is held against the series.

Source of the format: https://www.aeon-toolkit.org (examples/datasets/data_loading).
"""

from __future__ import annotations

from pathlib import Path

import numpy as np

from fcil.data.series.part import Part, Series, checked, lines, numbers
from fcil.errors import DataError, nearest


def read_ts(path: Path) -> Part:
    """Return the series of a `.ts` file.

    Raises:
        DataError: it cannot be read, is of another kind than labelled series, or its header says otherwise.
    """
    header: dict[str, str] = {}
    declared: tuple[str, ...] = ()
    series: list[Series] = []
    labels: list[str] = []
    rows: list[str] = []
    for number, text in lines(path):
        if text[0] in "#%" and "data" not in header:
            continue
        if text[0] == "@" and "data" not in header:
            key, _, value = text[1:].partition(" ")
            header[key.lower()] = value.strip()
            if key.lower() == "data":
                declared = _declared(header, path)
            continue
        row = f"line {number}"
        if "data" not in header:
            raise DataError(f"{path}: {row} comes before @data and is no @key of a header")
        *channels, label = text.split(":")
        label = label.strip()
        if not channels or label not in declared:
            raise DataError(
                f'{path}: {row} ends in the label "{label[:40]}", which @classLabel does not list '
                f"({', '.join(declared[:20])}).{nearest(label, declared)}"
            )
        series.append(
            _stacked(
                [numbers(_words(c), f"{path}: {row}, channel {k}") for k, c in enumerate(channels, 1)], f"{path}: {row}"
            )
        )
        labels.append(label)
        rows.append(row)
    if "data" not in header:
        raise DataError(f"{path}: no @data line; not a .ts file")
    part = Part(file=str(path), series=tuple(series), labels=tuple(labels), rows=tuple(rows), declared=declared)
    _check_header(header, checked(part))
    return part


def _words(channel: str) -> list[str]:
    return channel.split(",") if channel.strip() else []


def _stacked(channels: list[Series], where: str) -> Series:
    sizes = [len(values) for values in channels]
    for number, size in enumerate(sizes, 1):
        if size != sizes[0]:
            raise DataError(
                f"{where}: channel {number} has {size} steps, channel 1 has {sizes[0]}; all must be of one length"
            )
    return np.stack(channels)


def _declared(header: dict[str, str], path: Path) -> tuple[str, ...]:
    """Return the class labels that the header lists.

    Raises:
        DataError: there are none, or the series have time stamps.
    """
    if _is(header, "timestamps", path):
        raise DataError(f"{path}: its series have time stamps (@timeStamps true), which are not read")
    known, *labels = header.get("classlabel", "").split() or ["false"]
    if known.lower() != "true" or not labels:
        raise DataError(f"{path}: no class labels (@classLabel true and the labels); only labelled series are read")
    if len(set(labels)) < len(labels):
        twice = next(label for label in labels if labels.count(label) > 1)
        raise DataError(f'{path}: @classLabel lists "{twice}" twice')
    return tuple(labels)


def _is(header: dict[str, str], key: str, path: Path) -> bool | None:
    """Return a truth value of the header, None where it says nothing.

    Raises:
        DataError: it is neither true nor false.
    """
    word = header.get(key, "").lower()
    if word not in ("", "true", "false"):
        raise DataError(f'{path}: @{key} is "{word[:40]}"; it must be true or false')
    return {"": None, "true": True, "false": False}[word]


def _count(header: dict[str, str], key: str, path: Path) -> int | None:
    word = header.get(key, "")
    if word and not (word.isascii() and word.isdigit() and len(word) < 19):
        raise DataError(f'{path}: @{key} is "{word[:40]}"; it must be a whole number')
    return int(word) if word else None


def _check_header(header: dict[str, str], part: Part) -> None:
    """Check what the header says against the series.

    Raises:
        DataError: they differ.
    """
    path, channels, lengths = Path(part.file), part.channels, part.lengths
    said = _count(header, "dimensions", path)
    if said is not None and said != channels:
        raise DataError(f"{path}: the header says {said} channels (@dimensions), and the series have {channels}")
    if _is(header, "univariate", path) is True and channels > 1:
        raise DataError(f"{path}: the header says one channel (@univariate true), and the series have {channels}")
    if _is(header, "equallength", path) is not True:
        return
    wanted = _count(header, "serieslength", path) or int(lengths[0])
    if (lengths != wanted).any():
        first = int((lengths != wanted).argmax())
        raise DataError(
            f"{path}: the header says equal lengths of {wanted} steps (@equalLength, @seriesLength), and "
            f"{part.rows[first]} has {lengths[first]}"
        )
