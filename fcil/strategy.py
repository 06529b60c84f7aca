"""Interface of every method: what runs on a client, what runs on the server.

A strategy is a frozen dataclass: `self` holds hyper-parameters and nothing else. State is an
argument, and it is values (named tensors, numbers, strings), so that it can travel, be saved and
be restored without a line from the author:

| object          | holds                                             | lives                    |
|-----------------|---------------------------------------------------|--------------------------|
| `server.net`    | the global net                                    | the run, sent each round |
| `server.shared` | what clients may read: anchors, teacher, synthetic| until replaced           |
| `server.memo`   | the server's own notes                            | one task (`memo_lasts`)  |
| `client.memory` | a client's own notes, which never leave it        | the run                  |
| `Update`        | named tensors, a count, numbers                   | one round                |

A method usually overrides `local_loss` and one or two of the server's verbs.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import dataclass, fields, replace
from typing import Any, ClassVar, Literal, Self

import torch
import torch.nn.functional as F
from torch import Tensor

from fcil.averaging import weighted_mean
from fcil.config import Where, dump_fields, parse_fields
from fcil.data import Dataset
from fcil.nets import Net, NetSettings
from fcil.nets.backbone import Shape
from fcil.roles import Client, Server
from fcil.synthesis import Synthesizer
from fcil.types import Batch, Output, State, Task, Terms, Update

__all__ = ["Strategy", "drawn_clients", "weighted_mean"]


def drawn_clients(rng: torch.Generator, num_clients: int, count: int) -> list[int]:
    """`count` of the clients, each as likely, in order."""
    return sorted(torch.randperm(num_clients, generator=rng)[:count].tolist())


@dataclass(frozen=True, kw_only=True)
class Strategy:
    """Federated averaging (McMahan et al., AISTATS 2017); methods override what they change."""

    weighting: Literal["examples", "uniform"] = "examples"
    """Weight of a client in the average: its number of examples (FedAvg), or the same for all."""

    # Declared by the class and read by listings, tables and diagnostics; only `needs` and `data` change a run.
    paper: ClassVar[str] = ""
    """Paper of the method: authors, title, venue and year, arXiv number."""
    needs: ClassVar[frozenset[str]] = frozenset()
    """What must be there before the first round: `anchors` (a label-text head), `exemplars` (leave to keep images)."""
    inputs: ClassVar[frozenset[str]] = frozenset({"images", "series"})
    """Kinds of samples that the method can learn; that of what its synthesizer makes (`Synthesizer.makes`) besides."""
    scenarios: ClassVar[frozenset[str]] = frozenset({"classes"})
    """Values of `data.scenario` that the method is fit for: tasks of new `classes`, or of new `domains` of the same
    classes. In a later domain no class is new (`task.num_new` is 0), and `task.classes` are all of them."""
    later: ClassVar[frozenset[str]] = frozenset()
    """Fields that came after runs without them: at their defaults they are left out of what tells runs apart."""
    data: ClassVar[Literal["task", "seen"]] = "task"
    """Own data that a client may touch: the current task's, or all tasks seen (an upper bound)."""
    plain_loss: ClassVar[bool] = True
    """Whether `local_loss` of this very class reads nothing of a client but its net and task, and waits for no number:
    then steps can be captured (`resources.compile`), or taken by several clients at once
    (`federation.clients_per_call`). A class with a `local_loss` of its own says it anew."""
    servers: ClassVar[frozenset[str]] = frozenset(
        {"fedavgm", "fedadagrad", "fedadam", "fedyogi", "fednova", "scaffold"}
    )
    """Values of `federation.server`, beside `fedavg`, that fit the `aggregate` and `local_train` of this very class:
    `aggregate` loads what `server.average` returns, and for `fednova` and `scaffold` clients descend by one call of
    `client.train` on a loss with no proximal term. A class with one of these methods of its own says it anew."""
    memo_lasts: ClassVar[Literal["task", "run"]] = "task"
    """Whether `server.memo` begins empty in each task, or is kept for the run."""
    uses: ClassVar[frozenset[str]] = frozenset()
    """Means that clients work with: `exemplars` (`client.keep`), `teacher` (`client.frozen`), `samples` of what the
    server shares (`client.draw`, `client.built`), `notes` (`client.memory`), `sums` (a head in closed form from sums of
    clients: rounds in which no loss is minimised are no fault)."""
    loss_terms: ClassVar[tuple[str, ...]] = ()
    """Terms of the clients' loss after the first task; one that never appears is reported as inert."""
    broadcasts: ClassVar[tuple[str, ...]] = ()
    """Entries of `server.shared`, in the order in which they are listed."""

    # On a client ------------------------------------------------------------------------------

    def local_loss(self, client: Client, batch: Batch) -> Terms:
        """Named terms, already weighted; their sum is minimised. Most methods stop here."""
        return {"ce": F.cross_entropy(client.net(batch.x).logits, batch.y)}

    def local_train(self, client: Client) -> Update:
        """Local epochs of SGD on `local_loss`, with a fresh optimizer, as in the field's code."""
        last = type(self).local_train is Strategy.local_train  # else the method that calls this may use the net
        return client.train(self.local_loss, self.trainable(client.net), lend=last)

    @classmethod
    def takes_plain_steps(cls) -> bool:
        """Return whether a client's training is the loop above, over a loss of its net, its task and a batch alone."""
        author = next(kind for kind in cls.__mro__ if "local_loss" in vars(kind))
        return cls.local_train is Strategy.local_train and vars(author).get("plain_loss") is True

    def after_local_task(self, client: Client) -> Update | None:
        """Once per client when a task ends: a Fisher estimate, prototypes, exemplars."""
        return None

    # On the server ----------------------------------------------------------------------------

    def before_task(self, server: Server) -> None:
        """After the head has grown for the new classes, before the first round."""

    def aggregate(self, server: Server, updates: Iterable[Update]) -> Update:
        """Turn the clients' updates into the next global net, and return their mean.

        `updates` yields in order of client number, one at a time, and can be read once. The mean is
        `server.average`, which is whatever `federation.aggregation`, `federation.privacy` and `federation.server` say.
        """
        mean = server.average(updates, self.weighting)
        server.net.load({**server.net.state_dict(), **mean.weights})
        return mean

    def after_task(self, server: Server, updates: Iterable[Update]) -> None:
        """After the last round, with what `after_local_task` returned: synthesis, teacher, prototypes.

        `updates` yields in order of client number, one at a time, and can be read once, so that memory does not
        grow with the number of clients; it is `()` where no client had anything to say.
        """

    def forget(self, server: Server, sent: Iterable[tuple[Task, Update]]) -> None:
        """Take a client out of what the server knows, as if it had never taken part: `fcil unlearn`.

        A class that overrides this can do so exactly: it changes `server.memo` and `server.shared`, as the last
        `after_task` has left them, to what they would be without the client. A class without it is refused.

        Args:
            sent: in order of tasks, what `after_local_task` of this client has returned at the end of each; it is
                asked anew, with the net and what is shared at the end of the run, so these must not change what it
                returns.
        Raises:
            ConfigError: with these settings or for this client it cannot be done exactly; says why.
        """
        raise NotImplementedError

    # Rarely -----------------------------------------------------------------------------------

    def trainable(self, net: Net) -> Sequence[str]:
        """Names of the tensors that clients train and send up; all by default but those that stay with a client.

        What stays with a client (`net.private()`) is trained, too; a frozen backbone (`net.fixed()`) is not.
        """
        apart = net.private() | net.fixed()
        return [name for name in net.state_dict() if name not in apart]

    def predict(self, net: Net, x: Tensor, shared: State) -> Tensor:
        """Scores (B, C) of the classes seen so far; the largest wins."""
        out: Output = net(x)
        return out.logits

    def sample(self, server: Server, count: int) -> Sequence[int]:
        """Return the clients of this round: `count` of them, drawn anew each round."""
        return drawn_clients(server.generator("sample"), server.num_clients, count)

    # Before a run ------------------------------------------------------------------------------

    @classmethod
    def fits_server(cls, name: str) -> bool:
        """Return whether this value of `federation.server` is among `servers`, and said where the methods are."""
        said = next(kind for kind in cls.__mro__ if "servers" in vars(kind))
        verbs = ("aggregate", "local_train") if name in ("fednova", "scaffold") else ("aggregate",)
        authors = [next(kind for kind in cls.__mro__ if verb in vars(kind)) for verb in verbs]
        return name in cls.servers and all(issubclass(said, author) for author in authors)

    @property
    def inverted(self) -> NetSettings | None:
        """The net that its synthesizers invert; None for the one that clients train."""
        return None

    @property
    def reads_metrics(self) -> bool:
        """Return whether `aggregate` reads metrics of clients, which `federation.privacy` withholds."""
        return False

    def stand_in(self, dataset: Dataset) -> Dataset:
        """Return what stands for the samples of a data set: they themselves, or features that were computed before.

        Raises:
            ConfigError: a file of features does not fit the data.
        """
        return dataset

    @property
    def reads_net(self) -> bool:
        """Return whether it trains the backbone, or reads its features."""
        return True

    def check_files(self, net: NetSettings, shape: Shape, classes: Sequence[int]) -> None:
        """Check that the files which its settings name can serve.

        Args:
            net: what clients train.
            shape: of an image.
            classes: how many are seen after each task.
        Raises:
            ConfigError: one cannot.
        """

    def keeps(self, met: Sequence[int]) -> int | None:
        """Return the number of its own images a client keeps when a task ends; None if it is not known beforehand.

        Args:
            met: how many images of each class it has met, classes in order of appearance.
        """
        return None

    def replays(self, met: Sequence[int]) -> int | None:
        """Return the number of images of earlier tasks a client trains on in a round of the next task; as `keeps`."""
        return self.keeps(met)

    # Settings ---------------------------------------------------------------------------------

    def smoke(self) -> Self:
        """The same strategy with its synthesis cut to a few steps."""
        small: dict[str, Any] = {k: v.smoke() for k, v in vars(self).items() if isinstance(v, Synthesizer)}
        return replace(self, **small)

    @classmethod
    def parse(cls, options: object, where: Where) -> Self:
        return parse_fields(cls, options, where)

    def options(self) -> dict[str, object]:
        """Every hyper-parameter, defaults included, as plain values."""
        return dump_fields(self)

    def decisive(self) -> dict[str, object]:
        """Those of them that can change the result; those of `later` where they are not as everything was before."""
        defaults = {field.name: field.default for field in fields(self)}
        return {name: v for name, v in self.options().items() if not (name in self.later and v == defaults[name])}
