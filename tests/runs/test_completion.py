"""What is left to do when runs have ended: figures that lack, and all runs of a folder beside each other."""

from __future__ import annotations

import io
import json
import multiprocessing
import os
import shutil
import signal
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager, nullcontext
from pathlib import Path
from typing import Any

import pytest
from rich.console import Console
from run_folders import make_results, make_run
from small_runs import StopAfter, write_experiment

import fcil
from fcil.experiment import resume
from fcil.io.lock import claimed
from fcil.plots import draw_comparison, draw_run
from fcil.store import RunFolder, find_runs, load_run

SHORT = {"rounds": 1, "max_batches": 1}


class Drawn(list[str]):
    """Names of figures, in the order in which they were drawn; `until` so many a process lives."""

    until = 10_000

    def save_all(self, jobs: Sequence[tuple[Path, Callable[[], Any]]]) -> list[Path]:
        paths = [path.with_name(f"{path.name}.{kind}") for path, _ in jobs for kind in ("png", "pdf")]
        for path in paths:
            if len(self) == self.until:
                raise Killed
            path.parent.mkdir(parents=True, exist_ok=True)
            path.write_text("drawn")
            self.append(path.name)
        return paths


class Killed(BaseException):
    """The process is no more."""


@pytest.fixture
def drawn(monkeypatch: pytest.MonkeyPatch) -> Drawn:
    """Figures are files with one word, which takes no time."""
    found = Drawn()
    for module in ("run", "comparison"):
        monkeypatch.setattr(f"fcil.plots.{module}.save_all", found.save_all)
    return found


def run(source: Path, *overrides: str, out: Path) -> str:
    """What was printed."""
    console = Console(file=io.StringIO(), width=300)
    fcil.run(source, *overrides, out=out, console=console)
    return console.file.getvalue()  # type: ignore[attr-defined, no-any-return]


def names(folder: Path) -> set[str]:
    return {path.name for path in folder.iterdir()}


# Figures of one run -------------------------------------------------------------------------------


def test_a_run_whose_process_died_between_its_figures_gets_the_rest(tmp_path: Path, drawn: Drawn) -> None:
    source, out = write_experiment(tmp_path, federation=SHORT), tmp_path / "out"
    drawn.until = 5
    with pytest.raises(Killed):
        run(source, out=out)
    (found,) = find_runs([out])
    assert len(names(found.folder.figures)) == 5
    drawn.until = 10_000
    printed = run(source, out=out)
    whole = {f"{n}.{k}" for n in ("accuracy", "forgetting", "tasks", "matrix", "rounds", "bytes", "partition")
             for k in ("png", "pdf")}  # fmt: skip
    assert names(found.folder.figures) == whole
    assert "is finished; nothing to do" in printed
    assert f"{found.path}: drawn now: accuracy, forgetting, tasks, matrix" in printed
    count = len(drawn)
    assert "drawn now" not in run(source, out=out)
    resume(found.path, Console(file=io.StringIO()))
    assert len(drawn) == count


def test_figures_that_somebody_deleted_are_not_drawn_again(tmp_path: Path, drawn: Drawn) -> None:
    source, out = write_experiment(tmp_path, federation=SHORT), tmp_path / "out"
    run(source, out=out)
    (found,) = find_runs([out])
    (found.folder.figures / "matrix.pdf").unlink()
    run(source, out=out)
    assert not (found.folder.figures / "matrix.pdf").exists()
    shutil.rmtree(found.folder.figures)
    run(source, out=out)
    assert not found.folder.figures.exists()
    draw_run(found.path)  # who asks for them gets them
    assert (found.folder.figures / "matrix.pdf").exists()


def test_figures_older_than_the_run_are_drawn_anew(tmp_path: Path, drawn: Drawn) -> None:
    source, out = write_experiment(tmp_path, federation={**SHORT, "rounds": 2}), tmp_path / "out"
    with stopping_after(3), pytest.raises(Killed):
        run(source, out=out)
    (begun,) = find_runs([out], unfinished=True)
    draw_run(begun.path)  # while it goes on
    drawn.until = len(drawn)
    with pytest.raises(Killed):
        run(source, out=out)
    assert begun.folder.finished
    drawn.until = 10_000
    drawn.clear()
    run(source, out=out)
    assert {"accuracy.png", "rounds.pdf", "matrix.png"} <= set(drawn)


@contextmanager
def stopping_after(rounds: int) -> Iterator[None]:
    """The process of a run dies after so many rounds."""
    observer = StopAfter(rounds, reason=Killed)
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr("fcil.runs.play.choose_progress", lambda console: nullcontext(observer))
        yield


def test_only_what_is_lacking_is_drawn_and_a_damaged_note_is_none(tmp_path: Path, drawn: Drawn) -> None:
    folder = make_run(tmp_path)
    draw_run(folder.path, kinds=["accuracy", "matrix"])
    drawn.clear()
    complete(folder)
    assert not {"accuracy.png", "matrix.png"} & set(drawn)
    assert {"forgetting.png", "synthetic.pdf"} <= set(drawn)
    drawn.clear()
    complete(folder)
    assert drawn == []
    (folder.path / "drawn.json").write_text("{")
    complete(folder)
    assert {"accuracy.png", "forgetting.png"} <= set(drawn)
    draw_run(folder.path, tmp_path / "elsewhere")
    assert json.loads((folder.path / "drawn.json").read_text())["figures"].keys() >= {"accuracy", "bytes"}


def complete(folder: RunFolder, console: Console | None = None) -> None:
    from fcil.runs.completion import complete

    complete([load_run(folder.path)], console or Console(file=io.StringIO()))


def test_a_picture_of_samples_that_is_not_there_is_drawn_and_one_that_was_deleted_is_not(tmp_path: Path) -> None:
    folder = make_run(tmp_path, tasks=2, rounds=1)
    first, second = (folder.synthetic / f"task{t}.png" for t in (1, 2))
    first_bytes = first.read_bytes()
    first.unlink()  # its process died before it could be drawn
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr("fcil.plots.run.save_all", Drawn().save_all)
        complete(folder)
        assert first.read_bytes() == first_bytes
        second.unlink()
        complete(folder)
    assert not second.exists()


def test_a_run_that_another_process_draws_is_left_to_it(tmp_path: Path, drawn: Drawn) -> None:
    folder = make_run(tmp_path)
    with claimed(folder.path):
        complete(folder)
    assert drawn == []


def test_a_run_whose_figures_cannot_be_drawn_is_finished_all_the_same(tmp_path: Path) -> None:
    folder, console = make_run(tmp_path), Console(file=io.StringIO(), width=300)
    (folder.synthetic / "task3.safetensors").write_bytes(b"no samples")
    complete(folder, console)
    printed = console.file.getvalue()  # type: ignore[attr-defined]
    assert printed.startswith(f"{folder.path}: its figures cannot be drawn (")
    assert "not a pool of synthetic samples" in printed


def draw(path: Path) -> None:
    draw_run(path)


def test_a_process_that_is_killed_leaves_whole_figures_and_no_trace_of_others(tmp_path: Path) -> None:
    folder = make_run(tmp_path, tasks=2, rounds=1)
    process = multiprocessing.get_context("fork").Process(target=draw, args=(folder.path,))
    process.start()
    while not (folder.figures / "accuracy.png").exists() and process.is_alive():
        time.sleep(0.001)
    os.kill(process.pid or 0, signal.SIGKILL)
    process.join()
    for path in folder.figures.glob("[!.]*"):
        data = path.read_bytes()
        assert data.endswith((b"IEND\xaeB`\x82", b"%%EOF\n")), path
    torn = folder.figures / f".matrix.png.{process.pid}"
    torn.write_bytes(b"half of it")
    complete(folder)
    assert not torn.exists()
    assert len(names(folder.figures)) == 16


# All runs of a folder -----------------------------------------------------------------------------


def rows(printed: str) -> set[str]:
    """The strategies of the tables that were printed."""
    lines = [line.split() for line in printed.splitlines()]
    return {line[0] for line in lines if line and line[0] in ("finetune", "joint", "fedprox") and line[-1] == "s"}


@pytest.fixture
def several(tmp_path: Path, drawn: Drawn) -> tuple[Path, Path]:
    """An experiment file, and a folder in which floor and ceiling are finished."""
    source, out = write_experiment(tmp_path, federation=SHORT), tmp_path / "out"
    assert rows(run(source, "matrix.strategy=[finetune,joint]", out=out)) == {"finetune", "joint"}
    drawn.clear()
    return source, out


def compared(monkeypatch: pytest.MonkeyPatch) -> list[set[tuple[str, int]]]:
    """What is drawn beside each other from now on: strategy and seed."""
    import fcil.plots.comparison as comparison

    found: list[set[tuple[str, int]]] = []
    group_runs = comparison.group_runs

    def told(runs: Sequence[Any]) -> Any:
        found.append({(r.strategy, r.seed) for r in runs})
        return group_runs(runs)

    monkeypatch.setattr("fcil.plots.comparison.group_runs", told)
    return found


@pytest.mark.parametrize("overrides", [("strategy=fedprox",), ("matrix.strategy=[fedprox]", "seeds=[0]")])
def test_one_run_more_is_shown_beside_those_that_are_there(
    several: tuple[Path, Path], drawn: Drawn, monkeypatch: pytest.MonkeyPatch, overrides: tuple[str, ...]
) -> None:
    source, out = several
    seen = compared(monkeypatch)
    printed = run(source, *overrides, out=out)
    assert rows(printed) == {"finetune", "joint", "fedprox"}
    assert seen[-1] == {("finetune", 0), ("joint", 0), ("fedprox", 0)}
    assert {"accuracy.png", "forgetting.pdf", "matrix.png"} <= set(drawn)
    assert "(the floor)" not in printed
    assert "(the ceiling)" not in printed


def test_two_runs_more_are_shown_beside_those_that_are_there(
    several: tuple[Path, Path], monkeypatch: pytest.MonkeyPatch
) -> None:
    source, out = several
    seen = compared(monkeypatch)
    printed = run(source, "strategy=fedprox", "seeds=[1,2]", out=out)
    assert rows(printed) == {"finetune", "joint", "fedprox"}
    assert seen[-1] == {("finetune", 0), ("joint", 0), ("fedprox", 1), ("fedprox", 2)}
    assert "(the floor)" not in printed


def test_a_resumed_run_is_shown_beside_those_that_are_there(
    several: tuple[Path, Path], monkeypatch: pytest.MonkeyPatch
) -> None:
    source, out = several
    with stopping_after(1), pytest.raises(Killed):
        run(source, "strategy=fedprox", out=out)
    (begun,) = (r for r in find_runs([out], unfinished=True) if not r.finished)
    seen, console = compared(monkeypatch), Console(file=io.StringIO(), width=300)
    resume(begun.path, console)
    assert rows(console.file.getvalue()) == {"finetune", "joint", "fedprox"}  # type: ignore[attr-defined]
    assert seen[-1] == {("finetune", 0), ("joint", 0), ("fedprox", 0)}


def test_what_is_damaged_or_not_finished_in_the_folder_is_said(several: tuple[Path, Path]) -> None:
    source, out = several
    (first, second) = find_runs([out])
    first.folder.accuracy.write_text("no table\n")
    second.folder.summary.unlink()
    printed = run(source, "strategy=fedprox", "seeds=[0,1]", out=out)
    assert rows(printed) == {"fedprox"}
    assert f"left out: {first.folder.accuracy}" in printed
    assert "left out: 1 run of the folder that is not finished" in printed


def test_runs_of_another_process_that_ended_meanwhile_are_shown_too(
    several: tuple[Path, Path], monkeypatch: pytest.MonkeyPatch
) -> None:
    source, out = several
    seen = compared(monkeypatch)
    with pytest.MonkeyPatch.context() as patch:
        # Another process draws, and has a further run finished before it lets go.
        patch.setattr("fcil.runs.completion.in_turn", lambda path: finishing(out / "tiny"))
        run(source, "strategy=fedprox", out=out)
    assert ("lander", 7) in seen[-1]


def finishing(folder: Path) -> Any:
    made = make_run(folder.parent / "made", "lander", 7)
    shutil.move(made.path.parent, folder / made.path.parent.name)
    return nullcontext()


def test_a_comparison_whose_process_died_is_drawn_when_it_is_asked_for_again(tmp_path: Path, drawn: Drawn) -> None:
    source, out = write_experiment(tmp_path, federation=SHORT), tmp_path / "out"
    asked = "matrix.strategy=[finetune,joint]"
    drawn.until = 2 * 14 + 3  # figures of both runs, and some of the comparison's
    with pytest.raises(Killed):
        run(source, asked, out=out)
    figures = out / "tiny" / "figures"
    assert len(names(figures)) == 3
    drawn.until = 10_000
    printed = run(source, asked, out=out)
    assert len(names(figures)) == 12
    assert str(figures / "matrix.png") in printed
    drawn.clear()
    assert str(figures) not in run(source, asked, out=out)
    (figures / "bytes.pdf").unlink()
    run(source, asked, out=out)
    assert drawn == []


def test_figures_of_a_folder_that_were_asked_for_by_hand_are_left_as_they_are(tmp_path: Path, drawn: Drawn) -> None:
    from fcil.runs.completion import conclude

    home = make_results(tmp_path / "a") / "toy"
    other = make_results(tmp_path / "b", seeds=(5,)) / "toy"
    draw_comparison(find_runs([home, other]), home / "figures", (), home)
    drawn.clear()
    assert conclude([home], Console(file=io.StringIO()), played=False)
    assert drawn == []
    make_run(tmp_path / "a", "fedewc", 0, variant="0000000e")
    assert conclude([home], Console(file=io.StringIO()), played=False)
    assert "accuracy.png" in drawn


def test_runs_whose_comparison_cannot_be_drawn_are_finished_all_the_same(tmp_path: Path) -> None:
    from fcil.runs.completion import conclude

    home, console = make_results(tmp_path, seeds=(0,)) / "toy", Console(file=io.StringIO(), width=300)
    (home / "figures").write_text("no folder")
    assert conclude([home], console, played=True)
    printed = console.file.getvalue()  # type: ignore[attr-defined]
    assert f"{home}: its figures cannot be drawn (" in printed
    assert rows(printed) == {"finetune"}
