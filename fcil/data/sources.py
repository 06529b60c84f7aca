"""Readers of each data set. Functions that need a large package import it when they are called."""

from __future__ import annotations

import io
import os
import tempfile
import warnings
from collections.abc import Iterator
from contextlib import contextmanager, redirect_stderr, redirect_stdout
from importlib import import_module
from importlib.util import find_spec
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
import torch
from numpy.typing import NDArray

from fcil.data.catalog import DatasetInfo
from fcil.data.domains.folders import DomainFolders
from fcil.data.domains.samples import SampleDomains
from fcil.data.files import arrays, idx
from fcil.data.files.archives import Archive
from fcil.data.files.decode import Arrays, Progress, Wanted, already, cached, channel_statistics, to_array
from fcil.data.files.folders import data_folder
from fcil.data.files.layouts import (
    Layout,
    Members,
    Renditions,
    SharedFolder,
    cub200,
    image_folder,
    imagenet_folder,
    tests_alone,
    tiny_imagenet,
)
from fcil.data.images import FileImages, Images, LazyImages, MemoryImages
from fcil.data.own import DataSource
from fcil.data.partition import hold_out
from fcil.data.published import PUBLISHED
from fcil.data.remote.obtain import obtain, unpack
from fcil.data.remote.origins import ORIGINS, elsewhere
from fcil.data.series.load import load_series, series_at_hand
from fcil.data.series.read import SeriesSplits, arranged
from fcil.data.series.tables import ARRAYS, part_of_arrays
from fcil.data.settings import DataSettings
from fcil.errors import DataError, DownloadError

LOOKED_AT = 32
"""Training images that are decoded to inspect a data set."""
_TORCHVISION = {"cifar10": "CIFAR10", "cifar100": "CIFAR100"}
_DIGITS = ("zero", "one", "two", "three", "four", "five", "six", "seven", "eight", "nine")
_GARMENTS = ("T-shirt/top", "Trouser", "Pullover", "Dress", "Coat", "Sandal", "Shirt", "Sneaker", "Bag", "Ankle boot")
_IDX_NAMES = {"mnist": _DIGITS, "fashion_mnist": _GARMENTS}
"""Class names of the data sets in idx files."""
FOLDERS = {"tiny_imagenet": "tiny-imagenet-200", "imagenet_r": "imagenet-r", "cub200": "CUB_200_2011"}
"""Folder of a data set, or beginning of its zip, where it is not its name."""


class Splits(NamedTuple):
    """A data set as stored on disk."""

    train: Images
    test: Images
    class_names: tuple[str, ...]
    mean: tuple[float, ...]
    std: tuple[float, ...]
    folders: tuple[str, ...] = ()
    """Folder name of each class, where there are folders."""
    source: Archive | None = None
    """Archive of the image files."""
    files: tuple[str, ...] = ()
    """Path of each training image in the archive, where it is known."""
    domains: SampleDomains | None = None
    """Domain of each image, where folders tell."""


def read(info: DatasetInfo, settings: DataSettings, progress: Progress | None, *, look: bool = False) -> Splits:
    """Open a data set.

    Args:
        look: download and write nothing: images that were not decoded yet stay files, and mean and standard
            deviation are those of a few of them.
    Raises:
        DataError: its files are missing or damaged.
    """
    if settings.own is not None:
        return _own(settings.own, settings)
    root, wanted = settings.root, Wanted(settings.resize, settings.rendering)
    if info.kind == "series":
        return _series(info, settings)
    if info.name == "digits":
        return _digits()
    if info.name in _IDX_NAMES:
        return _idx(info, root, None if look else (progress or _silent))
    if info.name in PUBLISHED:
        return _arrays(info, root)
    if info.name in _TORCHVISION:
        return _torchvision(info, _cifar_home(info, root), None if look else (progress or _silent))
    if info.name == "image_folder":
        share, archive = settings.test_share, Archive(Path(root or ""), whole=settings.test_share is not None)
        layout: Layout = image_folder if share is None else SharedFolder(share.share, share.seed)
        if (folders := _domain_folders(settings)) is not None:
            layout = folders
    elif info.name == "imagenet_r":
        assert settings.test_share is not None
        renditions = Renditions(settings.test_share.share, settings.test_share.seed)
        return _lazy(info, _find(info, root, FOLDERS[info.name], whole=True), wanted, renditions)
    elif info.name == "cub200":
        return _lazy(info, _find(info, root, FOLDERS[info.name], whole=True), wanted, cub200)
    elif info.name == "tiny_imagenet":
        archive, layout = _find(info, root, FOLDERS[info.name]), tiny_imagenet
    else:
        return _lazy(info, _find(info, root, info.name), wanted)
    found = already(archive, layout, wanted) if look else cached(archive, layout, wanted, progress)
    splits = _looked_at(info, archive, layout, wanted) if found is None else _decoded(info, archive, found)
    if isinstance(layout, DomainFolders):
        listing = layout(archive)
        return splits._replace(files=listing.train.names, domains=layout.table(archive, listing))
    if found is None:
        return splits
    files = layout(archive).train.names if settings.partition.natural is not None else ()
    return splits._replace(files=files)


def read_tests(info: DatasetInfo, settings: DataSettings, progress: Progress | None = None) -> Splits:
    """Open a data set for its test samples alone: an image folder need not have training images.

    Raises:
        DataError: its files are missing or damaged.
    """
    if info.own or info.name != "image_folder" or settings.test_share is not None or _domain_folders(settings):
        return read(info, settings, progress)
    archive = Archive(Path(settings.root or ""), whole=True)
    found = cached(archive, tests_alone, Wanted(settings.resize, settings.rendering), progress)
    return _decoded(info, archive, found)


def _domain_folders(settings: DataSettings) -> DomainFolders | None:
    """Return the layout of domains in folders, if the settings are of such."""
    if settings.scenario != "domains" or settings.dataset != "image_folder":
        return None
    share, names = settings.test_share, None if settings.domains is None else settings.domains.folders
    return DomainFolders(names, *((None, 0) if share is None else (share.share, share.seed)))


def at_hand(info: DatasetInfo, root: str | None) -> bool:
    """Return whether the files of a data set are in the searched folders; False: they would be downloaded.

    Nothing is opened, so they may still be damaged.

    Raises:
        DataError: they are missing, and cannot be downloaded.
    """
    if info.own:
        return True
    if info.kind == "series":
        series_at_hand(info, root)
        return True
    if info.name in _IDX_NAMES:
        return idx.find(info.name, _given(root), system=not root) is not None
    if info.name in PUBLISHED:
        arrays.locate(info.name, _given(root))
        return True
    if info.name in _TORCHVISION:
        home = _cifar_home(info, root)
        return any(os.path.exists(home / name) for name in (ORIGINS[info.name].unpacks_to, info.files))
    if info.name == "image_folder":
        if not os.path.exists(_home(root or "")):
            raise DataError(f"{root}: no such folder or zip")
    elif info.name != "digits":
        _find(info, root, FOLDERS.get(info.name, info.name))
    return True


def _own(source: DataSource, settings: DataSettings) -> Splits:
    """Return a data set of a user's own; series are prepared as those of files are."""
    found, info = source.samples(settings.root), source.info
    arrays = {name: np.asarray(getattr(found, name)) for name in ARRAYS}
    names = tuple(found.class_names)
    if info.kind == "images":
        mean, std = channel_statistics(arrays["x_train"])
        train, test = (_mapped(arrays[f"x_{split}"], arrays[f"y_{split}"]) for split in ("train", "test"))
        return Splits(train, test, names, mean, std)
    parts = part_of_arrays(info.name, arrays, "train"), part_of_arrays(info.name, arrays, "test")
    each = (settings.normalise or info.normalise) == "series"
    return _prepared(arranged(parts, missing=settings.missing, longer=settings.longer, each=each))._replace(
        class_names=names
    )


def _series(info: DatasetInfo, settings: DataSettings) -> Splits:
    """Return a set of series; its scale is that of the series themselves, so mean and deviation are 0 and 1."""
    each = (settings.normalise or info.normalise) == "series"
    return _prepared(load_series(info, settings.root, settings.missing, settings.longer, each))


def _prepared(found: SeriesSplits) -> Splits:
    train, test = (_mapped(*part) for part in (found.train, found.test))
    channels = train.shape[0]
    return Splits(train, test, found.class_names, (0.0,) * channels, (1.0,) * channels)


def _digits() -> Splits:
    """Return the test part of UCI's Optical Recognition of Handwritten Digits (Alpaydin and Kaynak 1998, CC BY 4.0).

    1,797 images of 8x8 pixels with levels 0 to 16, as in scikit-learn. They have no split
    of their own: a fifth of every class tests.
    """
    rows = _digits_table()
    levels, y = rows[:, :64].reshape(-1, 1, 8, 8), torch.from_numpy(rows[:, 64].copy())
    x = torch.from_numpy((levels * 255 + 8) // 16).to(torch.uint8)
    train, test = hold_out(y, 0.2, "digits")
    mean, std = channel_statistics(x[train].numpy())
    return Splits(MemoryImages(x[train], y[train]), MemoryImages(x[test], y[test]), _DIGITS, mean, std)


def _digits_table() -> NDArray[np.int64]:
    """Return the images of scikit-learn's digits, a row of 64 levels and the label for each (1797, 65).

    Its file is read without its code, whose import would cost every process a second and 70 MB.
    """
    spec = find_spec("sklearn")
    for home in (spec and spec.submodule_search_locations) or ():
        path = Path(home, "datasets", "data", "digits.csv.gz")
        if path.is_file():
            return np.loadtxt(path, dtype=np.int64, delimiter=",")
    from sklearn.datasets import load_digits  # its file is elsewhere in this release

    digits = load_digits()
    return np.column_stack([digits.data, digits.target]).astype(np.int64)


def _idx(info: DatasetInfo, root: str | None, progress: Progress | None) -> Splits:
    """Read MNIST or Fashion-MNIST; without `progress` nothing is downloaded."""
    home = _given(root)
    place = idx.find(info.name, home, system=not root)
    if place is None and progress is not None:
        place = _obtained(info, home, progress)
    if place is None:
        raise DataError(f"{info.name}: not found in {home}; a run downloads it")
    train, test = (
        MemoryImages(torch.from_numpy(part.x)[:, None], torch.from_numpy(part.y)) for part in idx.read(info.name, place)
    )
    return Splits(train, test, _IDX_NAMES[info.name], *_published(info))


def _obtained(info: DatasetInfo, home: Path, progress: Progress) -> Path:
    def tell(name: str, done: int, total: int) -> None:
        progress(f"{info.name}: {name} (kB)", done // 1000, total // 1000)

    try:
        return obtain(info.name, home, tell)
    except DownloadError as error:
        other = f"; {elsewhere(info.name)}" if ORIGINS[info.name].package else ""
        raise DataError(
            f"{info.name}: not found in {home}, and the download failed ({error});"
            f" put {info.files} there, or set data.root or FCIL_DATA to where it is{other}"
        ) from None


def _arrays(info: DatasetInfo, root: str | None) -> Splits:
    """Read EMNIST, MedMNIST or SVHN; mean and standard deviation are those of the training images."""
    train, test = arrays.read(info.name, arrays.locate(info.name, _given(root)))
    return Splits(_mapped(*train), _mapped(*test), PUBLISHED[info.name].classes, *channel_statistics(train.x))


def _silent(step: str, done: int, total: int) -> None:
    """Show no progress."""


def _torchvision(info: DatasetInfo, home: Path, progress: Progress | None) -> Splits:
    """Read CIFAR; without `progress` nothing is downloaded, and an archive is unpacked for the moment alone."""
    try:
        try:
            train, test = _loaded(info, home)
        except RuntimeError:  # missing or incomplete
            if progress is not None:
                _obtained(info, home, progress)
                train, test = _loaded(info, home)
            elif not os.path.exists(home / info.files):
                raise
            else:
                with tempfile.TemporaryDirectory() as brief:
                    unpack(home / info.files, ORIGINS[info.name].unpacks_to, Path(brief))
                    train, test = _loaded(info, Path(brief))
    except DataError:
        raise
    except Exception as error:
        said = (str(error) or type(error).__name__).splitlines()[0].rstrip(":")
        hint = "; a run downloads it" if progress is None else ""
        raise DataError(f"{info.name}: the files in {home} are not whole ({said}){hint}") from None
    names = tuple(train.classes)
    return Splits(_from_torchvision(info, home, train), _from_torchvision(info, home, test), names, *_published(info))


def _cifar_home(info: DatasetInfo, root: str | None) -> Path:
    """Return the folder in which torchvision finds CIFAR; a root may also be its archive, or its folder itself."""
    home = _given(root)
    return home.parent if home.name in (ORIGINS[info.name].unpacks_to, info.files) else home


def _given(root: str | None) -> Path:
    return _home(root) if root else data_folder()


def _loaded(info: DatasetInfo, home: Path) -> tuple[Any, Any]:
    with _quiet():
        loader = getattr(import_module("torchvision.datasets"), _TORCHVISION[info.name])
        return loader(str(home), train=True, download=False), loader(str(home), train=False, download=False)


def _from_torchvision(info: DatasetInfo, root: Path, part: Any) -> MemoryImages:
    x, y = torch.as_tensor(part.data), torch.as_tensor(part.targets)  # (N, height, width) or (N, height, width, 3)
    x = x[:, None] if x.ndim == 3 else x.permute(0, 3, 1, 2)
    if y.shape != x.shape[:1] or set(y.tolist()) != set(range(len(part.classes))):
        raise DataError(
            f"{info.name}: the files in {root} hold other images or labels; put {info.files} there (they have "
            f"{len(x):,} images of {tuple(x.shape[1:])} and {len(y):,} labels, for {len(part.classes)} classes)"
        )
    return MemoryImages(x.contiguous(), y)


def _home(path: str) -> Path:
    return Path(os.path.expanduser(path))


@contextmanager
def _quiet() -> Iterator[None]:
    """Suppress torchvision's messages and warnings."""
    with redirect_stdout(io.StringIO()), redirect_stderr(io.StringIO()), warnings.catch_warnings():
        warnings.simplefilter("ignore")
        yield


def _find(info: DatasetInfo, root: str | None, name: str, *, whole: bool = False) -> Archive:
    """Return the folder or zip itself, or `name` or `name`.zip inside it."""
    given = _given(root)
    candidates = [given / name, given / f"{name}.zip"]
    if root:
        candidates.append(given)
    for path in candidates:
        if os.path.exists(path):
            return Archive(path, whole=whole)
    raise DataError(f"{info.name}: nothing at {given}; put {info.files} there, or set data.root to where it is")


def _decoded(info: DatasetInfo, archive: Archive, found: Arrays) -> Splits:
    mean, std = info.mean or found.mean, info.std or found.std
    return Splits(_mapped(*found.train), _mapped(*found.test), found.class_names, mean, std, found.folders, archive)


def _mapped(x: NDArray[Any], y: NDArray[np.int64]) -> MemoryImages:
    return MemoryImages(torch.from_numpy(x), torch.from_numpy(y))


def _looked_at(info: DatasetInfo, archive: Archive, layout: Layout, wanted: Wanted) -> Splits:
    """Return the same without decoding more than a few of the training images."""
    listing = layout(archive)
    names = listing.train.names
    first = wanted.load(archive, names[0])
    few = [wanted.load(archive, names[row]) for row in range(0, len(names), -(-len(names) // LOOKED_AT))]
    channels = 1 if {image.mode for image in (first, *few)} == {"L"} else 3
    shape = (channels, first.height, first.width)
    same = [to_array(image, channels) for image in few if image.size == first.size]
    mean, std = channel_statistics(np.stack(same or [to_array(first, channels)]))

    def images(members: Members) -> FileImages:
        return FileImages(archive, members.names, torch.from_numpy(members.labels), wanted=wanted, shape=shape)

    mean, std = info.mean or mean, info.std or std
    train, test, files = images(listing.train), images(listing.test), listing.train.names
    return Splits(train, test, listing.class_names, mean, std, listing.folders, archive, files)


def _lazy(info: DatasetInfo, archive: Archive, wanted: Wanted, layout: Layout = imagenet_folder) -> Splits:
    listing = layout(archive)
    side, rendering = wanted.side or 224, wanted.rendering

    def images(members: Members, train: bool) -> LazyImages:
        labels = torch.from_numpy(members.labels)
        return LazyImages(archive, members.names, labels, side=side, train=train, rendering=rendering)

    train, test = images(listing.train, True), images(listing.test, False)
    names, folders, files = listing.class_names, listing.folders, listing.train.names
    return Splits(train, test, names, *_published(info), folders, archive, files)


def _published(info: DatasetInfo) -> tuple[tuple[float, ...], tuple[float, ...]]:
    assert info.mean is not None, "the catalog lacks the mean of a data set that is not measured"
    assert info.std is not None
    return info.mean, info.std
