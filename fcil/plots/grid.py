"""A picture of synthetic samples: a row for each class."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np
import numpy.typing as npt
from matplotlib.figure import Figure

from fcil.plots.look.colours import CYCLE
from fcil.plots.look.style import DPI, look, titled
from fcil.plots.look.words import SQUARE, drawable, fit
from fcil.store.pools import distinct_samples

ROWS, COLUMNS = 10, 8
NAME, HEAD, COLUMN_HEAD, TILE, GAP = 0.86, 0.27, 0.13, 64, 4
"""Inches for the names of rows, the title and the names of columns; dots for a sample and the space around it."""
Array = npt.NDArray[Any]


def synthetic_grid(x: Array, y: Array, class_names: Sequence[str]) -> Figure:
    """Up to 8 samples of up to 10 classes, spread evenly over the classes there are.

    Args:
        x: images (N, channels, H, W), uint8 or float, or series (N, channels, length), drawn as lines. Float images
            outside [0, 1] are stretched between the least and the greatest value shown.
        y: labels (N,).
        class_names: of all classes; a label without a name is shown as a number.
    """
    labels, present = some_labels(y), len(np.unique(y))
    rows = [(class_name(label, class_names), np.flatnonzero(y == label)[:COLUMNS]) for label in labels]
    title = f"Samples of {len(labels)} of {present} classes" if present > len(labels) else "Synthetic samples"
    distinct = distinct_samples(x)
    sizes = f"{len(y):,}" if distinct is None else f"{len(y):,}, {distinct:,} distinct"
    return sheet(f"{title} ({sizes})" if len(y) else "No synthetic samples", x, rows)


def some_labels(y: Array) -> list[int]:
    """Up to 10 of the labels there are, evenly spread."""
    present = np.unique(y)
    return present[np.linspace(0, len(present) - 1, min(ROWS, len(present))).round().astype(int)].tolist()  # type: ignore[no-any-return]


def class_name(label: int, class_names: Sequence[str]) -> str:
    """The name of a class; its number where it has none, or none of which a letter can be drawn."""
    if not 0 <= label < len(class_names):
        return str(label)
    name = drawable(class_names[label])
    return name if name.replace(SQUARE, "").strip() else f"class {label}"


def sheet(
    text: str, x: Array, rows: Sequence[tuple[str, Array]], columns: int = COLUMNS, heads: Sequence[str] = ()
) -> Figure:
    """Samples beside and below each other.

    Args:
        text: the title.
        rows: the name of each row, and the numbers in `x` of its samples, at most `columns`.
        heads: what stands above the columns.
    """
    step, top = (_tile(x) + GAP) / DPI, (HEAD if titled() else GAP / DPI) + (COLUMN_HEAD if heads else 0)
    width, height = NAME + columns * step, top + max(len(rows), 1) * step
    with look():
        figure = Figure(figsize=(width, height))
        if titled():
            text = fit(text, width - 0.12, 7.5, bold=True)
            figure.text(0.06 / width, 1 - HEAD / 2 / height, text, fontsize=7.5, fontweight="bold", va="center")
        for column, name in enumerate(heads):
            left = (NAME + (column + 0.5) * step - GAP / 2 / DPI) / width
            figure.text(left, 1 - (top - 0.04) / height, fit(name, step - 0.02), fontsize=7, ha="center")
        for row, (name, _) in enumerate(rows):
            middle = 1 - (top + (row + 0.5) * step) / height
            figure.text((NAME - 0.06) / width, middle, fit(name, NAME - 0.1), fontsize=7, ha="right", va="center")
        if rows and x.ndim == 4:
            axes = figure.add_axes((NAME / width, 0, 1 - NAME / width, 1 - top / height))
            axes.set_axis_off()
            mosaic = _mosaic(x, [pick for _, pick in rows], columns)
            axes.imshow(mosaic, cmap="gray", vmin=0, vmax=1, aspect="auto", interpolation="antialiased")
        elif rows:
            _draw_series(figure, [x[pick] for _, pick in rows], step, top)
    return figure


def _tile(x: Array) -> int:
    """Dots along a sample: a whole multiple of its pixels where that is near 64, so that pixels stay square."""
    pixels = x.shape[-1] if x.ndim == 4 else TILE
    return pixels * max(round(TILE / pixels), 1) if pixels < 1.5 * TILE else TILE


def _mosaic(x: Array, picks: Sequence[Array], columns: int) -> Array:
    """The picked images beside and below each other on white, each dot of the figure one value."""
    images = to_images(x[np.concatenate(picks)])
    factor = max(_tile(x) // images.shape[2], 1)
    images = images.repeat(factor, axis=1).repeat(factor, axis=2)
    gap = GAP * max(images.shape[2] // _tile(x), 1)
    (high, wide), rest = images.shape[1:3], images.shape[3:]
    canvas = np.ones((len(picks) * (high + gap), columns * (wide + gap), *rest), dtype=np.float32)
    rows = iter(images)
    for i, pick in enumerate(picks):
        for j in range(len(pick)):
            top, left = i * (high + gap), j * (wide + gap)
            canvas[top : top + high, left : left + wide] = next(rows)
    return canvas


def _draw_series(figure: Figure, rows: Sequence[Array], step: float, top: float) -> None:
    width, height = figure.get_size_inches()
    for row, samples in enumerate(rows):
        for column, sample in enumerate(samples):
            left, bottom = NAME + column * step, height - top - (row + 1) * step
            axes = figure.add_axes((left / width, bottom / height, 0.92 * step / width, 0.92 * step / height))
            axes.set_axis_off()
            for channel, values in enumerate(sample[: len(CYCLE)]):
                finite = np.where(np.isinf(values), 0.0, values.astype(np.float64))  # NaN, a padded step, is not drawn
                axes.plot(finite, color=CYCLE[channel], linewidth=0.6)


def to_images(x: Array) -> Array:
    """(N, channels, H, W) as (N, H, W, 3) or, with fewer channels, (N, H, W): float32 in [0, 1]."""
    if x.dtype == np.uint8:
        values = x.astype(np.float32) / 255
    else:
        values = np.nan_to_num(x.astype(np.float32), posinf=0.0, neginf=0.0)
        low, high = (float(values.min()), float(values.max())) if values.size else (0.0, 1.0)
        if low < 0 or high > 1:
            values = (values - low) / max(high - low, 1e-12)
    values = values.transpose(0, 2, 3, 1)
    return values[..., :3] if values.shape[-1] >= 3 else values[..., 0]
