"""Test samples for a net of the past: those of its own run, or others of the same classes."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import replace
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray

from fcil.config import Where, parse
from fcil.config.matrix import cells
from fcil.data import Dataset, DataSettings, load_dataset
from fcil.data.scenario import Shard
from fcil.data.settings import HELD
from fcil.errors import ConfigError, DataError, nearest
from fcil.federation.settings import Resources
from fcil.runs.preflight import named
from fcil.store.nets import NetFacts

READ = ("data", "resources")
"""Sections of a run's settings that an evaluation reads."""
OF_TRAINING = ("validation", "per_class", "test_share")
"""Keys of `data` that are about the run's own samples."""


def settings_for(
    config: Mapping[str, Any], overrides: Sequence[str], where: Where
) -> tuple[DataSettings, Resources, bool]:
    """Return data and resources of an evaluation, and whether the data are others than the run's.

    Raises:
        ConfigError: an override is not of use here, or wrong.
    """
    changes = [text.partition("=")[0] for text in overrides]
    for key in changes:
        section = key.partition(".")[0]
        if section not in READ:
            raise ConfigError(
                f'override "{key}": not read by an evaluation; expected a key of data or resources.'
                f"{nearest(section, READ)}"
            )
    own = config.get("data")
    if not isinstance(own, Mapping):
        raise where.at("data").error(f"{own!r} is not allowed; expected a mapping")
    kept = {key: value for key, value in own.items() if key not in (*HELD, "split")}
    if "data.dataset" in changes or "data" in changes:
        kept, where = {}, Where(where.source, where.path)  # another data set: its file is read from the disk
    elif "data.root" in changes:
        kept = {key: value for key, value in kept.items() if key not in OF_TRAINING}
    values = {"data": {**kept, "tasks": 1}, "resources": dict(config.get("resources") or {})}
    (cell,) = cells(values, overrides)
    if isinstance(cell["data"], dict):
        cell["data"].setdefault("tasks", 1)
    other = any(key.partition(".")[0] == "data" for key in changes)
    data = parse(DataSettings, cell["data"], where.at("data"))
    return data, parse(Resources, cell["resources"], where.at("resources")), other


def tested_samples(
    facts: NetFacts, data: DataSettings, device: torch.device, where: Where, *, other: bool
) -> tuple[Shard, int]:
    """Return the test samples of the classes that a net knows, prepared as it was trained, class after class.

    Args:
        other: the data are not those of the net's run.
    Returns:
        The samples, and the number of those of later classes, which are left out.
    Raises:
        DataError: files are missing or damaged.
        ConfigError: the samples have another shape, or other classes.
    """
    with named(where.at("data")):
        dataset = _loaded(data, tests_alone=other)
        _check_shape(dataset, facts)
        numbers = _outputs(dataset, facts, data.root or data.dataset)
        dataset = _as_trained(dataset, facts).to(device)
        labels = numbers[dataset.test.y.numpy()]
        fresh = np.ones(len(labels), dtype=np.bool_)
        if dataset.copies is not None:
            fresh[dataset.copies.numpy()] = False
        known = np.flatnonzero((labels >= 0) & fresh)
        if not len(known):
            raise ConfigError(f"{data.root or data.dataset}: no test sample is of a class that the net has learnt")
    rows = known[np.argsort(labels[known], kind="stable")]
    tasks = np.repeat(np.arange(1, len(facts.sizes) + 1), facts.sizes)[labels[rows]]
    if facts.domains:
        tasks = _task_of_domains(dataset, facts)[rows]
    indices, order, task = (torch.from_numpy(v) for v in (rows, labels[rows], tasks))
    place = dataset.test.device
    shard = Shard(
        images=dataset.test,
        indices=indices.to(place),
        labels=order.to(place),
        tasks=task.to(place),
        mean=facts.mean,
        std=facts.std,
        augment=None,
        device=device,
    )
    return shard, int(fresh.sum()) - len(known)


def _loaded(data: DataSettings, *, tests_alone: bool) -> Dataset:
    try:
        return load_dataset(data, tests_alone=tests_alone)
    except DataError as error:
        if tests_alone and data.test_copies == "drop":
            raise DataError(f"{error}; data.test_copies: drop reads training samples too, keep does not") from None
        raise


def _task_of_domains(dataset: Dataset, facts: NetFacts) -> NDArray[np.int64]:
    """Return the task of each test sample by its domain (N,); 0 where it is not known, or the net never met it."""
    if dataset.domains is None:
        return np.zeros(len(dataset.test), dtype=np.int64)
    known = {name: number for number, name in enumerate(facts.domains, start=1)}
    return np.array([known.get(name, 0) for name in dataset.domains.names], dtype=np.int64)[dataset.domains.test]


def _check_shape(dataset: Dataset, facts: NetFacts) -> None:
    if tuple(dataset.shape) != facts.shape:
        there, wanted = (" x ".join(map(str, shape)) for shape in (dataset.shape, facts.shape))
        resize = len(facts.shape) == 3 and dataset.shape[0] == facts.shape[0] and facts.shape[1] == facts.shape[2]
        hint = f"; data.resize={facts.shape[1]} brings images to that size" if resize else ""
        raise ConfigError(f"samples are {there}, the net was trained on {wanted}{hint}")


def _outputs(dataset: Dataset, facts: NetFacts, place: str) -> NDArray[np.int64]:
    """Return the output of the net for each class number of a data set; -1 for a class that it has not learnt."""
    output = dict(zip(facts.order, range(len(facts.order)), strict=True))
    if dataset.class_names == facts.dataset:
        return np.array([output.get(number, -1) for number in range(len(facts.dataset))], dtype=np.int64)
    there, known = set(dataset.class_names), set(facts.dataset)
    for names, of, problem in ((known - there, there, "the net knows and the data lack"),
                               (there - known, known, "the data have and the net does not know")):  # fmt: skip
        if names:
            some = sorted(names)
            more = f" and {len(some) - 1} more" if len(some) > 1 else ""
            near = nearest(some[0], of)
            said = f'classes of {place} are not those of the net: {problem} "{some[0]}"{more}'
            raise ConfigError(f"{said}.{near}" if near else said)
    if len(there) < len(dataset.class_names) or len(known) < len(facts.dataset):
        raise ConfigError(
            "classes are not told apart: two of them have the same name, and another order than the net's"
        )
    numbers = {name: number for number, name in enumerate(facts.dataset)}
    return np.array([output.get(numbers[name], -1) for name in dataset.class_names], dtype=np.int64)


def _as_trained(dataset: Dataset, facts: NetFacts) -> Dataset:
    """Return the series standardised by what the net's own training series were."""
    if not dataset.pending:
        return dataset
    return replace(dataset, pending=False) if facts.scale is None else dataset.scaled(facts.scale)
