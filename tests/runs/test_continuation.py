"""A run goes on as the same run or not at all: what was written is compared, what was lost is written again."""

from __future__ import annotations

import io
import json
import shutil
import sys
from collections.abc import Callable, Iterator
from importlib.metadata import version
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
import torch
import yaml
from PIL import Image
from rich.console import Console
from small_distillations import taught
from small_distillations import write as distillation
from small_runs import (
    LANDER,
    Stop,
    StopAfter,
    checkpoint,
    play,
    silently,
    without_seconds,
    write_experiment,
    write_strategy,
)

import fcil
from fcil.anchors import AnchorSettings, embed
from fcil.cli import main
from fcil.data import DataSettings, load_dataset
from fcil.errors import StoreError, UserError
from fcil.federation.observer import Observer
from fcil.federation.persistence.manifest import digest_of, last_manifest, manifest_paths
from fcil.runs.verify import verify
from fcil.store import Run, RunFolder, load_run

OTHERWISE = ["resources.workers=3", "resources.synthesis_workers=2", "federation.on_failure=skip", "logger=null"]
"""Settings that change no number."""


@pytest.fixture(autouse=True)
def _left_overs_may_stay(monkeypatch: pytest.MonkeyPatch) -> None:
    """To look for them takes longer than these runs."""
    monkeypatch.setattr("fcil.runs.sequential.gc", SimpleNamespace(collect=lambda: 0))


def stop(tmp_path: Path, after: int = 4, **parts: Any) -> tuple[Path, RunFolder]:
    """An experiment, and the folder of its run that was stopped in a round."""
    source = write_experiment(tmp_path, **parts)
    with pytest.raises(Stop):
        play(source, out=tmp_path / "out", observer=StopAfter(after))
    return source, RunFolder(next((tmp_path / "out").glob("tiny/*/seed0")))


@pytest.fixture(scope="module")
def once(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Where one lies that was stopped in its fourth round: it has two checkpoints, and three rounds are saved."""
    folder = tmp_path_factory.mktemp("once")
    stop(folder)
    return folder


@pytest.fixture
def stopped(once: Path, tmp_path: Path) -> tuple[Path, RunFolder]:
    """The same again, to be spoilt."""
    shutil.copytree(once, tmp_path, dirs_exist_ok=True)
    return tmp_path / "tiny.yaml", RunFolder(next((tmp_path / "out").glob("tiny/*/seed0")))


@pytest.fixture(scope="module")
def whole(tmp_path_factory: pytest.TempPathFactory) -> Run:
    """The run that nobody stopped."""
    folder = tmp_path_factory.mktemp("whole")
    (run,) = play(write_experiment(folder), out=folder)
    return run


def told(source: Path, *overrides: str, observer: Observer | None = None) -> tuple[list[Run], str]:
    """The runs of an experiment, and what was said meanwhile."""
    console = Console(file=io.StringIO(), width=500)
    with silently(observer):
        runs = fcil.run(source, *overrides, out=source.parent / "out", console=console)
    return runs, console.file.getvalue()  # type: ignore[attr-defined]


def assert_equal(run: Run, whole: Run) -> None:
    assert run.folder.accuracy.read_bytes() == whole.folder.accuracy.read_bytes()
    assert without_seconds(run) == without_seconds(whole)
    assert checkpoint(run)[1] == checkpoint(whole)[1]
    assert {**run.summary, **NEW_SUMMARY} == {**whole.summary, **NEW_SUMMARY}


NEW_SUMMARY = {"seconds": 0, "seconds_by_phase": 0, "peak_memory_bytes": 0}


def contents(folder: RunFolder) -> dict[Path, bytes]:
    return {path: path.read_bytes() for path in folder.path.rglob("*") if path.is_file()}


def assert_refused(source: Path, folder: RunFolder, *words: str, overrides: tuple[str, ...] = ()) -> str:
    """One line, all of these words in it, and no byte of the run changed."""
    before = contents(folder)
    with pytest.raises(StoreError) as caught:
        told(source, *overrides)
    line = str(caught.value)
    assert "\n" not in line
    for word in words:
        assert word in line, line
    assert contents(folder) == before
    return line


def rewrite(path: Path, change: Callable[[dict[str, Any]], object]) -> None:
    values = json.loads(path.read_text())
    change(values)
    path.write_text(json.dumps(values))


# Threads and devices ------------------------------------------------------------------------------


def test_a_run_does_not_go_on_with_other_threads(stopped: tuple[Path, RunFolder], whole: Run) -> None:
    source, folder = stopped
    two = ("resources.threads=2",)
    line = assert_refused(source, folder, "resources.threads 1 and would go on with 2", overrides=two)
    assert line.endswith("say resources.threads=1, or begin anew under another --out")
    (run,), said = told(source, "resources.threads=1", *OTHERWISE)
    assert_equal(run, whole)
    assert "goes on under" not in said
    assert "mixed" not in run.summary


def test_the_command_refuses_with_one_line_and_code_2(
    tmp_path: Path, stopped: tuple[Path, RunFolder], monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    source, _ = stopped
    capsys.readouterr()
    words = ["fcil", "run", str(source), "resources.threads=2", "--out", str(tmp_path / "out")]
    monkeypatch.setattr(sys, "argv", words)
    with pytest.raises(SystemExit) as stop:
        main()
    assert stop.value.code == 2
    said = capsys.readouterr().err
    assert said.count("\n") == 1
    assert "resources.threads 1" in said


def test_a_run_does_not_move_from_a_gpu_to_a_cpu(stopped: tuple[Path, RunFolder]) -> None:
    source, folder = stopped
    rewrite(folder.env, lambda env: env.update(devices=["cuda:0"], card="Some Card"))
    assert_refused(
        source, folder, "resources.device cuda (Some Card) and would go on with cpu", "resources.device=cuda"
    )


def test_a_run_whose_environment_is_lost_is_still_held_to_its_threads(stopped: tuple[Path, RunFolder]) -> None:
    source, folder = stopped
    folder.env.unlink()
    assert_refused(source, folder, "resources.threads 1 and would go on with 2", overrides=("resources.threads=2",))


def test_a_run_that_has_saved_nothing_begins_anew_with_other_threads(tmp_path: Path) -> None:
    source, folder = stop(tmp_path, after=1)
    assert not manifest_paths(folder.checkpoints)
    rewrite(folder.env, lambda env: env.update(threads=3))
    (run,), _ = told(source)
    env = json.loads(folder.env.read_text())
    assert (env["threads"], "resumed" in env) == (1, False)
    assert len(run.rounds) == 4


def test_a_finished_run_says_with_which_threads_it_was_made(tmp_path: Path) -> None:
    source = write_experiment(tmp_path)
    (run,), _ = told(source)
    assert told(source, "federation.backend=ray")[1] == f"{run.path} is finished; nothing to do\n"
    made = f"{run.path} is finished; nothing to do (made with resources.threads 1, not 2)\n"
    assert told(source, "resources.threads=2")[1] == made
    rewrite(run.folder.env, lambda env: env.update(devices=["cuda:0"]))
    assert "(made with resources.device cuda, not cpu)" in told(source)[1]


def test_no_run_of_a_matrix_is_played_if_one_cannot_go_on(stopped: tuple[Path, RunFolder]) -> None:
    source, folder = stopped
    both = ("matrix.strategy=[joint, finetune]", "seeds=[5, 0]", "resources.threads=2")
    assert_refused(source, folder, "resources.threads 1 and would go on with 2", overrides=both)
    assert [path.parent.name for path in folder.path.parents[1].glob("*/seed*")] == [folder.path.parent.name]


def test_another_torch_is_told_and_kept(stopped: tuple[Path, RunFolder], whole: Run) -> None:
    source, folder = stopped
    rewrite(folder.env, lambda env: (env["versions"].update(torch="1.0"), env.update(cpu="abacus", sources="0" * 16)))
    (run,), said = told(source)
    (line,) = [line for line in said.splitlines() if "goes on under" in line]
    assert f"torch {version('torch')} (was 1.0)" in line
    assert "(was abacus)" in line
    assert line in folder.log.read_text()
    assert run.summary["mixed"]["torch"] == ["1.0", version("torch")]
    assert set(run.summary["mixed"]) == {"torch", "cpu", "sources of fcil"}
    assert without_seconds(run) == without_seconds(whole)


def test_a_distillation_is_held_to_its_threads_before_another_teacher_is_trained(tmp_path: Path) -> None:
    source = distillation(tmp_path, student={"rounds": 8})
    with pytest.raises(Stop):
        taught(source, out=tmp_path / "out", observer=StopAfter(2 + 6))  # epochs of the teacher, rounds of the student
    (folder,) = (tmp_path / "out").glob("tiny/distill-*/seed0")
    rewrite(RunFolder(folder).env, lambda env: env.update(threads=3))
    with pytest.raises(StoreError, match=r"resources\.threads 3 and would go on with 1"):
        taught(source, "seeds=[1, 0]", out=tmp_path / "out")
    assert not [*(tmp_path / "out").glob("tiny-teacher/*/seed1")]


# Data, partition and settings ---------------------------------------------------------------------


@pytest.fixture
def images(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """Two classes of images in folders."""
    monkeypatch.setenv("FCIL_CACHE", str(tmp_path / "cache"))
    for split, count in (("train", 70), ("test", 70)):
        for label in range(2):
            place = tmp_path / "images" / split / f"class{label}"
            place.mkdir(parents=True)
            for number in range(count):
                levels = torch.randint(256, (8, 8, 3), generator=torch.Generator().manual_seed(number + 100 * label))
                Image.fromarray(levels.to(torch.uint8).numpy()).save(place / f"{number:03d}.png")
    return tmp_path / "images"


def of_images(images: Path) -> dict[str, Any]:
    return {"data": {"dataset": "image_folder", "root": str(images), "tasks": 2}}


def test_a_pixel_that_changed_meanwhile_is_seen(tmp_path: Path, images: Path) -> None:
    """In an image that the fingerprint of a split, which looks at some of each part, does not look at."""
    source, folder = stop(tmp_path, **of_images(images))
    path = images / "train" / "class1" / "001.png"
    image = Image.open(path)
    image.putpixel((3, 3), (1, 2, 3))
    image.save(path)
    assert_refused(source, folder, "env.json: inputs.images was ", "the images are not those", "another --out")


def test_an_image_that_is_gone_is_seen_in_folders_of_earlier_builds_too(tmp_path: Path, images: Path) -> None:
    source, folder = stop(tmp_path, **of_images(images))
    rewrite(folder.env, lambda env: [env.pop(key) for key in ("inputs", "sources", "switches", "card")])
    (images / "train" / "class0" / "000.png").unlink()
    assert_refused(source, folder, "partition.json: fingerprint was ")


def test_anchors_that_changed_meanwhile_are_seen(tmp_path: Path) -> None:
    table = tmp_path / "table.safetensors"
    embed(load_dataset(DataSettings(dataset="digits", tasks=5)).class_names, AnchorSettings(), table)
    source, folder = stop(tmp_path, strategy=LANDER, anchors={"file": str(table)})
    table.write_bytes(changed_last_byte(table.read_bytes()))
    assert_refused(source, folder, "env.json: inputs.anchors was ", "the anchors are not those")


def changed_last_byte(content: bytes) -> bytes:
    return content[:-1] + bytes([content[-1] ^ 1])


def test_a_partition_that_is_another_is_refused(stopped: tuple[Path, RunFolder]) -> None:
    source, folder = stopped
    rewrite(folder.partition, lambda record: record["indices"][1][0].reverse())
    assert_refused(source, folder, "partition.json: indices[1][0][0] was ", " there and is ", "another --out")


def test_settings_that_were_changed_in_the_folder_are_refused(stopped: tuple[Path, RunFolder]) -> None:
    source, folder = stopped
    text = folder.config.read_text()
    folder.config.write_text(text.replace("lr: 0.04", "lr: 0.05"))
    assert_refused(source, folder, "config.yaml: optimizer.lr was 0.05 there and is 0.04 here")
    folder.config.write_text(text + "extra: 1\n")
    assert_refused(source, folder, "config.yaml: extra was 1 there and is null here")


def test_the_copy_of_a_strategy_that_was_changed_is_refused(tmp_path: Path) -> None:
    own = write_strategy(tmp_path)
    source, folder = stop(tmp_path, strategy=str(own))
    text = folder.strategy.read_text()
    folder.strategy.write_text(text.replace("self.pull *", "2 * self.pull *"))
    assert_refused(source, folder, "strategy.py: line ", '"terms[\\"pull\\"] = 2 * self.pull *', "another --out")
    folder.strategy.write_text(text)
    assert told(source)[0][0].finished


def test_the_copy_of_a_strategy_of_ours_that_was_changed_is_refused(stopped: tuple[Path, RunFolder]) -> None:
    source, folder = stopped
    folder.strategy.write_text(folder.strategy.read_text() + "x = 1\n")
    assert_refused(source, folder, "strategy.py: line ", '"x = 1" there and is "" here')


def test_a_strategy_of_ours_that_is_another_by_now_is_told(stopped: tuple[Path, RunFolder]) -> None:
    """An earlier build wrote the folder: it kept no digest of the file, and its file was another."""
    source, folder = stopped
    folder.strategy.write_text(folder.strategy.read_text() + "x = 1\n")
    rewrite(folder.env, lambda env: env.pop("inputs"))
    (run,), said = told(source)
    assert "strategy.py: finetune is another in this fcil, from line " in said
    assert run.finished


def test_folders_of_earlier_builds_go_on(stopped: tuple[Path, RunFolder], whole: Run) -> None:
    """They lack settings and facts that are written now, and their checkpoints hold no record."""
    source, folder = stopped
    config = yaml.safe_load(folder.config.read_text())
    del config["data"]["validation"], config["logger"], config["federation"]["attack"]
    folder.config.write_text(yaml.safe_dump(config))
    rewrite(folder.env, lambda env: [env.pop(key) for key in ("inputs", "sources", "switches", "card")])
    rewrite(folder.env, lambda env: [env["versions"].pop(key) for key in ("pillow", "scipy", "cuda")])
    rewrite(folder.partition, lambda record: record.pop("fingerprint"))
    without_record(folder)
    (run,), said = told(source)
    assert "goes on under" not in said
    assert_equal(run, whole)


def test_a_checkpoint_of_another_version_is_refused_before_a_byte_is_written(stopped: tuple[Path, RunFolder]) -> None:
    source, folder = stopped
    for path in manifest_paths(folder.checkpoints):
        about = json.loads(path.read_text())
        del about["digest"]
        about["version"] = "0.0.7"
        path.write_text(json.dumps({**about, "digest": digest_of(about)}))
    assert_refused(source, folder, "version 0.0.7, and this is version")


def test_an_environment_to_which_none_can_be_added_is_refused(stopped: tuple[Path, RunFolder]) -> None:
    source, folder = stopped
    rewrite(folder.env, lambda env: env.update(resumed=3))
    assert_refused(source, folder, "env.json: resumed is 3; expected a list", overrides=("federation.retries=7",))


def test_what_changes_no_number_is_brought_up_to_date_and_noted(stopped: tuple[Path, RunFolder], whole: Run) -> None:
    source, folder = stopped
    (run,), _ = told(source, "federation.retries=7")
    assert yaml.safe_load(folder.config.read_text())["federation"]["retries"] == 7
    assert "setting federation.retries was 2, is 7" in folder.log.read_text()
    assert_equal(run, whole)


def test_a_file_that_is_missing_is_written_anew_and_told(stopped: tuple[Path, RunFolder], whole: Run) -> None:
    source, folder = stopped
    for path in (folder.env, folder.partition, folder.strategy):
        path.unlink()
    (run,), said = told(source)
    for name in ("env.json", "partition.json", "strategy.py"):
        assert f"{folder.path / name}: was missing; written anew\n" in said
    assert json.loads(folder.partition.read_text()) == json.loads(whole.folder.partition.read_text())
    assert_equal(run, whole)


@pytest.mark.parametrize("name", ["config.yaml", "env.json", "partition.json"])
@pytest.mark.parametrize("content", ["", "[]", '{"a"', "\xff"])
def test_a_file_that_is_damaged_is_refused_in_one_line(
    stopped: tuple[Path, RunFolder], name: str, content: str
) -> None:
    source, folder = stopped
    (folder.path / name).write_bytes(content.encode("latin-1"))
    with pytest.raises(UserError) as caught:
        told(source)
    assert str(folder.path / name) in str(caught.value)
    assert (folder.path / name).read_bytes() == content.encode("latin-1")


# The record ---------------------------------------------------------------------------------------


def lines(path: Path) -> list[str]:
    return path.read_text().splitlines(keepends=True)


def losses() -> Iterator[tuple[str, Callable[[list[str]], list[str]], str]]:
    """What is lost of the lines of four rounds, of which three are saved, and what is said of it."""
    yield "the first", lambda old: old[1:], "1 of 3 rounds were lost or changed"
    yield "one between", lambda old: [old[0], *old[2:]], "1 of 3 rounds were lost or changed"
    yield "the last two", lambda old: old[:-3], "2 of 3 rounds were lost or changed"
    yield "all", lambda old: [], "3 of 3 rounds were lost or changed"
    yield "another number", lambda old: [old[0].replace('"bytes_up": ', '"bytes_up": 1'), *old[1:]], "1 of 3 rounds"
    yield "bytes within", lambda old: [old[0][:40] + old[0][60:], *old[1:]], "1 of 3 rounds were lost or changed"
    yield "twice", lambda old: [old[0], *old], "held lines that are no rounds, or not in order"
    yield "in disorder", lambda old: [old[1], old[0], *old[2:]], "held lines that are no rounds, or not in order"
    yield "a torn one", lambda old: [*old, old[0][:30]], ""
    yield "nothing", lambda old: old, ""


@pytest.mark.parametrize(("which", "change", "said"), [*losses()])
def test_lines_that_are_lost_are_written_again(
    stopped: tuple[Path, RunFolder], whole: Run, which: str, change: Callable[[list[str]], list[str]], said: str
) -> None:
    source, folder = stopped
    assert len(lines(folder.rounds)) == 4
    folder.rounds.write_text("".join(change(lines(folder.rounds))))
    (run,), printed = told(source)
    assert_equal(run, whole)
    told_of = [line for line in printed.splitlines() if "written again" in line]
    assert [said in line and str(folder.rounds) in line for line in told_of] == [True] * bool(said)
    assert all(line in folder.log.read_text() for line in told_of)


def test_accuracies_that_are_lost_are_written_again(stopped: tuple[Path, RunFolder], whole: Run) -> None:
    source, folder = stopped
    assert len(lines(folder.accuracy)) == 2
    for content in (lines(folder.accuracy)[0], "", None):
        folder.accuracy.unlink() if content is None else folder.accuracy.write_text(content)
        with pytest.raises(Stop):
            told(source, observer=StopAfter(1, "round_started"))
        assert len(lines(folder.accuracy)) == 2
        assert "accuracy.csv: 1 of 1 accuracies were lost or changed" in folder.log.read_text()
        folder.log.write_text("")
    assert_equal(told(source)[0][0], whole)


def test_a_record_of_many_pages_is_put_together_again(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("fcil.federation.persistence.progress.PAGE", 600)
    federation = {"rounds": 5, "max_batches": 1}
    source, folder = stop(tmp_path, after=9, federation=federation)
    held = last_manifest(folder.checkpoints)["record"]
    assert len(held["pages"]) > 1
    folder.rounds.unlink()
    folder.accuracy.unlink()
    (run,), said = told(source)
    assert "8 of 8 rounds were lost or changed" in said
    (tmp_path / "whole").mkdir()
    assert_equal(run, told(write_experiment(tmp_path / "whole", federation=federation))[0][0])


def without_record(folder: RunFolder) -> None:
    """The checkpoints as an earlier build wrote them."""
    for path in manifest_paths(folder.checkpoints):
        about = json.loads(path.read_text())
        del about["record"], about["digest"]
        path.write_text(json.dumps({**about, "digest": digest_of(about)}))


def lose_pages(folder: RunFolder) -> None:
    """The checkpoints with a page that is not there."""
    for path in manifest_paths(folder.checkpoints):
        about = json.loads(path.read_text())
        del about["digest"]
        about["record"] = {"pages": ["0" * 32], "lines": []}
        path.write_text(json.dumps({**about, "digest": digest_of(about)}))


@pytest.mark.parametrize("lose", [without_record, lose_pages])
def test_without_a_copy_the_run_goes_on_only_if_nothing_is_lost(
    stopped: tuple[Path, RunFolder], whole: Run, lose: Callable[[RunFolder], None]
) -> None:
    source, folder = stopped
    lose(folder)
    rounds, accuracy = folder.rounds.read_text(), folder.accuracy.read_text()
    for kept in ([0, 2, 3], [1, 2, 3], [0, 1, 3], [0, 1], []):
        folder.rounds.write_text("".join(rounds.splitlines(keepends=True)[n] for n in kept))
        with pytest.raises(StoreError, match=r"rounds\.jsonl: ") as caught:
            told(source, observer=StopAfter(1, "round_started"))
        assert "\n" not in str(caught.value)
    folder.rounds.write_text(rounds)
    folder.accuracy.write_text(accuracy.splitlines(keepends=True)[0])
    with pytest.raises(StoreError, match=r"accuracy\.csv: the accuracy on task 1 after task 1 is missing"):
        told(source, observer=StopAfter(1, "round_started"))
    folder.accuracy.write_text(accuracy)
    assert_equal(told(source)[0][0], whole)


def test_a_finished_run_that_lost_a_line_is_told_and_mended_by_its_checkpoint(tmp_path: Path, whole: Run) -> None:
    source = write_experiment(tmp_path)
    (run,), _ = told(source)
    rounds = lines(run.folder.rounds)
    for kept, said in (
        ([0, 1, 3], "a line before it was lost"),
        ([0, 2, 3], "holds 3 rounds, summary.json tells of 4"),
    ):
        run.folder.rounds.write_text("".join(rounds[n] for n in kept))
        with pytest.raises(StoreError, match=said):
            load_run(run.path)
    run.folder.rounds.write_text("".join([rounds[0], *rounds[2:]]))
    run.folder.summary.unlink()
    assert_equal(told(source)[0][0], whole)


def test_a_record_with_a_gap_is_not_compared_with_what_is_played_again(stopped: tuple[Path, RunFolder]) -> None:
    _, folder = stopped
    rounds = lines(folder.rounds)
    folder.rounds.write_text("".join(rounds[1:]))
    with pytest.raises(StoreError, match="round 2 of task 1 comes first; a line before it was lost"):
        verify(folder.path)
    folder.rounds.write_text("".join([rounds[0], *rounds[2:]]))
    with pytest.raises(StoreError, match="line 2: round 1 of task 2, where round 2 of task 1 should be"):
        verify(folder.path, 2)
