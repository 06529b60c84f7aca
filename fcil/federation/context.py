"""Context of a run: its data shared out, label-text embeddings, the initial net, and each client's data."""

from __future__ import annotations

from dataclasses import dataclass, replace
from functools import cached_property, lru_cache
from typing import Any

import torch
from torch import Tensor

from fcil.anchors import load_anchors
from fcil.data import Dataset, DataSettings, Scenario, load_dataset
from fcil.data.files.decode import Progress
from fcil.data.oddities import oddities
from fcil.data.splits import content_digest
from fcil.federation.plan import Plan, needs_anchors
from fcil.io.state import digest
from fcil.methods.files import source_digest
from fcil.nets import Net, NetSettings, begun_net, build_net
from fcil.roles import Server, ServerServices
from fcil.types import Task, Tensors


@dataclass(frozen=True, eq=False)
class Loaded:
    """A data set as it was decoded, on the CPU, and what takes a look at every image to know."""

    dataset: Dataset

    @cached_property
    def digest(self) -> str:
        """Return the digest of images, labels and class names."""
        return content_digest(self.dataset)

    @cached_property
    def oddities(self) -> tuple[str, ...]:
        """Return unusual properties of the data, a line each."""
        return tuple(oddities(self.dataset))


@dataclass(frozen=True, eq=False)
class RunContext:
    """A run that was opened: its plan, and what server and clients of one process read of its data."""

    plan: Plan
    loaded: Loaded
    scenario: Scenario

    @cached_property
    def device(self) -> torch.device:
        """Return the device of the server and of the clients of this process."""
        return self.plan.resources.torch_device()

    @cached_property
    def tasks(self) -> tuple[Task, ...]:
        """The tasks that are played; the last of them is the last there is, for strategies too."""
        tasks = self.scenario.tasks[: self.plan.federation.stop_after]
        return tuple(replace(task, total=len(tasks)) for task in tasks)

    @cached_property
    def anchors(self) -> Tensor | None:
        """Label-text embeddings (classes, D) on the CPU, in order of appearance, if the method reads any."""
        if not needs_anchors(self.plan):
            return None
        return load_anchors(self.plan.anchors, self.scenario.tasks[-1].names)

    def inputs(self) -> dict[str, str | None]:
        """Digests of what a run reads beside its settings: images, label-text embeddings, its strategy's file."""
        anchors = self.anchors
        return {
            "images": self.loaded.digest,
            "anchors": None if anchors is None else digest({"anchors": anchors}, {}),
            "strategy.py": source_digest(self.plan.strategy.source),
        }

    def first_net(self, settings: NetSettings | None = None, *, text_head: bool = True, begun: bool = True) -> Net:
        """The net a run begins with, for the classes of the first task, on the CPU.

        Args:
            settings: of another net than the plan's.
            text_head: whether it has a label-text head where the strategy asks for anchors; a synthesizer that
                does reads them alone.
            begun: whether it has the weights of `net.pretrained`, where there are any; else they are drawn.
        Raises:
            ConfigError: the data are none for it, or the file of those weights does not fit.
        """
        headed = text_head and "anchors" in self.plan.strategy.strategy.needs
        anchors = self.anchors if headed else None
        make = begun_net if begun else build_net
        return make(
            settings or self.plan.net,
            shape=self.scenario.dataset.shape,
            num_classes=self.scenario.tasks[0].num_seen,
            text_width=None if anchors is None else anchors.shape[1],
            key=(self.plan.seed, "net"),
        )

    def first_server(self, services: ServerServices | None = None) -> Server:
        """The server before the first round of a run, on its device; without services it belongs to no run."""
        anchors = None if self.anchors is None else self.anchors.to(self.device)
        plan, net = self.plan, self.first_net().to(self.device)
        return Server(net, self.tasks[0], 0, plan.seed, plan.federation.clients, anchors, services or ServerServices())

    def trained_net(self, weights: Tensors) -> Net:
        """The net as its training left it, in evaluation mode, on the CPU, and without a label-text head.

        Raises:
            ValueError: the weights are of another net.
        """
        net = self.first_net(text_head=False, begun=False)
        net.load({name: w for name, w in weights.items() if not name.startswith("text_head.")})
        return net.eval()

    def prepared(self) -> RunContext:
        """Return the same run with what its strategy puts in the place of the samples.

        Raises:
            ConfigError: a file of features does not fit the data.
        """
        dataset = self.plan.strategy.strategy.stand_in(self.scenario.dataset)
        return self if dataset is self.scenario.dataset else replace(self, scenario=self.scenario.standing_for(dataset))

    def for_clients(self, plan: Plan) -> RunContext:
        """Return the same run for clients in this process, who read a plan of their own and the same data."""
        return replace(self, plan=plan)


class Datasets:
    """The data set that a process has decoded, for runs that it plays one after another.

    It holds one data set, whatever the tasks and partitions of the runs, and shares it out once for runs that
    follow each other with the same clients, seed and device.

    Args:
        look: data is only looked at: nothing is downloaded, written or decoded that need not be; no training.
    """

    def __init__(self, *, look: bool = False) -> None:
        self._look = look
        self._key: tuple[Any, ...] | None = None
        self._loaded: Loaded | None = None
        self._shared_out = lru_cache(maxsize=2)(_shared_out)

    def open(self, plan: Plan, progress: Progress | None = None) -> RunContext:
        """The context of a run, with what its strategy puts in the place of the samples.

        Args:
            progress: is told of downloading and decoding.
        Raises:
            DataError: files are missing or damaged.
            ConfigError: the tasks or the partition ask for more than there is, or there is no such device.
        """
        return self.shared_out(plan, progress).prepared()

    def shared_out(self, plan: Plan, progress: Progress | None = None) -> RunContext:
        """The context of a run with the samples as they are; as `open`."""
        device, loaded = plan.resources.torch_device(), self._load(plan.data, progress)
        scenario = self._shared_out(loaded, plan.data, plan.federation.clients, plan.seed, device)
        return RunContext(plan, loaded, scenario)

    def _load(self, data: DataSettings, progress: Progress | None) -> Loaded:
        prepared = data.partition.natural, data.test_share, data.transparency, data.orientation, data.augment
        of_series = data.missing, data.longer, data.normalise, data.test_copies
        chosen = data.dataset, data.own, data.root, data.resize, data.validation, data.per_class
        key = (*chosen, *prepared, *of_series, data.scenario, data.domains)
        if self._loaded is None or key != self._key:
            self.forget()
            self._key, self._loaded = key, Loaded(load_dataset(data, progress=progress, look=self._look))
        return self._loaded

    def forget(self) -> None:
        """Release the data."""
        self._loaded = None
        self._shared_out.cache_clear()


def _shared_out(loaded: Loaded, data: DataSettings, clients: int, seed: int, device: torch.device) -> Scenario:
    return Scenario(loaded.dataset, data, clients, seed, device)
