"""Files that are written whole or not at all: beside their place first, on the disk before they take it."""

from __future__ import annotations

import os
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import psutil

from fcil.errors import FCILError, StoreError


@contextmanager
def writing(path: Path, kind: type[FCILError] = StoreError, note: str = "") -> Iterator[None]:
    """Turn an `OSError` of the block, such as a full disk or a read-only folder, into one line of `kind`."""
    try:
        yield
    except OSError as error:
        raise kind(f"{path}: cannot be written ({error.strerror or error}){note}") from None


@contextmanager
def replacing(path: Path, kind: type[FCILError] = StoreError, note: str = "") -> Iterator[Path]:
    """A temporary path beside `path`, which takes its place, synced to the disk, when the block ends well.

    Args:
        kind: class of the error.
        note: what the line of the error ends with.
    Raises:
        FCILError: it cannot be written; what was there before is untouched.
    """
    temporary = path.with_name(f".{path.name}.{os.getpid()}")
    with writing(path, kind, note):
        try:
            path.parent.mkdir(parents=True, exist_ok=True)
            yield temporary
            _sync(temporary)
            os.replace(temporary, path)
            _sync(path.parent)
        finally:
            temporary.unlink(missing_ok=True)


def sweep(folder: Path) -> None:
    """Delete what processes that are no more were writing in a folder."""
    for path in folder.glob(".*.*.*"):
        number = path.name.rpartition(".")[2]
        if number.isdigit() and not psutil.pid_exists(int(number)):
            path.unlink(missing_ok=True)


def write_bytes(path: Path, content: bytes) -> None:
    """Replace a file, or its absence, by these bytes."""
    with replacing(path) as temporary:
        temporary.write_bytes(content)


def write_text(path: Path, text: str) -> None:
    """Replace a file, or its absence, by this text in UTF-8."""
    write_bytes(path, text.encode("utf-8"))


def _sync(path: Path) -> None:
    """Have the disk take what was written to a file or folder."""
    handle = os.open(path, os.O_RDONLY)
    try:
        os.fsync(handle)
    finally:
        os.close(handle)
