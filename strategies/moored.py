"""Moored: LANDER with what measurements support, one field a part. A trained net, no exemplar, no data on the server.

The composition is ours. It starts from LANDER (`strategies/lander.py`; Tran et al., CVPR 2024, arXiv:2403.14101), whose
anchors, distillation and synthesis it has. Each other part is a field with its source, and what each is worth on
held-out images is in `results/README.md`:

    forwards   real and synthetic images in one forward, as MFCL has them (NeurIPS 2023, arXiv:2311.07784)
    head       + head CE(h(stop f), y) on both, h the classifier alone (MFCL)
    contrast   + contrast L_sup(f, y) in the first task: Khosla et al., "Supervised Contrastive Learning", NeurIPS 2020
    distil     what is kept of synthetic images beside the old logits: the embedding g (LANDER), or W f / K (MFCL)
    later_rate a smaller step in later tasks
    blend      after a task, net <- (1 - blend) net + blend T, T the net at the end of the task before
    pool       synthetic images of all classes made anew after each task, or those of old classes carried along
    readout    how the end of a task is read out:
        classifier  as it was trained
        aligned     rows of new classes scaled to the mean length of those of old ones: Zhao et al., "Maintaining
                    Discrimination and Fairness in Class Incremental Learning", CVPR 2020
        moments     ridge regression on the features from sums of all clients so far. G and P hold the same as the
                    classes' numbers, means and covariances, from which CCVR draws (Luo et al., NeurIPS 2021)
        moved       the same, sums of old classes moved along with the features, by a linear map from T's features to
                    the present ones: Gomez-Villa et al., "Exemplar-free Continual Representation Learning via
                    Learnable Drift Compensation", ECCV 2024, who fit it to images of the new task; here `along` says
        samples     the same, sums of old classes from the synthetic images under the present net

    moments:  G += sum_k sum_i h_i h_i^T,  P += sum_k sum_i h_i y_i^T,   h = [f, 1], i of client k's images
    moved:    G <- A^T G A,  P <- A^T P  before,   A = argmin mean_j |A^T t_j - h_j|^2, t_j the same as h_j of T
    samples:  G, P of this task alone, plus those of the images that T was inverted into, all at one weight, with which
              the old classes together count as many images as as many classes of this task

For the ridge regressions a client sends, once a task, second moments of the features of its images, and per class
their sum: a class with one image there is that image's feature, from which it may be guessed. Else only nets leave it.

Shapes: B batch, C classes seen, K of them old, N synthetic images a step, F feature width, M = F + 1.
"""

import copy
from collections.abc import Iterable
from dataclasses import dataclass
from typing import Annotated, ClassVar, Literal, cast

import torch
import torch.nn.functional as F
from pydantic import Field
from torch import Tensor, nn

from fcil import Batch, Client, Fraction, Positive, Server, State, Terms, Update, Weight
from fcil.errors import TrainingError
from fcil.losses import head_cross_entropy, soft_cross_entropy, supervised_contrastive
from fcil.nets import Forwards, Net, outputs_of
from fcil.nets.ridge import Moments, never
from fcil.synthesis import Bound
from fcil.types import Tensors
from strategies.lander import LANDER, SIDES

BATCH = 256
"""Samples whose features are computed at once."""
STILL = 1e-4
"""Penalty of the map that moves sums along, as a share of the features' mean square."""


@dataclass(frozen=True, kw_only=True)
class Moored(LANDER):
    forwards: Forwards = "one"
    """Real and synthetic images in one forward, with BatchNorm statistics of both, or in a forward each (LANDER)."""
    head: Weight = 0.0
    """Weight of the classifier's cross-entropy over old and new classes together, on features left alone (MFCL's)."""
    contrast: Weight = 0.5
    """Weight of the supervised contrast between features in the first task."""
    warmth: Positive = 0.1
    """Temperature of that contrast."""
    distil: Literal["embedding", "classifier"] = "embedding"
    """What is kept beside old logits: the embedding of synthetic images (LANDER), or W f of all images (MFCL)."""
    later_rate: Fraction = 0.1
    """Factor of the clients' rate after the first task."""
    blend: Annotated[float, Field(ge=0, lt=1)] = 0.0
    """Share of the last task's net in the net that ends a task."""
    pool: Literal["new", "carried"] = "new"
    """Images of old classes made anew from each task's net, or carried along from when the class was new."""
    readout: Literal["classifier", "aligned", "moments", "moved", "samples"] = "moved"
    """How classes are read from features: see above."""
    along: Literal["samples", "images", "both"] = "both"
    """What the map of `moved` is fitted to: synthetic images, clients' images of the new task, or both alike."""
    ridge: Positive = 0.1
    """Penalty of the ridge regression for one sample, on features of variance 1."""

    later: ClassVar[frozenset[str]] = frozenset()
    paper = (
        'Tran et al., "Text-Enhanced Data-free Approach for Federated Class-Incremental Learning", CVPR 2024, '
        'arXiv:2403.14101; Babakniya et al., "A Data-Free Approach to Mitigate Catastrophic Forgetting in Federated '
        'Class Incremental Learning for Vision Tasks", NeurIPS 2023, arXiv:2311.07784; composed here'
    )
    memo_lasts: ClassVar[Literal["task", "run"]] = "run"
    loss_terms = ("ce", "bound", "kd", "head")
    uses = LANDER.uses | {"sums"}
    broadcasts = ("anchors", "synthetic", "teacher", "weight", "offset")

    def __post_init__(self) -> None:
        defaults, unread = type(self).__dataclass_fields__, {}
        if not self.regresses:
            unread["ridge"] = "readout is moments, moved or samples"
        if not self.contrast:
            unread["warmth"] = "contrast is above 0"
        if self.readout != "moved":
            unread["along"] = "readout is moved"
        for name, where in unread.items():
            if getattr(self, name) != defaults[name].default:
                raise ValueError(f"{name}: {getattr(self, name)} is read only where {where}; leave it out")
        if self.regresses and self.blend:
            raise ValueError(f"blend: {self.blend} changes the net whose features readout: {self.readout} has read")
        select = self.select or SIDES["select"][self.fidelity == "reference"]  # `settled` would come here again
        if self.regresses and select == "lowest-loss":
            raise ValueError(f"select: lowest-loss goes back to another net than readout: {self.readout} has read")

    @property
    def regresses(self) -> bool:
        """Return whether classes are read out by ridge regression."""
        return self.readout in ("moments", "moved", "samples")

    # Client -----------------------------------------------------------------------------------

    def local_train(self, client: Client) -> Update:
        if not client.task.first:
            client.lr *= self.later_rate
        return client.train(self.local_loss, self.trainable(client.net), lend=True)

    def local_loss(self, client: Client, batch: Batch) -> Terms:
        anchors, old = client.shared["anchors"], client.task.num_old  # anchors (C, D)
        if client.task.first:
            out = client.net(batch.x)  # logits (B, C), features (B, F), embedding (B, D)
            terms = {"ce": F.cross_entropy(out.logits, batch.y), "bound": self.bound(out, anchors[batch.y])}
            if self.contrast:
                terms["contrast"] = self.contrast * supervised_contrastive(out.features, batch.y, self.warmth)
            return terms

        cur, pre = self.balance(old, client.task.num_seen)
        synthetic = client.draw("synthetic", max(1, round(self.synthetic * client.batch_size)))  # (N, ...)
        out, student = outputs_of(client.net, (batch.x, synthetic), self.forwards)
        with torch.no_grad():
            teacher = client.frozen_output("teacher", synthetic)  # logits (N, K)
        terms = self.learnt(out, batch, anchors, old, cur)
        terms["kd"] = pre * soft_cross_entropy(student.logits[:, :old], teacher.logits, self.temperature)
        features = torch.cat([out.features, student.features])  # (B + N, F)
        if self.distil == "embedding":
            terms["embedding"] = pre * F.mse_loss(student.embedding, teacher.embedding)
        else:
            terms["features"] = pre * self.strayed(client, batch.x, features, teacher.logits)
        if self.head:
            labels = torch.cat([batch.y, teacher.logits.argmax(dim=1)])
            terms["head"] = self.head * head_cross_entropy(client.net.classifier, features, labels)
        return terms

    def strayed(self, client: Client, x: Tensor, features: Tensor, before: Tensor) -> Tensor:
        """Return the mean of |W f - W f^T|^2 / K over real images x (B, ...) and synthetic ones, W of T."""
        with torch.no_grad():
            before = torch.cat([client.frozen_output("teacher", x).logits, before])  # (B + N, K)
        return F.mse_loss(client.frozen("teacher").classifier(features), before)

    def after_local_task(self, client: Client) -> Update | None:
        if not self.regresses or not len(client.shard):
            return None
        sums: Tensors = {}
        for batch in client.shard.batches(BATCH, augment=False, shuffle=False, drop_single=False):
            h, labels = lifted(client.net, batch.x), batch.y - client.task.classes.start
            part = dict(vars(Moments.of(h, labels, len(client.task.classes))))
            if self.readout == "moved" and self.along != "samples" and not client.task.first:
                t = lifted(client.frozen("teacher"), batch.x)  # (B, M)
                part |= {"before": t.T @ t, "turn": t.T @ h}
            sums = {name: sums[name] + value if sums else value for name, value in part.items()}
        return Update(sums, len(client.shard))

    # Server -----------------------------------------------------------------------------------

    def before_task(self, server: Server) -> None:
        server.memo.pop("best", None)
        super().before_task(server)

    def after_task(self, server: Server, updates: Iterable[Update]) -> None:
        if "best" in server.memo:
            server.net.load(server.memo["best"])
        if not server.task.first:
            self.settle(server)
        if self.regresses:
            self.read_out(server, updates)
        if server.task.last:
            return
        bound = Bound(weight=self.lam, radius=self.radius, hinge=self.settled.hinge)
        labels = server.task.classes if self.pool == "carried" else range(server.task.num_seen)
        pool = server.synthesize(self.synthesizer.with_fidelity(self.fidelity), labels, bound)
        if self.pool == "carried" and not server.task.first:
            carried = cast(Tensors, server.shared["synthetic"])
            pool = {name: torch.cat([carried[name], t]) for name, t in pool.items()}
        server.shared |= {"synthetic": pool, "teacher": server.net.weights()}

    def settle(self, server: Server) -> None:
        """Blend the net with that of the last task, and align its classifier, where it is asked for."""
        old = server.task.num_old
        if self.blend:
            before = cast(Tensors, server.shared["teacher"])
            server.net.load({name: blended(t, before[name], self.blend) for name, t in server.net.weights().items()})
        if self.readout == "aligned":
            align(server.net.classifier, old)

    def read_out(self, server: Server, updates: Iterable[Update]) -> None:
        """Fit the weights (F, C) and offsets (C,) that features are read out by."""
        start, sums = server.task.classes.start, {}
        for update in updates:
            sums = {name: sums[name] + t if sums else t for name, t in update.weights.items()}
        if not sums:
            raise TrainingError("no client has a sample to read classes out by")
        new = Moments(sums["gram"], F.pad(sums["cross"], (start, 0)))  # (M, M), (M, C)
        total, before = new, server.memo.get("moments")
        if self.readout == "samples" and not server.task.first:
            total = self.of_samples(server, float(new.gram[-1, -1]) / server.task.num_new) + new
        elif before is not None:
            moments = Moments(**cast(Tensors, before))
            total = (self.moved(server, moments, sums) if self.readout == "moved" else moments) + new
        if self.readout != "samples":
            server.memo["moments"] = {"gram": total.gram, "cross": total.cross}
        try:
            weight, offset = total.solve_standardised(self.ridge)
        except ValueError as error:
            raise TrainingError(str(error)) from None
        server.shared |= {"weight": weight, "offset": offset}

    def of_samples(self, server: Server, each: float) -> Moments:
        """Return the sums of the images that the last task's net was inverted into, under the present net.

        Args:
            each: number of images that a class is to weigh.
        """
        pool, old = cast(Tensors, server.shared["synthetic"]), server.task.num_old
        total = Moments.of(lifted(server.net, server.inputs(pool)), pool["y"], old)
        share = each * old / len(pool["y"])
        return Moments(share * total.gram, share * total.cross)

    def moved(self, server: Server, moments: Moments, sums: Tensors) -> Moments:
        """Return sums of the last task's features as they would be of the present ones.

        Args:
            moments: of all tasks before this one, under the last task's net.
            sums: what clients sent, with `before` and `turn` (M, M) where the map is fitted to their images.
        """
        turns: list[Moments] = []
        if self.along != "images":
            x, before = server.inputs(cast(Tensors, server.shared["synthetic"])), copy.deepcopy(server.net)
            before.load(cast(Tensors, server.shared["teacher"]))
            t = lifted(before, x)  # (N, M)
            turns.append(Moments(t.T @ t / len(t), t.T @ lifted(server.net, x) / len(t)))
        if self.along != "samples":
            count = sums["gram"][-1, -1]
            turns.append(Moments(sums["before"] / count, sums["turn"] / count))
        way = sum(turns[1:], turns[0]).solve(STILL)  # (M, M)
        way[:, -1] = F.one_hot(torch.tensor(len(way) - 1), len(way))  # what counts samples stays
        return Moments(way.T @ moments.gram @ way, way.T @ moments.cross)

    def predict(self, net: Net, x: Tensor, shared: State) -> Tensor:
        weight, out = cast(Tensor | None, shared.get("weight")), net(x)
        if weight is None or weight.shape[1] != net.num_classes:  # in the rounds of a task
            return out.logits
        scores = out.features.double() @ weight + cast(Tensor, shared["offset"])
        return scores.masked_fill(never(weight), -torch.inf)


@torch.no_grad()
def lifted(net: Net, x: Tensor) -> Tensor:
    """Return h = [f, 1] (N, M), float64, of inputs of the net."""
    f = torch.cat([net.eval()(part).features.double() for part in x.split(BATCH)])
    return F.pad(f, (0, 1), value=1.0)


def blended(now: Tensor, before: Tensor, share: float) -> Tensor:
    """Return (1 - share) now + share before; rows that `before` has not, and whole numbers, are those of `now`."""
    if not now.is_floating_point():
        return now
    if now.shape == before.shape:
        return torch.lerp(now, before, share)
    return torch.cat([torch.lerp(now[: len(before)], before, share), now[len(before) :]])


@torch.no_grad()
def align(classifier: nn.Linear, old: int) -> None:
    """Scale the rows of new classes, from `old` on, to the mean length of the old rows."""
    length = classifier.weight.norm(dim=1)  # (C,)
    classifier.weight[old:] *= length[:old].mean() / length[old:].mean()
