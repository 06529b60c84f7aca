"""Strategies as people write them at first: what they leave behind, misspell, return and raise."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
import torch
from small_runs import final_weights, play, same, write_experiment, write_strategy
from torch import nn

from fcil import cli
from fcil.errors import ConfigError, FCILError, LeakError, TrainingError, described
from fcil.federation.runtime.isolation import Untouched, anatomy, is_as_it_was, restore_switches, settle, switches
from fcil.nets import NetSettings, build_net

HEAD = '''"""A strategy."""

import sys
from dataclasses import dataclass
from functools import cached_property

import torch
import torch.nn.functional as F
from torch import nn

from fcil import Strategy, Update


'''
PLAIN = "@dataclass(frozen=True, kw_only=True)\nclass Own(Strategy):\n"


def strategy_file(folder: Path, body: str, above: str = PLAIN) -> str:
    lines = "".join(f"    {line}\n" if line else "\n" for line in body.splitlines())
    return str(write_strategy(folder, HEAD + above + lines, "own"))


def run_of(folder: Path, body: str, *overrides: str, above: str = PLAIN, name: str = "out", **parts: Any) -> Path:
    settings: dict[str, Any] = {"federation": {"clients": 3, "rounds": 2, "stop_after": 1}, **parts}
    source = write_experiment(folder, strategy=strategy_file(folder, body, above), **settings)
    return play(source, *overrides, out=folder / name)[0].path


# Clients begin clean ----------------------------------------------------------------------------------

LEFT_BEHIND = {
    "gradients off": "for p in [*client.net.parameters()][:-2]: p.requires_grad_(False)",
    "grad mode": "torch.set_grad_enabled(False)",
    "default type": "torch.set_default_dtype(torch.float64)",
    "autocast": "torch.set_autocast_enabled('cpu', True)",
    "mode": "for m in client.net.modules(): m.momentum = 0.9",
    "hook": "client.net.backbone.register_forward_hook(lambda m, i, o: o * 0.5)",
    "pre-hook": "client.net.classifier.register_forward_pre_hook(lambda m, i: (i[0] * 2,))",
    "gradient hook": "client.net.classifier.weight.register_hook(lambda g: g * 10)",
    "attribute": "client.net.forward = lambda x: nn.Module.__call__(client.net.backbone, x)",
    "module": "client.net.backbone = nn.Sequential(client.net.backbone, nn.Tanh())",
    "parameter": "client.net.classifier.weight = nn.Parameter(client.net.classifier.weight.detach() * 0)",
    "precision": "client.net.double()",
    "frozen net's mode": "client.frozen('teacher').train()",
    "frozen net's weights": "[p.detach().mul_(0) for p in client.frozen('teacher').parameters()]",
    "frozen net's hook": "client.frozen('teacher').register_forward_hook(lambda m, i, o: o._replace(logits=-o.logits))",
    "what is shared": "client.shared['teacher']['classifier.weight'].zero_()",
    "a net of what it spoilt": "client.shared['teacher']['classifier.weight'].zero_(); client.frozen('teacher')",
    "what is shared, replaced": "client.shared['teacher']['classifier.weight'] = torch.zeros(1)",
}
USES_TEACHER = """
def local_loss(self, client, batch):
    logits = client.net(batch.x).logits
    with torch.no_grad():
        teacher = client.frozen("teacher")(batch.x).logits
    kept = client.shared["teacher"]["classifier.weight"].sum()
    return {"ce": F.cross_entropy(logits, batch.y), "kd": F.mse_loss(logits, teacher) + 0 * kept}

def before_task(self, server):
    server.shared["teacher"] = server.net.weights()

def local_train(self, client):
    if client.index == 0:
        ACTION
        zero = {name: torch.zeros_like(w) for name, w in client.start.items()}
        return Update(zero, 0)
    return super().local_train(client)
"""
CLEAN = USES_TEACHER.replace("ACTION", "pass")


@pytest.fixture(scope="module")
def clean(tmp_path_factory: pytest.TempPathFactory) -> Any:
    """The weights of a federation in which client 0 does nothing."""
    return final_weights(run_of(tmp_path_factory.mktemp("clean"), CLEAN))


@pytest.mark.parametrize("left", [*LEFT_BEHIND])
def test_what_a_client_leaves_behind_does_not_reach_the_next(tmp_path: Path, clean: Any, left: str) -> None:
    run = run_of(tmp_path, USES_TEACHER.replace("ACTION", LEFT_BEHIND[left]))
    assert same(final_weights(run), clean)
    assert torch.is_grad_enabled()
    assert torch.get_default_dtype() == torch.float32


@pytest.mark.parametrize(
    ("action", "what"),
    [
        ("client.start['classifier.weight'].zero_()", "client.start"),
        ("client.shard.labels.zero_()", "client.shard"),
        ("object.__setattr__(self, 'weighting', 'uniform')", "self, of class Own,"),
        ("type(self).count = getattr(type(self), 'count', 0) + 1", "class Own"),
    ],
)
@pytest.mark.parametrize("policy", ["stop", "skip"])
def test_what_cannot_be_had_again_ends_the_run(tmp_path: Path, action: str, what: str, policy: str) -> None:
    with pytest.raises(LeakError) as caught:
        run_of(tmp_path, USES_TEACHER.replace("ACTION", action), f"federation.on_failure={policy}")
    assert "client 0, task 1, round 1: strategy own, in local_train: " in str(caught.value)
    assert f"{what} is not as it was" in str(caught.value)


def test_a_value_that_is_worked_out_once_from_hyper_parameters_is_no_change(tmp_path: Path) -> None:
    body = "k: float = 2.0\n@cached_property\ndef twice(self): return 2 * self.k\n"
    body += "def local_loss(self, client, batch):\n"
    body += "    return {'ce': self.twice * F.cross_entropy(client.net(batch.x).logits, batch.y)}"
    assert run_of(tmp_path, body).is_dir()


def net() -> nn.Module:
    return build_net(NetSettings(name="resnet8", width=4), shape=(1, 8, 8), num_classes=2, text_width=8, key=(0,))


def test_training_a_net_leaves_it_made_of_the_same_things() -> None:
    one = net()
    before = anatomy(one)
    one.eval()
    one(torch.rand(2, 1, 8, 8)).logits.sum().backward()
    settle(one, training=True, requires_grad=True)
    assert is_as_it_was(one, before)
    assert all(p.grad is None for p in one.parameters())


def test_lists_of_tensors_in_a_module_are_compared_by_identity() -> None:
    one = net()
    one.notes = [torch.zeros(2), torch.zeros(2)]  # type: ignore[assignment]
    before = anatomy(one)
    assert is_as_it_was(one, before)
    one.notes = [torch.zeros(2), torch.zeros(2)]  # type: ignore[assignment]
    assert not is_as_it_was(one, before)


def test_a_shared_value_is_untouched_until_it_is_changed() -> None:
    value: Any = {"a": torch.zeros(2), "b": {"c": 1, "d": "x"}}
    before = Untouched(value)
    value["a"].sum()
    assert before.holds(value)
    value["b"]["c"] = 2
    assert not before.holds(value)
    value["b"]["c"] = 1
    value["a"] += 1
    assert not before.holds(value)


def test_switches_are_set_back() -> None:
    before = switches()
    try:
        torch.set_default_dtype(torch.float64)
        torch.set_grad_enabled(False)
    finally:
        restore_switches(before)
    assert switches() == before


# Names that nobody calls ------------------------------------------------------------------------------

LOSS = "def local_loss(self, client, batch):\n    return {'ce': F.cross_entropy(client.net(batch.x).logits, batch.y)}\n"


@pytest.mark.parametrize(
    ("body", "said"),
    [
        (LOSS.replace("local_loss", "local_los"), 'nobody calls local_los; did you mean "local_loss"?'),
        ("def after_tasks(self, server, updates): pass", 'nobody calls after_tasks; did you mean "after_task"?'),
        ("def fit(self, parameters, config): pass", 'nobody calls fit; did you mean "local_train"?'),
        ("def training_step(self, batch): pass", 'nobody calls training_step; did you mean "local_loss"?'),
        ("def end_task(self, dataset): pass", 'did you mean "after_task"?'),
        ("def whatever(self): pass", "nobody calls whatever; a strategy overrides one of local_loss, local_train"),
        (LOSS + "need = frozenset({'anchors'})", 'nobody reads need; did you mean "needs"?'),
        ("def local_loss(self, batch): pass", "expected local_loss(self, client, batch)"),
        ("def after_task(self, server): pass", "expected after_task(self, server, updates)"),
        ("def aggregate(self, server, updates, weights): pass", "cannot be called as the engine does"),
        ("def __init__(self, k=1): self.k = k", "has an __init__ of its own"),
    ],
)
def test_what_was_meant_to_be_a_verb_is_named_before_the_run(tmp_path: Path, body: str, said: str) -> None:
    above = PLAIN if "__init__" not in body else "class Own(Strategy):\n"
    with pytest.raises(ConfigError) as caught:
        run_of(tmp_path, body, above=above)
    assert said in str(caught.value)
    assert 'own.py": class Own' in str(caught.value)
    assert "\n" not in str(caught.value)


@pytest.mark.parametrize(
    "body",
    [
        "pass",
        LOSS + "def fit(self, x): return x\ndef trainable(self, net): return self.fit(list(net.state_dict()))",
        LOSS + "def _helper(self): pass\nTABLE = (1, 2)",
        "def local_loss(self, *arguments, **options): return Strategy.local_loss(self, *arguments)",
        "@staticmethod\ndef local_loss(client, batch): return {'ce': client.net(batch.x).logits.mean()}",
    ],
)
def test_helpers_and_free_signatures_are_let_be(tmp_path: Path, body: str) -> None:
    assert run_of(tmp_path, body, "federation.rounds=1").is_dir()


@pytest.mark.parametrize(
    ("field", "said"),
    [
        ("x: torch.Tensor | None = None", "x is of the type torch.Tensor | None; hyper-parameters are numbers"),
        ("x: 'nowhere' = 1", "a type cannot be read (NameError"),
        ("x: int = 'three'", "x is 'three' by default, and its type allows no such value"),
        ("x: nn.Module = None", "x is of the type Module"),
    ],
)
def test_a_field_that_cannot_be_a_hyper_parameter_is_named(tmp_path: Path, field: str, said: str) -> None:
    with pytest.raises(ConfigError) as caught:
        run_of(tmp_path, f"{field}\n{LOSS}")
    assert said in str(caught.value)


def test_fields_without_a_decorator_are_told(tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match=r"put @dataclass\(frozen=True, kw_only=True\) above class Own"):
        run_of(tmp_path, f"lam: float = 3.0\n{LOSS}", above="class Own(Strategy):\n")


# Every way out ----------------------------------------------------------------------------------------

RAISES = {
    "sys.exit": "sys.exit(0)",
    "GeneratorExit": "raise GeneratorExit",
    "BaseException": "raise type('Odd', (BaseException,), {})('x')",
    "StopIteration": "next(iter(()))",
    "RecursionError": "f = lambda: f(); f()",
    "no text": "raise type('Mute', (Exception,), {'__str__': lambda self: 1 / 0})()",
    "division": "1 / 0",
}
VERBS = {
    "local_loss": ("client, batch", "client 0, task 1, round 1: {} (in local_train)"),
    "local_train": ("client", "client 0, task 1, round 1: {} (in local_train)"),
    "after_local_task": ("client", "client 0, task 1, round 2: {} (in after_local_task)"),
    "before_task": ("server", "task 1, round 0: {} (in before_task)"),
    "aggregate": ("server, updates", "task 1, round 1: {} (in aggregate)"),
    "after_task": ("server, updates", "task 1, round 2: {} (in after_task)"),
    "predict": ("net, x, shared", "task 1, round 1: {} (in predict)"),
    "sample": ("server, count", "task 1, round 1: {} (in sample)"),
}


@pytest.mark.parametrize("verb", [*VERBS])
def test_a_verb_that_asks_the_process_to_end_fails_the_run_instead(tmp_path: Path, verb: str) -> None:
    given, said = VERBS[verb]
    with pytest.raises(TrainingError) as caught:
        run_of(tmp_path, f"def {verb}(self, {given}):\n    sys.exit(0)")
    assert said.format("SystemExit: 0") in str(caught.value)


@pytest.mark.parametrize("how", [*RAISES])
@pytest.mark.parametrize("verb", ["local_loss", "after_task"])
def test_every_way_out_of_a_strategy_is_an_error_with_its_place(tmp_path: Path, how: str, verb: str) -> None:
    given, said = VERBS[verb]
    with pytest.raises(TrainingError) as caught:
        run_of(tmp_path, f"def {verb}(self, {given}):\n    {RAISES[how]}")
    before, _, after = said.partition("{}")
    assert str(caught.value).startswith(before)
    assert str(caught.value).endswith(after)


def test_a_run_that_a_strategy_ends_has_exit_code_1_and_a_card(
    tmp_path: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    source = write_experiment(tmp_path, strategy=strategy_file(tmp_path, "def before_task(self, server): sys.exit(0)"))
    monkeypatch.setattr("sys.argv", ["fcil", "run", str(source), "--out", str(tmp_path / "out")])
    with pytest.raises(SystemExit) as left:
        cli.main()
    assert left.value.code == 1
    assert "Traceback" not in capsys.readouterr().err
    (card,) = (tmp_path / "out").glob("*/*/*/failure.md")
    assert "own.py, line" in card.read_text()
    assert "Traceback" in card.with_name("log.txt").read_text()


@pytest.mark.parametrize("above", ["sys.exit(0)\n", "raise GeneratorExit\n", "1 / 0\n"])
def test_a_file_that_ends_the_process_when_it_loads_is_refused(tmp_path: Path, above: str) -> None:
    with pytest.raises(ConfigError, match="does not load"):
        run_of(tmp_path, LOSS, above=above + PLAIN)


def test_an_error_without_a_text_is_still_described() -> None:
    class Mute(Exception):  # noqa: N818 (as users name theirs)
        def __str__(self) -> str:
            raise ValueError

    assert described(Mute()) == "Mute, whose text cannot be had (ValueError)"
    assert described(KeyError()) == "KeyError"


# What is returned -------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("returned", "said"),
    [
        ("None", "local_loss returned None"),
        ("F.cross_entropy(client.net(batch.x).logits, batch.y)", "a tensor of shape [] and type float32"),
        ("{}", "local_loss returned an empty dict"),
        ("0.5", "local_loss returned a float"),
        ("{'ce': 0.5}", '{"ce": a float}'),
        ("{'ce': client.net(batch.x).logits}", '{"ce": a tensor of shape [16, 2] and type float32}'),
        ("{'ce': client.net(batch.x).logits.mean().to(torch.complex64)}", "type complex64"),
        ("{'ce': batch.y.sum()}", "type int64"),
        ("{'ce': client.net(batch.x).logits.mean().detach()}", "ce without a gradient"),
    ],
)
def test_a_loss_that_is_none_says_what_it_must_be(tmp_path: Path, returned: str, said: str) -> None:
    with pytest.raises(TrainingError) as caught:
        run_of(tmp_path, f"def local_loss(self, client, batch):\n    return {returned}")
    assert said in str(caught.value)
    assert "expected a dict of named scalar tensors with a gradient" in str(caught.value)


@pytest.mark.parametrize(
    ("body", "said"),
    [
        ("def local_train(self, client): return None", "local_train returned None; it must return an Update"),
        ("def local_train(self, client): return {}", "local_train returned a dict"),
        ("def local_train(self, client): return Update([1], 1)", "whose weights are a list"),
        ("def local_train(self, client): return Update({'a': 1.0}, 1)", "weights['a'] is a float"),
        ("def local_train(self, client): return Update({}, 1, {'m': None})", "metrics['m'] is None"),
        ("def after_local_task(self, client): return 3", "after_local_task returned an int"),
        ("def before_task(self, server): server.shared['l'] = [1.0]", 'state "shared/l" is a list'),
        ("def before_task(self, server): server.memo['x'] = (1,)", 'state "memo/x" is a tuple'),
        ("def before_task(self, server): server.shared['n'] = None", 'state "shared/n" is a NoneType'),
        ("def after_task(self, server, updates): server.shared['l'] = [1]", 'state "l" is a list'),
        (
            "def local_train(self, client):\n    client.memory['m'] = [1]\n    return super().local_train(client)",
            'client.memory: state "m" is a list',
        ),
    ],
)
def test_what_is_returned_or_kept_in_a_wrong_form_is_named(tmp_path: Path, body: str, said: str) -> None:
    with pytest.raises(FCILError) as caught:
        run_of(tmp_path, body)
    assert said in str(caught.value)
