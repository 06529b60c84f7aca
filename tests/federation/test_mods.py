"""Mods against Flower's own and against their arithmetic."""

from __future__ import annotations

import json
import math
import re
from typing import Any

import numpy as np
import pytest
import torch
from flwr.app import Array, ArrayRecord, ConfigRecord, Message, MetricRecord, RecordDict
from flwr.clientapp.mod import LocalDpMod, adaptiveclipping_mod, fixedclipping_mod
from guarded_rounds import WHO, conversation, floats, length, tensors
from small_runs import same

from fcil.config import Where
from fcil.errors import TrainingError
from fcil.federation.codec import to_tensors
from fcil.federation.compat import new_context, new_run
from fcil.federation.protection.client_mods import around, said
from fcil.federation.protection.clipping import clip, clip_factor
from fcil.federation.protection.mods import NORM_BIT, AdaptiveClipping, Mods
from fcil.rng import derive
from fcil.types import Tensors


def through(mods: Mods, sent: Tensors, back: Tensors, seed: int = 0, **shared: Any) -> tuple[Tensors, Message]:
    message, reply = conversation(sent, back, shared or None)
    reply = around(mods, seed, WHO, message, new_context(1, 4, {}), lambda *_: reply)
    return to_tensors(reply.content["weights"]), reply


def chosen(*raw: Any) -> Mods:
    return Mods.from_yaml(list(raw), Where("test"))


def by_flower(mod: Any, sent: Tensors, back: Tensors, config: dict[str, float]) -> dict[str, np.ndarray]:
    """What Flower's mod makes of plain arrays; a tensor without dimensions is given one."""
    new_run(1)

    def plain(weights: Tensors) -> ArrayRecord:
        return ArrayRecord({n: Array(np.atleast_1d(t.numpy().copy())) for n, t in floats(weights).items()})

    message = Message(RecordDict({"a": plain(sent), "c": ConfigRecord(config)}), 1, "train")
    reply = Message(RecordDict({"a": plain(back), "m": MetricRecord({})}), reply_to=message)
    result = mod(message, new_context(1, 1, {}), lambda *_: reply)
    return {name: array.numpy() for name, array in result.content["a"].items()}


@pytest.mark.parametrize(
    ("ours", "theirs"),
    [
        ({"fixed_clipping": {"norm": 0.5}}, fixedclipping_mod),
        ({"adaptive_clipping": {"norm": 0.5}}, adaptiveclipping_mod),
    ],
)
def test_clipping_is_flowers_and_shortens_the_whole_step(ours, theirs):
    sent, back = tensors(1), tensors(2)
    got, _ = through(chosen(ours), sent, back)
    expected = by_flower(theirs, sent, back, {"clipping_norm": 0.5})
    assert length(back, sent) > 0.5
    assert length(got, sent) == pytest.approx(0.5, rel=1e-5)
    for name, value in expected.items():
        np.testing.assert_allclose(np.atleast_1d(got[name].numpy()), value, rtol=1e-6)
    assert list(got) == list(back)
    assert torch.equal(got["batches"], back["batches"])
    assert got["scale"].shape == ()
    assert got["w"].dtype == torch.float32


def test_a_short_step_is_left_as_it_is_and_says_so():
    sent, back = tensors(1), {n: t + 1e-4 if t.is_floating_point() else t for n, t in tensors(1).items()}
    got, reply = through(chosen({"adaptive_clipping": {"norm": 5.0}}), sent, back)
    assert all(torch.allclose(got[n], back[n], atol=1e-6) for n in back)
    assert reply.content["metrics"][NORM_BIT] == 0
    _, reply = through(chosen({"adaptive_clipping": {"norm": 1e-5}}), sent, back)
    assert reply.content["metrics"][NORM_BIT] == 1
    assert reply.content["metrics"]["terms/ce"] == 1.0


@pytest.mark.parametrize("mod", ["fixed_clipping", "adaptive_clipping", "local_dp"])
def test_a_client_that_did_not_move_is_no_division_by_zero(mod):
    got, _ = through(chosen(mod), tensors(1), tensors(1))
    assert all(torch.isfinite(t).all() for t in floats(got).values())
    assert (length(got, tensors(1)) > 0) == (mod == "local_dp")


def test_local_noise_is_flowers_from_a_stream_of_its_own_and_global_numpy_stays():
    sent, back = tensors(1), tensors(2)
    options = {"clip": 0.5, "sensitivity": 1.0, "epsilon": 0.9, "delta": 1e-3}
    before = np.random.get_state()[1].copy()
    got, _ = through(chosen({"local_dp": options}), sent, back)
    assert np.array_equal(np.random.get_state()[1], before)
    again, _ = through(chosen({"local_dp": options}), sent, back)
    other, _ = through(chosen({"local_dp": options}), sent, back, seed=1)
    assert same(got, again)
    assert not same(got, other)
    number, state = derive(0, "local_dp", *WHO), np.random.get_state()
    np.random.seed([number & 0xFFFFFFFF, number >> 32])
    expected = by_flower(LocalDpMod(0.5, 1.0, 0.9, 1e-3), sent, back, {})
    np.random.set_state(state)
    for name in ("w", "scale"):
        np.testing.assert_allclose(np.atleast_1d(got[name].numpy()), expected[name], rtol=1e-6)
    assert torch.equal(got["running_var"] <= 0.1 * sent["running_var"], got["running_var"] == 0.1 * sent["running_var"])
    assert (expected["running_var"] < 0).any()


def test_local_noise_has_the_deviation_it_says_on_every_tensor():
    sent = {"w": torch.zeros(20000), "one": torch.zeros(())}
    got, _ = through(chosen({"local_dp": {"sensitivity": 2.0, "epsilon": 1.0, "delta": 1e-5}}), sent, sent)
    std = 2.0 * math.sqrt(2 * math.log(1.25e5))
    assert float(got["w"].std()) == pytest.approx(std, rel=0.03)
    assert float(got["one"]) != 0


def test_nothing_received_or_kept_is_changed_in_place():
    sent, back = tensors(1), tensors(2)
    message, reply = conversation(sent, back)
    kept = reply.content["weights"]
    mods = chosen("arrays_size", "message_size", "local_dp", "fixed_clipping", "adaptive_clipping")
    around(mods, 0, WHO, message, new_context(1, 4, {}), lambda *_: reply)
    assert same(to_tensors(message.content["weights"]), sent)
    assert same(to_tensors(kept), back)
    assert list(message.content) == ["weights", "config", "plan", "shared/pool"]
    assert all(array.__dict__["_blob"] is None for array in message.content["shared/pool"].values())


def test_what_comes_back_beside_the_trained_tensors_passes_by_the_mods():
    back = {"w": tensors(2)["w"], "prototypes": torch.ones(3), "whole": torch.ones(2, dtype=torch.int64)}
    got, _ = through(chosen({"fixed_clipping": {"norm": 1e-3}}), tensors(1), back)
    assert length({"w": got["w"]}, tensors(1)) == pytest.approx(1e-3, rel=1e-2)
    assert torch.equal(got["prototypes"], back["prototypes"])
    assert torch.equal(got["whole"], back["whole"])


def test_size_mods_tell_the_server_and_change_nothing():
    sent, back = tensors(1), tensors(2)
    got, reply = through(chosen("message_size", "arrays_size"), sent, back)
    assert same(got, back)
    lines = said(reply)
    assert all(line.startswith("client 3, task 1, round 2: ") for line in lines)
    assert re.search(r"Incoming message size: \d{4} bytes", lines[0])
    assert any("'shared/pool': {'elements': 50, 'bytes': 200}" in line for line in lines)
    assert lines[3].endswith("Outgoing arrays: {'weights': {'elements': 44, 'bytes': 180}}, 180 bytes in all")
    assert said(through(chosen("fixed_clipping"), sent, back)[1]) == []


@pytest.mark.parametrize("log", [{"lines": [b"x"]}, {"lines": "x"}, {"other": 1}])
def test_a_log_that_is_none_is_not_read(log):
    _, reply = conversation(tensors(1), tensors(2))
    reply.content["log"] = ConfigRecord(log)
    assert said(reply) == []


def test_a_log_cannot_command_the_terminal_nor_fill_the_disk():
    _, reply = conversation(tensors(1), tensors(2))
    reply.content["log"] = ConfigRecord({"lines": ["\x1b[2Jgone\n", "y" * 10**6, *["z"] * 1000]})
    assert said(reply)[0] == "[2Jgone"
    assert sum(map(len, said(reply))) < 3000


def test_the_first_mod_is_the_outermost():
    both = [{"local_dp": {"clip": 9.0}}, {"fixed_clipping": {"norm": 0.1}}]
    noisy, _ = through(chosen(*both), tensors(1), tensors(2))
    clipped, _ = through(chosen(*reversed(both)), tensors(1), tensors(2))
    assert length(noisy, tensors(1)) > 1
    assert length(clipped, tensors(1)) <= 0.1001


def test_the_norm_follows_until_the_target_share_is_left_alone():
    clipping = AdaptiveClipping(norm=0.01, target=0.5, rate=0.5)
    norm, steps = 0.01, np.linspace(0.5, 1.5, 101)
    for _ in range(60):
        norm = clipping.followed(norm, float((steps > norm).mean()))
    assert norm == pytest.approx(1.0, abs=0.05)
    assert clipping.followed(1.0, 1.0) == pytest.approx(math.exp(0.25))  # all were clipped: it was too short


def test_clients_clip_to_the_norm_the_server_shares():
    shared = {"values/clipping_norm": ConfigRecord({"values": json.dumps({"clipping_norm": 0.25})})}
    got, _ = through(chosen({"adaptive_clipping": {"norm": 9.0}}), tensors(1), tensors(2), **shared)
    assert length(got, tensors(1)) == pytest.approx(0.25, rel=1e-5)


def test_a_clipped_step_has_the_direction_it_had_and_the_norm_of_the_formula():
    start = {"w": torch.tensor([1.0, 1.0]), "v": torch.tensor(2.0), "n": torch.tensor(3)}
    weights = {"w": torch.tensor([4.0, 1.0]), "v": torch.tensor(6.0), "n": torch.tensor(9), "more": torch.ones(2)}
    got, shortened = clip(weights, start, 2.5)  # the step (3, 0, 4) has length 5
    assert shortened
    assert got["w"].tolist() == [2.5, 1.0]
    assert float(got["v"]) == 4.0
    assert got["n"] is weights["n"]
    assert got["more"] is weights["more"]
    same_length, shortened = clip(weights, start, 5.0)
    assert not shortened
    assert same(same_length, weights)


def test_the_length_of_a_step_of_many_numbers_is_exact():
    """In single precision a sum of squares loses what a norm promises: the step would stay longer than allowed."""
    start, step = {"w": torch.zeros(2_000_000)}, torch.full((2_000_000,), 1e-3)
    step[0] = 4096.0  # in single precision, no later square is felt beside its square
    exact = math.sqrt(4096.0**2 + 1_999_999 * float(step[1]) ** 2)
    assert clip_factor({"w": step}, 1.0) == pytest.approx(1 / exact, rel=1e-13)
    got, _ = clip({"w": step}, start, 1.0)
    assert length(got, start) == pytest.approx(1.0, rel=1e-7)
    tiny = {"w": torch.full((3,), 1e-30)}  # whose squares single precision takes for zero
    assert clip_factor(tiny, 1e-31) == pytest.approx(1e-31 / math.sqrt(3e-60))
    huge = {"w": torch.full((3,), 1e30)}  # and these for infinite
    assert clip_factor(huge, 1.0) == pytest.approx(1 / math.sqrt(3e60))


@pytest.mark.parametrize("mod", ["fixed_clipping", "adaptive_clipping", "local_dp"])
@pytest.mark.parametrize("shape", [(1,), (4, 3, 2), (5,)])
def test_a_tensor_of_another_shape_is_neither_clipped_nor_sent_unclipped(mod, shape):
    back = {**tensors(2), "w": torch.ones(shape)}
    message = re.escape(f'federation.mods: tensor "w" has the shape {list(shape)}; the net\'s has [4, 3]')
    with pytest.raises(TrainingError, match=message):
        through(chosen(mod), tensors(1), back)
