"""The plan of a run that was begun, read back from its folder."""

from __future__ import annotations

import os
from collections.abc import Mapping
from pathlib import Path

from fcil.config import Where, choice, load_yaml
from fcil.errors import StoreError
from fcil.federation.plan import Plan, from_yaml
from fcil.methods.files import read_source
from fcil.store import RunFolder


def load_plan(folder: RunFolder, *, trust: bool = False) -> Plan:
    """Return the plan of a run that was begun, from its config.yaml and strategy.py.

    Raises:
        StoreError: there is no run, or running its strategy.py would run untrusted code.
        ConfigError: its settings are not those of a run.
    """
    if not folder.begun:
        raise StoreError(f"{folder.path}: not a run folder (it has no config.yaml)")
    where = Where(str(folder.config))
    values, source = load_yaml(folder.config), read_source(folder.strategy, where)
    if not trust and isinstance(values, Mapping) and "strategy" in values:
        _check_familiar(folder, values["strategy"], source, where)
    return from_yaml(values, source, where)


def _check_familiar(folder: RunFolder, strategy: object, source: str, where: Where) -> None:
    """Check that no code would be run which is not also in the file that the settings name.

    A run folder may come from anywhere, and its strategy.py would be executed.
    """
    name, _ = choice(strategy, where, "strategy")
    if name.endswith(".py") and not (os.path.isfile(name) and read_source(Path(name), where) == source):
        raise StoreError(
            f"{folder.strategy}: not what is in {name} now; read it, and say --trust if its code may be run"
        )
