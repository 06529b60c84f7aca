"""Settings of the `data:` section that have a short form: augmentations, and the share of test images."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, fields, replace
from typing import Annotated, Any, Literal

from pydantic import Field

from fcil.config import Where, dump_fields, parse_fields
from fcil.config.json_schema import Schema, Schemas
from fcil.data.augment import Augment
from fcil.errors import ConfigError
from fcil.types import Index

OF_KIND = {"images": ("crop", "flip", "brightness"), "series": ("shift", "scaling", "masking", "jitter")}
"""Augmentations by the kind of samples that they apply to."""


@dataclass(frozen=True, kw_only=True)
class AugmentSettings:
    """Augmentations that differ from the data set's own; in YAML also `true`, `false` or `none`."""

    crop: Annotated[int, Field(ge=0, le=512)] | None = None
    """Pixels of padding around an image before it is cropped to its size at random, 0: none; null: the data set's."""
    flip: bool | None = None
    """Whether half of the images, drawn at random, are mirrored left to right; null: as the data set has it."""
    brightness: Annotated[float, Field(ge=0, le=10)] | None = None
    """Images are multiplied by a factor from [1 - brightness, 1 + brightness], 0: not; null: the data set's."""
    shift: Annotated[float, Field(ge=0, le=1)] | None = None
    """Time series are moved by up to this share of their own steps either way; the value at the end fills the gap."""
    scaling: Annotated[float, Field(ge=0, le=10)] | None = None
    """Each time series and channel is multiplied by a factor of mean 1 and this standard deviation."""
    masking: Annotated[float, Field(ge=0, le=1)] | None = None
    """A stretch of up to this share of a time series' own steps, at a random place, is set to 0."""
    jitter: Annotated[float, Field(ge=0, le=100)] | None = None
    """Noise of this standard deviation is added to each value of a time series, after normalisation."""

    @classmethod
    def from_yaml(cls, raw: Any, where: Where) -> bool | AugmentSettings:
        """Read a mapping, or `true` (all of the data set's), `false` (none of clients' images) or `none`.

        Raises:
            ConfigError: it is none of these.
        """
        if isinstance(raw, bool):
            return raw
        if raw == "none":
            return cls(crop=0, flip=False, brightness=0.0)
        if not isinstance(raw, Mapping):
            raise where.error(
                f"{raw!r} is not allowed; expected true, false, none or a mapping such as {{flip: false}}"
            )
        found = parse_fields(cls, raw, where)
        return True if found == cls() else found

    @classmethod
    def to_json_schema(cls, schemas: Schemas) -> Schema:
        return {"anyOf": [{"enum": [True, False, "none"]}, schemas.of_fields(cls)]}

    def of_other_kind(self, kind: Literal["images", "series"]) -> list[str]:
        """Return the augmentations that are asked for and do not apply to samples of this kind."""
        return [f.name for f in fields(self) if getattr(self, f.name) and f.name not in OF_KIND[kind]]

    def to_yaml(self) -> dict[str, Any]:
        """Return the settings without those of the data set."""
        return {key: value for key, value in dump_fields(self).items() if value is not None}

    def applied(self, own: Augment, size: tuple[int, ...]) -> Augment:
        """Return the augmentation of a data set whose samples have this size, changed by these settings.

        Raises:
            ConfigError: `crop` is more than the size allows.
        """
        if self.crop is not None and self.crop >= min(size):
            most = min(size) - 1
            raise ConfigError(
                f"augment.crop: {self.crop} is not allowed for samples of {' x '.join(map(str, size))}; at most {most}"
            )
        given = {name: getattr(self, name) for name in OF_KIND["series"]}
        changed = replace(
            own,
            **{name: value for name, value in given.items() if value is not None},
            padding=own.padding if self.crop is None else self.crop,
            flip=own.flip if self.flip is None else self.flip,
        )
        if self.brightness is None:
            return changed
        # Synthetic samples are brightened only if the data set says so.
        synthetic = self.brightness if own.synthetic_brightness else 0.0
        return replace(changed, brightness=self.brightness, synthetic_brightness=synthetic)


@dataclass(frozen=True, kw_only=True)
class TestShare:
    """A share of the images as test images; in YAML the share alone, or `{share: 0.2, seed: 1}`."""

    __test__ = False  # not a test class, despite its name

    share: Annotated[float, Field(gt=0, lt=1)]
    """Share of every class, rounded; at least one image tests and at least one trains."""
    seed: Index = 0
    """Seed of the draw of test images; independent of the runs' seeds, so that all use the same test images."""

    @classmethod
    def from_yaml(cls, raw: Any, where: Where) -> TestShare:
        """Read the share, or a mapping.

        Raises:
            ConfigError: the share is not between 0 and 1.
        """
        if isinstance(raw, int | float) and not isinstance(raw, bool) and not 0 < raw < 1:
            raise where.error(f"{raw!r} is not allowed; it must be a number above 0 and below 1")
        return parse_fields(cls, raw if isinstance(raw, Mapping) else {"share": raw}, where)

    @classmethod
    def to_json_schema(cls, schemas: Schemas) -> Schema:
        named = schemas.of_fields(cls)
        return {"anyOf": [named["properties"]["share"], named]}

    def to_yaml(self) -> Any:
        """Return the shortest form that `from_yaml` reads back."""
        return dump_fields(self) if self.seed else self.share
