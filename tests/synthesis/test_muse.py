"""MUSE's forms against sums by hand, with gradients: sizes, quality, embeddings, and both sums."""

from __future__ import annotations

import math
from dataclasses import replace
from functools import partial
from itertools import combinations, islice

import pytest
import torch
import torch.nn.functional as F
from small_muse import batch, resnet, small, terms_of, unsure
from synthesis_problems import (
    check_batchnorm_is_needed_to_match_it,
    problem_of,
    run_chain,
)
from tiny_net import normal, tiny_net
from torch import nn

from fcil.data import Augment, normalise
from fcil.losses import kl_divergence, masked_adversarial, record_statistics, statistics_distance
from fcil.nets import NoisyGenerator, frozen
from fcil.nets.cam import activation_maps, cells, masked
from fcil.rng import generator, seeded
from fcil.synthesis import Bound, SynthesisProblem
from fcil.synthesis.common.resolutions import (
    SizedGenerator,
    resize,
    scaled,
    shrunk,
    usual_sizes,
)
from fcil.synthesis.common.text_embedding import text_distance
from fcil.synthesis.muse import gradient_norm


@pytest.fixture
def problem() -> SynthesisProblem:
    return problem_of(resnet(), normal(5, 16), bound=Bound())


# Sizes ------------------------------------------------------------------------------------------


def test_usual_sizes_are_below_half_and_above_for_large_images_and_reach_the_whole_for_small_ones():
    assert [usual_sizes(side) for side in (224, 64, 32, 8)] == [(96, 112, 128), (32, 48, 64), (16, 24, 32), (4, 6, 8)]
    assert usual_sizes(1) == (1,)
    assert scaled((3, 12, 8), 6) == (6, 4)
    assert shrunk(Augment(padding=4, flip=True), (16, 16), (3, 32, 32)) == Augment(padding=2, flip=True)


@pytest.mark.parametrize(("own", "new"), [((4, 6), (8, 9)), ((8, 8), (6, 4)), ((1, 3), (5, 3))])
def test_resizing_is_bilinear_and_so_is_its_gradient(own, new):
    x = normal(2, 3, *own).double().requires_grad_()
    ours, expected = resize(x, new), F.interpolate(x, size=new, mode="bilinear")
    assert torch.allclose(ours, expected)
    weight = normal(2, 3, *new, key=1).double()
    slopes = [torch.autograd.grad((t * weight).sum(), x)[0] for t in (ours, expected)]
    assert torch.allclose(slopes[0], slopes[1])
    assert resize(x, own) is x


def made(sides: tuple[int, ...], shape: tuple[int, ...] = (3, 8, 8)) -> SizedGenerator:
    with seeded("sized"):
        return SizedGenerator(normal(5, 16), shape, sides, 10, 8, 4, 5)


def test_one_generator_makes_every_size_with_the_same_weights():
    net, labels = made((4, 6, 8)), torch.arange(10) % 5
    weights = {name: w.clone() for name, w in net.named_parameters()}
    for size in ((4, 4), (6, 6), (8, 8), (5, 7)):
        net.aim(size)
        images = net(labels)
        assert images.shape == (10, 3, *size)
        assert ((images > 0) & (images < 1)).all()
        slopes = torch.autograd.grad(images.sum(), list(net.parameters()))
        assert all(slope.shape == w.shape for slope, w in zip(slopes, weights.values(), strict=True))
    assert all(torch.equal(w, weights[name]) for name, w in net.named_parameters())


def test_at_the_size_it_was_built_for_it_is_nayers_generator():
    for shape, sides in (((3, 8, 8), (4, 8)), ((3, 128, 128), (128,)), ((3, 12, 8), (12,))):
        ours = made(sides, shape)
        with seeded("sized"):
            theirs = NoisyGenerator(normal(5, 16), shape, 10, 8, 4, 5)
        assert ours.state_dict().keys() == theirs.state_dict().keys()
        ours.aim(shape[1:])
        labels = torch.arange(10) % 5
        assert torch.equal(ours(labels), theirs(labels))


def test_large_images_come_from_a_trunk_no_larger_than_the_largest_of_them():
    net = made((96, 112, 128), (3, 224, 224))
    assert net.l1.out_features == 8 * 8 * 8  # twice the width, 128 / 16 squared
    seen: list[tuple[int, ...]] = []
    net.get_submodule("conv3").register_forward_hook(lambda layer, x, y: seen.append(tuple(y.shape[2:])))
    net.aim((112, 112))
    assert net(torch.arange(2)).shape == (2, 3, 112, 112)
    assert seen == [(64, 64)]


# Quality ----------------------------------------------------------------------------------------


def test_the_quality_loss_is_a_cross_entropy_at_every_place():
    votes, labels = normal(2, 3, 2, 4).double().requires_grad_(), torch.tensor([2, 0])
    by_hand = torch.zeros((), dtype=torch.float64)
    for i, y in enumerate(labels):
        for u in range(2):
            for v in range(4):
                z = votes[i, :, u, v] / 0.5
                by_hand = by_hand - (z[y] - z.exp().sum().log()) / (2 * 2 * 4)
    ours = cells(votes, labels, 0.5)
    assert torch.allclose(ours, by_hand)
    slopes = [torch.autograd.grad(t, votes)[0] for t in (ours, by_hand)]
    assert torch.allclose(slopes[0], slopes[1])


def test_a_small_patch_satisfies_the_logits_and_not_every_place():
    even, patch = torch.zeros(1, 2, 4, 4), torch.zeros(1, 2, 4, 4)
    even[:, 1] = 5.0
    patch[:, 1, 0, 0] = 80.0
    labels = torch.tensor([1])
    plain = [F.cross_entropy(votes.mean(dim=(2, 3)), labels).item() for votes in (even, patch)]
    assert plain[0] == pytest.approx(plain[1])
    assert cells(even, labels, 1.0).item() == pytest.approx(plain[0])
    assert cells(patch, labels, 1.0).item() == pytest.approx(math.log(2) * 15 / 16, rel=1e-3)


def test_a_masked_image_is_to_be_of_its_class_and_the_mask_has_no_gradient():
    net, labels = resnet().double().requires_grad_(False), torch.tensor([1, 3])
    x, votes = normal(2, 3, 8, 8).double().requires_grad_(), normal(2, 5, 2, 2).double().requires_grad_()
    masks = []
    for i, y in enumerate(labels):
        own = votes[i, y].detach()
        masks.append(F.interpolate(((own - own.min()) / (own.max() - own.min()))[None, None], (8, 8), mode="bilinear"))
    by_hand = F.cross_entropy(net(x * torch.cat(masks)).logits, labels)
    ours = masked(net, x, votes, labels)
    assert torch.allclose(ours, by_hand, rtol=1e-4)
    slopes = [torch.autograd.grad(t, x, retain_graph=True)[0] for t in (ours, by_hand)]
    assert torch.allclose(slopes[0], slopes[1], rtol=1e-3, atol=1e-7)
    assert torch.autograd.grad(ours, votes, allow_unused=True)[0] is None
    same = torch.ones(2, 5, 2, 2).double()
    assert torch.allclose(masked(net, x, same, labels), F.cross_entropy(net(x).logits, labels))


# Embeddings -------------------------------------------------------------------------------------


def test_the_distance_to_the_text_is_a_mean_over_its_numbers():
    with seeded("P"):
        head = nn.Linear(4, 6).double()
    features, anchors = normal(3, 4).double().requires_grad_(), normal(3, 6, key=2).double().requires_grad_()
    found = text_distance(head, features, anchors)
    for i in range(3):
        e = [head.bias[d] + sum(head.weight[d, k] * features[i, k] for k in range(4)) for d in range(6)]
        assert torch.allclose(found[i], sum((e[d] - anchors[i, d]) ** 2 for d in range(6)) / 6)
    rest = head(features) - anchors
    for wanted, expected in (
        (features, 2 / 6 * rest @ head.weight),
        (head.weight, 2 / 6 * rest.T @ features),
        (head.bias, 2 / 6 * rest.sum(dim=0)),
    ):
        (slope,) = torch.autograd.grad(found.sum(), wanted, retain_graph=True)
        assert torch.allclose(slope, expected)
    assert torch.autograd.grad(found.sum(), anchors, allow_unused=True)[0] is None


def test_new_samples_flee_from_their_text_up_to_the_margin(problem):
    images, labels = batch()
    method = small(cam=0.0, aed=2.0)
    chain = method.start(problem, 0)
    student = chain.student
    x = normalise(images, problem.mean, problem.std)
    away = text_distance(chain.beyond.head, student(x).features, problem.anchors[labels])
    margin = away.mean().item()
    method = replace(method, margin=margin)
    chain = method.start(problem, 0)
    chain.beyond.told = torch.tensor(0.5)
    terms, _ = method.terms(problem, chain, images, labels, adversarial=True, rng=generator(1))
    expected = -2 * torch.stack([d if d < margin else torch.tensor(margin) for d in away]).mean()
    assert torch.allclose(terms["aed"], expected)
    slopes = [torch.autograd.grad(t, images, retain_graph=True)[0] for t in (terms["aed"], expected)]
    assert torch.allclose(slopes[0], slopes[1], atol=1e-7)
    inside = (away < margin).tolist()
    assert [bool(s.any()) for s in slopes[0]] == inside
    assert 0 < sum(inside) < 5


def test_the_margin_is_what_the_student_has_plus_what_classes_have(problem):
    here = replace(problem, labels=(0, 2, 3))
    chain = small().start(here, 0)
    e = problem.anchors[[0, 2, 3]]
    apart = torch.stack([(e[a] - e[b]).square().mean() for a, b in combinations(range(3), 2)]).mean()
    assert torch.allclose(chain.beyond.apart, apart)
    chain.beyond.told = torch.tensor(0.25)
    assert torch.allclose(small().reach(chain), 0.25 + apart)
    assert small(margin=0.125).reach(chain) == 0.125
    assert small().start(replace(problem, labels=(1,)), 0).beyond.apart == 0


def test_the_generator_flees_once_the_student_has_been_told(problem):
    method = small(warmup=1, rounds=3)
    chain = method.start(problem, 0)
    reports = [method.episode(problem, chain, number) for number in range(1, 5)]
    assert ["adv" in report for report in reports] == [False, True, True, True]
    assert ["student_ed" in report for report in reports] == [False, True, True, True]
    assert ["aed" in report for report in reports] == [False, False, True, True]


def test_what_the_student_was_told_is_a_running_mean(problem):
    method = small(ed=2.0)
    chain = run_chain(method, problem, episodes=1)
    means = []
    for number in (2, 3):
        means.append(method.teach(problem, chain, (0, number))["student_ed"] / 2.0)
        expected = means[0] if number == 2 else 0.9 * means[0] + 0.1 * means[1]
        assert torch.allclose(chain.beyond.told, expected)


# Both sums --------------------------------------------------------------------------------------


def test_the_generators_terms_are_weighted(problem):
    images, labels = batch()
    one = terms_of(small(bn=1.0, ce=1.0, adv=1.0, cam=1.0, aed=1.0), problem, images, labels)
    many = terms_of(small(bn=2.0, ce=3.0, adv=4.0, cam=5.0, aed=6.0), problem, images, labels)
    assert one.keys() == {"bn", "ce", "adv", "bound", "cam", "aed"}
    for name, factor in {"bn": 2, "ce": 3, "adv": 4, "bound": 1, "cam": 5, "aed": 6}.items():
        assert torch.allclose(many[name], factor * one[name]), name
        assert torch.autograd.grad(one[name], images, retain_graph=True)[0].any(), name
    x = normalise(images, problem.mean, problem.std)
    with record_statistics(problem.teacher) as statistics:
        out = problem.teacher(x)
    assert torch.allclose(one["bn"], statistics_distance(problem.teacher, statistics))
    assert torch.allclose(one["ce"], F.cross_entropy(out.logits, labels))
    assert torch.allclose(one["adv"], masked_adversarial(unsure(problem.teacher)(x).logits, out.logits))
    assert torch.allclose(one["cam"], cells(activation_maps(problem.teacher, x), labels, 1.0))
    other = terms_of(small(cam=1.0, aed=1.0, cam_form="masked"), problem, images, labels)["cam"]
    assert torch.allclose(other, masked(problem.teacher, x, activation_maps(problem.teacher, x), labels))
    warm = terms_of(small(cam=1.0, aed=1.0, cam_temperature=4.0), problem, images, labels)["cam"]
    assert torch.allclose(warm, cells(activation_maps(problem.teacher, x), labels, 4.0))


def test_a_teacher_that_does_not_pool_has_its_maps_by_gradients():
    images, labels = batch()
    here = problem_of(tiny_net(5), normal(5, 16))
    assert not small().start(here, 0).beyond.pools
    assert small().start(problem_of(resnet(), normal(5, 16)), 0).beyond.pools
    method = small(cam=1.0)
    chain = method.start(here, 0)
    terms, _ = method.terms(here, chain, images, labels, adversarial=False, rng=generator(1))
    votes = activation_maps(here.teacher, normalise(images, here.mean, here.std))
    assert torch.allclose(terms["cam"], cells(votes, labels, 1.0))


def test_open_weights_are_set_once_by_the_pull_of_batchnorm_matching(problem):
    images, labels = batch()
    method = small()
    chain = method.start(problem, 0)
    chain.student = frozen(resnet(key=4))

    def pulls(adversarial: bool) -> dict[str, float]:
        terms, _ = method.terms(problem, chain, images, labels, adversarial=adversarial, rng=generator(1))
        return {name: gradient_norm(term, images).item() for name, term in terms.items()}

    first = pulls(False)
    assert first["cam"] == pytest.approx(0.3 * first["bn"], rel=1e-4)
    weights = dict(chain.beyond.weights)
    images.data.mul_(0.5)
    chain.beyond.told = torch.tensor(0.5)
    later = pulls(True)
    assert later["aed"] == pytest.approx(0.1 * first["bn"], rel=1e-4)  # of the first step, not of this one
    assert chain.beyond.weights["cam"] is weights["cam"]
    assert later["cam"] != pytest.approx(0.3 * later["bn"], rel=1e-2)
    assert chain.beyond.weights.keys() == {"bn", "cam", "aed"}


def test_a_term_without_a_pull_at_first_stays_out(problem):
    images, labels = batch()
    assert terms_of(small(margin=1e-9), problem, images, labels)["aed"] == 0


def test_the_student_learns_what_the_teacher_says_and_where_texts_are(problem):
    method = small(student_steps=1, student_view="native", ed=3.0, temperature=4.0)
    chain = run_chain(method, problem, episodes=1)
    p, twin = chain.beyond.head, resnet()
    before = {name: w.clone() for name, w in p.named_parameters()}
    twin.load_state_dict(chain.student.state_dict())
    streams = generator("k", "student batches"), generator("k", "sizes")
    ((x, y, _),) = islice(method.views(problem, chain, 4, *streams), 1)
    out = twin.train()(x)
    means = method.teach(problem, chain, ("k",))
    kl = kl_divergence(out.logits, problem.teacher(x).logits, 4.0)
    with torch.enable_grad():
        w, b = (before[name].detach().requires_grad_() for name in ("weight", "bias"))
        told = (F.linear(out.features, w, b) - problem.anchors[y]).square().sum(dim=1).mean() / 16
    assert torch.allclose(means["student_kl"], kl)
    assert torch.allclose(means["student_ed"], 3 * told)
    (3 * told + kl).backward()
    for name, slope in (("weight", w.grad), ("bias", b.grad)):
        moved = before[name] - 0.2 * (slope + 1e-4 * before[name])
        assert torch.allclose(p.get_parameter(name), moved, atol=1e-6), name
    stem = twin.backbone.stem.conv.weight
    moved = stem - 0.2 * (stem.grad + 1e-4 * stem)
    assert torch.allclose(chain.student.backbone.stem.conv.weight, moved, atol=1e-5)
    assert not chain.student.training
    assert not any(parameter.requires_grad for parameter in (*p.parameters(), *chain.student.parameters()))


def test_batchnorm_is_needed_where_it_is_matched_alone():
    check_batchnorm_is_needed_to_match_it(partial(small, cam=0.1, aed=0.0))
