"""Metrics of class-incremental learning from an accuracy matrix, in NumPy alone.

A[t, j] is the accuracy on the test examples of task j after training task t, under one head over
all classes seen, as a fraction; it is NaN above the diagonal. Where tasks are domains, those examples are of all
classes and of domain j. In formulas tasks count from 1 to T,
n_j is the number of test examples of task j.

"Forgetting" has no single meaning: `FORGETTING` holds six by name; `chaudhry` is the default.
A number is None where so few tasks do not define it: where there is nothing to take a
mean of, and where its formula gives zero for any net.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Sequence
from typing import Any, NamedTuple

import numpy as np
import numpy.typing as npt

from fcil.errors import nearest

Matrix = npt.NDArray[np.float64]
Counts = npt.NDArray[np.int64]
Row = tuple[int, int, int, int]
"""trained_task, tested_task, correct, examples; tasks count from 1."""


CALIBRATION_BINS = 15
"""Bins of equal width of the calibration error."""


class AccuracyRow(NamedTuple):
    """One cell of the accuracy matrix; tasks count from 1, accuracy is in [0, 1]."""

    trained_task: int
    tested_task: int
    correct: int
    examples: int

    @property
    def accuracy(self) -> float:
        return self.correct / self.examples if self.examples else 0.0


def accuracy_matrix(rows: Iterable[Sequence[int]]) -> tuple[Matrix, npt.NDArray[np.int64]]:
    """Return the matrix A (T, T) and the examples n (T,) of the first T tasks, from rows in any order.

    Raises:
        ValueError: a cell is missing, given twice, above the diagonal or impossible.
    """
    cells: dict[tuple[int, int], tuple[int, int]] = {}
    for trained, tested, correct, examples in (tuple(row)[:4] for row in rows):
        if (trained, tested) in cells:
            raise ValueError(f"accuracy on task {tested} after task {trained} is given twice")
        if not (1 <= tested <= trained and 0 <= correct <= examples and examples >= 1):
            raise ValueError(f"impossible accuracy row: task {tested} after task {trained}, {correct} of {examples}")
        cells[trained, tested] = correct, examples
    tasks = max((trained for trained, _ in cells), default=0)
    if tasks == 0:
        raise ValueError("no accuracy rows")
    for t in range(1, tasks + 1):  # before memory is allocated: a row may claim any number of tasks
        for j in range(1, t + 1):
            if (t, j) not in cells:
                raise ValueError(f"accuracy on task {j} after task {t} is missing")
    matrix = np.full((tasks, tasks), np.nan)
    counts = np.zeros(tasks, dtype=np.int64)
    for t in range(tasks):
        for j in range(t + 1):
            correct, examples = cells[t + 1, j + 1]
            if counts[j] not in (0, examples):
                raise ValueError(f"task {j + 1} has {counts[j]} test examples and later {examples}")
            matrix[t, j], counts[j] = correct / examples, examples
    return matrix, counts


# Accuracy ------------------------------------------------------------------------------------


def accuracy_after_each_task(matrix: Matrix, examples: npt.ArrayLike) -> Matrix:
    """Return a_t = sum_{j<=t} n_j A[t,j] / sum_{j<=t} n_j: over all classes seen, weighted by examples (T,)."""
    weights = np.asarray(examples, dtype=np.float64)
    return np.array([np.average(matrix[t, : t + 1], weights=weights[: t + 1]) for t in range(len(matrix))])


def final_accuracy(matrix: Matrix, examples: npt.ArrayLike) -> float:
    """Return a_T, over all classes after the last task: the "accuracy" of TARGET, LANDER and FedCBDR."""
    return float(accuracy_after_each_task(matrix, examples)[-1])


def average_incremental_accuracy(matrix: Matrix, examples: npt.ArrayLike) -> float:
    """Return 1/T sum_t a_t (iCaRL)."""
    return float(accuracy_after_each_task(matrix, examples).mean())


def group_accuracy(
    predictions: npt.ArrayLike, labels: npt.ArrayLike, sizes: Sequence[int]
) -> dict[str, float | list[float | None] | None]:
    """Return accuracy over all examples, by task, and over old and new classes, from predictions (N,).

    `sizes` are the numbers of classes of the tasks seen, in order; the last task's are the new ones.
    A group without examples has None.
    """
    # Differs: LANDER's `accuracy` drops a last block of one class and gives an empty group 0; ours
    # has a number for every task and None for no example. It also rounds percents to two digits.
    hits, labels = np.asarray(predictions) == np.asarray(labels), np.asarray(labels)
    ends = np.cumsum(sizes)
    starts = ends - np.asarray(sizes)

    def share(inside: npt.NDArray[np.bool_]) -> float | None:
        return float(hits[inside].mean()) if inside.any() else None

    return {
        "total": share(labels >= 0),
        "tasks": [share((labels >= a) & (labels < b)) for a, b in zip(starts, ends, strict=True)],
        "old": share(labels < starts[-1]),
        "new": share(labels >= starts[-1]),
    }


# Below the task ------------------------------------------------------------------------------


class Predictions(NamedTuple):
    """Predictions of a net for N test samples of the classes seen, from one evaluation pass."""

    labels: Counts
    """Classes in order of appearance, (N,)."""
    predicted: Counts
    """The same of the predictions, (N,)."""
    in_top5: npt.NDArray[np.bool_]
    """Whether the label is among the five largest scores, or among all if there are fewer, (N,)."""
    confidence: Matrix
    """Largest probability of a softmax over the scores, (N,)."""
    tasks: Counts
    """Task that introduced the class of each sample, or is its domain, counted from 1, (N,)."""
    task_aware: npt.NDArray[np.bool_] | None
    """Whether the label has the largest score among the classes of its own task, (N,); None where tasks are domains,
    of which each has all classes."""

    def confusion(self, classes: int) -> Counts:
        """Return how many samples of a class (row) were taken for each class (column): (classes, classes)."""
        cells = np.bincount(self.labels * classes + self.predicted, minlength=classes**2)
        return cells.reshape(classes, classes).astype(np.int64)

    def task_aware_rows(self, trained: int) -> list[AccuracyRow]:
        """Return a row for each task seen, of the accuracy where a sample's task is given (task-incremental).

        None where tasks are domains.
        """
        if self.task_aware is None:
            return []
        examples = np.bincount(self.tasks, minlength=trained + 1)
        correct = np.bincount(self.tasks, weights=self.task_aware, minlength=trained + 1)
        return [AccuracyRow(trained, t, int(correct[t]), int(examples[t])) for t in range(1, trained + 1)]


def calibration_error(predictions: Predictions, bins: int = CALIBRATION_BINS) -> float | None:
    """Return the expected calibration error sum_b n_b / N |accuracy_b - confidence_b|; Guo et al., ICML 2017.

    Bin b of B holds confidences in ((b - 1) / B, b / B]. None where a score was not finite.
    """
    confidence, hits = predictions.confidence, predictions.labels == predictions.predicted
    if not np.isfinite(confidence).all():
        return None
    place = np.clip(np.ceil(confidence * bins).astype(np.int64) - 1, 0, bins - 1)
    gaps = np.bincount(place, weights=hits - confidence, minlength=bins)
    return float(np.abs(gaps).sum() / len(confidence))


def measures(predictions: Predictions, old: int | None) -> dict[str, float | None]:
    """Return top-1 and top-5 accuracy, calibration error, and accuracy on the first `old` classes and on the others.

    With `old` None, where tasks are domains, no class is old or new, and both are None.
    """
    hits, earlier = predictions.labels == predictions.predicted, predictions.labels < (old or 0)
    return {
        "top1": float(hits.mean()),
        "top5": float(predictions.in_top5.mean()),
        "ece": calibration_error(predictions),
        "old": float(hits[earlier].mean()) if earlier.any() else None,
        "new": float(hits[~earlier].mean()) if old is not None and not earlier.all() else None,
    }


def client_accuracy(held: npt.ArrayLike, confusion: Counts) -> Matrix:
    """Return the accuracy on each client's own mix of classes, sum_c n_kc a_c / sum_c n_kc: (K,).

    `held` is n_kc, the training samples of client k and class c (K, C); a_c is the accuracy on the test samples of
    class c, from a confusion matrix (C, C). Classes without test samples are left out of both sums; NaN for a client
    that holds none of the others. It is what a test set dealt by the proportions of the training samples gives, in
    expectation over the deal.
    """
    examples = confusion.sum(1)
    tested = examples > 0
    shares = np.asarray(held, dtype=np.float64)[:, tested]
    totals = shares.sum(1)
    weighted = shares @ (confusion.diagonal()[tested] / examples[tested])
    return np.where(totals > 0, weighted / np.maximum(totals, 1), np.nan)


def client_summary(accuracies: npt.ArrayLike) -> dict[str, float | None]:
    """Return the worst, the mean and the population standard deviation of clients' accuracies, those not NaN."""
    known = np.asarray(accuracies, dtype=np.float64)
    known = known[~np.isnan(known)]
    return {
        "client_accuracy_worst": float(known.min()) if len(known) else None,
        "client_accuracy_mean": _mean(known),
        "client_accuracy_std": float(known.std()) if len(known) else None,
    }


# Forgetting, transfer, stability -------------------------------------------------------------


def per_task_forgetting(matrix: Matrix) -> Matrix:
    """Return max_{j<=l<T} A[l,j] - A[T,j] of every task j < T: (T-1,)."""
    return np.array([matrix[j:-1, j].max() - matrix[-1, j] for j in range(len(matrix) - 1)])


def _chaudhry(matrix: Matrix) -> float | None:
    """Return 1/(T-1) sum_{j<T} ( max_{j<=l<T} A[l,j] - A[T,j] ); negative where old tasks improve.

    Chaudhry et al., ECCV 2018; PyCIL, FACIL.
    """
    return _mean(per_task_forgetting(matrix))


def _chaudhry_including_last(matrix: Matrix) -> float | None:
    """Return `chaudhry` with l up to T, so never negative; Mammoth."""
    return _mean(np.maximum(per_task_forgetting(matrix), 0))


def _first(matrix: Matrix) -> float | None:
    """Return 1/(T-1) sum_{j<T} ( A[j,j] - A[T,j] ), the negative of backward transfer; Avalanche."""
    return _mean(_lost_since_learnt(matrix)[:-1])


def _first_over_t(matrix: Matrix) -> float | None:
    """Return 1/T sum_{j<=T} ( A[j,j] - A[T,j] ), (T-1)/T of `first`, from two tasks on; MFCL, fed-mammoth."""
    return _mean(_lost_since_learnt(matrix)) if len(matrix) > 1 else None


def _lander(matrix: Matrix) -> float | None:
    """Return 1/T sum_i ( max_j A[i,j] - A[T,i] ), from two tasks on: the best *task* right after task i; LANDER's
    script @ 44d7acc.

    The maximum runs along the other axis than Chaudhry's. It equals `first_over_T` where the newest
    task is always the best one.
    """
    return _mean(np.nanmax(matrix, axis=1) - matrix[-1]) if len(matrix) > 1 else None


def _libcontinual(matrix: Matrix) -> float | None:
    """Return 1/(T-1) sum_{j<T-1} ( A[j,j] - A[T,j] ), which skips task T-1, so from three tasks on; LibContinual."""
    tasks = len(matrix)
    return float(_lost_since_learnt(matrix)[: tasks - 2].sum()) / (tasks - 1) if tasks > 2 else None


FORGETTING: dict[str, Callable[[Matrix], float | None]] = {
    "chaudhry": _chaudhry,
    "chaudhry_including_last": _chaudhry_including_last,
    "first": _first,
    "first_over_T": _first_over_t,
    "lander": _lander,
    "libcontinual": _libcontinual,
}


def forgetting(matrix: Matrix, name: str = "chaudhry") -> float | None:
    """Return the forgetting of this name, or None where so few tasks do not define it.

    Raises:
        ValueError: there is no forgetting of this name.
    """
    if name not in FORGETTING:
        raise ValueError(f'unknown forgetting "{name}" (have: {", ".join(FORGETTING)}).{nearest(name, FORGETTING)}')
    return FORGETTING[name](matrix)


def forgetting_after_each_task(matrix: Matrix) -> Matrix:
    """Return `chaudhry` of the first t tasks, for t = 1 .. T: (T,), NaN at t = 1."""
    values = [_chaudhry(matrix[:t, :t]) for t in range(1, len(matrix) + 1)]
    return np.array([np.nan if value is None else value for value in values])


def bwt(matrix: Matrix) -> float | None:
    """Return backward transfer 1/(T-1) sum_{j<T} ( A[T,j] - A[j,j] ); Lopez-Paz and Ranzato, NeurIPS 2017."""
    return _mean(-_lost_since_learnt(matrix)[:-1])


def plasticity(matrix: Matrix) -> float:
    """Return 1/T sum_j A[j,j]: the accuracy on each task right after it is learnt."""
    return float(np.diag(matrix).mean())


def stability(matrix: Matrix) -> float | None:
    """Return 1/(T-1) sum_{j<T} A[T,j]: the final accuracy on the earlier tasks."""
    return _mean(matrix[-1, :-1])


def summary(rows: Iterable[Sequence[int]]) -> dict[str, Any]:
    """Return every number of a run by name, ready for JSON: fractions, and null where so few tasks define none.

    `old_accuracy` and `new_accuracy` are those after the last task, on the classes before it and on
    its own.
    """
    matrix, examples = accuracy_matrix(rows)
    return {
        "tasks": len(matrix),
        "final_accuracy": final_accuracy(matrix, examples),
        "average_incremental_accuracy": average_incremental_accuracy(matrix, examples),
        "accuracy_after_each_task": accuracy_after_each_task(matrix, examples).tolist(),
        "old_accuracy": float(np.average(matrix[-1, :-1], weights=examples[:-1])) if len(matrix) > 1 else None,
        "new_accuracy": float(matrix[-1, -1]),
        "forgetting": {name: forgetting(matrix, name) for name in FORGETTING},
        "bwt": bwt(matrix),
        "plasticity": plasticity(matrix),
        "stability": stability(matrix),
    }


def task_aware_summary(rows: Iterable[Sequence[int]]) -> dict[str, float | None]:
    """Return the three headline numbers of task-aware accuracies by name; forgetting is `chaudhry`."""
    matrix, examples = accuracy_matrix(rows)
    return {
        "task_aware_final_accuracy": final_accuracy(matrix, examples),
        "task_aware_average_incremental_accuracy": average_incremental_accuracy(matrix, examples),
        "task_aware_forgetting": forgetting(matrix),
    }


def _lost_since_learnt(matrix: Matrix) -> Matrix:
    """Return A[j,j] - A[T,j] of every task (T,); zero for the last."""
    lost: Matrix = np.diag(matrix) - matrix[-1]
    return lost


def _mean(values: Matrix) -> float | None:
    return float(values.mean()) if len(values) else None
