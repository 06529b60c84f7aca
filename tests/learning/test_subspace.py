"""Sketches of layer inputs against the inputs laid out, and projections by hand."""

from __future__ import annotations

import pytest
import torch
import torch.nn.functional as F
from scripted_roles import gradient
from tiny_net import normal, tiny_net
from torch import Tensor, nn

from fcil.rng import seeded
from fcil.subspace import as_rows, away, from_rows, joined, linear_layers, principal, record_sketches, sketch


@pytest.fixture(autouse=True)
def _double():
    torch.set_default_dtype(torch.float64)
    yield
    torch.set_default_dtype(torch.float32)


def stream(key: int = 7) -> torch.Generator:
    return torch.Generator().manual_seed(key)


def spans(basis: Tensor) -> Tensor:
    return basis @ basis.T


# Sketches --------------------------------------------------------------------------------------


@pytest.mark.parametrize("bias", [False, True])
def test_a_linear_layers_sketch_is_its_inputs_times_the_random_numbers(bias):
    layer, x = nn.Linear(4, 2, bias=bias), normal(3, 5, 4).double()  # rows of rows, as tokens are
    inputs = x.reshape(15, 4).T
    if bias:
        inputs = torch.cat([inputs, torch.ones(1, 15)])
    g = torch.randn(15, 6, generator=stream())
    assert torch.allclose(sketch(layer, x, 6, stream()), inputs @ g)


@pytest.mark.parametrize("bias", [False, True])
@pytest.mark.parametrize("how", [{}, {"stride": 2, "padding": 1}, {"padding": 2, "dilation": 2}])
def test_a_convolutions_sketch_is_its_patches_times_the_random_numbers(how, bias):
    layer, x = nn.Conv2d(2, 5, 3, bias=bias, **how), normal(3, 2, 6, 6).double()
    patches = F.unfold(x, 3, **how)  # (B, c k k, positions)
    g = torch.randn(3, 4, *layer(x).shape[2:], generator=stream()).flatten(2)  # (B, r, positions)
    expected = torch.einsum("bdp,brp->dr", patches, g)
    if bias:
        expected = torch.cat([expected, g.sum(dim=(0, 2))[None]])
    assert torch.allclose(sketch(layer, x, 4, stream()), expected)


def test_the_weight_of_a_convolution_meets_patches_in_the_order_of_a_sketch():
    layer, x = nn.Conv2d(2, 3, 2), normal(1, 2, 2, 2).double()  # one patch
    found = sketch(layer, x, 1, stream())
    g = found[-1]  # the bias's input is one
    rows = as_rows(layer.weight, layer.bias)
    assert torch.allclose(rows @ (found / g), layer(x).reshape(3, 1))


@pytest.mark.parametrize(
    ("layer", "shape"),
    [
        (nn.Conv2d(4, 4, 3, groups=2, bias=True), (2, 4, 5, 5)),
        (nn.Conv2d(4, 4, 3, groups=4, padding="same", padding_mode="reflect"), (2, 4, 5, 5)),
        (nn.Conv1d(2, 3, 3, bias=False), (2, 2, 7)),
        (nn.Conv3d(1, 2, 2), (2, 1, 3, 3, 3)),
    ],
)
def test_what_is_orthogonal_to_a_whole_sketch_does_not_change_the_answers(layer, shape):
    layer = layer.double()
    x = normal(*shape[:-1], 1).double().expand(shape)  # alike along a line, so some directions are free
    rows = as_rows(layer.weight.detach(), None if layer.bias is None else layer.bias.detach())
    basis = principal(sketch(layer, x, 64, stream()), 0.0)
    assert 0 < basis.shape[1] < rows.shape[1]
    before, start = layer(x), rows.clone()
    moved = rows + away(normal(*rows.shape, key=3).double(), basis)
    weight, bias = from_rows(moved, layer.weight, layer.bias)
    with torch.no_grad():
        layer.weight.copy_(weight)
        if bias is not None:
            layer.bias.copy_(bias)
    assert not torch.allclose(moved, start)
    assert torch.allclose(layer(x), before, atol=1e-9)


def test_sketches_of_parts_add_up_and_estimate_the_second_moment():
    net = tiny_net(3).double().eval()
    x = normal(8, 3, 6, 6).double()
    with torch.no_grad(), record_sketches(net, 4000, stream()) as parts:
        net(x[:5])
        net(x[5:])
    assert parts.keys() == {"backbone.conv", "text_head", "classifier"} == linear_layers(net).keys()
    patches = F.unfold(x, 3, padding=1).transpose(0, 1).flatten(1)
    for name, inputs in (
        ("backbone.conv", patches),
        ("classifier", torch.cat([net(x).features.T, torch.ones(1, 8)]).detach()),
    ):
        moment, found = inputs @ inputs.T, parts[name] @ parts[name].T / 4000
        assert (found - moment).norm() < 0.1 * moment.norm()
    known = parts["classifier"].clone()
    net(x)  # after the block nothing is recorded
    assert torch.equal(parts["classifier"], known)


def test_a_layer_that_is_not_called_has_no_sketch_and_the_generator_decides_the_rest():
    net = nn.Sequential(nn.Linear(3, 3), nn.ReLU())
    net.add_module("aside", nn.Linear(2, 2))
    x, found = normal(4, 3).double(), []
    for key in (1, 1, 2):
        with record_sketches(net, 2, stream(key)) as sketches:
            net[0](x)
        assert sketches.keys() == {"0"}
        found.append(sketches["0"])
    assert torch.equal(found[0], found[1])
    assert not torch.equal(found[0], found[2])


def test_a_sketch_takes_no_part_in_gradients():
    layer, x = nn.Linear(3, 2), normal(4, 3).double().requires_grad_()
    with record_sketches(nn.Sequential(layer), 5, stream()) as sketches:
        total = layer(x).sum()
    assert not sketches["0"].requires_grad
    assert torch.equal(gradient(total, layer.weight), x.sum(dim=0).detach().expand(2, 3))
    assert not sketch(nn.Conv2d(1, 1, 2), normal(1, 1, 3, 3).double().requires_grad_(), 2, stream()).requires_grad


# Principal vectors -----------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("allowed", "least", "count"), [(0.0, 0, 3), (0.9, 0, 3), (1.0, 0, 2), (5.0, 0, 1), (14.0, 0, 0), (99.0, 1, 1)]
)
def test_the_fewest_vectors_leave_no_more_than_is_allowed(allowed, least, count):
    found = torch.diag(torch.tensor([3.0, 2.0, 1.0]))[:, [1, 0, 2]]  # energies 9, 4 and 1
    basis = principal(found, allowed, least)
    assert basis.shape == (3, count)
    assert torch.allclose(spans(basis), torch.diag((torch.arange(3) < count).double()))


def test_rounding_is_not_a_direction_and_nothing_has_none():
    flat = torch.tensor([[1.0], [2.0], [2.0]]) @ torch.ones(1, 5)
    assert principal(flat + 1e-9 * normal(3, 5).double(), 0.0).shape == (3, 1)
    assert principal(torch.zeros(3, 5), 0.0, least=1).shape == (3, 0)


def test_bases_join_to_an_orthonormal_one():
    first, second = torch.tensor([[1.0], [0], [0]]), torch.tensor([[1.0], [1], [0]])
    basis = joined(first, second)
    assert torch.allclose(basis.T @ basis, torch.eye(2))
    assert torch.allclose(spans(basis), torch.diag(torch.tensor([1.0, 1, 0])))
    assert torch.allclose(spans(joined(None, second)), second @ second.T / 2)
    assert joined(basis, torch.eye(3)[:, :2]).shape == (3, 3)  # no more than there is room for


# Projections -----------------------------------------------------------------------------------


def test_a_change_keeps_what_is_orthogonal_to_the_basis():
    basis = torch.tensor([[0.6], [0.8], [0.0]])
    change = torch.tensor([[1.0, 0, 5], [0.6, 0.8, 0]], requires_grad=True)
    left = away(change, basis)
    assert torch.allclose(left, torch.tensor([[0.64, -0.48, 5], [0, 0, 0]]))
    assert torch.allclose(away(left, basis), left)
    weights = torch.tensor([[1.0, 2, 3], [4, 5, 6]])
    expected = torch.stack([row - basis[:, 0] * (row @ basis[:, 0]) for row in weights])  # the map is its own transpose
    assert torch.allclose(gradient((left * weights).sum(), change), expected)


@pytest.mark.parametrize("bias", [False, True])
def test_rows_and_back(bias):
    with seeded("rows"):
        layer = nn.Conv2d(2, 3, 2, bias=bias)
    rows = as_rows(layer.weight, layer.bias)
    assert rows.shape == (3, 8 + bias)
    weight, again = from_rows(rows, layer.weight, layer.bias)
    assert torch.equal(weight, layer.weight)
    assert (again is None) if not bias else torch.equal(again, layer.bias)
