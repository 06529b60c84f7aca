"""What a stranger may hand over: experiments, names, anchors, images, run folders and arrays that are made to hurt.

Each is refused in one line that names it, quickly and in little memory; nothing of it is executed.
"""

from __future__ import annotations

import io
import json
import os
import re
import shutil
import stat
import struct
import subprocess
import sys
import time
import tracemalloc
import zipfile
import zlib
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import fields
from itertools import pairwise
from pathlib import Path
from types import SimpleNamespace
from typing import Any, get_args, get_type_hints

import numpy as np
import pytest
import torch
from flwr.app import Array, ArrayRecord, ConfigRecord
from PIL import Image
from run_folders import make_run
from safetensors.torch import save_file
from small_runs import write_experiment

from fcil.anchors import AnchorSettings, load_anchors, read_names
from fcil.anchors.tables import FORMAT
from fcil.cli import main
from fcil.config import MAX_BYTES, MAX_DEPTH, Where, load_yaml, parse_fields, parse_yaml
from fcil.data import DATASETS, DataSettings, load_dataset
from fcil.data.files import decode as decode_module
from fcil.data.files.archives import MAX_MEMBER_BYTES, Archive
from fcil.data.sources import _from_torchvision
from fcil.errors import LONGEST, ConfigError, DataError, FCILError, StoreError, UserError
from fcil.experiment import resume
from fcil.federation.codec import from_records, to_arrays, to_records, to_tensors
from fcil.federation.settings import FederationSettings, Resources
from fcil.io.state import flatten, unflatten
from fcil.nets import NetSettings
from fcil.optimizer import OptimizerSettings
from fcil.plots import draw_run
from fcil.plots.look.style import png
from fcil.plots.run import forgetting_figure, rounds_figure, synthetic_figure
from fcil.runs.plans import planned, read, survey
from fcil.store import RunFolder, find_runs, load, load_run
from fcil.store.groups import split_label
from fcil.synthesis.nayer import NAYER

HERE = Where("exp.yaml")


@contextmanager
def refused(kind: type[UserError], *parts: str, seconds: float = 30.0) -> Iterator[None]:
    """The block ends in an error of this kind: one printable line of bounded length that holds `parts`."""
    began = time.monotonic()
    with pytest.raises(kind) as caught:
        yield
    assert time.monotonic() - began < seconds
    said = str(caught.value)
    assert said.isprintable()
    assert len(said) < 2 * LONGEST
    for part in parts:
        assert part in said


@contextmanager
def within(mebibytes: float) -> Iterator[None]:
    """The block sets no more memory aside."""
    tracemalloc.start()
    try:
        yield
        assert tracemalloc.get_traced_memory()[1] < mebibytes * 2**20
    finally:
        tracemalloc.stop()


def put(path: Path, kind: str) -> Path:
    """Something at `path` that is no file."""
    path.unlink(missing_ok=True)
    if kind == "folder":
        path.mkdir()
    elif kind == "pipe":
        os.mkfifo(path)
    else:
        path.symlink_to({"loop": path, "device": Path("/dev/zero"), "nowhere": path.parent / "nothing"}[kind])
    return path


NO_FILES = ["folder", "pipe", "loop", "device", "nowhere"]


# Experiments ----------------------------------------------------------------------------------------


def laughs(bottom: str, row: str) -> str:
    """Ten lines that stand for a billion values."""
    names = "abcdefghij"
    lines = [f"a: &a {bottom}"]
    lines += [f"{name}: &{name} {row.format(','.join([f'*{before}'] * 9))}" for before, name in pairwise(names)]
    return "\n".join(lines)


@pytest.mark.parametrize(
    ("text", "said"),
    [
        (laughs("[x, x, x]", "[{}]"), "more than 100,000 values, counted with what aliases stand for"),
        (laughs("{k: 1, l: 2}", "{{<<: [{}]}}"), "more than 100,000 values"),
        ("a: &a [*a]", "at line 1, column 8: found an alias within what it stands for"),
        ("a: &a {<<: *a}", "found an alias within what it stands for"),
        ("- " * 1000 + "x", "nested too deeply"),
        ("{a: " * 1000, "nested too deeply"),
        ("a: " + "1" * 100_000, '"11111111111111111111" is no int of at most 100 characters'),
        ("a: " + ":".join(["59"] * 5000), "is no int"),
        ("a: !!int many", 'at line 1, column 4: "many" is no int'),
        ("a: !!int ''", '"" is no int'),
        ("a: !!bool perhaps", '"perhaps" is no bool'),
        ("a: !!float x", '"x" is no float'),
        ("1: x", 'at line 1, column 1: key "1" is not text; put it in quotes'),
        ("yes: x", 'key "yes" is not text'),
        ("~: x", 'key "~" is not text'),
        ("a: {<<: *b}", "found undefined alias"),
        ("<<: 1", "expected a mapping"),
        ("<<: {a: 1}\n<<: {b: 1}", 'key "<<" is given twice'),
        ('a: "\\0"', "the text holds the control character U+0000"),
        ('a: "\\e[2J"', "U+001B"),
        ('a: "\\ud800"', "U+D800"),
        ('"a\\b": 1', "U+0008"),
        ('a: "\\U00110000"', "not valid YAML"),
        ("%YAML 1." + "9" * 5000 + "\n---\na: 1", "not valid YAML"),
        ("a: !!set {b}", "could not determine a constructor for the tag"),
        ("a: !!binary aaaa", "could not determine a constructor"),
        ("a: !!timestamp 2024-99-99", "could not determine a constructor"),
        ("a: !!omap [b: 1]", "could not determine a constructor"),
        ("a: !!python/name:os.system x", "could not determine a constructor"),
        ("a: !<tag:yaml.org,2002:python/object/new:os.system> [x]", "could not determine a constructor"),
        ("a: 1\n---\nb: 2", "another document"),
        ("a: \0", "unacceptable character"),
    ],
    ids=lambda value: value[:20],
)
def test_hostile_yaml_is_refused_at_once(text: str, said: str) -> None:
    with refused(ConfigError, "exp.yaml: not valid YAML", said):
        parse_yaml(text, "exp.yaml")


def test_values_are_counted_as_they_come(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("fcil.config.yaml.MAX_NODES", 100)
    assert len(parse_yaml("a: [" + "1, " * 97 + "]", "x")["a"]) == 97
    with refused(ConfigError, "x: not valid YAML at line 1, column 302: more than 100 values"):
        parse_yaml("a: [" + "1, " * 10**5, "x")


def test_what_looks_odd_but_is_plain_yaml_is_read() -> None:
    assert parse_yaml("a: 2024-01-01\nb: =\n'1': é\n", "x") == {"a": "2024-01-01", "b": "=", "1": "é"}
    assert parse_yaml("a: &a {x: 1}\nb: {c: {<<: *a}}\nd: {<<: *a, x: 2}", "x")["d"] == {"x": 2}
    assert parse_yaml("t: {b: &b {<<: &a {x: 1}, x: 2}}\nc: {<<: *b}", "x")["c"] == {"x": 2}
    assert parse_yaml("[" * MAX_DEPTH + "]" * MAX_DEPTH, "x")


def test_a_file_is_measured_before_it_is_read(tmp_path: Path) -> None:
    path = tmp_path / "exp.yaml"
    with path.open("wb") as file:
        file.truncate(2**40)  # holes: a terabyte that takes no room
    with refused(ConfigError, str(path), "1,099,511,627,776 bytes are more than the 1,048,576 allowed"), within(1):
        load_yaml(path)
    path.write_bytes(b"#" * (MAX_BYTES + 1))
    with refused(ConfigError, "1,048,577 bytes"):
        load_yaml(path)


@pytest.mark.parametrize("kind", NO_FILES)
def test_an_experiment_that_is_no_file_is_refused(tmp_path: Path, kind: str) -> None:
    with refused(ConfigError, f"{tmp_path / 'exp.yaml'}: cannot be read ("):
        load_yaml(put(tmp_path / "exp.yaml", kind))


@pytest.mark.parametrize(
    ("data", "said"),
    [
        ("a: 1".encode("utf-16"), "not UTF-8 text at byte 0"),
        ("a: 1".encode("utf-32"), "not UTF-8 text at byte 0"),
        (b"a: \xed\xa0\x80", "not UTF-8 text at byte 3"),
        (b"a: 1\0", "unacceptable character"),
        (b"a: 1\n\tb: 2", "at line 2, column 1"),
    ],
)
def test_a_file_in_another_encoding_is_refused(tmp_path: Path, data: bytes, said: str) -> None:
    (tmp_path / "exp.yaml").write_bytes(data)
    with refused(ConfigError, str(tmp_path / "exp.yaml"), said):
        load_yaml(tmp_path / "exp.yaml")


def test_a_byte_order_mark_and_carriage_returns_are_harmless(tmp_path: Path) -> None:
    (tmp_path / "exp.yaml").write_bytes(b"\xef\xbb\xbfa: 1\r\nb: 2\r\n")
    assert load_yaml(tmp_path / "exp.yaml") == {"a": 1, "b": 2}


def number_fields() -> Iterator[tuple[type, str]]:
    for cls in (DataSettings, FederationSettings, OptimizerSettings, Resources, NetSettings, NAYER):
        hints = get_type_hints(cls)
        yield from ((cls, f.name) for f in fields(cls) if {int, float} & {hints[f.name], *get_args(hints[f.name])})


@pytest.mark.parametrize("value", [float("nan"), float("inf"), -float("inf")])
@pytest.mark.parametrize(("cls", "name"), [*number_fields()], ids=lambda v: v if isinstance(v, str) else "")
def test_no_setting_takes_what_is_no_number(cls: type, name: str, value: float) -> None:
    raw = {"dataset": "digits", "tasks": 2} if cls is DataSettings else {}
    with refused(ConfigError, f"exp.yaml: {name}: {value} is not allowed"):
        parse_fields(cls, {**raw, name: value}, HERE)


@pytest.mark.parametrize(
    ("parts", "said"),
    [
        ({"federation": {"clients": 10**12}}, "data: task 1: more clients than samples"),
        ({"data": {"partition": {"shards": 10**12}}}, "most of which would be empty"),
        ({"data": {"partition": {"classes": 10**30}}}, "partition gives every client"),
        ({"data": {"tasks": 10**30}}, "but there are only 10 classes"),
        ({"data": {"tasks": None, "base": 10**30, "increment": 1}}, "but there are only 10 classes"),
        ({"data": {"order": 10**30}}, "it must be from 0 to 4294967295"),
        ({"data": {"dataset": "image_folder", "root": "x", "resize": 10**6}}, "less than or equal to 4096"),
        ({"net": {"width": 10**9}}, "net.width: 1000000000 is not allowed; it should be less than or equal to 512"),
        ({"seeds": [10**20]}, "seeds: 100000000000000000000 is not allowed; expected at most 18 digits"),
        ({"seeds": [*range(101)]}, "seeds: makes 101 runs; at most 100 are allowed"),
        ({"matrix": {f"data.x{k}": [*range(10)] for k in range(30)}}, "matrix: makes 1,000,000,000,000"),
        ({"matrix": {".".join("a" * 5000): [1]}}, "more than 50 parts"),
        ({"name": "x" * 300}, "it names a folder"),
        ({"name": "a\nb"}, "it names a folder"),
        ({"name": "\u202egnp.x"}, "\\u202egnp.x"),
        ({"name": "a\\b"}, "it names a folder"),
        ({"data": {"dataset": "image_folder", "root": "x" * 300}}, "no such folder or zip"),
        ({"data": {"dataset": "image_folder", "root": "~nobody/x"}}, "no such folder or zip"),
        ({"strategy": "x" * 300 + ".py"}, "no strategy file"),
        ({"anchors": {"template": "{}" + "x" * 5000}}, "template: has 5002 characters; at most 1000"),
    ],
    ids=lambda value: str(value)[:30],
)
def test_absurd_settings_are_refused_before_memory_is_set_aside(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, parts: dict[str, Any], said: str
) -> None:
    monkeypatch.setenv("FCIL_CACHE", str(tmp_path / "cache"))
    monkeypatch.setattr("fcil.runs.plans.MAX_RUNS", 100)
    with refused(ConfigError, str(tmp_path / "tiny.yaml"), said) if "no such" not in said else refused(DataError, said):
        list(survey(write_experiment(tmp_path, **parts)))


def test_long_lists_of_classes_are_checked_in_time() -> None:
    with refused(ConfigError, "exp.yaml: tasks: class 1 is given twice"):
        parse_fields(DataSettings, {"dataset": "digits", "tasks": [[1] * 50_000, [2] * 40_000]}, HERE)


def test_absurd_lengths_of_training_take_no_memory_to_begin(tmp_path: Path) -> None:
    many = {"rounds": 10**30, "local_epochs": 10**30, "batch_size": 10**30}
    path = write_experiment(tmp_path, federation=many)
    assert [context.plan.federation.rounds for context in survey(path)] == [10**30]


@pytest.mark.parametrize("text", [".".join("a" * 5000) + "=1", "a" * 10**5, "data.tasks=" + "[" * 5000, "data.x=\x1b"])
def test_absurd_overrides_are_refused(tmp_path: Path, text: str) -> None:
    with refused(ConfigError, "override"):
        read(write_experiment(tmp_path), [text])


def test_a_strategy_that_is_no_file_is_not_waited_for(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    put(tmp_path / "own.py", "pipe")
    with refused(ConfigError, 'no strategy file "./own.py"'):
        read(write_experiment(tmp_path, strategy="./own.py"))


def test_an_error_is_one_printable_line_whatever_it_quotes() -> None:
    said = str(FCILError("a\n\tb \x1b[2J \u202e \ud800 é" + "x" * 10**6 + "end"))
    assert said.startswith("a b \\x1b[2J \\u202e \\ud800 é")
    assert said.isprintable()
    assert len(said) < 2 * LONGEST


# Names and anchors ----------------------------------------------------------------------------------


@pytest.mark.parametrize("kind", NO_FILES)
def test_a_list_of_names_that_is_no_file_is_refused(tmp_path: Path, kind: str) -> None:
    with refused(DataError, f"{tmp_path / 'names'}: cannot be read ("):
        read_names(put(tmp_path / "names", kind))


def test_a_list_of_names_is_measured_before_it_is_read(tmp_path: Path) -> None:
    with (tmp_path / "names").open("wb") as file:
        file.truncate(2**40)
    with refused(DataError, "more than the 80,000,000 allowed"), within(1):
        read_names(tmp_path / "names")


def table(header: dict[str, Any], data: bytes = b"\0" * 24, length: int | None = None) -> bytes:
    """A safetensors file by hand."""
    text = json.dumps(header).encode()
    return struct.pack("<Q", len(text) if length is None else length) + text + data


def anchors(
    dtype: str = "F32", shape: Any = (2, 3), offsets: Any = (0, 24), names: str = '["a", "b"]', data: bytes = b"\0" * 24
) -> bytes:
    about = {"dtype": dtype, "shape": list(shape), "data_offsets": list(offsets)}
    return table({"__metadata__": {"format": FORMAT, "names": names}, "anchors": about}, data)


def npy(array: Any, pickled: bool = False) -> bytes:
    stream = io.BytesIO()
    np.save(stream, array, allow_pickle=pickled)
    return stream.getvalue()


@pytest.mark.parametrize(
    ("data", "said"),
    [
        (table({}, length=2**60), "cannot be read"),
        (table({}, length=2**63), "cannot be read"),
        (table({}, length=99_999_999), "cannot be read"),
        (anchors(shape=(10**12, 3)), "cannot be read"),
        (anchors(shape=(2**62, 2**62)), "cannot be read"),
        (anchors(shape=(2, 4)), "cannot be read"),
        (anchors(offsets=(0, 2**60)), "cannot be read"),
        (anchors(offsets=(24, 0)), "cannot be read"),
        (anchors(offsets=(-1, 23)), "cannot be read"),
        (anchors(dtype="OBJECT"), "cannot be read"),
        (anchors("F8_E4M3", (2, 3), (0, 6), data=b"\0" * 6), "2 names, but vectors of shape (2, 3) and type float8"),
        (anchors("I32"), "and type int32"),
        (anchors("BOOL", (2, 3), (0, 6), data=b"\0" * 6), "and type bool"),
        (anchors(shape=(2, 0), offsets=(0, 0), data=b""), "vectors of shape (2, 0)"),
        (anchors(shape=(2, 3, 1)), "vectors of shape (2, 3, 1)"),
        (anchors(shape=(6,)), "vectors of shape (6,)"),
        (anchors(names='["a"]'), "1 names, but vectors of shape (2, 3)"),
        (anchors(names="[" * 100_000), "cannot be read"),
        (anchors(names="{}"), "not a list of text"),
        (anchors(names="[1, 2]"), "not a list of text"),
        (anchors(data=b"\0\0\xc0\x7f" * 6), "not finite"),
        (anchors("F64", offsets=(0, 48), data=struct.pack("<6d", *[1e300] * 6)), "not finite"),
        (b"", "cannot be read"),
        (b"\0" * 7, "cannot be read"),
        (anchors()[:-1], "cannot be read"),
        (npy(np.zeros((2, 3))), "cannot be read"),
        (npy(np.array([{}, []], dtype=object), pickled=True), "cannot be read"),
    ],
    ids=range(27),
)
def test_an_anchor_file_that_lies_is_refused(tmp_path: Path, data: bytes, said: str) -> None:
    path = tmp_path / "anchors.safetensors"
    path.write_bytes(data)
    with refused(DataError, str(path), said), within(8):
        load_anchors(AnchorSettings(file=str(path), scale="raw"), ["a", "b"])


def test_an_anchor_file_may_not_fill_the_memory(tmp_path: Path) -> None:
    path = tmp_path / "anchors.safetensors"
    size = 2**34
    path.write_bytes(anchors(shape=(2, size // 8), offsets=(0, size), data=b""))
    with path.open("r+b") as file:
        file.truncate(path.stat().st_size + size)
    with refused(DataError, str(path), "more than the 1,073,741,824 allowed"):
        load_anchors(AnchorSettings(file=str(path)), ["a", "b"])


@pytest.mark.parametrize("kind", NO_FILES)
def test_an_anchor_file_that_is_no_file_is_refused(tmp_path: Path, kind: str) -> None:
    path = put(tmp_path / "anchors", kind)
    with refused(DataError, f'no anchor file "{path}"'):
        load_anchors(AnchorSettings(file=str(path)), ["a"])


@pytest.mark.parametrize("path", ["x" * 5000, "~nobody/x"])
def test_an_anchor_file_with_an_impossible_name_is_refused(path: str) -> None:
    with refused(DataError, "no anchor file"):
        load_anchors(AnchorSettings(file=path), ["a"])


# Images ---------------------------------------------------------------------------------------------


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


def zipped(path: Path, files: dict[str, bytes], kind: int = zipfile.ZIP_DEFLATED) -> Path:
    with zipfile.ZipFile(path, "w", kind) as archive:
        for name, data in files.items():
            archive.writestr(zipfile.ZipInfo(name), data, compress_type=kind)
    return path


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


# Run folders ----------------------------------------------------------------------------------------


@pytest.fixture(scope="module")
def made(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The results of two seeds."""
    top = tmp_path_factory.mktemp("made")
    for number in (0, 1):
        make_run(top, seed=number, tasks=1, rounds=1)
    return top


@pytest.fixture
def strange(made: Path, tmp_path: Path) -> RunFolder:
    """The second of two runs below `tmp_path`, for a test to spoil."""
    shutil.copytree(made, tmp_path, dirs_exist_ok=True)
    return RunFolder(tmp_path / "toy" / "lander-0123abcd" / "seed1")


PARTS = ["accuracy.csv", "rounds.jsonl", "summary.json", "partition.json"]
COLUMNS = "trained_task,tested_task,correct,examples,accuracy\n"
ROUND = '{"task": 1, "round": 1, '


@pytest.mark.parametrize("kind", NO_FILES)
@pytest.mark.parametrize("name", PARTS)
def test_what_is_no_file_in_a_run_folder_is_named_and_not_passed_over(
    tmp_path: Path, strange: RunFolder, name: str, kind: str
) -> None:
    put(strange.path / name, kind)
    skipped: list[str] = []
    assert [run.seed for run in find_runs([tmp_path], skipped=skipped)] == [0]
    assert skipped == [f"{strange.path / name}: cannot be read (it is not a file)"]
    with refused(StoreError, str(strange.path / name)):
        draw_run(strange.path)
    assert set(load(tmp_path).seed) == {0}


@pytest.mark.parametrize(
    ("name", "content", "said"),
    [
        ("accuracy.csv", COLUMNS + "1000000000,1,1,2,0.5\n", "accuracy on task 1 after task 1 is missing"),
        ("accuracy.csv", COLUMNS + "1,1,1" + "0" * 400 + ",1" + "0" * 400 + ",1\n", "is not four whole numbers"),
        ("accuracy.csv", COLUMNS + "1,1," + "1" * 5000 + ",1,1\n", "is not four whole numbers"),
        ("accuracy.csv", COLUMNS + "1,1,nan,1,1\n", "is not four whole numbers"),
        ("accuracy.csv", COLUMNS + "1,1,-1,1,1\n", "is not four whole numbers"),
        ("accuracy.csv", COLUMNS + "1,1,1,1,1,1\n", "is not four whole numbers"),
        ("accuracy.csv", COLUMNS + '"' + "x" * 200_000 + "\n", "not a table"),
        ("accuracy.csv", COLUMNS + "\0", "accuracy.csv"),
        ("rounds.jsonl", ROUND + '"terms": 3}\n', "line 1: terms is 3; expected at most 1000 names with numbers"),
        ("rounds.jsonl", ROUND + '"terms": {"ce": "x"}}\n', "terms is {'ce': 'x'}"),
        ("rounds.jsonl", ROUND + '"terms": {"ce": 1e400}}\n', "terms is {'ce': inf}"),
        ("rounds.jsonl", ROUND + '"terms": {"ce": 1' + "0" * 400 + "}}\n", "terms is"),
        ("rounds.jsonl", ROUND + '"terms": {"ce": true}}\n', "terms is {'ce': True}"),
        ("rounds.jsonl", ROUND + '"terms": {"\\u001b[2J": 1}}\n', "terms is"),
        ("rounds.jsonl", ROUND + '"terms": {"\\ud800": 1}}\n', "not valid JSON (surrogates not allowed)"),
        (
            "rounds.jsonl",
            ROUND + '"terms": ' + json.dumps({str(k): k for k in range(1001)}) + "}\n",
            "terms is {'0': 0, ",
        ),
        ("rounds.jsonl", ROUND + '"accuracy": "high"}\n', "accuracy is 'high'; expected a number from 0 to 1 or null"),
        ("rounds.jsonl", ROUND + '"accuracy": 2}\n', "accuracy is 2"),
        ("rounds.jsonl", ROUND + '"accuracy": NaN}\n', "not valid JSON (NaN is no JSON)"),
        ("rounds.jsonl", ROUND + '"bytes_up": "x"}\n', "bytes_up is 'x'; expected a whole number from 0"),
        ("rounds.jsonl", ROUND + '"bytes_down": -1}\n', "bytes_down is -1"),
        ("rounds.jsonl", ROUND + '"bytes_up": 1' + "0" * 30 + "}\n", "bytes_up is 1"),
        ("rounds.jsonl", ROUND + '"seconds": [1]}\n', "seconds is [1]"),
        ("rounds.jsonl", ROUND + '"seconds": {"a": []}}\n', "seconds is {'a': []}"),
        ("rounds.jsonl", ROUND + '"failures": "all"}\n', "failures is 'all'"),
        ("rounds.jsonl", ROUND + '"failures": [1]}\n', "failures is [1]"),
        ("rounds.jsonl", ROUND + '"failures": [{"kind": []}]}\n', "failures is [{'kind': []}]"),
        ("rounds.jsonl", ROUND + '"after_task": {"bytes_up": "x"}}\n', "line 1: after_task: bytes_up is 'x'"),
        ("rounds.jsonl", ROUND + '"after_task": [1]}\n', "after_task: failures is [1]"),
        ("rounds.jsonl", ROUND + '"clients": {"a": 1}}\n', "clients is {'a': 1}; expected a list of whole numbers"),
        ("rounds.jsonl", ROUND + '"clients": ["x"]}\n', "clients is ['x']"),
        ("rounds.jsonl", ROUND + '"lr": {}}\n', "lr is {}"),
        ("rounds.jsonl", '{"task": true, "round": 1}\n', "task is True; expected a whole number from 1"),
        ("rounds.jsonl", '{"task": 1000000000, "round": 1}\n', "task is 1000000000; expected a whole number from 1 to"),
        ("rounds.jsonl", '{"task": 1, "round": 1}\n' * 2, "line 2: round 1 of task 1 after round 1 of 1"),
        ("rounds.jsonl", '{"task": 1, "round": "\xff"}\n', "line 1: round is"),
        ("rounds.jsonl", b'{"task": 1, "round": "\xff"}\n', "line 1: not valid JSON (invalid start byte)"),
        ("rounds.jsonl", "[" * 100_000 + "\n", "line 1: not valid JSON"),
        (
            "rounds.jsonl",
            '{"task": ' + "1" * 5000 + "}\n",
            "line 1: not valid JSON (nested too deeply or a number too long)",
        ),
        ("summary.json", '{"tasks": 1, "final_accuracy": 0.999}', "final_accuracy is 0.999; accuracy.csv gives"),
        ("summary.json", '{"tasks": 1, "average_incremental_accuracy": "x"}', "average_incremental_accuracy is 'x'"),
        ("summary.json", '{"tasks": 1, "seconds": "long"}', "seconds is 'long'; expected a number or null"),
        ("summary.json", '{"tasks": 1, "seconds": 1e400}', "seconds is inf"),
        ("summary.json", '{"tasks": 1, "bytes_up": {}}', "bytes_up is {}"),
        ("summary.json", '{"tasks": 1, "failures": [1]}', "failures is [1]"),
        ("summary.json", '{"tasks": [1]}', "tells of [1] tasks"),
        ("config.yaml", "name: [1, 2]", "name is [1, 2]; expected printable text"),
        ("config.yaml", laughs("[x, x]", "[{}]"), "more than 100,000 values"),
        ("config.yaml", b"#" * (MAX_BYTES + 1), "more than the 1,048,576 allowed"),
    ],
    ids=range(49),
)
def test_rubbish_in_a_run_folder_is_named_and_left_out(
    tmp_path: Path, strange: RunFolder, name: str, content: str | bytes, said: str
) -> None:
    (strange.path / name).write_bytes(content if isinstance(content, bytes) else content.encode())
    with refused(StoreError, str(strange.path / name).removesuffix("/summary.json"), said), within(32):
        load_run(strange.path)
    skipped: list[str] = []
    assert [run.seed for run in find_runs([tmp_path], skipped=skipped)] == [0]
    assert len(skipped) == 1
    assert str(strange.path) in skipped[0]


@pytest.mark.parametrize("name", ["rounds.jsonl", "summary.json", "accuracy.csv", "partition.json"])
def test_a_line_of_gigabytes_is_not_read(strange: RunFolder, name: str) -> None:
    with (strange.path / name).open("wb") as file:
        file.truncate(300 * 2**20)
    with refused(StoreError, str(strange.path / name), "more than the"), within(32):
        load_run(strange.path).partition()
    if name == "rounds.jsonl":
        with (strange.path / name).open("wb") as file:
            file.truncate(200 * 2**20)
        with refused(StoreError, "a line has more than the 16,777,216 bytes allowed"), within(64):
            load_run(strange.path)


@pytest.mark.parametrize(
    ("content", "said"),
    [
        ({"class_names": ["a\x1b[2J", "b"]}, "class_names is"),
        ({"class_names": "ab"}, "class_names is 'ab'; expected a list of printable text"),
        ({"class_names": [1, 2]}, "class_names is [1, 2]"),
        ({"counts": [[[0.5, 1]]]}, "counts are not all whole numbers"),
        ({"counts": [[["1", "2"]]]}, "counts are not all whole numbers"),
        ({"counts": [[[True, False]]]}, "counts are not all whole numbers"),
        ({"counts": [[[10**18, 10**18]]]}, "counts are not all whole numbers from 0 to 1,099,511,627,776"),
        ({"counts": [[[10**30, 1]]]}, "counts are not all whole numbers"),
        ({"counts": [[[-1, 1]]]}, "counts are not all whole numbers"),
        ({"counts": [[[1, 2], [1]]]}, "not a partition (ValueError"),
        ({"counts": {"a": 1}}, "counts are ()"),
        ({"counts": []}, "counts are (0,)"),
    ],
    ids=range(12),
)
def test_a_partition_that_is_none_is_refused(strange: RunFolder, content: dict[str, Any], said: str) -> None:
    strange.partition.write_text(json.dumps({"class_names": ["a", "b"], "counts": [[[1, 2]]], **content}))
    with refused(StoreError, str(strange.partition), said):
        load_run(strange.path).partition()


def test_metrics_are_those_of_the_counts_whatever_a_summary_says(tmp_path: Path) -> None:
    folder = make_run(tmp_path, tasks=2, rounds=1)
    sound = load_run(folder.path).summary
    told = {**sound, "bwt": 0.99, "forgetting": "none at all", "stability": [1], "more": {"deep": 1}}
    folder.summary.write_text(json.dumps(told))
    assert load_run(folder.path).summary == {**sound, "more": {"deep": 1}}


@pytest.mark.parametrize("kind", ["pipe", "device", "loop", "nowhere", "folder"])
def test_a_pool_that_is_no_file_is_not_drawn(strange: RunFolder, kind: str) -> None:
    put(strange.synthetic / "task1.safetensors", kind)
    with refused(StoreError, str(strange.synthetic / "task1.safetensors"), "not a pool of synthetic samples"):
        synthetic_figure(load_run(strange.path))


@pytest.mark.parametrize(
    "content",
    [
        {"x": torch.zeros(2, 3)},
        {"x": torch.zeros(2, 3, 4, 4), "y": torch.zeros(3, dtype=torch.int64)},
        {"x": torch.zeros(2, 3, 4, 4), "y": torch.zeros(2)},
        {"x": torch.zeros(2, 3, 4, 4), "y": torch.tensor([-1, 0])},
        {"x": torch.zeros(2, 3, 4, 4, dtype=torch.int64), "y": torch.zeros(2, dtype=torch.int64)},
        {"x": torch.zeros(2, 0, 4, 4), "y": torch.zeros(2, dtype=torch.int64)},
        {"x": torch.zeros(1, 1, 1, 5000), "y": torch.zeros(1, dtype=torch.int64)},
    ],
    ids=range(7),
)
def test_a_pool_of_other_tensors_is_not_drawn(strange: RunFolder, content: dict[str, torch.Tensor]) -> None:
    save_file(content, strange.synthetic / "task1.safetensors")
    with refused(StoreError, str(strange.synthetic / "task1.safetensors"), "not a pool of synthetic samples"):
        synthetic_figure(load_run(strange.path))


def test_a_pool_is_looked_at_without_reading_it_all(strange: RunFolder) -> None:
    path, count, size = strange.synthetic / "task1.safetensors", 2**20, 3 * 64 * 64
    about = {
        "y": {"dtype": "I64", "shape": [count], "data_offsets": [0, 8 * count]},
        "x": {"dtype": "U8", "shape": [count, 3, 64, 64], "data_offsets": [8 * count, (8 + size) * count]},
    }
    path.write_bytes(table(about, b""))
    with path.open("r+b") as file:
        file.truncate(path.stat().st_size + (8 + size) * count)  # 12 GiB of holes
    before = time.monotonic()
    assert png(synthetic_figure(load_run(strange.path))).startswith(b"\x89PNG")
    assert time.monotonic() - before < 30


def test_a_long_run_is_drawn_in_time(strange: RunFolder) -> None:
    tasks = 60
    rows = [f"{t},{j},{(t * j) % 9},9,0\n" for t in range(1, tasks + 1) for j in range(1, t + 1)]
    strange.accuracy.write_text(COLUMNS + "".join(rows))
    strange.rounds.write_text("".join(f'{{"task": {t}, "round": 1, "terms": {{"ce": 1}}}}\n' for t in range(1, 1001)))
    strange.summary.unlink()
    run, began = load_run(strange.path), time.monotonic()
    for figure in (forgetting_figure, rounds_figure):
        figure(run)
    assert time.monotonic() - began < 60


def test_labels_stay_short_whatever_a_configuration_says() -> None:
    data = {
        "dataset": "x" * 10**5,
        "tasks": [[k] for k in range(10**4)],
        "partition": {f"k{k}": "\x1b" for k in range(99)},
    }
    label = split_label({"data": data})
    assert len(label) < 250
    assert label.isprintable()


def test_folders_within_folders_are_not_searched_for_ever(tmp_path: Path) -> None:
    make_run(tmp_path, tasks=1, rounds=1)
    deep = os.open(tmp_path, os.O_RDONLY)
    for _ in range(1100):
        os.mkdir("d", dir_fd=deep)
        deep, above = os.open("d", os.O_RDONLY, dir_fd=deep), deep
        os.close(above)
    os.close(deep)
    skipped: list[str] = []
    try:
        assert len(find_runs([tmp_path], skipped=skipped)) == 1
    finally:
        subprocess.run(["rm", "-r", tmp_path / "d"], check=True)  # pytest's own tidying up is not that patient
    assert len(skipped) == 1
    assert skipped[0].endswith("more than 64 folders within each other")


@pytest.mark.parametrize(
    ("changes", "said"),
    [
        ({"name": ["x"]}, "name: ['x'] is not allowed; it names a folder"),
        ({"name": "../../x"}, "name: '../../x' is not allowed"),
        ({"seed": "one"}, "seed: 'one' is not allowed; expected a whole number from 0"),
        ({"seed": -1}, "seed: -1 is not allowed"),
        ({"seed": 10**99}, "config.yaml"),
        ({"data": [1]}, "data: [1] is not allowed"),
        ({"strategy": {"os": {}}}, 'strategy file "os" does not load'),
    ],
)
def test_a_run_with_changed_settings_is_not_resumed(tmp_path: Path, changes: dict[str, Any], said: str) -> None:
    (plan,) = planned(write_experiment(tmp_path))
    folder = tmp_path / "out" / plan.folder
    folder.mkdir(parents=True)
    (folder / "strategy.py").write_text(plan.strategy.source)
    (folder / "config.yaml").write_text(json.dumps({**plan.to_yaml(), **changes}))
    with pytest.raises((ConfigError, StoreError), match=re.escape(said)) as caught:
        resume(folder)
    assert "\n" not in str(caught.value)
    assert sorted(p.name for p in folder.iterdir()) == ["config.yaml", "strategy.py"]


@pytest.mark.parametrize("name", ["config.yaml", "strategy.py"])
def test_a_run_made_of_pipes_is_not_resumed(tmp_path: Path, name: str) -> None:
    (plan,) = planned(write_experiment(tmp_path))
    folder = tmp_path / "out" / plan.folder
    folder.mkdir(parents=True)
    (folder / "config.yaml").write_text(json.dumps(plan.to_yaml()))
    put(folder / name, "pipe")
    with pytest.raises(UserError) as caught:
        resume(folder)
    assert "\n" not in str(caught.value)


# Arrays that arrive ---------------------------------------------------------------------------------


FLAG: list[str] = []


class Bomb:
    def __reduce__(self) -> tuple[Any, ...]:
        return (FLAG.append, ("executed",))


def header(shape: str = "(2, 3)", descr: str = "'<f4'", fortran: str = "False", version: bytes = b"\1\0") -> bytes:
    text = f"{{'descr': {descr}, 'fortran_order': {fortran}, 'shape': {shape}, }}".ljust(117) + "\n"
    return b"\x93NUMPY" + version + struct.pack("<H", len(text)) + text.encode()


@pytest.mark.parametrize(
    ("data", "said"),
    [
        (header("(1000000000000,)"), 'array "w" says it has the shape (1000000000000,) of float32, but 0 bytes'),
        (header("(10**12,)") + b"\0" * 24, 'array "w" has no header'),
        (header("(99999999999999999999, 0)"), 'array "w"'),
        (header("(-2, -3)") + b"\0" * 24, "says it has the shape (-2, -3)"),
        (header() + b"\0" * 23, "says it has the shape (2, 3) of float32, but 23 bytes"),
        (header() + b"\0" * 25, "but 25 bytes"),
        (header("(6,)") + b"\0" * 24, "says it has the shape (6,) and the shape (2, 3)"),
        (header(descr="'|O'") + b"\0" * 48, "is of the type object"),
        (header(descr="'>f4'") + b"\0" * 24, "is of the type >f4"),
        (header(descr="'<U1000000000'"), "has no header"),
        (header(descr="'|V4'") + b"\0" * 24, "is of the type |V4"),
        (header(descr="'<c8'") + b"\0" * 48, "is of the type complex64"),
        (header(descr="[('a', '<f4')]") + b"\0" * 24, "is of the type [('a', '<f4')]"),
        (header(descr="('<f4', (2,))") + b"\0" * 48, 'array "w"'),
        (header(descr="(" * 30), "has no header"),
        (header(fortran="__import__('os')"), "has no header"),
        (header(version=b"\3\0"), "has no header"),
        (b"\x93NUMPY\1\0\xff\xff", "has no header"),
        (b"", "has no header"),
        (b"PK\3\4" + b"\0" * 30, "has no header"),
        (npy(np.array([Bomb()], dtype=object), pickled=True), "is of the type object"),
    ],
    ids=range(21),
)
def test_an_array_that_lies_is_refused_before_memory_is_set_aside(data: bytes, said: str) -> None:
    with within(1), pytest.raises(ValueError, match=re.escape(said)) as caught:
        to_tensors(ArrayRecord({"w": Array("float32", (2, 3), "numpy.ndarray", data)}))
    assert "\n" not in str(caught.value)
    assert not FLAG


def test_a_record_of_another_kind_is_refused() -> None:
    with pytest.raises(ValueError, match='array "w" is a str'):
        to_tensors(ConfigRecord({"w": "x"}))  # type: ignore[arg-type]


def test_a_pickle_in_place_of_an_array_is_not_opened() -> None:
    import pickle

    for stype in ("pickle", "numpy.ndarray"):
        with pytest.raises(ValueError, match='array "w"'):
            to_tensors(ArrayRecord({"w": Array("float32", (1,), stype, pickle.dumps(Bomb()))}))
    assert not FLAG


def test_arrays_arrive_as_they_were_sent_and_our_own_are_not_copied() -> None:
    tensors = {
        "weight": torch.arange(6.0).view(2, 3).T,
        "count": torch.tensor(3),
        "none": torch.zeros(0, 3),
        "mask": torch.tensor([True, False]),
        "half": torch.ones(2, dtype=torch.float16),
    }
    record = to_arrays(tensors)
    assert to_tensors(record)["weight"].data_ptr() == tensors["weight"].data_ptr()
    arrived = to_tensors(ArrayRecord({n: Array(a.dtype, tuple(a.shape), a.stype, a.data) for n, a in record.items()}))
    assert arrived.keys() == tensors.keys()
    assert all(torch.equal(arrived[name], t) and arrived[name].dtype == t.dtype for name, t in tensors.items())


@pytest.mark.parametrize(
    "value",
    [torch.zeros(2, dtype=torch.bfloat16), torch.zeros(1, dtype=torch.complex64), torch.eye(2).to_sparse(), 10**5000],
    ids=["bfloat16", "complex", "sparse", "number"],
)
def test_a_value_that_cannot_travel_is_named(value: Any) -> None:
    with pytest.raises(TypeError, match='state "a/b" is a'):
        to_records({"a": {"b": value}})


@pytest.mark.parametrize(
    ("text", "said"),
    [
        ("[" * 100_000, "cannot be read (RecursionError)"),
        ("1" * 5000, "cannot be read (ValueError)"),
        ("[]", "are a list; expected a mapping"),
        ('{"b": null}', 'state "b" is a NoneType'),
        ('{"b": [1]}', 'state "b" is a list'),
        ('{"a": 1}', 'state "a" is given twice'),
        ('{"a/c": 1}', 'state "a/c" lies within "a", which is a value'),
    ],
    ids=range(7),
)
def test_values_that_are_no_state_are_refused(text: str, said: str) -> None:
    arrays, _ = to_records({"a": torch.zeros(2)})
    with pytest.raises(ValueError, match=re.escape(said)):
        from_records(arrays, ConfigRecord({"values": text}))
    with pytest.raises(ValueError, match="cannot be read"):
        from_records(arrays, ConfigRecord({}))


def test_a_name_with_line_breaks_stays_on_its_line() -> None:
    with pytest.raises(TypeError) as caught:
        flatten({"a\n\x1b": None})  # type: ignore[dict-item]
    assert str(caught.value).isprintable()
    assert unflatten(*flatten({"a\n": {"b\x1b": 1}})) == {"a\n": {"b\x1b": 1}}


# The command line -----------------------------------------------------------------------------------


def test_hostile_input_ends_commands_with_one_line_and_code_2(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.chdir(tmp_path)
    Path("laughs.yaml").write_text(laughs("[x]", "[{}]"))
    Path("escape.yaml").write_text('name: "\\u202e"\ndata: {dataset: digits, tasks: 5}\nstrategy: finetune\n')
    put(Path("pipe"), "pipe")
    strange = make_run(tmp_path / "runs", tasks=1, rounds=1)
    strange.rounds.write_text(ROUND + '"terms": "\\u001b[2J"}\n')
    write_experiment(tmp_path, data={"dataset": "image_folder", "root": str(zipped(Path("z.zip"), {"../a": b""}))})
    before = sorted(tmp_path.rglob("*"))
    for command in (
        ["run", "laughs.yaml", "--out", "out"],
        ["run", "escape.yaml", "--out", "out"],
        ["run", "pipe", "--out", "out"],
        ["run", "tiny.yaml", "--out", "out"],
        ["show", "tiny.yaml"],
        ["show", "tiny.yaml", "federation.rounds=" + "9" * 10_000],
        ["embed", "pipe"],
        ["embed", "z.zip"],
        ["resume", str(strange.path)],
        ["resume", "x" * 5000],
        ["plot", "x" * 5000],
    ):
        monkeypatch.setattr(sys, "argv", ["fcil", *command])
        with pytest.raises(SystemExit) as stop:
            main()
        said = capsys.readouterr()
        assert stop.value.code == 2, (command, said.err)
        assert said.out == ""
        assert said.err.count("\n") == 1
        assert said.err.rstrip("\n").isprintable()
    assert sorted(tmp_path.rglob("*")) == before


def test_a_name_that_is_no_text_can_be_printed(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capfd: pytest.CaptureFixture[str]
) -> None:
    folder = make_run(Path(os.fsdecode(os.fsencode(tmp_path) + b"/\xff\x1b")), "finetune", tasks=1, rounds=1)
    monkeypatch.setattr("fcil.plots.draw_run", lambda path, *_: [path / "figures"])
    monkeypatch.setattr(sys, "argv", ["fcil", "plot", str(folder.path)])
    with pytest.raises(SystemExit) as stop:
        main()
    said = capfd.readouterr()
    assert stop.value.code == 0, said.err
    assert "\\udcff\\x1b" in said.out
