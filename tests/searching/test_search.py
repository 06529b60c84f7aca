"""A search, played: no trial touches a test sample, a killed one comes to the same end, and the winner is recorded."""

from __future__ import annotations

import csv
import io
import json
import shlex
from collections.abc import Callable, Iterable, Iterator
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import torch
from rich.console import Console
from small_runs import SETTINGS, Stop, silently
from torch import Tensor

import fcil
from fcil.compare import compare
from fcil.compare.bounds import Command
from fcil.data import datasets
from fcil.data.images import Images, MemoryImages
from fcil.errors import ConfigError, TrainingError
from fcil.federation.context import Datasets
from fcil.plots.search import draw_searches
from fcil.report import write_report
from fcil.runs.plans import read as read_experiments
from fcil.searching import SearchResult, search, trials
from fcil.searching.plans import read
from fcil.searching.record import find_searches, sentence
from fcil.searching.samplers import Trial
from fcil.store import RunFolder, find_runs, load_run

ASKED: dict[str, Any] = {"space": {"optimizer.lr": [0.001, 0.1, 1.0e9]}, "sampler": "grid"}
"""The last of them makes a loss that is not a number."""
VALUES = {**SETTINGS, "data": {**SETTINGS["data"], "validation": 0.25}, "search": ASKED}


def played(out: Path, *overrides: str, values: dict[str, Any] = VALUES) -> SearchResult:
    with silently():
        return search(values, *overrides, out=out, console=Console(file=io.StringIO()))


def table(out: Path) -> list[dict[str, str]]:
    """The trials, but for what a clock says."""
    with (out / "tiny-search" / "search.csv").open(encoding="utf-8") as file:
        return [{key: value for key, value in line.items() if key != "seconds"} for line in csv.DictReader(file)]


@pytest.fixture(scope="module")
def out(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return tmp_path_factory.mktemp("search")


@pytest.fixture(scope="module")
def result(out: Path) -> SearchResult:
    return played(out)


# Test samples -------------------------------------------------------------------------------------


class Untouchable(Images):
    """Test samples of which neither images nor labels may be read."""

    def __init__(self, like: Images) -> None:
        self.shape, self.device = like.shape, like.device

    def stream(self, batches: Iterable[Tensor], generator: torch.Generator | None = None) -> Iterator[Tensor]:
        raise AssertionError("a test image was read")

    def __getattr__(self, name: str) -> Any:
        raise AssertionError(f"{name} of the test samples was read")


def _others(tests: Images) -> Images:
    rows = torch.arange(len(tests) - 1, 3, -1)
    return MemoryImages(255 - tests.take(rows), tests.y[rows - 1])


def with_tests(monkeypatch: pytest.MonkeyPatch, change: Callable[[Images], Images]) -> None:
    """Every data set that is opened has other test samples."""
    opened = datasets.read

    def read(*arguments: Any, **named: Any) -> Any:
        found = opened(*arguments, **named)
        return found._replace(test=change(found.test))

    monkeypatch.setattr(datasets, "read", read)


def test_other_test_images_change_the_final_run_and_no_trial(
    out: Path, result: SearchResult, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    with_tests(monkeypatch, _others)
    other = played(tmp_path)
    assert table(tmp_path) == table(out)
    assert (other.overrides, other.value) == (result.overrides, result.value)
    assert other.runs[0].rows != result.runs[0].rows


def test_no_trial_reads_a_test_image_and_the_final_run_does(
    out: Path, result: SearchResult, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    with_tests(monkeypatch, Untouchable)
    with pytest.raises(AssertionError, match="of the test samples was read"):
        played(tmp_path)
    assert table(tmp_path) == table(out)
    record = json.loads((tmp_path / "tiny-search" / "search.json").read_text(encoding="utf-8"))
    assert record["chosen"]["settings"] == {"optimizer.lr": 0.1}


@pytest.mark.parametrize("seed", [1000, 7])
@pytest.mark.parametrize("share", [0.1, 0.25, 0.5])
def test_what_a_trial_is_tested_on_comes_from_the_training_images_and_is_not_learnt(seed: int, share: float) -> None:
    wanted = read({**VALUES, "data": {**VALUES["data"], "validation": share}})
    opened = Datasets()
    (plan,) = wanted.trial(Trial(number=1, values={"optimizer.lr": 0.1}, seeds=(seed,)))
    (final,) = wanted.final({"optimizer.lr": 0.1})
    scenario, whole = opened.open(plan).scenario, opened.open(final).scenario.dataset
    tested, learnt = _texts(scenario.dataset.test), _texts(scenario.dataset.train)
    assert sorted(tested + learnt) == sorted(_texts(whole.train))
    assert len(tested) == pytest.approx(share * len(whole.train), abs=10)
    assert not set(_texts(whole.test)) & (set(tested) - set(_texts(whole.train)))
    shards = [scenario.test(task.number) for task in scenario.tasks]
    assert sum(len(shard) for shard in shards) == len(tested)


def _texts(images: Images) -> list[bytes]:
    return [image.numpy().tobytes() for image in images.take(torch.arange(len(images)))]


# Trials and winner --------------------------------------------------------------------------------


def test_the_winner_is_run_once_on_the_test_images_with_the_seeds_of_the_file(result: SearchResult) -> None:
    assert result.overrides == ("optimizer.lr=0.1",)
    (run,) = result.runs
    assert (run.name, run.seed, run.config["data"]["validation"]) == ("tiny", 0, 0.0)
    assert run.config["optimizer"]["lr"] == 0.1


def test_a_failed_trial_is_told_and_ends_nothing(out: Path, result: SearchResult) -> None:
    assert [line["status"] for line in table(out)] == ["finished", "finished", "failed"]
    assert 'loss term "ce" became' in table(out)[2]["reason"]
    assert list(result.trials.status) == ["finished", "finished", "failed"]
    assert result.trials.metric.max() == result.value


def test_trials_are_ordinary_run_folders(out: Path, result: SearchResult) -> None:
    for line in table(out)[:2]:
        run = load_run(out / line["folders"])
        assert (run.name, run.seed, run.config["data"]["validation"]) == ("tiny-search", 1000, 0.25)
        assert run.summary["final_accuracy"] == float(line["metric"])


def test_the_record_beside_the_final_run_says_how_it_was_chosen(out: Path, result: SearchResult) -> None:
    record = json.loads((result.runs[0].path / "search.json").read_text(encoding="utf-8"))
    expected = {"trials": 3, "failed": 1, "validation": 0.25, "trial_seeds": [1000], "seeds": [0], "sampler": "grid"}
    assert {key: record[key] for key in expected} == expected
    assert record["space"] == ASKED["space"]
    said = "chosen from 3 trials (grid over optimizer.lr), judged on 25 % of the training samples"
    assert sentence(result.runs[0]) == said
    assert [hint for hint in compare(find_runs([out / "tiny"])).hints if said in hint]
    assert said in write_report([out / "tiny"], out / "report.html").read_text(encoding="utf-8")


@pytest.mark.parametrize(
    "text", ["", "[]", "{", '{"trials": "3"}', '{"trials": -1, "validation": 0.2, "space": {}}', "{}", "\x00"]
)
def test_a_damaged_record_is_passed_over(result: SearchResult, tmp_path: Path, text: str) -> None:
    (tmp_path / "search.json").write_text(text, encoding="utf-8")
    assert sentence(replace(result.runs[0], path=tmp_path)) is None


def test_a_search_that_is_finished_plays_nothing_again(
    out: Path, result: SearchResult, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(trials, "execute_run", lambda *_: pytest.fail("a run was played again"))
    again = played(out)
    assert (again.overrides, again.value) == (result.overrides, result.value)
    assert again.trials.equals(result.trials)


@pytest.mark.parametrize("before", [1, 2])
def test_a_search_that_was_stopped_goes_on_to_the_same_winner(
    out: Path, result: SearchResult, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, before: int
) -> None:
    count, whole = [0], trials.execute_run

    def stopped(*arguments: Any) -> None:
        count[0] += 1
        if count[0] == before:
            raise Stop
        whole(*arguments)

    monkeypatch.setattr(trials, "execute_run", stopped)
    with pytest.raises(Stop):
        played(tmp_path)
    assert not (tmp_path / "tiny").exists()
    again = played(tmp_path)
    assert count[0] == 4  # three trials, one of which was begun twice
    assert table(tmp_path) == table(out)
    assert (again.overrides, again.value) == (result.overrides, result.value)


def test_a_trial_whose_settings_do_not_go_together_has_failed(tmp_path: Path) -> None:
    space = {"federation.attack": [None, {"noise": {"share": 0.5}}], "federation.aggregation": ["mean", "krum"]}
    found = played(tmp_path, values={**VALUES, "search": {**ASKED, "space": space}})
    assert len(found.trials) == 4
    assert set(found.trials.status) == {"finished", "failed"}


def test_if_every_trial_fails_nothing_is_chosen(tmp_path: Path) -> None:
    with pytest.raises(TrainingError, match=r"no trial of 2 was finished; the first: .*became nan"):
        played(tmp_path, "search.space.optimizer.lr=[1.0e9, 1.0e10]")
    assert not (tmp_path / "tiny").exists()


def test_hours_end_a_search_between_two_trials(tmp_path: Path) -> None:
    found = played(tmp_path, "search.hours=1.0e-9")
    assert len(found.trials) == 1
    assert found.overrides == ("optimizer.lr=0.001",)


def test_another_search_of_the_name_is_remembered(tmp_path: Path) -> None:
    played(tmp_path, "search.space.optimizer.lr=[0.1, 0.2]")
    found = played(tmp_path, "search.space.optimizer.lr=[0.1, 0.05]")
    assert "chosen from 2 trials and 2 of earlier searches" in (sentence(found.runs[0]) or "")


def test_a_metric_that_is_to_be_small_is_minimised(tmp_path: Path) -> None:
    found = played(tmp_path, "search.metric=forgetting", "search.space.optimizer.lr=[0.001, 0.1]")
    assert found.value == found.trials.metric.min() < found.trials.metric.max()


# Around it ----------------------------------------------------------------------------------------


def test_the_figure_of_a_search_is_found_from_either_folder(out: Path, result: SearchResult, tmp_path: Path) -> None:
    assert find_searches([out / "tiny"]) == find_searches([out]) == [out / "tiny-search"]
    assert [path.name for path in draw_searches([out / "tiny"], tmp_path)] == ["search.png", "search.pdf"]


def test_fcil_run_says_which_verb_plays_the_file(tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match=r'experiment: has "search", .*; it is for fcil search'):
        fcil.run(VALUES, out=tmp_path)
    assert [*tmp_path.iterdir()] == []


def test_what_a_comparison_lacks_is_offered_for_the_file_of_a_search(tmp_path: Path) -> None:
    env, source = tmp_path / "env.json", "experiments/search_digits.yaml"
    words = ["fcil", "search", source, "search.runs=2", "federation.rounds=1", "data.validation=0.3"]
    env.write_text(json.dumps({"command": words}))
    command = Command.of(RunFolder(tmp_path))
    assert command is not None
    line = command.adding(["finetune", "joint"])
    overrides = ["federation.rounds=1", "search=null", "data.validation=0", "matrix.strategy=[finetune,joint]"]
    assert line == shlex.join(["fcil", "run", source, *overrides])
    assert {experiment.data.validation for experiment in read_experiments(source, shlex.split(line)[3:])} == {0}


def test_fcil_show_tells_of_the_search() -> None:
    (shown,) = fcil.show(VALUES)
    assert shown["remarks"][0].startswith("search: grid over optimizer.lr; at most 3 runs")


def test_the_example_can_be_played(tmp_path: Path) -> None:
    small = ["federation.rounds=1", "federation.max_batches=1", "net.width=2", "seeds=[0]", "search.runs=2"]
    with silently():
        found = search("experiments/search_digits.yaml", *small, out=tmp_path, console=Console(file=io.StringIO()))
    assert len(found.trials) == 2


@pytest.mark.ray
def test_trials_played_at_once_are_those_played_in_turn(out: Path, result: SearchResult, tmp_path: Path) -> None:
    with silently():
        found = search(VALUES, out=tmp_path, jobs=2, console=Console(file=io.StringIO()))
    assert table(tmp_path) == table(out)
    assert found.overrides == result.overrides
