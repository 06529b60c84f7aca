"""Which files of an archive are images of which class: the layouts that data sets come in."""

from __future__ import annotations

import os
from collections.abc import Callable
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from fcil.data.archives import Archive
from fcil.errors import DataError

IMAGE_SUFFIXES = frozenset((".jpg", ".jpeg", ".png", ".bmp", ".gif", ".webp", ".tif", ".tiff", ".ppm", ".pgm", ".pbm"))
MAX_CHARACTERS = 200
"""Of a class name."""


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
    there = [s for s in test_names if s in labelled] or [s for s in test_names if s in archive.tops]
    split = next(iter(there), test_names[0])
    test = _by_class(archive, split)
    for left, right, where in ((train, test, split), (test, train, "train")):
        alone = sorted(set(left) - set(right))
        if alone:
            raise DataError(f'{archive}: {where}/ has no images of class "{alone[0]}", the other split has')
    folders = sorted(train)
    return Listing(_class_names(archive, folders), _members(train, folders), _members(test, folders))


def imagenet_folder(archive: Archive) -> Listing:
    """As `image_folder`, but the labelled `val` images test, also beside an unlabelled `test`."""
    return image_folder(archive, ("val", "test"))


def tiny_imagenet(archive: Archive) -> Listing:
    """The official Tiny-ImageNet layout, complete or with fewer classes; class numbers follow the sorted wnids.

    Class names are the first synonym in `words.txt`. A `val` that was sorted into class folders is
    understood as well, also where the script that sorted it left `val_annotations.txt` behind.

    Raises:
        DataError: a split is missing, `val` is sorted in part, or the annotations name an image that is not there.
    """
    flat = next((name for name in archive.names if name.startswith("val/images/")), None)
    if "val/val_annotations.txt" not in archive or flat is None:
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
    return Listing(_class_names(archive, wnids), _members(train, wnids), _members(test, wnids))


def _in_class_folder(name: str) -> bool:
    """Whether it is an image in a class folder of a sorted `val`."""
    parts = name.split("/")
    image = os.path.splitext(name)[1].lower() in IMAGE_SUFFIXES
    return image and parts[0] == "val" and len(parts) > 2 and parts[1] != "images"


def _by_class(archive: Archive, split: str) -> dict[str, list[str]]:
    """The image files below `split/<class>/`, at any depth."""
    found: dict[str, list[str]] = {}
    for name in archive.names:
        parts = name.split("/")
        if parts[0] != split or os.path.splitext(name)[1].lower() not in IMAGE_SUFFIXES:
            continue
        if len(parts) < 3:
            raise DataError(
                f"{archive}: {name} lies in no class folder; expected {split}/<class>/<image>{_sorting_help(name)}"
            )
        found.setdefault(parts[1], []).append(name)
    if not found:
        tops = ", ".join(archive.tops[:5]) or "nothing"
        raise DataError(f"{archive}: no images under {split}/<class>/ (found: {tops})")
    return found


def _sorting_help(name: str) -> str:
    """The file that says which class a flat validation image of ImageNet has."""
    if not os.path.basename(name).startswith("ILSVRC2012_val_"):
        return ""
    return " (LOC_val_solution.csv, or ILSVRC2012_validation_ground_truth.txt of the devkit, says which class it is of)"


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
        ):  # it goes to terminals, figures and text encoders
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
