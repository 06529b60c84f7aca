"""iCaRL: herded exemplars on every client, distillation, and classification by the nearest mean of exemplars.

Paper: Rebuffi et al., "iCaRL: Incremental Classifier and Representation Learning", CVPR 2017,
arXiv:1611.07725. Federated here as directly as can be: every client is an iCaRL learner with a budget of
its own, and the means of exemplars are taken over all clients. (`replay` is what other tables call iCaRL.)

    sigmoid:  L = BCE(z_old, sigmoid(z_old^T / soften)) + BCE(z_new, onehot(y))   on new images and exemplars
    softmax:  L = CE(z, y) + KD(z_old, z_old^T)                          on the same
    predict:  argmin_c |f/|f| - mu_c|,   mu_c the mean of the unit features of class c's exemplars, of length 1

T is the global net at the end of the last task. In the sigmoid form, the paper's, the target of an exemplar is T's
output and not its label. The code of "Three types of incremental learning" (GMvandeVen/continual-learning @ e6d795a,
`models/classifier.py`) has a temperature of 2 there, on the teacher's side alone.

When a task ends, clients send the sum of the unit features of their exemplars, class by class, and their
number. That tells the server, beyond the weights, which classes a client holds and their average
features; for a class with one exemplar it is that image's feature, from which the image may be guessed.

Until the means of a new task exist, in the rounds of a task, `predict` uses the largest logit.

Shapes: B batch, C classes seen, K of them old, F feature width.
"""

from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from typing import ClassVar, Literal

import torch
import torch.nn.functional as F
from torch import Tensor

from fcil import Batch, Client, Count, Positive, Server, State, Strategy, Terms, Update
from fcil.exemplars import balanced, class_sums, nearest_mean, room_for, unit_features, update_exemplars
from fcil.losses import sigmoid_cross_entropy, soft_cross_entropy
from fcil.nets import Net


@dataclass(frozen=True, kw_only=True)
class ICaRL(Strategy):
    exemplars: Count = 2000
    """Exemplars of a client in all (`K` of the paper, for CIFAR-100), in equal shares for the classes it has met."""
    per_class: Count | None = None
    """Exemplars of every class instead, so that memory grows with the classes (often 20)."""
    loss: Literal["sigmoid", "softmax"] = "sigmoid"
    """Binary cross-entropy for each class (paper), or a softmax over all with a distillation term (common code)."""
    temperature: Positive = 2.0
    """Temperature of both sides of the distillation in the softmax form; there is no factor of its square."""
    soften: Positive = 1.0
    """Temperature of the teacher alone in the sigmoid form: 1 (paper); 2 in van de Ven's study of Split-MNIST."""
    classify: Literal["means", "logits"] = "means"
    """Rule of classification: the nearest mean of exemplars (paper), or the largest logit."""

    later: ClassVar[frozenset[str]] = frozenset({"soften"})

    needs: ClassVar[frozenset[str]] = frozenset({"exemplars"})
    paper = 'Rebuffi et al., "iCaRL: Incremental Classifier and Representation Learning", CVPR 2017, arXiv:1611.07725'
    uses = frozenset({"teacher"})
    servers = Strategy.servers
    loss_terms = ("ce", "kd")
    broadcasts = ("means", "teacher")

    def keeps(self, met: Sequence[int]) -> int:
        return room_for(met, self.exemplars, self.per_class)

    # Client -----------------------------------------------------------------------------------

    def local_loss(self, client: Client, batch: Batch) -> Terms:
        logits, old = client.net(batch.x).logits, client.task.num_old  # (B, C)
        if self.loss == "sigmoid":
            new = F.one_hot(batch.y, client.task.num_seen)[:, old:].to(logits.dtype)  # (B, C - K)
            terms = {"ce": sigmoid_cross_entropy(logits[:, old:], new)}
        else:
            terms = {"ce": F.cross_entropy(logits, batch.y)}
        if client.task.first:
            return terms
        with torch.no_grad():
            teacher = client.frozen_output("teacher", batch.x).logits  # (B, K)
        if self.loss == "sigmoid":
            kd = sigmoid_cross_entropy(logits[:, :old], (teacher / self.soften).sigmoid())
        else:
            kd = soft_cross_entropy(logits[:, :old], teacher, self.temperature)
        return terms | {"kd": kd}

    def local_train(self, client: Client) -> Update:
        client.shard = client.shard.joined(client.kept("exemplars"))  # they count as examples in the average too
        return client.train(self.local_loss, self.trainable(client.net), lend=True)

    def after_local_task(self, client: Client) -> Update | None:
        old, new = client.kept("exemplars"), client.shard
        met = torch.cat([old.labels, new.labels])
        shares = balanced(met, self.exemplars)
        if self.per_class:
            shares = dict.fromkeys(shares, self.per_class)
        chosen = update_exemplars(client.net, old, new, shares)
        client.keep("exemplars", chosen)
        if not len(chosen) or self.classify == "logits":
            return None
        sums, counts = class_sums(unit_features(client.net, chosen), chosen.labels, client.task.num_seen)
        return Update({"sums": sums, "counts": counts}, len(chosen))

    # Server -----------------------------------------------------------------------------------

    def after_task(self, server: Server, updates: Iterable[Update]) -> None:
        if updates:
            sums = sum(u.weights["sums"] for u in updates)  # (C, F)
            server.shared["means"] = F.normalize(sums, dim=1)  # a mean and its sum have the same direction
        if not server.task.last:
            server.shared["teacher"] = server.net.weights()

    def predict(self, net: Net, x: Tensor, shared: State) -> Tensor:
        out, means = net(x), shared.get("means")
        if self.classify == "logits" or means is None or len(means) != net.num_classes:
            return out.logits
        return nearest_mean(out.features, means)
