"""Weights of nets in external files: safetensors alone, for a pickle may execute code."""

from __future__ import annotations

import json
import shlex
from pathlib import Path

from safetensors import SafetensorError, safe_open

from fcil.errors import ConfigError, printable
from fcil.types import Tensors

PICKLES = (".pth", ".pt", ".ckpt", ".bin", ".pkl", ".pickle", ".tar")
"""Endings of names of files that `torch.save` wrote."""
MAGIC = (b"PK\x03\x04", b"\x80\x02", b"\x80\x03", b"\x80\x04", b"\x80\x05")
"""First bytes of such files: a zip archive, or a bare pickle."""
CONVERSION = (
    "import torch; from safetensors.torch import save_file; "
    'w = torch.load({source}, map_location="cpu", weights_only=True); w = w.get("state_dict", w); '
    "save_file({{k: v.contiguous().clone() for k, v in w.items()}}, {target})"
)


def read_weights(path: Path) -> Tensors:
    """Return the tensors of a safetensors file, by name.

    Raises:
        ConfigError: it is no such file; for a pickle the error says how to convert it, for none is read here.
    """
    try:
        with safe_open(path, framework="pt") as file:
            return {name: file.get_tensor(name) for name in file.keys()}  # noqa: SIM118 (no dict)
    except (SafetensorError, OSError, ValueError) as error:
        if _is_pickle(path):
            raise ConfigError(
                f"{path}: no pickle is read here, as it may run anything; if you trust it, this makes a safetensors "
                f"file of it: python -c {conversion(path)}"
            ) from None
        raise ConfigError(f"{path}: no safetensors file can be read there ({printable(str(error))})") from None


def conversion(path: Path) -> str:
    """Return the line of Python that writes a safetensors file beside a pickle, in quotes for a shell."""
    names = {"source": json.dumps(str(path)), "target": json.dumps(str(path.with_suffix(".safetensors")))}
    return shlex.quote(CONVERSION.format(**names))


def _is_pickle(path: Path) -> bool:
    try:
        with path.open("rb") as file:
            return path.suffix.lower() in PICKLES or file.read(4).startswith(MAGIC)
    except OSError:
        return False
