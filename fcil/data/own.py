"""Data sets and partitions of one's own: the classes that a file of one defines.

data:
  dataset: ./my_data.py        # a `DataSource`; its settings stand beside those of `data`
  partition: ./my_split.py     # a `Partitioner`, or {./my_split.py: {its settings}}
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, ClassVar, Literal, NamedTuple

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from fcil.config.parts import part_of
from fcil.data.augment import Augment
from fcil.data.catalog import DatasetInfo, Normalise
from fcil.errors import ConfigError, DataError, described

Array = NDArray[Any] | Tensor


class Samples(NamedTuple):
    """A data set as arrays; labels are class numbers from 0."""

    x_train: Array
    """Images (N, channels, height, width) uint8, or series (N, channels, steps) float32, NaN after the end of each."""
    y_train: Array
    """Class numbers (N,)."""
    x_test: Array
    y_test: Array
    class_names: Sequence[str]
    """Name of each class, by its number."""


@dataclass(frozen=True, kw_only=True)
class DataSource:
    """A data set in a file of one's own, `data: {dataset: ./my_data.py}`; its fields are its settings."""

    kind: ClassVar[Literal["images", "series"]] = "images"
    """What its samples are."""
    augment: ClassVar[Augment | None] = None
    """Default augmentation; None: padded by an eighth, cropped and flipped, and nothing for series."""
    normalise: ClassVar[Normalise] = "series"
    """Default normalisation of series."""

    def load(self, root: Path | None) -> Samples:
        """Return all samples, the same ones at every call: every worker calls it for itself.

        Args:
            root: `data.root`, where given.
        Raises:
            DataError: files are missing or damaged; one line names the file and the remedy.
        """
        raise NotImplementedError

    @property
    def info(self) -> DatasetInfo:
        """Return what is known of it before it is loaded."""
        part, series = part_of(self), self.kind == "series"
        return DatasetInfo(
            name=part.stem if part else type(self).__name__,
            description="a data set of one's own",
            num_classes=None,
            shape=None,
            downloads=False,
            augment=Augment() if series and self.augment is None else self.augment,
            kind=self.kind,
            normalise=self.normalise if series else None,
            own=True,
        )

    def samples(self, root: str | None) -> Samples:
        """Return what `load` returns as tensors, checked.

        Raises:
            DataError: `load` raised, or these are no samples with labels.
        """
        place = f'data set file "{part.path if (part := part_of(self)) else type(self).__name__}"'
        try:
            found = self.load(None if root is None else Path(root).expanduser())
        except DataError as error:
            raise DataError(f"{place}: {error}") from None
        except Exception as error:  # any error of a user's code is shown as one line
            raise DataError(f"{place}: load raised {described(error)}") from error
        if not isinstance(found, tuple) or len(found) != 5:
            raise DataError(f"{place}: load returned a {type(found).__name__}; expected Samples")
        names = tuple(str(name) for name in found[4])
        parts = {"train": _checked(place, "train", self.kind, *found[:2], len(names))}
        parts["test"] = _checked(place, "test", self.kind, *found[2:4], len(names))
        shapes = {split: tuple(x.shape[1:]) for split, (x, _) in parts.items()}
        if self.kind == "images" and shapes["train"] != shapes["test"]:
            raise DataError(f"{place}: x_train has samples of {shapes['train']}, x_test of {shapes['test']}")
        return Samples(*parts["train"], *parts["test"], names)


def _checked(place: str, split: str, kind: str, x: Array, y: Array, classes: int) -> tuple[Tensor, Tensor]:
    """Return samples and labels as tensors, after a look at their types and sizes."""
    try:
        x, y = torch.as_tensor(x), torch.as_tensor(y)
    except (TypeError, ValueError, RuntimeError) as error:
        raise DataError(f"{place}: x_{split} or y_{split} is no array ({described(error)})") from None
    wished, dtype = (4, torch.uint8) if kind == "images" else (3, torch.float32)
    if x.ndim != wished or x.dtype != dtype or not len(x):
        axes = "channels, height, width" if kind == "images" else "channels, steps"
        raise DataError(f"{place}: x_{split} is {_what(x)}; expected {_short(dtype)} (N, {axes}), N at least 1")
    if y.shape != x.shape[:1] or y.is_floating_point() or y.dtype == torch.bool:
        raise DataError(f"{place}: y_{split} is {_what(y)}; expected whole numbers ({len(x)},)")
    if int(y.min()) < 0 or int(y.max()) >= classes:
        raise DataError(
            f"{place}: y_{split} has labels from {int(y.min())} to {int(y.max())}; "
            f"expected 0 to {classes - 1}, as there are {classes} class names"
        )
    if len(absent := torch.nonzero(torch.bincount(y.to(torch.int64), minlength=classes) == 0)):
        raise DataError(f"{place}: y_{split} has no sample of class {int(absent[0])}, which class_names has")
    return x.contiguous(), y.to(torch.int64)


def _what(array: Tensor) -> str:
    return f"{_short(array.dtype)} {tuple(array.shape)}"


def _short(dtype: torch.dtype) -> str:
    return str(dtype).removeprefix("torch.")


@dataclass(frozen=True, kw_only=True)
class Partitioner:
    """A partition in a file of one's own, `data: {partition: ./my_split.py}`; its fields are its settings."""

    def deal(self, labels: NDArray[np.int64], clients: int, rng: np.random.Generator) -> Sequence[NDArray[np.int64]]:
        """Return the positions in `labels` (N,) that each client holds; each position belongs to one client.

        It is asked once for each task. A client that is dealt nothing gets one sample of the client that holds most.

        Args:
            labels: class of each sample of the task, counted in order of appearance.
            rng: the task's stream, or with `draw: once` the same one in every task.
        """
        raise NotImplementedError

    def dealt(self, labels: NDArray[np.int64], clients: int, rng: np.random.Generator) -> list[NDArray[np.int64]]:
        """Return what `deal` returns as arrays, checked.

        Raises:
            ConfigError: `deal` raised, or a sample is dealt to none or to two.
        """
        place = f'partition file "{part.path if (part := part_of(self)) else type(self).__name__}"'
        try:
            parts = [np.asarray(part) for part in self.deal(labels.copy(), clients, rng)]
        except ConfigError as error:
            raise ConfigError(f"{place}: {error}") from None
        except Exception as error:  # any error of a user's code is shown as one line
            raise ConfigError(f"{place}: deal raised {described(error)}") from error
        if len(parts) != clients:
            raise ConfigError(f"{place}: deals to {len(parts)} clients; there are {clients}")
        if strange := [part for part in parts if part.ndim != 1 or (len(part) and part.dtype.kind not in "iu")]:
            raise ConfigError(
                f"{place}: a client is dealt {strange[0].dtype} {strange[0].shape}; expected whole numbers (n,)"
            )
        every = np.concatenate([part.astype(np.int64) for part in parts])
        if len(every) and (every.min() < 0 or every.max() >= len(labels)):
            raise ConfigError(
                f"{place}: deals position {every[(every < 0) | (every >= len(labels))][0]} of {len(labels)}"
            )
        times = np.bincount(every, minlength=len(labels))
        if len(wrong := np.flatnonzero(times != 1)):
            how = "to none" if times[wrong[0]] == 0 else f"{times[wrong[0]]} times"
            raise ConfigError(f"{place}: sample {wrong[0]} of {len(labels)} is dealt {how}; expected once")
        return [part.astype(np.int64) for part in parts]
