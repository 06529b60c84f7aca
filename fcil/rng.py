"""Random streams named by their purpose, never by when they are drawn.

Every stream is derived from a key such as `(seed, "batches", task, round, client)`. Two streams
with different keys are independent, and a stream does not depend on how many workers there are,
in which order clients run, or what was drawn before: this is what makes a run equal on every
backend and every device, and equal after a resume.
"""

from __future__ import annotations

import hashlib
from collections.abc import Iterator
from contextlib import contextmanager
from contextvars import ContextVar
from typing import TYPE_CHECKING

import numpy as np

if TYPE_CHECKING:
    import torch
    from torch import Tensor

Key = int | str
"""One part of a stream's name."""
_DRAWS: ContextVar[torch.Generator | None] = ContextVar("draws", default=None)


def derive(*key: Key) -> int:
    """Return a 63-bit number that depends on every part of the key and on nothing else."""
    text = "\x1f".join(f"{type(part).__name__}:{part}" for part in key)
    digest = hashlib.blake2b(text.encode(), digest_size=8).digest()
    return int.from_bytes(digest, "big") >> 1


def generator(*key: Key, device: torch.device | str = "cpu") -> torch.Generator:
    """Return the torch stream of this name, on the CPU whatever device a run is on: `sent` takes numbers there.

    Args:
        device: for methods of users who draw there, other numbers on each kind of device; nothing here does.
    """
    import torch  # not above: users of NumPy alone need not wait for it

    return torch.Generator(device=device).manual_seed(derive(*key))


@contextmanager
def drawing(*key: Key) -> Iterator[None]:
    """Run a block in which what nets draw in training, as dropout does, comes from the stream of this name."""
    before = _DRAWS.set(generator(*key))
    try:
        yield
    finally:
        _DRAWS.reset(before)


def draws() -> torch.Generator:
    """Return the stream of what nets draw; outside of `drawing` one that begins anew at every call."""
    return _DRAWS.get() or generator("draws")


def sent(numbers: Tensor, place: Tensor | torch.device) -> Tensor:
    """Return numbers that were drawn on the CPU on the device of `place`, and in its type if it is a tensor.

    Drawn there, they would be others: a GPU's streams are not those of a CPU, and are not promised to agree between
    models of GPUs. The copy is made from page-locked memory, so that the host need not wait for the device.
    """
    device = getattr(place, "device", place)
    numbers = numbers.to(getattr(place, "dtype", numbers.dtype))
    if device.type == "cpu" or numbers.device == device:
        return numbers.to(device)
    return numbers.pin_memory().to(device, non_blocking=True)


def numpy_generator(*key: Key) -> np.random.Generator:
    """Return the NumPy stream of this name (Philox, a counter-based generator)."""
    return np.random.Generator(np.random.Philox(derive(*key)))


@contextmanager
def seeded(*key: Key) -> Iterator[None]:
    """Run a block that draws from torch's global stream, and leave that stream as it was.

    Only for module constructors, which accept no generator.
    """
    import torch

    with torch.random.fork_rng(devices=[]):
        torch.default_generator.manual_seed(derive(*key))
        yield
