"""MFCL: a generator trained on the server, without data, lets every client generate the old classes.

Paper: Babakniya et al., "A Data-Free Approach to Mitigate Catastrophic Forgetting in Federated Class
Incremental Learning for Vision Tasks", NeurIPS 2023, arXiv:2311.07784. Code:
github.com/SaraBabakN/MFCL-NeurIPS23 @ 8ab937b, clients/MFCL.py.

When a task ends, the server trains a generator against the global net T (`fcil/synthesis/mfcl.py`) and
sends it, not samples, to the clients. In every step a client generates samples x' with T's predictions as labels.
They are images, as the paper's, or time series. With X the real samples of new classes and x' together, h the
net's classifier and W that of T,

    task 1:  L = CE(z, y)
    task t:  L = CE(z_new, y)                          on real samples, new logits alone
               + head CE(h(stop f), y)                 on X, all classes; no gradient to the features f
               + distil |W f - W f^T|^2 / K            on X, mean over samples

So features learn new classes while W can still read them, and the classifier alone learns to separate old
from new. Only weights leave a client.

Shapes: B real images, N synthetic ones, C classes seen, K of them old, F feature width.
"""

from collections.abc import Iterable, Sequence
from dataclasses import dataclass, field
from typing import ClassVar, Literal, Self, cast

import torch
import torch.nn.functional as F
from torch import Tensor

from fcil import Batch, Client, Count, Server, Strategy, Synthesizer, Terms, Update, Weight
from fcil.fidelity import Fidelity, resolve
from fcil.losses import head_cross_entropy, new_class_cross_entropy
from fcil.nets import Forwards, outputs_of
from fcil.synthesis import mfcl

SIDES: dict[str, tuple[object, object]] = {
    # field: (the paper's method, or ours where the paper is silent; the released code)
    "weighting": ("examples", "uniform"),
    "passes": (1, 2),
}


@dataclass(frozen=True, kw_only=True)
class MFCL(Strategy):
    fidelity: Fidelity = "paper"
    """Side taken where paper and code differ, in every field that is null, the synthesizer's included."""
    synthetic: Count = 128
    """Samples that a client generates in every step (`syn_size`; the code has 32 real ones beside them)."""
    head: Weight = 1.0
    """Weight of the classifier's cross-entropy over all classes (`w_ft`)."""
    distil: Weight = 0.1
    """Weight of keeping the old classifier's outputs for the features (`w_kd`, mu)."""
    synthesizer: Synthesizer = field(default_factory=mfcl.MFCL)
    """Training of the generator; `mfcl`, whose generator can be sent."""
    weighting: Literal["examples", "uniform"] | None = None
    """Weight of a client in the average: its examples (ours), or the same for all (reference)."""
    passes: Literal[1, 2] | None = None
    """Forwards in a step: 1 (ours), or 2, whose second moves batch-norm statistics alone (reference)."""
    forwards: Forwards = "one"
    """Real and imagined samples in one forward, with BatchNorm statistics of both, as the code has it, or in two."""

    later: ClassVar[frozenset[str]] = frozenset({"forwards"})

    paper = (
        'Babakniya et al., "A Data-Free Approach to Mitigate Catastrophic Forgetting in Federated Class '
        'Incremental Learning for Vision Tasks", NeurIPS 2023, arXiv:2311.07784'
    )
    uses = frozenset({"teacher", "samples"})
    servers = Strategy.servers
    loss_terms = ("ce", "head", "kd")
    broadcasts = ("generator", "teacher")

    def __post_init__(self) -> None:
        if not isinstance(self.synthesizer, mfcl.MFCL):
            raise ValueError(f'synthesizer: "{self.synthesizer.name}" makes samples; clients need a generator (mfcl)')

    @property
    def settled(self) -> Self:
        return resolve(self, self.fidelity, SIDES)

    # Client -----------------------------------------------------------------------------------

    def local_loss(self, client: Client, batch: Batch) -> Terms:
        if client.task.first:
            return {"ce": F.cross_entropy(client.net(batch.x).logits, batch.y)}
        real, old, teacher = len(batch.y), client.task.num_old, client.frozen("teacher")
        with torch.no_grad():
            samples = batch.x, self.imagined(client, batch.x.shape[1:])  # (B, channels, ...), (N, channels, ...)
            before = teacher(torch.cat(samples)).logits  # (B + N, K)
        y = torch.cat([batch.y, before[real:].argmax(dim=1)])
        outputs = outputs_of(client.net, samples, self.forwards)
        features = torch.cat([out.features for out in outputs])  # (B + N, F)
        kept = F.mse_loss(teacher.classifier(features), before)  # both through W; its bias cancels
        if self.settled.passes == 2:
            with torch.no_grad():
                features = torch.cat([out.features for out in outputs_of(client.net, samples, self.forwards)])
        return {
            "ce": new_class_cross_entropy(outputs[0].logits, batch.y, old),
            "head": self.head * head_cross_entropy(client.net.classifier, features, y),
            "kd": self.distil * kept,
        }

    def imagined(self, client: Client, shape: torch.Size) -> Tensor:
        """Return the next synthetic samples (N, channels, H, W) or (N, channels, L), normalised."""

        def build() -> mfcl.Generator:
            made = cast(mfcl.MFCL, self.synthesizer).new_generator(tuple(shape))
            made.stream = client.generator("noise")  # one for all the steps of the round
            return made

        return cast(mfcl.Generator, client.built("generator", build)).sample(self.synthetic)

    # Server -----------------------------------------------------------------------------------

    def aggregate(self, server: Server, updates: Iterable[Update]) -> Update:
        mean = server.average(updates, self.settled.weighting)
        server.net.load({**server.net.state_dict(), **mean.weights})
        return mean

    def after_task(self, server: Server, updates: Sequence[Update]) -> None:
        if server.task.last:
            return
        synthesizer = self.synthesizer.with_fidelity(self.fidelity)
        pool = server.synthesize(synthesizer, range(server.task.num_seen))
        server.shared |= {"generator": mfcl.travelling(pool), "teacher": server.net.weights()}
