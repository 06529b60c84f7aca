"""Small files of time series, as the archives write them."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

import numpy as np

Rows = Sequence[tuple[Sequence[Sequence[object]], str]]
"""Channels and label of each series."""


def ts_text(rows: Rows, **header: object) -> str:
    """Return the text of a `.ts` file; `header` replaces what is true of the rows, None leaves a line out."""
    labels = sorted({label for _, label in rows})
    lengths = {len(channels[0]) for channels, _ in rows}
    said: dict[str, object] = {
        "problemName": "Small",
        "timeStamps": "false",
        "univariate": str(len(rows[0][0]) == 1).lower(),
        "dimensions": len(rows[0][0]),
        "equalLength": str(len(lengths) == 1).lower(),
        "classLabel": f"true {' '.join(labels)}",
    } | header
    lines = ["# a comment", *(f"@{key} {value}" for key, value in said.items() if value is not None), "@data"]
    lines += [":".join([*(",".join(map(str, values)) for values in channels), label]) for channels, label in rows]
    return "\n".join(lines) + "\n"


def write_ts(folder: Path, train: Rows, test: Rows, name: str = "Small") -> Path:
    """Write both parts of a set, and return the folder."""
    for part, rows in (("TRAIN", train), ("TEST", test)):
        (folder / f"{name}_{part}.ts").write_text(ts_text(rows), encoding="utf-8")
    return folder


def waves(each: int, classes: Sequence[str], channels: int = 2, steps: int = 12, seed: int = 0) -> Rows:
    """Return noisy sines, a frequency and an offset for each class."""
    rng = np.random.default_rng(seed)
    time = np.arange(steps)
    return [
        (
            [
                (10 * k + np.sin(time * (k + 1) / 2 + channel) + 0.1 * rng.standard_normal(steps)).round(5).tolist()
                for channel in range(channels)
            ],
            label,
        )
        for k, label in enumerate(classes)
        for _ in range(each)
    ]
