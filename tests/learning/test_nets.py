"""Backbones, the growing classifier, and weights in and out."""

from __future__ import annotations

from typing import Any

import pytest
import torch
from golden_vectors import assert_matches, load_case
from torch import Tensor, nn

from fcil import rng
from fcil.config import Where, dump, parse
from fcil.errors import ConfigError
from fcil.nets import (
    BACKBONES,
    Backbone,
    FeaturesAhead,
    Net,
    NetSettings,
    build_net,
    frozen,
    normalises_one,
    num_parameters,
)
from fcil.nets.norms import BatchNorm2d, group_norm


def small_net(num_classes: int = 4, text_width: int | None = 6, key: int = 0) -> Net:
    settings = NetSettings(name="resnet8", width=4)
    return build_net(settings, shape=(1, 8, 8), num_classes=num_classes, text_width=text_width, key=("net", key))


def same(a: dict[str, Tensor], b: dict[str, Tensor]) -> bool:
    return a.keys() == b.keys() and all(torch.equal(a[name], b[name]) for name in a)


# Backbones -----------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("name", "parameters"),
    [("resnet18", 11_168_832), ("resnet34", 21_276_992), ("resnet20", 269_072), ("resnet32", 463_504)],
)
def test_sizes_are_the_published_ones(name, parameters):
    assert num_parameters(BACKBONES[name]) == parameters


@pytest.mark.parametrize(
    ("name", "shape", "parameters"),
    [  # of the released nets without their last layer (850, 4,010 and 330 weights)
        ("lenet5", (1, 32, 32), 61_706 - 850 + 24 + 240 + 20),  # batch norm of 6 + 16 + 120 channels
        ("mlp", (1, 28, 28), 478_410 - 4_010 + 1_600),
        ("cnn", (1, 28, 28), 26_434 - 330),
    ],
)
def test_sizes_of_the_small_nets_are_those_of_the_released_code(name, shape, parameters):
    assert num_parameters(BACKBONES[name], shape) == parameters


def test_half_a_lenet_has_the_widths_of_the_released_one():
    half = BACKBONES["lenet5"].build((1, 32, 32), width=3, norm="none")
    assert [tuple(p.shape) for p in half.parameters() if p.ndim > 1] == [
        (3, 1, 5, 5),
        (8, 3, 5, 5),
        (60, 8, 5, 5),
        (42, 60),
    ]
    assert not list(half.buffers())


def test_lenet_pads_small_images_to_thirty_two_pixels_all_round():
    with rng.seeded("lenet"):
        net = BACKBONES["lenet5"].build((1, 28, 28), norm="none")
    x = torch.rand(2, 1, 28, 28)
    padded = torch.zeros(2, 1, 32, 32)
    padded[:, :, 2:30, 2:30] = x
    assert torch.equal(net(x), net.units(net.convs(padded)))


def test_a_stem_is_refused_where_there_is_none():
    with pytest.raises(ValueError, match="stem: cifar is not allowed with mlp"):
        NetSettings(name="mlp", stem="cifar")


@pytest.mark.parametrize("name", ["lenet5", "mlp", "cnn"])
def test_a_small_net_with_batch_norm_takes_a_batch_of_one_image(name):
    net = BACKBONES[name].build((1, 8, 8)).train()
    assert net(torch.rand(1, 1, 8, 8)).shape == (1, net.width)


def test_landers_net_has_its_size_and_twenty_batchnorm_layers():
    net = build_net(NetSettings(), shape=(3, 32, 32), num_classes=20, text_width=512, key=("lander",))
    trunk = sum(p.numel() for p in net.backbone.parameters())
    head = sum(p.numel() for p in net.text_head.parameters())
    assert (trunk, head, trunk + head) == (11_168_832, 262_656, 11_431_488)
    assert sum(isinstance(m, nn.BatchNorm2d) for m in net.modules()) == 20


@pytest.mark.parametrize("name", [name for name, recipe in BACKBONES.items() if recipe.inputs == "images"])
@pytest.mark.parametrize("shape", [(1, 8, 8), (3, 33, 40)])
def test_every_backbone_takes_small_grey_and_odd_images(name, shape):
    with rng.seeded("backbone"):
        backbone = BACKBONES[name].build(shape, width=4)
    features = backbone(torch.zeros(2, *shape))
    assert features.shape == (2, backbone.width)
    widths = {"lenet5": 4 * 14, "mlp": 4, "cnn": round(4 * 32 / 6), "resnet18": 32, "resnet34": 32}
    assert backbone.width == widths.get(name, 16)


@pytest.mark.parametrize(
    ("side", "stem", "last_map"),
    [(32, "auto", 4), (64, "auto", 2), (224, "auto", 7), (32, "imagenet", 1), (64, "cifar", 8)],
)
def test_the_stem_follows_the_size_of_the_images(side, stem, last_map):
    with torch.device("meta"):
        net = BACKBONES["resnet18"].build((3, side, side), stem)
        maps = net.stages(net.stem(torch.zeros(2, 3, side, side)))
    assert maps.shape == (2, 512, last_map, last_map)


@pytest.mark.parametrize("name", ["resnet8", "cnn", "lenet5", "mlp"])
def test_channels_last_is_the_same_net_but_for_rounding(name):
    x = torch.randn(3, 2, 8, 8, generator=torch.Generator().manual_seed(0))
    outputs, gradients, layouts = [], [], []
    for memory_format in ("contiguous", "channels_last"):
        settings = NetSettings(name=name, memory_format=memory_format)
        net = build_net(settings, shape=(2, 8, 8), num_classes=4, text_width=None, key=("layout",)).double()
        first = next(m for m in net.modules() if isinstance(m, nn.Conv2d | nn.Flatten))
        first.register_forward_pre_hook(lambda module, inputs: layouts.append(inputs[0].stride(1)))
        logits = net(x.double()).logits
        logits.square().sum().backward()
        outputs.append(logits)
        gradients.append(torch.cat([p.grad.flatten() for p in net.parameters()]))
        assert frozen(net).memory_format == memory_format
    assert torch.allclose(*outputs, rtol=1e-10)
    assert torch.allclose(*gradients, rtol=1e-8, atol=1e-10)
    assert layouts == [64, 1] or name == "lenet5"  # which pads, and so copies


def test_group_norm_remembers_nothing_and_has_groups_of_sixteen_channels():
    settings = NetSettings(name="resnet8", norm="group")
    net = build_net(settings, shape=(1, 8, 8), num_classes=2, text_width=None, key=("group",))
    groups = {m.num_channels: m.num_groups for m in net.modules() if isinstance(m, nn.GroupNorm)}
    assert groups == {16: 1, 32: 2, 64: 4}
    assert list(net.buffers()) == []
    assert group_norm(50).num_groups == 2  # a divisor, where a third of 50 would not do


def test_a_shortcut_without_parameters_pads_with_zeros():
    block = BACKBONES["resnet20"].build((1, 8, 8)).stages[1][0]
    x = torch.rand(2, 16, 8, 8)
    padded = block.shortcut(x)
    assert padded.shape == (2, 32, 4, 4)
    assert torch.equal(padded[:, :16], x[:, :, ::2, ::2])
    assert not padded[:, 16:].any()


def test_convolutions_start_with_the_spread_of_kaimings_fan_out():
    with rng.seeded("spread"):
        net = BACKBONES["resnet18"].build((3, 32, 32))
    weight = net.stages[3][1].conv2.weight
    assert weight.std().item() == pytest.approx((2 / (512 * 9)) ** 0.5, rel=0.01)
    assert all((m.weight == 1).all() for m in net.modules() if isinstance(m, nn.BatchNorm2d))


# Settings --------------------------------------------------------------------------------------


def test_an_unknown_net_is_named_with_those_there_are():
    with pytest.raises(
        ConfigError, match=r'e.yaml: net.name: unknown net "resnt18" \(have: .*\). Did you mean "resnet18"'
    ):
        parse(NetSettings, {"name": "resnt18"}, Where("e.yaml", "net"))


def test_settings_survive_yaml():
    settings = NetSettings(name="resnet32", stem="imagenet", width=8)
    assert parse(NetSettings, dump(settings), Where("e.yaml")) == settings


# Building --------------------------------------------------------------------------------------


def test_building_is_named_by_its_key_and_leaves_the_global_stream_alone():
    state = torch.random.get_rng_state()
    one, again, other = small_net(key=1), small_net(key=1), small_net(key=2)
    assert torch.equal(state, torch.random.get_rng_state())
    assert same(one.weights(), again.weights())
    assert not torch.equal(one.classifier.weight, other.classifier.weight)


def test_trunk_and_text_head_do_not_depend_on_the_number_of_classes():
    few, many = small_net(2).weights(), small_net(9).weights()
    assert all(torch.equal(few[name], many[name]) for name in few if not name.startswith("classifier"))


def test_the_classifier_reads_the_features_and_not_the_text_head():
    net = small_net().eval()
    x = torch.rand(3, 1, 8, 8)
    before = net(x)
    assert before.logits.shape == (3, 4)
    assert before.embedding.shape == (3, 6)
    assert torch.equal(before.logits, net.classifier(before.features))
    with torch.no_grad():
        net.text_head.weight.add_(1)
    after = net(x)
    assert torch.equal(before.logits, after.logits)
    assert not torch.equal(before.embedding, after.embedding)


def test_a_net_without_text_head_has_no_embedding():
    assert small_net(text_width=None)(torch.rand(2, 1, 8, 8)).embedding is None


# Growing ---------------------------------------------------------------------------------------


class Pixels(Backbone):
    """Eight features without a weight."""

    width = 8

    def forward(self, x: Tensor) -> Tensor:
        return x.flatten(1)


def test_growth_matches_the_reference():
    case = load_case("22_lander_head_growth")
    p = case.parameters
    net = Net(Pixels(), p["old_classes"]).double()
    net.load({f"classifier.{part}": case.tensors[f"inputs.fc.{part}"] for part in ("weight", "bias")})
    net.grow(p["new_classes"], rng.generator("growth"))
    assert net.num_classes == p["new_classes"]
    old = p["old_classes"]
    for part in ("weight", "bias"):
        got = getattr(net.classifier, part)
        assert torch.equal(got[:old], case.tensors[f"expected.old_rows.{part}"])
    assert torch.equal(net.classifier.bias[old:], case.tensors["expected.new_rows.bias"])
    new, bound = net.classifier.weight[old:].abs(), case.tensors["expected.new_rows.weight_bound"]
    assert bound.item() * 0.8 < new.max() <= bound.item()
    assert (new < bound / 2).any()


def test_growth_touches_nothing_but_the_classifier():
    net, state = small_net(), torch.random.get_rng_state()
    before = net.weights()
    net.grow(7, rng.generator("growth"))
    after = net.weights()
    assert torch.equal(state, torch.random.get_rng_state())
    assert all(torch.equal(before[name], after[name]) for name in before if not name.startswith("classifier"))
    assert net(torch.rand(2, 1, 8, 8)).logits.shape == (2, 7)


def test_a_stream_says_what_the_new_rows_are():
    nets = [small_net() for _ in range(3)]
    for net, key in zip(nets, (1, 1, 2), strict=True):
        net.grow(6, rng.generator(key))
    a, b, c = (net.classifier.weight for net in nets)
    assert torch.equal(a, b)
    assert not torch.equal(a[4:], c[4:])


def test_a_classifier_does_not_shrink_by_growing():
    with pytest.raises(ValueError, match="4 classes cannot grow to 3"):
        small_net().grow(3, rng.generator(0))


# Weights in and out ----------------------------------------------------------------------------


def test_weights_are_copies_and_load_restores_them():
    net = small_net()
    weights = net.weights()
    assert not any(value.requires_grad for value in weights.values())
    with torch.no_grad():
        for parameter in net.parameters():
            parameter.add_(1)
    net(torch.rand(2, 1, 8, 8))  # moves the running statistics
    assert not same(net.weights(), weights)
    net.load(weights)
    assert same(net.weights(), weights)


def test_load_copies_in_place_so_an_optimizer_keeps_its_hold():
    net, other = small_net(key=0), small_net(key=1)
    parameters = list(net.parameters())
    net.load(other.weights())
    assert all(a is b for a, b in zip(parameters, net.parameters(), strict=True))
    with torch.no_grad():
        other.classifier.weight.zero_()
    assert net.classifier.weight.any()


@pytest.mark.parametrize("rows", [2, 9])
def test_load_gives_the_classifier_the_rows_of_the_weights(rows):
    net, other = small_net(4), small_net(rows, key=1)
    net.load(other.weights())
    assert net.num_classes == rows
    assert same(net.weights(), other.weights())
    assert net.classifier.weight.requires_grad


def test_averaged_counters_are_truncated_when_loaded():
    case = load_case("10_fedavg_average")

    class Tiny(Backbone):
        width = 4

        def __init__(self) -> None:
            super().__init__()
            self.conv = nn.Conv2d(3, 4, 3, bias=False)
            self.bn = nn.BatchNorm2d(4)

        def forward(self, x: Tensor) -> Tensor:
            return self.bn(self.conv(x)).mean(dim=(2, 3))

    def named(tensors: dict[str, Tensor]) -> dict[str, Tensor]:
        return {
            name.replace("fc.", "classifier.") if name.startswith("fc") else f"backbone.{name}": value
            for name, value in tensors.items()
        }

    net = Net(Tiny(), 6).double()
    net.load(named(case.under("expected.average")))
    counter = case.tensors["expected.average_after_load.bn.num_batches_tracked"]
    for name, expected in named(case.under("expected.average")).items():
        expected = counter if name.endswith("tracked") else expected
        assert_matches(net.weights()[name], expected, case.tolerance, name)
    net.load(named(case.under("expected.sample_weighted")))
    assert net.weights()["backbone.bn.num_batches_tracked"].item() == 23  # of 23.73


@pytest.mark.parametrize(
    ("change", "message"),
    [
        (lambda w: w.pop("backbone.stem.conv.weight"), "missing backbone.stem.conv.weight"),
        (lambda w: w.pop("classifier.bias"), "missing classifier.bias"),
        (lambda w: w.update(extra=torch.zeros(1)), "unexpected extra"),
        (lambda w: w.update({f"e{i}": torch.zeros(1) for i in range(5)}), "unexpected e0, e1, e2 and 2 more"),
        (lambda w: w.update({"text_head.bias": torch.zeros(3)}), r"text_head.bias has shape \(3,\), expected \(6,\)"),
        (
            lambda w: w.update({"classifier.weight": torch.zeros(4, 3)}),
            r"classifier.weight has shape \(4, 3\), expected \(4, 16\)",
        ),
        (
            lambda w: w.update({"classifier.bias": torch.zeros(5)}),
            r"classifier.weight has shape \(4, 16\), expected \(5, 16\)",
        ),
        (
            lambda w: w.update({"classifier.bias": torch.zeros(0), "classifier.weight": torch.zeros(0, 16)}),
            r"classifier.* has shape \(0",
        ),
    ],
)
def test_weights_that_do_not_fit_are_refused_and_nothing_is_loaded(change, message):
    net, weights = small_net(key=0), small_net(key=1).weights()
    before = net.weights()
    change(weights)
    with pytest.raises(ValueError, match=message):
        net.load(weights)
    assert same(net.weights(), before)


def test_a_frozen_net_is_a_copy_that_lets_gradients_through_to_its_input():
    net = small_net()
    net(torch.rand(2, 1, 8, 8)).logits.sum().backward()
    still = frozen(net)
    assert not still.training
    assert net.training
    assert all(p.requires_grad for p in net.parameters())
    assert not any(p.requires_grad for p in still.parameters())
    assert all(p.grad is None for p in still.parameters())
    x = torch.rand(2, 1, 8, 8, requires_grad=True)
    still(x).logits.sum().backward()
    assert x.grad.abs().sum() > 0
    assert same(still.weights(), net.weights())


# A training batch of one image ---------------------------------------------------------------------


def trained(norm: type[nn.Module], x: torch.Tensor, steps: int = 3) -> dict[str, torch.Tensor]:
    """Weights and statistics of a tiny net after some steps in training mode."""
    torch.manual_seed(0)
    net = nn.Sequential(nn.Conv2d(1, 4, 3, 2, 1), norm(4), nn.ReLU(), nn.Conv2d(4, 4, 3, 2, 1), norm(4), nn.Flatten())
    optimizer = torch.optim.SGD(net.parameters(), 0.1)
    for _ in range(steps):
        optimizer.zero_grad()
        net(x).square().sum().backward()
        optimizer.step()
    return net.state_dict()


@pytest.mark.parametrize(("count", "side"), [(1, 8), (2, 4), (5, 3)])
def test_batch_norm_is_torchs_to_the_bit_where_torchs_trains(count: int, side: int) -> None:
    x = torch.randn(count, 1, side, side, generator=torch.Generator().manual_seed(1))
    ours, theirs = trained(BatchNorm2d, x), trained(nn.BatchNorm2d, x)
    assert all(torch.equal(ours[name], theirs[name]) for name in theirs)


def test_one_value_a_channel_takes_the_running_statistics_and_leaves_them() -> None:
    x = torch.randn(1, 1, 4, 4, generator=torch.Generator().manual_seed(1))
    with pytest.raises(ValueError, match="Expected more than 1 value per channel"):
        trained(nn.BatchNorm2d, x)
    after, before = trained(BatchNorm2d, x), trained(BatchNorm2d, x, steps=0)
    assert not torch.equal(after["1.running_mean"], before["1.running_mean"])  # a map of 2 x 2
    assert torch.equal(after["4.running_mean"], before["4.running_mean"])  # one of 1 x 1
    assert torch.equal(after["4.running_var"], before["4.running_var"])
    assert not torch.equal(after["3.weight"], before["3.weight"])  # and it learns
    layer = BatchNorm2d(3)
    layer.running_mean += 2
    value = torch.randn(1, 3, 1, 1)
    trained_as = layer(value)
    assert torch.equal(trained_as, layer.eval()(value))


@pytest.mark.parametrize(
    ("net", "side", "normalises"),
    [
        ({"name": "resnet18", "width": 4}, 8, False),
        ({"name": "resnet18", "width": 4}, 32, True),
        ({"name": "resnet18", "width": 4, "stem": "imagenet"}, 32, False),
        ({"name": "resnet8", "width": 4}, 8, True),
        ({"name": "resnet8", "width": 4, "stem": "imagenet"}, 8, False),
        ({"name": "resnet18", "width": 4, "norm": "group"}, 8, True),
    ],
)
def test_whether_one_image_has_a_variance_everywhere_is_known_beforehand(
    net: dict[str, Any], side: int, normalises: bool
) -> None:
    settings, before = NetSettings(**net), torch.get_rng_state()
    assert normalises_one(settings, (1, side, side)) is normalises
    assert torch.equal(torch.get_rng_state(), before)
    full = build_net(settings, shape=(1, side, side), num_classes=2, text_width=None, key=("one",)).train()
    for layer in full.modules():  # as torch's own layers see it
        if isinstance(layer, BatchNorm2d):
            layer.__class__ = nn.BatchNorm2d
    x = torch.zeros(1, 1, side, side)
    if normalises:
        full(x)
    else:
        with pytest.raises(ValueError, match="Expected more than 1 value per channel"):
            full(x)


# Forwards of several batches at once ----------------------------------------------------------


def frozen_teacher(name: str, **settings: Any) -> Net:
    net = build_net(NetSettings(name=name, **settings), shape=(1, 8, 8), num_classes=5, text_width=6, key=("ahead",))
    with torch.no_grad():
        net.train()(torch.randn(32, 1, 8, 8, generator=rng.generator("statistics")))
    return frozen(net)


@pytest.mark.parametrize("sizes", [(16, 16, 16, 9), (7, 7, 7, 8), (2, 3, 2), (1, 1, 1), (16, 1), (16,)])
@pytest.mark.parametrize("net", ["resnet8", "resnet18", "cnn"])
def test_a_frozen_net_answers_batches_together_as_it_does_alone(net, sizes):
    teacher = frozen_teacher(net, width=4)
    x = torch.randn(sum(sizes), 1, 8, 8, generator=rng.generator("images"))
    ahead = FeaturesAhead(teacher)
    with torch.no_grad():
        for batch in (*x.split(list(sizes)), x[1:], x):
            ours, theirs = ahead.output(batch), teacher(batch.clone())
            for name in ("features", "logits", "embedding"):
                assert torch.equal(getattr(ours, name), getattr(theirs, name))


def test_features_ahead_are_computed_once_and_anew_after_a_change():
    teacher, forwards = frozen_teacher("resnet8"), []
    teacher.backbone.register_forward_hook(lambda *_: forwards.append(1))
    x = torch.randn(64, 1, 8, 8, generator=rng.generator("images"))
    first, second = x.split(32)
    ahead = FeaturesAhead(teacher)
    before = ahead.output(first).logits
    assert not torch.equal(before, ahead.output(second).logits)
    assert len(forwards) == 1
    second.mul_(2)
    assert torch.equal(ahead.output(second).logits, teacher(second.clone()).logits)
    assert len(forwards) == 3


def test_features_ahead_are_none_where_arithmetic_is_of_low_precision():
    teacher, forwards = frozen_teacher("resnet8"), []
    teacher.register_forward_hook(lambda *_: forwards.append(1))
    batch = torch.randn(64, 1, 8, 8, generator=rng.generator("images")).split(32)[0]
    with torch.autocast("cpu", dtype=torch.bfloat16):
        FeaturesAhead(teacher).output(batch)
    assert forwards == [1]


@pytest.mark.parametrize("momentum", [0.1, None])
@pytest.mark.parametrize("shape", [(16, 4, 3, 3), (2, 4, 1, 1), (1, 4, 1, 1)])
def test_batch_norm_is_that_of_torch_to_the_bit(shape, momentum):
    ours, theirs = BatchNorm2d(4, momentum=momentum), nn.BatchNorm2d(4, momentum=momentum)
    for turn in range(3):
        x = torch.randn(shape, generator=rng.generator("maps", turn))
        if shape[0] == 1:
            theirs.eval()
        assert torch.equal(ours(x), theirs(x))
    assert same(ours.state_dict(), theirs.state_dict())
    assert torch.equal(ours.eval()(x), theirs.eval()(x))


@pytest.mark.parametrize(("start", "reach"), [("kaiming", 3), ("torch", 1)])
def test_rows_of_the_classifier_start_within_the_bound_of_their_name(start, reach):
    settings = NetSettings(name="mlp", norm="none", head_start=start)
    net = build_net(settings, shape=(1, 8, 8), num_classes=40, text_width=None, key=("rows",))
    net.grow(80, rng.generator("grown"))
    bound = (reach / 400) ** 0.5
    for rows in (slice(0, 40), slice(40, 80)):
        weight, bias = net.classifier.weight[rows], net.classifier.bias[rows]
        assert 0.99 * bound < weight.abs().max() <= bound
        assert float(weight.std()) == pytest.approx(bound / 3**0.5, rel=0.02)
        if start == "kaiming":
            assert not bias.any()
        else:
            assert 0.8 * bound < bias.abs().max() <= bound


def test_a_classifier_that_starts_as_torchs_is_a_linear_layer_as_it_comes():
    settings = NetSettings(name="mlp", norm="none", head_start="torch")
    net = build_net(settings, shape=(1, 8, 8), num_classes=3, text_width=None, key=("rows",))
    with rng.seeded("rows"):
        BACKBONES["mlp"].build((1, 8, 8), norm="none")
        plain = nn.Linear(400, 3)
    assert torch.equal(net.classifier.weight, plain.weight)
    assert torch.equal(net.classifier.bias, plain.bias)
