"""GLFC: global-local forgetting compensation, with exemplars on clients and a server that picks the teacher.

Paper: Dong et al., "Federated Class-Incremental Learning", CVPR 2022, arXiv:2203.11473.
Code: github.com/conditionWang/FCIL, GLFC.py and ProxyServer.py.

On clients, exemplars of old classes are herded as in iCaRL. Samples that are learnt slower than others of
their kind weigh more, old and new classes apart, and the old net gives the targets of every old class.
On the server, the net of a task with the best accuracy on its new classes becomes the teacher of the next one; to
evaluate that, the server asks clients for prototypes, which travel as gradients and are turned back into images.

    task 1:  L = 1/B sum_i w_i BCE(z_i, onehot(y_i))
    task t:  L = compensation/B sum_i w_i BCE(z_i, onehot(y_i)) + relation/B sum_i BCE(z_i, r_i)
    w_i = g_i / mean of g over the samples of the batch that are old if i is, new if i is new
    g_i = 1 - sigmoid(z_i)_y                                 without a gradient
    r_i = onehot(y_i), its old entries replaced by sigmoid(z_i^T)
    prototype of class c:  the image nearest to the mean of unit features, then
        x <- x - rate d/dx mean BCE(W (f(x) + noise N(0, s_c^2)) + b, onehot(c))     s_c: spread of features f
    teacher T: of the task's global nets, the one most accurate on images rebuilt from prototypes, the later of equals

What leaves the clients: in its first round of a task, beside its net, a client sends the gradient of a small
public encoder (`fcil.inversion`) for one image of each new class it has: 85,036 numbers an image at 32 by 32
pixels and 100 classes. This is no protection: the server rebuilds the images, small ones to the pixel, and so
can anyone who reads the message; it also reveals which classes the client holds. The only protection of an image
is the perturbation. Robust aggregation and mods do not affect these tensors. With `teacher: last`,
and in the last task, no client sends any.

`detect: entropy` is the method's detection of an unannounced task: a client computes the mean
entropy of the global net's softmax on its own new images, and at a rise by more than `threshold` sends its
prototypes. A net of two classes cannot exceed ln 2 = 0.69, so small first tasks are not detected. Clients report
the entropy, and the detection, among the loss terms. The platform announces tasks, and by default that
is used; exemplars and the teacher change with its tasks either way, as old images are not there later.

Ours: the encoder is for the classes seen, and for normalised images, to which the perturbation applies; at most
`images` of a class are rebuilt, in order of arrival, one for each gradient (the code takes 20 stages of its
search for 20 images), with a line search in place of a fixed step; the best net is selected anew when images
are added. Without rebuilt images, the last net is the teacher.
Differs: the code never resets the best accuracy at a new task, so a good early net can stay teacher for good.

Shapes: B batch, C classes seen, K of them old, P prototypes of a client, N rebuilt images, F feature width.
"""

from collections.abc import Iterable, Sequence
from dataclasses import dataclass, replace
from typing import ClassVar, Literal, Self

import torch
import torch.nn.functional as F
from torch import Tensor

from fcil import Batch, Client, Count, NonNegative, Positive, Server, Strategy, Terms, Update, Weight
from fcil.averaging import set_aside
from fcil.data import Shard
from fcil.exemplars import BATCH, balanced, room_for, update_exemplars
from fcil.fidelity import Fidelity, resolve
from fcil.inversion import encoder_like, fits, gradients, invert, labels_of, nearest_to_means, outputs, perturbed
from fcil.nets import Net, frozen
from fcil.types import Index, Tensors

PREFIX = "prototype/"
SIDES: dict[str, tuple[object, object]] = {
    # field: (the paper's method, or ours where the paper is silent; the released code)
    "over_classes": ("sum", "mean"),  # the mean goes with a learning rate of 2
    "unaided": ("compensated", "plain"),
    "noise": (0.1, 0.0),
    "weighting": ("examples", "uniform"),
}


@dataclass(frozen=True, kw_only=True)
class GLFC(Strategy):
    fidelity: Fidelity = "paper"
    """Side taken where paper and code differ, in every field that is null."""
    exemplars: Count = 2000
    """Exemplars of a client in all, in equal shares for the classes it has met (`memory_size`)."""
    per_class: Count | None = None
    """Exemplars of every class instead, so that memory grows with the classes."""
    compensation: Weight = 0.5
    """Weight of the label term, from the second task on (`lambda_1`); it is 1 in the first."""
    relation: Weight = 0.5
    """Weight of the distillation of relations between classes (`lambda_2`)."""
    over_classes: Literal["sum", "mean"] | None = None
    """Binary cross-entropies of a sample: their sum over the classes (paper), or their mean (reference)."""
    unaided: Literal["compensated", "plain"] | None = None
    """A client without exemplars, as all are in the first task: weighted too (paper), or all weights 1 (reference)."""
    classes: Literal["seen", "new"] = "seen"
    """Logits of the label term: of all classes seen (`ce`), or of the new ones alone, as in iCaRL."""
    teacher: Literal["best", "last"] = "best"
    """Net of a task that teaches the next: the best on rebuilt images, or the last; then no client sends prototypes."""
    detect: Literal["boundary", "entropy"] = "boundary"
    """Time at which a client sends prototypes: its first round of a task, or a rise of the entropy (paper)."""
    threshold: NonNegative = 1.2
    """Rise of the mean entropy, in nats, that means a new task."""
    perturbations: Index = 50
    """Steps of gradient descent that change a prototype before it is sent (`iters`)."""
    rate: Positive = 0.2
    """Length of such a step, as a multiple of the gradient: a tenth of the code's learning rate."""
    noise: NonNegative | None = None
    """Noise on a prototype's features in those steps, as a share of their spread: 0.1 (paper), or 0 (reference)."""
    images: Count = 10
    """Rebuilt images that the server keeps of a class; later ones are ignored."""
    steps: Count = 1000
    """Steps of L-BFGS for an image: 50 do for 8 by 8 pixels, 1000 for 32 by 32 (the code has 250 times 20)."""
    weighting: Literal["examples", "uniform"] | None = None
    """Weight of a client in the average: its examples (ours), or the same for all (reference)."""

    needs: ClassVar[frozenset[str]] = frozenset({"exemplars"})
    inputs = frozenset({"images"})
    paper = 'Dong et al., "Federated Class-Incremental Learning", CVPR 2022, arXiv:2203.11473'
    uses = frozenset({"teacher", "notes"})
    later = frozenset({"classes"})
    servers = Strategy.servers
    loss_terms = ("ce", "relation")
    broadcasts = ("teacher",)

    @property
    def settled(self) -> Self:
        return resolve(self, self.fidelity, SIDES)

    def smoke(self) -> Self:
        return replace(self, perturbations=min(2, self.perturbations), steps=min(3, self.steps))

    def keeps(self, met: Sequence[int]) -> int:
        return room_for(met, self.exemplars, self.per_class)

    # Client -----------------------------------------------------------------------------------

    def local_loss(self, client: Client, batch: Batch) -> Terms:
        logits, old, settled = client.net(batch.x).logits, client.task.num_old, self.settled  # (B, C)
        target = F.one_hot(batch.y, client.task.num_seen).to(logits.dtype)
        if settled.unaided == "plain" and not len(client.kept("exemplars")):
            weight = torch.ones_like(logits[:, 0])
        else:
            weight = compensation(logits, batch.y, old)
        first = old if self.classes == "new" else 0
        ce = (weight * self._question(logits[:, first:], target[:, first:])).mean()
        if client.task.first:
            return {"ce": ce}
        with torch.no_grad():
            teacher = client.frozen_output("teacher", batch.x).logits  # (B, K)
        relations = torch.cat([teacher.sigmoid(), target[:, old:]], dim=1)
        return {"ce": self.compensation * ce, "relation": self.relation * self._question(logits, relations).mean()}

    def _question(self, logits: Tensor, target: Tensor) -> Tensor:
        """Return the binary cross-entropy of each sample (B,)."""
        each = F.binary_cross_entropy_with_logits(logits, target, reduction="none")  # (B, C)
        return each.sum(dim=1) if self.settled.over_classes == "sum" else each.mean(dim=1)

    def local_train(self, client: Client) -> Update:
        new = client.shard
        noticed, metrics = self.notices(client)
        client.shard = new.joined(client.kept("exemplars"))  # they count as examples in the average too
        update = super().local_train(client)
        update.metrics.update(metrics)
        if noticed and len(new) and self.teacher == "best" and not client.task.last:
            update.weights.update({f"{PREFIX}{name}": t for name, t in self.prototypes(client, new).items()})
        return update

    def notices(self, client: Client) -> tuple[bool, dict[str, float]]:
        """Return whether a task is new to this client by the rule of `detect`, and its measurements."""
        if self.detect == "boundary":
            noticed = client.memory.get("task") != client.task.number
            client.memory["task"] = client.task.number
            return noticed, {}
        if not len(client.shard):
            return False, {}
        now = mean_entropy(outputs(client.net, client.shard).logits)
        noticed = now - client.memory.get("entropy", 0.0) > self.threshold
        client.memory["entropy"] = now
        return noticed, {"terms/entropy": now, "terms/noticed": float(noticed)}

    def prototypes(self, client: Client, new: Shard) -> Tensors:
        """Return the gradients of this client's prototypes, (P, ...) each, and the shape of their images."""
        x, y, spread = nearest_to_means(client.net, new)
        stream, noise = client.generator("perturb"), self.settled.noise * spread
        x = perturbed(client.net, x, y, noise, self.perturbations, self.rate, stream)
        encoder = encoder_like(x, x.shape[1:], client.task.num_seen, client.seed)
        return gradients(encoder, x, y) | {"shape": torch.tensor(x.shape[1:])}

    def after_local_task(self, client: Client) -> None:
        old, new = client.kept("exemplars"), client.shard
        shares = balanced(torch.cat([old.labels, new.labels]), self.exemplars)
        if self.per_class:
            shares = dict.fromkeys(shares, self.per_class)
        client.keep("exemplars", update_exemplars(client.net, old, new, shares))

    # Server -----------------------------------------------------------------------------------

    def aggregate(self, server: Server, updates: Iterable[Update]) -> Update:
        aside: list[Tensors] = []
        mean = server.average(set_aside(updates, PREFIX, aside), self.settled.weighting)
        server.net.load({**server.net.state_dict(), **mean.weights})
        added = [self.rebuild(server, sent) for sent in aside if sent]
        if "images" in server.memo:
            self.judge(server, anew=any(added))
        return mean

    def rebuild(self, server: Server, sent: Tensors) -> bool:
        """Turn a client's gradients into images, up to the limit; return whether one was added."""
        classes, place = server.task.num_seen, server.net.classifier.weight
        shape = tuple(sent.pop("shape", torch.empty(0)).long().flatten().tolist())
        if not fits(sent, shape, classes):
            return False
        images = server.memo.get("images", place.new_empty(0, *shape))
        labels = server.memo.get("labels", torch.empty(0, dtype=torch.int64, device=place.device))
        encoder, before = encoder_like(place, shape, classes, server.seed), len(labels)
        for row, label in enumerate(labels_of(sent).tolist()):
            count = int((labels == label).sum())
            if label < server.task.num_old or count >= self.images or images.shape[1:] != shape:
                continue
            stream = server.generator(f"image {count} of class {label}")
            image = invert(encoder, {name: t[row] for name, t in sent.items()}, shape, self.steps, stream)
            if image.isfinite().all():
                images, labels = torch.cat([images, image[None]]), torch.cat([labels, labels.new_tensor([label])])
        if len(labels) == before:
            return False
        server.memo |= {"images": images, "labels": labels}
        return True

    def judge(self, server: Server, *, anew: bool) -> None:
        """Keep the global net if none of this task was better on the rebuilt images; `anew` after images were added."""
        images, labels, memo = server.memo["images"], server.memo["labels"], server.memo
        if anew and "best" in memo:
            best = frozen(server.net)
            best.load(memo["best"])
            memo["accuracy"] = accuracy(best, images, labels)
        now = accuracy(server.net, images, labels)
        if now >= memo.get("accuracy", 0.0):
            server.memo |= {"best": server.net.weights(), "accuracy": now}

    def after_task(self, server: Server, updates: Sequence[Update]) -> None:
        if not server.task.last:
            server.shared["teacher"] = server.memo.get("best", server.net.weights())


def compensation(logits: Tensor, labels: Tensor, num_old: int) -> Tensor:
    """Return (B,): w_i = g_i / mean g over the samples that are old, or new, like i; g_i = 1 - sigmoid(z_i)_y."""
    slope = 1 - logits.detach().gather(1, labels[:, None])[:, 0].sigmoid()  # (B,)
    old = (labels < num_old).to(slope.dtype)
    kinds = torch.stack([old, 1 - old])  # (2, B)
    means = (kinds @ slope) / kinds.sum(dim=1).clamp(min=1)  # (2,)
    return slope / (means @ kinds).clamp(min=torch.finfo(slope.dtype).tiny)


def mean_entropy(logits: Tensor) -> float:
    """Return -1/n sum_i sum_k p_ik log p_ik in nats, p the softmax of logits (n, C)."""
    p = F.log_softmax(logits, dim=1)
    return float(-(p.exp() * p).sum(dim=1).mean())


def accuracy(net: Net, images: Tensor, labels: Tensor) -> float:
    """Return the share of the images (N, channels, height, width) that the net predicts correctly, in eval mode."""
    training = net.training
    net.eval()
    with torch.no_grad():
        hits = [
            (net(x).logits.argmax(dim=1) == y).sum()
            for x, y in zip(images.split(BATCH), labels.split(BATCH), strict=True)
        ]
    net.train(training)
    return float(torch.stack(hits).sum()) / len(labels)
