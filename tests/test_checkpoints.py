"""Checkpoints that were damaged, or come from strangers: an older one, a clear line, and never a traceback."""

from __future__ import annotations

import json
import random
import shutil
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from small_runs import REMEMBERS, Stop, StopAfter, play, write_experiment, write_strategy

from fcil.errors import StoreError
from fcil.experiment import read
from fcil.federation.checkpoint import Checkpoints, Position
from fcil.federation.client import app
from fcil.federation.grids import InProcessGrid
from fcil.federation.manifest import FORMAT, difference, digest_of
from fcil.federation.plan import Plan, first_net, tasks_of
from fcil.roles import Server


@pytest.fixture(scope="module")
def stopped(tmp_path_factory: pytest.TempPathFactory) -> tuple[Plan, Path]:
    """A run with state everywhere that stopped in its fourth round, so that it has two checkpoints."""
    folder = tmp_path_factory.mktemp("stopped")
    source = write_experiment(folder, strategy=str(write_strategy(folder, REMEMBERS)))
    with pytest.raises(Stop):
        play(source, out=folder, observer=StopAfter(4))
    (found,) = folder.glob("tiny/*/seed0/checkpoints")
    return read(source)[0].plans()[0], found


def restore(plan: Plan, folder: Path) -> tuple[Position, list[str]]:
    clients = plan.federation.clients
    server = Server(first_net(plan, None), tasks_of(plan)[0], 0, plan.seed, clients, None, lambda *_: {})
    settings = plan.decisive | {"seed": plan.seed}
    return Checkpoints(folder, settings).restore(server, InProcessGrid(app, clients), tasks_of(plan))


def newest(folder: Path) -> Path:
    return max(folder.glob("task*.json"))


def forged(folder: Path, **changes: Any) -> None:
    """Rewrite the newest list as somebody would who knows how its digest is made."""
    about = json.loads(newest(folder).read_text())
    del about["digest"]
    about |= changes
    newest(folder).write_text(json.dumps({**about, "digest": digest_of(about)}))


@pytest.fixture
def copied(stopped: tuple[Plan, Path], tmp_path: Path) -> tuple[Plan, Path]:
    shutil.copytree(stopped[1], tmp_path / "checkpoints")
    return stopped[0], tmp_path / "checkpoints"


def test_a_sound_checkpoint_is_found(copied: tuple[Plan, Path]) -> None:
    position, damaged = restore(*copied)
    assert (position.task, position.round, damaged) == (2, 1, [])
    assert len([*copied[1].glob("task*.json")]) == 2


def damages() -> Iterator[tuple[str, int]]:
    yield from (("list", seed) for seed in range(40))
    yield from (("part", seed) for seed in range(40))


def test_damage_of_any_kind_leads_to_the_checkpoint_before_and_is_told(
    copied: tuple[Plan, Path], tmp_path: Path
) -> None:
    plan, whole = copied
    older = json.loads(min(whole.glob("task*.json")).read_text())["parts"].values()
    newer = json.loads(newest(whole).read_text())["parts"].values()
    own = sorted(set(newer) - set(older))  # parts of the newest checkpoint alone
    assert own
    for kind, seed in damages():
        dice, folder = random.Random(seed), tmp_path / f"{kind}{seed}"
        shutil.copytree(whole, folder)
        path = newest(folder) if kind == "list" else folder / "parts" / f"{dice.choice(own)}.safetensors"
        content = bytearray(path.read_bytes())
        match dice.choice(["flip", "cut", "grow", "empty", "gone", "noise"]):
            case "flip":
                content[dice.randrange(len(content))] ^= 1 << dice.randrange(8)
            case "cut":
                del content[dice.randrange(len(content)) :]
            case "grow":
                content += dice.randbytes(9)
            case "empty":
                content.clear()
            case "noise":
                content[:] = dice.randbytes(len(content))
            case "gone":
                if kind == "part":
                    path.unlink()
        if path.exists():
            path.write_bytes(content)
        position, damaged = restore(plan, folder)
        if damaged:
            assert (position.task, position.round) == (2, 0)
            assert len(damaged) == 1
            assert "\n" not in damaged[0]
        else:  # nothing was changed, or a byte that means nothing, such as a space
            assert (position.task, position.round) == (2, 1)
        shutil.rmtree(folder)


def test_when_every_checkpoint_is_damaged_the_run_begins_anew_and_says_so(copied: tuple[Plan, Path]) -> None:
    plan, folder = copied
    for path in folder.glob("task*.json"):
        path.write_text("{")
    position, damaged = restore(plan, folder)
    assert position == Position()
    assert len(damaged) == 2


@pytest.mark.parametrize(
    "changes",
    [
        {"position": {"task": 2}, "parts": {}},
        {"position": {"unknown": 1}},
        {"position": None},
        {"parts": None},
        {"parts": {"net": "../../../etc/passwd"}},
        {"parts": {"net": "0" * 32}},
        {"parts": {"net": 3}},
        {"parts": ["net"]},
    ],
)
def test_a_list_that_was_forged_is_damaged_at_worst(copied: tuple[Plan, Path], changes: dict[str, Any]) -> None:
    plan, folder = copied
    forged(folder, **changes)
    position, damaged = restore(plan, folder)
    assert (position.task, position.round) == (2, 0)
    assert len(damaged) == 1


@pytest.mark.parametrize(
    ("changes", "said"),
    [
        ({"format": FORMAT - 1}, f"format {FORMAT - 1}, and this is format {FORMAT}; finish the run with the fcil"),
        ({"version": "0.0.7"}, "version 0.0.7, and this is version"),
        ({"settings": {}}, "made under other settings: data was null there and is"),
    ],
)
def test_a_checkpoint_of_another_make_is_refused(copied: tuple[Plan, Path], changes: dict[str, Any], said: str) -> None:
    plan, folder = copied
    forged(folder, **changes)
    with pytest.raises(StoreError) as caught:
        restore(plan, folder)
    assert said in str(caught.value)
    assert "\n" not in str(caught.value)


def test_a_checkpoint_of_another_seed_is_refused(copied: tuple[Plan, Path]) -> None:
    plan, folder = copied
    settings = json.loads(newest(folder).read_text())["settings"]
    forged(folder, settings={**settings, "seed": 5})
    with pytest.raises(StoreError, match="seed was 5 there and is 0 here"):
        restore(plan, folder)


def test_the_first_difference_is_named_by_its_key_path() -> None:
    assert difference({"a": {"b": 1, "c": 2}}, {"a": {"b": 1, "c": 3}}) == "a.c was 2 there and is 3 here"
    assert difference({"a": 1}, {"a": 1, "b": [2]}) == "b was null there and is [2] here"


def test_parts_that_no_checkpoint_names_are_deleted(copied: tuple[Plan, Path]) -> None:
    """So a run keeps two checkpoints' worth of state, however long it is."""
    named = {p for path in copied[1].glob("task*.json") for p in json.loads(path.read_text())["parts"].values()}
    assert {p.stem for p in (copied[1] / "parts").iterdir()} == named
