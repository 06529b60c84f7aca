"""FedLwF: learning without forgetting, by distilling the last task's global net on the new task's images.

Paper: Li and Hoiem, "Learning without Forgetting", ECCV 2016, arXiv:1606.09282. Federated as in
github.com/tmtuan1307/lander @ 44d7acc, methods/lwf.py, whose client update this is.

    task 1:  L = CE(z, y)
    task t:  L = CE(z_new, y) + keep KD(z_old, z_old^T)      on real images of the new classes

T is the global net at the end of the last task. The paper's KD has a temperature of 2 too; its weight is 1.

Central studies of Split-MNIST (van de Ven et al., Nature Machine Intelligence 2022; GMvandeVen/continual-learning
@ e6d795a, `models/classifier.py`) have CE over all classes seen, and a softmax over all of z in KD, in which the
teacher's share of new classes is zero: `classes: seen, softmax: seen, keep: 1`. Their replay, and LwF in the preprint
(arXiv:1904.07734, section 4), weighs the two terms by the number of tasks, in task t

    L = 1/t CE(z, y) + (1 - 1/t) keep KD(z, z_old^T),   keep = T^2 in the preprint

which the code's LwF does not (`lwf_weighting`).

Where tasks are domains, z_new and z_old are all of z: the new domain's images have labels of all classes, and T's
outputs for them are kept.
"""

from collections.abc import Iterable
from dataclasses import dataclass
from typing import Literal

import torch
import torch.nn.functional as F

from fcil import Batch, Client, Positive, Server, Strategy, Terms, Update, Weight
from fcil.losses import new_class_cross_entropy, soft_cross_entropy


@dataclass(frozen=True, kw_only=True)
class FedLwF(Strategy):
    keep: Weight = 3.0
    """Weight of the distillation (`lamda` of the code)."""
    temperature: Positive = 2.0
    """Temperature of both sides of the distillation (`T`); there is no T^2 factor."""
    classes: Literal["seen", "new"] = "new"
    """Logits in the cross-entropy: of all classes seen, or of the new ones alone as in the code."""
    shares: Literal["fixed", "tasks"] = "fixed"
    """Factors of the two terms: 1 and 1, or 1/t and 1 - 1/t in task t, so that every task so far counts the same."""
    softmax: Literal["old", "seen"] = "old"
    """Logits in the softmax of the distilled net: of old classes, or of all seen, where new ones should have none."""

    paper = 'Li and Hoiem, "Learning without Forgetting", ECCV 2016, arXiv:1606.09282'
    scenarios = frozenset({"classes", "domains"})
    uses = frozenset({"teacher"})
    later = frozenset({"classes", "shares", "softmax"})
    loss_terms = ("ce", "kd")
    broadcasts = ("teacher",)

    def local_loss(self, client: Client, batch: Batch) -> Terms:
        old = client.task.num_old
        new, kept = (1.0, 1.0) if self.shares == "fixed" else (1 / client.task.number, 1 - 1 / client.task.number)
        logits = client.net(batch.x).logits  # (B, C)
        terms = {"ce": new * new_class_cross_entropy(logits, batch.y, self.free(client))}
        if not client.task.first:
            with torch.no_grad():
                teacher = client.frozen_output("teacher", batch.x).logits  # (B, K)
            if self.softmax == "seen":
                teacher = F.pad(teacher, (0, logits.shape[1] - old), value=-torch.inf)
            distilled = logits[:, : teacher.shape[1]]
            terms["kd"] = kept * self.keep * soft_cross_entropy(distilled, teacher, self.temperature)
        return terms

    def free(self, client: Client) -> int:
        """Return the number of first logits that labels do not train."""
        return client.task.classes.start if self.classes == "new" else 0

    def after_task(self, server: Server, updates: Iterable[Update]) -> None:
        if not server.task.last:
            server.shared["teacher"] = server.net.weights()
