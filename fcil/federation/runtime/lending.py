"""Answers that lie in the memory of the net they were trained in, which another client will be given.

What a client sends is read where it is, without a copy. Before the net is loaded for the next client, those of its
tensors that somewhere are still read, by whoever keeps an answer, are given other memory: that of the answer before,
where it has been let go of, or new memory.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor, nn

from fcil.types import Tensors

# Where a version of PyTorch does not tell, memory counts as read, and a net gets new memory for each client.
_references: Callable[[int], int] = getattr(torch._C, "_storage_Use_Count", lambda storage: 10**6)


def _count(tensor: Tensor) -> int:
    storage: Any = tensor.untyped_storage()
    return _references(storage._cdata)


_ALONE = _count(torch.empty(1))
"""References to the memory of a tensor that shares it with no other, counted in this way."""


class Lent:
    """The memory of a net's tensors, and that of the answer before the last one."""

    def __init__(self) -> None:
        self._spare: Tensors = {}

    def part(self, net: nn.Module) -> None:
        """Give the tensors of a net whose memory others refer to other memory; what is in it is undefined."""
        for name, tensor in net.state_dict(keep_vars=True).items():
            if _count(tensor) <= _ALONE:
                continue
            spare = self._spare.get(name)
            if spare is None or _count(spare) > _ALONE or not _alike(spare, tensor):
                spare = torch.empty_like(tensor, requires_grad=False)
            self._spare[name], tensor.data = tensor.detach(), spare


def _alike(one: Tensor, other: Tensor) -> bool:
    return (one.shape, one.stride(), one.dtype, one.device) == (
        other.shape,
        other.stride(),
        other.dtype,
        other.device,
    )
