"""The net that a run ended with, from its last checkpoint, and what its samples were made from."""

from __future__ import annotations

from pathlib import Path

from safetensors.torch import load_file

from fcil.errors import StoreError
from fcil.federation.persistence.manifest import last_manifest
from fcil.io.blobs import Blobs, DamagedError
from fcil.io.state import digest
from fcil.store import files
from fcil.store.folder import RunFolder
from fcil.types import Tensors


def final_weights(path: Path | str) -> Tensors:
    """Weights and buffers by name.

    Raises:
        StoreError: the run has no checkpoint or a damaged one, or it is finished and its last one is not of its end.
    """
    run = RunFolder(path)
    folder = run.checkpoints
    try:
        about = last_manifest(folder)
        found = Blobs(folder / "parts").get(about["parts"]["net"])["net"]
        task, round = about["position"]["task"], about["position"]["round"]
    except (KeyError, TypeError, DamagedError) as error:
        raise StoreError(f"{folder}: no net can be read there ({type(error).__name__}: {error})") from None
    tasks = files.read_json(run.summary).get("tasks") if run.finished else None
    if type(tasks) is int and type(task) is int and task <= tasks:
        raise StoreError(
            f"{folder}: the last checkpoint there is that of round {round} of task {task}, not that of the end of the "
            "run, whose net is lost"
        )
    return found  # type: ignore[return-value]


def samples_digest(path: Path | str, teacher: Tensors) -> str | None:
    """A name for the samples of a student's run and the net they were made from; None where there are no samples.

    What was measured of other ones has to be measured again.
    """
    pool = RunFolder(path).synthetic / "task1.safetensors"
    if not pool.is_file():
        return None
    samples = {f"samples/{name}": tensor for name, tensor in load_file(pool).items()}
    return digest({f"teacher/{name}": tensor for name, tensor in teacher.items()} | samples, {})
