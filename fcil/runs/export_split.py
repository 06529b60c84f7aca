"""`fcil show X.yaml --split FILE`: the split of an experiment as a file, for other experiments and other tools."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

from fcil.data import Scenario
from fcil.errors import ConfigError
from fcil.federation.plan import Plan
from fcil.store.folder import write_split

DECIDING = ("dataset", "fingerprint", "tasks", "indices")
"""What makes two splits two."""


def export(found: Sequence[tuple[Plan, Scenario]], path: Path) -> str:
    """Write the split that all runs of an experiment share.

    Args:
        found: the runs, as `fcil.experiment.survey` gives them.
    Returns:
        A line that says what was written.
    Raises:
        ConfigError: they share none.
        StoreError: the file cannot be written.
    """
    (first, scenario), *others = found
    record = scenario.partition_record()
    for plan, other in others:
        theirs = other.partition_record()
        if any(theirs[key] != record[key] for key in DECIDING):
            raise ConfigError(
                f"--split: {plan.folder} has another split than {first.folder}; choose one run, for example by "
                f"'seeds=[{first.seed}]'"
            )
    write_split(path, record)
    images = sum(len(held) for clients in record["indices"] for held in clients)
    return f"{path}: {images:,} images of {record['dataset']}, {len(record['tasks'])} tasks, {scenario.clients} clients"
