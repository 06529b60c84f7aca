"""The net that a run ended with, from its last checkpoint."""

from __future__ import annotations

from pathlib import Path

from fcil.errors import StoreError
from fcil.federation.checkpoint import last_parts
from fcil.federation.parts import DamagedError, Parts
from fcil.store.folder import RunFolder
from fcil.types import Tensors


def final_weights(path: Path | str) -> Tensors:
    """Weights and buffers by name.

    Raises:
        StoreError: the run has no checkpoint, or a damaged one.
    """
    folder = RunFolder(path).checkpoints
    try:
        found = Parts(folder / "parts").get(last_parts(folder)["net"])["net"]
    except (KeyError, DamagedError) as error:
        raise StoreError(f"{folder}: no net can be read there ({type(error).__name__}: {error})") from None
    return found  # type: ignore[return-value]
