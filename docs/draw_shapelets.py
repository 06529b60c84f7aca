"""Draw what a ShapeFormer compares: series of two classes, a shapelet of each, and where it matches.

    python docs/draw_shapelets.py

The series are made here: noise and a slow wave, with a bump in the first class and a dip and a rise in the second, some
steps earlier or later in each. Writes `docs/pictures/shapelets.svg`.
"""

from __future__ import annotations

from pathlib import Path

import matplotlib as mpl
import matplotlib.pyplot as plt
import torch
from torch import Tensor

from fcil.nets import NetSettings, build_net
from fcil.nets.series import ShapeFormer, ShapeFormerSettings
from fcil.rng import generator
from fcil.shapelets import discover

PICTURE = Path(__file__).parent / "pictures" / "shapelets.svg"
STEPS, EACH = 60, 40
SETTINGS = ShapeFormerSettings(window=10, per_class=1, points=0.5)
COLOURS = "#0072b2", "#d55e00"


def made_series() -> tuple[Tensor, Tensor]:
    """Return series (80, 1, 60) of two classes, and the classes."""
    draw = generator("picture of shapelets")
    y = torch.arange(2 * EACH) % 2
    time = torch.arange(STEPS)
    wave = torch.sin(time / 9 + 6 * torch.rand(len(y), 1, generator=draw)) * 0.5
    x = wave + 0.35 * torch.randn(len(y), STEPS, generator=draw)
    for row, label in enumerate(y.tolist()):
        centre = (20 if label == 0 else 38) + int(torch.randint(-6, 7, (1,), generator=draw))
        away = (time - centre) / 3.0
        x[row] += 1.5 * torch.exp(-away.square()) if label == 0 else -2.5 * away * torch.exp(-away.square())
    return x[:, None], y


def main() -> None:
    mpl.rcParams |= {"svg.hashsalt": "shapelets", "font.size": 8, "axes.spines.top": False, "axes.spines.right": False}
    x, y = made_series()
    found = discover(x, y, SETTINGS)
    settings = NetSettings(name="shapeformer", shapelets=SETTINGS)
    net = build_net(settings, shape=(1, STEPS), num_classes=2, text_width=None, key=("picture",)).backbone
    assert isinstance(net, ShapeFormer)
    net.append(found, generator("picture of tokens"))
    rows = [int((y == label).nonzero()[3]) for label in (0, 1)]
    windows = net.bank.nearest(x[rows][:, found.channel], torch.full((2,), STEPS))
    figure, axes = plt.subplots(2, 2, figsize=(7, 3.4), sharex=True, sharey=True, layout="constrained")
    for k, colour in enumerate(COLOURS):
        length, own = int(found.length[k]), int(found.start[k])
        for place, row in enumerate(rows):
            axis, first = axes[k, place], int(windows[place, k])
            axis.plot(x[row, 0], color="0.7", lw=1)
            axis.axvspan(max(0, own - SETTINGS.window), own + length + SETTINGS.window, ymax=0.04, color=colour, lw=0)
            axis.plot(range(first, first + length), x[row, 0, first : first + length], color=colour, lw=2)
            axis.plot(range(first, first + length), found.values[k, :length], color="black", lw=1, ls=":")
            gain = f"shapelet of class {k} (gain {float(found.gain[k]):.2f} bit)"
            axis.set_title(f"{gain} in a series of class {int(y[row])}", loc="left", fontsize=8)
            axis.set_xlabel("step" if k else "")
    PICTURE.parent.mkdir(exist_ok=True)
    figure.savefig(PICTURE, metadata={"Date": None})


if __name__ == "__main__":
    main()
