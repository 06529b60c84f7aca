"""Pictures of synthetic samples, drawn as soon as there are any."""

from __future__ import annotations

from fcil.federation.observer import Observer
from fcil.io.atomic import write_bytes
from fcil.store import RunFolder
from fcil.types import Tensors


class SamplePictures(Observer):
    """Draws some samples of each class, beside the file of each pool.

    Args:
        names: of all classes.
    """

    def __init__(self, folder: RunFolder, names: tuple[str, ...]) -> None:
        self.folder = folder
        self._names = names

    def synthesis_done(self, task: int, samples: Tensors) -> None:
        """Write `synthetic/task<k>.png`."""
        self._draw(f"task{task}", samples)

    def synthesis_seen(self, task: int, round: int, samples: Tensors) -> None:
        """Write `synthetic/task<k>-round<r>.png`."""
        self._draw(f"task{task}-round{round}", samples)

    def _draw(self, name: str, samples: Tensors) -> None:
        from fcil.plots.grid import synthetic_grid  # a second of imports that few runs need
        from fcil.plots.look.style import png

        picture = png(synthetic_grid(samples["x"].cpu().numpy(), samples["y"].cpu().numpy(), self._names))
        write_bytes(self.folder.synthetic / f"{name}.png", picture)
