"""From a YAML file to runs: overrides, the matrix, the seeds, and one run after another.

runs = run("experiments/quickstart.yaml", "federation.rounds=5", out="results")
"""

from __future__ import annotations

import copy
import itertools
import math
import os
import shutil
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from rich.console import Console

from fcil.anchors import AnchorSettings, warnings
from fcil.compare.terminal import comparison_table
from fcil.config import MAX_DEPTH, Where, choice, is_folder_name, load_yaml, parse_fields, parse_yaml
from fcil.data import DataSettings, Scenario
from fcil.data.decode import Progress
from fcil.errors import ConfigError, DataError, StoreError
from fcil.federation.engine import Engine, rehearse
from fcil.federation.interrupts import Interrupts
from fcil.federation.observer import Observers
from fcil.federation.plan import Plan, anchors_of, dataset_of, from_yaml, scenario_of
from fcil.federation.safeguards import check_safeguards
from fcil.federation.settings import FederationSettings, Resources
from fcil.nets import NetSettings
from fcil.optimizer import OptimizerSettings
from fcil.plots import draw_comparison, draw_run
from fcil.plugins import StrategySpec, read_source
from fcil.progress import choose_progress, loading_bar
from fcil.store import Run, RunFolder, RunRecorder, check_writable, load_run
from fcil.tables import accuracy_table, failures_line, metrics_table, partition_table, settings_tree
from fcil.types import Index


@dataclass(frozen=True, kw_only=True)
class Experiment:
    """The keys of an experiment file, `matrix` aside."""

    name: str
    """Names the folder of the results."""
    seeds: tuple[Index, ...] = (0,)
    """A run for each."""
    data: DataSettings
    """What is learnt, task by task and client by client."""
    federation: FederationSettings = FederationSettings()
    """Who trains, and for how long."""
    optimizer: OptimizerSettings = OptimizerSettings()
    """How clients train."""
    net: NetSettings = NetSettings()
    """What is trained."""
    anchors: AnchorSettings = AnchorSettings()
    """Where label-text embeddings come from."""
    strategy: StrategySpec
    """The method."""
    resources: Resources = Resources()
    """What the run may use."""

    def __post_init__(self) -> None:
        if not self.seeds or len(set(self.seeds)) != len(self.seeds):
            raise ValueError(f"seeds: {list(self.seeds)} is not allowed; expected at least one, and none twice")
        if max(self.seeds) >= 10**18:
            raise ValueError(f"seeds: {max(self.seeds)} is not allowed; expected at most 18 digits")
        if not is_folder_name(self.name):
            raise ValueError(f'name: "{self.name}" is not allowed; it names a folder')

    def plans(self) -> list[Plan]:
        parts = {k: getattr(self, k) for k in Plan.__dataclass_fields__ if k != "seed"}
        return [Plan(seed=seed, **parts) for seed in self.seeds]


# Reading ------------------------------------------------------------------------------------------


MAX_RUNS = 10_000
"""Of one file."""


def read(source: str | Path, overrides: Sequence[str] = ()) -> list[Experiment]:
    """The experiments of a file: one, or the product of its `matrix`.

    Args:
        overrides: `key.path=value`, each value read as YAML.
    Raises:
        ConfigError: names the file, the key path, the value and what is allowed.
    """
    where = Where(str(source))
    experiments = [parse_fields(Experiment, cell, where) for cell in cells(source, overrides)]
    runs = sum(len(experiment.seeds) for experiment in experiments)
    if runs > MAX_RUNS:
        raise where.at("seeds").error(f"makes {runs:,} runs; at most {MAX_RUNS:,} are allowed")
    return experiments


def cells(source: str | Path, overrides: Sequence[str] = ()) -> list[dict[str, Any]]:
    """The values of a file with the overrides in place: one mapping, or one for each cell of its `matrix`."""
    path = Path(source)
    raw, where = load_yaml(path), Where(str(path))
    if not isinstance(raw, Mapping):
        raise where.error("is not an experiment; expected keys such as name, data, strategy")
    values: dict[str, Any] = {"name": path.stem, **copy.deepcopy(dict(raw))}
    changes = dict(_override(text) for text in overrides)
    for key in [k for k in changes if k.partition(".")[0] == "matrix"]:
        place(values, key, changes.pop(key), Where(f'override "{key}"'))
    if isinstance(values.get("matrix"), Mapping):  # a key that is set by hand varies no more
        varied = {key: choices for key, choices in values["matrix"].items() if key not in changes}
        values["matrix"] = varied if varied or not values["matrix"] else None
    found = list(expand(values, where))
    for cell, (key, value) in itertools.product(found, changes.items()):
        place(cell, key, copy.deepcopy(value), Where(f'override "{key}"'))
    return found


def _override(text: str) -> tuple[str, Any]:
    key, given, value = text.partition("=")
    if not given or not key or key.count(".") > MAX_DEPTH:
        raise ConfigError(f'override "{text}" is not allowed; expected key.path=value')
    return key, parse_yaml(value, f'override "{key}"')


def place(values: dict[str, Any], path: str, value: Any, where: Where) -> None:
    """Set a value at a key path such as `data.tasks`.

    `strategy.radius` reaches into the options of whichever strategy is named.
    """
    *parents, last = path.split(".")
    spot: Any = values
    for depth, key in enumerate(parents):
        if not isinstance(spot, dict):
            raise where.error(f'"{".".join(parents[:depth])}" is {spot!r} and has no key "{key}"')
        if isinstance(spot.get(key), str) and key in ("strategy", "synthesizer"):
            spot[key] = {spot[key]: {}}
        spot = spot.setdefault(key, {})
        rest = [*parents, last][depth + 1]
        if key in ("strategy", "synthesizer") and isinstance(spot, dict) and len(spot) == 1 and rest not in spot:
            (name,) = spot
            spot[name] = spot[name] or {}
            spot = spot[name]
    if not isinstance(spot, dict):
        raise where.error(f'"{".".join(parents)}" is {spot!r} and has no key "{last}"')
    spot[last] = value


def expand(values: dict[str, Any], where: Where) -> Iterator[dict[str, Any]]:
    """The cells of `matrix`: every combination of its lists, each set at its key path."""
    values = dict(values)
    matrix = values.pop("matrix", None)
    if matrix is None:
        yield values
        return
    if not isinstance(matrix, Mapping) or not matrix or not all(isinstance(v, list) and v for v in matrix.values()):
        raise where.at("matrix").error(f"{matrix!r} is not allowed; expected key paths, each with a list of values")
    size = math.prod(len(choices) for choices in matrix.values())
    if size > MAX_RUNS:
        raise where.at("matrix").error(f"makes {size:,} experiments; at most {MAX_RUNS:,} are allowed")
    if any(key.count(".") > MAX_DEPTH for key in matrix):
        raise where.at("matrix").error(f"a key path has more than {MAX_DEPTH} parts")
    for combination in itertools.product(*matrix.values()):
        cell = copy.deepcopy(values)
        for key, value in zip(matrix, combination, strict=True):
            place(cell, str(key), copy.deepcopy(value), where.at("matrix").at(key))
        yield cell


def survey(source: str | Path, overrides: Sequence[str] = ()) -> Iterator[tuple[Plan, Scenario]]:
    """Every run of an experiment file and who would hold what in it; nothing is played."""
    for plan in (plan for experiment in read(source, overrides) for plan in experiment.plans()):
        yield plan, share_out(plan, Where(str(source)))


# Running ------------------------------------------------------------------------------------------


def run(
    source: str | Path,
    *overrides: str,
    out: str | Path = "results",
    smoke: bool = False,
    console: Console | None = None,
) -> list[Run]:
    """Play every run of an experiment file that is not finished yet.

    Returns:
        All its runs, those finished before included.
    Raises:
        UserError: something in the file, the data or the output folder is wrong; nothing was written.
    """
    experiments, out = read(source, overrides), Path(out)
    plans = [plan for experiment in experiments for plan in experiment.plans()]
    if smoke:
        plans = [experiment.plans()[0].smoke() for experiment in experiments]
        for plan in plans:  # to try again is the point of it
            shutil.rmtree(out / plan.folder, ignore_errors=True)
    return play(plans, out, console or Console(), Where(str(source)))


def play(
    plans: Sequence[Plan], out: Path, console: Console, where: Where, open_engine: Callable[..., Engine] = Engine
) -> list[Run]:
    """Play plans whose runs are not finished, and draw figures of each and of all.

    Args:
        open_engine: makes the engine of federation settings, resources and interrupts.
    """
    check_writable(out)
    plans = list({plan.folder: plan for plan in plans}.values())  # two cells of a matrix may be the same run
    unfinished = []
    for plan in plans:
        if RunFolder(out / plan.folder).finished:
            console.print(f"{out / plan.folder} is finished; nothing to do", markup=False, soft_wrap=True)
        else:
            unfinished.append(plan)
    with Interrupts(lambda line: console.print(line, markup=False)) as interrupts:
        rehearse_all(unfinished, console, where)
        for _, group in itertools.groupby(unfinished, key=_engine_key):
            alike = list(group)
            with named(where), open_engine(alike[0].federation, alike[0].resources, interrupts) as engine:
                for plan in alike:
                    play_one(engine, plan, out / plan.folder, console)
    for plan in plans:  # a run that was killed between its last number and its figures
        if not RunFolder(out / plan.folder).figures.is_dir():
            draw_run(out / plan.folder)
    runs = [load_run(out / plan.folder) for plan in plans]
    if len(runs) > 1 and unfinished:
        conclude(runs, out / plans[0].name, console)
    return runs


def _engine_key(plan: Plan) -> tuple[Any, ...]:
    return plan.federation.backend, plan.federation.clients_per_round, plan.resources


@contextmanager
def named(where: Where) -> Iterator[None]:
    """Let an error of the block begin with the file, and the key in it, that it is about."""
    try:
        yield
    except (ConfigError, DataError) as error:
        raise type(error)(str(where.error(str(error)))) from error


def rehearse_all(plans: Sequence[Plan], console: Console, where: Where) -> None:
    """Load data, share it out, find anchors and what else runs will need, before a file is written."""
    seen = set()
    with loading_bar(console) as progress:
        for plan in plans:
            method, device = str(plan.strategy.fingerprint()), plan.resources.device
            key = (plan.data, plan.federation, plan.seed, plan.anchors, plan.net, method, device)
            if key not in seen:
                seen.add(key)
                scenario = share_out(plan, where, progress)
                with named(where):
                    check_safeguards(plan, [task.num_new for task in scenario.tasks[: plan.federation.stop_after]])
                with named(where.at("anchors")):
                    anchors_of(plan)
                with named(where.at("strategy").at(plan.strategy.name)):
                    rehearse(plan)


def share_out(plan: Plan, where: Where, progress: Progress | None = None) -> Scenario:
    """The data of a plan, shared out; an error names the file."""
    with named(where):
        plan.resources.torch_device()
    with named(where.at("data")):
        dataset_of(plan.data, progress)
        return scenario_of(plan)


def play_one(engine: Engine, plan: Plan, path: Path, console: Console) -> None:
    """One run, from its beginning or its last checkpoint to its figures."""
    folder, scenario = RunFolder(path), scenario_of(plan)
    introduce(plan, scenario, console)
    device, resources = plan.resources.torch_device(), plan.resources
    folder.write_config(plan.to_yaml())
    folder.write_strategy(plan.strategy.source)
    folder.write_partition(scenario.partition_record())
    folder.write_env(devices=[str(device)], threads=resources.threads)
    with choose_progress(console) as progress:
        engine.run(plan, path, Observers(RunRecorder(folder, scenario.tasks[-1].names), progress))
    draw_run(path)
    run = load_run(path)
    console.print(accuracy_table(run.rows), metrics_table(run.summary))
    if failures := failures_line(run.summary):
        console.print(failures, markup=False, soft_wrap=True)
    console.print(f"{path}: accuracy.csv, rounds.jsonl, summary.json, figures/", markup=False, soft_wrap=True)


def introduce(plan: Plan, scenario: Scenario, console: Console) -> None:
    """What is about to be run: the settings, who holds how much of what, and what is odd about the anchors."""
    names = scenario.tasks[-1].names
    console.print(settings_tree(plan.to_yaml()), partition_table(scenario.counts, names))
    anchors, radius = anchors_of(plan), getattr(plan.strategy.strategy, "radius", None)
    if anchors is not None and radius is not None:
        for line in warnings(anchors, names, radius):
            console.print(f"anchors: {line}", markup=False)


def conclude(runs: Sequence[Run], folder: Path, console: Console) -> None:
    """The strategies of an experiment beside each other, as a table and as curves."""
    console.print(comparison_table(runs))
    for path in draw_comparison(runs, folder / "figures"):
        console.print(str(path), markup=False, soft_wrap=True)


def resume(path: str | Path, console: Console | None = None, *, trust: bool = False) -> Run:
    """Go on with the run in a folder, with a strategy file of the user's own as it was when the run began.

    Args:
        trust: run the strategy.py of the folder even if the file it was copied from is another now, or gone.
    Raises:
        StoreError: the folder holds no run, one whose settings were changed, or code that may be a stranger's.
    """
    folder = RunFolder(os.path.realpath(path))
    if not folder.begun:
        raise StoreError(f"{folder.path}: not a run folder (it has no config.yaml)")
    where = Where(str(folder.config))
    values, source = load_yaml(folder.config), read_source(folder.strategy, where)
    if not trust and isinstance(values, Mapping) and "strategy" in values:
        _check_familiar(folder, values["strategy"], source, where)
    plan = from_yaml(values, source, where)
    out = folder.path.parents[2] if len(folder.path.parents) > 2 else folder.path
    if out / plan.folder != folder.path:
        raise StoreError(f"{folder.path}: config.yaml or strategy.py was changed; they make {plan.folder}")
    return play([plan], out, console or Console(), where)[0]


def _check_familiar(folder: RunFolder, strategy: object, source: str, where: Where) -> None:
    """See that no code would be run which is not also in the file that the settings name.

    A run folder may come from anywhere, and its strategy.py would be executed.
    """
    name, _ = choice(strategy, where, "strategy")
    if name.endswith(".py") and not (os.path.isfile(name) and read_source(Path(name), where) == source):
        raise StoreError(
            f"{folder.strategy}: not what is in {name} now; read it, and say --trust if its code may be run"
        )
