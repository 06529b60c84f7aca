"""Checks of plans before the first of them is played, so that nothing is written for a mistake; and the introduction
of each run.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager

from rich.console import Console

from fcil.anchors import EMBEDDED, warnings
from fcil.config import Where
from fcil.console.progress import loading_bar
from fcil.console.tables import partition_table, settings_tree
from fcil.data.files.decode import Progress
from fcil.errors import ConfigError, DataError
from fcil.federation.context import Datasets, RunContext
from fcil.federation.plan import Plan, needs_anchors
from fcil.federation.preconditions import check_fits, check_foreseen, introduction
from fcil.methods.introspection import marked
from fcil.runs.loggers import check_logger
from fcil.types import Radius


@contextmanager
def named(where: Where) -> Iterator[None]:
    """Let an error of the block begin with the file, and the key in it, that it is about."""
    try:
        yield
    except ConfigError as error:
        raise ConfigError(*(where.error(line) for line in error.lines)) from error
    except DataError as error:
        raise DataError(where.error(str(error))) from error


def preflight(
    plans: Sequence[Plan],
    datasets: Datasets,
    console: Console,
    where: Where,
    begun: Callable[[Plan], bool] = lambda plan: False,
) -> None:
    """Load data, share it out, find anchors and what else runs will need, before a file is written.

    Args:
        begun: whether a run goes on from a checkpoint, which holds what it once read from files of its settings.
    """
    seen = set()
    with loading_bar(console) as progress:
        for plan in plans:
            method, device = str(plan.strategy.fingerprint()), plan.resources.device
            key = (plan.data, plan.federation, plan.seed, plan.anchors, plan.net, method, device)
            with named(where.at("logger")):
                check_logger(plan.logger)
            if key not in seen:
                seen.add(key)
                context = share_out(plan, datasets, where, progress)
                with named(where):
                    check_foreseen(context, files=not begun(plan))
                _check_method(context, where)


def check_offline(context: RunContext, where: Where) -> None:
    """Check as much of the same as can be checked of a run where nothing may be downloaded.

    Raises:
        ConfigError: a run of it would not begin, or end in its middle.
    """
    with named(where):
        check_foreseen(context)
    plan = context.plan
    if not needs_anchors(plan) or plan.anchors.encoder == EMBEDDED or plan.anchors.file:
        _check_method(context, where)


def _check_method(context: RunContext, where: Where) -> None:
    """Load label-text embeddings, and ask the strategy's synthesizers whether they can be run."""
    with named(where.at("anchors")):
        _ = context.anchors
    with named(where.at("strategy").at(context.plan.strategy.name)):
        check_fits(context)


def share_out(plan: Plan, datasets: Datasets, where: Where, progress: Progress | None = None) -> RunContext:
    """The data of a plan, shared out; an error names the file."""
    with named(where):
        plan.resources.torch_device()
    with named(where.at("data")):
        context = datasets.shared_out(plan, progress)
    with named(where.at("strategy").at(plan.strategy.name)):
        return context.prepared()


def introduce(context: RunContext, console: Console) -> None:
    """Print what is about to be run: the settings, the data of each client, and unusual properties of the anchors."""
    plan, scenario = context.plan, context.scenario
    names = scenario.tasks[-1].names
    console.print(settings_tree(plan.to_yaml()), partition_table(*scenario.table()))
    for line in introduction(context):
        console.print(line, markup=False, soft_wrap=True)
    strategy, anchors = plan.strategy.strategy, context.anchors
    radius = next((getattr(strategy, name) for name in marked(type(strategy), Radius)), None)
    if anchors is not None and radius is not None:
        folders = [scenario.dataset.folders[c] for c in scenario.order] if scenario.dataset.folders else None
        for line in warnings(anchors, names, radius, folders):
            console.print(f"anchors: {line}", markup=False, soft_wrap=True)
