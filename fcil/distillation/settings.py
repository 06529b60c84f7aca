"""The keys of a distillation's file, and the plans made from them."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, fields, replace
from hashlib import sha256
from pathlib import Path
from typing import Any, ClassVar, Literal

from fcil.anchors import AnchorSettings
from fcil.config import Where, dump, parse, parse_fields
from fcil.config.matrix import FEDERATES, Source, cells, is_distillation, is_federation, place_of
from fcil.data import DataSettings
from fcil.distillation.quantisation import QuantiseSettings
from fcil.distillers import Distiller, Learns, contradiction
from fcil.errors import all_of, collect
from fcil.federation.persistence.smoke import MOST_STEPS, SUFFIX
from fcil.federation.plan import Plan, Sections, check_runs
from fcil.federation.settings import FederationSettings, Resources
from fcil.methods.loading import StrategySpec
from fcil.nets import NetSettings
from fcil.optimizer import OptimizerSettings
from fcil.store.groups import TEACHER
from fcil.synthesis import Synthesizer
from fcil.types import Count, Index

SHARED_OUT = ("base", "increment", "order", "partition", "split")
"""Keys of `data` that distribute it over several tasks or clients."""


@dataclass(frozen=True, kw_only=True)
class TeacherSettings:
    """The teacher: trained on the data, or read from a file."""

    net: NetSettings = NetSettings()
    """Architecture of the teacher."""
    file: str | None = None
    """A safetensors file with its weights, or `torchvision` for torchvision's ImageNet weights; null: it is trained."""
    epochs: Count = 30
    """Passes over the training images."""
    batch_size: Count = 64
    """Images per step."""
    optimizer: OptimizerSettings = OptimizerSettings()
    """Optimizer of its training; the rate falls from epoch to epoch."""


@dataclass(frozen=True, kw_only=True)
class StudentSettings:
    """The student."""

    net: NetSettings = NetSettings()
    """Which net it is."""
    learns: Learns | None = None
    """`between` episodes of synthesis, from what there is so far; `after` all of them, which several chains may share,
    each with a student of its own beside this one, if its method has any; `within` them, by the method's own loss,
    rhythm and rate, which are settings of the synthesizer; null: as the method's paper or code has it."""
    rounds: Count | None = None
    """Rounds of steps, each after an episode of synthesis if the student learns between them; null: 40, or as many as
    there are episodes if it learns within them."""
    steps: Count | None = None
    """Steps in a round; null: 100, or those of the synthesizer if the student learns within its episodes."""
    wait: Index = 0
    """First rounds without them."""
    batch_size: Count | None = None
    """Samples per step; null: 64, or the synthesizer's if the student learns within its episodes."""
    optimizer: OptimizerSettings | None = None
    """How it is trained, at a rate that falls from round to round; null: as the method's paper or code has it."""
    evaluate_every: Index = 1
    """Rounds between evaluations on the test images; 0: at the end alone."""
    batchnorm: Literal["as_is", "reestimate"] = "as_is"
    """Running statistics of the student's BatchNorm at the end: those of the samples it saw, or taken anew from the
    training images, which is no longer data-free: it shows how much of a low accuracy is theirs."""
    snapshots: Index = 6
    """Number of snapshots of some samples, evenly over the rounds, while samples change; 0: none."""

    def __post_init__(self) -> None:
        if self.learns == "after" and self.wait:
            raise ValueError(f"wait: {self.wait} is not allowed with learns: after, where no episode warms up")
        if self.batchnorm == "reestimate" and self.net.norm != "batch":
            raise ValueError(f"batchnorm: reestimate is not allowed with a net of norm {self.net.norm}; leave it out")

    @property
    def shown(self) -> tuple[int, ...]:
        """Return the rounds of the snapshots, the first and the last among them."""
        if self.learns == "after":
            return ()
        rounds = self.rounds or 0
        count = min(self.snapshots, rounds)
        return tuple(round(1 + i * (rounds - 1) / max(1, count - 1)) for i in range(count))

    def resolved(self, method: Synthesizer) -> StudentSettings:
        """The same student with every null filled in, as `method` has it.

        Raises:
            ValueError: names a setting that nothing reads.
        """
        learns = self.learns or method.recipe.learns
        usual: dict[str, Any] = {"rounds": 40, "steps": 100, "batch_size": 64}
        optimizer = self.optimizer or parse(OptimizerSettings, method.recipe.optimizer, Where("recipe"))
        if learns == "within":
            self._check_within(method)
            usual = {"rounds": method.episodes, "steps": 1, "batch_size": 64}
            optimizer = _of_method(method, optimizer.precision)
        return replace(
            self, learns=learns, optimizer=optimizer, **{k: getattr(self, k) or value for k, value in usual.items()}
        )

    def _check_within(self, method: Synthesizer) -> None:
        """See that nothing is set that a student who learns within the episodes does not read."""
        unread = {"steps": "student_steps", "batch_size": "student_batch"}
        if self.optimizer and self.optimizer != OptimizerSettings(precision=self.optimizer.precision):
            unread["optimizer"] = "student_lr"
        for name, instead in unread.items():
            if getattr(self, name) is not None:
                raise ValueError(_nothing_reads(f"student: {name}", f"{method.name}'s {instead} is read instead"))
        if self.wait:
            raise ValueError(_nothing_reads("student: wait", f"{method.name} has a warm-up of its own"))
        if self.rounds not in (None, method.episodes):
            raise ValueError(
                f"student: rounds is {self.rounds}, and a student that learns within the episodes of {method.name} "
                f"has {method.episodes} of them; leave it out"
            )


def _of_method(method: Synthesizer, precision: Any) -> OptimizerSettings:
    """The optimizer of a student that the method teaches, for the record: the method builds its own."""
    parts = {"lr": "student_lr", "min_lr": "student_lr_end", "weight_decay": "student_decay"}
    return OptimizerSettings(
        precision=precision, **{k: getattr(method, v) for k, v in parts.items() if hasattr(method, v)}
    )


def _nothing_reads(what: str, why: str) -> str:
    return f"{what} is set, and nothing would read it, as the student learns within the episodes: {why}; leave it out"


@dataclass(frozen=True, kw_only=True)
class Distillation:
    """The keys of a distillation's file, `matrix` aside."""

    name: str
    """Names the folder of the results."""
    seeds: tuple[Index, ...] = (0,)
    """Seeds, each with a teacher and a student."""
    data: DataSettings
    """Training data of the teacher, and test data of the student; it is one task."""
    teacher: TeacherSettings = TeacherSettings()
    """The teacher."""
    student: StudentSettings = StudentSettings()
    """The student."""
    synthesizer: Synthesizer
    """How samples are made."""
    distiller: Distiller | None = None
    """How the student learns from them; null: as the method's paper or code has it, `kd` for most."""
    quantise: QuantiseSettings | None = None
    """Also quantise the teacher to eight bits, or fewer, with the samples, and measure its loss; null: do not."""
    anchors: AnchorSettings = AnchorSettings()
    """Source of label-text embeddings, for methods that need them."""
    backend: Literal["inprocess", "ray"] = "inprocess"
    """Backend of the synthesizer's chains and the student: one after the other in this process, or on Ray workers, of
    which `resources.synthesis_workers` are for chains; the result is the same."""
    resources: Resources = Resources()
    """Limits of the run's resources."""

    READ_ELSEWHERE: ClassVar = ("matrix",)

    def __post_init__(self) -> None:
        check_runs(self.name, self.seeds)
        method, student = self.synthesizer, self.resolved_student
        if problem := contradiction(method, self.resolved_distiller, student.learns or "between", "student.learns"):
            raise ValueError(problem)
        if self.distiller is not None and student.learns == "within":
            raise ValueError(_nothing_reads("distiller", f"{method.name} has a loss of its own"))
        for name, why in method.unread(student.learns).items():
            if getattr(method, name) != getattr(type(method)(), name):
                raise ValueError(f"synthesizer: {method.name}: {name} is set, and nothing would read it: {why}")
        if student.learns == "between" and method.episodes > (student.rounds or 0):
            raise ValueError(
                f"student: rounds is {student.rounds}, fewer than the {method.episodes} episodes of "
                f"{method.name}; raise it, or lower the synthesizer's rounds, or set learns to after"
            )

    @property
    def resolved_student(self) -> StudentSettings:
        """The student with every null filled in."""
        return self.student.resolved(self.synthesizer)

    @property
    def resolved_distiller(self) -> Distiller:
        """The distiller, that of the synthesizer's recipe if none is named."""
        return self.distiller or Distiller.from_yaml(self.synthesizer.recipe.distiller, Where("recipe"))

    def filled(self) -> Distillation:
        """Return the same with what is null as it is played; what a student within the episodes does not read stays."""
        if self.resolved_student.learns == "within":
            return replace(self, student=replace(self.student, learns="within", rounds=self.resolved_student.rounds))
        return replace(self, student=self.resolved_student, distiller=self.resolved_distiller)

    def smoke(self) -> Distillation:
        """One seed, two steps of everything: does it run at all?"""
        method, quantised, student_settings = self.synthesizer.smoke(), self.quantise, self.resolved_student
        usual = type(method)()
        method = replace(method, **{name: getattr(usual, name) for name in method.unread(student_settings.learns)})
        student = replace(self.student, wait=0, evaluate_every=0, rounds=None)
        if student_settings.learns != "within":
            rounds = method.episodes if student_settings.learns == "between" else 1
            student = replace(student, rounds=rounds, steps=min(MOST_STEPS, student_settings.steps or MOST_STEPS))
        if quantised is not None:
            quantised = replace(quantised, samples=min(64, quantised.samples), fine_tune=min(2, quantised.fine_tune))
        parts: dict[str, Any] = {field.name: getattr(self, field.name) for field in fields(self)}
        parts |= {"name": f"{self.name}{SUFFIX}", "seeds": self.seeds[:1], "synthesizer": method, "student": student}
        return _Smoke(**parts | {"quantise": quantised, "teacher": replace(self.teacher, epochs=1)})

    def teacher_plan(self, seed: int) -> Plan:
        """Return the teacher as a run: one client who holds everything."""
        t = self.teacher
        federation = FederationSettings(
            clients=1, rounds=t.epochs, local_epochs=1, batch_size=t.batch_size, backend="inprocess", evaluate_every=0
        )
        strategy = StrategySpec.from_yaml("finetune", Where("teacher"))
        own = {"federation": federation, "optimizer": t.optimizer, "net": t.net, "strategy": strategy}
        return self._plan(f"{self.name}{TEACHER}", seed, **own)

    def student_plan(self, seed: int, teacher: Path | None = None) -> Plan:
        """Return a student as a run: one client who synthesises; without a teacher's file only for preflight checks.

        A trained teacher is identified by the settings of its training, which all seeds share.
        """
        s = self.resolved_student
        assert s.rounds is not None
        assert s.batch_size is not None
        assert s.optimizer is not None
        federation = FederationSettings(
            clients=1, rounds=s.rounds, local_epochs=1, batch_size=s.batch_size, backend=self.backend,
            evaluate_every=s.evaluate_every, checkpoint_every=max(5, s.rounds // 40),
        )  # fmt: skip
        digest = self.teacher_plan(seed).variant
        if self.teacher.file and teacher:
            digest = sha256(teacher.read_bytes()).hexdigest()
        options = {
            "teacher": str(teacher) if teacher else None,
            "digest": digest,
            "net": dump(self.teacher.net),
            "synthesizer": dump(self.synthesizer),
            "distiller": dump(self.resolved_distiller),
            "learns": s.learns,
            "steps": s.steps,
            "wait": s.wait,
            "show": list(s.shown),
            "batchnorm": s.batchnorm,
        }
        strategy = StrategySpec.from_yaml({"distill": options}, Where("student"))
        own = {"federation": federation, "optimizer": s.optimizer, "net": s.net, "strategy": strategy}
        return self._plan(self.name, seed, **own)

    def _plan(self, name: str, seed: int, **own: Any) -> Plan:
        """Return a run with sections of its own; the others are those of the distillation."""
        shared = {f.name: getattr(self, f.name) for f in fields(Sections) if hasattr(self, f.name)}
        return Plan(seed=seed, **shared | {"name": name} | own)


class _Smoke(Distillation):
    """A distillation whose teacher trains on two batches."""

    def teacher_plan(self, seed: int) -> Plan:
        whole = super().teacher_plan(seed)
        return replace(whole, federation=replace(whole.federation, max_batches=2))


def read(source: Source, overrides: Sequence[str] = ()) -> list[Distillation]:
    """Return the distillations of a file or mapping: one, or the product of its `matrix`.

    Raises:
        ConfigError: names the file, the key path, the value and what is allowed, a line for each error.
    """
    where, found = place_of(source), cells(source, overrides)
    if strange := next((cell for cell in found if is_federation(cell)), None):
        keys = " and ".join(f'"{key}"' for key in strange if key in FEDERATES)
        raise where.error(f"is an experiment, as it has {keys} and no synthesizer; it is for fcil run")
    distillations, errors = collect(lambda cell: parse_fields(Distillation, _one_task(cell, where), where), found)
    if errors:
        raise all_of(errors)
    return distillations


def distils(source: Source, overrides: Sequence[str] = ()) -> bool:
    """Return whether a file is for `fcil distill`.

    Raises:
        ConfigError: there is no such file, or it is no YAML.
    """
    return all(is_distillation(cell) for cell in cells(source, overrides))


def _one_task(values: dict[str, Any], where: Where) -> dict[str, Any]:
    """Return the same values, with data of one task."""
    data = values.get("data")
    if not isinstance(data, Mapping):
        return values
    for key in SHARED_OUT:
        if key in data:
            raise where.at(f"data.{key}").error("a distillation has one task and one holder of its data; leave it out")
    if data.get("tasks", 1) != 1:
        raise where.at("data.tasks").error(f"{data['tasks']!r} is not allowed; a distillation has one task")
    return {**values, "data": {**data, "tasks": 1}}
