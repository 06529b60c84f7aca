"""Oddities of a readable data set: samples of one value or all alike, test samples in training, empty folders."""

from __future__ import annotations

import os
from collections import defaultdict
from collections.abc import Iterator, Sequence

import torch
from torch import Tensor

from fcil.data.catalog import archived_sets
from fcil.data.datasets import Dataset
from fcil.data.files.archives import SPLITS, Archive
from fcil.data.files.layouts import IMAGE_SUFFIXES, plain
from fcil.data.images import Images, originals

SHOWN = 3
"""Names in a line; the others are counted."""
MOST_FILES, MOST_CLASSES = 64, 100
"""Images of a class, and classes, that are inspected where each image has to be decoded for it."""
CHUNK = 64
SHARE_OF_COPIES = 0.01
"""Least share of test samples that equal a training sample that is told."""
MOST_COMPARED = 100_000
"""Samples beyond which test and training samples are not compared unasked."""
GROUPED = 4
"""Mean number of neighbouring rows of one class from which rows could be exchanged unnoticed."""
UNREAD_SUFFIXES = frozenset(
    (".heic", ".heif", ".avif", ".jp2", ".jfif", ".svg", ".exr", ".hdr", ".tga", ".psd", ".dng")
)
"""Images that are not read."""


def oddities(dataset: Dataset) -> list[str]:
    """Return a line for each oddity; for most sets two images of each class are inspected.

    Raises:
        DataError: an image that stays a file until it is needed cannot be read.
    """
    lines = [line for split in ("training", "test") for line in _alike(dataset, split)]
    lines += _copies(dataset)
    if len(dataset.class_names) == 1:
        lines.append(f'"{dataset.class_names[0]}" is the only class; every net is right on all of it')
    if len(archived_sets(dataset.name)) > 1:
        lines += _unproven(dataset)
    return lines if dataset.source is None else [*lines, *folder_oddities(dataset.source)]


def _copies(dataset: Dataset) -> Iterator[str]:
    """Yield a line if many test samples are training samples, or are left out for it."""
    train, test = dataset.train, dataset.test
    if not len(test):
        return
    if dataset.copies is not None:
        left = f"{len(dataset.copies):,} of {len(test):,} test {dataset.kind}"
        yield f"{left} are left out, as they equal a training {dataset.one}"
        return
    if not (train.in_memory and test.in_memory) or len(train) + len(test) > MOST_COMPARED:
        return
    first = originals(train, test)
    rows = (first >= 0).nonzero()[:, 0]
    x = test.take(rows).cpu().flatten(2)
    rows = rows[~(x == x[..., :1]).flatten(1).all(1)]  # those of a single value are told otherwise
    if len(rows) < SHARE_OF_COPIES * len(test):
        return
    other = int((train.y[first[rows]] != test.y[rows]).sum())
    yield (
        f"{len(rows):,} of {len(test):,} test {dataset.kind} ({len(rows) / len(test):.0%}) are training {dataset.kind} "
        f"too{f', {other:,} of them with another label' * bool(other)}; what keeps training {dataset.kind} scores on "
        "them (data.test_copies: drop leaves them out)"
    )


def _unproven(dataset: Dataset) -> Iterator[str]:
    """Yield a line if nothing can show that rows of sets that were stacked as channels are the same recordings."""
    y = dataset.train.y
    grouped = int((y.diff() != 0).sum()) < len(y) / GROUPED
    if grouped and not bool(torch.isnan(dataset.train.take(torch.arange(len(y)))).any()):
        yield (
            "its channels are rows of several sets, in groups of one class and of one length, so that nothing shows "
            "whether row i of each is the same recording"
        )


# Samples ------------------------------------------------------------------------------------------


def _alike(dataset: Dataset, split: str) -> Iterator[str]:
    images = dataset.train if split == "training" else dataset.test
    present = sorted(set(images.y.tolist()))
    step = 1 if images.in_memory else -(-len(present) // MOST_CLASSES)
    looked_at = present[::step]
    flat, equal = [], []
    colours: set[tuple[float, ...]] = set()
    for label in looked_at:
        one_colour, one_image, colour = _look(images, (images.y == label).nonzero()[:, 0])
        if one_colour:
            flat.append(label)
            colours |= {colour} if one_image else {colour, ()}
        elif one_image:
            equal.append(label)
    names, kind = dataset.class_names, dataset.kind
    one, value = dataset.one, "value" if kind == "series" else "colour"
    if flat and len(flat) == len(looked_at):
        said = f"have one and the same {value}" if len(colours) == 1 else f"have a single {value} each"
        yield f"all {split} {kind} {said}; nothing can be learnt"
    elif flat:
        yield f"all {split} {kind} of {_listed('class', [names[c] for c in flat])} have a single {value}"
    if equal:
        yield f"all {split} {kind} of {_listed('class', [names[c] for c in equal])} are the same {one}"


def _look(images: Images, rows: Tensor) -> tuple[bool, bool, tuple[float, ...]]:
    """Return whether each image has a single colour, whether all (if several) are equal, and the first colour."""
    rows = rows if images.in_memory else rows[:MOST_FILES]
    first: Tensor | None = None
    flat = equal = True
    for part in (rows[:2], *torch.split(rows[2:], CHUNK)):
        if not len(part) or not (flat or equal):
            break
        x = images.take(part).cpu().flatten(2)
        if x.is_floating_point():
            x = x.nan_to_num()  # padding, which is not equal to itself
        first = x[:1] if first is None else first
        flat = flat and bool((x == x[..., :1]).all())
        equal = equal and bool((x == first).all())
    colour = () if first is None else tuple(first[0, :, 0].tolist())
    return flat, equal and len(rows) > 1, colour


# Folders ------------------------------------------------------------------------------------------


def folder_oddities(archive: Archive) -> Iterator[str]:
    """Yield the parts of an image folder that are not read, or that may be misread."""
    images = [name for name in archive.names if os.path.splitext(name)[1].lower() in IMAGE_SUFFIXES]
    depth = 2 if any(name.startswith("train/") for name in images) else 1
    classes = {_folder(name, depth) for name in images} - {""}
    others = {_folder(name, depth) for name in (*archive.names, *(f"{name}/" for name in archive.empty))} - {""}
    # `images` of Tiny-ImageNet stays behind when its images are sorted into class folders.
    empty = sorted(name for name in others - classes if depth == 1 or _is_class(name))
    if empty:
        said = "hold no image and are left out" if len(empty) > 1 else "holds no image and is left out"
        yield f"{_listed('class folder', empty)} {said}"
    alike = defaultdict(list)
    for name in sorted({folder.rpartition("/")[2] for folder in classes}):
        alike[plain(name)].append(name)
    for same in [names for names in alike.values() if len(names) > 1][:SHOWN]:
        yield f"{_listed('class folder', same)} differ in case or in how letters are composed alone"
    unread = [name for name in archive.names if os.path.splitext(name)[1].lower() in UNREAD_SUFFIXES]
    if unread:
        kinds = sorted({os.path.splitext(name)[1].lower() for name in unread})
        yield f"{len(unread):,} files are left out, of kinds that are not read ({', '.join(kinds)}): {unread[0]}"


def _folder(name: str, depth: int) -> str:
    """Return the class folder of a file, or an empty string."""
    parts = name.split("/")
    return "/".join(parts[:depth]) if len(parts) > depth else ""


def _is_class(folder: str) -> bool:
    split, name = folder.split("/")
    return split in SPLITS and name != "images"


def _listed(what: str, names: Sequence[str]) -> str:
    """Return `classes "a", "b" and 4 more`."""
    plural = f"{what}es" if what.endswith("s") else f"{what}s"
    shown = ", ".join(f'"{name}"' for name in names[:SHOWN])
    more = f" and {len(names) - SHOWN:,} more" if len(names) > SHOWN else ""
    return f"{plural if len(names) > 1 else what} {shown}{more}"
