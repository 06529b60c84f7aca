"""FOT: federated orthogonal training; the clients' mean change is kept orthogonal to the inputs of old tasks.

Paper: Bakman, Yaldiz, Ezzeldin, Avestimehr, "Federated Orthogonal Training: Mitigating Global Catastrophic
Forgetting in Continual Federated Learning", ICLR 2024, arXiv:2309.01289.
Code: github.com/duygunuryldz/Federated_Orthogonal_Training @ 6adce7c.

When a task ends, the server estimates the subspace of the inputs of every convolution and linear layer,
patches of an image for a convolution. In later tasks it projects the clients' mean change off that subspace, so that
the layer's outputs for the old tasks' inputs stay.

    client k, when a task ends:   Y_k = (I - V V^T) X_k G_k          G_k normal, of its own and never sent
    server:                       Y = sum_k Y_k,   U_m the first m left singular vectors of Y, sigma their values
                                  V <- [V U_m]     sum_{i > m} sigma_i^2 <= (1 - e)/rho |Y|^2
    every round after that:       W <- W + D (I - V V^T)             D the mean change of the clients' weights

X_k are the inputs of the layer for client k's images, V holds the share e of their energy (0.95, then
0.951 and so on), and rho is the share of it that lay outside the old V. The cross-entropy is over the new
classes alone: the code is given the task at test time and has a classifier for each.

Sketches Y_k and two numbers for each layer leave the clients. Their span is that of the client's own inputs,
up to the width of a sketch; for a client with one image in the first task the classifier's sketch
reveals its feature. The paper adds them up by secure aggregation, which is not part of this. The bases V
are sent to clients, in the code too.

Ours, since there is no classifier that grows in the code: its rows for old classes are projected as any other layer
is, those for new ones are free. Biases are projected too, as weights of an input that is always one; the code's nets
have none. Normalisation is frozen after the first task (`batchnorm`): the code's nets have none,
or use the statistics of the current batch. Weights that are neither of a convolution nor of a linear layer are free.

Differs: the code's sketches are as wide as the layer's inputs, or five times that: 425 MB for one layer of a
resnet18. Here they have `sketch` columns, so a basis gains no more vectors than that in one task.
"""

from collections.abc import Iterable
from dataclasses import dataclass
from math import sqrt
from typing import Literal, Self

import torch
from torch import nn

from fcil import Batch, Client, Count, Fraction, NonNegative, Server, Strategy, Terms, Update
from fcil.fidelity import Fidelity, resolve
from fcil.losses import new_class_cross_entropy
from fcil.nets import Net
from fcil.subspace import as_rows, away, from_rows, joined, principal, record_sketches
from fcil.types import Tensors

SIDES: dict[str, tuple[object, object]] = {
    # field: (ours; the released code)
    "outside": ("energy", "norm"),  # energy, so that V holds the share e indeed: as in GPM, Saha et al., ICLR 2021
    "weighting": ("examples", "uniform"),
}
BATCH = 32
"""Images in a forward that is sketched."""
NORMS = (nn.modules.batchnorm._BatchNorm, nn.GroupNorm, nn.LayerNorm)


@dataclass(frozen=True, kw_only=True)
class FOT(Strategy):
    fidelity: Fidelity = "paper"
    """Side taken where paper and code differ, in every field that is null."""
    threshold: Fraction = 0.95
    """Share of a layer's inputs' energy that the first task's basis holds (`epsilon`; the code has 0.87 to 0.96)."""
    rise: NonNegative = 0.001
    """Growth of that share from task to task, up to 1 (`eps_inc`)."""
    sketch: Count = 256
    """Columns of a client's sketch of each layer: the most directions that a basis gains in one task."""
    images: Count | None = None
    """Most images, drawn at random, that a client sketches; null takes all."""
    classes: Literal["seen", "new"] = "new"
    """Logits in the cross-entropy: of all classes seen, or of the new ones alone as in the paper."""
    batchnorm: Literal["freeze", "train"] = "freeze"
    """Normalisation after the first task: scales, shifts and running statistics stay, or are trained as usual."""
    outside: Literal["energy", "norm"] | None = None
    """Form of rho: a share of squares (ours), or clients' mean share of norms, one vector at least (reference)."""
    weighting: Literal["examples", "uniform"] | None = None
    """Weight of a client in the average: its examples (ours), or the same for all (reference)."""

    paper = (
        'Bakman, Yaldiz, Ezzeldin, Avestimehr, "Federated Orthogonal Training: Mitigating Global Catastrophic '
        'Forgetting in Continual Federated Learning", ICLR 2024, arXiv:2309.01289'
    )
    scenarios = frozenset({"classes", "domains"})
    servers = Strategy.servers
    loss_terms = ("ce",)
    broadcasts = ("bases",)

    @property
    def settled(self) -> Self:
        return resolve(self, self.fidelity, SIDES)

    # Client -----------------------------------------------------------------------------------

    def local_loss(self, client: Client, batch: Batch) -> Terms:
        if self.holds_norms(client):
            for layer in norms(client.net).values():
                layer.eval()  # a round begins with the whole net in train mode
        old = client.task.classes.start if self.classes == "new" else 0
        return {"ce": new_class_cross_entropy(client.net(batch.x).logits, batch.y, old)}

    def local_train(self, client: Client) -> Update:
        still = tuple(f"{name}." for name in norms(client.net)) if self.holds_norms(client) else ()
        names = [name for name in self.trainable(client.net) if not name.startswith(still)]
        return client.train(self.local_loss, names, lend=True)

    def holds_norms(self, client: Client) -> bool:
        return self.batchnorm == "freeze" and not client.task.first

    def after_local_task(self, client: Client) -> Update | None:
        if not len(client.shard) or client.task.last:
            return None
        stream, total = client.generator("sketch"), len(client.shard)
        drawn = torch.randperm(total, generator=stream)[: self.images]
        client.net.eval()
        with torch.no_grad(), record_sketches(client.net, self.sketch, stream) as sketches:
            for batch in client.shard.select(drawn).batches(BATCH, augment=False, shuffle=False):
                client.net(batch.x)
        sent: Tensors = {}
        still = client.net.fixed()
        for name, found in ((name, found) for name, found in sketches.items() if f"{name}.weight" not in still):
            whole = found.double() * sqrt(total / len(drawn))
            basis = client.shared.get("bases", {}).get(name)
            rest = whole if basis is None else away(whole.T, basis.double()).T
            sent[f"sketch/{name}"] = rest.to(found.dtype)
            sent[f"energy/{name}"] = torch.stack([rest.square().sum(), whole.square().sum()])
        return Update(sent, total)

    # Server -----------------------------------------------------------------------------------

    def aggregate(self, server: Server, updates: Iterable[Update]) -> Update:
        """Return the old global net plus the clients' mean change, projected off the old tasks' inputs."""
        before, mean = server.net.weights(), server.average(updates, self.settled.weighting)
        after = {**before, **mean.weights}
        for name, basis in server.shared.get("bases", {}).items():
            weight, bias = f"{name}.weight", f"{name}.bias"
            start = as_rows(before[weight], before.get(bias))  # (o, d)
            change = as_rows(after[weight], after.get(bias)) - start
            held = server.task.num_old if name == "classifier" else len(change)
            change[:held] = away(change[:held], basis.to(change))
            after[weight], moved = from_rows(start + change, before[weight], before.get(bias))
            after |= {} if moved is None else {bias: moved}
        server.net.load(after)
        return mean

    def after_task(self, server: Server, updates: Iterable[Update]) -> None:
        if server.task.last:
            return
        sums: Tensors = {}
        for update in updates:
            for key, value in self.told(update).items():
                sums[key] = sums[key] + value if key in sums else value
        kept = min(1.0, self.threshold + self.rise * (server.task.number - 1))
        bases = dict(server.shared.get("bases", {}))
        for key in [key for key in sums if key.startswith("sketch/")]:
            name, total = key.removeprefix("sketch/"), sums[key]
            part, whole = sums[f"energy/{name}"]
            allowed = (1 - kept) / (part / whole) * total.square().sum()
            more = principal(total, allowed, least=0 if self.settled.outside == "energy" else 1)
            if more.shape[1]:
                # In the memory layout that a checkpoint gives, so that products round alike.
                bases[name] = joined(bases.get(name), more).float().contiguous()
        server.shared["bases"] = bases

    def told(self, update: Update) -> Tensors:
        """Return a client's tensors such that sums over the clients give Y and, as part / whole, rho."""
        said = {key: value.double() for key, value in update.weights.items()}
        if self.settled.outside == "norm":
            for key in [key for key in said if key.startswith("energy/")]:
                part, whole = said[key]
                share = (part / whole).nan_to_num().sqrt()
                said[key] = update.num_examples * torch.stack([share, torch.ones_like(share)])
        return said


def norms(net: Net) -> dict[str, nn.Module]:
    """Return the normalisation layers, by name."""
    return {name: layer for name, layer in net.named_modules() if isinstance(layer, NORMS)}
