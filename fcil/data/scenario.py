"""A data set cut into tasks and partitioned among clients."""

from __future__ import annotations

import copy
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, replace
from itertools import accumulate
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from fcil.data.augment import Augment, normalise, parted
from fcil.data.clients import in_order
from fcil.data.datasets import Dataset
from fcil.data.images import Images
from fcil.data.partition import partition
from fcil.data.settings import DataSettings
from fcil.data.splits import fingerprint
from fcil.data.tasks import TaskSplit, class_order, legacy_generator
from fcil.errors import ConfigError, printable
from fcil.rng import numpy_generator, sent
from fcil.types import Batch, Task

Indices = NDArray[np.int64]


@dataclass(frozen=True)
class Shard:
    """Some samples of a split, with labels that count classes in order of appearance."""

    images: Images
    indices: Tensor
    """Positions in the images, (N,) int64."""
    labels: Tensor
    """New labels, (N,) int64: the class with label i was the i-th to appear."""
    tasks: Tensor
    """Task that introduced the class of each sample, or is its domain, (N,) int64, counted from 1."""
    mean: tuple[float, ...]
    std: tuple[float, ...]
    augment: Augment | None
    device: torch.device
    """Device of the batches."""

    def __len__(self) -> int:
        return len(self.indices)

    def x(self, positions: Tensor) -> Tensor:
        """Return the samples at `positions` (n,) of this shard, normalised but not augmented, on its device."""
        stored = self.images.take(self.indices[positions.to(self.indices.device)])
        return normalise(stored.to(self.device), self.mean, self.std)

    def select(self, positions: Tensor) -> Shard:
        """Return some of the samples of this shard, by position (n,), in that order."""
        here = positions.to(self.indices.device)
        return replace(self, indices=self.indices[here], labels=self.labels[here], tasks=self.tasks[here])

    def joined(self, other: Shard) -> Shard:
        """Return the samples of two shards of one split, those of `other` last."""
        return replace(
            self,
            indices=torch.cat([self.indices, other.indices]),
            labels=torch.cat([self.labels, other.labels]),
            tasks=torch.cat([self.tasks, other.tasks]),
        )

    def batches(
        self,
        batch_size: int,
        generator: torch.Generator | None = None,
        *,
        augment: bool = True,
        shuffle: bool = True,
        drop_single: bool = True,
        ahead: int = 1,
    ) -> Iterator[Batch]:
        """Yield one pass over the shard; the last batch may be short.

        Differs: a last batch of one sample joins the batch before it (unless `drop_single=False`, or
        `batch_size` is 1), because BatchNorm in training mode fails on one sample, or learns from no variance.
        A shard of one sample is still one batch of one.

        Args:
            generator: for the order and the augmentation; needed by either, unused without both.
            ahead: batches that are prepared at once where images are in memory; the same batches, for less. The
                generator is drawn from for all of them before the first is yielded.

        Raises:
            ValueError: a generator is needed and missing.
        """
        change = self.augment if augment else None
        if generator is None and (shuffle or change is not None):
            raise ValueError("batches that are shuffled or augmented need a generator")
        place = self.indices.device
        if shuffle and generator is not None:
            order = sent(torch.randperm(len(self), generator=generator), place)
        else:
            order = torch.arange(len(self), device=place)
        sizes = batch_sizes(len(self), batch_size, drop_single)
        step = ahead if self.images.in_memory else 1
        groups = [sizes[first : first + step] for first in range(0, len(sizes), step)]
        parts = torch.split(order, [sum(group) for group in groups])
        wanted = (self.indices[part] for part in parts)
        stream = self.images.stream(wanted, generator if change is not None else None)
        for group, part, stored in zip(groups, parts, stream, strict=True):
            x = sent(stored, self.device)
            if change is not None and generator is not None:
                x = change(x, generator, group)
            x, labels = normalise(x, self.mean, self.std), sent(self.labels[part], self.device)
            yield from map(Batch, parted(x, group), torch.split(labels, group))


def batch_sizes(count: int, batch_size: int, drop_single: bool = True) -> list[int]:
    """Return the number of samples of each batch of a pass over `count`; `drop_single` as in `Shard.batches`."""
    whole, rest = divmod(count, batch_size)
    sizes = [batch_size] * whole + [rest] * (rest > 0)
    if drop_single and whole and rest == 1 and batch_size > 1:
        sizes[-2:] = [batch_size + 1]
    return sizes


class Scenario:
    """The tasks of a run, the samples of every client in every task, and the test samples.

    The partition of a task depends only on the seed and on that task: more clients or rounds
    elsewhere do not change it. Tasks count from 1, clients from 0.

    Args:
        device: of the batches, and of samples that are kept in memory.
        held: by task and client, the training samples of each; None: by the settings.

    Raises:
        ConfigError: the tasks or the partition need more classes or samples than there are.
    """

    def __init__(
        self,
        dataset: Dataset,
        settings: DataSettings,
        clients: int,
        seed: int,
        device: torch.device | str = "cpu",
        held: Sequence[Sequence[Indices]] | None = None,
    ) -> None:
        self.settings = settings
        self.domains: tuple[int, ...] = ()
        """The domain of each task by number, where tasks are domains."""
        self.clients = clients
        self.seed = seed
        self.device = torch.device(device)
        given = settings.split.read() if settings.split is not None else None
        if given is None:
            self.split = settings.task_split(dataset.class_names, seed, dataset.folders)
            if settings.by_domain:
                self.split = self._of_domains(dataset, seed)
        else:
            self.split = given.checked(dataset, clients)
        self.dataset = dataset.standardised(self.split.classes[0]).to(device)
        self.order = self.split.order
        self._new_label = np.full(dataset.num_classes, -1, dtype=np.int64)
        self._new_label[list(self.order)] = np.arange(len(self.order))
        self._task_of_label = np.repeat(np.arange(1, len(self.split) + 1), self.split.sizes)
        self.tasks = self._make_tasks()
        self._client_of = self._named_clients(dataset.clients)
        if held is None:
            held = given.held if given else [self._share_out(task) for task in self.tasks]
        self.held = tuple(map(tuple, held))
        self._tested = [self._tests(task) for task in self.tasks]

    def _of_domains(self, dataset: Dataset, seed: int) -> TaskSplit:
        """Return tasks of which the first has all classes, and set `domains`.

        Raises:
            ConfigError: a domain lacks a class.
        """
        assert dataset.domains is not None, "settings that ask for domains, and data without"
        classes = self.split.classes[0]
        dataset.domains.check(dataset.train.y.numpy(), dataset.test.y.numpy(), classes, dataset.class_names)
        count = len(dataset.domains.names)
        self.domains = tuple(class_order(count, self.settings.order, seed).tolist())
        return TaskSplit((classes, *[()] * (count - 1)))

    def replaced(self, dataset: Dataset | None = None, held: Sequence[Sequence[Indices]] | None = None) -> Scenario:
        """Return the same scenario with another data set of the same labels, or another partition of the samples."""
        held = self.held if held is None else held
        return Scenario(dataset or self.dataset, self.settings, self.clients, self.seed, self.device, held)

    def standing_for(self, dataset: Dataset) -> Scenario:
        """Return the same scenario, tasks and partition included, with other values of the same samples."""
        other = copy.copy(self)
        other.dataset = dataset.to(self.device)
        return other

    def _named_clients(self, names: Sequence[str]) -> Indices:
        """Return the client of each training sample (N,), where the data name it.

        Raises:
            ConfigError: another number of clients is named than there are.
        """
        known = in_order(names)
        if names and len(known) != self.clients:
            raise ConfigError(
                f"partition.natural names {len(known)} clients ({printable(', '.join(known[:3]))}, ...), and "
                f"federation.clients is {self.clients}; say federation.clients={len(known)}"
            )
        number = {name: place for place, name in enumerate(known)}
        return np.array([number[name] for name in names], dtype=np.int64)

    def _make_tasks(self) -> tuple[Task, ...]:
        names = tuple(self.dataset.class_names[c] for c in self.order)
        ends = accumulate(self.split.sizes)
        return tuple(
            Task(number, len(self.split), end - size, size, names[:end], self._domain_name(number))
            for number, (size, end) in enumerate(zip(self.split.sizes, ends, strict=True), start=1)
        )

    def _domain_name(self, task: int) -> str:
        """Return the domain of a task; nothing where tasks are classes."""
        domains = self.dataset.domains
        return domains.names[self.domains[task - 1]] if self.domains and domains is not None else ""

    def _domain_of(self, images: Images) -> Indices:
        """Return the domain of each image of a split of the data, (N,)."""
        domains = self.dataset.domains
        assert domains is not None
        return domains.train if images is self.dataset.train else domains.test

    def _members(self, images: Images, task: Task) -> Indices:
        """Return the samples of a task, class after class as the reference lists them."""
        original = images.y.numpy()
        classes = self.split.classes[0 if self.domains else task.number - 1]
        found = np.concatenate([np.flatnonzero(original == c) for c in classes])
        return found[self._domain_of(images)[found] == self.domains[task.number - 1]] if self.domains else found

    def _tests(self, task: Task) -> Indices:
        """Return the test samples of a task, without those that are training samples where these are to be dropped.

        Raises:
            ConfigError: none is left of a class.
        """
        dataset = self.dataset
        members = self._members(dataset.test, task)
        if dataset.copies is None:
            return members
        left = members[~np.isin(members, dataset.copies.numpy())]
        original = dataset.test.y.numpy()
        for label in sorted(set(original[members].tolist()) - set(original[left].tolist()))[:1]:
            within = f' of domain "{task.domain}"' if task.domain else ""
            raise ConfigError(
                f'test_copies: drop leaves no test sample of class "{dataset.class_names[label]}"{within}; '
                "all equal a training sample"
            )
        return left

    def tasks_of(self, images: Images, indices: Indices) -> Indices:
        """Return the task of each of some samples of `dataset.train` or `dataset.test` (n,), counted from 1."""
        if self.domains:
            found = np.argsort(self.domains)[self._domain_of(images)[indices]] + 1
        else:
            found = self._task_of_label[self._new_label[images.y.numpy()[indices]]]
        return np.asarray(found, dtype=np.int64)

    def _share_out(self, task: Task) -> list[Indices]:
        members = self._members(self.dataset.train, task)
        labels = self._new_label[self.dataset.train.y.numpy()[members]]
        settings = self.settings.partition
        if settings.natural is not None:
            return [members[self._client_of[members] == client] for client in range(self.clients)]
        rng: np.random.Generator | np.random.RandomState
        if settings.draw == "reference":
            rng = legacy_generator(self.seed)
        elif settings.draw == "once":
            rng = numpy_generator(self.seed, "partition")
        else:
            rng = numpy_generator(self.seed, "partition", task.number)
        try:
            return [members[part] for part in partition(labels, self.clients, settings, rng)]
        except ConfigError as error:
            raise ConfigError(f"task {task.number}: {error}") from None

    def shard(self, task: int, client: int, seen: bool = False) -> Shard:
        """Return a client's samples of a task; with `seen`, of all tasks up to it (for the joint upper bound)."""
        assert 1 <= task <= len(self.tasks), task
        assert 0 <= client < self.clients, client
        first = 1 if seen else task
        held = [self.held[number - 1][client] for number in range(first, task + 1)]
        own = self.dataset.augment
        augment = own if self.settings.augment and own != Augment() else None
        return self._make_shard(self.dataset.train, np.concatenate(held), augment)

    def test(self, task: int) -> Shard:
        """Return the test samples of the classes of one task."""
        assert 1 <= task <= len(self.tasks), task
        return self._make_shard(self.dataset.test, self._tested[task - 1], None)

    def test_seen(self, task: int) -> Shard:
        """Return the test samples of all classes seen up to a task; `tasks` tells them apart."""
        return self._make_shard(self.dataset.test, np.concatenate(self._tested[:task]), None)

    def _make_shard(self, images: Images, indices: Indices, augment: Augment | None) -> Shard:
        labels = self._new_label[images.y.numpy()[indices]]

        def tensor(values: Indices) -> Tensor:
            return torch.from_numpy(values).to(images.device)

        return Shard(
            images=images,
            indices=tensor(indices),
            labels=tensor(labels),
            tasks=tensor(self.tasks_of(images, indices)),
            mean=self.dataset.mean,
            std=self.dataset.std,
            augment=augment,
            device=self.device,
        )

    @property
    def counts(self) -> Indices:
        """Return training samples by task, client and class in order of appearance: (tasks, clients, classes)."""
        original = self.dataset.train.y.numpy()
        return np.array(
            [
                [np.bincount(self._new_label[original[held]], minlength=len(self.order)) for held in clients]
                for clients in self.held
            ]
        )

    def table(self) -> tuple[Indices, tuple[str, ...], tuple[str, ...]]:
        """Return `counts`, the names of the classes, and the domain of each task where tasks are domains."""
        domains = tuple(task.domain for task in self.tasks) if self.domains else ()
        return self.counts, self.tasks[-1].names, domains

    def held_up_to(self, task: int) -> Indices:
        """Return training samples of tasks 1 to `task`, by client and class seen: (clients, classes seen)."""
        seen, original = self.tasks[task - 1].num_seen, self.dataset.train.y.numpy()
        own = [np.concatenate([held[client] for held in self.held[:task]]) for client in range(self.clients)]
        return np.array([np.bincount(self._new_label[original[rows]], minlength=seen) for rows in own])

    def partition_record(self) -> dict[str, Any]:
        """Return everything needed to report or repeat the partition (`data.split` reads it), as numbers and strings.

        `indices[task][client]` are positions in the training split, without the held-out validation images.
        """
        share = self.settings.test_share
        taken: list[tuple[str, Any]] = (
            [] if share is None else [("test_share", {"share": share.share, "seed": share.seed})]
        )
        if self.settings.partition.natural is not None:
            taken.append(("client_names", in_order(self.dataset.clients)))
        if self.dataset.copies is not None:
            taken.append(("not_tested", self.dataset.copies.tolist()))
        if self.domains:
            taken.append(("domains", [task.domain for task in self.tasks]))
        return {
            "dataset": self.dataset.name,
            "fingerprint": fingerprint(self.dataset),
            "seed": self.seed,
            "clients": self.clients,
            "order": list(self.order),
            "class_names": [self.dataset.class_names[c] for c in self.order],
            "tasks": [[self.order[label] for label in task.classes] for task in self.tasks],
            "counts": self.counts.tolist(),
            "indices": [[held.tolist() for held in clients] for clients in self.held],
            **dict(taken),
        }
