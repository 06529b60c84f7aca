"""FedLwF: distil the last task's global net on the new task's images (Li and Hoiem, ECCV 2016)."""

from collections.abc import Iterable
from dataclasses import dataclass

import torch
import torch.nn.functional as F

from fcil import Batch, Client, NonNegative, Positive, Server, Strategy, Terms, Update
from fcil.losses import soft_cross_entropy


@dataclass(frozen=True, kw_only=True)
class FedLwF(Strategy):
    keep: NonNegative = 3.0
    """Weight of the distillation."""
    temperature: Positive = 2.0
    """Softens both sides of it."""

    def local_loss(self, client: Client, batch: Batch) -> Terms:
        logits, old = client.net(batch.x).logits, client.task.num_old
        terms = {"ce": F.cross_entropy(logits[:, old:], batch.y - old)}
        if old:
            with torch.no_grad():
                teacher = client.frozen("teacher")(batch.x).logits
            terms["kd"] = self.keep * soft_cross_entropy(logits[:, :old], teacher, self.temperature)
        return terms

    def after_task(self, server: Server, updates: Iterable[Update]) -> None:
        server.shared["teacher"] = server.net.weights()
