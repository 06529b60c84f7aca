"""Distill: a student learns from a teacher through samples made without data; what `fcil distill` plays.

Paper: Fang et al., "Contrastive Model Inversion for Data-Free Knowledge Distillation", IJCAI 2021, arXiv:2105.08584,
section 3.1, for the scheme that its field has in common; each synthesizer and distiller names its own.

    `between`, every round:  one episode of the synthesizer, while there are any left
                             `steps` steps of the student S on views of what was made so far, T the teacher

    `within`, every round:   one episode of the synthesizer, which teaches S by its own loss and in its own rhythm

    `after`, at first:       all episodes of all chains, on the server's workers, each chain with its own student
             every round:    `steps` steps of S on views of the pool

                  L = distiller(S(x), T(x))

No federation: one client who never reads the images it holds, and whose rounds are episodes. So a distillation
has the run folder, the seeds and the resuming of any run. Several clients would each synthesise separately and be
averaged. The client's optimizer persists through all rounds; its rate falls from round to round as a client's does.

Shapes: B batch, C classes.
"""

import copy
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass, field, replace
from itertools import islice
from pathlib import Path
from typing import Any, Literal, cast

import torch
from safetensors.torch import load_file
from torch import Tensor, nn

from fcil import Client, Count, Index, Server, Strategy, Synthesizer, Update
from fcil.data import Augment
from fcil.distillers import KD, Distiller, Learns, contradiction
from fcil.errors import ConfigError
from fcil.nets import Net, NetSettings, net_of
from fcil.nets.backbone import Shape
from fcil.nets.files import read_weights
from fcil.nets.norms import population_statistics
from fcil.optimizer import build_optimizer
from fcil.roles import Teacher
from fcil.synthesis import SynthesisProblem
from fcil.synthesis.common.base import Views, views_of
from fcil.synthesis.common.pool import newest
from fcil.synthesis.common.state_codec import restore, values
from fcil.synthesis.fast import Fast
from fcil.types import State, Tensors

SEEN = "seen/"
"""Prefix of the names of samples in an update that are for display."""
STATISTICS = "statistics/"
"""Prefix of the names of BatchNorm statistics in an update."""
EACH, CLASSES = 8, 10
"""Samples of a class, and classes, that are displayed in a round."""


@dataclass
class Lesson:
    """State that a client carries from round to round."""

    chain: Any  # of the synthesizer; None where the server has made the pool
    notes: Any  # of the distiller
    optimizer: torch.optim.Optimizer  # of the student, and of what the distiller trains beside it
    episodes: int = 0  # so far: a client need not be drawn in every round


@dataclass(frozen=True, kw_only=True)
class Distill(Strategy):
    teacher: str | None = None
    """Safetensors file of the teacher's weights; null, for experiments: the net that the run begins with."""
    digest: str = ""
    """Identifies the teacher, wherever its file lies: its SHA-256, or a hash of the settings of its
    training, so that seeds stay together; empty: its path does."""
    net: NetSettings | None = None
    """The teacher's net; null: the student's."""
    synthesizer: Synthesizer = field(default_factory=Fast)
    """Method that makes samples; any of `fcil list synthesizers`."""
    distiller: Distiller = field(default_factory=KD)
    """Method by which the student learns from them: `kd`, `l1` or `crd`."""
    learns: Learns = "between"
    """When the student learns: between the episodes of one chain, within them, or after all episodes of all chains."""
    steps: Count = 100
    """Steps of the student in a round."""
    wait: Index = 0
    """First rounds in which the student does not learn yet (a warm-up: NAYER and Fast-DFKD have 20)."""
    show: tuple[Index, ...] = ()
    """Rounds after which some samples are stored for display."""
    batchnorm: Literal["as_is", "reestimate"] = "as_is"
    """BatchNorm statistics of the student at the end: of the samples it saw, or of the training images."""

    paper = (
        'Fang et al., "Contrastive Model Inversion for Data-Free Knowledge Distillation", IJCAI 2021, '
        "arXiv:2105.08584, section 3.1, for the scheme that its field has in common; each synthesizer and "
        "distiller names its own"
    )
    uses = frozenset({"samples", "notes"})
    later = frozenset({"batchnorm"})
    broadcasts = ("teacher", "anchors", "pool")

    def __post_init__(self) -> None:
        if problem := contradiction(self.synthesizer, self.distiller, self.learns):
            raise ValueError(problem)
        if self.learns != "between" and self.wait:
            raise ValueError(
                f"wait: {self.wait} is not allowed; a student that learns {self.learns} has no warm-up to wait for"
            )

    def decisive(self) -> dict[str, object]:
        return {name: v for name, v in super().decisive().items() if name != "teacher" or not self.digest}

    @property
    def inverted(self) -> NetSettings | None:
        return self.net

    def check_files(self, net: NetSettings, shape: Shape, classes: Sequence[int]) -> None:
        if self.teacher is None:
            return
        weights = read_weights(Path(self.teacher))
        try:
            teacher = net_of(self.net or net, weights, shape)
        except (KeyError, ValueError, RuntimeError) as error:
            raise ConfigError(
                f"teacher: {self.teacher}: not the weights of the net that it is to be ({error})"
            ) from None
        if set(classes) != {teacher.num_classes}:
            raise ConfigError(
                f"teacher: {self.teacher}: has {teacher.num_classes} classes; "
                f"the tasks have {', '.join(map(str, classes))}"
            )

    # Client -----------------------------------------------------------------------------------

    def local_train(self, client: Client) -> Update:
        client.net.eval().requires_grad_(False)  # the synthesizer evaluates it and does not train it
        problem = self.problem(client)
        lesson = self.lesson(client, problem)
        terms: dict[str, float] = {}
        if lesson.chain is not None and lesson.episodes < self.synthesizer.episodes:
            lesson.episodes += 1
            terms |= self.synthesizer.episode(problem, lesson.chain, lesson.episodes)
            terms.pop("total", None)  # the sum of the others, recomputed where they are shown
        seen: Tensors = {}
        if lesson.chain is None or self.synthesizer.ready(lesson.chain):
            if self.learns != "within" and client.round > self.wait:
                terms |= {f"student_{name}": float(term) for name, term in self.teach(client, problem, lesson).items()}
            if lesson.chain is not None and client.round in self.show and client.index == 0:
                seen = newest(self.synthesizer.pool(problem, lesson.chain), EACH, CLASSES)
        client.memory |= {"task": client.task.number, "lesson": values(lesson)}
        weights = {name: t for name, t in client.net.weights().items() if name not in client.net.fixed()}
        weights |= {f"{SEEN}{name}": samples for name, samples in seen.items()}
        return Update(weights, 1, {f"terms/{name}": term for name, term in terms.items()})

    def problem(self, client: Client) -> SynthesisProblem:
        """Return the problem: the teacher, inverted for all its classes, with the client's net as student."""
        weights, shard = cast(Tensors, client.shared["teacher"]), client.shard

        def build() -> nn.Module:
            return copy.deepcopy(client.net) if self.net is None else net_of(self.net, weights, shard.images.shape)

        anchors = client.shared.get("anchors")
        return SynthesisProblem(
            teacher=cast(Net, client.built("teacher", build)),
            labels=tuple(range(client.task.num_seen)),
            shape=shard.images.shape,
            anchors=cast(Tensor, anchors) if anchors is not None else None,
            bound=None,
            mean=torch.tensor(shard.mean, device=client.device),
            std=torch.tensor(shard.std, device=client.device),
            augment=(shard.augment or Augment()).synthetic,
            key=(client.seed, "distill", client.task.number, client.index),
            precision=client.optimizer.precision,
            student=client.net,
            student_learns="method" if self.learns == "within" else "caller",
        )

    def lesson(self, client: Client, problem: SynthesisProblem) -> Lesson:
        """Return a new state in every task, then that of the last round."""
        key = (*problem.key, "distiller")
        notes = self.distiller.start(problem, client.net, self.synthesizer.samples, key)
        trained = [*client.net.requires_grad_(True).parameters(), *self.distiller.parameters(notes)]
        optimizer = build_optimizer(client.optimizer, trained, client.lr)
        client.net.requires_grad_(False)
        chain = self.synthesizer.start(problem, 0) if self.learns != "after" else None
        lesson = Lesson(chain, notes, optimizer)
        if client.memory.get("task") == client.task.number:
            student = client.net.weights()  # as the server sent it; the chain's is the same net
            restore(lesson, cast(State, client.memory["lesson"]))
            client.net.load(student)
            for group in optimizer.param_groups:
                group["lr"] = client.lr
        return lesson

    def teach(self, client: Client, problem: SynthesisProblem, lesson: Lesson) -> Tensors:
        """Train the student for `steps` steps; return the mean of each term."""
        student, sums = client.net, dict[str, Tensor]()
        student.train().requires_grad_(True)
        for view in islice(self.views(client, problem, lesson), self.steps):
            with client.autocast():
                with torch.no_grad():
                    teacher = problem.teacher(view.x)
                seen = student(view.x)
                terms = self.distiller.loss(lesson.notes, seen, teacher, view)
                if lesson.chain is not None:
                    terms |= self.synthesizer.beside(problem, lesson.chain, view, seen)
            lesson.optimizer.zero_grad(set_to_none=True)
            torch.stack(list(terms.values())).sum().backward()  # type: ignore[no-untyped-call]
            lesson.optimizer.step()
            for name, term in terms.items():
                sums[name] = sums.get(name, 0) + term.detach() / self.steps
        student.eval().requires_grad_(False)
        return sums

    def views(self, client: Client, problem: SynthesisProblem, lesson: Lesson) -> Iterator[Views]:
        """Yield the student's input in each step of a round."""
        rng = client.generator("views")
        if lesson.chain is None:
            return views_of(cast(Tensors, client.shared["pool"]), problem, client.batch_size, rng)
        return self.synthesizer.views(problem, lesson.chain, client.batch_size, rng)

    def after_local_task(self, client: Client) -> Update | None:
        if client.memory.get("task") != client.task.number:
            return None  # the client was not drawn in this task
        weights = self.statistics(client)
        if self.learns != "after":  # else the server has the pool
            problem = self.problem(client)
            pool = self.synthesizer.pool(problem, self.lesson(client, problem).chain)
            weights |= {name: pool[name] for name in ("x", "y")}
        return Update(weights, 1) if weights else None

    def statistics(self, client: Client) -> Tensors:
        """Return the student's BatchNorm statistics on the client's images, by name; nothing where they stay as is."""
        if self.batchnorm == "as_is":
            return {}
        batches = client.shard.batches(client.batch_size, augment=False, shuffle=False)
        found = population_statistics(client.net, (batch.x for batch in batches))
        return {f"{STATISTICS}{name}": values for name, values in found.items()}

    # Server -----------------------------------------------------------------------------------

    def before_task(self, server: Server) -> None:
        weights = load_file(self.teacher) if self.teacher else server.net.weights()
        server.shared["teacher"] = weights
        if server.anchors is not None:
            server.shared["anchors"] = server.anchors[: server.task.num_seen]
        if self.learns == "after":
            teacher = None if self.net is None else Teacher(self.net, weights)
            pool = server.synthesize(self.synthesizer, range(server.task.num_seen), teacher=teacher)
            server.shared["pool"] = {name: pool[name] for name in ("x", "y", "mean", "std") if name in pool}

    def aggregate(self, server: Server, updates: Iterable[Update]) -> Update:
        return super().aggregate(server, self.shown(server, updates))

    def shown(self, server: Server, updates: Iterable[Update]) -> Iterator[Update]:
        """Yield the updates without the samples for display, which go into the run folder."""
        for update in updates:
            seen = {name: t for name, t in update.weights.items() if name.startswith(SEEN)}
            if seen:
                server.show_some({name.removeprefix(SEEN): t for name, t in seen.items()})
            yield replace(update, weights={name: t for name, t in update.weights.items() if name not in seen})

    def after_task(self, server: Server, updates: Iterable[Update]) -> None:
        for update in updates:
            pool = {name: t for name, t in update.weights.items() if not name.startswith(STATISTICS)}
            found = {name.removeprefix(STATISTICS): t for name, t in update.weights.items() if name not in pool}
            server.net.load(server.net.weights() | found)
            if pool:
                server.show(pool)
