"""CIFAR as its archive or folder, wherever a root points."""

from __future__ import annotations

from pathlib import Path

import pytest
import torch
from idx_files import tar
from small_cifar import FOLDER, cifar_archive, cifar_files, published_as_small

from fcil.data import DATASETS, DataSettings, load_dataset
from fcil.data.sources import at_hand
from fcil.errors import DataError


@pytest.fixture(autouse=True)
def published(monkeypatch: pytest.MonkeyPatch) -> None:
    published_as_small(monkeypatch, cifar_archive())


def unpacked(home: Path) -> None:
    (home / FOLDER).mkdir()
    for name, data in cifar_files().items():
        (home / FOLDER / name).write_bytes(data)


@pytest.mark.parametrize("look", [True, False])
@pytest.mark.parametrize("inner", ["", FOLDER, "cifar-10-python.tar.gz"])
@pytest.mark.parametrize("packed", [True, False])
def test_archive_and_folder_are_read_from_wherever_a_root_points(
    tmp_path: Path, packed: bool, inner: str, look: bool
) -> None:
    if packed:
        (tmp_path / "cifar-10-python.tar.gz").write_bytes(cifar_archive())
    else:
        unpacked(tmp_path)
    root = str(tmp_path / inner)
    assert at_hand(DATASETS["cifar10"], root)
    before = sorted(tmp_path.iterdir())
    data = load_dataset(DataSettings(dataset="cifar10", root=root, tasks=5), look=look)
    assert data.shape == (3, 32, 32)
    assert (len(data.train), len(data.test)) == (50, 10)
    assert data.class_names[3] == "class 3"
    assert torch.equal(data.test.y, torch.arange(10))
    if look or not packed:
        assert sorted(tmp_path.iterdir()) == before


def test_a_folder_that_is_not_whole_is_unpacked_anew(tmp_path: Path) -> None:
    unpacked(tmp_path)
    (tmp_path / FOLDER / "data_batch_3").write_bytes(b"cut")
    settings = DataSettings(dataset="cifar10", root=str(tmp_path), tasks=5)
    with pytest.raises(DataError, match=f"cifar10: the files in {tmp_path} are not whole .*; a run downloads it"):
        load_dataset(settings, look=True)
    (tmp_path / "cifar-10-python.tar.gz").write_bytes(cifar_archive())
    assert len(load_dataset(settings, look=True).train) == 50
    assert (tmp_path / FOLDER / "data_batch_3").read_bytes() == b"cut"
    assert len(load_dataset(settings).train) == 50
    assert (tmp_path / FOLDER / "data_batch_3").read_bytes() == cifar_files()["data_batch_3"]
    assert {path.name for path in tmp_path.iterdir()} == {FOLDER, "cifar-10-python.tar.gz", ".cifar10.lock"}


def test_an_archive_that_is_cut_off_is_one_line(tmp_path: Path) -> None:
    path = tmp_path / "cifar-10-python.tar.gz"
    path.write_bytes(cifar_archive()[:5000])
    with pytest.raises(DataError, match=f"are not whole \\({path}: cannot be unpacked") as caught:
        load_dataset(DataSettings(dataset="cifar10", root=str(tmp_path), tasks=5), look=True)
    assert "\n" not in str(caught.value)


def test_an_archive_of_other_files_is_one_line(tmp_path: Path) -> None:
    (tmp_path / "cifar-10-python.tar.gz").write_bytes(tar({"../../escaped": b"", "a": b""}, prefix=f"{FOLDER}/"))
    with pytest.raises(DataError, match="are not whole"):
        load_dataset(DataSettings(dataset="cifar10", root=str(tmp_path), tasks=5), look=True)
    (tmp_path / "cifar-10-python.tar.gz").write_bytes(tar({"../../escaped": b""}, prefix=f"{FOLDER}/"))
    with pytest.raises(DataError, match=f"gz: holds no files in {FOLDER}"):
        load_dataset(DataSettings(dataset="cifar10", root=str(tmp_path), tasks=5), look=True)
