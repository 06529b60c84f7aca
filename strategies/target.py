"""TARGET: clients distil the last global net on synthetic images of everything learnt before.

Paper: Zhang et al., "TARGET: Federated Class-Continual Learning via Exemplar-Free Distillation", ICCV 2023,
arXiv:2303.06937. Code: github.com/zj-jayzhang/Federated-Class-Continual-Learning @ 78cb9c0, methods/target.py.

When a task ends, the server inverts the global net into synthetic images, by default with Fast-DFKD.
In the next task every step of a client takes a batch of each kind:

    task 1:  L = CE(z, y)
    task t:  L = CE(z_new, y) + keep KD(z_old, z_old^T)     on real images of the new classes, and on
                                                            synthetic ones; T the last global net

KD is a cross-entropy of softened outputs. Clients send only their nets. The images are sent to all
clients, and reveal to each what the net leaks of the others' data.

The released code makes 10 batches of 256 images, where its command asks for 8,000, and stops before the end
of the synthesizer's warm-up of 20: the student is never trained and the adversarial term never used. On the
paper's side there are 32 batches, ours, and the student learns after 3 of them. The code also ends a local epoch
with the shorter of the two lists of batches, so that larger clients leave most of their real images unused.

Its clients train 5 local epochs at a constant rate of 0.01; set these in `federation` and `optimizer`.

Shapes: B batch, C classes seen, K of them old, N synthetic images a step.
"""

from collections.abc import Iterable, Sequence
from dataclasses import dataclass, field, replace
from typing import ClassVar, Literal, Self

import torch
import torch.nn.functional as F

from fcil import Batch, Client, Positive, Server, Strategy, Synthesizer, Terms, Update, Weight
from fcil.fidelity import Fidelity, resolve
from fcil.losses import new_class_cross_entropy, soft_cross_entropy
from fcil.nets import Forwards, outputs_of
from fcil.synthesis.fast import Fast

OWN = Fast(samples=8000, rounds=32, adv=1.0)
RELEASED = replace(OWN, rounds=10)

SIDES: dict[str, tuple[object, object]] = {
    # field: (the paper's method, or ours where the paper is silent; the released code)
    "pairing": ("all", "shorter"),
    "synthetic": (1.0, 500 / 128),  # its 8000 images in the 16 steps of an average client's epoch
    "weighting": ("examples", "uniform"),
}


@dataclass(frozen=True, kw_only=True)
class TARGET(Strategy):
    fidelity: Fidelity = "paper"
    """Side taken where paper and code differ, in every field that is null, the synthesizer's included."""
    keep: Weight = 25.0
    """Weight of the distillation (`kd`)."""
    temperature: Positive = 2.0
    """Temperature of both sides of the distillation (`T`); there is no T^2 factor."""
    synthesizer: Synthesizer = field(default_factory=lambda: OWN)
    """Method by which the server makes images; the default makes 10 batches on the reference side, not 32."""
    synthetic: Positive | None = None
    """Synthetic images per step, as a multiple of the batch size: 1 (ours), or 3.9 (reference, at 5 tasks)."""
    pairing: Literal["all", "shorter"] | None = None
    """A local epoch takes all real batches (ours), or ends with the synthetic images (reference)."""
    weighting: Literal["examples", "uniform"] | None = None
    """Weight of a client in the average: its examples (ours), or the same for all (reference)."""
    forwards: Forwards = "two"
    """Real and synthetic images in a forward each, as the code has it, or in one, with BatchNorm statistics of both."""

    later: ClassVar[frozenset[str]] = frozenset({"forwards"})

    paper = (
        'Zhang et al., "TARGET: Federated Class-Continual Learning via Exemplar-Free Distillation", ICCV 2023, '
        "arXiv:2303.06937"
    )
    uses = frozenset({"teacher", "samples"})
    servers = Strategy.servers
    loss_terms = ("ce", "kd")
    broadcasts = ("synthetic", "teacher")

    @property
    def settled(self) -> Self:
        s = resolve(self, self.fidelity, SIDES)
        return replace(s, synthesizer=RELEASED) if s.fidelity == "reference" and s.synthesizer == OWN else s

    # Client -----------------------------------------------------------------------------------

    def local_loss(self, client: Client, batch: Batch) -> Terms:
        if client.task.first:
            return {"ce": F.cross_entropy(client.net(batch.x).logits, batch.y)}
        old = client.task.num_old
        synthetic = client.draw("synthetic", self.count(client))  # (N, channels, H, W)
        if self.forwards == "one":
            out, student = outputs_of(client.net, (batch.x, synthetic), "one")
            learnt = {"ce": new_class_cross_entropy(out.logits, batch.y, old)}
        else:
            learnt = {"ce": new_class_cross_entropy(client.net(batch.x).logits, batch.y, old)}
            learnt = client.descend(learnt, TARGET.local_loss)
            student = client.net(synthetic)
        with torch.no_grad():
            teacher = client.frozen_output("teacher", synthetic).logits  # (N, K)
        return learnt | {
            "kd": self.keep * soft_cross_entropy(student.logits[:, :old], teacher, self.temperature),
        }

    def local_train(self, client: Client) -> Update:
        if self.settled.pairing == "shorter" and not client.task.first:
            through = -(-len(client.shared["synthetic"]["x"]) // self.count(client))
            client.max_batches = min(through, client.max_batches or through)
        return client.train(self.local_loss, self.trainable(client.net), lend=True)

    def count(self, client: Client) -> int:
        """Return N."""
        return max(1, round(self.settled.synthetic * client.batch_size))

    # Server -----------------------------------------------------------------------------------

    def aggregate(self, server: Server, updates: Iterable[Update]) -> Update:
        mean = server.average(updates, self.settled.weighting)
        server.net.load({**server.net.state_dict(), **mean.weights})
        return mean

    def after_task(self, server: Server, updates: Sequence[Update]) -> None:
        if server.task.last:
            return
        synthesizer = self.settled.synthesizer.with_fidelity(self.fidelity)
        server.shared["synthetic"] = server.synthesize(synthesizer, range(server.task.num_seen))
        server.shared["teacher"] = server.net.weights()
