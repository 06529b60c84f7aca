"""What hostile input is made of, and how it is refused: one line that names it, quickly and in little memory."""

from __future__ import annotations

import io
import json
import os
import struct
import time
import tracemalloc
import zipfile
from collections.abc import Iterator
from contextlib import contextmanager
from itertools import pairwise
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from fcil.errors import LONGEST, UserError


@contextmanager
def refused(kind: type[UserError], *parts: str, seconds: float = 30.0) -> Iterator[None]:
    """The block ends in an error of this kind: one printable line of bounded length that holds `parts`."""
    began = time.monotonic()
    with pytest.raises(kind) as caught:
        yield
    assert time.monotonic() - began < seconds
    said = str(caught.value)
    assert said.isprintable()
    assert len(said) < 2 * LONGEST
    for part in parts:
        assert part in said


@contextmanager
def within(mebibytes: float) -> Iterator[None]:
    """The block sets no more memory aside."""
    tracemalloc.start()
    try:
        yield
        assert tracemalloc.get_traced_memory()[1] < mebibytes * 2**20
    finally:
        tracemalloc.stop()


def put(path: Path, kind: str) -> Path:
    """Something at `path` that is no file."""
    path.unlink(missing_ok=True)
    if kind == "folder":
        path.mkdir()
    elif kind == "pipe":
        os.mkfifo(path)
    else:
        path.symlink_to({"loop": path, "device": Path("/dev/zero"), "nowhere": path.parent / "nothing"}[kind])
    return path


NO_FILES = ["folder", "pipe", "loop", "device", "nowhere"]


def laughs(bottom: str, row: str) -> str:
    """Ten lines that stand for a billion values."""
    names = "abcdefghij"
    lines = [f"a: &a {bottom}"]
    lines += [f"{name}: &{name} {row.format(','.join([f'*{before}'] * 9))}" for before, name in pairwise(names)]
    return "\n".join(lines)


def table(header: dict[str, Any], data: bytes = b"\0" * 24, length: int | None = None) -> bytes:
    """A safetensors file by hand."""
    text = json.dumps(header).encode()
    return struct.pack("<Q", len(text) if length is None else length) + text + data


def npy(array: Any, pickled: bool = False) -> bytes:
    stream = io.BytesIO()
    np.save(stream, array, allow_pickle=pickled)
    return stream.getvalue()


def zipped(path: Path, files: dict[str, bytes], kind: int = zipfile.ZIP_DEFLATED) -> Path:
    with zipfile.ZipFile(path, "w", kind) as archive:
        for name, data in files.items():
            archive.writestr(zipfile.ZipInfo(name), data, compress_type=kind)
    return path
