"""Metrics against the reference script, published rules and hand-made matrices."""

from __future__ import annotations

import json
import math
from pathlib import Path

import numpy as np
import pytest
from golden_vectors import load_case
from run_folders import make_run

from fcil.compare import compare
from fcil.metrics import (
    FORGETTING,
    AccuracyRow,
    accuracy_after_each_task,
    accuracy_matrix,
    average_incremental_accuracy,
    bwt,
    final_accuracy,
    forgetting,
    forgetting_after_each_task,
    group_accuracy,
    per_task_forgetting,
    plasticity,
    stability,
    summary,
)
from fcil.store import files, find_runs

EMPTY = {"two_tasks": ("libcontinual",), "one_task": ("first_over_T", "lander")}
"""What a formula gives as zero of so few tasks, whatever was learnt: a sum of nothing, or of the last task alone."""
TOY = [[0.80, 0, 0, 0], [0.60, 0.85, 0, 0], [0.45, 0.70, 0.82, 0], [0.40, 0.50, 0.65, 0.88]]


def lower(values: object) -> np.ndarray:
    matrix = np.array(values, dtype=np.float64)
    matrix[np.triu_indices(len(matrix), 1)] = np.nan
    return matrix


def rows_of(matrix: np.ndarray, examples: list[int]) -> list[tuple[int, int, int, int]]:
    cells = [(t, j) for t in range(len(matrix)) for j in range(t + 1)]
    return [(t + 1, j + 1, round(matrix[t, j] * examples[j]), examples[j]) for t, j in cells]


@pytest.mark.parametrize("name", ["toy", "recover", "decline", "two_tasks", "one_task"])
def test_every_definition_matches_the_reference_values(name):
    case = load_case("14_forgetting")
    matrix = lower(case.tensors[f"inputs.{name}.matrix"].numpy() / 100)
    same = np.ones(len(matrix))
    got = {kind: forgetting(matrix, kind) for kind in FORGETTING} | {
        "bwt": bwt(matrix),
        "plasticity_mean_diagonal": plasticity(matrix),
        "final_mean_over_tasks": final_accuracy(matrix, same),
        "average_incremental_equal_tasks": average_incremental_accuracy(matrix, same),
    }
    expected = {key: value.item() for key, value in case.under(f"expected.{name}").items()}
    undefined = {key for key, value in got.items() if value is None}
    assert {key: expected.pop(key) for key in undefined & expected.keys()} == dict.fromkeys(EMPTY.get(name, ()), 0.0)
    assert got.keys() - undefined == expected.keys()
    for key, value in expected.items():
        error = abs(100 * got[key] - value) / max(abs(value), 1e-3)
        assert error <= case.tolerance, f"{key}: {error:.1e}"


@pytest.mark.parametrize("name", ["toy", "recover", "decline", "two_tasks", "one_task"])
def test_the_reference_values_come_out_of_a_run_folder_and_of_a_comparison(tmp_path: Path, name: str) -> None:
    case = load_case("14_forgetting")
    matrix = lower(case.tensors[f"inputs.{name}.matrix"].numpy() / 100)
    folder = make_run(tmp_path, "finetune", tasks=len(matrix), rounds=1)
    counts = [AccuracyRow(*row) for row in rows_of(matrix, [10**12] * len(matrix))]  # fine enough for any digit
    files.write_accuracy(folder.accuracy, counts)
    files.write_json(folder.summary, {"tasks": len(matrix), "bwt": 9.9, "forgetting": None})  # which is not believed
    (entry,) = compare(find_runs([tmp_path])).splits[0].entries
    for key, value in case.under(f"expected.{name}").items():
        told = {
            "plasticity_mean_diagonal": "plasticity",
            "final_mean_over_tasks": "final_accuracy",
            "average_incremental_equal_tasks": "average_incremental_accuracy",
            "chaudhry": "forgetting",
        }.get(key, key if key == "bwt" else f"forgetting_{key}")
        if key in EMPTY.get(name, ()):
            assert entry.spreads[told] is None
        else:
            assert entry.by_seed(told)[0] == pytest.approx(value.item(), abs=1e-8), key
    assert (entry.spreads["forgetting"] is None) == (len(matrix) == 1)


def test_accuracy_by_group_matches_the_reference_but_for_the_block_it_drops():
    case = load_case("13_accuracy_groups")
    for setting in case.parameters["cases"]:
        key, step, known = setting["key"], setting["increment"], setting["known"]
        sizes = [min(step, setting["classes"] - start) for start in range(0, setting["classes"], step)]
        if key.startswith("C21"):  # the reference calls classes 10-20 new; its last block of one is missing
            sizes = [10, 10, 1]
        got = group_accuracy(case.tensors[f"inputs.{key}.predictions"], case.tensors[f"inputs.{key}.labels"], sizes)
        expected = case.tensors[f"expected.{key}.values"].tolist()
        assert round(100 * got["total"], 2) == expected[0]
        assert [round(100 * value, 2) for value in got["tasks"]][: len(expected) - 3] == expected[1:-2]
        assert len(got["tasks"]) == len(expected) - 3 + key.startswith("C21")
        split = group_accuracy(
            case.tensors[f"inputs.{key}.predictions"],
            case.tensors[f"inputs.{key}.labels"],
            [known, setting["classes"] - known],
        )
        assert round(100 * split["new"], 2) == expected[-1]
        assert round(100 * (split["old"] or 0), 2) == expected[-2]
        assert (split["old"] is None) == (known == 0)


def test_rows_in_any_order_make_the_matrix():
    rows = rows_of(lower(TOY), [100, 200, 100, 50])
    matrix, examples = accuracy_matrix(reversed(rows))
    np.testing.assert_array_equal(matrix, lower(TOY))
    assert examples.tolist() == [100, 200, 100, 50]
    assert np.isnan(matrix[np.triu_indices(4, 1)]).all()


@pytest.mark.parametrize(
    ("rows", "message"),
    [
        ([], "no accuracy rows"),
        ([(1, 1, 5, 10), (2, 2, 5, 10)], "task 1 after task 2 is missing"),
        ([(1, 1, 5, 10), (1, 1, 6, 10)], "given twice"),
        ([(1, 1, 11, 10)], "11 of 10"),
        ([(1, 1, 0, 0)], "0 of 0"),
        ([(1, 1, 5, 10), (1, 2, 5, 10)], "task 2 after task 1"),
        ([(1, 1, 5, 10), (2, 1, 5, 12), (2, 2, 1, 9)], "10 test examples and later 12"),
    ],
)
def test_rows_that_make_no_matrix_are_refused(rows, message):
    with pytest.raises(ValueError, match=message):
        accuracy_matrix(rows)


def test_accuracy_is_weighted_by_examples():
    matrix, examples = lower([[0.5, 0], [0.2, 0.8]]), [30, 10]
    np.testing.assert_allclose(accuracy_after_each_task(matrix, examples), [0.5, (0.2 * 30 + 0.8 * 10) / 40])
    assert final_accuracy(matrix, examples) == pytest.approx(0.35)
    assert average_incremental_accuracy(matrix, examples) == pytest.approx(0.425)


def test_forgetting_after_each_task_ends_with_the_forgetting():
    curve = forgetting_after_each_task(lower(TOY))
    assert math.isnan(curve[0])
    np.testing.assert_allclose(curve[1:], [0.20, (0.35 + 0.15) / 2, (0.40 + 0.35 + 0.17) / 3])
    assert curve[-1] == forgetting(lower(TOY))
    np.testing.assert_allclose(per_task_forgetting(lower(TOY)), [0.40, 0.35, 0.17])


def test_stability_is_what_is_left_of_earlier_tasks():
    assert stability(lower(TOY)) == pytest.approx((0.40 + 0.50 + 0.65) / 3)
    assert plasticity(lower(TOY)) == pytest.approx((0.80 + 0.85 + 0.82 + 0.88) / 4)


@pytest.mark.parametrize("seed", range(20))
def test_laws_hold_on_random_matrices(seed):
    rng = np.random.default_rng(seed)
    matrix = lower(rng.random((5, 5)))
    values = {name: forgetting(matrix, name) for name in FORGETTING}
    assert values["chaudhry_including_last"] >= max(0, values["chaudhry"])
    assert values["first"] == pytest.approx(-bwt(matrix))
    assert values["first_over_T"] == pytest.approx(values["first"] * 4 / 5)
    assert values["lander"] >= values["first_over_T"] - 1e-12
    assert values["chaudhry"] >= values["first"] - 1e-12


def test_an_unknown_forgetting_is_named_with_those_there_are():
    with pytest.raises(ValueError, match=r'unknown forgetting "chaudry".*Did you mean "chaudhry"'):
        forgetting(lower(TOY), "chaudry")


def test_summary_of_a_run():
    got = summary(rows_of(lower(TOY), [100, 200, 100, 100]))
    assert got["tasks"] == 4
    assert got["final_accuracy"] == pytest.approx((40 + 100 + 65 + 88) / 500)
    assert got["old_accuracy"] == pytest.approx((40 + 100 + 65) / 400)
    assert got["new_accuracy"] == pytest.approx(0.88)
    assert got["forgetting"]["chaudhry"] == pytest.approx(0.92 / 3)
    assert got["accuracy_after_each_task"][-1] == got["final_accuracy"]


def test_summary_of_one_task_is_json_with_null_for_what_is_undefined():
    got = json.loads(json.dumps(summary([(1, 1, 133, 200)]), allow_nan=False))
    assert got["final_accuracy"] == got["average_incremental_accuracy"] == got["new_accuracy"] == 0.665
    assert got["forgetting"] == dict.fromkeys(FORGETTING)
    assert got["bwt"] is got["stability"] is got["old_accuracy"] is None


def test_no_definition_gives_every_run_the_same_number() -> None:
    """A number that so few tasks make zero whatever was learnt would be read as no forgetting at all."""
    rng = np.random.Generator(np.random.Philox(7))
    for tasks in (1, 2, 3, 4):
        told = [summary(rows_of(lower(rng.uniform(0.1, 0.9, (tasks, tasks))), [1000] * tasks)) for _ in range(5)]
        for name in FORGETTING:
            values = [one["forgetting"][name] for one in told]
            assert set(values) == {None} or len(set(values)) > 1, (name, tasks)
        for name in ("bwt", "stability", "old_accuracy"):
            assert ({one[name] for one in told} == {None}) == (tasks == 1)
    assert told[0]["forgetting"]["libcontinual"] is not None


def test_the_six_forgettings_of_the_page_on_claims_are_those_of_the_code():
    text = (Path(__file__).parents[2] / "docs/claims.md").read_text(encoding="utf-8").partition("six forgettings")[2]
    rows = [[cell.strip() for cell in line.strip("|").split("|")] for line in text.splitlines() if line.startswith("|")]
    matrix = np.array([[float(cell or "nan") for cell in row[1:]] for row in rows if row[0].isdigit()])
    told = {row[0].split("`")[1]: float(row[2]) for row in rows if row[0].startswith("`")}
    assert matrix.shape == (5, 5)
    assert {name: round(forgetting(matrix, name), 2) for name in FORGETTING} == told
