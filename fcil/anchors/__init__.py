"""Anchors: the label-text embedding of every class, the points near which LANDER keeps image embeddings.

    anchors = load_anchors(AnchorSettings(encoder="openai/clip-vit-base-patch32"), names)  # (C, D)

Source: LANDER (arXiv 2403.14101), whose reference code (tmtuan1307/lander @ 44d7acc) reads the table from
a file; NAYER (arXiv 2310.00258; tmtuan1307/nayer @ c6bedcd) shows how such a table is made: the projected
features of CLIP's text tower, not normalised, with `_` and `-` of a class name replaced by spaces.
"""

from __future__ import annotations

import os
from collections.abc import Sequence
from dataclasses import dataclass, replace
from itertools import combinations, islice
from pathlib import Path
from typing import Any, Literal, NamedTuple

import torch
from torch import Tensor

from fcil.anchors.encoders import (
    EMBEDDED,
    EMBEDDED_FILE,
    ENCODERS,
    RANDOM,
    TEMPLATE,
    EncoderInfo,
    Pooling,
    drawn,
    encode,
    is_cached,
)
from fcil.anchors.packaged import PACKAGED, packaged_folder, way_out
from fcil.anchors.tables import Table, check_names, normalise, read_names, read_table, write_table
from fcil.errors import DataError

__all__ = [
    "CLIP_SPREAD",
    "EMBEDDED",
    "ENCODERS",
    "PACKAGED",
    "AnchorSettings",
    "EncoderInfo",
    "Spread",
    "describe",
    "embed",
    "equal_pairs",
    "is_cached",
    "load_anchors",
    "normalise",
    "packaged_folder",
    "read_names",
    "warnings",
]

CLIP_SPREAD = 0.08
"""Mean squared difference per dimension of two classes under raw CLIP ViT-B/32 (0.081 for CIFAR-100)."""
SHOWN = 5
"""Pairs of classes in a line; the others are counted."""
_CHUNK = 512


@dataclass(frozen=True, kw_only=True)
class AnchorSettings:
    """Source of the label-text embeddings of the classes."""

    encoder: str = EMBEDDED
    """A Hugging Face text encoder, a folder that holds one, `embedded`: vectors that come with the package, or
    `random`: a vector drawn for each name, for classes whose names say nothing."""
    template: str = TEMPLATE
    """The prompt; `{}` is the class name (the figures of LANDER and NAYER show this one)."""
    scale: Literal["clip", "raw"] = "clip"
    """`clip` gives every table the spread of raw CLIP features, for which radius 0.015 was chosen; `raw` leaves it."""
    revision: str | None = None
    """Branch, tag or commit of the Hugging Face encoder; null is main, or what was fetched before."""
    pooling: Pooling = "auto"
    """`text`: CLIP's projected feature; `mean`, `cls`: of the token vectors; `auto`: text for CLIP, mean for others."""
    file: str | None = None
    """A table written by `fcil embed`, read instead of running an encoder."""

    def __post_init__(self) -> None:
        if self.template.count("{}") != 1:
            raise ValueError(f'template: "{self.template}" must hold {{}} exactly once, where the class name goes')
        if len(self.template) > 1000:
            raise ValueError(f"template: has {len(self.template)} characters; at most 1000 are allowed")
        if not self.encoder.strip():
            raise ValueError(f'encoder: "" is not allowed; name a text encoder or "{EMBEDDED}"')
        if self.encoder not in (EMBEDDED, RANDOM) or self.file is not None:
            return
        given = {"template": (self.template, TEMPLATE), "pooling": (self.pooling, "auto", "mean")}
        for key, (value, *allowed) in given.items():
            if value not in allowed:
                raise ValueError(f'{key} "{value}" needs an encoder; the {self.encoder} vectors have "{allowed[-1]}"')
        if self.revision is not None:
            raise ValueError(f'revision "{self.revision}" needs an encoder; the {self.encoder} vectors have none')


class Spread(NamedTuple):
    """Distances of the anchors from zero and from each other, as squared means over the dimensions."""

    norm_mean: float
    pairwise_mean: float  # 0 for a single class
    pairwise_min: float
    closest: tuple[int, int] | None  # rows of the closest pair


def load_anchors(settings: AnchorSettings, names: Sequence[str]) -> Tensor:
    """Return the anchors of `names` (C, D) float32, row k for the k-th name.

    Call it once for the classes of all tasks, in order of appearance: with `scale: clip` the scale depends
    on the set of classes (not on their order), and anchors must not move between tasks.

    Raises:
        DataError: a class has no vector, or the encoder or file cannot be read.
    """
    vectors = _table(settings, names).vectors.float()
    if settings.scale == "raw":
        return vectors
    order = sorted(range(len(names)), key=lambda row: names[row])  # a sum's last bit depends on its order
    spread = _pairwise_mean(vectors[torch.tensor(order, dtype=torch.long)])
    return vectors * (CLIP_SPREAD / spread) ** 0.5 if spread > 0 else vectors


def _table(settings: AnchorSettings, names: Sequence[str]) -> Table:
    """Return the vectors of `names` as the encoder gave them."""
    if not names:
        raise DataError("no class names to find anchors for")
    if settings.file is None and settings.encoder == RANDOM:
        return drawn(names)
    if settings.file is None and settings.encoder != EMBEDDED:
        return encode(settings.encoder, settings.template, settings.revision, settings.pooling, names)
    advice = 'Write a table of your classes with "fcil embed NAMES.txt" and an encoder, or set anchors.encoder'
    if settings.file is None:
        table = read_table(EMBEDDED_FILE)
        advice += f" to a Hugging Face text encoder or a local folder; without a network: {way_out()}; or to {RANDOM}"
    else:
        table = read_table(Path(os.path.expanduser(settings.file)))
        advice = f'The file "{settings.file}" has {len(table.names)} others; {advice[0].lower()}{advice[1:]}'
        _check_origin(settings, table)
    return replace(table, names=tuple(names), vectors=table.rows(names, advice))


def _check_origin(settings: AnchorSettings, table: Table) -> None:
    asked = {"encoder": (settings.encoder, EMBEDDED), "template": (settings.template, TEMPLATE)}
    for key, (value, default) in asked.items():
        if value not in (default, getattr(table, key)):
            raise DataError(
                f'anchors.{key} is "{value}", but anchors.file "{settings.file}" was made with "{getattr(table, key)}"'
            )


def embed(names: Sequence[str], settings: AnchorSettings, out: Path) -> dict[str, Any]:
    """Write the unscaled vectors of `names` as a table for `anchors.file`; return a report for the user.

    Raises:
        DataError: a name is refused, the encoder cannot be used, or `out` cannot be written.
    """
    check_names(names, "class names")
    table = _table(settings, names)
    write_table(out, table)
    spread = describe(table.vectors)
    return {
        "file": str(out),
        "classes": len(names),
        "width": table.vectors.shape[1],
        "encoder": table.encoder,
        "revision": table.revision,
        "template": table.template,
        "pooling": table.pooling,
        "norm_mean": spread.norm_mean,
        "pairwise_mean": spread.pairwise_mean,
        "pairwise_min": spread.pairwise_min,
        "closest": [names[row] for row in spread.closest] if spread.closest else [],
    }


def describe(anchors: Tensor) -> Spread:
    """Return length and spread of anchors (C, D)."""
    points = anchors.double()
    smallest, closest = float("inf"), None
    for start in range(0, len(points), _CHUNK):
        part = torch.cdist(points[start : start + _CHUNK], points, compute_mode="donot_use_mm_for_euclid_dist")
        later = torch.arange(len(points)) > torch.arange(start, start + len(part)).unsqueeze(1)
        part = part.square().div(points.shape[1]).masked_fill(~later, float("inf"))  # each pair once
        place = int(part.argmin())
        if part.flatten()[place].item() < smallest:
            smallest = part.flatten()[place].item()
            closest = (start + place // len(points), place % len(points))
    smallest = smallest if closest else 0.0
    return Spread(points.norm(dim=1).mean().item(), _pairwise_mean(points), smallest, closest)


def equal_pairs(anchors: Tensor) -> list[tuple[int, int]]:
    """Return the pairs of rows (first, second) of anchors (C, D) that are equal, in order; at most a million."""
    rows: dict[bytes, list[int]] = {}
    for row, anchor in enumerate((anchors + 0.0).cpu().contiguous().numpy()):  # + 0.0: minus zero is zero
        rows.setdefault(anchor.tobytes(), []).append(row)
    pairs = (pair for group in rows.values() for pair in combinations(group, 2))
    return sorted(islice(pairs, 10**6))


def _pairwise_mean(vectors: Tensor) -> float:
    """Return the mean over pairs of classes of mean_d (a_d - b_d)^2 = 2 sum_c |e_c - mean|^2 / ((C - 1) D)."""
    points = vectors.double()
    if len(points) < 2:
        return 0.0
    return 2 * (points - points.mean(0)).square().sum().item() / ((len(points) - 1) * points.shape[1])


def warnings(anchors: Tensor, names: Sequence[str], radius: float, folders: Sequence[str] | None = None) -> list[str]:
    """Return the reasons why a bounding loss of this radius (mean over dimensions) is weak, a line each.

    Args:
        folders: for each class the folder of its name, where classes are folders.
    """
    spread = describe(anchors)
    if spread.closest is None:
        return []
    lines = []
    if spread.pairwise_min == 0:
        pairs = equal_pairs(anchors)
        called = [f'"{name}"' for name in names]
        if folders is not None:
            called = [f"{name} (folder {folder})" for name, folder in zip(called, folders, strict=True)]
        shown = "; ".join(f"{called[first]} and {called[second]}" for first, second in pairs[:SHOWN])
        more = f"; and {len(pairs) - SHOWN:,} more pairs" if len(pairs) > SHOWN else ""
        lines.append(f"classes {shown}{more} have the same anchor")
    if radius >= spread.pairwise_mean / 2:  # the mean of all anchors is within it
        lines.append(
            f"radius {radius:g} is so wide (spread {spread.pairwise_mean:.3g}) that one point fits all classes"
        )
    elif radius > spread.pairwise_mean / 4:
        lines.append(
            f"radius {radius:g} makes the balls of average classes overlap (spread {spread.pairwise_mean:.3g})"
        )
    return lines
