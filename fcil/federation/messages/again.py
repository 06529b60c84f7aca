"""A finished run, asked again: its server as the last checkpoint has it, and what a client sent when tasks ended."""

from __future__ import annotations

import json
from collections.abc import Iterator, Sequence
from pathlib import Path

from flwr.app import ArrayRecord, ConfigRecord, Message, MetricRecord, RecordDict

from fcil.errors import TrainingError
from fcil.federation.checkpoint import Checkpoints
from fcil.federation.client import AFTER_TASK, client_app
from fcil.federation.codec import to_arrays
from fcil.federation.context import RunContext
from fcil.federation.grids import InProcessGrid
from fcil.federation.messages.failures import reason_of
from fcil.federation.messages.replies import Expected, InvalidReplyError, read_update
from fcil.federation.messages.sharing import Shared
from fcil.federation.runtime.worker import Sites
from fcil.roles import Server
from fcil.types import Task, Update


class FinishedRun:
    """A run that is over: its server, which belongs to no run any more, and its clients in this process."""

    def __init__(self, context: RunContext, folder: Path) -> None:
        """Read the last checkpoint in the folder of the run, which is left as it is.

        Raises:
            StoreError: it is gone, damaged, or not that of the run's end.
        """
        plan = context.plan
        self.context = context
        self._grid = InProcessGrid(client_app(Sites(context.for_clients)), plan.federation.clients)
        self.server: Server = context.first_server()
        checkpoints = Checkpoints(folder / "checkpoints", plan.decisive | {"seed": plan.seed})
        checkpoints.go_to_end(self.server, self._grid, context.tasks)
        self._shared = Shared()
        self._shared.update(self.server.shared)
        self._weights = to_arrays(self.server.net.weights())

    def sent_again(self, client: int, tasks: Sequence[Task]) -> Iterator[tuple[Task, Update]]:
        """Yield what `after_local_task` of a client returns at the end of each task, where it returns anything.

        Raises:
            TrainingError: it raised something, or what it returned could not have been taken.
        """
        strategy, scenario = self.context.plan.strategy.strategy, self.context.scenario
        expected = Expected.of(self.server.net, strategy, scenario, training=False)
        for task in tasks:
            (reply,) = self._grid.send_and_receive([self._question(client, task)])
            try:
                if reply.has_error():
                    raise InvalidReplyError(reason_of(reply)[0])
                update = read_update(reply, expected)
            except InvalidReplyError as error:
                raise TrainingError(f"client {client}, task {task.number}: {error}") from None
            if update is not None:
                yield task, update

    def _question(self, client: int, task: Task) -> Message:
        plan, head = self.context.plan, self.server.net.text_head
        job = {
            "task": task.number,
            "round": plan.federation.rounds,
            "lr": 0.0,
            "text_width": None if head is None else head.out_features,
            "shared": self._shared.hashes(),
        }
        content: dict[str, ArrayRecord | MetricRecord | ConfigRecord] = {
            "weights": self._weights,
            "config": ConfigRecord({"job": json.dumps(job)}),
            "plan": ConfigRecord({"plan": plan.to_json()}),
            **self._shared.records(),
        }
        place = f"{task.number}/{plan.federation.rounds}"
        return Message(RecordDict(content), client + 1, AFTER_TASK, group_id=place)
