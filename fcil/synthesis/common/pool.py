"""The pool: synthetic samples as tensors in memory, `x` uint8 (N, channels, H, W) and `y` (N,).

A pool may carry `mean` and `std` (N, channels): the statistics its samples are to be normalised
by, where a synthesizer learnt its own instead of using the real data's.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from itertools import islice
from typing import Literal

import torch
from torch import Tensor

from fcil.data import Augment, normalise
from fcil.data.augment import batches_ahead, parted
from fcil.rng import sent
from fcil.types import Tensors

Rounding = Literal["round", "floor"]
Statistics = Tensor | tuple[float, ...]


def to_bytes(images: Tensor, rounding: Rounding) -> Tensor:
    """Return images in [0, 1] as uint8; `floor` loses half a level on average, as the references' 8-bit files do."""
    levels = images.clamp(0, 1).float() * 255  # bf16 would change one level in twelve
    return (levels.round() if rounding == "round" else levels.floor()).to(torch.uint8)


def string_sorted(batches: int, rows: int, keep: int) -> list[int]:
    """Return positions (batch * rows + row) of the first `keep` of the names "batch-row.png", sorted as text.

    The reference code cuts its pool this way: batch 10 comes before batch 2, and the samples that are
    dropped are the last in alphabetical order, not the oldest.
    """
    names = sorted((f"{b}-{r}.png", b * rows + r) for b in range(batches) for r in range(rows))
    return [position for _, position in names[:keep]]


def view(
    pool: Tensors,
    rows: Tensor,
    augment: Augment,
    rng: torch.Generator,
    mean: Statistics,
    std: Statistics,
    sizes: Sequence[int] = (),
) -> Tensor:
    """Return augmented and normalised samples (len(rows), channels, H, W), as the nets expect them.

    Args:
        sizes: of the batches that `rows` consist of, if they are several.
    """
    chosen: Tensors = {name: pool[name][rows] for name in ("x", "mean", "std") if name in pool}
    return inputs_of(chosen | {"x": augment(chosen["x"], rng, sizes)}, mean, std)


def inputs_of(pool: Tensors, mean: Statistics, std: Statistics) -> Tensor:
    """Return samples (N, channels, ...), normalised by the statistics they carry, or else by these."""
    x = pool["x"]
    if "mean" not in pool:
        return normalise(x, mean, std)
    own_mean, own_std = (pool[k].view(len(x), -1, *[1] * (x.ndim - 2)) for k in ("mean", "std"))
    return ((x / 255 if x.dtype == torch.uint8 else x) - own_mean) / own_std


def views_ahead(
    pool: Tensors,
    count: int,
    augment: Augment,
    rng: torch.Generator,
    mean: Statistics,
    std: Statistics,
    device: torch.device,
    coming: Callable[[], int],
) -> Iterator[Tensor]:
    """Yield views of `count` samples without end, in passes over a pool; small batches are prepared several at once.

    Args:
        rng: for these views alone, as it may be ahead of them.
        coming: returns how many batches are still of use, with the next.
    """
    size = len(pool["x"])
    stream, most = endless_rows(size, count, rng, device), batches_ahead(count, pool["x"].shape[1:])
    left = 0  # batches of this pass; the next order is drawn after the augmentation of the last of them
    while True:
        left = left or max(1, size // max(1, min(count, size)))
        rows = list(islice(stream, max(1, min(most, left, coming()))))
        left -= len(rows)
        sizes = [len(part) for part in rows]
        yield from parted(view(pool, torch.cat(rows), augment, rng, mean, std, sizes), sizes)


def newest(pool: Tensors, each: int, classes: int) -> Tensors:
    """Return the last `each` samples of every class, or of `classes` of them, evenly spread, where there are more."""
    present = torch.unique(pool["y"])
    chosen = present[torch.linspace(0, len(present) - 1, min(classes, len(present))).round().long()]
    rows = torch.cat([(pool["y"] == label).nonzero().flatten()[-each:] for label in chosen])
    return {name: pool[name][rows] for name in ("x", "y")}


def endless_rows(size: int, batch: int, rng: torch.Generator, device: torch.device) -> Iterator[Tensor]:
    """Yield row numbers in batches without end, reshuffled at each pass.

    Differs: the incomplete last batch of a pass is left out, where the references' loaders serve it; the next
    pass is shuffled anew, so no sample is neglected.
    """
    batch = min(batch, size)
    while True:
        order = sent(torch.randperm(size, generator=rng), device)
        yield from (rows for rows in torch.split(order, batch) if len(rows) == batch)
