"""Start of a run folder, and continuation of a run in it: what was written is compared, not rewritten.

A run goes on from a checkpoint only as the same run. Settings, data and partition have to be those that were written;
threads and the kind of device, which are in no hash, those it has had; or it is refused in one line. What cannot be
restored at will (another release of torch, another processor) is told, and kept in `env.json` and `summary.json`.
"""

from __future__ import annotations

import json
import re
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from itertools import zip_longest
from pathlib import Path
from typing import Any, NamedTuple

from fcil.anchors.encoders import EMBEDDED
from fcil.config import Where, load_yaml
from fcil.config.effect import effective, without
from fcil.config.kinds import kind_of
from fcil.errors import StoreError
from fcil.federation.context import Datasets, RunContext
from fcil.federation.persistence.manifest import check_manifests, difference, has_saved
from fcil.federation.plan import Plan
from fcil.io.atomic import writing
from fcil.io.lock import claimed
from fcil.methods.files import read_source, source_digest
from fcil.methods.introspection import declared
from fcil.store import RunFolder, files
from fcil.store.declared import KEY
from fcil.store.environment import changes, environment, environments, facts

UNDO = "undo the change, or begin anew under another --out"
SETTINGS = {"threads": "resources.threads", "device": "resources.device"}
"""Settings that a user can set as they were, by the name of what they set."""


@dataclass(frozen=True)
class Intended:
    """Files that a run would write of itself if it began now."""

    plan: Plan
    config: dict[str, Any]
    partition: dict[str, Any]
    environment: dict[str, Any]

    @classmethod
    def of(cls, context: RunContext) -> Intended:
        plan = context.plan
        now = environment([str(context.device)], plan.resources.threads, context.inputs())
        now[KEY] = declared(type(plan.strategy.strategy))
        return cls(plan, _plain(plan.to_yaml()), _plain(context.scenario.partition_record()), now)


class Lines(NamedTuple):
    """Messages about a run that goes on."""

    said: list[str]
    logged: list[str]


def begin(folder: RunFolder, context: RunContext) -> Lines:
    """Write what is known before training, or compare it with what is there if the run goes on from a checkpoint.

    Returns:
        Lines about what is not as it was; without harm, or it would be an error.
    Raises:
        StoreError: the run cannot go on as the same run; nothing was written.
    """
    now = Intended.of(context)
    if not has_saved(folder.checkpoints):
        with writing(folder.env):
            folder.env.unlink(missing_ok=True)  # what has left nothing to go on from does not count
        _write(folder, now, ("config.yaml", "strategy.py", "parts", "partition.json"))
        return Lines([], [])
    lines, names = compared(folder, now), _missing(folder, now.plan)
    if folder.begun and _config(folder) != now.config:
        names.append(folder.config.name)
    _write(folder, now, names)
    return lines


def check_begun(plans: Sequence[Plan], datasets: Datasets, out: Path) -> list[str]:
    """Check that runs which were begun, and which no other process plays, can go on as the same runs.

    Returns:
        What is to be said of them.
    Raises:
        StoreError: one cannot.
    """
    said = []
    for plan in plans:
        folder = RunFolder(out / plan.folder)
        if not folder.finished and has_saved(folder.checkpoints):
            with claimed(folder.path) as ours:
                said += compared(folder, Intended.of(datasets.open(plan))).said if ours else []
    return said


def compared(folder: RunFolder, now: Intended) -> Lines:
    """Compare what is written in a run folder with what the run would write now.

    Raises:
        StoreError: a difference that would make another run of it; names the file, the key and both values.
    """
    check_manifests(folder.checkpoints, _plain(now.plan.decisive | {"seed": now.plan.seed}))
    said = [f"{folder.path / name}: was missing; written anew" for name in _missing(folder, now.plan)]
    config = _config(folder) if folder.begun else {}
    recorded = folder.read_env() if files.is_there(folder.env) else None
    said += _check_strategy(folder, now.plan, recorded)
    for part in now.plan.parts:
        if files.is_there(copy := folder.part(part.name)):
            _check_text(copy, part.source)
    _check_config(folder, config, now)
    before = environments(recorded)[-1] if recorded is not None else _told_by(config)
    fixed = _fixed_inputs(now.plan)
    _check_environment(folder, before, now.environment, fixed, kind_of(now.plan.data.dataset))
    if files.is_there(folder.partition):
        there = _plain(files.read_json(folder.partition))
        _check_equal(folder.partition, there, {key: now.partition.get(key) for key in there})
    changed = {k: v for k, v in changes(before, now.environment).items() if k not in (*SETTINGS, *fixed)}
    if changed:
        listed = ", ".join(f"{name} {_brief(new)} (was {_brief(old)})" for name, (old, new) in changed.items())
        said.append(f"{folder.path}: goes on under {listed}; env.json and summary.json tell that its numbers are mixed")
    free = _changed(_leaves(config), _leaves(now.config)) if config else []
    return Lines(said, [f"setting {line}" for line in free])


def finished_line(path: Path, plan: Plan) -> str:
    """Return the line on a finished run that is asked for, with settings that differ and are not in its hash."""
    folder = RunFolder(path)
    try:
        recorded = files.read_json(folder.env) if files.is_there(folder.env) else {}
    except StoreError:
        recorded = {}
    device = plan.resources.device if plan.resources.device != "auto" else str(plan.resources.torch_device())
    asked = {"threads": plan.resources.threads, "device": device.partition(":")[0]}
    words = []
    for name, wanted in asked.items():
        had = dict.fromkeys(facts(one)[name] for one in environments(recorded) if name in facts(one))
        if had and list(had) != [wanted]:
            words.append(f"{SETTINGS[name]} {' and '.join(map(str, had))}, not {wanted}")
    otherwise = f" (made with {'; '.join(words)})" if words else ""
    return f"{path} is finished; nothing to do{otherwise}"


# One file each ------------------------------------------------------------------------------------


def _check_strategy(folder: RunFolder, plan: Plan, recorded: Mapping[str, Any] | None) -> list[str]:
    """Check that the copy of the strategy's file is unchanged.

    A built-in one may be another in this fcil, where the copy is what it was; that is told, like another torch.
    """
    if not files.is_there(folder.strategy):
        return []
    there, here = read_source(folder.strategy, Where(str(folder.strategy))), plan.strategy.source
    known = facts(recorded or {}).get("strategy.py")
    if there == here or (plan.strategy.path is None and known == source_digest(there)):
        return []
    if plan.strategy.path is None and known is None:
        number = _first_line(there, here)[0]
        return [f"{folder.strategy}: {plan.strategy.name} is another in this fcil, from line {number} on"]
    _check_text(folder.strategy, here)
    return []


def _check_text(copy: Path, here: str) -> None:
    """Check that the copy of a file is what the file is."""
    there = read_source(copy, Where(str(copy)))
    if there != here:
        number, old, new = _first_line(there, here)
        raise StoreError(f"{copy}: line {number} was {_quoted(old)} there and is {_quoted(new)} here; {UNDO}")


def _first_line(there: str, here: str) -> tuple[int, str, str]:
    """The number of the first line in which two texts differ, and both lines."""
    both = zip_longest(there.split("\n"), here.split("\n"), fillvalue="")
    return next((n, old.strip(), new.strip()) for n, (old, new) in enumerate(both, start=1) if old != new)


def _check_config(folder: RunFolder, there: Mapping[str, Any], now: Intended) -> None:
    """Check that every decisive setting is as written; a setting that an earlier fcil did not write is a default."""
    old, new = (_decisive(config, now.plan) for config in (there, now.config))
    _check_equal(folder.config, old, _restricted(new, old))


def _fixed_inputs(plan: Plan) -> tuple[str, ...]:
    """Inputs that can be had again as they were. An encoder rounds differently on another processor."""
    encoded = plan.anchors.file is None and plan.anchors.encoder != EMBEDDED
    return ("images",) if encoded else ("images", "anchors")


def _check_environment(
    folder: RunFolder, before: Mapping[str, Any], now: Mapping[str, Any], fixed: Sequence[str], kind: str
) -> None:
    changed = changes(before, now)
    for name, setting in SETTINGS.items():
        if name in changed:
            old, new = changed[name]
            card = facts(before).get("card") if name == "device" else None
            raise StoreError(
                f"{folder.path}: was begun with {setting} {old}{f' ({card})' if card else ''} and would go on with "
                f"{new}, which rounds differently; say {setting}={old}, or begin anew under another --out"
            )
    for name in (name for name in fixed if name in changed):
        old, new = changed[name]
        what = kind if name == "images" else name
        raise StoreError(
            f"{folder.env}: inputs.{name} was {_brief(old)} there and is {_brief(new)} here: the {what} are not those "
            f"that the run was begun with; {UNDO}"
        )


def _check_equal(path: Path, there: Any, here: Any) -> None:
    if there != here:
        raise StoreError(f"{path}: {difference(there, here)}; {UNDO}")


# Settings -----------------------------------------------------------------------------------------


def _config(folder: RunFolder) -> dict[str, Any]:
    config = load_yaml(folder.config)
    if not isinstance(config, dict):
        raise StoreError(f"{folder.config}: expected a mapping, found {type(config).__name__}")
    return _plain(config)  # type: ignore[no-any-return]


def _told_by(config: Mapping[str, Any]) -> dict[str, Any]:
    """Return as much of an environment as the settings tell, where its own file is lost."""
    resources = config.get("resources")
    return {"threads": resources.get("threads")} if isinstance(resources, Mapping) else {}


def _decisive(config: Mapping[str, Any], plan: Plan) -> dict[str, Any]:
    """The settings that can change a result, out of the values of a configuration: as `Plan.decisive` has them."""
    strategy = plan.strategy.strategy
    idle = strategy.options().keys() - strategy.decisive().keys()
    return without(effective(config), {f"strategy.{plan.strategy.name}.{key}" for key in idle})


def _restricted(values: Any, to: Any) -> Any:
    """The same without keys that `to` does not have."""
    if not isinstance(values, Mapping) or not isinstance(to, Mapping):
        return values
    return {key: _restricted(values[key], to[key]) for key in to if key in values}


def _leaves(values: Any, path: str = "") -> dict[str, Any]:
    if not isinstance(values, Mapping) or not values:
        return {path: values}
    found: dict[str, Any] = {}
    for key, value in values.items():
        found |= _leaves(value, f"{path}.{key}" if path else key)
    return found


def _changed(there: Mapping[str, Any], here: Mapping[str, Any]) -> list[str]:
    return [f"{k} was {_quoted(v)}, is {_quoted(here[k])}" for k, v in there.items() if k in here and here[k] != v]


# Writing ------------------------------------------------------------------------------------------


def _missing(folder: RunFolder, plan: Plan) -> list[str]:
    paths = folder.config, folder.strategy, folder.partition, folder.env
    lost = any(not files.is_there(folder.part(part.name)) for part in plan.parts)
    return [*(path.name for path in paths if not files.is_there(path)), *([folder.parts.name] if lost else [])]


def _write(folder: RunFolder, now: Intended, names: Iterable[str]) -> None:
    """Write some of the files, and the environment beside those of before."""
    if "config.yaml" in names:
        folder.write_config(now.plan.to_yaml())
    if "strategy.py" in names:
        folder.write_strategy(now.plan.strategy.source)
    if "parts" in names:
        folder.write_parts(now.plan.parts)
    if "partition.json" in names:
        folder.write_partition(now.partition)
    folder.add_env(now.environment)


def _plain(values: Any) -> Any:
    """Convert values to what JSON has: what YAML wrote and what is in memory become alike."""
    return json.loads(json.dumps(values))


def _brief(value: Any) -> str:
    """A digest by its beginning, anything else as it is."""
    text = str(value)
    return text[:12] if re.fullmatch("[0-9a-f]{16,}", text) else text


def _quoted(value: Any) -> str:
    text = json.dumps(value)
    return text if len(text) <= 100 else f"{text[:100]}..."
