"""Ray's folder for sockets, logs and spilled objects: one for each Ray that fcil starts.

It lies in the temporary folder under a name that begins with `PREFIX`, apart from those of other people's Rays, with
its link `session_latest` in it, and goes when Ray goes. Its maker holds a lock on it, which the kernel releases
when the holder ends for any reason: so the next process that makes such a folder removes abandoned ones.
"""

from __future__ import annotations

import contextlib
import fcntl
import os
import secrets
import shutil
from collections.abc import Iterator
from pathlib import Path

PREFIX = "fcil-ray-"
_ROOM = 107 - len("/session_2026-11-28_05-21-43_564101_4194304/sockets/plasma_store")
"""Longest path that leaves Ray room for its own part of a socket's name, of which Linux allows 107 bytes."""


class RayFolder:
    """New folder of this process. `path` is None where none can be made: then Ray uses its default."""

    def __init__(self) -> None:
        self.path: Path | None = None
        self._lock = -1
        for home in _homes():
            sweep(home)
            with contextlib.suppress(OSError):
                self.path, self._lock = _made(home)
                return

    def remove(self) -> None:
        """Delete it. To be called when Ray has ended."""
        if self.path is not None:
            shutil.rmtree(self.path, ignore_errors=True)
        self.leave()

    def leave(self) -> None:
        """Release it as it is, for inspection, until the next one is made."""
        if self._lock >= 0:
            os.close(self._lock)
        self.path, self._lock = None, -1


def _homes() -> Iterator[Path]:
    """Return the folders where Ray looks for a temporary folder, and `/tmp` if that is too long for a socket's name."""
    asked = os.environ.get("RAY_TMPDIR") or os.environ.get("TMPDIR") or "/tmp"
    for home in dict.fromkeys((asked, "/tmp")):
        if len(os.fsencode(os.path.join(os.path.abspath(home), f"{PREFIX}12345"))) <= _ROOM:
            yield Path(os.path.abspath(home))


def _made(home: Path) -> tuple[Path, int]:
    """Return a new folder and the descriptor that holds its lock; it is locked before it gets its name."""
    path = home / f"{PREFIX}{secrets.token_hex(3)[:5]}"
    unseen = home / f".{path.name}"
    unseen.mkdir(mode=0o700)
    lock = os.open(unseen, os.O_RDONLY | os.O_DIRECTORY)
    try:
        with contextlib.suppress(OSError):  # a file system without locks: the folder counts as in use
            fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
        unseen.rename(path)
    except OSError:
        os.close(lock)
        unseen.rmdir()
        raise
    return path, lock


def sweep(home: Path) -> None:
    """Remove the folders of this user's processes that ended."""
    for path in home.glob(f"{PREFIX}?????"):
        with contextlib.suppress(OSError):
            lock = os.open(path, os.O_RDONLY | os.O_DIRECTORY | os.O_NOFOLLOW)
            try:
                if os.fstat(lock).st_uid == os.getuid():
                    fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)  # raises while its owner lives
                    shutil.rmtree(path, ignore_errors=True)
            finally:
                os.close(lock)
