"""Teachers: from files, checked before anything begins, and from runs of their own."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import torch
from safetensors.torch import save_file

from fcil.config import Where
from fcil.data.files.folders import data_folder
from fcil.distillation.settings import Distillation
from fcil.errors import StoreError
from fcil.federation.context import Datasets, RunContext
from fcil.federation.persistence.smoke import MEANING, is_smoke
from fcil.federation.plan import Plan
from fcil.io.atomic import replacing
from fcil.io.blobs import DamagedError, read_tensors
from fcil.io.state import digest
from fcil.nets.files import read_weights
from fcil.nets.pretrained.ported import torchvision_weights
from fcil.runs.preflight import named, share_out
from fcil.store import final_weights, load_run
from fcil.store.nets import net_facts, write_net
from fcil.types import Tensors


def exported(folder: Path, opened: Callable[[], RunContext]) -> Path:
    """Write `net.safetensors`, the final net, into a finished run's folder unless it is there, and return its path.

    Args:
        opened: opens the run.
    Raises:
        StoreError: neither that file nor a checkpoint can be read.
    """
    path = folder / "net.safetensors"
    try:
        there, _ = read_tensors(path)
    except DamagedError:
        there = {}
    try:
        ended = final_weights(folder)
    except StoreError:
        if there:  # checkpoints are large, and may have been deleted
            return path
        raise
    if digest(there, {}) != digest(ended, {}):  # no file, or that of an earlier execution of the run
        context = opened()
        write_net(path, ended, net_facts(context, context.tasks[-1]))
    return path


def save_net(path: Path, weights: Tensors) -> None:
    """Write a safetensors file atomically."""
    with replacing(path) as temporary:
        save_file({name: tensor.cpu().contiguous() for name, tensor in weights.items()}, temporary)


def teacher_file(one: Distillation) -> Path | None:
    """Return the path of a teacher that is not trained here, even before it exists; None for one that is."""
    if one.teacher.file == "torchvision":
        return data_folder() / f"torchvision-{one.teacher.net.name}.safetensors"
    return Path(one.teacher.file) if one.teacher.file else None


def given_teacher(one: Distillation, datasets: Datasets, where: Where) -> Path:
    """Return the file of a teacher that is not trained here, after checking it.

    Raises:
        ConfigError: it cannot be read, or does not fit.
    """
    path = teacher_file(one)
    assert path is not None, one
    if one.teacher.file == "torchvision":
        with named(where.at("teacher.file")):
            weights = torchvision_weights(one.teacher.net.name)
        save_net(path, weights)
    check_teacher(path, one.teacher_plan(one.seeds[0]), datasets, where)
    return path


def doubt(path: Path) -> str:
    """Return a warning about a teacher's file from a smoke run, which is almost untrained; else an empty string."""
    try:
        smoke = is_smoke(load_run(path.parent).config)
    except StoreError:  # it is in no run folder
        return ""
    return f"teacher.file: {path} is the net of a {MEANING}" if smoke else ""


def check_teacher(path: Path, plan: Plan, datasets: Datasets, where: Where) -> None:
    """Check that a file holds the weights of the net that a plan names, for the classes of its data.

    Raises:
        ConfigError: it is no safetensors file, fits another net or other data, or holds NaN.
    """
    here = where.at("teacher.file")
    with named(here):
        weights = read_weights(path)
    context = share_out(plan, datasets, where)
    with named(where):
        net = context.first_net(text_head=False)
    bias = weights.get("classifier.bias")
    if bias is not None and bias.ndim == 1 and len(bias) != net.num_classes:
        raise here.error(f"{path}: has {len(bias)} classes; {plan.data.dataset} has {net.num_classes}")
    broken = [name for name, w in weights.items() if w.is_floating_point() and not bool(torch.isfinite(w).all())]
    if broken:
        raise here.error(f'{path}: tensor "{broken[0]}" holds NaN or infinity')
    try:
        context.trained_net(weights)
    except ValueError as error:
        raise here.error(f"{path}: not the weights of a {plan.net.name} as in teacher.net ({error})") from None
