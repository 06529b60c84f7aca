"""Image files in a folder or a zip, read in place: nothing is extracted."""

from __future__ import annotations

import hashlib
import os
import stat
import struct
import threading
import weakref
import zipfile
import zlib
from collections.abc import Iterator
from functools import cached_property
from pathlib import Path

from fcil.errors import DataError
from fcil.io.bounded import UnreadableError, open_file, read_bytes

MAX_MEMBER_BYTES = 256 * 2**20
"""Most bytes of an image file; a zip member that claims more is not unpacked into memory."""
MAX_FOLDERS = 200_000
"""Most folders below one folder; links that lead to links can make far more of a few."""
MAX_DEPTH = 32
SPLITS = ("train", "test", "val")
JUNK = {"__macosx", "@eadir", "thumbs.db", "desktop.ini", "$recycle.bin", "system volume information", "lost+found"}
"""Files of systems and network drives beside and between images, thumbnails among them; in lower case."""
_PACKINGS = {zipfile.ZIP_STORED, zipfile.ZIP_DEFLATED}
_DAMAGES = (
    OSError,
    zipfile.BadZipFile,
    zlib.error,
    NotImplementedError,
    RuntimeError,
    EOFError,
    ValueError,
    struct.error,
)
"""Exceptions of zipfile for a damaged zip."""


class Archive:
    """A folder or zip whose files are named by their path below its top, with `/` between the parts.

    A single folder around everything, as in the official Tiny-ImageNet zip, does not count as a part.

    Args:
        whole: whether all folders of a folder are searched, and not its splits alone.
    Raises:
        DataError: (at the first use) the path is missing, or is no folder and no zip.
    """

    def __init__(self, path: Path, *, whole: bool = False) -> None:
        self.path = Path(os.path.expanduser(path))
        self.whole = whole
        self.tops: tuple[str, ...] = ()
        """Entries at the top, sorted; set when the names are known."""
        self.empty: tuple[str, ...] = ()
        """Empty folders; set when the names are known."""
        self._empty: list[str] = []
        self._lock = threading.Lock()

    def __str__(self) -> str:
        return str(self.path)

    @cached_property
    def _zip(self) -> zipfile.ZipFile | None:
        if os.path.isdir(self.path):
            return None
        if not os.path.lexists(self.path):
            raise DataError(f"{self}: no such folder or zip")
        try:
            file = open_file(self.path, 2**62)
            weakref.finalize(self, file.close)  # a zip does not close a file that it was given
            return zipfile.ZipFile(file)
        except (UnreadableError, *_DAMAGES) as error:
            raise DataError(f"{self}: neither a folder nor a readable zip ({_line(error)})") from None

    @cached_property
    def _paths(self) -> dict[str, str]:
        """Return stored names by the names below the top."""
        with self._lock:
            seen = list(self._stored(self._zip) if self._zip else self._walk())
        tops = {name.split("/", 1)[0] for name in seen}
        wrapped = len(tops) == 1 and not tops & set(SPLITS) and all("/" in name for name in seen)
        top = f"{next(iter(tops))}/" if wrapped else ""
        paths = {name.removeprefix(top): name for name in seen}
        self.empty = tuple(sorted(name.removeprefix(top) for name in self._empty if name.startswith(top)))
        self.tops = self.tops or tuple(sorted({name.split("/")[0] for name in paths}))
        return paths

    def _stored(self, file: zipfile.ZipFile) -> Iterator[str]:
        """Yield the files of a zip. Nothing is extracted, but a name that leads outside is refused as malicious."""
        given = set()
        for info in file.infolist():
            name = info.filename
            if info.is_dir():
                self._empty.append(name.rstrip("/"))
                continue
            if name.startswith("/") or "\\" in name or ".." in name.split("/"):
                raise DataError(f'{self}: "{name}" is not allowed; expected names such as train/cat/1.png')
            if name in given:
                raise DataError(f'{self}: "{name}" is there twice')
            given.add(name)
            if not any(_hidden(part) for part in name.split("/")):
                yield name
        held = {above for name in given for above in _folders_of(name)} if self._empty else set()
        shown = (name for name in self._empty if not any(_hidden(part) for part in name.split("/")))
        self._empty = [name for name in shown if name not in held]

    def _walk(self) -> Iterator[str]:
        """Yield the files at the top of a folder and in its splits; other folders are not scanned."""
        folders, files = self._list("")
        prefix = ""
        if len(folders) == 1 and not files and folders[0] not in SPLITS:
            prefix = f"{folders[0]}/"
            folders, files = self._list(prefix)
        self.tops = tuple(sorted([*folders, *files]))
        self._folders = 0
        yield from (f"{prefix}{name}" for name in files)
        for name in folders:
            if self.whole or name in SPLITS:
                yield from self._below(f"{prefix}{name}/", ())

    def _below(self, folder: str, above: tuple[tuple[int, int], ...]) -> Iterator[str]:
        """Yield the files at any depth. Links are followed, as subsets are often made of them, but not in circles."""
        found = os.stat(self.path / folder)
        here = found.st_dev, found.st_ino
        self._folders += 1
        if here in above:
            raise DataError(f"{self}: {folder} is a link to a folder that it lies in")
        if len(above) >= MAX_DEPTH or self._folders > MAX_FOLDERS:
            raise DataError(f"{self}: has more than {MAX_FOLDERS:,} folders, or {MAX_DEPTH} within each other")
        folders, files = self._list(folder)
        if not folders and not files:
            self._empty.append(folder.rstrip("/"))
        yield from (f"{folder}{name}" for name in files)
        for name in folders:
            yield from self._below(f"{folder}{name}/", (*above, here))

    def _list(self, folder: str) -> tuple[list[str], list[str]]:
        """Return the folders and files in a folder that are not hidden, sorted."""
        kinds: tuple[list[str], list[str]] = ([], [])
        try:
            with os.scandir(self.path / folder) as entries:
                for entry in entries:
                    if not _hidden(entry.name):
                        kinds[not _is_folder(entry)].append(entry.name)
        except OSError as error:
            raise DataError(f"{self}: {folder or 'the folder'} cannot be read ({_line(error)})") from None
        return sorted(kinds[0]), sorted(kinds[1])

    @cached_property
    def names(self) -> tuple[str, ...]:
        """Return all files, sorted."""
        return tuple(sorted(self._paths))

    def holds(self, folder: str) -> bool:
        """Return whether there is a folder of this path below the top, also one that is not scanned."""
        if self._zip is None:
            inner = [self.path / top for top in self.tops if len(self.tops) == 1]
            return any((place / folder).is_dir() for place in (self.path, *inner))
        return any(name.startswith(f"{folder}/") for name in self._paths)

    def __contains__(self, name: str) -> bool:
        return name in self._paths

    def read(self, name: str) -> bytes:
        """Return the bytes of a file; thread-safe.

        Raises:
            DataError: the file cannot be read, or is too large.
        """
        try:
            if self._zip is None:
                return read_bytes(self.path / self._paths[name], MAX_MEMBER_BYTES)
            info = self._zip.getinfo(self._paths[name])
            _check_member(info)
            with self._zip.open(info) as member:
                return member.read(info.file_size + 1)  # a given size bounds the unpacked bytes, `read()` does not
        except (UnreadableError, *_DAMAGES) as error:
            raise DataError(f"{self}: {name} cannot be read ({_line(error)})") from None

    def size(self, name: str) -> int:
        """Return the bytes of a file, if known without reading it."""
        try:
            return self._zip.getinfo(self._paths[name]).file_size if self._zip else self._stat(name).st_size
        except OSError:
            return 0

    def _stat(self, name: str) -> os.stat_result:
        return os.stat(self.path / self._paths[name])

    def text(self, name: str) -> list[str]:
        """Return the lines of a text file that are not blank."""
        return [line for line in self.read(name).decode("utf-8", errors="replace").splitlines() if line.strip()]

    def fingerprint(self) -> str:
        """Return a digest that changes when a file is added, removed, resized or touched; no file is opened."""
        digest = hashlib.blake2b(os.fsencode(os.path.realpath(self.path)), digest_size=16)
        if not os.path.lexists(self.path):
            raise DataError(f"{self}: no such folder or zip")
        try:
            if os.path.isdir(self.path):
                for name in self.names:
                    found = self._stat(name)
                    digest.update(os.fsencode(f"\n{name}\t{found.st_size}\t{found.st_mtime_ns}"))
            else:
                found = self.path.stat()
                digest.update(f"\n{found.st_size}\t{found.st_mtime_ns}".encode())
        except OSError as error:
            raise DataError(f"{error.filename}: cannot be read ({_line(error)})") from None
        return digest.hexdigest()


def _is_folder(entry: os.DirEntry[str]) -> bool:
    try:
        return entry.is_dir()
    except OSError:  # a broken link; reading it will report that
        return False


def _check_member(info: zipfile.ZipInfo) -> None:
    """Refuse to unpack a member that cannot be an image, or could fill the memory."""
    if info.file_size > MAX_MEMBER_BYTES:
        raise UnreadableError(f"it unpacks to {info.file_size:,} bytes; at most {MAX_MEMBER_BYTES:,} are allowed")
    if info.compress_type not in _PACKINGS:
        raise UnreadableError("it is neither stored nor deflated; pack the zip anew")
    if stat.S_ISLNK(info.external_attr >> 16):
        raise UnreadableError("it is a link, which is not followed in a zip")


def _hidden(part: str) -> bool:
    return part.startswith(".") or part.lower() in JUNK


def _folders_of(name: str) -> Iterator[str]:
    """Return the folders that a file lies in."""
    parts = name.split("/")
    for count in range(1, len(parts)):
        yield "/".join(parts[:count])


def _line(error: BaseException) -> str:
    return getattr(error, "strerror", None) or (str(error) or type(error).__name__).splitlines()[0]
