"""Image folders and zips: layouts, caches, damaged files, and reading while training."""

from __future__ import annotations

import gc
import io
import threading
import zipfile
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from PIL import Image, ImageOps

from fcil.data import DataSettings, LazyImages, load_dataset
from fcil.data.files import decode as decode_module
from fcil.data.files.archives import Archive
from fcil.data.files.decode import decode, fit
from fcil.data.images import READ_AHEAD
from fcil.errors import DataError

Files = dict[str, bytes]
Pack = Callable[[Files], Path]


@pytest.fixture(autouse=True)
def _own_cache(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("FCIL_CACHE", str(tmp_path / "cache"))
    monkeypatch.setenv("FCIL_DATA", str(tmp_path / "data"))


@pytest.fixture(params=["folder", "zip", "wrapped zip"])
def pack(request: pytest.FixtureRequest, tmp_path: Path) -> Pack:
    """Writes files as a folder, as a zip, or as a zip with one folder around everything."""

    def write(files: Files) -> Path:
        if request.param == "folder":
            for name, data in files.items():
                path = tmp_path / "set" / name
                path.parent.mkdir(parents=True, exist_ok=True)
                path.write_bytes(data)
            return tmp_path / "set"
        return zipped(tmp_path / "set.zip", files, "top/" if request.param == "wrapped zip" else "")

    return write


def zipped(path: Path, files: Files, top: str = "") -> Path:
    with zipfile.ZipFile(path, "w") as archive:
        for name, data in files.items():
            archive.writestr(top + name, data)
    return path


def png(level: int, size: tuple[int, int] = (6, 6), mode: str = "RGB") -> bytes:
    rng = np.random.default_rng(level)
    shape = size[::-1] if mode == "L" else (*size[::-1], 3)
    buffer = io.BytesIO()
    Image.fromarray(rng.integers(0, 256, shape, dtype=np.uint8)).save(buffer, "png")
    return buffer.getvalue()


def two_classes(mode: str = "RGB", size: tuple[int, int] = (6, 6), train: int = 5) -> Files:
    files: Files = {"readme.txt": b"not an image", "train/cat/.hidden.png": b""}
    for number, name in enumerate(("dog", "cat")):
        for i in range(train):
            files[f"train/{name}/{i}.png"] = png(10 * number + i, size, mode)
        for i in range(2):
            files[f"test/{name}/{i}.png"] = png(100 + 10 * number + i, size, mode)
    return files


def settings(root: Path, dataset: str = "image_folder", **options: object) -> DataSettings:
    return DataSettings(dataset=dataset, root=str(root), tasks=2, **options)  # type: ignore[arg-type]


def pixels(data: bytes) -> torch.Tensor:
    return torch.from_numpy(np.array(Image.open(io.BytesIO(data)).convert("RGB"))).permute(2, 0, 1)


def test_image_folder_is_read_in_order_of_class_and_file(pack: Pack) -> None:
    files = two_classes()
    heard: list[tuple[str, int, int]] = []
    data = load_dataset(settings(pack(files)), progress=lambda *line: heard.append(line))
    assert data.class_names == ("cat", "dog")
    assert data.shape == (3, 6, 6)
    assert data.train.y.tolist() == [0] * 5 + [1] * 5
    assert data.test.y.tolist() == [0] * 2 + [1] * 2
    expected = torch.stack([pixels(files[f"train/{c}/{i}.png"]) for c in ("cat", "dog") for i in range(5)])
    assert torch.equal(data.train.take(torch.arange(10)), expected)
    assert data.mean == pytest.approx((expected.double() / 255).mean((0, 2, 3)).tolist())
    assert data.std == pytest.approx((expected.double() / 255).permute(1, 0, 2, 3).flatten(1).std(1, False).tolist())
    assert data.augment.padding == 1
    assert heard[-1][1:] == (14, 14)


def test_second_reading_comes_from_the_cache(pack: Pack, monkeypatch: pytest.MonkeyPatch) -> None:
    root = pack(two_classes())
    first = load_dataset(settings(root))
    monkeypatch.setattr(decode_module, "decode", lambda *_: pytest.fail("decoded again"))
    again = load_dataset(settings(root))
    assert torch.equal(first.train.take(torch.arange(10)), again.train.take(torch.arange(10)))
    assert (first.class_names, first.mean, first.std) == (again.class_names, again.mean, again.std)


def test_a_changed_archive_or_size_is_decoded_again(pack: Pack) -> None:
    assert len(load_dataset(settings(pack(two_classes()))).train) == 10
    root = pack(two_classes(train=6))
    assert len(load_dataset(settings(root)).train) == 12
    assert load_dataset(settings(root, resize=4)).shape == (3, 4, 4)


def test_a_damaged_cache_is_made_again(tmp_path: Path) -> None:
    root = zipped(tmp_path / "set.zip", two_classes())
    load_dataset(settings(root))
    (cached,) = [p for p in (tmp_path / "cache" / "images").iterdir() if p.is_dir()]
    (cached / "train_x.npy").write_bytes(b"")
    assert len(load_dataset(settings(root)).train) == 10


def test_gray_stays_gray_only_if_all_images_are(tmp_path: Path) -> None:
    gray = two_classes("L")
    assert load_dataset(settings(zipped(tmp_path / "gray.zip", gray))).shape == (1, 6, 6)
    mixed = {**gray, "test/dog/1.png": png(1)}
    data = load_dataset(settings(zipped(tmp_path / "mixed.zip", mixed)))
    assert data.shape == (3, 6, 6)
    assert torch.equal(data.train.take(torch.tensor([0]))[0], pixels(gray["train/cat/0.png"]))
    assert torch.equal(data.test.take(torch.tensor([3]))[0], pixels(mixed["test/dog/1.png"]))


@pytest.mark.parametrize(
    ("member", "data", "said"),
    [
        ("train/cat/3.png", b"", "train/cat/3.png is empty"),
        ("train/cat/3.png", png(1)[:60], "train/cat/3.png is damaged or no image"),
        ("train/cat/3.png", b"hello", "train/cat/3.png is damaged or no image (cannot identify image file)"),
        ("test/dog/0.png", png(1, (7, 6)), "test/dog/0.png has 7x6 pixels, the first image 6x6; give resize"),
        ("train/stray.png", png(1), "train/stray.png lies in no class folder"),
        ("test/cow/0.png", png(1), 'no images of class "cow"'),
        ("train/cow/0.png", png(1), 'test/ has no images of class "cow"'),
    ],
)
def test_an_unusable_image_is_named_in_one_line(
    pack: Pack, tmp_path: Path, member: str, data: bytes, said: str
) -> None:
    with pytest.raises(DataError) as caught:
        load_dataset(settings(pack({**two_classes(), member: data})))
    assert said in str(caught.value)
    assert "\n" not in str(caught.value)
    assert not [p for p in (tmp_path / "cache").rglob("*") if p.suffix == ".npy" or "tmp" in p.name]


def test_sixteen_bits_and_huge_images_are_refused(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    buffer = io.BytesIO()
    Image.fromarray(np.zeros((6, 6), dtype=np.uint16)).save(buffer, "png")
    with pytest.raises(DataError, match="more than 8 bits"):
        load_dataset(settings(zipped(tmp_path / "a.zip", {**two_classes(), "train/cat/0.png": buffer.getvalue()})))
    monkeypatch.setattr(decode_module, "MAX_PIXELS", 35)
    with pytest.raises(DataError, match=r"6x6 pixels; at most 35"):
        load_dataset(settings(zipped(tmp_path / "b.zip", two_classes())))


@pytest.mark.parametrize(
    ("files", "said"),
    [({"a.txt": b"x"}, "no images under train/<class>/"), ({"train/cat/0.png": b"x"}, "no images under test/<class>/")],
)
def test_a_missing_split_is_said(tmp_path: Path, files: Files, said: str) -> None:
    with pytest.raises(DataError) as caught:
        load_dataset(settings(zipped(tmp_path / "set.zip", files)))
    assert said in str(caught.value)


def test_what_is_no_archive_is_said(tmp_path: Path) -> None:
    with pytest.raises(DataError, match="no such folder or zip"):
        load_dataset(settings(tmp_path / "nothing"))
    (tmp_path / "text.zip").write_text("no zip")
    with pytest.raises(DataError, match="neither a folder nor a readable zip"):
        load_dataset(settings(tmp_path / "text.zip"))


def test_two_threads_asking_at_once_get_the_same(tmp_path: Path) -> None:
    root = zipped(tmp_path / "set.zip", two_classes(train=20))
    got: list[torch.Tensor] = []
    threads = [
        threading.Thread(target=lambda: got.append(load_dataset(settings(root)).train.take(torch.arange(40))))
        for _ in range(4)
    ]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert len(got) == 4
    assert all(torch.equal(got[0], other) for other in got)


def tiny_imagenet() -> Files:
    wnids = ("n02", "n01", "n03")
    files: Files = {
        "wnids.txt": "\n".join(wnids).encode(),
        "words.txt": b"n01\tgoldfish, Carassius auratus\nn02\ttailed frog, bell toad\nn99\tentity\n",
        "test/images/test_0.JPEG": b"",
    }
    lines = ["val_9.JPEG\tn77\t0\t0\t1\t1"]  # a class that this archive leaves out
    for number, wnid in enumerate(wnids):
        files[f"train/{wnid}/{wnid}_boxes.txt"] = b""
        for i in range(3):
            files[f"train/{wnid}/images/{wnid}_{i}.JPEG"] = png(10 * number + i)
        files[f"val/images/val_{number}.JPEG"] = png(100 + number)
        lines.append(f"val_{number}.JPEG\t{wnid}\t0\t0\t62\t62")
    files["val/val_annotations.txt"] = "\n".join(lines).encode()
    return files


def test_tiny_imagenet_layout(pack: Pack) -> None:
    files = tiny_imagenet()
    data = load_dataset(settings(pack(files), "tiny_imagenet"))
    assert data.class_names == ("goldfish", "tailed frog", "n03")
    assert data.train.y.tolist() == [0] * 3 + [1] * 3 + [2] * 3
    assert torch.equal(data.train.take(torch.tensor([0]))[0], pixels(files["train/n01/images/n01_0.JPEG"]))
    assert torch.equal(data.test.take(torch.tensor([1]))[0], pixels(files["val/images/val_0.JPEG"]))  # n02
    assert data.mean == (0.4802, 0.4481, 0.3975)


def test_tiny_imagenet_with_val_sorted_into_classes(tmp_path: Path) -> None:
    files = {k: v for k, v in tiny_imagenet().items() if not k.startswith("val/")}
    files |= {f"val/{wnid}/{wnid}_v.JPEG": png(i) for i, wnid in enumerate(("n01", "n02", "n03"))}
    data = load_dataset(settings(zipped(tmp_path / "tiny-imagenet-200.zip", files), "tiny_imagenet"))
    assert data.class_names[0] == "goldfish"
    assert len(data.test) == 3


def sorted_val(places: str, kept: int = 0) -> Files:
    """The data set after the usual script, which leaves the annotations where they were, and `kept` images unmoved."""
    files = tiny_imagenet()
    for number, wnid in [*enumerate(("n02", "n01", "n03"))][kept:]:
        files[places.format(wnid=wnid, number=number)] = files.pop(f"val/images/val_{number}.JPEG")
    return files


@pytest.mark.parametrize("places", ["val/{wnid}/val_{number}.JPEG", "val/{wnid}/images/val_{number}.JPEG"])
def test_tiny_imagenet_sorted_by_a_script_is_the_official_one(pack: Pack, places: str) -> None:
    found = load_dataset(settings(pack(sorted_val(places)), "tiny_imagenet"))
    assert found.class_names == ("goldfish", "tailed frog", "n03")
    assert found.test.y.tolist() == [0, 1, 2]
    assert torch.equal(found.test.take(torch.tensor([1]))[0], pixels(tiny_imagenet()["val/images/val_0.JPEG"]))


def test_a_val_that_is_sorted_in_part_is_refused(pack: Pack) -> None:
    with pytest.raises(
        DataError, match=r"sorted in part: val/n0\d/val_\d\.JPEG lies in a class folder and val/images/"
    ):
        load_dataset(settings(pack(sorted_val("val/{wnid}/val_{number}.JPEG", kept=1)), "tiny_imagenet"))


def test_a_flat_val_of_imagenet_is_refused_with_the_file_that_would_help(pack: Pack) -> None:
    files = {f"train/{name}/{i}.png": png(i) for name in ("cat", "dog") for i in range(2)}
    files |= {f"val/ILSVRC2012_val_0000000{i}.png": png(i) for i in range(2)}
    with pytest.raises(DataError, match=r"lies in no class folder; .*LOC_val_solution\.csv"):
        load_dataset(settings(pack(files), "image_folder"))


def test_tiny_imagenet_is_found_in_the_data_folder_or_missed_in_one_line(tmp_path: Path) -> None:
    wish = DataSettings(dataset="tiny_imagenet", tasks=2)
    with pytest.raises(DataError) as caught:
        load_dataset(wish)
    assert f"nothing at {tmp_path / 'data'}; put the official tiny-imagenet-200.zip" in str(caught.value)
    assert "\n" not in str(caught.value)
    (tmp_path / "data").mkdir()
    zipped(tmp_path / "data" / "tiny-imagenet-200.zip", tiny_imagenet(), "tiny-imagenet-200/")
    assert load_dataset(wish).num_classes == 3


def test_annotated_image_that_is_missing_is_named(tmp_path: Path) -> None:
    files = tiny_imagenet()
    del files["val/images/val_1.JPEG"]
    with pytest.raises(DataError, match=r"val/images/val_1\.JPEG is missing"):
        load_dataset(settings(zipped(tmp_path / "set.zip", files), "tiny_imagenet"))


def imagenet() -> Files:
    files = {name.replace("test/", "val/"): data for name, data in two_classes(size=(20, 14)).items()}
    return {**files, "test/unlabelled.png": b"", "classnames.txt": b"cat Egyptian cat\ndog\n"}


def test_lazy_images_equal_eager_ones(pack: Pack) -> None:
    files = imagenet()
    root = pack(files)
    lazy = load_dataset(settings(root, "imagenet", resize=14))
    assert isinstance(lazy.train, LazyImages)
    assert lazy.class_names == ("Egyptian cat", "dog")
    eager = load_dataset(settings(pack({k: v for k, v in files.items() if k[:5] != "test/"}), resize=14))
    rows = torch.tensor([7, 0, 3, 3])
    assert torch.equal(lazy.train.take(rows), eager.train.take(rows))  # without a generator the middle is cut
    assert torch.equal(lazy.train.y, eager.train.y)
    larger = fit(Image.open(io.BytesIO(files["val/dog/1.png"])), 16, 14)  # 256/224 of 14
    assert torch.equal(lazy.test.take(torch.tensor([3]))[0], torch.from_numpy(np.array(larger)).permute(2, 0, 1))


def test_lazy_training_images_are_cut_at_random_along_the_long_side(pack: Pack) -> None:
    files = imagenet()
    lazy = load_dataset(settings(pack(files), "imagenet", resize=14)).train
    whole = pixels(files["train/cat/0.png"])  # (3, 14, 20)
    generator = torch.Generator().manual_seed(0)
    cuts = lazy.take(torch.zeros(60, dtype=torch.int64), generator)
    places = {left for cut in cuts for left in range(7) if torch.equal(cut, whole[:, :, left : left + 14])}
    assert places == set(range(7))
    assert torch.equal(cuts, lazy.take(torch.zeros(60, dtype=torch.int64), torch.Generator().manual_seed(0)))


def test_lazy_images_held_out_for_validation_are_cut_as_test_images(pack: Pack) -> None:
    files = imagenet()
    data = load_dataset(settings(pack(files), "imagenet", resize=14, validation=0.2))
    assert (len(data.train), len(data.test)) == (8, 2)
    centred = [fit(Image.open(io.BytesIO(files[f"train/cat/{i}.png"])), 16, 14) for i in range(5)]
    got = data.test.take(torch.tensor([0]), torch.Generator().manual_seed(0))[0]
    assert any(torch.equal(got, torch.from_numpy(np.array(image)).permute(2, 0, 1)) for image in centred)


def test_class_folders_may_be_links(tmp_path: Path) -> None:
    for name, data in two_classes().items():
        path = tmp_path / "store" / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_bytes(data)
    for split in ("train", "test"):
        (tmp_path / "set" / split).mkdir(parents=True)
        (tmp_path / "set" / split / "cat").symlink_to(tmp_path / "store" / split / "cat")
    assert load_dataset(settings(tmp_path / "set")).class_names == ("cat",)


def test_reading_ahead_changes_no_draw(pack: Pack) -> None:
    lazy = load_dataset(settings(pack(imagenet()), "imagenet", resize=14)).train
    batches = [torch.tensor([i, i + 1]) for i in range(6)]
    generator = torch.Generator().manual_seed(4)
    at_once = list(lazy.stream(batches, generator))
    left = torch.rand(3, generator=generator)
    generator = torch.Generator().manual_seed(4)
    one_by_one, noise = [], []
    for x in lazy.stream(batches, generator):
        one_by_one.append(x)
        noise.append(torch.rand(3, generator=generator))  # a consumer that draws in between
    assert all(torch.equal(a, b) for a, b in zip(at_once, one_by_one, strict=True))
    assert torch.equal(noise[0], left)


def test_lazy_images_read_ahead_but_never_all(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    lazy = load_dataset(settings(zipped(tmp_path / "set.zip", imagenet()), "imagenet", resize=14)).train
    read: list[str] = []
    original = Archive.read
    monkeypatch.setattr(Archive, "read", lambda self, name: read.append(name) or original(self, name))
    stream = lazy.stream(torch.tensor([i]) for i in range(10))
    next(stream)
    stream.close()  # type: ignore[attr-defined]
    assert 1 <= len(read) <= 1 + READ_AHEAD


def test_a_damaged_lazy_image_is_named(tmp_path: Path) -> None:
    root = zipped(tmp_path / "set.zip", {**imagenet(), "train/dog/1.png": b"x"})
    lazy = load_dataset(settings(root, "imagenet", resize=14)).train
    with pytest.raises(DataError, match=r"train/dog/1\.png is damaged"):
        lazy.take(torch.tensor([6]))


@pytest.mark.parametrize("size", [(20, 14), (14, 20), (33, 17), (300, 224), (17, 17)])
def test_resizing_and_cutting_equal_torchvision(size: tuple[int, int]) -> None:
    from torchvision import transforms

    image = Image.open(io.BytesIO(png(3, size)))
    for short, side in ((16, 14), (14, 14), (32, 28), (17, 12)):
        expected = transforms.CenterCrop(side)(transforms.Resize(short)(image))
        assert np.array_equal(np.asarray(fit(image, short, side)), np.asarray(expected)), (short, side)


def test_a_zip_is_closed_with_its_archive(tmp_path: Path) -> None:
    with zipfile.ZipFile(tmp_path / "set.zip", "w") as file:
        file.writestr("train/cat/1.png", "x")
    archive: Any = Archive(tmp_path / "set.zip")
    opened = archive._zip.fp
    archive.itself = archive  # only the collector finds it
    del archive
    gc.collect()
    assert opened.closed


# Transparency and orientation --------------------------------------------------------------------------


def ink(kind: str) -> bytes:
    """A black dot at the upper left of transparent paper, whose pixels are stored as black."""
    alpha = Image.new("L", (4, 4), 0)
    alpha.putpixel((0, 0), 255)
    image: Image.Image = Image.new("RGBA", (4, 4), (0, 0, 0, 0))
    image.putalpha(alpha)
    stream, options = io.BytesIO(), {}
    if kind == "LA":
        image = image.convert("LA")
    elif kind in ("P", "L", "RGB"):  # one level is transparent: ink is 10, paper 0
        image = Image.new("L", (4, 4), 0)
        image.putpixel((0, 0), 10)
        image = image.convert(kind)
        options = {"transparency": (0, 0, 0) if kind == "RGB" else 0}
    name = {"GIF": "gif", "WEBP": "webp"}.get(kind, "png")
    image.save(stream, name, **({"lossless": True} if name == "webp" else options))
    return stream.getvalue()


@pytest.mark.parametrize("kind", ["RGBA", "LA", "P", "L", "RGB", "GIF", "WEBP"])
def test_ink_on_transparent_paper_is_dark_on_white(kind: str) -> None:
    levels = np.asarray(decode(ink(kind), "x").convert("L")).astype(int)
    assert levels[0, 0] <= 10
    assert (np.delete(levels.ravel(), 0) == 255).all()


@pytest.mark.parametrize("mode", ["RGB", "L"])
def test_opaque_images_are_what_they_are(mode: str) -> None:
    data = png(3, mode=mode)
    assert np.array_equal(np.asarray(decode(data, "x")), np.asarray(Image.open(io.BytesIO(data))))


@pytest.mark.parametrize("orientation", [*range(1, 9)])
def test_an_image_is_turned_as_its_orientation_says(orientation: int) -> None:
    image = Image.open(io.BytesIO(png(5, size=(6, 4))))
    exif = Image.Exif()
    exif[0x0112] = orientation
    stream = io.BytesIO()
    image.save(stream, "png", exif=exif)
    wanted = ImageOps.exif_transpose(Image.open(io.BytesIO(stream.getvalue())))
    assert np.array_equal(np.asarray(decode(stream.getvalue(), "x")), np.asarray(wanted))
