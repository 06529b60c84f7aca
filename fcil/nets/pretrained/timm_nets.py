"""Nets of the library timm (`pip install 'fcil[timm]'`), which is imported when one is asked for and not before.

Shapes: B batch, c image channels, H and W sides in pixels, F feature width.
"""

from __future__ import annotations

import importlib
from dataclasses import dataclass
from typing import Any, ClassVar, cast

from torch import Tensor, nn

from fcil.errors import ConfigError, guess, printable
from fcil.nets.backbone import Backbone, Inputs, Norm, Shape, Stem

PREFIX = "timm/"
"""What the name of such a net begins with."""


def is_timm(name: object) -> bool:
    """Return whether this names a net of timm, and no file of a folder of that name."""
    return isinstance(name, str) and name.startswith(PREFIX) and not name.endswith(".py")


@dataclass(frozen=True)
class TimmRecipe:
    """Architecture of a net of timm, without its classifier."""

    name: str
    """Name of the net in timm, such as `resnet18` or `vit_tiny_patch16_224`."""
    description: ClassVar[str] = "a net of timm"
    stems: ClassVar[bool] = False
    inputs: ClassVar[Inputs] = "images"

    def build(self, shape: Shape, stem: Stem = "auto", width: int | None = None, norm: Norm = "batch") -> TimmBackbone:
        """Return a net for images of this shape; its weights come from torch's global stream.

        A net of images of a fixed size, such as a transformer, is made for images of this one.

        Raises:
            ConfigError: timm is missing, has no such net, or cannot make it for such images.
        """
        timm = library(self.name)
        if not timm.is_model(self.name):
            near = guess(self.name, timm.list_models())
            hint = f' Did you mean "{PREFIX}{near}"?' if near else ""
            raise ConfigError(f'net.name: timm {timm.__version__} has no net "{self.name}".{hint}')
        options: dict[str, Any] = {"pretrained": False, "num_classes": 0, "in_chans": shape[0]}
        if getattr(timm.get_pretrained_cfg(self.name), "fixed_input_size", False):
            options["img_size"] = tuple(shape[1:])
        try:
            return TimmBackbone(timm.create_model(self.name, **options))
        except Exception as error:  # whatever a net of another library raises
            raise ConfigError(
                f"net.name: timm makes no {self.name} for images of {' x '.join(map(str, shape))} "
                f"({printable(str(error))[:200]})"
            ) from None


class TimmBackbone(Backbone):
    """A net of timm that ends with its pooled features (B, F)."""

    def __init__(self, model: nn.Module) -> None:
        super().__init__()
        self.model = model
        self.width = int(getattr(model, "head_hidden_size", None) or model.num_features)  # type: ignore[arg-type]

    def forward(self, x: Tensor) -> Tensor:
        return cast(Tensor, self.model(x))


def library(name: str) -> Any:
    """Return the library timm.

    Raises:
        ConfigError: it is not installed.
    """
    try:
        return importlib.import_module("timm")
    except ImportError:
        raise ConfigError(f"net.name: {PREFIX}{name} is a net of timm; pip install 'fcil[timm]'") from None
