"""What the report shows below the task: its numbers are those of the files, and nothing of a file is believed."""

from __future__ import annotations

import json
import math
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from numpy.testing import assert_allclose
from run_folders import confusion_of, make_rows, make_run, make_tasks, tell_below

from fcil.io.atomic import write_text
from fcil.report import below, below_tables, report, write_report
from fcil.report.details import Detail, details_of
from fcil.store import RunFolder, find_runs
from fcil.store.files import write_details
from fcil.store.groups import Group, group_runs

TASKS, CLASSES, CLIENTS = 3, 6, 4
HOSTILE = "<script>alert(1)</script>"


def group_at(folder: Path) -> Group:
    (group,) = group_runs(list(find_runs([folder])))
    return group


def told(folder: Path) -> tuple[Group, list[Detail]]:
    problems: list[str] = []
    group = group_at(folder)
    found = details_of(group, problems)
    assert problems == []
    return group, found


def figures_of(folder: Path) -> dict[str, Any]:
    return {figure.title: figure for figure in below.figures(*told(folder))}


@pytest.fixture
def two(tmp_path: Path) -> Path:
    for seed in (0, 1):
        tell_below(make_run(tmp_path, "finetune", seed), seed)
    return tmp_path


def test_classes_confusion_and_clients_are_means_of_what_the_files_say(two: Path) -> None:
    found = figures_of(two)
    assert list(found) == [
        "Accuracy on each class",
        "Confusion of classes",
        "Old and new classes",
        "Accuracy by client",
    ]
    last = [confusion_of(seed + TASKS, CLASSES) for seed in (0, 1)]
    shares = np.mean([100 * m[:-1] / m[:-1].sum(1, keepdims=True) for m in last], axis=0)
    confusion, classes = found["Confusion of classes"], found["Accuracy on each class"]
    assert_allclose(confusion.values[:-1], shares)
    assert np.isnan(confusion.values[-1]).all(), "a class without samples has no share"
    assert_allclose(classes.values[-1][:-1], np.diag(shares[:, :-1]))
    assert classes.x_names == [f"class {c}" for c in range(CLASSES)]
    assert np.isnan(classes.values[0, 2:]).all(), "classes that are not learnt yet"
    lines = {line.name: line.y for line in found["Accuracy by client"].lines}
    assert_allclose([lines[name][-1] for name in ("best", "mean", "worst")], [60, 40, 20])
    lines = {line.name: line.y for line in found["Old and new classes"].lines}
    assert lines["old classes"] == [None, 25.0, 25.0]
    assert_allclose(lines["all classes seen"], [56, 57, 58])
    aware = [np.mean([row.accuracy for row in make_rows("joint", seed, TASKS)]) for seed in (0, 1)]
    assert_allclose(lines["all, task given"][-1], 100 * np.mean(aware))


def test_tables_are_means_of_what_the_files_say(two: Path) -> None:
    _, details = told(two)
    (table,) = below_tables.by_task(details)
    assert table.columns == ["measure", "task 1", "task 2", "task 3"]
    rows = {row[0].text: [cell.text for cell in row[1:]] for row in table.rows}
    assert rows["all classes seen"] == ["56.0", "57.0", "58.0"]
    assert rows["calibration error"] == ["12.5"] * 3
    assert rows["old classes"] == ["–", "25.0", "25.0"]
    assert rows["worst client"] == ["20.0"] * 3
    assert rows["spread of clients"] == [f"{100 * np.std([0.2, 0.4, 0.6]):.1f}"] * 3
    assert below_tables.pairs(details) is None, "six classes are read in the matrix"
    page = report([two])
    assert "Confusion of classes" in page
    assert "expected, 15 bins" in page


def test_many_classes_are_put_together_and_their_confusions_listed(tmp_path: Path) -> None:
    folder = make_run(tmp_path, "finetune", 0)
    tell_below(folder, 0, per_task=12)
    names = [f"kind {c}" for c in range(36)]
    partition = json.loads(folder.partition.read_text(encoding="utf-8"))
    counts = np.ones((TASKS, CLIENTS, 36), dtype=int).tolist()
    write_text(folder.partition, json.dumps(partition | {"class_names": names, "counts": counts}))
    group, details = told(tmp_path)
    (heat,) = [one for one in below.figures(group, details) if one.title.startswith("Confusion")]
    assert isinstance(heat, below.Heat)
    assert heat.title == "Confusion of 36 classes, by task"
    assert heat.values.shape == (3, 3)
    matrix = confusion_of(TASKS, 36, 36)
    assert_allclose(
        heat.values[0], [100 * matrix[:12, 12 * t : 12 * t + 12].sum() / matrix[:12].sum() for t in range(3)]
    )
    table = below_tables.pairs(details)
    assert table is not None
    shares = 100 * matrix / np.maximum(matrix.sum(1, keepdims=True), 1)
    np.fill_diagonal(shares, 0)
    worst = np.unravel_index(shares.argmax(), shares.shape)
    assert [cell.text for cell in table.rows[0]] == [*(names[int(c)] for c in worst), f"{shares.max():.1f}"]


def test_runs_made_before_show_nothing_of_it_and_damage_is_told(tmp_path: Path) -> None:
    make_run(tmp_path / "old", "finetune", 0)
    page = report([tmp_path / "old"])
    assert "Confusion of classes" not in page
    assert "top-5" not in page
    folder = tell_below(make_run(tmp_path / "hurt", "finetune", 0), 0)
    folder.details["quality"].write_text("task,top1\n1,x\n")
    page = report([tmp_path / "hurt"])
    assert "quality.csv" in page
    assert "Confusion of classes" in page


def test_the_classes_of_a_file_are_bounded(tmp_path: Path) -> None:
    folder = tell_below(make_run(tmp_path, "finetune", 0), 0)
    write_details(folder.details["confusion"], "confusion", [(TASKS, 0, 10**7, 1)])
    problems: list[str] = []
    (detail,) = details_of(group_at(tmp_path), problems)
    assert detail.confusion is None
    assert "10,000,001 classes; at most 2,000 are shown" in problems[0]


def test_names_of_classes_are_text(tmp_path: Path) -> None:
    folder = tell_below(make_run(tmp_path, "finetune", 0), 0)
    partition = json.loads(folder.partition.read_text(encoding="utf-8"))
    write_text(folder.partition, json.dumps(partition | {"class_names": [HOSTILE, *make_tasks(TASKS)[-1].names[1:]]}))
    path = write_report([tmp_path])
    assert HOSTILE not in path.read_text(encoding="utf-8")


def test_orders_that_differ_by_seed_are_told_by_place(two: Path) -> None:
    folder = RunFolder(next(iter(sorted(two.rglob("seed1")))))
    partition = json.loads(folder.partition.read_text(encoding="utf-8"))
    write_text(folder.partition, json.dumps(partition | {"class_names": partition["class_names"][::-1]}))
    heat = figures_of(two)["Accuracy on each class"]
    assert heat.x_names == [str(c) for c in range(CLASSES)]
    assert "not the same in all seeds" in heat.caption
    assert math.isfinite(heat.values[-1][0])
