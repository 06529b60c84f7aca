"""Pools of synthetic samples in a run folder: samples, how many of them are no copies, and of how many classes."""

from __future__ import annotations

from hashlib import blake2b
from typing import Any

import numpy as np
import numpy.typing as npt
from safetensors.numpy import load_file

from fcil.store.folder import RunFolder

MOST_BYTES = 2**30
"""Bytes of a pool above which its samples are not compared: a figure shows eighty of them, and need not wait."""


def distinct_samples(x: npt.NDArray[Any]) -> int | None:
    """Number of samples (N, ...) that differ from each other in at least one entry; None where they are too large."""
    if x.nbytes > MOST_BYTES:
        return None
    return len({blake2b(row.tobytes(), digest_size=16).digest() for row in x})


def pool_sizes(folder: RunFolder) -> list[dict[str, int | None]]:
    """Sizes of each task's pool: `task`, `samples`, those that are no copies (`distinct`), and their `classes`."""
    sizes: list[dict[str, int | None]] = []
    for path in folder.synthetic.glob("task*.safetensors"):
        task = path.stem.removeprefix("task")
        if task.isdigit():  # and not samples of a round, which are there to be looked at
            pool = load_file(path)
            x, classes = pool["x"], len(np.unique(pool["y"]))
            sizes.append({"task": int(task), "samples": len(x), "distinct": distinct_samples(x), "classes": classes})
    return sorted(sizes, key=lambda size: size["task"] or 0)
