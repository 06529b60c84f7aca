"""Setting `data.domains`: which domains there are, and in which order."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from math import isfinite
from typing import Annotated, Any

from pydantic import Field

from fcil.config import Where, parse_fields
from fcil.config.json_schema import Schema, Schemas
from fcil.types import Index

MOST = 1000
"""Most domains that are made of one data set."""
_WISH = "expected names of folders such as [photo, sketch], {rotated: [0, 30, 60]} or {permuted: 5}"


@dataclass(frozen=True, kw_only=True)
class DomainSettings:
    """Domains of a data set; in YAML the names of their folders, or a mapping of the way in which they are made."""

    names: tuple[Index | str, ...] | None = None
    """Folders of the domains, in order of appearance."""
    rotated: tuple[float, ...] | None = None
    """Degrees, a domain for each: all images are turned anticlockwise by so many about their middle; what comes from
    outside is black."""
    permuted: Annotated[int, Field(ge=1, le=MOST)] | None = None
    """Number of domains: the images as they are, then with their pixels in another order in each, the same for all
    images and channels of a domain, and for all seeds."""

    def __post_init__(self) -> None:
        given = [key for key in ("names", "rotated", "permuted") if getattr(self, key) is not None]
        if len(given) != 1:
            raise ValueError(f"{' and '.join(given) or 'nothing'} is not allowed; {_WISH}")
        listed = {"names": self.folders, "rotated": self.rotated}.get(given[0])
        if listed is None:
            return
        if not 1 <= len(listed) <= MOST:
            raise ValueError(f"{len(listed)} domains are not allowed; name 1 to {MOST}, or leave the key out for all")
        if self.rotated is not None and not all(isfinite(angle) for angle in self.rotated):
            raise ValueError("rotated: every angle must be a finite number of degrees")
        keys = list(listed if self.rotated is None else [angle % 360 for angle in self.rotated])
        if twice := next((one for one, key in zip(listed, keys, strict=True) if keys.count(key) > 1), None):
            raise ValueError(f"domain {twice if self.rotated is None else format(twice, 'g')} is given twice")
        if keys.count(0) > 1:
            raise ValueError("domain 0 is given twice")

    @classmethod
    def from_yaml(cls, raw: Any, where: Where) -> DomainSettings:
        """Read a list of names, or a mapping.

        Raises:
            ConfigError: it is neither, or a domain is given twice.
        """
        if isinstance(raw, list | tuple):
            return parse_fields(cls, {"names": raw}, where)
        if not isinstance(raw, Mapping):
            raise where.error(f"{raw!r} is not allowed; {_WISH}")
        return parse_fields(cls, raw, where)

    @classmethod
    def to_json_schema(cls, schemas: Schemas) -> Schema:
        named = schemas.of_fields(cls)
        return {"anyOf": [named["properties"]["names"], named]}

    def to_yaml(self) -> Any:
        """Return the shortest form that `from_yaml` reads back."""
        if self.names is not None:
            return list(self.names)
        if self.rotated is not None:
            return {"rotated": [int(angle) if angle == int(angle) else angle for angle in self.rotated]}
        return {"permuted": self.permuted}

    @property
    def folders(self) -> tuple[str, ...] | None:
        """Return the names of the domains' folders; None where domains are made."""
        return None if self.names is None else tuple(map(str, self.names))

    @property
    def labels(self) -> tuple[str, ...]:
        """Return a name for each domain."""
        if self.rotated is not None:
            return tuple(f"rotated {angle:g}" for angle in self.rotated)
        return self.folders or tuple(f"permutation {number}" for number in range(1, (self.permuted or 0) + 1))
