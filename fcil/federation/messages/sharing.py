"""Values the server shares with clients besides the weights: sent by content, counted once per change.

Each entry of `server.shared` (a teacher, a pool, anchors) becomes a pair of records that stay the
same objects until the content changes. A grid stores a record once however many messages carry it,
and a client decodes it once; so the cost is one transfer per change, and that is what is counted.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field

from flwr.app import ArrayRecord, ConfigRecord
from torch import Tensor

from fcil.federation.codec import to_records
from fcil.io.state import digest, flatten, num_bytes
from fcil.types import State, Value

Versions = list[tuple[Tensor, int]]
"""Tensors and how often each was changed in place: equal versions mean equal content."""


@dataclass(frozen=True)
class Entry:
    """One shared value, encoded."""

    versions: Versions
    content_hash: str
    arrays: ArrayRecord
    values: ConfigRecord
    size: int  # bytes


@dataclass
class Shared:
    """The encoded form of `server.shared`, and who has received what."""

    entries: dict[str, Entry] = field(default_factory=dict)
    received: dict[int, dict[str, str]] = field(default_factory=dict)  # client -> name -> content hash

    def update(self, state: State) -> None:
        """Encode what is new or has changed, and forget what is no longer shared."""
        self.entries = {name: self._entry(name, value) for name, value in state.items()}

    def _entry(self, name: str, value: Value) -> Entry:
        tensors, scalars = flatten({name: value})
        versions = [(t, t._version) for t in tensors.values()]
        known = self.entries.get(name)
        if known is not None and not scalars and _same(known.versions, versions):
            return known
        content_hash = digest(tensors, scalars)
        if known is not None and known.content_hash == content_hash:
            return Entry(versions, content_hash, known.arrays, known.values, known.size)
        return Entry(versions, content_hash, *to_records({name: value}), num_bytes(tensors))

    def hashes(self) -> dict[str, str]:
        return {name: entry.content_hash for name, entry in self.entries.items()}

    def records(self) -> dict[str, ArrayRecord | ConfigRecord]:
        """Return the records of a message: `shared/<name>` and `values/<name>`."""
        records: dict[str, ArrayRecord | ConfigRecord] = {}
        for name, entry in self.entries.items():
            records[f"shared/{name}"], records[f"values/{name}"] = entry.arrays, entry.values
        return records

    def deliver(self, clients: Sequence[int]) -> int:
        """Bytes that these clients have not received before; from now on they have."""
        fresh = 0
        for client in clients:
            had = self.received.get(client, {})
            fresh += sum(e.size for name, e in self.entries.items() if had.get(name) != e.content_hash)
            self.received[client] = self.hashes()
        return fresh


def sizes(state: State) -> dict[str, int]:
    """Bytes of each thing that is shared, eight for a number or text; 0 for an empty mapping."""
    flat = {name: flatten({name: value}) for name, value in state.items()}
    return {name: num_bytes(t) + 8 * sum(not key.endswith("/") for key in plain) for name, (t, plain) in flat.items()}


def _same(known: Versions, now: Versions) -> bool:
    return len(known) == len(now) and all(a is b and i == j for (a, i), (b, j) in zip(known, now, strict=True))
