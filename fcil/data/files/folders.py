"""Default folders of data and caches."""

from __future__ import annotations

import os
from pathlib import Path


def cache_folder() -> Path:
    """Return the folder of reproducible files: `$FCIL_CACHE`, or `~/.cache/fcil`."""
    return Path(os.path.expanduser(os.environ.get("FCIL_CACHE") or "~/.cache/fcil"))


def data_folder() -> Path:
    """Return the folder of downloaded and hand-placed data sets: `$FCIL_DATA`, or `~/.cache/fcil/data`."""
    return Path(os.path.expanduser(os.environ.get("FCIL_DATA") or "~/.cache/fcil/data"))
