"""Records that an earlier version has left: they are loaded, compared, drawn, and gone on with to the same numbers.

`tests/golden/records` was written by fcil 0.1.0 at commit 1833077, before its modules had homes of their own:
`finished` holds two strategies and a distillation, `killed` the run of LANDER stopped before its fourth round.
"""

from __future__ import annotations

import shutil
from pathlib import Path

import pytest
from command_line import Command
from small_runs import silently

import fcil
from fcil.store import find_runs

RECORDS = Path(__file__).parents[1] / "golden" / "records"


@pytest.fixture
def records(tmp_path: Path) -> Path:
    """A copy that may be written to."""
    return Path(shutil.copytree(RECORDS, tmp_path / "records"))


def test_earlier_runs_are_found_with_their_numbers() -> None:
    runs = find_runs([RECORDS], unfinished=True)
    assert {(run.name, run.strategy, run.finished) for run in runs} == {
        ("before", "finetune", True),
        ("before", "lander", True),
        ("before", "lander", False),
        ("before-distil", "distill", True),
        ("before-distil-teacher", "finetune", True),
    }
    assert len(runs) == 5
    frame = fcil.load(RECORDS / "finished" / "before")
    last = frame[frame.trained_task == 2].groupby("strategy")[["correct", "examples"]].sum()
    assert (last.correct / last.examples).round(3).to_dict() == {"finetune": 0.103, "lander": 0.139}


@pytest.mark.parametrize("name", ["before", "before-distil"])
def test_earlier_runs_are_compared_and_drawn(command: Command, records: Path, name: str) -> None:
    folder = records / "finished" / name
    compared = command("compare", folder)
    assert (compared.code, compared.err) == (0, "")
    assert command("plot", folder, "--kind", "accuracy").code == 0
    assert list(folder.rglob("accuracy.png"))


@pytest.mark.parametrize("name", ["finished", "killed", "."])
def test_a_page_of_earlier_runs_shows_them_without_what_they_did_not_count(
    command: Command, records: Path, name: str
) -> None:
    made = command("report", records / name)
    assert (made.code, made.err) == (0, "")
    page = (records / name / "report.html").read_text(encoding="utf-8")
    assert "Nothing that is written down." in page
    assert "lander" in page
    for title in ("Accuracy on each class", "Confusion of", "Old and new classes", "Accuracy by client", "top-5"):
        assert title not in page


def test_an_earlier_run_goes_on_to_the_same_numbers(records: Path) -> None:
    """With the strategy as it was, whose imports name modules where they lay then."""
    (folder,) = (records / "killed").glob("before/lander-*/seed0")
    with silently():
        fcil.resume(folder)
    (whole,) = (records / "finished").glob("before/lander-*/seed0")
    assert (folder / "accuracy.csv").read_bytes() == (whole / "accuracy.csv").read_bytes()
