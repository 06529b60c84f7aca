"""Parts of one's own, a net, data set, partition and synthesizer: hashed, kept, trusted and sent to workers."""

from __future__ import annotations

import json
import re
import shutil
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import yaml

import fcil
from fcil.cli import main
from fcil.config import Where, dump, load_yaml, parse
from fcil.data import DataSettings, PartitionSettings, Scenario, load_dataset
from fcil.errors import ConfigError, DataError, StoreError
from fcil.evaluation import evaluate
from fcil.federation.context import Datasets
from fcil.federation.plan import from_json
from fcil.methods.scaffold import begin
from fcil.nets import NetSettings, build_net
from fcil.runs.plans import read
from fcil.runs.recorded_plan import load_plan
from fcil.store import RunFolder
from fcil.store.nets import kept_net

HERE = Where("here")
SETTINGS: dict[str, Any] = {
    "name": "own",
    "data": {"dataset": "./my_data.py", "each": 20, "tasks": 5, "partition": {"./my_split.py": {"skew": 2}}},
    "net": {"name": "./my_net.py", "depth": 2, "width": 4},
    "federation": {
        "clients": 2,
        "rounds": 1,
        "local_epochs": 1,
        "batch_size": 16,
        "backend": "inprocess",
        "stop_after": 2,
        "max_batches": 2,
    },
    "strategy": {"target": {"synthesizer": {"./my_way.py": {"rounds": 2, "steps": 2, "samples": 20}}}},
    "resources": {"device": "cpu"},
}
NAMES = {"net": "my_net", "dataset": "my_data", "synthesizer": "my_way", "partition": "my_split"}


@pytest.fixture
def folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """The current folder, with a file of each kind as `fcil new` begins it, and an experiment that names them all."""
    monkeypatch.chdir(tmp_path)
    for kind, name in NAMES.items():
        begin(kind, name, Path())
    Path("own.yaml").write_text(yaml.safe_dump(SETTINGS))
    return tmp_path


def variant(*overrides: str) -> str:
    (experiment,) = read("own.yaml", overrides)
    return experiment.plans()[0].variant


def edited(name: str, before: str, after: str) -> None:
    path = Path(name)
    assert before in path.read_text()
    path.write_text(path.read_text().replace(before, after))


# A run -----------------------------------------------------------------------------------------


def test_a_run_keeps_every_file_and_goes_on_from_its_copies(folder: Path) -> None:
    (run,) = fcil.run("own.yaml", out="out")
    kept = {path.stem: path.read_text() for path in (run.path / "parts").iterdir()}
    assert kept == {name: Path(f"{name}.py").read_text() for name in NAMES.values()}
    config = load_yaml(run.folder.config)
    assert config["net"] | {"name": "./my_net.py", "depth": 2} == config["net"]
    assert config["data"]["each"] == 20
    assert config["data"]["partition"] == {"./my_split.py": {"skew": 2.0}}
    plan = load_plan(run.folder)
    assert plan.decisive == read("own.yaml")[0].plans()[0].decisive
    assert kept_net(run.path).net.num_classes == 4
    assert fcil.resume(run.path).summary == run.summary


@pytest.mark.parametrize("name", NAMES.values())
def test_a_changed_file_is_another_run_and_its_copy_runs_only_if_trusted(folder: Path, name: str) -> None:
    (run,) = fcil.run("own.yaml", out="out")
    before = variant()
    Path(f"{name}.py").write_text(f"{Path(f'{name}.py').read_text()}\n# changed\n")
    assert variant() != before
    said = rf"parts/{name}[.]py: not what is in ./{name}[.]py now; read it, and say --trust if its code may be run"
    with pytest.raises(StoreError, match=said):
        load_plan(run.folder)
    assert load_plan(run.folder, trust=True).variant == before
    Path(f"{name}.py").unlink()
    with pytest.raises(StoreError, match=said):
        fcil.resume(run.path)
    assert fcil.resume(run.path, trust=True).summary == run.summary


def test_a_kept_net_of_ones_own_runs_only_if_trusted(folder: Path) -> None:
    (run,) = fcil.run("own.yaml", out="out")
    Path("my_net.py").unlink()
    with pytest.raises(StoreError, match="not what is in"):
        run.net()
    with pytest.raises(StoreError, match="not what is in"):
        evaluate(run.path)
    assert run.net(trust=True).num_classes == 4
    assert evaluate(run.path, trust=True).groups[0].examples == 80


def test_a_copy_that_was_changed_is_refused(folder: Path) -> None:
    (run,) = fcil.run("own.yaml", out="out")
    copy = run.folder.part("my_net.py")
    copy.write_text(f"{copy.read_text()}\n# changed\n")
    with pytest.raises(StoreError, match=r"config.yaml, strategy.py or parts/ was changed; they make own/target-"):
        fcil.resume(run.path, trust=True)


def test_runs_of_one_process_have_each_their_own_data(folder: Path) -> None:
    datasets = Datasets()
    sizes = []
    for each in (20, 30, 20):
        plan = read("own.yaml", [f"data.each={each}"])[0].plans()[0]
        sizes.append(len(datasets.open(plan).scenario.dataset.train))
    assert sizes == [200, 300, 200]


def test_where_a_file_lies_changes_nothing(folder: Path) -> None:
    before = variant()
    Path("elsewhere").mkdir()
    shutil.copy("my_net.py", "elsewhere")
    assert variant("net.name=elsewhere/my_net.py") == before
    assert variant("net.depth=3") != before
    assert variant("data.each=21") != before
    assert variant("data.partition={./my_split.py: {skew: 3}}") != before


def test_two_files_of_one_name_are_refused(folder: Path) -> None:
    Path("other").mkdir()
    shutil.copy("my_data.py", "other/my_net.py")
    with pytest.raises(ConfigError, match=r'my_net.py: "other/my_net.py" and "./my_net.py" are two files of this name'):
        read("own.yaml", ["data.dataset=other/my_net.py"])[0].plans()


def test_a_plan_travels_with_its_files(folder: Path) -> None:
    plan = read("own.yaml")[0].plans()[0]
    text = plan.to_json()
    for name in NAMES.values():
        Path(f"{name}.py").unlink()
    again = from_json(text)
    assert again == plan
    assert again.decisive == plan.decisive
    assert {part.stem for part in again.parts} == set(NAMES.values())


def test_a_plan_without_such_files_is_as_it_was(folder: Path) -> None:
    plan = read("own.yaml", ["data={dataset: digits, tasks: 5}", "net={name: resnet8}", "strategy=target"])[0].plans()[
        0
    ]
    assert "parts" not in json.loads(plan.to_json())
    assert "parts" not in plan.decisive


@pytest.mark.ray
def test_workers_on_ray_load_the_same_files(folder: Path) -> None:
    (run,) = fcil.run("own.yaml", out="out")
    (other,) = fcil.run("own.yaml", "federation.backend=ray", "resources.workers=2", out="ray")
    assert other.path.parent.name == run.path.parent.name
    assert other.folder.accuracy.read_text() == run.folder.accuracy.read_text()


def test_a_student_learns_from_a_synthesizer_of_ones_own(folder: Path) -> None:
    Path("distill.yaml").write_text(
        yaml.safe_dump(
            {
                "name": "student",
                "data": {"dataset": "./my_data.py"},
                "teacher": {"net": {"name": "./my_net.py", "depth": 2}, "epochs": 1},
                "student": {"net": {"name": "./my_net.py", "depth": 1}, "rounds": 10, "steps": 1},
                "synthesizer": {"./my_way.py": {"steps": 2, "samples": 20}},
            }
        )
    )
    (run,) = fcil.distill("distill.yaml", out="out", smoke=True)
    assert sorted(path.name for path in (run.path / "parts").iterdir()) == ["my_data.py", "my_net.py", "my_way.py"]
    assert load_plan(run.folder).parts


# Each kind -------------------------------------------------------------------------------------


def test_settings_of_each_kind_are_read_back(folder: Path) -> None:
    for cls, values in ((NetSettings, SETTINGS["net"]), (DataSettings, SETTINGS["data"])):
        settings: Any = parse(cls, values, HERE)
        assert parse(cls, dump(settings), HERE) == settings
        assert "own" not in dump(settings)
        assert settings.own is not None
    split = parse(PartitionSettings, {"./my_split.py": None, "draw": "once"}, HERE)
    assert dump(split) == {"./my_split.py": {"skew": 1.0}, "draw": "once"}


def test_series_of_ones_own_are_prepared_as_those_of_files_are(folder: Path) -> None:
    Path("waves.py").write_text(SERIES)
    settings = parse(DataSettings, {"dataset": "waves.py", "tasks": 2}, HERE)
    data = load_dataset(settings)
    assert (data.kind, data.shape, data.class_names) == ("series", (2, 12), ("a", "b"))
    assert data.train.y.tolist() == [0] * 6 + [1] * 6
    stored = data.train.take(data.train.y.new_tensor([0, 1])).numpy()
    assert np.isnan(stored[0, :, 9:]).all()
    assert np.nanmean(stored, axis=2) == pytest.approx(0, abs=1e-6)  # each series by itself
    assert np.nanmean(load_dataset(parse(DataSettings, dump(settings) | {"normalise": "none"}, HERE)).train.take(
        data.train.y.new_tensor([1])
    ).numpy()) > 1  # fmt: skip


def test_a_partition_of_ones_own_deals_each_task(folder: Path) -> None:
    settings = parse(DataSettings, SETTINGS["data"], HERE)
    scenario = Scenario(load_dataset(settings), settings, clients=3, seed=0)
    sizes = [[len(held) for held in clients] for clients in scenario.held]
    assert sizes == [[2, 12, 26]] * 5  # 40 samples in proportion to 1, 4 and 9
    again = Scenario(load_dataset(settings), settings, clients=3, seed=0)
    other = Scenario(load_dataset(settings), settings, clients=3, seed=1)
    assert all(np.array_equal(a, b) for a, b in zip(scenario.held[3], again.held[3], strict=True))
    assert not all(np.array_equal(a, b) for a, b in zip(scenario.held[3], other.held[3], strict=True))


SERIES = '''"""Waves."""

import numpy as np

from fcil.data import DataSource, Samples


class Waves(DataSource):
    kind = "series"

    def load(self, root):
        x = (2 + np.sin(np.arange(12 * 24)).reshape(12, 2, 12)).astype("float32")
        x[0, :, 9:] = np.nan
        y = np.repeat([0, 1], 6)
        return Samples(x, y, x[::3], y[::3], ("a", "b"))
'''


# Bad input -------------------------------------------------------------------------------------

Command = Callable[..., tuple[object, str, str]]


@pytest.fixture
def command(folder: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> Command:
    def run(*arguments: str) -> tuple[object, str, str]:
        monkeypatch.setattr(sys, "argv", ["fcil", *arguments])
        with pytest.raises(SystemExit) as stop:
            main()
        return stop.value.code, *capsys.readouterr()

    return run


BAD = [
    ("net.name=./my_nt.py", 'own.yaml: net.name: no net file "./my_nt.py". Did you mean "my_net.py"?'),
    ("net.dept=3", "own.yaml: net.dept: unknown key (allowed: name, stem, width, norm, memory_format, head_start"),
    ("net.dept=3", 'Did you mean "depth"?'),
    ("net.depth=0", "own.yaml: net.depth: 0 is not allowed; it should be greater than or equal to 1"),
    ("net.stem=cifar", "own.yaml: net.stem: cifar is not allowed with ./my_net.py, which has no stem; leave it out"),
    ("net.name=./my_data.py", 'net file "./my_data.py" must define exactly one Architecture; it defines none'),
    ("data.each=many", "own.yaml: data.each: 'many' is not allowed; it should be a valid integer"),
    ("data.dataset=./gone.py", 'own.yaml: data.dataset: no data set file "./gone.py"'),
    ("data.resize=8", "own.yaml: data.resize: applies to tiny_imagenet"),
    (
        "data.partition={./my_split.py: {skw: 1}}",
        "data.partition../my_split.py.skw: unknown key (allowed: skew). Did you",
    ),
    (
        "data.partition={./my_split.py: null, capped: false}",
        "data.partition.capped: unknown key (allowed: ./my_split.py, draw)",
    ),
    ("data.partition={./my_split.py: null, draw: reference}", "draw: reference is the stream of built-in partitions"),
    ("data.partition=./gone.py", 'own.yaml: data.partition: no partition file "./gone.py"'),
    ("strategy={target: {synthesizer: ./gone.py}}", 'synthesizer: no synthesizer file "./gone.py"'),
    ("strategy={target: {synthesizer: ./my_net.py}}", "must define exactly one Synthesizer; it defines none"),
    ("strategy={target: {synthesizer: {./my_way.py: {step: 1}}}}", 'Did you mean "steps"?'),
    ("net.name=./broken.py", 'own.yaml: net.name: net file "./broken.py" does not load: SyntaxError'),
    ("net.name=./plain.py", 'net file "./plain.py": class Plain has fields and is no dataclass; put @dataclass('),
    ("net.name=./clash.py", 'own.yaml: net.norm: "./clash.py" has a setting of this name, and so has any other net'),
]


@pytest.mark.parametrize(("override", "said"), BAD, ids=[override for override, _ in BAD])
def test_what_is_wrong_is_one_line(command: Command, override: str, said: str) -> None:
    head = "from dataclasses import dataclass\nfrom fcil.nets import Architecture\n"
    Path("broken.py").write_text("def x(:\n")
    Path("plain.py").write_text(f"{head}class Plain(Architecture):\n    depth: int = 2\n")
    Path("clash.py").write_text(
        f"{head}@dataclass(frozen=True, kw_only=True)\nclass Clash(Architecture):\n    norm: int = 2\n"
    )
    code, out, err = command("run", "own.yaml", override, "--dry-run")
    assert (code, out) == (2, "")
    assert said in err
    assert err.count("\n") == 1


@pytest.mark.parametrize(
    ("before", "after", "said"),
    [
        ("return Trunk(", "return 3, (", 'my_net.py": build returned a tuple; expected a Backbone'),
        ("return Trunk(", "raise KeyError(", "no net for samples of 1 x 8 x 8: KeyError"),
        ("4 * width  #", "5 * width  #", "width is 20, and two samples have features [2, 16]; expected [2, width]"),
    ],
)
def test_a_net_that_is_none_is_one_line(command: Command, before: str, after: str, said: str) -> None:
    edited("my_net.py", before, after)
    code, _, err = command("run", "own.yaml", "--out", "out")
    assert (code, err.count("\n")) == (2, 1)
    assert said in err


@pytest.mark.parametrize(
    ("before", "after", "said"),
    [
        ("dtype=np.uint8)", "dtype=np.int64)", "x_train is int64 (600, 1, 8, 8); expected uint8 (N, channels, height"),
        ("np.arange(10), each)", "np.arange(9), each)", "y_train has no sample of class 9, which class_names has"),
        ("for k in range(10)]", "for k in range(9)]", "y_train has labels from 0 to 9; expected 0 to 8"),
        ("rng = np.random.default_rng(0)\n", "raise KeyError('gone')\n", "load raised KeyError: 'gone'"),
    ],
)
def test_samples_that_are_none_are_one_line(folder: Path, before: str, after: str, said: str) -> None:
    edited("my_data.py", before, after)
    with pytest.raises(DataError, match=re.escape(said)) as stop:
        load_dataset(parse(DataSettings, {"dataset": "./my_data.py", "tasks": 2}, HERE))
    assert str(stop.value).startswith('data set file "./my_data.py": ')


@pytest.mark.parametrize(
    ("after", "said"),
    [
        ("return [np.arange(3)] * clients", "sample 0 of 120 is dealt 3 times; expected once"),
        ("return np.split(np.arange(len(labels) - 1), ends)", "sample 119 of 120 is dealt to none; expected once"),
        ("return [np.arange(len(labels))]", "deals to 1 clients; there are 3"),
        ("return np.split(np.arange(len(labels)) + 1, ends)", "deals position 120 of 120"),
        ("return [labels / 2] * clients", "a client is dealt float64 (120,); expected whole numbers (n,)"),
        ("raise KeyError('gone')", "deal raised KeyError: 'gone'"),
    ],
)
def test_a_partition_that_is_none_is_one_line(folder: Path, after: str, said: str) -> None:
    edited("my_split.py", "return np.split(rng.permutation(len(labels)), ends)", after)
    settings = parse(DataSettings, {"dataset": "./my_data.py", "tasks": 5, "partition": "./my_split.py"}, HERE)
    with pytest.raises(ConfigError, match=re.escape(f'partition file "./my_split.py": {said}')):
        Scenario(load_dataset(settings), settings, clients=3, seed=0)


def test_settings_that_cannot_be_compared_are_refused(folder: Path) -> None:
    edited("my_net.py", "depth: Count = 3", "sizes: list[int] | None = None")
    edited("my_net.py", "self.depth", "2")
    with pytest.raises(ConfigError, match="its settings are values; write tuple for list"):
        parse(NetSettings, {"name": "./my_net.py", "sizes": [1]}, HERE)


def test_a_net_of_series_is_refused_for_images(folder: Path) -> None:
    edited("my_net.py", "    depth: Count = 3", '    inputs = "series"\n    depth: Count = 3')
    with pytest.raises(ConfigError, match=r"net.name: ./my_net.py reads series, and the data are images"):
        build_net(
            parse(NetSettings, {"name": "./my_net.py"}, HERE),
            shape=(1, 8, 8),
            num_classes=2,
            text_width=None,
            key=("x",),
        )


def test_a_folder_without_the_copy_says_so(folder: Path) -> None:
    (run,) = fcil.run("own.yaml", out="out")
    shutil.rmtree(run.path / "parts")
    with pytest.raises(ConfigError, match=r'config.yaml: part file ".*parts/my_way.py"'):
        load_plan(RunFolder(run.path))
