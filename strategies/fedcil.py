"""FedCIL: every client trains an AC-GAN; its images replay old classes and keep the clients consistent.

Paper: Qi, Zhao, Li, "Better Generative Replay for Continual Federated Learning", ICLR 2023,
arXiv:2302.13001. Code: github.com/daiqing98/FedCIL @ 206571a, FLAlgorithms/.

The federation's net is the classifying side of a discriminator; a real/fake head r reads its features,
and a generator G makes images of a class. Head and generator travel beside the net and are averaged
with it. P is the generator at the end of the last task, S the one that began the round, both frozen.

    D:  L = (1 - replay) A(x, y) + replay A(P(z, y_old), y_old) + CE(c(G), y') + adversarial BCE(r(G), fake)
            + consistency [KL(c(S(z, y)) || c(x)) + KL(c(S(z, y*)) || c(G(z, y*))) + CE(c(S(z, y*)), y*)]
        A(x, y) = CE(c(x), y) + adversarial BCE(r(x), real),   replay = 0 in the first task
    G:  L = CE(c(G), y') + adversarial BCE(r(G), real)              one step after each of D
    y' uniform over the old classes and those the client holds, y* over all seen

    server, each round:  the average of clients, then `consolidation` steps of the same AC-GAN in which x
        are images of the clients' generators, equally many from each, evenly over the classes

The consistency terms, from a task's second round on, are those that the code computes before it
multiplies them by zero; their weight is ours. So is what the code's nets, without BatchNorm, leave open:
fakes do not change a client's running statistics, and the server consolidates with those it averaged.

Beside the weights, generators leave the clients (their images may resemble a client's), and the set of
new classes a client holds. `federation.privacy` refuses that; `aggregation` guards averages, not images.

Differs: in the code a client replays from its own last generator and its own old classes; here all do
from the shared one, so that a client that was never drawn replays too. The optimizers of the code persist
through a run; here they begin anew each round. Its discriminator takes Adam (`optimizer`: name adam,
momentum 0.5, lr 0.0001). A generator needs hundreds of steps in a task before its images are recognisable,
and a fast discriminator prevents it: where a client has few batches, raise `generator_steps`.

Shapes: B batch, C classes seen, K of them old, N images drawn from a client's generator.
"""

from collections.abc import Iterable, Iterator
from dataclasses import dataclass, replace
from typing import Annotated, Self

import torch
import torch.nn.functional as F
from pydantic import Field
from torch import Tensor, nn

from fcil import Batch, Client, Count, Index, Positive, Server, Strategy, Terms, Update, Weight
from fcil.fidelity import Fidelity, resolve
from fcil.losses import kl_divergence
from fcil.nets import AcGan, ConditionalGenerator, Net, drop_running_statistics, evenly, one_of, real_fake_head
from fcil.optimizer import Adam
from fcil.rng import seeded
from fcil.types import Tensors

SIDES: dict[str, tuple[object, object]] = {
    # field: (the paper's method, or ours where the paper is silent; the released code)
    "consistency": (1.0, 0.0),
}


@dataclass(frozen=True, kw_only=True)
class FedCIL(Strategy):
    fidelity: Fidelity = "paper"
    """Side taken where paper and code differ, in every field that is null."""
    latent: Count = 110
    """Width of the generator's noise."""
    width: Count = 64
    """Channels of the generator's last stage; the first has up to eight times as many."""
    generator_lr: Positive = 2e-4
    """Learning rate of the generator, by Adam with betas 0.5 and 0.999, on clients and on the server."""
    generator_steps: Count = 1
    """Steps of the generator after each of the discriminator, on clients and on the server."""
    adversarial: Weight = 1.0
    """Weight of the real/fake loss relative to the class loss, on both sides."""
    replay: Annotated[float, Field(ge=0, le=1)] = 0.5
    """Share of replayed images in the discriminator's loss from task 2 on; new ones have the rest."""
    consistency: Weight | None = None
    """Weight of the consistency terms: 1 (ours, of the paper's terms), or 0 (reference)."""
    consolidation: Index = 100
    """Steps of the server on the clients' generated images after each round; 0 leaves the average as it is."""
    consolidation_lr: Positive = 1e-4
    """Learning rate of net and head in these steps, by Adam with betas 0.5 and 0.999."""
    consolidation_batch: Count = 32
    """Images of the new classes, and as many of the old, in such a step."""
    images: Count = 256
    """Images that the server draws from every client's generator in a round."""

    inputs = frozenset({"images"})
    paper = 'Qi, Zhao, Li, "Better Generative Replay for Continual Federated Learning", ICLR 2023, arXiv:2302.13001'
    uses = frozenset({"samples"})
    servers = Strategy.servers - {"fednova", "scaffold"}  # its generator is averaged beside the net
    loss_terms = ("consistency",)
    broadcasts = ("past", "generator", "realness")

    @property
    def settled(self) -> Self:
        return resolve(self, self.fidelity, SIDES)

    def smoke(self) -> Self:
        return replace(super().smoke(), consolidation=min(2, self.consolidation), width=min(4, self.width), images=8)

    # Client -----------------------------------------------------------------------------------

    def local_train(self, client: Client) -> Update:
        gan = self.parts(client)
        optimizer = adam(gan.generator.parameters(), self.generator_lr)

        def after_step(client: Client, batch: Batch) -> Terms:
            for _ in range(self.generator_steps):
                with client.autocast():
                    terms = gan.descend(optimizer, len(batch.y))
            return terms

        names, head = self.trainable(client.net), gan.head
        update = client.train(lambda c, b: self.terms(c, gan, b), names, head.parameters(), after_step, lend=True)
        held = torch.zeros(client.task.num_seen, dtype=torch.int64)
        held[client.shard.labels.unique().cpu()] = 1
        about = {"held": held, "shape": torch.tensor(client.shard.images.shape)}
        about |= {"mean": gan.generator.mean, "std": gan.generator.std}
        beside = named("generator.", gan.generator.state_dict()) | named("realness.", head.state_dict())
        return replace(update, weights=update.weights | beside | named("about.", about))

    def parts(self, client: Client) -> AcGan:
        """Return this client's AC-GAN at the beginning of a round, the same for all clients."""
        generator, head = self.build_generator(client, client.task.num_seen), self.build_head(client.net, client.seed)
        if "generator" in client.shared:
            generator.load_state_dict(client.shared["generator"])
            head.load_state_dict(client.shared["realness"])
        held, replayed = client.shard.labels.unique(), client.task.num_old if "past" in client.shared else 0
        labels = torch.cat([torch.arange(replayed, device=held.device), held])
        return AcGan(client.net, head, generator, labels, self.adversarial, client.generator("fedcil"))

    def build_generator(self, client: Client, num_classes: int) -> ConditionalGenerator:
        shard = client.shard
        with seeded("fedcil generator", client.seed):
            made = ConditionalGenerator(num_classes, shard.images.shape, shard.mean, shard.std, self.latent, self.width)
        return made.to(client.net.classifier.weight)

    def build_head(self, net: Net, seed: int) -> nn.Linear:
        with seeded("fedcil head", seed):
            return real_fake_head(net.classifier.in_features).to(net.classifier.weight)

    def terms(self, client: Client, gan: AcGan, batch: Batch) -> Terms:
        """Return the discriminator's loss on one batch."""
        logits, realness = gan.judge(batch.x)
        share = self.replay if "past" in client.shared else 0.0
        terms = gan.genuine(logits, realness, batch.y, 1 - share) | gan.caught(len(batch.y))
        if share:
            past = client.built("past", lambda: self.build_generator(client, client.task.num_old))
            y = one_of(torch.arange(client.task.num_old, device=client.device), len(batch.y), gan.stream)
            terms |= gan.genuine(*gan.judge(past.draw(y, gan.stream)), y, share, "replay_")
        weight = self.settled.consistency
        if weight and client.round > 1 and "generator" in client.shared:
            shared = client.built("generator", lambda: self.build_generator(client, client.task.num_seen))
            terms["consistency"] = weight * consistency(gan, shared, logits, batch.y)
        return terms

    # Server -----------------------------------------------------------------------------------

    def before_task(self, server: Server) -> None:
        if "generator" not in server.shared:
            return
        server.shared["past"] = old = server.shared["generator"]
        rows, rng = old["classes.weight"], server.generator("generator")
        fresh = torch.randn(server.task.num_seen - len(rows), rows.shape[1], generator=rng, dtype=rows.dtype)
        server.shared["generator"] = {**old, "classes.weight": torch.cat([rows, fresh.to(rows)])}

    def aggregate(self, server: Server, updates: Iterable[Update]) -> Update:
        pool: list[Batch] = []
        about: Tensors = {}
        mean = server.average(self.watched(server, updates, pool, about), self.weighting)
        beside = {prefix: within(prefix, mean.weights) for prefix in ("generator.", "realness.")}
        own = {k: w for k, w in mean.weights.items() if not k.startswith(tuple(beside))}
        server.net.load({**server.net.state_dict(), **own})
        generator = self.rebuilt(server, about, beside["generator."])
        head = self.build_head(server.net, server.seed)
        head.load_state_dict(beside["realness."])
        if self.consolidation:
            labels = torch.arange(server.task.num_seen, device=head.weight.device)
            gan = AcGan(server.net, head, generator, labels, self.adversarial, server.generator("consolidation"))
            x, y = (torch.cat(parts) for parts in zip(*pool, strict=True))
            past = server.shared.get("past")
            self.consolidate(gan, Batch(x, y), self.rebuilt(server, about, past).eval() if past else None)
        server.shared |= {"generator": clones(generator), "realness": clones(head)}
        return mean

    def watched(self, server: Server, updates: Iterable[Update], pool: list[Batch], about: Tensors) -> Iterator[Update]:
        """Yield the updates; images of each client's generator, of the new classes it holds, go to `pool`."""
        rng = server.generator("images")
        for update in updates:
            about |= within("about.", update.weights)
            generator = self.rebuilt(server, about, within("generator.", update.weights)).eval()
            y = one_of(about["held"].nonzero().flatten(), self.images, rng)
            with torch.no_grad():
                pool.append(Batch(generator.draw(y, rng), y))
            yield replace(update, weights={k: w for k, w in update.weights.items() if not k.startswith("about.")})

    def rebuilt(self, server: Server, about: Tensors, weights: Tensors) -> ConditionalGenerator:
        shape, mean, std = (about[k].cpu() for k in ("shape", "mean", "std"))
        with seeded("rebuilt"):  # these draws are overwritten at once
            classes = len(weights["classes.weight"])
            made = ConditionalGenerator(classes, tuple(shape.tolist()), mean, std, self.latent, self.width)
        made.load_state_dict(weights)
        return made.to(server.net.classifier.weight)

    def consolidate(self, gan: AcGan, new: Batch, past: ConditionalGenerator | None) -> None:
        """Train the AC-GAN on images of clients' generators, and on images of `past` for old classes."""
        discriminator = adam([*gan.net.parameters(), *gan.head.parameters()], self.consolidation_lr)
        optimizer, count = adam(gan.generator.parameters(), self.generator_lr), self.consolidation_batch
        share, training = self.replay if past else 0.0, gan.net.training
        gan.net.eval()  # with the statistics of real images
        drawn = evenly(new.y, count, gan.stream)
        for _ in range(self.consolidation):
            rows = next(drawn)
            terms = gan.genuine(*gan.judge(new.x[rows]), new.y[rows], 1 - share) | gan.caught(count)
            if past is not None and share:
                y = one_of(torch.arange(past.classes.num_embeddings, device=new.y.device), count, gan.stream)
                with torch.no_grad():
                    x = past.draw(y, gan.stream)
                terms |= gan.genuine(*gan.judge(x), y, share, "replay_")
            discriminator.zero_grad(set_to_none=True)
            torch.stack(list(terms.values())).sum().backward()
            discriminator.step()
            for _ in range(self.generator_steps):
                gan.descend(optimizer, count)
        gan.net.train(training)


def consistency(gan: AcGan, shared: ConditionalGenerator, logits: Tensor, labels: Tensor) -> Tensor:
    """Return the three terms between a client and the shared generator, given its `logits` of real images (B, C).

        KL(c(S(z, y)) || c(x)) + KL(c(S(z, y*)) || c(G(z, y*))) + CE(c(S(z, y*)), y*)

    c is the client's own net in all of them, and learns from both sides of a divergence.
    """
    count = len(labels)
    every = one_of(torch.arange(logits.shape[1], device=labels.device), count, gan.stream)  # y*
    with torch.no_grad():
        x = shared.draw(torch.cat([labels, every]), gan.stream)
        own = gan.generator.draw(every, gan.stream)
    with drop_running_statistics(gan.net):
        (alike, other), mine = gan.judge(x)[0].split(count), gan.judge(own)[0]
    divergences = kl_divergence(logits, alike, 1.0) + kl_divergence(mine, other, 1.0)
    return divergences + F.cross_entropy(other, every)


def adam(weights: Iterable[nn.Parameter], lr: float) -> torch.optim.Adam:
    return Adam(weights, lr, betas=(0.5, 0.999), fused=True)


def named(prefix: str, tensors: Tensors) -> Tensors:
    return {f"{prefix}{name}": t for name, t in tensors.items()}


def within(prefix: str, tensors: Tensors) -> Tensors:
    return {name.removeprefix(prefix): t for name, t in tensors.items() if name.startswith(prefix)}


def clones(module: nn.Module) -> Tensors:
    return {name: t.detach().clone() for name, t in module.state_dict().items()}
