"""ShapeFormer: the filter beside a plain loop, growth, weights that carry the bank, and settings."""

from __future__ import annotations

import math
from itertools import pairwise

import pytest
import torch
from torch import Tensor

from fcil import rng
from fcil.config import Where, dump, parse
from fcil.config.effect import effective
from fcil.errors import ConfigError
from fcil.nets import Net, NetSettings, build_net, net_of
from fcil.nets.series import ShapeFormer, ShapeFormerSettings
from fcil.shapelets import Shapelets, discover

SHAPE = (2, 20)


def some_series(count: int = 12, seed: int = 0) -> tuple[Tensor, Tensor]:
    x = torch.randn(count, *SHAPE, generator=torch.Generator().manual_seed(seed)).cumsum(2)
    for row in range(0, count, 3):
        x[row, :, 20 - row :] = math.nan
    return x, torch.arange(count) % 4


def a_net(classes: list[int] | None = None, **settings: object) -> Net:
    chosen = ShapeFormerSettings(per_class=2, window=4, **settings)  # type: ignore[arg-type]
    net = build_net(
        NetSettings(name="shapeformer", shapelets=chosen), shape=SHAPE, num_classes=4, text_width=None, key=("net",)
    )
    if classes is None or classes:
        backbone_of(net).append(discover(*some_series(), chosen, classes), rng.generator("tokens"))
    return net.eval()


def backbone_of(net: Net) -> ShapeFormer:
    assert isinstance(net.backbone, ShapeFormer)
    return net.backbone


# The filter -----------------------------------------------------------------------------------


def plain_window(piece: list[float], start: int, series: list[float], window: int, complexity: str) -> int:
    def bend(values: list[float]) -> float:
        return sum((b - a) ** 2 for a, b in pairwise(values))

    def distance(first: int) -> float:
        theirs = series[first : first + len(piece)]
        own = math.sqrt(bend(piece)) + 1e-3
        other = (bend(theirs) if complexity == "public_code" else math.sqrt(bend(theirs))) + 1e-3
        apart = sum((a - b) ** 2 for a, b in zip(piece, theirs, strict=True)) / len(piece)
        return apart * min(3.0, max(own, other) / min(own, other))

    last = len(series) - len(piece)
    places = [t for t in range(max(0, start - window), start + window + 1) if t <= last]
    return min(places, key=distance) if places else max(0, min(start, last))


@pytest.mark.parametrize("complexity", ["same", "public_code"])
@pytest.mark.parametrize("window", [0, 4, 100])
def test_the_filter_takes_the_window_that_a_plain_loop_takes(window: int, complexity: str) -> None:
    settings = ShapeFormerSettings(per_class=3, window=window, complexity=complexity)  # type: ignore[arg-type]
    x, y = some_series()
    bank = backbone_of(a_net([])).bank
    bank.settings = settings
    bank.append(discover(x, y, settings), rng.generator("tokens"))
    lengths = (~torch.isnan(x[:, 0])).sum(1)
    first = bank.nearest(x.nan_to_num()[:, bank.place[:, 0]], lengths)
    for row, one in enumerate(x):
        for k, (channel, start, length, _) in enumerate(bank.place.tolist()):
            series = one[channel][: int(lengths[row])].tolist()
            piece = bank.values[k, :length].tolist()
            assert int(first[row, k]) == plain_window(piece, start, series, window, complexity), (row, k)


def test_a_token_is_the_difference_of_two_linear_maps_and_its_place() -> None:
    bank, (x, _) = backbone_of(a_net()).bank, some_series()
    with torch.no_grad():
        tokens = bank(x[1:2], torch.tensor([20]))
        first = bank.nearest(x[1:2, bank.place[:, 0]], torch.tensor([20]))
        for k, (channel, start, length, _) in enumerate(bank.place.tolist()):
            at = int(first[0, k])
            own = bank.values[k, :length] @ bank.known[k, :length]
            token = x[1, channel, at : at + length] @ bank.observed[k, :length] + bank.bias[k] - own
            for layer, where in ((bank.channel, channel), (bank.start, start), (bank.end, start + length)):
                token = token + layer(torch.nn.functional.one_hot(torch.tensor(where), layer.in_features).float())
            assert torch.allclose(tokens[0, k], token, atol=1e-5)


def test_a_large_offset_does_not_hide_the_nearest_window() -> None:
    x, y = some_series()
    settings = ShapeFormerSettings(per_class=3, window=4)
    found = []
    for offset in (0.0, 1000.0):
        bank = backbone_of(a_net([])).bank
        bank.append(discover(x + offset, y, settings, cache=None), rng.generator("tokens"))
        found.append(bank.nearest((x + offset)[1:3, bank.place[:, 0]], torch.tensor([20, 20])))
    assert torch.equal(*found)


def test_zeros_behind_a_shapelet_stay_zeros_in_training() -> None:
    net, (x, y) = a_net(dropout=0.0).train(), some_series()
    optimizer = torch.optim.SGD(net.parameters(), 0.1, weight_decay=0.01)
    before = {name: tensor.clone() for name, tensor in backbone_of(net).bank.tensors().items()}
    for _ in range(3):
        optimizer.zero_grad()
        torch.nn.functional.cross_entropy(net(x).logits, y).backward()
        optimizer.step()
    bank = backbone_of(net).bank
    behind = torch.arange(bank.values.shape[1]) >= bank.place[:, 2, None]
    assert behind.any()
    for name in ("values", "observed", "known"):
        assert not getattr(bank, name)[behind].any(), name
        assert not torch.equal(getattr(bank, name), before[name]), f"{name} is not trained"
    assert not torch.equal(bank.gain, before["gain"])


def test_gains_begin_as_a_softmax_over_those_that_come_together() -> None:
    found = discover(*some_series(), ShapeFormerSettings(per_class=2, window=4))
    assert torch.allclose(backbone_of(a_net()).bank.gain, len(found) * (20 * found.gain).softmax(0))


@pytest.mark.parametrize("read_out", ["token", "mean"])
def test_the_class_branch_reads_one_token_or_all(read_out: str) -> None:
    net, (x, _) = a_net(read_out=read_out), some_series()
    bank = backbone_of(net).bank
    gain = bank.gain.detach().clone()
    gain[1:] = 0
    with torch.no_grad():
        before = net(x).features[:, : bank.width]
        bank.gain.copy_(gain)  # the others say nothing any more, and are attended to as before
        after = net(x).features[:, : bank.width]
    assert torch.allclose(before, after, atol=1e-4) == (read_out == "token")


def test_without_shapelets_the_class_branch_is_zero_and_the_rest_is_as_it_was() -> None:
    none, some, (x, _) = a_net([]), a_net(), some_series()
    width = backbone_of(none).bank.width
    assert not none(x).features[:, :width].any()
    assert torch.equal(none(x).features[:, width:], some(x).features[:, width:])
    assert some(x).features[:, :width].any()


def test_silence_is_for_training_alone() -> None:
    net, (x, _) = a_net(silent=0.5, dropout=0.0), some_series()
    width = backbone_of(net).bank.width
    assert net(x).features[:, :width].any(1).all()
    with rng.drawing("silent"):
        heard = net.train()(x).features[:, :width].any(1)
    assert 0 < int(heard.sum()) < len(x)


# Growth, and weights that carry the bank ---------------------------------------------------------


def test_tokens_of_new_classes_come_behind_those_that_stay() -> None:
    x, y = some_series()
    settings = ShapeFormerSettings(per_class=2, window=4)
    net = a_net([0, 1])
    bank = backbone_of(net).bank
    old = {name: tensor.detach().clone() for name, tensor in bank.tensors().items()}
    backbone_of(net).append(discover(x, y, settings, [2, 3]), rng.generator("more"))
    assert len(bank) == 8
    assert bank.place[:, 3].tolist() == [0, 0, 1, 1, 2, 2, 3, 3]
    for name, tensor in bank.tensors().items():
        kept = tensor[: len(old[name])]
        if kept.ndim > 1 and name not in ("bias", "place"):
            assert not kept[:, old[name].shape[1] :].any()
            kept = kept[:, : old[name].shape[1]]
        assert torch.equal(kept, old[name]), name


def test_a_net_is_rebuilt_from_its_weights_alone() -> None:
    net, (x, _) = a_net(), some_series()
    again = net_of(NetSettings(name="shapeformer", shapelets=backbone_of(net).settings), net.weights(), SHAPE).eval()
    assert torch.equal(again(x).logits, net(x).logits)
    assert again.state_dict().keys() == net.state_dict().keys()


@pytest.mark.parametrize("given", [[], [0], [0, 1, 2, 3]])
@pytest.mark.parametrize("held", [[], [0, 1]])
def test_loading_takes_the_bank_of_the_weights_as_the_classifier_takes_their_rows(
    held: list[int], given: list[int]
) -> None:
    net, other, (x, _) = a_net(held), a_net(given), some_series()
    weights = other.weights()
    net.load(weights)
    assert torch.equal(net(x).logits, other(x).logits)
    with torch.no_grad():
        for parameter in net.parameters():
            parameter.add_(1.0)
    assert all(torch.equal(weights[name], tensor) for name, tensor in other.state_dict().items()), "memory is shared"


def test_a_bank_of_the_same_shape_keeps_its_parameters() -> None:
    net = a_net()
    before = backbone_of(net).bank.values
    net.load(a_net().weights())
    assert backbone_of(net).bank.values is before


@pytest.mark.parametrize(
    ("change", "why"),
    [
        (lambda w: w.pop("backbone.bank.gain"), "missing backbone.bank.gain"),
        (lambda w: w.update({"backbone.bank.gain": torch.ones(3)}), "backbone.bank.gain has shape \\(3,\\)"),
        (lambda w: w.pop("backbone.bank.values"), "missing backbone.bank.values"),
        (lambda w: w.update({"backbone.bank.values": torch.ones(3)}), "backbone.bank.values has shape"),
        (lambda w: w.update({"backbone.bank.more": torch.ones(3)}), "unexpected backbone.bank.more"),
    ],
)
def test_half_a_bank_is_refused_and_changes_nothing(change: object, why: str) -> None:
    net, (x, _) = a_net([0, 1]), some_series()
    weights, before = a_net().weights(), net(x).logits
    change(weights)  # type: ignore[operator]
    with pytest.raises(ValueError, match=why):
        net.load(weights)
    assert torch.equal(net(x).logits, before)


def test_what_holds_pieces_of_series_is_private() -> None:
    net = a_net()
    assert net.private() == {f"backbone.bank.{n}" for n in ("values", "observed", "known", "bias", "gain", "place")}
    assert a_net([]).private() == frozenset()


def test_no_shapelets_append_nothing() -> None:
    net = a_net([0, 1])
    none = discover(*some_series(), ShapeFormerSettings(), [])
    assert isinstance(none, Shapelets)
    backbone_of(net).append(none, rng.generator("none"))
    assert len(backbone_of(net).bank) == 4


# Settings ---------------------------------------------------------------------------------------


def test_other_nets_have_no_shapelets() -> None:
    with pytest.raises(ConfigError, match=r"net.*shapelets: not allowed with resnet18"):
        parse(NetSettings, {"name": "resnet18", "shapelets": {"window": 5}}, Where("a.yaml", "net"))


def test_an_unknown_key_or_value_is_one_line() -> None:
    with pytest.raises(ConfigError, match=r"read_out.*token"):
        parse(NetSettings, {"name": "shapeformer", "shapelets": {"read_out": "last"}}, Where("a.yaml", "net"))
    with pytest.raises(ConfigError, match=r"windw.*window"):
        parse(NetSettings, {"name": "shapeformer", "shapelets": {"windw": 5}}, Where("a.yaml", "net"))


def test_settings_survive_yaml_and_leave_hashes_of_other_nets_as_they_were() -> None:
    settings = NetSettings(name="shapeformer", shapelets=ShapeFormerSettings(window=7, read_out="token"))
    assert parse(NetSettings, dump(settings), Where("a.yaml")) == settings
    assert "shapelets" not in effective({"net": dump(NetSettings())})["net"]
    assert effective({"net": dump(settings)})["net"]["shapelets"]["window"] == 7


def test_what_is_dropped_comes_from_a_named_stream() -> None:
    net, (x, _) = a_net(dropout=0.5, silent=0.5).train(), some_series()
    once, again, other = [], [], []
    for key, into in (("a", once), ("a", again), ("b", other)):
        with rng.drawing(key):
            into += [net(x).logits, net(x).logits]
    assert torch.equal(once[0], again[0])
    assert torch.equal(once[1], again[1])
    assert not torch.equal(once[0], once[1])
    assert not torch.equal(once[0], other[0])


def test_a_backbone_that_is_wrapped_still_says_what_stays_with_a_client() -> None:
    net = a_net()
    private = net.private()
    assert private
    net.backbone = torch.nn.Sequential(net.backbone)  # type: ignore[assignment]
    assert net.private() == {name.replace("backbone.", "backbone.0.", 1) for name in private}
