"""Errors that would end a run in its middle and are known before: settings that contradict each other or the data."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterator, Sequence
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray

from fcil.config import Where
from fcil.config.effect import track_of
from fcil.data import task_sizes
from fcil.errors import ConfigError
from fcil.federation.context import RunContext
from fcil.federation.optimisation.checks import check_server
from fcil.federation.plan import Plan
from fcil.federation.protection.aggregation import Mean
from fcil.federation.protection.attacks import LabelFlip
from fcil.federation.protection.malicious import malicious
from fcil.federation.protection.safeguards import check_safeguards
from fcil.federation.runtime import graphs, vectorised
from fcil.federation.synthesis.jobs import synthesis_problem
from fcil.methods.files import built_in_files, read_source
from fcil.methods.loading import strategy_class
from fcil.nets import check_batch, check_inputs, normalises_one
from fcil.nets.pretrained.weights import taken
from fcil.nets.series import ShapeFormerRecipe
from fcil.rng import generator
from fcil.strategy import Strategy, drawn_clients
from fcil.synthesis import Synthesizer, synthesizer_class, synthesizer_names

Counts = NDArray[np.int64]
PAPER_SHARE = 0.04
"""Share of its images that a learner keeps under the protocol of iCaRL: 2,000 of the 50,000 of CIFAR-100."""


def check_foreseen(context: RunContext, *, files: bool = True) -> None:
    """Check that nothing in a plan would end its run in the middle.

    Args:
        files: whether those that the strategy names are looked at.
    Raises:
        ConfigError: something would; names the settings.
    """
    plan, scenario = context.plan, context.scenario
    if unfit := unfit_for(plan):
        raise ConfigError(unfit)
    check_safeguards(plan, [len(task.classes) for task in context.tasks])
    check_server(plan)
    check_inputs(plan.net, scenario.dataset.shape, "net.name")
    _check_pretrained(context)
    check_batch(plan.net, scenario.dataset.shape, plan.federation.batch_size, "federation.batch_size")
    strategy, federation = plan.strategy.strategy, plan.federation
    _check_kind(context)
    if federation.clients_per_call > 1 and (problem := vectorised.obstacle(plan, scenario.dataset.kind)):
        raise ConfigError(f"federation.clients_per_call: {federation.clients_per_call} is not allowed: {problem}")
    if federation.privacy is not None and strategy.reads_metrics:
        raise ConfigError(
            f'federation.privacy: withholds metrics of clients, which strategy "{plan.strategy.name}" reads under '
            "these settings"
        )
    if files:
        strategy.check_files(plan.net, scenario.dataset.shape, [task.num_seen for task in context.tasks])
    _check_exemplars(context)
    _check_answers(context)


def _check_pretrained(context: RunContext) -> None:
    """Check that the net begins from the weights that are asked for, and that somebody reads it."""
    plan = context.plan
    if plan.net.pretrained is None:
        return
    if not plan.strategy.strategy.reads_net:
        raise ConfigError(
            f'net.pretrained: strategy "{plan.strategy.name}" reads no features of the net under these settings; '
            "leave it out"
        )
    context.first_net(text_head=False)


def _check_kind(context: RunContext) -> None:
    """Check that the strategy, and what its synthesizers make, is for samples of the kind that the data set has."""
    dataset, name, strategy = context.scenario.dataset, context.plan.strategy.name, context.plan.strategy.strategy
    has = f"{dataset.name} has {'time series' if dataset.kind == 'series' else dataset.kind}"
    if dataset.kind not in strategy.inputs:
        raise ConfigError(f'strategy: "{name}" learns {" or ".join(sorted(strategy.inputs))} alone, and {has}')
    for key, value in vars(strategy).items():
        if isinstance(value, Synthesizer) and dataset.kind not in value.makes:
            able = [kind for kind in synthesizer_names() if dataset.kind in synthesizer_class(kind).makes]
            raise ConfigError(
                f'strategy.{name}.{key}: "{value.name}" makes {" and ".join(sorted(value.makes))}, and {has}; '
                f"{dataset.kind} are made by {', '.join(able) or 'no synthesizer'}"
            )


def unfit_for(plan: Plan) -> str:
    """Return why the strategy is not fit for `data.scenario`, in a line with those that are; nothing if it is."""
    scenario = "domains" if plan.data.by_domain else "classes"
    if scenario in plan.strategy.strategy.scenarios:
        return ""
    where = Where("strategies")
    kinds = {name: strategy_class(name, None, read_source(p, where), where) for name, p in built_in_files().items()}
    able = ", ".join(sorted(name for name, kind in kinds.items() if scenario in kind.scenarios))
    name, what = plan.strategy.name, "new domains of the same classes" if scenario == "domains" else "new classes"
    return f'data.scenario: strategy "{name}" is not made for tasks of {what} (scenarios); those that fit are {able}'


def _check_exemplars(context: RunContext) -> None:
    """Check that no client wants to keep more images than the federation allows."""
    plan, scenario = context.plan, context.scenario
    most, strategy = plan.federation.exemplars, plan.strategy.strategy
    if not most or "exemplars" not in strategy.needs:  # none at all: another line tells of it
        return
    liars = malicious(plan) if isinstance(plan.federation.attack, LabelFlip) else []  # who have other labels
    for number, held in enumerate(_met(context), start=1):
        for client in (client for client in range(scenario.clients) if client not in liars):
            kept = strategy.keeps(held[client].tolist())
            if kept is not None and kept > most:
                raise ConfigError(
                    f'federation.exemplars: {most} are allowed, and strategy "{plan.strategy.name}" would keep {kept} '
                    f"{scenario.dataset.kind} of client {client} after task {number}; lower what the strategy keeps, "
                    "or allow as many"
                )


def _check_answers(context: RunContext) -> None:
    """Check that a robust rule has enough clients with images in each round, where the seed alone chooses clients."""
    plan, scenario = context.plan, context.scenario
    federation, strategy, kind = plan.federation, plan.strategy.strategy, type(plan.strategy.strategy)
    theirs = kind.local_train is not Strategy.local_train and plan.strategy.path is not None
    if isinstance(federation.aggregation, Mean) or kind.sample is not Strategy.sample or theirs:
        return
    remembers = strategy.data == "seen" or "exemplars" in strategy.needs
    held = scenario.counts.cumsum(axis=0) if remembers else scenario.counts  # (tasks, clients, classes)
    for task in context.tasks:
        holders = held[task.number - 1].sum(axis=1) > 0
        for number in range(1, federation.rounds + 1):
            stream = generator(plan.seed, "sample", task.number, number, "server")
            chosen = drawn_clients(stream, federation.clients, federation.clients_per_round)
            count = int(holders[chosen].sum())
            if count and (problem := federation.aggregation.problem(count)):
                raise ConfigError(
                    f"federation.aggregation: {federation.aggregation.name}: of the {len(chosen)} clients of task "
                    f"{task.number}, round {number}, only {count} hold {scenario.dataset.kind} of it: {problem}"
                )


def _met(context: RunContext) -> Iterator[Counts]:
    """Return the images of each class the clients have met after each task that is played, (clients, classes)."""
    return iter(context.scenario.counts.cumsum(axis=0)[: len(context.tasks)])


def check_fits(context: RunContext) -> None:
    """Load everything a run will need, so that what is missing is said before it starts.

    Raises:
        UserError: the device, data, partition, anchors, or what a synthesizer needs.
    """
    plan = context.plan
    if plan.federation.backend == "ray" and ":" in plan.resources.device:
        raise ConfigError(
            f'resources.device: "{plan.resources.device}" is not allowed on Ray, which hands out GPUs itself; '
            "say cuda, and choose GPUs by CUDA_VISIBLE_DEVICES"
        )
    anchors, strategy = context.anchors, plan.strategy.strategy
    if plan.federation.exemplars == 0 and "exemplars" in strategy.needs:
        raise ConfigError(
            f'federation.exemplars: 0 is not allowed with strategy "{plan.strategy.name}", '
            f"whose clients keep {context.scenario.dataset.kind} of earlier tasks"
        )
    synthesizers = [value for value in vars(strategy).values() if isinstance(value, Synthesizer)]
    if synthesizers:
        net = context.first_net(strategy.inverted)
        problem = synthesis_problem(context, net, range(net.num_classes), anchors, None, ("rehearsal",))
        for synthesizer in synthesizers:
            synthesizer.checked(problem)


# What is no mistake, and yet to be known ----------------------------------------------------------


def remarks(context: RunContext) -> list[str]:
    """Return unusual properties of a run that can be played, a line each."""
    return [
        *_single_images(context),
        *_all_kept(context),
        *_odd_data(context),
        *_shapelets(context),
        *_compilation(context),
        *_clients_alone(context),
    ]


def introduction(context: RunContext) -> list[str]:
    """Return `remarks`, and what was decided for a run by its settings and is not to be seen in them."""
    return [*_pretrained(context), *_test_share(context), *remarks(context)]


def facts(context: RunContext) -> dict[str, Any]:
    """Return the facts of a summary that are known before the run."""
    share, track = replayed_share(context), {"track": track_of(context.plan.to_yaml())}
    return track if share is None else track | {"replayed_share": int(10_000 * share) / 10_000}  # 1 is all of them


def _odd_data(context: RunContext) -> Iterator[str]:
    """Images of which nothing can be learnt, folders that are not read, and tasks that were not to be expected."""
    plan, scenario = context.plan, context.scenario
    place = f"data.root: {plan.data.root}" if plan.data.root else f"data: {plan.data.dataset}"
    behind = plan.data.transparency
    said = "transparency is ignored" if behind == "ignored" else f"what is transparent lies on {behind}"
    for line in context.loaded.oddities:
        ground = f"; {said} (data.transparency)"
        yield f"{place}: {line}{ground * ('colour' in line and scenario.dataset.source is not None)}"
    sizes, tasks = [task.num_new for task in scenario.tasks], plan.data.tasks
    if isinstance(tasks, int) and len(set(sizes)) > 1 and plan.data.remainder == "last":
        even = task_sizes(sum(sizes), tasks=tasks, even=True)
        yield (
            f"data.tasks: {tasks} do not divide {sum(sizes)} classes; the tasks have {_few(sizes)} "
            f"(data.remainder: even makes it {_few(even)})"
        )


def _shapelets(context: RunContext) -> Iterator[str]:
    net = context.plan.net
    if not isinstance(net.recipe, ShapeFormerRecipe):
        return
    settings, alone = net.recipe.settings, context.plan.federation.clients == 1
    if settings.share_shapelets and alone:
        return
    if settings.share_shapelets:
        yield (
            "net.shapelets.share_shapelets: true sends shapelets to the server and to every client; they are raw "
            "pieces of the clients' series"
        )
    else:
        yield (
            "net.shapelets: they stay with the clients that find them, so the server evaluates the generic branch "
            f"alone; in training the class branch is silent for a share of {settings.silent:g} of the series (silent)"
        )


def _compilation(context: RunContext) -> Iterator[str]:
    plan = context.plan
    on_gpu = plan.resources.device != "cpu" and torch.cuda.is_available()
    why = graphs.obstacle(plan.strategy.strategy, plan.optimizer.name, on_gpu)
    if plan.resources.compile is not None and why:
        yield f"resources.compile: {plan.resources.compile} is not used, steps run as ever: {why}"


def _clients_alone(context: RunContext) -> Iterator[str]:
    plan, clients = context.plan, range(context.scenario.clients)
    if plan.federation.clients_per_call == 1:
        return
    turns = [
        Counter(
            filter(None, (vectorised.step_sizes(plan, context.scenario, task.number, client) for client in clients))
        )
        for task in context.tasks
    ]
    alone = sum(number == 1 for sizes in turns for number in sizes.values())
    if alone:
        yield (
            f"federation.clients_per_call: {alone} of {sum(map(Counter.total, turns))} clients of all tasks have "
            "batches of sizes that no other has, and are trained alone"
        )


def _pretrained(context: RunContext) -> Iterator[str]:
    settings = context.plan.net
    if settings.pretrained is not None:
        net, shape = context.first_net(text_head=False, begun=False), context.scenario.dataset.shape
        frozen = "; the backbone is frozen, and the head alone is trained and sent" if settings.frozen else ""
        yield f"{taken(settings, net, shape).sentence(settings.pretrained.file)}{frozen}"


def _test_share(context: RunContext) -> Iterator[str]:
    share, data = context.plan.data.test_share, context.scenario.dataset
    if share is not None:
        yield (
            f"data.test_share: {share.share:g} of every class, {len(data.test):,} images in all, are taken for tests "
            f"(seed {share.seed}); {len(data.train):,} are left for training"
        )


def _few(sizes: Sequence[int]) -> str:
    return ", ".join(map(str, sizes[:12])) + ", ..." * (len(sizes) > 12)


def _single_images(context: RunContext) -> Iterator[str]:
    plan, scenario = context.plan, context.scenario
    counts = scenario.counts[: len(context.tasks)]
    held = (counts.cumsum(axis=0) if plan.strategy.strategy.data == "seen" else counts).sum(axis=2)  # (tasks, clients)
    single = int((held == 1).any(axis=0).sum())
    if single and not normalises_one(plan.net, scenario.dataset.shape):
        least = " x ".join("1" for _ in scenario.dataset.shape[1:])
        yield (
            f"batch norm: {single} of {scenario.clients} clients hold a single {scenario.dataset.one} of a task; where "
            f"a map of {plan.net.name} is {least}, a batch of one takes the running statistics (net.norm=group has "
            "none)"
        )


def _all_kept(context: RunContext) -> Iterator[str]:
    name, scenario = context.plan.strategy.name, context.scenario
    if replayed_share(context) == 1:
        held = scenario.counts[: len(context.tasks)].sum(axis=(0, 2))  # (clients,)
        few = max(len(scenario.order), round(PAPER_SHARE * float(held.mean())))
        yield (
            f'exemplars: clients of "{name}" replay every {scenario.dataset.one} of earlier tasks, as "joint" does: '
            f"what it may keep is more than they hold, {int(held.max()):,} {scenario.dataset.kind} at most; the share "
            f"of iCaRL's paper would be about {few:,} a client"
        )


def replayed_share(context: RunContext) -> float | None:
    """Return the share of the images met in earlier tasks that clients train on again in the last one.

    None where there is one task, the strategy keeps no images or cannot tell.
    """
    strategy, met = context.plan.strategy.strategy, list(_met(context))[:-1]
    if not met or "exemplars" not in strategy.needs:
        return None
    replayed = [strategy.replays(counts.tolist()) for counts in met[-1]]
    total = int(met[-1].sum())
    return sum(replayed) / total if total and None not in replayed else None  # type: ignore[arg-type]
