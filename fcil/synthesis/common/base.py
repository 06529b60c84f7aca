"""The seam of synthesis: a `SynthesisProblem` is the problem, a `Synthesizer` the method, a chain its state.

A synthesizer works in episodes. One or several independent chains (each with its own generator
and random stream) share the episodes; a worker runs one chain. The number of chains is
a hyper-parameter of the method; the number that run at once is not: one worker or four
give the same pool.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import nullcontext
from dataclasses import dataclass, field
from typing import Any, ClassVar, Literal, NamedTuple, Self

import torch
from torch import Tensor

from fcil.config import Where, dump_fields
from fcil.config.json_schema import Schema, Schemas
from fcil.config.parts import ENDING, part_of
from fcil.config.registry import class_in, names_in, read_choice
from fcil.data import Augment
from fcil.errors import ConfigError
from fcil.fidelity import Fidelity
from fcil.losses import bounding
from fcil.nets import Net, frozen
from fcil.rng import Key
from fcil.synthesis.common.display import episode_bar
from fcil.synthesis.common.pool import endless_rows, view
from fcil.types import Count, NonNegative, Output, Tensors, Terms, Weight

Progress = Callable[[int, int, dict[str, float]], None]
"""Called with (episodes done, episodes in all, mean of each loss term)."""


NEEDS = {"anchors": "label-text embeddings", "batchnorm": "batch-norm layers in the net (net.norm: batch)"}
"""Requirements of a method, in words."""


@dataclass(frozen=True, kw_only=True)
class Bound:
    """LANDER's bounding loss as a term of a generator: samples stay within a radius of their anchor."""

    weight: Weight = 5.0
    """Weight of the term (`lambda_ltc`)."""
    radius: NonNegative = 0.015
    """Mean squared distance to the anchor at which the loss is still zero (`r`)."""
    hinge: Literal["sample", "batch"] = "sample"
    """Whether each sample has its own hinge, or the batch mean has one."""

    def __call__(self, embedding: Tensor, anchors: Tensor) -> Tensor:
        return self.weight * bounding(embedding, anchors, self.radius, self.hinge)


@dataclass(frozen=True, kw_only=True)
class SynthesisProblem:
    """The task of a synthesizer and the inputs it may use; all tensors are on one device."""

    teacher: Net  # eval mode, without gradients
    labels: tuple[int, ...]  # the classes to synthesise
    shape: tuple[int, ...]  # of one sample: channels, height, width
    anchors: Tensor | None  # (C, D), one row for each of the teacher's classes
    bound: Bound | None
    mean: Tensor  # (channels,), of the real data
    std: Tensor  # (channels,)
    augment: Augment
    key: tuple[Key, ...]  # names the random streams
    precision: Literal["fp32", "bf16"] = "fp32"
    student: Net | None = None  # the caller's, in place of one of the method's own
    student_learns: Literal["caller", "method"] = "caller"  # who teaches the caller's student

    @property
    def device(self) -> torch.device:
        return self.mean.device

    @property
    def num_classes(self) -> int:
        return self.teacher.num_classes

    @property
    def teaches(self) -> bool:
        """Whether the method teaches the student: its own one, or the caller's where it is asked to."""
        return self.student is None or self.student_learns == "method"

    def bounded(self, embedding: Tensor | None, labels: Tensor) -> Terms:
        """Return the bounding loss to the anchors of labels (B,), if it is enabled and there is a text head."""
        if self.bound is None or self.anchors is None or embedding is None:
            return {}
        return {"bound": self.bound(embedding, self.anchors[labels])}

    def autocast(self) -> torch.autocast:
        """Return the context of bf16 arithmetic, if enabled; weights and statistics stay in fp32."""
        return torch.autocast(self.device.type, torch.bfloat16, enabled=self.precision == "bf16")


class Views(NamedTuple):
    """Input of one student step."""

    x: Tensor  # (B, *shape), augmented and normalised
    y: Tensor  # (B,), the requested labels, or the teacher's predictions
    id: Tensor | None  # (B,), which sample of the pool each is a view of; None for fresh ones


def views_of(pool: Tensors, problem: SynthesisProblem, count: int, rng: torch.Generator) -> Iterator[Views]:
    """Yield random views of a pool, in passes without end."""
    for rows in endless_rows(len(pool["x"]), count, rng, problem.device):
        x = view(pool, rows, problem.augment, rng, problem.mean, problem.std)
        yield Views(x, pool["y"][rows], rows)


Learns = Literal["between", "after", "within"]
"""When a student learns: between the episodes of one chain, after all episodes of all chains, or within the episodes,
by the method's own loss and in its own rhythm."""


@dataclass(frozen=True, kw_only=True)
class Recipe:
    """How a student learns in the paper of a synthesizer, or its code, as settings of a distillation."""

    learns: Learns = "between"
    distiller: Mapping[str, Any] = field(default_factory=lambda: {"kd": {}})  # as in a file
    optimizer: Mapping[str, Any] = field(default_factory=dict)  # of the student, as in a file


@dataclass(frozen=True, kw_only=True)
class Synthesizer:
    """A method of data-free synthesis: `self` is hyper-parameters; a chain's state is an argument."""

    samples: Count = 10_000
    """Samples kept in the pool."""
    chains: Count = 1
    """Independent generators that share the episodes; up to `resources.synthesis_workers` of them run at once."""

    needs: ClassVar[frozenset[str]] = frozenset()
    """What the method cannot do without: `anchors`, `batchnorm`."""
    makes: ClassVar[frozenset[str]] = frozenset({"images"})
    """Kinds of samples it can make, `images` and `series`: those of the data sets it serves."""
    recipe: ClassVar[Recipe] = Recipe()
    """How a student learns from its samples, unless told otherwise."""
    can_teach: ClassVar[bool] = False
    """Whether the method teaches a student within its episodes, its own or the caller's."""
    numbered: ClassVar[bool] = True
    """Whether `views` say which sample of the pool each is a view of; fresh samples have no number."""

    def __post_init__(self) -> None:
        if self.chains > self.samples:
            raise ValueError(f"chains: {self.chains} chains cannot share {self.samples} samples; lower chains")

    # A method implements these four -------------------------------------------------------------

    @property
    def episodes(self) -> int:
        """Return the number of episodes of one chain."""
        raise NotImplementedError

    def start(self, problem: SynthesisProblem, chain: int) -> Any:
        """Return the state of a chain before its first episode: nets, averages, an empty pool."""
        raise NotImplementedError

    def episode(self, problem: SynthesisProblem, state: Any, number: int) -> dict[str, float]:
        """Run episode `number` (from 1): changes `state`, returns the mean of each loss term."""
        raise NotImplementedError

    def pool(self, problem: SynthesisProblem, state: Any) -> Tensors:
        """Return at most `share(chain)` samples: `x`, `y`, and `mean`, `std` where they replace the real data's."""
        raise NotImplementedError

    # The rest is shared -------------------------------------------------------------------------

    def ready(self, state: Any) -> bool:
        """Return whether there are samples: none exist during a warm-up whose batches are not kept."""
        return bool(getattr(state, "images", True))

    def views(self, problem: SynthesisProblem, state: Any, count: int, rng: torch.Generator) -> Iterator[Views]:
        """Yield batches for a student without end: random views of the pool at that moment.

        A method with a persistent generator yields fresh samples of it instead, which have no number.
        """
        yield from views_of(self.pool(problem, state), problem, count, rng)

    def beside(self, problem: SynthesisProblem, state: Any, view: Views, student: Output) -> Terms:
        """Return weighted loss terms for a student that the caller trains, besides the distillation loss; none here."""
        return {}

    def run(
        self,
        *,
        teacher: Net,
        labels: Sequence[int],
        shape: tuple[int, ...],
        anchors: Tensor | None = None,
        bound: Bound | None = None,
        mean: Tensor | None = None,
        std: Tensor | None = None,
        augment: Augment | None = None,
        key: tuple[Key, ...] = (0,),
        precision: Literal["fp32", "bf16"] = "fp32",
        progress: Progress | None = None,
    ) -> Tensors:
        """Invert `teacher` into `samples` labelled samples, one chain after the other.

        Args:
            teacher: a trained net; it is frozen and not changed.
            labels: the classes to make samples of.
            shape: of one sample (channels, height, width).
            anchors: label-text embeddings (C, D) for methods that need them.
            mean, std: of the real data (channels,); 0.5 and 0.25 where they are unknown.
            augment: random views of the samples while they are optimised; none by default.
            key: names the random streams; the same key gives the same pool.
            progress: is called after each episode; None: a bar, if standard error is a terminal.
        Returns:
            `x` uint8 (N, channels, H, W), `y` (N,), and `mean`, `std` (N, channels) where the method learns its own.
        Raises:
            ConfigError: a requirement of the method is not met.
        """
        device = teacher.classifier.weight.device
        problem = SynthesisProblem(
            teacher=frozen(teacher),
            labels=tuple(labels),
            shape=shape,
            anchors=None if anchors is None else anchors.to(device),
            bound=bound,
            mean=torch.full((shape[0],), 0.5, device=device) if mean is None else mean.to(device),
            std=torch.full((shape[0],), 0.25, device=device) if std is None else std.to(device),
            augment=augment or Augment(),
            key=key,
            precision=precision,
        )
        self.checked(problem)
        with nullcontext(progress) if progress else episode_bar(self.name, self.chains * self.episodes) as told:
            return merge([self._played(problem, chain, told) for chain in range(self.chains)])

    def _played(self, problem: SynthesisProblem, chain: int, progress: Progress | None) -> Tensors:
        """Run all episodes of a chain and return its samples."""
        state = self.start(problem, chain)
        for number in range(1, self.episodes + 1):
            terms = self.episode(problem, state, number)
            if progress is not None:
                progress(chain * self.episodes + number, self.chains * self.episodes, terms)
        return self.pool(problem, state)

    def share(self, chain: int) -> int:
        """Return the number of samples that a chain contributes."""
        return self.samples // self.chains + (chain < self.samples % self.chains)

    def checked(self, problem: SynthesisProblem) -> SynthesisProblem:
        """Return the problem, if it meets all requirements of this method."""
        has_batchnorm = any(isinstance(m, torch.nn.modules.batchnorm._BatchNorm) for m in problem.teacher.modules())
        missing = {"anchors": problem.anchors is None, "batchnorm": not has_batchnorm}
        for need in sorted(self.required):
            if missing[need]:
                raise ConfigError(f"synthesizer {self.name}: needs {NEEDS[need]}, and there are none")
        if not problem.labels or max(problem.labels) >= problem.num_classes or min(problem.labels) < 0:
            raise ConfigError(
                f"synthesizer {self.name}: labels {list(problem.labels)[:8]} do not lie in the teacher's "
                f"{problem.num_classes} classes"
            )
        return problem

    @property
    def required(self) -> frozenset[str]:
        """Return which of `needs` apply under these settings."""
        return self.needs

    def unread(self, learns: Learns | None) -> dict[str, str]:
        """Names of settings that nothing reads, each with the reason.

        Args:
            learns: when a student of the caller's learns; None: there is none, as on the server of a federation.
        """
        return {}

    def smoke(self) -> Self:
        """Return the same method, cut to a few steps."""
        return self

    def with_fidelity(self, fidelity: Fidelity) -> Self:
        """Return the same method on the caller's side of paper or reference, unless it has chosen itself."""
        return self

    @property
    def name(self) -> str:
        part = part_of(self)
        return part.stem if part else type(self).__module__.rpartition(".")[2]

    @classmethod
    def from_yaml(cls, raw: object, where: Where) -> Synthesizer:
        return read_choice(raw, where, "synthesizer", synthesizer_names(), synthesizer_class, Synthesizer)

    @classmethod
    def to_json_schema(cls, schemas: Schemas) -> Schema:
        return schemas.of_choice(
            "synthesizer", {name: synthesizer_class(name) for name in synthesizer_names()}, own=ENDING
        )

    def to_yaml(self) -> dict[str, Any]:
        part = part_of(self)
        return {part.path if part else self.name: dump_fields(self)}


def merge(pools: Sequence[Tensors]) -> Tensors:
    """Return one pool from those of the chains, in order; statistics a chain learnt stay with its samples.

    The pool of one chain stays as it is: it may hold more than samples, such as a generator's weights.
    """
    if len(pools) == 1:
        return dict(pools[0])
    return {name: torch.cat([pool[name] for pool in pools]) for name in pools[0]}


def synthesizer_names() -> list[str]:
    """Return the methods: every module of `fcil.synthesis`; shared code lies in the packages beside them."""
    return names_in("fcil.synthesis")


def synthesizer_class(name: str) -> type[Synthesizer]:
    """Return the `Synthesizer` subclass defined in the module of this name."""
    return class_in(f"fcil.synthesis.{name}", Synthesizer)


def create(name: str, **options: Any) -> Synthesizer:
    """Return a synthesizer by name, with its options checked.

    Raises:
        ConfigError: unknown name or option, or a value that is not allowed.
    """
    return Synthesizer.from_yaml({name: options}, Where("fcil.synthesis.create"))


Inversion = SynthesisProblem  # its name up to 0.1, for the methods of users
