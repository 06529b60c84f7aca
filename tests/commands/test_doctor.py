"""What the doctor says of a machine and of an experiment, and that it touches neither."""

from __future__ import annotations

import json
import sys
from collections.abc import Callable
from itertools import count
from pathlib import Path
from typing import Any, NamedTuple

import pytest
from packaging.requirements import Requirement
from small_runs import LANDER, play, write_experiment

from fcil.cli import main
from fcil.doctor import Finding, examine
from fcil.doctor.machine import disks, is_cached, shared_memory, version, versions
from fcil.errors import ConfigError
from fcil.runs.step_timer import StepTimer


def by_name(found: list[Finding]) -> dict[str, Finding]:
    return {finding.what: finding for finding in found}


@pytest.fixture(autouse=True)
def nowhere(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """No data but digits, no encoder, and a step of a second."""
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("FCIL_DATA", str(tmp_path / "data"))
    monkeypatch.setattr("fcil.runs.remote_data.is_cached", lambda name: False)
    clock = count()
    monkeypatch.setattr("fcil.doctor.experiment.StepTimer", lambda: StepTimer(lambda: float(next(clock))))


class Said(NamedTuple):
    code: Any
    out: str
    err: str


@pytest.fixture
def doctor(monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> Callable[..., Said]:
    def run(*arguments: object) -> Said:
        monkeypatch.setattr(sys, "argv", ["fcil", "doctor", *map(str, arguments)])
        with pytest.raises(SystemExit) as stop:
            main()
        return Said(stop.value.code, *capsys.readouterr())

    return run


def test_the_command_says_how_the_machine_is_and_writes_nothing(doctor: Callable[..., Said], tmp_path: Path) -> None:
    source = write_experiment(tmp_path)
    said = doctor(source, "--json")
    found = by_name([Finding(**line) for line in json.loads(said.out)])
    assert {"python", "torch", "flwr", "ray", "devices", "memory", "results", "extras", "data", "runs"} <= set(found)
    assert said.code == int(any(finding.state == "fail" for finding in found.values()))
    assert found["torch"].state == found["python"].state == "ok"
    assert all(finding.todo for finding in found.values() if finding.state != "ok" and finding.what != "estimates")
    assert [p.name for p in tmp_path.iterdir()] == ["tiny.yaml"]


def test_what_an_extra_names_again_is_still_asked_for(monkeypatch: pytest.MonkeyPatch) -> None:
    wanted = ["torch", "flwr>=999", 'flwr[dp]>=1; extra == "dev"']
    monkeypatch.setattr("importlib.metadata.requires", lambda name: wanted)
    found = by_name(list(versions()))
    assert found["flwr"].state == "fail"
    assert ">=999" in found["flwr"].found


def test_a_wrong_file_is_the_users_mistake_and_a_failure_is_not(
    doctor: Callable[..., Said], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("fcil.doctor.machine", lambda out: iter([Finding("ok", "all", "well [or so]")]))
    said = doctor(write_experiment(tmp_path, federation={"ruonds": 1}))
    assert (said.code, said.err.count("\n")) == (2, 1)
    assert 'Did you mean "rounds"' in said.err
    source = write_experiment(tmp_path)
    assert doctor(source).code == 0
    said = doctor(source, "data={dataset: tiny_imagenet, tasks: 5}")
    assert said.code == 1
    assert "set data.root" in said.out
    assert "well [or so]" in said.out


@pytest.mark.parametrize(
    ("need", "state", "said"),
    [
        ("torch", "ok", ""),
        ("torch>=1000", "fail", ">=1000 is supported"),
        ("no-such-package>1", "fail", "not installed"),
    ],
)
def test_versions_are_held_against_what_is_supported(need: str, state: str, said: str) -> None:
    (found,) = version(Requirement(need))
    assert found.state == state
    assert said in found.found
    assert list(version(Requirement("rich"))) == []


def test_a_folder_that_cannot_hold_results_fails(tmp_path: Path) -> None:
    (tmp_path / "file").touch()
    found = by_name(list(disks(tmp_path / "file" / "results")))
    assert found["results"].state == "fail"
    assert found["temporary files"].state in ("ok", "warn")
    assert list(shared_memory(tmp_path / "none")) == []


def test_an_encoder_is_found_in_a_folder_and_not_asked_of_the_network(tmp_path: Path) -> None:
    assert is_cached(str(tmp_path))
    assert not is_cached("no/such-encoder")
    assert not is_cached("no name at all")


def test_an_experiment_is_reckoned_from_a_step(tmp_path: Path) -> None:
    source = write_experiment(tmp_path, federation={"max_batches": None, "stop_after": None, "evaluate_every": 0})
    found = by_name(list(examine(source, [], Path("out"))))
    assert found["runs"].found == "1 to play, 0 finished already"
    assert found["data: digits"].found == "at hand: 1,438 training and 359 test images, 5 tasks"
    assert "anchors" not in found
    # 1,438 images, 5 tasks, 2 clients: 9 batches of 16 each, in 2 rounds of 5 tasks, a second a batch; and the tests.
    clients, tests = 5 * 2 * 2 * 9, 359 * (0.2 + 0.4 + 0.6 + 0.8 + 1) / 3 / 16
    minutes, seconds = divmod(round(clients + tests), 60)
    assert found["time in all"].found == f"at least {minutes} min {seconds:02d} s"
    assert "teachers and synthesis" in found["time in all"].todo
    assert found["disk"].state == "ok"


def test_finished_runs_need_nothing(tmp_path: Path) -> None:
    source = write_experiment(tmp_path, federation={"stop_after": 1, "rounds": 1})
    play(source, out=tmp_path / "out")
    found = list(examine(source, ["seeds=[0, 1]"], tmp_path / "out"))
    assert found[0].found == "1 to play, 1 finished already"
    assert [f.what for f in examine(source, [], tmp_path / "out")] == ["runs"]


def test_what_a_run_would_download_is_said(tmp_path: Path) -> None:
    encoder = "openai/clip-vit-base-patch32"
    source = write_experiment(tmp_path, strategy=LANDER, anchors={"encoder": encoder})
    found = by_name(list(examine(source, ["data.dataset=cifar100"], Path("out"))))
    assert (found["data: cifar100"].state, found["data: cifar100"].found) == (
        "warn",
        "not here; a run downloads 169 MB",
    )
    assert found["anchors"].found == f"{encoder} is not here; a run downloads it"
    assert "time in all" in found
    embedded = by_name(list(examine(source, ["anchors={}"], Path("out"))))
    assert embedded["anchors"].found == "10 classes, embedded"
    folder = by_name(list(examine(source, ["data={dataset: image_folder, root: none, tasks: 2}"], Path("out"))))
    assert folder["data: image_folder"].state == "fail"
    assert folder["estimates"].state == "warn"


def test_nets_are_timed_only_as_long_as_there_is_time(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("fcil.runs.step_timer.BUDGET", 1.0)
    source = write_experiment(tmp_path, matrix={"net.width": [2, 4]})
    found = by_name(list(examine(source, [], Path("out"))))
    assert found["time in all"].found.endswith(", of 1 of 2 runs")


def test_data_that_cannot_be_shared_out_is_the_users_mistake(tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match="900 clients"):
        list(examine(write_experiment(tmp_path, federation={"clients": 900}), [], Path("out")))
