"""A smoke run is known again wherever its record is read, and nothing is concluded from it."""

from __future__ import annotations

import io
from pathlib import Path

import pytest
from command_line import Command
from rich.console import Console
from run_folders import make_results, make_run
from small_runs import silently, write_experiment

import fcil
from fcil.compare import compare
from fcil.compare.write import markdown
from fcil.distillation.teachers import doubt
from fcil.federation.persistence.smoke import MEANING, is_smoke
from fcil.plots import draw_comparison
from fcil.plots.run import subtitle
from fcil.report import report
from fcil.runs.plans import planned
from fcil.runs.verify import verify
from fcil.store import Run, find_runs, load_run
from fcil.store.groups import split_label


@pytest.fixture(scope="module")
def played(tmp_path_factory: pytest.TempPathFactory) -> tuple[Run, str]:
    """A smoke run, and what was printed."""
    folder, console = tmp_path_factory.mktemp("smoke"), Console(file=io.StringIO(), width=200)
    with silently():
        (run,) = fcil.run(write_experiment(folder), out=folder / "out", smoke=True, console=console)
    return run, console.file.getvalue()  # type: ignore[attr-defined]


def test_only_what_smoke_makes_of_an_experiment_is_a_smoke_run(tmp_path: Path) -> None:
    source = write_experiment(tmp_path)
    (whole,), (cut,) = planned(source), planned(source, smoke=True)
    assert is_smoke(cut.to_yaml())
    assert not is_smoke(whole.to_yaml())
    assert not is_smoke(whole.to_yaml() | {"name": "tiny-smoke"})
    assert not is_smoke({"name": "x-smoke"})
    assert not is_smoke({})


def test_a_smoke_run_says_what_it_is_when_it_ends_and_when_it_is_played_again(played: tuple[Run, str]) -> None:
    run, printed = played
    assert MEANING in printed
    found = verify(run.path, console=Console(file=io.StringIO()))
    assert found.reproduces
    assert MEANING in found.remarks


def test_smoke_runs_never_stand_in_a_table_with_others(tmp_path: Path) -> None:
    make_results(tmp_path, ("finetune", "joint", "lander"), seeds=range(5))
    for seed in range(5):
        for number, strategy in enumerate(("finetune", "lander", "target")):
            make_run(tmp_path, strategy, seed, variant=f"{number:08x}", smoke=True)
    found = compare(find_runs([tmp_path]))
    real, smoke = found.splits
    assert (real.smoke, smoke.smoke) == (False, True)
    assert {entry.label for entry in real.entries} == {"finetune", "joint", "lander"}
    assert smoke.label == "blobs, 3 tasks, dirichlet 0.5, smoke run"
    assert smoke.tests == []
    assert smoke.best("final_accuracy") is None
    assert real.tests != []
    assert found.ranks is None  # one split is left
    assert found.warnings == [f"{smoke.label}: {MEANING}"]
    assert found.hints == []  # nobody asks for the ceiling of a smoke run
    assert "### blobs, 3 tasks, dirichlet 0.5, smoke run" in markdown(found)


def test_figures_report_and_frame_tell_smoke_runs_from_others(tmp_path: Path, command: Command) -> None:
    make_results(tmp_path, seeds=(0,))
    smoke = make_run(tmp_path, "finetune", variant="0000000a", smoke=True)
    names = {path.stem for path in draw_comparison(find_runs([tmp_path]), tmp_path / "figures", ["accuracy"])}
    assert names == {f"accuracy-blobs-3-tasks-dirichlet-0.5{end}" for end in ("", "-smoke-run")}
    assert "smoke run" in subtitle(load_run(smoke.path))
    assert report([tmp_path]).count("smoke run") > 3
    frame = fcil.load(tmp_path)
    assert frame.groupby("experiment").smoke.first().to_dict() == {"toy": False, "toy-smoke": True}
    said = command("compare", tmp_path)
    assert MEANING in " ".join(said.out.split())


def test_a_net_out_of_a_smoke_run_is_a_doubtful_teacher(tmp_path: Path) -> None:
    whole, smoke = make_run(tmp_path), make_run(tmp_path, smoke=True)
    assert MEANING in doubt(smoke.path / "net.safetensors")
    assert doubt(whole.path / "net.safetensors") == doubt(tmp_path / "net.safetensors") == ""


def test_a_smoke_run_is_held_against_no_other_data(tmp_path: Path) -> None:
    run = load_run(make_run(tmp_path, smoke=True).path)
    assert split_label(run.config).endswith(", smoke run")
    assert split_label(run.config | {"name": "toy"}) == "blobs, 3 tasks, dirichlet 0.5"
