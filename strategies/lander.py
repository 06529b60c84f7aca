"""LANDER: data-free replay anchored to the text of the class names.

Paper: Tran et al., "Text-Enhanced Data-free Approach for Federated Class-Incremental Learning",
CVPR 2024, arXiv:2403.14101. Code: github.com/tmtuan1307/lander @ 44d7acc, methods/lander.py.

A frozen language model turns every class name into an anchor e_y. A linear head g beside the
classifier is pulled to within a radius of the anchor, so that every client and every task share
one feature space. When a task ends, the server inverts the global net into synthetic images
guided by the same anchors, and clients of the next task distil from them.

    task 1:  L = CE(z, y) + lambda B(g, e_y)
    task t:  L = a_cur [CE(z_new, y) + lambda B(g, e_y)]      on real images of the new classes
               + a_pre [KD(z_old, z_old^T) + |g - g^T|^2]     on synthetic images, T the last global net
    B(g, e) = max(0, |g - e|^2 / D - radius)
    a_cur = current (1 + 1/kappa) / delta,   a_pre = previous kappa delta
    kappa = log2(C/2 + 1),   delta = sqrt(K/C)                K of C classes are old

No term above separates old classes from new ones in the classifier: CE is over new logits, KD over old ones. `head`,
off by default, adds MFCL's term for it (NeurIPS 2023, arXiv:2311.07784), with T's prediction as synthetic labels:

    + head CE(h(stop f), y)                                  on both kinds of images, h the classifier alone

One more difference lies in the data: the reference partitions every task with a re-seeded
generator, `data.partition.draw: reference`.

Shapes: B batch, C classes seen, K of them old, D width of an anchor, N synthetic images a step.
"""

from collections.abc import Iterable
from dataclasses import dataclass, field
from math import inf, log2, sqrt
from typing import Annotated, ClassVar, Literal, Self

import torch
import torch.nn.functional as F
from torch import Tensor

from fcil import Batch, Client, NonNegative, Output, Positive, Server, Strategy, Synthesizer, Terms, Update, Weight
from fcil.fidelity import Fidelity, resolve
from fcil.losses import bounding, head_cross_entropy, new_class_cross_entropy, soft_cross_entropy
from fcil.nets import Forwards, outputs_of
from fcil.synthesis import Bound
from fcil.synthesis.nayer import NAYER
from fcil.types import Radius

SIDES: dict[str, tuple[object, object]] = {
    # field: (the paper's method, or ours where the paper is silent; the released code)
    "hinge": ("sample", "batch"),
    "weighting": ("examples", "uniform"),
    "select": ("last", "lowest-loss"),
}


@dataclass(frozen=True, kw_only=True)
class LANDER(Strategy):
    fidelity: Fidelity = "paper"
    """Side taken where paper and code differ, in every field that is null, the synthesizer's included."""
    radius: Annotated[NonNegative, Radius("bound")] = 0.015
    """Mean squared distance to its anchor that costs an image nothing (`r`, at the scale of CLIP text features)."""
    lam: Weight = 5.0
    """Weight of the bounding loss, on clients and in synthesis (`lambda_ltc`)."""
    current: Positive = 0.2
    """Base weight of learning the new classes (`alpha_cur`)."""
    previous: Positive = 0.4
    """Base weight of keeping the old ones (`alpha_pre`)."""
    temperature: Positive = 2.0
    """Temperature of both sides of the distillation (`tau`); there is no tau^2 factor."""
    synthetic: Positive = 1.0
    """Synthetic images per step, as a multiple of the batch size (`syn_bs`)."""
    synthesizer: Synthesizer = field(default_factory=NAYER)
    """Method by which the server makes images; any of `fcil list synthesizers`."""
    hinge: Literal["sample", "batch"] | None = None
    """A hinge for each image (paper), or one for the mean of the batch (reference)."""
    weighting: Literal["examples", "uniform"] | None = None
    """Weight of a client in the average: its examples (ours), or the same for all (reference)."""
    select: Literal["last", "lowest-loss"] | None = None
    """The net that ends a task: the last (ours), or the one with the lowest initial loss on clients (reference)."""
    head: Weight = 0.0
    """Weight of the classifier's cross-entropy over old and new classes together, on features left alone (MFCL's)."""
    forwards: Forwards = "two"
    """Real and synthetic images in a forward each, as the code has it, or in one, with BatchNorm statistics of both."""

    needs: ClassVar[frozenset[str]] = frozenset({"anchors"})
    paper = (
        'Tran et al., "Text-Enhanced Data-free Approach for Federated Class-Incremental Learning", CVPR 2024, '
        "arXiv:2403.14101"
    )
    uses = frozenset({"teacher", "samples"})
    servers = Strategy.servers
    loss_terms = ("ce", "bound", "kd", "embedding", "head")
    broadcasts = ("anchors", "synthetic", "teacher")

    later: ClassVar[frozenset[str]] = frozenset({"forwards"})

    @property
    def settled(self) -> Self:
        return resolve(self, self.fidelity, SIDES)

    @property
    def reads_metrics(self) -> bool:
        return self.settled.select == "lowest-loss"

    # Client -----------------------------------------------------------------------------------

    def local_loss(self, client: Client, batch: Batch) -> Terms:
        anchors, old = client.shared["anchors"], client.task.num_old  # anchors (C, D)
        if client.task.first:
            out = client.net(batch.x)  # logits (B, C), embedding (B, D)
            return {"ce": F.cross_entropy(out.logits, batch.y), "bound": self.bound(out, anchors[batch.y])}

        cur, pre = self.balance(old, client.task.num_seen)
        count = max(1, round(self.synthetic * client.batch_size))
        synthetic = client.draw("synthetic", count)  # (N, channels, H, W)
        if self.forwards == "one" or self.head:
            out, student = outputs_of(client.net, (batch.x, synthetic), self.forwards)
            learnt = self.learnt(out, batch, anchors, old, cur)
        else:
            out = client.net(batch.x)
            learnt = client.descend(self.learnt(out, batch, anchors, old, cur), LANDER.local_loss)
            student = client.net(synthetic)
        with torch.no_grad():
            teacher = client.frozen_output("teacher", synthetic)  # logits (N, K)
        terms = learnt | {
            "kd": pre * soft_cross_entropy(student.logits[:, :old], teacher.logits, self.temperature),
            "embedding": pre * F.mse_loss(student.embedding, teacher.embedding),
        }
        if self.head:
            features = torch.cat([out.features, student.features])  # (B + N, F)
            labels = torch.cat([batch.y, teacher.logits.argmax(dim=1)])
            terms["head"] = self.head * head_cross_entropy(client.net.classifier, features, labels)
        return terms

    def learnt(self, out: Output, batch: Batch, anchors: Tensor, old: int, cur: float) -> Terms:
        """Return the terms of the real images of a later task."""
        return {
            "ce": cur * new_class_cross_entropy(out.logits, batch.y, old),
            "bound": cur * self.bound(out, anchors[batch.y]),
        }

    def bound(self, out: Output, anchors: Tensor) -> Tensor:
        """lambda B(g, e_y), for anchors (B, D)."""
        return self.lam * bounding(out.embedding, anchors, self.radius, self.settled.hinge)

    def balance(self, num_old: int, num_seen: int) -> tuple[float, float]:
        """Return the weights (a_cur, a_pre): the more classes are old, the larger the weight of the old ones."""
        kappa, delta = log2(num_seen / 2 + 1), sqrt(num_old / num_seen)
        return self.current * (1 + 1 / kappa) / delta, self.previous * kappa * delta

    # Server -----------------------------------------------------------------------------------

    def before_task(self, server: Server) -> None:
        server.shared["anchors"] = server.anchors[: server.task.num_seen]
        server.memo["lowest"] = inf

    def aggregate(self, server: Server, updates: Iterable[Update]) -> Update:
        mean = server.average(updates, self.settled.weighting)
        if self.settled.select == "lowest-loss" and mean.metrics["first_epoch_loss"] < server.memo["lowest"]:
            # The reference keeps the net that clients started this round from, not its result.
            server.memo |= {"lowest": mean.metrics["first_epoch_loss"], "best": server.net.weights()}
        server.net.load(mean.weights)
        return mean

    def after_task(self, server: Server, updates: Iterable[Update]) -> None:
        if "best" in server.memo:
            server.net.load(server.memo["best"])
        if server.task.last:
            return
        bound = Bound(weight=self.lam, radius=self.radius, hinge=self.settled.hinge)
        synthesizer = self.synthesizer.with_fidelity(self.fidelity)
        server.shared["synthetic"] = server.synthesize(synthesizer, range(server.task.num_seen), bound)
        server.shared["teacher"] = server.net.weights()
