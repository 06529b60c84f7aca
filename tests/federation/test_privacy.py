"""Differential privacy: the clipped and noisy mean, and the epsilon that it spends."""

from __future__ import annotations

import math
import re
import sys
from typing import Any

import numpy as np
import pytest
import torch
from small_runs import same

from fcil import Update
from fcil.errors import ConfigError
from fcil.federation.protection.privacy import Privacy, epsilon, private_mean
from fcil.types import Tensors


def quiet(privacy: Privacy, updates: list[Update], start: Tensors, per_round: int) -> Update:
    """The private mean with noise too small to see."""
    return private_mean(Privacy(clip=privacy.clip, noise=1e-12), updates, start, per_round, ("test",))


def test_every_step_is_clipped_as_a_whole_and_weighs_alike():
    start = {"w": torch.ones(2), "running_var": torch.ones(1), "n": torch.tensor(4)}
    long = Update({"w": torch.tensor([31.0, 1.0]), "running_var": torch.tensor([41.0]), "n": torch.tensor(900)}, 99)
    short = Update({"w": torch.tensor([1.0, 1.5]), "running_var": torch.tensor([1.0]), "n": torch.tensor(5)}, 1)
    got = quiet(Privacy(clip=5.0), [long, short], start, 4)
    # The long step (30, 0, 40) has length 50; two of four clients did not answer and add nothing.
    assert got.weights["w"].tolist() == pytest.approx([1 + 3 / 4, 1 + 0.5 / 4])
    assert got.weights["running_var"].tolist() == pytest.approx([1 + 4 / 4])
    assert got.weights["n"] == 4  # nobody's counter
    assert got.num_examples == 0


def test_the_noise_has_the_deviation_it_says_and_the_stream_it_says():
    start = {"w": torch.zeros(40000), "v": torch.zeros(())}
    privacy = Privacy(clip=2.0, noise=3.0)
    sent = [Update({"w": start["w"], "v": start["v"]}, 1)] * 3

    def noise(*key: Any) -> Tensors:
        return private_mean(privacy, sent, start, 4, key).weights

    one = noise(0, "privacy", 1, 1)
    assert float(one["w"].std()) == pytest.approx(3.0 * 2.0 / 4, rel=0.02)
    assert abs(float(one["w"].mean())) < 0.05
    assert same(one, noise(0, "privacy", 1, 1))
    assert not same(one, noise(1, "privacy", 1, 1))
    assert not same(one, noise(0, "privacy", 1, 2))
    singles = [float(noise(k, "privacy", 1, 1)["v"]) for k in range(400)]
    assert np.std(singles) == pytest.approx(1.5, rel=0.15)


def test_noise_takes_no_variance_far_below_what_it_was():
    start = {"bn.running_var": torch.full((500,), 0.01)}
    got = private_mean(Privacy(), [Update(dict(start), 1)], start, 1, ("x",)).weights["bn.running_var"]
    assert got.min() == pytest.approx(0.001)
    assert got.max() > 0.5


def exact_epsilon(noise: float, rounds: int, delta: float) -> float:
    """The least epsilon of a Gaussian mechanism, composed: Balle and Wang, ICML 2018, theorem 8."""
    mu = math.sqrt(rounds) / noise

    def phi(x: float) -> float:
        return 0.5 * math.erfc(-x / math.sqrt(2))

    low, high = 0.0, 1000.0
    for _ in range(200):
        e = (low + high) / 2
        leak = phi(mu / 2 - e / mu) - math.exp(min(e, 700)) * phi(-mu / 2 - e / mu)
        low, high = (e, high) if leak > delta else (low, e)
    return high


def renyi_epsilon(noise: float, rounds: int, delta: float) -> float:
    """Mironov, CSF 2017 (a Gaussian's Renyi divergence) turned into epsilon by Canonne, Kamath and Steinke, 2020."""
    orders = 1 + np.logspace(-3, 3, 20001)
    bounds = orders * rounds / (2 * noise**2) + np.log1p(-1 / orders) - np.log(delta * orders) / (orders - 1)
    return float(bounds.min())


@pytest.mark.parametrize(("noise", "rounds"), [(1.0, 1), (4.0, 10), (10.0, 100), (0.5, 3)])
def test_epsilon_is_that_of_the_literature(noise, rounds):
    got = epsilon(Privacy(noise=noise, delta=1e-5), 10, 4, rounds)
    assert got == pytest.approx(renyi_epsilon(noise, rounds, 1e-5), rel=2e-3)
    exact = exact_epsilon(noise, rounds, 1e-5)
    assert exact <= got <= 1.12 * exact


def test_the_known_value_of_one_gaussian():
    # Balle and Wang's exact epsilon at deviation 1, sensitivity 1, delta 1e-5; Renyi bounds lie above.
    assert exact_epsilon(1.0, 1, 1e-5) == pytest.approx(4.377, abs=1e-3)
    assert epsilon(Privacy(noise=1.0, delta=1e-5), 5, 5, 1) == pytest.approx(4.7285, abs=1e-3)


def test_epsilon_grows_with_rounds_and_shrinks_with_noise_whoever_is_drawn():
    grown = [epsilon(Privacy(noise=2.0), 10, 5, rounds) for rounds in (0, 1, 2, 10, 100)]
    assert grown == sorted(grown)
    assert grown[0] == 0 < grown[1]
    assert epsilon(Privacy(noise=4.0), 10, 5, 10) < grown[3]
    assert epsilon(Privacy(noise=2.0), 10, 10, 10) == grown[3]


def test_without_the_accountant_the_one_line_says_what_to_install(monkeypatch):
    monkeypatch.setitem(sys.modules, "dp_accounting", None)
    with pytest.raises(ConfigError, match=re.escape("pip install 'fcil[privacy]'")):
        epsilon.__wrapped__(Privacy(noise=7.0), 3, 3, 1)
