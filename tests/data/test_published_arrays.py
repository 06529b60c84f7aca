"""EMNIST, MedMNIST and SVHN, from tiny files of the published layouts: read as their own tools do, or refused."""

from __future__ import annotations

import gzip
import zipfile
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from command_line import Command
from idx_files import idx
from scipy.io import savemat
from torchvision.datasets import EMNIST, SVHN

from fcil.anchors import AnchorSettings, load_anchors
from fcil.data import DATASETS, Dataset, DataSettings, dataset_info, load_dataset
from fcil.data.published import MEDMNIST, PUBLISHED
from fcil.data.sources import at_hand
from fcil.errors import DataError


def emnist_files(split: str, first: int, classes: int) -> dict[str, bytes]:
    rng = np.random.default_rng(1)
    files = {}
    for part, count in (("train", 2 * classes), ("test", classes)):
        labels = rng.permutation(np.arange(count) % classes) + first
        files[f"emnist-{split}-{part}-images-idx3-ubyte"] = idx(rng.integers(0, 256, (count, 28, 28), dtype=np.uint8))
        files[f"emnist-{split}-{part}-labels-idx1-ubyte"] = idx(labels.astype(np.uint8))
    return files


def laid(folder: Path, files: dict[str, bytes]) -> Path:
    folder.mkdir(parents=True, exist_ok=True)
    for name, data in files.items():
        (folder / name).write_bytes(data)
    return folder


def loaded(name: str, root: Path, **options: Any) -> Dataset:
    return load_dataset(DataSettings(dataset=name, root=str(root), tasks=2, **options))


def every(part: Any) -> torch.Tensor:
    return part.take(torch.arange(len(part.y)))


def npz(path: Path, channels: int, classes: int, **changed: Any) -> Path:
    rng = np.random.default_rng(2)
    arrays: dict[str, Any] = {}
    for part, count in (("train", 3 * classes), ("val", classes), ("test", 2 * classes)):
        size = (count, 28, 28) if channels == 1 else (count, 28, 28, channels)
        arrays[f"{part}_images"] = rng.integers(0, 256, size, dtype=np.uint8)
        arrays[f"{part}_labels"] = (np.arange(count) % classes).astype(np.uint8)[:, None]
    path.parent.mkdir(parents=True, exist_ok=True)
    kept = {name: array for name, array in (arrays | changed).items() if array is not None}
    np.savez_compressed(path, **kept)
    return path


def mat(path: Path, count: int = 20, **changed: Any) -> Path:
    rng = np.random.default_rng(count)
    held = {
        "X": rng.integers(0, 256, (32, 32, 3, count), dtype=np.uint8),
        "y": (np.arange(count) % 10 + 1).astype(np.uint8)[:, None],
    }
    savemat(path, held | changed, do_compression=True)
    return path


# EMNIST ---------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("split", "first", "classes"),
    [("byclass", 0, 62), ("bymerge", 0, 47), ("balanced", 0, 47), ("letters", 1, 26), ("digits", 0, 10)],
)
def test_emnist_is_what_torchvision_reads_turned_upright(tmp_path: Path, split: str, first: int, classes: int) -> None:
    laid(tmp_path / "EMNIST" / "raw", emnist_files(split, first, classes))
    data = loaded(f"emnist_{split}", tmp_path)
    for part, train in ((data.train, True), (data.test, False)):
        theirs = EMNIST(str(tmp_path), split, train=train)
        assert torch.equal(every(part)[:, 0], theirs.data.transpose(1, 2))
        assert torch.equal(part.y, theirs.targets - first)
    names = EMNIST.classes_split_dict[split][first:]
    words = ["zero", "one", "two", "three", "four", "five", "six", "seven", "eight", "nine"]
    assert len(data.class_names) == len(set(data.class_names)) == classes
    for name, character in zip(data.class_names, names, strict=True):
        assert name == words[int(character)] if character.isdecimal() else name.split()[1].lower() == character.lower()
    if split == "balanced":
        assert data.class_names[10] == "capital A"
        assert data.class_names[12] == "letter C"
        assert data.class_names[36] == "small a"
    pixels = every(data.train).double() / 255
    assert data.mean == pytest.approx([float(pixels.mean())])
    assert data.std == pytest.approx([float(pixels.std(correction=0))])


def test_emnist_is_read_from_its_archive_and_from_packed_files(tmp_path: Path) -> None:
    files = emnist_files("letters", 1, 26)
    plain = loaded("emnist_letters", laid(tmp_path / "plain", files))
    packed = {f"{name}.gz": gzip.compress(data) for name, data in files.items()}
    folder = laid(tmp_path / "packed" / "gzip", packed)
    with zipfile.ZipFile(tmp_path / "gzip.zip", "w") as archive:
        for name, data in packed.items():
            archive.writestr(f"gzip/{name}", data)
    for root in (folder, folder.parent, tmp_path / "gzip.zip", tmp_path):
        other = loaded("emnist_letters", root)
        assert torch.equal(every(other.train), every(plain.train))
        assert torch.equal(other.test.y, plain.test.y)
        assert at_hand(DATASETS["emnist_letters"], str(root))


def test_emnist_that_is_not_whole_is_one_line(tmp_path: Path) -> None:
    files = emnist_files("letters", 1, 26)
    wrong = {
        "holds no emnist-letters-test-labels-idx1-ubyte": {"emnist-letters-test-labels-idx1-ubyte": None},
        "label 0 is 0; expected 1 to 26": {"emnist-letters-train-labels-idx1-ubyte": idx(np.zeros(52, dtype=np.uint8))},
        "has no label 1; expected all": {"emnist-letters-train-labels-idx1-ubyte": idx(np.full(52, 2, dtype=np.uint8))},
        "52 images and 3 labels": {"emnist-letters-train-labels-idx1-ubyte": idx(np.ones(3, dtype=np.uint8))},
        "cannot be unpacked": {"emnist-letters-train-images-idx3-ubyte": b"\x1f\x8b\x08"},
    }
    for place, (said, change) in enumerate(wrong.items()):
        kept = {name: data for name, data in (files | change).items() if data is not None}
        with pytest.raises(DataError) as caught:
            loaded("emnist_letters", laid(tmp_path / str(place), kept))
        assert said in str(caught.value)
        assert "\n" not in str(caught.value)
    with pytest.raises(DataError, match=r"emnist_letters: not found in .*; put gzip\.zip"):
        loaded("emnist_letters", tmp_path / "nowhere")


# MedMNIST -------------------------------------------------------------------------------------------


@pytest.mark.parametrize("name", list(MEDMNIST))
def test_each_set_of_medmnist_is_read(tmp_path: Path, name: str) -> None:
    about = MEDMNIST[name]
    path = npz(tmp_path / f"{name}.npz", about.channels, len(about.classes))
    data = loaded(name, tmp_path)
    assert data.shape == dataset_info(name).shape == (about.channels, 28, 28)
    held = np.load(path)
    expected = torch.from_numpy(held["test_images"]).reshape(-1, 28, 28, about.channels).permute(0, 3, 1, 2)
    assert torch.equal(every(data.test), expected)
    assert data.train.y.tolist() == held["train_labels"][:, 0].tolist()
    assert torch.equal(every(loaded(name, path).train), every(data.train))
    levels = held["train_images"].reshape(-1, about.channels) / 255
    assert data.mean == pytest.approx(levels.mean(0).tolist())
    assert data.std == pytest.approx(levels.std(0).tolist())


@pytest.mark.parametrize(
    ("changed", "said"),
    [
        ({"test_labels": None}, "lacks test_labels"),
        (
            {"train_images": np.zeros((6, 64, 64), np.uint8)},
            "train_images is uint8 of 6 x 64 x 64; expected uint8 of N x 28",
        ),
        ({"train_images": np.zeros((6, 28, 28))}, "train_images is float64"),
        ({"train_labels": np.zeros((6, 14), np.uint8)}, "train_labels has 14 labels for each image"),
        ({"train_labels": np.zeros((5, 1), np.uint8)}, "has 6 images and 5 labels"),
        ({"train_labels": np.full((6, 1), 2)}, "label 0 is 2; expected 0 to 1"),
        ({"train_labels": np.zeros((6, 1))}, "labels are float64"),
        ({"train_labels": np.array([None] * 6)}, "no readable .npz"),
    ],
)
def test_a_wrong_file_of_medmnist_is_one_line(tmp_path: Path, changed: dict[str, Any], said: str) -> None:
    npz(tmp_path / "breastmnist.npz", 1, 2, **changed)
    with pytest.raises(DataError) as caught:
        loaded("breastmnist", tmp_path)
    assert said in str(caught.value)
    assert "\n" not in str(caught.value)


def test_a_damaged_file_of_medmnist_is_one_line(tmp_path: Path) -> None:
    path = npz(tmp_path / "breastmnist.npz", 1, 2)
    path.write_bytes(path.read_bytes()[:-40])
    with pytest.raises(DataError, match=r"no readable \.npz"):
        loaded("breastmnist", tmp_path)


def test_an_array_that_announces_more_than_any_memory_is_one_line(tmp_path: Path) -> None:
    path = npz(tmp_path / "breastmnist.npz", 1, 2)
    with zipfile.ZipFile(path) as packed:
        held = {name: packed.read(name) for name in packed.namelist()}
    name = "train_images.npy"
    held[name] = held[name].replace(b"(6, 28, 28), }" + b" " * 12, b"(6000000000000, 28, 28), }")
    with zipfile.ZipFile(path, "w") as packed:
        for member, data in held.items():
            packed.writestr(member, data)
    with pytest.raises(DataError, match=r"no readable \.npz") as caught:
        loaded("breastmnist", tmp_path)
    assert "\n" not in str(caught.value)


def test_several_labels_for_an_image_are_refused(command: Command, tmp_path: Path) -> None:
    source = tmp_path / "experiment.yaml"
    source.write_text("name: chest\ndata: {dataset: chestmnist, tasks: 2}\nstrategy: finetune\n")
    said = command("show", str(source))
    assert said.code == 2
    assert '"chestmnist" has several labels for each image' in said.err
    assert said.err.count("\n") == 1


# SVHN -----------------------------------------------------------------------------------------------


def test_svhn_is_what_torchvision_reads(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    mat(tmp_path / "train_32x32.mat", 40)
    mat(tmp_path / "test_32x32.mat", 20)
    monkeypatch.setattr(SVHN, "_check_integrity", lambda self: True)
    for root in (tmp_path, tmp_path / "train_32x32.mat"):
        data = loaded("svhn", root)
        for part, split in ((data.train, "train"), (data.test, "test")):
            theirs = SVHN(str(tmp_path), split=split)
            assert torch.equal(every(part), torch.from_numpy(theirs.data))
            assert part.y.tolist() == theirs.labels.tolist()
    assert data.train.y[9] == 0  # label 10
    assert data.class_names[0] == "zero"


@pytest.mark.parametrize(
    ("changed", "said"),
    [
        ({"y": np.zeros((20, 1), np.uint8)}, "label 0 is 0; expected 1 to 10"),
        ({"y": np.full((20, 1), 11, np.uint8)}, "label 0 is 11; expected 1 to 10"),
        ({"y": np.ones((20, 1), np.uint8)}, "has no label 0"),
        ({"X": np.zeros((16, 16, 3, 20), np.uint8)}, "X is uint8 of 16 x 16 x 3 x 20"),
        ({"X": np.zeros((32, 32, 3, 20))}, "X is double"),
        ({"y": np.array([{"a": 1}] * 20, dtype=object)}, "y is cell of 1 x 20"),
        ({"X": np.zeros((32, 32, 3, 7), np.uint8)}, "y is uint8 of 20 x 1; expected 7 whole numbers"),
    ],
)
def test_a_wrong_file_of_svhn_is_one_line(tmp_path: Path, changed: dict[str, Any], said: str) -> None:
    mat(tmp_path / "train_32x32.mat", **changed)
    mat(tmp_path / "test_32x32.mat")
    with pytest.raises(DataError) as caught:
        loaded("svhn", tmp_path)
    assert said in str(caught.value)
    assert "\n" not in str(caught.value)


@pytest.mark.parametrize("content", [b"", b"MATLAB 7.3 MAT-file" + bytes(200), b"\x89HDF\r\n\x1a\n" + bytes(600)])
def test_a_damaged_file_of_svhn_is_one_line(tmp_path: Path, content: bytes) -> None:
    mat(tmp_path / "test_32x32.mat")
    (tmp_path / "train_32x32.mat").write_bytes(content)
    with pytest.raises(DataError, match=r"no readable \.mat") as caught:
        loaded("svhn", tmp_path)
    assert "\n" not in str(caught.value)


# All of them ----------------------------------------------------------------------------------------


@pytest.mark.parametrize("name", PUBLISHED)
def test_classes_of_published_sets_have_embedded_anchors(name: str) -> None:
    classes = PUBLISHED[name].classes
    anchors = load_anchors(AnchorSettings(), classes)
    assert len({tuple(row) for row in anchors.tolist()}) == len(classes) == dataset_info(name).num_classes
