"""Where data and caches lie when nobody says otherwise."""

from __future__ import annotations

import os
from pathlib import Path


def cache_folder() -> Path:
    """What can be made again: `$FCIL_CACHE`, or `~/.cache/fcil`."""
    return Path(os.path.expanduser(os.environ.get("FCIL_CACHE") or "~/.cache/fcil"))


def data_folder() -> Path:
    """Downloaded and hand-placed data sets: `$FCIL_DATA`, or `~/.cache/fcil/data`."""
    return Path(os.path.expanduser(os.environ.get("FCIL_DATA") or "~/.cache/fcil/data"))
