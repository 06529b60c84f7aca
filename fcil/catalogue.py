"""What `fcil list` prints, as rows."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

from fcil.anchors import ENCODERS
from fcil.config import Where
from fcil.data import DATASETS
from fcil.facts import needs, paper, sent
from fcil.nets import BACKBONES
from fcil.plugins import built_in_files, first_line, locate, own_files, read_source, strategy_class
from fcil.synthesis import synthesizer_class, synthesizer_names

Row = dict[str, Any]


def strategies() -> list[Row]:
    """Built-in strategies and those in `./strategies`."""
    rows = []
    for name, path in sorted({**built_in_files(), **own_files()}.items()):
        where = Where(str(path))
        source = read_source(path, where)
        kind = strategy_class(name, locate(name, where), source, where)
        about = {"paper": paper(source), "needs": ", ".join(needs(kind, source)), **sent(kind, source)}
        rows.append({"strategy": name, "what": first_line(source), **about})
    return rows


def synthesizers() -> list[Row]:
    rows = []
    for name in synthesizer_names():
        source = Path(__file__).with_name("synthesis").joinpath(f"{name}.py").read_text(encoding="utf-8")
        needs = ", ".join(sorted(synthesizer_class(name).needs))
        rows.append({"synthesizer": name, "what": first_line(source), "needs": needs})
    return rows


def datasets() -> list[Row]:
    return [
        {
            "dataset": d.name,
            "what": d.description,
            "classes": d.num_classes,
            "shape": None if d.shape is None else "x".join(map(str, d.shape)),
            "downloads": "yes" if d.downloads else "",
        }
        for d in DATASETS.values()
    ]


def nets() -> list[Row]:
    return [
        {"net": name, "what": recipe.description, "parameters": f"{recipe.num_parameters():,}"}
        for name, recipe in BACKBONES.items()
    ]


def encoders() -> list[Row]:
    return [
        {"encoder": e.name, "what": e.summary, "width": e.width, "network": "yes" if e.needs_network else ""}
        for e in ENCODERS
    ]


LISTINGS: dict[str, Callable[[], list[Row]]] = {
    "strategies": strategies,
    "synthesizers": synthesizers,
    "datasets": datasets,
    "nets": nets,
    "encoders": encoders,
}
