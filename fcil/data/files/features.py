"""Features of the samples of a data set that were computed before, in `.npy` files: row i is sample i of the set.

Shapes: N samples, F features.
"""

from __future__ import annotations

from dataclasses import replace
from functools import lru_cache
from pathlib import Path

import numpy as np
import torch
from torch import Tensor

from fcil.config.content import HashedFile
from fcil.data.augment import Augment
from fcil.data.datasets import Dataset
from fcil.data.images import MemoryImages
from fcil.data.splits import fingerprint
from fcil.errors import ConfigError, printable


def of_features(dataset: Dataset, train: HashedFile, test: HashedFile) -> Dataset:
    """Return a data set with features in the place of the samples, and the same labels.

    A sample is an image of 1 x 1 x F, or a series of one channel and F steps; it is neither augmented nor normalised.

    Raises:
        ConfigError: a file is no `.npy` file of numbers, has other rows than there are samples, or was changed.
    """
    x_train, x_test = _read("train_features", train), _read("test_features", test)
    for key, file, x, count, what in (
        ("train_features", train, x_train, len(dataset.train), "training"),
        ("test_features", test, x_test, len(dataset.test), "test"),
    ):
        if len(x) != count:
            raise ConfigError(
                f"{key}: {file.file}: has {len(x):,} rows, and there are {count:,} {what} samples of {dataset.name}, "
                "counted without those that data.validation, data.per_class or data.test_share take away"
            )
    if x_train.shape[1] != x_test.shape[1]:
        raise ConfigError(f"test_features: has {x_test.shape[1]} features, and train_features {x_train.shape[1]}")
    sides = (1,) if dataset.kind == "series" else (1, 1)
    return replace(
        dataset,
        train=MemoryImages(x_train.view(len(x_train), *sides, -1), dataset.train.y),
        test=MemoryImages(x_test.view(len(x_test), *sides, -1), dataset.test.y),
        mean=(0.0,),
        std=(1.0,),
        augment=Augment(),
        pending=False,
        scale=None,
        raw_fingerprint=fingerprint(dataset),
    )


def _read(key: str, file: HashedFile) -> Tensor:
    try:
        return _features(file.checked(), file.sha256)
    except ConfigError as error:
        raise ConfigError(f"{key}: {error}") from None


@lru_cache(maxsize=4)
def _features(path: Path, sha256: str) -> Tensor:
    """Return the rows of a file (N, F), float32, mapped into memory where they are of that type.

    Args:
        sha256: of its content; another content under the same path is read anew.
    Raises:
        ConfigError: it is no such file, or a number is not finite.
    """
    try:
        found = np.load(path, mmap_mode="c", allow_pickle=False)  # a private mapping, which torch may take
    except (OSError, ValueError) as error:
        raise ConfigError(f"{path}: no .npy file of numbers can be read there ({printable(str(error))})") from None
    if not isinstance(found, np.ndarray) or found.ndim != 2 or found.dtype.kind != "f" or not found.size:
        what = f"{found.dtype} of shape {list(found.shape)}" if isinstance(found, np.ndarray) else "an archive"
        raise ConfigError(f"{path}: holds {what}; expected one array of floats, [samples, features]")
    rows = torch.from_numpy(np.ascontiguousarray(found, dtype=np.float32) if found.dtype != np.float32 else found)
    for part in torch.split(rows, 2**14):
        if not bool(part.isfinite().all()):
            raise ConfigError(f"{path}: holds NaN or infinity")
    return rows
