"""`fcil distill`: a teacher, trained or given, and the students that learn from it without data.

The keys of its experiment files are read here and turned into plans of the engine: the teacher is a
federation of one client in one task, and so is a student, whose client dreams (`strategies/distill.py`).
So a distillation is resumed, watched, drawn and compared like any run.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass, replace
from hashlib import sha256
from pathlib import Path
from typing import Any

import torch
from rich.console import Console
from rich.table import Table
from rich.text import Text
from safetensors.torch import load_file, save_file

from fcil.anchors import AnchorSettings
from fcil.config import Where, dump, parse_fields
from fcil.data import DataSettings
from fcil.data.folders import data_folder
from fcil.distillers import KD, Distiller
from fcil.experiment import cells, named, play, rehearse_all, share_out
from fcil.federation.parts import DamagedError, read_tensors
from fcil.federation.plan import Plan, first_net, scenario_of
from fcil.federation.settings import FederationSettings, Resources
from fcil.groups import group_runs
from fcil.nets import NetSettings, frozen
from fcil.nets.ported import torchvision_weights
from fcil.optimizer import OptimizerSettings
from fcil.plugins import StrategySpec
from fcil.quantisation import QuantiseSettings, check_installed, quantise, quantised_table
from fcil.store import Run, check_writable, final_weights, load_run
from fcil.store.files import read_json, replacing, write_json
from fcil.synthesis import Synthesizer
from fcil.synthesis.quality import quality
from fcil.tables import NONE, percent, simple_table
from fcil.types import Count, Index, Tensors

QUALITY = "quality.json"
"""In a student's run folder: what its samples were like."""


@dataclass(frozen=True, kw_only=True)
class TeacherSettings:
    """The net that knows: trained on the data, or read from a file."""

    net: NetSettings = NetSettings()
    """Which net it is."""
    file: str | None = None
    """A safetensors file with its weights, or `torchvision` for what that has trained; null: it is trained."""
    epochs: Count = 30
    """Passes over the training images."""
    batch_size: Count = 64
    """Images per step."""
    optimizer: OptimizerSettings = OptimizerSettings()
    """How it is trained; the rate falls from epoch to epoch."""


@dataclass(frozen=True, kw_only=True)
class StudentSettings:
    """The net that learns."""

    net: NetSettings = NetSettings()
    """Which net it is."""
    rounds: Count = 40
    """Rounds, in each of which an episode of synthesis is followed by steps of the student."""
    steps: Count = 100
    """Steps in a round."""
    wait: Index = 0
    """First rounds without them."""
    batch_size: Count = 64
    """Samples per step."""
    optimizer: OptimizerSettings = OptimizerSettings()
    """How it is trained; the rate falls from round to round."""
    evaluate_every: Index = 1
    """Rounds between looks at the test images; 0: at the end alone."""


@dataclass(frozen=True, kw_only=True)
class Distillation:
    """The keys of a distillation's file, `matrix` aside."""

    name: str
    """Names the folder of the results."""
    seeds: tuple[Index, ...] = (0,)
    """A teacher and a student for each."""
    data: DataSettings
    """What the teacher learns, and what the student is tested on; it is one task."""
    teacher: TeacherSettings = TeacherSettings()
    """The net that knows."""
    student: StudentSettings = StudentSettings()
    """The net that learns."""
    synthesizer: Synthesizer
    """How samples are made."""
    distiller: Distiller = KD()
    """How the student learns from them."""
    quantise: QuantiseSettings | None = None
    """Also bring the teacher to eight bits with what was made, and see what it loses; null: not."""
    anchors: AnchorSettings = AnchorSettings()
    """Where label-text embeddings come from, for methods that need them."""
    resources: Resources = Resources()
    """What the run may use."""

    def __post_init__(self) -> None:
        if self.synthesizer.chains > 1:
            raise ValueError("synthesizer: chains is above 1; a student here listens to one")
        if self.synthesizer.episodes > self.student.rounds:
            raise ValueError(
                f"student: rounds is {self.student.rounds}, fewer than the {self.synthesizer.episodes} episodes of "
                f"{self.synthesizer.name}; raise it, or lower the synthesizer's rounds"
            )

    def teacher_plan(self, seed: int) -> Plan:
        """The teacher as a run: one client who holds everything."""
        t = self.teacher
        federation = FederationSettings(
            clients=1, rounds=t.epochs, local_epochs=1, batch_size=t.batch_size, backend="inprocess", evaluate_every=0
        )
        strategy = StrategySpec.from_yaml("finetune", Where("teacher"))
        return self._plan(f"{self.name}-teacher", seed, federation, t.optimizer, t.net, strategy)

    def student_plan(self, seed: int, teacher: Path | None = None) -> Plan:
        """A student as a run: one client who dreams; without a file of the teacher only a rehearsal."""
        s = self.student
        federation = FederationSettings(
            clients=1, rounds=s.rounds, local_epochs=1, batch_size=s.batch_size, backend="inprocess",
            evaluate_every=s.evaluate_every, checkpoint_every=5,
        )  # fmt: skip
        digest = sha256(teacher.read_bytes()).hexdigest() if teacher else ""
        options = {
            "teacher": str(teacher) if teacher else None,
            "digest": digest,
            "net": dump(self.teacher.net),
            "steps": s.steps,
        }
        options |= {"wait": s.wait, "synthesizer": dump(self.synthesizer), "distiller": dump(self.distiller)}
        strategy = StrategySpec.from_yaml({"distill": options}, Where("student"))
        return self._plan(self.name, seed, federation, s.optimizer, s.net, strategy)

    def _plan(
        self,
        name: str,
        seed: int,
        federation: FederationSettings,
        optimizer: OptimizerSettings,
        net: NetSettings,
        strategy: StrategySpec,
    ) -> Plan:
        return Plan(
            name=name, seed=seed, data=self.data, federation=federation, optimizer=optimizer, net=net,
            anchors=self.anchors, strategy=strategy, resources=self.resources,
        )  # fmt: skip


def read(source: str | Path, overrides: Sequence[str] = ()) -> list[Distillation]:
    """The distillations of a file: one, or the product of its `matrix`.

    Raises:
        ConfigError: names the file, the key path, the value and what is allowed.
    """
    where = Where(str(source))
    return [parse_fields(Distillation, _one_task(cell, where), where) for cell in cells(source, overrides)]


def _one_task(values: dict[str, Any], where: Where) -> dict[str, Any]:
    """The same values, whose data is one task."""
    data = values.get("data")
    if not isinstance(data, Mapping):
        return values
    for key in ("base", "increment", "order", "partition"):
        if key in data:
            raise where.at(f"data.{key}").error("a distillation has one task and one holder of its data; leave it out")
    if data.get("tasks", 1) != 1:
        raise where.at("data.tasks").error(f"{data['tasks']!r} is not allowed; a distillation has one task")
    return {**values, "data": {**data, "tasks": 1}}


def distill(
    source: str | Path, *overrides: str, out: str | Path = "results", console: Console | None = None
) -> list[Run]:
    """Train or load the teachers of a file, and teach every student that is not finished yet.

    Returns:
        The runs of the students, those finished before included.
    Raises:
        UserError: something in the file, the data, a teacher or the output folder is wrong.
    """
    out, console, where = Path(out), console or Console(), Where(str(source))
    found = read(source, overrides)
    check_writable(out)
    if any(one.quantise for one in found):
        with named(where.at("quantise")):
            check_installed()
    given = {one.teacher: given_teacher(one, where) for one in found if one.teacher.file}
    asked = [(one, seed) for one in found for seed in one.seeds]
    # What a method cannot do without, the teacher has to have.
    rehearse_all([replace(one.student_plan(seed), net=one.teacher.net) for one, seed in asked], console, where)
    trained = {one.teacher_plan(seed).folder: one.teacher_plan(seed) for one, seed in asked if not one.teacher.file}
    play(list(trained.values()), out, console, where)
    made = {folder: exported(out / folder) for folder in trained}
    teachers = [given.get(one.teacher) or made[one.teacher_plan(seed).folder] for one, seed in asked]
    plans = [one.student_plan(seed, teacher) for (one, seed), teacher in zip(asked, teachers, strict=True)]
    runs = play(plans, out, console, where)
    for folder in trained:
        accuracy = load_run(out / folder).summary["final_accuracy"]
        console.print(f"teacher: {100 * accuracy:.1f} % ({made[folder]})", markup=False, soft_wrap=True)
    played = dict(zip(dict.fromkeys(plan.folder for plan in plans), runs, strict=True))  # two cells may be one run
    for plan, (one, seed) in zip(plans, asked, strict=True):
        run = played[plan.folder]
        if not (run.path / QUALITY).is_file():
            share_out(plan, where)
            measure(run, replace(one.teacher_plan(seed), data=plan.data), load_file(_teacher_of(plan)))
        if one.quantise:
            about = quantise(run, one.teacher_plan(seed), load_file(_teacher_of(plan)), one.quantise)
            console.print(quantised_table(about))
    console.print(quality_table(runs))
    return runs


def _teacher_of(plan: Plan) -> str:
    return str(vars(plan.strategy.strategy)["teacher"])


def measure(run: Run, teacher: Plan, weights: Tensors) -> None:
    """Write `quality.json`: what the pool of a run is like to its teacher.

    Args:
        teacher: the plan that says which net it is, and on what data.
    """
    net = first_net(teacher, None)
    net.load({name: w for name, w in weights.items() if not name.startswith("text_head.")})
    pool = load_file(run.folder.synthetic / "task1.safetensors")
    dataset = scenario_of(teacher).dataset
    found = quality(frozen(net), pool, torch.tensor(dataset.mean), torch.tensor(dataset.std))
    write_json(run.path / QUALITY, asdict(found))


def quality_table(runs: Sequence[Run]) -> Table:
    """What was made, and what the student has of it."""
    table = simple_table("Samples", "agreement: the teacher sees the label; bns: KL to its statistics, less is nearer")
    for title in ("", "student", "samples", "agreement", "bns", "diversity"):
        table.add_column(title, justify="right" if title else "left")
    for group in group_runs(runs):
        for run in group.runs:
            about = read_json(run.path / QUALITY)
            numbers = [f"{about[key]:.3g}" if about[key] is not None else NONE for key in ("bns", "diversity")]
            shares = percent(run.summary["final_accuracy"]), percent(about["agreement"])
            table.add_row(Text(group.label), shares[0], str(about["samples"]), shares[1], *numbers)
    return table


def exported(folder: Path) -> Path:
    """`net.safetensors` in a finished run's folder: the net that it ended with."""
    path = folder / "net.safetensors"
    if not path.is_file():
        weights = {name: tensor.cpu().contiguous() for name, tensor in final_weights(folder).items()}
        with replacing(path) as temporary:
            save_file(weights, temporary)
    return path


def given_teacher(one: Distillation, where: Where) -> Path:
    """The file of a teacher that is not trained here, after a look at it.

    Raises:
        ConfigError: it cannot be had, or cannot serve.
    """
    path = Path(str(one.teacher.file))
    if one.teacher.file == "torchvision":
        with named(where.at("teacher.file")):
            weights = torchvision_weights(one.teacher.net.name)
        path = data_folder() / f"torchvision-{one.teacher.net.name}.safetensors"
        with replacing(path) as temporary:
            save_file({name: w.contiguous() for name, w in weights.items()}, temporary)
    check_teacher(path, one.teacher_plan(one.seeds[0]), where)
    return path


def check_teacher(path: Path, plan: Plan, where: Where) -> None:
    """See that a file holds the weights of the net that a plan names, for the classes of its data.

    Raises:
        ConfigError: it is no safetensors file, fits another net or other data, or holds NaN.
    """
    here = where.at("teacher.file")
    try:
        weights, _ = read_tensors(path)
    except DamagedError as error:
        raise here.error(f"{path}: no safetensors file can be read there ({error})") from None
    share_out(plan, where)
    with named(where):
        net = first_net(plan, None)
    classes = len(weights["classifier.bias"]) if "classifier.bias" in weights else None
    if classes not in (None, net.num_classes):
        raise here.error(f"{path}: has {classes} classes; {plan.data.dataset} has {net.num_classes}")
    broken = [name for name, w in weights.items() if w.is_floating_point() and not bool(torch.isfinite(w).all())]
    if broken:
        raise here.error(f'{path}: tensor "{broken[0]}" holds NaN or infinity')
    try:
        net.load({name: w for name, w in weights.items() if not name.startswith("text_head.")})
    except ValueError as error:
        raise here.error(f"{path}: not the weights of a {plan.net.name} as in teacher.net ({error})") from None
