"""Files outside a run that it is made of: a path in the settings, and a hash of the content that the path led to.

The hash counts and the path does not, so the same weights in another folder are the same run, and others under the same
name are another one. A run that goes on finds the content that it was begun with, or is refused.
"""

from __future__ import annotations

import hashlib
import os
from dataclasses import dataclass
from functools import lru_cache
from pathlib import Path
from typing import Any

from fcil.config.json_schema import Schema, Schemas
from fcil.config.schema import Where, parse_fields
from fcil.errors import ConfigError, nearest_file


@dataclass(frozen=True)
class HashedFile:
    """A file by its path and the hash of its content; in YAML its path, or `{file: path, sha256: hex}`.

    Settings can be read where the file is not at hand: then the hash is empty, and `checked` refuses a run of it.
    """

    file: str
    """Path of the file."""
    sha256: str = ""
    """SHA-256 of its content, in hex; a file of other content is refused."""

    def __post_init__(self) -> None:
        if not self.sha256:
            object.__setattr__(self, "sha256", _sha256_of(self.file) or "")

    @classmethod
    def from_yaml(cls, raw: Any, where: Where) -> HashedFile:
        return parse_fields(cls, {"file": raw} if isinstance(raw, str) else raw, where)

    @classmethod
    def to_json_schema(cls, schemas: Schemas) -> Schema:
        return {"anyOf": [{"type": "string"}, schemas.of_fields(cls)]}

    def to_yaml(self) -> dict[str, str]:
        return {"file": self.file, "sha256": self.sha256}

    def checked(self) -> Path:
        """Return the path, after checking that the content is what it was when the settings were first read.

        Raises:
            ConfigError: there is no such file, or its content has changed.
        """
        found, path = _sha256_of(self.file), Path(self.file)
        if found is None:
            near = nearest_file(path, f"*{path.suffix}")
            raise ConfigError(f"{self.file}: there is no such file.{near}")
        if self.sha256 not in ("", found):
            raise ConfigError(
                f"{self.file}: its content is not what it was (sha256 was {self.sha256[:12]}, is {found[:12]}); put "
                "the former file back, or begin anew with this one"
            )
        return path


def _sha256_of(file: str) -> str | None:
    """Return the hash of a file's content; None if there is no such file, or it cannot be read."""
    try:
        about = os.stat(file)
        if not os.path.isfile(file):
            return None
        return _hashed(os.path.abspath(file), about.st_size, about.st_mtime_ns)
    except (OSError, ValueError):
        return None


@lru_cache(maxsize=64)
def _hashed(file: str, size: int, changed: int) -> str:
    with open(file, "rb") as content:
        return hashlib.file_digest(content, "sha256").hexdigest()
