"""Needs of an experiment on this machine: data, anchors, disk, memory, time. Rough, and said to be."""

from __future__ import annotations

import math
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

import psutil

from fcil.config import Where
from fcil.console.tables import duration
from fcil.console.tables import size as in_words
from fcil.data.settings import DataSettings
from fcil.data.sources import at_hand
from fcil.distillation import distils, expected_plans
from fcil.distillation import read as distillations
from fcil.distillation.plans import check_all
from fcil.doctor.finding import Finding
from fcil.doctor.machine import existing, usable_cores
from fcil.errors import DataError
from fcil.federation.context import Datasets
from fcil.federation.persistence.manifest import KEPT
from fcil.federation.plan import Plan, needs_anchors
from fcil.federation.preconditions import remarks
from fcil.runs.plans import read
from fcil.runs.preflight import check_offline, named, share_out
from fcil.runs.remote_data import data_download, encoder_download, reckoned
from fcil.runs.step_timer import Facts, StepTimer
from fcil.store import RunFolder
from fcil.store.groups import is_student
from fcil.synthesis import Synthesizer
from fcil.training import is_for_training, training_plans
from fcil.training import read as trainings

FORWARD = 1 / 3
"""Share of a step that looking at a sample takes."""
EXTRA = 3 * 10**6
"""Bytes of a run for figures, records and logs."""


ROUGH = "reckoned from a timed step of plain training; teachers and synthesis may take several times as much again"


def examine(source: Path, overrides: Sequence[str], out: Path) -> Iterator[Finding]:
    """Return the needs of the runs of a file, except those that are finished.

    Raises:
        UserError: the file, or its data as it lies here, is wrong.
    """
    where, datasets = Where(str(source)), Datasets(look=True)
    plans = {plan.folder: plan for plan in _plans(source, overrides, datasets, where)}
    left = [plan for folder, plan in plans.items() if not RunFolder(out / folder).finished]
    yield Finding("ok", "runs", f"{len(left)} to play, {len(plans) - len(left)} finished already")
    facts: dict[DataSettings, Facts | None] = {}
    for plan in left:
        if plan.data not in facts:
            finding, facts[plan.data] = data(plan, datasets, where)
            yield finding
    seen = set()
    for plan in left:
        key = (plan.anchors, plan.data, plan.strategy.name)
        if key not in seen:
            seen.add(key)
            yield from anchors(plan, facts[plan.data], datasets, where)
    opened = [plan for plan in left if (of := facts[plan.data]) is not None and of.shard is not None]
    yield from foreseen(opened, datasets, where)
    known = [(plan, found) for plan in left if (found := facts[plan.data]) is not None]
    if known:
        yield from costs(known, out)
    if len(known) < len(left):
        yield Finding("warn", "estimates", f"of {len(left) - len(known)} runs are not known; their data is not")


def _plans(source: Path, overrides: Sequence[str], datasets: Datasets, where: Where) -> list[Plan]:
    """The runs of an experiment, or the teachers and students of a distillation."""
    if distils(source, overrides):
        found = distillations(source, overrides)
        check_all(found, datasets, where)
        return expected_plans(found)
    if is_for_training(source, overrides):
        return training_plans(trainings(source, overrides))
    return [plan for experiment in read(source, overrides, searched=True) for plan in experiment.plans()]


def data(plan: Plan, datasets: Datasets, where: Where) -> tuple[Finding, Facts | None]:
    """Check that the data is there, and measure it; of image files few are decoded.

    Raises:
        ConfigError: it cannot be shared out as the settings say.
    """
    chosen = plan.data
    info, what = chosen.info, f"data: {chosen.dataset}"
    try:
        if not at_hand(info, chosen.root):
            todo = f"without a network put {info.files} into data.root"
            return Finding("warn", what, data_download(plan), todo), reckoned(plan)
    except DataError as error:
        return Finding("fail", what, str(error), "set data.root, or FCIL_DATA"), reckoned(plan)
    try:
        scenario = share_out(plan, datasets, where).scenario
    except DataError as error:
        return Finding("fail", what, str(error), "mend the files, or set data.root"), reckoned(plan)
    dataset, tasks = scenario.dataset, len(scenario.tasks)
    facts = Facts(len(dataset.train), len(dataset.test), tasks, len(scenario.order), dataset.shape)
    shard = max((scenario.shard(1, client) for client in range(scenario.clients)), key=len)
    found = f"at hand: {facts.train:,} training and {facts.test:,} test images, {tasks} tasks"
    if dataset.kind == "series":
        channels, steps = dataset.shape
        found = found.replace("test images", "test series")
        found += f"; {len(dataset.class_names)} classes, {channels} channel{'s' * (channels > 1)}, {steps} steps"
    if dataset.source is not None:
        channels, *size = dataset.shape
        kind = "grey" if channels == 1 else "colour"
        found += f"; {len(dataset.class_names)} classes, {' x '.join(map(str, size))}, {kind}"
    return Finding("ok", what, found), facts._replace(shard=shard)


def anchors(plan: Plan, facts: Facts | None, datasets: Datasets, where: Where) -> Iterator[Finding]:
    """Check that label-text embeddings can be had, for a method that reads them."""
    encoder = plan.anchors.encoder
    if not needs_anchors(plan):
        return
    if line := encoder_download(plan):
        todo = "fetch it once with a network, or say anchors.encoder=embedded"
        yield Finding("warn", "anchors", line, todo)
    elif facts is not None and facts.shard is not None and (encoder == "embedded" or plan.anchors.file):
        context = share_out(plan, datasets, where)
        with named(where.at("anchors")):
            found = context.anchors
        yield Finding("ok", "anchors", f"{len(found) if found is not None else 0} classes, {encoder}")
    else:
        yield Finding("ok", "anchors", f"{encoder} is at hand")


def foreseen(plans: Sequence[Plan], datasets: Datasets, where: Where) -> Iterator[Finding]:
    """Return unusual properties of runs whose data was opened.

    Raises:
        ConfigError: one of them would not begin, or end in its middle.
    """
    told = set()
    for plan in plans:
        context = share_out(plan, datasets, where)
        check_offline(context, where)
        told |= {(plan.strategy.name, line) for line in remarks(context)}
    yield from (Finding("warn", name, line) for name, line in sorted(told))


# Costs --------------------------------------------------------------------------------------------


def costs(known: Sequence[tuple[Plan, Facts]], out: Path) -> Iterator[Finding]:
    """Disk, memory and time of runs one after another."""
    watch = StepTimer()
    needed = sum(_disk(plan, facts, watch) for plan, facts in known)
    free = psutil.disk_usage(str(existing(out))).free
    todo = "choose another --out, or make room" if needed > free else ""
    found = f"about {in_words(needed)} for {len(known)} runs, {in_words(free)} free"
    yield Finding("fail" if todo else "ok", "disk", found, todo)
    times = [_seconds(plan, facts, watch) for plan, facts in known]
    plan = max((plan for plan, _ in known), key=_processes)
    used, there = psutil.Process().memory_info().rss * (1 + _processes(plan)), psutil.virtual_memory().available
    todo = "lower resources.workers or federation.batch_size" if used > there else ""
    found = f"about {in_words(used)} in {1 + _processes(plan)} processes, {in_words(there)} free"
    yield Finding("warn" if todo else "ok", "memory of a run", found, todo)
    told = [t for t in times if t is not None]
    if told:
        first = known[[t is not None for t in times].index(True)][0]
        rounds = first.federation.rounds * min(known[0][1].tasks, first.federation.stop_after or 10**6)
        yield Finding("ok", "time of a round", f"about {_about(told[0] / rounds)} ({first.strategy.name})")
        more = f", of {len(told)} of {len(times)} runs" if len(told) < len(times) else ""
        yield Finding("ok", "time in all", f"at least {_about(sum(told))}{more}", ROUGH)


def _about(seconds: float) -> str:
    return "a second" if seconds < 1 else duration(seconds)


def _disk(plan: Plan, facts: Facts, watch: StepTimer) -> float:
    """Bytes of a run: checkpoints of a net and a teacher, a pool for each task and those in checkpoints."""
    weights = sum(t.numel() * t.element_size() for t in watch.net(plan, facts).weights().values())
    options = vars(plan.strategy.strategy).values()
    samples = sum(option.samples for option in options if isinstance(option, Synthesizer))
    return (KEPT + 1) * 2 * weights + samples * math.prod(facts.shape) * (facts.tasks + KEPT) + EXTRA


def _processes(plan: Plan) -> int:
    """Workers that train at once."""
    if plan.federation.backend != "ray":
        return 0
    fit = max(1, usable_cores() // plan.resources.threads)
    return min(fit, plan.federation.clients_per_round, plan.resources.workers or fit)


def _seconds(plan: Plan, facts: Facts, watch: StepTimer) -> float | None:
    """Estimate the seconds of a run: steps of clients, shared among workers, and evaluations on the test images."""
    step = watch.step(plan, facts)
    if step is None:
        return None
    federation, at_once = plan.federation, max(1, _processes(plan))
    if plan.resources.torch_device().type == "cuda":
        at_once = 1  # they share it
    total = 0.0
    if is_student(plan.strategy.name):
        steps: Any = plan.strategy.strategy.options()["steps"]
        return float((federation.rounds * steps + facts.test / federation.batch_size * FORWARD) * step)
    for task in range(1, min(facts.tasks, federation.stop_after or facts.tasks) + 1):
        held = facts.train / facts.tasks * (task if plan.strategy.strategy.data == "seen" else 1) / federation.clients
        training = federation.clients_per_round * federation.local_batches(held) * step / at_once
        looks = 1 + (federation.rounds // federation.evaluate_every if federation.evaluate_every else 0)
        tested = facts.test * task / facts.tasks
        total += federation.rounds * training + looks * tested * FORWARD * step / federation.batch_size
    return total
