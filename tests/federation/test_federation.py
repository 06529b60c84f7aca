"""A federation in one process, end to end: repeatable, resumable, accounted for, and clear about what failed."""

from __future__ import annotations

import gc
import io
import weakref
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from run_processes import Forked
from safetensors.torch import load_file
from small_runs import (
    LANDER,
    Stop,
    StopAfter,
    checkpoint,
    final_weights,
    play,
    same,
    without_seconds,
    write_experiment,
    write_strategy,
)

from fcil.data import Dataset, Scenario, load_dataset
from fcil.errors import ConfigError, StoreError, TrainingError
from fcil.federation.codec import from_records, to_records
from fcil.federation.compat import RefArray
from fcil.federation.engine import Engine
from fcil.federation.messages.sharing import Shared
from fcil.federation.settings import FederationSettings, Resources
from fcil.io.state import flatten, num_bytes, unflatten
from fcil.roles import Client
from fcil.store import Run
from fcil.types import Batch, Task


@pytest.fixture(scope="module")
def finetune(tmp_path_factory: pytest.TempPathFactory) -> Run:
    folder = tmp_path_factory.mktemp("finetune")
    return play(write_experiment(folder), out=folder)[0]


@pytest.fixture(scope="module")
def lander(tmp_path_factory: pytest.TempPathFactory) -> Run:
    """Two tasks, with synthesis in between."""
    folder = tmp_path_factory.mktemp("lander")
    return play(write_experiment(folder, strategy=LANDER), out=folder)[0]


@pytest.fixture(scope="module")
def remembers(tmp_path_factory: pytest.TempPathFactory) -> Run:
    folder = tmp_path_factory.mktemp("remembers")
    return play(write_experiment(folder, strategy=str(write_strategy(folder))), out=folder)[0]


# Repeatable ------------------------------------------------------------------------------------


def test_the_same_settings_give_the_same_run(tmp_path: Path, finetune: Run) -> None:
    (again,) = play(write_experiment(tmp_path), out=tmp_path)
    assert again.rows == finetune.rows
    assert without_seconds(again) == without_seconds(finetune)
    assert same(final_weights(again), final_weights(finetune))


def test_another_seed_gives_another_run(tmp_path: Path, finetune: Run) -> None:
    (other,) = play(write_experiment(tmp_path), "seeds=[1]", out=tmp_path)
    assert other.path.name == "seed1"
    assert other.variant == finetune.variant
    assert other.rounds[0]["terms"] != finetune.rounds[0]["terms"]
    assert not same(final_weights(other), final_weights(finetune))


def test_data_is_decoded_once_for_all_runs_of_a_process_and_let_go_of(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    decoded: list[weakref.ref[Dataset]] = []

    def load(*arguments: Any, **options: Any) -> Dataset:
        dataset = load_dataset(*arguments, **options)
        decoded.append(weakref.ref(dataset))
        return dataset

    monkeypatch.setattr("fcil.federation.context.load_dataset", load)
    shared_out: list[int] = []
    monkeypatch.setattr(Scenario, "_share_out", _counted(Scenario._share_out, shared_out))
    play(write_experiment(tmp_path, federation={"rounds": 1, "stop_after": 1}, seeds=[0, 1]), out=tmp_path)
    gc.collect()
    assert [dataset() for dataset in decoded] == [None]
    assert shared_out == [1, 2, 3, 4, 5] * 2  # tasks, for each seed, by server and clients together


def _counted(share_out: Any, tasks: list[int]) -> Any:
    def counted(scenario: Scenario, task: Task) -> Any:
        tasks.append(task.number)
        return share_out(scenario, task)

    return counted


def test_the_number_of_threads_is_left_as_it_was() -> None:
    before = torch.get_num_threads()
    with Engine(FederationSettings(backend="inprocess"), Resources(threads=before + 1)):
        assert torch.get_num_threads() == before + 1
    assert torch.get_num_threads() == before


# Resumable -------------------------------------------------------------------------------------


def interrupt(source: Path, out: Path, count: int, *overrides: str, event: str = "round_done") -> Path:
    """A run that died when it told of an event for the `count`-th time; its folder."""
    with pytest.raises(Stop):
        play(source, *overrides, out=out, observer=StopAfter(count, event))
    (folder,) = {path.parent for path in out.glob("tiny/*/*/config.yaml")}
    assert not (folder / "summary.json").exists()
    return folder


def assert_equal_runs(got: Run, expected: Run) -> None:
    assert got.folder.accuracy.read_bytes() == expected.folder.accuracy.read_bytes()
    assert without_seconds(got) == without_seconds(expected)
    assert same(final_weights(got), final_weights(expected))
    # Nets, what is shared, the memo and what clients remember, bit by bit.
    assert checkpoint(got)[1] == checkpoint(expected)[1]
    assert _results(got) == _results(expected)


def _results(run: Run) -> dict[str, Any]:
    """What a summary tells, but for what it cost this machine."""
    return {k: v for k, v in run.summary.items() if "seconds" not in k and k != "peak_memory_bytes"}


@pytest.mark.parametrize(("rounds", "every"), [(1, 1), (2, 1), (3, 1), (4, 1), (4, 0)])
def test_a_resumed_run_equals_one_never_interrupted(tmp_path: Path, remembers: Run, rounds: int, every: int) -> None:
    strategy = remembers.path.parents[2] / "remembers.py"
    source = write_experiment(tmp_path, strategy=str(strategy), federation={"checkpoint_every": every})
    interrupt(source, tmp_path, rounds)

    (run,) = play(source, out=tmp_path)

    assert [(r["task"], r["round"]) for r in run.rounds] == [(1, 1), (1, 2), (2, 1), (2, 2)]
    assert_equal_runs(run, remembers)


@pytest.mark.parametrize("count", [1, 2])
def test_a_run_that_died_at_the_end_of_a_task_ends_it_again(tmp_path: Path, remembers: Run, count: int) -> None:
    source = write_experiment(tmp_path, strategy=str(remembers.path.parents[2] / "remembers.py"))
    interrupt(source, tmp_path, count, event="task_done")
    (run,) = play(source, out=tmp_path)
    assert_equal_runs(run, remembers)


@pytest.mark.parametrize(
    ("event", "count", "has_pool"),
    [("synthesis_progress", 2, False), ("synthesis_done", 1, True), ("round_done", 3, True), ("round_done", 4, True)],
)
def test_teacher_and_pool_survive_an_interruption(
    tmp_path: Path, lander: Run, event: str, count: int, has_pool: bool
) -> None:
    source = write_experiment(tmp_path, strategy=LANDER)
    folder = interrupt(source, tmp_path, count, event=event)
    assert (folder / "synthetic/task1.safetensors").exists() == has_pool

    (run,) = play(source, out=tmp_path)

    assert_equal_runs(run, lander)
    pools = [load_file(r.path / "synthetic/task1.safetensors") for r in (run, lander)]
    assert same(*pools)


def test_a_damaged_checkpoint_gives_way_to_the_one_before(tmp_path: Path, remembers: Run) -> None:
    source = write_experiment(tmp_path, strategy=str(remembers.path.parents[2] / "remembers.py"))
    folder = interrupt(source, tmp_path, 3)
    last = max((folder / "checkpoints").glob("task*.json"))
    content = bytearray(last.read_bytes())
    content[-1] ^= 1
    last.write_bytes(content)

    (run,) = play(source, out=tmp_path)

    assert_equal_runs(run, remembers)


def test_a_checkpoint_of_other_settings_is_refused(tmp_path: Path) -> None:
    source = write_experiment(tmp_path)
    folder = interrupt(source, tmp_path, 3)
    other = tmp_path / "other"
    alien = interrupt(source, other, 3, "optimizer.lr=0.01")
    name = max((folder / "checkpoints").iterdir()).name
    (alien / "checkpoints" / name).write_bytes((folder / "checkpoints" / name).read_bytes())
    with pytest.raises(StoreError, match=f"{name}: made under other settings: optimizer.lr was 0.04 there and is 0.01"):
        play(source, "optimizer.lr=0.01", out=other)


def test_a_killed_process_loses_nothing_but_time(tmp_path: Path) -> None:
    """`kill -9` in the third of four rounds, in a process of its own."""
    killer = write_strategy(
        tmp_path,
        "import os\n"
        "import signal\n"
        "from dataclasses import dataclass\n"
        "from fcil import Strategy\n"
        "@dataclass(frozen=True, kw_only=True)\n"
        "class Killed(Strategy):\n"
        "    def local_train(self, client):\n"
        "        if os.environ.get('FCIL_TEST_KILL') == f'{client.task.number}/{client.round}/{client.index}':\n"
        "            os.kill(os.getpid(), signal.SIGKILL)\n"
        "        return super().local_train(client)\n",
        "killed",
    )
    source = write_experiment(tmp_path, strategy=str(killer))
    with Forked(tmp_path, "run", source, "--out", tmp_path / "killed", env={"FCIL_TEST_KILL": "2/1/1"}) as process:
        said = process.communicate(timeout=300)
    assert process.returncode == -9, said

    (resumed,) = play(source, out=tmp_path / "killed")
    (whole,) = play(source, out=tmp_path / "whole")

    assert "2 rounds done before" in (resumed.path / "log.txt").read_text()
    assert_equal_runs(resumed, whole)


def test_every_client_has_streams_of_its_own_in_every_round(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    seeds: dict[tuple[int | str, ...], int] = {}
    draw = Client.generator

    def spy(client: Client, purpose: str) -> torch.Generator:
        stream = draw(client, purpose)
        seeds[purpose, client.task.number, client.round, client.index] = stream.initial_seed()
        return stream

    monkeypatch.setattr(Client, "generator", spy)
    play(write_experiment(tmp_path, federation={"local_epochs": 2, "max_batches": 1}), out=tmp_path)
    assert len(seeds) == len(set(seeds.values())) == (2 + 1) * 2 * 2 * 2  # epochs, tokens; tasks, rounds, clients


@pytest.mark.parametrize(("steps", "epochs"), [(1, [0]), (4, [0, 0, 1, 1]), (5, [0, 0, 1, 1, 2])])
def test_local_steps_are_taken_over_as_many_passes_as_they_need(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, steps: int, epochs: list[int]
) -> None:
    taken: list[list[int]] = []
    whole = Client.passes

    def spy(client: Client) -> Iterator[tuple[int, Batch]]:
        batches = list(whole(client))
        taken.append([epoch for epoch, _ in batches])
        return iter(batches)

    monkeypatch.setattr(Client, "passes", spy)
    federation = {"clients": 1, "rounds": 1, "stop_after": 1, "batch_size": 4, "local_steps": steps}
    federation |= {"local_epochs": FederationSettings().local_epochs}
    play(write_experiment(tmp_path, federation=federation, data={"per_class": 4, "tasks": 5}), out=tmp_path)
    assert taken == [epochs]  # two batches a pass


def test_epochs_beside_steps_are_refused(tmp_path: Path) -> None:
    source = write_experiment(tmp_path, federation={"local_steps": 5, "local_epochs": 3})
    with pytest.raises(ConfigError, match="local_epochs: 3 is not read where local_steps is 5; leave one out"):
        play(source, out=tmp_path)


# Who takes part, and with which data -----------------------------------------------------------


def test_a_fraction_of_the_clients_is_drawn_anew_each_round(tmp_path: Path) -> None:
    federation = {"clients": 6, "fraction": 0.34, "rounds": 4, "max_batches": 1}
    source = write_experiment(tmp_path, federation=federation, data={"tasks": 5})
    drawn = [[r["clients"] for r in run.rounds] for run in play(source, "seeds=[0, 1]", out=tmp_path)]
    (again,) = play(source, out=tmp_path / "again")
    assert all(len(c) == 2 and c == sorted(set(c)) and set(c) <= set(range(6)) for run in drawn for c in run)
    assert len({tuple(c) for c in drawn[0]}) > 2
    assert [r["clients"] for r in again.rounds] == drawn[0] != drawn[1]


@pytest.mark.parametrize(("strategy", "tasks_of_the_second"), [("finetune", {2}), ("joint", {1, 2})])
def test_only_the_upper_bound_sees_data_of_earlier_tasks(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, strategy: str, tasks_of_the_second: set[int]
) -> None:
    held: dict[tuple[int, int], tuple[set[int], int]] = {}
    train = Client.train

    def spy(client: Client, *args: Any, **options: Any) -> Any:
        held[client.task.number, client.index] = set(client.shard.tasks.tolist()), len(client.shard)
        return train(client, *args, **options)

    monkeypatch.setattr(Client, "train", spy)
    source = write_experiment(tmp_path, strategy=strategy, federation={"rounds": 1, "max_batches": 1})
    (run,) = play(source, out=tmp_path)

    counts = run.partition()[0]  # (tasks, clients, classes)
    assert held == {
        **{(1, c): ({1}, counts[0, c].sum()) for c in range(2)},
        **{(2, c): (tasks_of_the_second, sum(counts[t - 1, c].sum() for t in tasks_of_the_second)) for c in range(2)},
    }


# Bytes -----------------------------------------------------------------------------------------


def test_without_anything_shared_as_many_bytes_go_up_as_down(finetune: Run) -> None:
    clients, last = 2, num_bytes(final_weights(finetune))
    row = num_bytes({k: t[:1] for k, t in final_weights(finetune).items() if k.startswith("classifier.")})
    expected = [clients * (last - 2 * row)] * 2 + [clients * last] * 2  # four classes at the end, two before
    assert [r["bytes_down"] for r in finetune.rounds] == expected
    assert [r["bytes_up"] for r in finetune.rounds] == expected
    assert finetune.summary["bytes_down"] == finetune.summary["bytes_up"] == sum(expected)


def test_what_is_shared_is_counted_once_per_change_and_client(lander: Run) -> None:
    up, down = ([r[key] for r in lander.rounds] for key in ("bytes_up", "bytes_down"))
    net, clients = checkpoint(lander)[0], 2
    anchors = {f: t for f, t in net.items() if f == "shared/anchors"}["shared/anchors"]
    assert anchors.shape == (4, 384)
    pool = num_bytes(load_file(lander.path / "synthetic/task1.safetensors"))
    teacher = num_bytes({k: t for k, t in net.items() if k.startswith("shared/teacher/")})
    assert up[0] == up[1] == clients * teacher  # the teacher is the net of the first task
    extra = [d - u for d, u in zip(down, up, strict=True)]
    assert extra == [
        clients * num_bytes({"": anchors[:2]}),
        0,
        clients * (num_bytes({"": anchors}) + pool + teacher),
        0,
    ]


def test_a_client_is_sent_what_it_has_not_received() -> None:
    shared, pool = Shared(), {"x": torch.zeros(10, dtype=torch.uint8), "y": torch.zeros(2)}
    shared.update({"pool": pool})
    first = shared.records()
    assert [shared.deliver(c) for c in ([0], [0, 1], [0, 1])] == [18, 18, 0]

    shared.update({"pool": {k: t.clone() for k, t in pool.items()}})  # equal content
    assert shared.deliver([0, 1]) == 0
    assert all(shared.records()[name] is record for name, record in first.items())

    pool["x"] += 1  # changed where it is
    shared.update({"pool": pool, "note": "hello"})
    assert shared.deliver([1]) == 18
    shared.update({"note": "goodbye"})
    assert set(shared.records()) == {"shared/note", "values/note"}


# What a client keeps ---------------------------------------------------------------------------


def test_each_client_keeps_its_own_memory(remembers: Run) -> None:
    tensors, about = checkpoint(remembers)
    assert [about["scalars"][f"clients/{c}/rounds"] for c in range(2)] == [4, 4]
    a, b = (tensors[f"clients/{c}/last/weight"] for c in range(2))
    assert a.shape == b.shape == (4, 16)
    assert not torch.equal(a, b)
    assert tensors["shared/told"][:2, 0].tolist() == [4, 5]
    assert about["scalars"]["memo/count"] == 2


def test_a_client_keeps_samples_and_knows_where_a_round_began(tmp_path: Path) -> None:
    own = write_strategy(
        tmp_path,
        "import torch\n"
        "from fcil import Strategy\n"
        "class Keeps(Strategy):\n"
        "    def local_train(self, client):\n"
        "        old = client.kept('exemplars')\n"
        "        apart = max(float((client.start[n] - w).abs().max()) for n, w in client.net.state_dict().items())\n"
        "        client.keep('exemplars', old.joined(client.shard.select(torch.arange(2))))\n"
        "        client.shard = client.shard.joined(old)\n"
        "        update = super().local_train(client)\n"
        "        moved = float((client.start['classifier.weight'] - update.weights['classifier.weight']).abs().max())\n"
        "        update.metrics |= {'terms/kept': len(old), 'terms/apart': apart, 'terms/moved': moved}\n"
        "        return update\n",
        "keeps",
    )
    (run,) = play(write_experiment(tmp_path, strategy=str(own), federation={"max_batches": 1}), out=tmp_path)
    assert [r["terms"]["kept"] for r in run.rounds] == [0, 2, 4, 6]
    assert [r["terms"]["apart"] for r in run.rounds] == [0, 0, 0, 0]
    assert all(r["terms"]["moved"] > 0 for r in run.rounds)
    tensors = checkpoint(run)[0]
    assert tensors["clients/0/exemplars/tasks"].tolist() == [1, 1, 1, 1, 2, 2, 2, 2]


def test_a_client_can_empty_its_memory(tmp_path: Path) -> None:
    own = write_strategy(
        tmp_path,
        "from fcil import Strategy\n"
        "class Forgets(Strategy):\n"
        "    def local_train(self, client):\n"
        "        known = dict(client.memory)\n"
        "        client.memory.clear()\n"
        "        if client.round == 1:\n"
        "            client.memory['a'] = 1\n"
        "        update = super().local_train(client)\n"
        "        update.metrics['terms/known'] = float(len(known))\n"
        "        return update\n",
        "forgets",
    )
    source = write_experiment(tmp_path, strategy=str(own), federation={"rounds": 3, "stop_after": 1, "max_batches": 1})
    (run,) = play(source, out=tmp_path)
    assert [r["terms"]["known"] for r in run.rounds] == [0, 1, 0]


def test_updates_that_are_the_net_itself_may_be_collected(tmp_path: Path) -> None:
    """All clients share one net in a process: an update that is no copy must not change under the server's hands."""
    own = write_strategy(
        tmp_path,
        "from fcil import Strategy, Update, weighted_mean\n"
        "class Lends(Strategy):\n"
        "    def local_train(self, client):\n"
        "        update = super().local_train(client)\n"
        "        return Update(client.net.state_dict(), update.num_examples, update.metrics)\n"
        "    def aggregate(self, server, updates):\n"
        "        first, second = updates\n"
        "        server.shared['apart'] = first.weights['classifier.weight'] - second.weights['classifier.weight']\n"
        "        return super().aggregate(server, [first, second])\n",
        "lends",
    )
    (run,) = play(write_experiment(tmp_path, strategy=str(own), federation={"stop_after": 1}), out=tmp_path)
    assert checkpoint(run)[0]["shared/apart"].abs().max() > 1e-4


# What travels ----------------------------------------------------------------------------------


def test_state_is_the_same_tree_after_a_journey() -> None:
    state = {"a": torch.arange(3), "b": {"c": torch.ones(2, 2).half(), "d": {}, "e": {"f": "text"}}, "g": 1, "h": 0.5}
    for got in (unflatten(*flatten(state)), from_records(*to_records(state))):
        flat, expected = flatten(got), flatten(state)
        assert same(flat[0], expected[0])
        assert all(flat[0][k].dtype == expected[0][k].dtype for k in flat[0])
        assert flat[1] == expected[1]
        assert got["b"]["d"] == {}


@pytest.mark.parametrize(
    ("state", "said"),
    [
        ({"a": {"b": [1, 2]}}, 'state "a/b" is a list; state is tensors, numbers and strings'),
        ({"a": None}, 'state "a" is a NoneType'),
        ({"a/b": 1}, "'a/b' cannot be a name; names are text without a slash"),
        ({"a": {3: 1}}, "3 cannot be a name"),
        ({"": 1}, "'' cannot be a name"),
    ],
)
def test_what_cannot_travel_is_named(state: Any, said: str) -> None:
    with pytest.raises(TypeError) as caught:
        flatten(state)
    assert said in str(caught.value)


def test_an_array_becomes_flowers_bytes_when_somebody_asks() -> None:
    array = np.arange(6, dtype=np.float32).reshape(2, 3)
    ref = RefArray(array)
    assert ref.numpy() is array
    assert np.array_equal(np.load(io.BytesIO(ref.data), allow_pickle=False), array)
    ref.data = RefArray(array + 1).data
    assert np.array_equal(ref.numpy(), array + 1)


# What fails ------------------------------------------------------------------------------------


FAILS = """from dataclasses import dataclass

import torch

from fcil import Strategy


@dataclass(frozen=True, kw_only=True)
class Fails(Strategy):
    how: str = ""

    def local_loss(self, client, batch):
        terms = super().local_loss(client, batch)
        if (client.task.number, client.round, client.index) == (2, 1, 1):
            if self.how == "nan":
                return {**terms, "broken": torch.log(-terms["ce"].detach() - 1)}
            raise ValueError("on purpose\\nand a second line")
        return terms
"""


@pytest.mark.parametrize(
    ("how", "said"),
    [
        ("nan", 'client 1, task 2, round 1: loss term "broken" became nan'),
        ("raise", "client 1, task 2, round 1: ValueError: on purpose"),
    ],
)
def test_a_client_that_fails_ends_the_run_with_one_line(tmp_path: Path, how: str, said: str) -> None:
    own = write_strategy(tmp_path, FAILS, "fails")
    with pytest.raises(TrainingError) as caught:
        play(write_experiment(tmp_path, strategy={str(own): {"how": how}}), out=tmp_path)
    assert str(caught.value).startswith(said)
    assert "\n" not in str(caught.value)
    (folder,) = tmp_path.glob("tiny/*/seed0")
    assert "in local_loss" in (folder / "log.txt").read_text() or how == "nan"
    assert not (folder / "summary.json").exists()


def test_momentum_that_is_kept_is_each_clients_own_and_is_there_again_after_a_stop(tmp_path: Path) -> None:
    """Over rounds and tasks, whose classifier grows; `fresh` is what every run did before."""
    path = write_experiment(tmp_path, optimizer={"state": "kept"})
    (whole,) = play(path, out=tmp_path / "whole")
    for count in (2, 3):
        with pytest.raises(Stop):
            play(path, out=tmp_path / f"stopped{count}", observer=StopAfter(count))
        (again,) = play(path, out=tmp_path / f"stopped{count}")
        assert same(final_weights(whole), final_weights(again))
        assert without_seconds(whole) == without_seconds(again)
    (fresh,) = play(path, "optimizer.state=fresh", out=tmp_path / "fresh")
    assert fresh.rounds[0]["weights"] == whole.rounds[0]["weights"]
    assert fresh.rounds[1]["weights"] != whole.rounds[1]["weights"]
    names = {name.split("/")[-2] for name in checkpoint(whole)[0] if "/optimizer/" in name}
    assert "classifier.weight" in names
    assert not [name for name in checkpoint(fresh)[0] if "/optimizer/" in name]
