"""Trained nets for other programs: a state dict, TorchScript, ONNX; and whole runs as RO-Crates."""

from __future__ import annotations

import warnings
from collections.abc import Callable
from importlib.util import find_spec
from math import prod
from pathlib import Path
from typing import Any, cast

import torch
from torch import Tensor, nn

from fcil.errors import ConfigError, nearest
from fcil.evaluation.crate import write_crate
from fcil.io.atomic import replacing
from fcil.nets import Net
from fcil.store import load_run
from fcil.store.nets import KEY, KeptNet, kept_net, write_net

CRATE = "ro-crate"
"""The format that holds a whole run and not its net alone."""
NEEDED = ("onnx", "onnxscript")
"""Packages that torch needs to write ONNX."""
EXAMPLES = 2
"""Samples of the batch with which a net is traced."""
TOLERANCE = 1e-5
"""Difference of logits that is rounding."""


class Logits(nn.Module):
    """Logits (B, C) of a net for normalised samples (B, ...)."""

    def __init__(self, net: Net) -> None:
        super().__init__()
        self.net = net

    def forward(self, x: Tensor) -> Tensor:
        return cast(Tensor, self.net(x).logits)


def export(
    run_dir: Path | str, to: str, *, task: int | None = None, out: Path | str | None = None, trust: bool = False
) -> Path:
    """Write the net that a run has kept for other programs, and return the path of the file.

    Its inputs are samples (B, ...) float32 with levels in [0, 1], less `mean` and divided by `std` of each channel. The
    file tells them, with the names of the classes, as JSON: in the metadata under `fcil`, in TorchScript in the extra
    file `fcil.json`.

    Args:
        run_dir: folder of the run.
        to: a name from `FORMATS`, or `ro-crate` for a zip file of the whole run (`fcil.evaluation.crate`).
        task: the net at the end of this task; None: at the end of the run.
        out: the file; None: `exports/net.<ending>` in the run folder, `exports/task<k>.<ending>` for a task,
            `exports/ro-crate.zip`.
        trust: run the folder's copy of a net of the user's own, even if the file is another now, or gone.
    Raises:
        UserError: there is no such format, the net was not kept, or packages are missing.
    """
    known = (*FORMATS, CRATE)
    if to not in known:
        raise ConfigError(f'to: unknown format "{to}" (have: {", ".join(known)}).{nearest(to, known)}')
    run = load_run(run_dir)
    if to == CRATE:
        if task is not None:
            raise ConfigError(f"task: {CRATE} holds the whole run; leave the task out")
        path = Path(out) if out is not None else run.path / "exports" / f"{CRATE}.zip"
        write_crate(run, path)
        return path
    ending, write = FORMATS[to]
    kept = kept_net(run.path, task, trust=trust)
    path = Path(out) if out is not None else run.path / "exports" / f"{kept.path.stem}.{ending}"
    write(kept, path)
    return path


def _example(kept: KeptNet, size: int) -> Tensor:
    """Return a batch of other samples for every size; the first series is padded, or a trace would hold no padding."""
    shape = (size, *kept.facts.shape)
    example = torch.linspace(-1, 1, prod(shape)).sin().reshape(shape)
    if len(kept.facts.shape) == 2:
        example[0, :, (kept.facts.shape[1] + 1) // 2 :] = torch.nan
    return example


def _state_dict(kept: KeptNet, path: Path) -> None:
    write_net(path, kept.net.state_dict(), kept.facts)


def _torchscript(kept: KeptNet, path: Path) -> None:
    module = Logits(kept.net)
    with torch.no_grad(), warnings.catch_warnings():
        warnings.simplefilter("ignore")  # of shapes that are constant here, and of TorchScript's age
        traced = torch.jit.trace(module, _example(kept, EXAMPLES), check_trace=False)  # type: ignore[no-untyped-call]
        if not _alike(traced, module, _example(kept, EXAMPLES + 1)):
            raise ConfigError(f"to: torchscript cannot hold {kept.facts.net['name']}, which a trace does not follow")
        with replacing(path) as temporary:
            facts = {"fcil.json": kept.facts.to_json()}
            torch.jit.save(traced, str(temporary), _extra_files=facts)


def _alike(traced: Logits, module: Logits, x: Tensor) -> bool:
    """Return whether a trace gives what its net gives, on a batch of another size than it was made with."""
    try:
        return torch.allclose(traced(x), module(x), atol=TOLERANCE)
    except RuntimeError:
        return False


def _onnx(kept: KeptNet, path: Path) -> None:
    missing = [name for name in NEEDED if find_spec(name) is None]
    if missing:
        raise ConfigError(f"to: onnx needs {' and '.join(missing)}, not installed here; pip install 'fcil[onnx]'")
    if len(kept.facts.shape) == 2:
        name = kept.facts.net["name"]
        raise ConfigError(f"to: onnx cannot hold {name}, which looks for padding as it runs; torchscript can")
    with torch.no_grad(), warnings.catch_warnings():
        warnings.simplefilter("ignore")
        program: Any = torch.onnx.export(
            Logits(kept.net),
            (_example(kept, EXAMPLES),),
            dynamo=True,
            dynamic_shapes={"x": {0: torch.export.Dim("batch")}},
            input_names=["x"],
            output_names=["logits"],
            verbose=False,
        )
    program.model.metadata_props[KEY] = kept.facts.to_json()
    with replacing(path) as temporary:
        program.save(str(temporary), external_data=False)


FORMATS: dict[str, tuple[str, Callable[[KeptNet, Path], None]]] = {
    "state_dict": ("safetensors", _state_dict),
    "torchscript": ("pt", _torchscript),
    "onnx": ("onnx", _onnx),
}
"""By the name of a format the ending of its files and the function that writes one."""
