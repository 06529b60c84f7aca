"""Split files: the classes of each task, and the images of each client in it.

The `partition.json` of a run folder is such a file, and so is the output of `fcil show X.yaml --split FILE`. These
keys are read:

        dataset, fingerprint    name of the data set, and a digest of its images
        tasks                   the class numbers of every task, in order of appearance
        clients                 number of clients
        indices[task][client]   positions in the training images, without those held out
"""

from __future__ import annotations

import json
import os
from dataclasses import dataclass
from functools import lru_cache
from hashlib import sha256
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
import torch
from numpy.typing import NDArray

from fcil.config import Where, parse_fields
from fcil.config.json_schema import Schema, Schemas
from fcil.config.kinds import kind_of
from fcil.data.tasks import TaskSplit, check_classes
from fcil.errors import ConfigError
from fcil.io.bounded import read_text

if TYPE_CHECKING:
    from fcil.data.datasets import Dataset

SIZE_LIMIT = 256 * 2**20
"""Most bytes of a file."""
LOOKED_AT = 64
"""Images of each part whose pixels enter the fingerprint."""
MOST = 2**40
"""Upper bound of the numbers of classes and images."""
READ = 256 * 2**20
"""Bytes of the samples that are read for the digest of all of them."""
Indices = NDArray[np.int64]


@dataclass(frozen=True)
class Split:
    """Content of a split file."""

    dataset: str
    fingerprint: str
    tasks: tuple[tuple[int, ...], ...]
    held: tuple[tuple[Indices, ...], ...]
    """Positions in the training images (n,) of each task and client."""

    @property
    def clients(self) -> int:
        return len(self.held[0])

    @property
    def digest(self) -> str:
        """Return sixteen hex digits that identify the whole split."""
        held = [[indices.tolist() for indices in clients] for clients in self.held]
        text = json.dumps([self.dataset, self.fingerprint, self.tasks, held])
        return sha256(text.encode()).hexdigest()[:16]

    def checked(self, dataset: Dataset, clients: int) -> TaskSplit:
        """Return the tasks, after checking that the split is of this data set and for this number of clients.

        Raises:
            ConfigError: it is not.
        """
        if self.dataset != dataset.name:
            raise ConfigError(f"split is one of {self.dataset}, and data.dataset is {dataset.name}")
        if self.clients != clients:
            raise ConfigError(f"split has {self.clients} clients, and federation.clients is {clients}")
        if self.fingerprint != fingerprint(dataset):
            raise ConfigError(
                f"split was made of other {dataset.kind} than these {len(dataset.train):,} of {dataset.name}; "
                "the files differ, or data.validation, data.per_class or data.resize"
            )
        check_classes("split", [c for task in self.tasks for c in task], dataset.num_classes)
        labels = dataset.train.y.numpy()
        for number, (classes, held) in enumerate(zip(self.tasks, self.held, strict=True), start=1):
            here = np.concatenate(held)
            if len(here) and here.max() >= len(labels):
                raise ConfigError(
                    f"split has {dataset.one} {here.max()} in task {number}; there are {len(labels):,} {dataset.kind}"
                )
            strange = here[~np.isin(labels[here], classes)]
            if len(strange):
                raise ConfigError(
                    f"split has {dataset.one} {strange[0]} in task {number}, which is of class {labels[strange[0]]}, "
                    "a class of another task"
                )
        return TaskSplit(self.tasks)


@dataclass(frozen=True)
class SplitFile:
    """A split by the file that holds it; in YAML its path, or `{file: path, digest: hex}`."""

    file: str
    """Path of the file."""
    digest: str = ""
    """Digest of its content; a file of other content is refused."""

    @classmethod
    def from_yaml(cls, raw: Any, where: Where) -> SplitFile:
        """Read the path, and the split in the file.

        Raises:
            ConfigError: there is no split, or another digest than given.
        """
        given = parse_fields(cls, {"file": raw} if isinstance(raw, str) else raw, where)
        try:
            found = read_split(given.file)
        except ConfigError as error:
            raise where.error(str(error)) from None
        if given.digest not in ("", found.digest):
            raise where.error(f"{given.file} is another split now (its digest was {given.digest}, is {found.digest})")
        return cls(given.file, found.digest)

    @classmethod
    def to_json_schema(cls, schemas: Schemas) -> Schema:
        return {"anyOf": [{"type": "string"}, schemas.of_fields(cls)]}

    def to_yaml(self) -> dict[str, str]:
        return {"file": self.file, "digest": self.digest}

    def read(self) -> Split:
        """Return the split that the file held when the settings were read.

        Raises:
            ConfigError: its content has changed, or cannot be read.
        """
        return _read_once(self)


@lru_cache(maxsize=2)
def _read_once(source: SplitFile) -> Split:
    found = read_split(source.file)
    if found.digest != source.digest:
        raise ConfigError(f"split: {source.file} was changed meanwhile")
    return found


def read_split(file: str) -> Split:
    """Return the split in a file.

    Raises:
        ConfigError: it cannot be read, lacks something, or gives a class or an image twice.
    """
    text = read_text(Path(os.path.expanduser(file)), SIZE_LIMIT, ConfigError)
    try:
        values = json.loads(text)
    except (ValueError, RecursionError):
        raise ConfigError(f"{file}: not valid JSON, so no split") from None
    wanted = ("dataset", "fingerprint", "clients", "tasks", "indices")
    missing = [key for key in wanted if not isinstance(values, dict) or key not in values]
    if missing:
        hint = " (an earlier fcil wrote it; write it anew: fcil show EXPERIMENT.yaml --split FILE)"
        raise ConfigError(f"{file}: not a split; {', '.join(missing)} missing{hint * (missing == ['fingerprint'])}")
    if "domains" in values:
        raise ConfigError(f"{file}: its tasks are domains; a split holds tasks of new classes")
    tasks, held = values["tasks"], values["indices"]
    if not all(isinstance(values[key], str) for key in ("dataset", "fingerprint")):
        raise ConfigError(f"{file}: not a split; dataset and fingerprint are text")
    one = "series" if kind_of(values["dataset"]) == "series" else "image"
    if not _are_lists(tasks) or not tasks or not all(tasks):
        raise ConfigError(f"{file}: tasks: expected a list of class numbers for each task")
    if not isinstance(held, list) or len(held) != len(tasks) or not all(map(_are_lists, held)):
        raise ConfigError(
            f"{file}: indices: expected a list of {one} numbers for each of {len(tasks)} tasks and client"
        )
    if type(values["clients"]) is not int or not values["clients"] or any(len(c) != values["clients"] for c in held):
        raise ConfigError(f"{file}: clients is {values['clients']!r}, and indices are those of {len(held[0])}")
    arrays = tuple(tuple(np.array(indices, dtype=np.int64) for indices in clients) for clients in held)
    _check_once(file, "class", np.concatenate([np.array(task, dtype=np.int64) for task in tasks]))
    _check_once(file, one, np.concatenate([indices for clients in arrays for indices in clients]))
    return Split(values["dataset"], values["fingerprint"], tuple(map(tuple, tasks)), arrays)


def _are_lists(value: Any) -> bool:
    """Return whether it is a list of lists of whole numbers."""
    lists = isinstance(value, list) and all(isinstance(one, list) for one in value)
    return lists and all(type(n) is int and 0 <= n < MOST for one in value for n in one)


def _check_once(file: str, what: str, numbers: Indices) -> None:
    found, counts = np.unique(numbers, return_counts=True)
    if (counts > 1).any():
        raise ConfigError(f"{file}: {what} {found[counts > 1][0]} is given twice")


def fingerprint(dataset: Dataset) -> str:
    """Return a digest of a data set: class names, every label, and the pixels of some images spread evenly.

    Not of every pixel, because each process of a run with a split computes it, and a set may be too large for that.
    """
    if dataset.raw_fingerprint:
        return dataset.raw_fingerprint
    about = [dataset.class_names, list(dataset.shape), len(dataset.train), len(dataset.test)]
    if dataset.domains is not None:
        about += [dataset.domains.names, *(of.tolist() for of in dataset.domains[1:])]
    total = sha256(json.dumps(about).encode())
    for images in (dataset.train, dataset.test):
        total.update(images.y.numpy().tobytes())
        rows = torch.linspace(0, len(images) - 1, min(LOOKED_AT, len(images)), dtype=torch.float64).long()
        total.update(images.take(rows).cpu().contiguous().numpy().tobytes())
    return total.hexdigest()[:32]


def content_digest(dataset: Dataset) -> str:
    """Return a digest of a data set that detects a change of one pixel: every label, and every sample in memory.

    For sets of more than `READ` bytes every k-th sample enters, and for images that are read from files on demand
    those of `fingerprint`.
    """
    total = sha256(fingerprint(dataset).encode())
    for images in (dataset.train, dataset.test):
        if not images.in_memory or not len(images):
            continue
        size = images.take(torch.zeros(1, dtype=torch.int64)).nbytes
        step = -(-len(images) * size // READ)  # rounded up
        rows_of = torch.arange(0, len(images), step)
        for rows in torch.split(rows_of, max(1, 2**24 // size)):
            total.update(images.take(rows).cpu().contiguous().numpy().data)
    return total.hexdigest()[:32]
