"""Around the ClientApp: the mods of a federation, and what malicious clients send in place of what they trained."""

from __future__ import annotations

from collections.abc import Callable
from json import loads
from typing import Any, cast

from flwr.app import ArrayRecord, ConfigRecord, Context, Message, MetricRecord, RecordDict

from fcil.federation.codec import to_arrays, to_tensors
from fcil.federation.plan import Plan
from fcil.federation.protection.bn_variance import with_variance_floor
from fcil.federation.protection.clipping import add_noise, clip, gaussian_std
from fcil.federation.protection.malicious import malicious
from fcil.federation.protection.mods import (
    NORM_BIT,
    SHARED_NORM,
    AdaptiveClipping,
    ArraysSize,
    FixedClipping,
    LocalDp,
    MessageSize,
    Mod,
    Mods,
)
from fcil.rng import generator

CallNext = Callable[[Message, Context], Message]
LOG = "log"
"""The record of a reply that holds what mods have logged."""
LONGEST, MOST = 2000, 20
"""Characters of a line, and lines of a reply, that the server takes into its log."""
Who = tuple[int, int, int]
"""Identity of a call: task, round and client."""


def around(mods: Mods, seed: int, who: Who, message: Message, context: Context, call_next: CallNext) -> Message:
    """Call the app with the mods around it, and return its reply as they leave it.

    No mod changes what a client receives, so all are called when it has trained. What the size mods log
    goes with the reply to the server's log (see `said`); on a worker it would not be read.
    """
    reply = call_next(message, context)
    if not mods.chosen or reply.has_error() or "weights" not in reply.content:
        return reply
    task, round, client = who
    lines: list[str] = []
    for mod in reversed(mods.chosen):
        if isinstance(mod, ArraysSize | MessageSize):
            size = _arrays_size if isinstance(mod, ArraysSize) else _message_size
            lines = [f"Incoming {size(message.content)}", f"Outgoing {size(reply.content)}", *lines]
        else:
            _protect(mod, (seed, mod.name, *who), message, reply)
    if lines:
        place = f"client {client}, task {task}, round {round}"
        before = cast(list[str], cast(ConfigRecord, reply.content[LOG])["lines"]) if LOG in reply.content else []
        reply.content[LOG] = ConfigRecord({"lines": [*before, *(f"{place}: {line}" for line in lines)]})
    return reply


def _protect(mod: Mod, key: tuple[int | str, ...], message: Message, reply: Message) -> None:
    """Put the weights that a mod makes of the reply's in their place."""
    start, weights = (to_tensors(cast(ArrayRecord, m.content["weights"])) for m in (message, reply))
    match mod:
        case LocalDp():
            weights, _ = clip(weights, start, mod.clip)
            weights = add_noise(weights, start, gaussian_std(mod.sensitivity, mod.epsilon, mod.delta), key)
        case FixedClipping():
            weights, _ = clip(weights, start, mod.norm)
        case AdaptiveClipping():
            shared: Any = message.content.get(f"values/{SHARED_NORM}")
            norm = mod.norm if shared is None else float(loads(str(shared["values"]))[SHARED_NORM])
            weights, shortened = clip(weights, start, norm)
            cast(MetricRecord, reply.content["metrics"])[NORM_BIT] = int(shortened)
    reply.content["weights"] = to_arrays(with_variance_floor(weights, start))


def forge(plan: Plan, who: Who, message: Message, reply: Message) -> None:
    """Put what a malicious client sends in place of what its training has made.

    Args:
        who: task, round and client.
    """
    attack = plan.federation.attack
    if attack is None or not attack.forges or who[-1] not in malicious(plan) or "weights" not in reply.content:
        return
    start, honest = (to_tensors(cast(ArrayRecord, m.content["weights"])) for m in (message, reply))
    stream = generator(plan.seed, "attack", *who)
    lies = {
        name: attack.forged(t, start[name], stream) if t.is_floating_point() and name in start else t
        for name, t in honest.items()
    }
    reply.content["weights"] = to_arrays(with_variance_floor(lies, start))


def _arrays_size(content: RecordDict) -> str:
    sizes = {name: (sum(a.numpy().size for a in r.values()), _bytes(r)) for name, r in content.array_records.items()}
    told = {name: {"elements": elements, "bytes": size} for name, (elements, size) in sizes.items()}
    return f"arrays: {told}, {sum(size for _, size in sizes.values())} bytes in all"


def _message_size(content: RecordDict) -> str:
    return f"message size: {sum(map(_bytes, content.values()))} bytes"


def _bytes(record: ArrayRecord | ConfigRecord | MetricRecord) -> int:
    """Bytes of a record; of arrays those of their numbers alone, as `bytes_up` and `bytes_down` count them."""
    if isinstance(record, ArrayRecord):
        return sum(array.numpy().nbytes for array in record.values())
    return record.count_bytes()


def said(reply: Message) -> list[str]:
    """Return what the mods of a client have logged: untrusted input, made printable and no longer than lines are."""
    record = reply.content.get(LOG)
    lines = record.get("lines") if isinstance(record, ConfigRecord) else None
    told = [line for line in lines if isinstance(line, str)] if isinstance(lines, list) else []
    return ["".join(c for c in line if c.isprintable())[:LONGEST] for line in told[:MOST]]
