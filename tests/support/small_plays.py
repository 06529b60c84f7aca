"""Strategies, synthesizers, distillers and rules of aggregation, each played small on any device.

An outcome is that of `fcil.check.trials`, as plain values: what went wrong, and records, parts and rows of the run.
"""

from __future__ import annotations

import dataclasses
import tempfile
from pathlib import Path
from typing import Any, Literal
from unittest import mock

import torch

from fcil.check.trials import TrialRun, Trials, plan_of
from fcil.config import Where
from fcil.federation import evaluate
from fcil.federation.checkpoint import SavedChains
from fcil.federation.protection.aggregation import RULES
from fcil.federation.protection.attacks import Noise
from fcil.federation.protection.privacy import Privacy
from fcil.federation.settings import Resources
from fcil.io.state import flatten
from fcil.methods.loading import StrategySpec
from fcil.nets import NetSettings, build_net
from fcil.synthesis import Bound, Synthesizer, create, synthesizer_class
from fcil.types import Tensors

Precision = Literal["fp32", "bf16"]
SMALL_SYNTHESIS: dict[str, Any] = {
    "rounds": 3,
    "warmup": 0,
    "warmup_loops": 1,
    "loops": 1,
    "steps": 2,
    "batch_size": 10,
    "samples": 40,
    "latent": 8,
    "width": 4,
    "sizes": (8,),
    "directions": 6,
    "student_steps": 2,
    "student_batch": 8,
}
"""Settings of a small synthesis; a method takes those that it has."""
SMALL = {**SMALL_SYNTHESIS, "ed_batches": 1}
LONGER = ("steps", "student_steps", "consolidation", "perturbations", "generator_steps")
"""Lengths of loops, of strategies and of synthesizers."""
EVALUATED = 32, 16
"""Images in a batch of an evaluation: fewer make more batches."""


def grown(method: Any) -> Any:
    """Return the method with twice as many steps in each of its loops."""
    longer = {name: 2 * getattr(method, name) for name in LONGER if isinstance(getattr(method, name, None), int)}
    inner = {name: grown(v) for name, v in vars(method).items() if isinstance(v, Synthesizer)}
    return dataclasses.replace(method, **longer, **inner)


def small(method: Any) -> Any:
    """Return the method with small nets and batches, in so far as it has such settings."""
    known = {field.name for field in dataclasses.fields(method)}
    inner = {name: small(v) for name, v in vars(method).items() if isinstance(v, Synthesizer)}
    if not isinstance(method, Synthesizer):
        sizes = {name: value for name, value in {"width": 4, "steps": 2, "images": 8}.items() if name in known}
        return dataclasses.replace(method, **inner, **sizes)
    return dataclasses.replace(method, **{name: value for name, value in SMALL.items() if name in known})


# Strategies ---------------------------------------------------------------------------------------


def strategy(
    options: Any, device: torch.device, *, long: bool = False, precision: Precision = "fp32", **federation: Any
) -> dict[str, Any]:
    """Return the outcome of a run of two tasks: clients, server, synthesis, aggregation and evaluation.

    To that of `fcil check` it adds `tensors`, of the server at its end, on the CPU.
    """
    spec = StrategySpec.from_yaml(options, Where("strategy"))
    settings = {"clients": 2, "rounds": 1, "batch_size": 8, "max_batches": 4 if long else 2} | federation
    plan = plan_of(spec, **settings)
    method = small(plan.strategy.strategy)
    spec = dataclasses.replace(plan.strategy, strategy=grown(method) if long else method)
    optimizer = dataclasses.replace(plan.optimizer, precision=precision)
    plan = dataclasses.replace(plan, strategy=spec, net=NetSettings(name="resnet8", width=2), optimizer=optimizer)
    with (
        mock.patch.object(Resources, "torch_device", return_value=device),
        mock.patch.object(evaluate, "BATCH", EVALUATED[long]),
        mock.patch.object(SavedChains, "due", False),  # else it is a matter of seconds how often chains are saved
        tempfile.TemporaryDirectory() as folder,
        Trials(Path(folder)) as trials,
    ):
        played = trials.play("run", plan)
        return {**played.outcome(), "tensors": {} if played.problem else _tensors(played)}


def _tensors(played: TrialRun) -> Tensors:
    server = played.server()
    tensors, _ = flatten({"net": server.net.weights(), "shared": server.shared})
    return {name: tensor.cpu() for name, tensor in tensors.items()}


def distiller(name: str, device: torch.device, **settings: Any) -> dict[str, Any]:
    """Return the outcome of a distillation on the pool of the server, which has numbered samples."""
    return strategy({"distill": {"distiller": {name: {}}, "learns": "after"}}, device, **settings)


def aggregation(name: str, device: torch.device, **settings: Any) -> dict[str, Any]:
    """Return the outcome of a run with this rule, or with differential privacy, and with an attack on it."""
    rule: dict[str, Any] = {"privacy": Privacy()} if name == "privacy" else {"aggregation": RULES[name]()}
    return strategy("finetune", device, clients=7, attack=Noise(), **rule, **settings)


# Synthesizers -------------------------------------------------------------------------------------


def synthesizer(
    name: str, device: torch.device, *, long: bool = False, precision: Precision = "fp32"
) -> dict[str, Any]:
    """Return the pool of all chains, and the terms of each episode."""
    known = {field.name for field in dataclasses.fields(synthesizer_class(name))}
    method = create(name, **{key: value for key, value in SMALL.items() if key in known})
    method = grown(method) if long else method
    series, classes = "images" not in method.makes, 5
    shape, backbone = ((2, 12), "fcn1d") if series else ((3, 8, 8), "resnet8")
    anchors = torch.linspace(-1, 1, classes * 16).view(classes, 16).sin()
    net = build_net(NetSettings(name=backbone, width=2), shape=shape, num_classes=classes, text_width=16, key=("net",))
    noted: dict[str, dict[str, float]] = {}
    pool = method.run(
        teacher=net.to(device),
        labels=range(classes),
        shape=shape,
        anchors=anchors,
        bound=Bound(),
        precision=precision,
        progress=lambda done, total, terms: noted.update({f"episode {done}": dict(terms)}),
    )
    tensors = {name: tensor.cpu() for name, tensor in pool.items()}
    parts = {name: tensor.tolist() for name, tensor in tensors.items()}
    return {"problem": None, "records": noted, "parts": parts, "rows": {}, "tensors": tensors}


PLAYS = {"strategies": strategy, "synthesizers": synthesizer, "distillers": distiller, "aggregations": aggregation}
