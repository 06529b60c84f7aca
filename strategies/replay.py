"""Replay: every client keeps all its old images and draws some of them anew in each round.

The "iCaRL" of TARGET's and LANDER's tables, under an accurate name: github.com/tmtuan1307/lander @ 44d7acc
and github.com/zj-jayzhang/Federated-Class-Continual-Learning @ 0495292, methods/icarl.py. There is no
herding, no buffer and no nearest mean in it: `memory` limits the images a client replays in one round, not
those it keeps, and over a hundred rounds it sees everything again. `icarl` is the method of that name.

    task 1:  L = CE(z, y)
    task t:  L = CE(z, y) + keep KD(z_old, z_old^T)     on new images and `memory` random old ones

KD is a cross-entropy of softened outputs; T is the global net at the end of the last task.
"""

from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from typing import ClassVar

import torch
import torch.nn.functional as F

from fcil import Batch, Client, Count, Positive, Server, Strategy, Terms, Update, Weight
from fcil.losses import soft_cross_entropy


@dataclass(frozen=True, kw_only=True)
class Replay(Strategy):
    memory: Count = 2000
    """Old images in a client's round (`memory_size`): 2000 in LANDER's code, 300 in TARGET's."""
    keep: Weight = 1.0
    """Weight of the distillation; the code has none."""
    temperature: Positive = 2.0
    """Temperature of both sides of the distillation (`T`); there is no T^2 factor."""

    needs: ClassVar[frozenset[str]] = frozenset({"exemplars"})
    scenarios = frozenset({"classes", "domains"})
    uses = frozenset({"teacher"})
    servers = Strategy.servers
    loss_terms = ("ce", "kd")
    broadcasts = ("teacher",)

    def keeps(self, met: Sequence[int]) -> int:
        return sum(met)

    def replays(self, met: Sequence[int]) -> int:
        return min(self.memory, sum(met))

    def local_loss(self, client: Client, batch: Batch) -> Terms:
        logits, old = client.net(batch.x).logits, client.task.num_old  # (B, C)
        terms = {"ce": F.cross_entropy(logits, batch.y)}
        if not client.task.first:
            with torch.no_grad():
                teacher = client.frozen_output("teacher", batch.x).logits  # (B, K)
            terms["kd"] = self.keep * soft_cross_entropy(logits[:, :old], teacher, self.temperature)
        return terms

    def local_train(self, client: Client) -> Update:
        past, stream = client.kept("past"), client.generator("replay")
        drawn = torch.randperm(len(past), generator=stream)[: self.memory]
        client.shard = client.shard.joined(past.select(drawn))  # they count as examples in the average too
        return client.train(self.local_loss, self.trainable(client.net), lend=True)

    def after_local_task(self, client: Client) -> None:
        client.keep("past", client.kept("past").joined(client.shard))

    def after_task(self, server: Server, updates: Iterable[Update]) -> None:
        if not server.task.last:
            server.shared["teacher"] = server.net.weights()
