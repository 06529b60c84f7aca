"""CUB-200-2011 and ImageNet-R, from tiny folders of the published layouts."""

from __future__ import annotations

import io
import zipfile
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from PIL import Image

from fcil.anchors import AnchorSettings, load_anchors
from fcil.data import DATASETS, Dataset, DataSettings, load_dataset
from fcil.data.preparation import TestShare
from fcil.data.published import IMAGENET_R
from fcil.data.sources import at_hand
from fcil.errors import DataError

BIRDS = ("001.Black_footed_Albatross", "002.Laysan_Albatross", "010.Red_winged_Blackbird")


def picture(level: int) -> bytes:
    held = io.BytesIO()
    Image.fromarray(np.full((40, 50, 3), level, np.uint8)).save(held, "png")
    return held.getvalue()


def birds() -> dict[str, bytes]:
    """Four images of each of three classes, two of them for tests; images are not numbered in order of classes."""
    files, lists = {}, {"images": "", "image_class_labels": "", "train_test_split": ""}
    for number in range(12, 0, -1):
        kind = number % 3
        path = f"{BIRDS[kind]}/bird_{number:04}.png"
        files[f"CUB_200_2011/images/{path}"] = picture(20 * number)
        lists["images"] += f"{number} {path}\n"
        lists["image_class_labels"] += f"{number} {kind + 1}\n"
        lists["train_test_split"] += f"{number} {int(number <= 6)}\n"
    files |= {f"CUB_200_2011/{name}.txt": text.encode() for name, text in lists.items()}
    files["CUB_200_2011/parts/parts.txt"] = b"1 back\n"
    files["attributes.txt"] = b"1 has_bill_shape::curved\n"
    return files


def laid(folder: Path, files: dict[str, bytes]) -> Path:
    for name, data in files.items():
        (folder / name).parent.mkdir(parents=True, exist_ok=True)
        (folder / name).write_bytes(data)
    return folder


def zipped(path: Path, files: dict[str, bytes]) -> Path:
    with zipfile.ZipFile(path, "w") as archive:
        for name, data in files.items():
            archive.writestr(name, data)
    return path


def loaded(name: str, root: Path, **options: Any) -> Dataset:
    return load_dataset(DataSettings(dataset=name, root=str(root), tasks=1, resize=32, **options))


def levels(part: Any) -> list[int]:
    return [int(value) for value in part.take(torch.arange(len(part.y)))[:, 0, 16, 16]]


def test_cub_is_split_as_its_lists_say(tmp_path: Path) -> None:
    inside = laid(tmp_path, birds())
    for root in (inside, inside / "CUB_200_2011", zipped(tmp_path / "birds.zip", birds())):
        data = loaded("cub200", root)
        assert data.class_names == ("Black footed Albatross", "Laysan Albatross", "Red winged Blackbird")
        assert data.folders == BIRDS
        assert data.shape == (3, 32, 32)
        assert data.train.y.tolist() == data.test.y.tolist() == [0, 0, 1, 1, 2, 2]
        assert levels(data.train) == [120, 60, 80, 20, 100, 40]  # as the list of images has them
        assert levels(data.test) == [240, 180, 200, 140, 220, 160]
        assert at_hand(DATASETS["cub200"], str(root))


@pytest.mark.parametrize(
    ("name", "text", "said"),
    [
        ("train_test_split.txt", None, "holds no CUB_200_2011/train_test_split.txt"),
        ("images.txt", "1\n", "images.txt: line 1 is no number and value"),
        ("images.txt", "1 001.Black_footed_Albatross/none.png\n", "none.png is missing, but images.txt lists it"),
        ("image_class_labels.txt", "1 2\n", "image_class_labels.txt says nothing of image 12"),
        ("train_test_split.txt", "".join(f"{n} 1\n" for n in range(1, 13)), "has no test image of class 001"),
        ("train_test_split.txt", "".join(f"{n} 2\n" for n in range(1, 13)), "train_test_split.txt says nothing of"),
        ("image_class_labels.txt", "".join(f"{n} {n}\n" for n in range(1, 13)), "others of its folder of class"),
    ],
)
def test_damaged_lists_of_cub_are_one_line(tmp_path: Path, name: str, text: str | None, said: str) -> None:
    files = birds()
    del files[f"CUB_200_2011/{name}"]
    if text is not None:
        files[f"CUB_200_2011/{name}"] = text.encode()
    with pytest.raises(DataError) as caught:
        loaded("cub200", zipped(tmp_path / "birds.zip", files))
    assert said in str(caught.value)
    assert "\n" not in str(caught.value)


def test_imagenet_r_takes_a_share_for_tests_and_names_its_folders(tmp_path: Path) -> None:
    files = {
        f"{wnid}/art_{k}.jpg": picture(10 * k) for wnid in ("n01443537", "n02085620", "n99999999") for k in range(5)
    }
    files["README.txt"] = b"ImageNet-R\n"
    folder = laid(tmp_path / "imagenet-r", files)
    for root in (
        folder,
        tmp_path,
        zipped(tmp_path / "r.zip", {f"imagenet-r/{name}": data for name, data in files.items()}),
    ):
        data = loaded("imagenet_r", root, test_share=TestShare(share=0.2))
        assert data.class_names == ("goldfish", "Chihuahua", "n99999999")
        assert data.test.y.tolist() == [0, 1, 2]
        assert data.train.y.tolist() == [0] * 4 + [1] * 4 + [2] * 4
        assert data.mean == pytest.approx((0.485, 0.456, 0.406))


def test_an_image_folder_of_wnids_keeps_their_names(tmp_path: Path) -> None:
    files = {f"{wnid}/{k}.png": picture(10 * k) for wnid in ("n01443537", "n02085620") for k in range(5)}
    assert loaded("image_folder", laid(tmp_path, files), test_share=TestShare(share=0.2)).class_names == (
        "n01443537",
        "n02085620",
    )


def test_classes_of_imagenet_r_have_embedded_anchors() -> None:
    names = list(IMAGENET_R.values())
    assert len(set(names)) == len(IMAGENET_R) == 200
    assert list(IMAGENET_R) == sorted(IMAGENET_R)
    assert load_anchors(AnchorSettings(), names).shape == (200, 384)
