"""Class names, and files of vectors that belong to them.

A table file is a safetensors file with one tensor `anchors` (C, D) whose header names the rows.
`fcil embed` writes one; the vectors that come with the package are another.
"""

from __future__ import annotations

import json
import os
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import torch
from safetensors import SafetensorError, safe_open
from safetensors.torch import save
from torch import Tensor

from fcil.errors import DataError, nearest
from fcil.io.atomic import replacing
from fcil.io.bounded import UnreadableError, open_file, read_text

FORMAT = "fcil-anchors-1"
_DTYPES = (torch.float16, torch.bfloat16, torch.float32, torch.float64)
MAX_NAMES = 100_000
MAX_CHARACTERS = 200
MAX_BYTES = 2**30
"""Most bytes of a table file."""


def spoken(name: str) -> str:
    """Return a class name as it is spoken: `_` and `-` are spaces."""
    return " ".join(name.replace("_", " ").replace("-", " ").split())


def normalise(name: str) -> str:
    """Return the normal form of a class name, equal for two spellings of it."""
    return spoken(name).lower()


@dataclass(frozen=True, kw_only=True)
class Table:
    """Vectors as the encoder gave them, one row for each name, and their source."""

    names: tuple[str, ...]
    vectors: Tensor  # (C, D)
    encoder: str
    template: str
    pooling: str
    revision: str = ""

    def rows(self, names: Sequence[str], advice: str) -> Tensor:
        """Return the rows of `names`, in their order, float32.

        Raises:
            DataError: a name is not in the table; `advice` is the hint in the message.
        """
        found: dict[str, int] = {}
        for row, name in enumerate(self.names):
            found.setdefault(normalise(name), row)
        found |= {name: row for row, name in enumerate(self.names)}
        places = [found.get(name, found.get(normalise(name), -1)) for name in names]
        missing = [name for name, place in zip(names, places, strict=True) if place < 0]
        if missing:
            more = f" (and {len(missing) - 1} more)" if len(missing) > 1 else ""
            raise DataError(f'no anchor for class "{missing[0]}"{more}.{nearest(missing[0].lower(), found)} {advice}')
        return self.vectors[torch.tensor(places, dtype=torch.long)].float()


def read_table(path: Path) -> Table:
    """Read a table file.

    Raises:
        DataError: there is no such file, or it was not written by `fcil embed`.
    """
    if not os.path.isfile(path):
        raise DataError(f'no anchor file "{path}"; "fcil embed NAMES.txt" writes one')
    try:
        open_file(path, MAX_BYTES).close()
        with safe_open(path, framework="pt") as file:
            header = file.metadata() or {}
            if header.get("format") != FORMAT or "anchors" not in file.keys():  # noqa: SIM118 (not a mapping)
                raise DataError(f'"{path}" is not an anchor file; "fcil embed NAMES.txt" writes one')
            vectors = file.get_tensor("anchors")
        names = json.loads(header["names"])
    except (UnreadableError, SafetensorError, OSError, ValueError, KeyError, RecursionError) as error:
        raise DataError(f'anchor file "{path}" cannot be read ({one_line(error)})') from None
    if not isinstance(names, list) or not all(isinstance(n, str) for n in names):
        raise DataError(f'anchor file "{path}": the names in its header are not a list of text')
    if vectors.ndim != 2 or len(vectors) != len(names) or vectors.shape[1] < 1 or vectors.dtype not in _DTYPES:
        kind = str(vectors.dtype).removeprefix("torch.")
        raise DataError(
            f'anchor file "{path}": {len(names)} names, but vectors of shape {tuple(vectors.shape)} and type {kind}'
        )
    if not vectors.float().isfinite().all():
        raise DataError(f'anchor file "{path}" holds values that are not finite')
    origin = {key: header.get(key, "") for key in ("encoder", "template", "pooling", "revision")}
    return Table(names=tuple(names), vectors=vectors, **origin)


def write_table(path: Path, table: Table, dtype: torch.dtype = torch.float32) -> None:
    """Write a table file: the whole file or, if that fails, nothing.

    Raises:
        DataError: the file cannot be written.
    """
    header = {
        "format": FORMAT,
        "names": json.dumps(table.names),
        "encoder": table.encoder,
        "revision": table.revision,
        "template": table.template,
        "pooling": table.pooling,
    }
    with replacing(path, DataError) as temporary:
        temporary.write_bytes(save({"anchors": table.vectors.to(dtype).contiguous()}, metadata=header))


def read_names(path: Path) -> tuple[str, ...]:
    """Return class names from a text file: UTF-8, one a line; blank lines and lines that begin with # are skipped.

    Raises:
        DataError: the file is missing, no UTF-8, or its names are refused by `check_names`.
    """
    lines = read_text(path, 4 * MAX_NAMES * MAX_CHARACTERS, DataError).split("\n")
    stripped = [line.strip() for line in lines]
    names = tuple(line for line in stripped if line and not line.startswith("#"))
    check_names(names, str(path))
    return names


def check_names(names: Sequence[str], source: str) -> None:
    """Refuse an impossible list of class names.

    Raises:
        DataError: there is no name, too many, or one that is empty, too long, not printable or given twice.
    """
    if not names:
        raise DataError(f"{source}: no class names")
    if len(names) > MAX_NAMES:
        raise DataError(f"{source}: {len(names)} class names; at most {MAX_NAMES} are allowed")
    seen: set[str] = set()
    for number, name in enumerate(names, start=1):
        if not spoken(name):
            raise DataError(f"{source}: name {number} is empty ({name!r})")
        if len(name) > MAX_CHARACTERS:
            raise DataError(
                f'{source}: name {number} ("{name[:20]}...") has {len(name)} characters; at most {MAX_CHARACTERS}'
            )
        if not name.isprintable():
            raise DataError(f"{source}: name {number} holds a control character ({name!r})")
        if name in seen:
            raise DataError(f'{source}: class "{name}" is given twice')
        seen.add(name)


def one_line(error: BaseException) -> str:
    """Return an exception of another library as one short line."""
    first = next((line for line in str(error).splitlines() if line.strip()), "")
    reason = getattr(error, "strerror", None) or " ".join(first.split())
    reason = f"{reason[:200]}..." if len(reason) > 200 else reason
    return reason or type(error).__name__
