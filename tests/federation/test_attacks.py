"""Malicious clients: who they are, and what they send."""

from __future__ import annotations

from dataclasses import dataclass
from types import SimpleNamespace
from typing import Any

import pytest
import torch
from guarded_rounds import WHO, conversation, plans, tensors
from small_runs import same, write_experiment
from torch import Tensor

from fcil.federation.codec import to_tensors
from fcil.federation.context import Datasets
from fcil.federation.protection.attacks import LabelFlip, Noise, Scale, SignFlip, flipped
from fcil.federation.protection.client_mods import forge
from fcil.federation.protection.malicious import given, malicious
from fcil.federation.settings import FederationSettings
from fcil.types import Task


def test_labels_turn_to_the_next_class_of_their_task(tmp_path):
    plan, *_ = plans(write_experiment(tmp_path), "federation.attack={label_flip: {share: 0.5}}")
    scenario, (bad,) = Datasets().open(plan).scenario, malicious(plan)
    for task, seen in ((1, False), (2, False), (2, True)):
        shard = scenario.shard(task, bad, seen=seen)
        wrong = given(plan, bad, shard, scenario.tasks)
        first = (shard.tasks - 1) * 2  # two classes to a task
        assert torch.equal(wrong.labels, first + 1 - (shard.labels - first))
        assert not (wrong.labels == shard.labels).any()
        x, y = next(iter(wrong.batches(8, shuffle=False, augment=False)))
        assert torch.equal(y, wrong.labels[:8])
        assert torch.equal(x, next(iter(shard.batches(8, shuffle=False, augment=False))).x)
        assert given(plan, 1 - bad, shard, scenario.tasks) is shard


def test_the_next_class_of_the_last_is_the_first():
    @dataclass(frozen=True)
    class Samples:
        labels: Tensor
        tasks: Tensor

    tasks = [Task(1, 2, 0, 3, tuple("abc")), Task(2, 2, 3, 2, tuple("abcde"))]
    samples: Any = Samples(torch.tensor([0, 1, 2, 3, 4]), torch.tensor([1, 1, 1, 2, 2]))
    assert flipped(samples, tasks).labels.tolist() == [1, 2, 0, 4, 3]


def a_plan(attack: Any, clients: int = 10, seed: int = 0) -> Any:
    return SimpleNamespace(seed=seed, federation=FederationSettings(clients=clients, attack=attack))


def test_the_malicious_are_a_share_drawn_for_the_run():
    drawn = [malicious(a_plan(Scale(share=0.3), 20, seed)) for seed in (0, 0, 1)]
    assert drawn[0] == drawn[1] != drawn[2]
    assert len(drawn[0]) == len(set(drawn[0])) == 6
    assert malicious(a_plan(None)) == []
    assert malicious(a_plan(Noise(share=1.0), 3)) == [0, 1, 2]


@pytest.mark.parametrize(
    ("attack", "made"),
    [
        (SignFlip(share=1.0, scale=2.0), lambda g, w: g - 2 * (w - g)),
        (Scale(share=1.0, factor=5.0), lambda g, w: g + 5 * (w - g)),
    ],
)
def test_a_forged_step_is_what_it_says(attack, made):
    sent, back = tensors(1), tensors(2)
    message, reply = conversation(sent, back)
    forge(a_plan(attack), WHO, message, reply)
    got = to_tensors(reply.content["weights"])
    for name in ("w", "scale"):
        assert torch.allclose(got[name], made(sent[name], back[name]), atol=1e-5)
    lied = made(sent["running_var"], back["running_var"])
    assert torch.equal(got["running_var"], lied.maximum(0.1 * sent["running_var"]))
    assert torch.equal(got["batches"], back["batches"])
    assert same(to_tensors(message.content["weights"]), sent)


def test_noise_has_its_deviation_and_its_stream_and_honest_clients_are_left_alone():
    sent = back = {"w": torch.zeros(20000)}

    def lies(plan: Any, who: tuple[int, int, int] = WHO) -> Tensor:
        message, reply = conversation(sent, back)
        forge(plan, who, message, reply)
        return to_tensors(reply.content["weights"])["w"]

    plan = a_plan(Noise(share=1.0, std=0.5))
    assert float(lies(plan).std()) == pytest.approx(0.5, rel=0.03)
    assert torch.equal(lies(plan), lies(plan))
    assert not torch.equal(lies(plan), lies(plan, (1, 3, 3)))
    some = a_plan(Noise(share=0.3))
    told = {client: bool(lies(some, (1, 1, client)).any()) for client in range(10)}
    assert [client for client, lied in told.items() if lied] == malicious(some)
    assert not lies(a_plan(LabelFlip(share=1.0))).any()
