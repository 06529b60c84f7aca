"""FedGen: the server learns to generate features from the clients' classifiers, and clients train with them.

Paper: Zhu, Hong, Zhou, "Data-Free Knowledge Distillation for Heterogeneous Federated Learning", ICML 2021,
arXiv:2105.10056. Code: github.com/zhuangdizhu/FedGen @ dd5807c.

No images are made: a generator G maps noise u and a label y to a classifier's input features. After every round
the server trains it until the classifiers h_k of the round's clients, each weighted by its share w_k(y) of
the images of y, predict y for G(u, y). In the next round it teaches clients the others' knowledge of a label:

    server:  L = mean_i sum_k w_k(y_i) CE(h_k(g_i), y_i) + diversity exp(-mean_ij |u_i - u_j|^2 |g_i - g_j|_1)
               - student KL(ensemble || h)        g_i = G(u_i, y_i); |.| are means over entries; h the global one
    client:  L = CE(z, y) + a_r N/B CE(h(G(u', y')), y') + b_r KL(softmax h(G(u, y)) || softmax z)
    a_r = generated decay^(r-1),   b_r = latent decay^(r-1),   both off in the first round of all

The paper has one task. Class-incremental use is ours: G grows with the classes and keeps its weights;
rounds r count from 1 in every task. No client holds old classes any more, so the classifier that ended the
last task joins the ensemble with weight 1 for every old label. Images train the logits of new classes alone,
in both of their terms; `classes: seen` is the plain method. Features of old classes are made for a backbone
that has changed since, so G preserves the classifier and not the features: FedGen is made against heterogeneous
clients, not against forgetting. The accuracy on old classes on small data comes from the logits that images
do not train, and is higher where both weights of G are zero.

The number of images of each class that a client holds leaves it, beside the weights. The classifiers are read one by
one, also of a client that a robust rule of aggregation leaves out.

Differs: shares are taken from the clients' data; the code counts the samples in a round's batches, plus one for
each class. And it trains without G from the 21st local epoch of a round on.

Shapes: B batch, C classes seen, K of them old, F feature width, n noise width, N generated features a step.
"""

import copy
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass, replace
from typing import Annotated, Literal, Self

import torch
import torch.nn.functional as F
from pydantic import Field
from torch import Tensor

from fcil import Batch, Client, Count, Fraction, NonNegative, Positive, Server, Strategy, Terms, Update, Weight
from fcil.averaging import set_aside
from fcil.fidelity import Fidelity, resolve
from fcil.losses import new_class_cross_entropy
from fcil.nets import LatentGenerator, one_of
from fcil.nets.latent import Head, disagreement, diversity_loss, teacher_loss
from fcil.optimizer import Adam
from fcil.rng import seeded
from fcil.types import Tensors

SIDES: dict[str, tuple[object, object]] = {
    # field: (the paper's method; the released code)
    "shares": ("sample", "batch"),
}
BESIDE = "beside/"


@dataclass(frozen=True, kw_only=True)
class FedGen(Strategy):
    fidelity: Fidelity = "paper"
    """Side taken where paper and code differ, in every field that is null."""
    generated: Weight = 10.0
    """Weight of the cross-entropy on generated features, in the first round of a task (`generative_alpha`)."""
    latent: Weight = 1.0
    """Weight of the KL from features of an image's label to the image (`generative_beta`; 10 but for EMNIST)."""
    decay: Fraction = 0.98
    """Factor of both weights, and of the generator's learning rate, after each further round."""
    samples: Positive = 1.0
    """Generated features per step of a client, as a multiple of the batch size (`gen_batch_size`)."""
    classes: Literal["seen", "new"] = "new"
    """Logits that images train: of all classes seen as in the code, or of the new ones alone (ours)."""
    steps: Count = 50
    """Steps in which the generator is trained after every round."""
    batch: Annotated[int, Field(ge=2)] = 32
    """Features in one of these steps; its BatchNorm needs two."""
    lr: Positive = 3e-4
    """Learning rate of the generator's Adam in the first round of a task (1e-4 for EMNIST)."""
    weight_decay: NonNegative = 0.01
    """Weight decay of that Adam, added to the gradient."""
    diversity: Weight = 1.0
    """Weight of the diversity loss: features as different as their noise (`eta`)."""
    student: Weight = 0.0
    """Weight of features on which ensemble and global classifier differ (`beta`), unused in all shipped settings."""
    noise: Count = 32
    """Width of the noise, and of a label's embedding."""
    hidden: Count = 256
    """Width of the generator's hidden layer (512 for CIFAR, 128 for CelebA)."""
    condition: Literal["onehot", "embedding"] = "onehot"
    """Encoding of a label for the generator: a one-hot vector, or a learnt embedding."""
    shares: Literal["sample", "batch"] | None = None
    """A client's share weighs each sample's loss (paper), or its mean over a batch the batch's mean (reference)."""

    paper = (
        'Zhu, Hong, Zhou, "Data-Free Knowledge Distillation for Heterogeneous Federated Learning", ICML 2021, '
        "arXiv:2105.10056"
    )
    uses = frozenset({"samples"})
    servers = Strategy.servers
    loss_terms = ("ce", "generated", "latent")
    broadcasts = ("generator", "taught")

    @property
    def settled(self) -> Self:
        return resolve(self, self.fidelity, SIDES)

    def smoke(self) -> Self:
        return replace(super().smoke(), steps=min(self.steps, 2))

    def generator(self, num_classes: int, width: int) -> LatentGenerator:
        return LatentGenerator(num_classes, width, self.hidden, self.noise, self.condition)

    # Client -----------------------------------------------------------------------------------

    def local_train(self, client: Client) -> Update:
        stream = client.generator("latents")
        names = self.trainable(client.net)
        update = client.train(lambda here, batch: self.terms(here, batch, stream), names, lend=True)
        held = torch.bincount(client.shard.labels, minlength=client.task.num_seen)
        return replace(update, weights=update.weights | {f"{BESIDE}held": held})

    def terms(self, client: Client, batch: Batch, stream: torch.Generator) -> Terms:
        logits = client.net(batch.x).logits  # (B, C)
        terms = {"ce": new_class_cross_entropy(logits, batch.y, self.free(client))}
        if "generator" not in client.shared:
            return terms
        taught, count = client.shared["taught"], max(1, round(self.samples * client.batch_size))
        labels = one_of(taught, count, stream)
        return terms | self.generated_terms(client, logits, batch.y, labels, stream)

    def free(self, client: Client) -> int:
        """Return the number of first logits that images do not train."""
        return client.task.num_old if self.classes == "new" else 0

    def generated_terms(
        self, client: Client, logits: Tensor, own: Tensor, labels: Tensor, stream: torch.Generator
    ) -> Terms:
        """Return the loss terms on features of the images' own labels (B,) and of any labels (N,)."""
        head = client.net.classifier
        generator = client.built("generator", lambda: self.generator(client.task.num_seen, head.in_features))
        with torch.no_grad():
            same, other = (generator.sample(y, stream)[0] for y in (own, labels))  # (B, F), (N, F)
            target = F.softmax(head(same).to(logits.dtype)[:, self.free(client) :], dim=1)
        answer = F.log_softmax(logits[:, self.free(client) :], dim=1)
        away = F.kl_div(answer, target, reduction="none").sum(dim=1)  # (B,)
        known = torch.isin(own, client.shared["taught"])  # of a new class, features carry no information
        ratio, seen = len(labels) / client.batch_size, F.cross_entropy(head(other).to(logits.dtype), labels)
        return {
            "generated": ratio * self.faded(self.generated, client.round) * seen,
            "latent": self.faded(self.latent, client.round) * (away * known).mean(),
        }

    def faded(self, weight: float, number: int) -> float:
        """Return a weight in this round of a task; it ends at 0.0001, as in the code."""
        return max(min(1e-4, weight), weight * self.decay ** (number - 1))

    # Server -----------------------------------------------------------------------------------

    def before_task(self, server: Server) -> None:
        old, head = server.task.num_old, server.net.classifier
        if server.task.first:
            return
        server.memo["old"] = {"weight": head.weight[:old].detach().clone(), "bias": head.bias[:old].detach().clone()}
        if "generator" in server.shared:
            generator = self.started(server, old)
            generator.grow(server.task.num_seen, server.generator("generator"))
            server.shared["generator"] = state_of(generator)

    def aggregate(self, server: Server, updates: Iterable[Update]) -> Update:
        heads: list[Head] = []
        beside: list[Tensors] = []
        mean = server.average(noting(set_aside(updates, BESIDE, beside), heads), self.weighting)
        held = torch.stack([b["held"] for b in beside], dim=1).clamp(min=0)  # (C, clients)
        self.teach(server, heads, held)
        server.net.load({**server.net.state_dict(), **mean.weights})
        return mean

    def teach(self, server: Server, heads: list[Head], held: Tensor) -> None:
        """Train the generator against the classifiers of the round, and share it."""
        shares, taught = label_shares(held), torch.nonzero(held.amax(dim=1) > 1).flatten()
        if "old" in server.memo:
            old = server.memo["old"]
            everyone = torch.arange(len(held), device=held.device)
            heads = [*heads, (old["weight"], old["bias"])]
            shares = torch.cat([shares, (everyone < server.task.num_old).to(shares)[:, None]], dim=1)
            taught = torch.cat([taught, everyone[: server.task.num_old]]).unique()
        if not len(taught):
            return
        generator, stream = self.started(server, server.task.num_seen).train(), server.generator("latents")
        adam = self.optimizer(generator, server)
        student = (server.net.classifier.weight.detach(), server.net.classifier.bias.detach())
        for _ in range(self.steps):
            labels = one_of(taught, self.batch, stream)
            latent, noise = generator.sample(labels, stream)
            loss = torch.stack(list(self.server_terms(latent, noise, labels, heads, shares, student).values())).sum()
            adam.zero_grad()
            loss.backward()
            adam.step()
        server.memo["adam"] = {str(i): {**s, "step": int(s["step"])} for i, s in adam.state_dict()["state"].items()}
        known = server.shared.get("taught", taught[:0])
        server.shared |= {"generator": state_of(generator), "taught": torch.cat([known, taught]).unique()}

    def server_terms(
        self, latent: Tensor, noise: Tensor, labels: Tensor, heads: Sequence[Head], shares: Tensor, student: Head
    ) -> Terms:
        terms = {
            "teacher": teacher_loss(latent, labels, heads, shares, self.settled.shares),
            "diversity": self.diversity * diversity_loss(noise, latent),
        }
        if self.student:
            terms["student"] = -self.student * disagreement(latent, labels, heads, shares, student)
        return terms

    def started(self, server: Server, num_classes: int) -> LatentGenerator:
        """Return the shared generator, or a fresh one."""
        with seeded(server.seed, "generator"):
            generator = self.generator(num_classes, server.net.classifier.in_features)
        generator.to(server.net.classifier.weight)
        if "generator" in server.shared:
            generator.load_state_dict(server.shared["generator"])
        return generator

    def optimizer(self, generator: LatentGenerator, server: Server) -> torch.optim.Adam:
        """Return Adam with its state of this task's last round."""
        rate = self.lr * self.decay ** (server.round - 1)
        adam = Adam(generator.parameters(), rate, weight_decay=self.weight_decay)
        if "adam" in server.memo:
            # Copies: an interrupted round is run again with the memo as it was.
            noted = copy.deepcopy(server.memo["adam"])
            state = {int(i): {**s, "step": torch.tensor(float(s["step"]))} for i, s in noted.items()}
            adam.load_state_dict({"state": state, "param_groups": adam.state_dict()["param_groups"]})
        return adam


def noting(updates: Iterable[Update], heads: list[Head]) -> Iterator[Update]:
    """Yield the same updates; their classifiers are added to `heads`."""
    for update in updates:
        heads.append((update.weights["classifier.weight"], update.weights["classifier.bias"]))
        yield update


def label_shares(held: Tensor) -> Tensor:
    """Return w (C, clients) from the images of each class that a client holds; zeros where no client holds any."""
    return held / held.sum(dim=1, keepdim=True).clamp(min=1)


def state_of(generator: LatentGenerator) -> Tensors:
    return {name: value.detach().clone() for name, value in generator.state_dict().items()}
