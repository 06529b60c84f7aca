"""What a search may vary, and what its samplers ask for."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import pytest
from rich.console import Console
from small_runs import SETTINGS

from fcil.errors import ConfigError
from fcil.searching.live import SearchProgress
from fcil.searching.plans import Search, described, read
from fcil.searching.play import waves
from fcil.searching.samplers import Result, Trial, best, expected_rounds, expected_runs, rungs
from fcil.searching.space import Choices, Range

VALIDATED = {**SETTINGS["data"], "validation": 0.25}
SPACE: dict[str, Any] = {"optimizer.lr": {"log": [0.01, 1.0]}, "strategy.fedlwf.keep": [1, 3, 10]}


def searched(*overrides: str, space: dict[str, Any] | None = None, data: Any = None, **search: Any) -> Search:
    asked = {"space": space or SPACE, "runs": 6, **search}
    return read({**SETTINGS, "strategy": "fedlwf", "data": data or VALIDATED, "search": asked}, overrides)


def asked_for(search: Search, value: Callable[[Trial], float | None], rounds: int = 9) -> list[Trial]:
    """Every trial that a sampler asks for, where a function of the trial is its result."""
    found, following = [], waves(search.settings, rounds)
    wave = next(following, [])
    while wave:
        found += wave
        results = [Result(trial=t, status="failed" if value(t) is None else "finished", value=value(t)) for t in wave]
        try:
            wave = following.send(results)
        except StopIteration:
            break
    return found


# Space --------------------------------------------------------------------------------------------


@pytest.mark.parametrize("share", [0.0, 0.3, 0.5, 0.999999999])
def test_a_share_of_a_range_lies_within_it(share: float) -> None:
    for kind, low, high in (("uniform", -1.23456, 1.0), ("log", 0.00123456, 0.3), ("int", 2, 5)):
        value = Range(kind, low, high).at(share)
        assert low <= value <= high
        assert type(value) is (int if kind == "int" else float)


def test_the_shares_of_a_range_are_as_its_kind_says() -> None:
    assert Range("log", 0.01, 1.0).at(0.5) == pytest.approx(0.1)
    assert Range("uniform", 0.0, 1.0).at(0.5) == pytest.approx(0.5)
    assert [Range("int", 1, 4).at(share) for share in (0.0, 0.25, 0.5, 0.75, 0.9999)] == [1, 2, 3, 4, 4]
    assert [Choices(("a", "b")).at(share) for share in (0.0, 0.49, 0.5, 0.9999)] == ["a", "a", "b", "b"]


@pytest.mark.parametrize(
    ("space", "parts"),
    [
        ({"optimizer.lrr": [0.1, 0.2]}, ("search.space.optimizer.lrr: unknown key", 'Did you mean "lr"?')),
        ({"optimiser.lr": [0.1, 0.2]}, ("search.space.optimiser: unknown key", 'Did you mean "optimizer"?')),
        ({"optimizer.lr": [0.1, -1]}, ("search.space.optimizer.lr: -1 is not allowed", "greater than 0")),
        ({"optimizer.lr": {"uniform": [0, 1]}}, ("search.space.optimizer.lr: 0 is not allowed",)),
        ({"optimizer.lr": {"log": [0, 1]}}, ("search.space.optimizer.lr.log", "above 0")),
        ({"optimizer.lr": {"lgo": [1, 2]}}, ('unknown range "lgo" (have: uniform, log, int)', 'Did you mean "log"?')),
        ({"optimizer.lr": {"log": [1, 1]}}, ("search.space.optimizer.lr.log", "below the second")),
        ({"optimizer.lr": {"log": [1, float("nan")]}}, ("search.space.optimizer.lr.log", "two numbers")),
        ({"federation.rounds": {"int": [1, 2.5]}}, ("search.space.federation.rounds.int", "whole numbers")),
        ({"optimizer.lr": [0.1, 0.1]}, ("search.space.optimizer.lr", "twice")),
        ({"optimizer.lr": 0.1}, ("search.space.optimizer.lr: 0.1 is not allowed; expected a list of values",)),
        ({"optimizer.lr": []}, ("search.space.optimizer.lr: [] is not allowed",)),
        ({"data.tasks": [2, 5]}, ("search.space.data.tasks: cannot be searched, as it makes another problem",)),
        ({"data.validation": [0.1, 0.2]}, ("search.space.data.validation: cannot be searched",)),
        ({"seeds": [[0], [1]]}, ("search.space.seeds: cannot be searched",)),
        ({"resources.threads": [1, 2]}, ("search.space.resources.threads: cannot be searched",)),
        ({"federation.timeout": [10, 20]}, ("search.space.federation.timeout: its values change no result",)),
        ({"strategy.fedlwf.radius": [1, 2]}, ("search.space.strategy.fedlwf.radius: unknown key",)),
        ({7: [1, 2]}, ("7",)),
    ],
    ids=str,
)
def test_a_mistake_in_the_space_is_told_before_anything_runs(space: dict[str, Any], parts: tuple[str, ...]) -> None:
    with pytest.raises(ConfigError) as caught:
        searched(space=space)
    assert str(caught.value).startswith("experiment: ")
    for part in parts:
        assert part in str(caught.value)


@pytest.mark.parametrize(
    ("more", "part"),
    [
        ({"metric": "final_acuracy"}, 'search.metric: unknown metric "final_acuracy"'),
        ({"runs": None}, "search.runs: missing, and random does not end of itself"),
        ({"runs": None, "hours": 1, "sampler": "halving"}, "search.runs: missing, and halving"),
        ({"runs": 1, "seeds": [7, 8]}, "search.runs: 1 is not allowed; expected from 2"),
        ({"seeds": [0]}, "search.seeds: 0 is not allowed; it is among seeds"),
        ({"seeds": [7, 7]}, "search.seeds: [7, 7] is not allowed"),
        ({"sampler": "grid"}, "search.space: optimizer.lr is a range, and grid needs lists"),
        ({"sampler": "grid", "space": {"optimizer.lr": [0.1, 0.2, 0.3]}, "runs": 2}, "the grid makes 3 runs"),
        ({"sampler": "halving", "halving": {"rounds": 3}}, "search.halving.rounds: 3 is not allowed"),
        ({"sampler": "halving", "halving": {"seeds": 2}}, "search.halving: seeds is 2; search.seeds has 1"),
        ({"sampler": "halving", "halving": {"factor": 1}}, "search.halving.factor: 1 is not allowed"),
        ({"sampler": "halving", "runs": 1}, "search.runs: 1 is not allowed; halving needs 2"),
        ({"sampler": "halving", "space": {"federation.rounds": [1, 2]}}, "cannot be searched by halving"),
        ({"trials": 3}, "search.trials: unknown key"),
    ],
    ids=str,
)
def test_a_mistake_in_the_section_is_one_line(more: dict[str, Any], part: str) -> None:
    with pytest.raises(ConfigError) as caught:
        searched(**more)
    assert part in str(caught.value)
    assert len(caught.value.lines) == 1


def test_trials_need_a_validation_share() -> None:
    with pytest.raises(ConfigError, match=r"experiment: data.validation: 0 is not allowed in a search"):
        searched(data=SETTINGS["data"])


def test_an_override_fixes_a_key_of_the_space_or_changes_it() -> None:
    fixed = searched("optimizer.lr=0.5")
    assert list(fixed.settings.space.dimensions) == ["strategy.fedlwf.keep"]
    assert fixed.experiment.optimizer.lr == 0.5
    changed = searched("search.space.optimizer.lr=[0.1, 0.2]", "search.runs=4")
    assert changed.settings.space.dimensions["optimizer.lr"] == Choices((0.1, 0.2))
    assert changed.settings.runs == 4
    with pytest.raises(ConfigError, match="overrides leave nothing to search"):
        searched("optimizer.lr=0.5", "strategy.fedlwf.keep=1")


def test_a_matrix_of_several_experiments_is_refused_and_one_of_them_can_be_chosen() -> None:
    values = {**SETTINGS, "data": VALIDATED, "matrix": {"strategy": ["finetune", "fedlwf"]}}
    values["search"] = {"space": {"optimizer.lr": [0.1, 0.2]}, "sampler": "grid"}
    with pytest.raises(ConfigError, match="matrix: makes 2 experiments, and a search is of one"):
        read(values)
    assert read(values, ["strategy=fedlwf"]).experiment.strategy.name == "fedlwf"


# Samplers -----------------------------------------------------------------------------------------


def test_a_grid_is_every_combination_once() -> None:
    search = searched(
        space={"optimizer.lr": [0.1, 0.2], "federation.rounds": {"int": [1, 3]}}, sampler="grid", runs=None
    )
    trials = asked_for(search, lambda trial: 0.0)
    assert [tuple(t.values.values()) for t in trials] == [(a, b) for a in (0.1, 0.2) for b in (1, 2, 3)]
    assert [t.number for t in trials] == [1, 2, 3, 4, 5, 6]
    assert expected_runs(search.settings, 9) == 6


def test_random_draws_are_those_of_the_seed_and_none_comes_twice() -> None:
    first, again, other = (asked_for(searched(seed=seed, runs=50), lambda trial: 0.0) for seed in (0, 0, 1))
    assert first == again != other
    assert len({tuple(t.values.items()) for t in first}) == 50
    few = asked_for(searched(space={"optimizer.lr": [0.1, 0.2, 0.3]}, runs=50), lambda trial: 0.0)
    assert sorted(t.values["optimizer.lr"] for t in few) == [0.1, 0.2, 0.3]


def test_more_runs_begin_with_the_same_draws() -> None:
    assert asked_for(searched(runs=20), lambda trial: 0.0)[:6] == asked_for(searched(runs=6), lambda trial: 0.0)


def test_each_trial_has_a_run_for_each_seed() -> None:
    search = searched(seeds=[7, 8, 9], runs=7)
    assert [t.seeds for t in asked_for(search, lambda trial: 0.0)] == [(7, 8, 9)] * 2
    assert expected_runs(search.settings, 9) == 6


def test_halving_lets_one_in_three_go_on() -> None:
    search = searched(sampler="halving", runs=12, halving={"rounds": 1})
    trials = asked_for(search, lambda trial: trial.values["optimizer.lr"])
    by_rung = {k: [t for t in trials if t.rung == k] for k in (1, 2, 3)}
    assert {k: len(found) for k, found in by_rung.items()} == {1: 9, 2: 3, 3: 0}
    assert [{t.rounds for t in by_rung[k]} for k in (1, 2)] == [{1}, {3}]
    order = sorted(by_rung[1], key=lambda t: -t.values["optimizer.lr"])
    assert [t.number for t in by_rung[2]] == [t.number for t in order[:3]]
    assert expected_runs(search.settings, 9) == 12
    assert expected_rounds(search.settings, 9) == 9 * 1 + 3 * 3


def test_halving_never_asks_for_more_runs_than_its_budget_allows() -> None:
    for runs in range(4, 120):
        search = searched(sampler="halving", runs=runs, seeds=[5, 6, 7], halving={"rounds": 1, "seeds": 1})
        trials = asked_for(search, lambda trial: -trial.number)
        assert sum(len(t.seeds) for t in trials) == expected_runs(search.settings, 9)
        assert sum(len(t.seeds) for t in trials) <= runs


def test_failed_trials_do_not_go_on() -> None:
    search = searched(sampler="halving", runs=13, halving={"rounds": 1})
    trials = asked_for(search, lambda trial: None if trial.number > 2 else 1.0)
    assert [t.number for t in trials if t.rung == 2] == [1, 2]
    assert not [t for t in asked_for(search, lambda trial: None) if t.rung > 1]


@pytest.mark.parametrize(
    ("rounds", "given", "expected"),
    [
        (9, {"rounds": 1}, [(1, 2), (3, 2), (9, 2)]),
        (10, {"rounds": 1}, [(1, 2), (3, 2), (10, 2)]),
        (20, {}, [(2, 2), (6, 2), (20, 2)]),
        (20, {"rounds": 7}, [(7, 2), (20, 2)]),
        (9, {"rounds": 9, "seeds": 1}, [(9, 1), (9, 2)]),
        (9, {"rounds": 1, "seeds": 1, "factor": 2}, [(1, 1), (2, 2), (4, 2), (9, 2)]),
        (1, {}, [(1, 2)]),
    ],
)
def test_rungs_end_with_the_whole_budget(rounds: int, given: dict[str, int], expected: list[tuple[int, int]]) -> None:
    values = {**SETTINGS, "data": VALIDATED, "federation": {**SETTINGS["federation"], "rounds": rounds}}
    asked = {"space": {"optimizer.lr": [0.1, 0.2]}, "sampler": "halving", "runs": 99, "seeds": [5, 6], "halving": given}
    search = read({**values, "search": asked})
    assert rungs(search.settings, rounds) == expected


def test_tpe_is_the_same_for_the_same_results_and_finds_the_better_end() -> None:
    pytest.importorskip("optuna", reason="of the extra `search`")

    def value(trial: Trial) -> float | None:
        return None if trial.number == 3 else -abs(trial.values["optimizer.lr"] - 0.1)

    search = searched(sampler="tpe", runs=40, batch=2)
    first, again = asked_for(search, value), asked_for(search, value)
    assert first == again
    assert [t.number for t in first] == list(range(1, 41))
    assert all(t.values["strategy.fedlwf.keep"] in (1, 3, 10) for t in first)
    late = [abs(t.values["optimizer.lr"] - 0.1) for t in first[20:]]
    assert sorted(late)[len(late) // 2] < 0.1


def test_tpe_without_its_package_is_one_clear_line(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(__import__("sys").modules, "optuna", None)
    with pytest.raises(ConfigError, match=r"needs the package optuna; install it with: pip install '\.\[search\]'"):
        waves(searched(sampler="tpe").settings, 9)


# Which is best ------------------------------------------------------------------------------------


def test_the_best_is_of_the_highest_rung_and_of_equals_the_first() -> None:
    def result(number: int, value: float | None, rung: int = 1) -> Result:
        trial = Trial(number=number, values={}, seeds=(1,), rung=rung)
        return Result(trial=trial, status="failed" if value is None else "finished", value=value)

    results = [result(1, 0.9), result(2, 0.5, 2), result(3, 0.7, 2), result(4, 0.7, 2), result(5, None, 2)]
    assert [r.trial.number for r in best(results, maximises=True)] == [3, 4, 2]
    assert [r.trial.number for r in best(results, maximises=False)] == [2, 3, 4]
    assert best([result(1, None)], maximises=True) == []


def test_the_time_left_is_by_the_pace_of_what_is_done() -> None:
    now = [0.0]
    search = searched(runs=4)
    progress = SearchProgress(Console(quiet=True), search.settings, 2, lambda: now[0])
    assert progress.forecast() == ""
    progress.run_started(tasks=2, rounds=2, clients=2, finished_rounds=0)
    now[0] = 30.0
    progress.round_done({})  # a quarter of the first of four runs
    assert progress.forecast() == "7 min 30 s left"
    trial = Trial(number=1, values={}, seeds=(1,))
    progress.told(Result(trial=trial, status="finished", value=0.5, seconds=100.0, folders=("a",)))
    assert progress.forecast() == "5 min 00 s left"


def test_hours_bound_the_time_left() -> None:
    search = searched(runs=None, hours=1)
    progress = SearchProgress(Console(quiet=True), search.settings, 2)
    trial = Trial(number=1, values={}, seeds=(1,))
    progress.told(Result(trial=trial, status="finished", value=0.5, seconds=1800.0, folders=("a",)))
    assert progress.forecast() == "30 min 00 s left"


def test_a_line_says_what_is_tried_and_on_what_it_is_judged() -> None:
    assert described(searched()) == (
        "search: random over optimizer.lr, strategy.fedlwf.keep; at most 6 runs, seeds 1000; judged by final_accuracy "
        "on 25 % of the training samples, test samples are for the winner alone"
    )
