"""Estimate of an experiment file's runs and of their cost; nothing is played and nothing is written."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass
from itertools import accumulate
from pathlib import Path
from typing import Any, Literal, cast

from rich.console import Group, RenderableType
from rich.text import Text

from fcil.config import Where
from fcil.console.eta import seconds_for_all
from fcil.console.runs_table import labels
from fcil.console.tables import NONE, duration, simple_table, size
from fcil.data.sources import at_hand
from fcil.errors import StoreError
from fcil.federation.context import Datasets, RunContext
from fcil.federation.plan import Plan
from fcil.federation.preconditions import introduction
from fcil.io.state import num_bytes
from fcil.nets import build_net
from fcil.runs.parallel import how_many, jobs_asked_for
from fcil.runs.plans import planned
from fcil.runs.preflight import check_offline, named, share_out
from fcil.runs.remote_data import data_download, encoder_download, reckoned, task_sizes
from fcil.runs.step_timer import Facts, StepTimer
from fcil.store import Run, RunFolder, load_run
from fcil.store.groups import is_student
from fcil.strategy import Strategy

State = Literal["finished", "begun", "new", "damaged"]
BASES = {
    "itself": "from its own rounds so far",
    "other seeds": "from finished runs of the same settings",
    "strategy": "from finished runs of the same strategy here",
    "one step": "from one timed step of plain training; what the method adds is not in it",
    "unknown": "unknown",
}
"""Sources of an estimate."""


@dataclass(frozen=True)
class ExpectedRun:
    """A run, and what is known of its cost."""

    label: str
    seed: int
    folder: str
    state: State
    rounds_done: int
    rounds: int
    """Rounds of all its tasks."""
    seconds: float | None
    """Still to come; None: unknown."""
    basis: str | None
    """Source of `seconds`, a key of `BASES`; None for a finished run."""
    messages: int
    """Messages to and from clients, in all."""
    bytes: int
    """Bytes of the messages; for a run that is not finished, of the weights of the net alone."""


@dataclass(frozen=True)
class Estimate:
    """The runs of a file."""

    runs: tuple[ExpectedRun, ...]
    at_once: int
    notes: tuple[str, ...] = ()
    """Notes on what the runs would download, and on unusual properties of them or their data."""

    @property
    def seconds(self) -> float | None:
        """Return the seconds until all are finished; None if a run's is unknown."""
        ahead = [run.seconds for run in self.runs if run.state != "finished"]
        known = [s for s in ahead if s is not None]
        return seconds_for_all([], known, self.at_once) if len(known) == len(ahead) else None

    def to_json(self) -> dict[str, Any]:
        runs = [asdict(run) for run in self.runs]
        return {"seconds": self.seconds, "at_once": self.at_once, "runs": runs, "notes": list(self.notes)}


def estimate(
    source: str | Path,
    *overrides: str,
    out: str | Path = "results",
    smoke: bool = False,
    jobs: int | None = None,
    shard: str | None = None,
) -> Estimate:
    """The runs that `fcil.run` would see to with the same arguments.

    Raises:
        UserError: something in the file or the data is wrong.
    """
    plans = planned(source, overrides, smoke, shard)
    return estimate_plans(plans, Path(out), Where(str(source)), smoke=smoke, jobs=jobs)


def estimate_plans(plans: Sequence[Plan], out: Path, where: Where, *, smoke: bool, jobs: int | None) -> Estimate:
    """Return the same of plans. Nothing is downloaded or written; of image files few are decoded.

    Raises:
        UserError: something in them, the data or the label-text embeddings is wrong.
    """
    # A smoke run always begins anew.
    there = {plan.folder: None if smoke else _read(out / plan.folder) for plan in plans}
    names = labels(plans, out)
    ahead = [p for p in plans if not (isinstance(run := there[p.folder], Run) and run.finished)]
    at_once = how_many(ahead, jobs_asked_for(plans, jobs))
    found, watch = {}, StepTimer()
    notes: dict[str, None] = {}
    datasets = Datasets(look=True)
    for data in dict.fromkeys(plan.data for plan in plans):  # one data set is kept at a time
        for plan in (plan for plan in plans if plan.data == data):
            context = share_out(plan, datasets, where) if data_at_hand(plan, where) else None
            if context is not None:
                check_offline(context, where)
                notes |= dict.fromkeys(introduction(context))
            else:
                notes[f"{data.dataset} is {data_download(plan)}"] = None
            if line := encoder_download(plan):
                notes[f"anchors: {line}"] = None
            found[plan.folder] = _expected(plan, context, out, names[plan.folder], there, watch)
    return Estimate(tuple(found[plan.folder] for plan in plans), at_once, tuple(notes))


def data_at_hand(plan: Plan, where: Where) -> bool:
    """Return whether a plan's data can be opened without a download.

    Raises:
        UserError: they are missing, and no run could fetch them.
    """
    with named(where.at("data")):
        return at_hand(plan.data.info, plan.data.root)


def _read(path: Path) -> Run | str | None:
    """A run as it stands; what is wrong with it if it cannot be read; None if there is none."""
    if not RunFolder(path).begun:
        return None
    try:
        return load_run(path)
    except StoreError as error:
        return str(error)


def _expected(
    plan: Plan,
    context: RunContext | None,
    out: Path,
    label: str,
    there: Mapping[Path, Run | str | None],
    watch: StepTimer,
) -> ExpectedRun:
    """Return the estimate of a run; its context is None where its data is not at hand."""
    run = there[plan.folder]
    tasks = task_sizes(plan) if context is None else tuple(task.num_new for task in context.tasks)
    total = len(tasks) * plan.federation.rounds
    done = len(run.rounds) if isinstance(run, Run) else 0
    seconds: float | None = 0.0
    basis: str | None = None
    state: State = "damaged" if isinstance(run, str) else "new" if run is None else "begun"
    if isinstance(run, Run) and run.finished:
        traffic, state = int(run.summary.get("bytes") or 0), "finished"
    else:
        traffic = _traffic(plan, context, tasks)
        known = [r for r in there.values() if isinstance(r, Run)]
        seconds, basis = _seconds(plan, context, total - done, run, known, watch)
    talks = len(tasks) * plan.federation.rounds * plan.federation.clients_per_round
    if type(plan.strategy.strategy).after_local_task is not Strategy.after_local_task:
        talks += len(tasks) * plan.federation.clients
    folder = str(out / plan.folder)
    return ExpectedRun(label, plan.seed, folder, state, done, total, seconds, basis, 2 * talks, traffic)


def _seconds(
    plan: Plan,
    context: RunContext | None,
    left: int,
    run: Run | str | None,
    others: Sequence[Run],
    watch: StepTimer,
) -> tuple[float | None, str]:
    """Estimate the seconds of a run, and name the source: the best there is. Without its data no step is timed."""
    for basis, alike in {
        "other seeds": [r for r in others if r.variant == plan.variant],
        "strategy": [r for r in others if r.strategy == plan.strategy.name],
    }.items():
        means = [r.summary["seconds"] / r.summary["rounds"] for r in alike if _timed(r)]
        if means:
            return left * sum(means) / len(means), basis
        if isinstance(run, Run) and run.rounds:
            own = [sum(s for s in (r.get("seconds") or {}).values() if s) for r in run.rounds]
            return left * sum(own) / len(own), "itself"
    step = None if context is None else _step_seconds(context, watch)
    return (None, "unknown") if context is None or step is None else (step * _steps(context), "one step")


def _timed(run: Run) -> bool:
    return bool(run.summary.get("seconds") and run.summary.get("rounds"))


def _steps(context: RunContext) -> float:
    """Steps of all clients in all rounds, if every client were drawn equally often."""
    plan = context.plan
    if is_student(plan.strategy.name):
        options = plan.strategy.strategy.options()
        return float(cast(int, options["steps"]) * max(0, plan.federation.rounds - cast(int, options["wait"])))
    f, counts = plan.federation, context.scenario.counts.sum(axis=2)[: len(context.tasks)]  # (tasks, clients)
    steps = sum(f.local_batches(images) for images in counts.flatten().tolist())
    return steps * f.rounds * f.clients_per_round / f.clients


def _step_seconds(context: RunContext, watch: StepTimer) -> float | None:
    """Return the seconds of a step of plain training; None if this machine cannot make one, or has made too many."""
    scenario = context.scenario
    data, shard = scenario.dataset, max((scenario.shard(1, client) for client in range(scenario.clients)), key=len)
    facts = Facts(len(data.train), len(data.test), len(scenario.tasks), len(scenario.order), data.shape, shard)
    try:
        return watch.step(context.plan, facts)
    except (RuntimeError, ValueError, MemoryError):  # too large for this machine, say
        return None


def _traffic(plan: Plan, context: RunContext | None, tasks: Sequence[int]) -> int:
    """Bytes of the weights that go to clients and come back, in all rounds.

    Args:
        context: None where the data is not at hand; its shape is then that of the catalogue.
        tasks: the classes that each brings.
    """
    if context is not None:
        net = context.first_net(text_head=False, begun=False)
    else:
        facts = reckoned(plan)
        shape = plan.data.info.shape if facts is None else facts.shape
        net = build_net(plan.net, shape=shape or (), num_classes=tasks[0], text_width=None, key=(plan.seed, "net"))
    row = num_bytes({"weight": net.classifier.weight[:1], "bias": net.classifier.bias[:1]})
    each = [num_bytes(net.weights()) + row * (seen_so_far - tasks[0]) for seen_so_far in accumulate(tasks)]
    return 2 * sum(each) * plan.federation.rounds * plan.federation.clients_per_round


def estimate_table(found: Estimate) -> RenderableType:
    """The runs, and below them what all of them take."""
    bases = dict.fromkeys(run.basis for run in found.runs if run.basis)
    marks = {basis: "*" * number for number, basis in enumerate(bases)}
    table = simple_table()
    table.add_column("run", overflow="fold")
    table.add_column("folder", overflow="fold")
    for title in ("state", "rounds", "time", "bytes"):
        table.add_column(title, justify="right", no_wrap=True)
    for run in found.runs:
        seconds = NONE if not run.basis else "unknown" if run.seconds is None else duration(run.seconds)
        mark = marks.get(run.basis or "", "")
        cells = run.state, f"{run.rounds_done}/{run.rounds}", f"{seconds}{mark}", size(run.bytes)
        table.add_row(Text(run.label), Text("/".join(Path(run.folder).parts[-2:])), *cells)
    notes = [f"{mark or 'time'}: {BASES[basis]}" for basis, mark in marks.items()]
    ahead = sum(run.state != "finished" for run in found.runs)
    least = "at least " if "one step" in bases else ""
    whole = "time unknown" if found.seconds is None else f"{least}about {duration(found.seconds)}"
    last = f"{ahead} of {len(found.runs)} runs to play, {found.at_once} at once: {whole}"
    if not ahead:
        last = "the run is finished" if len(found.runs) == 1 else f"all {len(found.runs)} runs are finished"
    notes += found.notes
    return Group(table, *(Text(note, style="dim") for note in notes), Text(last, style="bold"))
