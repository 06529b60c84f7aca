"""Readers of `.tsv` files, the format of the UCR archive, and of `.npz` files."""

from __future__ import annotations

import zipfile
import zlib
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from fcil.data.series.part import MOST_BYTES, Part, Series, checked, lines, numbers, opened
from fcil.errors import DataError

ARRAYS = ("x_train", "y_train", "x_test", "y_test")
"""Arrays of an `.npz` file."""


def read_tsv(path: Path) -> Part:
    """Return the series of a `.tsv` file: a line each, apart by tabs, the label first; NaN at the end is padding.

    Raises:
        DataError: it cannot be read, or holds something else.
    """
    series, labels, rows = [], [], []
    for number, text in lines(path):
        label, *words = text.split("\t")
        if not words:
            raise DataError(f"{path}: line {number} has no tab; a label and values apart by tabs are expected")
        values = numbers(words, f"{path}: line {number}")
        series.append(_trimmed(values[None]))
        labels.append(plain_label(label))
        rows.append(f"line {number}")
    return checked(Part(file=str(path), series=tuple(series), labels=tuple(labels), rows=tuple(rows)))


def read_npz(path: Path) -> tuple[Part, Part]:
    """Return training and test series of an `.npz` file; steps at the end that are NaN in all channels are padding.

    `x_train` and `x_test` are (N, steps) or (N, channels, steps), the labels (N,) whole numbers or text.

    Raises:
        DataError: it cannot be read, or holds something else.
    """
    arrays: dict[str, NDArray[Any]] = {}
    with opened(path) as file:
        try:
            with zipfile.ZipFile(file) as packed:
                size = sum(entry.file_size for entry in packed.infolist())
            if size > MOST_BYTES:
                raise DataError(f"{path}: its arrays have {size:,} bytes; at most {MOST_BYTES:,} are read")
            file.seek(0)
            with np.load(file, allow_pickle=False) as held:
                missing = [name for name in ARRAYS if name not in held]
                if missing:
                    raise DataError(f"{path}: lacks {', '.join(missing)} (it holds {', '.join(held) or 'nothing'})")
                arrays = {name: held[name] for name in ARRAYS}
        except (ValueError, EOFError, KeyError, zipfile.BadZipFile, zlib.error, NotImplementedError) as error:
            said = (str(error) or type(error).__name__).splitlines()[0]
            raise DataError(f"{path}: no readable .npz ({said})") from None
    return part_of_arrays(path, arrays, "train"), part_of_arrays(path, arrays, "test")


def plain_label(label: str) -> str:
    """Return a label without spaces at its ends, and a whole number without decimals: `1.0` and `1` are one class."""
    label = label.strip()
    try:
        number = float(label)
    except ValueError:
        return label
    return str(int(number)) if abs(number) < 2**53 and number == int(number) else label


def part_of_arrays(path: Path | str, arrays: Mapping[str, NDArray[Any]], split: str) -> Part:
    """Return the series of `x_<split>` and `y_<split>`; steps at the end that are NaN in all channels are padding.

    Args:
        path: names the place of the arrays in messages.
    Raises:
        DataError: they are no series with labels.
    """
    x, y = arrays[f"x_{split}"], arrays[f"y_{split}"]
    if x.ndim not in (2, 3) or x.dtype.kind not in "fiu":
        raise DataError(
            f"{path}: x_{split} is {x.dtype} of {_shape(x)}; numbers of N x steps or N x channels x steps are expected"
        )
    if y.shape != x.shape[:1] or y.dtype.kind not in "iufU":
        raise DataError(
            f"{path}: y_{split} is {y.dtype} of {_shape(y)}; a label for each of {len(x)} series is expected"
        )
    with np.errstate(over="ignore"):
        values = x.astype(np.float32).reshape(len(x), -1, x.shape[-1]) if x.size else x.reshape(len(x), 1, 0)
    rows = tuple(f"x_{split}[{row}]" for row in range(len(x)))
    if np.isinf(values).any():
        row = int(np.isinf(values).any((1, 2)).argmax())
        raise DataError(f"{path}: {rows[row]} has a value that is no finite 32-bit number")
    series = tuple(_trimmed(one) for one in values)
    labels = tuple(plain_label(str(label)) for label in y)
    return checked(Part(file=str(path), series=series, labels=labels, rows=rows))


def _shape(x: NDArray[Any]) -> str:
    return " x ".join(map(str, x.shape)) or "no dimension"


def _trimmed(x: Series) -> Series:
    """Return a series (channels, steps) without the steps at its end that are NaN in all channels."""
    real = np.flatnonzero(~np.isnan(x).all(0))
    return x[:, : real[-1] + 1 if len(real) else 0]
