"""Finetune: federated averaging with no defence against forgetting; the lower bound.

Paper: McMahan et al., "Communication-Efficient Learning of Deep Networks from Decentralized
Data", AISTATS 2017, arXiv:1602.05629.
"""

from dataclasses import dataclass
from typing import Literal

from fcil import Batch, Client, Strategy, Terms
from fcil.losses import new_class_cross_entropy


@dataclass(frozen=True, kw_only=True)
class Finetune(Strategy):
    classes: Literal["seen", "new"] = "seen"
    """Logits in the cross-entropy: of all classes seen, or of the new ones alone as in TARGET's lineage of code."""

    paper = (
        'McMahan et al., "Communication-Efficient Learning of Deep Networks from Decentralized Data", AISTATS '
        "2017, arXiv:1602.05629"
    )
    scenarios = frozenset({"classes", "domains"})
    loss_terms = ("ce",)
    plain_loss = True

    def local_loss(self, client: Client, batch: Batch) -> Terms:
        old = client.task.classes.start if self.classes == "new" else 0
        return {"ce": new_class_cross_entropy(client.net(batch.x).logits, batch.y, old)}
