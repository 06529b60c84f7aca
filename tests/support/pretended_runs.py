"""Plays strategies and synthesizers on the CPU and on the pretended device, in a process of their own.

    python tests/support/pretended_runs.py strategies finetune lander
    python tests/support/pretended_runs.py synthesizers fast

Each is played three times: on the CPU, on the device, and on the device with longer loops: more batches in an epoch
and in an evaluation, more steps of a generator, of its student and of the server. It prints one JSON object for each:
what went wrong, what differs from the CPU, and each line that waits more often where loops are longer.
"""

from __future__ import annotations

import dataclasses
import json
import sys
import tempfile
from collections import Counter
from collections.abc import Sequence
from contextlib import nullcontext
from pathlib import Path
from typing import Any
from unittest import mock

import torch
from pretended_device import register, watched

from fcil.check.contract import difference
from fcil.check.trials import Trials, plan_of
from fcil.config import Where
from fcil.federation import evaluate
from fcil.federation.checkpoint import SavedChains
from fcil.federation.protection.aggregation import RULES
from fcil.federation.protection.attacks import Noise
from fcil.federation.protection.privacy import Privacy
from fcil.federation.settings import Resources
from fcil.methods.loading import StrategySpec
from fcil.nets import NetSettings, build_net
from fcil.synthesis import Bound, Synthesizer, create, synthesizer_class
from fcil.types import Tensors

SMALL: dict[str, Any] = {
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
    "ed_batches": 1,
}
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


def strategy(options: Any, device: torch.device, *, long: bool, **federation: Any) -> dict[str, Any]:
    """Return the outcome of a run of two tasks: clients, server, synthesis, aggregation and evaluation."""
    spec = StrategySpec.from_yaml(options, Where("strategy"))
    settings = {"clients": 2, "rounds": 1, "batch_size": 8, "max_batches": 4 if long else 2} | federation
    plan = plan_of(spec, **settings)
    method = small(plan.strategy.strategy)
    spec = dataclasses.replace(plan.strategy, strategy=grown(method) if long else method)
    plan = dataclasses.replace(plan, strategy=spec, net=NetSettings(name="resnet8", width=2))
    with (
        mock.patch.object(Resources, "torch_device", return_value=device),
        mock.patch.object(evaluate, "BATCH", EVALUATED[long]),
        mock.patch.object(SavedChains, "due", False),  # else it is a matter of seconds how often chains are saved
        tempfile.TemporaryDirectory() as folder,
        Trials(Path(folder)) as trials,
    ):
        return trials.play("run", plan).outcome()


def distiller(name: str, device: torch.device, *, long: bool) -> dict[str, Any]:
    """Return the outcome of a distillation on the pool of the server, which has numbered samples."""
    return strategy({"distill": {"distiller": {name: {}}, "learns": "after"}}, device, long=long)


def aggregation(name: str, device: torch.device, *, long: bool) -> dict[str, Any]:
    """Return the outcome of a run with this rule, or with differential privacy, and with an attack on it."""
    rule: dict[str, Any] = {"privacy": Privacy()} if name == "privacy" else {"aggregation": RULES[name]()}
    return strategy("finetune", device, long=long, clients=7, attack=Noise(), **rule)


# Synthesizers -------------------------------------------------------------------------------------


def synthesizer(name: str, device: torch.device, *, long: bool) -> dict[str, Any]:
    """Return pools and terms of two episodes of one chain, and batches for a student of the caller's."""
    known = {field.name for field in dataclasses.fields(synthesizer_class(name))}
    method = create(name, **{key: value for key, value in SMALL.items() if key in known})
    method = grown(method) if long else method
    shape, classes = (3, 8, 8), 5
    anchors = torch.linspace(-1, 1, classes * 16).view(classes, 16).sin()
    net = build_net(NetSettings(name="resnet8", width=2), shape=shape, num_classes=classes, text_width=16, key=("net",))
    noted: dict[str, dict[str, float]] = {}
    pool = method.run(
        teacher=net.to(device),
        labels=range(classes),
        shape=shape,
        anchors=anchors,
        bound=Bound(),
        progress=lambda done, total, terms: noted.update({f"episode {done}": dict(terms)}),
    )
    return {"problem": None, "records": noted, "parts": _plain(pool), "rows": {}}


def _plain(pool: Tensors) -> dict[str, Any]:
    return {name: tensor.cpu().tolist() for name, tensor in pool.items()}


# All ----------------------------------------------------------------------------------------------

PLAYS = {"strategies": strategy, "synthesizers": synthesizer, "distillers": distiller, "aggregations": aggregation}


def report(kind: str, name: str, device: torch.device) -> dict[str, Any]:
    """Play a method three times and say what is wrong."""
    played: list[dict[str, Any]] = []
    waits: list[Counter[str]] = []
    for place, long in ((torch.device("cpu"), False), (device, False), (device, True)):
        with watched() if place == device else nullcontext() as watch:
            played.append(PLAYS[kind](name, place, long=long))
            if watch is not None:
                waits.append(watch.waits)
        if played[-1]["problem"]:
            return {"name": name, "problem": played[-1]["problem"]}
    few, many = waits
    return {
        "name": name,
        "problem": None,
        "differs": difference(played[1], played[0]),
        "waits": {line: [few[line], many[line]] for line in many if many[line] > few[line]},
        "seen": sum(few.values()),
    }


def main(kind: str, names: Sequence[str]) -> None:
    torch.set_num_threads(1)
    device = register()
    for name in names:
        try:
            said = report(kind, name, device)
        except Exception as error:  # an answer for each method, whatever becomes of another
            said = {"name": name, "problem": f"{type(error).__name__}: {error}"}
        print(json.dumps(said), flush=True)


if __name__ == "__main__":
    main(sys.argv[1], sys.argv[2:])
