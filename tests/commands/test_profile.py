"""`--profile` of the verbs that play runs: the same run, and beside it where its time went."""

from __future__ import annotations

import re
import sys
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from command_line import Command, assert_refused
from small_distillations import write as write_distillation
from small_runs import LANDER, Stop, StopAfter, final_weights, play, same, silently, without_seconds, write_experiment
from typer.testing import CliRunner

import fcil
from fcil import flower
from fcil.errors import ConfigError
from fcil.federation.observer import Observer
from fcil.optimizer import SGD
from fcil.profiling import Profile, Profiler
from fcil.profiling.phases import EVALUATION, EXCHANGE, GENERATOR, LOSS, OTHER, START
from fcil.store import Run

pytest.importorskip("pyinstrument", reason="of the extra `dev`")


@pytest.fixture
def kept(monkeypatch: pytest.MonkeyPatch) -> Iterator[list[Profile]]:
    """Profiles that were written."""
    profiles: list[Profile] = []
    write = fcil.profiling.profiler.write  # type: ignore[attr-defined]

    def keep(profile: Profile, *rest: Any) -> None:
        profiles.append(profile)
        write(profile, *rest)

    monkeypatch.setattr("fcil.profiling.profiler.write", keep)
    yield profiles
    assert sys.getprofile() is None  # nothing samples any more


def profiled(source: Path, *overrides: str, out: Path, observer: Observer | None = None) -> list[Run]:
    with silently(observer):
        return fcil.run(source, *overrides, out=out, profiler=Profiler())


def refuse(*_: Any) -> None:
    raise AssertionError("Ray was started")


def test_a_profiled_run_is_the_same_run_and_starts_no_ray(
    tmp_path: Path, kept: list[Profile], monkeypatch: pytest.MonkeyPatch
) -> None:
    source = write_experiment(tmp_path, strategy=LANDER)
    (plain,) = play(source, out=tmp_path / "plain")
    monkeypatch.setattr("fcil.federation.engine.RaySession", refuse)
    began = time.process_time()
    (run,) = profiled(source, "federation.backend=ray", out=tmp_path / "profiled")
    elapsed = time.process_time() - began
    assert run.path.relative_to(tmp_path / "profiled") == plain.path.relative_to(tmp_path / "plain")
    assert (run.path / "accuracy.csv").read_bytes() == (plain.path / "accuracy.csv").read_bytes()
    assert same(final_weights(run), final_weights(plain))
    assert without_seconds(run) == without_seconds(plain)
    assert run.config["federation"]["backend"] == "ray"  # the record has the settings as they were given
    (profile,) = kept
    assert sum(map(profile.share, profile.by_phase())) == pytest.approx(1)
    assert 0.5 * elapsed < profile.total.processor < elapsed
    assert {START, LOSS, GENERATOR, EXCHANGE} <= profile.by_phase().keys()
    assert profile.share(OTHER) < 0.1
    assert profile.rounds == [(1, 1), (1, 2), (2, 1), (2, 2)]
    assert {client: profile.steps[client] for client in profile.by_client()} == {0: 8, 1: 8}
    assert set(profile.by_task()) == {0, 1, 2, 3}


def test_its_files_tell_phases_clients_tasks_and_what_to_change(tmp_path: Path, kept: list[Profile]) -> None:
    (run,) = profiled(write_experiment(tmp_path), out=tmp_path / "out")
    text = (run.path / "profile.md").read_text(encoding="utf-8")
    assert "4 rounds, from task 1, round 1, to task 2, round 2" in text
    for title in ("Time by phase", "Time by client", "Time by task", "What to change"):
        assert f"\n## {title}\n" in text
    assert re.search(r"^\| start \| [\d.]+ \| [\d.]+ % \|", text, flags=re.MULTILINE)
    assert re.search(r"^- .+ took .+", text, flags=re.MULTILINE)
    page = (run.path / "profile.html").read_text(encoding="utf-8")
    assert page.startswith("<!DOCTYPE html>")
    assert "default-src 'none'" in page
    assert "https://" not in page  # nothing is loaded from the network
    assert str(Path.cwd()) not in page
    for phase in kept[0].by_phase():
        assert f'"{phase}\\u0000<phase>\\u00000"' in page
    assert "fcil/roles.py" in page


def test_what_a_process_plays_of_a_run_is_profiled(tmp_path: Path, kept: list[Profile]) -> None:
    source = write_experiment(tmp_path)
    (plain,) = play(source, out=tmp_path / "plain")
    with pytest.raises(Stop):
        profiled(source, out=tmp_path / "out", observer=StopAfter(3))
    (folder,) = (tmp_path / "out").glob("tiny/*/seed0")
    assert "3 rounds, from task 1, round 1, to task 2, round 1" in (folder / "profile.md").read_text(encoding="utf-8")
    with silently():
        run = fcil.resume(folder, profiler=Profiler())
    assert [profile.rounds[0] for profile in kept] == [(1, 1), (2, 1)]
    assert "2 rounds, from task 2, round 1, to task 2, round 2" in (folder / "profile.md").read_text(encoding="utf-8")
    assert (run.path / "accuracy.csv").read_bytes() == (plain.path / "accuracy.csv").read_bytes()


class TakesTheHook(Observer):
    """Ends the sampling, as a profiler of the strategy's own does, or an error within a sample."""

    def task_started(self, task: Any) -> None:
        if task.number == 1:
            sys.setprofile(None)


def test_sampling_goes_on_when_something_took_the_interpreters_hook(tmp_path: Path, kept: list[Profile]) -> None:
    profiled(write_experiment(tmp_path), out=tmp_path / "out", observer=TakesTheHook())
    assert kept[0].share(OTHER) < 0.1
    assert kept[0].seconds(LOSS, EVALUATION) > 0
    assert kept[0].greatest(2) != OTHER


def test_every_run_of_a_matrix_has_its_own(tmp_path: Path, kept: list[Profile]) -> None:
    source = write_experiment(tmp_path, seeds=[0, 1], federation={"rounds": 1, "stop_after": 1})
    runs = profiled(source, out=tmp_path / "out")
    assert all((run.path / "profile.html").is_file() for run in runs)
    assert [profile.rounds for profile in kept] == [[(1, 1)], [(1, 1)]]


def test_a_run_that_fails_leaves_its_profile(
    tmp_path: Path, kept: list[Profile], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(SGD, "step", lambda self: 1 / 0)
    with pytest.raises(fcil.errors.TrainingError):
        profiled(write_experiment(tmp_path), out=tmp_path / "out")
    (path,) = (tmp_path / "out").glob("tiny/*/seed0/profile.md")
    assert "1 rounds, from task 1, round 1, to task 1, round 1" in path.read_text(encoding="utf-8")


# The command line ---------------------------------------------------------------------------------


def test_the_command_prints_the_tables_and_names_the_files(command: Command) -> None:
    write_experiment(Path("."), federation={"rounds": 1})
    with silently():
        said = command("run", "tiny.yaml", "--profile", "--out", "out")
        again = command("run", "tiny.yaml", "--profile", "--out", "out")
    assert (said.code, said.err) == (0, "")
    (folder,) = Path("out").glob("tiny/*/seed0")
    lines = said.out.splitlines()
    assert any(line.startswith("--profile: played in this process, one client after the other") for line in lines)
    assert {"Time by phase", "Time by client", "Time by task"} <= {line.strip() for line in lines}
    assert any(line.startswith("what to change: ") for line in lines)
    assert f"{folder}: profile.md, profile.html" in lines
    assert again.code == 0
    assert again.out.splitlines() == [
        f"{folder} is finished; nothing to do",
        "--profile: no run was left to play, so there is no profile",
    ]


def test_a_run_that_is_resumed_can_be_profiled(command: Command) -> None:
    write_experiment(Path("."))
    with silently(StopAfter(3, reason=KeyboardInterrupt)):
        assert command("run", "tiny.yaml", "--out", "out").code == 130
    (folder,) = Path("out").glob("tiny/*/seed0")
    assert not (folder / "profile.md").exists()
    with silently():
        said = command("resume", folder, "--profile")
    assert said.code == 0
    assert f"{folder}: profile.md, profile.html" in said.out.replace("\n", " ").replace(str(Path.cwd()) + "/", "")
    assert (folder / "profile.html").is_file()


def test_teacher_and_student_of_a_distillation_are_profiled(command: Command) -> None:
    write_distillation(Path("."))
    with silently():
        said = command("distill", "tiny.yaml", "--profile", "--out", "out")
    assert said.code == 0
    assert len([*Path("out").glob("*/*/seed0/profile.md")]) == 2
    student = next(Path("out").glob("*/distill-*/seed0/profile.md")).read_text(encoding="utf-8")
    assert f"| {GENERATOR} |" in student


@pytest.mark.parametrize(
    ("options", "line"),
    [
        (("--jobs", "2"), "--jobs 2 is not allowed with --profile, which plays all runs in one process; leave it out"),
        (("--dry-run",), "run: --profile is for runs that are played, and --dry-run plays none"),
    ],
)
def test_what_does_not_go_with_a_profile_is_one_line(command: Command, options: tuple[str, ...], line: str) -> None:
    write_experiment(Path("."))
    assert_refused(command("run", "tiny.yaml", "--profile", "--out", "out", *options), line)


def test_a_deployment_has_no_profile() -> None:
    said = CliRunner().invoke(flower.cli, ["deploy", "experiments/flower.yaml", "--profile"])
    assert said.exit_code == 2
    assert re.search(r"No such option:? .?--profile", said.output)


def test_without_the_package_it_is_refused_before_anything_begins(
    command: Command, monkeypatch: pytest.MonkeyPatch
) -> None:
    for name in ("pyinstrument", "pyinstrument.low_level.stat_profile"):
        monkeypatch.setitem(sys.modules, name, None)
    write_experiment(Path("."))
    line = "--profile needs a package more; pip install 'fcil[profile]'"
    assert_refused(command("run", "tiny.yaml", "--profile", "--out", "out"), line)
    with pytest.raises(ConfigError, match=re.escape(line)):
        Profiler()
