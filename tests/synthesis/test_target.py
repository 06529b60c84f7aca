"""TARGET against the reference code, in double precision, its sides, and any synthesizer under any strategy."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import torch
import torch.nn.functional as F
from golden_vectors import Case, assert_matches, load_case
from scripted_roles import (
    ScriptedClient,
    Synthesising,
    check_final,
    check_logits_are_moved_apart,
    check_runs,
    client_of,
    server_of,
    shard_of,
    tiny,
    watched,
)
from small_runs import NAYER, checkpoint, play
from tiny_net import golden_net, normal, tiny_net
from torch import Tensor

from fcil import Batch, Terms, Update
from fcil.config import Where, parse
from fcil.errors import ConfigError
from fcil.federation.context import Datasets
from fcil.federation.plan import Plan
from fcil.losses import soft_cross_entropy
from fcil.nets import Net
from fcil.optimizer import OptimizerSettings
from fcil.synthesis import Synthesizer
from fcil.synthesis.fast import Fast
from strategies.target import OWN, RELEASED, SIDES, TARGET

FAST: dict[str, Any] = {
    "rounds": 3,
    "warmup": 1,
    "steps": 2,
    "batch_size": 10,
    "samples": 20,
    "width": 4,
    "latent": 8,
    "student_steps": 2,
}


def pool_of(count: int) -> dict[str, Tensor]:
    return {"x": torch.zeros(count, 3, 8, 8, dtype=torch.uint8), "y": torch.zeros(count, dtype=torch.int64)}


def constant(net: Net, value: float, examples: int) -> Update:
    """What a client sends whose every number is this."""
    return Update({name: torch.full_like(w, value) for name, w in net.weights().items()}, examples)


# The reference ---------------------------------------------------------------------------------


def golden_settings(case: Case) -> dict[str, Any]:
    p = case.parameters
    optimizer = OptimizerSettings(momentum=p["momentum"], weight_decay=p["weight_decay"])
    return {"lr": p["lr"], "local_epochs": p["local_epochs"], "optimizer": optimizer, "batch_size": 6}


def golden_batches(case: Case, count: int, shift: int = 0) -> list[Batch]:
    t = case.tensors
    return [Batch(t[f"inputs.batch{i}.x"], t[f"inputs.batch{i}.labels"] - shift) for i in range(count)]


@pytest.mark.usefixtures("_double")
def test_an_update_in_the_first_task_matches_the_reference():
    case = load_case("51_target_client_update")
    real = golden_batches(case, 2, case.parameters["known"])
    net = golden_net(case.under("params.first_task_net"))
    client = client_of(net, shard_of([0] * 12), real=real, synthetic=[], **golden_settings(case))
    update = TARGET(fidelity="reference").local_train(client)
    check_final(replace(case, tensors={k.replace("first_task.", ""): t for k, t in case.tensors.items()}), update)
    assert client.asked == []


@pytest.mark.usefixtures("_double")
def test_an_update_in_a_later_task_matches_the_reference():
    case = load_case("51_target_client_update")
    p, t, steps = case.parameters, case.tensors, list[Terms]()
    net, teacher = golden_net(case.under("params.student")), golden_net(case.under("params.teacher"))
    client = client_of(
        net,
        shard_of([5] * 24),
        old=p["known"],
        real=golden_batches(case, 4),
        synthetic=[t[f"inputs.synthetic{i}.x"] for i in range(3)],
        teacher=teacher,
        shared={"synthetic": pool_of(24)},
        **golden_settings(case),
    )
    strategy = TARGET(fidelity="reference", keep=p["kd"], temperature=p["tau"], synthetic=8 / 6)
    update = watched(strategy, steps).local_train(client)
    check_final(replace(case, tensors={k.replace("later_task.", ""): v for k, v in t.items()}), update)
    assert client.asked == [("synthetic", 8)] * 6  # the fourth real batch is never used
    for golden, (name, factor) in {"cross_entropy_new": ("ce", 1), "distillation": ("kd", p["kd"])}.items():
        got = torch.stack([step[name] for step in steps])
        assert_matches(got, factor * t[f"expected.later_task.steps.{golden}"], case.tolerance, golden)
    total = torch.stack([step["ce"] + step["kd"] for step in steps])
    assert_matches(total, t["expected.later_task.steps.total"], case.tolerance)


def test_the_defaults_are_the_references():
    p, s = load_case("51_target_client_update").parameters, TARGET()
    assert (s.keep, s.temperature) == (p["kd"], p["tau"])
    q = load_case("50_target_generator_rounds").parameters
    for made in (OWN, RELEASED):
        assert (made.bn, made.ce, made.adv, made.lr, made.latent_lr) == (
            q["bn"],
            q["oh"],
            q["adv"],
            q["lr_g"],
            q["lr_z"],
        )
        assert (made.steps, made.batch_size, made.samples, made.latent, made.width) == (10, 256, 8000, 256, 64)
        assert (made.student_steps, made.student_lr, made.temperature) == (400, 0.2, 20.0)


# A client of a later task ----------------------------------------------------------------------


@pytest.fixture
def later() -> tuple[ScriptedClient, Batch, Tensor]:
    """Two old classes of five; a batch and a synthetic batch."""
    batch = Batch(normal(6, 3, 8, 8, key=1), torch.tensor([2, 3, 4, 2, 3, 4]))
    synthetic, teacher = normal(7, 3, 8, 8, key=2), tiny_net(2, None, key=1)
    given = {"real": [batch] * 5, "synthetic": [synthetic], "teacher": teacher}
    return client_of(tiny_net(5, None), shard_of([2] * 6), old=2, **given), batch, synthetic


def test_new_data_moves_new_logits_alone_and_synthetic_data_old_ones_alone(later):
    client, batch, _ = later
    check_logits_are_moved_apart(client, TARGET().local_loss(client, batch))


def test_terms_carry_their_weights(later):
    client, batch, synthetic = later
    net = client.net.eval()
    real, fake, teacher = net(batch.x).logits, net(synthetic).logits, client.frozen("teacher")(synthetic).logits
    terms = TARGET(keep=3.0, temperature=4.0).local_loss(client, batch)
    assert torch.allclose(terms["ce"], F.cross_entropy(real[:, 2:], batch.y - 2))
    assert torch.allclose(terms["kd"], 3 * soft_cross_entropy(fake[:, :2], teacher, 4.0))
    assert terms.keys() == {"ce", "kd"}


def test_an_epoch_takes_all_real_batches_or_ends_with_the_synthetic_ones(later):
    client, _, _ = later
    client.shared = {"synthetic": pool_of(9)}
    for pairing, most, steps in (("all", None, 5), ("shorter", None, 3), ("shorter", 2, 2), ("all", 2, 2)):
        client.asked.clear()
        client.max_batches = most
        TARGET(pairing=pairing).local_train(client)
        assert client.asked == [("synthetic", 4)] * steps, (pairing, most)  # 9 images, 4 a step: 3 steps
    client.max_batches = None
    client.shared = {"synthetic": pool_of(1000)}
    client.asked.clear()
    TARGET(pairing="shorter").local_train(client)
    assert len(client.asked) == 5


def test_a_first_task_needs_no_images_on_either_side():
    batch = Batch(normal(4, 3, 8, 8), torch.arange(4))
    client = client_of(tiny_net(4, None), shard_of([0] * 4), real=[batch], synthetic=[])
    assert TARGET(fidelity="reference").local_train(client).metrics["steps"] == 1


@pytest.mark.parametrize(("share", "batch_size", "count"), [(None, 128, 128), (0.01, 16, 1), (2.0, 7, 14)])
def test_synthetic_images_are_a_multiple_of_the_batch(later, share, batch_size, count):
    client, _, _ = later
    client.batch_size = batch_size
    assert TARGET(synthetic=share).count(client) == count


def test_the_reference_takes_500_beside_128(later):
    client, _, _ = later
    client.batch_size = 128
    assert TARGET(fidelity="reference").count(client) == 500


# The server ------------------------------------------------------------------------------------


@pytest.mark.parametrize(("fidelity", "made", "mean"), [("paper", OWN, 3.0), ("reference", RELEASED, 2.5)])
def test_after_a_task_the_net_is_inverted_and_becomes_the_teacher(fidelity, made, mean):
    asked = []
    server = server_of(tiny_net(4, None), task=2, old=2)
    server.services = Synthesising(
        lambda s, synthesizer, labels, bound, _: asked.append((synthesizer, list(labels), bound)) or {}
    )
    strategy = TARGET(fidelity=fidelity)
    strategy.aggregate(server, [constant(server.net, 1.0, 1), constant(server.net, 4.0, 2)])
    strategy.after_task(server, [])
    assert asked == [(made.with_fidelity(fidelity), [0, 1, 2, 3], None)]
    assert server.shared["teacher"]["classifier.weight"].unique().tolist() == [mean]
    server.task = replace(server.task, number=3)
    strategy.after_task(server, [])
    assert len(asked) == 1


def test_a_client_counts_by_its_examples_or_as_any_other():
    got = {}
    for weighting in SIDES["weighting"]:
        server = server_of(tiny_net(2, None))
        updates = [constant(server.net, 0.0, 1), constant(server.net, 4.0, 3)]
        TARGET(weighting=weighting).aggregate(server, updates)
        got[weighting] = server.net.classifier.bias[0].item()
    assert got == {"examples": 3.0, "uniform": 2.0}


def test_a_synthesizer_that_was_chosen_stays():
    chosen = Fast(rounds=7)
    assert TARGET(fidelity="reference", synthesizer=chosen).settled.synthesizer == chosen
    assert RELEASED.with_fidelity("reference").settled.warmup > RELEASED.rounds  # so the student never learns
    assert OWN.with_fidelity("paper").settled.warmup == 3
    assert OWN.rounds * OWN.batch_size >= OWN.samples


@pytest.mark.parametrize("name", SIDES)
@pytest.mark.parametrize(("fidelity", "column"), [("paper", 0), ("reference", 1)])
def test_an_open_field_takes_the_side_and_a_chosen_one_wins(name, fidelity, column):
    assert getattr(TARGET(), name) is None
    assert getattr(TARGET(fidelity=fidelity).settled, name) == SIDES[name][column]
    other = SIDES[name][1 - column]
    assert getattr(parse(TARGET, {"fidelity": fidelity, name: other}, Where("e.yaml")).settled, name) == other


# Whole runs ------------------------------------------------------------------------------------


def test_whole_runs_are_finite_repeatable_and_resumable(tmp_path):
    run = check_runs(tmp_path, {"target": {"synthesizer": {"fast": FAST}}})
    assert [set(record["terms"]) for record in run.rounds] == [{"ce"}, {"ce", "kd"}, {"ce", "kd"}]


@pytest.mark.parametrize("strategy", ["target", "lander"])
@pytest.mark.parametrize(("synthesizer", "settings"), [("nayer", NAYER), ("fast", FAST)])
def test_strategies_run_with_either_synthesizer(tmp_path, strategy, synthesizer, settings):
    source = tiny(tmp_path, {strategy: {"synthesizer": {synthesizer: settings}}}, rounds=1, stop_after=2)
    (run,) = play(source, out=tmp_path)
    tensors, _ = checkpoint(run)
    assert tensors["shared/synthetic/x"].shape[0] == 20
    headed = "net/text_head.weight" in tensors
    assert headed == (strategy == "lander")  # an encoder's vectors alone give the net no head
    assert torch.tensor([n for record in run.rounds for n in record["terms"].values()]).isfinite().all()


def test_target_has_anchors_only_where_its_synthesizer_reads_them(tmp_path: Path):
    from grid_cases import plan_of

    for synthesizer, wanted in (({"nayer": NAYER}, True), ({"fast": FAST}, False)):
        plan: Plan = plan_of(tmp_path, strategy={"target": {"synthesizer": synthesizer}})
        context = Datasets().open(plan)
        assert (context.anchors is not None) == wanted
        assert context.first_net().text_head is None
    plan = plan_of(tmp_path, strategy={"lander": {"synthesizer": {"fast": FAST}}})
    assert Datasets().open(plan).first_net().text_head is not None


def test_wrong_settings_are_refused_in_a_line(tmp_path):
    for strategy, message in (
        ({"target": {"keep": -1}}, "keep"),
        ({"target": {"synthesizer": {"fast": {"meta": "mamll"}}}}, "meta"),
        ({"target": {"synthesizer": "fsat"}}, 'Did you mean "fast"'),
    ):
        with pytest.raises(ConfigError, match=message):
            play(tiny(tmp_path, strategy), out=tmp_path / "out")
    assert not (tmp_path / "out").exists()


def test_the_synthesizer_is_a_synthesizer():
    assert isinstance(TARGET().synthesizer, Synthesizer)
    assert TARGET().smoke().synthesizer.episodes == 3
