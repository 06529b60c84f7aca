"""Clients that the data name: by a table of files, or by a folder below the class folder."""

from __future__ import annotations

import io
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
import yaml
from PIL import Image
from small_runs import play

from fcil.config import Where, dump, parse
from fcil.config.effect import effective
from fcil.data import DataSettings, Scenario, load_dataset
from fcil.data.clients import in_order
from fcil.errors import ConfigError, DataError

HERE = Where("exp.yaml", "data")
HELD = {"cat": {"ann": 3, "bob": 2}, "dog": {"ann": 1, "eve": 4}, "owl": {"bob": 5}, "pig": {"eve": 2, "bob": 3}}
"""Training images by class and client."""


def picture(level: int) -> bytes:
    held = io.BytesIO()
    Image.fromarray(np.full((8, 8), level, np.uint8)).save(held, "png")
    return held.getvalue()


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    level = 0
    for kind, clients in HELD.items():
        for client, count in {**clients, "test": 2}.items():
            place = tmp_path / "mine" / ("test" if client == "test" else "train") / kind / client
            place.mkdir(parents=True)
            for number in range(count):
                level += 5
                (place / f"{number}.png").write_bytes(picture(level))
    return tmp_path / "mine"


def table(path: Path, rows: dict[str, str], head: str = "file,client") -> str:
    path.write_text("\n".join([head, *(f"{file},{client}" for file, client in rows.items())]) + "\n")
    return str(path)


def listed(folder: Path) -> dict[str, str]:
    """The client of each training image by a table that says what the folders say."""
    return {str(p.relative_to(folder)): p.parent.name for p in sorted(folder.glob("train/*/*/*.png"))}


def settings(folder: Path, natural: Any, **options: Any) -> DataSettings:
    raw = {"dataset": "image_folder", "root": str(folder), "tasks": 2, "partition": {"natural": natural}, **options}
    return parse(DataSettings, raw, HERE)


def shared_out(chosen: DataSettings, clients: int = 3) -> Scenario:
    return Scenario(load_dataset(chosen), chosen, clients, seed=0)


def assert_held(scenario: Scenario) -> None:
    expected = [[[HELD[kind].get(client, 0) for kind in HELD] for client in ("ann", "bob", "eve")]]
    assert scenario.counts.sum(0).tolist() == expected[0]
    assert scenario.counts[0, :, 2:].sum() == scenario.counts[1, :, :2].sum() == 0
    held = np.sort(np.concatenate([part for task in scenario.held for part in task]))
    assert held.tolist() == list(range(20))


def test_the_folder_below_the_class_names_the_client(folder: Path) -> None:
    scenario = shared_out(settings(folder, 1))
    assert_held(scenario)
    assert len(scenario.shard(2, 0)) == 0  # ann has none of the second task
    assert scenario.partition_record()["client_names"] == ["ann", "bob", "eve"]


def test_a_table_of_a_spreadsheet_begins_with_a_mark_and_ends_its_lines_otherwise(folder: Path, tmp_path: Path) -> None:
    lines = ["file,client", *(f"{file},{client}" for file, client in listed(folder).items())]
    (tmp_path / "a.csv").write_bytes(("\ufeff" + "\r\n".join(lines) + "\r\n").encode())
    assert_held(shared_out(settings(folder, str(tmp_path / "a.csv"))))


def test_a_table_names_the_client_with_and_without_the_split(folder: Path, tmp_path: Path) -> None:
    rows = listed(folder)
    with_split = table(tmp_path / "a.csv", rows)
    without = table(tmp_path / "b.csv", {file.removeprefix("train/"): client for file, client in rows.items()})
    for file in (with_split, without):
        assert_held(shared_out(settings(folder, file)))
    first = next(iter(rows))
    moved = table(tmp_path / "c.csv", {**rows, first: "bob"})
    assert shared_out(settings(folder, moved)).counts[0, :, 0].tolist() == [2, 3, 0]


def test_clients_are_those_of_the_samples_that_are_left(folder: Path) -> None:
    dataset = load_dataset(settings(folder, 1, validation=0.4, per_class=2))
    assert len(dataset.clients) == len(dataset.train) == 8
    levels = {5 * (place + 1): client for place, client in enumerate(_all(folder))}
    x = dataset.train.take(torch.arange(8))[:, 0, 0, 0]
    assert [levels[int(level)] for level in x] == list(dataset.clients)


def _all(folder: Path) -> list[str]:
    return [client for clients in HELD.values() for client, n in {**clients, "test": 2}.items() for _ in range(n)]


def test_settings_survive_and_a_table_counts_by_its_digest(folder: Path, tmp_path: Path) -> None:
    rows = listed(folder)
    file = table(tmp_path / "a.csv", rows)
    written = dump(settings(folder, file))
    assert set(written["partition"]["natural"]) == {"file", "digest"}
    assert parse(DataSettings, written, HERE) == settings(folder, file)
    assert dump(settings(folder, 1))["partition"] == {"natural": {"level": 1}}
    copy = dump(settings(folder, table(tmp_path / "copy.csv", rows)))
    assert effective({"data": copy}) == effective({"data": written})
    table(tmp_path / "a.csv", {**rows, next(iter(rows)): "bob"})
    assert effective({"data": dump(settings(folder, file))}) != effective({"data": written})
    with pytest.raises(ConfigError, match="is another table now"):
        parse(DataSettings, written, HERE)


@pytest.mark.parametrize(
    ("text", "said"),
    [
        ("image,client\n", "line 1: expected the columns file,client"),
        ("file,client\n", "names no file"),
        ("file,client\na.png\n", "line 2: 'a.png' is no file and client"),
        ("file,client\na.png,\n", "line 2"),
        ("file,client\na.png,x\na.png,y\n", "line 3: a.png has two clients"),
        (None, "no such file"),
    ],
)
def test_a_wrong_table_is_one_line(folder: Path, tmp_path: Path, text: str | None, said: str) -> None:
    file = tmp_path / "clients.csv"
    if text is not None:
        file.write_text(text)
    with pytest.raises(ConfigError) as caught:
        settings(folder, str(file))
    assert said in str(caught.value).lower() if text is None else said in str(caught.value)
    assert str(caught.value).startswith("exp.yaml: data.partition")
    assert "\n" not in str(caught.value)


@pytest.mark.parametrize(
    ("partition", "options", "said"),
    [
        ({"natural": 0}, {}, "data.partition.natural"),
        ({"natural": True}, {}, "data.partition.natural"),
        ({"natural": None}, {}, "natural: missing"),
        ("natural", {}, "natural: missing"),
        ({"natural": {"level": 1, "file": "x.csv"}}, {}, "give either file or level"),
        ({"natural": 1, "draw": "once"}, {}, "draw: has no effect beside natural"),
        ({"natural": 1, "capped": False}, {}, "capped applies to dirichlet"),
        ({"natural": 1}, {"dataset": "digits"}, "applies to images in files of their own; digits has none"),
    ],
)
def test_what_cannot_be_a_natural_partition_is_one_line(partition: Any, options: dict[str, Any], said: str) -> None:
    with pytest.raises(ConfigError) as caught:
        parse(
            DataSettings, {"dataset": "image_folder", "root": "x", "tasks": 2, "partition": partition, **options}, HERE
        )
    assert said in str(caught.value)
    assert "\n" not in str(caught.value)


def test_images_without_a_client_and_another_number_of_clients_are_one_line(folder: Path, tmp_path: Path) -> None:
    rows = listed(folder)
    lost = next(iter(rows))
    del rows[lost]
    with pytest.raises(DataError, match=f"names no client for {lost} of 20 images. Did you mean"):
        shared_out(settings(folder, table(tmp_path / "a.csv", rows)))
    with pytest.raises(DataError, match=r"lies 1 folders below its class folder; partition\.natural asks for 2"):
        shared_out(settings(folder, 2))
    with pytest.raises(ConfigError, match=r"names 3 clients \(ann, bob, eve, ...\), and federation.clients is 5; say"):
        shared_out(settings(folder, 1), clients=5)


def test_clients_are_in_the_order_of_their_numbers_or_characters() -> None:
    assert in_order(["10", "9", "10", "1"]) == ["1", "9", "10"]
    assert in_order(["b", "10", "a", "b"]) == ["10", "a", "b"]


def test_a_run_plays_with_a_client_that_has_no_samples_of_a_task(folder: Path, tmp_path: Path) -> None:
    source = tmp_path / "natural.yaml"
    plan = {
        "name": "natural",
        "data": {"dataset": "image_folder", "root": str(folder), "tasks": 2, "partition": {"natural": 1}},
        "federation": {"clients": 3, "rounds": 1, "local_epochs": 1, "batch_size": 4, "backend": "inprocess"},
        "net": {"name": "lenet5", "norm": "none"},
        "strategy": "finetune",
        "resources": {"device": "cpu"},
    }
    source.write_text(yaml.safe_dump(plan))
    (run,) = play(source, out=tmp_path)
    assert run.finished
    assert run.rounds[1]["empty"] == [0]
    assert run.clients[run.clients.client == 0].examples.tolist() == [4, 4]
