"""Pools of synthetic samples in a run folder: how many samples there are, and how many of them are no copies."""

from __future__ import annotations

from typing import Any

import numpy as np
import numpy.typing as npt
from safetensors.numpy import load_file

from fcil.store.folder import RunFolder


def distinct_samples(x: npt.NDArray[Any]) -> int:
    """Number of samples (N, ...) that differ from each other in at least one entry."""
    return len({row.tobytes() for row in np.ascontiguousarray(x)})


def pool_sizes(folder: RunFolder) -> list[dict[str, int]]:
    """For each task that left a pool: `task`, `samples`, and `distinct`, those that are no copies of others."""
    sizes = []
    for path in folder.synthetic.glob("task*.safetensors"):
        task = path.stem.removeprefix("task")
        if task.isdigit():  # and not samples of a round, which are there to be looked at
            x = load_file(path)["x"]
            sizes.append({"task": int(task), "samples": len(x), "distinct": distinct_samples(x)})
    return sorted(sizes, key=lambda size: size["task"])
