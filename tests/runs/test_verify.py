"""A run that is played again gives its record, and what would not is told apart."""

from __future__ import annotations

import json
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from small_runs import final_weights, play, write_experiment, write_strategy

from fcil.cli import main
from fcil.errors import StoreError
from fcil.io.state import digest, flatten
from fcil.runs.verify import Verification, verify
from fcil.store import Run


@pytest.fixture(scope="module")
def run(tmp_path_factory: pytest.TempPathFactory) -> Run:
    folder = tmp_path_factory.mktemp("verify")
    (run,) = play(write_experiment(folder, federation={"stop_after": 1}), out=folder / "out")
    return run


@pytest.fixture
def copy(run: Run, tmp_path: Path) -> Callable[..., Path]:
    """The run's folder again, its record and its env.json changed."""

    def make(change: Callable[[dict[str, Any]], None] = lambda record: None, **env: Any) -> Path:
        path = tmp_path.joinpath(*run.path.parts[-3:])
        path.mkdir(parents=True)
        for name in ("config.yaml", "strategy.py", "rounds.jsonl", "env.json"):
            (path / name).write_bytes((run.path / name).read_bytes())
        records = [json.loads(line) for line in (path / "rounds.jsonl").read_text().splitlines()]
        for record in records:
            change(record)
        (path / "rounds.jsonl").write_text("".join(json.dumps(r) + "\n" for r in records))
        about = json.loads((path / "env.json").read_text())
        (path / "env.json").write_text(json.dumps(about | env))
        return path

    return make


def text(found: Verification) -> str:
    return "\n".join(found.lines())


def test_the_record_holds_a_digest_of_the_weights_after_each_round(run: Run) -> None:
    digests = [record["weights"] for record in run.rounds]
    assert len(set(digests)) == len(digests) == 2
    assert digests[-1] == digest(*flatten({"net": final_weights(run)}))


def test_a_run_is_reproduced_to_the_bit_and_its_folder_left_alone(run: Run) -> None:
    before = {p: p.read_bytes() for p in run.path.rglob("*") if p.is_file()}
    found = verify(run.path, 2)
    assert (found.verdict, found.reproduces, found.rounds) == ("bit", True, 2)
    assert text(found) == "rounds 1 to 2: this machine reproduces the record to the bit"
    assert {p: p.read_bytes() for p in run.path.rglob("*") if p.is_file()} == before


def test_a_last_bit_is_close_and_what_may_have_caused_it_is_named(copy: Callable[..., Path]) -> None:
    def change(record: dict[str, Any]) -> None:
        record["terms"]["ce"] *= 1 + 1e-6
        record["weights"] = "0" * 32

    found = verify(copy(change, versions={"torch": "1.0"}, cpu="abacus"))
    assert (found.verdict, found.reproduces) == ("close", True)
    assert [d.key for d in found.differences] == ["terms.ce", "weights"]
    assert "torch 1.0 there" in text(found)
    assert "cpu abacus there" in text(found)


@pytest.mark.parametrize(("first", "verdict"), [(1e-7, "close"), (0.0, "different")])
def test_rounding_may_grow_but_not_come_from_nowhere(copy: Callable[..., Path], first: float, verdict: str) -> None:
    def change(record: dict[str, Any]) -> None:
        record["terms"]["ce"] *= 1 + (first if record["round"] == 1 else 0.05)

    found = verify(copy(change), 2)
    assert found.verdict == verdict
    assert [d.round for d in found.differences] == ([1, 2] if first else [2])


@pytest.mark.parametrize("key", ["terms.ce", "accuracy", "lr", "bytes_up", "clients"])
def test_another_number_is_not_reproduced(copy: Callable[..., Path], key: str) -> None:
    def change(record: dict[str, Any]) -> None:
        spot, _, name = key.rpartition(".")
        place = record[spot] if spot else record
        place[name] = [7] if name == "clients" else (place[name] + 1) / 4 if name == "accuracy" else place[name] * 2 + 1

    found = verify(copy(change))
    assert (found.verdict, found.reproduces) == ("different", False)
    assert [d.key for d in found.differences] == [key]
    assert "versions, threads and processor are as they were" in text(found)
    assert json.loads(json.dumps(found.to_json()))["differences"][0]["close"] is False


def test_an_older_record_is_compared_by_its_other_numbers(copy: Callable[..., Path]) -> None:
    found = verify(copy(lambda record: record.pop("weights")))
    assert found.verdict == "bit"
    assert "no digest of the weights" in text(found)


def test_threads_are_those_of_the_record(copy: Callable[..., Path], monkeypatch: pytest.MonkeyPatch) -> None:
    seen = []
    monkeypatch.setattr("fcil.federation.engine.settle_arithmetic", seen.append)
    assert verify(copy(threads=3)).verdict in ("bit", "close")
    assert seen == [3]


def test_what_cannot_be_compared_is_refused(run: Run, copy: Callable[..., Path], tmp_path: Path) -> None:
    with pytest.raises(StoreError, match="holds rounds 1 to 2; 3 cannot be played again"):
        verify(run.path, 3)
    with pytest.raises(StoreError, match="not a run folder"):
        verify(tmp_path)
    path = copy()
    (path / "rounds.jsonl").write_text("")
    with pytest.raises(StoreError, match="holds no round yet"):
        verify(path)


def test_code_of_strangers_is_run_only_if_it_is_trusted(tmp_path: Path) -> None:
    own = write_strategy(tmp_path)
    source = write_experiment(tmp_path, strategy=str(own), federation={"stop_after": 1, "rounds": 1})
    (run,) = play(source, out=tmp_path / "out")
    own.write_text(own.read_text() + "\n# another now\n")
    with pytest.raises(StoreError, match="say --trust"):
        verify(run.path)
    assert verify(run.path, trust=True).verdict == "bit"


def test_the_command_says_by_its_exit_code_whether_the_record_is_reproduced(
    run: Run, copy: Callable[..., Path], monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    changed = copy(lambda record: record.update(accuracy=1.0))
    for path, code, verdict in ((run.path, 0, "bit"), (changed, 1, "different")):
        monkeypatch.setattr(sys, "argv", ["fcil", "verify", str(path), "--json"])
        with pytest.raises(SystemExit) as stop:
            main()
        assert stop.value.code == code
        assert json.loads(capsys.readouterr().out)["verdict"] == verdict
