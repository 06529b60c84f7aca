"""State to records and back: what travels and what is saved is named tensors, numbers and strings."""

from __future__ import annotations

import hashlib
import json
import warnings
from collections.abc import Mapping
from typing import Any, cast

import torch
from flwr.app import ArrayRecord, ConfigRecord
from torch import Tensor

from fcil.federation.compat import RefArray
from fcil.types import State, Tensors, Value

Scalars = dict[str, float | int | str]


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
        elif isinstance(value, float | int | str):
            scalars[name] = value
        elif isinstance(value, Mapping):
            if not value:
                scalars[f"{name}/"] = ""
            below = flatten(value, f"{name}/")
            tensors |= below[0]
            scalars |= below[1]
        else:
            raise TypeError(f'state "{name}" is a {type(value).__name__}; state is tensors, numbers and strings')
    return tensors, scalars


def unflatten(tensors: Tensors, scalars: Scalars) -> State:
    """The tree that `flatten` took apart."""
    root: dict[str, Any] = {}
    for name, value in [*tensors.items(), *scalars.items()]:
        *parents, leaf = name.split("/")
        place = root
        for parent in parents:
            place = place.setdefault(parent, {})
        if leaf:
            place[leaf] = value
    return cast(State, root)


def to_arrays(tensors: Tensors) -> ArrayRecord:
    """Tensors as a record, without a copy where they are in main memory."""
    record = ArrayRecord()
    for name, tensor in tensors.items():
        record[name] = RefArray(tensor.detach().cpu().numpy())
    return record


def to_tensors(record: ArrayRecord, device: torch.device | str = "cpu", *, copy: bool = False) -> Tensors:
    """The tensors of a record. Without `copy` they may be shared with other processes: read only."""
    with warnings.catch_warnings():
        warnings.filterwarnings("ignore", message="The given NumPy array is not writable")
        tensors = {name: torch.from_numpy(array.numpy()) for name, array in record.items()}
        return {name: t.to(device, copy=copy) for name, t in tensors.items()}


def to_records(state: Mapping[str, Value]) -> tuple[ArrayRecord, ConfigRecord]:
    tensors, scalars = flatten(state)
    return to_arrays(tensors), ConfigRecord({"values": json.dumps(scalars)})


def from_records(arrays: ArrayRecord, values: ConfigRecord, device: torch.device | str = "cpu") -> State:
    return unflatten(to_tensors(arrays, device, copy=True), json.loads(cast(str, values["values"])))


def num_bytes(tensors: Tensors) -> int:
    return sum(t.numel() * t.element_size() for t in tensors.values())


def digest(tensors: Tensors, scalars: Scalars) -> str:
    """A name for this content; equal content has an equal name."""
    total = hashlib.blake2b(json.dumps(scalars, sort_keys=True).encode(), digest_size=16)
    for name in sorted(tensors):
        tensor = tensors[name].detach().cpu().contiguous()
        total.update(f"{name}{tensor.dtype}{tuple(tensor.shape)}".encode())
        total.update(tensor.numpy().reshape(-1).view("uint8").data)
    return total.hexdigest()
