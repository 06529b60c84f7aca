"""Mods, rules, privacy and attacks as settings, as what a strategy is given, and in whole runs."""

from __future__ import annotations

import math
import re
from dataclasses import fields
from pathlib import Path
from typing import Any

import pytest
import torch
from guarded_rounds import floats, plans
from small_runs import (
    Stop,
    StopAfter,
    checkpoint,
    final_weights,
    play,
    same,
    without_seconds,
    write_experiment,
    write_strategy,
)
from tiny_net import tiny_net

from fcil import Update, weighted_mean
from fcil.config import Where, dump, field_docs, parse
from fcil.errors import ConfigError, TrainingError
from fcil.federation.plan import Plan
from fcil.federation.protection.aggregation import RULES, Mean
from fcil.federation.protection.attacks import ATTACKS
from fcil.federation.protection.averager import Averager, spent
from fcil.federation.protection.malicious import malicious
from fcil.federation.protection.mods import MODS, NORM_BIT
from fcil.federation.protection.privacy import Privacy, epsilon
from fcil.federation.protection.safeguards import check_safeguards
from fcil.federation.server import Services
from fcil.federation.settings import FederationSettings
from fcil.roles import Server
from fcil.types import Task, Tensors

# Settings ----------------------------------------------------------------------------------------

CHANGES = [
    "mods=[arrays_size, message_size]",
    "mods=[{local_dp: {clip: 1.0, sensitivity: 1.0, epsilon: 10.0, delta: 1.0e-5}}, {fixed_clipping: {norm: 1.0}}]",
    "mods=[{adaptive_clipping: {norm: 0.2, target: 0.4, rate: 0.1}}]",
    "aggregation=median",
    "aggregation={trimmed_mean: {share: 0.3}}",
    "aggregation={krum: {malicious: 1}}",
    "aggregation={multi_krum: {malicious: 1, keep: 3}}",
    "aggregation={bulyan: {malicious: 1}}",
    "privacy={clip: 1.0, noise: 0.5, delta: 1.0e-5}",
    "privacy={noise: 0.6}",
    "attack={label_flip: {share: 0.2}}",
    "attack={sign_flip: {share: 0.2, scale: 2}}",
    "attack={noise: {share: 0.2, std: 0.1}}",
    "attack={scale: {share: 0.2, factor: 3}}",
]


def test_every_choice_comes_back_from_yaml_and_makes_another_variant(tmp_path):
    path = write_experiment(tmp_path)
    found = {plans(path)[0].variant}
    for change in CHANGES:
        (plan,) = plans(path, f"federation.{change}")
        assert parse(FederationSettings, dump(plan.federation), Where("again")) == plan.federation
        found.add(plan.variant)
    assert len(found) == len(CHANGES) + 1


def test_nothing_is_on_unless_it_is_asked_for():
    settings = FederationSettings()
    assert (settings.mods.chosen, settings.aggregation, settings.privacy, settings.attack) == ((), Mean(), None, None)
    assert parse(FederationSettings, {"aggregation": "mean", "mods": [], "privacy": None}, Where("x")) == settings


@pytest.mark.parametrize(
    ("change", "said"),
    [
        ("mods=[array_size]", 'federation.mods.0: unknown mod "array_size" (have: arrays_size, message_size'),
        ("mods=[array_size]", 'Did you mean "arrays_size"?'),
        ("mods=arrays_size", "federation.mods: 'arrays_size' is not allowed; expected a list of mods"),
        ("mods=[arrays_size, arrays_size]", 'federation.mods.1: mod "arrays_size" is given twice'),
        ("mods=[{local_dp: {epsilon: 0}}]", "federation.mods.0.local_dp.epsilon: 0 is not allowed"),
        ("mods=[{fixed_clipping: {norn: 1}}]", 'norn: unknown key (allowed: norm). Did you mean "norm"?'),
        ("aggregation=medain", 'federation.aggregation: unknown aggregation "medain"'),
        ("aggregation=medain", 'Did you mean "median"?'),
        ("aggregation=[krum]", "federation.aggregation: ['krum'] is not allowed; expected a aggregation name"),
        ("aggregation={trimmed_mean: {share: 0.5}}", "share: 0.5 is not allowed; it should be less than 0.5"),
        ("aggregation={krum: {malicious: 0}}", "krum.malicious: 0 is not allowed"),
        ("privacy={clip: 0}", "federation.privacy.clip: 0 is not allowed"),
        ("privacy={delta: 1}", "federation.privacy.delta: 1 is not allowed"),
        ("privacy=yes", "federation.privacy: True is not allowed"),
        ("attack={labelflip: {}}", 'unknown attack "labelflip" (have: label_flip'),
        ("attack={scale: {share: 1.5}}", "federation.attack.scale.share: 1.5 is not allowed"),
    ],
)
def test_a_bad_choice_is_one_line(tmp_path, change, said):
    with pytest.raises(ConfigError, match=re.escape(said)) as caught:
        plans(write_experiment(tmp_path), f"federation.{change}")
    assert "\n" not in str(caught.value)


@pytest.mark.parametrize("cls", [*MODS.values(), *RULES.values(), *ATTACKS.values(), Privacy], ids=lambda c: c.__name__)
def test_every_option_is_explained(cls):
    docs = field_docs(cls)
    assert all(docs.get(f.name, "").endswith(".") for f in fields(cls))


OWN_TRAINING = """from dataclasses import dataclass
from fcil import Strategy

@dataclass(frozen=True, kw_only=True)
class Own(Strategy):
    def local_train(self, client):
        return super().local_train(client)
"""


@pytest.mark.parametrize(
    ("changes", "said"),
    [
        (["aggregation={krum: {malicious: 2}}"], "federation.aggregation: krum: 2 malicious of 5 clients is too many"),
        (["fraction=0.4", "aggregation=median"], "the median of 2 clients is their mean"),
        (
            ["privacy={}", "aggregation=median"],
            "federation.privacy: its noise is made for a mean; aggregation is median",
        ),
        (
            ["privacy={}", "mods=[adaptive_clipping]"],
            "the mod adaptive_clipping tells, unprotected, whose step was long",
        ),
        (["attack={scale: {share: 0.05}}"], "federation.attack: a share of 0.05 of 5 clients is nobody"),
    ],
)
def test_what_cannot_work_is_said_before_a_run(tmp_path, changes, said):
    overrides = ["federation.clients=5", *(f"federation.{c}" for c in changes)]
    with pytest.raises(ConfigError, match=re.escape(said)):
        play(write_experiment(tmp_path), *overrides, out=tmp_path / "out")
    assert not list((tmp_path / "out").rglob("config.yaml"))


@pytest.mark.parametrize("change", ["privacy={}", "mods=[local_dp]"])
def test_uploads_of_a_strategys_own_are_not_called_private(tmp_path, change):
    path = write_experiment(tmp_path, strategy=str(write_strategy(tmp_path, OWN_TRAINING, "own")))
    with pytest.raises(ConfigError, match='does not cover what clients of "own" send in local_train'):
        play(path, f"federation.{change}", out=tmp_path)


def test_a_task_of_one_class_has_no_labels_to_flip(tmp_path):
    (plan,) = plans(write_experiment(tmp_path), "federation.attack={label_flip: {share: 0.5}}")
    with pytest.raises(ConfigError, match="label_flip has nothing to turn to in task 2, of one class"):
        check_safeguards(plan, [2, 1])
    check_safeguards(plan, [2, 2])


# What a strategy is given ------------------------------------------------------------------------


def a_server(plan: Plan) -> Server:
    services = Services(Averager(plan), None, None)  # type: ignore[arg-type] # neither syntheses nor an observer
    return Server(tiny_net(), Task(1, 1, 0, 5, tuple("abcde")), 1, plan.seed, 5, None, services)


def honest(server: Server, count: int = 5) -> list[Update]:
    start = server.net.weights()
    return [
        Update({n: t + k if t.is_floating_point() else t for n, t in start.items()}, k + 1, {NORM_BIT: 1.0})
        for k in range(count)
    ]


def the_plan(folder: Path, *changes: str) -> Plan:
    return plans(write_experiment(folder), "federation.clients=5", *(f"federation.{c}" for c in changes))[0]


def test_a_strategy_is_given_the_rule_of_the_federation(tmp_path):
    server = a_server(the_plan(tmp_path, "aggregation=median"))
    got = server.average(honest(server), "examples").weights
    assert torch.allclose(got["classifier.bias"], server.net.classifier.bias + 2)
    plain = a_server(the_plan(tmp_path))
    assert same(plain.average(honest(plain), "examples").weights, weighted_mean(honest(plain)).weights)


@pytest.mark.parametrize(
    ("change", "what"),
    [
        ("aggregation=median", "federation.aggregation median"),
        ("privacy={}", "federation.privacy"),
        ("mods=[adaptive_clipping]", "the mod adaptive_clipping"),
    ],
)
def test_a_mean_of_a_strategys_own_does_not_pass_for_the_federations(tmp_path, change, what):
    server = a_server(the_plan(tmp_path, change))
    averager: Any = server.services.averager
    averager.seal(honest(server))
    with pytest.raises(TrainingError, match=f'"finetune" does not call server.average, so {what} would do nothing'):
        averager.check()
    server.average(honest(server), "uniform")
    averager.check()


def test_a_private_federation_shows_a_strategy_only_the_mean(tmp_path):
    server = a_server(the_plan(tmp_path, "privacy={}"))
    averager: Any = server.services.averager
    sealed = averager.seal(iter(honest(server)))
    with pytest.raises(TrainingError, match=r"reads single updates; only server\.average may"):
        next(iter(sealed))
    mean = server.average(sealed, "examples")
    assert mean.metrics == {}
    with pytest.raises(TrainingError, match='asks for the metric "first_epoch_loss", which is not private'):
        mean.metrics["first_epoch_loss"]
    with pytest.raises(TrainingError, match="averages twice"):
        server.average(sealed, "examples")


def test_the_norm_of_adaptive_clipping_is_kept_with_what_is_shared(tmp_path):
    server = a_server(the_plan(tmp_path, "mods=[{adaptive_clipping: {norm: 2.0, target: 0.5, rate: 0.2}}]"))
    for expected in (2 * math.exp(0.1), 2 * math.exp(0.2)):  # every client was clipped
        averager: Any = server.services.averager
        averager.seal([])
        server.average(honest(server), "uniform")
        assert server.shared["clipping_norm"] == pytest.approx(expected)


def test_no_client_can_blow_the_norm_up(tmp_path):
    server = a_server(the_plan(tmp_path, "mods=[{adaptive_clipping: {norm: 1.0, rate: 1.0}}]"))
    wild = [Update(u.weights, 1, {NORM_BIT: 1e30}) for u in honest(server)]
    server.average(wild, "uniform")
    assert server.shared["clipping_norm"] == pytest.approx(math.exp(0.5))
    other = a_server(the_plan(tmp_path, "mods=[{adaptive_clipping: {norm: 1.0}}]"))
    other.average([Update(u.weights, 1) for u in honest(other)], "uniform")
    assert other.shared["clipping_norm"] == 1.0


# Whole runs --------------------------------------------------------------------------------------

SHORT = ["federation.clients=5", "federation.stop_after=1"]


@pytest.fixture(scope="module")
def plain(tmp_path_factory: pytest.TempPathFactory) -> Tensors:
    """What five clients make of two rounds when nothing is asked for."""
    folder = tmp_path_factory.mktemp("plain")
    return final_weights(play(write_experiment(folder), *SHORT, out=folder)[0])


@pytest.mark.parametrize(
    "change",
    [
        "mods=[arrays_size, message_size]",
        "aggregation={multi_krum: {malicious: 1}}",
        "privacy={noise: 0.6}",
        "attack={label_flip: {share: 0.2}}",
        "attack={noise: {share: 0.2, std: 0.1}}",
    ],
)
def test_a_run_is_the_same_again_whatever_is_asked_for(tmp_path, change, plain):
    runs = []
    for name in ("a", "b"):
        (tmp_path / name).mkdir()
        runs += play(write_experiment(tmp_path / name), *SHORT, f"federation.{change}", out=tmp_path / name)
    assert same(final_weights(runs[0]), final_weights(runs[1]))
    assert without_seconds(runs[0]) == without_seconds(runs[1])
    assert same(final_weights(runs[0]), plain) == ("size" in change)


def test_a_run_goes_on_with_the_noise_and_the_norm_it_would_have_had(tmp_path):
    change = "federation.mods=[{local_dp: {epsilon: 100}}, {adaptive_clipping: {norm: 0.3, rate: 0.5}}]"
    (tmp_path / "whole").mkdir()
    (whole,) = play(write_experiment(tmp_path / "whole"), change, out=tmp_path / "whole")
    with pytest.raises(Stop):
        play(write_experiment(tmp_path), change, out=tmp_path, observer=StopAfter(3))
    (resumed,) = play(write_experiment(tmp_path), change, out=tmp_path)
    assert same(checkpoint(resumed)[0], checkpoint(whole)[0])
    norms = [checkpoint(run)[1]["scalars"]["shared/clipping_norm"] for run in (whole, resumed)]
    assert norms[0] == norms[1] != 0.3


def test_epsilon_of_all_tasks_is_in_the_record_of_every_round(tmp_path):
    (run,) = play(write_experiment(tmp_path), "federation.privacy={noise: 2.0}", out=tmp_path)
    got = [record["epsilon"] for record in run.rounds]
    assert got == [epsilon(Privacy(noise=2.0), 2, 2, rounds) for rounds in (1, 2, 3, 4)]
    (plan,) = plans(tmp_path / "tiny.yaml", "federation.privacy={noise: 2.0}")
    assert spent(plan, 4) == got[-1]
    assert run.summary["epsilon"] == got[-1]


def test_a_strategy_of_ones_own_that_averages_by_itself_is_told(tmp_path):
    source = OWN_TRAINING.split("    def")[0] + (
        "    def aggregate(self, server, updates):\n"
        "        mean = weighted_mean(updates)\n"
        "        server.net.load(mean.weights)\n"
        "        return mean\n"
    )
    source = source.replace("import Strategy", "import Strategy, weighted_mean")
    path = write_experiment(tmp_path, strategy=str(write_strategy(tmp_path, source, "alone")))
    play(path, "federation.clients=5", out=tmp_path)
    with pytest.raises(TrainingError, match=r'"alone" does not call server\.average, so federation\.aggregation'):
        play(path, "federation.clients=5", "federation.aggregation=median", out=tmp_path)


def test_an_attack_spoils_a_mean_and_not_a_median(tmp_path):
    path, few = write_experiment(tmp_path), [*SHORT, "federation.rounds=1"]
    attack = "federation.attack={scale: {share: 0.2, factor: 1.0e3}}"
    size: dict[str, float] = {}
    for rule in ("mean", "median", "{krum: {malicious: 1}}"):
        (run,) = play(path, *few, attack, f"federation.aggregation={rule}", out=tmp_path)
        size[rule] = max(float(t.abs().max()) for t in floats(final_weights(run)).values())
        assert run.rounds[0]["malicious"] == malicious(plans(path, *few, attack)[0])
    (run,) = play(path, *few, out=tmp_path)
    honest = max(float(t.abs().max()) for t in floats(final_weights(run)).values())
    assert size["mean"] > 20 * honest
    assert max(size["median"], size["{krum: {malicious: 1}}"]) < 3 * honest


def test_size_mods_write_to_the_log_of_the_run(tmp_path):
    (run,) = play(write_experiment(tmp_path), "federation.mods=[message_size]", out=tmp_path)
    log = (run.path / "log.txt").read_text(encoding="utf-8")
    assert log.count("Incoming message size") == 2 * 2 * 2  # clients, rounds, tasks
