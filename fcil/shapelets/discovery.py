"""Discovery of shapelets: of all pieces between important points, those that best tell their class from the others.

Le et al., "ShapeFormer: shapelet transformer for multivariate time series classification" (KDD 2024); code @ e543a2a.

Differs: the public code searches from w - 1 steps before to w steps behind the place of a piece, here it is w on both
sides; it takes half of the training series for the search, here those that are given are taken; and it pads short
series with noise, in which pieces may lie. Pieces here lie within their series, and a series that has no whole piece
within reach is infinitely far from it.

Memory beside the series: about six arrays of `distances.BLOCK` bytes for each worker.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import asdict, dataclass, fields
from pathlib import Path

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from fcil.io.blobs import DamagedError, read_tensors, write_tensors
from fcil.io.state import digest
from fcil.nets.series.padding import lengths, split_padding
from fcil.shapelets.distances import Channel
from fcil.shapelets.gain import information_gain
from fcil.shapelets.points import Candidates, Floats, Ints, candidates
from fcil.shapelets.select import best
from fcil.shapelets.settings import Discovery
from fcil.types import Tensors

Progress = Callable[[int, int], None]
"""Called with the number of series that are searched, in one channel each, and their total."""
VERSION = 1
"""Of what is kept in a cache; counts up when the search changes."""


@dataclass(frozen=True)
class Shapelets:
    """Pieces of series, by class in the order asked for and within a class by their start."""

    values: Tensor
    """(K, M), zeros behind the end of a piece."""
    series: Tensor
    """Number of the series that each was cut from (K,), int64."""
    channel: Tensor
    """(K,), int64."""
    start: Tensor
    """First step (K,), int64."""
    length: Tensor
    """Steps (K,), int64."""
    label: Tensor
    """Class (K,), int64."""
    gain: Tensor
    """Information gain in bits (K,)."""

    def __len__(self) -> int:
        return len(self.gain)

    def tensors(self) -> Tensors:
        """Return all of it by name."""
        return {field.name: getattr(self, field.name) for field in fields(self)}


def discover(
    x: Tensor,
    y: Tensor,
    settings: Discovery,
    classes: Sequence[int] | None = None,
    *,
    cache: Path | None = None,
    workers: int = 1,
    progress: Progress | None = None,
) -> Shapelets:
    """Return the shapelets of some classes.

    A class is told from all others among the series, not from those of `classes` alone. A class without a series of
    three steps or more has no shapelets.

    Args:
        x: series (N, c, L), padded with NaN.
        y: their classes (N,).
        classes: those to find shapelets of; None: all, in order.
        cache: folder of results, by the content of series, classes and settings; None keeps none.
        workers: threads; the result does not depend on it.
        progress: called in the calling thread.
    Raises:
        ValueError: a value within a series is NaN or infinite.
    """
    wanted = sorted(set(y.tolist())) if classes is None else list(classes)
    if cache is None:
        return _search(x, y, settings, wanted, workers, progress)
    about = {field.name: getattr(settings, field.name) for field in fields(Discovery)}
    name = digest({"x": x.float(), "y": y}, {"settings": repr(sorted(about.items())), "classes": repr(wanted)})
    path = cache / f"{name}-{VERSION}.safetensors"
    if path.is_file():
        try:
            return Shapelets(**read_tensors(path)[0])
        except (DamagedError, TypeError):
            path.unlink(missing_ok=True)
    made = _search(x, y, settings, wanted, workers, progress)
    write_tensors(path, made.tensors(), {key: str(value) for key, value in asdict(settings).items()})
    return made


def _search(
    x: Tensor, y: Tensor, settings: Discovery, classes: list[int], workers: int, progress: Progress | None
) -> Shapelets:
    kept = _kept(y, settings.series_per_class)
    x, y = x[kept].double().cpu(), y[kept].cpu()
    values, steps, labels = split_padding(x)[0].numpy(), lengths(x).numpy(), y.numpy()
    if not np.isfinite(values).all():
        raise ValueError("series with a value that is NaN or infinite have no shapelets; interpolate it first")
    channels, length = values.shape[1:]
    pieces = candidates(values.reshape(-1, length), np.repeat(steps, channels), settings.points)
    tasks = list(_rows(pieces, channels, np.isin(labels, classes)))
    layouts = [Channel.of(np.ascontiguousarray(values[:, c]), steps, settings.window) for c in range(channels)]

    def weigh(task: tuple[int, int, slice]) -> Floats:
        series, channel, part = task
        near = layouts[channel].nearest(series, pieces.start[part], pieces.end[part])
        return information_gain(near, labels == labels[series], settings.thresholds)

    gain = np.full(len(pieces.row), -np.inf)
    for done, (task, found) in enumerate(zip(tasks, _over(weigh, tasks, workers), strict=True), 1):
        gain[task[2]] = found
        if progress is not None:
            progress(done, len(tasks))
    return _chosen(values, labels, kept, pieces, gain, classes, settings.per_class)


def _over(
    weigh: Callable[[tuple[int, int, slice]], Floats], tasks: list[tuple[int, int, slice]], workers: int
) -> Iterator[Floats]:
    if workers == 1:
        yield from map(weigh, tasks)
        return
    with ThreadPoolExecutor(workers) as pool:
        yield from pool.map(weigh, tasks)


def _kept(y: Tensor, most: int | None) -> Tensor:
    """Return the series to look at, at most so many of a class, evenly spaced."""
    if most is None:
        return torch.arange(len(y))
    parts = []
    for label in y.unique().tolist():  # type: ignore[no-untyped-call]
        own = (y == label).nonzero().flatten().cpu()
        parts.append(own[torch.linspace(0, len(own) - 1, min(most, len(own))).round().long()])
    return torch.cat(parts).sort().values


def _rows(pieces: Candidates, channels: int, wanted: NDArray[np.bool_]) -> Iterator[tuple[int, int, slice]]:
    """Yield series, channel and pieces of each row that has any and is of a wanted class."""
    rows, first, number = np.unique(pieces.row, return_index=True, return_counts=True)
    for row, begin, many in zip(rows.tolist(), first.tolist(), number.tolist(), strict=True):
        if wanted[row // channels]:
            yield row // channels, row % channels, slice(begin, begin + many)


def _chosen(
    values: Floats, labels: Ints, kept: Tensor, pieces: Candidates, gain: Floats, classes: list[int], count: int
) -> Shapelets:
    channels = values.shape[1]
    series, channel = pieces.row // channels, pieces.row % channels
    picked = []
    for label in classes:
        own = np.flatnonzero(labels[series] == label)
        picked.append(own[best(gain[own], channel[own], pieces.start[own], pieces.end[own], count)])
    at = np.concatenate(picked) if picked else np.empty(0, np.int64)
    length = pieces.end[at] - pieces.start[at]
    cut = np.zeros((len(at), int(length.max(initial=0))))
    for row, piece in enumerate(at):
        cut[row, : length[row]] = values[series[piece], channel[piece], pieces.start[piece] : pieces.end[piece]]
    whole = [series[at], channel[at], pieces.start[at], length, labels[series[at]]]
    number, place, start, steps, named = (torch.from_numpy(np.ascontiguousarray(part)) for part in whole)
    pieces_cut, gains = torch.from_numpy(cut).float(), torch.from_numpy(gain[at]).float()
    return Shapelets(pieces_cut, kept[number], place, start, steps, named, gains)
