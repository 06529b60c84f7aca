"""A device that only pretends to be one: its tensors are CPU tensors that refuse what a GPU refuses.

PyTorch knows it as `pretended:0`, so that `.to(device)`, factories, autograd and optimizers take their usual ways, and
the backward pass runs on it: FakeTensorMode with `cuda` cannot, for autograd asks the CUDA driver for a context.
An operation runs on the CPU, with the numbers that it has there, after a look at where its arguments are:

- tensors on two devices raise, as they do on a GPU: scalars on the CPU may take part in pointwise operations,
- random numbers that are drawn on it raise: they would be others on each kind of device,
- whatever makes the host wait for the device is counted, by the line of the product that asked for it: reading a
  number, a copy to the CPU, a copy from it that is not from page-locked memory or not `non_blocking`, and operations
  whose result has a size that depends on values, such as indexing by a mask.

It knows nothing of kernels: what an operation does on CUDA, whether it is there in some type, in what order it adds.

`register` changes PyTorch for the whole process and for good; tests do that in a process of their own.
"""

from __future__ import annotations

import sys
from collections import Counter
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from functools import cache
from pathlib import Path
from typing import Any

import torch
from torch import Tensor
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils.backend_registration import _DummyBackendModule, _setup_privateuseone_for_python_backend

NAME = "pretended"
DEVICE_INDEX = 0
ROOT = Path(__file__).parents[2]
aten = torch.ops.aten

COPIES = {aten._to_copy.default, aten.copy_.default, aten._foreach_copy_.default}
INDEXED = {aten.index.Tensor, aten.index_put.default, aten.index_put_.default, aten._index_put_impl_.default}
FILLS = {aten.where.self, aten.masked_fill.Tensor, aten.masked_fill_.Tensor, aten.fill_.Tensor}
"""Operations that take a scalar on the CPU though they are not called pointwise."""


class Module(_DummyBackendModule):
    """What PyTorch asks of `torch.pretended`."""

    def get_amp_supported_dtype(self) -> list[torch.dtype]:
        return [torch.bfloat16]


class Pretended(Tensor):
    """A tensor on the device; `inner` holds its numbers, on the CPU."""

    inner: Tensor

    @staticmethod
    def __new__(cls, inner: Tensor) -> Pretended:
        made: Pretended = Tensor._make_wrapper_subclass(
            cls,
            inner.size(),
            strides=inner.stride(),
            storage_offset=inner.storage_offset(),
            dtype=inner.dtype,
            device=torch.device(NAME, DEVICE_INDEX),
        )
        made.inner = inner
        return made

    @classmethod
    def __torch_dispatch__(cls, op: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        return played(op, args, kwargs or {}, None)

    def untyped_storage(self) -> torch.UntypedStorage:
        return self.inner.untyped_storage()  # the wrapper has none

    def tolist(self) -> Any:
        return self.cpu().tolist()  # PyTorch refuses it to all subclasses

    def __repr__(self, **_: Any) -> str:
        return f"Pretended({tuple(self.shape)}, {self.dtype})"


class Watch(TorchDispatchMode):
    """Plays operations on the device within the block, and counts what the host waits for.

    Attributes:
        waits: how often the host waited, by the line of the product and the operation.
    """

    def __init__(self) -> None:
        super().__init__()
        self.waits: Counter[str] = Counter()

    def __torch_dispatch__(self, op: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        if composite(op):  # in inference mode `x.cpu()` arrives whole, and not as the copy that it is
            with self:
                return op.decompose(*args, **(kwargs or {}))
        return played(op, args, kwargs or {}, self)


def register() -> torch.device:
    """Make the device known to PyTorch in this process, for good."""
    _setup_privateuseone_for_python_backend(NAME, backend_module=Module())
    return torch.device(NAME, DEVICE_INDEX)


@contextmanager
def watched() -> Iterator[Watch]:
    """Watch all that happens on the device within the block.

    `torch.tensor(..., device=...)` is one copy from the CPU then, as on a GPU, instead of a call into the backend.
    """
    before = torch._C._only_lift_cpu_tensors()
    torch._C._set_only_lift_cpu_tensors(True)
    try:
        with Watch() as watch:
            yield watch
    finally:
        torch._C._set_only_lift_cpu_tensors(before)


def played(op: Any, args: Any, kwargs: dict[str, Any], watch: Watch | None) -> Any:
    """Return the result of an operation, after a look at its arguments.

    Raises:
        RuntimeError: its tensors lie on two devices, or it draws random numbers on the device.
    """
    if op is aten.is_pinned.default:
        return hasattr(args[0], "pinned")
    if op is aten._pin_memory.default:
        copy = args[0].clone()
        copy.pinned = True
        return copy
    tensors = list(tensors_in((*args, *kwargs.values())))
    there = [t for t in tensors if isinstance(t, Pretended)]
    target = kwargs.get("device")
    lands = bool(there) if target is None else torch.device(target).type == NAME
    if lands and torch.Tag.nondeterministic_seeded in op.tags:
        raise RuntimeError(f"{op} draws on the device, where a GPU's generator gives other numbers, at {place()}")
    if there:
        check_together(op, tensors)
    if (there or lands) and watch is not None and (why := wait(op, args, kwargs, there, lands)):
        watch.waits[f"{place()} ({why})"] += 1
    plain = {**kwargs, "device": torch.device("cpu")} if target is not None else kwargs
    own = {id(t.inner): t for t in there}
    out = op(*each(inner, args), **{name: each(inner, value) for name, value in plain.items()})
    if not lands or (op is aten.copy_.default and not isinstance(args[0], Pretended)):
        return out
    return each(lambda t: own[id(t)] if id(t) in own else Pretended(t) if isinstance(t, Tensor) else t, out)


@cache
def composite(op: Any) -> bool:
    """Return whether an operation is but a sequence of others."""
    key = torch._C.DispatchKey.CompositeImplicitAutograd
    return bool(torch._C._dispatch_has_kernel_for_dispatch_key(op.name(), key))


def inner(thing: Any) -> Any:
    return thing.inner if isinstance(thing, Pretended) else thing


def each(change: Callable[[Any], Any], things: Any) -> Any:
    """Return the same lists and tuples with every other thing changed."""
    return type(things)([each(change, t) for t in things]) if type(things) in (list, tuple) else change(things)


def tensors_in(things: Any) -> Iterator[Tensor]:
    for thing in things:
        if isinstance(thing, Tensor):
            yield thing
        elif isinstance(thing, list | tuple):
            yield from tensors_in(thing)


def check_together(op: Any, tensors: list[Tensor]) -> None:
    """Raise if a GPU would: `tensors` lie on two devices."""
    here = [t for t in tensors if not isinstance(t, Pretended)]
    if not here or op in COPIES:
        return
    if op in INDEXED and isinstance(tensors[0], Pretended) and all(not t.is_floating_point() for t in here):
        return  # indices may lie on the CPU; they are copied, which is a wait
    scalars = torch.Tag.pointwise in op.tags or op in FILLS
    if not (scalars and all(t.ndim == 0 for t in here)):
        raise RuntimeError(f"Expected all tensors to be on the same device, but {op} got {NAME} and cpu, at {place()}")


def wait(op: Any, args: Any, kwargs: Any, there: list[Pretended], lands: bool) -> str | None:
    """Return why the host waits for the device in this operation, if it does."""
    if op in (aten._to_copy.default, aten.copy_.default):
        source = args[1] if op is aten.copy_.default else args[0]
        goes = isinstance(args[0], Pretended) if op is aten.copy_.default else lands
        if isinstance(source, Pretended):
            return None if goes else "a copy to the CPU"
        flag = kwargs.get("non_blocking", args[2] if op is aten.copy_.default and len(args) > 2 else False)
        if not goes or (flag and hasattr(source, "pinned")):
            return None
        return "a copy from the CPU"
    if not there:
        return None
    if op is aten._foreach_copy_.default:
        return None if all(isinstance(t, Pretended) for t in (*args[0], *args[1])) else "copies"
    if op in INDEXED:
        indices = [t for t in args[1] if t is not None]
        if any(not isinstance(t, Pretended) for t in indices):
            return "indices on the CPU"
        return "indexing by a mask" if any(t.dtype in (torch.bool, torch.uint8) for t in indices) else None
    if op is aten._local_scalar_dense.default:
        return "reading a number"
    if torch.Tag.dynamic_output_shape in op.tags or torch.Tag.data_dependent_output in op.tags:
        return op.overloadpacket.__name__
    return None


def place() -> str:
    """Return the innermost line of the product that is being executed, as file:line, function."""
    frame = sys._getframe(1)
    while frame is not None:
        path = frame.f_code.co_filename.removeprefix(f"{ROOT}/")
        if path.startswith(("fcil/", "strategies/")):
            return f"{path}:{frame.f_lineno}, {frame.f_code.co_name}"
        frame = frame.f_back  # type: ignore[assignment]
    return "the backward pass"
