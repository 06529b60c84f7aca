"""Checkpoints that were damaged, or come from strangers: an older one, a clear line, and never a traceback."""

from __future__ import annotations

import json
import random
import shutil
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from small_runs import (
    REMEMBERS,
    Stop,
    StopAfter,
    checkpoint,
    play,
    without_seconds,
    write_experiment,
    write_strategy,
)

from fcil.errors import StoreError
from fcil.federation.checkpoint import Checkpoints, Position
from fcil.federation.client import client_app
from fcil.federation.context import Datasets
from fcil.federation.grids import InProcessGrid
from fcil.federation.observer import Observer
from fcil.federation.persistence.manifest import (
    FORMAT,
    difference,
    digest_of,
    last_parts,
    manifest_path,
    manifest_paths,
    place_of,
)
from fcil.federation.plan import Plan
from fcil.io.blobs import Parts
from fcil.runs.failure_report import describe
from fcil.runs.plans import read
from fcil.store import RunFolder, final_weights


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
    context, settings = Datasets().open(plan), plan.decisive | {"seed": plan.seed}
    grid = InProcessGrid(client_app(), clients)
    return Checkpoints(folder, settings).restore(context.first_server(), grid, context.tasks)


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
    assert difference({"a": [[1, 2], [3]]}, {"a": [[1, 2], [4]]}) == "a[1][0] was 3 there and is 4 here"
    assert difference({"a": [[1, 2]]}, {"a": [[1]]}) == "a[0] was [1, 2] there and is [1] here"
    assert len(difference({"a": [0] * 10**5}, {"a": []})) < 300


def test_parts_that_no_checkpoint_names_are_deleted(copied: tuple[Plan, Path]) -> None:
    """So a run keeps two checkpoints' worth of state, however long it is."""
    named = {p for path in copied[1].glob("task*.json") for p in json.loads(path.read_text())["parts"].values()}
    assert {p.stem for p in (copied[1] / "parts").iterdir()} == named


# After damage -------------------------------------------------------------------------------------


def stop(source: Path, after: int, observer: Observer | None = None) -> Path:
    """Play on until a round, which is not saved any more; the run's folder."""
    with pytest.raises(Stop):
        play(source, out=source.parent, observer=observer or StopAfter(after))
    return next(source.parent.glob("tiny/*/seed0"))


def places(run: Path) -> list[tuple[int, int]]:
    return [place_of(path) for path in manifest_paths(run / "checkpoints")]


@pytest.mark.parametrize("damaged", [1, 2])
def test_after_a_damaged_checkpoint_new_ones_are_kept(tmp_path: Path, damaged: int) -> None:
    """A second kill costs the rounds since the last new checkpoint, and not again all those since the damage."""
    federation = {"rounds": 6, "stop_after": 1, "max_batches": 1}
    source = write_experiment(tmp_path, federation=federation)
    run = stop(source, 6)
    assert places(run) == [(1, 4), (1, 5)]
    for path in manifest_paths(run / "checkpoints")[-damaged:]:
        path.write_text("{")
    stop(source, 2)
    assert places(run) == ([(1, 4), (1, 5)] if damaged == 1 else [(1, 1)])
    (resumed,) = play(source, out=tmp_path)
    log = (run / "log.txt").read_text()
    done = [line.split(", ")[2].split()[0] for line in log.splitlines() if "rounds done before" in line]
    assert done == (["0", "4", "5"] if damaged == 1 else ["0", "0", "1"])
    way = "going on from the checkpoint before it" if damaged == 1 else "the run begins anew"
    assert log.count(f"damaged; {way}") == damaged
    (tmp_path / "whole").mkdir()
    (whole,) = play(write_experiment(tmp_path / "whole", federation=federation), out=tmp_path / "whole")
    assert without_seconds(resumed) == without_seconds(whole)
    assert checkpoint(resumed)[1] == checkpoint(whole)[1]


def test_a_damaged_list_is_set_aside(copied: tuple[Plan, Path]) -> None:
    plan, folder = copied
    path = newest(folder)
    path.write_text("{")
    assert len(restore(plan, folder)[1]) == 1
    assert path.with_name(f"{path.name}.damaged").read_text() == "{"
    assert restore(plan, folder)[1] == []


def test_a_damaged_part_is_written_anew(tmp_path: Path) -> None:
    """What a part holds is made once more when the run passes the same point; a file of its name is not it."""
    source = write_experiment(tmp_path, federation={"rounds": 4, "stop_after": 1, "max_batches": 1})
    run = stop(source, 4)
    parts = run / "checkpoints" / "parts"
    net = last_parts(run / "checkpoints")["net"]
    (parts / f"{net}.safetensors").write_bytes(b"x")
    stop(source, 2)
    assert last_parts(run / "checkpoints")["net"] == net
    assert Parts(parts).get(net)
    (resumed,) = play(source, out=tmp_path)
    assert "2 rounds done before" in resumed.folder.log.read_text()
    assert "3 rounds done before" in resumed.folder.log.read_text()


def test_a_part_that_is_damaged_is_no_reason_not_to_write_it(tmp_path: Path) -> None:
    name = Parts(tmp_path).put({"a": 1})
    (path,) = tmp_path.iterdir()
    path.write_bytes(path.read_bytes()[:-1])
    after = Parts(tmp_path)
    assert after.put({"a": 1}) == name
    assert after.get(name) == {"a": 1}


# Order --------------------------------------------------------------------------------------------


def test_checkpoints_are_in_order_of_tasks_and_rounds_and_not_of_their_names(tmp_path: Path) -> None:
    order = [(1, 99_999), (1, 100_000), (9, 1), (10, 0), (999, 3), (1000, 0), (1000, 1), (10_000, 1)]
    for task, round in order[::-1]:
        manifest_path(tmp_path, task, round).write_text("{}")
    for name in ("task1-roundx.json", "task-round.json", "task0001-round1.json.damaged", "task7.json"):
        (tmp_path / name).write_text("{}")
    assert [place_of(path) for path in manifest_paths(tmp_path)] == order


def renamed(run: Path, *places: tuple[int, int]) -> None:
    """Give the checkpoints of a run, in their order, the names of others."""
    for path, place in zip(manifest_paths(run / "checkpoints")[::-1], places[::-1], strict=True):
        about = json.loads(path.read_text())
        del about["digest"]
        about["position"] |= {"task": place[0], "round": place[1]}
        path.unlink()
        text = json.dumps({**about, "digest": digest_of(about)})
        manifest_path(run / "checkpoints", *place).write_text(text)


def test_the_net_of_task_1000_is_newer_than_that_of_task_999(tmp_path: Path) -> None:
    run = stop(write_experiment(tmp_path), 4)
    last = last_parts(run / "checkpoints")
    renamed(run, (999, 2), (1000, 1))
    assert last_parts(run / "checkpoints") == last
    (plan,) = read(tmp_path / "tiny.yaml")[0].plans()
    assert describe(RunFolder(run), plan, ValueError())["checkpoint"] == "task1000-round00001.json"


def test_of_a_finished_run_no_other_net_is_taken_than_its_last(tmp_path: Path) -> None:
    (run,) = play(write_experiment(tmp_path), out=tmp_path)
    assert final_weights(run.path)
    manifest_paths(run.path / "checkpoints")[-1].unlink()
    with pytest.raises(StoreError, match="that of round 2 of task 2, not that of the end of the run"):
        final_weights(run.path)
    path = manifest_paths(run.path / "checkpoints")[-1]
    path.write_text(path.read_text().replace('"round": 2', '"round": 3'))
    with pytest.raises(StoreError, match="no net can be read there"):
        final_weights(run.path)
