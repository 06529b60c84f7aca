from __future__ import annotations

import json
import re
from pathlib import Path
from typing import Any

import pytest
import torch
from run_folders import make_record, make_results, make_rows, make_run, make_tasks, play
from safetensors.torch import load_file

from fcil import metrics
from fcil.errors import StoreError
from fcil.federation.observer import Observers
from fcil.io.atomic import replacing, write_text
from fcil.metrics import AccuracyRow
from fcil.runs.pictures import SamplePictures
from fcil.store import RunFolder, RunRecorder, check_writable, files, find_runs, load, load_run


def test_a_finished_run_has_every_pinned_file(tmp_path: Path) -> None:
    folder = make_run(tmp_path, "lander", seed=3, variant="0123abcd")
    assert folder.path == tmp_path / "toy" / "lander-0123abcd" / "seed3"
    names = {p.relative_to(folder.path).as_posix() for p in folder.path.rglob("*") if p.is_file()}
    assert names == {
        *("config.yaml", "accuracy.csv", "rounds.jsonl", "summary.json", "partition.json", "env.json", "strategy.py"),
        *("log.txt", *(f"synthetic/task{t}.{kind}" for t in (1, 2, 3) for kind in ("safetensors", "png"))),
    }


def test_accuracy_csv_has_the_pinned_columns_and_counts(tmp_path: Path) -> None:
    lines = make_run(tmp_path).accuracy.read_text().splitlines()
    assert lines[0] == "trained_task,tested_task,correct,examples,accuracy"
    assert len(lines) == 1 + 6
    first = make_rows("lander", 0, 1)[0]
    assert lines[1] == f"1,1,{first.correct},100,{first.correct / 100:.6f}"


def test_what_was_written_is_read_back(tmp_path: Path) -> None:
    folder = make_run(tmp_path, "lander", seed=1)
    run = load_run(folder.path)
    assert (run.name, run.strategy, run.variant, run.seed, run.finished) == ("toy", "lander", "0123abcd", 1, True)
    assert run.config["data"] == {"dataset": "blobs", "tasks": 3, "order": "natural", "partition": {"dirichlet": 0.5}}
    assert list(run.rows) == [row for t in (1, 2, 3) for row in make_rows("lander", 1, t)]
    assert run.rounds == [make_record(t, r) for t in (1, 2, 3) for r in (1, 2, 3, 4)]
    assert list(run.accuracy.columns) == ["trained_task", "tested_task", "correct", "examples", "accuracy"]
    assert run.accuracy.accuracy.tolist() == [row.accuracy for row in run.rows]


def test_the_summary_is_the_metrics_of_the_counts_and_the_cost_of_the_rounds(tmp_path: Path) -> None:
    run = load_run(make_run(tmp_path).path)
    expected = metrics.summary(run.rows)
    assert {key: run.summary[key] for key in expected} == expected
    assert run.summary["bytes_up"] == 12 * 4000
    assert run.summary["bytes_down"] == 12 * 4800
    assert (run.summary["rounds"], run.summary["failures"], run.summary["seconds"]) == (12, 0, 60.0)
    assert run.summary["seconds_by_phase"] == {"clients": 40.0, "synthesis": 15.0}


def test_a_single_task_gives_null_where_nothing_is_defined(tmp_path: Path) -> None:
    folder = make_run(tmp_path, tasks=1)
    assert "NaN" not in folder.summary.read_text()
    assert load_run(folder.path).summary["bwt"] is None


def test_a_number_that_is_not_finite_is_written_as_null(tmp_path: Path) -> None:
    files.write_json(tmp_path / "x.json", {"a": float("nan"), "b": [1.0, float("inf")]})
    assert json.loads((tmp_path / "x.json").read_text()) == {"a": None, "b": [1.0, None]}


@pytest.mark.parametrize(
    "end", [{"bytes_up": 5}, {"bytes_up": 0}, {"told": "\u00e9" * 50}, {"bytes_up": float("nan"), "b": 1}]
)
@pytest.mark.parametrize("told", [{}, {"after_task": {"bytes_up": 5, "told": "x" * 300}}])
def test_the_end_of_a_task_goes_into_the_line_of_its_last_round(tmp_path: Path, end: Any, told: dict[str, Any]) -> None:
    folder = RunFolder(tmp_path / "seed0")
    records = [make_record(1, number) for number in (1, 2, 3)]
    records[-1] |= told
    folder.path.mkdir()
    folder.rounds.write_text("".join(map(files.json_line, records)))
    RunRecorder(folder).task_concluded(1, end)
    ended = {**records[-1], **({"after_task": end} if any(end.values()) else {})}
    assert folder.rounds.read_text() == "".join(map(files.json_line, [*records[:-1], ended]))


def test_the_end_of_a_task_is_written_without_the_rounds_before(tmp_path: Path) -> None:
    folder = RunFolder(tmp_path / "seed0")
    folder.path.mkdir()
    folder.rounds.write_bytes(b"no round\n" + files.json_line(make_record(1, 1)).encode())
    inode = folder.rounds.stat().st_ino
    RunRecorder(folder).task_concluded(1, {"bytes_up": 5})
    first, last, rest = folder.rounds.read_bytes().split(b"\n")
    assert (first, json.loads(last)["after_task"], rest) == (b"no round", {"bytes_up": 5}, b"")
    assert folder.rounds.stat().st_ino == inode


@pytest.mark.parametrize("content", [None, b"", b"{}\n{"])
def test_the_end_of_a_task_whose_rounds_are_gone_is_an_error_in_a_line(tmp_path: Path, content: bytes | None) -> None:
    folder = RunFolder(tmp_path / "seed0")
    folder.path.mkdir()
    if content is not None:
        folder.rounds.write_bytes(content)
    with pytest.raises(StoreError, match=r"^.*rounds\.jsonl: [^\n]*$"):
        RunRecorder(folder).task_concluded(1, {"bytes_up": 5})


def test_the_partition_is_read_back(tmp_path: Path) -> None:
    counts, names = load_run(make_run(tmp_path, tasks=3, clients=4).path).partition()
    assert counts.shape == (3, 4, 6)
    assert counts[:, :, 0].sum() == counts[0, :, 0].sum() == 50
    assert names == [f"class {c}" for c in range(6)]


def test_synthetic_samples_are_kept_as_they_are(tmp_path: Path) -> None:
    folder = RunFolder(tmp_path / "seed0")
    recorder = Observers(RunRecorder(folder), SamplePictures(folder, ("cat", "dog")))
    base = torch.rand(4, 3, 8, 8)
    recorder.synthesis_done(2, {"x": base[::2], "y": torch.tensor([0, 1]), "mean": base[::2, :, 0, 0]})
    stored = load_file(folder.synthetic / "task2.safetensors")
    assert torch.equal(stored["x"], base[::2])
    assert torch.equal(stored["mean"], base[::2, :, 0, 0])
    assert (folder.synthetic / "task2.png").read_bytes().startswith(b"\x89PNG")


def test_the_environment_tells_versions_and_machine(tmp_path: Path) -> None:
    folder = make_run(tmp_path)
    env = json.loads(folder.env.read_text())
    assert env["versions"]["torch"].startswith(torch.__version__.split("+")[0])
    assert env["devices"] == ["cpu"]
    assert {"python", "platform", "cpus", "threads", "command", "started", "commit"} <= env.keys()


def test_a_resumed_run_keeps_its_first_environment(tmp_path: Path) -> None:
    folder = make_run(tmp_path)
    started = json.loads(folder.env.read_text())["started"]
    folder.write_env(devices=["a GPU"], threads=2)
    env = json.loads(folder.env.read_text())
    assert (env["started"], env["devices"]) == (started, ["cpu"])
    assert [(e["devices"], e["threads"]) for e in env["resumed"]] == [(["a GPU"], 2)]


def test_every_line_of_the_log_has_a_time(tmp_path: Path) -> None:
    folder = RunFolder(tmp_path / "seed0")
    RunRecorder(folder).note("one\ntwo")
    assert [line[20:] for line in folder.log.read_text().splitlines()] == ["one", "two"]
    assert all(re.match(r"\d{4}-\d\d-\d\d \d\d:\d\d:\d\d ", line) for line in folder.log.read_text().splitlines())


# Resuming -----------------------------------------------------------------------------------------


@pytest.mark.parametrize("finished_rounds", [0, 1, 3, 4, 5, 8, 11, 12])
def test_a_run_resumed_from_any_round_equals_the_run_never_stopped(
    tmp_path: Path, finished_rounds: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("fcil.store.recorder.peak_memory", lambda: 10**9)  # all else is the same each time
    whole = make_run(tmp_path / "a")
    folder = make_run(tmp_path / "b")  # it got to the end, but only so much is in its last checkpoint
    play(folder, "lander", 0, 3, 4, 4, finished_rounds=finished_rounds)
    for name in ("accuracy", "rounds", "summary"):
        assert getattr(folder, name).read_text() == getattr(whole, name).read_text()


def test_what_lies_beyond_a_checkpoint_is_forgotten(tmp_path: Path) -> None:
    folder = make_run(tmp_path)
    folder.truncate_after(2, 1)
    assert [(r["task"], r["round"]) for r in files.read_rounds(folder.rounds)] == [
        *((1, r) for r in (1, 2, 3, 4)),
        (2, 1),
    ]
    assert files.read_accuracy(folder.accuracy) == make_rows("lander", 0, 1)
    assert not folder.finished
    assert sorted(p.name for p in folder.synthetic.glob("*.png")) == ["task1.png", "task2.png"]


def test_a_line_torn_by_a_killed_process_is_no_record(tmp_path: Path) -> None:
    folder = make_run(tmp_path, stop_after=1)
    with folder.rounds.open("a") as file:
        file.write('{"task": 2, "rou')
    assert len(load_run(folder.path).rounds) == 4
    RunRecorder(folder).run_started(tasks=3, rounds=4, clients=4, finished_rounds=4)
    assert folder.rounds.read_text().count("\n") == 4
    assert folder.rounds.read_text().endswith("}\n")


def test_a_task_told_of_twice_counts_once(tmp_path: Path) -> None:
    folder = make_run(tmp_path)
    rows = [AccuracyRow(3, j, 50, 100) for j in (1, 2, 3)]
    RunRecorder(folder).task_done(make_tasks(3)[2], rows)
    assert [r for r in files.read_accuracy(folder.accuracy) if r.trained_task == 3] == rows


def test_a_failed_write_leaves_the_old_file(tmp_path: Path) -> None:
    path = tmp_path / "a.txt"
    write_text(path, "old")

    def fail() -> None:
        with replacing(path) as temporary:
            temporary.write_text("half")
            raise RuntimeError

    with pytest.raises(RuntimeError):
        fail()
    assert [p.name for p in tmp_path.iterdir()] == ["a.txt"]
    assert path.read_text() == "old"


# Finding and refusing -----------------------------------------------------------------------------


def test_runs_are_found_below_folders_once_each(tmp_path: Path) -> None:
    make_results(tmp_path)
    runs = find_runs([tmp_path, tmp_path / "toy" / "lander-00000001", tmp_path / "toy" / "lander-00000001" / "seed1"])
    assert [(r.strategy, r.seed) for r in runs] == [("finetune", 0), ("finetune", 1), ("lander", 0), ("lander", 1)]


def test_runs_are_in_order_of_their_seeds(tmp_path: Path) -> None:
    for seed in (10, 2, 100, 9):
        make_run(tmp_path, seed=seed, tasks=1, rounds=1)
    assert [run.seed for run in find_runs([tmp_path])] == [2, 9, 10, 100]


def test_failures_are_counted_by_client_in_order_of_clients(tmp_path: Path) -> None:
    folder = RunFolder(tmp_path / "seed0")
    recorder = RunRecorder(folder)
    recorder.run_started(tasks=1, rounds=1, clients=4, finished_rounds=0)
    told = [{"client": client, "kind": "raised", "outcome": "skipped"} for client in (10, 9, 100, 10)]
    recorder.round_done({**make_record(1, 1), "failures": told})
    recorder.task_done(make_tasks(1)[0], make_rows("lander", 0, 1))
    recorder.run_done(1.0, {})
    counted = json.loads(folder.summary.read_text())["failures_by_client"]
    assert list(counted.items()) == [("9", 1), ("10", 2), ("100", 1)]


def test_unfinished_and_damaged_runs_are_left_out_with_the_reason(tmp_path: Path) -> None:
    make_run(tmp_path, seed=0)
    half = make_run(tmp_path, seed=1, stop_after=1)
    damaged = make_run(tmp_path, seed=2)
    damaged.summary.write_text("{")
    skipped: list[str] = []
    assert [r.seed for r in find_runs([tmp_path], skipped=skipped)] == [0]
    assert len(skipped) == 2
    assert "not finished" in skipped[0]
    assert str(half.path) in skipped[0]
    assert f"{damaged.summary}: not valid JSON" in skipped[1]
    assert [r.seed for r in find_runs([tmp_path], unfinished=True)] == [0, 1]


def test_load_gives_a_tidy_frame_of_all_runs(tmp_path: Path) -> None:
    frame = load(make_results(tmp_path))
    keys = ["experiment", "label", "strategy", "variant", "seed", "split", "smoke"]
    assert list(frame.columns) == [*keys, "trained_task", "tested_task", "correct", "examples", "accuracy"]
    assert len(frame) == 4 * 6
    assert frame.groupby(keys).size().tolist() == [6] * 4
    assert ((frame.correct / frame.examples) == frame.accuracy).all()


@pytest.mark.parametrize(
    ("name", "content", "complaint"),
    [
        ("config.yaml", "a: [", "not valid YAML at line"),
        ("config.yaml", "- 1", "expected a mapping"),
        ("config.yaml", b"\xff\xfe", "not UTF-8"),
        ("accuracy.csv", "task,accuracy\n1,0.5\n", "line 1: expected the columns trained_task"),
        ("accuracy.csv", ",".join(files.COLUMNS) + "\n1,1,x,100,0.5\n", "line 2: '1,1,x,100,0.5'"),
        ("accuracy.csv", ",".join(files.COLUMNS) + "\n1,1,200,100,2.0\n", "line 2: '1,1,200,100,2.0' cannot be"),
        ("accuracy.csv", ",".join(files.COLUMNS) + "\n1,1,1,2,0.5\n1,1,1,2,0.5\n", "line 3: task 1 is tested twice"),
        ("accuracy.csv", ",".join(files.COLUMNS) + "\n2,2,1,2,0.5\n", "accuracy on task 1 after task 1 is missing"),
        ("accuracy.csv", ",".join(files.COLUMNS) + "\n1,1,1,2,0.5\n", "tells of 3 tasks, accuracy.csv of 1"),
        ("rounds.jsonl", '{"task": 1}\n', "line 1: round is None"),
        ("rounds.jsonl", '{"task": 1, "round": 1}\nx\n', "line 2: not valid JSON"),
        ("rounds.jsonl", "[1]\n", "line 1: expected a JSON object"),
        ("summary.json", "[" * 100_000, "not valid JSON"),
        ("summary.json", "{}", "tells of None tasks"),
    ],
)
def test_a_damaged_file_is_refused_in_one_line(tmp_path: Path, name: str, content: Any, complaint: str) -> None:
    path = make_run(tmp_path).path
    (path / name).write_bytes(content if isinstance(content, bytes) else content.encode())
    with pytest.raises(StoreError, match=re.escape(complaint)) as caught:
        load_run(path)
    assert "\n" not in str(caught.value)
    assert str(path) in str(caught.value)


@pytest.mark.parametrize("content", ["{}", '{"class_names": ["a"], "counts": [[[1, 2]]]}', '{"class_names": 1}'])
def test_a_damaged_partition_is_refused(tmp_path: Path, content: str) -> None:
    folder = make_run(tmp_path)
    folder.partition.write_text(content)
    with pytest.raises(StoreError, match=re.escape(str(folder.partition))):
        load_run(folder.path).partition()


def test_a_file_too_large_is_not_read(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    path = make_run(tmp_path).path
    monkeypatch.setattr(files, "SIZE_LIMIT", 10)
    with pytest.raises(StoreError, match="more than the"):
        load_run(path)


def test_a_folder_that_is_no_run_is_refused(tmp_path: Path) -> None:
    with pytest.raises(StoreError, match="not a run folder"):
        load_run(tmp_path)
    with pytest.raises(StoreError, match="no such folder"):
        find_runs([tmp_path / "nowhere"])
    with pytest.raises(StoreError, match="no finished run there"):
        load(tmp_path)


def test_an_output_that_cannot_be_written_is_refused_before_anything_starts(tmp_path: Path) -> None:
    (tmp_path / "file").write_text("")
    with pytest.raises(StoreError, match="is not a folder"):
        check_writable(tmp_path / "file" / "results")
    check_writable(tmp_path / "new" / "results")
    assert [p.name for p in tmp_path.iterdir()] == ["file"]


def test_a_full_disk_is_one_line(tmp_path: Path) -> None:
    folder = RunFolder(tmp_path / "seed0")
    folder.path.mkdir()
    folder.rounds.mkdir()  # a folder cannot be appended to
    with pytest.raises(StoreError, match=r"rounds\.jsonl: cannot be written"):
        RunRecorder(folder).round_done(make_record(1, 1))
