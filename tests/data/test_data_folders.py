"""Image folders as people have them: without a test split, with empty folders and junk, in other people's layouts."""

from __future__ import annotations

import io
import json
import os
import unicodedata
import zipfile
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from command_line import Command, assert_refused
from PIL import Image
from rich.console import Console
from small_runs import play, silently, write_experiment

import fcil
from fcil.config import Where, dump, parse
from fcil.data import DataSettings, load_dataset
from fcil.data.oddities import SHOWN, oddities
from fcil.errors import ConfigError, DataError
from fcil.federation.context import Datasets
from fcil.federation.preconditions import remarks
from fcil.runs.plans import read, survey

Files = dict[str, bytes]


@pytest.fixture(autouse=True)
def _own_cache(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("FCIL_CACHE", str(tmp_path / "cache"))


def noise(number: int, size: tuple[int, int] = (8, 8)) -> bytes:
    stream = io.BytesIO()
    Image.fromarray(np.random.default_rng(number).integers(0, 256, (*size, 3), dtype=np.uint8)).save(stream, "png")
    return stream.getvalue()


def level(value: int) -> bytes:
    stream = io.BytesIO()
    Image.new("RGB", (8, 8), (value, value, value)).save(stream, "png")
    return stream.getvalue()


def images(top: str, classes: dict[str, int], start: int = 0) -> Files:
    """So many images of each class, no two alike."""
    names = [(name, i) for name, count in classes.items() for i in range(count)]
    return {f"{top}{name}/{i}.png": noise(start + number) for number, (name, i) in enumerate(names)}


def spread(folder: Path, files: Files) -> Path:
    for name, data in files.items():
        path = folder / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_bytes(data)
    return folder


def packed(path: Path, files: Files, top: str = "", folders: tuple[str, ...] = ()) -> Path:
    with zipfile.ZipFile(path, "w") as archive:
        for folder in folders:
            archive.writestr(f"{top}{folder}/", b"")
        for name, data in files.items():
            archive.writestr(top + name, data)
    return path


def settings(root: Path, **values: Any) -> DataSettings:
    return parse(DataSettings, {"dataset": "image_folder", "root": str(root), "tasks": 2, **values}, Where("x", "data"))


# A share of the images for tests ---------------------------------------------------------------------


COUNTS = {"ant": 20, "bee": 10, "cow": 2}


def pixels(dataset: Any, split: str) -> set[bytes]:
    held = getattr(dataset, split)
    return {image.numpy().tobytes() for image in held.take(torch.arange(len(held)))}


def test_a_share_of_every_class_tests_and_the_rest_trains(tmp_path: Path) -> None:
    root = spread(tmp_path / "set", images("train/", COUNTS))
    data = load_dataset(settings(root, test_share=0.2))
    assert torch.bincount(data.test.y).tolist() == [4, 2, 1]
    assert torch.bincount(data.train.y).tolist() == [16, 8, 1]
    assert not pixels(data, "train") & pixels(data, "test")
    whole = load_dataset(settings(spread(root, images("test/", COUNTS, 500))))
    assert pixels(data, "train") | pixels(data, "test") == pixels(whole, "train")


def test_the_same_images_test_wherever_and_in_whatever_order_they_lie(tmp_path: Path) -> None:
    below = images("", COUNTS)
    first = load_dataset(settings(spread(tmp_path / "a", below), test_share=0.3))
    turned = dict(reversed(below.items()))
    places = [
        packed(tmp_path / "plain.zip", turned),
        packed(tmp_path / "wrapped.zip", turned, "animals/"),
        spread(tmp_path / "b", {f"train/{name}": data for name, data in turned.items()}),
        packed(tmp_path / "train.zip", {f"animals/train/{name}": data for name, data in turned.items()}),
        spread(tmp_path / "c" / "animals", turned).parent,
    ]
    for place in places:
        again = load_dataset(settings(place, test_share=0.3))
        assert pixels(again, "test") == pixels(first, "test"), place
        assert again.class_names == ("ant", "bee", "cow")
    more = load_dataset(settings(spread(tmp_path / "a", images("", {"dog": 9}, 900)), test_share=0.3))
    assert pixels(first, "test") < pixels(more, "test")  # another class moves none
    other = load_dataset(settings(tmp_path / "b", test_share={"share": 0.3, "seed": 1}))
    assert pixels(other, "test") != pixels(first, "test")


def test_a_name_is_the_same_however_its_letters_are_composed(tmp_path: Path) -> None:
    names = [f"é{i}/ä.png" for i in range(2)] + [f"é{i}/ö{k}.png" for i in range(2) for k in range(9)]
    found = []
    for form in ("NFC", "NFD"):
        files = {unicodedata.normalize(form, name): noise(number) for number, name in enumerate(names)}
        found.append(pixels(load_dataset(settings(packed(tmp_path / f"{form}.zip", files), test_share=0.5)), "test"))
    assert found[0] == found[1]


def test_the_share_is_in_the_record_the_hash_and_the_introduction(tmp_path: Path, command: Command) -> None:
    root = spread(tmp_path / "set", images("", {"ant": 20, "bee": 20}))
    base = {"dataset": "image_folder", "root": str(root), "tasks": 2}
    source = write_experiment(tmp_path, data={**base, "test_share": 0.2}, federation={"rounds": 1})
    console = Console(file=io.StringIO(), width=300)
    with silently():
        (run,) = fcil.run(source, out=tmp_path / "out", console=console)
    said = "data.test_share: 0.2 of every class, 8 images in all, are taken for tests (seed 0); 32 are left"
    assert said in console.file.getvalue()  # type: ignore[attr-defined]
    assert said in command("show", source).out.replace("\n", " ")
    assert json.loads((run.path / "partition.json").read_text())["test_share"] == {"share": 0.2, "seed": 0}
    assert sum(row.examples for row in run.rows if row.trained_task == 2) == 8
    shares = (0.2, 0.5, {"share": 0.2, "seed": 3})
    plans = [read(write_experiment(tmp_path, data={**base, "test_share": share}))[0].plans()[0] for share in shares]
    assert len({plan.variant for plan in plans}) == 3
    assert [dump(plan.data)["test_share"] for plan in plans] == list(shares)
    assert "test_share" not in dump(settings(root))
    for seed in (0, 1):  # of runs
        again = write_experiment(tmp_path, data={**base, "test_share": 0.2, "order": "seed"}, seeds=[seed])
        (context,) = survey(again)
        assert pixels(context.scenario.dataset, "test") == pixels(load_dataset(settings(root, test_share=0.2)), "test")


@pytest.mark.parametrize(
    ("files", "values", "said"),
    [
        (images("train/", COUNTS), {}, "no images under test/<class>/ (found: train); data.test_share: 0.2 takes a"),
        (images("", COUNTS), {}, "(found: ant, bee, cow); if these are class folders, data.test_share: 0.2 reads them"),
        (
            images("train/", COUNTS) | images("val/", COUNTS),
            {"test_share": 0.2},
            "has a test split, val/; leave data.test_share out",
        ),
        (images("", {"ant": 3, "bee": 1}), {"test_share": 0.2}, 'class "bee" has a single image; none can be taken'),
        ({"a.png": noise(1)}, {"test_share": 0.2}, "a.png lies in no class folder; expected <class>/<image>"),
        ({"a.txt": b"", "b.txt": b""}, {"test_share": 0.2}, "no images under <class>/ (found: a.txt, b.txt)"),
    ],
)
def test_what_a_share_cannot_be_taken_of_is_refused(
    tmp_path: Path, files: Files, values: dict[str, Any], said: str
) -> None:
    for place in (spread(tmp_path / "set", files), packed(tmp_path / "set.zip", files)):
        with pytest.raises(DataError) as refused:
            load_dataset(settings(place, **values))
        assert said in str(refused.value)


@pytest.mark.parametrize("share", [0, 1, -0.1, 20, True, "some", None, {"share": 0.2, "sede": 1}])
def test_a_share_is_between_nothing_and_all(tmp_path: Path, share: Any) -> None:
    if share is None:
        assert settings(tmp_path, test_share=None).test_share is None
        return
    with pytest.raises(ConfigError, match=r"data\.test_share"):
        settings(tmp_path, test_share=share)
    with pytest.raises(ConfigError, match="applies to image_folder and imagenet_r; digits has test images of its own"):
        parse(DataSettings, {"dataset": "digits", "tasks": 2, "test_share": 0.2}, Where("x", "data"))


def test_a_test_folder_without_labels_is_no_test_split(tmp_path: Path) -> None:
    files = images("train/", COUNTS) | {f"test/{i}.png": noise(700 + i) for i in range(3)}
    assert len(load_dataset(settings(spread(tmp_path / "set", files), test_share=0.2)).test) == 7


# What is not read ----------------------------------------------------------------------------------


def both(classes: dict[str, int]) -> Files:
    return images("train/", classes) | images("test/", classes, 500)


def test_what_systems_leave_between_images_is_not_read(tmp_path: Path) -> None:
    files = both({"ant": 3, "bee": 3})
    junk = ("__MACOSX/train/ant/._0.png", "train/ant/._0.png", "train/ant/@eaDir/0.png/SYNOFILE_THUMB_M.png",
            "Thumbs.db", "desktop.ini", "train/.DS_Store", "$RECYCLE.BIN/x.png", "test/@eaDir/ant.png")  # fmt: skip
    files |= dict.fromkeys(junk, noise(999))
    wrapped = {f"pets/{name}": data for name, data in files.items()} | {"Thumbs.db": b"", ".DS_Store": b""}
    for place in (
        spread(tmp_path / "set", files),
        packed(tmp_path / "a.zip", files),
        packed(tmp_path / "b.zip", wrapped),
    ):
        data = load_dataset(settings(place))
        assert (data.class_names, len(data.train), len(data.test)) == (("ant", "bee"), 6, 6)
        assert oddities(data) == []


def test_an_empty_class_folder_gets_a_word(tmp_path: Path) -> None:
    files = both({"ant": 3, "bee": 3}) | {"train/fox/notes.txt": b"", "train/ant/list.txt": b""}
    root = spread(tmp_path / "set", files)
    for name in ("train/cow", "test/cow", "train/dog/images"):
        (root / name).mkdir(parents=True)
    zipped = packed(tmp_path / "set.zip", files, folders=("train", "train/cow", "test/cow", "train/dog/images"))
    for place in (root, zipped, packed(tmp_path / "w.zip", files, "p/", ("train/cow", "test/cow", "train/dog"))):
        data = load_dataset(settings(place))
        assert data.class_names == ("ant", "bee")
        assert oddities(data) == [
            'class folders "test/cow", "train/cow", "train/dog" and 1 more hold no image and are left out'
        ]
    top = spread(tmp_path / "top", images("", {"ant": 3, "bee": 3}))
    (top / "cow").mkdir()
    assert oddities(load_dataset(settings(top, test_share=0.4))) == [
        'class folder "cow" holds no image and is left out'
    ]


def test_files_of_kinds_that_are_not_read_get_a_word(tmp_path: Path) -> None:
    files = both({"ant": 3, "bee": 3}) | {"train/ant/x.HEIC": b"", "train/ant/y.avif": b""}
    (line,) = oddities(load_dataset(settings(spread(tmp_path / "set", files))))
    assert line == "2 files are left out, of kinds that are not read (.avif, .heic): train/ant/x.HEIC"


def test_class_folders_that_look_the_same_get_a_word_or_are_refused_by_name(tmp_path: Path) -> None:
    (line,) = oddities(load_dataset(settings(packed(tmp_path / "a.zip", both({"Cat": 2, "cat": 2, "dog": 2})))))
    assert line == 'class folders "Cat", "cat" differ in case or in how letters are composed alone'
    cases = {"Cat": ("cat", 'and "cat"; give both one name'), "Caf\u00e9": ("Cafe\u0301", "Unicode NFC and NFD")}
    for number, (name, (other, said)) in enumerate(cases.items()):
        files = images("train/", {name: 2, "dog": 2}) | images("test/", {other: 2, "dog": 2}, 500)
        with pytest.raises(DataError, match=said):
            load_dataset(settings(packed(tmp_path / f"{number}.zip", files)))


# Images of which nothing can be learnt -----------------------------------------------------------------


def test_a_class_of_one_colour_and_a_class_of_one_image_get_a_word(tmp_path: Path) -> None:
    files = both({"ant": 5, "bee": 5, "cow": 5})
    files |= {f"train/bee/{i}.png": level(40 * i) for i in range(5)}
    files |= {f"test/cow/{i}.png": noise(93) for i in range(5)}
    source = {"dataset": "image_folder", "root": str(spread(tmp_path / "set", files)), "tasks": 3}
    (plan,) = read(write_experiment(tmp_path, data=source))[0].plans()
    place = f"data.root: {source['root']}: "
    assert remarks(Datasets().open(plan)) == [
        f'{place}all training images of class "bee" have a single colour; '
        "what is transparent lies on white (data.transparency)",
        f'{place}all test images of class "cow" are the same image',
    ]
    files |= {f"train/bee/{i}.png": level(40) for i in range(4)}  # and one that has two
    assert (
        len(oddities(load_dataset(settings(spread(tmp_path / "other", {**files, "train/bee/4.png": noise(9)}))))) == 1
    )


def test_a_single_class_gets_a_word(tmp_path: Path) -> None:
    files = {f"{split}/bee/{i}.png": noise(i) for i, split in enumerate(("train", "train", "test", "test"))}
    data = load_dataset(settings(spread(tmp_path / "set", files), tasks=1))
    assert oddities(data) == ['"bee" is the only class; every net is right on all of it']


def test_names_in_a_line_are_bounded(tmp_path: Path) -> None:
    names = {f"c{number:02d}": 2 for number in range(20)}
    files = both(names) | {
        f"train/{name}/{i}.png": level(number) for number, name in enumerate(names) for i in range(2)
    }
    files["train/c19/0.png"] = noise(1)
    (line,) = oddities(load_dataset(settings(packed(tmp_path / "a.zip", files))))
    assert line == f'all training images of classes "c00", "c01", "c02" and {19 - SHOWN} more have a single colour'


def test_of_most_sets_two_images_a_class_are_looked_at(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    root = packed(tmp_path / "a.zip", {n.replace("test/", "val/"): d for n, d in both({"ant": 30, "bee": 30}).items()})
    data = load_dataset(settings(root, dataset="imagenet", resize=8))
    read_names: list[str] = []
    original = type(data.source).read  # type: ignore[type-abstract]
    monkeypatch.setattr(type(data.source), "read", lambda self, name: read_names.append(name) or original(self, name))
    assert oddities(data) == []
    assert len(read_names) == 8


# Before anything is decoded --------------------------------------------------------------------------


def test_doctor_and_dry_run_open_the_listing_and_write_nothing(tmp_path: Path, command: Command) -> None:
    files = both({"ant": 9, "bee": 9, "cow": 9}) | {f"train/cow/{i}.png": level(7) for i in range(9)}
    root = spread(tmp_path / "set", files)
    (root / "train" / "dog").mkdir()
    chosen = {"dataset": "image_folder", "root": str(root), "tasks": 2, "per_class": 5}
    source = write_experiment(Path("."), data=chosen)
    before = sorted(Path().rglob("*"))
    found = {row["what"]: row for row in json.loads(command("doctor", source, "--json").out)}
    assert found["data: image_folder"]["found"] == (
        "at hand: 15 training and 27 test images, 2 tasks; 3 classes, 8 x 8, colour"
    )
    told = [row["found"] for row in json.loads(command("doctor", source, "--json").out) if row["state"] == "warn"]
    assert any('all training images of class "cow" have a single colour' in line for line in told)
    assert any('class folder "train/dog" holds no image' in line for line in told)
    assert "time in all" in found
    ahead = json.loads(command("run", source, "--dry-run", "--json").out)
    assert ahead["runs"][0]["rounds"] == 4
    assert ahead["runs"][0]["basis"] == "one step"
    assert not (tmp_path / "cache").exists()
    assert sorted(Path().rglob("*")) == before
    (run,) = play(source, "federation.rounds=1", out=tmp_path / "out")  # the look leaves nothing behind in the process
    assert run.finished
    assert (tmp_path / "cache").exists()


def test_copies_are_left_out_when_images_are_decoded_and_a_look_does_not_seek_them(
    tmp_path: Path, command: Command
) -> None:
    files = both({"ant": 3, "bee": 3})
    files["test/ant/0.png"] = files["train/ant/0.png"]
    root = spread(tmp_path / "set", files)
    source = write_experiment(
        Path("."), data={"dataset": "image_folder", "root": str(root), "tasks": 2, "test_copies": "drop"}
    )
    assert command("run", source, "--dry-run").code == 0
    looked = load_dataset(settings(root, test_copies="drop"), look=True)
    assert (looked.copies, looked.train.in_memory) == (None, False)
    decoded = load_dataset(settings(root, test_copies="drop"))
    assert decoded.copies is not None
    assert decoded.copies.tolist() == [0]


def test_a_folder_that_cannot_be_read_fails_at_the_doctor_and_in_a_dry_run(tmp_path: Path, command: Command) -> None:
    root = spread(tmp_path / "set", images("train/", COUNTS))
    source = write_experiment(Path("."), data={"dataset": "image_folder", "root": str(root), "tasks": 2})
    said = command("doctor", source, "--json")
    found = {row["what"]: row for row in json.loads(said.out)}["data: image_folder"]
    assert (said.code, found["state"]) == (1, "fail")
    assert "data.test_share: 0.2" in found["found"]
    assert_refused(command("run", source, "--dry-run"), "tiny.yaml: data: ", "data.test_share: 0.2")


@pytest.mark.parametrize("more", [{}, {"resize": 4}, {"per_class": 3}, {"validation": 0.2}])
def test_a_look_finds_what_decoding_finds(tmp_path: Path, more: dict[str, Any]) -> None:
    root = packed(tmp_path / "a.zip", both({"ant": 9, "bee": 9}))
    looked, decoded = (load_dataset(settings(root, **more), look=look) for look in (True, False))
    assert looked.shape == decoded.shape
    assert looked.class_names == decoded.class_names
    for split in ("train", "test"):
        assert torch.equal(getattr(looked, split).y, getattr(decoded, split).y)
        assert pixels(looked, split) == pixels(decoded, split)
    assert not looked.train.in_memory
    assert load_dataset(settings(root, **more), look=True).train.in_memory  # it has been decoded meanwhile


# Other people's layouts ------------------------------------------------------------------------------


@pytest.mark.parametrize("kind", ["folder", "zip"])
@pytest.mark.parametrize("dataset", ["imagenet", "imagenet100", "image_folder"])
def test_kaggles_archive_is_refused_with_the_folder_and_the_file_that_help(
    tmp_path: Path, kind: str, dataset: str
) -> None:
    inner = images("ILSVRC/Data/CLS-LOC/train/", {"n01": 2}) | {"ILSVRC/Data/CLS-LOC/val/ILSVRC2012_val_1.JPEG": b"x"}
    for files in (inner | {"LOC_val_solution.csv": b"", "LOC_synset_mapping.txt": b""}, inner):
        name = f"{len(files)}"
        place = spread(tmp_path / name, files) if kind == "folder" else packed(tmp_path / f"{name}.zip", files)
        with pytest.raises(DataError) as refused:
            load_dataset(settings(place, dataset=dataset))
        assert "this is Kaggle's archive: unpack it, set data.root to " in str(refused.value)
        assert "Data/CLS-LOC" in str(refused.value)
        assert "LOC_val_solution.csv" in str(refused.value)


def test_tiny_imagenet_under_the_wrong_name_is_told(tmp_path: Path) -> None:
    files = images("train/", {"n01": 2}) | {
        "val/images/val_0.JPEG": noise(1),
        "val/val_annotations.txt": b"val_0.JPEG n01",
    }
    with pytest.raises(DataError, match=r"this is Tiny-ImageNet as it is published: say data.dataset: tiny_imagenet"):
        load_dataset(settings(spread(tmp_path / "set", files)))


def test_a_root_that_is_one_folder_too_deep_is_told(tmp_path: Path) -> None:
    spread(tmp_path / "set", both({"ant": 2, "bee": 2}))
    with pytest.raises(DataError, match=r"data\.root is one folder too deep, the splits lie in .*set"):
        load_dataset(settings(tmp_path / "set" / "train"))


def test_a_val_sorted_against_its_annotations_is_refused(tmp_path: Path) -> None:
    files = images("train/", {"n01": 2, "n02": 2})
    files |= {"val/n01/val_0.JPEG": noise(91), "val/n02/images/val_1.JPEG": noise(92)}
    right, wrong = b"val_0.JPEG\tn01\t0\nval_1.JPEG\tn02\t0\n", b"val_0.JPEG\tn01\t0\nval_1.JPEG\tn01\t0\n"
    place = spread(tmp_path / "set", {**files, "val/val_annotations.txt": right})
    os.makedirs(place / "val" / "images")
    data = load_dataset(settings(place, dataset="tiny_imagenet"))
    assert len(data.test) == 2
    assert oddities(data) == []  # the empty folder that scripts leave behind
    place = spread(tmp_path / "other", {**files, "val/val_annotations.txt": wrong})
    with pytest.raises(DataError, match=r"val/n02/images/val_1\.JPEG is of class n01 in val_annotations\.txt"):
        load_dataset(settings(place, dataset="tiny_imagenet"))
