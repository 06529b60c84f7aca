"""Thousands of spoilt inputs a part: each is used, or refused in one line; none ends in a traceback.

    FCIL_FUZZ_INPUTS=3000 FCIL_FUZZ_REPORT=report.jsonl pytest -m slow tests/reliability/test_fuzz.py

`FCIL_FUZZ_SEED` chooses other inputs, which hypothesis otherwise draws anew each time.
"""

from __future__ import annotations

import contextlib
import io
import json
import os
import shutil
import tempfile
import tracemalloc
import zipfile
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
import yaml
from flwr.app import Array, ArrayRecord, ConfigRecord
from hypothesis import HealthCheck, given, seed, settings
from hypothesis import strategies as st
from hypothesis.configuration import set_hypothesis_home_dir
from mutations import LEAVES, TREES, Tally, altered, at, places, spoilt
from PIL import Image
from rich.console import Console
from small_runs import LANDER, play, write_experiment

from fcil import cli
from fcil.anchors import AnchorSettings, describe, load_anchors, read_names
from fcil.anchors.tables import Table, write_table
from fcil.compare.terminal import comparison_table
from fcil.console.tables import accuracy_table, metrics_table, partition_table, settings_tree
from fcil.data import DataSettings, load_dataset
from fcil.data import sources as sources_module
from fcil.errors import DataError, UserError
from fcil.federation.codec import from_records, to_records, to_tensors
from fcil.io.state import flatten, unflatten
from fcil.plots import run as figures
from fcil.plots.comparison import accuracy_curve, curves_figure
from fcil.plots.look.style import png
from fcil.runs import plans
from fcil.store import Run, find_runs, load_run
from fcil.store.groups import group_runs

pytestmark = pytest.mark.slow
INPUTS = int(os.environ.get("FCIL_FUZZ_INPUTS", "300"))
ROOT = Path(__file__).parents[2]
Fuzz = Callable[[Callable[..., None]], Callable[..., None]]


def fuzz(**parts: st.SearchStrategy[Any]) -> Fuzz:
    """`given`, as many times as asked for, and leaving nothing behind."""
    set_hypothesis_home_dir(tempfile.gettempdir())
    alike = settings(max_examples=INPUTS, deadline=None, database=None, suppress_health_check=list(HealthCheck))

    def decorate(test: Callable[..., None]) -> Callable[..., None]:
        chosen = os.environ.get("FCIL_FUZZ_SEED")
        test = alike(given(**parts)(test))
        return seed(int(chosen))(test) if chosen else test

    return decorate


@contextlib.contextmanager
def counted(part: str) -> Iterator[Tally]:
    tally = Tally(part)
    try:
        yield tally
    finally:
        tally.report()
    assert tally.inputs >= 0.9 * INPUTS, tally
    assert tally.refused > 0, tally
    assert tally.accepted > 0 or INPUTS < 100, tally
    assert tally.tracebacks == 0, tally


def quiet() -> Console:
    return Console(file=io.StringIO(), width=100)


# Experiments ----------------------------------------------------------------------------------------


def experiments() -> list[dict[str, Any]]:
    """Every experiment of the project, each at the digits and small, and one with every key."""
    found = []
    files = [path for path in sorted(ROOT.glob("experiments/**/*.yaml")) if path.parent.name != "methods"]
    for path in files:
        raw = yaml.safe_load(path.read_text(encoding="utf-8"))
        raw["data"] = {**raw["data"], "dataset": "digits", "tasks": 5}
        raw["data"].pop("root", None)
        raw["data"].pop("resize", None)
        found.append(raw)
    (whole,) = plans.read(ROOT / "experiments" / "quickstart.yaml")
    every = json.loads(json.dumps(whole.plans()[0].to_yaml()))
    del every["seed"]
    return [*found, *[every] * len(found)]


EXPERIMENTS = experiments()
WORDS = (
    b"&a ",
    b"*a",
    b"<<: ",
    b"!!int ",
    b"!!set ",
    b"!!python/object:os.system ",
    b"? ",
    b": ",
    b"- ",
    b"|\n",
    b"%YAML 9.9\n",
)
WORDS += (
    b"{",
    b"}",
    b"[",
    b"]",
    b"'",
    b'"',
    b"---\n",
    b"...\n",
    b"1e999",
    b".nan",
    b"0x",
    b"1:2:3",
    b"9" * 5000,
    b"\\U00110000",
)


@st.composite
def experiment_files(draw: st.DrawFn) -> bytes:
    tree = draw(altered(draw(st.sampled_from(EXPERIMENTS)), EXPERIMENTS))
    if draw(st.booleans()):
        text = yaml.safe_dump(
            tree, sort_keys=False, allow_unicode=True, default_flow_style=draw(st.sampled_from((None, True)))
        )
    else:
        text = json.dumps(tree)
    data = text.encode("utf-8", "surrogatepass")
    return draw(spoilt(data, WORDS)) if draw(st.integers(0, 2)) == 0 else data


@pytest.fixture
def shows(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Callable[[Path, list[str]], None]:
    """What `fcil show` does, without the network and for a few runs."""

    def absent(*_: object) -> None:
        raise DataError("not here")

    for reader in ("_torchvision", "_idx"):
        monkeypatch.setattr(sources_module, reader, absent)
    monkeypatch.setattr(plans, "MAX_RUNS", 8)
    monkeypatch.setenv("FCIL_DATA", str(tmp_path / "data"))
    monkeypatch.setenv("FCIL_CACHE", str(tmp_path / "cache"))
    monkeypatch.chdir(tmp_path)

    def show(path: Path, overrides: list[str]) -> None:
        plans.read(path, overrides)
        with contextlib.redirect_stdout(io.StringIO()):
            cli.show(path, overrides, len(overrides) % 2 == 1)

    return show


def test_experiment_files(tmp_path: Path, shows: Callable[[Path, list[str]], None]) -> None:
    path = tmp_path / "spoilt.yaml"
    with counted("experiment files") as tally:

        @fuzz(data=experiment_files())
        def check(data: bytes) -> None:
            path.write_bytes(data)
            tally.tell(lambda: shows(path, []), UserError)

        check()


KEYS = sorted({".".join(map(str, place)) for raw in EXPERIMENTS for place in places(raw) if place})
MORE_KEYS = (
    "strategy.radius",
    "strategy.lander.radius",
    "strategy.synthesizer.rounds",
    "data.partition.shards",
    "matrix",
)
MORE_KEYS += ("data.base", "data.increment", "data.resize", "data.root", "net.width", "resources.threads", "seeds", "")
KEPT = {}
for raw in EXPERIMENTS:
    for place in places(raw)[1:]:
        KEPT.setdefault(".".join(map(str, place)), []).append(json.dumps(at(raw, place)))
VALUES = (
    "{",
    "[1, 2",
    "iid",
    "{dirichlet: 1e-300}",
    "{shards: 1000000000000}",
    "*a",
    "&a [*a]",
    "null",
    "[]",
    "{}",
    "1e999",
)


@st.composite
def overrides(draw: st.DrawFn) -> str:
    key = draw(st.one_of(st.sampled_from(KEYS), st.sampled_from(KEYS), st.sampled_from(MORE_KEYS), st.text(max_size=9)))
    if draw(st.integers(0, 9)) == 0:
        key += "." + draw(st.text(max_size=6)) * draw(st.sampled_from((1, 2, 200)))
    odd = st.one_of(st.sampled_from(VALUES), LEAVES.map(str), TREES.map(json.dumps), st.text(max_size=12))
    value = draw(st.one_of(st.sampled_from(KEPT.get(key, ["1"])), st.integers(0, 9).map(str), odd))
    return key + draw(st.sampled_from(("=",) * 17 + ("==", "", ":"))) + value


def test_overrides(tmp_path: Path, shows: Callable[[Path, list[str]], None]) -> None:
    path = tmp_path / "sound.yaml"
    with counted("overrides") as tally:

        @fuzz(
            raw=st.sampled_from(EXPERIMENTS),
            changes=st.one_of(st.lists(overrides(), min_size=1, max_size=1), st.lists(overrides(), max_size=4)),
        )
        def check(raw: dict[str, Any], changes: list[str]) -> None:
            path.write_text(yaml.safe_dump(raw, sort_keys=False), encoding="utf-8")
            tally.tell(lambda: shows(path, changes), UserError)

        check()


# Values that travel ---------------------------------------------------------------------------------


@st.composite
def tensors(draw: st.DrawFn) -> torch.Tensor:
    shape = draw(st.lists(st.integers(0, 3), max_size=3))
    kind = draw(st.sampled_from((torch.float32, torch.float64, torch.int64, torch.uint8, torch.bool, torch.float16)))
    tensor = torch.arange(int(np.prod(shape)), dtype=torch.float32).reshape(shape).to(kind)
    return tensor.T if tensor.ndim == 2 and draw(st.booleans()) else tensor


ODD_TENSORS = [torch.zeros(2, dtype=torch.bfloat16), torch.zeros(2, dtype=torch.complex64), torch.eye(2).to_sparse()]
ODD_VALUES: list[Any] = [
    None,
    b"x",
    [1],
    (1,),
    {1, 2},
    1j,
    np.float32(1),
    np.zeros(2),
    object(),
    10**5000,
    *ODD_TENSORS,
]
SOUND = st.one_of(tensors(), st.floats(), st.integers(-(2**70), 2**70), st.text(max_size=5), st.booleans())
NAMES = st.text(alphabet=st.characters(blacklist_characters="/"), min_size=1, max_size=4)
STATES = st.recursive(
    st.dictionaries(NAMES, SOUND, max_size=3), lambda inner: st.dictionaries(NAMES, st.one_of(SOUND, inner), max_size=3)
)


@st.composite
def states(draw: st.DrawFn) -> tuple[dict[str, Any], bool]:
    """A state, and whether it can travel."""
    state = draw(STATES)
    if draw(st.integers(0, 2)):
        return state, True
    place = draw(st.sampled_from([p for p in places(state) if isinstance(at(state, p), dict)]))
    if draw(st.booleans()):
        at(state, place)[draw(NAMES)] = draw(st.sampled_from(ODD_VALUES))
    else:
        at(state, place)[draw(st.sampled_from(("", "a/b", 3, None)))] = draw(SOUND)
    return state, False


def same(a: Any, b: Any) -> bool:
    if isinstance(a, dict):
        return isinstance(b, dict) and sorted(a) == sorted(b) and all(same(v, b[k]) for k, v in a.items())
    if isinstance(a, torch.Tensor):
        return isinstance(b, torch.Tensor) and a.dtype == b.dtype and torch.equal(a, b)
    return type(a) is type(b) and (a == b or (a != a and b != b))


def sent(arrays: ArrayRecord) -> ArrayRecord:
    """The record as it arrives from another machine: bytes, and what they are said to be."""
    return ArrayRecord({n: Array(a.dtype, tuple(a.shape), a.stype, a.data) for n, a in arrays.items()})


def test_states_that_travel() -> None:
    with counted("states") as tally:

        @fuzz(made=states())
        def check(made: tuple[dict[str, Any], bool]) -> None:
            state, sound = made

            def there_and_back() -> None:
                assert same(unflatten(*flatten(state)), state)
                arrays, values = to_records(state)
                assert same(from_records(arrays, values), state)
                assert same(from_records(sent(arrays), values), state)

            def named() -> None:
                with pytest.raises(TypeError, match=r"^state ['\"]") as caught:
                    to_records(state)
                raise caught.value

            tally.tell(there_and_back if sound else named, () if sound else TypeError)

        check()


def npy(array: np.ndarray) -> bytes:
    stream = io.BytesIO()
    np.save(stream, array)
    return stream.getvalue()


FLAG: list[str] = []


class Bomb:
    def __reduce__(self) -> tuple[Any, ...]:
        return (FLAG.append, ("executed",))


def pickled() -> bytes:
    import pickle

    stream = io.BytesIO()
    np.save(stream, np.array([Bomb()], dtype=object), allow_pickle=True)
    return stream.getvalue() + pickle.dumps(Bomb())


ARRAYS = [npy(np.arange(12).astype(k).reshape(3, 4)) for k in ("f4", "f8", "i8", "u1", ">f4", "U3", "c8", "M8[s]")]
ARRAYS += [
    npy(np.float32(3)),
    npy(np.zeros((0, 3), "f4")),
    npy(np.asfortranarray(np.eye(3))),
    npy(np.zeros(2, "i4,f4")),
    pickled(),
]
LIES = (
    b"(3, 4)",
    b"(10**12,)",
    b"(1000000000000,)",
    b"(-1, -12)",
    b"(True, 12)",
    b"(99999999999999999999, 0)",
    b"(3, 4, 1)",
)
LIES += (
    b"'<f4'",
    b"'|O'",
    b"'<f8'",
    b"'|V1000000000'",
    b"'<U999999999'",
    b"[('a', '<f4')]",
    b"True",
    b"()",
    b"(" * 3000,
    b"\x93NUMPY\x03\0",
)


@st.composite
def strange_arrays(draw: st.DrawFn) -> tuple[Array, bytes]:
    data = draw(spoilt(draw(st.sampled_from(ARRAYS)), LIES))
    if draw(st.integers(0, 2)) == 0:
        data = draw(st.sampled_from(ARRAYS))
        old, new = draw(st.sampled_from((b"(3, 4)", b"'<f4'", b"'<f8'", b"False"))), draw(st.sampled_from(LIES))
        data = data.replace(old, new) if draw(st.booleans()) else data.replace(old + b" " * (len(new) - len(old)), new)
    shape = draw(st.sampled_from(((3, 4), (3, 4), (3, 4), (), (0, 3), (12,), (10**12,), (-1,))))
    stype = draw(st.sampled_from(("numpy.ndarray",) * 9 + ("pickle",)))
    return Array("float32", shape, stype, data), data


def test_arrays_of_strangers() -> None:
    with counted("arrays") as tally:

        @fuzz(made=strange_arrays())
        def check(made: tuple[Array, bytes]) -> None:
            array, data = made

            def read() -> None:
                tracemalloc.start()
                try:
                    got = to_tensors(ArrayRecord({"w": array}))["w"]
                    assert got.numel() * got.element_size() <= len(data)
                finally:
                    peak = tracemalloc.get_traced_memory()[1]
                    tracemalloc.stop()
                assert peak < 8 * len(data) + 2**20, peak

            tally.tell(read, ValueError)
            assert not FLAG

        check()


def test_values_of_strangers() -> None:
    arrays, values = to_records({"a": torch.zeros(2), "b": {"c": 1.5, "d": {}}, "e": "x"})
    text = str(values["values"]).encode()
    words = (b'"a": 1', b'"a/b": 1', b'"b/c/x": 2', b"null", b"[]", b"[" * 5000, b"1" * 5000, b'{"a": {}}', b"NaN")
    with counted("values") as tally:

        @fuzz(data=spoilt(text, words))
        def check(data: bytes) -> None:
            given_ = ConfigRecord({"values": data.decode("utf-8", "replace")})
            tally.tell(lambda: from_records(arrays, given_), ValueError)

        check()


# Run folders ----------------------------------------------------------------------------------------


@pytest.fixture(scope="module")
def small_run(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A real run of LANDER, without its checkpoints."""
    place = tmp_path_factory.mktemp("run")
    (run,) = play(write_experiment(place, strategy=LANDER, federation={"evaluate_every": 1}), out=place / "out")
    shutil.rmtree(run.path / "checkpoints")
    return run.path


RUBBISH = (
    b"NaN",
    b"-1",
    b"1e400",
    b"1" * 400,
    b"1" * 5000,
    b"null",
    b"true",
    b"[]",
    b"{}",
    b'"x"',
    b"[" * 5000,
    b'"\\ud800"',
    b'"\\u001b[2J"',
)
RUBBISH += (
    b"10000000000000000000000",
    b"0.5",
    b'{"a": "b"}',
    b"{'a': [*a]}",
    b"1,1,1,1,1\n",
    b"\n",
    b'"terms": 3',
    b'"clients": "x"',
)
SPECIAL = ("folder", "pipe", "loop", "device", "nothing", "absent")


def replace_by(path: Path, kind: str) -> None:
    path.unlink()
    if kind == "folder":
        path.mkdir()
    elif kind == "pipe":
        os.mkfifo(path)
    elif kind != "absent":
        path.symlink_to({"loop": path, "device": Path("/dev/zero"), "nothing": path / "nowhere"}[kind])


def look_at(path: Path, name: str) -> None:
    """What tables and figures read, as far as the file called `name` can matter."""
    run = load_run(path)
    assert len(find_runs([path.parents[2]], unfinished=True)) == 1
    console = quiet()
    console.print(settings_tree(run.config), metrics_table(run.summary), comparison_table([run]))
    if run.rows:
        console.print(accuracy_table(run.rows))
        assert len(run.accuracy) == len(run.rows)
    drawers: dict[str, list[Callable[[Run], Any]]] = {
        "accuracy.csv": [figures.accuracy_figure, figures.forgetting_figure, figures.matrix_figure],
        "config.yaml": [lambda run: curves_figure(group_runs([run]), accuracy_curve, "Accuracy", "accuracy (%)")],
        "rounds.jsonl": [figures.rounds_figure],
        "partition.json": [figures.partition_figure, lambda run: console.print(partition_table(*run.partition()))],
    }
    for draw in drawers.get(name, [figures.synthetic_figure] if (path / name).exists() else []):
        needed = run.rounds if name == "rounds.jsonl" else run.rows if name in ("accuracy.csv", "config.yaml") else True
        picture = draw(run) if needed else None
        if picture is not None:
            png(picture)


@pytest.mark.parametrize(
    "name",
    ["accuracy.csv", "rounds.jsonl", "summary.json", "config.yaml", "partition.json", "synthetic/task1.safetensors"],
)
def test_run_folders(small_run: Path, tmp_path: Path, name: str) -> None:
    whole = (small_run / name).read_bytes()
    with counted(f"run folders: {name}") as tally:

        @fuzz(data=st.one_of(spoilt(whole, RUBBISH), spoilt(whole, RUBBISH), st.sampled_from(SPECIAL)))
        def check(data: bytes | str) -> None:
            top = tmp_path / "out"
            shutil.rmtree(top, ignore_errors=True)
            folder = top.joinpath(*small_run.parts[-3:])
            shutil.copytree(small_run, folder)
            if isinstance(data, str):
                replace_by(folder / name, data)
            else:
                (folder / name).write_bytes(data)
            tally.tell(lambda: look_at(folder, name), UserError)

        check()


# Anchors, names and images --------------------------------------------------------------------------


def test_anchor_files(tmp_path: Path) -> None:
    names, path = ("cat", "dog", "tree frog"), tmp_path / "anchors.safetensors"
    vectors = torch.randn(3, 8, generator=torch.Generator().manual_seed(0))
    write_table(path, Table(names=names, vectors=vectors, encoder="e", template="a {}", pooling="mean"))
    sound = [path.read_bytes(), npy(vectors.numpy())]
    words = (
        b'"F64"',
        b'"I64"',
        b'"F8_E4M3"',
        b'"BF16"',
        b"[3,0]",
        b"[3,8,1]",
        b"[24]",
        b"[0,18446744073709551615]",
        b"[96,0]",
    )
    words += (
        b"\xff\xff\xff\xff\xff\xff\xff\x0f",
        b"\0\0\xc0\x7f",
        b"\0\0\x80\xff",
        b"[" * 5000,
        b"\\ud800",
        b'\\"x\\"',
    )
    with counted("anchor files") as tally:

        @fuzz(data=st.one_of(spoilt(sound[0], words), spoilt(sound[0], words), spoilt(sound[1], LIES)))
        def check(data: bytes) -> None:
            path.write_bytes(data)

            def load() -> None:
                anchors = load_anchors(AnchorSettings(file=str(path)), names)
                assert anchors.isfinite().all()
                assert anchors.shape[0] == 3
                describe(anchors)

            tally.tell(load, UserError)

        check()


def test_name_files(tmp_path: Path) -> None:
    path = tmp_path / "names.txt"
    whole = "# classes\ncat\ndog\ntree_frog\nläufer\n犬\n".encode()
    with counted("name files") as tally:

        @fuzz(data=spoilt(whole, (b"cat\n", b"x" * 300, b" \n", b"\xe2\x80\xae")))
        def check(data: bytes) -> None:
            path.write_bytes(data)
            tally.tell(lambda: read_names(path), UserError)

        check()


def images() -> dict[str, bytes]:
    """Small images of every kind, as files of a data set."""
    kinds = {"png": "PNG", "jpg": "JPEG", "gif": "GIF", "bmp": "BMP", "tif": "TIFF", "webp": "WEBP", "ppm": "PPM"}
    rng, files = np.random.default_rng(0), {}
    for split in ("train", "test"):
        for label in ("cat", "dog"):
            for suffix, kind in kinds.items():
                stream = io.BytesIO()
                Image.fromarray(rng.integers(0, 256, (6, 6, 3), dtype=np.uint8)).save(stream, kind)
                files[f"{split}/{label}/a.{suffix}"] = stream.getvalue()
    return {**files, "classnames.txt": b"cat Egyptian cat, puss\ndog hound\n"}


FILES = images()


def packed(files: dict[str, bytes], kind: int) -> bytes:
    stream = io.BytesIO()
    with zipfile.ZipFile(stream, "w", kind) as archive:
        for name, data in files.items():
            archive.writestr(zipfile.ZipInfo(name), data, compress_type=kind)
    return stream.getvalue()


SOUND_ZIPS = [packed(FILES, kind) for kind in (zipfile.ZIP_STORED, zipfile.ZIP_DEFLATED)]
PARTS = (
    b"PK\x01\x02",
    b"PK\x03\x04",
    b"PK\x05\x06",
    b"PK\x06\x06",
    b"PK\x06\x07",
    b"../",
    b"/etc/",
    b"\\",
    b"\xff\xff\xff\xff" * 3,
)


@st.composite
def zips(draw: st.DrawFn) -> bytes:
    """A zip spoilt as a whole, or a sound one around a spoilt member."""
    if draw(st.booleans()):
        return draw(spoilt(draw(st.sampled_from(SOUND_ZIPS)), PARTS))
    name = draw(st.sampled_from(sorted(FILES)))
    files = {
        **FILES,
        name: draw(spoilt(FILES[name], (b"GIF89a", b"%!PS-Adobe-3.0 EPSF-3.0\n", b"\x89PNG\r\n\x1a\n", b"<svg/>"))),
    }
    if draw(st.integers(0, 9)) == 0:
        files[
            draw(
                st.sampled_from(
                    ("train/cat/../b.png", "/x.png", "train\\b.png", "train/\x1b[2J/a.png", "train/é/a.png")
                )
            )
        ] = b"x"
    return packed(files, draw(st.sampled_from((zipfile.ZIP_STORED, zipfile.ZIP_DEFLATED, zipfile.ZIP_BZIP2))))


@pytest.mark.parametrize("dataset", ["image_folder", "imagenet"])
def test_zips_of_images(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, dataset: str) -> None:
    monkeypatch.setenv("FCIL_CACHE", str(tmp_path / "cache"))
    path = tmp_path / "images.zip"
    wish = DataSettings(dataset=dataset, root=str(path), tasks=2, resize=6)
    with counted(f"zips: {dataset}") as tally:

        @fuzz(data=zips())
        def check(data: bytes) -> None:
            path.write_bytes(data)
            shutil.rmtree(tmp_path / "cache", ignore_errors=True)

            def load() -> None:
                found = load_dataset(wish)
                for part in (found.train, found.test):
                    assert part.take(torch.arange(len(part))).shape == (len(part), 3, 6, 6)
                assert all(name.isprintable() for name in found.class_names)

            tally.tell(load, UserError)
            assert not list((tmp_path / "cache").rglob("*tmp*")), "something half-written was left"

        check()
