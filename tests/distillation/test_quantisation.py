"""int8 copies of nets: what they hold, what calibrates them, what fine-tuning changes, and the section of a file."""

from __future__ import annotations

import importlib
import json
import re
import sys
from pathlib import Path
from typing import Any

import pytest
import torch
import torch.nn.functional as F
from rich.console import Console
from small_distillations import taught, write
from tiny_net import normal, tiny_net
from torch import Tensor

from fcil.data import DataSettings, Scenario, load_dataset
from fcil.distillation import quantisation
from fcil.distillation.quantisation import Logits, QuantiseSettings, compare, lessons, quantised, quantised_table
from fcil.errors import ConfigError
from fcil.losses import kl_divergence
from fcil.nets import Net, NetSettings, build_net
from fcil.rng import generator

DATA = DataSettings(dataset="digits", tasks=1)


@pytest.fixture(scope="module")
def digits() -> Scenario:
    return Scenario(load_dataset(DATA), DATA, clients=1, seed=0)


@pytest.fixture(scope="module")
def teacher(digits: Scenario) -> Net:
    """A small net after a few passes over the digits."""
    net = build_net(NetSettings(name="resnet8", width=8), shape=(1, 8, 8), num_classes=10, text_width=None, key=(0,))
    optimizer, rng = torch.optim.SGD(net.parameters(), lr=0.05, momentum=0.9), generator("batches")
    for _ in range(3):
        for batch in digits.shard(1, 0).batches(64, rng):
            optimizer.zero_grad()
            F.cross_entropy(net(batch.x).logits, batch.y).backward()  # type: ignore[no-untyped-call]
            optimizer.step()
    return net.eval()


@pytest.fixture(scope="module")
def images(digits: Scenario) -> Tensor:
    return digits.shard(1, 0).x(torch.arange(128))


@pytest.fixture(scope="module")
def tiny() -> Net:
    return tiny_net(text_width=None).eval()


@pytest.fixture(scope="module")
def colours() -> Tensor:
    return normal(32, 3, 6, 6) + 0.5


def weights_of(copied: torch.nn.Module) -> list[Tensor]:
    """The int8 tensors that a copy computes with."""
    return [w for w in copied.state_dict().values() if w.dtype == torch.int8]


# One net ------------------------------------------------------------------------------------------


def test_a_copy_keeps_its_weights_as_int8_and_rounds_between_its_layers(teacher: Net, images: Tensor) -> None:
    before = teacher.weights()
    copied = quantised(teacher, images.split(64), [images] * 2, QuantiseSettings(lr=1e-2))
    layers = [m for m in teacher.modules() if isinstance(m, torch.nn.Conv2d | torch.nn.Linear)]
    assert [w.shape for w in weights_of(copied)] == [m.weight.shape for m in layers]
    called = [str(node.target) for node in copied.graph.nodes]  # type: ignore[union-attr]
    assert sum("quantize_per_tensor" in name and "dequantize" not in name for name in called) >= len(layers)
    assert not any("batch_norm" in name for name in called)
    assert all(torch.equal(before[name], tensor) for name, tensor in teacher.state_dict().items())
    assert all(p.requires_grad for p in teacher.parameters())


def test_a_weight_is_the_nearest_of_its_channels_grid(tiny: Net, colours: Tensor) -> None:
    copied = quantised(tiny, colours.split(16))
    scale, zero = copied.get_buffer("_scale_1"), copied.get_buffer("_zero_point_1")
    weight = tiny.classifier.weight.detach()
    assert (zero == 0).all()
    assert torch.allclose(scale, weight.abs().amax(dim=1) / 127.5)
    error = weights_of(copied)[1] * scale[:, None] - weight
    assert (error.abs() <= 0.501 * scale[:, None]).all()
    assert weights_of(copied)[1].unique().numel() > 20


def test_batches_of_any_size_are_answered(tiny: Net, colours: Tensor) -> None:
    copied = quantised(tiny, colours[:1].split(1))
    assert [copied(colours[:n]).shape for n in (1, 2, 7)] == [(1, 5), (2, 5), (7, 5)]
    assert torch.allclose(copied(colours[:7])[3:4], copied(colours[3:4]), atol=1e-5)


def test_a_copy_without_fine_tuning_is_the_librarys_own(teacher: Net, images: Tensor) -> None:
    from torchao.quantization.pt2e.quantize_pt2e import convert_pt2e, prepare_pt2e
    from torchao.quantization.pt2e.quantizer import x86_inductor_quantizer as x86

    graph = torch.export.export(Logits(teacher), (images[:64],)).module()
    own = x86.X86InductorQuantizer().set_global(x86.get_default_x86_inductor_quantization_config())
    with torch.no_grad():
        observed = prepare_pt2e(graph, own)
        for x in images.split(64):
            observed(x)
        theirs, ours = convert_pt2e(observed), quantised(teacher, images.split(64))
        assert torch.equal(theirs(images[:64]), ours(images[:64]))


def test_fewer_bits_have_fewer_levels_and_lose_more(tiny: Net, colours: Tensor) -> None:
    with torch.no_grad():
        full = Logits(tiny)(colours)
        copies = {bits: quantised(tiny, colours.split(16), settings=QuantiseSettings(bits=bits)) for bits in (8, 4, 2)}
        errors = {bits: float((copied(colours) - full).square().mean()) for bits, copied in copies.items()}
    for bits, copied in copies.items():
        weights = torch.cat([w.flatten() for w in weights_of(copied)])
        assert -(2 ** (bits - 1)) <= weights.min()
        assert weights.max() <= 2 ** (bits - 1) - 1
        ends = [node.args[3:5] for node in copied.graph.nodes if "quantize_per_tensor" in str(node.target)]  # type: ignore[union-attr]
        assert set(ends) == {(0, 2**bits - 1)}
    assert 4 * errors[8] < errors[4] < errors[2]


def test_the_same_samples_make_the_same_copy_and_others_another(tiny: Net, colours: Tensor) -> None:
    noise, steps = normal(*colours.shape, key=1), colours.split(16)
    first, again, other = (quantised(tiny, x.split(16), steps) for x in (colours, colours, noise))
    with torch.no_grad():
        assert torch.equal(first(colours), again(colours))
        assert not torch.equal(first(colours), other(colours))


def test_a_narrow_range_cuts_off_what_is_larger(tiny: Net, colours: Tensor) -> None:
    """What calibration on the wrong samples does to a net."""
    with torch.no_grad():
        full = Logits(tiny)(colours)
        right, wrong = (quantised(tiny, x.split(16))(colours) for x in (colours, colours * 0.1))
    assert (right - full).square().mean() < (wrong - full).square().mean() / 10


def test_fine_tuning_leads_towards_the_answers_of_the_net(tiny: Net, colours: Tensor) -> None:
    calibration = (colours * 0.3).split(16)  # ranges that are too narrow leave something to be learnt
    before, after = (
        quantised(tiny, calibration),
        quantised(tiny, calibration, [colours] * 30, QuantiseSettings(lr=1e-2)),
    )
    with torch.no_grad():
        full = Logits(tiny)(colours)
        losses = [float(kl_divergence(copied(colours), full, 1.0)) for copied in (before, after)]
    assert losses[1] < 0.8 * losses[0]
    assert not all(torch.equal(a, b) for a, b in zip(weights_of(before), weights_of(after), strict=True))
    activations = [
        [node.args[1:3] for node in copied.graph.nodes if "quantize_per_tensor" in str(node.target)]  # type: ignore[union-attr]
        for copied in (before, after)
    ]
    assert activations[0] == activations[1]


def test_a_fine_tuned_weight_has_the_range_it_ended_with(tiny: Net, colours: Tensor) -> None:
    copied = quantised(tiny, colours.split(16), [colours] * 3, QuantiseSettings(lr=1e-2))
    largest = torch.cat([w.int().abs().flatten(1).amax(dim=1) for w in weights_of(copied)])
    assert (largest >= 127).all()


# A comparison -------------------------------------------------------------------------------------


def test_lessons_are_whole_batches_of_sweeps_over_the_samples() -> None:
    x = torch.arange(10)
    found = list(lessons(x, QuantiseSettings(batch_size=4, fine_tune=5), generator("a")))
    assert [len(batch) for batch in found] == [4] * 5
    assert len(set(torch.cat(found[:2]).tolist())) == len(set(torch.cat(found[2:4]).tolist())) == 8
    (short,) = lessons(x[:3], QuantiseSettings(batch_size=4, fine_tune=1), generator("a"))
    assert sorted(short.tolist()) == [0, 1, 2]
    assert list(lessons(x, QuantiseSettings(), generator("a"))) == []


@pytest.fixture(scope="module")
def compared(teacher: Net, digits: Scenario) -> dict[str, Any]:
    train = digits.shard(1, 0)
    pool = train.images.take(train.indices[:150])
    settings = QuantiseSettings(samples=128, fine_tune=2)
    return compare(teacher, pool, train, digits.test(1), settings, (0, "quantise"))


def test_real_samples_lose_little(compared: dict[str, Any]) -> None:
    found = compared["accuracy"]
    assert found["full_precision"] > 0.5
    assert found["full_precision"] - found["real"] < 0.04
    assert found["full_precision"] - found["synthetic"] < 0.04  # here they are training images too
    assert compared["divergence"]["real"] < 0.01
    assert compared["divergence"]["noise"] != compared["divergence"]["real"]


def test_a_comparison_tells_on_what_and_of_what(compared: dict[str, Any], teacher: Net, digits: Scenario) -> None:
    assert list(compared["accuracy"]) == list(quantisation.MEANING)
    assert compared["calibration_samples"] == 128
    assert compared["test_examples"] == len(digits.test(1))
    test = digits.test(1)
    with torch.no_grad():
        logits = teacher(test.x(torch.arange(len(test)))).logits
    assert compared["accuracy"]["full_precision"] == (logits.argmax(dim=1) == test.labels).double().mean()
    assert all((value == 0) == (name == "full_precision") for name, value in compared["divergence"].items())
    assert json.loads(json.dumps(compared)) == compared
    console = Console(width=120)
    with console.capture() as captured:
        console.print(quantised_table(compared))
    assert "128 samples calibrate; 359 test examples" in captured.get()
    assert f"{100 * compared['accuracy']['noise']:.1f} %" in captured.get()


def test_the_set_with_the_fewest_samples_says_how_many_calibrate(teacher: Net, digits: Scenario) -> None:
    pool = torch.zeros(5, 1, 8, 8, dtype=torch.uint8)
    found = compare(teacher, pool, digits.shard(1, 0), digits.test(1), QuantiseSettings(), (0,))
    assert found["calibration_samples"] == 5
    assert "noise_fine_tuned" not in found["accuracy"]


# A distillation -----------------------------------------------------------------------------------


def test_a_distillation_quantises_its_teacher_once(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    source = write(tmp_path, quantise={"samples": 16, "batch_size": 8, "fine_tune": 2})
    (run,), printed = taught(source, out=tmp_path / "out")
    found = json.loads((run.path / "quantised.json").read_text())
    assert found["calibration_samples"] == 16
    assert list(found["accuracy"]) == list(quantisation.MEANING)
    assert "int8, calibrated on synthetic samples" in printed
    asked: list[QuantiseSettings] = []

    def again(*given: Any) -> dict[str, Any]:
        asked.append(given[4])
        return found

    monkeypatch.setattr("fcil.distillation.quantisation.compare", again)
    _, printed = taught(source, out=tmp_path / "out")
    assert not asked
    assert "int8, calibrated on synthetic samples" in printed
    source = write(tmp_path, quantise={"fine_tune": 2}, matrix={"quantise.samples": [8, 4]})
    taught(source, out=tmp_path / "out")
    assert [settings.samples for settings in asked] == [8, 4]  # another question is another answer, of the same run


def test_without_the_library_it_is_refused_before_anything_begins(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    for name in [name for name in sys.modules if name.split(".")[0] == "torchao"]:
        monkeypatch.delitem(sys.modules, name)
    monkeypatch.setitem(sys.modules, "torchao", None)
    with pytest.raises(ImportError):
        importlib.import_module("torchao")
    with pytest.raises(ConfigError, match="tiny.yaml: quantise: .*" + re.escape("pip install 'fcil[quantise]'")):
        taught(write(tmp_path, quantise={}), out=tmp_path / "out")
    assert not (tmp_path / "out").exists()
    (run,), _ = taught(write(tmp_path), out=tmp_path / "out")
    assert not (run.path / "quantised.json").exists()
