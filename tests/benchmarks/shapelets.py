"""Time the discovery of shapelets beside a plain loop, and say what memory it takes.

    python tests/benchmarks/shapelets.py [FOLDER]

JapaneseVowels (270 series of 7 to 26 steps, 12 channels; window 10, one shapelet a class) from FOLDER, a data folder
or an installed package that ships it; without them random walks of its shape. Beside it two loops are given 30 pieces,
spread evenly, and their time is told for all of them: the plain loop of the tests, over pieces, series, windows and
steps; and a loop over pieces and series with NumPy over windows and steps, which is how the public code has it. All on
one thread, in processor seconds, the median of 3. Memory is what the search adds to the peak of the process.
"""

from __future__ import annotations

import platform
import resource
import statistics
import sys
import time
from collections.abc import Callable
from pathlib import Path

import numpy as np
import torch
from numpy.lib.stride_tricks import sliding_window_view
from torch import Tensor

sys.path.insert(0, str(Path(__file__).parents[2]))
from fcil.data import DataSettings, load_dataset
from fcil.errors import DataError
from fcil.nets.series.padding import lengths, split_padding
from fcil.shapelets import Discovery, discover
from fcil.shapelets.points import Floats, candidates
from tests.shapelets.test_discovery import plain_distance, plain_gain

SETTINGS = Discovery(window=10, per_class=1)
PIECES = 30


def series() -> tuple[str, Tensor, Tensor]:
    """Name, series and classes."""
    folder = sys.argv[1] if len(sys.argv) > 1 else None
    try:
        train = load_dataset(DataSettings(dataset="uea:JapaneseVowels", root=folder, longer="pad", tasks=3)).train
        return "JapaneseVowels", train.take(torch.arange(len(train))).float(), train.y
    except DataError:
        generator = torch.Generator().manual_seed(0)
        x = torch.randn(270, 12, 26, generator=generator).cumsum(2)
        for row in range(270):
            x[row, :, 7 + row % 20 :] = torch.nan
        return "random walks", x, torch.arange(270) % 9


def seconds(work: Callable[[], object], turns: int = 3) -> float:
    """Median processor seconds."""
    taken = []
    for _ in range(turns):
        began = time.process_time()
        work()
        taken.append(time.process_time() - began)
    return statistics.median(taken)


def with_numpy(piece: Floats, start: int, other: Floats, window: int) -> float:
    """Distance of a piece from the nearest window of one series."""
    first, last = max(0, start - window), min(start + window, len(other) - len(piece))
    if last < first:
        return np.inf
    windows = sliding_window_view(other[first : last + len(piece)], len(piece))
    mine = np.sqrt(np.sum(np.diff(piece) ** 2) + 1e-3)
    theirs = np.sqrt(np.sum(np.diff(windows) ** 2, axis=1) + 1e-3)
    apart = np.sqrt(np.sum((windows - piece) ** 2, axis=1))
    return float(np.min(apart * np.maximum(mine, theirs) / np.minimum(mine, theirs)))


def loop(x: Tensor, y: Tensor, *, numpy: bool) -> tuple[float, int]:
    """Seconds of a loop for all pieces, from those of a few, and the number of all."""
    values, steps = split_padding(x.double())[0].numpy(), lengths(x).numpy()
    pieces = candidates(values.reshape(-1, values.shape[2]), np.repeat(steps, values.shape[1]), SETTINGS.points)
    few = np.linspace(0, len(pieces.row) - 1, PIECES).astype(int)
    rows = [[channel[:own] for channel in one] for one, own in zip(values, steps, strict=True)]
    compared = rows if numpy else [[channel.tolist() for channel in one] for one in rows]
    distance: Callable[..., float] = with_numpy if numpy else plain_distance

    def work() -> None:
        for piece in few.tolist():
            number, channel = divmod(int(pieces.row[piece]), values.shape[1])
            start, end = int(pieces.start[piece]), int(pieces.end[piece])
            cut = compared[number][channel][start:end]
            near = [distance(cut, start, other[channel], SETTINGS.window) for other in compared]
            plain_gain(near, (y == y[number]).tolist(), "quantiles")  # of every distance it would take hours

    return seconds(work) * len(pieces.row) / PIECES, len(pieces.row)


def peak() -> float:
    """Largest resident size of this process so far, in MB."""
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1e3


def main() -> None:
    torch.set_num_threads(1)
    name, x, y = series()
    before = peak()
    fast = seconds(lambda: discover(x, y, SETTINGS))
    memory = peak() - before
    slow, count = loop(x, y, numpy=False)
    public, _ = loop(x, y, numpy=True)
    print(f"command: python {' '.join(sys.argv)}")
    print(f"machine: {platform.processor() or platform.machine()}, one thread, numpy {np.__version__}")
    print(f"data: {name}, {tuple(x.shape)}, {count:,} pieces")
    print(f"discovery: {fast:.1f} processor seconds, {memory:.0f} MB beside the series")
    print(f"plain loop: {slow:,.0f} processor seconds, from {PIECES} pieces; {slow / fast:,.0f} times as long")
    print(f"NumPy over windows: {public:,.0f} processor seconds; {public / fast:,.0f} times as long")


if __name__ == "__main__":
    main()
