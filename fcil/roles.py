"""Arguments of a strategy's methods: a client for one round, or the server."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from contextlib import AbstractContextManager, nullcontext
from dataclasses import dataclass, field, replace
from itertools import count, islice
from typing import NamedTuple, Protocol, cast

import torch
from torch import Tensor, nn

from fcil.averaging import Weighting, weighted_mean
from fcil.data import Augment, Shard
from fcil.data.augment import batches_ahead
from fcil.data.scenario import batch_sizes
from fcil.errors import SHORTER_STEPS, TrainingError
from fcil.nets import FeaturesAhead, Net, NetSettings
from fcil.optimizer import OptimizerSettings, StepGradients, build_optimizer, restore_state, state_of
from fcil.rng import generator, seeded
from fcil.synthesis import Bound, Synthesizer
from fcil.synthesis.common.pool import views_ahead
from fcil.types import Batch, Output, State, Step, Task, Tensors, Terms, Update, Value

OPTIMIZER = "optimizer"
"""Name in a client's memory of the optimizer's state, where it is kept."""


class Correction(Protocol):
    """Correction of the gradients of a client's steps, which looks at the way that they led."""

    def begin(self, parameters: Mapping[str, nn.Parameter]) -> None:
        """Before the first step; the parameters are those that are sent."""

    def correct(self) -> None:
        """Between the gradients of a step and the step."""

    def end(self, steps: int) -> None:
        """After the last step, with the number of steps."""


@dataclass
class Client:
    """One client in one round. Everything here is on `device`."""

    index: int
    task: Task
    round: int
    net: Net
    shard: Shard
    shared: State
    memory: State
    seed: int
    lr: float
    local_epochs: int
    batch_size: int
    optimizer: OptimizerSettings
    device: torch.device
    frozen_net: Callable[[str], Net]
    start: Tensors = field(default_factory=dict)  # the global weights this round began with; not to be changed
    max_batches: int | None = None
    local_steps: int | None = None
    most_exemplars: int | None = None
    capture: Callable[[Step], Step] | None = None  # makes its steps replay one of them
    correction: Correction | None = None
    drawn: dict[str, int] = field(default_factory=dict)  # images drawn from each shared pool; 0 for a module built
    single_batches: int = 0  # training batches of one image so far
    _coming: int = 1  # training batches of this pass that are still to come, with the present one
    _most: int | None = None  # of the next pass's batches that are asked for; None: all
    _streams: dict[tuple[str, int], Iterator[Tensor]] = field(default_factory=dict)
    _built: dict[str, nn.Module] = field(default_factory=dict)
    _lent: list[tuple[Tensor, int]] = field(default_factory=list)  # with their versions when they were lent
    _ahead: dict[str, FeaturesAhead] = field(default_factory=dict)
    _gradients: StepGradients | None = None

    def generator(self, purpose: str) -> torch.Generator:
        """Return this client's stream for this round and purpose."""
        return generator(self.seed, purpose, self.task.number, self.round, self.index)

    def frozen(self, name: str) -> Net:
        """The net whose weights are `shared[name]`, in eval mode and without gradients."""
        return self.frozen_net(name)

    def frozen_output(self, name: str, x: Tensor) -> Output:
        """Output of `frozen(name)` for a batch (B, channels, H, W), without a gradient.

        Equal to the bit to that of the net, and cheaper for a batch of `batches` or `draw` where images are small:
        features of the next batches are computed with it.
        """
        if name not in self._ahead:
            self._ahead[name] = FeaturesAhead(self.frozen_net(name))
        return self._ahead[name].output(x)

    def built(self, name: str, build: Callable[[], nn.Module]) -> nn.Module:
        """Return the result of `build`, with the weights of `shared[name]`: a generator that the server has trained.

        In eval mode and without gradients for its weights; this client's own copy in this round.
        """
        if name not in self._built:
            with seeded("built"):  # what is drawn here is overwritten at once
                module = build().to(self.device)
            module.load_state_dict(cast(Tensors, self.shared[name]))
            self._built[name] = module.eval().requires_grad_(False)
            self.drawn.setdefault(name, 0)
        return self._built[name]

    def keep(self, name: str, samples: Shard) -> None:
        """Remember samples of this client's own, as exemplars of later tasks: which they are, not a copy of them.

        Raises:
            TrainingError: they are more than `federation.exemplars` allows a client, under all names together.
        """
        others = sum(len(cast(Tensors, m)["labels"]) for n, m in self.memory.items() if n != name and are_samples(m))
        if self.most_exemplars is not None and others + len(samples) > self.most_exemplars:
            raise TrainingError(
                f"the strategy keeps {others + len(samples)} samples of a client; "
                f"federation.exemplars allows {self.most_exemplars}"
            )
        self.memory[name] = {"indices": samples.indices, "labels": samples.labels, "tasks": samples.tasks}

    def kept(self, name: str) -> Shard:
        """The samples that `keep` was given under this name; none if there are none."""
        known = self.memory.get(name)
        if known is None:
            return self.shard.select(torch.empty(0, dtype=torch.int64))
        place = self.shard.indices.device
        indices, labels, tasks = (cast(Tensors, known)[k].to(place) for k in ("indices", "labels", "tasks"))
        return replace(self.shard, indices=indices, labels=labels, tasks=tasks)

    def draw(self, name: str, count: int) -> Tensor:
        """The next `count` images (count, channels, H, W) of a shared pool, augmented and normalised.

        The pool is passed through endlessly, reshuffled each time, in an order that is this
        client's own in this round.
        """
        self.drawn[name] = self.drawn.get(name, 0) + count
        if (name, count) not in self._streams:
            self._streams[name, count] = self._endless(name, count)
        return next(self._streams[name, count])

    def _endless(self, name: str, count: int) -> Iterator[Tensor]:
        pool, rng = cast(Tensors, self.shared[name]), self.generator(f"draw {count} of {name}")
        augment, mean, std = (self.shard.augment or Augment()).synthetic, self.shard.mean, self.shard.std
        return views_ahead(pool, count, augment, rng, mean, std, self.device, lambda: self._coming)

    def batches(self, epoch: int) -> Iterator[Batch]:
        """This client's training batches of one local epoch, shuffled and augmented."""
        bounds, self._most = [bound for bound in (self.max_batches, self._most) if bound is not None], None
        rng = self.generator(f"batches {epoch}")
        every = len(batch_sizes(len(self.shard), self.batch_size))
        wanted = min([every, *bounds])
        ahead = batches_ahead(self.batch_size, self.shard.images.shape)
        if wanted < every:  # images of batches that are not asked for stay untouched
            ahead = next((size for size in range(min(ahead, wanted), 0, -1) if wanted % size == 0), 1)
        for number, batch in enumerate(islice(self.shard.batches(self.batch_size, rng, ahead=ahead), wanted)):
            self._coming = wanted - number
            self.single_batches += len(batch.y) == 1
            yield batch

    def passes(self) -> Iterator[tuple[int, Batch]]:
        """This client's training batches of one round, each with the number of its pass over the data, from 0.

        `local_epochs` passes, or as many as `local_steps` batches need.
        """
        epochs, left = range(self.local_epochs) if self.local_steps is None else count(), self.local_steps
        for epoch in epochs if len(self.shard) else ():
            self._most = left
            for batch in self.batches(epoch):
                yield epoch, batch
                left = None if left is None else left - 1
                if left == 0:
                    return

    def autocast(self) -> AbstractContextManager[object]:
        """bf16 arithmetic where `optimizer.precision` asks for it; weights stay in fp32."""
        if self.optimizer.precision == "bf16":
            return torch.autocast(self.device.type, dtype=torch.bfloat16)
        return nullcontext()

    def descend(self, terms: Terms, loss: Callable[..., Terms]) -> Terms:
        """Add the gradients of some terms of a step before the others are computed; return the terms without them.

        What was kept for the gradients is let go of, so that the next forward finds its memory free. The step is equal
        to the bit. Where it would not be, nothing happens and the terms are returned as they are: outside of `train`,
        in bf16, in a captured step, in a net that is not `Backbone.used_once`, and where `train` descends on another
        loss than this, such as one that calls it and changes its terms.

        Args:
            terms: of one forward, where the step has at most one more; no other term has a gradient through it.
            loss: the function that calls this.
        """
        return terms if self._gradients is None else self._gradients.add(terms, loss)

    def train(
        self,
        loss: Callable[[Client, Batch], Terms],
        trained: Sequence[str],
        beside: Iterable[nn.Parameter] = (),
        after_step: Callable[[Client, Batch], Terms] | None = None,
        *,
        lend: bool = False,
    ) -> Update:
        """Descend on the sum of the terms of `loss`, over the batches of `passes`.

        Args:
            trained: names of the tensors of the net that are trained and sent. Those that stay with the client are
                trained beside them.
            beside: parameters of another module that take part in every step; the caller sends them.
            after_step: called after every step, for an adversary that descends on a loss of its own; its
                terms are reported with the others.
            lend: send the tensors as they lie in the net, without a copy. Nothing may change the net afterwards.
        Returns:
            The trained tensors, the number of examples, and as metrics the mean of each term over
            the steps (`terms/<name>`) and the sum of the loss over the first local epoch.
        Raises:
            TrainingError: a term was not finite; names the term.
        """
        keep, private = set(trained) - self.net.fixed(), self.net.private()
        parameters = {name: p for name, p in self.net.named_parameters() if name in keep or name in private}
        parameters |= {f"beside {number}": p for number, p in enumerate(beside)}
        parameters = {name: p for name, p in parameters.items() if p.requires_grad}
        optimizer = build_optimizer(self.optimizer, parameters.values(), self.lr)
        exact = self.net.backbone.used_once and self.optimizer.precision == "fp32" and self.capture is None
        gradients = self._gradients = StepGradients(optimizer, getattr(loss, "__func__", None) if exact else None)
        if self.optimizer.state == "kept":
            restore_state(optimizer, parameters, cast(dict[str, Tensors], self.memory.get(OPTIMIZER, {})))
        self.net.train()
        correction = self.correction
        if correction is not None:
            correction.begin({name: p for name, p in parameters.items() if name in keep})

        def step(batch: Batch) -> tuple[Terms, Tensor]:
            with self.autocast():
                terms = loss(self, batch)
            total = gradients.finish(terms)
            if correction is not None:
                correction.correct()
            optimizer.step()
            return terms, total

        take = self.capture(step) if self.capture is not None else step
        sums: dict[str, Tensor] = {}  # stay on the device: reading a number would stop it each step
        first, steps = torch.zeros((), device=self.device), 0
        for epoch, batch in self.passes():
            terms, total = take(batch)
            steps += 1
            if after_step is not None:
                terms = terms | after_step(self, batch)
            for name, term in terms.items():
                sums[name] = sums.get(name, 0) + term.detach()
            if epoch == 0:
                first += total.detach()
        self._gradients = None
        if self.optimizer.state == "kept" and steps:
            self.memory[OPTIMIZER] = state_of(optimizer, parameters)
        if correction is not None:
            correction.end(steps)
        metrics = {f"terms/{name}": float(s) / max(1, steps) for name, s in sums.items()}
        _check_finite(metrics)
        metrics |= {"first_epoch_loss": float(first), "steps": float(steps)}
        weights = {name: t if lend else t.clone() for name, t in self.net.state_dict().items() if name in keep}
        self._lent = [(t, t._version) for t in weights.values()] if lend else []
        return Update(weights, len(self.shard), metrics)

    def check_lent(self) -> None:
        """Check that what `train` has lent is what it was when training was over.

        Raises:
            TrainingError: the net was changed afterwards, and the update with it.
        """
        if any(tensor._version != version for tensor, version in self._lent):
            raise TrainingError("local_train changes client.net after train(..., lend=True), and the update with it")


class Teacher(NamedTuple):
    """A net to be inverted that is not the global one."""

    settings: NetSettings
    """Settings of its net."""
    weights: Tensors


class ServerServices:
    """Services that a server can ask of its run; here for a server that belongs to none.

    The first argument of each is the server that asks.
    """

    def average(self, server: Server, updates: Iterable[Update], weighting: Weighting) -> Update:
        """The mean of clients' updates."""
        return weighted_mean(updates, weighting)

    def synthesize(
        self,
        server: Server,
        synthesizer: Synthesizer,
        labels: Sequence[int],
        bound: Bound | None,
        teacher: Teacher | None,
    ) -> Tensors:
        """A pool of labelled samples."""
        raise TrainingError("this server belongs to no run; it has no workers that synthesise")

    def inputs(self, server: Server, pool: Tensors) -> Tensor:
        """Samples of a pool as nets take them."""
        raise TrainingError("this server belongs to no run; it does not know how samples are normalised")

    def show(self, server: Server, pool: Tensors) -> None:
        """Put a pool into the run folder."""

    def show_some(self, server: Server, samples: Tensors) -> None:
        """Put a few samples of a round into the run folder."""


@dataclass
class Server:
    """The server's side of a run."""

    net: Net
    task: Task
    round: int
    seed: int
    num_clients: int
    anchors: Tensor | None  # (classes of all tasks, D) in order of appearance, or None
    services: ServerServices = field(default_factory=ServerServices)
    shared: State = field(default_factory=dict)
    memo: State = field(default_factory=dict)
    moments: dict[str, Tensors] = field(default_factory=dict)  # of `federation.server`, not the strategy's

    def generator(self, purpose: str) -> torch.Generator:
        """The server's stream for this task, round and purpose."""
        return generator(self.seed, purpose, self.task.number, self.round, "server")

    def average(self, updates: Iterable[Update], weighting: Weighting = "examples") -> Update:
        """The mean of clients' updates, robust or private where the federation asks for it."""
        return self.services.average(self, updates, weighting)

    def synthesize(
        self,
        synthesizer: Synthesizer,
        labels: Sequence[int],
        bound: Bound | None = None,
        teacher: Teacher | None = None,
    ) -> Tensors:
        """Invert the current global net into labelled samples, on the server's workers.

        Args:
            synthesizer: the method.
            labels: the classes to make samples of.
            bound: a bounding loss to add to the generator's terms, for nets with a label-text head.
            teacher: another net to invert instead.
        Returns:
            A pool: `x` (N, channels, H, W), `y` (N,), and `mean` and `std` (N, channels) where the
            samples are to be normalised by other statistics than the real data's.
        """
        return self.services.synthesize(self, synthesizer, labels, bound, teacher)

    def inputs(self, pool: Tensors) -> Tensor:
        """Return the samples of a pool as nets take them (N, channels, ...): normalised, and not augmented."""
        return self.services.inputs(self, pool)

    def show(self, pool: Tensors) -> None:
        """Put samples `x`, `y` of a pool that was made elsewhere into the run folder, as `synthesize` does its own."""
        self.services.show(self, pool)

    def show_some(self, samples: Tensors) -> None:
        """Put a few samples `x`, `y` into the run folder, as they are in this round of a pool that still changes."""
        self.services.show_some(self, samples)


def are_samples(kept: Value) -> bool:
    """Return whether this is what `Client.keep` puts into a client's memory."""
    return isinstance(kept, Mapping) and kept.keys() == {"indices", "labels", "tasks"}


def _check_finite(metrics: dict[str, float]) -> None:
    for name, number in metrics.items():
        if not abs(number) < float("inf"):
            raise TrainingError(f'loss term "{name.removeprefix("terms/")}" became {number}; {SHORTER_STEPS}')
