"""Image files to uint8 arrays: one by one, or a whole archive once, into a cache that is mapped into memory.

A cache is a folder of npy files named by the archive's fingerprint. It is written beside its final
name and renamed when complete, under a lock, so that several processes can use it at once.
"""

from __future__ import annotations

import hashlib
import io
import json
import os
import shutil
import tempfile
import threading
import warnings
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import AbstractContextManager, contextmanager, nullcontext
from dataclasses import astuple, dataclass
from pathlib import Path

import numpy as np
from filelock import FileLock
from numpy.typing import NDArray
from PIL import Image

from fcil.data.files.archives import Archive
from fcil.data.files.compositing import USUAL, Rendering
from fcil.data.files.folders import cache_folder
from fcil.data.files.layouts import Layout, Listing, Members
from fcil.errors import DataError

Pixels = NDArray[np.uint8]
Progress = Callable[[str, int, int], None]
"""Called with the current step, the amount done and the total."""

MAX_PIXELS = 64 * 2**20
"""Most pixels of one image, before and after it is resized."""
FORMATS = ("BMP", "GIF", "JPEG", "PNG", "PPM", "TIFF", "WEBP")
"""Formats that are read, whatever the name of a file; others that Pillow knows start programs or fetch files."""
LARGE = 2**24
"""Bytes or pixels; larger images are decoded and resized one after the other."""
_LARGE = threading.RLock()
Finish = Callable[[Image.Image], Image.Image]
"""Operation on an image while it is in memory at its full size."""
warnings.filterwarnings("ignore", module=r"PIL\.")  # its warnings are about refused or harmless files
THREADS = min(16, os.cpu_count() or 1)
_CHUNK = 128
_FORMAT = 3
"""Version of the cache's content; counts up when its meaning changes."""


def decode(data: bytes, where: str, finish: Finish | None = None, rendering: Rendering = USUAL) -> Image.Image:
    """Return the image in `data`, of mode L where it is stored as 8-bit gray and RGB otherwise.

    Raises:
        DataError: it is empty, truncated, no image, too large, or has 16 bits a channel.
    """
    if not data:
        raise DataError(f"{where} is empty")
    try:
        image: Image.Image = Image.open(io.BytesIO(data), formats=FORMATS)
        if image.width * image.height > MAX_PIXELS:
            raise DataError(f"{where} has {image.width}x{image.height} pixels; at most {MAX_PIXELS} are read")
        if image.mode.startswith(("I", "F")):
            raise DataError(f"{where} has more than 8 bits a channel; convert it to 8 bits")
        with _turn(image.width * image.height):
            image = rendering(image)
            return image if finish is None else finish(image)
    except DataError:
        raise
    except Exception as error:  # Pillow's readers raise all kinds of errors on damaged files
        said = (str(error) or type(error).__name__).splitlines()[0].split("<")[0].strip()  # without an object's address
        raise DataError(f"{where} is damaged or no image ({said})") from None


def _turn(size: int) -> AbstractContextManager[object]:
    return _LARGE if size > LARGE else nullcontext()


def load(archive: Archive, name: str, finish: Finish | None = None, rendering: Rendering = USUAL) -> Image.Image:
    """Return an image file of an archive, decoded; thread-safe.

    Raises:
        DataError: it cannot be read or decoded.
    """
    with _turn(archive.size(name)):
        return decode(archive.read(name), f"{archive}: {name}", finish, rendering)


def fit(image: Image.Image, short: int, side: int, position: float = 0.5, where: str = "an image") -> Image.Image:
    """Bring the short side to `short` pixels and cut out a square of `side`.

    The square is centred across the short side; along the long side it lies at `position`, from 0
    (left or top) to 1. The sizes and the centre are rounded as torchvision's Resize and CenterCrop do.

    Raises:
        DataError: the image is so narrow that bringing its short side to `short` would take too much memory.
    """
    width, height = image.size
    if min(width, height) != short:
        size = (short, short * height // width) if width <= height else (short * width // height, short)
        if size[0] * size[1] > MAX_PIXELS:
            raise DataError(f"{where} has {width}x{height} pixels, too narrow to bring its short side to {short}")
        image = image.resize(size, Image.Resampling.BILINEAR)
        width, height = image.size
    left, top = (
        round((length - side) / 2.0) if position == 0.5 or length == short else int(position * (length - side + 1))
        for length in (width, height)
    )
    return image if image.size == (side, side) else image.crop((left, top, left + side, top + side))


def to_array(image: Image.Image, channels: int) -> Pixels:
    """Return (channels, height, width); gray is repeated where three channels are wanted."""
    levels = np.asarray(image if channels == 1 else image.convert("RGB"), dtype=np.uint8)
    return levels[None] if channels == 1 else levels.transpose(2, 0, 1)


@dataclass(frozen=True)
class Wanted:
    """Target size of the images of an archive."""

    side: int | None = None
    """Side of a square in pixels; None: the images' own size."""
    rendering: Rendering = USUAL

    def load(self, archive: Archive, name: str) -> Image.Image:
        """Return one of the images.

        Raises:
            DataError: it cannot be used.
        """
        if self.side is None:
            return load(archive, name, None, self.rendering)
        side, where = self.side, f"{archive}: {name}"
        return load(archive, name, lambda image: fit(image, side, side, where=where), self.rendering)


@dataclass(frozen=True)
class Arrays:
    """A decoded data set; the images are mapped, not loaded."""

    class_names: tuple[str, ...]
    train: tuple[Pixels, NDArray[np.int64]]
    """(N, channels, height, width) and (N,)"""
    test: tuple[Pixels, NDArray[np.int64]]
    mean: tuple[float, ...]
    std: tuple[float, ...]
    folders: tuple[str, ...]
    """Folder name of each class."""


def already(archive: Archive, layout: Layout, wanted: Wanted) -> Arrays | None:
    """Return the decoded archive if it is in the cache folder; nothing is decoded or written.

    Raises:
        DataError: the archive is missing.
    """
    return _read(_cache(archive, layout, wanted))


def _cache(archive: Archive, layout: Layout, wanted: Wanted) -> Path:
    """Return the cache folder of an archive, which may not exist yet."""
    name = getattr(layout, "__name__", repr(layout))
    key = json.dumps([_FORMAT, name, archive.fingerprint(), *astuple(wanted)])
    return cache_folder() / "images" / hashlib.blake2b(key.encode(), digest_size=12).hexdigest()


def cached(archive: Archive, layout: Layout, wanted: Wanted, progress: Progress | None) -> Arrays:
    """Return the decoded archive, from the cache folder if it is there, else decoded into it.

    Raises:
        DataError: an image cannot be used, sizes differ and no side is wanted, or the cache folder
            cannot be written.
    """
    folder = _cache(archive, layout, wanted)
    parent = folder.parent
    found = _read(folder)
    if found is not None:
        return found
    listing = layout(archive)
    with _writable(parent), FileLock(f"{folder}.lock"):
        found = _read(folder)  # another process may have finished while this one waited
        if found is None:
            for left in parent.glob(f"{folder.name}.tmp*"):  # of a killed process
                shutil.rmtree(left, ignore_errors=True)
            unfinished = Path(tempfile.mkdtemp(prefix=f"{folder.name}.tmp", dir=parent))
            try:
                _write(unfinished, archive, listing, wanted, progress)
                shutil.rmtree(folder, ignore_errors=True)
                os.rename(unfinished, folder)
            finally:
                shutil.rmtree(unfinished, ignore_errors=True)
            found = _read(folder)
    if found is None:
        raise DataError(f"{folder}: the image cache cannot be read back")
    return found


@contextmanager
def _writable(parent: Path) -> Iterator[None]:
    try:
        parent.mkdir(parents=True, exist_ok=True)
        yield
    except OSError as error:
        said = error.strerror or str(error)
        raise DataError(f"{parent}: the image cache cannot be written ({said}); set FCIL_CACHE to a folder") from None


def _read(folder: Path) -> Arrays | None:
    try:
        facts = json.loads((folder / "facts.json").read_text(encoding="utf-8"))
        names, mean, std, folders = (tuple(facts[key]) for key in ("class_names", "mean", "std", "folders"))
        # Copy-on-write, because torch warns of arrays that cannot be written to.
        x = {split: np.load(folder / f"{split}_x.npy", mmap_mode="c") for split in ("train", "test")}
        y = {split: np.array(np.load(folder / f"{split}_y.npy", mmap_mode="r")) for split in ("train", "test")}
    except (OSError, ValueError, EOFError, KeyError, TypeError, RecursionError):
        return None
    for split, images in x.items():
        if (
            images.dtype != np.uint8
            or images.ndim != 4
            or y[split].shape != (len(images),)
            or y[split].dtype.kind != "i"
        ):
            return None
    return Arrays(names, (x["train"], y["train"]), (x["test"], y["test"]), mean, std, folders)


class _ColourError(Exception):
    """A colour image among gray ones."""


def _write(folder: Path, archive: Archive, listing: Listing, wanted: Wanted, progress: Progress | None) -> None:
    first = wanted.load(archive, listing.train.names[0])
    channels = 1 if first.mode == "L" else 3
    try:
        _write_splits(folder, archive, listing, (channels, first.height, first.width), wanted, progress)
    except _ColourError:
        _write_splits(folder, archive, listing, (3, first.height, first.width), wanted, progress)
    mean, std = channel_statistics(np.load(folder / "train_x.npy", mmap_mode="r"))
    facts = {
        "class_names": listing.class_names,
        "folders": listing.folders,
        "mean": mean,
        "std": std,
        "source": str(archive),
    }
    (folder / "facts.json").write_text(json.dumps(facts), encoding="utf-8")


def _write_splits(
    folder: Path,
    archive: Archive,
    listing: Listing,
    shape: tuple[int, int, int],
    wanted: Wanted,
    progress: Progress | None,
) -> None:
    total = len(listing.train.names) + len(listing.test.names)
    need, free = total * int(np.prod(shape)), shutil.disk_usage(folder).free
    if need > free:
        raise DataError(f"{folder.parent}: the image cache needs {need >> 20} MB and {free >> 20} MB are free")
    done = 0
    for split, members in (("train", listing.train), ("test", listing.test)):
        np.save(folder / f"{split}_y.npy", members.labels)
        x = np.lib.format.open_memmap(
            folder / f"{split}_x.npy", mode="w+", dtype=np.uint8, shape=(len(members.names), *shape)
        )
        for count in _decode_into(x, archive, members, wanted):
            done += count
            if progress is not None:
                progress(f"decoding {archive.path.name}", done, total)
        x.flush()


def _decode_into(x: Pixels, archive: Archive, members: Members, wanted: Wanted) -> Iterator[int]:
    """Fill `x` with many threads; yield the number of added images."""

    def fill(start: int) -> int:
        stop = min(start + _CHUNK, len(x))
        for row in range(start, stop):
            image = wanted.load(archive, members.names[row])
            if x.shape[1] == 1 and image.mode != "L":
                raise _ColourError
            check_size(image, x.shape[2:], f"{archive}: {members.names[row]}")
            x[row] = to_array(image, x.shape[1])
        return stop - start

    with ThreadPoolExecutor(THREADS) as pool:
        try:
            for job in [pool.submit(fill, start) for start in range(0, len(x), _CHUNK)]:
                yield job.result()
        finally:
            pool.shutdown(cancel_futures=True)


def check_size(image: Image.Image, size: tuple[int, ...], where: str) -> None:
    """Check that an image has the (height, width) of the first one.

    Raises:
        DataError: it has another.
    """
    if (image.height, image.width) != size:
        raise DataError(
            f"{where} has {image.width}x{image.height} pixels, the first image {size[1]}x{size[0]};"
            " give resize to bring all to one size"
        )


def channel_statistics(x: Pixels) -> tuple[tuple[float, ...], tuple[float, ...]]:
    """Return mean and standard deviation of every channel of `x` (N, channels, ...), of levels in [0, 1]."""
    total, squares = np.zeros((2, x.shape[1]))
    axes = (0, *range(2, x.ndim))
    for start in range(0, len(x), 1024):
        levels = x[start : start + 1024].astype(np.float64)
        total += levels.sum(axes)
        squares += (levels**2).sum(axes)
    count = x.size / x.shape[1]
    mean = total / count
    deviation = np.sqrt(np.maximum(squares / count - mean**2, 0))
    deviation = np.maximum(deviation, 1.0)  # images of one colour; less than one level is rounding error
    return tuple((mean / 255).tolist()), tuple((deviation / 255).tolist())
