"""Clients taken out of finished runs: the classifier is that of a run which never had their samples."""

from __future__ import annotations

import hashlib
import json
import shutil
from pathlib import Path
from typing import Any

import pytest
import torch
import yaml
from command_line import Command, assert_refused
from small_runs import Stop, StopAfter, play, write_experiment, write_strategy

from fcil.errors import ConfigError, StoreError, TrainingError
from fcil.evaluation import unlearn
from fcil.io.blobs import read_tensors
from fcil.store import Run
from fcil.store.nets import kept_net

NAMES = ("zero", "one", "two", "three", "four", "five")
SMALL = {"analytic": {"width": 40}}
LIES = '''"""Says that it forgets, and does not."""

from strategies.analytic import Analytic


class Lies(Analytic):
    def forget(self, server, sent):
        list(sent)
'''
FAILS = '''"""Client 1 has nothing to say at the end of task 2, as it fails."""

from strategies.analytic import Analytic


class Fails(Analytic):
    def after_local_task(self, client):
        if client.index == 1 and client.task.number == 2:
            raise RuntimeError("lost")
        return super().after_local_task(client)
'''


def played(folder: Path, strategy: Any, split: Path | None = None, **federation: Any) -> Run:
    """Three tasks of two digits, and of each task every client has a single class, or what a file says."""
    folder.mkdir(parents=True, exist_ok=True)
    federation = {"rounds": 1, "stop_after": 3, "clients": 3, **federation}
    source = write_experiment(folder, strategy=strategy, data={"partition": {"classes": 1}}, federation=federation)
    if split is not None:
        settings = yaml.safe_load(source.read_text())
        source.write_text(yaml.safe_dump({**settings, "data": {"dataset": "digits", "split": str(split)}}))
    return play(source, out=folder)[0]


def split_without(run: Run, path: Path, client: int, tasks: tuple[int, ...]) -> Path:
    """A partition like that of a run, in which a client has no samples of these tasks."""
    record = json.loads(run.folder.partition.read_text())
    for task in tasks:
        record["indices"][task - 1][client] = []
        record["counts"][task - 1][client] = [0] * len(record["counts"][task - 1][client])
    path.write_text(json.dumps(record))
    return path


def only_holder(run: Run) -> tuple[int, list[str]]:
    """A client, and the classes that it alone holds."""
    counts, names = run.partition()
    held = counts[:3].sum(0)[:, :6] > 0  # (clients, classes)
    for client in range(len(held)):
        if alone := [names[c] for c in range(6) if held[client, c] and held[:, c].sum() == 1]:
            return client, alone
    raise AssertionError("every class has several holders")


def assert_same_classifier(folder: Path, fresh: Run) -> None:
    """What is kept in both is equal to 1e-9 of its size."""
    ours, theirs = kept_net(folder).shared, kept_net(fresh.path).shared
    assert ours.keys() == theirs.keys()
    for name, tensor in theirs.items():
        if isinstance(tensor, torch.Tensor):
            assert torch.linalg.norm(ours[name] - tensor) <= 1e-9 * torch.linalg.norm(tensor), name
    memo, fresh_memo = (read_tensors(path)[0] for path in (folder / "net_memo.safetensors", _memo_of(fresh)))
    for name in ("moments/gram", "moments/cross"):
        assert (
            torch.linalg.norm(memo[f"{name}"] - fresh_memo[f"memo/{name}"]) <= 1e-9 * fresh_memo[f"memo/{name}"].norm()
        )


def _memo_of(run: Run) -> Path:
    from fcil.federation.persistence.manifest import last_blobs

    return run.folder.checkpoints / "parts" / f"{last_blobs(run.folder.checkpoints)['memo']}.safetensors"


def contents(folder: Path) -> dict[str, str]:
    """A digest of each file of a run but what was written of its unlearning."""
    files = (p for p in folder.rglob("*") if p.is_file() and "unlearned" not in p.parts)
    return {str(p.relative_to(folder)): hashlib.sha256(p.read_bytes()).hexdigest() for p in files}


@pytest.fixture(scope="module")
def run(tmp_path_factory: pytest.TempPathFactory) -> Run:
    return played(tmp_path_factory.mktemp("base"), SMALL)


@pytest.fixture
def copy(run: Run, tmp_path: Path) -> Path:
    """A copy of the run's folder, to be changed."""
    return Path(shutil.copytree(run.path, tmp_path / Path(*run.path.parts[-3:])))


# Exact ----------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    "options", [{}, {"send": "groups", "groups": 3}, {"send": "sketch", "rank": 10}], ids=["gram", "groups", "sketch"]
)
def test_the_classifier_is_that_of_a_run_without_the_client_and_a_class_it_alone_held_is_never_predicted(
    tmp_path: Path, options: dict[str, Any]
) -> None:
    strategy = {"analytic": {"width": 40, **options}}
    run = played(tmp_path / "with", strategy)
    client, alone = only_holder(run)
    found = unlearn(run.path, client)
    fresh = played(tmp_path / "without", strategy, split_without(run, tmp_path / "split.json", client, (1, 2, 3)))

    assert_same_classifier(found.folder, fresh)
    assert list(found.gone) == alone
    after = {(g.group, g.name): g for g in found.after}
    assert [row.correct for row in fresh.rows if row.trained_task == 3] == [
        after["task", str(task)].correct for task in (1, 2, 3)
    ]
    assert [row.correct for row in run.rows if row.trained_task == 3] == [
        g.correct for g in found.before if g.group == "task"
    ]
    assert all(after["class", name].correct == 0 for name in alone)
    assert found.samples == int(run.partition()[0][:3, client].sum())


@pytest.mark.parametrize("strategy", [{"analytic": {"width": 40, "features": "task1"}}, {"patchwork": {"filters": 4}}])
def test_where_the_first_task_has_taught_the_features_a_client_without_its_samples_can_be_taken_out(
    tmp_path: Path, run: Run, strategy: Any
) -> None:
    late = split_without(run, tmp_path / "late.json", 2, (1,))
    with_it = played(tmp_path / "with", strategy, late, rounds=2)
    found = unlearn(with_it.path, 2)
    fresh = played(tmp_path / "without", strategy, split_without(with_it, tmp_path / "none.json", 2, (2, 3)), rounds=2)

    assert_same_classifier(found.folder, fresh)
    with pytest.raises(ConfigError, match=r"client 0 cannot be taken out: .* samples of the first task"):
        unlearn(with_it.path, 0)
    assert unlearn(with_it.path, 0, [3]).tasks == (3,)


def test_some_tasks_alone_and_several_clients_at_once(run: Run, tmp_path: Path) -> None:
    found = unlearn(run.path, 1, [2, 3], out=tmp_path / "new")
    assert_same_classifier(
        tmp_path / "new", played(tmp_path / "a", SMALL, split_without(run, tmp_path / "a.json", 1, (2, 3)))
    )
    assert found.clients == (1,)

    both = unlearn(run.path, [2, 1])
    assert both.folder.name == "clients1-2"
    one = played(tmp_path / "b", SMALL, split_without(run, tmp_path / "b.json", 1, (1, 2, 3)))
    assert_same_classifier(
        both.folder, played(tmp_path / "c", SMALL, split_without(one, tmp_path / "c.json", 2, (1, 2, 3)))
    )


def test_what_a_client_that_failed_has_never_sent_is_not_taken_out(tmp_path: Path) -> None:
    strategy = {str(write_strategy(tmp_path, FAILS, "fails")): {"width": 40}}
    run = played(tmp_path / "with", strategy, on_failure="skip", min_success=0.5)
    fresh = played(
        tmp_path / "without", strategy, split_without(run, tmp_path / "s.json", 1, (1, 3)),
        on_failure="skip", min_success=0.5,
    )  # fmt: skip

    assert_same_classifier(unlearn(run.path, 1).folder, fresh)


def test_the_run_stays_as_it_was(run: Run) -> None:
    before = contents(run.path)
    unlearn(run.path, 0)
    assert contents(run.path) == before


# Refused --------------------------------------------------------------------------------------------


def test_a_strategy_that_still_predicts_a_class_without_samples_is_told(tmp_path: Path) -> None:
    run = played(tmp_path, {str(write_strategy(tmp_path, LIES, "lies")): {"width": 40}})
    client, alone = only_holder(run)
    with pytest.raises(TrainingError, match=f'still predicts "{alone[0]}", of which no sample is left'):
        unlearn(run.path, client)
    assert not (run.path / "unlearned").exists()


def test_the_last_checkpoint_the_data_and_the_partition_have_to_be_those_of_the_run(copy: Path) -> None:
    env, partition = copy / "env.json", copy / "partition.json"
    about = json.loads(env.read_text())
    env.write_text(json.dumps(about | {"inputs": about["inputs"] | {"images": "0" * 32}}))
    with pytest.raises(StoreError, match="the data are not those that the run learnt from"):
        unlearn(copy, 0)
    env.write_text(json.dumps(about))

    record = json.loads(partition.read_text())
    record["indices"][0][0].pop()
    whole = partition.read_text()
    partition.write_text(json.dumps(record))
    with pytest.raises(StoreError, match="not the partition that these settings make now"):
        unlearn(copy, 0)
    partition.write_text(whole)

    last = sorted((copy / "checkpoints").glob("task*.json"))[-1]
    last.write_text(last.read_text()[:-20])
    with pytest.raises(StoreError, match="damaged"):
        unlearn(copy, 0)
    assert last.is_file()
    shutil.rmtree(copy / "checkpoints")
    with pytest.raises(StoreError, match=r"no checkpoint of the end of the run, which holds its sums \(none there\)"):
        unlearn(copy, 0)


def test_mistakes_are_told_in_a_line(command: Command, run: Run, tmp_path: Path) -> None:
    for arguments, said in (
        (["--client", 3], "client: 3 is not allowed; the run has 0 to 2"),
        (["--client", 1, "--client", 1], "client: 1, 1 is not allowed; expected at least one, and none twice"),
        (["--client", 1, "--tasks", "1,4"], "tasks: 4 is not allowed; the run has 1 to 3"),
        (["--client", 1, "--tasks", "all"], "tasks: 'all' is not allowed; expected numbers of tasks, such as 2,3"),
        (["--client", 0, "--client", 1, "--client", 2], "client: no sample would be left"),
        (["--client", 1, "--out", run.path], "is the folder of a run; what is written has a folder of its own"),
    ):
        assert_refused(command("unlearn", run.path, *arguments), said)

    (other,) = play(write_experiment(tmp_path, federation={"stop_after": 1, "rounds": 1}), out=tmp_path)
    said = "finetune: a client cannot be taken out of it exactly; it has no forget (have: analytic, patchwork)"
    assert_refused(command("unlearn", other.path, "--client", 0), said)

    with pytest.raises(Stop):
        play(write_experiment(tmp_path, strategy=SMALL), out=tmp_path / "half", observer=StopAfter(1))
    (half,) = (tmp_path / "half").rglob("seed0")
    assert_refused(command("unlearn", half, "--client", 0), "not finished, so nothing can be taken out yet")


def test_the_command_tells_accuracy_before_and_after_and_the_classes_that_are_gone(command: Command, run: Run) -> None:
    client, alone = only_holder(run)
    said = command("unlearn", run.path, "--client", client, "--out", "new")
    assert said.code == 0
    assert f"no sample is left of {', '.join(alone)}, so nothing is taken for it" in said.out
    assert all(f"class {name}" in said.out for name in alone)
    assert not any(f"class {name}" in said.out for name in NAMES if name not in alone)
    assert sorted(p.name for p in Path("new").iterdir()) == [
        *("net.safetensors", "net_memo.safetensors", "net_shared.safetensors", "unlearned.json"),
    ]

    told = json.loads(command("unlearn", run.path, "--client", client, "--out", "new", "--json").out)
    assert told == json.loads(Path("new/unlearned.json").read_text()) | {"folder": "new"}
    assert told["gone"] == alone
    assert {row["name"]: row["after"] for row in told["accuracy"] if row["name"] in alone} == dict.fromkeys(alone, 0)
