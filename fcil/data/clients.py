"""Clients that the data themselves name, as in LEAF: by a table of files, or by a folder below the class folder."""

from __future__ import annotations

import csv
import os
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from functools import lru_cache
from hashlib import sha256
from pathlib import Path
from typing import Any

from fcil.config import Where, dump_fields, parse_fields
from fcil.config.json_schema import Schema, Schemas
from fcil.errors import ConfigError, DataError, printable
from fcil.io.bounded import read_text
from fcil.types import Count

SIZE_LIMIT = 256 * 2**20
"""Most bytes of a table."""
COLUMNS = ["file", "client"]
MAX_CHARACTERS = 200
"""Most characters of a client's name."""


@dataclass(frozen=True, kw_only=True)
class NaturalClients:
    """Where the client of an image is named; in YAML the path of a table, a folder level, or a mapping."""

    file: str | None = None
    """A CSV file with the columns `file,client`: training images by their path in the data set, `train/cat/1.png`
    or `cat/1.png`, and the name of the client of each."""
    level: Count | None = None
    """The folder below the class folder whose name is the client's: 1 for `train/<class>/<client>/1.png`."""
    digest: str = ""
    """Digest of the table; a file of other content is refused."""

    @classmethod
    def from_yaml(cls, raw: Any, where: Where) -> NaturalClients:
        """Read the short forms, and look into the table.

        Raises:
            ConfigError: neither a table nor a level, or the table cannot be read, or has another digest.
        """
        short = {"file": raw} if isinstance(raw, str) else {"level": raw} if type(raw) is int else raw
        if not isinstance(short, Mapping):
            raise where.error(
                f"{raw!r} is not allowed; expected a CSV file with the columns file,client or a folder level"
            )
        given = parse_fields(cls, short, where)
        if (given.file is None) == (given.level is None):
            raise where.error("give either file or level")
        if given.file is None:
            return given
        try:
            found = digest_of(given.file)
        except ConfigError as error:
            raise where.error(str(error)) from None
        if given.digest not in ("", found):
            raise where.error(f"{given.file} is another table now (its digest was {given.digest}, is {found})")
        return cls(file=given.file, digest=found)

    @classmethod
    def to_json_schema(cls, schemas: Schemas) -> Schema:
        return {"anyOf": [{"type": "string"}, {"type": "integer", "minimum": 1}, schemas.of_fields(cls)]}

    def to_yaml(self) -> dict[str, Any]:
        """Return the settings that are set."""
        return {key: value for key, value in dump_fields(self).items() if value}

    def names(self, files: Sequence[str], folders: Sequence[str]) -> tuple[str, ...]:
        """Return the name of the client of each training image.

        Args:
            files: paths of the images within the data set.
            folders: the class folder of each.
        Raises:
            DataError: an image has no client.
        """
        if self.level is not None:
            return tuple(self._of_folder(file, folder) for file, folder in zip(files, folders, strict=True))
        table = read_clients(self.file or "", self.digest)
        found = [table.get(file) or table.get(file.removeprefix("train/")) for file in files]
        lacking = [file for file, client in zip(files, found, strict=True) if client is None]
        if lacking:
            more = f" and {len(lacking) - 1:,} more" * (len(lacking) > 1)
            base = lacking[0].rpartition("/")[2]
            alike = next((file for file in table if file.rpartition("/")[2] == base), None)
            guess = f' Did you mean "{printable(alike)}"?' if alike else ""
            raise DataError(f"{self.file}: names no client for {lacking[0]}{more} of {len(files):,} images.{guess}")
        return tuple(client for client in found if client is not None)

    def _of_folder(self, file: str, folder: str) -> str:
        parts = file.split("/")
        inner = parts[parts.index(folder) + 1 : -1]
        if len(inner) < (self.level or 1):
            raise DataError(
                f"{file}: lies {len(inner)} folders below its class folder; partition.natural asks for {self.level}"
            )
        return inner[(self.level or 1) - 1]


def digest_of(file: str) -> str:
    """Return sixteen hex digits that identify a table.

    Raises:
        ConfigError: it cannot be read, or is no such table.
    """
    text = _text(file)
    _parsed(file, text)
    return sha256(text.encode()).hexdigest()[:16]


def read_clients(file: str, digest: str) -> dict[str, str]:
    """Return the client of each file of a table, checked to be what it was when the settings were read.

    Raises:
        ConfigError: it has changed, or cannot be read.
    """
    text = _text(file)
    if digest not in ("", sha256(text.encode()).hexdigest()[:16]):
        raise ConfigError(f"partition.natural: {file} was changed meanwhile")
    return _parsed(file, text)


def _text(file: str) -> str:
    return read_text(Path(os.path.expanduser(file)), SIZE_LIMIT, ConfigError).removeprefix("\ufeff")


@lru_cache(maxsize=2)
def _parsed(file: str, text: str) -> dict[str, str]:
    found: dict[str, str] = {}
    try:
        for number, cells in enumerate(csv.reader(text.splitlines()), start=1):
            if number == 1 and cells != COLUMNS:
                raise ConfigError(f"{file}: line 1: expected the columns {','.join(COLUMNS)}")
            if number == 1 or not cells:
                continue
            if len(cells) != 2 or not all(cells) or not cells[1].isprintable() or len(cells[1]) > MAX_CHARACTERS:
                raise ConfigError(f"{file}: line {number}: {printable(','.join(cells))!r} is no file and client")
            if found.setdefault(cells[0], cells[1]) != cells[1]:
                raise ConfigError(f"{file}: line {number}: {printable(cells[0])} has two clients")
    except csv.Error as error:
        raise ConfigError(f"{file}: not a table ({error})") from None
    if not found:
        raise ConfigError(f"{file}: names no file")
    return found


def in_order(names: Sequence[str]) -> list[str]:
    """Return the clients, each once: by number if all names are whole numbers, else by their characters."""
    unique = set(names)
    return sorted(unique, key=(lambda n: (int(n), n)) if all(n.isdecimal() for n in unique) else None)
