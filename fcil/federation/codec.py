"""State to records and back: what travels and what is saved is named tensors, numbers and strings."""

from __future__ import annotations

import io
import json
import math
import warnings
from collections.abc import Mapping
from typing import Any, cast

import numpy as np
import torch
from flwr.app import Array, ArrayRecord, ConfigRecord
from numpy.typing import NDArray

from fcil.errors import printable
from fcil.federation.compat import RefArray
from fcil.io.state import NUMBERS, flatten, number_types, on_cpu, unflatten
from fcil.types import State, Tensors, Value

_NPY = RefArray(np.zeros(0)).stype
_HEADERS = {(1, 0): np.lib.format.read_array_header_1_0, (2, 0): np.lib.format.read_array_header_2_0}


def to_arrays(tensors: Tensors) -> ArrayRecord:
    """Tensors as a record, without a copy where they are in main memory.

    Raises:
        TypeError: a tensor is of a type that does not travel; names it.
    """
    record = ArrayRecord()
    for name, tensor in tensors.items():
        record[name] = RefArray(on_cpu(name, tensor))
    return record


def to_ndarray(name: str, array: Array) -> NDArray[Any]:
    """Return the content of one array of a record, which may be untrusted input.

    What its header says is believed as far as there are bytes for it: nothing is set aside for
    numbers that are not there, and nothing is unpickled.

    Raises:
        ValueError: it is no array of numbers, or its sizes contradict each other; names it.
    """
    if not isinstance(array, Array):
        raise ValueError(f'array "{printable(name)}" is a {type(array).__name__}')
    if array.stype != _NPY:
        raise ValueError(f'array "{printable(name)}" is packed as {str(array.stype)[:40]!r}; expected {_NPY!r}')
    stream = io.BytesIO(array.data)
    try:
        shape, fortran, dtype = _HEADERS[np.lib.format.read_magic(stream)](stream)
    except Exception as error:  # whatever a made-up header makes NumPy raise
        raise ValueError(
            f'array "{printable(name)}" has no header of NumPy\'s format ({type(error).__name__})'
        ) from None
    if dtype.isbuiltin != 1 or dtype.name not in NUMBERS:
        raise ValueError(f'array "{printable(name)}" is of the type {str(dtype)[:40]}; allowed: {number_types()}')
    size, there = math.prod(shape) * dtype.itemsize, len(array.data) - stream.tell()
    if min(shape, default=0) < 0 or size != there:
        raise ValueError(
            f'array "{printable(name)}" says it has the shape {_short(shape)} of {dtype}, but {there} bytes'
        )
    if tuple(array.shape) != shape:
        raise ValueError(
            f'array "{printable(name)}" says it has the shape {_short(shape)} and the shape {_short(array.shape)}'
        )
    order: Any = "F" if fortran else "C"
    try:
        return np.ndarray(shape, dtype, buffer=array.data, offset=stream.tell(), order=order)
    except ValueError as error:
        raise ValueError(f'array "{printable(name)}" cannot have the shape {_short(shape)} ({error})') from None


def _short(shape: tuple[int, ...]) -> str:
    text = str(tuple(shape)[:9])
    return text if len(text) < 100 else f"{text[:100]}..."


def to_tensors(record: ArrayRecord, device: torch.device | str = "cpu", *, copy: bool = False) -> Tensors:
    """The tensors of a record. Without `copy` they may be shared with other processes: read only.

    Raises:
        ValueError: an array received is no array of numbers; names it.
    """
    with warnings.catch_warnings():
        warnings.filterwarnings("ignore", message="The given NumPy array is not writable")
        tensors = {name: _to_tensor(name, array) for name, array in record.items()}
        return {name: t.to(device, copy=copy) for name, t in tensors.items()}


def _to_tensor(name: str, array: Array) -> torch.Tensor:
    return array.tensor() if isinstance(array, RefArray) else torch.from_numpy(to_ndarray(name, array))


def to_records(state: Mapping[str, Value]) -> tuple[ArrayRecord, ConfigRecord]:
    tensors, scalars = flatten(state)
    return to_arrays(tensors), ConfigRecord({"values": json.dumps(scalars)})


def from_records(arrays: ArrayRecord, values: ConfigRecord, device: torch.device | str = "cpu") -> State:
    """The state that `to_records` made.

    Raises:
        ValueError: the records hold no state; says where.
    """
    try:
        scalars = json.loads(cast(str, values["values"]))
    except (KeyError, TypeError, ValueError, RecursionError) as error:
        raise ValueError(f"the numbers and strings of the state cannot be read ({type(error).__name__})") from None
    if not isinstance(scalars, dict):
        raise ValueError(f"the numbers and strings of the state are a {type(scalars).__name__}; expected a mapping")
    for name, value in scalars.items():
        if not isinstance(value, float | int | str):
            raise ValueError(
                f'state "{printable(name)}" is a {type(value).__name__}; state is tensors, numbers and strings'
            )
    return unflatten(to_tensors(arrays, device, copy=True), scalars)
