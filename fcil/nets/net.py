"""A backbone, a classifier that grows with the classes, and a label-text head beside it.

The head is LANDER's (CVPR 2024; code @ 44d7acc, `convs` and `utils/inc_net.py`): a second linear
layer on the same features, g = W f + c. The classifier reads f, never g.

Shapes: B batch, C classes seen so far, F feature width, D width of a label-text embedding.
"""

from __future__ import annotations

import copy
import math
from collections.abc import Iterable, Sequence
from functools import lru_cache
from typing import Literal, Self

import torch
from torch import Tensor, nn

from fcil import rng
from fcil.errors import ConfigError, described
from fcil.nets.backbone import Backbone, Shape, inputs_of
from fcil.nets.backbones import BACKBONES
from fcil.nets.norms import has_variance
from fcil.nets.settings import HeadStart, MemoryFormat, NetSettings
from fcil.types import Output, Tensors

Forwards = Literal["two", "one"]
"""Whether real and synthetic images of a step go through the net in a forward each, or in one together."""
TRUNK = "backbone."
"""What the names of the backbone's tensors begin with."""


class Net(nn.Module):
    """A backbone with its classifier and, if `text_width` is given, its label-text head.

    Initial weights come from torch's global stream, as in every module; `build_net` names the stream.

    Attributes:
        class_names: name of each output of the classifier, of a net that was read from a run folder; empty while a
            net is trained.
    """

    def __init__(
        self,
        backbone: Backbone,
        num_classes: int,
        text_width: int | None = None,
        memory_format: MemoryFormat = "contiguous",
        head_start: HeadStart = "kaiming",
        still: bool = False,
    ) -> None:
        super().__init__()
        self.backbone = backbone
        self.memory_format = memory_format
        self.head_start = head_start
        self.class_names: tuple[str, ...] = ()
        # The classifier comes last: the other weights do not depend on the number of classes.
        self.text_head = None if text_width is None else nn.Linear(backbone.width, text_width)
        self.classifier = nn.Linear(backbone.width, num_classes)
        if head_start == "kaiming":  # otherwise as the layer comes
            nn.init.kaiming_uniform_(self.classifier.weight, nonlinearity="linear")
            nn.init.zeros_(self.classifier.bias)
        self.still = still
        if still:
            self.train()
            self.requires_grad_()

    @property
    def num_classes(self) -> int:
        """Return C, the number of rows of the classifier."""
        return self.classifier.out_features

    def train(self, mode: bool = True) -> Self:
        """Set the mode of the heads, and of the backbone unless it is frozen."""
        super().train(mode)
        if self.still:
            self.backbone.eval()
        return self

    def requires_grad_(self, requires_grad: bool = True) -> Self:
        """Let the weights want gradients or not, those of a frozen backbone never."""
        super().requires_grad_(requires_grad)
        if self.still:
            self.backbone.requires_grad_(False)
        return self

    def forward(self, x: Tensor) -> Output:
        if self.memory_format == "channels_last":
            x = x.contiguous(memory_format=torch.channels_last)
        return self.heads(self.backbone(x))

    def heads(self, features: Tensor) -> Output:
        """Return the output for features (B, F) of the backbone."""
        embedding = None if self.text_head is None else self.text_head(features)  # (B, D)
        own = self.classifier.weight.dtype  # under autocast the layers return bf16; losses need more
        logits = self.classifier(features).to(own)
        return Output(logits, features.to(own), None if embedding is None else embedding.to(own))

    def grow(self, num_classes: int, generator: torch.Generator) -> None:
        """Give the classifier `num_classes` rows: old rows as they are, new ones as initialised.

        New rows start as `head_start` says. The classifier's parameters are replaced, so an optimizer built
        before does not see them.

        Raises:
            ValueError: the classifier has more rows already.
        """
        extra, linear = num_classes - self.num_classes, self.classifier
        if extra < 0:
            raise ValueError(f"a classifier of {self.num_classes} classes cannot grow to {num_classes}")
        own = self.head_start == "torch"
        bound = math.sqrt((1 if own else 3) / linear.in_features)
        rows, biases = torch.empty(extra, linear.in_features), torch.zeros(extra)
        rows.uniform_(-bound, bound, generator=generator)
        if own:
            biases.uniform_(-bound, bound, generator=generator)
        self._replace_classifier(
            torch.cat([linear.weight.detach(), rows.to(linear.weight)]),
            torch.cat([linear.bias.detach(), biases.to(linear.bias)]),
        )

    def weights(self) -> Tensors:
        """Return a copy of every parameter and buffer, by name, on the net's own device."""
        return {name: value.detach().clone() for name, value in self.state_dict().items()}

    def load(self, weights: Tensors) -> None:
        """Copy weights in; the classifier takes the number of rows they have.

        A counter that arrives as a float, such as a mean over clients, is truncated. Those of a frozen backbone may be
        left out.

        Raises:
            ValueError: a tensor is missing, unknown or of another shape; then nothing is loaded.
        """
        if self.still:
            weights = {**{name: t for name, t in self.state_dict().items() if name.startswith(TRUNK)}, **weights}
        problem = self._misfit(weights)
        if problem:
            raise ValueError(f"the weights do not fit the net: {problem}")
        self.backbone.fit(_of_backbone(weights))
        num_classes, linear = len(weights["classifier.bias"]), self.classifier
        if num_classes != self.num_classes:
            self._replace_classifier(
                linear.weight.new_empty(num_classes, linear.in_features), linear.bias.new_empty(num_classes)
            )
        own = self.state_dict()
        alike = [name for name in own if own[name].dtype == weights[name].dtype]
        with torch.no_grad():
            torch._foreach_copy_([own[name] for name in alike], [weights[name] for name in alike])
            for name in own.keys() - alike:
                own[name].copy_(weights[name])

    def private(self) -> frozenset[str]:
        """Return the names of the tensors that hold pieces of training samples, and so stay with a client."""
        trunks = [(path, module) for path, module in self.named_modules() if isinstance(module, Backbone)]
        return frozenset(f"{path}.{name}" for path, trunk in trunks for name in trunk.private())

    def fixed(self) -> frozenset[str]:
        """Return the names of the tensors that are neither trained nor sent: those of a frozen backbone."""
        return frozenset(name for name in self.state_dict() if self.still and name.startswith(TRUNK))

    def _misfit(self, weights: Tensors) -> str:
        """Return why `weights` cannot be loaded, or an empty string."""
        heads = {name: t.shape for name, t in self.state_dict().items() if not name.startswith(TRUNK)}
        trunk = {f"{TRUNK}{name}": shape for name, shape in self.backbone.shapes(_of_backbone(weights)).items()}
        return _differences(trunk | heads, weights)

    def _replace_classifier(self, weight: Tensor, bias: Tensor) -> None:
        old = self.classifier
        old.weight = nn.Parameter(weight, requires_grad=old.weight.requires_grad)
        old.bias = nn.Parameter(bias, requires_grad=old.bias.requires_grad)
        old.out_features = len(bias)


def outputs_of(net: Net, batches: Sequence[Tensor], forwards: Forwards) -> list[Output]:
    """Run a net on several batches, each (B_i, channels, H, W), in training mode or not.

    In training mode BatchNorm normalises a batch by the statistics of the forward it is in: with `two`, those of
    real and of synthetic images apart; with `one`, those of all images of the step together.

    Args:
        forwards: `two`: a forward for each batch, in order; `one`: one over all of them.
    Returns:
        What the net says of each batch.
    """
    if forwards == "two":
        return [net(batch) for batch in batches]
    sizes = [len(batch) for batch in batches]
    logits, features, embedding = net(torch.cat(list(batches)))
    embeddings = [None] * len(sizes) if embedding is None else embedding.split(sizes)
    return [Output(*parts) for parts in zip(logits.split(sizes), features.split(sizes), embeddings, strict=True)]


def build_net(
    settings: NetSettings,
    *,
    shape: Shape,
    num_classes: int,
    text_width: int | None,
    key: tuple[rng.Key, ...],
) -> Net:
    """Return a fresh net for samples of `shape`; its weights are drawn from the stream named `key`.

    Trunk and text head are the same for every number of classes. `text_width` D adds a
    label-text head.

    Raises:
        ConfigError: it is a net of images and these are series, or the reverse.
    """
    check_inputs(settings, shape, "net.name")
    if settings.own is not None:
        _check_own(settings, shape)
    with rng.seeded(*key):
        backbone = settings.recipe.build(shape, settings.stem, settings.width, settings.norm)
        return Net(backbone, num_classes, text_width, settings.memory_format, settings.head_start, settings.frozen)


@lru_cache(maxsize=64)
def normalises_one(settings: NetSettings, shape: Shape) -> bool:
    """Return whether a training batch of one sample of `shape` has a variance at each BatchNorm layer of a net.

    It has none where a map is 1 x 1, as the last ones of a ResNet-18 are on images of 8 x 8. There `BatchNorm2d` takes
    the running statistics for such a batch.
    """
    # Not on the meta device, whose arithmetic is written in Python and loads torch's compiler: a second and 80 MB.
    with rng.seeded("shapes"):
        backbone = settings.recipe.build(shape, settings.stem, settings.width, settings.norm)
        return has_variance(backbone, torch.zeros(1, *shape))


def check_batch(settings: NetSettings, shape: Shape, size: int, key: str) -> None:
    """Check that a net can be trained on batches of this size.

    Args:
        key: the setting of the size, for the error message.
    Raises:
        ConfigError: each batch is one image, and a BatchNorm layer would never have a variance.
    """
    if size == 1 and not normalises_one(settings, shape):
        sides, least = " x ".join(map(str, shape[1:])), " x ".join("1" for _ in shape[1:])
        raise ConfigError(
            f"{key}: 1 is not allowed with {settings.name} on {inputs_of(shape)} of {sides}, whose last maps are "
            f"{least}: batch norm has no variance of one value; set it to 2 or more, or norm: group for the net"
        )


def check_inputs(settings: NetSettings, shape: Shape, key: str) -> None:
    """Check that a net reads samples of this shape.

    Args:
        key: the setting of its name, for the error message.
    Raises:
        ConfigError: it is a net of images and these are series, or the reverse.
    """
    given, kind = inputs_of(shape), settings.recipe.inputs
    if given != kind:
        fit = ", ".join(name for name, recipe in BACKBONES.items() if recipe.inputs == given)
        raise ConfigError(
            f"{key}: {settings.name} reads {kind}, and the data are {given} of shape {' x '.join(map(str, shape))}; "
            f"expected one of {fit}"
        )


@lru_cache(maxsize=64)
def _check_own(settings: NetSettings, shape: Shape) -> None:
    """Check that an architecture of one's own makes a backbone for samples of this shape.

    Raises:
        ConfigError: its code raises, or what it builds is no map to features (B, width).
    """
    place = f'net.name: net file "{settings.name}"'
    try:
        with rng.seeded("own"), torch.no_grad():
            backbone = settings.recipe.build(shape, settings.stem, settings.width, settings.norm)
            width = getattr(backbone, "width", None)
            found = backbone.eval()(torch.zeros(2, *shape)) if isinstance(backbone, Backbone) else None
    except Exception as error:  # any error of a user's code is shown as one line
        raise ConfigError(
            f"{place}: no net for samples of {' x '.join(map(str, shape))}: {described(error)}"
        ) from error
    if not isinstance(backbone, Backbone):
        raise ConfigError(f"{place}: build returned a {type(backbone).__name__}; expected a Backbone")
    if not isinstance(width, int) or not isinstance(found, Tensor) or found.shape != (2, width):
        got = list(found.shape) if isinstance(found, Tensor) else f"a {type(found).__name__}"
        raise ConfigError(f"{place}: width is {width!r}, and two samples have features {got}; expected [2, width]")


def net_of(settings: NetSettings, weights: Tensors, shape: Shape) -> Net:
    """Return the net of these settings and weights: with as many classes, and a text head if they have one.

    Raises:
        ValueError: they are of another net.
    """
    head, rows = weights.get("text_head.weight"), weights["classifier.bias"]
    net = build_net(
        settings, shape=shape, num_classes=len(rows), text_width=None if head is None else len(head), key=("weights",)
    )
    net.load(weights)
    return net.to(rows.device)


def frozen(net: Net) -> Net:
    """Return a copy of the net in eval mode with frozen weights; gradients still reach its input."""
    still = copy.deepcopy(net).eval().requires_grad_(False)
    still.zero_grad(set_to_none=True)
    return still


def _of_backbone(weights: Tensors) -> Tensors:
    return {name.removeprefix(TRUNK): tensor for name, tensor in weights.items() if name.startswith(TRUNK)}


def _differences(shapes: dict[str, torch.Size], weights: Tensors) -> str:
    wrong = []
    if missing := shapes.keys() - weights.keys():
        wrong.append(f"missing {_some(missing)}")
    if unexpected := weights.keys() - shapes.keys():
        wrong.append(f"unexpected {_some(unexpected)}")
    rows = weights["classifier.bias"].shape if "classifier.bias" in weights else shapes["classifier.bias"]
    for name, expected in shapes.items():
        if name in ("classifier.weight", "classifier.bias") and len(rows) == 1 and rows[0] > 0:
            expected = rows + expected[1:]
        if name in weights and weights[name].shape != expected:
            wrong.append(f"{name} has shape {tuple(weights[name].shape)}, expected {tuple(expected)}")
    return "; ".join(wrong[:4])


def _some(names: Iterable[str]) -> str:
    listed = sorted(names)
    return ", ".join(listed[:3]) + (f" and {len(listed) - 3} more" if len(listed) > 3 else "")
