"""State as flat names, with a digest of its content: `a/b/c` to a tensor, a number or text."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Mapping
from typing import Any, cast

import numpy as np
import torch
from torch import Tensor

from fcil.errors import printable
from fcil.types import State, Tensors, Value

Scalars = dict[str, float | int | str]
NUMBERS = frozenset(["bool", "uint8", "int8", "int16", "int32", "int64", "float16", "float32", "float64"])
"""Types of the arrays that are saved and sent."""
_LONGEST = 2**12
"""Bits of a whole number; JSON's text of a longer one is not read back."""


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


def number_types() -> str:
    """Names of `NUMBERS` in words."""
    return ", ".join(sorted(NUMBERS))


def on_cpu(name: str, tensor: Tensor) -> Tensor:
    """A tensor that can be saved and sent, without a gradient, and without a copy if it is in main memory.

    Raises:
        TypeError: its type or layout is not one that is saved and sent; names it.
    """
    kind = str(tensor.dtype).removeprefix("torch.")
    if kind not in NUMBERS or tensor.layout != torch.strided or tensor.is_neg():
        raise TypeError(
            f'state "{printable(name)}" is a {tensor.layout} tensor of {kind}; dense ones of {number_types()} travel'
        )
    return tensor.detach().cpu()


def num_bytes(tensors: Tensors) -> int:
    """Bytes of the entries of all tensors."""
    return sum(t.numel() * t.element_size() for t in tensors.values())


def digest(tensors: Tensors, scalars: Scalars) -> str:
    """Return a digest of this content; equal content has an equal digest."""
    total = hashlib.blake2b(json.dumps(scalars, sort_keys=True).encode(), digest_size=16)
    for name in sorted(tensors):
        content = np.ascontiguousarray(on_cpu(name, tensors[name]).numpy())
        total.update(f"{name}{tensors[name].dtype}{tuple(tensors[name].shape)}".encode())
        total.update(content.reshape(-1).view("uint8").data)
    return total.hexdigest()
