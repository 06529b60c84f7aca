"""Analytic: a classifier in closed form on frozen features; the mark that every generator has to clear.

Method: Guo et al., "STSA: Federated Class-Incremental Learning via Spatial-Temporal Statistics Aggregation", WWW 2026,
code Yuqin-G/STSA; without training of features it is the federated form of RanPAC (McDonnell et al., NeurIPS 2023,
arXiv:2307.02251) and AFL (He et al., CVPR 2025). FedRAN (arXiv:2606.11480) sends a sketch.

    h(x) = relu(R^T f(x) + b)                         R, b random and fixed, f the features
    client k, once a task:   G_k = sum_i h_i h_i^T,   P_k = sum_i h_i y_i^T
    server:                  G += sum_k G_k,  P += sum_k P_k,  W = (G + ridge tr(G)/M I)^-1 P
    predict:                 argmax_c h(x)^T w_c      over classes seen

Sums do not depend on who holds which sample, nor on the order of tasks: the result is that of ridge regression on all
samples at once, whatever the partition, and nothing is forgotten. No image is kept or made.

f is `random`: the pixels themselves, so no net is trained and one round a task is enough; `task1`: features of the net
that clients train by federated averaging in the first task, and that is frozen afterwards; `pretrained`: features of a
net that begins from a file of weights and stays so (`net.pretrained`, `net.frozen`), as in RanPAC, AFL and STSA; or
`file`: features of such a net that were computed before. Without the random layer (`width: null`) it is AFL's
regression on f itself.

What leaves a client, once a task: second moments of its features. From G one reads the span of them, and the image
itself where a client has a single one; P are the class sums and tells which classes a client holds. `groups` sends
class sums of random groups in place of G (STSA-E), which is less and shows class means of few samples; `sketch`
sends G's greatest directions and the mean of the rest. The random layer travels as its seed.

Forgetting (`fcil unlearn`): the sums of a client are taken out, and the classifier is that of a run without it, to
rounding: exact for `gram` and `sketch`, whose sums add up over clients; for `groups`, too, since the server keeps what
each group has sent (G's estimate depends on how many groups hold a class). What remains are the seed, the random layer
that it draws, and the number of clients. With `features: task1` the net has learnt from samples of the first task, so
a client that has any is refused; its later tasks alone can be taken out. A class without a sample is not predicted.

Differs: the code's penalty is lambda = 1e6 on features of any size; here it is in proportion to their mean square. The
code has no bias b.

Shapes: B batch, F features, M random features, C classes seen, K of them old, N a client's samples of a task.
"""

from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass
from functools import lru_cache
from typing import Annotated, ClassVar, Literal, cast

import torch
import torch.nn.functional as F
from pydantic import Field
from torch import Tensor

from fcil import Client, Count, NonNegative, Positive, Server, State, Strategy, Update
from fcil.config.content import HashedFile
from fcil.data import Dataset
from fcil.data.files.features import of_features
from fcil.errors import ConfigError, TrainingError
from fcil.nets import Net, NetSettings
from fcil.nets.backbone import Shape
from fcil.nets.ridge import GroupSums, Moments, dealt, estimated, group_sums, never, sketched, unsketched
from fcil.nets.series.padding import split_padding
from fcil.rng import generator, sent
from fcil.types import Task, Tensors

BATCH = 1024
"""Samples whose features are computed at once."""


@dataclass(frozen=True, kw_only=True)
class Analytic(Strategy):
    features: Literal["random", "task1", "pretrained", "file"] = "random"
    """Frozen features below the random layer: the pixels; the net as clients have trained it in the first task; the
    frozen net of `net.pretrained`; or those of `train_features` and `test_features`."""
    train_features: HashedFile | None = None
    """`.npy` file of features (N, F) of all training samples, row i of sample i, for `features: file`."""
    test_features: HashedFile | None = None
    """The same of the test samples."""
    width: Count | None = 1000
    """Random features (`M`): 1,250 in STSA's command, 10,000 in RanPAC; null: no random layer, f as it is (AFL)."""
    bias: NonNegative = 0.3
    """Standard deviation of the random layer's biases, where its weights give a standard deviation of 1."""
    ridge: Positive = 1e-4
    """Penalty, as a share of the mean square of a feature summed over all samples."""
    send: Literal["gram", "groups", "sketch"] = "gram"
    """What stands for second moments on the wire: all of them, class sums of groups (STSA-E), or a sketch (FedRAN)."""
    groups: Annotated[int, Field(ge=2)] = 5
    """Groups into which a client deals out its samples, for `send: groups`."""
    rank: Count = 100
    """Directions that a client sends, for `send: sketch`."""

    def __post_init__(self) -> None:
        for name, read in (("groups", "groups"), ("rank", "sketch")):
            if self.send != read and getattr(self, name) != type(self).__dataclass_fields__[name].default:
                raise ValueError(f"{name}: {getattr(self, name)} is not read where send is {self.send}; leave it out")
        if self.width is None and self.bias != type(self).__dataclass_fields__["bias"].default:
            raise ValueError(f"bias: {self.bias} is not read where width is null; leave it out")
        for name in ("train_features", "test_features"):
            given, read = getattr(self, name) is not None, self.features == "file"
            if read and not given:
                raise ValueError(f"{name}: missing; features: file reads it")
            if given and not read:
                raise ValueError(f"{name}: not read where features is {self.features}; leave it out")

    later = frozenset({"train_features", "test_features"})
    memo_lasts: ClassVar[Literal["task", "run"]] = "run"
    paper = (
        'Guo et al., "STSA: Federated Class-Incremental Learning via Spatial-Temporal Statistics Aggregation", '
        "WWW 2026; McDonnell et al., RanPAC, NeurIPS 2023, arXiv:2307.02251"
    )
    scenarios = frozenset({"classes", "domains"})
    uses = frozenset({"sums"})
    servers = frozenset()  # after task 1 nothing is averaged
    broadcasts = ("head", "draw")

    @property
    def reads_net(self) -> bool:
        return self.features in ("task1", "pretrained")

    def check_files(self, net: NetSettings, shape: Shape, classes: Sequence[int]) -> None:
        if self.features == "pretrained" and not net.frozen:
            raise ConfigError(
                "strategy.analytic.features: pretrained needs net.pretrained, a file, and net.frozen: true"
            )
        if self.features == "task1" and net.frozen:
            raise ConfigError(
                "strategy.analytic.features: task1 trains the net, which net.frozen keeps as it is; say pretrained"
            )

    def stand_in(self, dataset: Dataset) -> Dataset:
        if self.train_features is None or self.test_features is None:
            return dataset
        return of_features(dataset, self.train_features, self.test_features)

    # Client -----------------------------------------------------------------------------------

    def local_train(self, client: Client) -> Update:
        if self.features == "task1" and client.task.first:
            return client.train(self.local_loss, self.trainable(client.net), lend=True)
        return Update({}, len(client.shard), {})  # nothing is trained

    def after_local_task(self, client: Client) -> Update | None:
        if not len(client.shard):
            return None
        totals: Tensors = {}
        for number, (h, labels) in enumerate(self.lifted_batches(client)):
            if self.send == "groups":
                place = dealt(len(client.shard), self.groups, client.generator("groups")).split(BATCH)[number]
                part = group_sums(h, labels, place, len(client.task.classes), self.groups)
            else:
                part = vars(Moments.of(h, labels, len(client.task.classes)))
            totals = {name: totals[name] + t if totals else t for name, t in part.items()}
        if self.send == "sketch":
            totals |= sketched(totals.pop("gram"), self.rank)
        return Update(totals, len(client.shard))

    def lifted_batches(self, client: Client) -> Iterator[tuple[Tensor, Tensor]]:
        """Yield h (B, M) and labels (B,), counted from 0 within the task, of all samples of the client."""
        for batch in client.shard.batches(BATCH, augment=False, shuffle=False, drop_single=False):
            h = self.lifted(client.net, batch.x, cast(int, client.shared["draw"]))
            yield h, batch.y - client.task.classes.start

    # Server -----------------------------------------------------------------------------------

    def before_task(self, server: Server) -> None:
        server.shared["draw"] = server.seed

    def after_task(self, server: Server, updates: Iterable[Update]) -> None:
        for moments in self.told(server, updates):
            wide = Moments(moments.gram, F.pad(moments.cross, (server.task.classes.start, 0)))  # (M, C)
            before = server.memo.get("moments")
            total = wide if before is None else Moments(**cast(Tensors, before)) + wide
            server.memo["moments"] = {"gram": total.gram, "cross": total.cross}
        self.solve(server)

    def solve(self, server: Server) -> None:
        total = Moments(**cast(Tensors, server.memo["moments"]))
        try:
            server.shared["head"] = total.solve(self.ridge)  # (M, C)
        except ValueError as error:
            raise TrainingError(str(error)) from None

    def told(self, server: Server, updates: Iterable[Update]) -> Iterator[Moments]:
        """Yield the moments that clients have sent; those of groups are estimated over all clients together."""
        if self.send == "groups":
            groups = [update.weights for update in updates]
            if groups:
                sums, counts = (torch.cat([g[name] for g in groups]) for name in ("sums", "counts"))
                rows, before = GroupSums.of(sums, counts, server.task.classes.start), server.memo.get("groups")
                server.memo["groups"] = {**vars(rows if before is None else GroupSums(**cast(Tensors, before)) + rows)}
                yield estimated(sums, counts)
            return
        yield from map(self.moments, updates)

    def moments(self, update: Update) -> Moments:
        part = update.weights
        return Moments(part["gram"] if self.send == "gram" else unsketched(part["root"], part["rest"]), part["cross"])

    def forget(self, server: Server, sent: Iterable[tuple[Task, Update]]) -> None:
        for task, update in sent:
            if task.first and self.features == "task1":
                raise ConfigError("features: task1 has learnt from its samples of the first task, which stays")
            total = Moments(**cast(Tensors, server.memo["moments"]))
            if self.send == "groups":
                if task.domain:
                    raise ConfigError("send: groups estimates each domain by itself, and keeps no sums of one")
                if "groups" not in server.memo:
                    raise ConfigError("send: groups was played by an earlier fcil, which kept no sums of groups")
                rows = GroupSums.of(update.weights["sums"], update.weights["counts"], task.classes.start)
                left = GroupSums(**cast(Tensors, server.memo["groups"])).without(rows)
                server.memo["groups"] = {**vars(left)}
                total = left.moments(total.cross.shape[1])
            else:
                part = self.moments(update)
                total = total.without(Moments(part.gram, F.pad(part.cross, (task.classes.start, 0))))
            server.memo["moments"] = {"gram": total.gram, "cross": total.cross}
        self.solve(server)

    # Features ---------------------------------------------------------------------------------

    @torch.no_grad()
    def lifted(self, net: Net, x: Tensor, draw: int) -> Tensor:
        """Return h(x) (B, M), float64, for a batch of the net's inputs; the random layer is that of the seed `draw`."""
        if self.reads_net:
            f = net.eval()(x).features.double()
        else:
            f = (split_padding(x)[0] if x.ndim == 3 else x).flatten(1).double()  # series are padded with NaN
        if self.width is None:
            return f
        weight, bias = random_layer(f.shape[1], self.width, draw)
        return torch.relu(f @ sent(weight, f) + self.bias * sent(bias, f))

    def predict(self, net: Net, x: Tensor, shared: State) -> Tensor:
        head = cast(Tensor | None, shared.get("head"))
        if head is None:  # in the rounds of the first task
            return net(x).logits
        scores = (self.lifted(net, x, cast(int, shared["draw"])) @ head).masked_fill(never(head), -torch.inf)
        return F.pad(scores, (0, net.num_classes - head.shape[1]), value=-torch.inf)

    def trainable(self, net: Net) -> Sequence[str]:
        return super().trainable(net) if self.features == "task1" else []


@lru_cache(maxsize=4)
def random_layer(inputs: int, width: int, draw: int) -> tuple[Tensor, Tensor]:
    """Return weights (F, M), normal with variance 1/F, and biases (M,), standard normal, of the seed's stream."""
    rng = generator(draw, "random layer", inputs, width)
    weight = torch.randn(inputs, width, generator=rng, dtype=torch.float64) / inputs**0.5
    return weight, torch.randn(width, generator=rng, dtype=torch.float64)
