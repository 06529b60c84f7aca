"""Image files in a folder or a zip, read in place: nothing is extracted."""

from __future__ import annotations

import hashlib
import os
import threading
import zipfile
import zlib
from collections.abc import Callable, Iterable
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from fcil.errors import DataError

IMAGE_SUFFIXES = frozenset((".jpg", ".jpeg", ".png", ".bmp", ".gif", ".webp", ".tif", ".tiff", ".ppm", ".pgm", ".pbm"))
MAX_MEMBER_BYTES = 256 * 2**20
"""No image file is larger; a zip member that claims more is not unpacked into memory."""
_SPLITS = ("train", "test", "val")


class Archive:
    """A folder or zip whose files are named by their path below its top, with `/` between the parts.

    A single folder around everything, as in the official Tiny-ImageNet zip, does not count as a part.

    Raises:
        DataError: (at the first use) the path is missing, or is no folder and no zip.
    """

    def __init__(self, path: Path) -> None:
        self.path = path.expanduser()
        self._lock = threading.Lock()

    def __str__(self) -> str:
        return str(self.path)

    @cached_property
    def _zip(self) -> zipfile.ZipFile | None:
        if self.path.is_dir():
            return None
        try:
            return zipfile.ZipFile(self.path)
        except FileNotFoundError:
            raise DataError(f"{self}: no such folder or zip") from None
        except (zipfile.BadZipFile, OSError) as error:
            raise DataError(f"{self}: neither a folder nor a readable zip ({error})") from None

    @cached_property
    def _paths(self) -> dict[str, str]:
        """From the name below the top to the name as stored."""
        with self._lock:
            stored = [i.filename for i in self._zip.infolist() if not i.is_dir()] if self._zip else self._walk()
        seen = [name for name in stored if not _hidden(name)]
        tops = {name.split("/", 1)[0] for name in seen}
        wrapped = len(tops) == 1 and not tops & set(_SPLITS) and all("/" in name for name in seen)
        return {(name.split("/", 1)[1] if wrapped else name): name for name in seen}

    def _walk(self) -> Iterable[str]:
        for folder, folders, files in os.walk(self.path, followlinks=True):  # subsets are often made of links
            folders.sort()
            below = os.path.relpath(folder, self.path).replace(os.sep, "/")
            yield from (name if below == "." else f"{below}/{name}" for name in sorted(files))

    @cached_property
    def names(self) -> tuple[str, ...]:
        """All files, sorted."""
        return tuple(sorted(self._paths))

    def __contains__(self, name: str) -> bool:
        return name in self._paths

    def read(self, name: str) -> bytes:
        """The bytes of a file; safe to call from many threads.

        Raises:
            DataError: the file cannot be read, or is absurdly large.
        """
        try:
            if self._zip is None:
                path = self.path / self._paths[name]
                self._limit(name, path.stat().st_size)
                return path.read_bytes()
            info = self._zip.getinfo(self._paths[name])
            self._limit(name, info.file_size)
            return self._zip.read(info)
        except (OSError, zipfile.BadZipFile, zlib.error, NotImplementedError, RuntimeError, EOFError) as error:
            raise DataError(f"{self}: {name} cannot be read ({_line(error)})") from None

    def _limit(self, name: str, size: int) -> None:
        if size > MAX_MEMBER_BYTES:
            raise DataError(f"{self}: {name} has {size} bytes; no image may have more than {MAX_MEMBER_BYTES}")

    def text(self, name: str) -> list[str]:
        """The lines of a text file that are not blank."""
        return [line for line in self.read(name).decode("utf-8", errors="replace").splitlines() if line.strip()]

    def fingerprint(self) -> str:
        """Changes when a file is added, removed, resized or touched; no file is opened."""
        digest = hashlib.blake2b(str(self.path.resolve()).encode(), digest_size=16)
        try:
            if self.path.is_dir():
                for name in self.names:
                    found = os.stat(self.path / self._paths[name])
                    digest.update(f"\n{name}\t{found.st_size}\t{found.st_mtime_ns}".encode())
            else:
                found = self.path.stat()
                digest.update(f"\n{found.st_size}\t{found.st_mtime_ns}".encode())
        except FileNotFoundError as error:
            raise DataError(f"{error.filename}: no such folder or zip") from None
        return digest.hexdigest()


def _hidden(name: str) -> bool:
    return any(part.startswith(".") or part == "__MACOSX" for part in name.split("/"))


def _line(error: BaseException) -> str:
    return (str(error) or type(error).__name__).splitlines()[0]


@dataclass(frozen=True)
class Members:
    """The image files of one split and the class number of each, (N,)."""

    names: tuple[str, ...]
    labels: NDArray[np.int64]


@dataclass(frozen=True)
class Listing:
    """What an archive holds."""

    class_names: tuple[str, ...]
    train: Members
    test: Members


Layout = Callable[[Archive], Listing]
"""Finds the splits and the classes of an archive; its name is part of the name of the cache."""


def image_folder(archive: Archive, test_names: tuple[str, ...] = ("test", "val")) -> Listing:
    """`train/<class>/...` and `test/<class>/...` or `val/<class>/...`, classes sorted by folder name.

    Class names are the folder names, unless a `classnames.txt`, `LOC_synset_mapping.txt` or `words.txt`
    with lines `<folder> <name>[, <other names>]` lies beside the splits.

    Raises:
        DataError: a split is missing or empty, or the splits do not have the same classes.
    """
    train = _by_class(archive, "train")
    labelled = {name.split("/", 1)[0] for name in archive.names if name.count("/") >= 2}
    split = next((s for s in test_names if s in labelled), test_names[0])
    test = _by_class(archive, split)
    for left, right, where in ((train, test, split), (test, train, "train")):
        alone = sorted(set(left) - set(right))
        if alone:
            raise DataError(f'{archive}: {where}/ has no images of class "{alone[0]}", the other split has')
    folders = sorted(train)
    titles = _titles(archive)
    return Listing(
        tuple(titles.get(folder, folder) for folder in folders), _members(train, folders), _members(test, folders)
    )


def imagenet_folder(archive: Archive) -> Listing:
    """As `image_folder`, but the labelled `val` images test, also beside an unlabelled `test`."""
    return image_folder(archive, ("val", "test"))


def tiny_imagenet(archive: Archive) -> Listing:
    """The official Tiny-ImageNet layout, complete or with fewer classes; class numbers follow the sorted wnids.

    Class names are the first synonym in `words.txt`. A `val` that was sorted into class folders is
    understood as well.

    Raises:
        DataError: a split is missing, or the annotations name an image that is not there.
    """
    if "val/val_annotations.txt" not in archive:
        return imagenet_folder(archive)
    train = _by_class(archive, "train")
    wnids = sorted(train)
    titles = _titles(archive)
    test: dict[str, list[str]] = {wnid: [] for wnid in wnids}
    for line in archive.text("val/val_annotations.txt"):
        name, wnid = [*line.split(), ""][:2]
        if wnid not in test:
            continue  # an archive with fewer classes may have kept the full list
        test[wnid].append(f"val/images/{name}")
        if test[wnid][-1] not in archive:
            raise DataError(f"{archive}: val/images/{name} is missing, but val_annotations.txt lists it")
    absent = [wnid for wnid in wnids if not test[wnid]]
    if absent:
        raise DataError(f"{archive}: val_annotations.txt has no image of class {absent[0]}")
    return Listing(tuple(titles.get(w, w) for w in wnids), _members(train, wnids), _members(test, wnids))


def _by_class(archive: Archive, split: str) -> dict[str, list[str]]:
    """The image files below `split/<class>/`, at any depth."""
    found: dict[str, list[str]] = {}
    for name in archive.names:
        parts = name.split("/")
        if parts[0] != split or os.path.splitext(name)[1].lower() not in IMAGE_SUFFIXES:
            continue
        if len(parts) < 3:
            raise DataError(f"{archive}: {name} lies in no class folder; expected {split}/<class>/<image>")
        found.setdefault(parts[1], []).append(name)
    if not found:
        tops = sorted({name.split("/")[0] for name in archive.names})[:5]
        raise DataError(f"{archive}: no images under {split}/<class>/ (found: {', '.join(tops) or 'nothing'})")
    return found


def _members(by_class: dict[str, list[str]], classes: list[str]) -> Members:
    names = [name for c in classes for name in by_class[c]]
    labels = np.repeat(np.arange(len(classes), dtype=np.int64), [len(by_class[c]) for c in classes])
    return Members(tuple(names), labels)


def _titles(archive: Archive) -> dict[str, str]:
    for name in ("classnames.txt", "LOC_synset_mapping.txt", "words.txt"):
        if name in archive:
            lines = [line.split(maxsplit=1) for line in archive.text(name)]
            return {folder: rest[0].split(",")[0].strip() for folder, *rest in lines if rest}
    return {}
