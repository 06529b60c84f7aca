"""Run folders that are made to hurt: each is named and left out, drawn in time, and not resumed."""

from __future__ import annotations

import json
import os
import re
import shutil
import subprocess
import time
from pathlib import Path
from typing import Any

import pytest
import torch
from hostile import NO_FILES, laughs, put, refused, table, within
from run_folders import make_run
from safetensors.torch import save_file
from small_runs import write_experiment

from fcil.config import MAX_BYTES
from fcil.errors import ConfigError, StoreError, UserError
from fcil.experiment import resume
from fcil.plots import draw_run
from fcil.plots.look.style import png
from fcil.plots.run import forgetting_figure, rounds_figure, synthetic_figure
from fcil.runs.plans import planned
from fcil.store import RunFolder, find_runs, load, load_run
from fcil.store.groups import split_label


@pytest.fixture(scope="module")
def made(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The results of two seeds."""
    top = tmp_path_factory.mktemp("made")
    for number in (0, 1):
        make_run(top, seed=number, tasks=1, rounds=1)
    return top


@pytest.fixture
def strange(made: Path, tmp_path: Path) -> RunFolder:
    """The second of two runs below `tmp_path`, for a test to spoil."""
    shutil.copytree(made, tmp_path, dirs_exist_ok=True)
    return RunFolder(tmp_path / "toy" / "lander-0123abcd" / "seed1")


PARTS = ["accuracy.csv", "rounds.jsonl", "summary.json", "partition.json"]


COLUMNS = "trained_task,tested_task,correct,examples,accuracy\n"


ROUND = '{"task": 1, "round": 1, '


@pytest.mark.parametrize("kind", NO_FILES)
@pytest.mark.parametrize("name", PARTS)
def test_what_is_no_file_in_a_run_folder_is_named_and_not_passed_over(
    tmp_path: Path, strange: RunFolder, name: str, kind: str
) -> None:
    put(strange.path / name, kind)
    skipped: list[str] = []
    assert [run.seed for run in find_runs([tmp_path], skipped=skipped)] == [0]
    assert skipped == [f"{strange.path / name}: cannot be read (it is not a file)"]
    with refused(StoreError, str(strange.path / name)):
        draw_run(strange.path)
    assert set(load(tmp_path).seed) == {0}


@pytest.mark.parametrize(
    ("name", "content", "said"),
    [
        ("accuracy.csv", COLUMNS + "1000000000,1,1,2,0.5\n", "accuracy on task 1 after task 1 is missing"),
        ("accuracy.csv", COLUMNS + "1,1,1" + "0" * 400 + ",1" + "0" * 400 + ",1\n", "is not four whole numbers"),
        ("accuracy.csv", COLUMNS + "1,1," + "1" * 5000 + ",1,1\n", "is not four whole numbers"),
        ("accuracy.csv", COLUMNS + "1,1,nan,1,1\n", "is not four whole numbers"),
        ("accuracy.csv", COLUMNS + "1,1,-1,1,1\n", "is not four whole numbers"),
        ("accuracy.csv", COLUMNS + "1,1,1,1,1,1\n", "is not four whole numbers"),
        ("accuracy.csv", COLUMNS + '"' + "x" * 200_000 + "\n", "not a table"),
        ("accuracy.csv", COLUMNS + "\0", "accuracy.csv"),
        ("rounds.jsonl", ROUND + '"terms": 3}\n', "line 1: terms is 3; expected at most 1000 names with numbers"),
        ("rounds.jsonl", ROUND + '"terms": {"ce": "x"}}\n', "terms is {'ce': 'x'}"),
        ("rounds.jsonl", ROUND + '"terms": {"ce": 1e400}}\n', "terms is {'ce': inf}"),
        ("rounds.jsonl", ROUND + '"terms": {"ce": 1' + "0" * 400 + "}}\n", "terms is"),
        ("rounds.jsonl", ROUND + '"terms": {"ce": true}}\n', "terms is {'ce': True}"),
        ("rounds.jsonl", ROUND + '"terms": {"\\u001b[2J": 1}}\n', "terms is"),
        ("rounds.jsonl", ROUND + '"terms": {"\\ud800": 1}}\n', "not valid JSON (surrogates not allowed)"),
        (
            "rounds.jsonl",
            ROUND + '"terms": ' + json.dumps({str(k): k for k in range(1001)}) + "}\n",
            "terms is {'0': 0, ",
        ),
        ("rounds.jsonl", ROUND + '"accuracy": "high"}\n', "accuracy is 'high'; expected a number from 0 to 1 or null"),
        ("rounds.jsonl", ROUND + '"accuracy": 2}\n', "accuracy is 2"),
        ("rounds.jsonl", ROUND + '"accuracy": NaN}\n', "not valid JSON (NaN is no JSON)"),
        ("rounds.jsonl", ROUND + '"bytes_up": "x"}\n', "bytes_up is 'x'; expected a whole number from 0"),
        ("rounds.jsonl", ROUND + '"bytes_down": -1}\n', "bytes_down is -1"),
        ("rounds.jsonl", ROUND + '"bytes_up": 1' + "0" * 30 + "}\n", "bytes_up is 1"),
        ("rounds.jsonl", ROUND + '"seconds": [1]}\n', "seconds is [1]"),
        ("rounds.jsonl", ROUND + '"seconds": {"a": []}}\n', "seconds is {'a': []}"),
        ("rounds.jsonl", ROUND + '"failures": "all"}\n', "failures is 'all'"),
        ("rounds.jsonl", ROUND + '"failures": [1]}\n', "failures is [1]"),
        ("rounds.jsonl", ROUND + '"failures": [{"kind": []}]}\n', "failures is [{'kind': []}]"),
        ("rounds.jsonl", ROUND + '"after_task": {"bytes_up": "x"}}\n', "line 1: after_task: bytes_up is 'x'"),
        ("rounds.jsonl", ROUND + '"after_task": [1]}\n', "after_task: failures is [1]"),
        ("rounds.jsonl", ROUND + '"clients": {"a": 1}}\n', "clients is {'a': 1}; expected a list of whole numbers"),
        ("rounds.jsonl", ROUND + '"clients": ["x"]}\n', "clients is ['x']"),
        ("rounds.jsonl", ROUND + '"lr": {}}\n', "lr is {}"),
        ("rounds.jsonl", '{"task": true, "round": 1}\n', "task is True; expected a whole number from 1"),
        ("rounds.jsonl", '{"task": 1000000000, "round": 1}\n', "task is 1000000000; expected a whole number from 1 to"),
        ("rounds.jsonl", '{"task": 1, "round": 1}\n' * 2, "line 2: round 1 of task 1 after round 1 of 1"),
        ("rounds.jsonl", '{"task": 1, "round": "\xff"}\n', "line 1: round is"),
        ("rounds.jsonl", b'{"task": 1, "round": "\xff"}\n', "line 1: not valid JSON (invalid start byte)"),
        ("rounds.jsonl", "[" * 100_000 + "\n", "line 1: not valid JSON"),
        (
            "rounds.jsonl",
            '{"task": ' + "1" * 5000 + "}\n",
            "line 1: not valid JSON (nested too deeply or a number too long)",
        ),
        ("summary.json", '{"tasks": 1, "final_accuracy": 0.999}', "final_accuracy is 0.999; accuracy.csv gives"),
        ("summary.json", '{"tasks": 1, "average_incremental_accuracy": "x"}', "average_incremental_accuracy is 'x'"),
        ("summary.json", '{"tasks": 1, "seconds": "long"}', "seconds is 'long'; expected a number or null"),
        ("summary.json", '{"tasks": 1, "seconds": 1e400}', "seconds is inf"),
        ("summary.json", '{"tasks": 1, "bytes_up": {}}', "bytes_up is {}"),
        ("summary.json", '{"tasks": 1, "failures": [1]}', "failures is [1]"),
        ("summary.json", '{"tasks": [1]}', "tells of [1] tasks"),
        ("config.yaml", "name: [1, 2]", "name is [1, 2]; expected printable text"),
        ("config.yaml", laughs("[x, x]", "[{}]"), "more than 100,000 values"),
        ("config.yaml", b"#" * (MAX_BYTES + 1), "more than the 1,048,576 allowed"),
    ],
    ids=range(49),
)
def test_rubbish_in_a_run_folder_is_named_and_left_out(
    tmp_path: Path, strange: RunFolder, name: str, content: str | bytes, said: str
) -> None:
    (strange.path / name).write_bytes(content if isinstance(content, bytes) else content.encode())
    with refused(StoreError, str(strange.path / name).removesuffix("/summary.json"), said), within(32):
        load_run(strange.path)
    skipped: list[str] = []
    assert [run.seed for run in find_runs([tmp_path], skipped=skipped)] == [0]
    assert len(skipped) == 1
    assert str(strange.path) in skipped[0]


@pytest.mark.parametrize("name", ["rounds.jsonl", "summary.json", "accuracy.csv", "partition.json"])
def test_a_line_of_gigabytes_is_not_read(strange: RunFolder, name: str) -> None:
    with (strange.path / name).open("wb") as file:
        file.truncate(300 * 2**20)
    with refused(StoreError, str(strange.path / name), "more than the"), within(32):
        load_run(strange.path).partition()
    if name == "rounds.jsonl":
        with (strange.path / name).open("wb") as file:
            file.truncate(200 * 2**20)
        with refused(StoreError, "a line has more than the 16,777,216 bytes allowed"), within(64):
            load_run(strange.path)


@pytest.mark.parametrize(
    ("content", "said"),
    [
        ({"class_names": ["a\x1b[2J", "b"]}, "class_names is"),
        ({"class_names": "ab"}, "class_names is 'ab'; expected a list of printable text"),
        ({"class_names": [1, 2]}, "class_names is [1, 2]"),
        ({"counts": [[[0.5, 1]]]}, "counts are not all whole numbers"),
        ({"counts": [[["1", "2"]]]}, "counts are not all whole numbers"),
        ({"counts": [[[True, False]]]}, "counts are not all whole numbers"),
        ({"counts": [[[10**18, 10**18]]]}, "counts are not all whole numbers from 0 to 1,099,511,627,776"),
        ({"counts": [[[10**30, 1]]]}, "counts are not all whole numbers"),
        ({"counts": [[[-1, 1]]]}, "counts are not all whole numbers"),
        ({"counts": [[[1, 2], [1]]]}, "not a partition (ValueError"),
        ({"counts": {"a": 1}}, "counts are ()"),
        ({"counts": []}, "counts are (0,)"),
    ],
    ids=range(12),
)
def test_a_partition_that_is_none_is_refused(strange: RunFolder, content: dict[str, Any], said: str) -> None:
    strange.partition.write_text(json.dumps({"class_names": ["a", "b"], "counts": [[[1, 2]]], **content}))
    with refused(StoreError, str(strange.partition), said):
        load_run(strange.path).partition()


def test_metrics_are_those_of_the_counts_whatever_a_summary_says(tmp_path: Path) -> None:
    folder = make_run(tmp_path, tasks=2, rounds=1)
    sound = load_run(folder.path).summary
    told = {**sound, "bwt": 0.99, "forgetting": "none at all", "stability": [1], "more": {"deep": 1}}
    folder.summary.write_text(json.dumps(told))
    assert load_run(folder.path).summary == {**sound, "more": {"deep": 1}}


@pytest.mark.parametrize("kind", ["pipe", "device", "loop", "nowhere", "folder"])
def test_a_pool_that_is_no_file_is_not_drawn(strange: RunFolder, kind: str) -> None:
    put(strange.synthetic / "task1.safetensors", kind)
    with refused(StoreError, str(strange.synthetic / "task1.safetensors"), "not a pool of synthetic samples"):
        synthetic_figure(load_run(strange.path))


@pytest.mark.parametrize(
    "content",
    [
        {"x": torch.zeros(2, 3)},
        {"x": torch.zeros(2, 3, 4, 4), "y": torch.zeros(3, dtype=torch.int64)},
        {"x": torch.zeros(2, 3, 4, 4), "y": torch.zeros(2)},
        {"x": torch.zeros(2, 3, 4, 4), "y": torch.tensor([-1, 0])},
        {"x": torch.zeros(2, 3, 4, 4, dtype=torch.int64), "y": torch.zeros(2, dtype=torch.int64)},
        {"x": torch.zeros(2, 0, 4, 4), "y": torch.zeros(2, dtype=torch.int64)},
        {"x": torch.zeros(1, 1, 1, 5000), "y": torch.zeros(1, dtype=torch.int64)},
    ],
    ids=range(7),
)
def test_a_pool_of_other_tensors_is_not_drawn(strange: RunFolder, content: dict[str, torch.Tensor]) -> None:
    save_file(content, strange.synthetic / "task1.safetensors")
    with refused(StoreError, str(strange.synthetic / "task1.safetensors"), "not a pool of synthetic samples"):
        synthetic_figure(load_run(strange.path))


def test_a_pool_is_looked_at_without_reading_it_all(strange: RunFolder) -> None:
    path, count, size = strange.synthetic / "task1.safetensors", 2**20, 3 * 64 * 64
    about = {
        "y": {"dtype": "I64", "shape": [count], "data_offsets": [0, 8 * count]},
        "x": {"dtype": "U8", "shape": [count, 3, 64, 64], "data_offsets": [8 * count, (8 + size) * count]},
    }
    path.write_bytes(table(about, b""))
    with path.open("r+b") as file:
        file.truncate(path.stat().st_size + (8 + size) * count)  # 12 GiB of holes
    before = time.monotonic()
    assert png(synthetic_figure(load_run(strange.path))).startswith(b"\x89PNG")
    assert time.monotonic() - before < 30


def test_a_long_run_is_drawn_in_time(strange: RunFolder) -> None:
    tasks = 60
    rows = [f"{t},{j},{(t * j) % 9},9,0\n" for t in range(1, tasks + 1) for j in range(1, t + 1)]
    strange.accuracy.write_text(COLUMNS + "".join(rows))
    strange.rounds.write_text("".join(f'{{"task": {t}, "round": 1, "terms": {{"ce": 1}}}}\n' for t in range(1, 1001)))
    strange.summary.unlink()
    run, began = load_run(strange.path), time.monotonic()
    for figure in (forgetting_figure, rounds_figure):
        figure(run)
    assert time.monotonic() - began < 60


def test_labels_stay_short_whatever_a_configuration_says() -> None:
    data = {
        "dataset": "x" * 10**5,
        "tasks": [[k] for k in range(10**4)],
        "partition": {f"k{k}": "\x1b" for k in range(99)},
    }
    for partition in (data["partition"], {"./mine.py": {f"k{k}" * 99: "\x1b" * 99 for k in range(99)}}):
        label = split_label({"data": {**data, "partition": partition}})
        assert len(label) < 250
        assert label.isprintable()


@pytest.mark.parametrize(
    ("partition", "told"),
    [
        ({"dirichlet": 0.5}, "digits, dirichlet 0.5"),
        ({"./ramp.py": {"skew": 2}}, "digits, ./ramp.py skew 2"),
        ({"./ramp.py": {"skew": 0, "least": 3}}, "digits, ./ramp.py skew 0 least 3"),
        ({"./ramp.py": {}}, "digits, ./ramp.py"),
    ],
)
def test_a_partition_of_ones_own_is_told_by_its_settings(partition: dict[str, Any], told: str) -> None:
    assert split_label({"data": {"dataset": "digits", "partition": partition}}) == told


def test_folders_within_folders_are_not_searched_for_ever(tmp_path: Path) -> None:
    make_run(tmp_path, tasks=1, rounds=1)
    deep = os.open(tmp_path, os.O_RDONLY)
    for _ in range(1100):
        os.mkdir("d", dir_fd=deep)
        deep, above = os.open("d", os.O_RDONLY, dir_fd=deep), deep
        os.close(above)
    os.close(deep)
    skipped: list[str] = []
    try:
        assert len(find_runs([tmp_path], skipped=skipped)) == 1
    finally:
        subprocess.run(["rm", "-r", tmp_path / "d"], check=True)  # pytest's own tidying up is not that patient
    assert len(skipped) == 1
    assert skipped[0].endswith("more than 64 folders within each other")


@pytest.mark.parametrize(
    ("changes", "said"),
    [
        ({"name": ["x"]}, "name: ['x'] is not allowed; it names a folder"),
        ({"name": "../../x"}, "name: '../../x' is not allowed"),
        ({"seed": "one"}, "seed: 'one' is not allowed; expected a whole number from 0"),
        ({"seed": -1}, "seed: -1 is not allowed"),
        ({"seed": 10**99}, "config.yaml"),
        ({"data": [1]}, "data: [1] is not allowed"),
        ({"strategy": {"os": {}}}, 'strategy file "os" does not load'),
    ],
)
def test_a_run_with_changed_settings_is_not_resumed(tmp_path: Path, changes: dict[str, Any], said: str) -> None:
    (plan,) = planned(write_experiment(tmp_path))
    folder = tmp_path / "out" / plan.folder
    folder.mkdir(parents=True)
    (folder / "strategy.py").write_text(plan.strategy.source)
    (folder / "config.yaml").write_text(json.dumps({**plan.to_yaml(), **changes}))
    with pytest.raises((ConfigError, StoreError), match=re.escape(said)) as caught:
        resume(folder)
    assert "\n" not in str(caught.value)
    assert sorted(p.name for p in folder.iterdir()) == ["config.yaml", "strategy.py"]


@pytest.mark.parametrize("name", ["config.yaml", "strategy.py"])
def test_a_run_made_of_pipes_is_not_resumed(tmp_path: Path, name: str) -> None:
    (plan,) = planned(write_experiment(tmp_path))
    folder = tmp_path / "out" / plan.folder
    folder.mkdir(parents=True)
    (folder / "config.yaml").write_text(json.dumps(plan.to_yaml()))
    put(folder / name, "pipe")
    with pytest.raises(UserError) as caught:
        resume(folder)
    assert "\n" not in str(caught.value)
