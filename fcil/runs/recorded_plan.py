"""The plan of a run that was begun, read back from its folder."""

from __future__ import annotations

from collections.abc import Mapping

from fcil.config import Where, choice, load_yaml
from fcil.errors import StoreError
from fcil.federation.plan import Plan, from_yaml
from fcil.methods.files import read_source
from fcil.store import RunFolder
from fcil.store.folder import check_familiar


def load_plan(folder: RunFolder, *, trust: bool = False) -> Plan:
    """Return the plan of a run that was begun, from its config.yaml, strategy.py and parts.

    Raises:
        StoreError: there is no run, or running its strategy.py or a part would run untrusted code.
        ConfigError: its settings are not those of a run.
    """
    if not folder.begun:
        raise StoreError(f"{folder.path}: not a run folder (it has no config.yaml)")
    where = Where(str(folder.config), files=folder.texts_of_parts(trust=trust))
    values, source = load_yaml(folder.config), read_source(folder.strategy, where)
    if not trust and isinstance(values, Mapping) and "strategy" in values:
        name, _ = choice(values["strategy"], where, "strategy")
        if name.endswith(".py"):
            check_familiar(folder.strategy, name, source, "strategy")
    return from_yaml(values, source, where)
