"""One list of the settings that change no result: the hash, resuming, and every table go by it."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest
from run_folders import make_config, make_run
from small_runs import write_experiment

from fcil.compare import compare
from fcil.compare.comparable import confounders
from fcil.config.effect import DETAIL, LATER, NO_EFFECT, effective
from fcil.data.clients import NaturalClients
from fcil.data.splits import SplitFile
from fcil.methods.loading import StrategySpec
from fcil.nets import NetSettings
from fcil.nets.net import MemoryFormat
from fcil.report.tables import settings
from fcil.runs.failure_report import changed
from fcil.runs.plans import read
from fcil.store import find_runs, load_run
from fcil.store.frame import frame_of
from fcil.store.groups import flat, group_runs
from strategies.distill import Distill

FORMATS: tuple[MemoryFormat, ...] = ("contiguous", "channels_last")
DIGITS: dict[str, Any] = {"name": "pinned", "data": {"dataset": "digits", "tasks": 5}}
FOLDER = {"data": {"dataset": "image_folder", "root": "mine", "tasks": 2}}


@pytest.mark.parametrize(
    ("settings", "variant"),
    [
        ({"strategy": "finetune"}, "3e5d57de"),
        ({"strategy": "finetune", "federation": {"clients": 3, "evaluate_every": 2}}, "df259365"),
        ({"strategy": "finetune", **FOLDER}, "2a874c2a"),
        ({"strategy": {"fedlwf": {"keep": 2.0}}}, "057dbef9"),
        ({"strategy": "joint"}, "1fcc2678"),
        ({"strategy": "finetune", "federation": {"local_steps": None}}, "3e5d57de"),
        ({"strategy": "finetune", "federation": {"clients_per_call": 1}}, "3e5d57de"),
        ({"strategy": "finetune", "resources": {"compile": "graphs"}}, "3e5d57de"),
        ({"strategy": "finetune", "net": {"memory_format": "contiguous"}}, "3e5d57de"),
        ({"strategy": "finetune", "optimizer": {"state": "fresh"}}, "3e5d57de"),
        ({"strategy": "finetune", "net": {"head_start": "kaiming"}}, "3e5d57de"),
    ],
)
def test_the_hash_of_settings_is_what_it_was(settings: dict[str, Any], variant: str) -> None:
    """Results that lie on disk are found under it."""
    (experiment,) = read({**DIGITS, **settings})
    assert experiment.plans()[0].variant == variant


def test_every_path_names_a_setting(tmp_path: Path) -> None:
    (plan,) = read(write_experiment(tmp_path))[0].plans()
    plain = plan.to_yaml()
    plain["data"]["split"] = SplitFile("there.json", "0" * 8).to_yaml()
    plain["data"]["partition"] = {"natural": NaturalClients(file="clients.csv", digest="0" * 8).to_yaml()}
    known = {*plain, *flat(plain)}
    assert {*NO_EFFECT, *DETAIL, *LATER} <= known


def test_a_setting_that_came_later_counts_where_it_is_set() -> None:
    (with_steps,) = read({**DIGITS, "strategy": "finetune", "federation": {"local_steps": 3}})
    assert with_steps.plans()[0].variant != "3e5d57de"
    assert effective({"federation": {"local_steps": 3, "rounds": 1}})["federation"] == {"local_steps": 3, "rounds": 1}


def test_the_net_of_a_teacher_counts_as_it_did() -> None:
    before: dict[str, Any] = {"name": "lenet5", "norm": "none"}
    now = [effective({"strategy": {"distill": {"net": before | {"memory_format": m}}}}) for m in FORMATS]
    assert now[0] == effective({"strategy": {"distill": {"net": before}}})
    assert now[1] != now[0]
    plain, last = (Distill(net=NetSettings(**before, memory_format=m), teacher="w.safetensors") for m in FORMATS)
    prints: list[Any] = [StrategySpec("distill", strategy, "").fingerprint()["options"] for strategy in (plain, last)]
    assert "memory_format" not in prints[0]["net"]
    assert prints[1]["net"]["memory_format"] == "channels_last"


def test_the_images_of_a_data_set_may_lie_anywhere_and_those_of_a_user_may_not() -> None:
    plain = {"data": {"dataset": "digits", "root": "a"}, "strategy": {"there/mine.py": {"keep": 1}}, "odd": [1]}
    assert effective(plain) == {"data": {"dataset": "digits"}, "strategy": {"mine": {"keep": 1}}, "odd": [1]}
    assert effective({**plain, "data": {"dataset": "image_folder", "root": "a"}})["data"]["root"] == "a"
    assert plain["data"] == {"dataset": "digits", "root": "a"}


@pytest.mark.parametrize("damaged", [{}, {"data": 3, "federation": None, "strategy": "lander"}, {"strategy": {}}])
def test_a_configuration_of_any_kind_is_read(damaged: dict[str, Any]) -> None:
    assert effective(damaged) == damaged


VALUES = {"resources": {"threads": 2}, "logger": "wandb", "data.split.file": "b.json", "data.root": "elsewhere"}
PATHS = (*NO_EFFECT, "data.root")


@pytest.mark.parametrize("path", PATHS)
def test_runs_of_one_hash_differ_in_no_label_column_or_circumstance(tmp_path: Path, path: str) -> None:
    for name in ("a", "b"):
        folder = make_run(tmp_path / name, "lander", variant="0123abcd")
        config = make_config("lander", 0)
        config["data"]["split"] = {"file": "a.json", "digest": "0" * 8}
        if path.startswith("data.partition"):
            config["data"]["partition"] = {"natural": {"file": "a.csv", "digest": "0" * 8}}
        if name == "b":
            *sections, key = path.split(".")
            place = config
            for section in sections:
                place = place[section]
            place[key] = VALUES.get(path, "other")
        folder.write_config(config | {"name": name})
        folder.path.parent.parent.rename(tmp_path / f"{name}-runs")
    runs = [load_run(path.parent) for path in sorted(tmp_path.rglob("summary.json"))]
    groups = group_runs(runs)
    assert [group.label for group in groups] == ["lander (a)", "lander (b)"]  # told apart by their names alone
    columns = frame_of(runs).columns
    assert not [name for name in columns if name.startswith(path.split(".")[0])]
    assert confounders(groups[0]) == confounders(groups[1])
    assert [row[0].text for table in settings(groups) for row in table.rows] == ["name"]


def test_how_often_a_net_was_tested_keeps_no_run_from_a_table(tmp_path: Path) -> None:
    for number, (strategy, every) in enumerate([("lander", 1), ("finetune", 2)]):
        folder = make_run(tmp_path, strategy, variant=f"{number:08x}")
        config = make_config(strategy, 0)
        config["federation"]["evaluate_every"] = every
        folder.write_config(config)
    assert [entry.differs for entry in compare(find_runs([tmp_path])).splits[0].entries] == [(), ()]


def test_a_failure_card_tells_every_section_that_is_not_the_default(tmp_path: Path) -> None:
    (plan,) = read(write_experiment(tmp_path, logger="tensorboard", strategy={"fedlwf": {"keep": 2.0}}))[0].plans()
    found = changed(plan)
    assert found["logger"] == "tensorboard"
    assert found["strategy.keep"] == 2.0
    assert "name" not in found
    assert json.dumps(found)
