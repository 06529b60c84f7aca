"""`fcil check`: sound strategies pass, and each mistake fails the check that is about it, with a line that helps."""

from __future__ import annotations

import json
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from small_runs import write_strategy

from fcil.check import CHECKS, Report, check, find
from fcil.check.circumstances import check_predict, check_scale, check_skipped, check_tested, check_uneven
from fcil.check.contract import Case, Check, Look, NotApplicable, check_ends, check_finite, check_order
from fcil.check.laws import offences
from fcil.check.series import check_series
from fcil.check.trials import TrialRun, Trials, plan_of, write_series
from fcil.cli import main
from fcil.errors import ConfigError

HEAD = '''"""Broken on purpose."""
import random
from dataclasses import dataclass

import torch
import torch.nn.functional as F

from fcil import Strategy, Update

KEPT = {}


@dataclass(frozen=True, kw_only=True)
class Broken(Strategy):
'''
Checked = Callable[..., Report]


@pytest.fixture
def checked(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Checked:
    """The report about a strategy with these methods; checks are made up to the one named `last`."""

    def run(body: str, head: str = HEAD, process: bool = False, last: str = CHECKS[-1].name) -> Report:
        monkeypatch.setattr("fcil.check.verdict.CHECKS", CHECKS[: [one.name for one in CHECKS].index(last) + 1])
        path = write_strategy(tmp_path, head + "".join(f"    {line}\n" for line in body.strip().split("\n")), "broken")
        return check(path, process=process)

    return run


def assert_fails(report: Report, **expected: str) -> None:
    """These checks failed and no other did, and each line says this."""
    said = {result.name: result.problem for result in report.failed}
    assert list(said) == list(expected), said
    for name, part in expected.items():
        assert part in said[name]
        assert "\n" not in said[name]
    assert not report.passed


# Sound ---------------------------------------------------------------------------------------------


@pytest.mark.parametrize("strategy", ["finetune", "lander"])
def test_a_strategy_of_the_house_keeps_the_contract(strategy: str) -> None:
    told: list[str] = []
    before = torch.get_rng_state()
    report = check(strategy, process=False, say=lambda result, left: told.append(result.name))
    assert report.passed, report
    assert told == [c.name for c in CHECKS if c.name not in ("ray", "process")]
    assert torch.equal(torch.get_rng_state(), before)


def test_every_check_says_what_it_is_and_needs_earlier_ones() -> None:
    names = [one.name for one in CHECKS]
    assert len(set(names)) == len(names)
    for position, one in enumerate(CHECKS):
        assert one.what.endswith(".")
        assert "\n" not in one.what
        assert set(one.needs) <= set(names[:position])


KEEPS = """
{uses}
{broadcasts}
def after_local_task(self, client):
    client.keep("exemplars", client.shard)

def after_task(self, server, updates):
    server.shared["mean"] = torch.ones(1)
"""


@pytest.mark.parametrize(
    ("uses", "broadcasts", "advice"),
    [
        ("", "", 'add "exemplars" to the class variable uses, so that listings and diagnostics know of it'),
        (
            'uses = frozenset({"exemplar"})',
            "",
            'uses has "exemplar" (have: exemplars, teacher, samples, notes, sums).',
        ),
        ('uses = {"exemplars"}', "", 'add "mean" to the class variable broadcasts: clients are sent it'),
        ('uses = {"exemplars"}', 'broadcasts = ("mean",)', ""),
    ],
)
def test_what_is_not_declared_is_asked_for_and_fails_nothing(
    checked: Checked, uses: str, broadcasts: str, advice: str
) -> None:
    report = checked(KEEPS.format(uses=uses, broadcasts=broadcasts), last="declared")
    assert report.passed
    assert report.results[-1].problem.startswith(advice)
    assert bool(report.results[-1].problem) == bool(advice)


# Series --------------------------------------------------------------------------------------------


@pytest.mark.parametrize("strategy", ["finetune", "lander"])
def test_a_strategy_of_the_house_keeps_the_contract_on_series(tmp_path: Path, strategy: str) -> None:
    with Trials(tmp_path) as stage:
        assert check_series(Case(find(strategy), stage)) is None
        assert [folder.name for folder in sorted((tmp_path / "on series").iterdir())] == [
            "again", "base", "other tests", "resumed", "series.npz",
        ]  # fmt: skip


def test_the_series_of_a_check_end_early_and_are_equal_each_time(tmp_path: Path) -> None:
    for name in ("a.npz", "b.npz"):
        write_series(tmp_path / name)
    first, again = (np.load(tmp_path / name) for name in ("a.npz", "b.npz"))
    for key in first:
        assert np.array_equal(first[key], again[key], equal_nan=key.startswith("x"))
    for split in ("train", "test"):
        padded = np.isnan(first[f"x_{split}"])
        assert (padded.all(1) == padded.any(1)).all()
        assert 0.2 < padded.any((1, 2)).mean() < 0.8
        assert sorted(set(first[f"y_{split}"])) == [0, 1, 2, 3, 4, 5]
    assert np.isnan(first["x_test"][:9]).any()


@pytest.mark.parametrize("strategy", ["glfc", "fedcil"])
def test_a_strategy_of_images_is_not_tried_on_series(tmp_path: Path, strategy: str) -> None:
    with Trials(tmp_path) as stage:
        said = check_series(Case(find(strategy), stage))
    assert isinstance(said, NotApplicable)
    assert said == "it learns images alone (class variable inputs)"


def test_a_check_that_does_not_apply_is_no_failure(monkeypatch: pytest.MonkeyPatch) -> None:
    alone = [Check("series", check_series)]
    monkeypatch.setattr("fcil.check.verdict.CHECKS", alone)
    report = check("glfc", process=False)
    assert report.passed
    assert not report.failed
    assert report.results[0].passed is None
    assert report.results[0].row()[""] == "not applicable"
    assert report.to_json()["checks"][0]["applies"] is False
    assert report.conclusion.startswith("glfc: 0 of 0 checks passed")


NOT_FOR_SERIES = {
    "images of another size": (
        "def local_loss(self, client, batch):\n"
        "    return {'ce': F.cross_entropy(client.net(F.interpolate(batch.x, (8, 8))).logits, batch.y)}",
        "with series, of which a batch is (B, 2, 16): client 0, task 1, round 1: ValueError: ",
        "(broken.py:16, in local_loss)",
    ),
    "a mean over padding": (
        "def local_loss(self, client, batch):\n"
        "    return {'ce': batch.x.mean() * F.cross_entropy(client.net(batch.x).logits, batch.y)}",
        'with series, of which a batch is (B, 2, 16): client 0, task 1, round 1: loss term "ce" became nan',
        "; steps past the end of a series are NaN: split_padding of fcil.nets.series.padding gives the values and a "
        "mask",
    ),
    "scores over padding": (
        "def predict(self, net, x, shared):\n    return net(x).logits * x.flatten(1).abs().mean(1, keepdim=True)",
        "with series, of which a batch is (B, 2, 16): a score is NaN or infinite; steps past the end of a series",
        "and a mask",
    ),
}


@pytest.mark.parametrize("mistake", NOT_FOR_SERIES)
def test_a_mistake_that_series_alone_show(tmp_path: Path, mistake: str) -> None:
    body, begins, ends = NOT_FOR_SERIES[mistake]
    path = write_strategy(tmp_path, HEAD + "".join(f"    {line}\n" for line in body.split("\n")), "broken")
    with Trials(tmp_path / "runs") as stage:
        case = Case(find(path), stage)
        assert check_ends(case) is None
        assert check_predict(case) is None
        said = check_series(case)
    assert said is not None
    assert said.startswith(begins)
    assert said.endswith(ends)
    assert "\n" not in said


def test_a_strategy_of_series_alone_is_tried_on_series_throughout(checked: Checked) -> None:
    report = checked(
        'inputs = frozenset({"series"})\n'
        "def local_loss(self, client, batch):\n    _, channels, steps = batch.x.shape\n"
        "    return {'ce': F.cross_entropy(client.net(batch.x).logits, batch.y)}",
        last="series",
    )
    assert report.passed, report


# Broken --------------------------------------------------------------------------------------------


def test_what_is_undocumented_or_printed_is_found_in_the_file(checked: Checked) -> None:
    report = checked('pull: float = 1.0\ndef before_task(self, server):\n    print("hello")\n', last="source")
    assert_fails(
        report, options="pull has no sentence under it that says what it is (line 15)", source="line 17: print()"
    )


def test_a_field_without_a_decorator_is_none(checked: Checked) -> None:
    head = '"""Plain."""\nfrom fcil import Strategy\nclass Plain(Strategy):\n'
    with pytest.raises(ConfigError, match=r"put @dataclass\(frozen=True, kw_only=True\) above class Plain"):
        checked('pull: float = 1.0\n"""Of it."""\n', head, last="source")


def test_memory_that_is_no_value(checked: Checked) -> None:
    report = checked(
        "def local_train(self, client):\n    client.memory['a'] = [1]\n    return super().local_train(client)"
    )
    assert_fails(report, state='client 0, task 1, round 1: client.memory: state "a" is a list')
    assert {r.problem for r in report.results if r.passed is None} == {"left out until state passes"}


def test_a_loss_that_is_not_finite(checked: Checked) -> None:
    report = checked("def local_loss(self, client, batch):\n    return {'odd': client.net(batch.x).logits.sum() / 0}")
    assert_fails(report, finite='client 0, task 1, round 1: loss term "odd" became nan')


def test_a_mistake_is_told_with_its_place(checked: Checked) -> None:
    report = checked("def local_loss(self, client, batch):\n    return {'ce': client.nett(batch.x)}")
    assert_fails(report, ends="AttributeError: 'Client' object has no attribute 'nett' (broken.py:16, in local_loss)")


def test_a_mistake_on_the_server_is_told_with_its_place(checked: Checked) -> None:
    report = checked("def after_task(self, server, updates):\n    server.shared['x'] = updates[0]")
    assert_fails(report, ends="IndexError: tuple index out of range (broken.py:16, in after_task)")


def test_a_client_that_changes_what_is_shared(checked: Checked) -> None:
    report = checked(
        "def before_task(self, server):\n    server.shared['centre'] = torch.zeros(3)\n"
        "def local_train(self, client):\n    client.shared['centre'] += 1\n    return super().local_train(client)"
    )
    assert_fails(report, sent='client 0, task 1, round 1: changed client.shared["centre"] in place')


def test_clients_that_send_different_tensors(checked: Checked) -> None:
    report = checked(
        "def local_train(self, client):\n    update = super().local_train(client)\n"
        "    if client.index == 1:\n        del update.weights['classifier.bias']\n    return update"
    )
    assert_fails(report, sent="task 1, round 1: client 0 sends classifier.bias and client 1 does not")


def test_what_outlives_a_run(checked: Checked) -> None:
    report = checked(
        "def local_loss(self, client, batch):\n    KEPT['n'] = KEPT.get('n', 0) + 1\n"
        "    return {'ce': KEPT['n'] * F.cross_entropy(client.net(batch.x).logits, batch.y)}"
    )
    assert_fails(report, repeat="task 1, round 1: terms ce is ")
    assert "outlive a run" in report.failed[0].problem


@pytest.mark.parametrize(
    ("draw", "said", "place", "last"),
    [
        (
            "scale = 1 + torch.rand(())",
            "under another global seed task 1, round 1: terms ce is ",
            "torch.rand",
            CHECKS[-1].name,
        ),
        (
            "scale = 1 + 0 * random.random()",
            "the global stream of random is not as it was before the run",
            "random.random",
            "random",
        ),
        (
            "torch.manual_seed(0); scale = 1",
            "the global stream of torch is not as it was before the run",
            "torch.manual_seed",
            "random",
        ),
    ],
)
def test_global_random_streams(checked: Checked, draw: str, said: str, place: str, last: str) -> None:
    report = checked(
        f"def local_loss(self, client, batch):\n    {draw}\n"
        "    return {'ce': scale * F.cross_entropy(client.net(batch.x).logits, batch.y)}",
        last=last,
    )
    assert_fails(report, random=said)
    assert report.failed[0].problem.endswith(f"(broken.py:16, {place})")


def test_the_order_of_a_set(checked: Checked) -> None:
    report = checked(
        "def before_task(self, server):\n    server.memo['order'] = ' '.join(set(server.net.state_dict()))",
        process=True,
    )
    assert_fails(report, process="server.memo is another at the end of the run; is a set or hash()")


def test_a_teacher_that_clients_are_not_handed(checked: Checked) -> None:
    report = checked(
        "def after_task(self, server, updates):\n    KEPT['mean'] = server.net.classifier.weight.mean().item()\n"
        "def local_loss(self, client, batch):\n    terms = super().local_loss(client, batch)\n"
        "    return terms if client.task.first else {'ce': terms['ce'] * (1 + KEPT['mean'])}",
        last="resume",
    )
    assert_fails(report, separate="client 0, task 2, round 1: KeyError: 'mean' (broken.py:19, in local_loss); is there")


def test_a_note_that_no_checkpoint_has(checked: Checked) -> None:
    report = checked(
        "def after_task(self, server, updates):\n    KEPT['mean'] = server.net.classifier.weight.mean().item()\n"
        "def before_task(self, server):\n    if not server.task.first:\n        server.memo['mean'] = KEPT['mean']",
        last="resume",
    )
    assert_fails(report, resume="KeyError: 'mean' (broken.py:19, in before_task); what must outlive a round belongs")


def test_a_client_that_leaves_something_for_the_next(checked: Checked) -> None:
    report = checked(
        "def local_train(self, client):\n    here = (client.task.number, client.round)\n"
        "    turn = KEPT['turn'] = KEPT.get('turn', 0) + 1 if KEPT.get('at') == here else 0\n    KEPT['at'] = here\n"
        "    client.memory['turn'] = turn\n    return super().local_train(client)"
    )
    assert_fails(report, order="last client first, the memory of client 0 is another at the end of the run")


def test_a_net_that_learns_from_test_images(checked: Checked) -> None:
    report = checked("def predict(self, net, x, shared):\n    return net.train()(x).logits")
    assert_fails(report, leaks="has changed while test images were shown to predict; they stay on the server")


def test_a_server_that_learns_from_test_images_behind_our_back(checked: Checked) -> None:
    report = checked(
        "def predict(self, net, x, shared):\n    KEPT['x'] = float(x.mean())\n    return net(x).logits\n"
        "def before_task(self, server):\n    if server.task.first:\n        KEPT.clear()\n"
        "    server.net.classifier.bias.data += KEPT.get('x', 0.0)"
    )
    assert_fails(report, resume="", tested="with other test images ")
    assert "predict may look at the net, not change or keep anything" in report.failed[1].problem


def test_a_client_that_trains_on_images_of_a_task_that_is_over(checked: Checked) -> None:
    report = checked(
        "def local_train(self, client):\n    rows = client.memory.get('rows', client.shard.indices[:1])\n"
        "    client.memory['rows'] = rows\n    client.shard.images.take(rows)\n"
        "    return super().local_train(client)",
        last="sent",
    )
    assert_fails(report, leaks="client 0, task 2, round 1: used 1 image of class ")


def test_circumstances_that_were_not_thought_of(checked: Checked) -> None:
    """One sample, a head that grows by one class, a round missed, a score of the batch, a note for each client."""
    report = checked(
        "def local_train(self, client):\n    classes = client.shard.labels.unique()\n"
        "    if len(client.shard) == 1:\n        raise ValueError('no two samples')\n"
        "    if client.task.num_new == 1:\n        raise ValueError('no two classes')\n"
        "    if client.round == 3 and 'round 1' not in client.memory:\n        raise ValueError('where was I?')\n"
        "    client.memory[f'round {client.round}'] = 1\n    return super().local_train(client)\n"
        "def aggregate(self, server, updates):\n"
        "    server.memo['all'] = torch.zeros(server.num_clients)\n    return super().aggregate(server, updates)\n"
        "def predict(self, net, x, shared):\n    scores = net(x).logits\n    return scores - scores.mean(0)"
    )
    assert_fails(
        report,
        uneven="a client with one sample: client 0, task 1, round 1: ValueError: no two samples (broken.py:18",
        growth="client 0, task 2, round 1: ValueError: no two classes (broken.py:20",
        skipped="of 2 failed, and federation.min_success is 0.5: ValueError: where was I? (broken.py:22",
        predict="when other images are beside its own",
        scale="with 24 clients, 4 in a round: ",
    )


@pytest.mark.parametrize(
    ("look", "body", "said"),
    [
        (
            check_scale,
            "def before_task(self, server):\n        server.memo['notes'] = torch.zeros(server.num_clients, 2)\n",
            'server.memo["notes"] holds 32 bytes with 4 clients and 192 with 24',
        ),
        (
            check_predict,
            "def predict(self, net, x, shared):\n        return net(x).features\n",
            "of 9 images and 4 classes seen it makes [9, 16]; expected [9, 4]",
        ),
        (
            check_predict,
            "def predict(self, net, x, shared):\n        return net(x).logits / 0\n",
            "a score is NaN or infinite",
        ),
        (
            check_finite,
            "def after_task(self, server, updates):\n        server.shared['a'] = {'b': torch.ones(2) / 0}\n",
            "server.shared.a.b holds NaN or infinity at the end of a run",
        ),
    ],
)
def test_what_a_single_check_says(tmp_path: Path, look: Look, body: str, said: str) -> None:
    path = write_strategy(tmp_path, f"{HEAD}    {body}", "broken")
    with Trials(tmp_path / "runs") as stage:
        assert look(Case(find(path), stage)) == said


@pytest.mark.parametrize(
    ("source", "said"),
    [
        ("import pickle", "imports pickle"),
        ("from torch.utils.data import DataLoader", "a DataLoader"),
        ("from torch.utils import data\ndata.DataLoader([])", "a DataLoader"),
        ("from fcil.data import load_dataset", "client.shard"),
        ("from sklearn.datasets import load_digits", "client.shard"),
        ("from fcil.federation.context import Datasets", "handed what it may use"),
        ("from fcil import run", "handed what it may use"),
        ("from . import other", "relative import"),
        ("x.to(client.device)", "right device"),
        ("x.cuda()", "right device"),
        ("import torch\ntorch.save(x, 'x')", "pickles"),
        ("import numpy as np\nnp.load('x', allow_pickle=True)", "allow_pickle"),
        ("import logging", "imports logging"),
    ],
)
def test_what_no_strategy_does_is_found_without_running_it(source: str, said: str) -> None:
    assert said in " ".join(deed for _, deed in offences(source))


def test_what_strategies_do_is_allowed() -> None:
    sound = "import torch\nfrom fcil import Strategy\nfrom fcil.losses import bounding\nx.to(torch.int64)\nx.to(y)"
    assert list(offences(sound)) == []


# The command ---------------------------------------------------------------------------------------


def test_the_command_says_what_is_wrong_and_with_which_exit_code(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr("fcil.check.verdict.CHECKS", CHECKS[:3])
    monkeypatch.setattr("fcil.check.verdict.Apart.begin", lambda folder, plan: None)
    monkeypatch.setenv("COLUMNS", "300")
    write_strategy(tmp_path, HEAD + "    pull: float = 1.0\n", "broken")

    def command(*arguments: str) -> tuple[object, str, str]:
        monkeypatch.setattr(sys, "argv", ["fcil", "check", *arguments])
        with pytest.raises(SystemExit) as stop:
            main()
        return stop.value.code, *capsys.readouterr()

    code, out, err = command("broken.py", "--no-ray")
    assert code == 1
    assert "options  FAIL  Its fields are settings" in out
    assert "pull has no sentence under it" in out
    assert "2 of 3 checks passed" in out
    assert err.startswith("1/3 options 0.")
    code, out, err = command("finetune", "classes=new", "--no-ray", "--json")
    assert code == 0
    assert [(row["name"], row["passed"]) for row in json.loads(out)["checks"]] == [
        ("options", True),
        ("source", True),
        ("state", True),
    ]
    for arguments, said in (
        (("fintune",), 'fcil check: unknown strategy "fintune"'),
        (
            ("dafl",),
            'fcil check: "dafl" is a synthesizer, and strategies are checked; in a checkout `python -m pytest ',
        ),
        (("brokn.py",), 'fcil check: no strategy file "brokn.py". Did you mean "broken.py"?'),
        (("finetune", "class=new"), 'class: unknown key (allowed: weighting, classes). Did you mean "classes"?'),
        (("finetune", "new"), '"new" is not allowed; expected key=value'),
    ):
        code, out, err = command(*arguments)
        assert (code, out) == (2, "")
        assert said in err
        assert err.count("\n") == 1


def test_a_file_that_does_not_load_is_refused(tmp_path: Path) -> None:
    path = write_strategy(tmp_path, "import nothing_of_this_name\n", "absent")
    with pytest.raises(ConfigError, match=r'strategy file ".*absent.py" does not load: ModuleNotFoundError'):
        find(path)


def test_a_check_plays_in_a_folder_of_its_own(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    with Trials(tmp_path / "there") as stage:
        played = stage.play("run", plan_of(find("finetune"), rounds=1, stop_after=1))
    assert played.problem is None
    assert [path.name for path in tmp_path.iterdir()] == ["there"]
    assert list(played.outcome()["records"]) == ["task 1, round 1", "the end of task 1"]


def test_the_circumstances_are_what_they_say(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    played: dict[str, TrialRun] = {}
    play = Trials.play

    def spy(stage: Trials, name: str, *arguments: Any, **options: Any) -> TrialRun:
        played[name] = play(stage, name, *arguments, **options)
        return played[name]

    monkeypatch.setattr(Trials, "play", spy)
    with Trials(tmp_path) as stage:
        case = Case(find("finetune"), stage)
        assert [look(case) for look in (check_uneven, check_skipped, check_tested, check_order)] == [None] * 4
    assert [r["empty"] for (_, number), r in played["uneven"].records.items() if number] == [[1]] * 4
    failures = {at: [f["outcome"] for f in r["failures"]] for at, r in played["skipped"].records.items()}
    assert failures == {(t, n): ["skipped"] if n == 1 else [] for t in (1, 2) for n in (1, 2, 3, 0)}
    assert played["other tests"].rows != played["base"].rows
    orders = [list(played[name].grid.names[1, 1]) for name in ("base", "backwards")]
    assert orders == [[0, 1, 2], [2, 1, 0]]
