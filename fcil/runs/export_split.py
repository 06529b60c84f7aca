"""`fcil show X.yaml --split FILE`: the split of an experiment as a file, for other experiments and other tools."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

from fcil.config.kinds import kind_of
from fcil.errors import ConfigError
from fcil.federation.context import RunContext
from fcil.store.folder import write_split

DECIDING = ("dataset", "fingerprint", "tasks", "indices")
"""Keys in which two splits differ."""


def export(found: Sequence[RunContext], path: Path) -> str:
    """Write the split that all runs of an experiment share.

    Args:
        found: the runs, as `fcil.runs.plans.survey` gives them.
    Returns:
        A line that says what was written.
    Raises:
        ConfigError: they share none.
        StoreError: the file cannot be written.
    """
    first, *others = found
    if first.scenario.domains:
        raise ConfigError("--split: a split file holds tasks of new classes, and data.scenario is domains")
    record = first.scenario.partition_record()
    for other in others:
        theirs = other.scenario.partition_record()
        if any(theirs[key] != record[key] for key in DECIDING):
            raise ConfigError(
                f"--split: {other.plan.folder} has another split than {first.plan.folder}; choose one run, for example "
                f"by 'seeds=[{first.plan.seed}]'"
            )
    write_split(path, record)
    examples = sum(len(held) for clients in record["indices"] for held in clients)
    clients, dataset = record["clients"], record["dataset"]
    return f"{path}: {examples:,} {kind_of(dataset)} of {dataset}, {len(record['tasks'])} tasks, {clients} clients"
