"""Lines about an experiment on time series speak of series, where those about images speak of images."""

from __future__ import annotations

import json
import re
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
from command_line import Command, assert_refused
from small_runs import play, write_experiment, write_strategy

from fcil.check.trials import write_series
from fcil.compare import compare
from fcil.config.kinds import kind_of
from fcil.data import DATASETS, dataset_info
from fcil.errors import ConfigError, LeakError
from fcil.federation.context import Datasets
from fcil.federation.preconditions import check_foreseen, remarks
from fcil.runs.plans import read

CHEAT = '''"""Broken on purpose."""
from dataclasses import dataclass

from fcil import Strategy


@dataclass(frozen=True, kw_only=True)
class Cheat(Strategy):
'''


@pytest.fixture
def on_series(tmp_path: Path) -> dict[str, Any]:
    """Sections of an experiment on tiny series; `data` and `net` of it."""
    write_series(tmp_path / "series.npz")
    data = {"dataset": "ts_folder", "root": str(tmp_path / "series.npz"), "tasks": 3}
    return {"data": data, "net": {"name": "fcn1d", "width": 4}}


@pytest.mark.parametrize(
    ("body", "said"),
    [
        (
            "    def local_train(self, client):\n"
            "        rows = client.memory.get('rows', client.shard.indices[:2])\n"
            "        client.memory['rows'] = rows\n        client.shard.images.take(rows)\n"
            "        return super().local_train(client)\n",
            r"client 0, task 2, round 1: used \d series of class 0 ",
        ),
        (
            "    def after_local_task(self, client):\n        s = client.shard\n"
            "        client.memory['all'] = {'indices': s.indices, 'labels': s.labels, 'tasks': s.tasks}\n",
            r"keeps \d+ series; federation\.exemplars allows 3",
        ),
        (
            "    def predict(self, net, x, shared):\n        shared['seen'] = x.nan_to_num()\n"
            "        return super().predict(net, x, shared)\n",
            "has changed while test series were shown",
        ),
    ],
)
def test_what_a_client_may_not_see(tmp_path: Path, on_series: dict[str, Any], body: str, said: str) -> None:
    strategy = str(write_strategy(tmp_path, CHEAT + body, "cheat"))
    source = write_experiment(tmp_path, strategy=strategy, federation={"exemplars": 3}, **on_series)
    with pytest.raises(LeakError, match=said) as error:
        play(source, out=tmp_path / "out")
    assert "image" not in str(error.value)


@pytest.mark.parametrize(
    ("strategy", "federation", "said"),
    [
        ("icarl", {"exemplars": 2}, r'strategy "icarl" would keep \d+ series of client 0 after task 1'),
        ("replay", {"exemplars": 0}, "whose clients keep series of earlier tasks"),
    ],
)
def test_a_contradiction(
    command: Command, on_series: dict[str, Any], strategy: str, federation: dict[str, Any], said: str
) -> None:
    source = write_experiment(Path("."), strategy=strategy, federation=federation, **on_series)
    answer = command("run", source, "--out", "out")
    assert_refused(answer, "tiny.yaml: ")
    assert re.search(said, " ".join(answer.err.split()))
    assert "image" not in answer.err


def test_too_few_clients_with_series(tmp_path: Path, on_series: dict[str, Any]) -> None:
    federation = {"clients": 5, "aggregation": {"krum": {"malicious": 1}}}
    context = Datasets().open(read(write_experiment(tmp_path, federation=federation, **on_series))[0].plans()[0])
    held = [[rows[: len(rows) * (client < 2)] for client, rows in enumerate(task)] for task in context.scenario.held]
    with pytest.raises(ConfigError, match="only 2 hold series of it"):
        check_foreseen(replace(context, scenario=context.scenario.replaced(held=held)))


def test_the_kind_of_a_data_set_is_known_by_its_name() -> None:
    assert {name: kind_of(name) for name in DATASETS} == {name: info.kind for name, info in DATASETS.items()}
    for name in ("uea:BasicMotions", "ucr:CricketX+CricketY"):
        assert kind_of(name) == dataset_info(name).kind == "series"
    assert kind_of("nothing of that name") == "images"


def test_remarks(tmp_path: Path, on_series: dict[str, Any]) -> None:
    source = write_experiment(tmp_path, strategy={"replay": {"memory": 500}}, **on_series)
    lines = remarks(Datasets().open(read(source)[0].plans()[0]))
    assert any('clients of "replay" replay every series of earlier tasks' in line for line in lines), lines
    assert not any("image" in line for line in lines)


def test_a_comparison_and_a_split(tmp_path: Path, command: Command, on_series: dict[str, Any]) -> None:
    source = write_experiment(tmp_path, strategy={"replay": {"memory": 4}}, **on_series)
    (split,) = compare(play(source, out=tmp_path / "played")).splits
    assert [entry.keeps for entry in split.entries] == ["series"]
    said = command("show", source, "--split", tmp_path / "split.json")
    assert re.search(r"split\.json: \d+ series of ts_folder", " ".join((said.out + said.err).split()))
    held = json.loads((tmp_path / "split.json").read_text())
    held["indices"][0][0].append(held["indices"][0][0][0])
    (tmp_path / "split.json").write_text(json.dumps(held))
    del on_series["data"]["tasks"]
    on_series["data"]["split"] = str(tmp_path / "split.json")
    refused = command("run", write_experiment(tmp_path, **on_series), "--out", "out")
    assert_refused(refused)
    assert "series" in refused.err
    assert "image" not in refused.err
