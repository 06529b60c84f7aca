"""Properties of every data set, known before any of its files is opened."""

from __future__ import annotations

import re
from dataclasses import dataclass
from typing import Literal

from fcil.config.kinds import ARCHIVES
from fcil.data.augment import Augment
from fcil.data.published import EMNIST, MEDMNIST, MULTI_LABEL, SVHN, Published
from fcil.errors import nearest

Normalise = Literal["series", "training", "none"]
_JITTER = 63 / 255


@dataclass(frozen=True)
class DatasetInfo:
    """One row of `fcil list datasets`."""

    name: str
    description: str
    num_classes: int | None
    """Classes of the official data; a subset may have fewer. None if only the files tell."""
    shape: tuple[int, ...] | None
    """(channels, height, width) or (channels, steps); None if only the files tell."""
    downloads: bool
    """Whether a missing data set is downloaded."""
    resizable: bool = False
    """Whether `resize` applies."""
    mean: tuple[float, ...] | None = None
    """Mean of every channel, levels in [0, 1]; None where it is computed from the training images."""
    std: tuple[float, ...] | None = None
    augment: Augment | None = None
    """Default augmentation; None where it depends on the size of the images."""
    files: str = ""
    """Files that a user puts into the root when the data cannot be downloaded."""
    kind: Literal["images", "series"] = "images"
    """What its samples are."""
    normalise: Normalise | None = None
    """Default normalisation of series."""
    own: bool = False
    """Whether it is in a user's own file."""

    @property
    def fixed(self) -> bool:
        """Return whether the number of classes is known without the files."""
        return self.num_classes is not None and not self.resizable


_IMAGENET_MEAN, _IMAGENET_STD = (0.485, 0.456, 0.406), (0.229, 0.224, 0.225)
_IMAGENET_AUGMENT = Augment(4, True, _JITTER, synthetic_brightness=_JITTER)
_IMAGENET_FILES = "a folder or zip with train/<class>/* and val/<class>/*"
_IDX_FILES = "the four idx files ({train,t10k}-{images-idx3,labels-idx1}-ubyte.gz)"


def _of_arrays(name: str, about: Published, side: int, augment: Augment) -> DatasetInfo:
    return DatasetInfo(
        name=name,
        description=about.description,
        num_classes=len(about.classes),
        shape=(about.channels, side, side),
        downloads=False,
        augment=augment,
        files=about.files,
    )


DATASETS: dict[str, DatasetInfo] = {
    info.name: info
    for info in (
        DatasetInfo(
            name="digits",
            description="handwritten digits of 8x8 pixels, part of the package: 1,438 training and 359 test images",
            num_classes=10,
            shape=(1, 8, 8),
            downloads=False,
            augment=Augment(1),
        ),
        DatasetInfo(
            name="mnist",
            description="handwritten digits, 60,000 training and 10,000 test images",
            num_classes=10,
            shape=(1, 28, 28),
            downloads=True,
            mean=(0.1307,),
            std=(0.3081,),
            augment=Augment(2),
            files=f"{_IDX_FILES} under MNIST/raw",
        ),
        DatasetInfo(
            name="fashion_mnist",
            description="articles of clothing, 60,000 training and 10,000 test images",
            num_classes=10,
            shape=(1, 28, 28),
            downloads=True,
            mean=(0.2860,),
            std=(0.3530,),
            augment=Augment(2, True),
            files=f"{_IDX_FILES} under FashionMNIST/raw",
        ),
        DatasetInfo(
            name="cifar10",
            description="small colour photographs, 50,000 training and 10,000 test images",
            num_classes=10,
            shape=(3, 32, 32),
            downloads=True,
            mean=(0.4914, 0.4822, 0.4465),
            std=(0.2470, 0.2435, 0.2616),
            augment=Augment(4, True, _JITTER),
            files="cifar-10-python.tar.gz",
        ),
        DatasetInfo(
            name="cifar100",
            description="small colour photographs, 50,000 training and 10,000 test images",
            num_classes=100,
            shape=(3, 32, 32),
            downloads=True,
            mean=(0.5071, 0.4867, 0.4408),
            std=(0.2675, 0.2565, 0.2761),
            augment=Augment(4, True, _JITTER),
            files="cifar-100-python.tar.gz",
        ),
        DatasetInfo(
            name="tiny_imagenet",
            description="200 ImageNet classes at 64x64 pixels, 100,000 training images; the 10,000 val images test",
            num_classes=200,
            shape=(3, 64, 64),
            downloads=False,
            resizable=True,
            mean=(0.4802, 0.4481, 0.3975),
            std=(0.2302, 0.2265, 0.2262),
            augment=Augment(4, True),
            files="the official tiny-imagenet-200.zip or the folder tiny-imagenet-200",
        ),
        DatasetInfo(
            name="image_folder",
            description="your images: a folder or zip with train/<class>/* and test/<class>/* (or val), held in memory",
            num_classes=None,
            shape=None,
            downloads=False,
            resizable=True,
        ),
        DatasetInfo(
            name="imagenet",
            description="ILSVRC 2012, 1.28 million training images, decoded while training; the val images test",
            num_classes=1000,
            shape=(3, 224, 224),
            downloads=False,
            resizable=True,
            mean=_IMAGENET_MEAN,
            std=_IMAGENET_STD,
            augment=_IMAGENET_AUGMENT,
            files=_IMAGENET_FILES,
        ),
        DatasetInfo(
            name="imagenet100",
            description="100 ImageNet classes of your choice, decoded while training; the val images test",
            num_classes=100,
            shape=(3, 224, 224),
            downloads=False,
            resizable=True,
            mean=_IMAGENET_MEAN,
            std=_IMAGENET_STD,
            augment=_IMAGENET_AUGMENT,
            files=_IMAGENET_FILES,
        ),
        DatasetInfo(
            name="mnist1d",
            description="series of 40 steps made after digits by the package mnist1d, 4,000 training and 1,000 test",
            num_classes=10,
            shape=(1, 40),
            downloads=False,
            augment=Augment(),
            kind="series",
            normalise="none",
        ),
        DatasetInfo(
            name="ts_folder",
            description="your series: a folder with NAME_TRAIN.ts and NAME_TEST.ts (or .tsv), or one .npz file",
            num_classes=None,
            shape=None,
            downloads=False,
            augment=Augment(),
            kind="series",
            normalise="series",
        ),
        DatasetInfo(
            name="imagenet_r",
            description="ImageNet-R, renditions of 200 ImageNet classes, decoded while training; needs test_share",
            num_classes=200,
            shape=(3, 224, 224),
            downloads=False,
            resizable=True,
            mean=_IMAGENET_MEAN,
            std=_IMAGENET_STD,
            augment=_IMAGENET_AUGMENT,
            files="the folder imagenet-r, or a zip of it, with <wnid>/*",
        ),
        DatasetInfo(
            name="cub200",
            description="CUB-200-2011, birds: 5,994 training and 5,794 test images, decoded while training",
            num_classes=200,
            shape=(3, 224, 224),
            downloads=False,
            resizable=True,
            mean=_IMAGENET_MEAN,
            std=_IMAGENET_STD,
            augment=_IMAGENET_AUGMENT,
            files="the folder CUB_200_2011 as it is published, or a zip of it",
        ),
        *(_of_arrays(name, about, 28, Augment(2)) for name, about in EMNIST.items()),
        *(_of_arrays(name, about, 28, Augment(2, not name.startswith("organ"))) for name, about in MEDMNIST.items()),
        _of_arrays("svhn", SVHN, 32, Augment(4)),
    )
}

_ARCHIVED = re.compile(rf"({'|'.join(ARCHIVES)}):([A-Za-z0-9_-]+(?:\+[A-Za-z0-9_-]+)*)")


def dataset_info(name: str) -> DatasetInfo:
    """Return the properties of a data set by its name in `DATASETS`, or of a set of an archive, `ucr:Crop`.

    `ucr:CricketX+CricketY` stacks sets of one channel as the channels of one. Whether files are at hand is not asked.

    Raises:
        ValueError: there is none of this name; one line says so.
    """
    if name in DATASETS:
        return DATASETS[name]
    if name in MULTI_LABEL:
        raise ValueError(
            f'"{name}" has several labels for each image; sets of one label each can be learnt class by class'
        )
    found = _ARCHIVED.fullmatch(name)
    if found is None:
        forms = [f"{archive}:NAME" for archive in ARCHIVES]
        known = f"(have: {', '.join([*DATASETS, *forms])}).{nearest(name, DATASETS)}"
        raise ValueError(f'unknown data set "{name}" {known}')
    archive, sets = found.groups()
    return DatasetInfo(
        name=name,
        description=f"time series of the {archive.upper()} archive",
        num_classes=None,
        shape=None,
        downloads=False,
        augment=Augment(),
        files=" and ".join(f"{one}/{one}_TRAIN.ts and {one}/{one}_TEST.ts (or .tsv)" for one in sets.split("+")),
        kind="series",
        normalise="training" if archive == "uea" else "series",
    )


def archived_sets(name: str) -> tuple[str, ...]:
    """Return the names within an archive of a set: `ucr:CricketX+CricketY` is two; none of another data set."""
    found = _ARCHIVED.fullmatch(name)
    return tuple(found.group(2).split("+")) if found else ()
