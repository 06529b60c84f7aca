"""Isolation of clients: what one client does to things that a process keeps does not reach the next.

A process plays many clients with one net, one copy of what the server shares, and one strategy. Their
tensors are loaded anew for each client, and this module sees to the rest: gradients switched off,
modes, hooks, attributes, swapped modules, changes in place, and torch's own switches.

Compared is what a thing consists of, by identity, and the version counters of tensors: no content is
read. PyTorch does not count changes through `.data` or NumPy.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Set
from typing import Any

import torch
from torch import Tensor, nn

from fcil.types import Value

Anatomy = tuple[list[object], list[object]]
"""Anatomy of a net: names, and the objects under them, which are kept alive so that no new one takes their place."""
_RESET = frozenset({"training"})
"""Attributes of modules that every client finds set anew."""


def anatomy(net: nn.Module) -> Anatomy:
    """Return the parts of a net beside the values of its weights: modules, attributes, hooks, and kinds of tensors."""
    names: list[object] = []
    parts: list[object] = []
    for name, module in net.named_modules():
        names += (name, type(module))
        parts.append(module)
        for key, value in vars(module).items():
            if key in _RESET:
                continue
            names.append(key)
            if isinstance(value, Mapping):
                names += value.keys()
                parts += value.values()
            elif isinstance(value, Set | list | tuple):
                parts += value
            else:
                parts.append(value)
    for tensor in net.state_dict(keep_vars=True).values():
        names += (tensor.dtype, tensor.device, tuple(vars(tensor)), bool(tensor._backward_hooks))
    return names, parts


def is_as_it_was(net: nn.Module, before: Anatomy) -> bool:
    """Return whether a net still consists of the same things."""
    names, parts = anatomy(net)
    return names == before[0] and len(parts) == len(before[1]) and all(map(_same, parts, before[1]))


def _same(one: object, other: object) -> bool:
    if one is other:
        return True
    return isinstance(one, float | str | int) and type(one) is type(other) and one == other


def settle(net: nn.Module, *, training: bool, requires_grad: bool) -> None:
    """Reset what clients may switch as they like: the mode, and whether weights want gradients."""
    net.train(training)
    net.requires_grad_(requires_grad)
    for parameter in net.parameters():
        parameter.grad = None


class Untouched:
    """Notices whether a value that is shared, or tensors that are, were replaced or changed in place."""

    def __init__(self, value: Value | Mapping[str, Any]) -> None:
        self._before = _leaves(value)

    def holds(self, value: Value | Mapping[str, Any]) -> bool:
        now = _leaves(value)
        alike = len(now) == len(self._before)
        return alike and all(a[:2] == b[:2] and _same(a[2], b[2]) for a, b in zip(now, self._before, strict=True))


def _leaves(value: Any, path: str = "") -> list[tuple[str, int, object]]:
    if isinstance(value, Mapping):
        return [leaf for key, inner in value.items() for leaf in _leaves(inner, f"{path}/{key}")]
    return [(path, value._version if isinstance(value, Tensor) else 0, value)]


# PyTorch's own switches ---------------------------------------------------------------------------

_SWITCHES: dict[str, tuple[Callable[[], Any], Callable[[Any], Any]]] = {
    "gradients": (torch.is_grad_enabled, torch.set_grad_enabled),
    "default type": (torch.get_default_dtype, torch.set_default_dtype),
    "threads": (torch.get_num_threads, torch.set_num_threads),
    "deterministic algorithms": (torch.are_deterministic_algorithms_enabled, torch.use_deterministic_algorithms),
    "autocast": (
        lambda: torch.is_autocast_enabled("cpu"),
        lambda on: torch.set_autocast_enabled("cpu", on),
    ),
    "benchmarks of cuDNN": (
        lambda: torch.backends.cudnn.benchmark,
        lambda on: setattr(torch.backends.cudnn, "benchmark", on),
    ),
}


def switches() -> dict[str, Any]:
    """Return PyTorch's settings in this process, as far as they change what a client computes."""
    return {name: read() for name, (read, _) in _SWITCHES.items()}


def restore_switches(before: Mapping[str, Any]) -> None:
    """Restore PyTorch's settings."""
    for name, (read, write) in _SWITCHES.items():
        if read() != before[name]:
            write(before[name])
