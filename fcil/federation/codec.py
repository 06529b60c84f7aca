"""State to records and back: what travels and what is saved is named tensors, numbers and strings."""

from __future__ import annotations

import hashlib
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
from torch import Tensor

from fcil.errors import printable
from fcil.federation.compat import RefArray
from fcil.types import State, Tensors, Value

Scalars = dict[str, float | int | str]
NUMBERS = frozenset(["bool", "uint8", "int8", "int16", "int32", "int64", "float16", "float32", "float64"])
"""Types of the arrays that travel."""
_LONGEST = 2**12
"""Bits of a whole number; JSON's text of a longer one is not read back."""
_NPY = RefArray(np.zeros(0)).stype
_HEADERS = {(1, 0): np.lib.format.read_array_header_1_0, (2, 0): np.lib.format.read_array_header_2_0}


def flatten(state: Mapping[str, Value], prefix: str = "") -> tuple[Tensors, Scalars]:
    """A tree of values as two flat dicts with `a/b/c` names.

    Raises:
        TypeError: a value is no tensor, number, string or mapping of such, or a name is none; names it.
    """
    tensors: Tensors = {}
    scalars: Scalars = {}
    for key, value in state.items():
        name = f"{prefix}{key}"
        if not isinstance(key, str) or not key or "/" in key:
            raise TypeError(f"state {name!r}: {key!r} cannot be a name; names are text without a slash")
        if isinstance(value, Tensor):
            tensors[name] = value
        elif isinstance(value, int) and value.bit_length() > _LONGEST:
            raise TypeError(
                f'state "{printable(name)}" is a number of {value.bit_length()} bits; at most {_LONGEST} travel'
            )
        elif isinstance(value, float | int | str):
            scalars[name] = value
        elif isinstance(value, Mapping):
            if not value:
                scalars[f"{name}/"] = ""
            below = flatten(value, f"{name}/")
            tensors |= below[0]
            scalars |= below[1]
        else:
            raise TypeError(
                f'state "{printable(name)}" is a {type(value).__name__}; state is tensors, numbers and strings'
            )
    return tensors, scalars


def unflatten(tensors: Tensors, scalars: Scalars) -> State:
    """The tree that `flatten` took apart.

    Raises:
        ValueError: a name is given twice, or lies within what is no mapping.
    """
    root: dict[str, Any] = {}
    for name, value in [*tensors.items(), *scalars.items()]:
        *parents, leaf = name.split("/")
        place = root
        for parent in parents:
            place = place.setdefault(parent, {})
            if not isinstance(place, dict):
                raise ValueError(f'state "{printable(name)}" lies within "{printable(parent)}", which is a value')
        if leaf in place:
            raise ValueError(f'state "{printable(name)}" is given twice')
        if leaf:
            place[leaf] = value
    return cast(State, root)


def to_arrays(tensors: Tensors) -> ArrayRecord:
    """Tensors as a record, without a copy where they are in main memory.

    Raises:
        TypeError: a tensor is of a type that does not travel; names it.
    """
    record = ArrayRecord()
    for name, tensor in tensors.items():
        record[name] = RefArray(_on_cpu(name, tensor))
    return record


def _on_cpu(name: str, tensor: Tensor) -> NDArray[Any]:
    kind = str(tensor.dtype).removeprefix("torch.")
    if kind not in NUMBERS or tensor.layout != torch.strided or tensor.is_neg():
        raise TypeError(
            f'state "{printable(name)}" is a {tensor.layout} tensor of {kind}; dense ones of {_types()} travel'
        )
    return tensor.detach().cpu().numpy()


def _types() -> str:
    return ", ".join(sorted(NUMBERS))


def to_ndarray(name: str, array: Array) -> NDArray[Any]:
    """The content of one array of a record, which a stranger may have sent.

    What its header says is believed as far as there are bytes for it: nothing is set aside for
    numbers that are not there, and nothing is unpickled.

    Raises:
        ValueError: it is no array of numbers, or its sizes contradict each other; names it.
    """
    if isinstance(array, RefArray):  # of this process, or of a worker of ours
        return array.numpy()
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
        raise ValueError(f'array "{printable(name)}" is of the type {str(dtype)[:40]}; allowed: {_types()}')
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
        ValueError: what a stranger sent is no array of numbers; names it.
    """
    with warnings.catch_warnings():
        warnings.filterwarnings("ignore", message="The given NumPy array is not writable")
        tensors = {name: torch.from_numpy(to_ndarray(name, array)) for name, array in record.items()}
        return {name: t.to(device, copy=copy) for name, t in tensors.items()}


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


def num_bytes(tensors: Tensors) -> int:
    return sum(t.numel() * t.element_size() for t in tensors.values())


def digest(tensors: Tensors, scalars: Scalars) -> str:
    """A name for this content; equal content has an equal name."""
    total = hashlib.blake2b(json.dumps(scalars, sort_keys=True).encode(), digest_size=16)
    for name in sorted(tensors):
        content = np.ascontiguousarray(_on_cpu(name, tensors[name]))
        total.update(f"{name}{tensors[name].dtype}{tuple(tensors[name].shape)}".encode())
        total.update(content.reshape(-1).view("uint8").data)
    return total.hexdigest()
