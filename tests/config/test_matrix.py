"""The cells of a matrix: what `include` adds, what `exclude` takes away, and what is refused."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
import yaml
from small_runs import write_experiment

from fcil.config import Where, load_yaml
from fcil.config.matrix import cells, expand, matches
from fcil.errors import ConfigError
from fcil.methods.listing import strategies
from fcil.runs.plans import read

LANDER = {"lander": {"radius": 0.01}}


def of(matrix: dict[str, Any]) -> list[dict[str, Any]]:
    return list(expand({"matrix": matrix}, Where("x.yaml")))


def test_the_example_of_github_actions_gives_its_cells() -> None:
    """docs.github.com, "Expanding or adding matrix configurations"; `x.` for there being no such top-level keys."""
    found = of({
        "fruit": ["apple", "pear"],
        "animal": ["cat", "dog"],
        "include": [
            {"color": "green"},
            {"color": "pink", "animal": "cat"},
            {"fruit": "apple", "shape": "circle"},
            {"fruit": "banana"},
            {"fruit": "banana", "animal": "cat"},
        ],
    })  # fmt: skip
    assert found == [
        {"fruit": "apple", "animal": "cat", "color": "pink", "shape": "circle"},
        {"fruit": "apple", "animal": "dog", "color": "green", "shape": "circle"},
        {"fruit": "pear", "animal": "cat", "color": "pink"},
        {"fruit": "pear", "animal": "dog", "color": "green"},
        {"fruit": "banana"},
        {"fruit": "banana", "animal": "cat"},
    ]


def test_exclude_takes_away_what_matches_all_keys_of_an_entry() -> None:
    lists = {"os": ["a", "b"], "version": [1, 2, 3]}
    left = of({**lists, "exclude": [{"os": "a", "version": 1}, {"os": "b", "version": 3}]})
    assert [(c["os"], c["version"]) for c in left] == [("a", 2), ("a", 3), ("b", 1), ("b", 2)]
    assert [c["os"] for c in of({**lists, "exclude": [{"os": "a"}]})] == ["b"] * 3


def test_include_brings_back_what_exclude_took() -> None:
    left = of({"a": [1, 2], "exclude": [{"a": 2}], "include": [{"a": 2, "b": 5}]})
    assert left == [{"a": 1}, {"a": 2, "b": 5}]


def test_a_matrix_may_be_its_include_alone() -> None:
    assert of({"include": [{"a": 1}, {"a": 2, "b": 3}]}) == [{"a": 1}, {"a": 2, "b": 3}]


@pytest.mark.parametrize(
    ("wanted", "value", "match"),
    [
        ("lander", LANDER, True),
        ("lander", "lander", True),
        ("land", "lander", False),
        ({"lander": None}, "lander", True),
        ({"lander": {}}, LANDER, True),
        (LANDER, LANDER, True),
        (LANDER, "lander", False),
        (LANDER, {"lander": {"radius": 0.01, "lam": 1}}, True),
        ({"lander": {"radius": 0.01, "lam": 1}}, LANDER, False),
        ({"lander": {"synthesizer": "nayer"}}, {"lander": {"synthesizer": {"nayer": {"rounds": 2}}}}, True),
        (1, 1.0, True),
        (1, True, False),
        (0, None, False),
        ([1, 2], [1, 2], True),
    ],
)
def test_an_entry_speaks_of_a_value_by_its_name_or_by_some_of_its_options(wanted: Any, value: Any, match: bool) -> None:
    assert matches(wanted, value) is match


def test_include_reaches_into_the_strategy_that_it_matches() -> None:
    matrix = {"strategy": ["finetune", LANDER], "include": [{"strategy": "lander", "strategy.lam": 2}]}
    assert of(matrix) == [{"strategy": "finetune"}, {"strategy": {"lander": {"radius": 0.01, "lam": 2}}}]


@pytest.mark.parametrize(
    "entry", [{"strategy": "lander", "strategy.radius": 0.5}, {"strategy": {"lander": {"lam": 1}}}]
)
def test_include_overwrites_no_option_of_the_matrix(entry: dict[str, Any]) -> None:
    kept, own = of({"strategy": [LANDER], "include": [entry]})
    assert kept == {"strategy": LANDER}
    assert own != kept
    reached = of({"strategy.radius": [0.1], "include": [{"strategy": "joint"}]})
    assert reached == [{"strategy": {"radius": 0.1}}, {"strategy": "joint"}]


@pytest.mark.parametrize(
    ("matrix", "said"),
    [
        (
            {"exclude": [{"strategy": "finetun"}]},
            r"matrix\.exclude\[0\]\.strategy: 'finetun' matches no value of matrix",
        ),
        ({"exclude": [{"strategy": "finetun"}]}, r'\(have: finetune, lander\)\. Did you mean "finetune"\?'),
        ({"exclude": [{"strategy": "lander"}, {"data.task": 2}]}, r'exclude\[1\]: "data\.task" is not varied'),
        ({"exclude": [{"data.task": 2}]}, r'\(the matrix has: strategy, data\.tasks\)\. Did you mean "data\.tasks"\?'),
        ({"exclude": [{"data.tasks": 2, "strategy": "finetune"}, {"data.tasks": 9}]}, "9 matches no value"),
        ({"exclude": [{"strategy": "finetune"}, {"strategy": "lander"}]}, "exclude: leaves nothing of the matrix"),
        ({"exclude": {"strategy": "finetune"}}, "exclude: .* expected a list of mappings"),
        ({"include": [3]}, r"include\[0\]: 3 is not allowed; expected a mapping of key paths"),
        ({"include": [{}]}, r"include\[0\]: {} is not allowed"),
        ({"include": [{"strategy.radius.x.y": 1, "strategy": "lander"}]}, "has no key"),
        ({"include": [{".".join("a" * 60): 1}]}, "more than 50 parts"),
    ],
)
def test_what_is_no_matrix_is_refused_in_one_line(tmp_path: Path, matrix: dict[str, Any], said: str) -> None:
    lists = {"strategy": ["finetune", LANDER], "data.tasks": [2, 5]}
    with pytest.raises(ConfigError, match=said) as caught:
        cells(write_experiment(tmp_path, matrix={**lists, **matrix}))
    assert "\n" not in str(caught.value)


def test_a_key_that_include_misspells_is_named(tmp_path: Path) -> None:
    source = write_experiment(tmp_path, matrix={"strategy": ["finetune"], "include": [{"federation.round": 3}]})
    with pytest.raises(ConfigError, match=r'tiny.yaml: federation.round: unknown key .* Did you mean "rounds"'):
        read(source)


def cell(source: Path, *overrides: str) -> list[tuple[Any, Any]]:
    return [(one["strategy"], one["data"]["tasks"]) for one in cells(source, overrides)]


def test_overrides_reach_every_part_of_a_matrix(tmp_path: Path) -> None:
    matrix = {
        "strategy": ["finetune", "joint"],
        "data.tasks": [2, 5],
        "exclude": [{"strategy": "joint", "data.tasks": 5}],
        "include": [{"strategy": "lander", "data.tasks": 5}],
    }
    source = write_experiment(tmp_path, matrix=matrix)
    three = [("finetune", 2), ("finetune", 5), ("joint", 2)]
    assert cell(source) == [*three, ("lander", 5)]
    assert cell(source, "matrix.include=[]") == three
    assert cell(source, "matrix.exclude=null", "matrix.include=null") == [*three, ("joint", 5)]
    assert cell(source, "matrix.exclude=[{strategy: finetune}]") == [("joint", 2), ("joint", 5), ("lander", 5)]
    assert cell(source, "matrix.data.tasks=[5]", "matrix.include=null") == [("finetune", 5)]
    assert cell(source, "matrix.strategy=[finetune]") == three[:2]  # the entry of `exclude` is no typo
    assert cell(source, "matrix.strategy=[finetune]", "matrix.include=[{strategy: lander, data.tasks: 5}]") == [
        *three[:2],
        ("lander", 5),
    ]
    with pytest.raises(ConfigError, match=r'exclude\[0\]: "data.taks" is not varied'):
        cells(source, ["matrix.exclude=[{data.taks: 2}]"])


def test_what_is_set_by_hand_holds_for_every_cell(tmp_path: Path) -> None:
    matrix = {
        "strategy": ["finetune", "joint"],
        "data.tasks": [2, 5],
        "exclude": [{"strategy": "joint", "data.tasks": 5}],
        "include": [{"strategy": "lander", "data.tasks": 5}, {"data.tasks": 2, "optimizer.lr": 0.5}],
    }
    source = write_experiment(tmp_path, matrix=matrix)
    assert cell(source, "data.tasks=2") == [("finetune", 2), ("joint", 2)]
    assert cell(source, "data.tasks=5") == [("finetune", 5), ("lander", 5)]
    assert [c["optimizer"]["lr"] for c in cells(source, ["data.tasks=2"])] == [0.5, 0.5]
    assert [c["optimizer"]["lr"] for c in cells(source, ["data.tasks=2", "optimizer.lr=0.3"])] == [0.3, 0.3]


def test_a_file_with_include_and_exclude_is_read_to_plans(tmp_path: Path) -> None:
    matrix = yaml.safe_load(
        "{strategy: [finetune, lander], data.tasks: [2, 5], exclude: [{strategy: lander, data.tasks: 2}],"
        " include: [{strategy: joint, data.tasks: 10, federation.rounds: 7}]}"
    )
    plans = [p for e in read(write_experiment(tmp_path, matrix=matrix)) for p in e.plans()]
    assert [(p.strategy.name, p.data.tasks, p.federation.rounds) for p in plans] == [
        ("finetune", 2, 2),
        ("finetune", 5, 2),
        ("lander", 5, 2),
        ("joint", 10, 7),
    ]


# Entries in files of their own ------------------------------------------------------------------


def test_include_takes_entries_from_files_beside_the_experiment(tmp_path: Path) -> None:
    (tmp_path / "methods").mkdir()
    (tmp_path / "methods/lander.yaml").write_text("strategy: lander\nstrategy.lam: 2\noptimizer.lr: 0.01\n")
    matrix = {"strategy": ["finetune", "lander"], "data.tasks": [2, 5], "include": ["methods/lander.yaml"]}
    found = cells(write_experiment(tmp_path, matrix=matrix))
    assert [(next(iter(c["strategy"])) if isinstance(c["strategy"], dict) else c["strategy"]) for c in found] == [
        *("finetune", "finetune", "lander", "lander")
    ]
    assert [cell.get("optimizer", {}).get("lr") for cell in found][2:] == [0.01, 0.01]
    assert found[3]["strategy"] == {"lander": {"lam": 2}}
    assert found[0].get("optimizer", {}).get("lr") != 0.01


@pytest.mark.parametrize("override", ["strategy=lander", "matrix.strategy=[lander]"])
def test_a_method_that_is_asked_for_alone_keeps_the_settings_of_its_file(tmp_path: Path, override: str) -> None:
    (tmp_path / "lander.yaml").write_text("strategy: lander\nstrategy.lam: 2\noptimizer.lr: 0.01\n")
    (tmp_path / "joint.yaml").write_text("strategy: joint\noptimizer.lr: 0.02\n")
    matrix = {"strategy": ["finetune", "lander", "joint"], "include": ["lander.yaml", "joint.yaml"]}
    (found,) = cells(write_experiment(tmp_path, matrix=matrix), [override])
    assert found["strategy"] == {"lander": {"lam": 2}}
    assert found["optimizer"]["lr"] == 0.01
    (found,) = cells(write_experiment(tmp_path, matrix=matrix), [override, "strategy.lam=3"])
    assert found["strategy"] == {"lander": {"lam": 3}}


@pytest.mark.parametrize("override", ["strategy=lander", "matrix.strategy=[lander]"])
def test_a_method_that_is_asked_for_alone_keeps_the_settings_it_has_in_the_list(tmp_path: Path, override: str) -> None:
    listed: list[object] = ["finetune", {"lander": {"lam": 2}}, {"lander": {"lam": 3, "forwards": "one"}}]
    source = write_experiment(tmp_path, matrix={"strategy": listed})
    assert [cell["strategy"] for cell in cells(source, [override])] == listed[1:]
    assert [cell["strategy"]["lander"]["lam"] for cell in cells(source, [override, "strategy.lam=9"])] == [9, 9]
    plain = write_experiment(tmp_path, matrix={"strategy": ["lander", *listed[1:]]})
    assert [cell["strategy"] for cell in cells(plain, [override])] == ["lander"]
    (other,) = cells(source, [override.replace("lander", "{lander: {lam: 4}}")])
    assert other["strategy"] == {"lander": {"lam": 4}}


def test_a_list_set_by_hand_leaves_the_lists_below_it(tmp_path: Path) -> None:
    source = write_experiment(
        tmp_path, matrix={"strategy": ["lander", "target"], "strategy.synthesizer": ["nayer", "fast"]}
    )
    found = cells(source, ["matrix.strategy=[lander]"])
    assert [cell["strategy"] for cell in found] == [{"lander": {"synthesizer": name}} for name in ("nayer", "fast")]
    assert [cell["strategy"] for cell in cells(source, ["strategy=finetune"])] == ["finetune"]


@pytest.mark.parametrize(
    ("text", "problem"),
    [
        (None, r"methods/landr.yaml: no such file. Did you mean \"lander.yaml\""),
        ("", "landr.yaml: holds no settings; expected a mapping of key paths"),
        ("- 1\n", "landr.yaml: holds no settings"),
        ("a: [\n", "landr.yaml: not valid YAML"),
    ],
)
def test_a_file_that_include_names_and_that_is_no_entry_is_refused(
    tmp_path: Path, text: str | None, problem: str
) -> None:
    (tmp_path / "methods").mkdir()
    (tmp_path / "methods/lander.yaml").write_text("strategy: lander\n")
    if text is not None:
        (tmp_path / "methods/landr.yaml").write_text(text)
    source = write_experiment(tmp_path, matrix={"strategy": ["lander"], "include": ["methods/landr.yaml"]})
    with pytest.raises(ConfigError, match=problem):
        cells(source)


def test_the_methods_of_the_tables_are_in_files_that_name_them() -> None:
    folder = Path(__file__).parents[2] / "experiments/methods"
    entries = {path.stem: load_yaml(path) for path in sorted(folder.glob("*.yaml"))}
    assert {entry["strategy"] for entry in entries.values()} == set(entries)
    assert set(entries) == {row["strategy"] for row in strategies()} - {"distill"}
    for path in folder.glob("*.yaml"):
        assert path.read_text(encoding="utf-8").startswith("# "), f"{path.name}: no source"
