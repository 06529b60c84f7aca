"""Synthetic samples of a run, as the pictures it has drawn of them."""

from __future__ import annotations

import base64
import io
import re
from dataclasses import dataclass
from pathlib import Path

from PIL import Image

from fcil.io.bounded import UnreadableError, read_bytes
from fcil.store.groups import Group
from fcil.store.read import Run

LARGEST = 2 * 2**20
"""Bytes of a picture."""
MOST = 2
"""Pictures of a run, at most: the first and the last."""
MOST_PIXELS = 4000
"""Pixels along a side, at most."""
MOST_BYTES = 4 * 2**20
"""Bytes of all pictures of a page, at most."""


Drawn = tuple[int, int | None, Path]
"""Task, round if it was made within one, and the file."""


@dataclass(frozen=True)
class Picture:
    """A PNG that lies in the page itself."""

    source: str
    """A data URI."""
    caption: str
    width: int
    height: int


class Album:
    """Pictures of a page, as long as there is room."""

    def __init__(self, problems: list[str]) -> None:
        self.left = MOST_BYTES
        self.full = False
        self._problems = problems

    def of(self, group: Group) -> list[Picture]:
        """Return pictures of the group's first seed that has some: the first and the last one."""
        for run in group.runs:
            drawn = _drawn(run)
            if drawn:
                chosen = [drawn[0], drawn[-1]][-min(MOST, len(drawn)) :]
                found = [self._picture(run, one, len(drawn)) for one in chosen]
                return [picture for picture in found if picture is not None]
        return []

    def _picture(self, run: Run, drawn: Drawn, count: int) -> Picture | None:
        task, round, path = drawn
        try:
            data, (width, height) = _png(path)
        except UnreadableError as error:
            self._problems.append(f"{path}: left out ({error})")
            return None
        if len(data) > self.left:
            self.full = True
            return None
        self.left -= len(data)
        when = f"after task {task}" if round is None else f"in task {task}, round {round}"
        caption = f"Made {when}, seed {run.seed} (n = 1)"
        more = f"; one of the {count} pictures in its folder" if count > MOST else ""
        source = f"data:image/png;base64,{base64.b64encode(data).decode('ascii')}"
        return Picture(source, f"{caption}{more}.", width, height)


def _drawn(run: Run) -> list[Drawn]:
    """The pictures of a run in the order in which they were made."""
    found: list[Drawn] = []
    for path in run.folder.synthetic.glob("task*.png"):
        if name := re.fullmatch(r"task([0-9]{1,9})(?:-round([0-9]{1,9}))?", path.stem):
            found.append((int(name[1]), int(name[2]) if name[2] else None, path))
    return sorted(found, key=lambda one: (one[0], one[1] is None, one[1] or 0))


def _png(path: Path) -> tuple[bytes, tuple[int, int]]:
    """The bytes of a picture and its width and height in pixels.

    Raises:
        UnreadableError: it cannot be read, or is no PNG of a reasonable size.
    """
    data = read_bytes(path, LARGEST)
    try:
        with Image.open(io.BytesIO(data), formats=["PNG"]) as image:
            size = image.size
    except (OSError, ValueError, SyntaxError, Image.DecompressionBombError) as error:
        raise UnreadableError(f"not a PNG: {error}") from None
    if max(size) > MOST_PIXELS:
        raise UnreadableError(f"{size[0]} x {size[1]} pixels are more than {MOST_PIXELS} along a side")
    return data, size
