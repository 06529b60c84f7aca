"""Patchwork: filters from sums over patches, and a classifier in closed form. No net, no generator, no image is kept.

The composition is ours; its parts are not. Features: Coates, Lee and Ng, AISTATS 2011, and Coates and Ng, ICML 2011
(`fcil/nets/patches.py` has their equations); ridge regression from clients' sums as in AFL (He et al., CVPR 2025) and
RanPAC (McDonnell et al., NeurIPS 2023, arXiv:2307.02251). All that a client sends is a sum over its own images, so the
result is that of all images at once, however they are shared out.

    task 1, round 1:   sum_k (mean patch, mean product of pixels)       -> whitening, K random filters D
    later rounds:      sum_k S_k(D), a step of spherical k-means        -> D, `clusterings` times
    end of a task:     G_k = sum_i h_i h_i^T,  P_k = sum_i h_i y_i^T,   h = [f(x), 1]
    server:            G += sum_k G_k,  P += sum_k P_k;  W, b by ridge regression on standardised f
    predict:           argmax_c f(x)^T w_c + b_c                        over classes seen

Filters and whitening are those of the first task and stay, so nothing is forgotten. Which classes that task has, which
each seed draws anew, moves the final accuracy by 0.1 to 0.3 points on three sets (`results/README.md`).

What leaves a client: in the first task the second moments of its patches, and for each filter the sum of the patches
nearest to it: a filter that a single patch is nearest to shows that patch. At the end of a task the upper triangle of
G, and P: from G one reads the span of the features, and P tells which classes a client holds.

Forgetting (`fcil unlearn`): the sums of a client are taken out of G and P, and the classifier is that of a run without
it, to rounding. Filters and whitening come from samples of the first task and stay, so a client that has any is
refused; its later tasks alone can be taken out. A class without a sample is not predicted.

Shapes: B batch, M = 2 K g^2 + 1 features (K filters, g cells a side), C classes seen, d pixels of a patch.
"""

from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass
from typing import ClassVar, Literal, cast

import torch
import torch.nn.functional as F
from torch import Tensor

from fcil import Client, Count, Index, NonNegative, Positive, Server, State, Strategy, Update
from fcil.errors import ConfigError, TrainingError
from fcil.nets import Net, NetSettings
from fcil.nets.backbone import Shape
from fcil.nets.patches import (
    FilterBank,
    Whitening,
    filter_sums,
    first_filters,
    in_parts,
    next_filters,
    patch_sums,
    patches_of,
)
from fcil.nets.ridge import Moments, never, packed, unpacked
from fcil.rng import sent
from fcil.types import Task, Tensors

BATCH = 256
"""Images whose features are computed at once."""


@dataclass(frozen=True, kw_only=True)
class Patchwork(Strategy):
    filters: Count = 100
    """Filters (`K`), each of which counts twice, for what is like it and for its negative."""
    side: Count | None = None
    """Pixels of a patch's side; null: a fifth of the image's, 3 at least."""
    grid: Count = 3
    """Cells a side in which responses are averaged (`g`); Coates et al. have 2."""
    threshold: NonNegative = 0.25
    """Response below which a filter is silent (`alpha`)."""
    clusterings: Index = 10
    """Steps of k-means, one in each round of the first task but its first, while there are any; 0: random filters."""
    contrast: Positive = 0.01
    """Variance added to that of a patch before its contrast is normalised."""
    floor: Positive = 0.1
    """Variance added to each direction of patches before they are whitened."""
    ridge: Positive = 0.1
    """Penalty for one sample, on features of variance 1."""
    views: Count = 1
    """Passes over a client's images for its moments; those after the first are augmented as training images are."""

    memo_lasts: ClassVar[Literal["task", "run"]] = "run"
    inputs = frozenset({"images"})
    paper = (
        'Coates, Lee and Ng, "An Analysis of Single-Layer Networks in Unsupervised Feature Learning", AISTATS 2011; '
        "McDonnell et al., RanPAC, NeurIPS 2023, arXiv:2307.02251; composed here"
    )
    scenarios = frozenset({"classes", "domains"})
    uses = frozenset({"sums"})
    broadcasts = ("center", "whitening", "filters", "head", "offset")

    def check_files(self, net: NetSettings, shape: Shape, classes: Sequence[int]) -> None:
        short = min(shape[1:])
        if self.side_of(short) > short:
            raise ConfigError(f"side: {self.side_of(short)} is not allowed; images are {shape[1]} x {shape[2]}")
        if self.grid > short - self.side_of(short) + 1:
            raise ConfigError(
                f"grid: {self.grid} is not allowed; images have {short - self.side_of(short) + 1} patches a side"
            )

    def side_of(self, pixels: int) -> int:
        """Return the side of a patch for images of so many pixels a side."""
        return self.side or max(3, round(pixels / 5))

    # Client -----------------------------------------------------------------------------------

    def local_train(self, client: Client) -> Update:
        count = len(client.shard)
        if not client.task.first or client.round > 1 + self.clusterings or not count:
            return Update({}, count, {})
        filters = cast(Tensor | None, client.shared.get("filters"))
        sums: Tensors = {}
        for p in self.patches(client):
            if filters is None:
                part = patch_sums(p)
            else:
                part = {"filters": filter_sums(self.whitening(client.shared)(p).flatten(0, 1), filters)}
            sums = {name: sums[name] + t if sums else t for name, t in part.items()}
        return Update({name: total / count for name, total in sums.items()}, count, {})

    def patches(self, client: Client) -> Iterator[Tensor]:
        """Yield the patches (B, P, d) of all images of the client."""
        for batch in client.shard.batches(BATCH, augment=False, shuffle=False, drop_single=False):
            for part in in_parts(batch.x, self.side_of(min(batch.x.shape[2:]))):
                yield patches_of(part, self.side_of(min(part.shape[2:])), self.contrast)

    def after_local_task(self, client: Client) -> Update | None:
        if not len(client.shard):
            return None
        total: Moments | None = None
        for view in range(self.views):
            rng = client.generator("views") if view else None
            for batch in client.shard.batches(BATCH, rng, augment=view > 0, shuffle=False, drop_single=False):
                h = F.pad(self.features(batch.x, client.shared), (0, 1), value=1.0)  # (B, M)
                part = Moments.of(h, batch.y - client.task.classes.start, len(client.task.classes))
                total = part if total is None else total + part
        assert total is not None
        return Update({"gram": packed(total.gram), "cross": total.cross}, len(client.shard))

    # Server -----------------------------------------------------------------------------------

    def aggregate(self, server: Server, updates: Iterable[Update]) -> Update:
        mean = server.average((update for update in updates if update.num_examples), self.weighting)
        if "product" in mean.weights:
            whitening = Whitening.of(mean.weights["patch"], mean.weights["product"], self.floor)
            first = first_filters(self.filters, len(whitening.center), server.generator("filters"))
            filters = sent(first, whitening.center)
            server.shared |= {"center": whitening.center, "whitening": whitening.matrix, "filters": filters}
        elif "filters" in mean.weights:
            server.shared["filters"] = next_filters(mean.weights["filters"], cast(Tensor, server.shared["filters"]))
        return Update({}, mean.num_examples, mean.metrics)

    def after_task(self, server: Server, updates: Iterable[Update]) -> None:
        for update in updates:
            cross = F.pad(update.weights["cross"], (server.task.classes.start, 0))  # (M, C)
            part, before = Moments(unpacked(update.weights["gram"]), cross), server.memo.get("moments")
            total = part if before is None else Moments(**cast(Tensors, before)) + part
            server.memo["moments"] = {"gram": total.gram, "cross": total.cross}
        self.solve(server)

    def forget(self, server: Server, sent: Iterable[tuple[Task, Update]]) -> None:
        for task, update in sent:
            if task.first:
                raise ConfigError("filters and whitening come from its samples of the first task, and stay")
            cross = F.pad(update.weights["cross"], (task.classes.start, 0))  # (M, C)
            total = Moments(**cast(Tensors, server.memo["moments"]))
            total = total.without(Moments(unpacked(update.weights["gram"]), cross))
            server.memo["moments"] = {"gram": total.gram, "cross": total.cross}
        self.solve(server)

    def solve(self, server: Server) -> None:
        try:
            weight, offset = Moments(**cast(Tensors, server.memo["moments"])).solve_standardised(self.ridge)
        except ValueError as error:
            raise TrainingError(str(error)) from None
        server.shared |= {"head": weight, "offset": offset}  # (M - 1, C), (C,)

    # Features ---------------------------------------------------------------------------------

    def whitening(self, shared: State) -> Whitening:
        return Whitening(cast(Tensor, shared["center"]), cast(Tensor, shared["whitening"]))

    @torch.no_grad()
    def features(self, x: Tensor, shared: State) -> Tensor:
        """Return f(x) (B, M - 1) of images as a net would have them."""
        side, filters = self.side_of(min(x.shape[2:])), cast(Tensor, shared["filters"])
        return FilterBank(side, self.contrast, self.threshold, self.grid, self.whitening(shared), filters)(x)

    @torch.no_grad()
    def predict(self, net: Net, x: Tensor, shared: State) -> Tensor:
        head = cast(Tensor | None, shared.get("head"))
        if head is None:  # in the rounds of the first task
            return net(x).logits
        scores = self.features(x, shared).double() @ head + cast(Tensor, shared["offset"])
        scores = scores.masked_fill(never(head), -torch.inf)
        return F.pad(scores, (0, net.num_classes - head.shape[1]), value=-torch.inf)

    @property
    def reads_net(self) -> bool:
        return False

    def trainable(self, net: Net) -> Sequence[str]:
        return []
