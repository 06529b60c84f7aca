"""MNIST-1D, made by the generator of the package `mnist1d`, kept in the cache folder.

Its own frozen file is not used: it is a pickle on the web. The generator draws from a fixed seed (42), so every machine
makes the same set up to rounding. The file in the cache folder is named after all that decides its content: the
version of the package, the settings it is given, and the version of what is done to its arrays here.

Source: Greydanus and Kobak, "Scaling down deep learning with MNIST-1D", ICML 2024, arXiv:2011.14439.
"""

from __future__ import annotations

import json
import os
import random
import tempfile
from contextlib import suppress
from hashlib import sha256
from importlib import import_module
from importlib.metadata import PackageNotFoundError, version
from importlib.util import find_spec
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import numpy as np

from fcil.data.files.folders import cache_folder
from fcil.data.series.part import Part
from fcil.data.series.tables import ARRAYS, read_npz
from fcil.errors import DataError

NAME = "mnist1d"
SETTINGS: dict[str, Any] = {
    "num_samples": 5000,
    "train_split": 0.8,
    "template_len": 12,
    "padding": [36, 60],
    "scale_coeff": 0.4,
    "max_translation": 48,
    "corr_noise_scale": 0.25,
    "iid_noise_scale": 2e-2,
    "shear_scale": 0.75,
    "shuffle_seq": False,
    "final_seq_length": 40,
    "seed": 42,
}
"""Settings of the generator: the defaults of version 0.0.2, which are those of the paper."""
STORED = 1
"""Version of the stored arrays: to be raised with every change of `_made`."""
MISSING = "its package is not installed; pip install mnist1d, or pip install 'fcil[timeseries]'"


def check() -> None:
    """Check that the package is installed.

    Raises:
        DataError: it is not.
    """
    if find_spec(NAME) is None:
        raise DataError(MISSING)


def mnist1d() -> tuple[Part, Part]:
    """Return training and test part: 4,000 and 1,000 series of 40 steps, ten classes.

    Raises:
        DataError: the package is missing.
    """
    place = cache_folder() / "series" / f"{NAME}-{_key()}.npz"
    if place.is_file():
        with suppress(DataError):  # made anew
            return read_npz(place)
    arrays = _made()
    with suppress(OSError):  # without a cache it is made again next time
        _keep(place, arrays)
    return _part(arrays, "train"), _part(arrays, "test")


def _key() -> str:
    """Return the version of the package, and ten hex digits of what else decides the content.

    Raises:
        DataError: the package is missing.
    """
    try:
        known = version(NAME)
    except PackageNotFoundError:
        raise DataError(MISSING) from None
    rest = json.dumps([STORED, SETTINGS], sort_keys=True)
    return f"{known}-{sha256(rest.encode()).hexdigest()[:10]}"


def _made() -> dict[str, Any]:
    """Return the arrays; the global random numbers that the package seeds are put back."""
    python, numpy = random.getstate(), np.random.get_state()
    try:
        made = import_module(f"{NAME}.data").make_dataset(SimpleNamespace(**SETTINGS))
    finally:
        random.setstate(python)
        np.random.set_state(numpy)
    values = (made["x"].astype(np.float32), made["y"], made["x_test"].astype(np.float32), made["y_test"])
    return dict(zip(ARRAYS, values, strict=True))


def _keep(place: Path, arrays: dict[str, Any]) -> None:
    place.parent.mkdir(parents=True, exist_ok=True)
    handle, name = tempfile.mkstemp(prefix=f"{place.name}.tmp", dir=place.parent)
    try:
        with os.fdopen(handle, "wb") as file:
            np.savez(file, allow_pickle=False, **arrays)
        os.replace(name, place)
    finally:
        Path(name).unlink(missing_ok=True)


def _part(arrays: dict[str, Any], split: str) -> Part:
    x, y = arrays[f"x_{split}"], arrays[f"y_{split}"]
    rows = tuple(f"x_{split}[{row}]" for row in range(len(x)))
    return Part(file=NAME, series=tuple(x[:, None]), labels=tuple(map(str, y.tolist())), rows=rows)
