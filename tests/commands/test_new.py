"""`fcil new strategy` begins a strategy that keeps the contract; `fcil list strategies` says what each needs."""

from __future__ import annotations

import json
import re
import runpy
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path

import pytest
from small_runs import write_strategy

from fcil.check import CHECKS
from fcil.check.weighing import BYTES, weighed
from fcil.cli import main
from fcil.config.parts import load_source
from fcil.methods.files import built_in_files
from fcil.methods.introspection import declared, needs, sent
from fcil.methods.listing import strategies
from fcil.methods.scaffold import begin, title
from fcil.strategy import Strategy

Command = Callable[..., tuple[object, str, str]]


@pytest.fixture
def command(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> Command:
    """Runs `fcil ...` in this process, in an empty folder: exit code, output, errors."""
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("COLUMNS", "200")

    def run(*arguments: str) -> tuple[object, str, str]:
        monkeypatch.setattr(sys, "argv", ["fcil", *arguments])
        with pytest.raises(SystemExit) as stop:
            main()
        return stop.value.code, *capsys.readouterr()

    return run


# New -----------------------------------------------------------------------------------------------


def test_what_is_begun_passes_its_own_test(command: Command, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """As far as the run in another process; `test_what_is_begun_passes_under_pytest` has all of it."""
    code, out, err = command("new", "strategy", "my_way", "--out", "mine")
    assert (code, err) == (0, "")
    assert "fcil check ./mine/my_way.py" in out
    assert "strategy=./mine/my_way.py" in out
    assert sorted(path.name for path in Path("mine").iterdir()) == ["my_way.py", "test_my_way.py"]
    first = [one.name for one in CHECKS].index("process") + 1
    monkeypatch.setattr("fcil.check.verdict.CHECKS", CHECKS[:first])
    runpy.run_path("mine/test_my_way.py")["test_my_way_keeps_the_contract"]()


OTHERS = {
    "net": "net.name=./mine/my_way.py",
    "dataset": "data.dataset=./mine/my_way.py",
    "synthesizer": "'strategy={target: {synthesizer: ./mine/my_way.py}}'",
    "partition": "data.partition=./mine/my_way.py",
}


@pytest.mark.parametrize("kind", OTHERS)
def test_every_other_part_that_is_begun_passes_its_own_test(command: Command, kind: str) -> None:
    code, out, err = command("new", kind, "my_way", "--out", "mine")
    assert (code, err) == (0, "")
    assert f"fcil run experiments/quickstart.yaml {OTHERS[kind]}\n" in out
    runpy.run_path("mine/test_my_way.py")["test_my_way_keeps_the_contract"]()
    code, out, err = command("check", "./mine/my_way.py", "--json")
    assert code == 0
    assert json.loads(out)[kind] == "my_way"
    assert all(check["passed"] or not check["applies"] for check in json.loads(out)["checks"])


@pytest.mark.slow
def test_what_is_begun_passes_under_pytest(tmp_path: Path) -> None:
    begin("strategy", "my_way", tmp_path)
    test = [sys.executable, "-m", "pytest", "-q", "-p", "no:cacheprovider", "test_my_way.py"]
    done = subprocess.run(test, cwd=tmp_path, capture_output=True, text=True, timeout=300)
    assert done.returncode == 0, done.stdout
    assert "1 passed" in done.stdout


@pytest.mark.parametrize("kind", ["strategy", *OTHERS])
def test_what_is_begun_is_linted_and_short(tmp_path: Path, kind: str) -> None:
    begin(kind, "my_way", tmp_path)
    ruff = [sys.executable, "-m", "ruff", "check", "--select", "E,F,UP,B,SIM,RUF", "--line-length", "120"]
    done = subprocess.run([*ruff, "--isolated", str(tmp_path)], capture_output=True, text=True, timeout=60)
    assert done.returncode == 0, done.stdout
    assert len((tmp_path / "my_way.py").read_text().splitlines()) < (75 if kind == "synthesizer" else 45)


@pytest.mark.parametrize("taken", ["my_way.py", "test_my_way.py"])
def test_nothing_is_overwritten(command: Command, tmp_path: Path, taken: str) -> None:
    Path(taken).write_text("mine")
    code, out, err = command("new", "strategy", "my_way")
    assert (code, out) == (2, "")
    assert err == f"{taken} is there already; nothing was written\n"
    assert [(path.name, path.read_text()) for path in tmp_path.iterdir()] == [(taken, "mine")]


@pytest.mark.parametrize(
    ("arguments", "said"),
    [
        (("strategy", "lander"), '"lander" comes with the project; choose another name'),
        (
            ("strategy", "My-Way.py"),
            'no name for a strategy; expected small letters, digits and _. Did you mean "my_way"?',
        ),
        (("strategy", "class"), '"class" is no name for a strategy'),
        (("strategy", "_x"), '"_x" is no name for a strategy'),
        (("strategy", ""), '"" is no name for a strategy'),
        (("strategy", "../x"), '"../x" is no name for a strategy'),
        (
            ("stratgy", "x"),
            'kind "stratgy" (have: strategy, net, dataset, synthesizer, partition). Did you mean "strategy"?',
        ),
        (("synthesizer", "nayer"), '"nayer" comes with the project (fcil list synthesizers); choose another name'),
        (("net", "resnet8"), '"resnet8" comes with the project (fcil list nets); choose another name'),
        (("dataset", "digits"), '"digits" comes with the project (fcil list datasets); choose another name'),
        (("partition", "A B"), '"A B" is no name for a partition; expected small letters, digits and _. Did you mean'),
        (("strategy", "x", "--out", "file"), "cannot be written (Not a directory)"),
    ],
)
def test_what_cannot_be_begun_is_one_line(
    command: Command, tmp_path: Path, arguments: tuple[str, ...], said: str
) -> None:
    Path("file").write_text("")
    code, out, err = command("new", *arguments)
    assert (code, out) == (2, "")
    assert said in err
    assert err.count("\n") == 1
    assert [path.name for path in tmp_path.iterdir()] == ["file"]


def test_the_name_of_a_class() -> None:
    assert [title(name) for name in ("my_way", "fedlwf", "a2_b")] == ["MyWay", "Fedlwf", "A2B"]


# List ----------------------------------------------------------------------------------------------

SOURCE = '''"""What I do.

Paper: One and Two, "A title",
a place 2020, arXiv:2000.00001. Code: somewhere.
"""

import torch
from fcil import Strategy, Update


class Mine(Strategy):
    paper = 'One and Two, "A title", a place 2020, arXiv:2000.00001'
    uses = frozenset({"exemplars", "notes", "samples"})
    broadcasts = ("teacher", "mean", "n")

    def after_local_task(self, client):
        client.keep("exemplars", client.shard)
        client.memory["n"] = 1
        return Update({"n": torch.ones(1)}, 1)

    def after_task(self, server, updates):
        server.shared["teacher"] = server.net.weights()
        server.shared |= {"mean": torch.ones(2), "n": 3}
'''


def kind_of(folder: Path, source: str) -> type[Strategy]:
    kinds = vars(load_source(write_strategy(folder, source, "mine"), source)).values()
    return next(k for k in kinds if isinstance(k, type) and issubclass(k, Strategy) and k is not Strategy)


def test_what_a_strategy_needs_and_sends_is_what_it_declares(tmp_path: Path) -> None:
    kind = kind_of(tmp_path, SOURCE)
    assert kind.paper == 'One and Two, "A title", a place 2020, arXiv:2000.00001'
    assert needs(kind) == ["exemplars", "notes of each client"]
    assert sent(kind) == {
        "down": "the net, teacher, mean, n",
        "up": "the net, and more when a task ends",
    }


def test_a_client_that_says_nothing_when_a_task_ends(tmp_path: Path) -> None:
    source = SOURCE.replace("after_local_task(self, client):", "after_local_task(self, client) -> None:")
    assert sent(kind_of(tmp_path, source))["up"] == "the net"


DOCSTRING = re.compile(r'"""([^"]|"(?!""))*"""')


def test_rewording_the_sentences_of_a_file_changes_nothing(tmp_path: Path) -> None:
    """All of them, in every strategy of the house; the sentences themselves are shown as help."""
    for name, path in built_in_files().items():
        source = path.read_text(encoding="utf-8")
        reworded = DOCSTRING.sub('"""Said otherwise."""', source)
        assert reworded != source
        kind, other = (kind_of(tmp_path, text) for text in (source, reworded))
        assert declared(kind) == declared(other), name
        assert (kind.paper, needs(kind), sent(kind)) == (other.paper, needs(other), sent(other)), name


def test_a_strategy_that_declares_nothing_is_listed_with_less(tmp_path: Path) -> None:
    """One of an earlier version, in which the names of declarations are those of something else."""
    source = SOURCE[: SOURCE.index("    paper =")] + "    uses = 3\n"
    source += "\n    def loss_terms(self):\n        return self.uses\n"
    source += "\n    def local_loss(self, client, batch):\n        return self.loss_terms()\n"
    kind = kind_of(tmp_path, source)
    assert (kind.paper, needs(kind), sent(kind)) == ("", [], {"down": "the net", "up": "the net"})
    assert declared(kind) == {"data": "task", "uses": [], "loss_terms": [], "weights": {}, "radii": {}}


def test_strategies_are_listed_with_what_they_need() -> None:
    rows = {row["strategy"]: row for row in strategies()}
    assert rows["finetune"]["needs"] == ""
    assert rows["joint"]["needs"] == "all earlier data"
    assert rows["lander"]["needs"] == "anchors, a teacher on clients, synthesis on the server"
    assert rows["lander"]["down"] == "the net, anchors, synthetic, teacher"
    assert "CVPR 2024" in rows["lander"]["paper"]


def test_a_file_is_listed_by_its_path(command: Command) -> None:
    Path("mine.py").write_text(SOURCE)
    code, out, err = command("list", "strategies", "./mine.py", "--json")
    assert (code, err) == (0, "")
    row = json.loads(out)
    assert (row["strategy"], row["what"], row["needs"]) == (
        "./mine.py",
        "What I do.",
        "exemplars, notes of each client",
    )
    assert [option["option"] for option in row["options"]] == ["weighting"]
    code, out, err = command("list", "strategies", "./mime.py")
    assert (code, out, err) == (2, "", 'list: no strategy file "./mime.py". Did you mean "mine.py"?\n')
    code, out, err = command("list", "strategies", "./dusk.py")  # as like it as any file of Python, by its ending
    assert (code, out, err) == (2, "", 'list: no strategy file "./dusk.py".\n')


def test_bytes_are_measured(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("fcil.check.weighing.NET", "resnet8")
    finetune, lander = weighed([{"strategy": "finetune"}, {"strategy": "lander"}])
    assert finetune["down_round"] == finetune["up_round"] > 100_000
    assert finetune["down_task"] == finetune["up_task"] == lander["up_task"] == 0
    assert lander["down_round"] == lander["up_round"] > finetune["down_round"]  # a text head
    assert lander["down_task"] > lander["down_round"] * 0.99  # the teacher, of two classes less


def test_bytes_can_be_asked_for_of_strategies_alone(command: Command, monkeypatch: pytest.MonkeyPatch) -> None:
    found = dict(zip(BYTES, (10, 20, 30, 4_000_000), strict=True))
    monkeypatch.setattr("fcil.check.weighing.measured", lambda spec: found)
    code, out, _ = command("list", "strategies", "--bytes", "--json")
    assert code == 0
    assert all(row.items() >= found.items() for row in json.loads(out))
    code, out, _ = command("list", "strategies", "--bytes")
    assert code == 0
    assert out.startswith("Bytes of one client in the second of two tasks with resnet18")
    assert "4 MB" in out
    code, out, err = command("list", "nets", "--bytes")
    assert (code, err) == (2, "list: --bytes is for strategies, not for nets\n")
