"""Clients that fail: what is aggregated without them, what is written down, when a run ends."""

from __future__ import annotations

import math
import os
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest
import torch
from flwr.app import ConfigRecord, Message, MessageType, MetricRecord, RecordDict
from small_runs import checkpoint, final_weights, play, same, without_seconds, write_experiment, write_strategy

from fcil.errors import TrainingError
from fcil.federation.codec import to_arrays
from fcil.federation.compat import new_run
from fcil.federation.messages.failures import judge
from fcil.federation.messages.replies import Expected, InvalidReplyError, read_update
from fcil.federation.settings import FederationSettings
from fcil.store import Run
from fcil.types import Tensors

TROUBLE = '''"""Clients that fail in one way, at one place or at random."""

import time
from dataclasses import dataclass
from pathlib import Path

import torch

from fcil import Strategy, Update


@dataclass(frozen=True, kw_only=True)
class Trouble(Strategy):
    how: str = "none"
    share: float = 0.0
    """Of the calls that fail at random; none: client 1 fails in the second round of each task."""
    marks: str = ""
    """A folder that notes who has failed, so that nobody does so twice."""

    def local_train(self, client):
        client.memory["calls"] = client.memory.get("calls", 0) + 1
        update = super().local_train(client)
        if not self.strikes(client):
            return update
        weights = {name: t.clone() for name, t in update.weights.items()}
        bias = weights["classifier.bias"]
        if self.how == "raise":
            raise ValueError("on purpose")
        if self.how == "hang":
            while True:
                time.sleep(0.01)
        if self.how == "memory":
            torch.empty(10**15)
        if self.how in ("nan", "inf"):
            bias[0] = float(self.how)
        if self.how == "shape":
            weights["classifier.bias"] = bias[:1]
        if self.how == "metric":
            update.metrics["terms/ce"] = float("inf")
        examples = {"zero": 0, "negative": -3, "absurd": 10**15, "text": "12", "half": 1.5}
        return Update(weights, examples.get(self.how, update.num_examples), update.metrics)

    def strikes(self, client):
        if self.share:
            return float(torch.rand((), generator=client.generator("trouble"))) < self.share
        if (client.round, client.index) != (2, 1):
            return False
        mark = Path(self.marks, f"{client.task.number}")
        if self.marks and mark.exists():
            return False
        if self.marks:
            mark.touch()
        return True
'''
SAID = {
    "raise": ("raised", "ValueError: on purpose"),
    "hang": ("timeout", "no answer within 1 seconds"),
    "memory": ("raised", "out of memory ("),
    "nan": ("invalid", 'tensor "classifier.bias" holds NaN or infinity'),
    "inf": ("invalid", 'tensor "classifier.bias" holds NaN or infinity'),
    "shape": ("invalid", 'tensor "classifier.bias" has the shape [1]; the net\'s has [2]'),
    "metric": ("invalid", 'metric "terms/ce" is inf'),
    "negative": ("invalid", "it says it trained on -3 examples; the data set has"),
    "absurd": ("invalid", "it says it trained on 1000000000000000 examples; the data set has"),
    "text": ("invalid", "it says it trained on '12' examples"),
    "half": ("invalid", "it says it trained on 1.5 examples"),
}


def run(folder: Path, how: str = "none", *, options: Any = None, **federation: Any) -> Run:
    own = write_strategy(folder, TROUBLE, "trouble")
    timeout = {"timeout": 1.0} if how == "hang" else {}
    source = write_experiment(
        folder,
        strategy={str(own): {"how": how, **(options or {})}},
        federation={"clients": 3, "max_batches": 1, **timeout, **federation},
    )
    (done,) = play(source, out=folder)
    return done


@pytest.fixture(scope="module")
def without_client_one(tmp_path_factory: pytest.TempPathFactory) -> Run:
    """The same run with client 1 asleep in the second rounds: what skipping it must come to."""
    return run(tmp_path_factory.mktemp("skipped"), "raise", on_failure="skip")


@pytest.mark.parametrize("how", sorted(SAID))
def test_a_client_that_is_skipped_leaves_no_trace_but_in_the_record(
    tmp_path: Path, without_client_one: Run, how: str
) -> None:
    done = run(tmp_path, how, on_failure="skip")
    kind, reason = SAID[how]
    failures = [f for r in done.rounds for f in r["failures"]]
    assert [(r["task"], r["round"]) for r in done.rounds if r["failures"]] == [(1, 2), (2, 2)]
    assert [(f["client"], f["kind"], f["attempt"], f["outcome"]) for f in failures] == [(1, kind, 1, "skipped")] * 2
    assert failures[0]["reason"].startswith(reason)
    assert "\n" not in failures[0]["reason"]
    assert done.summary["failures"] == 2
    assert done.summary["failures_by_kind"] == {f"{kind}, skipped": 2}
    assert done.summary["failures_by_client"] == {"1": 2}
    assert same(final_weights(done), final_weights(without_client_one))
    # One that raised or hung has its state as it was; one whose answer was no use did answer.
    calls = checkpoint(done)[1]["scalars"]["clients/1/calls"]
    assert calls == (4 if kind == "invalid" else 2)


def test_skipping_a_client_changes_the_result(tmp_path: Path, without_client_one: Run) -> None:
    assert not same(final_weights(run(tmp_path)), final_weights(without_client_one))


def test_a_client_without_examples_is_noted_and_has_no_weight(tmp_path: Path, without_client_one: Run) -> None:
    done = run(tmp_path, "zero")
    assert [r["empty"] for r in done.rounds] == [[], [1], [], [1]]
    assert done.summary["failures"] == 0
    assert same(final_weights(done), final_weights(without_client_one))


def test_a_round_in_which_nobody_has_examples_leaves_the_net(tmp_path: Path) -> None:
    done = run(tmp_path, "zero", options={"share": 1.1})
    assert [r["empty"] for r in done.rounds] == [[0, 1, 2]] * 4
    assert [r["terms"] for r in done.rounds] == [{}] * 4
    assert "nothing to aggregate; the net stays" in (done.path / "log.txt").read_text()


def test_a_client_that_fails_once_is_asked_again_and_the_result_is_the_same(tmp_path: Path) -> None:
    marks = tmp_path / "marks"
    marks.mkdir()
    good, bad = tmp_path / "good", tmp_path / "bad"
    good.mkdir()
    bad.mkdir()
    retried = run(bad, "raise", options={"marks": str(marks)}, on_failure="retry")
    whole = run(good)
    outcomes = [(f["attempt"], f["outcome"]) for r in retried.rounds for f in r["failures"]]
    assert outcomes == [(1, "retried"), (1, "retried")]
    assert retried.accuracy.equals(whole.accuracy)
    assert same(final_weights(retried), final_weights(whole))
    assert checkpoint(retried)[1]["parts"] == checkpoint(whole)[1]["parts"]


def test_a_client_that_keeps_failing_is_asked_so_often_and_then_skipped(tmp_path: Path) -> None:
    done = run(tmp_path, "raise", on_failure="retry", retries=3)
    outcomes = [(f["attempt"], f["outcome"]) for f in done.rounds[1]["failures"]]
    assert outcomes == [(1, "retried"), (2, "retried"), (3, "retried"), (4, "skipped")]


@pytest.mark.parametrize("how", sorted(SAID))
def test_without_another_policy_a_failure_ends_the_run_with_one_line(tmp_path: Path, how: str) -> None:
    with pytest.raises(TrainingError) as caught:
        run(tmp_path, how)
    assert str(caught.value).startswith(f"client 1, task 1, round 2: {SAID[how][1]}")
    assert "\n" not in str(caught.value)
    (folder,) = tmp_path.glob("tiny/*/seed0")
    assert not (folder / "summary.json").exists()


def test_a_run_that_ended_goes_on_under_another_policy(tmp_path: Path, without_client_one: Run) -> None:
    with pytest.raises(TrainingError):
        run(tmp_path, "raise")
    done = run(tmp_path, "raise", on_failure="skip")
    assert "1 rounds done before" in (done.path / "log.txt").read_text()
    assert without_seconds(done) == without_seconds(without_client_one)
    assert checkpoint(done)[1]["parts"] == checkpoint(without_client_one)[1]["parts"]


@pytest.mark.parametrize(("needed", "ends"), [(0.6, False), (0.7, True), (1.0, True)])
def test_too_few_that_succeed_end_the_run(tmp_path: Path, needed: float, ends: bool) -> None:
    if not ends:
        assert run(tmp_path, "raise", on_failure="skip", min_success=needed).summary["failures"] == 2
        return
    with pytest.raises(TrainingError) as caught:
        run(tmp_path, "raise", on_failure="skip", min_success=needed)
    assert str(caught.value) == (f"task 1, round 2: clients [1] of 3 failed, and federation.min_success is {needed:g}")


def test_a_whole_run_in_which_every_third_call_fails_ends_and_names_each(tmp_path: Path) -> None:
    """30 % of the calls, in each of several ways."""
    calls = failed = 0
    for how in ("raise", "nan", "shape", "absurd"):
        folder = tmp_path / how
        folder.mkdir()
        done = run(folder, how, options={"share": 0.3}, on_failure="skip", min_success=0.0, rounds=4, clients=5)
        told = [(r["task"], r["round"], f["client"], f["kind"]) for r in done.rounds for f in r["failures"]]
        assert len(done.rounds) == 8
        assert len(told) == len(set(told)) == done.summary["failures"]
        assert {kind for *_, kind in told} == {SAID[how][0]}
        assert all(math.isfinite(float(t.sum())) for t in final_weights(done).values())
        calls, failed = calls + 40, failed + len(told)
    assert 0.2 < failed / calls < 0.4


def test_what_is_done_about_a_failure() -> None:
    def outcomes(policy: str, kind: Any) -> list[str]:
        settings = FederationSettings(on_failure=policy, retries=2)  # type: ignore[arg-type]
        return [judge(settings, 0, attempt, kind, "").outcome for attempt in (1, 2, 3)]

    for kind in ("raised", "timeout", "invalid"):
        assert outcomes("stop", kind) == ["stopped"] * 3
        assert outcomes("skip", kind) == ["skipped"] * 3
        assert outcomes("retry", kind) == ["retried", "retried", "skipped"]
    assert outcomes("stop", "died") == ["retried", "retried", "stopped"]
    assert outcomes("skip", "died") == outcomes("retry", "died") == ["retried", "retried", "skipped"]


# Answers ----------------------------------------------------------------------------------------

SHAPES = {"a": torch.Size([2]), "b": torch.Size([])}
GOOD = {"a": torch.zeros(2), "b": torch.tensor(3)}


def answer(weights: Tensors, examples: Any = 5, **parts: Any) -> Message:
    new_run(1)
    content = {
        "weights": to_arrays(weights),
        "metrics": MetricRecord({"terms/ce": 0.5}),
        "config": ConfigRecord({"num_examples": examples}),
        **parts,
    }
    return Message(RecordDict({k: v for k, v in content.items() if v is not None}), 1, MessageType.TRAIN)


def expected(required: frozenset[str] | None) -> Expected:
    return Expected(SHAPES, required, most_examples=10, device=torch.device("cpu"))


def test_a_good_answer_is_an_update() -> None:
    update = read_update(answer(GOOD), expected(frozenset("ab")))
    assert update is not None
    assert same(update.weights, GOOD)
    assert (update.num_examples, update.metrics) == (5, {"terms/ce": 0.5})
    silent = answer(GOOD)
    del silent.content["weights"]
    assert read_update(silent, expected(frozenset("ab"))) is None


@pytest.mark.parametrize(
    ("weights", "said"),
    [
        ({"a": GOOD["a"]}, 'tensor "b" is missing'),
        ({}, 'tensor "a" (and 1 more) is missing'),
        ({**GOOD, "c": torch.zeros(1)}, 'tensor "c" was not asked for'),
        ({**GOOD, "a": torch.zeros(3)}, 'tensor "a" has the shape [3]; the net\'s has [2]'),
        ({**GOOD, "a": torch.tensor([0, math.nan])}, 'tensor "a" holds NaN or infinity'),
        ({**GOOD, "a": torch.tensor([-math.inf, 0])}, 'tensor "a" holds NaN or infinity'),
        ({"b": torch.tensor(math.inf), "a": torch.full((2,), 3e38)}, 'tensor "b" holds NaN or infinity'),
    ],
)
def test_what_is_wrong_with_an_answer_is_said(weights: Tensors, said: str) -> None:
    with pytest.raises(InvalidReplyError) as caught:
        read_update(answer(weights), expected(frozenset("ab")))
    assert str(caught.value) == said


@pytest.mark.parametrize("kind", [torch.float16, torch.float32, torch.float64])
def test_numbers_whose_squares_overflow_are_numbers(kind: torch.dtype) -> None:
    large = torch.full((2, 3), torch.finfo(kind).max, dtype=kind).t()
    update = read_update(answer({"large": large, "small": torch.ones(0, 3), "count": torch.tensor(3)}), expected(None))
    assert update is not None
    assert torch.equal(update.weights["large"], large)


def test_a_method_that_makes_updates_of_its_own_names_them_as_it_likes() -> None:
    update = read_update(answer({"prototypes": torch.ones(4)}), expected(None))
    assert update is not None
    with pytest.raises(InvalidReplyError, match='tensor "a" has the shape'):
        read_update(answer({"a": torch.ones(4)}), expected(None))


@pytest.mark.parametrize("part", ["metrics", "config"])
def test_an_answer_without_one_of_its_parts_cannot_be_read(part: str) -> None:
    with pytest.raises(InvalidReplyError, match="cannot be read"):
        read_update(answer(GOOD, **{part: None}), expected(frozenset("ab")))


# The disk ---------------------------------------------------------------------------------------

FILLS = """
import os
import resource
from dataclasses import dataclass

from fcil import Strategy


@dataclass(frozen=True, kw_only=True)
class Fills(Strategy):
    def before_task(self, server):
        if server.task.number == 2 and os.environ.get("FCIL_TEST_FULL"):  # from here on no file may be larger
            resource.setrlimit(resource.RLIMIT_FSIZE, (4000, 4000))
"""


def test_a_full_disk_is_one_line_and_the_last_checkpoint_is_good(tmp_path: Path) -> None:
    own = write_strategy(tmp_path, FILLS, "fills")
    source = write_experiment(tmp_path, strategy=str(own))
    command = [sys.executable, "-m", "fcil", "run", str(source), "--out", str(tmp_path / "full")]
    env = {**os.environ, "FCIL_TEST_FULL": "1"}
    done = subprocess.run(command, env=env, capture_output=True, text=True, timeout=300)
    assert done.returncode == 2, done.stderr
    assert done.stderr.count("\n") == 1
    assert "cannot be written" in done.stderr
    assert "File too large" in done.stderr
    assert "the last checkpoint is good" in done.stderr
    (folder,) = (tmp_path / "full").glob("tiny/*/seed0")
    assert not [*folder.rglob("*.partial")]
    assert not (folder / "summary.json").exists()

    (resumed,) = play(source, out=tmp_path / "full")  # there is room again
    assert "2 rounds done before" in (resumed.path / "log.txt").read_text()
