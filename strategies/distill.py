"""Distill: a student learns from a teacher through samples made without data; what `fcil distill` plays.

Paper: Fang et al., "Contrastive Model Inversion for Data-Free Knowledge Distillation", IJCAI 2021, arXiv:2105.08584,
section 3.1, for the scheme that its field has in common; each synthesizer and distiller names its own.

    every round:  one episode of the synthesizer, while there are any left
                  `steps` steps of the student S on views of what was made, T the teacher

                  L = distiller(S(x), T(x))

No federation: one client who never looks at the images it holds, and whose rounds are episodes. So a distillation
has the run folder, the seeds and the resuming of any run. Several clients would each dream for themselves and be
averaged. The client's optimizer lives through all rounds, its rate falls from round to round as a client's does.

Shapes: B batch, C classes.
"""

import copy
from collections.abc import Iterable
from dataclasses import dataclass, field
from itertools import islice
from typing import Any, cast

import torch
from safetensors.torch import load_file
from torch import Tensor, nn

from fcil import Client, Count, Index, Server, Strategy, Synthesizer, Update
from fcil.data import Augment
from fcil.distillers import KD, Distiller
from fcil.nets import Net, NetSettings, build_net
from fcil.optimizer import build_optimizer
from fcil.synthesis import Inversion
from fcil.synthesis.chain import restore, values
from fcil.synthesis.fast import Fast
from fcil.types import State, Tensors


@dataclass
class Lesson:
    """What a client takes from round to round."""

    chain: Any  # of the synthesizer
    notes: Any  # of the distiller
    optimizer: torch.optim.Optimizer  # of the student, and of what the distiller trains beside it
    episodes: int = 0  # played so far: a client need not be drawn in every round


@dataclass(frozen=True, kw_only=True)
class Distill(Strategy):
    teacher: str | None = None
    """Safetensors file of the teacher's weights; null, for trying things out: the net that the run begins with."""
    digest: str = ""
    """SHA-256 of that file, which tells runs with different teachers apart; empty: not looked at."""
    net: NetSettings | None = None
    """The teacher's net; null: the student's."""
    synthesizer: Synthesizer = field(default_factory=Fast)
    """How samples are made; any method of `fcil list synthesizers`."""
    distiller: Distiller = field(default_factory=KD)
    """How the student learns from them: `kd`, `l1` or `crd`."""
    steps: Count = 100
    """Steps of the student in a round."""
    wait: Index = 0
    """First rounds in which the student does not learn yet (a warm-up: NAYER and Fast-DFKD have 20)."""

    # Client -----------------------------------------------------------------------------------

    def local_train(self, client: Client) -> Update:
        client.net.eval().requires_grad_(False)  # to the synthesizer it is a judge and no pupil
        problem = self.problem(client)
        lesson = self.lesson(client, problem)
        terms: dict[str, float] = {}
        if lesson.episodes < self.synthesizer.episodes:
            lesson.episodes += 1
            terms |= self.synthesizer.episode(problem, lesson.chain, lesson.episodes)
            terms.pop("total", None)  # the sum of the others, which whoever shows them adds up
        if client.round > self.wait and self.synthesizer.ready(lesson.chain):
            terms |= {f"student_{name}": float(term) for name, term in self.teach(client, problem, lesson).items()}
        client.memory |= {"task": client.task.number, "lesson": values(lesson)}
        return Update(client.net.weights(), 1, {f"terms/{name}": term for name, term in terms.items()})

    def problem(self, client: Client) -> Inversion:
        """The teacher, to be inverted for all its classes, with the client's net as student."""
        weights, shard = cast(Tensors, client.shared["teacher"]), client.shard

        def build() -> nn.Module:
            if self.net is None:
                return copy.deepcopy(client.net)
            head = weights.get("text_head.weight")
            width, classes = None if head is None else len(head), len(weights["classifier.bias"])
            return build_net(
                self.net, shape=shard.images.shape, num_classes=classes, text_width=width, key=("teacher",)
            )

        anchors = client.shared.get("anchors")
        return Inversion(
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
        )

    def lesson(self, client: Client, problem: Inversion) -> Lesson:
        """A new one in every task, then as the last round left it."""
        key = (*problem.key, "distiller")
        notes = self.distiller.start(problem, client.net, self.synthesizer.samples, key)
        trained = [*client.net.requires_grad_(True).parameters(), *self.distiller.parameters(notes)]
        optimizer = build_optimizer(client.optimizer, trained, client.lr)
        client.net.requires_grad_(False)
        lesson = Lesson(self.synthesizer.start(problem, 0), notes, optimizer)
        if client.memory.get("task") == client.task.number:
            student = client.net.weights()  # as the server sent it; the chain's is the same net
            restore(lesson, cast(State, client.memory["lesson"]))
            client.net.load(student)
            for group in optimizer.param_groups:
                group["lr"] = client.lr
        return lesson

    def teach(self, client: Client, problem: Inversion, lesson: Lesson) -> Tensors:
        """The mean of each term over `steps` steps of the student."""
        rng, student, sums = client.generator("views"), client.net, dict[str, Tensor]()
        views = self.synthesizer.views(problem, lesson.chain, client.batch_size, rng)
        student.train().requires_grad_(True)
        for view in islice(views, self.steps):
            with client.autocast():
                with torch.no_grad():
                    teacher = problem.teacher(view.x)
                terms = self.distiller.loss(lesson.notes, student(view.x), teacher, view)
            lesson.optimizer.zero_grad(set_to_none=True)
            torch.stack(list(terms.values())).sum().backward()  # type: ignore[no-untyped-call]
            lesson.optimizer.step()
            for name, term in terms.items():
                sums[name] = sums.get(name, 0) + term.detach() / self.steps
        student.eval().requires_grad_(False)
        return sums

    def after_local_task(self, client: Client) -> Update | None:
        if client.memory.get("task") != client.task.number:
            return None  # it was not drawn in this task
        problem = self.problem(client)
        pool = self.synthesizer.pool(problem, self.lesson(client, problem).chain)
        return Update({name: pool[name] for name in ("x", "y")}, 1)

    # Server -----------------------------------------------------------------------------------

    def before_task(self, server: Server) -> None:
        server.shared["teacher"] = load_file(self.teacher) if self.teacher else server.net.weights()
        if server.anchors is not None:
            server.shared["anchors"] = server.anchors[: server.task.num_seen]

    def after_task(self, server: Server, updates: Iterable[Update]) -> None:
        for update in updates:
            server.show(update.weights)
