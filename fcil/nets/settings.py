"""Settings of the trained net: `net` of an experiment."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field, replace
from typing import Annotated, Any, Literal

from pydantic import Field

from fcil.config import Where, dump_fields, parse_fields
from fcil.config.content import HashedFile
from fcil.config.json_schema import Schema, Schemas
from fcil.config.parts import ENDING, parse_beside
from fcil.errors import nearest
from fcil.nets.backbone import Architecture, Norm, Recipe, Stem
from fcil.nets.backbones import BACKBONES
from fcil.nets.pretrained.timm_nets import PREFIX, TimmRecipe, is_timm
from fcil.nets.series import ShapeFormerRecipe, ShapeFormerSettings

MemoryFormat = Literal["contiguous", "channels_last"]
"""Layout of a batch of images (B, c, H, W) in memory: channels change slowest but one, or fastest."""
HeadStart = Literal["kaiming", "torch"]
"""First rows of the classifier; see `NetSettings.head_start`."""
NAMES: list[Any] = [{"enum": [*BACKBONES]}, {"pattern": ENDING}, {"pattern": f"^{PREFIX}"}]
"""Schemas of the names that a net may have."""


@dataclass(frozen=True, kw_only=True)
class NetSettings:
    """Architecture of the trained net."""

    name: Annotated[str, Field(json_schema_extra={"anyOf": NAMES})] = "resnet18"
    """The backbone: one of `fcil list nets`; `timm/NAME`, a net of timm; or the path of a file with an architecture of
    one's own, whose settings stand beside these."""
    stem: Stem = "auto"
    """First layers of a ResNet: `cifar` (3x3, full size), `imagenet` (7x7 and pooling, a quarter), `auto`: cifar to 32
    pixels."""
    width: Annotated[int, Field(ge=1, le=512)] | None = None
    """Channels (or units) of the first stage, to which all others are in proportion; null takes the backbone's own."""
    norm: Norm = "batch"
    """`batch`; or `group` or `none`, which have no statistics: averaging mixes none, and methods have none to match."""
    memory_format: MemoryFormat = "contiguous"
    """Layout of images in memory: `channels_last` rounds differently; on a CPU it was faster in bf16, in fp32 not."""

    head_start: HeadStart = "kaiming"
    """First weights of the classifier's rows: uniform within sqrt(3 / F) with zero biases, as in LANDER's code and its
    kin (`kaiming`), or within sqrt(1 / F), biases too, as in PyTorch's linear layer (`torch`); F features."""
    shapelets: ShapeFormerSettings | None = None
    """Shapelets of `shapeformer`, and what it makes of them; null takes its own settings."""
    pretrained: HashedFile | None = None
    """Safetensors file of weights that the backbone begins from, the file's classifier left out: its path; null: the
    weights are drawn."""
    frozen: bool = False
    """Whether the backbone stays as `pretrained` has it: its weights are not trained, its statistics do not move, and
    the head alone is trained and sent."""
    own: Architecture | None = field(default=None, metadata={"in_yaml": False})
    """Architecture of the file that `name` is the path of, with its settings; None: it is one of the package."""

    def __post_init__(self) -> None:
        if self.own is None and not is_timm(self.name) and self.name not in BACKBONES:
            known = ", ".join(BACKBONES)
            raise ValueError(f'name: unknown net "{self.name}" (have: {known}).{nearest(self.name, BACKBONES)}')
        if is_timm(self.name):
            self._check_timm()
        if self.stem != "auto" and not self.recipe.stems:
            raise ValueError(f"stem: {self.stem} is not allowed with {self.name}, which has no stem; leave it out")
        if self.memory_format == "channels_last" and self.recipe.inputs == "series":
            raise ValueError(
                f"memory_format: channels_last is not allowed with {self.name}, a net of series; leave it out"
            )
        if self.shapelets is not None and not isinstance(self.recipe, ShapeFormerRecipe):
            raise ValueError(f"shapelets: not allowed with {self.name}, which has none; leave it out")
        if self.frozen and self.pretrained is None:
            raise ValueError("frozen: true is not allowed without pretrained: the backbone would stay as it was drawn")
        if self.pretrained is not None and isinstance(self.recipe, ShapeFormerRecipe):
            raise ValueError(f"pretrained: not allowed with {self.name}, whose shapelets come from the clients' data")

    def _check_timm(self) -> None:
        """Check that a net of timm comes without settings of the nets that are built here."""
        for key in ("width", "norm"):
            if getattr(self, key) != type(self).__dataclass_fields__[key].default:
                raise ValueError(f"{key}: {getattr(self, key)} is not allowed with {self.name}; leave it out")

    @classmethod
    def from_yaml(cls, raw: object, where: Where) -> NetSettings:
        """Read the settings, those of an architecture of one's own among them."""
        if isinstance(raw, Mapping) and is_timm(raw.get("name")):
            return parse_fields(cls, raw, where)
        return parse_beside(cls, raw, where, "name", "net", Architecture)

    @classmethod
    def to_json_schema(cls, schemas: Schemas) -> Schema:
        return schemas.of_fields_beside(cls, "name")

    def to_yaml(self) -> dict[str, Any]:
        """Return the settings, those of an architecture of one's own last."""
        return dump_fields(self) | ({} if self.own is None else dump_fields(self.own))

    @property
    def recipe(self) -> Recipe:
        """Return the architecture."""
        if self.own is not None:
            return self.own
        if is_timm(self.name):
            return TimmRecipe(self.name.removeprefix(PREFIX))
        recipe = BACKBONES[self.name]
        if self.shapelets is not None and isinstance(recipe, ShapeFormerRecipe):
            return replace(recipe, settings=self.shapelets)
        return recipe

    def shared(self) -> NetSettings:
        """Return the same net where there is one client, who is the server too: it sees the shapelets."""
        if not isinstance(self.recipe, ShapeFormerRecipe):
            return self
        return replace(self, shapelets=replace(self.recipe.settings, share_shapelets=True))
