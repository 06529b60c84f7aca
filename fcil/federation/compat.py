"""Every touch of what flwr 1.41 and 1.42 do not document. If a new flwr breaks something, it breaks here."""

from __future__ import annotations

import io
import uuid
from pathlib import Path
from typing import Any

import numpy as np
import torch
from flwr.app import Array, Context, Error, Message, RecordDict
from flwr.common.config import get_project_dir
from flwr.common.constant import ErrorCode, SType
from flwr.supercore.run import Run
from flwr.supercore.task_identity import TaskIdentity
from numpy.typing import NDArray
from torch import Tensor

RAISED = ErrorCode.CLIENT_APP_RAISED_EXCEPTION
CRASHED = ErrorCode.CLIENT_APP_CRASHED
TIMED_OUT = ErrorCode.REPLY_MESSAGE_UNAVAILABLE


class RefArray(Array):
    """A flwr `Array` that holds its numbers in memory and serialises only if bytes are read.

    Within a process it moves by reference; pickled by Ray it becomes one out-of-band buffer, so
    workers read it from shared memory without a copy. Flower's own engines see ordinary bytes.
    """

    def __init__(self, numbers: NDArray[Any] | Tensor) -> None:
        kind = str(numbers.dtype).removeprefix("torch.")
        self.__dict__.update(_numbers=numbers, _blob=None, dtype=kind, shape=tuple(numbers.shape), stype=SType.NUMPY)

    @property
    def data(self) -> bytes:
        if self.__dict__["_blob"] is None:
            buffer = io.BytesIO()
            np.save(buffer, self.numpy(), allow_pickle=False)
            self.__dict__["_blob"] = buffer.getvalue()
        return self.__dict__["_blob"]  # type: ignore[no-any-return]

    @data.setter
    def data(self, value: bytes) -> None:
        self.__dict__.update(_blob=value, _numbers=np.load(io.BytesIO(value), allow_pickle=False))

    def numpy(self) -> NDArray[Any]:
        numbers = self.__dict__["_numbers"]
        return numbers.numpy() if isinstance(numbers, Tensor) else numbers

    def tensor(self) -> Tensor:
        """Return a tensor on the same memory, which may be shared with other processes: read only."""
        numbers = self.__dict__["_numbers"]
        return numbers.detach() if isinstance(numbers, Tensor) else torch.from_numpy(numbers)

    def deflate(self) -> bytes:
        # Flower writes the name of the class into what it sends, and knows only its own.
        return Array(self.dtype, self.shape, self.stype, self.data).deflate()

    def __reduce__(self) -> tuple[Any, ...]:
        return (RefArray, (self.numpy(),))


def new_run(run_id: int) -> Run:
    """A run that no SuperLink knows, and this process as its task: `Message` asks for both."""
    TaskIdentity.task_id, TaskIdentity.run_id, TaskIdentity.node_id = 1, run_id, 1
    return Run.create_empty(run_id=run_id)


def app_folder(run: Run) -> Path | None:
    """Return the folder where Flower has unpacked the app of a run; None for a run that was not submitted as one."""
    return get_project_dir(run.fab_id, run.fab_version, run.fab_hash) if run.fab_hash else None


def new_context(run_id: int, node_id: int, node_config: dict[str, Any]) -> Context:
    return Context(run_id=run_id, node_id=node_id, node_config=node_config, state=RecordDict(), run_config={})


def give_id(message: Message) -> str:
    """Number a message, as Flower's grids do when they send it."""
    number = uuid.uuid4().hex
    message.metadata.__dict__["_message_id"] = number
    return number


def error_reply(message: Message, code: int, reason: str) -> Message:
    reply = Message(Error(code=code, reason=reason), reply_to=message)
    give_id(reply)
    return reply
