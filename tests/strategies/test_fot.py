"""FOT by hand: what a client sends, what a basis gains, and what is left of a change; whole runs forget little."""

from __future__ import annotations

import pytest
import torch
import torch.nn.functional as F
from scripted_roles import check_runs, client_of, gradient, server_of, shard_of, tiny
from small_runs import checkpoint, play
from tiny_net import normal, tiny_net
from torch import Tensor

from fcil import Batch, Update
from fcil.config import Where, parse
from fcil.errors import ConfigError
from strategies.fot import FOT, SIDES

AXES = torch.eye(4)


def spans(basis: Tensor) -> Tensor:
    return basis @ basis.T


def sent(columns: Tensor, whole: float | None = None, examples: int = 1) -> Update:
    """What a client with this residual sketch for one layer `l` says; `whole` is the energy before."""
    rest = columns.square().sum()
    return Update({"sketch/l": columns, "energy/l": torch.stack([rest, torch.tensor(whole or float(rest))])}, examples)


# On a client -----------------------------------------------------------------------------------


@pytest.mark.parametrize("classes", ["new", "seen"])
def test_the_loss_and_its_gradient_by_hand(classes):
    net, batch = tiny_net(5, text_width=None), Batch(normal(4, 3, 6, 6), torch.tensor([2, 3, 4, 2]))
    client = client_of(net, shard_of([2, 3, 4]), old=2)
    terms = FOT(classes=classes).local_loss(client, batch)
    assert terms.keys() == {"ce"}
    out = net(batch.x)
    old = 2 if classes == "new" else 0
    assert torch.allclose(terms["ce"], F.cross_entropy(out.logits[:, old:], batch.y - old))
    p = torch.zeros(4, 5)
    p[:, old:] = out.logits[:, old:].softmax(dim=1)
    expected = (p - F.one_hot(batch.y, 5)).T @ out.features / 4
    assert torch.allclose(gradient(terms["ce"], net.classifier.weight), expected, atol=1e-6)
    assert bool(expected[:2].any()) == (classes == "seen")


def test_the_sketch_lies_in_the_span_of_the_clients_inputs():
    net = tiny_net(3, text_width=None)
    client = client_of(net, shard_of([0, 2]))
    update = FOT(sketch=50).after_local_task(client)
    assert update.weights.keys() == {f"{kind}/{name}" for kind in ("sketch", "energy") for name in names()}
    assert update.num_examples == 2
    assert update.weights["sketch/backbone.conv"].shape == (27, 50)
    found = update.weights["sketch/classifier"].double()  # (features + bias, r)
    net.eval()
    f = net(client.shard.x(torch.arange(2))).features.detach().double()
    inputs = torch.cat([f, torch.ones(2, 1)], dim=1)  # (2, d)
    basis, _ = torch.linalg.qr(inputs.T)
    assert (found - spans(basis) @ found).norm() < 1e-5 * found.norm()
    assert torch.linalg.matrix_rank(found, rtol=1e-4) == 2
    assert update.weights["energy/classifier"].tolist() == pytest.approx([float(found.square().sum())] * 2)
    assert float(found.square().sum()) / 50 == pytest.approx(float(inputs.square().sum()), rel=0.5)


def names() -> tuple[str, ...]:
    return "backbone.conv", "classifier"


def test_what_the_basis_holds_already_does_not_leave_the_client():
    def update(bases: dict[str, Tensor]) -> Update:
        client = client_of(tiny_net(3, text_width=None), shard_of([0, 2, 1]), shared={"bases": bases})
        return FOT(sketch=6).after_local_task(client)

    basis, _ = torch.linalg.qr(normal(9, 3))
    whole, rest = update({}), update({"classifier": basis})
    first, second = whole.weights["sketch/classifier"], rest.weights["sketch/classifier"]
    assert torch.allclose(second, first - basis @ (basis.T @ first), atol=1e-4)
    energies = [float(second.square().sum()), float(first.square().sum())]
    assert rest.weights["energy/classifier"].tolist() == pytest.approx(energies, rel=1e-4)
    assert torch.equal(whole.weights["sketch/backbone.conv"], rest.weights["sketch/backbone.conv"])


def test_few_images_stand_for_all():
    def energy(images: int | None) -> float:
        client = client_of(tiny_net(3, text_width=None), shard_of([0, 1, 2] * 20))
        update = FOT(sketch=3000, images=images).after_local_task(client)
        assert update.num_examples == 60
        return float(update.weights["energy/classifier"][1])

    assert energy(20) == pytest.approx(energy(None), rel=0.2)
    assert energy(60) == energy(61) != energy(20)


def test_who_has_nothing_says_nothing_and_the_last_task_is_not_sketched():
    assert FOT().after_local_task(client_of(tiny_net(3), shard_of([]))) is None
    update = FOT(sketch=3).after_local_task(client_of(tiny_net(3), shard_of([1])))
    assert update.num_examples == 1
    assert all(t.isfinite().all() for t in update.weights.values())
    last = client_of(tiny_net(3), shard_of([2]), old=2)
    last.task = type(last.task)(3, 3, 2, 1, last.task.names)
    assert FOT().after_local_task(last) is None


def test_sketching_leaves_the_net_as_it_is():
    client = client_of(tiny_net(3).train(), shard_of([0, 1, 2, 1]))
    first = FOT(sketch=3).after_local_task(client)
    assert all(torch.equal(client.start[name], w) for name, w in client.net.weights().items())
    again = FOT(sketch=3).after_local_task(client_of(tiny_net(3), shard_of([0, 1, 2, 1])))
    assert all(torch.equal(first.weights[name], t) for name, t in again.weights.items())


# Normalisation ---------------------------------------------------------------------------------


@pytest.mark.parametrize(("old", "how", "still"), [(2, "freeze", True), (2, "train", False), (0, "freeze", False)])
def test_normalisation_stays_after_the_first_task(old, how, still):
    net = tiny_net(4)
    client = client_of(net, shard_of([2, 3, 2, 3, 2]), old=old)
    update = FOT(batchnorm=how).local_train(client)
    sent_norms = {name for name in update.weights if name.startswith("backbone.bn")}
    assert sent_norms == (set() if still else {name for name in client.start if name.startswith("backbone.bn")})
    moved = [name for name, w in net.weights().items() if not torch.equal(w, client.start[name])]
    assert any(name.startswith("backbone.bn") for name in moved) != still
    assert "backbone.conv.weight" in moved
    assert net.training
    assert net.backbone.bn.training != still


def test_frozen_statistics_are_those_that_are_trained_with():
    net, batch = tiny_net(4), Batch(normal(3, 3, 6, 6), torch.tensor([2, 3, 3]))
    net.train()  # as a round begins
    client = client_of(net, shard_of([2, 3]), old=2)
    term = FOT().local_loss(client, batch)["ce"]
    net.eval()
    assert torch.allclose(term, F.cross_entropy(net(batch.x).logits[:, 2:], batch.y - 2))


# On the server ---------------------------------------------------------------------------------


def test_a_basis_is_that_of_the_sum_of_sketches():
    server = server_of(tiny_net(2))
    ups = [sent(3 * AXES[:, :2]), sent(torch.stack([torch.zeros(4), 2 * AXES[1]], dim=1))]
    for threshold, first in ((0.7, 0.0), (0.8, 1.0)):  # energies: 9 along the first axis, 25 along the second
        FOT(threshold=threshold).after_task(server, iter(ups))
        basis = server.shared.pop("bases")["l"]
        assert torch.allclose(spans(basis), torch.diag(torch.tensor([first, 1, 0, 0])), atol=1e-6)
        assert basis.dtype == torch.float32


@pytest.mark.parametrize(
    ("whole", "count"),
    [(10.0, 2), (40.0, 1), (100.0, 0)],  # 10 % of it may be left out; the residual has 7, 2 and 1
)
def test_a_later_task_adds_what_is_missing_to_the_share(whole, count):
    server = server_of(tiny_net(4), task=2, old=2)
    server.shared["bases"] = {"l": AXES[:, 3:]}
    residual = torch.diag(torch.tensor([7.0, 2, 1, 0]).sqrt())
    FOT(threshold=0.9, rise=0.0).after_task(server, [sent(residual, whole)])
    expected = torch.diag(torch.tensor([1.0] * count + [0.0] * (3 - count) + [1.0]))
    assert torch.allclose(spans(server.shared["bases"]["l"]), expected, atol=1e-6)


def gained(strategy: FOT, updates: list[Update], task: int = 1) -> int:
    """How many vectors the basis of the layer gains from nothing."""
    server = server_of(tiny_net(4), task=task, tasks=10)
    strategy.after_task(server, updates)
    return server.shared["bases"]["l"].shape[1]


def test_the_codes_rule_takes_shares_of_norms_and_one_vector_at_least():
    residual = torch.diag(torch.tensor([7.0, 2, 1, 0]).sqrt())
    strategy = FOT(threshold=0.9, rise=0.0, outside="norm")
    assert gained(strategy, [sent(residual, 40.0)]) == 2  # rho = sqrt(10 / 40): 0.1 / 0.5 of 10 may be left out
    assert gained(strategy, [sent(residual, 1e6)]) == 1
    # Clients count by their examples: rho = (1 * 1 + 9 * 0.1) / 10 = 0.19, so 0.1 / 0.19 of 10 may be left out.
    nothing = Update({"sketch/l": torch.zeros(4, 4), "energy/l": torch.tensor([1.0, 100.0])}, 9)
    assert gained(strategy, [sent(residual), nothing]) == 1
    assert gained(strategy, [sent(residual, examples=9), nothing]) == 2  # 0.1 / 0.55


def test_the_share_rises_from_task_to_task_up_to_one():
    residual = torch.diag(torch.tensor([7.0, 2, 0.9, 0.1]).sqrt())
    strategy = FOT(threshold=0.85, rise=0.1)
    assert [gained(strategy, [sent(residual)], task) for task in (1, 2, 3, 9)] == [2, 3, 4, 4]


def test_a_layer_without_inputs_gains_nothing_and_spoils_nothing():
    for outside in ("energy", "norm"):
        server = server_of(tiny_net(2))
        FOT(outside=outside).after_task(server, [sent(torch.zeros(4, 2))])
        assert server.shared["bases"] == {}


def test_when_nobody_answers_the_bases_stay_and_the_last_task_makes_none():
    server = server_of(tiny_net(4), task=2, old=2)
    server.shared["bases"] = {"l": AXES}
    FOT().after_task(server, [])
    assert server.shared["bases"]["l"] is AXES
    last = server_of(tiny_net(4), task=3, old=2)
    FOT().after_task(last, [sent(AXES)])
    assert last.shared == {}


def test_the_mean_change_is_projected_and_new_rows_are_free():
    net = tiny_net(4, text_width=None)
    server, before = server_of(net, task=2, old=2), net.weights()
    patch, feature = normal(27, key=4), normal(9, key=5)
    server.shared["bases"] = {
        "backbone.conv": F.normalize(patch, dim=0)[:, None],
        "classifier": F.normalize(feature, dim=0)[:, None],
    }
    changes = [{name: normal(*w.shape, key=k) for name, w in before.items() if w.dim()} for k in (1, 2)]
    first, second = ({name: before[name] + c for name, c in change.items()} for change in changes)
    ups = [Update(first, 1), Update(second, 3)]
    mean = FOT().aggregate(server, ups)
    after = net.weights()
    moved = {name: (changes[0][name] + 3 * changes[1][name]) / 4 for name in changes[0]}
    assert torch.allclose(mean.weights["classifier.weight"], before["classifier.weight"] + moved["classifier.weight"])

    def rows(weights: dict[str, Tensor], name: str) -> Tensor:
        both = [weights[f"{name}.weight"].flatten(1)]
        return torch.cat([*both, *(weights[k][:, None] for k in [f"{name}.bias"] if k in weights)], dim=1)

    for name, x, held in (("backbone.conv", patch, 8), ("classifier", feature, 2)):
        got, wanted = rows(after, name) - rows(before, name), rows(moved, name)
        part = (wanted @ x)[:, None] * x / x.square().sum()
        assert torch.allclose(got[:held], (wanted - part)[:held], atol=1e-5)
        assert torch.allclose(got[held:], wanted[held:], atol=1e-5)
        assert torch.allclose(rows(after, name)[:held] @ x, rows(before, name)[:held] @ x, atol=1e-4)
        assert (wanted[:held] @ x).abs().max() > 0.1
    for name in ("backbone.bn.weight", "backbone.bn.running_mean"):
        assert torch.allclose(after[name], before[name] + moved[name], atol=1e-6)


def test_in_the_first_task_the_mean_is_taken_as_it_is_and_parts_may_be_missing():
    net = tiny_net(3)
    server, before = server_of(net), net.weights()
    FOT(weighting="uniform").aggregate(
        server, [Update({"classifier.bias": torch.full((3,), v)}, 9) for v in (1.0, 3.0)]
    )
    assert net.classifier.bias.tolist() == [2.0] * 3
    assert torch.equal(net.backbone.conv.weight, before["backbone.conv.weight"])


def test_a_trained_net_answers_old_images_as_before():
    """The whole way: sketch the old images, train on others, project; the logits of old classes stay."""
    net = tiny_net(2, text_width=None)
    old, new = shard_of([0, 1, 0, 1]), shard_of([2, 3] * 8, key=1)
    images = old.x(torch.arange(4))
    strategy, server = FOT(threshold=1.0, sketch=64), server_of(net)
    strategy.after_task(server, [strategy.after_local_task(client_of(net, old))])
    assert server.shared["bases"]["classifier"].shape == (9, 4)
    net.eval()
    before = net(images).logits.detach()
    net.grow(4, torch.Generator().manual_seed(0))
    later = server_of(net, task=2, old=2)
    later.shared = server.shared
    own = client_of(tiny_net(4, text_width=None), new, old=2, local_epochs=5)
    own.net.load(net.weights())
    update = strategy.local_train(own)
    own.net.eval()
    assert (own.net(images).logits[:, :2] - before).abs().max() > 1e-2
    strategy.aggregate(later, [update])
    net.eval()
    assert torch.allclose(net(images).logits[:, :2], before, atol=1e-4)
    assert not torch.equal(net.classifier.weight[2:], own.start["classifier.weight"][2:])


# Settings --------------------------------------------------------------------------------------


@pytest.mark.parametrize("name", SIDES)
@pytest.mark.parametrize(("fidelity", "column"), [("paper", 0), ("reference", 1)])
def test_an_open_field_takes_the_side_and_a_chosen_one_wins(name, fidelity, column):
    assert getattr(FOT(), name) is None
    assert getattr(FOT(fidelity=fidelity).settled, name) == SIDES[name][column]
    other = SIDES[name][1 - column]
    chosen = parse(FOT, {"fidelity": fidelity, name: other}, Where("e.yaml"))
    assert getattr(chosen.settled, name) == other


@pytest.mark.parametrize(("field", "value"), [("threshold", 0), ("threshold", 1.1), ("sketch", 0), ("rise", -0.1)])
def test_what_makes_no_sense_is_refused(field, value):
    with pytest.raises(ConfigError, match=rf"{field}: -?[\d.]+ is not allowed"):
        FOT.parse({field: value}, Where("e.yaml"))


# Whole runs ------------------------------------------------------------------------------------


@pytest.mark.parametrize("fidelity", ["paper", "reference"])
def test_whole_runs_are_finite_repeatable_and_resumable(tmp_path, fidelity):
    run = check_runs(tmp_path, {"fot": {"fidelity": fidelity, "sketch": 8}})
    assert [set(record["terms"]) for record in run.rounds] == [{"ce"}] * 3


def test_bases_of_clients_that_are_seldom_drawn_are_orthonormal(tmp_path):
    (run,) = play(tiny(tmp_path, {"fot": {"sketch": 16}}, clients=10, fraction=0.3, rounds=1), out=tmp_path)
    bases = {n: t for n, t in checkpoint(run)[0].items() if n.startswith("shared/bases/")}
    assert {"shared/bases/backbone.stem.conv", "shared/bases/classifier"} <= bases.keys()
    for basis in bases.values():
        assert torch.allclose(basis.T @ basis, torch.eye(basis.shape[1]), atol=1e-5)
