"""Lock of a run: the process that plays it holds the lock beside its folder.

The kernel lets go of a lock when its holder ends, however that comes about, so a run whose process
died is free again. The lock is an empty file beside the folder and stays there: to delete it would
let two processes hold two files of one name.
"""

from __future__ import annotations

import shutil
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path

from filelock import FileLock, Timeout

from fcil.io.atomic import writing


@contextmanager
def claimed(folder: Path) -> Iterator[bool]:
    """Claim the run of a folder while the block lasts; the value is False if another process has it.

    Raises:
        StoreError: nothing can be written beside the folder.
    """
    path = folder.parent / f".{folder.name}.lock"
    lock, ours = FileLock(path), True
    with writing(path):
        path.parent.mkdir(parents=True, exist_ok=True)
        try:
            lock.acquire(timeout=0)
        except Timeout:
            ours = False
        except NotImplementedError:  # a file system without locks: its users have to avoid conflicts themselves
            pass
    try:
        yield ours
    finally:
        lock.release()


@contextmanager
def in_turn(path: Path) -> Iterator[None]:
    """Wait until no other process uses the files of this name, and keep others from them while the block lasts.

    Raises:
        StoreError: nothing can be written beside them.
    """
    lock = FileLock(path.parent / f".{path.name}.lock")
    with writing(path), suppress(NotImplementedError):  # a file system without locks
        lock.acquire()
    try:
        yield
    finally:
        lock.release()


def clear(folder: Path) -> None:
    """Delete a run, unless a process plays it at this moment."""
    if folder.exists():
        with claimed(folder) as ours:
            if ours:
                shutil.rmtree(folder, ignore_errors=True)
