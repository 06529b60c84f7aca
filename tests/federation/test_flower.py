"""The app under Flower's own engines, without them: on a grid like theirs, as a ServerApp, as what is submitted.

With them, in minutes instead of seconds: `tests/reliability/test_flower_engines.py`.
"""

from __future__ import annotations

import io
import logging
import tomllib
import zipfile
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import grid_cases
import pytest
import torch
from flwr.app import ConfigRecord, Context, Message, MessageType, RecordDict
from flwr.cli.build import build_fab_from_disk
from flwr.cli.config_utils import load_and_validate
from flwr.clientapp import ClientApp
from foreign_grid import RUN, ForeignGrid, travelled
from grid_cases import CLIENTS, faulty, plan_of
from small_runs import LANDER, Stop, StopAfter, checkpoint, play, silently, write_experiment, write_strategy

import fcil
from fcil import flower
from fcil.errors import ConfigError, StoreError, TrainingError
from fcil.federation import exchange, flower_app
from fcil.federation.codec import to_arrays, to_tensors
from fcil.federation.compat import new_context
from fcil.federation.context import Datasets
from fcil.federation.deploy.superlink import APP
from fcil.federation.engine import Engine
from fcil.federation.exchange import find_nodes
from fcil.federation.flower_app import KEYS, find_experiment, in_one_line, split
from fcil.federation.observer import Observer
from fcil.federation.plan import Plan
from fcil.store import load_run

ROOT = Path(__file__).parents[2]


@pytest.fixture(autouse=True)
def without_pauses(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(exchange, "PAUSES", (0.0, 0.001))


class Notes(Observer):
    def __init__(self) -> None:
        self.lines: list[str] = []
        self.failures: list[dict[str, Any]] = []

    def note(self, text: str) -> None:
        self.lines.append(text)

    def round_done(self, record: dict[str, Any]) -> None:
        self.failures += record["failures"]


def run(plan: Plan, folder: Path, grid: ForeignGrid | None = None, observer: Observer | None = None) -> None:
    with Engine(plan.federation, plan.resources, grid=grid) as engine:
        engine.run(Datasets().open(plan), folder, observer or Observer())


def parts(folder: Path) -> dict[str, str]:
    """The content hashes of the last checkpoint, but for what clients remember, which foreign nodes keep."""
    found = checkpoint(folder)[1]["parts"]
    return {name: part for name, part in found.items() if not name.startswith("clients/")}


# A grid that is not ours -----------------------------------------------------------------------


def test_a_run_on_a_foreign_grid_equals_one_in_this_process(tmp_path: Path) -> None:
    """Whatever numbers nodes have, whenever they join, in whichever order they answer; with memory and after tasks."""
    plan = plan_of(tmp_path, str(write_strategy(tmp_path)))
    run(plan, tmp_path / "here")
    grid = ForeignGrid(CLIENTS)
    run(plan, tmp_path / "there", grid)
    assert parts(tmp_path / "there") == parts(tmp_path / "here")
    assert len(parts(tmp_path / "here")) > 3
    assert all("memory" in context.state for context in grid.contexts.values())


def test_synthesis_and_what_is_shared_are_the_same_on_a_foreign_grid(tmp_path: Path) -> None:
    plan = plan_of(tmp_path, LANDER)
    run(plan, tmp_path / "here")
    run(plan, tmp_path / "there", ForeignGrid(CLIENTS))
    assert parts(tmp_path / "there") == parts(tmp_path / "here")
    assert "shared/synthetic" in parts(tmp_path / "here")


def test_a_run_without_memory_goes_on_from_a_foreign_grid_to_ours(tmp_path: Path) -> None:
    plan = plan_of(tmp_path)
    run(plan, tmp_path / "whole")
    with pytest.raises(Stop):
        run(plan, tmp_path / "moved", ForeignGrid(CLIENTS), StopAfter(3))
    run(plan, tmp_path / "moved")
    assert parts(tmp_path / "moved") == parts(tmp_path / "whole")


@pytest.mark.parametrize("elsewhere", [lambda: None, lambda: ForeignGrid(CLIENTS)], ids=["here", "there"])
def test_a_run_whose_foreign_nodes_remember_does_not_go_on_without_them(tmp_path: Path, elsewhere: Any) -> None:
    plan = plan_of(tmp_path, str(write_strategy(tmp_path)))
    with pytest.raises(Stop):
        run(plan, tmp_path, ForeignGrid(CLIENTS), StopAfter(2))
    with pytest.raises(StoreError, match="cannot be given to, or taken from, nodes of Flower's own engines"):
        run(plan, tmp_path, elsewhere())


def test_what_is_said_to_all_clients_of_a_foreign_grid() -> None:
    """An array arrives as Flower's own, with the same numbers."""
    tensors = {"a": torch.randn(3, 2), "b": torch.tensor(5), "c": torch.zeros(0, 4), "d": torch.arange(4).bool()}
    ForeignGrid(1)
    sent = Message(RecordDict({"weights": to_arrays(tensors)}), 1, MessageType.TRAIN)
    arrived = travelled(sent).content["weights"]
    got = to_tensors(arrived)  # type: ignore[arg-type]
    assert {type(array).__name__ for array in arrived.values()} == {"Array"}  # type: ignore[union-attr]
    assert got.keys() == tensors.keys()
    assert all(torch.equal(got[k], tensors[k]) and got[k].dtype == tensors[k].dtype for k in tensors)


# Every grid ------------------------------------------------------------------------------------


def test_clients_train_the_same_weights(tmp_path: Path) -> None:
    plan = plan_of(tmp_path)
    grid_cases.clients_train(plan, ForeignGrid(CLIENTS), grid_cases.trained_in_this_process(plan))


def test_clients_remember_from_message_to_message(tmp_path: Path) -> None:
    grid_cases.clients_remember(faulty(tmp_path), ForeignGrid(CLIENTS))


def test_clients_of_a_foreign_grid_begin_anew_with_each_run(tmp_path: Path) -> None:
    """One run of Flower's may play many of ours on the same nodes."""
    grid_cases.clients_begin_anew(faulty(tmp_path), ForeignGrid(CLIENTS))


def test_a_client_that_raises_is_answered_for_and_keeps_its_state(tmp_path: Path) -> None:
    grid_cases.one_raises(faulty(tmp_path, "raise"), ForeignGrid(CLIENTS))


def test_what_a_client_that_raised_did_to_its_state_is_undone(monkeypatch: pytest.MonkeyPatch) -> None:
    """Some of Flower's engines would keep it."""
    spoiling = ClientApp()

    @spoiling.train()
    def train(message: Message, context: Context) -> Message:
        context.state["memory"] = ConfigRecord({"values": "spoiled"})
        raise ValueError("on purpose")

    monkeypatch.setattr(flower_app, "app", spoiling)
    grid = ForeignGrid(1)
    (node,) = grid.contexts
    grid.contexts[node].state["memory"] = ConfigRecord({"values": "good"})
    (reply,) = grid.send_and_receive([Message(RecordDict(), node, MessageType.TRAIN)])
    assert str(reply.error.reason).startswith("ValueError: on purpose\n")
    assert grid.contexts[node].state["memory"]["values"] == "good"  # type: ignore[index]


def test_a_client_of_a_foreign_grid_that_is_late_is_given_up(tmp_path: Path) -> None:
    """Its answer, when it comes after all, is taken for nothing, even by a grid that hands it out unasked."""
    plan = faulty(tmp_path, timeout=0.2, on_failure="skip", rounds=3, stop_after=1, min_success=0.0)
    late = ForeignGrid(CLIENTS)

    class Loosen(Notes):
        def round_started(self, task: int, round: int, clients: Any) -> None:
            late.slow = {1} if round == 2 else set()
            late.unasked = round == 3

    notes = Loosen()
    run(plan, tmp_path, late, notes)
    assert [(f["client"], f["kind"], f["outcome"]) for f in notes.failures] == [(1, "timeout", "skipped")]
    assert notes.failures[0]["reason"] == "no answer within 0.2 seconds"
    assert late.waiting() == 0


def test_a_client_that_raises_on_a_foreign_grid_is_a_matter_of_policy(tmp_path: Path) -> None:
    with pytest.raises(TrainingError, match=r"^client 1, task 1, round 2: ValueError: on purpose \(in local_train\)$"):
        run(faulty(tmp_path, "raise"), tmp_path / "stop", ForeignGrid(CLIENTS))
    notes = Notes()
    run(faulty(tmp_path, "raise", on_failure="skip"), tmp_path / "skip", ForeignGrid(CLIENTS), notes)
    assert {(f["client"], f["kind"], f["outcome"]) for f in notes.failures} == {(1, "raised", "skipped")}
    assert any("in local_train" in line for line in notes.lines)


def test_a_node_that_has_left_is_a_client_that_died(tmp_path: Path) -> None:
    plan = faulty(tmp_path, on_failure="skip", retries=1, stop_after=1, rounds=2)
    leaving = ForeignGrid(CLIENTS)

    class Leave(Notes):
        def round_started(self, task: int, round: int, clients: Any) -> None:
            leaving.gone = {n for n in leaving.contexts if round == 2 and leaving.client_at(n) == 0}

    notes = Leave()
    run(plan, tmp_path, leaving, notes)
    assert [(f["client"], f["kind"], f["attempt"], f["outcome"]) for f in notes.failures] == [
        (0, "died", 1, "retried"),
        (0, "died", 2, "skipped"),
    ]


# Who is who ------------------------------------------------------------------------------------

TOLD = ConfigRecord({"plan": "{}"})


def test_each_node_is_asked_once_which_client_it_plays() -> None:
    grid = ForeignGrid(4, seed=3)
    found = find_nodes(grid, 4, TOLD, 10.0)
    assert [grid.client_at(found[client]) for client in range(4)] == [0, 1, 2, 3]
    assert sorted(grid.asked) == sorted(grid.contexts)


def test_more_nodes_than_clients_do_not_matter() -> None:
    grid = ForeignGrid(5, seed=1)
    assert sorted(find_nodes(grid, 2, TOLD, 10.0)) == [0, 1]


def test_of_two_nodes_that_play_a_client_one_does() -> None:
    grid = ForeignGrid(2, extra=[{"partition-id": 1, "num-partitions": 2}])
    found = find_nodes(grid, 2, TOLD, 10.0)
    assert [grid.client_at(found[client]) for client in range(2)] == [0, 1]


def test_a_node_without_a_client_is_left_alone() -> None:
    grid = ForeignGrid(2, seed=2, extra=[{}])
    (stranger,) = [node for node in grid.contexts if grid.client_at(node) is None]
    grid._joining.remove(stranger)
    grid._joined.append(stranger)  # it comes first
    assert sorted(find_nodes(grid, 2, TOLD, 10.0)) == [0, 1]
    assert grid.asked.count(stranger) <= exchange.ASKED


def test_clients_that_do_not_join_are_waited_for_and_named(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(exchange, "PATIENCE", 0.05)
    lines: list[str] = []
    grid = ForeignGrid(2, extra=[{}])
    (stranger,) = [node for node in grid.contexts if grid.client_at(node) is None]
    with pytest.raises(TrainingError) as caught:
        find_nodes(grid, 4, TOLD, 0.3, lines.append)
    assert str(caught.value) == (
        f"clients [2, 3] did not join within 0.3 seconds; node {stranger}: KeyError: 'partition-id'"
    )
    assert f"node {stranger} does not say which client it plays: KeyError: 'partition-id'" in lines
    assert "waiting for clients [2, 3] to join" in lines
    assert len(lines) == len(set(lines))


# The ServerApp ---------------------------------------------------------------------------------


def serve(grid: ForeignGrid, config: dict[str, Any]) -> None:
    context = new_context(RUN, 1, {})
    context.run_config = config
    with silently():
        flower.server(grid, context)


@pytest.fixture
def flower_logger() -> Iterator[logging.Logger]:
    logger = logging.getLogger("flwr")
    before = logger.filters[:]
    yield logger
    logger.filters[:] = before


@pytest.mark.usefixtures("flower_logger")
def test_the_server_app_plays_an_experiment_as_the_command_does(
    tmp_path: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    """Overrides, matrix, seeds and run folders; what is finished is not played again, and no Ray is started."""
    monkeypatch.setattr("ray.init", lambda *_, **__: pytest.fail("Ray was started"))
    source = write_experiment(tmp_path, matrix={"optimizer.lr": [0.1, 0.2]}, seeds=[0, 1])
    overrides = ["federation.rounds=1", "federation.backend=ray", "net={name: resnet8, width: 2}"]
    expected = play(source, *overrides[:1], "federation.backend=inprocess", overrides[2], out=tmp_path / "here")
    config = {"experiment": str(source), "out": str(tmp_path / "there")}
    config["overrides"] = f"{overrides[0]} {overrides[1]} '{overrides[2]}'"
    serve(ForeignGrid(2), config)
    for run in expected:
        there = load_run(tmp_path / "there" / run.path.relative_to(tmp_path / "here"))
        assert there.rows == run.rows
        assert parts(there.path) == parts(run.path)
    assert len(expected) == 4
    assert "nothing to do" not in capsys.readouterr().out
    serve(ForeignGrid(2), config)
    assert capsys.readouterr().out.count("is finished; nothing to do") == 4


@pytest.mark.usefixtures("flower_logger")
@pytest.mark.parametrize(
    ("config", "said"),
    [
        ({}, "run config: experiment is missing"),
        ({"experiment": 3}, "run config: experiment is 3; expected text"),
        ({"experiment": "nothing.yaml"}, 'run config: no experiment "nothing.yaml"'),
        ({"experiment": "tiny.yaml", "overrides": "a='"}, 'overrides "a=\'" cannot be split'),
        ({"experiment": "tiny.yaml", "overrides": "federation.clients=0"}, "federation.clients"),
    ],
)
def test_a_server_app_that_is_told_nonsense_fails(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, config: dict[str, Any], said: str
) -> None:
    monkeypatch.chdir(tmp_path)
    write_experiment(tmp_path)
    with pytest.raises(ConfigError) as caught:
        serve(ForeignGrid(2), config)
    assert said in str(caught.value)
    assert not (tmp_path / "results").exists()


@pytest.mark.usefixtures("flower_logger")
def test_an_interrupted_server_app_has_failed(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def stop(*_: Any) -> None:
        raise KeyboardInterrupt

    monkeypatch.setattr(flower, "execute", stop)
    with pytest.raises(TrainingError, match="interrupted; the same command goes on from the last checkpoint"):
        serve(ForeignGrid(2), {"experiment": str(write_experiment(tmp_path)), "out": str(tmp_path)})


def test_what_was_raised_on_purpose_is_logged_without_a_traceback() -> None:
    def record(error: Exception) -> logging.LogRecord:
        info = (type(error), error, None)
        return logging.LogRecord("flwr", logging.ERROR, "", 1, "%s raised an exception", ("ServerApp",), info)

    ours, bug = record(TrainingError("client 1: too slow, 100 %")), record(RuntimeError("a bug"))
    assert in_one_line(ours)
    assert in_one_line(bug)
    assert (ours.getMessage(), ours.exc_info) == ("client 1: too slow, 100 %", None)
    assert bug.exc_info


def test_an_experiment_is_looked_for_in_the_app_and_then_where_flower_was_started(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    app, here = tmp_path / "app", tmp_path / "here"
    for folder, names in ((app / "experiments", ["a.yaml", "b.yaml"]), (here / "experiments", ["b.yaml", "c.yaml"])):
        folder.mkdir(parents=True)
        for name in names:
            (folder / name).touch()
    monkeypatch.chdir(here)
    assert find_experiment("experiments/a.yaml", app) == app / "experiments/a.yaml"
    assert find_experiment("experiments/b.yaml", app) == app / "experiments/b.yaml"
    assert find_experiment("experiments/c.yaml", app) == here / "experiments/c.yaml"
    assert find_experiment(str(here / "experiments/b.yaml"), app) == here / "experiments/b.yaml"
    assert find_experiment("experiments/c.yaml", None) == here / "experiments/c.yaml"
    with pytest.raises(ConfigError, match=r'carries experiments/a.yaml, experiments/b.yaml.*Did you mean "experiments'):
        find_experiment("experiments/bb.yaml", app)


def test_overrides_are_split_as_a_shell_would() -> None:
    assert split("""a.b=1 'c={x: [1, 2]}' d="x y" """) == ["a.b=1", "c={x: [1, 2]}", "d=x y"]


# What is submitted -----------------------------------------------------------------------------


def test_the_app_carries_experiments_and_no_code() -> None:
    with zipfile.ZipFile(io.BytesIO(build_fab_from_disk(ROOT))) as fab:
        names = set(fab.namelist()) - {"pyproject.toml", "LICENSE", ".info/CONTENT"}
    assert names == {str(path.relative_to(ROOT)) for path in (ROOT / "experiments").rglob("*.yaml")}


def test_flower_accepts_the_project_and_its_default_experiment_is_there() -> None:
    project, warnings = load_and_validate(ROOT / "pyproject.toml")
    app = project["tool"]["flwr"]["app"]
    assert warnings == []
    assert tuple(app["config"]) == KEYS
    assert (ROOT / app["config"]["experiment"]).is_file()
    assert project["project"]["version"] == fcil.__version__
    # What the launcher submits is the same app.
    own = tomllib.loads(APP)["tool"]["flwr"]["app"]
    assert own["components"] == app["components"]
    assert own["publisher"] == app["publisher"]
