"""The weights that a net begins from: those of a file, under our names, the file's classifier left out.

Names are ours (`backbone.` before them or not), timm's, or for a ResNet-18 or 34 torchvision's. A file fits if it holds
every tensor of the backbone in its shape.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass

from torch import Tensor

from fcil.config.content import HashedFile
from fcil.errors import ConfigError
from fcil.nets.backbone import Shape
from fcil.nets.files import read_weights
from fcil.nets.net import TRUNK, Net, build_net
from fcil.nets.pretrained.ported import PORTED, from_torchvision
from fcil.nets.pretrained.timm_nets import is_timm
from fcil.nets.settings import NetSettings
from fcil.rng import Key
from fcil.types import Tensors

MOST = 3
"""Tensors that an error message names."""
COUNTER = "num_batches_tracked"
"""End of the names of BatchNorm's counters, which some files leave out."""


@dataclass(frozen=True)
class Taken:
    """Tensors of a file for a backbone, by the names in the net."""

    weights: Tensors
    left: tuple[str, ...]
    """Names in the file of tensors that the backbone has no use for: the classifier's."""

    def sentence(self, source: str) -> str:
        """Return what is said of it in a run."""
        some = ", ".join(self.left[:MOST]) + f" and {len(self.left) - MOST} more" * (len(self.left) > MOST)
        left = f"; left: {some}" if self.left else "; none is left"
        return f"net.pretrained: {len(self.weights)} tensors of the backbone are taken from {source}{left}"


def begun_net(
    settings: NetSettings, *, shape: Shape, num_classes: int, text_width: int | None, key: tuple[Key, ...]
) -> Net:
    """Return a net as `build_net` does, whose backbone has the weights of `net.pretrained` if there are any.

    Raises:
        ConfigError: as `build_net`; the file is not there, is another one now, or does not fit the net.
    """
    net = build_net(settings, shape=shape, num_classes=num_classes, text_width=text_width, key=key)
    if settings.pretrained is not None:
        net.load(net.weights() | taken(settings, net, shape).weights)
    return net


def taken(settings: NetSettings, net: Net, shape: Shape) -> Taken:
    """Return the tensors of the file of `net.pretrained` that a net begins from.

    Raises:
        ConfigError: the file cannot be read, or does not fit the net; says which tensors differ.
    """
    file = settings.pretrained
    assert isinstance(file, HashedFile)
    try:
        return fitted(settings, net, read_weights(file.checked()), file.file, shape)
    except ConfigError as error:
        raise ConfigError(*(f"net.pretrained: {line}" for line in error.lines)) from None


def fitted(settings: NetSettings, net: Net, given: Tensors, source: str, shape: Shape) -> Taken:
    """Return the tensors of a backbone among those of a file.

    Raises:
        ConfigError: a tensor is missing or of another shape.
    """
    wanted = {name: tensor for name, tensor in net.state_dict().items() if name.startswith(TRUNK)}
    names = max(
        ({ours(name): name for name in given} for ours in _conventions(settings)), key=lambda n: len(n.keys() & wanted)
    )
    found = {name: given[names[name]] for name in wanted if name in names}
    missing = [name for name in wanted if name not in found and not name.endswith(COUNTER)]
    other = {name: t for name, t in found.items() if t.shape != wanted[name].shape}
    if missing or other:
        said = _said(missing, other, wanted, shape)
        raise ConfigError(f"{source}: not the weights of {_described(settings)}: {said}")
    whole = {name: found.get(name, tensor).to(tensor) for name, tensor in wanted.items()}
    broken = [name for name, t in whole.items() if t.is_floating_point() and not bool(t.isfinite().all())]
    if broken:
        raise ConfigError(f'{source}: tensor "{names[broken[0]]}" holds NaN or infinity')
    left = tuple(theirs for name, theirs in names.items() if name not in wanted)
    return Taken(whole, left)


def _conventions(settings: NetSettings) -> list[Callable[[str], str]]:
    """Return functions from a name in a file to ours, one for each habit of naming."""
    found: list[Callable[[str], str]] = [lambda name: name, lambda name: f"{TRUNK}{name}"]
    if is_timm(settings.name):
        found.append(lambda name: f"{TRUNK}model.{name}")
    if settings.name in PORTED:
        found.append(lambda name: next(iter(from_torchvision({name: _NOTHING}))))
    return found


_NOTHING = Tensor()


def _described(settings: NetSettings) -> str:
    usual = NetSettings()
    details = {key: getattr(settings, key) for key in ("stem", "width", "norm")}
    said = ", ".join(f"{key} {value}" for key, value in details.items() if value != getattr(usual, key))
    return f"{settings.name} ({said})" if said else settings.name


def _said(missing: list[str], other: Tensors, wanted: Mapping[str, Tensor], shape: Shape) -> str:
    parts = []
    if other:
        shapes = (f"{name} is {list(t.shape)}, expected {list(wanted[name].shape)}" for name, t in other.items())
        parts.append("; ".join(list(shapes)[:MOST]) + _more(len(other)))
    if missing:
        parts.append(f"missing {', '.join(missing[:MOST])}{_more(len(missing))}")
    first = next(iter(other), None)
    if first is not None and other[first].ndim == 4 == wanted[first].ndim:
        channels, sides = other[first].shape[1], other[first].shape[2:]
        if channels == 3 != shape[0] == wanted[first].shape[1]:
            parts.append(f"it reads images of 3 channels, and the data have {shape[0]}")
        elif tuple(sides) == (7, 7) and tuple(wanted[first].shape[2:]) == (3, 3):
            parts.append("its first layers are those of net.stem: imagenet")
    return "; ".join(parts)


def _more(count: int) -> str:
    return f" and {count - MOST} more" if count > MOST else ""
