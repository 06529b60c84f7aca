"""The samples of one split: in memory, or decoded on demand."""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections import deque
from collections.abc import Iterable, Iterator, Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from functools import cached_property
from hashlib import blake2b

import numpy as np
import torch
from torch import Tensor

from fcil.data.files.archives import Archive
from fcil.data.files.compositing import USUAL, Rendering
from fcil.data.files.decode import THREADS, Wanted, check_size, fit, load, to_array

READ_AHEAD = 2
"""Batches that are decoded ahead while the net works on an earlier one."""


class Images(ABC):
    """Samples with their original class numbers."""

    y: Tensor
    """Original class numbers, (N,) int64, on the CPU."""
    shape: tuple[int, ...]
    """Shape of one sample: (channels, height, width), or (channels, length)."""
    device: torch.device
    """Device of what `take` returns, and the best one for its indices."""
    in_memory = True
    """Whether all samples can be read without decoding files."""
    inspected = False
    """Whether they stay files for an inspection alone; for training they are decoded."""

    def __len__(self) -> int:
        return len(self.y)

    def take(self, indices: Tensor, generator: torch.Generator | None = None) -> Tensor:
        """Return the samples at `indices` (n,), as stored: (n, *shape), uint8 for images.

        Training images that are larger than `shape` are cropped at a place drawn from the generator, and in the
        middle without one.
        """
        return next(self.stream([indices], generator))

    @abstractmethod
    def stream(self, batches: Iterable[Tensor], generator: torch.Generator | None = None) -> Iterator[Tensor]:
        """Yield `take` of one batch of indices after the other, with later ones prepared in the background."""

    def subset(self, rows: Tensor, *, train: bool = True) -> Images:
        """Return a view of the samples at `rows` (n,); with `train=False` they are cropped as test images are."""
        return _Subset(self, rows)

    def to(self, device: torch.device | str) -> Images:
        """Return the same samples on a device, if they are kept in memory."""
        return self


def originals(train: Images, test: Images) -> Tensor:
    """Return the row of a training sample that equals each test sample, -1 where none does: (N,) int64.

    Of several it is the first of the same class, or else the first. Both are in memory. Samples are equal if all their
    values are, as they are stored: series that are normalised each by itself may differ in level and strength. Missing
    values and padding are equal to each other.
    """
    first: dict[bytes, int] = {}
    same: dict[tuple[bytes, int], int] = {}
    for row, (digest, label) in enumerate(zip(_digests(train), train.y.tolist(), strict=True)):
        first.setdefault(digest, row)
        same.setdefault((digest, label), row)
    found = zip(_digests(test), test.y.tolist(), strict=True)
    return torch.tensor([same.get(one, first.get(one[0], -1)) for one in found], dtype=torch.int64)


def _digests(images: Images) -> Iterator[bytes]:
    for part in torch.split(torch.arange(len(images)), 1024):
        for sample in images.take(part).cpu().numpy():
            values = np.ascontiguousarray(sample + 0)  # so that no zero has a sign
            yield blake2b(values.data, digest_size=16).digest()


class MemoryImages(Images):
    """Samples as one tensor, which may be mapped from a file.

    Args:
        x: (N, channels, ...), uint8 for images, float for series.
        y: original class numbers, (N,).
    """

    def __init__(self, x: Tensor, y: Tensor) -> None:
        if len(x) != len(y):
            raise ValueError(f"{len(x)} samples have {len(y)} labels")
        self.x = x
        self.y = y.to("cpu", torch.int64)
        self.shape = tuple(x.shape[1:])
        self.device = x.device

    def stream(self, batches: Iterable[Tensor], generator: torch.Generator | None = None) -> Iterator[Tensor]:
        for indices in batches:
            yield self.x.index_select(0, indices.to(self.device))

    def to(self, device: torch.device | str) -> Images:
        return self if torch.device(device) == self.device else MemoryImages(self.x.to(device), self.y)


class _Subset(Images):
    def __init__(self, whole: Images, rows: Tensor) -> None:
        self.whole = whole
        self.y = whole.y[rows.cpu()]
        self.shape = whole.shape
        self.device = whole.device
        self.rows = rows.to(self.device)
        self.in_memory, self.inspected = whole.in_memory, whole.inspected

    def stream(self, batches: Iterable[Tensor], generator: torch.Generator | None = None) -> Iterator[Tensor]:
        return self.whole.stream((self.rows[indices.to(self.device)] for indices in batches), generator)

    def to(self, device: torch.device | str) -> Images:
        whole = self.whole.to(device)
        return self if whole is self.whole else _Subset(whole, self.rows)


class LazyImages(Images):
    """Colour images that stay files until a batch needs them, for sets that do not fit into memory.

    Training images have their short side resized to `side`, and are cropped to a square at a place along
    the long side that is drawn anew each time. Test images have it resized to 256/224 of `side`, and
    are cropped in the middle.

    Differs: the reference pads the resized image before it crops, so the zeros of its padding show only
    at the image's own border; here the square is cropped first and `Augment` pads the square.
    """

    def __init__(
        self,
        archive: Archive,
        names: Sequence[str],
        y: Tensor,
        *,
        side: int,
        train: bool,
        rendering: Rendering = USUAL,
    ) -> None:
        self.archive, self.names, self.side, self.train, self.rendering = archive, names, side, train, rendering
        self.y = y.to("cpu", torch.int64)
        self.shape = (3, side, side)
        self.device = torch.device("cpu")
        self.in_memory = False

    @cached_property
    def _pool(self) -> ThreadPoolExecutor:
        return ThreadPoolExecutor(THREADS, thread_name_prefix="fcil-decode")

    def stream(self, batches: Iterable[Tensor], generator: torch.Generator | None = None) -> Iterator[Tensor]:
        """Yield batches as `Images.stream` does.

        One number is drawn from the generator at the start, and names the stream of all positions, so
        that later draws from the generator do not depend on how far the reading is ahead.
        """
        places: torch.Generator | None = None
        if self.train and generator is not None:
            start = torch.randint(2**62, (), generator=generator)
            places = torch.Generator().manual_seed(int(start))
        waiting: deque[tuple[Tensor, list[Future[None]]]] = deque()
        try:
            for indices in batches:
                waiting.append(self._begin(indices, places))
                if len(waiting) > READ_AHEAD:
                    yield _finish(*waiting[0])
                    waiting.popleft()
            while waiting:
                yield _finish(*waiting[0])
                waiting.popleft()
        finally:
            for _, jobs in waiting:
                for job in jobs:
                    job.cancel()

    def _begin(self, indices: Tensor, places: torch.Generator | None) -> tuple[Tensor, list[Future[None]]]:
        rows = indices.tolist()
        positions = [0.5] * len(rows) if places is None else torch.rand(len(rows), generator=places).tolist()
        x = np.empty((len(rows), *self.shape), dtype=np.uint8)

        def fill(slot: int) -> None:
            name = self.names[rows[slot]]
            short = self.side if self.train else round(self.side * 256 / 224)
            place, where = positions[slot], f"{self.archive}: {name}"
            cut = load(self.archive, name, lambda image: fit(image, short, self.side, place, where), self.rendering)
            x[slot] = to_array(cut, 3)

        return torch.from_numpy(x), [self._pool.submit(fill, slot) for slot in range(len(rows))]

    def subset(self, rows: Tensor, *, train: bool = True) -> Images:
        kept = [self.names[row] for row in rows.tolist()]
        train = self.train and train
        return LazyImages(self.archive, kept, self.y[rows], side=self.side, train=train, rendering=self.rendering)


class FileImages(Images):
    """Images of one size that stay files until they are read: for inspection of data, not for training.

    They are what `fcil.data.files.decode.cached` would make of them.

    Args:
        shape: (channels, height, width) of the first of them.
    """

    in_memory = False
    inspected = True

    def __init__(
        self, archive: Archive, names: Sequence[str], y: Tensor, *, wanted: Wanted, shape: tuple[int, ...]
    ) -> None:
        self.archive, self.names, self.wanted = archive, names, wanted
        self.y, self.shape, self.device = y.to("cpu", torch.int64), shape, torch.device("cpu")

    def stream(self, batches: Iterable[Tensor], generator: torch.Generator | None = None) -> Iterator[Tensor]:
        for indices in batches:
            x = np.empty((len(indices), *self.shape), dtype=np.uint8)
            for slot, row in enumerate(indices.tolist()):
                image = self.wanted.load(self.archive, self.names[row])
                check_size(image, self.shape[1:], f"{self.archive}: {self.names[row]}")
                x[slot] = to_array(image if self.shape[0] == 3 else image.convert("L"), self.shape[0])
            yield torch.from_numpy(x)


def _finish(x: Tensor, jobs: list[Future[None]]) -> Tensor:
    for job in jobs:
        job.result()
    return x
