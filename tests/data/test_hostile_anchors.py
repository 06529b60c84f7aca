"""Class names and anchor files that are made to hurt: each is refused in one line, in little memory."""

from __future__ import annotations

import struct
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from hostile import NO_FILES, npy, put, refused, table, within

from fcil.anchors import AnchorSettings, load_anchors, read_names
from fcil.anchors.tables import FORMAT
from fcil.errors import DataError


@pytest.mark.parametrize("kind", NO_FILES)
def test_a_list_of_names_that_is_no_file_is_refused(tmp_path: Path, kind: str) -> None:
    with refused(DataError, f"{tmp_path / 'names'}: cannot be read ("):
        read_names(put(tmp_path / "names", kind))


def test_a_list_of_names_is_measured_before_it_is_read(tmp_path: Path) -> None:
    with (tmp_path / "names").open("wb") as file:
        file.truncate(2**40)
    with refused(DataError, "more than the 80,000,000 allowed"), within(1):
        read_names(tmp_path / "names")


def anchors(
    dtype: str = "F32", shape: Any = (2, 3), offsets: Any = (0, 24), names: str = '["a", "b"]', data: bytes = b"\0" * 24
) -> bytes:
    about = {"dtype": dtype, "shape": list(shape), "data_offsets": list(offsets)}
    return table({"__metadata__": {"format": FORMAT, "names": names}, "anchors": about}, data)


@pytest.mark.parametrize(
    ("data", "said"),
    [
        (table({}, length=2**60), "cannot be read"),
        (table({}, length=2**63), "cannot be read"),
        (table({}, length=99_999_999), "cannot be read"),
        (anchors(shape=(10**12, 3)), "cannot be read"),
        (anchors(shape=(2**62, 2**62)), "cannot be read"),
        (anchors(shape=(2, 4)), "cannot be read"),
        (anchors(offsets=(0, 2**60)), "cannot be read"),
        (anchors(offsets=(24, 0)), "cannot be read"),
        (anchors(offsets=(-1, 23)), "cannot be read"),
        (anchors(dtype="OBJECT"), "cannot be read"),
        (anchors("F8_E4M3", (2, 3), (0, 6), data=b"\0" * 6), "2 names, but vectors of shape (2, 3) and type float8"),
        (anchors("I32"), "and type int32"),
        (anchors("BOOL", (2, 3), (0, 6), data=b"\0" * 6), "and type bool"),
        (anchors(shape=(2, 0), offsets=(0, 0), data=b""), "vectors of shape (2, 0)"),
        (anchors(shape=(2, 3, 1)), "vectors of shape (2, 3, 1)"),
        (anchors(shape=(6,)), "vectors of shape (6,)"),
        (anchors(names='["a"]'), "1 names, but vectors of shape (2, 3)"),
        (anchors(names="[" * 100_000), "cannot be read"),
        (anchors(names="{}"), "not a list of text"),
        (anchors(names="[1, 2]"), "not a list of text"),
        (anchors(data=b"\0\0\xc0\x7f" * 6), "not finite"),
        (anchors("F64", offsets=(0, 48), data=struct.pack("<6d", *[1e300] * 6)), "not finite"),
        (b"", "cannot be read"),
        (b"\0" * 7, "cannot be read"),
        (anchors()[:-1], "cannot be read"),
        (npy(np.zeros((2, 3))), "cannot be read"),
        (npy(np.array([{}, []], dtype=object), pickled=True), "cannot be read"),
    ],
    ids=range(27),
)
def test_an_anchor_file_that_lies_is_refused(tmp_path: Path, data: bytes, said: str) -> None:
    path = tmp_path / "anchors.safetensors"
    path.write_bytes(data)
    with refused(DataError, str(path), said), within(8):
        load_anchors(AnchorSettings(file=str(path), scale="raw"), ["a", "b"])


def test_an_anchor_file_may_not_fill_the_memory(tmp_path: Path) -> None:
    path = tmp_path / "anchors.safetensors"
    size = 2**34
    path.write_bytes(anchors(shape=(2, size // 8), offsets=(0, size), data=b""))
    with path.open("r+b") as file:
        file.truncate(path.stat().st_size + size)
    with refused(DataError, str(path), "more than the 1,073,741,824 allowed"):
        load_anchors(AnchorSettings(file=str(path)), ["a", "b"])


@pytest.mark.parametrize("kind", NO_FILES)
def test_an_anchor_file_that_is_no_file_is_refused(tmp_path: Path, kind: str) -> None:
    path = put(tmp_path / "anchors", kind)
    with refused(DataError, f'no anchor file "{path}"'):
        load_anchors(AnchorSettings(file=str(path)), ["a"])


@pytest.mark.parametrize("path", ["x" * 5000, "~nobody/x"])
def test_an_anchor_file_with_an_impossible_name_is_refused(path: str) -> None:
    with refused(DataError, "no anchor file"):
        load_anchors(AnchorSettings(file=path), ["a"])
