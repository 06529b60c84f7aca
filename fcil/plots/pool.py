"""Synthetic samples as figures show them."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
from safetensors import SafetensorError, safe_open

from fcil.errors import StoreError
from fcil.io.bounded import UnreadableError, open_file

MOST_PIXELS = 4096
"""Pixels along a side of a sample, at most."""


def read_pool(path: Path) -> tuple[npt.NDArray[Any], npt.NDArray[np.int64]]:
    """Samples and labels, mapped from the file: of thousands a figure shows eighty.

    Raises:
        StoreError: the file holds no such thing.
    """
    import torch  # seconds that a figure without samples need not wait; NumPy would read the whole file

    try:
        open_file(path, 2**62).close()
        with safe_open(path, framework="pt") as file:
            x, y = file.get_tensor("x"), file.get_tensor("y")
    except (UnreadableError, SafetensorError, OSError, ValueError) as error:
        raise StoreError(f"{path}: not a pool of synthetic samples ({type(error).__name__}: {error})") from None
    sides = tuple(x.shape[1:])
    pixels = (torch.uint8, torch.float16, torch.float32, torch.float64)
    fits = x.ndim in (3, 4) and y.shape == x.shape[:1] and y.dtype == torch.int64 and x.dtype in pixels
    if not fits or not all(1 <= side <= MOST_PIXELS for side in sides) or (len(y) and int(y.min()) < 0):
        raise StoreError(f"{path}: not a pool of synthetic samples (x is {list(x.shape)}, y {list(y.shape)})")
    return x.numpy(), y.numpy()
