"""Several runs: who plays which, what is said of those that fail, and what all of them will take."""

from __future__ import annotations

import gc
import io
import json
import re
import weakref
from collections.abc import Callable, Hashable, Iterable
from contextlib import closing
from pathlib import Path
from typing import Any

import pytest
from rich.console import Console
from run_processes import COUNTS, Forked, until
from small_runs import LANDER, Stop, StopAfter, play, silently, write_experiment
from small_runs import write_strategy as write
from typer.testing import CliRunner

import fcil
from fcil.cli import app
from fcil.console.runs_table import RunsTable, labels
from fcil.errors import ConfigError, DataError, StoreError, TrainingError
from fcil.experiment import resume
from fcil.federation.context import Datasets, RunContext
from fcil.federation.ray.runs import Machine, Outcome, check_devices
from fcil.federation.runtime.interrupts import Interrupted
from fcil.federation.settings import Resources
from fcil.io.lock import claimed, clear
from fcil.runs.estimate import estimate
from fcil.runs.parallel import ParallelScheduler, how_many, jobs_asked_for
from fcil.runs.plans import planned
from fcil.runs.play import execute_in_worker
from fcil.runs.sequential import free_runs
from fcil.store import RunFolder

SHORT = {"rounds": 1, "max_batches": 1}


def lines(console: Console) -> str:
    return console.file.getvalue()  # type: ignore[attr-defined, no-any-return]


def quiet() -> Console:
    return Console(file=io.StringIO(), width=300)


def counting(folder: Path, matrix: list[dict[str, Any]], **parts: Any) -> Path:
    own = str(write(folder, COUNTS, "counts"))
    strategies = [{own: {"place": str(folder), **options}} for options in matrix]
    return write_experiment(folder, matrix={"strategy": strategies}, federation={**SHORT}, **parts)


def begun(folder: Path) -> list[str]:
    """A word and the seed for each run that was begun, sorted."""
    return sorted(line.rpartition(" ")[0].strip() for line in (folder / "begun").read_text().splitlines())


# Claims ----------------------------------------------------------------------------------------


def test_a_run_belongs_to_one_at_a_time_and_the_lock_is_not_part_of_it(tmp_path: Path) -> None:
    folder = tmp_path / "x" / "seed0"
    with claimed(folder) as ours:
        assert ours
        with claimed(folder) as again:
            assert not again
        clear(folder)
    with claimed(folder) as ours:
        assert ours
    assert not folder.exists()
    assert [p.name for p in folder.parent.iterdir()] == [".seed0.lock"]


def test_a_run_that_is_played_is_not_cleared(tmp_path: Path) -> None:
    (tmp_path / "seed0").mkdir()
    with claimed(tmp_path / "seed0"):
        clear(tmp_path / "seed0")
        assert (tmp_path / "seed0").is_dir()
    clear(tmp_path / "seed0")
    assert not (tmp_path / "seed0").exists()


def test_what_others_play_is_waited_for_and_taken_over(tmp_path: Path) -> None:
    plans = planned(write_experiment(tmp_path, seeds=[0, 1, 2]))
    console, order = quiet(), []
    with claimed(tmp_path / plans[0].folder), claimed(tmp_path / plans[1].folder):
        turns = free_runs(plans, tmp_path, console, pause=0.0)
        order.append(next(turns).seed)
        with claimed(tmp_path / plans[2].folder) as ours:
            assert not ours
    folder = RunFolder(tmp_path / plans[0].folder)
    folder.path.mkdir()
    folder.summary.write_text("{}")
    with closing(turns):
        order += [plan.seed for plan in turns]
    assert order == [2, 1]
    assert f"{folder.path} was finished by another process" in lines(console)


def test_waiting_for_others_is_said_once(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (plan,) = planned(write_experiment(tmp_path))
    console, naps = quiet(), []
    claim = claimed(tmp_path / plan.folder)
    claim.__enter__()

    def nap(seconds: float) -> None:
        naps.append(seconds)
        if len(naps) == 3:
            claim.__exit__(None, None, None)

    monkeypatch.setattr("fcil.runs.sequential.time.sleep", nap)
    assert [p.seed for p in free_runs([plan], tmp_path, console)] == [0]
    assert lines(console) == f"waiting for {tmp_path / plan.folder}, which another process plays\n"


def test_a_run_that_another_process_plays_is_not_resumed(tmp_path: Path) -> None:
    with pytest.raises(Stop):
        play(write_experiment(tmp_path), out=tmp_path / "out", observer=StopAfter(3))
    (folder,) = (tmp_path / "out").glob("tiny/*/seed0")
    with claimed(folder), pytest.raises(StoreError, match="another process plays this run"):
        resume(folder, quiet())
    with silently():
        assert resume(folder, quiet()).finished


# Failures --------------------------------------------------------------------------------------


def test_a_run_that_fails_does_not_keep_the_others_from_being_played(tmp_path: Path) -> None:
    source = counting(tmp_path, [{"fails": "raises"}, {}], seeds=[0, 1])
    console = quiet()
    with silently(), pytest.raises(TrainingError, match="2 of 4 runs failed; the others are finished"):
        fcil.run(source, out=tmp_path / "out", console=console)
    assert begun(tmp_path) == ["0", "1", "raises 0", "raises 1"]
    said = [line for line in lines(console).splitlines() if line.startswith("failed: ")]
    assert len(said) == 2
    for seed, line in enumerate(said):
        assert f"seed {seed}: " in line
        assert "ValueError: no good (in before_task)" in line
        (folder,) = re.findall(r"fcil resume (\S+)\)", line)
        assert 'raise ValueError("no good")' in (Path(folder) / "log.txt").read_text()
    assert "final" in lines(console)  # the table of the two others


def test_one_run_alone_fails_as_it_is(tmp_path: Path) -> None:
    with pytest.raises(TrainingError, match="no good"):
        play(counting(tmp_path, [{"fails": "raises"}]), out=tmp_path / "out")


def test_nothing_of_a_run_that_failed_is_kept(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    left: list[weakref.ref[Any]] = []

    class Large:
        pass

    def fail(engine: Any, context: RunContext, path: Path, console: Console) -> None:
        large = Large()
        left.append(weakref.ref(large))
        gc.collect()
        assert [r for r in left[:-1] if r() is not None] == []  # those of the runs before
        raise RuntimeError(f"no memory for {large}")

    monkeypatch.setattr("fcil.runs.play.execute_run", fail)
    with pytest.raises(TrainingError, match="3 of 3"):
        play(write_experiment(tmp_path, seeds=[0, 1, 2]), out=tmp_path / "out")
    assert len(left) == 3


def test_a_process_of_a_matrix_reads_its_data_once(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    seen, out = list[RunContext](), tmp_path / "out"
    out.mkdir()
    monkeypatch.setattr("fcil.runs.play.execute_run", lambda engine, context, path, console: seen.append(context))
    for plan in planned(write_experiment(tmp_path, seeds=[0, 1])):
        outcome = execute_in_worker(plan.to_json(), out / plan.folder, out.stat().st_ino)
        assert outcome.state == "finished"
    assert [context.plan.seed for context in seen] == [0, 1]
    assert seen[0].loaded is seen[1].loaded


# At once ---------------------------------------------------------------------------------------


class Scripted:
    """Runs that end as they are told to, in the order in which they were begun."""

    def __init__(self, at_once: int, outcomes: dict[int, Outcome], ends: Callable[[Path], None]) -> None:
        self.at_once, self.outcomes, self.ends = at_once, outcomes, ends
        self.running: list[tuple[Path, Path]] = []
        self.most = 0
        self.closed = self.stopped = False
        self.interrupt = 0

    @property
    def busy(self) -> int:
        return len(self.running)

    @property
    def free(self) -> bool:
        return self.busy < self.at_once

    def start(self, name: Hashable, play: Any, *arguments: Any) -> None:
        assert isinstance(name, Path)
        self.running.append((name, arguments[1]))
        self.most = max(self.most, self.busy)

    def wait(self, seconds: float) -> Iterable[tuple[Hashable, Outcome]]:
        if self.interrupt and self.busy == self.interrupt and not self.stopped:
            raise KeyboardInterrupt
        if self.running:
            name, path = self.running.pop(0)
            outcome = self.outcomes.get(int(path.name.removeprefix("seed")), Outcome("finished"))
            if outcome.state == "finished":
                self.ends(path)
            yield name, Outcome("interrupted") if self.stopped else outcome

    def stop(self) -> None:
        self.stopped = True

    def close(self) -> None:
        self.closed = True


def finish(path: Path) -> None:
    path.mkdir(parents=True, exist_ok=True)
    (path / "summary.json").write_text('{"final_accuracy": 0.5}')


def together(folder: Path, runners: Scripted, seeds: int) -> tuple[ParallelScheduler, Console]:
    plans, console = planned(write_experiment(folder, seeds=list(range(seeds)))), quiet()
    board = RunsTable(plans, Datasets(), folder, console, runners.at_once)
    return ParallelScheduler(plans, folder, board, runners, lambda *_: Outcome("finished"), pause=0.0), console


def test_runs_are_played_beside_each_other_until_none_is_left(tmp_path: Path) -> None:
    runners = Scripted(2, {1: Outcome("failed", "its process died")}, finish)
    stage, console = together(tmp_path, runners, 5)
    failed = stage.play()
    assert [path.name for path in failed] == ["seed1"]
    assert list(failed.values()) == ["its process died"]
    assert (runners.most, runners.closed) == (2, True)
    said = lines(console)
    assert len(re.findall("seed . begins", said)) == 5
    assert len(re.findall(r"seed . done: accuracy 50\.0 %", said)) == 4
    assert "[2/5] finetune · seed 1 failed: its process died" in said


def test_runs_of_another_process_are_left_to_it_and_taken_over_when_it_dies(tmp_path: Path) -> None:
    runners = Scripted(2, {}, finish)
    stage, console = together(tmp_path, runners, 3)
    theirs = [claimed(tmp_path / plan.folder) for plan in stage.plans[:2]]
    for claim in theirs:
        claim.__enter__()
    ended: list[Path] = []

    def end(path: Path) -> None:
        finish(path)
        ended.append(path)
        if path.name == "seed2":  # now the other process ends: one run is finished, one is not
            finish(tmp_path / stage.plans[0].folder)
            for claim in theirs:
                claim.__exit__(None, None, None)

    runners.ends = end
    assert stage.play() == {}
    assert [path.name for path in ended] == ["seed2", "seed1"]
    said = lines(console)
    assert said.count("is played by another process") == 2
    assert "seed 0 done: accuracy 50.0 % by another process" in said
    assert "seed 1 was given up by another process" in said


def test_an_interruption_lets_runs_save_and_plays_no_more(tmp_path: Path) -> None:
    runners = Scripted(2, {}, finish)
    runners.interrupt = 2
    stage, console = together(tmp_path, runners, 5)
    with pytest.raises(Interrupted):
        stage.play()
    assert (runners.stopped, runners.closed, runners.busy) == (True, True, 0)
    assert lines(console).count("begins") == 2
    assert "stopping as soon as each run is saved; once more stops at once" in lines(console)


@pytest.mark.parametrize(
    ("machine", "resources", "each", "room"),
    [
        (Machine(8, 0, 1e9), Resources(device="cpu"), 1e8, 8),
        (Machine(8, 0, 1e9), Resources(device="cpu", threads=3), 1e8, 2),
        (Machine(8, 0, 1e9), Resources(device="cpu"), 4e8, 2),
        (Machine(8, 0, 1e9), Resources(device="cpu"), 4e9, 1),
        (Machine(8, 0, 1e9), Resources(device="cpu", threads=16), 1e8, 1),
    ],
)
def test_as_many_runs_are_played_at_once_as_fit(machine: Machine, resources: Resources, each: float, room: int) -> None:
    assert machine.room(resources, each) == room


def test_gpus_are_shared_out_by_the_larger_share(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("torch.cuda.is_available", lambda: True)
    monkeypatch.setattr("torch.cuda.device_count", lambda: 2)
    machine = Machine(64, 2, 1e12)
    assert machine.room(Resources(), 1.0) == 6  # three to a GPU, whose synthesis takes 0.3
    assert machine.room(Resources(client_gpus=0.6), 1.0) == 2
    assert machine.options(Resources(), 6) == {"num_cpus": 1, "num_gpus": 0.3}
    with pytest.raises(ConfigError, match='"cuda:1" is not allowed with several runs at once'):
        check_devices([Resources(), Resources(device="cuda:1")])


def test_more_runs_than_cores_may_be_asked_for() -> None:
    cpu = Resources(device="cpu")
    assert Machine(2, 0, 1e9).options(cpu, 8)["num_cpus"] * 8 <= 2
    assert Machine(8, 0, 1e9).options(Resources(device="cpu", threads=4), 4)["num_cpus"] * 4 <= 8


def test_how_many_runs_are_played_at_once(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    plans = planned(write_experiment(tmp_path, seeds=[0, 1, 2], federation={"clients": 5, "backend": "ray"}))
    monkeypatch.setattr(Machine, "found", classmethod(lambda cls: Machine(2, 0, 1e12)))
    assert [how_many(plans, jobs) for jobs in (None, 1, 2, 9)] == [2, 1, 2, 3]
    assert how_many(plans[:1], 4) == 1
    monkeypatch.setattr(Machine, "found", classmethod(lambda cls: Machine(64, 0, 1e12)))
    assert how_many(plans, None) == 1  # the five clients of a run keep more cores busy than three runs
    with pytest.raises(ConfigError, match="--jobs 0 is not allowed"):
        how_many(plans, 0)
    assert jobs_asked_for(plans, None) is None
    assert jobs_asked_for(planned(write_experiment(tmp_path)), None) == 1
    assert jobs_asked_for(planned(write_experiment(tmp_path)), 3) == 3


# What is seen ----------------------------------------------------------------------------------


def test_the_board_reads_how_far_runs_are_from_their_folders(tmp_path: Path) -> None:
    now = [0.0]
    plans = planned(write_experiment(tmp_path, seeds=[0, 1, 2], federation={"rounds": 4}))
    console = quiet()
    board = RunsTable(plans, Datasets(), tmp_path, console, 2, clock=lambda: now[0])
    board.begin(plans[0])
    board.begin(plans[1])
    board.look()
    assert board.seconds_left() is None
    rounds = tmp_path / plans[0].folder / "rounds.jsonl"
    rounds.parent.mkdir(parents=True)
    now[0] = 10.0
    rounds.write_text('{"task": 1, "round": 1}\n{"task": 1, "round": 2, "accuracy": 0.25}\n{"task": 1, "rou')
    board.look()
    row = board.rows[plans[0].folder]
    assert (row.task, row.round, row.accuracy) == (1, 2, 0.25)
    assert row.pace.seconds() == 30.0  # 5 s for each of 6 rounds
    assert board.seconds_left() == 30.0 + 40.0  # and a third run where the first was
    console.print(board)
    assert re.search(r"finetune · seed 0 +1/2 +2/4 +25\.0 % +30 s", lines(console))
    assert "0 finished · 2 playing · 1 waiting · about 1 min 10 s left" in lines(console)


def test_runs_are_named_by_what_tells_them_apart(tmp_path: Path) -> None:
    matrix = {"strategy": ["finetune", {"lander": {"radius": 0.1}}, {"lander": {"radius": 0.2}}], "data.tasks": [2, 5]}
    names = list(labels(planned(write_experiment(tmp_path, matrix=matrix)), tmp_path).values())
    assert len(set(names)) == 6
    assert "lander (radius 0.1) · digits, 5 tasks, iid · seed 0" in names


# What it will take -----------------------------------------------------------------------------


@pytest.fixture(scope="module")
def half_done(tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, Path]:
    """A file of four runs and a folder in which one is finished and one begun."""
    folder = tmp_path_factory.mktemp("half")
    source = write_experiment(folder, matrix={"strategy": ["finetune", "joint"]}, seeds=[0, 1])
    play(source, "matrix=null", "strategy=finetune", "seeds=[0]", out=folder / "out")
    with pytest.raises(Stop):
        play(source, "matrix=null", "strategy=joint", "seeds=[0]", out=folder / "out", observer=StopAfter(3))
    return source, folder / "out"


def tree(folder: Path) -> dict[Path, int]:
    return {p: p.stat().st_mtime_ns for p in folder.rglob("*")}


def test_a_dry_run_tells_states_and_costs_and_writes_nothing(half_done: tuple[Path, Path], tmp_path: Path) -> None:
    source, out = half_done
    before = tree(out)
    done = CliRunner().invoke(app, ["run", str(source), "--out", str(out), "--dry-run", "--json"])
    assert done.exit_code == 0
    assert tree(out) == before
    found = json.loads(done.stdout)
    runs = found["runs"]
    told = [(r["label"], r["state"], r["rounds_done"], r["rounds"], r["basis"]) for r in runs]
    assert told == [
        ("finetune · seed 0", "finished", 4, 4, None),
        ("finetune · seed 1", "new", 0, 4, "other seeds"),
        ("joint · seed 0", "begun", 3, 4, "itself"),
        ("joint · seed 1", "new", 0, 4, "one step"),
    ]
    summary = json.loads((Path(runs[0]["folder"]) / "summary.json").read_text())
    assert runs[1]["seconds"] == pytest.approx(summary["seconds"])
    assert runs[1]["bytes"] == pytest.approx(summary["bytes"], rel=0.01)
    assert runs[1]["messages"] == 16  # two tasks, two rounds, two clients, there and back
    assert found["seconds"] == pytest.approx(sum(r["seconds"] for r in runs))


def test_a_dry_run_downloads_nothing_and_says_what_would_be(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    for name in ("FCIL_DATA", "FCIL_CACHE", "HF_HOME"):
        monkeypatch.setenv(name, str(tmp_path / name))
    monkeypatch.setattr("fcil.runs.remote_data.is_cached", lambda encoder: False)
    monkeypatch.setattr("socket.socket.connect", lambda *_: pytest.fail("the network is asked"))
    data = {"dataset": "cifar100", "tasks": 5}
    anchors = {"encoder": "openai/clip-vit-base-patch32"}
    source = write_experiment(tmp_path, data=data, anchors=anchors, strategy=LANDER)
    found = estimate(source, out=tmp_path / "out")
    assert [(r.state, r.rounds, r.seconds, r.basis) for r in found.runs] == [("new", 4, None, "unknown")]
    assert found.runs[0].bytes > 0
    assert found.notes == (
        "cifar100 is not here; a run downloads 169 MB",
        "anchors: openai/clip-vit-base-patch32 is not here; a run downloads it",
    )
    told = CliRunner().invoke(app, ["run", str(source), "--out", str(tmp_path / "out"), "--dry-run"])
    assert all(note in told.stdout for note in found.notes)
    assert [path.name for path in tmp_path.iterdir()] == ["tiny.yaml"]


def test_a_dry_run_checks_the_anchors(tmp_path: Path) -> None:
    source = write_experiment(tmp_path, strategy=LANDER, anchors={"file": str(tmp_path / "none.safetensors")})
    with pytest.raises(DataError, match=r'tiny\.yaml: anchors: no anchor file ".*none\.safetensors"'):
        estimate(source, out=tmp_path / "out")


def test_an_unknown_cost_is_said_to_be_unknown(half_done: tuple[Path, Path], monkeypatch: pytest.MonkeyPatch) -> None:
    source, out = half_done
    monkeypatch.setattr("fcil.runs.estimate._step_seconds", lambda context, watch: None)
    found = estimate(source, out=out)
    assert [(r.seconds, r.basis) for r in found.runs][3] == (None, "unknown")
    assert found.seconds is None
    done = CliRunner().invoke(app, ["run", str(source), "--out", str(out), "--dry-run"])
    assert "3 of 4 runs to play, 1 at once: time unknown" in done.stdout


def test_a_damaged_run_is_named_as_such(half_done: tuple[Path, Path], tmp_path: Path) -> None:
    source, out = half_done
    (folder,) = out.glob("tiny/joint-*/seed0")
    rounds = folder / "rounds.jsonl"
    text = rounds.read_text()
    rounds.write_text("nonsense\n")
    try:
        assert estimate(source, out=out).runs[2].state == "damaged"
    finally:
        rounds.write_text(text)


def test_json_is_for_a_dry_run_alone(tmp_path: Path) -> None:
    done = CliRunner().invoke(app, ["run", str(write_experiment(tmp_path)), "--json"])
    assert isinstance(done.exception, ConfigError)


# Processes -------------------------------------------------------------------------------------


def test_two_processes_play_each_run_once_and_one_takes_over_when_the_other_dies(tmp_path: Path) -> None:
    source = counting(tmp_path, [{"waits": True}, {"waits": True, "fails": "no"}], seeds=[0, 1])
    victim, other = processes = [Forked(tmp_path, "run", source, "--out", tmp_path / "out") for _ in range(2)]
    try:
        until(lambda: len([*tmp_path.glob("waits-*")]) == 2, *processes)
        assert len(set(begun(tmp_path))) == 2  # each is at a run of its own
        victim.kill()
        victim.communicate()
        (tmp_path / "go-on").touch()
        said = other.communicate(timeout=250)
    finally:
        for process in processes:
            process.kill()
    assert other.returncode == 0, said
    assert begun(tmp_path) == ["0", "1", "no 0", "no 1"]
    logs = [path.read_text() for path in (tmp_path / "out").glob("tiny/*/seed*/log.txt")]
    assert sorted(log.count("1 rounds done before") for log in logs) == [0, 0, 0, 1]
    assert [log.count("done in ") for log in logs] == [1] * 4
