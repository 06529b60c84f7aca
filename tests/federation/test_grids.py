"""What every place that clients run in must do, and that Ray gives the weights of one process to the bit.

All that needs Ray is here: it is started once, with one engine and its workers.
"""

from __future__ import annotations

import os
import signal
from collections.abc import Iterator
from contextlib import nullcontext
from dataclasses import replace
from pathlib import Path
from typing import Any, cast

import grid_cases
import psutil
import pytest
import ray
import torch
from flwr.app import ArrayRecord, ConfigRecord, Context, Message, MessageType, RecordDict
from flwr.clientapp import ClientApp
from grid_cases import CLIENTS, ask, calls, faulty, plan_of, weights
from small_runs import (
    LANDER,
    NAYER,
    Stop,
    StopAfter,
    checkpoint,
    final_weights,
    same,
    write_strategy,
)

from fcil.errors import TrainingError
from fcil.federation.client import client_app
from fcil.federation.codec import from_records, to_records
from fcil.federation.compat import CRASHED, TIMED_OUT
from fcil.federation.context import Datasets
from fcil.federation.engine import Engine
from fcil.federation.executor import ChainWorker, Executor, LocalExecutor, RayExecutor
from fcil.federation.grids import InProcessGrid, LocalGrid
from fcil.federation.observer import Observer
from fcil.federation.plan import Plan
from fcil.federation.ray.grid import RayGrid, Worker, WorkerPool
from fcil.federation.ray.pool import SharedPool
from fcil.federation.settings import FederationSettings, Resources
from fcil.federation.synthesis.jobs import Job, synthesis_problem
from fcil.io.state import flatten
from fcil.metrics import AccuracyRow
from fcil.synthesis import create
from fcil.types import State, Task, Tensors


@pytest.fixture(scope="module")
def engine() -> Iterator[Engine]:
    """Ray, two client workers (fewer on a machine with one CPU) and two synthesis workers."""
    resources = Resources(device="cpu", synthesis_workers=2)
    with Engine(FederationSettings(backend="ray", clients=2), resources) as running:
        yield running


@pytest.fixture(params=["inprocess", pytest.param("ray", marks=pytest.mark.ray)])
def kind(request: pytest.FixtureRequest) -> str:
    return str(request.param)


@pytest.fixture
def make_grid(kind: str, request: pytest.FixtureRequest) -> Any:
    """Makes a grid of this kind for a plan."""

    def make(plan: Plan) -> LocalGrid:
        clients, timeout = plan.federation.clients, plan.federation.timeout
        if kind == "inprocess":
            return InProcessGrid(client_app(), clients, timeout)
        return RayGrid(pool_of(request.getfixturevalue("engine")), clients, timeout)

    return make


def pool_of(engine: Engine) -> WorkerPool:
    assert engine._pool is not None
    return engine._pool


def states(grid: LocalGrid) -> dict[int, RecordDict]:
    return {client: grid.state(client) for client in grid.versions()}


# Every grid ------------------------------------------------------------------------------------


def test_every_client_answers(make_grid: Any, tmp_path: Path) -> None:
    plan = faulty(tmp_path, clients=5)
    grid = make_grid(plan)
    assert list(grid.get_node_ids()) == [1, 2, 3, 4, 5]
    replies = ask(plan, grid, [4, 0, 2, 1, 3])
    assert calls(replies) == dict.fromkeys(range(5), 1)
    examples = {c: cast(ConfigRecord, r.content["config"])["num_examples"] for c, r in replies.items()}
    assert examples == {c: 1 + c for c in range(5)}


def test_nobody_answers_a_message_that_was_not_sent(make_grid: Any, tmp_path: Path) -> None:
    grid = make_grid(faulty(tmp_path))
    assert list(grid.pull_messages(["unknown"])) == []
    assert list(grid.send_and_receive([])) == []


def test_clients_train_the_same_weights_everywhere(make_grid: Any, tmp_path: Path) -> None:
    plan = plan_of(tmp_path)
    grid_cases.clients_train(plan, make_grid(plan), grid_cases.trained_in_this_process(plan))


def test_a_client_remembers_from_message_to_message(make_grid: Any, tmp_path: Path) -> None:
    plan = faulty(tmp_path)
    grid = make_grid(plan)
    assert grid.versions() == {}
    assert calls(ask(plan, grid, [0, 1])) == {0: 1, 1: 1}
    assert calls(ask(plan, grid, [1, 2])) == {1: 2, 2: 1}
    assert sorted(grid.versions()) == [0, 1, 2]


def test_a_client_that_raises_is_answered_for_and_keeps_its_state(make_grid: Any, tmp_path: Path) -> None:
    plan = faulty(tmp_path, "raise")
    grid_cases.one_raises(plan, make_grid(plan))


def test_a_client_that_hangs_is_answered_for_and_keeps_its_state(make_grid: Any, tmp_path: Path) -> None:
    plan = faulty(tmp_path, "hang", timeout=2.0)
    grid = make_grid(plan)
    ask(plan, grid, [0, 1, 2])
    replies = ask(plan, grid, [0, 1, 2], round=2)
    assert [replies[c].has_error() for c in range(3)] == [False, True, False]
    assert replies[1].error.code == TIMED_OUT
    assert replies[1].error.reason == "no answer within 2 seconds"
    later = ask(plan, grid, [0, 1, 2], round=3)
    assert calls(later) == {0: 3, 1: 2, 2: 3}
    assert not weights(later[1])["spoiled"]


def test_a_round_can_be_undone(make_grid: Any, tmp_path: Path) -> None:
    plan = faulty(tmp_path)
    grid = make_grid(plan)
    ask(plan, grid, [0, 1])
    roll_back = grid.snapshot()
    ask(plan, grid, [0, 2])
    roll_back()
    assert calls(ask(plan, grid, [0, 1, 2])) == {0: 2, 1: 2, 2: 1}


def test_states_can_be_taken_from_one_grid_and_given_to_another(make_grid: Any, tmp_path: Path) -> None:
    """To one of the other kind too: a run may be resumed on another backend."""
    plan = faulty(tmp_path)
    first = InProcessGrid(client_app(), CLIENTS)
    ask(plan, first, [0, 1])
    grid = make_grid(plan)
    grid.restore(states(first))
    assert calls(ask(plan, grid, [0, 1, 2])) == {0: 2, 1: 2, 2: 1}
    last = InProcessGrid(client_app(), CLIENTS)
    last.restore(states(grid))
    assert calls(ask(plan, last, [0, 1, 2])) == {0: 3, 1: 3, 2: 2}


def test_what_a_client_that_raised_did_to_its_state_is_undone() -> None:
    """Also what it had written before it raised; by both kinds of grid, here without Ray."""
    spoiling = ClientApp()

    @spoiling.train()
    def train(message: Message, context: Context) -> Message:
        context.state["memory"] = ConfigRecord({"values": "spoiled"})
        raise ValueError("on purpose")

    def good() -> RecordDict:
        return RecordDict({"memory": ConfigRecord({"values": "good"})})

    grid = InProcessGrid(spoiling, 1)
    grid.restore({0: good()})
    (reply,) = grid.send_and_receive([Message(RecordDict(), 1, MessageType.TRAIN)])
    assert reply.has_error()
    assert grid.state(0)["memory"]["values"] == "good"  # type: ignore[index]

    worker = Worker()
    worker._app = spoiling
    metadata = {"node": 1, "type": MessageType.TRAIN, "group": ""}
    (said, remembers), state = worker.call(grid.context(1), good(), metadata, [])
    assert str(said).startswith("ValueError: on purpose\n")
    assert remembers
    assert state["memory"]["values"] == "good"  # type: ignore[index]


# Ray alone -------------------------------------------------------------------------------------


@pytest.mark.ray
def test_a_worker_that_dies_takes_nothing_with_it(engine: Engine, tmp_path: Path) -> None:
    plan = faulty(tmp_path, "kill")
    grid = RayGrid(pool_of(engine), CLIENTS)
    workers = pool_of(engine).size
    ask(plan, grid, [0, 1, 2])
    replies = ask(plan, grid, [0, 1, 2], round=2)
    assert [replies[c].has_error() for c in range(3)] == [False, True, False]
    assert replies[1].error.code == CRASHED
    assert "the worker died" in str(replies[1].error.reason)
    later = ask(plan, grid, [0, 1, 2], round=3)
    assert calls(later) == {0: 3, 1: 2, 2: 3}
    assert not weights(later[1])["spoiled"]
    pool_of(engine).wait(60)
    assert len(pool_of(engine)._idle) == workers


@pytest.mark.ray
def test_a_record_that_many_messages_carry_is_stored_once(
    engine: Engine, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    stored: list[Any] = []
    put = ray.put
    monkeypatch.setattr(ray, "put", lambda value: stored.append(value) or put(value))
    plan = faulty(tmp_path)
    grid = RayGrid(pool_of(engine), CLIENTS)
    ask(plan, grid, [0, 1, 2])
    assert [type(record) for record in stored] == [ArrayRecord, ConfigRecord, ConfigRecord]  # weights, config and plan
    ask(plan, grid, [0])
    assert len(grid._stored) == 3  # what the last messages carried, and nothing older


class Seen(Observer):
    """Keeps what a run tells of."""

    def __init__(self) -> None:
        self.rows: list[AccuracyRow] = []
        self.pools: list[Tensors] = []
        self.terms: list[dict[str, float]] = []
        self.failures: list[dict[str, Any]] = []

    def round_done(self, record: dict[str, Any]) -> None:
        self.terms.append(record["terms"])
        self.failures += record["failures"]

    def task_concluded(self, task: int, record: dict[str, Any]) -> None:
        self.failures += record["failures"]

    def synthesis_done(self, task: int, samples: Tensors) -> None:
        self.pools.append(samples)

    def task_done(self, task: Task, rows: Any) -> None:
        self.rows += rows


def both(engine: Engine, plan: Plan, folder: Path) -> tuple[Seen, Seen]:
    """What a plan's run tells of in one process and on Ray, in two folders."""
    here, there = Seen(), Seen()
    with Engine(replace(plan.federation, backend="inprocess"), plan.resources) as alone:
        alone.run(Datasets().open(plan), folder / "inprocess", here)
    engine.run(Datasets().open(plan), folder / "ray", there)
    return here, there


CHAINS = {"lander": {"synthesizer": {"nayer": {**NAYER, "chains": 2}}}}


@pytest.mark.ray
@pytest.mark.parametrize("strategy", ["finetune", LANDER, CHAINS], ids=["finetune", "lander", "lander-two-chains"])
def test_a_run_on_ray_equals_one_in_this_process(engine: Engine, tmp_path: Path, strategy: Any) -> None:
    here, there = both(engine, plan_of(tmp_path, strategy), tmp_path)
    assert same(final_weights(tmp_path / "ray"), final_weights(tmp_path / "inprocess"))
    assert there.rows == here.rows
    assert there.terms == here.terms
    assert len(there.pools) == (strategy != "finetune")
    assert all(same(a, b) for a, b in zip(there.pools, here.pools, strict=True))


class Shuffled(InProcessGrid):
    """Asks all clients at once, and lets them answer in an order of its own."""

    window = 100

    def pull_messages(self, message_ids: Any) -> Any:
        numbers = sorted(message_ids)  # random text
        return super().pull_messages(numbers)


@pytest.mark.ray
def test_nothing_depends_on_the_order_of_clients_on_workers_or_on_the_threads_of_a_machine(
    engine: Engine, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    plan = plan_of(tmp_path, LANDER, clients=5)
    inprocess = replace(plan.federation, backend="inprocess")

    def play(name: str, running: Engine) -> Any:
        seen = Seen()
        running.run(Datasets().open(plan), tmp_path / name, seen)
        return seen.rows, checkpoint(tmp_path / name)[1]

    with Engine(inprocess, plan.resources) as alone:
        expected = play("plain", alone)
    threads = torch.get_num_threads()
    torch.set_num_threads(2 if threads == 1 else 1)  # as another machine would
    with Engine(inprocess, plan.resources) as alone, monkeypatch.context() as patch:
        patch.setattr("fcil.federation.engine.InProcessGrid", Shuffled)
        assert play("shuffled", alone) == expected
    torch.set_num_threads(threads)
    with monkeypatch.context() as patch:
        patch.setattr(pool_of(engine), "_idle", type(pool_of(engine)._idle)(list(pool_of(engine)._idle)[:1]))
        assert play("one worker", engine) == expected
    assert play("two workers", engine) == expected


@pytest.mark.ray
def test_a_run_may_go_on_on_another_backend(engine: Engine, tmp_path: Path) -> None:
    plan = plan_of(tmp_path, str(write_strategy(tmp_path)))
    with Engine(replace(plan.federation, backend="inprocess"), plan.resources) as alone:
        alone.run(Datasets().open(plan), tmp_path / "whole", Observer())
        with pytest.raises(Stop):
            alone.run(Datasets().open(plan), tmp_path / "moved", StopAfter(2))
    with pytest.raises(Stop):
        engine.run(Datasets().open(plan), tmp_path / "moved", StopAfter(2))
    with Engine(replace(plan.federation, backend="inprocess"), plan.resources) as alone:
        alone.run(Datasets().open(plan), tmp_path / "moved", Observer())
    assert checkpoint(tmp_path / "moved")[1] == checkpoint(tmp_path / "whole")[1]


DIES_ONCE = """
import os
import signal
from dataclasses import dataclass
from pathlib import Path

from fcil import Strategy


@dataclass(frozen=True, kw_only=True)
class DiesOnce(Strategy):
    marks: str = ""

    def local_loss(self, client, batch):
        terms = super().local_loss(client, batch)
        client.memory["batches"] = client.memory.get("batches", 0) + 1
        mark = Path(self.marks, f"{client.task.number}-{client.round}-{client.index}")
        if client.memory["batches"] % 3 == 0 and not mark.exists():
            mark.touch()
            os.kill(os.getpid(), signal.SIGKILL)
        return terms
"""


@pytest.mark.ray
def test_a_run_whose_workers_die_equals_one_whose_workers_live(engine: Engine, tmp_path: Path) -> None:
    own, marks = write_strategy(tmp_path, DIES_ONCE, "dies_once"), tmp_path / "marks"
    marks.mkdir()
    plan = plan_of(tmp_path, {str(own): {"marks": str(marks)}}, clients=2, stop_after=1)
    dying, living = Seen(), Seen()
    engine.run(Datasets().open(plan), tmp_path / "dying", dying)
    died = len([*marks.iterdir()])
    engine.run(Datasets().open(plan), tmp_path / "living", living)  # every mark is there now

    assert died == 2
    assert [f["kind"] for f in dying.failures] == ["died"] * died
    assert {f["outcome"] for f in dying.failures} == {"retried"}
    assert living.failures == []
    assert dying.rows == living.rows
    assert checkpoint(tmp_path / "dying")[1] == checkpoint(tmp_path / "living")[1]


@pytest.mark.ray
def test_a_client_whose_workers_keep_dying_ends_the_run_with_one_line(engine: Engine, tmp_path: Path) -> None:
    plan = faulty(tmp_path, "kill", clients=2, retries=1)
    with pytest.raises(TrainingError) as caught:
        engine.run(Datasets().open(plan), tmp_path, Observer())
    assert str(caught.value).startswith("client 1, task 1, round 2: the worker died")
    assert "\n" not in str(caught.value)


# Synthesis -------------------------------------------------------------------------------------


class Kept:
    """Keeps chains in memory, after every episode."""

    due = True

    def __init__(self) -> None:
        self.saved: dict[int, tuple[int, State]] = {}
        self.deaths: list[str] = []

    def keep(self, chain: int, episodes: int, state: State) -> None:
        copied = from_records(*to_records(state))
        self.saved[chain] = episodes, copied

    def reached(self, chain: int) -> tuple[int, State] | None:
        return self.saved.get(chain)

    def lost(self, chain: int, reason: str) -> None:
        self.deaths.append(reason)


@pytest.mark.ray
def test_a_synthesis_worker_that_is_killed_changes_nothing(
    engine: Engine, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Also in the middle of an episode: the killer waits until one has begun, and asks each worker for its number
    when it is handed out."""
    plan = plan_of(tmp_path, LANDER)
    context = Datasets().open(plan)
    nayer = create("nayer", **{**NAYER, "rounds": 10, "steps": 20, "chains": 2})
    problem = synthesis_problem(context, context.first_net(), [0, 1], context.anchors, None, ("test",))
    jobs = [Job.of(nayer, chain, plan.net, problem, 1) for chain in range(2)]
    assert nayer.episodes > 5  # so that no chain is over, and no worker idle, when the second is killed
    killed: list[int] = []
    at_chains: list[int] = []  # those that are told of first have begun
    executor = engine._executor
    assert isinstance(executor, RayExecutor)
    take = executor._pool.take

    def told() -> Any:
        if (actor := take()) is not None:
            at_chains.append(ray.get(actor.__ray_call__.remote(lambda _: os.getpid())))
        return actor

    def tick(done: int, terms: dict[str, float]) -> None:
        if done in (2, 5) and done not in killed:
            killed.append(done)
            os.kill(at_chains.pop(0), signal.SIGKILL)

    monkeypatch.setattr(executor._pool, "take", told)
    keeper = Kept()
    pools = executor.run(jobs, nayer.episodes, tick, keeper)
    expected = LocalExecutor().run(jobs, nayer.episodes, lambda done, terms: None, Kept())
    assert killed == [2, 5]
    assert len(keeper.deaths) >= 2
    assert all("a synthesis worker died" in reason for reason in keeper.deaths)
    assert all(same(a, b) for a, b in zip(pools, expected, strict=True))


def test_a_chain_goes_on_from_any_episode(tmp_path: Path) -> None:
    plan = plan_of(tmp_path, LANDER)
    context = Datasets().open(plan)
    nayer = create("nayer", **{**NAYER, "rounds": 3})
    job = Job.of(
        nayer, 0, plan.net, synthesis_problem(context, context.first_net(), [0, 1], context.anchors, None, (1,)), 1
    )
    states: list[tuple[int, State]] = []
    whole = ChainWorker()
    whole.start(job)
    for number in range(1, nayer.episodes + 1):
        whole.step()
        states.append((number, from_records(*to_records(whole.state()))))
    expected = flatten(whole.state())
    for reached in states:
        other = ChainWorker()
        assert other.start(job, reached) == reached[0]
        for _ in range(reached[0], nayer.episodes):
            other.step()
        got = flatten(other.state())
        assert same(got[0], expected[0])
        assert got[1] == expected[1]


@pytest.mark.ray
def test_the_pool_does_not_depend_on_the_number_of_workers(
    engine: Engine, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    plan = plan_of(tmp_path, LANDER)
    context = Datasets().open(plan)
    net, nayer = context.first_net(), create("nayer", **{**NAYER, "chains": 3})
    problem = synthesis_problem(context, net, [0, 1], context.anchors, None, ("test",))
    jobs = [Job.of(nayer, chain, plan.net, problem, 1) for chain in range(3)]
    ticks: list[int] = []

    def pools(executor: Executor) -> list[Tensors]:
        return executor.run(jobs, nayer.episodes, lambda done, terms: ticks.append(done), Kept())

    two = engine._executor
    assert isinstance(two, RayExecutor)
    expected, with_two = pools(LocalExecutor()), pools(two)
    assert two._pool.size == 2
    monkeypatch.setattr(two._pool, "size", 1)
    with_one = pools(two)

    assert ticks == [*range(1, 3 * nayer.episodes + 1)] * 3
    for chain in range(3):
        assert same(expected[chain], with_two[chain])
        assert same(expected[chain], with_one[chain])
    assert not torch.equal(expected[0]["x"], expected[1]["x"])


@pytest.mark.ray
def test_what_fails_on_a_synthesis_worker_is_said_in_one_line(engine: Engine, tmp_path: Path) -> None:
    plan = plan_of(tmp_path, LANDER)
    context = Datasets().open(plan)
    nayer = create("nayer", **{**NAYER, "lr": 1e30})
    job = Job.of(
        nayer, 0, plan.net, synthesis_problem(context, context.first_net(), [0, 1], context.anchors, None, ("test",)), 1
    )
    with pytest.raises(TrainingError) as caught:
        engine._executor.run([job], nayer.episodes, lambda done, terms: None, Kept())
    assert "synthesis term" in str(caught.value)
    assert "\n" not in str(caught.value)


@pytest.mark.ray
def test_a_synthesis_that_fails_leaves_its_workers_to_the_next(engine: Engine, tmp_path: Path) -> None:
    plan = plan_of(tmp_path, LANDER)
    context = Datasets().open(plan)
    problem = synthesis_problem(context, context.first_net(), [0, 1], context.anchors, None, ("test",))
    bad, good = create("nayer", **{**NAYER, "lr": 1e30, "chains": 2}), create("nayer", **{**NAYER, "chains": 2})
    for method, fails in ((bad, True), (bad, True), (good, False)):
        jobs = [Job.of(method, chain, plan.net, problem, 1) for chain in range(2)]
        with pytest.raises(TrainingError) if fails else nullcontext():
            pools = engine._executor.run(jobs, method.episodes, lambda done, terms: None, Kept())
    assert [len(pool["x"]) for pool in pools] == [10, 10]


def test_a_chain_is_stepped_episode_by_episode(tmp_path: Path) -> None:
    plan = plan_of(tmp_path, LANDER)
    context = Datasets().open(plan)
    nayer = create("nayer", **NAYER)
    worker = ChainWorker()
    worker.start(
        Job.of(
            nayer, 0, plan.net, synthesis_problem(context, context.first_net(), [0, 1], context.anchors, None, (1,)), 1
        )
    )
    terms = [worker.step() for _ in range(nayer.episodes)]
    assert all(terms)
    assert worker.result()["x"].shape == (20, 1, 8, 8)


@pytest.mark.ray
def test_ray_comes_without_processes_that_only_show_it_and_its_workers_have_our_priority(engine: Engine) -> None:
    commands = [" ".join(process.cmdline()) for process in psutil.Process().children(recursive=True)]
    assert any("gcs_server" in command for command in commands)
    assert not [c for c in commands if "dashboard/dashboard.py" in c or "log_monitor" in c or "monitor.py" in c]
    pool = pool_of(engine)
    while (worker := pool.take()) is None:
        pool.wait(1.0)
    pool.give_back(worker)
    assert ray.get(worker.__ray_call__.remote(lambda _: os.nice(0))) == os.nice(0)


@pytest.mark.ray
def test_chains_run_on_the_workers_of_the_clients(engine: Engine) -> None:
    shared = cast(RayExecutor, engine._executor)._pool
    assert isinstance(shared, SharedPool)
    actor = shared.take()
    assert actor not in pool_of(engine)._idle
    shared.give_back(actor)
    assert actor in pool_of(engine)._idle
