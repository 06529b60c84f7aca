"""One part of a set of series, training or test, as its file holds it."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import BinaryIO

import numpy as np
from numpy.typing import NDArray

from fcil.errors import DataError
from fcil.io.bounded import UnreadableError, open_file

Series = NDArray[np.float32]
"""One series, (channels, steps)."""

MOST_BYTES = 4 * 2**30
"""Most bytes of a file, packed or unpacked."""
MOST_LINE = 64 * 2**20
"""Most bytes of a line."""


@dataclass(frozen=True, kw_only=True)
class Part:
    """Series and labels of one file, in its order; a value that is missing is NaN."""

    file: str
    series: tuple[Series, ...]
    labels: tuple[str, ...]
    """Class labels as written, case included."""
    rows: tuple[str, ...]
    """Place of each series in the file, such as `line 12`."""
    declared: tuple[str, ...] = ()
    """Class labels that the header of the file lists."""

    @property
    def channels(self) -> int:
        return len(self.series[0])

    @property
    def lengths(self) -> NDArray[np.int64]:
        """Return the number of steps of each series."""
        return np.array([x.shape[1] for x in self.series], dtype=np.int64)


@contextmanager
def opened(path: Path) -> Iterator[BinaryIO]:
    """Open a regular file of at most `MOST_BYTES`.

    Raises:
        DataError: it cannot be read.
    """
    try:
        with open_file(path, MOST_BYTES) as file:
            yield file
    except UnreadableError as error:
        raise DataError(f"{path}: cannot be read ({error})") from None
    except OSError as error:
        raise DataError(f"{path}: cannot be read ({error.strerror or error})") from None


def lines(path: Path) -> Iterator[tuple[int, str]]:
    """Yield number and text of the lines of a file that are not empty, without spaces at either end.

    Raises:
        DataError: it cannot be read, is not UTF-8 text, or has a line of more than `MOST_LINE` bytes.
    """
    with opened(path) as file:
        number = 0
        while raw := file.readline(MOST_LINE + 1):
            number += 1
            if len(raw) > MOST_LINE:
                raise DataError(f"{path}: line {number} has more than the {MOST_LINE:,} bytes allowed")
            try:
                text = raw.decode("utf-8-sig" if number == 1 else "utf-8").strip()
            except UnicodeDecodeError:
                raise DataError(f"{path}: line {number} is not UTF-8 text") from None
            if text:
                yield number, text


def numbers(words: list[str], where: str) -> Series:
    """Return the values of one channel (steps,), NaN for `?`, an empty word and `NaN`.

    Raises:
        DataError: a word is no number, or is infinite or too large for 32 bits.
    """
    with np.errstate(over="ignore"):
        try:
            values = np.array(words, dtype=np.float64).astype(np.float32)
        except ValueError:
            values = np.array([_number(word, step, where) for step, word in enumerate(words, 1)], dtype=np.float32)
    if np.isinf(values).any():
        step = int(np.isinf(values).argmax())
        raise DataError(f'{where}: value {step + 1} is "{words[step].strip()}"; it must be a finite 32-bit number')
    return values


def _number(word: str, step: int, where: str) -> np.float32:
    word = word.strip()
    if word in ("", "?"):
        return np.float32(np.nan)
    try:
        return np.float32(word)
    except ValueError:
        raise DataError(
            f'{where}: value {step} is "{word[:40]}"; it must be a number, or ? where one is missing'
        ) from None


def checked(part: Part) -> Part:
    """Return a part, after checking that it holds series of the same number of channels, none without a step.

    Raises:
        DataError: it does not.
    """
    if not part.series:
        raise DataError(f"{part.file}: holds no series")
    for row, x in zip(part.rows, part.series, strict=True):
        if len(x) != part.channels:
            raise DataError(
                f"{part.file}: {row} has {_channels(len(x))}, the series before it {_channels(part.channels)}"
            )
        if not x.shape[1]:
            raise DataError(f"{part.file}: {row} is a series of no step")
    return part


def _channels(count: int) -> str:
    return f"{count} channel{'s' * (count != 1)}"
