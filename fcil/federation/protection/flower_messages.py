"""What Flower's mods are handed in place of our messages.

They expect one record of arrays, real numbers alone, that comes back whole. So:

- Clipping and noise get the real tensors that were sent and came back. Batch counters, what a strategy
  adds of its own and what the server shares pass by them.
- These tensors cannot be written to: ours lie in memory that other clients read.
- A tensor without dimensions would return neither clipped nor noised, and a client that has not moved
  would be divided by zero; both are given a form that works.
- Variances that noise has taken below zero are made usable again.
- Noise comes from NumPy's global stream, which is seeded for the call and put back after it.
"""

from __future__ import annotations

import copy
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from typing import Any, cast

import numpy as np
from flwr.app import Array, ArrayRecord, ConfigRecord, Context, Message, MetricRecord, RecordDict
from numpy.typing import NDArray

from fcil.errors import TrainingError
from fcil.federation.codec import to_arrays, to_tensors
from fcil.federation.compat import RefArray
from fcil.federation.protection.bn_variance import settled
from fcil.rng import Key, derive

CallNext = Callable[[Message, Context], Message]
FlowerMod = Callable[[Message, Context, CallNext], Message]
_STILL = "(still)"


def rewrite(
    mod: FlowerMod, message: Message, reply: Message, context: Context, config: Mapping[str, float]
) -> MetricRecord:
    """Let a mod that clips or adds noise change the reply's weights; returns the metrics it adds.

    Args:
        config: what the mod wants to be told by the server.
    Raises:
        TrainingError: the mod refuses the message.
    """
    sent, back = (cast(ArrayRecord, m.content["weights"]) for m in (message, reply))
    ours = {name: array.numpy() for name, array in back.items()}
    names = [name for name in ours if name in sent and np.issubdtype(ours[name].dtype, np.floating)]
    before = {name: _read_only(sent[name].numpy()) for name in names}
    after = {name: _read_only(ours[name]) for name in names}
    # Flower divides by the length of the step: this adds 1e-60 to its square, which only a zero can feel.
    before[_STILL], after[_STILL] = np.zeros(1), np.full(1, 1e-30)
    inner = _with(message, {"weights": _record(before), "config": ConfigRecord(dict(config))})
    answer = _with(reply, {"weights": _record(after), "metrics": MetricRecord()})
    result = mod(inner, context, lambda *_: answer)
    if result.has_error():
        raise TrainingError(str(result.error.reason))
    changed = cast(ArrayRecord, result.content["weights"])
    whole = {name: changed[name].numpy().reshape(ours[name].shape) if name in names else ours[name] for name in ours}
    reply.content["weights"] = to_arrays(settled(to_tensors(_record(whole)), to_tensors(sent)))
    return cast(MetricRecord, result.content["metrics"])


def weighable(message: Message) -> Message:
    """The same message for a mod that counts its bytes.

    Counting serialises arrays and keeps the bytes with them, which would double the memory of what
    the server shares; so the arrays are wrapped anew.
    """
    records: dict[str, ArrayRecord | ConfigRecord | MetricRecord] = {}
    for name, record in message.content.items():
        if isinstance(record, ArrayRecord):
            record = _record({key: array.numpy() for key, array in record.items()})
        records[name] = record
    return _with(message, records)


@contextmanager
def numpy_seeded(*key: Key) -> Iterator[None]:
    """Run a block that draws from NumPy's global stream, and leave that stream as it was.

    Only for code of others that accepts no generator.
    """
    state = np.random.get_state()
    number = derive(*key)
    np.random.seed([number & 0xFFFFFFFF, number >> 32])
    try:
        yield
    finally:
        np.random.set_state(state)


def _with(message: Message, records: Mapping[str, Any]) -> Message:
    """The same message with other content; the message itself stays as it is."""
    other = copy.copy(message)
    other.content = RecordDict(dict(records))
    return other


def _record(arrays: Mapping[str, NDArray[Any]]) -> ArrayRecord:
    return ArrayRecord(cast("dict[str, Array]", {name: RefArray(array) for name, array in arrays.items()}))


def _read_only(array: NDArray[Any]) -> NDArray[Any]:
    view = np.atleast_1d(array).view()
    view.flags.writeable = False
    return view
