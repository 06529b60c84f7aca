"""`fcil run --shard i/n`: the runs of a matrix dealt out to n machines that know nothing of each other."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
from small_runs import SETTINGS, play, silently, write_experiment
from typer.testing import CliRunner

import fcil
from fcil.cli import app
from fcil.compare import compare, to_json
from fcil.errors import ConfigError
from fcil.runs.plans import planned
from fcil.store import find_runs

MATRIX = {"strategy": ["finetune", "joint", "fedlwf"], "federation.rounds": [1, 2, 1]}  # the third repeats the first
RUNS = 12  # three strategies, two numbers of rounds, two seeds


@pytest.fixture
def source(tmp_path: Path) -> Path:
    return write_experiment(tmp_path, matrix=MATRIX, seeds=[0, 1])


@pytest.mark.parametrize("n", [1, 2, 3, 5, 12, 20])
@pytest.mark.parametrize("smoke", [False, True])
def test_shards_are_disjoint_and_make_up_the_matrix_in_its_order(source, n, smoke):
    whole = [plan.folder for plan in planned(source, smoke=smoke)]
    shards = [[plan.folder for plan in planned(source, smoke=smoke, shard=f"{i}/{n}")] for i in range(1, n + 1)]
    assert len(whole) == (3 if smoke else RUNS)  # smoke runs have one round and one seed
    assert sorted(folder for shard in shards for folder in shard) == sorted(whole)
    assert [whole[i::n] for i in range(n)] == shards
    assert max(map(len, shards)) - min(map(len, shards)) <= 1


def test_a_dry_run_lists_a_shard_in_the_order_of_the_whole(source, tmp_path):
    def folders(*options: str) -> list[str]:
        done = CliRunner().invoke(app, ["run", str(source), "--out", str(tmp_path), "--dry-run", "--json", *options])
        assert done.exit_code == 0, done.exception
        return [run["folder"] for run in json.loads(done.stdout)["runs"]]

    whole = folders()
    assert len(whole) == RUNS
    assert folders("--shard", "2/5") == whole[1::5]
    assert folders("--shard", "20/20") == []
    assert "0 runs" in CliRunner().invoke(app, ["run", str(source), "--dry-run", "--shard", "20/20"]).stdout


@pytest.mark.parametrize("bad", ["0/2", "3/2", "1/0", "2", "/2", "1/", "-1/2", "1/2/3", "a/b", "1.0/2", "", "¹/2"])
def test_a_shard_that_is_none_is_one_line_and_nothing_is_written(source, tmp_path, bad):
    for more in ([], ["--dry-run"]):
        out = tmp_path / "out"
        done = CliRunner().invoke(app, ["run", str(source), "--out", str(out), f"--shard={bad}", *more])
        assert isinstance(done.exception, ConfigError)
        assert str(done.exception) == f'--shard "{bad}" is not allowed; expected i/n with i from 1 to n, such as 1/8'
        assert not out.exists()


def test_two_machines_leave_beside_each_other_what_one_leaves(tmp_path):
    few = ["federation.stop_after=1", "federation.rounds=1", "federation.max_batches=1"]
    settings = {**SETTINGS, "matrix": {"strategy": ["finetune", "joint"]}, "seeds": [0, 1]}
    with silently():
        shards = [fcil.run(settings, *few, out=tmp_path / "shared", shard=f"{i}/3") for i in (3, 1, 2)]
    assert [len(runs) for runs in shards] == [1, 2, 1]
    whole = play(write_experiment(tmp_path, **settings), *few, out=tmp_path / "one")
    beside = find_runs([tmp_path / "shared"])
    assert {run.path.relative_to(tmp_path / "shared") for run in beside} == {
        run.path.relative_to(tmp_path / "one") for run in whole
    }
    for run in whole:
        other = tmp_path / "shared" / run.path.relative_to(tmp_path / "one")
        assert (other / "accuracy.csv").read_text() == (run.path / "accuracy.csv").read_text()
    alone = compare(find_runs([tmp_path / "one"]))
    without = [json.dumps(to_json(c)).count("seed") for c in (compare(beside), alone)]
    assert without[0] == without[1] > 0


def test_a_shard_without_a_run_says_so_and_leaves_nothing(source, tmp_path):
    done = CliRunner().invoke(app, ["run", str(source), "--out", str(tmp_path / "out"), "--shard", "20/20"])
    assert done.exit_code == 0
    assert "--shard 20/20: no run is left for it" in done.stdout
    assert not (tmp_path / "out").exists()
