"""Small distillations: a teacher and a student on the digits, in a second or two."""

from __future__ import annotations

import io
from pathlib import Path
from typing import Any

import yaml
from rich.console import Console
from small_runs import silently

from fcil.distillation import distill
from fcil.federation.observer import Observer
from fcil.store import Run

FAST = {"rounds": 2, "steps": 2, "batch_size": 10, "samples": 20, "width": 4, "latent": 8}
NAYER = {"rounds": 2, "warmup": 1, "steps": 2, "batch_size": 10, "samples": 20, "width": 4, "latent": 8}
SETTINGS: dict[str, Any] = {
    "name": "tiny",
    "data": {"dataset": "digits", "per_class": 8},
    "teacher": {"net": {"name": "resnet8", "width": 4}, "epochs": 2, "batch_size": 16},
    "student": {
        "net": {"name": "resnet8", "width": 2},
        "learns": "between",
        "rounds": 4,
        "steps": 2,
        "batch_size": 8,
        "evaluate_every": 2,
        "snapshots": 0,
    },
    "synthesizer": {"fast": FAST},
    "resources": {"device": "cpu"},
}
AFTER: dict[str, Any] = {
    "student": {"learns": "after", "rounds": 3, "snapshots": 2},
    "synthesizer": {"fast": {**FAST, "rounds": 4, "chains": 2, "student_steps": 2, "student_batch": 10}},
}


def write(folder: Path, **parts: Any) -> Path:
    folder.mkdir(exist_ok=True)
    settings = {**SETTINGS}
    for key, value in parts.items():
        merged = isinstance(value, dict) and key in ("data", "teacher", "student")
        settings[key] = {**settings[key], **value} if merged else value
    path = folder / "tiny.yaml"
    path.write_text(yaml.safe_dump(settings, sort_keys=False), encoding="utf-8")
    return path


def taught(source: Path, *overrides: str, out: Path, observer: Observer | None = None) -> tuple[list[Run], str]:
    console = Console(file=io.StringIO(), width=200)
    with silently(observer):
        runs = distill(source, *overrides, out=out, console=console)
    return runs, console.file.getvalue()  # type: ignore[attr-defined]
