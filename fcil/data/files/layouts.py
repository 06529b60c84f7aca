"""Layouts of data sets: which files of an archive are images of which class."""

from __future__ import annotations

import os
import unicodedata
from collections.abc import Callable
from dataclasses import dataclass, replace
from hashlib import blake2b

import numpy as np
from numpy.typing import NDArray

from fcil.data.files.archives import SPLITS, Archive
from fcil.data.published import IMAGENET_R
from fcil.errors import DataError

IMAGE_SUFFIXES = frozenset((".jpg", ".jpeg", ".png", ".bmp", ".gif", ".webp", ".tif", ".tiff", ".ppm", ".pgm", ".pbm"))
MAX_CHARACTERS = 200
"""Most characters of a class name."""
KAGGLE = ("ILSVRC/Data/CLS-LOC", "Data/CLS-LOC")
"""Folders of the splits in Kaggle's archive of ImageNet."""


@dataclass(frozen=True)
class Members:
    """The image files of one split and the class number of each, (N,)."""

    names: tuple[str, ...]
    labels: NDArray[np.int64]


@dataclass(frozen=True)
class Listing:
    """Contents of an archive."""

    class_names: tuple[str, ...]
    train: Members
    test: Members
    folders: tuple[str, ...]
    """Folder name of each class."""


Layout = Callable[[Archive], Listing]
"""Function that finds the splits and the classes of an archive; its name is part of the name of the cache."""


def image_folder(archive: Archive, test_names: tuple[str, ...] = ("test", "val")) -> Listing:
    """Return `train/<class>/...` and `test/<class>/...` or `val/<class>/...`, classes sorted by folder name.

    Class names are the folder names, unless a `classnames.txt`, `LOC_synset_mapping.txt` or `words.txt`
    with lines `<folder> <name>[, <other names>]` lies beside the splits.

    Raises:
        DataError: a split is missing or empty, or the splits do not have the same classes.
    """
    train = _by_class(archive, "train", _train_help(archive))
    labelled = {name.split("/", 1)[0] for name in archive.names if name.count("/") >= 2}
    there = [s for s in test_names if s in labelled] or [s for s in test_names if s in archive.tops]
    split = next(iter(there), test_names[0])
    test = _by_class(archive, split, "; data.test_share: 0.2 takes a share of train/ instead" * (not there))
    for left, right, where in ((train, test, split), (test, train, "train")):
        alone = sorted(set(left) - set(right))
        if alone:
            raise DataError(
                f'{archive}: {where}/ has no images of class "{alone[0]}", the other split has'
                f"{_class_help(archive, alone[0], right)}"
            )
    return listing_of(archive, train, test)


@dataclass(frozen=True)
class SharedFolder:
    """The layout of an image folder without a test split: `train/<class>/...` alone, or `<class>/...` at the top.

    A share of every class tests. The draw depends on the names of class and file below the class folder,
    and on the seed: not on the order of a listing, on other classes, or on whether it is a folder or a zip.
    """

    share: float
    seed: int

    def __call__(self, archive: Archive) -> Listing:
        """Find classes and images, and split them into training and test images.

        Raises:
            DataError: there is a test split, no class, or a class of a single image.
        """
        splits = {name.split("/", 1)[0] for name in archive.names if name.count("/") >= 2 and is_image(name)}
        top = "train/" if "train" in splits else ""
        found = _by_class(archive, top[:-1])
        there = sorted(splits & {"test", "val"}) if top else []
        if there:
            raise DataError(f"{archive}: has a test split, {there[0]}/; leave data.test_share out")
        train: dict[str, list[str]] = {}
        test: dict[str, list[str]] = {}
        for folder, names in found.items():
            if len(names) < 2:
                raise DataError(f'{archive}: class "{folder}" has a single image; none can be taken for tests')
            train[folder], test[folder] = drawn(names, self.share, self.seed, top)
        return listing_of(archive, train, test)


def drawn(names: list[str], share: float, seed: int, top: str = "") -> tuple[list[str], list[str]]:
    """Return the training and the test images of a class of two or more, in the order given.

    Args:
        names: paths of its images.
        share: of them that tests.
        top: beginning of the paths that has no part in the draw.
    """

    def rank(name: str) -> tuple[bytes, str]:  # equal for every Unicode spelling of a name
        text = unicodedata.normalize("NFC", f"{seed}\n{name.removeprefix(top)}")
        return blake2b(text.encode("utf-8", "surrogateescape"), digest_size=16).digest(), name.removeprefix(top)

    count = min(max(1, round(share * len(names))), len(names) - 1)
    chosen = set(sorted(names, key=rank)[:count])
    return [name for name in names if name not in chosen], [name for name in names if name in chosen]


@dataclass(frozen=True)
class Renditions(SharedFolder):
    """The layout of ImageNet-R: `<wnid>/*` without a test split, with the names of its classes."""

    def __call__(self, archive: Archive) -> Listing:
        """Find classes and images as `SharedFolder` does; a folder that is no class of ImageNet-R keeps its name."""
        found = super().__call__(archive)
        names = (IMAGENET_R.get(folder, name) for folder, name in zip(found.folders, found.class_names, strict=True))
        return replace(found, class_names=tuple(names))


def imagenet_folder(archive: Archive) -> Listing:
    """Return the listing as `image_folder`, but the labelled `val` images test, also beside an unlabelled `test`."""
    return image_folder(archive, ("val", "test"))


def tests_alone(archive: Archive) -> Listing:
    """Return `test/<class>/...`, else `val/<class>/...`, else `<class>/...` as test images.

    The first image of each class stands for the training images, which are not read.

    Raises:
        DataError: there is no image in a class folder.
    """
    labelled = {name.split("/", 1)[0] for name in archive.names if name.count("/") >= 2 and is_image(name)}
    test = _by_class(archive, next((split for split in ("test", "val") if split in labelled), ""))
    return listing_of(archive, {folder: names[:1] for folder, names in test.items()}, test)


def cub200(archive: Archive) -> Listing:
    """Return CUB-200-2011 as it is published; class names are the folder names without number, `_` as a space.

    `images.txt`, `image_class_labels.txt` and `train_test_split.txt` name, by image number, file, class and part.

    Raises:
        DataError: a list is missing or damaged, names an image that is not there, or a class has none in a part.
    """
    lists = "images.txt", "image_class_labels.txt", "train_test_split.txt"
    top = next((n.removesuffix(lists[1]) for n in archive.names if n.rpartition("/")[2] == lists[1]), "")
    paths, labels, parts = (_by_number(archive, f"{top}{name}") for name in lists)
    found: dict[str, dict[str, list[str]]] = {"1": {}, "0": {}}
    numbers: dict[str, str] = {}
    for number, path in paths.items():
        name, label, part = f"{top}images/{path}", labels.get(number, ""), parts.get(number, "")
        folder = path.split("/")[0]
        if not label or part not in found:
            wrong = lists[2] if label else lists[1]
            raise DataError(f"{archive}: {top}{wrong} says nothing of image {number}, which {lists[0]} lists")
        if name not in archive:
            raise DataError(f"{archive}: {name} is missing, but {lists[0]} lists it")
        if numbers.setdefault(folder, label) != label:
            raise DataError(f"{archive}: {name} is of class {label}, others of its folder of class {numbers[folder]}")
        found[part].setdefault(folder, []).append(name)
    for part, other in (("1", "0"), ("0", "1")):
        alone = sorted(set(found[other]) - set(found[part]))
        if alone or not found[part]:
            which = "training" if part == "1" else "test"
            raise DataError(f"{archive}: {top}{lists[2]} has no {which} image of class {next(iter(alone), '1')}")
    listing = listing_of(archive, found["1"], found["0"])
    names = (folder.partition(".")[2] or folder for folder in listing.folders)
    return replace(listing, class_names=tuple(name.replace("_", " ") for name in names))


def _by_number(archive: Archive, name: str) -> dict[str, str]:
    """Return the lines of a list by the number that they begin with."""
    if name not in archive:
        raise DataError(f"{archive}: holds no {name}; expected the folder CUB_200_2011, or a zip of it")
    pairs = [line.split(maxsplit=1) for line in archive.text(name)]
    if damaged := next((place for place, pair in enumerate(pairs, 1) if len(pair) != 2), 0):
        raise DataError(f"{archive}: {name}: line {damaged} is no number and value")
    return {number: value.strip() for number, value in pairs}


def tiny_imagenet(archive: Archive) -> Listing:
    """Return the official Tiny-ImageNet layout, complete or with fewer classes; class numbers follow the sorted wnids.

    Class names are the first synonym in `words.txt`. A `val` that was sorted into class folders is
    accepted as well, also where the script that sorted it left `val_annotations.txt` behind.

    Raises:
        DataError: a split is missing, `val` is sorted in part, or the annotations name an image that is not there.
    """
    flat = next((name for name in archive.names if name.startswith("val/images/")), None)
    if "val/val_annotations.txt" not in archive:
        return imagenet_folder(archive)
    if flat is None:
        _check_sorted(archive)
        return imagenet_folder(archive)
    if moved := next((name for name in archive.names if _in_class_folder(name)), None):
        raise DataError(
            f"{archive}: val/ is sorted in part: {moved} lies in a class folder and {flat} does not; "
            "sort the rest, or move all images back to val/images/"
        )
    train = _by_class(archive, "train")
    wnids = sorted(train)
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
    return listing_of(archive, train, test)


def _check_sorted(archive: Archive) -> None:
    """Check that images of a sorted `val` are in the folders of the remaining annotations."""
    lines = (line.split() for line in archive.text("val/val_annotations.txt"))
    wanted = {line[0]: line[1] for line in lines if len(line) > 1}
    for name in filter(_in_class_folder, archive.names):
        wnid = wanted.get(name.rsplit("/", 1)[1])
        if wnid is not None and wnid != name.split("/")[1]:
            raise DataError(f"{archive}: {name} is of class {wnid} in val_annotations.txt; sort val/ anew")


def _in_class_folder(name: str) -> bool:
    """Return whether it is an image in a class folder of a sorted `val`."""
    parts = name.split("/")
    return is_image(name) and parts[0] == "val" and len(parts) > 2 and parts[1] != "images"


def is_image(name: str) -> bool:
    return os.path.splitext(name)[1].lower() in IMAGE_SUFFIXES


def _by_class(archive: Archive, split: str, advice: str = "") -> dict[str, list[str]]:
    """Return the image files below `split/<class>/`, or below `<class>/` for the split "", at any depth.

    Raises:
        DataError: there is none, or one lies in no class folder; the first error ends with `advice`.
    """
    found: dict[str, list[str]] = {}
    top = f"{split}/" if split else ""
    for name in archive.names:
        if not name.startswith(top) or not is_image(name):
            continue
        parts = name.removeprefix(top).split("/")
        if len(parts) < 2:
            raise DataError(
                f"{archive}: {name} lies in no class folder; expected {top}<class>/<image>{_sorting_help(name)}"
            )
        found.setdefault(parts[0], []).append(name)
    if not found:
        tops = ", ".join(archive.tops[:5]) or "nothing"
        raise DataError(f"{archive}: no images under {top}<class>/ (found: {tops}){advice}")
    return found


def _train_help(archive: Archive) -> str:
    """Return the likely meaning of a folder without a training split."""
    if archive.path.name in SPLITS and archive.path.is_dir() and (archive.path.parent / "train").is_dir():
        return f"; data.root is one folder too deep, the splits lie in {archive.path.parent}"
    nested = next((place for place in KAGGLE if archive.holds(f"{place}/train")), None)
    if nested is not None:
        return (
            f"; this is Kaggle's archive: unpack it, set data.root to {archive.path / nested}, and sort its val/ into "
            "class folders by LOC_val_solution.csv"
        )
    if archive.tops and not set(archive.tops) & set(SPLITS):
        return "; if these are class folders, data.test_share: 0.2 reads them and takes a share of each for tests"
    return ""


def _class_help(archive: Archive, alone: str, others: dict[str, list[str]]) -> str:
    """Return why one split lacks a class that the other has."""
    if "val/val_annotations.txt" in archive and any(name.startswith("val/images/") for name in archive.names):
        return "; this is Tiny-ImageNet as it is published: say data.dataset: tiny_imagenet"
    alike = next((other for other in sorted(others) if other != alone and plain(other) == plain(alone)), None)
    if alike is None:
        return ""
    if alike.casefold() != alone.casefold():
        return f', and "{alike}", which is written with other code points (Unicode NFC and NFD); give both one name'
    return f', and "{alike}"; give both one name'


def plain(folder: str) -> str:
    """Return the normal form of a folder name, equal for names that look the same to a person."""
    return unicodedata.normalize("NFC", folder).casefold()


def _sorting_help(name: str) -> str:
    """Return a hint at the file with the classes of flat validation images of ImageNet."""
    if not os.path.basename(name).startswith("ILSVRC2012_val_"):
        return ""
    return " (LOC_val_solution.csv, or ILSVRC2012_validation_ground_truth.txt of the devkit, says which class it is of)"


def listing_of(archive: Archive, train: dict[str, list[str]], test: dict[str, list[str]]) -> Listing:
    folders = sorted(train)
    names = _class_names(archive, folders)
    return Listing(names, _members(train, folders), _members(test, folders), tuple(folders))


def _members(by_class: dict[str, list[str]], classes: list[str]) -> Members:
    names = [name for c in classes for name in by_class[c]]
    labels = np.repeat(np.arange(len(classes), dtype=np.int64), [len(by_class[c]) for c in classes])
    return Members(tuple(names), labels)


def _class_names(archive: Archive, folders: list[str]) -> tuple[str, ...]:
    titles = _titles(archive)
    names = tuple(titles.get(folder, folder) for folder in folders)
    for folder, name in zip(folders, names, strict=True):
        if (
            not name.strip() or not name.isprintable() or len(name) > MAX_CHARACTERS
        ):  # names go to terminals, figures and text encoders
            raise DataError(
                f'{archive}: class folder "{folder}": its name must be printable and have at most'
                f" {MAX_CHARACTERS} characters"
            )
    return names


def _titles(archive: Archive) -> dict[str, str]:
    for name in ("classnames.txt", "LOC_synset_mapping.txt", "words.txt"):
        if name in archive:
            lines = [line.split(maxsplit=1) for line in archive.text(name)]
            return {folder: rest[0].split(",")[0].strip() for folder, *rest in lines if rest}
    return {}
