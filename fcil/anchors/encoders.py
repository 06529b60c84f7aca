"""Encoding of texts as vectors with a language model from Hugging Face or a local folder.

`transformers` is imported only when there is something to encode. Results are cached
under `$FCIL_CACHE/anchors` (else `~/.cache/fcil/anchors`).
"""

from __future__ import annotations

import json
import logging
import os
from collections.abc import Iterator, Sequence
from contextlib import contextmanager, suppress
from dataclasses import replace
from datetime import date
from hashlib import sha256
from importlib import import_module
from importlib.metadata import version
from pathlib import Path
from typing import Any, Literal, NamedTuple

import torch
from torch import Tensor

from fcil.anchors.packaged import PACKAGE, origin, packaged_folder, verified, way_out
from fcil.anchors.tables import Table, normalise, one_line, read_table, spoken, write_table
from fcil.data.files.folders import cache_folder
from fcil.errors import DataError
from fcil.rng import generator, seeded

Pooling = Literal["auto", "mean", "cls", "text"]
TEMPLATE = "a photo of a {}"
EMBEDDED = "embedded"
RANDOM = "random"
"""In place of an encoder: a vector drawn for each name, for classes whose names say nothing."""
RANDOM_WIDTH = 384
EMBEDDED_FILE = Path(__file__).with_name("embedded.safetensors")
BATCH = 256


class EncoderInfo(NamedTuple):
    """A row of `fcil list encoders`."""

    name: str
    summary: str
    width: int | None
    needs_network: bool


ENCODERS = (
    EncoderInfo(EMBEDDED, "all-MiniLM-L6-v2 vectors of every built-in data set's classes; the default", 384, False),
    EncoderInfo("openai/clip-vit-base-patch32", "CLIP ViT-B/32 text tower, the encoder of LANDER and NAYER", 512, True),
    EncoderInfo("openai/clip-vit-large-patch14", "CLIP ViT-L/14 text tower", 768, True),
    EncoderInfo("sentence-transformers/all-MiniLM-L6-v2", "the encoder of the default, for any class names", 384, True),
    EncoderInfo("sentence-transformers/all-mpnet-base-v2", "MPNet sentence encoder", 768, True),
    EncoderInfo("google-bert/bert-base-uncased", "BERT, mean of its token vectors", 768, True),
    EncoderInfo(RANDOM, "a Gaussian vector for each name, for classes whose names say nothing", RANDOM_WIDTH, False),
    EncoderInfo("NAME or FOLDER", "any Hugging Face text encoder, or a folder that holds one", None, False),
)
"""Listed encoders; any other Hugging Face name or a folder works too."""


def encode(encoder: str, template: str, revision: str | None, pooling: Pooling, names: Sequence[str]) -> Table:
    """Return vectors of `template` filled with each of `names`, as the language model gives them.

    Raises:
        DataError: the encoder cannot be loaded, or is no text encoder.
    """
    prompts = {name: template.replace("{}", spoken(name)) for name in names}
    texts = sorted(set(prompts.values()))  # so that neither the order of classes nor a repeat changes a bit
    kept = _cache_file(encoder, template, revision, pooling, texts)
    with suppress(DataError):  # a missing or damaged cache file is rewritten
        table = read_table(kept)
        return _arrange(table, [prompts[n] for n in names], tuple(names))
    table = _run(encoder, template, revision, pooling, texts, names)
    with suppress(DataError):  # an unwritable home costs time, not the run
        write_table(kept, table)
    return _arrange(table, [prompts[n] for n in names], tuple(names))


def drawn(names: Sequence[str]) -> Table:
    """Return a Gaussian vector for each name, the same in every run and beside any other classes.

    In so many dimensions they are nearly orthogonal and equally far apart, as the vertices of a simplex are.
    """
    rows = [torch.randn(RANDOM_WIDTH, generator=generator("anchors", RANDOM, normalise(name))) for name in names]
    return Table(names=tuple(names), vectors=torch.stack(rows), encoder=RANDOM, template=TEMPLATE, pooling="mean")


def is_cached(encoder: str) -> bool:
    """Return whether an encoder is a local folder, in an installed package or in the cache of the Hugging Face hub."""
    if encoder == RANDOM or os.path.isdir(os.path.expanduser(encoder)) or packaged_folder(encoder):
        return True
    try:
        return isinstance(import_module("huggingface_hub").try_to_load_from_cache(encoder, "config.json"), str)
    except (ImportError, ValueError):  # ValueError: an invalid name for the hub
        return False


def _arrange(table: Table, texts: Sequence[str], names: tuple[str, ...]) -> Table:
    place = {text: row for row, text in enumerate(table.names)}
    if not all(text in place for text in texts):
        raise DataError("the cached table holds other texts")
    rows = torch.tensor([place[text] for text in texts], dtype=torch.long)
    return replace(table, names=names, vectors=table.vectors[rows])


def _cache_file(encoder: str, template: str, revision: str | None, pooling: str, texts: Sequence[str]) -> Path:
    folder = Path(os.path.expanduser(encoder))
    content: list[object] = []
    if os.path.isdir(folder):  # its content may be replaced by another model
        encoder = str(folder.resolve())
        try:
            stats = {p.name: p.stat() for p in sorted(folder.iterdir()) if p.is_file()}
        except OSError as error:
            raise DataError(f'text encoder "{encoder}" cannot be read ({one_line(error)})') from None
        content = [[name, stat.st_size, stat.st_mtime_ns] for name, stat in stats.items()]
    key = json.dumps([encoder, content, revision, template, pooling, list(texts)])
    return cache_folder() / "anchors" / f"{sha256(key.encode()).hexdigest()[:32]}.safetensors"


def _without_network(names: Sequence[str]) -> str:
    """Return an alternative without network: the embedded vectors if they have all names, else a packaged encoder."""
    if {normalise(name) for name in names} <= {normalise(name) for name in read_table(EMBEDDED_FILE).names}:
        return f'"encoder: {EMBEDDED}" needs no network'
    return f"without a network: {way_out()}"


def _run(
    encoder: str, template: str, revision: str | None, pooling: Pooling, texts: Sequence[str], names: Sequence[str]
) -> Table:
    """Load the model and encode; the only place where `transformers` is needed."""
    folder = Path(os.path.expanduser(encoder))
    local = os.path.isdir(folder)
    source = str(folder) if local else encoder
    with _quiet(), seeded("anchors", encoder):  # loading draws initial weights before it replaces them
        try:
            tokenizer, model, pooling = _load(source, revision, pooling)
        except DataError:
            raise
        except Exception as error:  # any error of transformers, the hub or a damaged file
            place = "the folder" if local else "the Hugging Face hub, its local cache or a local folder"
            raise DataError(
                f'text encoder "{encoder}" cannot be loaded from {place} ({one_line(error)}); '
                f"{_without_network(names)}, and a local folder that holds an encoder works too"
            ) from error
        try:
            starts = range(0, len(texts), BATCH)
            vectors = torch.cat([_vectors(tokenizer, model, pooling, texts[i : i + BATCH]) for i in starts])
        except Exception as error:
            raise DataError(f'"{encoder}" cannot be used as a text encoder ({one_line(error)})') from error
    if not vectors.isfinite().all():
        raise DataError(f'text encoder "{encoder}" gives values that are not finite')
    commit = "" if local else _commit(encoder, revision)
    about = {"encoder": encoder, "template": template, "pooling": pooling, "revision": commit}
    return Table(names=tuple(texts), vectors=vectors, **about)


def _load(source: str, revision: str | None, pooling: Pooling) -> tuple[Any, Any, Pooling]:
    """Return tokenizer, model and the pooling that `auto` stands for; the disk is tried before the network."""
    held = packaged_folder(source, revision)
    options = {"revision": revision or "main", "trust_remote_code": False}
    try:
        return _load_with(source, pooling, local_files_only=True, **options)
    except OSError:
        if os.path.isdir(source):
            raise
        if held is not None:
            options["revision"] = "main"
            return _load_with(str(verified(held, EMBEDDED_FILE.with_suffix(".json"))), pooling, **options)
        return _load_with(source, pooling, **options)


def _load_with(source: str, pooling: Pooling, **options: Any) -> tuple[Any, Any, Pooling]:
    transformers = import_module("transformers")
    clip = transformers.AutoConfig.from_pretrained(source, **options).model_type in ("clip", "clip_text_model")
    allowed: tuple[Pooling, ...] = ("text",) if clip else ("mean", "cls")
    if pooling not in ("auto", *allowed):
        raise DataError(f'anchors.pooling "{pooling}" does not fit "{source}"; allowed: auto, {", ".join(allowed)}')
    tokenizer = transformers.AutoTokenizer.from_pretrained(source, **options)
    kind = transformers.CLIPTextModelWithProjection if clip else transformers.AutoModel
    # Safetensors are preferred; of a .bin file transformers reads tensors alone.
    model, loading = kind.from_pretrained(source, output_loading_info=True, weights_only=True, **options)
    missing = sorted(key for key in loading["missing_keys"] if not key.startswith("pooler."))
    if missing:  # they would be random numbers without any error
        raise DataError(f'text encoder "{source}" lacks {len(missing)} weights, for example {missing[0]}')
    return tokenizer, model.float().eval(), allowed[0] if pooling == "auto" else pooling


def _commit(encoder: str, revision: str | None) -> str:
    """Return the commit of an encoder that was just loaded: the name of its folder in the local hub cache."""
    found = import_module("huggingface_hub").try_to_load_from_cache(encoder, "config.json", revision=revision)
    if isinstance(found, str):
        return Path(found).parent.name
    return origin() if packaged_folder(encoder, revision) else revision or ""


@torch.no_grad()
def _vectors(tokenizer: Any, model: Any, pooling: Pooling, texts: Sequence[str]) -> Tensor:
    """Return (len(texts), D) float32, projected by CLIP but never normalised."""
    limit = min(tokenizer.model_max_length, _positions(model))
    tokens = tokenizer(list(texts), padding=True, truncation=True, max_length=limit, return_tensors="pt")
    output = model(**tokens)
    if pooling == "text":
        return output.text_embeds.float()  # type: ignore[no-any-return]
    hidden = output.last_hidden_state  # (B, tokens, D)
    if pooling == "cls":
        return hidden[:, 0].float()  # type: ignore[no-any-return]
    mask = tokens["attention_mask"].unsqueeze(-1).to(hidden.dtype)
    return ((hidden * mask).sum(1) / mask.sum(1)).float()  # type: ignore[no-any-return]


def _positions(model: Any) -> int:
    return int(getattr(model.config, "max_position_embeddings", None) or 512)


@contextmanager
def _quiet() -> Iterator[None]:
    """Disable telemetry, weight conversion on a server, progress bars and warnings within the block."""
    os.environ.setdefault("HF_HUB_DISABLE_TELEMETRY", "1")
    os.environ.setdefault("DISABLE_SAFETENSORS_CONVERSION", "1")
    os.environ.setdefault("TOKENIZERS_PARALLELISM", "false")
    logging.getLogger("torch.utils._pytree").setLevel(logging.ERROR)  # of torchao, which transformers loads
    try:
        hub, shown = import_module("huggingface_hub.utils"), import_module("transformers.utils.logging")
    except ImportError as error:
        raise DataError(f"reading a text encoder needs the package transformers ({one_line(error)})") from None
    levels = shown.get_verbosity(), hub.logging.get_verbosity()
    bars = shown.is_progress_bar_enabled(), not hub.are_progress_bars_disabled()
    shown.set_verbosity_error()
    hub.logging.set_verbosity_error()
    shown.disable_progress_bar()
    hub.disable_progress_bars()
    try:
        yield
    finally:
        shown.set_verbosity(levels[0])
        hub.logging.set_verbosity(levels[1])
        if bars[0]:
            shown.enable_progress_bar()
        if bars[1]:
            hub.enable_progress_bars()


def rebuild_embedded(folder: Path, package: str = PACKAGE) -> None:
    """Rebuild `embedded.safetensors`, the shipped table, from the names in `embedded.json`.

    Args:
        folder: the encoder's files in `package`.
        package: the package whose version is recorded.
    """
    notes = EMBEDDED_FILE.with_suffix(".json")
    described = json.loads(notes.read_text(encoding="utf-8"))
    names = sorted({normalise(name) for group in described["names"].values() for name in group})
    table = encode(str(folder), TEMPLATE, None, "mean", names)
    write_table(EMBEDDED_FILE, replace(table, encoder=described["model"]), torch.float16)
    weights = sha256((folder / "model.safetensors").read_bytes()).hexdigest()
    described |= {
        "package": package,
        "package_version": version(package),
        "weights_sha256": weights,
        "template": TEMPLATE,
        "pooling": "mean",
        "rows": len(names),
        "width": table.vectors.shape[1],
        "made": date.today().isoformat(),
    }
    described["names"] = described.pop("names")  # last
    notes.write_text(json.dumps(described, indent=1, ensure_ascii=False) + "\n", encoding="utf-8")
