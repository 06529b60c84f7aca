"""Shapelets for a net, from the samples of a client or of a whole data set.

A client finds shapelets of the classes it meets for the first time, and keeps them, with all that is learned about
them: they are pieces of its series. So clients have banks of different shapelets, of which nothing is averaged.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import fields, replace

import numpy as np
import torch
import torch.nn.functional as F
from torch import Tensor

from fcil.data import Shard
from fcil.data.files.folders import cache_folder
from fcil.nets import Net
from fcil.nets.series import ShapeFormer
from fcil.shapelets import Progress, Shapelets, discover
from fcil.shapelets.select import best
from fcil.types import State, Tensors, Value

MEMORY = "shapelets"
"""Name of a client's note of its bank."""
SEARCHED = "classes"
"""Of the classes for which it has looked, among the tensors of the note."""


def shapelets_of(net: Net, shard: Shard, classes: Iterable[int], progress: Progress | None = None) -> Shapelets | None:
    """Return the shapelets of these classes among samples, from the cache if they were found before.

    Args:
        shard: the samples, with labels by which the classes are named.
    Returns:
        None where the net has no shapelets.
    """
    backbone = net.backbone
    if not isinstance(backbone, ShapeFormer):
        return None
    x, y = shard.x(torch.arange(len(shard))), shard.labels
    wanted = sorted(set(classes) & set(y.tolist()))
    cache = cache_folder() / "shapelets"
    return discover(x.cpu(), y.cpu(), backbone.settings, wanted, cache=cache, progress=progress)


def shares(net: Net) -> bool:
    """Return whether shapelets are found on clients and sent to the server."""
    return isinstance(net.backbone, ShapeFormer) and net.backbone.settings.share_shapelets


def new_shapelets(net: Net, shard: Shard) -> Shapelets | None:
    """Return the shapelets among samples of classes of which a net has none; None where it has no bank."""
    place = net.backbone.bank.place if isinstance(net.backbone, ShapeFormer) else None
    known = set() if place is None else set(place[:, 3].tolist())
    return shapelets_of(net, shard, set(shard.labels.tolist()) - known)


def gather(net: Net, sent: Sequence[Shapelets], generator: torch.Generator) -> None:
    """Append to a net's bank the best of the shapelets that clients have sent, for each class as many as one finds."""
    backbone = net.backbone
    if not isinstance(backbone, ShapeFormer) or not any(map(len, sent)):
        return
    longest = max(one.values.shape[1] for one in sent)
    padded = [replace(one, values=F.pad(one.values, (0, longest - one.values.shape[1]))) for one in sent]
    every = Shapelets(**{f.name: torch.cat([getattr(one, f.name) for one in padded]) for f in fields(Shapelets)})
    chosen = []
    for label in sorted(set(every.label.tolist())):
        rows = (every.label == label).nonzero().flatten().numpy()
        gain, channel, start, length = (
            getattr(every, name).numpy()[rows] for name in ("gain", "channel", "start", "length")
        )
        chosen.append(rows[best(gain, channel, start, start + length, backbone.settings.per_class)])
    at = torch.from_numpy(np.concatenate(chosen))
    backbone.append(Shapelets(**{name: tensor[at] for name, tensor in every.tensors().items()}), generator)


def received(tensors: Tensors, shape: Sequence[int], num_classes: int) -> Shapelets:
    """Return shapelets that a client has sent, for series of this shape.

    Raises:
        ValueError: they are none; says what is wrong.
    """
    if tensors.keys() != {field.name for field in fields(Shapelets)}:
        raise ValueError(f"shapelets with the parts {', '.join(sorted(tensors)) or 'none'}")
    found = Shapelets(**{name: tensor.cpu() for name, tensor in tensors.items()})
    count, (channels, steps) = len(found.gain), shape
    whole = {name: getattr(found, name) for name in ("series", "channel", "start", "length", "label")}
    if found.values.ndim != 2 or not all(t.shape == (count,) for t in (*whole.values(), found.gain)):
        raise ValueError("shapelets of unequal numbers")
    if len(found.values) != count or found.values.dtype != torch.float32 or found.gain.dtype != torch.float32:
        raise ValueError("shapelets of another type or number")
    if any(t.dtype != torch.int64 for t in whole.values()):
        raise ValueError("shapelets with places that are no whole numbers")
    end, longest = found.start + found.length, found.values.shape[1]
    inside = (found.channel >= 0) & (found.channel < channels) & (found.start >= 0) & (end <= steps)
    inside &= (found.length >= 2) & (found.length <= longest) & (found.label >= 0) & (found.label < num_classes)
    if not bool(inside.all()):
        raise ValueError("shapelets outside of series of the data set, or of no class")
    return found


def bring_bank(net: Net, memory: State, shard: Shard, generator: torch.Generator) -> Tensors:
    """Put a client's own bank into its net, with shapelets of the classes that are new to it, and return its tensors.

    Args:
        memory: notes of the client; those of `keep_bank` are read.
        shard: its samples.
        generator: for the weights of new tokens, on the CPU.
    """
    backbone = net.backbone
    if not isinstance(backbone, ShapeFormer) or backbone.settings.share_shapelets:
        return {}
    kept = _tensors(memory.get(MEMORY, {}))
    searched = set(kept.pop(SEARCHED, torch.empty(0, dtype=torch.int64)).tolist())
    backbone.bank.hold(kept)
    new = set(shard.labels.tolist()) - searched
    found = shapelets_of(net, shard, new) if new else None
    if found is not None:
        backbone.append(found, generator)
    memory[MEMORY] = {SEARCHED: torch.tensor(sorted(searched | new))}
    keep_bank(net, memory)
    return {name: tensor.detach().clone() for name, tensor in net.state_dict().items() if name in net.private()}


def keep_bank(net: Net, memory: State) -> None:
    """Note the client's own bank as its net has it now."""
    backbone = net.backbone
    if isinstance(backbone, ShapeFormer) and MEMORY in memory:
        searched = _tensors(memory[MEMORY])[SEARCHED]
        own = {name: tensor.detach().clone() for name, tensor in backbone.bank.tensors().items()}
        memory[MEMORY] = {SEARCHED: searched, **own}


def put_back(net: Net) -> None:
    """Leave a net that many clients use without a bank, as it was before `bring_bank`."""
    backbone = net.backbone
    if isinstance(backbone, ShapeFormer) and not backbone.settings.share_shapelets:
        backbone.bank.hold({})


def _tensors(note: Value) -> Tensors:
    if not isinstance(note, dict):
        return {}
    return {name: tensor for name, tensor in note.items() if isinstance(tensor, Tensor)}
