"""YAML to settings and back: what is read, what is refused and in which words, and that every key is explained."""

from __future__ import annotations

import re
import time
from collections.abc import Iterator
from dataclasses import dataclass, fields
from pathlib import Path
from typing import Annotated, Any, ClassVar, Literal

import pytest
import yaml
from pydantic import Field

from fcil.anchors import AnchorSettings
from fcil.config import Where, choice, dump, dump_yaml, field_docs, load_yaml, parse, parse_yaml
from fcil.data import DataSettings, PartitionSettings
from fcil.distillation.settings import Distillation
from fcil.errors import MOST_ERRORS, ConfigError
from fcil.federation.plan import Plan
from fcil.federation.settings import FederationSettings, Resources
from fcil.methods.files import built_in_files
from fcil.methods.listing import strategies, synthesizers
from fcil.methods.loading import StrategySpec, strategy_class
from fcil.nets import NetSettings
from fcil.optimizer import OptimizerSettings
from fcil.runs.plans import Experiment
from fcil.runs.preflight import named
from fcil.synthesis import Bound, Synthesizer, create, synthesizer_class, synthesizer_names
from fcil.types import Count, Positive

HERE = Where("exp.yaml")
STRATEGIES = {name: strategy_class(name, None, path.read_text(), HERE) for name, path in built_in_files().items()}
SYNTHESIZERS = {name: synthesizer_class(name) for name in synthesizer_names()}


@dataclass(frozen=True, kw_only=True)
class Inner:
    rate: Positive = 0.5
    """A rate."""
    mode: Literal["slow", "fast"] = "slow"
    """A mode."""


@dataclass(frozen=True, kw_only=True)
class Outer:
    name: str
    """Text."""
    count: Count | None = None
    """A number, or nothing."""
    inner: Inner = Inner()
    """More settings."""
    maybe: Inner | None = None
    """More settings, or none."""
    sizes: tuple[int, ...] = ()
    """Numbers."""
    share: Annotated[float, Field(ge=0, lt=1)] = 0.0
    """A share."""
    flag: bool = True
    """Yes or no."""

    def __post_init__(self) -> None:
        if self.sizes and min(self.sizes) < 0:
            raise ValueError(f"sizes has {min(self.sizes)}, which is below 0")


def refusal(raw: Any, cls: type = Outer) -> str:
    with pytest.raises(ConfigError) as caught:
        parse(cls, raw, HERE)
    assert "\n" not in str(caught.value)
    return str(caught.value)


# There and back --------------------------------------------------------------------------------


EVERY_SETTING: list[tuple[type, Any]] = [
    (DataSettings, {"dataset": "digits", "tasks": 5}),
    (DataSettings, {"dataset": "digits", "tasks": [[3, 1], [4]], "partition": {"dirichlet": 0.5, "capped": False}}),
    (DataSettings, {"dataset": "cifar100", "base": 50, "increment": 10, "order": [*range(99, -1, -1)]}),
    (DataSettings, {"dataset": "image_folder", "root": "/x", "tasks": 2, "resize": 32, "validation": 0.1, "order": 7}),
    (PartitionSettings, "iid"),
    (PartitionSettings, {"classes": 2, "draw": "once"}),
    (NetSettings, {}),
    (NetSettings, {"name": "resnet20", "stem": "imagenet", "width": 8}),
    (OptimizerSettings, {}),
    (OptimizerSettings, {"name": "adamw", "schedule": "step", "milestones": [0.5, 3], "precision": "bf16"}),
    (AnchorSettings, {}),
    (AnchorSettings, {"encoder": "some/encoder", "template": "{}!", "scale": "raw", "pooling": "cls", "file": "x"}),
    (FederationSettings, {}),
    (FederationSettings, {"fraction": 0.1, "backend": "inprocess", "stop_after": 1, "max_batches": 3, "timeout": 1}),
    (Resources, {}),
    (Resources, {"device": "cuda:3", "workers": 4, "client_gpus": 0, "ray_address": "auto"}),
    (Bound, {"hinge": "batch"}),
    *((Synthesizer, name) for name in SYNTHESIZERS),
    (Synthesizer, {"nayer": {"rounds": 3, "life": 5, "fidelity": "reference"}}),
    *((StrategySpec, name) for name in STRATEGIES),
    (StrategySpec, {"lander": {"radius": 0, "synthesizer": {"nayer": {"chains": 2}}, "hinge": "batch"}}),
    (Experiment, {"name": "x", "data": {"dataset": "digits", "tasks": 2}, "strategy": {"finetune": None}}),
    (Outer, {"name": "x", "count": 3, "maybe": {"rate": 2}, "sizes": [1, 2], "flag": False}),
]


@pytest.mark.parametrize(("cls", "raw"), EVERY_SETTING, ids=lambda v: v.__name__ if isinstance(v, type) else None)
def test_what_was_read_is_read_back_from_what_is_written(cls: type, raw: Any) -> None:
    settings = parse(cls, raw, HERE)
    written = yaml.safe_dump(yaml_ready(dump(settings)))
    assert parse(cls, parse_yaml(written, "written"), HERE) == settings


def yaml_ready(value: Any) -> Any:
    if isinstance(value, dict):
        return {k: yaml_ready(v) for k, v in value.items()}
    return [yaml_ready(v) for v in value] if isinstance(value, list | tuple) else value


def test_values_arrive_as_what_the_fields_say() -> None:
    outer = parse(Outer, {"name": "x", "inner": {"rate": 2}, "sizes": [3], "maybe": None}, HERE)
    assert outer == Outer(name="x", inner=Inner(rate=2.0), sizes=(3,))
    assert isinstance(outer.inner.rate, float)
    assert isinstance(outer.sizes, tuple)


def test_a_strategy_may_be_named_alone_or_with_options() -> None:
    alone, empty, given = (
        parse(StrategySpec, raw, HERE) for raw in ("finetune", {"finetune": None}, {"finetune": {"classes": "new"}})
    )
    assert alone == empty
    assert alone.strategy == STRATEGIES["finetune"]()
    assert given.to_yaml() == {"finetune": {"weighting": "examples", "classes": "new"}}
    assert choice({"a": {"b": 1}}, HERE, "thing") == ("a", {"b": 1})


@pytest.mark.parametrize("raw", [None, 3, [], ["finetune"], {}, {"a": 1}, {"a": {}, "b": {}}, {1: {}}])
def test_a_choice_is_a_name_or_a_name_with_options(raw: Any) -> None:
    with pytest.raises(ConfigError) as caught:
        choice(raw, HERE.at("strategy"), "strategy")
    assert str(caught.value) == (
        f"exp.yaml: strategy: {raw!r} is not allowed; expected a strategy name or {{name: {{option: value}}}}"
    )


def test_a_synthesizer_can_be_made_by_name() -> None:
    assert create("nayer", rounds=3) == SYNTHESIZERS["nayer"](rounds=3)
    with pytest.raises(ConfigError, match=r'nayer.rouns: unknown key .* Did you mean "rounds"\?'):
        create("nayer", rouns=3)


# Refused ---------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("raw", "said"),
    [
        ({}, "exp.yaml: name: missing; this key is required"),
        ({"name": "x", "cuont": 1}, "cuont: unknown key (allowed: name, count, inner, maybe, sizes, share, flag)."),
        ({"name": "x", "inner": {"rte": 1}}, 'inner.rte: unknown key (allowed: rate, mode). Did you mean "rate"?'),
        ({"name": "x", "maybe": {"rte": 1}}, "exp.yaml: maybe.rte: unknown key"),
        ({"name": "x", 7: 1}, "exp.yaml: 7: unknown key"),
        ({"name": 3}, "exp.yaml: name: 3 is not allowed; it should be a valid string"),
        ({"name": None}, "exp.yaml: name: None is not allowed"),
        ({"name": "x", "count": 0}, "exp.yaml: count: 0 is not allowed; it should be greater than or equal to 1"),
        ({"name": "x", "count": 1.5}, "exp.yaml: count: 1.5 is not allowed; it should be a valid integer"),
        ({"name": "x", "count": "2"}, "exp.yaml: count: '2' is not allowed; it should be a valid integer"),
        ({"name": "x", "count": True}, "exp.yaml: count: True is not allowed"),
        ({"name": "x", "flag": "yes"}, "exp.yaml: flag: 'yes' is not allowed; it should be a valid boolean"),
        ({"name": "x", "flag": 1}, "exp.yaml: flag: 1 is not allowed"),
        ({"name": "x", "inner": {"rate": -1}}, "exp.yaml: inner.rate: -1 is not allowed; it should be greater than 0"),
        ({"name": "x", "inner": {"rate": float("nan")}}, "exp.yaml: inner.rate: nan is not allowed"),
        ({"name": "x", "share": 1}, "exp.yaml: share: 1 is not allowed; it should be less than 1"),
        ({"name": "x", "inner": {"mode": "fats"}}, "it should be 'slow' or 'fast'. Did you mean \"fast\"?"),
        ({"name": "x", "inner": 3}, "exp.yaml: inner: 3 is not allowed; expected a mapping of rate, mode"),
        ({"name": "x", "inner": None}, "exp.yaml: inner: None is not allowed; expected a mapping of rate, mode"),
        ({"name": "x", "sizes": 3}, "exp.yaml: sizes: 3 is not allowed; it should be a valid array"),
        ({"name": "x", "sizes": [1, "a"]}, "exp.yaml: sizes: [1, 'a'] is not allowed"),
        ({"name": "x", "sizes": [1, -2]}, "exp.yaml: sizes has -2, which is below 0"),
        ({"name": {1, 2}}, "is not allowed; expected a number, text, list or mapping"),
        ([], "exp.yaml: [] is not allowed; expected a mapping of name, count"),
        (None, "exp.yaml: None is not allowed; expected a mapping of name, count"),
    ],
)
def test_a_refusal_names_file_key_value_and_what_is_allowed(raw: Any, said: str) -> None:
    assert said in refusal(raw)


def refusals(raw: Any, cls: type = Outer) -> list[str]:
    with pytest.raises(ConfigError) as caught:
        parse(cls, raw, HERE)
    return str(caught.value).splitlines()


def test_all_that_is_wrong_is_told_at_once_in_the_order_of_the_keys() -> None:
    raw = {"sizes": 3, "nme": "x", "inner": {"mode": "fats", "rate": -1}, "maybe": 3, "count": 1, "flag": "yes"}
    assert [line.split(" ")[1] for line in refusals(raw)] == [
        "sizes:", "nme:", "inner.mode:", "inner.rate:", "maybe:", "flag:",
    ]  # fmt: skip


def test_a_key_that_is_only_misspelt_is_not_called_missing_too() -> None:
    (line,) = refusals({"nme": "x"})
    assert line.endswith('Did you mean "name"?')
    assert [line.split(": ", 1)[1] for line in refusals({"qqq": 1})][1:] == ["name: missing; this key is required"]


def test_not_more_errors_are_told_than_one_reads() -> None:
    """Nor are they all looked for: a nearest guess takes its time."""
    began = time.monotonic()
    told = refusals({f"key{n}": n for n in range(50_000)})
    assert time.monotonic() - began < 5
    assert len(told) == MOST_ERRORS + 1
    assert told[-1] == "and more errors like these"
    assert [line.split(":")[1] for line in told[:2]] == [" key0", " key1"]


def test_keys_that_are_read_elsewhere_are_among_those_allowed() -> None:
    @dataclass(frozen=True, kw_only=True)
    class Elsewhere(Outer):
        READ_ELSEWHERE: ClassVar = ("matrix",)

    assert 'flag, matrix). Did you mean "matrix"?' in refusal({"name": "x", "matrx": 1}, Elsewhere)
    assert refusal({"name": "x", "matrix": 1}, Elsewhere).startswith("exp.yaml: matrix: unknown key")


@pytest.mark.parametrize("cls", [Experiment, Distillation])
def test_a_matrix_is_among_the_keys_of_a_file(cls: type) -> None:
    said = refusals({"matrx": {}}, cls)[0]
    assert ", matrix" in said
    assert said.endswith('Did you mean "matrix"?')


def test_an_error_that_tells_several_survives_a_process_and_a_place() -> None:
    several = ConfigError("a: b", "c:\nd", "a: b")
    assert str(several) == "a: b\nc: d"
    again = type(several)(*several.args)  # what pickling does
    assert str(again) == str(several)
    with pytest.raises(ConfigError) as caught, named(HERE):
        raise several
    assert str(caught.value) == "exp.yaml: a: b\nexp.yaml: c: d"


@pytest.mark.parametrize(
    ("typed", "meant"),
    [("cuont", "count"), ("Name", "name"), ("inners", "inner"), ("shares", "share"), ("qqq", None)],
)
def test_an_unknown_key_is_answered_with_the_nearest(typed: str, meant: str | None) -> None:
    said = refusal({"name": "x", typed: 1})
    assert said.endswith(f'Did you mean "{meant}"?') if meant else "Did you mean" not in said


@pytest.mark.parametrize(
    ("cls", "raw", "said"),
    [
        (StrategySpec, "landr", 'exp.yaml: unknown strategy "landr" (have: '),
        (StrategySpec, {"lander": {"radiuss": 1}}, "exp.yaml: lander.radiuss: unknown key"),
        (StrategySpec, {"lander": {"synthesizer": "nayr"}}, 'exp.yaml: lander.synthesizer: unknown synthesizer "nayr"'),
        (Synthesizer, {"nayer": {"rounds": 0}}, "exp.yaml: nayer.rounds: 0 is not allowed"),
        (DataSettings, {"dataset": "digit", "tasks": 2}, 'unknown data set "digit" (have: digits'),
        (NetSettings, {"name": "resnet9"}, 'unknown net "resnet9"'),
        (Resources, {"device": "gpu"}, 'device: "gpu" is not allowed; expected auto, cpu, cuda or cuda:k'),
        (OptimizerSettings, {"lr": 1e-5}, "min_lr: 0.001 is above lr 1e-05"),
        (AnchorSettings, {"template": "a photo"}, 'template: "a photo" must hold {} exactly once'),
        (FederationSettings, {"fraction": 0}, "exp.yaml: fraction: 0 is not allowed; it should be greater than 0"),
    ],
)
def test_what_names_something_unknown_is_refused(cls: type, raw: Any, said: str) -> None:
    assert said in refusal(raw, cls)


# YAML ------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("text", "value"),
    [
        *[("1e-3", 1e-3), ("5.0e-4", 5e-4), ("-2E+5", -2e5), ("+1e2", 100.0), ("1e3x", "1e3x"), ("e3", "e3")],
        *[("1.5", 1.5), (".5", 0.5), ("-.5", -0.5), ("1.", 1.0), (".5e3", 500.0), ("1.5e3", 1500.0)],
        *[("1_000", 1000), ("0x1F", 31), ("-0b11", -3), ("+7", 7), ("0", 0), ("-0", 0), ("0.5", 0.5), ("00.5", 0.5)],
        *[("No", False), ("on", True), ("Null", None), ("TRUE", True), ("tRUE", "tRUE"), ("_1", "_1"), (".", ".")],
        *[("0o17", "0o17"), ("12:99", "12:99")],
    ],
)
def test_numbers_are_read_as_one_writes_them(text: str, value: Any) -> None:
    read = parse_yaml(f"a: {text}", "x")["a"]
    assert read == value
    assert type(read) is type(value)


@pytest.mark.parametrize(
    ("text", "said"),
    [
        ("a: 1\nb: 2\na: 3\n", 'exp.yaml: not valid YAML at line 3, column 1: key "a" is given twice'),
        ("a: {b: 1, b: 2}", 'exp.yaml: not valid YAML at line 1, column 11: key "b" is given twice'),
        ("a: [1, 2\nb: 3\n", "exp.yaml: not valid YAML at line 2, column 2: expected ',' or ']', but got ':'"),
        ("a: 1\n\tb: 2\n", "exp.yaml: not valid YAML at line 2, column 1: found character"),
        ("a: *b\n", "exp.yaml: not valid YAML at line 1, column 4: found undefined alias"),
        ("a: \x01", "exp.yaml: not valid YAML: unacceptable character"),
        ("a: !!python/object/apply:os.system [x]", "exp.yaml: not valid YAML at line 1, column 4: could not determine"),
        ("{[1]: 2}", "exp.yaml: not valid YAML at line 1, column 2: found unhashable key"),
        ("? {a: 1}\n: 2\n", "exp.yaml: not valid YAML at line 1, column 3: found unhashable key"),
        ("[" * 5000, "exp.yaml: not valid YAML: nested too deeply"),
    ],
)
def test_malformed_yaml_is_shown_with_its_place(text: str, said: str) -> None:
    with pytest.raises(ConfigError) as caught:
        parse_yaml(text, "exp.yaml")
    assert str(caught.value).startswith(said)
    assert "\n" not in str(caught.value)


def test_a_merged_mapping_is_no_key_given_twice() -> None:
    assert parse_yaml("a: &a {x: 1}\nb: {<<: *a, y: 2}", "x")["b"] == {"x": 1, "y": 2}


MERGES = """
base: &base {x: 1, y: 1}
variant: &variant {<<: *base, x: 2}
late: &late {z: 3, <<: *base, x: 3}
"""


@pytest.mark.parametrize(
    ("run", "value"),
    [
        ("{<<: *variant}", {"x": 2, "y": 1}),
        ("{<<: *late}", {"x": 3, "y": 1, "z": 3}),
        ("{<<: [*variant, *late]}", {"x": 2, "y": 1, "z": 3}),
        ("{<<: [*late, *variant], y: 4}", {"x": 3, "y": 4, "z": 3}),
        ("{<<: {<<: *variant, y: 5}}", {"x": 2, "y": 5}),
        ("{<<: [*base, *variant]}", {"x": 1, "y": 1}),
        ("{<<: [], w: 1}", {"w": 1}),
        ('{"<<": 1}', {"<<": 1}),
    ],
)
def test_a_mapping_keeps_what_it_overrides_however_often_it_is_merged(run: str, value: Any) -> None:
    read = parse_yaml(f"{MERGES}run: {run}", "x")
    assert read["run"] == value
    assert read["variant"] == {"x": 2, "y": 1}
    assert read["base"] == {"x": 1, "y": 1}


def test_every_release_of_the_parser_finds_nothing_left_to_merge(monkeypatch: pytest.MonkeyPatch) -> None:
    met: list[str] = []
    flatten = yaml.SafeLoader.flatten_mapping

    def watched(self: Any, node: Any) -> None:
        met.extend(key.value for key, _ in node.value if key.tag.endswith(":merge"))
        flatten(self, node)

    monkeypatch.setattr(yaml.SafeLoader, "flatten_mapping", watched)
    assert parse_yaml(f"{MERGES}run: {{<<: *variant}}", "x")["run"]["x"] == 2
    assert met == []


@pytest.mark.parametrize(
    ("text", "said"),
    [
        ("032", '"032" is 26 in YAML 1.1 and 32 in 1.2; write 32, or put the text in quotes'),
        ("-010", '"-010" is -8 in YAML 1.1 and -10 in 1.2'),
        ("08", '"08" is text in YAML 1.1 and 8 in 1.2'),
        ("1:30", '"1:30" is a number to base 60 in YAML 1.1 and text in 1.2'),
        ("12:30:45.5", "is a number to base 60"),
    ],
)
def test_what_is_another_number_to_another_reader_is_refused(text: str, said: str) -> None:
    for whole in (f"a: {text}", f"a: [1, {text}]", f"a: &b {text}"):
        with pytest.raises(ConfigError, match="not valid YAML at line 1") as caught:
            parse_yaml(whole, "exp.yaml")
        assert said in str(caught.value)
    assert parse_yaml(f'a: "{text}"', "x")["a"] == text


TEXTS = ["032", "08", "1:30", "1e3", ".5e3", "-.5", "1_000", "no", "null", "~", "", "<<", "=", "2024-01-01", "0x1f"]
TEXTS += ["1.5E3", "+.inf", "a: b", "- a", "#x", "0b1", "0o17", "12:99", "y", " x ", "é", "'", '"']


@pytest.mark.parametrize("text", TEXTS)
def test_text_that_looks_like_a_number_is_written_so_that_it_stays_text(text: str) -> None:
    values = {"name": text, "names": [text, 1, text], "inner": {"deep": (text,)}}
    read = parse_yaml(dump_yaml(values), "x")
    assert read == {"name": text, "names": [text, 1, text], "inner": {"deep": [text]}}
    assert yaml.safe_load(dump_yaml({"names": [text]})) == {"names": [text]}


def test_numbers_survive_being_written_and_read() -> None:
    values = [0, -7, 10**20, 1.0, -2.5, 1e-7, 5e-324, 1.7976931348623157e308, 1e22, True, None]
    read = parse_yaml(dump_yaml({"a": values}), "x")["a"]
    assert read == values
    assert [type(v) for v in read] == [type(v) for v in values]


def test_a_file_that_cannot_be_read_is_named(tmp_path: Path) -> None:
    (tmp_path / "quickstart.yaml").write_text("a: 1")
    (tmp_path / "latin.yaml").write_bytes(b"a: \xe9")
    assert load_yaml(tmp_path / "quickstart.yaml") == {"a": 1}
    for path, said in {
        "quikstart.yaml": 'no such file. Did you mean "quickstart.yaml"?',
        "no/such/folder.yaml": "no such file.",
        "latin.yaml": "cannot be read (not UTF-8 text at byte 3)",
        ".": "cannot be read (Is a directory)",
    }.items():
        with pytest.raises(ConfigError, match=re.escape(said)) as caught:
            load_yaml(tmp_path / path)
        assert str(caught.value).startswith(str(tmp_path))


# Explained -------------------------------------------------------------------------------------


def settings_classes() -> Iterator[type]:
    sections = DataSettings, PartitionSettings, NetSettings, OptimizerSettings, AnchorSettings
    yield from (*sections, FederationSettings, Resources, Bound, Experiment, Plan)
    yield from STRATEGIES.values()
    yield from SYNTHESIZERS.values()


@pytest.mark.parametrize("cls", [*settings_classes()], ids=lambda cls: cls.__name__)
def test_every_setting_is_explained_in_one_sentence(cls: type) -> None:
    docs = field_docs(cls)
    for field in fields(cls):
        text = docs.get(field.name, "")
        assert len(text) > 5, f"{cls.__name__}.{field.name} has no sentence under it"
        assert text.endswith("."), f"{cls.__name__}.{field.name}: {text}"
        # A full stop inside, after more than an abbreviation, would make it two sentences.
        assert not re.search(r"[a-z)`]{3,}\. [A-Z]", text), f"{cls.__name__}.{field.name}: {text}"


def test_sentences_of_a_base_class_count_unless_the_field_is_its_own() -> None:
    @dataclass(frozen=True, kw_only=True)
    class Deeper(Outer):
        share: float = 0.5
        """Another share."""

    docs = field_docs(Deeper)
    assert docs["share"] == "Another share."
    assert docs["name"] == "Text."


def test_everything_that_can_be_chosen_says_what_it_is() -> None:
    rows = [*strategies(), *synthesizers()]
    assert {row.get("strategy") or row["synthesizer"] for row in rows} >= {"finetune", "joint", "lander", "nayer"}
    assert all(len(row["what"]) > 10 for row in rows)
