"""Data sets by name, ready to be split into tasks."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import Literal

import numpy as np
import torch

from fcil.data.augment import Augment
from fcil.data.catalog import DATASETS
from fcil.data.domains.made import made
from fcil.data.domains.samples import SampleDomains, grouped
from fcil.data.files.archives import Archive
from fcil.data.files.decode import Progress
from fcil.data.images import Images, MemoryImages, originals
from fcil.data.partition import a_few, hold_out
from fcil.data.preparation import AugmentSettings
from fcil.data.series.clean import channel_scale
from fcil.data.settings import DataSettings
from fcil.data.sources import Splits, read, read_tests
from fcil.data.splits import fingerprint
from fcil.errors import ConfigError

__all__ = ["DATASETS", "Dataset", "load_dataset"]


@dataclass(frozen=True)
class Dataset:
    """Training and test samples with original class numbers, and their preparation."""

    name: str
    train: Images
    test: Images
    class_names: tuple[str, ...]
    """Names by original class number."""
    mean: tuple[float, ...]
    """Mean of every channel, levels in [0, 1]."""
    std: tuple[float, ...]
    augment: Augment
    folders: tuple[str, ...] = ()
    """Folder names by original class number, where classes are folders."""
    source: Archive | None = None
    """Archive of the image files."""
    pending: bool = False
    """Whether series are still to be standardised by those of the first task (`standardised`)."""
    scale: tuple[tuple[float, ...], tuple[float, ...]] | None = None
    """Mean and deviation of each channel by which `standardised` has changed the series."""
    raw_fingerprint: str = ""
    """Fingerprint before `standardised`."""
    clients: tuple[str, ...] = ()
    """Name of the client of each training sample, where the data name it (`partition: {natural: ...}`)."""
    domains: SampleDomains | None = None
    """Domain of each sample, where tasks are domains."""
    copies: torch.Tensor | None = None
    """Rows of `test` that equal a training sample and are not tested (`test_copies: drop`)."""

    @property
    def kind(self) -> Literal["images", "series"]:
        return "series" if len(self.shape) == 2 else "images"

    @property
    def one(self) -> Literal["image", "series"]:
        """Return the word for one sample."""
        return "series" if self.kind == "series" else "image"

    @property
    def num_classes(self) -> int:
        return len(self.class_names)

    @property
    def shape(self) -> tuple[int, ...]:
        """Return the shape of one sample: (channels, height, width), or (channels, steps) of series."""
        return self.train.shape

    def to(self, device: torch.device | str) -> Dataset:
        """Return the same data on a device, if it is kept in memory; lazily read images stay files."""
        return replace(self, train=self.train.to(device), test=self.test.to(device))

    def standardised(self, classes: Sequence[int]) -> Dataset:
        """Return the set with every channel brought to mean 0 and deviation 1 of the training series of some classes.

        Those of the first task, so that no later task and no test series has a part in it. A set that is not `pending`
        is returned as it is.
        """
        if not self.pending:
            return self
        rows = torch.from_numpy(np.flatnonzero(np.isin(self.train.y.numpy(), classes)))
        mean, std = channel_scale(self.train.take(rows).numpy())
        return self.scaled((tuple(mean[:, 0].tolist()), tuple(std[:, 0].tolist())))

    def scaled(self, scale: tuple[tuple[float, ...], tuple[float, ...]]) -> Dataset:
        """Return the set with the series of each channel less a mean and divided by a deviation."""
        mean, std = (np.array(values, dtype=np.float32)[:, None] for values in scale)
        train, test = (
            MemoryImages(torch.from_numpy((images.take(torch.arange(len(images))).numpy() - mean) / std), images.y)
            for images in (self.train, self.test)
        )
        return replace(self, train=train, test=test, pending=False, scale=scale, raw_fingerprint=fingerprint(self))


def load_dataset(
    settings: DataSettings, *, progress: Progress | None = None, look: bool = False, tests_alone: bool = False
) -> Dataset:
    """Open, download or decode the data set that the settings name.

    With `validation`, that fraction of the training images, drawn once and equally from
    all classes, replaces the test images, which are then not used at all. With `per_class`, that
    many of the remaining training images of every class are used, drawn in the same manner.

    Args:
        progress: is called with the current step, the amount done and the total.
        look: download, decode and write as little as possible: for inspection, not for training.
        tests_alone: the training images are not needed; an image folder may be without.

    Raises:
        DataError: files are missing or damaged; one line names the file and the remedy.
        ConfigError: an augmentation does not fit the images, or copies are to be dropped and cannot be.
    """
    info = settings.info
    if tests_alone and settings.test_copies == "keep":
        found = read_tests(info, settings, progress)
    else:
        found = read(info, settings, progress, look=look)
    train, test = found.train, found.test
    natural = settings.partition.natural
    clients: tuple[str, ...] = ()
    if natural is not None and not tests_alone:
        clients = natural.names(found.files, [found.folders[label] for label in train.y.tolist()])
    domains = found.domains
    if settings.validation:
        kept, held = hold_out(_drawn_from(train, domains, found), settings.validation, "validation")
        train, test, clients = train.subset(kept), train.subset(held, train=False), _chosen(clients, kept)
        domains = domains and domains._replace(train=domains.train[kept], test=domains.train[held])
    if settings.per_class is not None:
        few = a_few(_drawn_from(train, domains, found), settings.per_class)
        train, clients = train.subset(few), _chosen(clients, few)
        domains = domains and domains._replace(train=domains.train[few])
    if settings.domains is not None and settings.domains.names is None:
        train, test, domains = made(settings.domains, train, test)
    augment = info.augment or Augment(max(1, min(train.shape[1:]) // 8), True)
    if isinstance(settings.augment, AugmentSettings):
        augment = settings.augment.applied(augment, train.shape[1:])
    pending = info.kind == "series" and (settings.normalise or info.normalise) == "training"
    about = found.class_names, found.mean, found.std, augment, found.folders, found.source, pending
    copies = _copies(train, test) if settings.test_copies == "drop" else None
    return Dataset(info.name, train, test, *about, clients=clients, domains=domains, copies=copies)


def _copies(train: Images, test: Images) -> torch.Tensor | None:
    """Return the rows of test samples that are training samples (N,); None in an inspection that decodes nothing.

    Raises:
        ConfigError: samples stay files in training too.
    """
    if train.in_memory and test.in_memory:
        return (originals(train, test) >= 0).nonzero()[:, 0]
    if train.inspected or test.inspected:
        return None
    raise ConfigError("test_copies: drop applies to samples held in memory; these images stay files until needed")


def _drawn_from(train: Images, domains: SampleDomains | None, found: Splits) -> torch.Tensor:
    """Return the groups of which each is drawn from by itself: classes, or those of each domain (N,)."""
    return train.y if domains is None else grouped(train.y, domains.train, len(found.class_names))


def _chosen(clients: tuple[str, ...], rows: torch.Tensor) -> tuple[str, ...]:
    return tuple(clients[row] for row in rows.tolist()) if clients else ()
