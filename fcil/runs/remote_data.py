"""Facts on data that is not here, and would be downloaded."""

from __future__ import annotations

from typing import NamedTuple

from fcil.anchors import EMBEDDED, is_cached
from fcil.console.tables import size
from fcil.data.remote.origins import ORIGINS
from fcil.federation.plan import Plan, needs_anchors
from fcil.runs.step_timer import Facts


class Size(NamedTuple):
    """Samples of a data set whose files have not been opened."""

    train: int
    test: int


SIZES = {
    "mnist": Size(60_000, 10_000),
    "fashion_mnist": Size(60_000, 10_000),
    "cifar10": Size(50_000, 10_000),
    "cifar100": Size(50_000, 10_000),
    "tiny_imagenet": Size(100_000, 10_000),
    "imagenet": Size(1_281_167, 50_000),
    "imagenet100": Size(130_000, 5_000),
}


def reckoned(plan: Plan) -> Facts | None:
    """Return the catalogue's facts on a set that was not opened."""
    info, known = plan.data.info, SIZES.get(plan.data.dataset)
    if known is None or info.num_classes is None or info.shape is None or plan.data.split is not None:
        return None
    train = int(known.train * (1 - plan.data.validation))
    if plan.data.per_class is not None:
        train = min(train, plan.data.per_class * info.num_classes)
    side = plan.data.resize or info.shape[-1]
    sizes = plan.data.task_sizes(info.num_classes, plan.seed)
    share = sum(sizes) / info.num_classes if plan.data.classes is not None else 1
    domains = 1 if plan.data.domains is None else len(plan.data.domains.labels)
    images = int(train * share) * domains, int(known.test * share) * domains
    return Facts(*images, len(sizes), sum(sizes), (info.shape[0], side, side))


def task_sizes(plan: Plan) -> tuple[int, ...]:
    """Return the classes of each task that is played, of a set that was not opened."""
    info = plan.data.info
    if plan.data.split is not None:
        sizes = tuple(len(classes) for classes in plan.data.split.read().tasks)
    else:
        sizes = plan.data.task_sizes(info.num_classes or 0, plan.seed)
    return sizes[: plan.federation.stop_after]


def data_download(plan: Plan) -> str:
    """A line about data that a run of a plan would fetch."""
    return f"not here; a run downloads {size(ORIGINS[plan.data.dataset].bytes)}"


def encoder_download(plan: Plan) -> str:
    """A line about the text encoder that a run of a plan would fetch; empty if it fetches none."""
    encoder = plan.anchors.encoder
    if not needs_anchors(plan) or encoder == EMBEDDED or plan.anchors.file is not None or is_cached(encoder):
        return ""
    return f"{encoder} is not here; a run downloads it"
