"""Classes, confusion and calibration at the end of each task: counted in the one evaluation pass, as others count."""

from __future__ import annotations

import shutil
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from command_line import Command
from numpy.testing import assert_allclose
from run_folders import make_run
from sklearn.metrics import accuracy_score, confusion_matrix, top_k_accuracy_score
from small_runs import Stop, StopAfter, play, write_experiment

from fcil import metrics
from fcil.compare import compare
from fcil.errors import StoreError
from fcil.federation.observer import Observer
from fcil.metrics import Predictions
from fcil.plots import draw_run
from fcil.plots.classes import classes_figure, confusion_figure
from fcil.store import Run, RunFolder, RunRecorder, find_runs, load_run
from fcil.strategy import Strategy

TABLES = ("classes.csv", "confusion.csv", "quality.csv", "clients.csv", "task_aware.csv")
ON_REQUEST = ("classes", "clients", "confusion", "task_aware")
EXACT = {"rtol": 0.0, "atol": 1e-9}


class Labels(Observer):
    """Labels of the test samples, by task."""

    def __init__(self) -> None:
        self.of_task: dict[int, Any] = {}

    def task_predicted(self, task: Any, predictions: Predictions) -> None:
        self.of_task[task.number] = predictions.labels


@pytest.fixture(scope="module")
def played(tmp_path_factory: pytest.TempPathFactory) -> tuple[Run, dict[int, Any], list[torch.Tensor]]:
    """A run of all ten digits, the labels of its test samples, and every score that was computed for it."""
    folder, scores, labels = tmp_path_factory.mktemp("below"), list[torch.Tensor](), Labels()
    predict = Strategy.predict

    def spied(self: Strategy, net: Any, x: Any, shared: Any) -> torch.Tensor:
        scores.append(predict(self, net, x, shared))
        return scores[-1]

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(Strategy, "predict", spied)
        source = write_experiment(folder, federation={"stop_after": None, "evaluate_every": 0, "max_batches": 8})
        (run,) = play(source, "strategy=joint", out=folder, observer=labels)
    return run, labels.of_task, scores


def scores_of(scores: list[torch.Tensor], sizes: list[int]) -> list[Any]:
    return [part.double().numpy() for part in _split(scores, sizes)]


def _split(scores: list[torch.Tensor], sizes: list[int]) -> list[torch.Tensor]:
    found, left = [], list(scores)
    for size in sizes:
        part: list[torch.Tensor] = []
        while sum(map(len, part)) < size:
            part.append(left.pop(0))
        found.append(torch.cat(part))
    assert not left, "there was a second pass over test images"
    return found


def plain_ece(probabilities: Any, labels: Any, bins: int = 15) -> float:
    """The calibration error, bin by bin and sample by sample."""
    total = 0.0
    for number in range(bins):
        low, high = number / bins, (number + 1) / bins
        inside = [k for k, p in enumerate(probabilities.max(1)) if low < p <= high or (p == 0 and number == 0)]
        if inside:
            right = sum(probabilities[k].argmax() == labels[k] for k in inside) / len(inside)
            sure = sum(probabilities[k].max() for k in inside) / len(inside)
            total += len(inside) / len(labels) * abs(right - sure)
    return total


def test_tables_are_what_scikit_learn_counts_of_the_scores_of_the_one_pass(
    played: tuple[Run, dict[int, Any], list[torch.Tensor]],
) -> None:
    run, labels, scores = played
    assert len(labels) == 5
    for task, s in enumerate(scores_of(scores, [len(y) for y in labels.values()]), start=1):
        y, seen, predicted = labels[task], 2 * task, s.argmax(1)
        cells = run.confusion[run.confusion.task == task]
        dense = np.zeros((seen, seen), dtype=int)
        dense[cells.true, cells.predicted] = cells.n
        assert (dense == confusion_matrix(y, predicted, labels=range(seen))).all()
        assert cells.n.min() > 0
        by_class = run.classes[run.classes.task == task]
        assert by_class["class"].tolist() == list(range(seen))
        assert by_class.n.tolist() == dense.sum(1).tolist()
        assert by_class.correct.tolist() == dense.diagonal().tolist()
        (row,) = run.measures[run.measures.task == task].to_dict("records")
        assert_allclose(row["top1"], accuracy_score(y, predicted), **EXACT)
        top5 = top_k_accuracy_score(y, s, k=5, labels=range(seen)) if seen > 5 else 1.0
        assert_allclose(row["top5"], top5, **EXACT)
        e = np.exp(s - s.max(1, keepdims=True))
        assert_allclose(row["ece"], plain_ece(e / e.sum(1, keepdims=True), y), **EXACT)
        old, new = y < seen - 2, y >= seen - 2
        assert_allclose(row["new"], accuracy_score(y[new], predicted[new]), **EXACT)
        assert np.isnan(row["old"]) if task == 1 else abs(row["old"] - accuracy_score(y[old], predicted[old])) < 1e-9
    assert run.measures.top5.iloc[-1] < 1
    assert run.measures.top1.iloc[-1] > 0.1


def test_the_task_aware_accuracy_is_that_of_the_classes_of_the_samples_own_task(
    played: tuple[Run, dict[int, Any], list[torch.Tensor]],
) -> None:
    run, labels, scores = played
    expected = []
    for trained, s in enumerate(scores_of(scores, [len(y) for y in labels.values()]), start=1):
        for task in range(1, trained + 1):
            first = 2 * (task - 1)
            rows = (labels[trained] // 2) == task - 1
            told = first + s[rows][:, first : first + 2].argmax(1)
            expected.append((trained, task, int((told == labels[trained][rows]).sum()), int(rows.sum())))
    assert [tuple(row) for row in run.task_aware_rows] == expected
    aware, agnostic = run.task_aware, run.accuracy
    assert list(aware) == list(agnostic)
    assert (aware.examples == agnostic.examples).all()
    assert (aware.correct >= agnostic.correct).all()
    assert aware.correct.sum() > agnostic.correct.sum()
    last = aware[aware.trained_task == 5]
    assert_allclose(run.summary["task_aware_final_accuracy"], last.correct.sum() / last.examples.sum(), **EXACT)
    assert_allclose(run.summary["task_aware_forgetting"], metrics.forgetting(metrics.accuracy_matrix(expected)[0]))
    assert aware.correct.dtype == "int64"


def test_task_aware_accuracies_counted_by_hand() -> None:
    labels, tasks = np.array([0, 1, 2, 3, 3]), np.array([1, 1, 2, 2, 2])
    hits = np.array([True, False, True, True, False])
    predictions = Predictions(labels, labels, hits, np.ones(5), tasks, hits)
    assert predictions.task_aware_rows(2) == [(2, 1, 1, 2), (2, 2, 2, 3)]
    found = metrics.task_aware_summary([(1, 1, 2, 2), *predictions.task_aware_rows(2)])
    assert found == {
        "task_aware_final_accuracy": 0.6,
        "task_aware_average_incremental_accuracy": 0.8,
        "task_aware_forgetting": 0.5,
    }


def test_the_accuracy_of_clients_counted_by_hand() -> None:
    # Class 0: 8 of 10 right, class 1: 1 of 4, class 2 is not tested, class 3: 5 of 5.
    confusion = np.array([[8, 2, 0, 0], [3, 1, 0, 0], [0, 0, 0, 0], [0, 0, 0, 5]])
    held = [[6, 2, 9, 0], [0, 4, 0, 0], [1, 1, 0, 2], [0, 0, 7, 0]]
    found = metrics.client_accuracy(held, confusion)
    assert_allclose(found, [(6 * 0.8 + 2 * 0.25) / 8, 0.25, (0.8 + 0.25 + 2 * 1.0) / 4, np.nan], **EXACT)
    a, b, c = found[:3]
    mean = (a + b + c) / 3
    std = (((a - mean) ** 2 + (b - mean) ** 2 + (c - mean) ** 2) / 3) ** 0.5
    assert_allclose(list(metrics.client_summary(found).values()), [0.25, mean, std], **EXACT)  # type: ignore[arg-type]
    assert set(metrics.client_summary([np.nan]).values()) == {None}


def test_the_accuracy_of_clients_is_that_of_their_classes_and_of_all_where_there_is_one_mix(
    played: tuple[Run, Any, Any],
) -> None:
    run = played[0]
    counts, _ = run.partition()
    frame = run.clients
    assert sorted(set(zip(frame.task, frame.client, strict=True))) == [(t, k) for t in range(1, 6) for k in range(2)]
    for row in frame.itertuples():
        held = counts[: row.task, row.client].sum(0)
        by_class = run.classes[run.classes.task == row.task]
        expected = sum(held[c] * a for c, a in zip(by_class["class"], by_class.accuracy, strict=True))
        assert row.examples == held.sum()
        assert_allclose(row.accuracy, expected / held.sum(), **EXACT)
    last = frame[frame.task == 5].accuracy
    assert_allclose(run.summary["client_accuracy_worst"], last.min(), **EXACT)
    assert_allclose(run.summary["client_accuracy_std"], last.std(ddof=0), **EXACT)


def test_a_run_begun_before_there_was_a_task_aware_file_ends_without_its_numbers(
    played: tuple[Run, Any, Any], tmp_path: Path
) -> None:
    copy = Path(shutil.copytree(played[0].path, tmp_path / Path(*played[0].path.parts[-3:])))
    for text in (None, "damaged", "trained_task,tested_task,correct,examples,accuracy\n5,1,1,72,0.013889\n"):
        recorder = RunRecorder(RunFolder(copy))
        recorder.folder.task_aware.unlink(missing_ok=True)
        if text is not None:
            recorder.folder.task_aware.write_text(text)
        recorder.run_done(1.0, {})
        assert not any(key.startswith("task_aware") for key in load_run(copy).summary)
        if text is not None:
            with pytest.raises(StoreError, match=r"task_aware\.csv"):
                _ = load_run(copy).task_aware


def test_a_task_aware_number_is_a_column_of_a_comparison_on_request(
    command: Command, played: tuple[Run, Any, Any], tmp_path: Path
) -> None:
    copy = Path(shutil.copytree(played[0].path, tmp_path / Path(*played[0].path.parts[-3:])))
    name = "task_aware_final_accuracy"
    shown = f"{100 * played[0].summary[name]:.1f}"
    plain, asked = command("compare", str(copy)), command("compare", str(copy), "--column", name)
    assert (asked.code, "task-aware" in plain.out, "task-aware" in asked.out) == (0, False, True)
    assert f"| {shown} |" in (copy / "tables" / "comparison.md").read_text()
    wrong = command("compare", str(copy), "--column", "task_aware_final")
    assert wrong.code == 2
    assert f'Did you mean "{name}"' in wrong.err
    assert wrong.err.count("\n") == 1


def test_tables_agree_with_the_accuracies(played: tuple[Run, Any, Any]) -> None:
    run = played[0]
    by_class = run.classes.assign(tested=run.classes["class"] // 2 + 1).groupby(["task", "tested"])[["correct", "n"]]
    found = [(*place, *row) for place, row in zip(by_class.sum().index, by_class.sum().to_numpy(), strict=True)]
    assert found == [tuple(row) for row in run.rows]


def test_calibration_of_confidences_on_the_edges_of_bins_and_of_scores_that_are_not_finite() -> None:
    y, sure = np.array([0, 0, 1, 1]), np.array([1 / 15, 2 / 15, 1.0, 0.0])
    predictions = Predictions(y, np.array([0, 1, 1, 1]), y == y, sure, y + 1, y == y)
    # (0, 1/15] holds the first and the last, both right; (1/15, 2/15] the second, wrong; the last bin the third.
    expected = 0.5 * abs(1 - 1 / 30) + 0.25 * 2 / 15 + 0.25 * 0
    assert_allclose(metrics.calibration_error(predictions), expected, **EXACT)
    assert metrics.calibration_error(predictions._replace(confidence=np.array([0.5, np.nan, 1, 1]))) is None


@pytest.mark.parametrize("event", ["task_predicted", "task_done", "round_done"])
@pytest.mark.parametrize("count", [1, 2])
def test_a_run_that_dies_between_ends_with_the_same_tables(
    played: tuple[Run, Any, Any], tmp_path: Path, event: str, count: int
) -> None:
    source = write_experiment(tmp_path)
    (whole,) = play(source, out=tmp_path / "whole")
    with pytest.raises(Stop):
        play(source, out=tmp_path / "cut", observer=StopAfter(count, event))
    (resumed,) = play(source, out=tmp_path / "cut")

    for name in (*TABLES, "accuracy.csv"):
        assert (resumed.path / name).read_bytes() == (whole.path / name).read_bytes()


def test_tables_of_what_is_played_again_are_not_those_of_before(tmp_path: Path) -> None:
    (run,) = play(write_experiment(tmp_path), out=tmp_path)
    run.folder.truncate_after(2, 1)

    assert set(run.classes.task) == set(run.confusion.task) == set(run.measures.task) == {1}
    assert set(run.task_aware.trained_task) == {1}
    assert not run.folder.net.exists()


def test_a_run_of_before_has_empty_frames_and_still_loads_compares_and_plots(tmp_path: Path) -> None:
    folder = make_run(tmp_path)
    run = load_run(folder.path)

    for frame in (run.classes, run.confusion, run.measures, run.clients, run.task_aware):
        assert frame.empty
    assert list(run.classes) == ["task", "class", "n", "correct", "accuracy"]
    assert len(compare(find_runs([tmp_path])).splits) == 1
    assert draw_run(folder.path)
    with pytest.raises(StoreError, match=r"nothing to draw as confusion$"):
        draw_run(folder.path, kinds=["confusion"])


@pytest.mark.parametrize(
    ("name", "text", "complaint"),
    [
        ("classes", "task,class,n\n1,0,3\n", "line 1: expected the columns task,class,n,correct"),
        ("classes", "task,class,n,correct\n1,0,3,4\n", "line 2: '1,0,3,4' is no line of classes.csv"),
        ("classes", "task,class,n,correct\n1,0,3\n", "line 2: '1,0,3' is no line"),
        ("confusion", "task,true,predicted,n\n1,0,-1,4\n", "line 2"),
        ("confusion", "task,true,predicted,n\n0,0,1,4\n", "line 2"),
        ("clients", "task,client,examples,accuracy\n1,0,3,1.5\n", "line 2: '1,0,3,1.5' is no line of clients.csv"),
        ("clients", "task,client,examples,accuracy\n1,0,,0.5\n", "line 2"),
        ("quality", "task,top1,top5,ece,old,new\n1,2.0,1,0,,1\n", "line 2"),
        ("quality", "task,top1,top5,ece,old,new\n1,nan,1,0,,1\n", "line 2"),
        ("quality", "task,top1,top5,ece,old,new\n\n", "line 2"),
    ],
)
def test_a_damaged_table_is_one_line(tmp_path: Path, name: str, text: str, complaint: str) -> None:
    folder = make_run(tmp_path)
    folder.details[name].write_text(text)
    run = load_run(folder.path)

    with pytest.raises(StoreError, match=complaint) as error:
        _ = getattr(run, {"quality": "measures"}.get(name, name))
    assert "\n" not in str(error.value)


def test_the_command_draws_figures_where_they_are_asked_for(
    command: Command, played: tuple[Run, Any, Any], tmp_path: Path
) -> None:
    copy = Path(shutil.copytree(played[0].path, tmp_path / Path(*played[0].path.parts[-3:])))
    said = command("plot", str(copy), *(part for name in ON_REQUEST for part in ("--kind", name)))

    assert said.code == 0
    drawn = {path.name for path in (copy / "figures").iterdir()} - {"drawn.json"}
    assert drawn == {f"{figure}.{kind}" for figure in ON_REQUEST for kind in ("png", "pdf")}


def test_figures_name_the_classes_and_show_the_shares(played: tuple[Run, Any, Any]) -> None:
    run = played[0]
    confusion, classes = confusion_figure(run), classes_figure(run)
    last = run.confusion[run.confusion.task == 5].set_index(["true", "predicted"]).n
    share = 100 * last[0, 0] / last[0].sum()

    for figure in (confusion, classes):
        ticks = [label.get_text() for label in figure.axes[0].get_xticklabels()]
        assert (ticks[0], ticks[-1]) == ("zero", "nine")
    shown = confusion.axes[0].images[0].get_array()
    assert_allclose(float(shown[0, 0]), share)
    assert_allclose(np.asarray(shown).sum(1), 100)
    grid = classes.axes[0].images[0].get_array()
    assert grid.shape == (5, 10)
    assert_allclose(float(grid[4, 0]), share)
    assert np.isnan(np.asarray(grid.filled(np.nan))[0, 2:]).all()


def test_a_table_of_more_classes_than_can_be_drawn_is_one_line(tmp_path: Path) -> None:
    folder = make_run(tmp_path)
    folder.details["confusion"].write_text("task,true,predicted,n\n1,0,999999999999,4\n")

    with pytest.raises(StoreError, match="at most 2,000 are drawn"):
        draw_run(folder.path, kinds=["confusion"])
