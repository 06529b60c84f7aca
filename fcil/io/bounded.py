"""Bounded reading of untrusted files: no pipe is waited for and no device is read for ever."""

from __future__ import annotations

import os
import stat
from pathlib import Path
from typing import BinaryIO, cast

from fcil.errors import UserError

_KINDS = {stat.S_IFIFO: "a pipe", stat.S_IFCHR: "a device", stat.S_IFBLK: "a device", stat.S_IFSOCK: "a socket"}


LAST_LINES = 15
LAST_BYTES = 8192
"""Bytes read from the end of a log; the rest is not read."""


class UnreadableError(Exception):
    """File that cannot be read; the message says why, in a few words."""


def open_file(path: Path, limit: int) -> BinaryIO:
    """A regular file of at most `limit` bytes, open for reading.

    Raises:
        UnreadableError: it is missing, no regular file, too large or cannot be opened.
    """
    try:
        file = cast(BinaryIO, open(path, "rb", opener=_without_waiting))  # noqa: SIM115 (it is handed on)
    except (OSError, ValueError) as error:
        raise UnreadableError(_reason(error)) from None
    found = os.fstat(file.fileno())
    problem = None
    if not stat.S_ISREG(found.st_mode):
        problem = f"it is {_KINDS.get(stat.S_IFMT(found.st_mode), 'something else')}, not a file"
    elif found.st_size > limit:
        problem = _too_large(found.st_size, limit)
    if problem:
        file.close()
        raise UnreadableError(problem)
    return file


def read_bytes(path: Path, limit: int) -> bytes:
    """The content of a regular file of at most `limit` bytes.

    Raises:
        UnreadableError: as `open_file`, or reading fails.
    """
    with open_file(path, limit) as file:
        try:
            data = file.read(limit + 1)  # some files tell no size, or grow
        except OSError as error:
            raise UnreadableError(_reason(error)) from None
    if len(data) > limit:
        raise UnreadableError(_too_large(len(data), limit))
    return data


def read_text(path: Path, limit: int, error: type[UserError], what: str = "") -> str:
    """The UTF-8 text of a regular file of at most `limit` bytes, without a byte order mark.

    Raises:
        error: it cannot be read; the line begins with `what`, or with the path.
    """
    if not what and not os.path.lexists(path):
        raise error(f"{path}: no such file")
    try:
        text = read_bytes(path, limit).decode("utf-8-sig")
    except UnicodeDecodeError as problem:
        raise error(f"{what or f'{path}:'} cannot be read (not UTF-8 text at byte {problem.start})") from None
    except UnreadableError as problem:
        raise error(f"{what or f'{path}:'} cannot be read ({problem})") from None
    return text.replace("\r\n", "\n").replace("\r", "\n")


def _too_large(size: int, limit: int) -> str:
    return f"{size:,} bytes are more than the {limit:,} allowed"


def _without_waiting(path: str, flags: int) -> int:
    return os.open(path, flags | getattr(os, "O_NONBLOCK", 0))  # a pipe without a writer would never open


def _reason(error: Exception) -> str:
    return getattr(error, "strerror", None) or str(error)


def last_lines(path: Path) -> list[str]:
    """The end of a text file, however long it is; nothing of one that cannot be read."""
    try:
        with open_file(path, 2**40) as file:
            size = file.seek(0, 2)
            file.seek(max(0, size - LAST_BYTES))
            text = file.read(LAST_BYTES).decode("utf-8", "replace")
    except (UnreadableError, OSError):
        return []
    return text.splitlines()[-LAST_LINES:]
