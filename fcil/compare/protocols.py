"""Published protocols, and the differences of a run from that of its method's paper.

What stands here was read in a paper or in the code released with it; what is not known is left out and never
compared. A method that several papers run in several ways has several entries, and a run is held against the
nearest: of its own data set if there is one, then the one from which it differs in the fewest settings.

    differences(plan.to_yaml())  ->  ["tasks 2 (paper: 5 or 10)", "rounds 10 (paper: 100)"]
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, fields
from typing import Any

Partition = tuple[str, float | None]
"""Partition: `("dirichlet", 0.5)`, `("iid", None)`, `("classes", 6)`."""


@dataclass(frozen=True, kw_only=True)
class Protocol:
    """One published way to run some methods; None, or an empty tuple, for what is not known."""

    methods: tuple[str, ...]
    source: str
    dataset: str
    tasks: tuple[int, ...] = ()
    """Numbers of tasks that are reported."""
    partition: tuple[Partition, ...] = ()
    clients: int | None = None
    fraction: float | None = None
    """Share of the clients in a round."""
    rounds: int | None = None
    """Rounds per task."""
    local_epochs: int | None = None
    local_steps: int | None = None
    """Steps of a client in a round, where the paper counts those."""
    batch_size: int | None = None
    lr: float | None = None
    schedule: str | None = None
    net: str | None = None


LINEAGE: dict[str, Any] = {"clients": 5, "fraction": 1.0, "rounds": 100}
"""Settings introduced by TARGET and kept by LANDER and others."""
SKEWS: tuple[Partition, ...] = (("iid", None), ("dirichlet", 1.0), ("dirichlet", 0.5), ("dirichlet", 0.1))
LANDER = "arXiv:2403.14101; github.com/tmtuan1307/lander @ 44d7acc"
RATES: dict[str, Any] = {"local_epochs": 2, "batch_size": 128, "lr": 0.04, "net": "resnet18"}

PROTOCOLS = (
    Protocol(methods=("lander",), source=f"{LANDER}, script/cifar100.sh", dataset="cifar100", tasks=(5, 10),
             partition=SKEWS, schedule="cosine", **LINEAGE, **RATES),
    Protocol(methods=("lander",), source=f"{LANDER}, defaults of main.py", dataset="tiny_imagenet", tasks=(5, 10),
             schedule="step", **LINEAGE, **RATES),
    Protocol(methods=("lander",), source=f"{LANDER}, defaults of main.py", dataset="imagenet", tasks=(10,),
             schedule="step", **LINEAGE, **RATES),
    # The baselines of LANDER's tables; `replay` is what they call iCaRL.
    Protocol(methods=("fedewc", "fedlwf", "replay", "icarl"), source=f"{LANDER}, baselines", dataset="cifar100",
             tasks=(5, 10), partition=SKEWS, schedule="constant", **LINEAGE, **{**RATES, "lr": 0.01}),
    Protocol(methods=("target",),
             source="arXiv:2303.06937; github.com/zj-jayzhang/Federated-Class-Continual-Learning @ 78cb9c0",
             dataset="cifar100", tasks=(5, 10), partition=SKEWS, local_epochs=5, lr=0.01, schedule="constant",
             **LINEAGE),
    Protocol(methods=("mfcl",), source="arXiv:2311.07784; github.com/SaraBabakN/MFCL-NeurIPS23 @ 8ab937b",
             dataset="cifar100", tasks=(10,), partition=(("dirichlet", 1.0),), clients=50, fraction=0.1, rounds=100,
             local_epochs=10, batch_size=32),
    Protocol(methods=("mfcl",), source="arXiv:2311.07784; github.com/SaraBabakN/MFCL-NeurIPS23 @ 8ab937b",
             dataset="tiny_imagenet", tasks=(10,), partition=(("dirichlet", 1.0),), clients=50, fraction=0.1,
             rounds=100, local_epochs=10, batch_size=32),
    # The federation grows by 10 clients in every task, 10 of which take part in a round.
    Protocol(methods=("glfc",), source="arXiv:2203.11473; github.com/conditionWang/FCIL", dataset="cifar100",
             tasks=(5, 10, 20), partition=(("classes", 6),), clients=30, rounds=10, local_epochs=20),
    # Clients learn tasks of their own, in an order of their own: 200 rounds over five tasks.
    Protocol(methods=("fedcil",), source="arXiv:2302.13001; github.com/daiqing98/FedCIL @ 206571a",
             dataset="mnist", tasks=(5,), clients=5, rounds=40, local_steps=400, batch_size=32),
    # One task.
    Protocol(methods=("fedgen",), source="arXiv:2105.10056; github.com/zhuangdizhu/FedGen @ dd5807c",
             dataset="mnist", tasks=(1,), clients=20, fraction=0.5, rounds=200, local_steps=20, batch_size=32,
             lr=0.01, schedule="exponential"),
)  # fmt: skip
"""Published protocols; none is known to us of FOT and FedProx in this setting."""
COMPARED = tuple(f.name for f in fields(Protocol) if f.name not in ("methods", "source"))


def differences(config: Mapping[str, Any]) -> list[str]:
    """Return the differences between a run and the published protocol of its method; nothing where none is known.

    Args:
        config: a plan as YAML has it (`config.yaml` of a run, `Plan.to_yaml()`).
    """
    found = nearest_protocol(config)
    return [] if found is None else found[1]


def nearest_protocol(config: Mapping[str, Any]) -> tuple[Protocol, list[str]] | None:
    """The published protocol that a run is held against, and in what it differs from it; None where none is known."""
    mine, method = _settings(config), next(iter(_section(config, "strategy")), None)
    held = [(p, _departures(p, mine)) for p in PROTOCOLS if method in p.methods]
    return min(held, key=lambda one: (one[0].dataset != mine["dataset"], len(one[1])), default=None)


def _departures(protocol: Protocol, mine: Mapping[str, Any]) -> list[str]:
    lines = []
    for name in COMPARED:
        published = getattr(protocol, name)
        allowed = published if isinstance(published, tuple) else (published,) * (published is not None)
        if allowed and mine[name] is not None and mine[name] not in allowed:
            lines.append(f"{name} {_word(mine[name])} (paper: {_any_of([_word(one) for one in allowed])})")
    for name, other in (("local_epochs", "local_steps"), ("local_steps", "local_epochs")):
        if mine[name] is not None and getattr(protocol, name) is None and getattr(protocol, other) is not None:
            lines.append(f"{name} {mine[name]} (paper: {other} {getattr(protocol, other)})")
    cut = {name: mine[name] for name in ("stop_after", "max_batches") if mine[name] is not None}
    return lines + [f"{name} {_word(value)} (paper: none)" for name, value in cut.items()]


def _settings(config: Mapping[str, Any]) -> dict[str, Any]:
    data, federation, optimizer = (_section(config, name) for name in ("data", "federation", "optimizer"))
    tasks = data.get("tasks")
    if data.get("base") is not None:
        tasks = f"{_word(data['base'])} + {_word(data.get('increment'))} classes"
    found = {"dataset": data.get("dataset"), "partition": _partition(data.get("partition"))}
    found["tasks"] = len(tasks) if isinstance(tasks, list | tuple) else tasks
    for name in ("clients", "fraction", "rounds", "batch_size", "stop_after", "max_batches"):
        found[name] = federation.get(name)
    counted = "local_epochs" if federation.get("local_steps") is None else "local_steps"
    found |= {"local_epochs": None, "local_steps": None, counted: federation.get(counted)}
    return found | {"lr": optimizer.get("lr"), "schedule": optimizer.get("schedule"), "net": _net(config)}


def _net(config: Mapping[str, Any]) -> Any:
    net = config.get("net")
    return net.get("name") if isinstance(net, Mapping) else net


def _section(config: Mapping[str, Any], name: str) -> Mapping[str, Any]:
    """A section of a configuration; a choice without options is one with none."""
    section = config.get(name)
    return section if isinstance(section, Mapping) else {section: {}} if isinstance(section, str) else {}


def _partition(value: Any) -> Any:
    if isinstance(value, Mapping):
        kind = next((k for k in ("iid", "dirichlet", "classes", "shards") if k in value), None)
        return value if kind is None else (kind, value[kind])
    return (value, None) if isinstance(value, str) else value


def _word(value: Any) -> str:
    if isinstance(value, tuple):
        return " ".join(_word(one) for one in value if one is not None)
    return f"{value:g}" if isinstance(value, float) else str(value)


def _any_of(words: list[str]) -> str:
    return words[0] if len(words) == 1 else f"{', '.join(words[:-1])} or {words[-1]}"
