"""Experiments that are made to hurt: each is refused in one line, at once, and nothing of it is executed."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import fields
from pathlib import Path
from typing import Any, get_args, get_type_hints

import pytest
from hostile import NO_FILES, laughs, put, refused, within
from small_runs import write_experiment

from fcil.config import MAX_BYTES, MAX_DEPTH, Where, load_yaml, parse_fields, parse_yaml
from fcil.data import DataSettings
from fcil.errors import LONGEST, ConfigError, DataError, FCILError
from fcil.federation.settings import FederationSettings, Resources
from fcil.nets import NetSettings
from fcil.optimizer import OptimizerSettings
from fcil.runs.plans import read, survey
from fcil.synthesis.nayer import NAYER

HERE = Where("exp.yaml")


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
