"""Published sets of images of one size, as arrays: EMNIST (idx), MedMNIST (npz) and SVHN (mat)."""

from __future__ import annotations

import os
import zipfile
import zlib
from collections.abc import Iterable
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
from numpy.typing import NDArray

from fcil.data.files import idx
from fcil.data.files.archives import Archive
from fcil.data.published import EMNIST, MEDMNIST, PUBLISHED
from fcil.errors import DataError
from fcil.io.bounded import UnreadableError, open_file, read_bytes

MOST_BYTES = 2**30
"""Most bytes of the arrays of a set."""
FOLDERS = ("EMNIST/raw", "EMNIST", "emnist", "gzip", "medmnist", "MedMNIST", "SVHN", "svhn")
"""Folders below the root in which files are looked for too: those of torchvision, of the archives, and by name."""
SIDES = {"npz": 28, "mat": 32}


class Pair(NamedTuple):
    """Images (N, channels, height, width) and labels (N,) of one part."""

    x: NDArray[np.uint8]
    y: NDArray[np.int64]


def places(root: Path) -> list[Path]:
    """Return the folders that are searched, the root first."""
    return [root, *(root / name for name in FOLDERS)]


def find(root: Path, names: Iterable[str]) -> Path | None:
    """Return the first folder that holds all of the files, or a file of the first name that is the root itself."""
    wanted = tuple(names)
    if os.path.isfile(root) and root.name in wanted:
        return root
    return next((place for place in places(root) if all(os.path.isfile(place / name) for name in wanted)), None)


def locate(name: str, root: Path) -> Path:
    """Return the folder or file of a published set by its name; its files are not opened.

    Raises:
        DataError: it is not there.
    """
    files = PUBLISHED[name].files
    place = find_emnist(name.removeprefix("emnist_"), root) if name in EMNIST else find(root, files.split(", "))
    if place is None:
        raise DataError(f"{name}: not found in {root}; put {files} there, or set data.root to where it is")
    return place.parent if name == "svhn" and os.path.isfile(place) else place


def read(name: str, place: Path) -> tuple[Pair, Pair]:
    """Return the training and the test part of a published set that was located.

    Raises:
        DataError: a file is missing, damaged, or of other images or labels.
    """
    about = PUBLISHED[name]
    if name in EMNIST:
        return read_emnist(name.removeprefix("emnist_"), place, len(about.classes))
    if name in MEDMNIST:
        path = place / about.files if os.path.isdir(place) else place
        return read_medmnist(path, len(about.classes), about.channels)
    train, test = (place / file for file in about.files.split(", "))
    return read_svhn(train), read_svhn(test)


# EMNIST ---------------------------------------------------------------------------------------------


def find_emnist(split: str, root: Path) -> Path | None:
    """Return the folder, or `gzip.zip`, that holds a split of EMNIST; None if there is none."""
    if os.path.isfile(root):
        return root
    first = f"emnist-{split}-train-images-idx3-ubyte"
    for place in places(root):
        if os.path.isfile(place / first) or os.path.isfile(place / f"{first}.gz"):
            return place
    return next((place / "gzip.zip" for place in places(root) if os.path.isfile(place / "gzip.zip")), None)


def read_emnist(split: str, place: Path, classes: int) -> tuple[Pair, Pair]:
    """Return training and test part of a split of EMNIST (Cohen, Afshar, Tapson and van Schaik 2017).

    The files hold each image with rows and columns exchanged ("inverted horizontally and rotated 90 degrees
    anti-clockwise", catalogue of TensorFlow Datasets); it is turned upright here. Labels of `letters` count from 1.

    Raises:
        DataError: a file is missing, damaged, or of other images or labels.
    """
    return _emnist_part(place, split, "train", classes), _emnist_part(place, split, "test", classes)


def _emnist_part(place: Path, split: str, part: str, classes: int) -> Pair:
    first = 1 if split == "letters" else 0
    x_path, x = _idx(place, f"emnist-{split}-{part}-images-idx3-ubyte", 3)
    y_path, y = _idx(place, f"emnist-{split}-{part}-labels-idx1-ubyte", 1)
    if x.shape[1:] != (idx.SIDE, idx.SIDE):
        raise DataError(f"{x_path}: has images of {x.shape[1]} x {x.shape[2]} pixels; expected {idx.SIDE} x {idx.SIDE}")
    return _checked(x_path, x.transpose(0, 2, 1)[:, None], y.astype(np.int64) - first, classes, first, y_path)


def _idx(place: Path, name: str, dimensions: int) -> tuple[Path, NDArray[np.uint8]]:
    archive = None if os.path.isdir(place) else Archive(place)
    for spelling in (name, f"{name}.gz"):
        path = place / spelling
        if archive is not None and spelling in archive:
            data = archive.read(spelling)
        elif archive is None and os.path.isfile(path):
            try:
                data = read_bytes(path, MOST_BYTES)
            except UnreadableError as error:
                raise DataError(f"{path}: cannot be read ({error})") from None
        else:
            continue
        return path, idx.array(path, idx.unpacked(path, data, MOST_BYTES), dimensions)
    raise DataError(f"{place}: holds no {name}(.gz)")


# MedMNIST -------------------------------------------------------------------------------------------


def read_medmnist(path: Path, classes: int, channels: int) -> tuple[Pair, Pair]:
    """Return training and test part of a set of MedMNIST v2 of 28x28 pixels; its validation part is left aside.

    Raises:
        DataError: the file is damaged, or holds other images or labels.
    """
    names = [f"{part}_{what}" for part in ("train", "test") for what in ("images", "labels")]
    try:
        with open_file(path, MOST_BYTES) as file:
            with zipfile.ZipFile(file) as packed:
                size = sum(
                    entry.file_size for entry in packed.infolist() if entry.filename.removesuffix(".npy") in names
                )
            if size > MOST_BYTES:
                raise DataError(f"{path}: its arrays have {size:,} bytes; at most {MOST_BYTES:,} are read")
            file.seek(0)
            with np.load(file, allow_pickle=False) as held:
                missing = [name for name in names if name not in held]
                if missing:
                    raise DataError(f"{path}: lacks {', '.join(missing)} (it holds {', '.join(held) or 'nothing'})")
                arrays = {name: held[name] for name in names}
    except (UnreadableError, OSError, ValueError, EOFError, KeyError, zipfile.BadZipFile, zlib.error,
            NotImplementedError, MemoryError) as error:  # fmt: skip
        raise DataError(f"{path}: no readable .npz ({_line(error)})") from None
    side = SIDES["npz"]
    parts = []
    for part in ("train", "test"):
        x, y = arrays[f"{part}_images"], arrays[f"{part}_labels"]
        wanted = (side, side) if channels == 1 else (side, side, channels)
        _check_images(path, f"{part}_images", x, wanted)
        if y.ndim == 2 and y.shape[1] != 1:
            raise DataError(f"{path}: {part}_labels has {y.shape[1]} labels for each image; one is expected")
        x = x[:, None] if channels == 1 else x.transpose(0, 3, 1, 2)
        parts.append(_checked(path, x, _labels(path, y), classes))
    return parts[0], parts[1]


# SVHN -----------------------------------------------------------------------------------------------


def read_svhn(path: Path) -> Pair:
    """Return one part of SVHN in format 2, cropped digits of 32x32 pixels; label 10 stands for the digit 0.

    Raises:
        DataError: the file is damaged, or holds other images or labels.
    """
    from scipy.io import loadmat, whosmat

    try:
        known = {name: (shape, kind) for name, shape, kind in whosmat(str(path))}
        if "X" not in known or "y" not in known:
            raise DataError(f"{path}: holds no X and y (it holds {', '.join(known) or 'nothing'})")
        shape, kind = known["X"]
        side = SIDES["mat"]
        if len(shape) != 4 or shape[:3] != (side, side, 3) or kind != "uint8":
            raise DataError(f"{path}: X is {kind} of {_size(shape)}; expected uint8 of {side} x {side} x 3 x N")
        if np.prod(known["y"][0], dtype=np.float64) != shape[3] or not known["y"][1].removeprefix("u").startswith(
            "int"
        ):
            raise DataError(
                f"{path}: y is {known['y'][1]} of {_size(known['y'][0])}; expected {shape[3]} whole numbers"
            )
        if np.prod(shape, dtype=np.float64) > MOST_BYTES:
            raise DataError(f"{path}: X has {_size(shape)} values; at most {MOST_BYTES:,} are read")
        held = loadmat(str(path), variable_names=["X", "y"])
    except DataError:
        raise
    except Exception as error:  # scipy's readers raise many kinds for a damaged file
        raise DataError(f"{path}: no readable .mat of version 5 ({_line(error)})") from None
    x, y = held["X"].transpose(3, 2, 0, 1), _labels(path, held["y"])
    if len(y) and not 1 <= y.min() <= y.max() <= 10:
        row = int(np.argmax((y < 1) | (y > 10)))
        raise DataError(f"{path}: label {row} is {y[row]}; expected 1 to 10")
    return _checked(path, x, y % 10, 10)


# Checks ---------------------------------------------------------------------------------------------


def _check_images(path: Path, name: str, x: NDArray[Any], size: tuple[int, ...]) -> None:
    if x.dtype != np.uint8 or x.shape[1:] != size:
        raise DataError(f"{path}: {name} is {x.dtype} of {_size(x.shape)}; expected uint8 of N x {_size(size)}")


def _labels(path: Path, y: NDArray[Any]) -> NDArray[np.int64]:
    if y.dtype.kind not in "iu" or y.size != y.shape[0]:
        raise DataError(f"{path}: labels are {y.dtype} of {_size(y.shape)}; expected a whole number for each image")
    return y.reshape(-1).astype(np.int64)


def _checked(
    path: Path, x: NDArray[np.uint8], y: NDArray[np.int64], classes: int, first: int = 0, labels: Path | None = None
) -> Pair:
    """Return a part whose labels are 0 to `classes` - 1, each of them there; files count them from `first`."""
    if len(x) != len(y):
        raise DataError(f"{path}: has {len(x):,} images and {len(y):,} labels")
    wrong = (y < 0) | (y >= classes)
    if wrong.any():
        row = int(np.argmax(wrong))
        raise DataError(f"{labels or path}: label {row} is {y[row] + first}; expected {first} to {classes - 1 + first}")
    counts = np.bincount(y, minlength=classes)
    if not counts.all():
        lacks = int(np.argmin(counts > 0)) + first
        raise DataError(f"{labels or path}: has no label {lacks}; expected all of {first} to {classes - 1 + first}")
    return Pair(np.ascontiguousarray(x), y)


def _size(shape: Iterable[int]) -> str:
    return " x ".join(map(str, shape))


def _line(error: BaseException) -> str:
    return (str(error) or type(error).__name__).splitlines()[0]
