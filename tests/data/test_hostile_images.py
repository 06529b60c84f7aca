"""Image folders and zips that are made to hurt: each is refused in one line, in little memory."""

from __future__ import annotations

import io
import os
import stat
import struct
import time
import zipfile
import zlib
from collections.abc import Callable
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest
import torch
from hostile import npy, put, refused, within, zipped
from PIL import Image

from fcil.data import DATASETS, DataSettings, load_dataset
from fcil.data.files import decode as decode_module
from fcil.data.files.archives import MAX_MEMBER_BYTES, Archive
from fcil.data.sources import _from_torchvision
from fcil.errors import DataError


@pytest.fixture
def load_images(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Callable[..., Any]:
    """Loads an image folder or zip; whatever comes of it, nothing half-written may be left."""
    monkeypatch.setenv("FCIL_CACHE", str(tmp_path / "cache"))

    def load(root: Path, **options: Any) -> Any:
        try:
            return load_dataset(DataSettings(dataset="image_folder", root=str(root), tasks=2, **options))
        finally:
            kept = [p for p in (tmp_path / "cache").rglob("*") if p.suffix == ".npy" or "tmp" in p.name]
            assert not kept or all((p.parent / "facts.json").is_file() for p in kept)

    return load


def image(kind: str = "PNG", size: tuple[int, int] = (6, 6), **options: Any) -> bytes:
    stream = io.BytesIO()
    Image.new("RGB", size, (9, 99, 199)).save(stream, kind, **options)
    return stream.getvalue()


def data_set() -> dict[str, bytes]:
    return {
        f"{split}/{label}/{i}.png": image() for split in ("train", "test") for label in ("cat", "dog") for i in "01"
    }


def unpacked(top: Path, files: dict[str, bytes]) -> Path:
    for name, data in files.items():
        (top / name).parent.mkdir(parents=True, exist_ok=True)
        (top / name).write_bytes(data)
    return top


def chunk(kind: bytes, data: bytes) -> bytes:
    return struct.pack(">I", len(data)) + kind + data + struct.pack(">I", zlib.crc32(kind + data))


def png_of(width: int, height: int) -> bytes:
    """A header that promises that many pixels, and no pixels."""
    header = struct.pack(">IIBBBBB", width, height, 8, 2, 0, 0, 0)
    return (
        b"\x89PNG\r\n\x1a\n" + chunk(b"IHDR", header) + chunk(b"IDAT", zlib.compress(b"\0" * 99)) + chunk(b"IEND", b"")
    )


@pytest.mark.parametrize("place", ["zip", "folder"])
@pytest.mark.parametrize(
    ("data", "said"),
    [
        (b"", "is empty"),
        (b"just text", "is damaged or no image"),
        (b"<svg xmlns='http://www.w3.org/2000/svg'/>", "is damaged or no image"),
        (b"%!PS-Adobe-3.0 EPSF-3.0\n%%BoundingBox: 0 0 9 9\n%%EndComments\n(x) run\n", "is damaged or no image"),
        (b"%PDF-1.4\n", "is damaged or no image"),
        (image()[:40], "is damaged or no image"),
        (image("JPEG", (64, 64))[:300], "is damaged or no image"),
        (png_of(6, 6), "is damaged or no image"),
        (png_of(8200, 8200), "has 8200x8200 pixels; at most"),
        (png_of(60_000, 60_000), "train/cat/1.png"),
        (png_of(2**31 - 1, 2**31 - 1), "train/cat/1.png"),
        (png_of(0, 6), "is damaged or no image"),
    ],
    ids=range(12),
)
def test_a_hostile_image_is_named(
    tmp_path: Path, load_images: Callable[..., Any], place: str, data: bytes, said: str
) -> None:
    files = {**data_set(), "train/cat/1.png": data}
    root = zipped(tmp_path / "set.zip", files) if place == "zip" else unpacked(tmp_path / "set", files)
    with refused(DataError, str(root), "train/cat/1.png", said), within(32):
        load_images(root)


def test_of_an_animation_the_first_picture_counts_and_a_folder_may_be_called_like_an_image(
    tmp_path: Path, load_images: Callable[..., Any]
) -> None:
    frames = [Image.new("RGB", (6, 6), (k, 0, 0)) for k in (10, 250)]
    stream = io.BytesIO()
    frames[0].save(stream, "GIF", save_all=True, append_images=frames[1:])
    files = {**data_set(), "train/cat/1.png": stream.getvalue(), "train/cat/x.png/y.png": image()}
    (unpacked(tmp_path / "set", files) / "train" / "dog" / "empty.png").mkdir()
    data = load_images(tmp_path / "set")
    assert len(data.train) == 5
    assert int(data.train.take(torch.tensor([1])).max()) == 10


def test_a_strip_is_not_resized_beyond_measure(tmp_path: Path, load_images: Callable[..., Any]) -> None:
    root = zipped(tmp_path / "set.zip", {**data_set(), "train/cat/1.png": image(size=(1, 50_000))})
    with refused(DataError, "train/cat/1.png has 1x50000 pixels, too narrow to bring its short side to 64"), within(32):
        load_images(root, resize=64)


def test_large_images_are_decoded_one_at_a_time(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, load_images: Callable[..., Any]
) -> None:
    monkeypatch.setattr(decode_module, "LARGE", 35)
    monkeypatch.setattr(decode_module, "_CHUNK", 1)
    inside: list[int] = []
    most: list[int] = []
    convert = Image.Image.convert

    def slow(self: Image.Image, *arguments: Any) -> Image.Image:
        if type(self) is Image.Image:  # decoded before
            return convert(self, *arguments)
        inside.append(1)
        most.append(len(inside))
        time.sleep(0.005)
        inside.pop()
        return convert(self, *arguments)

    monkeypatch.setattr(Image.Image, "convert", slow)
    load_images(zipped(tmp_path / "set.zip", data_set()))
    assert len(most) >= 8
    assert max(most) == 1


@pytest.mark.parametrize(
    "name", ["../x.png", "train/cat/../../../x.png", "/train/cat/x.png", "train\\cat\\x.png", "C:\\x.png"]
)
def test_names_that_lead_out_of_a_zip_are_refused(tmp_path: Path, load_images: Callable[..., Any], name: str) -> None:
    root = zipped(tmp_path / "set.zip", {**data_set(), name: image()})
    with refused(DataError, f'{root}: "{name}" is not allowed; expected names such as train/cat/1.png'):
        load_images(root)
    assert sorted(p.name for p in tmp_path.iterdir()) == ["set.zip"]


def test_a_name_that_is_there_twice_is_refused(tmp_path: Path, load_images: Callable[..., Any]) -> None:
    root = zipped(tmp_path / "set.zip", data_set())
    with zipfile.ZipFile(root, "a") as archive, pytest.warns(UserWarning, match="Duplicate name"):
        archive.writestr("train/cat/0.png", image())
    with refused(DataError, '"train/cat/0.png" is there twice'):
        load_images(root)


def doctored(path: Path, change: Callable[[zipfile.ZipInfo], None], data: bytes | None = None) -> Path:
    """A zip whose directory tells something else of train/cat/1.png than what was stored."""
    with zipfile.ZipFile(path, "w", zipfile.ZIP_DEFLATED) as archive:
        for name, content in data_set().items():
            info = zipfile.ZipInfo(name)
            odd = name == "train/cat/1.png"
            archive.writestr(info, data if odd and data is not None else content, compress_type=zipfile.ZIP_DEFLATED)
            if odd:
                change(info)
    return path


@pytest.mark.parametrize(
    ("change", "said"),
    [
        (lambda i: setattr(i, "file_size", MAX_MEMBER_BYTES + 1), "unpacks to 268,435,457 bytes; at most 268,435,456"),
        (lambda i: setattr(i, "file_size", 2**60), "unpacks to 1,152,921,504,606,846,976 bytes"),
        (lambda i: setattr(i, "compress_type", zipfile.ZIP_BZIP2), "neither stored nor deflated"),
        (lambda i: setattr(i, "compress_type", 97), "neither stored nor deflated"),
        (lambda i: setattr(i, "external_attr", (stat.S_IFLNK | 0o777) << 16), "it is a link"),
        (lambda i: setattr(i, "flag_bits", i.flag_bits | 1), "encrypted"),
        (lambda i: setattr(i, "CRC", 1), "Bad CRC-32"),
        (lambda i: setattr(i, "header_offset", 3), "cannot be read"),
        (lambda i: setattr(i, "header_offset", 0), "cannot be read"),
        (lambda i: setattr(i, "header_offset", 2**50), "cannot be read"),
        (lambda i: setattr(i, "compress_size", 1), "train/cat/1.png"),
    ],
    ids=range(11),
)
def test_a_zip_that_lies_about_a_member_is_refused(
    tmp_path: Path, load_images: Callable[..., Any], change: Callable[[zipfile.ZipInfo], None], said: str
) -> None:
    with refused(DataError, "train/cat/1.png", said), within(32):
        load_images(doctored(tmp_path / "set.zip", change))


def test_no_more_is_unpacked_than_a_member_says_it_holds(tmp_path: Path) -> None:
    root = doctored(tmp_path / "set.zip", lambda info: setattr(info, "file_size", 1000), b"\0" * 2**26)
    archive = Archive(root)
    assert root.stat().st_size < 2**20
    with refused(DataError, "train/cat/1.png cannot be read"), within(4):
        archive.read("train/cat/1.png")


@pytest.mark.parametrize(
    "data",
    [b"", b"PK", b"no zip", b"PK\x05\x06" + b"\xff" * 18, b"PK\x06\x06" * 30],
)
def test_what_is_no_zip_is_refused(tmp_path: Path, load_images: Callable[..., Any], data: bytes) -> None:
    (tmp_path / "set.zip").write_bytes(data)
    with refused(DataError, str(tmp_path / "set.zip"), "neither a folder nor a readable zip"):
        load_images(tmp_path / "set.zip")


@pytest.mark.parametrize("cut", [10, 100, 1000])
def test_a_truncated_zip_is_refused(tmp_path: Path, load_images: Callable[..., Any], cut: int) -> None:
    root = zipped(tmp_path / "set.zip", data_set())
    root.write_bytes(root.read_bytes()[:-cut])
    with refused(DataError, str(root), "neither a folder nor a readable zip"):
        load_images(root)


def test_a_zip_with_names_that_are_no_text_is_refused(tmp_path: Path, load_images: Callable[..., Any]) -> None:
    root = zipped(tmp_path / "set.zip", {**data_set(), "train/cat/é.png": image()})
    root.write_bytes(root.read_bytes().replace("é".encode(), b"\xff\xfe"))
    with refused(DataError, str(root), "neither a folder nor a readable zip"):
        load_images(root)


@pytest.mark.parametrize("kind", ["pipe", "device", "loop", "nowhere"])
def test_an_archive_that_is_no_file_is_not_waited_for(
    tmp_path: Path, load_images: Callable[..., Any], kind: str
) -> None:
    root = put(tmp_path / "set.zip", kind)
    with refused(DataError, str(root)):
        load_images(root)


@pytest.mark.parametrize("kind", ["pipe", "device", "loop", "nowhere"])
def test_an_image_that_is_no_file_is_not_waited_for(tmp_path: Path, load_images: Callable[..., Any], kind: str) -> None:
    root = unpacked(tmp_path / "set", data_set())
    put(root / "train" / "cat" / "1.png", kind)
    with refused(DataError, str(root), "train/cat/1.png"), within(32):
        load_images(root)


def test_links_in_a_circle_are_refused(tmp_path: Path, load_images: Callable[..., Any]) -> None:
    root = unpacked(tmp_path / "set", data_set())
    (root / "train" / "cat" / "again").symlink_to(root / "train")
    with refused(DataError, f"{root}: train/cat/again/ is a link to a folder that it lies in"):
        load_images(root)


def test_links_to_links_are_not_followed_for_ever(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, load_images: Callable[..., Any]
) -> None:
    root = unpacked(tmp_path / "set", data_set())
    for depth in range(40):  # 2^40 paths
        (tmp_path / f"d{depth}").mkdir()
        for name in ("a", "b"):
            (tmp_path / f"d{depth}" / name).symlink_to(tmp_path / f"d{depth + 1}")
    (root / "train" / "cat" / "deep").symlink_to(tmp_path / "d0")
    monkeypatch.setattr("fcil.data.files.archives.MAX_FOLDERS", 2000)
    with refused(DataError, "has more than 2,000 folders, or 32 within each other"):
        load_images(root)


def test_only_the_splits_of_a_folder_are_walked_through(tmp_path: Path, load_images: Callable[..., Any]) -> None:
    root = unpacked(tmp_path / "set", {**data_set(), "elsewhere/a/b.png": image()})
    (root / "elsewhere" / "circle").symlink_to(root)
    assert len(load_images(root).train) == 4
    with refused(DataError, "/: no images under train/<class>/ (found: "):
        load_images(Path("/"))


@pytest.mark.parametrize("name", ["c\x1b[2Jat", "c\nat", "\u202etac", "c" * 201])
def test_a_class_whose_name_cannot_be_printed_is_refused(
    tmp_path: Path, load_images: Callable[..., Any], name: str
) -> None:
    root = zipped(tmp_path / "set.zip", {k.replace("cat", name): v for k, v in data_set().items()})
    with refused(DataError, str(root), "its name must be printable and have at most 200 characters"):
        load_images(root)
    titled = zipped(tmp_path / "titled.zip", {**data_set(), "classnames.txt": f"cat {name}\n".encode()})
    if "\n" not in name:
        with refused(DataError, str(titled), 'class folder "cat"'):
            load_images(titled)


def test_a_class_folder_that_is_no_text_is_refused(tmp_path: Path, load_images: Callable[..., Any]) -> None:
    root = unpacked(tmp_path / "set", data_set())
    for split in ("train", "test"):
        os.rename(root / split / "cat", os.fsencode(root / split) + b"/c\xff")
    with refused(DataError, str(root), "its name must be printable"):
        load_images(root)


def test_thousands_of_empty_classes_count_as_none(tmp_path: Path, load_images: Callable[..., Any]) -> None:
    root = unpacked(tmp_path / "set", data_set())
    for number in range(3000):
        (root / "train" / f"empty{number}").mkdir()
    assert load_images(root).num_classes == 2


def test_a_cache_that_lies_is_made_again(tmp_path: Path, load_images: Callable[..., Any]) -> None:
    root = zipped(tmp_path / "set.zip", data_set())
    assert len(load_images(root).train) == 4
    (facts,) = (tmp_path / "cache").rglob("facts.json")
    header = {"descr": "<i8", "fortran_order": False, "shape": (10**12,)}
    lying = io.BytesIO()
    np.lib.format.write_array_header_1_0(lying, header)
    for name, data in {
        "train_y.npy": lying.getvalue(),
        "train_x.npy": npy(np.zeros((4, 3, 6, 6), dtype=np.float32)),
        "test_y.npy": npy(np.array([{}], dtype=object), pickled=True),
        "test_x.npy": npy(np.zeros((3, 3, 6, 6), dtype=np.uint8)),
        "facts.json": b"[" * 100_000,
    }.items():
        (facts.parent / name).write_bytes(data)
        assert len(load_images(root).train) == 4, name


@pytest.mark.parametrize("labels", [[0, 1, 2], [0], [0, 2], [0, -1]])
def test_labels_that_do_not_fit_the_images_are_refused(tmp_path: Path, labels: list[int]) -> None:
    part = SimpleNamespace(data=np.zeros((2, 28, 28), dtype=np.uint8), targets=labels, classes=["zero", "one"])
    told = f"2 images of (1, 28, 28) and {len(labels)} labels"
    with refused(DataError, f"mnist: the files in {tmp_path} hold other images or labels; put the four idx", told):
        _from_torchvision(DATASETS["mnist"], tmp_path, part)
