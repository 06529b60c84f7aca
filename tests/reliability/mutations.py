"""Spoils bytes, text and values the way damage and malice do, and counts what became of them."""

from __future__ import annotations

import json
import os
import time
from collections.abc import Callable
from copy import deepcopy
from dataclasses import asdict, dataclass
from typing import Any

from hypothesis import strategies as st

from fcil.errors import LONGEST, UserError

PATIENCE = 60.0
"""Seconds that no input may take."""


@dataclass
class Tally:
    """What became of the inputs of one part."""

    part: str
    inputs: int = 0
    accepted: int = 0
    refused: int = 0
    tracebacks: int = 0

    def tell(self, action: Callable[[], object], refusals: type[Exception] | tuple[type[Exception], ...]) -> None:
        """Let the program have an input: it may accept it, or refuse it in one line; anything else is a bug."""
        self.inputs += 1
        began = time.monotonic()
        try:
            action()
        except refusals as error:
            self.refused += 1
            text = str(error)
            assert text.strip(), "it is refused without a word"
            assert "\n" not in text, text
            if isinstance(error, UserError):
                assert text.isprintable(), ascii(text)
                assert len(text) <= 10 * LONGEST
        except BaseException:
            self.tracebacks += 1
            raise
        else:
            self.accepted += 1
        assert time.monotonic() - began < PATIENCE, "it took too long"

    def report(self) -> None:
        """Add a line to the file that `FCIL_FUZZ_REPORT` names."""
        path = os.environ.get("FCIL_FUZZ_REPORT")
        if path:
            with open(path, "a", encoding="utf-8") as file:
                file.write(json.dumps(asdict(self)) + "\n")


# Bytes ----------------------------------------------------------------------------------------------


ODD_BYTES = (b"", b"\0", b"\xff", b"\n", b"\r", b"\t", b"\x1b[2J", b"\xef\xbb\xbf", b"\xff\xfe", b"\xed\xa0\x80", b"%s")
SIZES = (0, 1, 2, 0x7F, 0x80, 0xFF, 0x7FFF, 0xFFFF, 2**31 - 1, 2**31, 2**32 - 1, 2**60, 2**63 - 1, 2**63, 2**64 - 1)


@st.composite
def spoilt(draw: st.DrawFn, whole: bytes, words: tuple[bytes, ...] = ()) -> bytes:
    """`whole` after a few changes: bytes flipped, cut out, doubled, moved, or replaced by sizes that lie."""
    data = bytearray(whole)
    for _ in range(draw(st.sampled_from((1, 1, 1, 2, 4)))):
        start = draw(st.integers(0, len(data)))
        stop = min(len(data), start + draw(st.sampled_from((0, 1, 1, 2, 4, 8, 64, 1024, 2**20))))
        kind = draw(st.integers(0, 6))
        if kind == 0 and start < len(data):
            data[start] ^= 1 << draw(st.integers(0, 7))
        elif kind == 1:
            del data[start:stop]
        elif kind == 2:
            data[start:start] = data[start:stop] * draw(st.sampled_from((1, 2, 50)))
        elif kind == 3:
            width = draw(st.sampled_from((1, 2, 4, 8)))
            size = draw(st.sampled_from(SIZES)) % 256**width
            data[start : start + width] = size.to_bytes(width, draw(st.sampled_from(("little", "big"))))
        elif kind == 4:
            data[start:stop] = draw(st.sampled_from(ODD_BYTES + words))
        elif kind == 5:
            data[start:stop] = draw(st.binary(max_size=16))
        else:
            target = draw(st.integers(0, len(data)))
            data[target:target] = data[start:stop]
    return bytes(data)


# Values ---------------------------------------------------------------------------------------------


NUMBERS = (0, 1, -1, 2, 3, 5, 0.5, -0.0, 1e-300, 1e300, 2**31, 2**32, 2**63, 10**18, 10**30, 10**99)
ODD = (float("nan"), float("inf"), -float("inf"), True, False, None, "", " ", ".", "..", "a/b", "iid", "seed", "auto")
STRINGS = (
    "ray",
    "digits",
    "image_folder",
    "~nobody",
    "/dev/zero",
    "x" * 300,
    "é☃",
    "\u202e",
    "{}",
    "finetune",
    "cuda:7",
)
LEAVES = st.one_of(
    st.sampled_from(NUMBERS),
    st.sampled_from(ODD),
    st.sampled_from(STRINGS),
    st.integers(-3, 12),
    st.floats(),
    st.text(max_size=8),
)
TREES = st.recursive(
    LEAVES,
    lambda inner: st.one_of(st.lists(inner, max_size=4), st.dictionaries(st.text(max_size=6), inner, max_size=3)),
    max_leaves=6,
)


def places(tree: Any, above: tuple[Any, ...] = ()) -> list[tuple[Any, ...]]:
    """The path of every value in a tree, the tree itself first."""
    items = tree.items() if isinstance(tree, dict) else enumerate(tree) if isinstance(tree, list) else ()
    return [above, *(place for key, value in items for place in places(value, (*above, key)))]


def at(tree: Any, place: tuple[Any, ...]) -> Any:
    for key in place:
        tree = tree[key]
    return tree


@st.composite
def altered(draw: st.DrawFn, tree: Any, donors: list[Any]) -> Any:
    """A tree with a few values replaced, removed, renamed, wrapped, or taken from elsewhere in a donor."""
    tree = deepcopy(tree)
    for _ in range(draw(st.sampled_from((1, 1, 1, 2, 3)))):
        spots = [place for place in places(tree) if place]
        if not spots:
            return tree
        *above, key = draw(st.sampled_from(spots))
        parent = at(tree, tuple(above))
        kind = draw(st.integers(0, 7))
        if kind == 0:
            del parent[key]
        elif kind == 1 and isinstance(parent, dict):
            name = draw(st.one_of(st.text(max_size=8), st.sampled_from(list(parent))))
            parent[name] = parent.pop(key)
        elif kind == 2:
            parent[key] = [parent[key]] * draw(st.integers(0, 3))
        elif kind == 3:
            parent[key] = {draw(st.one_of(st.text(max_size=5), st.sampled_from(STRINGS))): parent[key]}
        elif kind == 4:
            donor = draw(st.sampled_from(donors))
            parent[key] = deepcopy(at(donor, draw(st.sampled_from(places(donor)))))
        elif kind == 5 and isinstance(parent[key], int | float) and not isinstance(parent[key], bool):
            parent[key] = draw(st.sampled_from((-1, 0, 10, 1000, 10**6, 10**12, 10**30, 0.5, -0.25))) * parent[key]
        elif kind == 6:
            parent[key] = draw(TREES)
        else:
            parent[key] = draw(LEAVES)
    return tree
