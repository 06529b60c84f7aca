"""FedProx: federated averaging in which clients stay near the global net; no defence against forgetting.

Paper: Li et al., "Federated Optimization in Heterogeneous Networks", MLSys 2020, arXiv:1812.06127.
Code it is compared with: github.com/SaraBabakN/MFCL-NeurIPS23 @ 8ab937b, clients/simple.py.

    L = CE(z, y) + mu/2 |theta - theta_start|^2

over the parameters that are trained; theta_start is what the round began with. BatchNorm's statistics
are no parameters and move freely.
"""

from dataclasses import dataclass
from typing import Literal

import torch

from fcil import Batch, Client, Strategy, Terms, Weight
from fcil.losses import new_class_cross_entropy, proximal


@dataclass(frozen=True, kw_only=True)
class FedProx(Strategy):
    mu: Weight = 0.01
    """Weight of the proximal term, MFCL's; the paper's grid is 0.001, 0.01, 0.1, 1, and each data set has its best."""
    distance: Literal["square", "norms"] = "square"
    """Proximal term: the squared distance (paper), or the sum of the norms tensor by tensor (MFCL's code)."""
    classes: Literal["seen", "new"] = "seen"
    """Logits in the cross-entropy: of all classes seen, or of the new ones alone as in TARGET's lineage of code."""

    paper = 'Li et al., "Federated Optimization in Heterogeneous Networks", MLSys 2020, arXiv:1812.06127'
    scenarios = frozenset({"classes", "domains"})
    servers = Strategy.servers - {"fednova"}  # the proximal term changes what a step weighs
    loss_terms = ("ce", "prox")

    def local_loss(self, client: Client, batch: Batch) -> Terms:
        old = client.task.classes.start if self.classes == "new" else 0
        trained = set(self.trainable(client.net))
        weights = {name: w for name, w in client.net.named_parameters() if name in trained}
        if self.distance == "square":
            way = proximal(weights, client.start)
        else:
            norms = [torch.linalg.vector_norm(w - client.start[name]) for name, w in weights.items()]
            way = torch.stack(norms).sum() / 2
        ce = new_class_cross_entropy(client.net(batch.x).logits, batch.y, old)
        return {"ce": ce, "prox": self.mu * way}
