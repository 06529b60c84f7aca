"""FedEWC: elastic weight consolidation, with one Fisher estimate for all clients.

Paper: Kirkpatrick et al., "Overcoming catastrophic forgetting in neural networks", PNAS 2017,
arXiv:1612.00796. Code: github.com/tmtuan1307/lander @ 44d7acc, methods/ewc.py, after PyCIL.

When a task ends, every client measures on its own images the curvature of the loss in each weight of the
global net: the diagonal of the empirical Fisher information, with the images' labels. The
server averages the clients' measurements, weighted by their examples, and in later tasks clients are penalised for
leaving the old net where the loss is curved.

    task 1:  L = CE(z, y)
    task t:  L = CE(z_new, y) + strength/2 sum_i F_i (theta_i - theta*_i)^2     theta* the last global net
    F = sum_k n_k F_k / sum_k n_k,   F_k = 1/n_k sum over images of (d CE(z, y) / d theta)^2

SGD with momentum m cannot follow a penalty of curvature strength F_i > 2 (1 + m) / lr, and ends in numbers that are not
finite. With `clip: stable` strength F_i, summed over tasks, stays within half of that.

For the classifier only the rows of old classes are penalised. Where tasks are domains all classes are old: z_new is
all of z, and all rows are penalised. Diagonals of Fisher matrices leave the clients.

Differs: in the reference code each client keeps F and theta* of its own net to itself, and the penalty is
computed on the server's copy of the net and not on the one that is trained. There it has no gradient, so
tables made with that code show plain fine-tuning on new logits under the name of EWC. Here it works, on
either side of `fidelity`.
"""

from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from math import inf
from typing import Literal, Self

import torch

from fcil import Batch, Client, Positive, Server, Strategy, Terms, Update, Weight, weighted_mean
from fcil.errors import TrainingError
from fcil.fidelity import Fidelity, resolve
from fcil.losses import new_class_cross_entropy, quadratic_penalty
from fcil.nets import Net
from fcil.types import Tensors

SIDES: dict[str, tuple[object, object]] = {
    # field: (the paper's method, or ours where the paper is silent; the released code)
    "strength": (10.0, 1000.0),  # 1000 belongs to the limit of 1e-4: without it, training diverges
    "gradients": ("sample", "batch"),
    "clip": ("stable", 1e-4),
    "over_tasks": ("sum", "mean"),
}


@dataclass(frozen=True, kw_only=True)
class FedEWC(Strategy):
    fidelity: Fidelity = "paper"
    """Side taken where paper and code differ, in every field that is null."""
    strength: Weight | None = None
    """Weight of the penalty (`lambda`): 10 (ours; the paper gives none for such data), or 1000 (reference)."""
    gradients: Literal["sample", "batch"] | None = None
    """Squared gradients: one image's in eval mode (paper), or an augmented batch's in train mode (reference)."""
    clip: Positive | Literal["stable"] | None = None
    """Largest entry that a client reports: half of what SGD can follow (`stable`; ours, the paper has none), or 0.0001
    (reference)."""
    over_tasks: Literal["sum", "mean"] | None = None
    """Fisher of several tasks: their sum (paper), or their mean with K/C for the old of K of C classes (reference); of
    domains (t - 1)/t."""
    classes: Literal["seen", "new"] = "new"
    """Logits in the cross-entropy: of all classes seen, or of the new ones alone as in the code."""

    paper = 'Kirkpatrick et al., "Overcoming catastrophic forgetting in neural networks", PNAS 2017, arXiv:1612.00796'
    scenarios = frozenset({"classes", "domains"})
    loss_terms = ("ce", "ewc")
    broadcasts = ("fisher", "optimum")

    @property
    def settled(self) -> Self:
        return resolve(self, self.fidelity, SIDES)

    # Client -----------------------------------------------------------------------------------

    def local_train(self, client: Client) -> Update:
        """Local epochs on `local_loss`; where they end in no number, say whether the penalty's step was too long."""
        try:
            return client.train(self.local_loss, self.trainable(client.net), lend=True)
        except TrainingError as error:
            largest = max((float(f.max()) for f in client.shared.get("fisher", {}).values()), default=0.0)
            bound = stable_curvature(client) / self.settled.strength if self.settled.strength else inf
            if not largest > bound:
                raise
            why = f"the largest Fisher value is {largest:.2g} and SGD follows {bound:.2g} at this rate and strength"
            raise TrainingError(f"{error} ({why}: strategy.clip=stable keeps it below)") from error

    def limit(self, client: Client) -> float:
        """Return the largest Fisher value that this client reports."""
        own = self.settled
        if own.clip != "stable":
            return own.clip
        terms = max(1, client.task.total - 1) if own.over_tasks == "sum" else 1
        return stable_curvature(client) / (2 * own.strength * terms) if own.strength else inf

    def local_loss(self, client: Client, batch: Batch) -> Terms:
        old = client.task.classes.start if self.classes == "new" else 0
        terms = {"ce": new_class_cross_entropy(client.net(batch.x).logits, batch.y, old)}
        if "fisher" in client.shared:
            weights = dict(client.net.named_parameters())
            drift = quadratic_penalty(weights, client.shared["optimum"], client.shared["fisher"])
            terms["ewc"] = self.settled.strength * drift
        return terms

    def after_local_task(self, client: Client) -> Update | None:
        if not len(client.shard):
            return None
        if self.settled.gradients == "sample":
            client.net.eval()  # one image has no batch statistics
            batches = client.shard.batches(1, augment=False, shuffle=False)
        else:
            client.net.train()
            batches = client.batches(0)
        fisher, limit = fisher_diagonal(client.net, batches, self.trainable(client.net)), self.limit(client)
        return Update({name: f.clamp(max=limit) for name, f in fisher.items()}, len(client.shard))

    # Server -----------------------------------------------------------------------------------

    def after_task(self, server: Server, updates: Iterable[Update]) -> None:
        if server.task.last or not updates:
            return
        task, fisher = server.task, weighted_mean(updates).weights
        share = 1 - 1 / task.number if task.domain else task.num_old / task.num_seen
        for name, old in server.shared.get("fisher", {}).items():
            rows = fisher[name][: len(old)]
            rows.copy_(rows + old if self.settled.over_tasks == "sum" else share * old + (1 - share) * rows)
        server.shared |= {"fisher": fisher, "optimum": server.net.weights()}


def stable_curvature(client: Client) -> float:
    """Return the largest curvature that this client's steps can follow, at the rate that a task begins with.

    SGD with momentum m and rate lr: 2 (1 + m) / lr (Polyak, "Some methods of speeding up the convergence of iteration
    methods", 1964). For other rules infinite: they divide a step by the size of the gradients.
    """
    rule = client.optimizer
    return 2 * (1 + rule.momentum) / rule.lr if rule.name == "sgd" else inf


def fisher_diagonal(net: Net, batches: Iterable[Batch], names: Sequence[str]) -> Tensors:
    """Return the mean over batches of the squared gradient of their mean cross-entropy, over all logits of the net."""
    weights = {name: w for name, w in net.named_parameters() if name in set(names)}
    fisher, count = {name: torch.zeros_like(w) for name, w in weights.items()}, 0
    for batch in batches:
        loss = new_class_cross_entropy(net(batch.x).logits, batch.y, 0)
        gradients = torch.autograd.grad(loss, list(weights.values()), allow_unused=True, materialize_grads=True)
        for total, g in zip(fisher.values(), gradients, strict=True):
            total += g.square()
        count += 1
    return {name: total / count for name, total in fisher.items()}
