"""Audit of data access: the real images a client used, compared with those it may use.

Everything that leads from a shard to pixels leads through `Images.stream`, so a client is handed images that
note which of them were asked for. A client may use the images it holds of the task (of all tasks so far, for a
strategy whose `data` is "seen"), and those of earlier tasks that `client.keep` kept. When it answers, what was
used is compared with that, image by image, and goes to the server beside the update: the classes that were used,
those that were allowed, and an error message if it used others, which ends the run.

Nothing is copied but numbers of images, and no random stream is touched. What cannot be seen: pixels that a
strategy copies into a tensor of its own, what it reads from a disk by itself, and the nets and gradients it sends.

Test images are with the server, which shows them to `predict` alone. Traces of them in the server's state
would reach the clients, so `asserted_unchanged` checks that there are none.
"""

from __future__ import annotations

import json
from collections.abc import Iterable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field, replace
from typing import Any, cast

import torch
from flwr.app import ConfigRecord, Message
from torch import Tensor

from fcil.data import Scenario, Shard
from fcil.data.images import Images
from fcil.errors import LeakError, printable
from fcil.federation.messages.replies import InvalidReplyError
from fcil.io.state import flatten
from fcil.roles import Client, Server, are_samples
from fcil.types import State, Tensors

RECORD = "audit"
"""Name of the record in a reply."""


class AuditedImages(Images):
    """The same images, noting which are asked for."""

    def __init__(self, images: Images) -> None:
        self._images = images
        self.y, self.shape, self.device = images.y, images.shape, images.device
        self.used: list[Tensor] = []
        """Positions of images, batch by batch; tensors that exist anyway."""

    def stream(self, batches: Iterable[Tensor], generator: torch.Generator | None = None) -> Iterator[Tensor]:
        return self._images.stream(self._noted(batches), generator)

    def _noted(self, batches: Iterable[Tensor]) -> Iterator[Tensor]:
        for indices in batches:
            self.used.append(indices)
            yield indices


# On a client --------------------------------------------------------------------------------------


@dataclass(frozen=True)
class Audit:
    """One client and one message: what it may use, and what it has used."""

    scenario: Scenario
    task: int
    client: int
    images: AuditedImages
    held: Shard
    """Images of the task, with true labels."""
    kept: Tensors | None
    """`indices` and `labels` of the exemplars that the client held when it was asked; None for no exemplars."""

    @classmethod
    def of(cls, scenario: Scenario, task: int, client: int, shard: Shard, memory: State) -> Audit:
        """An audit whose `held` is the shard to hand to the client."""
        images = AuditedImages(shard.images)
        return cls(scenario, task, client, images, replace(shard, images=images), samples_of(memory, shard.indices))

    def record(
        self, client: Client, *, batches_of_one: int = 0, private: frozenset[str] = frozenset(), pieces: int = 0
    ) -> ConfigRecord:
        """Return the client's report to the server when it is done.

        Args:
            batches_of_one: training batches of one image at which batch norm had no variance.
            private: tensors of its answer that hold pieces of its samples.
            pieces: shapelets in its answer, which are raw pieces of its series, where they may be sent.
        """
        used = torch.zeros(len(self.images), dtype=torch.bool, device=self.held.indices.device)
        for indices in self.images.used:
            used[indices.to(used.device)] = True
        own = [(self.held.indices, self.held.labels)]
        if self.kept is not None:
            own.append((self.kept["indices"], self.kept["labels"]))
        touched = _classes(labels[used[rows]] for rows, labels in own)
        allowed = _classes(labels for _, labels in own)
        for rows, _ in own:
            used[rows] = False
        now = samples_of(client.memory, self.held.indices)
        found = self._not_its_own(used)
        leak = f"used {found}" if found else self._kept_too_much(now, client.most_exemplars)
        if private and not leak:
            leak = f'sends "{min(private)}", which holds pieces of its samples and stays with it'
        told = {
            "touched": touched,
            "allowed": allowed,
            "kept": 0 if now is None else len(now["indices"]),
            "drawn": client.drawn,
            "leak": leak,
            "batches_of_one": batches_of_one,
            "pieces": pieces,
        }
        return ConfigRecord({RECORD: json.dumps(told)})

    def _kept_too_much(self, now: Tensors | None, most: int | None) -> str:
        """Return the error of the exemplars that the client holds now; nothing if there is none."""
        if now is None:
            return ""
        if most is not None and len(now["indices"]) > most:
            return f"keeps {len(now['indices'])} {self.scenario.dataset.kind}; federation.exemplars allows {most}"
        others = torch.zeros(len(self.images), dtype=torch.bool, device=self.held.indices.device)
        others[now["indices"]] = True
        others[self.held.indices] = False
        if self.kept is not None:
            others[self.kept["indices"]] = False
        found = self._not_its_own(others)
        return found and f"keeps {found}"

    def _not_its_own(self, mask: Tensor) -> str:
        """Images (a mask over all) in words: of which class, and whose; nothing for no image."""
        if not bool(mask.any()):
            return ""
        rows = mask.nonzero().flatten()
        new = {original: label for label, original in enumerate(self.scenario.order)}
        labels = [new.get(original, -1) for original in self.images.y[rows.cpu()].tolist()]
        label = min(labels)
        row = rows[labels.index(label)]
        if self.scenario.domains:
            task = self.scenario.tasks[
                self.scenario.tasks_of(self.scenario.dataset.train, row[None].cpu().numpy())[0] - 1
            ]
        else:
            task = next(t for t in self.scenario.tasks if label < t.num_seen)
        own = bool((self.scenario.shard(task.number, self.client).indices == row).any())
        later = "which has not come yet" if task.number > self.task else "which it has not kept"
        whose = later if own else "which it does not hold"
        more = len(set(labels)) - 1
        others = f" and of {more} more class{'es' * (more > 1)}" if more else ""
        count = labels.count(label)
        name = self.scenario.tasks[-1].names[label]
        what = self.scenario.dataset.one if count == 1 else self.scenario.dataset.kind
        return f'{count} {what} of class {label} ("{name}", task {task.number}){others}, {whose}'


def _classes(labels: Iterable[Tensor]) -> list[int]:
    return sorted({int(label) for some in labels for label in some.unique().tolist()})  # type: ignore[no-untyped-call]


def samples_of(memory: State, near: Tensor) -> Tensors | None:
    """All samples that `client.keep` has put into a client's memory, together, where `near` lies; None for none."""
    found = [cast(Tensors, value) for value in memory.values() if are_samples(value)]
    if not found:
        return None
    return {key: torch.cat([one[key] for one in found]).to(near.device) for key in ("indices", "labels")}


# On the server ------------------------------------------------------------------------------------


@dataclass(frozen=True)
class ClientReport:
    """Report of a client on itself in its reply, beside its update."""

    touched: list[int]
    """Classes of the real images that it has used, by label."""
    allowed: list[int]
    """Classes of those that it may use."""
    kept: int
    """Exemplars that it holds now."""
    drawn: dict[str, int]
    """Images drawn from each shared pool; 0 for a shared module that was built."""
    leak: str
    """Description of a forbidden access; empty if there was none."""
    batches_of_one: int = 0
    """Training batches of one image, at which batch norm took the running statistics where a map was 1 x 1."""
    pieces: int = 0
    """Shapelets that it sent, raw pieces of its series."""


def read_audit(reply: Message) -> ClientReport | None:
    """Return the client's report in a reply; None if there is none.

    Raises:
        InvalidReplyError: it is not what our clients write.
    """
    if RECORD not in reply.content:
        return None
    try:
        told = ClientReport(**json.loads(str(cast(ConfigRecord, reply.content[RECORD])[RECORD])))
    except (KeyError, TypeError, ValueError, RecursionError) as error:
        raise InvalidReplyError(f"its audit cannot be read ({error})") from None
    numbers = [-1]
    if _is_sound(told):
        numbers = [*told.touched, *told.allowed, told.kept, *told.drawn.values(), told.batches_of_one, told.pieces]
    if not all(type(n) is int and 0 <= n < 2**40 for n in numbers):
        raise InvalidReplyError("its audit holds what is no count")
    return told


def _is_sound(told: ClientReport) -> bool:
    lists = isinstance(told.touched, list) and isinstance(told.allowed, list)
    return lists and isinstance(told.drawn, dict) and isinstance(told.leak, str)


Classes = tuple[list[int], list[int]]
"""Touched and allowed, by label."""


@dataclass
class AuditLog:
    """Reports of clients since the task began, and since the last line was written."""

    clients: dict[int, Classes] = field(default_factory=dict)
    """Classes by client; an entry is replaced, never changed."""
    _drawn: dict[str, int] = field(default_factory=dict)
    _kept: int = 0
    _pieces: int = 0
    _single: set[int] = field(default_factory=set)

    def note(self, place: str, client: int, told: ClientReport) -> None:
        """Take in what a client has told.

        Raises:
            LeakError: it used, or keeps, what it may not.
        """
        if told.leak:
            raise LeakError(
                f"client {client}, {place}: {printable(told.leak)}; "
                "a strategy may use client.shard and what client.keep has kept"
            )
        before: Classes = self.clients.get(client, ([], []))
        now = (told.touched, told.allowed)
        self.clients[client] = cast(Classes, tuple(sorted({*a, *b}) for a, b in zip(before, now, strict=True)))
        for name, count in told.drawn.items():
            self._drawn[name] = self._drawn.get(name, 0) + count
        self._kept += told.kept
        self._pieces += told.pieces
        if told.batches_of_one:
            self._single.add(client)

    def line(self) -> dict[str, Any]:
        """Return the fields of a line of `rounds.jsonl`, once: what was drawn from each pool, the exemplars held,
        the clients with a batch of one image at which batch norm had no variance, and the shapelets that were sent.
        """
        drawn, kept, single = dict(sorted(self._drawn.items())), self._kept, sorted(self._single)
        found: dict[str, Any] = {"drawn": drawn, "exemplars": kept, "batches_of_one": single}
        found["shapelets_sent"] = self._pieces
        self._drawn, self._kept, self._pieces, self._single = {}, 0, 0, set()
        return {key: value for key, value in found.items() if value}

    def end(self) -> dict[str, Any]:
        """The classes that each client has touched in the task, and those it was allowed to; forgotten from now on."""
        clients, self.clients = sorted(self.clients.items()), {}
        return {key: {str(c): both[i] for c, both in clients} for i, key in enumerate(("touched", "allowed"))}

    def values(self) -> dict[str, list[list[int]]]:
        """Return the values for a checkpoint."""
        return {str(client): list(both) for client, both in self.clients.items()}

    @classmethod
    def restored(cls, values: dict[str, list[list[int]]]) -> AuditLog:
        return cls({int(client): (touched, allowed) for client, (touched, allowed) in values.items()})


@contextmanager
def asserted_unchanged(server: Server, kind: str) -> Iterator[None]:
    """Check that a block in which test images are shown leaves the server's state as it was.

    Args:
        kind: of the samples, for the error message.
    Raises:
        LeakError: it did not; what is kept of a test image may reach the clients.
    """
    before = _state(server)
    yield
    after = _state(server)
    for name in {**before, **after}:
        if name not in before or name not in after or not _same(before[name], after[name]):
            raise LeakError(
                f"server.{name} has changed while test {kind} were shown to predict; they stay on the server"
            )


def _state(server: Server) -> dict[str, tuple[Any, int]]:
    tensors, scalars = flatten({"net": server.net.state_dict(), "shared": server.shared, "memo": server.memo})
    plain = {name: (value, 0) for name, value in scalars.items() if not name.endswith("/")}  # a mapping that is empty
    # What is made in inference mode has no version; the state of a server is not.
    versions = {name: (t, -1 if t.is_inference() else t._version) for name, t in tensors.items()}
    return {name.replace("/", "."): value for name, value in (plain | versions).items()}


def _same(before: tuple[Any, int], after: tuple[Any, int]) -> bool:
    if isinstance(before[0], Tensor):
        # A net's tensors are other objects at each call, on the same memory.
        alike = isinstance(after[0], Tensor) and before[0].data_ptr() == after[0].data_ptr()
        return alike and before[1] == after[1]
    return before == after
