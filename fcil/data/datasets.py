"""Data sets by name, ready to be split into tasks."""

from __future__ import annotations

from dataclasses import dataclass, replace

import torch

from fcil.data.augment import Augment
from fcil.data.catalog import DATASETS
from fcil.data.files.archives import Archive
from fcil.data.files.decode import Progress
from fcil.data.images import Images
from fcil.data.preparation import AugmentSettings
from fcil.data.settings import DataSettings
from fcil.data.sources import a_few, hold_out, read

__all__ = ["DATASETS", "Dataset", "load_dataset"]


@dataclass(frozen=True)
class Dataset:
    """Training and test samples with original class numbers, and how to prepare them."""

    name: str
    train: Images
    test: Images
    class_names: tuple[str, ...]
    """By original class number."""
    mean: tuple[float, ...]
    """Of every channel, levels in [0, 1]."""
    std: tuple[float, ...]
    augment: Augment
    folders: tuple[str, ...] = ()
    """By original class number, the name of its folder, where classes are folders."""
    source: Archive | None = None
    """Where image files lie."""

    @property
    def num_classes(self) -> int:
        return len(self.class_names)

    @property
    def shape(self) -> tuple[int, ...]:
        """Of one sample: (channels, height, width)."""
        return self.train.shape

    def to(self, device: torch.device | str) -> Dataset:
        """The same data on a device, where it is kept in memory; lazily read images stay files."""
        return replace(self, train=self.train.to(device), test=self.test.to(device))


def load_dataset(settings: DataSettings, *, progress: Progress | None = None, look: bool = False) -> Dataset:
    """Open, download or decode the data set that the settings name.

    With `validation`, that fraction of the training images, drawn once and for all and equally from
    all classes, takes the place of the test images, which are then not used at all. With `per_class`, so
    many of the training images that are left are used, of every class, drawn in the same manner.

    Args:
        progress: is told what is going on, how much is done and how much there is.
        look: download, decode and write as little as possible: to know what there is, not to train on it.

    Raises:
        DataError: files are missing or damaged; one line says which, and what to do.
        ConfigError: an augmentation does not fit the images.
    """
    info = DATASETS[settings.dataset]
    found = read(info, settings, progress, look=look)
    train, test = found.train, found.test
    if settings.validation:
        kept, held = hold_out(train.y, settings.validation, "validation")
        train, test = train.subset(kept), train.subset(held, train=False)
    if settings.per_class is not None:
        train = train.subset(a_few(train.y, settings.per_class))
    augment = info.augment or Augment(max(1, min(train.shape[1:]) // 8), True)
    if isinstance(settings.augment, AugmentSettings):
        augment = settings.augment.applied(augment, train.shape[1:])
    return Dataset(
        info.name, train, test, found.class_names, found.mean, found.std, augment, found.folders, found.source
    )
