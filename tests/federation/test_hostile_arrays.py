"""Arrays that arrive and are made to hurt: none is executed, and none takes more memory than it has bytes."""

from __future__ import annotations

import re
import struct
from typing import Any

import numpy as np
import pytest
import torch
from flwr.app import Array, ArrayRecord, ConfigRecord
from hostile import npy, within

from fcil.federation.codec import from_records, to_arrays, to_records, to_tensors
from fcil.io.state import flatten, unflatten

FLAG: list[str] = []


class Bomb:
    def __reduce__(self) -> tuple[Any, ...]:
        return (FLAG.append, ("executed",))


def header(shape: str = "(2, 3)", descr: str = "'<f4'", fortran: str = "False", version: bytes = b"\1\0") -> bytes:
    text = f"{{'descr': {descr}, 'fortran_order': {fortran}, 'shape': {shape}, }}".ljust(117) + "\n"
    return b"\x93NUMPY" + version + struct.pack("<H", len(text)) + text.encode()


@pytest.mark.parametrize(
    ("data", "said"),
    [
        (header("(1000000000000,)"), 'array "w" says it has the shape (1000000000000,) of float32, but 0 bytes'),
        (header("(10**12,)") + b"\0" * 24, 'array "w" has no header'),
        (header("(99999999999999999999, 0)"), 'array "w"'),
        (header("(-2, -3)") + b"\0" * 24, "says it has the shape (-2, -3)"),
        (header() + b"\0" * 23, "says it has the shape (2, 3) of float32, but 23 bytes"),
        (header() + b"\0" * 25, "but 25 bytes"),
        (header("(6,)") + b"\0" * 24, "says it has the shape (6,) and the shape (2, 3)"),
        (header(descr="'|O'") + b"\0" * 48, "is of the type object"),
        (header(descr="'>f4'") + b"\0" * 24, "is of the type >f4"),
        (header(descr="'<U1000000000'"), "has no header"),
        (header(descr="'|V4'") + b"\0" * 24, "is of the type |V4"),
        (header(descr="'<c8'") + b"\0" * 48, "is of the type complex64"),
        (header(descr="[('a', '<f4')]") + b"\0" * 24, "is of the type [('a', '<f4')]"),
        (header(descr="('<f4', (2,))") + b"\0" * 48, 'array "w"'),
        (header(descr="(" * 30), "has no header"),
        (header(fortran="__import__('os')"), "has no header"),
        (header(version=b"\3\0"), "has no header"),
        (b"\x93NUMPY\1\0\xff\xff", "has no header"),
        (b"", "has no header"),
        (b"PK\3\4" + b"\0" * 30, "has no header"),
        (npy(np.array([Bomb()], dtype=object), pickled=True), "is of the type object"),
    ],
    ids=range(21),
)
def test_an_array_that_lies_is_refused_before_memory_is_set_aside(data: bytes, said: str) -> None:
    with within(1), pytest.raises(ValueError, match=re.escape(said)) as caught:
        to_tensors(ArrayRecord({"w": Array("float32", (2, 3), "numpy.ndarray", data)}))
    assert "\n" not in str(caught.value)
    assert not FLAG


def test_a_record_of_another_kind_is_refused() -> None:
    with pytest.raises(ValueError, match='array "w" is a str'):
        to_tensors(ConfigRecord({"w": "x"}))  # type: ignore[arg-type]


def test_a_pickle_in_place_of_an_array_is_not_opened() -> None:
    import pickle

    for stype in ("pickle", "numpy.ndarray"):
        with pytest.raises(ValueError, match='array "w"'):
            to_tensors(ArrayRecord({"w": Array("float32", (1,), stype, pickle.dumps(Bomb()))}))
    assert not FLAG


def test_arrays_arrive_as_they_were_sent_and_our_own_are_not_copied() -> None:
    tensors = {
        "weight": torch.arange(6.0).view(2, 3).T,
        "count": torch.tensor(3),
        "none": torch.zeros(0, 3),
        "mask": torch.tensor([True, False]),
        "half": torch.ones(2, dtype=torch.float16),
    }
    record = to_arrays(tensors)
    assert to_tensors(record)["weight"].data_ptr() == tensors["weight"].data_ptr()
    arrived = to_tensors(ArrayRecord({n: Array(a.dtype, tuple(a.shape), a.stype, a.data) for n, a in record.items()}))
    assert arrived.keys() == tensors.keys()
    assert all(torch.equal(arrived[name], t) and arrived[name].dtype == t.dtype for name, t in tensors.items())


@pytest.mark.parametrize(
    "value",
    [torch.zeros(2, dtype=torch.bfloat16), torch.zeros(1, dtype=torch.complex64), torch.eye(2).to_sparse(), 10**5000],
    ids=["bfloat16", "complex", "sparse", "number"],
)
def test_a_value_that_cannot_travel_is_named(value: Any) -> None:
    with pytest.raises(TypeError, match='state "a/b" is a'):
        to_records({"a": {"b": value}})


@pytest.mark.parametrize(
    ("text", "said"),
    [
        ("[" * 100_000, "cannot be read (RecursionError)"),
        ("1" * 5000, "cannot be read (ValueError)"),
        ("[]", "are a list; expected a mapping"),
        ('{"b": null}', 'state "b" is a NoneType'),
        ('{"b": [1]}', 'state "b" is a list'),
        ('{"a": 1}', 'state "a" is given twice'),
        ('{"a/c": 1}', 'state "a/c" lies within "a", which is a value'),
    ],
    ids=range(7),
)
def test_values_that_are_no_state_are_refused(text: str, said: str) -> None:
    arrays, _ = to_records({"a": torch.zeros(2)})
    with pytest.raises(ValueError, match=re.escape(said)):
        from_records(arrays, ConfigRecord({"values": text}))
    with pytest.raises(ValueError, match="cannot be read"):
        from_records(arrays, ConfigRecord({}))


def test_a_name_with_line_breaks_stays_on_its_line() -> None:
    with pytest.raises(TypeError) as caught:
        flatten({"a\n\x1b": None})  # type: ignore[dict-item]
    assert str(caught.value).isprintable()
    assert unflatten(*flatten({"a\n": {"b\x1b": 1}})) == {"a\n": {"b\x1b": 1}}
