"""Image files of every mode: what shows through transparent parts, which side is up, and that opaque ones stay."""

from __future__ import annotations

import io
import struct
import zipfile
import zlib
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from PIL import Image, ImageOps
from small_runs import write_experiment

from fcil.config import Where, dump, parse
from fcil.data import DataSettings, load_dataset
from fcil.data.files.compositing import Rendering
from fcil.data.files.decode import decode
from fcil.errors import ConfigError
from fcil.runs.plans import read

GREY, GREY_ALPHA, COLOUR, PALETTE, COLOUR_ALPHA = 0, 4, 2, 3, 6


@pytest.fixture(autouse=True)
def _own_cache(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("FCIL_CACHE", str(tmp_path / "cache"))


def png(kind: int, depth: int, row: bytes, *chunks: tuple[bytes, bytes], width: int = 4) -> bytes:
    """A PNG of one row, as other programs write them and Pillow does not."""

    def chunk(name: bytes, data: bytes) -> bytes:
        return struct.pack(">I", len(data)) + name + data + struct.pack(">I", zlib.crc32(name + data))

    header = chunk(b"IHDR", struct.pack(">IIBBBBB", width, 1, depth, kind, 0, 0, 0))
    body = b"".join(chunk(*one) for one in chunks) + chunk(b"IDAT", zlib.compress(b"\0" + row))
    return b"\x89PNG\r\n\x1a\n" + header + body + chunk(b"IEND", b"")


def words(*values: int) -> bytes:
    return struct.pack(f">{len(values)}H", *values)


def saved(image: Image.Image, kind: str, **options: Any) -> bytes:
    stream = io.BytesIO()
    image.save(stream, kind, **options)
    return stream.getvalue()


def paper() -> Image.Image:
    """Four pixels, stored as black: the first two are ink, the last two transparent."""
    image = Image.new("RGBA", (4, 1), (0, 0, 0, 255))
    image.putalpha(Image.fromarray(np.array([[255, 255, 0, 0]], dtype=np.uint8)))
    return image


def animation(kind: str) -> bytes:
    other = Image.new("RGBA", (4, 1), (9, 200, 9, 128))  # an opaque one would make the file say it has no alpha
    return saved(paper(), kind, save_all=True, append_images=[other], lossless=True, exact=True, duration=50)


INK = {
    "RGBA": saved(paper(), "png"),
    "LA": saved(paper().convert("LA"), "png"),
    "P": png(PALETTE, 8, bytes([0, 0, 1, 1]), (b"PLTE", bytes(6)), (b"tRNS", bytes([255, 0]))),
    "P, 1 bit": png(PALETTE, 1, bytes([0b00110000]), (b"PLTE", bytes(6)), (b"tRNS", bytes([255, 0]))),
    "1": png(GREY, 1, bytes([0b00110000]), (b"tRNS", words(1))),
    "L, 2 bits": png(GREY, 2, bytes([0b00000101]), (b"tRNS", words(1))),
    "L, 4 bits": png(GREY, 4, bytes([0x00, 0x11]), (b"tRNS", words(1))),
    "L": png(GREY, 8, bytes([0, 0, 1, 1]), (b"tRNS", words(1))),
    "RGB": png(COLOUR, 8, bytes([0] * 6 + [1, 2, 3] * 2), (b"tRNS", words(1, 2, 3))),
    "RGB, 16 bits": png(COLOUR, 16, words(*[0] * 6, *[30000] * 6), (b"tRNS", words(30000, 30000, 30000))),
    "RGBA, 16 bits": png(COLOUR_ALPHA, 16, words(*[0, 0, 0, 65535] * 2, *[0, 0, 0, 0] * 2)),
    "LA, 16 bits": png(GREY_ALPHA, 16, words(*[0, 65535] * 2, *[0, 0] * 2)),
    "gif": saved(paper(), "gif"),
    "gif, animated": animation("gif"),
    "webp": saved(paper(), "webp", lossless=True, exact=True),
    "webp, animated": animation("webp"),
    "tiff": saved(paper(), "tiff"),
    "tiff, grey": saved(paper().convert("LA"), "tiff"),
}
"""Ink on transparent paper, that is stored in nearly the colour of the ink."""


def levels(data: bytes, **rendering: Any) -> list[int]:
    return np.asarray(decode(data, "x", None, Rendering(**rendering)).convert("L"))[0].tolist()


@pytest.mark.parametrize("kind", INK)
def test_ink_can_be_seen_on_the_paper_that_is_asked_for(kind: str) -> None:
    assert levels(INK[kind]) == [0, 0, 255, 255]
    assert levels(INK[kind], background=100) == [0, 0, 100, 100]
    stored = levels(INK[kind], background=None)
    assert stored == np.asarray(Image.open(io.BytesIO(INK[kind])).convert("RGB").convert("L"))[0].tolist()


def test_what_is_half_transparent_is_mixed() -> None:
    half = Image.new("RGBA", (1, 1), (200, 0, 100, 128))
    assert decode(saved(half, "png"), "x").getpixel((0, 0)) == (227, 127, 177)
    assert decode(saved(half, "png"), "x", None, Rendering(0)).getpixel((0, 0)) == (100, 0, 50)


@pytest.mark.parametrize("mode", ["1", "L", "P", "RGB", "LA", "RGBA", "CMYK", "YCbCr"])
def test_an_opaque_image_is_what_it_was_in_every_mode(mode: str) -> None:
    noise = Image.fromarray(np.random.default_rng(0).integers(0, 256, (5, 7, 3), dtype=np.uint8)).convert(mode)
    data = saved(noise, "tiff" if mode in ("CMYK", "YCbCr") else "png")
    before = Image.open(io.BytesIO(data))
    before = before.convert("L" if before.mode in ("1", "L") else "RGB")
    for background in (255, 0, None):
        now = decode(data, "x", None, Rendering(background))
        assert now.mode == before.mode
        assert np.array_equal(np.asarray(now), np.asarray(before))


def test_a_photograph_in_print_colours_is_read_in_its_own() -> None:
    red = Image.new("RGB", (16, 16), (200, 30, 40))
    pixel = decode(saved(red.convert("CMYK"), "jpeg", quality=100), "x").getpixel((8, 8))
    assert np.abs(np.array(pixel) - (200, 30, 40)).max() <= 3


@pytest.mark.parametrize("kind", ["png", "jpeg", "webp", "tiff"])
@pytest.mark.parametrize("orientation", range(1, 9))
def test_an_image_is_turned_once_or_not_at_all(kind: str, orientation: int) -> None:
    image = Image.fromarray(np.random.default_rng(0).integers(0, 256, (16, 24, 3), dtype=np.uint8))
    exif = Image.Exif()
    exif[0x0112] = orientation
    data = saved(image, kind, exif=exif)
    wanted = ImageOps.exif_transpose(Image.open(io.BytesIO(data)))
    assert np.array_equal(np.asarray(decode(data, "x")), np.asarray(wanted))
    if kind != "tiff":  # which Pillow turns by itself
        stored = np.asarray(Image.open(io.BytesIO(data)))
        assert np.array_equal(np.asarray(decode(data, "x", None, Rendering(upright=False))), stored)


def test_what_stands_in_the_way_of_an_orientation_spoils_no_pixel() -> None:
    image = Image.new("RGB", (3, 2), (1, 2, 3))
    for exif in (b"Exif\0\0" + bytes(range(200)), b"\xff" * 30):
        assert decode(saved(image, "png", exif=exif), "x").size == (3, 2)


def folder(path: Path, data: bytes, dataset: str = "image_folder", test: str = "test") -> dict[str, Any]:
    with zipfile.ZipFile(path, "w") as archive:
        for split in ("train", test):
            for name in ("ant", "bee"):
                for i in range(3):
                    archive.writestr(f"{split}/{name}/{i}.png", data)
    return {"dataset": dataset, "root": str(path), "tasks": 2}


def settings(**values: Any) -> DataSettings:
    return parse(DataSettings, values, Where("x.yaml", "data"))


@pytest.mark.parametrize(("value", "level"), [(None, 255), ("white", 255), ("black", 0), (77, 77), ("ignored", 0)])
def test_the_setting_reaches_the_pixels_and_each_value_has_a_cache_of_its_own(
    tmp_path: Path, value: Any, level: int
) -> None:
    chosen = folder(tmp_path / "set.zip", INK["RGBA"])
    load_dataset(settings(**chosen, transparency=33))
    data = load_dataset(settings(**chosen, **({} if value is None else {"transparency": value})))
    assert data.train.take(torch.tensor([4]))[0, 0].tolist() == [[0, 0, level, level]]


def test_images_that_are_decoded_while_training_have_the_setting_too(tmp_path: Path) -> None:
    chosen = folder(tmp_path / "set.zip", INK["RGBA"], "imagenet", "val")
    data = load_dataset(settings(**chosen, transparency=77, resize=1))
    assert set(data.train.take(torch.tensor([0])).flatten().tolist()) <= {0, 77}
    assert data.train.take(torch.tensor([0]), torch.Generator().manual_seed(1)).max() <= 77
    held = load_dataset(settings(**chosen, transparency=77, resize=1, validation=0.3))
    assert held.test.take(torch.tensor([0])).max() <= 77


def test_what_was_always_so_is_not_written_and_what_is_new_makes_another_run(tmp_path: Path) -> None:
    base = {"dataset": "image_folder", "root": "x.zip", "tasks": 2}
    assert "transparency" not in dump(settings(**base, transparency="white", orientation="upright"))
    found = set()
    for extra in ({}, {"transparency": "black"}, {"transparency": 3}, {"orientation": "stored"}):
        written = dump(settings(**base, **extra))
        assert dump(parse(DataSettings, written, Where("again"))) == written
        found.add(read(write_experiment(tmp_path, data={**base, **extra}))[0].plans()[0].variant)
    assert len(found) == 4


@pytest.mark.parametrize(
    ("values", "said"),
    [
        ({"transparency": "wite"}, 'Did you mean "white"?'),
        ({"transparency": 256}, "data.transparency: 256 is not allowed"),
        ({"orientation": "up"}, "data.orientation: 'up' is not allowed"),
        ({"dataset": "digits", "transparency": "black"}, "transparency: applies to images that are decoded from files"),
    ],
)
def test_what_cannot_be_meant_is_refused(values: dict[str, Any], said: str) -> None:
    with pytest.raises(ConfigError) as refused:
        settings(**{"dataset": "image_folder", "root": "x.zip", "tasks": 2, **values})
    assert said in str(refused.value)
