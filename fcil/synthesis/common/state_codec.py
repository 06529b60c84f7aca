"""The state of a chain as values and back, so that a synthesis can be saved, moved and resumed.

A method keeps its state in a dataclass of live objects: nets, parameters, optimizers, lists of
tensors, numbers. Its author writes no code for saving them. To resume, a chain is started as always,
and the state that `values` returned is put into it.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import fields, is_dataclass
from typing import Any

import torch
from torch import Tensor, nn

from fcil.types import State, Value

KIND = "~"
"""Key under which a container records its type: state has mappings alone."""


def values(chain: Any) -> State:
    """Return the state of a chain as named tensors, numbers and strings.

    Raises:
        TypeError: a field holds something that cannot be saved; names it.
    """
    return {field.name: _take(getattr(chain, field.name), field.name) for field in fields(chain)}


def restore(chain: Any, state: State) -> None:
    """Bring a newly started chain to a state that `values` returned."""
    for field in fields(chain):
        live = getattr(chain, field.name)
        setattr(chain, field.name, _put(live, state[field.name], _device(chain)))


def _take(thing: Any, name: str) -> Value:
    if isinstance(thing, Tensor):
        return thing.detach()
    if isinstance(thing, bool | int | float | str):
        return thing
    if thing is None:
        return {KIND: "none"}
    if isinstance(thing, nn.Module):
        weights = {key: _take(t, f"{name}.{key}") for key, t in thing.state_dict().items()}
        return {KIND: "module", "training": int(thing.training), "weights": weights}
    if isinstance(thing, torch.optim.Optimizer):
        return {KIND: "optimizer", "state": _take(thing.state_dict(), name)}
    if isinstance(thing, torch.Generator):
        return {KIND: "generator", "state": thing.get_state()}
    if is_dataclass(thing) and not isinstance(thing, type):
        return {KIND: "dataclass", **{f.name: _take(getattr(thing, f.name), f"{name}.{f.name}") for f in fields(thing)}}
    if isinstance(thing, list | tuple):
        return {KIND: type(thing).__name__ if type(thing) in (list, tuple) else "tuple", **_numbered(thing, name)}
    if isinstance(thing, dict):
        keys = {f"{type(k).__name__}:{k}": k for k in thing}
        if all(isinstance(k, str | int) and "/" not in str(k) for k in keys.values()):
            return {KIND: "dict", **{mark: _take(thing[k], f"{name}.{k}") for mark, k in keys.items()}}
    raise TypeError(f'"{name}" of a chain is a {type(thing).__name__}, which cannot be saved')


def _numbered(things: Any, name: str) -> dict[str, Value]:
    return {str(n): _take(thing, f"{name}[{n}]") for n, thing in enumerate(things)}


def _put(live: Any, saved: Any, device: torch.device) -> Any:
    """Return the restored `live`: the same object with the saved content where it is mutable."""
    if isinstance(live, nn.Module):
        live.load_state_dict(saved["weights"])
        return live.train(bool(saved["training"]))
    if isinstance(live, nn.Parameter):
        with torch.no_grad():
            live.copy_(saved)
        return live
    if isinstance(live, torch.optim.Optimizer):
        live.load_state_dict(_give(saved["state"], device))
        return live
    if isinstance(live, torch.Generator):
        live.set_state(saved["state"].cpu())
        return live
    if is_dataclass(live) and not isinstance(live, type):
        for field in fields(live):
            setattr(live, field.name, _put(getattr(live, field.name), saved[field.name], device))
        return live
    return _give(saved, device)


def _give(saved: Any, device: torch.device) -> Any:
    """Return plain values from saved ones."""
    if isinstance(saved, Tensor):
        return saved.to(device, copy=True)
    if not isinstance(saved, dict):
        return saved
    rest = {key: value for key, value in saved.items() if key != KIND}
    match saved[KIND]:
        case "none":
            return None
        case "dict":
            return {_key(mark): _give(value, device) for mark, value in rest.items()}
        case "list" | "tuple" as kind:
            items = [_give(rest[str(n)], device) for n in range(len(rest))]
            return items if kind == "list" else tuple(items)
    raise TypeError(f"a chain cannot hold a {saved[KIND]} inside a list or mapping")


def _key(mark: str) -> str | int:
    kind, _, key = mark.partition(":")
    return int(key) if kind == "int" else key


def _device(chain: Any) -> torch.device:
    """Return the device of a chain's nets."""
    return next(_devices(chain), torch.get_default_device())


def _devices(thing: Any) -> Iterator[torch.device]:
    """Yield the devices of an object's tensors, also of a chain within it."""
    if isinstance(thing, Tensor):
        yield thing.device
    elif isinstance(thing, nn.Module):
        yield from (p.device for p in thing.parameters())
    elif isinstance(thing, torch.optim.Optimizer):
        yield from (p.device for group in thing.param_groups for p in group["params"])
    elif is_dataclass(thing) and not isinstance(thing, type):
        for field in fields(thing):
            yield from _devices(getattr(thing, field.name))
