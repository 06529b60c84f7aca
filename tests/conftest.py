"""One torch thread: nets of tests lose time to threads, most of all where cores are shared. And fixtures of many."""

from __future__ import annotations

from collections.abc import Iterator

import pytest
import torch

torch.set_num_threads(1)


@pytest.fixture
def _double() -> Iterator[None]:
    """Double precision wherever none is named."""
    torch.set_default_dtype(torch.float64)
    yield
    torch.set_default_dtype(torch.float32)
