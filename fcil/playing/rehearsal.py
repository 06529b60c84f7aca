"""What is asked of plans before the first of them is played, so that nothing is written for a mistake; and what is
told of each before it is.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from contextlib import contextmanager

from rich.console import Console

from fcil.anchors import warnings
from fcil.config import Where
from fcil.data import Scenario
from fcil.data.decode import Progress
from fcil.errors import ConfigError, DataError
from fcil.federation.engine import rehearse
from fcil.federation.plan import Plan, anchors_of, dataset_of, scenario_of
from fcil.federation.safeguards import check_safeguards
from fcil.playing.loggers import check_logger
from fcil.progress import loading_bar
from fcil.tables import partition_table, settings_tree


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
            with named(where.at("logger")):
                check_logger(plan.logger)
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


def introduce(plan: Plan, scenario: Scenario, console: Console) -> None:
    """What is about to be run: the settings, who holds how much of what, and what is odd about the anchors."""
    names = scenario.tasks[-1].names
    console.print(settings_tree(plan.to_yaml()), partition_table(scenario.counts, names))
    anchors, radius = anchors_of(plan), getattr(plan.strategy.strategy, "radius", None)
    if anchors is not None and radius is not None:
        for line in warnings(anchors, names, radius):
            console.print(f"anchors: {line}", markup=False)
