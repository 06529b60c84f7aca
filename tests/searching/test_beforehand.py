"""`fcil search --dry-run`: what is tried is what the search then tries, what is there is known, nothing is written."""

from __future__ import annotations

import io
import json
from pathlib import Path
from typing import Any

import pytest
import yaml
from command_line import Command, assert_refused
from rich.console import Console
from small_runs import SETTINGS, silently

from fcil.searching import SearchResult, forecast, search

VALUES: dict[str, Any] = {
    **SETTINGS,
    "data": {**SETTINGS["data"], "validation": 0.25},
    "search": {"space": {"optimizer.lr": [0.001, 0.1, 1.0e9]}, "sampler": "grid"},
}
"""The last of them makes a loss that is not a number."""
HALVING = {
    "space": {"optimizer.lr": {"log": [0.001, 0.1]}},
    "sampler": "halving",
    "runs": 4,
    "halving": {"factor": 2, "rounds": 1},
}


def with_search(**changes: Any) -> dict[str, Any]:
    return {**VALUES, "search": {**VALUES["search"], **changes}}


@pytest.fixture(scope="module")
def out(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return tmp_path_factory.mktemp("search")


@pytest.fixture(scope="module")
def result(out: Path) -> SearchResult:
    with silently():
        return search(VALUES, out=out, console=Console(file=io.StringIO()))


def test_what_is_listed_is_what_is_tried_and_afterwards_what_is_there(
    out: Path, result: SearchResult, tmp_path: Path
) -> None:
    before = forecast(VALUES, out=tmp_path)
    assert [one.state for one in before.trials] == ["new"] * 3
    assert (before.chosen, before.later_runs, before.most_runs) == (None, 0, 3)
    assert before.seconds is not None
    assert before.seconds > 0
    assert not any(tmp_path.iterdir())

    after = forecast(VALUES, out=out)
    table = result.trials
    assert [one.values["optimizer.lr"] for one in after.trials] == table["optimizer.lr"].tolist()
    assert [str(Path(*Path(f).parts[-3:])) for one in after.trials for f in one.folders] == table["folders"].tolist()
    assert [one.folders[0].removeprefix(str(tmp_path)) for one in before.trials] == [
        one.folders[0].removeprefix(str(out)) for one in after.trials
    ]
    assert [one.state for one in after.trials] == ["finished", "finished", "failed"]
    assert [one.metric for one in after.trials[:2]] == table["metric"].tolist()[:2]
    assert "became nan" in after.trials[2].reason
    assert (after.chosen, after.seconds) == (2, 0.0)
    assert [run.folder for run in after.winner] == [str(run.path) for run in result.runs]
    assert all(run.state == "finished" for run in after.winner)


def test_a_search_that_was_cut_short_has_no_winner_yet(out: Path, result: SearchResult) -> None:
    more = forecast(with_search(space={"optimizer.lr": [0.001, 0.1, 0.2]}), out=out)
    assert [one.state for one in more.trials] == ["finished", "finished", "new"]
    assert more.chosen is None
    assert more.earlier_trials == 3
    assert more.seconds is not None
    assert more.seconds > 0


def test_held_out_samples_are_a_share_of_those_of_training() -> None:
    found = forecast(VALUES, out="nowhere")
    assert found.learnt is not None
    assert found.held_out is not None
    assert found.held_out / (found.learnt + found.held_out) == pytest.approx(0.25, abs=0.01)


def test_of_later_rungs_the_number_is_known_and_their_trials_when_those_before_are_over(tmp_path: Path) -> None:
    values = {**VALUES, "search": HALVING}
    first = forecast(values, out=tmp_path)
    assert [(r["trials"], r["rounds"], r["seeds"]) for r in first.rungs] == [(3, 1, 1)]
    values = {**VALUES, "search": {**HALVING, "runs": 6}}
    first = forecast(values, out=tmp_path)
    assert [(r["trials"], r["rounds"], r["seeds"]) for r in first.rungs] == [(4, 1, 1), (2, 2, 1)]
    assert (len(first.trials), first.later_runs, first.most_runs) == (4, 2, 6)
    with silently():
        played = search(values, out=tmp_path, console=Console(file=io.StringIO()))
    after = forecast(values, out=tmp_path)
    assert [(one.trial, one.rung) for one in after.trials] == list(
        zip(played.trials["trial"], played.trials["rung"], strict=True)
    )
    assert after.chosen == after.trials[-1].trial or after.chosen == after.trials[-2].trial


def test_under_hours_the_time_is_at_most_theirs_and_what_comes_later_is_open(tmp_path: Path) -> None:
    asked = {"space": {"optimizer.lr": {"log": [0.001, 0.1]}}, "hours": 0.5, "batch": 2}
    found = forecast({**VALUES, "search": asked}, out=tmp_path)
    assert (len(found.trials), found.later_runs, found.most_runs, found.hours) == (2, None, None, 0.5)
    assert found.seconds is not None
    assert found.seconds >= 1800 / found.at_once


def test_the_command_prints_a_table_or_json_and_writes_nothing(command: Command) -> None:
    Path("x.yaml").write_text(yaml.safe_dump(VALUES))
    said = command("search", "x.yaml", "--dry-run", "--out", "out")
    assert said.code == 0
    for part in (
        "search: grid over optimizer.lr",
        "held out: ",
        "0 of 3 trials are over; the winner's 1 runs",
        "1e+09",
    ):
        assert part in said.out
    told = json.loads(command("search", "x.yaml", "--dry-run", "--json", "--out", "out").out)
    assert told["space"] == {"optimizer.lr": [0.001, 0.1, 1.0e9]}
    assert [one["state"] for one in told["trials"]] == ["new"] * 3
    assert (told["sampler"], told["validation"], told["rungs"]) == (
        *("grid", 0.25, [{"trials": 3, "rounds": 2, "seeds": 1}]),
    )
    assert [path.name for path in Path().iterdir()] == ["x.yaml"]
    assert_refused(command("search", "x.yaml", "--json", "--out", "out"), "search: --json is for --dry-run")
    assert_refused(command("search", "x.yaml", "search.runs=2", "--dry-run", "--out", "out"), "the grid makes 3 runs")
